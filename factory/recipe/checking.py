"""The whole text of a recipe: known keys, splits and levels, what is kept, and the record that comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from factory.recipe.constants import nearest, shown, whole
from factory.recipe.drawing import read_draws
from factory.recipe.linking import Chain, read_chain
from factory.recipe.merging import guarded, patch
from factory.recipe.model import Recipe, Split, Variable
from factory.recipe.reading import MAX_FAULTS, Faults, Node, dump
from factory.step import DTYPES, Port
from factory.units import TISSUES

KEYS = ("about", "seed", "shard", "files", "splits", "design", "draw", "chain", "keep", "corner", "like")
REQUIRED = ("about", "seed", "splits", "chain", "keep")
SPLIT_KEYS = ("samples", "levels", "draw", "chain", "files")
MOST_SAMPLES = 2**62
STORED = {"float64": "float32", "complex128": "complex64"}
CATEGORIES = {"tissue": TISSUES}  # dimensions whose coordinate is a code with a name


def check(tree: Node, name: str, files: Mapping[str, Any], digests: Mapping[str, str], faults: Faults) -> Recipe | None:
    """The frozen recipe; None (and faults) when anything is wrong.  No sample is made, no kernel compiled."""
    if not isinstance(tree.value, dict):
        faults.add(tree, "recipe", f"must be a mapping with the keys {', '.join(KEYS)}, not {shown(tree)}")
        return None
    words = tree.value
    unknown = [key for key in words if key not in KEYS]
    for key in unknown[: MAX_FAULTS + 1]:  # more are never told
        faults.add(words[key], key, f"is no key of a recipe{nearest(key, KEYS)} (keys: {', '.join(KEYS)})")
    for key in REQUIRED:
        if key not in words:
            faults.add(tree, "recipe", f"the key {key!r} is missing (needed: {', '.join(REQUIRED)})")
    seed = whole(words["seed"], "seed", faults) if "seed" in words else 0
    if seed is not None and not 0 <= seed < 2**63:
        faults.add(words["seed"], "seed", f"must lie between 0 and 2**63 - 1, not {seed}")
    about = words.get("about", Node(""))
    if not isinstance(about.value, str) or not about.value.strip():
        faults.add(about, "about", f"must be a sentence that says what the data are, not {shown(about)}")
    shard = whole(words["shard"], "shard", faults) if "shard" in words else None
    if shard is not None and not 1 <= shard <= 2**20:
        faults.add(words["shard"], "shard", f"must lie between 1 and {2**20} samples, not {shard}")
    splits = _splits(words, files, faults) if "splits" in words and "chain" in words else {}
    if faults:
        return None
    text = dump(tree.plain())
    return Recipe(
        name, str(about.value), seed or 0, text, _identity(tree.plain(), digests), splits, shard, digests=dict(digests)
    )


def _identity(tree: dict[str, Any], digests: Mapping[str, str]) -> str:
    """sha256 of what decides a sample's bytes: everything but ``about``, ``corner`` and the sample counts."""
    decides = {k: v for k, v in tree.items() if k not in ("about", "corner", "files")}
    decides["files"] = dict(digests)
    fixed = "latin_hypercube" in tree.get("design", {})  # its strata depend on how many samples there are
    decides["splits"] = {
        name: {
            k: v if k != "levels" or fixed else dict([*v.items()][1:])
            for k, v in split.items()
            if k != "samples" or fixed
        }
        for name, split in tree["splits"].items()
    }
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _splits(words: Mapping[str, Node], files: Mapping[str, Any], faults: Faults) -> dict[str, Split]:
    node = words["splits"]
    if not isinstance(node.value, dict) or not node.value:
        faults.add(node, "splits", f"must be a mapping from split to {{samples: N}}, not {shown(node)}")
        return {}
    everywhere = {
        level
        for split in node.value.values()
        if isinstance(split.value, dict) and "levels" in split.value and isinstance(split.value["levels"].value, dict)
        for level in split.value["levels"].value
    }
    splits = {}
    for name, split in node.value.items():
        place = f"splits.{name}"
        if not name.isidentifier():
            faults.add(split, place, "a split's name must be a plain word, since it names a Zarr group")
        elif not isinstance(split.value, dict):
            faults.add(split, place, f"must be a mapping such as {{samples: 1000}}, not {shown(split)}")
        else:
            for key, child in split.value.items():
                if key not in SPLIT_KEYS:
                    faults.add(
                        child,
                        f"{place}.{key}",
                        f"is no key of a split{nearest(key, SPLIT_KEYS)} (keys: {', '.join(SPLIT_KEYS)})",
                    )
            made = _split(name, split, words, everywhere, files, faults)
            if made is not None:
                splits[name] = made
    return splits


