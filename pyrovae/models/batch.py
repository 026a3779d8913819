"""A batch of items with what lies beside each of them: its covariates, its exposure, its weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = [
    "Batch",
    "called_on",
    "concatenated",
    "has_missing",
    "items_of",
    "keywords_of",
    "options_of",
    "rebuilt",
    "tensors_of",
    "weight_of",
]


@dataclass(frozen=True, eq=False)
class Batch:
    """Items `x` of shape (N, *event_shape), with `covariates` (N, D) and `exposure` (N,) where there are any.

    `weight`, (N,), says how many times each item counts, which a loss and a mean go by and no model sees. With
    `missing`, NaN in `x` is an entry that was not seen. A pair's model and guide are called as `model(batch.x,
    **batch.options)`. Length, device, dtype and shape are those of `x`; an index takes the same rows of all. Where
    nothing lies beside the items, the package hands on the tensor `x` itself (`Batch.of`).

    >>> import torch
    >>> from pyrovae import Batch
    >>> batch = Batch(torch.zeros(5, 3), covariates=torch.ones(5, 2))
    >>> len(batch[1:3]), sorted(batch.keywords)
    (2, ['covariates'])
    """

    x: Tensor
    covariates: Tensor | None = None
    exposure: Tensor | None = None
    weight: Tensor | None = None
    missing: Any = False  # True or False

    @staticmethod
    def of(
        x: Tensor,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
        weight: Tensor | None = None,
        missing: Any = False,
    ) -> Any:
        """A batch, or `x` itself where there is nothing beside it."""
        batch = Batch(x, covariates, exposure, weight, missing)
        return batch if batch.rows or missing else x

    @property
    def keywords(self) -> dict[str, Tensor]:
        """The covariates and the exposure, by the name of the argument of model and guide that takes them."""
        both = {"covariates": self.covariates, "exposure": self.exposure}
        return {name: value for name, value in both.items() if value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """All that model and guide are called with beside the items: `keywords`, and `missing` where it is so."""
        return {**self.keywords, "missing": True} if self.missing else self.keywords

    @property
    def rows(self) -> dict[str, Tensor]:
        """The tensors that have a row for each item, by name."""
        return self.keywords if self.weight is None else {**self.keywords, "weight": self.weight}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        """The rows of a slice or an index tensor as a batch; for one number the item itself."""
        if isinstance(index, int):
            return self.x[index]
        return self._each(lambda value: value[index])

    def with_items(self, x: Tensor) -> Batch:
        """Other items beside the same covariates, exposure and weight."""
        return replace(self, x=x)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """All tensors on another device or in another dtype, as by `Tensor.to`."""
        return self._each(lambda value: value.to(*args, **kwargs))

    def double(self) -> Batch:
        """All tensors in float64."""
        return self.to(torch.float64)

    def float(self) -> Batch:
        """All tensors in float32."""
        return self.to(torch.float32)

    def split(self, size: int) -> list[Batch]:
        """Successive batches of `size` items, the last of them smaller where N is no multiple of it."""
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]

    def chunk(self, count: int) -> list[Batch]:
        """At most `count` successive batches of about one size."""
        return self.split(-(-len(self) // count))

    @property
    def device(self) -> torch.device:
        """The device of the items."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the items."""
        return self.x.dtype

    @property
    def shape(self) -> torch.Size:
        """The shape of the items, (N, *event_shape)."""
        return self.x.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions of the items."""
        return self.x.ndim

    def numel(self) -> int:
        """The number of entries of the items."""
        return self.x.numel()

    def element_size(self) -> int:
        """The bytes of one entry."""
        return self.x.element_size()

    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor:
        """Zeros of the items' dtype and device."""
        return self.x.new_zeros(*args, **kwargs)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, x=function(self.x), **{name: function(value) for name, value in self.rows.items()})


def called_on(fn: Callable[..., Any], x: Any) -> Any:
    """Call a pair's model or guide on a tensor of items, or on a batch and what lies beside its items."""
    return fn(x.x, **x.options) if isinstance(x, Batch) else fn(x)


def items_of(x: Any) -> Tensor:
    """The items of a batch, or the tensor of items itself."""
    items: Tensor = x.x if isinstance(x, Batch) else x
    return items


def keywords_of(x: Any) -> dict[str, Tensor]:
    """The covariates and the exposure of a batch, by name; none of a plain tensor."""
    return x.keywords if isinstance(x, Batch) else {}


def options_of(x: Any) -> dict[str, Any]:
    """All that model and guide are called with beside the items of a batch; nothing of a plain tensor."""
    return x.options if isinstance(x, Batch) else {}


def has_missing(x: Any) -> bool:
    """Whether NaN in these items is an entry that was not seen."""
    return isinstance(x, Batch) and x.missing


def weight_of(x: Any) -> Tensor | None:
    """How many times each item of a batch counts, (N,); None where each counts once."""
    return x.weight if isinstance(x, Batch) else None


def tensors_of(x: Any) -> list[Tensor]:
    """The tensors of a batch, as the inputs of a graph; `rebuilt` puts such ones together again."""
    return [x.x, *x.rows.values()] if isinstance(x, Batch) else [x]


def rebuilt(like: Any, tensors: Sequence[Tensor]) -> Any:
    """A batch of these tensors in place of those of `like`; the first of them where `like` is a plain tensor."""
    if not isinstance(like, Batch):
        return tensors[0]
    return replace(like, x=tensors[0], **dict(zip(like.rows, tensors[1:], strict=True)))


def concatenated(parts: Sequence[Any]) -> Any:
    """The items of several batches one below the other."""
    return rebuilt(parts[0], [torch.cat(each) for each in zip(*map(tensors_of, parts), strict=True)])


# an argument of a compiled step is taken apart into its tensors
pytree.register_pytree_node(
    Batch,
    lambda batch: (tensors_of(batch), (tuple(batch.rows), batch.missing)),
    lambda values, context: Batch(
        values[0],  # type: ignore[index]
        missing=context[1],
        **dict(zip(context[0], values[1:], strict=True)),  # type: ignore[index]
    ),
)
