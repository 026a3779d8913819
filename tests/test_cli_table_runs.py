"""A CSV file by the command line alone: fit, evaluate, impute, sample and encode, with its names and categories."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.frames import best_guess
from pyrovae.columns import Column
from pyrovae.report.decoding import decoding_of
from pyrovae.run_folder import RunError, read_run

Capture = pytest.CaptureFixture[str]
TOWNS = np.array(["Aachen", "Bonn", "Celle"])


def people(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Rows of two classes that differ in every column; a sixth of the entries is missing."""
    generator = np.random.default_rng(seed)
    k = generator.integers(0, 2, n)
    frame = pd.DataFrame(
        {
            "name": [f"person {i}" for i in range(n)],
            "height": np.round(1.6 + 0.2 * k + 0.05 * generator.normal(size=n), 3),
            "town": TOWNS[np.where(generator.random(n) < 0.8, k, 2)],
            "visits": generator.poisson(1 + 6 * k),
            "w": generator.integers(1, 4, n),
        }
    )
    for name in ("height", "town", "visits"):
        frame[name] = frame[name].astype(object).where(generator.random(n) > 1 / 6, None)
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people.csv and a latent class model of it, `run`, of one class, so that its answers are known."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    options = ["--drop", "name", "--kind", "height=real", "--model", "ColumnMixture", "--num-components", "1"]
    files = [str(folder / "people.csv"), "--weight", "w", "--out", str(folder / "run")]
    assert main(["fit", *files, *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def parts() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """The rows that the fit saw, those that it did not, and the numbers of these."""
    frame = pd.read_csv("people.csv")
    order = np.random.default_rng(0).permutation(len(frame))
    cut = len(frame) * 4 // 5
    return frame.iloc[order[:cut]], frame.iloc[order[cut:]], order[cut:]


def test_log_p_is_that_of_the_seen_entries_by_their_weights(capsys: Capture) -> None:
    assert main(["evaluate", "run", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]
    train, test, _ = parts()
    log_p = np.zeros(len(test))
    # one class: a normal, a Poisson and shares, of the seen entries by their weights, and one pseudo-item
    w, x = train["w"].to_numpy(float), train["height"].to_numpy(float)
    seen = ~np.isnan(x)
    mean = np.average(x[seen], weights=w[seen])
    sd = np.sqrt(np.average((x[seen] - mean) ** 2, weights=w[seen]))
    log_p += np.nan_to_num(stats.norm(mean, sd).logpdf(test["height"].to_numpy(float)))
    x = train["visits"].to_numpy(float)
    seen = ~np.isnan(x)
    rate = np.average(x[seen], weights=w[seen])
    y = test["visits"].to_numpy(float)
    log_p += np.where(np.isnan(y), 0, stats.poisson(rate).logpmf(np.nan_to_num(y)))
    weight_of = {town: w[(train["town"] == town).to_numpy()].sum() + 1 / 3 for town in TOWNS}
    total = sum(weight_of.values())
    log_p += np.array([np.log(weight_of[town] / total) if isinstance(town, str) else 0.0 for town in test["town"]])
    assert record["mean"] == pytest.approx(np.average(log_p, weights=test["w"]), abs=2e-5)
    assert abs(record["mean"] - log_p.mean()) > 1e-3  # without the weights it is another number
    assert record["quantity"] == "log mixed density"


def test_a_file_is_completed_as_it_is(capsys: Capture) -> None:
    assert main(["impute", "run", "--data", "people.csv", "-o", "done.csv"]) == 0
    assert "missing entries of 120 items of people, by the mean" in capsys.readouterr().out
    before, after = pd.read_csv("people.csv"), pd.read_csv("done.csv")
    assert list(after) == list(before) and len(after) == len(before) and not after.isna().any(axis=None)
    for name in before:
        seen = before[name].notna()
        assert (after[name][seen] == before[name][seen]).all(), name
    train, _, _ = parts()
    gone = before["height"].isna()
    mean = np.average(train["height"].dropna(), weights=train["w"][train["height"].notna()])
    np.testing.assert_allclose(after["height"][gone], mean, rtol=1e-6)
    share = train[train["town"].notna()].groupby("town")["w"].sum()
    assert set(after["town"][before["town"].isna()]) == {share.idxmax()}
    assert (after["visits"] == np.floor(after["visits"])).all()
    assert main(["impute", "run", "--data", "done.csv", "-o", "again.csv"]) == 2
    assert "nothing is missing" in capsys.readouterr().err


def test_draws_are_files_and_an_interval_says_how_sure_a_guess_is(capsys: Capture) -> None:
    assert main(["impute", "run", "--draws", "--num-draws", "3", "-o", "one.parquet"]) == 0
    draws = [pd.read_parquet(f"one-{number}.parquet") for number in (1, 2, 3)]
    gone = pd.read_csv("people.csv")["height"].isna()
    assert not (draws[0]["height"][gone] == draws[1]["height"][gone]).any()
    assert (draws[0]["height"][~gone] == draws[1]["height"][~gone]).all()
    assert main(["impute", "run", "--draws", "--num-draws", "3", "-o", "one.parquet"]) == 2
    assert "one-1.parquet exists" in capsys.readouterr().err
    assert main(["impute", "run", "--interval", "0.9", "-o", "sure.csv"]) == 0
    sure = pd.read_csv("sure.csv")
    assert (sure["height lower"].notna() == gone).all()
    assert (sure["height lower"] < sure["height"])[gone].all() and (sure["height upper"] > sure["height"])[gone].all()
    assert 1 / 3 < sure["town probability"].dropna().min() <= sure["town probability"].max() < 1


def test_rows_that_are_drawn_have_names_categories_and_types(capsys: Capture) -> None:
    assert main(["sample", "run", "-n", "50", "-o", "rows.csv"]) == 0
    rows = pd.read_csv("rows.csv")
    assert list(rows) == ["height", "town", "visits"] and set(rows["town"]) <= set(TOWNS)
    assert rows["visits"].dtype == np.int64
    assert main(["sample", "run", "--mean", "-o", "means.csv"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_classes_of_rows_by_their_number_in_the_file() -> None:
    assert main(["encode", "run", "--data", "people.csv", "--part", "test", "-o", "classes.csv"]) == 0
    classes = pd.read_csv("classes.csv")
    assert list(classes) == ["row", "component_0"] and (classes["component_0"] == 1).all()
    assert classes["row"].tolist() == parts()[2].tolist()


def test_another_file_is_read_in_the_same_codes(capsys: Capture) -> None:
    new = pd.read_csv("people.csv").iloc[:7]
    new[["visits", "town", "height"]].assign(colour="red").to_csv("new.csv", index=False)
    assert main(["evaluate", "run", "--data", "new.csv", "--json", "-o", "new-values.csv", "--force"]) == 0
    captured = capsys.readouterr()
    assert "they are left out: colour" in captured.err
    assert "no column w" in captured.err and "each row counts once" in captured.err
    values = pd.read_csv("new-values.csv")["exact"]
    mixture = read_run("run").pair()
    table = read_run("run").data().whole()
    expected = mixture.log_prob(table.x[:7], missing=True).detach().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    new.assign(town="Essen").to_csv("unseen.csv", index=False)
    new.drop(columns="visits").to_csv("absent.csv", index=False)
    np.save("new.npy", np.zeros((3, 3)))
    for file, words in (("unseen.csv", "Essen"), ("absent.csv", "no column visits"), ("new.npy", "name a .csv")):
        assert main(["evaluate", "run", "--data", file]) == 2
        assert words in capsys.readouterr().err
    new.iloc[:1].to_csv("row.csv", index=False)
    assert main(["evaluate", "run", "--data", "row.csv"]) == 0
    assert "(1 item of weight" in capsys.readouterr().out


def test_weights_that_have_changed_are_noticed(place: Path) -> None:
    whole = (place / "people.csv").read_text(encoding="utf-8")
    frame = pd.read_csv("people.csv")
    try:
        frame.assign(w=frame["w"] + 1).to_csv("people.csv", index=False)
        with pytest.raises(RunError, match="weights in column 'w'"):
            read_run("run").data()
    finally:
        (place / "people.csv").write_text(whole, encoding="utf-8")
    data = read_run("run").data()
    assert data.columns is not None and data.train.weight is not None


def test_what_a_model_cannot_take_is_said(capsys: Capture) -> None:
    cases = [
        (["people.csv"], "a column of no kind: name"),
        (["people.csv", "--drop", "name", "--model", "GaussianMixture"], "codes of town are names of categories"),
        (["people.csv", "--drop", "name", "--weight", "ww"], "did you mean w?"),
        (["people.csv", "--drop", "name", "--weight", "town"], "missing entries"),
        (["people.csv", "--drop", "name", "--no-scale"], "--scale is for bytes"),
        (["digits", "--drop", "name"], "--drop is for tables"),
    ]
    for arguments, words in cases:
        assert main(["fit", *arguments, "--out", "no-run"]) == 2
        assert words in capsys.readouterr().err
        assert not Path("no-run").exists()


def test_a_model_of_numbers_takes_all_numbers_as_real() -> None:
    options = ["--drop", "name", "--drop", "town", "--drop", "w", "--num-components", "1", "--out", "gauss"]
    assert main(["fit", "people.csv", "--model", "GaussianMixture", *options]) == 0
    columns = read_run("gauss").data().columns
    assert columns is not None and [column.kind for column in columns] == ["real", "real"]
    assert main(["sample", "gauss", "-n", "5", "-o", "gauss.csv"]) == 0
    assert list(pd.read_csv("gauss.csv")) == ["height", "visits"]
    assert main(["impute", "gauss", "--data", "people.csv", "-o", "filled.csv"]) == 0
    before, filled = (pd.read_csv(name) for name in ("people.csv", "filled.csv"))
    x = before[["height", "visits"]].to_numpy()
    expected = read_run("gauss").pair().conditional(x).mean.detach().numpy()
    assert np.isnan(x).any() and np.allclose(filled[["height", "visits"]], expected, rtol=1e-6)
    assert filled[["name", "town", "w"]].equals(before[["name", "town", "w"]])
    assert main(["impute", "gauss", "--data", "people.csv", "--draws", "--num-draws", "2", "-o", "g.csv"]) == 0
    draws = read_run("gauss").pair().impute(x[np.isnan(x).any(1)], num_draws=2).numpy()
    for number in range(2):
        drawn = pd.read_csv(f"g-{number + 1}.csv")[["height", "visits"]].to_numpy()
        assert np.allclose(drawn[np.isnan(x).any(1)], draws[number], rtol=1e-6)


@pytest.mark.slow
def test_a_vae_of_a_table_goes_on_and_has_codes(capsys: Capture) -> None:
    options = ["--drop", "name", "--drop", "w", "--hidden-dims", "4", "--compile", "no"]
    assert main(["fit", "people.csv", *options, "--epochs", "1", "--out", "vae"]) == 0
    said = capsys.readouterr().err
    assert "model table_vae" in said and "taken as missing at random" in said
    assert main(["fit", "--resume", "--epochs", "2", "--out", "vae"]) == 0
    assert read_run("vae").manifest["fit"]["epochs"] == 2
    assert main(["encode", "vae", "-o", "codes.csv"]) == 0
    codes = pd.read_csv("codes.csv")
    assert list(codes) == ["row", "z1", "z2"] and codes["row"].tolist() == list(range(120))
    pair, table = read_run("vae").pair(), read_run("vae").data().whole()
    expected = pyrovae.encoded(pair, table).numpy()
    np.testing.assert_allclose(codes[["z1", "z2"]], expected, rtol=1e-5, atol=1e-7)
    # what the explorer shows at a code: 2.75 stands for 75 % of category 2
    z = torch.zeros(1, 2)
    town = [column.name for column in table.columns].index("town")  # type: ignore[attr-defined]
    shown = decoding_of(pair, table)(z.numpy())[0, town]
    probability = pair.probabilities(z)["town"][0].detach().numpy()  # type: ignore[operator]
    assert shown == pytest.approx(probability.argmax() + 0.999 * probability.max(), abs=1e-5)
    assert main(["evaluate", "vae", "-e", "reconstruction"]) == 2
    assert "units of their own" in capsys.readouterr().err


def test_the_best_guess_is_a_value_that_the_column_can_have() -> None:
    columns = (Column("a", "real"), Column("n", "count"), Column("c", "categorical", ("x", "y", "z")))
    draws = np.array([[[0.0, 1, 2]], [[1.0, 4, 0]], [[5.0, 9, 2]], [[2.0, 5, 1]]])
    assert best_guess(columns, draws).tolist() == [[2.0, 4.0, 2.0]]


@pytest.mark.slow
def test_from_a_csv_to_an_imputed_csv_and_log_p_without_python_beside(tmp_path: Path) -> None:
    people(200, seed=1).drop(columns="w").to_csv(tmp_path / "people.csv", index=False)
    start = time.perf_counter()
    said = []
    for line in (
        "data people.csv",
        "fit people.csv --drop name --epochs 200 --compile no --out run",
        "evaluate run --num-items all",
        "impute run --data people.csv --num-draws 20 --num-steps 20 -o done.csv",
    ):
        command = [sys.executable, "-m", "pyrovae", *line.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert time.perf_counter() - start < 300
    assert "iwae(1000)" in said[2] and "log mixed density of what was seen" in said[2]
    before, after = pd.read_csv(tmp_path / "people.csv"), pd.read_csv(tmp_path / "done.csv")
    assert not after.isna().any(axis=None) and list(after) == list(before)
    seen = before.notna()
    assert (after[seen] == before[seen])[seen].all(axis=None)
