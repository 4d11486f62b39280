"""Train with Lightning: the trainer keeps the state of the stream in its checkpoints and goes on in the middle."""

import tempfile
from pathlib import Path

import lightning.pytorch as lightning
import torch

from factory.recipe import load
from factory.stream import Stream


class T2(lightning.LightningModule):
    """A small network that learns T2 from six echoes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.net(batch["signal"])[:, 0], batch["t2"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    recipe = load(Path(__file__).with_name("decay.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        for steps in (10, 32):  # the second trainer goes on after the tenth batch
            stream = Stream(recipe, "train", batch=64, seed=1)
            trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", devices=1, logger=False,
                                        default_root_dir=folder, enable_progress_bar=False)
            checkpoint = Path(folder, "last.ckpt")
            trainer.fit(T2(), stream, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
            trainer.save_checkpoint(checkpoint)
            print(trainer.global_step, "steps; the stream stands at", stream.state_dict()["consumed"], "samples")
