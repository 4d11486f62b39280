"""A bipolar gradient behind a pulse: the phase of velocity."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from factory.sequences.building import DEAD, RASTER, compiled, hard, limits, on_raster, pypulseq, single_sample, wait
from factory.sequences.pulseq import Sequence


def velocity_encoding(
    *,
    limit: Annotated[float, "m/s", ">0"],
    direction: tuple[float, ...] = (0.0, 0.0, 1.0),
    lobe: Annotated[float, "s", ">0"] = 1e-3,
    flip_angle: Annotated[float, "rad", ">0"] = np.pi / 12,
    echo_time: Annotated[float, "s", ">0"] = 5e-3,
    repetition_time: Annotated[float, "s", ">0"] = 10e-3,
    pulse_duration: Annotated[float, "s", ">0"] = 0.2e-3,
    spoiler: Annotated[float, "1/m", ">0"] = 2000.0,
    max_gradient: Annotated[float, "T/m", ">0"] = 0.08,
    max_slew: Annotated[float, "T/m/s", ">0"] = 200.0,
) -> Sequence:
    """Two repetitions with bipolar gradients of either sign: the phase between their samples tells the velocity.

    ::

        RF  flip
        G        /lobe\\                     /spoiler\\
                       \\lobe/        sample
            |<------ echo time ------>|

    Parameters
    ----------
    limit : m/s, the velocity at which the two samples are half a turn apart, and above which it is ambiguous
    direction : of the gradients, three numbers of which only the ratios count
    lobe : s, from the start of a lobe to the start of its fall, on the raster of 10 us
    flip_angle : rad, of a hard pulse
    echo_time, repetition_time : s
    pulse_duration : s
    spoiler : 1/m, cycles over length that end each repetition, along the same direction
    max_gradient, max_slew : T/m and T/m/s; their ratio is how long every lobe rises

    Raises
    ------
    SequenceError
        A time is too short, the limit asks for too strong a gradient, or PyPulseq is not installed.

    Notes
    -----
    Lobes of area a (1/m) that begin a time apart have the first moment a lobe_length; a velocity v then turns by 2 pi
    v times it.  Moran 1982, doi:10.1016/0730-725X(82)90170-9.
    """
    pp, system = pypulseq(), limits(max_gradient, max_slew)
    rise, lobe = np.ceil(max_gradient / max_slew / RASTER) * RASTER, on_raster(lobe)
    half, length = on_raster(pulse_duration, 2 * RASTER) / 2, lobe + rise
    tail = half + system.rf_ringdown_time
    to_echo = wait(echo_time - tail - 2 * length, "the echo time")
    if len(direction) != 3 or not any(direction):
        raise ValueError(f"a direction has three numbers that are not all 0, not {direction}")
    unit = dict(zip("xyz", np.array(direction) / np.linalg.norm(direction), strict=True))
    last = pp.calc_duration(pp.make_trapezoid("x", area=spoiler, system=system))
    rest = wait(repetition_time - tail - 2 * length - last - DEAD - half, "the repetition time")
    area = 1 / (4 * limit * length)
    sequence = pp.Sequence(system)
    for sign in (1, -1):
        sequence.add_block(hard(system, flip_angle, 2 * half))
        for way in (sign, -sign):
            sequence.add_block(*(pp.make_trapezoid(axis, amplitude=part * way * area / lobe, rise_time=rise,
                                                   flat_time=lobe - rise, fall_time=rise, system=system)
                                 for axis, part in unit.items()))  # fmt: skip
        sequence.add_block(single_sample(system, to_echo), pp.make_delay(rest))
        sequence.add_block(*(pp.make_trapezoid(axis, area=part * spoiler, duration=last, system=system)
                             for axis, part in unit.items()))  # fmt: skip
    return compiled(sequence)
