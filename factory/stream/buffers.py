"""Page-locked buffers that are used again, for the way to a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from factory.stream.memory import Allocate
from factory.stream.transforms import Random, Transform, applied
from factory.units import Array

Batch = dict[str, torch.Tensor]


class Ring:
    """Page-locked buffers for some batches in turn; one is overwritten when all others were filled after it."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.held: dict[tuple[int, str], torch.Tensor] = {}

    def turn(self, count: int) -> Allocate:
        """Memory for the batch of that number."""
        place = count % self.batches

        def allocate(name: str, shape: tuple[int, ...], dtype: str) -> Array:
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            held = self.held.get((place, name))
            if held is None or held.numel() < nbytes:
                held = torch.empty(nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
                self.held[place, name] = held
            return held.numpy()[:nbytes].view(dtype).reshape(shape)

        return allocate


def on_device(batches: Iterable[Batch], device: str | torch.device, transforms: Sequence[Transform] = (),
              seed: int = 0) -> Iterator[Batch]:
    """The same batches on a GPU, each copied while the one before it is worked on.

    Parameters
    ----------
    batches : such as a `Stream` with ``pinned=True``; from other memory a copy holds up the program
    transforms : functions ``(batch, random) -> batch`` that work on the device
    seed : of what they draw

    Yields
    ------
    dict of tensors on the device, ready for the current stream of work; on a CPU, the batches as they come.
    """
    device = torch.device(device)
    if device.type != "cuda":
        for batch in batches:
            there = {name: tensor.to(device) for name, tensor in batch.items()}
            yield applied(transforms, there, Random(seed, batch, there["sample"])) if transforms else there
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: tuple[Batch, torch.cuda.Event, Random | None] | None = None
    for batch in batches:
        with torch.cuda.stream(side):
            copied = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            random = Random(seed, batch, copied["sample"]) if transforms else None
            coming = copied, side.record_event(), random
        if ahead is not None:
            yield _ready(*ahead, transforms)
        ahead = coming
        coming[1].synchronize()  # the next batch may be read over this one
    if ahead is not None:
        yield _ready(*ahead, transforms)


def _ready(batch: Batch, copied: torch.cuda.Event, random: Random | None, transforms: Sequence[Transform]) -> Batch:
    work = torch.cuda.current_stream()
    work.wait_event(copied)
    for tensor in batch.values():
        tensor.record_stream(work)  # its memory belongs to the stream that copied it
    return batch if random is None else applied(transforms, batch, random)
