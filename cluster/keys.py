"""Private folders, and the certificates of one cluster's life."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed.security import Security

FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def private(folder: Path) -> Path:
    """A folder that nobody but this user can enter, made if need be.

    Raises
    ------
    ValueError
        It belongs to somebody else, or is a link.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise ValueError(f"{folder} belongs to another user; name a folder of your own as `shared`")
        if stat.S_IMODE(os.fstat(handle).st_mode) != 0o700:
            os.fchmod(handle, 0o700)
    finally:
        os.close(handle)
    return folder


def shared_folder(given: str | None) -> Path:
    """Where keys and logs of jobs lie: on a file system that all nodes see, by default the home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "mr-factory" / "cluster"


@contextmanager
def run_folder(given: str | None) -> Iterator[Path]:
    """A private folder of one cluster's life below the shared one; it is gone afterwards."""
    above = private(shared_folder(given))
    host = socket.gethostname()
    for left in above.glob(f"run-{host}-*"):  # of runs on this machine that were killed
        owner = left.name.removeprefix(f"run-{host}-").partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"run-{host}-{os.getpid()}-", dir=above))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_keys(folder: Path) -> None:
    """A new key and its certificate as files that only this user can read."""
    made: Any = Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_worker_cert, "key": made.tls_worker_key}
    for what, name in FILES.items():
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(texts[what])


def security(ca: str | Path, cert: str | Path, key: str | Path) -> Security:
    """What Dask needs to speak and to listen with files of keys, and with nothing else."""
    made: Any = Security
    roles = {f"tls_{role}_{what}": str(path) for role in ("client", "scheduler", "worker")
             for what, path in (("cert", cert), ("key", key))}
    return made(require_encryption=True, tls_ca_file=str(ca), **roles)  # type: ignore[no-any-return]


def security_in(folder: Path) -> Security:
    """`security` for the files of `write_keys`."""
    return security(*(folder / name for name in FILES.values()))


def settings_for(folder: Path) -> dict[str, Any]:
    """The same as Dask's settings, for processes that read no arguments of ours."""
    names: dict[str, Any] = {"distributed.comm.require-encryption": True,
                             "distributed.comm.tls.ca-file": str(folder / FILES["ca"])}
    for role in ("client", "scheduler", "worker"):
        names |= {f"distributed.comm.tls.{role}.{what}": str(folder / FILES[what]) for what in ("cert", "key")}
    return names
