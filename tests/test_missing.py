"""Items with missing entries: log p of what was seen, the encoder that sees what is missing, and what is refused."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

import pyrovae
from pyrovae.data import Split
from pyrovae.models.batch import Batch
from pyrovae.models.missing import SeenEntries, filling_of
from pyrovae.models.particles import particles
from pyrovae.models.parts.encoder_inputs import SeenInput


def with_gaps(x, share=0.4, seed=1):
    """The items with a share of the entries missing, and one item of which all are."""
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    mask[0] = True
    return x.masked_fill(mask, math.nan), mask


def marginals(pair, x):
    """log p of the seen entries of each item under a linear pair, by scipy's normal of that part alone."""
    weight, bias = (p.detach().double().numpy() for p in (pair.likelihood.network.weight, pair.likelihood.network.bias))
    covariance = weight @ weight.T + float(pair.likelihood.family.scale) ** 2 * np.eye(len(bias))
    values = []
    for row in x.double().numpy():
        seen = ~np.isnan(row)
        law = multivariate_normal(bias[seen], covariance[np.ix_(seen, seen)]) if seen.any() else None
        values.append(0.0 if law is None else law.logpdf(row[seen]))
    return np.array(values)


@pytest.fixture
def linear():
    """A linear pair in float64 whose encoder takes missing entries, and items with gaps."""
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(5, 2, missing=True, likelihood=pyrovae.Normal(scale=0.6)).double()
    x, mask = with_gaps(pair.sample(12, seed=0))
    return pair, x, mask


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no entry that was seen:UserWarning"),
    pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning"),
]


