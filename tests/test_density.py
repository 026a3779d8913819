"""`as_density`: an autoencoder with a prior and a likelihood is the density it says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae
from pyrovae.models.density import GaussianPrior


def linear_ae():
    """An autoencoder whose decoder is linear: x = W z + mu."""
    torch.manual_seed(0)
    ae = pyrovae.mlp_ae((6,), latent_dim=2, likelihood=pyrovae.Normal(scale=0.5)).double()
    ae.likelihood.network = nn.Linear(2, 6).double()
    return ae


def prior():
    return GaussianPrior(torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double())


@pytest.mark.parametrize("scale", [None, 0.9])
def test_its_evidence_is_that_of_the_linear_model(scale):
    ae = linear_ae()
    density = pyrovae.as_density(ae, prior(), scale=scale)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double()
    w, mu = ae.likelihood.network.weight.detach(), ae.likelihood.network.bias.detach()
    noise = (scale or 0.5) ** 2 * torch.eye(6).double()
    p = prior()()
    truth = MultivariateNormal(w @ p.mean + mu, w @ p.covariance_matrix @ w.T + noise).log_prob(x).numpy()
    assert np.allclose(pyrovae.exact(density, x).pointwise.value.values, truth, atol=1e-10)
    assert np.allclose(pyrovae.quadrature(density, x, tol=1e-9).pointwise.value.values, truth, atol=1e-8)


def test_the_guide_is_a_normal_at_the_code_with_the_curvatures_scale():
    ae = linear_ae()
    density = pyrovae.as_density(ae, prior())
    x = torch.randn(4, 6).double()
    q = density.posterior(x)
    assert torch.equal(q.mean, ae.encode(x))
    w = ae.likelihood.network.weight.detach()
    # of a linear decoder: the best diagonal Normal, whose precisions are the posterior's own diagonal
    precision = w.T @ w / 0.25 + torch.linalg.inv(torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double())
    assert torch.allclose(q.stddev, precision.diagonal().rsqrt().expand(4, 2), atol=1e-12)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "normal"])
def test_the_scale_is_each_items_own_where_the_decoder_bends(likelihood):
    # Fisher's information of the item's entries about the code, by central differences of the log-density's mean
    torch.manual_seed(0)
    ae = pyrovae.mlp_ae((5,), latent_dim=2, likelihood=likelihood, hidden_dims=(8,)).double()
    codes = torch.randn(50, 2).double()
    density = pyrovae.as_density(ae, GaussianPrior.fit(codes))
    x = torch.rand(3, 5).double().round()
    q = density.posterior(x)
    assert not torch.allclose(q.stddev[0], q.stddev[1])
    z, step = ae.encode(x).detach(), 1e-5
    p = ae.likelihood(z)
    for j in range(2):
        up, down = z.clone(), z.clone()
        up[:, j] += step
        down[:, j] -= step
        slope = (ae.decode(up) - ae.decode(down)) / (2 * step)
        own = torch.linalg.inv(torch.cov(codes.T, correction=0))[j, j]
        precision = (slope**2 / p.variance).sum(-1) + own
        assert torch.allclose(q.stddev[:, j], precision.rsqrt(), rtol=1e-5)


def test_it_is_a_copy_and_a_whole_pair():
    ae = linear_ae()
    density = pyrovae.as_density(ae, prior())
    x = torch.randn(3, 6).double()
    before = pyrovae.exact(density, x).mean
    with torch.no_grad():
        ae.likelihood.network.weight.add_(1.0)
    assert pyrovae.exact(density, x).mean == before
    assert not ae.is_normalized
    assert density.is_normalized
    names = [name for name, _ in density.named_parameters()]
    assert len(names) == len(set(names))
    single = density.float()
    assert single.posterior(x.float()).mean.dtype == torch.float32
    assert density.sample(4, seed=0).shape == (4, 6)


def test_the_prior_of_codes_is_their_maximum_of_the_likelihood():
    codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.0, 2.0, 3.0])
    fitted = GaussianPrior.fit(codes)()
    assert torch.allclose(fitted.mean, codes.mean(0))
    assert torch.allclose(fitted.covariance_matrix, torch.cov(codes.T, correction=0))
    best = float(fitted.log_prob(codes).mean())
    other = MultivariateNormal(codes.mean(0), torch.cov(codes.T))
    assert best > float(other.log_prob(codes).mean())


def test_what_is_refused():
    ae = linear_ae()
    with pytest.raises(TypeError, match="ae must be an AE, such as mlp_ae or conv_ae build, got VAE"):
        pyrovae.as_density(pyrovae.mlp_vae((6,)), prior())
    with pytest.raises(ValueError, match="prior must be a module over codes of 2 dimensions"):
        pyrovae.as_density(ae, GaussianPrior(torch.zeros(3), torch.eye(3)))
    with pytest.raises(ValueError, match="scale must be a finite number greater than 0"):
        pyrovae.as_density(ae, prior(), scale=-1.0)
    with pytest.raises(ValueError, match="scale is of a normal likelihood, and this one is bernoulli"):
        pyrovae.as_density(pyrovae.mlp_ae((6,), likelihood="bernoulli").double(), prior(), scale=1.0)
    with pytest.raises(ValueError, match="covariance must be positive definite"):
        GaussianPrior(torch.zeros(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="more codes than dimensions"):
        GaussianPrior.fit(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"elbo needs a p\(x\).*as_density"):
        pyrovae.elbo(ae, torch.zeros(1, 6))
    assert math.isfinite(pyrovae.elbo(pyrovae.as_density(ae, prior()), torch.zeros(1, 6)).mean)

    class Scalar(nn.Module):
        latent_dim = 2

        def forward(self):
            return torch.distributions.Normal(torch.zeros(2), 1.0)

    with pytest.raises(ValueError, match=r"event shape \(2,\) and no batch shape, got \(\) and \(2,\); .to_event"):
        pyrovae.as_density(ae, Scalar())
    with pytest.raises(ValueError, match="loc must be finite: 1 NaN"):
        GaussianPrior([math.nan, 0.0], torch.eye(2))
    with pytest.raises(ValueError, match="codes must be finite: 2 NaN"):
        GaussianPrior.fit([[math.nan, math.inf], [0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="covariance must be symmetric"):
        GaussianPrior([0.0, 0.0], [[1.0, 0.9], [0.0, 1.0]])


def test_codes_of_any_kind_give_the_same_prior():
    codes = [[0, 1], [3, 5], [4, 4], [7, 8]]
    expected = GaussianPrior.fit(torch.tensor(codes, dtype=torch.float32))().mean
    for given in (
        codes,
        np.array(codes),
        torch.tensor(codes),
        torch.tensor(codes, dtype=torch.float32).requires_grad_(),
    ):
        fitted = GaussianPrior.fit(given)
        assert torch.equal(fitted().mean, expected)
        assert not fitted.loc.requires_grad
    assert float(expected[0]) == 3.5
    graph = torch.ones(2, requires_grad=True) * 2
    ae = pyrovae.mlp_ae((6,), latent_dim=2)
    pyrovae.as_density(ae, GaussianPrior(graph, torch.eye(2)))


class TestMixturePrior:
    def parts(self, num_components):
        digits = pyrovae.data.load("digits")
        torch.manual_seed(0)
        ae = pyrovae.mlp_ae((1, 8, 8), 2, hidden_dims=(32,)).double()
        pyrovae.fit(ae, digits.train.x, epochs=20, learning_rate=5e-3, progress=False)
        codes = ae.encode(digits.train.x.double()).detach()
        mixture = pyrovae.GaussianMixture((2,), num_components).double()
        pyrovae.fit(mixture, codes, num_restarts=2, progress=False)
        return ae, codes, mixture, digits.test.x[:10].double()

    def test_one_component_is_the_gaussian_prior(self):
        ae, codes, mixture, x = self.parts(1)
        ours = pyrovae.as_density(ae, mixture, scale=0.3)
        theirs = pyrovae.as_density(ae, pyrovae.GaussianPrior.fit(codes), scale=0.3)
        a, b = (pyrovae.quadrature(one, x, tol=1e-6).pointwise.value for one in (ours, theirs))
        assert np.abs(a - b).max() < 1e-5
        assert torch.allclose(ours.prior().variance, theirs.prior().variance)

    @pytest.mark.slow
    def test_several_components_against_annealing_and_a_better_fit(self):
        ae, codes, mixture, x = self.parts(6)
        ours = pyrovae.as_density(ae, mixture, scale=0.3)
        truth = pyrovae.quadrature(ours, x, tol=1e-5)
        found = pyrovae.ais(ours, x, num_steps=300, progress=False)
        assert abs((truth - found).mean) < 4 * found.se + 0.02
        lower, upper = pyrovae.bdmc(ours, 10, num_steps=100, progress=False)
        assert abs((upper - lower).mean) < 0.3
        one = pyrovae.GaussianPrior.fit(codes)
        assert mixture.log_prob(codes).mean() > one().log_prob(codes).mean() + 0.02
        drawn = ours.prior().sample((20_000,))
        assert torch.allclose(drawn.var(0), ours.prior().variance.detach(), rtol=0.05)
        assert ours.prior().expand([3, 4]).sample().shape == (3, 4, 2)
        with pytest.raises(ValueError, match="GaussianMixture of 3 dimensions"):
            pyrovae.as_density(ae, pyrovae.GaussianMixture((3,), 2))


class LogNormal(nn.Module):
    """Positive entries; a transformed distribution of torch's, which states neither mean nor variance."""

    support, base_measure = torch.distributions.constraints.positive, "density"

    def forward(self, loc):
        normal = torch.distributions.Normal(loc, 1.0)
        return torch.distributions.TransformedDistribution(normal, [torch.distributions.ExpTransform()])


def test_a_likelihood_without_a_variance_is_refused_by_name():
    ae = pyrovae.mlp_ae((6,), latent_dim=2, likelihood=LogNormal())
    words = "likelihood must have a mean and a variance, for the guide's scale; that of LogNormal has no closed form"
    with pytest.raises(ValueError, match=words):
        pyrovae.as_density(ae, GaussianPrior(torch.zeros(2), torch.eye(2)))
    assert ae.reconstruct(torch.ones(3, 6)).shape == (3, 6)  # which needs neither
