"""Results that people rely on: rows in benchmarks/results/<topic>.json, written by the command that measured them.

A row is {name, value, unit, target, holds, baseline, command, seed, machine, date}; a new measurement replaces the row
of the same name, a missed target stays with ``holds: false``.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tables import refresh

RESULTS = Path(__file__).parent / "results"
_COMPARE = {"<=": lambda v, t: v <= t, ">=": lambda v, t: v >= t, "<": lambda v, t: v < t, ">": lambda v, t: v > t}


def machine() -> str:
    """Cores, processor and memory in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def row(name: str, value: float, unit: str, *, target: str = "", baseline: str = "", seed: int = 0) -> dict[str, Any]:
    """One result.  ``target`` is a text such as "<= 1.3"; without one the row only informs and ``holds`` is None."""
    holds = None
    if target:
        sign, limit = target.split()
        holds = bool(_COMPARE[sign](value, float(limit)))
    return {
        "name": name, "value": float(f"{value:.4g}"), "unit": unit, "target": target, "holds": holds,
        "baseline": baseline, "command": f"python {shlex.join(sys.argv)}", "seed": seed, "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def record(topic: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows into the topic's file and the README's tables, and print them."""
    from rich.console import Console
    from rich.table import Table

    path = RESULTS / f"{topic}.json"
    held = {r["name"]: r for r in (json.loads(path.read_text()) if path.exists() else [])}
    held |= {r["name"]: r for r in rows}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(list(held.values()), indent=1) + "\n")
    refresh()
    table = Table("what", "value", "unit", "target", "holds", "against", title=f"{topic} on {machine()}")
    for r in rows:
        holds = {None: "", True: "yes", False: "NO"}[r["holds"]]
        table.add_row(r["name"], f"{r['value']:g}", r["unit"], r["target"], holds, r["baseline"])
    Console().print(table)
