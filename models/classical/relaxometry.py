"""Maximum likelihood maps of T1 and T2 and their Cramér-Rao bounds: the opponents of a relaxometry network.

All fits minimise the plain sum of squares (the likelihood of white Gaussian noise); times are in s. The method is the
one of Sabidussi 2021 (doi:10.1016/j.media.2021.102220): a grid, then trust-region least squares.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, diags_array, eye_array, kron
from scipy.sparse.linalg import splu

from models.classical.voxels import Curve, fit_curves, profile_curves

Floats = NDArray[np.float64]
_ROUNDS = 5  # alternations between voxel fits and the map of B
_ENOUGH_VOXELS, _ROUGHLY_ENOUGH = 8192, 1024  # determine one B
_LOW, _HIGH = 1.0, 2.0  # saturation and perfect inversion


class Series(NamedTuple):
    """Signals as rows of voxels, (voxel, n) at ascending points, and a map of their shape (its values mean nothing)."""

    rows: Floats
    points: Floats
    like: xr.DataArray

    def map(self, values: Floats, **attributes: str) -> xr.DataArray:
        """One value a voxel as a map."""
        return self.like.copy(data=values.reshape(self.like.shape)).assign_attrs(attributes)


def arrange(data: xr.Dataset, coordinate: str, least: int) -> Series:
    """Take ``signal`` of a data set apart into rows of voxels along a coordinate, and refuse what cannot be fitted.

    Raises
    ------
    ValueError
        Without the variable, the dimension or its coordinate, with fewer than ``least`` different points, with
        negative points, or with a value that is not finite.
    """
    if "signal" not in data:
        raise ValueError(f"no variable 'signal' among {list(data.data_vars)}; rename the measured one to 'signal'")
    signal = data["signal"]
    if coordinate not in signal.dims or coordinate not in signal.coords:
        what = "dimension" if coordinate not in signal.dims else "coordinate"
        raise ValueError(
            f"'signal' has the dims {tuple(signal.dims)} and no {what} '{coordinate}'; "
            f"give it one with assign_coords({coordinate}=...), in s or rad"
        )
    points = np.asarray(signal[coordinate].values, np.float64)
    if np.unique(points).size < least:
        raise ValueError(
            f"{np.unique(points).size} different values of '{coordinate}' cannot determine the fit; give >= {least}"
        )
    if not (np.isfinite(points).all() and (points >= 0).all()):
        raise ValueError(f"'{coordinate}' must be finite and >= 0, but is {points.tolist()}; use s or rad")
    values = np.asarray(signal.transpose(..., coordinate).values, np.float64)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"'signal' has {count} values that are nan or infinite; set the background to 0 first")
    order = np.argsort(points, kind="stable")
    like = signal.transpose(..., coordinate).isel({coordinate: 0}, drop=True).astype(np.float64)
    like.attrs, like.name = {}, None
    return Series(np.ascontiguousarray(values[..., order].reshape(-1, points.size)), points[order], like)


def check_range(name: str, limits: tuple[float, float]) -> None:
    """Refuse bounds of a time constant that are not 0 < low < high."""
    if not (len(limits) == 2 and 0 < limits[0] < limits[1] < np.inf):
        raise ValueError(f"{name} is {limits}, but must be (low, high) in s with 0 < low < high")


def _known(data: xr.Dataset, series: Series, efficiency: str | float) -> Floats:
    """The given efficiency as one value a voxel."""
    if isinstance(efficiency, str) and efficiency not in data:
        raise ValueError(f"no variable '{efficiency}' among {list(data.variables)}; name one or give a number")
    given = data[efficiency].astype(np.float64) if isinstance(efficiency, str) else xr.DataArray(float(efficiency))
    if not set(given.dims) <= set(series.like.dims):
        raise ValueError(
            f"efficiency has the dims {tuple(given.dims)}; those of the signal without time are {series.like.dims}"
        )
    given = given.reset_coords(drop=True).broadcast_like(series.like).transpose(*series.like.dims)
    if not np.isfinite(given.values).all():
        raise ValueError("the known efficiency has nan or infinite values; it must be finite (1 to 2 is usual)")
    return np.ascontiguousarray(given.values, np.float64).ravel()


def fit_inversion_recovery(
    data: xr.Dataset,
    *,
    efficiency: str | float | None = None,
    smoothness: float = 0.0,
    magnitude: bool = True,
    t1_range: tuple[float, float] = (0.05, 6.0),
) -> xr.Dataset:
    """Fit |A (1 - B exp(-TI / T1))| voxel by voxel by least squares, with B free, known, or smooth in space.

    Parameters
    ----------
    data : Dataset
        ``signal`` (any unit) with the dim and coordinate ``inversion_time`` in s, in any order.
    efficiency : str, float or None
        None fits B in [1, 2]; a number, or the name of a variable of ``data`` whose dims are among those of the
        signal, is the known B.
    smoothness : float, unit of signal^2
        lambda >= 0 of lambda * sum (laplacian B)^2, beside sum r^2 / 2, over the last two dims of the signal without
        time (pixel spacing 1, free boundary); every other dim numbers slices of their own. The paper's lambda stands
        beside sum r^2 / (2 sigma^2): ours is sigma^2 times it. ``np.inf`` is one value of B a slice.
    magnitude : bool
        False for signals with their sign.
    t1_range : (float, float) in s
        Bounds of T1.

    Returns
    -------
    Dataset
        ``amplitude`` (unit of the signal, >= 0), ``efficiency`` (1), ``t1`` (s) and ``cost`` (sum of squared
        residuals, without the penalty), float64, dims of the signal without time. Where A = 0 there is no signal and
        T1 is nan (and a free B too).

    Raises
    ------
    ValueError
        For a missing variable or coordinate, too few times, values that are not finite, illegal options.

    Notes
    -----
    The least squares are exact maximum likelihood for Gaussian noise added to the magnitude (values below zero may
    stay); low signal with Rician noise biases them. Limits: exact for noise-free data inside the bounds; smoothness
    -> infinity is one B a slice, smoothness = 0 a free one. The free B is nearly collinear with T1 where the
    longest TI is no longer than T1: see `bound_inversion_recovery`. The smooth B is found from the best constant of
    its slice by alternating between voxel fits with B given and a sparse solve for B with the Gauss-Newton
    curvature of the profiled cost.
    """
    check_range("t1_range", t1_range)
    if not smoothness >= 0:
        raise ValueError(f"smoothness is {smoothness}, but must be >= 0, in the unit of signal^2")
    if smoothness > 0 and efficiency is not None:
        raise ValueError("smoothness regularises a fitted efficiency; leave one of the two options out")
    series = arrange(data, "inversion_time", 2 if efficiency is not None or smoothness > 0 else 3)
    curve = Curve(1.0, True, magnitude, efficiency is None and smoothness == 0, _LOW, _HIGH, *t1_range)
    if smoothness > 0:
        if series.like.ndim < 2:
            raise ValueError(f"smoothness needs two spatial dims, but the signal has {series.like.dims} beside time")
        known = _smooth(series, curve, smoothness)
    else:
        known = None if efficiency is None else _known(data, series, efficiency)
    fitted = fit_curves(series.rows, series.points, curve, known)
    nothing = fitted[:, 0] <= 0
    fitted[nothing, 2] = np.nan
    if efficiency is None and smoothness == 0:
        fitted[nothing, 1] = np.nan
    unit = str(data["signal"].attrs.get("units", "1"))
    return xr.Dataset(
        {
            "amplitude": series.map(fitted[:, 0], units=unit),
            "efficiency": series.map(fitted[:, 1], units="1"),
            "t1": series.map(fitted[:, 2], units="s"),
            "cost": series.map(fitted[:, 3], units=f"({unit})^2"),
        }
    )


def _roughness(height: int, width: int) -> csc_array:
    """L' L of the five-point Laplacian with a free boundary, which leaves constants alone."""

    def second(n: int) -> csc_array:
        ends = np.full(n, 2.0)
        ends[0] -= 1
        ends[-1] -= 1
        return csc_array(diags_array([np.ones(n - 1), -ends, np.ones(n - 1)], offsets=[-1, 0, 1]))

    laplacian = kron(eye_array(height), second(width)) + kron(second(height), eye_array(width))
    return csc_array(laplacian.T @ laplacian)


