"""Holm's procedure: adjusted p-values and levels agree with each other, with sums by hand, and with their rate."""

from __future__ import annotations

import numpy as np
import pytest

from pyrovae.evaluation.holm import adjusted, levels


def test_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.04 x 1, each at least the one before it
    assert np.allclose(adjusted([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert np.allclose(adjusted([0.9, 0.8]), [1.0, 1.0])
    assert np.allclose(levels([0.5, 0.001, 0.02], 0.06), [0.06, 0.02, 0.03])
    assert np.allclose(levels([0.5, 0.001, 0.04], 0.06), [0.03, 0.02, 0.03])  # 0.04 fails at 0.03, and stops it


@pytest.mark.parametrize("seed", range(20))
def test_a_p_value_is_below_its_level_where_its_adjusted_one_is_below_alpha(seed):
    p, alpha = np.random.default_rng(seed).uniform(0, 0.1, 7), 0.1
    rejected = p < levels(p, alpha)
    assert (rejected == (adjusted(p) < alpha)).all()
    # control: without the step down fewer are rejected, or as many
    assert rejected.sum() >= (p < alpha / 7).sum()


def test_the_error_rate_over_all_is_that_asked_for():
    # all hypotheses true: one or more are rejected with probability alpha, and more often without the procedure
    p = np.random.default_rng(0).uniform(size=(4000, 5))
    rate = np.mean([(adjusted(row) < 0.1).any() for row in p])
    se = np.sqrt(0.1 * 0.9 / 4000)
    assert rate < 0.1 + 4 * se
    assert np.mean((p < 0.1).any(1)) > 0.35
