"""Recurrent inference machine for T1 and T2 mapping, which learns how to follow the likelihood gradient; and a residual
network, its opponent.

Sabidussi et al., Recurrent inference machines as inverse problem solvers for MR relaxometry, Med Image Anal 2021,
doi:10.1016/j.media.2021.102220.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from models import layers
from models.cards import Batch, Row, Shapes, Stage, System, Task

GREY_MATTER, WHITE_MATTER = 2, 3  # codes of the `tissue` map; 0 is background
STEPS = 6  # J of the paper
SHORTEST = 0.005  # s; the recipes draw no shorter relaxation time
T1_MAPS, T2_MAPS = ("amplitude", "efficiency", "t1"), ("amplitude", "t2")
WIDTHS = (40, 40, 80, 80, 160, 320, 160, 80, 80, 40, 6)  # of the ResNet's blocks, as printed
DAMPINGS = (0.01, 0.0003)  # of the curvature, for each image, in squared units of the signal


class Cell(nn.Module):
    """One inference step: maps and likelihood gradient in, an update of the maps and the new memory out."""

    def __init__(self, maps: int, features: int = 36, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.first = nn.Conv2d((1 + len(DAMPINGS)) * maps, features, 3, padding=1)
        self.near = layers.PixelGRU(features, features)
        self.second = nn.Conv2d(features, features, 3, padding=1)
        self.third = nn.Conv2d(features, features, 3, padding=1)
        self.far = layers.PixelGRU(features, features)
        self.last = nn.Conv2d(features, maps, 1)
        self.activation = activation()
        for layer in (self.first, self.second, self.third):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="tanh" if activation is nn.Tanh else "relu")
        nn.init.kaiming_normal_(self.last.weight, nonlinearity="linear")
        with torch.no_grad():  # the untrained search stays near its start: learns faster, measured
            self.last.weight.mul_(0.1)
        for layer in (self.first, self.second, self.third, self.last):
            nn.init.constant_(layer.get_parameter("bias"), 0.0)

    def forward(self, x: Tensor, near: Tensor | None, far: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        near = self.near(self.activation(self.first(x)), near)
        inner = self.activation(self.third(self.activation(self.second(near))))
        far = self.far(inner, far)
        return self.last(far), near, far


class Mapper(Task):
    """Maps of parameters from weighted images: what the networks of the paper share.

    Parameters
    ----------
    rate : float
        Largest learning rate of Adam. The paper has 1e-3 and states no schedule; one cycle up to 3e-3 and down to
        nothing is ours, because it reaches a lower loss in the few hundred batches of a demonstration.
    """

    label: ClassVar[str]
    maps: tuple[str, ...]

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, batch: Batch) -> list[Tensor]:
        """The maps, (batch, Q, y, x), after each step of the inference; the last is the estimate."""
        raise NotImplementedError

    def optimizers(self, steps: int) -> Mapping[str, tuple[Adam, LRScheduler]]:
        adam = Adam(self.parameters(), lr=self.rate)
        return {"adam": (adam, OneCycleLR(adam, self.rate, total_steps=max(2, steps), pct_start=0.2))}

    def updates(self, batch: Batch) -> Iterator[tuple[Tensor, str]]:
        """The root mean square error of a sample, over its steps, maps and tissue; its mean over the batch.

        The error of the relaxation time is relative to the truth, because in seconds csf would own the loss. The root
        makes patches of little noise count as much as those of much. Air is left out: it has no relaxation time.
        """
        shape = batch["tissue"].shape
        truth = torch.stack([broadcast(batch[name], shape) for name in self.maps], 1)
        scale = torch.ones_like(truth)
        scale[:, -1] = truth[:, -1].clamp_min(10 * SHORTEST)
        inside = (batch["tissue"] > 0)[:, None]
        estimates = self(batch)
        errors = sum(((estimate - truth) / scale).square().mul(inside).sum((1, 2, 3)) for estimate in estimates)
        mean = errors / (len(estimates) * inside.sum((1, 2, 3))).clamp_min(1)
        yield (mean + 1e-6).sqrt().mean(), "adam"  # the slope of a root is finite above zero only

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return dict(zip(self.maps, self(batch)[-1].unbind(1), strict=True))


class RIM(Mapper):
    """Maps from weighted images, by J steps of one cell.

    A subclass names its maps, the start of the search and the likelihood. The number of images and their timings are
    read from the batch, so that a trained network takes any.

    Parameters
    ----------
    activation : type of nn.Module
        tanh as in the paper; the authors' published code has ReLU.
    rate : float
        As in `Mapper`.
    """

    label = "RIM"
    time: ClassVar[str]

    def __init__(self, activation: type[nn.Module] = nn.Tanh, rate: float = 3e-3) -> None:
        super().__init__(rate)
        self.cell = Cell(len(self.maps), activation=activation)
        self.cell.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        floor = torch.zeros(len(self.maps), 1, 1)
        floor[-1] = SHORTEST
        self.register_buffer("floor", floor, persistent=False)

    def begin(self, signal: Tensor) -> Tensor:
        """The start of the search, (batch, Q, y, x), from signals (batch, n, y, x)."""
        raise NotImplementedError

    def likelihood(self, batch: Batch, maps: Tensor) -> layers.Likelihood:
        raise NotImplementedError

    def hint(self, batch: Batch, maps: Tensor) -> Tensor:
        """The likelihood gradient as the cell reads it, (batch, 2 Q, y, x), in the units of the maps.

        The plain gradient of sum r^2 / 2 spans orders of magnitude between the maps and grows with the number of
        images; divided by sigma^2, as the likelihood has it, it would explode at low noise; and A, B and T1 are so
        alike in what they do to an inversion recovery that a step of one alone leads nowhere. So it comes as two
        damped Gauss-Newton steps: of order one, independent of the number of images and of sigma. They are those of
        prior knowledge at much and at little noise, and the cell learns which one to trust. They are inputs, so no
        gradient flows back through them.
        """
        with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
            likelihood = self.likelihood(batch, maps.float())
            return torch.cat([likelihood.step(d * batch["signal"].shape[1]) for d in DAMPINGS], 1)

    def forward(self, batch: Batch) -> list[Tensor]:
        """The maps after each of the J steps, (batch, Q, y, x) each."""
        maps = self.begin(batch["signal"])
        near = far = None
        estimates = []
        for _ in range(STEPS):
            x = torch.cat((maps, self.hint(batch, maps)), 1).contiguous(memory_format=torch.channels_last)
            step, near, far = self.cell(x, near, far)
            # reflected at its floor like the absolute value of the published code, so that a gradient always flows
            maps = self.floor + (maps + step - self.floor).abs()
            estimates.append(maps)
        return estimates


class T1(RIM):
    """A, B and T1 of an inversion recovery. 42 447 parameters."""

    maps = T1_MAPS
    time = "inversion_time"

    def begin(self, signal: Tensor) -> Tensor:
        amplitude = signal.amax(1).abs()
        return torch.stack((amplitude, torch.full_like(amplitude, 2.0), torch.full_like(amplitude, 1.0)), 1)

    def likelihood(self, batch: Batch, maps: Tensor) -> layers.Likelihood:
        amplitude, efficiency, t1 = maps.unbind(1)
        time = batch[self.time].to(maps)
        return layers.inversion_recovery_likelihood(batch["signal"], amplitude, efficiency, t1, time)


class T2(RIM):
    """A and T2 of a decay. 41 438 parameters."""

    maps = T2_MAPS
    time = "echo_time"

    def begin(self, signal: Tensor) -> Tensor:
        amplitude = signal.amax(1).abs()
        return torch.stack((amplitude, torch.full_like(amplitude, 0.1)), 1)

    def likelihood(self, batch: Batch, maps: Tensor) -> layers.Likelihood:
        amplitude, t2 = maps.unbind(1)
        return layers.t2_decay_likelihood(batch["signal"], amplitude, t2, batch[self.time].to(maps))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation beside a skip connection, which is 1 x 1 where the width changes.

    In use it normalises by the averages of the training. The authors' code takes the batch's own statistics there too,
    so that a slice's neighbours in a batch change its maps, and a slice alone is far off: measured, and worse.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.skip = nn.Identity()
        if before != width:
            self.skip = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + self.skip(x)).relu()


class ResNet(Mapper):
    """Maps straight from the images by residual blocks; it takes one number of images, that of its training.

    Parameters
    ----------
    images : int
    widths : tuple of int
        Features of the blocks. The paper prints these eleven and speaks of twelve blocks.
    rate : float
        As in `Mapper`.
    """

    label = "ResNet"

    def __init__(
        self, maps: tuple[str, ...], images: int, widths: tuple[int, ...] = WIDTHS, rate: float = 3e-3
    ) -> None:
        super().__init__(rate)
        self.maps = maps
        first = widths[0]
        blocks = [Residual(a, b) for a, b in itertools.pairwise((first, *widths))]
        last = nn.Conv2d(widths[-1], len(maps), 1)
        self.layers = nn.Sequential(
            nn.Conv2d(images, first, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(), *blocks, last
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(last.get_parameter("bias"))
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Batch) -> list[Tensor]:
        """The signal is scaled by its maximum over a patch, and the amplitude scaled back."""
        signal = batch["signal"]
        scale = signal.amax((1, 2, 3)).clamp_min(1e-6)[:, None, None, None]
        maps = self.layers((signal / scale).contiguous(memory_format=torch.channels_last))
        places = [name == "amplitude" for name in self.maps]
        return [torch.where(maps.new_tensor(places).bool()[:, None, None], maps * scale, maps)]


def broadcast(value: Tensor, shape: torch.Size) -> Tensor:
    """A map as it is; one value for each sample as a constant map."""
    return value if value.ndim == len(shape) else value.reshape(-1, 1, 1).expand(shape)


def evaluate(task: Task, batches: Iterable[Batch]) -> list[Row]:
    """Errors of the relaxation time in grey and white matter, beside two controls.

    Controls: a constant map, the median of the truth over all tissue of the evaluated data; and a tissue-mean map,
    with oracle labels and each tissue's mean truth over the evaluated data. Both take their values from the test truth,
    which is stricter than from the training: of all constants, the mean has the least squared error.

    Per method and tissue: `rmse` (ms); `relative rmse` (%: of the tissue's mean truth, because a mean of relative
    errors belongs to the few voxels whose truth is near zero); `median error` and `median bias` (%: of
    |estimate - truth| / truth and of (estimate - truth) / truth); `slope` of the estimate against the truth over voxels
    (1 is right; a constant has 0); and `voxels`.
    """
    if not isinstance(task, Mapper):
        raise TypeError(f"this table is for a network that makes maps, not for a {type(task).__name__}")
    quantity = task.maps[-1]
    found: dict[str, list[Tensor]] = {"estimate": [], "truth": [], "tissue": []}
    for batch in batches:
        inside = batch["tissue"] > 0
        found["estimate"].append(task.predict(batch)[quantity][inside].double().cpu())
        found["truth"].append(batch[quantity][inside].double().cpu())
        found["tissue"].append(batch["tissue"][inside].cpu())
    estimate, truth, tissue = (torch.cat(parts) for parts in found.values())
    if not len(truth):
        return []
    constant = truth.quantile(0.5) if len(truth) < 2**24 else truth.median()
    rows: list[Row] = []
    for name, code in (("grey_matter", GREY_MATTER), ("white_matter", WHITE_MATTER)):
        chosen = tissue == code
        if not chosen.any():
            continue
        right = truth[chosen]
        for method, guess in (
            (task.label, estimate[chosen]),
            ("constant map", constant.expand_as(right)),
            ("tissue-mean map", right.mean().expand_as(right)),
        ):
            rows += [{"quantity": quantity, "method": method, "tissue": name} | row for row in errors_of(guess, right)]
    return rows


def errors_of(estimate: Tensor, truth: Tensor) -> list[Row]:
    """Rows that compare estimates with the truth, (voxel,) in s."""
    error = estimate - truth
    centred = truth - truth.mean()
    spread = centred.square().sum()
    values = {
        "rmse": (error.square().mean().sqrt().item() * 1e3, "ms"),
        "relative rmse": ((error.square().mean().sqrt() / truth.mean()).item() * 100, "%"),
        "median error": ((error / truth).abs().median().item() * 100, "%"),
        "median bias": ((error / truth).median().item() * 100, "%"),
        "slope": ((estimate * centred).sum().item() / spread.item() if spread > 0 else float("nan"), "1"),
        "voxels": (len(truth), "1"),
    }
    return [{"name": name, "value": value, "unit": unit} for name, (value, unit) in values.items()]


def rim_t1(shapes: Shapes) -> RIM:
    return T1()


def rim_t2(shapes: Shapes) -> RIM:
    return T2()


def resnet_t1(shapes: Shapes) -> ResNet:
    return ResNet(T1_MAPS, shapes["signal"][0])


def resnet_t2(shapes: Shapes) -> ResNet:
    return ResNet(T2_MAPS, shapes["signal"][0])


def quarter_resnet_t1(shapes: Shapes) -> ResNet:
    return ResNet(T1_MAPS, shapes["signal"][0], tuple(max(6, width // 4) for width in WIDTHS))


def stage_t1(task: Callable[[Shapes], Task]) -> Stage:
    """Also of the data of rim_t1_23 and rim_t1_25: a stage learns from any store that holds its variables."""
    learns = ("t1", "amplitude", "efficiency", "tissue")
    return Stage("rim_t1", ("signal", "inversion_time"), learns, task, batch=24, steps=3000)


def stage_t2(task: Callable[[Shapes], Task]) -> Stage:
    return Stage("rim_t2", ("signal", "echo_time"), ("t2", "amplitude", "tissue"), task, batch=24, steps=3000)


PAPER = "doi:10.1016/j.media.2021.102220"
CLAIM_T1 = (
    "Lowest variation (CV) of T1 at every SNR from 3 to 100 beside a voxel-wise maximum-likelihood fit and a ResNet, "
    "with comparable median bias above SNR 3; in noisy in-vivo data 6.4 % against 17.1 % and 11.1 %."
)
CLAIM_T2 = "In vivo, T2 differs from a maximum-likelihood fit by 2.4 ms on average, against 32.2 ms for a ResNet."
OPPONENT = "The opponent of the recurrent inference machine: more variation at low SNR, and more blur. "
SYSTEMS = (
    System("rim_t1", PAPER, (stage_t1(rim_t1),), CLAIM_T1, evaluate),
    System("rim_t2", PAPER, (stage_t2(rim_t2),), CLAIM_T2, evaluate),
    System("resnet_t1", PAPER, (stage_t1(resnet_t1),), OPPONENT + CLAIM_T1, evaluate),
    System("resnet_t2", PAPER, (stage_t2(resnet_t2),), OPPONENT + CLAIM_T2, evaluate),
    System(
        "resnet_t1_quarter", PAPER, (stage_t1(quarter_resnet_t1),),
        "resnet_t1 with a quarter of the features, for machines without a GPU. " + OPPONENT + CLAIM_T1, evaluate,
    ),
)  # fmt: skip
