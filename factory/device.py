"""Where kernels run: on the processor, or on a graphics card through CUDA.

The choice holds for a process, and for the workers that it starts.  It is no part of a recipe, and changes no bytes:
kernels of both kinds are made of the same IEEE operations in the same order.
"""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

Device = Literal["cpu", "cuda"]
STEPS = frozenset({  # what has kernels for a card; the others stay on the processor beside it
    "epg.fisp", "epg.spoiled_gradient_echo", "epg.balanced", "epg.tse", "bloch.voxel", "bloch.scan",
    "bloch.diffusing", "bloch.flowing"})
_chosen: list[Device] = []


class DeviceError(ValueError):
    """There is no such device, or it cannot be used; the sentence says why and what to do."""


def choose(device: str) -> None:
    """Run kernels on the processor (cpu) or on a graphics card (cuda) from now on.

    Raises
    ------
    DeviceError
        No such device, or no card that can be used.
    """
    if device not in get_args(Device):
        raise DeviceError(f"there is no device {device!r}; choose one of {', '.join(get_args(Device))}")
    if device == "cuda":
        demand("here", missing())
    _chosen[:] = [device]  # type: ignore[list-item]


def demand(where: str, why: str) -> None:
    """Raise DeviceError where `missing` says why no card can be used."""
    if why:
        raise DeviceError(f"kernels cannot run on a graphics card {where}: {why}. Leave out --device (or "
                          "FACTORY_DEVICE) to run them on the processor; the samples are the same")


def chosen() -> Device:
    """The device that was chosen, or that the environment variable FACTORY_DEVICE names; else the processor."""
    if not _chosen:
        choose(os.environ.get("FACTORY_DEVICE", "cpu"))
    return _chosen[0]


def missing() -> str:
    """Why no graphics card can be used; empty if one can."""
    try:
        from numba import cuda
    except ImportError as error:
        return f"numba.cuda cannot be imported ({error}); pip install 'mr-factory[gpu]'"
    if cuda.is_available():
        return ""
    try:
        cuda.current_context()
    except Exception as error:
        said = " ".join(str(error).removeprefix("Error at driver init:").split()).partition(". ")[0].strip(" .:")
        return f"{said} (it takes an NVIDIA card, its driver and pip install 'mr-factory[gpu]')"
    return ""


def card() -> str:
    """The card's name and compute capability, such as ``NVIDIA H200 (9.0)``."""
    from numba import cuda

    device: Any = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return f"{name} ({'.'.join(map(str, device.compute_capability))})"
