"""The location and scale of the columns of items, measured on the training part, and the layers that go by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.listed import listed

__all__ = [
    "InUnits",
    "Moments",
    "Standardizable",
    "Standardized",
    "Standardizer",
    "in_units",
    "standardize_columns",
    "standardizer_of",
    "taken",
]

Sees = Literal["identity", "log", "log1p"]
SEES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "log": lambda x: x.clamp(min=torch.finfo(x.dtype).tiny).log(),
    "log1p": torch.log1p,
}


class Standardizer(nn.Module):
    """The location and scale of each column: t(x) = loc + scale u, with t the identity, log or log(1 + x).

    `fit` measures both on its training items, the mean and the standard deviation of t(x) over the entries that were
    seen, before the first step of the first fit. They are buffers from then on: saved with the pair, and kept by a
    second fit. Before it they are 0 and 1. The likelihood and the encoder of a pair share one.

    `shape` is that of `loc` and `scale`, and broadcasts against items: (D,) for the columns of a table, (C, 1, 1) for
    the channels of images. `columns` are the columns of x that it is of, all of them by default, and `names` what
    warnings call them.

    >>> import torch
    >>> from pyrovae.models.parts.standardizer import Standardizer
    >>> standardizer = Standardizer((2,))
    >>> standardizer.measure([(torch.tensor([[1.0, 10.0], [3.0, torch.nan], [5.0, 30.0]]), None)])
    >>> standardizer.loc, standardizer.scale
    (tensor([ 3., 20.], dtype=torch.float64), tensor([ 1.6330, 10.0000], dtype=torch.float64))
    """

    loc: Tensor
    scale: Tensor
    measured: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        sees: Sees = "identity",
        columns: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.sees = checks.choice("sees", sees, SEES)
        self.shape = tuple(shape)
        self.columns = None if columns is None else tuple(columns)
        self.names = None if names is None else tuple(names)
        # no figure of a date or a price is lost
        self.register_buffer("loc", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64))

    @property
    def is_measured(self) -> bool:
        """Whether location and scale are those of items."""
        return bool(self.measured)

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Set location and scale to those of all items of `batches`, pairs of x (N, *event_shape) and weights (N,).

        NaN is an entry that was not seen. An item of weight w counts as w items, and None stands for weights of 1. A
        column of one value has no scale: 1 takes its place, and a warning names it.
        """
        moments = Moments(self.shape)
        for x, weight in batches:
            moments.add(self.seen_as(x), weight)
        loc, scale = moments.loc, moments.scale
        is_constant = scale == 0
        self.loc.copy_(loc)
        self.scale.copy_(torch.where(is_constant, 1.0, scale))
        self.measured.fill_(1)
        if bool(is_constant.any()):
            self._warn_of(is_constant, moments)

    def seen_as(self, x: Tensor) -> Tensor:
        """t(x) of its own columns: x (..., *event_shape) to (..., *event_shape), or to (..., D) of `columns`."""
        return SEES[self.sees](taken(x, self.columns))

    def standardized(self, x: Tensor) -> Tensor:
        """u = (t(x) - loc) / scale of its own columns."""
        t = self.seen_as(x)
        return (t - self.loc.to(t)) / self.scale.to(t)

    def restored(self, u: Tensor) -> Tensor:
        """t(x) = loc + scale u."""
        return self.loc.to(u) + self.scale.to(u) * u

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"shape={self.shape}, sees={self.sees!r}" + ("" if self.columns is None else f", columns={self.columns}")

    def _warn_of(self, is_constant: Tensor, moments: Moments) -> None:
        which = is_constant.flatten().nonzero().flatten().tolist()
        loc, is_seen = moments.loc.flatten(), moments.total.flatten() > 0
        said = [
            f"{self._name_of(j)} (all {_untransformed(float(loc[j]), self.sees):g})"
            if is_seen[j]
            else f"{self._name_of(j)} (not seen at all)"
            for j in which
        ]
        one = len(which) == 1
        checks.warn(
            f"{'column' if one else 'columns'} {listed(said)} of x {'has' if one else 'have'} no two values "
            f"in the training items: {'its' if one else 'their'} scale is taken for 1. Leave "
            f"{'it' if one else 'them'} out, for a model learns nothing from a constant"
        )

    def _name_of(self, j: int) -> str:
        if self.names is not None:
            return repr(self.names[j])
        place = j if self.columns is None else self.columns[j]
        return f"x[:, {place}]"


