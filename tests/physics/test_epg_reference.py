"""Every state of EPG-X's RF-spoiled gradient echoes (Malik, Teixeira, Hajnal 2018, doi:10.1002/mrm.27040).

Where the reference file is absent these tests are skipped.

Budget: 10 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import _pathways, _pools

PULSES, ORDERS, FLIP, TR = 200, 101, np.deg2rad(10), 5e-3
P = np.arange(1, PULSES + 1)
PHASE = np.deg2rad(P * (P - 1) // 2 * 117 % 360)  # the file's; ours are the negative ones


@pytest.fixture(scope="module")
def stored(reference):
    path = reference / "epg" / "syc__EPGX_GRE_single_MT.npz"
    with np.load(path) as file:
        return {name: file[name].conj() for name in file.files}


def after(n, samples, call):
    """Our states right behind pulse n, out of the frame of that pulse: F+, F-, Z of each order."""
    events, marks = _pathways.schedule([FLIP] * n, -PHASE[:n], [TR] * (n - 1) + [0], [1] * (n - 1) + [0], 0.0, 0.0,
                                       ORDERS, float)  # fmt: skip
    marks[:, 2] = ORDERS  # all states, not only those that reach an echo
    out = np.empty((1, n), complex)
    up, down, z, above, below = call(samples, events, marks, out)
    k = np.arange(ORDERS)
    plus, minus, z = (a[i % len(a), ..., 0, 0] + 1j * a[i % len(a), ..., 1, 0]
                      for a, i in ((up, above + k), (down, below + k), (z, k)))  # fmt: skip
    turn = np.exp(-1j * PHASE[n - 1])
    return out[0], plus * turn, minus / turn, z


def distance(n, fn, zn, ours, plus, minus, z):
    """The largest one, over all orders that the file keeps: those that can still come back to order 0."""
    kept = slice(0, min(ORDERS, PULSES - n + 1))
    pairs = ((ours, fn[100, :n]), (plus[kept], fn[100:, n - 1][kept]), (minus.conj()[kept], fn[100::-1, n - 1][kept]),
             (z[kept], zn[kept, n - 1]))  # fmt: skip
    return max(np.abs(a - b).max() for a, b in pairs)


def single_pool(n):
    """Our states behind pulse n, see `after`."""
    samples = np.array([[-1 / 0.779], [-1 / 0.045], [1.0], [0.0]])
    return after(n, samples, lambda s, events, marks, out: _pathways.train(s, np.ones(1), events, marks, ORDERS, out))


@pytest.mark.parametrize("n", [1, 2, 3, 57, 100, 150, PULSES])
def test_single_pool(stored, n):
    states = single_pool(n)
    assert distance(n, stored["Fn0"], stored["Zn0"], *states) < 1e-12
    assert np.abs(states[0][0] - 1j * np.sin(FLIP)) < 1e-15  # without the converter it is -0.17 i


def bound_pool(n):
    """Magnetization transfer: exchange of 4.3 / s into a bound pool of 11.7 %, saturated by pulses of 13 uT."""
    part, field, gamma, lineshape = 0.117, 13e-6, 267.5221e6, 15.1e-6
    saturation = np.pi * (gamma * field) ** 2 * lineshape * FLIP / (gamma * field)
    rows = np.empty((_pools.ROWS, 1))
    _pools.rows_of(np.full((2, 1), 1 / 0.779), np.full((2, 1), 1 / 0.045), np.zeros((2, 1)), np.array([4.3]),
                   np.array([part]), True, rows)  # fmt: skip
    rows[:2] = [[1.0], [saturation / FLIP**2]]
    start = np.array([[1 - part], [part]])
    echoes, plus, minus, z = after(
        n, rows, lambda s, events, marks, out: _pools.train(True, s, start, events, marks, ORDERS, out))
    assert not plus[:, 1].any()
    return echoes, plus[:, 0], minus[:, 0], z


@pytest.mark.parametrize("n", [1, 2, 3, 57, 100, 150, PULSES])
def test_bound_pool(stored, n):
    assert distance(n, stored["Fnmt"], stored["Znmt"], *bound_pool(n)) < 1e-12
