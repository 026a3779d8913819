"""Simulation-based calibration: a test of whether q(z | x) is the posterior of its own decoder, without a refit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation import holm
from pyrovae.evaluation.session import Session
from pyrovae.labelled import labelled
from pyrovae.models.batch import Batch
from pyrovae.models.items import checked_beside
from pyrovae.models.layers import rows_within
from pyrovae.models.pair import Pair
from pyrovae.models.particles import drawn_jointly, latent_law, scored
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Calibration", "calibrate"]

ROWS = 16_384  # codes decoded together, if memory allows
MAX_BYTES = 2**30
SHOWN = 4  # the number of failing quantities that a report names
MOST_ROWS = 8  # of quantities in a notebook's table


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(HasSummary):
    """Ranks of the codes that generated simulated items among draws of q(z | x), uniform if q is the posterior.

    `pointwise` is a Dataset over "simulation" and "quantity" (each coordinate of the code, and
    "log p(x | z)"), with "rank" in 0..L and "uniform", the rank made continuous, in (0, 1). `tests`
    is a Dataset over "quantity" with the test's "statistic", "p_value" and Holm's "p_adjusted". For
    the coordinates it also has "bias", the mean error of q in units of its standard deviation, and
    "scale_ratio", the true standard deviation over that of q.

    The result concerns items drawn from the decoder and not real items.
    """

    pointwise: xr.Dataset
    tests: xr.Dataset

    @property
    def passed(self) -> bool:
        """Whether no quantity is rejected at the chosen level, with Holm's correction over the quantities."""
        return not bool((self.tests["p_adjusted"] < self.tests.attrs["level"]).any())

    def _summary_line(self) -> str:
        rejected = self.tests["p_adjusted"] < self.tests.attrs["level"]
        found = f"fails for {int(rejected.sum())} of {rejected.size} quantities" if rejected.any() else "no departure"
        smallest = f"smallest {_adjusted_p(self.tests['p_adjusted'].min())}"
        return f"{found}, {smallest}, {self.tests.attrs['num_simulations']:,} simulated items"

    def _summary_rows(self) -> Rows:
        attributes = self.tests.attrs
        rows = {
            "simulated items": lambda: f"{attributes['num_simulations']:,}, {attributes['num_draws']} draws each",
            "test": lambda: f"{attributes['test']}, Holm's correction, level {attributes['level']:g}",
            "departure": lambda: "none seen" if self.passed else "seen",
        }
        worst_first = self.tests.sortby("statistic", ascending=False).quantity.values[:MOST_ROWS]
        return rows | {str(name): lambda name=name: self._row(name) for name in worst_first}

    def _row(self, name: str) -> str:
        row = self.tests.sel(quantity=name)
        words = _adjusted_p(row.p_adjusted)
        if np.isfinite(float(row.bias)):
            words += f", mean off by {float(row.bias):+.3f} sd, true spread {float(row.scale_ratio):.3f} times q's"
        return words

    def __str__(self) -> str:
        attributes = self.tests.attrs
        failed = self.tests.where(self.tests["p_adjusted"] < attributes["level"], drop=True).sortby(
            "statistic", ascending=False
        )
        head = (
            f"calibration of q(z | x) on {attributes['num_simulations']:,} items drawn from the decoder (not on real "
            f"data), {attributes['num_draws']} draws each, {attributes['test']}, Holm over "
            f"{self.tests.sizes['quantity']} quantities at {attributes['level']:g}: "
        )
        if self.passed:
            return head + f"no departure seen (smallest adjusted p {float(self.tests.p_adjusted.min()):.3f})"
        words = []
        for name in failed.quantity.values[:SHOWN]:
            row = self.tests.sel(quantity=name)
            how = _adjusted_p(row.p_adjusted)
            if np.isfinite(float(row.bias)):
                how += f", mean off by {float(row.bias):+.3f} sd, true spread {float(row.scale_ratio):.3f} times q's"
            words.append(f"{name} ({how})")
        some = f", most of all for {len(words)}" if len(words) < failed.sizes["quantity"] else ""
        return head + f"fails for {failed.sizes['quantity']}{some}: " + "; ".join(words)


