"""Results with names and units: data sets in which each variable says what it is and what it is measured in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Variable", "labelled"]

Variable = tuple[Any, ...]  # values, long name, units, and then the dimensions


def labelled(
    variables: Mapping[str, Variable],
    coords: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A data set of `variables`, each of them (values, long name, units, *dimensions).

    A long name or unit that is None is left out. `coords` and `attributes` are those of the data
    set.

    >>> from pyrovae.labelled import labelled
    >>> found = labelled({"height": ([1.5, 1.7], "height of a person", "m", "person")}, {"person": ["a", "b"]})
    >>> found.height.attrs
    {'long_name': 'height of a person', 'units': 'm'}
    """
    import xarray as xr

    data = {}
    for name, (values, long_name, units, *dims) in variables.items():
        described = {"long_name": long_name, "units": units}
        data[name] = (dims, np.asarray(values), {key: text for key, text in described.items() if text is not None})
    return xr.Dataset(data, coords=coords, attrs=attributes)
