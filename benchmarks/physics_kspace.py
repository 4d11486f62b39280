"""Speed of encoding along trajectories, on one core: python benchmarks/physics_kspace.py

Images of 128 x 128 along a spiral of 16 shots, against finufft (where it is installed) and the dense sum over pixels;
echo-planar samples of 96 x 128 under a field of +-40 Hz.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import timing
from rows import record, row

from factory.physics import _kspace, kspace

N, FOV = 128, 0.22
seconds = partial(timing.seconds, rounds=15)


def by_finufft(ky: Any, kx: Any, image: Any) -> tuple[float, float, float]:
    """Seconds forward, seconds of the adjoint and the largest relative difference; zeros where it is not installed."""
    try:
        import finufft
    except ImportError:
        return 0.0, 0.0, 0.0
    plans = [finufft.Plan(kind, (N, N), 1, 1e-7, sign, nthreads=1) for kind, sign in ((2, -1), (1, 1))]
    for one in plans:
        one.setpts(2 * np.pi * ky, 2 * np.pi * kx)
    samples = plans[0].execute(image)
    ours = _kspace.forward(_kspace.plan(ky, kx, (N, N)), image) * N
    error = float(np.abs(samples - ours).max() / np.abs(samples).max())
    return seconds(lambda: plans[0].execute(image)), seconds(lambda: plans[1].execute(samples)), error


def by_dense(ky: Any, kx: Any, image: Any) -> float:
    """Seconds of the sum over pixels as a product with a matrix made for 64 samples at a time."""
    r = np.arange(N) - N // 2
    some = slice(0, 64)

    def call() -> Any:
        phase = ky[some, None, None] * r[:, None] + kx[some, None, None] * r
        return np.exp(-2j * np.pi * phase).reshape(64, -1) @ image.reshape(-1)

    return seconds(call) * ky.size / 64


def along_a_spiral() -> list[dict[str, Any]]:
    path = kspace.spiral(np.zeros(1), field_of_view=FOV, resolution=FOV / N, n_shot=16, gradient=0.03, slew=150.0,
                         dwell=4e-6, echo_time=0.0)  # fmt: skip
    ky, kx = ((k * FOV / N).reshape(-1) for k in (path.ky, path.kx))
    rng = np.random.default_rng(0)
    image = rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))
    plan = _kspace.plan(ky, kx, (N, N))
    samples, ones = _kspace.forward(plan, image), np.ones(ky.size)
    here = (seconds(lambda: _kspace.forward(plan, image)), seconds(lambda: _kspace.adjoint(plan, samples, ones)))
    *there, error = by_finufft(ky, kx, image)
    dense = by_dense(ky, kx, image)
    rows = []
    for name, ours, theirs in zip(("image to samples", "samples to image"), here, there, strict=True):
        peer = f"finufft {1 / theirs:,.0f} (differs by {error:.0e}), " if theirs else ""
        rows.append(row(f"spiral of {ky.size:,} samples, 128 x 128, {name}", 1 / ours, "images/s a core",
                        baseline=f"{peer}dense sum {1 / dense:.2g}"))  # fmt: skip
    return rows


def in_a_field() -> list[dict[str, Any]]:
    path = kspace.epi(np.zeros(1), field_of_view=FOV, resolution=FOV / 96, n_shot=96, n_readout=128, dwell=5e-6,
                      ramp=1.2e-4, echo_time=0.035)  # fmt: skip
    image = np.random.default_rng(0).normal(size=(1, 96, 96))
    rows = []
    for width in (0.0, 40.0):
        field = width * np.linspace(-1, 1, 96 * 96).reshape(1, 96, 96)
        taken = seconds(lambda field=field: kspace.encode(image, *path[:2], path.time, field, field_of_view=FOV))
        rows.append(row(f"echo-planar samples, 96 x 96, field of +-{width:g} Hz", 1 / taken, "images/s a core"))
    return rows


if __name__ == "__main__":
    record("physics", along_a_spiral() + in_a_field())
