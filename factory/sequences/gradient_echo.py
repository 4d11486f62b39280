"""A two-dimensional Cartesian gradient echo with spoiling by radio frequency."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from factory.sequences.building import RASTER, compiled, limits, on_raster, pypulseq, selective, wait
from factory.sequences.pulseq import Sequence


def gradient_echo(
    *,
    field_of_view: Annotated[float, "m", ">0"] = 0.25,
    columns: Annotated[int, ">=2"] = 64,
    lines: Annotated[int, ">=1"] = 64,
    slice_thickness: Annotated[float, "m", ">0"] = 5e-3,
    flip_angle: Annotated[float, "rad", ">0"] = np.pi / 12,
    echo_time: Annotated[float, "s", ">0"] = 5e-3,
    repetition_time: Annotated[float, "s", ">0"] = 12e-3,
    dwell: Annotated[float, "s", ">=1e-7"] = 1e-5,
    pulse_duration: Annotated[float, "s", ">0"] = 2e-3,
    time_bandwidth: Annotated[float, ">0"] = 4.0,
    spoiling: Annotated[float, "rad"] = np.deg2rad(117.0),
    preparation: Annotated[int, ">=0"] = 0,
    max_gradient: Annotated[float, "T/m", ">0"] = 0.03,
    max_slew: Annotated[float, "T/m/s", ">0"] = 120.0,
) -> Sequence:
    """A spoiled gradient echo, one line a repetition, from the lowest line to the highest.

    ::

        RF   _sinc__________________________________________sinc_
        Gz   /‾‾‾‾\\  ___________________________/spoil\\_/‾‾‾‾
                   \\/
        Gy   _______<line>______________________<back>___________
        Gx   _______  ______/‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾\\__/spoil\\_________
                    \\/      |  readout      |
                 |<---- echo time --->|
                 |<---------------- repetition time ----------->|

    Parameters
    ----------
    field_of_view : m, of columns and lines
    columns, lines : samples of a line, and lines; sample i of line j is at k = (i - columns // 2, j - lines // 2) / fov
    slice_thickness : m
    flip_angle : rad
    echo_time : s, from the middle of the pulse to sample columns // 2; on the raster of 10 us
    repetition_time : s, on the raster of 10 us
    dwell : s, rounded to 0.1 us
    pulse_duration : s, of a sinc with a Hann window of one half
    time_bandwidth : bandwidth times duration of the pulse
    spoiling : rad; the phase of pulse n grows by n times this (Zur et al., doi:10.1002/mrm.1910210210)
    preparation : repetitions without readout before the first line
    max_gradient : T/m
    max_slew : T/m/s

    Raises
    ------
    SequenceError
        A time is too short, a limit too low, or PyPulseq is not installed.
    """
    pp, system, dwell = pypulseq(), limits(max_gradient, max_slew), on_raster(dwell, 1e-7)
    pulse, select, rephase = selective(system, flip_angle, pulse_duration, slice_thickness, time_bandwidth)
    flat = np.ceil(columns * dwell / RASTER - 1e-9) * RASTER
    read = pp.make_trapezoid("x", flat_area=flat / dwell / field_of_view, flat_time=flat, system=system)
    to_echo = read.rise_time + (columns // 2 + 0.5) * dwell
    before = read.amplitude * (to_echo - 0.5 * read.rise_time)
    ahead = _together(pp, system, x=-before, y=(lines // 2) / field_of_view, z=rephase.area)
    behind = _together(pp, system, x=2 * before, y=(lines // 2) / field_of_view, z=4 / slice_thickness)
    excited, first, last = pp.calc_duration(pulse, select), pp.calc_duration(*ahead), pp.calc_duration(*behind)
    fill = wait(echo_time - (excited - pulse.delay - pulse.center) - first - to_echo, "the echo time")
    rest = wait(repetition_time - excited - first - fill - pp.calc_duration(read) - last, "the repetition time")
    sequence, phase = pp.Sequence(system), 0.0
    for number in range(-preparation, lines):
        phase = (phase + spoiling * (number + preparation)) % (2 * np.pi)
        pulse.phase_offset = phase
        steps = (max(number, 0) - lines // 2) / field_of_view
        encode = pp.make_trapezoid("y", area=steps, duration=first, system=system)
        back = pp.make_trapezoid("y", area=-steps, duration=last, system=system)
        adc = pp.make_adc(columns, dwell=dwell, delay=read.rise_time, phase_offset=phase, system=system)
        for block in ([pulse, select], [ahead[0], encode, ahead[2]], [pp.make_delay(fill)],
                      [read, adc] if number >= 0 else [read], [behind[0], back, behind[2]], [pp.make_delay(rest)]):
            sequence.add_block(*block)
    return compiled(sequence)


def _together(pp: Any, system: Any, **areas: float) -> list[Any]:
    """Gradients of these areas in 1/m that begin and end together, as short as the limits allow."""
    longest = max(pp.calc_duration(pp.make_trapezoid(axis, area=area, system=system)) for axis, area in areas.items())
    return [pp.make_trapezoid(axis, area=area, duration=longest, system=system) for axis, area in areas.items()]