class TestLogDensityOfWhatWasSeen:
    def test_exact_is_the_normal_of_the_seen_entries(self, linear):
        pair, x, mask = linear
        found = pyrovae.exact(pair, x, missing=True)
        assert np.abs(found.pointwise.value.values - marginals(pair, x)).max() < 1e-10
        as_zero = pyrovae.exact(pair, x.nan_to_num(0.0))  # what is missing taken for a zero
        assert np.abs(as_zero.pointwise.value.values - marginals(pair, x)).max() > 1
        assert found.pointwise.attrs["missing_entries"] == int(mask.sum())
        assert str(found).endswith("log density of what was seen  (12 items)")

    def test_a_prior_of_another_mean_and_scale(self, linear):
        pair, x, _ = linear
        mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
        prior = pyrovae.GaussianPrior(mean, torch.eye(2, dtype=torch.float64))
        moved = pyrovae.VAE(prior, pair.likelihood, pair.posterior)
        network = pair.likelihood.network
        shifted = pyrovae.linear_vae(5, 2, missing=True, likelihood=pyrovae.Normal(scale=0.6)).double()
        with torch.no_grad():
            shifted.likelihood.network.weight.copy_(network.weight)
            shifted.likelihood.network.bias.copy_(network.bias + network.weight @ mean)
        found, wanted = (pyrovae.exact(each, x, missing=True).pointwise.value.values for each in (moved, shifted))
        assert np.abs(found - wanted).max() < 1e-10

    def test_a_prior_for_each_item(self):
        torch.manual_seed(0)
        options = {"covariate_dim": 2, "prior": "conditional", "likelihood": pyrovae.Normal(scale=0.6)}
        pair = pyrovae.linear_vae(4, 2, missing=True, **options).double()
        c = torch.randn(9, 2, dtype=torch.float64)
        x, _ = with_gaps(pair.sample(9, covariates=c, seed=0))
        found = pyrovae.exact(pair, Split(x, None, covariates=c, missing=True)).pointwise.value.values
        with torch.no_grad():
            prior, network = pair.prior(covariates=c), pair.likelihood.network
            at_zero = network(torch.cat([torch.zeros(9, 2).double(), c], 1))
            weight = network.weight[:, :2]
            for n, row in enumerate(x):
                seen = ~row.isnan()
                mean = (at_zero[n] + weight @ prior.mean[n])[seen]
                covariance = (weight @ torch.diag(prior.variance[n]) @ weight.T + 0.36 * torch.eye(4).double())[seen][
                    :, seen
                ]
                law = multivariate_normal(mean, covariance) if seen.any() else None
                assert abs(found[n] - (0.0 if law is None else law.logpdf(row[seen]))) < 1e-10

    @pytest.mark.slow
    def test_quadrature_of_a_pair_whose_encoder_takes_whole_items(self, linear):
        pair, x, _ = linear
        whole = pyrovae.linear_vae(5, 2, likelihood=pyrovae.Normal(scale=0.6)).double()
        whole.likelihood.load_state_dict(pair.likelihood.state_dict())
        for each in (pair, whole):
            found = pyrovae.quadrature(each, x, missing=True, tol=1e-5)
            assert np.abs(found.pointwise.value.values - marginals(pair, x)).max() < 1e-5

    @pytest.mark.slow
    def test_annealing_agrees_with_the_closed_form(self, linear):
        # within 5 standard errors: false alarm 6e-7
        pair, x, _ = linear
        found = pyrovae.ais(pair, x, missing=True, num_steps=150, progress=False)
        assert abs(found.mean - marginals(pair, x).mean()) < 5 * found.se + found.se**2 * len(x), str(found)

    def test_both_bounds_by_draws_agree_with_their_closed_forms(self, linear):
        # each within 5 standard errors: 2 checks, false alarm 1e-6
        pair, x, _ = linear
        truth = marginals(pair, x).mean()
        found = pyrovae.iwae(pair, x, missing=True, num_particles=4000)
        assert abs(found.mean - truth) < 5 * found.se + found.se**2 * len(x), str(found)
        bound = pyrovae.elbo(pair, x, missing=True, num_particles=4000)
        q, gap = pair.posterior(x), []
        weight = pair.likelihood.network.weight.detach()
        for n, row in enumerate(x):
            seen = ~row.isnan()
            precision = torch.eye(2, dtype=x.dtype) + weight[seen].T @ weight[seen] / 0.36
            centred = (row - pair.likelihood.network.bias)[seen]
            mean = torch.linalg.solve(precision, weight[seen].T @ centred) / 0.36
            of_z = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
            of_q = torch.distributions.MultivariateNormal(q.mean[n], torch.diag(q.variance[n]))
            gap.append(torch.distributions.kl_divergence(of_q, of_z).item())
        assert abs(truth - np.mean(gap) - bound.mean) < 5 * bound.se

    @pytest.mark.slow
    def test_both_bounds_of_simulated_items(self, linear):
        pair, _, _ = linear
        mask = torch.tensor([True, False, False, True, False])
        lower, upper = pyrovae.bdmc(pair, 12, missing=mask, num_steps=150, progress=False)
        x = torch.from_numpy(lower.pointwise.obs.values).masked_fill(mask, math.nan)
        truth = marginals(pair, x).mean()
        assert lower.mean - 0.05 < truth < upper.mean + 0.05 and upper.mean - lower.mean < 0.1
        with pytest.raises(ValueError, match=r"missing must be a mask of shape \(12, 5\) or \(5,\)"):
            pyrovae.bdmc(pair, 12, missing=mask[:3])

    @pytest.mark.slow
    def test_the_gap_is_that_to_the_posterior_given_what_was_seen(self, linear):
        pair, x, _ = linear
        ledger = pyrovae.gaps(pair, x[:4], pyrovae.exact(pair, x[:4], missing=True), missing=True, progress=False)
        bound = pyrovae.elbo(pair, x[:4], missing=True, num_particles=4000)
        gap = marginals(pair, x[:4]).mean() - bound.mean
        se = float(np.sqrt((ledger.pointwise.gap_se**2).sum())) / 4
        assert abs(float(ledger.pointwise.gap.mean()) - gap) < 5 * math.hypot(se, bound.se)


