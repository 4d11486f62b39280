"""A step is a function and its signature is its contract.

Positional parameters are variables, wired by name; keyword-only ones are constants that a recipe sets; the returned
NamedTuple names the outputs.  Nothing is registered: ``epg.cpmg`` *is* ``factory/physics/epg.py:cpmg``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from factory.sequences import Sequence, Table
from factory.units import UNITS, Volumes

DTYPES = frozenset({"float32", "float64", "complex64", "complex128", "uint8", "int16", "int32", "int64", "bool"})
ANY_DIMS = "..."
_SEQUENCE = "the name of a .seq file under files, or a sequence to build such as {gradient_echo: {lines: 64}}"
_BOUND = re.compile(r"(>=|<=|>|<)(-?\d+(?:\.\d+)?)$")


class StepError(TypeError):
    """A step's signature breaks the house rules; raised when the step is defined."""


@dataclass(frozen=True)
class Port:
    """What a variable is: unit, dtype and the dimensions after ``sample``.

    ``"..."`` stands for any dimensions and a unit that starts with ``?`` for any unit; both mean the same thing
    wherever they stand in one signature.
    """

    unit: str
    dims: tuple[str, ...] = ()
    dtype: str = "float64"

    def __str__(self) -> str:
        return f"[{self.unit}] ({', '.join(self.dims)})" if self.dims else f"[{self.unit}] scalar"


@dataclass(frozen=True)
class Constant:
    """What a recipe may set: ``kind`` is quantity, quantities, int, bool, choice, table, volumes, sequence, intervals.

    A pulse sequence reaches the step as a `Sequence` or, as ``intervals``, as a `Table`; recipes give both alike.
    """

    kind: str
    unit: str = "1"
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    default: object = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        limits = "".join(f" {sign} {limit:g}" for sign, limit in self.bounds)
        unit = "" if self.unit == "1" else f" in {self.unit}"
        words = {
            "quantity": f"a number{unit}{limits}",
            "quantities": f"a list of numbers{unit}{limits}",
            "int": f"a whole number{limits}",
            "bool": "true or false",
            "choice": "one of " + ", ".join(self.choices),
            "table": "a mapping from label value to tissue",
            "volumes": "the name of an entry under files",
            "sequence": _SEQUENCE,
            "intervals": _SEQUENCE,
        }
        return words[self.kind]


@dataclass(frozen=True)
class Step:
    """One link of a chain, read off a function's signature."""

    name: str
    function: Callable[..., Any]
    inputs: Mapping[str, Port]
    constants: Mapping[str, Constant]
    outputs: Mapping[str, Port]
    random: bool
    sizes: Callable[..., dict[str, int]] | None = None
    coordinates: Callable[..., dict[str, Any]] | None = None
    probe: Mapping[str, object] = field(default_factory=dict)
    accuracy: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[str], Step], tuple[str]]:
        return find, (self.name,)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


def step(
    function: Callable[..., Any] | None = None,
    *,
    sizes: Callable[..., dict[str, int]] | None = None,
    coordinates: Callable[..., dict[str, Any]] | None = None,
    probe: Mapping[str, object] | None = None,
    accuracy: tuple[str, ...] = (),
) -> Any:
    """Read a function's signature into a frozen `Step`.

    Parameters
    ----------
    sizes : function of the constants, optional
        ``{dim: size}`` for output dimensions that neither an input, a list constant nor ``n_<dim>`` gives.
    coordinates : function of the constants, optional
        ``{output: values}`` of coordinates that are no list constant, so that a data set opens without running a step.
    probe : mapping, optional
        Input values and constants under which every knob matters (law 2); default is the recipe's corner.
    accuracy : names of constants, optional
        Knobs that only refine the result: they must converge instead of moving the output.
    """
    given = {"sizes": sizes, "coordinates": coordinates, "accuracy": accuracy}
    if function is None:
        return lambda f: step(f, probe=probe, **given)  # type: ignore[arg-type]
    hints = get_type_hints(function, include_extras=True)
    name = f"{function.__module__.removeprefix('factory.physics.')}.{function.__name__}"
    returned = hints.get("return")
    if not (isinstance(returned, type) and hasattr(returned, "_fields")):
        raise StepError(f"{name} must return a NamedTuple whose fields are Annotated[Array, unit, dims ...]")
    parameters = inspect.signature(function).parameters.values()
    outputs = get_type_hints(returned, include_extras=True)
    return Step(
        name=name,
        function=function,
        inputs=MappingProxyType(
            {
                p.name: _port(hints[p.name], f"{name}({p.name})")
                for p in parameters
                if p.kind is not p.KEYWORD_ONLY and p.name != "draws"
            }
        ),
        constants=constants_of(function),
        outputs=MappingProxyType({k: _port(outputs[k], f"{name} -> {k}") for k in returned._fields}),
        random=any(p.name == "draws" for p in parameters),
        probe=MappingProxyType(dict(probe or {})),
        **given,  # type: ignore[arg-type]
    )


