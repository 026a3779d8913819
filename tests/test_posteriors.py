"""Posteriors by name: densities, divergences and estimates against closed forms and quadrature."""

from __future__ import annotations

import copy
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import MultivariateNormal, constraints

import pyrovae
from pyrovae.models.means import divergence_of, mean_and_error, mean_of
from pyrovae.models.splines import MonotoneSpline, spline_parameters

WIDE = {"dtype": torch.float64}


def moved(module, by=0.5):
    """The module with every weight moved, as after a fit: parts that start as the identity are bent."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


# the full normal ------------------------------------------------------------------------------------------------


def test_a_full_normal_is_scipys():
    torch.manual_seed(0)
    part = moved(pyrovae.FullNormal(nn.Identity(), 4, 3).double())
    x, z = torch.randn(5, 4, **WIDE), torch.randn(5, 3, **WIDE)
    q = part(x)
    for i in range(5):
        expected = stats.multivariate_normal(q.loc[i].detach(), q.covariance_matrix[i].detach()).logpdf(z[i])
        assert float(q.log_prob(z)[i].detach()) == pytest.approx(float(expected), abs=1e-10)
    correlation = q.covariance_matrix[0, 0, 1] / (q.variance[0, 0] * q.variance[0, 1]).sqrt()
    assert correlation.abs() > 0.05  # control: it is not diagonal
    # each entry below the diagonal has an output of its own
    assert part.raw_slopes.out_features == 3 and pyrovae.FullNormal(nn.Identity(), 4, 1).raw_slopes is None


def test_the_divergence_of_a_full_normal_has_a_closed_form_that_draws_agree_with():
    part = moved(pyrovae.FullNormal(nn.Identity(), 4, 3).double())
    q = part(torch.randn(5, 4, generator=torch.Generator().manual_seed(0), **WIDE))
    p = dist.Normal(torch.zeros(3, **WIDE), 1.0).to_event(1)
    value, error = divergence_of(q, p)
    assert not error.any()
    covariance, loc = q.covariance_matrix, q.loc
    trace = covariance.diagonal(dim1=-1, dim2=-2).sum(-1)
    expected = 0.5 * (trace + loc.square().sum(-1) - 3 - torch.linalg.slogdet(covariance)[1])
    assert torch.allclose(value, expected, atol=1e-10)
    torch.manual_seed(2)
    z = q.sample((4000,))
    terms = q.log_prob(z) - p.log_prob(z)
    # 5 items at 4.5 standard errors: false alarm 4e-5
    assert ((terms.mean(0) - value).abs() < 4.5 * terms.std(0) / 4000**0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [pyrovae.FullNormal, pyrovae.FlowPosterior])
def test_no_output_of_a_network_overflows(kind, dtype):
    part = moved(kind(nn.Identity(), 4, 3).to(dtype), 0.1)
    x = torch.tensor([[1e6, -1e6, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=dtype)
    q = part(x)
    z = q.rsample()
    value = q.log_prob(z).sum() + z.sum() * 1e-10
    gradients = torch.autograd.grad(value, list(part.parameters()), allow_unused=True)
    assert value.isfinite() and all(g is None or g.isfinite().all() for g in gradients)


# the flow -------------------------------------------------------------------------------------------------------


def test_a_spline_is_monotone_exact_both_ways_and_knows_its_slope():
    torch.manual_seed(0)
    raw = torch.randn(3, spline_parameters(6), **WIDE)
    spline = MonotoneSpline(raw, cache_size=0)
    z = torch.linspace(-6, 6, 8001, **WIDE)[:, None].expand(-1, 3).clone().requires_grad_()
    y = spline(z)
    assert (y.diff(dim=0) > 0).all()
    assert (spline.inv(y) - z).abs().max() < 1e-10
    (slope,) = torch.autograd.grad(y.sum(), z)
    assert torch.allclose(spline.log_abs_det_jacobian(z, y).exp(), slope, rtol=1e-9)
    assert torch.equal(y[z.abs() >= 4], z[z.abs() >= 4])
    steps = slope.diff(dim=0).abs()
    assert steps.max() < 0.1 * slope.max() and (slope - 1).abs().max() > 0.5  # continuous, and no identity
    zero = MonotoneSpline(torch.zeros(3, spline_parameters(6), **WIDE))
    assert (zero(z) - z).abs().max() < 1e-12


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_a_flow_has_one_density_at_its_draws_and_at_given_codes(latent_dim):
    torch.manual_seed(0)
    part = moved(pyrovae.FlowPosterior(nn.Identity(), 4, latent_dim).double(), 0.3)
    q = part(torch.randn(6, 4, **WIDE))
    z = q.rsample((7,))
    at_draws = q.log_prob(z)  # by the noise that Pyro's transforms keep
    assert torch.allclose(q.log_prob(z.detach().clone()), at_draws, atol=1e-9)
    # by the change of variables, the Jacobian taken by autograd
    noise = torch.randn(6, latent_dim, **WIDE)

    def push(e):
        for transform in q.transforms:
            e = transform(e)
        return e

    jacobian = torch.autograd.functional.jacobian(push, noise)
    for i in range(6):
        log_det = torch.linalg.slogdet(jacobian[i, :, i])[1]
        expected = q.base_dist.log_prob(noise)[i] - log_det
        assert torch.allclose(q.log_prob(push(noise).detach())[i], expected, atol=1e-9)


def test_a_flow_starts_as_the_diagonal_normal():
    torch.manual_seed(0)
    part = pyrovae.FlowPosterior(nn.Identity(), 4, 3)
    x, z = torch.randn(5, 4), torch.randn(5, 3)
    plain = dist.Normal(part.loc(x), pyrovae.models.parts.diagonal_normal.bounded_scale(part.raw_log_scale(x)))
    assert torch.allclose(part(x).log_prob(z), plain.to_event(1).log_prob(z), atol=1e-5)
    assert not torch.allclose(moved(part)(x).log_prob(z), plain.to_event(1).log_prob(z), atol=0.1)  # control


def test_the_mean_of_a_flow_comes_with_an_error_that_covers_and_with_gradients():
    torch.manual_seed(0)
    part = moved(pyrovae.FlowPosterior(nn.Identity(), 4, 2).double(), 0.3)
    x = torch.randn(8, 4, **WIDE, requires_grad=True)
    q = part(x)
    mean, error = mean_and_error(q)
    truth = q.sample((20_000,))
    reference, noise = truth.mean(0), truth.std(0) / 20_000**0.5
    # 16 means; Student's t with 7 degrees of freedom: beyond 6 errors with probability 5e-4 each
    assert ((mean - reference).abs() < 6 * torch.hypot(error, noise)).all()
    assert (error > 0).all() and torch.equal(mean, mean_of(q))
    (slope,) = torch.autograd.grad(mean.sum(), x)
    assert slope.isfinite().all() and slope.any()
    assert not mean_and_error(dist.Normal(torch.zeros(3), 1.0).to_event(1))[1].any()


# what a family is worth -----------------------------------------------------------------------------------------


def linear_pair(posterior):
    """A linear pair whose posterior has a correlation of -0.9."""
    pair = pyrovae.linear_vae(4, 2, posterior=posterior).double()
    with torch.no_grad():
        pair.likelihood.network.weight.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0], [1.0, 1.1], [0.2, 0.2]]))
        pair.likelihood.network.bias.zero_()
    for parameter in pair.likelihood.parameters():
        parameter.requires_grad_(False)
    return pair


def exactly_maximised(pair, x):
    """The linear pair at the best ELBO of its family: of a quadratic the mean over these points is that over q."""
    points = 2**0.5 * torch.cat([torch.eye(2), -torch.eye(2)]).double()[:, None]
    optimizer = torch.optim.LBFGS(
        pair.posterior.parameters(), max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss():
        q = pair.posterior(x)
        factor = q.scale_tril if hasattr(q, "scale_tril") else torch.diag_embed(q.stddev)
        z = q.mean + (factor @ points[..., None]).squeeze(-1)
        bound = (pair.likelihood(z).log_prob(x) + pair.prior().log_prob(z) - q.log_prob(z)).mean()
        optimizer.zero_grad()
        (-bound).backward()
        return -bound

    optimizer.step(loss)
    return pair


def maximised(pair, x, steps, rate=0.02, draws=None):
    """The pair with its posterior trained alone, by the ELBO at common draws or at new ones."""
    optimizer = torch.optim.Adam(pair.posterior.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        q = pair.posterior(x)
        z = q.rsample((draws or 4,))
        bound = (pair.likelihood(z).log_prob(x) + pair.prior().log_prob(z) - q.log_prob(z)).mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        schedule.step()
    return pair


@pytest.mark.slow
def test_the_full_family_closes_a_linear_pairs_gap_and_the_diagonals_is_its_closed_form():
    x = linear_pair("full").sample(200, seed=0)
    weight = linear_pair("full").likelihood.network.weight.double()
    scale = float(linear_pair("full").likelihood.family.scale)
    precision = torch.eye(2, **WIDE) + weight.T @ weight / scale**2
    # KL of the best diagonal Normal, of variances 1 / precision_jj: half the log of Hadamard's ratio
    expected = 0.5 * float(precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    assert expected > 0.3
    for posterior, gap, tolerance in (("full", 0.0, 1e-3), ("diagonal", expected, 1e-3)):
        torch.manual_seed(0)
        pair = exactly_maximised(linear_pair(posterior), x)
        bound = pyrovae.elbo(pair, x, num_particles=4000)
        difference = (pyrovae.exact(pair, x) - bound).mean
        assert abs(difference - gap) < tolerance + 4 * bound.se, (posterior, difference)


class Banana(nn.Module):
    """z -> (z2 - z1^2, z1 / 4): with small noise the posterior is a banana."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, z):
        return self.weight * torch.stack([z[..., 1] - z[..., 0] ** 2, z[..., 0] / 4], -1)


