"""Multiple imputation: what a copy holds, and how often pooled intervals cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae import Column, ColumnMixture, GaussianMixture, multiple_imputation, pool
from pyrovae.methods import Method, register_methods

NAN = float("nan")


def missing_at_random(seed, n=100):
    """A bivariate normal with means 0 and 1 and correlation 0.6, whose second entry is missing by the first: 40 %."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=n)
    second = 1 + 0.6 * first + 0.8 * rng.normal(size=n)
    second[rng.random(n) < 1 / (1 + np.exp(0.5 - 1.5 * first))] = NAN
    return torch.from_numpy(np.stack([first, second], 1))


def one_normal():
    return GaussianMixture((2,), 1).double()


OPTIONS = {"num_restarts": 1, "progress": False}


def test_copies_keep_what_was_seen_and_differ_in_the_rest():
    x = missing_at_random(0, 60)
    copies = multiple_imputation(one_normal, x, num_imputations=3, **OPTIONS)
    seen = ~x.isnan()
    assert copies.shape == (3, 60, 2)
    assert copies.dtype == x.dtype
    assert torch.equal(copies[:, seen], x[seen].expand(3, -1))
    assert not copies.isnan().any()
    assert copies[:, ~seen].std(0).min() > 0
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = multiple_imputation(one_normal, x, num_imputations=3, **OPTIONS)
    assert torch.equal(again, copies)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    assert not torch.equal(multiple_imputation(one_normal, x, num_imputations=3, seed=1, **OPTIONS), copies)


def test_a_mask_says_what_is_missing():
    x = missing_at_random(1, 40)
    mask = x.isnan()
    by_mask = multiple_imputation(one_normal, x.nan_to_num(9.0), missing=mask, num_imputations=2, **OPTIONS)
    assert torch.equal(by_mask, multiple_imputation(one_normal, x, num_imputations=2, **OPTIONS))


def test_tables_and_weights():
    columns = [Column("r", "real"), Column("b", "binary"), Column("c", "categorical", 3)]
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(50, 1, generator=generator), torch.randint(0, 2, (50, 2), generator=generator)], 1)
    x[torch.rand(50, 3, generator=generator) < 0.3] = NAN
    weight = torch.arange(50) % 3
    with pyrovae.warned.gathered():
        copies = multiple_imputation(
            lambda: ColumnMixture(columns, 2), x, weight=weight, num_imputations=2, max_iterations=5, **OPTIONS
        )
    assert set(copies[..., 1:].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert torch.equal(copies[:, ~x.isnan()], x[~x.isnan()].expand(2, -1))


def test_warnings_are_given_once_for_all_fits():
    x = missing_at_random(2, 40)
    with pytest.warns(UserWarning, match="3 warnings like this one in 3 fits: EM has not converged") as warned:
        multiple_imputation(one_normal, x, num_imputations=3, max_iterations=1, **OPTIONS)
    assert len(warned) == 1


def test_errors_say_what_to_give():
    x = missing_at_random(3, 20)
    with pytest.raises(ValueError, match="nothing is missing in x"):
        multiple_imputation(one_normal, x.nan_to_num(0.0), **OPTIONS)
    with pytest.raises(TypeError, match="build must be a function"):
        multiple_imputation(one_normal(), x, **OPTIONS)
    with pytest.raises(TypeError, match="which has no impute"):
        multiple_imputation(lambda: pyrovae.IndependentEntries((2,)), x, **OPTIONS)
    with pytest.raises(ValueError, match="num_imputations"):
        multiple_imputation(one_normal, x, num_imputations=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"'num_steps', and GaussianMixture\.impute has no further options"):
        multiple_imputation(one_normal, x, impute={"num_steps": 3}, **OPTIONS)
    x[:, 1] = NAN
    x[0, 1] = 1.0  # one entry: a sample may have none, and is then drawn anew
    with pyrovae.warned.gathered():
        copies = multiple_imputation(one_normal, x, num_imputations=4, **OPTIONS)
    assert not copies.isnan().any()


class MonotoneNormal(GaussianMixture):
    """A bivariate normal of which the second entry alone is missing: its maximum has a closed form (Anderson 1957)."""

    def __init__(self):
        super().__init__((2,), 1)
        self.double()


@dataclass(frozen=True)
class Direct(Method):
    """The first entry's moments from all items, and its regression of the second from those that have both."""

    name = "direct"
    is_shown = False
    takes_missing = True

    def run(self, task):
        x = torch.as_tensor(task.x.x).double()
        both = x[~x[:, 1].isnan()]
        mean, variance = x[:, 0].mean(), x[:, 0].var(correction=0)
        middle = both.mean(0)
        moments = (both - middle).T @ (both - middle) / len(both)
        slope = moments[0, 1] / moments[0, 0]
        residual = moments[1, 1] - slope * moments[0, 1]
        loc = torch.stack([mean, middle[1] + slope * (mean - middle[0])])
        covariance = torch.stack(
            [
                torch.stack([variance, slope * variance]),
                torch.stack([slope * variance, residual + slope**2 * variance]),
            ]
        )
        task.pair.assign(torch.ones(1).double(), loc[None], covariance[None])
        return pyrovae.History.from_rows([{"loss": 0.0}], {"method": "direct"})


register_methods(MonotoneNormal, Direct())


def test_the_closed_form_is_where_em_ends():
    x = missing_at_random(4)
    direct, by_em = MonotoneNormal(), one_normal()
    pyrovae.fit(direct, x, missing=True, progress=False)
    pyrovae.fit(by_em, x, missing=True, tol=1e-12, **OPTIONS)
    assert torch.allclose(direct.loc, by_em.loc, atol=1e-4)
    assert torch.allclose(direct.covariances, by_em.covariances, atol=1e-4)


def covered(sets, build, num_imputations=20, **options):
    """How often pooled 95 % intervals of the second mean cover 1, by refits and by draws at one fit."""
    proper, fixed = 0, 0
    for seed in range(sets):
        x = missing_at_random(seed)
        n = len(x)
        with pyrovae.warned.gathered():
            copies = multiple_imputation(
                build, x, num_imputations=num_imputations, seed=seed, progress=False, **options
            )[..., 1]
            fit = build()
            pyrovae.fit(fit, x, missing=True, seed=seed, progress=False, **options)
        with torch.no_grad(), pyrovae.seeding.forked(seed):
            draws = fit.conditional(x).sample((num_imputations,))[..., 1]
        inside = []
        for each in (copies, draws):
            low, high = pool(each.mean(1), each.var(1) / n, complete_df=n - 1).interval()
            inside.append(bool(low <= 1 <= high))
        proper, fixed = proper + inside[0], fixed + inside[1]
    return proper / sets, fixed / sets


@pytest.mark.long
def test_pooled_intervals_cover_as_often_as_they_say():
    """A right 95 % interval covers in .93 to .97 of 1,000 sets but once in 270; draws at one fit cover less.

    Fits are in closed form, which is where EM ends.
    """
    proper, fixed = covered(1000, MonotoneNormal)
    assert 0.93 <= proper <= 0.97, (proper, fixed)
    assert fixed < proper - 0.02, (proper, fixed)  # the control


def test_what_is_set_here_is_no_option_of_impute():
    x = missing_at_random(0, 20)
    with pytest.raises(ValueError, match="impute has 'seed', which multiple_imputation sets"):
        multiple_imputation(one_normal, x, num_imputations=2, impute={"seed": 3}, **OPTIONS)
