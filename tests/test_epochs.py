"""The rows of epochs in a checkpoint: a run has as many epochs as it likes, and comes back to the same bits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.inference.checkpoint import CheckpointError, read_run, write
from pyrovae.inference.svi import epochs
from pyrovae.inference.svi.epochs import packed, room, unpacked

ROW = {"loss": 0.1, "beta": 1, "seconds": math.inf, "validation_elbo": -1 / 3}


def test_rows_come_back_as_they_were():
    rows = [ROW | {"loss": i / 7} for i in range(1_500)]
    words, tensors = packed(rows)
    again = unpacked(json.loads(json.dumps(words)), tensors)
    assert again == rows and all(list(row) == list(ROW) and type(row["beta"]) is int for row in again)
    assert len(json.dumps(words)) < 100
    for few in (rows[:1_000], [*rows, {"loss": 0.0}], [*rows, ROW | {"beta": 0.5}], [*rows, ROW | {"loss": True}]):
        assert packed(few) == (few, {})  # which one tensor a column does not hold, or earlier versions read
        assert unpacked(few, {}) is few


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (None, {}),
        ({"epochs": 1_500}, {}),
        ({"epochs": 1_499, "columns": ["loss"]}, {}),
        ({"epochs": 1_500, "columns": ["gain"]}, {}),
        ({"epochs": 1_500, "columns": ["loss"]}, {"rows.loss": torch.zeros(1_500)}),
        ({"epochs": 1_500, "columns": ["loss"]}, {"rows.loss": torch.zeros(3, 500, dtype=torch.float64)}),
    ],
)
def test_rows_that_do_not_agree_with_their_tensors_are_refused(words, change):
    right, tensors = packed([{"loss": 1.0}] * 1_500)
    assert unpacked(right, tensors)[0] == {"loss": 1.0}  # the control
    with pytest.raises(CheckpointError, match="the checkpoint"):
        unpacked(words, tensors | change)


def test_a_run_of_a_million_epochs_has_a_state(tmp_path):
    vae = pyrovae.linear_vae(2, 1)
    words, tensors = {"epochs": 10**6, "columns": ["loss"]}, {"rows.loss": torch.arange(1e6, dtype=torch.float64)}
    write(tmp_path / "state", vae, ({"rows": words}, tensors))
    metadata, _, read = read_run(tmp_path / "state", vae, room(10**6))
    assert metadata["rows"] == words and torch.equal(read["rows.loss"], tensors["rows.loss"])
    with pytest.raises(CheckpointError, match="and these tensors take at most"):
        read_run(tmp_path / "state", vae, room(1))


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits_whichever_way_its_rows_are_kept(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(12, 3))

    def fitted(count, **options):
        torch.manual_seed(0)
        vae = pyrovae.linear_vae(3, 1)
        history = pyrovae.fit(vae, x, epochs=count, validation=x, seed=0, progress=False, **options)
        return history.epochs.drop_vars("seconds"), [p.detach().clone() for p in vae.parameters()]

    there, weights = fitted(7)
    folder = tmp_path / "run"
    fitted(3, checkpoint=folder)
    kept = json.loads((folder / "epoch-000002" / "manifest.json").read_bytes())["run"]["rows"]
    assert len(kept) == 3 and kept[0].keys() >= {"loss", "validation_elbo"}
    monkeypatch.setattr(epochs, "FEW", 2)
    fitted(5, checkpoint=folder, resume=True)  # from rows in words
    kept = json.loads((folder / "epoch-000004" / "manifest.json").read_bytes())["run"]["rows"]
    assert kept["epochs"] == 5
    again, others = fitted(7, checkpoint=folder, resume=True)  # from rows in tensors
    assert again.identical(there) and all(map(torch.equal, weights, others))
