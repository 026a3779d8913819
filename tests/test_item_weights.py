"""Weights of items, which say how many times each counts: in losses, in means and in their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.data import Split
from pyrovae.inference.objective import Loss
from pyrovae.inference.svi.options import SVI
from pyrovae.models.batch import Batch

WEIGHT = torch.tensor([3, 0, 1, 2, 0, 1, 5, 1, 1, 4])


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return pyrovae.linear_vae(4, 2).double()


@pytest.fixture
def items(pair):
    return pair.sample(len(WEIGHT), seed=0)


class TestEstimates:
    def test_a_weight_is_as_many_copies(self, pair, items):
        found = pyrovae.exact(pair, items, weight=WEIGHT)
        copies = pyrovae.exact(pair, items.repeat_interleave(WEIGHT, 0))
        assert abs(found.mean - copies.mean) < 1e-12 and abs(found.se_items - copies.se_items) < 1e-12
        assert abs(found.mean - pyrovae.exact(pair, items).mean) > 1e-3  # which counts each once
        assert str(found).endswith("(10 items of weight 18)")
        assert found.settings == copies.settings and "sum of weights" in found._repr_html_()

    def test_one_of_weight_zero_is_not_there(self, pair, items):
        there = WEIGHT > 0
        few = pyrovae.iwae(pair, items[there], weight=WEIGHT[there], num_particles=50)
        wild = items.clone()
        wild[~there] = 1e150  # whose log p is -inf
        found = pyrovae.exact(pair, wild, weight=WEIGHT)
        assert abs(found.mean - pyrovae.exact(pair, items[there], weight=WEIGHT[there]).mean) < 1e-12
        assert math.isfinite(found.se_items) and few.se > 0

    def test_the_monte_carlo_error_is_that_of_the_weighted_mean(self, pair, items):
        found = pyrovae.elbo(pair, items, weight=WEIGHT, num_particles=8)
        w, se = WEIGHT.numpy() / 18, found.pointwise.se.values
        assert abs(found.se - math.sqrt(float((w**2 * se**2).sum()))) < 1e-15
        assert abs(found.mean - float(w @ found.pointwise.value.values)) < 1e-12

    def test_two_are_comparable_under_the_same_weights_alone(self, pair, items):
        other = pyrovae.linear_vae(4, 1).double()
        ours, theirs = (pyrovae.exact(each, items, weight=WEIGHT) for each in (pair, other))
        difference = ours - theirs
        assert abs(difference.mean - (ours.mean - theirs.mean)) < 1e-12
        copies = items.repeat_interleave(WEIGHT, 0)
        paired = pyrovae.exact(pair, copies) - pyrovae.exact(other, copies)
        assert abs(difference.se_items - paired.se_items) < 1e-12
        for weight in (None, WEIGHT.flip(0)):
            with pytest.raises(ValueError, match="weigh the items differently"):
                ours - pyrovae.exact(other, items, weight=weight)

    def test_an_ensemble_and_a_split(self, pair, items):
        ensemble = pyrovae.Ensemble([pair, pyrovae.linear_vae(4, 2).double()])
        whole = pyrovae.exact(ensemble, items)
        found = pyrovae.exact(ensemble, Split(items, None, weight=WEIGHT))
        assert abs(found.mean - np.average(whole.pointwise.value.values, weights=WEIGHT)) < 1e-12


def gradients(loss, pair, batch, size, repeats):
    """The loss's gradient with fresh noise, `repeats` times."""
    found = []
    for _ in range(repeats):
        value = loss(batch, None, None, size)
        parts = torch.autograd.grad(value, list(pair.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_the_gradient_is_that_of_the_copies(pair, items, objective):
    # each entry within 4.5 standard errors of the difference: 31 entries, 2 tests, false alarm 4e-4; a control fails
    plan, weight = SVI(objective=objective, num_particles=4), WEIGHT.double() / 7
    copies = items.repeat_interleave(WEIGHT, 0)
    torch.manual_seed(0)
    weighed = Loss(pair, len(items), plan, False, True, float(weight.mean()))
    plain = Loss(pair, len(copies), plan, False, True)
    ours = gradients(weighed, pair, Batch(items, weight=weight), len(items), 120)
    theirs = gradients(plain, pair, copies, len(copies), 120)

    def furthest(one, other):
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        return float(((one.mean(0) - other.mean(0)).abs() / error.clamp(min=1e-12)).max())

    assert furthest(ours, theirs) < 4.5
    assert furthest(gradients(plain, pair, items, len(items), 120), theirs) > 6  # each item once


class TestFit:
    def test_a_fit_without_noise_is_that_of_the_copies(self):
        """An autoencoder draws no noise: the losses of full batches agree but for rounding."""
        torch.manual_seed(0)
        start = pyrovae.mlp_ae((4,), hidden_dims=(5,), likelihood=pyrovae.Normal(scale=0.5)).double()
        x = torch.randn(10, 4, dtype=torch.float64)
        fits = []
        for options in (
            {"x": x, "weight": WEIGHT},
            {"x": x.repeat_interleave(WEIGHT, 0)},
            {"x": x},
        ):
            ae = pyrovae.mlp_ae((4,), hidden_dims=(5,), likelihood=pyrovae.Normal(scale=0.5)).double()
            ae.load_state_dict(start.state_dict())
            history = pyrovae.fit(ae, **options, epochs=20, batch_size="all", progress=False, compile=False)
            fits.append(history.epochs.loss.values)
        assert np.abs(fits[0] - fits[1]).max() < 1e-10 and np.abs(fits[0] - fits[2]).max() > 1e-2

    def test_batches_take_the_weights_of_their_items(self):
        torch.manual_seed(0)
        x, weight = torch.randn(50, 4), torch.rand(50) * 3
        ae = pyrovae.mlp_ae((4,), hidden_dims=(5,), likelihood=pyrovae.Normal(scale=0.5))
        with torch.no_grad():
            each = -ae.likelihood(ae.encode(x)).log_prob(x)
        history = pyrovae.fit(
            ae, x, weight=weight, validation=Split(x, None, weight=weight), epochs=1, batch_size=16,
            learning_rate=1e-12, progress=False, compile=False,
        )  # fmt: skip
        wanted = float((weight * each).sum() / weight.sum())
        assert abs(float(history.epochs.loss[0]) - wanted) < 1e-5
        assert abs(float(history.epochs.validation_elbo[0]) + wanted) < 1e-5
        assert abs(wanted - float(each.mean())) > 1e-2
        assert abs(history.config["sum_of_weights"] - float(weight.sum())) < 1e-4

    @pytest.mark.slow
    def test_the_compiled_step_is_the_eager_one(self):
        torch.manual_seed(0)
        x, weight, states = torch.randn(64, 4), torch.rand(64) * 3, []
        for compiled in (False, True):
            torch.manual_seed(1)
            vae = pyrovae.linear_vae(4, 2)
            pyrovae.fit(vae, x, weight=weight, epochs=5, batch_size=32, compile=compiled, progress=False)
            states.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
        assert torch.allclose(*states, atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([1.0, -1.0, 1.0], "at least 0; that of item 1 is -1"),
        ([1.0, math.nan, 1.0], "must be finite and at least 0; that of item 1 is nan"),
        ([1.0, math.inf, 1.0], "that of item 1 is inf"),
        ([1.0, 1.0], r"weight must have shape \(3,\), one number for each item, got \(2,\)"),
        ([[1.0], [1.0], [1.0]], "ravel"),
        ([0, 0, 0], "is 0 for every item"),
    ],
)
def test_weights_that_are_none(weight, words):
    vae, x = pyrovae.linear_vae(4, 2), torch.zeros(3, 4)
    for call in (lambda: pyrovae.fit(vae, x, weight=weight), lambda: pyrovae.exact(vae, x, weight=weight)):
        with pytest.raises(ValueError, match=words):
            call()


def test_what_weighs_no_items_says_so():
    vae, x, weight = pyrovae.linear_vae(4, 2), torch.zeros(3, 4), [1, 2, 3]
    with pytest.raises(ValueError, match="weight came, and free_bits is a floor"):
        pyrovae.fit(vae, x, weight=weight, free_bits=0.1)
    with pytest.raises(ValueError, match="evidence weighs the items differently than gaps"):
        pyrovae.gaps(vae, Split(x, None, weight=weight), pyrovae.exact(vae, x))
    with pytest.raises(ValueError, match="x is a split with weight of its own"):
        pyrovae.exact(vae, Split(x, None, weight=weight), weight=weight)
    bayesian = pyrovae.BayesianGaussianMixture((4,), 2)
    with pytest.raises(ValueError, match="weight came, and SVI weighs no items: repeat an item"):
        pyrovae.fit(bayesian, torch.randn(30, 4), weight=torch.ones(30), method="svi", epochs=1)


def test_both_ways_to_a_loss_weigh_alike():
    """By Pyro's own ELBO, which reads its value, and as a graph takes it."""
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(4, 2)
    batch = Batch(vae.sample(10, seed=0), weight=WEIGHT.float())
    loss = Loss(vae, 10, SVI(num_particles=1), False, False, 1.8)
    torch.manual_seed(1)
    eager = loss(batch, None, None, 10)
    torch.manual_seed(1)
    assert torch.allclose(eager, loss.pure(batch, None, None, 10))


@pytest.mark.parametrize("prior_scale", [None, 0.5])
def test_svi_of_a_classifier_is_that_of_the_copies(prior_scale):
    """Full batches draw nothing: losses agree but for rounding; the prior of the weights counts once."""
    x = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(10) % 2
    y[WEIGHT == 0] = 7  # a class that only absent items have is none
    losses = []
    for weight in (WEIGHT, None, torch.ones(10)):
        torch.manual_seed(0)
        classifier = pyrovae.DiscriminativeClassifier((4,), 2, hidden_dims=(3,), prior_scale=prior_scale).double()
        copies = WEIGHT if weight is None else torch.ones_like(WEIGHT)
        given = {"x": x.repeat_interleave(copies, 0), "y": y.repeat_interleave(copies)}
        given |= {} if weight is None else {"weight": weight}
        if weight is not None and weight.all():  # control: each item once
            given["y"] = y % 2
        history = pyrovae.fit(
            classifier, **given, method="svi", epochs=5, batch_size="all", progress=False, compile=False
        )
        losses.append(history.epochs.loss.values)
    assert np.abs(losses[0] - losses[1]).max() < 1e-10 and np.abs(losses[0] - losses[2]).max() > 1e-3


@pytest.mark.slow
def test_svi_of_a_decoder_with_a_prior_is_that_of_the_copies():
    # one draw of weights and codes for each loss: means of 1,500 within 4.5 errors, false alarm 7e-6; a control fails
    torch.manual_seed(0)
    vae = pyrovae.BayesianVAE(pyrovae.linear_vae(4, 1, likelihood=pyrovae.Normal(scale=0.5))).double()
    x = torch.randn(10, 4, dtype=torch.float64)
    losses = []
    for weight, items in ((WEIGHT.double(), x), (None, x.repeat_interleave(WEIGHT, 0)), (None, x)):
        mean_weight = 1.0 if weight is None else float(weight.mean())
        loss = Loss(vae, len(items), SVI(num_particles=1), False, True, mean_weight)
        batch = Batch.of(items, **({} if weight is None else {"weight": weight}))
        losses.append(np.array([loss(batch, None, None, len(items)).item() for _ in range(1500)]))

    def furthest(one, other):
        return abs(one.mean() - other.mean()) / math.sqrt((one.var() + other.var()) / 1500)

    assert furthest(losses[0], losses[1]) < 4.5 < furthest(losses[2], losses[1])


@pytest.mark.slow
def test_gaps_have_weighted_means_and_their_errors(pair, items):
    x = items.clone()
    weight = WEIGHT.numpy()
    options = {"progress": False, "num_evaluation": 20, "max_steps": 40}
    found = pyrovae.gaps(pair, x, pyrovae.exact(pair, x, weight=WEIGHT), weight=WEIGHT, **options)
    once = pyrovae.gaps(pair, x, pyrovae.exact(pair, x), **options)
    for name in ("gap", "approximation", "amortization", "elbo"):
        value, se = found.pointwise[name].values, found.pointwise[f"{name}_se"].values
        assert np.array_equal(value, once.pointwise[name].values)  # an item's split does not depend on its weight
        wanted = np.average(value, weights=weight), np.sqrt((weight**2 * se**2).sum()) / weight.sum()
        assert np.allclose(found.mean(name), wanted, rtol=1e-12)
        assert abs(wanted[0] - value.mean()) > 1e-6  # control: each item once
    assert "10 items of weight 18" in str(found) and "sum of weights" in found._repr_html_()
    both = pyrovae.overfit(found, once)
    copies = np.repeat(found.pointwise.evidence.values, weight)
    error = math.hypot(copies.std(ddof=1) / math.sqrt(18), once.pointwise.evidence.values.std(ddof=1) / math.sqrt(10))
    assert float(both.decoder_se) == pytest.approx(error, rel=1e-12)
    assert float(both.decoder) == pytest.approx(copies.mean() - once.pointwise.evidence.values.mean(), rel=1e-9)


def test_active_units_count_items_by_their_weights():
    codes = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    codes[WEIGHT == 0] = 100.0  # absent
    found, copies = pyrovae.active_units(codes, weight=WEIGHT), pyrovae.active_units(codes.repeat_interleave(WEIGHT, 0))
    assert np.allclose(found.variance, copies.variance, rtol=1e-12)
    assert float(pyrovae.active_units(codes).variance.min()) > 100  # control
    with pytest.raises(ValueError, match="weight must sum to more than 1 item"):
        pyrovae.active_units(codes, weight=[1.0] + 9 * [0.0])
    # in a history: only absent items differ, so that no unit is active
    vae = pyrovae.linear_vae(4, 1).double()
    x = torch.zeros(8, 4, dtype=torch.float64)
    x[:2] = torch.tensor([[50.0], [-50.0]])
    torch.nn.init.ones_(vae.posterior.loc.weight)
    options = {"epochs": 1, "learning_rate": 1e-9, "progress": False, "compile": False}
    with pyrovae.warned.gathered():
        absent = pyrovae.fit(vae, x, weight=[0, 0, 1, 1, 1, 1, 1, 1], **options)
        there = pyrovae.fit(vae, x, **options)
    assert (absent.config["active_units"], there.config["active_units"]) == (0, 1)


class TestNothingIsLeftAside:
    """A split's weights and mask reach whatever takes the split, or are refused: given both ways, one number."""

    @pytest.fixture
    def gaps(self):
        x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mask = torch.zeros(30, 2, dtype=torch.bool)
        mask[:10, 1] = True
        return x, mask, Split(torch.where(mask, 1000.0, x), None, missing=mask), x.masked_fill(mask, math.nan)

    def test_of_mixtures_and_backgrounds(self, gaps):
        x, _, split, holes = gaps
        weight = torch.arange(30) % 4
        mixture = pyrovae.GaussianMixture((2,), 2).double()
        pyrovae.fit(mixture, split, num_restarts=1, progress=False)
        assert torch.equal(mixture.log_prob(split, missing=True), mixture.log_prob(holes, missing=True))
        assert mixture.bic(split) == mixture.bic(holes, missing=True)
        assert mixture.bic(Split(x, None, weight=weight)) == mixture.bic(x, weight=weight) != mixture.bic(x)
        assert torch.equal(mixture.conditional(split).mean, mixture.conditional(holes).mean)
        with pytest.raises(ValueError, match="must be finite"):
            mixture.log_prob(split)  # which says nothing of missing entries
        entries = pyrovae.IndependentEntries
        weighed, given = entries.fit(Split(x, None, weight=weight)), entries.fit(x, weight=weight)
        assert torch.equal(weighed.mean, given.mean) and not torch.equal(given.mean, entries.fit(x).mean)
        assert torch.equal(entries.fit(split).mean, entries.fit(holes, missing=True).mean)

    def test_of_classifiers_and_choices(self, gaps):
        x, mask, split, holes = gaps
        y = torch.arange(30) % 2
        classifier = pyrovae.gaussian_classifier((2,), 2).double()
        pyrovae.fit(classifier, x, y)
        with_labels = Split(split.x, y, missing=mask)
        found, wanted = (
            pyrovae.predictions(classifier, with_labels),
            pyrovae.predictions(classifier, holes, y, missing=True),
        )
        assert found.equals(wanted)
        with pytest.raises(ValueError, match="predictions takes none"):
            pyrovae.predictions(classifier, Split(x, y, weight=torch.ones(30)))
        perceptron = pyrovae.DiscriminativeClassifier((2,), 2, hidden_dims=(3,)).double()
        weight = torch.arange(30.0) % 3
        history = pyrovae.fit(perceptron, x, y, validation=Split(x, y, weight=weight), epochs=1, progress=False)
        each = -perceptron.predict_log_proba(x).detach()[torch.arange(30), y]
        wanted = float((weight * each).sum() / weight.sum())
        assert abs(history.epochs.validation_log_loss.values[-1] - wanted) < 1e-6 < abs(float(each.mean()) - wanted)

        def build(num_components):
            return pyrovae.GaussianMixture((2,), num_components).double()

        options = {"folds": 2, "options": {"num_restarts": 1}, "refit": False, "progress": False}
        tables = [
            pyrovae.choose(build, given, num_components=[1], **options).table
            for given in (split, Split(holes, None, missing=True))
        ]
        assert tables[0].equals(tables[1])
        with pytest.raises(ValueError, match="of which no interval can be had"):
            pyrovae.choose(build, x, weight=torch.full((30,), 1 / 40), num_components=[1], **options)

    def test_tiny_weights_and_unlike_parts(self, gaps):
        x, *_ = gaps
        with pytest.raises(ValueError, match="divide them by their mean"):
            pyrovae.fit(pyrovae.GaussianMixture((2,), 1), x, weight=torch.full((30,), 1e-20))
        with pytest.raises(ValueError, match="one of two parts has weight and the other has not"):
            Split(x, None, weight=torch.ones(30)).followed_by(Split(x, None))


@pytest.mark.parametrize("pair", [pyrovae.mlp_vae((2,), 1, hidden_dims=(3,), likelihood="normal", missing=True), None])
def test_entries_of_absent_items_are_not_seen(pair):
    """Of items of weight 0 nothing counts: neither what was seen of them, nor what was not."""
    pair = pyrovae.GaussianMixture((2,), 1) if pair is None else pair
    options = {"progress": False, "missing": True}
    options |= {} if isinstance(pair, pyrovae.GaussianMixture) else {"epochs": 1, "compile": False}
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    x[1] = x[3] = math.nan
    weight = torch.tensor([1.0, 0, 2, 1, 1, 1, 1, 1, 1])
    with pytest.warns(UserWarning, match="1 of 8 items of x have no entry that was seen, the first of them item 3"):
        history = pyrovae.fit(pair, x, weight=weight, **options)
    assert history.config["missing_entries"] == 2
    x[2:, 1] = math.nan  # the second column was seen of two items: of one that counts, and of one that does not
    with pyrovae.warned.gathered():
        pyrovae.fit(pair, x, weight=weight, **options)
    weight[0], weight[1] = 0.0, 1.0
    with pytest.raises(ValueError, match=r"no entry of x\[:, 1\] was seen"):
        pyrovae.fit(pair, x, weight=weight, **options)


def test_absent_items_may_hold_anything():
    """The weight 0 is absence, whatever the values: in estimates, criteria, labels and variances."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    wild, weight = x.clone(), torch.tensor([1.0, 2, 0, 1, 1, 1])
    wild[2] = torch.tensor([math.nan, math.inf])
    mixture = pyrovae.GaussianMixture((2,), 1)
    assert mixture.bic(wild, weight=weight) == mixture.bic(x, weight=weight)
    one, other = (pyrovae.exact(mixture, each, weight=weight) for each in (wild, x))
    assert one.mean == other.mean
    assert one.pointwise.value.isnull().values.tolist() == [False, False, True, False, False, False]
    with pytest.raises(ValueError, match="must be finite"):
        pyrovae.exact(mixture, wild, weight=weight + 1)
    values = np.random.default_rng(0).normal(size=(6, 2, 3))
    copies = values.repeat(weight.int().numpy(), 0).var(0, ddof=1)
    assert np.allclose(pyrovae.frequencies.variance(values, weight.numpy()), copies, rtol=1e-12)
    classifier = pyrovae.DiscriminativeClassifier((2,), 2, hidden_dims=(3,))
    y = [0.0, 1.0, math.nan, 0.0, 1.0, 0.0]
    pyrovae.fit(classifier, wild, y, weight=weight, epochs=1, compile=False, progress=False)
    with pytest.raises(ValueError, match="missing labels"):
        pyrovae.fit(classifier, x, y, epochs=1, compile=False, progress=False)
