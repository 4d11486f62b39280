"""Addressed numbers, Sobol points, Latin hypercubes and the keyed permutation.

Budget: 5 s on two cores.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import qmc

from factory import draws
from factory.draws import Draws, latin_hypercube, permute, sobol, sobol_bits

COUNT = 40  # samples that are cut into pieces


@st.composite
def pieces(draw: st.DrawFn) -> list[int]:
    """The borders of a partition of ``COUNT`` samples."""
    return [0, *sorted(draw(st.sets(st.integers(1, COUNT - 1), max_size=8))), COUNT]


@given(pieces(), st.integers(0, 2**50), st.sampled_from([(), (1,), (3,), (2, 5), (1030,)]))
@settings(max_examples=40, deadline=None)
def test_any_partition_gives_the_same_bytes(borders: list[int], origin: int, shape: tuple[int, ...]) -> None:
    whole = Draws(7, "train", origin, origin + COUNT, "link")
    parts = [Draws(7, "train", origin + a, origin + b, "link") for a, b in pairwise(borders)]
    for kind in ("uniform", "normal"):
        joined = np.concatenate([getattr(part, kind)("x", shape) for part in parts])
        assert joined.shape == (COUNT, *shape)
        assert joined.tobytes() == getattr(whole, kind)("x", shape).tobytes()


@given(pieces(), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_any_partition_of_a_design_gives_the_same_bytes(borders: list[int], dimension: int) -> None:
    cuts = list(pairwise(borders))
    joined = np.concatenate([sobol(5, dimension, a, b) for a, b in cuts])
    assert joined.tobytes() == sobol(5, dimension, 0, COUNT).tobytes()
    joined = np.concatenate([latin_hypercube(dimension, COUNT, a, b) for a, b in cuts])
    assert joined.tobytes() == latin_hypercube(dimension, COUNT, 0, COUNT).tobytes()


def test_one_address_always_means_the_same_number() -> None:
    """Recorded values: a change here is a change of every data set ever made."""
    one = Draws(20260101, "train", 3, 5, "noise").uniform("real", (2,))
    assert one.tobytes() == Draws(20260101, "train", 0, 5).under("noise").uniform("real", (7,))[3:, :2].tobytes()
    assert [x.hex() for x in one.ravel()] == RECORDED


def test_every_part_of_the_address_matters_and_the_streams_are_independent() -> None:
    n = 20_000
    streams = {
        "reference": Draws(1, "train", 0, n).uniform("t1"),
        "seed": Draws(2, "train", 0, n).uniform("t1"),
        "split": Draws(1, "test", 0, n).uniform("t1"),
        "name": Draws(1, "train", 0, n).uniform("t2"),
        "label": Draws(1, "train", 0, n).under("noise").uniform("t1"),
        "next sample": Draws(1, "train", 1, n + 1).uniform("t1"),
        "next number": Draws(1, "train", 0, n).uniform("t1", (2,))[:, 1],
        "next block": Draws(1, "train", 0, n).uniform("t1", (3,))[:, 2],
    }
    for (a, u), (b, v) in combinations(streams.items(), 2):
        assert abs(np.corrcoef(u, v)[0, 1]) < 4.5 / np.sqrt(n), (a, b)
        table, _, _ = np.histogram2d(u, v, bins=8, range=[[0, 1], [0, 1]])
        assert stats.chi2.sf(((table - n / 64) ** 2 / (n / 64)).sum(), 63) > 1e-5, (a, b)


def test_names_cannot_run_into_each_other() -> None:
    names = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), (1, "a"), ("1", "a")]
    assert len({draws.address(*parts) for parts in names}) == len(names)


def test_uniforms_and_normals_have_their_distributions() -> None:
    one = Draws(3, "train", 0, 400)
    assert stats.kstest(one.uniform("u", (500,)).ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(one.normal("z", (500,)).ravel(), "norm").pvalue > 1e-3


def test_an_impossible_range_is_refused_and_an_empty_one_is_empty() -> None:
    with pytest.raises(ValueError, match="no range"):
        Draws(1, "train", 5, 4)
    with pytest.raises(ValueError, match="no range"):
        Draws(1, "train", -1, 4)
    assert Draws(1, "train", 5, 5).normal("x", (3, 2)).shape == (0, 3, 2)
    assert Draws(1, "train", 5, 7).uniform("x", (0,)).shape == (2, 0)
    assert Draws(1, "train", 5, 9).size == 4


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_any_samples_have_the_numbers_that_they_have_in_a_range(index: list[int]) -> None:
    some = Draws.at(3, "train", index, "noise")
    for k, one in enumerate(index):
        alone = Draws(3, "train", one, one + 1, "noise")
        assert some.uniform("x", (3,))[k].tobytes() == alone.uniform("x", (3,))[0].tobytes()
        assert some.part(k, k + 1).normal("x", (2,)).tobytes() == alone.normal("x", (2,)).tobytes()
    assert some.under("more").uniform("x").tobytes() == Draws.at(3, "train", index, "noise/more").uniform("x").tobytes()


def test_unscrambled_sobol_points_equal_scipys() -> None:
    expected = qmc.Sobol(draws.SOBOL_DIMENSIONS, scramble=False, bits=60).random(1024)
    for d in range(draws.SOBOL_DIMENSIONS):
        assert np.array_equal(sobol_bits(d, 0, 1024) * 2.0**-64, expected[:, d]), d
    with pytest.raises(ValueError, match="dimensions"):
        sobol_bits(draws.SOBOL_DIMENSIONS, 0, 1)


@pytest.mark.parametrize("start", [0, 3 * 256, 2**40])
def test_scrambled_sobol_points_keep_one_point_in_each_interval(start: int) -> None:
    for d in range(draws.SOBOL_DIMENSIONS):
        cells = np.floor(sobol(99, d, start, start + 256) * 256).astype(int)
        assert sorted(cells) == list(range(256)), d


def test_scrambled_sobol_points_cover_two_dimensions_evenly_and_depend_on_the_key() -> None:
    plane = np.stack([sobol(5, d, 0, 1024) for d in (0, 1)], axis=1)
    table, _, _ = np.histogram2d(*plane.T, bins=32, range=[[0, 1], [0, 1]])
    assert (table == 1).all()  # a (0, 2)-sequence: one point in each of 32 x 32 cells; chance would leave 37 % empty
    assert qmc.discrepancy(plane) < 0.1 * qmc.discrepancy(Draws(1, "x", 0, 1024).uniform("p", (2,)))


def test_the_scramble_is_owens() -> None:
    """One point is uniform over keys; n points are independent inside their cells, so that their mean has the
    variance 1 / (12 n^3) (a digital shift common to all points gives 1 / (12 n^2)); dimensions do not follow each
    other."""
    n, keys = 64, 1000
    for d in (0, 1, 6):
        u = np.array([sobol(key, d, 0, n) for key in range(keys)])
        for i in (0, 1, 7):
            assert stats.kstest(u[:, i], "uniform").pvalue > 1e-4, (d, i)
        assert u.mean(axis=1).std() * np.sqrt(12 * n**3) == pytest.approx(1.0, abs=0.12), d
        other = np.array([sobol(key, d + 1, 0, n) for key in range(keys)])
        assert abs(np.corrcoef(u[:, 5], other[:, 5])[0, 1]) < 4.5 / np.sqrt(keys), d


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_a_latin_hypercube_has_one_point_in_each_interval(n: int, key: int) -> None:
    u = latin_hypercube(key, n, 0, n)
    assert ((u > 0) & (u < 1)).all()
    assert sorted(np.floor(u * n).astype(int)) == list(range(n))


def test_a_latin_hypercube_is_random_inside_and_has_a_fixed_length() -> None:
    u = latin_hypercube(3, 5000, 0, 5000)
    assert stats.kstest(u * 5000 % 1, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u, latin_hypercube(4, 5000, 0, 5000))[0, 1]) < 4.5 / np.sqrt(5000)
    with pytest.raises(ValueError, match="fixed"):
        latin_hypercube(3, 5000, 4990, 5001)


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
@settings(max_examples=100, deadline=None)
def test_permute_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(st.integers(2, 2**62), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=100, deadline=None)
def test_permute_stays_inside_and_apart_for_any_size(n: int, key: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)))
    moved = permute(index, n, key)
    assert moved.min() >= 0
    assert moved.max() < n
    assert len(set(moved.tolist())) == len(index)


def test_permute_scatters_neighbours_and_depends_on_the_key() -> None:
    n = 100_003
    a, b = permute(np.arange(n), n, 1), permute(np.arange(n), n, 2)
    assert np.sum(a == b) < 12  # two random permutations agree in 1 place on average
    assert np.sum(a == np.arange(n)) < 12
    for x, y in [(a, np.arange(n)), (a, b), (a[:-1], a[1:])]:
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.5 / np.sqrt(n)
    assert np.sum(np.abs(np.diff(a)) == 1) < 15  # 2 on average
    places = np.bincount([int(permute(np.array([1]), 6, key)[0]) for key in range(6000)], minlength=6)
    assert stats.chisquare(places).pvalue > 1e-4


def test_small_permutations_reach_every_order_about_equally() -> None:
    orders = [tuple(permute(np.arange(4), 4, key).tolist()) for key in range(24 * 200)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-5


def test_permute_refuses_what_is_outside() -> None:
    with pytest.raises(IndexError, match="0 to 9"):
        permute(np.array([10]), 10, 1)
    with pytest.raises(ValueError, match="places"):
        permute(np.array([0]), 0, 1)


RECORDED = ["0x1.78c527612b460p-6", "0x1.a1d33a913ba29p-1", "0x1.0797a5bd635a6p-2", "0x1.11af7668c7a26p-2"]
