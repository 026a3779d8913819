"""Scaled, subsampled and masked sites, and networks that mix draws or items: the evidence, or a refusal by name."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import linear_log_prob, with_exact_posterior
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae
from pyrovae.inference.objective import Loss
from pyrovae.methods import SVI
from pyrovae.models.particles import particles, scored
from pyrovae.models.trial import tried


class Handled(pyrovae.VAE):
    """A pair whose model and guide run under handlers of the user's."""

    in_model = in_guide = staticmethod(lambda n: nullcontext())

    def model(self, x=None, *, size=1):
        with self.in_model(size if x is None else len(x)):
            return super().model(x, size=size)

    def guide(self, x=None, *, size=1):
        with self.in_guide(size if x is None else len(x)):
            return super().guide(x, size=size)


class OfMany(pyrovae.VAE):
    """A pair that says of how many items its batch is one, as a user's own SVI wants it."""

    def _plate(self, n):
        return pyro.plate("data", 1000, subsample=torch.arange(n))

    def model(self, x=None, *, size=1):
        with self._plate(size if x is None else len(x)):
            return pyro.sample("obs", self.likelihood(pyro.sample("latent", self.prior())), obs=x)

    def guide(self, x=None, *, size=1):
        with self._plate(size if x is None else len(x)):
            return pyro.sample("latent", self.prior() if x is None else self.posterior(x))


def parts(pair):
    return (copy.deepcopy(part) for part in (pair.prior, pair.likelihood, pair.posterior))


def handled(pair, in_model=None, in_guide=None):
    new = Handled(*parts(pair))
    new.in_model, new.in_guide = in_model or new.in_model, in_guide or new.in_guide
    return new


def items(n=7):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fiftieth(n):
    return poutine.scale(scale=1 / 50)


def warmed(n):
    """A scale an item, as a tensor: of some items more than of others."""
    return poutine.scale(scale=torch.linspace(0.1, 2.0, n, dtype=torch.float64))


SCALED = {
    "scale": lambda pair: handled(pair, fiftieth, fiftieth),
    "scale of the latent alone": lambda pair: handled(pair, None, fiftieth),
    "scale an item": lambda pair: handled(pair, warmed, warmed),
    "plate of many": lambda pair: OfMany(*parts(pair)),
}


@pytest.mark.parametrize("kind", SCALED)
def test_a_scale_is_no_part_of_the_evidence(exact_linear_pair, kind):
    # the exact guide's every weight is log p(x): each estimator gives it whatever the draws
    pair, x = SCALED[kind](exact_linear_pair), items()
    expected = linear_log_prob(exact_linear_pair, x).numpy()
    for estimate in (pyrovae.elbo(pair, x, num_particles=2), pyrovae.iwae(pair, x, num_particles=3)):
        assert abs(estimate.pointwise.value.values - expected).max() < 1e-10
        assert "mask" not in str(estimate)
    # control: Pyro's loss is of the scaled sites
    with torch.no_grad():
        assert abs(Trace_ELBO().loss(pair.model, pair.guide, x) + expected.sum()) > 0.5


def test_annealing_and_what_rests_on_codes_given_take_no_scale_either(exact_linear_pair):
    pair, x = SCALED["scale"](exact_linear_pair), items(2)
    expected = linear_log_prob(exact_linear_pair, x).numpy()
    # from the exact posterior to itself: no chain's weight varies
    annealed = pyrovae.ais(pair, x, num_chains=2, num_steps=3, num_leapfrog=1, base="guide", progress=False)
    assert abs(annealed.pointwise.value.values - expected).max() < 1e-9
    z = torch.randn(4, 2, 3, dtype=torch.float64)
    plain, scaled = vars(scored(exact_linear_pair, x, z)), vars(scored(pair, x, z))
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


