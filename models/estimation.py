"""Maps of T1 or T2 of a measured series, by a trained network or by a maximum likelihood fit.

A network has learned signals in which the proton density of cerebrospinal fluid is 1, so a series is scaled before and
its amplitude scaled back.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from factory.recipe import load as load_recipe
from models import weights as stored
from models.cards import Row, System, TrainingError, listed, systems

Array = NDArray[Any]
Track = Callable[[Sequence[int]], Iterable[int]]
Method = Callable[[xr.DataArray, Array], Mapping[str, Array]]  # signal (time, y, x), where (y, x) -> maps (y, x)

METHODS = ("network", "mle", "mle-general")
AIR = 0.1  # of the highest signal: less is no foreground
SIGNED = 0.01  # of all values of the foreground: more below -AIR are no magnitudes
LEAST = {"inversion_time": 3, "echo_time": 2}  # different times
SECONDS, LINEAR = ("t1", "t2"), ("amplitude", "a", "b")  # maps in s, and those in the unit of the signal
LONG_REPETITION = "; the repetition time is assumed to be long (about five times T1)"
MODELS = {
    "inversion_time": "|A (1 - B exp(-TI / T1))|" + LONG_REPETITION,
    "echo_time": "|A exp(-TE / T2)|",
    "mle-general": "|a + b exp(-TI / T1)|, for any repetition time",
}


@dataclass(frozen=True)
class Estimator:
    """A method that is ready for a series.

    Attributes
    ----------
    coordinate : str
        "inversion_time" or "echo_time".
    times : tuple of float
        In s, in the order of the images.
    facts : dict
        What maps.json tells: system, method, model, weights.
    warnings : tuple of str
        What may be wrong with these times.
    """

    coordinate: str
    times: tuple[float, ...]
    facts: Mapping[str, Any]
    warnings: tuple[str, ...]
    method: Method
    scaled: bool

    def maps(self, data: xr.Dataset, track: Track = iter) -> xr.Dataset:
        """Maps (slice, y, x) of a series, slice by slice; see `estimate`."""
        signal = data["signal"].transpose("slice", self.coordinate, "y", "x")
        if not np.array_equal(signal[self.coordinate].to_numpy(), self.times):
            raise TrainingError(f"the series has other times than {self.times} s, for which this was made ready.")
        peak = signal.max(self.coordinate)
        inside = foreground(peak) if "mask" not in data else data["mask"].transpose(*peak.dims).astype(bool)
        scale = float(np.percentile(peak.to_numpy()[inside.to_numpy()], 99)) if inside.any() else 0.0
        if not scale > 0:
            raise TrainingError("the series holds no positive signal (inside the mask); look at the images.")
        found: dict[str, Array] = {}
        for k in track(range(signal.sizes["slice"])):
            chosen = inside.to_numpy()[k] if "mask" in data else np.ones(signal.shape[2:], bool)
            if not chosen.any():
                continue
            made = self.method(signal[k] / scale if self.scaled else signal[k], chosen)
            for name, values in made.items():
                values = values * scale if name in LINEAR and self.scaled else values
                out = found.setdefault(name, np.full(peak.shape, np.nan, np.float32))
                out[k] = np.where(chosen, values, np.nan)
        variables = {
            name: (peak.dims, values, {"units": "s" if name in SECONDS else "1"}) for name, values in found.items()
        }
        attributes = {"times": {"values": list(self.times), "unit": "s"}, "coordinate": self.coordinate, "scale": scale}
        said = {"masked": "mask" in data, "warnings": [*self.warnings, *signed(signal, inside, scale)]}
        maps = xr.Dataset(variables, attrs=dict(data.attrs) | dict(self.facts) | attributes | said)
        return maps.assign_coords(inside=(peak.dims, inside.to_numpy()))


def estimate(
    system: str | System,
    data: xr.Dataset,
    weights: str | os.PathLike[str] | None = None,
    *,
    method: str = "network",
    efficiency: float | None = None,
    track: Track = iter,
) -> xr.Dataset:
    """Maps of a series.

    Parameters
    ----------
    system : str or System
        Says what is mapped: rim_t1 or rim_t2.
    data : Dataset
        As `factory.series.read_series` returns it: ``signal`` (slice, time, y, x) in any unit, and if there is one,
        a ``mask`` (slice, y, x).
    weights : path-like, optional
        Of the network; those that ship with the package if not given.
    method : str
        "network"; "mle", a fit of the same model voxel by voxel; or "mle-general", a fit for any repetition time.
    efficiency : float, optional
        The known inversion efficiency B of "mle", which is fitted if not given.
    track : callable
        Goes through the slices and shows how far it is, as rich.progress.track does.

    Returns
    -------
    Dataset
        ``amplitude`` (unit of the signal), ``efficiency``, ``t1`` or ``t2`` (s), or ``a``, ``b``, ``t1``; (slice, y,
        x), NaN outside of the mask. The coordinate ``inside`` is the mask, or if there is none the foreground: more
        than a tenth of the highest signal. Attributes: those of ``data`` and what maps.json tells.

    Raises
    ------
    TrainingError
        The system, the method, the weights or the times do not go together.

    Notes
    -----
    The network's series is scaled so that the 99th percentile of its maximum over time, over the foreground, is 1.
    """
    known = systems()
    if isinstance(system, str) and system not in known:
        raise TrainingError(f"there is no system {system!r}; there are {listed(known)}.")
    card = known[system] if isinstance(system, str) else system
    coordinate = coordinate_of(card)
    if "signal" not in data or coordinate not in data["signal"].coords:
        raise TrainingError(f"{card.name} needs a variable signal with a coordinate {coordinate} in s (read_series).")
    times = data["signal"][coordinate].to_numpy().tolist()
    return estimator(card, times, weights, method=method, efficiency=efficiency).maps(data, track)


def estimator(
    card: System,
    times: Sequence[float],
    weights: str | os.PathLike[str] | None = None,
    *,
    method: str = "network",
    efficiency: float | None = None,
) -> Estimator:
    """Make a method ready for times in s: everything is checked, nothing computed; see `estimate`."""
    coordinate, times = coordinate_of(card), tuple(float(time) for time in times)
    check(coordinate, times, weights, method, efficiency)
    facts: dict[str, Any] = {"system": card.name, "method": method, "model": MODELS[coordinate]}
    if method != "network":
        if efficiency is not None:
            facts["known_efficiency"] = efficiency
        facts["model"] = MODELS.get(method, facts["model"])
        return Estimator(coordinate, times, facts, (), fit_of(coordinate, times, method, efficiency), scaled=False)
    path = Path(stored.shipped(card.name) if weights is None else weights)
    told = stored.read(path)[1]
    shapes = {name: tuple(shape) for name, shape in stored.as_mapping(told.get("shapes")).items()}
    task = stored.load(card, path, shapes=shapes | {"signal": (len(times), 1, 1), coordinate: (len(times),)})
    stage = stored.number_of_stage(card, told, path)
    warnings = compared(times, learned_times(card.stages[stage].recipe, coordinate), coordinate, task, card)
    facts["weights"] = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | told

    def network(signal: xr.DataArray, chosen: Array) -> dict[str, Array]:  # it sees what lies around a mask
        batch = {
            "signal": torch.from_numpy(signal.to_numpy().astype(np.float32))[None],
            coordinate: torch.tensor(times, dtype=torch.float32),
        }
        with torch.inference_mode():
            return {name: values[0].numpy() for name, values in task.predict(batch).items()}

    return Estimator(coordinate, times, facts, warnings, network, scaled=True)


def check(
    coordinate: str,
    times: tuple[float, ...],
    weights: object,
    method: str,
    efficiency: float | None,
) -> None:
    """Refuse options that do not go together, and times that determine nothing."""
    if method not in METHODS:
        raise TrainingError(f"there is no method {method!r}; there are {listed(METHODS)}.")
    if method == "mle-general" and coordinate != "inversion_time":
        raise TrainingError("mle-general fits inversion recoveries only; use mle.")
    if method != "network" and weights is not None:
        raise TrainingError(f"weights belong to a network, but the method is {method}; leave one of them out.")
    if efficiency is not None:
        if method != "mle" or coordinate != "inversion_time":
            raise TrainingError("a known efficiency needs an inversion recovery and the method mle.")
        if not 0 < efficiency <= 2:
            raise TrainingError(f"the efficiency is {efficiency:g}, but lies in (0, 2]: 2 inverts perfectly.")
    least = LEAST[coordinate] - (efficiency is not None)
    if len(set(times)) < least:
        what = coordinate.replace("_", " ")
        raise TrainingError(f"{len(set(times))} different {what}s determine no map; {least} or more are needed.")


def coordinate_of(card: System) -> str:
    """The time that a system's images differ in; refuses one that does not read such images."""
    reads = card.stages[-1].reads
    found = [name for name in LEAST if set(reads) == {"signal", name}]
    if not found:
        wanted = [{"signal", time} for time in LEAST]
        able = [name for name, one in systems().items() if set(one.stages[-1].reads) in wanted]
        raise TrainingError(
            f"{card.name} reads {listed(reads)}, not images at several times; {listed(able)} make maps of those."
        )
    return found[0]


