"""Predictive checks: whether sets that a fitted pair draws look like a set of items, by named statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks, ranks
from pyrovae.evaluation import holm
from pyrovae.evaluation.session import Session
from pyrovae.evaluation.set_statistics import STATISTICS, Statistic, defaults_for
from pyrovae.evaluation.tables import MAX_BYTES
from pyrovae.labelled import labelled
from pyrovae.models.batch import items_of, keywords_of
from pyrovae.models.layers import rows_within
from pyrovae.models.pair import Pair, support_of
from pyrovae.models.particles import Drawn, Items, drawn, drawn_items, simulated, weighed
from pyrovae.seeding import stream
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PredictiveChecks", "predictive_checks"]

Kind = Literal["prior", "posterior", "split"]
KINDS = ("prior", "posterior", "split")
TITLES = {"prior": "Prior", "posterior": "Posterior", "split": "Split"}
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, eq=False, repr=False)
class PredictiveChecks(HasSummary):
    """Statistics of a set of items beside those of sets drawn from the model: a dataset `table` over "statistic".

    "observed" is the statistic of the items; "mean", "lower" and "upper" are the mean and the central
    95 % interval of "replicate", over "draw"; "p_upper" is the one-sided p-value, small if the items
    have more than the model's sets; "p_value" is two-sided, with its Monte Carlo standard error
    "p_value_se", and "p_adjusted" is Holm's over the statistics. A statistic that is the same number
    for all sets has p-values of NaN and is not counted by Holm. `str()` is a table for a report.
    """

    table: xr.Dataset

    @property
    def level(self) -> float:
        """The error rate over all statistics at which one is said to fail."""
        return float(self.table.attrs["level"])

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the statistics whose adjusted p-value is at most `level`."""
        low = self.table["p_adjusted"].values <= self.level
        return tuple(self.table["statistic"].values[low].tolist())

    @property
    def passed(self) -> bool:
        """Whether no statistic fails."""
        return not self.failed

    def _summary_line(self) -> str:
        attributes = self.table.attrs
        what = f"{TITLES[attributes['kind']]} predictive checks"
        return f"{what}: {attributes['draws']} sets of {attributes['num_items']} items each; {self._verdict()}"

    def _summary_rows(self) -> Rows:
        table = self.table

        def row(name: str) -> str:
            one = table.sel(statistic=name)
            p = float(one.p_adjusted)
            told = "the same in all sets" if math.isnan(p) else f"adjusted p {p:.2g}"
            return f"{float(one.observed):.4g} in [{float(one.lower):.4g}, {float(one.upper):.4g}], {told}"

        return {name: partial(row, name) for name in table["statistic"].values.tolist()}

    def _verdict(self) -> str:
        failed = self.failed
        if failed:
            return f"at level {self.level:g} the model fails by {', '.join(failed)}"
        tested = int(np.isfinite(self.table["p_value"].values).sum())
        least = min(1.0, 2 / (self.table.attrs["draws"] + 1)) * tested
        if least > self.level:
            return (
                f"no p-value can be as low as the level {self.level:g} allows for {tested} statistics: raise draws to "
                f"{math.ceil(2 * tested / self.level) - 1}"
            )
        return f"at level {self.level:g} no statistic fails"

    def __str__(self) -> str:
        table, attributes = self.table, self.table.attrs
        head = ["statistic", "items", "model, mean", "95 % of the model's sets", "p", "p, Holm"]
        rows = [head]
        for name in table["statistic"].values.tolist():
            one = table.sel(statistic=name)
            ends = f"{float(one.lower):.4g} to {float(one.upper):.4g}"
            p, adjusted = ("-" if math.isnan(v) else f"{v:.3g}" for v in (float(one.p_value), float(one.p_adjusted)))
            rows.append([name, f"{float(one.observed):.4g}", f"{float(one['mean']):.4g}", ends, p, adjusted])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        verdict = self._verdict()
        lines += [f"{verdict[0].upper()}{verdict[1:]}."]
        if attributes["kind"] == "posterior":
            lines.append(
                "The items serve twice, to draw the codes and to be compared, so that these p-values are conservative."
            )
        title = f"{TITLES[attributes['kind']]} predictive checks: {attributes['draws']} sets of "
        return "\n".join([f"{title}{attributes['num_items']} items each, p-values two-sided", *lines])