class Moments:
    """The mean and the standard deviation of each column over what was seen, from batch to batch, in float64."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.total = torch.zeros(self.shape, dtype=torch.float64)
        self._first = torch.full(self.shape, torch.nan, dtype=torch.float64)
        self._sums = torch.zeros(2, *self.shape, dtype=torch.float64)

    def add(self, t: Tensor, weight: Tensor | None = None) -> None:
        """Take in a batch (N, *event_shape), in which NaN is an entry that was not seen."""
        t = t.detach().double().cpu()
        w = torch.ones(len(t), dtype=torch.float64) if weight is None else weight.detach().double().cpu()
        w = w.reshape(-1, *[1] * (t.ndim - 1)) * ~t.isnan()
        pooled = [1 + i for i, size in enumerate(self.shape) if size == 1 != t.shape[1 + i]]
        if pooled:  # entries of a channel count as rows of it
            t, w = (each.movedim(pooled, [*range(1, 1 + len(pooled))]).flatten(0, len(pooled)) for each in (t, w))
            t, w = (each.reshape(-1, *self.shape) for each in (t, w))
        # about a value of the column, so that a constant has a spread of exactly 0
        self._first = torch.where(self._first.isnan(), _first_seen(t, w), self._first)
        d = torch.where(w > 0, t - self._first, 0.0)
        self.total += w.sum(0)
        self._sums += torch.stack([(w * d).sum(0), (w * d.square()).sum(0)])

    @property
    def loc(self) -> Tensor:
        """The mean; 0 of a column that was not seen."""
        mean = self._sums[0] / self.total.clamp(min=torch.finfo(torch.float64).tiny)
        return torch.where(self.total > 0, self._first + mean, 0.0)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, sqrt(mean (t - loc)^2); 0 of a column of one value, or of none."""
        total = self.total.clamp(min=torch.finfo(torch.float64).tiny)
        mean, square = self._sums / total
        return (square - mean.square()).clamp(min=0).sqrt()


class Standardizable(nn.Module):
    """A family whose location may be stated in the standard deviations of its columns: `standardize` takes them.

    The network's first output of an entry then goes through `InUnits`, and a scale that is learned is one of the
    column's: `unit` times what it is by itself. `sees` says of what function of x the location is.
    """

    sees: Sees = "identity"

    def standardize(self, standardizer: Standardizer) -> None:
        """Go by the location and scale of these columns; ValueError for a link that keeps the location in [0, 1]."""
        if getattr(self, "link", "identity") != "identity":
            raise ValueError(
                f"{type(self).__name__}(link='sigmoid') keeps its mean in [0, 1], and standardize=True is for items in "
                "units of their own: leave out one of the two"
            )
        self.standardizer = standardizer

    @property
    def unit(self) -> Tensor | None:
        """The scale of each column, None where none is measured."""
        standardizer = standardizer_of(self)
        return None if standardizer is None else standardizer.scale


