"""Kernels of Bloch isochromats: spins side by side in the lanes of vector instructions.

One source serves float32 and float64.  A part of a pulse is one rotation about its effective field by at most 90
degrees, written with half angles h, so that two short even polynomials are all the trigonometry: with q = h sin|h| /
|h| and t = M x q the new magnetisation is M + 2 (cos|h| t + t x q).  Free precession takes longer ones once whole turns
are rounded off.  Each spin is seen from a frame in which its transmit field has no phase; what is received is turned
back.
What is left after relaxation is computed once for each length of time that occurs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from factory import device
from factory.numerics import exp, fma, inlined

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_INLINED: Any = _OPTIONS | {"forceinline": True}
LANES = 64  # spins side by side: half as many wait for each other's results
_W = LANES
_ROWS = 12  # of a block: x, y, z, b1, position (x, y, z), off-resonance, where it was (x, y, z), b1 squared
_WIDEST = np.pi / 2  # rad; of one rotation
_TWO, _PI = 2.0, np.pi


def _typed(_typing: Any, value: Any, like: Any) -> Any:

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], signature.return_type)

    return like(value, like), code


_fma: Any = fma  # of either type
_as: Any = intrinsic(_typed)  # a number in the type of another one


@inlined
def _turned32(u: Any) -> Any:
    """(sin(h) / h, cos(h)) for u = h^2 up to (pi / 4)^2: near-minimax, to 3e-9 and 5e-11."""
    f = np.float32
    s = _fma(f(-0.000195039042508), u, f(0.0083320357856))
    s = _fma(_fma(s, u, f(-0.16666650674)), u, f(1.0))
    c = _fma(_fma(f(2.43798312512e-5), u, f(-0.00138866179996)), u, f(0.0416666166925))
    c = _fma(_fma(c, u, f(-0.499999996149)), u, f(1.0))
    return s, c


@inlined
def _turned64(u: Any) -> Any:
    """The same to 3e-18 and 5e-17."""
    s = _fma(_fma(1.5894736651849095259e-10, u, -2.5050716974102745028e-8), u, 2.7557313376400129128e-6)
    s = _fma(_fma(s, u, -0.00019841269828650300013), u, 0.0083333333333203624567)
    s = _fma(_fma(s, u, -0.16666666666666616666), u, 1.0)
    c = _fma(_fma(2.063045437966229288e-9, u, -2.7555233884847418601e-7), u, 0.000024801578538562986336)
    c = _fma(_fma(c, u, -0.0013888888869978658824), u, 0.041666666666472305795)
    c = _fma(_fma(c, u, -0.49999999999999250779), u, 1.0)
    return s, c


@inlined
def _half_angle32(u: Any) -> Any:
    """(sin(h) / h, cos(h)) for u = h^2 up to (pi / 2)^2: to 4e-9 and 2e-10."""
    f = np.float32
    s = _fma(f(2.60510763533e-6), u, f(-0.000198090174087))
    s = _fma(_fma(_fma(s, u, f(0.00833305017067)), u, f(-0.166666579478)), u, f(0.999999995699))
    c = _fma(_fma(f(-2.60506574937e-7), u, f(2.47601096732e-5)), u, f(-0.00138883602844))
    c = _fma(_fma(_fma(c, u, f(0.0416666361597)), u, f(-0.499999993554)), u, f(0.999999999779))
    return s, c


@inlined
def _half_angle64(u: Any) -> Any:
    """The same to 2e-19 and 4e-18."""
    s = _fma(_fma(2.7215749422983442826e-15, u, -7.6430265579716326635e-13), u, 1.6058940878486559931e-10)
    s = _fma(_fma(s, u, -2.5052106890569519539e-8), u, 2.7557319211229606622e-6)
    s = _fma(_fma(s, u, -0.0001984126984120867517), u, 0.008333333333333186384)
    s = _fma(_fma(s, u, -0.16666666666666665307), u, 1.0)
    c = _fma(_fma(4.6089770030017970304e-14, u, -1.1462901901757274785e-11), u, 2.0876561839933163279e-9)
    c = _fma(_fma(c, u, -2.7557316391025750805e-7), u, 0.000024801587277414924404)
    c = _fma(_fma(c, u, -0.0013888888888772989911), u, 0.04166666666666388234)
    c = _fma(_fma(c, u, -0.49999999999999974243), u, 1.0)
    return s, c


@inlined
def _shift32(_u: Any) -> Any:
    """What leaves a whole number when it is added and taken away again."""
    return np.float32(1.5 * 2.0**23)


@inlined
def _shift64(_u: Any) -> Any:
    return 1.5 * 2.0**52


def _by_precision(single: Any, double: Any) -> Any:
    """A function for kernels: of a float32 the one, of a float64 the other."""

    def either(u: Any) -> Any:
        raise NotImplementedError("only inside kernels")

    @overload(either, jit_options=_INLINED)
    def chosen(u: Any) -> Any:
        function = single if u == types.float32 else double

        def code(u: Any) -> Any:
            return function(u)

        return code

    return either


_turned, _half_angle = _by_precision(_turned32, _turned64), _by_precision(_half_angle32, _half_angle64)
_shift = _by_precision(_shift32, _shift64)


@inlined
def turned(x: Any, y: Any, z: Any, b1: Any, square: Any, rx: Any, ry: Any, hz: Any) -> Any:
    """Magnetisation behind a rotation with half angles b1 rx, b1 ry and hz; ``square`` is b1 squared.

    Products that are added are fused, so that no compiler has a choice: the bytes are the same everywhere.
    """
    two = _as(_TWO, rx)
    sine, w = _turned(_fma(hz, hz, _fma(rx, rx, ry * ry) * square))
    along = sine * b1
    qx, qy, qz = along * rx, along * ry, sine * hz
    tx, ty, tz = _fma(y, qz, -z * qy), _fma(z, qx, -x * qz), _fma(x, qy, -y * qx)
    ux = _fma(w, tx, _fma(ty, qz, -tz * qy))
    uy = _fma(w, ty, _fma(tz, qx, -tx * qz))
    uz = _fma(w, tz, _fma(tx, qy, -ty * qx))
    return _fma(two, ux, x), _fma(two, uy, y), _fma(two, uz, z)


@inlined
def precessed(x: Any, y: Any, turns: Any) -> Any:
    """Transverse magnetisation after some turns about z."""
    shift = _shift(turns)
    part = turns - ((turns + shift) - shift)
    h = _as(_PI, turns) * part
    sine, cosine = _half_angle(h * h)
    twice = sine * (_as(_TWO * _PI, turns) * part)  # a doubled product would be a sum that a compiler may fuse
    late, along = twice * cosine, twice * (sine * h)  # sine, and 1 - cosine of the whole angle
    return _fma(y, late, _fma(-x, along, x)), _fma(-x, late, _fma(-y, along, y))


@inlined
def along_z(gx: Any, gy: Any, gz: Any, dt: Any, px: Any, py: Any, pz: Any, f: Any) -> Any:
    """Angle that gradients and off-resonance add up to."""
    return _fma(gx, px, _fma(gy, py, _fma(gz, pz, dt * f)))


@inlined
def _turn(s: Any, left: Any, field: Any) -> None:
    """One part of a pulse for a block of spins, and the relaxation behind it.

    ``field`` holds half angles, along x and y for one unit of b1, along z for one of position (x, y, z) and of
    off-resonance.
    """
    rx, ry, gx, gy, gz, dt = field[0], field[1], field[2], field[3], field[4], field[5]
    x, y, z, b1 = s[:_W], s[_W : 2 * _W], s[2 * _W : 3 * _W], s[3 * _W : 4 * _W]
    px, py, pz, f = s[4 * _W : 5 * _W], s[5 * _W : 6 * _W], s[6 * _W : 7 * _W], s[7 * _W : 8 * _W]
    e1, e2, grown = left[:_W], left[_W : 2 * _W], left[2 * _W : 3 * _W]
    square = s[11 * _W : 12 * _W]
    for j in range(_W):
        hz = along_z(gx, gy, gz, dt, px[j], py[j], pz[j], f[j])
        mx, my, mz = turned(x[j], y[j], z[j], b1[j], square[j], rx, ry, hz)
        x[j], y[j], z[j] = e2[j] * mx, e2[j] * my, _fma(e1[j], mz, grown[j])


@inlined
def _precess(s: Any, left: Any, field: Any) -> None:
    """One interval without a pulse: ``field`` as for `_turn`, but turns instead of half angles."""
    gx, gy, gz, dt = field[2], field[3], field[4], field[5]
    x, y, z = s[:_W], s[_W : 2 * _W], s[2 * _W : 3 * _W]
    px, py, pz, f = s[4 * _W : 5 * _W], s[5 * _W : 6 * _W], s[6 * _W : 7 * _W], s[7 * _W : 8 * _W]
    e1, e2, grown = left[:_W], left[_W : 2 * _W], left[2 * _W : 3 * _W]
    for j in range(_W):
        mx, my = precessed(x[j], y[j], along_z(gx, gy, gz, dt, px[j], py[j], pz[j], f[j]))
        x[j], y[j], z[j] = e2[j] * mx, e2[j] * my, _fma(e1[j], z[j], grown[j])


@inlined
def _collect(s: Any, weight: Any, some: Any) -> Any:
    """Sum of weight (x + i y) over a block, in an order that does not depend on the machine's vectors."""
    x, y, wr, wi = s[:_W], s[_W : 2 * _W], weight[:_W], weight[_W : 2 * _W]
    real, imaginary = some[:_W], some[_W : 2 * _W]
    for j in range(_W):
        real[j] = _fma(wr[j], x[j], -wi[j] * y[j])
        imaginary[j] = _fma(wr[j], y[j], wi[j] * x[j])
    half = _W // 2
    while half > 0:
        for j in range(half):
            real[j] += real[j + half]
            imaginary[j] += imaginary[j + half]
        half //= 2
    return np.float64(real[0]), np.float64(imaginary[0])


