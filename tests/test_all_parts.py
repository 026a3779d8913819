"""Every likelihood with every posterior and every prior of the package: a step, a saved state, a loaded one."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from conftest import needs_compiler

import pyrovae
import pyrovae.models.distributions
from pyrovae.models.registry import registered

WITH_COVARIATES = {"conditional"}  # which the builders refuse without covariates: it has tests of its own
OF_CODES = {"categorical", "ordinal"}  # whose encoder looks items up: pseudo-inputs would not be trained
ARGUMENTS = {"vamp": "num_components=3", "categorical": "num_classes=3", "ordinal": "num_classes=3"}


def names(kind):
    """The package's own parts of a kind; new ones join by themselves, and those that other tests register do not."""
    own = [name for name, part in registered(kind).items() if part.__module__.startswith("pyrovae.")]
    return [name for name in own if name not in WITH_COVARIATES]


def pair_of(*parts):
    torch.manual_seed(0)
    asked = [f"{part}({ARGUMENTS[part]})" if part in ARGUMENTS else part for part in parts]
    options = dict(zip(("likelihood", "posterior", "prior"), asked, strict=True))
    return pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), **options)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", names("likelihood"))
def test_every_triple_takes_a_step_and_is_saved_and_loaded(likelihood, tmp_path):
    for posterior in names("posterior"):
        for prior in names("prior"):
            case = (likelihood, posterior, prior)
            if prior == "vamp" and likelihood in OF_CODES:
                with pytest.raises(ValueError, match="no gradient reaches them"):
                    pair_of(*case)
                continue
            pair = pair_of(*case)
            x = pair.sample(8, seed=0)
            before = {name: parameter.detach().clone() for name, parameter in pair.named_parameters()}
            svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
            assert math.isfinite(svi.step(x)), case
            after = dict(pair.named_parameters())
            assert all(parameter.isfinite().all() for parameter in after.values()), case
            assert any(not torch.equal(after[name], value) for name, value in before.items()), case
            # the parts' own parameters are among those that a step trains
            if prior != "standard":
                assert any(not torch.equal(after[n], v) for n, v in before.items() if n.startswith("prior.")), case
            pyrovae.save(tmp_path / "state", pair)
            loaded = pyrovae.load(tmp_path / "state")
            z = torch.zeros(1, 2)
            assert torch.equal(loaded.prior().log_prob(z), pair.prior().log_prob(z)), case
            assert torch.equal(loaded.posterior(x).log_prob(z), pair.posterior(x).log_prob(z)), case
            assert torch.equal(loaded.likelihood(z).log_prob(x), pair.likelihood(z).log_prob(x)), case
            pyro.clear_param_store()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "case",
    [
        *(("normal", posterior, "standard") for posterior in names("posterior")),
        *(("normal", "diagonal", prior) for prior in names("prior") if prior != "standard"),
    ],
)
def test_each_posterior_and_prior_is_compiled(case):
    losses = []
    for compiled in (True, False):
        pair = pair_of(*case)
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        options = {"epochs": 2, "batch_size": 20, "learning_rate": 1e-2, "progress": False}
        losses.append(pyrovae.fit(pair, x, compile=compiled, **options).epochs["loss"].values)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), case
