"""Checks of items against a pair: their shape, finiteness, support and dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks, rounding
from pyrovae.columns import Column
from pyrovae.listed import listed
from pyrovae.models.batch import Batch
from pyrovae.models.pair import (
    columns_of,
    covariate_dim_of,
    dtype_and_device,
    entries_of,
    likelihood_of,
    support_of,
    takes_exposure,
)
from pyrovae.models.registry import plain_name_of

ENOUGH_ROWS = 10  # of covariates, from which on their spread says what may be rounded

__all__ = [
    "checked_batch",
    "checked_beside",
    "checked_items",
    "plate_size",
    "require_columns",
    "require_exposures_alike",
    "warn_of_codes",
]


def plate_size(x: Tensor | None, size: int, event_shape: tuple[int, ...]) -> int:
    """The size of a plate: the number of items in `x`, or `size` where x is None and items are drawn."""
    if x is None:
        return checks.whole("size", size, bytes_each=4 * math.prod(event_shape))
    if not isinstance(x, Tensor | Batch):
        raise TypeError(f"x must be a tensor of items, (N, {', '.join(map(str, event_shape))}), got {type(x).__name__}")
    if isinstance(x, Tensor):
        checks.dense(x, "x")
    if not len(x):
        raise ValueError(f"x is empty: expected at least one item of shape {event_shape}")
    return len(x)


def checked_items(
    pair: Any,
    x: Any,
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    index_offset: int | None = None,
    support: constraints.Constraint | None = None,
    hint: str = checks.WHOLE,
    least_scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Check that items have a density under the pair, and return them as a tensor in `dtype`, or in the pair's own.

    Shape, finiteness and support are checked in the dtype that the items come in, and items that the pair's own dtype
    does not hold are refused (`checks.checked_cast`). `x` is an array or a split of a data set. With `missing`, NaN is
    an entry that was not seen. `support` takes the place of the likelihood's support, where the items are to be
    binarised first. `index_offset` is the index of the first item where `x` is a part of more items, and None where `x`
    is all of them. `least_scale` gives the standard deviations that the columns have at the least (see
    `checks.checked_cast`): a few items that lie close together say too little of that. Raises ValueError and TypeError
    that name the argument.
    """
    missing = checks.flag("missing", missing)
    require_columns(pair, None if checks.parts_of(x, name)[0] is x else getattr(x, "columns", None), name)
    pair_dtype = dtype_and_device(pair)[0]
    as_given = checks.checked_in_own_dtype(
        x, tuple(pair.event_shape), name=name, allow_nan=missing, index_offset=index_offset or 0, hint=hint
    )
    allowed = support or support_of(pair)
    family = _family_name(pair)
    if allowed is not None:
        checks.support(as_given, allowed, family, name=name)
    items = checks.checked_cast(as_given, pair_dtype, name=name, whole=index_offset is None, least_scale=least_scale)
    if allowed is not None and not checks.lives_in_unit(allowed) and rounding.is_wider(as_given.dtype, pair_dtype):
        checks.support_once_rounded(items, allowed, family, name=name)
    return items if dtype in (None, pair_dtype) else as_given.to(dtype)


def _family_name(pair: Any) -> str:
    """The name of the family that scores the items, as an error says it."""
    likelihood = likelihood_of(pair)
    if likelihood is not None:
        return plain_name_of(getattr(likelihood, "family", likelihood))
    family = getattr(pair, "family", None)
    return family if isinstance(family, str) else type(pair).__name__


def checked_batch(
    pair: Any, x: Any, *, name: str = "x", takes: Collection[str] = (), what: str = "this", **options: Any
) -> Any:
    """Items by `checked_items`, with what a split has beside them, checked: a `Batch`.

    A tensor where nothing lies beside the items. `takes` names which of "weight" and "missing" the caller, `what` in an
    error, can use. Raises ValueError for what is missing beside them, too.
    """
    given = checks.split_of(x, name=name, takes=takes, what=what)
    require_columns(pair, given.columns, name)
    some = given.missing is not None
    items = checked_items(pair, checks.with_missing(given.x, given.missing, name), name=name, missing=some, **options)
    beside = checked_beside(pair, given.covariates, given.exposure, len(items), dtype=items.dtype, name=name)
    if given.weight is not None:
        beside["weight"] = checks.weights(given.weight, len(items), name=name).to(items.dtype)
    some = some and bool(items.isnan().any())
    return Batch.of(items, **{each: value.to(items.device) for each, value in beside.items()}, missing=some)


def require_columns(pair: Any, columns: Any, name: str = "x") -> None:
    """Refuse the rows of a table for a pair of another one: its codes would stand for other categories.

    Names are compared, kinds, and categories with their order. Items without columns, and pairs of other items, pass.
    """
    own = columns_of(pair)
    if own is None or columns is None or tuple(columns) == own:
        return
    kind, given = type(pair).__name__, tuple(columns)
    advice = "read the frame as the table was that the pair was built for, by table.like(frame)"
    if len(given) != len(own):
        raise ValueError(f"{name} is a table of {len(given)} columns, and this {kind} is one of {len(own)}: {advice}")
    j = next(i for i in range(len(own)) if given[i] != own[i])
    raise ValueError(
        f"column {j} of {name} is {_in_words(given[j])}, and this {kind} was built for {_in_words(own[j])}: {advice}"
    )


