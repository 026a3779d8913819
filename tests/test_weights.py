"""The error of a log-mean-exp against repeats, its flag, and Pareto shapes of tied weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyrovae.evaluation.weights import log_mean, pareto_k, spread_limit


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def delta(log_weight):
    weight = (log_weight - log_weight.max(0).values).exp()
    return (weight.std(0) / weight.mean(0)).numpy() / math.sqrt(len(log_weight))


def jackknife(log_weight):
    """By its definition: the estimate without each weight, in turn."""
    count = len(log_weight)
    rest = [torch.cat([log_weight[:k], log_weight[k + 1 :]]).logsumexp(0) - math.log(count - 1) for k in range(count)]
    left_out = torch.stack(rest)
    return ((count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)).sqrt().numpy()


class TestErrors:
    # the ratios lie at 0.94 to 0.98 (analysis/standard_errors.py); over these repeats their sd is 0.02 to 0.03, and
    # 0.05 for K = 1,000: the bounds are 3 sd away (false alarm below 1e-2 in all)
    @pytest.mark.parametrize(
        ("count", "repeats", "sd", "least"),
        [(16, 4000, 2.0, 0.87), (16, 4000, 3.0, 0.87), (100, 1500, 3.0, 0.87), (1000, 300, 3.0, 0.8)],
    )
    def test_are_what_repeats_show_and_need_no_flag(self, count, repeats, sd, least):
        table = sd * normal(count, repeats, seed=count)
        found = log_mean(table)
        spread, kept = found["value"].std(), ~found["unreliable"]
        assert least < spread / np.sqrt((found["se"] ** 2).mean()) < 1.1
        among = found["value"][kept] - found["value"].mean()
        assert least < np.sqrt((among**2).mean() / (found["se"][kept] ** 2).mean()) < 1.1
        assert kept.mean() > 0.95
        if sd == 3.0:  # control: the delta method's error is far too small
            assert spread / np.sqrt((delta(table) ** 2).mean()) > 1.35

    def test_are_what_repeats_show_of_tails_heavier_than_a_lognormal_and_of_two_modes(self):
        # exponential log-weights of mean 0.7 and weights of which one in 50 is exp(6) times the others;
        # the ratios lie at 1.0 and 0.9 with a sd of 0.025
        uniform = torch.rand(100, 1500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for table in (-0.7 * uniform.log(), 0.3 * normal(100, 1500) + 6.0 * (uniform < 0.02)):
            found = log_mean(table)
            assert 0.82 < found["value"].std() / np.sqrt((found["se"] ** 2).mean()) < 1.12
            assert found["unreliable"].mean() < 0.05

    @pytest.mark.parametrize(("count", "repeats", "sd"), [(100, 500, 5.0), (1000, 100, 5.0)])
    def test_items_whose_bias_is_over_their_error_are_flagged(self, count, repeats, sd):
        found = log_mean(sd * normal(count, repeats))
        bias = found["value"].mean() - sd**2 / 2
        assert abs(bias) > 1.3 * np.sqrt((found["se"] ** 2).mean())  # they need one
        assert found["unreliable"].mean() > 0.8

    def test_of_light_weights_are_the_delta_methods_to_the_bit(self):
        table = 0.5 * normal(200, 50)
        weight = (table - table.max(0).values).exp()
        expected = weight.std(0) / (weight.mean(0) * math.sqrt(200))
        assert np.array_equal(log_mean(table)["se"], expected.numpy())

    @pytest.mark.parametrize("count", [2, 3, 16, 50])
    @pytest.mark.parametrize("sd", [0.1, 1.0, 4.0, 30.0])
    def test_are_the_delta_methods_where_the_jackknife_confirms_it_and_else_the_jackknifes(self, count, sd):
        table = sd * normal(count, 40, seed=count) - 1e4
        one, other = delta(table), jackknife(table)
        expected = np.where(other > 1.05 * one, other, one)
        np.testing.assert_allclose(log_mean(table)["se"], expected, rtol=1e-7)

    def test_one_weight_that_outdoes_all_others_says_by_how_much(self):
        table = torch.zeros(10, 2, dtype=torch.float64)
        table[3] = torch.tensor([40.0, 2000.0], dtype=torch.float64)  # 1 - share is below one rounding
        expected = (40.0 + math.log(1 + 9 * math.exp(-40.0)) - math.log(9.0)) * math.sqrt(9 * (1 / 10 - 1 / 100))
        found = log_mean(table)
        assert found["se"][0] == pytest.approx(expected, rel=1e-9)
        assert found["se"][1] == pytest.approx((2000.0 - math.log(9.0)) * 0.9, rel=1e-9)

    def test_degenerate_weights(self):
        inf = math.inf
        table = torch.tensor([[0.0, -inf, -inf, 0.0, math.nan], [0.0, -inf, -inf, -inf, 0.0], [0.0, 1.0, -inf, 0.0, 1]])
        found = log_mean(table.double())
        assert found["se"][0] == 0.0
        assert found["se"][1] == inf  # nothing but one draw
        assert np.isnan(found["se"][[2, 4]]).all()
        assert np.isfinite(found["se"][3])
        assert found["unreliable"].tolist() == [False, True, True, False, True]
        one = log_mean(torch.zeros(1, 2))
        assert np.isnan(one["se"]).all()
        assert not one["unreliable"].any()

    def test_the_limit_lies_where_the_bias_reaches_the_error(self):
        # normal log-weights of 0.85 and 1.2 times the limit without its allowance for chance
        border, ratios = spread_limit(100) / (1 + 7 / 100), []
        for sd in (0.85 * border, 1.2 * border):
            found = log_mean(sd * normal(100, 1500))
            ratios.append((sd**2 / 2 - found["value"].mean()) / np.sqrt((found["se"] ** 2).mean()))
        assert ratios[0] < 0.9 and ratios[1] > 1.1


class TestTies:
    def test_rounded_log_weights_have_the_shape_of_those_they_were(self):
        # float32 at -3e5 is 1/32 apart, so that half of the tail is one value; both shapes have a sd of about 0.1
        table = 0.03 * normal(1000, 20)
        rounded = (table - 3e5).float()
        assert len(torch.unique(rounded[:, 0].topk(96).values)) <= 4
        found, wanted = pareto_k(rounded), pareto_k(table)
        finite = np.isfinite(found)
        assert finite.sum() > 15
        assert np.abs(found[finite] - wanted[finite]).max() < 0.8
        assert abs(found[finite].mean() - wanted.mean()) < 0.35

    @pytest.mark.parametrize("jitter", [1e-9, 1e-6, 1e-3])
    def test_near_ties_are_ties(self, jitter):
        rounded = (0.03 * normal(1000, 20) - 3e5).float().double()
        found = pareto_k(rounded + jitter * normal(1000, 20, seed=1))
        assert (found < 0.5).all()

    def test_discrete_weights(self):
        values = torch.tensor([0.0, 5.0, 10.0], dtype=torch.float64)
        index = torch.arange(1000)[:, None]
        most_low = values[(index > 950).long() + (index > 985).long()]  # 14 and 35 over the rest
        some_high = values[(index > 700).long() * 2]  # the tail is one value
        two_high = values[(index > 997).long()]
        found = pareto_k(torch.cat([most_low, some_high, two_high], 1))
        assert np.isfinite(found[0]) and found[0] < 3
        assert found[1] == -math.inf
        assert np.isnan(found[2])

    def test_columns_without_ties_are_untouched_by_those_beside_them(self):
        table = normal(400, 3)
        rounded = (0.03 * normal(400, 2) - 3e5).float().double()
        assert np.array_equal(pareto_k(torch.cat([rounded, table], 1))[2:], pareto_k(table))

    def test_float64_tells_finer_steps_apart(self):
        # at -3e5 and a spread far below what float32 could tell apart: as it is at 0
        table = 0.001 * normal(1000, 20)
        np.testing.assert_allclose(pareto_k(table - 3e5), pareto_k(table), atol=1e-5)