FAMILIES = [
    "bernoulli",
    "continuous_bernoulli",
    "normal",
    "poisson",
    "gamma",
    "categorical(num_classes=3)",
    "student_t",
]


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_any_family_leaves_out_the_terms_of_missing_entries(likelihood):
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((4,), latent_dim=1, hidden_dims=(8,), likelihood=likelihood, missing=True).double()
    x, mask = with_gaps(pair.sample(7, seed=0))
    z = torch.linspace(-2, 2, 5, dtype=x.dtype)[:, None]
    p = pair.likelihood(z[:, None])
    filled = torch.where(mask, torch.as_tensor(filling_of(pair.likelihood), dtype=x.dtype), x)
    terms = p.base_dist.log_prob(filled)
    wanted = (terms * ~mask).sum(-1)  # not by where(): another way to leave them out
    assert torch.allclose(SeenEntries(p, filling_of(pair.likelihood)).log_prob(x), wanted, atol=1e-12)
    assert torch.allclose(pair.likelihood.log_prob_table(z, x, missing=True), wanted, atol=1e-10)
    other = torch.where(mask, 2.0 if likelihood.startswith("cat") else 0.25, filled)
    unlike = pair.likelihood.log_prob_table(z, other if likelihood not in ("bernoulli", "poisson") else filled)
    assert (unlike - wanted).abs().max() > 0.1  # with a term for what is missing

    # exp(iwae) is an unbiased estimate of p: within 5 standard errors, false alarm 6e-7 a family
    truth = pyrovae.quadrature(pair, x, missing=True, tol=1e-6).pointwise.value.values
    found = pyrovae.iwae(pair, x, missing=True, num_particles=4000).pointwise
    ratio, se = np.exp(found.value.values - truth), found.se.values
    assert abs((ratio - 1).mean()) < 5 * np.sqrt((se**2).sum()) / len(se) + 1e-5


class TestEncoder:
    def test_it_sees_zero_and_the_mask(self):
        layer = SeenInput(None, 3)
        x = torch.tensor([[[[1.0, math.nan]]]])
        assert torch.equal(layer(x), torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]))
        counts = pyrovae.Categorical(num_classes=3).encoder_input((2,))
        one_hot = SeenInput(counts, 1)(torch.tensor([[2.0, math.nan]]))
        assert one_hot.tolist() == [[0, 0, 1, 0, 0, 0, 1, 0]]

    @pytest.mark.parametrize(
        "build",
        [
            lambda: pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="normal", missing=True),
            lambda: pyrovae.linear_vae(4, 2, missing=True),
            lambda: pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="normal", missing=True, posterior="full"),
            lambda: pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="normal", missing=True, posterior="flow"),
            lambda: pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="poisson", missing=True, prior="vamp"),
        ],
    )
    def test_a_zero_that_was_seen_is_another_item(self, build):
        torch.manual_seed(0)
        pair = build()
        assert pair.takes_missing
        seen, gone = torch.ones(1, 4), torch.ones(1, 4)
        seen[0, 2], gone[0, 2] = 0.0, math.nan
        a, b = pair.encode(seen), pair.encode(gone, missing=True)
        assert a.isfinite().all() and b.isfinite().all() and (a - b).abs().max() > 1e-3
        assert torch.equal(pair.encode(seen, missing=True), a)  # an item that lacks nothing
        assert pair.reconstruct(gone, missing=True).isfinite().all()

    def test_images_get_the_mask_as_channels(self):
        torch.manual_seed(0)
        pair = pyrovae.conv_vae((1, 8, 8), channels=(4, 4), strides=(2, 2), missing=True)
        x = torch.bernoulli(torch.full((6, 1, 8, 8), 0.5))
        x[:, :, 4:] = math.nan
        x[0, 0, 0, 0] = 1.0
        pyrovae.fit(pair, x[:, :, :4].repeat(1, 1, 2, 1), epochs=1, progress=False)
        assert pyrovae.elbo(pair, x, missing=True, num_particles=2).mean < 0

    def test_beside_covariates(self):
        torch.manual_seed(0)
        pair = pyrovae.mlp_vae((4,), hidden_dims=(8,), likelihood="normal", covariate_dim=2, missing=True)
        x, _ = with_gaps(torch.randn(30, 4))
        split = Split(x, None, covariates=torch.randn(30, 2), missing=True)
        assert math.isfinite(float(pyrovae.fit(pair, split, epochs=2, progress=False).epochs.loss[-1]))
        assert pair.encode(split).shape == (30, 2)
        assert math.isfinite(pyrovae.iwae(pair, split, num_particles=3).mean)

    def test_a_saved_one_comes_back(self, linear, tmp_path):
        pair, x, _ = linear
        pyrovae.save(tmp_path / "pair", pair)
        again = pyrovae.load(tmp_path / "pair")
        assert again.takes_missing and torch.equal(again.encode(x, missing=True), pair.encode(x, missing=True))


