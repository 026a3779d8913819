"""Rubin's rules against figures worked by hand and a published one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae import pool


def test_rules_by_hand():
    """Three imputations in fractions: estimates 2, 4, 6, variances 3, 4, 5, and 20 degrees of freedom."""
    between, within, more = Fraction(4), Fraction(4), Fraction(4, 3) * 4
    total = within + more
    share = more / total
    of_imputations, of_data = 2 / share**2, Fraction(21, 23) * 20 * (1 - share)
    df = of_imputations * of_data / (of_imputations + of_data)
    ratio = more / within
    fraction = (ratio + 2 / (df + 3)) / (ratio + 1)
    pooled = pool([2.0, 4.0, 6.0], [3.0, 4.0, 5.0], complete_df=20)
    assert pooled.estimate == 4
    assert (pooled.within, pooled.between) == (float(within), float(between))
    assert pooled.se == pytest.approx(math.sqrt(total), abs=1e-14)
    assert pooled.df == pytest.approx(float(df), abs=1e-12)
    assert pooled.fraction_missing == pytest.approx(float(fraction), abs=1e-14)
    low, high = pooled.interval(0.9)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.95, float(df)) * math.sqrt(total))


def test_published_degrees_of_freedom():
    """5 imputations with a relative increase in variance of 10 % have 484 (SAS/STAT 13.1, Combining Inferences)."""
    estimates = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # of variance 2.5
    variance = 1.2 * 2.5 / 0.1
    pooled = pool(estimates, np.full(5, variance), complete_df=math.inf)
    assert pooled.df == pytest.approx(484)
    # the adjusted ones are below those of the complete data, whatever those of the imputations are
    assert pool(estimates, np.full(5, variance), complete_df=99).df < 99


def test_several_estimates_are_pooled_one_by_one():
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(6, 2, 3)), rng.uniform(1, 2, size=(6, 2, 3))
    pooled = pool(estimates, variances, complete_df=30)
    one = pool(estimates[:, 1, 2], torch.from_numpy(variances[:, 1, 2]), complete_df=30)
    for name in ("estimate", "se", "df", "fraction_missing"):
        assert getattr(pooled, name)[1, 2] == pytest.approx(getattr(one, name))
    assert pooled.interval()[0].shape == (2, 3)
    assert str(pooled).splitlines()[5].startswith("[1, 2]: ")
    assert str(pool(estimates[:, 0], variances[:, 0], complete_df=30, names="abc")).startswith("a: ")
    assert str(one).endswith("of the information missing (6 imputations)")


def test_nothing_missing_leaves_the_analysis_as_it_is():
    pooled = pool([1.0, 1.0], [4.0, 4.0], complete_df=10)
    assert (pooled.se, pooled.fraction_missing) == (2.0, 0.0)
    assert pooled.df == pytest.approx(110 / 13)  # as Barnard and Rubin have it
    assert pool([1.0, 1.0], [0.0, 0.0], complete_df=math.inf).interval() == (1.0, 1.0)


def test_errors_say_what_to_give():
    for arguments, words in {
        ((1.0,), (1.0,), 9): "at least 2 imputations",
        ((1.0, 2.0), (1.0,), 9): "variances must be those of at least 2",
        ((1.0, 2.0), (1.0, -1.0), 9): "squares of standard errors",
        ((1.0, math.nan), (1.0, 1.0), 9): "estimates must be finite, and 1 of them",
        ((1.0, 2.0), (1.0, 1.0), 0): "complete_df must be above 0",
    }.items():
        estimates, variances, df = arguments
        with pytest.raises(ValueError, match=words):
            pool(estimates, variances, complete_df=df)
    with pytest.raises(ValueError, match="names must be 2"):
        pool(np.ones((3, 2)), np.ones((3, 2)), complete_df=9, names=["one"])
    with pytest.raises(ValueError, match="level must lie strictly between"):
        pyrovae.pool([1.0, 2.0], [1.0, 1.0], complete_df=9).interval(1.0)