@checks.allocating
def predictive_checks(
    pair: Pair,
    x: Any,
    *,
    statistics: Sequence[str] | Mapping[str, str | Callable[[Tensor], Any]] | None = None,
    draws: int = 999,
    kind: Kind = "prior",
    level: float = 0.05,
    num_particles: int = 1000,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
) -> PredictiveChecks:
    """Compare statistics of a set of items with those of sets of as many items that the pair draws.

    With T the statistic of the N items and T_1, ..., T_R those of R = `draws` sets from the model, the
    one-sided p-value is p = (1 + #{T_r >= T}) / (R + 1), where ties are broken at random, and the
    two-sided one min(1, 2 min(p, (R + 2) / (R + 1) - p)). (Gelman, Meng and Stern 1996, section 2;
    the rank of a Monte Carlo test as in Besag and Clifford 1989, section 2.)

    Use items that the pair was not fitted on. The three kinds differ in what a set is:

    - "prior": N draws from p(x). If the items are drawn from p(x) too, p is uniform on 1 / (R + 1),
      ..., 1, exactly, and a level of 5 % has 5 % false alarms.
    - "posterior": one draw of p(x' | z) for each item, at a code z from p(z | x) of that item. The
      items are used twice, so that these p-values are conservative: under the model they lie
      closer to 1/2 than uniform ones do (Meng 1994, section 4; Bayarri and Berger 2000, section 1),
      and a misfit that the codes can absorb is not seen. The codes are importance draws: for each
      item, `num_particles` draws of q(z | x) are resampled by p(x, z) / q(z | x). The attribute
      "ess" is the median effective number of them.
    - "split": a random half of each item's entries is hidden and drawn from p(x_hidden | x_seen). Only
      the hidden half is compared: the seen entries are the same in the items and in all sets. No entry
      is used twice, and p is uniform under the model again, as far as those draws are exact
      (`pair.impute`: of a VAE at the cost of about 100 decodings per draw, of a mixture exact).

    `statistics` is a list of names, or a mapping from a name to a name or a function. A function takes
    a tensor of items (N, *event_shape) and returns one number, or N of them, whose mean is the
    statistic. None takes those that suit the likelihood's support. Names: "mean", "sd", "min", "max",
    "zeros" and "ones" (share of entries that are exactly 0 or 1), "dispersion" (mean over entries of
    variance / mean), "entry_sd" (mean over entries of the standard deviation over items), "item_sd"
    (standard deviation over items of an item's mean), "q05", "q25", "median", "q75", "q95", and
    "correlation" (root mean square of the correlations between entries, of 64 entries at most).

    A pair given covariates, or an exposure, draws each set at those of the items, one for one: an item of a set is a
    draw from p(x | c) at the covariates of its item. They come with a split `x` or by keyword.

    The p-values refer to this pair as it is, so that errors of its parameters count as misfit.
    Sets drawn under one `seed` are the same sets: give independent data sets different seeds where
    their p-values are to be independent.

    Raises ValueError for a pair without p(x), for items outside the likelihood's support, fewer than 2
    items, covariates that are missing or misshapen, an unknown statistic and one that is not finite; TypeError for a
    function that returns no numbers.

    >>> import torch
    >>> import pyrovae
    >>> torch.manual_seed(0)
    <torch...>
    >>> vae = pyrovae.linear_vae(5, 2)
    >>> x = vae.sample(50, seed=1)
    >>> pyrovae.predictive_checks(vae, x, draws=399).passed
    True
    >>> pyrovae.predictive_checks(vae, 2 * x, statistics=["sd", "correlation"], draws=399).failed
    ('sd',)
    """
    session = Session("predictive_checks", pair)
    checks.choice("kind", kind, KINDS)
    checks.whole("draws", draws, bytes_each=8)
    checks.whole("num_particles", num_particles, least=2, bytes_each=8 * max(1, pair.latent_dim))
    checks.probability("level", level)
    checks.seed(seed)
    chosen = _chosen(statistics, pair)
    if ranks.current().size > 1:
        raise ValueError("predictive_checks runs in one process: call it outside of pyrovae.distributed()")
    if kind == "posterior":
        session.require_continuous()
    items = session.items(checks.split_of(x, covariates=covariates, exposure=exposure, what="predictive_checks"))
    if len(items) < 2:
        raise ValueError(f"x must have at least 2 items, whose statistics are compared, got {len(items)}")
    sets = {"prior": _from_prior, "posterior": _from_posterior, "split": _from_split}[kind]
    attributes: dict[str, Any] = {"kind": kind, "draws": draws, "level": level, "seed": seed}
    observed = np.array([_value(name, statistic, items_of(items)) for name, statistic in chosen.items()])
    rows = []
    for replicate in sets(session, items, draws, num_particles, seed, attributes):
        rows.append([_value(name, statistic, replicate, "a set of draws") for name, statistic in chosen.items()])
    rng = np.random.default_rng(stream(seed, "ties", session.pair_sha256))
    return PredictiveChecks(_tested(list(chosen), observed, np.array(rows), rng, attributes | session.protocol))