class TestFit:
    def test_a_mask_and_nan_are_one_fit(self):
        torch.manual_seed(0)
        x, mask = with_gaps(torch.randn(40, 4))
        start = pyrovae.linear_vae(4, 1, missing=True)
        states = []
        for items in (
            {"x": x, "missing": True},
            {"x": torch.where(mask, 7.0, x), "missing": mask},
            {"x": Split(x, None, missing=mask)},
            {"x": Split(x.double(), None, missing=True)[:]},
        ):
            pair = pyrovae.linear_vae(4, 1, missing=True)
            pair.load_state_dict(start.state_dict())
            history = pyrovae.fit(pair, **items, epochs=3, batch_size=16, progress=False, compile=False)
            assert history.config["missing_entries"] == int(mask.sum())
            states.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        assert all(torch.equal(states[0], state) for state in states)

    def test_nothing_missing_is_the_fit_of_whole_items(self):
        x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        states = []
        for missing in (None, True, torch.zeros(40, 4, dtype=torch.bool)):
            torch.manual_seed(0)
            pair = pyrovae.mlp_vae((4,), hidden_dims=(5,), likelihood="normal")
            pyrovae.fit(pair, x, missing=missing, epochs=2, progress=False, compile=False)
            states.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])

    def test_its_loss_is_minus_the_bound_of_what_was_seen(self, linear):
        pair, x, _ = linear
        history = pyrovae.fit(
            pair, x, missing=True, validation=x, epochs=1, learning_rate=1e-12, num_particles=2000, batch_size="all",
            progress=False, compile=False,
        )  # fmt: skip
        bound = pyrovae.elbo(pair, x, missing=True, num_particles=4000)
        assert abs(float(history.epochs.loss[0]) + bound.mean) < 5 * bound.se * math.sqrt(3)  # false alarm 6e-7
        # MIWAE's bound
        history = pyrovae.fit(
            pair, x, missing=True, epochs=1, learning_rate=1e-12, objective="iwae", num_particles=2000,
            batch_size="all", progress=False, compile=False,
        )  # fmt: skip
        assert abs(float(history.epochs.loss[0]) + marginals(pair, x).mean()) < 0.02

    def test_grey_values_are_made_binary_where_seen(self):
        torch.manual_seed(0)
        x, _ = with_gaps(torch.rand(50, 6))
        pair = pyrovae.mlp_vae((6,), hidden_dims=(5,), missing=True)
        history = pyrovae.fit(pair, x, missing=True, validation=x, binarize=True, epochs=2, progress=False)
        assert bool(np.isfinite(history.epochs.validation_elbo).all())

    def test_a_run_that_goes_on_needs_the_same_gaps(self, tmp_path):
        torch.manual_seed(0)
        x, _ = with_gaps(torch.randn(40, 4))
        pair = pyrovae.linear_vae(4, 1, missing=True)
        pyrovae.fit(pair, x, missing=True, epochs=1, checkpoint=tmp_path / "run", progress=False)
        other, _ = with_gaps(x, seed=5)
        with pytest.raises(ValueError, match="items"):
            pyrovae.fit(pair, other, missing=True, epochs=2, checkpoint=tmp_path / "run", resume=True, progress=False)
        pyrovae.fit(pair, x, missing=True, epochs=2, checkpoint=tmp_path / "run", resume=True, progress=False)

    @pytest.mark.slow
    def test_the_compiled_step_is_the_eager_one(self):
        torch.manual_seed(0)
        x, _ = with_gaps(torch.randn(64, 4))
        states = []
        for compiled in (False, True):
            torch.manual_seed(1)
            pair = pyrovae.linear_vae(4, 2, missing=True)
            pyrovae.fit(pair, x, missing=True, epochs=5, batch_size=32, compile=compiled, progress=False)
            states.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        assert torch.allclose(*states, atol=1e-5)

    @pytest.mark.slow
    def test_missing_at_random_and_not_at_random(self):
        """x2 is missing more often where x1 is large: its mean is found; missing by its own value, it is not.

        4 standard errors of the mean's own sampling error: false alarm 6e-5.
        """
        generator = torch.Generator().manual_seed(0)
        count, truth = 4000, 1.0
        z = torch.randn(count, 1, generator=generator)
        x = truth + torch.cat([z, z], 1) + 0.5 * torch.randn(count, 2, generator=generator)
        drawn = torch.rand(count, generator=generator)
        by_x1 = drawn < torch.sigmoid(2 * (x[:, 0] - truth))
        by_itself = drawn < torch.sigmoid(2 * (x[:, 1] - truth))
        se = float(x[:, 1].std()) / math.sqrt(int((~by_x1).sum()))

        def found(gone):
            seen = x.clone()
            seen[gone, 1] = math.nan
            torch.manual_seed(0)
            # an encoder that a linear one is not: what x1 says of the code is another thing without x2
            encoder = nn.Sequential(SeenInput(None, 1), nn.Linear(4, 16), nn.Tanh())
            p = pyrovae.Likelihood(nn.Linear(1, 2), pyrovae.Normal(), (2,))
            pair = pyrovae.VAE(pyrovae.StandardNormal(1), p, pyrovae.DiagonalNormal(encoder, 16, 1))
            options = {"epochs": 60, "batch_size": 200, "learning_rate": 1e-2, "schedule": "cosine", "progress": False}
            pyrovae.fit(pair, seen, missing=True, objective="iwae", **options)
            return float(pair.likelihood.network.bias[1].detach()), float(seen[:, 1].nanmean())

        mean, of_seen = found(by_x1)
        assert abs(mean - truth) < 4 * se, (mean, se)
        assert abs(of_seen - truth) > 10 * se  # the mean of the complete cases
        mean, _ = found(by_itself)
        assert abs(mean - truth) > 10 * se  # not at random: no such fit is right


