"""The VAE's densities against closed forms, and Pyro's own tools on the same object."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import linear_log_prob, linear_posterior
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from torch import nn
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

import pyrovae
from pyrovae.data import MappedArray
from pyrovae.models.distributions import DiagonalNormal, Likelihood, LinearNormal, Normal, PointMass, StandardNormal
from pyrovae.models.laws import as_pyro
from pyrovae.models.networks import MLP
from pyrovae.models.pair import Pair
from pyrovae.models.particles import particles, scored


def items(pair, n=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *pair.event_shape, generator=generator, dtype=torch.float64)


def test_every_weight_of_an_exact_guide_is_the_evidence(exact_linear_pair):
    # exact: log p(x, z) - log q(z | x) = log p(x) for every z. Wrong if an event dimension, the prior's sign, a plate
    # or a scale is off
    x = items(exact_linear_pair)
    table = particles(exact_linear_pair, x, 5).log_weight
    assert table.shape == (5, 7)
    assert (table - linear_log_prob(exact_linear_pair, x)).abs().max() < 1e-10


@pytest.mark.parametrize("n", [1, 3, 7])  # 3 = latent_dim, where a missing to_event broadcasts without an error
def test_pyros_own_elbo_is_the_evidence_summed_over_items(exact_linear_pair, n):
    x = items(exact_linear_pair, n)
    loss = Trace_ELBO(num_particles=3).loss(exact_linear_pair.model, exact_linear_pair.guide, x)
    assert -loss == pytest.approx(float(linear_log_prob(exact_linear_pair, x).sum()), abs=1e-9)


def test_a_wrong_guide_falls_short_by_its_kl(exact_linear_pair):
    # ELBO = log p(x) - KL(q || p(z | x)); the mean over 4,000 draws within 4 standard errors (false alarm 6e-5)
    pair = exact_linear_pair
    with torch.no_grad():
        pair.posterior.loc.bias.add_(0.3)
        pair.posterior.raw_log_scale.add_(0.4)
    x = items(pair)
    torch.manual_seed(1)
    table = particles(pair, x, 4000).log_weight
    q = pair.posterior(x)
    full = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    expected = linear_log_prob(pair, x) - kl_divergence(full, linear_posterior(pair, x))
    error = table.std(0) / math.sqrt(len(table))
    assert ((table.mean(0) - expected).abs() < 4 * error).all()
    assert ((table.mean(0) - linear_log_prob(pair, x)).abs() > 10 * error).any()  # control: not the evidence itself


def test_seen_sites_have_the_documented_names_and_shapes():
    vae = pyrovae.mlp_vae((1, 4, 5), latent_dim=3)
    trace = poutine.trace(vae.model).get_trace(torch.zeros(6, 1, 4, 5))
    trace.compute_log_prob()
    assert trace.nodes["latent"]["log_prob"].shape == (6,)
    assert trace.nodes["obs"]["log_prob"].shape == (6,)
    assert trace.nodes["latent"]["value"].shape == (6, 3)
    assert [f.name for f in trace.nodes["obs"]["cond_indep_stack"]] == ["data"]
    assert trace.nodes["obs"]["scale"] == 1.0
    assert isinstance(vae, Pair)


def test_without_items_the_guide_draws_from_the_prior():
    vae = pyrovae.mlp_vae((3,), latent_dim=2)
    with torch.no_grad():
        vae.posterior.loc.bias.add_(3.0)
    torch.manual_seed(0)
    codes = vae.guide(size=5000)
    assert codes.shape == (5000, 2)
    assert (codes.mean(0).abs() < 5 / math.sqrt(5000)).all()  # false alarm 1e-6


def test_two_pairs_of_one_likelihood_module_have_each_its_own_scale():
    family = pyrovae.Normal()
    a, b = (pyrovae.mlp_vae((3,), likelihood=family) for _ in range(2))
    pyrovae.fit(a, torch.rand(8, 3), epochs=3, learning_rate=0.1, progress=False)
    assert a.likelihood.family.scale.item() != 1.0
    assert b.likelihood.family.scale.item() == family.scale.item() == 1.0


def test_decode_takes_arrays_of_every_kind():
    vae = pyrovae.mlp_vae((3,))
    z = np.arange(6.0).reshape(3, 2)
    expected = vae.decode(torch.tensor(z)).detach()
    for given in (z.astype(">f4"), z.tolist(), np.asfortranarray(z), [torch.tensor(row) for row in z]):
        assert torch.equal(vae.decode(given), expected)
    assert torch.equal(vae.decode(z[::-1]), expected.flip(0))
    with pytest.raises(TypeError, match="z must be an array of real numbers"):
        vae.decode(z + 1j)


def test_an_item_needs_an_axis():
    with pytest.raises(ValueError, match=r"event_shape must name at least one size, got \(\)"):
        pyrovae.mlp_vae(())


def test_the_prior_is_the_standard_normal():
    z = torch.tensor([[0.3, -1.2, 2.0]])
    expected = TorchNormal(0.0, 1.0).log_prob(z).sum(-1)
    assert torch.allclose(StandardNormal(3)().log_prob(z), expected)


def test_encode_is_the_mean_and_never_a_draw():
    vae = pyrovae.mlp_vae((5,))
    x = torch.randn(4, 5)
    assert torch.equal(vae.encode(x), vae.encode(x))
    assert torch.equal(vae.encode(x), vae.posterior(x).mean)
    assert not torch.equal(vae.encode(x), vae.posterior(x).sample())  # control
    assert vae.encode(x).requires_grad
    assert vae.reconstruct(x).requires_grad


@pytest.mark.parametrize("make", [pyrovae.mlp_vae, pyrovae.conv_vae, pyrovae.mlp_ae, pyrovae.conv_ae])
def test_decode_takes_any_leading_shape(make):
    pair = make((1, 7, 6), latent_dim=3)
    z = torch.randn(2, 4, 3)
    whole = pair.decode(z)
    assert whole.shape == (2, 4, 1, 7, 6)
    assert torch.allclose(whole[1, 2], pair.decode(z[1, 2]), atol=1e-6)


def test_a_draw_has_the_models_moments(exact_linear_pair):
    # 40,000 draws; each entry of the covariance within 5 standard errors (36 entries: false alarm 2e-5)
    pair = exact_linear_pair
    x = pair.sample(40_000, seed=0)
    weight, bias = pair.likelihood.network.weight.detach(), pair.likelihood.network.bias.detach()
    covariance = weight @ weight.T + 0.49 * torch.eye(6, dtype=torch.float64)
    centred = x - bias
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / math.sqrt(len(x))
    assert ((products.mean(0) - covariance).abs() < 5 * error).all()
    means = pair.sample(40_000, seed=0, mean=True) - bias
    assert torch.linalg.matrix_rank(means[:100], atol=1e-8) == 3  # the likelihood's noise is left out


def test_sampling_with_a_seed_leaves_the_callers_generator_alone():
    vae = pyrovae.mlp_vae((3,))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = vae.sample(4, seed=1), vae.sample(4, seed=1)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(vae.sample(4), vae.sample(4))


def test_parts_compose_by_hand():
    likelihood = Likelihood(MLP((2,), (3, 2)), pyrovae.Normal(scale=1.0), (3, 2))
    vae = pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(MLP((3, 2), (8,), activate_last=True), 8, 2))
    assert (vae.event_shape, vae.latent_dim, vae.recipe) == ((3, 2), 2, None)
    assert vae.reconstruct(torch.zeros(4, 3, 2)).shape == (4, 3, 2)


def test_an_encoder_pushed_to_infinity_still_has_a_density():
    # BAD_INPUTS: the scale is bounded
    vae = pyrovae.mlp_vae((3,))
    with torch.no_grad():
        vae.posterior.raw_log_scale.bias.copy_(torch.tensor([1e30, -1e30]))
    q = vae.posterior(torch.zeros(2, 3))
    assert torch.isfinite(q.stddev).all()
    assert (q.stddev > 0).all()
    assert torch.isfinite(q.log_prob(q.sample())).all()


@pytest.mark.parametrize("make", [pyrovae.mlp_vae, pyrovae.conv_vae, pyrovae.mlp_ae, pyrovae.conv_ae])
@pytest.mark.parametrize("latent_dim", [0, -3])
def test_a_code_needs_a_dimension(make, latent_dim):
    with pytest.raises(ValueError, match=f"latent_dim must be an integer of at least 1, got {latent_dim}"):
        make((1, 8, 8), latent_dim=latent_dim)


def test_an_unknown_likelihood_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"likelihood must be one of 'bernoulli'.*did you mean 'bernoulli'"):
        pyrovae.mlp_vae((3,), likelihood="bernouli")


def test_a_shape_that_would_broadcast_is_refused():
    vae = pyrovae.mlp_vae((1, 4, 4))
    x = torch.zeros(5, 4, 4)  # (5, 4, 4) against (5, 1, 4, 4) gives a 5 x 5 table
    for use in (vae.model, vae.guide, vae.encode):
        with pytest.raises(ValueError, match=r"x must have shape \(N, 1, 4, 4\), got \(5, 4, 4\)"):
            use(x)


def test_a_network_of_another_shape_is_refused_rather_than_broadcast():
    for network, shape in ((MLP((2,), (4, 4)), (1, 4, 4)), (nn.Linear(2, 1), (6,))):
        likelihood = Likelihood(network, pyrovae.Normal(scale=1.0), shape)
        with pytest.raises(ValueError, match=r"the likelihood's network must give shape"):
            likelihood(torch.zeros(8, 2))


def test_encode_takes_arrays_of_every_kind_and_refuses_what_fit_refuses():
    vae = pyrovae.mlp_vae((3,))
    x = np.eye(3)[::-1]
    expected = vae.encode(torch.from_numpy(x.copy()))
    for given in (x, x.astype(np.float16), x.astype(">f4"), x.tolist(), MappedArray(x.copy())):
        assert torch.equal(vae.encode(given), expected)
    with pytest.raises(ValueError, match=r"looks like 0\.\.255"):
        vae.encode(np.full((2, 3), 255, dtype=np.uint8))
    with pytest.raises(ValueError, match="NaN or infinite"):
        vae.encode(torch.full((2, 3), math.nan))
    leaf = torch.zeros(2, 3, requires_grad=True)
    vae.encode(leaf).sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("make", [pyrovae.mlp_vae, pyrovae.mlp_ae, pyrovae.conv_vae, pyrovae.conv_ae])
def test_an_event_shape_is_a_sequence(make):
    with pytest.raises(TypeError, match="event_shape must be a sequence"):
        make(13)


class TestPyrosOwnTools:
    """The objects go into Pyro's interfaces unchanged."""

    def test_svi_trains_both_halves(self):
        vae = pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="normal")
        before = copy.deepcopy(vae.state_dict())
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        svi.step(torch.randn(10, 4))
        assert all(not torch.equal(before[name], value) for name, value in vae.state_dict().items())

    def test_predictive(self):
        vae = pyrovae.mlp_vae((4,))
        x = torch.zeros(5, 4)
        posterior = Predictive(vae.model, guide=vae.guide, num_samples=3)(x)
        assert posterior["latent"].shape == (3, 5, 2)
        prior = Predictive(vae.model, num_samples=3)(size=6)
        assert prior["obs"].shape == (3, 6, 4)

    def test_render_model(self):
        pytest.importorskip("graphviz")
        vae = pyrovae.mlp_vae((4,))
        graph = str(pyro.render_model(vae.model, model_args=(torch.zeros(5, 4),), render_params=True))
        assert "latent -> obs" in graph

    @pytest.mark.slow
    def test_nuts_finds_the_exact_posterior(self, exact_linear_pair):
        # autocorrelation: 4 standard errors from an effective size of at least a tenth of the draws
        x = items(exact_linear_pair, 2)
        exact = linear_posterior(exact_linear_pair, x)
        pyro.set_rng_seed(0)
        sampler = MCMC(NUTS(exact_linear_pair.model), num_samples=400, warmup_steps=200, disable_progbar=True)
        sampler.run(x)
        z = sampler.get_samples()["latent"]
        assert z.shape == (400, 2, 3)
        assert ((z.mean(0) - exact.mean).abs() < 4 * exact.variance.sqrt() / math.sqrt(40)).all()

    def test_an_optimisers_state_can_be_read(self):
        vae = pyrovae.mlp_vae((4,), hidden_dims=(8,))
        optimiser = pyro.optim.Adam({"lr": 0.01})
        SVI(vae.model, vae.guide, optimiser, Trace_ELBO()).step(torch.zeros(3, 4))
        state = optimiser.get_state()
        assert len(state) == len(list(vae.parameters()))
        assert all(name is not None for name in state)

    def test_it_pickles_after_pyros_own_svi(self):
        vae = pyrovae.mlp_vae((4,), hidden_dims=(8,))
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(torch.ones(3, 4))
        again = pickle.loads(pickle.dumps(vae))
        assert torch.equal(again.encode(torch.ones(3, 4)), vae.encode(torch.ones(3, 4)))

    def test_one_built_with_anothers_likelihood_pickles_too(self):
        first = pyrovae.mlp_vae((3,), likelihood="normal")
        SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(torch.rand(4, 3))
        second = pyrovae.mlp_vae((3,), likelihood=first.likelihood.family)
        assert torch.equal(pickle.loads(pickle.dumps(second)).decode(torch.ones(1, 2)), second.decode(torch.ones(1, 2)))

    def test_two_of_a_kind_have_sites_of_their_own(self):
        optimiser = pyro.optim.Adam({"lr": 0.01})
        pairs = [pyrovae.mlp_vae((4,), hidden_dims=(8,)) for _ in range(2)]
        for pair in pairs:
            SVI(pair.model, pair.guide, optimiser, Trace_ELBO()).step(torch.ones(3, 4))
        assert len(pyro.get_param_store()) == 2 * len(list(pairs[0].parameters()))

    def test_a_copy_is_another_model(self):
        # trained turn by turn with its original, under names of its own
        vae = pyrovae.mlp_vae((4,), hidden_dims=(8,))
        twin = pickle.loads(pickle.dumps(vae))
        other = copy.deepcopy(vae)
        for pair in (vae, twin, other):
            SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(torch.zeros(3, 4))
        assert len(pyro.get_param_store()) == 3 * len(list(vae.parameters()))

    def test_a_foreign_entry_of_the_store_does_not_take_the_training(self):
        # the store's tensor of that name is not this module's: it is replaced, not trained in its stead
        vae = pyrovae.mlp_vae((4,), hidden_dims=(8,))
        poutine.trace(vae.guide).get_trace(torch.zeros(3, 4))
        store = pyro.get_param_store()
        for name in list(store):
            value = store[name].detach().clone()
            del store[name]
            store[name] = value
        before = copy.deepcopy(vae.state_dict())
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(torch.ones(3, 4))
        assert all(not torch.equal(before[n], v) for n, v in vae.state_dict().items())

    def test_weights_in_another_memory_format_are_refused_rather_than_not_trained(self):
        vae = pyrovae.conv_vae((1, 8, 8)).to(memory_format=torch.channels_last)
        with pytest.raises(ValueError, match="not contiguous"):
            SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(torch.zeros(3, 1, 8, 8))

    def test_the_builders_name_no_site_twice(self):
        vae = pyrovae.linear_vae(4, 2)
        assert isinstance(vae.likelihood.network, nn.Linear)
        trace = poutine.trace(vae.model).get_trace(size=3)
        params = [n for n, s in trace.nodes.items() if s["type"] == "param"]
        assert len(params) == len({*params}) == 3


