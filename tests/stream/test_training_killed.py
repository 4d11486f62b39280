"""A training over several ranks that is killed goes on, with any number of ranks, with the samples that come next.

Budget: 40 s on two cores; the slow ones 4 minutes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.order import Order
from factory.recipe import load
from tests.stream.small import agent_store, amplitudes, recipe_in, told
from tests.stream.training_target import begin, last_checkpoint

PROCESSES = multiprocessing.get_context("forkserver")
BATCH, SEED, EPOCHS = 12, 6, 3  # eight batches an epoch
STARTED: set[int] = set()  # ids of our processes


@pytest.fixture(scope="module", autouse=True)
def _one_import_for_all_ranks() -> Iterator[None]:
    PROCESSES.set_forkserver_preload(["tests.stream.training_target"])
    yield
    forkserver._forkserver._stop()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return amplitudes(load(recipe_in(tmp_path_factory.mktemp("recipe"))))


class Run:
    """The ranks of one training; all of them end with it."""

    def __init__(self, world: int, settings: dict[str, Any]) -> None:
        self.settings, self.folder = settings, Path(settings["folder"])
        self.store, given = agent_store(world)
        self.ranks = []
        for rank in range(world):
            own = given | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.ranks.append(PROCESSES.Process(target=begin, args=(settings, own)))
            self.ranks[-1].start()
        self.pids = [process.pid for process in self.ranks]
        STARTED.update(self.pids)

    def steps(self, rank: int) -> list[tuple[int, list[float]]]:
        path = self.folder / f"{self.settings['run']}-{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]

    def said(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob(f"{self.settings['run']}-*.log"))

    def wait_for_step(self, step: int) -> None:
        until = time.monotonic() + 90
        while not any(found >= step for found, _ in self.steps(0)):
            assert time.monotonic() < until, self.said()
            assert all(process.exitcode is None for process in self.ranks), self.said()
            time.sleep(0.01)

    def note_workers(self) -> None:
        for pid in self.pids:
            STARTED.update(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def kill(self) -> None:
        self.note_workers()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for process in self.ranks:
            process.join(30)
            assert process.exitcode == -signal.SIGKILL, f"it was not killed in the middle: {self.said()}"

    def finish(self) -> None:
        for process in self.ranks:
            process.join(120)
        assert [process.exitcode for process in self.ranks] == [0] * len(self.ranks), self.said()

    def close(self) -> None:
        for process in self.ranks:
            if process.exitcode is None:
                process.kill()
            process.join(30)
            process.close()

    def samples(self, known: np.ndarray) -> dict[int, list[int]]:
        """The samples of each step, all ranks together, whatever their order in it."""
        steps: dict[int, list[int]] = {}
        for rank in range(len(self.ranks)):
            for step, taken in self.steps(rank):
                steps.setdefault(step, []).extend(told(taken, known))
        return {step: sorted(taken) for step, taken in sorted(steps.items())}


def undisturbed(accumulate: int = 1) -> dict[int, list[int]]:
    """The samples of each step of one process that nobody stopped."""
    order = Order(101, BATCH, SEED)
    batches = [order.batch_at(epoch, number)[0].tolist() for epoch in range(EPOCHS) for number in range(len(order))]
    return {k // accumulate + 1: sorted(i for batch in batches[k : k + accumulate] for i in batch)
            for k in range(0, len(batches), accumulate)}


def settings_for(folder: Path, **options: Any) -> dict[str, Any]:
    return {"folder": str(folder), "recipe": str(recipe_in(folder)), "batch": BATCH, "seed": SEED, "epochs": EPOCHS,
            "kind": "stream", "run": "first", "pause": 0.02, "every": 3, "accumulate": 1, "micro_batch": None,
            "workers": 0} | options


def killed(folder: Path, step: int, world: int, known: np.ndarray, **options: Any) -> dict[int, list[int]]:
    """Train, kill all ranks after a step, and return what the steps until the last checkpoint learned from."""
    run = Run(world, settings_for(folder, **options))
    try:
        run.wait_for_step(step)
        while last_checkpoint(folder) is None:  # the first one may still be on its way
            run.wait_for_step(step)
            time.sleep(0.01)
        run.kill()
        found = run.samples(known)
    finally:
        run.close()
    saved = last_checkpoint(folder)
    assert saved is not None
    until = int(saved.stem.partition("=")[2])
    assert step - options.get("every", 3) <= until <= max(found) + 1
    return {number: samples for number, samples in found.items() if number <= until}


def resumed(folder: Path, world: int, known: np.ndarray, **options: Any) -> dict[int, list[int]]:
    run = Run(world, settings_for(folder, run=f"on {world}", pause=0, **options))
    try:
        run.finish()
        return run.samples(known)
    finally:
        run.close()


def goes_on(folder: Path, known: np.ndarray, step: int, worlds: tuple[int, int], **options: Any) -> None:
    """Killed after a step and resumed in another world: each step has the samples of the run that nobody stopped."""
    folder.mkdir(exist_ok=True)
    before = killed(folder, step, worlds[0], known, **options)
    after = resumed(folder, worlds[1], known, **options)
    assert not set(before) & set(after)
    wanted = undisturbed(options.get("accumulate", 1))
    assert before | after == wanted
    assert list(before | after) == list(wanted)


def ours_in_shared_memory() -> list[str]:
    """What processes that are no more have left."""
    found = {name: set(map(int, re.findall(r"\d+", name))) for name in os.listdir("/dev/shm")}
    return [name for name, numbers in found.items() if numbers & STARTED]


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    yield
    until = time.monotonic() + 20
    while (left := ours_in_shared_memory() + [f"process {pid}" for pid in STARTED if Path(f"/proc/{pid}").exists()]):
        assert time.monotonic() < until, left
        time.sleep(0.2)
    STARTED.clear()


@pytest.mark.parametrize(("kind", "worlds", "options"), [
    ("training", (2, 1), {"micro_batch": 2}),
    ("training", (2, 4), {"micro_batch": 2}),
    ("loader", (2, 1), {"workers": 1}),
    ("loader", (2, 4), {"workers": 0, "accumulate": 2, "every": 1}),
    ("stream", (2, 1), {}),
])
def test_killed_and_resumed_in_another_world(known: np.ndarray, tmp_path: Path, kind: str, worlds: tuple[int, int],
                                             options: dict[str, Any]) -> None:
    last = 24 // options.get("accumulate", 1)
    step = random.Random(f"{kind} {worlds}").randrange(4, last - 4)
    goes_on(tmp_path, known, step, worlds, kind=kind, **options)


@pytest.mark.slow
@pytest.mark.parametrize("worlds", [(2, 1), (2, 4), (1, 3), (3, 2)])
@pytest.mark.parametrize("kind", ["training", "loader"])
def test_killed_at_any_step(known: np.ndarray, tmp_path: Path, kind: str, worlds: tuple[int, int]) -> None:
    for turn, step in enumerate(random.sample(range(4, 21), 4)):
        options = {"micro_batch": random.choice([None, 1, 2]), "workers": random.choice([0, 1]),
                   "every": random.choice([1, 3, 4])}
        print(kind, worlds, step, options)
        goes_on(tmp_path / str(turn), known, step, worlds, kind=kind, **options)


def test_killed_again_and_again(known: np.ndarray, tmp_path: Path) -> None:
    found: dict[int, list[int]] = {}
    for step, world in ((5, 2), (11, 3), (17, 1)):
        found |= killed(tmp_path, step, world, known, kind="training", micro_batch=3, run=f"to {step}")
    assert found | resumed(tmp_path, 2, known, kind="training", micro_batch=3) == undisturbed()
