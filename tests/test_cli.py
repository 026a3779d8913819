"""The command line: what it writes, what it says, its exit status; alone and under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import pyrovae
from pyrovae.cli import main
from pyrovae.inference.svi.loop import Loop

QUICK = ["--epochs", "2", "--batch-size", "300", "--hidden-dims", "16", "--binarize"]


def test_fit_does_what_the_function_does(tmp_path, capsys):
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), "--seed", "3", *QUICK]) == 0
    digits = pyrovae.data.load("digits")
    torch.manual_seed(3)
    vae = pyrovae.mlp_vae((1, 8, 8), 2, hidden_dims=(16,))
    options = {"epochs": 2, "batch_size": 300, "binarize": True, "seed": 3, "progress": False}
    history = pyrovae.fit(vae, digits.train.x, validation=digits.test.x, **options)
    saved = pyrovae.load(tmp_path / "run" / "model")
    assert all(torch.equal(p, q) for p, q in zip(saved.parameters(), vae.parameters(), strict=True))
    with xr.open_dataset(tmp_path / "run" / "history.nc", engine="h5netcdf") as written:
        assert written.loss.values.tolist() == history.epochs.loss.values.tolist()
        assert json.loads(written.attrs["config"])["seed"] == 3
    assert capsys.readouterr().out.startswith("2 epochs, loss ")


def test_files_networks_and_likelihoods(tmp_path):
    x = np.random.default_rng(0).random((50, 5), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    for name, more in {"linear": [], "mlp": ["--likelihood", "continuous_bernoulli", "--latent-dim", "3"]}.items():
        out = tmp_path / name
        assert main(["fit", str(tmp_path / "x.npy"), "--network", name, "--out", str(out), "--epochs", "1", *more]) == 0
        assert pyrovae.load(out / "model").event_shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "nothing"),
        (["digits", "--likelihood", "bernouli", "--binarize"], "bernoulli"),
        (["digits", "--binarize", "--epochs", "0"], "epochs must be"),
        (["digits"], "binarize"),
        (["digits", "--network", "linear", "--likelihood", "normal"], "items of one axis"),
    ],
)
def test_errors_are_a_line_and_status_2(tmp_path, capsys, arguments, words):
    assert main(["fit", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyrovae: ") and words in error and "Traceback" not in error


def test_a_file_or_nothing_for_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["fit", "digits", "--out", str(tmp_path / "file")]) == 2
    assert "file is a file: name a folder" in capsys.readouterr().err
    assert main(["fit", "digits", "--out", ""]) == 2
    assert "--out must be the path of a file or folder, got ''" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiler_that_is_asked_for_and_missing(without_compiler, tmp_path):
    done = without_compiler(
        f"""
        from pyrovae.cli import main
        run = ["digits", "--binarize", "--epochs", "1", "--out", {str(tmp_path / "run")!r}]
        print(main(["fit", *run, "--compile", "yes"]), main(["fit", *run, "--compile", "no"]))
        """
    )
    assert done.stdout.endswith("2 0\n")  # what has trained nothing is not in the way
    assert done.stderr.startswith("pyrovae: the step could not be compiled") and "Traceback" not in done.stderr


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    assert main(["fit", "digits", "--out", str(tmp_path), *QUICK]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["fit", "digits", "--out", str(tmp_path), *QUICK, "--resume"]) == 2
    assert "holds no checkpoint/ to --resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_what_a_file_manager_leaves_is_not_in_the_way(tmp_path, capsys):
    out = tmp_path / "run"
    for folder in (out, out / "checkpoint"):
        folder.mkdir()
        (folder / ".DS_Store").write_text("")
        (folder / "Thumbs.db").write_text("")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((30, 4), dtype=np.float32))
    command = ["fit", str(tmp_path / "x.npy"), "--out", str(out), "--hidden-dims", "4", "--likelihood", "normal"]
    assert main([*command, "--epochs", "1"]) == 0
    (out / "model" / ".DS_Store").write_text("")
    assert main([*command, "--epochs", "2"]) == 2  # the control: a run is not written over
    assert "is not empty" in capsys.readouterr().err
    assert main([*command, "--epochs", "2", "--resume"]) == 0
    trained = pyrovae.load(out / "checkpoint" / "epoch-000001")
    assert all(map(torch.equal, pyrovae.load(out).parameters(), trained.parameters()))
    assert (out / "model" / ".DS_Store").exists()


def test_an_interrupt_saves_and_says_130(tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pyrovae, "fit", interrupted)
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), *QUICK]) == 130
    assert pyrovae.load(tmp_path / "run" / "model").latent_dim == 2


def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(["fit", "digits", "--out", str(whole), *QUICK]) == 0
    row, calls = Loop.epoch, []

    def interrupted(loop, epoch):
        if calls:
            raise KeyboardInterrupt
        return calls.append(epoch) or row(loop, epoch)

    monkeypatch.setattr(Loop, "epoch", interrupted)
    assert main(["fit", "digits", "--out", str(out), *QUICK]) == 130
    assert "--resume goes on from the last epoch" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["fit", "digits", "--out", str(out), *QUICK]) == 2  # not by mistake
    assert main(["fit", "digits", "--out", str(out), *QUICK, "--resume"]) == 0
    first, second = (pyrovae.load(folder / "model") for folder in (whole, out))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    with xr.open_dataset(out / "history.nc", engine="h5netcdf") as written:
        assert written.sizes["epoch"] == 2


@pytest.mark.slow
def test_two_processes_write_once(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pyrovae"]
    command = [sys.executable, *launch, "fit", "digits", "--out", str(tmp_path / "run"), *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # no look at the status: torch's own threads may abort as Python ends, once in dozens of runs
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("2 epochs, loss") == 1
    with xr.open_dataset(tmp_path / "run" / "history.nc", engine="h5netcdf") as written:
        assert json.loads(written.attrs["config"])["processes"] == 2
    assert pyrovae.load(tmp_path / "run" / "model").latent_dim == 2
