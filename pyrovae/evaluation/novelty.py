"""Strange items: scores with a threshold whose rate of false alarms is exact, and how well each score separates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.classification import auroc
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.evidence import iwae
from pyrovae.labelled import labelled
from pyrovae.models.batch import items_of, keywords_of, tensors_of
from pyrovae.models.independent import entries_like
from pyrovae.models.items import checked_batch, require_exposures_alike
from pyrovae.models.pair import Pair, takes_beside
from pyrovae.models.particles import Items
from pyrovae.models.trial import observed_measure
from pyrovae.seeding import stream
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Novelty", "NoveltyComparison", "NoveltyDetector"]

SCORES = ("likelihood_ratio", "log_prob", "typicality")
FORMULAS = {
    "likelihood_ratio": "log p_background(x) - log p(x)",
    "log_prob": "-log p(x)",
    "typicality": "|log p(x) - mean of log p over usual items|",
}
ROUNDING = 1e-9  # of level * (n + 1), which may be a whole number


@dataclass(frozen=True, eq=False, repr=False)
class Novelty(HasSummary):
    """How strange each of N items is: a dataset `pointwise` over "item".

    "score" is higher for stranger items, "p_value" is the conformal p-value, and "strange" says
    whether it is at most the detector's level. `str()` is a line for a report.
    """

    pointwise: xr.Dataset

    @property
    def strange(self) -> np.ndarray:
        """Whether each item is strange, shape (N,)."""
        flags: np.ndarray = self.pointwise["strange"].values
        return flags

    @property
    def p_value(self) -> np.ndarray:
        """The conformal p-value of each item, shape (N,)."""
        values: np.ndarray = self.pointwise["p_value"].values
        return values

    def _summary_line(self) -> str:
        return str(self)

    def _summary_rows(self) -> Rows:
        attributes = self.pointwise.attrs
        return {
            "items": lambda: f"{len(self.strange):,}",
            "strange": lambda: f"{int(self.strange.sum()):,}",
            "score": lambda: f"{attributes['score']}: {attributes['formula']}",
            "false alarms": lambda: f"{100 * attributes['false_alarm']:.4g} % of usual items",
        }

    def __str__(self) -> str:
        attributes, count = self.pointwise.attrs, len(self.strange)
        return (
            f"{int(self.strange.sum()):,} of {count:,} items are strange by {attributes['score']} above "
            f"{attributes['threshold']:.4g} nats; of as many usual items {attributes['false_alarm'] * count:.3g} would "
            "be, on average"
        )


@dataclass(frozen=True, eq=False, repr=False)
class NoveltyComparison(HasSummary):
    """How well each score separates strange items from usual ones: a dataset `table` over "score".

    "auroc" with "se", "lower" and "upper" is the probability that a strange item has the higher score;
    below 1/2 the score takes strange items for the more usual ones. "false_alarm" and "power" are the
    shares of the usual and of the strange items that are above the calibrated threshold. `str()` is a
    table for a report.
    """

    table: xr.Dataset

    def _summary_line(self) -> str:
        parts = [f"{name} {float(self.table.auroc.sel(score=name)):.3f}" for name in self.table["score"].values]
        return f"AUROC: {', '.join(parts)}"

    def _summary_rows(self) -> Rows:
        rows = [line.split(maxsplit=1) for line in str(self).splitlines()[2:]]
        return {name: partial(str, figures) for name, figures in rows}

    def __str__(self) -> str:
        attributes = self.table.attrs
        title = (
            f"{attributes['num_usual']:,} usual and {attributes['num_strange']:,} strange items, intervals at "
            f"{100 * attributes['confidence']:.4g} %, thresholds for {100 * attributes['level']:.4g} % false alarms"
        )
        lines = [title, f"{'score':<18}{'AUROC':>8}  {'interval':<18}{'false alarms':>13}{'found':>8}"]
        for name in self.table["score"].values.tolist():
            one = self.table.sel(score=name)
            interval = f"[{float(one.lower):.3f}, {float(one.upper):.3f}]"
            lines.append(
                f"{name:<18}{float(one.auroc):>8.3f}  {interval:<18}{float(one.false_alarm):>13.3f}"
                f"{float(one.power):>8.3f}"
            )
        return "\n".join(lines)


class NoveltyDetector(HasSummary):
    """A detector of strange items, whose rate of false alarms on usual ones is exact in finite samples.

    An item's score is compared with those of n usual items that neither the pair nor the score has been
    fitted to. Its p-value is p = (1 + #{scores of usual items >= its own}) / (n + 1), ties broken at
    random; the item is strange if p <= `level`. For an item that is drawn as the usual ones are this
    has probability floor(level (n + 1)) / (n + 1), `false_alarm`, whatever the pair is (conformal
    prediction: Vovk, Gammerman and Shafer 2005, section 2.2; Bates et al. 2023, section 2). The
    average is over draws of the n usual items too: of one detector the rate is a draw from
    Beta(k, n + 1 - k), k = floor(level (n + 1)), whose 95 % interval `str()` states.

    The scores, in nats, are higher for stranger items:

    - "likelihood_ratio": log p_background(x) - log p(x). What single entries explain, such as how
      bright or how plain an image is, is in both and drops out (Ren et al. 2019, section 3).
    - "log_prob": -log p(x). It is known to fail: images that are plainer than the usual ones, a blank
      one for example, have a higher log p(x) than these, though none is ever drawn (Nalisnick et al.
      2019a, sections 3 and 5).
    - "typicality": |log p(x) - c|, where c is the mean of log p(x) over usual items. A draw of many
      entries has a log p(x) close to its mean, so that items far above it are strange too
      (Nalisnick et al. 2019b, section 3, for one item).

    `compare` says how well each does where strange items are at hand: none is best for all of them.

    Items of a pair given covariates, or an exposure, come as splits that carry them, here and in
    `detect` and `compare`: log p(x) is then log p(x | c) at an item's own, and an item may be strange
    for its covariates alone. The background of None does not see them.

    Args:
        pair: the fitted pair, or a density with `log_prob`.
        usual: usual items that the pair was not fitted on, (N, *event_shape).
        score: the score of `detect`: one of the three, or a function of items (N, *event_shape) that
            returns N numbers, higher for stranger items. It must not depend on `usual`.
        background: the pair or density of the ratio; None fits `IndependentEntries` to `reference`, of
            the family that the pair's likelihood suggests, with this `perturbation`.
        perturbation: the share of entries that a background of None takes from other entries (see
            `IndependentEntries.fit`). Without it an entry that hardly varies among usual items, such as a pixel of the
            border, is so improbable under the background that images bright there pass for usual. Take 0 where the
            entries are columns of different units.
        reference: items for the background and for c, such as those that the pair was fitted on. None
            takes a random half of `usual` for these, and calibrates with the other half.
        level: the rate of false alarms.
        estimator: a function from (pair, items) to an `Estimate` of log p(x), such as `pyrovae.exact`; None
            takes the density's own `log_prob`, or `iwae` with `num_particles` draws.

    Raises ValueError for a pair without p(x), for a background of another base measure, and for fewer
    usual items than the level needs, 1 / level - 1.

    >>> import torch
    >>> import pyrovae
    >>> mixture = pyrovae.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.9], [0.9, 1.0]]])
    >>> usual, reference = mixture.sample(199, seed=0), mixture.sample(100, seed=1)
    >>> detector = pyrovae.NoveltyDetector(mixture, usual, reference=reference, level=0.05)
    >>> detector.detect([[1.5, 1.5], [1.5, -1.5]]).strange.tolist()
    [False, True]
    >>> detector.false_alarm
    0.05
    """

    def __init__(
        self,
        pair: Any,
        usual: Any,
        *,
        score: str | Callable[[Tensor], Any] = "likelihood_ratio",
        background: Any = None,
        perturbation: float = 0.3,
        reference: Any = None,
        level: float = 0.05,
        estimator: Callable[[Any, Tensor], Estimate] | None = None,
        num_particles: int = 100,
        seed: int = 0,
    ) -> None:
        if isinstance(score, Pair):
            raise TypeError(f"score must be one of {', '.join(map(repr, SCORES))} or a function of items, got a pair")
        checks.having("pair", pair, "event_shape", "named_parameters", what="a pair, or a density with log_prob")
        if estimator is not None:
            checks.function("estimator", estimator, "a function such as pyrovae.exact, or None")
        self.score: Any = score if callable(score) else checks.choice("score", score, SCORES)
        self.level = checks.probability("level", level)
        self.num_particles = checks.whole("num_particles", num_particles)
        self.seed = checks.seed(seed)
        if getattr(pair, "is_normalized", True) is False:
            raise ValueError(
                f"a NoveltyDetector needs a p(x), and {type(pair).__name__} has none: take pyrovae.as_density, or a "
                "function of items as score, such as a reconstruction error, with another pair"
            )
        self.pair, self.estimator = pair, estimator
        items = checked_batch(pair, usual, name="usual", what="NoveltyDetector", hint=checks.FILL)
        if reference is None:
            generator = torch.Generator().manual_seed(stream(self.seed, "halves"))
            order = torch.randperm(len(items), generator=generator)
            of_reference, items = items[order[: len(items) // 2]], items[order[len(items) // 2 :]]
            advice = ", or give reference= so that all of usual calibrate"
        else:
            of_reference, advice = (
                checked_batch(pair, reference, name="reference", what="NoveltyDetector", hint=checks.FILL),
                "",
            )
            _require_exposures_alike("exposure" in keywords_of(items), of_reference, "reference")
            if _are_the_same(of_reference, items):
                raise ValueError(
                    "reference and usual are the same items: usual are to be items that nothing was fitted to, such as "
                    "held-out ones, or the rate of false alarms is higher than stated"
                )
        count = len(items)
        self.rank = math.floor(self.level * (count + 1) + ROUNDING)
        if self.rank < 1:
            raise ValueError(
                f"level={self.level:g} needs at least {math.ceil(1 / self.level - ROUNDING) - 1} usual items to "
                f"calibrate with, got {count}: give more, or a larger level{advice}"
            )
        if len(of_reference) < 2:
            raise ValueError(f"reference must have at least 2 items, got {len(of_reference)}")
        self._has_exposure = "exposure" in keywords_of(items)
        self.background = self._checked_background(background, of_reference, perturbation)
        self.center = float(self._log_prob(pair, of_reference, "reference").mean())
        self._calibration = {name: np.sort(values) for name, values in self._scores(items, "calibration").items()}

    @property
    def false_alarm(self) -> float:
        """The probability that an item drawn as the usual ones are is strange: floor(level (n + 1)) / (n + 1)."""
        return self.rank / (self.num_calibration + 1)

    @property
    def num_calibration(self) -> int:
        """The number n of usual items with whose scores an item's is compared."""
        return len(self._calibration[self._name])

    @property
    def threshold(self) -> float:
        """The score above which an item is strange, in nats: the k-th largest of the usual items'."""
        return self._threshold(self._name)

    def _items(self, x: Any, name: str) -> Items:
        items: Items = checked_batch(self.pair, x, name=name, what="NoveltyDetector", hint=checks.FILL)
        _require_exposures_alike(self._has_exposure, items, name)
        return items

    def detect(self, x: Any) -> Novelty:
        """The score and the p-value of each of the items (N, *event_shape), and whether it is strange."""
        items = self._items(x, "x")
        values = self._scores(items, "detect", [self._name])[self._name]
        p_value = self._p_values(self._name, values)
        variables = {
            "score": (values, FORMULAS.get(self._name, "the score that was given"), "nats", "item"),
            "p_value": (p_value, "conformal p-value", "1", "item"),
            "strange": (self._is_strange(p_value), "whether the p-value is at most the level", "1", "item"),
        }
        attributes = {
            "score": self._name,
            "formula": FORMULAS.get(self._name, "a function of items"),
            "level": self.level,
            "false_alarm": self.false_alarm,
            "threshold": self.threshold,
            "num_calibration": self.num_calibration,
            "seed": self.seed,
        }
        return Novelty(labelled(variables, {"item": np.arange(len(items))}, attributes))

    def compare(self, usual: Any, strange: Any, *, confidence: float = 0.95) -> NoveltyComparison:
        """How well each score separates `strange` items from `usual` ones, which are none of those that calibrate.

        The AUROCs have the intervals of `pyrovae.auroc` at `confidence`. Raises ValueError for fewer than one item
        of either kind.
        """
        checks.probability("confidence", confidence)
        of_usual = self._scores(self._items(usual, "usual"), "usual")
        of_strange = self._scores(self._items(strange, "strange"), "strange")
        rows = []
        for name in of_usual:
            area = auroc(-of_usual[name], -of_strange[name], level=confidence)
            flagged = [
                float(self._is_strange(self._p_values(name, values)).mean())
                for values in (of_usual[name], of_strange[name])
            ]
            rows.append((area.value, area.se, area.lower, area.upper, *flagged))
        words = {
            "auroc": "probability that a strange item has the higher score",
            "se": "standard error of the AUROC",
            "lower": "lower end of its interval",
            "upper": "upper end of its interval",
            "false_alarm": "share of the usual items above the threshold",
            "power": "share of the strange items above the threshold",
        }
        columns = np.array(rows).T
        variables = {name: (columns[i], text, "1", "score") for i, (name, text) in enumerate(words.items())}
        counts = [len(next(iter(each.values()))) for each in (of_usual, of_strange)]
        attributes = {
            "num_usual": counts[0],
            "num_strange": counts[1],
            "confidence": confidence,
            "level": self.level,
            "num_calibration": self.num_calibration,
        }
        return NoveltyComparison(labelled(variables, {"score": list(of_usual)}, attributes))

    def _summary_line(self) -> str:
        return str(self)

    def _summary_rows(self) -> Rows:
        return {
            "score": lambda: f"{self._name}: {FORMULAS.get(self._name, 'a function of items')}",
            "threshold": lambda: f"{self.threshold:.4g} nats",
            "false alarms": lambda: f"{100 * self.false_alarm:.4g} % on average",
            "calibrated with": lambda: f"{self.num_calibration:,} usual items",
        }

    def __str__(self) -> str:
        from scipy import stats

        ends = stats.beta(self.rank, self.num_calibration + 1 - self.rank).ppf([0.025, 0.975])
        return (
            f"strange where {self._name} is above {self.threshold:.4g} nats: {100 * self.false_alarm:.3g} % false "
            f"alarms on average, {100 * ends[0]:.2g} to {100 * ends[1]:.2g} % for 95 % of detectors with "
            f"{self.num_calibration:,} usual items"
        )

    @property
    def _name(self) -> str:
        return self.score if isinstance(self.score, str) else "given"

    def _threshold(self, name: str) -> float:
        return float(self._calibration[name][len(self._calibration[name]) - self.rank])

    def _p_values(self, name: str, values: np.ndarray) -> np.ndarray:
        usual = self._calibration[name]
        above = len(usual) - np.searchsorted(usual, values, side="right")
        ties = len(usual) - np.searchsorted(usual, values, side="left") - above
        rng = np.random.default_rng(stream(self.seed, "ties", name))
        p_values: np.ndarray = (1 + above + rng.integers(0, ties + 1)) / (len(usual) + 1)
        return p_values

    def _is_strange(self, p_value: np.ndarray) -> np.ndarray:
        strange: np.ndarray = p_value * (self.num_calibration + 1) < self.rank + 0.5  # a whole number, rounding apart
        return strange

    def _checked_background(self, background: Any, reference: Items, perturbation: float) -> Any:
        """The density of the ratio, of the pair's base measure; None where none can be had and none is needed."""
        if background is None:
            entries = entries_like(self.pair, items_of(reference), perturbation=perturbation)
            if entries is not None:
                entries = entries.to(reference.device)
                measures = [_measure_of(self.pair, reference), _measure_of(entries, items_of(reference))]
                if None in measures or measures[0] == measures[1]:
                    return entries
            if self.score == "likelihood_ratio":
                raise ValueError(
                    f"score='likelihood_ratio' needs a background, and none of independent entries has the support of "
                    f"{type(self.pair).__name__}: give background=, a simpler pair that is fitted to the same items"
                )
            return None
        kind = "a pair, or a density of items with log_prob"
        checks.having("background", background, "event_shape", "named_parameters", what=kind)
        if tuple(background.event_shape) != tuple(self.pair.event_shape):
            raise ValueError(
                f"background must have the pair's event_shape {tuple(self.pair.event_shape)}, got "
                f"{tuple(background.event_shape)}"
            )
        measures = [_measure_of(density, reference) for density in (self.pair, background)]
        if None not in measures and measures[0] != measures[1]:
            raise ValueError(
                f"background must have the pair's base measure: p(x) is a {measures[0]} under the pair and a "
                f"{measures[1]} under the background, whose ratio depends on the units of x"
            )
        return background

    def _scores(self, items: Items, use: str, wanted: list[str] | None = None) -> dict[str, np.ndarray]:
        """The scores by name, (N,) each, higher for stranger items."""
        scores: dict[str, np.ndarray] = {}
        if callable(self.score):
            scores["given"] = self._given(items)
            if wanted == ["given"]:
                return scores
        log_prob = self._log_prob(self.pair, items, use)
        if self.background is not None and (wanted is None or "likelihood_ratio" in wanted):
            scores["likelihood_ratio"] = self._log_prob(self.background, items, f"{use} background") - log_prob
        scores["log_prob"] = -log_prob
        scores["typicality"] = np.abs(log_prob - self.center)
        for name, values in scores.items():
            if np.isnan(values).any():
                raise ValueError(
                    f"{name} is NaN for {int(np.isnan(values).sum())} of the items: log p(x) is not finite"
                )
        return {name: values for name, values in scores.items() if wanted is None or name in wanted}

    def _given(self, items: Items) -> np.ndarray:
        with torch.no_grad():
            try:
                found = self.score(items_of(items))
            except (RuntimeError, ValueError) as error:  # torch's, where a module is for other items
                shape = tuple(items_of(items).shape)
                raise ValueError(f"score must take items of shape {shape}, and raised: {error}") from error
            values = torch.as_tensor(found, dtype=torch.float64).detach().cpu().numpy()
        if values.shape != (len(items),) or np.isnan(values).any():
            raise ValueError(
                f"score must return a number for each of the {len(items)} items, none NaN, got shape {values.shape} "
                f"with {int(np.isnan(values).sum())} NaN"
            )
        scores: np.ndarray = values
        return scores

    def _log_prob(self, density: Any, items: Items, use: str) -> np.ndarray:
        """log p(x) in nats, (N,); each use has random numbers of its own, so that scores are independent of another."""
        own = getattr(density, "log_prob", None)
        takes = takes_beside(density)
        beside: dict[str, Any] = {name: value for name, value in keywords_of(items).items() if takes[name]}
        given: Any = checks.split_of(items_of(items), **beside) if beside else items_of(items)
        if density is self.pair and self.estimator is not None:
            estimate = self.estimator(density, given)
            if not isinstance(estimate, Estimate):
                raise TypeError(f"estimator must return an Estimate of log p(x), got {type(estimate).__name__}")
            values = estimate.pointwise["value"].values
        elif own is not None:
            with torch.no_grad():
                values = own(items_of(items), **beside).double().cpu().numpy()
        else:
            seed = stream(self.seed, "novelty", use)
            values = iwae(density, given, num_particles=self.num_particles, seed=seed).pointwise["value"].values
        log_prob: np.ndarray = np.asarray(values, dtype=float)
        return log_prob


def _require_exposures_alike(usual_have_one: bool, items: Items, name: str) -> None:
    has_one = "exposure" in keywords_of(items)
    require_exposures_alike("the usual items that calibrate", usual_have_one, name, has_one, "come")


def _are_the_same(first: Items, second: Items) -> bool:
    return all(map(torch.equal, tensors_of(first), tensors_of(second)))


def _measure_of(density: Any, items: Items) -> str | None:
    """The base measure of a density; None where it does not say."""
    return observed_measure(density, items) if isinstance(density, Pair) else getattr(density, "base_measure", None)
