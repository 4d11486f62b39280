"""The examples in the documentation run as they stand, are short, and do what they say.

Budget: 25 s on two cores; the slow one 20 s more.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stream.small import ROOT, agent_store, environment

EXAMPLES = ROOT / "docs" / "examples"


def said(name: str, folder: Path, **more: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], env=environment(**more), cwd=folder, timeout=120,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 45
    assert f'"{path.name}"' in Path(__file__).read_text(), "no test runs it"


def test_plain_torch(tmp_path: Path) -> None:
    out = said("plain_torch.py", tmp_path)
    assert "goes on after 640 samples" in out
    assert re.findall(r"(\d+) batches", out) == ["10", "22", "32"], "the epoch has 32, whoever stopped in it"


def test_lightning(tmp_path: Path) -> None:
    out = said("lightning_module.py", tmp_path)
    assert re.findall(r"(\d+) steps; the stream stands at (\d+)", out) == [("10", "640"), ("32", "0")]


def test_numpy(tmp_path: Path) -> None:
    """Without torch, too; T2 is spread by 84 ms."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    out = said("numpy_jax.py", tmp_path, PYTHONPATH=str(tmp_path))
    samples, error = map(int, re.findall(r"(\d+) samples, T2 to (\d+) ms", out)[0])
    assert samples == 20 * 2048
    assert error < 30


def ddp(world: int, folder: Path) -> tuple[int, int, float]:
    """Steps, samples of a step of the first rank, and what its weights add up to."""
    store, given = agent_store(world)
    ranks = []
    try:
        for rank in range(world):
            own = environment(**given, RANK=str(rank), LOCAL_RANK=str(rank))
            ranks.append(subprocess.Popen([sys.executable, str(EXAMPLES / "ddp.py")], env=own, cwd=folder,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        outs = [process.communicate(timeout=120) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        del store
    for process, (_, errors) in zip(ranks, outs, strict=True):
        # Now and then a thread of gloo's ends a rank that has done everything, after Python is through with it
        late = process.returncode == -signal.SIGABRT and errors == "terminate called without an active exception\n"
        assert process.returncode == 0 or late, outs
    steps, share, weights = re.findall(r"(\d+) steps of (\d+) of 64 samples here, weights (\S+)", outs[0][0])[0]
    return int(steps), int(share), float(weights)


def test_ddp(tmp_path: Path) -> None:
    assert ddp(2, tmp_path)[:2] == (32, 32)


@pytest.mark.slow
def test_ddp_takes_the_same_steps_on_any_number_of_ranks(tmp_path: Path) -> None:
    found = [ddp(world, tmp_path) for world in (1, 2, 4)]
    assert [steps for steps, _, _ in found] == [32] * 3
    assert [share for _, share, _ in found] == [64, 32, 16]
    assert [weights for _, _, weights in found] == pytest.approx([found[0][2]] * 3, abs=2e-4)