@njit(**_OPTIONS)
def _move(s: Any, moved: Any, first: int, held: int) -> None:
    """Put the spins of a block where they are in the middle of an interval."""
    for axis in range(3):
        for j in range(_W):
            s[(4 + axis) * _W + j] = s[(8 + axis) * _W + j] + moved[axis, first + min(j, held - 1)]


@inlined
def strength(real: Any, imaginary: Any) -> Any:
    """Of a transmit field."""
    return math.sqrt(_fma(real, real, imaginary * imaginary))


@inlined
def seen(weight: Any, real: Any, imaginary: Any, field: Any, held: bool) -> Any:
    """Real and imaginary part of what a spin weighs, turned by the phase of its transmit field; 0 unless it is held."""
    cosine, sine = (real / field, imaginary / field) if field > 0 else (1.0, 0.0)
    turned_real = _fma(weight.real, cosine, -(weight.imag * sine))
    turned_imaginary = _fma(weight.real, sine, weight.imag * cosine)
    return (turned_real, turned_imaginary) if held else (0.0, 0.0)


@njit(**_OPTIONS)
def _load(s: Any, weight: Any, spins: Any, weights: Any, first: int, held: int) -> None:
    """Fill a block with spins; lanes that are left over repeat the last one and weigh nothing."""
    for j in range(_W):
        i = first + min(j, held - 1)
        field = strength(spins[i, 3], spins[i, 4])
        s[2 * _W + j], s[3 * _W + j], s[11 * _W + j] = spins[i, 2], field, field * field
        for k in range(4):
            s[(4 + k) * _W + j] = spins[i, 5 + k]
        for k in range(3):
            s[(8 + k) * _W + j] = spins[i, 5 + k]
        for coil in range(weights.shape[0]):
            weight[coil, j], weight[coil, _W + j] = seen(weights[coil, i], spins[i, 3], spins[i, 4], field, j < held)
    s[: 2 * _W] = 0.0