class TestRefused:
    def test_nan_that_nobody_has_called_missing(self, linear):
        pair, x, mask = linear
        for call in (
            lambda: pyrovae.fit(pair, x),
            lambda: pyrovae.elbo(pair, x),
            lambda: pair.encode(x),
            lambda: pyrovae.fit(pair, x[1:], missing=True, validation=Split(x, None)) and pyrovae.fit(pair, x),
        ):
            with pytest.raises(ValueError, match=r"must be finite: \d+ NaN or infinite values"):
                call()
        said = mask.clone()
        said[0] = False
        with pytest.raises(ValueError, match=r"x is NaN at \[0, 0\], which the mask does not call missing"):
            pyrovae.elbo(pair, x, missing=said)

    @pytest.mark.parametrize(
        ("missing", "error", "words"),
        [
            (torch.zeros(3, 5), TypeError, "True where an entry is missing, got an array of float32"),
            ("yes", TypeError, "missing of x must be True, or a mask"),
            (torch.ones(3, 4, dtype=torch.bool), ValueError, r"missing must have the shape of x, \(12, 5\)"),
        ],
    )
    def test_a_mask_that_is_none(self, linear, missing, error, words):
        pair, x, _ = linear
        with pytest.raises(error, match=words):
            pyrovae.elbo(pair, x, missing=missing)

    def test_an_encoder_that_takes_whole_items(self):
        pair, x = pyrovae.linear_vae(4, 1), with_gaps(torch.randn(6, 4))[0]
        for call in (
            lambda: pyrovae.fit(pair, x, missing=True),
            lambda: pyrovae.iwae(pair, x, missing=True),
            lambda: pair.encode(x, missing=True),
            lambda: pyrovae.ais(pair, x, missing=True, base="guide"),
            lambda: particles(pair, Batch(x, missing=True), 2),
        ):
            with pytest.raises(ValueError, match=r"the encoder of this VAE takes whole items: build the pair"):
                call()

    def test_what_uses_whole_items_says_so(self, linear):
        pair, x, mask = linear
        split = Split(x, None, missing=mask)
        for call in (
            lambda: pyrovae.to_arviz(pair, split),
            lambda: pyrovae.elbo(pair, split, analytic=True),
            lambda: pyrovae.NoveltyDetector(pair, split),
        ):
            with pytest.raises(
                ValueError, match=r"comes with missing entries, and \w+ takes none: give whole items, or"
            ):
                call()
        holes = x.masked_fill(mask, math.nan)
        for of_array in (pyrovae.to_arviz, pyrovae.predictive_checks, pyrovae.NoveltyDetector):
            with pytest.raises(ValueError, match=r"must be finite: .* drop them, or fill them in by impute first$"):
                of_array(pair, holes)

    def test_columns_and_rows_without_an_entry_are_named(self, linear):
        pair, x, _ = linear
        never = x.clone()
        never[:, 3] = math.nan
        with pytest.raises(ValueError, match=r"no entry of x\[:, 3\] was seen: nothing can be learnt of it"):
            pyrovae.fit(pair, never, missing=True)
        with pytest.warns(UserWarning, match="1 of 12 items of x have no entry .* the first of them item 0"):
            pyrovae.fit(pair, x, missing=True, epochs=1, progress=False)
        with pytest.warns(UserWarning, match="1 of 12 items of x have no entry that was seen"):
            pyrovae.elbo(pair, x, missing=True, num_particles=2)

    def test_values_outside_the_support_beside_gaps(self):
        pair = pyrovae.mlp_vae((3,), hidden_dims=(4,), missing=True)
        with pytest.raises(ValueError, match="has grey values"):
            pyrovae.fit(pair, [[0.5, math.nan, 1.0]], missing=True)
        with pytest.raises(ValueError, match="infinite values"):
            pyrovae.fit(pair, [[math.inf, math.nan, 1.0]], missing=True)

    def test_bits_per_dimension_and_comparisons(self, linear):
        pair, x, _ = linear
        some, whole = pyrovae.exact(pair, x, missing=True), pyrovae.exact(pair, x.nan_to_num(0.0))
        with pytest.raises(ValueError, match="different items"):
            some - whole
        with pytest.raises(ValueError, match="here entries are missing"):
            _ = some.bits_per_dimension


