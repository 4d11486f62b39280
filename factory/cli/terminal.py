"""What reaches the terminal: plain text and tables, with everything that a terminal would obey made visible.

Recipes and stores come from strangers: a title may hold escape codes that hide or rewrite what a user reads.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 200  # columns when the output goes to a file or a pipe


def clean(text: object) -> str:
    """The text with control and direction-changing characters written out, as ``\\x1b``; newlines stay."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
                   else c.encode("unicode_escape").decode() for c in str(text))


def console(stream: Any = None) -> Console:
    """A rich console that obeys no markup; on standard output unless told otherwise."""
    from rich.console import Console

    target = stream or sys.stdout
    width = None if target.isatty() else WIDE
    return Console(file=target, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def say(text: object = "") -> None:
    """A line of text on standard output, never wrapped."""
    print(clean(text))


def complain(text: object) -> None:
    """A line of text on standard error."""
    print(clean(text), file=sys.stderr)


@cache  # once, however many recipes a command reads
def tell_of_compiling(patience: float = 1.0) -> None:
    """From now on say on a terminal which kernel is being compiled, where that takes longer than some seconds."""
    if not sys.stderr.isatty():
        return
    from threading import Timer

    from numba.core import event

    class Told(event.Listener):  # type: ignore[misc]
        depth, timer = 0, Timer(0, complain)  # compilations lie inside one another; the outermost is told of

        def on_start(self, found: Any) -> None:
            if self.depth == 0:
                kernel = found.data["dispatcher"].py_func
                said = f"compiling {kernel.__module__}.{kernel.__name__}, once: later runs find it ready"
                self.timer = Timer(patience, complain, [said])
                self.timer.daemon = True
                self.timer.start()
            self.depth += 1

        def on_end(self, found: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                self.timer.cancel()

    register: Any = event.register
    register("numba:compile", Told())


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """A table on standard output; columns named in ``right`` are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    numbers = set(right)
    heading = Text(clean(title), "bold") if title else None
    grid = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in head:
        grid.add_column(Text(clean(name)), justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*[Text(clean(cell)) for cell in row])
    console().print(grid)


def as_json(value: object) -> None:
    """JSON on standard output, ASCII only; what JSON cannot hold (NaN, infinity) becomes null."""
    print(json.dumps(plain(value), indent=1))


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def size(nbytes: float) -> str:
    """Bytes in words: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 99.5 else f"{nbytes:.3g} {unit}"
        nbytes /= 1000.0
    return f"{nbytes:,.3g} PB"


def span(seconds: float) -> str:
    """A duration in words: ``3 min 20 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds / 3600:,.3g} h"


def extent(dims: Sequence[str], shape: Sequence[int]) -> str:
    """Dimensions with sizes: ``inversion_time 31 x y 40 x x 40``; a dot for a scalar."""
    return ", ".join(f"{d}={n}" for d, n in zip(dims, shape, strict=True)) or "one number"


def unit(text: str) -> str:
    """A unit for a reader: nothing for a plain number."""
    return "" if text == "1" else text


@cache
def about_torch() -> str:
    """What to do when training tools are missing."""
    return "training needs PyTorch and Lightning, which are not installed: pip install 'mr-factory[train]'"
