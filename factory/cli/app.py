"""The command line's frame: one group of commands, and what it says when something goes wrong.

A user's mistake ends in a sentence on standard error and an exit code, never in a traceback:

0 ok; 1 damaged or failed; 2 incomplete, or wrong usage; 3 made by another recipe; 10 no store.

``FACTORY_TRACEBACK=1`` shows the traceback as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from factory.cli.terminal import about_torch, complain

FAILED, INCOMPLETE = 1, 2
PACKAGES = ("factory", "models", "cluster")
GO_ON = ("Stopped. Whatever was finished is kept: run the same command again to go on (training: add --resume).")


class Roof(TyperGroup):
    """The group of all commands: turns exceptions that a user can provoke into sentences."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, SystemExit) as error:
            # Lightning turns an interrupt of the training into exit(1)
            if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            complain("\n" + GO_ON)
            raise typer.Exit(INCOMPLETE) from None
        except Exception as error:
            answer = explain(error)
            if answer is None or os.environ.get("FACTORY_TRACEBACK"):
                raise
            complain(answer[0])
            raise typer.Exit(answer[1]) from None


def explain(error: Exception) -> tuple[str, int] | None:
    """A sentence and an exit code for what a user can provoke; None for a fault of the program."""
    if isinstance(error, ModuleNotFoundError):
        missing = str(error.name).partition(".")[0]
        return (about_torch(), FAILED) if missing in ("torch", "lightning", "safetensors", "monai") else None
    code = getattr(error, "code", None)
    if type(error).__module__.startswith("factory.store") and isinstance(code, int):
        return str(error), code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", FAILED
    if isinstance(error, ValueError | LookupError | MemoryError | TypeError) and _is_ours(error):
        return str(error.args[0] if isinstance(error, KeyError) and error.args else error), FAILED
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it on purpose: the innermost frame lies in one of our packages.

    What numpy or torch raise under our feet is a fault of the program and keeps its traceback.
    """
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    home = Path(__file__).parents[2]
    place = Path(trace.tb_frame.f_code.co_filename)
    lines = place.read_text(errors="replace").splitlines() if place.is_file() else []
    said = trace.tb_lineno <= len(lines) and "raise" in lines[trace.tb_lineno - 1]
    return said and place.is_relative_to(home) and place.relative_to(home).parts[0] in PACKAGES


app = typer.Typer(
    cls=Roof, name="factory", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    help="From a recipe to labelled magnetic-resonance training data, and on to a trained network.",
    epilog="Start with:  factory demo --out demo   or   factory list   (every command: factory COMMAND --help)",
)
