"""Balanced steady-state free precession with a pulse and a sample a repetition: fingerprints."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from factory.sequences.building import DEAD, compiled, hard, limits, pypulseq, single_sample, wait
from factory.sequences.pulseq import Sequence


def balanced(
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">0"],
    repetition_time: Annotated[tuple[float, ...], "s", ">0"],
    pulse_duration: Annotated[float, "s", ">0"] = 0.5e-3,
    inversion_time: Annotated[float, "s", ">=0"] = 0.0,
) -> Sequence:
    """Hard pulses of alternating phase without gradients, and one sample halfway between each two.

    ::

        inversion         pulse 1      sample 1      pulse 2      sample 2
            |                |            |             |             |
        ----+----------------+------------+-------------+-------------+----> time
             inversion_time   half of repetition 1       half of repetition 2

    Parameters
    ----------
    flip_angle : tuple of rad, one for each repetition
    repetition_time : tuple of s, as many, on the raster of 10 us; from the middle of a pulse to that of the next
    pulse_duration : s
    inversion_time : s, from the middle of the inversion to that of the first pulse; 0 for no inversion

    Raises
    ------
    SequenceError
        Not as many repetition times as flip angles, a time too short, or PyPulseq is not installed.
    """
    if len(flip_angle) != len(repetition_time):
        raise ValueError(f"there are {len(flip_angle)} flip angles and {len(repetition_time)} repetition times; give "
                         "one of each for every repetition")
    pp = pypulseq()
    system = limits(0.03, 120.0)
    sequence = pp.Sequence(system)
    half = pulse_duration / 2
    tail = half + system.rf_ringdown_time

    if inversion_time > 0:
        sequence.add_block(hard(system, np.pi, pulse_duration, "inversion"))
        sequence.add_block(pp.make_delay(wait(inversion_time - tail - DEAD - half, "the inversion time")))
    for n, (angle, time) in enumerate(zip(flip_angle, repetition_time, strict=True)):
        phase = np.pi * (n % 2)
        sequence.add_block(hard(system, angle, pulse_duration, phase=phase))
        rest = wait(time - tail - DEAD - half, "the repetition time")
        sequence.add_block(single_sample(system, time / 2 - tail, phase), pp.make_delay(rest))
    return compiled(sequence)
