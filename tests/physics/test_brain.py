"""Procedural heads: what must hold for every one of them.

Budget: 40 s on two cores; 20 heads of 1 mm in the slow suite.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from factory.draws import Draws
from factory.physics import anatomy
from factory.physics._head import FIELD_OF_VIEW, STRUCTURES, forms, grid, structures
from factory.units import TISSUES

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from heads import CODE, NUCLEI, RANGES, dice, measures, of, sulcal

CODES = {name: code for code, name in enumerate(TISSUES)}


def draws(start, stop, seed=1):
    return Draws(seed, "train", start, stop, "link/head")


@pytest.fixture(scope="module")
def heads():
    """Four heads of 1.5 mm, with lesions."""
    return [structures(form, 1.5) for form in forms(draws(0, 4), lesions=20)]


@pytest.mark.slow
def test_twenty_subjects_lie_in_human_ranges():
    for form in forms(draws(100, 120, seed=3)):
        found = measures(structures(form, 1.0), 1.0)
        for name, (low, high) in RANGES.items():
            assert low <= found[name] <= high, (name, found)


def test_volumes_and_folding(heads):
    """At 1.5 mm; the ribbon is two voxels wide there, so thickness and folding are asked for at 1 mm only."""
    for head in heads:
        found = measures(head, 1.5)
        for name in ("intracranial volume (ml)", "ventricles (ml)"):
            assert RANGES[name][0] <= found[name] <= RANGES[name][1], (name, found)
        assert 0.42 < found["grey matter of brain"] < 0.62
        assert 80 < found["cerebellum (ml)"] < 170


def test_one_brain_without_islands(heads):
    for head in heads:
        brain = (head >= CODE["ventricle"]) & (head <= CODE["brainstem"]) | (head == CODE["lesion"])
        assert ndimage.label(brain)[1] == 1


def test_layers_from_outside_inwards(heads):
    for head in heads:
        whole = head > 0
        assert ndimage.label(whole)[1] == 1
        surface = whole & ~ndimage.binary_erosion(whole, border_value=1)
        assert set(np.unique(head[surface])) == {CODE["skin"]}
        content = (head >= CODE["csf"]) & (head <= CODE["lesion"])
        around = ndimage.binary_dilation(content) & ~content
        assert np.mean(head[around] == CODE["skull"]) > 0.97  # but for the spinal canal at the lower border
        inner = of(head, "cerebral_white_matter")
        beside = head[ndimage.binary_dilation(inner) & ~inner]
        assert np.mean(np.isin(beside, [CODE["csf"], CODE["vessel"]])) < 0.02  # white matter lies behind cortex


def test_sulci_are_folds_and_not_noise(heads):
    """Without folding the sulcal share fails: the control of the test."""
    assert min(sulcal(head, 1.5) for head in heads) > 0.06
    smooth = forms(draws(0, 1))[0]._replace(gap=-9.0)
    assert sulcal(structures(smooth, 1.5), 1.5) < 0.04


def test_every_nucleus_is_there_on_both_sides(heads):
    for head in heads:
        for name in NUCLEI:
            pieces, count = ndimage.label(head == CODE[name])
            sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1] * 1.5**3 / 1e3
            assert count >= 2, name
            assert 0.5 < sizes[1] <= sizes[0] < 8, (name, sizes)


def test_no_two_subjects_are_alike(heads):
    for a in range(4):
        for b in range(a):
            assert dice(heads[a] == CODE["cortex"], heads[b] == CODE["cortex"]) < 0.75


def test_lesions_lie_in_white_matter_near_the_ventricles(heads):
    bare = [structures(form, 1.5) for form in forms(draws(0, 4))]
    near = []  # for each lesion, its distance from the ventricles
    for with_lesions, without in zip(heads, bare, strict=True):
        lesion = with_lesions == CODE["lesion"]
        assert 1 < lesion.sum() * 1.5**3 / 1e3 < 30
        assert of(without[lesion], "cerebral_white_matter", "cerebellar_white_matter", "brainstem").all()
        np.testing.assert_array_equal(with_lesions[~lesion], without[~lesion])
        distance = ndimage.distance_transform_edt(without != CODE["ventricle"]) * 1.5
        pieces, count = ndimage.label(lesion)
        near.extend(ndimage.minimum(distance, pieces, range(1, count + 1)))
    assert np.mean(np.array(near) < 10) > 0.6


def test_a_head_is_its_number():
    whole = anatomy.brain(draws(0, 3), voxel=6e-3).head
    np.testing.assert_array_equal(anatomy.brain(draws(2, 3), voxel=6e-3).head, whole[2:])
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(anatomy.brain(draws(0, 1, seed=2), voxel=6e-3).head[0], whole[0])


@pytest.mark.parametrize("voxel", [0.0016, 0.003, 0.0077])
def test_any_voxel_size_samples_the_same_head(voxel):
    made = anatomy.brain(draws(0, 1), voxel=voxel).head
    assert made.shape[1:] == grid(1e3 * voxel)
    assert anatomy.brain.sizes(voxel=voxel) == dict(zip(("slice", "row", "column"), made.shape[1:], strict=True))
    volume = np.prod(FIELD_OF_VIEW) * np.mean(made > 0) / 1e3
    want = np.prod(FIELD_OF_VIEW) * np.mean(anatomy.brain(draws(0, 1), voxel=0.004).head > 0) / 1e3
    assert volume == pytest.approx(want, rel=0.03)


def test_codes_and_orientation():
    """Rows run from front to back, slices from below upwards: the cerebellum is behind and below the thalamus."""
    assert [TISSUES[code] for code in anatomy.TISSUE_OF[[CODE["cortex"], CODE["ventricle"], CODE["skin"]]]] == [
        "grey_matter", "csf", "muscle_skin"
    ]  # fmt: skip
    assert len(anatomy.TISSUE_OF) == len(STRUCTURES)
    head = structures(forms(draws(0, 1))[0], 3.0)
    np.testing.assert_array_equal(anatomy.brain(draws(0, 1), voxel=3e-3).head[0], anatomy.TISSUE_OF[head[:, ::-1]])
    low, back = (np.mean(np.argwhere(head[:, ::-1] == CODE["cerebellar_cortex"]), axis=0))[:2]
    z, y = (np.mean(np.argwhere(head[:, ::-1] == CODE["thalamus"]), axis=0))[:2]
    assert low < z
    assert back > y
    seen = set(np.unique(anatomy.brain(draws(0, 1), voxel=2e-3, lesions=20).head))
    assert seen == set(CODES.values())
