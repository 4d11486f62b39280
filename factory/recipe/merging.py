"""One recipe out of several texts: ``like``, a split's overrides, ``--set`` and the corner.

Mappings merge by key; draws and constants are replaced whole, and a draw replaced by null is gone; a chain given as a
mapping patches links by their address (the step's name, or any output named in ``as``), a chain given as a list
replaces the parent's.
"""

from __future__ import annotations

from dataclasses import replace

from factory.recipe.constants import nearest, shown
from factory.recipe.reading import Faults, Node, read_value
from factory.step import find

LINK_WORDS = ("at", "as", "only_with", "only_without")


def inherit(parent: Node, child: Node, faults: Faults) -> Node:
    """The child's text laid over the recipe that it names in ``like``."""
    merged = dict(parent.value)
    for key, node in child.value.items():
        old = merged.get(key)
        if key == "like":
            continue
        if key == "chain" and isinstance(node.value, dict) and old is not None:
            merged[key] = patch(old, node, "chain", faults)
        elif key == "splits" and isinstance(node.value, dict) and old is not None:
            merged[key] = _over(old, node)
            for name, split in node.value.items():
                if name in old.value and isinstance(split.value, dict):
                    merged[key].value[name] = _split(old.value[name], split)
        elif key in ("draw", "files") and isinstance(node.value, dict) and old is not None:
            merged[key] = _without_nulls(_over(old, node)) if key == "draw" else _over(old, node)
        else:
            merged[key] = node
    return replace(child, value=merged)


def _over(old: Node, new: Node) -> Node:
    before = old.value if isinstance(old.value, dict) else {}
    return replace(new, value=before | new.value)


def _without_nulls(node: Node) -> Node:
    """A draw that is overridden by null is gone."""
    return replace(node, value={key: child for key, child in node.value.items() if child.value is not None})


def _split(old: Node, new: Node) -> Node:
    merged = dict(old.value)
    for key, node in new.value.items():
        both = key in ("draw", "chain", "files") and key in merged and isinstance(node.value, dict)
        merged[key] = _over(merged[key], node) if both else node
    if "levels" in new.value and "samples" not in new.value:
        merged.pop("samples", None)
    return replace(new, value=merged)


def links(chain: Node) -> list[tuple[str, Node]]:
    """(step name, settings) of each well-formed link; malformed ones are the checker's to report."""
    found = []
    for item in chain.value if isinstance(chain.value, list) else []:
        if isinstance(item.value, str):
            found.append((item.value, replace(item, value={})))
        elif isinstance(item.value, dict) and len(item.value) == 1:
            name, settings = next(iter(item.value.items()))
            found.append((name, replace(settings, value={}) if settings.value is None else settings))
    return found


def addresses(chain: Node) -> dict[str, list[int]]:
    """Every address a link answers to -> positions in the chain."""
    table: dict[str, list[int]] = {}
    for position, (name, settings) in enumerate(links(chain)):
        renamed = settings.value.get("as") if isinstance(settings.value, dict) else None
        news = [str(n.value) for n in renamed.value.values()] if renamed and isinstance(renamed.value, dict) else []
        for address in {name, *news}:
            table.setdefault(address, []).append(position)
    return table


def locate(chain: Node, address: str, node: Node, place: str, faults: Faults) -> int | None:
    """Position of the one link with that address; a fault when there is none or more than one."""
    table = addresses(chain)
    found = table.get(address, [])
    if len(found) == 1:
        return found[0]
    if found:
        own = [a for a, where in table.items() if a != address and where[0] in found]
        faults.add(
            node,
            place,
            f"{address!r} stands {len(found)} times in the chain; "
            f"address one of them by an output that it names in `as`" + (f": {', '.join(own)}" if own else ""),
        )
    else:
        what = f"no link of the chain has the address {address!r}{nearest(address, table)}"
        faults.add(node, place, f"{what} (links: {', '.join(table)})")
    return None


def patch(chain: Node, changes: Node, place: str, faults: Faults) -> Node:
    """The chain with constants of some links replaced: ``{address: {constant: value}}``."""
    items = list(chain.value) if isinstance(chain.value, list) else []
    for address, node in changes.value.items():
        position = locate(chain, address, node, f"{place}.{address}", faults)
        if position is None:
            continue
        if not isinstance(node.value, dict):
            faults.add(node, f"{place}.{address}", "must be a mapping from constants to values")
            continue
        name, settings = links(chain)[position]
        items[position] = replace(items[position], value={name: _over(settings, node)})
    return replace(chain, value=items)


def assign(tree: Node, path: str, text: str, faults: Faults) -> Node:
    """The tree with one ``--set path=text``.  The value is read by the same strict rules as the file."""
    place = f"--set {path}"
    value = read_value(text)
    head, _, rest = path.partition(".")
    if head == "chain" and "chain" in tree.value and isinstance(tree.value["chain"].value, list):
        settings = [replace(value, value={rest: value})]
        chain = apply_dotted(tree.value["chain"], settings[0], place, faults)
        return replace(tree, value=tree.value | {"chain": chain})
    return _assign(tree, path.split("."), value, place, faults)


