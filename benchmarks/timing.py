"""How long a call takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any], rounds: int = 9) -> float:
    """Median of some rounds; one before them warms up."""
    taken = []
    for _ in range(1 + rounds):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])
