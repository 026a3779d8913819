"""A run folder: it is complete or refused, its files are those that were written, and it reads its data set again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae import run_folder
from pyrovae.cli import main
from pyrovae.data.summary import summarize
from pyrovae.run_folder import RunError, read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete run on bytes whose channels are last, with labels beside them."""
    folder = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    np.save(folder / "x.npy", generator.integers(0, 256, size=(40, 6, 5, 3), dtype=np.uint8))
    np.save(folder / "y.npy", generator.integers(0, 2, size=40))
    words = ["fit", str(folder / "x.npy"), "--labels", str(folder / "y.npy"), "--channel-axis", "last"]
    words += ["--model", "mlp_vae", "--hidden-dims", "4", "--epochs", "2", "--seed", "5", "--out", str(folder / "run")]
    assert main(words) == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, to be spoilt."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_complete_run_is_read(made):
    run = read_run(made / "run")
    assert run.name == "run"
    pair = run.pair()
    assert all(map(torch.equal, pair.parameters(), pyrovae.load(made / "run").parameters()))
    history = run.history()
    assert history.epochs.sizes["epoch"] == 2 and history.config["seed"] == 5 and "config" not in history.epochs.attrs
    manifest = run.manifest
    assert manifest["seed"] == 5 and manifest["status"] == "complete" and manifest["fit"]["epochs"] == 2
    assert manifest["model"]["name"] == "mlp_vae" and manifest["model"]["arguments"]["hidden_dims"] == [4]
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert manifest["data"]["event_shape"] == [3, 6, 5] and manifest["data"]["train_items"] == 32


def test_the_command_in_it_repeats_the_run(made, tmp_path):
    command = read_run(made / "run").manifest["command"]
    assert command[:2] == ["pyrovae", "fit"]
    words = [str(tmp_path / "again") if word == str(made / "run") else word for word in command[1:]]
    assert main(words) == 0
    first, again = (pyrovae.load(folder) for folder in (made / "run", tmp_path / "again"))
    assert all(map(torch.equal, first.parameters(), again.parameters()))


def test_its_data_set_is_read_as_it_was(made, tmp_path):
    run = read_run(made / "run")
    data = run.data()
    direct = pyrovae.data.load(made / "x.npy", channels="last", labels=made / "y.npy")
    assert torch.equal(data.train.x[:], direct.train.x[:]) and torch.equal(data.test.y, direct.test.y)
    assert float(data.train.x[:].max()) <= 1
    other = np.full((10, 6, 5, 3), 51, dtype=np.uint8)
    np.save(tmp_path / "other.npy", other)
    read = run.data(tmp_path / "other.npy")
    assert read.event_shape == (3, 6, 5) and torch.equal(read.train.x[:], torch.full((8, 3, 6, 5), 0.2))
    np.save(tmp_path / "other.npy", np.moveaxis(other, -1, 1))  # channels first, and still of the run's shape
    assert torch.equal(run.data(tmp_path / "other.npy").train.x[:], read.train.x[:])
    np.save(tmp_path / "other.npy", other[:, :4])
    with pytest.raises(RunError, match=r"items of shape \(3, 6, 5\), and those of .* have shape \(3, 4, 5\)"):
        run.data(tmp_path / "other.npy")


@pytest.mark.parametrize("change", ["value", "label"])
def test_a_data_set_that_has_changed_is_refused_by_name(tmp_path, change):
    x, y = np.random.default_rng(0).random((20, 3), dtype=np.float32), np.arange(20) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    words = ["fit", str(tmp_path / "x.npz"), "--network", "linear", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert len(read_run(tmp_path / "run").data().train) == 16  # the control
    if change == "value":
        x[3, 1] += 1e-6
    else:
        y[3] = 1 - y[3]
    np.savez(tmp_path / "x.npz", x=x, y=y)
    with pytest.raises(RunError, match=r"the (training|test) items of .*x.npz are not those that .*run was fitted on"):
        read_run(tmp_path / "run").data()
    (tmp_path / "x.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not there any more: .*x.npz; put it back"):
        read_run(tmp_path / "run").data()


def test_what_is_no_run_folder_says_what_to_do(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: name a folder that"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is a file: name a folder"):
        read_run(made / "x.npy")
    with pytest.raises(RunError, match=r"is no run folder: it has no run\.json"):
        read_run(tmp_path)
    pyrovae.save(tmp_path / "old" / "model", pyrovae.linear_vae(3, 1))
    with pytest.raises(RunError, match=r"has a saved model and no run\.json, as runs of earlier versions are"):
        read_run(tmp_path / "old")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", b"{", "is damaged: it is no JSON"),
        ("run.json", b"[]", "was not written by"),
        ("history.nc", b"x", "is not the file that the run wrote"),
        ("model/manifest.json", b"x", "is not the file that the run wrote"),
        ("history.nc", None, "is not whole: history.nc is missing"),
        ("model/manifest.json", None, "is not whole: model/manifest.json is missing"),
    ],
)
def test_a_file_that_is_missing_or_another_is_named(run, name, content, words):
    read_run(run)  # the control
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(RunError, match=words):
        read_run(run)


@pytest.mark.parametrize("field", ["seed", "format_version", "status"])
def test_a_manifest_that_was_changed_is_refused(run, field):
    manifest = json.loads((run / "run.json").read_text())
    manifest[field] = {"seed": 6, "format_version": 2, "status": "done"}[field]
    (run / "run.json").write_text(json.dumps(manifest))
    words = "has format version 2" if field == "format_version" else "is damaged or was changed"
    with pytest.raises(RunError, match=words):
        read_run(run)


