"""`pyrovae data` of a table: what each column is taken for, and how another kind is stated."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pyrovae import columns, data
from pyrovae.cli import main
from pyrovae.cli.table_options import KINDS, kinds_of

PEOPLE = """\
name,age,height,smoker,grade,a=b
Ann,31,1.70,no,low,1
Bob,45,,yes,mid,0
Eve,,1.62,no,high,1
Joe,28,1.81,?,mid,1
Sue,31,1.55,yes,NA,0
"""


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.csv").write_text(PEOPLE, encoding="utf-8")
    return tmp_path


def test_it_says_what_each_column_is_and_how_to_change_that(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "people.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "people: 5 rows, 6 columns, 4 of 30 entries missing"
    assert [line.split()[:2] for line in lines[1:7]] == [
        ["name", "refused"],
        ["age", "count"],
        ["height", "positive"],
        ["smoker", "binary"],
        ["grade", "categorical"],
        ["a=b", "binary"],
    ]
    assert "1 column is of no kind: --drop name, or state one" in lines
    assert lines[-2] == "another kind: --kind age=real"
    order = "--kind grade=ordinal:high,low,mid"
    assert lines[-1] == f"if 'grade' has an order: {order}, with the categories rearranged, the lowest first"
    # what it advises is what it takes
    words = [*lines[-2].removeprefix("another kind: ").split(), *order.split()]
    assert main(["data", "people.csv", "--drop", "name", *words, "--json"]) == 0
    facts = {each["name"]: each for each in json.loads(capsys.readouterr().out)["columns"]}
    assert facts["age"]["kind"] == "real" and facts["name"]["dropped"] is True
    assert facts["grade"]["kind"] == "ordinal" and facts["grade"]["categories"] == ["high", "low", "mid"]


def test_it_says_the_same_as_the_library(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kind", "grade=ordinal:low,mid,high", "--kind", "a=b=count", "--drop", "refused"]
    assert main(["data", "people.csv", *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    kinds = {"grade": ("ordinal", ("low", "mid", "high")), "a=b": "count"}
    table = data.table(people / "people.csv", kinds, drop=True)
    told = [(each["name"], each["kind"], each["categories"]) for each in facts["columns"] if not each["dropped"]]
    of_table = [(each.name, each.kind, each.categories and list(each.categories)) for each in table.columns]
    assert told == of_table
    assert [each["missing"] for each in facts["columns"]][1:] == table.missing.sum(0).tolist()
    assert facts["items"] == len(table)


def test_a_parquet_file_is_described_too(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv("people.csv")[["age", "height"]].to_parquet("people.parquet")
    assert main(["data", "people.parquet"]) == 0
    assert "height  positive  numbers, all above 0: 1.55 to 1.81, 1 missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("people.csv --kind agee=count", "names the column agee, which is not there; did you mean age?"),
        ("people.csv --kind age=counts", "must be one of real, positive"),
        ("people.csv --kind age", "must be COLUMN=KIND"),
        ("people.csv --kind age=count --kind age=real", "given twice"),
        ("people.csv --kind grade=ordinal", "the categories from the lowest to the highest"),
        ("people.csv --kind name=real", "its entries are text"),
        ("people.csv --drop nam", "did you mean name?"),
        ("people.csv --scale", "--scale is for bytes"),
        ("digits --kind age=count", "--kind is for tables"),
        ("digits --drop age", "--drop is for tables"),
    ],
)
def test_what_does_not_fit_is_named(people: Path, capsys: pytest.CaptureFixture[str], words: str, told: str) -> None:
    assert main(["data", *words.split()]) == 2
    assert told in capsys.readouterr().err


def test_the_kinds_are_the_library_s() -> None:
    assert KINDS == columns.KINDS


def test_categories_that_are_numbers_are_numbers() -> None:
    kinds = kinds_of(["n=ordinal:3,1,2.5", "s=categorical:a,b"], ["n", "s"])
    assert kinds == {"n": ("ordinal", (3, 1, 2.5)), "s": ("categorical", ("a", "b"))}


def test_a_kind_of_a_column_that_is_left_out_is_refused(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kind", "age=real", "--drop", "age", "--drop", "name"]
    for command in (["data"], ["fit", "--out", "run"]):
        assert main([command[0], "people.csv", *words, *command[1:]]) == 2
        assert "--kind states a kind of age, and --drop leaves it out" in capsys.readouterr().err
    words = ["--kind", "age=real", "--drop", "name", "--weight", "age", "--out", "run"]
    assert main(["fit", "people.csv", *words]) == 2
    assert "--kind states a kind of age, which is the column of --weight" in capsys.readouterr().err
