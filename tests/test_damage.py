"""Damage: the list is what was planted, and repair gives the bytes back and touches nothing else.

Budget: 60 s on two cores.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.cli import app
from factory.recipe import Recipe
from factory.store import damages, differences, materialise, repair, status
from factory.store.commit import commit_path
from factory.store.damage import KINDS
from factory.store.layout import layouts
from tests.test_store import recipe_of, tree

Plant = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def lengthen(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + b"x" * chance.randrange(1, 9))


def link(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


ANY: dict[str, tuple[Plant, set[str]]] = {
    "missing": (lambda path, _: path.unlink(), {"missing"}),
    "empty": (lambda path, _: path.write_bytes(b"") and None, {"empty"}),
    "truncated": (truncate, {"truncated", "garbled", "flipped"}),
    "overlong": (lengthen, {"overlong", "garbled", "flipped"}),
    "flipped": (flip, {"flipped", "garbled", "foreign recipe", "swapped"}),
    "a link": (link, {"no regular file"}),
    "a folder": (folder, {"no regular file"}),
    "a pipe": (pipe, {"no regular file"}),
}


@pytest.fixture
def store(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "store"))


def files(store: Path) -> list[str]:
    """Every file that a store answers for."""
    return [name for name, content in tree(store).items() if content is not None]


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    return {name: (os.lstat(store / name).st_ino, os.lstat(store / name).st_mtime_ns) for name in files(store)}


def test_a_sound_store_raises_no_alarm(undisturbed: Path) -> None:
    assert list(damages(undisturbed)) == []
    assert repair(undisturbed) == []


@pytest.mark.parametrize("kind", ANY)
def test_every_file_and_kind_is_found_and_put_right(kind: str, undisturbed: Path, tmp_path: Path) -> None:
    """One file of each folder after another; what was not damaged is not touched."""
    plant, names = ANY[kind]
    chance = random.Random(kind)
    whole = tree(undisturbed)
    of_folder = {Path(name).parent: name for name in sorted(files(undisturbed), key=lambda _: chance.random())}
    books = [name for name in files(undisturbed) if name.startswith(".factory/") and "/commits/" not in name]
    for name in sorted({*of_folder.values(), *books, "zarr.json"}):
        store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
        plant(store / name, chance)
        found = list(damages(store))
        assert [one.path for one in found] == [name], (name, [one.sentence for one in found])
        assert found[0].kind in names & set(KINDS), found[0]
        before = stamps_or_nothing(store)
        repair(store, threads=1)
        assert tree(store) == whole, name
        after = stamps(store)
        touched = {n for n in after if before.get(n) != after[n]}
        assert touched <= {name, ".factory/manifest.json", ".factory/manifest.copy.json"}, (name, touched)
        shutil.rmtree(store)


def stamps_or_nothing(store: Path) -> dict[str, tuple[int, int]]:
    return {p.relative_to(store).as_posix(): (os.lstat(p).st_ino, os.lstat(p).st_mtime_ns) for p in store.rglob("*")}


@pytest.mark.parametrize("seed", range(6))
def test_many_at_once(seed: int, undisturbed: Path, store: Path) -> None:
    """Up to fifty damaged files at once; of the root and of the manifest there are two copies, and one survives."""
    chance = random.Random(seed)
    victims = chance.sample(files(undisturbed), min(len(files(undisturbed)), chance.choice([2, 5, 20, 50])))
    for pair in ({"zarr.json", ".factory/root.json"}, {".factory/manifest.json", ".factory/manifest.copy.json"}):
        if pair <= set(victims):
            victims.remove(min(pair))
    for name in victims:
        chance.choice(list(ANY.values()))[0](store / name, chance)
    assert sorted(one.path for one in damages(store)) == sorted(victims)
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def test_swapped_shards_and_arrays(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    plan = layouts(recipe, store)["train"]
    name = next(iter(plan.bulk))
    one, other = plan.file(name, 0), plan.file(name, 1)
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    assert [(d.kind, d.array, d.shard) for d in damages(store)] == [("swapped", name, 0), ("swapped", name, 1)]
    repair(store, threads=1)
    first, second = commit_path(plan, 0), commit_path(plan, 1)
    first.write_bytes(second.read_bytes())
    assert [(d.kind, d.shard) for d in damages(store)] == [("swapped", 0)]
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def test_a_commit_of_another_recipe(recipe: Recipe, store: Path, undisturbed: Path, tmp_path: Path) -> None:
    other = recipe_of(tmp_path / "other", recipe_text(recipe).replace("seed: 7", "seed: 8"))
    materialise(other, tmp_path / "foreign", threads=1)
    plan, theirs = layouts(recipe, store)["train"], layouts(other, tmp_path / "foreign")["train"]
    for name in plan.bulk:
        shutil.copy(theirs.file(name, 2), plan.file(name, 2))
    shutil.copy(commit_path(theirs, 2), commit_path(plan, 2))
    found = {d.path: d.kind for d in damages(store)}
    assert found.pop(commit_path(plan, 2).relative_to(store).as_posix()) == "foreign recipe"
    assert set(found.values()) == {"flipped"}
    assert len(found) == len(plan.bulk)
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def recipe_text(recipe: Recipe) -> str:
    from tests.test_store import RECIPE

    return RECIPE


def test_strays_and_shards_without_a_commit(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    plan = layouts(recipe, store)["train"]
    name = next(iter(plan.bulk))
    stray = plan.file(name, 0).with_name("c.99.0.0")
    stray.write_bytes(b"?")
    assert [(d.path, d.kind) for d in damages(store)] == [(stray.relative_to(store).as_posix(), "stray")]
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)
    (store / ".factory/manifest.json").unlink()
    commit_path(plan, 1).unlink()
    kinds = {d.path: d.kind for d in damages(store)}
    assert kinds[".factory/manifest.json"] == "missing"


def test_sizes_alone_miss_a_flip_and_a_subset_sees_a_share(store: Path, undisturbed: Path) -> None:
    shards = [name for name in files(undisturbed) if name.count("/") == 2 and "/c." in name and name.count(".") > 1]
    for name in shards:
        flip(store / name, random.Random(0))
    assert list(damages(store, deep=False)) == []
    some, all_ = list(damages(store, part=0.5)), list(damages(store))
    assert 0 < len(some) < len(all_)
    assert {one.path for one in some} <= {one.path for one in all_}


def test_the_commands(store: Path, undisturbed: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["verify", str(store), "--deep"]).exit_code == 0
    victim = next(name for name in files(store) if name.startswith("train/") and name.endswith(".0.0"))
    (store / victim).unlink()
    told = runner.invoke(app, ["verify", str(store)])
    assert told.exit_code == 1
    assert victim in told.output
    assert "factory repair" in told.output
    assert runner.invoke(app, ["repair", str(store)]).exit_code == 0
    assert tree(store) == tree(undisturbed)
    assert runner.invoke(app, ["verify", str(store / "nothing")]).exit_code == 10
    assert status(store).finished


def test_a_store_whose_last_part_died_is_finalised(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    for name in ("manifest.json", "manifest.copy.json", "shards.jsonl"):
        (store / ".factory" / name).unlink()
    runner = CliRunner()
    assert runner.invoke(app, ["status", str(store)]).exit_code == 2
    assert runner.invoke(app, ["finalise", str(store)]).exit_code == 0
    assert tree(store) == tree(undisturbed)
    commit_path(layouts(recipe, store)["train"], 1).unlink()
    told = runner.invoke(app, ["finalise", str(store)])
    assert told.exit_code == 2
    assert "shard 1 is not committed" in told.output


def test_watching_ends_with_the_store(store: Path, undisturbed: Path) -> None:
    assert CliRunner().invoke(app, ["watch", str(store), "--every", "0.1"]).exit_code == 0
    assert CliRunner().invoke(app, ["watch", str(store / "nothing")]).exit_code == 10


def test_why_two_stores_differ(recipe: Recipe, store: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert list(differences(store, undisturbed)) == []
    assert list(differences(recipe, undisturbed)) == []
    other = recipe_of(tmp_path / "other", recipe_text(recipe).replace("seed: 7", "seed: 8"))
    told = list(differences(recipe, other))
    assert told[0].startswith("the recipes differ: identity")
    assert {"-seed: 7", "+seed: 8"} <= set(told)
    plan = layouts(recipe, store)["train"]
    commit_path(plan, 3).unlink()
    assert list(differences(store, undisturbed)) == [f"split train, shard 3: only in {undisturbed}"]
    commit_path(plan, 3).write_bytes(b"?")
    assert "the commit in" in next(differences(store, undisturbed))
    runner = CliRunner()
    assert runner.invoke(app, ["diff", str(undisturbed), str(undisturbed)]).exit_code == 0
    assert runner.invoke(app, ["diff", str(store), str(undisturbed)]).exit_code == 1
    shown = runner.invoke(app, ["diff", "rim_t1", "rim_t1_wide"])
    assert shown.exit_code == 1
    assert "0.332" in shown.output
