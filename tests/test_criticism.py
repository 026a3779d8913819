"""Predictive checks: p-values that are uniform under the model, misfits that are caught, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae
from pyrovae.evaluation.criticism import _tested
from pyrovae.evaluation.set_statistics import STATISTICS


class Counts(nn.Module):
    """Poisson entries."""

    support = constraints.nonnegative_integer
    base_measure = "mass"

    def forward(self, log_rate: Tensor) -> Any:
        return torch.distributions.Poisson(log_rate.exp())


def counting_pair() -> pyrovae.VAE:
    torch.manual_seed(0)
    network = nn.Linear(1, 4)
    with torch.no_grad():
        network.weight.mul_(0.1)
        network.bias.fill_(1.0)
    likelihood = pyrovae.Likelihood(network, Counts(), (4,))
    return pyrovae.VAE(pyrovae.StandardNormal(1), likelihood, pyrovae.LinearNormal(4, 1))


def linear_pair() -> pyrovae.VAE:
    torch.manual_seed(0)
    return pyrovae.linear_vae(4, 1)


class ExactPosterior(nn.Module):
    """p(z | x) for x = z (1, 1, 1, 1) + noise with a standard deviation of 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1 / 4.09))

    def forward(self, x: Tensor) -> Any:
        loc = self.weight * x.sum(-1, keepdim=True)
        return torch.distributions.Independent(torch.distributions.Normal(loc, math.sqrt(0.09 / 4.09)), 1)


def well_known_codes() -> pyrovae.VAE:
    network = nn.Linear(1, 4)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.bias.zero_()
    likelihood = pyrovae.Likelihood(network, pyrovae.Normal(scale=0.3), (4,))
    return pyrovae.VAE(pyrovae.StandardNormal(1), likelihood, ExactPosterior())


def test_statistics_against_numpy() -> None:
    x = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    x[0, 0, 0], x[1, 1, 1] = 0.0, 1.0
    flat = x.flatten(1).numpy()
    table = np.corrcoef(flat.T)
    expected = {
        "mean": flat.mean(),
        "sd": flat.std(ddof=1),
        "min": flat.min(),
        "max": flat.max(),
        "zeros": 1 / 180,
        "ones": 1 / 180,
        "dispersion": (flat.var(0, ddof=1) / flat.mean(0)).mean(),
        "entry_sd": flat.std(0, ddof=1).mean(),
        "item_sd": flat.mean(1).std(ddof=1),
        **{name: np.quantile(flat, q) for name, q in [("q05", 0.05), ("q25", 0.25), ("q75", 0.75), ("q95", 0.95)]},
        "median": np.median(flat),
        "correlation": math.sqrt((table[~np.eye(6, dtype=bool)] ** 2).mean()),
    }
    assert expected.keys() == STATISTICS.keys()
    for name, value in expected.items():
        assert float(STATISTICS[name](x)) == pytest.approx(value, rel=1e-10), name


def test_entries_that_do_not_vary_have_finite_statistics() -> None:
    x = torch.zeros(5, 3)
    x[:, 0] = torch.arange(5.0)
    assert float(STATISTICS["dispersion"](x)) == pytest.approx(2.5 / 2 / 3)
    assert float(STATISTICS["correlation"](x)) == 0
    assert float(STATISTICS["correlation"](x[:, :1])) == 0


def test_the_p_value_is_the_randomised_rank_among_all_sets() -> None:
    # three sets above the items' statistic, two that tie and four below: ranks 4, 5 and 6 of 10, equally often
    replicate = np.array([3.0, 3, 3, 2, 2, 1, 1, 1, 1])[:, None]
    seen = []
    for seed in range(150):
        table = _tested(["t"], np.array([2.0]), replicate, np.random.default_rng(seed), {})
        seen.append(round(10 * float(table.p_upper[0])))
        assert float(table.p_value[0]) == pytest.approx(min(1, 2 * min(seen[-1], 11 - seen[-1]) / 10))
    counts = np.bincount(seen, minlength=11)
    assert counts[[4, 5, 6]].sum() == 150
    assert stats.chisquare(counts[4:7]).pvalue > 1e-4  # a false alarm in 10,000, with these seeds always the same


def test_a_statistic_that_is_always_the_same_is_not_counted_by_holm() -> None:
    replicate = np.stack([np.arange(99.0), np.zeros(99)], 1)
    table = _tested(["t", "zeros"], np.array([200.0, 0.0]), replicate, np.random.default_rng(0), {})
    assert table.p_adjusted[0] == table.p_value[0] == pytest.approx(0.02)
    assert np.isnan(table.p_value[1]) and np.isnan(table.p_adjusted[1])