@pytest.mark.parametrize(
    "change", [{"files": None}, {"data": [1]}, {"data": {}}, {"arguments": 3}, {"model": None}, {"command": 5}]
)
def test_a_manifest_that_nothing_of_ours_wrote_is_refused_whatever_its_digest(run, change):
    manifest = {**run_folder.read_manifest(run), **change}
    manifest["sha256"] = run_folder._own_digest(manifest)
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RunError, match=rf"was not written by `pyrovae fit`: it has no {next(iter(change))}"):
        read_run(run)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", 5), ("path", 7), ("scale", "no"), ("event_shape", None), ("minimum", "x"), ("maximum", None)],
)
def test_a_record_of_the_data_of_another_kind_is_refused(run, field, value):
    manifest = run_folder.read_manifest(run)
    manifest["data"][field] = value
    manifest["sha256"] = run_folder._own_digest(manifest)
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RunError, match=rf"it has no data\.{field} as that writes them"):
        read_run(run)


@pytest.mark.parametrize("files", [{}, {"../secret": "0" * 64}, {"/etc/hostname": "0" * 64}])
def test_no_file_is_looked_at_because_a_manifest_names_it(run, files):
    manifest = run_folder.read_manifest(run)
    manifest["files"] = files if not files else {**manifest["files"], **files}
    manifest["sha256"] = run_folder._own_digest(manifest)
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RunError, match="it states other files than that writes"):
        read_run(run)


def test_a_data_set_by_its_name_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pyrovae.data.load("digits")
    record = run_folder.data_record(data, {}, "mnist")
    assert record["path"] is None and record["root"] == str(tmp_path / "data")
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "data")):
        run_folder.load_recorded(record)


def test_a_manifest_is_not_read_where_it_is_too_long(run):
    with (run / "run.json").open("ab") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(RunError, match="has 67,108,865 bytes, and at most 33,554,432 are read"):
        read_run(run)


def test_an_unfinished_and_a_diverged_run_are_refused(run):
    manifest = run_folder.read_manifest(run)
    run_folder.begin_run(run, manifest)
    with pytest.raises(
        RunError, match=r"is unfinished, stopped after epoch 2: `pyrovae fit --resume --out .*run` goes on"
    ):
        read_run(run)
    with pytest.raises(pyrovae.CheckpointError, match="holds a run that is unfinished, and no fitted pair"):
        pyrovae.load(run)
    assert pyrovae.load(run / "model").event_shape == (3, 6, 5)  # which is asked for by its own name
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(RunError, match="stopped before its first checkpoint"):
        read_run(run)
    run_folder.diverge_run(run, "the loss became inf")
    with pytest.raises(RunError, match=r"diverged \(the loss became inf\): fit again into another folder"):
        read_run(run)
    with pytest.raises(pyrovae.CheckpointError, match="holds a run that is diverged"):
        pyrovae.load(run)


def test_a_full_disk_leaves_what_was_there(run, monkeypatch):
    manifest = run_folder.read_manifest(run)

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_folder.begin_run(run, manifest)
    monkeypatch.undo()
    assert read_run(run).manifest == manifest
    assert not [path.name for path in run.iterdir() if "-new-" in path.name]


@pytest.mark.parametrize("most", [0, 2_000, 5_000])
def test_a_full_disk_within_a_history_is_an_error_that_names_it(tmp_path, most):
    resource = pytest.importorskip("resource")
    file = tmp_path / "history.nc"
    history = pyrovae.History.from_rows([{"loss": 1.0, "beta": 1.0}] * 1_000, {"method": "mine"})
    run_folder.write_history(file, history)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # HDF5 ends the process where it meets this itself
    try:
        with pytest.raises(OSError, match="while it was written") as caught:
            run_folder.write_history(file, pyrovae.History.from_rows([{"loss": 2.0}] * 1_000, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(file) and [entry.name for entry in tmp_path.iterdir()] == ["history.nc"]
    again = run_folder.read_history(file)
    assert again.epochs.identical(history.epochs) and again.config == history.config


@pytest.mark.parametrize("missing", [False, True])
def test_a_summary_is_what_numpy_says(missing):
    x = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    if missing:
        x[3, 2] = x[7, 0] = np.nan
    summary = summarize(pyrovae.data.Split(torch.from_numpy(x), torch.arange(50) % 3))
    assert summary.minimum == np.nanmin(x) and summary.maximum == np.nanmax(x)
    assert summary.missing == np.isnan(x).sum() and summary.infinite == 0 and summary.classes == 3
    assert not summary.is_binary and not summary.is_whole and not summary.is_in_unit
    ones = summarize(pyrovae.data.Split(torch.tensor([[0.0, 1.0]])))
    assert ones.is_binary and ones.is_whole and ones.is_in_unit and ones.classes is None
    counts = summarize(pyrovae.data.Split(torch.tensor([[0.0, 7.0]])))
    assert counts.is_nonnegative_whole and not counts.is_binary
    assert summarize(pyrovae.data.Split(torch.tensor([[-1.0, 0.0]]))).is_nonnegative_whole is False


def test_a_digest_does_not_depend_on_the_pieces_that_are_read(monkeypatch):
    x = torch.arange(60.0).reshape(20, 3)
    split, other = pyrovae.data.Split(x), pyrovae.data.Split(x.reshape(10, 6))
    whole = summarize(split)
    monkeypatch.setattr("pyrovae.data.summary.ENTRIES", 7)
    assert summarize(split) == whole
    assert summarize(other).sha256 != whole.sha256  # the shape is in it
