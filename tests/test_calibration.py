"""Calibration of q(z | x): it passes on the exact posterior, as often as it should, and catches known faults."""

from __future__ import annotations

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae.evaluation import calibration
from pyrovae.evaluation.holm import adjusted


def faulty(pair, change):
    broken = copy.deepcopy(pair)
    with torch.no_grad():
        change(broken.posterior)
    return broken


def narrower(q):
    q.raw_log_scale.add_(math.log(0.95))


def shifted(q):
    q.loc.bias.add_(0.1 * q(torch.zeros(1, 6).double()).stddev[0])


class IgnoresItems(torch.nn.Module):
    """The prior in place of q: its coordinates are uniform under it."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, x):
        return pyro.distributions.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1)


class Permuted(torch.nn.Module):
    """The right q of another item."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, x):
        q = self.q(x)
        return pyro.distributions.Normal(q.mean.roll(1, 0), q.stddev).to_event(1)


def test_the_exact_posterior_passes_with_ten_thousand_simulations(exact_linear_pair):
    found = pyrovae.calibrate(exact_linear_pair, seed=1)  # a true posterior fails under one seed in twenty
    assert found.passed
    assert found.pointwise.sizes == {"simulation": 10_000, "quantity": 4}
    assert abs(found.tests.bias.values[:3]).max() < 5 / 100  # 5 standard errors
    assert abs(found.tests.scale_ratio.values[:3] - 1).max() < 5 / math.sqrt(2 * 10_000)
    assert "drawn from the decoder (not on real data)" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("test", ["anderson-darling", "chi-square"])
def test_true_posteriors_are_rejected_as_often_as_the_level_says(exact_linear_pair, test):
    # 100 repeats at 5 % with Holm: 1 to 10 rejections hold 98 % of a binomial of 5 %; the seeds are fixed
    runs = [pyrovae.calibrate(exact_linear_pair, num_simulations=500, seed=s, test=test) for s in range(100)]
    assert 1 <= sum(not run.passed for run in runs) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("change", [narrower, shifted])
def test_a_scale_five_percent_off_and_a_mean_a_tenth_off_are_caught(exact_linear_pair, change):
    broken = faulty(exact_linear_pair, change)
    caught = [not pyrovae.calibrate(broken, seed=s).passed for s in range(10)]
    assert sum(caught) >= 9


@pytest.mark.parametrize("fault", ["prior", "permuted"])
def test_an_encoder_that_ignores_or_mixes_up_its_items_is_caught(exact_linear_pair, fault):
    broken = copy.deepcopy(exact_linear_pair)
    broken.posterior = IgnoresItems(broken.prior) if fault == "prior" else Permuted(broken.posterior)
    runs = [pyrovae.calibrate(broken, num_simulations=2000, seed=s) for s in range(10)]
    assert not any(run.passed for run in runs)
    if fault == "prior":  # the coordinates alone cannot see it
        failed = [run.tests.p_adjusted.values < 0.05 for run in runs]
        assert sum(f[:3].any() for f in failed) <= 3
        assert all(f[3] for f in failed)


def test_a_mean_field_q_on_a_correlated_posterior_fails_and_says_by_how_much():
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(6, 2, likelihood=pyrovae.Normal(scale=0.5)).double()
    with torch.no_grad():
        vae.likelihood.network.weight.copy_(torch.tensor([[1.0, 0.8]]).repeat(6, 1) + 0.3 * torch.randn(6, 2))
        w, s = vae.likelihood.network.weight, 0.5
        precision = torch.eye(2).double() + w.T @ w / s**2
        covariance = torch.linalg.inv(precision)
        q = vae.posterior
        q.loc.weight.copy_(covariance @ w.T / s**2)
        q.loc.bias.copy_(-(covariance @ w.T / s**2) @ vae.likelihood.network.bias)
        q.raw_log_scale.copy_(10 * torch.atanh(-0.5 * precision.diagonal().log() / 10))
    found = pyrovae.calibrate(vae, num_simulations=2000)
    assert not found.passed
    # the best diagonal q is too narrow by the square root of precision times variance
    ratio = (precision.diagonal() * covariance.diagonal()).sqrt()
    assert np.allclose(found.tests.scale_ratio.values[:2], ratio, rtol=5 / math.sqrt(4000))
    assert "times q's" in str(found)
    assert "adjusted p < 0.0001" in str(found)  # the p-values are known to 2e-6: none is printed as 0


