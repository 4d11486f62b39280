"""A step's constant that is a pulse sequence: named by a file or built, checked, and part of the identity.

Budget: 10 s on two cores.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from factory import floor
from factory.recipe import RecipeError, linking, load, rebuild
from factory.recipe.schema import _constant
from factory.sequences import Sequence, Table
from factory.step import find, step
from factory.units import Array, Seconds
from tests.sequences.test_reader import SMALL

RECIPE = """about: when samples are taken
seed: 1
files: {scan: scan.seq}
splits: {train: {samples: 2}}
draw: {t1: {uniform: [1 s, 2 s]}}
chain: [played.samples: {sequence: SEQUENCE}]
keep: [count]
"""


class Count(NamedTuple):
    count: Annotated[Array, "s"]


@step
def samples(t1: Seconds, *, sequence: Table) -> Count:
    """T1 plus the time of the last sample."""
    return Count(t1 + sequence.sample_times[-1])


@step
def blocks(t1: Seconds, *, sequence: Sequence) -> Count:
    """T1 plus the duration."""
    return Count(t1 + sequence.duration)


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"played.samples": samples, "played.blocks": blocks}
    monkeypatch.setattr(linking, "find", lambda name: own[name] if name in own else find(name))


def recipe_of(folder: Path, sequence: str, text: str = SMALL) -> Any:
    (folder / "scan.seq").write_text(text)
    (folder / "played.yaml").write_text(RECIPE.replace("SEQUENCE", sequence))
    return load(folder / "played.yaml")


def test_a_file_reaches_the_step_and_its_bytes_are_part_of_the_identity(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "scan")
    made = floor.make(recipe, "train", 0, 2)
    np.testing.assert_allclose(made["count"] - made["t1"], 200e-6 + 100e-6 + 95e-6, atol=1e-7)
    other = recipe_of(tmp_path, "scan", SMALL.replace("1 10 10000 100", "1 10 10000 90"))
    assert recipe.identity != other.identity
    assert recipe.digests != other.digests
    assert recipe_of(tmp_path, "scan").identity == recipe.identity
    again = rebuild(recipe.text, recipe.name, recipe.sources)
    assert again.splits["train"].chain[0].constants["sequence"] == recipe.splits["train"].chain[0].constants["sequence"]


def test_a_step_may_want_the_sequence_itself(tmp_path: Path) -> None:
    (tmp_path / "scan.seq").write_text(SMALL)
    (tmp_path / "played.yaml").write_text(RECIPE.replace("SEQUENCE", "scan").replace("samples:", "blocks:", 2).replace(
        "train: {blocks:", "train: {samples:"))
    made = floor.make(load(tmp_path / "played.yaml"), "train", 0, 2)
    np.testing.assert_allclose(made["count"] - made["t1"], 500e-6, atol=1e-7)


def test_a_builder_takes_its_settings_with_units(tmp_path: Path) -> None:
    pytest.importorskip("pypulseq")
    text = "{gradient_echo: {columns: 8, lines: 4, echo_time: 6 ms, repetition_time: 20 ms}}"
    recipe = recipe_of(tmp_path, text)
    made = floor.make(recipe, "train", 0, 2)
    assert float((made["count"] - made["t1"])[0]) == pytest.approx(3 * 20e-3 + 6e-3 + 1e-3, abs=1e-3)
    assert recipe.identity != recipe_of(tmp_path, text.replace("6 ms", "7 ms")).identity


def test_a_table_may_be_cut_more_finely_and_know_the_field(tmp_path: Path) -> None:
    def intervals(sequence: str, text: str = SMALL) -> Table:
        table: Table = recipe_of(tmp_path, sequence, text).splits["train"].chain[0].constants["sequence"]
        return table

    assert len(intervals("{table: {of: scan, step: 5 us}}").rf) == len(intervals("scan").rf) + 10
    ppm = SMALL.replace("minor 4", "minor 5").replace("1 1000 4 0 0", "1 1000 1000 1000 4 0 0")
    ppm = ppm.replace("1 2500 1 2 3 0 100 0.5", "1 2500 1 2 3 50 0 -3.5 0 0 0 s")
    ppm = ppm.replace("1 10 10000 100 50 0.25", "1 10 10000 100 0 0 50 0.25 0")
    assert intervals("{table: {of: scan, field: 3 T}}", ppm) != intervals("{table: {of: scan, field: 1.5 T}}", ppm)
    with pytest.raises(RecipeError, match="a pulse has an offset in ppm"):
        recipe_of(tmp_path, "scan", ppm)


@pytest.mark.parametrize(("sequence", "says"), [
    ("skan", "must name an entry under files, not 'skan'; did you mean 'scan'"),
    ("5", "must name an entry under files, not 5"),
    ("{gradient_ech: {lines: 4}}", "must be the name of a .seq file under files, or one of .*gradient_echo.*not a "
                                   "mapping of gradient_ech; did you mean 'gradient_echo'"),
    ("{gradient_echo: {lins: 4}}", "is no setting; did you mean 'lines'"),
    ("{gradient_echo: {echo_time: 5}}", "echo_time"),
    ("{gradient_echo: {echo_time: -5 ms}}", "must be > 0 in s, not -0.005"),
    ("{gradient_echo: {lines: 2.5}}", "must be a whole number"),
    ("{gradient_echo: 5}", "must be a mapping of settings"),
    ("{gradient_echo: {echo_time: 1 ms}}", "the echo time is .* ms too short"),
    ("{table: {step: 5 us}}", "the setting 'of' is missing"),
    ("{table: {of: scan, step: 0 us}}", "must be > 0"),
])
def test_faults_are_sentences(tmp_path: Path, sequence: str, says: str) -> None:
    if "echo_time: 1 ms" in sequence:
        pytest.importorskip("pypulseq")
    with pytest.raises(RecipeError, match=says):
        recipe_of(tmp_path, sequence)


def test_a_damaged_file_is_a_fault_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"files.scan.*'scan.seq' is of Pulseq version 1.9.1"):
        recipe_of(tmp_path, "scan", SMALL.replace("minor 4", "minor 9"))


def test_tables_are_equal_by_their_numbers_and_survive_a_pickle(tmp_path: Path) -> None:
    table: Table = recipe_of(tmp_path, "scan").splits["train"].chain[0].constants["sequence"]
    again = pickle.loads(pickle.dumps(table))
    assert again == table
    assert hash(again) == hash(table)
    assert not again.rf.flags.writeable
    assert Table(table.time.copy(), 2 * table.rf, table.area, table.sampled, table.receiver, table.pulses) != table


def test_the_schema_completes_builders() -> None:
    import jsonschema

    schema = _constant(samples.constants["sequence"])
    for good in ("scan", {"epi": {"lines": 8}}, {"table": {"of": "scan", "step": "5 us"}}):
        jsonschema.validate(good, schema)
    for bad in ({"epi": {"linez": 8}}, {"nothing": {}}, 5):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
