"""A scan's series of images out of NIfTI files, and maps of it back into such files.

The files come from strangers and are read within bounds.  Voxel (i, j, k) of a file is (slice k, y j, x i) here; axes
are never turned, and the geometry of the first file goes into every map.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import xarray as xr

from factory.recipe.formats import nifti_of
from factory.recipe.reading import read_bytes, shown
from factory.units import Array, UnitError, convert

File = str | os.PathLike[str]

MAX_BYTES = 2**30  # of one file, and of the whole series in float32
MAX_SLICE = 2**20  # voxels of one slice; a network needs some kB for each
MAX_SIDE = 32767  # NIfTI-1 holds no more along one axis
MAX_TIMES, MAX_TEXT = 1024, 65536
SHIFT = 0.1  # of the smallest voxel side, by which corners of two images may differ
SIDECARS = {"inversion_time": "InversionTime", "echo_time": "EchoTime"}  # BIDS, in s
NAMES = ("amplitude", "efficiency", "t1", "t2", "a", "b")  # of the maps that are written
FACTS, PICTURE = "maps.json", "maps.png"


class SeriesError(ValueError):
    """A series, its times, a mask or a folder cannot be used; says what was given, what is legal and what to do."""


# Times ----------------------------------------------------------------------------------------------------------------


def times_of(given: File, coordinate: str = "inversion_time") -> tuple[float, ...]:
    """Times in s out of a text such as ``"30, 330, 530 ms"``, or of a text or JSON file with them.

    Parameters
    ----------
    given : str or path
        Numbers separated by commas or spaces, with one unit at the end or one each. A JSON file holds a list of
        ``"30 ms"``, ``{"values": [30, 330], "unit": "ms"}``, that under "times", or BIDS' InversionTime or EchoTime
        (a list, in s).
    coordinate : str
        "inversion_time" or "echo_time".
    """
    text, origin = os.fspath(given), "the times"
    if _is_file(text):
        origin, text = shown(Path(text).name), _text_of(Path(text))
        if text.lstrip()[:1] in ("{", "["):
            text = _listed_in(text, origin, SIDECARS.get(coordinate, ""))
    words = [word for word in re.split(r"[\s,;]+", text[:MAX_TEXT]) if word]
    parts = [re.fullmatch(r"([-+]?[0-9.][0-9._]*(?:[eE][-+]?[0-9]+)?)?(.*)", word) for word in words]
    numbers: list[list[str]] = []
    for number, unit in (part.groups() for part in parts if part is not None):
        if number is not None:
            numbers.append([number, unit])
        elif numbers and not numbers[-1][1]:
            numbers[-1][1] = unit
        else:
            raise SeriesError(f"{origin}: {shown(unit)} is no number; write them as '30, 330, 530 ms'")
    if not numbers or len(numbers) > MAX_TIMES:
        raise SeriesError(f"{origin}: {len(numbers)} numbers; write 1 to {MAX_TIMES}, as '30, 330, 530 ms'")
    bare = [number for number, unit in numbers if not unit]
    if numbers[-1][1] and len(bare) == len(numbers) - 1:
        numbers = [[number, numbers[-1][1]] for number, _ in numbers]
    elif bare:
        raise SeriesError(f"{origin}: {bare[0]} has no unit; write it once at the end ('30, 330, 530 ms') or at each")
    try:
        return checked_times([convert(f"{number} {unit}", "s") for number, unit in numbers])
    except UnitError as error:
        raise SeriesError(f"{origin}: {error}") from None


def checked_times(times: Iterable[float]) -> tuple[float, ...]:
    """Times in s as floats; refuses what no clock shows."""
    found = tuple(float(time) for time in times)
    wrong = [time for time in found if not 0 <= time < 1e5]
    if wrong or not 1 <= len(found) <= MAX_TIMES:
        raise SeriesError(
            f"a time is {wrong[0]:g} s, but must be zero or positive, and finite" if wrong
            else f"{len(found)} times were given; give one for each image"
        )  # fmt: skip
    return found


def _is_file(text: str) -> bool:
    return len(text) < 4096 and "\0" not in text and (text.endswith((".json", ".txt")) or os.path.exists(text))


def _text_of(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEXT).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise SeriesError(f"the times cannot be read from {shown(str(path))}: {why}") from None


def _listed_in(text: str, origin: str, sidecar: str) -> str:
    """The times of a JSON text as on the command line."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise SeriesError(f"{origin} is no JSON; write a list such as ['30 ms', '330 ms'] with double quotes") from None
    found = found["times"] if isinstance(found, dict) and "times" in found else found
    unit = ""
    if isinstance(found, dict) and sidecar in found:
        found, unit = found[sidecar], "s"
    elif isinstance(found, dict) and {"values", "unit"} <= found.keys():
        found, unit = found["values"], str(found["unit"])
    if not isinstance(found, list) or not all(isinstance(one, str | int | float) for one in found):
        raise SeriesError(f"{origin} holds no list of times; write {{\"values\": [30, 330], \"unit\": \"ms\"}}")
    return ", ".join(f"{one} {unit}" for one in found)


