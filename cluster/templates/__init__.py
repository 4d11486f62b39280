"""Profiles and job scripts to copy."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

HERE = Path(__file__).parent
KINDS = (".yaml", ".sbatch")


def names() -> list[str]:
    """What can be copied."""
    return sorted(path.name for path in HERE.iterdir() if path.suffix in KINDS)


def read(name: str) -> str:
    """The text of one of them.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    if name not in names():
        near = get_close_matches(name, names(), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no template is called {name!r}{hint}; there are {', '.join(names())}")
    return (HERE / name).read_text()