class Own(nn.Module):
    """A factor model by hand that takes missing entries, in plain Pyro."""

    event_shape, latent_dim, is_normalized, takes_missing = (3,), 1, True, True

    def __init__(self):
        super().__init__()
        self.loadings, self.encoder = nn.Parameter(torch.tensor([1.0, 0.5, -1.0])), nn.Linear(3, 1)

    def model(self, x=None, *, size=1, missing=False):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            p = dist.Normal(z * self.loadings, 1.0)
            if missing:
                seen = ~x.isnan()
                p, x = p.mask(seen), torch.where(seen, x, 0.0)
            return pyro.sample("obs", p.to_event(1), obs=x)

    def guide(self, x=None, *, size=1, missing=False):
        with pyro.plate("data", size if x is None else len(x)):
            loc = self.encoder(x.nan_to_num(0.0) if missing else x)
            return pyro.sample("latent", dist.Normal(loc, 0.7).to_event(1))


def test_a_pair_by_hand_states_that_it_takes_missing_entries():
    torch.manual_seed(0)
    pair = Own()
    x, _ = with_gaps(torch.randn(20, 3))
    pyrovae.fit(pair, x, missing=True, epochs=2, progress=False)
    loadings = pair.loadings.detach().double().numpy()
    covariance, wanted = np.outer(loadings, loadings) + np.eye(3), []
    for row in x.double().numpy():
        seen = ~np.isnan(row)
        law = multivariate_normal(np.zeros(seen.sum()), covariance[np.ix_(seen, seen)]) if seen.any() else None
        wanted.append(0.0 if law is None else law.logpdf(row[seen]))
    found = pyrovae.iwae(pair, x, missing=True, num_particles=5000)
    assert abs(found.mean - np.mean(wanted)) < 5 * found.se + 1e-3


