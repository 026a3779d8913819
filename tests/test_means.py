"""The mean of a distribution without one in closed form, against quadrature and closed forms."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    ExpTransform,
    Independent,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
)

from pyrovae.models.means import mean_and_error, mean_of

LOC = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flow(loc, transform=None):
    return TransformedDistribution(Independent(Normal(loc, 0.7), 1), [transform or SigmoidTransform()])


def test_a_flows_mean_is_that_of_quadrature():
    # E[sigmoid(z)], z ~ N(loc, 0.7^2), by 60 Gauss-Hermite points: an oracle to 1e-12
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = LOC[..., None] + 0.7 * torch.from_numpy(nodes)
    expected = (z.sigmoid() * torch.from_numpy(weights / weights.sum())).sum(-1)
    assert (mean_of(flow(LOC)) - expected).abs().max() < 2e-4
    assert (LOC.sigmoid() - expected).abs().max() > 1e-2  # control: not the base's mean pushed through


def test_a_mean_in_closed_form_is_taken_as_it_is():
    for q in (
        dist.Normal(LOC, 1.0).to_event(1),
        dist.Normal(LOC, 1.0).to_event(1).mask(False),
        dist.Delta(LOC, event_dim=1),
    ):
        assert torch.equal(mean_of(q), LOC)


def test_an_items_mean_depends_on_no_other_item_and_moves_no_generator():
    before = torch.get_rng_state()
    whole = mean_of(flow(LOC))
    assert torch.equal(whole, mean_of(flow(LOC)))
    for i in range(len(LOC)):
        assert torch.equal(mean_of(flow(LOC[i : i + 1]))[0], whole[i])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_draws_carry_the_gradient():
    # d E[exp(z)] / d loc = E[exp(z)] = exp(loc + 0.7^2 / 2)
    loc = LOC.clone().requires_grad_()
    mean = mean_of(flow(loc, ExpTransform()))
    (slope,) = torch.autograd.grad(mean.sum(), loc)
    expected = (LOC + 0.245).exp()
    assert torch.allclose(mean, expected, rtol=0.01)
    assert torch.allclose(slope, expected, rtol=0.01)


def test_a_base_without_quantiles_is_drawn_from_one_seed():
    # own instances: a full-covariance base, and one that several items share
    covariance = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    q = TransformedDistribution(MultivariateNormal(LOC, covariance), [AffineTransform(3.0, torch.tensor([2.0, 0.5]))])
    before = torch.get_rng_state()
    mean = mean_of(q)
    # 512 draws: 5 standard errors of at most 2 x 1 / sqrt(512) (10 checks: false alarm 6e-6)
    assert (mean - (3 + LOC * torch.tensor([2.0, 0.5]))).abs().max() < 5 * 2 / 512**0.5
    assert torch.equal(mean, mean_of(q))
    assert torch.equal(torch.get_rng_state(), before)
    shared = TransformedDistribution(Normal(torch.zeros(2), 1.0).expand([5, 2]), [ExpTransform()])
    assert (mean_of(Independent(shared, 1)) - np.exp(0.5)).abs().max() < 0.02


def test_a_mean_by_draws_has_an_error_whether_torch_raises_or_states_nan():
    # torch states NaN for the mean of a Categorical, whose variance is 11/16 here, and raises for that of a flow; the
    # error is sd / sqrt(512), within a fifth: 6 of its own standard errors
    covariance = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    cases = (
        (Categorical(torch.tensor([[0.5, 0.25, 0.25]] * 4).double()), 0.75, (11 / 16) ** 0.5),
        (TransformedDistribution(MultivariateNormal(LOC * 0, covariance), [AffineTransform(3.0, 2.0)]), 3.0, None),
    )
    for q, truth, sd in cases:
        mean, error = mean_and_error(q)
        spread = 2 * covariance.diagonal().sqrt() if sd is None else sd
        assert torch.allclose(error, torch.as_tensor(spread) / 512**0.5 * torch.ones_like(error), rtol=0.2)
        assert ((mean - truth).abs() < 5 * error).all()
        assert torch.equal(mean, mean_of(q))
    assert not mean_and_error(dist.Normal(LOC, 1.0).to_event(1))[1].any()
