"""Recipes: what is read, what is refused and in which words.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from factory.recipe import RecipeError, load, names

GOOD = """\
about: T2 from a short CPMG train
seed: 7
splits:
  train: {samples: 24}
  test: {samples: 8, draw: {b1: {uniform: [0.5, 1.5]}}}
draw:
  t1: {uniform: [300 ms, 3 s]}
  t2: {uniform: [10 ms, t1]}
  b1: {truncated_normal: {mean: 1, sd: 0.1, low: 0.7, high: 1.3}}
  sigma: {loguniform: [0.005, 0.05]}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 8}
  - noise.rician: {as: {measured: noisy}}
keep: [noisy, t2]
corner: {n_echo: 4, samples: 6}
"""


def write(folder: Path, text: str = GOOD, name: str = "cpmg.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(write(folder, text))
    return str(caught.value)


def test_a_recipe_says_everything_before_anything_is_made(tmp_path: Path) -> None:
    recipe = load(write(tmp_path))
    split = recipe.splits["train"]
    assert (split.samples, split.levels) == (24, (("sample", 24),))
    shapes = {v.name: (v.unit, v.dtype, v.dims, v.shape) for v in split.variables.values()}
    assert shapes["noisy"] == ("1", "float32", ("echo",), (8,))
    assert shapes["t2"] == ("s", "float32", (), ())
    assert shapes["sigma"] == ("1", "float32", (), ()), "every drawn scalar is kept"
    assert split.variables["echo"].coordinate
    assert split.variables["echo"].dtype == "float64"
    assert split.sample_bytes == 8 * 4 + 4 * 4


def test_the_flattened_text_gives_the_same_recipe_again(tmp_path: Path) -> None:
    recipe = load(write(tmp_path))
    again = load(write(tmp_path, recipe.text, "again.yaml"))
    assert (again.text, again.identity) == (recipe.text, recipe.identity)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_identity_holds_what_decides_bytes_and_nothing_else(tmp_path: Path) -> None:
    base = load(write(tmp_path)).identity
    for old, new in [("samples: 24", "samples: 48"), ("T2 from", "Maps from"), ("n_echo: 4", "n_echo: 5")]:
        assert load(write(tmp_path, GOOD.replace(old, new))).identity == base, new
    for old, new in [
        ("seed: 7", "seed: 8"),
        ("8 ms", "9 ms"),
        ("[0.5, 1.5]", "[0.5, 1.4]"),
        ("[noisy, t2]", "[noisy]"),
    ]:
        assert load(write(tmp_path, GOOD.replace(old, new))).identity != base, new


def test_set_uses_the_same_checks(tmp_path: Path) -> None:
    path = write(tmp_path)
    recipe = load(path, set={"chain.epg.cpmg.n_echo": "16", "draw.b1": "{uniform: [0.9, 1.1]}"}, samples={"train": 5})
    assert recipe.splits["train"].variables["noisy"].shape == (16,)
    assert recipe.splits["train"].samples == 5
    for key, value, words in [
        ("chain.epg.cpgm.n_echo", "16", "did you mean 'epg.cpmg'"),
        ("chain.epg.cpmg.n_echo", "many", "must be a whole number"),
        ("chain.epg.cpmg.spacing", "8", "needs a unit"),
        ("sead", "3", "did you mean 'seed'"),
    ]:
        with pytest.raises(RecipeError, match=words):
            load(path, set={key: value})


@pytest.mark.parametrize(("key", "value", "words"), [
    ("splits.train.levels.subjct", "3", r"no level 'subjct'; did you mean 'subject'\? \(there are subject, slice; "
                                        r"others are set with all of them: splits.train.levels=\{OUTER: COUNT, INNER"),
    ("splits.test.levels.subject", "3", "split test has no levels, only a count of samples: splits.test.samples$"),
    ("splits.train.levels.subject.b1", "3", "'b1' lies below 20, which is no mapping$"),
    ("splits.train.levels", "3", "splits.train.levels: must be a mapping from level to count"),
    ("corner.levels", "3", "corner.levels: must be a mapping from level to count, not 3$"),
])
def test_a_level_is_set_where_there_is_one(tmp_path: Path, key: str, value: str, words: str) -> None:
    path = write(tmp_path, GOOD.replace("train: {samples: 24}", "train: {levels: {subject: 20, slice: 3}}"))
    assert load(path, set={"splits.train.levels.subject": "3"}).splits["train"].levels == (("subject", 3), ("slice", 3))
    with pytest.raises(RecipeError, match=words):
        load(path, set={key: value})


def test_the_corner_is_smaller(tmp_path: Path) -> None:
    recipe = load(write(tmp_path), corner=True)
    assert [s.samples for s in recipe.splits.values()] == [6, 6]
    assert recipe.splits["train"].variables["noisy"].shape == (4,)


def test_like_inherits_one_level(tmp_path: Path) -> None:
    write(tmp_path)
    child = """\