# Files ----------------------------------------------------------------------------------------------------------------


def read_series(
    paths: File | Sequence[File], times: File | Sequence[float], coordinate: str = "inversion_time"
) -> xr.Dataset:
    """Read the images of one series.

    Parameters
    ----------
    paths : path or sequence of paths
        One 4-D NIfTI file with the time last, or one 2-D or 3-D file for each time, in the order of the times.
    times : str, path or sequence of float
        As `times_of` reads them; numbers are in s.
    coordinate : str
        "inversion_time" or "echo_time".

    Returns
    -------
    Dataset
        ``signal`` (slice, `coordinate`, y, x), float32; `coordinate` in s. Its attributes hold the geometry of the
        first file: ``affine`` (16 numbers, row by row), ``qform``, both codes, ``zooms`` and ``spatial_unit``.

    Raises
    ------
    SeriesError, FileError
        A file is damaged, too large, not finite or of another shape or place than the first, or the number of images
        is not that of the times.
    """
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    seconds = times_of(times, coordinate) if isinstance(times, str | os.PathLike) else checked_times(times)
    if not files or (len(files) > 1 and len(files) != len(seconds)):
        raise SeriesError(f"{len(files)} files for {len(seconds)} times; give one 4-D file, or one file for each time")
    signal, shape, attributes = np.empty(0, np.float32), (0, 0, 0), {}
    for place, path in enumerate(files):
        array, header = nifti_of(path, MAX_BYTES)
        array, found = _images(array, path, len(files), len(seconds)), _geometry(header, path)
        if place == 0:
            shape, attributes = array.shape[:3], found
            signal = _room(shape, len(seconds), path)
        elif array.shape[:3] != shape:
            raise SeriesError(f"{shown(path.name)} has {_by(array.shape[:3])} voxels, but {shown(files[0].name)} has "
                              f"{_by(shape)}; all images of a series need one shape")
        _same_place(found, attributes, shape, path, shown(files[0].name))
        for n in range(array.shape[3]):
            _fill(signal[:, place + n], array[..., n], header, path)
    coords = {coordinate: (coordinate, np.array(seconds), {"units": "s"})}
    variables = {"signal": (("slice", coordinate, "y", "x"), signal, {"units": "1"})}
    return xr.Dataset(variables, coords, attributes | {"files": [path.name for path in files]})


def _images(array: Array, path: Path, files: int, times: int) -> Array:
    """As (i, j, k, time)."""
    while array.ndim > 4 and array.shape[-1] == 1:
        array = array[..., 0]
    least = 4 if files == 1 and times > 1 else 2
    if not least <= array.ndim <= 4:
        legal = "give one file with 4 dimensions, the time last, or one 2-D or 3-D file for each time"
        raise SeriesError(f"{shown(path.name)} has the shape {_by(array.shape)} for {times} times; {legal}")
    array = array[(..., *[None] * (4 - array.ndim))]
    wanted = times if files == 1 else 1
    if array.shape[3] != wanted:
        raise SeriesError(f"{shown(path.name)} holds {array.shape[3]} images, but there {_are(wanted)} for it")
    return array


def _are(times: int) -> str:
    return "is 1 time" if times == 1 else f"are {times} times"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _room(shape: tuple[int, ...], times: int, path: Path) -> Array:
    """An array (slice, time, y, x), if that is not too much."""
    size = 4 * times * int(np.prod(shape))
    if size > MAX_BYTES or shape[0] * shape[1] > MAX_SLICE or max(shape) > MAX_SIDE:
        raise SeriesError(
            f"{shown(path.name)}: {times} images of {_by(shape)} voxels are too many; at most {MAX_BYTES} bytes (4 for "
            f"each voxel) are read, and {MAX_SLICE} voxels a slice; cut it into parts"
        )
    return np.empty((shape[2], times, shape[1], shape[0]), np.float32)


def _fill(out: Array, image: Array, header: Any, path: Path) -> None:
    """One image (i, j, k) into (slice, y, x), scaled as its header says."""
    slope, intercept = header.get_slope_inter()
    for k in range(image.shape[2]):
        values = image[:, :, k].T.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            out[k] = values if slope is None else values * slope + (intercept or 0.0)
    bad = out.size - int(np.isfinite(out).sum())
    if bad:
        raise SeriesError(
            f"{shown(path.name)} has {bad} voxels that are NaN or infinite (in float32); set them to 0 first"
        )


def _geometry(header: Any, path: Path) -> dict[str, Any]:
    """Where the voxels are, as attributes."""
    try:
        affine = header.get_best_affine()
        qform = header.get_qform() if header["qform_code"] > 0 else affine
        finite = bool(np.isfinite(affine).all() and np.isfinite(qform).all() and abs(np.linalg.det(qform)) > 1e-12)
    except Exception:  # nibabel raises several kinds for impossible rotations
        finite = False
    if not finite or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise SeriesError(f"{shown(path.name)} has an impossible affine in its header; correct its sform or qform")
    return {
        "affine": affine.ravel().tolist(),
        "qform": qform.ravel().tolist(),
        "sform_code": int(header["sform_code"]),
        "qform_code": int(header["qform_code"]),
        "zooms": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
        "spatial_unit": header.get_xyzt_units()[0],
    }


