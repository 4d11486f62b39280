"""Live batches are stored batches, bit for bit, whatever the recipe, the split, the batch, the rank and the order.

Budget: 15 s on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.recipe import load
from factory.store import materialise
from factory.stream import Stream
from tests.stream.small import recipe_in

DISTRIBUTIONS = ["{uniform: [10 ms, 300 ms]}", "{loguniform: [10 ms, 300 ms]}", "{constant: 80 ms}"]
KEPT = ["[signal]", "[signal, amplitude]", "[{signal: float64}, t2]", "[signal, {clean: complex64}]",
        "[signal, clean, sigma]"]


@st.composite
def recipes(draw: Any) -> str:
    """Text of a recipe with one axis of samples, or with levels whose scalars several samples share."""
    times = draw(st.lists(st.integers(1, 400), min_size=1, max_size=9, unique=True))
    subjects = draw(st.booleans())
    study = "{levels: {subject: 4, noise: 7}}" if subjects else "{samples: 28}"
    train = "" if subjects else f"  train: {{samples: {draw(st.integers(1, 60))}}}\n"
    t2 = draw(st.sampled_from(DISTRIBUTIONS[: 2 if subjects else 3]))
    t2 = t2[:-1] + ", at: subject}" if subjects else t2
    return (f"about: a random recipe\nseed: {draw(st.integers(0, 2**31))}\nshard: {draw(st.sampled_from([1, 7, 14]))}\n"
            f"splits:\n{train}  study: {study}\ndraw:\n  t2: {t2}\n"
            f"  amplitude: {{uniform: [0.5, 1]}}\n  sigma: {{uniform: [0.01, {draw(st.sampled_from([0.02, 0.3]))}]}}\n"
            f"chain:\n  - relaxation.t2_decay: {{echo_time: {{values: {sorted(times)}, unit: ms}}, "
            "as: {signal: clean}}\n  - noise.gaussian: {signal: clean, as: {measured: signal}}\n"
            f"keep: {draw(st.sampled_from(KEPT))}\n")


@given(text=recipes(), data=st.data())
@settings(max_examples=10, deadline=None)
def test_live_is_stored(text: str, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe, store = load(recipe_in(Path(folder), text)), Path(folder, "s.zarr")
        materialise(recipe, store, threads=1)
        for split, plan in recipe.splits.items():
            batch = data.draw(st.integers(1, min(20, plan.samples)), label="batch")
            world = data.draw(st.integers(1, batch), label="world")
            options = {"batch": batch, "seed": data.draw(st.integers(0, 9)), "epochs": data.draw(st.integers(1, 2)),
                       "shuffle": data.draw(st.booleans()), "tail": data.draw(st.sampled_from(["drop", "pad"])),
                       "rank": data.draw(st.integers(0, world - 1)), "world": world}
            live, stored = Stream(recipe, split, **options), Stream(store, split, **options)
            state = stored.state_dict() | {"dataset": live.dataset_id,
                                           "consumed": data.draw(st.integers(0, plan.samples - 1))}
            live.load_state_dict(state)
            stored.load_state_dict(state | {"dataset": stored.dataset_id})
            for one, other in zip(live, stored, strict=True):
                assert list(one) == list(other)
                for name in one:
                    assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape), name
                    assert one[name].numpy().tobytes() == other[name].numpy().tobytes(), name