def test_fit_trains_by_the_scale_and_validates_without_it(exact_linear_pair):
    # the loss is Pyro's to the bit; the validation ELBO that of the unscaled sites at the weights of that epoch
    pair, x = SCALED["scale"](exact_linear_pair), items()
    plan = SVI(epochs=1, compile=False).plan(pair, x, seed=0)
    losses = []
    for loss in (Loss(pair, 7, plan, False, False), None):
        torch.manual_seed(0)
        elbo = Trace_ELBO(max_plate_nesting=1)
        losses.append(loss(x, None, None, 7) if loss else elbo.differentiable_loss(pair.model, pair.guide, x) / 7)
    assert torch.equal(*losses)
    history = pyrovae.fit(pair, x, validation=x, epochs=1, learning_rate=1e-12, progress=False)
    expected = float(linear_log_prob(exact_linear_pair, x).mean())
    assert float(history.epochs.validation_elbo[-1]) == pytest.approx(expected, abs=1e-6)
    assert float(history.epochs.loss[-1]) == pytest.approx(-expected / 50, abs=1e-6)


@pytest.mark.parametrize("kind", ["scale", "scale an item", "plate of many"])
def test_importance_weights_of_scaled_sites_train_nothing(exact_linear_pair, kind):
    pair = SCALED[kind](exact_linear_pair)
    before = copy.deepcopy(pair.state_dict())
    with pytest.raises(ValueError, match=r"objective='iwae'.*site '(latent|obs)' is scaled"):
        pyrovae.fit(pair, items(), objective="iwae", epochs=1, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())


def test_a_pair_that_draws_a_subsample_of_its_own_scores_no_given_item(exact_linear_pair):
    class Some(pyrovae.VAE):
        size = 3

        def _sites(self, x, fn):
            with pyro.plate("data", len(x), subsample_size=self.size) as rows:
                return fn(x[rows])

        def model(self, x=None, *, size=1):
            return self._sites(
                x, lambda x: pyro.sample("obs", self.likelihood(pyro.sample("latent", self.prior())), obs=x)
            )

        def guide(self, x=None, *, size=1):
            return self._sites(x, lambda x: pyro.sample("latent", self.posterior(x)))

    for size in (3, 1):  # one item's would be added to every other's
        pair = Some(*parts(exact_linear_pair))
        pair.size = size
        with pytest.raises(ValueError, match=rf"site '(latent|obs)' has {size} of the 7 items"):
            particles(pair, items(), 2)


# masks ----------------------------------------------------------------------------------------------


class SomeEntries(nn.Module):
    """A Normal whose last entries are masked."""

    support = dist.constraints.real

    def forward(self, loc):
        return dist.Normal(loc, loc.new_tensor(0.7)).mask(torch.arange(6) < 4)