def test_overdispersed_counts_are_caught_and_counts_of_the_model_are_not() -> None:
    pair = counting_pair()
    of_model = pair.sample(100, seed=1)
    rate = torch.distributions.Gamma(1.0, 1 / of_model.mean())
    torch.manual_seed(2)
    overdispersed = torch.poisson(rate.sample((100, 4)))  # the same mean, four times the variance and more
    how = {"statistics": ["mean", "dispersion", "zeros", "max"], "draws": 199}
    assert pyrovae.predictive_checks(pair, of_model, **how).passed
    caught = pyrovae.predictive_checks(pair, overdispersed, **how)
    assert "dispersion" in caught.failed
    assert float(caught.table.p_upper.sel(statistic="dispersion")) == pytest.approx(1 / 200)
    assert "dispersion" in str(caught).splitlines()[-1]


@pytest.mark.parametrize("kind", ["prior", "posterior"])
def test_a_doubled_variance_is_caught(kind: str) -> None:
    pair = linear_pair()
    x = pair.sample(100, seed=1)
    noisy = x + (x - x.mean(0)) * (math.sqrt(2) - 1)
    how: Any = {"statistics": ["sd", "median"], "draws": 99, "kind": kind, "num_particles": 50}
    assert pyrovae.predictive_checks(pair, x, **how).passed
    assert pyrovae.predictive_checks(pair, noisy, **how).failed == ("sd",)


def test_a_split_catches_entries_that_hang_together_in_another_way() -> None:
    covariance = [[1.0, 0.9], [0.9, 1.0]]
    mixture = pyrovae.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [covariance])
    x = mixture.sample(80, seed=0)
    how: Any = {"statistics": ["correlation", "mean"], "draws": 199, "kind": "split"}
    assert pyrovae.predictive_checks(mixture, x, **how).passed
    swapped = torch.stack([x[:, 0], x[:, 1].roll(1)], 1)
    assert "correlation" in pyrovae.predictive_checks(mixture, swapped, **how).failed


def test_functions_of_a_user_and_the_same_seed_twice() -> None:
    pair, shapes = linear_pair(), []

    def largest(items: Tensor) -> Tensor:
        shapes.append(tuple(items.shape))
        return items.amax(1)

    x = pair.sample(20, seed=1)
    how: Any = {"statistics": {"largest": largest, "spread": "sd"}, "draws": 19}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (pyrovae.predictive_checks(pair, x, **how) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.table.identical(two.table)
    assert one.table.statistic.values.tolist() == ["largest", "spread"] and set(shapes) == {(20, 4)}
    assert float(one.table.observed[0]) == pytest.approx(float(x.amax(1).double().mean()))
    assert not pyrovae.predictive_checks(pair, x, **how, seed=1).table.replicate.equals(one.table.replicate)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kind": "both"}, ValueError, "kind must be one of"),
        ({"statistics": ["skewness"]}, ValueError, "statistics must be one of"),
        ({"statistics": "mean"}, TypeError, "a list of names or a mapping"),
        ({"statistics": [len]}, TypeError, "statistics must have names"),
        ({"statistics": {"t": lambda x: x}}, ValueError, "one number, or one for each"),
        ({"statistics": {"t": lambda x: x.sum() / 0}}, ValueError, "it must be finite"),
        ({"statistics": {"t": lambda x: "a"}}, TypeError, "must return a number"),
        ({"draws": 0}, ValueError, "draws must be"),
        ({"level": 2.0}, ValueError, "level"),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    pair = linear_pair()
    with pytest.raises(error, match=words):
        pyrovae.predictive_checks(pair, torch.zeros(3, 4), **{"draws": 9, **change})


def shifted_pair() -> tuple[pyrovae.VAE, torch.Tensor]:
    """A pair whose means are 3 times its one covariate whatever the code, and covariates of 60 items."""
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 1, covariate_dim=1)
    with torch.no_grad():
        pair.likelihood.network.weight[:] = torch.tensor([0.0, 3.0])
    return pair, torch.arange(60.0)[:, None] % 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "draws"), [("prior", 99), ("posterior", 99), ("split", 39)])
def test_sets_are_drawn_at_the_items_own_covariates(kind: str, draws: int) -> None:
    pair, c = shifted_pair()
    x = pair.sample(60, covariates=c, seed=1)
    how: Any = {"statistics": {"odd": lambda x: x[1::2].mean()}, "kind": kind, "draws": draws, "num_particles": 20}
    own = pyrovae.predictive_checks(pair, x, covariates=c, **how)
    assert own.passed and own.table.attrs["given"] == "covariates"
    split = pyrovae.predictive_checks(pair, pyrovae.data.Split(x, covariates=c), **how)
    assert np.array_equal(split.table["replicate"], own.table["replicate"])
    # the control: at those of the items beside them the drawn entries, all or half of them, are 3 lower
    other = pyrovae.predictive_checks(pair, x, covariates=1 - c, **how)
    assert other.failed == ("odd",)
    away = float((own.table["mean"] - other.table["mean"]).squeeze())
    assert away == pytest.approx(1.5 if kind == "split" else 3, abs=0.3)


