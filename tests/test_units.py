"""Units: a closed table with exact factors; what is refused and in which words.  pint is the oracle of the factors.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import get_type_hints

import numpy as np
import pint
import pytest
import scipy.constants
from hypothesis import given
from hypothesis import strategies as st

from factory import units
from factory.units import GAMMA_BAR, TISSUES, UNITS, UnitError, Volumes, convert, units_of

NOT_IN_PINT = {"dB": 1.0, "G": 1e-4, "G/cm": 1e-2, "%": 1e-2, "ppb": 1e-3}  # gauss is of another system of units there


def in_pint(name: str) -> str:
    return re.sub(r"([a-z])([23])", r"\1**\2", name.replace("100g", "(100*g)"))


@pytest.mark.parametrize("name", [name for name in UNITS if name not in NOT_IN_PINT])
def test_every_factor_is_pints(name: str) -> None:
    registry = pint.UnitRegistry()
    ours = registry.Quantity(1.0, in_pint(UNITS[name].kind))
    theirs = registry.Quantity(in_pint(name)) if not name[0].isdigit() else registry.Quantity(1.0, in_pint(name))
    assert float(UNITS[name].factor) == pytest.approx(theirs.to(ours.units).magnitude, rel=1e-12)


def test_factors_that_pint_does_not_know() -> None:
    for name, factor in NOT_IN_PINT.items():
        assert float(UNITS[name].factor) == factor


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("139 ms", "s", 0.139),
        ("139ms", "s", 0.139),
        ("  1_000 us ", "s", 1e-3),
        ("3 min", "s", 180.0),
        ("-3.5e2 Hz", "Hz", -350.0),
        ("180 deg", "rad", math.pi),
        ("90 deg", "rad", math.pi / 2),
        (".5 T", "T", 0.5),
        ("40 mT/m", "T/m", 0.04),
        ("1000 s/mm2", "s/m2", 1e9),
        ("0.7 um2/ms", "m2/s", 7e-10),
        ("50 mM", "mol/m3", 50.0),
        ("2 M", "mol/m3", 2000.0),
        ("50 %", "1", 0.5),
        ("0.5", "1", 0.5),
        (3, "1", 3.0),
        (0.1, "1", 0.1),
        ("4.5 1/mM/s", "m3/mol/s", 4.5),
        ("60 1/min", "1/s", 1.0),
        ("3 ppm", "ppm", 3.0),
        ("60 ml/100g/min", "m3/kg/s", 1e-5),
        ("5 µT", "T", 5e-6),
        ("5 μT", "T", 5e-6),
        ("8 ms", "ms", 8.0),
        ("1 s", "ms", 1000.0),
    ],
)
def test_what_is_read(text: str | float, unit: str, value: float) -> None:
    assert convert(text, unit) == value


@pytest.mark.parametrize(
    ("value", "unit", "sentence"),
    [
        ("8", "s", "'8' needs a unit of time, e.g. '8 ms'"),
        (8, "s", "'8' needs a unit of time, e.g. '8 ms'"),
        (0.5, "rad", "'0.5' needs a unit of angle, e.g. '0.5 deg'"),
        ("1 Hz", "rad/s", "measures frequency (Hz), but angular frequency (rad/s) is needed; multiply by 2 pi"),
        ("1 rad/s", "Hz", "divide by 2 pi"),
        ("1 Hz", "1/s", "but rate (1/s) is needed"),
        ("3 ppm", "1", "but a plain number (1) is needed"),
        ("40 deg", "1", "measures angle (deg)"),
        ("3 dB", "1", "a level in decibel"),
        ("3 1/s", "Hz", "measures rate"),
        ("50 %", "ppm", "measures a plain number"),
        ("3 msec", "s", "did you mean 'ms'?"),
        ("3 MS", "s", "did you mean 'ms'?"),
        ("3 seconds", "s", "did you mean 's'?"),
        ("3 degrees", "rad", "did you mean 'deg'?"),
        ("3 mm^2/s", "m2/s", "did you mean 'mm2/s'?"),
        ("3 parsec", "m", "units of length are m, cm, mm, um, nm"),
        ("9**9**9**9 ms", "s", "is no quantity"),
        ("1e999999999 ms", "s", "is no quantity"),
        ("1 ms + 1 ms", "s", "is no unit"),
        ("nan s", "s", "is no quantity"),
        ("inf", "1", "is no quantity"),
        ("1" * 60 + " s", "s", "is no quantity"),
        ("1e308 h", "s", "too large for a float64"),
        ("1e-999 s", "s", "too small for a float64"),
        ("", "1", "is no quantity"),
        ("ms", "s", "is no quantity"),
        ("1 5 ms", "s", "is no quantity"),
        ("٣ ms", "s", "is no quantity"),
        ("5 \x1b[31m", "s", "is no unit"),
        (True, "1", "True is no number"),
        (None, "1", "None is no number"),
        (float("nan"), "1", "nan is not finite"),
        (float("-inf"), "1", "-inf is not finite"),
        (10**400, "1", "too large"),
        ("1 s", "sec", "'sec' is no unit; did you mean 's'?"),
    ],
)
def test_what_is_refused(value: object, unit: str, sentence: str) -> None:
    with pytest.raises(UnitError) as caught:
        convert(value, unit)  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_kinds_never_mix() -> None:
    for given_unit, row in UNITS.items():
        for wanted in UNITS:
            if UNITS[wanted].kind == row.kind or given_unit == "1":
                continue
            with pytest.raises(UnitError):
                convert(f"1 {given_unit}", wanted)
    for name in ("rad", "ppm", "dB", "Hz", "rad/s", "1/s", "1"):
        assert UNITS[name].kind == name
    assert units_of("ms") == units_of("s") == ("s", "ms", "us", "ns", "min", "h")


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(UNITS)))
def test_a_number_in_its_own_unit_is_read_to_the_last_bit(number: float, name: str) -> None:
    assert convert(f"{number!r} {name}", name) == number


@given(st.decimals(min_value="1e-6", max_value="1e6", places=6))
def test_a_conversion_rounds_once(number: object) -> None:
    assert convert(f"{number} ms", "s") == float(f"{number}e-3")


def test_gamma_bar_is_the_unshielded_proton_of_codata() -> None:
    value, unit, spread = scipy.constants.physical_constants["proton gyromag. ratio in MHz/T"]
    assert unit == "MHz T^-1"
    assert abs(GAMMA_BAR * 1e-6 - value) <= 10 * spread  # scipy may hold another year's adjustment
    assert len(set(TISSUES)) == len(TISSUES) == 11
    assert TISSUES[0] == "background"


def _timed(x: units.Seconds) -> None: ...


def test_every_alias_names_a_canonical_unit() -> None:
    found = {}
    for name, alias in vars(units).items():
        if name[0].isupper() and hasattr(alias, "__metadata__"):
            found[name] = alias.__metadata__[0]
    assert len(found) >= 20
    assert all(UNITS[unit].kind == unit for unit in found.values())
    hint = get_type_hints(_timed, include_extras=True)["x"]
    assert hint.__metadata__ == ("s",)
    assert hint.__origin__ == units.Array


def labels(dtype: type = np.uint8) -> np.ndarray:
    return np.arange(24, dtype=dtype).reshape(2, 3, 4)


def test_volumes_know_their_content() -> None:
    source = labels()
    one = Volumes(("head",), (source,))
    source[:] = 0
    assert one.arrays[0].max() == 23, "the array is its own"
    with pytest.raises(ValueError, match="read-only"):
        one.arrays[0][0, 0, 0] = 1
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert hash(again) == hash(one)
    assert not again.arrays[0].flags.writeable
    assert Volumes(("head",), (labels().astype(">i2"),)) == Volumes(("head",), (labels(np.int16),))
    for other in (
        Volumes(("tail",), (labels(),)),
        Volumes(("head",), (labels(np.int16),)),
        Volumes(("head",), (labels().reshape(2, 4, 3),)),
        Volumes(("head",), (labels()[::-1],)),
    ):
        assert other != one
    assert one != "head"


@pytest.mark.parametrize("array", [labels(np.float64), labels(np.int64), labels()[0], labels()[:0]])
def test_volumes_are_small_integers_in_three_dimensions(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8, int16 or int32"):
        Volumes(("head",), (array,))
    with pytest.raises(ValueError, match="each volume needs one"):
        Volumes((), (labels(),))
