"""Saved estimators: whole at each moment, all of one save, and refused where a byte of them is another."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.inference.checkpoint import CheckpointError
from pyrovae.inference.checkpoint.manifest import manifest_digest
from pyrovae.sklearn import ColumnMixture, GaussianMixture, Imputer, states


def fitted(mean: float = 0.0) -> GaussianMixture:
    """A normal distribution about a mean, which tells it from others."""
    return GaussianMixture().fit(np.random.default_rng(0).normal(size=(20, 2)) + mean)


def mean_of(estimator) -> int:
    """What it was fitted about; its history is of the same fit."""
    mean = round(float(estimator.means_[0, 0]))
    assert round(float(estimator.pair_.components.loc[0, 0])) == mean and "loss" in estimator.history_.epochs
    return mean


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def made():
    return [fitted(mean) for mean in (0.0, 10.0, 20.0)]


@pytest.fixture
def state(made, tmp_path):
    made[0].save(tmp_path / "state")
    return tmp_path / "state"


def older(folder):
    """Make of a state one as the first version wrote it."""
    record = json.loads((folder / "estimator.json").read_bytes())
    del record["files"], record["sha256"]
    (folder / "estimator.json").write_text(json.dumps(record | {"format_version": 1}, indent=1))


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param("a state", marks=pytest.mark.slow),
        pytest.param("a state of the first version", marks=pytest.mark.long),
        pytest.param("nothing", marks=pytest.mark.long),
    ],
)
def test_a_kill_at_any_call_leaves_a_whole_estimator_and_the_next_save_cleans(tmp_path, made, killed_at, earlier):
    found = set()
    for n in range(100):
        target = tmp_path / str(n) / "state"
        target.parent.mkdir()
        if earlier != "nothing":
            made[0].save(target)
        if earlier == "a state of the first version":
            older(target)
        calls = killed_at(n, lambda target=target: made[1].save(target))
        try:
            found.add(mean_of(GaussianMixture.load(target)))
        except FileNotFoundError:
            assert earlier == "nothing"
            found.add(-1)
        made[2].save(target)
        assert mean_of(GaussianMixture.load(target)) == 20
        assert names(target.parent) == ["state"] and len(names(target)) == 3  # what the kill left is gone
        if len(calls) < n:
            break
    assert n > 10 and found == ({-1, 10} if earlier == "nothing" else {0, 10})


def test_one_that_is_saved_over_at_any_moment_is_read_whole(state, made, monkeypatch):
    inode, load, saves = state.stat().st_ino, states.load, [1, 2]

    def saved_over_before(path):  # after the record was read
        if saves:
            made[saves.pop(0)].save(state)
        return load(path)

    monkeypatch.setattr(states, "load", saved_over_before)
    assert mean_of(GaussianMixture.load(state)) == 20 and not saves
    assert state.stat().st_ino == inode and len(names(state)) == 3  # the folder itself stays


def test_states_of_the_first_version_are_read_and_saved_over(state, made):
    older(state)
    assert names(state) == ["estimator.json", "history.nc", "pair"]
    assert mean_of(GaussianMixture.load(state)) == 0
    made[1].save(state)
    assert mean_of(GaussianMixture.load(state)) == 10 and len(names(state)) == 3


def test_an_error_of_the_system_names_the_path_and_loses_nothing(state, made, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for target in (state, state.parent / "other"):
        with pytest.raises(OSError, match="No space left on device while the state was saved") as caught:
            made[1].save(target)
        assert caught.value.filename == str(target)
    monkeypatch.undo()
    assert names(state.parent) == ["state"] and len(names(state)) == 3 and mean_of(GaussianMixture.load(state)) == 0


def damaged(state, contents) -> int:
    count = 0
    for file, content in contents:
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            GaussianMixture.load(state)
        except CheckpointError:
            count += 1
        file.write_bytes(before)
    return count


@pytest.mark.parametrize(("step", "count"), [(701, 10), pytest.param(11, 1_000, marks=pytest.mark.long)])
def test_every_truncation_and_every_flipped_bit_is_found(state, step, count):
    files = [file for file in sorted(state.rglob("*")) if file.is_file()]
    assert len(files) == 4 and damaged(state, [(files[0], files[0].read_bytes())]) == 0  # the control
    cut = [(file, file.read_bytes()[:n]) for file in files for n in range(0, file.stat().st_size, step)]
    assert damaged(state, cut) == len(cut)
    generator = random.Random(0)
    for _ in range(count):
        file = generator.choice(files)
        content = bytearray(file.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        assert damaged(state, [(file, bytes(content))]) == 1, file


def forge(state, **changes):
    record = json.loads((state / "estimator.json").read_bytes()) | changes
    record["sha256"] = manifest_digest(record)
    (state / "estimator.json").write_text(json.dumps(record, indent=1))


def array(dtype, shape, values):
    return {"n_features_in_": {"array": values, "dtype": dtype, "shape": shape}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fitted": array("<U400000000", [1], ["a"])}, "larger than is read"),
        ({"fitted": array("<f8", [10**9], [0.0])}, "larger than is read"),
        ({"fitted": array("<f8", [0, 2**62], [0.0])}, "has 1 values"),
        ({"fitted": array("V1000000000", [1], [0])}, "is no dtype of an array"),
        ({"fitted": array("<f8", [2], [0.0])}, "has 1 values"),
        ({"fitted": {"fit": 3}}, "'fit' is no fitted attribute"),
        ({"fitted": {"__class_": 3}}, "is no fitted attribute"),
        ({"fitted": {"a_": {"column": {"list": ["a", "categorical", 10**9]}}}}, "are not said one by one"),
        ({"fitted": {"a_": {"estimator": "os"}}}, "is damaged, or of another version"),
        ({"fitted": {"a_": {}}}, "is damaged, or of another version"),
        ({"params": {"n_component": 1}}, "is damaged, or of another version"),
        ({"class": "BaseEstimator"}, "is no record of a saved estimator"),
        ({"format_version": 3}, "has format version 3, and this package reads 1 and 2"),
        ({"files": {"pair": {"name": "../pair", "sha256": ""}}}, "is damaged or was changed"),
        ({"files": {"pair": {"name": "history.nc", "sha256": ""}}}, "is damaged or was changed"),
        ({"files": {"estimator.json": {"name": "estimator.json", "sha256": ""}}}, "is damaged or was changed"),
        ({"files": {"pair": {"name": "pair-0123456789abcdef", "sha256": ""}}}, "is not whole"),
    ],
)
def test_a_forged_record_is_refused(state, changes, words):
    forge(state)
    if "class" in changes:  # the control, once
        assert mean_of(GaussianMixture.load(state)) == 0
    forge(state, **changes)
    with pytest.raises(CheckpointError, match=words):
        GaussianMixture.load(state)


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 10**6, '{"a": 1' + "0" * 10**6 + "}", "[" + "{}," * 10**6 + "{}]"]
)
def test_what_is_no_record_is_told_soon(state, content):
    (state / "estimator.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"estimator\.json is no record of a saved estimator"):
        GaussianMixture.load(state)
    with pytest.raises(FileExistsError, match=r"is not a saved estimator \(its estimator\.json is not of pyrovae\)"):
        fitted().save(state)


def test_a_state_of_another_kind_is_no_place_for_one(tmp_path, made):
    pyrovae.save(tmp_path / "pair", pyrovae.linear_vae(2, 1))
    with pytest.raises(FileExistsError, match=r"is not a saved estimator \(it holds 'manifest.json'\)"):
        made[0].save(tmp_path / "pair")
    made[0].save(tmp_path / "estimator")
    with pytest.raises(FileExistsError, match=r"is not a saved state \(it holds 'estimator.json'\)"):
        pyrovae.save(tmp_path / "estimator", pyrovae.linear_vae(2, 1))
    with torch.no_grad():
        bad = fitted()
        bad.pair_.components.loc.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        bad.save(tmp_path / "estimator")
    assert mean_of(GaussianMixture.load(tmp_path / "estimator")) == 0


@pytest.mark.slow
def test_one_within_another_and_one_of_columns_are_saved_over_too(tmp_path):
    x = np.random.default_rng(1).normal(size=(30, 3))
    for kind, estimator in ((Imputer, Imputer(GaussianMixture(missing=True))), (ColumnMixture, ColumnMixture())):
        estimator.fit(np.where(x > 1.5, np.nan, x))
        folder = tmp_path / kind.__name__
        for _ in range(3):
            estimator.save(folder)
            again = kind.load(folder)
            assert {*vars(again)} == {*vars(estimator)} and repr(again) == repr(estimator)
        count = len(names(folder))
        inside = [name for name in names(folder) if name.startswith(("pair-", "estimator-"))]
        assert count == (2 if kind is Imputer else 3) and len(inside) == 1
        shutil.rmtree(folder / inside[0])
        with pytest.raises(CheckpointError, match="is not whole: it has no"):
            kind.load(folder)
