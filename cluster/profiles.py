"""Profiles: what a cluster is, as a file of YAML that is checked strictly before anything is submitted.

Words of a profile end up in job scripts and command lines, so every field has a grammar of its own: no word may hold
blanks, quotes or anything else that a shell obeys, no line a control character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent / "templates"
LIMIT = 65_536  # bytes of a profile
MANY = 1_000_000  # more workers, threads or cores than any cluster has
LONGEST = 500  # characters of one line for a job script
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Kind = Literal["local", "slurm", "pbs", "lsf", "sge", "ssh", "mpi", "kubernetes", "address"]
QUEUES = ("slurm", "pbs", "lsf", "sge")
_COMMON = {"kind", "about"}
_MADE = _COMMON | {"workers", "threads", "memory"}
_QUEUE = _MADE | {"cores", "walltime", "queue", "account", "interface", "scratch", "shared", "adaptive", "job_extra",
                  "prologue", "python"}
LEGAL: dict[str, set[str]] = {
    "local": _MADE | {"scratch", "adaptive"},
    "slurm": _QUEUE | {"partition"}, "pbs": _QUEUE, "lsf": _QUEUE, "sge": _QUEUE,
    "ssh": _COMMON | {"threads", "memory", "interface", "shared", "python", "hosts", "user", "port", "ssh_key",
                      "known_hosts"},
    "mpi": _COMMON | {"threads", "memory", "interface", "shared"},
    "kubernetes": _MADE | {"cores", "namespace", "image", "claim", "mount"},
    "address": _COMMON | {"address", "tls_ca", "tls_cert", "tls_key"},
}
NEEDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(QUEUES, ("memory",)), "ssh": ("hosts",), "kubernetes": ("memory", "image", "claim"),
    "address": ("address", "tls_ca", "tls_cert", "tls_key"),
}


class ProfileError(ValueError):
    """Every fault of a profile, one a line."""


@dataclass(frozen=True)
class Profile:
    """A cluster in the words of its users.  `LEGAL` says which kind has which fields.

    Parameters
    ----------
    workers : worker processes in all; of an adaptive cluster, those at its start
    threads : shards that one worker makes at once
    cores : CPUs of one job (of one pod), which holds ``cores // threads`` workers
    memory : bytes of one job, or of one worker where there are no jobs
    walltime : seconds of one job
    scratch : folder for spilled data on the node; may hold ``$TMPDIR``
    shared : folder that all nodes see: keys while a cluster lives, and the logs of its jobs
    adaptive : fewest and most workers, by the work that is left
    job_extra : more directives for the job script, without ``#SBATCH``
    prologue : lines of shell before the worker starts, such as ``module load python``
    hosts : the first gets the scheduler, all others a worker each

    Raises
    ------
    ProfileError
        A field that this kind has no use for, or lacks.
    """

    kind: Kind
    name: str = ""
    about: str = ""
    workers: int = 1
    threads: int = 1
    cores: int | None = None
    memory: int | None = None
    walltime: int | None = None
    queue: str | None = None
    account: str | None = None
    interface: str | None = None
    scratch: str | None = None
    shared: str | None = None
    adaptive: tuple[int, int] | None = None
    job_extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    hosts: tuple[str, ...] = ()
    user: str | None = None
    port: int = 22
    ssh_key: str | None = None
    known_hosts: str | None = None
    namespace: str = "default"
    image: str | None = None
    claim: str | None = None
    mount: str = "/data"
    address: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default} - {"name", "kind"}
        wrong = sorted(given - LEGAL[self.kind])
        if wrong:
            raise ProfileError(f"a {self.kind} profile has no {', '.join(wrong)}; it has {_list(LEGAL[self.kind])}")
        lacking = [name for name in NEEDED.get(self.kind, ()) if not getattr(self, name)]
        if lacking:
            raise ProfileError(f"a {self.kind} profile needs {', '.join(lacking)}")
        if self.cores is not None and self.cores % self.threads:
            raise ProfileError(f"cores: a job of {self.cores} cores cannot hold whole workers of {self.threads} "
                               f"threads; give a multiple of {self.threads}")
        if self.kind == "ssh" and len(self.hosts) < 2:
            raise ProfileError("hosts: name at least two: one for the scheduler (it may be named again), then one for "
                               "each worker")

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most workers."""
        return self.adaptive or (self.workers, self.workers)

    @property
    def job_cores(self) -> int:
        return self.cores or self.threads

    @property
    def job_workers(self) -> int:
        return self.job_cores // self.threads


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


