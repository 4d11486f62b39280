"""What a terminal is told while kernels compile.  Budget: 15 s."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _told(cache: Path) -> str:
    """What `factory sample` says on a terminal, whose compiled kernels lie in a folder."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "factory.cli", "sample", "drone_epi", "train", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment, cwd=cache) as run:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
    assert run.returncode == 0, said
    return said.decode()


def test_a_terminal_is_told_once_that_kernels_compile(tmp_path: Path) -> None:
    first, second = _told(tmp_path), _told(tmp_path)
    assert "compiling factory." in first
    assert "compiling" not in second
