"""One training module for every network: `fit` trains a stage of a system, `evaluate` fills its result table.

Lightning runs the loop and moves data to the device; updates, micro-batches, clipping and schedules are ours, because
networks with several optimizers need them and Lightning leaves them to manual optimisation.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from models import weights
from models.cards import (
    Batch,
    Row,
    Stage,
    System,
    Task,
    TrainingError,
    batch_size,
    check_variables,
    coordinates_of,
    listed,
    shapes_of,
    systems,
    whole,
)
from models.weights import CURVE, RESUME, WEIGHTS, card_of, facts_of, open_run, read_curve, same_facts

__all__ = ["Stage", "System", "Task", "Training", "TrainingError", "evaluate", "fit", "read_curve", "systems"]

State = dict[str, Any] | None


class Feed:
    """Batches of a stream, pass after pass, each with the stream's state after it.

    The state travels with its batch because a loop that fetches ahead would otherwise save a state of batches that
    were never trained on.

    Parameters
    ----------
    stream : iterable of dict of Tensor
        With `state_dict` and `load_state_dict`, or one that gives the same batches whenever it is read.
    steps : int
        Batches of the whole training.
    done, state : int, State
        Batches trained on before, and the stream's state after them.
    """

    def __init__(self, stream: Iterable[Batch], steps: int, done: int = 0, state: State = None) -> None:
        self.stream, self.steps = stream, steps
        resumable = state is not None and hasattr(stream, "load_state_dict")
        if resumable:
            stream.load_state_dict(state)  # type: ignore[attr-defined]
        self.batches = itertools.islice(self._endless(), 0 if resumable else done, None)
        self.first = next(self.batches)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Batch, State]]:
        return itertools.chain([self.first], self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that there is one tells Lightning that resuming in the middle of a pass is taken care of."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: the state came with `state`."""

    def _endless(self) -> Iterator[tuple[Batch, State]]:
        idle = 0  # a pass may be empty once: a state may have been taken after the last batch of one
        while idle < 2:
            idle += 1
            for batch in self.stream:
                idle = 0
                yield batch, self._state()
            state = self._state()
            if state is not None and "epoch" in state and hasattr(self.stream, "set_epoch"):
                self.stream.set_epoch(state["epoch"])
        raise TrainingError("the stream gave no batch; it needs at least one batch of samples in each pass.")

    def _state(self) -> State:
        return self.stream.state_dict() if hasattr(self.stream, "state_dict") else None


