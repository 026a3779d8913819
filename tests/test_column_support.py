"""The support of a table's row: what each kind of column holds, and errors that name the column."""

from __future__ import annotations

import math

import pytest
import torch

from pyrovae import Column, checks
from pyrovae.models import registry
from pyrovae.models.column_support import ColumnSupport

COLUMNS = (
    Column("height", "real"),
    Column("income", "positive"),
    Column("visits", "count"),
    Column("smoker", "binary", ("no", "yes")),
    Column("species", "categorical", ("a", "b", "c")),
    Column("stage", "ordinal", 4),
)
INSIDE = torch.tensor([[-3.0, 0.5, 7.0, 1.0, 2.0, 3.0], [0.0, 1e-30, 0.0, 0.0, 0.0, 0.0]])
OUTSIDE = {"income": [0.0, -1.0], "visits": [-1.0, 0.5], "smoker": [2.0, 0.5], "species": [3.0, -1.0], "stage": [4.0]}


def test_each_kind_has_its_values():
    support = ColumnSupport(COLUMNS)
    assert support.check(INSIDE).all()
    assert support.check(INSIDE.double()).all()
    checks.support(torch.where(INSIDE > 5, math.nan, INSIDE), support, "any")  # what is missing is not looked at
    for wrong in (math.nan, math.inf, -math.inf):
        assert not support.check(torch.full((1, 6), wrong)).any()


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_entry_outside_is_named_by_its_column(name):
    support, j = ColumnSupport(COLUMNS), [column.name for column in COLUMNS].index(name)
    for value in OUTSIDE[name]:
        x = INSIDE.clone()
        x[1, j] = value
        expected = f"column '{name}' of x is {COLUMNS[j].kind} .* 1 of its 2 entries .* x\\[1, {j}\\] = {value:g}"
        with pytest.raises(ValueError, match=expected):
            checks.support(x, support, "any")


def test_measures_follow_the_kinds():
    measures = [ColumnSupport(columns).base_measure for columns in (COLUMNS, COLUMNS[:2], COLUMNS[2:])]
    assert measures == ["mixed", "density", "mass"]
    assert ColumnSupport(COLUMNS[2:]).is_discrete
    assert not ColumnSupport(COLUMNS).is_discrete


def test_columns_stand_in_recipes():
    plain = registry._plain(list(COLUMNS))
    assert registry._hindrance(plain) is None
    assert tuple(registry._built(plain)) == COLUMNS
    odd = Column("day", "categorical", (1j, 2j))
    assert "column 'day'" in str(registry._hindrance(registry._plain(odd)))
