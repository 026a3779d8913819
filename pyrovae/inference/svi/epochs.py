"""The rows of a run's epochs in a checkpoint: words while they are few, tensors from a thousand epochs on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrovae.inference.checkpoint import CheckpointError

__all__ = ["packed", "room", "unpacked"]

FEW = 1_000  # epochs, whose rows earlier versions read too
PREFIX = "rows."
COLUMNS = 64  # more than any row has
DTYPES = {float: torch.float64, int: torch.int64}

Rows = list[dict[str, float]]


def packed(rows: Rows) -> tuple[Rows | dict[str, Any], dict[str, Tensor]]:
    """The rows as a checkpoint's metadata have them, and its tensors.

    >>> from pyrovae.inference.svi.epochs import packed, unpacked
    >>> rows = [{"loss": 1 / (1 + epoch)} for epoch in range(2000)]
    >>> words, tensors = packed(rows)
    >>> words, tensors["rows.loss"].shape, unpacked(words, tensors) == rows
    ({'epochs': 2000, 'columns': ['loss']}, torch.Size([2000]), True)
    """
    if len(rows) <= FEW or any(list(row) != list(rows[0]) for row in rows):
        return rows, {}
    tensors: dict[str, Tensor] = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        kinds = {type(value) for value in column}
        if len(kinds) > 1 or not kinds <= DTYPES.keys():
            return rows, {}
        tensors[PREFIX + name] = torch.tensor(column, dtype=DTYPES[kinds.pop()], device="cpu")
    return {"epochs": len(rows), "columns": list(rows[0])}, tensors


def unpacked(words: Any, tensors: dict[str, Tensor]) -> Rows:
    """The rows that `packed` was given. Raises CheckpointError where the words and the tensors do not agree."""
    if isinstance(words, list):
        return words
    try:
        count, names = words["epochs"], words["columns"]
        columns = {name: tensors[PREFIX + name] for name in names}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint has no rows of its epochs as they are written: {error}") from None
    for name, column in columns.items():
        if column.dtype not in DTYPES.values() or column.shape != (count,):
            raise CheckpointError(
                f"the checkpoint's {name!r} of {count!r} epochs is {column.dtype} of shape {tuple(column.shape)}"
            )
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def room(epochs: int) -> dict[str, Tensor]:
    """As many and as large tensors as the rows of a run may take, without memory."""
    return {f"{PREFIX}{i:030d}": torch.empty(epochs + FEW, device="meta") for i in range(COLUMNS)}
