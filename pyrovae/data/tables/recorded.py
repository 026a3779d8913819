"""A table in a run folder: how its columns are codes, in words, and other files read in the same codes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.beside import with_beside
from pyrovae.data.dataset import Dataset
from pyrovae.data.sources import read_rows
from pyrovae.data.tables.encoding import Encoding
from pyrovae.data.tables.files import ENDINGS, is_table_file
from pyrovae.data.tables.frames import known_name, opened
from pyrovae.data.tables.loading import labels_in
from pyrovae.data.tables.rows import Table

__all__ = ["as_dataset", "read_like", "table_record", "weights_digest"]


def as_dataset(table: Table, path: Path, *, labels: str | None = None, weight: str | None = None) -> Dataset:
    """A table in its two parts, four fifths for training, as `data.load` makes them of a file.

    `labels` and `weight` name columns of the file that are not among the table's: the class of each row, and how many
    times it counts. A single row is a test part.
    """
    classes: tuple[str, ...] | None = None
    if labels is not None or weight is not None:
        beside = opened(table.origin.others)  # type: ignore[union-attr]  # which has what is not in the table
        if weight is not None:
            table = replace(table, weight=_weights(beside, weight))
        if labels is not None:
            y, classes = labels_in(beside, labels)
            table = replace(table, y=y)
    if len(table) == 1:
        made = Dataset(table[:0], table, table.event_shape, "table", None, torch.zeros(1, dtype=torch.int64))
    else:
        made = table.split()
    return replace(made, name=path.stem, classes=classes, stored=path.suffix.lower().removeprefix("."))


def table_record(data: Dataset, *, labels: str | None = None, weight: str | None = None) -> dict[str, Any]:
    """What a run folder says of a table: its encoding, and which columns hold labels and weights."""
    record: dict[str, Any] = {"encoding": data.table.encoding.recipe(), "labels": labels, "weight": weight}
    record["weight_sha256"] = None if weight is None else weights_digest(data)
    return record


def weights_digest(data: Dataset) -> str:
    """The SHA-256 of the weights of both parts."""
    digest = hashlib.sha256()
    for part in (data.train, data.test):
        digest.update(part.weight.double().numpy().tobytes())
    return digest.hexdigest()


def read_like(
    record: Mapping[str, Any], source: Any, *, labels: str | None = None, covariates: Any = None, exposure: Any = None
) -> Dataset:
    """The table in a file, in the columns and codes of a record; `labels` names another column of classes than its.

    `covariates` and `exposure` are arrays, or the paths of .npy files, with a row for each row of the file.

    A column that the record does not know is left out, and a warning names it. Labels and weights are read where their
    column is there. Raises ValueError for what is no file of a table, for columns that are absent, and for categories
    that the record has not.
    """
    if not is_table_file(source):
        raise ValueError(
            f"{source} must be a {', '.join(ENDINGS)} file, for the model is one of a table, whose columns have names"
        )
    path = checks.path("name_or_path", source)
    encoding = Encoding.from_recipe(record["encoding"])
    table: Table = encoding.encode(path, drop=True)
    there = table.encoding.order
    asked = None if labels is None else known_name("labels", labels, there)
    extra = [name for name in there if name not in encoding.order and name != asked]
    if extra:
        named = ", ".join(map(repr, extra[:20]))
        checks.warn(f"{path} has columns that the model does not know, and they are left out: {named}")
    weight = record["weight"]
    if weight is not None and weight not in there:
        checks.warn(f"{path} has no column {weight!r}, which held the weights of the fit: each row counts once")
    its_labels = record["labels"] if record["labels"] in there else None
    data = as_dataset(table, path, labels=asked or its_labels, weight=weight if weight in there else None)
    beside = {"covariates": covariates, "exposure": exposure}
    for name, value in beside.items():
        if isinstance(value, str | os.PathLike):
            beside[name] = read_rows(name, value)
    return with_beside(data, **beside)


def _weights(beside: Any, name: str) -> Tensor:
    column = next(each for each in beside.columns if each.name == name)
    if column.missing.any():
        count, first = int(column.missing.sum()), int(column.missing.argmax())
        raise ValueError(f"weight: column {name!r} has {count:,} missing entries, the first in row {first}")
    if not column.is_number:
        raise ValueError(f"weight: column {name!r} must hold numbers, how many times each row counts: {column.dtype}")
    try:
        return checks.weights(column.values.astype(np.float64), len(column.values))
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from None
