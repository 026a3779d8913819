"""What the encoder of a table sees of a row: numbers standardised, categories one-hot, and what was seen of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.columns import Column
from pyrovae.models.parts.standardizer import Standardizer, taken

__all__ = ["TableInput"]


class TableInput(nn.Module):
    """Rows (..., D), NaN where an entry is missing, as features (..., F) and the mask of what was seen, D of them.

    A real column is one feature, (x - loc) / scale; of a positive one it is that of log x, of a count that of
    log(1 + x), with location and scale of `standardizers`, each of columns of its own. A binary column is -1 or 1, and
    a column of C categories C features of zeros and a one. A missing entry is zeros in all of
    them. Features of numbers come first, then those of binary columns, then those of categories.

    >>> import torch
    >>> from pyrovae import Column
    >>> from pyrovae.models.parts.table_input import TableInput
    >>> seen = TableInput([Column("species", "categorical", 3), Column("sex", "binary")], [])
    >>> seen(torch.tensor([[2.0, torch.nan]]))
    tensor([[0., 0., 0., 1., 1., 0.]])
    """

    takes_missing = True

    def __init__(self, columns: Sequence[Column], standardizers: Sequence[Standardizer]) -> None:
        super().__init__()
        self.standardizers = nn.ModuleList(standardizers)
        coded: dict[int, list[int]] = {}  # the columns of each number of categories
        for j, column in enumerate(columns):
            if column.categories is not None:
                coded.setdefault(column.num_categories if column.kind != "binary" else 0, []).append(j)
        self.coded = sorted((count, tuple(which)) for count, which in coded.items())
        numbers = sum(column.categories is None for column in columns)
        width = numbers + sum(max(count, 1) * len(which) for count, which in self.coded)
        self.out_shape = (width + len(columns),)

    def forward(self, x: Tensor) -> Tensor:
        seen = ~x.isnan()
        inside = torch.where(seen, x, 1.0)  # a number, a count, a code of any column
        features = []
        for standardizer in self.standardizers:
            assert isinstance(standardizer, Standardizer)
            u = standardizer.standardized(inside)
            features.append(torch.where(taken(seen, standardizer.columns), u, 0.0))
        for count, which in self.coded:
            codes, is_seen = taken(inside, which), taken(seen, which)
            if count:
                classes = torch.arange(count, dtype=x.dtype, device=x.device)
                each = ((codes[..., None] == classes) & is_seen[..., None]).to(x.dtype)
                features.append(each.flatten(-2))
            else:
                features.append(torch.where(is_seen, 2 * codes - 1, 0.0))
        return torch.cat([*features, seen.to(x.dtype)], -1)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"coded={self.coded}"
