"""Label volumes out of the bytes of a file: MATLAB, NIfTI, MINC, FreeSurfer, NumPy, NRRD, JPEG and raw, told apart by
content.

The files come from strangers.  What a header claims is checked before memory is given for it, compressed data are
unpacked up to what the header claims and no further, and nothing in a file is executed or leads to another file.
Every reader returns arrays in the order (slice, row, column) under the name that the file gives them.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from factory.recipe.reading import read_bytes, shown, visible
from factory.units import Array

_STEP = 2**20  # bytes unpacked at a time: they stay in the cache, several times faster than all at once
MAX_BYTES = 256 * 1024 * 1024  # of a file, packed or unpacked; a head at 0.5 mm has 57 million voxels
MAX_UNCLAIMED = MAX_BYTES // 2  # unpacked, where no header of the whole file says beforehand how much will come
MAX_ENTRIES = 10_000  # variables, links or attributes of one file
_MAX_OFFSET = 16 * 2**20  # bytes of a NIfTI file's header with its extensions
_GZIP, _PIECE = b"\x1f\x8b", 65536
_BRAINWEB = {181 * 217 * 181: (181, 217, 181), 362 * 434 * 362: (362, 434, 362)}  # its raw files have no header


class FileError(ValueError):
    """A file that a recipe names cannot be used; one sentence says why."""


def arrays_of(path: Path, shape: tuple[int, ...] | None = None) -> dict[str, Array]:
    """Every 2-D or 3-D array of numbers in a file, as (slice, row, column); a 2-D one is one slice.

    Parameters
    ----------
    path : the file
    shape : (slice, row, column) of a raw file, which does not say so itself

    Raises
    ------
    FileError
        No regular file, too large, of no known format, damaged, or without such an array.
    """
    with _named(path):
        found = _decoded(path, shape)
        if not found:
            raise FileError("holds no 2-D or 3-D array of numbers")
        return found


def nifti_of(path: Path, limit: int = MAX_BYTES) -> tuple[Array, Any]:
    """The array of a NIfTI file as it is stored, and its header (a nibabel one, whose scale is not yet applied).

    Parameters
    ----------
    path : the file, .nii or .nii.gz
    limit : bytes of the file, packed and unpacked

    Raises
    ------
    FileError
        No regular file, too large, no NIfTI, damaged, or without plain numbers.
    """
    with _named(path):
        data = read_bytes(path, limit)
        packed = data[:2] == _GZIP
        head = _unzipped(data, 31, 1024, cut=True) if packed else data[:1024]
        if not _is_nifti(head):
            raise FileError("is no NIfTI file; convert the images to .nii or .nii.gz (DICOM: dcm2niix)")
        size = _nifti_size(head, limit)
        data = _unzipped(data, 31, size, cut=True) if packed else data
        header = _nifti_header(head)
        dtype = _plain_numbers(header.get_data_dtype())
        header.get_slope_inter()  # raises where it is damaged
        shape = tuple(map(int, header.get_data_shape()))
        return _view(data, int(header.get_data_offset()), shape, dtype, "F", limit), header


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a FileError that names the file."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{shown(path.name)} {error}") from None
    except OSError as error:
        raise FileError(f"{shown(path.name)} cannot be read: {_reason(error)}") from None
    except Exception as error:  # a damaged file can make a decoder fail in any way, and none may end the program
        raise FileError(f"{shown(path.name)} is damaged: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return visible(text or type(error).__name__)[:200]


def _decoded(path: Path, shape: tuple[int, ...] | None) -> dict[str, Array]:
    data = read_bytes(path, MAX_BYTES)
    name = path.name
    packed = data[:2] == _GZIP
    ending = (name.removesuffix(".gz") if packed else name).rpartition(".")[2].lower()
    head = _unzipped(data, 31, 1024, cut=True) if packed else data[:1024]
    reader = next((reader for matches, reader in _FORMATS if matches(head)), None)
    if reader is None and ending not in ("raw", "rawb", "raws"):
        raise FileError("is of no known format; write it as .mat, .nii, .mgz, .mnc, .npy, .nrrd or .raw")
    if packed:
        claimed = _nifti_size(head) if reader is _nifti else _mgh_size(head) if reader is _mgh else 0
        data = _unzipped(data, 31, claimed or MAX_UNCLAIMED, cut=claimed > 0)
    stem = name.partition(".")[0]
    return reader(data, stem) if reader is not None else {stem: _raw(data, shape)}


def _unzipped(data: Any, window: int, limit: int, cut: bool = False) -> bytes:
    """At most ``limit`` bytes of a zlib (15) or gzip (31) stream; more than that is a fault unless it may be cut off.

    A gzip file may have several parts one after the other, as block compressors write it.
    """
    unpacker, out, position, parts = zlib.decompressobj(window), bytearray(), 0, 0
    while position < len(data) and len(out) <= limit:
        piece = data[position: position + _PIECE]
        out += unpacker.decompress(piece, min(_STEP, limit + 1 - len(out)))
        position += len(piece) - len(unpacker.unused_data) - len(unpacker.unconsumed_tail)
        if unpacker.eof:
            if window != 31 or bytes(data[position: position + 2]) != _GZIP:
                break
            unpacker, parts = zlib.decompressobj(window), parts + 1
            if parts > MAX_ENTRIES:
                raise FileError(f"has more than {MAX_ENTRIES} packed parts")
    if len(out) > limit and not cut:
        raise FileError(f"unpacks to more than {limit} bytes, the most that is read or that its header says")
    del out[limit:]
    return bytes(out)


def _claimed(shape: tuple[int, ...], itemsize: int, limit: int = MAX_BYTES) -> int:
    """The bytes of an array that a header describes; FileError if they are none or too many."""
    if not 1 <= len(shape) <= 8 or min(shape) < 1:
        raise FileError(f"claims an array of shape {shape}")
    size = prod(int(n) for n in shape) * itemsize
    if size > limit:
        raise FileError(f"claims an array of shape {shape}, {size} bytes; at most {limit} are read")
    return size


def _view(data: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any = "C",
          limit: int = MAX_BYTES) -> Array:
    """An array of ``data``, not copied."""
    size = _claimed(shape, dtype.itemsize, limit)
    if offset < 0 or offset + size > len(data):
        raise FileError(f"is cut off: an array of {size} bytes begins at byte {offset} of {len(data)}")
    return np.frombuffer(data, dtype, prod(shape), offset).reshape(shape, order=order)


def _slices(array: Array) -> Array:
    """A 2-D array as one slice; 3-D as it stands; further dimensions must be 1."""
    while array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim not in (2, 3):
        raise FileError(f"holds an array with {array.ndim} dimensions; label volumes have 2 or 3")
    return array[None] if array.ndim == 2 else array


def _raw(data: bytes, shape: tuple[int, ...] | None) -> Array:
    """Bytes, or little-endian 16-bit integers; BrainWeb's two sizes are known, any other needs a shape."""
    for known in [shape] if shape is not None else _BRAINWEB.values():
        for dtype in ("<u1", "<i2"):
            if len(data) == prod(known) * np.dtype(dtype).itemsize:
                return _slices(_view(data, 0, tuple(known), np.dtype(dtype)))
    raise FileError(f"has {len(data)} bytes, which " + (
        "does not tell its shape; write it as .npy or .nii" if shape is None
        else f"fits no volume of shape {shape} with 1 or 2 bytes a voxel"))


