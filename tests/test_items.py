"""The fingerprint of a fit's items: what another run's items would change, in memory or in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.data import MappedArray
from pyrovae.inference import items
from pyrovae.inference.items import Items

PAIR = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood="normal").float()  # so that an item takes 12 bytes


def fingerprint(x, y=None):
    found = Items(PAIR, x, "x", False)
    found.y = y
    return found.fingerprint


@pytest.mark.parametrize("view", [np.asarray, MappedArray], ids=["in memory", "mapped"])
def test_a_narrow_validation_is_held_against_the_items_of_the_fit(view):
    x = 1.7e9 + 1e7 * np.random.default_rng(0).normal(size=(60, 3))
    narrow = 1.7e9 + np.arange(60.0).reshape(20, 3)  # where float32 has steps of 128
    found = Items(PAIR, view(narrow), "validation", False, reference=Items(PAIR, x, "x", False))
    assert torch.equal(found.x[:], torch.from_numpy(narrow).float())
    for beside in (None, Items(PAIR, x / 1e6, "x", False)):  # the control: they are 10 wide
        with pytest.raises(ValueError, match="does not hold validation"):
            Items(PAIR, view(narrow), "validation", False, reference=beside)
    softmax = pyrovae.DiscriminativeClassifier((3,), 2)
    labels = np.arange(60) % 2
    held_out, by = (narrow, labels[:20]), {"method": "svi", "epochs": 1, "compile": False, "progress": False}
    history = pyrovae.fit(softmax, x, labels, validation=held_out, **by)
    assert np.isfinite(history.epochs.validation_log_loss.values).all()


@pytest.fixture
def mapped(tmp_path):
    """A file of 500 items, and its map as a view."""
    rows = np.random.default_rng(0).random((500, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    return lambda: MappedArray(np.load(tmp_path / "x.npy", mmap_mode="r+"))


def test_a_file_has_the_fingerprint_of_its_items_in_memory(mapped):
    assert fingerprint(mapped()) == fingerprint(mapped()[:])
    assert fingerprint(mapped().select([3, 1])) == fingerprint(mapped()[[3, 1]])


@pytest.mark.parametrize("changed", [slice(1, 499), slice(250, 251), slice(0, 1), slice(499, 500)])
def test_a_small_file_is_compared_whole(mapped, changed):
    before = fingerprint(mapped())
    mapped()._source[changed] *= -1
    assert fingerprint(mapped()) != before
    mapped()._source[changed] *= -1
    assert fingerprint(mapped()) == before


def test_of_a_large_file_rows_are_compared_that_are_spread_over_it(mapped, monkeypatch):
    read = []

    whole = MappedArray.__getitem__

    def noted(self, index):
        read.append(np.arange(len(self))[index])
        return whole(self, index)

    monkeypatch.setattr(MappedArray, "__getitem__", noted)
    monkeypatch.setattr(items, "FINGERPRINT_BYTES", 50 * 12)  # of 500 rows of 12 bytes
    monkeypatch.setattr(items, "EVALUATION_BATCH", 16)
    checked = Items(PAIR, mapped(), "x", False)
    read.clear()
    before = checked.fingerprint
    rows = np.concatenate(read)
    assert len(rows) == len(set(rows)) == 50 and {0, 499} <= set(rows.tolist())
    assert np.diff(np.sort(rows)).max() <= 11  # so that a change of 11 rows in a row is seen
    for first in (0, 1, 244, 489):
        mapped()._source[first : first + 11] *= -1
        assert fingerprint(mapped()) != before
        mapped()._source[first : first + 11] *= -1
    assert fingerprint(mapped()) == before
    mapped()._source[int(np.setdiff1d(np.arange(500), rows)[0])] *= -1  # the price, which fit's docstring names
    assert fingerprint(mapped()) == before
    monkeypatch.setattr(items, "FINGERPRINT_ROWS", 20)
    few = Items(PAIR, mapped(), "x", False)
    read.clear()
    assert few.fingerprint != before
    assert sum(map(len, read)) == 20


def test_labels_length_and_shape_count():
    x, y = torch.rand(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    prints = [fingerprint(x), fingerprint(x, y), fingerprint(x, 1 - y), fingerprint(x[:5]), fingerprint(x.flip(0))]
    wide = pyrovae.mlp_vae((1, 3), hidden_dims=(4,), likelihood="normal")
    prints.append(Items(wide, x[:, None], "x", False).fingerprint)
    assert len(set(prints)) == len(prints)
    late = Items(PAIR, x, "x", False)
    assert late.fingerprint == prints[0]
    late.y = y
    assert late.fingerprint == prints[1]
