"""The rules of the script generative_vs_discriminative.py: what is drawn, where curves cross, what a test tells."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
script = pytest.importorskip("generative_vs_discriminative", reason="the scripts are not beside the tests")
report = pytest.importorskip("generative_vs_discriminative_report")


def problem(n=90, classes=3):
    y = torch.arange(n) % classes
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) + 4 * y[:, None]
    return script.Problem("toy", x, y, x, y)


def test_labelled_items_are_paired_spread_over_classes_and_differ_by_seed():
    p = problem()
    own = p.labelled(30, 0)
    assert np.array_equal(own, p.labelled(30, 0))
    assert not np.array_equal(own, p.labelled(30, 1))
    assert len(set(own.tolist())) == len(own) == 30
    assert np.bincount(p.y[own]).tolist() == [10, 10, 10]
    assert np.bincount(p.y[p.labelled(3, 0)]).tolist() == [2, 2, 2]  # at least two a class


def test_a_fit_of_one_seed_is_the_same_whatever_ran_before():
    p = problem()
    for name in ("mixtures", "perceptron"):
        first = script.fitted(name, p, p.x, p.y, 3).predict_log_proba(p.x).detach()
        torch.randn(7)
        assert torch.equal(first, script.fitted(name, p, p.x, p.y, 3).predict_log_proba(p.x).detach())


def curves(first, second, seeds=6, spread=1e-3):
    """Accuracies by labels, model and seed."""
    rng = np.random.default_rng(0)
    values = np.stack([first, second], 1)[:, :, None] + spread * rng.normal(size=(len(first), 2, seeds))
    coords = {"labels": [10, 100, 1000], "model": ["a", "b"], "seed": range(seeds)}
    return xr.DataArray(values, coords, ("labels", "model", "seed"))


def test_where_curves_cross():
    # on a log axis, half-way between 100 and 1,000
    assert "b overtakes a at 31" in report.crossover(curves([0.7, 0.8, 0.8], [0.6, 0.7, 0.9]), "a", "b")
    assert "at over 1000 labels" in report.crossover(curves([0.7, 0.8, 0.9], [0.6, 0.7, 0.8]), "a", "b")
    assert "at under 10 labels" in report.crossover(curves([0.6, 0.7, 0.8], [0.7, 0.8, 0.9]), "a", "b")
    wide = report.crossover(curves([0.7, 0.8, 0.8], [0.6, 0.7, 0.9], spread=0.3), "a", "b")
    assert "under 10" in wide or "over 1000" in wide  # control: noise widens the interval


def test_verdicts_need_their_interval():
    assert report.verdict([0.1, 0.11, 0.09], "a", "b") == "a is better"
    assert report.verdict([-0.1, -0.11, -0.09], "a", "b") == "b is better"
    assert report.verdict([0.1, -0.1, 0.05], "a", "b") == "cannot tell"


def test_a_forest_tells_two_laws_apart_and_not_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 150, 4))
    assert script.told_apart(a, b)[1] > 0.01  # false alarm in 1 %, at a fixed seed
    share, p = script.told_apart(a, b + 1.0)
    assert share > 0.7 and p < 1e-6


def test_conditions_keep_their_place():
    rows = {(n, m, s): {"accuracy": n + s / 10} for n in (1, 2) for m in ("a",) for s in (0, 1)}
    rows[2, "b", 1] = {"accuracy": 7.0}
    found = script.tabulated(rows, "labels")
    assert float(found.accuracy.sel(labels=2, model="a", seed=1)) == 2.1
    assert np.isnan(found.accuracy.sel(labels=1, model="b", seed=1))
    assert float(found.accuracy.sel(labels=2, model="b", seed=1)) == 7.0
