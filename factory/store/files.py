"""Looking at files that strangers may have put there: only regular ones are read, links and pipes are not followed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO


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


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The same as a file object."""
    return os.fdopen(descriptor_of(path), "rb")


def regular_size(path: str | os.PathLike[str]) -> int | None:
    """Bytes of a regular file; None for anything else, FileNotFoundError for nothing."""
    found = os.lstat(path)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def fault(path: Path, size: int | None = None) -> str | None:
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


def remove(path: Path) -> None:
    """Take away whatever lies at a path, links unfollowed; nothing is fine, too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
