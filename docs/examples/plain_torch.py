"""Train with plain PyTorch, two loader workers making samples live, and go on where a run stopped."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader

from factory.recipe import load
from factory.stream import Stream

recipe = load(Path(__file__).with_name("decay.yaml"))
stream = Stream(recipe, "train", batch=64, seed=1)
model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def train(batches_to_take: int) -> dict:
    """Some batches of the epoch; returns where the order stands."""
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    for taken, batch in enumerate(loader, 1):
        loss = torch.nn.functional.mse_loss(model(batch["signal"])[:, 0], batch["t2"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if taken == batches_to_take:
            break
    print(f"{taken} batches, loss {loss.item():.4f}")
    return stream.state_dict(batches=taken)


if __name__ == "__main__":
    state = train(10)  # keep it in your checkpoint, next to the weights
    stream.load_state_dict(state)
    print("goes on after", state["consumed"], "samples")
    train(1000)  # the rest of the epoch, with the samples that come next
    stream.set_epoch(1)
    train(1000)
