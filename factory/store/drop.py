"""Putting files into a store: whole or not at all, and where a run may be killed in doing so.

In a folder, a file is written beside its place, synchronised to the disk and renamed.  Every name is opened relative to
a handle of its folder, links unfollowed, so that whoever may change names in a store cannot lead a write out of it.
In an object store a PUT does all of that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

from factory.store.errors import NoStore, StoreError
from factory.store.files import Place, folder_handle
from factory.store.metadata import BOOKS
from factory.store.objects import ObjectPath

Durable = Literal["power", "process"]
Data = bytes | memoryview | Iterable[bytes | memoryview]
POINTS = tuple(f"{when} {what}" for what in ("temporary file", "fsync", "replace", "folder fsync", "commit")
               for when in ("before", "after"))
BLOCK = 1 << 22  # bytes that are compared at once
AHEAD = 1 << 23  # bytes after which the disk is told to begin

hook: Callable[[str], None] | None = None  # tests stop a run at any of POINTS


def at(point: str) -> None:
    """Tell whoever watches that a run has come so far."""
    if hook is not None:
        hook(point)


def drop_into(store: Place, run: str, durable: Durable = "power") -> Drop | Puts:
    """What puts files into a store; StoreError where it can only be read."""
    return Puts(store) if isinstance(store, ObjectPath) else Drop(store, run, durable)


class Puts:
    """Objects on their way into an object store: each is there as soon as it is added, whole."""

    def __init__(self, store: ObjectPath):
        if not store.writable:
            raise StoreError(f"{store} can only be read; make a store in a folder or at s3://, gs:// or az://")

    def add(self, target: Place, data: Data) -> None:
        """PUT ``data``; several pieces become visible together."""
        assert isinstance(target, ObjectPath)
        at("before temporary file")
        target.write_bytes(data)
        at("after temporary file")

    def place(self) -> None:
        """Nothing: what was added is in its place."""

    def clear(self) -> None:
        """Nothing: a PUT leaves nothing behind."""

    def close(self) -> None:
        """Nothing."""


class Drop:
    """Files on their way into a store: written beside their place, synchronised, then renamed all together."""

    def __init__(self, store: Path, run: str, durable: Durable = "power"):
        if not (store / BOOKS).is_dir():
            raise NoStore(f"the store {store} has vanished")
        self.store, self.run = store, run
        self.synchronises = durable == "power"
        self.waiting: list[tuple[str, Path]] = []  # temporary name, place

    def _folder(self, *names: str, create: bool = False) -> AbstractContextManager[int]:
        return folder_handle(self.store, *names, create=create)

    def _partial(self, create: bool = False) -> AbstractContextManager[int]:
        return self._folder(BOOKS, "partial", self.run, create=create)

    def add(self, target: Place, data: Data) -> None:
        """Write ``data`` to a temporary file for ``target`` and synchronise it to the disk."""
        assert isinstance(target, Path)
        temporary = uuid4().hex
        with _named(target), self._partial(create=True) as folder:
            at("before temporary file")
            self.waiting.append((temporary, target))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                begun = written = 0
                for piece in [data] if isinstance(data, bytes | memoryview) else data:
                    written += file.write(piece)
                    if self.synchronises and written - begun >= AHEAD:
                        file.flush()
                        _start_writing(file.fileno(), begun, written)
                        begun = written
                at("after temporary file")
                if self.synchronises:
                    file.flush()
                    at("before fsync")
                    os.fsync(file.fileno())
                    at("after fsync")

    def place(self) -> None:
        """Rename everything that waits into its place, then synchronise the folders.

        A file that holds the same bytes already stays untouched.
        """
        if not self.waiting:
            return
        with self._partial() as source:
            for temporary, target in self.waiting:
                with _named(target), self._of(target.parent) as folder:
                    _rename(source, temporary, folder, target.name)
        folders = dict.fromkeys(target.parent for _, target in self.waiting)
        self.waiting = []
        for path in folders if self.synchronises else ():
            with _named(path), self._of(path) as folder:
                at("before folder fsync")
                os.fsync(folder)
                at("after folder fsync")

    def _of(self, folder: Path) -> AbstractContextManager[int]:
        return self._folder(*folder.relative_to(self.store).parts)

    def clear(self) -> None:
        """Remove what was written and not placed."""
        if self.waiting:
            with suppress(FileNotFoundError), self._partial() as folder:
                for temporary, _ in self.waiting:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=folder)
        self.waiting = []

    def close(self) -> None:
        """Remove this run's folder; another run's files stay."""
        with suppress(OSError):  # gone already, or in use
            with self._folder(BOOKS, "partial") as folder:
                os.rmdir(self.run, dir_fd=folder)
            with self._folder(BOOKS) as folder:
                os.rmdir("partial", dir_fd=folder)


def _start_writing(handle: int, begun: int, written: int) -> None:
    """Let the disk begin, so that there is less to wait for in the end; Linux does so when told to forget."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, begun, written - begun, os.POSIX_FADV_DONTNEED)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """An error of the system speaks of the file that was to be, not of a temporary one or of none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _rename(source: int, temporary: str, folder: int, name: str) -> None:
    if _same(source, temporary, folder, name):
        os.unlink(temporary, dir_fd=source)
        return
    at("before replace")
    os.replace(temporary, name, src_dir_fd=source, dst_dir_fd=folder)
    at("after replace")


def _same(source: int, temporary: str, folder: int, name: str) -> bool:
    """Whether a regular file with these bytes is there already."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        old = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if old.st_size != os.stat(temporary, dir_fd=source).st_size:
            return False
        with open(os.open(name, flags, dir_fd=folder), "rb") as one, \
             open(os.open(temporary, flags, dir_fd=source), "rb") as other:
            while block := one.read(BLOCK):
                if block != other.read(BLOCK):
                    return False
        return True
    except FileNotFoundError:
        return False
    except OSError:  # a link, a pipe, a folder: not what is to be there
        return False
