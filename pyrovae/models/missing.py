"""Items of which entries were not seen: the density of what was seen, and whether a pair can go by it.

NaN stands for an entry that was not seen, in a call that says `missing=True`; without it NaN is an error. The
density is that of the seen entries, the others being integrated out. Whether entries are missing must not depend on
their values, given what was seen (missing at random, Rubin 1976), for a fit to it to be one to the whole items.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.batch import Batch, has_missing, items_of, keywords_of
from pyrovae.models.pair import is_made_of_parts, likelihood_of

__all__ = [
    "OrMissing",
    "SeenEntries",
    "completed",
    "filling_of",
    "require_missing_taken",
    "sees_missing",
    "takes_missing",
    "warn_of_empty",
    "warn_of_rows_without_entries",
    "whole",
    "without_columns",
    "without_rows",
]

ROUNDS = 3  # of encoder and decoder, by which items are completed
_FOUND: dict[str, float] = {}
CANDIDATES = (0.0, 1.0, 0.5, 2.0, -1.0)  # one of which lies in most supports


def takes_missing(pair: Any) -> bool:
    """Whether model and guide take items with NaN and `missing=True`; False by default."""
    return bool(getattr(pair, "takes_missing", False))


def sees_missing(part: Any) -> bool:
    """Whether a posterior takes items with NaN where an entry is missing: a module of it says so, as `SeenInput`."""
    return isinstance(part, nn.Module) and any(getattr(each, "takes_missing", False) for each in part.modules())


def require_missing_taken(pair: Any, *, guide: bool = True, what: str = "x") -> None:
    """Refuse missing entries for a pair whose model, or where `guide` is needed whose guide, takes none."""
    if takes_missing(pair) or (not guide and is_made_of_parts(pair, "model")):
        return
    kind = type(pair).__name__
    stated = getattr(pair, "why_no_missing", None)  # a reason and what to do, of a pair that can never take them
    if stated is not None:
        raise ValueError(f"{what} has missing entries, and {stated}")
    advice = "build the pair with missing=True, as mlp_vae(..., missing=True): its encoder then sees what is missing"
    if guide and is_made_of_parts(pair, "guide"):
        why = f"the encoder of this {kind} takes whole items"
    elif hasattr(pair, "posterior"):
        why = f"the model or the guide of this {kind} is one of your own, which does not say that it takes them"
        advice = "let both take missing=True, and state takes_missing = True"
    else:
        why, advice = f"this {kind} takes whole items", "fill them first, or drop the items"
    raise ValueError(f"{what} has missing entries, and {why}: {advice}")


def warn_of_rows_without_entries(x: Tensor, name: str = "x", weight: Tensor | None = None) -> None:
    """Warn of items without a seen entry, which say nothing: their log-density is 0. Those of weight 0 are absent."""
    empty = x.flatten(1).isnan().all(1)
    present = torch.ones_like(empty) if weight is None else weight.to(empty.device) > 0
    empty = empty & present
    if bool(empty.any()):
        warn_of_empty(int(empty.sum()), int(present.sum()), int(empty.nonzero()[0]), name, x.ndim)


def warn_of_empty(number: int, total: int, first: int, name: str, ndim: int) -> None:
    """Warn of `number` of `total` items that have no seen entry, `first` being the index of the first."""
    checks.warn(
        f"{number} of {total} items of {name} have no entry that was seen, the first of them item {first}: they say "
        f"nothing of the parameters, and count in a mean as items with log p 0; {without_rows(name, ndim)}"
    )


def without_rows(name: str, ndim: int) -> str:
    """How to leave out the items of which nothing was seen, as advice."""
    flat = name if ndim == 2 else f"{name}.reshape(len({name}), -1)"
    return f"`{name}[~isnan({flat}).all(1)]` leaves them out, and `table[~table.missing.all(1)]` of a table"


def without_columns(name: str, shape: Sequence[int], columns: Sequence[str] = ()) -> str:
    """How to leave out columns of which nothing was seen, those of a table by their names, as advice."""
    if columns:
        return f"make the table without, by drop={list(columns)!r}, and build the pair of what is left"
    if len(shape) == 1:
        return f"`{name}[:, ~isnan({name}).all(0)]` leaves such columns out; build the pair of those that are left"
    return "give such an entry one value in all items, as 0"


def filling_of(likelihood: Any) -> Any:
    """A value at which entries have a density, which stands where none was seen: a number, or one for each entry.

    A family may state it as its `filling`. ValueError where none is found in the support.
    """
    stated = getattr(getattr(likelihood, "family", likelihood), "filling", None)
    if stated is not None:
        return stated
    support = getattr(likelihood, "support", None)
    if not isinstance(support, constraints.Constraint):
        return CANDIDATES[0]
    known = _FOUND.get(repr(support))  # looked up where a graph is made, in which nothing may depend on a value
    if known is not None:
        return known
    for value in CANDIDATES:
        if bool(support.check(torch.tensor(value)).all()):
            _FOUND[repr(support)] = value
            return value
    raise ValueError(
        f"entries may be missing where a value inside the support {support} is known to stand for them: state one as "
        f"`filling` of {type(getattr(likelihood, 'family', likelihood)).__name__}"
    )


def whole(pair: Any, x: Any) -> Any:
    """The items with a value of the support in place of each missing entry, as whole ones."""
    if not has_missing(x):
        return x
    items = items_of(x)
    likelihood = likelihood_of(pair)
    stated = filling_of(pair if likelihood is None else likelihood)
    filling = torch.as_tensor(stated, dtype=items.dtype, device=items.device)
    return Batch.of(torch.where(items.isnan(), filling, items), **x.rows)


def completed(pair: Any, x: Any) -> Any:
    """Whole items for an encoder that takes no others: what is missing is what encoder and decoder make of the rest.

    A start for a search, and nothing to be counted on. Items of a pair that takes missing ones are given back.
    """
    if not has_missing(x) or takes_missing(pair):
        return x
    filled, seen = whole(pair, x), ~items_of(x).isnan()
    given = keywords_of(filled)
    with torch.no_grad(), suppress(Exception):  # entries without a mean, parts of one's own
        for _ in range(ROUNDS):
            mean = pair.reconstruct(items_of(filled), **given)
            items = torch.where(seen, items_of(x), mean)
            filled = filled.with_items(items) if isinstance(filled, Batch) else items
    return filled


class SeenEntries(TorchDistribution):
    """The distribution of the seen entries of an item, NaN being one that was not seen: their terms, summed.

    `p` is a distribution over an item whose entries are independent, and `filling` a value of their support. Draws and
    the mean are those of whole items. ValueError where the entries of `p` depend on each other.

    >>> import torch
    >>> import pyro.distributions as dist
    >>> from pyrovae.models.missing import SeenEntries
    >>> p = SeenEntries(dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), 0.0)
    >>> p.log_prob(torch.tensor([[0.0, torch.nan, 0.0], [torch.nan, torch.nan, torch.nan]]))
    tensor([-1.8379,  0.0000])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, p: Any, filling: Any) -> None:
        base, size = getattr(p, "base_dist", None), len(p.event_shape)
        if base is None or base.event_shape or tuple(base.batch_shape[-size:]) != tuple(p.event_shape):
            raise ValueError(
                "entries may be missing where they are independent given the code, one term per entry, so that those "
                f"of missing ones are left out; got {type(p).__name__} with event shape {tuple(p.event_shape)}"
            )
        self.p, self.filling = p, filling
        super().__init__(p.batch_shape, p.event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """That of `p`, and NaN."""
        return OrMissing(self.p.base_dist.support, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of whole items."""
        mean: Tensor = self.p.mean
        return mean

    def expand(self, batch_shape: Any, _instance: Any = None) -> SeenEntries:
        return SeenEntries(self.p.expand(batch_shape), self.filling)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        draws: Tensor = self.p.sample(torch.Size(sample_shape))
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        seen = ~x.isnan()
        filling = torch.as_tensor(self.filling, dtype=x.dtype, device=x.device)
        terms = self.p.base_dist.log_prob(torch.where(seen, x, filling))
        return torch.where(seen, terms, 0.0).flatten(terms.ndim - len(self.event_shape)).sum(-1)


class OrMissing(constraints.Constraint):
    """Items whose seen entries satisfy a constraint on entries, `base`; NaN is one that was not seen."""

    def __init__(self, base: Any, event_dim: int) -> None:
        self.base = base
        self.is_discrete, self.event_dim = bool(base.is_discrete), event_dim

    def check(self, value: Tensor) -> Tensor:
        inside = self.base.check(value) | value.isnan()
        return inside.flatten(value.ndim - self.event_dim).all(-1)