@pytest.fixture
def half_seen(exact_linear_pair):
    """A pair that masks two of its six entries, its guide exact for what is left; and log p of these four."""
    pair = exact_linear_pair
    with torch.no_grad():
        # the columns on four entries stay orthogonal, so that the exact posterior is diagonal
        weight = torch.zeros(6, 3, dtype=torch.float64)
        weight[:4] = torch.linalg.qr(torch.randn(4, 3, dtype=torch.float64)).Q * torch.tensor([2.0, 1.0, 0.5])
        pair.likelihood.network.weight.copy_(weight)
    with_exact_posterior(pair)
    prior, likelihood, posterior = parts(pair)
    likelihood.family = SomeEntries()
    mean, variance = pair.likelihood.network.bias.detach()[:4], 0.49
    covariance = weight[:4] @ weight[:4].T + variance * torch.eye(4, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    return pyrovae.VAE(prior, likelihood, posterior), pair, lambda x: law.log_prob(x[:, :4]).numpy()


def test_a_mask_gives_the_density_of_what_it_leaves_and_is_said(half_seen, caplog):
    masked, whole, log_prob = half_seen
    x = items()
    estimate = pyrovae.iwae(masked, x, num_particles=3)
    assert abs(estimate.pointwise.value.values - log_prob(x)).max() < 1e-10
    assert abs(linear_log_prob(whole, x).numpy() - log_prob(x)).min() > 0.1  # control: not that of the whole
    assert estimate.pointwise.attrs["masked_sites"] == "obs"
    assert "of what the mask leaves of obs" in str(estimate)
    with pytest.raises(ValueError, match="leave out different masked sites"):
        estimate - pyrovae.iwae(whole, x, num_particles=3)
    history = pyrovae.fit(masked, x, validation=x, epochs=1, learning_rate=1e-12, progress=False)
    assert float(history.epochs.validation_elbo[-1]) == pytest.approx(log_prob(x).mean(), abs=1e-6)
    assert "validation_elbo leaves out what is masked of obs" in caplog.text


class Centred(nn.Module):
    """A layer whose rows depend on each other: their mean, or a share of it, is taken away."""

    def __init__(self, *sizes, share=1.0):
        super().__init__()
        self.linear, self.share = nn.Linear(*sizes), share

    def forward(self, h):
        out = self.linear(h)
        return out - self.share * out.mean(0, keepdim=True)


class CentredCode(Centred):
    def forward(self, x):
        return dist.Normal(super().forward(x), 1.0).to_event(1)


@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize("where", ["decoder", "encoder"])
def test_rows_that_depend_on_each_other_are_found_from_any_weights(where, share):
    """Of 40 random starts an entry compared within 1 % lets 5 or 6 through; none of them may pass."""
    x = items()[:, :3].float()
    for seed in range(40):
        torch.manual_seed(seed)
        decoder = Centred(2, 3, share=share) if where == "decoder" else nn.Linear(2, 3)
        encoder = CentredCode(3, 2, share=share) if where == "encoder" else pyrovae.LinearNormal(3, 2)
        likelihood = pyrovae.Likelihood(decoder, pyrovae.Normal(scale=1.0), (3,))
        with pytest.raises(ValueError, match="gives other log-densities"):
            pyrovae.iwae(pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, encoder), x, num_particles=4)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_rounding_is_no_dependence(scale):
    """Log-densities of a million nats in float32, whose sums differ with the number of rows."""
    x = 1e2 + items(5)[:, :3].float()
    for seed in range(10):
        torch.manual_seed(seed)
        decoder = nn.Sequential(nn.Linear(2, 300), nn.Tanh(), nn.Linear(300, 3))
        likelihood = pyrovae.Likelihood(decoder, pyrovae.Normal(scale=scale), (3,))
        vae = pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(3, 2))
        assert pyrovae.elbo(vae, x, num_particles=2).mean < -1e3


def test_a_mask_over_items_is_said(exact_linear_pair):
    kept = torch.tensor([True, False, True, True, False, True, True])

    class Kept(pyrovae.VAE):
        def model(self, x=None, *, size=1):
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", self.prior())
                with poutine.mask(mask=kept[: len(x)]):
                    return pyro.sample("obs", self.likelihood(z), obs=x)

    x = items()
    pair = Kept(*parts(exact_linear_pair))
    assert pyrovae.elbo(pair, x).pointwise.attrs["masked_sites"] == "obs"
    with pytest.raises(ValueError, match="needs whole items, and the pair masks obs"):
        pyrovae.exact(pair, x)
    with pytest.raises(ValueError, match="needs whole items, and the pair masks obs"):
        pyrovae.elbo(pair, x, analytic=True)
    classifier = pyrovae.GenerativeClassifier({0: pair, 1: copy.deepcopy(pair)}, evidence=pyrovae.iwae)
    with pytest.raises(ValueError, match="masks obs"):
        classifier.predict(x)


def test_a_masked_code_has_no_evidence(exact_linear_pair):
    def off(n):
        return poutine.mask(mask=torch.arange(n) > 0)

    x = items()
    for pair in (handled(exact_linear_pair, off), handled(exact_linear_pair, None, off)):
        with pytest.raises(ValueError, match="site 'latent' is masked"):
            pyrovae.iwae(pair, x)
        with pytest.raises(ValueError, match="site 'latent' is masked"):
            pyrovae.fit(pair, x, validation=x, epochs=1, progress=False)
    # a mask that leaves everything is none
    pair = handled(exact_linear_pair, lambda n: poutine.mask(mask=True))
    assert "masked_sites" not in pyrovae.elbo(pair, x).pointwise.attrs


