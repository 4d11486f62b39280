"""Tables of tissues and of labels: complete, physical, with a source, and written out into the recipe.

Budget: 15 s on two cores.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from factory import floor
from factory.recipe import RecipeError, load
from factory.recipe.tables import COLUMNS, TAGS, label_tables, tissue_table, tissue_tables
from factory.units import TISSUES, convert

RECIPE = """
about: tissues
seed: 1
splits: {{train: {{samples: 4000}}}}
draw:
  tissue_t1: {{per_tissue: {t1}}}
  tissue_t2: {{per_tissue: {{table: 3T, column: t2}}}}
  tissue_amplitude: {{per_tissue: {{table: 3T, column: amplitude}}}}
chain:
  - anatomy.brain: {{voxel: 10 mm}}
  - anatomy.patch: {{size: 1}}
  - tissue.relaxation
keep: [t1, tissue_t1]
"""


def recipe(tmp_path: Path, t1: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(t1=t1))
    return path


@pytest.mark.parametrize("name", ["1.5T", "3T", "7T", "brainweb"])
def test_every_row_has_a_source_and_is_physical(name: str) -> None:
    rows = tissue_tables()[name]
    assert {"csf", "grey_matter", "white_matter", "fat", "muscle"} <= set(rows)
    for tissue, row in rows.items():
        assert tissue in TISSUES
        assert row.tag in TAGS
        assert row.source
        t1, t2, t2_star = (convert(row.values[key].mean, "s") for key in COLUMNS[:3])
        assert 0 < t2_star <= t2 <= t1 < 6
    assert set(tissue_tables()["3T"]) == set(TISSUES[1:])


def test_t1_rises_and_t2_falls_with_the_field() -> None:
    for tissue in ("grey_matter", "white_matter", "muscle", "fat"):
        for low, high in pairwise(("1.5T", "3T", "7T")):
            t1, t2 = (
                [convert(tissue_tables()[n][tissue].values[key].mean, "s") for n in (low, high)] for key in ("t1", "t2")
            )
            assert t1[0] < t1[1]
            assert t2[0] >= t2[1]


def test_brainweb_is_exact() -> None:
    row = tissue_tables()["brainweb"]["grey_matter"].values
    assert [convert(row[key].mean, "s") for key in COLUMNS[:3]] == [0.833, 0.083, 0.069]
    assert all(one.spread is None for one in row.values())


def test_contrasts_at_3_t_have_the_usual_order() -> None:
    """Closed forms: inversion recovery (T1-weighted), spin echo (T2-weighted), FLAIR of long TR."""
    value = {
        tissue: [float(convert(row.values[k].mean, "s")) for k in ("t1", "t2")] + [float(row.values["amplitude"].mean)]
        for tissue, row in tissue_tables()["3T"].items()
    }

    def signal(tissue: str, ti: float | None, te: float, tr: float) -> float:
        t1, t2, a = value[tissue]
        recovered = 1 - np.exp(-tr / t1) if ti is None else 1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)
        return float(a * recovered * np.exp(-te / t2))

    order = ["white_matter", "grey_matter", "csf"]
    t1w = [signal(tissue, 0.9, 0.003, 2.3) for tissue in order]
    assert t1w == sorted(t1w, reverse=True)
    t2w = [signal(tissue, None, 0.1, 5.0) for tissue in ("csf", "lesion", "grey_matter", "white_matter")]
    assert t2w == sorted(t2w, reverse=True)
    flair = [signal(tissue, 2.5, 0.112, 9.0) for tissue in ("lesion", "grey_matter", "white_matter", "csf")]
    assert flair == sorted(flair, reverse=True)
    assert flair[:3] == pytest.approx([0.277, 0.153, 0.129], abs=1e-3)  # csf is all but nulled
    assert 0 < flair[3] < 0.02


def test_draws_have_the_mean_and_spread_of_the_table(tmp_path: Path) -> None:
    one = load(recipe(tmp_path, "{table: 3T, column: t1, fat: {constant: 400 ms}}"))
    assert "3T" not in one.text  # the numbers are stored, not the name
    made = floor.make(one, "train", 0, 4000).tissue_t1.to_numpy().astype(float)
    for tissue, row in tissue_tables()["3T"].items():
        got = made[:, TISSUES.index(tissue)]
        mean = 0.4 if tissue == "fat" else convert(row.values["t1"].mean, "s")
        spread = convert(row.values["t1"].spread or "0 s", "s") if tissue != "fat" else 0.0
        assert abs(got.mean() - mean) <= 3 * spread / np.sqrt(4000) + 1e-6
        assert abs(got.std() - spread) <= 3 * spread / np.sqrt(2 * 4000) + 1e-6


@pytest.mark.parametrize(
    ("t1", "sentence"),
    [
        ("{table: 4T, column: t1}", "it is one of 1.5T, 3T, 7T, brainweb"),
        ("{table: 3T, column: t3}", "it is one of t1, t2, t2_star, amplitude"),
        ("{table: 3T}", "column: is missing"),
        ("{table: 3T, column: t1, bone: {constant: 1 s}}", "bone"),
        ("{table: 3T, column: amplitude}", "tissue_t1"),
    ],
)
def test_faults(tmp_path: Path, t1: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as found:
        load(recipe(tmp_path, t1))
    assert sentence in str(found.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{t1: [1 s], t2: [2 s], t2_star: [1 ms], amplitude: [1.0], tag: code, source: x}", "0 < T2* <= T2 <= T1"),
        ("{t1: [3 s], t2: [2 s], t2_star: [1 ms], amplitude: [1.0], source: x}", "a tag"),
        ("{t1: [3 s], t2: [2 s], t2_star: [1 ms], amplitude: [1.0], tag: code}", "a source"),
    ],
)
def test_a_row_without_foundation_is_refused(tmp_path: Path, row: str, sentence: str) -> None:
    path = tmp_path / "tissues_x.yaml"
    path.write_text(f"tissues:\n  csf: {row}\n")
    with pytest.raises(ValueError) as found:
        tissue_table(path)
    assert sentence in str(found.value)


def test_label_tables_name_tissues() -> None:
    for rows in label_tables().values():
        assert set(rows.values()) <= set(TISSUES)
        assert rows["0"] == "background"
    free = label_tables()["freesurfer"]
    assert [free[k] for k in ("2", "41", "3", "42", "10", "49", "77", "16", "24")] == [
        "white_matter", "white_matter", "grey_matter", "grey_matter", "grey_matter", "grey_matter", "lesion",
        "white_matter", "csf",
    ]  # fmt: skip


def test_t1_of_no_tissue_falls_with_the_field() -> None:
    for low, high in pairwise(("1.5T", "3T", "7T")):
        for tissue in set(tissue_tables()[low]) & set(tissue_tables()[high]):
            t1 = [convert(tissue_tables()[name][tissue].values["t1"].mean, "s") for name in (low, high)]
            assert t1[0] < t1[1], tissue


def test_wrong_names_are_told_once_and_with_the_nearest(tmp_path: Path) -> None:
    for t1, sentence in [
        ("{table: branweb, column: t1}", "'branweb' is no table of tissues; did you mean 'brainweb'?; it is one of"),
        ("{table: [3T], column: t1}", "a list is no table of tissues"),
        ("{table: 3T, column: t2star}", "'t2star' is no column of tissues; did you mean 't2_star'?"),
        ("{column: t1}", "per_tissue.table: is missing"),
        ("{tabel: 3T}", "did you mean 'table'?"),
    ]:
        with pytest.raises(RecipeError) as found:
            load(recipe(tmp_path, t1))
        assert sentence in str(found.value)
        assert "\n" not in str(found.value)
        assert "Node(" not in str(found.value)


def test_null_takes_a_tissue_out(tmp_path: Path) -> None:
    text = load(recipe(tmp_path, "{table: 3T, column: t1, lesion: null}")).text
    assert text.count("lesion") == 2


LABELS = """
about: slices of labels
seed: 3
files: {anatomy: head.npy}
splits: {train: {samples: 4}, test: {samples: 4, chain: {anatomy.labels: {table: koma}}}}
chain: [anatomy.labels: {volumes: anatomy, table: koma}]
keep: [head]
"""


def test_a_split_may_name_a_table_of_labels_and_rows_beside_it_win(tmp_path: Path) -> None:
    np.save(tmp_path / "head.npy", np.array([[0, 23, 46], [70, 93, 232]], np.uint8))
    path = tmp_path / "r.yaml"
    path.write_text(LABELS.replace("table: koma}]", "table: {table: koma, 232: csf}}]"))
    made = load(path)
    np.testing.assert_array_equal(floor.make(made, "train", 0, 1)["head"][0], [[0, 1, 2], [3, 4, 1]])
    np.testing.assert_array_equal(floor.make(made, "test", 0, 1)["head"][0], [[0, 1, 2], [3, 4, 7]])
    for table, sentence in [("comma", "'comma' is no table of labels; did you mean 'koma'?"), ("3", "3 is no table"),
                            ("{table: koma, 5: gm}", "'gm' is no tissue")]:
        path.write_text(LABELS.replace("anatomy, table: koma", f"anatomy, table: {table}"))
        with pytest.raises(RecipeError) as found:
            load(path)
        assert sentence in str(found.value)
        assert "\n" not in str(found.value)


def test_the_table_of_sabidussi_is_what_rim_t1_draws() -> None:
    assert all("t2_star" not in row.values for row in tissue_tables()["sabidussi"].values())
    for draw, column in [("tissue_t1", "t1"), ("tissue_t2", "t2"), ("tissue_amplitude", "amplitude")]:
        rows = f"{{at: patch, per_tissue: {{table: sabidussi, column: {column}}}}}"
        made, usual = (load("rim_t1", set=one).splits["train"].draw for one in ({f"draw.{draw}": rows}, {}))
        for ours, theirs in zip(made, usual, strict=True):
            assert ours == theirs
    with pytest.raises(RecipeError, match="'t2_star' is no column of tissues"):
        load("rim_t1", set={"draw.tissue_t2": "{at: patch, per_tissue: {table: sabidussi, column: t2_star}}"})