# NumPy and NRRD -------------------------------------------------------------------------------------------------------


def _npy(data: bytes, stem: str) -> dict[str, Array]:
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise FileError(f"is of the version {version} of .npy, which is for structures; write plain numbers")
    shape, fortran, dtype = readers[version](file)
    if dtype.kind not in "biuf":
        raise FileError(f"holds {visible(str(dtype))[:60]}, not plain numbers; pickled objects are never read")
    return {stem: _slices(_view(data, file.tell(), shape, dtype, "F" if fortran else "C"))}


_NRRD_TYPES = {"uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1", "signed char": "i1", "int8": "i1",
               "short": "i2", "int16": "i2", "int16_t": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2",
               "int": "i4", "int32": "i4", "uint": "u4", "unsigned int": "u4", "float": "f4", "double": "f8"}


def _nrrd(data: bytes, stem: str) -> dict[str, Array]:
    head, found, _ = data[:65536].partition(b"\n\n")
    if not found:
        raise FileError("has no end of its header (an empty line)")
    lines = head.decode("ascii").replace("\r", "").splitlines()[1:]
    fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "data file" in fields or "datafile" in fields:
        raise FileError("keeps its data in another file; write one .nrrd with both")
    dtype = np.dtype(_NRRD_TYPES[fields["type"]]).newbyteorder(">" if fields.get("endian") == "big" else "<")
    shape = tuple(int(n) for n in fields["sizes"].split()[:8])
    body: Any = memoryview(data)[len(head) + 2:]
    if fields["encoding"] in ("gz", "gzip"):
        body = _unzipped(body, 31, _claimed(shape, dtype.itemsize))
    elif fields["encoding"] != "raw":
        raise FileError(f"has the encoding {shown(fields['encoding'])}; raw and gzip are read")
    return {stem: _slices(_view(body, 0, shape[::-1], dtype))}


