"""What a refused difference of two estimates says of their items: what differs, and nothing that does not."""

from __future__ import annotations

import math
import re

import pytest
import torch

import pyrovae
from pyrovae import Column
from pyrovae.evaluation.item_marks import MARKS, marks_of, other_codes_between, what_differs_between

COLUMNS = (Column("height", "positive"), Column("visits", "count"), Column("town", "categorical", ("A", "B", "C")))
X = torch.tensor([[1.5, 0, 0], [2.5, 3, 1], [1.75, 1, 2], [2.0, 1, 0]], dtype=torch.float64)
UNSAID = {"units", "order", "missing", "code", "kind", "covariates", "alone", "items in one"}


def estimate(x=X, columns=COLUMNS, **options):
    """log p(x) of a latent class model at its first parameters, which are the same in every call."""
    return pyrovae.exact(pyrovae.ColumnMixture(columns, 1).double(), x, **options)


def with_units():
    return {"x": X * torch.tensor([100.0, 1.0, 1.0])}


def with_nan(*places):
    x = X.clone()
    for row, column in places:
        x[row, column] = math.nan
    return {"x": x, "missing": True}


OTHERS = {
    "units": (with_units, "values differ of 'height' (mean 1.938 in one and 193.8 in the other): other units?"),
    "order": (lambda: {"x": X.flip(0)}, "the entries are the same in another order"),
    "rows": (lambda: {"x": X + 1, "columns": (*COLUMNS[:2], Column("town", "count"))}, "other units, or other rows?"),
    "items in one": (lambda: {"x": X[:3]}, "there are 4 items in one and 3 in the other"),
    "missing": (
        lambda: with_nan((1, 1)),
        "of the entries none are missing in one and 1 in the other, among others of 'visits'",
    ),
    "alone": (
        lambda: {"x": X[:, :2], "columns": COLUMNS[:2]},
        "items have shape (3,) in one and (2,) in the other; column 'town' is of the first alone",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_items_that_differ_are_told_by_what_differs_of_them(case):
    make, words = OTHERS[case]
    with pytest.raises(ValueError, match=r"of (different items|other kinds)|are not measured alike") as caught:
        estimate() - estimate(**make())
    if case != "rows":
        assert words in str(caught.value)
        reason = re.search(r"different items \((.*)\): give", str(caught.value))[1]
        assert {word for word in UNSAID - {case} if word in reason} <= ({"in one"} if case != "units" else set())


def test_other_entries_of_one_number_are_missing():
    with pytest.raises(ValueError, match="other entries are missing, 1 in each"):
        estimate(**with_nan((1, 1))) - estimate(**with_nan((2, 1)))


def test_all_values_differ():
    with pytest.raises(ValueError, match=r"of 'height' .*, 'visits' .*, 'town' .*other units, or other rows\?"):
        shifted = torch.stack([X[:, 0] + 1, X[:, 1] + 1, X[:, 2].flip(0).clamp(max=1)], 1)
        estimate() - estimate(shifted)


def test_kinds_are_named_where_the_measures_differ():
    kinds = (COLUMNS[0], Column("visits", "real"), COLUMNS[2])
    with pytest.raises(ValueError, match=r"other kinds .*\(column 'visits' is count in one and real in the other\)"):
        estimate() - estimate(columns=kinds)
    numbers, reals = (Column("a", "count"), Column("b", "count")), (Column("a", "real"), Column("b", "count"))
    with pytest.raises(ValueError, match=r"a mass and a mixed .*\(column 'a' is count in one and real in the other\)"):
        estimate(X[:, 1:], numbers) - estimate(X[:, 1:], reals)


def test_codes_that_stand_for_other_categories_are_refused_though_the_numbers_are_the_same():
    swapped = (*COLUMNS[:2], Column("town", "categorical", ("B", "A", "C")))
    with pytest.raises(ValueError, match="no log p is comparable: code 0 of column 'town' is 'A' in one and 'B' in"):
        estimate() - estimate(columns=swapped)
    assert (estimate() - estimate()).mean == 0.0  # the control
    same_measure = (Column("height", "real"), *COLUMNS[1:])
    assert math.isfinite((estimate() - estimate(columns=same_measure)).mean)


def test_arrays_without_columns():
    pair = pyrovae.linear_vae(2, 1)
    x = X[:, :2].float()
    one = pyrovae.exact(pair, x)
    with pytest.raises(ValueError, match=r"values differ \(their mean is 1.594 in one and 15.94 in the other\)"):
        one - pyrovae.exact(pair, 10 * x)
    with pytest.raises(ValueError, match="the entries are the same in another order"):
        one - pyrovae.exact(pair, x.flip(0))


def test_the_same_values_in_another_precision_are_not_said_to_differ():
    x = torch.tensor([[0.1, 0.2], [0.3, 0.7]], dtype=torch.float64)
    one, other = ({MARKS: marks_of(each, {}, None)} for each in (x, x.float().double()))
    assert "the same values in another precision" in what_differs_between(one, other)
    assert "other units" in what_differs_between(one, {MARKS: marks_of(10 * x, {}, None)})


def test_two_runs_of_one_model_are_no_gap_and_exact_is_called_by_what_it_is():
    assert str(estimate() - estimate()).startswith("difference between runs of exact  0.000 nats")
    other = pyrovae.ColumnMixture(COLUMNS, 2).double()
    assert (estimate() - pyrovae.exact(other, X)).kind == "difference in log p(x)"


def test_marks_of_many_columns_fit_into_a_file_and_still_tell_other_codes():
    names = [f"a column with a long name, number {j}" for j in range(600)]
    towns = [Column(name, "categorical", ("A", "B", "C")) for name in names]
    x = torch.zeros(3, 600, dtype=torch.float64)
    one, other = (
        marks_of(x, {}, made) for made in (towns, [*towns[1:], Column("last", "categorical", ("B", "A", "C"))])
    )
    assert len(one) < 64_000
    assert other_codes_between({MARKS: one}, {MARKS: other}) == "their columns are too many to name"
    assert other_codes_between({MARKS: one}, {MARKS: one}) == ""