class Training(lightning.LightningModule):
    """The LightningModule of every stage. `batches` counts the batches trained on, not the optimizer's steps.

    Parameters
    ----------
    task : Task
        What learns.
    steps : int
        Batches of the whole training, for the schedules.
    coordinates : collection of str
        Names in a batch that have no batch axis.
    facts : mapping
        What a checkpoint must agree with, numbers and strings.
    micro_batch : int, optional
        Samples whose gradients are computed at once; they add up to the step of the whole batch.
    clip : float, optional
        Largest norm of the gradient of one optimizer's parameters.
    """

    def __init__(
        self,
        task: Task,
        steps: int,
        *,
        coordinates: Collection[str] = (),
        facts: Mapping[str, object] | None = None,
        micro_batch: int | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.task, self.steps, self.coordinates = task, steps, frozenset(coordinates)
        self.facts, self.micro_batch, self.clip = dict(facts or {}), micro_batch, clip
        self.batches, self.seconds = 0, 0.0
        self.stream_state: State = None
        self.losses: dict[str, Tensor] = {}
        self._numbers: dict[str, int] = {}
        self._schedules: dict[str, int] = {}

    def configure_optimizers(self) -> Any:
        pairs = self.task.optimizers(self.steps)
        self._numbers = {name: number for number, name in enumerate(pairs)}
        scheduled = [name for name, (_, scheduler) in pairs.items() if scheduler is not None]
        self._schedules = {name: number for number, name in enumerate(scheduled)}
        return [pair[0] for pair in pairs.values()], [
            {"scheduler": pairs[name][1], "interval": "step"} for name in scheduled
        ]

    def training_step(self, pair: tuple[Batch, State], index: int) -> None:
        batch, state = pair
        optimizers, schedulers = sequence(self.optimizers()), sequence(self.lr_schedulers())
        pieces, shares = self._pieces(batch)
        runs = [self.task.updates(piece) for piece in pieces]
        self.losses = {}
        for update in runs[0]:
            self._update(itertools.chain([update], map(self._next, runs[1:])), shares, optimizers)
        for name in self.losses:
            if name in self._schedules:
                schedulers[self._schedules[name]].step()
        self.batches, self.stream_state = self.batches + 1, state

    def _pieces(self, batch: Batch) -> tuple[list[Batch], list[float]]:
        """Micro-batches and their shares of the samples."""
        size = batch_size(batch, self.coordinates)
        step = min(self.micro_batch or size, size)
        parts = [slice(start, min(start + step, size)) for start in range(0, size, step)]
        pieces: list[Batch] = [
            {name: v if name in self.coordinates else v[part] for name, v in batch.items()} for part in parts
        ]
        return pieces, [(part.stop - part.start) / size for part in parts]

    def _update(self, losses: Iterable[tuple[Tensor, str]], shares: Sequence[float], optimizers: Sequence[Any]) -> None:
        """One step of one optimizer, from the gradients of all micro-batches."""
        total = torch.zeros((), device=self.device)
        names: list[str] = []
        for (loss, name), share in zip(losses, shares, strict=True):
            optimizer = optimizers[self._number(name)]
            if not names:
                optimizer.zero_grad()
            names.append(name)
            self.manual_backward(loss * share)
            total = total + loss.detach() * share
        if len(set(names)) > 1:
            raise TrainingError(f"updates() must step one optimizer after another, not {listed(names)} at once.")
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the loss of {name} is {total.item()} at batch {self.batches + 1}: look for undefined values in the "
                "data, or lower the learning rate."
            )
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)
        optimizer.step()
        self.losses[name] = self.losses.get(name, torch.zeros_like(total)) + total

    def _next(self, run: Iterator[tuple[Tensor, str]]) -> tuple[Tensor, str]:
        update = next(run, None)
        if update is None:
            raise TrainingError("updates() must yield as many losses for every micro-batch.")
        return update

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            known = listed(self._numbers)
            raise TrainingError(f"updates() yields the optimizer {name!r}, but optimizers() has {known}.")
        return self._numbers[name]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = {
            "facts": self.facts,
            "batches": self.batches,
            "seconds": self.seconds,
            "stream": self.stream_state,
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["training"]
        self.batches, self.seconds, self.stream_state = own["batches"], own["seconds"], own["stream"]
        torch.set_rng_state(own["random"])
        if own["random_device"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["random_device"])


class Ledger(Callback):
    """Writes the learning curve and the checkpoint of a run, validates, and shows how far it is."""

    def __init__(
        self,
        system: System,
        out: Path,
        *,
        validation: Iterable[Batch] | None,
        every: tuple[int, int, int],
        progress: bool,
    ) -> None:
        self.system, self.out, self.validation = system, out, validation
        self.validate_every, self.save_every, self.log_every = every
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        told = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
        self.bar = Progress(*told, TimeRemainingColumn(), disable=not progress)
        self.row = self.bar.add_task(system.name, loss="")

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Training)
        self.begun = time.monotonic() - module.seconds
        self.bar.update(self.row, total=module.steps, completed=module.batches)
        self.bar.start()

    def on_train_end(self, *_: object) -> None:
        self.bar.stop()

    def on_exception(self, *_: object) -> None:
        self.bar.stop()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        assert isinstance(module, Training)
        step, last = module.batches, module.batches == module.steps
        module.seconds = time.monotonic() - self.begun
        for name, loss in module.losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss
            self.counts[name] = self.counts.get(name, 0) + 1
        rows: list[Row] = []
        if step % self.log_every == 0 or last:
            rows += [loss_row("train", name, (self.sums[name] / self.counts[name]).item()) for name in self.sums]
            self.bar.update(self.row, loss=" ".join(f"{row['value']:.4g}" for row in rows))
            self.sums, self.counts = {}, {}
        if self.validation is not None and (step % self.validate_every == 0 or last):
            rows += validate(self.system, module.task, self.validation, module.device)
        self._write({"step": step, "seconds": round(module.seconds, 2)}, rows)
        if step % self.save_every == 0 and not last:
            partial = self.out / (RESUME + ".part")
            trainer.save_checkpoint(partial)
            os.replace(partial, self.out / RESUME)
        self.bar.update(self.row, completed=step)

    def _write(self, when: Row, rows: Iterable[Row]) -> None:
        with (self.out / CURVE).open("a") as file:
            file.writelines(json.dumps(when | row) + "\n" for row in rows)