def test_saying_so_beside_a_split_that_says_which(linear):
    pair, x, mask = linear
    split = Split(torch.where(mask, 7.0, x), None, missing=mask)
    assert pyrovae.exact(pair, split, missing=True).mean == pyrovae.exact(pair, split).mean


class TestAdvice:
    """What is said of rows and columns without an entry is code that leaves them out."""

    def test_rows_and_columns_of_an_array(self):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        x[2] = math.nan
        with pytest.warns(UserWarning, match=r"the first of them item 2") as told:
            pyrovae.elbo(pyrovae.mlp_vae((3,), hidden_dims=(2,), likelihood="normal", missing=True), x, missing=True)
        (advice,) = re.findall(r"`(x\[.*?\])` leaves them out", str(told[0].message))
        for given, isnan in ((x, torch.isnan), (x.numpy(), np.isnan)):
            assert len(eval(advice, {"x": given, "isnan": isnan})) == 7
        x = x[eval("~isnan(x).all(1)", {"x": x, "isnan": torch.isnan})]
        x[:, 1] = math.nan
        for pair in (pyrovae.mlp_vae((3,), likelihood="normal", missing=True), pyrovae.GaussianMixture((3,), 1)):
            with pytest.raises(ValueError, match=r"no entry of x\[:, 1\] was seen") as refused:
                pyrovae.fit(pair, x, missing=True, epochs=1 if pair.latent_dim else None, progress=False)
            (advice,) = re.findall(r"`(x\[.*?\])` leaves such columns out", str(refused.value))
            assert torch.equal(eval(advice, {"x": x, "isnan": torch.isnan}), x[:, [0, 2]])

    def test_columns_of_a_table_by_their_names_and_rows_by_its_mask(self):
        table = pyrovae.data.table({"a": [1.5, None, 2.5, -1.0], "b": [0.5, None, None, 2.5]}, {"b": "real"})
        assert len(table[~table.missing.all(1)]) == 3
        for pair in (pyrovae.table_vae(table), pyrovae.ColumnMixture(table, 1), pyrovae.GaussianMixture((2,), 1)):
            with pytest.raises(ValueError, match=r"no entry of column 'b' of x was seen.*drop=\['b'\]"):
                pyrovae.fit(pair, table[[0, 2]][1:], progress=False)


class TestCodesOfCategories:
    TABLE = pyrovae.data.table({"a": [1.5, 2.5, -1.0] * 3, "town": ["A", "B", "C"] * 3, "yes": [0, 1, 1] * 3})

    @pytest.mark.parametrize("rows", [TABLE, TABLE.split().train])
    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (lambda: pyrovae.GaussianMixture((3,), 1), {"num_restarts": 1}),
            (lambda: pyrovae.mlp_vae((3,), hidden_dims=(2,), likelihood="normal"), {"epochs": 1}),
        ],
    )
    def test_a_model_of_numbers_is_warned_of_them(self, rows, make, options):
        with pytest.warns(
            UserWarning, match=r"column 'town' \(categorical\) of x has codes .*table_vae.*ColumnMixture"
        ):
            pyrovae.fit(make(), rows, progress=False, device="cpu", **options)

    def test_a_model_of_tables_and_a_table_of_numbers_are_not(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*codes of categories")
            warnings.filterwarnings("ignore", category=pyrovae.VarianceFloorWarning)
            pyrovae.fit(pyrovae.ColumnMixture(self.TABLE, 1), self.TABLE, num_restarts=1, progress=False)
            numbers = pyrovae.data.table({"a": [1.5, 2.5, -1.0] * 3, "yes": [0, 1, 1] * 3})
            pyrovae.fit(pyrovae.GaussianMixture((2,), 1), numbers, num_restarts=1, progress=False)
            codes = pyrovae.data.table({"a": list("xyz") * 3, "b": list("xzy") * 3})
            vae = pyrovae.mlp_vae((2,), hidden_dims=(2,), likelihood="categorical(num_classes=3)")
            pyrovae.fit(vae, codes, epochs=1, progress=False, device="cpu")
