"""Steps: one file a topic, steps on top, numba kernels below.  This page states, once, what every file here means.

Units
-----
Inside a kernel a number is in s, Hz, rad, T, m, kg/m3, S/m, T/m, 1/s, m2/s or mol/m3; decibel and ppm are kinds of
their own. Nothing is ever in milliseconds: `factory.units` converts where a recipe is read.  Proton density,
efficiencies and relative fields have the unit ``1``.

Signs
-----
- The Bloch equation is dM/dt = gamma M x B with gamma > 0, and Mxy = Mx + i My.
- A 90 degree pulse of phase 0 (B1 along +x) takes +Mz to Mxy = +i (that is, to +y).
- Off-resonance f > 0 turns the transverse magnetisation by exp(-i 2 pi f t); gradients by exp(-i 2 pi k.r) with k the
  integral of gamma-bar G dt.  A pulse that is resonant at +f has the phase -2 pi f t.
- Extended phase graphs: F+ after a pulse (alpha, phi) from equilibrium is +i exp(i phi) sin(alpha).
- Fourier transforms are orthonormal and centred.

Doors to the outside convert by name: Pulseq's RF and ADC phasors are conjugated on entry; EPG-X and Weigel's paper are
the conjugate with negated RF phases; a stored spectrum (ppm ascending) is the conjugate of the physics signal.

Noise
-----
A standard deviation is per real channel.  The one converter from a signal-to-noise ratio names its reference
(`noise.sigma_from_snr`).

Kernels
-------
float64 inside, float32 out, unless a measured gain and an error bound speak for float32 inside; single-threaded and
without the GIL; the only transcendental functions are those of `factory.numerics` and `factory.numerics32`, and
polynomials in the kernel itself; no BLAS, no fastmath, no sum over samples: a sample's bytes do not depend on its
neighbours.  A relaxation time of 0 is taken as `SHORTEST`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SHORTEST = 1e-30  # s


def rows(values: Any) -> tuple[Any, int]:
    """How a kernel sees a variable: a read-only C-contiguous table and how many rows to move from sample to sample.

    Parameters
    ----------
    values : ndarray, shape (sample, ...)
        Contiguous, or one outer value seen by every sample through a stride of 0.  Not modified and, unless its layout
        is none of these two, not copied.

    Returns
    -------
    table : ndarray, shape (sample or 1, voxel)
        The dimensions after ``sample`` are flattened.  Sample i reads row ``i * move``.
    move : int
        1, or 0 for an outer value.

    Notes
    -----
    One layout and one mutability means that numba compiles one kernel instead of four.
    """
    if len(values) > 1 and values.strides[0] == 0:
        values, move = values[:1], 0
    else:
        move = 1
    table = np.ascontiguousarray(values).reshape(len(values), -1).view()
    table.flags.writeable = False
    return table, move
