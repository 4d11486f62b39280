"""Recipes and files from an attacker: each ends in a sentence, soon, in little memory, and nothing of it is executed.

A server process imports the factory once and forks for each attack, so that time and memory are those of the attack.
The child may not map more than 3 GB beyond the server and is killed after ten seconds.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

LIMIT_SECONDS = 1.0  # of processor time; the wall clock of a shared machine says little
LIMIT_BYTES = 10**9

SERVER = """
import json, os, resource, signal, sys, time
import h5py, nibabel
from pathlib import Path
from factory.recipe import load
import factory.recipe.files, factory.units

def attack(path):
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * 2**30,) * 2)
    signal.alarm(10)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        load(Path(path)) if path.endswith(".yaml") else factory.recipe.files.read_labels(path)
        kind, text = "", ""
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"kind": kind, "text": text, "seconds": time.process_time() - start, "bytes": peak * 1024}

load("rim_t1")  # what is imported late
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
for line in sys.stdin:
    inlet, outlet = os.pipe()
    child = os.fork()
    if not child:
        os.write(outlet, json.dumps(attack(line.rstrip("\\n"))).encode()[:60000])
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    print(text or json.dumps({"kind": "killed", "text": "", "seconds": 10.0, "bytes": 0}), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    kind: str
    text: str
    seconds: float
    bytes: int


Attack = Callable[[Path], Outcome]


@pytest.fixture(scope="module")
def attack() -> Iterator[Attack]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(path: Path) -> Outcome:
            server.stdin.write(f"{path}\n")  # type: ignore[union-attr]
            server.stdin.flush()  # type: ignore[union-attr]
            return Outcome(**json.loads(server.stdout.readline()))  # type: ignore[union-attr]

        yield run
        server.stdin.close()
    slowest, largest = (max((getattr(o, of) for o in REFUSED), default=0) for of in ("seconds", "bytes"))
    print(f"{len(REFUSED)} attacks refused, slowest {slowest:.3f} s, most {largest / 1e9:.3f} GB")


REFUSED: list[Outcome] = []


def refused(outcome: Outcome, sentence: str) -> None:
    REFUSED.append(outcome)
    assert outcome.kind == "RecipeError", outcome
    assert sentence in outcome.text, outcome
    assert all(line.isprintable() for line in outcome.text.splitlines())
    assert len(outcome.text) < 20_000
    assert outcome.seconds < LIMIT_SECONDS, outcome
    assert outcome.bytes < LIMIT_BYTES, outcome


# The text of a recipe -------------------------------------------------------------------------------------------------

ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": (ALIASES, "the alias *a0 is not allowed"),
    "merge bomb": ("a: &a {x: 1}\nb: {<<: *a}\n", "the merge key << is not allowed"),
    "brackets": ("[" * 100_000, "nested more than 32 deep"),
    "braces": ("{a: " * 60_000, "nested more than 32 deep"),
    "dashes": ("- " * 100_000, "nested more than 32 deep"),
    "keys": ("? " * 100_000, "nested more than 32 deep"),
    "flow keys": ("{[" * 100_000, "nested more than 32 deep"),
    "quotes": ('"' + "\\\n" * 100_000, "this is not YAML"),
    "power in a unit": ("like: rim_t1\nchain: {tissue.relaxation: {shortest: 9**9**9**9 ms}}", "is no quantity"),
    "exponent in a unit": ("like: rim_t1\nchain: {tissue.relaxation: {shortest: 1e999999999 ms}}", "is no quantity"),
    "digits in a unit": (
        f"like: rim_t1\nchain: {{tissue.relaxation: {{shortest: {'9' * 200_000} ms}}}}",
        "is no quantity",
    ),
    "exponent": ("seed: 1e999999999", "too large for a float64"),
    "digits": ("seed: " + "9" * 200_000, "more than 20 digits"),
    "underscores": ("seed: " + "1_" * 100_000 + "x", "splits"),
    "colons": ("seed: " + "1:1" * 60_000, "is ambiguous"),
    "samples": ("like: rim_t1\nsplits: {train: {levels: {subject: 999999999999, patch: 9999999999999}}}", "2**62"),
    "object": ("!!python/object/apply:os.system ['touch executed']", "the tag 'tag:yaml.org,2002:python/object/apply"),
    "name": ("seed: !!python/name:os.system", "is not allowed; delete it"),
    "duplicate keys": ("seed: 1\nseed: 2", "seed: stands here twice; the first is in line 1"),
    "many faults": ("a: [" + "no, " * 60_000 + "]", "more faults"),
    "many keys": ("".join(f"k{k}: {k}\n" for k in range(20_000)), "more faults"),
    "long key": ("? " + "k" * 200_000 + "\n: 1", "a key has 200000 characters"),
    "long word": ("like: rim_t1\nkeep: [" + "k" * 200_000 + "]", "nothing makes"),
    "long unit": ("like: rim_t1\nchain: {tissue.relaxation: {shortest: 1 " + "m" * 200_000 + "}}", "is no quantity"),
    "large": (b" " * 10_000_000, "10000000 bytes"),
    "control": ("about: \x1b]0;owned\x07", "the character U+001B is not allowed"),
    "escaped control": ('about: "\\x1b]0;owned\\x07"', "the character U+001B is not allowed"),
    "control in a key": ('"\\x1b[2J": 1', "the character U+001B is not allowed"),
    "hidden order": ("about: \u202etxt.exe", "the character U+202E is not allowed"),
    "many control": ("\x07" * 200_000, "the character U+0007"),
    "not UTF-8": (b"\xff" * 200_000, "not UTF-8"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "not UTF-8"),
    "documents": ("---\n" * 60_000, "a second document"),
    "tag directive": ("%TAG ! tag:yaml.org,2002:python/\n---\n!name:os.system", "directive is not allowed"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_ends_in_a_sentence(name: str, attack: Attack, tmp_path: Path) -> None:
    text, sentence = TEXTS[name]
    path = tmp_path / "evil.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(attack(path), sentence)
    assert not Path("executed").exists()


def test_a_recipe_that_is_no_regular_file(attack: Attack, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("fifo", "zero", "folder"):
        refused(attack(tmp_path / f"{name}.yaml"), "no regular file")
    refused(attack(tmp_path / "absent.yaml"), "no such file")


# Files that a recipe names --------------------------------------------------------------------------------------------


def recipe(folder: Path, name: str, entry: str = "anatomy") -> Path:
    path = folder / "evil.yaml"
    path.write_text(f"like: rim_t1\nfiles: {{{entry}: {json.dumps(name)}}}\n")
    return path


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/passwd", "data:../secret.npy", "out.npy", "through/secret.npy"]
)
def test_a_name_does_not_leave_its_folder(name: str, attack: Attack, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones((3, 3), np.uint8))
    (folder / "out.npy").symlink_to("../secret.npy")
    (folder / "through").symlink_to("..")
    refused(attack(recipe(folder, name)), "FACTORY_DATA" if name.startswith("data:") else "leads out of")


def test_a_file_that_is_no_regular_file(attack: Attack, tmp_path: Path) -> None:
    for name in ("fifo.npy", "fifo.csv"):
        os.mkfifo(tmp_path / name)
        refused(attack(recipe(tmp_path, name)), "is no regular file")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    refused(attack(recipe(tmp_path, "zero.npy")), "leads out of")
    with (tmp_path / "holes.npy").open("wb") as file:
        file.truncate(2**40)
    refused(attack(recipe(tmp_path, "holes.npy")), f"{2**40} bytes")


def zeros(window: int, times: int, head: bytes = b"", level: int = 6) -> bytes:
    """A zlib (15) or gzip (31) stream of ``head`` and ``times`` * 16 MB of zeros, made without packing all of them."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    start = b"\x78\x9c" if window == 15 else b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return start + first + block * times + packer.flush(zlib.Z_FINISH) + bytes(8)


def nifti_header(*shape: int, datatype: int = 2, **fields: Any) -> bytes:
    header = nibabel.Nifti1Header()
    header["dim"][: len(shape) + 1] = len(shape), *shape
    header["datatype"], header["bitpix"], header["vox_offset"], header["magic"] = datatype, 8, 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4)


def test_a_packed_nifti_that_swells(attack: Attack, tmp_path: Path) -> None:
    for name, head, sentence in [
        ("unclaimed.nii.gz", b"", "of no known format"),
        ("claimed.nii.gz", nifti_header(30000, 30000, 30000), "claims an array of shape (30000, 30000, 30000)"),
        ("numpy.npy.gz", b"\x93NUMPY\x01\x00", "unpacks to more than"),
        ("raw.rawb.gz", b"", "unpacks to more than"),
        ("minc.mnc.gz", b"CDF\x01", "unpacks to more than"),
    ]:
        (tmp_path / name).write_bytes(zeros(31, 600, head))  # 10 GB
        refused(attack(recipe(tmp_path, name)), sentence)
    (tmp_path / "empty.npy.gz").write_bytes(gzip.compress(b"\x93NUMPY") + gzip.compress(b"") * 200_000)
    refused(attack(recipe(tmp_path, "empty.npy.gz")), "packed parts")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (nifti_header(32767, 32767, 32767), "claims an array of shape (32767, 32767, 32767)"),
        (nifti_header(32767, 32767, 32767, 32767, 32767, 32767, 32767), "claims an array"),
        (nifti_header(-3, 4, 5), "claims an array of shape"),
        (nifti_header(100, 100, 100), "is cut off"),
        (nifti_header(10, 10, 10, vox_offset=float("nan")), "is damaged"),
        (nifti_header(10, 10, 10, vox_offset=-1e30), "evil.nii"),
        (nifti_header(10, 10, 10, vox_offset=1e30), "evil.nii"),
        (nifti_header(10, 10, 10, datatype=9999), "is damaged"),
        (nifti_header(10, 10, 10, datatype=128, bitpix=24), "not plain numbers"),
        (nifti_header(10, 10, 10, magic=b"ni1"), "half of a .hdr/.img pair"),
        (nifti_header(10, 10, 10, scl_slope=1e38, scl_inter=1e38) + bytes(1000), "holds no labels"),
    ],
)
def test_a_nifti_that_lies(header: bytes, sentence: str, attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "evil.nii").write_bytes(header)
    refused(attack(recipe(tmp_path, "evil.nii")), sentence)


def matrix(size: int, shape: tuple[int, ...] = (64, 64), kind: int = 9, stored: int = 2) -> bytes:
    """The begin of a MATLAB matrix x that claims ``size`` bytes of numbers; 48 bytes and the tag before them."""
    dims = struct.pack(f"<{len(shape)}i", *shape)
    body = (
        struct.pack("<4I", 6, 8, kind, 0) + struct.pack("<2I", 5, len(dims)) + dims.ljust(-(-len(dims) // 8) * 8, b"\0")
    )
    body += struct.pack("<I", 1 << 16 | 1) + b"x\0\0\0" + struct.pack("<2I", stored, size)
    return struct.pack("<2I", 14, min(len(body) + size, 2**32 - 1)) + body


def mat(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def packed(content: bytes) -> bytes:
    return struct.pack("<2I", 15, len(content)) + content


MATS: dict[str, tuple[Callable[[], bytes], str]] = {
    "claims little": (lambda: mat(packed(zeros(15, 600, matrix(4096)))), "unpacks to more than"),
    "claims 4 GB": (lambda: mat(packed(zeros(15, 600, matrix(2**32 - 100, (65535, 65535))))), "unpacks to more than"),
    "many": (
        lambda: mat(*[packed(zlib.compress(matrix(2**26, (2**13, 2**13)) + bytes(2**26)))] * 9),
        "unpacks to more than",
    ),
    "shape": (lambda: mat(matrix(16, (2**31 - 1, 2**31 - 1, 2**31 - 1)) + bytes(16)), "is damaged"),
    "negative": (lambda: mat(matrix(16, (-4, -4)) + bytes(16)), "no 2-D or 3-D array"),
    "cut off": (lambda: mat(matrix(2**30)), "is cut off"),
    "small parts": (lambda: mat(*[packed(zlib.compress(b""))] * 20_000), "is damaged"),
    "empty elements": (lambda: mat(bytes(200_000_000)), "more than 10000 variables"),
    "type": (lambda: mat(matrix(4096, stored=99) + bytes(4096)), "is damaged"),
}


@pytest.mark.parametrize("name", MATS)
def test_a_matlab_file_that_lies(name: str, attack: Attack, tmp_path: Path) -> None:
    make, sentence = MATS[name]
    (tmp_path / "evil.mat").write_bytes(make())
    refused(attack(recipe(tmp_path, "evil.mat")), sentence)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


def test_pickled_objects_are_never_read(attack: Attack, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([[Touch(tmp_path / "executed")] * 2] * 2), allow_pickle=True)
    refused(attack(recipe(tmp_path, "evil.npy")), "pickled objects are never read")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    refused(attack(recipe(tmp_path, "bare.npy")), "of no known format")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000)}", "claims an array of shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (10000, 10000)}", "is cut off"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 10)}", "claims an array of shape"),
        ("{'descr': '|V999999999', 'fortran_order': False, 'shape': (2, 2)}", "not plain numbers"),
        ("(" * 9000, "is damaged"),
        ("{" + "'a': " * 1500, "is damaged"),
        (f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'1, ' * 2000})}}", "claims an array of shape"),
        ("9" * 9000, "is damaged"),
    ],
)
def test_a_numpy_file_that_lies(header: str, sentence: str, attack: Attack, tmp_path: Path) -> None:
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(100)
    (tmp_path / "evil.npy").write_bytes(content)
    refused(attack(recipe(tmp_path, "evil.npy")), sentence)


def test_hdf5_leads_to_no_other_file_and_does_not_swell(attack: Attack, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "bytes").write_bytes(bytes(range(16)))
    with h5py.File(secret / "s.h5", "w") as file:
        file["x"] = np.ones((4, 4), np.uint8)
    make: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
        "external storage": (
            lambda file: file.create_dataset("x", (4, 4), "u1", external=[(str(secret / "bytes"), 0, 16)]),
            "keeps its data in another file",
        ),
        "external link": (
            lambda file: file.__setitem__("x", h5py.ExternalLink(str(secret / "s.h5"), "x")),
            "only a link",
        ),
        "soft link": (lambda file: file.__setitem__("x", h5py.SoftLink("/x")), "only a link"),
        "virtual": (virtual(secret / "s.h5"), "keeps its data in another file"),
        "claim": (lambda file: file.create_dataset("x", (10**6, 10**6), "u1", chunks=(10, 10)), "claims an array"),
        "chunk": (
            lambda file: file.create_dataset("x", (4, 4), "u1", chunks=(2**15, 2**15), maxshape=(None, None)),
            "claims an array",
        ),
        "bomb": (bomb, "unpacks to more than"),
        "chunks": (lambda file: file.create_dataset("x", data=np.ones((200, 200)), chunks=(1, 1)), "10000 chunks"),
    }  # fmt: skip
    for name, (write, sentence) in make.items():
        with h5py.File(tmp_path / "evil.mat", "w") as file:
            write(file)
        outcome = attack(recipe(tmp_path, "evil.mat"))
        assert outcome.kind == "RecipeError", name
        refused(outcome, sentence)


def virtual(path: Path) -> Callable[[h5py.File], Any]:
    def write(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4, 4), "u1")
        layout[...] = h5py.VirtualSource(path, "x", (4, 4))
        file.create_virtual_dataset("x", layout)

    return write


def bomb(file: h5py.File) -> None:
    made = file.create_dataset("x", (64, 64), "u1", chunks=(64, 64), compression="gzip")
    made.id.write_direct_chunk((0, 0), zeros(15, 600))


def name_of(word: bytes) -> bytes:
    return struct.pack(">I", len(word)) + word + bytes(-len(word) % 4)


def test_a_minc_that_lies(attack: Attack, tmp_path: Path) -> None:
    start, none = b"CDF\x01" + bytes(4), bytes(8)
    dims = struct.pack(">2I", 10, 1) + name_of(b"zspace") + struct.pack(">I", 2**31 - 1)

    def variable(word: bytes, rank: int = 3) -> bytes:
        return name_of(word) + struct.pack(f">{rank + 1}I", rank, *[0] * rank) + none + struct.pack(">3I", 1, 4, 32)

    names = (b"image", b"image-max", b"image-min")
    many = b"".join(variable(b"v%d" % k, 1) for k in range(9000))
    for content, sentence in [
        (start + dims + none + struct.pack(">2I", 11, 3) + b"".join(map(variable, names)), "claims an array of shape"),
        (start + struct.pack(">2I", 10, 2**31), "a list of 2147483648 entries"),
        (start + dims + struct.pack(">2I", 12, 9999), "is damaged"),
        (start + dims + none + struct.pack(">2I", 11, 9000) + many, "but no MINC"),
        (start + struct.pack(">2I", 10, 1) + struct.pack(">I", 2**32 - 1), "is cut off in its header"),
        (start + dims + none + struct.pack(">2I", 11, 1) + variable(b"image", 2**10), "evil.mnc"),
    ]:
        (tmp_path / "evil.mnc").write_bytes(content)
        refused(attack(recipe(tmp_path, "evil.mnc")), sentence)


def test_a_nrrd_that_lies(attack: Attack, tmp_path: Path) -> None:
    good = "NRRD0004\ntype: uchar\nsizes: {}\nencoding: {}\n{}\n"
    for text, body, sentence in [
        (good.format("4 4", "raw", "data file: /etc/passwd\n"), b"", "keeps its data in another file"),
        (good.format("9999999 9999999", "raw", ""), b"", "claims an array of shape"),
        (good.format("9" * 5000, "raw", ""), b"", "is damaged"),
        (good.format("64 64", "gzip", ""), zeros(31, 600), "unpacks to more than"),
        (good.format("64 64", "bzip2", ""), b"", "raw and gzip are read"),
        ("NRRD0004\n" + "a: b\n" * 100_000, b"", "no end of its header"),
    ]:
        (tmp_path / "evil.nrrd").write_bytes(text.encode() + body)
        refused(attack(recipe(tmp_path, "evil.nrrd")), sentence)


def test_tables_that_swell(attack: Attack, tmp_path: Path) -> None:
    for content, sentence in [
        (b"1" * 1_000_000, "must hold an edge and a count"),
        (b"1,1\n" * 250_000, "more than 10000 rows"),
        (b" " * 1_000_000 + b"x", "needs a row"),
        (b", " * 500_000, "needs a row"),
        (b"0,1e999999\n1,0", "must hold an edge and a count"),
        (b"\x1b[2J,1\n", "must hold an edge and a count"),
        (b" " * 2_000_000, "2000000 bytes"),
    ]:
        (tmp_path / "evil.csv").write_bytes(content)
        refused(attack(recipe(tmp_path, "evil.csv")), sentence)


def test_the_guard_itself_sees_memory_and_time(attack: Attack, tmp_path: Path) -> None:
    """Large files that are legal are read within the same bounds, and what they cost shows in what is measured."""
    shape = (60, 2000, 2000)
    np.save(tmp_path / "large.npy", np.zeros(shape, np.uint8))
    scipy.io.savemat(tmp_path / "wide.mat", {"x": np.zeros((2000, 2000, 4))}, do_compression=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "large.nii.gz")
    for name in ("large.npy", "wide.mat", "large.nii.gz"):
        outcome = attack(tmp_path / name)
        assert outcome.kind == "", outcome
        assert 5e7 < outcome.bytes < LIMIT_BYTES, outcome
        assert outcome.seconds > 0.01, outcome
    scipy.io.savemat(tmp_path / "head.mat", {"head": np.full((64, 64, 9), 46, np.int32)})
    assert attack(recipe(tmp_path, "head.mat")).kind == "", "the recipe that every attack goes through is a good one"