def _chosen(statistics: Any, pair: Pair) -> dict[str, Statistic]:
    """The functions by name."""
    if statistics is None:
        return {name: STATISTICS[name] for name in defaults_for(support_of(pair))}
    if isinstance(statistics, str) or not isinstance(statistics, Mapping | Sequence) or not statistics:
        raise TypeError(
            "statistics must be a list of names or a mapping {name: function}, not empty, got "
            f"{statistics!r}; names: {', '.join(STATISTICS)}"
        )
    named: Mapping[Any, Any] = statistics if isinstance(statistics, Mapping) else {name: name for name in statistics}
    chosen: dict[str, Statistic] = {}
    for name, function in named.items():
        if not isinstance(name, str):
            raise TypeError(
                f"statistics must have names: {name!r} is none; write {{name: function}}, or one of "
                f"{', '.join(STATISTICS)}"
            )
        chosen[name] = function if callable(function) else STATISTICS[checks.choice("statistics", function, STATISTICS)]
    return chosen


def _value(name: str, statistic: Statistic, items: Tensor, of: str = "x") -> float:
    with torch.no_grad():
        given = statistic(items)
    try:
        value = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"statistic {name!r} must return a number or N of them, got {type(given).__name__}") from error
    if value.ndim > 1 or (value.ndim == 1 and len(value) != len(items)):
        raise ValueError(
            f"statistic {name!r} must return one number, or one for each of the {len(items)} items, got shape "
            f"{tuple(value.shape)}"
        )
    mean = float(value.mean())
    if not math.isfinite(mean):
        raise ValueError(f"statistic {name!r} of {of} is {mean}: it must be finite for any set of items")
    return mean


