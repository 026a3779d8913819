"""Items beside those of the fit: which of them a figure is of, how they are read, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.outputs import replacing
from pyrovae.cli.pictures import shades
from pyrovae.cli.reading import Opened
from pyrovae.run_folder import read_run

SMALL = ["--epochs", "1", "--hidden-dims", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs on 60 images of bytes, with labels and without, and one that keeps the bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4)).astype(np.uint8), np.arange(60) % 3
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "more.npy", rng.integers(0, 256, (20, 4, 4)).astype(np.uint8))
    for name, entries in (("parts", x), ("dark", x // 8)):
        np.savez(folder / f"{name}.npz", x_train=entries[:40], y_train=y[:40], x_test=entries[40:], y_test=y[40:])
    fits = {
        "scaled": ["x.npy"],
        "kept": ["x.npy", "--no-scale", "--likelihood", "normal"],
        "labelled": ["x.npy", "--labels", f"{folder}/y.npy"],
        "parts": ["parts.npz"],
    }
    for name, arguments in fits.items():
        command = ["fit", str(folder / arguments[0]), *arguments[1:], *SMALL, "--out", str(folder / name)]
        assert main(command) == 0, name
    return folder


@pytest.mark.parametrize("order", [("scaled", "kept"), ("kept", "scaled")])
@pytest.mark.parametrize("command", ["compare", "compare -e reconstruction", "report -o {tmp}/report.html"])
def test_runs_that_read_items_differently_are_not_compared(folder, tmp_path, capsys, command, order):
    runs = [str(folder / name) for name in order]
    name, *words = (word.format(tmp=tmp_path) for word in command.split())
    assert main([name, *runs, *words, "--data", str(folder / "more.npy")]) == 2
    error = capsys.readouterr().err
    assert "is read differently for" in error and "divided by 255 or kept" in error
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_takes_the_test_part_of_whichever_run_was_fitted_on_the_items(folder, capsys):
    other = ["--data", str(folder / "x.npy"), "--json", "-e", "reconstruction"]
    for order in (("labelled", "parts"), ("parts", "labelled")):
        assert main(["compare", *(str(folder / name) for name in order), *other]) == 0
        protocol = json.loads(capsys.readouterr().out)["protocol"]
        assert (protocol["part"], protocol["num_items"]) == ("test", 12), order


@pytest.mark.parametrize("run", ["scaled", "labelled"])
@pytest.mark.parametrize("labels", [[], ["--labels", "y.npy"]])
def test_the_items_of_the_fit_are_known_whatever_labels_they_come_with(folder, capsys, monkeypatch, run, labels):
    monkeypatch.chdir(folder)
    assert main(["evaluate", run, "--data", "x.npy", *labels, "-e", "reconstruction", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]["protocol"]
    assert (protocol["part"], protocol["num_items"]) == ("test", 12)  # and never the training items
    assert main(["evaluate", run, "--data", "more.npy", "-e", "reconstruction", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]["protocol"]
    assert (protocol["part"], protocol["num_items"]) == ("all", 20)


def test_the_code_space_of_other_items_is_theirs(folder, capsys):
    arguments = ["evaluate", str(folder / "parts"), "-e", "code_space"]
    assert main([*arguments, "--data", str(folder / "dark.npz"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]
    data, vae = pyrovae.data.load(folder / "dark.npz"), read_run(folder / "parts").pair().eval()
    images = pyrovae.decoded(vae, pyrovae.encoded(vae, data.test.x))
    expected = float(pyrovae.reconstruction_error(data.test.x, images).squared_error)
    assert record["squared_error"]["value"] == pytest.approx(expected, rel=1e-6)
    assert main([*arguments, "--data", str(folder / "x.npy"), "--labels", str(folder / "y.npy")]) == 2
    assert "add --part test" in capsys.readouterr().err


def mask_shapes() -> dict[str, tuple[int, ...]]:
    return {"of a file of grey images": (60, 4, 4), "of one": (4, 4), "with the channel last": (4, 4, 1)}


@pytest.mark.parametrize("shape", mask_shapes().values(), ids=mask_shapes())
def test_a_mask_has_the_axes_of_the_file_of_the_items(folder, tmp_path, shape):
    mask = np.zeros(shape, bool)
    mask[(Ellipsis, 1, 2, 0) if shape == (4, 4, 1) else (Ellipsis, 1, 2)] = True
    np.save(tmp_path / "mask.npy", mask)
    words = ["--mask", f"{tmp_path}/mask.npy", "--part", "all", "--num-draws", "2", "--num-steps", "1"]
    assert main(["impute", str(folder / "scaled"), *words, "-o", f"{tmp_path}/filled.npz"]) == 0
    missing = np.load(tmp_path / "filled.npz")["missing"]
    assert missing.shape == (60, 1, 4, 4) and missing.sum() == 60 and missing[:, 0, 1, 2].all()


def test_whatever_is_missing_of_the_items_of_the_fit_is_filled_in(folder, tmp_path):
    x = np.load(folder / "x.npy")[:, None] / np.float32(255)
    row = int(pyrovae.data.load(folder / "x.npy").order[0])  # of the training part
    x[row, 0, 2, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    words = ["--data", f"{tmp_path}/x.npy", "--num-draws", "2", "--num-steps", "1", "-o", f"{tmp_path}/filled.npy"]
    assert main(["impute", str(folder / "scaled"), *words]) == 0
    filled = np.load(tmp_path / "filled.npy")
    assert filled.shape == x.shape and np.isfinite(filled).all()
    assert np.array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])


@pytest.mark.parametrize("run", ["scaled", "kept"])
def test_pictures_of_bytes_are_in_their_own_shades(folder, tmp_path, run):
    assert main(["sample", str(folder / run), "-n", "4", "--mean", "-o", f"{tmp_path}/images/"]) == 0
    assert main(["sample", str(folder / run), "-n", "4", "--mean", "-o", f"{tmp_path}/x.npy"]) == 0
    x = np.load(tmp_path / "x.npy") * (255 if run == "scaled" else 1)
    shown = np.stack([np.asarray(Image.open(tmp_path / "images" / f"000{i}.png")) for i in range(4)])
    assert np.array_equal(shown, np.rint(x[:, 0].clip(0, 255)))
    assert main(["reconstruct", str(folder / run), "-o", f"{tmp_path}/r.png"]) == 0
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("L"), float)
    assert len(np.unique(picture[40:-40, 200:-40])) > 50  # the items are grey, and not black and white


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 255.0), (0.0, 16.0), (-2.0, 3.0)])
def test_the_shades_of_a_picture_go_from_the_least_to_the_largest_value_of_the_fit(limits):
    low, high = limits
    record = {"minimum": low, "maximum": high, "scale": high < 16}
    assert Opened(Path("run"), None, None, {"data": record}).limits == limits
    assert shades(np.array([low, (low + high) / 2, high]), limits).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", ["samples.v1/", "samples.png/", "./", "../"])
def test_a_folder_that_has_an_ending_or_no_name_is_refused(folder, tmp_path, monkeypatch, capsys, name):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["sample", str(folder / "scaled"), "-n", "2", "-o", name, "--force"]) == 2
    assert f"-o {name} is no name of a new folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*")] == ["empty"]


def test_force_keeps_what_was_put_into_the_folder_meanwhile(tmp_path):
    target = tmp_path / "images"
    target.mkdir()
    (target / "0000.png").write_bytes(b"ours")
    with pytest.raises(Exception, match="meanwhile"), replacing(target, force=True) as temporary:
        temporary.mkdir()
        (target / "mine.txt").write_text("mine", encoding="utf-8")
    assert sorted(file.name for file in target.iterdir()) == ["0000.png", "mine.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


def test_the_command_on_a_page_is_the_one_that_was_typed(folder):
    from pyrovae.cli.commands.report import _entry
    from pyrovae.cli.reading import open_run
    from pyrovae.report import Entry

    entry = _entry(Entry, open_run(str(folder / "scaled")), "scaled")
    assert entry.protocol["command"].startswith(f"pyrovae fit {folder}")


def test_a_run_folder_whose_name_is_no_unicode_is_read_and_written_of(folder, tmp_path, monkeypatch):
    run = tmp_path / os.fsdecode(b"r\xff \xc3\xa9")
    try:
        shutil.copytree(folder / "scaled", run)
    except OSError:
        pytest.skip("this file system has names of Unicode alone")
    monkeypatch.chdir(tmp_path)
    assert main(["encode", run.name, "-o", "codes.nc"]) == 0
    assert xr.open_dataset("codes.nc").attrs["run"] == "r\ufffd é"
    data = pyrovae.data.load(folder / "x.npy")
    monkeypatch.setattr("pyrovae.report.writing.makers", lambda: [])  # a page of the explorer alone
    pyrovae.report.write("page.html", [pyrovae.report.Entry(run.name, read_run(run).pair())], data)
    assert "r? é" in Path("page.html").read_text(encoding="utf-8")


WORDS = {"numbers": [10, 2, 1], "spelled": ["10", "2", "1"], "words": ["a", "b", "c"], "places": [0, 1, 2]}


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    """A classifier of three groups that are far apart for each way to name them, and the labels in each way."""
    folder = tmp_path_factory.mktemp("named")
    rng = np.random.default_rng(0)
    number = np.arange(30) % 3
    x = torch.from_numpy(20 * number[:, None] + rng.normal(size=(30, 2))).float()
    np.save(folder / "x.npy", x.numpy())
    for way, names in WORDS.items():
        y = np.array(names)[number]
        classifier = pyrovae.gaussian_classifier((2,), 3)
        pyrovae.fit(classifier, x, y, progress=False, device="cpu")
        pyrovae.save(folder / way, classifier)
        np.save(folder / f"{way}.npy", y)
        np.savez(folder / f"{way}.npz", x=x.numpy(), y=y)
    return folder


ALIKE = [{"numbers", "spelled"}]  # any other two ways name other classes


@pytest.mark.parametrize("labels", WORDS)
@pytest.mark.parametrize("run", WORDS)
def test_labels_are_matched_by_what_they_say_and_never_by_their_places(named, capsys, monkeypatch, run, labels):
    monkeypatch.chdir(named)
    status = main(["evaluate", run, "--data", "x.npy", "--labels", f"{labels}.npy", "-e", "scores", "--json"])
    out, error = capsys.readouterr()
    if run == labels or {run, labels} in ALIKE:
        result = json.loads(out)["runs"][0]["results"][0]
        assert (status, result["accuracy"]["value"]) == (0, 1.0)  # of codes of sorted strings it is 1/3
    else:
        assert status == 2
        assert (
            "the data set x has labels that are no class here" in error and f"These are the classes of {run}" in error
        )


@pytest.mark.parametrize(("run", "labels"), [("numbers", "spelled"), ("spelled", "numbers"), ("places", "words")])
def test_a_report_reads_labels_as_evaluate_does(named, tmp_path, capsys, monkeypatch, run, labels):
    from pyrovae.report.sections import classification

    monkeypatch.chdir(named)
    monkeypatch.setattr("pyrovae.report.writing.makers", lambda: [classification.section])
    status = main(["report", run, "--data", f"{labels}.npz", "-o", str(tmp_path / "report.html")])
    if labels == "words":
        assert status == 2 and "the data set words has labels that are no class here" in capsys.readouterr().err
        return
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert status == 0 and re.search(r"<th[^>]*>\W*10\W*</th>", page)  # the class, in the table of mistakes
    assert "1.0000" in page
