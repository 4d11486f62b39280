"""The bars of the relaxometry paper, and its figures: python benchmarks/rim.py RIM RESNET [OPTIONS]

RIM and RESNET are weights files of rim_t1 and of a resnet_t1; --wide gives a rim_t1 that was trained on rim_t1_wide,
--t2 a rim_t2. Writes rows under the topic rim and pictures into docs/pictures.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rows import RESULTS, record, row
from tables import table
from torch.utils.flop_counter import FlopCounterMode

from factory.recipe import load
from factory.report import save
from models import weights
from models.cards import systems
from models.studies import studies_of
from models.studies.noise import noise
from models.studies.statistics import value

PICTURES = Path(__file__).parents[1] / "docs/pictures"
TISSUES = ("grey_matter", "white_matter")
BOUND = "bound, B and the tissue's means known"


def error(rows: list[dict[str, Any]], method: str, tissue: str, snr: float, name: str = "relative RMSE") -> float:
    return value(rows, method=method, tissue=tissue, snr=snr, name=name, quantity="t1")


def robustness(rows: list[dict[str, Any]], label: str = "") -> list[dict[str, Any]]:
    """RIM against the tuned MLE, at SNR 5 and 10, grey and white matter; and whether the MLE itself is right."""
    found = []
    for snr in (5, 10):
        for tissue in TISSUES:
            rmse = partial(error, rows, tissue=tissue, snr=snr)
            mle, where = rmse("MLE"), f"{tissue.replace('_', ' ')}, SNR {snr}{label}"
            others = ("MLE", "MLE, B known", "MLE, B free", "ResNet", "tissue-mean map", "constant map", BOUND)
            against = ", ".join(f"{m} {rmse(m):.3g} %" for m in others if any(r["method"] == m for r in rows))
            found += [
                row(f"RIM / tuned MLE, relative RMSE of T1, {where}", rmse("RIM") / mle, "ratio", target="< 0.8",
                    baseline=f"RIM {rmse('RIM'):.3g} %, {against}"),
                row(f"RIM / tuned MLE, CV of T1, {where}",
                    rmse("RIM", name="CV") / rmse("MLE", name="CV"), "ratio", baseline="sheet: 0.6"),
                row(f"RIM, |median bias| of T1, {where}", abs(rmse("RIM", name="median bias")), "%", target="< 5"),
                row(f"RIM, slope within {where}", rmse("RIM", name="slope"), "1", target="> 0.5"),
            ]  # fmt: skip
    return found


def likelihood(rows: list[dict[str, Any]], snrs: tuple[float, ...]) -> list[dict[str, Any]]:
    """The maximum-likelihood fit with known and with free B."""
    found = []
    for tissue in TISSUES:
        name = tissue.replace("_", " ")
        bias = {snr: error(rows, "MLE, B known", tissue, snr, "median bias") for snr in snrs if snr >= 10}
        free = {snr: error(rows, "MLE, B free", tissue, snr, "median bias") for snr in snrs if snr >= 10}
        found.append(row(f"MLE with known B, worst |median bias| of T1 at SNR >= 10, {name}",
                         max(map(abs, bias.values())), "%", target="< 2", baseline="free B: " +
                         ", ".join(f"{v:.2g} % at SNR {k:g}" for k, v in free.items())))  # fmt: skip
        for snr in (10, 30):
            if snr not in snrs:
                continue
            spread = error(rows, "MLE, B known", tissue, snr, "CV")
            bound, loose = (error(rows, f"bound, B {kind}", tissue, snr) for kind in ("known", "free"))
            open_b = error(rows, "MLE, B free", tissue, snr, "CV")
            against = f"CV {spread:.3g} %, bound {bound:.3g} %; free B: {open_b:.3g} %, bound {loose:.3g} %"
            what = f"MLE with known B, CV of T1 over its Cramér-Rao bound, {name}, SNR {snr}"
            found.append(row(what, spread / bound, "ratio", target="<= 1.1", baseline=against))
    return found


def other_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for tissue in TISSUES:
        base = value(rows, method="RIM", tissue=tissue, times=31, name="relative RMSE")
        for number in (23, 25):
            here = value(rows, method="RIM", tissue=tissue, times=number, name="relative RMSE")
            mle = value(rows, method="MLE", tissue=tissue, times=number, name="relative RMSE")
            mle /= value(rows, method="MLE", tissue=tissue, times=31, name="relative RMSE")
            found.append(row(f"RIM of 31 times on {number}, increase of T1 RMSE, {tissue.replace('_', ' ')}",
                             100 * (here / base - 1), "%", target="< 30",
                             baseline=f"{base:.3g} % on its own times; MLE {100 * (mle - 1):+.3g} %"))  # fmt: skip
    return found


def blurriness(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    structures = list(dict.fromkeys(r["structure"] for r in rows))

    def here(method: str, structure: str, name: str, **facts: str) -> float:
        return value(rows, method=method, structure=structure, region="structure", name=name, **facts)

    rim, resnet = (abs(here(method, "hypo point", "bias", scenario="E2")) for method in ("RIM", "ResNet"))
    before = abs(here("RIM", "hypo point", "bias", scenario="E1"))
    moved = {s: here("MLE", s, "change in standard errors") for s in structures}
    change = ", ".join(f"{s} {here('MLE', s, 'change of bias'):+.2g} %" for s in structures)
    return [
        row("bias of T1 in a hypo-intense pixel, RIM over ResNet", rim / resnet, "ratio", target="< 1",
            baseline=f"RIM {rim:.3g} % ({before:.3g} % without it), ResNet {resnet:.3g} %; paper: RIM 3.43 % (0.68 %)"),
        row("MLE, largest change of T1 bias by a structure", max(map(abs, moved.values())), "standard errors",
            target="<= 2", baseline=f"tuned prior on B; {change}"),
    ]  # fmt: skip


def speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seconds = {r["method"]: r["value"] for r in rows}
    against = ", ".join(f"{m} {s:.3g} s" for m, s in seconds.items())
    return [row(f"time of a 256 x 256 x 31 slice, {m} over RIM", s / seconds["RIM"], "ratio", baseline=against)
            for m, s in seconds.items() if m != "RIM"]  # fmt: skip


def flops(path: str) -> float:
    """Forward operations of a whole training; the backward pass doubles both networks' alike."""
    facts: Any = weights.read(path)[1]
    shapes = {name: tuple(size) for name, size in facts["shapes"].items()}
    task = weights.load(systems()[facts["system"]], path, shapes=shapes)
    times = torch.linspace(0.1, 0.9, shapes["signal"][0])
    batch = {"signal": torch.rand(1, *shapes["signal"]), "inversion_time": times}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.predict(batch)
    return float(counter.get_total_flops()) * facts["steps"] * facts["batch"]


