"""The published evaluation of a system, study by study: each returns rows and a figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

Study = Callable[..., tuple[list[dict[str, Any]], Any]]


def studies_of(system: str) -> dict[str, Study]:
    """The studies of a system by name; none for a system whose paper has none that simulation can repeat.

    A study takes the weights files of the networks to judge, and by name `track`, a progress bar, and its own sizes.
    """
    from models.studies.noise import noise, times
    from models.studies.phantom import phantom
    from models.studies.structures import blur, sharpness
    from models.studies.timing import timing

    t1 = {"noise": noise, "blur": blur, "phantom": phantom, "sharpness": sharpness, "times": times, "timing": timing}
    t2 = {"noise": partial(noise, recipe="rim_t2"), "phantom": partial(phantom, quantity="t2")}
    return {"rim_t1": t1, "resnet_t1": t1, "resnet_t1_quarter": t1, "rim_t2": t2, "resnet_t2": t2}.get(system, {})
