"""How the columns of a frame become numbers and come back: without the rows, and as words that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae import checks
from pyrovae.columns import Column, checked_columns
from pyrovae.data.tables.codes import decoded
from pyrovae.data.tables.native import Restored, built
from pyrovae.data.tables.stored import Stored

__all__ = ["Encoding", "Storage"]

FORMAT = 1
INFERRED = ""  # in place of a type: that of the entries


@dataclass(frozen=True)
class Storage:
    """How a library keeps a column: its name there, its type in words, the categories that the type declares."""

    label: str | int
    dtype: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    widened: bool = False

    @classmethod
    def of(cls, column: Column, stored: Stored, before: Storage | None = None) -> Storage:
        """That of a column that was read; the categories of the model where the type declares fewer.

        A column without an entry has the type that it had `before`, or one that its entries will have.
        """
        if not len(stored.values):
            label = stored.label if isinstance(stored.label, str) else int(stored.label)
            return cls(label, INFERRED) if before is None else replace(before, label=label)
        declared = stored.categories
        if declared is None and stored.form == "categories":
            declared = column.categories
        if declared is not None and column.categories is not None:
            own = set(column.categories)
            declared = column.categories if not own <= set(declared) else declared
        label = stored.label if isinstance(stored.label, str) else int(stored.label)
        return cls(label, stored.dtype, declared, stored.ordered, stored.widened)


@dataclass(frozen=True)
class Encoding:
    """How the columns of a frame are numbers, and numbers a frame again; it has no rows.

    Attributes:
        columns: the columns of the numbers, in their order.
        library: whose frames `frame` makes: "pandas", "polars", "pyarrow" or "dict".
        storage: how each column is kept there.
        order: the names of all columns of the frame in their order, with those that were dropped.
    """

    columns: tuple[Column, ...]
    library: str
    storage: tuple[Storage, ...]
    order: tuple[str, ...]

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names of the frame's columns that are none of the table's."""
        names = {column.name for column in self.columns}
        return tuple(name for name in self.order if name not in names)

    def encode(self, frame: Any, *, drop: bool | Iterable[Any] = ()) -> Any:
        """A frame, or the path of a file, as a `Table` in these codes; `Table.like` says what is refused.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, 2.25, 3.0], "colour": ["red", "blue", "red"]})
        >>> table.encoding.encode({"colour": ["blue"], "size": [1.0]}).x
        tensor([[1., 0.]])
        """
        from pyrovae.data.tables.making import encode

        return encode(self, frame, drop=drop)

    def frame(self, x: Any) -> Any:
        """Rows of numbers, (N, D), as a frame of the library; of draws, (num_draws, N, D), a list of such frames.

        NaN becomes a missing entry, a code its category. A column has the type that it came with, or a wider one where
        that does not hold the numbers: float64 in place of integers for fractions. Raises ValueError for codes that
        are none, and for numbers that the column's kind has not, as means of counts.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, 2.25, 3.0], "colour": ["red", "blue", "red"]})
        >>> table.encoding.frame([[2.0, 0.0]])
        {'size': [2.0], 'colour': ['blue']}
        """
        rows = checks.array(x, "x")
        if rows.ndim == 3:
            return [self.of_numbers(as_decimals(each)) for each in rows]
        return self.of_numbers(as_decimals(rows))

    def of_numbers(self, numbers: np.ndarray, index: Any = None) -> Any:
        """Rows of float64 as a frame, with an index of pandas."""
        if numbers.ndim != 2 or numbers.shape[1] != len(self.columns):
            raise ValueError(
                f"x must have shape (N, {len(self.columns)}) or (num_draws, N, {len(self.columns)}), a number for each "
                f"column, got {tuple(numbers.shape)}"
            )
        made = []
        for place, (column, kept) in enumerate(zip(self.columns, self.storage, strict=True)):
            values, missing = decoded(column, numbers[:, place])
            widened = kept.widened and column.is_discrete
            made.append(Restored(kept.label, kept.dtype, values, missing, kept.categories, kept.ordered, widened))
        return built(self.library, made, index)

    def stored_as(self, library: str, columns: Mapping[str, Stored], order: Sequence[str]) -> Encoding:
        """The same columns and codes, as another frame keeps them."""
        before: Sequence[Storage | None] = self.storage if library == self.library else [None] * len(self.storage)
        storage = [
            Storage.of(column, columns[column.name], kept) for column, kept in zip(self.columns, before, strict=True)
        ]
        return replace(self, library=library, storage=tuple(storage), order=tuple(order))

    def recipe(self) -> dict[str, Any]:
        """The encoding in words and numbers that JSON has, of which `from_recipe` makes it again.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, 2.25, 3.0], "colour": ["red", "blue", "red"]})
        >>> recipe = table.encoding.recipe()
        >>> recipe["columns"][1]["categories"]
        ['blue', 'red']
        >>> data.Encoding.from_recipe(recipe) == table.encoding
        True
        """
        columns = []
        for column, kept in zip(self.columns, self.storage, strict=True):
            entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
            if column.categories is not None:
                entry["categories"] = [_json_value(column.name, value) for value in column.categories]
            entry |= {"label": kept.label, "dtype": kept.dtype, "ordered": kept.ordered, "widened": kept.widened}
            if kept.categories is not None:
                entry["declared"] = [_json_value(column.name, value) for value in kept.categories]
            columns.append(entry)
        return {"format": FORMAT, "library": self.library, "columns": columns, "order": list(self.order)}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Encoding:
        """The encoding that `recipe` was made of; ValueError for what is none."""
        try:
            if recipe["format"] != FORMAT:
                raise ValueError(f"its format is {recipe['format']!r}, and this version reads {FORMAT}")
            columns, storage = [], []
            for entry in recipe["columns"]:
                categories, declared = entry.get("categories"), entry.get("declared")
                columns.append(Column(entry["name"], entry["kind"], None if categories is None else tuple(categories)))
                storage.append(
                    Storage(
                        entry["label"],
                        str(entry["dtype"]),
                        None if declared is None else tuple(declared),
                        bool(entry["ordered"]),
                        bool(entry["widened"]),
                    )
                )
            order = tuple(map(str, recipe["order"]))
            return cls(checked_columns(columns), str(recipe["library"]), tuple(storage), order)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"recipe must be what Encoding.recipe() gives: {what}") from None


def as_decimals(rows: Tensor) -> np.ndarray:
    """Numbers as float64; of single precision the decimal number with the fewest digits that rounds to it.

    So that 0.1, which came as a double and is kept as a single, is 0.1 again and not 0.10000000149.
    """
    array: np.ndarray = rows.detach().cpu().numpy()
    if array.dtype.kind != "f" or array.dtype.itemsize > 4:
        return array.astype(np.float64)
    array = array.astype(np.float32)
    result = array.astype(np.float64)
    rough = np.isfinite(array) & (array != np.floor(array))
    result[rough] = array[rough].astype("U16").astype(np.float64)
    return result


def _json_value(name: str, value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(
        f"column {name!r} has the category {value!r}, which no file of words and numbers can hold: make its categories "
        "strings or numbers"
    )
