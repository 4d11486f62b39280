"""Make, kill, resume, extend, damage, repair, verify in random order: a store never lies, and always ends the same.

The model knows the sample counts, whether the store was finished, and what is damaged.  After whatever happened, a
repair and one run to the model's counts give the tree of a store that nobody disturbed.

Budget: 40 s on two cores; the slow variant takes five minutes.
"""

from __future__ import annotations

import inspect
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from factory.recipe import Recipe, load
from factory.store import StoreError, damages, extend, make_part, materialise, open_store, read_layout, repair, status
from factory.stream import Stream
from tests.test_damage import PLANTS, SIZES_SHOW, SMALL, TWICE, class_of, files, small_chunks, survivable
from tests.test_store import tree
from tests.test_store_laws import dying

Counts = tuple[int, int]  # of train and test
FIRST: Counts = (10, 5)
LARGER: dict[Counts, list[Counts]] = {(10, 5): [(12, 5), (15, 7)], (12, 5): [(15, 7)], (15, 7): []}
MOMENTS = st.none() | st.integers(1, 60)  # the fault point that kills; most runs come by some forty
# What nothing vouches for in a store without a manifest, and what a run that goes on therefore believes.
BELIEVED = ("document", "plain")


class World:
    """What all machines share: recipes and undisturbed stores by their counts."""

    def __init__(self, folder: Path):
        self.met = Counter[str]()  # what came about, so that nobody need believe it
        self.folder, self.recipes, self.trees = folder, dict[Counts, Recipe](), dict[Counts, dict[str, bytes | None]]()
        (folder / "small.yaml").write_text(SMALL)

    def recipe(self, counts: Counts) -> Recipe:
        if counts not in self.recipes:
            samples = {"train": counts[0], "test": counts[1]}
            self.recipes[counts] = load(self.folder / "small.yaml", samples=samples)
        return self.recipes[counts]

    def tree(self, counts: Counts) -> dict[str, bytes | None]:
        if counts not in self.trees:
            path = self.folder / f"{counts}"
            materialise(self.recipe(counts), path, threads=1)
            self.trees[counts] = tree(path)
        return self.trees[counts]


WORLD: list[World] = []


def a_sentence(error: StoreError) -> None:
    assert len(str(error)) > 20, repr(error)