@checks.allocating
def calibrate(
    pair: Pair,
    *,
    num_simulations: int = 10_000,
    num_draws: int = 99,
    test: str = "anderson-darling",
    level: float = 0.05,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
) -> Calibration:
    """Simulation-based calibration of the guide: z from the prior, x from the decoder, its rank under q(z | x).

    If q(z | x) is the posterior, the rank of each coordinate of the code, and that of log p(x | z),
    among L = `num_draws` draws is uniform on 0..L (Talts et al. 2018, theorem 1). The log-likelihood
    is included because the coordinates alone cannot detect a q that ignores x (Modrak et al. 2023,
    section 3). Ties are broken at random. The `test` of uniformity is "anderson-darling", on
    (rank + u) / (L + 1) with u uniform, or "chi-square", in 20 bins. Holm's correction over the
    quantities has the error rate `level`.

    Of a pair given covariates, or an exposure, the simulations go round the rows of `covariates`, (N, D), and
    `exposure`, (N,), which stand for those that the pair is to be used at.

    Raises ValueError for a pair without p(x), for fewer than 20 simulations or 1 draw, and for an
    unknown test.

    >>> import torch
    >>> import pyrovae
    >>> torch.manual_seed(0)
    <torch...>
    >>> untrained = pyrovae.linear_vae(5, 2)
    >>> pyrovae.calibrate(untrained, num_simulations=500).passed
    False
    """
    session = Session("calibrate", pair)
    checks.whole("num_simulations", num_simulations, least=20, bytes_each=24 * (pair.latent_dim + 1))
    each = 8 * (pair.latent_dim + 1) + 4 * math.prod(pair.event_shape)
    checks.whole("num_draws", num_draws, bytes_each=each)
    checks.choice("test", test, ("anderson-darling", "chi-square"))
    checks.seed(seed)
    checks.probability("level", level)
    session.require_continuous()
    rows = {"covariates": covariates, "exposure": exposure}
    given = [checks.array(value, name) for name, value in rows.items() if value is not None]
    if any(not value.ndim for value in given):
        raise ValueError("covariates and exposure must have a row for each simulation that they are of, got a number")
    beside = checked_beside(session.pair, covariates, exposure, len(given[0]) if given else num_simulations)
    session.protocol |= {"seed": seed, "pair_sha256": session.pair_sha256}
    simulated: list[dict[str, Tensor]] = []
    space = session.workspace(session.noise(seed))
    with space.turn():
        _, item = drawn_jointly(session.pair, 1, **_rows(beside, 0, 1))
    item = Batch.of(item, **_rows(beside, 0, 1))
    session.try_on(item)
    batch = max(1, min(ROWS, rows_within(session.pair, item, MAX_BYTES)) // (num_draws + 1))
    for start in range(0, num_simulations, batch):
        with space.turn():
            count = min(batch, num_simulations - start)
            simulated.append(_simulated(session.pair, count, num_draws, _rows(beside, start, count)))
    columns = {name: torch.cat([one[name] for one in simulated]).cpu().numpy() for name in simulated[0]}
    return _tested(columns, num_draws, test, level, session.protocol)


def _rows(beside: dict[str, Tensor], start: int, count: int) -> dict[str, Tensor]:
    """The covariates and exposures of some simulations, which go round the rows that were given."""
    return {
        name: value[torch.arange(start, start + count, device=value.device) % len(value)]
        for name, value in beside.items()
    }


def _simulated(pair: Pair, count: int, num_draws: int, beside: dict[str, Tensor]) -> dict[str, Tensor]:
    z, drawn = drawn_jointly(pair, count, **beside)
    x = Batch.of(drawn, **beside)
    q = latent_law(pair.guide, x)
    codes = torch.cat([z[None], q.sample((num_draws,))])  # (L + 1, n, d)
    heights = scored(pair, x, codes, guide=False).log_likelihood
    everything = torch.cat([codes, heights[..., None]], -1).double()
    truth, draws = everything[0], everything[1:]
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    rank = below + (torch.rand_like(truth) * (ties + 1)).floor()
    nan = torch.full_like(truth[:, :1], math.nan)
    try:
        score = torch.cat([((z - q.mean) / q.stddev).double(), nan], -1)
    except NotImplementedError:  # a flow has no closed-form mean
        score = torch.full_like(truth, math.nan)
    return {"rank": rank, "uniform": (rank + torch.rand_like(truth)) / (num_draws + 1), "score": score}


def _tested(
    columns: dict[str, np.ndarray], num_draws: int, test: str, level: float, protocol: dict[str, Any]
) -> Calibration:
    size = columns["rank"].shape[1] - 1
    quantities = [*(f"latent[{j}]" for j in range(size)), "log p(x | z)"]
    check = _anderson_darling if test == "anderson-darling" else _chi_square
    results = [check(column) for column in columns["uniform"].T]
    score = columns["score"]
    statistics, p_values = zip(*results, strict=True)
    tests = {
        "statistic": (statistics, "statistic of the test of uniform ranks", "1", "quantity"),
        "p_value": (p_values, "p-value", "1", "quantity"),
        "p_adjusted": (holm.adjusted(p_values), "p-value, Holm's over the quantities", "1", "quantity"),
        "bias": (
            score.mean(0),
            "mean of (z - E_q z) / sd_q: 0 where q is right",
            "q's standard deviations",
            "quantity",
        ),
        "scale_ratio": (score.std(0), "sd of (z - E_q z) / sd_q: 1 where q is right", "1", "quantity"),
    }
    dims = ("simulation", "quantity")
    pointwise = {
        "rank": (columns["rank"].astype(np.int64), f"rank among {num_draws} draws", "1", *dims),
        "uniform": (columns["uniform"], "rank made continuous", "1", *dims),
    }
    attributes = {"num_simulations": len(score), "num_draws": num_draws, "test": test, "level": level, **protocol}
    return Calibration(
        labelled(pointwise, {"simulation": np.arange(len(score)), "quantity": quantities}, attributes),
        labelled(tests, {"quantity": quantities}, attributes),
    )


def _adjusted_p(value: Any) -> str:
    p = float(value)  # the distribution function is known to 2e-6
    return f"adjusted p {p:.2g}" if p >= 1e-4 else "adjusted p < 0.0001"


def _anderson_darling(u: np.ndarray) -> tuple[float, float]:
    """A^2 for the standard uniform distribution, and its p-value (Marsaglia and Marsaglia 2004, section 2)."""
    ordered, count = np.sort(u), len(u)
    odd = 2 * np.arange(1, count + 1) - 1
    statistic = -count - np.mean(odd * (np.log(ordered) + np.log1p(-ordered[::-1])))
    return float(statistic), float(np.clip(1 - _anderson_darling_cdf(statistic), 0, 1))


def _anderson_darling_cdf(z: float) -> float:
    """The limiting distribution function of A^2, to 2e-6 (the formulas adinf of Marsaglia and Marsaglia 2004)."""
    if z <= 0:
        return 0.0
    if z < 2:
        inner = np.polyval([0.00168691, -0.011672, 0.0347962, -0.0649821, 0.247105, 2.00012], z)
        return float(math.exp(-1.2337141 / z) / math.sqrt(z) * inner)
    inner = np.polyval([-0.0003146, 0.008056, -0.082433, 0.43424, -2.30695, 1.0776], z)
    return float(math.exp(-math.exp(inner)))


def _chi_square(u: np.ndarray) -> tuple[float, float]:
    counts = np.bincount(np.minimum((20 * u).astype(int), 19), minlength=20)
    result = stats.chisquare(counts)
    return float(result.statistic), float(result.pvalue)
