"""Every distribution against SciPy's, its complaints, and equal bytes on a pretended older processor.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from factory import numerics, special
from factory.distributions import DISTRIBUTIONS, REQUIRED, Population
from factory.draws import Draws, latin_hypercube, sobol
from factory.units import TISSUES

N = 40_000


def population(name: str, **parameters: Any) -> Population:
    return Population(DISTRIBUTIONS[name], parameters)


def drawn(name: str, n: int = N, **parameters: Any) -> np.ndarray:
    one = population(name, **parameters)
    assert one.complaint() is None
    x = one.values(Draws(11, "train", 0, n).uniform(name, (one.uniforms,)))
    assert x.shape == (n, *one.shape)
    assert x.dtype == one.distribution.dtype
    return x


HISTOGRAM = {"edges": [0.0, 1.0, 3.0, 9.0], "counts": [2, 0, 5]}
TWO = {"components": (population("normal", mean=-2.0, sd=0.5), population("uniform", low=0.0, high=4.0))}
EVERY = {
    "uniform": {"low": 0.3, "high": 3.0},
    "loguniform": {"low": 20.0, "high": 200.0},
    "normal": {"mean": 1.0, "sd": 0.2},
    "truncated_normal": {"mean": 1.4, "sd": 0.3, "low": 0.9, "high": 2.0},
    "half_normal": {"scale": 0.2},
    "lognormal": {"median": 2.0, "sigma": 0.4},
    "beta": {"a": 2.0, "b": 5.0, "low": -1.0, "high": 3.0},
    "choice": {"values": [1.5, 3.0, 7.0], "weights": [1, 0, 3]},
    "discrete_uniform": {"low": -2, "high": 7},
    "constant": {"value": 3.25},
    "empirical": HISTOGRAM,
    "mixture": {**TWO, "weights": [1.0, 3.0]},
    "per_tissue": {
        "grey_matter": population("normal", mean=1.3, sd=0.1), "csf": population("uniform", low=3.0, high=4.0),
    },
    "several": {"count": 4, "of": population("uniform", low=0.05, high=1.0)},
    "each": TWO,
    "dirichlet": {"concentration": [0.5, 2.0, 4.0]},
    "multivariate_normal": {
        "mean": [0.0, 1.0, -1.0], "covariance": [[1.0, 0.5, 0.2], [0.5, 2.0, 0.1], [0.2, 0.1, 0.7]],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("uniform", EVERY["uniform"], stats.uniform(0.3, 2.7)),
        ("loguniform", EVERY["loguniform"], stats.loguniform(20, 200)),
        ("loguniform", {"low": 1e-9, "high": 1e9}, stats.loguniform(1e-9, 1e9)),
        ("normal", EVERY["normal"], stats.norm(1.0, 0.2)),
        ("truncated_normal", EVERY["truncated_normal"], stats.truncnorm(-0.5 / 0.3, 0.6 / 0.3, 1.4, 0.3)),
        ("truncated_normal", {"mean": 0.0, "sd": 1.0, "low": 6.0, "high": 7.0}, stats.truncnorm(6, 7)),
        ("truncated_normal", {"mean": 0.0, "sd": 1.0, "high": -30.0}, stats.truncnorm(-np.inf, -30)),
        ("truncated_normal", {"mean": 0.0, "sd": 1.0, "low": 30.0}, stats.truncnorm(30, np.inf)),
        ("truncated_normal", {"mean": 2.0, "sd": 3.0}, stats.norm(2, 3)),
        ("half_normal", EVERY["half_normal"], stats.truncnorm(0, np.inf, 0, 0.2)),
        ("lognormal", EVERY["lognormal"], stats.lognorm(0.4, scale=2.0)),
        ("beta", EVERY["beta"], stats.beta(2, 5, -1, 4)),
        ("beta", {"a": 0.3, "b": 0.6}, stats.beta(0.3, 0.6)),
        ("beta", {"a": 900.0, "b": 30.0}, stats.beta(900, 30)),
        ("empirical", HISTOGRAM, stats.rv_histogram((np.array([2, 0, 5]), HISTOGRAM["edges"]), density=False)),
    ],
)  # fmt: skip
def test_quantiles_equal_scipys_and_samples_follow_them(name: str, parameters: dict[str, Any], expected: Any) -> None:
    u = (np.floor(np.r_[1e-12, np.linspace(0.001, 0.999, 333), 1 - 1e-12] * 2**52) + 0.5) * 2.0**-52
    own = population(name, **parameters).values(u[:, None])
    np.testing.assert_allclose(own, expected.ppf(u), rtol=3e-11)
    assert (np.diff(own) >= 0).all()
    x = drawn(name, **parameters)
    assert stats.kstest(x, expected.cdf).pvalue > 1e-3
    assert x.mean() == pytest.approx(expected.mean(), abs=4.5 * expected.std() / np.sqrt(N))


def test_choices_come_with_their_weights() -> None:
    values, counts = np.unique(drawn("choice", **EVERY["choice"]), return_counts=True)
    assert list(values) == [1.5, 7.0]
    assert counts[0] == pytest.approx(N / 4, abs=4.5 * np.sqrt(N * 3 / 16))
    _, counts = np.unique(drawn("choice", values=[1.0, 2.0, 3.0]), return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_integers_include_both_ends_equally() -> None:
    values, counts = np.unique(drawn("discrete_uniform", low=-2, high=7), return_counts=True)
    assert list(values) == list(range(-2, 8))
    assert stats.chisquare(counts).pvalue > 1e-3
    assert set(drawn("discrete_uniform", low=4, high=4)) == {4}


def test_a_constant_eats_no_uniform() -> None:
    assert population("constant", value=2.0).uniforms == 0
    assert set(drawn("constant", value=2.0)) == {2.0}


def test_a_mixture_has_the_mixed_distribution() -> None:
    x = drawn("mixture", **EVERY["mixture"])
    cdf = 0.25 * stats.norm(-2, 0.5).cdf(np.sort(x)) + 0.75 * stats.uniform(0, 4).cdf(np.sort(x))
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3
    nested = population("mixture", components=(population("mixture", **EVERY["mixture"]), TWO["components"][0]))
    assert nested.uniforms == 3
    assert nested.complaint() is None


def test_tissues_are_independent_and_the_unnamed_ones_zero() -> None:
    x = drawn("per_tissue", **EVERY["per_tissue"])
    grey, csf = TISSUES.index("grey_matter"), TISSUES.index("csf")
    assert x.shape == (N, len(TISSUES))
    assert stats.kstest(x[:, grey], stats.norm(1.3, 0.1).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, csf], stats.uniform(3, 1).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x[:, grey], x[:, csf])[0, 1]) < 4.5 / np.sqrt(N)
    assert not np.delete(x, [grey, csf], axis=1).any()
    assert DISTRIBUTIONS["per_tissue"].dims == ("tissue",)


def test_several_numbers_are_independent_and_of_one_distribution() -> None:
    x = drawn("several", count=3, of=population("truncated_normal", mean=1.0, sd=0.2, low=0.9, high=1.6))
    assert x.shape[1:] == (3,)
    for column in x.T:
        right = stats.truncnorm((0.9 - 1) / 0.2, (1.6 - 1) / 0.2, 1.0, 0.2)
        assert stats.kstest(column, right.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(x.T) - np.eye(3)).max() < 5 / np.sqrt(len(x))
    mixed = population("mixture", **TWO)
    pairs = drawn("several", n=50, count=2, of=mixed)
    assert np.unique(pairs).size == 100


def test_each_distribution_gives_one_number() -> None:
    x = drawn("each", **TWO)
    assert stats.kstest(x[:, 0], stats.norm(-2.0, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 1], stats.uniform(0.0, 4.0).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x.T)[0, 1]) < 5 / np.sqrt(len(x))


def test_dirichlet_fractions_have_their_marginals_and_covariance() -> None:
    alpha = np.array(EVERY["dirichlet"]["concentration"])
    x = drawn("dirichlet", **EVERY["dirichlet"])
    np.testing.assert_allclose(x.sum(axis=1), 1.0, atol=1e-15)
    assert (x >= 0).all()
    for k, a in enumerate(alpha):
        assert stats.kstest(x[:, k], stats.beta(a, alpha.sum() - a).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.cov(x.T), stats.dirichlet(alpha).cov(), atol=2e-3)
    assert drawn("dirichlet", n=5, concentration=[2.0]).tolist() == [[1.0]] * 5


def test_multivariate_normals_have_their_mean_and_covariance() -> None:
    mean, covariance = EVERY["multivariate_normal"]["mean"], np.array(EVERY["multivariate_normal"]["covariance"])
    x = drawn("multivariate_normal", **EVERY["multivariate_normal"])
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.05)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.03)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    z = numerics.ndtri_array(Draws(11, "train", 0, N).uniform("multivariate_normal", (3,)))
    np.testing.assert_allclose(white.T, z, atol=1e-12)


SCALAR_PARAMETERS = ("uniform", "loguniform", "normal", "truncated_normal", "half_normal", "lognormal", "beta",
                     "discrete_uniform", "constant")  # fmt: skip


@pytest.mark.parametrize("name", SCALAR_PARAMETERS)
def test_a_parameter_may_be_another_draw(name: str) -> None:
    """An array of parameters gives, sample by sample, what the scalar of that sample gives."""
    n, entry = 50, DISTRIBUTIONS[name]
    u = Draws(5, "train", 0, n).uniform("x", (entry.uniforms(EVERY[name]),))
    for parameter in EVERY[name]:
        whole = entry.dtype == "int64"
        varied = EVERY[name][parameter] + (np.arange(n) % 3 if whole else 0.05 * np.linspace(0, 1, n))
        together = entry.function(u, **{**EVERY[name], parameter: varied})
        one_by_one = [entry.function(u[i : i + 1], **{**EVERY[name], parameter: varied[i]})[0] for i in range(n)]
        assert together.tobytes() == np.array(one_by_one).tobytes(), parameter
        assert len(np.unique(together - entry.function(u, **EVERY[name]))) > 1, f"{parameter} is a dead knob"


@given(st.sampled_from(sorted(EVERY)), st.integers(1, 36))
@settings(max_examples=60, deadline=None)
def test_values_do_not_depend_on_how_samples_are_grouped(name: str, cut: int) -> None:
    one = population(name, **EVERY[name])
    u = Draws(5, "train", 0, 37).uniform("x", (one.uniforms,))
    assert np.concatenate([one.values(u[:cut]), one.values(u[cut:])]).tobytes() == one.values(u).tobytes()


BOUNDED = ("uniform", "loguniform", "truncated_normal", "beta")


@given(st.sampled_from(BOUNDED), st.floats(1e-6, 1e6), st.floats(1e-9, 1e6))
@settings(max_examples=200, deadline=None)
def test_bounded_values_stay_inside(name: str, low: float, width: float) -> None:
    high = low + width
    if high <= low:
        return
    more: dict[str, Any] = {"truncated_normal": {"mean": low, "sd": width}, "beta": {"a": 2.0, "b": 0.5}}.get(name, {})
    x = population(name, low=low, high=high, **more).values(np.array([[2.0**-53], [0.5], [1 - 2.0**-53]]))
    assert low <= x.min()
    assert x.max() <= high


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("uniform", {"low": 3.0, "high": 2.0}, "low must be below high, but low is 3 and high is 2"),
        ("uniform", {"low": 3.0, "high": 3.0}, "low must be below high"),
        ("uniform", {"low": 3.0}, "needs high"),
        ("uniform", {"low": 3.0, "high": np.array([4.0, 2.0])}, "high is 2 to 4"),
        ("uniform", {"low": np.nan, "high": 1.0}, "low must be finite"),
        ("uniform", {"low": 0.0, "high": np.inf}, "high must be finite"),
        ("loguniform", {"low": 0.0, "high": 1.0}, "low must be >0"),
        ("normal", {"mean": 0.0, "sd": np.array([1.0, -1.0])}, "sd must be >0, not -1 to 1"),
        ("truncated_normal", {"mean": 0.0, "sd": 1.0, "low": 50.0, "high": 51.0}, "probability is 0"),
        ("truncated_normal", {"mean": 0.0, "sd": 1.0, "low": 2.0, "high": 1.0}, "below high"),
        ("half_normal", {"scale": 0.0}, "scale must be >0"),
        ("lognormal", {"median": -1.0, "sigma": 1.0}, "median must be >0"),
        ("beta", {"a": 0.0, "b": 1.0}, "a must be >=0.001"),
        ("beta", {"a": 1.0, "b": 1.0, "low": 2.0, "high": 1.0}, "below high"),
        ("choice", {"values": []}, "values is empty"),
        ("choice", {"values": [1.0], "weights": [0.0]}, "all 0"),
        ("choice", {"values": [1.0, 2.0], "weights": [1.0]}, "need 2 weights"),
        ("choice", {"values": [1.0, 2.0], "weights": [2.0, -1.0]}, "weights must be >=0"),
        ("discrete_uniform", {"low": 2, "high": 1}, "must not exceed"),
        ("discrete_uniform", {"low": 1.5, "high": 4}, "must be an integer"),
        ("empirical", {"edges": [0.0, 1.0], "counts": [1, 2]}, "need 3 edges"),
        ("empirical", {"edges": [0.0, 1.0, 1.0], "counts": [1, 2]}, "must increase"),
        ("empirical", {"edges": [0.0, 1.0], "counts": [0]}, "all 0"),
        ("mixture", {"components": ()}, "empty list"),
        ("mixture", {**TWO, "weights": [1.0]}, "need 2 weights"),
        ("mixture", {"components": (population("uniform", low=2.0, high=1.0),)}, "components: uniform: low must be"),
        ("mixture", {"components": (population("dirichlet", concentration=[1.0, 1.0]),)}, "draws a vector"),
        ("per_tissue", {}, "no tissue is named"),
        ("per_tissue", {"csf": population("normal", mean=0.0, sd=-1.0)}, "csf: normal: sd must be >0"),
        ("dirichlet", {"concentration": [1.0, 0.0]}, "concentration must be >="),
        ("multivariate_normal", {"mean": [0.0], "covariance": [[1.0, 0.0]]}, "1 rows of 1 numbers"),
        ("multivariate_normal", {"mean": [0.0, 0.0], "covariance": [[1.0, 0.0], [0.5, 1.0]]}, "symmetric"),
        ("multivariate_normal", {"mean": [0.0, 0.0], "covariance": [[1.0, 2.0], [2.0, 1.0]]}, "positive definite"),
        ("multivariate_normal", {"mean": [0.0, 0.0], "covariance": [[1.0, 1.0], [1.0, 1.0]]}, "positive definite"),
        ("multivariate_normal", {"mean": [0.0, 0.0], "covariance": [[1.0], [1.0, 1.0]]}, "differ in length"),
    ],
)
def test_wrong_parameters_are_named_in_a_sentence(name: str, parameters: dict[str, Any], sentence: str) -> None:
    complaint = population(name, **parameters).complaint()
    assert complaint is not None
    assert sentence in complaint
    assert complaint.startswith(name)


def test_the_table_describes_its_functions() -> None:
    assert set(EVERY) == set(DISTRIBUTIONS)
    for name, entry in DISTRIBUTIONS.items():
        assert entry.name == name
        assert entry.function.__doc__
        assert population(name, **EVERY[name]).complaint() is None
        assert set(entry.positional) <= set(entry.parameters)
        assert entry.shape(EVERY[name]) == () or len(entry.dims) == 1
        if name != "per_tissue":
            code = entry.function.__code__
            assert list(entry.parameters) == list(code.co_varnames[1 : code.co_argcount])
            given = dict(zip(reversed(entry.parameters), reversed(entry.function.__defaults__ or ()), strict=False))
            assert {p: v.default for p, v in entry.parameters.items() if v.default is not REQUIRED} == given
    assert {n for n, e in DISTRIBUTIONS.items() if e.positional} == {"uniform", "loguniform", "normal"}


def digest() -> str:
    """A hash of the bytes that every function and every distribution gives."""
    bag = sha256()
    one = Draws(1, "train", 5, 2005)
    x = one.normal("x", (7,))
    for values in (numerics.exp_array(x * 9), numerics.log_array(x * x), numerics.pow_array(x * x, x * 3),
                   numerics.sin_array(x * 1e3), numerics.cos_array(x * 1e3), special.ndtr_array(x), x):  # fmt: skip
        bag.update(values.tobytes())
    for name in sorted(EVERY):
        member = population(name, **EVERY[name])
        bag.update(member.values(one.uniform(name, (member.uniforms,))).tobytes())
    bag.update(np.concatenate([sobol(1, 4, 7, 3000), latin_hypercube(1, 10_000, 7, 3000)]).tobytes())
    return bag.hexdigest()


def test_an_avx2_machine_gives_the_same_bytes(tmp_path: Path) -> None:
    pretended = {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    run = [sys.executable, "-W", "ignore", __file__]  # NumPy warns where it has no such features to disable
    answer = subprocess.run(run, env=os.environ | pretended, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == digest()


if __name__ == "__main__":
    print(digest())