# parts that give torch's own distributions ----------------------------------------------------------


class PlainPosterior(nn.Module):
    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, x):
        q = self.like(x)
        return torch.distributions.Independent(torch.distributions.Normal(q.mean, q.stddev), 1)


class PlainPrior(nn.Module):
    latent_dim = 2

    def forward(self):
        law = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        return torch.distributions.Independent(law, 1)


class PlainNormal(nn.Module):
    support = torch.distributions.constraints.real

    def forward(self, loc):
        return torch.distributions.Normal(loc, torch.full_like(loc, 0.7))


def digits_of(pair):
    """What a fit of the pair, and calls after it, give; and log p(x) by quadrature."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(12, 5, generator=generator), torch.randn(4, 12, 2, generator=generator)
    loss = pyrovae.fit(pair, x, epochs=2, batch_size=5, progress=False).epochs.loss
    draws = pair.impute(x.where(x > 0, torch.nan), num_draws=2, num_steps=2)
    # an estimator's own draws go by a hash of the pair, which two pairs do not share: codes that are given
    every = [torch.from_numpy(loss.values), *pair.parameters(), *vars(scored(pair, x, z)).values(), draws]
    assert pyrovae.iwae(pair, x, num_particles=3).pointwise.value.notnull().all()
    return [*every, pair.sample(3, seed=0)], pyrovae.quadrature(pair, x[:2]).mean


def plain_pair():
    torch.manual_seed(0)
    return pyrovae.VAE(StandardNormal(2), Likelihood(nn.Linear(2, 5), Normal(scale=0.7), (5,)), LinearNormal(5, 2))


@pytest.fixture(scope="module")
def digits_of_pyros():
    return digits_of(plain_pair())


@pytest.mark.parametrize("part", ["prior", "family", "posterior"])
def test_torchs_distributions_give_the_digits_of_pyros(part, digits_of_pyros):
    theirs = plain_pair()
    if part == "prior":
        theirs.prior = PlainPrior()
    elif part == "family":
        theirs.likelihood.family = PlainNormal()
    else:
        theirs.posterior = PlainPosterior(theirs.posterior)
    (every, log_prob), (expected, exact) = digits_of(theirs), digits_of_pyros
    for one, other in zip(every, expected, strict=True):
        assert torch.equal(one, other)
    assert log_prob == pytest.approx(exact, abs=2e-4)


def test_a_law_of_torchs_is_not_changed_and_keeps_its_gradient():
    loc = torch.zeros(3, requires_grad=True)

    class Shifted(torch.distributions.Normal):
        """Of a user's own, with no namesake in Pyro."""

    for plain in (
        Shifted(loc, 1.0),
        torch.distributions.LowRankMultivariateNormal(loc, torch.ones(3, 1), torch.ones(3)),
        torch.distributions.TransformedDistribution(
            torch.distributions.Normal(loc, 1.0), torch.distributions.transforms.ExpTransform()
        ),
    ):
        kind, law = type(plain), as_pyro(plain)
        assert type(plain) is kind
        assert as_pyro(law) is law
        value = torch.full((3,), 0.5)
        (gradient,) = torch.autograd.grad(law.log_prob(value).sum(), loc)
        (wanted,) = torch.autograd.grad(plain.log_prob(value).sum(), loc)
        assert torch.equal(gradient, wanted)
        assert law.expand((2, *law.batch_shape)).mask(False).log_prob(value).abs().sum() == 0
        assert isinstance(law, kind)
    assert as_pyro("a name") == "a name"


