"""`elbo` and `Estimate` against closed forms."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from conftest import linear_log_prob, linear_posterior
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae
from pyrovae.evaluation import evidence
from pyrovae.evaluation.evidence import Estimate


def items(n=9):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def shifted(pair):
    """The exact pair with a guide that is off."""
    with torch.no_grad():
        pair.posterior.loc.bias.add_(0.3)
        pair.posterior.raw_log_scale.add_(0.3)
    return pair


def test_with_the_exact_posterior_every_seed_gives_the_evidence(exact_linear_pair):
    x = items()
    exact = linear_log_prob(exact_linear_pair, x).numpy()
    for seed in (0, 1):
        estimate = pyrovae.elbo(exact_linear_pair, x, num_particles=2, seed=seed)
        assert np.abs(estimate.pointwise.value.values - exact).max() < 1e-10
        assert estimate.se < 1e-10


def test_parts_agree_with_their_closed_forms(exact_linear_pair):
    # every item's rate and distortion within 5 standard errors (27 checks: false alarm 2e-5)
    pair, x = shifted(exact_linear_pair), items()
    estimate = pyrovae.elbo(pair, x, num_particles=4000)
    q = pair.posterior(x)
    kl = kl_divergence(q, pair.prior()).detach().numpy()
    full = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    bound = (linear_log_prob(pair, x) - kl_divergence(full, linear_posterior(pair, x))).detach().numpy()
    p = estimate.pointwise
    for name, expected in (("rate", kl), ("value", bound), ("distortion", -(bound + kl))):
        error = p["se" if name == "value" else f"{name}_se"].values
        assert (np.abs(p[name].values - expected) < 5 * error).all(), name
    assert np.array_equal(p.value.values, -(p.distortion.values + p.rate.values))
    assert abs(p.rate.values.std() - kl.std()) < 5 * float(np.sqrt((p.rate_se**2).mean()))


def test_the_rate_of_a_trained_vae_is_the_closed_form_kl():
    digits = pyrovae.data.load("digits")
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), 4, hidden_dims=(32,), likelihood=pyrovae.Normal(scale=0.15))
    pyrovae.fit(vae, digits.train.x, epochs=20, learning_rate=5e-3, progress=False)
    estimate = pyrovae.elbo(vae, digits.test.x, num_particles=200)
    with torch.no_grad():
        kl = kl_divergence(vae.posterior(digits.test.x), vae.prior()).numpy()
    p = estimate.pointwise
    se = float(np.sqrt((p.rate_se**2).sum())) / len(kl)
    assert abs(float(p.rate.mean()) - kl.mean()) < 4 * se  # false alarm 6e-5
    assert kl.mean() > 20 * se  # control: no rate, or one of the other sign
    score = (p.rate.values - kl) / p.rate_se.values
    assert 0.8 < score.std() < 1.25  # the items' own spreads: a t with 199 degrees of freedom


def test_standard_errors_are_what_repeats_show(exact_linear_pair):
    # 200 repeats of 20 particles: the ratio of stated to seen variance is chi-square like; 0.75..1.3 is over 5 sd
    pair, x = shifted(exact_linear_pair), items()
    runs = [pyrovae.elbo(pair, x, num_particles=20, seed=seed) for seed in range(200)]
    seen = np.std([r.mean for r in runs], ddof=1)
    stated = math.sqrt(np.mean([r.se**2 for r in runs]))
    assert 0.75 < stated / seen < 1.3
    values = runs[0].pointwise.value.values
    assert runs[0].se_items == pytest.approx(values.std(ddof=1) / 3)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("k", [1, 3])
def test_odd_counts_in_odd_chunks(monkeypatch, exact_linear_pair, n, k):
    x = items(n)
    expected = linear_log_prob(exact_linear_pair, x).numpy()
    monkeypatch.setattr(evidence, "CHUNK_BYTES", 3 * k * 6 * 8 * 4)  # three items a chunk
    estimate = pyrovae.elbo(exact_linear_pair, x, num_particles=k)
    assert np.allclose(estimate.pointwise.value.values, expected, atol=1e-10)
    assert math.isnan(estimate.se) == (k == 1)
    assert math.isnan(estimate.se_items) == (n == 1)


def test_the_protocol_is_on_the_estimate(exact_linear_pair):
    estimate = pyrovae.elbo(exact_linear_pair, items(), num_particles=5, seed=3)
    attributes = estimate.pointwise.attrs
    assert (attributes["num_particles"], attributes["seed"], attributes["base_measure"]) == (5, 3, "density")
    assert len(attributes["items_sha256"]) == len(attributes["pair_sha256"]) == 64
    assert estimate.pointwise.value.attrs["units"] == "nats"
    text = str(estimate)
    assert text.startswith("elbo  -")
    assert "Monte Carlo" in text
    assert "log density" in text
    assert "9 items" in text


class TestDifferences:
    def test_two_pairs_under_one_estimator_are_paired(self, exact_linear_pair):
        x = items()
        good = pyrovae.elbo(exact_linear_pair, x)
        worse = pyrovae.elbo(shifted(exact_linear_pair), x)
        difference = good - worse
        values = good.pointwise.value.values - worse.pointwise.value.values
        assert difference.mean == pytest.approx(values.mean())
        assert difference.se_items == pytest.approx(values.std(ddof=1) / 3)
        assert difference.se == pytest.approx(math.hypot(good.se, worse.se))

    def test_other_items_another_measure_or_two_changes_at_once_are_refused(self, exact_linear_pair):
        a = pyrovae.elbo(exact_linear_pair, items())
        b = pyrovae.elbo(exact_linear_pair, items(8))
        with pytest.raises(ValueError, match="of different items"):
            a - b
        binary = items().gt(0).double()
        bern, gauss = pyrovae.linear_vae(6, 2, likelihood="bernoulli").double(), exact_linear_pair
        with pytest.raises(ValueError, match="a mass and a density are not measured alike"):
            pyrovae.elbo(bern, binary) - pyrovae.elbo(gauss, binary)
        other = Estimate("iwae(5)", pyrovae.elbo(shifted(gauss), items()).pointwise)
        with pytest.raises(ValueError, match="differ in two ways at once"):
            a - other

    def test_the_stated_error_of_a_difference_is_what_repeats_show(self, exact_linear_pair):
        # the pair and its mirror image (z to -z): the same model, so noise shared between the two would not cancel.
        # 200 repeats, ratio of stated to seen within 0.75..1.3: over 5 standard deviations
        pair, x = shifted(exact_linear_pair), items()
        mirror = copy.deepcopy(pair)
        with torch.no_grad():
            for weights in (mirror.likelihood.network.weight, mirror.posterior.loc.weight, mirror.posterior.loc.bias):
                weights.neg_()
        runs = [pyrovae.elbo(pair, x, seed=s) - pyrovae.elbo(mirror, x, seed=s) for s in range(200)]
        seen = np.std([r.mean for r in runs], ddof=1)
        assert 0.75 < math.sqrt(np.mean([r.se**2 for r in runs])) / seen < 1.3
        same = pyrovae.elbo(pair, x) - pyrovae.elbo(pair, x)
        assert (same.mean, same.se) == (0.0, 0.0)

    def test_pairs_that_differ_by_a_constant_are_two_pairs(self):
        torch.manual_seed(0)
        first = pyrovae.linear_vae(6, 2, likelihood=pyrovae.Normal(scale=0.1))
        torch.manual_seed(0)
        second = pyrovae.linear_vae(6, 2, likelihood=pyrovae.Normal(scale=1.0))
        assert (pyrovae.elbo(first, items()) - pyrovae.elbo(second, items())).kind == "difference in elbo"

    @pytest.mark.parametrize("kind", [float, np.float32, lambda v: [v], lambda v: torch.tensor(v)])
    def test_a_setting_that_no_repr_shows_makes_another_pair(self, kind):
        class Scaled(torch.nn.Module):
            support, base_measure = torch.distributions.constraints.real, "density"

            def __init__(self, factor):
                super().__init__()
                self.factor = kind(factor)

            def forward(self, loc):
                factor = self.factor[0] if isinstance(self.factor, list) else self.factor
                return pyro.distributions.Normal(loc, float(factor))

        pairs = []
        for factor in (1.0, 2.0):
            torch.manual_seed(0)
            pairs.append(pyrovae.linear_vae(6, 2, likelihood=Scaled(factor)))
        difference = pyrovae.elbo(pairs[0], items()) - pyrovae.elbo(pairs[1], items())
        assert difference.kind == "difference in elbo"
        assert difference.se > 0

    def test_a_pairs_own_notes_and_what_differs_between_processes_are_no_part_of_it(self, exact_linear_pair):
        before = pyrovae.elbo(shifted(exact_linear_pair), items())
        exact_linear_pair.name = "first"
        exact_linear_pair.likelihood.functions = (torch.tanh, lambda u: u)
        again = pyrovae.elbo(exact_linear_pair, items())
        assert (again - before).kind == "gap elbo - elbo"
        assert again.mean == before.mean

    def test_the_same_values_in_another_shape_are_other_items(self):
        x = torch.randn(8, 6)
        with pytest.raises(ValueError, match="of different items"):
            pyrovae.elbo(pyrovae.linear_vae(6, 2), x) - pyrovae.elbo(pyrovae.linear_vae(3, 2), x.reshape(16, 3))

    def test_a_difference_has_no_difference(self, exact_linear_pair):
        # (a - b) - a shares a's noise, which its stated error would count as independent
        a, b = (pyrovae.elbo(shifted(exact_linear_pair), items(), seed=seed) for seed in (0, 1))
        for left, right in ((a - b, a), (a, a - b)):
            with pytest.raises(ValueError, match="a difference is subtracted from nothing"):
                left - right

    def test_an_estimate_without_a_protocol_has_no_difference(self):
        bare = Estimate("elbo", xr.Dataset({"value": ("item", [1.0]), "se": ("item", [0.1])}))
        with pytest.raises(ValueError, match="without a protocol"):
            bare - bare

    def test_estimates_are_not_equal_for_being_of_one_kind(self, exact_linear_pair):
        a = pyrovae.elbo(exact_linear_pair, items())
        assert a == a
        assert a != pyrovae.elbo(shifted(exact_linear_pair), items())

    def test_items_are_the_same_in_either_precision(self, exact_linear_pair):
        x = items().float()
        single = pyrovae.linear_vae(6, 2)
        assert np.isfinite((pyrovae.elbo(single, x) - pyrovae.elbo(exact_linear_pair, x.double())).mean)


@pytest.mark.parametrize("num_particles", [1, 16])
def test_items_drawn_and_evaluated_with_one_seed_share_no_noise(num_particles):
    # the guide's noise must not be that which made the codes: two seeds agree within 5 standard errors (6e-7)
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(8, 2)
    with torch.no_grad():
        vae.likelihood.network.weight.mul_(3)
    x = vae.sample(4000, seed=0)
    first, second = (pyrovae.elbo(vae, x, num_particles=num_particles, seed=s).mean for s in (0, 1))
    pilot = pyrovae.elbo(vae, x, num_particles=100, seed=2)
    error = float(np.sqrt((pilot.pointwise.se**2).sum())) / 4000 * math.sqrt(100 / num_particles)
    assert abs(first - second) < 5 * math.sqrt(2) * error


def test_an_item_without_a_value_is_not_left_out_of_the_mean():
    x = items().float()
    x[3] = 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of the infinite value
        estimate = pyrovae.elbo(pyrovae.linear_vae(6, 2), x)
        assert not np.isfinite(estimate.mean)
        assert not np.isfinite(estimate.se_items)
    values = estimate.pointwise.assign(value=("item", [math.nan, *[1.0] * 8]))
    assert math.isnan(Estimate("elbo", values).mean)
    assert math.isnan(Estimate("elbo", values).se_items)


def test_a_family_of_counts_that_states_no_measure_has_a_mass():
    class Poisson(torch.nn.Module):
        support = torch.distributions.constraints.nonnegative_integer

        def forward(self, log_rate):
            return pyro.distributions.Poisson(log_rate.exp())

    counts = pyrovae.elbo(pyrovae.linear_vae(6, 2, likelihood=Poisson()), torch.ones(3, 6))
    assert "log mass" in str(counts)
    with pytest.raises(ValueError, match="a mass and a density"):
        counts - pyrovae.elbo(pyrovae.linear_vae(6, 2), torch.ones(3, 6))


def test_a_family_without_a_support_keeps_the_measure_it_states():
    class Quiet(torch.nn.Module):
        base_measure = "mass"

        def forward(self, logits):
            return pyro.distributions.Bernoulli(logits=logits)

    assert pyrovae.linear_vae(6, 2, likelihood=Quiet()).likelihood.base_measure == "mass"


def test_half_precision_pairs():
    estimate = pyrovae.elbo(pyrovae.linear_vae(6, 2).to(torch.bfloat16), items())
    assert np.isfinite(estimate.mean)


def test_a_site_outside_the_data_plate_is_refused():
    class Global(torch.nn.Module):
        event_shape, latent_dim, is_normalized = (1,), 1, True

        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def model(self, x=None, *, size=1):
            z = pyro.sample("shared", pyro.distributions.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("obs", pyro.distributions.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            pyro.sample("shared", pyro.distributions.Normal(self.loc, 1.0))

    with pytest.raises(ValueError, match="site 'shared' lies outside the plate 'data'"):
        pyrovae.elbo(Global(), torch.zeros(3, 1))


class TestBadInput:
    def test_an_autoencoder_has_no_evidence(self):
        with pytest.raises(ValueError, match=r"elbo needs a p\(x\), and AE has none"):
            pyrovae.elbo(pyrovae.mlp_ae((3,)), torch.zeros(2, 3))

    def test_grey_items_under_bernoulli_with_validation_off(self):
        with pyro.validation_enabled(False), pytest.raises(ValueError, match="grey values"):
            pyrovae.elbo(pyrovae.mlp_vae((3,)), torch.full((2, 3), 0.5))

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(2, 4), r"x must have shape \(N, 3\), got \(2, 4\)"),
            (torch.zeros(0, 3), "x is empty"),
            (torch.tensor([[0.0, math.nan, 1.0]]), r"1 NaN or infinite values, the first at x\[0, 1\]"),
            (torch.full((2, 3), 2.0), "outside the support of the Bernoulli likelihood"),
            (torch.full((2, 3), 200, dtype=torch.uint8), "looks like 0..255 integers"),
        ],
    )
    def test_items(self, x, message):
        with pytest.raises(ValueError, match=message):
            pyrovae.elbo(pyrovae.mlp_vae((3,)), x)

    def test_particles(self):
        with pytest.raises(ValueError, match="num_particles must be an integer of at least 1, got 0"):
            pyrovae.elbo(pyrovae.mlp_vae((3,)), torch.zeros(2, 3), num_particles=0)

    def test_kinds_of_arrays(self):
        vae = pyrovae.mlp_vae((3,))
        x = np.eye(3)
        x.flags.writeable = False
        expected = pyrovae.elbo(vae, torch.eye(3)).mean
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for given in (x, x[::-1][::-1], x.astype(np.float16), x.astype(np.int64), x.astype(bool), x.tolist()):
                assert pyrovae.elbo(vae, given).mean == expected


def test_global_state_is_left_alone():
    vae = pyrovae.mlp_vae((3,))
    pyro.param("mine", torch.tensor(1.0))
    before = torch.random.get_rng_state(), pyro.settings.get()
    vae.train()
    vae.likelihood.eval()
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        pyrovae.elbo(vae, torch.zeros(2, 3))
        assert not torch.distributions.Distribution._validate_args
    finally:
        torch.distributions.Distribution.set_default_validate_args(True)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == pyro.settings.get()
    assert list(pyro.get_param_store()) == ["mine"]
    assert vae.training
    assert not vae.likelihood.training
