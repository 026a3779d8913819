"""Data frames as numbers with names: what a column is taken for, the way there and back, new data and parts."""

import datetime
import decimal
import json
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal as assert_polars_equal

import pyrovae
from pyrovae import Column, data
from pyrovae.data.tables import codes
from pyrovae.data.tables.encoding import Storage
from pyrovae.data.tables.native import Restored, built

N = 24
ORDER = ("low", "mid", "high")  # not that of Python's strings
KINDS = {"level": ("ordinal", ORDER)}


def columns(*, with_missing: bool) -> dict[str, list]:
    """Columns of every kind as lists, with None in two entries of each."""
    rng = np.random.default_rng(0)
    made = {
        "real": rng.normal(size=N).round(3).tolist(),
        "positive": rng.gamma(2.0, size=N).tolist(),  # of 17 digits
        "count": rng.poisson(4.0, size=N).tolist(),
        "below": rng.integers(-4, 5, size=N).tolist(),
        "flag": (rng.random(N) < 0.5).tolist(),
        "answer": rng.choice(["yes", "no"], N).tolist(),
        "sign": rng.choice([-1, 1], N).tolist(),
        "colour": rng.choice(["red", "green", "blue"], N).tolist(),
        "level": rng.choice(ORDER, N).tolist(),
    }
    if with_missing:
        for place, entries in enumerate(made.values()):
            entries[place] = entries[place + 9] = None
    return made


EXPECTED = {
    "real": ("real", None),
    "positive": ("positive", None),
    "count": ("count", None),
    "below": ("real", None),
    "flag": ("binary", (False, True)),
    "answer": ("binary", ("no", "yes")),
    "sign": ("binary", (-1, 1)),
    "colour": ("categorical", ("blue", "green", "red")),
    "level": ("ordinal", ORDER),
}


def pandas_frames(with_missing: bool) -> dict[str, pd.DataFrame]:
    frame = pd.DataFrame(columns(with_missing=with_missing), index=[f"person {i}" for i in range(N)])
    declared = frame.assign(
        level=pd.Categorical(frame["level"], ORDER, ordered=True),
        colour=pd.Categorical(frame["colour"], ["red", "green", "blue"]),
    )
    small = {"count": "int8", "sign": "int16", "real": "float32"} if not with_missing else {"real": "float32"}
    dictionary = pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))
    by_arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    return {
        "numpy": declared.astype(small),
        "nullable": frame.convert_dtypes(),
        "pyarrow": by_arrow.assign(colour=by_arrow["colour"].astype(dictionary)),
    }


@pytest.mark.parametrize("with_missing", [False, True])
@pytest.mark.parametrize("dtypes", ["numpy", "nullable", "pyarrow"])
def test_a_frame_of_pandas_comes_back_column_by_column(dtypes: str, with_missing: bool) -> None:
    frame = pandas_frames(with_missing)[dtypes]
    table = data.table(frame, {} if dtypes == "numpy" else KINDS)
    found = {column.name: (column.kind, column.categories) for column in table.columns}
    expected = EXPECTED | ({"colour": ("categorical", ("red", "green", "blue"))} if dtypes == "numpy" else {})
    assert found == expected
    assert table.x.shape == (N, len(found))
    assert (table.missing is not None) == with_missing
    assert np.array_equal(table.x.isnan().numpy(), frame.isna().to_numpy())
    back = table.frame()
    for name in frame.columns:
        pd.testing.assert_series_equal(back[name], frame[name])
    pd.testing.assert_frame_equal(table.frame(table.x), frame)
    again = data.Encoding.from_recipe(json.loads(json.dumps(table.encoding.recipe())))
    assert again == table.encoding
    if not with_missing:  # without the rows the digits are those of single precision, and the index is a new one
        pd.testing.assert_frame_equal(again.frame(table.x), frame.reset_index(drop=True), rtol=1e-7)
    # controls: another order of the categories, and a value that the frame has not
    level = frame["level"].astype(object)
    assert level[table.x[:, -1].numpy() == 0].unique().tolist() == ["low"]
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(table.frame(table.x + torch.tensor([1.0] + [0.0] * 8)), frame)


