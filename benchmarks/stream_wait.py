"""How long a trainer waits for its samples: python benchmarks/stream_wait.py

The RIM is trained for some steps on the same samples of rim_t1 from a folder, live from the recipe, and from an S3
server on loopback in a process of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rows import record, row

from factory.recipe import load
from factory.store import materialise
from factory.stream import Stream
from models.cards import systems
from models.training import fit

BATCH, STEPS, LEFT_OUT = 24, 40, 8
LEVELS = {
    "splits.train.levels": "{subject: 2, patch: 1000}", "splits.validation.levels": "{subject: 1, patch: 1}",
    "splits.test.levels": "{subject: 1, patch: 1}", "splits.noise_study.levels": "{subject: 1, patch: 1, noise: 1}",
}  # fmt: skip


class Watched:
    """A stream whose `next` is timed, but for the first batches of a training."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.coordinates, self.dataset_id = stream, stream.coordinates, stream.dataset_id
        self.waited = self.begun = 0.0
        self.batches = 0

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.stream)
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.batches += 1
            if self.batches == LEFT_OUT:
                self.begun = time.perf_counter()
            elif self.batches > LEFT_OUT:
                self.waited += time.perf_counter() - begun
            yield batch


@contextmanager
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
                   "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                   "AWS_ALLOW_HTTP": "true"}  # fmt: skip
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < until:
            time.sleep(0.1)
        subprocess.run([sys.executable, "-W", "ignore", "-c",
                        "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"], check=True)  # fmt: skip
        yield "s3://bucket"
    finally:
        server.terminate()
        server.wait(timeout=30)


def waited(source: Any, folder: Path) -> tuple[float, float]:
    """(share of a step's time that it waits, seconds a step)."""
    stream = Watched(Stream(source, "train", batch=BATCH, seed=1))
    fit(systems()["rim_t1"], stream, out=folder, steps=STEPS, progress=False, save_every=10**6)
    seconds = time.perf_counter() - stream.begun
    return stream.waited / seconds, seconds / (STEPS - LEFT_OUT)


def main() -> None:
    recipe, rows = load("rim_t1", set=LEVELS), []
    with tempfile.TemporaryDirectory(dir=".") as name, bucket() as address:
        os.environ["XDG_CACHE_HOME"] = f"{Path(name).absolute()}/cache"  # an empty one
        folder = Path(name)
        materialise(recipe, folder / "store")
        materialise(recipe, f"{address}/store")
        for what, source in (("stored", folder / "store"), ("live", recipe), ("remote", f"{address}/store")):
            share, step = waited(source, folder / what)
            rows.append(row(f"trainer of rim_t1 waits, {what}", 100 * share, "% of a step",
                            target="<= 2" if what == "stored" else "",
                            baseline=f"steps of {1e3 * step:.0f} ms, batches of {BATCH}"))  # fmt: skip
    record("stream", rows)


if __name__ == "__main__":
    main()
