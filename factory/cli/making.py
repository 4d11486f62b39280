"""Commands that make: make and status."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson, Counts, Settings, recipe_of
from factory.cli.look import RecipeName
from factory.cli.terminal import as_json, complain, console, say, size, span, table
from factory.device import STEPS, Device

if TYPE_CHECKING:
    from cluster.profiles import Profile
    from factory.recipe import Recipe

Durable = Literal["power", "process"]
STOPPED = 130  # what a shell reports for a program that Ctrl-C ended
PROBE_SECONDS = 2.0  # a split is timed until this has passed
PROBE_SAMPLES = 256  # or until so many samples are made
Store = Annotated[str, typer.Argument(metavar="STORE", help="The store's folder, such as rim_t1.zarr.")]


@app.command(epilog="Example:  factory make rim_t1 rim_t1.zarr --samples train=2000 --dry-run")
def make(
    recipe: RecipeName,
    store: Store,
    samples: Counts = None,
    set_: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    workers: Annotated[int | None, typer.Option(
        min=1, help="Make the samples in this many Dask worker processes instead of this process's threads.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default one for each core.")] = None,
    cluster: Annotated[str | None, typer.Option(
        metavar="PROFILE", help="Make the samples on a cluster: a built-in profile (factory cluster list) or a file "
                                "such as ./my.yaml.")] = None,
    part: Annotated[str | None, typer.Option(
        metavar="I/N", help="Make the I-th of N shares only, as a job array does; the last one finishes.")] = None,
    durable: Annotated[Durable, typer.Option(
        help="What a shard outlives once it is made: a power cut, or only this process (faster).")] = "power",
    device: Annotated[Device | None, typer.Option(
        help="Where kernels run that exist for both: the processor or a graphics card; the bytes are the same.  By "
             "default what FACTORY_DEVICE says, else cpu.")] = None,
    dashboard: Annotated[bool, typer.Option(
        "--dashboard", help="Serve Dask's dashboard on this machine only (with --workers or --cluster).")] = False,
    report: Annotated[Path | None, typer.Option(
        metavar="FILE.html", help="Keep Dask's report of where time went (with --workers or --cluster).")] = None,
    json: AsJson = False,
) -> None:
    """Make a recipe's samples into a store; run it again to go on after any interruption."""
    profile = _profile(workers, threads, cluster)
    if profile is None and (dashboard or report):
        hint = "--dashboard" if dashboard else "--report"
        raise typer.BadParameter("that belongs to Dask: add --workers N or --cluster PROFILE", param_hint=hint)
    loaded = recipe_of(recipe, set_, samples)
    if dry_run:
        _plan(loaded, store, json)
        return
    share = (1, 1) if part is None else part_of(part)
    began = time.perf_counter()
    with stoppable(f"factory make {recipe} {store}"):
        fresh = materialised(loaded, store, threads=threads, profile=profile, dashboard=dashboard, report=report,
                             part=share, durable=durable, device=device)
    _summary(loaded, store, fresh, time.perf_counter() - began, json)


def _profile(workers: int | None, threads: int | None, cluster: str | None) -> Profile | None:
    """The cluster that is asked for, checked before anything else happens."""
    given = [name for name, value in (("--workers", workers), ("--threads", threads), ("--cluster", cluster)) if value]
    if len(given) > 1:
        raise typer.BadParameter(f"give {' or '.join(given)}, not both", param_hint=given[1])
    if workers is None and cluster is None:
        return None
    from cluster.profiles import Profile, load_profile

    return load_profile(cluster) if cluster else Profile("local", name="this machine", workers=workers or 1)


def materialised(recipe: Recipe, store: str | Path, *, threads: int | None = None, profile: Profile | None = None,
                 dashboard: bool = False, report: Path | None = None, part: tuple[int, int] = (1, 1),
                 durable: Durable = "power", device: Device | None = None) -> int:
    """`factory.store.make_part` with a progress bar on standard error; returns how many samples were made now."""
    from factory.store import RichProgress, make_part

    fresh: list[int] = []

    class Counting(RichProgress):
        def shard(self, commit: Any) -> None:
            fresh.append(commit.samples)
            super().shard(commit)

    with _client(profile, dashboard, report) as client:
        where = f"up to {threads or usable_cores()} threads" if profile is None else f"{profile.name} ({profile.kind})"
        complain(f"{recipe.name} -> {store}: {_weight(recipe)}, on {where}")
        if device == "cuda":
            complain(_on_card(recipe))
        with Counting(console(sys.stderr)) as progress:
            make_part(recipe, store, part, client, threads=threads, progress=progress, durable=durable,
                      device=device)
    return sum(fresh)


def _on_card(recipe: Recipe) -> str:
    """Which of a recipe's steps run where."""
    names = dict.fromkeys(link.step.name for plan in recipe.splits.values() for link in plan.chain)
    there, here = [n for n in names if n in STEPS], [n for n in names if n not in STEPS]
    return f"on the graphics card: {', '.join(there) or 'nothing'}; on the processor: {', '.join(here) or 'nothing'}"


