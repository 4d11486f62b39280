"""Bars of whole runs: python benchmarks/production_runs.py BAR ..., where BAR is one of

- dask      driver and scheduler over 10,000 and 100,000 shards: CPU time a task, memory (about ten minutes)
- workers   CPU time a sample with two workers against one
- million   a million samples from the command line: time, files, memory
- chaos     kill -9, as often as the slow tests do (about a quarter of an hour)
- attacks   hostile stores
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import as_completed
from foundation import told
from production import SMALL
from rows import record, row

from cluster.connect import connect
from cluster.keys import write_keys
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


class Watch:
    """CPU time and memory of the driver and of the scheduler while a run goes on, from when it is warm."""

    def __init__(self, scheduler: psutil.Process) -> None:
        self.processes = {"driver": psutil.Process(), "scheduler": scheduler}
        self.shards, self.first = 0, dict[str, int]()
        self.last = self.first

    def begin(self, *_: int) -> None:
        """The clocks start."""
        self.begun, self.used = time.perf_counter(), self._used()

    def _used(self) -> dict[str, float]:
        return {name: sum(p.cpu_times()[:2]) for name, p in self.processes.items()}

    def shard(self, _: Commit) -> None:
        """Looks at every hundredth."""
        self.shards += 1
        if self.shards % 100 == 0:
            self.last = {name: p.memory_info().rss for name, p in self.processes.items()}
            if self.shards == WARM:
                self.first = self.last

    def end(self) -> None:
        """CPU seconds, wall seconds and growth in MB."""
        self.used = {name: after - self.used[name] for name, after in self._used().items()}
        self.wall = time.perf_counter() - self.begun
        self.growth = {name: (self.last[name] - self.first[name]) / 1e6 for name in self.first}


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        yield Path(folder)


@contextmanager
def parts_of_a_cluster(folder: Path) -> Iterator[tuple[Profile, psutil.Process]]:
    """A scheduler and one worker as processes of their own."""
    write_keys(folder)
    tls = [f"--tls-{what}={folder}/{file}.pem" for what, file in (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))]
    file = folder / "scheduler.json"
    common = [*tls, "--protocol=tls", "--host=127.0.0.1", f"--scheduler-file={file}", "--no-dashboard"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = "from distributed.cli.dask_{} import main; main()"
    scheduler = subprocess.Popen([sys.executable, "-c", start.format("scheduler"), *common, "--port=0"], **quiet)
    try:
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.1)
        worker = subprocess.Popen([sys.executable, "-c", start.format("worker"), *common, "--nthreads=1",
                                   f"--local-directory={folder}"], **quiet)  # fmt: skip
        try:
            address = json.loads(file.read_text())["address"]
            yield Profile("address", address=address, tls_ca=f"{folder}/ca.pem", tls_cert=f"{folder}/cert.pem",
                          tls_key=f"{folder}/key.pem"), psutil.Process(scheduler.pid)  # fmt: skip
        finally:
            worker.terminate()
            worker.wait()
    finally:
        scheduler.terminate()
        scheduler.wait()


def bare(client: Any, scheduler: psutil.Process, tasks: int = 10_000) -> float:
    """The scheduler's CPU milliseconds for a task that does nothing, submitted and gathered in batches."""
    before, todo, waiting = sum(scheduler.cpu_times()[:2]), iter(range(tasks)), set[Any]()
    made = as_completed()
    while True:
        more = list(islice(todo, 64 - len(waiting))) if len(waiting) <= 32 else []
        if more:
            futures = client.map(abs, more, key=[("nothing", number) for number in more], pure=False)
            waiting.update(futures)
            made.update(futures)
        if not waiting:
            return 1e3 * (sum(scheduler.cpu_times()[:2]) - before) / tasks
        done = made.next_batch()
        waiting.difference_update(done)
        client.gather(done)


def dask() -> list[dict[str, Any]]:
    """One worker makes shards of one sample; driver and scheduler are looked at apart."""
    found, growth, nothing = [], {}, 0.0
    for tasks in (10_000, 100_000):
        with (scratch() as folder, parts_of_a_cluster(folder) as (profile, scheduler),
              connect(profile) as client):  # fmt: skip
            nothing = nothing or bare(client, scheduler)
            (folder / "tiny.yaml").write_text(TINY.format(samples=tasks))
            watch = Watch(scheduler)
            materialise(load(folder / "tiny.yaml"), folder / "store", client, progress=watch, durable="process")
        growth[tasks] = watch.growth
        cost = {name: 1e3 * seconds / tasks for name, seconds in watch.used.items()}
        against = (f"driver {cost['driver']:.2f} ms; {tasks / watch.wall:.0f} tasks/s; the scheduler's for a task that "
                   f"does nothing: {nothing:.2f} ms")  # fmt: skip
        found.append(row(f"scheduler, CPU a task of {tasks:,}", cost["scheduler"], "ms", target="<= 2.5",
                         baseline=against))  # fmt: skip
    for name in ("driver", "scheduler"):
        few, many = growth[10_000][name], growth[100_000][name]
        million = many + 900_000 * max(0.0, (many - few) / 90_000)
        against = f"{few:.1f} MB over 10,000 tasks; a million, extrapolated from the two: {million:.0f} MB"
        found.append(row(f"{name}, memory growth over 100,000 tasks", many, "MB",
                         target="<= 50" if name == "driver" else "", baseline=against))  # fmt: skip
    return found


def family_seconds() -> float:
    """CPU time of this process and of all below it."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(p.cpu_times()[:2]) for p in family)


def workers() -> list[dict[str, Any]]:
    """The same samples by one worker and by two; and how much this machine's own cores slow each other."""
    train, cost = "splits.train.levels", {}
    recipe = load("rim_t1", set=SMALL | {train: "{subject: 20, patch: 512}"})  # the heads are most of the work
    warm = load("rim_t1", set=SMALL | {train: "{subject: 2, patch: 512}", "seed": "1"})
    for number in (1, 2, 1, 2, 1, 2):
        with scratch() as folder, connect(Profile("local", workers=number)) as client:
            client.wait_for_workers(number)
            materialise(warm, folder / "warm", client)  # every worker has compiled, or read, all that it needs
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
