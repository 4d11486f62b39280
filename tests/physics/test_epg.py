"""The CPMG train against its closed-form limit and two independent simulators.

Budget: 5 s on two cores.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.physics import epg


def train(t1, t2, b1, **constants):
    return epg.cpmg(*(np.atleast_1d(np.asarray(x, float)) for x in (t1, t2, b1)), **constants)


def isochromats(t1, t2, b1, spacing, n_echo, refocus, n=256):
    """Bloch vectors spread evenly over one turn of dephasing each half spacing, with all that lies along z."""
    phi = 2 * np.pi * np.arange(n) / n
    e1, e2 = np.exp(-spacing / 2 / t1), np.exp(-spacing / 2 / t2)
    c, s = np.cos(refocus * b1), np.sin(refocus * b1)
    # phase 0 takes +z to +y; refocusing pulses turn about y.  dM/dt = gamma M x B is a left-handed turn
    m = np.stack([np.zeros(n), np.full(n, np.sin(np.pi / 2 * b1)), np.full(n, np.cos(np.pi / 2 * b1))])

    def half(m):
        xy = (m[0] + 1j * m[1]) * np.exp(-1j * phi) * e2
        return np.stack([xy.real, xy.imag, m[2] * e1 + 1 - e1])

    echoes = []
    for _ in range(n_echo):
        x, y, z = half(m)
        m = half(np.stack([c * x - s * z, y, s * x + c * z]))
        echoes.append((m[0] + 1j * m[1]).mean())
    return np.array(echoes)


def dense_graph(t1, t2, b1, spacing, n_echo, refocus):
    """Textbook extended phase graph: every order, complex states, one shift each half spacing, with recovery."""
    size = 2 * n_echo + 3
    state = np.zeros((3, size), complex)  # F+, F-, Z
    state[2, 0] = 1
    e1, e2 = np.exp(-spacing / 2 / t1), np.exp(-spacing / 2 / t2)

    def pulse(angle, phase):
        c2, s2 = np.cos(angle / 2) ** 2, np.sin(angle / 2) ** 2
        s, c, turn = np.sin(angle), np.cos(angle), np.exp(1j * phase)
        # the house's signs: F+ after a pulse from equilibrium is +i exp(i phase) sin(angle)
        return np.array(
            [
                [c2, turn**2 * s2, 1j * turn * s],
                [np.conj(turn) ** 2 * s2, c2, -1j * np.conj(turn) * s],
                [0.5j * np.conj(turn) * s, -0.5j * turn * s, c],
            ]
        )

    def half(state):
        plus, minus, z = state[0] * e2, state[1] * e2, state[2] * e1
        z[0] += 1 - e1
        plus[1:], minus[:-1], minus[-1] = plus[:-1].copy(), minus[1:].copy(), 0
        plus[0] = np.conj(minus[0])
        return np.stack([plus, minus, z])

    state, echoes = pulse(np.pi / 2 * b1, 0) @ state, []
    for _ in range(n_echo):
        state = half(pulse(refocus * b1, np.pi / 2) @ half(state))
        echoes.append(state[0, 0])
    return np.array(echoes)


@pytest.mark.parametrize("twin", [isochromats, dense_graph])
@pytest.mark.parametrize("b1", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("refocus", [np.pi, 2.4])
def test_independent_twins(twin, b1, refocus):
    constants = {"spacing": 0.01, "n_echo": 20, "refocus": refocus}
    want = twin(0.8, 0.08, b1, **constants)
    np.testing.assert_allclose(want.real, 0, atol=1e-12)  # the axis of the magnetisation is y
    got = train(0.8, 0.08, b1, **constants).signal[0]
    np.testing.assert_allclose(got, want.imag, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    t1=st.floats(0.1, 4),
    ratio=st.floats(0.02, 1),
    b1=st.floats(0.3, 1.7),
    n_echo=st.integers(1, 40),
    refocus=st.floats(0.2, np.pi),
    spacing=st.floats(0.002, 0.05),
)
def test_dense_graph_everywhere(t1, ratio, b1, n_echo, refocus, spacing):
    constants = {"spacing": spacing, "n_echo": n_echo, "refocus": refocus}
    got = train(t1, ratio * t1, b1, **constants).signal[0]
    want = dense_graph(t1, ratio * t1, b1, **constants).imag
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-8)


def test_limit_perfect_refocusing():
    t2 = np.array([0.02, 0.08, 0.3])
    got = train(np.ones(3), t2, np.ones(3), spacing=0.01, n_echo=16)
    np.testing.assert_allclose(got.signal, np.exp(-np.arange(1, 17) * 0.01 / t2[:, None]), rtol=2e-7)
    np.testing.assert_allclose(got.echo, 0.01 * np.arange(1, 17), rtol=1e-15)
    assert (got.signal.dtype, got.echo.dtype, got.echo.shape) == (np.float32, np.float64, (16,))


def test_samples_do_not_know_each_other():
    t1, t2, b1 = np.array([0.5, 1.0, 2.0]), np.array([0.05, 0.1, 0.2]), np.array([0.8, 1.0, 1.1])
    together = train(t1, t2, b1, spacing=0.008, n_echo=12).signal
    for i in range(3):
        np.testing.assert_array_equal(together[i], train(t1[i], t2[i], b1[i], spacing=0.008, n_echo=12).signal[0])
    seen = [np.broadcast_to(x[1], 3) for x in (t1, t2, b1)]  # read-only, stride 0
    np.testing.assert_array_equal(epg.cpmg(*seen, spacing=0.008, n_echo=12).signal, together[[1, 1, 1]])


def test_a_longer_train_begins_like_a_shorter_one():
    """Orders that cannot come back to an echo are left out; that may not move what is there."""
    long, short = (train(0.9, 0.09, 0.75, spacing=0.008, n_echo=n).signal[0] for n in (33, 8))
    np.testing.assert_array_equal(long[:8], short)
