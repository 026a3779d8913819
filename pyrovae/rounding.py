"""Whether a dtype with fewer digits than the numbers have still holds them well enough for a density.

The rule: a dtype holds a column where rounding moves none of its entries by more than a thousandth of the column's
standard deviation. That is so wherever no entry is further from 0 than 16,000 standard deviations (float32), and means
that a variance is right to a millionth and a mean to a thousandth of its unit. The standard deviation of few items is
uncertain: it is taken as large as it may be, at odds of one in a million, so that two items that happen to be close
are no reason to refuse them, and one item is none. A column whose spread is what float64's own rounding leaves is a
constant, and a constant is held. Half precision is not judged: who asks for three digits knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["LostColumn", "is_wider", "largest", "lost_columns", "spread", "spread_as_in"]

TOLERANCE = 1e-3  # of a column's standard deviation, that rounding may move an entry by
CONSTANT = 2.0**-46  # of a column's largest entry: such a spread may be rounding's in float64
ODDS = 1e-6
SAMPLE = 1024  # items that settle most columns
CHUNK = 2**17  # entries that are looked at together: they stay in a processor's cache

_DIGITS = {
    torch.bool: 1,
    torch.uint8: 8,
    torch.int8: 7,
    torch.int16: 15,
    torch.int32: 31,
    torch.int64: 63,
    torch.bfloat16: 8,
    torch.float16: 11,
    torch.float32: 24,
    torch.float64: 53,
}

Read = Callable[[slice], Tensor]  # some of the items, as they came


@dataclass(frozen=True)
class LostColumn:
    """A column of flattened items that a dtype does not hold."""

    column: int
    mean: float
    sd: float
    error: float  # the largest that rounding makes

    def is_held_by(self, sd: float) -> bool:
        """Whether the error is small beside another standard deviation, that is known to be the column's."""
        return self.error <= TOLERANCE * sd


def is_wider(source: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether `source` has numbers that `dtype` rounds, or that are beyond its range."""
    ranges = source.is_floating_point and torch.finfo(source).max > torch.finfo(dtype).max
    return ranges or _DIGITS[source] > _DIGITS[dtype]


def largest(x: Tensor) -> float:
    """The largest absolute value, NaN apart; 0 where there is none."""
    x = x.detach()
    if x.dtype == torch.bool:
        return float(x.any())
    most = _reach(x)
    if most != most:  # NaN somewhere
        parts = x.split(max(1, CHUNK // max(1, x[0].numel())))
        most = max(_reach(part.nan_to_num(0.0, torch.inf, -torch.inf)) for part in parts)
    return most


def spread(items: Tensor) -> Tensor:
    """The standard deviation of each column of items in a dtype that holds them; (D,), in float64. NaN is missing."""
    x = items.detach().flatten(1).double()
    seen = ~x.isnan()
    if bool(seen.all()):
        return x.var(0, correction=0).sqrt()
    count = seen.sum(0).clamp(min=1)
    return torch.where(seen, x - x.nansum(0) / count, 0.0).square().sum(0).div(count).sqrt()


def spread_as_in(reference: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of items that gives the spread of `reference` whatever they are.

    It is for items from the source of `reference` that are few and lie close together: by themselves they say too
    little of how wide that source is.
    """
    return lambda _: spread(reference)


def _reach(x: Tensor) -> float:
    least, most = torch.aminmax(x)
    return max(-float(least), float(most))


def lost_columns(read: Read, count: int, dtype: torch.dtype, most: float) -> list[LostColumn]:
    """The columns that `dtype`, float32 or float64, does not hold, of the `count` items that `read` gives by slices.

    `most` is the largest absolute value of all. NaN is missing and is not looked at.
    """
    if dtype not in (torch.float32, torch.float64) or count < 2:
        return []
    first = read(slice(0, 1))
    source = first.dtype
    if not is_wider(source, dtype) or (not source.is_floating_point and most <= 2 ** _DIGITS[dtype]):
        return []
    wanted = max(2, min(SAMPLE, 8 * CHUNK // max(1, first.numel())))
    sample = _flat(read(slice(0, count, max(1, count // wanted))))
    # no rounding error is over `bound`, and no variance under the sample's share of it
    bound = max(most * torch.finfo(dtype).eps / 2, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)
    _, squares, _, seen = _moments([sample], sample[0], dtype)
    open_columns = (bound > TOLERANCE * (squares / count).sqrt()).nonzero()[:, 0]
    if not len(open_columns):
        return []
    rows = max(1, CHUNK // sample.shape[1])

    def parts() -> Iterator[Tensor]:
        for start in range(0, count, rows):
            yield _flat(read(slice(start, start + rows)))[:, open_columns]

    mean, squares, error, seen = _moments(parts(), sample[0, open_columns], dtype)
    sd = (squares / seen.clamp(min=1)).sqrt()
    varies = sd > (CONSTANT * (mean.abs() + sd) if source.is_floating_point else 0.0)
    counted = sd * _doubt(seen).to(sd)
    lost = (varies & (error > TOLERANCE * counted)).nonzero()[:, 0]
    return [LostColumn(int(open_columns[i]), *(float(value[i]) for value in (mean, sd, error))) for i in lost.tolist()]


def _flat(x: Tensor) -> Tensor:
    return x.detach().reshape(len(x), -1)


def _moments(parts: Iterator[Tensor] | list[Tensor], origin: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each column's mean, sum of squares about it, largest rounding error, and number of entries seen, in one pass.

    (Chan, Golub and LeVeque 1983, equation 1.5.)
    """
    mean = torch.zeros(origin.shape, dtype=torch.float64, device=origin.device)
    squares, error, seen = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
    whole = not origin.dtype.is_floating_point
    for part in parts:
        rounded = part.to(dtype).double()
        if whole:  # of 63 digits, which float64 does not hold: differences are exact
            part = part.long()
            value = _difference(part, origin.long())
            off = _difference(part, rounded.clamp(max=2.0**63 - 1024).long()).abs()
            here = torch.full_like(mean, len(part))
        else:
            off = (part.double() - rounded).abs().nan_to_num(0.0)
            value, here = part.double(), (~part.isnan()).sum(0).double()
        part_mean = value.nansum(0) / here.clamp(min=1)
        deviation = (value - part_mean).square_().nansum(0)
        total = (seen + here).clamp(min=1)
        squares += deviation + (part_mean - mean).square() * seen * here / total
        mean += (part_mean - mean) * here / total
        seen, error = seen + here, torch.maximum(error, off.amax(0))
    return (mean + origin.double() if whole else mean), squares, error, seen


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Integers' difference in float64, where int64 may overflow and float64 would round each of them."""
    return ((a >> 1) - (b >> 1)).double() * 2 + ((a & 1) - (b & 1)).double()


def _doubt(seen: Tensor) -> Tensor:
    """How many times the items' standard deviation a normal distribution's may be, at odds of `ODDS`."""
    from scipy.special import gammaincinv

    half = (seen.clamp(min=2).cpu().numpy() - 1) / 2
    return torch.from_numpy(np.sqrt(half / gammaincinv(half, ODDS)))
