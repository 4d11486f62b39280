"""Where numba keeps compiled kernels: a private folder for these sources, this numba and this CPU."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

KEPT = 8  # folders of older sources that stay


def use() -> None:
    """Make numba use the private folder, unless the user names one in ``NUMBA_CACHE_DIR``.

    numba does not notice changes in imported files, so stale code would run after an update; and a cache folder that
    others can write to is a way to run their code.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    os.environ["NUMBA_CACHE_DIR"] = str(_folder())
    if "numba" in sys.modules:  # its settings were read before ours
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]


def sources_digest() -> str:
    """sha256 over the names and bytes of every source file of the package: what "the same code" means."""
    here = Path(__file__).parent
    digest = sha256()
    for path in sorted(here.rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def cpu() -> str:
    """Name of this CPU and of the one that numba and NumPy are told to assume."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
        flags = next((line for line in lines if line.startswith("flags")), "")
        name += " " + sha256(flags.encode()).hexdigest()[:8]
    return " ".join(
        [name, os.environ.get("NUMBA_CPU_NAME", ""), os.environ.get("NPY_DISABLE_CPU_FEATURES", "")]
    ).strip()


def private_folder(name: str) -> Path:
    """A folder of that name in this user's cache, readable by nobody else."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mr-factory" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _folder() -> Path:
    key = sha256(f"{sources_digest()} {version('numba')} {sys.version} {cpu()}".encode()).hexdigest()[:24]
    try:
        base = private_folder("numba")
        folder = base / key
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            old = sorted((p for p in base.iterdir() if p != folder), key=lambda p: p.stat().st_mtime)
            for path in old[:-KEPT]:
                shutil.rmtree(path, ignore_errors=True)
        facts = folder.stat()
        if facts.st_uid == os.getuid() and not stat.S_IMODE(facts.st_mode) & 0o022:
            return folder
    except OSError:
        pass  # no home to write to: a folder of this process does
    return Path(tempfile.mkdtemp(prefix="mr-factory-numba-"))
