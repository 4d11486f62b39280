"""Volumes, folding and speed of the procedural heads: python benchmarks/heads.py [SUBJECTS]

Writes rows under the topic rim, the table docs/heads.md and the pictures that it shows.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rows import record, row
from scipy import ndimage

from factory.draws import Draws
from factory.physics import anatomy
from factory.physics._head import STRUCTURES, forms, structures

ROOT = Path(__file__).parents[1]
CODE = {name: code for code, name in enumerate(STRUCTURES)}
NUCLEI = ("caudate", "putamen", "pallidum", "thalamus")
GREY = ("cortex", *NUCLEI, "cerebellar_cortex")
WHITE = ("cerebral_white_matter", "cerebellar_white_matter", "lesion")
# Human ranges: what `measures` returns -> (low, high)
RANGES = {
    "intracranial volume (ml)": (1150, 1750),
    "grey matter of brain": (0.46, 0.62),
    "white matter of brain": (0.35, 0.52),
    "ventricles (ml)": (8, 45),
    "cortical thickness (mm)": (2.0, 3.5),
    "folding index": (0.7 * 2.5, 1.3 * 2.5),  # human: about 2.5
}


def of(head: Any, *names: str) -> Any:
    return np.isin(head, [CODE[name] for name in names])


def measures(head: Any, voxel: float) -> dict[str, float]:
    """What neuroanatomy measures of a head of `STRUCTURES`, voxel in mm."""
    ml = voxel**3 / 1e3
    count = {name: float(np.sum(head == code)) * ml for name, code in CODE.items()}
    grey, white = sum(count[n] for n in GREY), sum(count[n] for n in WHITE)
    brain = grey + white + count["brainstem"]  # a mixture of both, and counted as neither
    inside = brain + count["csf"] + count["ventricle"] + count["vessel"]
    return {
        "intracranial volume (ml)": inside,
        "brain (ml)": brain,
        "cortex (ml)": count["cortex"],
        "ventricles (ml)": count["ventricle"],
        "deep nuclei (ml)": sum(count[name] for name in NUCLEI),
        "cerebellum (ml)": count["cerebellar_cortex"] + count["cerebellar_white_matter"],
        "grey matter of brain": grey / brain,
        "white matter of brain": white / brain,
        "cortical thickness (mm)": thickness(head, voxel),
        "folding index": folding(head, voxel),
        "sulcal csf of envelope": sulcal(head, voxel),
    }


def cerebrum(head: Any) -> Any:
    return of(head, "ventricle", "cortex", "cerebral_white_matter", "lesion", *NUCLEI)


def thickness(head: Any, voxel: float) -> float:
    """Median over the middle of the ribbon of twice the distance to its border."""
    depth = ndimage.distance_transform_edt(head == CODE["cortex"])
    middle = (depth > 0) & (depth == ndimage.maximum_filter(depth, 3))
    return float(np.median(2 * depth[middle] - 1) * voxel)


def closed(mask: Any, reach: float) -> Any:
    """The mask with every gap narrower than 2 reach filled (reach in voxels), in a wider frame."""
    wide = np.pad(mask, int(reach) + 2)
    return ndimage.distance_transform_edt(ndimage.distance_transform_edt(~wide) <= reach) > reach


def edges(mask: Any) -> int:
    return sum(np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis)) for axis in range(mask.ndim))


def folding(head: Any, voxel: float) -> float:
    """Length of the pial contour over that of its envelope in coronal slices (Zilles 1988, doi:10.1007/BF00304699)."""
    brain, pial, outer = cerebrum(head), 0, 0
    for j in range(0, brain.shape[1], max(1, round(6 / voxel))):
        if brain[:, j].sum() * voxel**2 > 1500:
            pial += edges(brain[:, j])
            outer += edges(closed(brain[:, j], 10 / voxel))
    return pial / outer


def sulcal(head: Any, voxel: float) -> float:
    """Share of the cerebrum's envelope that is no brain."""
    brain = cerebrum(head)
    return 1 - brain.sum() / closed(brain, 12 / voxel).sum()


def dice(a: Any, b: Any) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


def table(found: list[dict[str, float]]) -> str:
    lines = ["| | smallest | median | largest | human |", "|---|---|---|---|---|"]
    for name in found[0]:
        values = [one[name] for one in found]
        low, high = RANGES.get(name, (None, None))
        human = "" if low is None else f"{low:g} to {high:g}"
        lines.append(f"| {name} | {min(values):.3g} | {np.median(values):.3g} | {max(values):.3g} | {human} |")
    return "\n".join(lines)


def pictures(heads: list[Any]) -> None:
    """Three planes of six heads."""
    from matplotlib.figure import Figure

    from factory.report import save

    figure = Figure(figsize=(12, 6.6), layout="constrained")
    grid = figure.subplots(3, 6)
    for column, head in enumerate(heads[:6]):
        nz, ny, nx = head.shape
        planes = head[nz // 2 + 14, ::-1], head[::-1, ny // 2], head[::-1, ::-1, nx // 2 + 12]
        for axes, plane in zip(grid[:, column], planes, strict=True):
            axes.imshow(plane, cmap="tab20", vmin=-0.5, vmax=19.5, interpolation="nearest")
            axes.axis("off")
        grid[0, column].set_title(f"subject {column}", fontsize=9)
    save(figure, ROOT / "docs/pictures/heads.png")


def patch_rate(head: Any) -> float:
    """Patches of 40 x 40 a second from a head that is there."""
    many = np.broadcast_to(head, (4096, *head.shape))
    anatomy.patch(many[:8], Draws(1, "train", 0, 8, "x"), size=40)
    start = time.perf_counter()
    anatomy.patch(many, Draws(1, "train", 0, 4096, "x"), size=40)
    return 4096 / (time.perf_counter() - start)


def main(subjects: int) -> None:
    heads, seconds = [], []
    plans = forms(Draws(20210101, "train", 0, subjects, "link/head"))
    structures(plans[0], 8.0)  # compiles
    for plan in plans:
        start = time.process_time()
        heads.append(structures(plan, 1.0))
        seconds.append(time.process_time() - start)
    found = [measures(head, 1.0) for head in heads]
    overlap = max(dice(a == CODE["cortex"], b == CODE["cortex"]) for a, b in itertools.combinations(heads, 2))
    right = [sum(low <= one[name] <= high for name, (low, high) in RANGES.items()) == len(RANGES) for one in found]
    against = f"{subjects} heads of 1 mm; ranges in docs/heads.md"
    record("rim", [
        row("heads inside every human range", sum(right) / subjects, "of heads", target=">= 1", baseline=against),
        row("folding index, median", float(np.median([f["folding index"] for f in found])), "1", baseline="human 2.5"),
        row("largest Dice overlap of two cortices", overlap, "1", target="< 0.75", baseline="every pair"),
        row("a head of 1 mm, slowest", max(seconds), "s of one core", target="<= 60", baseline=against),
        row("patches from a head that is there", patch_rate(anatomy.TISSUE_OF[heads[0]]), "patches/s",
            target=">= 2000", baseline="40 x 40, one core"),
    ])  # fmt: skip
    pictures(heads)
    page = (ROOT / "docs/heads.md").read_text().partition("<!-- table -->")[0]
    (ROOT / "docs/heads.md").write_text(f"{page}<!-- table -->\n{table(found)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
