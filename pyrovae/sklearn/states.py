"""Fitted estimators as folders: parameters and fitted attributes as JSON, the pair as a saved state. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from pyrovae import checks
from pyrovae.columns import Column
from pyrovae.data import Encoding
from pyrovae.hidden import visible
from pyrovae.inference.checkpoint import CheckpointError, load, save

__all__ = ["read_state", "write_state"]

RECORD, PAIR, HISTORY = "estimator.json", "pair", "history.nc"
FORMAT, VERSION = "pyrovae.sklearn", 1
APART = ("pair_", "history_", "estimator_")  # fitted attributes with a file or a folder of their own


def write_state(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator into the folder `path`; its record is written last."""
    from pyrovae.run_folder import write_history

    folder = checks.path("path", path)
    if folder.exists() and not _may_be_replaced(folder):
        raise FileExistsError(f"{folder} exists and is no saved estimator: choose another folder or remove it")
    name = type(estimator).__name__
    params = {key: _encoded(value, f"{name}.{key}") for key, value in estimator.get_params(deep=False).items()}
    fitted = {key: _encoded(value, f"{name}.{key}") for key, value in vars(estimator).items() if _is_fitted(key)}
    record = {"format": FORMAT, "format_version": VERSION, "class": name, "params": params, "fitted": fitted}
    text = json.dumps(record, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # what a kill leaves is no state
    if hasattr(estimator, "pair_"):
        save(folder / PAIR, estimator.pair_)
    if hasattr(estimator, "history_"):
        write_history(folder / HISTORY, estimator.history_)
    if hasattr(estimator, "estimator_"):
        write_state(estimator.estimator_, folder / "estimator")
    partial = folder / f".{RECORD}-new-{os.getpid()}"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / RECORD)


def read_state(kind: type, path: str | os.PathLike[str]) -> Any:
    """Read an estimator of class `kind` from the folder `path`."""
    from pyrovae.run_folder import read_history

    folder = checks.path("path", path)
    record = _record(folder)
    if record["class"] != kind.__name__:
        raise CheckpointError(f"{folder} holds a {record['class']}: load it as pyrovae.sklearn.{record['class']}.load")
    try:
        estimator = kind(**_decoded_all(record["params"]))
        fitted = _decoded_all(record["fitted"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / RECORD} is damaged, or of another version: {error}") from None
    for name, value in fitted.items():
        setattr(estimator, name, value)
    if (folder / PAIR).is_dir():
        estimator.pair_ = load(folder / PAIR)
    if (folder / HISTORY).is_file():
        estimator.history_ = read_history(folder / HISTORY)
    if (folder / "estimator").is_dir():
        estimator.estimator_ = read_state(_named(_record(folder / "estimator")["class"]), folder / "estimator")
    return estimator


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{folder} holds no saved estimator: {RECORD} is missing")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version = record["format_version"]
        if record["format"] != FORMAT or not isinstance(record["class"], str):
            raise KeyError("format")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / RECORD} is no record of a saved estimator: {error}") from None
    if version != VERSION:
        raise CheckpointError(f"{folder} has format version {version}, and this package reads {VERSION}")
    return dict(record)


def _may_be_replaced(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {entry.name for entry in visible(folder)}
    return not names or (RECORD in names and names <= {RECORD, PAIR, HISTORY, "estimator"})


def _is_fitted(name: str) -> bool:
    is_public = name.endswith("_") and not name.startswith("_")
    return is_public and name not in APART


def _encoded(value: Any, name: str) -> Any:
    """A value as JSON holds it: plain values as they are, the rest as an object that names its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return _encoded(value.item(), name)
    if isinstance(value, np.ndarray) and (value.dtype.kind in "biufU" or _is_of_strings(value)):
        return {"array": value.tolist(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Set):  # JSON has none, and a state is the same each time
        value = sorted(value, key=str)
    if _is_index(value):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encoded(each, name) for each in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encoded(each, f"{name}[{key!r}]") for key, each in value.items()}}
    if isinstance(value, Encoding):
        return {"encoding": value.recipe()}
    if isinstance(value, Column):
        return {"column": _encoded((value.name, value.kind, value.categories), name)}
    if isinstance(value, BaseEstimator) and _named(type(value).__name__) is type(value):
        params = {key: _encoded(each, f"{name}.{key}") for key, each in value.get_params(deep=False).items()}
        return {"estimator": type(value).__name__, "params": params}
    raise TypeError(
        f"{name} is a {type(value).__name__}, and a saved estimator holds plain values alone: save pair_ by "
        "pyrovae.save, or give a name, a number or an array"
    )


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["array"], dtype=np.dtype(value["dtype"])).reshape(value["shape"])
    if "estimator" in value:
        return _named(value["estimator"])(**_decoded_all(value["params"]))
    (kind, inside), *_ = value.items()
    if kind == "encoding":
        return Encoding.from_recipe(inside)
    if kind == "column":
        return Column(*_decoded(inside))
    if kind == "dict":
        return _decoded_all(inside)
    return {"tuple": tuple, "list": list}[kind](map(_decoded, inside))


def _decoded_all(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _decoded(value) for name, value in values.items()}


def _is_index(value: Any) -> bool:
    """Whether it is an index of pandas, such as the columns of a frame."""
    return type(value).__module__.startswith("pandas.") and hasattr(value, "tolist") and hasattr(value, "nlevels")


def _is_of_strings(array: np.ndarray) -> bool:
    return array.dtype == object and all(isinstance(each, str) for each in array.ravel())


def _named(name: str) -> Any:
    """The estimator class of a name; None for a name of no class of this module."""
    import pyrovae.sklearn

    return getattr(pyrovae.sklearn, name, None) if name in pyrovae.sklearn.__all__ else None
