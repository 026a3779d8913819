"""A frozen pair is the same density, and nothing that stands around it trains it."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from pyro.infer import MCMC, NUTS, SVI, JitTrace_ELBO, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae.models.frozen import frozen
from pyrovae.models.pair import dtype_and_device, is_frozen


def small(**options):
    torch.manual_seed(0)
    options = {"hidden_dims": (6,), "likelihood": "normal"} | options
    return pyrovae.mlp_vae((5,), 2, **options)


def bits(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


def changed(pair, before):
    return sorted(name for name, value in pair.state_dict().items() if not torch.equal(value, before[name]))


def around(vae, x, offset):
    """A user's model: items of the VAE, seen through an offset that is to be learned."""

    def model():
        pyro.module("offset", offset)
        with pyro.plate("things", len(x)):
            z = pyro.sample("latent", vae.prior())
            pyro.sample("seen", dist.Normal(offset(vae.decode(z)), 0.5).to_event(1), obs=x)

    def guide():
        with pyro.plate("things", len(x)):
            pyro.sample("latent", vae.posterior(x))

    return model, guide


def nested(vae, x, offset):
    """A user's model that runs the pair's own model and guide inside."""

    def model():
        pyro.module("offset", offset)
        vae.model(x)
        pyro.sample("mean", dist.Normal(offset(x.mean(0)), 0.5).to_event(1), obs=torch.zeros(5))

    return model, lambda: vae.guide(x)


@pytest.fixture
def x():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model_of", [around, nested])
def test_svi_around_it_trains_what_is_the_users_alone(x, model_of):
    def trained(vae):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        offset, before = nn.Linear(5, 5), bits(vae)
        start = bits(offset)
        svi = SVI(*model_of(vae, x, offset), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(3):
            svi.step()
        assert changed(offset, start) == ["bias", "weight"]
        return changed(vae, before)

    assert trained(small().frozen()) == []
    if model_of is nested:  # the control: without frozen() it is trained without a word
        assert len(trained(small())) == 11


@pytest.mark.slow
def test_the_density_is_the_same_and_the_caller_keeps_the_pair(x):
    vae = small()
    vae.train()
    still = vae.frozen()
    assert vae.training and len(list(vae.parameters())) == 11 and not list(still.parameters())
    assert list(still.state_dict()) != [] and set(still.state_dict()) == set(vae.state_dict())
    for estimator, options in ((pyrovae.quadrature, {}), (pyrovae.elbo, {"num_particles": 50})):
        one, other = estimator(vae, x, **options), estimator(still, x, **options)
        assert abs(one.mean - other.mean) < (1e-6 if not options else 1.0)
    assert torch.equal(vae.encode(x), still.encode(x))
    assert torch.equal(
        still.impute(torch.full((2, 5), torch.nan), num_draws=3), vae.impute(torch.full((2, 5), torch.nan), num_draws=3)
    )
    given = small(covariate_dim=2)
    beside = {"covariates": torch.ones(2, 2), "num_draws": 3}
    holes = torch.full((2, 5), torch.nan)
    assert torch.equal(given.frozen().impute(holes, **beside), given.impute(holes, **beside))
    assert still.double().encode(x).dtype == torch.float64 and dtype_and_device(still)[0] == torch.float64
    assert pyrovae.elbo(still, x.double(), num_particles=2).pointwise.sizes["item"] == 7
    with pytest.raises(ValueError, match="pair is frozen, and fit trains nothing of it"):
        pyrovae.fit(still, x, epochs=1)


def test_gradients_flow_through_codes_and_items_and_to_no_weight(x):
    still = small().frozen()
    z, items = torch.randn(3, 2, requires_grad=True), x.clone().requires_grad_()
    still.decode(z).sum().backward()
    still.encode(items).sum().backward()
    still.likelihood(torch.zeros(7, 2)).log_prob(items).sum().backward()
    assert z.grad.abs().sum() > 0 and items.grad.abs().sum() > 0
    assert not any(buffer.requires_grad or buffer.grad is not None for buffer in still.buffers())


def test_evaluation_mode_is_for_good(x):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5))
    likelihood = pyrovae.Likelihood(network, pyrovae.Normal(scale=0.5), (5,))
    vae = pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(5, 2))
    still = vae.frozen()
    before = bits(still)

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole, self.part = still, still.likelihood

    holder = Holder().train()
    assert holder.training and still.train() is still and still.likelihood.network[2].train().training is False
    assert not any(part.training for part in still.modules())
    z = torch.randn(4, 2)
    assert torch.equal(still.likelihood(z).mean, still.likelihood(z).mean) and changed(still, before) == []
    assert not torch.equal(vae.train().likelihood(z).mean, vae.likelihood(z).mean)  # the control


