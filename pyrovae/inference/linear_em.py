"""EM for a linear pair, x = W z + mu + e, to the maximum of the likelihood, also of items with entries missing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.em import (
    Climb,
    VarianceFloorWarning,
    covariances_factored,
    warn_not_converged,
    warn_of_rounded,
)
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import Stop
from pyrovae.inference.linear_parts import LinearParts, linear_parts
from pyrovae.inference.measuring import measuring
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.inference.weighed import Weighed, weighed
from pyrovae.listed import listed
from pyrovae.models.covariance import ROWS, weighted_means
from pyrovae.models.items import checked_items
from pyrovae.models.linear_gaussian import LinearGaussian, SeenCodes, seen_kinds, seen_log_prob
from pyrovae.models.vae import VAE
from pyrovae.progress import progress_bar
from pyrovae.rounding import spread_as_in

__all__ = ["LinearEM"]


@dataclass(frozen=True)
class LinearEM(Method):
    """Expectation maximisation for a linear pair, as of `linear_vae`: probabilistic PCA and factor analysis.

    It maximises log p(x), and where entries are missing that of the seen ones: no bound, and no learning rate. The
    weights of the decoder, the scale, no lower than its floor, and the `LinearNormal` posterior are set; that is the
    exact posterior of whole items. Of the rotations of a code, which all have one likelihood, it takes that by which
    the posterior's entries are independent. `weight` counts an item that many times.

    Args:
        tol: the least gain of an iteration, in nats per item, after which another one follows.
        max_iterations: the largest number of iterations.

    Raises ValueError for an option that is out of its range.

    (Rubin and Thayer 1982; Tipping and Bishop 1999, section 3.3; the code's own scale is a free parameter within an
    iteration, which speeds it up: Liu, Rubin and Wu 1998, section 4.)

    >>> import torch
    >>> import pyrovae
    >>> x = torch.randn(100, 1) + torch.randn(100, 4)
    >>> x[torch.arange(100), torch.arange(100) % 4] = torch.nan
    >>> pair = pyrovae.linear_vae(4, 1)
    >>> history = pyrovae.fit(pair, x, method="em", missing=True)
    >>> history.config["converged"], bool(pyrovae.exact(pair, x, missing=True).mean < 0)
    (True, True)
    """

    name: ClassVar[str] = "em"
    title: ClassVar[str] = "EM"
    belongs_to: ClassVar[str] = "linear pair, as linear_vae"
    takes_weight: ClassVar[bool] = True
    takes_missing: ClassVar[bool] = True

    tol: float = 1e-9
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", checks.positive("tol", self.tol, zero=True))
        object.__setattr__(self, "max_iterations", checks.whole("max_iterations", self.max_iterations))

    def run(self, task: Task) -> History:
        """Fit the pair in place, to a maximum of the likelihood."""
        parts = linear_parts(task.pair)
        assert parts is not None  # it is among the methods of no other pair
        with torch.no_grad():
            return _run(self, parts, task)


def _run(options: LinearEM, parts: LinearParts, task: Task) -> History:
    given = weighed(task.x, "x")
    items = checked_items(task.pair, given.x, missing=given.missing)
    held_out = None
    if task.validation is not None:
        other = weighed(task.validation, "validation")
        scale = spread_as_in(items)
        checked = checked_items(task.pair, other.x, name="validation", missing=other.missing, least_scale=scale)
        held_out = other.with_items(checked.to(task.device).double())
    of_fit = given.with_items(items.to(task.device).double())
    with measuring(task.pair, of_fit) as begin:
        columns = parts.columns(of_fit.x)
        fit = _Fit(of_fit, columns.standardized(of_fit.x), columns.least_scale, parts)
        shift = columns.log_volume(of_fit)  # log p in the items' units, over that of standardised columns

        def judged() -> dict[str, float]:
            if held_out is None:
                return {}
            return {"validation_elbo": held_out.mean(seen_log_prob(columns.in_units(fit.model), held_out.x))}

        with covariances_factored(), progress_bar(show=task.progress, unit="iteration") as bar:
            starts = [columns.of_standardized(parts.model(task.device)), fit.start()]
            fit.model = max(starts, key=fit.log_likelihood)

            def e_step() -> tuple[Any, float]:
                sums, value = fit.e_step()
                return sums, value + shift

            climb = Climb(e_step, fit.m_step, judged, bar)
            with Stop() as stop:
                climb.go_on(options.tol, options.max_iterations)
        climb.require_finite()
        begin()
        parts.take(columns, fit.rotated())
    kept = of_fit.mean(seen_log_prob(parts.model(task.device), of_fit.x))
    warn_of_rounded(climb.value - kept, next(task.pair.parameters()).dtype, "pair.double()")
    if not climb.converged and stop.error is None:
        warn_not_converged(len(climb.rows), options.tol)
    at_floor = climb.at_floor.nonzero().flatten().tolist()
    if at_floor:
        _warn_of_floor(at_floor, parts)
    config = {
        "method": "em",
        **asdict(options),
        "items": len(items),
        **of_fit.config,
        "validation_items": 0 if held_out is None else len(held_out.x),
        "device": str(task.device),
        "log_likelihood": climb.value,
        "iterations": len(climb.rows),
        "converged": climb.converged,
        "columns_at_floor": at_floor,
        **environment(task.device),
        **stop.config,
    }
    rows = climb.rows or [{"loss": -climb.value, **judged(), "seconds": 0.0}]
    history = History.from_rows(rows, config)
    stop.again(history)
    return history


class _Fit:
    """The steps of EM on standardised columns, of which the means are taken away so that no digits are lost."""

    def __init__(self, items: Weighed, x: Tensor, least_scale: Tensor, parts: LinearParts) -> None:
        self.items, self.parts, self.least = items, parts, least_scale.square()
        is_seen = ~x.isnan()
        self.seen = is_seen.double()
        self.weight = x.new_ones(len(x)) if items.weight is None else items.weight
        (self.mean,), _ = weighted_means(x, self.weight[:, None])
        self.x = torch.where(is_seen, x - self.mean, 0.0)
        self.kinds, self.which = seen_kinds(is_seen)
        self.counts = self.weight @ self.seen  # of each column
        self.model: LinearGaussian

    def start(self) -> LinearGaussian:
        """Principal components of what was seen, a missing entry being at its column's mean."""
        size = self.parts.latent_dim
        variance = self.weight @ self.x.square() / self.counts.clamp(min=1e-300)
        root = torch.where(variance > 0, variance, 1.0).sqrt()
        scaled = self.x / root * self.weight.sqrt()[:, None]
        value, vector = torch.linalg.eigh(scaled.mT @ scaled / self.weight.sum())
        top = vector[:, -size:] * value[-size:].clamp(min=0.0).sqrt()
        top = torch.nn.functional.pad(top, (size - top.shape[1], 0))
        rest = (1 - top.square().sum(1)).clamp(min=0.05) * root.square()
        scale = self._scales(rest, self.counts)
        return LinearGaussian(root[:, None] * top, self.mean.clone(), scale)

    def log_likelihood(self, model: LinearGaussian) -> float:
        """The mean log-likelihood of the items under a model; -inf where it is not a number."""
        value = self.items.mean(self._codes(model).log_prob)
        return value if math.isfinite(value) else -math.inf

    def _codes(self, model: LinearGaussian) -> SeenCodes:
        centred = LinearGaussian(model.weight, model.offset - self.mean, model.variance)
        return centred.codes(self.x, self.seen, self.kinds, self.which)

    def e_step(self) -> tuple[SeenCodes, float]:
        """What the seen entries say of each code, and the mean log-likelihood."""
        codes = self._codes(self.model)
        return codes, self.items.mean(codes.log_prob)

    def m_step(self, codes: SeenCodes) -> Tensor:
        """Regress each column on the codes over its seen entries; returned is which columns are at the floor."""
        loc, size = codes.loc, codes.loc.shape[1]
        features = self.x.shape[1]
        # sums over a column's seen entries of the second moments of (z, 1), and of its products with x
        second = loc.new_zeros(features, (size + 1) ** 2)
        spread = loc.new_zeros(features, size**2)
        first = loc.new_zeros(features, size + 1)
        moment, middle = loc.new_zeros(size, size), loc.new_zeros(size)
        for start in range(0, len(loc), ROWS):
            rows = slice(start, start + ROWS)
            weight, which, each = self.weight[rows, None], self.which[rows], loc[rows]
            seen = self.seen[rows] * weight
            covariance = codes.covariance[which].flatten(1)
            with_one = torch.cat([each, each.new_ones(len(each), 1)], 1)
            second += seen.mT @ (with_one[:, :, None] * with_one[:, None, :]).flatten(1)
            spread += seen.mT @ covariance
            first += (self.x[rows] * seen).mT @ with_one
            moment += (weight.mT @ covariance).reshape(size, size) + (each * weight).mT @ each
            middle += (each * weight).sum(0)
        spread = spread.reshape(features, size, size)
        second = second.reshape(features, size + 1, size + 1)
        second[:, :size, :size] += spread
        solved = torch.linalg.solve(second, first[:, :, None])[:, :, 0]
        weight, offset = solved[:, :size], solved[:, size]
        residual = loc.new_zeros(features)
        for start in range(0, len(loc), ROWS):
            rows = slice(start, start + ROWS)
            away = (self.x[rows] - offset - loc[rows] @ weight.mT) * self.seen[rows]
            residual += self.weight[rows] @ away.square()
        residual += torch.einsum("di,dij,dj->d", weight, spread, weight)
        variance = self._scales(residual, self.counts, are_sums=True)
        # the code as N(middle, moment), free within the iteration, is N(0, I) of other weights
        total = self.weight.sum()
        middle = middle / total
        moment = moment / total - middle[:, None] * middle
        factor, info = torch.linalg.cholesky_ex(moment)
        if not bool(info):
            weight, offset = weight @ factor, offset + weight @ middle
        self.model = LinearGaussian(weight, offset + self.mean, variance)
        return self.at_floor(variance)

    def _scales(self, residual: Tensor, counts: Tensor, *, are_sums: bool = False) -> Tensor:
        """The variances of the columns from sums of squares, or from variances, no lower than the floor."""
        if self.parts.fixed:
            return self.least.clone()
        sums = residual if are_sums else residual * counts
        if self.parts.per_entry:
            return torch.maximum(sums / counts.clamp(min=1e-300), self.least)
        return torch.maximum((sums.sum() / counts.sum()).expand_as(self.least), self.least)

    def at_floor(self, variance: Tensor) -> Tensor:
        """Which columns are at the floor; all or none where they share a scale."""
        return (variance <= self.least * (1 + 1e-9)) & (not self.parts.fixed)

    def rotated(self) -> LinearGaussian:
        """The same density with a code whose entries are independent given an item, by what they tell of it."""
        model = self.model
        gram = model.weight.mT @ (model.weight / model.variance[:, None])
        _, vector = torch.linalg.eigh(gram)
        weight = model.weight @ vector.flip(1)
        largest = weight.abs().argmax(0)
        sign = weight.gather(0, largest[None]).sign()
        return LinearGaussian(weight * torch.where(sign == 0, 1.0, sign), model.offset, model.variance)


def _warn_of_floor(columns: list[int], parts: LinearParts) -> None:
    if not parts.per_entry:
        which = "the scale that all columns share"
    else:
        which = f"the scale of {listed([f'x[:, {d}]' for d in columns], what='columns')}"
    checks.warn(
        f"the floor of the likelihood's scale holds up {which}: columns that a code of {parts.latent_dim} numbers "
        "tells in full, or that do not vary; take a smaller latent_dim, scale x, or set Normal(floor=...)",
        VarianceFloorWarning,
    )


def _where_linear(vae: VAE) -> tuple[Method, ...]:
    return (SVI(), LinearEM()) if linear_parts(vae) is not None else (SVI(),)


register_methods(VAE, SVI(), LinearEM(), order=_where_linear)
