"""What happened to a store: who worked on it, when, where, with which code; a line of JSON for each event.

``.factory/log/<time>-<run>.jsonl`` belongs to one run: ``begin`` (with the fingerprint of its code), ``shard`` for each
one made, then ``finished``, ``part made`` or ``stopped`` with the reason; a run that was killed has no last line.  No
hash and no comparison includes these files.  In an object store, which knows no appending, single shards are left out.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import factory
from factory.store.commit import Commit
from factory.store.files import Place, folder_handle, open_regular
from factory.store.metadata import BOOKS

LINE_BYTES = 1 << 16  # the first line of a log is never longer
Fingerprint = Mapping[str, str]


def known(store: Place) -> Iterator[Fingerprint]:
    """The fingerprints of the runs that worked on a store."""
    folder = store / BOOKS / "log"
    paths: list[Place] = list(folder.iterdir()) if folder.is_dir() else []
    for path in sorted(paths, key=str):
        try:
            with open_regular(path) as file:
                yield dict(json.loads(file.readline(LINE_BYTES))["fingerprint"])
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            continue  # the log is for people: one that is lost costs a probe


class Journal:
    """The log of one run, as a context: what ends it is its last line."""

    def __init__(self, store: Place, run: str, **facts: Any):
        self.began, self.shards, self.result = time.monotonic(), 0, "part made"
        self.path = store / BOOKS / "log" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{run}.jsonl"
        self.kept = b""  # where nothing can be appended
        self.store = store
        try:
            who = getpass.getuser()
        except (KeyError, OSError):
            who = ""
        self._write("begin", run=run, who=who, host=socket.gethostname(), process=os.getpid(),
                    python=platform.python_version(), factory=factory.__version__, **facts)

    def _write(self, event: str, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **facts}).encode() + b"\n"
        if not isinstance(self.store, Path):
            self.kept += line
            self.path.write_bytes(self.kept)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with folder_handle(self.store, BOOKS, "log", create=True) as folder:
            handle = os.open(self.path.name, flags, 0o666, dir_fd=folder)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def shard(self, commit: Commit) -> None:
        """A shard was made."""
        self.shards += 1
        if isinstance(self.path, Path):
            self._write("shard", split=commit.split, shard=commit.shard, samples=commit.samples, bytes=commit.nbytes)

    def finished(self) -> None:
        """The store is finished."""
        self.result = "finished"

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        facts = {"shards": self.shards, "seconds": round(time.monotonic() - self.began, 3)}
        if error is None:
            self._write(self.result, **facts)
            return
        try:
            self._write("stopped", why=f"{type(error).__name__}: {error}"[:2000], **facts)
        except OSError:
            return  # the disk is full, or the store is gone: what stopped the run is told to its caller
