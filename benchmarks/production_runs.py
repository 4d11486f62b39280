"""Bars of whole runs: python benchmarks/production_runs.py BAR ..., where BAR is one of

- dask      driver and scheduler over 10,000 and 100,000 shards: CPU time a task, memory (about ten minutes)
- workers   CPU time a sample with two workers against one
- million   a million samples from the command line: time, files, memory
- chaos     kill -9, as often as the slow tests do (about a quarter of an hour)
- attacks   hostile stores
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from foundation import told
from production import SMALL
from rows import record, row

from cluster.connect import connect
from cluster.profiles import Profile
from factory.recipe import load
from factory.store import Commit, materialise, status

TINY = """\
about: as little work a shard as there can be
seed: 1
shard: 1
splits: {{train: {{samples: {samples}}}}}
draw: {{t2: {{uniform: [10 ms, 1 s]}}, t1: {{constant: 1 s}}, b1: {{constant: 1}}}}
chain: [{{epg.cpmg: {{spacing: 8 ms, n_echo: 4}}}}]
keep: [signal]
"""
WARM = 2000  # shards before the driver's memory is first looked at


class Memory:
    """The driver's memory over a run, from when it is warm."""

    def __init__(self) -> None:
        self.shards = self.first = self.last = 0

    def begin(self, *_: int) -> None:
        """Nothing."""

    def shard(self, _: Commit) -> None:
        """Looks at every hundredth."""
        self.shards += 1
        if self.shards % 100 == 0:
            self.last = psutil.Process().memory_info().rss
            self.first = self.first or (self.last if self.shards >= WARM else 0)

    def end(self) -> None:
        """Nothing."""


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        yield Path(folder)


def dask() -> list[dict[str, Any]]:
    """Client and scheduler live in this process; one worker makes shards of one sample."""
    found, growth = [], {}
    for tasks in (10_000, 100_000):
        with scratch() as folder, connect(Profile("local", workers=1)) as client:
            (folder / "tiny.yaml").write_text(TINY.format(samples=tasks))
            recipe, memory = load(folder / "tiny.yaml"), Memory()
            begun, used = time.perf_counter(), time.process_time()
            materialise(recipe, folder / "store", client, progress=memory, durable="process")
            used, wall = time.process_time() - used, time.perf_counter() - begun
            shutil.rmtree(folder / "store")
        growth[tasks] = (memory.last - memory.first) / 1e6
        against = f"{tasks / wall:.0f} tasks/s, {wall:.0f} s; bounded futures of a bare client: 2.1 ms"
        found.append(row(f"driver and scheduler, CPU a task of {tasks:,}", 1e3 * used / tasks, "ms", target="<= 2.5",
                         baseline=against))  # fmt: skip
    slope = (growth[100_000] - growth[10_000]) / 90_000
    million = growth[100_000] + 900_000 * max(0.0, slope)
    against = f"{growth[10_000]:.1f} MB over 10,000 tasks; a million, extrapolated from the two: {million:.0f} MB"
    found.append(row("driver and scheduler, memory growth over 100,000 tasks", growth[100_000], "MB", target="<= 50",
                     baseline=against))  # fmt: skip
    return found


def family_seconds() -> float:
    """CPU time of this process and of all below it."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(p.cpu_times()[:2]) for p in family)


def workers() -> list[dict[str, Any]]:
    """The same samples by one worker and by two; and how much this machine's own cores slow each other."""
    recipe, cost = load("rim_t1", set=SMALL), {}
    for number in (1, 2, 1, 2, 1, 2):
        with scratch() as folder, connect(Profile("local", workers=number)) as client:
            client.wait_for_workers(number)
            materialise(load("rim_t1", corner=True, set={"seed": "1"}), folder / "warm", client)
            used = family_seconds()
            materialise(recipe, folder / "store", client)
            cost.setdefault(number, []).append(family_seconds() - used)
    one, two = (float(np.median(cost[number])) for number in (1, 2))
    own = _own_slowdown()
    samples = sum(plan.samples for plan in recipe.splits.values())
    against = (f"{1e3 * one / samples:.3f} ms a sample with one worker; two processes that share nothing slow each "
               f"other by {own:.2f} on this machine, so {two / one / own:.2f} are ours")
    return [row("CPU time a sample, two workers over one", two / one, "ratio", target="<= 1.05", baseline=against)]


SPIN = """\
import sys, time
import numpy as np
x, begun = np.random.default_rng(0).normal(size=200_000), time.process_time()
for _ in range(1500):
    y = np.exp(-x * x).sum()
print(time.process_time() - begun)
"""


def _own_slowdown() -> float:
    """CPU time of a small numpy loop with a twin beside it over the same alone."""
    def spin(number: int) -> float:
        command = [sys.executable, "-c", SPIN]
        twins = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
        return float(np.mean([float(twin.communicate()[0]) for twin in twins]))

    alone, together = zip(*((spin(1), spin(2)) for _ in range(3)), strict=True)
    return float(np.median(together) / np.median(alone))


def million() -> list[dict[str, Any]]:
    """A million small samples and a hundred thousand large ones by the command line, Python's start included."""
    return [*_made("cpmg_t2"), *_made("rim_t1", "--samples", "train=100000")]


def chaos() -> list[dict[str, Any]]:
    """The whole of tests/test_chaos.py, the slow part too: about a quarter of an hour."""
    found = told(r"(\d+) kills, every tree equal: \{(.*)\}", "tests/test_chaos.py")
    return [row("kill -9 after which the tree was the undisturbed one", float(found[1]), "kills", target=">= 200",
                baseline=found[2].replace("'", ""))]


def attacks() -> list[dict[str, Any]]:
    """The slowest and the largest refusal of a hostile store."""
    found = told(r"(\d+) hostile stores refused, slowest ([\d.]+) s, most ([\d.]+) GB", "tests/attacks/test_stores.py")
    against = f"{found[1]} stores, each through six doors"
    return [row("slowest refusal of a hostile store", float(found[2]), "s", target="<= 5", baseline=against),
            row("largest memory of such a refusal", float(found[3]), "GB", target="<= 1", baseline=against)]


def _made(recipe: str, *words: str) -> list[dict[str, Any]]:
    with scratch() as folder:
        store, begun = folder / "store", time.perf_counter()
        subprocess.run([sys.executable, "-m", "factory.cli", "make", recipe, str(store), *words], check=True)
        wall = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3  # of the largest child so far
        files = [p.stat().st_size for p in store.rglob("*") if p.is_file()]
        samples = sum(split.samples for split in status(store).splits)
    against = f"{sum(files) / 1e9:.3g} GB in {len(files)} files, {samples / wall:,.0f} samples/s"
    return [row(f"{samples:,} samples of {recipe}, wall time", wall, "s", baseline=against),
            row(f"{samples:,} samples of {recipe}, peak memory", peak, "MB", baseline="one process, a thread a core")]


if __name__ == "__main__":
    bars = {"dask": dask, "workers": workers, "million": million, "chaos": chaos, "attacks": attacks}
    for bar in sys.argv[1:]:
        record("production", bars[bar]())
