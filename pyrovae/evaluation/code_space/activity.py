"""The number of code dimensions that vary over the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes
from pyrovae.labelled import labelled
from pyrovae.models import activity

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["active_units"]


def active_units(loc: Any, *, threshold: float = activity.ACTIVE_VARIANCE, weight: Any = None) -> xr.Dataset:
    """The number of code dimensions whose posterior mean varies over the items: Var_x E[z_d | x] > `threshold`.

    `loc` has shape (N, latent_dim); the variance has the divisor N - 1. `weight`, (N,), says how many
    times each item counts, and N is then their sum. Raises ValueError for another shape and for a
    single item. Burda et al. 2016, section 5.

    >>> from pyrovae import active_units
    >>> int(active_units([[0.0, 1.0], [1.0, 1.0]]).active_units)
    1
    """
    if weight is not None:
        loc = checks.without_absent(checks.Gathered(checks.array(loc, "loc"), weight=weight)).x
    means = as_codes(loc, "loc")
    if len(means) < 2:
        raise ValueError(f"loc must hold at least 2 items to have a variance, got {len(means)}")
    limit = checks.positive("threshold", threshold, zero=True)
    counts = None if weight is None else checks.weights(weight, len(means)).double().numpy()
    if counts is not None and counts.sum() <= 1:
        raise ValueError(f"weight must sum to more than 1 item for a variance, got {counts.sum():g}")
    active, variance = activity.active_units(means, limit, counts)
    return labelled(
        {
            "active_units": (active, f"dimensions with a variance above {limit:g}", "dimensions"),
            "variance": (variance, "variance over items of the posterior mean", "code units^2", "latent_dim"),
        }
    )
