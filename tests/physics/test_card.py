"""Kernels for graphics cards.  Budget: 60 s, most of it in numba's simulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numba import njit

import factory
from factory import device, numerics32, recipe
from factory.physics import _graphs, _isochromats, _pathways
from factory.recipe import Recipe, load
from factory.store import materialise

ROOT = Path(__file__).parents[2]
ON_CARD = pytest.mark.skipif(bool(device.missing()), reason=f"no graphics card: {device.missing()}")


@pytest.fixture
def as_if_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_chosen", ["cuda"])


def test_simulated_threads_give_the_processors_bytes() -> None:
    """What the kernels do on a card, thread by thread, in Python."""
    run = subprocess.run([sys.executable, ROOT / "tests" / "physics" / "by_threads.py"], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr
    cases = run.stdout.splitlines()
    assert len(cases) == 12
    assert [case for case in cases if not case.endswith(": same")] == []


def _fusing(function: Any) -> Any:
    """A function compiled by a compiler that may fuse every product with a sum, as CUDA's does."""
    return njit(error_model="numpy", fastmath={"contract"})(function.py_func)


F = np.float32
CALLS: dict[str, tuple[Any, Callable[[Any, Any], Any], int]] = {
    "exp": (numerics32.exp32, lambda f, x: f(-abs(x[0])), 1),
    "sincos": (numerics32.sincos32, lambda f, x: f(x[0]), 1),
    "pulse of one phase": (_graphs.turned, lambda f, x: f(*x), 5),
    "pulse of any phase": (_pathways.turned, lambda f, x: f(*x), 8),
    "product": (_pathways.product, lambda f, x: f(*x), 4),
    "rotation": (_isochromats.turned, lambda f, x: f(*x), 8),
    "precession": (_isochromats.precessed, lambda f, x: f(*x), 3),
    "angle": (_isochromats.along_z, lambda f, x: f(*x), 8),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_left_to_fuse(name: str) -> None:
    """So a compiler that fuses by itself gives the same bytes; and it would fuse what is not."""
    function, call, count = CALLS[name]
    fusing, numbers = _fusing(function), np.random.default_rng(0).normal(size=(2000, count)).astype(F)
    assert all(call(function, row) == call(fusing, row) for row in numbers)

    def loose(x: Any, y: Any) -> Any:
        return x * y + x

    plain = njit(loose)
    fused = _fusing(plain)
    assert any(plain(*row) != fused(*row) for row in np.random.default_rng(0).normal(size=(100, 2)).astype(F))


@pytest.mark.parametrize("name", sorted(device.STEPS))
def test_every_step_that_is_said_to_run_on_a_card_goes_there(
    name: str, as_if_chosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factory.physics import _card_graphs, _card_isochromats

    called: list[str] = []

    def instead(kernel: Callable[..., Any]) -> Callable[..., None]:
        def run(*given: Any) -> None:
            called.append(kernel.__name__)
            kernel(*given)

        return run

    monkeypatch.setattr(_card_graphs, "train", instead(_graphs.train))
    monkeypatch.setattr(_card_graphs, "train_of_any_phase", instead(_pathways.train))
    monkeypatch.setattr(_card_isochromats, "signals", instead(_isochromats._all_signals))
    story = _using(name)
    made = factory.make(story, next(iter(story.splits)), 0, 2)
    assert called
    monkeypatch.setattr(device, "_chosen", ["cpu"])
    assert made.identical(factory.make(story, next(iter(story.splits)), 0, 2))


def _using(step: str) -> Recipe:
    """A packaged recipe with that step, in its corner."""
    for name in recipe.names():
        story = load(name, corner=True)
        if any(link.step.name == step for plan in story.splits.values() for link in plan.chain):
            return story
    raise AssertionError(f"no recipe uses {step}")


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(device.DeviceError, match="no device 'tpu'; choose one of cpu, cuda"):
        device.choose("tpu")


@pytest.mark.skipif(not device.missing(), reason="there is a graphics card")
def test_without_a_card_the_sentence_says_why_and_nothing_is_begun(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "factory.cli", "make", "cpmg_t2", "store.zarr", "--samples", "train=8",
                          "--device", "cuda"], cwd=tmp_path, capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert run.returncode == 1
    assert "cannot run on a graphics card here" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.skipif(not device.missing(), reason="there is a graphics card")
def test_workers_without_a_card_are_found_before_anything_is_begun(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster, \
            Client(cluster) as client, pytest.raises(device.DeviceError, match="graphics card of a worker"):
        materialise(load("cpmg_t2", corner=True), tmp_path / "store", client, device="cuda")
    assert not (tmp_path / "store").exists()


@ON_CARD
@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(device.STEPS))
def test_a_card_gives_the_processors_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    story = _using(name)
    split = next(iter(story.splits))
    made = {}
    for where in ("cpu", "cuda"):
        monkeypatch.setattr(device, "_chosen", [where])
        made[where] = factory.make(story, split, 0, 5)
    assert made["cpu"].identical(made["cuda"])


def _left_to_fuse(text: str) -> list[str]:
    """Sums in PTX of a product that is rounded before: not one by a half or by a power of two made of bits."""
    products: dict[str, tuple[str, str]] = {}
    exact, found = {"0f3F000000", "0d3FE0000000000000"}, []
    for line in text.splitlines():
        if bits := re.match(r"\s*mov\.b(?:32|64)\s+(%fd?\d+), %r", line):
            exact.add(bits[1])
        elif operation := re.match(r"\s*(mul|add|sub)(?:\.rn)?\.f(?:32|64)\s+(\S+), (\S+), (\S+);", line):
            name, out, *given = operation.groups()
            if name == "mul" and not exact & {*given}:
                products[out] = given[0], given[1]
            elif name != "mul" and products.keys() & {*given}:
                found.append(line.strip())
    return found


def test_kernels_compile_for_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spilling: what they keep fits into registers."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'mr-factory[gpu]'")
    from numba import complex128, cuda, float32, float64, int32, int64, types
    from numba.cuda import dispatcher

    from factory.physics import _card_graphs, _card_isochromats

    class Card:
        compute_capability = (9, 0)

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: Card)
    one, two, whole = float32[::1], float32[:, ::1], int64
    kernels: list[tuple[Any, tuple[Any, ...]]] = []
    for shared in (True, False):
        kernels.append((_card_graphs._real(shared), (two, one, one, one, float32, whole, one, two)))
        kernels.append((_card_graphs._any_phase(shared), (two, one, two, int64[:, ::1], whole, one, two)))
    for kind in (float32, float64):
        spins = [types.Array(t, n, "C") for t, n in (
            (float64, 3), (complex128, 3), (float32, 4), (kind, 2), (int32, 2), (float64, 2), (int64, 1), (kind, 4),
            (kind, 4), (float64, 4))]  # fmt: skip
        for moves in (True, False):
            kernels.append((_card_isochromats._kernel(np.dtype(str(kind)), moves), tuple(spins)))
    for kernel, arguments in kernels:
        text, _ = cuda.compile_ptx(kernel.py_func, arguments, cc=(9, 0))
        assert ".target sm_90" in text
        assert "sin.approx" not in text
        assert "ex2.approx" not in text
        assert _left_to_fuse(text) == []
