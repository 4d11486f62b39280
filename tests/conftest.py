"""What several tests share: a small recipe and its finished store, reference data, and a server that speaks S3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.recipe import Recipe
from factory.store import materialise


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    from tests.test_store import recipe_of

    return recipe_of(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that no test changes."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    materialise(recipe, path, threads=1)
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of real measurements and of other simulators' answers; skips where there is none."""
    folder = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no reference data: set FACTORY_REFERENCE_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of a server that speaks S3, in a process of its own."""
    pytest.importorskip("moto", reason="no S3 server is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, "the S3 server did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Iterator[str]:
    """An empty bucket; the environment says where it is and who asks, as for any other S3 client."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
                            "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}.items():
            patch.setenv(name, value)
        subprocess.run([sys.executable, "-W", "ignore", "-c",
                        "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"], check=True,
                       env=os.environ | {"AWS_DEFAULT_REGION": "us-east-1"})
        yield "s3://bucket"
