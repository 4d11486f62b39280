"""The commands: exit codes, sentences instead of tracebacks, JSON, pictures, and nothing that a terminal would obey.

Budget: 40 s on two cores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from typer.main import get_command
from typer.testing import CliRunner

from factory.cli import app
from factory.cli.terminal import clean, size, span
from factory.recipe import names
from tests.test_recipe import GOOD as RECIPE

ROOT = Path(__file__).parents[1]
TINY = [  # rim_t1, small enough to learn from within seconds
    "chain.anatomy.brain.voxel=8 mm", "chain.anatomy.patch.size=8", "splits.train.levels={subject: 4, patch: 8}",
    "splits.validation.levels={subject: 2, patch: 4}", "splits.test.levels={subject: 3, patch: 3}",
    "splits.noise_study.levels={subject: 1, patch: 1, noise: 2}",
]


def run(*words: object) -> Any:
    """What a user sees; a traceback fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def tiny() -> list[str]:
    return [word for text in TINY for word in ("--set", text)]


def is_picture(path: Path) -> bool:
    pixels = imread(path)
    return min(pixels.shape[:2]) > 200 and float(pixels[..., :3].std()) > 0.05


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "short.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def store(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "short.zarr"
    assert run("make", recipe, path).exit_code == 0
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "maps.zarr"
    assert run("make", "rim_t1", path, *tiny()).exit_code == 0
    return path


def test_every_command_has_an_example_and_a_sentence() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"list", "check", "show", "sample", "make", "preview", "status", "train", "evaluate", "schema", "doctor",
            "demo", "estimate"} <= set(commands)
    for name in commands:
        text = run(name, "--help").output
        assert f"Example:  factory {name}" in text, name
        assert len(text.split("Options:")[0].split()) > 8, name
    assert run("--help").exit_code == 0


def test_starting_is_light() -> None:
    code = "import sys, factory.cli; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"numpy", "numba", "xarray", "torch", "dask", "zarr", "matplotlib", "models"}


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "factory.cli", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "Commands" in done.stdout


@pytest.mark.parametrize(("what", "word"), [
    ("recipes", "rim_t1"), ("steps", "epg.cpmg"), ("distributions", "loguniform"), ("systems", "rim_t1"),
])
def test_list(what: str, word: str) -> None:
    assert word in run("list", what).stdout
    rows = json.loads(run("list", what, "--json").stdout)
    assert any(word in row.values() for row in rows)


def test_list_refuses_what_it_does_not_know() -> None:
    result = run("list", "networks")
    assert result.exit_code == 2
    assert "recipes, steps, distributions, tissues, systems" in result.output


def test_check_says_ok_or_all_faults(recipe: Path, tmp_path: Path) -> None:
    good = run("check", recipe)
    assert good.exit_code == 0
    assert "ok" in good.stdout
    assert "48 B" in good.stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text(RECIPE.replace("seed: 7", "sead: 7").replace("8 ms", "8"))
    refused = run("check", bad)
    assert refused.exit_code == 1
    assert "sead" in refused.stderr
    assert "needs a unit" in refused.stderr
    answer = run("check", bad, "--json")
    assert answer.exit_code == 1
    assert len(json.loads(answer.stdout)["faults"]) >= 2
    assert json.loads(run("check", recipe, "--json").stdout)["splits"]["train"]["samples"] == 24


def test_set_and_samples_reach_the_recipe(recipe: Path) -> None:
    told = json.loads(run("check", recipe, "--set", "chain.epg.cpmg.n_echo=16", "--samples", "train=2_000",
                          "--json").stdout)
    train = told["splits"]["train"]
    assert train["samples"] == 2000
    assert {"noisy": [16]}.items() <= {v["name"]: v["shape"] for v in train["variables"]}.items()
    wrong = run("check", recipe, "--set", "chain.epg.cpgm.n_echo=16")
    assert wrong.exit_code == 1
    assert "did you mean" in wrong.stderr
    for words in (["--set", "n_echo"], ["--samples", "train=many"], ["--samples", "train=0"]):
        assert run("check", recipe, *words).exit_code == 2, words


