"""What a pair written on Pyro alone must state, what it gets for it, and what is refused where it states otherwise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae
from pyrovae.models.pair import as_module, base_measure_of, entries_of, has_global_latents, support_of
from pyrovae.models.particles import latent_law, simulated

ITEMS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


class ByHand(nn.Module):
    """z ~ N(0, I), x ~ N(W z + b, I), with an encoder; no part of the package's own."""

    event_shape = (3,)
    is_normalized = True

    def __init__(self, *, plate="data", observed="obs", latent_dim=2, event_shape=(3,)):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)
        self.plate, self.observed = plate, observed
        self.latent_dim, self.event_shape = latent_dim, event_shape

    def model(self, x=None, *, size=1):
        with pyro.plate(self.plate, size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample(self.observed, dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate(self.plate, size if x is None else len(x)):
            loc, log_scale = self.encoder(torch.zeros(size, 3) if x is None else x).chunk(2, -1)
            return pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

    def log_prob(self, x):
        """N(b, W W' + I): the right answer."""
        weight = self.decoder.weight.double()
        covariance = weight @ weight.T + torch.eye(3, dtype=torch.float64)
        return dist.MultivariateNormal(self.decoder.bias.double(), covariance).log_prob(x.double())


class TwoCodes(nn.Module):
    """Two unobserved sites an item and no part of the package's own: x ~ N(a w + c, 1), a ~ N(0, 1), c ~ N(0, 4)."""

    event_shape = (3,)
    latent_dim = 2
    is_normalized = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -0.5, 0.25]))
        self.encoder = nn.Linear(3, 4)

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
            shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
            loc = slope[..., None] * self.weight + shift[..., None]
            return pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            out = self.encoder(torch.zeros(size, 3) if x is None else x)
            pyro.sample("slope", dist.Normal(out[..., 0], out[..., 1].exp()))
            pyro.sample("shift", dist.Normal(out[..., 2], out[..., 3].exp()))

    def log_prob(self, x):
        """N(0, w w' + 4 1 1' + I): the right answer."""
        weight = self.weight.detach().double()
        covariance = weight[:, None] * weight + 4.0 + torch.eye(3, dtype=torch.float64)
        return dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x.double())


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    pair = ByHand()
    pyrovae.fit(pair, ITEMS, epochs=60, batch_size=20, learning_rate=0.03, progress=False)
    return pair


@pytest.fixture(scope="module")
def with_two_codes():
    torch.manual_seed(0)
    pair = TwoCodes()
    pyrovae.fit(pair, ITEMS, validation=ITEMS[:9], epochs=60, batch_size=20, learning_rate=0.03, progress=False)
    return pair


