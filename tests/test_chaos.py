"""kill -9 of everything that takes part, at named points and at random moments: the store ends with the same bytes.

Drivers are killed while they make, repair, extend and finalise; with Dask, the driver, the scheduler, a nanny, a worker
or all of them.  Every run that was killed is begun again, and every tree compared with an undisturbed one.

Budget: 20 s for the drivers and 40 s for Dask on two cores; the slow variants take about ten minutes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.keys import write_keys
from factory.recipe import Recipe, load
from factory.store import drop, extend, materialise, repair, status
from factory.store.commit import commit_path
from factory.store.finish import unfinish
from factory.store.layout import layouts, tasks
from tests.test_damage import flip
from tests.test_kill import LARGER, RECIPE, Runs, tree

OPERATIONS = ("make", "repair", "extend", "finalise")
VICTIMS = ("driver", "scheduler", "nanny", "worker", "everything")
KILLS = Counter[str]()  # after which the tree was the undisturbed one
HASTE = "from distributed.cli.dask_{} import main; main()"


@pytest.fixture(scope="module")
def chance() -> random.Random:
    seed = int(os.environ.get("FACTORY_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FACTORY_KILL_SEED={seed}")
    return random.Random(seed)


class Stores:
    """What each operation begins with and ends in."""

    def __init__(self, folder: Path, recipe: Recipe, larger: Recipe):
        self.folder, self.recipe, self.larger = folder, recipe, larger
        materialise(recipe, folder / "sound", threads=1)
        materialise(larger, folder / "larger", threads=1)
        self.sound, self.grown = tree(folder / "sound"), tree(folder / "larger")
        shutil.copytree(folder / "sound", folder / "finalise")
        unfinish(folder / "finalise")
        shutil.copytree(folder / "sound", folder / "extend")
        shutil.copytree(folder / "sound", folder / "repair")
        plan = layouts(recipe, folder / "repair")["train"]
        for shard in range(0, plan.shards, 2):
            flip(plan.file("noisy", shard), random.Random(shard))
        commit_path(plan, 3).unlink()
        (folder / "repair/test/zarr.json").unlink()

    def begin(self, do: str, store: Path) -> Path:
        if do != "make":
            shutil.copytree(self.folder / do, store)
        return store

    def end(self, do: str) -> dict[str, bytes | None]:
        return self.grown if do == "extend" else self.sound


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    path = tmp_path_factory.mktemp("recipe") / "many.yaml"
    path.write_text(RECIPE)
    return Stores(tmp_path_factory.mktemp("stores"), load(path), load(path, samples=LARGER))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def points(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """How often each operation comes by each named point."""
    found: dict[str, Counter[str]] = {}
    for do in OPERATIONS:
        store, seen = stores.begin(do, tmp_path_factory.mktemp("points") / do), Counter[str]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drop, "hook", lambda point, seen=seen: seen.update([point]))
            if do == "repair":
                repair(store, threads=1)
            elif do == "extend":
                extend(stores.larger, store, threads=1)
            else:
                materialise(stores.recipe, store, threads=1)
        assert tree(store) == stores.end(do)
        found[do] = seen
    return found


def test_every_point_is_come_by(points: dict[str, Counter[str]]) -> None:
    for do, seen in points.items():
        print(do, dict(seen))
        wanted = set(drop.POINTS) - ({"before commit", "after commit"} if do == "finalise" else set())
        assert set(seen) == wanted, do


def killed(do: str, runs: Runs, stores: Stores, store: Path, threads: int, **how: object) -> bool:
    """Begin an operation, have it killed, look at what is left, go on to the end, compare."""
    stores.begin(do, store)
    begun = store.with_name(store.name + ".begun")
    code = runs.run(do, store, threads, begun=str(begun), **how)  # type: ignore[arg-type]
    assert code in (0, signal.SIGKILL)
    left = status(store)
    if do == "make" and code:
        assert not left.finished or (store / ".factory/manifest.json").exists()
        asked = begun.stat().st_size if begun.exists() else 0
        assert asked - sum(s.committed for s in left.splits) <= threads, "more than one shard a thread was lost"
    assert runs.run(do, store, threads) == 0
    assert tree(store) == stores.end(do), (do, how)
    shutil.rmtree(store)
    KILLS["driver"] += code != 0
    return code != 0


@pytest.mark.parametrize("many", [2, pytest.param(13, marks=pytest.mark.slow)])
@pytest.mark.parametrize("do", OPERATIONS)
def test_killed_at_named_points(do: str, many: int, runs: Runs, stores: Stores, points: dict[str, Counter[str]],
                                chance: random.Random, tmp_path: Path) -> None:
    """At points drawn at random (slow: each point of each operation), at a random one of the times it is come by."""
    names = sorted(points[do]) if many > 2 else chance.sample(sorted(points[do]), many)
    for number in range(max(many, len(names))):
        point = names[number % len(names)]
        turn = chance.randint(1, points[do][point])
        dead = killed(do, runs, stores, tmp_path / f"{number}", 1, point=point, turn=turn)
        assert dead, (do, point, turn)


@pytest.mark.parametrize("many", [2, pytest.param(28, marks=pytest.mark.slow)])
@pytest.mark.parametrize("do", OPERATIONS)
def test_killed_at_random_moments(do: str, many: int, runs: Runs, stores: Stores, chance: random.Random,
                                  tmp_path: Path) -> None:
    began = time.perf_counter()
    runs.run(do, stores.begin(do, tmp_path / "whole"))
    whole = time.perf_counter() - began
    kills = sum(killed(do, runs, stores, tmp_path / f"{number}", chance.choice([1, 2]),
                       killed_after=chance.uniform(0, 0.9 * whole)) for number in range(many))
    print(f"{do}: {kills} kills in {many} runs of {whole:.2f} s")
    assert kills or many < 8


class Cluster:
    """A scheduler and two nannies with a worker each, as processes of their own, which may die and are begun again."""

    def __init__(self, folder: Path):
        self.keys, self.processes = folder / "keys", dict[str, subprocess.Popen[bytes]]()
        self.keys.mkdir(mode=0o700)
        write_keys(self.keys)
        self.address = ""

    def _start(self, name: str, program: str, *words: str) -> None:
        tls = [f"--tls-{what}={self.keys}/{file}.pem" for what, file in
               (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))]
        root = Path(__file__).parents[1]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-c", HASTE.format(program), *words, *tls, "--protocol=tls", "--no-dashboard"],
            cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})

    def up(self) -> Cluster:
        """Whatever does not live is begun again."""
        scheduler = self.processes.get("scheduler")
        if scheduler is None or scheduler.poll() is not None:
            self.down()
            file = self.keys / "scheduler.json"
            file.unlink(missing_ok=True)
            self._start("scheduler", "scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={file}")
            until = time.monotonic() + 60
            while not (file.exists() and file.stat().st_size):
                assert time.monotonic() < until, "no scheduler"
                time.sleep(0.05)
        for name in ("nanny1", "nanny2"):
            if name not in self.processes or self.processes[name].poll() is not None:
                self._start(name, "worker", f"--scheduler-file={self.keys}/scheduler.json", "--host=127.0.0.1",
                            "--nthreads=1", "--nworkers=1", f"--local-directory={self.keys}")
        return self

    def scheduler(self) -> str:
        return str(json.loads((self.keys / "scheduler.json").read_text())["address"])

    def workers(self) -> list[psutil.Process]:
        nannies = [psutil.Process(p.pid) for n, p in self.processes.items() if n != "scheduler" and p.poll() is None]
        return [c for nanny in nannies for c in nanny.children(recursive=True) if "spawn_main" in " ".join(c.cmdline())]

    def down(self) -> None:
        """End all of it, workers too."""
        workers = self.workers()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self.processes.clear()

    def kill(self, victim: str, driver: int, chance: random.Random) -> None:
        """kill -9 of one that takes part, or of all."""
        pids = {"driver": [driver], "scheduler": [self.processes["scheduler"].pid],
                "nanny": [self.processes[chance.choice(["nanny1", "nanny2"])].pid],
                "worker": [w.pid for w in chance.sample(self.workers(), 1)]}
        pids["everything"] = [*pids["driver"], *pids["scheduler"], *(p.pid for p in self.processes.values()),
                              *(w.pid for w in self.workers())]
        for pid in pids[victim]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes.values():
            if process.pid in pids[victim]:
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made.up()
    finally:
        made.down()


@pytest.mark.parametrize("many", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", VICTIMS)
def test_dask_loses_somebody(victim: str, many: int, cluster: Cluster, runs: Runs, stores: Stores,
                             chance: random.Random, tmp_path: Path) -> None:
    """Workers and nannies may die without the run; after the loss of a driver or a scheduler the next run goes on."""
    for number in range(many):
        do = "make" if many == 1 else OPERATIONS[number % 3]
        store = stores.begin(do, tmp_path / f"{number}")
        where = {"scheduler": cluster.up().scheduler(), "keys": str(cluster.keys)}
        driver = runs.start(do, store, **where)
        wait_for_work(store, chance)
        cluster.kill(victim, driver, chance)
        code = runs.end()
        if victim in ("worker", "nanny"):
            assert code == 0, "the run should have survived"
        else:
            assert code in (0, signal.SIGKILL, 3 << 8), "a sentence, or death"
        lost = uncommitted(store, stores, do) if do == "make" else 0
        assert lost <= 2, "more than one shard a worker was lost"
        where = {"scheduler": cluster.up().scheduler(), "keys": str(cluster.keys)}
        assert runs.run(do, store, **where) == 0
        assert tree(store) == stores.end(do), (victim, do, number)
        KILLS[f"{victim} of Dask"] += 1
        shutil.rmtree(store)


def test_the_whole_in_numbers() -> None:
    """For those who ask with -s."""
    print(f"{sum(KILLS.values())} kills, every tree equal: {dict(KILLS)}")


def wait_for_work(store: Path, chance: random.Random) -> None:
    """Until some shards are committed, and then for a random while."""
    until, commits = time.monotonic() + 30, store / ".factory/commits"
    seen = len(list(commits.glob("*"))) if commits.exists() else 0
    while time.monotonic() < until and (not commits.exists() or len(list(commits.glob("*"))) <= seen):
        if seen and (store / ".factory/partial").exists():
            break
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))


def uncommitted(store: Path, stores: Stores, do: str) -> int:
    """Shards that some file was written for, but that are not committed."""
    plans = layouts(stores.larger if do == "extend" else stores.recipe, store)
    return sum(any(plans[s].file(name, k).exists() for name in plans[s].bulk) and not commit_path(plans[s], k).exists()
               for s, k in tasks(plans))
