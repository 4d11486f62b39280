"""Maps that are cut while they are read; each in a process of its own, which a signal may end.

Budget: 15 s on two cores.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stream.small import environment

PAGES = 4
BEGIN = f"""
import ctypes, faulthandler, mmap, os, signal, sys
import numpy as np
from factory.stream.guard import guard

def mapped(name, value):
    path = os.path.join(sys.argv[1], name)
    with open(path, "wb") as file:
        file.write(bytes([value]) * ({PAGES} * mmap.PAGESIZE))
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    address = int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
    return path, view, address

path, view, address = mapped("a", 7)
"""
GUARDED = """
other, beside, elsewhere = mapped("b", 9)
guard().stand()
first, second = guard().watch(address, len(view)), guard().watch(elsewhere, len(beside))
os.truncate(path, mmap.PAGESIZE)
assert view[:mmap.PAGESIZE] == bytes([7]) * mmap.PAGESIZE
assert not guard().cut(first)
assert view[mmap.PAGESIZE:] == bytes(3 * mmap.PAGESIZE)
assert guard().cut(first) and not guard().cut(second)
assert beside[:] == bytes([9]) * len(beside)
guard().release(first)
third = guard().watch(address, len(view))
assert third == first and not guard().cut(third), "a row that is used again begins anew"
"""
FOREIGN = """
guard().watch(1 << 40, 1 << 20)
{before}
guard().stand()
{after}
os.truncate(path, 0)
view[0]
"""
TAKEN = """
number = guard().watch(address, len(view))
guard().stand()
signal.signal(signal.SIGBUS, signal.SIG_DFL)
guard().stand()
guard().stand()
os.truncate(path, 0)
assert view[0] == 0 and guard().cut(number)
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BEGIN + program, str(folder)], env=environment(), timeout=30,
                          capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", [GUARDED, TAKEN], ids=["guarded", "taken back from another"])
def test_a_cut_map_reads_as_zeros_and_says_so(program: str, tmp_path: Path) -> None:
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr[-600:]


@pytest.mark.parametrize(("before", "after"), [("", ""), ("faulthandler.enable()", ""), ("", "faulthandler.enable()"),
                                               ("", "faulthandler.enable(); guard().stand()")])
def test_a_fault_elsewhere_ends_as_without_us(before: str, after: str, tmp_path: Path) -> None:
    done = run(FOREIGN.format(before=before, after=after), tmp_path)
    assert done.returncode == -signal.SIGBUS, done.stderr[-600:]
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(before or after)