@pytest.mark.usefixtures("float32")
def test_codes_of_integers_are_of_what_came():
    bernoulli, normal = pyrovae.mlp_vae((2,)), pyrovae.mlp_vae((2,), likelihood="normal")
    x = torch.tensor([[0, 200], [3, 7]])
    with pytest.raises(ValueError, match=r"looks like 0\.\.255"):
        bernoulli.encode(x)
    assert torch.equal(normal.encode(x), normal.encode(x.float()))
    with pytest.raises(ValueError, match="does not hold x"):
        normal.encode(2**40 + torch.arange(100).reshape(50, 2))


# training mode, and networks that normalise ---------------------------------------------------------


def normalising(posterior=None, width=8):
    """A pair whose networks drop out and normalise by batches, after some steps of training, still in training mode."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
    decoder = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 5))
    vae = pyrovae.VAE(
        StandardNormal(2),
        Likelihood(decoder, pyrovae.Normal(scale=1.0), (5,)),
        posterior or DiagonalNormal(trunk, width, 2),
    )
    pyrovae.fit(vae, FIVE, epochs=2, batch_size=10, progress=False)
    return vae.train()


FIVE = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
HOLES = FIVE[:3].clone()
HOLES[0, :2], HOLES[1, 3] = math.nan, math.nan
CALLS = {
    "encode": lambda vae: vae.encode(FIVE),
    "encode one": lambda vae: vae.encode(FIVE[:1]),
    "decode": lambda vae: vae.decode(torch.linspace(-1, 1, 12).reshape(2, 3, 2)),
    "decode one": lambda vae: vae.decode(torch.ones(2)),
    "reconstruct": lambda vae: vae.reconstruct(FIVE),
    "sample": lambda vae: vae.sample(4, seed=0),
    "impute": lambda vae: vae.impute(HOLES, num_draws=2, num_steps=2),
    "table": lambda vae: vae.likelihood.log_prob_table(torch.ones(3, 2), FIVE),
    "as density": lambda ae: pyrovae.as_density(ae, pyrovae.GaussianPrior(torch.zeros(2), torch.eye(2))).encode(FIVE),
}


def checked_in_training_mode(model, call):
    """What `call` gives in training mode is what it gives in evaluation mode, each time, and changes nothing."""
    model.train()
    [*model.modules()][-1].eval()  # a layer that has a mode of its own
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    first, again = call(model), call(model)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    expected = call(model)
    assert torch.equal(first, expected)
    assert torch.equal(again, expected)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
def test_a_call_in_training_mode_is_the_same_as_in_evaluation(name):
    vae = normalising()
    if name == "as density":
        trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        vae = pyrovae.AE(vae.likelihood, PointMass(trunk, 8, 2)).train()
    with torch.no_grad():
        assert not torch.equal(vae.posterior(FIVE).mean, vae.posterior(FIVE).mean)  # control: the part draws
    checked_in_training_mode(vae, CALLS[name])


@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
def test_evaluation_mode_keeps_the_gradient():
    vae, x = normalising(), FIVE.clone().requires_grad_()
    vae.reconstruct(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in vae.likelihood.parameters() if p.requires_grad)


def test_classifiers_decide_in_evaluation_mode():
    class Drops(nn.Module):
        """A density of the user's, whose network drops out."""

        event_shape = (5,)

        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        def log_prob(self, x):
            return self.network(x)[:, 0]

        def sample(self, n):
            return nn.functional.dropout(torch.ones(n, 5), 0.5, training=self.training)

    torch.manual_seed(0)
    generative = pyrovae.GenerativeClassifier({0: Drops(), 1: Drops()})
    for call in ("log_joint", "log_prob", "predict_log_proba", "predict"):
        checked_in_training_mode(generative, lambda model, call=call: getattr(model, call)(FIVE))
    checked_in_training_mode(generative, lambda model: model.with_standard_error(FIVE)[0])
    assert torch.equal(generative.train().sample(0, 3), torch.ones(3, 5))
    classifier = pyrovae.DiscriminativeClassifier((5,), 3, hidden_dims=(8,))
    classifier.network.layers.insert(1, nn.BatchNorm1d(8))
    checked_in_training_mode(classifier, lambda model: model.predict_log_proba(FIVE))
    checked_in_training_mode(classifier, lambda model: model.predict(FIVE[:1]))


