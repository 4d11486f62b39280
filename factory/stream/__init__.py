"""Batches for PyTorch (`Stream`), and of NumPy arrays for everything else (`Batches`), which needs no torch."""

from typing import Any

from factory.stream.batches import Batches, State
from factory.stream.members import Member, Source

try:
    from factory.stream.buffers import Batch, on_device
    from factory.stream.tensors import Stream
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise

    def __getattr__(name: str) -> Any:
        if name in ("Batch", "Stream", "on_device"):
            raise ImportError(f"{name} needs PyTorch: pip install torch, or use factory.stream.Batches, which gives "
                              "NumPy arrays")
        raise AttributeError(name)

__all__ = ["Batch", "Batches", "Member", "Source", "State", "Stream", "on_device"]