# NIfTI ----------------------------------------------------------------------------------------------------------------


def _is_nifti(data: bytes) -> bool:
    return data[344:347] in (b"n+1", b"ni1") or data[4:7] in (b"n+2", b"ni2")


def _nifti_header(data: bytes) -> Any:
    import nibabel

    kind: Any = nibabel.Nifti2Header if data[4:7] in (b"n+2", b"ni2") else nibabel.Nifti1Header
    length = 540 if kind is nibabel.Nifti2Header else 348
    if data[344:347] == b"ni1" or data[4:7] == b"ni2":
        raise FileError("is one half of a .hdr/.img pair; write one .nii with both")
    return kind(data[:length], check=True)


def _plain_numbers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "iuf":
        raise FileError(f"holds {visible(str(dtype))[:60]}, not plain numbers")
    return dtype


def _nifti_size(data: bytes, limit: int = MAX_BYTES) -> int:
    """How many bytes a NIfTI file claims to have; 0 if this is none."""
    if not _is_nifti(data):
        return 0
    header = _nifti_header(data)
    offset = int(header.get_data_offset())
    if offset > _MAX_OFFSET:  # or a short file could claim that much to unpack
        raise FileError(f"says that its voxels begin at byte {offset}; at most {_MAX_OFFSET} are skipped")
    return _claimed(tuple(map(int, header.get_data_shape())), header.get_data_dtype().itemsize, limit) + max(offset, 0)


def _nifti(data: bytes, stem: str) -> dict[str, Array]:
    """Voxel (i, j, k) of the file is [k, j, i] here; the file's axes are not turned."""
    header = _nifti_header(data)
    dtype, shape = _plain_numbers(header.get_data_dtype()), tuple(map(int, header.get_data_shape()))
    array = _slices(_view(data, int(header.get_data_offset()), shape[::-1], dtype))
    slope, intercept = header.get_slope_inter()
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        array = _scaled(array, np.full(1, slope), np.full(1, intercept or 0.0))
    return {stem: array}


def _scaled(array: Array, slope: Array, intercept: Array) -> Array:
    """slope * array + intercept in float32, slice by slice; one factor for all or one a slice."""
    _claimed(array.shape, 4)
    out = np.empty(array.shape, np.float32)
    slopes, intercepts = (np.broadcast_to(x, (len(array), *x.shape[1:])) for x in (slope, intercept))
    for k, one in enumerate(array):
        shape = slopes[k].shape + (1,) * (one.ndim - slopes[k].ndim)
        out[k] = one * slopes[k].reshape(shape) + intercepts[k].reshape(shape)
    return out


# MATLAB ---------------------------------------------------------------------------------------------------------------

_MAT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MAT_MATRIX, _MAT_PACKED, _MAT_COMPLEX = 14, 15, 0x0800
_MAT_CLASSES, _MAT_INTEGERS = range(6, 16), range(8, 16)  # the first two are double and single


