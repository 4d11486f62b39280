"""The reader of Pulseq files against the MATLAB toolbox, PyPulseq and JEMRIS, and against files made to do harm.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from factory.sequences import SequenceError, parse, read
from factory.sequences.events import integral

FOLDER = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))
TOOLBOX = ["epi", "fid-gammaSTAR", "fid", "gr-time-shaped", "gr-trapezoidal", "gr-uniformly-shaped", "rf-pulse",
           "rf-time-shaped", "rf-uniformly-shaped", "spiral"]
KOMA = 42577468.8  # Hz/T, by which the stored waveforms were divided

HEAD = """[VERSION]
major 1
minor 4
revision 1
[DEFINITIONS]
AdcRasterTime 1e-07
BlockDurationRaster 1e-05
GradientRasterTime 1e-05
RadiofrequencyRasterTime 1e-06
"""
SMALL = HEAD + """[BLOCKS]
1 20 1 0 0 0 0 0
2 30 0 1 0 2 1 0
[RF]
1 2500 1 2 3 0 100 0.5
[GRADIENTS]
1 1000 4 0 0
[TRAP]
2 -500 50 100 150 0
[ADC]
1 10 10000 100 50 0.25
[SHAPES]
shape_id 1
num_samples 2
1
1
shape_id 2
num_samples 2
0
0
shape_id 3
num_samples 2
0
100
shape_id 4
num_samples 30
1
0
0
27
"""


def path_of(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no reference data: {path.name} is not in $FACTORY_REFERENCE_DATA nor in ../shared/data")
    return path


@pytest.mark.parametrize("name", TOOLBOX)
def test_waveforms_equal_those_of_the_matlab_toolbox(name: str) -> None:
    from scipy.io import loadmat

    stored = loadmat(path_of(f"pulseq/koma__v1.4_{name}.mat"))["sequence"][0]
    sequence = read(path_of(f"pulseq/koma__v1.4_{name}.seq"))
    assert len(stored) == len(sequence)
    for there, block in zip(stored, sequence.blocks(), strict=True):
        def curve(part: str, there: np.ndarray = there) -> tuple[np.ndarray, np.ndarray]:
            one = there[0, 0][part][0, 0]
            return one["t"].ravel(), one["A"].ravel() * 1.0

        time, value = curve("rf")
        assert (block.pulse is None) == (len(time) == 0)
        if block.pulse is not None:
            ours = block.start + block.pulse.delay + block.pulse.time
            signal = block.pulse.signal * np.exp(1j * block.pulse.offset.phase)
            np.testing.assert_allclose(ours, time[1:-1], rtol=0, atol=1e-12)
            np.testing.assert_allclose(signal, value[1:-1] * KOMA, rtol=0, atol=1e-12 * abs(signal).max())
            assert np.all(curve("df")[1][1:-1] == block.pulse.offset.frequency)
        for axis, gradient in zip(("gx", "gy", "gz"), block.gradients, strict=True):
            time, value = curve(axis)
            assert (gradient is None) == (len(time) == 0)
            if gradient is not None:
                np.testing.assert_allclose(block.start + gradient.time, time, rtol=0, atol=1e-12)
                np.testing.assert_allclose(gradient.value, value * KOMA, rtol=0, atol=1e-11 * abs(gradient.value).max())
        time, _ = curve("adc")
        assert (block.readout is None) == (len(time) == 0)
        if block.readout is not None:
            np.testing.assert_allclose(block.start + block.readout.time, time, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [
    "cest/bmc__WASABI.seq", "jemris/koma__epi_100x100_TE100_FOV230.seq", "pulseq/koma__v1.4_epi.seq",
    "pulseq/pp__write_epi.seq", "pulseq/pp__write_gre.seq", "pulseq/pp__write_haste.seq", "pulseq/pp__write_ute.seq",
    "pulseq/pp__write_tse.seq", "pulseq/pp__write_radial_gre.seq",
])
def test_timing_and_areas_equal_those_of_pypulseq(name: str) -> None:
    """The areas agree to the six digits that the files have, relative to the largest one."""
    pypulseq = pytest.importorskip("pypulseq")
    path = path_of(name)
    other = pypulseq.Sequence(pypulseq.Opts(rf_dead_time=0, rf_ringdown_time=0, adc_dead_time=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.read(str(path))
        samples, curves = other.adc_times()[0], other.waveforms()
    sequence = read(path)
    table = sequence.table()
    assert sequence.duration == pytest.approx(other.duration()[0], abs=1e-11)
    np.testing.assert_allclose(table.sample_times, samples, rtol=0, atol=1e-11)
    travelled = np.concatenate([np.zeros((1, 3)), np.cumsum(table.area, 0)])
    for axis, (time, value) in enumerate(curves):
        theirs = integral(time, value, table.time)
        assert abs(travelled[:, axis] - theirs).max() <= 1e-6 * max(1.0, abs(theirs).max())


@pytest.mark.parametrize("case", ["column1d", "spheresCS"])
def test_samples_of_an_epi_are_taken_when_jemris_takes_them(case: str) -> None:
    import h5py

    with h5py.File(path_of(f"jemris/koma__{case}_jemris_signals.h5")) as file:
        theirs = file["signal/times"][()].ravel() * 1e-3
    ours = read(path_of("jemris/koma__epi_100x100_TE100_FOV230.seq")).table().sample_times
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_a_signature_tells_whether_the_text_was_changed() -> None:
    path = path_of("pulseq/pp__write_gre.seq")
    text = path.read_text()
    assert read(path).intact
    assert parse(text.replace("Name gre", "Name err")).intact is False
    assert parse(SMALL).intact is None


def test_older_versions_have_their_own_columns() -> None:
    """1.3: delays by id, no time shapes, a block lasts as long as its longest event; shapes are always packed."""
    text = """[VERSION]
