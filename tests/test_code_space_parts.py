"""Statistics of the code space for priors and posteriors of any kind, held against closed forms and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import torch
from pyro.distributions import transforms
from torch import nn

import pyrovae
from pyrovae.data import Split
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.rate import rate_identity, rate_of_posteriors
from pyrovae.evaluation.code_space.sampling import sampling_laws
from pyrovae.models.means import divergence_of, is_diagonal_normal, is_standard_normal

LOC = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STANDARD = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)


def normal(loc, scale):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), scale).to_event(1)


def two_clusters(latent_dim=2, share=0.3):
    loc = torch.tensor([[-3.0], [3.0]], dtype=torch.float64).expand(2, latent_dim)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([share, 1 - share])), dist.Normal(loc, 0.5).to_event(1))


# --- the divergence ---------------------------------------------------------------------------------


def test_the_divergence_of_normals_of_any_covariance_is_its_closed_form():
    root = torch.tensor([[0.8, 0.0], [0.5, 0.3]], dtype=torch.float64)
    q = dist.MultivariateNormal(LOC, scale_tril=root)
    value, se = divergence_of(q, normal([1.0, -1.0], 2.0))
    shifted = (LOC - torch.tensor([1.0, -1.0])) / 2
    trace, log_det = (root**2).sum() / 4, 2 * torch.log(torch.tensor(0.8 * 0.3)) - 2 * math.log(4.0)
    assert torch.allclose(value, 0.5 * (trace + shifted.square().sum(-1) - 2 - log_det))
    assert value.shape == (7,) and not se.any()
    # control: under N(0, I) it is another number
    assert (divergence_of(q, STANDARD)[0] - value).abs().max() > 0.5


@pytest.mark.parametrize("p", [two_clusters(1), dist.Laplace(torch.zeros(1, dtype=torch.float64), 2.0).to_event(1)])
def test_a_divergence_by_draws_is_that_of_quadrature(p):
    q = dist.StudentT(6.0, torch.tensor([[-0.5], [1.0]], dtype=torch.float64), 0.7).to_event(1)

    def term(z, item):
        z = torch.tensor([z], dtype=torch.float64)
        log_q = q.log_prob(z)[item]
        return float(log_q.exp() * (log_q - p.log_prob(z)))

    exact = [scipy.integrate.quad(term, -60, 60, args=(item,), limit=400)[0] for item in (0, 1)]
    value, se = divergence_of(q, p, num_draws=40_000)
    assert np.abs(value.numpy() - exact).max() < 4 * float(se.max())
    assert float(se.max()) < 0.05


def test_a_flows_divergence_is_its_closed_form_whatever_it_can_invert():
    # affine in a normal: a Normal, of which torch knows no divergence in this dress
    q = dist.TransformedDistribution(normal(LOC, 0.5), [transforms.AffineTransform(1.0, 0.6)])
    closed, _ = divergence_of(normal(1 + 0.6 * LOC, 0.3), normal([0.0, 0.0], 2.0))
    value, se = divergence_of(q, normal([0.0, 0.0], 2.0), num_draws=5000)
    assert ((value - closed).abs() < 4 * se).all() and (se > 0).all() and (se < 0.05).all()
    torch.manual_seed(0)
    planar = dist.TransformedDistribution(normal(LOC, 0.5), [transforms.Planar(2).double()])
    assert divergence_of(planar, STANDARD)[0].isfinite().all()


def test_draws_are_of_one_seed_and_leave_the_callers_generator_alone():
    q = dist.Laplace(LOC, 1.0).to_event(1)
    before = torch.get_rng_state()
    first, again, other = (divergence_of(q, two_clusters(), seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="q is a point, and its divergence from a density is infinite"):
        divergence_of(dist.Delta(LOC, event_dim=1), STANDARD)


def test_kinds_of_normals_are_told_apart():
    full = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert is_standard_normal(STANDARD) and is_standard_normal(full)
    assert not any(map(is_standard_normal, (normal([0.0, 0.1], 1.0), normal([0.0, 0.0], 2.0), two_clusters())))
    assert is_diagonal_normal(STANDARD) and not is_diagonal_normal(full) and not is_diagonal_normal(two_clusters())
    elementwise = dist.TransformedDistribution(dist.Normal(LOC, 1.0), [transforms.ExpTransform()]).to_event(1)
    assert not is_diagonal_normal(elementwise)


# --- the rate and its two parts ---------------------------------------------------------------------


def test_the_two_parts_by_densities_are_those_by_means_and_scales():
    rng = np.random.default_rng(0)
    loc, scale = rng.standard_normal((300, 3)), rng.uniform(0.2, 1.0, (300, 3))
    z = loc + scale * rng.standard_normal((300, 3))
    drawn = [
        (normal(loc[part], torch.from_numpy(scale[part])), torch.from_numpy(z[part]))
        for part in (slice(0, 128), slice(128, 300))
    ]
    expected = rate_identity(loc, scale, z)
    found = rate_of_posteriors(drawn, normal(np.zeros(3), 1.0))
    assert set(found) == set(expected)
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-9)
    doubled = rate_of_posteriors(drawn, normal(np.zeros(3), 2.0))
    closed = np.mean((0.125 * (loc**2 + scale**2) - 0.5 - np.log(scale / 2)).sum(1))
    assert float(doubled.rate) == pytest.approx(closed)
    assert float(doubled.mutual_information) == pytest.approx(float(expected.mutual_information))
    assert abs(float(doubled.rate) - float(expected.rate)) > 0.3  # control: the prior is the pair's own


def test_a_channel_with_a_full_covariance_and_a_wide_prior_has_its_closed_forms():
    # z = a x + e with x ~ N(0, I), e ~ N(0, S): I = log det(A A' + S) / det S / 2, q(z) = N(0, A A' + S), p = N(0, 4 I)
    generator = torch.Generator().manual_seed(1)
    a = torch.tensor([[0.9, 0.2], [0.0, 0.4]], dtype=torch.float64)
    root = torch.tensor([[0.3, 0.0], [0.2, 0.4]], dtype=torch.float64)
    loc = torch.randn(4000, 2, dtype=torch.float64, generator=generator) @ a.T
    z = loc + torch.randn(4000, 2, dtype=torch.float64, generator=generator) @ root.T
    q = dist.MultivariateNormal(loc, scale_tril=root)
    found = rate_of_posteriors([(q, z)], normal([0.0, 0.0], 2.0))
    covariance = a @ a.T + root @ root.T
    information = 0.5 * float(torch.logdet(covariance) - torch.logdet(root @ root.T))
    kl = 0.5 * float(covariance.trace() / 4 - 2 - torch.logdet(covariance) + 2 * math.log(4))
    # five standard errors, over the 4,000 items too: fails one time in 10^6
    assert float(found.mutual_information) == pytest.approx(information, abs=5 * float(found.mutual_information_se))
    error = math.hypot(float(found.kl_aggregate_se), float(found.rate_se))
    assert float(found.kl_aggregate) == pytest.approx(kl, abs=5 * error)
    assert error < 0.1 * kl and "rate_monte_carlo_se" not in found


def test_a_flow_without_an_inverse_has_a_rate_and_no_plausible_parts():
    torch.manual_seed(0)
    q = dist.TransformedDistribution(normal(LOC, 0.5), [transforms.Planar(2).double()])
    found = rate_of_posteriors([(q, q.sample())], STANDARD)
    assert set(found) == {"rate", "rate_se", "rate_monte_carlo_se"}
    assert 0 < float(found.rate_monte_carlo_se) < 0.1 * float(found.rate)


# --- codes against a prior --------------------------------------------------------------------------


def test_the_distance_by_draws_is_the_closed_form_where_there_is_one():
    codes = np.random.default_rng(0).standard_normal((600, 2)) + np.array([0.5, 0.0])
    options = {"train_codes": codes, "num_null": 100, "num_projections": 32}
    closed, drawn = aggregate(codes, **options), aggregate(codes, prior=STANDARD, **options)
    for name, within in (("sliced_w2", 0.02), ("energy_distance", 0.02), ("ks_max", 0.01), ("sliced_w2_excess", 0.02)):
        assert float(drawn[name][0]) == pytest.approx(float(closed[name][0]), abs=within), name
        assert float(drawn[name][1]) == float(closed[name][1])  # whitened codes are held against N(0, I) by both
    assert np.allclose(drawn.sliced_w2_null, closed.sliced_w2_null, atol=0.02)


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_codes_of_the_prior_are_no_departure_from_it_and_those_of_another_are(latent_dim):
    torch.manual_seed(2)
    prior = two_clusters(latent_dim)
    codes, options = prior.sample((800,)), {"num_null": 200, "num_projections": 16}
    own = aggregate(codes[:400], train_codes=codes[400:], prior=prior, **options)
    # four p-values below 1 % fail one time in 25 at another seed
    assert float(own.sliced_w2_p_value[0]) > 0.01 and float(own.ks_max_p_value[0]) > 0.01
    assert abs(float(own.energy_distance[0])) < 0.1
    other = aggregate(codes[:400], train_codes=codes[400:], prior=two_clusters(latent_dim, share=0.5), **options)
    assert float(other.sliced_w2_p_value[0]) < 0.01 and float(other.ks_max_p_value[0]) < 0.01
    # control: held against N(0, I), as if that were the prior, they look far off
    assert float(aggregate(codes[:400], train_codes=codes[400:], **options).sliced_w2_p_value[0]) < 0.01


def test_codes_to_decode_come_from_the_prior_given():
    train = np.random.default_rng(0).standard_normal((50, 2))
    prior = normal([5.0, -5.0], 2.0)
    codes = sampling_laws(train, prior=prior, num=4000)["prior"]
    # five standard errors
    assert (codes.mean(0) - torch.tensor([5.0, -5.0])).abs().max() < 5 * 2 / math.sqrt(4000)
    assert (codes.std(0) - 2).abs().max() < 5 * 2 / math.sqrt(8000)
    assert torch.equal(codes, sampling_laws(train, prior=prior, num=4000)["prior"])
    assert abs(float(sampling_laws(train, num=4000)["prior"].std()) - 1) < 0.05


# --- a pair of such parts ---------------------------------------------------------------------------


class Prior(nn.Module):
    def __init__(self, p, latent_dim):
        super().__init__()
        self.p, self.latent_dim = p, latent_dim

    def forward(self):
        return self.p


class Encoder(nn.Module):
    """q(z | x): a full covariance, or a normal and a transform of it."""

    def __init__(self, latent_dim, kind):
        super().__init__()
        self.loc, self.kind = nn.Sequential(nn.Flatten(), nn.Linear(64, latent_dim)), kind
        self.root = nn.Parameter(0.4 * torch.eye(latent_dim) + 0.2 * torch.ones(latent_dim, latent_dim).tril(-1))
        if kind == "planar":
            self.transform = transforms.Planar(latent_dim)
        if kind == "autoregressive":
            self.transform = transforms.affine_autoregressive(latent_dim, hidden_dims=[8])

    def forward(self, x):
        loc = self.loc(x)
        if self.kind == "full":
            return dist.MultivariateNormal(loc, scale_tril=self.root)
        base = dist.Normal(loc, 0.5).to_event(1)
        return base if self.kind == "diagonal" else dist.TransformedDistribution(base, [self.transform])


def pair_of(prior, kind, latent_dim):
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), latent_dim, hidden_dims=(16,), likelihood=pyrovae.Normal(scale=0.3))
    return pyrovae.VAE(Prior(prior, latent_dim), vae.likelihood, Encoder(latent_dim, kind))


PRIORS = {
    "standard": lambda d: dist.Normal(torch.zeros(d), 1.0).to_event(1),
    "wide": lambda d: dist.Normal(torch.zeros(d), 2.0).to_event(1),
    "mixture": lambda d: dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        dist.Normal(torch.tensor([[-1.0], [2.0]]).expand(2, d), 0.5).to_event(1),
    ),
}


@pytest.fixture(scope="module")
def judged():
    digits = pyrovae.data.load("digits")
    train = Split(digits.train.x[:300], digits.train.y[:300])
    test = Split(digits.test.x[:120], digits.test.y[:120])
    return train, test, pyrovae.Judge.fit(train.x, train.y, max_iter=2)


@pytest.mark.parametrize(
    ("prior", "kind", "latent_dim"),
    [
        ("mixture", "diagonal", 1),
        ("mixture", "full", 3),
        ("mixture", "autoregressive", 2),
        ("wide", "diagonal", 3),
        ("wide", "planar", 2),
        ("standard", "full", 2),
        ("standard", "planar", 3),
        ("standard", "diagonal", 1),
    ],
)
def test_every_statistic_is_of_the_pairs_own_parts(judged, prior, kind, latent_dim):
    train, test, judge = judged
    pair = pair_of(PRIORS[prior](latent_dim), kind, latent_dim)
    found = pyrovae.code_space(pair, train, test, judge, num_codes=50, num_pairs=5)
    # the rate of elbo comes from traces of model and guide: a second implementation
    rate = pyrovae.elbo(pair, test.x, num_particles=400).pointwise
    noise = float(np.sqrt((rate["rate_se"] ** 2).sum())) / len(test)
    error = math.hypot(noise, float(found.get("rate_monte_carlo_se", 0.0)))
    assert float(found.rate) == pytest.approx(float(rate["rate"].mean()), abs=4 * error)
    by_draws = "rate_monte_carlo_se" in found
    assert by_draws == (prior == "mixture" or kind in ("planar", "autoregressive"))
    if kind == "planar":
        assert found.attrs["left_out"].startswith("mutual_information, kl_aggregate: ")
        assert not {"mutual_information", "kl_aggregate"} & {*found}
    else:
        assert "left_out" not in found.attrs
        assert 0 < float(found.mutual_information) <= float(found.mutual_information_bound) + 1e-6
        total = float(found.mutual_information + found.kl_aggregate)
        assert total == pytest.approx(float(found.rate))
    if prior != "standard":  # control: what was said of it while every prior counted as N(0, I)
        standard = pyrovae.elbo(pair_of(PRIORS["standard"](latent_dim), kind, latent_dim), test.x, num_particles=100)
        assert abs(float(standard.pointwise["rate"].mean()) - float(found.rate)) > 10 * error
    for name in found.data_vars:
        assert np.isfinite(found[name].values).all() or name.endswith("_label"), name
    assert ("the prior" in found.sliced_w2.attrs["long_name"]) == (prior != "standard")
    assert found.sizes["latent_dim"] == latent_dim


def test_an_autoencoder_made_a_density_is_held_against_its_own_prior(judged):
    train, test, judge = judged
    torch.manual_seed(0)
    ae = pyrovae.mlp_ae((1, 8, 8), hidden_dims=(16,))
    density = pyrovae.as_density(ae, pyrovae.GaussianPrior.fit(ae.encode(train.x)), scale=0.3)
    found = pyrovae.code_space(density, train, test, judge, num_codes=50, num_pairs=5)
    with torch.no_grad():
        exact = torch.distributions.kl_divergence(density.posterior(test.x), density.prior()).mean()
    assert float(found.rate) == pytest.approx(float(exact), rel=1e-5)
    assert float(pyrovae.code_space(ae, train, test, judge, num_codes=50, num_pairs=5).law.size) == 3


def test_a_point_posterior_and_a_pair_that_does_not_decode_are_named(judged):
    train, test, judge = judged
    torch.manual_seed(0)
    ae = pyrovae.mlp_ae((1, 8, 8), hidden_dims=(16,))
    point = pyrovae.VAE(Prior(PRIORS["standard"](2), 2), ae.likelihood, ae.posterior)
    found = pyrovae.code_space(point, train, test, judge, num_codes=50, num_pairs=5)
    assert "q(z | x) is a point" in found.attrs["left_out"] and "rate" not in found
    assert "no p(x)" in pyrovae.code_space(ae, train, test, judge, num_codes=50, num_pairs=5).attrs["left_out"]

    class Bare(nn.Module):
        def encode(self, x): ...

    with pytest.raises(TypeError, match="code_space needs a pair with encode and decode, and Bare has no decode"):
        pyrovae.code_space(Bare(), train, test, judge)
