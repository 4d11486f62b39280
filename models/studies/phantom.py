"""Digital NIST/ISMRM system phantom (Fig. 4 of the paper): fourteen spheres with known T1 and T2.

Nominal values at 3 T and 20 C: Stupic 2021, doi:10.1002/mrm.28779 (T1 array: NiCl2, T2 array: MnCl2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from factory import floor
from factory.recipe import load
from models.studies import pictures
from models.studies.estimators import estimators, time_of, without_controls
from models.studies.noise import Track, named, untracked
from models.studies.slices import REFERENCE, at_snr, flat, judged_on
from models.studies.statistics import Row, repeated

PHANTOMS = {"t1": ("nist_t1", "rim_t1_23"), "t2": ("nist_t2", "rim_t2")}


def phantom(networks: Sequence[str], quantity: str = "t1", *, snr: float = 30, count: int = 4,
            track: Track = untracked) -> tuple[list[Row], Any]:  # fmt: skip
    """Bias and variation in each sphere, and their means over the spheres within the range of the times."""
    name, tuning = PHANTOMS[quantity]
    settings = {"draw.sigma.constant": f"{REFERENCE / snr:.9g}", "splits.test.levels.noise": str(count)}
    recipe = load(name, set=settings)
    data = flat(floor.make(recipe, "test", 0, count))
    other = at_snr(judged_on(tuning, 40, 2, heads=0)[1], snr)
    time = data[time_of(data)].to_numpy()
    sphere, truth = data["sphere"].to_numpy()[0], data[quantity].to_numpy()[0].astype(np.float64)
    rows: list[Row] = []
    methods = without_controls(estimators(networks, other))
    for method, estimate in track(methods.items(), "system phantom"):
        maps = estimate(data)[quantity]
        spheres: list[tuple[float, float, float]] = []
        for number in range(1, int(sphere.max()) + 1):
            inside = sphere == number
            found = repeated(maps[:, inside], truth[inside])
            nominal = float(truth[inside][0])
            spheres.append((nominal, 100 * float(np.mean(found.mean_bias)), 100 * float(np.mean(found.cv))))
            facts = {"study": "phantom", "quantity": quantity, "sphere": number, "nominal": nominal} | named(method)
            rows.append(facts | {"name": "bias", "value": spheres[-1][1], "unit": "%"})
            rows.append(facts | {"name": "CV", "value": spheres[-1][2], "unit": "%"})
        within = np.array([s for s in spheres if time.min() <= s[0] <= time.max()])
        facts = {"study": "phantom", "quantity": quantity, "sphere": "within the times"} | named(method)
        rows.append(facts | {"name": "absolute bias", "value": float(np.abs(within[:, 1]).mean()), "unit": "%"})
        rows.append(facts | {"name": "CV", "value": float(within[:, 2].mean()), "unit": "%"})
    return rows, pictures.ladder(rows, (float(time.min()), float(time.max())))