@pytest.mark.parametrize("with_missing", [False, True])
def test_a_frame_of_polars_comes_back_column_by_column(with_missing: bool) -> None:
    frame = pl.DataFrame(columns(with_missing=with_missing)).with_columns(
        pl.col("level").cast(pl.Enum(ORDER)),
        pl.col("colour").cast(pl.Categorical),
        pl.col("count").cast(pl.UInt8),
        pl.col("real").cast(pl.Float32),
    )
    table = data.table(frame)
    assert {column.name: (column.kind, column.categories) for column in table.columns} == EXPECTED
    assert_polars_equal(table.frame(), frame)
    assert_polars_equal(table.split(test=7).whole().frame(), frame)
    assert data.Encoding.from_recipe(json.loads(json.dumps(table.encoding.recipe()))) == table.encoding


@pytest.mark.parametrize("with_missing", [False, True])
def test_a_table_of_pyarrow_and_a_dict_come_back(with_missing: bool) -> None:
    entries = columns(with_missing=with_missing)
    frame = pa.table(entries).append_column("coded", pa.array(entries["colour"]).dictionary_encode())
    table = data.table(frame, KINDS)
    assert table.frame().schema == frame.schema
    assert table.frame().equals(frame)
    as_dict = data.table(entries, KINDS)
    assert as_dict.frame() == entries
    assert torch.equal(as_dict.x.isnan(), table.x[:, :-1].isnan())
    assert torch.equal(as_dict.x.nan_to_num(-9.0), table.x[:, :-1].nan_to_num(-9.0))


CASES = {
    # name: (column, kind or None where it is refused, words of the rule)
    "booleans with None": ([True, None, False, True], "binary", "booleans"),
    "0 and 1": ([0, 1, 1, 0], "binary", "two values"),
    "-1 and 1": ([-1, 1, 1, -1], "binary", "two values"),
    "two numbers": ([2.5, 4.5, 2.5, 4.5], "binary", "two values"),
    "two numbers, one of them once": ([2.5, 4.5, 4.5, 4.5], "positive", "all above 0"),
    "codes 0, 1, 2": ([0, 1, 2, 1], "count", "from 0 on"),
    "whole numbers below 0": ([-3, 1, 2, 1], "real", "below 0"),
    "integers with missing entries": ([3, None, 2, 2, 9], "count", "from 0 on"),
    "floats": ([0.5, 1.5, 2.5], "positive", "all above 0"),
    "floats with 0": ([0.0, 1.5, 2.5], "real", "not above 0"),
    "whole floats": ([1.0, 5.0, 2.0, 2.0], "positive", "all above 0"),
    "whole floats of pandas, some missing": (np.array([1.0, np.nan, 2.0, 2.0, 4.0]), "count", "some are missing"),
    "text": (["a", "b", "c", "a", "b", "c"], "categorical", "3 values"),
    "text with two values": (["a", "b", "a"], "binary", "two values"),
    "names": (["Ann", "Bob", "Eve"], None, "identifier"),
    "free text": ([*"abcdef", "a"], None, "text"),
    "numbers as text": (["1", "2", "1", "3", "2", "3"], None, "numbers stored as text"),
    "decimal commas": (["1,5", "2,5", "1,5", "2,5"], None, "numbers stored as text"),
    "numbers and a question mark": (["1", "?", "2", "1", "2", "?"], None, "numbers stored as text"),
    "a constant": ([3, 3, None, 3], None, "constant"),
    "nothing": ([None, None, None], None, "no entry"),
    "dates": ([datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 2)], None, "dates or times"),
    "durations": ([datetime.timedelta(1), datetime.timedelta(2)], None, "dates or times"),
    "lists": ([[1], [2], [3]], None, "list objects"),
    "a mixture": ([1, "a", 2, "b"], None, "text"),
    "infinite": ([1.0, float("inf"), 2.0], None, "1 infinite value"),
    "too large": ([2**53 + 1, 5, 7, 7], None, "2^53"),
    "beyond int64": ([2**70, 5, 7, 7], None, "2^53"),
    "a numbering": (list(range(12)), None, "identifier"),
    "a numbering in another order": ([5, 3, 4, 6, 9, 8, 7, 2, 1, 0], None, "identifier"),
    "few whole numbers in one run": ([5, 3, 4, 6], "count", "from 0 on"),
    "decimals": ([decimal.Decimal("1.5"), decimal.Decimal("2"), decimal.Decimal("2")], "positive", "above 0"),
    "complex": (np.array([1j, 2, 3]), None, "complex"),
}


