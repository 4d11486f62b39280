"""Paths in an object store, so that everything that cares for a store works there as in a folder.

``s3://bucket/store``, ``gs://bucket/store`` and ``az://container/store`` are written and read; ``https://host/store``
is read only.  Keys and endpoints come from the environment variables of each vendor's own tools (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ...).  A PUT is atomic: an object is there with all its bytes or not at all.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar

from factory.store.errors import StoreError

SCHEMES = ("s3", "gs", "az", "https", "http")
READ_ONLY = ("https", "http")
T = TypeVar("T")
R = TypeVar("R")
LISTED = 1000  # objects of one answer to a listing
_process: int | None = None  # that reads from object stores
PIECE = 4 << 20  # bytes of a large object that are in memory at once


class Found(NamedTuple):
    """What is known of an object."""

    st_size: int


@dataclass(frozen=True)
class ObjectPath:
    """An object, or a common prefix of objects, with those methods of `pathlib.Path` that stores use.

    OSError says what the other side said; FileNotFoundError that there is no such object.
    """

    root: str  # scheme://bucket
    key: str  # without a leading slash

    @classmethod
    def of(cls, url: str) -> ObjectPath:
        """``s3://bucket/some/store`` as a path.  StoreError for another scheme, or where a part of the path is odd."""
        scheme, _, rest = url.partition("://")
        host, _, key = rest.partition("/")
        parts = [part for part in key.split("/") if part]
        if scheme not in SCHEMES or not host:
            raise StoreError(f"{url} is no address of a store; say a folder, or {', '.join(f'{s}://' for s in SCHEMES)}"
                             "bucket/path")
        if any(part in (".", "..") for part in parts) or "@" in host or set("?#") & set(url):
            raise StoreError(f"{url} holds '.', '..', a user's name, '?' or '#'; say scheme://bucket/path only")
        return cls(f"{scheme}://{host}", "/".join(parts))

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"

    def __truediv__(self, part: str) -> ObjectPath:
        return ObjectPath(self.root, "/".join(filter(None, [self.key, *part.split("/")])))

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, self.key.rpartition("/")[0])

    @property
    def writable(self) -> bool:
        return self.root.partition(":")[0] not in READ_ONLY

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The rest of the path below another one."""
        return PurePosixPath(self.key).relative_to(PurePosixPath(other.key))

    def stat(self) -> Found:
        """Bytes of the object."""
        with _told(self):
            return Found(int(_api().head(_bucket(self.root), self.key)["size"]))

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            return self.stat().st_size >= 0
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether any object lies below this prefix; never where there are no listings (https)."""
        return self.writable and next(self.below(), None) is not None

    def exists(self) -> bool:
        """Whether it is an object or a prefix."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """The whole object."""
        with _told(self):
            return bytes(_api().get(_bucket(self.root), self.key).bytes())

    def open(self) -> BinaryIO:
        """The whole object as a file in memory."""
        return BytesIO(self.read_bytes())

    def read_range(self, start: int, nbytes: int) -> bytes:
        """Some bytes of the object; OSError when it ends before them."""
        with _told(self):
            found = bytes(_api().get_range(_bucket(self.root), self.key, start=start, length=nbytes))
        if len(found) != nbytes:
            raise OSError(errno.EIO, f"it ended after {len(found)} of {nbytes} bytes at {start}", str(self))
        return found

    def pieces(self) -> Iterator[bytes]:
        """The whole object, some MB at a time."""
        with _told(self):
            yield from map(bytes, _api().get(_bucket(self.root), self.key).stream(min_chunk_size=PIECE))

    def write_bytes(self, data: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
        """Put an object in one piece; several pieces become visible together."""
        with _told(self):
            if isinstance(data, bytes | memoryview):
                _api().put(_bucket(self.root), self.key, bytes(data), use_multipart=False)
                return
            file = _api().open_writer(_bucket(self.root), self.key)
            for piece in data:
                file.write(piece)
            file.close()  # only this makes it visible: after an error nothing is there

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        with _told(self):
            if not missing_ok:
                self.stat()
            _api().delete(_bucket(self.root), self.key)

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and prefixes right below this one; none where there are no listings (https)."""
        if not self.writable:
            return iter(())
        with _told(self):
            found = _api().list_with_delimiter(_bucket(self.root), prefix=self.key)
            keys = [one["path"] for one in found["objects"]] + list(found["common_prefixes"])
        return (ObjectPath(self.root, key.rstrip("/")) for key in sorted(keys))

    def below(self) -> Iterator[ObjectPath]:
        """Every object under this prefix, at any depth."""
        with _told(self):
            for page in _api().list(_bucket(self.root), prefix=self.key, chunk_size=LISTED):
                yield from (ObjectPath(self.root, one["path"]) for one in page)

    def opened(self) -> Any:
        """The prefix as zarr-python takes it, for reading."""
        from obstore.store import from_url
        from zarr.storage import ObjectStore

        return ObjectStore(from_url(str(self), **_options(self.root)), read_only=True)


@contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """Whatever went wrong on the other side as an OSError with one line."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from None
    except BaseError as error:
        said = str(error).partition("\n")[0]
        raise OSError(errno.EIO, f"the object store answered: {said}", str(path)) from error
    except PermissionError as error:
        said = str(error).partition("\n")[0]
        raise PermissionError(errno.EACCES, f"the object store answered: {said}", str(path)) from error


def _api() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise StoreError("stores at an address need one more package: pip install 'mr-factory[remote]'") from error
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():  # the threads that speak with the other side stayed behind: it would wait for ever
        raise StoreError("this process was forked from one that had read from an object store; start loader workers "
                         "with multiprocessing_context='spawn', or none: a Stream reads ahead by itself")
    return obstore


def _options(root: str) -> dict[str, Any]:
    # Plain http is for endpoints on this machine and for those that the environment asks for (AWS_ALLOW_HTTP).
    return {"client_options": {"allow_http": True}} if root.startswith("http://127.0.0.1") else {}


@lru_cache(maxsize=64)
def _bucket(root: str) -> Any:
    from obstore.store import from_url

    _api()
    return from_url(root, **_options(root))


def many(function: Callable[[T], R], items: Iterable[T], threads: int = 32) -> Iterator[R]:
    """`map` whose calls wait for the network side by side; results in order, few of them held."""
    rest = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="factory-objects") as pool:
        waiting = deque(pool.submit(function, item) for item in islice(rest, 2 * threads))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield done