major 1
minor 3
revision 1
[BLOCKS]
1 1 1 0 0 0 0 0
2 0 0 1 0 0 0 0
[RF]
1 250 1 2 100 0 0
[TRAP]
1 1000 10 20 30 40
[DELAYS]
1 5000
[SHAPES]
shape_id 1
num_samples 3
1
0
-0.5
shape_id 2
num_samples 3
0
0
1
"""
    sequence = parse(text)
    np.testing.assert_allclose(np.diff(sequence.border), [5e-3, 100e-6], rtol=1e-12)
    pulse = sequence.block(0).pulse
    assert pulse is not None
    np.testing.assert_array_equal(pulse.signal, [250.0, 250.0, 125.0])
    assert pulse.delay == pytest.approx(100e-6)


def test_version_1_5_brings_ppm_and_a_phase_for_each_sample() -> None:
    text = SMALL.replace("minor 4", "minor 5").replace(
        "1 2500 1 2 3 0 100 0.5", "1 2500 1 2 3 50 0 2 0.5 100 0.5 r").replace(
        "1 1000 4 0 0", "1 1000 1000 1000 4 0 0").replace(
        "1 10 10000 100 50 0.25", "1 10 10000 100 0 0 50 0.25 5") + """shape_id 5
num_samples 10
0
0.1
0.1
7
"""
    sequence = parse(text)
    pulse, readout = sequence.block(0).pulse, sequence.block(1).readout
    assert pulse is not None
    assert readout is not None
    assert (pulse.use, pulse.center) == ("r", pytest.approx(50e-6))
    frequency, phase = pulse.offset.at(100e6, "a pulse")
    assert (frequency, phase) == (pytest.approx(300.0), pytest.approx(50.5))
    np.testing.assert_allclose(readout.modulation, 0.1 * np.arange(10), atol=1e-12)
    with pytest.raises(SequenceError, match="ppm: say the field"):
        sequence.table()
    inside = sequence.table(field=3.0).receiver
    expected = 0.25 + 2 * np.pi * 50 * (np.arange(10) + 0.5) * 10e-6 + 0.1 * np.arange(10)
    np.testing.assert_allclose(inside, expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new", "says"), [
    ("minor 4", "minor 6", "is of Pulseq version 1.6.1; 1.2 to 1.5 are read"),
    ("minor 4", "minor 1", "is of Pulseq version 1.1.1"),
    ("major 1", "major one", "line 2: 'major one' is no part of a version"),
    ("[RF]", "[PULSES]", "is no section; legal are"),
    ("[RF]", "[DELAYS]", r"\[DELAYS\] ended with version 1.3"),
    ("1 2500 1 2 3 0", "1 2500 1 2 3", "line 14: a row of .RF. in version 1.4.1 has 8 entries"),
    ("[SHAPES]\n", "[SHAPES]\n[SHAPES]\n", "stands here a second time"),
    ("[BLOCKS]\n1 20", "[BLOCKS]\n1 19.5", "must be a whole number"),
    ("2 30 0 1", "1 30 0 1", "block 1 follows block 1; they must ascend"),
    ("2 30 0 1 0 2 1 0", "2 30 0 1 0 2 1", "a block of version 1.4.1 has 8 numbers, not 7"),
    ("2 30 0 1", "2 30 0 7", "names the event 7, which is not given"),
    ("1 20 1 0", "1 20 3 0", "names the pulse 3, which is not given"),
    ("1 20 1 0", "1 5 1 0", "the pulse of block 1 ends 50 us after the block"),
    ("1 2500 1 2 3", "1 2500 9 2 3", "there is no shape 9 for the magnitude"),
    ("1 2500 1 2 3", "1 2500 1 4 3", "the phase of the pulse has 30 samples"),
    ("1 2500 1 2 3", "1 nan 1 2 3", "'nan' is no number from"),
    ("1 2500 1 2 3", "1 1e999 1 2 3", "is no number from"),
    ("1 2500 1 2 3", "1 2_500 1 2 3", "is no number from"),
    ("2 -500 50", "1 -500 50", "the id 1 is given a second time"),
    ("2 -500 50", "2 -500 -50", "rise must be from 0"),
    ("1 10 10000 100", "1 0 10000 100", "a readout has 1 to"),
    ("1 10 10000 100", "1 1000000000 10000 100", "a readout has 1 to"),
    ("1 10 10000 100", "1 10 0 100", "the dwell of a readout"),
    ("1 10 10000 100", "1 10 10000 250", "the readout of block 2 ends"),
    ("num_samples 30", "num_samples 31", "unpacks to 30 samples, but claims 31"),
    ("num_samples 30", "num_samples 29", "unpacks to more samples"),
    ("num_samples 30", "num_samples 99999999999", "at most"),
    ("0\n0\n27", "0\n0\n1e15", "unpacks to more samples"),
    ("0\n0\n27", "0\n0\n-1", "two equal numbers must be followed"),
    ("0\n0\n27", "0\n0\n0.5", "two equal numbers must be followed"),
    ("0\n0\n27", "0\n0", "two equal numbers must be followed"),
    ("0\n100\n", "100\n0\n", "must ascend"),
    ("GradientRasterTime 1e-05\n", "", "must give GradientRasterTime from 1e-9 to 1 in s, not 'nothing'"),
    ("GradientRasterTime 1e-05\n", "GradientRasterTime -1\n", "must give GradientRasterTime"),
    ("[BLOCKS]", "[BLOCKS", "is no section"),
    ("1 20 1 0", "1 900000000000000 1 0", "at most 100000 s are read"),
])
def test_every_fault_is_a_sentence(old: str, new: str, says: str) -> None:
    parse(SMALL)
    assert old in SMALL
    with pytest.raises(SequenceError, match=says):
        parse(SMALL.replace(old, new, 1))


def test_extensions_that_change_nothing_are_skipped_and_others_refused() -> None:
    text = SMALL.replace("2 30 0 1 0 2 1 0", "2 30 0 1 0 2 1 2")
    lists = "[EXTENSIONS]\n1 1 1 0\n2 1 1 1\nextension LABELSET 1\n1 5 LIN\n"
    assert len(parse(text + lists)) == 2
    with pytest.raises(SequenceError, match="uses the extension 'ROTATIONS', which is not read"):
        parse(text + lists.replace("LABELSET", "ROTATIONS"))
    with pytest.raises(SequenceError, match="runs in a circle"):
        parse(text + lists.replace("1 1 1 0\n", "1 1 1 2\n"))
    with pytest.raises(SequenceError, match="there is no list of extensions 2"):
        parse(text)


def test_a_file_that_grows_without_end_is_stopped(tmp_path: Path) -> None:
    """Memory stays bounded: shapes that claim much, gradients that repeat one, readouts that repeat one."""
    shape = "shape_id 5\nnum_samples 16000000\n0\n0\n15999998\n"
    grown = SMALL.replace("1 1000 4 0 0\n", "".join(f"{n} 1 5 0 0\n" for n in range(3, 9)) + "1 1000 4 0 0\n")
    grown = grown.replace("2 30 0 1 0 2 1 0", "2 30 0 3 4 5 0 0\n3 30 0 6 7 8 0 0") + shape
    with pytest.raises(SequenceError, match="unpacks to more than"):
        parse(grown)
    many = SMALL.replace("1 10 10000 100 50 0.25", "1 16000000 1 100 50 0.25").replace("2 30 0", "2 3000 0")
    with pytest.raises(SequenceError, match="more than 10000000 intervals"):
        parse(many).table()
    with pytest.raises(SequenceError, match="more than 10000000 intervals"):
        parse(SMALL.replace("0 100 0.5", "0 1e12 0.5")).table()
    with pytest.raises(SequenceError, match="characters; at most"):
        parse(HEAD + "[BLOCKS]\n" + "1 " * 5000)
    (tmp_path / "folder.seq").mkdir()
    os.mkfifo(tmp_path / "pipe.seq")
    for name, says in (("folder.seq", "cannot be read"), ("pipe.seq", "is no regular file")):
        with pytest.raises(SequenceError, match=f"'{name}' {says}"):
            read(tmp_path / name)
    with pytest.raises(SequenceError, match=r"'none\.seq' cannot be read"):
        read(tmp_path / "none.seq")


def test_a_text_that_is_cut_anywhere_is_read_or_refused_by_a_sentence() -> None:
    for length in range(0, len(SMALL), 3):
        with contextlib.suppress(SequenceError):
            parse(SMALL[:length]).table()
    with pytest.raises(SequenceError, match="is it a Pulseq file"):
        parse(b"\x93NUMPY\x00\x01")
    with pytest.raises(SequenceError, match="is no text"):
        parse(b"[VERSION]\n\xff\xfe")


@pytest.mark.parametrize(("name", "trials"), [
    ("", 500), ("pulseq/pp__write_ute.seq", 30), ("pulseq/koma__v1.4_fid-gammaSTAR.seq", 100),
    ("jemris/koma__epi_100x100_TE100_FOV230.seq", 100),
])
def test_a_text_with_wrong_words_is_read_or_refused_by_a_sentence(name: str, trials: int) -> None:
    """Numbers are replaced by others at random; whatever is read gives finite numbers and ascending times."""
    random = np.random.default_rng(5)
    lines = (path_of(name).read_text() if name else SMALL).split("\n")
    words = ["0", "-1", "1e15", "-1e15", "1e-300", "3", "99999999", "0.5", "1", "2", "[RF]", "", "shape_id", "1e5"]
    read_at_all = 0
    for _ in range(trials):
        changed = list(lines)
        for number in random.integers(len(lines), size=random.integers(1, 3)):
            parts = changed[number].split(" ")
            parts[random.integers(len(parts))] = words[random.integers(len(words))]
            changed[number] = " ".join(parts)
        with contextlib.suppress(SequenceError):
            table = parse("\n".join(changed)).table(field=3.0, step=1e-4)
            read_at_all += 1
            assert np.all(np.diff(table.time) > 0)
            for array in (table.time, table.rf, table.area, table.receiver):
                assert np.isfinite(array).all()
            assert table.sampled.sum() == len(table.receiver)
    assert read_at_all > 3