def _assign(tree: Node, keys: list[str], value: Node, place: str, faults: Faults) -> Node:
    if not isinstance(tree.value, dict):
        faults.add(value, place, f"{keys[0]!r} lies below {shown(tree)}, which is no mapping")
        return tree
    if len(keys) == 1:
        return replace(tree, value=tree.value | {keys[0]: value})
    below = tree.value.get(keys[0])
    said = ""
    top, *path = place.split(".")
    if top == "--set splits" and keys[0] == "levels" and keys == path[1:]:
        said = _no_level(below, keys[1], path[0])
    elif below is None:
        said = f"there is no {keys[0]!r}{nearest(keys[0], tree.value)} (there are {', '.join(tree.value)})"
    if said or below is None:
        faults.add(value, place, said)
        return tree
    return replace(tree, value=tree.value | {keys[0]: _assign(below, keys[1:], value, place, faults)})


def _no_level(levels: Node | None, level: str, split: str) -> str:
    """Why a level of a split has no count to set; nothing where it has one."""
    if levels is None or levels.value is None:
        return f"split {split} has no levels, only a count of samples: splits.{split}.samples"
    if not isinstance(levels.value, dict) or level in levels.value:
        return ""
    there = ", ".join(levels.value)
    return f"there is no level {level!r}{nearest(level, levels.value)} (there are {there}; others are set with " \
           f"all of them: splits.{split}.levels={{OUTER: COUNT, INNER: COUNT}})"


def apply_dotted(chain: Node, settings: Node, place: str, faults: Faults) -> Node:
    """The chain with ``{address.constant: value}`` or ``{constant: value}`` (every link that has it) applied."""
    for key, value in settings.value.items():
        table = addresses(chain)
        address = max((a for a in table if key.startswith(a + ".")), key=len, default=None)
        if address is not None:
            change = {address: replace(value, value={key[len(address) + 1 :]: value})}
            chain = patch(chain, replace(settings, value=change), place, faults)
        elif "." in key:
            locate(chain, key.rpartition(".")[0], value, place, faults)
        else:
            chain = _everywhere(chain, key, value, place, faults)
    return chain


def _everywhere(chain: Node, constant: str, value: Node, place: str, faults: Faults) -> Node:
    items, hit = list(chain.value), False
    for position, (name, settings) in enumerate(links(chain)):
        try:
            known = find(name).constants
        except LookupError:
            continue  # reported by the checker, with the nearest name
        if constant in known:
            hit = True
            items[position] = replace(
                items[position], value={name: replace(settings, value=settings.value | {constant: value})}
            )
    if not hit:
        faults.add(value, place, f"no link of the chain has a constant {constant!r}")
    return replace(chain, value=items)


def guarded(chain: Node, given: set[str], known: set[str], faults: Faults) -> Node:
    """The chain without the links whose ``only_with`` file is absent or whose ``only_without`` file is given."""
    kept = []
    for item, (_, settings) in zip(chain.value, links(chain), strict=False):
        words = settings.value if isinstance(settings.value, dict) else {}
        keep = True
        for word in ("only_with", "only_without"):
            if word not in words:
                continue
            name = words[word].value
            if name not in known:
                faults.add(
                    words[word], f"chain.{word}", f"{name!r} is no entry under files ({', '.join(sorted(known))})"
                )
            keep &= (name in given) == (word == "only_with")
        if keep:
            kept.append(item)
    return replace(chain, value=kept)


def shrunk(tree: Node, faults: Faults) -> Node:
    """The cheap corner of a recipe, for the laws: constants by name; ``samples`` and ``levels`` for all splits."""
    corner = tree.value.get("corner")
    if corner is None:
        return tree
    if not isinstance(corner.value, dict):
        faults.add(corner, "corner", "must be a mapping such as {n_echo: 8, samples: 12}")
        return tree
    constants = {k: v for k, v in corner.value.items() if k not in ("samples", "levels")}
    counts = corner.value.get("levels", Node({}))
    if not isinstance(counts.value, dict):
        faults.add(counts, "corner.levels", f"must be a mapping from level to count, not {shown(counts)}")
        return tree
    words = dict(tree.value)
    if "chain" in words and isinstance(words["chain"].value, list):
        words["chain"] = apply_dotted(words["chain"], replace(corner, value=constants), "corner", faults)
    if "splits" in words and isinstance(words["splits"].value, dict):
        smaller = {name: _fewer(split, corner.value, counts.value) for name, split in words["splits"].value.items()}
        words["splits"] = replace(words["splits"], value=smaller)
    return replace(tree, value=words)


def _fewer(split: Node, corner: dict[str, Node], counts: dict[str, Node]) -> Node:
    if not isinstance(split.value, dict):
        return split
    words = dict(split.value)
    if "samples" in corner:
        words["samples"] = corner["samples"]
    if "levels" in words and isinstance(words["levels"].value, dict):
        levels = {level: counts.get(level, count) for level, count in words["levels"].value.items()}
        words["levels"] = replace(words["levels"], value=levels)
    return replace(split, value=words)
