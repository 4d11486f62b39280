"""The doctor: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson
from factory.cli.terminal import as_json, complain, say, table

NEEDED = ("numpy", "numba", "xarray", "dask", "distributed", "zarr", "matplotlib", "rich", "typer")
TRAINING = ("torch", "lightning", "safetensors", "monai")
FEATURES = ("avx2", "fma", "avx512f")
LEAST_FREE = 2e9  # bytes: less than this and even the demo does not fit


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and what to do (empty where all is well)."""

    what: str
    found: str
    advice: str = ""


@app.command(epilog="Example:  factory doctor --json")
def doctor(json: AsJson = False) -> None:
    """Look at this machine and installation: exit 1 when something is wrong, with what to do about it."""
    findings = [*packages(), foreign(), machine(), cores(), card(), kernels(), disk(), recipes(), reference()]
    ok = not any(f.advice for f in findings)
    if json:
        as_json({"ok": ok, "findings": [f._asdict() for f in findings]})
    else:
        table("", ("what", "found"), [(f.what, f.found) for f in findings])
        say("All is well." if ok else "")
        for finding in findings:
            if finding.advice:
                complain(f"{finding.what}: {finding.advice}")
    raise typer.Exit(0 if ok else 1)


def packages() -> list[Finding]:
    """Versions; what is missing and must not be."""
    found = [Finding("python", f"{platform.python_version()} at {sys.executable}")]
    for name in (*NEEDED, *TRAINING):
        try:
            found.append(Finding(name, version(name)))
        except PackageNotFoundError:
            advice = "pip install mr-factory" if name in NEEDED else ""
            found.append(Finding(name, "absent" if advice else "absent: needed for training only "
                                 "(pip install 'mr-factory[train]')", advice))
    return found


def foreign() -> Finding:
    """Another package called ``factory`` (factory_boy) that takes this one's place, or shares its folder."""
    home = Path(__file__).parents[1].resolve()
    spec = importlib.util.find_spec("factory")
    places = {Path(p).resolve() for p in (spec.submodule_search_locations or [] if spec else [])}
    for entry in map(Path, sys.path):
        places |= {(entry / "factory").resolve()} if (entry / "factory" / "__init__.py").is_file() else set()
        single = entry / "factory.py"
        places |= {single.resolve()} if single.is_file() else set()
    strangers = sorted(str(p) for p in places - {home} if not _same(p, home))
    try:
        boy = f"factory_boy {version('factory_boy')} is installed"
    except PackageNotFoundError:
        boy = ""
    if strangers or boy:
        what = "; ".join(filter(None, [boy, ", ".join(strangers)]))
        return Finding("other 'factory'", what, "it has the same import name; remove it (pip uninstall factory_boy, or "
                       "rename the file), or use a virtual environment of its own")
    return Finding("other 'factory'", "none")


def _same(path: Path, home: Path) -> bool:
    """A second copy of this very package: an installed one beside a checkout."""
    return (path / "floor.py").is_file() and (path / "recipe").is_dir() and path.name == home.name


def machine() -> Finding:
    """The CPU and what the compiler may use of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    have = [f for f in FEATURES if f in flags]
    return Finding("CPU", f"{name}; {', '.join(have) or 'no vector features known'}")


def cores() -> Finding:
    """How many cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", f"{usable} usable of {os.cpu_count()}")


def card() -> Finding:
    """A graphics card, which is optional."""
    from factory import device

    why = device.missing()
    return Finding("graphics card", f"not used: {why}" if why else f"{device.card()}; factory make --device cuda")


def kernels() -> Finding:
    """The folder of compiled kernels: ours alone, and writable."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR", ""))
    advice = ""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        advice = "it is not a folder that can be written to, so every start compiles anew; set XDG_CACHE_HOME"
    elif hasattr(os, "getuid"):
        facts = folder.stat()
        if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o022:
            advice = "other users may write to it and so run their code as you; chmod 700, or unset NUMBA_CACHE_DIR"
    return Finding("compiled kernels", str(folder), advice)


def disk() -> Finding:
    """Free space where one stands."""
    free = shutil.disk_usage(Path.cwd()).free
    low = f"make room: less than {LEAST_FREE / 1e9:.0f} GB is too little even for the demo"
    return Finding("free disk here", f"{free / 1e9:.1f} GB", low if free < LEAST_FREE else "")


def recipes() -> Finding:
    """Every packaged recipe can be read."""
    from factory.recipe import load, names

    broken = []
    for name in names():
        try:
            load(name)
        except (ValueError, OSError):
            broken.append(name)
    advice = f"factory check {broken[0]}   says what is wrong" if broken else ""
    state = f"of which {', '.join(broken)} broken" if broken else "all sound"
    return Finding("recipes", f"{len(names())}, {state}", advice)


def reference() -> Finding:
    """Reference data for tests: optional."""
    given = os.environ.get("FACTORY_REFERENCE_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if folder.is_dir():
        return Finding("reference data", str(folder))
    if given:
        advice = "FACTORY_REFERENCE_DATA names no folder; correct it or unset it"
        return Finding("reference data", f"{given} is absent", advice)
    return Finding("reference data", "not found (optional, for tests; FACTORY_REFERENCE_DATA names its folder)")