def _constant(rows: Floats, points: Floats, curve: Curve) -> float:
    """The one B that fits a slice best: a coarse grid, then Newton's method on the cost profiled over A and T1."""
    few = rows[np.any(rows != 0, 1)]
    few = np.ascontiguousarray(few[:: 1 + len(few) // _ENOUGH_VOXELS])
    fewer = np.ascontiguousarray(few[:: 1 + len(few) // _ROUGHLY_ENOUGH])

    def fitted(some: Floats, b: float, size: int = 200) -> Floats:
        return fit_curves(some, points, curve, np.full(len(some), b), size)

    trials = np.linspace(_LOW, _HIGH, 11)
    costs = [fitted(fewer, b, size=50)[:, 3].sum() for b in trials]
    b, tried = float(trials[int(np.argmin(costs))]), {}
    for _ in range(6):
        found = fitted(few, b)
        tried[b] = found[:, 3].sum()
        slope, bend = (values.sum() for values in profile_curves(few, points, curve, found))
        goal = float(np.clip(b - slope / bend, _LOW, _HIGH)) if bend > 0 else b
        if abs(goal - b) < 1e-4:
            break
        b = goal
    if _HIGH not in tried:
        tried[_HIGH] = fitted(few, _HIGH)[:, 3].sum()
    return min(tried, key=lambda b: float(tried[b]))


def _smooth(series: Series, curve: Curve, smoothness: float) -> Floats:
    """Maps of B with a small Laplacian, one value a voxel."""
    height, width = series.like.shape[-2:]
    area = height * width
    rough = _roughness(height, width)
    out = np.empty(len(series.rows))
    for begin in range(0, len(series.rows), area):
        rows = series.rows[begin : begin + area]
        b = np.full(area, _constant(rows, series.points, curve))
        out[begin : begin + area] = _descend(rows, series.points, curve, b, smoothness, rough, max(height, width))
    return out


def _descend(
    rows: Floats, points: Floats, curve: Curve, b: Floats, smoothness: float, rough: csc_array, side: int
) -> Floats:
    """Lower the penalised cost of one slice from a constant map of B, alternating voxel fits and sparse solves."""
    slowest = 4 * (1 - np.cos(np.pi / max(side, 2))) ** 2  # the smallest eigenvalue of `rough` but for zero

    def cost(b: Floats, fitted: Floats) -> float:
        return float(fitted[:, 3].sum() / 2 + smoothness * (b @ (rough @ b)))

    fitted = fit_curves(rows, points, curve, b)
    for _ in range(_ROUNDS):
        slope, bend = profile_curves(rows, points, curve, fitted)
        if not 2 * smoothness * slowest < 1e4 * bend.mean():  # one B to four digits: more would drown in rounding
            return b
        system = csc_array(diags_array(bend) + 2 * smoothness * rough)
        goal = np.clip(splu(system, permc_spec="MMD_AT_PLUS_A").solve(bend * b - slope), _LOW, _HIGH)
        for _ in range(4):  # the profiled cost has kinks: a step that does not pay is halved
            trial = fit_curves(rows, points, curve, goal)
            if cost(goal, trial) < cost(b, fitted):
                break
            goal = (goal + b) / 2
        else:
            return b
        b, fitted = goal, trial
    return b


def fit_inversion_recovery_general(data: xr.Dataset, *, t1_range: tuple[float, float] = (0.05, 6.0)) -> xr.Dataset:
    """Fit |a + b exp(-TI / T1)| with a and b of any size, as needed where the repetition time is not long.

    Parameters
    ----------
    data : Dataset
        ``signal`` (any unit) with the dim and coordinate ``inversion_time`` in s, in any order.
    t1_range : (float, float) in s
        Bounds of T1.

    Returns
    -------
    Dataset
        ``a``, ``b`` (unit of the signal), ``t1`` (s) and ``cost`` (sum of squared residuals). The common sign of a and
        b, which magnitudes do not show, is the one with a >= 0: recovery ends above zero. T1 is nan where a = b = 0.

    Raises
    ------
    ValueError
        For a missing variable or coordinate, fewer than three times, values that are not finite.

    Notes
    -----
    Model of Barral 2010, doi:10.1002/mrm.22497. Limit: a long repetition time and a B in [1, 2] make a = A, b = -A B of
    `fit_inversion_recovery`.
    """
    check_range("t1_range", t1_range)
    series = arrange(data, "inversion_time", 3)
    fitted = fit_curves(series.rows, series.points, Curve(1.0, False, True, True, -np.inf, np.inf, *t1_range))
    sign = np.where(fitted[:, 0] < 0, -1.0, 1.0)
    t1 = np.where((fitted[:, 0] == 0) & (fitted[:, 1] == 0), np.nan, fitted[:, 2])
    unit = str(data["signal"].attrs.get("units", "1"))
    return xr.Dataset(
        {
            "a": series.map(sign * fitted[:, 0], units=unit),
            "b": series.map(-sign * fitted[:, 1], units=unit),
            "t1": series.map(t1, units="s"),
            "cost": series.map(fitted[:, 3], units=f"({unit})^2"),
        }
    )


def fit_t2_decay(data: xr.Dataset, *, t2_range: tuple[float, float] = (0.005, 6.0)) -> xr.Dataset:
    """Fit A exp(-TE / T2) voxel by voxel by least squares.

    Parameters
    ----------
    data : Dataset
        ``signal`` (any unit) with the dim and coordinate ``echo_time`` in s, in any order.
    t2_range : (float, float) in s
        Bounds of T2.

    Returns
    -------
    Dataset
        ``amplitude`` (unit of the signal, >= 0), ``t2`` (s; nan where A = 0) and ``cost`` (sum of squared residuals).

    Raises
    ------
    ValueError
        For a missing variable or coordinate, fewer than two times, values that are not finite.

    Notes
    -----
    Limit: exact for noise-free data inside the bounds. Model as in doi:10.1016/j.media.2021.102220.
    """
    check_range("t2_range", t2_range)
    series = arrange(data, "echo_time", 2)
    curve = Curve(0.0, True, True, False, -1.0, 1.0, *t2_range)
    fitted = fit_curves(series.rows, series.points, curve, np.full(len(series.rows), -1.0))
    unit = str(data["signal"].attrs.get("units", "1"))
    return xr.Dataset(
        {
            "amplitude": series.map(fitted[:, 0], units=unit),
            "t2": series.map(np.where(fitted[:, 0] > 0, fitted[:, 2], np.nan), units="s"),
            "cost": series.map(fitted[:, 3], units=f"({unit})^2"),
        }
    )


def bound_inversion_recovery(
    amplitude: ArrayLike,
    efficiency: ArrayLike,
    t1: ArrayLike,
    inversion_time: ArrayLike,
    sigma: ArrayLike,
    *,
    known_efficiency: bool = False,
    prior: tuple[float, float] | None = None,
) -> Floats:
    """Cramér-Rao lower bound of the standard deviation of T1 (s) from |A (1 - B exp(-TI / T1))| in Gaussian noise.

    Parameters
    ----------
    amplitude, efficiency, t1, sigma : array, shapes that broadcast
        A and sigma in the unit of the signal, B (1), T1 in s.
    inversion_time : array in s, shape (n,)
    known_efficiency : bool
        Whether B is known; else it is a third unknown.
    prior : (float, float), optional
        Standard deviations of A (unit of the signal) and T1 (s) of a normal prior, whose 1 / sd^2 joins the Fisher
        matrix: the Bayesian bound of someone who knows the tissue's means.

    Returns
    -------
    float64, the broadcast shape
        Infinite or nan where the times determine nothing (A = 0).

    Notes
    -----
    Holds for unbiased estimators and small noise (the absolute value is smooth but at its null). Limits: proportional
    to sigma / A without a prior; a large sigma leaves the prior's standard deviation of T1.
    doi:10.1016/j.media.2021.102220
    """
    a, b, t, s = (np.asarray(x, np.float64) for x in np.broadcast_arrays(amplitude, efficiency, t1, sigma))
    time = np.asarray(inversion_time, np.float64)
    more = (0.0, 0.0) if prior is None else (s * s / prior[0] ** 2, s * s / prior[1] ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        e = np.exp(-time / t[..., None])
        d0, d1 = 1 - b[..., None] * e, -a[..., None] * e
        d2 = d1 * b[..., None] * time / t[..., None] ** 2
        h00, h01, h02 = (d0 * d0).sum(-1) + more[0], (d0 * d1).sum(-1), (d0 * d2).sum(-1)
        left = (d2 * d2).sum(-1) + more[1] - h02 * h02 / h00
        if not known_efficiency:
            cross = (d1 * d2).sum(-1) - h01 * h02 / h00
            left = left - cross * cross / ((d1 * d1).sum(-1) - h01 * h01 / h00)
        return np.asarray(s / np.sqrt(left))


def bound_t2_decay(amplitude: ArrayLike, t2: ArrayLike, echo_time: ArrayLike, sigma: ArrayLike) -> Floats:
    """Cramér-Rao lower bound of the standard deviation of T2 (s) from A exp(-TE / T2) in Gaussian noise.

    Parameters
    ----------
    amplitude, t2, sigma : array, shapes that broadcast
        A and sigma in the unit of the signal, T2 in s.
    echo_time : array in s, shape (n,)

    Returns
    -------
    float64, the broadcast shape

    Notes
    -----
    Limit: proportional to sigma / A. doi:10.1016/j.media.2021.102220
    """
    a, t, s = (np.asarray(x, np.float64) for x in np.broadcast_arrays(amplitude, t2, sigma))
    time = np.asarray(echo_time, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        d0 = np.exp(-time / t[..., None])
        d1 = a[..., None] * d0 * time / t[..., None] ** 2
        left = (d1 * d1).sum(-1) - (d0 * d1).sum(-1) ** 2 / (d0 * d0).sum(-1)
        return np.asarray(s / np.sqrt(left))
