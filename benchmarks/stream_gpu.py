"""The way of batches to a GPU: python benchmarks/stream_gpu.py

Copies of page-locked batches against the bare bandwidth of the bus, how much of them is hidden behind work, and what a
training step waits for its data.  Needs a CUDA device.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from rows import record, row
from torch.profiler import ProfilerActivity, profile

from factory.recipe import load
from factory.store import materialise
from factory.stream import Batch, Stream, on_device

SAMPLES, BATCH, STEPS = 4096, 128, 64
LEVELS = {"splits.train.levels": f"{{subject: 8, patch: {SAMPLES // 8}}}",
          "splits.validation.levels": "{subject: 1, patch: 1}", "splits.test.levels": "{subject: 1, patch: 1}",
          "splits.noise_study.levels": "{subject: 1, patch: 1, noise: 1}"}  # fmt: skip


def bus(nbytes: int) -> float:
    """GB/s of bare copies of page-locked memory."""
    here, there = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True), torch.empty(nbytes, dtype=torch.uint8,
                                                                                      device="cuda")  # fmt: skip
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        there.copy_(here, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return nbytes / statistics.median(times) / 1e9


class Work(torch.nn.Module):
    """Convolutions about as dear as a small network's step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, 128, 3, padding=1)
        self.more = torch.nn.Sequential(*(torch.nn.Conv2d(128, 128, 3, padding=1) for _ in range(24)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.more(self.first(x)).square().mean()


def ordinary(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Fresh memory, copied when it is asked for."""
    return ({name: tensor.to("cuda") for name, tensor in batch.items()} for batch in batches)


def bulk(batch: Batch) -> torch.Tensor:
    return max((t for t in batch.values() if t.ndim == 4), key=torch.Tensor.numel)


def steps(batches: Iterator[Batch], work: Work, optimizer: torch.optim.Optimizer) -> float:
    """Seconds a step, the first eight left out."""
    begun, count = 0.0, 0
    for count, batch in enumerate(batches, 1):
        loss = work(bulk(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if count == 8:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        if count == STEPS:
            break
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / (count - 8)


def hidden(run: Callable[[], object], nbytes: Callable[[], int]) -> tuple[float, float]:
    """(share of the copies' time during which the GPU computes, GB/s of the copies), from the profiler."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    copies, kernels = [], []
    for event in seen.profiler.kineto_results.events():
        span = event.start_ns(), event.start_ns() + event.duration_ns()
        if "HtoD" in event.name():
            copies.append(span)
        elif "Memcpy" not in event.name() and "Memset" not in event.name():
            kernels.append(span)
    kernels.sort()
    covered = sum(max(0, min(b, d) - max(a, c)) for a, b in copies for c, d in kernels if c < b and d > a)
    taken = sum(b - a for a, b in copies)
    return min(1.0, covered / taken), nbytes() / taken


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        materialise(load("rim_t1", set=LEVELS), store)

        def batches(pinned: bool, epochs: int = 8) -> Stream:
            return Stream(store, "train", batch=BATCH, epochs=epochs, pinned=pinned)

        first = next(iter(batches(False)))
        nbytes = sum(t.numel() * t.element_size() for t in first.values())
        work = Work(bulk(first).shape[1]).cuda()
        optimizer = torch.optim.SGD(work.parameters(), 1e-6)
        still = {name: tensor.cuda() for name, tensor in first.items()}

        def alone() -> Iterator[Batch]:
            return (still for _ in range(STEPS))

        times: dict[str, list[float]] = {}
        for _ in range(7):
            for name, source in (("alone", alone()), ("pinned", on_device(batches(True), "cuda")),
                                 ("ordinary", ordinary(batches(False)))):  # fmt: skip
                times.setdefault(name, []).append(steps(source, work, optimizer))
        median = {name: 1e3 * statistics.median(some) for name, some in times.items()}
        copied: list[int] = []

        def counted() -> Iterator[Batch]:
            for batch in batches(True):
                copied.append(nbytes)
                yield batch

        covered, speed = hidden(lambda: steps(on_device(counted(), "cuda"), work, optimizer), lambda: sum(copied))
        bare, card = bus(nbytes), torch.cuda.get_device_name()
    against = f"{card}; a step without any data {median['alone']:.2f} ms; batches of {nbytes / 1e6:.0f} MB"
    wait = 100 * (median["pinned"] / median["alone"] - 1)
    record("stream", [
        row("GPU, copies of page-locked batches", speed, "GB/s", baseline=f"{card}; bare copies {bare:.1f} GB/s"),
        row("GPU, such copies over bare ones", speed / bare, "ratio", target=">= 0.9", baseline=card),
        row("GPU, time of copies during which it computes", 100 * covered, "%", target=">= 90", baseline=card),
        row("GPU, what a step waits, pinned", wait, "%", target="<= 2", baseline=against),
        row("GPU, what a step waits, ordinary memory", 100 * (median["ordinary"] / median["alone"] - 1), "%",
            baseline=against),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