def training(rim: str, resnet: str) -> list[dict[str, Any]]:
    """Whether the opponent was trained in earnest: as many operations as the winner, or a loss that no longer falls."""
    ratio = flops(resnet) / flops(rim)
    rows = [
        row("operations of training, ResNet over RIM", ratio, "ratio", target=">= 1", baseline="opponent rule"),
        row("weights of the RIM", Path(rim).stat().st_size / 1e6, "MB", target="< 1"),
    ]
    for name, path in (("RIM", rim), ("ResNet", resnet)):
        curve = Path(path).with_name("curve.jsonl")
        if curve.exists():
            seen = [json.loads(line) for line in curve.read_text().splitlines()]
            losses = [r["value"] for r in seen if r.get("split") == "validation" and r["name"] == "loss"]
            late = losses[-1 - max(1, len(losses) // 5)]
            fall = 100 * (1 - losses[-1] / late)
            against = f"{late:.4g} to {losses[-1]:.4g}; < 2 % or as many operations"
            rows.append(row(f"fall of the {name}'s validation loss over the last fifth", fall, "%", baseline=against))
    return rows


CARD = """# {system}

Weights of the system `{system}` (recurrent inference machine, Sabidussi 2021, doi:10.1016/j.media.2021.102220),
trained by `factory train {system} STORE --steps {steps} --batch {batch} --precision bf16-mixed`.

| | |
|---|---|
| recipe | `{recipe}`, identity `{identity}` |
| data set | `{data}` |
| seed | {seed} |
| file | {size:.0f} kB, sha256 `{digest}` |
| licence | MIT, as the package; trained on procedural heads alone, no patient's data |

Figures, written by the command that measured them (benchmarks/results/rim.json); a missed target stays:

{table}
"""


def card(path: str) -> None:
    """The card of the weights that come with the package, from their facts and the measured rows."""
    facts: Any = weights.read(path)[1]
    rows = json.loads((RESULTS / "rim.json").read_text())
    own = [r for r in rows if r["name"].startswith("RIM") and "0.332" not in r["name"] and "T2" not in r["name"]]
    target = weights.shipped(facts["system"])
    content = target.read_bytes()
    if content != Path(path).read_bytes():
        raise SystemExit(f"{path} is not what ships; copy it to {target} first")
    text = CARD.format(**facts, identity=load(facts["recipe"]).identity[:16], size=len(content) / 1e3,
                       digest=sha256(content).hexdigest()[:16], table=table(own))  # fmt: skip
    target.with_suffix(".md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rim")
    parser.add_argument("resnet")
    parser.add_argument("--wide")
    parser.add_argument("--t2")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", help="studies by name, to spread them over cores; card comes last")
    given = parser.parse_args()
    torch.set_num_threads(1)
    size, count, heads = (64, 8, 3) if given.quick else (64, 12, 6)
    studies, networks = studies_of("rim_t1"), [given.rim, given.resnet]

    def run(name: str, bars: Any, study: Any = None, given_networks: Any = networks, **sizes: Any) -> None:
        if given.only and name not in given.only:
            return
        rows, figure = (study or studies[name])(given_networks, **sizes)
        save(figure, PICTURES / f"rim_{name}.png")
        record("rim", bars(rows))

    if not given.only or "training" in given.only:
        record("rim", training(given.rim, given.resnet))
    snrs = (5, 10, 30) if given.quick else (3, 5, 10, 30, 60, 100)
    run("noise", lambda rows: robustness(rows) + likelihood(rows, snrs), size=size, count=count, heads=heads, snrs=snrs)
    run("blur", blurriness, size=96, count=10 if given.quick else 24)
    run("times", other_times, size=size, count=count // 2, heads=heads)
    run("timing", speed, size=128)
    run("phantom", lambda rows: ladder(rows, "T1"))
    run("sharpness", sharp, size=128)
    wide = partial(noise, recipe="rim_t1_wide", snrs=(5, 10))
    here = "; half-normal scale 0.332, RIM of 0.2"
    run("wide", lambda rows: robustness(rows, here), wide, size=size, count=count // 2, heads=heads)
    if not given.only or "card" in given.only:
        card(given.rim)
    if given.wide:
        run("wide_trained", lambda rows: robustness(rows, "; half-normal scale 0.332, RIM of 0.332"), wide,
            [given.wide], size=size, count=count // 2, heads=heads)  # fmt: skip
    t2 = studies_of("rim_t2")
    run("t2_phantom", lambda rows: ladder(rows, "T2"), t2["phantom"], [given.t2] if given.t2 else [])
    if given.t2:
        run("t2", decay, t2["noise"], [given.t2], size=size, count=count, heads=heads, snrs=(5, 10, 30))


def ladder(rows: list[dict[str, Any]], quantity: str) -> list[dict[str, Any]]:
    """Mean |bias| and CV over the spheres of the system phantom whose value lies within the times."""
    found = []
    for method in dict.fromkeys(r["method"] for r in rows):
        bias, cv = (value(rows, method=method, sphere="within the times", name=n) for n in ("absolute bias", "CV"))
        found.append(row(f"system phantom, mean |bias| of {quantity} within the times, {method}", bias, "%",
                         baseline=f"CV {cv:.3g} %; paper, T1: RIM 1.34 %, MLE 1.71 %, ResNet 31.06 %"))  # fmt: skip
    return found


def sharp(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    truth = value(rows, method="truth", name="sigmoid slope")
    steep = [r for r in rows if r["name"] == "sigmoid slope" and r["method"] != "truth"]
    return [
        row(f"slope across the border of grey and white matter over the truth's, {r['method']}", r["value"] / truth,
            "ratio", baseline=f"paired t-test p = {value(rows, method=r['method'], unit='1'):.2g}")
        for r in steep
    ]  # fmt: skip


def decay(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """T2: variation against the voxel-wise fit at SNR 10, grey and white matter."""
    found = []
    for tissue in TISSUES:
        rim, mle = (value(rows, method=m, tissue=tissue, snr=10, name="CV", quantity="t2") for m in ("RIM", "MLE"))
        bias = value(rows, method="RIM", tissue=tissue, snr=10, name="median bias", quantity="t2")
        against = f"RIM {rim:.3g} %, MLE {mle:.3g} %; median bias of the RIM {bias:.2g} %"
        what = f"RIM / MLE, CV of T2, {tissue.replace('_', ' ')}, SNR 10"
        found.append(row(what, rim / mle, "ratio", target="< 1", baseline=against))
    return found


if __name__ == "__main__":
    main()
