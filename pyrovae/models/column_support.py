"""The support of a row of a table: each column has the values of its kind, and an error names the column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.columns import Column

__all__ = ["ColumnSupport", "measure_of"]

SHOWN = 5  # columns that an error names
VALUES = {"real": "any number", "positive": "numbers above 0", "count": "whole numbers from 0 on"}
ADVICE = {
    "positive": "let the column be 'real'",
    "count": "let the column be 'real', or 'positive' where it is above 0",
}


class ColumnSupport(constraints.Constraint):
    """The support of the entries of rows, (..., D), column by column; the check of an entry goes by its column.

    NaN is in no column's support: callers let it through where it is a missing entry.

    >>> import torch
    >>> from pyrovae import Column
    >>> from pyrovae.models.column_support import ColumnSupport
    >>> support = ColumnSupport([Column("age", "positive"), Column("sex", "binary")])
    >>> support.check(torch.tensor([[3.0, 1.0], [0.0, 2.0]])).tolist(), support.base_measure
    ([[True, True], [False, False]], 'mixed')
    """

    event_dim = 0

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.base_measure = measure_of(self.columns)
        self.is_discrete = self.base_measure == "mass"
        self._whole = torch.tensor([column.is_discrete for column in self.columns])
        self._is_positive = torch.tensor([column.kind == "positive" for column in self.columns])
        self._least = torch.tensor([0.0 if column.is_discrete else -torch.inf for column in self.columns]).double()
        most = [float(column.num_categories - 1) if column.categories else torch.inf for column in self.columns]
        self._most = torch.tensor(most).double()

    def check(self, value: Tensor) -> Tensor:
        whole, is_positive, least, most = (
            each.to(value.device) for each in (self._whole, self._is_positive, self._least, self._most)
        )
        inside = (value >= least) & (value <= most) & (~is_positive | (value > 0))
        return value.isfinite() & inside & (~whole | (value == value.floor()))

    def refusal(self, x: Tensor, *, name: str = "x") -> str:
        """What an error says of rows `x`, (N, D), of which an entry that was seen lies outside the support."""
        outside = ~(self.check(x) | x.isnan())
        which = outside.any(0).nonzero().flatten().tolist()
        parts = [self._of_column(x[:, j], outside[:, j], j, name) for j in which[:SHOWN]]
        more = f"; {len(which) - SHOWN} more columns have such entries" if len(which) > SHOWN else ""
        return "; ".join(parts) + more

    def _of_column(self, values: Tensor, outside: Tensor, j: int, name: str) -> str:
        column, row = self.columns[j], int(outside.nonzero()[0])
        wanted = VALUES.get(column.kind, f"codes 0 to {column.num_categories - 1} of its categories")
        advice = ADVICE.get(column.kind, f"number its {column.num_categories} categories from 0, or state all of them")
        return (
            f"column {column.name!r} of {name} is {column.kind} and holds {wanted}, and {int(outside.sum())} of its "
            f"{len(values)} entries are none, the first {name}[{row}, {j}] = {values[row].item():g}: mend these, or "
            f"{advice}"
        )

    def __repr__(self) -> str:
        return f"ColumnSupport({', '.join(f'{column.name}: {column.kind}' for column in self.columns)})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, ColumnSupport) and self.columns == other.columns

    def __hash__(self) -> int:
        return hash(self.columns)


def measure_of(columns: Sequence[Column]) -> str:
    """The base measure of a row: "mass" where all columns are discrete, "density" where none is, else "mixed"."""
    kinds = {column.is_discrete for column in columns}
    return "mixed" if len(kinds) > 1 else "mass" if kinds == {True} else "density"
