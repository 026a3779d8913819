"""Distributions of torch and Pyro as likelihoods: their parameters, supports, states, and those that are refused."""

from __future__ import annotations

import copy
import functools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td

import pyrovae
from pyrovae import FromDistribution
from pyrovae.models.registry import make, name_of

RAW = torch.tensor([-1.3, 0.4, 0.9], dtype=torch.float64)


def positive(raw):
    return torch.exp(10 * torch.tanh(raw / 10))


# what the network gives, and the distribution that it is
CASES = {
    "Gumbel": (FromDistribution("Gumbel"), lambda a, b: td.Gumbel(a, positive(b))),
    "Weibull": (FromDistribution(td.Weibull), lambda a, b: td.Weibull(positive(a), positive(b))),
    "StudentT": (FromDistribution(td.StudentT, df=4.0), lambda a, b: td.StudentT(4.0, a, positive(b))),
    "Gamma": (FromDistribution(dist.Gamma), lambda a, b: td.Gamma(positive(a), positive(b))),
    "object": (FromDistribution(td.Laplace(0.0, 0.3)), lambda a: td.Laplace(a, 0.3)),
    "partial": (FromDistribution(functools.partial(td.StudentT, 4.0)), lambda a, b: td.StudentT(4.0, a, positive(b))),
    "Bernoulli": (FromDistribution(td.Bernoulli), lambda a: td.Bernoulli(logits=15 * torch.tanh(a / 15))),
    "Binomial": (
        FromDistribution(td.Binomial, total_count=9),
        lambda a: td.Binomial(9, logits=15 * torch.tanh(a / 15)),
    ),
    "Logistic, of Pyro": (FromDistribution(dist.Logistic), lambda a, b: dist.Logistic(a, positive(b))),
    "Pareto, scale fixed": (FromDistribution(td.Pareto, scale=2.0), lambda a: td.Pareto(2.0, positive(a))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_the_distributions_at_what_the_network_gives(name):
    family, expected = CASES[name]
    outputs = [RAW + 0.2 * n for n in range(family.num_parameters)]
    p, q = family(*outputs), expected(*outputs)
    x = q.sample((50,)) + (0 if p.support.is_discrete else 1e-3)
    assert p.batch_shape == (3,) and torch.allclose(p.log_prob(x), q.log_prob(x), rtol=1e-10, atol=1e-10)
    other = family(*[one + 0.01 for one in outputs])
    assert not torch.allclose(other.log_prob(x), q.log_prob(x), rtol=1e-6, atol=1e-6)  # control


@pytest.mark.parametrize("name", CASES)
def test_a_builder_takes_it_and_its_state_comes_back(name, tmp_path):
    family, _ = CASES[name]
    vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=family)
    assert name_of(make("likelihood", name_of(family))) == name_of(family)
    again = pyrovae.models.registry.build(vae.recipe)
    again.load_state_dict(vae.state_dict())
    z, x = torch.randn(2, 2), vae.sample(2, seed=0)
    assert torch.equal(again.likelihood(z).log_prob(x), vae.likelihood(z).log_prob(x))
    assert bool(vae.likelihood.support.check(x).all())
    if name == "object":
        assert repr(pyrovae.load(pyrovae.save(tmp_path / "state", vae)).likelihood.family) == repr(family)


def test_builders_take_a_class_an_object_or_a_partial():
    for given, shown in {
        td.Gumbel: "from_distribution(distribution='Gumbel')",
        dist.StudentT(4.0, 0.0, 0.3): "from_distribution(distribution='StudentT', df=4.0, scale=0.3)",
        functools.partial(td.Gamma, concentration=2.0): ("from_distribution(distribution='Gamma', concentration=2.0)"),
    }.items():
        vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=given)
        assert name_of(vae.likelihood.family) == shown
        assert vae.recipe["likelihood"]["name"] == "from_distribution"
        text = pyrovae.linear_vae(3, 2, likelihood=shown)
        assert name_of(text.likelihood.family) == shown
    assert pyrovae.conv_vae((1, 4, 4), channels=(4,), strides=(2,), likelihood=td.Cauchy).event_shape == (1, 4, 4)
    assert pyrovae.mlp_ae((3,), hidden_dims=(4,), likelihood=td.Laplace).recipe is not None