@pytest.mark.parametrize("name", CASES)
def test_kinds_are_guessed_by_the_rules(name: str) -> None:
    entries, kind, words = CASES[name]
    frame = {"it": entries, "other": (np.arange(len(entries)) + 0.25).tolist()}
    if kind is None:
        with pytest.raises(ValueError, match=r"frame has 1 column of no kind:\s+'it': ") as told:
            data.table(frame)
        assert words in str(told.value)
        table = data.table(frame, drop=True)
        assert table.dropped == ("it",)
        assert words in str(table)
        return
    table = data.table(frame)
    assert table.columns[0].kind == kind
    assert words in table.findings[0].rule
    assert f"{table.findings[0].rule}: " in str(table)


def test_identifiers_are_known_by_their_name_too() -> None:
    numbers = [17, 4, 99, 3]
    with pytest.raises(ValueError, match="identifier"):
        data.table({"patient_id": numbers})
    assert data.table({"people": numbers}).columns[0].kind == "count"
    assert data.table({"patient_id": numbers}, {"patient_id": "count"}).columns[0].kind == "count"


def test_codes_of_missing_entries_are_named() -> None:
    for entries in ([31, -999, 40, -999, 22], [1.7, 999.0, 999.0, 1.8], [31, 99, 99, 7, 1, 2]):
        table = data.table({"it": entries})
        named = "far from all others: make it missing" in table.findings[0].advice
        assert named == (99 not in entries)  # 99 is not far from 31
        assert named == ("far from all others" in str(table))


def test_columns_of_other_types_are_named() -> None:
    times = pd.date_range("2020-01-01", periods=4)
    frame = pd.DataFrame(
        {
            "day": times,
            "zone": times.tz_localize("UTC"),
            "period": times.to_period("D"),
            "bins": pd.cut([1, 2, 3, 4], 2),
            "sparse": pd.arrays.SparseArray([0, 1, 0, 2]),
            "good": [1.5, 2.5, 3.0, 4.0],
        }
    )
    with pytest.raises(ValueError, match="frame has 5 columns of no kind") as told:
        data.table(frame)
    for name in ("day", "zone", "period", "bins", "sparse"):
        assert f"'{name}': " in str(told.value)
    assert data.table(frame, drop=["day", "zone", "period", "bins", "sparse"]).x.shape == (4, 1)
    nested = pl.DataFrame({"list": [[1], [2]], "struct": [{"a": 1}, {"a": 2}], "null": [None, None], "x": [1.5, 2.0]})
    assert data.table(nested, drop=True).dropped == ("list", "struct", "null")


def test_polars_null_and_nan_are_both_missing() -> None:
    table = data.table(pl.DataFrame({"x": [1.5, None, float("nan"), -2.0]}))
    assert table.missing.flatten().tolist() == [False, True, True, False]
    assert table.frame()["x"].to_list() == [1.5, None, None, -2.0]


def test_a_frame_that_is_none_is_refused() -> None:
    for frame, words in [
        (np.zeros((3, 2)), "have no names"),
        (torch.zeros(3, 2), "have no names"),
        (pl.LazyFrame({"a": [1]}), "collect"),
        ([1, 2], "got list"),
        ({"a": 3}, "column of entries"),
    ]:
        with pytest.raises(TypeError, match=words):
            data.table(frame)
    for frame, words in [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' comes twice"),
        (pd.DataFrame([[1, 2]], columns=["0", 0]), "'0' comes twice"),
        (pd.DataFrame([[1, 2]], columns=[1.5, "a"]), "strings or whole numbers"),
        (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])), "several levels"),
        (pd.DataFrame({"a": []}), "at least one row"),
        ({"a": [1, 2], "b": [1]}, "one length"),
    ]:
        with pytest.raises(ValueError, match=words):
            data.table(frame)


