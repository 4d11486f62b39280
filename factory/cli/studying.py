"""`factory evaluate --study`: the published evaluation of a system, study by study."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from factory.cli.terminal import as_json, plain, say, table

Row = dict[str, Any]
SHOWN = ("relative RMSE", "median bias", "CV", "slope", "change of bias", "sigmoid slope", "absolute bias", "one slice")


def studied(system: str, names: Sequence[str], networks: Sequence[str], out: Path, sizes: dict[str, int],
            json: bool) -> None:
    """Run studies; write NAME.json and NAME.png for each, print their tables."""
    from factory import report
    from models.studies import studies_of

    there = studies_of(system)
    unknown = [name for name in names if name not in there and name != "all"]
    if unknown or not there:
        raise typer.BadParameter(f"{system} has no study {', '.join(unknown)}; there are {', '.join(there) or 'none'}",
                                 param_hint="--study")
    out.mkdir(parents=True, exist_ok=True)
    every: list[Row] = []
    for name in there if "all" in names else names:
        taken = {key: value for key, value in sizes.items() if key in _parameters(there[name])}
        rows, figure = there[name](networks, **taken, **({} if json else {"track": _track}))
        (out / f"{name}.json").write_text(json_text.dumps(plain(rows), indent=1, allow_nan=False) + "\n")
        report.save(figure, out / f"{name}.png")
        every += rows
        if not json:
            _show(name, rows)
            say(f"wrote {out / name}.json and {out / name}.png")
    if json:
        as_json(every)


def _parameters(study: Any) -> set[str]:
    import inspect

    return set(inspect.signature(study).parameters)


def _track(items: Iterable[Any], text: str) -> Iterable[Any]:
    from rich.progress import track

    return track(list(items), text, transient=True)


def _show(name: str, rows: Sequence[Row]) -> None:
    """The rows that a person reads first, one line for each method and place."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        if row["name"] in SHOWN and row.get("quantity", "t1") in ("t1", "t2") and row.get("tissue") != "brain":
            facts = (row.get(key) for key in ("snr", "times", "structure", "region", "scenario", "sphere", "tissue"))
            where = " ".join(str(fact).replace("_", " ") for fact in facts if fact is not None)
            lines.setdefault((where, row["method"]), {})[row["name"]] = f"{row['value']:.3g} {row['unit']}"
    columns = list(dict.fromkeys(key for line in lines.values() for key in line))
    table(name, ["", "method", *columns],
          [[*key, *(line.get(column, "") for column in columns)] for key, line in lines.items()], right=tuple(columns))
