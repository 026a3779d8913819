"""Compiled tables of particles: the eager numbers, from the same draws, or eager ones with one line in the log."""

from __future__ import annotations

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from torch import nn

import pyrovae
from pyrovae.compile import function
from pyrovae.evaluation import tables

X = torch.rand(23, 1, 4, 3, generator=torch.Generator().manual_seed(0)).round()


def pair(dtype=torch.float32):
    torch.manual_seed(0)
    return pyrovae.mlp_vae((1, 4, 3), latent_dim=3, hidden_dims=(8,)).to(dtype)


def both(monkeypatch, estimate):
    """The estimate by the eager tables and by the captured ones."""
    found = []
    monkeypatch.setattr(tables, "LEAST", 1)
    for on in (False, True):
        monkeypatch.setattr(tables, "pays", lambda *work, on=on: on)
        found.append(estimate())
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("max_bytes", [2**30, 40_000, 2_000])  # all at once; items in chunks; an item's codes too
def test_captured_tables_are_the_eager_ones(monkeypatch, dtype, tolerance, max_bytes):
    used = []
    monkeypatch.setattr(function, "compile_graph", lambda traced, inputs, keep_noise: used.append(traced) or traced)
    vae = pair(dtype)
    for estimator in (pyrovae.elbo, pyrovae.iwae):
        one, two = both(monkeypatch, lambda est=estimator: est(vae, X, num_particles=37, max_bytes=max_bytes))
        for name in one.pointwise:
            np.testing.assert_allclose(
                two.pointwise[name], one.pointwise[name], rtol=tolerance, atol=tolerance * (1e3 if "k" in name else 1)
            )
    assert len(used) == 2


@pytest.mark.slow
@needs_compiler
def test_compiled_for_real_and_nothing_else_moves(monkeypatch):
    vae = pair()
    monkeypatch.setattr(tables, "pays", lambda *work: True)
    monkeypatch.setattr(tables, "LEAST", 1)
    state = torch.random.get_rng_state()
    found = pyrovae.iwae(vae, X, num_particles=50)
    assert torch.equal(state, torch.random.get_rng_state())
    monkeypatch.setattr(tables, "pays", lambda *work: False)
    np.testing.assert_allclose(pyrovae.iwae(vae, X, num_particles=50).pointwise.value, found.pointwise.value, rtol=2e-5)
    with torch.no_grad():  # other weights are another pair, not the graph's
        vae.likelihood.network.layers[0].weight.mul_(5)
        vae.likelihood.network.layers[2].weight.mul_(5)
    assert abs(pyrovae.iwae(vae, X, num_particles=50).mean - found.mean) > 0.01


def test_a_model_that_looks_at_values_runs_eagerly(monkeypatch, caplog):
    class Looks(nn.Module):
        support, base_measure = pyrovae.Normal.support, "density"

        def forward(self, loc):
            return dist.Normal(loc, 1.0 if float(loc.mean()) > 0 else 2.0)

    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 4, 3), latent_dim=3, hidden_dims=(8,), likelihood=Looks())
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        one, two = both(monkeypatch, lambda: pyrovae.elbo(vae, X, num_particles=5))
    assert len(caplog.records) == 1 and "it looks at a value" in caplog.text
    np.testing.assert_array_equal(one.pointwise.value, two.pointwise.value)
    assert len(pyro.get_param_store()) == 0