def _same_place(
    found: Mapping[str, Any], wanted: Mapping[str, Any], shape: Sequence[int], path: Path, first: str
) -> None:
    """Refuse an image whose corners lie elsewhere."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
    apart = (np.reshape(found["affine"], (4, 4)) - np.reshape(wanted["affine"], (4, 4))) @ corners
    distance = float(np.linalg.norm(apart, axis=0).max())
    if not distance <= SHIFT * min(wanted["zooms"]):
        raise SeriesError(
            f"{shown(path.name)} lies elsewhere than {first}: their affines put a corner {distance:.3g} mm apart; "
            "register and resample the images to one grid first"
        )


def read_mask(path: File, data: xr.Dataset) -> xr.DataArray:
    """A mask (slice, y, x) for a series: inside where the file has more than 0.5.

    Raises
    ------
    SeriesError, FileError
        The mask is damaged, empty, or of another shape or place than the series.
    """
    path = Path(path)
    array, header = nifti_of(path, MAX_BYTES)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    array = array[..., None] if array.ndim == 2 else array
    shape = tuple(data.sizes[dim] for dim in ("x", "y", "slice"))
    if array.shape != shape:
        raise SeriesError(f"the mask {shown(path.name)} has {_by(array.shape)} voxels, but the series {_by(shape)}")
    _same_place(_geometry(header, path), data.attrs, shape, path, "the series")
    values = np.empty(shape[::-1], np.float32)
    _fill(values, array, header, path)
    if not (values > 0.5).any():
        raise SeriesError(f"the mask {shown(path.name)} is empty: no voxel has more than 0.5")
    return xr.DataArray(values > 0.5, dims=("slice", "y", "x"))


# Maps -----------------------------------------------------------------------------------------------------------------


def refuse_occupied(folder: File) -> None:
    """Refuse a folder with maps of an earlier run, or a file in its place."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise SeriesError(f"{shown(str(folder))} is no folder; name another one for the maps")
    held = [name for name in _files_of_maps() if os.path.lexists(folder / name)]
    if held:
        raise SeriesError(f"{shown(str(folder))} already holds {', '.join(held)}; name another folder, or replace "
                          "them (--force)")


def write_maps(maps: xr.Dataset, folder: File, *, force: bool = False) -> list[Path]:
    """Write every map as NAME.nii.gz (float32, in the canonical unit: T1 and T2 in s), and beside them maps.json.

    Parameters
    ----------
    maps : dims (slice, y, x), with the attributes of `read_series`; what is NaN (outside of a mask) is written as 0
    folder : made if there is none
    force : replace maps of an earlier run

    Returns
    -------
    list of Path
        What was written, maps.json last.

    Raises
    ------
    SeriesError
        The folder holds maps already.
    """
    folder = Path(folder)
    if not force:
        refuse_occupied(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _files_of_maps():
        (folder / name).unlink(missing_ok=True)  # no map of an earlier run may stand beside these facts
    names = [name for name in NAMES if name in maps]
    for name in names:
        _replace(folder / f"{name}.nii.gz", gzip.compress(_nifti(maps[name], maps.attrs), 6, mtime=0))
    facts = json.dumps(facts_of(maps), indent=1, default=str)
    _replace(folder / FACTS, facts.encode())
    return [*(folder / f"{name}.nii.gz" for name in names), folder / FACTS]


def facts_of(maps: xr.Dataset) -> dict[str, Any]:
    """What stands in maps.json: units, how the maps were made, from what."""
    units = {name: maps[name].attrs["units"] for name in NAMES if name in maps}
    return {"maps": {name: {"file": f"{name}.nii.gz", "unit": unit} for name, unit in units.items()},
            "outside": 0} | {key: value for key, value in maps.attrs.items() if key not in ("qform", "qform_code")}


def _files_of_maps() -> list[str]:
    return [*(f"{name}.nii.gz" for name in NAMES), FACTS, PICTURE]


def _nifti(values: xr.DataArray, geometry: Mapping[str, Any]) -> bytes:
    """The bytes of a NIfTI-1 file with the geometry of the series."""
    affine = np.reshape(geometry["affine"], (4, 4))
    numbers = np.nan_to_num(values.transpose("x", "y", "slice").to_numpy().astype(np.float32), nan=0.0)
    image: Any = nibabel.Nifti1Image(numbers, affine)  # type: ignore[no-untyped-call]
    header = image.header
    header.set_xyzt_units(geometry["spatial_unit"])
    header.set_qform(np.reshape(geometry["qform"], (4, 4)), geometry["qform_code"])
    header.set_sform(affine, geometry["sform_code"])
    unit = values.attrs["units"]
    header["descrip"] = f"{values.name} {'without a unit' if unit == '1' else f'in {unit}'}; mr-factory"
    return bytes(image.to_bytes())


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one atomic step; a link in its place is replaced, not followed."""
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    partial.write_bytes(data)
    os.replace(partial, path)