@njit(**_OPTIONS)
def _decays(left: Any, spins: Any, spans: Any, parts: int, first: int, held: int) -> None:
    """What relaxation leaves after every length of time; ``spans`` holds what is cut into parts, and what is not."""
    for d in range(len(spans)):
        time = spans[d, 0] / parts + spans[d, 1]
        for j in range(_W):
            i = first + min(j, held - 1)
            e1 = exp(-time * spins[i, 0])
            left[d, j], left[d, _W + j], left[d, 2 * _W + j] = e1, exp(-time * spins[i, 1]), 1.0 - e1


@njit(**_OPTIONS)
def signals(spins: Any, weights: Any, moved: Any, fields: Any, kinds: Any, spans: Any, parts: int, out: Any) -> None:
    """Add the signal of spins to ``out``.

    Parameters
    ----------
    spins : float64, shape (spin, 9)
        R1 and R2 in 1/s, Mz before the first interval, b1 (real and imaginary), position (x, y, z) in m, off-resonance
        in Hz.
    weights : complex128, shape (coil, spin)
        What each spin adds to the signal of each coil.
    moved : float32 in m, shape (operation, 3, spin), or (0, 3, 0)
        How far from its position each spin is in the middle of each interval.
    fields : float32 or float64, shape (operation, 6)
        Of an interval of a pulse the half angles, of free precession the turns, for one unit of b1 (real and
        imaginary), of position and of off-resonance.  The type is the one that is computed in.
    kinds : int64, shape (operation, 4)
        Whether it is a pulse, which of the spans lies between its parts, which one behind it, and whether a sample is
        taken then.
    spans : float64 in s, shape (span, 2)
        Lengths of time: what is divided by ``parts``, and what is not.
    parts : int
        How many equal rotations an interval of a pulse is cut into.
    out : complex128, shape (coil, sample)
    """
    coils = weights.shape[0]
    s, some = np.empty(_ROWS * _W, fields.dtype), np.empty(2 * _W, fields.dtype)
    weight, left = np.empty((coils, 2 * _W), fields.dtype), np.empty((len(spans), 3 * _W), fields.dtype)
    field = np.empty(6, fields.dtype)
    for first in range(0, len(spins), _W):
        held = min(_W, len(spins) - first)
        _load(s, weight, spins, weights, first, held)
        _decays(left, spins, spans, parts, first, held)
        taken = 0
        for n in range(len(kinds)):
            if len(moved):
                _move(s, moved[n], first, held)
            if kinds[n, 0]:
                for k in range(6):
                    field[k] = fields[n, k] / parts
                for _ in range(parts - 1):
                    _turn(s, left[kinds[n, 1]], field)
                _turn(s, left[kinds[n, 2]], field)
            else:
                _precess(s, left[kinds[n, 2]], fields[n])
            if kinds[n, 3]:
                for coil in range(coils):
                    real, imaginary = _collect(s, weight[coil], some)
                    out[coil, taken] += complex(real, imaginary)
                taken += 1


