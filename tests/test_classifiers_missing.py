"""Classifiers fitted to items with entries missing and with weights, beside loops over items and copies of them."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import pyrovae
from pyrovae.data import Split
from pyrovae.models.components import COVARIANCES

CLASSES = 3
FAST = [c if c == "tied" else pytest.param(c, marks=pytest.mark.slow) for c in COVARIANCES]
Y = np.arange(90) % CLASSES
WEIGHT = np.arange(90) % 4  # of 0 as well, in every class


def problem(seed, *, share=0.3, distance=1.0):
    """Items of correlated classes that overlap, of which a share of the entries is missing completely at random."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(CLASSES, 3, 3))
    x = distance * rng.normal(size=(CLASSES, 3))[Y] + np.einsum("nij,nj->ni", root[Y], rng.normal(size=(90, 3)))
    hidden = rng.random(x.shape) < share
    hidden[hidden.all(1), 0] = False
    return np.where(hidden, np.nan, x)


def classifier_for(covariance):
    return pyrovae.gaussian_classifier((3,), CLASSES, covariance=covariance).double()


def joint_in_loops(classifier, x):
    """log p(class, x_seen), item by item, by scipy's density of the seen sub-vector."""
    parts = classifier.densities
    covariances = (parts.scale_tril @ parts.scale_tril.mT).expand(CLASSES, -1, -1).detach().numpy()
    table = np.zeros((len(x), CLASSES))
    for c, prior in enumerate(classifier.class_prior.tolist()):
        for n, row in enumerate(x):
            s = ~np.isnan(row)
            density = multivariate_normal(parts.loc[c].detach().numpy()[s], covariances[c][np.ix_(s, s)])
            table[n, c] = np.log(prior) + density.logpdf(row[s])
    return table


@pytest.mark.parametrize("covariance", FAST)
def test_normal_classes_with_entries_missing_climb_the_seen_likelihood(covariance):
    x = problem(0)
    classifier = classifier_for(covariance)
    options = {"tol": 1e-4}  # of EM; no more than one step is needed of the two others
    history = pyrovae.fit(classifier, x, Y, missing=True, validation=(x[:9], Y[:9]), progress=False, **options)
    assert np.diff(history.epochs.loss.values).max(initial=-1.0) < 1e-12
    table = joint_in_loops(classifier, x)
    assert history.epochs.loss.values[-1] == pytest.approx(-table[np.arange(90), Y].mean(), abs=1e-10)
    log_proba = table - np.logaddexp.reduce(table, 1, keepdims=True)
    assert np.allclose(classifier.predict_log_proba(x, missing=True).detach(), log_proba, atol=1e-10)
    assert (classifier.predict(x, missing=True).numpy() == log_proba.argmax(1)).all()
    loss = -log_proba[np.arange(9), Y[:9]].mean()
    assert history.epochs.validation_log_loss.values[-1] == pytest.approx(loss, abs=1e-10)
    filled = classifier_for(covariance)
    pyrovae.fit(filled, np.where(np.isnan(x), np.nanmean(x, 0), x), Y, progress=False)
    assert joint_in_loops(filled, x)[np.arange(90), Y].mean() < -history.epochs.loss.values[-1] - 1e-3  # control


@pytest.mark.slow
def test_a_class_of_its_own_covariance_is_the_mixture_of_one_component_of_its_items():
    x = problem(1)
    classifier = classifier_for("full")
    pyrovae.fit(classifier, x, Y, missing=True, tol=1e-9, progress=False)
    for c in range(CLASSES):
        alone = pyrovae.GaussianMixture((3,), 1).double()
        pyrovae.fit(alone, x[c == Y], missing=True, num_restarts=1, tol=1e-9, progress=False)
        assert torch.allclose(alone.loc[0], classifier.densities.loc[c], atol=1e-2)
        assert alone.log_prob(x, missing=True).mean().item() == pytest.approx(
            classifier.densities.log_prob(torch.from_numpy(x))[:, c].mean().item(), abs=1e-2
        )