class TestAPairOnPyroAlone:
    def test_estimators_agree_with_its_closed_form(self, fitted):
        exact = fitted.log_prob(ITEMS[:8]).detach()
        grid = pyrovae.quadrature(fitted, ITEMS[:8])
        assert torch.allclose(torch.from_numpy(grid.pointwise["value"].values), exact, atol=1e-3)
        iwae = pyrovae.iwae(fitted, ITEMS[:8], num_particles=2000)
        assert abs(iwae.mean - float(exact.mean())) < 4 * iwae.se + 1e-3  # false alarm 6e-5
        elbo = pyrovae.elbo(fitted, ITEMS[:8], num_particles=500)
        assert elbo.mean < float(exact.mean()) + 4 * elbo.se

    def test_with_two_latent_sites_it_has_bounds(self, with_two_codes):
        exact = float(with_two_codes.log_prob(ITEMS[:8]).mean())
        iwae = pyrovae.iwae(with_two_codes, ITEMS[:8], num_particles=4000)
        assert abs(iwae.mean - exact) < 4 * iwae.se + 2e-3
        elbo = pyrovae.elbo(with_two_codes, ITEMS[:8], num_particles=500)
        assert exact - 1.5 < elbo.mean < exact + 4 * elbo.se
        # negative control: another weight is seen
        with torch.no_grad():
            with_two_codes.weight.mul_(3.0)
            other = float(with_two_codes.log_prob(ITEMS[:8]).mean())
            with_two_codes.weight.div_(3.0)
        assert abs(iwae.mean - other) > 4 * iwae.se + 2e-3

    @pytest.mark.slow
    def test_its_compiled_step_is_pyros(self):
        torch.manual_seed(0)
        losses = {}
        state = TwoCodes().state_dict()
        for kind in (pyrovae.CompiledSVI, pyro.infer.SVI):
            pyro.clear_param_store()
            pair = TwoCodes()
            pair.load_state_dict(state)

            def model(x, pair=pair):
                pyro.module("pair", pair)
                return pair.model(x)

            svi = kind(model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
            pyro.set_rng_seed(0)
            losses[kind] = [float(svi.step(ITEMS)) for _ in range(5)]
        compiled, eager = losses.values()
        assert compiled == pytest.approx(eager, rel=1e-5)

    @pytest.mark.parametrize("estimate", ["ais", "quadrature", "bdmc", "calibrate"])
    def test_what_needs_one_code_an_item_says_so(self, with_two_codes, estimate):
        options = {
            "ais": lambda: pyrovae.ais(with_two_codes, ITEMS[:3]),
            "quadrature": lambda: pyrovae.quadrature(with_two_codes, ITEMS[:3]),
            "bdmc": lambda: pyrovae.bdmc(with_two_codes, 3),
            "calibrate": lambda: pyrovae.calibrate(with_two_codes),
        }
        with pytest.raises(ValueError, match=f"{estimate} needs a model whose one unobserved site is named 'latent'"):
            options[estimate]()


class TestWhatAPairStates:
    def test_a_plate_of_another_name_is_told_of_before_a_step(self, caplog):
        pair = ByHand(plate="items")
        pyrovae.fit(pair, ITEMS, epochs=1, progress=False)
        assert "lies in plate 'items': name the plate of the items 'data'" in caplog.text
        before = {name: value.clone() for name, value in pair.state_dict().items()}
        with pytest.raises(ValueError, match=r"lies outside the plate 'data'.*lies in plate 'items'"):
            pyrovae.fit(pair, ITEMS, validation=ITEMS, epochs=1, progress=False)
        assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())

    def test_codes_of_another_size_are_named(self, caplog):
        pair = ByHand(latent_dim=5)
        pyrovae.fit(pair, ITEMS, epochs=1, progress=False)
        assert "states latent_dim 5, and its site 'latent' has 2 dimensions" in caplog.text
        for estimate in (pyrovae.iwae, pyrovae.quadrature, pyrovae.ais):
            with pytest.raises(ValueError, match="states latent_dim 5"):
                estimate(pair, ITEMS)

    def test_items_are_drawn_at_the_site_obs(self):
        with pytest.raises(ValueError, match="site 'obs', and that of ByHand has 'x': name the observed site 'obs'"):
            simulated(ByHand(observed="x"), torch.zeros(2, 3, 2))

    @pytest.mark.parametrize(
        "estimate",
        [
            lambda pair: pyrovae.bdmc(pair, 3, num_steps=2),
            lambda pair: pyrovae.calibrate(pair, num_simulations=20),
            lambda pair: pyrovae.to_arviz(pair, ITEMS[:3]),
        ],
    )
    def test_every_estimator_that_draws_items_says_so(self, estimate):
        with pytest.raises(ValueError, match="site 'obs', and that of ByHand has 'x': name the observed site 'obs'"):
            estimate(ByHand(observed="x"))

    def test_a_code_is_drawn_at_the_site_latent(self, with_two_codes):
        with pytest.raises(ValueError, match=r"site 'latent', and TwoCodes.model has 'slope', 'shift': name"):
            latent_law(with_two_codes.model, size=1)

    def test_items_of_another_shape_than_stated_are_named(self):
        assert simulated(ByHand(), torch.zeros(2, 4, 2)).shape == (2, 4, 3)
        with pytest.raises(ValueError, match=r"states event_shape \(4,\), and its model draws items of shape \(3,\)"):
            simulated(ByHand(event_shape=(4,)), torch.zeros(2, 4, 2))

    def test_what_is_no_pair_is_told_what_it_lacks(self):
        class Half(nn.Module):
            event_shape, latent_dim = (3,), 2

            def model(self, x=None, *, size=1):
                return None

        with pytest.raises(TypeError, match="got Half, which has no guide, is_normalized"):
            as_module(Half())

        class NoModule:
            event_shape, latent_dim, is_normalized = (3,), 2, True
            model = guide = named_parameters = lambda self: None

        with pytest.raises(TypeError, match=r"got NoModule, which is no torch\.nn\.Module"):
            as_module(NoModule())

    def test_what_it_may_have_has_an_answer_where_it_has_none(self):
        pair = ByHand()
        assert not has_global_latents(pair)
        assert support_of(pair) is None
        assert entries_of(pair) is None
        assert base_measure_of(pair) is None
        with pytest.raises(TypeError, match="has no encode, as VAE and AE have, so that nothing can be encoded"):
            pyrovae.encoded(pair, torch.zeros(2, *pair.event_shape))
        with pytest.raises(TypeError, match="has no decode, as VAE and AE have"):
            pyrovae.decoded(pair, torch.zeros(2, pair.latent_dim))
        vae = pyrovae.mlp_vae((3,))
        assert str(support_of(vae)) == "Boolean()"
        assert type(entries_of(vae)).__name__ == "Bernoulli"
        assert base_measure_of(vae) == "mass"
        assert has_global_latents(pyrovae.DiscriminativeClassifier((3,), 2))

    def test_it_is_saved_and_loaded_into_one_like_it(self, fitted, tmp_path):
        pyrovae.save(tmp_path / "pair", fitted)
        again = pyrovae.load(tmp_path / "pair", like=ByHand())
        assert torch.equal(again.log_prob(ITEMS), fitted.log_prob(ITEMS))


def views(likelihood):
    """A pair whose likelihood is its own, two that are views of one, and where there is one a density without any."""
    plain = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=likelihood)
    given = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=likelihood, covariate_dim=1)
    yield plain
    yield pyrovae.BayesianVAE(plain)
    yield pyrovae.Given(given, torch.zeros(1))
    if likelihood in ("bernoulli", "log_normal"):
        yield pyrovae.IndependentEntries((3,), likelihood)


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        ("bernoulli", 0.5, "x has grey values .* and a bernoulli likelihood"),
        ("poisson", 1.5, "outside the support of the poisson likelihood.* its entries are whole numbers"),
        ("log_normal", 0.0, "outside the support of the log_normal likelihood"),
    ],
)
def test_items_are_checked_by_the_likelihood_whosever_it_is(likelihood, value, message):
    """One entry of the last of 2,000 items, which no trial of a pair looks at."""
    x = torch.ones(2000, 3)
    x[-1, -1] = value
    for pair in views(likelihood):
        with pytest.raises(ValueError, match=message):
            pyrovae.fit(pair, x, epochs=1, progress=False, compile=False)
        if not has_global_latents(pair):
            with pytest.raises(ValueError, match=message):
                pyrovae.iwae(pair, x, num_particles=2)
        assert support_of(pair) is pyrovae.models.registry.registered("likelihood")[likelihood].support
