"""`choose`: held-out log p(x) by cross-validation, paired over candidates, against sums by hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae.data import Split
from pyrovae.model_choice import _compared

FEW = {"num_restarts": 1, "tol": 1e-4}


def build(num_components, covariance="diagonal"):
    return pyrovae.GaussianMixture((2,), num_components, covariance=covariance)


@pytest.fixture(scope="module")
def clusters():
    """Three clusters that no two components describe as well."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return (centres.repeat(40, 1) + torch.randn(120, 2, generator=generator)).double()


def test_the_smallest_that_is_not_worse_is_chosen(clusters):
    choice = pyrovae.choose(build, clusters, num_components=[1, 2, 3], folds=2, options=FEW, progress=False)
    assert choice.chosen == {"num_components": 3} and choice.pair.num_components == 3
    assert choice.pointwise["value"].shape == (3, 120) and bool(np.isfinite(choice.pointwise["value"]).all())
    assert "num_components=3 *" in str(choice) and choice.table.num_parameters.values.tolist() == [4, 9, 14]
    # the value of an item is that of a fit without its fold
    held_out = choice.pointwise["value"].values[2]
    at_home = pyrovae.exact(choice.pair, clusters).pointwise["value"].values
    assert held_out.mean() < at_home.mean() and np.corrcoef(held_out, at_home)[0, 1] > 0.9
    again = pyrovae.choose(build, clusters, num_components=[1, 2, 3], folds=2, options=FEW, refit=False, progress=False)
    assert again.pointwise.equals(choice.pointwise) and again.pair is None


def test_one_cluster_needs_one_component():
    x = torch.randn(150, 2, generator=torch.Generator().manual_seed(1))
    choice = pyrovae.choose(build, x, num_components=[3, 1], folds=2, options=FEW, progress=False)
    assert choice.chosen == {"num_components": 1}  # false alarm: that noise makes three better, about 1 in 1,000


def test_intervals_are_those_of_the_paired_differences():
    values = np.random.default_rng(0).normal(size=(3, 50)) + np.array([[0.0], [1.0], [0.9]])
    columns, best, chosen = _compared(values, None, [5, 9, 7], 0.95)
    assert best == int(values.mean(1).argmax())
    for number in {0, 1, 2} - {best}:
        d = values[number] - values[best]
        half = stats.t.ppf(1 - 0.05 / 2 / 2, 49) * d.std(ddof=1) / math.sqrt(50)
        assert abs(columns["low"][number] - (d.mean() - half)) < 1e-12
        assert abs(columns["high"][number] - (d.mean() + half)) < 1e-12
    among = [n for n in range(3) if columns["high"][n] >= 0]
    assert chosen == min(among, key=lambda n: [5, 9, 7][n]) and 0 not in among
    weight = np.arange(50) % 3
    copies, *_ = _compared(np.repeat(values, weight, axis=1), None, [5, 9, 7], 0.95)
    weighed, *_ = _compared(values, weight.astype(float), [5, 9, 7], 0.95)
    assert all(np.allclose(copies[name], weighed[name], atol=1e-12) for name in copies)
    values[0, 3] = -math.inf  # an item of no density
    columns, _, chosen = _compared(values, None, [5, 9, 7], 0.95)
    assert columns["high"][0] == -math.inf and chosen != 0
    with pytest.raises(ValueError, match="no candidate gives every held-out item a density"):
        _compared(np.full((2, 4), -math.inf), None, [1, 2], 0.95)


def test_vaes_with_missing_entries_and_weights():
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    x[::4, 1] = math.nan
    build_vae = functools.partial(pyrovae.linear_vae, 3, missing=True)
    split = Split(x, None, weight=torch.ones(60), missing=True)
    options = {"epochs": 2, "compile": False}
    before = torch.get_rng_state()
    choice = pyrovae.choose(
        build_vae, split, latent_dim=[1, 2], folds=2, options=options, progress=False,
        estimator=lambda pair, items: pyrovae.exact(pair, items),
    )  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())
    assert bool(np.isfinite(choice.pointwise["value"]).all())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"choose needs values to choose among, as latent_dim=\[1, 2, 4\]"),
        ({"num_components": 3}, "num_components must be a list of the values to be tried"),
        ({"num_components": []}, "num_components must be a list of the values to be tried"),
        ({"num_components": [2, 2]}, "each candidate must come once"),
        ({"num_components": [1], "folds": 1}, "folds must be an integer of at least 2"),
        ({"num_components": [1], "folds": 9}, "x has 4 items for 9 folds"),
        ({"num_components": [1], "options": {"seed": 1}}, "choose gives seed itself"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        pyrovae.choose(build, torch.randn(4, 2), **arguments)