def _split(
    name: str, node: Node, words: Mapping[str, Node], all_levels: set[str], files: Mapping[str, Any], faults: Faults
) -> Split | None:
    before, place = faults.noticed, f"splits.{name}"
    levels, samples = _levels(node, place, faults)
    own = {key.partition(".")[2]: value for key, value in files.items() if key.startswith(f"{name}.")}
    given = {key: value for key, value in files.items() if "." not in key} | own
    chain = words["chain"]
    if "chain" in node.value and isinstance(node.value["chain"].value, dict):
        chain = patch(chain, node.value["chain"], f"{place}.chain", faults)
    elif "chain" in node.value:
        faults.add(node.value["chain"], f"{place}.chain", "must be a mapping {address: {constant: value}}")
    if isinstance(chain.value, list):
        chain = guarded(chain, {k for k, v in given.items() if v is not None}, set(given), faults)
    state = Chain([level for level, _ in levels], all_levels, given, faults)
    draw = dict(words["draw"].value) if "draw" in words and isinstance(words["draw"].value, dict) else {}
    if "draw" in node.value and isinstance(node.value["draw"].value, dict):
        draw |= node.value["draw"].value
    for holder in (words.get("draw"), node.value.get("draw")):
        if holder is not None and not isinstance(holder.value, dict | None):
            faults.add(holder, "draw", f"must be a mapping from variable to distribution, not {shown(holder)}")
    drawn = read_draws(draw, words.get("design"), state)
    read_chain(chain, state)
    if faults.noticed > before:
        return None
    return _assemble(name, samples, levels, drawn, state, words["keep"], faults) if "keep" in words else None


def _levels(node: Node, place: str, faults: Faults) -> tuple[tuple[tuple[str, int], ...], int]:
    counts: dict[str, int] = {}
    given = node.value.get("levels")
    if given is not None and (not isinstance(given.value, dict) or not given.value):
        faults.add(
            given, f"{place}.levels", f"must be a mapping from level to count, outer to inner, not {shown(given)}"
        )
    elif given is not None:
        for level, count in given.value.items():
            number = whole(count, f"{place}.levels.{level}", faults)
            if number is not None and not 1 <= number <= MOST_SAMPLES:
                faults.add(count, f"{place}.levels.{level}", f"must be at least 1 and at most 2**62, not {number}")
            counts[level] = number or 1
    total = 1
    for count in counts.values():
        total *= count
    wanted = node.value.get("samples")
    if wanted is None and not counts:
        faults.add(node, place, "needs `samples` (a count) or `levels` (counts, outer to inner)")
    samples = whole(wanted, f"{place}.samples", faults) if wanted is not None else total
    if samples is not None and not 1 <= samples <= MOST_SAMPLES:
        faults.add(wanted or node, f"{place}.samples", f"must be at least 1 and at most 2**62, not {samples}")
    return tuple(counts.items()) or (("sample", samples or 1),), samples or 1


def _assemble(
    name: str, samples: int, levels: tuple[tuple[str, int], ...], drawn: Any, state: Chain, keep: Node, faults: Faults
) -> Split | None:
    stored = _kept(keep, state, faults)
    scalars = {d.name: STORED.get(d.port.dtype, d.port.dtype) for d in drawn if not d.port.dims}
    stored |= {key: dtype for key, dtype in scalars.items() if key not in stored}
    reached = set(stored) | {d for key in stored for d in state.ports[key].dims}
    for link in reversed(state.links):
        if not reached & set(link.outputs.values()):
            faults.add(
                keep,
                f"chain.{link.step.name}",
                f"nothing that is kept uses what it makes "
                f"({', '.join(link.outputs.values())}); keep it or delete the link",
            )
        reached |= set(link.wires.values())
    used = reached | {ref for d in drawn for ref in d.refs}
    for one in drawn:
        if one.port.dims and one.name not in used:
            faults.add(keep, f"draw.{one.name}", "is drawn but neither used nor kept; wire it or delete it")
    variables = {key: _variable(key, dtype, state) for key, dtype in stored.items() if not _is_coordinate(key, state)}
    for dim in dict.fromkeys(d for v in variables.values() for d in v.dims):
        if dim in CATEGORIES:
            if dim in variables:
                faults.add(keep, "keep", f"cannot keep {dim!r} beside a variable that has the dimension {dim!r}")
            variables[dim] = Variable(dim, "1", "int64", (dim,), (state.sizes[dim],), True)
        elif dim in state.ports and _is_coordinate(dim, state):
            port = state.ports[dim]
            variables[dim] = Variable(dim, port.unit, port.dtype, (dim,), (state.sizes[dim],), True)
    return Split(name, samples, levels, tuple(drawn), tuple(state.links), variables, stored, state.sizes)


def _is_coordinate(name: str, state: Chain) -> bool:
    return state.ports[name].dims == (name,)


def _variable(name: str, dtype: str, state: Chain) -> Variable:
    port: Port = state.ports[name]
    shape = tuple(state.sizes[d] for d in port.dims)
    return Variable(name, port.unit, dtype, port.dims, shape, level=state.level_of[name])


def _kept(keep: Node, state: Chain, faults: Faults) -> dict[str, str]:
    if not isinstance(keep.value, list) or not keep.value:
        faults.add(keep, "keep", f"must be a list of variables that is not empty, not {shown(keep)}")
        return {}
    stored: dict[str, str] = {}
    for item in keep.value:
        pair = item.value if isinstance(item.value, dict) and len(item.value) == 1 else {item.value: None}
        ((name, wish),) = pair.items() if not isinstance(item.value, list) else [(None, None)]
        if not isinstance(name, str) or name not in state.ports:
            faults.add(
                item,
                "keep",
                f"nothing makes {shown(item)}{nearest(name, state.ports)} (there are {', '.join(state.ports)})",
            )
            continue
        if name in stored:
            faults.add(item, "keep", f"names {name!r} twice")
        dtype = state.ports[name].dtype
        if wish is not None and wish.value not in DTYPES:
            faults.add(
                item,
                f"keep.{name}",
                f"{shown(wish)} is no dtype{nearest(wish.value, DTYPES)} (dtypes: {', '.join(sorted(DTYPES))})",
            )
        stored[name] = str(wish.value) if wish is not None else STORED.get(dtype, dtype)
    return stored
