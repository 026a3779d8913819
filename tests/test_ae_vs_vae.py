"""The study's own rules: equal budgets, signs of effects, verdicts from known results."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import pyrovae

ANALYSIS = Path(__file__).parents[1] / "analysis"
if not ANALYSIS.is_dir():
    pytest.skip("the analysis scripts are not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(ANALYSIS))
    try:
        import ae_vs_vae

        yield ae_vs_vae
    finally:
        sys.path.remove(str(ANALYSIS))


@pytest.fixture(scope="module")
def digits():
    return pyrovae.data.load("digits")


def options(study, **changes):
    base = {**study.DEFAULTS["digits"], "arms": study.ARMS, "post_epochs": 200, "data": "digits", "root": None}
    return Namespace(**{**base, **changes})


def test_arms_have_the_budgets_that_they_name(study, digits):
    arms = study.budgets(options(study), digits, 3)
    assert list(arms) == list(study.ARMS)
    assert arms["main"].scale == 0.179  # sqrt(64 / 2000): 1,000 x the mean squared error of 64 pixels
    assert (arms["seed_scale"].scale, arms["learned"].scale) == (0.626, None)
    assert arms["main"].updates == arms["learned"].updates == arms["few_updates"].updates == 1200
    assert (arms["few_epochs"].epochs, arms["few_epochs"].items) == (200, 128)
    assert {b.seed for b in arms.values()} == {3}
    mnist = replace(digits, event_shape=(1, 28, 28))
    named = study.budgets(options(study), mnist, 0)
    assert named["main"].scale == 0.626
    assert "seed_scale" not in named  # it would be main once more


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_both_kinds_start_from_the_same_weights_and_see_the_same_likelihood(study, digits, network):
    budget = replace(study.budgets(options(study), digits, 5)["main"], network=network)
    ae, vae = (study.build(kind, budget, (1, 8, 8)) for kind in ("ae", "vae"))
    first, second = ae.state_dict(), vae.state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert {n.rsplit(".", 1)[0] for n in second if n not in first} == {"posterior.raw_log_scale"}
    other = study.build("ae", replace(budget, seed=6), (1, 8, 8)).state_dict()
    assert not torch.equal(first["posterior.loc.weight"], other["posterior.loc.weight"])  # control


def results(seeds, **means):
    """Made-up results: `means[metric] = (AE, VAE)`, with a little noise over seeds."""
    rng = np.random.default_rng(0)
    data = {}
    for name, (ae, vae) in means.items():
        values = np.stack([ae + 1e-3 * rng.normal(size=(seeds, 1)), vae + 1e-3 * rng.normal(size=(seeds, 1))], -1)
        data[name] = (("seed", "arm", "model"), values)
    made = xr.Dataset(data, coords={"arm": ["main"], "model": ["ae", "vae"], "seed": range(seeds)})
    made["hole_fraction"] = made.hole_fraction.expand_dims(law=["gaussian", "box", "prior"])
    made["sliced_w2_excess"] = made.sliced_w2_excess.expand_dims(codes=["raw", "whitened"])
    return made


TRUE = {
    "knn_accuracy": (0.7, 0.8),
    "laplacian_ratio": (0.5, 0.6),
    "largest_step_share_median": (0.05, 0.02),
    "hole_fraction": (0.3, 0.02),
    "sliced_w2_excess": (3.0, 0.01),
}


def test_claims_hold_where_they_are_true_and_not_where_they_are_turned_round(study):
    lost = np.repeat([0.0, 1.0], [10, 90])  # 32 components lose 90 % of the judge's accuracy
    found = study.judged(results(10, **TRUE), lost)["main"]
    assert found.sizes["claim"] == 6
    assert set(found.verdict.values) == {"holds"}
    turned = study.judged(results(10, **{name: pair[::-1] for name, pair in TRUE.items()}), 1 - lost)["main"]
    assert set(turned.verdict.values) == {"does not hold"}


def test_a_collapsed_seed_is_left_out_and_a_collapsed_arm_has_no_verdict(study):
    made = results(10, **TRUE)
    made.largest_step_share_median[3] = np.nan
    found = study.judged(made, np.ones(5))["main"]
    assert int(found.replicates.sel(claim="near codes decode alike in the VAE only")) == 9
    made.largest_step_share_median[:] = np.nan
    assert "near codes decode alike in the VAE only" not in study.judged(made, np.ones(5))["main"].claim


def test_principal_components_are_measured_on_test_items(study, digits):
    judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=30)
    pca, lost = study.principal_components(digits, judge)
    assert pca.components.values.tolist() == [2, 10, 32]
    assert (np.diff(pca.r2) > 0).all()
    x, train = (s.x.flatten(1).double().numpy() for s in (digits.test, digits.train))
    _, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    kept = (x - train.mean(0)) @ axes[:10].T @ axes[:10] + train.mean(0)
    r2 = 1 - ((x - kept) ** 2).sum() / ((x - train.mean(0)) ** 2).sum()
    assert float(pca.r2.sel(components=10)) == pytest.approx(r2, abs=1e-4)
    assert len(lost) == 360