def test_sets_that_are_drawn_in_parts_keep_each_item_at_its_covariates(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, c = shifted_pair()
    x = pair.sample(60, covariates=c, seed=1)
    monkeypatch.setattr("pyrovae.evaluation.criticism.rows_within", lambda *a: 25)  # fewer than a set has

    def gap(x: Tensor) -> Tensor:
        return x[1::2].mean() - x[::2].mean()

    found = pyrovae.predictive_checks(pair, x, covariates=c, statistics={"gap": gap}, draws=39)
    # 60 items of 4 entries with a standard deviation of about 1: within 6 standard errors
    assert abs(found.table["replicate"] - 3).max() < 6 * 2 / math.sqrt(240) + 0.1


def test_sets_have_the_exposure_of_the_items() -> None:
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(3, 1, likelihood="poisson")
    exposure = torch.linspace(1, 9, 50)
    x = pair.sample(50, exposure=exposure, seed=1)
    how: Any = {"statistics": ["mean"], "draws": 39}
    found = pyrovae.predictive_checks(pair, x, exposure=exposure, **how)
    assert found.passed
    assert "mean" in pyrovae.predictive_checks(pair, x, **how).failed  # the control: exposures of 1


def test_what_else_is_refused() -> None:
    pair = linear_pair()
    with pytest.raises(ValueError, match="at least 2 items"):
        pyrovae.predictive_checks(pair, torch.zeros(1, 4))
    mixture = pyrovae.GaussianMixture((4,), 2)
    with pytest.raises(ValueError, match="latent"):
        pyrovae.predictive_checks(mixture, torch.zeros(3, 4), kind="posterior")
    with pytest.raises(ValueError, match="have one"):
        pyrovae.predictive_checks(pyrovae.linear_vae(1, 1), torch.zeros(3, 1), kind="split")
    with pytest.raises(ValueError, match=r"needs a p\(x\)"):
        pyrovae.predictive_checks(pyrovae.mlp_ae((4,)), torch.zeros(3, 4))
    conditional = pyrovae.linear_vae(4, 1, covariate_dim=2)
    for refused in (pyrovae.predictive_checks, pyrovae.NoveltyDetector):
        with pytest.raises(ValueError, match="are needed"):
            refused(conditional, torch.zeros(40, 4))
    few = pyrovae.predictive_checks(pair, pair.sample(9, seed=0), draws=19)
    assert "raise draws to" in str(few)


def planted(kind: str, sets: int) -> tuple[list[str], np.ndarray]:
    """One-sided p-values of sets that the model itself has drawn, made continuous within the grid of 1 / (R + 1)."""
    draws, rng = 39, np.random.default_rng(0)
    if kind == "split":
        pair: Any = pyrovae.GaussianMixture.from_parameters(
            [0.3, 0.7], [[0.0, 0.0], [2.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]] * 2
        )
        names = ["mean", "correlation"]
    elif kind == "prior":
        torch.manual_seed(0)
        pair, names = pyrovae.mlp_vae((5,), hidden_dims=(8,)), ["mean", "item_sd"]  # of 0 and 1: many ties
    else:
        pair, names = well_known_codes(), ["mean", "item_sd"]
    p = []
    for seed in range(sets):
        how: Any = {"statistics": names, "kind": kind, "draws": draws, "num_particles": 40, "seed": seed}
        table = pyrovae.predictive_checks(pair, pair.sample(12, seed=seed), **how).table
        p.append(table.p_upper.values - rng.random(2) / (draws + 1))
    return names, np.array(p)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prior", "split"])
def test_p_values_of_planted_sets_are_uniform(kind: str) -> None:
    names, p = planted(kind, 500 if kind == "prior" else 80)
    for name, column in zip(names, p.T, strict=True):
        assert stats.kstest(column, "uniform").pvalue > 1e-3, name  # by chance in 1 of 1,000 for each statistic


@pytest.mark.long
def test_p_values_by_codes_of_the_same_items_are_conservative() -> None:
    """The double use of the data, which the documentation warns of: these are no uniform p-values."""
    _, p = planted("posterior", 150)
    assert stats.kstest(p[:, 0], "uniform").pvalue < 1e-4
    assert p[:, 0].std() < 0.8 / math.sqrt(12)
