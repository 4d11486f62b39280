"""What a reviewed network says about itself: the card of a system, its stages, and the task that a stage trains.

Nothing here imports Lightning, so that a card can be read quickly.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Batch = Mapping[str, Tensor]
Row = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
NO_SYSTEMS = ("cards", "estimation", "layers", "training", "weights")  # files of models/ that hold no card


class TrainingError(ValueError):
    """What was given does not fit the network; the sentence says what was given, what was expected and what to do."""


class Task(nn.Module, ABC):
    """What one stage trains: the networks, how they learn from a batch, and what they tell about one.

    Batches hold variables (batch, ...), per-sample scalars (batch,) and coordinates (n,), by name.
    """

    @abstractmethod
    def optimizers(self, steps: int) -> Mapping[str, tuple[Optimizer, LRScheduler | None]]:
        """Optimizers by name, with their schedules over `steps` batches.

        A scheduler moves at the end of every batch in which its optimizer has stepped.
        """

    @abstractmethod
    def updates(self, batch: Batch) -> Iterator[tuple[Tensor, str]]:
        """Yield (loss, name of the optimizer to step), lazily.

        The optimizer has stepped when the generator goes on, so that an adversarial task yields twice and its second
        loss sees the critic that the first one has improved. A loss that is a mean over the samples of the batch lets
        micro-batches add up to exactly the same step.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Estimates, (batch, ...) each, under the names and in the units of the variables that they estimate."""


@dataclass(frozen=True)
class Stage:
    """One training of a system.

    Attributes
    ----------
    recipe : str
        Name of the recipe whose data the stage learns from.
    reads, learns : tuple of str
        Variables and coordinates that the network sees; those that its loss and its table need besides.
    task : callable
        (shapes of all variables without the batch axis) -> Task, freshly initialised from torch's random state.
    batch, steps : int
        The published number of samples of a batch, and of batches.
    start_from : int, optional
        The earlier stage whose weights this one starts from.
    clip : float, optional
        Largest norm of the gradient of one optimizer's parameters.
    """

    recipe: str
    reads: tuple[str, ...]
    learns: tuple[str, ...]
    task: Callable[[Shapes], Task]
    batch: int
    steps: int
    start_from: int | None = None
    clip: float | None = None


@dataclass(frozen=True)
class System:
    """The card of a reviewed network.

    Attributes
    ----------
    name : str
        As in `factory train NAME`.
    paper : str
        The DOI.
    stages : tuple of Stage
        Trained one after the other; the last one is the result.
    claim : str
        What the paper claims, in one or two sentences with its numbers.
    evaluate : callable
        (task, batches) -> rows of the result table, with the controls beside the network. A row holds numbers, strings
        and booleans; among them `name` and `value`, and `unit`, `tissue`, `method` ... as the system needs.
    """

    name: str
    paper: str
    stages: tuple[Stage, ...]
    claim: str
    evaluate: Callable[[Task, Iterable[Batch]], list[Row]]


def systems() -> dict[str, System]:
    """All cards by name: every `models/*.py` with a `SYSTEM`, or with several `SYSTEMS`."""
    package = importlib.import_module("models")
    found: dict[str, System] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        if entry.ispkg or entry.name in NO_SYSTEMS:
            continue
        module = importlib.import_module(f"models.{entry.name}")
        cards: Sequence[System] = getattr(module, "SYSTEMS", None) or [module.SYSTEM]
        for card in cards:
            if card.name in found:
                raise TrainingError(f"two systems are called {card.name}; rename one of them (models/{entry.name}.py)")
            found[card.name] = card
    return dict(sorted(found.items()))


def check_variables(system: System, stage: int, given: Collection[str]) -> None:
    """Refuse a stream that lacks a variable which the stage reads or learns."""
    card = system.stages[stage]
    lacking = [name for name in dict.fromkeys(card.reads + card.learns) if name not in given]
    if not lacking:
        return
    near = {name: difflib.get_close_matches(name, given, n=1) for name in lacking}
    hints = "".join(f" ({found[0]} is near {name})" for name, found in near.items() if found)
    raise TrainingError(
        f"{system.name} reads {listed(card.reads)} and learns {listed(card.learns)}, but the data hold "
        f"{listed(sorted(given))}: {listed(lacking)} {'is' if len(lacking) == 1 else 'are'} missing{hints}. "
        f"Add it to `keep:` of the recipe, or use data of the recipe {card.recipe}."
    )


def coordinates_of(stream: object, batch: Batch) -> frozenset[str]:
    """Names of the tensors in a batch that have no batch axis.

    A stream may say so itself (`stream.coordinates`); else they are the 1-D tensors whose length is not that of the
    batch, which is the first axis of all others.
    """
    declared = getattr(stream, "coordinates", None)
    if declared is not None:
        return frozenset(declared) & batch.keys()
    sizes = {len(value) for value in batch.values() if value.ndim > 1}
    return frozenset(name for name, value in batch.items() if value.ndim == 1 and sizes and len(value) not in sizes)


def batch_size(batch: Batch, coordinates: Collection[str]) -> int:
    """Number of samples of a batch; refuses tensors that disagree."""
    sizes = {name: len(value) if value.ndim else 0 for name, value in batch.items() if name not in coordinates}
    if not sizes or len(set(sizes.values())) > 1:
        raise TrainingError(
            f"the tensors of one batch need one number of samples on their first axis, but this batch holds "
            f"{listed(f'{name}: {size}' for name, size in sizes.items()) or 'none'}."
        )
    return next(iter(sizes.values()))


def shapes_of(batch: Batch, coordinates: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch axis; a coordinate keeps its own."""
    return {name: tuple(v.shape if name in coordinates else v.shape[1:]) for name, v in batch.items()}


def whole(batch: Batch, coordinates: Collection[str]) -> dict[str, Tensor]:
    """The batch without the copies that pad it (`mask` False), and without the mask."""
    if "mask" not in batch:
        return dict(batch)
    keep = batch["mask"]
    return {name: v if name in coordinates else v[keep] for name, v in batch.items() if name != "mask"}


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)
