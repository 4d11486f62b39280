"""Strict YAML: what is read, what is refused and in which words.  PyYAML's own reader is the oracle of what is read.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.recipe import reading
from factory.recipe.reading import Faults, Node, RecipeError, dump, nearest, read, read_bytes, read_value

RECIPE = """\
# a comment
about: >-
  two
  lines
seed: 20260101
splits: {train: {samples: 1_000_000}, test: {samples: 0x10}}
draw:
  t1: {uniform: [300 ms, 3 s]}
  b1: {normal: [1, 1e-1]}
  x: {uniform: [-.5, +2.]}
chain:
- epg.cpmg: {spacing: 8 ms, n_echo: 32, refocus: '180'}
- tissue.table:
    table: {23: csf, y: "no"}
    on_off: [true, False, null, ~, ]
    nothing:
"""


def complaints(text: str | bytes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(text, origin="r.yaml")
    for line in str(caught.value).splitlines():
        assert line.isprintable()
    return str(caught.value).splitlines()


def test_a_recipe_is_read_with_lines() -> None:
    tree = read(RECIPE)
    assert tree.plain() == {
        "about": "two lines",
        "seed": 20260101,
        "splits": {"train": {"samples": 1_000_000}, "test": {"samples": 16}},
        "draw": {"t1": {"uniform": ["300 ms", "3 s"]}, "b1": {"normal": [1, 0.1]}, "x": {"uniform": [-0.5, 2.0]}},
        "chain": [
            {"epg.cpmg": {"spacing": "8 ms", "n_echo": 32, "refocus": "180"}},
            {"tissue.table": {"table": {"23": "csf", "y": "no"}, "on_off": [True, False, None, None], "nothing": None}},
        ],
    }
    seed = tree.value["seed"]
    assert (seed.line, seed.column, seed.key_line, seed.origin) == (5, 7, 5, "recipe")
    draw = tree.value["draw"]
    assert (draw.line, draw.key_line) == (8, 7)
    assert draw.value["b1"].value["normal"].value[1].line == 9
    assert isinstance(tree.value["splits"].value["train"].value["samples"].value, int)


def test_the_slow_loader_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = read(RECIPE)
    monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)
    assert read(RECIPE).plain() == fast.plain()
    assert [c.split(":")[1] for c in complaints("a: *b\nc: &d 1\ne: !!str 1\na: 2\nf: no")] == list("12345")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("+12", 12),
        ("-0", 0),
        ("0", 0),
        ("0o17", 15),
        ("0xfF", 255),
        ("1_000.5", 1000.5),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("null", None),
        ("~", None),
        ("TRUE", True),
        ("8 ms", "8 ms"),
        ("'yes'", "yes"),
        ('"\\u00b5T"', "µT"),
        ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]]),
        ("nan", "nan"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("data:x.mat", "data:x.mat"),
        ("2026-01-01", "2026-01-01"),
        ("tRUE", "tRUE"),
        ("0.5 T", "0.5 T"),
        ("-x", "-x"),
        ("1/s", "1/s"),
        ("'<<'", "<<"),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_scalars_of_the_core_schema(text: str, value: Any) -> None:
    node = read_value(text)
    assert node.plain() == value
    assert type(node.plain()) is type(value)
    assert node.origin == "--set"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("yes", "'yes' is ambiguous; write true, or quote it"),
        ("No", "write false"),
        ("on", "write true"),
        ("OFF", "write false"),
        ("y", "write true"),
        ("N", "write false"),
        ("6:30", "'6:30' is ambiguous"),
        ("190:20:30", "is ambiguous"),
        ("6:30.5", "is ambiguous"),
        ("012", "write 12, or 0o..."),
        ("-012", "is ambiguous"),
        (".inf", "'.inf' is not a finite number"),
        ("-.INF", "not a finite"),
        (".NaN", "not a finite"),
        ("1e999", "too large"),
        ("1e-999", "too small"),
        ("1__0", "is no number"),
        ("0o18", "is no number"),
        ("0b11", "is no number"),
        ("9" * 21, "more than 20 digits"),
        ("1." + "0" * 80, "too long"),
        ("<<", "merge key"),
        ("!!python/object/apply:os.system ['true']", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("!x 1", "the tag '!x' is not allowed"),
        ("! 1", "the tag '!' is not allowed"),
        ("!!str 1", "is not allowed"),
        ("&a 1", "the anchor &a is not allowed; delete it"),
        ("*a", "the alias *a is not allowed; write the value out"),
        ("{<<: {a: 1}}", "the merge key <<"),
        ("{a: 1, a: 2}", "a: stands here twice; the first is in line 1"),
        ("{1: 1, '1': 2}", "1: stands here twice"),
        ("{1.5: 1}", "'1.5' cannot be a key"),
        ("{true: 1}", "cannot be a key"),
        ("{null: 1}", "cannot be a key"),
        ("{on: 1}", "'on' cannot be a key; quote it"),
        ("{[a]: 1}", "cannot be a key"),
        ("? {a: b}\n: 1", "cannot be a key"),
        ("{*a : 1}", "alias *a is not allowed as a key"),
        ("{&a b: 1}", "an anchor or a tag is not allowed at a key"),
        ("{" + "k" * 129 + ": 1}", "a key has 129 characters"),
        ('"\\x1b[31m"', "the character U+001B"),
        ('"\\r"', "U+000D"),
        ('"\\u202e"', "U+202E"),
        ('"\\N"', "U+0085"),
        ("a: b: c", "this is not YAML: mapping values are not allowed"),
        ("[1, 2", "this is not YAML"),
        ("a\tb: [", "not YAML"),
        ("%YAML 1.1\n---\na: 1", "directive is not allowed"),
        ("%TAG ! !!\n---\na: 1", "directive is not allowed"),
        ("a: 1\n---\nb: 1", "a second document begins here"),
        ("", "the text is empty"),
        ("# only this", "the text is empty"),
        ("[" * 33 + "]" * 33, "nested more than 32 deep"),
        ("- " * 33 + "x", "nested more than 32 deep"),
        ("{a: " * 33 + "1" + "}" * 33, "nested more than 32 deep"),
        ("a: \x07", "the character U+0007"),
        ("a: \u2028", "U+2028"),
        ("a: \u2066b", "U+2066"),
        ("a: \ufeffb", "U+FEFF"),
        ("\ud800", "not UTF-8"),
        (b"a: \xff", "not UTF-8"),
        ("a: \x00", "U+0000"),
        ("x" * 262145, "262145 bytes"),
    ],
)
def test_what_is_refused(text: str | bytes, sentence: str) -> None:
    assert any(sentence in line for line in complaints(text)), complaints(text)


def test_the_deepest_that_is_read() -> None:
    tree = read("[" * 32 + "1" + "]" * 32)
    for _ in range(32):
        (tree,) = tree.value
    assert tree.value == 1


def test_all_faults_at_once_in_the_order_of_the_text() -> None:
    found = complaints("a: &x no\nb: {c: [1, 6:30], c: 2}\non: 1\n? [x]\n: 1\na: .nan\ne: !t 1\n")
    assert [line.split(":")[1] for line in found] == list("112234667")
    assert found[0] == "r.yaml:1: a: the anchor &x is not allowed; delete it"
    assert (
        found[2]
        == "r.yaml:2: b.c[1]: '6:30' is ambiguous (a number to the base of 60 in old YAML); quote it or write a unit"
    )


def test_faults_of_the_text_and_of_the_meaning_together() -> None:
    faults = Faults("r.yaml")
    tree = read("a: no\nb: 5", faults)
    assert tree.plain() == {"a": None, "b": 5}
    faults.add(
        tree.value["a"], "a", "must be a number", "write 1"
    )  # broken already, so it is not complained about again
    faults.add(tree.value["b"], "b", "must be a word", "words are x, y", "x")
    with pytest.raises(RecipeError) as caught:
        faults.raise_if_any()
    assert str(caught.value) == (
        "r.yaml:1: a: 'no' is ambiguous; write false, or quote it if it is a word\n"
        "r.yaml:2: b: must be a word; words are x, y; did you mean 'x'?"
    )
    assert [(f.line, f.place, f.legal, f.nearest) for f in caught.value.faults][1] == (2, "b", "words are x, y", "x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(RecipeError):
        read("a: [", Faults())  # nothing to go on with
    Faults().raise_if_any()


def test_many_faults_stay_a_short_text() -> None:
    found = complaints("[" + "no, " * 5000 + "]")
    assert len(found) == reading.MAX_FAULTS + 1
    assert found[-1] == "and 901 more faults", "after a thousand the rest is not read"


def test_a_fault_cannot_control_the_terminal() -> None:
    faults = Faults("evil\x1b[2J.yaml")
    faults.add(Node(None, 1), "a\nb", "\x1b]0;title\x07")
    assert str(faults.found[0]).isprintable()
    assert nearest("unifrom", ["uniform", "normal"]) == "uniform"
    assert nearest("qqq", ["uniform", "normal"]) == ""


def test_line_ends_and_marks_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [x,\r\n  2]\r\n")
    tree = read(path)
    assert tree.plain() == {"a": 1, "b": ["x", 2]}
    assert (tree.value["b"].value[1].line, tree.value["b"].origin) == (3, "r.yaml")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "large.yaml").write_bytes(b" " * (reading.MAX_BYTES + 1))
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name, sentence in [
        ("fifo.yaml", "no regular file"),
        ("zero.yaml", "no regular file"),
        (".", "no regular file"),
        ("large.yaml", "262145 bytes"),
        ("none.yaml", "no such file"),
    ]:
        with pytest.raises(RecipeError, match=sentence):
            read(tmp_path / name)
    (tmp_path / "right.yaml").write_bytes(b"a")
    assert read_bytes(tmp_path / "right.yaml", 1) == b"a"


WORDS = st.one_of(
    st.text(max_size=20).filter(lambda text: not reading._STRANGE.search(text)),
    st.sampled_from(
        [
            "no",
            "y",
            "1",
            "1e3",
            "0x1",
            "012",
            "6:30",
            "null",
            "~",
            "",
            " ",
            "a ",
            " a",
            "- a",
            "a: b",
            "a #b",
            "#",
            "---",
            "...",
            "8 ms",
            "300 ms",
            "[",
            "{",
            "&a",
            "*a",
            "!a",
            "<<",
            "a\nb",
            "a\n",
            "\ta",
            '"',
            "'",
            "\\",
            "a  b",
            ".5",
            "_1",
            "1_",
            "2026-01-01",
            "?",
            "-",
            ":",
            "a:",
            "%",
            "@",
            "`",
            "|",
            ">",
            ",",
            "=",
            ".nan",
        ]
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20) + 1, 10**20 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(WORDS.filter(lambda k: 0 < len(k) <= 128), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_what_is_written_reads_back_equal(value: Any) -> None:
    text = dump(value)
    again = read(text).plain()
    assert repr(again) == repr(value)  # repr tells 1 from 1.0 and from True, and -0.0 from 0.0
    assert dump(again) == text


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.text("[]{}:,-\"'&*!|>%@#? \nab10.eE_~<", max_size=60), st.binary(max_size=60))
)
def test_any_text_is_read_or_refused_in_words(text: str | bytes) -> None:
    try:
        value = read(text).plain()
    except RecipeError:
        return
    assert repr(read(dump(value)).plain()) == repr(value)


def test_the_form_of_what_is_written() -> None:
    value = {
        "about": "a\nb",
        "seed": 7,
        "empty": {},
        "none": [],
        "draw": {"t1": {"uniform": ["300 ms", 3.0]}},
        "chain": [{"epg.cpmg": {"n": 1, "y": "y"}}, [1, []], {}],
    }
    assert dump(value) == (
        'about: "a\\nb"\nseed: 7\nempty: {}\nnone: []\ndraw:\n  t1:\n    uniform: [300 ms, 3.0]\n'
        'chain:\n  - epg.cpmg:\n      n: 1\n      y: "y"\n  - - 1\n    - []\n  - {}\n'
    )
    assert yaml.safe_load(dump(value)) == value
    assert list(read(dump({"b": 1, "a": 2})).plain()) == ["b", "a"]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        10**20,
        "\x1b",
        "\r",
        "\ud800",
        object(),
        {1: 2},
        {"": 1},
        {"k" * 129: 1},
        b"a",
        1j,
        "x" * 262144,
    ],
)
def test_what_cannot_be_read_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        dump([value])
    deep: Any = 1
    for _ in range(33):
        deep = [deep]
    with pytest.raises(ValueError, match="32 deep"):
        dump(deep)
    assert read(dump(deep[0])).plain() == deep[0]
