"""Parameters and fitted attributes of estimators as JSON holds them: plain values, arrays, columns, estimators."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from pyrovae.columns import Column
from pyrovae.data import Encoding

__all__ = ["decoded", "decoded_all", "encoded", "named"]

ARRAYS = re.compile(r"[<>|=]?([biuf]\d{1,2}|U\d{1,9})|\|O")
ARRAY_BYTES = 10**8  # a larger array is not read: few bytes of a file may state it


def encoded(value: Any, name: str) -> Any:
    """A value as JSON holds it: plain values as they are, the rest as an object that names its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return encoded(value.item(), name)
    if isinstance(value, np.ndarray) and (value.dtype.kind in "biufU" or _is_of_strings(value)):
        return {"array": value.tolist(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Set):  # JSON has none, and a state is the same each time
        value = sorted(value, key=str)
    if _is_index(value):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return {type(value).__name__: [encoded(each, name) for each in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encoded(each, f"{name}[{key!r}]") for key, each in value.items()}}
    if isinstance(value, Encoding):
        return {"encoding": value.recipe()}
    if isinstance(value, Column):
        return {"column": encoded((value.name, value.kind, value.categories), name)}
    if isinstance(value, BaseEstimator) and named(type(value).__name__) is type(value):
        params = {key: encoded(each, f"{name}.{key}") for key, each in value.get_params(deep=False).items()}
        return {"estimator": type(value).__name__, "params": params}
    raise TypeError(
        f"{name} is a {type(value).__name__}, and a saved estimator holds plain values alone: save pair_ by "
        "pyrovae.save, or give a name, a number or an array"
    )


def decoded(value: Any) -> Any:
    """The value that `encoded` was given. Raises an error of Python's own for what it never gives."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return _array(value["array"], value["dtype"], value["shape"])
    if "estimator" in value:
        return named(value["estimator"])(**decoded_all(value["params"]))
    (kind, inside), *_ = value.items()
    if kind == "encoding":
        return Encoding.from_recipe(inside)
    if kind == "column":
        name, kind_of_column, categories = decoded(inside)
        if isinstance(categories, int):  # which we never write: a short number may stand for very many
            raise ValueError(f"the categories of column {name!r} are not said one by one")
        return Column(name, kind_of_column, categories)
    if kind == "dict":
        return decoded_all(inside)
    return {"tuple": tuple, "list": list}[kind](map(decoded, inside))


def _array(values: Any, dtype: Any, shape: Any) -> np.ndarray:
    if not isinstance(dtype, str) or ARRAYS.fullmatch(dtype) is None:
        raise ValueError(f"{str(dtype)[:50]!r} is no dtype of an array")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise ValueError(f"{str(shape)[:50]} is no shape of an array")
    kind = np.dtype(dtype)
    if math.prod(shape) * kind.itemsize > ARRAY_BYTES:
        raise ValueError(f"an array of {math.prod(shape):,} times {kind.itemsize:,} bytes is larger than is read")
    plain = np.array(values, dtype=object)
    if plain.size != math.prod(shape):
        raise ValueError(f"an array of shape {shape} has {plain.size:,} values")
    return np.array(values, dtype=kind).reshape(shape)


def decoded_all(values: dict[str, Any]) -> dict[str, Any]:
    """The values that `encoded` was given, by their names."""
    return {name: decoded(value) for name, value in values.items()}


def _is_index(value: Any) -> bool:
    """Whether it is an index of pandas, such as the columns of a frame."""
    return type(value).__module__.startswith("pandas.") and hasattr(value, "tolist") and hasattr(value, "nlevels")


def _is_of_strings(array: np.ndarray) -> bool:
    return array.dtype == object and all(isinstance(each, str) for each in array.ravel())


def named(name: str) -> Any:
    """The estimator class of a name; None for a name of no class of this module."""
    import pyrovae.sklearn

    return getattr(pyrovae.sklearn, name, None) if name in pyrovae.sklearn.__all__ else None
