"""Scores of p(y | x) against scikit-learn and closed forms, and their intervals against what repeats show."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

import pyrovae


def table(p, y, *, error=None, labels=None):
    """Predictions as `pyrovae.predictions` gives them."""
    p, y = np.asarray(p, float), np.asarray(y)
    labels = list(range(p.shape[1])) if labels is None else labels
    with np.errstate(divide="ignore"):
        given = {"log_proba": (("item", "label"), np.log(p)), "y": ("item", y)}
    given["log_proba_y_se"] = ("item", np.zeros(len(y)) if error is None else error)
    return xr.Dataset(given, {"label": labels})


def calibrated(rng, n, classes=3):
    """Probabilities, and labels drawn from them."""
    p = rng.dirichlet(np.ones(classes), size=n)
    return p, (p.cumsum(1) > rng.random((n, 1))).argmax(1)


def test_values_are_scikit_learns():
    rng = np.random.default_rng(0)
    p, y = calibrated(rng, 500)
    found = pyrovae.classification_scores(table(p, y))
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    assert found["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(3)[y]) ** 2, 1)), abs=1e-12)
    # expected calibration error, bin by bin
    confidence, hit = p.max(1), p.argmax(1) == y
    expected = 0.0
    for low in np.arange(15) / 15:
        own = (confidence >= low) & (confidence < low + 1 / 15)
        if own.any():
            expected += own.mean() * abs(confidence[own].mean() - hit[own].mean())
    assert found["ece"] == pytest.approx(expected, abs=1e-12)
    assert "accuracy" in str(found) and "nats" in str(found) and "(500 items" in str(found)
    wilson = found.metrics.sel(metric="accuracy")
    expected = stats.binomtest(int(hit.sum()), 500).proportion_ci(method="wilson")
    assert (float(wilson.lower), float(wilson.upper)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    # 300 repeats at 90 %: 0.9 ± 0.052 is three standard errors of the share, a false alarm in 0.3 % a metric
    rng = np.random.default_rng(1)
    p, y = calibrated(rng, 400_000)
    hit, own = p.argmax(1) == y, p[np.arange(len(y)), y]
    truth = {"accuracy": hit.mean(), "log_loss": -np.log(own).mean()}
    truth["brier"] = np.mean(np.sum((p - np.eye(3)[y]) ** 2, 1))
    inside = dict.fromkeys(truth, 0)
    for repeat in range(300):
        part = slice(400 * repeat, 400 * (repeat + 1))
        metrics = pyrovae.classification_scores(table(p[part], y[part]), level=0.9).metrics
        for name, value in truth.items():
            row = metrics.sel(metric=name)
            inside[name] += int(row.lower <= value <= row.upper)
    assert all(abs(count / 300 - 0.9) < 0.06 for count in inside.values()), inside


@pytest.mark.slow
def test_calibration_error_of_calibrated_probabilities_is_what_is_stated_beside_it():
    # 200 repeats: at 95 % their error lies over the stated upper end in about 5 %; 1 to 12 % is over three errors
    rng = np.random.default_rng(2)
    values, means, over = [], [], 0
    for _ in range(200):
        p, y = calibrated(rng, 300)
        found = pyrovae.classification_scores(table(p, y))
        values.append(found["ece"])
        means.append(found.ece_calibrated[0])
        over += found["ece"] > found.ece_calibrated[1]
    assert np.mean(values) == pytest.approx(np.mean(means), rel=0.06)
    assert np.mean(values) > 0.02  # and not 0
    assert 2 <= over <= 24
    # control: overconfident ones are seen
    p, y = calibrated(rng, 2000)
    sharp = p**2 / (p**2).sum(1, keepdims=True)
    found = pyrovae.classification_scores(table(sharp, y))
    row = found.metrics.sel(metric="ece")
    assert found["ece"] - 2 * float(row.se) > found.ece_calibrated[1]
    assert math.isnan(float(row.lower))  # it is biased: no interval is claimed
    assert "calibrated ones would show" in str(found)


def test_reliability_in_bins():
    rng = np.random.default_rng(3)
    p, y = calibrated(rng, 5000)
    found = pyrovae.reliability(table(p, y), bins=10)
    assert int(found["count"].sum()) == 5000
    inside = (found.lower <= found.confidence) & (found.confidence <= found.upper)
    assert int(inside.sum()) >= len(inside) - 2  # seven bins or so at 95 %
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    high = pyrovae.reliability(table(sharp, y), bins=10).isel(bin=-1)
    assert float(high.upper) < float(high.confidence)  # control


class TestAuroc:
    def test_value_and_ties_are_scikit_learns(self):
        rng = np.random.default_rng(4)
        a, b = np.round(rng.normal(0.7, 1, 80), 1), np.round(rng.normal(0, 1, 50), 1)
        found = pyrovae.auroc(a, torch.from_numpy(b))
        truth = np.repeat([1, 0], [80, 50])
        assert found.value == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])), abs=1e-12)
        assert pyrovae.auroc(b, a).value == pytest.approx(1 - found.value, abs=1e-12)
        assert found.lower < found.value < found.upper
        assert str(found).startswith("AUROC 0.")

    def test_the_standard_error_is_what_repeats_show_and_the_interval_holds(self):
        rng = np.random.default_rng(5)
        truth = stats.norm.cdf(1 / math.sqrt(2))
        found = [pyrovae.auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 40), level=0.9) for _ in range(400)]
        spread = np.std([one.value for one in found])
        assert spread == pytest.approx(np.mean([one.se for one in found]), rel=0.15)
        inside = np.mean([one.lower <= truth <= one.upper for one in found])
        assert abs(inside - 0.9) < 0.05  # three standard errors

    def test_infinite_scores_and_perfect_separation(self):
        found = pyrovae.auroc([0.0, 1.0, 2.0], [-np.inf, -np.inf])
        assert found.value == found.upper == 1
        assert 0 < found.lower < 1
        assert pyrovae.auroc([0.0, 1.0], [2.0, 3.0]).lower == 0

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"usual must hold scores of shape \(N,\)"):
            pyrovae.auroc([math.nan, 1.0], [0.0])
        with pytest.raises(ValueError, match="strange must hold scores"):
            pyrovae.auroc([1.0], [])
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got 95"):
            pyrovae.auroc([1.0], [0.0], level=95)


def test_predictions_are_labelled_and_carry_the_evidences_error():
    torch.manual_seed(0)
    vaes = {name: pyrovae.linear_vae(4, 1) for name in ("cat", "dog")}
    classifier = pyrovae.GenerativeClassifier(vaes, [0.5, 0.5], evidence=pyrovae.iwae)
    x, y = torch.randn(7, 4), np.array(["cat", "dog", "dog", "cat", "cat", "dog", "cat"])
    found = pyrovae.predictions(classifier, x, y)
    with torch.no_grad():
        log_proba, error = classifier.with_standard_error(x)
    assert np.allclose(found.log_proba.sel(label="dog"), log_proba[:, 1], atol=1e-6)
    assert np.allclose(found.log_proba_y_se.values, [error[i, int(name == "dog")] for i, name in enumerate(y)])
    assert found.y.values.tolist() == y.tolist()
    assert set(found.predicted.values) <= {"cat", "dog"}
    scored = pyrovae.classification_scores(found)
    stated = float(scored.metrics.sel(metric="log_loss").monte_carlo)
    assert stated == pytest.approx(math.sqrt((found.log_proba_y_se.values**2).sum()) / 7)
    assert "Monte Carlo" in str(scored)
    with pytest.raises(ValueError, match="no class here: 'cow'"):
        pyrovae.predictions(classifier, x, np.array(["cow"] * 7))


def test_evidence_that_is_unreliable_is_told_where_it_weighs():
    value = np.array([[-1.0, -2.0, -60.0], [-1.0, -2.0, -3.0], [-5.0, -5.0, -5.0], [-1.0, -2.0, -60.0]])
    flags = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)

    def evidence(pair, x):
        table = {"value": value[:, pair.number], "se": np.full(4, 0.1), "unreliable": flags[:, pair.number]}
        if pair.number == 0 and not told:
            del table["unreliable"]
        return pyrovae.Estimate("iwae", xr.Dataset({name: ("item", column) for name, column in table.items()}))

    vaes = [pyrovae.linear_vae(2, 1) for _ in range(3)]
    for number, vae in enumerate(vaes):
        vae.number = number
    classifier = pyrovae.GenerativeClassifier(dict(enumerate(vaes)), [1 / 3] * 3, evidence=evidence)
    told = True
    found = pyrovae.predictions(classifier, torch.zeros(4, 2), [0, 0, 1, 2])
    # a class of e^-58 weighs in nothing but its own row; one of a share weighs in all; the first weighs 1 in the third
    expected = [[False, False, True], [True] * 3, [False] * 3, [True] * 3]
    assert found.unreliable.values.tolist() == expected
    assert found.log_proba_y_unreliable.values.tolist() == [False, True, False, True]
    scored = pyrovae.classification_scores(found)
    assert scored.unreliable == 2 and "of it, 2 items' unreliable\n" in str(scored)
    told = False  # one evidence that does not say beside two that do
    expected[3] = [False] * 3
    assert pyrovae.predictions(classifier, torch.zeros(4, 2), [0, 0, 1, 2]).unreliable.values.tolist() == expected


@pytest.mark.usefixtures("float32")
def test_evidence_that_may_fall_short_is_weighed_as_if_it_were_higher():
    """Poor encoders: log p(y | x) of -4 and less is said to be 0, with errors under 1e-4."""
    torch.manual_seed(0)
    vaes = [pyrovae.linear_vae(2, 1) for _ in range(2)]
    x = 10 * torch.randn(200, 2)
    classifier = pyrovae.GenerativeClassifier(dict(enumerate(vaes)), evidence=partial(pyrovae.iwae, num_particles=100))
    with torch.no_grad():
        found, error, flagged = classifier.with_reliability(x)
    exact = [torch.from_numpy(pyrovae.exact(vae, x).pointwise["value"].values) for vae in vaes]
    far = (found - torch.stack(exact, -1).log_softmax(-1)).abs()
    sure = (found > -1e-6) & (far > 0.1)  # where the estimates alone give the other class no weight
    assert int(sure.sum()) >= 10 and float(flagged[sure].double().mean()) > 0.8
    assert float(error[sure].max()) < 1e-4


def test_known_densities_have_no_flags():
    found = pyrovae.predictions(pyrovae.gaussian_classifier((2,), 2), torch.zeros(2, 2), [0, 1])
    assert "unreliable" not in found and "unreliable" not in str(pyrovae.classification_scores(found))


def test_one_item_and_impossible_labels():
    found = pyrovae.classification_scores(table([[0.5, 0.5]], [1]))
    assert found["log_loss"] == pytest.approx(math.log(2))
    assert math.isnan(float(found.metrics.se.sel(metric="log_loss")))
    impossible = pyrovae.classification_scores(table([[1.0, 0.0], [0.5, 0.5]], [1, 0]))
    assert impossible["log_loss"] == math.inf
    alike = pyrovae.classification_scores(table([[0.99, 0.01]] * 50, [0] * 50)).metrics
    assert alike.se.sel(metric="log_loss").isnull()  # no spread, and no certainty for it
    with pytest.raises(ValueError, match="no class of the table: 7"):
        pyrovae.classification_scores(table([[0.5, 0.5]], [7]))
    with pytest.raises(ValueError, match="log_proba has 1 NaN values"):
        pyrovae.classification_scores(table([[np.nan, 0.5]], [1]))
    with pytest.raises(ValueError, match="empty"):
        pyrovae.classification_scores(table(np.zeros((0, 2)), []))
