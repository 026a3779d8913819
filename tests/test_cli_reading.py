"""The commands that read a run: what they write equals what Python gives; whatever does not fit is a sentence."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.commands.evaluate import _items_of
from pyrovae.cli.estimators import ESTIMATORS, OPTIONS
from pyrovae.cli.outputs import columns, json_text, replacing
from pyrovae.cli.reading import open_run
from pyrovae.run_folder import read_run

SMALL = ["--epochs", "2", "--batch-size", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs of every kind of pair, on 120 binary images of 4 x 4 pixels in three classes, and on grey ones."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    probability = np.full((3, 1, 4, 4), 0.1)
    for label in range(3):
        probability[label, 0, label : label + 2] = 0.9
    grey = np.clip(probability[y] + 0.05 * rng.standard_normal((120, 1, 4, 4)), 0, 1).astype(np.float32)
    binary = (rng.random(grey.shape) < grey).astype(np.float32)
    np.savez(folder / "binary.npz", x=binary, y=y)
    np.savez(folder / "grey.npz", x=grey, y=y)
    np.save(folder / "other.npy", (rng.random((40, 1, 4, 4)) < 0.3).astype(np.float32))
    fits = {
        "vae": ["binary.npz", "--latent-dim", "2", "--hidden-dims", "8", *SMALL],
        "vae3": ["binary.npz", "--latent-dim", "3", "--hidden-dims", "8", *SMALL],
        "ae": ["binary.npz", "--model", "mlp_ae", "--hidden-dims", "8", *SMALL],
        "of-grey": ["grey.npz", "--binarize", "--hidden-dims", "8", *SMALL],
        "normal": ["grey.npz", "--likelihood", "normal", "--hidden-dims", "8", *SMALL],
        "mixture": ["grey.npz", "--model", "GaussianMixture", "--num-components", "2", "--covariance", "diagonal"],
        "lda": ["grey.npz", "--model", "gaussian_classifier", "--floor", "0.001"],
        "softmax": ["grey.npz", "--model", "DiscriminativeClassifier"],
    }
    for name, arguments in fits.items():
        assert main(["fit", str(folder / arguments[0]), *arguments[1:], "--out", str(folder / name)]) == 0, name
    return folder


def pair_of(runs: Path, name: str) -> torch.nn.Module:
    return read_run(runs / name).pair()


def items_of(runs: Path, name: str):
    return read_run(runs / name).data().test


def read_csv(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return {name: [row[number] for row in rows[1:]] for number, name in enumerate(rows[0])}


def said(capsys) -> dict:
    """The one JSON object on the standard output, by a parser that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


# what is written is what Python gives -------------------------------------------------------------


def test_codes_in_every_format_are_those_of_encode(runs, tmp_path, capsys):
    split = items_of(runs, "vae")
    codes = pair_of(runs, "vae").encode(split.x).detach().numpy()
    for ending in ("npy", "npz", "csv", "nc", "png"):
        assert main(["encode", str(runs / "vae"), "-o", str(tmp_path / f"codes.{ending}")]) == 0
    assert np.array_equal(np.load(tmp_path / "codes.npy"), codes)
    with np.load(tmp_path / "codes.npz") as archive:
        assert np.array_equal(archive["latent"], codes) and np.array_equal(archive["label"], split.y)
    table = read_csv(tmp_path / "codes.csv")
    assert list(table) == ["item", "label", "latent_0", "latent_1"]
    assert np.array_equal(np.array([table["latent_0"], table["latent_1"]]).T.astype(np.float32), codes)
    assert table["item"] == [str(i) for i in range(len(split))] and table["label"] == [str(int(y)) for y in split.y]
    with xr.open_dataset(tmp_path / "codes.nc", engine="h5netcdf") as dataset:
        assert np.array_equal(dataset.latent.values, codes) and dataset.attrs["part"] == "test"
    assert Image.open(tmp_path / "codes.png").size[0] > 300
    assert "codes of 24 test items of binary, shape (24, 2)" in capsys.readouterr().out


def test_probabilities_of_a_mixture_and_of_a_classifier(runs, tmp_path):
    x = items_of(runs, "mixture").x
    for name in ("mixture", "lda", "softmax"):
        assert main(["encode", str(runs / name), "-o", str(tmp_path / f"{name}.csv")]) == 0
    table = read_csv(tmp_path / "mixture.csv")
    shares = pair_of(runs, "mixture").responsibilities(x).detach()
    assert np.array_equal(np.array([table["component_0"], table["component_1"]]).T.astype(np.float32), shares)
    for name in ("lda", "softmax"):
        table = read_csv(tmp_path / f"{name}.csv")
        written = np.array([table[f"probability_{label}"] for label in range(3)]).T.astype(np.float32)
        assert np.array_equal(written, pair_of(runs, name).predict_log_proba(x).exp().detach())


