"""`elbo`, `iwae`, `exact` and `Estimate` against closed forms and quadrature."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import hypothesis
import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from conftest import linear_log_prob, linear_posterior
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae
from pyrovae.evaluation import evidence, tables
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.weights import log_mean
from pyrovae.models.particles import particles, weighed


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
        kl = kl_divergence(vae.posterior(digits.test.x.to(vae.prior.loc)), vae.prior()).numpy()
    p = estimate.pointwise
    se = float(np.sqrt((p.rate_se**2).sum())) / len(kl)
    assert abs(float(p.rate.mean()) - kl.mean()) < 4 * se  # false alarm 6e-5
    assert kl.mean() > 20 * se  # control: no rate, or one of the other sign
    score = (p.rate.values - kl) / p.rate_se.values
    assert 0.8 < score.std() < 1.25  # the items' own spreads: a t with 199 degrees of freedom


def test_standard_errors_are_what_repeats_show(exact_linear_pair):
    # 200 repeats of 20 particles: the ratio of stated to seen variance is chi-square like; 0.75..1.3 is over 5 sd
    pair, x = shifted(exact_linear_pair), items()
    repeats = pyrovae.elbo(pair, x.repeat(200, 1), num_particles=20)  # each with noise of its own
    values = repeats.pointwise.value.values
    seen = values.reshape(200, 9).mean(1).std(ddof=1)
    assert 0.75 < repeats.se * math.sqrt(200) / seen < 1.3
    assert repeats.se_items == pytest.approx(values.std(ddof=1) / math.sqrt(1800))


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("k", [1, 3])
def test_odd_counts_in_odd_chunks(exact_linear_pair, n, k):
    x = items(n)
    expected = linear_log_prob(exact_linear_pair, x).numpy()
    estimate = pyrovae.elbo(exact_linear_pair, x, num_particles=k, max_bytes=2 * 6 * 6 * 8)  # two rows
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


@pytest.mark.parametrize(("features", "size"), [(1, 1), (6, 2), (5, 5), (3, 7), (40, 10)])
def test_exact_is_the_multivariate_normal(features, size):
    torch.manual_seed(features)
    pair = pyrovae.linear_vae(features, size, likelihood=pyrovae.Normal(scale=0.3)).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.normal_()
    x = 3 * torch.randn(11, features, dtype=torch.float64)
    found = pyrovae.exact(pair, x)
    expected = linear_log_prob(pair, x).detach().numpy()
    assert np.abs(found.pointwise.value.values / expected - 1).max() < 1e-10
    assert found.se == 0
    assert "exact" in str(found)


def test_exact_sees_images_and_deep_linear_networks():
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((1, 2, 3), 2, hidden_dims=(4,), likelihood=pyrovae.Normal(scale=0.5)).double()
    with pytest.raises(ValueError, match="exact is for linear-Gaussian pairs"):
        pyrovae.exact(pair, torch.zeros(2, 1, 2, 3))
    for module in (pair.likelihood.network,):
        layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    pair.likelihood.network = torch.nn.Sequential(*layers, torch.nn.Unflatten(-1, (1, 2, 3)))
    x = pair.sample(4, seed=0)
    weight = layers[1].weight @ layers[0].weight
    mean = layers[1](layers[0](torch.zeros(2, dtype=torch.float64)))
    full = MultivariateNormal(mean, weight @ weight.T + 0.25 * torch.eye(6, dtype=torch.float64))
    expected = full.log_prob(x.flatten(1)).detach().numpy()
    assert np.abs(pyrovae.exact(pair, x).pointwise.value.values - expected).max() < 1e-10


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_analytic_bound_is_the_evidence_less_the_kl(size):
    torch.manual_seed(size)
    pair = pyrovae.linear_vae(6, size, likelihood=pyrovae.Normal(scale=0.6)).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.normal_(0.0, 0.5)
    x = items(7)
    analytic = pyrovae.elbo(pair, x, analytic=True)
    q = pair.posterior(x)
    full = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    kl = kl_divergence(full, linear_posterior(pair, x)).detach().numpy()
    expected = linear_log_prob(pair, x).numpy() - kl
    assert np.abs(analytic.pointwise.value.values - expected).max() < 1e-10
    assert kl.min() > 0.01  # control: the bound is not the evidence
    p = analytic.pointwise
    assert np.array_equal(p.value.values, -(p.distortion.values + p.rate.values))
    assert analytic.se == 0
    # 7 items within 4 standard errors: false alarm 4e-4
    drawn = pyrovae.elbo(pair, x, num_particles=4000)
    assert (np.abs(drawn.pointwise.value.values - expected) < 4 * drawn.pointwise.se.values).all()
    assert (drawn - analytic).kind == "difference between runs of elbo"


def test_the_analytic_bound_is_for_linear_pairs():
    with pytest.raises(ValueError, match=r"elbo\(analytic=True\) is for linear-Gaussian pairs"):
        pyrovae.elbo(pyrovae.mlp_vae((3,)), torch.zeros(1, 3), analytic=True)


def test_with_the_exact_posterior_every_weight_is_the_evidence(exact_linear_pair):
    x = items()
    exact = linear_log_prob(exact_linear_pair, x)
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            table = particles(exact_linear_pair, x, 5).log_weight
        assert float((table - exact).abs().max()) < 1e-10
        found = pyrovae.iwae(exact_linear_pair, x, num_particles=5, seed=seed)
        assert np.abs(found.pointwise.value.values - exact.numpy()).max() < 1e-10
        assert np.allclose(found.pointwise.ess.values, 5)
    assert (found.pointwise.se.values < 1e-10).all()


@pytest.fixture(scope="module")
def known():
    """A curved decoder, 200 of its items, their log p(x) by quadrature, and a guide wide enough for bounded weights."""
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((4, 3), 2, hidden_dims=(8,)).double()
    with torch.no_grad():
        for parameter in vae.likelihood.network.parameters():
            parameter.mul_(2)
        for head in (vae.posterior.loc, vae.posterior.raw_log_scale):
            head.weight.mul_(0.3)
            head.bias.fill_(0.1)
    x = vae.sample(200, seed=1)
    return vae, x, pyrovae.quadrature(vae, x, tol=1e-6)


class TestWeights:
    """The importance-weighted bound on the scale of p(x), where it is unbiased, and in nats, where it is a bound."""

    @pytest.mark.slow
    def test_over_items_the_weights_mean_is_p_of_x(self, known):
        # mean of 200 independent ratios within 4 of its standard errors: false alarm 6e-5
        vae, x, exact = known
        r = np.exp(pyrovae.iwae(vae, x, num_particles=20).pointwise.value.values - exact.pointwise.value.values)
        se = r.std(ddof=1) / math.sqrt(200)
        assert abs(r.mean() - 1) < 4 * se
        assert se < 0.05  # sharp enough to see a log of another K: ratios of 20 / 16

    def test_over_repeats_the_weights_mean_is_p_of_x(self, known):
        # 100 repeats of each of 5 items, as rows of one call: false alarm 3e-4
        vae, x, exact = known
        repeated = pyrovae.iwae(vae, x[:5].repeat(100, 1, 1), num_particles=50, seed=1).pointwise
        r = np.exp(repeated.value.values.reshape(100, 5) - exact.pointwise.value.values[:5])
        se = r.std(0, ddof=1) / 10
        assert (np.abs(r.mean(0) - 1) < 4 * se).all()
        stated = repeated.se.values.reshape(100, 5).mean(0)
        assert np.allclose(stated / r.std(0, ddof=1), 1, atol=0.4)  # 100 repeats: relative sd 0.07, heavier tails

    def test_bounds_are_in_order(self, known):
        # each difference below 4 standard errors plus half the mean squared per-item one (the log's bias)
        vae, x, exact = known
        chain = [pyrovae.elbo(vae, x, num_particles=200)]
        chain += [pyrovae.iwae(vae, x, num_particles=k) for k in (10, 100, 5000)]
        chain.append(exact)
        for lower, upper in itertools.pairwise(chain):
            difference = lower - upper
            allowed = 4 * difference.se + 0.5 * float((difference.pointwise.se**2).mean())
            assert difference.mean < allowed
        assert (exact - chain[0]).mean > 0.05  # control: there is a gap to close
        assert abs((exact - chain[-2]).mean) < 0.01

    def test_a_bound_from_one_particle_is_the_elbo(self, known):
        vae, x, _ = known
        one = pyrovae.iwae(vae, x, num_particles=1)
        assert np.isnan(one.pointwise.se.values).all()
        assert np.allclose(one.pointwise.ess.values, 1)
        bound = pyrovae.elbo(vae, x, num_particles=400)
        spread = float(one.pointwise.value.std()) / math.sqrt(200)
        assert abs(one.mean - bound.mean) < 4 * math.hypot(spread, bound.se)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("k", [1, 6, 13])
def test_every_count_is_that_of_the_whole_table(exact_linear_pair, monkeypatch, n, k):
    # chunks of 4 rows: K is no multiple of them, nor N of a batch; what is reported is that of all tables joined
    pair, x = shifted(exact_linear_pair), items(n)
    seen = []

    def watched(pair, part, codes):
        table = weighed(pair, part, codes)
        seen.append((len(part), table))
        return table

    monkeypatch.setattr(tables, "weighed", watched)
    for estimator in (pyrovae.iwae, pyrovae.elbo):
        seen.clear()
        found = estimator(pair, x, num_particles=k, max_bytes=4 * 6 * 6 * 8).pointwise
        assert max(count * len(table.log_weight) for count, table in seen) <= 4
        whole, at = [], 0
        while at < len(seen):  # the chunks of one part follow each other
            rows, count = [], 0
            while count < k:
                rows.append(seen[at][1].log_weight)
                count += len(rows[-1])
                at += 1
            whole.append(torch.cat(rows))
        table = torch.cat(whole, 1)
        assert table.shape == (k, n)
        expected = table.logsumexp(0) - math.log(k) if estimator is pyrovae.iwae else table.mean(0)
        assert np.allclose(found.value.values, expected.detach(), atol=1e-12)
        if k > 1:
            se = log_mean(table)["se"] if estimator is pyrovae.iwae else table.std(0).detach() / math.sqrt(k)
            assert np.allclose(found.se.values, se, atol=1e-12)
        assert np.allclose(found.ess.values, 1 / table.softmax(0).square().sum(0).detach())


def test_memory_is_what_was_asked_for(monkeypatch):
    # 64 particles of 3 items in budgets of one row and of all of them
    vae, x, sizes = pyrovae.mlp_vae((4,), hidden_dims=(16,)), torch.zeros(3, 4), []
    monkeypatch.setattr(
        tables, "particles", lambda pair, part, k: sizes.append(k * len(part)) or particles(pair, part, k)
    )
    monkeypatch.setattr(
        tables, "weighed", lambda pair, part, codes: sizes.append(codes.log_guide.numel()) or weighed(pair, part, codes)
    )
    pyrovae.iwae(vae, x, num_particles=64, max_bytes=1)
    assert set(sizes) == {1}
    assert len(sizes) == 64 * 3
    sizes.clear()
    pyrovae.iwae(vae, x, num_particles=64)
    assert sizes == [64 * 3]


@pytest.mark.parametrize("usual", [2**26, 1_500, 30])  # all codes drawn at once, some items', an item's part
def test_memory_changes_no_draw(monkeypatch, usual):
    torch.manual_seed(0)
    vae, x = pyrovae.mlp_vae((3,), 2, hidden_dims=(4,)).double(), torch.eye(3).repeat(2, 1)[:5]
    monkeypatch.setattr(tables, "MAX_BYTES", usual)
    for estimator in (pyrovae.elbo, pyrovae.iwae):
        expected = estimator(vae, x, num_particles=4, max_bytes=usual).pointwise
        for given in (1, 2_000, 10**9):
            found = estimator(vae, x, num_particles=4, max_bytes=given).pointwise
            for name in ("value", "se", "ess"):
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, err_msg=f"{name} {given}")
        other = estimator(vae, x, num_particles=4, max_bytes=usual, seed=1).pointwise.value
        assert float(abs(other - expected.value).min()) > 1e-6  # control: another seed


def test_memory_changes_no_draw_of_a_flow_or_of_two_sites(monkeypatch):
    # a flow's density is that of the values it made, which no chunk need invert; sites are cut along their plates
    class Two(torch.nn.Module):
        event_shape, latent_dim, is_normalized = (3,), 2, True

        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def model(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                kind = pyro.sample("kind", pyro.distributions.Normal(torch.zeros_like(self.loc[0]), 1.0))
                z = pyro.sample("latent", pyro.distributions.Normal(self.loc, 1.0).to_event(1))
                mean = torch.cat([z, kind[..., None]], -1)
                return pyro.sample("obs", pyro.distributions.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            with pyro.plate("data", len(x)):
                pyro.sample("kind", pyro.distributions.Normal(x[:, 2] / 2, 1.0))
                bent = pyro.distributions.Normal(x[:, :2], 0.7).to_event(1)
                pyro.sample(
                    "latent",
                    pyro.distributions.TransformedDistribution(bent, pyro.distributions.transforms.Planar(2).double()),
                )

    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    pair = Two()
    torch.manual_seed(0)
    expected = pyrovae.iwae(pair, x, num_particles=6).pointwise.value
    for given in (1, 200, 10**9):
        torch.manual_seed(0)
        found = pyrovae.iwae(pair, x, num_particles=6, max_bytes=given).pointwise.value
        np.testing.assert_allclose(found, expected, rtol=1e-12)


class TestParetoShape:
    @pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.3])
    def test_of_a_known_tail(self, shape):
        u = torch.rand(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert np.allclose(evidence.pareto_k(-shape * u.log()), shape, atol=0.12)  # tails of 1,342: sd (1 + k) / 37

    @pytest.mark.parametrize("count", [100, 900, 4900])  # elsewhere the two versions round the tail up and down
    def test_is_that_of_arviz(self, count):
        arviz = pytest.importorskip("arviz")
        generator = torch.Generator().manual_seed(count)
        table = 2 * torch.randn(count, 4, dtype=torch.float64, generator=generator).exp()
        if hasattr(arviz, "psislw"):  # 0.x
            expected = [float(arviz.psislw(column.numpy().copy())[1]) for column in table.T]
        else:
            from arviz_stats.base import array_stats

            # takes log-likelihoods, whose negatives are the log-weights
            expected = [float(array_stats.psislw(-column.numpy())[1]) for column in table.T]
        assert np.allclose(evidence.pareto_k(table), expected, atol=1e-6)

    def test_of_few_and_of_equal_weights(self):
        assert np.isnan(evidence.pareto_k(torch.randn(20, 2))).all()
        assert (evidence.pareto_k(torch.zeros(100, 2)) == -math.inf).all()

    def test_weights_that_importance_sampling_cannot_average_are_seen(self):
        # q is far narrower than the posterior: the weights' tail has no mean
        torch.manual_seed(0)
        pair = pyrovae.linear_vae(6, 3, likelihood=pyrovae.Normal(scale=1.0)).double()
        with torch.no_grad():
            pair.posterior.raw_log_scale.fill_(-2.0)
        k = pyrovae.iwae(pair, pair.sample(50, seed=0)).pointwise.pareto_k.values
        assert (k > 0.7).sum() > 40


def poor_pair(scale=0.2):
    """A linear pair whose guide is far from the posterior: log-weights of sd 4.5 and more for most items."""
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(6, 3, likelihood=pyrovae.Normal(scale=scale)).double()
    with torch.no_grad():
        pair.posterior.raw_log_scale.fill_(-1.0)
    return pair


class TestUnreliableItems:
    def test_are_counted_in_the_line_and_carried_on(self):
        pair, x = poor_pair(), 2 * items()
        estimate = pyrovae.iwae(pair, x, num_particles=100)
        flags = estimate.pointwise.unreliable.values
        assert flags.dtype == bool
        assert 0 < flags.sum() < 9 or flags.all()
        assert f"(9 items, {flags.sum()} unreliable)" in str(estimate)
        exact = pyrovae.exact(pair, x)
        assert np.array_equal((exact - estimate).pointwise.unreliable.values, flags)
        assert f"(9 items, {flags.sum()} unreliable)" in str(estimate - exact)
        assert "unreliable" not in str(exact)
        assert "unreliable" not in exact.pointwise
        assert "unreliable" not in str(estimate - estimate)  # one estimate less itself has no error
        more = pyrovae.iwae(pair, x, num_particles=100, seed=1)
        assert np.array_equal((estimate - more).pointwise.unreliable.values, flags | more.pointwise.unreliable.values)

    def test_are_none_where_the_guide_is_good(self, exact_linear_pair):
        estimate = pyrovae.iwae(exact_linear_pair, items(), num_particles=100)
        assert not estimate.pointwise.unreliable.any()
        assert "unreliable" not in str(estimate)

    def test_are_the_ones_that_lie_far_below_the_evidence(self):
        # at 100 particles the flagged items' bounds are below log p(x) by more than their errors in the mean
        pair, x = poor_pair(), 2 * items()
        exact = pyrovae.exact(pair, x).pointwise.value.values
        runs = [pyrovae.iwae(pair, x, num_particles=100, seed=seed).pointwise for seed in range(8)]
        value, se, flags = (np.stack([run[n].values for run in runs]) for n in ("value", "se", "unreliable"))
        always = flags.mean(0) > 0.8
        assert always.any()
        assert ((exact - value.mean(0)) > np.sqrt((se**2).mean(0)))[always].all()

    def test_files_hold_the_flags(self, tmp_path):
        estimate = pyrovae.iwae(poor_pair(), 2 * items(), num_particles=100)
        estimate.pointwise.to_netcdf(tmp_path / "estimate.nc")
        with xr.open_dataset(tmp_path / "estimate.nc") as again:
            assert again.unreliable.dtype == bool
            assert np.array_equal(again.unreliable, estimate.pointwise.unreliable)


class TestWeightsThatAreNoNumbers:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("part", ["likelihood.network.weight", "posterior.loc.bias"])
    def test_of_a_pair_are_refused_by_name(self, exact_linear_pair, value, part):
        with torch.no_grad():
            exact_linear_pair.get_parameter(part).flatten()[1] = value
        for estimator in (pyrovae.elbo, pyrovae.iwae, pyrovae.ais, pyrovae.exact):
            message = rf"{estimator.__name__} needs finite weights: parameter '{part}' has 1 of \d+ values that are NaN"
            with pytest.raises(ValueError, match=message):
                estimator(exact_linear_pair, items())

    def test_of_other_estimators_and_buffers_too(self, exact_linear_pair):
        evidence = pyrovae.exact(exact_linear_pair, items())
        exact_linear_pair.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        assert np.isfinite(pyrovae.iwae(exact_linear_pair, items(), num_particles=2).mean)  # a mask may be infinite
        exact_linear_pair.mask[0] = math.nan
        calls = {
            "quadrature": lambda: pyrovae.quadrature(exact_linear_pair, items()),
            "bdmc": lambda: pyrovae.bdmc(exact_linear_pair, 2),
            "gaps": lambda: pyrovae.gaps(exact_linear_pair, items(), evidence),
            "calibrate": lambda: pyrovae.calibrate(exact_linear_pair),
            "to_arviz": lambda: pyrovae.to_arviz(exact_linear_pair, items()),
        }
        for name, call in calls.items():
            with pytest.raises(ValueError, match=f"{name} needs finite weights: buffer 'mask' has 1 of 2 values"):
                call()

    def test_of_a_mixture(self):
        mixture = pyrovae.GaussianMixture((2,), 2)
        with torch.no_grad():
            mixture.components.loc[0, 0] = math.nan
        with pytest.raises(ValueError, match=r"exact needs finite weights: parameter 'components\.loc'"):
            pyrovae.exact(mixture, torch.zeros(2, 2))


def test_lines_say_whose_error_it_is(exact_linear_pair):
    x = items()
    exact, drawn = pyrovae.exact(exact_linear_pair, x), pyrovae.elbo(shifted(copy.deepcopy(exact_linear_pair)), x)
    assert "±" not in str(exact)
    assert "Monte Carlo" in str(drawn)
    pair = pyrovae.linear_vae(6, 2).double()
    assert "(grid error)" in str(pyrovae.quadrature(pair, x))
    lower, upper = pyrovae.bdmc(pair, 3, num_steps=2, progress=False)
    for one in (lower, upper, upper - lower):
        assert "(over items)" in str(one)
    assert "±" not in str(pyrovae.elbo(pair, x, analytic=True))
    assert "(grid error)" in str(pyrovae.exact(pair, x) - pyrovae.quadrature(pair, x))
    assert "(Monte Carlo, grid error)" in str(pyrovae.quadrature(pair, x) - pyrovae.elbo(pair, x))
    gap = pyrovae.exact(pair, x) - pyrovae.elbo(pair, x)
    assert "(Monte Carlo)" in str(gap)
    assert "density" not in str(gap)
    assert "bits" not in gap.line(bits=True)
    assert "bits per dimension of a density" in exact.line(bits=True)


def test_weights_that_are_all_zero_have_no_mean_but_minus_infinity():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = pyrovae.iwae(pyrovae.linear_vae(6, 2, likelihood=pyrovae.Normal(scale=1e-18)).float(), 1e3 * items(2))
    assert (found.pointwise.value.values == -math.inf).all()


def test_memory_counts_what_layers_hold():
    from pyrovae.models.layers import rows_within

    wide = rows_within(pyrovae.conv_vae((1, 28, 28)).float(), torch.zeros(1, 1, 28, 28, dtype=torch.float32), 2**30)
    assert 2**30 / (wide * 4 * 28 * 28 * 32) == pytest.approx(6, rel=0.01)  # 32 channels of 28 x 28

    class Learned(torch.nn.Module):
        """A prior that runs a wide layer, once whatever the number of codes."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 5000)

        def forward(self):
            loc = self.layer(torch.zeros(500, 1)).mean() + torch.zeros(2)
            return pyro.distributions.Normal(loc, 1.0).to_event(1)

    vae, x = pyrovae.mlp_vae((4,), hidden_dims=(16,)), torch.zeros(1, 4)
    before = rows_within(vae, x, 2**20)
    assert before == 2**20 // (6 * 16 * x.element_size())
    vae.prior = Learned()
    assert rows_within(vae, x, 2**20) == before
    vae.likelihood.network = torch.jit.script(torch.nn.Linear(2, 4))
    assert math.isfinite(pyrovae.iwae(vae, torch.zeros(2, 4), num_particles=2).mean)


