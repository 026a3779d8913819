"""The likelihood of rows of a table: columns of several kinds, each kind by a family of its own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.columns import KINDS, Column, checked_columns
from pyrovae.models.column_support import ColumnSupport
from pyrovae.models.laws import as_pyro
from pyrovae.models.parts.categorical import Codes
from pyrovae.models.parts.column_distribution import ColumnDistribution, Group
from pyrovae.models.parts.ordinal import Ordinal
from pyrovae.models.parts.standardizer import Sees, Standardizable, Standardizer, standardizer_of
from pyrovae.models.parts.table_input import TableInput
from pyrovae.models.registry import chosen, name_of, note, plain_name_of, register

__all__ = ["ColumnFamily", "checked_families", "in_recipes"]

FAMILIES = {  # of each kind, its default first
    "real": ("normal", "student_t", "laplace", "heteroscedastic_normal"),
    "positive": ("log_normal", "gamma"),
    "count": ("negative_binomial", "poisson", "zero_inflated_negative_binomial", "zero_inflated_poisson"),
    "binary": ("bernoulli",),
    "categorical": ("categorical",),
    "ordinal": ("ordinal", "categorical"),
}
SEEN_AS: dict[str, Sees] = {"real": "identity", "positive": "log", "count": "log1p"}
# what a builder of one family takes for all entries and a table has for each column, unless these arguments say else
EACH = {"per_entry": True, "dispersion": "column", "cuts": "column"}
FIXES = {"scale", "shape"}
PROBES = (-1.5, -1.0, 0.0, 0.25, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class _Part:
    """Columns that one family scores together."""

    columns: tuple[int, ...]
    kind: str


@register("columns", kind="likelihood")
class ColumnFamily(nn.Module):
    """Rows of `columns` that are independent given the code: log p(x | z) = sum_j log p_j(x_j | z), in nats.

    A column is scored by the family of its kind: "normal" of real ones, "log_normal" of positive ones,
    "negative_binomial" of counts, "bernoulli", "categorical" and "ordinal" of codes. Each has a scale, a dispersion or
    cuts of its own. `families` names another one for a kind or for a column, as {"count": "poisson", "income":
    "gamma"}: "student_t", "laplace" or "heteroscedastic_normal" for real columns; "gamma"; "poisson" and the
    zero-inflated ones; "categorical" for ordinal columns, which then have no order; or a registered name or a module of
    your own with the support of the kind.

    Real columns are standardised, and positive ones by their logarithms: a location comes from the network in standard
    deviations from the mean, and a learned scale is one of the column's, both measured by `fit` on the training part
    (`Standardizer`). The density is in the units of x as given. The entries of a row have the measure of their kinds,
    Lebesgue's for real and positive columns and counting for the others: the family's `base_measure` is "mixed" where
    there are both.

    The network gives one row of `outputs` numbers: `Likelihood(network, family, (D,))`. Raises ValueError for columns
    that are missing, for a name in `families` that is neither a kind nor a column, and for a family with another
    support than the kind's.

    >>> import torch
    >>> from pyrovae import Column, ColumnFamily
    >>> family = ColumnFamily([Column("height", "real"), Column("species", "categorical", ("a", "b", "c"))])
    >>> family.outputs, family.base_measure
    (4, 'mixed')
    >>> family(torch.zeros(4)).log_prob(torch.tensor([1.0, 2.0])).detach()
    tensor([-1.4189, -1.0986])
    """

    num_parameters = 1

    def __init__(self, columns: Any = None, families: Any = None) -> None:
        super().__init__()
        if columns is None:
            raise ValueError(
                "columns of a table's likelihood must be given: take table_vae(table), or ColumnFamily(table.columns)"
            )
        self.columns = checked_columns(columns)
        asked = checked_families(families, self.columns)
        note(self, columns=self.columns, families=in_recipes(asked))
        self._support = ColumnSupport(self.columns)
        self.parts: list[_Part] = []
        self.groups = nn.ModuleList()
        self.standardizers = nn.ModuleList()  # of groups of numbers, in the order of `parts`
        for which, spec in self._grouped(asked):
            self._add(which, spec)

    @property
    def support(self) -> constraints.Constraint:
        """The values of each column."""
        return self._support

    @property
    def base_measure(self) -> str:
        """Whether log p(x) is that of a "mass", of a "density", or "mixed"."""
        return self._support.base_measure

    @property
    def outputs(self) -> int:
        """The number of the network's outputs for a row."""
        return sum(self._width(part, family) for part, family in self._pairs())

    @property
    def filling(self) -> Tensor:
        """A value of each column's support, near its middle, which stands where an entry is missing: (D,)."""
        row = torch.zeros(len(self.columns), dtype=torch.float64)
        positive = [j for j, column in enumerate(self.columns) if column.kind == "positive"]
        row[positive] = 1.0
        parts = []
        for each in self._standardizers():
            if each.sees != "log1p":
                parts.append((each, each.loc.exp() if each.sees == "log" else each.loc))
        row = row.to(parts[0][1]) if parts else row
        for each, middle in parts:
            row = row.index_copy(0, torch.tensor(each.columns, device=row.device), middle)
        return row

    def bind(self, event_shape: tuple[int, ...]) -> None:
        """Refuse items of another shape than a row of these columns."""
        if tuple(event_shape) != (len(self.columns),):
            raise ValueError(
                f"a row of these columns has shape ({len(self.columns)},), and items of shape {tuple(event_shape)} are "
                "asked for: let event_shape be that of a row"
            )

    def forward(self, raw: Tensor) -> ColumnDistribution:
        if raw.shape[-1] != self.outputs:
            raise ValueError(
                f"the network of a ColumnFamily must give one row of {self.outputs} outputs, shape (..., "
                f"{self.outputs}), got {tuple(raw.shape)}"
            )
        groups, start = [], 0
        for part, family in self._pairs():
            end, size = start + self._width(part, family), len(part.columns)
            first, *rest = raw[..., start:end].reshape(*raw.shape[:-1], (end - start) // size, size).unbind(-2)
            p = as_pyro(family(self._located(part, family, first), *rest))
            if tuple(p.batch_shape[-1:]) != (size,) or p.event_shape:
                raise ValueError(
                    f"{type(family).__name__} must give a distribution of independent entries, batch shape (..., "
                    f"{size}), and gives batch shape {tuple(p.batch_shape)} and event shape {tuple(p.event_shape)}"
                )
            groups.append(Group(part.columns, p))
            start = end
        return ColumnDistribution(groups, self._support)

    def encoder_input(self, event_shape: tuple[int, ...]) -> TableInput:
        """What a builder's encoder sees of a row: numbers standardised, categories one-hot, and the mask."""
        return TableInput(self.columns, list(self._standardizers()))

    def by_column(self, p: ColumnDistribution) -> dict[str, Tensor]:
        """The probabilities of the categories of each column that has some, (..., C), by the column's name."""
        tables: dict[str, Tensor] = {}
        for group in p.groups:
            if isinstance(group.p, Codes):
                table = group.p.log_probabilities.exp()
            elif self.columns[group.columns[0]].categories is not None:
                table = torch.stack([1 - group.p.mean, group.p.mean], -1)
            else:
                continue
            tables |= {self.columns[j].name: table[..., i, :] for i, j in enumerate(group.columns)}
        return {column.name: tables[column.name] for column in self.columns if column.name in tables}

    def _grouped(self, asked: Mapping[str, Any]) -> list[tuple[list[int], Any]]:
        """Columns that go together, those of one kind, number of categories and family, each with the latter."""
        groups: dict[Any, tuple[list[int], Any]] = {}
        for j, column in enumerate(self.columns):
            spec = asked.get(column.name, asked.get(column.kind, FAMILIES[column.kind][0]))
            key = (column.kind, column.num_categories, spec if isinstance(spec, str) else id(spec))
            groups.setdefault(key, ([], spec))[0].append(j)
        return list(groups.values())

    def _add(self, which: list[int], spec: Any) -> None:
        column = self.columns[which[0]]
        family = _family(spec, column)
        _require_support(family, column)
        if (bind := getattr(family, "bind", None)) is not None:
            bind((len(which),))
        if column.kind in SEEN_AS:
            names = [self.columns[j].name for j in which]
            each = Standardizer((len(which),), sees=SEEN_AS[column.kind], columns=which, names=names)
            if isinstance(family, Standardizable) and family.sees == each.sees:
                family.standardize(each)
            self.standardizers.append(each)
        self.parts.append(_Part(tuple(which), column.kind))
        self.groups.append(family)

    def _pairs(self) -> Iterable[tuple[_Part, Any]]:
        return zip(self.parts, self.groups, strict=True)

    def _standardizers(self) -> Iterable[Standardizer]:
        return (cast(Standardizer, each) for each in self.standardizers)

    def _width(self, part: _Part, family: Any) -> int:
        return len(part.columns) * int(getattr(family, "num_parameters", 1))

    def _located(self, part: _Part, family: Any, first: Tensor) -> Tensor:
        """The first parameter of a group in its columns' units; of a count, the log-mean about that of its column."""
        if (own := standardizer_of(family)) is not None:
            return own.restored(first)
        if part.kind == "count":
            seen = next(each for each in self._standardizers() if each.columns == part.columns)
            return first + seen.loc.to(first)
        return first


def checked_families(families: Any, columns: tuple[Column, ...]) -> dict[str, Any]:
    """The families by kind or column; ValueError and TypeError for what is neither, for kinds that no column has.

    >>> from pyrovae import Column
    >>> from pyrovae.models.parts.columns import checked_families
    >>> checked_families({"count": "poisson"}, (Column("visits", "count"),))
    {'count': 'poisson'}
    """
    if families is None:
        return {}
    try:
        asked = dict(families)
    except (TypeError, ValueError):
        raise TypeError(
            "families must be a dictionary from a kind or a column's name to a family, as {'count': 'poisson'}, got "
            f"{families!r}"
        ) from None
    names, kinds = [column.name for column in columns], {column.kind for column in columns}
    for key, spec in asked.items():
        if key in names and key in KINDS:
            raise ValueError(f"families[{key!r}] may be the column of that name or all columns of that kind: rename it")
        if key not in names and key not in kinds:
            there = f"no column is of that kind; the columns are {', '.join(f'{c.name} ({c.kind})' for c in columns)}"
            what = there if key in KINDS else f"it is no kind ({', '.join(KINDS)}) and no column ({', '.join(names)})"
            raise ValueError(f"families[{key!r}]: {what}")
        if not isinstance(spec, str | nn.Module):
            raise TypeError(f"families[{key!r}] must be a registered name or a module, got {spec!r}")
    return asked


def in_recipes(families: Mapping[str, Any]) -> list[list[Any]] | None:
    """Families as recipes of saved pairs have them: pairs of a key and a family, None where there are none."""
    return [[key, spec] for key, spec in families.items()] or None


def _family(spec: Any, column: Column) -> Any:
    """A new family, with a scale, a dispersion or cuts for each column where the name does not say else."""
    if isinstance(spec, nn.Module):
        return copy.deepcopy(spec)
    made, stated = chosen("likelihood", spec)
    known = inspect.signature(made).parameters
    options = {} if FIXES & stated.keys() else {name: value for name, value in EACH.items() if name in known}
    if "num_classes" in known:
        options["num_classes"] = column.num_categories
    return made(**{**options, **stated})


def _require_support(family: Any, column: Column) -> None:
    """Refuse a family that has no density where a column has values, or has one where it can have none."""
    support = getattr(family, "support", None)
    with torch.device("cpu"):  # also where the pair is only sketched, on a device without values
        values = torch.tensor([*PROBES, *(column.num_categories + shift for shift in (-1.0, 0.0))])
        own = ColumnSupport([column]).check(values[:, None])[:, 0]
        same = isinstance(support, constraints.Constraint) and bool((support.check(values) == own).all())
    if same and not (column.kind == "categorical" and isinstance(family, Ordinal)):
        return
    like = f", with {column.num_categories} categories" if column.categories is not None else ""
    raise ValueError(
        f"column {column.name!r} is {column.kind}{like}, and {name_of(family)} is no family of such a column"
        f"{'' if same else f': its support is {support}'}. Take {' or '.join(map(repr, FAMILIES[column.kind]))}, or "
        f"let the column be of a kind that {plain_name_of(family)!r} fits"
    )
