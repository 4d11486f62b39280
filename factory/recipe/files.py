"""Files that a recipe names: where they may lie, and what is in them.

A recipe may come from a stranger, so a name in it leads to a regular file beside the recipe, or as ``data:NAME`` under
the folder ``FACTORY_DATA``, and nowhere else.  Only the command line may name other places.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from factory.recipe.formats import MAX_BYTES, FileError, arrays_of
from factory.recipe.reading import read_bytes, shown
from factory.units import TISSUES, Array, Volumes

__all__ = ["FileError", "read_labels", "read_numbers", "resolve", "sha256_of"]

MAX_NUMBERS_BYTES = 1024 * 1024
MAX_ROWS = 10_000
MAX_FILES = 64
_WHOLE = 1e-3  # a scaled map differs from whole numbers by rounding
_MEANS_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")

Labels = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def resolve(name: str, recipe_folder: Path, trusted: bool = False) -> Path:
    """The file that a name in a recipe stands for.

    Parameters
    ----------
    name : beside the recipe (``maps/brain.mat``), or ``data:NAME`` under the folder ``FACTORY_DATA``
    recipe_folder : where the recipe lies
    trusted : the name is from the command line and may lead anywhere

    Raises
    ------
    FileError
        The name leads outside, or to nothing, or to something that is no regular file, or to too large a file.
    """
    if not name or not name.isprintable() or len(name) > 1024:
        raise FileError(f"{shown(name)} is no name of a file")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise FileError(f"{shown(name)} is an address of the network; download it and name the file")
    folder, inner = Path(recipe_folder), name
    if name.startswith("data:"):
        if not os.environ.get("FACTORY_DATA"):
            raise FileError(f"{shown(name)} lies under FACTORY_DATA, which is not set; set it to your folder of data")
        folder, inner = Path(os.environ["FACTORY_DATA"]), name.removeprefix("data:")
    if trusted and not name.startswith("data:") and Path(name).expanduser().exists():
        return _regular(Path(name).expanduser().resolve(), name)
    parts = Path(inner).parts
    if Path(inner).is_absolute() or ".." in parts or not parts:
        if trusted:
            raise FileError(f"there is no file {shown(name)}")
        raise FileError(f"{shown(name)} leads out of the recipe's folder; put the file beside the recipe, name it "
                        "data:NAME under FACTORY_DATA, or give its path by --set")
    return _regular(_inside(folder, inner, name), name)


def _inside(folder: Path, inner: str, name: str) -> Path:
    try:
        root = folder.resolve(strict=True)
        path = (root / inner).resolve(strict=True)
    except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise RuntimeError for links that go round in a circle
        raise FileError(f"there is no file {shown(name)}{_nearest(folder / inner)}") from None
    if not path.is_relative_to(root):
        raise FileError(f"{shown(name)} is a link that leads out of its folder; copy the file there")
    return path


def _regular(path: Path, name: str) -> Path:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{shown(name)} is no regular file")
    if status.st_size > MAX_BYTES:
        raise FileError(f"{shown(name)} has {status.st_size} bytes; at most {MAX_BYTES} are read")
    return path


def _nearest(path: Path) -> str:
    try:
        names = [entry.name for entry in islice(os.scandir(path.parent), 1000)]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, 1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def sha256_of(path: Path) -> str:
    """The sha256 of a regular file, in hex."""
    try:
        return hashlib.sha256(read_bytes(Path(path), MAX_BYTES)).hexdigest()
    except OSError as error:
        raise FileError(f"{shown(Path(path).name)} cannot be read: {error.strerror or error}") from None


def read_labels(source: Labels, shape: tuple[int, ...] | None = None) -> Volumes:
    """Label volumes of a file, of several, or of a set of tissue probability maps.

    Parameters
    ----------
    source
        A path: every 2-D or 3-D array of whole numbers in the file, under its own name.  Several paths: those of all.
        A mapping from tissue to path: maps of probabilities (floats in 0..1, or integers that are scaled by 255 in 8
        bits and by their maximum else); each voxel gets the `TISSUES` code of the most probable, where background is
        what is left of 1 if no map of it is given.  At a tie the lower code wins.
    shape : (slice, row, column) of raw files

    Raises
    ------
    FileError
        A file cannot be read, holds no labels, or the maps do not fit each other.
    """
    if isinstance(source, Mapping):
        return Volumes(("tissue",), (_most_probable({k: Path(v) for k, v in source.items()}, shape),))
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    if not 1 <= len(paths) <= MAX_FILES:
        raise FileError(f"{len(paths)} files are named; label volumes come from 1 to {MAX_FILES}")
    found: dict[str, Array] = {}
    for path in paths:
        for name, array in _labels_of(path, shape).items():
            stem = path.name.partition(".")[0]
            found[_fresh(name if len(paths) == 1 or name == stem else f"{stem}.{name}", found)] = array
            if sum(one.nbytes for one in found.values()) > MAX_BYTES:
                raise FileError(f"the label volumes together have more than {MAX_BYTES} bytes; name fewer files")
    return Volumes(tuple(found), tuple(found.values()))


def _fresh(name: str, taken: Mapping[str, object]) -> str:
    return next(one for one in (name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))) if one not in taken)


def _labels_of(path: Path, shape: tuple[int, ...] | None) -> dict[str, Array]:
    found, refused = {}, ""
    for name, array in arrays_of(path, shape).items():
        labels = _labels(array)
        if labels is None:
            refused = name
        else:
            found[name] = labels
    if not found:
        raise FileError(f"{shown(path.name)} holds no labels: {shown(refused)} is not of whole numbers in 32 bits")
    return found


def _labels(array: Array) -> Array | None:
    """Whole numbers in the smallest of uint8, int16 and int32 that holds them; None if they are none."""
    if array.dtype.kind == "f":
        whole = np.empty(array.shape, np.int32)
        for k, one in enumerate(array):
            if not np.isfinite(one).all() or np.abs(one).max() >= 2**31:
                return None
            near = np.rint(one)
            if np.abs(one - near).max() > _WHOLE:
                return None
            whole[k] = near
        array = whole
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(array, dtype)
    return None


def _most_probable(paths: Mapping[str, Path], shape: tuple[int, ...] | None) -> Array:
    for tissue in paths:
        if tissue not in TISSUES:
            near = get_close_matches(tissue, TISSUES, 1)
            raise FileError(f"{shown(tissue)} is no tissue{f'; did you mean {near[0]!r}?' if near else ''} "
                            f"(tissues: {', '.join(TISSUES)})")
    if not paths:
        raise FileError(f"no probability map is named; give {{tissue: path}} for some of {', '.join(TISSUES)}")
    code = best = total = None
    for tissue in sorted(paths, key=TISSUES.index):
        chance = _chance(paths[tissue], shape)
        if code is None or best is None or total is None:
            code, best, total = np.zeros(chance.shape, np.uint8), np.full_like(chance, -1), np.zeros_like(chance)
        if chance.shape != code.shape:
            raise FileError(f"{shown(paths[tissue].name)} is {chance.shape} large, but the map before {code.shape}")
        better = chance > best
        code[better], best[better] = TISSUES.index(tissue), chance[better]
        total += chance
    assert code is not None
    assert best is not None
    assert total is not None
    if "background" not in paths:
        code[1 - total >= best] = 0
    return code


def _chance(path: Path, shape: tuple[int, ...] | None) -> Array:
    """One map of probabilities in float32."""
    found = arrays_of(path, shape)
    if len(found) > 1:
        raise FileError(f"{shown(path.name)} holds {', '.join(map(shown, islice(found, 8)))}; one map a file")
    (array,) = found.values()
    if array.size * 4 > MAX_BYTES:
        raise FileError(f"{shown(path.name)} has {array.size} voxels; a map has at most {MAX_BYTES // 4}")
    chance = array.astype(np.float32, order="C")
    top = float(chance.max())
    if array.dtype.kind in "iu" and top > 1:
        chance /= np.float32(255 if array.dtype.itemsize == 1 else top)
    if not (chance.min() >= -_WHOLE and chance.max() <= 1 + _WHOLE):  # false for NaN as well
        raise FileError(f"{shown(path.name)} is no map of probabilities: it goes from {array.min()} to {array.max()}")
    return chance


def read_numbers(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A histogram: a table with a bin's lower edge and its count a row, and the upper edge of the last bin at the end.

    The table is a text (comma, semicolon, tab or spaces between columns, ``#`` before comments, a line of headings) or
    a .npy of shape (bin, 2).  The count of the last row is 0 or absent (in .npy: 0).

    Returns
    -------
    edges, counts : n + 1 edges, as they stand, and n counts

    Raises
    ------
    FileError
        No regular file, too large, no numbers, edges that do not increase, or counts that are negative or all 0.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        rows = _table(path)
    else:
        try:
            text = read_bytes(path, MAX_NUMBERS_BYTES).decode()
        except OSError as error:
            raise FileError(f"{shown(path.name)} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise FileError(f"{shown(path.name)} is not UTF-8") from None
        rows = _rows(text.removeprefix("\ufeff"), path.name)
    edges, counts = tuple(row[0] for row in rows), tuple(row[1] for row in rows[:-1])
    if len(rows) < 2 or rows[-1][1] != 0:
        raise FileError(f"{shown(path.name)} needs a row for each bin, and the upper edge with the count 0 at the end")
    if any(not low < high for low, high in pairwise(edges)):
        raise FileError(f"the edges in {shown(path.name)} must increase")
    if min(counts) < 0 or not 0 < sum(counts) < math.inf:
        raise FileError(f"the counts in {shown(path.name)} must be 0 or more, and not all of them 0")
    return edges, counts


def _table(path: Path) -> list[tuple[float, float]]:
    (array,) = arrays_of(path).values()
    if array.shape[0] != 1 or array.shape[2] != 2 or array.shape[1] > MAX_ROWS or not np.isfinite(array).all():
        raise FileError(f"{shown(path.name)} must be of shape (bin, 2) with at most {MAX_ROWS} finite rows")
    return [(float(edge), float(count)) for edge, count in array[0]]


def _rows(text: str, name: str) -> list[tuple[float, float]]:
    rows: list[tuple[float, float]] = []
    headed = False
    for number, line in enumerate(text.splitlines(), 1):
        words = [word for word in re.split(r"\s*[,;\t]\s*|\s+", line.partition("#")[0].strip()) if word]
        if not words:
            continue
        if not rows and not headed and not any(_MEANS_NUMBER.fullmatch(word) for word in words):
            headed = True
            continue
        if len(words) > 2 or not all(len(word) < 40 and _MEANS_NUMBER.fullmatch(word) for word in words):
            raise FileError(f"line {number} of {shown(name)} must hold an edge and a count, not {shown(line)}")
        if len(rows) >= MAX_ROWS or (rows and len(words) == 1 and math.isnan(rows[-1][1])):
            raise FileError(f"{shown(name)} has more than {MAX_ROWS} rows, or rows with an edge only")
        rows.append((float(words[0]), float(words[1]) if len(words) == 2 else math.nan))
    if rows and math.isnan(rows[-1][1]):
        rows[-1] = (rows[-1][0], 0.0)
    if not all(map(math.isfinite, (x for row in rows for x in row))):
        raise FileError(f"every row of {shown(name)} but the last must hold a finite edge and a finite count")
    return rows
