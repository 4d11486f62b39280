"""Fit with NumPy alone; `jax.numpy` takes the batches as they are: `import jax.numpy as np`."""

from pathlib import Path

import numpy as np

from factory.recipe import load
from factory.stream import Batches

batches = Batches(load(Path(__file__).with_name("decay.yaml")), "train", batch=256, seed=1, epochs=20)


def features(signal: np.ndarray) -> np.ndarray:
    """Echoes, their products, and one."""
    pairs = signal[:, :, None] * signal[:, None, :]
    return np.concatenate([signal, pairs[:, *np.triu_indices(signal.shape[1])], np.ones((len(signal), 1))], axis=1)


if __name__ == "__main__":
    seen = 0
    normal, right = np.zeros((28, 28)), np.zeros(28)
    for batch in batches:  # the normal equations, batch by batch
        x = features(batch["signal"].astype("f8"))
        normal, right, seen = normal + x.T @ x, right + x.T @ batch["t2"], seen + len(x)
    weights = np.linalg.solve(normal + 1e-6 * np.eye(28), right)
    error = features(batch["signal"].astype("f8")) @ weights - batch["t2"]
    print(f"{seen} samples, T2 to {1e3 * np.sqrt(np.mean(error**2)):.0f} ms")