class Machine(RuleBasedStateMachine):
    """One store."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WORLD[0]
        self.store = Path(mkdtemp(dir=self.world.folder)) / "store"
        self.counts = self.before = FIRST  # that the store is to have, and had before it was extended
        self.begun = False
        self.finished = False  # for certain
        self.growing = False  # an extension was begun and is not through: the store may have either counts
        self.planted: dict[str, str] = {}  # path -> kind of what is damaged for certain

    def teardown(self) -> None:
        if self.begun:
            self.settle()
        shutil.rmtree(self.store.parent)

    def attempt(self, action: Callable[[], Any], moment: int | None) -> bool:
        """Whether an action came to its end; it may be killed, or end in a sentence, and in nothing else."""
        through, said = False, ""
        try:
            with dying(moment):
                action()
                through = True
        except StoreError as error:
            a_sentence(error)
            said = "refused"
        self.world.met[f"{inspect.stack()[1].function} {said or ('through' if through else 'killed')}"] += 1
        return through

    # --- rules -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.growing and not self.blind())
    @rule(threads=st.integers(1, 2), moment=MOMENTS)
    def make(self, threads: int, moment: int | None) -> None:
        """All of it."""
        self.run(lambda: materialise(self.recipe(), self.store, threads=threads), moment, whole=True)

    @precondition(lambda self: not self.growing and not self.blind())
    @rule(part=st.sampled_from([(1, 2), (2, 2), (3, 3), (1, 3)]), moment=MOMENTS)
    def make_a_part(self, part: tuple[int, int], moment: int | None) -> None:
        self.run(lambda: make_part(self.recipe(), self.store, part, threads=1), moment)

    def run(self, action: Callable[[], Any], moment: int | None, whole: bool = False) -> None:
        """A run that makes what is missing; where something is damaged it may heal it, or not see it."""
        through = self.attempt(action, moment)
        self.begun |= self.store.exists()
        damaged = self.seen()
        if damaged is not None:
            self.planted = {path: kind for path, kind in self.planted.items() if path in damaged}
        if through and whole:
            assert self.planted or tree(self.store) == self.undisturbed()
        self.finished = status(self.store).finished

    @precondition(lambda self: self.begun and LARGER[self.counts] and not self.planted)
    @rule(more=st.integers(0, 1), moment=MOMENTS)
    def extend(self, more: int, moment: int | None) -> None:
        """Or go on with an extension that was killed."""
        if not self.growing:
            self.before = self.counts
            self.counts = LARGER[self.counts][min(more, len(LARGER[self.counts]) - 1)]
        through = self.attempt(lambda: extend(self.recipe(), self.store, threads=1), moment)
        assert through or moment is not None
        self.growing, self.finished = not through, through
        assert not through or tree(self.store) == self.undisturbed()

    @precondition(lambda self: self.finished)
    @rule(seed=st.integers(0, 2**16), many=st.sampled_from([1, 1, 2, 5, 20]), kinds=st.sets(st.sampled_from(
        sorted(PLANTS)), min_size=1))
    def damage(self, seed: int, many: int, kinds: set[str]) -> None:
        """Files of a finished store, but not both of what lies there twice."""
        chance, names = random.Random(seed), files(self.store)
        victims = [name for name in chance.sample(names, min(many, len(names))) if name not in self.planted]
        self.world.met["damage"] += 1
        held = survivable([*self.planted, *victims], chance)
        for name in (n for n in victims if n in held and n not in ("zarr.json", ".factory/root.json")):
            if not any({name, *self.planted} >= pair for pair in TWICE):
                self.planted[name] = kind = chance.choice(sorted(kinds))
                PLANTS[kind](self.store / name, chance)
        self.finished = self.finished and not self.planted

    @precondition(lambda self: self.begun)
    @rule(moment=st.none() | st.integers(1, 30))
    def repair(self, moment: int | None) -> None:
        if self.blind():
            moment = None
        through = self.attempt(lambda: repair(self.store, threads=1), moment)
        assert through or moment is not None
        if through:
            assert self.seen() == {}
            self.planted = {}
            self.finished = status(self.store).finished
            assert not self.finished or tree(self.store) in self.possible()
        else:
            self.planted = {path: kind for path, kind in self.planted.items() if path in (self.seen() or {})}
            self.finished = False

    @precondition(lambda self: self.begun)
    @rule()
    def verify(self) -> None:
        """Deep finds exactly what was planted in a finished store, and sizes show what they can."""
        deep = self.seen()
        if deep is None or not self.planted:
            return
        shallow = {one.path for one in damages(self.store, deep=False)}
        assert set(self.planted) <= set(deep), (self.planted, deep)
        assert shallow <= set(deep)
        if (self.store / ".factory/manifest.json").is_file() and self.begun and not self.growing:
            shown = {p for p, k in self.planted.items() if k in SIZES_SHOW and class_of(p) in ("shard", "plain")}
            assert shown <= shallow

    @rule()
    def read(self) -> None:
        """A reader gets the samples that are wanted, or a sentence before the first batch."""
        try:
            open_store(self.store)
            layout = read_layout(self.store, "train")
            batch = next(iter(Stream(self.store, "train", batch=2, shuffle=False)))
        except StoreError as error:
            a_sentence(error)
            assert not self.finished
            self.world.met["read refused"] += 1
            return
        shown = {p for p, k in self.planted.items() if k in SIZES_SHOW and class_of(p) in ("shard", "plain")}
        assert not shown, "sizes show it"
        assert layout.samples in (self.counts[0], self.before[0] if self.growing else self.counts[0])
        assert batch["signal"].shape == (2, 5)
        self.world.met["read"] += 1

    # --- what holds at any time --------------------------------------------------------------------------------------

    @invariant()
    def status_does_not_lie(self) -> None:
        found = status(self.store)
        assert found.sentence
        commits = any(class_of(name) == "commit" for name in self.planted)
        assert found.code in (0, 1, 2, 10, *([3] if commits else []))  # a flip in an identity is another one's
        if found.finished:
            lost = [p for p, k in self.planted.items() if k in SIZES_SHOW and class_of(p) == "shard"]
            assert not lost, "status says finished"
        if self.finished:
            assert found.finished
        if not self.begun:
            assert found.code == 10

    # --- the model ---------------------------------------------------------------------------------------------------

    def recipe(self) -> Recipe:
        return self.world.recipe(self.counts)

    def undisturbed(self) -> dict[str, bytes | None]:
        return self.world.tree(self.counts)

    def possible(self) -> list[dict[str, bytes | None]]:
        """An extension may have been killed before it did anything."""
        return [self.world.tree(counts) for counts in ({self.counts, self.before} if self.growing else {self.counts})]

    def blind(self) -> bool:
        """Whether something is damaged that a store without its manifest does not show."""
        return any(class_of(name) in BELIEVED for name in self.planted)

    def seen(self) -> dict[str, str] | None:
        """What `verify --deep` finds; None where there is no store."""
        try:
            return {one.path: one.kind for one in damages(self.store)}
        except StoreError as error:
            a_sentence(error)
            return None

    def settle(self) -> None:
        """Whatever happened: repair, one run, and the tree is the undisturbed one."""
        if self.seen():
            repair(self.store, threads=1)
        extend(self.recipe(), self.store, threads=1)
        assert tree(self.store) == self.undisturbed()
        assert self.seen() == {}
        assert status(self.store).finished


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        WORLD[:] = [World(tmp_path_factory.mktemp("machine"))]
        yield
        WORLD.clear()


@pytest.mark.parametrize("examples", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_in_any_order(examples: int) -> None:
    run_state_machine_as_test(Machine, settings=settings(
        deadline=None, derandomize=examples < 100, max_examples=examples, stateful_step_count=20,
        suppress_health_check=list(HealthCheck), print_blob=examples > 100))
    met = WORLD[0].met
    print(dict(sorted(met.items())))
    wanted = {f"{what} {how}" for what in ("run", "extend", "repair") for how in ("through", "killed")}
    if examples > 100:  # few may leave something out
        assert set(met) >= wanted | {"damage", "read", "read refused"}, met
    assert {"run through", "damage", "read"} <= set(met), met


# --- what an unfinished store is believed, and should not be ----------------------------------------------------------

@pytest.fixture
def store(tmp_path: Path) -> Path:
    materialise(WORLD[0].recipe(FIRST), tmp_path / "store", threads=1)
    return tmp_path / "store"


def alter(path: Path) -> None:
    """Sound in itself, but not what it was: a coordinate's number, an array's unit."""
    data = path.read_bytes()
    other = data.replace(b'"units": "', b'"units": "k') if path.name == "zarr.json" else bytes([data[0] ^ 1]) + data[1:]
    path.write_bytes(other)


@pytest.mark.parametrize("name", ["train/echo/c.0", "train/t1/zarr.json"])
def test_a_repair_that_is_killed_early_is_done_by_the_next(name: str, store: Path) -> None:
    alter(store / name)
    with dying(3):
        repair(store, threads=1)
    repair(store, threads=1)
    assert tree(store) == WORLD[0].tree(FIRST)


@pytest.mark.parametrize("name", ["train/echo/c.0", "train/t1/zarr.json"])
def test_a_run_does_not_make_damage_official(name: str, store: Path) -> None:
    """A shard is lost, and `status` says to make the store again."""
    alter(store / name)
    (store / "train/signal/c.0.0").unlink()
    materialise(WORLD[0].recipe(FIRST), store, threads=1)
    assert [one.path for one in damages(store)] in ([], [name])
    repair(store, threads=1)
    assert tree(store) == WORLD[0].tree(FIRST)


@pytest.mark.parametrize("name", ["train/echo/c.0", "train/t1/zarr.json"])
def test_an_unfinished_store_is_finished_as_its_recipe_says(name: str, tmp_path: Path) -> None:
    make_part(WORLD[0].recipe(FIRST), tmp_path / "store", (1, 2), threads=1)
    alter(tmp_path / "store" / name)
    materialise(WORLD[0].recipe(FIRST), tmp_path / "store", threads=1)
    assert tree(tmp_path / "store") == WORLD[0].tree(FIRST)
