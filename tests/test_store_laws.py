"""The law of stores, for stores nobody thought of: any dtype, shape, shard, levels, parts, threads, workers and kill.

Whatever the way, the tree is that of one plain run by one thread, zarr-python reads every sample as `make` makes it
alone, and neither `verify --deep` nor a reader finds anything wrong.

Budget: 40 s on two cores; the slow variants take five minutes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import factory.physics
import factory.store.layout as arithmetic
from factory.floor import make
from factory.recipe import Recipe, load
from factory.step import DTYPES
from factory.store import damages, make_part, materialise, open_store, status
from factory.store.drop import Drop
from factory.store.layout import layouts
from tests.test_kill import Stopped
from tests.test_store import tree

SLOTS = ("a", "b")
UNWRITTEN = {".factory/manifest.json", ".factory/manifest.copy.json"}  # whoever dies between the root and these
STEPS = '''
"""Steps of the tests: the slots a and b hold numbers of any dtype and rank; the first dimension of a has a coordinate.
"""
import inspect
from typing import Annotated, NamedTuple

import numpy as np

from factory.step import DTYPES, step
from factory.units import Array


def numbers(u, dtype):
    kind = np.dtype(dtype).kind
    values = u - 0.5j * u if kind == "c" else u - 0.5 if kind == "f" else u * 5 - 1e-9
    return (u < 0.5) if kind == "b" else values.astype(dtype)


def made_of(slot, dtype, rank):
    dims = [f"{slot}{k}" for k in range(rank)]
    fields = [(slot, Annotated[Array, "1", dtype, *dims])]
    if slot == "a" and rank:
        fields.append(("a0", Annotated[Array, "s", "float64", "a0"]))
    Made = NamedTuple("Made", fields)

    def emit(draws, **sizes):
        shape = tuple(sizes[f"n_{dim}"] for dim in dims)
        values = numbers(draws.uniform("numbers", shape), dtype)
        return Made(values, *([np.arange(shape[0]) / 3] if len(fields) > 1 else []))

    words = [inspect.Parameter(f"n_{dim}", inspect.Parameter.KEYWORD_ONLY) for dim in dims]
    first = inspect.Parameter("draws", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    emit.__signature__ = inspect.Signature([first, *words])
    emit.__annotations__ = {"return": Made, **{f"n_{dim}": int for dim in dims}}
    emit.__name__ = emit.__qualname__ = f"{slot}_{dtype}_{rank}"
    return step(emit)


for one in [made_of(slot, dtype, rank) for slot in "ab" for dtype in sorted(DTYPES) for rank in range(4)]:
    globals()[one.function.__name__] = one
'''.lstrip()


@pytest.fixture(scope="module", autouse=True)
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A topic of our own among the package's; no test here cuts the power, so nothing is synchronised."""
    folder = tmp_path_factory.mktemp("physics")
    (folder / "emit.py").write_text(STEPS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(factory.physics, "__path__", [*factory.physics.__path__, str(folder)])
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@dataclass(frozen=True)
class Case:
    """One store and the way in which it is made."""

    text: str
    other_shard: int
    limits: dict[str, int]  # of the layout's arithmetic
    parts: tuple[int, ...]  # in the order in which they run
    threads: int
    kills: dict[int, int]  # part -> how many renames and synchronisations it lives for
    workers: int


def slot(draw: Callable[..., Any], name: str, inner: list[str]) -> tuple[str, str]:
    """A link of the chain, and what is kept of it."""
    dtype, rank = draw(st.sampled_from(sorted(DTYPES))), draw(st.integers(0, 3))
    sizes = {f"n_{name}{k}": draw(st.integers(1, 4)) for k in range(rank)}
    words = [f"{key}: {size}" for key, size in sizes.items()]
    if inner:
        words.append(f"at: {draw(st.sampled_from(inner))}")
    return f"  - emit.{name}_{dtype}_{rank}: {{{', '.join(words)}}}\n", f"{{{name}: {dtype}}}"


@st.composite
def cases(draw: Callable[..., Any]) -> Case:
    levels = draw(st.sampled_from(["", "", "{subject: 3, patch: 4}", "{subject: 2, scan: 2, patch: 3}"]))
    inner = levels.strip("{}").replace(":", "").split()[::2] if levels else []
    splits = ""
    for name in ("train", "test")[: draw(st.integers(1, 2))]:
        count = f"samples: {draw(st.integers(1, 13))}"
        splits += f"  {name}: {{{count}{f', levels: {levels}' if levels else ''}}}\n"
    at = f", at: {draw(st.sampled_from(inner))}" if inner else ""
    links, kept = zip(*(slot(draw, name, inner) for name in SLOTS), strict=True)
    text = (f"about: made up\nseed: {draw(st.integers(0, 99))}\nshard: {draw(st.integers(1, 7))}\nsplits:\n{splits}"
            f"draw:\n  x: {{uniform: [0.5, 1.5]{at}}}\nchain:\n{''.join(links)}keep: [{', '.join(kept)}]\n")
    limits = {"CHUNK_BYTES": draw(st.sampled_from([1, 60, 128_000])), "SCALAR_CHUNK": draw(st.sampled_from([2, 5, 99])),
              "SHARD_BYTES": draw(st.sampled_from([100, 64_000_000]))}
    parts = draw(st.integers(1, 4).flatmap(lambda n: st.permutations(range(1, n + 1))))
    kills = {part: draw(st.integers(1, 40)) for part in parts if draw(st.booleans())}
    return Case(text, draw(st.integers(1, 7)), limits, tuple(parts), draw(st.integers(1, 2)), kills,
                draw(st.integers(1, 3)))


@contextmanager
def dying(moment: int | None) -> Iterator[None]:
    """From the so-manieth rename, removal or synchronisation on nothing is done any more, not even tidying up."""
    if moment is None:
        yield
        return
    calls = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= moment:
                raise Stopped
            return real(*args, **options)
        return call

    with ExitStack() as stack:
        for name in ("replace", "rename", "unlink", "fsync"):
            stack.enter_context(patch.object(os, name, counted(getattr(os, name))))
        for name in ("clear", "close"):
            stack.enter_context(patch.object(Drop, name, lambda self: None))
        with suppress(Stopped):  # it may be through before
            yield


@contextmanager
def prepared(case: Case, folder: Path) -> Iterator[tuple[Recipe, Path, dict[str, bytes | None]]]:
    """The recipe, a path for its store, and the tree that one plain run gives."""
    work = Path(folder, "case")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "made_up.yaml").write_text(case.text)
    with ExitStack() as stack:
        for name, value in case.limits.items():
            stack.enter_context(patch.object(arithmetic, name, value))
        recipe = load(work / "made_up.yaml")
        materialise(recipe, work / "plain", threads=1)
        yield recipe, work / "store", tree(work / "plain")


