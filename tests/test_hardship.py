"""A full disk, a disk that only reads, a folder that vanishes, two runs at once, a worker out of memory, a bad sample.

Each ends in a clear sentence, nothing is corrupt, and the same command finishes the store.

Budget: 60 s on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

import factory.store.memory
import factory.store.run
from cluster.connect import connect
from cluster.profiles import Profile
from factory.physics import noise
from factory.recipe import Recipe, load
from factory.store import StoreError, damages, estimate, make_part, materialise, status
from tests.test_kill import RECIPE, tree

THIN = """\
about: two numbers of a long signal
seed: 1
shard: 65536
splits: {train: {samples: 100000}}
draw: {t2: {uniform: [10 ms, 1 s]}, t1: {constant: 1 s}, b1: {constant: 1}, snr: {constant: 20}}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 1024}
  - noise.first_echo
  - noise.sigma_from_snr
keep: [sigma, t2]
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "many.yaml"
    path.write_text(RECIPE)
    return load(path)


@pytest.fixture(scope="module")
def sound(many: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    path = tmp_path_factory.mktemp("sound") / "store"
    materialise(many, path, threads=1)
    return tree(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory with room for a part of the store."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    told = subprocess.run(command, capture_output=True, check=False)
    if told.returncode:
        pytest.skip(f"no file system may be mounted here: {told.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def sentence(store: Path, *more: str) -> tuple[int, str]:
    """What the command says, and its exit code."""
    recipe = store.parents[1] / "many.yaml"
    recipe.write_text(RECIPE)
    told = subprocess.run([sys.executable, "-m", "factory.cli", "make", str(recipe), str(store), *more], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert "Traceback" not in told.stderr, told.stderr
    return told.returncode, " ".join(told.stderr.split())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_disk_is_full(threads: int, small_disk: Path, many: Recipe, sound: dict[str, bytes | None]) -> None:
    store = small_disk / "store"
    with pytest.raises(StoreError, match=r"No space left on device \(0 MB are free at .*make room\)"):
        materialise(many, store, threads=threads)
    found = status(store)
    assert found.code == 2
    assert 0 < sum(s.committed for s in found.splits) < sum(s.shards for s in found.splits)
    # What was written before its commit found no room is no damage of what is committed
    assert {one.kind for one in damages(store)} <= {"uncommitted"}, "what is there is sound"
    code, said = sentence(store, "--threads", "1")
    assert code == 1
    assert "No space left on device" in said
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    materialise(many, store, threads=threads)
    assert tree(store) == sound


def test_the_disk_only_reads(small_disk: Path, many: Recipe, sound: dict[str, bytes | None]) -> None:
    store = small_disk / "store"
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    make_part(many, store, (1, 2), threads=1)
    before = tree(store)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, said = sentence(store)
    assert (code, tree(store)) == (1, before)
    assert "cannot write to" in said
    code, said = sentence(small_disk / "another")
    assert code == 1
    assert "name a folder that you may write to" in said
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    materialise(many, store, threads=1)
    assert tree(store) == sound


class After:
    """Calls a function once, when so many shards are made."""

    def __init__(self, shards: int, function: Any):
        self.left, self.function = shards, function

    def begin(self, *_: int) -> None:
        pass

    def shard(self, _: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.function()

    def end(self) -> None:
        pass


@pytest.mark.parametrize("threads", [1, 2])
def test_the_folder_vanishes(threads: int, many: Recipe, sound: dict[str, bytes | None], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(StoreError, match=r"vanished|no store at|No such file|not a store"):
        materialise(many, store, threads=threads, progress=After(5, lambda: shutil.rmtree(store)))
    shutil.rmtree(store, ignore_errors=True)
    materialise(many, store, threads=1)
    assert tree(store) == sound


def test_two_makes_at_once_and_a_resume_beside_them(sound: dict[str, bytes | None], tmp_path: Path) -> None:
    recipe, store = tmp_path / "many.yaml", tmp_path / "store"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "factory.cli", "make", str(recipe), str(store), "--threads", "1"]
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    until = time.monotonic() + 60
    while not list((store / ".factory/commits").glob("*")) and time.monotonic() < until:
        time.sleep(0.01)
    runs[0].kill()
    runs.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for number, run in enumerate(runs):
        said = run.communicate(timeout=60)[1].decode()
        assert number == 0 or run.returncode == 0, said
    assert tree(store) == sound


def test_runs_in_threads_of_one_process(many: Recipe, sound: dict[str, bytes | None], tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def one(part: tuple[int, int]) -> None:
        try:
            make_part(many, tmp_path / "store", part, threads=1)
        except BaseException as error:
            failures.append(error)

    runs = [threading.Thread(target=one, args=[part]) for part in ((1, 1), (1, 3), (2, 3), (1, 1))]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert not failures
    assert tree(tmp_path / "store") == sound


def test_a_worker_runs_out_of_memory(many: Recipe, sound: dict[str, bytes | None], tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers whose shards take far more than they have are ended, and a sentence says what to do."""
    (tmp_path / "many.yaml").write_text(RECIPE.replace("shard: 4", "shard: 1048576").replace("300}", "9000000}"))
    greedy = load(tmp_path / "many.yaml")
    monkeypatch.setattr(factory.store.run, "fitting", lambda *_: 0)  # as if the need were not to be seen
    with dask.config.set({"distributed.worker.memory.terminate": 0.6}), \
         connect(Profile("local", workers=1, memory=500_000_000)) as client:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 1))
        with pytest.raises(StoreError, match=r"given up, because 2 worker\(s\) died.*memory was short.*`shard: N`"):
            materialise(greedy, tmp_path / "greedy", client)
        assert status(tmp_path / "greedy").code == 2
    with connect(Profile("local", workers=1)) as client:  # with more memory, and for work that fits
        materialise(many, tmp_path / "store", client)
    assert tree(tmp_path / "store") == sound


def test_what_does_not_fit_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what is kept counts, but what the chain makes on the way."""
    (tmp_path / "thin.yaml").write_text(THIN)
    thin = load(tmp_path / "thin.yaml")
    assert factory.store.memory.shard_memory(thin) > 65536 * 1024 * 8 - 1 > 10 * estimate(thin).shard_bytes
    monkeypatch.setattr(factory.store.memory, "available", lambda: 100e6)
    with pytest.raises(StoreError, match=r"needs about 0\.\d GB at once, and this machine has 0\.1 GB"):
        materialise(thin, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_sample_that_fails_names_itself(many: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split, index, step and values; and it can be replayed alone."""
    real, sigma = noise.rician.function, materialise(many, tmp_path / "sound", threads=1)["train"].sigma.to_numpy()
    worst = int(np.argmax(sigma))

    def refuses(measured: Any, sigma: Any, draws: Any) -> Any:
        if (sigma > np.sort(sigma_of_all)[-2] * (1 + 1e-9)).any():
            raise RuntimeError("too noisy")
        return real(measured, sigma, draws)

    sigma_of_all = sigma
    object.__setattr__(noise.rician, "function", refuses)
    try:
        said = (rf"split train, sample {worst}: RuntimeError: too noisy \(step noise\.rician with .*sigma = "
                rf"{sigma[worst]:.3f}.*`factory sample RECIPE train {worst}` replays it alone")
        with pytest.raises(StoreError, match=said):
            materialise(many, tmp_path / "store", threads=2)
    finally:
        object.__setattr__(noise.rician, "function", real)
    assert status(tmp_path / "store").code == 2
    materialise(many, tmp_path / "store", threads=2)
    assert tree(tmp_path / "store") == tree(tmp_path / "sound")
