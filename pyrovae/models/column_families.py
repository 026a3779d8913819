"""The families of a latent class model's columns: densities, draws and weighted maxima of the columns of one family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae.columns import Column
from pyrovae.models.covariance import EPS, FAR
from pyrovae.models.parts.counts import LARGEST_LOG, poisson_counts
from pyrovae.models.parts.negative_binomial import MeanNegativeBinomial
from pyrovae.models.parts.poisson import LogRatePoisson

__all__ = ["FAMILIES", "Codes", "Family", "LogNormals", "NegativeBinomials", "Normals", "Poissons", "family_of"]

EMPTY = 10 * EPS  # total weight below which a class says nothing of a column
LARGE_COUNT = 1e5  # above it no sum of large terms gives log p of a Poisson count
HALVINGS = 45  # of an interval of log r, which is 2e-12 long by then
SMALLEST_SIZE = 20.0  # the negative logarithm of the least r


class Family(nn.Module):
    """`size` columns of one family, each with parameters of its own in each of K classes.

    Items are (N, size) in float64, NaN where an entry is missing, whose terms are left out. A method that a family does
    not need returns nothing: `measure` takes from the items what stays fixed in a fit, and `log_prior` is the logarithm
    of what pseudo-items add to the likelihood, up to a constant.
    """

    first: ClassVar[str]  # the name of the first parameter
    free = 1  # parameters of a column in a class

    def __init__(self, num_classes: int, size: int, **_: Any) -> None:
        super().__init__()
        self.num_classes, self.size = num_classes, size

    def extra_repr(self) -> str:
        """How many columns there are."""
        return f"columns={self.size}"

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n | class k) over the columns, (N, K), in nats and float64."""
        raise NotImplementedError

    def draw(self, component: Tensor) -> Tensor:
        """A draw of the columns for each class number: (M,) to (M, size)."""
        raise NotImplementedError

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the columns in each class, (K, size) each; NaN where there are none."""
        raise NotImplementedError

    def stated(self) -> dict[str, Tensor]:
        """The parameters by the names that they have in formulas, (K, size, ...) each, in float64."""
        raise NotImplementedError

    def sums(self, x: Tensor, weight: Tensor, about: Tensor | None = None) -> list[Tensor]:
        """What `take` needs of items under weights (N, K), which `added` adds up over parts of the items.

        `about`, (K, size), is what differences are taken from, where a family takes any: the present locations if None.
        """
        raise NotImplementedError

    def added(self, sums: list[Tensor], more: list[Tensor]) -> list[Tensor]:
        """The sums over both parts, in the place of the first."""
        for mine, other in zip(sums, more, strict=True):
            mine += other
        return sums

    def lost(self, sums: list[Tensor]) -> Tensor | None:
        """What to take differences from in a second pass, where these sums have lost too many digits; else None."""
        return None

    def take(self, sums: list[Tensor], about: Tensor | None = None) -> Tensor:
        """Set the parameters to the maximum of sum_nk w_nk log p(x_n | k) + log prior; which are at a bound, (K, size).

        A class of no weight on the seen entries of a column keeps its parameters there.
        """
        raise NotImplementedError

    def encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        """The columns as numbers for k-means, (N, M): each column has a variance of 1, and 0 where it is missing."""
        raise NotImplementedError

    def measure(self, x: Tensor, weight: Tensor, shares: Iterable[Tensor]) -> None:
        """Take from the items, weighted by (N,), and from the classes that fits start from what stays fixed."""

    def log_prior(self) -> Tensor | float:
        """The logarithm of what pseudo-items add, in nats."""
        return 0.0

    @property
    def num_parameters(self) -> int:
        """The number of free parameters."""
        return self.num_classes * self.size * self.free

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters, which are buffers in a frozen copy."""
        parameter: Tensor = getattr(self, self.first)
        return parameter.dtype

    @property
    def has_impossible(self) -> Tensor:
        """Whether a value of the column has probability 0 in some class, (size,)."""
        return torch.zeros(self.size, dtype=torch.bool)


