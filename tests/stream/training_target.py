"""One rank of a Lightning training that writes which samples each step of the optimizer learned from.

Three ways to feed it: ``stream`` gives Lightning the stream itself, whose state Lightning keeps; ``loader`` a data
module with a DataLoader and its workers; ``training`` is this project's own module and feed, with micro-batches.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch import Tensor
from torch.utils.data import DataLoader

from factory.recipe import load
from factory.stream import Stream
from models.cards import Batch, Task
from models.training import Feed, Training

Settings = dict[str, Any]


class Diary(Callback):
    """A line for each step of the optimizer, with the amplitudes of the samples that it learned from."""

    def __init__(self, path: Path, pause: float) -> None:
        self.path, self.pause, self.taken, self.steps = path, pause, list[float](), 0

    def note(self, batch: Batch) -> None:
        self.taken += batch["amplitude"].tolist()

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        time.sleep(self.pause)
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        with self.path.open("a") as file:
            file.write(json.dumps([self.steps, self.taken]) + "\n")
        self.taken = []


class Plain(lightning.LightningModule):
    """A linear model, as short as a user would write it."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self.net, self.diary = torch.nn.Linear(6, 1), diary
        self.batches = 0  # of this epoch, in this process

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.diary.note(batch)
        self.batches += 1
        return ((self.net(batch["signal"])[:, 0] - batch["amplitude"]) ** 2).mean()

    def on_train_epoch_end(self) -> None:
        self.batches = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(lightning.LightningDataModule):
    """A loader with workers; the state is where the order stands after the batches that were trained on."""

    def __init__(self, stream: Stream, workers: int, module: Plain) -> None:
        super().__init__()
        self.stream, self.workers, self.module = stream, workers, module

    def train_dataloader(self) -> DataLoader[Any]:
        if self.trainer is not None and self.trainer.current_epoch:
            self.stream.set_epoch(self.trainer.current_epoch)
        return DataLoader(self.stream, batch_size=None, num_workers=self.workers)

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self.stream.state_dict(batches=self.module.batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])


class Line(Task):
    """The same model as a task of this project."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self.net, self.diary = torch.nn.Linear(6, 1), [diary]

    def optimizers(self, steps: int) -> dict[str, Any]:
        return {"net": (torch.optim.SGD(self.parameters(), lr=0.1), None)}

    def updates(self, batch: Batch) -> Iterator[tuple[Tensor, str]]:
        self.diary[0].note(batch)
        yield ((self.net(batch["signal"])[:, 0] - batch["amplitude"]) ** 2).mean(), "net"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def last_checkpoint(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    return found[-1] if found else None


def parts_of(kind: str, stream: Stream, diary: Diary, settings: Settings, checkpoint: Path | None) -> tuple[Any, Any]:
    """The module, and what feeds it."""
    if kind == "training":
        own = {} if checkpoint is None else torch.load(checkpoint, weights_only=True)["training"]
        steps = settings["epochs"] * len(stream)
        module = Training(Line(diary), steps, coordinates=stream.coordinates, micro_batch=settings["micro_batch"])
        return module, Feed(stream, steps, own.get("batches", 0), own.get("stream"))
    plain = Plain(diary)
    return plain, stream if kind == "stream" else Data(stream, settings["workers"], plain)


def train(settings: Settings) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, world, folder = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(settings["folder"])
    torch.distributed.init_process_group("gloo")
    source = settings.get("store") or load(settings["recipe"])
    stream, kind = Stream(source, "train", batch=settings["batch"], seed=settings["seed"]), settings["kind"]
    diary = Diary(folder / f"{settings['run']}-{rank}.jsonl", settings["pause"])
    checkpoint = last_checkpoint(folder)
    module, feed = parts_of(kind, stream, diary, settings, checkpoint)
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=settings["every"], save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=1 if kind == "training" else settings["epochs"], accelerator="cpu", strategy="ddp", devices=world,
        plugins=[TorchElasticEnvironment()], callbacks=[diary, saver], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=settings["accumulate"],
        reload_dataloaders_every_n_epochs=1 if kind == "loader" else 0)
    trainer.fit(module, feed, ckpt_path=checkpoint, weights_only=True)
    torch.distributed.destroy_process_group()


def begin(settings: Settings, given: dict[str, str]) -> None:
    """In a process of its own: with this environment, and what is said goes to a file."""
    os.environ |= given
    multiprocessing.set_start_method("fork", force=True)  # not what this process came by: loader workers see an end
    log = os.open(Path(settings["folder"]) / f"{settings['run']}-{given['RANK']}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    train(settings)


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
