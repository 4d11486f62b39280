"""A batch with the names that its store gives it, for looking at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from factory.stream.members import Variable


def labelled(batch: Mapping[str, Any], variables: Mapping[str, Variable], coordinates: frozenset[str]) -> xr.Dataset:
    """Dims, units and coordinates for a batch of arrays or tensors.

    What no variable is called, or has another number of axes than it (after a transform), gets dims of its own name.
    """
    found: dict[str, Any] = {}
    for name, values in batch.items():
        array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
        known = variables.get(name)
        dims = (() if name in coordinates else ("sample",)) + (known.dims if known is not None else ())
        if len(dims) != array.ndim:
            dims = ("sample", *(f"{name}_{axis}" for axis in range(1, array.ndim)))
        found[name] = (dims, array, {"units": known.unit} if known is not None else {})
    coords = {name for name in found if name in coordinates or name in ("sample", "epoch", "member", "mask")}
    return xr.Dataset({name: values for name, values in found.items() if name not in coords},
                      {name: found[name] for name in coords})