def _mat5(data: bytes, stem: str) -> dict[str, Array]:
    """MATLAB 5 to 7.2: the arrays of integers, or if there are none, of floats.

    Structures, cells, texts, vectors and complex or sparse arrays are passed over.  The layout is that of "MAT-File
    Format", The MathWorks, R2024b.
    """
    order = "<" if data[126:128] == b"IM" else ">"
    integers: dict[str, Array] = {}
    floats: dict[str, Array] = {}
    for body in _mat_elements(data, order):
        header = _mat_header(body, order)
        if header is not None:
            name, shape, kind, position = header
            (integers if kind in _MAT_INTEGERS else floats)[name] = _mat_array(body, order, name, shape, position)
    return integers or floats


def _mat_elements(data: bytes, order: str) -> Iterator[Any]:
    """The matrices of a file, unpacked if a glance at their header says that they are arrays of numbers."""
    view, position, left = memoryview(data), 128, MAX_UNCLAIMED
    for _ in range(MAX_ENTRIES):
        if position + 8 > len(data):
            return
        kind, size = struct.unpack_from(order + "II", data, position)
        body: Any = view[position + 8: position + 8 + size]
        if len(body) < size:
            raise FileError(f"is cut off: an element of {size} bytes begins at byte {position} of {len(data)}")
        position += 8 + size
        if kind == _MAT_PACKED:
            head = _unzipped(body, 15, 4096, cut=True)
            kind, size = struct.unpack_from(order + "II", head)
            if kind != _MAT_MATRIX or _mat_header(memoryview(head)[8:], order) is None:
                continue
            left -= size
            if left < 0:
                raise FileError(f"unpacks to more than {MAX_UNCLAIMED} bytes")
            body = memoryview(_unzipped(body, 15, size + 8))[8:]
        if kind == _MAT_MATRIX:
            yield body
    raise FileError(f"has more than {MAX_ENTRIES} variables")


def _mat_part(body: Any, position: int, order: str) -> tuple[int, int, int, int]:
    """(type, start, size, next) of a part of a matrix; short parts share their eight bytes with their tag."""
    word, size = struct.unpack_from(order + "II", body, position)
    if word >> 16:
        return word & 0xFFFF, position + 4, word >> 16, position + 8
    return word, position + 8, size, position + 8 + (size + 7) // 8 * 8


def _mat_header(body: Any, order: str) -> tuple[str, tuple[int, ...], int, int] | None:
    """(name, shape, class, where the numbers are) of an array worth reading, else None."""
    _, start, size, position = _mat_part(body, 0, order)
    (flags,) = struct.unpack_from(order + "I", body, start)
    if flags & 0xFF not in _MAT_CLASSES or flags & _MAT_COMPLEX:
        return None
    _, start, size, position = _mat_part(body, position, order)
    if size not in (8, 12):
        return None
    shape = struct.unpack_from(f"{order}{size // 4}i", body, start)
    if min(shape) < 1 or min(shape[:2]) < 2:
        return None
    _, start, size, position = _mat_part(body, position, order)
    return bytes(body[start: start + min(size, 63)]).decode("latin-1"), shape, flags & 0xFF, position


def _mat_array(body: Any, order: str, name: str, shape: tuple[int, ...], position: int) -> Array:
    stored, start, size, _ = _mat_part(body, position, order)
    dtype = np.dtype(_MAT_TYPES[stored]).newbyteorder("<" if order == "<" else ">")
    if size != prod(shape) * dtype.itemsize:
        raise FileError(f"is damaged: {shown(name)} of shape {shape} has {size} bytes")
    array = _view(body, start, shape, dtype, "F")
    return _slices(array if array.ndim == 2 else np.moveaxis(array, 2, 0))


# HDF5: MATLAB 7.3 and MINC 2 ------------------------------------------------------------------------------------------

_HDF5_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32


def _hdf5(data: bytes, stem: str) -> dict[str, Array]:
    import h5py

    with h5py.File(BytesIO(data), "r") as file:
        if "minc-2.0" in file:
            return {stem: _minc2(file)}
        found: dict[str, Array] = {}
        if len(file) > MAX_ENTRIES:
            raise FileError(f"has more than {MAX_ENTRIES} variables")
        for name in file:
            item = _inside(file, name)
            if not isinstance(item, h5py.Dataset) or item.attrs.get("MATLAB_class") == b"char":
                continue
            if item.dtype.kind in "biuf" and item.ndim in (2, 3) and min(item.shape[-2:]) > 1:
                found[str(name)] = _slices(np.swapaxes(_dataset(item), -1, -2))  # MATLAB's dimensions, reversed
        return {name: array for name, array in found.items() if array.dtype.kind in "biu"} or found


