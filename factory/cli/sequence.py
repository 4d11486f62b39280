"""The command that looks at a pulse sequence: figures, a picture, and the Pulseq file of what a recipe plays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson, Settings, recipe_of
from factory.cli.terminal import as_json, say, table

if TYPE_CHECKING:
    from factory.sequences import Sequence

USES = {"e": "excitation", "r": "refocusing", "i": "inversion", "s": "saturation", "p": "preparation", "o": "other",
        "u": "undefined"}
Source = Annotated[str, typer.Argument(metavar="FILE.seq|RECIPE", help="A Pulseq file, or a recipe that plays one.")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="Draw from here on, or up to here, such as '20 ms'.")]


@app.command(epilog="Example:  factory sequence epi.seq -o epi.png     or:  factory sequence RECIPE --text played.seq")
def sequence(
    source: Source,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the sequence into this picture.")] = None,
    text: Annotated[Path | None, typer.Option("--text", help="Write what is played into this Pulseq file.")] = None,
    start: Time = None,
    stop: Time = None,
    set_: Settings = None,
    json: AsJson = False,
) -> None:
    """Tell what a pulse sequence plays: duration, pulses, samples, the largest gradient and slope."""
    from factory.units import convert

    played = _played(source, set_)
    found = figures(played)
    if json:
        as_json(found)
    else:
        table(f"{source}: Pulseq {found['version']}", ("what", "value"), [
            (what, _written(value)) for what, value in found.items() if what not in ("version", "pulses")])
        table("", ("pulses", "use", "flip angle in deg", "duration in ms", "peak in uT"), [
            (one["count"], one["use"], f"{one['flip_angle_deg']:.4g}", f"{one['duration_ms']:.4g}",
             f"{one['peak_uT']:.4g}") for one in found["pulses"]], right=("pulses",))
    if text is not None:
        text.write_text(played.text)
    if out is not None:
        from factory import report

        window = (convert(start, "s") if start else 0.0, convert(stop, "s") if stop else played.duration)
        report.save(drawn(played, *window), out)
    for path in [path for path in (out, text) if path is not None and not json]:
        say(f"wrote {path}")


def _played(source: str, set_: list[str] | None) -> Sequence:
    """The sequence of a file, or the first one that a recipe's chain plays."""
    from factory.sequences import Sequence, Table, parse, read

    if source.endswith(".seq"):
        return read(source)
    recipe = recipe_of(source, set_)
    for plan in recipe.splits.values():
        for value in (value for link in plan.chain for value in link.constants.values()):
            if isinstance(value, Sequence | Table) and value.text:
                return parse(value.text)
    raise typer.BadParameter(f"recipe {recipe.name} plays no pulse sequence", param_hint="FILE.seq|RECIPE")


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def figures(played: Sequence) -> dict[str, Any]:
    """What a sequence plays, in a few numbers; flip angles are those on resonance."""
    import numpy as np

    from factory.units import GAMMA_BAR

    kinds: dict[tuple[str, float, float, float], int] = {}
    steepest = largest = 0.0
    samples = 0
    for event, count in zip(*np.unique(played.rows[:, 0], return_counts=True), strict=True):
        if event:
            pulse = played.pulses[int(event)]
            area = abs(pulse.means(np.array([0.0, pulse.duration]))[0]) * pulse.duration
            peak = abs(pulse.amplitude) * float(abs(pulse.shape).max()) / GAMMA_BAR
            kind = (USES[pulse.use], round(360 * area, 6), round(pulse.duration * 1e3, 9), round(peak * 1e6, 9))
            kinds[kind] = kinds.get(kind, 0) + int(count)
    for event, count in zip(*np.unique(played.rows[:, 4], return_counts=True), strict=True):
        samples += int(count) * played.readouts[int(event)].samples if event else 0
    for gradient in played.gradients.values():
        width = np.diff(gradient.time)
        largest = max(largest, float(abs(gradient.value).max()))
        slopes = abs(np.diff(gradient.value))[width > 0] / width[width > 0]
        steepest = max(steepest, float(slopes.max(initial=0.0)))
    return {
        "version": ".".join(map(str, played.version)), "duration_s": played.duration, "blocks": len(played),
        "readouts": int(np.count_nonzero(played.rows[:, 4])), "samples": samples,
        "largest_gradient_mT_per_m": largest / GAMMA_BAR * 1e3, "largest_slope_T_per_m_s": steepest / GAMMA_BAR,
        "signature": {None: "none", True: "intact", False: "the text was changed"}[played.intact],
        "pulses": [dict(zip(("use", "flip_angle_deg", "duration_ms", "peak_uT"), kind, strict=True)) | {"count": count}
                   for kind, count in kinds.items()],
    }


def drawn(played: Sequence, start: float, stop: float) -> Any:
    """Pulse, gradients and readouts between two times in s, in Pulseq's own sign."""
    import numpy as np
    from matplotlib.figure import Figure

    from factory.units import GAMMA_BAR

    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(6, 1, sharex=True)
    curves: list[list[Any]] = [[] for _ in axes]
    for block in (block for block in played.blocks() if block.start < stop and block.start + block.duration > start):
        if block.pulse is not None:
            time = block.start + block.pulse.delay + block.pulse.time
            turning = 2 * np.pi * block.pulse.offset.frequency * block.pulse.time + block.pulse.offset.phase
            signal = block.pulse.signal * np.exp(1j * turning)
            ends = [[time[0], *time, time[-1]]]
            curves[0] += [*ends, [0, *abs(signal) / GAMMA_BAR * 1e6, 0]]
            curves[1] += [time, np.angle(signal)]
        for row, gradient in zip(curves[2:5], block.gradients, strict=True):
            if gradient is not None:
                row += [block.start + gradient.time, gradient.value / GAMMA_BAR * 1e3]
        if block.readout is not None:
            time = block.start + block.readout.delay + np.array([0, 0, 1, 1]) * (
                block.readout.samples * block.readout.dwell)
            curves[5] += [time, [0, 1, 1, 0]]
    names = ("|B1| in uT", "phase in rad", "Gx in mT/m", "Gy in mT/m", "Gz in mT/m", "readout")
    for axis, name, row in zip(axes, names, curves, strict=True):
        for time, value in zip(row[::2], row[1::2], strict=True):
            axis.plot(np.asarray(time) * 1e3, value, color="C0", linewidth=0.9)
        axis.set_ylabel(name)
    axes[5].set_yticks([])
    axes[5].set_xlabel("time in ms")
    axes[5].set_xlim(start * 1e3, stop * 1e3)
    return figure
