"""What a run tells whoever watches it, and a terminal display of that."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from factory.store.commit import Commit


class Progress(Protocol):
    """What `materialise` calls, from the thread that called it."""

    def begin(self, samples: int, nbytes: int, done_samples: int, done_bytes: int) -> None:
        """The whole store's samples and bytes, and what an earlier run had already made of them."""

    def shard(self, commit: Commit) -> None:
        """A shard was made."""

    def end(self) -> None:
        """All shards are made, or the run stops."""


class Silent:
    """Tells nobody."""

    def begin(self, samples: int, nbytes: int, done_samples: int, done_bytes: int) -> None:
        """Nothing."""

    def shard(self, commit: Commit) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class RichProgress:
    """A bar with samples/s, MB/s and the time that is left.

    >>> with RichProgress() as progress:
    ...     materialise(recipe, "store.zarr", progress=progress)
    """

    def __init__(self, console: Any = None) -> None:
        from rich import progress as rich

        self._bar = rich.Progress(
            rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[rate]}"), rich.TimeElapsedColumn(),
            rich.TextColumn("left"), rich.TimeRemainingColumn(elapsed_when_finished=False), console=console)
        self._task: Any = None
        self._made_samples = self._made_bytes = 0

    def begin(self, samples: int, nbytes: int, done_samples: int, done_bytes: int) -> None:
        """Show the bar; what was made earlier counts as done, but not towards the speed."""
        self._made_samples = self._made_bytes = 0
        text = f"{samples:,} samples, {nbytes / 1e6:,.0f} MB"
        self._task = self._bar.add_task(text, total=samples, completed=done_samples, rate="")
        self._bar.start()

    def shard(self, commit: Commit) -> None:
        """Advance by one shard."""
        self._made_samples += commit.samples
        self._made_bytes += commit.nbytes
        elapsed = self._bar.tasks[self._task].elapsed or 0.0
        rate = ""
        if elapsed > 0:
            rate = f"{self._made_samples / elapsed:,.0f} samples/s  {self._made_bytes / elapsed / 1e6:,.1f} MB/s"
        self._bar.update(self._task, advance=commit.samples, rate=rate)

    def end(self) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()