def test_draws_of_items_are_one_batch_to_the_network():
    # batch normalisation over K x N codes, by the arithmetic written out; width 8 = items, where the wrong axis fits
    torch.manual_seed(0)
    norm, z = nn.BatchNorm1d(8, affine=False), torch.randn(2, 8, 3)
    p = Likelihood(nn.Sequential(nn.Linear(3, 8), norm), pyrovae.Normal(scale=1.0), (8,))
    linear = p.network[0](z).detach()
    mean, variance = linear.mean((0, 1)), linear.var((0, 1), unbiased=False)
    assert torch.allclose(p(z).mean, (linear - mean) / (variance + 1e-5).sqrt(), atol=1e-5)
    assert torch.allclose(norm.running_mean, 0.1 * mean, atol=1e-6)
    wrong = nn.Sequential(p.network[0], nn.BatchNorm1d(8, affine=False))(z)  # control
    assert (wrong - p(z).mean).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
def test_a_decoder_for_one_batch_dimension_is_trained_and_evaluated():
    # `view(-1, C, H, W)` and convolutions after it, against the same weights for any leading dimensions
    class View(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.linear, self.conv, self.shape = nn.Linear(2, 12), nn.Conv2d(3, 1, 1), shape

        def forward(self, z):
            h = self.linear(z).tanh()
            return (
                self.conv(h.view(-1, 3, 2, 2))
                if self.shape
                else self.conv(h.reshape(-1, 3, 2, 2)).reshape(*z.shape[:-1], 1, 2, 2)
            )

    x = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    found = []
    for one in (True, False):
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae((1, 2, 2), likelihood="normal", hidden_dims=(4,))
        torch.manual_seed(1)
        vae.likelihood.network = View(one)
        history = pyrovae.fit(vae, x, epochs=2, batch_size=4, num_particles=3, progress=False)
        pyrovae.elbo(vae, x)
        torch.manual_seed(2)
        table = particles(vae, x, 3).log_weight.detach()
        found.append((float(history.epochs.loss[-1]), table.tolist(), vae.decode(torch.ones(2)).tolist()))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
def test_a_pair_that_normalises_trains_with_several_draws_and_is_evaluated():
    vae = normalising()
    pyrovae.fit(vae, FIVE, epochs=1, batch_size=8, num_particles=2, progress=False)  # as wide as a batch
    value = pyrovae.iwae(vae, FIVE, num_particles=2000)
    expected = pyrovae.quadrature(vae, FIVE)
    # 20 items within 5 standard errors and 0.02 nats of bias (false alarm 1e-5)
    assert abs((value - expected).mean) < 5 * value.se + 0.02


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("leading", [(), (1, 4), (3, 5), (2, 1, 3)])
def test_a_pointwise_networks_digits_are_those_of_its_plain_call(d, leading):
    torch.manual_seed(0)
    z = torch.randn(*leading, d)
    for vae in (pyrovae.mlp_vae((1, 4, 3), d), pyrovae.conv_vae((1, 4, 3), d), pyrovae.linear_vae(7, d)):
        p = vae.likelihood
        assert torch.equal(p(z).mean, p.family(p.network(z)).mean)


def test_a_networks_several_outputs_are_told_from_what_all_codes_share():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(2, 6), nn.Parameter(torch.ones(6))

        def forward(self, z):
            return self.linear(z), self.scale

    class Family(nn.Module):
        support, base_measure = pyrovae.Normal.support, "density"

        def forward(self, given):
            return dist.Normal(*given)

    torch.manual_seed(0)
    p, z = Likelihood(Two(), Family(), (6,)), torch.randn(3, 2, 2)  # 6 codes, as many as entries
    assert torch.equal(p(z).mean, p.network.linear(z))
    assert torch.equal(p(z).stddev, torch.ones(3, 2, 6))


@pytest.mark.parametrize(
    "plain",
    [
        torch.distributions.Poisson(torch.full((3,), 2.0)),
        torch.distributions.Uniform(torch.zeros(3), 2.0),
        torch.distributions.Independent(torch.distributions.Poisson(torch.full((3,), 2.0)), 1),
        torch.distributions.NegativeBinomial(2.0, torch.full((3,), 0.5)),
        torch.distributions.LogNormal(torch.zeros(3), 1.0),
    ],
    ids=lambda law: type(law).__name__,
)
def test_a_law_whose_pyro_class_keeps_more_than_torchs_has_the_same_density(plain):
    law, value = as_pyro(plain), torch.ones(3)
    assert torch.equal(law.log_prob(value), plain.log_prob(value))
    assert law.expand((2, *law.batch_shape)).log_prob(value).shape == (2, *law.batch_shape)