def test_reconstructions_and_both_rows_of_their_picture(runs, tmp_path):
    x = items_of(runs, "ae").x
    expected = pair_of(runs, "ae").reconstruct(x).detach().numpy()
    for ending in ("npy", "npz", "csv", "nc", "png"):
        assert main(["reconstruct", str(runs / "ae"), "-o", str(tmp_path / f"r.{ending}")]) == 0
    assert np.array_equal(np.load(tmp_path / "r.npy"), expected)
    with np.load(tmp_path / "r.npz") as archive:
        assert np.array_equal(archive["reconstruction"], expected) and np.array_equal(archive["x"], x)
    table = read_csv(tmp_path / "r.csv")
    assert np.array_equal(np.array(table["reconstruction_0_2_3"], np.float32), expected[:, 0, 2, 3])
    assert not [name for name in table if name.startswith("x")]


def test_samples_are_those_of_the_seed(runs, tmp_path):
    run = str(runs / "vae")
    assert main(["sample", run, "-n", "7", "--seed", "3", "-o", str(tmp_path / "s.npy")]) == 0
    assert main(["sample", run, "-n", "7", "--seed", "3", "--mean", "-o", f"{tmp_path}/means/"]) == 0
    pair = pair_of(runs, "vae")
    assert np.array_equal(np.load(tmp_path / "s.npy"), pair.sample(7, seed=3))
    means = pair.sample(7, seed=3, mean=True).detach().numpy()
    files = sorted((tmp_path / "means").iterdir())
    assert [file.name for file in files] == [f"000{i}.png" for i in range(7)]
    shown = np.array([np.asarray(Image.open(file)) for file in files])
    assert np.array_equal(shown, np.rint(means[:, 0] * 255).astype(np.uint8))
    assert main(["sample", str(runs / "mixture"), "-n", "4", "--seed", "1", "-o", str(tmp_path / "m.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "m.npy"), pair_of(runs, "mixture").sample(4, seed=1))


def test_samples_of_a_classifier_are_of_the_labels(runs, tmp_path):
    lda = pair_of(runs, "lda")
    out = tmp_path / "s.npz"
    assert main(["sample", str(runs / "lda"), "--label", "2", "--label", "0", "-n", "3", "-o", str(out)]) == 0
    with np.load(out) as archive:
        assert archive["label"].tolist() == [2, 2, 2, 0, 0, 0]
        assert np.array_equal(archive["x"], torch.cat([lda.sample(2, 3, seed=0), lda.sample(0, 3, seed=0)]))


def test_imputed_entries_and_what_was_seen(runs, tmp_path):
    # digits that float32 does not hold: what was seen comes back in all of them
    x = items_of(runs, "normal").x[:9].double().numpy() + 1e-12
    x[:, :, 2:] = np.nan
    np.save(tmp_path / "holes.npy", x)
    options = ["--data", str(tmp_path / "holes.npy"), "--num-draws", "20", "--num-steps", "10", "--seed", "5"]
    for more in (["-o", str(tmp_path / "f.npy")], ["--interval", "0.8", "-o", str(tmp_path / "f.npz")]):
        assert main(["impute", str(runs / "normal"), *options, *more]) == 0
    assert main(["impute", str(runs / "normal"), *options, "--draws", "-o", str(tmp_path / "draws.npy")]) == 0
    draws = pair_of(runs, "normal").impute(torch.from_numpy(x), num_draws=20, num_steps=10, seed=5)
    filled = np.load(tmp_path / "f.npy")
    seen = ~np.isnan(x)
    assert filled.dtype == np.float64 and np.array_equal(filled[seen], x[seen])
    assert np.array_equal(filled[~seen].astype(np.float32), draws.mean(0).numpy()[~seen])
    with np.load(tmp_path / "f.npz") as archive:
        assert np.allclose(archive["lower"][~seen], np.quantile(draws, 0.1, axis=0)[~seen])
        assert np.allclose(archive["upper"][~seen], np.quantile(draws, 0.9, axis=0)[~seen])
        assert np.array_equal(archive["upper"][seen], x[seen]) and np.array_equal(archive["missing"], ~seen)
    assert np.array_equal(np.load(tmp_path / "draws.npy")[:, ~seen].astype(np.float32), draws.numpy()[:, ~seen])
    by_sir = ["--method", "sir", "--draws", "-o", str(tmp_path / "sir.npy")]
    assert main(["impute", str(runs / "normal"), *options, *by_sir]) == 0
    draws = pair_of(runs, "normal").impute(torch.from_numpy(x), num_draws=20, num_steps=10, seed=5, method="sir")
    assert np.array_equal(np.load(tmp_path / "sir.npy")[:, ~seen].astype(np.float32), draws.numpy()[:, ~seen])


def test_a_mixture_imputes_by_its_exact_mean_and_a_mask_says_what_is_missing(runs, tmp_path, capsys):
    mask = np.zeros((4, 4), bool)
    mask[1] = True
    np.save(tmp_path / "mask.npy", mask)
    arguments = ["--mask", str(tmp_path / "mask.npy"), "--num-items", "5", "-o"]
    assert main(["impute", str(runs / "mixture"), *arguments, str(tmp_path / "f.npy")]) == 0
    assert "by the mean of p(missing | seen) itself" in capsys.readouterr().out  # and by no draws
    assert main(["impute", str(runs / "mixture"), "--draws", *arguments, str(tmp_path / "d.npy")]) == 0
    assert "100 draws each" in capsys.readouterr().out
    assert main(["impute", str(runs / "mixture"), *arguments, str(tmp_path / "f.png")]) == 0
    test = items_of(runs, "mixture").x
    chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:5])
    x = test[chosen].clone()
    x[:, :, 1] = torch.nan
    expected = pair_of(runs, "mixture").conditional(x).mean.detach()
    filled = np.load(tmp_path / "f.npy")
    assert np.allclose(filled[:, :, 1], expected[:, :, 1], rtol=1e-6)
    assert np.array_equal(np.delete(filled, 1, axis=2), np.delete(test[chosen].numpy(), 1, axis=2))


def test_draws_of_one_item_go_down_the_rows(runs, tmp_path):
    x = items_of(runs, "vae").x[:2].numpy()
    x[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "holes.npy", x)
    out = tmp_path / "d.csv"
    arguments = ["--data", str(tmp_path / "holes.npy"), "--draws", "--num-draws", "3", "-o", str(out)]
    assert main(["impute", str(runs / "vae"), *arguments]) == 0
    table = read_csv(out)
    assert table["item"] == ["0", "0", "0", "1", "1", "1"] and table["draw"] == ["0", "1", "2"] * 2
    draws = pair_of(runs, "vae").impute(torch.from_numpy(x), num_draws=3)
    assert np.array_equal(np.array(table["draws_0_0_0"], np.float32), draws[:, :, 0, 0, 0].T.flatten())


ESTIMATES = [
    ("vae", "elbo", {"num_particles": 3}),
    ("vae", "iwae", {"num_particles": 20}),
    ("vae", "quadrature", {"tol": 0.01}),
    pytest.param("vae", "ais", {"num_chains": 2, "num_steps": 5}, marks=pytest.mark.slow),
    ("mixture", "exact", {}),
]


@pytest.mark.parametrize(("run", "name", "options"), ESTIMATES)
def test_estimates_are_those_of_the_function(runs, capsys, run, name, options):
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    arguments += ["--seed=2"] if name not in ("quadrature", "exact") else []
    command = ["evaluate", str(runs / run), "-e", name, "--num-items", "6", *arguments]
    assert main([*command, "--json"]) == 0
    record = said(capsys)["runs"][0]["results"][0]
    assert main(command) == 0
    printed = capsys.readouterr().out
    split = items_of(runs, run)
    x = split.x[np.sort(np.random.default_rng(0).permutation(len(split))[:6])]
    more = {"seed": 2} if "--seed=2" in arguments else {}
    more |= {"progress": False} if name == "ais" else {}
    estimate = getattr(pyrovae, name)(pair_of(runs, run), x, **options, **more)
    assert record["mean"] == estimate.mean and record["se"] == estimate.se
    assert record["se_items"] == estimate.se_items and record["estimator"] == estimate.kind
    assert record["settings"]["items_sha256"] == estimate.pointwise.attrs["items_sha256"]
    assert str(estimate) in printed and record["units"] == "nats per item"


def record_of(runs: Path, capsys, run: str, name: str, *more: str) -> dict:
    assert main(["evaluate", str(runs / run), "-e", name, "--json", *more]) == 0
    return said(capsys)["runs"][0]["results"][0]


def test_errors_of_reconstructions_and_scores_are_those_of_the_functions(runs, capsys):
    found = record_of(runs, capsys, "ae", "reconstruction")
    ae, split = pair_of(runs, "ae"), items_of(runs, "ae")
    error = pyrovae.reconstruction_error(split.x, pyrovae.decoded(ae, pyrovae.encoded(ae, split.x)))
    assert found["mean"] == float(error.squared_error) and found["r2"] == float(error.r2)
    for name in ("lda", "softmax"):
        found = record_of(runs, capsys, name, "scores", "--bins", "5")
        part = items_of(runs, name)
        scores = pyrovae.classification_scores(pyrovae.predictions(pair_of(runs, name), part.x, part.y), bins=5)
        assert found["accuracy"]["value"] == scores["accuracy"] and found["log_loss"]["value"] == scores["log_loss"]


@pytest.mark.slow
def test_gaps_calibration_and_code_space_are_those_of_the_functions(runs, capsys):
    vae, data = pair_of(runs, "vae"), read_run(runs / "vae").data()
    found = record_of(runs, capsys, "vae", "gaps", "--num-items", "3")
    x = data.test.x[np.sort(np.random.default_rng(0).permutation(24)[:3])]
    gaps = pyrovae.gaps(vae, x, pyrovae.quadrature(vae, x), progress=False)
    assert found["gap"] == dict(zip(("mean", "se"), gaps.mean("gap"), strict=True))
    found = record_of(runs, capsys, "vae", "calibrate", "--num-simulations", "100", "--num-draws", "9")
    tests = pyrovae.calibrate(vae, num_simulations=100, num_draws=9).tests
    assert found["quantities"]["latent[1]"]["p_value"] == float(tests.p_value[1])
    assert found["quantities"]["log p(x | z)"]["bias"] == "NaN"  # it has none
    found = record_of(runs, capsys, "vae", "code_space")
    judge = pyrovae.Judge.fit(data.train.x, data.train.y)
    statistics = pyrovae.code_space(vae, data.train, data.test, judge, num_codes=24, num_pairs=12)
    assert found["rate"]["value"] == float(statistics.rate) and found["knn_accuracy"]["value"] == float(
        statistics.knn_accuracy
    )


def test_values_of_items_are_written(runs, tmp_path):
    out = tmp_path / "values.csv"
    assert main(["evaluate", str(runs / "vae"), "-e", "elbo", "-e", "iwae", "-o", str(out)]) == 0
    table = read_csv(out)
    elbo = pyrovae.elbo(pair_of(runs, "vae"), items_of(runs, "vae").x)
    assert list(table)[:3] == ["item", "elbo", "elbo_se"]
    assert np.array_equal(np.array(table["elbo"], float), elbo.pointwise["value"])
    both = [str(runs / "vae"), str(runs / "vae3")]
    assert main(["evaluate", *both, "-e", "elbo", "-o", str(tmp_path / "two.csv")]) == 0
    two = read_csv(tmp_path / "two.csv")
    assert two["run"] == ["vae"] * 24 + ["vae3"] * 24 and two["elbo"][:24] == table["elbo"]


def test_a_comparison_is_that_of_the_paired_differences(runs, capsys):
    assert main(["compare", str(runs / "vae"), str(runs / "vae3"), "-e", "elbo", "--json"]) == 0
    found = said(capsys)
    x = items_of(runs, "vae").x
    difference = pyrovae.elbo(pair_of(runs, "vae"), x) - pyrovae.elbo(pair_of(runs, "vae3"), x)
    mean, low, high = pyrovae.paired_interval(difference.pointwise["value"])
    (record,) = found["differences"]
    assert [record[name] for name in ("mean", "se", "low", "high")] == [mean, difference.se, low, high]
    expected = "vae" if low > 0 else "vae3" if high < 0 else None
    assert record["better"] == expected and record["difference"] == "vae - vae3"


def test_a_smaller_squared_error_is_the_better_one(runs, capsys):
    assert main(["compare", str(runs / "ae"), str(runs / "vae"), "-e", "reconstruction", "--json"]) == 0
    (record,) = said(capsys)["differences"]
    x = items_of(runs, "vae").x
    errors = []
    for name in ("ae", "vae"):
        error = pyrovae.reconstruction_error(x, pair_of(runs, name).reconstruct(x))
        errors.append(error["squared_error_items"].values)
    mean, low, high = pyrovae.paired_interval(errors[0] - errors[1])
    assert np.allclose([record["mean"], record["low"], record["high"]], [mean, low, high])
    assert record["better"] == ("ae" if high < 0 else "vae" if low > 0 else None)


def test_three_runs_share_their_confidence(runs, capsys):
    names = ["vae", "vae3"]
    shutil.copytree(runs / "vae3", runs / "again", dirs_exist_ok=True)
    command = ["compare", *(str(runs / name) for name in [*names, "again"]), "-e", "elbo", "--confidence", "0.9"]
    assert main([*command, "--json"]) == 0
    differences = said(capsys)["differences"]
    assert [each["difference"] for each in differences] == ["vae - vae3", "vae - again", "vae3 - again"]
    assert all(each["level"] >= 0.9 for each in differences) and differences[-1]["better"] is None


def test_an_export_is_that_of_to_arviz(runs, tmp_path):
    out = tmp_path / "vae.nc"
    assert main(["export", str(runs / "vae"), "--num-items", "all", "--num-draws", "4", "-o", str(out)]) == 0
    split = items_of(runs, "vae")
    expected = pyrovae.to_arviz(pair_of(runs, "vae"), split.x, y=split.y, num_draws=4)
    read = az.from_netcdf(out)
    for group, name in (("posterior", "latent"), ("prior_predictive", "obs"), ("log_evidence", "log_evidence")):
        assert np.array_equal(read[group][name].values, expected[group][name].values), group
    assert np.array_equal(read["constant_data"]["label"].values, split.y)


# which items --------------------------------------------------------------------------------------


def test_other_items_come_whole_and_in_their_order_and_those_of_the_fit_do_not(runs, tmp_path, capsys):
    other = np.load(runs / "other.npy")
    assert main(["encode", str(runs / "vae"), "--data", str(runs / "other.npy"), "-o", str(tmp_path / "o.npy")]) == 0
    expected = pair_of(runs, "vae").encode(torch.from_numpy(other)).detach()
    assert np.array_equal(np.load(tmp_path / "o.npy"), expected)
    shutil.copy(runs / "binary.npz", tmp_path / "a-copy.npz")
    assert (
        main(["encode", str(runs / "vae"), "--data", str(tmp_path / "a-copy.npz"), "-o", str(tmp_path / "c.npy")]) == 0
    )
    assert len(np.load(tmp_path / "c.npy")) == 24  # the items that it was fitted on are left out
    assert main(["encode", str(runs / "vae"), "--part", "train", "-o", str(tmp_path / "t.npy")]) == 0
    assert len(np.load(tmp_path / "t.npy")) == 96


def test_channels_are_found_by_the_shape_of_the_pairs_items(tmp_path, recwarn):
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "last.npy", np.moveaxis(images, 1, -1))
    np.save(tmp_path / "first.npy", images)
    fit = ["fit", str(tmp_path / "last.npy"), "--channel-axis", "last", "--network", "mlp", "--hidden-dims", "4"]
    assert main([*fit, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    codes = []
    for name in ("last", "first"):
        data = ["--data", str(tmp_path / f"{name}.npy"), "--part", "all", "-o", str(tmp_path / f"{name}-codes.npy")]
        assert main(["encode", str(tmp_path / "run"), *data]) == 0
        codes.append(np.load(tmp_path / f"{name}-codes.npy"))
    expected = read_run(tmp_path / "run").pair().encode(torch.from_numpy(images) / 255).detach()
    assert np.array_equal(codes[0], expected) and np.array_equal(codes[1], expected)


def test_fewer_items_are_some_of_the_more_whatever_the_seed_is(runs, capsys):
    chosen = []
    for count, seed in (("5", "0"), ("9", "0"), ("5", "7")):
        command = ["evaluate", str(runs / "vae"), "-e", "elbo", "--num-items", count, "--seed", seed, "--json"]
        assert main(command) == 0
        chosen.append(said(capsys)["runs"][0]["results"][0]["settings"]["items_sha256"])
    assert chosen[0] == chosen[2] != chosen[1]
    numbers = []
    for count in ("5", "9"):
        assert main(["encode", str(runs / "vae"), "--num-items", count, "--json"]) == 0
        numbers.append(said(capsys)["variables"]["item"]["values"])
    assert set(numbers[0]) < set(numbers[1]) and numbers[1] == sorted(numbers[1])


def test_grey_items_become_binary_where_the_likelihood_takes_nothing_else(runs, capsys):
    x = items_of(runs, "of-grey").x
    for how in (None, "threshold"):
        more = [] if how is None else ["--binarize", how]
        assert main(["evaluate", str(runs / "of-grey"), "-e", "elbo", "--json", *more]) == 0
        record = said(capsys)["runs"][0]["results"][0]
        binary = pyrovae.data.binarize(x, how=how or "sample")
        assert record["mean"] == pyrovae.elbo(pair_of(runs, "of-grey"), binary).mean
        assert record["protocol"]["binarization"] == ("sample, seed 0" if how is None else how)
    assert main(["evaluate", str(runs / "of-grey"), "-e", "elbo", "--binarize", "no"]) == 2


def test_an_estimator_of_fewer_items_takes_them_with_the_values_that_the_others_take(runs):
    source = open_run(str(runs / "of-grey")).source()
    both = _items_of(source, ["elbo", "quadrature", "reconstruction"], None, None)
    assert torch.equal(both["elbo"].x, source.items(1000, "sample").x) and both["elbo"].binarization == "sample, seed 0"
    more, fewer = source.items(20, "sample"), source.items(20, "sample").fewer(7)
    place = np.searchsorted(more.numbers, fewer.numbers)
    assert fewer.numbers.tolist() == source.items(7).numbers.tolist() and torch.equal(fewer.x, more.x[place])
    assert not torch.equal(fewer.x, source.items(7, "sample").x)  # which are other draws
    assert both["reconstruction"].binarization is None and both["quadrature"].numbers.tolist() == list(range(24))


def test_a_saved_state_takes_the_items_that_are_named(runs, tmp_path, capsys):
    pyrovae.save(tmp_path / "state", pair_of(runs, "vae"))
    command = ["encode", str(tmp_path / "state"), "-o", str(tmp_path / "codes.npy")]
    assert main(command) == 2
    assert "name items by --data" in capsys.readouterr().err
    assert main([*command, "--data", str(runs / "other.npy")]) == 0
    expected = pair_of(runs, "vae").encode(torch.from_numpy(np.load(runs / "other.npy"))).detach()
    assert np.array_equal(np.load(tmp_path / "codes.npy"), expected)


def test_labels_of_other_items_are_named_beside_them(runs, tmp_path, capsys):
    with np.load(runs / "grey.npz") as archive:
        np.save(tmp_path / "x.npy", archive["x"][:30])
        np.save(tmp_path / "y.npy", archive["y"][:30])
    command = ["evaluate", str(runs / "softmax"), "--data", str(tmp_path / "x.npy"), "--json"]
    assert main(command) == 2
    assert "--labels" in capsys.readouterr().err
    assert main([*command, "--labels", str(tmp_path / "y.npy")]) == 0
    found = said(capsys)["runs"][0]["results"][0]
    table = pyrovae.predictions(pair_of(runs, "softmax"), np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy"))
    assert found["accuracy"]["value"] == pyrovae.classification_scores(table)["accuracy"]


# what is refused ----------------------------------------------------------------------------------

COMMANDS = {
    "evaluate": ["-o", "{out}.csv"],
    "compare": ["{runs}/vae3"],
    "sample": ["-o", "{out}.npy"],
    "encode": ["-o", "{out}.npy"],
    "reconstruct": ["-o", "{out}.npy"],
    "impute": ["--data", "{runs}/other.npy", "-o", "{out}.npy"],
    "export": ["-o", "{out}.nc"],
    "report": ["-o", "{out}.html"],
}
FOLDERS = {
    "nowhere": "does not exist",
    "foreign": "no run folder",
    "a-file.txt": "is a file",
    "unfinished": "unfinished",
    "damaged": "damaged",
}
OF_ALL = [(command, FOLDERS[folder], [folder]) for command in COMMANDS for folder in FOLDERS]
for _command in COMMANDS:
    OF_ALL += [
        (_command, "no-such-option", ["{runs}/vae", "--no-such-option"]),
        (_command, "--device", ["{runs}/vae", "--device", "abacus"]),
        (_command, "--num-items must be", ["{runs}/vae", "--num-items", "0"]),
    ]
    if _command != "compare":
        OF_ALL.append((_command, "Missing argument", []))
    if _command != "sample":
        OF_ALL.append((_command, "there is no nowhere.npy", ["{runs}/vae", "--data", "nowhere.npy"]))
    if _command not in ("encode", "reconstruct"):
        OF_ALL.append((_command, "--seed must be", ["{runs}/vae", "--seed", "-1"]))
TARGETS = {
    "{out}.pt": "must have one of",
    "{out}": "has no ending",
    "{tmp}/no-such-folder/x{ending}": "does not exist: make it first",
    "{tmp}/there{ending}": "--force",
    "{tmp}/a-folder{ending}": "is a folder",
}
OF_FILES = []
for _command in COMMANDS:
    if _command != "compare":
        OF_FILES += [(_command, words, ["{runs}/vae", "-o", target]) for target, words in TARGETS.items()]
OF_ONE = [
    ("evaluate", "--estimator must be one of", ["{runs}/vae", "-e", "elbow"]),
    ("evaluate", "--tol is of quadrature", ["{runs}/vae", "--tol", "0.1"]),
    ("evaluate", "--num-particles must be a whole number", ["{runs}/vae", "--num-particles", "many"]),
    ("evaluate", "codes of 1 or 2 dimensions", ["{runs}/vae3", "-e", "quadrature"]),
    ("evaluate", "needs a p(x)", ["{runs}/ae", "-e", "elbo"]),
    ("evaluate", "given twice", ["{runs}/vae", "{runs}/vae"]),
    ("evaluate", "--labels are of the items in --data", ["{runs}/vae", "--labels", "y.npy"]),
    ("evaluate", "shape", ["{runs}/vae", "--data", "digits"]),
    ("compare", "at least 2 run folders", ["{runs}/vae"]),
    ("compare", "given twice", ["{runs}/vae", "{runs}/vae"]),
    ("compare", "--estimator reconstruction", ["{runs}/vae", "{runs}/ae"]),
    ("compare", "different data", ["{runs}/vae", "{runs}/normal"]),
    ("compare", "not comparable", ["{runs}/of-grey", "{runs}/normal"]),
    ("compare", "no one estimator suits", ["{runs}/mixture", "{runs}/softmax"]),
    ("compare", "--estimator must be one of", ["{runs}/vae", "{runs}/vae3", "-e", "gaps"]),
    ("sample", "has no p(x)", ["{runs}/ae", "-o", "{out}.npy"]),
    ("sample", "p(y | x) alone", ["{runs}/softmax", "-o", "{out}.npy"]),
    ("sample", "--label 9 is no class", ["{runs}/lda", "--label", "9", "-o", "{out}.npy"]),
    ("sample", "--label is of a classifier", ["{runs}/vae", "--label", "1", "-o", "{out}.npy"]),
    ("sample", "--mean is of a VAE", ["{runs}/mixture", "--mean", "-o", "{out}.npy"]),
    ("sample", "name by -o", ["{runs}/vae"]),
    ("encode", "picture", ["{runs}/mixture", "-o", "{out}.png"]),
    ("reconstruct", "no codes", ["{runs}/mixture", "-o", "{out}.npy"]),
    ("impute", "nothing is missing", ["{runs}/vae", "-o", "{out}.npy"]),
    ("impute", "gives no p(missing | seen)", ["{runs}/lda", "--mask", "mask.npy", "-o", "{out}.npy"]),
    ("impute", "--mask must be a .npy file", ["{runs}/vae", "--mask", "a-file.txt", "-o", "{out}.npy"]),
    ("impute", "--mask wrong-mask.npy has shape", ["{runs}/vae", "--mask", "wrong-mask.npy", "-o", "{out}.npy"]),
    (
        "impute",
        "--method must be one of mcmc, nuts, sir, got 'nut'; did you mean nuts?",
        ["{runs}/vae", "--method", "nut"],
    ),
    ("impute", "--interval needs", ["{runs}/vae", "--interval", "0.9", "-o", "{out}.npy"]),
    ("impute", "--interval must be a number between 0 and 1", ["{runs}/vae", "--interval", "1", "-o", "{out}.npz"]),
    ("impute", "--draws are no picture", ["{runs}/vae", "--draws", "-o", "{out}.png"]),
    ("export", "cannot be exported", ["{runs}/mixture", "-o", "{out}.nc"]),
    ("export", "cannot be exported", ["{runs}/ae", "-o", "{out}.nc"]),
]


@pytest.fixture
def wrong(runs, tmp_path, monkeypatch) -> Path:
    """A folder of things that are no runs, and of targets that are there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("nothing of pyrovae's")
    (tmp_path / "a-file.txt").write_text("no folder")
    for name, words in (("unfinished", '"unfinished"'), ("damaged", "nonsense")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(words)
    from pyrovae.run_folder import begin_run

    begin_run(tmp_path / "unfinished", {key: value for key, value in read_run(runs / "vae").manifest.items()})
    for ending in ("csv", "npy", "nc", "html"):
        (tmp_path / f"there.{ending}").write_text("mine")
        (tmp_path / f"a-folder.{ending}").mkdir()
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0] = True
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "wrong-mask.npy", mask[:, :3])
    return tmp_path


@pytest.mark.parametrize(("command", "words", "arguments"), [*OF_ALL, *OF_FILES, *OF_ONE])
def test_whatever_does_not_fit_is_a_sentence_and_status_2(runs, wrong, capsys, command, words, arguments):
    ending = os.path.splitext(COMMANDS[command][-1])[1] or ".npy"
    places = {"runs": runs, "out": wrong / "out", "tmp": wrong, "ending": ending}
    is_whole = "-o" in arguments or (command, words, arguments) in OF_ONE
    needed = [] if is_whole else COMMANDS[command]
    given = [text.format(**places) for text in [*needed, *arguments]]  # an option that comes later counts
    before = contents(wrong)
    assert main([command, *given]) == 2
    said_so = capsys.readouterr()
    assert words in said_so.err and said_so.err.startswith("pyrovae: ") and "Traceback" not in said_so.err
    assert not speaks_python(said_so.err), said_so.err
    assert contents(wrong) == before  # nothing new, nothing half-written, nothing replaced


def speaks_python(text: str) -> str | None:
    from pyrovae.cli.words import speaks_python as found

    return found(text)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of the process may grow over `size` bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = [
    *(("sample", ending) for ending in (".npy", ".npz", ".csv", ".png", ".nc", "/")),
    ("encode", ".csv"),
    ("reconstruct", ".npz"),
    ("impute", ".npy"),
    ("evaluate", ".nc"),
    ("export", ".nc"),
]
REPLACING = {("sample", "/"), ("encode", ".csv"), ("impute", ".npy")}
OTHERS = {("sample", ".npz"), ("reconstruct", ".npz"), ("sample", ".nc"), ("evaluate", ".nc")}  # written as others are


@pytest.mark.parametrize(
    ("command", "ending", "replaces"),
    [
        pytest.param(*writer, replaces, marks=pytest.mark.slow if slow else ())
        for replaces in (False, True)
        for writer in WRITERS
        for slow in [writer not in REPLACING if replaces else writer in OTHERS]
    ],
)
def test_a_full_disk_leaves_what_was_there(runs, wrong, capsys, command, ending, replaces):
    target = wrong / f"target{ending}"
    if replaces and ending == "/":
        target.mkdir()
        (target / "0000.png").write_bytes(b"mine")
    elif replaces:
        target.write_bytes(b"mine")
    before = contents(wrong)
    more = {"impute": ["--mask", "mask.npy", "--num-draws", "2", "--num-steps", "2"], "sample": ["-n", "40"]}
    arguments = [
        *more.get(command, []),
        "-o",
        f"{target}{'/' if ending == '/' else ''}",
        *(["--force"] if replaces else []),
    ]
    with files_of_at_most(60):
        assert main([command, str(runs / "vae"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and "nothing was left there" in error and str(target) in error
    assert contents(wrong) == before
    assert main([command, str(runs / "vae"), *arguments]) == 0  # the same with room


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"mine")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x.npy", force=True) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"x.npy": b"mine"}
    with replacing(tmp_path / "x.npy", force=True) as temporary:
        temporary.write_bytes(b"whole")
    assert contents(tmp_path) == {"x.npy": b"whole"}


def test_a_folder_of_other_files_is_not_replaced(runs, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").write_bytes(b"mine")
    assert main(["sample", str(runs / "vae"), "-o", f"{tmp_path}/photos/", "--force"]) == 2
    assert "is kept" in capsys.readouterr().err and (tmp_path / "photos" / "holiday.png").read_bytes() == b"mine"


# formats and tables -------------------------------------------------------------------------------


def test_numbers_that_json_has_no_word_for():
    value = {
        "a": float("nan"),
        "b": [np.float32(np.inf), -np.inf],
        "c": np.array([0.1, np.nan]),
        "d": Path("x"),
        "e": True,
    }
    text = json_text(value)
    assert json.loads(text) == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": [0.1, "NaN"], "d": "x", "e": True}
    assert float(json.loads(text)["b"][1]) == -np.inf
    assert json.loads(json_text({"x": 1 / 3}))["x"] == 1 / 3


def test_columns_of_a_table_are_named_by_their_indices():
    dataset = xr.Dataset(
        {
            "x": (("item", "row", "column"), np.arange(12.0).reshape(2, 3, 2)),
            "p": (("item", "class"), [[0.2, 0.8], [0.6, 0.4]]),
            "total": 3.0,
        },
        {"item": [4, 7], "class": ["cat", "dog"]},
    )
    table = columns(dataset)
    assert list(table)[:3] == ["item", "x_0_0", "x_0_1"] and list(table)[-2:] == ["p_cat", "p_dog"]
    assert table["x_2_1"].tolist() == [5.0, 11.0] and table["item"].tolist() == [4, 7]


def test_the_table_of_estimators_states_the_functions_own_options_and_defaults():
    functions = {"gaps": pyrovae.gaps, "calibrate": pyrovae.calibrate, "scores": pyrovae.classification_scores}
    functions["log_prob"] = pyrovae.BayesianGaussianMixture.log_prob
    for name in ("elbo", "iwae", "exact", "quadrature", "ais"):
        functions[name] = getattr(pyrovae, name)
    assert {option for each in ESTIMATORS.values() for option in each.options} == set(OPTIONS)
    for name, estimator in ESTIMATORS.items():
        for option in set(estimator.options) - {"evidence", "analytic", "decoded_at"}:
            default = inspect.signature(functions[name]).parameters[option].default
            words = OPTIONS[option][1].replace(",", "")
            takers = [each for each in ESTIMATORS.values() if option in each.options]
            stated = f"({default}" if len(takers) == 1 else f"{name} ({default}"
            assert stated in words or f"{name} (default: {default}" in words, (name, option, default)


def test_items_with_heavy_weights_are_told_of(runs, capsys, monkeypatch):
    """Three items are flagged by hand; without flags nothing is said."""
    words = "items are unreliable: a few draws carry their weights"
    arguments = ["-e", "iwae", "--num-particles", "50", "--device", "cpu"]
    assert main(["evaluate", str(runs / "vae"), *arguments]) == 0
    assert words not in capsys.readouterr().out
    whole = pyrovae.iwae

    def heavy(pair, x, **options):
        estimate = whole(pair, x, **options)
        flags = np.zeros(len(estimate.pointwise["item"]), bool)
        flags[:3] = True
        return dataclasses.replace(estimate, pointwise=estimate.pointwise.assign(unreliable=("item", flags)))

    monkeypatch.setattr(pyrovae, "iwae", heavy)
    assert main(["evaluate", str(runs / "vae"), *arguments]) == 0
    assert f"3 of 24 {words}" in capsys.readouterr().out
    assert main(["compare", str(runs / "vae"), str(runs / "vae3"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"3 of 24 {words}") == 3  # of each, and of their difference


def test_a_file_after_the_run_folder_is_said_to_be_named_by_an_option(runs, capsys):
    assert main(["impute", str(runs / "vae"), "holes.npy", "-o", "a.npy"]) == 2
    assert "unexpected extra argument (holes.npy): items are named by --data" in capsys.readouterr().err
    assert main(["sample", str(runs / "vae"), "holes.npy", "-o", "a.npy"]) == 2
    assert "--data" not in capsys.readouterr().err
