"""The autoencoder: its loss is the squared error its likelihood states, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrovae


@pytest.mark.parametrize("make", [pyrovae.mlp_ae, pyrovae.conv_ae])
def test_the_loss_is_the_squared_error_of_the_stated_normal(make):
    ae = make((1, 6, 5), latent_dim=3).double()
    x = torch.rand(4, 1, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = Trace_ELBO().loss(ae.model, ae.guide, x)
    error = ((ae.reconstruct(x) - x) ** 2).sum().detach()
    scale = float(ae.likelihood.family.scale)
    expected = float(error) / (2 * scale**2) + x.numel() * (math.log(scale) + 0.5 * math.log(2 * math.pi))
    assert loss == pytest.approx(expected, rel=1e-12)
    control = expected + 0.5 * float((ae.encode(x) ** 2).sum().detach())  # a prior that is scored would add this
    assert loss != pytest.approx(control, rel=1e-12)


def test_the_seeds_scale_is_a_thousand_times_the_mean_squared_error():
    # 1000 / 784 x SSE = SSE / (2 s^2)  <=>  s = sqrt(0.392); 0.626 is that to three figures
    scale = float(pyrovae.conv_ae((1, 28, 28)).likelihood.family.scale)
    assert 784 / (2 * scale**2) == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize(
    ("ae", "vae", "shape"),
    [(pyrovae.mlp_ae, pyrovae.mlp_vae, (7,)), (pyrovae.conv_ae, pyrovae.conv_vae, (1, 9, 8))],
)
def test_both_kinds_start_from_the_same_weights(ae, vae, shape):
    torch.manual_seed(0)
    first = ae(shape).state_dict()
    torch.manual_seed(0)
    second = vae(shape).state_dict()
    shared = [name for name in first if name in second]
    assert len(shared) == len([n for n in first if "scale" not in n])
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_it_has_no_density_and_nothing_to_sample():
    ae = pyrovae.mlp_ae((3,))
    assert not ae.is_normalized
    assert not hasattr(ae, "sample")
    x = torch.randn(2, 3)
    assert torch.equal(ae.encode(x), ae.posterior(x).sample())
