"""The plate of spheres: geometry against a slow twin, values, faults.  Budget: 5 s on two cores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factory.draws import Draws
from factory.physics import phantom

T1 = tuple(0.1 * (k + 1) for k in range(14))
T2 = tuple(0.01 * (k + 1) for k in range(14))


def made(n=14, size=64, stop=2):
    return phantom.discs(Draws(1, "test", 0, stop, "x"), t1=T1[:n], t2=T2[:n], amplitude=0.7, size=size)


@pytest.mark.parametrize("n", [1, 10, 14])
def test_twin(n):
    got, turns = made(n), 0.3 * Draws(1, "test", 0, 2, "x").uniform("turn")
    for s, turn in enumerate(turns):
        for row in range(0, 64, 3):
            for column in range(0, 64, 3):
                y, x, want = (2 * row + 1) / 64 - 1, (2 * column + 1) / 64 - 1, 0
                for k in range(n):
                    radius, angle = (0.78, k / 10) if k < 10 else (0.36, (k - 10) / 4)
                    cy, cx = (radius * f(turn + 2 * math.pi * angle) for f in (math.sin, math.cos))
                    if math.hypot(y - cy, x - cx) < 0.17:
                        want = k + 1
                assert got.sphere[s, row, column] == want


def test_values_are_nominal_and_no_sphere_touches_another():
    got = made()
    assert set(np.unique(got.sphere)) == set(range(15))
    for k in range(14):
        here = got.sphere == k + 1
        assert np.all(got.t1[here] == np.float32(T1[k]))
        assert np.all(got.t2[here] == np.float32(T2[k]))
    assert np.all(got.amplitude[got.sphere > 0] == np.float32(0.7))
    assert np.all(got.t1[got.sphere == 0] == 0)
    counts = np.bincount(got.sphere[0].ravel())[1:]
    assert counts.max() - counts.min() < 0.15 * counts.mean()  # each is whole


def test_faults():
    with pytest.raises(ValueError, match="14 values of t1 and 13 of t2"):
        phantom.discs(Draws(1, "test", 0, 1), t1=T1, t2=T2[:13])
    with pytest.raises(ValueError, match="at most 14"):
        phantom.discs(Draws(1, "test", 0, 1), t1=T1 + T1, t2=T2 + T2)
