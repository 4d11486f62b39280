"""The house rules that a machine can check: doors open one way, files and functions stay small, names stay plain.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# One line a storey: a room may look into its own storey and the ones before it.
STOREYS = [
    {"units", "numerics", "numerics32", "cache", "device"},
    {"special"},
    {"draws"},
    {"distributions"},
    {"sequences"},
    {"step"},
    {"physics"},
    {"recipe"},
    {"floor", "series"},
    {"virtual", "store"},
    {"order"},
    {"stream"},
    {"gaps", "report"},
    {"cli", "__init__", "__main__"},
]
FLOOR_OF = {room: height for height, rooms in enumerate(STOREYS) for room in rooms}
ONLY_IN = {
    "numba": {"numerics", "numerics32", "device", "special", "draws", "distributions", "physics", "order", "stream"},
    "torch": {"stream"},
    "dask": {"store", "virtual"},
    "distributed": {"store", "virtual"},
    "yaml": {"recipe"},
    "typer": {"cli"},
}
BANNED_WORDS = {"utils", "helpers", "base", "common", "manager", "engine"}
BANNED_PREFIXES = ("get_", "do_", "process_")
NAMED_BY_OTHERS = {"get_duck_array"}  # what xarray calls
EXEMPT: dict[str, str] = {
    "_card_graphs.py:_any_phase": "a kernel of a graphics card, whose states stay in registers",
    "_card_isochromats.py:_kernel": "likewise",
    "_card_graphs.py:kernel": "the same function, inside the one that chooses where states lie",
}  # "file:function" of a hot kernel -> why it is longer than 40 lines; at most five


def sources(*folders: str) -> list[Path]:
    return [p for f in folders for p in sorted((ROOT / f).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(module, whether the import stands at the top level of a file)."""
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    checked = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "factory" else [f"factory.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in inside


def faults_of_doors(path: Path, text: str) -> list[str]:
    relative = path.relative_to(ROOT)
    room = relative.parts[1].removesuffix(".py")
    found = []
    for name, at_top in imports(ast.parse(text)):
        top, _, rest = name.partition(".")
        if relative.parts[0] == "factory":
            roof = FLOOR_OF[room] == len(STOREYS) - 1
            if top in ("models", "cluster", "tests") and not (roof and not at_top and top != "tests"):
                found.append(f"{relative} imports {name}")
            if top == "factory" and rest and FLOOR_OF[rest.partition(".")[0]] > FLOOR_OF[room]:
                found.append(f"{relative} looks upstairs into {name}")
            if top in ONLY_IN and room not in ONLY_IN[top] and not roof:
                found.append(f"{relative} imports {name}; only {sorted(ONLY_IN[top])} may")
        elif relative.parts[0] == "models":
            if name.startswith("factory.physics"):
                found.append(f"{relative} imports {name}: physics inside a network is a torch twin in models/layers.py")
            shared = ("cards", "training", "layers", "weights", "classical", "studies")
            if top == "models" and rest and rest.partition(".")[0] not in shared:
                found.append(f"{relative} imports another system: {name}")
        elif relative.parts[0] == "cluster" and top in ("factory", "models"):
            found.append(f"{relative} imports {name}: cluster stands alone")
    return found


def code_lines(text: str) -> list[int]:
    """Numbers of the lines that hold code: no blank ones, no comments, no docstrings."""
    tree = ast.parse(text)
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            prose |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return [
        n
        for n, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and n not in prose
    ]


def test_doors_open_one_way() -> None:
    found = [
        fault for path in sources("factory", "models", "cluster") for fault in faults_of_doors(path, path.read_text())
    ]
    assert not found, "\n".join(found)


def test_the_door_test_sees_a_wrong_import() -> None:
    assert faults_of_doors(ROOT / "factory/draws.py", "from factory.floor import make")
    assert faults_of_doors(ROOT / "factory/floor.py", "import torch")
    assert faults_of_doors(ROOT / "factory/store/layout.py", "def f():\n    import models.rim")
    assert faults_of_doors(ROOT / "models/rim.py", "from factory.physics import epg")


@pytest.mark.parametrize("path", sources("factory", "models", "cluster"), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    lines = code_lines(text)
    assert len(lines) <= 400, f"{path.name} has {len(lines)} code lines; split it where it does two jobs"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and f"{path.name}:{node.name}" not in EXEMPT:
            long = sum(node.lineno <= n <= (node.end_lineno or node.lineno) for n in lines)
            assert long <= 40, f"{path.name}:{node.name} has {long} code lines"
    assert len(EXEMPT) <= 5


def test_names_are_plain_words() -> None:
    for path in sources("factory", "models", "cluster"):
        assert not BANNED_WORDS & set(path.relative_to(ROOT).with_suffix("").parts), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in NAMED_BY_OTHERS:
                assert not node.name.lstrip("_").startswith(BANNED_PREFIXES), f"{path.name}:{node.name}"


def test_importing_the_package_is_light() -> None:
    code = "import sys, factory; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"numpy", "numba", "xarray", "torch", "dask", "zarr", "matplotlib"}
