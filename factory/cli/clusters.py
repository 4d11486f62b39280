"""Commands about clusters: what a profile would do, before it does it."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson
from factory.cli.terminal import as_json, complain, say, table

ProfileName = Annotated[str, typer.Argument(
    metavar="PROFILE", help="A built-in profile (factory cluster list), or a file such as ./my.yaml.")]
group = typer.Typer(name="cluster", no_args_is_help=True, rich_markup_mode=None,
                    help="Look at clusters before samples are made on them.",
                    epilog="Example:  factory cluster show slurm")
app.add_typer(group)


@group.command("list", epilog="Example:  factory cluster list")
def list_(json: AsJson = False) -> None:
    """List built-in profiles, the kinds that a profile of yours may have, and templates of job scripts."""
    from cluster.profiles import LEGAL, built_in, load_profile
    from cluster.templates import names

    profiles = [load_profile(name) for name in built_in()]
    if json:
        as_json({"profiles": [{"profile": p.name, "kind": p.kind, "about": p.about} for p in profiles],
                 "kinds": {kind: sorted(legal) for kind, legal in LEGAL.items()}, "templates": names()})
        return
    table("built-in profiles", ("profile", "kind", "about"), [(p.name, p.kind, p.about) for p in profiles])
    table("kinds", ("kind", "fields"), [(kind, ", ".join(sorted(legal - {"kind"}))) for kind, legal in LEGAL.items()])
    say("templates: " + ", ".join(names()))
    say("Next:  factory cluster template slurm.yaml > my.yaml   and   factory cluster show ./my.yaml")


@group.command(epilog="Example:  factory cluster show slurm")
def show(profile: ProfileName, json: AsJson = False) -> None:
    """Print the job script (or the resources, or the plan) of a profile; nothing is submitted."""
    from cluster.plan import plan, size
    from cluster.profiles import load_profile

    loaded = load_profile(profile)
    text = plan(loaded)
    if json:
        as_json({"profile": loaded.name, "kind": loaded.kind, "size": size(loaded), "plan": text})
        return
    complain(f"{loaded.name} ({loaded.kind}): {size(loaded)}")
    say(text)


@group.command(epilog="Example:  factory cluster template array.sbatch > array.sbatch")
def template(name: Annotated[str, typer.Argument(metavar="NAME", help="As factory cluster list shows.")]) -> None:
    """Print a profile or a job script to copy and change."""
    from cluster.templates import read

    say(read(name).rstrip("\n"))