@njit(**_OPTIONS)
def _parts(spins: Any, moved: Any, fields: Any, kinds: Any, error: float) -> Any:
    """How many rotations an interval of a pulse is cut into so that the error stays below a bound, and what it then is.

    Rotation and relaxation are taken one after the other, relaxation in two halves.  The leading term of what that
    leaves out is at most theta theta_1 d (|R2 - R1| / 6 + R1 / 12) for a rotation by theta in a time d, theta_1 being
    the part of the pulse, because rotations about z and relaxation commute.  It falls with the square of the number of
    parts, and later shrinks with T1 at least.
    """
    turned, shift, r1, slowest, apart = 0.0, 0.0, 0.0, np.inf, 0.0
    reach = np.zeros(3)
    for i in range(len(spins)):
        r1, slowest = max(r1, spins[i, 0]), min(slowest, spins[i, 0])
        apart = max(apart, abs(spins[i, 1] - spins[i, 0]))
        turned = max(turned, spins[i, 3] ** 2 + spins[i, 4] ** 2)
        shift = max(shift, abs(spins[i, 8]))
        for k in range(3):
            reach[k] = max(reach[k], abs(spins[i, 5 + k]))
    for n in range(len(moved)):
        for k in range(3):
            for i in range(len(spins)):
                reach[k] = max(reach[k], abs(spins[i, 5 + k] + moved[n, k, i]))
    left, worst, widest = 0.0, 0.0, 0.0
    for n in range(len(kinds)):
        if kinds[n, 0]:
            along = fields[n, 5] * shift
            for k in range(3):
                along += abs(fields[n, 2 + k]) * reach[k]
            pulse = 4.0 * (fields[n, 0] ** 2 + fields[n, 1] ** 2) * turned
            square, time = pulse + 4.0 * along**2, fields[n, 5] / np.pi
            widest = max(widest, square)
            left = left * exp(-time * slowest) + np.sqrt(square * pulse) * time * (apart / 6.0 + r1 / 12.0)
            worst = max(worst, left)
        else:
            left *= exp(-fields[n, 5] * slowest)
    parts = int(np.ceil(max(1.0, np.sqrt(worst / error), np.sqrt(widest) / _WIDEST)))
    return parts, worst / parts**2


@njit(**_OPTIONS)
def _bounds(spins: Any, moved: Any, bounded: Any, kinds: Any, error: float, reached: Any) -> Any:
    """How many parts each sample's pulses are cut into; ``reached`` takes the bounds of the errors."""
    parts = np.empty(len(spins), np.int64)
    for i in range(len(spins)):
        parts[i], reached[i] = _parts(spins[i], moved[i], bounded, kinds, error)
    return parts


def batch(spins: Any, weights: Any, moved: Any, fields: Any, bounded: Any, kinds: Any, spans: Any, error: float,
          out: Any, reached: Any) -> None:
    """`signals` of many samples, as the first dimension of spins, weights, moved and out, on the chosen device.

    ``bounded`` are the fields in float64, ``reached`` takes the bounds of the errors, shape (sample,).
    """
    parts = _bounds(spins, moved, bounded, kinds, error, reached)
    if device.chosen() == "cuda":
        from factory.physics import _card_isochromats

        _card_isochromats.signals(spins, weights, moved, fields, kinds, spans, parts, out)
    else:
        _all_signals(spins, weights, moved, fields, kinds, spans, parts, out)


@njit(**_OPTIONS)
def _all_signals(spins: Any, weights: Any, moved: Any, fields: Any, kinds: Any, spans: Any, parts: Any, out: Any
                 ) -> None:
    for i in range(len(spins)):
        signals(spins[i], weights[i], moved[i], fields, kinds, spans, parts[i], out[i])