def test_copies_pickles_and_states_are_of_the_same_density(tmp_path, x):
    vae = small()
    still = vae.frozen()
    for other in (copy.deepcopy(still), pickle.loads(pickle.dumps(still)), still.frozen()):
        assert is_frozen(other) and not list(other.parameters()) and other.train().training is False
        assert torch.equal(other.encode(x), vae.encode(x))
    pyrovae.save(tmp_path / "state", still)
    loaded = pyrovae.load(tmp_path / "state")
    assert not is_frozen(loaded) and torch.equal(loaded.encode(x), vae.encode(x))  # a state is of tensors
    assert is_frozen(pyrovae.load(tmp_path / "state", like=still))


def test_tied_weights_recurrent_layers_and_constrained_parameters_of_pyro():
    class Decoder(PyroModule):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight
            self.recurrent = nn.GRU(2, 3, batch_first=True)
            self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
            self.loose = [self.one.bias]

        def forward(self, z):
            h = self.two(self.one(z)) + self.loose[0]
            return self.recurrent(h[:, None].expand(-1, 5, -1))[0][..., 0] * self.scale

    torch.manual_seed(0)
    likelihood = pyrovae.Likelihood(Decoder(), pyrovae.Normal(scale=0.5), (5,))
    vae = pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(5, 2))
    z = torch.randn(3, 2)
    still = vae.frozen()
    network = still.likelihood.network
    assert network.two.weight is network.one.weight and network.loose[0] is network.one.bias
    assert torch.allclose(still.likelihood(z).mean, vae.likelihood(z).mean)
    assert not still.likelihood(z).mean.requires_grad
    traced = pyro.poutine.trace(still.model).get_trace(size=2)
    assert not [name for name, node in traced.nodes.items() if node["type"] == "param"]


def test_what_cannot_be_frozen_is_named():
    class Stored(nn.Module):
        def forward(self, z):
            return z @ pyro.param("loadings", torch.ones(2, 5))

    outside = nn.Linear(2, 5)

    class Closing(nn.Module):
        def forward(self, z, network=outside.forward):
            return network(z)

    def of(network):
        likelihood = pyrovae.Likelihood(network, pyrovae.Normal(), (5,))
        return pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(5, 2))

    for network, message in ((Stored(), "pyro.param, 'loadings'"), (Closing(), "site 'obs' in the model of VAE")):
        with pytest.raises(ValueError, match=message):
            of(network).frozen()
    with pytest.raises(ValueError, match="has no size yet"):
        of(nn.LazyLinear(5)).frozen()
    with pytest.raises(ValueError, match="is a classifier"):
        frozen(pyrovae.gaussian_classifier((2,), 3))
    with pytest.raises(ValueError, match="has a distribution over its parameters"):
        frozen(pyrovae.BayesianGaussianMixture((2,), 2))
    with pytest.raises(TypeError, match="pair must be"):
        frozen(nn.Linear(2, 3))


def test_other_pairs_can_be_frozen(x):
    mixture = pyrovae.GaussianMixture.from_parameters([1.0], torch.zeros(1, 5), torch.ones(1, 5), covariance="diagonal")
    still = mixture.frozen()
    assert torch.equal(mixture.log_prob(x), still.log_prob(x)) and not still.log_prob(x).requires_grad
    assert pyrovae.mlp_ae((5,)).frozen().reconstruct(x).shape == x.shape
    by_hand = pyrovae.VAE(pyrovae.GaussianPrior(torch.zeros(2), torch.eye(2)), small().likelihood, small().posterior)
    assert pyrovae.quadrature(by_hand.frozen(), x).pointwise.sizes["item"] == 7


def test_a_conditional_pair_can_be_frozen():
    vae = pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), covariate_dim=2)
    c, z = torch.randn(4, 2), torch.randn(4, 2)
    assert torch.equal(vae.frozen().decode(z, covariates=c), vae.decode(z, covariates=c))


