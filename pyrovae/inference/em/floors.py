"""Warnings of the variance floor, which name the columns and the components that it holds up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from pyrovae import checks
from pyrovae.listed import listed
from pyrovae.models.components import GaussianComponents
from pyrovae.models.covariance import share_at_floor

__all__ = ["VarianceFloorWarning", "columns_in_words", "warn_of_floor"]


class VarianceFloorWarning(UserWarning):
    """The variance floor acts: on columns that do not vary, or on components of too few distinct items."""


def warn_of_floor(parts: GaussianComponents, at_floor: Tensor, variance: Tensor, names: Sequence[str]) -> None:
    """Warn of columns that vary by less than the variance floor, and of components at the floor for another reason.

    `variance`, of the shape of an item, is that of each column over all items.
    """
    shape, variance = variance.shape, variance.flatten()
    floors = parts.floors.expand_as(variance)
    still = variance < floors
    if still.any():
        checks.warn(
            f"x varies by less than the variance floor {float(floors[still].max()):g} in "
            f"{columns_in_words(still.nonzero()[:, 0], shape)} (by {float(variance[still].max()):.2g} at most): the "
            "floor stands for their variance, and log p(x) depends on it; leave them out, scale x, or set the floor",
            VarianceFloorWarning,
        )
    words = []
    for k, load, low in _loads(parts, at_floor.nonzero().flatten().tolist()):
        if low > int(still.sum()):
            name = "the tied covariance" if parts.covariance == "tied" else names[k]
            worst = load.masked_fill(still, 0.0).argmax()
            words.append(f"{name} (most of all in {columns_in_words(worst[None], shape)})")
    if words:
        least = f"{parts.relative:g} of a column's variance" if parts.floor is None else f"{parts.floor:g}"
        checks.warn(
            f"the variance floor {least} holds up {listed(words)}: columns that depend on one "
            "another, too few distinct items, or a floor over what x varies by; another covariance needs fewer items",
            VarianceFloorWarning,
        )


def _loads(parts: GaussianComponents, which: list[int]) -> Iterator[tuple[int, Tensor, int]]:
    """For each component in `which`: its index, each column's load on the directions at the floor, and their number."""
    if not which:
        return
    if parts.lower is None:
        variance = parts.diagonal.square().expand(parts.num_components, parts.features)
        for k in which:
            low = variance[k] < 1.01 * parts.floors
            yield k, low.double(), int(low.sum())
        return
    factor = parts.scale_tril
    for k in which:
        share, vector = share_at_floor(factor[k] @ factor[k].mT, parts.floors)
        low = share > 1 / 2.01  # of eigenvalues under 1.01 floors
        yield k, vector[:, low].square().sum(1), int(low.sum())


def columns_in_words(which: Tensor, event_shape: Sequence[int]) -> str:
    """The columns of items of that shape in the words of an index, such as x[:, 0, 3]."""
    places = np.stack(np.unravel_index(which.cpu().numpy(), tuple(event_shape)), 1)
    names = [f"x[:, {', '.join(map(str, place))}]" for place in places.tolist()]
    return listed(names, what="columns")
