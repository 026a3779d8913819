"""Independent entries with some missing and with weights: the seen factors alone, and copies of items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.models.independent import FAMILIES, IndependentEntries

DRAWN = {
    "bernoulli": lambda rng: rng.integers(0, 2, (40, 3)),
    "continuous_bernoulli": lambda rng: rng.random((40, 3)),
    "normal": lambda rng: rng.normal(size=(40, 3)) + 5,
    "log_normal": lambda rng: np.exp(rng.normal(size=(40, 3))),
    "negative_binomial": lambda rng: rng.negative_binomial(2, 0.2, (40, 3)),
    "categorical": lambda rng: rng.integers(0, 4, (40, 3)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:.* have no entry that was seen")
def test_missing_entries_are_left_out_and_a_weight_is_a_number_of_copies(family):
    rng = np.random.default_rng(0)
    whole = DRAWN[family](rng).astype(float)
    options = {"family": family, "num_classes": 4 if family == "categorical" else None}
    x = np.where(rng.random(whole.shape) < 0.3, np.nan, whole)
    entries = IndependentEntries.fit(x, missing=True, **options)
    # each entry is that of the items that have it, whatever the others are
    terms = np.zeros_like(x)
    for j in range(3):
        column = x[~np.isnan(x[:, j]), j]
        two = IndependentEntries.fit(np.stack([column, column], 1), **options)
        value = two.log_prob(np.stack([whole[:, j], whole[:, j]], 1)).detach().numpy() / 2
        terms[:, j] = np.where(np.isnan(x[:, j]), 0.0, value)
    log_prob = entries.log_prob(x, missing=True).detach()
    assert np.allclose(log_prob, terms.sum(1), atol=1e-9)
    assert np.allclose(pyrovae.iwae(entries, x, num_particles=1, missing=True).pointwise["value"], log_prob, atol=1e-9)
    # control: not the density of items that are filled in
    assert not np.allclose(log_prob, entries.log_prob(whole).detach(), atol=1e-2)
    weight = np.arange(40) % 4
    a = IndependentEntries.fit(x, weight=weight, missing=True, **options)
    b = IndependentEntries.fit(np.repeat(x, weight, 0), missing=True, **options)
    assert torch.allclose(a.natural, b.natural, rtol=1e-10, atol=1e-10)
    assert torch.equal(
        IndependentEntries.fit(whole, missing=True, **options).natural, IndependentEntries.fit(whole, **options).natural
    )


def test_an_entry_that_was_never_seen_is_named():
    x = np.where(np.arange(3) == 1, np.nan, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"no entry of x\[:, 1\] was seen"):
        IndependentEntries.fit(x, missing=True)
    with pytest.raises(ValueError, match="x must be finite"):
        IndependentEntries.fit(x)
