"""A density whose entries are independent, each with a distribution of its own: what a richer model is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.items import checked_items, plate_size
from pyrovae.models.missing import SeenEntries, filling_of
from pyrovae.models.pair import base_measure_of, dtype_and_device, support_of
from pyrovae.models.param_sites import HasParamSites, register_param_sites
from pyrovae.models.parts.bernoulli import Bernoulli
from pyrovae.models.parts.categorical import Codes
from pyrovae.models.parts.continuous_bernoulli import ContinuousBernoulli
from pyrovae.models.parts.counts import LARGEST_LOG
from pyrovae.models.parts.negative_binomial import MeanNegativeBinomial
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["FAMILIES", "IndependentEntries", "entries_like", "family_for"]

MOST_CODES = 1024  # of an entry, whose frequencies are kept for each of them
ENTRIES_TOGETHER = 2**22  # of the codes that are counted at once


class IndependentEntries(HasParamSites):
    """p(x) = prod_j p_j(x_j): each entry has a distribution of its own, and no entry says anything of another.

    It is a Pyro pair without a code, so that the estimators take it, and `log_prob` is in closed form. `fit` makes one
    from items by their moments. As the background of a `NoveltyDetector` it explains what single entries explain,
    such as how bright an image is (Ren et al. 2019, section 3).

    Args:
        event_shape: the shape of an item.
        family: "bernoulli" (0 or 1, a mass), "continuous_bernoulli" (0 to 1), "normal", "log_normal" (above 0),
            "negative_binomial" (counts, a mass), or "categorical" (codes 0..num_classes - 1, a mass).
        num_classes: the number of codes of a "categorical" entry, at most 1,024; None for the others.

    Raises ValueError for sizes below 1, unknown names, and a `num_classes` that is missing or does not belong here.

    >>> import torch
    >>> from pyrovae import IndependentEntries
    >>> entries = IndependentEntries.fit(torch.tensor([[0.0, 2.0], [2.0, 6.0]]), family="normal")
    >>> entries.mean.tolist()
    [1.0, 4.0]
    >>> round(entries.log_prob([[1.0, 4.0]]).item(), 4)  # -log(2 pi) - log 1 - log 2
    -2.531
    """

    is_normalized = True
    takes_missing = True
    latent_dim = 0

    def __init__(self, event_shape: Sequence[int], family: str = "normal", *, num_classes: int | None = None) -> None:
        super().__init__()
        self.event_shape = checks.sizes("event_shape", event_shape)
        self.family = checks.choice("family", family, FAMILIES)
        self.num_classes = _checked_classes(family, num_classes)
        count = self.num_classes or FAMILIES[family].num_parameters
        self.natural = nn.Parameter(torch.zeros(count, *self.event_shape))

    @classmethod
    def fit(
        cls,
        x: Any,
        *,
        family: str = "normal",
        num_classes: int | None = None,
        perturbation: float = 0.0,
        weight: Any = None,
        missing: bool = False,
    ) -> IndependentEntries:
        """The density whose entries have the means, and where the family has one the variances, of items `x`.

        `x` has shape (N, *event_shape). For "bernoulli", "continuous_bernoulli", "normal" and "log_normal" (whose
        moments are those of log x) that is the maximum of the likelihood; "negative_binomial" is fitted by moments,
        and is a Poisson distribution where the variance does not exceed the mean; of "categorical" the frequencies are
        taken. Half an observation of 1/2 is added to an entry of 0 to 1, half an event to a count, and one observation
        that is spread over all codes to those of an entry, so that what was never seen has a finite log p. A normal
        entry that never varied has the smallest variance among the others.

        `perturbation` is the share of entries that are taken from any other entry's values, at random, before the
        fit: the background then says less of single entries (Ren et al. 2019, section 3, who replace 10 to 30 %). It
        is for items whose entries have one unit, as pixels have.

        `weight`, (N,), counts an item that many times. With `missing` NaN is an entry that was not seen, and the
        moments of an entry are those of the items that have it. Raises ValueError for items outside the support, fewer
        than 2 of them, an entry that no item has, and normal items none of whose entries varies.
        """
        is_none = isinstance(perturbation, int | float) and perturbation == 0
        share = 0.0 if is_none else checks.probability("perturbation", perturbation)
        gathered = checks.split_of(
            x, weight=weight, missing=missing or None, takes=("weight", "missing"), what="IndependentEntries.fit"
        )
        gathered = checks.without_absent(gathered)
        weight, missing = gathered.weight, gathered.missing is not None
        given = checks.array(checks.with_missing(gathered.x, gathered.missing), "x")
        if given.ndim < 2 or len(given) < 2:
            raise ValueError(f"x must have shape (N, *event_shape) with at least 2 items, got {tuple(given.shape)}")
        made = cls(tuple(given.shape[1:]), family, num_classes=num_classes)
        if given.dtype == torch.float64:
            made = made.double()
        kind = FAMILIES[family]
        items = checked_items(made, given, support=made.support, missing=missing)
        each = None if weight is None else checks.weights(weight, len(items))
        if each is not None:  # an item that does not count is absent
            items, each = items[each > 0], each[each > 0]
        never = items.isnan().all(0).nonzero()
        if len(never):
            place = ", ".join(map(str, never[0].tolist()))
            raise ValueError(f"no entry of x[:, {place}] was seen: nothing can be learnt of it; leave such entries out")
        if made.num_classes is not None:
            fitted = _log_frequencies(items, made.num_classes, share, each)
        else:
            items = items.double().log() if kind.of_logarithm else items.double()
            assert kind.fitted is not None
            fitted = torch.stack(kind.fitted(_moments(items, each).perturbed(share)))
        with torch.no_grad():
            made.natural.copy_(fitted)
        return made

    @property
    def support(self) -> constraints.Constraint:
        """The support of an entry."""
        if self.num_classes is not None:
            return constraints.integer_interval(0, self.num_classes - 1)
        return FAMILIES[self.family].support

    @property
    def base_measure(self) -> str:
        """Whether p(x) is a "mass" or a "density"."""
        return "mass" if self.support.is_discrete else "density"

    @property
    def mean(self) -> Tensor:
        """The mean of each entry, shape event_shape; ValueError for codes of categories, which have none."""
        mean: Tensor = self._law().mean
        return mean

    def model(self, x: Tensor | None = None, *, size: int = 1, missing: bool = False) -> Tensor:
        """p(x): observed where `x` of shape (N, *event_shape) is given, else `size` draws.

        With `missing` NaN in `x` is an entry that was not seen, and the density is that of the seen entries.
        """
        register_param_sites(self._site_prefix, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            law = SeenEntries(self._law(), filling_of(self)) if missing else self._law()
            obs: Tensor = pyro.sample("obs", law, obs=x)
            return obs

    def guide(self, x: Tensor | None = None, *, size: int = 1, missing: bool = False) -> None:
        """Nothing: the model has no latent site."""

    def log_prob(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(x) in nats, shape (N,), of items (N, *event_shape); differentiable.

        With `missing` NaN is an entry that was not seen, and the density is that of the seen entries: 0 of none.
        """
        items = checked_items(self, x, support=self.support, missing=missing).to(self.natural.device)
        law = SeenEntries(self._law(), filling_of(self)) if missing else self._law()
        log_prob: Tensor = law.log_prob(items)
        return log_prob

    @checks.allocating
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` draws from p(x), shape (n, *event_shape); without a `seed` torch's global generator goes on."""
        checks.whole("n", n, bytes_each=4 * math.prod(self.event_shape))
        key = None if seed is None else stream(checks.seed(seed), "sample")
        with torch.no_grad(), forked(key, dtype_and_device(self)[1]):
            drawn: Tensor = self._law().sample((n,))
        return drawn

    def _law(self) -> TorchDistribution:
        law: Any = FAMILIES[self.family].law(*self.natural)
        return law.to_event(len(self.event_shape))

    def _summary_of_parts(self) -> Rows:
        return {"family": lambda: self.family}


@dataclass(frozen=True)
class _Moments:
    """The mean and the variance of each entry over `count` items, a number or one for each entry."""

    mean: Tensor
    variance: Tensor
    count: Any

    def perturbed(self, share: float) -> _Moments:
        """The moments after a share of each entry's values is replaced by values of any entry."""
        if not share:
            return self
        second = self.variance + self.mean.square()
        mean = (1 - share) * self.mean + share * self.mean.mean()
        second = (1 - share) * second + share * second.mean()
        return _Moments(mean, (second - mean.square()).clamp(min=0), self.count)


def _moments(items: Tensor, weight: Tensor | None) -> _Moments:
    """The moments of entries over the items that have them, each counted by its weight."""
    seen = ~items.isnan()
    if weight is None and bool(seen.all()):
        return _Moments(items.mean(0), items.var(0, correction=0), len(items))
    each = seen.double() if weight is None else seen * weight.to(items).reshape(-1, *[1] * (items.ndim - 1))
    count, filled = each.sum(0), torch.where(seen, items, 0.0)
    mean = (each * filled).sum(0) / count
    return _Moments(mean, (each * (filled - mean).square()).sum(0) / count, count)


@dataclass(frozen=True)
class _Family:
    """How the parameters of an entry follow from its moments, and its distribution from these."""

    support: constraints.Constraint
    num_parameters: int
    fitted: Callable[[_Moments], tuple[Tensor, ...]] | None  # None where moments are not enough
    law: Callable[..., Any]
    of_logarithm: bool = False


def _logits(moments: _Moments) -> tuple[Tensor]:
    return (_smoothed(moments).logit(),)


def _smoothed(moments: _Moments) -> Tensor:
    """Means of values of 0 to 1, with half an observation of 1/2 each of 0 and 1 beside them."""
    return (moments.mean * moments.count + 0.5) / (moments.count + 1)


def _continuous_logits(moments: _Moments) -> tuple[Tensor]:
    """The logit l whose continuous Bernoulli has this mean, 1 / (1 - exp(-l)) - 1 / l, by bisection."""
    mean = _smoothed(moments)
    high = torch.zeros_like(mean) + (8.0 * moments.count + 8)
    low = -high
    for _ in range(100):
        middle = (low + high) / 2
        near_zero = middle.abs() < 1e-3
        safe = middle.where(~near_zero, torch.ones_like(middle))
        value = torch.where(near_zero, 0.5 + middle / 12, -1 / torch.expm1(-safe) - 1 / safe)
        low, high = torch.where(value < mean, middle, low), torch.where(value < mean, high, middle)
    return ((low + high) / 2,)


def _normal(moments: _Moments) -> tuple[Tensor, Tensor]:
    variance = moments.variance
    varies = variance > 1e-12 * moments.mean.square()  # rounding apart
    if not varies.any():
        raise ValueError("x must vary: every entry has the same value in all items, and no variance can be had")
    variance = variance.where(varies, variance[varies].min())
    return moments.mean, variance.log() / 2


def _counts(moments: _Moments) -> tuple[Tensor, Tensor]:
    """log m and log r of the mean m and the variance m + m^2 / r: the Poisson distribution where r is not finite."""
    mean = moments.mean + 0.5 / moments.count
    excess = moments.variance - mean
    log_size = 2 * mean.log() - excess.clamp(min=0).log()
    return mean.log(), log_size.clamp(-LARGEST_LOG, LARGEST_LOG)


def _log_frequencies(x: Tensor, num_classes: int, share: float, weight: Tensor | None = None) -> Tensor:
    """The logarithms of the smoothed frequencies of codes, (num_classes, *event), after a share was replaced."""
    entries = math.prod(x.shape[1:])
    place = torch.arange(entries, device=x.device) * num_classes
    counts = torch.zeros(entries * num_classes, dtype=torch.float64, device=x.device)
    step = max(1, ENTRIES_TOGETHER // entries)
    for start in range(0, len(x), step):
        rows = x[start : start + step].flatten(1)
        seen = ~rows.isnan()
        each = None if weight is None else weight[start : start + step, None].to(x.device).expand_as(rows)[seen]
        codes = (torch.where(seen, rows, 0.0).long() + place)[seen]
        counts += torch.bincount(codes, each, minlength=len(counts))
    counts = counts.reshape(*x.shape[1:], num_classes).movedim(-1, 0)
    total = counts.sum(0)
    counts = counts / total
    pooled = counts.flatten(1).mean(1).reshape(-1, *[1] * (counts.ndim - 1))
    frequencies = (1 - share) * counts + share * pooled
    return ((frequencies * total + 1 / num_classes) / (total + 1)).log()


def _checked_classes(family: str, num_classes: Any) -> int | None:
    """The number of codes of a categorical entry, and None of any other."""
    if family == "categorical":
        if num_classes is None:
            raise ValueError("num_classes must be given with family='categorical': the number of codes of an entry")
        return checks.whole("num_classes", num_classes, least=2, most=MOST_CODES)
    if num_classes is not None:
        raise ValueError(f"num_classes is for family='categorical', and the family is {family!r}: leave it out")
    return None


def _normal_law(loc: Tensor, log_scale: Tensor) -> Any:
    return dist.Normal(loc, log_scale.exp())


def _log_normal_law(loc: Tensor, log_scale: Tensor) -> Any:
    return dist.LogNormal(loc, log_scale.exp())


def _codes_law(*logits: Tensor) -> Any:
    return Codes(torch.stack(logits, -1).log_softmax(-1))


FAMILIES = {
    "bernoulli": _Family(constraints.boolean, 1, _logits, lambda logits: Bernoulli()(logits)),
    "continuous_bernoulli": _Family(
        constraints.unit_interval, 1, _continuous_logits, lambda logits: ContinuousBernoulli()(logits)
    ),
    "normal": _Family(constraints.real, 2, _normal, _normal_law),
    "log_normal": _Family(constraints.positive, 2, _normal, _log_normal_law, of_logarithm=True),
    "negative_binomial": _Family(constraints.nonnegative_integer, 2, _counts, MeanNegativeBinomial),
    "categorical": _Family(constraints.nonnegative_integer, 0, None, _codes_law),
}


def family_for(pair: Any) -> str | None:
    """The family with the support and the base measure of a pair's likelihood; None where there is none.

    >>> import pyrovae
    >>> from pyrovae.models.independent import family_for
    >>> family_for(pyrovae.mlp_vae((3,))), family_for(pyrovae.GaussianMixture((3,), 2))
    ('bernoulli', 'normal')
    """
    support = _support(pair)
    if support is constraints.boolean:
        return "bernoulli"
    if support.is_discrete:
        if _codes_of(support) is not None:
            return "categorical"
        return "negative_binomial" if _ends_of(support) == (0, None) else None
    if base_measure_of(pair) not in (None, "density"):
        return None
    if support is constraints.unit_interval:
        return "continuous_bernoulli"
    if support is constraints.positive:
        return "log_normal"
    return "normal" if support is constraints.real else None


def entries_like(pair: Any, x: Any, *, perturbation: float = 0.0) -> IndependentEntries | None:
    """Independent entries of the family for a pair, fitted to items `x`; None where there is no family."""
    family = family_for(pair)
    if family is None:
        return None
    num_classes = _codes_of(_support(pair)) if family == "categorical" else None
    return IndependentEntries.fit(x, family=family, num_classes=num_classes, perturbation=perturbation)


def _support(pair: Any) -> Any:
    return support_of(pair) or constraints.real


def _codes_of(support: Any) -> int | None:
    """The number of codes of a support 0..C - 1 with C of at most 1,024; None for any other."""
    low, high = _ends_of(support)
    return int(high) + 1 if low == 0 and high is not None and 1 <= high < MOST_CODES else None


def _ends_of(support: Any) -> tuple[float | None, float | None]:
    """The least and the largest number of a support; None for an end that it does not state as one number."""
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    ends = [None if end is None or torch.as_tensor(end).numel() != 1 else float(end) for end in (low, high)]
    return ends[0], ends[1]