like: cpmg
about: the same with six echoes and another B1
draw: {b1: {constant: 1}}
chain: {epg.cpmg: {n_echo: 6}, noisy: {sigma: sigma}}
splits: {test: {samples: 3}}
"""
    recipe = load(write(tmp_path, child, "child.yaml"))
    assert recipe.splits["test"].samples == 3
    assert recipe.splits["train"].variables["noisy"].shape == (6,)
    assert "like" not in recipe.text
    with pytest.raises(RecipeError, match="one level only"):
        load(write(tmp_path, "like: child\nabout: third", "third.yaml"))


def test_the_same_step_twice_gets_fresh_numbers(tmp_path: Path) -> None:
    from factory.floor import make

    text = GOOD.replace(
        "keep:",
        "  - noise.gaussian: {signal: noisy, as: {measured: noisier}}\n"
        "  - noise.gaussian: {signal: noisier, as: {measured: noisiest}}\nkeep:",
    )
    text = text.replace("[noisy, t2]", "[noisy, noisier, noisiest]").replace("samples: 24", "samples: 500")
    made = make(load(write(tmp_path, text)), "train", 0, 500)
    first = ((made.noisier - made.noisy) / made.sigma).to_numpy().ravel()
    second = ((made.noisiest - made.noisier) / made.sigma).to_numpy().ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_variants_share_their_draws(tmp_path: Path) -> None:
    from factory.floor import make

    a = make(load(write(tmp_path)), "train", 0, 8)
    b = make(load(write(tmp_path, GOOD.replace("n_echo: 8", "n_echo: 12"), "b.yaml")), "train", 0, 8)
    assert (a.t2 == b.t2).all()


def test_levels_share_outer_draws(tmp_path: Path) -> None:
    from factory.floor import make

    text = GOOD.replace("train: {samples: 24}", "train: {levels: {subject: 4, noise: 6}}")
    text = text.replace("t1]}", "t1], at: subject}").replace("3 s]}", "3 s], at: subject}")
    text = text.replace("high: 1.3}}", "high: 1.3}, at: subject}").replace("n_echo: 8}", "n_echo: 8, at: subject}")
    recipe = load(write(tmp_path, text))
    made = make(recipe, "train", 0, 24)
    t2 = made.t2.to_numpy().reshape(4, 6)
    assert (t2 == t2[:, :1]).all()
    assert len(np.unique(t2)) == 4
    assert len(np.unique(made.noisy.to_numpy()[:, 0])) == 24
    few = load(write(tmp_path, text), samples={"train": 9})
    assert make(few, "train", 0, 9).identical(made.isel(sample=slice(0, 9)))
    assert few.identity == recipe.identity


MISTAKES = [
    ("seed: 7", "sead: 7", "'sead'|did you mean 'seed'"),
    ("seed: 7\n", "", "the key 'seed' is missing"),
    (GOOD[GOOD.index("splits:") : GOOD.index("draw:\n")], "", "the key 'splits' is missing"),
    (GOOD[GOOD.index("  - epg") : GOOD.index("keep:")], "  3\n", "chain: must be a list"),
    ("seed: 7", "seed: -1", "must lie between 0 and"),
    ("seed: 7", "seed: 1.5", "must be a whole number"),
    ("seed: 7", "seed: true", "must be a whole number"),
    ("about: T2 from a short CPMG train", "about: 3", "must be a sentence"),
    ("seed: 7", "seed: 7\nshard: 0", "shard: must lie between"),
    ("train: {samples: 24}", "train: {}", "needs `samples`"),
    ("train: {samples: 24}", "train: {samples: 0}", "must be at least 1"),
    ("train: {samples: 24}", "train: {samples: 2.5}", "must be a whole number"),
    ("train: {samples: 24}", "train: {sampels: 24}", "did you mean 'samples'"),
    ("train: {samples: 24}", "train set: {samples: 24}", "plain word"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {unifrom: [300 ms, 3 s]}", "did you mean 'uniform'"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: 3 s", "must be a mapping"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {uniform: [3 s, 300 ms]}", "draw.t1.*low"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {uniform: [300 ms, 3 kHz]}", "draw.t1.*kHz"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {uniform: [300 ms, 3]}", "draw.t1.*needs a unit"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {uniform: [300 ms]}", "draw.t1"),
    ("t1: {uniform: [300 ms, 3 s]}", "t1: {uniform: [300 parsec, 3 s]}", "draw.t1.*parsec"),
    ("t2: {uniform: [10 ms, t1]}", "t2: {uniform: [10 ms, t9]}", "draw.t2.*t9"),
    ("t2: {uniform: [10 ms, t1]}", "t2: {uniform: [10 ms, sigma]}", "draw.t2.*sigma"),
    ("sd: 0.1,", "sd: -0.1,", "draw.b1.*sd"),
    ("sd: 0.1,", "sigma: 0.1,", "draw.b1.*sd"),
    ("t2: {uniform: [10 ms, t1]}", "t2: {uniform: [10 ms, t1], at: subject}", "no level of any split"),
    ("epg.cpmg:", "epg.cpgm:", "did you mean 'epg.cpmg'"),
    ("epg.cpmg:", "egp.cpmg:", "did you mean 'epg'"),
    ("spacing: 8 ms", "spaceing: 8 ms", "did you mean 'spacing'"),
    ("spacing: 8 ms", "spacing: 8", "needs a unit"),
    ("spacing: 8 ms", "spacing: 8 Hz", "chain.epg.cpmg.spacing.*Hz"),
    ("spacing: 8 ms", "spacing: -8 ms", "must be > 0"),
    ("spacing: 8 ms, ", "", "the constant 'spacing' is missing"),
    ("n_echo: 8}", "n_echo: 8.5}", "must be a whole number"),
    ("n_echo: 8}", "n_echo: 0}", "must be >= 1"),
    ("n_echo: 8}", "n_echo: 8, t2: t3}", "wants 't3' .for the input 't2'., which nothing above makes"),
    ("n_echo: 8}", "n_echo: 8, t2: b1}", "is .1. scalar float64, but epg.cpmg wants .s. scalar"),
    ("{as: {measured: noisy}}", "{as: {mesured: noisy}}", "did you mean 'measured'"),
    ("{as: {measured: noisy}}", "{as: {measured: signal}}", "which something above makes already"),
    ("keep: [noisy, t2]", "keep: [noise, t2]", "did you mean 'noisy'"),
    ("keep: [noisy, t2]", "keep: noisy", "must be a list"),
    ("keep: [noisy, t2]", "keep: [t2]", "nothing that is kept uses what it makes"),
    ("keep: [noisy, t2]", "keep: [noisy, noisy]", "names 'noisy' twice"),
    ("keep: [noisy, t2]", "keep: [{noisy: float16}]", "is no dtype"),
    ("chain:", "chain: {}\nlinks:", "must be a list of steps"),
    ("corner: {n_echo: 4", "corner: {n_ecco: 4", "no link of the chain has a constant 'n_ecco'"),
    ("seed: 7", "seed: 7\nlike: nothing_there", "no recipe 'nothing_there'"),
    ("seed: 7", "seed: 7\nlike: ../elsewhere", "must be the bare name of a recipe"),
    ("seed: 7", "seed: 7\nlike: /etc/passwd.yaml", "must be the bare name of a recipe"),
    ("seed: 7", "seed: 7\nfiles: {maps: ../x.nii}", "files.maps"),
    ("seed: 7", "seed: 7\nfiles: {maps: there_is_no.nii}", "files.maps"),
    ("seed: 7", "seed: 7\ndesign: {sobol: [t1, t7]}", "design.*t7"),
    ("seed: 7", "seed: 7\ndesign: {sobols: [t1]}", "did you mean 'sobol'"),
    ("seed: 7", "seed: 7\nseed: 8", "seed"),
    ("seed: 7", "seed: &x 7", "anchor"),
    ("seed: 7", "seed: !!int 7", "tag"),
    ("{samples: 24}", "{samples: no}", "no"),
    ("{samples: 24}", "{samples: 6:30}", "6:30"),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES, ids=[f"{n}" for _, n, _ in MISTAKES])
def test_every_mistake_has_its_sentence(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    text = complaint(tmp_path, GOOD.replace(old, new, 1))
    import re

    assert re.search(words, text), text
    assert "Traceback" not in text


def test_several_faults_are_reported_together(tmp_path: Path) -> None:
    text = (
        GOOD.replace("spacing: 8 ms", "spacing: 8").replace("seed: 7", "seed: x").replace("[noisy, t2]", "[noisy, t9]")
    )
    said = complaint(tmp_path, text.replace("b1: {trun", "b1: {tron"))
    for place in ("seed", "draw.b1", "chain.epg.cpmg.spacing"):
        assert place in said
    assert "cpmg.yaml:2: seed" in said
    assert said.index("seed") < said.index("draw.b1") < said.index("chain.epg.cpmg.spacing")


def test_nothing_is_made_while_a_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import factory.floor

    def refuse(*_: object) -> None:
        raise AssertionError("a sample was made")

    monkeypatch.setattr(factory.floor, "_call", refuse)
    for name in names():
        load(name)


def test_recipes_are_found_by_name_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setenv("FACTORY_RECIPES", str(tmp_path))
    assert load("cpmg").name == "cpmg"
    with pytest.raises(RecipeError, match="did you mean 'cpmg'"):
        load("cpgm")
