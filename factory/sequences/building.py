"""Sequences that are built instead of read: one file a sequence, ``gradient_echo`` *is* gradient_echo.gradient_echo.

PyPulseq is imported when a sequence is built, not before: that takes half a second.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from factory.sequences.pulseq import Sequence, read
from factory.sequences.text import SequenceError
from factory.units import GAMMA_BAR

RASTER = 1e-5  # s, of blocks and gradients
DEAD = 1e-4  # s before each pulse, for the transmitter
SAMPLE = 2e-6  # s, the dwell of a single sample


def pypulseq() -> Any:
    """The package; SequenceError says how to install it."""
    try:
        return import_module("pypulseq")
    except ImportError:
        raise SequenceError("building a sequence needs PyPulseq: pip install pypulseq") from None


def limits(max_gradient: float, max_slew: float) -> Any:
    """PyPulseq's record of a scanner: T/m and T/m/s, usual dead times of the transmitter and rasters."""
    return pypulseq().Opts(
        max_grad=max_gradient * 1e3, grad_unit="mT/m", max_slew=max_slew, slew_unit="T/m/s", gamma=GAMMA_BAR,
        rf_dead_time=DEAD, rf_ringdown_time=20e-6, adc_dead_time=0.0, rf_raster_time=1e-6, adc_raster_time=1e-7,
        grad_raster_time=RASTER, block_duration_raster=RASTER,
    )


def selective(system: Any, angle: float, duration: float, thickness: float, product: float,
              use: str = "excitation", phase: float = 0.0) -> Any:
    """Sinc pulse with a Hann window of one half, gradient of the slice, and what rephases it; rad, s, m."""
    return pypulseq().make_sinc_pulse(
        flip_angle=angle, duration=on_raster(duration), slice_thickness=thickness, time_bw_product=product,
        apodization=0.5, system=system, return_gz=True, delay=DEAD, use=use, phase_offset=phase)


def hard(system: Any, angle: float, duration: float, use: str = "excitation", phase: float = 0.0) -> Any:
    """Rectangular pulse without a gradient; rad, s."""
    return pypulseq().make_block_pulse(flip_angle=angle, phase_offset=phase, duration=duration, delay=DEAD,
                                       system=system, use=use)


def single_sample(system: Any, time: float, phase: float = 0.0) -> Any:
    """One sample, some time (s) after its block begins."""
    return pypulseq().make_adc(num_samples=1, dwell=SAMPLE, delay=time - SAMPLE / 2, phase_offset=phase, system=system)


def compiled(sequence: Any) -> Sequence:
    """A ``pypulseq.Sequence`` by way of its own text, so that what runs here is what a scanner would read.

    Raises
    ------
    SequenceError
        PyPulseq finds the timing wrong, or `read` refuses the text.
    """
    sound, faults = sequence.check_timing()
    if not sound:
        first = faults[0]
        raise SequenceError(f"the timing does not fit the rasters or dead times: block {first.block}, {first.event}, "
                            f"{first.field}: {first.error_type} ({len(faults)} in all)")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "built.seq"
        sequence.write(str(path), check_timing=False)
        return read(path)


def on_raster(time: float, raster: float = RASTER) -> float:
    """The nearest multiple of the raster."""
    return round(time / raster) * raster


def wait(time: float, what: str) -> float:
    """A delay on the raster; SequenceError with the shortest ``what`` if it would be negative."""
    rounded = on_raster(time)
    if rounded < 0:
        raise SequenceError(f"{what} is {-time * 1e3:.3g} ms too short for these pulses and gradients")
    return rounded


def builders() -> dict[str, Callable[..., Sequence]]:
    """Every file in factory/sequences with a function of its own name, sorted."""
    package = import_module("factory.sequences")
    modules = {m.name: import_module(f"factory.sequences.{m.name}") for m in iter_modules(package.__path__)}
    return {name: vars(module)[name] for name, module in sorted(modules.items()) if callable(vars(module).get(name))}


def built(name: str, constants: Mapping[str, Any]) -> Sequence:
    """The sequence of that name with these constants; the last few are kept."""
    return _built(name, tuple(sorted(constants.items())))


@lru_cache(maxsize=16)
def _built(name: str, constants: tuple[tuple[str, Any], ...]) -> Sequence:
    try:
        return builders()[name](**dict(constants))
    except (ValueError, AssertionError) as error:  # PyPulseq refuses what exceeds the limits by either
        raise SequenceError(f"{name}: {error}") from None
