"""Small data for the networks, made with torch alone: what the recipes' streams yield, without the factory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from models import layers

# Equal weights are asked for to the last bit, and torch's own backward passes on two threads do not give them twice.
torch.set_num_threads(1)

Batch = dict[str, Tensor]
INVERSION_TIME = torch.linspace(0.139, 0.937, 9, dtype=torch.float64)
ECHO_TIME = torch.tensor([0.01, 0.02, 0.04, 0.08, 0.16, 0.32], dtype=torch.float64)
#                background, csf, grey_matter, white_matter
T1 = torch.tensor([0.005, 3.5, 1.4, 0.78])
T2 = torch.tensor([0.005, 2.0, 0.11, 0.08])
AMPLITUDE = torch.tensor([0.0, 1.0, 0.85, 0.65])


def anatomy(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Tissue codes (batch, y, x) of blocks of 4 voxels."""
    coarse = torch.multinomial(torch.tensor([0.1, 0.1, 0.4, 0.4]), batch * (size // 4) ** 2, True, generator=generator)
    return coarse.view(batch, size // 4, size // 4).repeat_interleave(4, 1).repeat_interleave(4, 2)


def noisy(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    sigma = 0.01 + 0.05 * torch.rand(len(clean), generator=generator)
    return (clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=generator)).float(), sigma


def rim_t1(seed: int, batch: int = 6, size: int = 12, time: Tensor = INVERSION_TIME) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tissue = anatomy(batch, size, generator)
    t1 = (T1[tissue] * (1 + 0.2 * torch.randn(tissue.shape, generator=generator))).abs().clamp(min=0.005)
    efficiency = 2 - 0.2 * torch.rand(batch, generator=generator)
    amplitude = AMPLITUDE[tissue]
    flat = efficiency[:, None, None].expand_as(t1)
    signal, sigma = noisy(layers.inversion_recovery(amplitude, flat, t1, time), generator)
    return {"signal": signal, "t1": t1, "amplitude": amplitude, "efficiency": efficiency, "sigma": sigma,
            "tissue": tissue.to(torch.uint8), "inversion_time": time}  # fmt: skip


def rim_t2(seed: int, batch: int = 6, size: int = 12, time: Tensor = ECHO_TIME) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tissue = anatomy(batch, size, generator)
    t2 = (T2[tissue] * (1 + 0.2 * torch.randn(tissue.shape, generator=generator))).abs().clamp(min=0.005)
    amplitude = AMPLITUDE[tissue]
    signal, sigma = noisy(layers.t2_decay(amplitude, t2, time), generator)
    return {"signal": signal, "t2": t2, "amplitude": amplitude, "sigma": sigma, "tissue": tissue.to(torch.uint8),
            "echo_time": time}  # fmt: skip


def drone_epi(seed: int, batch: int = 12, frames: int = 25) -> Batch:
    """Fingerprints that fall with T2 and recover with T1, as those of the recipe do."""
    generator = torch.Generator().manual_seed(seed)
    t1, t2 = (low + (high - low) * torch.rand(batch, generator=generator) for low, high in ((0.3, 3.0), (0.03, 0.3)))
    frame = 0.05 * torch.arange(1, frames + 1)
    clean = torch.exp(-frame / t2[:, None]) + 1 - 2 * torch.exp(-frame / t1[:, None])
    signal = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    return {"signal": signal, "clean": clean, "t1": t1, "t2": t2}


def drone_fisp(seed: int, batch: int = 12) -> Batch:
    """The same with 600 frames that fall with B1, too."""
    made = drone_epi(seed, batch, frames=600)
    b1 = 0.8 + 0.4 * torch.rand(batch, generator=torch.Generator().manual_seed(seed + 1))
    bend = torch.exp(-(b1[:, None] ** 2) * torch.linspace(0, 1, 600))
    return made | {"signal": made["signal"] * bend, "clean": made["clean"] * bend, "b1": b1}


MAKERS: dict[str, Callable[..., Batch]] = {
    "rim_t1": rim_t1, "rim_t2": rim_t2, "drone_epi": drone_epi, "drone_fisp": drone_fisp,
}  # fmt: skip


class Batches:
    """A deterministic stream with a state, shorter than a training; it may stop like a killed run."""

    def __init__(self, recipe: str, *, fails_at: int | None = None, dataset_id: str = "small", **options: Any) -> None:
        self.make, self.options, self.fails_at, self.dataset_id = MAKERS[recipe], options, fails_at, dataset_id
        self.epoch, self.position, self.handed = 0, 0, 0
        self.coordinates = ("inversion_time", "echo_time")

    def __iter__(self) -> Iterator[Batch]:
        while self.position < 4:
            if self.handed == self.fails_at:
                raise ConnectionError("the data went away")
            self.position, self.handed = self.position + 1, self.handed + 1
            yield self.make(100 * self.epoch + self.position, **self.options)
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


@pytest.fixture(scope="session")
def stream_of() -> Callable[..., Batches]:
    """(recipe, **options) -> a small stream of what the recipe keeps."""

    def stream(recipe: str, **options: Any) -> Batches:
        if recipe not in MAKERS:
            pytest.fail(f"give tests/models/conftest.py a maker of small batches of the recipe {recipe}")
        return Batches(recipe, **options)

    return stream


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are fastest on one thread, and their sums are then the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