def learned_times(recipe: str, coordinate: str) -> tuple[float, ...]:
    """The times of a recipe, none if it has no such constant."""
    plan = next(iter(load_recipe(recipe).splits.values()))
    found = [link.constants[coordinate] for link in plan.chain if coordinate in link.constants]
    return tuple(float(time) for time in found[0]) if found else ()


def compared(
    times: tuple[float, ...], learned: tuple[float, ...], coordinate: str, task: object, card: System
) -> tuple[str, ...]:
    """Warnings about times that a network has not learned; refuses them where it does not look at the times."""
    if not learned:
        return ()
    what, source = coordinate.replace("_", " "), f"of the recipe {card.stages[-1].recipe}"
    if getattr(task, "time", None) != coordinate and not np.allclose(times, learned, rtol=1e-3, atol=0):
        raise TrainingError(f"{card.name} works at the {what}s {source} only, in their order; use a RIM or mle.")
    low, high = min(learned), max(learned)
    if low * 0.99 <= min(times) and max(times) <= high * 1.01:
        return ()
    return (
        f"the {what}s reach from {min(times):g} s to {max(times):g} s, but those {source} only from {low:g} s to "
        f"{high:g} s; where these weights have learned no others, compare the maps with --method mle",
    )


def fit_of(coordinate: str, times: tuple[float, ...], method: str, efficiency: float | None) -> Method:
    """A maximum likelihood fit of one slice."""
    fits = importlib.import_module("models.classical.relaxometry")

    def fit(signal: xr.DataArray, chosen: Array) -> dict[str, Array]:
        rows = signal.transpose("y", "x", coordinate).to_numpy()[chosen].astype(np.float64)
        data = xr.Dataset({"signal": (("voxel", coordinate), rows)}, {coordinate: list(times)})
        if method == "mle-general":
            made = fits.fit_inversion_recovery_general(data)
        elif coordinate == "inversion_time":
            made = fits.fit_inversion_recovery(data, efficiency=efficiency)
        else:
            made = fits.fit_t2_decay(data)
        found = {}
        for name in made.data_vars:
            if name != "cost":
                values = np.full(chosen.shape, np.nan)
                values[chosen] = made[name].to_numpy()
                found[str(name)] = values
        return found

    return fit


