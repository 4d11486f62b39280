"""Echo-planar imaging in one shot, with a gradient echo or a spin echo."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from factory.sequences.building import compiled, limits, on_raster, pypulseq, selective, wait
from factory.sequences.pulseq import Sequence
from factory.sequences.text import SequenceError


def epi(
    *,
    field_of_view: Annotated[float, "m", ">0"] = 0.22,
    columns: Annotated[int, ">=2"] = 64,
    lines: Annotated[int, ">=1"] = 64,
    slice_thickness: Annotated[float, "m", ">0"] = 4e-3,
    echo_time: Annotated[float, "s", ">0"] = 80e-3,
    spin_echo: bool = True,
    ramp_sampling: bool = True,
    flip_angle: Annotated[float, "rad", ">0"] = np.pi / 2,
    dwell: Annotated[float, "s", ">=1e-7"] = 5e-6,
    pulse_duration: Annotated[float, "s", ">0"] = 3e-3,
    max_gradient: Annotated[float, "T/m", ">0"] = 0.03,
    max_slew: Annotated[float, "T/m/s", ">0"] = 120.0,
) -> Sequence:
    """One shot of echo-planar imaging from the lowest line to the highest; every other line runs backwards.

    ::

        RF   _90_____________180_________________________________________
        Gz   /‾‾\\  _______/‾/‾‾\\‾\\_____________________________________
                 \\/
        Gy   _________________________  ________/\\______/\\______/\\_____
                                      \\/
        Gx   _________________________  _/‾‾‾‾\\_      _/‾‾‾‾\\_
                                      \\/         \\____/         \\____
               |<- TE/2 ->|<------------- TE/2 ------------>| middle line

    Parameters
    ----------
    field_of_view : m, of columns and lines
    columns, lines : sample i of line j is at k = (i - columns // 2, j - lines // 2) / fov, where every second line is
        counted backwards; with ``ramp_sampling`` a line's samples are not equidistant, but symmetrical about k = 0
    slice_thickness : m
    echo_time : s, from the middle of the excitation to the middle of line lines // 2; on the raster of 10 us
    spin_echo : refocus by a pulse of 180 degrees between two crushers
    ramp_sampling : samples are taken on the ramps of the gradient as well, which makes lines shorter
    flip_angle : rad, of the excitation
    dwell : s; rounded down so that a line's samples stand symmetrically to its middle
    pulse_duration : s, of each sinc (bandwidth times duration 4)
    max_gradient : T/m
    max_slew : T/m/s

    Raises
    ------
    SequenceError
        The echo time is too short, a limit too low, or PyPulseq is not installed.
    """
    pp = pypulseq()
    system = limits(max_gradient, max_slew)
    excite, select, rephase = selective(system, flip_angle, pulse_duration, slice_thickness, 4)
    line, adc = _line(pp, system, columns, dwell, field_of_view, ramp_sampling)
    blip = pp.make_trapezoid("y", area=1 / field_of_view, system=system)
    # An even number of samples has none in its middle: half a step brings one of each line to k = 0.
    ahead = line.area / 2 + (0.5 / field_of_view if columns % 2 == 0 and not ramp_sampling else 0.0)
    start = pp.align(left=[pp.make_trapezoid("x", area=-ahead, system=system),
                           pp.make_trapezoid("y", area=-(lines // 2) / field_of_view, system=system)])
    middle = (lines // 2) * (pp.calc_duration(line) + pp.calc_duration(blip)) + pp.calc_duration(line) / 2
    late = pp.calc_duration(*start) + middle
    early = pp.calc_duration(excite, select) - excite.delay - excite.center + pp.calc_duration(rephase)
    refocus = _refocusing(pp, system, slice_thickness, pulse_duration) if spin_echo else []
    half = sum(pp.calc_duration(*block) for block in refocus) / 2
    waits = [echo_time / 2 - early - half, echo_time / 2 - half - late] if spin_echo else [echo_time - early - late]
    first, *second = [[pp.make_delay(wait(time, "the echo time"))] for time in waits]
    sequence = pp.Sequence(system)
    for block in ([excite, select], [rephase], first, *refocus, *second, start):
        sequence.add_block(*block)
    for number in range(lines):
        sequence.add_block(line if number % 2 == 0 else pp.scale_grad(line, -1), adc)
        if number < lines - 1:
            sequence.add_block(blip)
    return compiled(sequence)


def _line(pp: Any, system: Any, columns: int, dwell: float, fov: float, ramps: bool) -> tuple[Any, Any]:
    """The gradient of a line and its readout, which lies symmetrically to the middle."""
    if ramps:
        least = np.ceil(columns * dwell / 2e-5 - 1e-9) * 2e-5
        shortest = pp.calc_duration(pp.make_trapezoid("x", area=columns / fov, system=system))
        whole = max(least, np.ceil(shortest / 2e-5 - 1e-9) * 2e-5)
        line = pp.make_trapezoid("x", area=columns / fov, duration=whole, system=system)
    else:
        whole = np.ceil(columns * dwell / 2e-5 - 1e-9) * 2e-5
        line = pp.make_trapezoid("x", flat_area=whole / dwell / fov, flat_time=whole, system=system)
    ticks, total = int(dwell / 1e-7 + 1e-6), round(whole / 1e-7)
    if ramps:
        ticks = total // columns
    while ticks and (total - columns * ticks) % 20:  # the readout's delay is written in whole microseconds
        ticks -= 1
    if not ticks:
        raise SequenceError(f"{columns} samples do not fit symmetrically into a line of {whole * 1e6:.0f} us")
    if not ramps:
        line = pp.make_trapezoid("x", flat_area=whole / (ticks * 1e-7) / fov, flat_time=whole, system=system)
    delay = (0.0 if ramps else line.rise_time) + (total - columns * ticks) / 2 * 1e-7
    return line, pp.make_adc(columns, dwell=ticks * 1e-7, delay=delay, system=system)


def _refocusing(pp: Any, system: Any, thickness: float, duration: float) -> list[list[Any]]:
    """Crusher, pulse of 180 degrees, crusher; symmetrical in time about the middle of the pulse."""
    pulse, select, _ = selective(system, np.pi, duration, thickness, 4, "refocusing", np.pi / 2)
    crusher = pp.make_trapezoid("z", area=4 / thickness, system=system)
    ends = pp.calc_duration(pulse, select)
    later = ends - 2 * (pulse.delay + pulse.center)  # the pulse's dead times differ before and behind it
    around = [[pp.make_delay(abs(on_raster(later)))]] if on_raster(later) else []
    return [*(around if later > 0 else []), [crusher], [pulse, select], [crusher], *(around if later < 0 else [])]