def warn_of_codes(pair: Any, columns: Any, name: str = "x") -> None:
    """Warn where a model of numbers is given the codes of categories, whose differences mean nothing.

    Of columns that are ordinal too; a binary one has a difference and no more. A pair that knows its columns, one of
    categories alone, and one of a user's own that says nothing of its entries may know what a code is.
    """
    if not columns or not _takes_numbers(pair):
        return
    named = [f"{each.name!r} ({each.kind})" for each in columns if each.kind in ("categorical", "ordinal")]
    if not named:
        return
    one = len(named) == 1
    checks.warn(
        f"column{'' if one else 's'} {listed(named)} of {name} {'has' if one else 'have'} codes of "
        f"categories, and this {type(pair).__name__} takes them for numbers, as if the second category lay between the "
        "first and the third: take table_vae(columns) or ColumnMixture(columns, num_components), which give each "
        "category a probability; drop them; or, where the codes are numbers, state kinds={name: 'real'} in data.table"
    )


def _takes_numbers(pair: Any) -> bool:
    """Whether a pair is known to take its entries for numbers: no part knows columns, and they are no categories."""
    if any(columns_of(each) is not None for each in pair.modules()) or hasattr(entries_of(pair), "probabilities"):
        return False
    return support_of(pair) is not None or type(pair).__module__.startswith("pyrovae.")


def _in_words(column: Column) -> str:
    shown = "" if column.categories is None else f", its codes standing for {', '.join(map(repr, column.categories))}"
    return f"{column.name!r}, {column.kind}{shown}"


def require_exposures_alike(first: str, has_first: bool, second: str, has_second: bool, verb: str = "comes") -> None:
    """An exposure that is left out is 1: ValueError where one of two parts that belong together has one alone."""
    if has_first == has_second:
        return
    with_it, without = (first, second) if has_first else (second, first)
    raise ValueError(
        f"{with_it} {verb} with an exposure and {without} without one, which would be taken for 1: give that of "
        f"{without} too, by a data.Split(items, exposure=e)"
    )


def checked_beside(
    pair: Any,
    covariates: Any,
    exposure: Any,
    count: int,
    *,
    spread: bool = False,
    dtype: torch.dtype | None = None,
    name: str = "x",
) -> dict[str, Tensor]:
    """The covariates (N, D) and the exposure (N,) of `count` items, checked, in the pair's dtype and on its device.

    With `spread` one row of covariates, (D,), and one number for an exposure stand for all items. Raises ValueError for
    covariates that the pair needs and that did not come, for what the pair does not take, for another shape than that
    of the items, for covariates that are not finite, and for an exposure that is not positive and finite.
    """
    beside: dict[str, Tensor] = {}
    kind, size, of = type(pair).__name__, covariate_dim_of(pair), "" if name == "x" else f" of {name}"
    if covariates is None and size:
        raise ValueError(
            f"covariates{of} are needed: this {kind} is one of items given {size} covariate{'s' if size > 1 else ''} "
            f"each. Give covariates=c of shape ({count}, {size}), or a data.Split that carries them"
        )
    if covariates is not None and not size:
        raise ValueError(
            f"covariates{of} came, and this {kind} takes none: leave them out, or build the pair with covariate_dim=. "
            "A pair of your own whose model and guide take covariates= states covariate_dim, their number"
        )
    if exposure is not None and not takes_exposure(pair):
        raise ValueError(
            f"exposure{of} came, and this {kind} takes none: it multiplies the means of counts, as of "
            "likelihood='poisson'. A pair of your own whose model and guide take exposure= states takes_exposure = True"
        )
    if covariates is not None:
        value = checks.array(covariates, f"covariates{of}")
        if spread and value.ndim == 1 and len(value) == size:
            value = value.expand(count, size)
        if value.shape != (count, size):
            whole = value.ndim == 1 and not value.is_floating_point()
            hint = "; data.one_hot(y) makes columns of categories" if whole and size > 1 else ""
            hint = "; c[:, None] is one column" if value.ndim == 1 and size == 1 else hint
            raise ValueError(
                f"covariates{of} must have shape ({count}, {size}), a row for each item and the {size} columns that "
                f"the pair was built with, got {tuple(value.shape)}{hint}"
            )
        beside["covariates"] = _cast(pair, value, "covariates", of, dtype)
    if exposure is not None:
        value = checks.array(exposure, f"exposure{of}")
        if spread and value.ndim == 0:
            value = value.expand(count)
        if value.shape != (count,):
            hints = {0: f"; torch.full(({count},), {float(value):g}) is one for all" if not value.ndim else ""}
            hint = "; e.ravel() of a column" if value.shape == (count, 1) else hints.get(value.ndim, "")
            raise ValueError(
                f"exposure{of} must have shape ({count},), one number for each item, got {tuple(value.shape)}{hint}"
            )
        beside["exposure"] = _cast(pair, value, "exposure", of, dtype)
        if bool((beside["exposure"] <= 0).any()):
            first = int((beside["exposure"] <= 0).nonzero()[0])
            raise ValueError(
                f"exposure{of} must be positive, for it multiplies the mean of an item's counts; that of item {first} "
                f"is {float(value[first]):g}"
            )
    return beside


def _cast(pair: Any, value: Tensor, name: str, of: str, dtype: torch.dtype | None) -> Tensor:
    """A finite value in `dtype`, or in the pair's, on its device."""
    own, device = dtype_and_device(pair)
    cast = value.to(device, dtype or own)
    if not bool(cast.isfinite().all()):
        first = (~cast.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{name}{of} must be finite, and entry {first} is {value[tuple(first)].item():g} (in {cast.dtype}): drop "
            "these items, or fill what is missing"
        )
    if name == "covariates" and len(value) >= ENOUGH_ROWS:
        checks.checked_cast(value, cast.dtype, name=f"{name}{of}")
    return cast