def every_sample(recipe: Recipe, store: Path) -> dict[str, list[bytes]]:
    """What zarr-python reads, sample by sample; each must be what `make` makes of it alone."""
    found: dict[str, list[bytes]] = {}
    for name, plan in layouts(recipe).items():
        alone = [make(recipe, name, k, k + 1) for k in range(plan.samples)]
        for key in plan.order:
            values = np.asarray(zarr.open_array(store / name / key, mode="r", zarr_format=3)[...])
            if key in plan.coordinates:
                assert values.tobytes() == alone[0][key].to_numpy().tobytes(), (name, key)
                continue
            assert values.shape == (plan.samples, *alone[0][key].shape[1:])
            found[f"{name}/{key}"] = [one.tobytes() for one in values]
            assert found[f"{name}/{key}"] == [one[key].to_numpy().tobytes() for one in alone], (name, key)
    return found


def in_parts(case: Case, recipe: Recipe, store: Path) -> None:
    """Each part once, perhaps to its death."""
    for part in case.parts:
        with dying(case.kills.get(part)):
            make_part(recipe, store, (part, len(case.parts)), threads=case.threads)
        found = status(store)
        assert found.code in (0, 2, 10), found.sentence
        if found.code != 10:
            alarms = [one for one in damages(store) if one.kind != "uncommitted"]
            assert {one.path for one in alarms} <= UNWRITTEN, alarms


def the_law(case: Case, folder: Path) -> None:
    with prepared(case, folder) as (recipe, store, plain):
        in_parts(case, recipe, store)
        finished = [make_part(recipe, store, (part, len(case.parts)), threads=1) for part in case.parts]
        assert finished[-1]
        assert tree(store) == plain
        assert list(damages(store)) == []
        samples = every_sample(recipe, store)
        open_store(store).load()
        other = load(folder / "case/made_up.yaml", set={"shard": str(case.other_shard)})
        materialise(other, folder / "case/other", threads=case.threads)
        assert every_sample(other, folder / "case/other") == samples


def hypothesis(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(deadline=None, max_examples=examples, derandomize=examples < 50, print_blob=examples >= 50,
                    suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


@hypothesis(80)
@given(case=cases())
def test_whatever_the_way_the_store_is_the_same(case: Case, folder: Path) -> None:
    the_law(case, folder)


@pytest.mark.slow
@hypothesis(600)
@given(case=cases())
def test_whatever_the_way_many_times(case: Case, folder: Path) -> None:
    the_law(case, folder)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_in_every_rank(dtype: str, folder: Path) -> None:
    """What chance may leave out: each type as a scalar and in one to three dimensions."""
    for rank in range(4):
        sizes = ", ".join(f"n_a{k}: {k + 2}" for k in range(rank))
        text = (f"about: made up\nseed: 1\nshard: 3\nsplits:\n  train: {{samples: 7}}\nchain:\n"
                f"  - emit.a_{dtype}_{rank}: {{{sizes}}}\nkeep: [{{a: {dtype}}}]\n")
        the_law(Case(text, 2, {"CHUNK_BYTES": 60}, (2, 1), 1, {2: 3}, 1), folder)


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[int, LocalCluster]]:
    """One for each number of workers: one that is scaled up and down trips over itself now and then."""
    with ExitStack() as stack:
        yield {number: stack.enter_context(LocalCluster(n_workers=number, threads_per_worker=1, processes=False,
                                                        dashboard_address="127.0.0.1:0")) for number in (1, 2, 3)}


def by_workers(case: Case, folder: Path, clusters: dict[int, LocalCluster]) -> None:
    """What killed parts left, made by one to three workers, is the tree of one thread, too."""
    with prepared(case, folder) as (recipe, store, plain), Client(clusters[case.workers]) as client:
        if case.kills:
            in_parts(case, recipe, store)
        materialise(recipe, store, client)
        assert tree(store) == plain
        assert list(damages(store)) == []


@hypothesis(15)
@given(case=cases())
def test_any_number_of_workers(case: Case, folder: Path, clusters: dict[int, LocalCluster]) -> None:
    by_workers(case, folder, clusters)


@pytest.mark.slow
@hypothesis(100)
@given(case=cases())
def test_any_number_of_workers_many_times(case: Case, folder: Path, clusters: dict[int, LocalCluster]) -> None:
    by_workers(case, folder, clusters)
