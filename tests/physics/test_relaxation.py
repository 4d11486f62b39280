"""Closed-form signals against their limits, a NumPy twin, and the ways in which inputs may arrive.

Budget: 5 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import relaxation, rows

TIMES = (0.0, 0.05, 0.7, 1.9)


def maps(n=5, shape=(3, 4), seed=0):
    random = np.random.default_rng(seed)
    amplitude, t = random.uniform(0.2, 1.5, (n, *shape)), random.uniform(0.03, 3.0, (n, *shape))
    return amplitude, random.uniform(1.0, 2.0, n), t


def test_inversion_recovery_is_the_formula():
    a, b, t = maps()
    got = relaxation.inversion_recovery(a, b, t, inversion_time=TIMES)
    time = np.array(TIMES)[None, :, None, None]
    want = np.abs(a[:, None] * (1 - b[:, None, None, None] * np.exp(-time / t[:, None])))
    assert got.signal.shape == (5, 4, 3, 4)
    assert got.signal.dtype == np.float32
    np.testing.assert_allclose(got.signal, want, rtol=2e-7, atol=1e-7)
    np.testing.assert_array_equal(got.inversion_time, TIMES)
    assert got.inversion_time.dtype == np.float64


def test_inversion_recovery_limits():
    t1 = np.array([0.4, 1.4, 3.5])
    null = relaxation.inversion_recovery(np.ones(3), np.full(3, 2.0), t1, inversion_time=tuple(t1 * np.log(2))).signal
    np.testing.assert_allclose(np.diag(null), 0, atol=1e-15)
    ends = relaxation.inversion_recovery(
        np.full(3, -0.8), np.array([2.0, 1.7, 1.0]), t1, inversion_time=(0.0, 1e3)
    ).signal
    np.testing.assert_allclose(ends[:, 0], [0.8, 0.56, 0.0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ends[:, 1], 0.8, rtol=1e-6)


def test_t2_decay_is_the_formula():
    a, _, t = maps(seed=1)
    got = relaxation.t2_decay(-a, t, echo_time=TIMES)
    want = a[:, None] * np.exp(-np.array(TIMES)[None, :, None, None] / t[:, None])
    np.testing.assert_allclose(got.signal, want, rtol=2e-7)
    np.testing.assert_array_equal(got.echo_time, TIMES)
    at_t2 = relaxation.t2_decay(np.ones(1), np.array([0.08]), echo_time=(0.08,)).signal
    np.testing.assert_allclose(at_t2, np.exp(-1), rtol=1e-7)


@pytest.mark.parametrize("time", [0.0, 0.1])
def test_background_is_zero_and_finite(time):
    nothing = np.zeros((2, 3))
    inverted = relaxation.inversion_recovery(nothing, np.full(2, 2.0), nothing, inversion_time=(time,)).signal
    np.testing.assert_array_equal(inverted, 0)
    np.testing.assert_array_equal(relaxation.t2_decay(nothing, nothing, echo_time=(time,)).signal, 0)
    recovered = relaxation.inversion_recovery(np.ones(1), np.full(1, 2.0), np.zeros(1), inversion_time=(time,)).signal
    np.testing.assert_array_equal(recovered, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outer_and_read_only_inputs_give_the_same_bytes(dtype):
    a, b, t = (x.astype(dtype) for x in maps())
    one_a, one_t = np.broadcast_to(a[1], a.shape), np.broadcast_to(t[2], t.shape)
    keep = one_a.tobytes(), t.tobytes()
    for x in (a, b, t):
        x.flags.writeable = False
    got = relaxation.inversion_recovery(one_a, b, one_t, inversion_time=TIMES).signal
    copied = relaxation.inversion_recovery(one_a.copy(), b, one_t.copy(), inversion_time=TIMES).signal
    np.testing.assert_array_equal(got, copied)
    # ... and one sample alone has the bytes that it has among others
    alone = relaxation.t2_decay(a[3:4], t[3:4], echo_time=TIMES).signal
    np.testing.assert_array_equal(relaxation.t2_decay(a, t, echo_time=TIMES).signal[3:4], alone)
    np.testing.assert_array_equal(
        relaxation.t2_decay(one_a, t, echo_time=TIMES).signal,
        relaxation.t2_decay(one_a.copy(), t, echo_time=TIMES).signal,
    )
    assert keep == (one_a.tobytes(), t.tobytes())


def test_rows_copies_nothing_it_need_not():
    a = np.zeros((4, 2, 3))
    table, move = rows(a)
    assert (table.shape, move, np.shares_memory(table, a), table.flags.writeable) == ((4, 6), 1, True, False)
    assert a.flags.writeable
    table, move = rows(np.broadcast_to(a[0], a.shape))
    assert (table.shape, move, np.shares_memory(table, a)) == ((1, 6), 0, True)
    table, move = rows(a.transpose(0, 2, 1))
    assert (table.shape, move, table.flags.c_contiguous) == ((4, 6), 1, True)
