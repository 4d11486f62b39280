"""What a training keeps on disk: weights, its learning curve, and the state of a stopped run.

Weights are safetensors, which hold tensors and strings and cannot hold code; so does a stopped run's checkpoint, which
is read as plain data only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.cards import Row, Shapes, Stage, System, Task, TrainingError

FORMAT = "mr-factory weights 1"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
WEIGHTS, CURVE, RESUME = "weights.safetensors", "curve.jsonl", "resume.ckpt"


def save(path: str | os.PathLike[str], network: nn.Module, facts: Mapping[str, object]) -> None:
    """Write all tensors of a network, and facts about it (anything JSON holds), in one atomic step."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    partial = path.with_name(path.name + ".part")
    save_file(tensors, partial, {"format": FORMAT} | {name: json.dumps(value) for name, value in facts.items()})
    os.replace(partial, path)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors and the facts of a weights file."""
    if not Path(path).is_file():
        raise TrainingError(f"there is no weights file {path}; `factory train` writes one into the folder of its run.")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
            if facts.pop("format", None) != FORMAT:
                raise TrainingError(f"{path} holds safetensors, but not weights of this project ({FORMAT}).")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, {name: json.loads(text) for name, text in facts.items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise TrainingError(f"{path} is damaged or no safetensors file ({error}); fetch or train it again.") from error


def shipped(system: str) -> Path:
    """The weights that come with the package for a system.

    Raises
    ------
    TrainingError
        None do; the sentence names the systems that have some.
    """
    known = {path.stem: path for path in sorted(CHECKPOINTS.glob("*.safetensors"))}
    if system not in known:
        raise TrainingError(
            f"no weights of {system} ship with the package (there are {', '.join(known) or 'none'}); "
            f"train some (factory train {system} STORE) and name the file (--weights runs/{system}/{WEIGHTS})."
        )
    return known[system]


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: object, *, partly: bool = False) -> None:
    """Copy tensors into a network after comparing every name, shape and dtype.

    Parameters
    ----------
    source : object
        Named in the complaint.
    partly : bool
        The network may hold tensors that `tensors` lack (a stage that adds a network); they keep their values.
    """
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in tensors and not partly]
    for name, value in tensors.items():
        if name not in own:
            faults.append(f"{name} {tuple(value.shape)} has no place in the network")
        elif value.shape != own[name].shape:
            faults.append(f"{name} has the shape {tuple(value.shape)}, but the network needs {tuple(own[name].shape)}")
        elif value.dtype != own[name].dtype:
            faults.append(f"{name} is {value.dtype}, but the network needs {own[name].dtype}")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise TrainingError(
            f"the weights of {source} do not fit: {'; '.join(faults[:5])}{more}. "
            "Use weights that were trained for these data, or data with the sizes of the training."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def load(system: System, path: str | os.PathLike[str], *, shapes: Shapes | None = None) -> Task:
    """The trained task of a weights file, ready to predict.

    Parameters
    ----------
    system : System
        Whose weights these must be.
    path : path-like
        The safetensors file that `fit` wrote.
    shapes : mapping, optional
        Shapes of the variables of the data to come, where they differ from those of the training.

    Raises
    ------
    TrainingError
        The file is absent, damaged, of another system, or does not fit these shapes.
    """
    tensors, facts = read(path)
    stage = number_of_stage(system, facts, path)
    known = {name: tuple(shape) for name, shape in as_mapping(facts.get("shapes")).items()}
    with torch.random.fork_rng(devices=[]):
        task = system.stages[stage].task(known if shapes is None else shapes)
    fill(task, tensors, path)
    return task.eval()


def number_of_stage(system: System, facts: Mapping[str, object], path: object) -> int:
    """The stage that a file's facts name; refuses another system's."""
    if facts.get("system") != system.name:
        raise TrainingError(
            f"{path} was written by the system {facts.get('system')}, but {system.name} was asked for; "
            f"name the system {facts.get('system')}, or weights of {system.name}."
        )
    stage = facts.get("stage")
    if not isinstance(stage, int) or not 0 <= stage < len(system.stages):
        raise TrainingError(f"{path} is of stage {stage}, but {system.name} has {len(system.stages)} stages, from 0.")
    return stage


def as_mapping(value: object) -> Mapping[str, list[int]]:
    return value if isinstance(value, dict) else {}


def read_curve(out: str | os.PathLike[str]) -> list[Row]:
    """The learning curve of a run so far."""
    path = Path(out) / CURVE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def card_of(system: System, stage: int) -> Stage:
    if not 0 <= stage < len(system.stages):
        raise TrainingError(f"{system.name} has {len(system.stages)} stages, from 0, but stage {stage} was asked for.")
    return system.stages[stage]


def facts_of(system: System, stage: int, steps: int, seed: int, stream: object) -> dict[str, Any]:
    """What identifies a run, as far as it is known before the first batch."""
    if steps < 1:
        raise TrainingError(f"a training takes at least one step, not {steps}.")
    return {
        "system": system.name,
        "stage": stage,
        "steps": steps,
        "seed": seed,
        "recipe": card_of(system, stage).recipe,
        "data": str(getattr(stream, "dataset_id", "unknown")),
    }


def open_run(out: Path, resume: bool) -> dict[str, Any] | None:
    """What a stopped run left behind, None where there is nothing to go on with."""
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        if any((out / name).exists() for name in (WEIGHTS, CURVE, RESUME)):
            raise TrainingError(f"{out} already holds a run; resume it, or name another folder.")
        return None
    if not (out / RESUME).exists():
        if not (out / WEIGHTS).exists():
            (out / CURVE).unlink(missing_ok=True)  # of a run that stopped before its first checkpoint
        return None
    try:
        loaded = torch.load(out / RESUME, map_location="cpu", weights_only=True)
        found: dict[str, Any] = loaded["training"] | {"tensors": loaded["state_dict"]}
    except Exception as error:
        raise TrainingError(f"{out / RESUME} is damaged ({error}); delete it to start anew.") from error
    kept = [row for row in read_curve(out) if row["step"] <= found["batches"]]
    (out / CURVE).write_text("".join(json.dumps(row) + "\n" for row in kept))
    return found


def same_facts(found: Mapping[str, object], asked: Mapping[str, object], where: Path) -> None:
    """Refuse to go on with a run of another system, data set, seed or length."""
    differing = [name for name in asked if found.get(name) != asked[name]]
    if differing:
        raise TrainingError(
            f"the run in {where} differs: "
            + "; ".join(f"its {name} is {found.get(name)}, but {asked[name]} was asked for" for name in differing)
            + ". Ask for the same, or name another folder."
        )
