"""Maps of T1, T2 and amplitude from maps of tissues.

Budget: 5 s on two cores.
"""

import numpy as np
import pytest

from factory.draws import Draws
from factory.physics import tissue
from factory.units import TISSUES

N = 6
MEANS = {"tissue_t1": 1.0, "tissue_t2": 0.1, "tissue_amplitude": 0.8}


def table(**changes):
    out = {}
    for name, value in (MEANS | changes).items():
        rows = np.tile(value * (1 + 0.05 * np.arange(len(TISSUES))), (N, 1)) * (1 + 0.01 * np.arange(N))[:, None]
        rows[:, 0] = 0
        out[name] = rows
    return out


def codes(shape=(7, 9), seed=0):
    return np.random.default_rng(seed).integers(0, len(TISSUES), (N, *shape)).astype(np.uint8)


def made(tissues, draws=None, means=None, **constants):
    return tissue.relaxation(tissues, **(means or table()), draws=draws or Draws(5, "train", 0, N, "x"), **constants)


def test_twin():
    """The mean of the voxel's tissue plus addressed normal numbers, reflected and floored."""
    tissues, draws = codes(), Draws(5, "train", 3, 3 + N, "x")
    got = made(tissues, draws, variation_t1=0.7, variation_t2=0.2, variation_amplitude=0.9, shortest=0.03)
    sd, floor = {"t1": 0.7, "t2": 0.2, "amplitude": 0.9}, {"t1": 0.03, "t2": 0.03, "amplitude": 0.0}
    for name, values in got._asdict().items():
        mean = np.take_along_axis(table()[f"tissue_{name}"], tissues.reshape(N, -1), 1).reshape(tissues.shape)
        want = np.maximum(floor[name], np.abs(mean + sd[name] * draws.normal(name, (7, 9))))
        np.testing.assert_allclose(values, np.where(tissues == 0, 0, want), rtol=1e-7)
        assert values.dtype == np.float32
    assert got.t1.min() == 0
    assert (got.t2 == np.float32(0.03)).any()


def test_limit_without_variation():
    tissues = codes()
    got = made(tissues, variation_t1=0.0, variation_t2=0.0, variation_amplitude=0.0)
    for name, values in got._asdict().items():
        mean = table()[f"tissue_{name}"]
        np.testing.assert_allclose(values[2, 3, 4], mean[2, tissues[2, 3, 4]], rtol=1e-6)


def test_variation_has_the_stated_spread():
    white = np.full((N, 64, 64), TISSUES.index("white_matter"), np.uint8)
    got = made(white)
    for values, sd in ((got.t1, 0.1), (got.t2, 0.01), (got.amplitude, 0.05)):
        spread = values[0].std(dtype=float)
        assert spread == pytest.approx(sd, rel=5 / np.sqrt(2 * 64 * 64))
    pairs = [np.corrcoef(a[0].ravel(), b[0].ravel())[0, 1] for a, b in ((got.t1, got.t2), (got.t1, got.amplitude))]
    assert np.abs(pairs).max() < 5 / 64


def test_outer_read_only_and_cut_inputs_give_the_same_bytes():
    tissues, means = codes(), table()
    for array in (tissues, *means.values()):
        array.flags.writeable = False
    whole = made(tissues, means=means)
    part = tissue.relaxation(tissues[2:5], **{k: v[2:5] for k, v in means.items()}, draws=Draws(5, "train", 2, 5, "x"))
    outer = np.broadcast_to(tissues[1], tissues.shape)
    one_table = {k: np.broadcast_to(v[1], v.shape) for k, v in means.items()}
    shared, copied = made(outer, means=one_table), made(outer.copy(), means={k: v.copy() for k, v in one_table.items()})
    for name in ("t1", "t2", "amplitude"):
        np.testing.assert_array_equal(getattr(whole, name)[2:5], getattr(part, name))
        np.testing.assert_array_equal(getattr(shared, name), getattr(copied, name))


@pytest.mark.parametrize("name", ["t1", "t2", "amplitude"])
def test_a_tissue_without_a_row_is_named(name):
    means = table()
    means[f"tissue_{name}"][4, TISSUES.index("vessels")] = 0
    with pytest.raises(ValueError, match=rf"holds vessels, but tissue_{name} has no row for it"):
        made(np.full((N, 2, 2), TISSUES.index("vessels"), np.uint8), means=means)
    made(np.full((N, 2, 2), TISSUES.index("fat"), np.uint8), means=means)


def test_a_code_beyond_the_table_is_refused():
    with pytest.raises(ValueError, match="the map holds 11, but tissues end at 10"):
        made(np.full((N, 2, 2), 11, np.uint8))