def _nearest(name: str, legal: Any) -> str:
    near = get_close_matches(name, legal, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text.replace("_", "")) or int(text.replace("_", "")) > MANY:
        raise ValueError(f"a whole number from 1 to {MANY:,}")
    return int(text.replace("_", ""))


def _few(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise ValueError("a port from 1 to 65535")
    return int(text)


def memory(text: str) -> int:
    """``4 GB``, ``500 MiB`` or ``2G`` in bytes.  ValueError says what is legal."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([kMGT]i?)(?:B)?", text)
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size < 1_000_000:
        raise ValueError("a size with its unit, at least a megabyte, such as 4 GB or 500 MiB")
    return size


def walltime(text: str) -> int:
    """``01:30:00`` or ``2-00:00:00`` in seconds.  ValueError says what is legal."""
    found = re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", text)
    seconds = 0
    if found:
        days, hours, minutes, rest = (int(part or 0) for part in found.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds < 60:
        raise ValueError("hours:minutes:seconds of at least a minute, such as 01:30:00, or days-hours:minutes:seconds")
    return seconds


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,:@/+%=-]{0,199}", text):
        raise ValueError("one word of letters, digits and _ . , : @ / + % = -")
    return text


def _path(text: str) -> str:
    expanded = str(Path(text).expanduser()) if text.startswith("~") else text
    if not re.fullmatch(r"/[A-Za-z0-9_./+@,=-]{0,999}", expanded):
        raise ValueError("an absolute path, or one from ~, without blanks, quotes or other signs that a shell obeys")
    return expanded


def _scratch(text: str) -> str:
    bare = re.sub(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})", "/x", text)
    if not bare.startswith("/"):
        raise ValueError("an absolute path, which may hold variables, such as /scratch/$USER or $TMPDIR")
    _path(bare)
    return text


def _line(text: str) -> str:
    if not text.strip() or len(text) > LONGEST or any(unicodedata.category(c)[0] == "C" for c in text) \
            or any(unicodedata.category(c) in ("Zl", "Zp") for c in text):
        raise ValueError(f"one line of at most {LONGEST} characters, without control characters")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"tls://[A-Za-z0-9_.\[\]:-]{1,200}:[0-9]{1,5}", text):
        raise ValueError("tls://host:port (a scheduler without TLS takes orders from anybody who reaches it)")
    return text


def _tags(text: str) -> str:
    if text not in LEGAL:
        raise ValueError(f"one of {_list(LEGAL)}")
    return text


SCALARS: dict[str, Callable[[str], Any]] = {
    "kind": _tags, "about": _line, "workers": _count, "threads": _count, "cores": _count, "memory": memory,
    "walltime": walltime, "queue": _word, "partition": _word, "account": _word, "interface": _word,
    "scratch": _scratch, "shared": _path, "python": _path, "user": _word, "port": _port, "ssh_key": _path,
    "known_hosts": _path, "namespace": _word, "image": _word, "claim": _word, "mount": _path, "address": _address,
    "tls_ca": _path, "tls_cert": _path, "tls_key": _path,
}
LISTS: dict[str, Callable[[str], Any]] = {"job_extra": _line, "prologue": _line, "hosts": _word}


class _Reading:
    """One profile's YAML, node by node: nothing is constructed from it but text, numbers and lists of text."""

    def __init__(self, where: str):
        self.where = where
        self.faults: list[str] = []

    def fault(self, node: Any, text: str) -> None:
        self.faults.append(f"{self.where}, line {node.start_mark.line + 1}: {text}")

    def pairs(self, node: Any, legal: set[str], what: str) -> dict[str, tuple[Any, Any]]:
        found: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if name not in legal:
                self.fault(key, f"{what} has no {_shown(name)}{_nearest(name, legal)}; it has {_list(legal)}")
            elif name in found:
                self.fault(key, f"{name} is given twice")
            else:
                found[name] = (key, value)
        return found

    def scalar(self, name: str, node: Any, read: Callable[[str], Any]) -> Any:
        given = node.value if isinstance(node, yaml.ScalarNode) else f"a {node.id}"
        try:
            if not isinstance(node, yaml.ScalarNode):
                raise ValueError("one value" if name not in SCALARS else _wanted(read))
            return read(node.value)
        except ValueError as error:
            self.fault(node, f"{name}: {_shown(given)} is not {error}")
            return None

    def value(self, name: str, node: Any) -> Any:
        if name in SCALARS:
            return self.scalar(name, node, SCALARS[name])
        if name == "adaptive":
            return self.adaptive(node)
        if not isinstance(node, yaml.SequenceNode):
            return self.fault(node, f"{name}: {_shown(node.value)} is not a list; write one entry a line, after a dash")
        return tuple(self.scalar(name, entry, LISTS[name]) for entry in node.value)

    def adaptive(self, node: Any) -> tuple[int, int] | None:
        if not isinstance(node, yaml.MappingNode):
            return self.fault(node, f"adaptive: {_shown(node.value)} is not {{minimum: 0, maximum: 8}}")  # type: ignore[func-returns-value]
        found = self.pairs(node, {"minimum", "maximum"}, "adaptive")
        if "maximum" not in found:
            return self.fault(node, "adaptive needs a maximum, such as {minimum: 0, maximum: 8}")  # type: ignore[func-returns-value]
        low = self.scalar("minimum", found["minimum"][1], _few) if "minimum" in found else 0
        high = self.scalar("maximum", found["maximum"][1], _count)
        if low is not None and high is not None and low > high:
            self.fault(node, f"adaptive: the minimum {low} is above the maximum {high}")
        return None if low is None or high is None else (low, high)


def _wanted(read: Callable[[str], Any]) -> str:
    """What a field takes, from the refusal of a text that no field takes."""
    try:
        read("\0")
    except ValueError as error:
        return str(error)
    return "one value"


def _shown(value: Any) -> str:
    """A value in a sentence: short, and nothing in it that a terminal would obey."""
    short = Repr()
    short.maxstring = short.maxother = 60
    return short.repr(value) if isinstance(value, str) else "this"


def read_profile(text: str, where: str, name: str = "") -> Profile:
    """A profile from its YAML.

    Parameters
    ----------
    where : what sentences call the file

    Raises
    ------
    ProfileError
        Every fault with its line, what was given, what is legal and the nearest name.
    """
    try:
        # Only the tree of nodes is built: no tags, no types, and an alias costs nothing
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ProfileError(f"{where}{line}: this is no YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ProfileError(f"{where}: nested too deeply for a profile") from None
    if not isinstance(root, yaml.MappingNode):
        raise ProfileError(f"{where}: a profile is a mapping that begins with its kind, such as `kind: slurm`")
    reading = _Reading(where)
    kinds = [value for key, value in root.value if isinstance(key, yaml.ScalarNode) and key.value == "kind"]
    kind = reading.scalar("kind", kinds[0], _tags) if kinds else None
    if kind is None:
        raise ProfileError("\n".join(reading.faults) or f"{where}: say its kind: one of {_list(LEGAL)}")
    found = reading.pairs(root, LEGAL[kind], f"a {kind} profile")
    values = {key: reading.value(key, node) for key, (_, node) in found.items()}
    if "partition" in values:
        if "queue" in values:
            reading.fault(found["queue"][0], "queue and partition are one thing; give one of them")
        values["queue"] = values.pop("partition")
    if reading.faults:
        raise ProfileError("\n".join(reading.faults))
    try:
        return Profile(**values | {"name": name or kind})
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from None


def built_in() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def load_profile(path_or_name: str | Path) -> Profile:
    """The profile of a file (a path has a ``/`` or ends in ``.yaml``), or a built-in one by its name.

    Raises
    ------
    ProfileError
        No such profile, or a file with faults; all of them are listed.
    """
    text = str(path_or_name)
    if "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ProfileError(f"{path}: there is no such file")
    else:
        path = HERE / f"{text}.yaml"
        if text not in built_in():
            raise ProfileError(f"no built-in profile is called {_shown(text)}{_nearest(text, built_in())}; there are "
                               f"{_list(built_in())}; a file of your own is named with its folder, such as "
                               "./cluster.yaml")
    with path.open("rb") as file:
        raw = file.read(LIMIT + 1)
    if len(raw) > LIMIT:
        raise ProfileError(f"{path}: larger than {LIMIT // 1024} kB, which no profile is")
    try:
        return read_profile(raw.decode(), path.name, path.stem)
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: this is no UTF-8 text") from None
