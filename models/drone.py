"""DRONE: T1, T2 and B1 of a voxel from its MR fingerprint, by a small fully connected network.

Cohen, Zhu, Rosen 2018, doi:10.1002/mrm.27198.  As in the paper: two hidden layers of 300, mean squared error, Adam,
fresh noise in every batch.  Ours: targets are logarithms (a squared error of T2 itself neglects short ones), hidden
layers are rectified, the rate falls along a cosine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from factory.recipe import load
from models.cards import Batch, Row, Shapes, Stage, System, Task
from models.classical.dictionary import entries, grid, match

Ranges = Mapping[str, tuple[float, float]]
EPI: Ranges = {"t1": (0.02, 3.0), "t2": (0.02, 0.5)}  # s; of the recipes
FISP: Ranges = {**EPI, "b1": (0.8, 1.2)}
SNR = 19.953  # 26 dB of the whole vector
GRIDS = {  # lowest T1 in s, number of values of T1 and of T2, and of B1
    "drone_epi": ((0.1, 14, 1), (0.1, 60, 1), (0.02, 120, 1)), "drone_fisp": ((0.1, 14, 3), (0.1, 40, 9)),
}  # fmt: skip


class Drone(Task):
    """Fingerprint of unit norm in, logarithms of T1 and T2 (and of B1 where it is drawn) between 0 and 1 out."""

    def __init__(self, frames: int, ranges: Ranges = EPI, width: int = 300) -> None:
        super().__init__()
        self.ranges = ranges
        self.net = nn.Sequential(nn.Linear(frames, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                 nn.Linear(width, len(ranges)), nn.Sigmoid())  # fmt: skip

    def optimizers(self, steps: int) -> Mapping[str, tuple[Adam, LRScheduler | None]]:
        adam = Adam(self.parameters(), 1e-3)
        return {"adam": (adam, CosineAnnealingLR(adam, max(1, steps)))}

    def updates(self, batch: Batch) -> Iterator[tuple[Tensor, str]]:
        clean = functional.normalize(batch["clean"], dim=1)
        noise = torch.randn_like(clean) / (SNR * clean.shape[1] ** 0.5)
        found = self.net(functional.normalize(clean + noise, dim=1))
        targets = torch.stack([scaled(batch[name], *ends) for name, ends in self.ranges.items()], 1)
        yield functional.mse_loss(found, targets), "adam"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        found = self.net(functional.normalize(batch["signal"], dim=1))
        return {name: found[:, k].double().mul(np.log(high / low)).exp().mul(low).float()
                for k, (name, (low, high)) in enumerate(self.ranges.items())}  # fmt: skip


def scaled(values: Tensor, low: float, high: float) -> Tensor:
    """Where values lie between the ends of their range, on a logarithmic scale."""
    return (values / low).log() / np.log(high / low)


def evaluate(task: Task, batches: Iterable[Batch], recipe: str = "drone_epi", ranges: Ranges = EPI) -> list[Row]:
    """Mean relative errors of what noisy fingerprints tell, beside matching on some grids and a constant.

    The constant is the median of the truth over the evaluated data.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        told = task.predict(batch)
        for name, values in ({"signal": batch["signal"]} | {f"estimate {k}": v for k, v in told.items()}
                             | {k: batch[k] for k in ranges}).items():  # fmt: skip
            found.setdefault(name, []).append(values.cpu())
    whole = {name: torch.cat(parts).double().numpy() for name, parts in found.items()}
    rows: list[Row] = []
    for method, guess in guesses(whole, recipe, ranges).items():
        for name in ranges:
            error = 100 * np.abs(guess[name] / whole[name] - 1)
            what = {"quantity": name, "method": method, "name": "mean relative error"}
            rows.append(what | {"value": float(error.mean()), "unit": "%"})
    return rows


def guesses(whole: Mapping[str, np.ndarray], recipe: str, ranges: Ranges) -> dict[str, dict[str, np.ndarray]]:
    """Every quantity by every method: the network, dictionaries, and a constant."""
    found = {"DRONE": {name: whole[f"estimate {name}"] for name in ranges}}
    for size in GRIDS[recipe]:
        values, atoms = dictionary(recipe, *size)
        entry, _ = match(whole["signal"], atoms)
        found[f"matching, {len(values['t1'])} entries"] = {name: axis[entry] for name, axis in values.items()}
    found["constant"] = {name: np.full(len(whole[name]), np.median(whole[name])) for name in ranges}
    return found


def dictionary(recipe: str, low: float, n: int, fields: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A grid of n values of T1 from ``low`` s on, n of T2 < T1 and some of B1: the values, and their fingerprints."""
    b1 = np.linspace(*FISP["b1"], fields) if fields > 1 else np.ones(1)
    values = grid(t1=np.linspace(low, 3.0, n), t2=np.geomspace(*EPI["t2"], n), b1=b1)
    below = values["t2"] < values["t1"]
    values = {name: axis[below] for name, axis in values.items()}
    return values, entries(load(recipe), "clean", values).astype(float)


def drone(shapes: Shapes, ranges: Ranges = EPI) -> Drone:
    return Drone(shapes["clean"][0], ranges)


CLAIM = (
    "Errors of T1 and T2 below 10 % for SNR above 25 dB, 300 to 5000 times as fast as dictionary matching, and robust "
    "to a coarse dictionary."
)
SYSTEMS = (
    System("drone", "doi:10.1002/mrm.27198",
           (Stage("drone_epi", ("signal",), ("clean", *EPI), drone, batch=500, steps=10_000),), CLAIM, evaluate),
    System("drone_fisp", "doi:10.1002/mrm.27198",
           (Stage("drone_fisp", ("signal",), ("clean", *FISP), partial(drone, ranges=FISP), batch=500, steps=10_000),),
           CLAIM, partial(evaluate, recipe="drone_fisp", ranges=FISP)),
)  # fmt: skip
