"""Write the tables of README and docs from benchmarks/results: python benchmarks/tables.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOPICS = {"foundation": ("foundation", lambda row: not row["name"].startswith(("T1", "cost"))),
          "demo": ("foundation", lambda row: row["name"].startswith("T1")),
          "production": ("production", lambda row: True),
          "stream": ("stream", lambda row: True),
          "physics": ("physics", lambda row: True),
          "rim": ("rim", lambda row: True),
          "cost": ("foundation", lambda row: row["name"].startswith("cost"))}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A markdown table of result rows."""
    lines = ["| what | value | target | holds | against |", "|---|---|---|---|---|"]
    for row in rows:
        holds = {None: "", True: "yes", False: "**no**"}[row["holds"]]
        target = row["target"].replace("<=", "≤").replace(">=", "≥")
        name = row["name"].replace("|", "\\|")
        lines.append(f"| {name} | {row['value']:g} {row['unit']} | {target} | {holds} | {row['baseline']} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """The text with every marked table made anew."""
    for name, (topic, wanted) in TOPICS.items():
        path = ROOT / "benchmarks/results" / f"{topic}.json"
        rows = [r for r in (json.loads(path.read_text()) if path.exists() else []) if wanted(r)]
        marked = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = table(rows) + "\n" if rows else ""
        text = marked.sub(lambda found, body=body: found[1] + body + found[2], text)
    return text


PAGES = ("README.md", "docs/physics.md", "docs/rim.md", "docs/stream.md")


def refresh() -> None:
    """Write the tables into the README and the docs."""
    for name in PAGES:
        page = ROOT / name
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    refresh()