@contextmanager
def stoppable(command: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (a preempted job, a time that is up) end a command with one sentence how to go on.

    A second SIGTERM ends the process at once.
    """
    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        complain(f"\nStopped. What is made is kept: `{command} ...` again, with the same options, goes on where this "
                 "stopped.")
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def part_of(text: str) -> tuple[int, int]:
    """``2/8`` as (2, 8)."""
    first, sign, last = text.partition("/")
    if not (sign and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise typer.BadParameter(f"{text!r} is no share; say for example 2/8, from 1/8 to 8/8", param_hint="--part")
    return int(first), int(last)


@contextmanager
def _client(profile: Profile | None, dashboard: bool, report: Path | None) -> Iterator[Any]:
    if profile is None:
        yield None
        return
    from cluster.connect import connect, reported, tunnel
    from cluster.plan import size as workers_of

    complain(f"waiting for {profile.name}: {workers_of(profile)}")
    with connect(profile, dashboard=dashboard) as client:
        if dashboard:
            complain(f"dashboard: {client.dashboard_link}\nfrom elsewhere: {tunnel(profile, client)}")
        with reported(report):
            yield client


def _weight(recipe: Recipe) -> str:
    from factory.store import estimate

    cost = estimate(recipe)
    return f"{cost.samples:,} samples, {size(cost.nbytes)}, {cost.shards:,} shards"


def _summary(recipe: Recipe, store: str, fresh: int, seconds: float, json: bool) -> None:
    from factory.store import status

    found = status(store)
    total = sum(split.nbytes for split in found.splits)
    if json:
        as_json({"store": store, "recipe": recipe.name, "identity": found.identity, "id": found.id, "bytes": total,
                 "samples": {s.name: s.samples for s in found.splits}, "samples_made_now": fresh, "seconds": seconds})
        return
    if not found.finished:  # a part of it was asked for
        say(f"made {fresh:,} samples in {span(seconds)}; other parts are still missing: {found.sentence}")
        return
    held = ", ".join(f"{s.name} {s.samples:,}" for s in found.splits)
    said = (f"made {fresh:,} samples in {span(seconds)} ({fresh / seconds:,.0f} samples/s)" if fresh
            else "nothing was left to make")
    say(f"{store} is finished: {held}; {size(total)}; {said}")
    say(f"id {found.id}")
    say(f"Next:  factory preview {store} -o picture.png   or   factory show {store}")


def _plan(recipe: Recipe, store: str, json: bool) -> None:
    """What a run would cost, from samples that are made and thrown away."""
    from factory.store import estimate

    cost, probes = estimate(recipe), {name: probe(recipe, name) for name in recipe.splits}
    hours = {name: plan.samples * probes[name] / 3600 for name, plan in recipe.splits.items()}
    cores = usable_cores()
    above = None if "://" in store else next(p for p in (Path(store).absolute() / "_").parents if p.exists())
    free = shutil.disk_usage(above).free if above else None
    if json:
        as_json({"samples": cost.samples, "bytes": cost.nbytes, "files": cost.files, "shards": cost.shards,
                 "shard_bytes": cost.shard_bytes, "core_hours": sum(hours.values()), "free_bytes": free,
                 "seconds_per_sample": probes})
    else:
        rows = [(name, f"{plan.samples:,}", size(plan.samples * plan.sample_bytes), span(probes[name]),
                 f"{hours[name]:.3g}") for name, plan in recipe.splits.items()]
        head = ("split", "samples", "bytes", "a sample takes", "core-hours")
        table(f"{recipe.name}: what it would cost (nothing was written)", head, rows, right=head[1:])
        say(f"{cost.nbytes / 1e9:.3g} GB in {cost.files:,} files, {cost.shards:,} shards of at most "
            f"{size(cost.shard_bytes)}; {sum(hours.values()):.3g} core-hours, about "
            f"{span(3600 * sum(hours.values()) / cores)} on this machine's {cores} cores.")
        if free is not None:
            say(f"{size(free)} are free at {above}.")
    if free is not None and cost.nbytes > free:
        complain(f"The store does not fit: it needs {size(cost.nbytes)}, and {above} has {size(free)} free.")
        raise typer.Exit(1)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe(recipe: Recipe, split: str) -> float:
    """Seconds that one sample takes on one core: compiled code, outer levels shared as in a real run."""
    from factory.floor import make as make_samples

    plan = recipe.splits[split]
    make_samples(recipe, split, 0, 1)  # compiles
    width, done, began = 1, 0, time.perf_counter()
    first = min(1, plan.samples - 1)
    while done < min(PROBE_SAMPLES, plan.samples - first) and time.perf_counter() - began < PROBE_SECONDS:
        stop = min(first + done + width, plan.samples)
        make_samples(recipe, split, first + done, stop)
        done, width = stop - first, min(2 * width, 32)
    return (time.perf_counter() - began) / done


@app.command(epilog="Example:  factory status rim_t1.zarr --json")
def status(store: Store, json: AsJson = False) -> None:
    """Say how a store is: 0 finished, 1 damaged, 2 incomplete, 10 no store."""
    from factory.store import status as status_of

    found = status_of(store)
    if json:
        splits = [{"split": s.name, "samples": s.samples, "shards": s.shards, "bytes": s.nbytes,
                   "committed_shards": s.committed, "committed_samples": s.committed_samples, "id": s.id}
                  for s in found.splits]
        as_json({"store": found.path, "finished": found.finished, "code": found.code, "sentence": found.sentence,
                 "identity": found.identity, "id": found.id, "splits": splits})
        raise typer.Exit(found.code)
    (say if found.code == 0 else complain)(found.sentence)
    if found.splits:
        rows = [(s.name, f"{s.committed_samples:,} of {s.samples:,}", f"{s.committed:,} of {s.shards:,}",
                 size(s.committed_nbytes), f"{100 * s.committed // max(1, s.shards)} %") for s in found.splits]
        head = ("split", "samples", "shards", "bytes", "done")
        table("", head, rows, right=head[1:])
    raise typer.Exit(found.code)
