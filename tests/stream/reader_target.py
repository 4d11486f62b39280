"""A process that reads a store batch by batch and says what it got; it waits for a word before each next batch."""

from __future__ import annotations

import hashlib
import sys
from multiprocessing.connection import Connection
from typing import Any

from factory.store import StoreError
from factory.stream import Stream
from factory.stream import stored as room


def digest(batch: dict[str, Any]) -> str:
    """A hash of everything that a batch holds."""
    whole = hashlib.sha256()
    for name in sorted(batch):
        whole.update(name.encode() + batch[name].numpy().tobytes())
    return whole.hexdigest()


def read(line: Connection, store: str, way: str, options: dict[str, Any]) -> None:
    """Send ("batch", digest) for each batch, and ("error", sentence) with status 3 for a store that is refused."""
    if way == "pread":
        room.is_local = lambda path: False
    try:
        for batch in Stream(store, "train", **options):
            line.send(("batch", digest(batch)))
            line.recv()
    except StoreError as error:
        line.send(("error", str(error)))
        sys.exit(3)
