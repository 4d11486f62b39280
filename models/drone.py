"""DRONE: T1 and T2 of a voxel from its MR fingerprint, by a small fully connected network.

Cohen, Zhu, Rosen 2018, doi:10.1002/mrm.27198.  As in the paper: two hidden layers of 300, mean squared error, Adam,
fresh noise in every batch.  Ours: targets are logarithms (a squared error of T2 itself neglects short ones), hidden
layers are rectified, the rate falls along a cosine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from factory.recipe import load
from models.cards import Batch, Row, Shapes, Stage, System, Task
from models.classical.dictionary import entries, grid, match

RANGES = {"t1": (0.02, 3.0), "t2": (0.02, 0.5)}  # s; of the recipe
SNR = 19.953  # 26 dB of the whole vector
GRIDS = ((0.1, 14), (0.1, 60), (0.02, 120))  # lowest T1 in s, number of values of T1 and of T2


class Drone(Task):
    """Fingerprint of unit norm in, logarithms of T1 and T2 between 0 and 1 out."""

    def __init__(self, frames: int, width: int = 300) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(frames, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                 nn.Linear(width, len(RANGES)), nn.Sigmoid())  # fmt: skip

    def optimizers(self, steps: int) -> Mapping[str, tuple[Adam, LRScheduler | None]]:
        adam = Adam(self.parameters(), 1e-3)
        return {"adam": (adam, CosineAnnealingLR(adam, max(1, steps)))}

    def updates(self, batch: Batch) -> Iterator[tuple[Tensor, str]]:
        clean = functional.normalize(batch["clean"], dim=1)
        noise = torch.randn_like(clean) / (SNR * clean.shape[1] ** 0.5)
        found = self.net(functional.normalize(clean + noise, dim=1))
        yield functional.mse_loss(found, torch.stack([scaled(batch[name], name) for name in RANGES], 1)), "adam"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        found = self.net(functional.normalize(batch["signal"], dim=1))
        return {name: found[:, k].double().mul(np.log(high / low)).exp().mul(low).float()
                for k, (name, (low, high)) in enumerate(RANGES.items())}  # fmt: skip


def scaled(seconds: Tensor, name: str) -> Tensor:
    """Where a time lies between the ends of its range, on a logarithmic scale."""
    low, high = RANGES[name]
    return (seconds / low).log() / np.log(high / low)


def evaluate(task: Task, batches: Iterable[Batch]) -> list[Row]:
    """Mean relative errors of T1 and T2 of noisy fingerprints, beside matching on two grids and a constant.

    The constant is the median of the truth over the evaluated data.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        told = task.predict(batch)
        for name, values in ({"signal": batch["signal"]} | {f"estimate {k}": v for k, v in told.items()}
                             | {k: batch[k] for k in RANGES}).items():  # fmt: skip
            found.setdefault(name, []).append(values.cpu())
    whole = {name: torch.cat(parts).double().numpy() for name, parts in found.items()}
    rows: list[Row] = []
    for method, guess in guesses(whole).items():
        for name in RANGES:
            error = 100 * np.abs(guess[name] / whole[name] - 1)
            what = {"quantity": name, "method": method, "name": "mean relative error"}
            rows.append(what | {"value": float(error.mean()), "unit": "%"})
    return rows


def guesses(whole: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """T1 and T2 by every method: the network, two dictionaries, and a constant."""
    found = {"DRONE": {name: whole[f"estimate {name}"] for name in RANGES}}
    for low, n in GRIDS:
        values, atoms = dictionary(low, n)
        entry, _ = match(whole["signal"], atoms)
        found[f"matching, {len(values['t1'])} entries"] = {name: axis[entry] for name, axis in values.items()}
    found["constant"] = {name: np.full(len(whole[name]), np.median(whole[name])) for name in RANGES}
    return found


def dictionary(low: float, n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A grid of n values of T1 from ``low`` s on and n of T2, where T2 < T1: the values, and their fingerprints."""
    values = grid(t1=np.linspace(low, 3.0, n), t2=np.geomspace(*RANGES["t2"], n))
    below = values["t2"] < values["t1"]
    values = {name: axis[below] for name, axis in values.items()}
    return values, entries(load("drone_epi"), "clean", values).astype(float)


def drone(shapes: Shapes) -> Drone:
    return Drone(shapes["clean"][0])


CLAIM = (
    "Errors of T1 and T2 below 10 % for SNR above 25 dB, 300 to 5000 times as fast as dictionary matching, and robust "
    "to a coarse dictionary."
)
STAGE = Stage("drone_epi", ("signal",), ("clean", "t1", "t2"), drone, batch=500, steps=10_000)
SYSTEM = System("drone", "doi:10.1002/mrm.27198", (STAGE,), CLAIM, evaluate)