def test_names_that_are_numbers_come_back_as_numbers() -> None:
    frame = pd.DataFrame({0: [1.5, -2.5], 7: ["a", "b"]})
    table = data.table(frame, {7: "binary"})
    assert [column.name for column in table.columns] == ["0", "7"]
    pd.testing.assert_frame_equal(table.frame(), frame)


def test_kinds_are_stated() -> None:
    frame = {"n": [0, 1, 2, 1], "s": ["low", "high", "mid", "low"], "b": [True, False, True, True]}
    made = data.table(frame, {"n": "ordinal", "s": Column("s", "ordinal", ORDER), "b": "count"}).columns
    assert made == (Column("n", "ordinal", (0, 1, 2)), Column("s", "ordinal", ORDER), Column("b", "count"))
    assert data.table(frame, {"s": ("categorical", ("mid", "low", "high"))}).x[:, 1].tolist() == [1, 2, 0, 1]
    again = data.table(frame, data.table(frame, {"n": "real", "s": KINDS["level"]}).columns)
    assert [column.kind for column in again.columns] == ["real", "ordinal", "binary"]
    for kinds, kind, words in [
        ({"s": "ordinal"}, ValueError, "no order of their own"),
        ({"m": "count"}, ValueError, "no such column"),
        ({"n": "counts"}, ValueError, "did you mean 'count'"),
        ({"s": "real"}, TypeError, "convert them to numbers"),
        ({"s": "binary"}, ValueError, "two categories, and its entries have 3"),
        ({"s": ("ordinal", ("low", "high"))}, ValueError, "'mid'"),
        ({"n": "positive"}, ValueError, "above 0 in each entry, got 0 in row 0"),
        ({"s": Column("t", "count")}, ValueError, "of that name"),
        ("count", TypeError, "dict"),
    ]:
        with pytest.raises(kind, match=words):
            data.table(frame, kinds)
    with pytest.raises(ValueError, match=r"got 0\.5 in row 1"):
        data.table({"n": [1.0, 0.5]}, {"n": "count"})
    with pytest.raises(ValueError, match="dates or times"):
        data.table({"n": [datetime.date(2020, 1, 1)]}, {"n": "real"})


def test_new_data_have_the_same_codes_whatever_the_order_of_their_columns() -> None:
    frame = pandas_frames(True)["numpy"]
    table = data.table(frame.assign(name=frame.index), drop=["name"])
    rows = {name: entries[3:9] for name, entries in reversed(columns(with_missing=True).items())}
    turned = table.like(pl.DataFrame(rows | {"real": [np.float32(v) if v is not None else v for v in rows["real"]]}))
    assert torch.equal(turned.x.nan_to_num(-9.0), table.x[3:9].nan_to_num(-9.0))
    assert turned.columns == table.columns
    assert isinstance(turned.frame(), pl.DataFrame)
    some = frame[frame["colour"] != "red"].assign(level=None)  # fewer categories than the table has
    assert table.like(some).x[:, 7].nan_to_num(1.0).unique().tolist() == [1.0, 2.0]
    filled = table.like(some).frame(table.like(some).x.nan_to_num(1.0))
    assert filled["level"].tolist() == ["mid"] * len(some)
    for changed, kind, words in [
        (
            frame.assign(colour="pink"),
            ValueError,
            "'pink' that the table was not made with, in 24 entries, the first in row 0",
        ),
        (frame.drop(columns="real"), ValueError, "no column 'real'"),
        (frame.assign(more=1), ValueError, "column 'more' is unknown"),
        (frame.assign(real="a"), TypeError, "must be numbers, got text"),
        (frame.assign(count=0.5), ValueError, "got 0.5 in row 0 of frame"),
        (frame.assign(sign="1"), ValueError, "in the type of the categories"),
    ]:
        with pytest.raises(kind, match=words):
            table.like(changed)
    with pytest.raises(ValueError, match=r"no column 'real'.*'more' is unknown.*'pink'"):
        table.like(frame.drop(columns="real").assign(more=1, colour="pink"))
    assert table.like(frame.assign(more=1, name="a"), drop=["more"]).dropped == ("more", "name")


