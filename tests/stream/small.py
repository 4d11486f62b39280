"""What the tests of the stream share: a small recipe whose samples tell their own number."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch

import factory
from factory.recipe import Recipe, load

ROOT = Path(__file__).parents[2]
RECIPE = """\
about: a signal of six echoes
seed: 3
shard: 8
splits:
  train: {samples: 101}
draw:
  t2: {uniform: [10 ms, 300 ms]}
  amplitude: {uniform: [0.5, 1]}
  sigma: {constant: 0.05}
chain:
  - relaxation.t2_decay: {echo_time: {values: [10, 20, 40, 80, 120, 160], unit: ms}, as: {signal: clean}}
  - noise.gaussian: {signal: clean, as: {measured: signal}}
keep: [signal, amplitude]
"""
TWO_SPLITS = (RECIPE.replace("draw:\n", "  study: {levels: {subject: 5, noise: 6}}\ndraw:\n")
              .replace("300 ms]}", "300 ms], at: subject}").replace(" amplitude]", " {clean: complex64}]"))
FLAT = TWO_SPLITS.replace(", at: subject", "").replace("{levels: {subject: 5, noise: 6}}", "{samples: 30}")
N = 101
CHUNK_BYTES = 40  # least size of an inner chunk of their store


def recipe_in(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "echoes.yaml"
    path.write_text(text)
    return path


def amplitudes(recipe: Recipe) -> np.ndarray:
    """The drawn amplitude of every sample of the training split; no two are equal."""
    found: np.ndarray = factory.make(recipe, "train", 0, recipe.splits["train"].samples).amplitude.values
    assert len(np.unique(found)) == len(found)
    return found


def told(values: Any, known: np.ndarray) -> list[int]:
    """Which samples these amplitudes belong to."""
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known[order], np.asarray(values)), len(known) - 1)]
    assert np.array_equal(known[found], np.asarray(values)), "no sample has this amplitude"
    return [int(i) for i in found]


def small_recipe(folder: Path, **samples: int) -> Recipe:
    return load(recipe_in(folder), samples=samples or None)


def environment(**more: str) -> dict[str, str]:
    """For a process that runs the project's code from wherever it stands."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def agent_store(world: int) -> tuple[torch.distributed.TCPStore, dict[str, str]]:
    """Where ranks meet, on this machine only, and the environment that torchrun would give each beside its rank."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False,
                                       master_listen_fd=listener.detach())
    return store, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
                   "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_USE_AGENT_STORE": "True",
                   "TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
