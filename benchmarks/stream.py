"""The stream against others: python benchmarks/stream.py BAR ..., where BAR is one of

- warm     batches in random order from memory, against np.memmap.take, and the libraries of the extra `peers`
- cold     the same from the disk, against np.memmap.take
- order    how well it shuffles, against windows of shards
- resume   the time to the first indices in the midst of 10**9 samples
- growth   memory over an epoch, and open files over a thousand

Each reader has a process of its own and one thread of torch; ours reads before and after each round of another, and the
two rounds are compared with the one between them.  All readers must hand over the same samples.

The peers are the extra `peers`.  Files lie in the folder for temporary ones (TMPDIR), for `cold` on a disk: up to 9 GB.
STREAM_SHARE=0.1 makes a quick try with a tenth of the samples.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, count, islice, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crc32c import crc32c
from rows import record, row
from stream_peers import READERS, SPLIT, WRITERS, Batch, Kind, kinds, write_npy, write_store

from factory.order import Order
from factory.stream import Stream

ROUNDS = 7
SHORT, LONG = 0.3, 2.0  # seconds: a round is whole epochs for about the one; a part of epochs over the other, see EVEN
EVEN = ("WebDataset", "MDS", "LitData", "tensorstore, random")  # as much work for each batch, and none before asked
LOADERS, ZARR = ("WebDataset", "MDS", "LitData"), ("zarr-python", "zarrs", "tensorstore", "tensorstore, random")
PACKAGES = {"WebDataset": "webdataset", "MDS": "mosaicml-streaming", "LitData": "litdata"}
SHARE = float(os.environ.get("STREAM_SHARE", "1"))  # of the samples of a full run, for a try
COLD_BATCH = 32  # samples at most: many small batches, so that reading ahead has no advantage by its size
COLD_TIMES = 4  # as many samples as warm, because of what the system reads beside the ones that are asked for
COLD_PART = 2  # of the pieces of a file that the system reads at once, one out of so many is asked for in a round
READAHEAD = 131_072  # where the system does not say
COLD_SHARE = 0.9  # of what a cold round hands over comes from the disk, or it was not cold
MANY = 10**9
SHARDS, PER_SHARD, BATCH = 64, 256, 32  # of which the order is judged
WINDOWS = (4, 16)


@dataclass(frozen=True)
class Round:
    """What one round took."""

    wall: float
    cpu: float
    nbytes: int

    @property
    def speed(self) -> float:
        return self.nbytes / self.wall / 1e9

    @property
    def per_cpu(self) -> float:
        return self.nbytes / self.cpu / 1e9


# --- in a reader's process -------------------------------------------------------------------------------------------

def checksum(batches: Iterator[Batch], kind: Kind) -> tuple[int, int]:
    """(samples, sum of their checksums): the same for any order, another for other samples."""
    samples = total = 0
    for batch in batches:
        arrays = [batch[name].numpy() for name in kind.fields]
        for sample in zip(*(a.reshape(len(a), -1).view(np.uint8) for a in arrays), strict=True):
            crc = 0
            for part in sample:
                crc = crc32c(part.data, crc)
            total += crc
            samples += 1
    return samples, total


def timed(batches: Iterator[Batch], kind: Kind) -> Round:
    gc.collect()
    nbytes, cpu, begun = 0, time.process_time(), time.perf_counter()
    for batch in batches:
        nbytes += sum(batch[name].nbytes for name in kind.fields)
    return Round(time.perf_counter() - begun, time.process_time() - cpu, nbytes)


def serve(pipe: Connection, reader: str, kind: Kind, folder: Path) -> None:
    """Answer with a checksum of an epoch to 0, and to any other number with the time of so many batches more."""
    torch.set_num_threads(1)
    passes = READERS[reader](kind, folder, 0)
    more = chain.from_iterable(passes() for _ in count())
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        pipe.send(timed(islice(more, asked), kind) if asked else checksum(passes(), kind))


def serve_cold(pipe: Connection, reader: str, kind: Kind, folder: Path) -> None:
    """The same from the disk; everything is opened anew, because what a process maps cannot be dropped."""
    torch.set_num_threads(1)
    pipe.send("ready")
    for seed in count():
        asked = pipe.recv()
        if asked is None:
            return
        passes = READERS[reader](kind, folder, seed)
        if not asked:
            pipe.send(checksum(passes(), kind))
            continue
        drop(folder)
        read = disk_bytes()
        batches = islice(passes(), asked)
        found = timed(batches, kind)
        if (came := disk_bytes() - read) < COLD_SHARE * found.nbytes:
            raise RuntimeError(f"{reader} had {found.nbytes} bytes and only {came} came from the disk")
        pipe.send(found)
        del passes, batches  # and the files with them
        gc.collect()


def drop(folder: Path) -> None:
    """Have the system forget what it holds of all files."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def disk_bytes() -> int:
    """What this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


# --- in the process that compares ------------------------------------------------------------------------------------

@contextmanager
def started(reader: str, kind: Kind, folder: Path, serving: Any = serve) -> Iterator[Connection]:
    """A reader in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serving, args=(there, reader, kind, folder))
    process.start()
    there.close()
    try:
        here.recv()  # it is ready
        yield here
        here.send(None)
        process.join(30)
    finally:
        process.kill()