def banana(posterior, **options):
    likelihood = pyrovae.Likelihood(Banana(), pyrovae.Normal(scale=0.3), (2,))
    trunk = nn.Sequential(nn.Linear(2, 32), nn.SiLU())
    return pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, posterior(trunk, 32, 2, **options))


@pytest.mark.slow
def test_a_flow_closes_nine_tenths_of_the_diagonals_gap_on_a_banana():
    x = banana(pyrovae.DiagonalNormal).sample(300, seed=0)
    gap = {}
    for kind, options in ((pyrovae.DiagonalNormal, {}), (pyrovae.FlowPosterior, {"num_transforms": 1})):
        torch.manual_seed(0)
        pair = maximised(banana(kind, **options), x, 1000, rate=1e-2, draws=4)
        truth = pyrovae.quadrature(pair, x[:40])
        gap[kind] = (truth - pyrovae.elbo(pair, x[:40], num_particles=1000)).mean
    assert gap[pyrovae.DiagonalNormal] > 0.3
    assert gap[pyrovae.FlowPosterior] < 0.1 * gap[pyrovae.DiagonalNormal], gap


# zuko -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # zuko takes seconds to import
def test_a_flow_of_zuko_is_taken_as_it_is():
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    flow = zuko.flows.NSF(2, 8, transforms=1, hidden_features=(8,))
    prior = zuko.flows.MAF(2, transforms=1, hidden_features=(8,))
    pair = pyrovae.mlp_vae((5,), 2, hidden_dims=(8,), likelihood="normal", posterior=flow, prior=prior)
    x, z = torch.randn(6, 5), torch.randn(3, 6, 2)
    assert torch.allclose(pair.posterior(x).log_prob(z), flow(pair.posterior.network(x)).log_prob(z), atol=1e-4)
    assert torch.allclose(pair.prior().log_prob(z), prior().log_prob(z), atol=1e-4)
    assert pair.encode(x).shape == (6, 2)
    assert math.isfinite(pyrovae.iwae(pair, x, num_particles=10).mean)
    pyrovae.fit(pair, x, epochs=1, compile=False, progress=False)
    with pytest.raises(TypeError, match="must be one of zuko"):
        pyrovae.ZukoFlow(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="takes no context"):
        pyrovae.ZukoFlow(flow)


