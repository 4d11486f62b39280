"""The foundation's bars, measured as a user would: python benchmarks/foundation.py BAR, where BAR is one of

- cost   lines of code of the README's three boxes
- tests  `make test` in a fresh clone, set-up included
- laws   faults injected into the code, and hostile files: how many, how slow, how large
- kills  kill -9 of a running make at random moments
- demo   `make demo` in a fresh clone, set-up included
- real   the demo on real anatomy, BAR is then `real LABELS`: a label file such as KomaMRI's brain2D.mat
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import record, row

ROOT = Path(__file__).parents[1]


def cost() -> list[dict[str, Any]]:
    """Lines that hold code in each box; tests/test_readme.py runs them as they stand."""
    readme = (ROOT / "README.md").read_text()
    rows = []
    for name in ("step", "recipe", "network"):
        found = re.search(rf"<!-- box: {name} -->\n```\w+\n(.*?)```", readme, re.DOTALL)
        assert found, name
        lines = [line for line in found[1].splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
        rows.append(row(f"cost of adding a {name}", len(lines), "lines", baseline="one new file, nothing else touched"))
    return rows


def clone(folder: str) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), f"{folder}/clone"], check=True)
    return Path(folder) / "clone"


def timed_make(target: str) -> tuple[float, str, Path, tempfile.TemporaryDirectory[str]]:
    """Minutes and output of one make target in a fresh clone."""
    folder = tempfile.TemporaryDirectory()
    here = clone(folder.name)
    start = time.perf_counter()
    done = subprocess.run(["make", target], cwd=here, capture_output=True, text=True)
    minutes = (time.perf_counter() - start) / 60
    print(done.stdout[-6000:], done.stderr[-3000:])
    if done.returncode:
        raise SystemExit(f"make {target} failed with {done.returncode}")
    return minutes, done.stdout, here, folder


def tests() -> list[dict[str, Any]]:
    sys.path.insert(0, str(ROOT))
    from tests.test_recipe import MISTAKES

    minutes, _, _, folder = timed_make("test")
    folder.cleanup()
    return [
        row("make test, fresh clone", minutes, "min", target="<= 15", baseline="set-up, ruff, mypy and all tests"),
        row("kinds of recipe mistakes with their sentence", len(MISTAKES), "kinds", target=">= 30",
            baseline="tests/test_recipe.py, all passed in that run"),
    ]  # fmt: skip


def told(pattern: str, *files: str) -> re.Match[str]:
    """What some tests print about themselves, once all of them have passed."""
    command = [sys.executable, "-m", "pytest", "-s", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    found = re.search(pattern, done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"{', '.join(files)} failed, or did not say {pattern!r}")
    return found


def laws() -> list[dict[str, Any]]:
    pattern = r"(\d+) attacks refused, slowest ([\d.]+) s, most ([\d.]+) GB"
    found = told(pattern, "tests/test_mutants.py", "tests/attacks")
    mutants = (ROOT / "tests/test_mutants.py").read_text().count("\ndef test_")
    return [
        row("faults injected into real code that a law caught", mutants, "mutants", target=">= 12",
            baseline="at least two for each of the six laws"),
        row("slowest refusal of a hostile file", float(found[2]), "s", target="<= 1", baseline=f"{found[1]} attacks, "
            "processor time"),
        row("largest memory of a refusal", float(found[3]), "GB", target="<= 1", baseline=f"{found[1]} attacks, peak"),
    ]  # fmt: skip


def kills() -> list[dict[str, Any]]:
    found = told(r"FACTORY_KILL_SEED=(\d+)[\s\S]*?(\d+) kills", "tests/test_kill.py")
    return [row("kill -9 that left the undisturbed bytes", int(found[2]), "kills", target=">= 20",
                baseline="all of them; sha256 of the tree", seed=int(found[1]))]  # fmt: skip


def demo() -> list[dict[str, Any]]:
    minutes, _, here, folder = timed_make("demo")
    rows = [row("make demo, fresh clone", minutes, "min", target="<= 15", baseline="set-up, store, training, pictures")]
    rows += errors(here / "out/demo", "built-in heads")
    folder.cleanup()
    return rows


def real(labels: str) -> list[dict[str, Any]]:
    out = ROOT / "out/real"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "factory.cli", "demo", "--out", str(out), "--set", f"files.anatomy={labels}"]
    subprocess.run(command, check=True, cwd=ROOT)
    pictures = ROOT / "docs/pictures"
    pictures.mkdir(exist_ok=True)
    for name in ("gallery", "curve", "maps"):
        shutil.copy(out / f"{name}.png", pictures / f"{name}.png")
    return errors(out, "BrainWeb slices")


def errors(out: Path, anatomy: str) -> list[dict[str, Any]]:
    """T1 errors on held-out anatomy of the network and of the controls, and how the error fell."""
    found = json.loads((out / "results.json").read_text())
    steps = json.loads((out / "demo.json").read_text())["steps"]
    rows = []
    for tissue in dict.fromkeys(r["tissue"] for r in found):
        error = {r["method"]: r["value"] for r in found if r["tissue"] == tissue and r["name"] == "rmse"}
        own, *controls = error
        best = min(error[c] for c in controls)
        listed = ", ".join(f"{c} {error[c]:.0f} ms" for c in controls)
        rows.append(row(f"T1 RMSE of the {own}, {tissue.replace('_', ' ')}, {anatomy}", error[own], "ms",
                        target=f"< {best:.1f}", baseline=f"{listed}; {steps} batches"))  # fmt: skip
    curve = [json.loads(line) for line in (out / "run/curve.jsonl").read_text().splitlines()]
    wanted = {"split": "validation", "name": "rmse", "tissue": "grey_matter", "method": own}
    checks = [r["value"] for r in curve if wanted.items() <= r.items()]
    if len(checks) > 1:
        rows.append(row(f"T1 RMSE of grey matter, last check over first, {anatomy}", checks[-1] / checks[0], "ratio",
                        target="< 1", baseline=f"{len(checks)} checks on the validation split"))  # fmt: skip
    return rows


if __name__ == "__main__":
    chosen = {f.__name__: f for f in (cost, tests, laws, kills, demo, real)}
    record("foundation", chosen[sys.argv[1]](*sys.argv[2:]))
