"""Isochromats and free induction decays, on one core: python benchmarks/physics_bloch.py BAR ..., where BAR is one of

- isochromats  rotations with relaxation, against NumPy and, where it is installed, sigpy's spinors without relaxation
- fids         40,000 decays of 256 points, against NumPy
- jemris       distance to JEMRIS' signals, beside KomaMRI's (needs the reference data, as the next)
- references   distance to EPG-X, BMCTool and pulseq-cest
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rows import record, row
from timing import seconds

from factory.physics import _isochromats, spectra

sys.path.insert(0, str(Path(__file__).parents[1]))  # checks are those of the tests
DATA = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPINS, STEPS, STEP = 16_384, 300, 1e-5
ONE_ROTATION = 69  # floating-point operations of a rotation about any axis and the relaxation behind it


def spins() -> tuple[Any, Any, Any]:
    """Columns as `_isochromats.signals` takes them, the pulse in Hz and the gradient's areas in 1/m at each step."""
    rng = np.random.default_rng(0)
    columns = np.zeros((SPINS, 9))
    columns[:, 0], columns[:, 1], columns[:, 2] = 1 / rng.uniform(0.3, 3, SPINS), 1 / rng.uniform(0.02, 0.3, SPINS), 1
    columns[:, 3], columns[:, 5:8] = rng.uniform(0.8, 1.2, SPINS), rng.uniform(-0.1, 0.1, (SPINS, 3))
    columns[:, 8] = rng.uniform(-100, 100, SPINS)
    return columns, rng.normal(size=(STEPS, 2)) @ [1, 1j] * 500, rng.normal(size=(STEPS, 3)) * 0.5


def by_lanes(columns: Any, rf: Any, area: Any, real: Any) -> Callable[[], Any]:
    fields = np.pi * np.column_stack([rf.real * STEP, rf.imag * STEP, area, np.full(STEPS, STEP)])
    kinds = np.zeros((STEPS, 4), np.int64)
    kinds[:, 0], kinds[-1, 3] = 1, 1
    spans, weights = np.array([[0.0, STEP]]), np.ones((1, SPINS), complex)
    still = np.zeros((0, 3, 0), np.float32)

    def call() -> Any:
        out = np.zeros((1, 1), complex)
        _isochromats.signals(columns, weights, still, fields.astype(real), kinds, spans, 1, out)
        return out[0, 0]

    return call


def by_numpy(columns: Any, rf: Any, area: Any, real: Any = np.float32) -> Callable[[], Any]:
    """Rodrigues' formula over all spins at once."""
    r1, r2, _, b1, _, *position, f = columns.T.astype(real)
    e1, e2 = np.exp(-STEP * r1), np.exp(-STEP * r2)

    def call() -> Any:
        x, y, z = np.zeros(SPINS, real), np.zeros(SPINS, real), np.ones(SPINS, real)
        for pulse, k in zip(rf, area.astype(real), strict=True):
            ax, ay = (real(2 * np.pi * STEP * part) * b1 for part in (pulse.real, pulse.imag))
            az = real(2 * np.pi) * (k[0] * position[0] + k[1] * position[1] + k[2] * position[2] + real(STEP) * f)
            theta = np.sqrt(ax * ax + ay * ay + az * az)
            s, c = np.sin(theta) / theta, (1 - np.cos(theta)) / theta**2
            along = c * (ax * x + ay * y + az * z)
            cosine = 1 - c * theta**2
            x, y, z = (e2 * (cosine * x + along * ax + s * (y * az - z * ay)),
                       e2 * (cosine * y + along * ay + s * (z * ax - x * az)),
                       1 + e1 * (cosine * z + along * az + s * (x * ay - y * ax) - 1))  # fmt: skip
        return x.sum(dtype=float) + 1j * y.sum(dtype=float)

    return call


def by_sigpy(columns: Any, rf: Any, area: Any) -> Callable[[], Any] | None:
    """Spinors of the same rotations, without relaxation and without an inhomogeneous pulse."""
    try:
        from sigpy.mri.rf.sim import abrm_nd
    except ImportError:
        return None
    return lambda: abrm_nd(2 * np.pi * STEP * rf, columns[:, 5:8], 2 * np.pi * area)


def isochromats() -> list[dict[str, Any]]:
    rows, given = [], spins()
    count = SPINS * STEPS
    numpy = by_numpy(*given)
    sigpy = by_sigpy(*given)
    right = by_numpy(*given, real=np.float64)()  # type: ignore[arg-type]
    slow, spinors = seconds(numpy), seconds(sigpy) if sigpy else 0.0
    for real, target in ((np.float32, 1.0e9), (np.float64, 0.45e9)):
        call = by_lanes(*given, real)
        taken = seconds(call)
        against = f"NumPy float32 {count / slow:.2g} ({slow / taken:.0f} times)"
        if sigpy:
            against += f", sigpy {version('sigpy')} {count / spinors:.2g} ({spinors / taken:.0f} times)"
        away = abs(call() - right) / SPINS
        against += f"; {ONE_ROTATION * count / taken / 1e9:.0f} GFLOP/s; {away:.1g} a spin from NumPy float64"
        rows.append(row(f"isochromats, {real.__name__}, rotation and relaxation", count / taken, "spin-steps/s a core",
                        target=f">= {target:g}", baseline=against))
    return rows


