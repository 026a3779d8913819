"""Intervals and verdicts against SciPy and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pyrovae import paired_interval, verdicts


def test_the_interval_is_scipys():
    d = np.array([0.3, 0.1, 0.5, 0.2])
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    assert paired_interval(d, confidence=0.9) == pytest.approx((d.mean(), expected.low, expected.high))
    assert paired_interval([2.0]) == (2.0, -math.inf, math.inf)


def test_it_covers_as_often_as_it_says():
    # 4,000 repeats of n = 5: 95 % ± 4 binomial standard errors (false alarm 6e-5)
    rng = np.random.default_rng(0)
    hits = 0
    for d in rng.normal(1.0, 2.0, (4000, 5)):
        _, low, high = paired_interval(d)
        hits += low < 1.0 < high
    assert abs(hits / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_levels_are_holms():
    rng = np.random.default_rng(1)
    effects = {"strong": 5 + rng.normal(size=10), "weak": np.array([0.5, -0.3, 0.4]), "none": rng.normal(size=10)}
    found = verdicts(effects, dict.fromkeys(effects, 0.0))
    p = {name: stats.ttest_1samp(d, 0).pvalue for name, d in effects.items()}
    assert found.p_value.values == pytest.approx([p[n] for n in effects])
    ranked = sorted(p, key=p.get)
    assert float(found.level.sel(claim=ranked[0])) == pytest.approx(1 - 0.05 / 3)
    assert p[ranked[1]] > 0.05 / 2  # the second fails, so the third is held to its level
    assert float(found.level.sel(claim=ranked[1])) == float(found.level.sel(claim=ranked[2])) == pytest.approx(0.975)
    assert found.verdict.values.tolist() == ["holds", "cannot tell", "cannot tell"]


def test_the_three_verdicts():
    effects = {"yes": [2.0, 2.1, 1.9], "no": [0.2, 0.3, 0.1], "perhaps": [0.0, 2.0, 1.0], "exact": [3.0, 3.0, 3.0]}
    found = verdicts(effects, dict.fromkeys(effects, 1.0))
    assert found.verdict.values.tolist() == ["holds", "does not hold", "cannot tell", "holds"]
    # turned round, what held no longer does: a negative control
    turned = verdicts({k: -np.array(v) for k, v in effects.items()}, dict.fromkeys(effects, 1.0))
    assert turned.verdict.values.tolist() == ["does not hold", "does not hold", "cannot tell", "does not hold"]


def test_the_family_is_wrong_at_most_once_in_twenty():
    # four claims whose effect is exactly the smallest difference: any verdict but "cannot tell" is an error. 2,000
    # repeats: at most 5 % + 4 binomial standard errors (false alarm 3e-5); without Holm it would be 18.5 %
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(2000):
        effects = {str(i): 1 + rng.normal(size=6) for i in range(4)}
        wrong += any(v != "cannot tell" for v in verdicts(effects, dict.fromkeys(effects, 1.0)).verdict.values)
    assert wrong / 2000 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_interval([]), r"differences must have shape \(n,\) with n of at least 1, got \(0,\)"),
        (lambda: paired_interval([1.0, math.nan]), "differences must be finite, got nan at index 1"),
        (lambda: paired_interval([1.0], confidence=95), "confidence must lie strictly between 0 and 1, got 95"),
        (lambda: verdicts({"a": [1.0]}, {}), "must name the same claims"),
        (lambda: verdicts({"a": [1.0]}, {"a": math.nan}), r"smallest\['a'\] must be a finite number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