def _inside(file: Any, place: str) -> Any:
    """What lies at a place of an HDF5 file; a link that leads elsewhere, even into another file, is refused."""
    import h5py

    for name in place.split("/"):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise FileError(f"has no part {shown(place)}, or only a link to it")
        file = file[name]
    return file


def _dataset(item: Any) -> Array:
    """The numbers of an HDF5 data set, after a look at everything that could make HDF5 read elsewhere or too much."""
    _claimed(item.shape or (1,), item.dtype.itemsize)
    if item.external or item.is_virtual:
        raise FileError("keeps its data in another file")
    plan = item.id.get_create_plist()
    filters = [plan.get_filter(position)[0] for position in range(plan.get_nfilters())]
    if not set(filters) <= _HDF5_FILTERS or len(set(filters)) < len(filters):
        raise FileError(f"uses HDF5 filters {filters}; deflate, shuffle and fletcher32 are read")
    if item.chunks is not None:
        size = _claimed(item.chunks, item.dtype.itemsize)
        if item.id.get_num_chunks() > MAX_ENTRIES:
            raise FileError(f"has more than {MAX_ENTRIES} chunks")
        places: list[Any] = []
        item.id.chunk_iter(places.append)
        for place in places if 1 in filters else ():
            skipped, packed = item.id.read_direct_chunk(place.chunk_offset)
            if not skipped >> filters.index(1) & 1:
                _unzipped(packed, 15, size + 4)  # HDF5 itself would unpack a chunk without any limit
    return np.asarray(item[()])


def _minc2(file: Any) -> Array:
    image, top, bottom = (_inside(file, f"minc-2.0/image/0/{name}") for name in ("image", "image-max", "image-min"))
    array = _dataset(image)
    valid = image.attrs.get("valid_range", _range_of(array.dtype))
    return _minc(array, _dataset(top), _dataset(bottom), valid)


def _range_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    return (0.0, 1.0) if dtype.kind == "f" else (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))


def _minc(array: Array, top: Array, bottom: Array, valid: Any) -> Array:
    """MINC's real values: the valid range of the stored ones is stretched to image-min .. image-max of each slice."""
    if array.dtype.kind == "f":
        return _slices(array)
    if array.dtype.kind not in "iu" or top.shape != bottom.shape or top.shape != array.shape[: min(top.ndim, 2)]:
        raise FileError("has a range of values (image-max, image-min) that does not fit its image")
    low, high = (float(x) for x in np.ravel(valid)[:2])
    if not low < high:
        raise FileError(f"has the valid range {low:g} to {high:g}")
    lower, upper = (np.asarray(x, np.float64).reshape(x.shape or (1,)) for x in (bottom, top))
    slope = (upper - lower) / (high - low)
    return _slices(_scaled(np.clip(array, *(array.dtype.type(x) for x in (low, high))), slope, lower - low * slope))


# netCDF 3: MINC 1 -----------------------------------------------------------------------------------------------------

_NETCDF_TYPES = {1: "b", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}


@dataclass
class _Cursor:
    """Reads the header of a netCDF 3 file, whose format is published as doi:10.5065/D6H70CW6."""

    data: bytes
    position: int = 8  # after the magic number and the number of records

    def number(self, code: str = "I") -> int:
        (value,) = struct.unpack_from(">" + code, self.data, self.position)
        self.position += struct.calcsize(code)
        return int(value)

    def count(self) -> int:
        """The length of a list, after its tag."""
        self.number()
        number = self.number()
        if number > MAX_ENTRIES:
            raise FileError(f"has a list of {number} entries in its header")
        return number

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + (size + 3) // 4 * 4
        if self.position > len(self.data) + 3:
            raise FileError("is cut off in its header")
        return self.data[start: start + size]

    def word(self) -> str:
        return self.take(self.number()).decode("latin-1")

    def attributes(self) -> dict[str, Array]:
        found = {}
        for _ in range(self.count()):
            name, dtype, size = self.word(), np.dtype(_NETCDF_TYPES[self.number()]), self.number()
            found[name] = np.frombuffer(self.take(size * dtype.itemsize), dtype)
        return found


