"""Speed of the Bloch-McConnell equations, on one core: python benchmarks/physics_exchange.py

Z-spectra of 301 offsets from -15 to 15 ppm behind 2 s of 2 uT at 3 T, against SciPy's dense exponential and, where it
is installed, BMCTool's solver; CEST fingerprints of 30 frames; z-spectra under a train of shaped pulses.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from rows import record, row
from scipy.linalg import expm
from timing import seconds

from factory.physics import exchange
from factory.units import GAMMA_BAR

SPECTRA, FIELD, DURATION, B1 = 200, 3.0, 2.0, 2e-6
OFFSETS = tuple(np.linspace(-15, 15, 301))
PPM = 2 * np.pi * GAMMA_BAR * FIELD * 1e-6
TISSUE = {"t1": 1.3, "t2": 0.075, "off_resonance": 0.0, "fraction": 0.005, "exchange_rate": 100.0, "shift": 3.5,
          "solute_t1": 1.3, "solute_t2": 0.01, "semisolid_fraction": 0.0, "semisolid_exchange_rate": 23.0,
          "semisolid_t1": 1.3, "semisolid_t2": 1e-5}  # fmt: skip
ARGININE = (5, 5, 3, 3.75, 2.5, 1.75, 5.5, 6, 3.75, 5.75, 0.25, 3, 6, 4.5, 3.75, 3.5, 3.5, 0, 3.75, 6, 3.75, 4.75, 4.5,
            4.25, 3.25, 5.25, 5.25, 0.25, 4.5, 5.25)  # fmt: skip


def pools(count: int, **given: Any) -> exchange.Pools:
    """Tissues whose rates of exchange differ."""
    values = {k: np.full(count, float(v)) for k, v in (TISSUE | given).items()}
    values["exchange_rate"] *= np.linspace(0.1, 10, count) if count > 1 else 1.0
    return exchange.Pools(**values)


def spectra(tissues: exchange.Pools) -> Any:
    return exchange.spectra(tissues, np.ones(len(tissues.t1)), OFFSETS, B1, DURATION, FIELD, "super_lorentzian")


def by_scipy() -> Any:
    """One spectrum of two pools."""
    v, w1, found = TISSUE, 2 * np.pi * GAMMA_BAR * B1, []
    f, k = v["fraction"], v["exchange_rate"]
    for offset in OFFSETS:
        a = np.zeros((7, 7))
        for p, (shift, t1, t2, leaving) in enumerate([(0.0, v["t1"], v["t2"], f * k),
                                                      (v["shift"], v["solute_t1"], v["solute_t2"], k)]):  # fmt: skip
            x, y, z, free = 3 * p, 3 * p + 1, 3 * p + 2, (shift - offset) * PPM
            a[x, y], a[y, x], a[y, z], a[z, y] = free, -free, w1, -w1
            a[x, x] = a[y, y] = -1 / t2 - leaving
            a[z, z], a[z, 6] = -1 / t1 - leaving, (f if p else 1.0) / t1
        for c in range(3):
            a[c, 3 + c], a[3 + c, c] = k, f * k
        found.append((expm(DURATION * a) @ [0, 0, 1, 0, 0, f, 1])[2])
    return np.array(found)


def by_bmctool() -> Callable[[], Any] | None:
    """What runs one spectrum of two pools by BMCTool's solver alone; None where it is not installed."""
    try:
        from bmctool.parameters import CESTPool, Options, Parameters, System, WaterPool
        from bmctool.simulation.BlochMcConnellSolver import BlochMcConnellSolver
    except ImportError:
        return None
    v = TISSUE
    solute = CESTPool(k=v["exchange_rate"], f=v["fraction"], dw=v["shift"], t1=v["solute_t1"], t2=v["solute_t2"])
    parameters = Parameters(WaterPool(f=1, t1=v["t1"], t2=v["t2"]), [solute], None,
                            System(FIELD, 2 * np.pi * GAMMA_BAR * 1e-6, 0.0, 1.0), Options())  # fmt: skip
    solver = BlochMcConnellSolver(parameters, len(OFFSETS))

    def call() -> Any:
        found = []
        for offset in OFFSETS:
            solver.update_matrix(GAMMA_BAR * B1, 0.0, offset * PPM / (2 * np.pi))
            found.append(solver.solve_equation(parameters.m_vec, DURATION)[parameters.mz_loc])
        return np.array(found)

    return call


def against() -> tuple[str, float]:
    """How fast others are, in words, and our rate for two pools."""
    tissues, one = pools(SPECTRA), spectra(pools(1))[0]
    ours = SPECTRA / seconds(lambda: spectra(tissues))
    scipy = 1 / seconds(by_scipy, 3)
    said = [f"SciPy expm {scipy:.3g} ({ours / scipy:,.0f} times, differs by {np.abs(by_scipy() - one).max():.0e})"]
    peer = by_bmctool()
    if peer is not None:
        theirs = 1 / seconds(peer, 3)
        try:
            name = f"BMCTool {version('bmctool')}"
        except PackageNotFoundError:
            name = "BMCTool"
        said.append(f"{name}, solver alone {theirs:.3g} ({ours / theirs:,.0f} times, differs by "
                    f"{np.abs(peer() - one).max():.0e})")  # fmt: skip
    return "; ".join(said), ours


def pulsed() -> float:
    """Spectra a second of 33 offsets under 20 pulses of 25 pieces, three pools."""
    tissues = pools(20, semisolid_fraction=0.05)
    pulse = tuple(4e-6 * np.exp(-0.5 * np.linspace(-3, 3, 25) ** 2))
    return 20 / seconds(lambda: exchange.saturation_train(
        *tissues[:2], np.ones(20), *tissues[2:], offset=tuple(np.linspace(-8, 8, 33)), pulse=pulse, phase=(0.0,) * 25,
        pulse_duration=0.05, pause=0.04, n_pulse=20, recovery=2.4, field=FIELD))  # fmt: skip


def fingerprints() -> float:
    """Fingerprints a second of the published schedule for L-arginine, two pools."""
    tissues = pools(1000, t1=2.9, t2=0.9, shift=3.0, solute_t1=2.8, solute_t2=0.04)
    return 1000 / seconds(lambda: exchange.fingerprint(
        *tissues[:2], np.ones(1000), *tissues[2:], amplitude=tuple(1e-6 * b for b in ARGININE),
        saturation_offset=(3.0,) * 30, saturation_time=3.0, recovery=1.0, flip_angle=np.pi / 3, flip_time=0.0021,
        echo_time=0.02, field=9.4))  # fmt: skip


if __name__ == "__main__":
    others, two = against()
    tissues = pools(SPECTRA, semisolid_fraction=0.05)
    three = SPECTRA / seconds(lambda: spectra(tissues))
    record("physics", [
        row("Bloch-McConnell, two pools, 301 offsets, continuous wave", two, "spectra/s a core", target=">= 6000",
            baseline=others),
        row("Bloch-McConnell, two pools and a semisolid one, 301 offsets", three, "spectra/s a core"),
        row("Bloch-McConnell, three pools, 33 offsets, 20 pulses of 25 pieces", pulsed(), "spectra/s a core"),
        row("CEST fingerprints of 30 frames, two pools", fingerprints(), "fingerprints/s a core"),
    ])  # fmt: skip
