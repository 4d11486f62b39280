"""The distributions that a recipe may draw from: each is a quantile function, uniforms in, values out.

`DISTRIBUTIONS` is the whole list. A quantile function is monotone in its uniform and pure, so a draw is addressed,
can be placed on a Sobol or Latin-hypercube design, and moves smoothly when a parameter moves. Every function takes
``u`` of shape (n, k), k being the number of uniforms that the distribution eats, and returns (n,) or, for a vector,
(n, d). Scalar parameters may be floats or arrays of shape (n,), one entry a sample: that is how one draw depends on
another.

To add a distribution: write its function and its complaint, and add a line to the table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from factory.numerics import exp_array, log_array, ndtri_array
from factory.special import beta_quantile_array, ndtr_array
from factory.units import TISSUES

Array = npt.NDArray[Any]
Real = float | Array
Kind = Literal["quantity", "number", "integer", "count", "quantities", "numbers", "matrix", "distribution",
               "distributions"]
REQUIRED: Any = object()


@dataclass(frozen=True)
class Parameter:
    """One named parameter of a distribution.

    ``kind`` says what a recipe may write there:

    - "quantity", "quantities": one value, or a list of values, in the unit of the drawn variable;
    - "number", "numbers": the same without a unit;
    - "integer": an integer without a unit;
    - "count": a number of entries, which no draw may stand for;
    - "matrix": a list of lists of plain numbers in the square of the variable's internal unit;
    - "distribution", "distributions": nested distributions, handed over as `Population`.

    ``bounds`` are texts such as ">0" that every entry must satisfy. An earlier draw may stand for a "quantity", a
    "number" or an "integer" only. ``REQUIRED`` is the default of a parameter that has none.
    """

    kind: Kind
    default: Any = REQUIRED
    bounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distribution:
    """A quantile function and what a recipe has to know about it.

    ``uniforms(parameters)`` is the number of uniforms a sample eats, ``shape(parameters)`` the shape of one value: ()
    or (d,). ``dims`` names the dimension of a vector. ``complaint(parameters)`` is a sentence that says what is wrong
    with parameters of the right kinds, or None; it takes constants and per-sample arrays alike, and parameters that
    are left out count as their defaults.
    """

    name: str
    function: Callable[..., Array]
    parameters: Mapping[str, Parameter]
    positional: tuple[str, ...] = ()
    relation: Callable[..., str | None] = lambda **_: None
    uniforms: Callable[[Mapping[str, Any]], int] = lambda _: 1
    shape: Callable[[Mapping[str, Any]], tuple[int, ...]] = lambda _: ()
    dims: tuple[str, ...] = ()
    dtype: str = "float64"

    def complaint(self, parameters: Mapping[str, Any]) -> str | None:
        """What is wrong with these parameters, as a sentence; None when nothing is."""
        given = {name: p.default for name, p in self.parameters.items() if p.default is not REQUIRED} | dict(parameters)
        for name, parameter in self.parameters.items():
            if name not in given:
                return f"{self.name} needs {name}"
            fault = _fault_of_entry(name, parameter, given[name])
            if fault:
                return f"{self.name}: {fault}"
        fault = self.relation(**given)
        return f"{self.name}: {fault}" if fault else None


@dataclass(frozen=True)
class Population:
    """A distribution with its parameters: what a nested distribution is handed over as."""

    distribution: Distribution
    parameters: Mapping[str, Any]

    @property
    def uniforms(self) -> int:
        """Uniforms that one sample eats."""
        return self.distribution.uniforms(self.parameters)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        return self.distribution.shape(self.parameters)

    def values(self, u: Array) -> Array:
        """Values at the uniforms ``u``, shape (n, uniforms) -> (n, *shape)."""
        return self.distribution.function(u, **self.parameters)

    def complaint(self) -> str | None:
        """What is wrong with the parameters; None when nothing is."""
        return self.distribution.complaint(self.parameters)


# --------------------------------------------------------------------------------------------------
# faults


def _shown(value: Any) -> str:
    array = np.asarray(value)
    return f"{float(array):g}" if array.ndim == 0 else f"{array.min():g} to {array.max():g}"


def _fault_of_entry(name: str, parameter: Parameter, value: Any) -> str | None:
    """What is wrong with one parameter by itself."""
    if parameter.kind in ("distribution", "distributions"):
        nested = [value] if parameter.kind == "distribution" else value
        for population in nested:
            if population is not None and (population.complaint() or population.shape):
                return f"{name}: " + (population.complaint() or f"{population.distribution.name} draws a vector")
        return "an empty list of distributions" if not list(nested) else None
    if value is None:
        return None
    if parameter.kind == "matrix" and len({len(row) for row in value}) > 1:
        return f"the rows of {name} differ in length"
    array = np.asarray(value, dtype=np.float64)
    if array.size == 0 and parameter.kind in ("quantities", "numbers", "matrix"):
        return f"{name} is empty"
    if np.isnan(array).any() or (np.isinf(array).any() and not _is_infinite(parameter.default)):
        return f"{name} must be finite"
    if parameter.kind in ("integer", "count") and not np.all(array == np.floor(array)):
        return f"{name} must be an integer, not {_shown(value)}"
    for bound in parameter.bounds:
        if not np.all(_within(array, bound)):
            return f"{name} must be {bound}, not {_shown(value)}"
    return None


def _is_infinite(default: Any) -> bool:
    return isinstance(default, float) and default in (np.inf, -np.inf)


def _within(array: Array, bound: str) -> Array:
    if bound.startswith(">="):
        return array >= float(bound[2:])
    if bound.startswith(">"):
        return array > float(bound[1:])
    if bound.startswith("<="):
        return array <= float(bound[2:])
    return array < float(bound[1:])


def _not_below(low: Real, high: Real) -> str | None:
    """A complaint unless low < high in every sample."""
    below = np.less(low, high)
    if np.all(below):
        return None
    return f"low must be below high, but low is {_shown(low)} and high is {_shown(high)}"


def _bad_weights(weights: Sequence[float] | None, n: int, what: str) -> str | None:
    if weights is None:
        return None
    if len(weights) != n:
        return f"{n} {what} need {n} weights, not {len(weights)}"
    return None if sum(weights) > 0 else "the weights are all 0"


# --------------------------------------------------------------------------------------------------
# one number


def _stretched(x: Array, low: Real, high: Real) -> Array:
    """From [0, 1] to [low, high]; the sum may round to one ulp above high, hence the minimum."""
    return np.asarray(np.minimum(low + np.subtract(high, low) * x, high))


def uniform(u: Array, low: Real, high: Real) -> Array:
    """Equally likely between low and high."""
    return _stretched(u[:, 0], low, high)


def loguniform(u: Array, low: Real, high: Real) -> Array:
    """Every factor equally likely: the logarithm is uniform between those of low and high, both above 0."""
    x = low * exp_array(u[:, 0] * log_array(np.divide(high, low)))
    return np.clip(x, low, high)  # exp and log round: without the clip a value may leave the interval by one ulp


def normal(u: Array, mean: Real, sd: Real) -> Array:
    """Gaussian with this mean and standard deviation."""
    return np.asarray(mean + sd * ndtri_array(u[:, 0]))


def _truncated_probabilities(mean: Real, sd: Real, low: Real, high: Real) -> tuple[Array, Array, Array]:
    """Where the interval is mirrored, and the probabilities below its two ends, both in the lower tail where
    possible.
    """
    a, b = np.asarray(np.subtract(low, mean) / sd), np.asarray(np.subtract(high, mean) / sd)
    mirrored = np.asarray(a > -b)
    return mirrored, ndtr_array(np.where(mirrored, -b, a)), ndtr_array(np.where(mirrored, -a, b))


def truncated_normal(u: Array, mean: Real, sd: Real, low: Real = -np.inf, high: Real = np.inf) -> Array:
    """A Gaussian (mean and sd are those before the cut) given that it lies between low and high; one end may be
    missing.
    """
    mirrored, below, above = _truncated_probabilities(mean, sd, low, high)
    v = np.where(mirrored, 1.0 - u[:, 0], u[:, 0])
    z = ndtri_array(below + (above - below) * v)
    return np.clip(mean + sd * np.where(mirrored, -z, z), low, high)


def _truncated_relation(mean: Real, sd: Real, low: Real, high: Real) -> str | None:
    fault = _not_below(low, high)
    if fault:
        return fault
    _, below, above = _truncated_probabilities(mean, sd, low, high)
    if np.all(above > below):
        return None
    return f"the interval from {_shown(low)} to {_shown(high)} lies so far from the mean that its probability is 0"


def half_normal(u: Array, scale: Real) -> Array:
    """The absolute value of a Gaussian around 0 whose standard deviation is ``scale`` (its own mean is 0.798
    scale).
    """
    return np.asarray(scale * -ndtri_array(0.5 * (1.0 - u[:, 0])))


def lognormal(u: Array, median: Real, sigma: Real) -> Array:
    """Its natural logarithm is Gaussian around log(median) with standard deviation sigma (a plain number)."""
    return np.asarray(median * exp_array(sigma * ndtri_array(u[:, 0])))


def beta(u: Array, a: Real, b: Real, low: Real = 0.0, high: Real = 1.0) -> Array:
    """Beta distribution with the shapes a and b, stretched from [0, 1] to [low, high]."""
    return _stretched(beta_quantile_array(u[:, 0], a, b), low, high)


def _beta_relation(a: Real, b: Real, low: Real, high: Real) -> str | None:
    return _not_below(low, high)


def _cumulative(weights: Sequence[float] | None, n: int) -> Array:
    """The upper ends of the shares that add up to 1; equal shares without weights."""
    total = np.cumsum(np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64))
    return np.asarray(total / total[-1])


def _pick(u: Array, weights: Sequence[float] | None, n: int) -> Array:
    """Which of n shares each uniform falls into. A share of weight 0 is never picked: its two ends are equal."""
    return np.searchsorted(_cumulative(weights, n), u, side="right")


def choice(u: Array, values: Sequence[float], weights: Sequence[float] | None = None) -> Array:
    """One of the listed values, equally likely or with the given relative weights."""
    return np.asarray(values, dtype=np.float64)[_pick(u[:, 0], weights, len(values))]


def discrete_uniform(u: Array, low: Real, high: Real) -> Array:
    """An integer from low to high, both included, equally likely. int64."""
    low, high = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
    return np.asarray(low + np.minimum(np.floor((high - low + 1) * u[:, 0]).astype(np.int64), high - low))


def _integers_relation(low: Real, high: Real) -> str | None:
    if np.all(np.less_equal(low, high)):
        return None
    return f"low must not exceed high, but low is {_shown(low)} and high is {_shown(high)}"


def constant(u: Array, value: Real) -> Array:
    """Always this value."""
    return np.broadcast_to(np.asarray(value, dtype=np.float64), u.shape[:1]).copy()


def empirical(u: Array, edges: Sequence[float], counts: Sequence[float]) -> Array:
    """A histogram: bin k, from edges[k] to edges[k + 1], holds counts[k]; equally likely within a bin."""
    ends = np.asarray(edges, dtype=np.float64)
    upper = _cumulative(counts, len(counts))
    lower = np.concatenate([[0.0], upper[:-1]])
    k = np.searchsorted(upper, u[:, 0], side="right")
    return np.asarray(ends[k] + (ends[k + 1] - ends[k]) * ((u[:, 0] - lower[k]) / (upper[k] - lower[k])))


def _empirical_relation(edges: Sequence[float], counts: Sequence[float]) -> str | None:
    if len(edges) != len(counts) + 1:
        return f"{len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}"
    if not np.all(np.diff(np.asarray(edges, dtype=np.float64)) > 0):
        return "the edges must increase"
    return None if np.sum(counts) > 0 else "the counts are all 0"


# --------------------------------------------------------------------------------------------------
# made of others


def mixture(u: Array, components: Sequence[Population], weights: Sequence[float] | None = None) -> Array:
    """One of several distributions, equally likely or with the given relative weights. The first uniform picks."""
    picked = _pick(u[:, 0], weights, len(components))
    drawn = [c.values(u[:, 1 : 1 + c.uniforms]).astype(np.float64, copy=False) for c in components]
    return np.take_along_axis(np.stack(drawn, axis=1), picked[:, None], axis=1)[:, 0]


def per_tissue(u: Array, **populations: Population | None) -> Array:
    """One independent number for every tissue, 0 for a tissue that is not named. Shape (n, tissue), in the order of
    TISSUES.
    """
    out, first = np.zeros((u.shape[0], len(TISSUES))), 0
    for code, tissue in enumerate(TISSUES):
        population = populations.get(tissue)
        if population is not None:
            out[:, code] = population.values(u[:, first : first + population.uniforms])
            first += population.uniforms
    return out


def _tissue_relation(**populations: Population | None) -> str | None:
    return None if any(p is not None for p in populations.values()) else "no tissue is named"


# --------------------------------------------------------------------------------------------------
# vectors


def several(u: Array, count: int, of: Population) -> Array:
    """As many independent numbers of one distribution, shape (n, count): peaks of a spectrum, pools, lesions."""
    return of.values(u.reshape(-1, of.uniforms)).reshape(len(u), count)


def each(u: Array, components: Sequence[Population]) -> Array:
    """One independent number of every distribution, shape (n, component): exchanging pools, coils."""
    out, first = np.empty((u.shape[0], len(components))), 0
    for k, component in enumerate(components):
        out[:, k] = component.values(u[:, first : first + component.uniforms])
        first += component.uniforms
    return out


def dirichlet(u: Array, concentration: Sequence[float]) -> Array:
    """Fractions that add up to 1, shape (n, d): a stick is broken d - 1 times, each time at a beta quantile of the
    rest.
    """
    alpha = [float(a) for a in concentration]
    out, rest = np.empty((u.shape[0], len(alpha))), np.ones(u.shape[0])
    for k in range(len(alpha) - 1):
        piece = beta_quantile_array(u[:, k], alpha[k], sum(alpha[k + 1 :]))
        out[:, k] = rest * piece
        rest = rest * (1.0 - piece)
    out[:, -1] = rest
    return out


def _cholesky(covariance: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """The lower triangle L with L L^T = covariance, or None where there is none. By hand: LAPACK's bytes depend on
    the machine.
    """
    n = len(covariance)
    root = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = float(covariance[i][j])
            for k in range(j):
                rest -= root[i][k] * root[j][k]
            if i == j and not rest > 1e-14 * abs(float(covariance[i][i])):
                return None
            root[i][j] = sqrt(rest) if i == j else rest / root[j][j]
    return root


def multivariate_normal(u: Array, mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> Array:
    """Correlated Gaussians, shape (n, d). The k-th value depends on the first k uniforms only."""
    root, z = _cholesky(covariance), ndtri_array(u)
    if root is None:
        raise ValueError(_covariance_relation(mean, covariance))
    out = np.empty((u.shape[0], len(mean)))
    for i in range(len(mean)):
        x = mean[i] + root[i][0] * z[:, 0]
        for j in range(1, i + 1):
            x = x + root[i][j] * z[:, j]
        out[:, i] = x
    return out


def _covariance_relation(mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> str | None:
    n = len(mean)
    if len(covariance) != n or any(len(row) != n for row in covariance):
        return f"{n} means need a covariance of {n} rows of {n} numbers"
    if any(covariance[i][j] != covariance[j][i] for i in range(n) for j in range(i)):
        return "the covariance must be symmetric"
    return None if _cholesky(covariance) is not None else "the covariance must be positive definite"


# --------------------------------------------------------------------------------------------------
# the table


def _nested_uniforms(parameters: Mapping[str, Any]) -> int:
    return sum(p.uniforms for p in parameters.values() if p is not None)


_INTERVAL = {"low": Parameter("quantity"), "high": Parameter("quantity")}
_POSITIVE_INTERVAL = {name: Parameter("quantity", bounds=(">0",)) for name in ("low", "high")}
_CUTS = {"low": Parameter("quantity", -np.inf), "high": Parameter("quantity", np.inf)}
_GAUSS = {"mean": Parameter("quantity"), "sd": Parameter("quantity", bounds=(">0",))}
_WEIGHTS = Parameter("numbers", None, (">=0",))
_SHAPE = Parameter("number", bounds=(">=0.001", "<=1000000"))
_ENDS = {"low": Parameter("quantity", 0.0), "high": Parameter("quantity", 1.0)}
_INTEGERS = {name: Parameter("integer", bounds=(">=-1e15", "<=1e15")) for name in ("low", "high")}

_ENTRIES = (
    Distribution("uniform", uniform, _INTERVAL, ("low", "high"), _not_below),
    Distribution("loguniform", loguniform, _POSITIVE_INTERVAL, ("low", "high"), _not_below),
    Distribution("normal", normal, _GAUSS, ("mean", "sd")),
    Distribution("truncated_normal", truncated_normal, _GAUSS | _CUTS, relation=_truncated_relation),
    Distribution("half_normal", half_normal, {"scale": Parameter("quantity", bounds=(">0",))}),
    Distribution("lognormal", lognormal, {
        "median": Parameter("quantity", bounds=(">0",)), "sigma": Parameter("number", bounds=(">0",)),
    }),
    Distribution("beta", beta, {"a": _SHAPE, "b": _SHAPE} | _ENDS, relation=_beta_relation),
    Distribution("choice", choice, {"values": Parameter("quantities"), "weights": _WEIGHTS},
                 relation=lambda values, weights: _bad_weights(weights, len(values), "values")),
    Distribution("discrete_uniform", discrete_uniform, _INTEGERS, relation=_integers_relation, dtype="int64"),
    Distribution("constant", constant, {"value": Parameter("quantity")}, uniforms=lambda _: 0),
    Distribution("empirical", empirical, {
        "edges": Parameter("quantities"), "counts": Parameter("numbers", bounds=(">=0",)),
    }, relation=_empirical_relation),
    Distribution("mixture", mixture, {"components": Parameter("distributions"), "weights": _WEIGHTS},
                 relation=lambda components, weights: _bad_weights(weights, len(components), "components"),
                 uniforms=lambda p: 1 + max(c.uniforms for c in p["components"])),
    Distribution("per_tissue", per_tissue, {tissue: Parameter("distribution", None) for tissue in TISSUES},
                 relation=_tissue_relation, uniforms=_nested_uniforms, shape=lambda _: (len(TISSUES),),
                 dims=("tissue",)),
    Distribution("several", several, {
        "count": Parameter("count", bounds=(">=1", "<=10000")), "of": Parameter("distribution"),
    }, uniforms=lambda p: p["count"] * p["of"].uniforms, shape=lambda p: (p["count"],), dims=("entry",)),
    Distribution("each", each, {"components": Parameter("distributions")},
                 uniforms=lambda p: sum(c.uniforms for c in p["components"]), shape=lambda p: (len(p["components"]),),
                 dims=("component",)),
    Distribution("dirichlet", dirichlet, {"concentration": Parameter("numbers", bounds=(">=0.001", "<=10000"))},
                 uniforms=lambda p: len(p["concentration"]) - 1, shape=lambda p: (len(p["concentration"]),),
                 dims=("component",)),
    Distribution("multivariate_normal", multivariate_normal, {
        "mean": Parameter("quantities"), "covariance": Parameter("matrix"),
    }, relation=_covariance_relation, uniforms=lambda p: len(p["mean"]), shape=lambda p: (len(p["mean"]),),
                 dims=("component",)),
)  # fmt: skip
DISTRIBUTIONS: dict[str, Distribution] = {entry.name: entry for entry in _ENTRIES}
