"""Covariates, exposures and unlabelled items on the command line: what commands compute equals what Python gives."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.estimators import _row_of as row_of
from pyrovae.cli.planning import Plan, read_unlabeled
from pyrovae.cli.reading_options import Row
from pyrovae.data import Split
from pyrovae.run_folder import read_run

QUICK = ["--epochs", "1", "--hidden-dims", "4", "--compile", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "c" with two covariates, "e" with an exposure and "none" with neither, and the arrays that they need."""
    folder = tmp_path_factory.mktemp("beside")
    rng = np.random.default_rng(0)
    c = rng.normal(size=(60, 2))
    x = (c @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(60, 3))).astype(np.float32)
    e = rng.integers(1, 25, 60)
    counts = rng.poisson(e[:, None] * np.array([0.2, 1.0, 3.0]))
    holes = x[:9].copy()
    holes[:, 0] = np.nan
    bad = np.where(np.arange(60)[:, None] == 7, np.nan, c)
    arrays = {"c": c, "x": x, "e": e, "counts": counts, "c9": c[:9], "x9": x[:9], "e9": e[:9], "counts9": counts[:9]}
    arrays |= {"holes": holes, "nan": bad, "words": np.array(["a"] * 60), "zero": e * (np.arange(60) != 5)}
    arrays |= {"negative": np.where(np.arange(60) == 5, -1, e), "column": e.astype(float), "shuffled": c[::-1]}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for out, name, more in (("c", "x", "covariates"), ("e", "counts", "exposure"), ("none", "x", None)):
        beside = [] if more is None else [f"--{more}", str(folder / f"{out}.npy")]
        assert main(["fit", str(folder / f"{name}.npy"), "--out", str(folder / "runs" / out), *beside, *QUICK]) == 0
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs, with which a command is called from that of the arrays."""
    monkeypatch.chdir(folder)
    return folder / "runs"


def record(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    parsed: dict = json.loads(capsys.readouterr().out)
    return parsed


def test_the_run_keeps_what_its_items_are_given(run: Path) -> None:
    for name, field, rows in (("c", "covariates", "c"), ("e", "exposure", "e")):
        opened = read_run(run / name)
        data, whole = opened.data(), np.load(run.parent / f"{rows}.npy")
        assert data.order is not None
        both = torch.cat([getattr(data.train, field), getattr(data.test, field)])
        assert np.array_equal(both.numpy(), whole[data.order.numpy()])  # each in its item's part
        assert np.array_equal(getattr(data.whole(), field).numpy(), whole)
        assert opened.manifest["data"]["beside"][field]["path"] == str(run.parent / f"{rows}.npy")
        assert len(set(opened.manifest["data"]["beside"][field]["sha256"].values())) == 2
    assert read_run(run / "none").manifest["data"]["beside"] == {}


@pytest.mark.slow
def test_a_fit_is_that_of_the_function(run: Path) -> None:
    data = pyrovae.data.load("x.npy", covariates="c.npy")
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), likelihood="normal", covariate_dim=2)
    options = {"epochs": 1, "compile": False, "progress": False}
    pyrovae.fit(vae, data.train, validation=data.test, **options)
    saved = read_run(run / "c").pair()
    assert all(torch.equal(p, q) for p, q in zip(saved.parameters(), vae.parameters(), strict=True))


@pytest.mark.parametrize(("name", "field"), [("c", "covariates"), ("e", "exposure")])
def test_estimates_are_those_of_the_function_and_not_of_other_rows(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, field: str
) -> None:
    pair, test = read_run(run / name).pair(), read_run(run / name).data().test
    found = record(capsys, "evaluate", str(run / name), "-e", "iwae", "--num-particles", "10", "--seed", "3")
    result = found["runs"][0]["results"][0]
    expected = pyrovae.iwae(pair, test, num_particles=10, seed=3)
    assert abs(result["mean"] - expected.mean) < 1e-6
    assert result["protocol"]["given"] == field
    turned = Split(test.x, **{field: getattr(test, field).flip(0)})
    assert abs(result["mean"] - pyrovae.iwae(pair, turned, num_particles=10, seed=3).mean) > 1e-3


@pytest.mark.slow
def test_other_items_take_the_rows_that_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = {
        "c": ["--data", "x9.npy", "--covariates", "c9.npy"],
        "e": ["--data", "counts9.npy", "--exposure", "e9.npy"],
    }
    for name, words in items.items():
        found = record(capsys, "evaluate", str(run / name), "-e", "elbo", *words)["runs"][0]["results"][0]
        field, rows = words[2].removeprefix("--"), np.load(words[3])
        given = Split(torch.from_numpy(np.load(words[1])).float(), **{field: torch.from_numpy(rows)})
        assert abs(found["mean"] - pyrovae.elbo(read_run(run / name).pair(), given).mean) < 1e-6


FIT = ["fit", "x.npy", "--out", "new", *QUICK]
COUNTS = ["fit", "counts.npy", "--out", "new", *QUICK]
OTHER = ["--data", "x9.npy"]
REFUSED = [
    ([*FIT, "--covariates", "c9.npy"], "--covariates must have a row for each of the 60 items of DATA, got 9"),
    ([*FIT, "--covariates", "nan.npy"], "--covariates must be finite, and that of item 7, column 0 is nan"),
    ([*FIT, "--covariates", "words.npy"], "--covariates must be numbers, got <U1"),
    ([*FIT, "--covariates", "column.npy"], "--covariates must have shape (N, D)"),
    ([*FIT, "--covariates", "nowhere.npy"], "nowhere.npy does not exist"),
    ([*COUNTS, "--exposure", "zero.npy"], "that of item 5 is 0"),
    ([*COUNTS, "--exposure", "negative.npy"], "that of item 5 is -1"),
    ([*COUNTS, "--exposure", "e9.npy"], "--exposure must have a row for each of the 60 items"),
    (
        [*COUNTS, "--exposure", "e.npy", "--likelihood", "normal"],
        "--exposure is e.npy, which multiplies the means of counts, and --likelihood normal is none of counts: name "
        "--likelihood negative_binomial or poisson, or leave the exposure out",
    ),
    (["fit", "x.npy", "--out", "new", "--covariates", "c.npy", "--model", "GaussianMixture"], "takes no covariates"),
    ([*FIT, "--unlabeled", "x9.npy"], "--unlabeled is of models that learn from items without"),
    (["evaluate", "runs/c", *OTHER], "add --covariates FILE.npy"),
    (["evaluate", "runs/e", "--data", "counts9.npy"], "add --exposure FILE.npy"),
    (["evaluate", "runs/c", "--covariates", "c9.npy"], "--covariates are of the items in --data"),
    (["evaluate", "runs/c", *OTHER, "--covariates", "x9.npy"], "2 covariates each, and those of --data x9.npy have 3"),
    (["evaluate", "runs/none", *OTHER, "--covariates", "c9.npy"], "takes no covariates"),
    (["encode", "runs/c", *OTHER, "-o", "o.npy"], "add --covariates FILE.npy"),
    (["reconstruct", "runs/c", *OTHER, "-o", "o.npy"], "add --covariates FILE.npy"),
    (["impute", "runs/c", "--data", "holes.npy", "-o", "o.npy"], "add --covariates FILE.npy"),
    (["export", "runs/c", *OTHER, "-o", "o.nc"], "add --covariates FILE.npy"),
    (["export", "runs/c", "--what", "decode", "--num-items", "3", "-o", "o.pt2"], "--num-items is of --what"),
    (["compare", "runs/c", "runs/none"], "fitted on the same items given something else"),
    (["report", "runs/c", *OTHER, "-o", "o.html"], "add --covariates FILE.npy"),
    (["check", "runs/c", *OTHER], "add --covariates FILE.npy"),
    (["strange", "runs/e", "counts9.npy"], "add --exposure FILE.npy"),
    (["evaluate", "runs/c", "-e", "code_space"], "code_space"),
    (["sample", "runs/c", "-o", "o.npy"], "name those of the items to draw by --covariates, a row of 2 numbers"),
    (["sample", "runs/e", "-o", "o.npy"], "name those of the items to draw by --exposure"),
    (["sample", "runs/c", "--covariates", "1", "-o", "o.npy"], "--covariates must have the 2 columns"),
    (["sample", "runs/c", "--covariates", "a,b", "-o", "o.npy"], "--covariates must be numbers with commas"),
    (["sample", "runs/c", "--covariates", "c9.npy", "-n", "3", "-o", "o.npy"], "one item is drawn for each row"),
    (["sample", "runs/e", "--exposure", "0", "-o", "o.npy"], "--exposure must be positive"),
    (["sample", "runs/none", "--covariates", "1,2", "-o", "o.npy"], "takes no covariates: leave"),
    (["export", "runs/none", "--what", "decode", "-o", "o.nc"], "a file that ends in .pt2"),
    (["export", "runs/none", "-o", "o.pt2"], "a file that ends in .nc"),
    (["export", "runs/none", "--what", "encode", "-o", "o.pt2", "--num-draws", "3"], "--num-draws is of --what"),
]


def cases() -> list[Any]:
    """All of them; every fifth is fast enough for each run of the tests."""
    return [
        pytest.param(words, expected, id=" ".join(words), marks=[] if number % 5 == 0 else pytest.mark.slow)
        for number, (words, expected) in enumerate(REFUSED)
    ]


@pytest.mark.parametrize(("words", "expected"), cases())
def test_what_does_not_fit_is_a_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    capsys.readouterr()
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyrovae: ")]
    assert len(said) == 1 and expected in said[0]
    assert not Path("new").exists() and not [file for file in Path().iterdir() if file.stem == "o"]


@pytest.mark.parametrize(
    ("model", "likelihood", "expected"),
    [
        ("linear_vae", None, "the likelihood of linear_vae is none of counts: name --likelihood negative_binomial or"),
        ("SemiSupervisedVAE", "poisson", "--model SemiSupervisedVAE takes no exposure, and --exposure is e.npy: leave"),
        ("DiscriminativeClassifier", None, "or name --model mlp_vae with --likelihood negative_binomial or poisson"),
    ],
)
def test_what_takes_no_exposure_is_told_what_does(folder: Path, model: str, likelihood: str | None, expected: str):
    data = pyrovae.data.load(folder / "counts.npy", exposure=folder / "e.npy", labels=np.arange(60) % 2)
    names = {"likelihood": likelihood, "exposure": "e.npy", "covariates": None, "data": "counts.npy"}
    with pytest.raises(click.UsageError) as refused:
        Plan(names, False).build(data, model, likelihood)
    assert expected in str(refused.value)
    assert likelihood is None or f"--likelihood {likelihood}" not in str(refused.value)  # as if it could be had


def test_bytes_with_an_exposure_are_counts_whatever_reads_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bytes_, e = np.load(folder / "counts.npy").astype(np.uint8), np.load(folder / "e.npy")
    seen: list[torch.Tensor] = []

    def fit(pair: Any, x: Any, *args: Any, **options: Any) -> None:
        seen.append(x[:])
        raise FloatingPointError("this is all that the test looks at")

    monkeypatch.setattr(pyrovae, "fit", fit)
    np.save("bytes.npy", bytes_)
    np.save("e.npy", e)
    np.savez("own.npz", x=bytes_, exposure=e)
    np.savez("parts.npz", x_train=bytes_[:50], x_test=bytes_[50:], exposure_train=e[:50], test_exposure=e[50:])
    for words in (["bytes.npy", "--exposure", "e.npy"], ["own.npz"], ["parts.npz"]):
        facts = record(capsys, "data", *words)
        assert (facts["scaled"], facts["maximum"]) == (False, bytes_.max()), words
        assert facts["fit"]["likelihood"] == "negative_binomial"
        assert main(["fit", *words, "--out", "run", *QUICK]) == 2  # as far as the items
        assert torch.equal(seen[-1], seen[-1].floor()) and seen[-1].max() > 1
        assert pyrovae.data.load(words[0]).train.x[:].max() < 1  # the control: in Python it is `scale=` that says so
    assert record(capsys, "data", "bytes.npy")["scaled"]
    assert record(capsys, "data", "own.npz", "--scale")["scaled"]
    assert main(["data", "bytes.npy", "--no-scale"]) == 0
    assert "pyrovae fit bytes.npy --no-scale --out run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_fitted_without_an_exposure_takes_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["fit", "counts.npy", "--likelihood", "poisson", "--out", out, *QUICK]) == 0
    np.savez(tmp_path / "nine.npz", x=np.load("counts9.npy"), exposure=np.load("e9.npy"))
    for words in (["--data", "counts9.npy", "--exposure", "e9.npy"], ["--data", str(tmp_path / "nine.npz")]):
        capsys.readouterr()
        assert main(["evaluate", out, *words]) == 2
        assert "was fitted without an exposure, and the items of --data" in capsys.readouterr().err
    assert main(["sample", out, "--exposure", "3", "-o", str(tmp_path / "s.npy")]) == 2
    assert "was fitted without exposure: leave --exposure out" in capsys.readouterr().err
    assert main(["evaluate", out, "--data", "counts9.npy"]) == 0  # the control


def test_rows_of_no_items_are_refused_by_a_run(run: Path) -> None:
    with pytest.raises(ValueError, match="covariates and exposure are those of the items in source"):
        read_run(run / "c").data(covariates="c9.npy")


@pytest.mark.slow
def test_codes_reconstructions_imputations_and_draws(run: Path, tmp_path: Path) -> None:
    pair, test = read_run(run / "c").pair(), read_run(run / "c").data().test
    words = ["--data", "holes.npy", "--covariates", "c9.npy", "--num-draws", "3", "--num-steps", "2"]
    for name, more in {"encode": [], "reconstruct": [], "impute": words}.items():
        assert main([name, str(run / "c"), *more, "-o", str(tmp_path / f"{name}.npy")]) == 0
    assert main(["sample", str(run / "c"), "--covariates", "1,-2", "-n", "4", "-o", str(tmp_path / "s.npy")]) == 0
    assert main(["sample", str(run / "c"), "--covariates", "c9.npy", "--mean", "-o", str(tmp_path / "m.npy")]) == 0
    c9 = np.load("c9.npy")
    expected = {
        "encode": pair.encode(test),
        "reconstruct": pair.reconstruct(test),
        "impute": pair.impute(np.load("holes.npy"), covariates=c9, num_draws=3, num_steps=2, seed=0).mean(0),
        "s": pair.sample(4, covariates=[1.0, -2.0], seed=0),
        "m": pair.sample(9, covariates=c9, seed=0, mean=True),
    }
    for name, values in expected.items():
        assert np.allclose(np.load(tmp_path / f"{name}.npy"), values.detach().numpy(), atol=1e-6), name


@pytest.mark.slow
def test_a_code_space_is_decoded_at_the_row_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = functools.partial(pyrovae.Judge.fit, hidden_dims=(4,), max_iter=2)
    monkeypatch.setattr(pyrovae.Judge, "fit", quick)
    rng = np.random.default_rng(0)
    c = rng.normal(size=(60, 2))
    arrays = {"x": rng.uniform(size=(60, 4, 4)) < 0.5 + 0.4 * np.tanh(c[:, :1, None]), "y": np.arange(60) % 3, "c": c}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.int64 if name == "y" else np.float32))
    files = [str(tmp_path / f"{name}.npy") for name in ("x", "y", "c")]
    run = str(tmp_path / "run")
    assert main(["fit", files[0], "--labels", files[1], "--covariates", files[2], "--out", run, *QUICK]) == 0
    space = ["evaluate", run, "-e", "code_space"]
    found = record(capsys, *space, "--decoded-at", "2,-1")["runs"][0]["results"][0]
    opened = read_run(run)
    data, pair = opened.data(), opened.pair().eval()
    judge = quick(data.train.x, data.train.y, seed=0)
    sizes = {"num_codes": len(data.test), "num_pairs": len(data.test) // 2}
    wanted = pyrovae.code_space(pair, data.train, data.test, judge, covariates=[2.0, -1.0], **sizes)
    for name in ("squared_error", "displacement_median", "rate"):
        assert found[name]["value"] == pytest.approx(float(wanted[name]), rel=1e-5), name
    assert found["settings"]["decoded_at"] == [2.0, -1.0]


@pytest.mark.slow
def test_a_program_takes_covariates_too(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, c = read_run(run / "c").pair(), torch.randn(4, 2)
    said = record(capsys, "export", str(run / "c"), "--what", "decode", "-o", str(tmp_path / "d.pt2"))
    assert said["arguments"] == {"z": [pair.latent_dim], "covariates": [2]} and said["output_shape"] == [3]
    z = torch.randn(4, pair.latent_dim)
    found = torch.export.load(tmp_path / "d.pt2").module()(z, c)
    assert torch.allclose(found, pair.decode(z, covariates=c), atol=1e-5)


def test_the_row_that_codes_are_decoded_at_is_one_of_the_pair() -> None:
    of_two: Any = SimpleNamespace(path="run", pair=pyrovae.linear_vae(3, 2, covariate_dim=2))
    of_none: Any = SimpleNamespace(path="run", pair=pyrovae.linear_vae(3, 2))
    assert row_of(of_two, (0.0, 1.0)) == (0.0, 1.0) and row_of(of_none, None) is None
    for opened, row, expected in (
        (of_two, None, "name that which codes are decoded with by --decoded-at, 2 numbers with commas"),
        (of_two, (1.0,), "--decoded-at must have the 2 columns"),
        (of_none, (1.0,), "takes no covariates: leave --decoded-at out"),
    ):
        with pytest.raises(click.UsageError, match=expected):
            row_of(opened, row)
    with pytest.raises(click.UsageError, match="finite numbers with commas, as 0,1,0"):
        Row().convert("1,b", None, None)


def test_data_says_what_lies_beside_the_items(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "counts.npy", "--exposure", "e.npy", "--covariates", "c.npy"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^  covariates  2 columns, -", said, re.M) and re.search(r"^  exposure +1 to 24$", said, re.M)
    assert "--covariates c.npy --exposure e.npy" in said and "counts with an exposure" in said


def test_an_archive_has_its_own_rows_and_a_run_of_before_does_not_read_them(run: Path, tmp_path: Path) -> None:
    x, c = np.load("x.npy"), np.load("c.npy")
    np.savez(tmp_path / "one.npz", x=x, covariates=c)
    np.savez(tmp_path / "two.npz", x_train=x[:50], x_test=x[50:], covariates_train=c[:50], test_covariates=c[50:])
    one, two = (pyrovae.data.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert np.array_equal(one.whole().covariates, c) and np.array_equal(two.whole().covariates, c)
    assert np.array_equal(two.test.covariates, c[50:])
    np.savez(tmp_path / "off.npz", x_train=x[:50], x_test=x[50:], covariates_train=c[:49], covariates_test=c[49:])
    with pytest.raises(ValueError, match="covariates_train must have a row for each of the 50 items"):
        pyrovae.data.load(tmp_path / "off.npz")
    with pytest.raises(ValueError, match="has some of its own"):
        pyrovae.data.load(tmp_path / "one.npz", covariates=c)
    from pyrovae.run_folder import data_record, load_recorded

    before = data_record(one, {}, str(tmp_path / "one.npz"))
    assert load_recorded(before).train.covariates is not None
    del before["beside"]  # as a version wrote it that knew of none
    assert load_recorded(before).train.covariates is None


@pytest.mark.slow
def test_rows_that_have_changed_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.load(folder / "c.npy"))
    words = ["fit", str(folder / "x.npy"), "--covariates", str(tmp_path / "c.npy"), "--out", str(tmp_path / "run")]
    assert main([*words, *QUICK]) == 0
    np.save(tmp_path / "c.npy", np.load(folder / "shuffled.npy"))
    with pytest.raises(ValueError, match=r"the covariates in .* are not what"):
        read_run(tmp_path / "run").data()
    assert main(["fit", "--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 2
    right = ["--covariates", str(folder / "c.npy")]
    assert main(["fit", "--resume", "--out", str(tmp_path / "run"), "--epochs", "2", *right]) == 0
    assert read_run(tmp_path / "run").data().train.covariates is not None


@pytest.mark.slow
def test_checks_and_strange_items_are_those_of_the_function(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, data = read_run(run / "e").pair(), read_run(run / "e").data()
    capsys.readouterr()
    assert main(["check", str(run / "e"), "--draws", "19"]) == 0
    said = capsys.readouterr().out
    assert str(pyrovae.predictive_checks(pair, data.test, draws=19)) in said
    alone = Split(data.test.x, exposure=torch.ones(len(data.test)))
    assert str(pyrovae.predictive_checks(pair, alone, draws=19)) not in said
    options = {"score": "log_prob", "level": 0.1}
    words = ["--exposure", "e9.npy", "--score", "log_prob", "--level", "0.1"]
    found = record(capsys, "strange", str(run / "e"), "counts9.npy", *words)["variables"]["score"]["values"]
    detector = pyrovae.NoveltyDetector(pair, data.test, reference=data.train, **options)
    x, e = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("counts9", "e9"))
    assert np.allclose(found, detector.detect(Split(x, exposure=e)).pointwise["score"], atol=1e-6)
    assert not np.allclose(found, detector.detect(Split(x, exposure=e.flip(0))).pointwise["score"], atol=1e-2)


@pytest.mark.slow
def test_all_other_estimators_the_export_and_the_report(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair, test = read_run(run / "c").pair(), read_run(run / "c").data().test
    words = ["-e", "gaps", "-e", "calibrate", "-e", "reconstruction", "--num-simulations", "40"]
    gaps, calibration, error = record(capsys, "evaluate", str(run / "c"), *words)["runs"][0]["results"]
    evidence = pyrovae.quadrature(pair, test)
    assert abs(gaps["gap"]["mean"] - pyrovae.gaps(pair, test, evidence, progress=False).mean("gap")[0]) < 1e-6
    expected = pyrovae.calibrate(pair, num_simulations=40, covariates=test.covariates)
    assert calibration["quantities"]["latent[0]"]["p_value"] == expected.tests.p_value.sel(quantity="latent[0]").item()
    errors = (pair.reconstruct(test).detach() - test.x[:]).square().flatten(1).sum(1)
    assert abs(error["mean"] - float(errors.mean())) < 1e-5
    export = ["export", str(run / "e"), "--num-items", "4", "--num-draws", "2", "-o", str(tmp_path / "e.nc")]
    assert main(export) == 0
    with pytest.importorskip("xarray").open_dataset(tmp_path / "e.nc", group="constant_data") as constant:
        assert set(constant["exposure"].values) <= set(exposures(run))
    words = ["--num-items", "10", "--num-ledger-items", "2", "--num-particles", "10"]
    assert main(["report", str(run / "c"), *words, "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "covariates are needed" not in page


def exposures(run: Path) -> list[float]:
    return read_run(run / "e").data().test.exposure.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encode", "decode"])
def test_a_program_is_the_networks_function(run: Path, tmp_path: Path, what: str) -> None:
    assert main(["export", str(run / "none"), "--what", what, "-o", str(tmp_path / "p.pt2")]) == 0
    program = torch.export.load(str(tmp_path / "p.pt2")).module()
    pair, given = read_run(run / "none").pair(), torch.randn(7, {"encode": 3, "decode": 2}[what])
    assert torch.allclose(program(given), getattr(pair, what)(given), atol=1e-5)


@pytest.mark.slow
def test_a_mixture_and_a_classifier_have_no_program(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "y.npy", np.arange(60) % 2)
    for name, more in {
        "GaussianMixture": ["--num-components", "2"],
        "gaussian_classifier": ["--labels", str(tmp_path / "y.npy")],
    }.items():
        assert main(["fit", "x.npy", "--model", name, *more, "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert main(["export", str(tmp_path / name), "--what", "decode", "-o", str(tmp_path / "p.pt2")]) == 2
        assert "--what decode is of a VAE or an autoencoder, and" in capsys.readouterr().err


@pytest.mark.slow
def test_items_without_labels_are_learnt_from_and_recorded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pyrovae.data.load("digits").whole()
    few = pyrovae.data.labelled_subset(data.y, 60)
    np.save(tmp_path / "few.npy", data.x[few].numpy())
    np.save(tmp_path / "y.npy", data.y[few].numpy())
    np.save(tmp_path / "more.npy", data.x[:200].numpy())
    model = ["--model", "SemiSupervisedVAE", "--latent-dim", "2", "--hidden-dims", "8", "--epochs", "2", "--binarize"]
    words = ["fit", str(tmp_path / "few.npy"), "--labels", str(tmp_path / "y.npy"), *model]
    assert main([*words, "--unlabeled", str(tmp_path / "more.npy"), "--out", str(tmp_path / "m2")]) == 0
    opened = read_run(tmp_path / "m2")
    its = opened.manifest["data"]["unlabeled"]
    assert (its["items"], its["path"]) == (200, str(tmp_path / "more.npy"))
    labelled = opened.data()
    torch.manual_seed(0)
    pair = pyrovae.SemiSupervisedVAE((1, 8, 8), 10, 2, hidden_dims=(8,))
    options = {"unlabeled": data.x[:200], "epochs": 2, "binarize": True, "progress": False}
    validation = (labelled.test.x[:], labelled.test.y)
    pyrovae.fit(pair, labelled.train.x[:], labelled.train.y, validation=validation, **options)
    saved = opened.pair()
    assert all(torch.equal(p, q) for p, q in zip(saved.parameters(), pair.parameters(), strict=True))
    assert main([*words, "--out", str(tmp_path / "without")]) == 0
    alone = read_run(tmp_path / "without").pair()
    assert not all(torch.equal(p, q) for p, q in zip(saved.parameters(), alone.parameters(), strict=True))
    capsys.readouterr()
    found = record(capsys, "evaluate", str(tmp_path / "m2"), "--binarize", "no")["runs"][0]["results"][0]
    right = (pair.predict(labelled.test.x[:]) == labelled.test.y).double().mean()
    assert found["accuracy"]["value"] == pytest.approx(float(right))
    assert main(["sample", str(tmp_path / "m2"), "--label", "3", "-n", "2", "-o", str(tmp_path / "s.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "s.npy"), pair.sample(3, 2, seed=0).numpy())
    draw = ["sample", str(tmp_path / "m2"), "--label", "3", "--mean", "-n", "2", "-o", str(tmp_path / "mean.npy")]
    assert main(draw) == 0
    assert np.array_equal(np.load(tmp_path / "mean.npy"), pair.sample(3, 2, seed=0, mean=True).numpy())
    give_back = ["reconstruct", str(tmp_path / "m2"), "--data", str(tmp_path / "more.npy")]
    other = (int(pair.predict(data.x[:1])) + 1) % 10
    for more, y in (([], None), (["--label", str(other)], [other] * 200)):
        assert main([*give_back, *more, "--force", "-o", str(tmp_path / "r.npz")]) == 0
        with np.load(tmp_path / "r.npz") as made:
            expected = pair.reconstruct(data.x[:200], y).detach()
            assert np.allclose(made["reconstruction"], expected, atol=1e-6)
            assert np.array_equal(made["decoded_label"], pair.predict(data.x[:200]) if y is None else y)
    assert not torch.allclose(pair.reconstruct(data.x[:200]), expected, atol=1e-4)  # the label matters
    assert main([*give_back, "--label", "ten", "-o", str(tmp_path / "ten.npy")]) == 2
    assert "--label ten is no class of" in capsys.readouterr().err
    assert main(["reconstruct", str(run / "none"), "--label", "8", "-o", str(tmp_path / "ten.npy")]) == 2
    assert "--label is of a SemiSupervisedVAE, and" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "m2"), "-e", "gaps"]) == 2
    assert "pair.of_class(0), and items of that class" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "m2"), "--what", "encode", "-o", str(tmp_path / "e.pt2")]) == 2
    assert "--what encode is of a VAE or an autoencoder" in capsys.readouterr().err
    found = record(capsys, "evaluate", str(tmp_path / "m2"), "-e", "reconstruction")["runs"][0]["results"][0]
    errors = (pair.reconstruct(labelled.test.x[:]) - labelled.test.x[:]).square().flatten(1).sum(1)
    assert found["mean"] == pytest.approx(float(errors.mean()), rel=1e-5)
    wrong = [*words, "--unlabeled", "x.npy", "--out", str(tmp_path / "wrong")]
    assert main(wrong) == 2 and "--unlabeled x.npy has items of shape (3,)" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("order_of_data", ["first", "last"])
def test_unlabelled_images_are_read_in_the_order_that_gives_them_the_shape_of_data(
    tmp_path: Path, order: str, order_of_data: str
) -> None:
    images = np.random.default_rng(0).random((12, 3, 5, 4), dtype=np.float32)
    moved = {"first": images, "last": np.moveaxis(images, 1, -1)}
    np.save(tmp_path / "data.npy", moved[order_of_data])
    np.save(tmp_path / "more.npy", moved[order])
    data = pyrovae.data.load(tmp_path / "data.npy", channels=order_of_data)
    given = {"unlabeled": str(tmp_path / "more.npy"), "root": None, "download": False}
    assert np.array_equal(read_unlabeled(given, data, True).x, images)
    np.save(tmp_path / "more.npy", images[:, :2])
    with pytest.raises(click.UsageError, match=r"has items of shape .*, and those of DATA have shape \(3, 5, 4\)"):
        read_unlabeled(given, data, True)
