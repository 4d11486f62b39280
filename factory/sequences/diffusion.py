"""Pulsed-gradient spin echoes: diffusion weighting."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from factory.sequences.building import DEAD, RASTER, compiled, hard, limits, on_raster, pypulseq, single_sample, wait
from factory.sequences.pulseq import Sequence


def diffusion(
    *,
    b_value: Annotated[tuple[float, ...], "s/m2", ">=0"],
    axis: Literal["x", "y", "z"] = "x",
    lobe: Annotated[float, "s", ">0"] = 15e-3,
    separation: Annotated[float, "s", ">0"] = 30e-3,
    echo_time: Annotated[float, "s", ">0"] = 60e-3,
    repetition_time: Annotated[float, "s", ">0"] = 3.0,
    pulse_duration: Annotated[float, "s", ">0"] = 0.2e-3,
    max_gradient: Annotated[float, "T/m", ">0"] = 0.08,
    max_slew: Annotated[float, "T/m/s", ">0"] = 200.0,
) -> Sequence:
    """Spin echoes between two equal gradient lobes, one repetition and one sample for each b value.

    ::

        RF  90                180
        G     /‾lobe‾\\           /‾lobe‾\\
              |<--- separation -->|        sample
            |<------------ echo time ------->|

    Parameters
    ----------
    b_value : tuple of s/m2
    axis : of the gradients
    lobe : s, from the start of a lobe to the start of its fall, on the raster of 10 us
    separation : s, from the start of the first lobe to the start of the second
    echo_time, repetition_time : s; the lobes lie evenly around the refocusing pulse, a hard one like the other
    pulse_duration : s
    max_gradient, max_slew : T/m and T/m/s; their ratio is how long every lobe rises

    Raises
    ------
    SequenceError
        A time is too short, the gradient of a b value too strong, or PyPulseq is not installed.

    Notes
    -----
    b = (2 pi g)**2 (lobe**2 (separation - lobe / 3) + rise**3 / 30 - lobe rise**2 / 6) for lobes of g = gamma-bar G
    that rise for a time.  Stejskal and Tanner 1965, doi:10.1063/1.1695690.
    """
    pp, system = pypulseq(), limits(max_gradient, max_slew)
    rise = np.ceil(max_gradient / max_slew / RASTER) * RASTER
    lobe, separation = on_raster(lobe), on_raster(separation)
    weight = (2 * np.pi) ** 2 * (lobe**2 * (separation - lobe / 3) + rise**3 / 30 - lobe * rise**2 / 6)
    half, length = on_raster(pulse_duration, 2 * RASTER) / 2, lobe + rise
    tail = half + system.rf_ringdown_time
    early = wait((separation - length) / 2 - half - DEAD, "the separation")
    late = wait(separation - length - early - DEAD - half - tail, "the separation")
    ahead = wait(on_raster(echo_time / 2) - half - DEAD - early - length - tail, "the echo time")
    to_echo = wait(on_raster(echo_time / 2) - tail - late - length, "the echo time")
    rest = wait(repetition_time - 2 * on_raster(echo_time / 2) + to_echo - DEAD - half, "the repetition time")
    sequence = pp.Sequence(system)
    for b in b_value:
        gradient = pp.make_trapezoid(axis, amplitude=np.sqrt(b / weight), rise_time=rise, flat_time=lobe - rise,
                                     fall_time=rise, system=system)
        for events in ([hard(system, np.pi / 2, 2 * half)], [pp.make_delay(ahead)], [gradient], [pp.make_delay(early)],
                       [hard(system, np.pi, 2 * half, "refocusing", np.pi / 2)], [pp.make_delay(late)], [gradient],
                       [single_sample(system, to_echo), pp.make_delay(rest)]):
            sequence.add_block(*events)
    return compiled(sequence)