def test_a_pair_with_a_site_of_another_name_is_told_what_is_wanted():
    class Other(torch.nn.Module):
        event_shape, latent_dim, is_normalized = (2,), 1, True

        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(1))

        def model(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(1), 1.0).to_event(1))
                return pyro.sample("obs", pyro.distributions.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                pyro.sample("z", pyro.distributions.Normal(self.loc, 1.0).to_event(1))

    pair, x = Other(), torch.zeros(3, 2)
    assert math.isfinite(pyrovae.iwae(pair, x).mean)
    calls = {
        "quadrature": lambda: pyrovae.quadrature(pair, x),
        "ais": lambda: pyrovae.ais(pair, x),
        "bdmc": lambda: pyrovae.bdmc(pair, 2),
        "calibrate": lambda: pyrovae.calibrate(pair),
        "gaps": lambda: pyrovae.gaps(pair, x, pyrovae.iwae(pair, x)),
        "to_arviz": lambda: pyrovae.to_arviz(pair, x),
    }
    for name, call in calls.items():
        with pytest.raises(
            ValueError, match=f"{name} needs a model whose one unobserved site is named 'latent'; those of Other: 'z'"
        ):
            call()


def test_bits_names_and_lines(exact_linear_pair):
    vae = pyrovae.mlp_vae((1, 2, 2))
    estimate = pyrovae.elbo(vae, torch.ones(3, 1, 2, 2))
    assert estimate.bits_per_dimension == pytest.approx(-estimate.mean / (4 * math.log(2)))
    assert "bits per dimension" in estimate.line(bits=True)
    assert "bits" not in str(estimate)
    assert "log mass" in str(estimate)
    named = estimate.named(data="digits", binarization="sampled, seed 0")
    assert named.pointwise.attrs["data"] == "digits"
    assert named.pointwise.attrs["binarization"] == "sampled, seed 0"
    assert named.pointwise.attrs["items_binary"] == 1
    assert "data" not in estimate.pointwise.attrs
    assert (named - estimate).kind == "difference between runs of elbo"
    grey = pyrovae.elbo(exact_linear_pair, items())
    assert grey.pointwise.attrs["items_binary"] == 0
    assert "Lebesgue" in grey.pointwise.attrs["base_measure_scale"]
    for word in ("num_particles", "seed", "items_sha256", "pair_sha256", "num_items", "estimator"):
        assert word in pyrovae.iwae(vae, torch.ones(3, 1, 2, 2)).pointwise.attrs


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
        settings = {"num_steps": 2, "progress": False}
        wide, narrow = (
            pyrovae.ais(pair, items(), num_chains=k, **settings)
            for pair, k in ((gauss, 2), (shifted(copy.deepcopy(gauss)), 4))
        )
        with pytest.raises(ValueError, match=r"ais\(2\) was run with num_chains 2 and 4; run both alike"):
            wide - narrow
        other = Estimate("iwae(5)", pyrovae.elbo(shifted(gauss), items()).pointwise)
        with pytest.raises(ValueError, match="differ in two ways at once"):
            a - other

    @pytest.mark.slow
    def test_the_stated_error_of_a_difference_is_what_repeats_show(self, exact_linear_pair):
        # the pair and its mirror image (z to -z): the same model, so noise shared between the two would not cancel.
        # 200 repeats, ratio of stated to seen within 0.75..1.3: over 5 standard deviations
        pair, x = shifted(exact_linear_pair), items()
        mirror = copy.deepcopy(pair)
        with torch.no_grad():
            for weights in (mirror.likelihood.network.weight, mirror.posterior.loc.weight, mirror.posterior.loc.bias):
                weights.neg_()
        repeats = x.repeat(200, 1)
        difference = pyrovae.elbo(pair, repeats) - pyrovae.elbo(mirror, repeats)
        seen = difference.pointwise.value.values.reshape(200, 9).mean(1).std(ddof=1)
        assert 0.75 < difference.se * math.sqrt(200) / seen < 1.3
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
        assert (again - before).kind == "difference between runs of elbo"
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

    def test_each_says_how_it_stands_to_log_p_and_what_must_agree(self, exact_linear_pair):
        pair, x = exact_linear_pair, items()[:2]
        small = {"num_chains": 2, "num_steps": 2, "num_leapfrog": 1, "progress": False}
        lower, upper = pyrovae.bdmc(pair, 2, **small)
        found = {
            "exact": [pyrovae.exact(pair, x), pyrovae.quadrature(pyrovae.linear_vae(6, 2), x)],
            "lower": [
                pyrovae.elbo(pair, x),
                pyrovae.iwae(pair, x, num_particles=3),
                pyrovae.ais(pair, x, **small),
                lower,
            ],
            "upper": [upper],
        }
        for bound, estimates in found.items():
            assert [estimate.bound for estimate in estimates] == [bound] * len(estimates)
        assert (
            lower.settings
            == upper.settings
            == {"num_chains": 2, "num_leapfrog": 1, "base": "prior", "schedule": "adaptive"}
        )
        assert found["lower"][0].settings == {}
        assert (found["exact"][0] - found["lower"][0]).bound is None
        assert Estimate("mine", xr.Dataset({"value": ("item", [1.0]), "se": ("item", [0.1])})).bound is None

    def test_an_estimator_of_ones_own_is_compared_by_its_settings(self, exact_linear_pair):
        # no table of names knows it: what must agree stands in its protocol
        def mine(pair, depth):
            attributes = {"estimator": "mine", "settings": "depth", "depth": depth}
            return Estimate("mine", pyrovae.exact(pair, items()).pointwise.assign_attrs(attributes))

        other = shifted(copy.deepcopy(exact_linear_pair))
        assert (mine(exact_linear_pair, 3) - mine(other, 3)).kind == "difference in mine"
        with pytest.raises(ValueError, match="two pairs under two estimators: mine was run with depth 3 and 4"):
            mine(exact_linear_pair, 3) - mine(other, 4)

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
        estimate = pyrovae.elbo(pyrovae.linear_vae(6, 2).float(), x)
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
    half = pyrovae.linear_vae(6, 2).to(torch.bfloat16)
    single = pyrovae.elbo(half, items(), num_particles=1), pyrovae.ais(half, items(), num_chains=1, num_steps=1)
    for estimate in single:  # one weight, which would have 8 binary digits if summed in bfloat16
        value = torch.from_numpy(estimate.pointwise.value.values)
        assert value.isfinite().all()
        assert (value != value.to(torch.bfloat16)).all()


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
            (torch.full((2, 3), 2.0), "outside the support of the bernoulli likelihood"),
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


# which items --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("estimator", ["elbo", "iwae", "quadrature", "exact"])
def test_items_of_a_split_items_with_gradients_and_items_far_from_zero(estimator):
    torch.manual_seed(0)
    pair, x = pyrovae.linear_vae(3, 1), torch.randn(6, 3)
    few = {"iwae": {"num_particles": 5}}.get(estimator, {})

    def values(items):
        return getattr(pyrovae, estimator)(pair, items, **few).pointwise.value.values

    wanted, leaf = values(x), x.clone().requires_grad_()
    for same in (pyrovae.data.Split(x, torch.arange(6)), pyrovae.data.Split(x), leaf, x.double().numpy()):
        assert np.array_equal(values(same), wanted)
    assert leaf.grad is None
    far = 4.5e6 + 0.1 * torch.randn(20, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="does not hold x"):
        values(far)
    if estimator == "exact":  # in float64 it is right: the same pair about another centre
        with torch.no_grad():
            near = linear_log_prob(pair.double(), far - 4.5e6).numpy()
            pair.likelihood.network.bias += 4.5e6
        assert values(far) == pytest.approx(near, abs=1e-5)


class TestUnitsOfLinearPairs:
    """A linear pair at the maximum of its likelihood, in closed form: x -> a Q x + b moves log p by -D log a."""

    @staticmethod
    def best(x: np.ndarray, codes: int = 2) -> tuple[np.ndarray, float]:
        """log p(x) under the linear VAE at its maximum (Tipping and Bishop 1999, eq. 7 and 8), and s^2."""
        loc, covariance = x.mean(0), np.cov(x.T, bias=True)
        value, vector = np.linalg.eigh(covariance)
        noise = value[:-codes].mean()
        pair = pyrovae.linear_vae(x.shape[1], codes, likelihood=pyrovae.Normal(scale=float(noise**0.5))).double()
        with torch.no_grad():
            weight = vector[:, -codes:] * np.sqrt(value[-codes:] - noise)
            pair.likelihood.network.weight.copy_(torch.from_numpy(weight))
            pair.likelihood.network.bias.copy_(torch.from_numpy(loc))
        return pyrovae.exact(pair, torch.from_numpy(x)).pointwise.value.values, noise

    @hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
    @hypothesis.given(st.integers(0, 2**16), st.floats(-6, 6), st.floats(-1e3, 1e3))
    def test_a_common_scale_and_a_rotation(self, seed, power, shift):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
        turn, a = np.linalg.qr(rng.normal(size=(4, 4)))[0], 10.0**power
        (plain, noise), (moved, other) = self.best(x), self.best(a * (x @ turn + shift * x.std()))
        assert np.abs(moved + 4 * np.log(a) - plain).max() < 1e-9
        assert other == pytest.approx(a**2 * noise, rel=1e-9)

    def test_a_scale_of_one_column_is_another_maximum(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
        moved = self.best(x * [10.0, 1.0, 1.0, 1.0])[0] + np.log(10.0)
        assert abs(moved.mean() - self.best(x)[0].mean()) > 1e-2
