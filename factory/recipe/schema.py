"""A JSON schema of recipes, read off the steps' signatures and the table of distributions: editors complete with it.

The schema helps while one types; the checks of `factory.recipe` are what decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.distributions import DISTRIBUTIONS, REQUIRED, Distribution, Parameter
from factory.recipe.checking import KEYS
from factory.recipe.checking import REQUIRED as NEEDED
from factory.recipe.constants import TABLE
from factory.recipe.drawing import DESIGNS
from factory.recipe.tables import COLUMNS, label_tables, tissue_tables
from factory.sequences.building import builders
from factory.step import DTYPES, Constant, Step, constants_of, steps, topics
from factory.units import TISSUES, units_of

Schema = dict[str, Any]
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
COUNT: Schema = {"type": "integer", "minimum": 1}


def _properties() -> Schema:
    one = {"anyOf": [{"$ref": "#/$defs/draw"}, {"type": "null", "description": "Removes an inherited draw."}]}
    draws = {"type": "object", "additionalProperties": one}
    chain_patch = {"type": "object", "additionalProperties": {"type": ["object", "null"]}}
    split = _object(
        {
            "samples": COUNT,
            "levels": {"type": "object", "additionalProperties": COUNT, "minProperties": 1},
            "draw": draws,
            "chain": chain_patch,
            "files": {"type": "object"},
        }
    )
    properties: Schema = {
        "about": {"type": "string", "description": "What the data are, with the doi of the paper."},
        "like": {"type": "string", "description": "A recipe to inherit from, one level."},
        "seed": {"type": "integer", "minimum": 0},
        "shard": {"type": "integer", "minimum": 1, "description": "Samples a shard; left out, 32 to 64 MB."},
        "files": {"type": "object", "description": "Files that steps or draws read; null where none is given."},
        "splits": {"type": "object", "additionalProperties": split, "minProperties": 1},
        "design": _object({kind: {"type": "array", "items": NAME} for kind in DESIGNS}),
        "draw": draws,
        "chain": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/link"}, "minItems": 1}, chain_patch]},
        "keep": {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    NAME,
                    {"type": "object", "maxProperties": 1, "additionalProperties": {"enum": sorted(DTYPES)}},
                ]
            },
        },
        "corner": {"type": "object", "description": "Constants, samples and levels of the cheap corner for tests."},
    }
    assert set(properties) == set(KEYS)
    return properties


def schema() -> Schema:
    """The JSON schema (draft 2020-12) of a recipe."""
    all_steps = [step for topic in topics() for step in steps(topic).values()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe",
        **_object(_properties()),
        "anyOf": [{"required": ["like"]}, {"required": list(NEEDED)}],
        "$defs": {
            "draw": {"anyOf": [_draw(d) for d in DISTRIBUTIONS.values()]},
            "link": {"anyOf": [{"enum": [s.name for s in all_steps]}, *(_link(s) for s in all_steps)]},
        },
    }


def _object(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


def _quantity(unit: str) -> Schema:
    if unit == "1":
        return {"type": ["number", "string"]}
    return {"type": "string", "description": f"A number and a unit: {', '.join(units_of(unit))}"}


def _constant(constant: Constant) -> Schema:
    many = {
        "anyOf": [
            {"type": "array", "items": _quantity(constant.unit), "minItems": 1},
            _object({"values": {"type": "array"}, "unit": {"type": "string"}}, ("values", "unit")),
        ]
    }
    kinds: dict[str, Schema] = {
        "quantity": _quantity(constant.unit),
        "quantities": many,
        "int": {"type": "integer"},
        "bool": {"type": "boolean"},
        "choice": {"enum": list(constant.choices)},
        "table": {"anyOf": [{"enum": list(label_tables())},
                            {"type": "object", "additionalProperties": {"enum": list(TISSUES)},
                             "properties": {"table": {"enum": list(label_tables())}}}]},
        "volumes": NAME,
    }
    if constant.kind in ("sequence", "intervals"):
        return _sequence(constant)
    return kinds[constant.kind] | {"title": str(constant)}


def _sequence(constant: Constant) -> Schema:
    legal: dict[str, Mapping[str, Constant]] = {name: constants_of(one) for name, one in builders().items()}
    legal |= {"table": TABLE} if constant.kind == "intervals" else {}
    each = [_object({name: _object({key: _constant(one) for key, one in settings.items()})}, (name,))
            for name, settings in legal.items()]
    return {"anyOf": [NAME, *each], "title": str(constant)}


def _link(step: Step) -> Schema:
    words: Schema = {
        "at": {**NAME, "description": "The level at which this link runs."},
        "as": _object(dict.fromkeys(step.outputs, NAME)),
        "only_with": NAME,
        "only_without": NAME,
    }
    wires = {port: {**NAME, "description": f"{port} is {what}"} for port, what in step.inputs.items()}
    body = _object(wires | {key: _constant(c) for key, c in step.constants.items()} | words)
    return {"description": step.summary, **_object({step.name: {"anyOf": [body, {"type": "null"}]}}, (step.name,))}


def _draw(distribution: Distribution) -> Schema:
    return _object({distribution.name: _parameters(distribution), "at": NAME, "dim": NAME}, (distribution.name,))


def _parameters(distribution: Distribution) -> Schema:
    required = tuple(k for k, p in distribution.parameters.items() if p.default is REQUIRED)
    entries = {key: _parameter(p) for key, p in distribution.parameters.items()}
    if distribution.name == "per_tissue":  # rows of a table, written out when the recipe is read
        entries = {key: {"anyOf": [entry, {"type": "null"}]} for key, entry in entries.items()}
        entries |= {"table": {"enum": list(tissue_tables())}, "column": {"enum": list(COLUMNS)}}
    named = _object(entries, required)
    if distribution.name == "empirical":
        return {"anyOf": [named, _object({"file": NAME, "unit": {"type": "string"}}, ("file",))]}
    if distribution.positional:
        size = len(distribution.positional)
        listed = {"type": "array", "minItems": size, "maxItems": size, "items": {"type": ["number", "string"]}}
        return {"anyOf": [listed, named]}
    return {"anyOf": [named, {"type": ["number", "string"]}]} if distribution.name == "constant" else named


def _parameter(parameter: Parameter) -> Schema:
    nested: Schema = {"type": "object", "minProperties": 1, "maxProperties": 1}
    kinds: dict[str, Schema] = {
        "quantity": {"type": ["number", "string"]},
        "number": {"type": ["number", "string"]},
        "integer": {"type": ["integer", "string"]},
        "count": COUNT,
        "quantities": {"type": ["array", "object"]},
        "numbers": {"type": ["array", "object"]},
        "matrix": {"type": "array", "items": {"type": "array"}},
        "distribution": nested,
        "distributions": {"type": "array", "items": nested, "minItems": 1},
    }
    return kinds[parameter.kind]