def foreground(peak: xr.DataArray) -> xr.DataArray:
    """Where the highest signal over time is more than a tenth of its own highest (without outliers)."""
    return peak > AIR * float(np.percentile(peak.to_numpy(), 99.9))


def signed(signal: xr.DataArray, inside: xr.DataArray, scale: float) -> list[str]:
    """A warning where many values are clearly negative."""
    below = float(((signal < -AIR * scale) & inside).sum()) / (float(inside.sum()) * signal.sizes[signal.dims[1]])
    if below <= SIGNED:
        return []
    return [f"{100 * below:.0f} % of the values are clearly negative, but magnitudes are expected; take them first"]


def summary(maps: xr.Dataset) -> list[Row]:
    """Median, quartiles and number of voxels of each map, over the mask or the foreground."""
    rows: list[Row] = []
    for name, values in maps.data_vars.items():
        numbers = values.to_numpy()[maps["inside"].to_numpy()]
        numbers = numbers[np.isfinite(numbers)]
        low, middle, high = np.percentile(numbers, [25, 50, 75]) if len(numbers) else [np.nan] * 3
        rows.append({"map": str(name), "unit": values.attrs["units"], "median": float(middle), "lower quartile":
                     float(low), "upper quartile": float(high), "voxels": len(numbers)})  # fmt: skip
    return rows
