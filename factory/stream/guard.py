"""A memory map whose file is cut reads as zeros where its end was, instead of ending the process with SIGBUS.

No look at a file's size happens at once with the copy out of its map, so the signal itself is answered: the handler
puts an empty page where the page of a guarded map is gone, notes which map it was and lets the reader go on, who asks
afterwards whether a map was cut.  A fault anywhere else gets what it would have got without us: the handler that was
there before, or the end.  Compositors guard the memory that they share with their clients in the same way.

The handler is machine code that takes no lock and calls two functions of the system, mmap and sigaction.  Linux only:
elsewhere no file is mapped (`factory.stream.stored.is_local`).
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

MAPS = 1 << 17  # guarded at once; memory is used only for as many as there were
_USED, _FOREIGN, _BEFORE, _ROWS = 0, 1, 2, 32  # places in the table; a row is begin, end, faults
_WORDS = 19  # of 8 bytes in struct sigaction: handler, 16 of mask, flags, restorer
_FLAGS, _SIGINFO, _FAULT_ADDRESS = 17, 4, 2  # words in struct sigaction and in siginfo_t; SA_SIGINFO
_PAGE = mmap.PAGESIZE
_READ, _ANONYMOUS_FIXED = 1, 0x32  # PROT_READ; MAP_PRIVATE, MAP_ANONYMOUS and MAP_FIXED


class Guard:
    """The handler of this process and its table; `guard` returns the one that there is."""

    def __init__(self) -> None:
        self.table, self.free = np.zeros(_ROWS + 3 * MAPS, np.int64), list[int]()
        self.ours, self.found = np.zeros(_WORDS, np.int64), np.zeros(_WORDS, np.int64)
        self.ours[0], self.ours[_FLAGS] = int(_handler.address or 0), _SIGINFO
        _handler.ctypes(0, self.table.ctypes.data, 0)
        self.action = ctypes.CDLL(None).sigaction
        self.action.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self.where = self.found.ctypes.data

    def stand(self) -> None:
        """Be the handler, also where another one was set since (torch does in the workers of its loader)."""
        self.action(signal.SIGBUS, None, self.where)
        if self.found[0] != self.ours[0]:
            self.table[_FOREIGN], self.table[_BEFORE : _BEFORE + _WORDS] = 0, self.found
            self.action(signal.SIGBUS, self.ours.ctypes.data, None)

    def watch(self, address: int, size: int) -> int:
        """Guard a map from now on; OSError when there are too many.  Returns the number under which it is known."""
        number = self.free.pop() if self.free else int(self.table[_USED])
        if number == MAPS:
            raise OSError(f"more than {MAPS} files are mapped")
        row = self.table[_ROWS + 3 * number :]
        row[:3] = address, address + size, 0
        self.table[_USED] = max(self.table[_USED], number + 1)
        return number

    def cut(self, number: int) -> bool:
        """Whether a page of the map was gone when it was read."""
        return bool(self.table[_ROWS + 3 * number + 2])

    def release(self, number: int) -> None:
        """Guard a map no longer; before it is closed."""
        self.table[_ROWS + 3 * number : _ROWS + 3 * number + 3] = 0
        self.free.append(number)


@cache
def guard() -> Guard:
    """The guard of this process; a child that is forked has a copy of it."""
    return Guard()


_int: Any = types.intc
_word: Any = types.intp
_void: Any = types.voidptr
_words: Any = carray


def _static(_typing: Any) -> Any:
    """The address of eight bytes that belong to the handler alone."""

    def code(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        known = builder.module.globals
        if "guarded_maps" not in known:
            place = ir.GlobalVariable(builder.module, ir.IntType(64), "guarded_maps")
            place.initializer, place.linkage = ir.Constant(ir.IntType(64), 0), "internal"
        return builder.bitcast(known["guarded_maps"], ir.IntType(8).as_pointer())

    return _void(), code


def _pointer(_typing: Any, _address: Any) -> Any:

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return _void(_word), code


_held: Any = intrinsic(_static)
_at: Any = intrinsic(_pointer)
_map: Any = types.ExternalFunction("mmap", _word(_word, _word, _int, _int, _int, _word))
_act: Any = types.ExternalFunction("sigaction", _int(_int, _word, _word))
_nothing: Any = types.void


@cfunc(_nothing(_int, _word, _word), cache=True)
def _handler(number: int, info: int, _context: int) -> None:
    """Answer a fault at the address in ``info``; number 0 is no signal, but brings the address of the table."""
    place = _words(_held(), (1,), types.int64)
    if number == 0:
        place[0] = info
        return
    table = _words(_at(place[0]), (_ROWS + 3 * MAPS,), types.int64)
    address = _words(_at(info), (_FAULT_ADDRESS + 1,), types.int64)[_FAULT_ADDRESS]
    for k in range(table[_USED]):
        row = _ROWS + 3 * k
        if table[row] <= address < table[row + 1]:
            table[row + 2] += 1
            page = address - address % _PAGE
            if _map(page, _PAGE, _READ, _ANONYMOUS_FIXED, -1, 0) == page:
                return
    # Not ours: let it happen again under the action before ours, and if that leads back here, under none
    if table[_FOREIGN] != 0:
        for k in range(_WORDS):
            table[_BEFORE + k] = 0
    table[_FOREIGN] += 1
    _act(number, place[0] + 8 * _BEFORE, 0)