def _from_prior(
    session: Session, items: Items, draws: int, num_particles: int, seed: int, attributes: dict[str, Any]
) -> Iterator[Tensor]:
    space, count = session.workspace(session.noise(seed, "prior")), len(items)
    rows = max(1, rows_within(session.pair, items, MAX_BYTES))
    together = max(1, rows // count)  # sets that are drawn at once
    for first in range(0, draws, together):
        some = min(together, draws - first)
        parts, start = [], 0
        for size in _sizes(some * count, rows if together == 1 else some * count):
            # each set has a draw at what lies beside each of the items
            own = torch.arange(start, start + size, device=items.device) % count
            given = {name: value[own] for name, value in keywords_of(items).items()}
            with space.turn(), torch.no_grad():
                parts.append(drawn_items(session.pair, size, **given))
            start += size
        yield from torch.cat(parts).reshape(some, count, *items.shape[1:])


def _from_posterior(
    session: Session, items: Items, draws: int, num_particles: int, seed: int, attributes: dict[str, Any]
) -> Iterator[Tensor]:
    session.require_whole()
    pair: Any = session.pair
    checks.affordable(
        f"draws={draws:,} for {len(items):,} items",
        draws * len(items) * pair.latent_dim * items.element_size(),
        "take fewer",
        device=items.device,
    )
    space = session.workspace(session.noise(seed, "codes"))
    rows = max(1, rows_within(pair, items, MAX_BYTES))
    chunks, sizes = [], []
    for part in items.split(max(1, rows // num_particles)):
        with space.turn(), torch.no_grad():
            codes, effective = _posterior_codes(pair, part, draws, num_particles, rows)
        chunks.append(codes)
        sizes.append(effective)
    z = torch.cat(chunks, 1)  # (draws, N, latent_dim)
    attributes |= {"num_particles": num_particles, "ess": float(torch.cat(sizes).median())}
    space = session.workspace(session.noise(seed, "posterior"))
    for one in z:
        parts = []
        for some, own in zip(one.split(rows), items.split(rows), strict=True):
            with space.turn(), torch.no_grad():
                parts.append(simulated(pair, some[None], **keywords_of(own))[0])
        yield torch.cat(parts)


def _posterior_codes(pair: Any, x: Items, draws: int, count: int, rows: int) -> tuple[Tensor, Tensor]:
    """Codes of p(z | x) by importance resampling, (draws, n, d), and the effective number of those drawn, (n,)."""
    at_once = max(1, rows // len(x))
    codes = Drawn.joined([drawn(pair, x, size) for size in _sizes(count, at_once)], -2)
    if [*codes.values] != ["latent"]:
        raise ValueError(
            f"kind='posterior' draws the code at the one site 'latent', and the guide of {type(pair).__name__} has "
            f"{', '.join(map(repr, codes.values))}: take kind='prior'"
        )
    tables = []
    for row in range(0, count, at_once):
        tables.append(weighed(pair, x, codes.part(slice(row, row + at_once), slice(None))).log_weight)
    log_weight = torch.cat(tables).double()
    weight = log_weight.softmax(0)  # (count, n)
    chosen = torch.multinomial(weight.T, draws, replacement=True).T  # (draws, n)
    z = codes.values["latent"].expand(count, len(x), -1)
    return z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1])), 1 / weight.square().sum(0)


def _from_split(
    session: Session, items: Items, draws: int, num_particles: int, seed: int, attributes: dict[str, Any]
) -> Iterator[Tensor]:
    session.require_whole()
    pair: Any = session.pair
    if not hasattr(pair, "impute"):
        raise ValueError(
            f"kind='split' draws hidden entries from p(hidden | seen), and {type(pair).__name__} has no impute: take "
            "kind='prior'"
        )
    checks.affordable(
        f"draws={draws:,} for {len(items):,} items", draws * items.numel() * 8, "take fewer", device=items.device
    )
    generator = torch.Generator().manual_seed(stream(seed, "split", session.pair_sha256))
    order = torch.rand(len(items), math.prod(pair.event_shape), generator=generator).argsort(1)
    if order.shape[1] < 2:
        raise ValueError("kind='split' hides half of an item's entries, and these have one: take kind='prior'")
    hidden = (order < order.shape[1] // 2).reshape(items.shape).to(items.device)
    masked = items_of(items).masked_fill(hidden, math.nan)
    key = stream(seed, "filled", session.pair_sha256)
    yield from pair.impute(masked, num_draws=draws, seed=key, **keywords_of(items)).to(masked)


def _sizes(count: int, most: int) -> list[int]:
    return [min(most, count - start) for start in range(0, count, most)]


def _tested(
    names: list[str], observed: np.ndarray, replicate: np.ndarray, rng: np.random.Generator, attributes: dict[str, Any]
) -> xr.Dataset:
    count = len(replicate)
    ties = (replicate == observed).sum(0)
    # the rank of the observed set among all R + 1, where it takes any place among its ties
    rank = 1 + (replicate > observed).sum(0) + rng.integers(0, ties + 1)
    says_nothing = ties == count
    upper = np.where(says_nothing, math.nan, rank / (count + 1))
    two_sided = np.where(says_nothing, math.nan, np.minimum(1.0, 2 * np.minimum(rank, count + 2 - rank) / (count + 1)))
    error = 2 * np.sqrt(upper * (1 - upper) / (count + 1))  # of a share of the sets, which the two-sided one is twice
    adjusted = np.full(len(names), math.nan)
    adjusted[~says_nothing] = holm.adjusted(two_sided[~says_nothing])
    ends = np.quantile(replicate, INTERVAL, axis=0)
    variables = {
        "observed": (observed, "statistic of the items", None, "statistic"),
        "mean": (replicate.mean(0), "mean over the model's sets", None, "statistic"),
        "lower": (ends[0], "2.5 % quantile over the model's sets", None, "statistic"),
        "upper": (ends[1], "97.5 % quantile over the model's sets", None, "statistic"),
        "p_upper": (upper, "share of sets with as much or more", "1", "statistic"),
        "p_value": (two_sided, "two-sided p-value", "1", "statistic"),
        "p_value_se": (error, "Monte Carlo standard error of the two-sided p-value", "1", "statistic"),
        "p_adjusted": (adjusted, "p-value, Holm's over the statistics", "1", "statistic"),
        "replicate": (replicate, "statistic of the model's sets", None, "draw", "statistic"),
    }
    return labelled(variables, {"statistic": names, "draw": np.arange(count)}, attributes)