def ask(pipe: Connection, number: int) -> Any:
    pipe.send(number)
    return pipe.recv()


def warmed(reader: str, pipe: Connection, kind: Kind, expected: tuple[int, int]) -> int:
    """Check a reader's samples, and say how many batches its rounds have; all its memory was touched then."""
    begun, epoch = time.perf_counter(), kind.samples // kind.batch
    same(reader, ask(pipe, 0), expected)
    seconds = time.perf_counter() - begun
    if reader in EVEN and seconds > LONG:
        batches = max(1, int(epoch * LONG / 2 / seconds))
    else:
        seconds = ask(pipe, epoch).wall
        batches = epoch * max(1, round(SHORT / seconds))
    ask(pipe, batches)
    return batches


def same(reader: str, found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found != expected:
        raise RuntimeError(f"{reader} has other samples: (number, sum of checksums) {found} instead of {expected}")


@dataclass(frozen=True)
class Against:
    """Rounds of one reader, and of another in turn: one more of the first."""

    first: list[Round]
    second: list[Round]

    def ratio(self, attribute: str) -> float:
        """How many times as fast the first is: the median over rounds."""
        speeds = [getattr(r, attribute) for r in self.first]
        pairs = zip(pairwise(speeds), self.second, strict=True)
        return statistics.median((before + after) / 2 / getattr(r, attribute) for (before, after), r in pairs)

    def text(self, name: str) -> str:
        speeds = [statistics.median(r.speed for r in rounds) for rounds in (self.first, self.second)]
        return (f"{name} {speeds[1]:.3g} GB/s, ours {speeds[0]:.3g} GB/s, "
                f"{self.ratio('per_cpu'):.3g} times per CPU-second")  # fmt: skip


def in_turn(first: Connection, second: Connection, batches: tuple[int, int]) -> Against:
    rounds = [[ask(first, batches[0])], []]
    for _ in range(ROUNDS):
        rounds[1].append(ask(second, batches[1]))
        rounds[0].append(ask(first, batches[0]))
    return Against(rounds[0], rounds[1])


def expected(kind: Kind) -> tuple[int, int]:
    """The checksum of the samples as they were made."""
    return checksum(({name: torch.from_numpy(a) for name, a in block.items()} for _, block in kind.blocks()), kind)


def warm_of(kind: Kind, folder: Path) -> list[dict[str, Any]]:
    for write in WRITERS:
        write(kind, folder)
    whole, found = expected(kind), {}
    with started("ours", kind, folder) as ours, started("always", kind, folder) as always:
        own, checked = warmed("ours", ours, kind, whole), warmed("always", always, kind, whole)
        for reader in ("np.memmap.take", *LOADERS, *ZARR):
            with started(reader, kind, folder) as peer:
                batches = warmed(reader, peer, kind, whole)
                found[reader] = in_turn(ours, peer, (own, batches))
                if reader == "np.memmap.take":
                    found["always"] = in_turn(always, peer, (checked, batches))
    return warm_rows(kind, found)


def warm_rows(kind: Kind, found: dict[str, Against]) -> list[dict[str, Any]]:
    of = f"{kind.title}, warm"
    size = f"; batches of {kind.batch}, {kind.samples * kind.sample_bytes / 1e6:.0f} MB; medians of {ROUNDS}"
    memmap, always = found["np.memmap.take"], found["always"]
    rows = [row(f"{of}: global shuffle over np.memmap.take", memmap.ratio("speed"), "ratio", target=">= 1.0",
                baseline=memmap.text("np.memmap.take") + size),
            row(f'{of}: verify="always" over np.memmap.take', always.ratio("speed"), "ratio", target=">= 0.5",
                baseline=always.text("np.memmap.take") + size)]  # fmt: skip
    limit = 20 if kind.sample_bytes < 4096 else 5
    for title, names, least in (("loaders", LOADERS, limit), ("readers of Zarr", ZARR, 5)):
        best = min(names, key=lambda name: found[name].ratio("speed"))
        texts = "; ".join(found[name].text(named(name)) for name in names)
        rows.append(row(f"{of}: global shuffle over the best of other {title}", found[best].ratio("speed"), "ratio",
                        target=f">= {least}", baseline=f"best: {best}. {texts}{size}"))  # fmt: skip
    return rows


def named(reader: str) -> str:
    """A reader and its version."""
    package = PACKAGES.get(reader, reader.removesuffix(", random").replace("-python", ""))
    return f"{reader} {version(package)}"


def readahead(folder: Path) -> int:
    """Bytes that the system reads at once around what is missing of a map."""
    device = os.stat(folder).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return 1024 * int(path.read_text()) if path.exists() else READAHEAD


def cold_of(kind: Kind, folder: Path) -> list[dict[str, Any]]:
    kind = replace(kind, batch=min(kind.batch, COLD_BATCH))
    write_store(kind, folder)
    write_npy(kind, folder)
    os.sync()
    pieces = kind.samples * kind.sample_bytes // max(kind.sample_bytes, ahead := readahead(folder))
    batches = max(1, pieces // COLD_PART // kind.batch)
    whole = expected(kind)
    with (started("ours", kind, folder, serve_cold) as ours,
          started("np.memmap.take", kind, folder, serve_cold) as memmap):  # fmt: skip
        for reader, pipe in (("ours", ours), ("np.memmap.take", memmap)):
            same(reader, ask(pipe, 0), whole)
            ask(pipe, batches)
        found = in_turn(ours, memmap, (batches, batches))
    against = (f"{found.text('np.memmap.take')}; {batches} batches of {kind.batch} a round out of "
               f"{kind.samples * kind.sample_bytes / 1e6:.0f} MB; "
               f"the system reads ahead {ahead / 1e6:.2g} MB; medians of {ROUNDS}")  # fmt: skip
    return [row(f"{kind.title}, cold: global shuffle over np.memmap.take", found.ratio("speed"), "ratio",
                target=">= 2", baseline=against)]  # fmt: skip


def warm() -> list[dict[str, Any]]:
    return [r for kind in kinds(SHARE).values() for r in beside(kind, warm_of)]


def cold() -> list[dict[str, Any]]:
    return [r for kind in kinds(COLD_TIMES * SHARE).values() for r in beside(kind, cold_of)]


def beside(kind: Kind, bar: Any) -> list[dict[str, Any]]:
    """A bar with files among the temporary ones."""
    with tempfile.TemporaryDirectory() as folder:
        return bar(kind, Path(folder))


# --- order and resume ------------------------------------------------------------------------------------------------

def windowed(window: int, rng: np.random.Generator) -> Any:
    """An epoch of a reader that holds some shards at a time and shuffles in them."""
    shards = rng.permutation(SHARDS).reshape(-1, window)
    held = shards[:, :, None] * PER_SHARD + np.arange(PER_SHARD)
    return rng.permuted(held.reshape(len(shards), -1), axis=1).reshape(-1)


def quality(order: Any) -> tuple[float, float]:
    """(distinct shards in a batch, correlation of a sample's shard with the next one's), of one epoch."""
    shards = order // PER_SHARD
    distinct = np.mean([len(set(batch)) for batch in shards.reshape(-1, BATCH).tolist()])
    return float(distinct), float(np.corrcoef(shards[:-1], shards[1:])[0, 1])


def order() -> list[dict[str, Any]]:
    samples, rng = SHARDS * PER_SHARD, np.random.default_rng(0)
    positions = np.arange(samples)
    ways = {"ours": lambda epoch: Order(samples, BATCH).indices(epoch, positions),
            "numpy's permutation": lambda _: rng.permutation(samples)}  # fmt: skip
    ways |= {f"windows of {w} shards": lambda _, w=w: windowed(w, rng) for w in WINDOWS}
    found = {name: np.median([quality(way(epoch)) for epoch in range(ROUNDS)], axis=0) for name, way in ways.items()}
    others = [name for name in found if name != "ours"]
    texts = ["; ".join(f"{name} {found[name][k]:.3g}" for name in others) for k in (0, 1)]
    size = f"; {SHARDS} shards of {PER_SHARD}, batches of {BATCH}, medians of {ROUNDS} epochs"
    return [
        row("order: shards in a batch", found["ours"][0], "shards", baseline=texts[0] + size),
        row("order: correlation of the shards of successive samples", found["ours"][1], "", baseline=texts[1] + size),
    ]


def resume() -> list[dict[str, Any]]:
    recipe = replace(kinds(1)["A"], samples=MANY).recipe
    seconds = []
    for turn in range(ROUNDS + 1):  # the first warms up
        taken = MANY // BATCH // 3 + turn
        state = Stream(recipe, SPLIT, batch=BATCH).state_dict(taken)
        begun = time.perf_counter()
        Stream(recipe, SPLIT, batch=BATCH).load_state_dict(state)
        Order(MANY, BATCH).batch_at(0, taken)
        seconds.append(time.perf_counter() - begun)
    against = f"a new Stream, its load_state_dict and the first indices; {MANY:.0e} samples, median of {ROUNDS}"
    return [row("resume: time to the first indices", 1e3 * statistics.median(seconds[1:]), "ms", target="< 100",
                baseline=against)]  # fmt: skip


def growth() -> list[dict[str, Any]]:
    from foundation import told

    found = told(r"maps: an epoch of (\d+) MB grew by ([\d.]+) MB(?s:.*)pread: an epoch of \d+ MB grew by ([\d.]+) MB"
                 r"(?s:.*)a thousand epochs left (\d+) files", "tests/stream/test_growth.py")  # fmt: skip
    against = f"with pread {found[3]} MB; an epoch of {found[1]} MB"
    return [row("growth of memory over an epoch", float(found[2]), "MB", target="< 200", baseline=against),
            row("files that stay open after 1,000 epochs", float(found[4]), "files", target="<= 0")]  # fmt: skip


if __name__ == "__main__":
    bars = {"warm": warm, "cold": cold, "order": order, "resume": resume, "growth": growth}
    for bar in sys.argv[1:]:
        record("stream", bars[bar]())