def test_every_recipe_can_be_shown() -> None:
    for name in names():
        assert run("show", name).exit_code == 0, name
    assert "1,024 samples" in run("show", "bloch_gre").stdout


def test_show_tells_units_dims_and_what_differs(recipe: Path, store: Path) -> None:
    text = run("show", recipe).stdout
    assert "uniform(low 0.3 s, high 3 s)" in text
    assert "high t1" in text
    assert "noisy" in text
    assert "split test: other than in train" in text
    assert "uniform(low 0.5, high 1.5)" in text
    told = run("show", store).stdout
    assert "is finished" in told
    assert "T2 from a short CPMG train" in told
    assert json.loads(run("show", store, "--json").stdout)["story"]["splits"]["test"]["samples"] == 8
    assert run("show", store, "--set", "seed=3").exit_code == 2


def test_sample_shows_every_variable_on_the_way(recipe: Path, tmp_path: Path) -> None:
    rows = json.loads(run("sample", recipe, "train", 3, "--json").stdout)["variables"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["signal"]["from"] == "epg.cpmg"
    assert not by_name["signal"]["kept"]
    assert by_name["noisy"]["kept"]
    assert by_name["t2"]["unit"] == "s"
    import factory

    made = factory.make(factory.load(recipe), "train", 3, 4)
    assert by_name["noisy"]["max"] == float(made.noisy.max())
    assert "epg.cpmg" in run("sample", recipe, "train", 3, "-o", tmp_path / "one.png").stdout
    assert is_picture(tmp_path / "one.png")
    assert run("sample", recipe, "train", 24).exit_code == 2
    wrong = run("sample", recipe, "training", 0)
    assert wrong.exit_code == 1
    assert "train" in wrong.stderr


def test_a_dry_run_writes_nothing_and_counts(recipe: Path, tmp_path: Path) -> None:
    target = tmp_path / "never.zarr"
    told = json.loads(run("make", recipe, target, "--dry-run", "--json").stdout)
    assert told["samples"] == 32
    assert told["bytes"] >= 32 * 48
    assert told["core_hours"] > 0
    assert "core-hours" in run("make", recipe, target, "--dry-run").stdout
    assert not target.exists()


def test_make_goes_on_and_says_what_next(recipe: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.zarr"
    first = run("make", recipe, target, "--threads", 1)
    assert "made 32 samples" in first.stdout
    assert "Next:  factory preview" in first.stdout
    assert "nothing was left to make" in run("make", recipe, target).stdout
    assert json.loads(run("make", recipe, target, "--json").stdout)["samples_made_now"] == 0


def test_dask_workers_make_the_same_store(recipe: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "dask.zarr"
    command = [sys.executable, "-m", "factory.cli", "make", str(recipe), str(target), "--workers", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == json.loads(run("status", store, "--json").stdout)["id"]


@pytest.mark.parametrize("words", [["--dashboard"], ["--workers", "1", "--threads", "1"]])
def test_make_refuses_options_that_do_not_go_together(recipe: Path, tmp_path: Path, words: list[str]) -> None:
    assert run("make", recipe, tmp_path / "x.zarr", *words).exit_code == 2
    assert not (tmp_path / "x.zarr").exists()


def test_exit_codes_of_a_store(recipe: Path, store: Path, tmp_path: Path) -> None:
    assert run("status", store).exit_code == 0
    assert run("status", tmp_path / "nowhere.zarr").exit_code == 10
    assert run("show", tmp_path / "nowhere.zarr").exit_code == 10
    assert run("preview", tmp_path / "nowhere.zarr", "-o", tmp_path / "x.png").exit_code == 10
    other = run("make", recipe, store, "--set", "seed=8")
    assert other.exit_code == 3
    assert "seed: 8" in other.stderr
    assert run("make", recipe, store, "--samples", "train=25").exit_code == 3
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(store, damaged)
    next(damaged.glob("train/noisy/c*")).unlink()
    found = run("status", damaged)
    assert found.exit_code == 1
    assert "damaged" in found.stderr
    told = run("status", damaged, "--json")
    assert (told.exit_code, json.loads(told.stdout)["code"]) == (1, 1)
    assert run("preview", damaged, "-o", tmp_path / "x.png").exit_code == 1


def test_an_incomplete_store_says_how_to_go_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import factory.store.run as runs

    target = tmp_path / "half.zarr"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "write", stop)
        result = run("make", recipe, target, "--threads", 1)
    assert result.exit_code == 130
    assert "goes on where this stopped" in result.stderr
    status = run("status", target)
    assert status.exit_code == 2
    assert "factory make" in status.stderr
    assert run("preview", target, "-o", tmp_path / "x.png").exit_code == 2
    assert run("train", "rim_t1", target, "--steps", 1, "--out", tmp_path / "run").exit_code == 2
    assert run("make", recipe, target).exit_code == 0


def test_an_interrupt_that_lightning_turns_into_an_exit(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr("models.training.fit", stop)
    result = run("train", "rim_t1", maps, "--steps", 1)
    assert result.exit_code == 2
    assert "add --resume" in result.stderr


def test_preview_of_a_recipe_and_of_a_store(recipe: Path, store: Path, maps: Path, tmp_path: Path) -> None:
    sources = {"recipe": [recipe], "store": [store, "--split", "test"], "maps": [maps, "--samples", 3]}
    for name, words in sources.items():
        out = tmp_path / f"{name}.png"
        assert run("preview", *words, "-o", out).exit_code == 0
        assert is_picture(out), name
    assert run("preview", store, "-o", tmp_path / "x.png", "--split", "nope").exit_code == 2
    wrong = run("preview", recipe, "-o", tmp_path / "x.txt")
    assert wrong.exit_code == 1
    assert ".png" in wrong.stderr


def test_train_then_evaluate(maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = run("train", "rim_t1", maps, "--steps", 4, "--batch", 4, "--out", out, "--threads", 1)
    assert told.exit_code == 0, told.stderr
    assert "tissue-mean map" in told.stdout
    assert is_picture(out / "curve.png")
    weights = out / "weights.safetensors"
    assert run("train", "rim_t1", maps, "--steps", 4, "--out", out).exit_code == 1, "a run is not overwritten"
    again = run("train", "rim_t1", maps, "--steps", 4, "--batch", 4, "--out", out, "--resume", "--json")
    assert json.loads(again.stdout)["weights"] == str(weights)
    judged = run("evaluate", "rim_t1", weights, maps, "-o", tmp_path / "maps.png", "--threads", 1)
    assert judged.exit_code == 0, judged.stderr
    assert "constant map" in judged.stdout
    assert is_picture(tmp_path / "maps.png")
    rows = json.loads(run("evaluate", "rim_t1", weights, maps, "--json").stdout)
    assert {row["method"] for row in rows} >= {"RIM", "constant map", "tissue-mean map"}
    assert run("evaluate", "rim_t2", weights, maps).exit_code == 1, "weights of another system"
    assert run("evaluate", "rim_t1", tmp_path / "absent", maps).exit_code == 1
    assert run("evaluate", "rim_t1", weights, tmp_path / "absent.zarr").exit_code == 10


def test_training_live_and_wrong_sources(recipe: Path, store: Path, tmp_path: Path) -> None:
    words = ["--steps", 2, "--batch", 2, "--threads", 1]
    live = run("train", "rim_t1", "--live", *tiny(), *words, "--out", tmp_path / "live", "--json")
    assert live.exit_code == 0, live.stderr
    assert Path(json.loads(live.stdout)["weights"]).is_file()
    unfit = run("train", "rim_t1", store, *words, "--out", tmp_path / "unfit")
    assert unfit.exit_code == 1
    assert "missing" in unfit.stderr
    assert run("train", "rim_t9", store).exit_code == 2
    assert run("train", "rim_t1").exit_code == 2
    assert run("train", "rim_t1", "rim_t1").exit_code == 2
    assert run("train", "rim_t1", store, "--set", "seed=3").exit_code == 2


def test_the_demo_tells_its_story_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.cli.demo.LEAST", 4)
    monkeypatch.setattr("factory.cli.demo.MOST", 4)
    words = ["demo", "--out", tmp_path / "demo", "--minutes", 0.01, "--threads", 1, *tiny()]
    first = run(*words)
    assert first.exit_code == 0, first.stderr
    for name in ("gallery.png", "curve.png", "maps.png", "maps_shipped.png"):
        assert is_picture(tmp_path / "demo" / name), name
    assert "white matter: T1 error RIM" in first.stdout
    assert [f"[{n}/6]" in first.stdout for n in range(1, 7)] == [True] * 6
    weights = (tmp_path / "demo/run/weights.safetensors").read_bytes()
    again = run(*words)
    assert "all were there already" in again.stdout
    assert (tmp_path / "demo/run/weights.safetensors").read_bytes() == weights
    assert run("demo", "--out", tmp_path / "demo", "--set", "seed=2").exit_code == 3


def test_schema_is_json() -> None:
    assert "$schema" in json.loads(run("schema").stdout)


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    well = run("doctor", "--json")
    told = json.loads(well.stdout)
    assert well.exit_code == (0 if told["ok"] else 1)
    assert {"numpy", "cores", "CPU", "compiled kernels", "free disk here", "other 'factory'"} <= {
        f["what"] for f in told["findings"]}
    (tmp_path / "factory.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    ill = run("doctor")
    assert ill.exit_code == 1
    assert "factory.py" in ill.stdout
    assert "factory_boy" in ill.stderr


def test_nothing_reaches_the_terminal_that_it_would_obey(tmp_path: Path) -> None:
    evil = "\\e]0;owned\\a\\e[31m [bold red]x[/] \\u202e \\r"
    path = tmp_path / "evil.yaml"
    for old, new in [("about: T2 from a short CPMG train", f'about: "{evil}"'),
                     ("seed: 7", f'"{evil}": 7'), ("[10 ms, t1]", f'["{evil}", t1]')]:
        path.write_text(RECIPE.replace(old, new))
        for words in (["show", path], ["check", path], ["sample", path, "train", "0"], ["check", path, "--json"]):
            output = run(*words).output
            assert not set(output) & set("\x1b\x07\r\u202e\x9b"), (old, words)
    path.write_text(RECIPE.replace("T2 from a short CPMG train", '"[bold]T2[/bold] [/] from"'))
    assert "[bold]T2[/bold] [/] from" in run("show", path).stdout


def test_a_fault_of_the_program_keeps_its_traceback(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.floor.trace", lambda *_: np.zeros(3).reshape(2, 2))
    result = CliRunner().invoke(app, ["sample", str(recipe), "train", "0"])
    assert isinstance(result.exception, ValueError)


def test_absent_files_and_recipes_end_in_a_sentence(tmp_path: Path) -> None:
    near = run("show", "rim_t")
    assert near.exit_code == 1
    assert "did you mean 'rim_t" in near.stderr
    assert run("show", tmp_path / "absent.yaml").exit_code == 1
    assert run("preview", "cpmg_t2", "-o", "/proc/forbidden/x.png").exit_code == 1


def test_words_for_sizes_and_times() -> None:
    assert [size(n) for n in (12, 1536, 2.5e9)] == ["12 B", "1.54 kB", "2.5 GB"]
    assert [span(s) for s in (0.0123, 12.34, 200, 7200)] == ["12.3 ms", "12.3 s", "3 min 20 s", "2 h"]
    assert clean("a\x1b[1mb\n") == "a\\x1b[1mb\n"