class InUnits(nn.Module):
    """The last layer of a decoder: standardised locations, in the items' units or in logarithms of them.

    Of a family of `num_parameters` per entry, (..., K, *event_shape), the first is the location.

    >>> import torch
    >>> from pyrovae.models.parts.standardizer import InUnits, Standardizer
    >>> standardizer = Standardizer((2,))
    >>> standardizer.loc += 5.0
    >>> InUnits(standardizer)(torch.zeros(1, 2))
    tensor([[5., 5.]])
    """

    def __init__(self, standardizer: Standardizer, num_parameters: int = 1, event_dim: int = 1) -> None:
        super().__init__()
        self.standardizer, self.num_parameters, self.event_dim = standardizer, num_parameters, event_dim

    def forward(self, raw: Tensor) -> Tensor:
        if self.num_parameters == 1:
            return self.standardizer.restored(raw)
        axis = raw.ndim - self.event_dim - 1
        first, rest = raw.split([1, self.num_parameters - 1], axis)
        return torch.cat([self.standardizer.restored(first), rest], axis)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"num_parameters={self.num_parameters}, event_dim={self.event_dim}"


class Standardized(nn.Module):
    """The first layer of an encoder: items, or logarithms of them, in standard deviations from the mean."""

    def __init__(self, standardizer: Standardizer) -> None:
        super().__init__()
        self.standardizer = standardizer

    def forward(self, x: Tensor) -> Tensor:
        return self.standardizer.standardized(x)


def standardizer_of(family: Any) -> Standardizer | None:
    """The location and scale that a family goes by; None by default."""
    standardizer: Standardizer | None = getattr(family, "standardizer", None)
    return standardizer


def standardize_columns(family: Any, event_shape: Sequence[int], wanted: bool = True) -> None:
    """Let a family go by the location and scale of each column of items, or of each channel of images.

    Raises ValueError for a family that cannot, as one of counts or of codes, and TypeError for a `wanted` that is no
    boolean.
    """
    if not isinstance(wanted, bool):
        raise TypeError(f"standardize must be True or False, got {wanted!r}")
    if not wanted:
        return
    if not isinstance(family, Standardizable):
        raise ValueError(
            "standardize=True is for a likelihood of real values, as 'normal', 'student_t' or 'laplace', or of "
            f"positive ones, as 'log_normal' or 'gamma', and {type(family).__name__} has no scale of its columns: "
            "leave it out. A family of your own inherits from pyrovae.models.parts.standardizer.Standardizable"
        )
    if standardizer_of(family) is not None:
        raise ValueError(f"{type(family).__name__} is standardised already: make a new one for this pair")
    shape = checks.sizes("event_shape", event_shape)
    family.standardize(Standardizer((shape[0], *[1] * (len(shape) - 1)), sees=family.sees))


def in_units(decoder: nn.Module, family: Any, event_shape: Sequence[int]) -> nn.Module:
    """The decoder of a family, its locations in the items' units where the family goes by a `Standardizer`."""
    standardizer = standardizer_of(family)
    if standardizer is None:
        return decoder
    count: int = getattr(family, "num_parameters", 1)
    return nn.Sequential(decoder, InUnits(standardizer, count, len(event_shape)))


def taken(x: Tensor, columns: Sequence[int] | None) -> Tensor:
    """Some columns of rows, (..., D) to (..., d), in this order; all of them for None.

    Neighbours are taken together, as slices: an index of integers would be a tensor made anew at each call.

    >>> import torch
    >>> from pyrovae.models.parts.standardizer import taken
    >>> taken(torch.arange(5.0), (3, 0, 1))
    tensor([3., 0., 1.])
    """
    if columns is None or list(columns) == list(range(x.shape[-1])):
        return x
    parts, start = [], 0
    for i in range(1, len(columns) + 1):
        if i == len(columns) or columns[i] != columns[i - 1] + 1:
            parts.append(x[..., columns[start] : columns[i - 1] + 1])
            start = i
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _first_seen(t: Tensor, w: Tensor) -> Tensor:
    """The first entry of each column with a weight, NaN where there is none."""
    is_seen = w > 0
    row = is_seen.to(torch.uint8).argmax(0, keepdim=True)  # the first of the largest
    return torch.where(is_seen.any(0), t.gather(0, row)[0], torch.nan)


def _untransformed(value: float, sees: str) -> float:
    t = torch.tensor(value, dtype=torch.float64)
    return float({"identity": t, "log": t.exp(), "log1p": t.expm1()}[sees])