def fit(
    system: System,
    stream: Iterable[Batch],
    *,
    out: str | os.PathLike[str],
    stage: int = 0,
    steps: int | None = None,
    seed: int = 0,
    start: str | os.PathLike[str] | None = None,
    resume: bool = False,
    validation: Iterable[Batch] | None = None,
    validate_every: int | None = None,
    save_every: int | None = None,
    log_every: int = 10,
    micro_batch: int | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: str = "auto",
    progress: bool = True,
) -> Path:
    """Train one stage of a system.

    Parameters
    ----------
    system : System
        The card.
    stream : iterable of dict of Tensor
        Each pass over it is an epoch; passes follow one another until `steps` batches are trained on. With
        `state_dict` and `load_state_dict` it goes on where a stopped run was.
    out : path-like
        Folder of the run: `curve.jsonl` (rows with step, seconds, split, name, value), `resume.ckpt` while it runs,
        `weights.safetensors` in the end.
    stage, steps, seed : int
        Which stage, how many batches (default: the card's), and of torch's random numbers. The same seed gives the
        same weights to the bit on one thread; on several, torch's own sums differ from run to run.
    start : path-like, optional
        Weights of the earlier stage that the card starts from.
    resume : bool
        Go on with the run in `out`, which must be of the same system, data, seed and number of steps. A finished run
        is left as it is; an empty folder starts one.
    validation : iterable of dict of Tensor, optional
        Evaluated every `validate_every` batches (default: ten times) with the card's table; use an unshuffled stream.
    save_every : int, optional
        Batches between checkpoints (default: twenty times).
    micro_batch : int, optional
        Samples whose gradients are computed at once, where memory is short.
    precision, accelerator : str
        As Lightning's Trainer names them.

    Returns
    -------
    Path
        The weights file.

    Raises
    ------
    TrainingError
        The stream, the folder or a checkpoint does not fit; the sentence says what and what to do.
    FloatingPointError
        The loss is not finite.
    """
    out = Path(out)
    steps = card_of(system, stage).steps if steps is None else steps
    facts = facts_of(system, stage, steps, seed, stream)
    checkpoint = open_run(out, resume)
    if resume and checkpoint is None and (out / WEIGHTS).exists():
        same_facts(weights.read(out / WEIGHTS)[1], facts, out)
        return out / WEIGHTS
    if checkpoint is not None:
        same_facts(checkpoint["facts"], facts, out)
    feed = Feed(stream, steps, *([] if checkpoint is None else [checkpoint["batches"], checkpoint["stream"]]))
    every = (validate_every or max(1, steps // 10), save_every or max(1, steps // 20), log_every)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), quiet():
        module = prepare(system, stage, feed, facts, start=start, micro_batch=micro_batch)
        if checkpoint is not None:
            same_facts(checkpoint["facts"], module.facts, out)
            weights.fill(module, checkpoint["tensors"], out / RESUME)
        ledger = Ledger(system, out, validation=validation, every=every, progress=progress)
        run(trainer_of(ledger, precision, accelerator), module, feed, None if checkpoint is None else out / RESUME)
    weights.save(out / WEIGHTS, module.task, module.facts)
    (out / RESUME).unlink(missing_ok=True)
    return out / WEIGHTS


def evaluate(
    system: System, checkpoint: str | os.PathLike[str], stream: Iterable[Batch], *, device: str = "cpu"
) -> list[Row]:
    """The card's result table for a weights file on data.

    Parameters
    ----------
    system : System
        The card; weights of another system are refused.
    checkpoint : path-like
        `weights.safetensors` of a run.
    stream : iterable of dict of Tensor
        One pass is read. Copies that pad the last batch (`mask`) are left out.

    Returns
    -------
    list of dict
        Rows with at least `name` and `value`.

    Raises
    ------
    TrainingError
        The weights or the data do not fit.
    """
    batches = iter(stream)
    first = next(batches, None)
    if first is None:
        raise TrainingError("the stream gave no batch to evaluate; look at the number of samples and the batch size.")
    stage = weights.number_of_stage(system, weights.read(checkpoint)[1], checkpoint)
    check_variables(system, stage, first.keys())
    coordinates = coordinates_of(stream, first)
    task = weights.load(system, checkpoint, shapes=shapes_of(first, coordinates)).to(device)
    with torch.inference_mode():
        return system.evaluate(task, placed(itertools.chain([first], batches), coordinates, device))


def validate(system: System, task: Task, batches: Iterable[Batch], device: torch.device) -> list[Row]:
    """Validation loss and the card's table, without a trace in the training's random state."""
    training = task.training
    task.eval()
    stored: list[Batch] = []
    sums: dict[str, float] = {}
    size = 0
    coordinates: frozenset[str] = frozenset()
    with torch.random.fork_rng(devices=[]):
        for batch in batches:
            coordinates = coordinates_of(batches, batch)
            stored.append(batch)
            part = next(placed([batch], coordinates, device))
            count = batch_size(part, coordinates)
            size += count
            with torch.enable_grad():  # a loss may hold derivatives, as that of a physics-informed network
                for loss, name in task.updates(part):
                    sums[name] = sums.get(name, 0.0) + float(loss.detach()) * count
        with torch.no_grad():
            table = system.evaluate(task, placed(stored, coordinates, device))
    task.train(training)
    return [loss_row("validation", name, total / size) for name, total in sums.items()] + [
        {"split": "validation"} | row for row in table
    ]


def placed(batches: Iterable[Batch], coordinates: Collection[str], device: str | torch.device) -> Iterator[Batch]:
    """Batches on a device, without padding."""
    for batch in batches:
        yield {name: value.to(device) for name, value in whole(batch, coordinates).items()}


def loss_row(split: str, optimizer: str, value: float) -> Row:
    return {"split": split, "name": "loss", "optimizer": optimizer, "value": value}


def trainer_of(ledger: Ledger, precision: Literal["32-true", "bf16-mixed"], accelerator: str) -> lightning.Trainer:
    """Lightning's loop, without what the ledger does."""
    return lightning.Trainer(
        max_epochs=1,
        accelerator=accelerator,
        devices=1,
        # Given, not looked for: looking for MPI starts it, with daemons that listen to the network
        plugins=[LightningEnvironment()],
        precision=precision,
        callbacks=[ledger],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=ledger.out,
    )


def run(trainer: lightning.Trainer, module: Training, feed: Feed, checkpoint: Path | None) -> None:
    """Train to the last batch."""
    with warnings.catch_warnings():  # where SLURM is installed, Lightning advises srun, which one device does not need
        warnings.filterwarnings("ignore", message="The `srun` command")
        trainer.fit(module, feed, ckpt_path=checkpoint, weights_only=True)
    if module.batches != module.steps:
        raise TrainingError(f"the training stopped after {module.batches} of {module.steps} batches; resume it.")


def prepare(
    system: System,
    stage: int,
    feed: Feed,
    facts: dict[str, Any],
    *,
    start: str | os.PathLike[str] | None,
    micro_batch: int | None,
) -> Training:
    """The module of a stage for the stream's first batch, its task made from the seed, with the complete facts."""
    coordinates = inspect(system, stage, feed, micro_batch)
    shapes = shapes_of(feed.first[0], coordinates)
    known = {"batch": batch_size(feed.first[0], coordinates), "shapes": {name: [*v] for name, v in shapes.items()}}
    torch.manual_seed(facts["seed"])
    card = system.stages[stage]
    task = card.task(shapes)
    begin(system, stage, task, start)
    return Training(
        task, feed.steps, coordinates=coordinates, facts=facts | known, micro_batch=micro_batch, clip=card.clip
    )


def inspect(system: System, stage: int, feed: Feed, micro_batch: int | None) -> frozenset[str]:
    """Check the first batch; return the names of its coordinates."""
    first = feed.first[0]
    check_variables(system, stage, first.keys())
    coordinates = coordinates_of(feed.stream, first)
    size = batch_size(first, coordinates)
    unclear = [name for name, v in first.items() if v.ndim == 1 and name not in coordinates]
    if micro_batch is not None and unclear and not hasattr(feed.stream, "coordinates"):
        raise TrainingError(
            f"{listed(unclear)} may be a value for each of the {size} samples, or a coordinate as long as the "
            "batch; micro-batches need a stream that says which (its attribute `coordinates`)."
        )
    return coordinates


def begin(system: System, stage: int, task: Task, start: str | os.PathLike[str] | None) -> None:
    """Copy the weights of the earlier stage where the card starts from one."""
    origin = system.stages[stage].start_from
    if (origin is None) != (start is None):
        raise TrainingError(
            f"stage {stage} of {system.name} starts from the weights of stage {origin}; give them (start=...)."
            if start is None
            else f"stage {stage} of {system.name} starts from scratch, but {start} was given; leave it out."
        )
    if start is None:
        return
    tensors, facts = weights.read(start)
    found = weights.number_of_stage(system, facts, start)
    if found != origin:
        raise TrainingError(f"{start} is of stage {found}, but stage {stage} of {system.name} starts from {origin}.")
    weights.fill(task, tensors, start, partly=True)


def sequence(value: Any) -> Sequence[Any]:
    """Lightning hands out one object, a list of them, or None."""
    return [] if value is None else value if isinstance(value, list) else [value]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning tells about devices and its other products, and one warning about its own code.

    All other warnings stay.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 flattens batches with a class that torch 2.13 has renamed
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
