"""A column of a table: its name, its kind, and the categories that its codes stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pyrovae import checks
from pyrovae.listed import listed

__all__ = ["KINDS", "Column", "Kind", "checked_columns", "other_codes", "what_differs"]

Kind = Literal["real", "positive", "count", "binary", "categorical", "ordinal"]
KINDS: tuple[str, ...] = get_args(Kind)
BYTES_OF_CATEGORY = 40
CODED = ("binary", "categorical", "ordinal")  # whose entries are codes of categories, from 0 on


@dataclass(frozen=True)
class Column:
    """A column of a table, as a model of tables needs to know it.

    `kind` says which values its entries have, and so which distributions fit them: "real" any number, "positive"
    numbers above 0, "count" whole numbers from 0 on, "binary" 0 and 1, "categorical" codes 0..C - 1 of categories
    without an order, and "ordinal" codes of categories in an order. `categories` are what the codes stand for, code k
    for `categories[k]`: two of them for a binary column, and at least two for the others that have codes. A number C
    stands for the categories 0..C - 1.

    Raises ValueError for an unknown kind, for categories that are not distinct, too few, or missing where the kind has
    codes, and for categories of a kind that has none.

    >>> from pyrovae import Column
    >>> Column("species", "categorical", ("Adelie", "Gentoo"))
    Column(name='species', kind='categorical', categories=('Adelie', 'Gentoo'))
    >>> Column("stage", "ordinal", 3).num_categories
    3
    """

    name: str
    kind: Kind
    categories: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name of a column must be a string, got {self.name!r}")
        checks.choice(f"kind of column {self.name!r}", self.kind, KINDS)
        given: Any = self.categories
        if self.kind == "binary" and given is None:
            given = (0, 1)
        if isinstance(given, int) and not isinstance(given, bool):
            name = f"categories of column {self.name!r}"
            given = tuple(range(checks.whole(name, given, bytes_each=BYTES_OF_CATEGORY)))
        if self.kind not in CODED:
            if given is not None:
                raise ValueError(
                    f"column {self.name!r} is {self.kind} and has no categories, got {given!r}: leave them out, or "
                    "let it be 'categorical' or 'ordinal'"
                )
            return
        if given is None:
            raise ValueError(
                f"column {self.name!r} is {self.kind}: state its categories, in the order of their codes from 0 on, "
                "or their number"
            )
        if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
            raise TypeError(
                f"categories of column {self.name!r} must be a tuple of what the codes stand for, or their number, got "
                f"{given!r}"
            )
        values = tuple(given)
        wanted = "exactly 2" if self.kind == "binary" else "at least 2"
        if len(values) < 2 or (self.kind == "binary" and len(values) > 2):
            raise ValueError(f"column {self.name!r} is {self.kind} and must have {wanted} categories, got {values!r}")
        if len(set(values)) < len(values):
            raise ValueError(f"categories of column {self.name!r} must be distinct, got {values!r}")
        object.__setattr__(self, "categories", values)

    @property
    def num_categories(self) -> int:
        """The number of categories; 0 of a kind without codes."""
        return 0 if self.categories is None else len(self.categories)

    @property
    def is_discrete(self) -> bool:
        """Whether an entry has a probability; a density otherwise."""
        return self.kind not in ("real", "positive")


def checked_columns(columns: Any) -> tuple[Column, ...]:
    """The columns of a table, or of a sequence of `Column`s; TypeError and ValueError for anything else.

    A list (name, kind) or (name, kind, categories) stands for the column that it describes.

    >>> from pyrovae.columns import Column, checked_columns
    >>> checked_columns([Column("age", "positive")])
    (Column(name='age', kind='positive', categories=None),)
    """
    given: Any = getattr(columns, "columns", columns)
    if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise TypeError(
            f"columns must be the columns of a table, as data.table(frame).columns, or a sequence of pyrovae.Column, "
            f"got {type(columns).__name__}"
        )
    made = tuple(_column(each) for each in given)
    wrong = [each for each in made if not isinstance(each, Column)]
    if wrong:
        raise TypeError(
            f"columns must be pyrovae.Column objects, as data.table(frame).columns has them, got {wrong[0]!r}"
        )
    if not made:
        raise ValueError("columns must be at least one, got none")
    names: Sequence[str] = [each.name for each in made]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"columns must have names of their own, and {repeated[0]!r} comes twice")
    return made


def _column(given: Any) -> Any:
    """The column that a list or tuple describes; anything else as it is."""
    return Column(*given) if isinstance(given, list | tuple) and len(given) in (2, 3) else given


def what_differs(columns: Sequence[Column], others: Sequence[Column]) -> str:
    """What the columns of one table have and those of another have not, in words: names, kinds, codes; else "".

    >>> from pyrovae.columns import Column, what_differs
    >>> what_differs([Column("visits", "count")], [Column("visits", "real")])
    "column 'visits' is count in one and real in the other"
    """
    names, other_names = [each.name for each in columns], [each.name for each in others]
    reasons = []
    for here, there, which in ((names, other_names, "first"), (other_names, names, "second")):
        if alone := [repr(name) for name in here if name not in there]:
            word = "column" if len(alone) == 1 else "columns"
            reasons.append(f"{word} {listed(alone)} {'is' if len(alone) == 1 else 'are'} of the {which} alone")
    by_name = {each.name: each for each in others}
    both = [(each, by_name[each.name]) for each in columns if each.name in by_name]
    reasons += [
        f"column {one.name!r} is {one.kind} in one and {other.kind} in the other"
        for one, other in both
        if one.kind != other.kind
    ]
    reasons += filter(None, [other_codes([one], [other]) for one, other in both])
    if not reasons and names != other_names:
        reasons.append("the columns are in another order")
    return listed(reasons, sign="; ")


def other_codes(columns: Sequence[Column], others: Sequence[Column]) -> str:
    """Of which columns of one name the codes stand for other categories, in words; "" where of none.

    >>> from pyrovae.columns import Column, other_codes
    >>> other_codes([Column("town", "binary", ("Bonn", "Celle"))], [Column("town", "binary", ("Celle", "Bonn"))])
    "code 0 of column 'town' is 'Bonn' in one and 'Celle' in the other"
    """
    by_name = {each.name: each for each in others}
    reasons = []
    for one in columns:
        other = by_name.get(one.name, one)
        if not one.categories or not other.categories or one.categories == other.categories:
            continue
        pairs = enumerate(zip(one.categories, other.categories, strict=False))
        code = next((f"{k} of column {one.name!r} is {a!r} in one and {b!r}" for k, (a, b) in pairs if a != b), None)
        words = f"code {code} in the other"
        if code is None:
            sizes = f"{one.num_categories} categories in one and {other.num_categories}"
            words = f"column {one.name!r} has {sizes} in the other"
        reasons.append(words)
    return listed(reasons, sign="; ")