@dataclass(frozen=True)
class _Variable:
    array: Array
    attributes: Mapping[str, Array]


def _netcdf3(data: bytes, wanted: set[str]) -> dict[str, _Variable]:
    cursor = _Cursor(data)
    lengths = [(cursor.word(), cursor.number())[1] for _ in range(cursor.count())]
    cursor.attributes()
    found = {}
    for _ in range(cursor.count()):
        name = cursor.word()
        rank = cursor.number()
        shape = tuple(lengths[cursor.number()] for _ in range(min(rank, 9)))
        attributes = cursor.attributes()
        dtype = np.dtype(_NETCDF_TYPES[cursor.number()])
        cursor.number()  # the size, which follows from the shape
        begin = cursor.number("Q" if data[3] == 2 else "I")
        if name in wanted:
            sign = attributes.get("signtype", np.array([])).tobytes()[:8]
            if dtype.kind == "i" and sign != b"signed__" and (sign == b"unsigned" or dtype.itemsize == 1):
                dtype = np.dtype(dtype.str.replace("i", "u"))  # MINC's bytes have no sign unless it says so
            found[name] = _Variable(_view(data, begin, shape or (1,), dtype).reshape(shape), attributes)
    return found


def _minc1(data: bytes, stem: str) -> dict[str, Array]:
    variables = _netcdf3(data, {"image", "image-max", "image-min"})
    if len(variables) < 3:
        raise FileError("is a netCDF file, but no MINC: it needs image, image-max and image-min")
    image = variables["image"]
    valid = image.attributes.get("valid_range", _range_of(image.array.dtype))
    return {stem: _minc(image.array, variables["image-max"].array, variables["image-min"].array, valid)}


# FreeSurfer and pictures ----------------------------------------------------------------------------------------------

_MGH_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2"}
_MGH_HEADER = 284
_JPEG = b"\xff\xd8\xff"


def _is_mgh(data: bytes) -> bool:
    """Version 1 and a known type: the format has no magic number."""
    if len(data) < _MGH_HEADER:
        return False
    version, *shape, kind = struct.unpack_from(">6i", data)
    return version == 1 and min(shape) >= 1 and kind in _MGH_TYPES


def _mgh_size(data: bytes) -> int:
    """How many bytes a FreeSurfer volume claims to have; what follows (tags, scan parameters) is not read."""
    _, *shape, kind = struct.unpack_from(">6i", data)
    return _claimed(tuple(shape), np.dtype(_MGH_TYPES[kind]).itemsize) + _MGH_HEADER


def _mgh(data: bytes, stem: str) -> dict[str, Array]:
    """Voxel (i, j, k) of the file is [k, j, i] here; the file's axes are not turned."""
    _, *shape, kind = struct.unpack_from(">6i", data)
    dtype = np.dtype(_MGH_TYPES[kind])
    return {stem: _slices(_view(data, _MGH_HEADER, tuple(shape[::-1]), dtype))}


def _jpeg(data: bytes, stem: str) -> dict[str, Array]:
    """The brightness of a picture in 0..1, one slice; no label, because JPEG changes numbers."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
        with Image.open(BytesIO(data), formats=["JPEG"]) as picture:
            _claimed((picture.height, picture.width), 4)
            return {stem: _slices(np.asarray(picture.convert("L"), np.float32) / np.float32(255))}


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, str], dict[str, Array]]], ...] = (
    (lambda data: data[:8] == b"\x89HDF\r\n\x1a\n" or data[512:520] == b"\x89HDF\r\n\x1a\n", _hdf5),
    (lambda data: data[126:128] in (b"IM", b"MI"), _mat5),
    (lambda data: data[:6] == b"\x93NUMPY", _npy),
    (lambda data: data[:3] == b"CDF" and data[3:4] in (b"\x01", b"\x02"), _minc1),
    (lambda data: data[:4] == b"NRRD", _nrrd),
    (lambda data: data[:3] == _JPEG, _jpeg),
    (_is_nifti, _nifti),
    (_is_mgh, _mgh),
)