def constants_of(function: Callable[..., Any]) -> Mapping[str, Constant]:
    """The keyword-only parameters of a function, as what a recipe may set."""
    hints = get_type_hints(function, include_extras=True)
    name = f"{function.__module__.removeprefix('factory.physics.')}.{function.__name__}"
    return MappingProxyType(
        {
            p.name: _constant(hints[p.name], p.default, f"{name}({p.name})")
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
    )


def _port(hint: Any, where: str) -> Port:
    if get_origin(hint) is not Annotated or not (tokens := get_args(hint)[1:]):
        raise StepError(f"{where} needs Annotated[Array, unit, dims ...] with a unit; it is {hint}")
    unit, dims = str(tokens[0]), tuple(str(t) for t in tokens[1:] if t not in DTYPES)
    if not unit.startswith("?") and unit not in UNITS:
        raise StepError(f"{where} has the unit {unit!r}, which factory/units.py does not know")
    kinds = [str(t) for t in tokens[1:] if t in DTYPES] or ["float64"]
    return Port(unit, dims, kinds[0])


def _constant(hint: Any, default: object, where: str) -> Constant:
    tokens: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        tokens = tuple(str(t) for t in rest)
    units = [t for t in tokens if not _BOUND.match(t)] or ["1"]
    bounds = tuple((m[1], float(m[2])) for t in tokens if (m := _BOUND.match(t)))
    if get_origin(hint) is Literal:
        return Constant("choice", choices=get_args(hint), default=default)
    kinds = {
        float: "quantity",
        np.ndarray: "quantity",
        tuple[float, ...]: "quantities",
        int: "int",
        bool: "bool",
        dict[int, str]: "table",
        Volumes: "volumes",
        Sequence: "sequence",
        Table: "intervals",
    }
    if hint not in kinds:
        raise StepError(f"{where} is a constant of type {hint}; legal are {sorted(map(str, kinds))} and Literal")
    if units[0] not in UNITS:
        raise StepError(f"{where} has the unit {units[0]!r}, which factory/units.py does not know")
    return Constant(kinds[hint], units[0], bounds, default=default)


def find(name: str) -> Step:
    """The step of that name.  Raises LookupError with the nearest name and what there is."""
    topic, _, verb = name.partition(".")
    if topic not in topics():
        near = get_close_matches(topic, topics(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"there is no topic {topic!r} in factory/physics{hint} (topics: {', '.join(topics())})")
    here = steps(topic)
    if name not in here:
        near = get_close_matches(name, here, 1) or get_close_matches(verb, [n.partition(".")[2] for n in here], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LookupError(f"{topic} has no step {verb!r}; {hint}it has {', '.join(here)}")
    return here[name]


def topics() -> list[str]:
    """Names of the files in factory/physics that hold steps, sorted."""
    found = (m.name for m in iter_modules(import_module("factory.physics").__path__))
    return sorted(name for name in found if not name.startswith("_"))


def steps(topic: str) -> dict[str, Step]:
    """All steps of one file in factory/physics, in the order in which they are written."""
    module = import_module(f"factory.physics.{topic}")
    return {
        s.name: s for s in vars(module).values() if isinstance(s, Step) and s.function.__module__ == module.__name__
    }
