"""Looking at what strangers may have put into a store: only regular files are read, links and pipes are not followed.

A store lies in a folder or in an object store; what differs between the two is here and in `factory.store.drop`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from factory.store.objects import ObjectPath, many

T = TypeVar("T")
R = TypeVar("R")
Place = Path | ObjectPath
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def place(store: str | Place) -> Place:
    """A store's place: a folder, or an address such as ``s3://bucket/store``."""
    if isinstance(store, str):
        return ObjectPath.of(store) if "://" in store else Path(store)
    return store


def key_of(path: Place, store: Place) -> str:
    """A file's path inside a store."""
    return path.relative_to(store).as_posix()  # type: ignore[arg-type]


def each(store: str | Place, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` for questions about a store's files; many at once where each waits for the network."""
    return many(function, items) if isinstance(place(store), ObjectPath) else map(function, items)


def readable(folder: Place) -> Any:
    """A folder as zarr-python takes it, for reading."""
    return folder.opened() if isinstance(folder, ObjectPath) else folder


class IrregularFile(OSError):
    """A link, a folder, a pipe or a device where a file should be."""


def descriptor_of(path: str | os.PathLike[str]) -> int:
    """A descriptor of a file for reading; IrregularFile when it is none, OSError when it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise IrregularFile(error.errno, "is no regular file", os.fspath(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise IrregularFile(errno.EINVAL, "is no regular file", os.fspath(path))
    return handle


def open_regular(path: Place) -> BinaryIO:
    """The same as a file object, or an object whole."""
    if isinstance(path, ObjectPath):
        return path.open()
    return os.fdopen(descriptor_of(path), "rb")


def regular_size(path: Place) -> int | None:
    """Bytes of a regular file or an object; None for anything else, FileNotFoundError for nothing."""
    if isinstance(path, ObjectPath):
        return path.stat().st_size
    found = os.lstat(path)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def fault(path: Place, size: int | None = None) -> str | None:
    """Why a path is no regular file, or not one of ``size`` bytes."""
    try:
        found = regular_size(path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if found is None:
        return "no regular file"
    if size is None or found == size:
        return None
    return "empty" if found == 0 else "truncated" if found < size else "overlong"


@contextmanager
def folder_handle(store: Path, *names: str, create: bool = False) -> Iterator[int]:
    """A handle of a folder inside a store, reached step by step so that no link leads elsewhere."""
    handle = os.open(store, FOLDER & ~os.O_NOFOLLOW)  # the store itself may be named by a link
    try:
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=handle)
            below = os.open(name, FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def remove(path: Place) -> None:
    """Take away whatever lies at a path, links unfollowed; nothing is fine, too."""
    if isinstance(path, Path) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