@pytest.mark.parametrize("covariance", FAST)
@pytest.mark.parametrize("kind", ["whole", "missing", "unlabelled"])
def test_a_weight_is_a_number_of_copies(covariance, kind):
    x = problem(2) if kind != "whole" else np.nan_to_num(problem(2), nan=0.3)
    count = 60 if kind == "unlabelled" else 90
    some = {} if kind == "whole" else {"missing": True, "max_iterations": 4}
    ends = []
    for copies in (False, True):
        classifier = classifier_for(covariance)
        more = np.repeat(x[60:], WEIGHT[60:], 0) if copies else Split(x[60:], weight=WEIGHT[60:], missing=True)
        given = {**some, "unlabeled": more} if kind == "unlabelled" else dict(some)
        items = (np.repeat(x, WEIGHT, 0), np.repeat(Y, WEIGHT)) if copies else (x, Y)
        if count < 90:
            items = (np.repeat(x[:60], WEIGHT[:60], 0), np.repeat(Y[:60], WEIGHT[:60])) if copies else (x[:60], Y[:60])
        if not copies:
            given["weight"] = WEIGHT[:count]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # cut short on purpose
            history = pyrovae.fit(classifier, *items, progress=False, **given)
        ends.append((classifier, history.epochs.loss.values))
    for a, b in zip(*(classifier.state_dict().values() for classifier, _ in ends), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    assert np.allclose(ends[0][1], ends[1][1], rtol=0, atol=1e-10)


def test_weights_of_the_discriminative_classifier_stand_against_the_prior_on_its_own():
    x = np.nan_to_num(problem(3), nan=0.3)

    def fitted(x, y, **options):
        torch.manual_seed(0)
        classifier = pyrovae.DiscriminativeClassifier((3,), CLASSES, prior_scale=0.5).double()
        history = pyrovae.fit(classifier, x, y, progress=False, **options)
        return torch.cat([p.flatten() for p in classifier.parameters()]).detach(), history.epochs.loss.values[-1]

    three = fitted(x, Y, weight=np.full(90, 3.0))
    copies = fitted(np.repeat(x, 3, 0), np.repeat(Y, 3))
    assert torch.allclose(three[0], copies[0], rtol=1e-10, atol=1e-10)
    assert three[1] == pytest.approx(copies[1], abs=1e-12)
    # of some items, and none of others
    uneven = fitted(x, Y, weight=WEIGHT, validation=Split(x, Y, weight=WEIGHT))[0]
    assert torch.allclose(uneven, fitted(np.repeat(x, WEIGHT, 0), np.repeat(Y, WEIGHT))[0], rtol=1e-10, atol=1e-10)
    # under a penalty it is not the proportions of the weights alone that count
    once = fitted(x, Y)[0]
    assert (three[0] - once).abs().max() > 1e-2
    first = np.where(np.arange(90) == 0, 3.0, 1.0)
    assert (fitted(x, Y, weight=first)[0] - once).abs().max() > 1e-4


def test_densities_of_any_kind_take_missing_entries_and_weights_by_their_own_methods():
    x = problem(4)
    make = functools.partial(pyrovae.GaussianMixture, (3,), 1, covariance="diagonal")
    classifier = pyrovae.GenerativeClassifier({c: make().double() for c in range(CLASSES)})
    pyrovae.fit(classifier, x, Y, missing=True, weight=WEIGHT, num_restarts=1, progress=False)
    for c in range(CLASSES):
        rows = (c == Y) & (WEIGHT > 0)
        mass = (WEIGHT[:, None] * ~np.isnan(x))[rows].sum(0)
        mean = (WEIGHT[:, None] * np.nan_to_num(x))[rows].sum(0) / mass
        assert np.allclose(classifier.densities.parts[c].loc[0].detach(), mean, atol=1e-10)
    share = np.array([WEIGHT[c == Y].sum() for c in range(CLASSES)]) / WEIGHT.sum()
    assert np.allclose(classifier.class_prior.detach(), share, atol=1e-12)


@pytest.mark.slow
def test_the_evidence_of_a_class_is_that_of_the_seen_entries():
    x = problem(5)
    vaes = {c: pyrovae.linear_vae(3, 1, missing=True).double() for c in (0, 1)}
    for c, vae in vaes.items():
        pyrovae.fit(vae, x[c == Y], method="em", missing=True, progress=False)
    classifier = pyrovae.GenerativeClassifier(vaes, [0.5, 0.5], evidence=pyrovae.exact)
    exact = np.stack([pyrovae.exact(vae, x, missing=True).pointwise["value"].values for vae in vaes.values()], 1)
    expected = exact - np.logaddexp.reduce(exact, 1, keepdims=True)
    assert np.allclose(classifier.predict_log_proba(x, missing=True).detach(), expected, atol=1e-9)


def test_what_is_refused():
    x = problem(6)
    discriminative = pyrovae.DiscriminativeClassifier((3,), CLASSES)
    for options in ({}, {"method": "svi", "epochs": 1}):
        with pytest.raises(ValueError, match=r"p\(y \| x\) alone says nothing of x, by which they could be integrated"):
            pyrovae.fit(discriminative, x.astype(np.float32), Y, missing=True, progress=False, **options)
    never = np.where((Y == 1)[:, None] & (np.arange(3) == 2), np.nan, x)
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"no entry of x\[:, 2\] was seen in an item of class 1"),
    ):
        pyrovae.fit(classifier_for("tied"), never, Y, missing=True, progress=False)
    with pytest.raises(ValueError, match="tol has no use here"):
        pyrovae.fit(classifier_for("tied"), np.nan_to_num(x), Y, missing=True, tol=1e-3, progress=False)
    with pytest.raises(ValueError, match=r"y has 2 classes \(0, 2\) and this GenerativeClassifier is for 3"):
        pyrovae.fit(classifier_for("tied"), np.nan_to_num(x), Y, weight=Y != 1, progress=False)
    with pytest.raises(ValueError, match="x must be finite"):
        classifier_for("tied").predict(x)
