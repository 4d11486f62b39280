"""Units: a closed grammar ``number unit``, physical constants and the names of categories.

Inside the factory every number is a plain float in one canonical unit of its kind (s, Hz, T, m, rad, ...).  The table below is
all there is: an unknown unit is refused with the nearest name.  Angles, parts per million, decibels, cycles (Hz), angular
frequencies (rad/s) and rates (1/s) are kinds of their own, so that none passes for another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite, pi
from typing import Annotated

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

Unitless = Annotated[Array, "1"]
Seconds = Annotated[Array, "s"]
Hertz = Annotated[Array, "Hz"]
Radians = Annotated[Array, "rad"]
Tesla = Annotated[Array, "T"]
Metres = Annotated[Array, "m"]
Ppm = Annotated[Array, "ppm"]
Decibel = Annotated[Array, "dB"]
PerSecond = Annotated[Array, "1/s"]
Molar = Annotated[Array, "mol/m3"]

GAMMA_BAR = 42.577478461e6
"""Gyromagnetic ratio of the bare proton over 2 pi in Hz/T (CODATA 2022, physics.nist.gov/constants).  A sequence from
outside keeps its own."""

TISSUES = ("background", "csf", "grey_matter", "white_matter", "fat", "muscle", "muscle_skin", "skull", "vessels", "marrow")
"""The code of a tissue in a label map is its place in this list."""


class UnitError(ValueError):
    """A value that is not a number in the unit that is wanted."""


@dataclass(frozen=True)
class Unit:
    """One entry of the table: the canonical unit of its kind, and what to multiply by to get there."""

    canonical: str
    factor: Decimal
    irrational: float = 1.0


def _table() -> dict[str, Unit]:
    text = {
        "1": "1=1 %=0.01",
        "s": "s=1 ms=1e-3 us=1e-6 ns=1e-9 min=60 h=3600",
        "Hz": "Hz=1 kHz=1e3 MHz=1e6 GHz=1e9",
        "T": "T=1 mT=1e-3 uT=1e-6 nT=1e-9 G=1e-4",
        "m": "m=1 cm=1e-2 mm=1e-3 um=1e-6 nm=1e-9",
        "rad": "rad=1 mrad=1e-3",
        "rad/s": "rad/s=1 krad/s=1e3",
        "1/s": "1/s=1 1/ms=1e3 1/min=1/60",
        "1/m": "1/m=1 1/cm=1e2 1/mm=1e3",
        "T/m": "T/m=1 mT/m=1e-3 G/cm=1e-2",
        "T/m/s": "T/m/s=1 mT/m/ms=1",
        "m2/s": "m2/s=1 mm2/s=1e-6 um2/ms=1e-9",
        "s/m2": "s/m2=1 s/mm2=1e6 ms/um2=1e9",
        "mol/m3": "mol/m3=1 mM=1 M=1e3 uM=1e-3",
        "1/s/(mol/m3)": "1/s/mM=1 1/mM/s=1",
        "kg/m3": "kg/m3=1 g/cm3=1e3",
        "kg": "kg=1 g=1e-3",
        "S/m": "S/m=1 mS/m=1e-3",
        "W/kg": "W/kg=1",
        "Hz/T": "Hz/T=1 MHz/T=1e6",
        "ppm": "ppm=1 ppb=1e-3",
        "dB": "dB=1",
    }
    table = {}
    for canonical, entries in text.items():
        for entry in entries.split():
            name, _, factor = entry.rpartition("=")
            if canonical == "1/s/(mol/m3)":
                table[name] = Unit("1/s/mM", Decimal(1))
            elif factor == "1/60":
                table[name] = Unit(canonical, Decimal(1), 1 / 60)
            else:
                table[name] = Unit(canonical, Decimal(factor))
    return table | {"deg": Unit("rad", Decimal(1), pi / 180), "deg/s": Unit("rad/s", Decimal(1), pi / 180)}


UNITS = _table()

_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?$")
_MOST_TEXT = 60


def units_of(unit: str) -> list[str]:
    """All units of the same kind."""
    return [name for name, entry in UNITS.items() if entry.canonical == UNITS[unit].canonical]


def split(text: str) -> tuple[Decimal, str]:
    """The number and the unit of ``"8 ms"``; the unit is ``"1"`` where none stands."""
    if len(text) > _MOST_TEXT:
        raise UnitError(f"{text[:30]!r}... is too long for a number with a unit")
    number, _, unit = text.strip().partition(" ")
    unit = unit.strip() or "1"
    if not _NUMBER.match(number):
        raise UnitError(f"{text!r} is no number with a unit such as '8 ms'")
    if unit not in UNITS:
        near = get_close_matches(unit, UNITS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnitError(f"{text!r}: there is no unit {unit!r}{hint} (units: {', '.join(UNITS)})")
    return Decimal(number.replace("_", "")), unit


def convert(value: object, unit: str) -> float:
    """A recipe's number as a float in ``unit``.

    Decimal arithmetic, so that ``139 ms`` is exactly the float 0.139.

    Raises
    ------
    UnitError
        No number, a bare number where a unit is needed, a unit of another kind, an unknown unit, not finite.
    """
    wanted = UNITS[unit]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UnitError(f"must be a number{'' if unit == '1' else f' in {unit}'}, not {value!r}")
    number, given = split(value) if isinstance(value, str) else (_decimal(value), "1")
    if given == "1" and wanted.canonical != "1":
        raise UnitError(f"{value!r} needs a unit: write '{value} {unit}' or another of {', '.join(units_of(unit))}")
    entry = UNITS[given]
    if entry.canonical != wanted.canonical:
        raise UnitError(f"{value!r} is in {given!r}, but a number in {unit!r} is wanted "
                        f"(legal: {', '.join(units_of(unit))})")
    exact = float(number * entry.factor / wanted.factor)
    if not isfinite(exact):
        raise UnitError(f"{value!r} is too large for a number")
    return exact * entry.irrational / wanted.irrational if entry.irrational != wanted.irrational else exact


def _decimal(value: int | float) -> Decimal:
    if isinstance(value, float) and not isfinite(value):
        raise UnitError(f"{value!r} is not a finite number")
    if isinstance(value, int) and abs(value) > 10**300:
        raise UnitError("the number is too large")
    return Decimal(repr(value))


@dataclass(frozen=True, eq=False)
class Volumes:
    """Label volumes of a file: integer codes, each array (slice, row, column); ``digest`` is the sha256 of what was read."""

    names: tuple[str, ...]
    arrays: tuple[npt.NDArray[np.integer], ...]
    digest: str