def fids() -> list[dict[str, Any]]:
    rng, shape = np.random.default_rng(0), (40_000, 10)
    values = [rng.uniform(*ends, shape) for ends in ((0.05, 1), (10, 990), (0.01, 0.1792), (0, 2 * np.pi))]
    peaks = rng.integers(1, 11, 40_000)
    taken = seconds(lambda: spectra.fid(*values, peaks, dwell=1e-3, n_point=256))
    t = 1e-3 * np.arange(256)

    def numpy() -> Any:
        return [(a[:n, None] * np.exp(1j * phi[:n, None] - t / tau[:n, None] - 2j * np.pi * f[:n, None] * t)).sum(0)
                for a, f, tau, phi, n in zip(*(v[:4000] for v in values), peaks[:4000], strict=True)]  # fmt: skip

    slow = 10 * seconds(numpy)
    found = spectra.fid(*values, peaks, dwell=1e-3, n_point=256).signal[:4000]
    apart = np.abs(found - np.array(numpy())).max() / values[0].sum(1).max()
    return [row("40,000 decays of 256 points, 1 to 10 exponentials", taken, "s, one core", target="<= 0.03",
                baseline=f"NumPy, one at a time {slow:.2g} s ({slow / taken:.0f} times), {apart:.1g} of the sum of the "
                         f"amplitudes away; {found.nbytes * 10 / taken / 1e9:.2g} GB/s")]  # fmt: skip


def jemris() -> list[dict[str, Any]]:
    from tests.physics import test_bloch as checks

    folder, rows = DATA / "jemris", []
    for case, simulated, target in (("column1d", checks.echo_planar, 1.1), ("spheresCS", checks.echo_planar, 0.75),
                                    ("brain_spiral", checks.spiral, 0.4), ("brain_spiral", checks.spiral_file, 3.0)):
        found, right, other = simulated(folder, case)
        given = " from its .seq" if simulated is checks.spiral_file else ""
        against = f"KomaMRI {checks.distance(other, right):.2%}"
        if given:
            edges, _, _ = simulated(folder, case, earlier=5e-6)
            both, _, _ = simulated(folder, case, earlier=5e-6, exact=True)
            against += (f"; the file has gradients at the edges of the raster, where the format says middles, and a "
                        f"rounded dwell: {checks.distance(edges, right):.2%} with the edges, "
                        f"{checks.distance(both, right):.2%} with both undone")
        rows.append(row(f"JEMRIS {case}{given}, no phase or scale fitted", 100 * checks.distance(found, right),
                        "% NRMSE", target=f"<= {target}", baseline=against))
    return rows


def references() -> list[dict[str, Any]]:
    from tests.physics import test_epg_reference as graphs
    from tests.physics import test_exchange as pools

    with np.load(DATA / "epg" / "syc__EPGX_GRE_single_MT.npz") as file:
        stored = {name: file[name].conj() for name in file.files}
    rows = []
    for title, states, which in (("single pool", graphs.single_pool, "0"), ("bound pool", graphs.bound_pool, "mt")):
        worst = max(graphs.distance(n, stored[f"Fn{which}"], stored[f"Zn{which}"], *states(n))
                    for n in (1, 2, 3, 57, 100, 150, graphs.PULSES))  # fmt: skip
        rows.append(row(f"EPG-X, RF-spoiled gradient echoes, {title}", worst, "of M0", target="<= 1e-9",
                        baseline="largest distance of all stored states F+, F-, Z behind seven of 200 pulses"))
    found, wanted = pools.wasabi()
    rows.append(row("BMCTool, WASABI", np.abs(found - wanted).max(), "of Mz", target="<= 1e-6",
                    baseline="without the dead times of pulses, which it leaves out; with them 2.4e-5"))
    found, wanted, _ = pools.aptw(pools.exchange.train(pools.parse(pools.file_text("pc__APTw_3T_example.seq")), 300))
    rows.append(row("pulseq-cest, APTw", np.abs(found - wanted).max(), "of Mz", target="<= 1e-3",
                    baseline="super-Lorentzian line; BMCTool 3.0e-4"))
    moved, still = pools.moved_and_still(0.3)
    rows.append(row("Z(offset; dB0) against Z(offset - dB0; 0)", np.abs(moved - still).max(), "of Mz", target="<= 1e-9",
                    baseline="0.3 ppm, two pools and a semisolid one"))
    return rows


BARS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "isochromats": isochromats, "fids": fids, "jemris": jemris, "references": references,
}  # fmt: skip

if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted or not set(wanted) <= set(BARS):
        sys.exit(__doc__)
    record("physics", [line for bar in wanted for line in BARS[bar]()])
