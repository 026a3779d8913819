"""A `Table`: the rows of a data frame as numbers with names, which go into parts and back to a frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.columns import Column
from pyrovae.data.dataset import Dataset, Split
from pyrovae.data.tables.encoding import Encoding, as_decimals
from pyrovae.data.tables.frames import Origin, known_name
from pyrovae.data.tables.kinds import Finding
from pyrovae.data.tables.splitting import divided
from pyrovae.data.tables.words import in_words

__all__ = ["Table"]


@dataclass(frozen=True, eq=False, repr=False)
class Table(Split):
    """Rows of a data frame as numbers, with the names, kinds and categories of its columns; `data.table` makes it.

    It is a `Split`, which `fit` and the estimators take in place of `x`: `x` is (N, D), NaN where an entry is missing
    and a code where it is a category, `missing` the mask of it, or None where nothing is missing, and `y` is None. An
    index takes rows, and `dataclasses.replace(table, weight=w)` puts something beside them. `print(table)` says of each
    column what it is taken for, by which rule, and how to change that.

    Attributes:
        encoding: the columns, how values become numbers and come back, and what the frame's library is.
        findings: of each column of the frame its kind, or why it was refused.
        exact: `x` in double precision, where single does not hold every digit of what came.
        origin: what is kept of the rows beside their values.
    """

    encoding: Encoding = None  # type: ignore[assignment]  # always given; the fields before it have defaults
    findings: tuple[Finding, ...] = ()
    exact: Tensor | None = None
    origin: Origin | None = None

    _whole: ClassVar[tuple[str, ...]] = ("encoding", "findings")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in the order of those of `x`."""
        return self.encoding.columns

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names of the frame's columns that are not in the table."""
        return self.encoding.dropped

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(D,), the shape of a row."""
        return (len(self.columns),)

    def split(self, test: float | int = 0.2, *, seed: int = 0, stratify: Any = None) -> Dataset:
        """Divide the rows at random into a training and a test part, each a table with the same columns.

        `test` is the share of the rows, or their number. With `stratify`, the name of a column that has codes or an
        array of N labels, each value has its share of the rows in both parts, as nearly as whole rows allow; missing
        entries are a value of their own. The rows are those of `data.load` for the same share and seed.

        Raises ValueError where one of the parts would be empty, for a column of numbers, and for labels of another
        length.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, 2.5, 3.0, 4.5, 6.0], "n": [3, 0, 2, 2, 9]})
        >>> print(table.split(test=0.4))
        table: 3 training and 2 test items of shape (2,), no labels
        """
        labels = self._strata(stratify)
        order, cut = divided(len(self), test, seed, labels)
        parts = self[order[:cut]], self[order[cut:]]
        return Dataset(*parts, self.event_shape, "table", None, torch.from_numpy(order), "table")

    @checks.flags
    def frame(self, x: Any = None, *, with_dropped: bool = False) -> Any:
        """These rows, or others, as a frame of the library that they came from, in its types.

        `x` is (N, D), as `sample` gives it, or draws (num_draws, N, D), as `impute` gives them, of which a list of
        frames is made. NaN becomes a missing entry, a code its category, and a column keeps its type, or takes a wider
        one where that does not hold the numbers. Where `x` are these rows with missing entries filled, entries that
        were seen come back with all digits that they came with, and pandas' index comes back; `with_dropped` adds the
        columns that are not in the table.

        Raises ValueError for codes that are none, for numbers that a column's kind has not, as means of counts, and for
        `with_dropped` where the rows are not these.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, None, 3.1], "colour": ["red", "blue", None]})
        >>> table.frame()
        {'size': [1.5, None, 3.1], 'colour': ['red', 'blue', None]}
        >>> table.frame(table.x.nan_to_num(1.0))["colour"]
        ['red', 'blue', 'red']
        """
        rows = self.x[:] if x is None else checks.array(x, "x")
        if rows.ndim == 3:
            return [self.frame(each, with_dropped=with_dropped) for each in rows]
        own = self._is_own(rows)
        if with_dropped and not own:
            raise ValueError(
                "x must be the rows of this table, with missing entries filled, for its other columns to belong to "
                "them: leave with_dropped out"
            )
        numbers = as_decimals(rows)
        if own and self.exact is not None:
            exact = self.exact.numpy()
            numbers = np.where(np.isnan(exact), numbers, exact)
        made = self.encoding.of_numbers(numbers, self.origin.index if own and self.origin is not None else None)
        if not with_dropped or self.origin is None or self.origin.others is None:
            return made
        return self.origin.beside(made, [kept.label for kept in self.encoding.storage], self.encoding.order)

    def like(self, frame: Any, *, drop: bool | Iterable[Any] = ()) -> Table:
        """Another frame, or file, as a table with the columns, kinds and codes of this one, as new data have to be.

        The order of its columns does not matter, nor which library it is of. Columns that this table has dropped are
        dropped; `drop` names more, or is True for all that this table does not know.

        Raises ValueError, for all columns in one error, where one is absent or unknown or has a category that this
        table was not made with, and for numbers that a column's kind has not; TypeError for entries of another type.

        >>> from pyrovae import data
        >>> table = data.table({"size": [1.5, 2.5, 3.0], "colour": ["red", "blue", "red"]})
        >>> table.like({"colour": ["blue"], "size": [9.0]}).x
        tensor([[9., 0.]])
        """
        made: Table = self.encoding.encode(frame, drop=drop)
        return made

    def _is_own(self, rows: Tensor) -> bool:
        """Whether numbers are these rows, with some of their missing entries filled or none."""
        if rows.shape != self.x.shape:
            return False
        own = self.x[:]
        given = rows.detach().to(own.device)
        narrow = own.dtype if given.dtype == torch.float64 or not given.is_floating_point() else given.dtype
        return bool(((given.to(narrow) == own.to(narrow)) | own.isnan()).all())

    def _strata(self, stratify: Any) -> np.ndarray | None:
        if stratify is None:
            return None
        if not isinstance(stratify, str):
            return checks.labels(stratify, len(self), name="stratify")
        names = [column.name for column in self.columns]
        place = names.index(known_name("stratify", stratify, names))
        if not self.columns[place].is_discrete:
            raise ValueError(
                f"stratify must name a column of codes or counts, and {stratify!r} is {self.columns[place].kind}: give "
                "an array of N labels, such as bins of it"
            )
        return self.x[:, place].nan_to_num(-1.0).numpy()  # no code and no count is below 0

    def __str__(self) -> str:
        return in_words(self)

    def _summary_line(self) -> str:
        return f"{len(self):,} rows, {len(self.columns)} columns"
