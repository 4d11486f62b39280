"""Maps from a scan: read a NIfTI series, estimate, write maps with the scan's geometry.

data = read_series(["series.nii.gz"], times=[0.03, 0.33, 0.53], coordinate="inversion_time")
write_maps(estimate("rim_t1", data), "maps")
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import xarray as xr

from models.cards import TrainingError

MOST_BYTES = 8 * 2**30  # of a series in memory
COORDINATE = {"rim_t1": "inversion_time", "rim_t2": "echo_time"}
METHODS = ("network", "mle", "mle-general")
UNITS = {
    "t1": "s",
    "t2": "s",
    "efficiency": "1",
    "amplitude": "signal",
    "a": "signal",
    "b": "signal",
    "cost": "signal^2",
}


def read_series(paths: Sequence[str | os.PathLike[str]], times: Sequence[float], coordinate: str) -> xr.Dataset:
    """A series of images at several times as ``signal`` (sample, time, y, x); a sample is a slice.

    Parameters
    ----------
    paths : one NIfTI file with the times last, or one file a time, in the order of the times
    times : in s
    coordinate : "inversion_time" or "echo_time"

    Returns
    -------
    xr.Dataset
        Voxel (i, j, k) of the file at time n is ``signal[k, n, j, i]``; the attribute ``affine`` is the first file's.

    Raises
    ------
    TrainingError
        A file that is missing, no regular file, too large, damaged, not finite, or of another geometry; a wrong number
        of times.
    """
    volumes, affine = [], None
    for path in paths:
        image = _opened(Path(path), len(paths), len(times))
        if affine is not None and not np.allclose(image.affine, affine, atol=1e-3):
            raise TrainingError(
                f"{path} lies elsewhere than {paths[0]} (other affine); resample the images to one grid."
            )
        affine = image.affine if affine is None else affine
        volumes.append(_values(path, image))
    shapes = {volume.shape for volume in volumes}
    if len(shapes) > 1:
        raise TrainingError(f"the images have the shapes {', '.join(map(str, sorted(shapes)))}; they must be equal.")
    series = volumes[0] if len(volumes) == 1 else np.stack(volumes, -1)
    if series.ndim == 3:
        series = series[:, :, None] if len(volumes) > 1 else series[:, :, None, :]
    if series.ndim != 4 or series.shape[-1] != len(times):
        raise TrainingError(f"there are {len(times)} times, but images of the shape {series.shape}; give one each.")
    signal = xr.DataArray(np.ascontiguousarray(series.transpose(2, 3, 1, 0)), dims=("sample", coordinate, "y", "x"))
    data = xr.Dataset({"signal": signal}, {coordinate: (coordinate, np.array(times, np.float64), {"units": "s"})})
    return data.assign_attrs(affine=np.asarray(affine).tolist())


def _opened(path: Path, files: int, times: int) -> Any:
    """A NIfTI file whose claims fit into memory."""
    if not path.exists():
        raise TrainingError(f"there is no file {path}.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise TrainingError(f"{path} is no regular file.")
    try:
        image: Any = nibabel.load(path)
        shape, affine = image.shape, image.affine
    except Exception as error:  # a damaged header can fail in any way
        raise TrainingError(f"{path} is damaged or no NIfTI file: {str(error)[:200]}.") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise TrainingError(f"{path} is a {type(image).__name__}; write it as NIfTI (.nii or .nii.gz).")
    if not 2 <= len(shape) <= 4 or min(shape) < 1 or prod(shape) * 4 > MOST_BYTES // (files if files > 1 else 1):
        raise TrainingError(f"{path} claims the shape {shape}; 2 to 4 dimensions and {MOST_BYTES >> 30} GiB are read.")
    if affine is None or not np.isfinite(affine).all():
        raise TrainingError(f"{path} has no usable affine; it says where the voxels lie.")
    return image


def _values(path: Any, image: Any) -> Any:
    try:
        values = np.asarray(image.dataobj, np.float32)
    except Exception as error:
        raise TrainingError(f"{path} is cut off or damaged: {str(error)[:200]}.") from None
    if not np.isfinite(values).all():
        raise TrainingError(
            f"{path} has {np.sum(~np.isfinite(values))} values that are nan or infinite; set them to 0."
        )
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    return values


def scale_of(data: xr.Dataset, coordinate: str) -> float:
    """What a network calls 1: the 99th percentile of the brightest value of each voxel that is not empty."""
    brightest = data["signal"].max(coordinate).to_numpy()
    if not (brightest > 0).any():
        raise TrainingError("the series is empty: no voxel is above zero.")
    return float(np.percentile(brightest[brightest > 0.05 * brightest.max()], 99))


def estimate(system: str, data: xr.Dataset, *, method: str = "network", weights: str | os.PathLike[str] | None = None,
             efficiency: float | None = None) -> xr.Dataset:  # fmt: skip
    """Maps of a series by a network, or by maximum likelihood.

    Parameters
    ----------
    system : "rim_t1" or "rim_t2"
    data : as `read_series` gives it
    method : "network"; "mle" (the same signal model, voxel by voxel); "mle-general" (T1 only: |a + b exp(-TI / T1)|,
        for a repetition time that is not long)
    weights : of the network; by default those that come with the package
    efficiency : the inversion efficiency where it is known ("mle" only)

    Returns
    -------
    xr.Dataset
        T1 or T2 in s, amplitude in the units of the scan, (sample, y, x).

    Notes
    -----
    The network has learned signals of order one: the series is divided by `scale_of`, the amplitude multiplied by it.
    """
    coordinate = COORDINATE.get(system)
    if coordinate is None or coordinate not in data["signal"].dims:
        legal = ", ".join(f"{name} reads {time}" for name, time in COORDINATE.items())
        raise TrainingError(f"{system} does not read this series: {legal}.")
    if method == "network":
        found = _by_network(system, data, weights, coordinate)
    else:
        found = _by_likelihood(coordinate, data, method, efficiency)
    for name in found.data_vars:
        found[name].attrs["units"] = UNITS[str(name)]
    return found.assign_attrs(data.attrs | {"system": system, "method": method})


def _by_network(system: str, data: xr.Dataset, weights: str | os.PathLike[str] | None, coordinate: str) -> xr.Dataset:
    from models import weights as kept
    from models.studies.estimators import network

    scale = scale_of(data, coordinate)
    maps = network(weights or kept.shipped(system))(data.assign(signal=data["signal"] / scale))
    maps["amplitude"] = maps["amplitude"] * scale
    return xr.Dataset({name: (("sample", "y", "x"), value) for name, value in maps.items()})


def _by_likelihood(coordinate: str, data: xr.Dataset, method: str, efficiency: float | None) -> xr.Dataset:
    from models.classical import relaxometry

    if coordinate == "echo_time":
        return relaxometry.fit_t2_decay(data)
    if method == "mle-general":
        return relaxometry.fit_inversion_recovery_general(data)
    return relaxometry.fit_inversion_recovery(data, efficiency=efficiency)


def write_maps(maps: xr.Dataset, folder: str | os.PathLike[str]) -> list[Path]:
    """One NIfTI file (float32, the geometry of the series) for each map, and maps.json with units."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, values in maps.data_vars.items():
        image = nibabel.Nifti1Image(
            values.to_numpy().astype(np.float32).transpose(2, 1, 0), np.array(maps.attrs["affine"])
        )
        image.header["descrip"] = f"{name} in {values.attrs.get('units', '1')}"[:79].encode()
        written.append(folder / f"{name}.nii.gz")
        nibabel.save(image, written[-1])
    facts = {"units": {str(n): v.attrs.get("units", "1") for n, v in maps.data_vars.items()}} | maps.attrs
    (folder / "maps.json").write_text(json.dumps(facts, indent=1) + "\n")
    return written
