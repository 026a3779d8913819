"""Estimators and draws go by a pair's own model and guide, also where a subclass states another than its parts make."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, constraints

import pyrovae
from pyrovae.models.means import mean_of

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Shifted(pyrovae.VAE):
    """A VAE whose code is N(1, 4 I), whatever its prior is."""

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(1.0, 2.0).expand([2]).to_event(1))
            return pyro.sample("obs", self.likelihood(z), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            loc = torch.zeros(size, 2) if x is None else x[:, :2] + 10.0
            return pyro.sample("latent", dist.Normal(loc, 1.5).to_event(1))


class Laplace(pyrovae.Normal):
    def forward(self, loc):
        return dist.Laplace(loc, self.scale.to(loc))


class Bent(nn.Linear):
    def forward(self, z):
        return super().forward(z).tanh() * 3


class BentLikelihood(pyrovae.Likelihood):
    def forward(self, z):
        return dist.Normal(self.network(z).tanh() * 3, 1.0).to_event(1)


def hooked():
    linear = nn.Linear(2, 3)
    linear.register_forward_hook(lambda module, given, out: out.tanh() * 3)
    return linear


def pair(kind=pyrovae.VAE, network=nn.Linear, family=None, likelihood=pyrovae.Likelihood):
    torch.manual_seed(0)
    network = network(2, 3) if network is not hooked else hooked()
    family = family or pyrovae.Normal(scale=1.0)
    return kind(pyrovae.StandardNormal(2), likelihood(network, family, (3,)), pyrovae.LinearNormal(3, 2))


def shifted_evidence(vae, x):
    weight, bias = (value.detach().double() for value in vae.likelihood.network.parameters())
    return MultivariateNormal(bias + weight.sum(1), 4 * weight @ weight.T + torch.eye(3).double()).log_prob(x.double())


class Doubled(pyrovae.Bernoulli):
    """A natural parameter that is not the one of its distribution."""

    def natural_parameter(self, p):
        return 2 * p.logits


OTHERS = {
    "a model of its own": {"kind": Shifted},
    "a family that inherits": {"family": Laplace(scale=1.0)},
    "a layer that inherits": {"network": Bent},
    "a layer with a hook": {"network": hooked},
    "a likelihood that inherits": {"likelihood": BentLikelihood},
}


class TestEvidence:
    def test_quadrature_integrates_the_model(self):
        vae = pair(Shifted)
        values = pyrovae.quadrature(vae, X, tol=1e-6).pointwise.value.values
        assert np.abs(values - shifted_evidence(vae, X).numpy()).max() < 1e-6
        # negative control: what the parts alone would say lies elsewhere
        assert abs(pyrovae.exact(pair(), X).mean - values.mean()) > 0.01

    @pytest.mark.parametrize("name", [name for name in OTHERS if name != "a model of its own"])
    def test_quadrature_agrees_with_riemann_sums_of_the_trace(self, name):
        vae = pair(**OTHERS[name])
        axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        double = pyrovae.evaluation.session.doubled(vae).eval()
        with torch.no_grad(), pyro.get_param_store().scope():
            prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
            table = prior[:, None] + double.likelihood(z[:, None]).log_prob(X.double())
        expected = table.logsumexp(0) + 2 * math.log(float(axis[1] - axis[0]))
        values = pyrovae.quadrature(vae, X, tol=1e-6).pointwise.value.values
        # a rule of equal steps on a smooth integrand errs by less than any power of the step; a Laplace has kinks
        close = 1e-3 if name == "a family that inherits" else 1e-5
        assert np.abs(values - expected.numpy()).max() < close

    def test_a_wrong_natural_parameter_changes_no_value(self):
        bits = (X > 0).float()
        right, wrong = (pyrovae.quadrature(pair(family=family), bits) for family in (pyrovae.Bernoulli(), Doubled()))
        assert np.abs(wrong.pointwise.value.values - right.pointwise.value.values).max() < 1e-9

    @pytest.mark.parametrize("name", OTHERS)
    def test_exact_refuses_what_is_not_linear_and_normal(self, name):
        vae = pair(**OTHERS[name])
        for estimate in (pyrovae.exact, lambda pair, x: pyrovae.elbo(pair, x, analytic=True)):
            with pytest.raises(ValueError, match="states another model or guide than they make"):
                estimate(vae, X)

    def test_the_analytic_bound_refuses_another_guide_and_exact_does_not_need_one(self):
        class Wide(pyrovae.VAE):
            def guide(self, x=None, *, size=1):
                count = size if x is None else len(x)
                with pyro.plate("data", count):
                    return pyro.sample("latent", dist.Normal(torch.zeros(count, 2), 3.0).to_event(1))

        assert pyrovae.exact(pair(Wide), X).mean == pyrovae.exact(pair(), X).mean
        with pytest.raises(ValueError, match="states another model or guide"):
            pyrovae.elbo(pair(Wide), X, analytic=True)

    def test_exact_refuses_a_mixture_with_a_model_of_its_own(self):
        class Tempered(pyrovae.GaussianMixture):
            def model(self, x=None, *, size=1):
                with pyro.plate("data", size if x is None else len(x)):
                    k = pyro.sample("component", dist.Categorical(logits=2 * self.logits + 1e-3 * torch.arange(2)))
                    return pyro.sample("obs", dist.Normal(k[..., None] * torch.ones(3), 1.0).to_event(1), obs=x)

        assert math.isfinite(pyrovae.exact(pyrovae.GaussianMixture((3,), 2), X).mean)
        with pytest.raises(ValueError, match="the model of Tempered is another"):
            pyrovae.exact(Tempered((3,), 2), X)


class TestCodesAndItems:
    def test_they_come_from_the_model_and_the_guide(self):
        vae = pair(Shifted)
        assert torch.allclose(vae.encode(X), X[:, :2] + 10.0)
        z = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(vae.decode(z), vae.likelihood.network(z))
        weight, bias = (value.detach() for value in vae.likelihood.network.parameters())
        drawn = vae.sample(40_000, seed=0)
        covariance = 4 * weight @ weight.T + torch.eye(3)
        z_scores = (drawn.mean(0) - bias - weight.sum(1)) / (covariance.diagonal() / len(drawn)).sqrt()
        assert z_scores.abs().max() < 4.5  # false alarms: 3 x 7e-6
        assert (drawn.mean(0) - bias).abs().max() > 0.1  # negative control: a code of mean 0 is seen
        means = vae.sample(40_000, seed=0, mean=True)
        assert float((torch.cov(means.T) - 4 * weight @ weight.T).abs().max()) < 0.2
        assert not vae.is_made_of_parts("model") and pair().is_made_of_parts("guide")

    def test_they_list_nothing_in_the_callers_store(self):
        vae = pair(Shifted)
        pyro.clear_param_store()
        vae.encode(X), vae.decode(torch.zeros(1, 2)), vae.sample(2, seed=0)
        assert not list(pyro.get_param_store().keys())

    def test_what_goes_by_the_parts_alone_is_refused(self):
        holes = X.clone()
        holes[0, 0] = math.nan
        with pytest.raises(ValueError, match="Shifted states a model or a guide of its own"):
            pair(Shifted).impute(holes)


class Watched(pyrovae.VAE):
    """A model and a guide that do nothing beside those of the parts."""

    def model(self, x=None, *, size=1):
        return super().model(x, size=size)

    def guide(self, x=None, *, size=1):
        return super().guide(x, size=size)


def test_a_subclass_that_adds_nothing_gives_the_same_numbers():
    plain, watched = pair(), pair(Watched)
    z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1))
    holes = X.clone()
    holes[0, 0] = math.nan
    for function in (
        lambda vae: vae.sample(5, seed=1),
        lambda vae: vae.sample(5, seed=1, mean=True),
        lambda vae: vae.encode(X),
        lambda vae: vae.decode(z),
        lambda vae: vae.decode(z[:0]),
        lambda vae: vae.impute(holes, num_draws=3, num_steps=2),
        lambda vae: torch.from_numpy(pyrovae.exact(vae, X).pointwise.value.values),
    ):
        assert torch.equal(function(plain), function(watched))


@pytest.mark.parametrize(("offset", "scale"), [(1e7, 0.01), (1e7, 0.1), (1e6, 1e-3), (1.7e9, 1.0)])
def test_rounding_far_from_zero_is_no_other_model(offset, scale):
    vae = pair(family=pyrovae.Normal(scale=scale)).double()
    with torch.no_grad():
        vae.likelihood.network.bias.fill_(offset)
    x = X.double() + offset
    weight = vae.likelihood.network.weight.detach()
    law = MultivariateNormal(torch.full((3,), offset).double(), weight @ weight.T + scale**2 * torch.eye(3).double())
    assert pyrovae.exact(vae, x).mean == pytest.approx(float(law.log_prob(x).mean()), rel=1e-3)
    assert math.isfinite(pyrovae.elbo(vae, x, analytic=True).mean)


class ByHand(nn.Module):
    """Two observed sites at most, of any distributions, over one code per item."""

    event_shape, latent_dim, is_normalized = (4,), 1, True

    def __init__(self, *laws):
        super().__init__()
        self.laws, self.weight = laws, nn.Parameter(torch.ones(4))

    def model(self, x=None, *, size=1):
        count = size if x is None else len(x)
        with pyro.plate("data", count):
            z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            columns = torch.arange(4).split(4 // len(self.laws))
            drawn = []
            for number, (law, which) in enumerate(zip(self.laws, columns, strict=True)):
                seen = None if x is None else x[..., which]
                name = "obs" if number == 0 else f"obs_{number}"
                drawn.append(pyro.sample(name, law(z * self.weight[which]).to_event(1), obs=seen))
            return torch.cat(drawn, -1)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", dist.Normal(torch.zeros(size if x is None else len(x), 1), 1.0).to_event(1))


def bernoulli(logits):
    return dist.Bernoulli(logits=logits)


def normal(loc):
    return dist.Normal(loc, 1.0)


BITS = (torch.arange(20).reshape(5, 4) % 3 == 0).float()


class TestWhatIsObserved:
    """Of a pair by hand no likelihood says what its items may be: its observed sites do."""

    @pytest.mark.parametrize("estimator", [pyrovae.elbo, pyrovae.iwae, pyrovae.quadrature])
    @pytest.mark.parametrize("value", [0.5, -1.0, 15.0])
    def test_a_value_outside_of_the_support_is_refused(self, estimator, value):
        assert math.isfinite(estimator(ByHand(bernoulli), BITS).mean)
        wrong = BITS.clone()
        wrong[3, 2] = value
        with pytest.raises(ValueError, match=rf"site 'obs' is observed at {value:g} \(entry \[3, 2\]\), outside"):
            estimator(ByHand(bernoulli), wrong)

    def test_counts_that_are_no_integers_are_refused_and_impossible_ones_have_no_mass(self):
        def poisson(rate):
            return dist.Poisson(rate.exp())

        assert math.isfinite(pyrovae.elbo(ByHand(poisson), 7 * BITS).mean)
        with pytest.raises(ValueError, match=r"observed at 2\.5"):
            pyrovae.elbo(ByHand(poisson), BITS + 1.5)

        def below(limit):
            return dist.Uniform(0.0, limit.exp())

        assert pyrovae.elbo(ByHand(below), -1 - BITS).mean == -math.inf  # log 0 is the answer

    def test_an_entry_that_a_mask_leaves_out_may_be_anything(self):
        class Masked(ByHand):
            def model(self, x=None, *, size=1):
                count = size if x is None else len(x)
                with pyro.plate("data", count):
                    z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                    law = dist.Bernoulli(logits=z * self.weight)
                    if x is not None:
                        law = law.mask(x != 9.0)
                    return pyro.sample("obs", law.to_event(1), obs=x)

        seen = BITS.clone()
        seen[:, 0] = 9.0
        assert math.isfinite(pyrovae.elbo(Masked(), seen).mean)
        seen[2, 1] = 8.0
        with pytest.raises(ValueError, match=r"observed at 8 \(entry \[2, 1\]\)"):
            pyrovae.elbo(Masked(), seen)

    def test_a_multinomial_takes_each_items_own_total(self):
        class Totals(ByHand):
            def model(self, x=None, *, size=1):
                with pyro.plate("data", size if x is None else len(x)):
                    z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                    return pyro.sample("obs", dist.Multinomial(1, logits=z * self.weight), obs=x)

        counts = torch.tensor([[1.0, 0.0, 2.0, 3.0], [0.0, 0.0, 1.0, 0.0]])
        estimate = pyrovae.quadrature(Totals(), counts)
        # all weights are equal, so that each entry has probability 1/4 whatever the code is
        for value, row in zip(estimate.pointwise.value.values, counts, strict=True):
            ways = math.lgamma(float(row.sum()) + 1) - sum(math.lgamma(float(one) + 1) for one in row)
            assert value == pytest.approx(ways - float(row.sum()) * math.log(4), abs=1e-4)
        assert estimate.pointwise.attrs["base_measure"] == "mass"
        with pytest.raises(ValueError, match="outside of the support of its Multinomial"):
            pyrovae.elbo(Totals(), counts + 0.5)

    @pytest.mark.parametrize("states", ["nothing", None])
    def test_a_distribution_that_states_no_support_is_not_checked(self, states):
        class Silent(dist.TorchDistribution):
            arg_constraints: ClassVar[dict] = {}
            has_rsample = True

            def __init__(self, loc):
                self.loc = loc
                super().__init__(loc.shape, validate_args=False)

            def expand(self, batch_shape, _instance=None):
                return type(self)(self.loc.expand(batch_shape))

            def rsample(self, sample_shape=()):
                shape = (*sample_shape, *self.batch_shape)
                return self.loc + torch.randn(shape)

            def log_prob(self, value):
                return torch.distributions.Normal(self.loc, 1.0).log_prob(value)

        if states is None:
            Silent.support = None
        silent, plain = (pyrovae.elbo(ByHand(law), BITS) for law in (Silent, normal))
        assert silent.mean == pytest.approx(plain.mean, abs=0.5)
        assert silent.pointwise.attrs["base_measure"] == "density"

    def test_its_measure_is_that_of_its_sites(self):
        binary, real, both = ByHand(bernoulli), ByHand(normal), ByHand(bernoulli, normal)
        estimates = [pyrovae.elbo(each, BITS) for each in (binary, real, both)]
        assert [each.pointwise.attrs["base_measure"] for each in estimates] == ["mass", "density", "mixed"]
        assert ["log mass" in each.line() for each in estimates] == [True, False, False]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            with pytest.raises(ValueError, match="not measured alike"):
                estimates[one] - estimates[other]
        vae = pyrovae.mlp_vae((4,), 1, hidden_dims=(3,))
        assert math.isfinite((pyrovae.elbo(vae, BITS) - estimates[0]).mean)

    def test_so_is_that_of_a_likelihood_that_says_nothing(self):
        class Quiet(nn.Module):
            event_shape = (3,)

            def __init__(self):
                super().__init__()
                self.network = nn.Linear(2, 3)

            def forward(self, z):
                return dist.Bernoulli(logits=self.network(z)).to_event(1)

        vae = pyrovae.VAE(pyrovae.StandardNormal(2), Quiet(), pyrovae.LinearNormal(3, 2))
        assert pyrovae.elbo(vae, (X > 0).float()).pointwise.attrs["base_measure"] == "mass"
        with pytest.raises(ValueError, match="outside of the support of its Bernoulli"):
            pyrovae.elbo(vae, X)


class Levels(nn.Module):
    """One of five levels an entry, for each of which a normal distribution over its number states a weight."""

    support = constraints.integer_interval(0, 4)

    def forward(self, loc):
        return dist.Categorical(logits=-(loc[..., None] - torch.arange(5.0)).square())


class TestMeans:
    def test_a_categorical_has_the_mean_of_its_draws(self):
        law = dist.Categorical(probs=torch.tensor([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])).to_event(1)
        # 512 draws of standard deviations 0.66 and 0: an error of 0.03; false alarms 6e-5
        assert torch.allclose(mean_of(law), torch.tensor([1.6, 0.0]), atol=4 * 0.66 / 512**0.5)
        vae = pair(family=Levels())
        assert vae.decode(torch.zeros(2, 2)).isfinite().all()
        assert vae.sample(3, seed=0, mean=True).isfinite().all()

    def test_a_distribution_without_a_mean_is_refused(self):
        for law in (dist.Cauchy(torch.zeros(2), 1.0), dist.StudentT(1.0, torch.zeros(2))):
            with pytest.raises(ValueError, match="has no mean with these parameters"):
                mean_of(law.to_event(1))
        assert mean_of(dist.StudentT(1.5, torch.zeros(2))).tolist() == [0.0, 0.0]

    def test_parameters_that_are_nan_have_a_mean_that_is(self):
        assert mean_of(dist.Laplace(torch.full((2,), math.nan), 1.0, validate_args=False)).isnan().all()