class Normals(Family):
    """Columns that are normal in each class, whose variances have floors relative to the column's own.

    A column's scale is its standard deviation within the classes that fits start from, the smallest of them; of a
    column that does not vary there, over all items. The floor is `relative` times its square, and `relative` itself for
    a column that does not vary at all.
    """

    first, free = "loc", 2
    column_scale: Tensor

    def __init__(self, num_classes: int, size: int, *, relative_floor: float, **_: Any) -> None:
        super().__init__(num_classes, size)
        self.relative_floor = relative_floor
        self.loc = nn.Parameter(torch.zeros(num_classes, size))
        self.log_scale = nn.Parameter(torch.zeros(num_classes, size))
        self.register_buffer("column_scale", torch.zeros(size))

    def transformed(self, x: Tensor) -> Tensor:
        """The items as the normal distribution sees them."""
        return x

    @property
    def floors(self) -> Tensor:
        """The variance floor of each column, (size,), in float64."""
        square = self.column_scale.double().square()
        return self.relative_floor * torch.where(square > 0, square, 1.0)

    @property
    def scale(self) -> Tensor:
        """The standard deviations, (K, size), at least the root of the floor, in float64."""
        free = self.log_scale.double().exp()
        return free + (free.clamp(min=self.floors.sqrt()) - free).detach()

    def log_prob(self, x: Tensor) -> Tensor:
        x, loc, scale = self.transformed(x), self.loc.double(), self.scale
        seen = ~x.isnan()
        squares = [
            (torch.where(seen, x - centre, 0.0) / width).square().sum(-1)
            for centre, width in zip(loc, scale, strict=True)
        ]
        constant = seen.double() @ (scale.log() + 0.5 * math.log(2 * math.pi)).mT
        return -0.5 * torch.stack(squares, -1) - constant

    def draw(self, component: Tensor) -> Tensor:
        loc, scale = self.loc.double()[component], self.scale[component]
        return loc + scale * torch.randn_like(loc)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.loc.double(), self.scale.square()

    def stated(self) -> dict[str, Tensor]:
        return {"loc": self.loc.double(), "scale": self.scale}

    def sums(self, x: Tensor, weight: Tensor, about: Tensor | None = None) -> list[Tensor]:
        x, about = self.transformed(x), self.loc.double() if about is None else about
        seen = ~x.isnan()
        first, second = torch.zeros_like(about), torch.zeros_like(about)
        for k, centre in enumerate(about):
            away = torch.where(seen, x - centre, 0.0)
            first[k] = weight[:, k] @ away
            second[k] = weight[:, k] @ away.square_()
        return [weight.mT @ seen.double(), first, second]

    def lost(self, sums: list[Tensor]) -> Tensor | None:
        mass, first, second = sums
        moved = first / mass.clamp(min=EMPTY)
        within = torch.maximum(second - mass * moved.square(), self.floors * mass)
        if not bool(((second > FAR * within) & (mass > EMPTY)).any()):
            return None
        return self.loc.double() + torch.where(mass > EMPTY, moved, 0.0)

    @torch.no_grad()
    def take(self, sums: list[Tensor], about: Tensor | None = None) -> Tensor:
        total, first, second = sums
        moved = first / total.clamp(min=EMPTY)
        loc = (self.loc.double() if about is None else about) + moved
        variance = (second / total.clamp(min=EMPTY) - moved.square()).clamp(min=0.0)
        at_floor = variance < self.floors
        scale = torch.maximum(variance, self.floors).sqrt()
        has_weight = total > EMPTY
        self.loc.copy_(torch.where(has_weight, loc, self.loc.double()))
        self.log_scale.copy_(torch.where(has_weight, scale.log(), self.log_scale.double()))
        return at_floor & has_weight

    @torch.no_grad()
    def measure(self, x: Tensor, weight: Tensor, shares: Iterable[Tensor]) -> None:
        x = self.transformed(x)
        noise = rounding_of(x)
        square = within_variance(x, weight[:, None])
        square = torch.where(square.sqrt() > noise, square, 0.0)
        for share in shares:
            within = within_variance(x, share * weight[:, None])
            square = torch.where((within.sqrt() > noise) & (within < square), within, square)
        before = self.column_scale.double().square()
        self.column_scale.copy_(torch.where((before > 0) & (before < square), before, square).sqrt())

    def encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        return standardised(self.transformed(x), weight)


