"""The log of a store: a line of JSON for each event, one file a run.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.recipe import Recipe
from factory.store import make_part, materialise, status
from factory.store.layout import layouts, tasks
from tests.test_store import tree


def events(store: Path) -> list[list[dict[str, Any]]]:
    """The runs of a store in their order, each with its events."""
    logs = sorted((store / ".factory/log").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    return [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]


def test_a_run_tells_what_it_did(recipe: Recipe, undisturbed: Path) -> None:
    [[begin, *shards, end]] = events(undisturbed)
    assert begin["event"] == "begin"
    assert begin["fingerprint"]["source"]
    assert [(e["split"], e["shard"]) for e in shards] == list(tasks(layouts(recipe)))
    assert sum(e["samples"] for e in shards) == sum(s.samples for s in status(undisturbed).splits)
    assert (end["event"], end["shards"]) == ("finished", len(shards))
    times = [e["time"] for e in (begin, *shards, end)]
    assert times == sorted(times)


def test_parts_and_a_run_that_is_stopped(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_part(recipe, store, (2, 3), threads=1)

    class Impatient:
        def begin(self, *_: int) -> None: ...
        def end(self) -> None: ...
        def shard(self, _: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialise(recipe, store, threads=1, progress=Impatient())
    materialise(recipe, store, threads=1)
    part, stopped, last = events(store)
    assert part[-1]["event"] == "part made"
    assert part[0]["part"] == [2, 3]
    assert (stopped[-1]["event"], stopped[-1]["why"], stopped[-1]["shards"]) == ("stopped", "KeyboardInterrupt: ", 1)
    assert last[-1]["event"] == "finished"
    assert sum(len(run) - 2 for run in (part, stopped, last)) == len(list(tasks(layouts(recipe))))
    assert tree(store) == tree(undisturbed)


def test_a_lost_log_costs_a_probe_only(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_part(recipe, store, (1, 2), threads=1)
    for log in (store / ".factory/log").iterdir():
        log.write_bytes(b"\xff{")
    materialise(recipe, store, threads=1)
    assert [run[0]["probed"] for run in events_of_sound(store)] == [True]
    assert tree(store) == tree(undisturbed)


def events_of_sound(store: Path) -> list[list[dict[str, Any]]]:
    for log in (store / ".factory/log").iterdir():
        if log.read_bytes().startswith(b"\xff"):
            log.unlink()
    return events(store)