REFUSED = [
    ("Uniform", {}, ValueError, "Uniform makes no likelihood: its support depends on its parameters"),
    ("VonMises", {}, ValueError, "VonMises makes no likelihood: its density is one on a circle"),
    ("ContinuousBernoulli", {}, ValueError, "take likelihood='continuous_bernoulli'"),
    ("Pareto", {}, ValueError, r"support that depends on what the network gives \(scale, alpha\): fix the parameters"),
    ("Categorical", {}, ValueError, "logits is no number, .*; for classes take likelihood='categorical'"),
    ("MultivariateNormal", {}, ValueError, "MultivariateNormal: loc is no number"),
    (
        "Binomial",
        {},
        ValueError,
        r"total_count is a whole number, .* FromDistribution\('Binomial', total_count=value\)",
    ),
    ("RelaxedBernoulli", {}, ValueError, "RelaxedBernoulli does not say what temperature may be: fix it"),
    ("Normal", {"loc": 0.0, "scale": 1.0}, ValueError, "all of its parameters are fixed"),
    ("StudentT", {"dof": 4.0}, ValueError, "StudentT has no parameter 'dof': it has df, loc, scale"),
    ("StudentT", {"df": -1.0}, ValueError, r"StudentT: df must be a number in GreaterThan.*, got -1.0"),
    ("StudentT", {"df": math.nan}, ValueError, "StudentT: df must be a number"),
    ("StudentT", {"df": torch.ones(3)}, TypeError, r"StudentT: df must be a number, got shape \(3,\)"),
    ("Normla", {}, ValueError, "got 'Normla'; did you mean 'Normal'"),
    (td.Normal(1.0, 0.5), {}, ValueError, "loc of the Normal must be 0, since the network gives the location, got 1.0"),
    (td.Laplace(torch.zeros(3), 1.0), {}, ValueError, r"must be one number for all entries, got shape \(3,\)"),
    (td.Poisson(4.0), {}, ValueError, "an object of Poisson has no loc for the network to give: .* gives rate"),
    (dist.Normal(torch.zeros(2), 1.0).to_event(1), {}, ValueError, "give the distribution of one entry"),
    (lambda loc: td.Normal(loc, 1.0), {}, TypeError, "a function of your own is a family: register a module"),
]


@pytest.mark.parametrize(("given", "fixed", "kind", "words"), REFUSED)
def test_what_makes_no_likelihood_is_refused_by_name(given, fixed, kind, words):
    with pytest.raises(kind, match=words):
        FromDistribution(given, **fixed)


def test_an_end_at_which_a_density_need_not_be_finite_is_outside():
    assert not FromDistribution("Gamma").support.check(torch.tensor(0.0))
    assert FromDistribution("Exponential").support.check(torch.tensor(0.0))
    beta = FromDistribution("Beta").support
    assert beta.check(torch.tensor([0.0, 0.5, 1.0])).tolist() == [False, True, False]
    vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=td.Beta)
    with pytest.raises(ValueError, match=r"outside the support of the .* likelihood, OpenInterval\(0.0, 1.0\)"):
        pyrovae.elbo(vae, torch.tensor([[0.0, 0.5, 0.7]]))


def test_a_class_of_ones_own_is_taken_and_its_state_needs_a_pair_by_hand(tmp_path):
    class Own(td.Laplace):
        pass

    vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=Own)
    assert vae.recipe is None
    folder = pyrovae.save(tmp_path / "state", vae)
    with pytest.raises(pyrovae.CheckpointError):
        pyrovae.load(folder)
    like = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=Own)
    assert torch.equal(pyrovae.load(folder, like=like).decode(torch.zeros(1, 2)), vae.decode(torch.zeros(1, 2)))


def test_decode_refuses_a_distribution_without_a_mean():
    for given, name in ((td.Cauchy, "Cauchy"), (td.HalfCauchy, "HalfCauchy")):
        with pytest.raises(ValueError, match=f"^{name} has no mean with these parameters"):
            pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=given).decode(torch.zeros(1, 2))


@pytest.mark.parametrize(
    "name", ["Normal", "Laplace", "StudentT", "LogNormal", "Gamma", "Beta", "Cauchy", "Poisson", "NegativeBinomial"]
)
def test_no_output_of_the_network_makes_a_gradient_infinite(name):
    family = FromDistribution(name)
    ends = torch.tensor([-1e3, 0.0, 1e3])
    grid = torch.meshgrid(*[ends] * family.num_parameters, indexing="ij")
    raw = [one.reshape(-1, 1).clone().requires_grad_() for one in grid]
    for x in (1e-3, 0.5, 1.0, 40.0):
        at = torch.tensor(x)
        if bool(family.support.check(at)):
            value = family(*raw).log_prob(at)
            gradients = torch.autograd.grad(value.sum(), raw)
            assert value.isfinite().all() and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("distribution", ["Gumbel", "Bernoulli", "StudentT"])
def test_a_copy_is_the_same_density(distribution):
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((3,), 2, hidden_dims=(6,), likelihood=f"from_distribution(distribution={distribution!r})")
    x = pair.sample(5, seed=0)
    z = 3 * torch.randn(5, 2)
    wanted = pair.likelihood(z).log_prob(x)
    for other in (copy.deepcopy(pair), pair.frozen()):
        assert torch.equal(other.likelihood(z).log_prob(x), wanted)
        assert other.likelihood.support is pair.likelihood.support
