"""Sufficient statistics of normal components: responsibilities and moments in one pass over blocks of items.

No table of N x K numbers is kept: a block's responsibilities are computed in place, and its moments are added to the
sums before the next block is read. Products are of differences from one origin, the items' mean. Whatever lies so far
from it, in its own standard deviations, that they would lose digits is taken about its own location instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.models.block_sums import Coordinates, Moments, Posterior, parts_of_triangle
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import EMPTY, EPS, FAR, NEAR, triangular_inverse
from pyrovae.models.products import keeps_float32
from pyrovae.models.remainder import has_lost_digits, remainder_of
from pyrovae.models.seen import Expected

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = [
    "Frame",
    "Shares",
    "are_single_enough",
    "column_moments",
    "expected_sums",
    "log_likelihood",
    "sums_of_shares",
    "within_variance",
    "within_variance_of",
]

Shares = Callable[[slice, Tensor], Tensor]  # (which rows, the rows (n, D)) -> how much of each a component has, (K, n)

BYTES = 2**21  # of the largest buffer of a block: it stays near a core, and calls take little beside what they compute
ON_ACCELERATOR = 2**26
KEPT = 2**26  # of coordinates that are kept from pass to pass
SINGLE_FAR = 100.0  # as FAR, of sums in float32, by which two of seven digits may be lost
SINGLE_NEAR = 1e3  # as NEAR, in float32


class Frame:
    """What differences of items are taken from: their mean, the origin, (D,), with their extremes and their scatter.

    NaN is a missing entry. Where `keeps`, the coordinates of items in memory that take no more than `KEPT` bytes are
    kept from pass to pass.
    """

    def __init__(self, blocks: Blocks, *, keeps: bool = False) -> None:
        self.blocks = blocks
        self.keeps = keeps and blocks.is_in_memory
        self._kept: tuple[Any, dict[int, Tensor]] = None, {}

    @cached_property
    def origin(self) -> Tensor:
        """The mean of each column, to float32's digits where the items are in float32: (D,) in float64."""
        provisional, mass, first, _, _, _ = self._columns
        origin = provisional + first / mass.clamp(min=EMPTY)
        return origin if self.blocks.dtype == torch.float64 else origin.float().double()

    @cached_property
    def rounding_scale(self) -> Tensor:
        """The largest standard deviation that rounding alone can give a constant column, (D,); inf of a constant."""
        *_, least, most = self._columns
        eps = torch.finfo(self.blocks.dtype).eps
        size = torch.maximum(least.abs(), most.abs())
        return torch.where(most > least, max(4 * eps, 4 * EPS * math.sqrt(len(self.blocks))) * size, math.inf)

    @cached_property
    def variance(self) -> Tensor:
        """The variance of each column over all items, (D,)."""
        _, mass, first, second, _, _ = self._columns
        within = second - first.square() / mass.clamp(min=EMPTY)
        if bool((second > FAR * within).any()):
            mass, _, within = (each[0] for each in column_moments(self, None))
        return within / mass.clamp(min=EMPTY)

    @cached_property
    def _columns(self) -> list[Tensor]:
        """A first origin, and in one pass the mass, sums and squares about it, the least and the largest entries."""
        head = self.blocks.head.double()
        origin = head.nan_to_num(0.0).sum(0) / (~head.isnan()).sum(0).clamp(min=1)
        mass, first, second = torch.zeros_like(origin.expand(3, -1)).unbind()
        least, most = torch.full_like(origin, math.inf), torch.full_like(origin, -math.inf)
        for place, rows in self.blocks.each(_rows(1 + len(origin), self.blocks)):
            away, weight = rows.double() - origin, self.blocks.weight_of(place)
            every = away.new_ones(len(rows)) if weight is None else weight
            if self.blocks.has_missing:
                unseen = rows.isnan()
                least = torch.minimum(least, rows.masked_fill(unseen, math.inf).amin(0))
                most = torch.maximum(most, rows.masked_fill(unseen, -math.inf).amax(0))
                mass += every @ (~unseen).double()
                away = away.nan_to_num_(0.0, math.inf, -math.inf)
            else:
                least, most = torch.minimum(least, rows.amin(0)), torch.maximum(most, rows.amax(0))
                mass += every.sum()
            first += every @ away
            second += every @ away.square_()
        self.blocks.reduce([mass, first, second])
        self.blocks.largest([most, least.neg_()])
        return [origin, mass, first, second, -least, most]

    @cached_property
    def scatter(self) -> Tensor:
        """sum_n w_n (1, x_n - c)(1, x_n - c)' over all items, (1 + D, 1 + D): the same in every iteration."""
        width, size = 1 + self.blocks.features, _rows(1 + 2 * self.blocks.features, self.blocks)
        total = torch.zeros(width, width, dtype=torch.float64, device=self.blocks.device)
        made = Coordinates("tied", self.origin, size, torch.float64)
        for place, rows in self.blocks.each(size):
            columns, weight = made.of(rows), self.blocks.weight_of(place)
            total.addmm_(columns if weight is None else columns * weight, columns.mT)
        self.blocks.reduce([total])
        return total

    @property
    def squares(self) -> Tensor:
        """The diagonal of the scatter without that of the ones, (D,)."""
        return self.scatter.diagonal()[1:]

    def columns(self, covariance: str, size: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The blocks: which rows, the rows (n, D), and as columns their coordinates."""
        made = Coordinates(covariance, self.origin, size, dtype)
        keeps = self.keeps and made.kept_rows * len(self.blocks) * dtype.itemsize <= KEPT
        kind = made.kept_rows, size, dtype
        kept = self._kept[1] if self._kept[0] == kind else {}
        if keeps:
            self._kept = kind, kept
        for place, rows in self.blocks.each(size):
            if place.start in kept:
                columns = made.again(kept[place.start])
            else:
                columns = made.of(rows)
                if keeps:
                    of_kept = columns[: made.kept_rows]
                    kept[place.start] = of_kept.clone(memory_format=torch.contiguous_format)
            yield place, rows, columns


def expected_sums(
    parts: GaussianComponents, log_weights: Tensor, frame: Frame, *, single: bool = False
) -> tuple[Expected, float]:
    """The sums of an M-step under the responsibilities at the present parameters, and log p(x) per item in nats.

    Products are in float64, or where `single` in float32, which `are_single_enough` has to allow; sums are in float64.
    """
    dtype = torch.float32 if single else torch.float64
    size, blocks, origin = _rows_for(parts, frame.blocks, dtype), frame.blocks, frame.origin
    apart = [] if single else _apart(parts, frame, FAR, NEAR).nonzero().flatten().tolist()

    def run(centres: dict[int, Tensor], rest: int | None = None) -> tuple[Expected, Tensor]:
        scatter = frame.scatter if rest is not None or (parts.covariance == "tied" and not centres) else None
        if parts.covariance == "tied" and centres:  # its scatter is about one origin, or about each location
            centres = {**dict(enumerate(parts.loc.double())), **centres}
        posterior = Posterior(parts, log_weights, origin, size, dtype, apart)
        moments = Moments(parts.covariance, parts.num_components, origin, size, dtype, centres, scatter, rest)
        for place, rows, columns in frame.columns(parts.covariance, size, dtype):
            moments.add(rows, columns, posterior.of(rows, columns, blocks.weight_of(place)))
        blocks.reduce([*moments.sums, posterior.value])
        return moments.expected(), posterior.value

    centres = {k: parts.loc[k].double() for k in apart}
    rest = None
    if parts.covariance == "full" and parts.num_components > 1 and not single and not centres:
        rest = remainder_of(parts, log_weights, frame.squares, blocks.count)
    sums, value = run(centres, rest)
    if rest is not None and has_lost_digits(parts, sums, rest, frame.squares):
        sums, value = run(centres)
    lost = {} if single else _centres_of_lost(parts, sums)
    if lost:
        sums, value = run({**centres, **lost})
    return sums, float(value) / blocks.count


def log_likelihood(parts: GaussianComponents, log_weights: Tensor, frame: Frame, *, single: bool = False) -> float:
    """log p(x) per item, in nats: the weighted mean over the items. `single` is that of `expected_sums`."""
    dtype = torch.float32 if single else torch.float64
    size = _rows_for(parts, frame.blocks, dtype)
    apart = [] if single else _apart(parts, frame, FAR, NEAR).nonzero().flatten().tolist()
    posterior = Posterior(parts, log_weights, frame.origin, size, dtype, apart)
    for place, rows, columns in frame.columns(parts.covariance, size, dtype):
        posterior.of(rows, columns, frame.blocks.weight_of(place))
    frame.blocks.reduce([posterior.value])
    return float(posterior.value) / frame.blocks.count


def sums_of_shares(parts: GaussianComponents, frame: Frame, shares: Shares) -> Expected:
    """The sums of an M-step under given shares of the items."""
    size, origin = _rows_for(parts, frame.blocks, torch.float64), frame.origin

    def run(centres: dict[int, Tensor]) -> Expected:
        moments = Moments(parts.covariance, parts.num_components, origin, size, torch.float64, centres)
        for place, rows, columns in frame.columns(parts.covariance, size, torch.float64):
            weight, share = frame.blocks.weight_of(place), shares(place, rows).double()
            moments.add(rows, columns, share if weight is None else share * weight)
        frame.blocks.reduce(moments.sums)
        return moments.expected()

    sums = run({})
    lost = _centres_of_lost(parts, sums)
    return run(lost) if lost else sums


def column_moments(frame: Frame, shares: Shares | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mass, the means and the sums of squares about them that each column has under shares; (K, D) each.

    Without shares all items are one group. NaN is missing: sums are over the seen entries, and a mean of none is that
    of all items.
    """
    blocks, origin = frame.blocks, frame.origin
    size = _rows(1 + 2 * blocks.features, blocks)

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        for place, rows in blocks.each(size):
            weight = blocks.weight_of(place)
            share = origin.new_ones(1, len(rows)) if shares is None else shares(place, rows).double()
            yield rows, share if weight is None else share * weight

    mass = first = second = torch.zeros((), dtype=torch.float64, device=blocks.device)
    for rows, share in each():
        away = rows.double() - origin
        if blocks.has_missing:
            mass = mass + share @ (~rows.isnan()).double()
            away = away.nan_to_num_(0.0, math.inf, -math.inf)
        else:
            mass = mass + share.sum(1, keepdim=True).expand(-1, blocks.features)
        first = first + share @ away
        second = second + share @ away.square_()
    blocks.reduce([mass, first, second])
    moved = first / mass.clamp(min=EMPTY)
    within = second - mass * moved.square()
    lost = (second > FAR * within).any(0).nonzero()[:, 0]
    if len(lost):
        exact = torch.zeros_like(within[:, lost])
        loc = (origin + moved)[:, lost]
        for rows, share in each():
            for k, one in enumerate(loc):
                exact[k] += share[k] @ (rows[:, lost].double() - one).square_().nan_to_num_(0.0, math.inf)
        blocks.reduce([exact])
        within[:, lost] = exact
    return mass, origin + moved, within


def within_variance(frame: Frame, shares: Shares) -> Tensor:
    """The variance of each column about the means of groups, whose shares of the items are given; (D,)."""
    mass, _, squares = column_moments(frame, shares)
    return squares.sum(0) / mass.sum(0).clamp(min=EMPTY)


def within_variance_of(sums: Expected) -> Tensor:
    """The same of whole items, from the sums of an M-step; the mean over the columns where these are spherical."""
    between = sums.first.square() / sums.total.clamp(min=EMPTY)[:, None]
    if sums.mass is None:
        squares = sums.second.diagonal(dim1=-2, dim2=-1).sum(0) - between.sum(0)
    elif sums.second.shape == between.shape:
        squares = (sums.second - between).sum(0)
    else:
        squares = (sums.second.sum() - between.sum()).expand(between.shape[1]) / between.shape[1]
    return (squares / sums.total.sum()).clamp(min=0.0)


def are_single_enough(parts: GaussianComponents, frame: Frame) -> bool:
    """Whether products in float32 keep most of float32's digits at the present parameters."""
    if not keeps_float32(frame.blocks.device):
        return False
    if bool(_apart(parts, frame, SINGLE_FAR, SINGLE_NEAR).any()):
        return False
    if parts.lower is None:
        return True
    factor = parts.scale_tril
    share = parts.conditional_scale[: len(factor)].square() / factor.square().sum(-1)
    return bool(share.min() > 1 / SINGLE_FAR)  # of a column's variance that the other columns do not tell


def _apart(parts: GaussianComponents, frame: Frame, far: float, near: float) -> Tensor:
    """Which components lie so far from the origin that products about it would lose digits; (K,)."""
    away = parts.loc.double() - frame.origin
    if parts.lower is None:
        ratio = (away / parts.diagonal).square()
        return ~((ratio.amax(1) <= far) & (ratio.sum(1) <= near))
    factor = parts.scale_tril
    ratio = away.square() / factor.square().sum(-1)
    white = (triangular_inverse(factor) @ away[:, :, None]).square().sum((1, 2))
    # differences of a full factor's products lose as many digits as their size has, and not twice as many
    return ~((ratio.amax(1) <= far) & (white <= (near if parts.covariance == "tied" else far**2)))


def _centres_of_lost(parts: GaussianComponents, sums: Expected) -> dict[int, Tensor]:
    """The means of components whose variances would lose too many digits by a subtraction of what these sums hold."""
    moved = sums.first / sums.total.clamp(min=EMPTY)[:, None]
    between = moved.square() * sums.total[:, None]
    least = parts.floors * sums.total[:, None]
    second = sums.second.diagonal(dim1=-2, dim2=-1) if parts.lower is not None else sums.second
    if parts.covariance == "tied":
        between, least = between.sum(0, keepdim=True), least.sum(0, keepdim=True)
    elif parts.covariance == "spherical":
        between, least = between.sum(1, keepdim=True), parts.features * least
    lost = (second > FAR * torch.maximum(second - between, least)).any(1) & (sums.total > EMPTY)
    return {k: sums.loc[k] + moved[k] for k in lost.nonzero().flatten().tolist()}


def _rows_for(parts: GaussianComponents, blocks: Blocks, dtype: torch.dtype) -> int:
    """How many rows a block has under a covariance structure."""
    widest = max(last - first for first, last in parts_of_triangle(parts.features))
    numbers = parts.num_components * widest if parts.covariance == "full" else parts.num_components
    return _rows(max(numbers, 1 + 2 * parts.features), blocks, dtype)


def _rows(numbers: int, blocks: Blocks, dtype: torch.dtype = torch.float64) -> int:
    """How many rows a block has whose largest buffer has so many numbers for a row."""
    budget = BYTES if blocks.device.type == "cpu" else ON_ACCELERATOR
    # odd multiples of 32: at a distance of a power of two the entries of a column would share few places of a cache
    return max(64, min(2**16, budget // (numbers * dtype.itemsize)) // 64 * 64 - 32)