def test_what_a_posterior_is_made_of_is_checked():
    for kind in (pyrovae.FullNormal, pyrovae.FlowPosterior):
        with pytest.raises(ValueError, match="latent_dim"):
            kind(nn.Identity(), 3, 0)
    for wrong in ({"num_transforms": 0}, {"num_bins": 1}, {"context_dim": 0}, {"hidden_dim": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pyrovae.FlowPosterior(nn.Identity(), 3, 2, **wrong)


def test_a_pair_that_was_used_can_be_copied():
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((5,), 2, hidden_dims=(8,), likelihood="normal", posterior="flow", prior="flow")
    pyrovae.fit(pair, torch.randn(20, 5), epochs=1, compile=False, progress=False)
    x = torch.randn(4, 5)
    pair.posterior(x).rsample()
    assert torch.equal(copy.deepcopy(pair).encode(x), pair.encode(x))


def test_a_spline_has_a_finite_gradient_everywhere():
    raw = (5 * torch.randn(2, 11, generator=torch.Generator().manual_seed(0))).requires_grad_()
    z = torch.tensor([[-1e30, -4.0], [4.0, 1e30], [0.0, -3.9999]], requires_grad=True)
    for transform in (MonotoneSpline(raw), MonotoneSpline(raw).inv):
        value = transform(z)
        total = value.clamp(-10, 10).sum() + transform.log_abs_det_jacobian(z, value).sum()
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, [raw, z]))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_the_inverse_of_a_spline_loses_no_figures_at_extreme_slopes(dtype, most):
    """Held to bisection in float64, where the slope is small by what the spline makes of the inverse.

    Slopes reach from 1e-3 to 2,000. With the one form of the root for both signs of b the errors were 5e-10 and 6e-3.
    """
    generator = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None]
    raw = (size * torch.randn(4, 25, 11, generator=generator)).reshape(-1, 11).double()
    y = (8 * torch.rand(80, 100, generator=generator) - 4).double()
    spline = MonotoneSpline(raw, cache_size=0)
    low, high = torch.full_like(y, -4.0), torch.full_like(y, 4.0)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = spline(middle) < y
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    found = MonotoneSpline(raw.to(dtype), cache_size=0).inv(y.to(dtype)).double()
    error = torch.minimum((found - low).abs(), (spline(found) - y).abs())
    assert error.max() < most


def test_the_support_is_all_codes():
    q = pyrovae.FlowPosterior(nn.Identity(), 3, 2)(torch.zeros(4, 3))
    assert isinstance(q.support, constraints.independent) or q.support is constraints.real_vector
    assert isinstance(pyrovae.FullNormal(nn.Identity(), 3, 2)(torch.zeros(4, 3)), MultivariateNormal)
    assert np.isfinite(float(q.log_prob(torch.full((4, 2), 30.0)).sum().detach()))