class LogNormals(Normals):
    """Columns of positive numbers whose logarithms are normal in each class: log p(x) = log N(log x) - log x."""

    def transformed(self, x: Tensor) -> Tensor:
        return x.log()

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) - x.log().nan_to_num(0.0).sum(-1, keepdim=True)

    def draw(self, component: Tensor) -> Tensor:
        return super().draw(component).exp()

    def moments(self) -> tuple[Tensor, Tensor]:
        loc, variance = self.loc.double(), self.scale.square()
        return (loc + variance / 2).exp(), variance.expm1() * (2 * loc + variance).exp()


class Poissons(Family):
    """Columns of counts that are Poisson in each class; `pseudo_count` items of the column's mean are shared by all."""

    first = "log_mean"
    pseudo_mean: Tensor

    def __init__(self, num_classes: int, size: int, *, pseudo_count: float, **_: Any) -> None:
        super().__init__(num_classes, size)
        self.pseudo_count = pseudo_count
        self.log_mean = nn.Parameter(torch.zeros(num_classes, size))
        self.register_buffer("pseudo_mean", torch.ones(size))

    def log_prob(self, x: Tensor) -> Tensor:
        seen, log_mean = ~x.isnan(), self.log_mean.double()
        count = torch.where(seen, x, 0.0)
        if bool((count > LARGE_COUNT).any()):  # of whose terms, 10 times as large, too many digits would be lost
            return self._one_by_one(count, seen, lambda k, log_mean: LogRatePoisson(log_mean, validate_args=False))
        constant = torch.lgamma(count + 1).sum(-1, keepdim=True)
        return times_logarithms(count, log_mean) - seen.double() @ log_mean.exp().mT - constant

    def _one_by_one(self, count: Tensor, seen: Tensor, law: Callable[[int, Tensor], Any]) -> Tensor:
        """log p of the seen counts in each class, (N, K), by a distribution `law(k, log_mean)` of class k."""
        # a class of mean 0 has the count 0 alone; its log m is replaced, so that no NaN arises
        is_empty = self.log_mean == -torch.inf
        log_mean = torch.where(is_empty, 0.0, self.log_mean.double())
        parts = []
        for k in range(self.num_classes):
            each = law(k, log_mean[k]).log_prob(count)
            each = torch.where(is_empty[k], torch.where(count > 0, -torch.inf, 0.0), each)
            parts.append(torch.where(seen, each, 0.0).sum(-1))
        return torch.stack(parts, -1)

    def draw(self, component: Tensor) -> Tensor:
        return poisson_counts(self.log_mean.double().exp()[component])

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.log_mean.double().exp()
        return mean, mean

    def stated(self) -> dict[str, Tensor]:
        return {"mean": self.log_mean.double().exp()}

    def sums(self, x: Tensor, weight: Tensor, about: Tensor | None = None) -> list[Tensor]:
        seen = ~x.isnan()
        return [weight.mT @ seen.double(), weight.mT @ torch.where(seen, x, 0.0)]

    @torch.no_grad()
    def take(self, sums: list[Tensor], about: Tensor | None = None) -> Tensor:
        log_mean, has_weight = self._log_mean(sums)
        self.log_mean.copy_(torch.where(has_weight, log_mean, self.log_mean.double()))
        return (self.log_mean == -torch.inf) & has_weight

    def _log_mean(self, sums: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The logarithms of the weighted means, those of the pseudo-items among them; and where there is any weight."""
        pseudo = self.pseudo_count / self.num_classes
        total, count = sums[0] + pseudo, sums[1] + pseudo * self.pseudo_mean.double()
        return (count / total.clamp(min=EMPTY)).log(), total > EMPTY

    @torch.no_grad()
    def measure(self, x: Tensor, weight: Tensor, shares: Iterable[Tensor]) -> None:
        seen = weight[:, None] * ~x.isnan()
        # half an event beside those that were seen: of a column of zeros too, a count has a probability
        self.pseudo_mean.copy_(((seen * x.nan_to_num(0.0)).sum(0) + 0.5) / seen.sum(0))

    def log_prior(self) -> Tensor | float:
        if not self.pseudo_count:
            return 0.0
        log_mean = self.log_mean.double()
        mean = self.pseudo_mean.double()
        each = mean * log_mean - log_mean.exp() - torch.lgamma(mean + 1)
        return (self.pseudo_count / self.num_classes) * each.sum()

    def encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        return standardised(x.log1p(), weight)

    @property
    def has_impossible(self) -> Tensor:
        return (self.log_mean == -torch.inf).any(0).cpu()


class NegativeBinomials(Poissons):
    """Columns of counts that are negative binomial in each class, of mean m and variance m + m^2 / r.

    The weighted mean is the maximum for m whatever r is; given it, the derivative by r changes its sign at one r at the
    most (Levin and Reeds 1977), which is bisected. Where the variance does not exceed the mean, r is e^60, and the
    distribution Poisson to every digit.
    """

    free = 2

    def __init__(self, num_classes: int, size: int, **options: Any) -> None:
        super().__init__(num_classes, size, **options)
        self.log_size = nn.Parameter(torch.zeros(num_classes, size))

    def log_prob(self, x: Tensor) -> Tensor:
        seen, size = ~x.isnan(), self.log_size.double()
        count = torch.where(seen, x, 0.0)
        return self._one_by_one(count, seen, lambda k, m: MeanNegativeBinomial(m, size[k], validate_args=False))

    def draw(self, component: Tensor) -> Tensor:
        size = self.log_size.double().exp()[component]
        relative = torch._standard_gamma(size) / size
        return poisson_counts(relative * self.log_mean.double().exp()[component])

    def moments(self) -> tuple[Tensor, Tensor]:
        log_mean = self.log_mean.double()
        return log_mean.exp(), log_mean.exp() + (2 * log_mean - self.log_size.double()).exp()

    def stated(self) -> dict[str, Tensor]:
        return {**super().stated(), "size": self.log_size.double().exp()}

    def sums(self, x: Tensor, weight: Tensor, about: Tensor | None = None) -> list[Tensor]:
        """Sums, and of each column its different counts, (U,), with the weights of each, (U, K)."""
        different = []
        for column in x.mT:
            seen = ~column.isnan()
            different += _by_count(column[seen], weight[seen])
        return [*super().sums(x, weight), *different]

    def added(self, sums: list[Tensor], more: list[Tensor]) -> list[Tensor]:
        different = []
        for j in range(2, len(sums), 2):
            different += _by_count(torch.cat([sums[j], more[j]]), torch.cat([sums[j + 1], more[j + 1]]))
        return [*super().added(sums[:2], more[:2]), *different]

    @torch.no_grad()
    def take(self, sums: list[Tensor], about: Tensor | None = None) -> Tensor:
        log_mean, has_weight = self._log_mean(sums)
        for j in range(self.size):
            count, weights = sums[2 + 2 * j : 4 + 2 * j]
            count = torch.cat([count, self.pseudo_mean[j, None].double()])
            pseudo = weights.new_full((1, self.num_classes), self.pseudo_count / self.num_classes)
            size = _log_size(count, torch.cat([weights, pseudo]), log_mean[:, j].exp())
            self.log_size[:, j] = torch.where(has_weight[:, j], size, self.log_size[:, j].double())
        self.log_mean.copy_(torch.where(has_weight, log_mean, self.log_mean.double()))
        return (self.log_mean == -torch.inf) & has_weight

    def log_prior(self) -> Tensor | float:
        if not self.pseudo_count:
            return 0.0
        law = MeanNegativeBinomial(self.log_mean.double(), self.log_size.double(), validate_args=False)
        return (self.pseudo_count / self.num_classes) * law.log_prob(
            self.pseudo_mean.double().expand_as(law.log_mean)
        ).sum()


class Codes(Family):
    """Columns of codes 0..C - 1 with a probability for each code in each class: binary, categorical and ordinal ones.

    `pseudo_count` items are shared by all classes and codes alike.
    """

    first = "logits"

    def __init__(self, num_classes: int, size: int, *, num_codes: int, pseudo_count: float, **_: Any) -> None:
        super().__init__(num_classes, size)
        self.num_codes, self.free, self.pseudo_count = num_codes, num_codes - 1, pseudo_count
        self.logits = nn.Parameter(torch.zeros(num_classes, size, num_codes))

    @property
    def log_probabilities(self) -> Tensor:
        """log p(code | class), (K, size, C), in float64."""
        return self.logits.double().log_softmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        return times_logarithms(self._one_hot(x), self.log_probabilities.flatten(1))

    def draw(self, component: Tensor) -> Tensor:
        probabilities = self.log_probabilities.exp()[component]
        drawn = torch.multinomial(probabilities.flatten(0, 1), 1, replacement=True)
        return drawn.reshape(len(component), self.size).double()

    def moments(self) -> tuple[Tensor, Tensor]:
        if self.num_codes > 2:  # a code is the name of a category
            nothing = torch.full_like(self.logits[..., 0], torch.nan, dtype=torch.float64)
            return nothing, nothing
        one = self.log_probabilities.exp()[..., 1]
        return one, one * self.log_probabilities.exp()[..., 0]

    def stated(self) -> dict[str, Tensor]:
        return {"probabilities": self.log_probabilities.exp()}

    def sums(self, x: Tensor, weight: Tensor, about: Tensor | None = None) -> list[Tensor]:
        return [(weight.mT @ self._one_hot(x)).unflatten(1, (self.size, self.num_codes))]

    @torch.no_grad()
    def take(self, sums: list[Tensor], about: Tensor | None = None) -> Tensor:
        counts = sums[0] + self.pseudo_count / (self.num_classes * self.num_codes)
        total = counts.sum(-1, keepdim=True)
        logits = (counts / total.clamp(min=EMPTY)).log()
        self.logits.copy_(torch.where(total > EMPTY, logits, self.logits.double()))
        return (self.logits == -torch.inf).any(-1)

    def log_prior(self) -> Tensor | float:
        if not self.pseudo_count:
            return 0.0
        return self.pseudo_count / (self.num_classes * self.num_codes) * self.log_probabilities.sum()

    def encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        one_hot = self._one_hot(x).unflatten(1, (self.size, self.num_codes))
        seen = (weight[:, None] * ~x.isnan())[..., None]
        share = (seen * one_hot).sum(0) / seen.sum(0)
        away = torch.where(x.isnan()[..., None], 0.0, one_hot - share)
        spread = (share * (1 - share)).sum(-1, keepdim=True).sqrt()
        return (away / torch.where(spread > 0, spread, torch.inf)).flatten(1)

    @property
    def has_impossible(self) -> Tensor:
        return (self.logits == -torch.inf).any(-1).any(0).cpu()

    def _one_hot(self, x: Tensor) -> Tensor:
        """(N, size) to (N, size * C); zeros where an entry is missing."""
        codes = torch.arange(self.num_codes, dtype=x.dtype, device=x.device)
        return (x[..., None] == codes).flatten(1).double()


FAMILIES: dict[str, dict[str, type[Family]]] = {  # of each kind of column, the default first
    "real": {"normal": Normals},
    "positive": {"log_normal": LogNormals},
    "count": {"poisson": Poissons, "negative_binomial": NegativeBinomials},
    "binary": {"bernoulli": Codes},
    "categorical": {"categorical": Codes},
    "ordinal": {"categorical": Codes},
}


def family_of(column: Column, name: str) -> tuple[str, type[Family], dict[str, Any]]:
    """Under which name columns of this family are kept together, its class, and the options that it needs."""
    kind = FAMILIES[column.kind][name]
    if kind is Codes:
        return f"codes_{column.num_categories}", kind, {"num_codes": column.num_categories}
    return name, kind, {}


def times_logarithms(count: Tensor, logarithm: Tensor) -> Tensor:
    """sum_m c_nm l_km, (N, M) and (K, M) to (N, K), where 0 times the logarithm of 0 is 0."""
    never = logarithm == -torch.inf
    product = count @ torch.where(never, 0.0, logarithm).mT
    if bool(never.any()):
        return torch.where((count @ never.double().mT) > 0, -torch.inf, product)
    return product


def standardised(x: Tensor, weight: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1 over what was seen, and 0 where an entry is missing or a column constant."""
    seen = weight[:, None] * ~x.isnan()
    away = x - (seen * x.nan_to_num(0.0)).sum(0) / seen.sum(0)
    away = away.nan_to_num(0.0)
    scale = ((seen * away.square()).sum(0) / seen.sum(0)).sqrt()
    return away / torch.where(scale > rounding_of(x), scale, torch.inf)


def rounding_of(x: Tensor) -> Tensor:
    """The standard deviation that rounding alone can give a constant column, (D,); NaN is missing."""
    unseen = x.isnan()
    least, most = x.masked_fill(unseen, torch.inf).amin(0), x.masked_fill(unseen, -torch.inf).amax(0)
    size = torch.maximum(least.abs(), most.abs())
    return torch.where(most > least, 4 * EPS * math.sqrt(len(x)) * size, torch.inf)


def within_variance(x: Tensor, weight: Tensor) -> Tensor:
    """The variance of each column about the means of the classes of a table of weights (N, K): (D,)."""
    _, variance, total = _weighted_moments(x, weight)
    return (variance * total).sum(0) / total.sum(0)


def _by_count(count: Tensor, weight: Tensor) -> list[Tensor]:
    """The different counts of (N,), and the sums of the weights (N, K) of each."""
    different, index = count.unique(return_inverse=True)
    weights = torch.zeros(len(different), weight.shape[1], dtype=weight.dtype, device=weight.device)
    return [different, weights.index_add_(0, index, weight)]


def _weighted_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means, variances and total weights of each column in each class, (K, D) each; NaN is missing."""
    seen = ~x.isnan()
    total = weight.mT @ seen.double()
    middle = torch.where(seen, x, 0.0).sum(0) / seen.sum(0).clamp(min=1)  # so that few digits are lost
    away = torch.where(seen, x - middle, 0.0)
    loc = weight.mT @ away / total.clamp(min=EMPTY)
    squares = [
        part @ torch.where(seen, away - centre, 0.0).square() for part, centre in zip(weight.mT, loc, strict=True)
    ]
    return middle + loc, torch.stack(squares) / total.clamp(min=EMPTY), total


def _log_size(count: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """The maximum over log r of sum_u w_uk log NB(c_u; m_k, r), (K,), for the weighted means m of the counts (U,)."""
    total = weight.sum(0)
    squares = (weight * (count[:, None] - mean).square()).sum(0) / total.clamp(min=EMPTY)
    low = torch.full_like(mean, -SMALLEST_SIZE)
    high = torch.full_like(mean, LARGEST_LOG)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_below = _slope(count, weight, mean, middle.exp()) > 0
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return torch.where(squares > mean, (low + high) / 2, LARGEST_LOG)


def _slope(count: Tensor, weight: Tensor, mean: Tensor, size: Tensor) -> Tensor:
    """The derivative by r of sum_u w_uk log NB(c_u; m_k, r) where m is the weighted mean, (K,)."""
    gain = torch.digamma(count[:, None] + size) - torch.digamma(size)
    return (weight * gain).sum(0) - weight.sum(0) * torch.log1p(mean / size)
