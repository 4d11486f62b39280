"""A spiral from the centre outwards, in one or several interleaves, with spoiling by radio frequency."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any

import numpy as np

from factory.sequences.building import RASTER, compiled, limits, on_raster, pypulseq, selective, wait
from factory.sequences.pulseq import Sequence
from factory.units import GAMMA_BAR, Array

MARGIN = 0.98  # of the limits, for what the raster and the file's six digits round
MOST_POINTS = 100_000  # 1 s of a spiral


def spiral(
    *,
    field_of_view: Annotated[float, "m", ">0"] = 0.22,
    pixels: Annotated[int, ">=4"] = 64,
    interleaves: Annotated[int, ">=1"] = 8,
    slice_thickness: Annotated[float, "m", ">0"] = 5e-3,
    flip_angle: Annotated[float, "rad", ">0"] = np.pi / 9,
    echo_time: Annotated[float, "s", ">0"] = 4e-3,
    repetition_time: Annotated[float, "s", ">0"] = 25e-3,
    dwell: Annotated[float, "s", ">=1e-7"] = 2e-6,
    pulse_duration: Annotated[float, "s", ">0"] = 2e-3,
    spoiling: Annotated[float, "rad"] = np.deg2rad(117.0),
    max_gradient: Annotated[float, "T/m", ">0"] = 0.03,
    max_slew: Annotated[float, "T/m/s", ">0"] = 120.0,
) -> Sequence:
    """A spoiled spiral, one interleaf a repetition, each turned by 2 pi / interleaves.

    ::

        RF     _sinc_____________________________________
        Gz     /‾‾‾‾\\  _______________________/spoil\\____
                     \\/
        Gx,Gy  __________~~~/\\/‾\\/‾‾\\/‾‾‾\\____<back>______
                         |    readout     |
                 |<-TE ->|
                 |<-------- repetition time ------------>|

    Parameters
    ----------
    field_of_view : m; turns of all interleaves lie 1 / field_of_view from each other
    pixels : across the field of view; the spiral ends at |k| = pixels / 2 / field_of_view
    interleaves : shots
    slice_thickness : m
    flip_angle : rad
    echo_time : s, from the middle of the pulse to where the spiral begins; on the raster of 10 us
    repetition_time : s, on the raster of 10 us
    dwell : s, rounded to 0.1 us
    pulse_duration : s, of a sinc (bandwidth times duration 4)
    spoiling : rad; the phase of pulse n grows by n times this
    max_gradient : T/m
    max_slew : T/m/s

    Raises
    ------
    SequenceError
        A time is too short, a limit too low, or PyPulseq is not installed.
    """
    pp, system, dwell = pypulseq(), limits(max_gradient, max_slew), on_raster(dwell, 1e-7)
    pulse, select, rephase = selective(system, flip_angle, pulse_duration, slice_thickness, 4)
    spoil = pp.make_trapezoid("z", area=4 / slice_thickness, system=system)
    k = trajectory(field_of_view, pixels, interleaves, MARGIN * max_gradient, MARGIN * max_slew)
    excited = pp.calc_duration(pulse, select)
    fill = wait(echo_time - (excited - pulse.delay - pulse.center) - pp.calc_duration(rephase), "the echo time")
    played = (len(k) - 1) * RASTER
    sequence, phase = pp.Sequence(system), 0.0
    for shot in range(interleaves):
        phase = (phase + spoiling * shot) % (2 * np.pi)
        pulse.phase_offset = phase
        adc = pp.make_adc(int(played / dwell + 1e-6), dwell=dwell, phase_offset=phase, system=system)
        turned = k * np.exp(2j * np.pi * shot / interleaves)
        out, back = _waves(pp, system, turned)
        rest = wait(repetition_time - excited - pp.calc_duration(rephase) - fill - played
                    - pp.calc_duration(spoil, *back), "the repetition time")
        for block in ([pulse, select], [rephase], [pp.make_delay(fill)], [*out, adc], [*back, spoil],
                      [pp.make_delay(rest)]):
            sequence.add_block(*block)
    return compiled(sequence)


def trajectory(field_of_view: float, pixels: int, interleaves: int, gradient: float, slew: float) -> Array:
    """One interleaf in 1/m as x + iy at the borders of the raster, from 0 to the edge, complex128, shape (point,).

    k = p a exp(i a), p = interleaves / (2 pi field_of_view).  The angle a grows as fast as |k''| = gamma-bar slew
    allows, which is a quadratic equation for a'', and |k'| is held at gamma-bar gradient where that is reached (Meyer
    1992, doi:10.1002/mrm.1910280202).  Limit: with slew alone, a -> (9 beta / 4)^(1/3) t^(2/3) with beta = gamma-bar
    slew / p.
    """
    pitch, parts = interleaves / (2 * np.pi * field_of_view), 10
    beta, fastest, step = GAMMA_BAR * slew / pitch, GAMMA_BAR * gradient / pitch, RASTER / parts
    angle, rate, found = 0.0, 0.0, [0.0]
    last = np.pi * pixels / interleaves
    while angle < last and len(found) < MOST_POINTS:
        for _ in range(parts):
            across, turn = 1 + angle * angle, rate * rate
            inside = (angle * turn) ** 2 - across * (turn * turn * (angle * angle + 4) - beta * beta)
            speed = rate + step * (sqrt(max(inside, 0.0)) - angle * turn) / across
            speed = min(speed, fastest / sqrt(across))
            angle, rate = angle + 0.5 * step * (rate + speed), speed
        found.append(angle)
    turned = np.array(found)
    return np.asarray(pitch * turned * np.exp(1j * turned))


def _waves(pp: Any, system: Any, k: Array) -> tuple[list[Any], list[Any]]:
    """Gradients along x and y that follow k, and those that end them with the way back to the centre."""
    out, back = [], []
    for axis, along in (("x", k.real), ("y", k.imag)):
        wave = np.diff(along) / RASTER
        last = 1.5 * wave[-1] - 0.5 * wave[-2]
        out.append(pp.make_arbitrary_grad(axis, wave, first=0.0, last=last, system=system))
        back.append(pp.make_extended_trapezoid_area(
            channel=axis, area=-along[-1], grad_start=last, grad_end=0.0, system=system)[0])
    return out, back
