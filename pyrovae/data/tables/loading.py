"""A file of columns as a data set: divided at random, with one of the columns as labels where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.dataset import Dataset
from pyrovae.data.tables.frames import Frame, known_name, opened
from pyrovae.data.tables.making import made_of

__all__ = ["labels_in", "load_table"]


def load_table(path: Path, kinds: Any, drop: bool | Iterable[Any], labels: Any) -> Dataset:
    """The table in a file in a training part of four fifths and a test part; `labels` names a column of classes."""
    read = opened(path)
    aside: tuple[str, ...] = ()
    if labels is not None:
        if not isinstance(labels, str):
            raise TypeError(f"labels of {path} must be the name of one of its columns, got {labels!r}")
        aside = (known_name("labels", labels, [column.name for column in read.columns]),)
    whole = made_of(read, kinds, drop=drop, aside=aside)
    classes: tuple[str, ...] | None = None
    if aside:
        y, classes = labels_in(read, aside[0])
        whole = replace(whole, y=y)
    return replace(whole.split(), name=path.stem, classes=classes, stored=path.suffix.lower().removeprefix("."))


def labels_in(read: Frame, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as int64, and the names of the classes unless these are whole numbers."""
    column = next(column for column in read.columns if column.name == name)
    if column.missing.any():
        count, first = int(column.missing.sum()), int(column.missing.argmax())
        raise ValueError(
            f"labels: column {name!r} has {count:,} missing entries, the first in row {first}: drop these rows, or "
            "make them a class of their own"
        )
    if column.form in ("other", "times") or (column.is_number and not column.is_whole):
        raise ValueError(f"labels: column {name!r} must hold classes, text or whole numbers, got {column.dtype}")
    if column.is_number:
        return torch.from_numpy(column.values.astype(np.int64)), None
    classes = list(column.categories or column.distinct)
    code = {value: place for place, value in enumerate(classes)}
    y = torch.tensor([code[value] for value in column.values.tolist()], dtype=torch.int64)
    return y, tuple(map(str, classes))
