"""CSV and Parquet files as tables: what is read of them, and what is named instead."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import data
from pyrovae.data.tables import files
from pyrovae.data.tables.csv_files import read_csv

PEOPLE = """\
name,age,height,smoker,grade
Ann,31,1.70,no,low
Bob,45,,yes,mid
Eve,,1.62,no,high
Joe,28,1.81,?,mid
Sue,31,1.55,yes,NA
"""


def written(tmp_path: Path, text: str | bytes, name: str = "people.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_is_read_with_its_names_and_missing_entries(tmp_path) -> None:
    path = written(tmp_path, PEOPLE)
    with pytest.raises(ValueError, match=r"1 column of no kind:\s+'name': an identifier"):
        data.load(path)
    loaded = data.load(path, kinds={"grade": ("ordinal", ("low", "mid", "high"))}, drop=["name"])
    assert [(column.name, column.kind) for column in loaded.columns] == [
        ("age", "count"),
        ("height", "positive"),
        ("smoker", "binary"),
        ("grade", "ordinal"),
    ]
    assert (loaded.name, len(loaded.train), len(loaded.test), loaded.stored) == ("people", 4, 1, "csv")
    assert loaded.table.dropped == ("name",)
    x = torch.tensor([[31, 1.70, 0, 0], [45, torch.nan, 1, 1], [torch.nan, 1.62, 0, 2], [28, 1.81, torch.nan, 1]])
    assert torch.equal(loaded.table.x[:4].nan_to_num(-9.0), x.nan_to_num(-9.0))
    assert torch.equal(loaded.table.missing, loaded.table.x.isnan())
    assert "'?' (once) taken as missing" in str(loaded.table)
    back = loaded.table.frame(with_dropped=True)
    assert back.columns.tolist() == ["name", "age", "height", "smoker", "grade"]
    assert back["name"].tolist() == ["Ann", "Bob", "Eve", "Joe", "Sue"]
    assert back["age"].dtype == "Int64" and back["height"][0] == 1.70


def test_a_column_is_taken_as_labels(tmp_path) -> None:
    path = written(tmp_path, "size,kind,n\n1.5,b,1\n2.5,a,0\n0.5,b,2\n3.5,a,2\n4.5,c,5\n")
    loaded = data.load(path, labels="kind")
    assert loaded.classes == ("a", "b", "c")
    assert loaded.whole().y.tolist() == [1, 0, 1, 0, 2]
    assert [column.name for column in loaded.columns] == ["size", "n"]
    assert data.load(path, labels="n", drop=["kind"]).whole().y.tolist() == [1, 0, 2, 2, 5]
    for labels, words in [("size", "classes, text or whole numbers"), ("knd", "did you mean 'kind'")]:
        with pytest.raises(ValueError, match=words):
            data.load(path, labels=labels)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_byte_order_marks_and_line_ends(tmp_path, separator: str, start: bytes, end: str) -> None:
    rows = [["size", "colour, or hue"], ["1.5", "red"], [" 2.5", " blue "], ['"3.5"', '"red"'], ["4.5", "blue"]]
    rows = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    text = end.join(separator.join(row) for row in rows) + end + end
    frame, remarks = read_csv(written(tmp_path, start + text.encode()))
    assert frame.columns.tolist() == ["size", "colour, or hue"]
    assert frame["size"].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert frame["colour, or hue"].tolist() == ["red", "blue", "red", "blue"]
    assert remarks == {}


def test_cells_become_numbers_as_they_are_meant(tmp_path) -> None:
    text = (
        "whole;gaps;comma;thousands;padded;science;text;marks;last;\n"
        "1;3;1,5;1,234;007;1e3;a;1.5;;\n"
        "2;;2;2,345;012;2.5E-2;b;-;x;\n"
        "3;4;-,5;1,000;110;-3;NA;2.5;y;\n"
        "5;NULL;3,25;9,999;003;.5;None;n/a;x;\n"
    )
    frame, remarks = read_csv(written(tmp_path, text))
    assert "column 10" not in frame  # the separator at the end of each line
    assert frame["whole"].dtype == "int64"
    assert frame["gaps"].dtype == "Int64" and frame["gaps"].isna().tolist() == [False, True, False, True]
    assert frame["comma"].tolist() == [1.5, 2.0, -0.5, 3.25]
    assert frame["thousands"].tolist() == ["1,234", "2,345", "1,000", "9,999"]
    assert frame["padded"].tolist() == ["007", "012", "110", "003"]
    assert frame["science"].tolist() == [1000.0, 0.025, -3.0, 0.5]
    assert frame["text"].isna().tolist() == [False, False, True, False]  # None may be a category, and stays text
    assert np.isnan(frame["marks"]).tolist() == [False, True, False, True]
    assert remarks["comma"] == "decimal commas"
    assert remarks["marks"] == "'-' (once) and 'n/a' (once) taken as missing"
    with pytest.raises(ValueError) as told:
        data.table(tmp_path / "people.csv")
    for name in ("thousands", "padded"):  # named, and not read as something that they may not be
        assert f"'{name}': numbers stored as text" in str(told.value)
    assert "'comma'" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.5,2\n2.5,3\n3.5,4\n", "no header"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n6.3,2.5,virginica\n", "no header"),
        ("a,b,a\n1,2,3\n", "'a' comes twice"),
        ("a,b\n1,2\n1,2,3\n", "2 names in its header and 3 cells in line 3"),
        ("a,b\n1,2\n3\n", "2 names in its header and 1 cells in line 3"),
        ("a,b\nr1,1,2\nr2,2,3\n", "give row names a name"),
        ("a,b\n", "no row"),
        ("\n\n", "is empty"),
        ('a,b\n"x"y,2\n', "quotation mark"),
        ("größe,b\n1,2\n".encode("cp1252"), "line 1 is not"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"a,b\n1,\x002\n", "NUL"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, text, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        data.load(written(tmp_path, text))
    assert "people.csv" in str(told.value)


def test_headers_of_years_are_headers(tmp_path) -> None:
    frame, _ = read_csv(written(tmp_path, "country,2001,2002\nA,1.5,2.5\nB,3.5,1.0\n"))
    assert frame.columns.tolist() == ["country", "2001", "2002"]


def test_dates_in_text_are_no_categories(tmp_path) -> None:
    path = written(tmp_path, "day,x\n" + "".join(f"2020-01-0{1 + i % 3},{i}.5\n" for i in range(9)))
    with pytest.raises(ValueError, match="'day': dates or times stored as text"):
        data.table(path)


def test_new_rows_of_a_file_are_read_as_the_first_were(tmp_path) -> None:
    path = written(tmp_path, "ward,n\nA1,3\n12,0\nB2,2\n12,2\nA1,7\n")
    table = data.table(path)
    assert table.columns[0].categories == ("12", "A1", "B2")
    new = written(tmp_path, "n,ward\n4,12\n5,12\n", "new.csv")  # by itself a column of numbers
    assert read_csv(new)[0]["ward"].dtype == "int64"
    assert table.like(new).x.tolist() == [[0.0, 4.0], [0.0, 5.0]]
    assert data.Encoding.from_recipe(table.encoding.recipe()).encode(new).x.tolist() == [[0.0, 4.0], [0.0, 5.0]]


def test_a_parquet_file_keeps_types_and_categories(tmp_path, monkeypatch) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([3, None, 5, 5], dtype="Int64"),
            "whole": [1.0, np.nan, 3.0, 4.0],
            "level": pd.Categorical(["low", "high", "mid", None], ["low", "mid", "high"], ordered=True),
            "flag": [True, False, True, True],
        }
    )
    frame.to_parquet(tmp_path / "people.parquet")
    loaded = data.load(tmp_path / "people.parquet")
    kinds = [column.kind for column in loaded.columns]
    assert kinds == ["count", "positive", "ordinal", "binary"]  # floats that the file says are floats
    assert loaded.columns[2].categories == ("low", "mid", "high")
    assert loaded.table.frame()["level"].tolist()[:3] == ["low", "high", "mid"]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    by_polars = data.table(tmp_path / "people.parquet", {"level": loaded.columns[2]})
    assert type(by_polars.frame()).__module__.startswith("polars")
    assert torch.equal(by_polars.x.nan_to_num(-9.0), loaded.table.x.nan_to_num(-9.0))
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(ImportError, match=r"pyrovae\[tables\]"):
        data.load(tmp_path / "people.parquet")


def test_files_that_are_none_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        data.load(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        data.table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"\.csv, \.tsv, \.parquet"):
        data.table("people.xlsx")
    with pytest.raises(ValueError, match="damaged or no Parquet file"):
        data.load(written(tmp_path, "x", "x.parquet"))
    for option in ({"kinds": {"a": "count"}}, {"drop": ["a"]}):
        with pytest.raises(ValueError, match="must be left out"):
            data.load("digits", **option)
    with pytest.raises(ValueError, match="channels must be left out"):
        data.load(written(tmp_path, PEOPLE), channels="last")
    assert not files.is_table_file("digits")


def test_covariates_lie_beside_the_rows_of_a_file(tmp_path) -> None:
    path = written(tmp_path, PEOPLE)
    loaded = data.load(path, drop=["name"], covariates=np.arange(5.0)[:, None])
    assert loaded.whole().covariates.flatten().tolist() == [0, 1, 2, 3, 4]
    assert loaded.train.columns == loaded.columns
