"""kill -9 of a running make at random moments: the finished store has the bytes of one that nobody disturbed.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from factory.recipe import load
from factory.store import IncompleteStore, NoStore, materialise, read_layout, status
from factory.store.drop import Drop

KILLS = 20
LARGER = {"train": 411, "test": 37}
RECIPE = """\
about: many small shards
seed: 11
shard: 4
splits:
  train: {samples: 300}
  test: {samples: 30}
draw:
  t1: {uniform: [300 ms, 3 s]}
  t2: {uniform: [10 ms, t1]}
  b1: {uniform: [0.7, 1.3]}
  sigma: {loguniform: [0.005, 0.05]}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 8}
  - noise.rician: {as: {measured: noisy}}
keep: [noisy, t2]
corner: {n_echo: 4, samples: 6}
"""


class Runs:
    """Makes of one recipe, each in a process of its own."""

    def __init__(self, folder: Path):
        recipe = folder / "many.yaml"
        recipe.write_text(RECIPE)
        target = Path(__file__).with_name("kill_target.py")
        place = os.environ | {"PYTHONPATH": str(target.parents[1])}
        self.server = subprocess.Popen([sys.executable, str(target), str(recipe), json.dumps(LARGER)], text=True,
                                       env=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def start(self, do: str, store: Path, threads: int = 1, **more: Any) -> int:
        """Begin to make, repair, extend or finalise a store; the process's number."""
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps({"do": do, "store": str(store), "threads": threads} | more) + "\n")
        self.server.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        """The wait status of what was started: 0 when it finished, 9 when a kill came first."""
        return int(self._line())

    def run(self, do: str, store: Path, threads: int = 1, killed_after: float | None = None, **more: Any) -> int:
        """`start`, perhaps a kill, and `end`."""
        child = self.start(do, store, threads, **more)
        if killed_after is not None:
            time.sleep(killed_after)
            with suppress(ProcessLookupError):  # it finished first
                os.kill(child, signal.SIGKILL)
        return self.end()

    def close(self) -> None:
        """No more orders."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)
        self.server.stdout.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    try:
        yield made
    finally:
        made.close()


def tree(store: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder of a store, without its log."""
    paths = {p.relative_to(store).as_posix(): p for p in store.rglob("*")}
    return {n: p.read_bytes() if p.is_file() else None for n, p in paths.items() if not n.startswith(".factory/log")}


def met(store: Path) -> str:
    """What a kill left; the store must be readable as what it is, never as finished when it is not."""
    found = status(store)
    assert found.code in (0, 2, 10), found.sentence
    if found.code == 0:
        return "finished"
    with pytest.raises((IncompleteStore, NoStore)):
        read_layout(store, "train")
    if found.code == 10:
        return "nothing"
    left = list((store / ".factory/partial").glob("*/*"))
    done = sum(s.committed for s in found.splits)
    total = sum(s.shards for s in found.splits)
    where = "no shard" if done == 0 else "all shards" if done == total else "some shards"
    return f"{where}, {'temporary files' if left else 'clean'}"


def test_killed_anywhere_the_store_is_the_same(runs: Runs, tmp_path: Path) -> None:
    seed = int(os.environ.get("FACTORY_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FACTORY_KILL_SEED={seed}")
    chance = random.Random(seed)
    began = time.perf_counter()
    assert runs.run("make", tmp_path / "undisturbed") == 0
    whole = time.perf_counter() - began
    expected = tree(tmp_path / "undisturbed")

    kills, stores, found = 0, 0, Counter[str]()
    while kills < KILLS:
        stores += 1
        store, left = tmp_path / f"store_{stores}", whole
        for _ in range(4):  # then it may finish: the early, the middle and the last moments all get their kills
            moment = chance.uniform(0, left)
            before = time.perf_counter()
            if runs.run("make", store, chance.choice([1, 2]), moment) != signal.SIGKILL:
                break
            kills += 1
            left = max(0.05, left - (time.perf_counter() - before))
            found[met(store)] += 1
        assert runs.run("make", store) == 0
        assert tree(store) == expected, f"FACTORY_KILL_SEED={seed}, store {stores}"
    print(f"{kills} kills on {stores} stores, {whole:.1f} s undisturbed; they left {dict(found)}")
    assert found["finished"] < kills, "no kill fell on the work"
    strangers = {p.name for p in tmp_path.iterdir() if p.name.startswith("store_") and ".init-" not in p.name}
    assert strangers == {f"store_{k + 1}" for k in range(stores)}


class Stopped(BaseException):
    """What a kill is to the code after it: nothing of it runs."""


def test_stopped_before_every_rename_and_every_synchronisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments that a random kill seldom meets: each one, in turn."""
    path = tmp_path / "few.yaml"
    path.write_text(RECIPE.replace("samples: 300", "samples: 6").replace("  test: {samples: 30}\n", ""))
    recipe = load(path)
    materialise(recipe, tmp_path / "undisturbed", threads=1)
    expected, moment, finished = tree(tmp_path / "undisturbed"), 0, False
    while not finished:
        moment += 1
        store = tmp_path / f"store_{moment}"
        with monkeypatch.context() as patch:
            calls = 0

            def counted(real: Any) -> Any:
                def call(*args: Any, **options: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls == moment:  # noqa: B023
                        raise Stopped
                    return real(*args, **options)
                return call

            for name in ("replace", "rename"):
                patch.setattr(os, name, counted(getattr(os, name)))
            patch.setattr(os, "fsync", counted(lambda handle: None))  # what a kill leaves does not depend on the disk
            for name in ("clear", "close"):  # a kill leaves no time to tidy up
                patch.setattr(Drop, name, lambda self: None)
            try:
                materialise(recipe, store, threads=1)
                finished = True
            except Stopped:
                pass
        met(store)
        materialise(recipe, store, threads=1)
        assert tree(store) == expected, f"stopped before call {moment}"
    assert moment > 2 * 6, "two shards, each with a file and a commit: written, renamed, their folder synchronised"