# axes -----------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """A user's own pair of 4 entries and 2 codes: its decoder is as it was given."""

    event_shape, latent_dim, is_normalized = (4,), 2, True

    def __init__(self, decoder, encoder=None):
        super().__init__()
        self.decoder, self.encoder = decoder, encoder or nn.Linear(4, 2)

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("obs", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", dist.Normal(self.encoder(x), 1.0).to_event(1))


class Of(nn.Module):
    """A network after which a function comes."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.Sequential(*layers), function

    def forward(self, z):
        return self.function(self.layers(z))


FOUR = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
MIXED = {
    "view": lambda: Of(lambda h: h.view(-1, 4), nn.Linear(2, 4)),
    "softmax over an axis counted from the left": lambda: Of(lambda h: h.softmax(1), nn.Linear(2, 4)),
    "normalised over an axis counted from the left": lambda: Of(lambda h: h - h.mean(1, keepdim=True), nn.Linear(2, 4)),
    "batch norm": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4)),  # 3 items are 3 channels
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_pair_by_hand_that_takes_draws_for_another_axis_is_named_before_a_step(kind, caplog):
    torch.manual_seed(0)
    pair = ByHand(MIXED[kind]())
    before, random = copy.deepcopy(pair.state_dict()), torch.get_rng_state()
    calls = [lambda: pyrovae.elbo(pair, FOUR)]
    if kind != "view":  # of one draw's table it makes the right one
        calls.append(lambda: pyrovae.fit(pair, FOUR, validation=FOUR, epochs=1, progress=False))
    for call in calls:
        with pytest.raises(ValueError, match=r"the axis of draws or items for another.*leading dimensions"):
            call()
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    pyrovae.fit(pair, FOUR, epochs=1, progress=False)  # which is right as it is
    assert "no estimator will take it: ByHand" in caplog.text


def test_networks_for_any_leading_dimensions_are_let_be():
    # the control of the four above; noise in the decoder, evaluated or not, is nobody's axis
    torch.manual_seed(0)
    for decoder in (
        Of(lambda h: h.softmax(-1), nn.Linear(2, 4)),
        Of(lambda h: nn.functional.dropout(h, 0.5), nn.Linear(2, 4)),
    ):
        assert tried(ByHand(decoder), FOUR) == ()
    assert tried(pyrovae.mlp_ae((4,)), FOUR) == ()


def test_items_that_depend_on_each_other_have_no_evidence():
    # an encoder or a decoder that normalises by the items beside it: what an item is worth depends on the batch
    torch.manual_seed(0)
    centred = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))
    pairs = [
        ByHand(nn.Linear(2, 4), centred),
        ByHand(nn.Linear(2, 4), Of(lambda h: h - h.mean(0), nn.Linear(4, 2))),
    ]
    for pair in pairs:
        with pytest.raises(ValueError, match=r"cannot be scored at one draw alone|than at one of them alone"):
            pyrovae.iwae(pair, FOUR)
        pyrovae.fit(pair, FOUR, epochs=1, progress=False)  # which may mean it


def test_a_last_batch_that_cannot_be_taken_is_refused_before_a_step():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    vae = pyrovae.mlp_vae((4,), likelihood="normal", posterior=pyrovae.models.distributions.DiagonalNormal(trunk, 3, 2))
    before, random = copy.deepcopy(vae.state_dict()), torch.get_rng_state()
    for given, compile in (({"batch_size": 4}, False), ({"batch_size": 4}, True), ({"batch_size": 1}, False)):
        with pytest.raises(ValueError, match=r"batch_size=\d and 9 items leave a last batch of 1 item.*batch_size"):
            pyrovae.fit(vae, FOUR, epochs=1, compile=compile, progress=False, **given)
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    pyrovae.fit(vae, FOUR, epochs=1, batch_size=5, progress=False)
    pyrovae.elbo(vae, FOUR[:1])


class Turned(pyrovae.VAE):
    """A guide that draws noise of its own and turns it into the code, as Pyro's flows by hand do."""

    how = "delta"

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            q = self.prior() if x is None else self.posterior(x)
            if self.how == "density":
                noise = pyro.sample("noise", q, infer={"is_auxiliary": True})
                return pyro.sample("latent", dist.Normal(noise, 1.0).to_event(1))
            noise = pyro.sample("noise", q, infer={"is_auxiliary": True})
            jacobian = torch.full(noise.shape[:-1], -noise.shape[-1] * math.log(2.0), dtype=noise.dtype)
            if self.how == "factor":
                pyro.factor("jacobian", jacobian, has_rsample=True)
                jacobian = 0.0
            return pyro.sample("latent", dist.Delta(2 * noise, log_density=jacobian, event_dim=1))


@pytest.mark.parametrize("how", ["delta", "factor"])
def test_a_point_that_a_guide_made_of_its_noise_has_the_noises_density(exact_linear_pair, how):
    pair, x = Turned(*parts(exact_linear_pair)), items(3)
    pair.how = how
    estimate = pyrovae.iwae(pair, x, num_particles=5_000).pointwise
    value, se = estimate.value.values, estimate.se.values
    # 5 standard errors: fewer than one false alarm in a million; the Jacobian left out is off by 3 log 2
    assert (abs(value - linear_log_prob(exact_linear_pair, x).numpy()) < 5 * se + 1e-6).all()
    assert se.max() < 0.1


def test_a_factor_beside_a_draw_is_a_term_of_the_loss_alone(exact_linear_pair):
    class Penalised(pyrovae.VAE):
        def guide(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("latent", self.prior() if x is None else self.posterior(x))
                pyro.factor("penalty", torch.full(z.shape[:-1], 7.0, dtype=z.dtype), has_rsample=True)
                return z

    x = items()
    estimate = pyrovae.iwae(Penalised(*parts(exact_linear_pair)), x, num_particles=3)
    assert abs(estimate.pointwise.value.values - linear_log_prob(exact_linear_pair, x).numpy()).max() < 1e-10


class Deeper(pyrovae.VAE):
    """A code of a code, which the guide leaves to the model."""

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            return pyro.sample("obs", self.likelihood(pyro.sample("latent", self.prior())), obs=x)


@pytest.mark.parametrize("estimate", [pyrovae.elbo, pyrovae.iwae])
def test_a_code_that_one_side_alone_draws_has_no_evidence(exact_linear_pair, estimate):
    pair, turned = Deeper(*parts(exact_linear_pair)), Turned(*parts(exact_linear_pair))
    turned.how = "density"
    with pytest.raises(ValueError, match="site 'scale' of the model is not in the guide"):
        estimate(pair, items(), num_particles=2)
    with pytest.raises(ValueError, match="site 'noise' of the guide is not in the model"):
        estimate(turned, items(), num_particles=2)


def test_codes_that_one_side_alone_draws_are_not_validated(exact_linear_pair):
    pair = Deeper(*parts(exact_linear_pair))
    before = copy.deepcopy(pair.state_dict())
    with pytest.raises(ValueError, match="site 'scale' of the model is not in the guide"):
        pyrovae.fit(pair, items(), validation=items(), epochs=1, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())


@pytest.mark.slow
def test_a_flow_that_is_known_at_its_last_draws_alone_may_be_a_part_of_the_pair():
    # the trial draws twice, and the second draws are not those that are scored
    class Flow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.planar = torch.nn.Linear(3, 2), pyro.distributions.transforms.Planar(2)

        def forward(self, x):
            base = pyro.distributions.Normal(self.loc(x), 0.5).to_event(1)
            return pyro.distributions.TransformedDistribution(base, [self.planar])

    torch.manual_seed(0)
    vae = pyrovae.linear_vae(3, 2)
    pair = pyrovae.VAE(vae.prior, vae.likelihood, Flow())
    x = vae.sample(20, seed=0)
    gap = pyrovae.iwae(pair, x, num_particles=20_000) - pyrovae.exact(pair, x)
    ratio = torch.from_numpy(gap.pointwise["value"].values).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * float(ratio.std()) / 20**0.5)


class Elsewhere(nn.Module):
    """A pair by hand whose model makes a tensor of its own, on a device that is stated."""

    event_shape, latent_dim, is_normalized = (3,), 1, True

    def __init__(self, device):
        super().__init__()
        self.device, self.encoder = device, nn.Linear(3, 1)

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            shift = torch.ones(3, device=self.device)
            return pyro.sample("obs", dist.Normal(shift + z, 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", dist.Normal(self.encoder(x), 1.0).to_event(1))


def test_a_pair_whose_tensors_are_on_two_devices_is_named_before_a_step():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"Elsewhere makes tensors that are not on cpu.*x\.new_zeros.*device='cpu'"):
        pyrovae.fit(Elsewhere("meta"), x, epochs=1, device="cpu", progress=False)
    pyrovae.fit(Elsewhere("cpu"), x, epochs=1, device="cpu", progress=False)
