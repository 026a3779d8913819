"""The rules of the script generative_vs_discriminative.py: what is drawn, where curves cross, what a test tells."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
script = pytest.importorskip("generative_vs_discriminative", reason="the scripts are not beside the tests")
report = pytest.importorskip("generative_vs_discriminative_report")


def problem(n=90, classes=3):
    y = torch.arange(n) % classes
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) + 4 * y[:, None]
    return script.Problem("toy", x, y, x, y)


def test_labelled_items_are_paired_spread_over_classes_and_differ_by_seed():
    p = problem()
    own = p.labelled(30, 0)
    assert np.array_equal(own, p.labelled(30, 0))
    assert not np.array_equal(own, p.labelled(30, 1))
    assert len(set(own.tolist())) == len(own) == 30
    assert np.bincount(p.y[own]).tolist() == [10, 10, 10]
    assert np.bincount(p.y[p.labelled(3, 0)]).tolist() == [2, 2, 2]  # at least two a class
    assert sorted(np.bincount(p.y[p.labelled(29, 0)])) == [9, 10, 10]


@pytest.mark.long
def test_a_fit_of_one_seed_is_the_same_whatever_ran_before():
    p = problem()
    for name in ("mixtures", "perceptron"):
        first = script.fitted(name, p, p.x, p.y, 3).predict_log_proba(p.x).detach()
        torch.randn(7)
        assert torch.equal(first, script.fitted(name, p, p.x, p.y, 3).predict_log_proba(p.x).detach())


def curves(first, second, seeds=6, spread=1e-3):
    """Accuracies by labels, model and seed."""
    rng = np.random.default_rng(0)
    values = np.stack([first, second], 1)[:, :, None] + spread * rng.normal(size=(len(first), 2, seeds))
    coords = {"labels": [10, 100, 1000], "model": ["a", "b"], "seed": range(seeds), "overlap": 0.0}
    return xr.DataArray(values, coords, ("labels", "model", "seed"))


def test_where_curves_cross():
    # on a log axis, half-way between 100 and 1,000
    assert "b overtakes a at 31" in report.crossover(curves([0.7, 0.8, 0.8], [0.6, 0.7, 0.9]), "a", "b")
    assert "at over 1000 labels" in report.crossover(curves([0.7, 0.8, 0.9], [0.6, 0.7, 0.8]), "a", "b")
    assert "at under 10 labels" in report.crossover(curves([0.6, 0.7, 0.8], [0.7, 0.8, 0.9]), "a", "b")
    wide = report.crossover(curves([0.7, 0.8, 0.8], [0.6, 0.7, 0.9], spread=0.3), "a", "b")
    assert "under 10" in wide or "over 1000" in wide  # control: noise widens the interval


def test_verdicts_need_their_interval_and_share_one_error_rate():
    close = {"first": (np.array([0.1, 0.11, 0.09]), "a", "b"), "second": (np.array([-0.1, -0.11, -0.09]), "a", "b")}
    lines = list(report.verdicts({**close, "third": (np.array([0.1, -0.1, 0.05]), "a", "b")}))
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["a", "b", "cannot tell"]
    # t = 4.3 with 9 degrees of freedom: p = 0.002, enough alone and not among a hundred
    one = np.array([1.0, -1.0] * 5) + 1.0 * 4.3 / 2.85
    assert next(report.verdicts({"one": (one, "a", "b")})).endswith(": a")
    null = np.array([1.0, -1.0] * 5)
    many = {"one": (one, "a", "b"), **{f"null {i}": (null, "a", "b") for i in range(99)}}
    assert next(report.verdicts(many)).endswith(": cannot tell")


def test_widened_intervals_cover_the_population_where_splits_share_items():
    rng, covered, narrow, items, own = np.random.default_rng(0), 0, 0, 100, 20
    for _ in range(1000):
        values = rng.normal(size=items)
        means = [values[rng.permutation(items)[:own]].mean() for _ in range(10)]
        for overlap in (own / (items - own), 0.0):
            _, low, high = report.over_seeds(xr.DataArray(means, coords={"overlap": overlap}, dims="seed"))
            hit = low <= 0 <= high
            covered, narrow = (covered + hit, narrow) if overlap else (covered, narrow + hit)
    assert abs(covered / 1000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)  # false alarm 6e-5, at a fixed seed
    assert narrow < 850  # control: as if seeds had drawn from a population


def test_a_split_keeps_every_item_once_with_its_label():
    number = torch.arange(120)
    x = torch.stack([number, -number], 1).float()[:, None, None]  # an image of two pixels: not standardised
    p = script.Problem("numbered", x[:90], number[:90] % 7, x[90:], number[90:] % 7)
    q = p.split(0)
    parts = [part[:, 0, 0, 0].long() for part in (q.x, q.test_x)]
    assert torch.equal(torch.cat(parts).sort()[0], number) and [len(part) for part in parts] == [90, 30]
    for part, y, items in zip(parts, (q.y, q.test_y), (q.x, q.test_x), strict=True):
        assert torch.equal(y, part % 7) and torch.equal(items[:, 0, 0, 1].long(), -part)
    assert not torch.equal(q.x, p.split(1).x) and torch.equal(q.x, p.split(0).x)
    assert (p.overlap(), p.overlap(10)) == (30 / 90, 10 / 110)


def test_features_are_standardised_by_training_items_alone():
    q = problem().split(0)
    assert q.x.mean(0).abs().max() < 1e-5 and (q.x.std(0) - 1).abs().max() < 1e-5
    assert q.test_x.mean(0).abs().max() > 1e-3  # control


def test_a_walk_downhill_finds_the_least_of_a_valley_and_stops_at_the_end():
    for least in range(-8, 9):
        asked = []

        def loss(step, least=least, asked=asked):
            asked.append(step)
            return abs(step - least)

        assert script.descended(loss) == np.clip(least, -6, 6)
        assert max(map(abs, asked)) <= 6
    assert script.descended(lambda step: np.inf if step else 1.0) == 0


def test_the_strength_is_the_one_that_does_best_on_other_items():
    p = problem(120)
    narrow = script.Problem("narrow", p.x / 100, p.y, p.x / 100, p.y)
    assert script.chosen("LDA", narrow, narrow.x, narrow.y.numpy(), 0) < 1e-3  # the classes' own variance is 1e-4
    noise = torch.randn(120, 30, generator=torch.Generator().manual_seed(1))
    p = script.Problem("noise", noise, p.y, noise, p.y)
    assert script.chosen("softmax", p, p.x, p.y.numpy(), 0) < 0.2


def test_figures_by_seed_keep_the_overlap_of_their_splits():
    rows = {(n, m, s): {"accuracy": (n + s) / 10} for n in (1, 2) for m in ("a", "b") for s in (0, 1, 2)}
    found = script.tabulated(rows, "labels", 0.25).accuracy
    d = 2 * found.sel(model="a") - found.sel(model="b")
    narrow, wide = (np.ptp(report.over_seeds(v)) for v in (d.sel(labels=1).values, d.sel(labels=1)))
    assert wide / narrow == pytest.approx(np.sqrt(1 + 3 * 0.25))
    infinite = xr.DataArray([0.1, np.inf, 0.2], coords={"overlap": 0.0}, dims="seed")
    assert report.over_seeds(infinite) == (np.inf, -np.inf, np.inf)  # and no seed the fewer


def test_squares_and_products():
    assert script.squared(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0, 1.0, 2.0, 4.0]]


@pytest.mark.slow
def test_a_forest_tells_two_laws_apart_and_not_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 150, 4))
    assert script.told_apart(a, b)[1] > 0.01  # false alarm in 1 %, at a fixed seed
    share, p = script.told_apart(a, b + 1.0)
    assert share > 0.7 and p < 1e-6


def test_conditions_keep_their_place():
    rows = {(n, m, s): {"accuracy": n + s / 10} for n in (1, 2) for m in ("a",) for s in (0, 1)}
    rows[2, "b", 1] = {"accuracy": 7.0}
    found = script.tabulated(rows, "labels")
    assert float(found.accuracy.sel(labels=2, model="a", seed=1)) == 2.1
    assert np.isnan(found.accuracy.sel(labels=1, model="b", seed=1))
    assert float(found.accuracy.sel(labels=2, model="b", seed=1)) == 7.0
