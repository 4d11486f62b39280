"""What is done to batches: constants of a store, channels, addressed random numbers, labels; and stores that grow.

Budget: 15 s on two cores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

import factory.store.layout
from factory.recipe import Recipe, load
from factory.store import DamagedStore, StoreError, extend
from factory.stream import Batches, Member, Stream, on_device
from factory.stream.transforms import Normalise, Random, channels, scales
from tests.stream.small import CHUNK_BYTES, FLAT, N


def test_constants_are_those_of_all_numbers(store: Path, whole: xr.Dataset) -> None:
    found = scales(str(store), "train")
    assert set(found) == {"signal", "clean", "t2", "amplitude", "sigma"}
    for name, one in found.items():
        values = whole[name].values.astype("c16" if whole[name].dtype.kind == "c" else "f8")
        np.testing.assert_allclose(one.mean, values.mean(), rtol=1e-12)
        spread = 0.0 if name == "sigma" else values.std()
        np.testing.assert_allclose(one.deviation, spread, rtol=1e-9, atol=1e-8)


def test_normalised_and_back(store: Path, whole: xr.Dataset) -> None:
    normalise = Normalise(scales(str(store), "train"))
    for kind in (Stream, Batches):
        (batch,) = kind(store, "train", batch=N, shuffle=False, transforms=[normalise])
        for name in ("signal", "clean", "t2"):
            assert abs(complex(batch[name].mean())) < 1e-4
            assert abs(np.std(np.asarray(batch[name])) - 1) < 1e-4
            np.testing.assert_allclose(np.asarray(normalise.undo(batch)[name]), whole[name], rtol=1e-4, atol=1e-6)
        assert not np.asarray(batch["sigma"]).any()  # a constant has no deviation to divide by


def test_constants_of_a_damaged_list_are_refused(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "s")
    path = tmp_path / "s" / ".factory" / "shards.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sums"', b'"sumz"', 1))
    with pytest.raises(DamagedStore, match=r"shards.jsonl is damaged .*run `factory repair"):
        scales(str(tmp_path / "s"), "train")


def test_complex_numbers_become_channels(store: Path, whole: xr.Dataset) -> None:
    for kind in (Stream, Batches):
        batch = next(iter(kind(store, "train", batch=7, shuffle=False, transforms=[channels])))
        assert batch["clean"].shape == (7, 2, 6)
        np.testing.assert_array_equal(np.asarray(batch["clean"]), np.stack([whole.clean.values[:7].real,
                                                                            whole.clean.values[:7].imag], 1))
        assert str(batch["signal"].dtype).endswith("float32")


def noisy(batch: dict[str, Any], random: Random) -> dict[str, Any]:
    gain = random.uniform("gain", (1,))
    return batch | {"signal": batch["signal"] * gain + random.normal("noise", (6,)), "gain": gain}


def by_sample(stream: Any) -> dict[tuple[int, int], bytes]:
    return {(int(e), int(s)): np.asarray(row).tobytes() + np.asarray(gain).tobytes() for batch in stream
            for e, s, row, gain in zip(batch["epoch"], batch["sample"], batch["signal"], batch["gain"], strict=True)}


def test_what_is_drawn_belongs_to_the_sample_and_its_epoch(recipe: Recipe, store: Path) -> None:
    """Not to the batch, the rank, the worker, the device or the way of reading."""
    options: dict[str, Any] = {"transforms": [noisy], "tail": "pad", "seed": 4}
    wanted = by_sample(Stream(store, "train", batch=10, epochs=2, **options))
    assert len(wanted) == 2 * N
    assert len({value[-4:] for value in wanted.values()}) == 2 * N
    assert by_sample(Stream(recipe, "train", batch=33, epochs=2, **options)) == wanted
    assert by_sample(Batches(store, "train", batch=7, epochs=2, **options)) == wanted
    ranks: dict[Any, bytes] = {}
    for rank in range(3):
        ranks |= by_sample(Stream(store, "train", batch=12, epochs=2, rank=rank, world=3, **options))
    assert ranks == wanted
    loader: Any = DataLoader(Stream(store, "train", batch=10, epochs=2, **options), batch_size=None, num_workers=2)
    assert by_sample(loader) == wanted
    plain = Stream(store, "train", batch=10, epochs=2, seed=4, tail="pad")
    assert by_sample(on_device(plain, "cpu", [noisy], seed=4)) == wanted
    assert by_sample(on_device(plain, "cpu", [noisy], seed=5)) != wanted


def test_draws_of_members_differ(recipe: Recipe) -> None:
    members = [Member(recipe, "train", 1), Member(recipe, "train", 1)]
    found = [row for b in Stream(members, batch=20, paired=True, transforms=[noisy]) for row in b["gain"].tolist()]
    assert len({tuple(row) for row in found}) == len(found)


def test_normal_numbers_are_normal(recipe: Recipe) -> None:
    batch = next(iter(Stream(recipe, "train", batch=N)))
    random = Random(1, batch)
    found = random.normal("n", (200,))
    assert found.dtype == torch.float32
    assert abs(float(found.mean())) < 4 / np.sqrt(found.numel())
    assert abs(float(found.std()) - 1) < 4 / np.sqrt(2 * found.numel())
    assert torch.equal(random.uniform("u", (5,))[:, :3], random.uniform("u", (3,)))
    assert not torch.equal(random.uniform("u"), random.uniform("v"))


def test_labels(store: Path, whole: xr.Dataset) -> None:
    stream = Stream(store, "train", batch=10, seed=3)
    found = stream.to_xarray(next(iter(stream)))
    wanted = whole.isel(sample=found.sample.values)
    for name in whole.data_vars:
        xr.testing.assert_equal(found[name].drop_vars(["sample", "epoch"]).variable, wanted[name].variable)
        assert found[name].attrs["units"] == whole[name].attrs["units"]
    np.testing.assert_array_equal(found.echo_time, whole.echo_time)
    split = Stream(store, "train", batch=10, transforms=[channels])
    assert split.to_xarray(next(iter(split))).clean.dims == ("sample", "clean_1", "clean_2")


def test_a_store_that_grows_is_finished_as_it_was(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch in which it grew has its old samples; all later ones have all."""
    monkeypatch.setattr(factory.store.layout, "CHUNK_BYTES", CHUNK_BYTES)
    shutil.copytree(store, tmp_path / "s")
    (tmp_path / "echoes.yaml").write_text(FLAT)
    before = [b["sample"].tolist() for b in Stream(tmp_path / "s", "train", batch=10, seed=2)]
    stream = Stream(tmp_path / "s", "train", batch=10, seed=2, on_extend="finish epoch")
    strict = Stream(tmp_path / "s", "train", batch=10, seed=2)
    passed = iter(stream)
    begun = [next(passed)["sample"].tolist() for _ in range(4)]
    state = stream.state_dict()
    passed.close()  # type: ignore[attr-defined]
    extend(load(tmp_path / "echoes.yaml", samples={"train": 150}), tmp_path / "s", threads=1)
    again = Stream(tmp_path / "s", "train", batch=10, seed=2, on_extend="finish epoch")
    for one in (again, stream):
        one.load_state_dict(state)
        assert begun + [b["sample"].tolist() for b in one] == before
        later = [i for b in one for i in b["sample"].tolist()]
        assert one.epoch == 2
        assert len(later) == len(set(later)) == 150
    assert again.state_dict()["samples"] == 150
    with pytest.raises(StoreError, match="on_extend='finish epoch'"):
        list(strict)
    with pytest.raises(ValueError, match="it was extended since: on_extend='finish epoch' goes on"):
        Stream(tmp_path / "s", "train", batch=10, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="of another order: its dataset"):
        Stream(tmp_path / "s", "study", batch=10, seed=2, on_extend="finish epoch").load_state_dict(state)