def test_draws_become_frames_with_categories_and_wider_types() -> None:
    frame = pandas_frames(True)["numpy"].assign(name=[f"id {i}" for i in range(N)])
    table = data.table(frame, drop=["name"])
    filled = torch.stack([table.x.nan_to_num(value) for value in (1.0, 0.0)])
    filled[:, :, 1] = filled[:, :, 1].clamp(min=0.25)
    ones, zeros = table.frame(filled, with_dropped=True)
    assert list(ones.columns) == list(frame.columns)
    assert ones.index.tolist() == frame.index.tolist()
    assert ones["count"].dtype == "int64"  # pandas had made floats of it for want of integers with missing entries
    assert ones["flag"].dtype == bool
    gone = frame["level"].isna().to_numpy()
    assert (ones["level"][gone] == "mid").all() and (zeros["level"][gone] == "low").all()
    assert (ones["positive"][~frame["positive"].isna()] == frame["positive"].dropna()).all()  # all 17 digits
    sampled = table.frame(filled[0, :5])  # other rows: no index of these
    assert sampled.index.tolist() == list(range(5))
    halves = data.table(pd.DataFrame({"n": [-1, 2, 2]})).frame(torch.tensor([[0.5]]))
    assert halves["n"].dtype == "float64"
    for x, words in [
        (filled.mean(0), "means are no counts"),
        (filled[0] + 0.5 * (torch.arange(9) == 4), "means of codes have no category"),
        (filled[0] + 5 * (torch.arange(9) == 4), "codes 0 to 1 in column 'flag'"),
        (filled[0, :, :4], r"shape \(N, 9\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            table.frame(x)
    with pytest.raises(ValueError, match="rows of this table"):
        table.frame(filled[0, :5], with_dropped=True)


def test_parts_have_all_rows_once_and_carry_the_mask() -> None:
    frame = pandas_frames(True)["numpy"]
    table = data.table(frame)
    parts = table.split(test=0.25, seed=3)
    assert (len(parts.train), len(parts.test)) == (18, 6)
    assert parts.columns == table.columns
    for part in (parts.train, parts.test):
        assert torch.equal(part.missing, part.x.isnan())
        pd.testing.assert_frame_equal(part.frame(), frame.loc[part.frame().index], check_dtype=False)
    pd.testing.assert_frame_equal(parts.table.frame(), frame)
    assert torch.equal(parts.train.x.nan_to_num(-9), table.split(test=6, seed=3).train.x.nan_to_num(-9))
    assert not torch.equal(parts.train.x.nan_to_num(-9), table.split(test=6, seed=4).train.x.nan_to_num(-9))
    labels = np.repeat([0, 1, 2], [12, 8, 4])
    for count, expected in [(6, [3, 2, 1]), (7, [4, 2, 1]), (5, [2, 2, 1]), (4, [2, 1, 1])]:  # the largest remainders
        strata = labels[table.split(test=count, stratify=labels).order[N - count :].numpy()]
        assert np.bincount(strata).tolist() == expected
    by_level = table.split(test=12, stratify="level")
    for code in (0.0, 1.0, 2.0):
        counts = [int((part.x[:, -1] == code).sum()) for part in (by_level.train, by_level.test)]
        assert abs(counts[0] - counts[1]) <= 1
    for test, words in [(1.5, "between 0 and 1"), (24, "at least"), (0, "at least"), (0.0, "between 0 and 1")]:
        with pytest.raises(ValueError, match=words):
            table.split(test=test)
    with pytest.raises(ValueError, match="is positive"):
        table.split(stratify="positive")


def test_the_rows_of_a_split_are_those_of_load(tmp_path) -> None:
    x = np.random.default_rng(1).normal(size=(11, 2))
    np.save(tmp_path / "x.npy", x)
    loaded = data.load(tmp_path / "x.npy")
    split = data.table(pd.DataFrame(x, columns=["a", "b"])).split()
    assert torch.equal(split.order, loaded.order)
    assert (len(split.train), len(split.test)) == (len(loaded.train), len(loaded.test))


def test_decimals_are_those_that_came_also_of_other_rows() -> None:
    table = data.table({"it": [0.1, -0.7, 123.456, -2.5]})
    assert table.x.dtype == torch.float32 and float(table.x[0, 0]) != 0.1
    assert table.encoding.frame(table.x)["it"] == [0.1, -0.7, 123.456, -2.5]


def test_single_precision_only_where_it_holds_the_column() -> None:
    for entries, kind, dtype in [
        ([0.1, 0.2, -0.4], "real", torch.float32),
        ([1e9 + 0.125, 1e9 + 0.25, 1e9 + 0.5, 1e9 + 0.75], "positive", torch.float64),
        ([2**24 + 1, 0, 3, 2], "count", torch.float64),
        ([1e-45, 1e3, 2e3], "positive", torch.float64),
    ]:
        table = data.table({"it": entries})
        assert (table.columns[0].kind, table.x.dtype) == (kind, dtype)
        assert table.frame()["it"] == entries


def test_a_matrix_of_anndata_keeps_its_names() -> None:
    class AnnData:
        def __init__(self, X, var_names, obs_names) -> None:  # noqa: N803
            self.X, self.var_names, self.obs_names = X, pd.Index(var_names), pd.Index(obs_names)

    counts = np.array([[0, 3, 1], [2, 0, 1], [1, 1, 0]], dtype=np.float32)
    table = data.table(AnnData(counts, ["g1", "g2", "g3"], ["c1", "c2", "c3"]))
    assert [(column.name, column.kind) for column in table.columns] == [
        ("g1", "count"),
        ("g2", "count"),
        ("g3", "count"),
    ]
    assert table.frame().index.tolist() == ["c1", "c2", "c3"]
    with pytest.raises(ValueError, match="var_names_make_unique"):
        data.table(AnnData(counts, ["g", "g", "h"], ["c1", "c2", "c3"]))


def test_a_table_is_taken_as_a_split() -> None:
    table = data.table({"a": [0.5, 1.0, -1.0], "b": [1.0, 2.5, -1.5]})
    items, labels = pyrovae.checks.parts_of(table)
    assert items is table.x and labels is None
    assert torch.equal(pyrovae.checks.array(table, "x"), table.x)
    assert table[[2, 0]].frame() == {"a": [-1.0, 0.5], "b": [-1.5, 1.0]}
    assert table.event_shape == (2,) and len(table) == 3
    assert repr(table) == "Table(3 rows, 2 columns)"


def test_recipes_that_are_none_are_refused() -> None:
    recipe = data.table({"a": [0.5, 1.0, -1.0]}).encoding.recipe()
    for changed in ({}, recipe | {"format": 2}, recipe | {"columns": [{"name": "a"}]}, recipe | {"columns": []}):
        with pytest.raises(ValueError, match=r"Encoding\.recipe\(\)"):
            data.Encoding.from_recipe(changed)


def test_a_library_that_is_absent_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(ImportError, match=r'pip install "pyrovae\[tables\]"'):
        built("polars", [Restored("a", "Float64", np.array([1.0]), np.array([False]))])


def test_controls(monkeypatch) -> None:
    """What the round trips would not see is no test: categories in another order, and a missing entry as a code."""
    frame = pandas_frames(True)["numpy"]
    made = data.table(frame)

    def alphabetical(column, stored):
        return right(
            Column(column.name, column.kind, column.categories and tuple(sorted(column.categories, key=str))), stored
        )

    right = codes.encoded
    monkeypatch.setattr("pyrovae.data.tables.making.encoded", alphabetical)
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(data.table(frame).frame(), frame)
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(made.frame(made.x.nan_to_num(1.0)), frame)


@pytest.mark.parametrize("make", [dict, pd.DataFrame])
def test_a_mask_a_slice_and_one_row_keep_what_was_dropped(make):
    table = data.table(make({"a": [1.5, 2.5, 3.5, 4.7], "id": list("wxyz")}), drop=["id"])
    for rows, wanted in (
        (torch.tensor([False, False, True, True]), "yz"),
        (slice(1, 3), "xy"),
        (torch.tensor([3]), "z"),
        ([2, 0], "yw"),
    ):
        assert "".join(table[rows].frame(with_dropped=True)["id"]) == wanted


def test_the_ordered_flag_of_a_dictionary_of_pyarrow_makes_an_order_and_comes_back() -> None:
    codes_of_rows = pa.array([2, 0, None, 1], pa.int8())
    for ordered, kind, categories in ((True, "ordinal", ORDER), (False, "categorical", tuple(sorted(ORDER)))):
        column = pa.DictionaryArray.from_arrays(codes_of_rows, list(ORDER), ordered=ordered)
        frame = pa.table({"level": column, "x": [0.5, -1.5, 2.5, 3.0]})
        table = data.table(frame, {} if ordered else {"level": "categorical"})
        assert (table.columns[0].kind, table.columns[0].categories) == (kind, categories)
        back = table.frame()["level"]
        assert back.type == frame["level"].type and back.type.ordered == ordered
        assert back.to_pylist() == ["high", "low", None, "mid"]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_whole_numbers_beyond_their_type_take_the_next_and_fractions_become_floats(make) -> None:
    table = data.table(make({"n": np.array([1, 2, 3, 3], np.int8)}), {"n": "real"})
    for values, dtype in (([1.0, -128.0], "int8"), ([1.0, 300.0], "int64"), ([1.0, 0.5], "(float64|double)")):
        back = table.encoding.frame(torch.tensor(values)[:, None])["n"]
        assert back.to_list() == values if hasattr(back, "to_list") else back.to_pylist() == values
        found = str(getattr(back, "dtype", None) or back.type).lower()
        assert re.fullmatch(dtype, found), found


def test_a_column_of_new_rows_keeps_the_categories_and_the_type_that_the_table_has() -> None:
    colours = ["red", "green", "blue"]
    table = data.table(pd.DataFrame({0: pd.Categorical(["red", "blue", "red"], colours), 1: np.int16([3, 0, 9])}))
    new = table.like(pd.DataFrame({0: pd.Categorical(["green"] * 2), 1: [np.nan, np.nan]}))  # fewer, and no entry
    back = new.frame(torch.tensor([[0.0, 7.0], [1.0, 0.0]]))
    assert back[0].tolist() == ["red", "green"] and back[0].cat.categories.tolist() == colours
    assert back[1].dtype == np.int16 and back[1].tolist() == [7, 0]
    more = table.like(pd.DataFrame({0: pd.Categorical(["green"], [*colours, "pink"]), 1: [2]})).frame()
    assert more[0].cat.categories.tolist() == [*colours, "pink"]  # as the new rows' own type declares
    other = table.like(pl.DataFrame({"0": ["red"], "1": [None]}))  # another library: no type of before
    assert other.encoding.storage[1] == Storage("1", "")
    assert other.frame([[0.0, 7.0]])["1"].to_list() == [7.0]


def test_what_is_stated_and_dropped_is_refused_but_for_the_columns_of_another_table() -> None:
    frame = {"a": [1.5, 2.5, -3.0], "b": [1, 2, 3]}
    with pytest.raises(ValueError, match="kinds states a kind of 'b', and drop leaves it out"):
        data.table(frame, {"b": "real"}, drop=["b"])
    assert data.table(frame, data.table(frame).columns, drop="b").dropped == ("b",)
    assert data.table({**frame, "id": list("xyz")}, {"b": "real"}, drop=True).dropped == ("id",)


def test_the_hint_on_an_order_is_one_that_can_be_followed() -> None:
    frame = {"n": [0, 1, 2, 1], "level": ["low", "high", "mid", "low"]}
    lines = str(data.table(frame)).splitlines()
    assert lines[-2] == "another kind: data.table(frame, kinds={'n': 'categorical'})"  # as its line advises
    assert lines[-1] == (
        "if 'level' has an order: kinds={'level': ('ordinal', ('high', 'low', 'mid'))}, rearranged, the lowest first"
    )
    assert data.table(frame, KINDS).columns[1].categories == ORDER
    assert "has an order" not in str(data.table(frame, KINDS))  # it is stated
    assert "has an order" not in str(data.table(frame, drop=["level"]))


def test_a_category_that_is_new_is_named_alone() -> None:
    table = data.table({"town": ["Aachen", "Bonn", "Celle"], "x": [1.5, 2.5, 3.0]}, {"town": "categorical"})
    with pytest.raises(ValueError, match=r"^column 'town' has the category 'Ulm' that the table was not made with, in"):
        table.like({"town": ["Aachen", "Ulm"], "x": [1.0, 2.0]})
