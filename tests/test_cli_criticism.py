"""The commands `check` and `strange`: what they write equals what Python gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.cli import main
from pyrovae.run_folder import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criticism")
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    np.save(folder / "x.npy", x)
    options = ["--model", "linear_vae", "--latent-dim", "1", "--epochs", "1", "--likelihood", "normal"]
    assert main(["fit", str(folder / "x.npy"), "--out", str(folder / "run"), *options]) == 0
    np.save(folder / "more.npy", np.concatenate([x[:3], 9 + x[:2]]))
    return folder / "run"


def test_check(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    opened = read_run(run)
    expected = pyrovae.predictive_checks(opened.pair(), opened.data().test.x, draws=19, seed=2)
    assert main(["check", str(run), "--draws", "19", "--seed", "2", "-o", str(tmp_path / "c.npz")]) == 0
    assert str(expected) in capsys.readouterr().out
    with np.load(tmp_path / "c.npz") as written:
        assert np.array_equal(written["p_value"], expected.table.p_value, equal_nan=True)
    assert main(["check", str(run), "--draws", "19", "--statistic", "sd", "--kind", "split", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["kind"] == "split"


def test_strange(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    opened = read_run(run)
    data = opened.data()
    detector = pyrovae.NoveltyDetector(opened.pair(), data.test.x, reference=data.train.x, score="log_prob", seed=1)
    expected = detector.detect(torch.from_numpy(np.load(run.parent / "more.npy")))
    arguments = ["strange", str(run), str(run.parent / "more.npy"), "--score", "log_prob", "--seed", "1"]
    assert main([*arguments, "-o", str(tmp_path / "s.npz")]) == 0
    said = capsys.readouterr().out
    assert str(expected) in said and "item      3" in said and "item      0" not in said
    with np.load(tmp_path / "s.npz") as written:
        assert np.array_equal(written["p_value"], expected.p_value)
        assert written["strange"].tolist() == [0, 0, 0, 1, 1]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["num_calibration"] == 40


def test_what_is_refused_in_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in {
        ("check", str(run), "--statistic", "mode"): "--statistic must be one of",
        ("check", str(run), "--level", "2"): "--level",
        ("strange", str(run)): "Missing argument",
        ("strange", str(run), "nowhere.npy"): "there is no nowhere.npy",
        ("strange", str(run), str(run.parent / "more.npy"), "--score", "entropy"): "--score must be one of",
        ("strange", str(run), str(run.parent / "more.npy"), "--level", "0.001"): "usual items to calibrate with",
    }.items():
        assert main(list(arguments)) == 2
        assert words in capsys.readouterr().err