@pytest.mark.parametrize("loss", [Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1), JitTrace_ELBO()])
def test_vectorised_particles_and_a_traced_loss(x, loss):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    still, offset = small().frozen(), nn.Linear(5, 5)
    before = bits(still)
    svi = SVI(*around(still, x, offset), pyro.optim.Adam({"lr": 0.01}), loss)
    losses = [svi.step() for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses))) and changed(still, before) == []


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_around_it_is_pyros_and_leaves_it_as_it_is(x):
    still = small(prior="mixture(num_components=2)").frozen()
    before, losses, offsets = bits(still), {}, {}
    for kind in (SVI, pyrovae.CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        offset = nn.Linear(5, 5)
        svi = kind(*around(still, x, offset), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses[kind] = [svi.step() for _ in range(6)]
        offsets[kind] = offset.weight.detach().clone()
    assert losses[pyrovae.CompiledSVI] == pytest.approx(losses[SVI], rel=1e-5)
    torch.testing.assert_close(offsets[pyrovae.CompiledSVI], offsets[SVI], rtol=1e-4, atol=1e-5)
    assert changed(still, before) == []
    assert losses[SVI][-1] < losses[SVI][0]  # something is trained
    with torch.no_grad():  # the control: another pair under the same step has other losses
        still.likelihood.network.layers[-1].bias.add_(1.0)
    assert abs(svi.step() / losses[SVI][-1] - 1) > 1e-3


def test_codes_are_drawn_by_a_traced_potential(x):
    still = small().frozen()

    def model():
        z = pyro.sample("z", still.prior())
        pyro.sample("seen", dist.Normal(still.decode(z), 0.5).to_event(1), obs=x[0])

    draws = drawn_by_nuts(model, 5, 5, jit_compile=True, ignore_jit_warnings=True)
    assert draws.shape == (5, 2)
    with pytest.raises(RuntimeError, match="requires grad"):  # the control: what Pyro says of a pair that trains

        def trainable():
            z = pyro.sample("z", still.prior())
            pyro.sample("seen", dist.Normal(vae.decode(z), 0.5).to_event(1), obs=x[0])

        vae = small()
        drawn_by_nuts(trainable, 2, 2, jit_compile=True, ignore_jit_warnings=True)


def drawn_by_nuts(model, num_samples, warmup_steps, **options):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(model, **options), num_samples=num_samples, warmup_steps=warmup_steps, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples()["z"]


@pytest.mark.slow
@pytest.mark.parametrize("with_prior", [True, False])
def test_nuts_with_it_as_the_prior_has_the_moments_of_the_closed_form(with_prior):
    """x = W z + mu, seen with noise 0.5: z given x is N(P^-1 W'(x - mu) / 0.25, P^-1) with P = I + W'W / 0.25.

    Four Monte Carlo errors on each of two means and two standard deviations: a false alarm once in 4,000 runs.
    """
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(5, 2).double()
    still = vae.frozen()
    x = torch.randn(5, dtype=torch.float64)
    weight, offset = vae.likelihood.network.weight.detach(), vae.likelihood.network.bias.detach()
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.25
    mean = torch.linalg.solve(precision, weight.T @ (x - offset) / 0.25)
    sd = torch.linalg.inv(precision).diagonal().sqrt()

    def model():
        flat = dist.Normal(torch.zeros(2, dtype=torch.float64), 1e3).to_event(1)
        z = pyro.sample("z", still.prior() if with_prior else flat)
        pyro.sample("seen", dist.Normal(still.decode(z), 0.5).to_event(1), obs=x)

    draws = drawn_by_nuts(model, 1000, 200, jit_compile=True, ignore_jit_warnings=True)
    size = pyro.ops.stats.effective_sample_size(draws[None])
    size_of_square = pyro.ops.stats.effective_sample_size((draws - mean).square()[None])
    off_mean = (draws.mean(0) - mean).abs() / (draws.std(0) / size.sqrt())
    square = (draws - mean).square()
    off_variance = (square.mean(0) - sd.square()).abs() / (square.std(0) / size_of_square.sqrt())
    agrees = bool((off_mean < 4).all() and (off_variance < 4).all())
    assert agrees == with_prior, (off_mean, off_variance)


def seen_through(x):
    """A model at the top of a module, which a process that is spawned can import."""
    z = pyro.sample("z", OF_CHAINS.prior())
    pyro.sample("seen", dist.Normal(OF_CHAINS.decode(z), 0.5).to_event(1), obs=x)


OF_CHAINS = small().frozen()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_several_chains_in_processes_of_their_own(x, context, monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 3)  # of fewer Pyro draws one chain after the other
    pyro.set_rng_seed(0)
    mcmc = MCMC(
        NUTS(seen_through), num_samples=8, warmup_steps=5, num_chains=2, mp_context=context, disable_progbar=True
    )
    mcmc.run(x[0])
    draws = mcmc.get_samples(group_by_chain=True)["z"]
    assert draws.shape == (2, 8, 2) and not torch.equal(draws[0], draws[1])