def test_ranks_are_counts_of_draws_below(exact_linear_pair):
    found = pyrovae.calibrate(exact_linear_pair, num_simulations=300, num_draws=7)
    ranks = found.pointwise["rank"].values
    assert ranks.min() == 0
    assert ranks.max() == 7
    assert (np.floor(found.pointwise.uniform.values * 8) == ranks).all()


def test_the_anderson_darling_distribution_against_its_table_and_simulation():
    # critical values for a known distribution: 10 %, 5 %, 1 % (Stephens 1974, table 1, case 0)
    for value, level in ((1.933, 0.10), (2.492, 0.05), (3.857, 0.01)):
        assert 1 - calibration._anderson_darling_cdf(value) == pytest.approx(level, abs=3e-4)
    rng = np.random.default_rng(0)
    p = [calibration._anderson_darling(rng.random(200))[1] for _ in range(2000)]
    assert stats.kstest(p, "uniform").pvalue > 1e-4  # false alarm 1e-4


def test_holm_against_a_worked_case():
    assert np.allclose(adjusted([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def test_batches_and_counts(monkeypatch, exact_linear_pair):
    monkeypatch.setattr(calibration, "ROWS", 70)
    found = pyrovae.calibrate(exact_linear_pair, num_simulations=33, num_draws=9)
    assert found.pointwise.sizes["simulation"] == 33
    first, second = (pyrovae.calibrate(exact_linear_pair, num_simulations=33, seed=s) for s in (0, 0))
    assert first.pointwise.equals(second.pointwise)


def test_a_guide_without_a_mean_is_ranked_all_the_same(exact_linear_pair):
    class Flow(torch.nn.Module):
        def __init__(self, q):
            super().__init__()
            self.q = q

        def forward(self, x):
            return pyro.distributions.TransformedDistribution(
                self.q(x), [torch.distributions.transforms.ExpTransform()]
            )

    class Positive(torch.nn.Module):
        def forward(self):
            base = pyro.distributions.Normal(torch.zeros(3).double(), 1.0).to_event(1)
            return pyro.distributions.TransformedDistribution(base, [torch.distributions.transforms.ExpTransform()])

    class Log(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return self.network(z.log())

    pair = copy.deepcopy(exact_linear_pair)
    pair.posterior, pair.prior = Flow(pair.posterior), Positive()
    pair.likelihood.network = Log(pair.likelihood.network)
    found = pyrovae.calibrate(pair, num_simulations=500, seed=1)
    assert found.passed
    assert np.isnan(found.tests.bias.values).all()


def test_what_is_refused(exact_linear_pair):
    with pytest.raises(ValueError, match="num_simulations must be an integer of at least 20"):
        pyrovae.calibrate(exact_linear_pair, num_simulations=19)
    with pytest.raises(ValueError, match="test must be one of 'anderson-darling', 'chi-square'"):
        pyrovae.calibrate(exact_linear_pair, test="ks")
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
        pyrovae.calibrate(exact_linear_pair, level=2.0)
    with pytest.raises(ValueError, match=r"calibrate needs a p\(x\)"):
        pyrovae.calibrate(pyrovae.mlp_ae((3,)))


def test_a_report_names_the_worst_of_many_failures_and_counts_the_rest():
    vae = pyrovae.linear_vae(12, 8).double()  # an encoder that has seen nothing
    found = pyrovae.calibrate(vae, num_simulations=1000, num_draws=19)
    failed = int((found.tests.p_adjusted < 0.05).sum())
    worst = str(found.tests.quantity.values[found.tests.statistic.values.argmax()])
    assert failed > 4
    assert f"fails for {failed}, most of all for 4: {worst} (" in str(found)
