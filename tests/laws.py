"""The six laws as plain functions: each raises AssertionError when a recipe breaks it.

`test_laws.py` runs them over every recipe; `test_mutants.py` shows that each catches faults injected into real code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr

import factory.floor as floor
from factory.draws import Draws
from factory.numerics import uniform_rows
from factory.recipe import Recipe
from factory.recipe.model import Link
from factory.sequences import Sequence, Table

CUTS = (1, 3, 5, 7, 11)


def same_bytes(a: xr.Dataset, b: xr.Dataset) -> None:
    """Equal names, dims, dtypes, attributes and every bit (NaN and -0.0 included)."""
    assert list(a.variables) == list(b.variables)
    for name, left in a.variables.items():
        right = b.variables[name]
        assert (left.dims, left.dtype, left.attrs) == (right.dims, right.dtype, right.attrs), name
        assert left.shape == right.shape, name
        assert left.to_numpy().tobytes() == right.to_numpy().tobytes(), f"{name} differs"


def joined(parts: list[xr.Dataset]) -> xr.Dataset:
    return xr.concat(
        parts, "sample", data_vars="minimal", coords="minimal", compat="equals", join="exact", combine_attrs="override"
    )


def law_cut(recipe: Recipe) -> None:
    """1. Any partition gives the same bytes, and so do a range that does not begin at zero and scattered samples."""
    for split in recipe.splits.values():
        n = split.samples
        whole = floor.make(recipe, split.name, 0, n)
        for width in (w for w in CUTS if w < n):
            edges = [0, *range(width, n, width), n]
            parts = [floor.make(recipe, split.name, a, b) for a, b in itertools.pairwise(edges)]
            same_bytes(joined(parts), whole)
        late = n // 2
        same_bytes(floor.make(recipe, split.name, late, n), whole.isel(sample=slice(late, n)))
        some = np.unique([0, *range(1, n, 3), n - 1])
        same_bytes(floor.make_at(recipe, split.name, some), whole.isel(sample=some))


@contextmanager
def recorded() -> Iterator[list[tuple[Link, Draws, list[Any]]]]:
    """Every call of a step, with copies of its inputs."""
    calls: list[tuple[Link, Draws, list[Any]]] = []
    real = floor._call

    def spy(link: Link, draws: Draws, inputs: list[Any]) -> Any:
        calls.append((link, draws, [x.copy() for x in inputs]))
        return real(link, draws, inputs)

    with patch.object(floor, "_call", spy):
        yield calls


def law_no_dead_knob(recipe: Recipe, seen: set[str] | None = None) -> None:
    """2. Every input and constant of every step moves some output; accuracy knobs converge instead."""
    with recorded() as calls:
        for split in recipe.splits.values():
            floor._remembered.states.clear()
            floor.make(recipe, split.name, 0, split.samples)
    first = {call[0].step.name: call for call in reversed(calls)}
    for name, (link, draws, inputs) in first.items():
        if seen is not None:
            if name in seen:
                continue
            seen.add(name)
        step = link.step
        constants = dict(link.constants) | {k: v for k, v in step.probe.items() if k in step.constants}
        named = dict(zip(step.inputs, inputs, strict=True))
        named |= {
            k: np.broadcast_to(np.asarray(v), named[k].shape).astype(named[k].dtype)
            for k, v in step.probe.items()
            if k in step.inputs
        }
        before = _outputs(link, draws, named, constants)
        for key, value in named.items():
            moved = any(
                _differ(before, _outputs(link, draws, named | {key: other}, constants))
                for other in _other_arrays(value)
            )
            assert moved, f"{name}: the input {key!r} moves nothing"
        for key in step.constants:
            others = [choice for choice in step.constants[key].choices if choice != constants[key]]
            others = others or list(_other_constants(constants[key]))
            if key in step.accuracy:
                _converges(name, key, lambda c, d=draws, n=named, ln=link: _outputs(ln, d, n, c), constants)
            else:
                moved = any(_differ(before, _outputs(link, draws, named, constants | {key: other})) for other in others)
                assert moved, f"{name}: the constant {key!r} moves nothing"


def _outputs(link: Link, draws: Draws, inputs: dict[str, Any], constants: dict[str, Any]) -> list[Any] | None:
    extra = {"draws": draws.under(link.label)} if link.step.random else {}
    try:
        made = link.step(*inputs.values(), **extra, **constants)._asdict()
    except ValueError:
        return None  # a refused value is no dead one, but it shows nothing either
    # A coordinate repeats its constant, so it may not count as moved by it.
    signals = [values for key, values in made.items() if link.step.outputs[key].dims != (key,)]
    return signals or list(made.values())


def _differ(a: list[Any] | None, b: list[Any] | None) -> bool:
    return (
        a is not None
        and b is not None
        and any(x.shape != y.shape or not np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    )


def _converges(name: str, key: str, run: Callable[[dict[str, Any]], Any], constants: dict[str, Any]) -> None:
    """Doubling a number of parts changes less each time; a smaller bound no more than the larger one allowed."""
    if isinstance(constants[key], float):
        bound, finer = run(constants), run(constants | {key: constants[key] / 8})
        far = max(float(np.abs(x - y).max()) for x, y in zip(bound, finer, strict=True))
        most = constants[key] * max(1.0, *(float(np.abs(x).max()) for x in bound))
        assert far <= 2 * most, f"{name}: with {key!r} of {constants[key]:g} something lies {far:g} off"
        return
    coarse, fine, finest = (run(constants | {key: constants[key] * k}) for k in (1, 2, 4))
    near, far = (
        max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)) for a, b in ((finest, fine), (fine, coarse))
    )
    assert near <= min(far, 1e-3), f"{name}: {key!r} does not converge ({far:g}, then {near:g})"


def _other_arrays(value: Any) -> Iterator[Any]:
    if value.dtype.kind in "ui":
        yield np.where(value > 0, value % 3 + 1, value).astype(value.dtype)
        yield value[..., ::-1].copy()
        yield np.zeros_like(value)
    else:
        for factor in (1.1, 0.5, 2.0):
            yield value * value.dtype.type(factor)
        yield value + value.dtype.type(0.37)


def _other_constants(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, max(1, value - 1), 2 * value)
    elif isinstance(value, float):
        yield from (value * 1.1, value * 0.5, value * 2, value + 0.37)
    elif isinstance(value, str):
        yield from ("linear", "decibel")
    elif isinstance(value, Table):
        yield replace(value, rf=value.rf * 1.1)
    elif isinstance(value, Sequence):
        pulses = {k: replace(pulse, amplitude=1.1 * pulse.amplitude) for k, pulse in value.pulses.items()}
        yield replace(value, pulses=pulses)
    elif isinstance(value, tuple):
        for factor in (1.1, 0.5, 2.0):
            yield tuple(v * factor for v in value)
        if len(value) == 2:
            yield (0.0, 0.5)
    elif isinstance(value, dict):
        yield dict(zip(value, [*value.values()][::-1], strict=True))
    elif hasattr(value, "arrays"):
        yield replace(value, arrays=tuple(a[:, ::-1] for a in value.arrays))


def law_honest_signature(recipe: Recipe) -> None:
    """3. Names, dims, sizes, units, dtypes are what the template said; values are finite; inputs stay as they were."""
    for split in recipe.splits.values():
        with recorded() as calls:
            made = floor.make(recipe, split.name, 0, split.samples)
        assert list(made.variables) == list(split.variables)
        for name, promised in split.variables.items():
            got = made[name]
            lead = () if promised.coordinate else ("sample",)
            assert got.dims == (*lead, *promised.dims), name
            assert got.shape == (*([split.samples] if lead else []), *promised.shape), name
            assert str(got.dtype) == promised.dtype, name
            assert got.attrs["units"] == promised.unit, name
            assert np.isfinite(got).all(), f"{name} is not finite"
        for link, draws, inputs in calls:
            copies = [x.copy() for x in inputs]
            _outputs(link, draws, dict(zip(link.step.inputs, copies, strict=True)), dict(link.constants))
            for key, left, right in zip(link.step.inputs, inputs, copies, strict=True):
                assert np.array_equal(left, right), f"{link.step.name} writes into its input {key!r}"


def law_independence(recipe: Recipe, n: int = 4096) -> None:
    """4. The numbers under all names are different and uncorrelated within chance (five standard errors)."""
    for split in recipe.splits.values():
        asked: list[int] = []
        real = Draws.key

        def spy(self: Draws, name: str, real: Any = real, asked: list[int] = asked) -> int:
            key: int = real(self, name)
            asked.append(key)
            return key

        floor._remembered.states.clear()
        with patch.object(Draws, "key", spy):
            floor.make(recipe, split.name, 0, 1)
        assert len(asked) == len(set(asked)), f"{split.name}: two names share one stream of random numbers"
        table = np.empty((len(asked), n, 1))
        for row, key in zip(table, asked, strict=True):
            uniform_rows(row, np.uint64(key), np.arange(len(row), dtype=np.uint64))
        if len(asked) > 1:
            correlation = np.corrcoef(table[..., 0]) - np.eye(len(asked))
            assert np.abs(correlation).max() < 5 / np.sqrt(n), split.name
        noise = [v for v in split.variables.values() if not v.coordinate]
        assert noise


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a store but the log of what happened."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".factory/log" not in str(p)
    }


def law_store(recipe: Recipe, folder: Path) -> None:
    """5. Shards in any order and on any number of threads give one tree of bytes; a second run writes nothing."""
    from factory.store import materialise

    materialise(recipe, folder / "plain.zarr")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: materialise(recipe, folder / name), ["left.zarr", "right.zarr"]))
    reference = tree_bytes(folder / "plain.zarr")
    for name in ("left.zarr", "right.zarr"):
        assert tree_bytes(folder / name) == reference
    times = {p: p.stat().st_mtime_ns for p in (folder / "plain.zarr").rglob("*") if ".factory/log" not in str(p)}
    materialise(recipe, folder / "plain.zarr")
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert tree_bytes(folder / "plain.zarr") == reference


def law_one_truth(recipe: Recipe, folder: Path) -> None:
    """6. Virtual, live and stored samples are the same, bit for bit."""
    from factory.store import materialise
    from factory.virtual import open as open_data

    materialise(recipe, folder / "store.zarr")
    for split in recipe.splits.values():
        live = floor.make(recipe, split.name, 0, split.samples)
        stored = xr.open_zarr(folder / "store.zarr", group=split.name)
        virtual = open_data(recipe, split=split.name)
        xr.testing.assert_identical(virtual.load(), stored.load())
        for name in live.variables:
            assert live[name].to_numpy().tobytes() == stored[name].to_numpy().tobytes(), name
