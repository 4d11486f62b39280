"""Slices of label volumes, and patches: what must hold for every one of them.

Budget: 5 s on two cores.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.draws import Draws
from factory.physics import anatomy
from factory.units import TISSUES, Volumes

BRAINWEB = {
    0: "background", 23: "csf", 46: "grey_matter", 70: "white_matter", 93: "fat", 116: "muscle", 139: "muscle_skin",
    162: "skull", 185: "vessels", 209: "fat", 232: "skull", 255: "marrow",
}  # fmt: skip
CODE = {name: code for code, name in enumerate(TISSUES)}


def maps(n, size, seed=0):
    """Random maps with brain in each."""
    return np.random.default_rng(seed).integers(0, len(TISSUES), (n, size, size)).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# labels


def volumes(*arrays):
    return Volumes(tuple(f"v{i}" for i in range(len(arrays))), arrays)


def slices():
    """Four slices, the second without brain, and a smaller volume of one slice."""
    big = np.zeros((4, 5, 6), np.int32)
    for i, label in enumerate((23, 93, 46, 70)):
        big[i, 2, 3] = label
    return volumes(big, np.full((1, 2, 3), 162, np.uint8))


def drawn(source, table, part=(0.0, 1.0), n=400):
    return anatomy.labels(Draws(1, "train", 0, n), volumes=source, table=table, part=part).head


def test_slices_with_brain_are_equally_likely_and_centred():
    got = drawn(slices(), BRAINWEB)
    assert (got.shape, got.dtype) == ((400, 5, 6), np.uint8)
    kinds, counts = np.unique(got.reshape(400, -1), axis=0, return_counts=True)
    assert len(kinds) == 4  # three slices of the first volume and the flat one
    assert counts.min() > 60
    flat = got[(got == CODE["skull"]).any(axis=(1, 2))][0]
    np.testing.assert_array_equal(np.argwhere(flat), [[r, c] for r in (1, 2) for c in (1, 2, 3)])
    assert set(np.unique(got)) == {0, CODE["csf"], CODE["grey_matter"], CODE["white_matter"], CODE["skull"]}


def test_parts_share_no_slice():
    first, second = (drawn(slices(), BRAINWEB, part) for part in ((0.0, 0.6), (0.6, 1.0)))
    assert set(np.unique(first)) == {0, CODE["csf"], CODE["grey_matter"]}  # (i + 0.5) / 4 = 0.125, 0.375 | 0.625, 0.875
    assert set(np.unique(second)) == {0, CODE["white_matter"], CODE["skull"]}


def test_labels_size_is_that_of_the_whole_file():
    """... whatever the part, so that all splits have the same template."""
    assert anatomy.labels.sizes(volumes=slices(), table=BRAINWEB, part=(0.8, 1.0)) == {"row": 5, "column": 6}
    assert drawn(slices(), BRAINWEB, (0.8, 1.0)).shape[1:] == (5, 6)


def test_an_empty_table_means_codes():
    codes = np.arange(10, dtype=np.uint8).reshape(1, 2, 5)
    np.testing.assert_array_equal(drawn(volumes(codes), {}, n=1), codes)


@pytest.mark.parametrize(
    ("table", "part", "sentence"),
    [
        ({k: v for k, v in BRAINWEB.items() if k != 93}, (0.0, 1.0), "'v0' holds the label 93, but the table does not"),
        ({}, (0.0, 1.0), "holds the label 23, 46, 70, 93, but without a table labels are 0 to 10"),
        (BRAINWEB, (0.4, 0.6), "holds none of the 4 slices with brain of v0, v1"),
        (BRAINWEB, (0.5, 0.5), "two rising numbers"),
        (BRAINWEB, (0.0, 0.5, 1.0), "two rising numbers"),
    ],
)
def test_labels_faults(table, part, sentence):
    for call in (anatomy.labels.sizes, lambda **constants: anatomy.labels(Draws(1, "train", 0, 1), **constants)):
        with pytest.raises(ValueError, match=sentence):
            call(volumes=slices(), table=table, part=part)


def test_brainweb_slices():
    folder = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / "anatomy" / "koma__brain2D.mat"
    if not path.exists():
        pytest.skip(f"no reference data: {path.name} is not in $FACTORY_REFERENCE_DATA nor in ../shared/data")
    from factory.recipe import files

    read = files.read_labels(path)
    got = drawn(read, BRAINWEB, n=30)
    assert got.shape[1:] == (434, 362)
    assert len({head.tobytes() for head in got}) == 3
    axial = drawn(volumes(read.arrays[read.names.index("axial")]), BRAINWEB, n=1)[0]
    want = {"csf": 11434, "grey_matter": 35568, "white_matter": 32632, "fat": 1273 + 1174, "muscle": 3179,
            "muscle_skin": 13974, "skull": 6654 + 654, "vessels": 355, "marrow": 4076}  # fmt: skip
    assert {name: int(np.sum(axial == CODE[name])) for name in want} == want


# ---------------------------------------------------------------------------------------------------------------------
# patch


def cropped(head, size, n=None, seed=1, start=0):
    n = len(head) if n is None else n
    return anatomy.patch(np.asarray(head), Draws(seed, "train", start, start + n, "x"), size=size).tissue


@settings(max_examples=20, deadline=None)
@given(slices=st.integers(1, 5), size=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_patch_of_a_volume(slices, size, seed):
    """The u-th brain voxel in the order of memory, cropped from its slice."""
    random = np.random.default_rng(seed)
    heads = random.choice([0, 1, 4, 5, 7], (3, slices, 6, 7)).astype(np.uint8)
    heads[:, -1, 2, 2] = CODE["grey_matter"]
    got = cropped(heads, size, seed=seed)
    for one, share, patch in zip(heads, Draws(seed, "train", 0, 3, "x").uniform("centre"), got, strict=True):
        voxels = np.argwhere((one >= 1) & (one <= 3))
        n, row, column = voxels[int(share * len(voxels))]
        top, left = np.clip([row - size // 2, column - size // 2], 0, [6 - size, 7 - size])
        np.testing.assert_array_equal(patch, one[n, top : top + size, left : left + size])
    shared = np.broadcast_to(heads[1], heads.shape)
    np.testing.assert_array_equal(cropped(shared, size, seed=seed), cropped(shared.copy(), size, seed=seed))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(4, 14), columns=st.integers(4, 14), size=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_twin_of_patch(rows, columns, size, seed):
    """Crop by slicing: the u-th brain pixel, moved inwards."""
    random = np.random.default_rng(seed)
    head = random.integers(0, 10, (5, rows, columns)).astype(np.uint8)
    head[:, 1, 1] = CODE["grey_matter"]
    head[3] = head[2]  # an equal map in a row
    got = cropped(head, size, seed=seed)
    u = Draws(seed, "train", 0, 5, "x").uniform("centre")
    for one, share, patch in zip(head, u, got, strict=True):
        pixels = np.argwhere((one >= 1) & (one <= 3))
        row, column = pixels[int(share * len(pixels))]
        top, left = np.clip([row - size // 2, column - size // 2], 0, [rows - size, columns - size])
        np.testing.assert_array_equal(patch, one[top : top + size, left : left + size])


def test_centres_are_uniform_over_the_brain():
    head = np.zeros((1, 9, 9), np.uint8)
    for k, (row, column) in enumerate([(4, 4), (4, 5), (6, 2)]):
        head[0, row, column] = (CODE["csf"], CODE["grey_matter"], CODE["white_matter"])[k]
    head[0, 2, 2] = CODE["fat"]
    got = cropped(np.broadcast_to(head[0], (3000, 9, 9)), 1)
    counts = np.bincount(got.ravel(), minlength=10)
    assert counts.sum() == counts[1:4].sum()
    assert np.abs(counts[1:4] - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)


def test_patch_as_large_as_the_map_is_the_map():
    many = maps(3, 32)
    np.testing.assert_array_equal(cropped(many, 32), many)


def test_patches_are_addressed_and_outer_heads_are_not_copied():
    many = maps(4, 48)
    many.flags.writeable = False
    whole = cropped(many, 20)
    np.testing.assert_array_equal(cropped(many[2:], 20, start=2), whole[2:])
    outer = np.broadcast_to(many[1], (4, 48, 48))
    np.testing.assert_array_equal(cropped(outer, 20), cropped(outer.copy(), 20))
    assert whole.dtype == np.uint8


def test_patch_faults():
    with pytest.raises(ValueError, match="a patch of 33 x 33 does not fit into a map of 32 x 40"):
        cropped(np.ones((1, 32, 40), np.uint8), 33)
    head = np.ones((3, 4, 4), np.uint8)
    head[1] = CODE["skull"]
    with pytest.raises(ValueError, match="the map of sample 8 holds no csf, grey or white matter"):
        cropped(head, 2, start=7)
