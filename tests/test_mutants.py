"""Each law catches faults that are injected into the real code: at least two for each law.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import factory.floor as floor
import factory.store.commit as commit
import factory.store.run as run
import factory.virtual as virtual
import tests.laws as laws
from factory.draws import Draws
from factory.physics import noise, relaxation
from factory.recipe import Recipe, load
from factory.step import Step


@pytest.fixture
def recipe() -> Recipe:
    return load("rim_t1", corner=True)


@contextmanager
def mutated(step: Step, mutant: Any) -> Iterator[None]:
    """The step with another function behind its signature."""
    real = step.function
    floor._remembered.states.clear()
    object.__setattr__(step, "function", mutant)
    try:
        yield
    finally:
        object.__setattr__(step, "function", real)
        floor._remembered.states.clear()


gaussian, recovery = noise.gaussian.function, relaxation.inversion_recovery.function
real_normal, real_key, real_encode, real_call = Draws.normal, Draws.key, commit.encode_shard, floor._call


def forgets_the_start(self: Draws, name: str, shape: tuple[int, ...] = ()) -> Any:
    return real_normal(Draws(self.seed, self.split, 0, self.size, self.label), name, shape)


def mixes_samples(signal: Any, sigma: Any, draws: Draws) -> Any:
    out = gaussian(signal, sigma, draws)
    return out._replace(measured=out.measured - out.measured.mean(axis=0, keepdims=True))


def test_cut_catches_numbers_that_count_from_the_shard(recipe: Recipe) -> None:
    with patch.object(Draws, "normal", forgets_the_start), pytest.raises(AssertionError, match="differs"):
        laws.law_cut(recipe)


def test_cut_catches_a_step_that_mixes_samples(recipe: Recipe) -> None:
    with mutated(noise.gaussian, mixes_samples), pytest.raises(AssertionError, match="differs"):
        laws.law_cut(recipe)


def test_no_dead_knob_catches_a_dead_input(recipe: Recipe) -> None:
    def dead(signal: Any, sigma: Any, draws: Draws) -> Any:
        return gaussian(signal, np.full_like(sigma, 0.1), draws)

    with mutated(noise.gaussian, dead), pytest.raises(AssertionError, match="input 'sigma' moves nothing"):
        laws.law_no_dead_knob(recipe)


def test_no_dead_knob_catches_a_dead_constant(recipe: Recipe) -> None:
    def dead(amplitude: Any, efficiency: Any, t1: Any, *, inversion_time: Any) -> Any:
        times = tuple(0.1 * (k + 1) for k in range(len(inversion_time)))
        out = recovery(amplitude, efficiency, t1, inversion_time=times)
        return out._replace(inversion_time=np.array(inversion_time))

    expected = "constant 'inversion_time' moves nothing"
    with mutated(relaxation.inversion_recovery, dead), pytest.raises(AssertionError, match=expected):
        laws.law_no_dead_knob(recipe)


def test_honest_signature_catches_another_dtype(recipe: Recipe) -> None:
    def double(signal: Any, sigma: Any, draws: Draws) -> Any:
        out = gaussian(signal, sigma, draws)
        return out._replace(measured=out.measured.astype("float64"))

    with mutated(noise.gaussian, double), pytest.raises(TypeError, match="promised 'measured' as float32"):
        laws.law_honest_signature(recipe)


def test_honest_signature_catches_a_number_that_is_none(recipe: Recipe) -> None:
    def holed(signal: Any, sigma: Any, draws: Draws) -> Any:
        out = gaussian(signal, sigma, draws)
        out.measured[-1, 0] = np.nan
        return out

    with mutated(noise.gaussian, holed), pytest.raises(AssertionError, match="signal is not finite"):
        laws.law_honest_signature(recipe)


def test_honest_signature_catches_a_step_that_writes_into_its_input(recipe: Recipe) -> None:
    def greedy(signal: Any, sigma: Any, draws: Draws) -> Any:
        signal *= 2
        return gaussian(signal, sigma, draws)

    with mutated(noise.gaussian, greedy), pytest.raises(ValueError, match="read-only"):
        laws.law_honest_signature(recipe)


def test_independence_catches_a_key_that_forgets_the_name(recipe: Recipe) -> None:
    nameless = patch.object(Draws, "key", lambda self, name: real_key(self, "same"))
    with nameless, pytest.raises(AssertionError, match="share one stream"):
        laws.law_independence(recipe)


def test_independence_catches_a_generator_that_ignores_its_key(recipe: Recipe) -> None:
    real = laws.uniform_rows

    def keyless(out: Any, key: Any, index: Any) -> None:
        real(out, np.uint64(0), index)

    with patch.object(laws, "uniform_rows", keyless), pytest.raises(AssertionError):
        laws.law_independence(recipe)


def test_store_catches_samples_that_remember_earlier_ones(recipe: Recipe, tmp_path: Path) -> None:
    count = itertools.count()

    def stateful(link: Any, draws: Any, inputs: Any) -> Any:
        made = real_call(link, draws, inputs)
        if link.step is noise.gaussian:
            made["signal"] = made["signal"] + np.float32(next(count))
        return made

    with patch.object(floor, "_call", stateful), pytest.raises(AssertionError):
        laws.law_store(recipe, tmp_path)


def test_store_catches_a_resume_that_forgets_what_is_done(recipe: Recipe, tmp_path: Path) -> None:
    real = commit.standing

    def forgetful(plan: Any, shard: int, payload: bool = False) -> Any:
        return real(plan, shard, payload) if shard else None

    forgets = patch.object(run, "standing", forgetful)
    with patch.object(commit, "standing", forgetful), forgets, pytest.raises(AssertionError):
        laws.law_store(recipe, tmp_path)


def test_one_truth_catches_a_store_that_rounds(recipe: Recipe, tmp_path: Path) -> None:
    def rounding(bulk: Any, values: Any) -> Any:
        return real_encode(bulk, values.round(3) if values.dtype.kind == "f" else values)

    with patch.object(commit, "encode_shard", rounding), pytest.raises(AssertionError):
        laws.law_one_truth(recipe, tmp_path)


def test_one_truth_catches_a_virtual_set_that_is_one_sample_off(recipe: Recipe, tmp_path: Path) -> None:
    real = virtual.Made.block

    def shifted(self: Any, made_by: Recipe, split: str, samples: Any) -> Any:
        return real(self, made_by, split, samples).roll(sample=1)

    with patch.object(virtual.Made, "block", shifted), pytest.raises(AssertionError):
        laws.law_one_truth(recipe, tmp_path)
