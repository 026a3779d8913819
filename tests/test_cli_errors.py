"""What the command line says where something is wrong: its own words, one line, status 2, and nothing left behind."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.entry import group
from pyrovae.cli.words import Words, speaks_python
from pyrovae.inference.svi.loop import Loop
from pyrovae.interruption import deliver
from pyrovae.run_folder import read_manifest, read_run

QUICK = ["--epochs", "3", "--batch-size", "300", "--hidden-dims", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of all kinds, good and bad."""
    at = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    grey = generator.random((40, 5), dtype=np.float32)
    arrays = {
        "real": generator.normal(size=(40, 5)).astype(np.float32),
        "grey": grey,
        "counts": generator.poisson(5.0, size=(40, 5)),
        "one_axis": generator.random(40),
        "y": np.arange(40) % 3,
        "short": np.arange(3),
        "fractions": np.arange(40) + 0.5,
        "rgb": generator.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8),
        "few": grey[:1],
        "infinite": np.where(grey > 0.9, np.inf, grey),
        "missing": np.where(grey > 0.9, np.nan, grey),
    }
    for name, array in arrays.items():
        np.save(at / f"{name}.npy", array)
    np.save(at / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.savez(at / "labelled.npz", x=grey, y=np.arange(40) % 2)
    np.savez(at / "no_items.npz", a=np.zeros(3))
    (at / "damaged.npy").write_bytes(b"x" * 100)
    (at / "text.csv").write_text("1,2")
    (at / "empty").mkdir()
    (at / "images").mkdir()
    (at / "images" / "a.png").write_text("no image")
    (at / "bad.py").write_text("1/0")
    return at


# a command, and words that its one line of error must have
FAILING = {
    "fit real.npy --likelihood bernoulli": "DATA lies outside the support of the bernoulli likelihood",
    "fit grey.npy --likelihood bernoulli": "draw binary items from them (--binarize), or take --likelihood continuous_",
    "fit counts.npy --likelihood continuous_bernoulli": "made of whole numbers. Grey values are to be scaled to [0, 1]",
    "fit real.npy --binarize": "DATA lies outside",
    "fit one_axis.npy": "must have shape (N, *event), got (40,)",
    "fit real.npy --model conv_vae": "the shape of an item of a convolutional network must be (C, H, W), got (5,)",
    "fit real.npy --latent-dim 0": "--latent-dim must be an integer of at least 1, got 0",
    "fit real.npy --latent-dim 2.5": "--latent-dim must be a whole number, got '2.5'",
    "fit real.npy --latent-dim 1000000000000": "--latent-dim 1000000000000, --hidden-dims 400",
    "fit real.npy --hidden-dims x": "--hidden-dims must be whole numbers with commas, as 128,64, got 'x'",
    "fit real.npy --activation softpuls": "--activation must be one of softplus, relu,",
    "fit real.npy --model mlp_vea": "did you mean mlp_vae?",
    "fit real.npy --model GaussianMixture": "--model GaussianMixture needs --num-components",
    "fit real.npy --model gaussian-mixture --num-components 100": "DATA has 32 items for 100 components",
    "fit real.npy --model GaussianMixture --num-components 2 --covariance ful": "got 'ful'; did you mean full?",
    "fit real.npy --model GaussianMixture --num-components 2 --epochs 3": "--epochs is an option of SVI, and this",
    "fit real.npy --model GaussianMixture --num-components 2 --method svii": "got 'svii'; did you mean svi?",
    "fit real.npy --model GaussianMixture --num-components 2 --method nuts": "--method nuts is for a Bayesian",
    "fit real.npy --model BayesianGaussianMixture --num-components 2 --binarize": "--binarize",
    "fit real.npy --model gaussian_classifier": "needs labels, and real.npy has none: give --labels FILE.npy",
    "fit real.npy --labels y.npy --model gaussian_classifier --tol 1": "--tol has no use here",
    "fit real.npy --labels short.npy": "real.npy has 40 items",
    "fit real.npy --labels fractions.npy": "the labels must hold integers or strings",
    "fit real.npy --labels no_items.npz": "--labels must be a .npy file",
    "fit labelled.npz --labels y.npy": "--labels must be left out",
    "fit digits --labels y.npy": "--labels must be left out",
    "fit real.npy --method em": "--method em is for a GaussianMixture",
    "fit real.npy --num-restarts 4": "--num-restarts is an option of EM, and this fit is by SVI: leave it out",
    "fit real.npy --num-components 4 --latent-dim 3": "--num-components is an option of GaussianMixture",
    "fit real.npy --objective iwae --beta 2": "leave --beta at 1 and --warmup at 0",
    "fit real.npy --objective iwae --model mlp_ae": "--objective iwae needs a p(x)",
    "fit real.npy --objective elob": "did you mean elbo?",
    "fit real.npy --learning-rate 0": "--learning-rate must be a finite number greater than 0, got 0.0",
    "fit real.npy --learning-rate x": "--learning-rate must be a number, got 'x'",
    "fit real.npy --batch-size none": "--batch-size must be a whole number or all, got 'none'",
    "fit real.npy --warmup -1": "--warmup must be an integer of at least 0, got -1",
    "fit real.npy --patience 0": "--patience must be an integer of at least 1",
    "fit real.npy --precision fp16": "did you mean bf16?",
    "fit real.npy --schedule cosin": "did you mean cosine?",
    "fit real.npy --optimizer adan": "did you mean adam?",
    "fit real.npy --clip-norm 0": "--clip-norm must be",
    "fit real.npy --seed -1": "--seed must be",
    "fit real.npy --device gpu": "--device must be auto or a torch device, got 'gpu'",
    "fit real.npy --prior standrad": "did you mean standard?",
    "fit real.npy --network lstm": "--network must be one of mlp, conv, linear",
    "fit real.npy --network mlp --model conv_vae": "--network mlp is --model mlp_vae",
    "fit real.npy --network linear --activation relu": "--activation is an option of mlp_vae",
    "fit rgb.npy --channels 8,8": "--channels and --strides must be of one length",
    "fit rgb.npy --network linear": "is for items of one axis",
    "fit rgb.npy --channel-axis middle": "--channel-axis must be one of first, last",
    "fit objects.npy": "a pickle can run code and is never opened",
    "fit no_items.npz": "must hold x, or x_train and x_test",
    "fit damaged.npy": "damaged.npy holds pickled",
    "fit text.csv": "text.csv has a header and no row",
    "fit empty": "empty holds no IDX files and no images",
    "fit images": "a.png cannot be read as an image: cannot identify image file; replace or remove it",
    "fit few.npy": "few.npy must have at least 2 items",
    "fit infinite.npy": "infinite.npy cannot be fitted: ",
    "fit missing.npy": "missing (NaN). Fit a model to complete items, and `pyrovae impute` fills in the others",
    "fit mnist": "--download fetches them",
    "fit mnits": "did you mean mnist?",
    "fit nothing.npy": "DATA must be digits, mnist, fashion-mnist, kmnist or a file or folder",
    "fit real.npy --plugin bad.py": "--plugin bad.py, line 1: ZeroDivisionError: division by zero",
    "fit real.npy --nothing": "No such option",
    "fit real.npy extra": "unexpected extra argument",
    "fit real.npy --resume --out nowhere/run --learning-rat 1": "--learning-rat",
    "data empty": "empty holds no IDX files",
    "data nothing": "there is no nothing",
    "data digits --labels y.npy": "--labels must be left out",
    "fti": "there is no command fti; did you mean fit?",
}


def there(folder):
    """What lies in a folder, without what Python keeps of a plugin that it has read."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize("line", FAILING)
def test_errors_are_one_line_in_the_command_lines_words(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = there(folder)
    words = line.split()
    status = main([*words, "--out", "run"] if words[0] == "fit" and "--out" not in words else words)
    output = capsys.readouterr()
    errors = [text for text in output.err.splitlines() if text.startswith("pyrovae: ")]
    assert (status, len(errors), output.out) == (2, 1, "")
    assert FAILING[line] in errors[0]
    assert speaks_python(errors[0]) is None and "Traceback" not in output.err
    assert there(folder) == before


def test_python_is_seen_where_there_is_some():
    for text in (
        "likelihood='normal'",
        "fit(..., epochs=2)",
        "channels=",
        "scale=False",
        "call np.load(x)",
        "not None",
    ):
        assert speaks_python(f"take {text} instead") is not None
    for text in ("--likelihood normal", "shape (1, 8, 8), got 5", "x.npy holds 3 items", "`pyrovae fit --out run`"):
        assert speaks_python(text) is None


def test_the_words_of_the_library_in_those_of_the_command_line():
    words = Words({"latent_dim": "--latent-dim", "beta": "--beta", "likelihood": "--likelihood"})
    assert words.translated("latent_dim must be 2, got latent_dim=3") == "--latent-dim must be 2, got --latent-dim 3"
    assert words.translated("the likelihood has no beta") == "the likelihood has no beta"  # English, and no argument
    assert words.translated("lower beta, or take likelihood='normal'") == "lower --beta, or take --likelihood normal"
    assert words.translated("beta and latent_dim are not for it") == "--beta and --latent-dim are not for it"
    assert words.translated("x.npy must have beta") == "x.npy must have beta"
    assert words.translated("x must be finite: x[0, 1]") == "DATA must be finite: DATA[0, 1]"
    assert Words({}).translated("latent_dim=3") == "latent_dim=3"


def test_warnings_are_a_line_in_these_words(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8))
    before = warnings.showwarning
    assert main(["data", str(tmp_path / "x.npy")]) == 0
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "warning" in text]
    assert line.startswith("pyrovae: warning: x.npy of shape") and "; --channel-axis first keeps it as it is" in line
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ("--model GaussianMixture --num-components 2", "the variance floor 1e-06 of a column's variance holds up"),
        ("--epochs 1 --learning-rate 1e-9", "posterior collapse: 0 of 2 latent units are active"),
        ("--epochs 2 --warmup 4", "training ended after 2 of 4 warm-up epochs"),
    ],
)
def test_a_fit_says_what_it_warns_of(tmp_path, capsys, options, warning):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 12), dtype=np.float32))
    assert main(["fit", str(tmp_path / "x.npy"), *options.split(), "--out", str(tmp_path / "run")]) == 0
    lines = [text for text in capsys.readouterr().err.splitlines() if "warning" in text]
    (line,) = [text for text in lines if warning in text]  # once
    assert line.startswith(f"pyrovae: warning: {warning}") and speaks_python(line) is None


def test_an_estimate_says_what_it_warns_of(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 12), dtype=np.float32))
    run = str(tmp_path / "run")
    assert main(["fit", str(tmp_path / "x.npy"), "--epochs", "1", "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "-e", "quadrature", "--tol", "1e-15", "--max-evaluations", "30000"]) == 0
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "warning" in text]
    assert "of 4 items have an error over --tol 1e-15 after" in line and "raise --max-evaluations (30,000)" in line


def message(call: ast.Call) -> str:
    """What a call warns of, with 7 in place of what depends on the case."""
    return str(eval(compile(ast.Expression(call.args[0]), "warning", "eval"), {}, Sevens()))


class Sevens(dict):
    """Every name is a 7 that may be called, indexed and formatted."""

    class Seven(int):
        def __call__(self, *args, **named):
            return self

        def __getattr__(self, name):
            return self

        def __getitem__(self, index):
            return self

        def __format__(self, how):
            return "7"

        def __iter__(self):
            return iter(())

        def __str__(self):
            return "7"

    def __missing__(self, name):
        return self.Seven(7)


def test_every_warning_of_the_package_has_words_of_the_command_line():
    command = group().get_command(None, "fit")
    words, seen, python = Words.of(command), 0, []
    package = Path(pyrovae.__file__).parent
    for file in package.rglob("*.py"):
        if package / "sklearn" in file.parents:  # which no command calls
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("checks.warn", "warn"):
                if isinstance(node.args[0], ast.Name):
                    continue
                seen += 1
                said = words.translated(message(node))
                if (piece := speaks_python(said)) is not None:
                    python.append((file.name, node.lineno, piece, said))
    assert seen > 25
    assert python == []


def test_a_fault_of_the_package_is_status_1_with_a_traceback(tmp_path, monkeypatch, capsys):
    def broken(*args, **options):
        return torch.zeros(2) @ torch.zeros(3)  # an operation that fails, and no `raise` of the package's own

    monkeypatch.setattr(pyrovae, "fit", broken)
    assert main(["fit", "digits", *QUICK, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "this is a fault of pyrovae" in error and "`pyrovae --version`" in error
    assert not (tmp_path / "run").exists()


def test_output_that_nobody_reads_is_no_fault(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["data", "digits"]) == 141


def interrupted_in(monkeypatch, epoch, act):
    """Let `act` happen in that epoch."""
    row = Loop.epoch

    def at(loop, number):
        if number == epoch:
            act()
        return row(loop, number)

    monkeypatch.setattr(Loop, "epoch", at)


def ctrl_c():
    raise KeyboardInterrupt


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)
    deliver()  # and not after the next batch


@pytest.mark.parametrize(("act", "status"), [(ctrl_c, 130), (sigterm, 143)])
def test_an_interrupted_run_goes_on_by_its_folder_alone(tmp_path, monkeypatch, capsys, act, status):
    x = tmp_path / "x.npy"
    np.save(x, np.random.default_rng(0).random((60, 5), dtype=np.float32))
    words = ["--latent-dim", "3", "--learning-rate", "0.01", "--seed", "7", *QUICK]
    assert main(["fit", str(x), "--out", str(tmp_path / "whole"), *words]) == 0
    interrupted_in(monkeypatch, 2, act)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["fit", "x.npy", "--out", str(out), *words]) == status
    assert signal.getsignal(signal.SIGTERM) is handler
    assert f"`pyrovae fit --resume --out {out}` goes on after epoch 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is unfinished, stopped after epoch 2"):
        read_run(out)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path.parent)  # from elsewhere
    conflicting = ["--latent-dim", "4", "--learning-rate", "0.01", "--beta", "2"]
    assert main(["fit", "--resume", "--out", str(out), *conflicting]) == 2
    error = capsys.readouterr().err
    assert "--latent-dim is 3 in the run, and 4 here; --beta is not among the run's arguments, and 2.0 here" in error
    assert "--learning-rate" not in error
    assert main(["fit", "--resume", "--out", str(out)]) == 0
    first, second = (pyrovae.load(folder) for folder in (tmp_path / "whole", out))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert read_run(out).history().epochs.loss.values.tolist() == (
        read_run(tmp_path / "whole").history().epochs.loss.values.tolist()
    )
    capsys.readouterr()
    assert main(["fit", "--resume", "--out", str(out)]) == 0
    assert "is complete: there is nothing to go on with" in capsys.readouterr().err


def test_a_run_that_was_stopped_in_its_first_epoch_is_no_run(tmp_path, monkeypatch, capsys):
    command = ["fit", "digits", "--out", str(tmp_path / "run"), *QUICK]
    interrupted_in(monkeypatch, 0, ctrl_c)
    assert main(command) == 130
    error = capsys.readouterr().err
    assert "interrupted before its first checkpoint: the same command begins again" in error and "--resume" not in error
    monkeypatch.undo()
    assert main(command) == 0
    assert read_run(tmp_path / "run").manifest["fit"]["resumed_after"] is None


@pytest.mark.parametrize("model", [QUICK, ["--model", "linear_vae", "--epochs", "2"]])
def test_a_second_fit_into_a_folder_that_one_is_writing_to_is_refused(tmp_path, monkeypatch, capsys, model):
    out = tmp_path / "new" / "run"
    second = []
    command = ["fit", "digits", "--seed", "3", "--out", str(out), *QUICK]
    interrupted_in(
        monkeypatch, 0, lambda: second.append(main(["fit", "digits", "--seed", "4", *model, "--out", str(out)]))
    )
    assert main(command) == 0
    assert second == [2]
    assert f"another pyrovae fit writes to --out {out}" in capsys.readouterr().err
    run = read_run(out)  # whole, and of one of the two
    assert run.manifest["seed"] == 3 and run.history().config["seed"] == 3
    monkeypatch.undo()
    assert main(command) == 2  # the lock is gone with the fit, and the folder is not empty
    assert "is not empty" in capsys.readouterr().err


def test_a_method_without_checkpoints_leaves_nothing_when_it_is_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyrovae.inference.em.Climb.go_on", lambda *args: ctrl_c())
    command = ["fit", "digits", "--model", "GaussianMixture", "--num-components", "2", "--out", str(tmp_path / "run")]
    assert main(command) == 130
    error = capsys.readouterr().err
    assert "EM leaves nothing to go on from" in error and "--resume" not in error
    assert not (tmp_path / "run").exists()


def test_other_data_under_the_same_name_are_refused(tmp_path, monkeypatch, capsys):
    x = np.random.default_rng(0).random((60, 5), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    interrupted_in(monkeypatch, 1, ctrl_c)
    out = tmp_path / "run"
    assert main(["fit", str(tmp_path / "x.npy"), "--out", str(out), *QUICK]) == 130
    monkeypatch.undo()
    np.save(tmp_path / "x.npy", x[::-1])
    before = (out / "run.json").read_bytes()
    assert main(["fit", "--resume", "--out", str(out)]) == 2
    assert "is not what the run in --out" in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before
    np.save(tmp_path / "moved.npy", x)
    assert main(["fit", str(tmp_path / "moved.npy"), "--resume", "--out", str(out)]) == 0


def diverges():
    raise FloatingPointError("the loss became inf; lower learning_rate")


def test_a_run_that_diverged_is_marked_and_no_result(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    interrupted_in(monkeypatch, 2, diverges)
    monkeypatch.setattr("pyrovae.cli.errors.PACKAGE", os.path.join(os.path.dirname(__file__), ""))  # whose raise it is
    assert main(["fit", "digits", "--out", str(out), *QUICK]) == 2
    error = capsys.readouterr().err
    assert "pyrovae: the loss became inf; lower --learning-rate\n" in error
    assert f"{out} is marked as diverged; {out}/checkpoint/epoch-000001 is its last finite state" in error
    assert read_manifest(out)["status"] == "diverged"
    assert not (out / "model").exists() and not (out / "history.nc").exists()
    assert pyrovae.load(out / "checkpoint" / "epoch-000001").latent_dim == 2
    for word in ("--resume", None):  # it would diverge again, and is not written over
        assert main(["fit", "digits", "--out", str(out), *QUICK, *([word] if word else [])]) == 2
    assert "holds a run that diverged, and would again" in capsys.readouterr().err
    interrupted_in(monkeypatch, 0, diverges)
    assert main(["fit", "digits", "--out", str(tmp_path / "first"), *QUICK]) == 2
    assert "first is not written" in capsys.readouterr().err and not (tmp_path / "first").exists()


@pytest.mark.parametrize("writes", [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 8, 13)), 4, 6])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_once_there_is_room(tmp_path, monkeypatch, capsys, writes):
    """Syncs of files and folders: run.json has two, the run's end five, the model four, history.nc and run.json two."""
    out, left, sync = tmp_path / "run", [writes], os.fsync

    def full(number):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        sync(number)

    command = ["fit", "digits", "--out", str(out), *QUICK]
    monkeypatch.setattr(os, "fsync", full)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "no space left on device" in error.lower() and str(out) in error and "Traceback" not in error
    monkeypatch.undo()
    if writes < 6:  # no state was kept
        assert not out.exists() and "--resume" not in error
        assert ("so nothing of the run is left in its folder: free" in error) == (writes > 2), error
        assert writes < 3 or " kB) or name another folder" in error
        return
    assert "`pyrovae fit --resume --out" in error
    with pytest.raises(ValueError, match="is unfinished"):
        read_run(out)
    assert main(["fit", "--resume", "--out", str(out)]) == 0
    assert main(["fit", "digits", "--out", str(tmp_path / "whole"), *QUICK]) == 0
    first, second = (pyrovae.load(folder) for folder in (tmp_path / "whole", out))
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_a_folder_that_may_not_be_read_or_written_is_a_sentence(tmp_path, monkeypatch, capsys):
    def denied(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/locked/run")

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), *QUICK]) == 2
    assert "pyrovae: /locked/run: permission denied\n" in capsys.readouterr().err


def test_a_plugin_is_given_again_and_never_taken_from_the_folder(tmp_path, monkeypatch, capsys):
    part = "import pyrovae\n@pyrovae.register('resumed_prior', kind='prior')\nclass P(pyrovae.StandardNormal): pass\n"
    (tmp_path / "mine.py").write_text(part)
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugin = ["--plugin", str(tmp_path / "mine.py")]
    interrupted_in(monkeypatch, 1, ctrl_c)
    out = str(tmp_path / "run")
    assert main(["fit", "digits", "--out", out, *QUICK, *plugin, "--prior", "resumed_prior"]) == 130
    monkeypatch.undo()
    assert main(["fit", "--resume", "--out", out]) == 2
    assert f"was begun with --plugin {tmp_path / 'mine.py'}: give it again" in capsys.readouterr().err
    assert main(["fit", "--resume", "--out", out, *plugin]) == 0


IMPORTED = """
import sys
from pyrovae.cli import main
for line in {lines!r}:
    main(line)
print("imported:", sorted({{"torch", "pyro", "numpy", "xarray", "matplotlib", "sklearn"}} & set(sys.modules)))
"""


def test_help_of_every_command_imports_no_library():
    commands = group().list_commands(None)
    assert {"fit", "data"} <= set(commands)
    lines = [["--help"], [], ["--version"], ["fti"], *([command, "--help"] for command in commands)]
    script = IMPORTED.format(lines=lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("imported: []\n"), done.stderr
    for command in commands:
        assert f"\n  {command} " in done.stdout and f"Usage: pyrovae {command} " in done.stdout


def test_only_the_command_that_is_asked_for_is_imported():
    script = (
        "import sys; from pyrovae.cli import main; main(['--help']); main(['data', '--help'])\n"
        "print([name for name in sys.modules if name.startswith('pyrovae.cli.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("['pyrovae.cli.commands.data']\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["fi"], ["fit"]),
        (["fit", "di"], ["digits"]),
        (["fit", "digits", "--likelihood", "con"], ["continuous_bernoulli"]),
        (["fit", "digits", "--schedule", "co"], ["constant", "cosine"]),
        (["fit", "digits", "--model", "mlp"], ["mlp_ae", "mlp_vae"]),
        (["fit", "digits", "--hidden-"], ["--hidden-dims"]),
        (["fit", "--resume", "--out", "ru"], ["run"]),
    ],
)
def test_completion(line, words, tmp_path, monkeypatch):
    from click.shell_completion import BashComplete

    for name in ("run", "rubbish"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    completed = BashComplete(group(), {}, "pyrovae", "_PYROVAE_COMPLETE").get_completions(line[:-1], line[-1])
    assert [item.value for item in completed if item.type == "plain" and item.value.startswith(line[-1])] == words


def test_the_help_says_how_completion_is_switched_on(monkeypatch, capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert 'eval "$(_PYROVAE_COMPLETE=bash_source pyrovae)"' in text
    script = "from pyrovae.cli import main; raise SystemExit(main())"
    for shell in ("bash", "zsh", "fish"):
        environment = {**os.environ, "_PYROVAE_COMPLETE": f"{shell}_source"}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "_PYROVAE_COMPLETE" in done.stdout, done.stderr
        break  # the others need no further process


def test_json_is_one_object_and_nothing_else(tmp_path, capsys):
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), "--json", *QUICK]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["status"], shown["model"], shown["likelihood"]) == ("complete", "mlp_vae", "continuous_bernoulli")
    history = read_run(tmp_path / "run").history()
    assert shown["last"]["validation_elbo"] == float(history.epochs.validation_elbo[-1])
    assert main(["data", "digits", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["items"] == 1797 and facts["event_shape"] == [1, 8, 8] and sum(facts["labels"].values()) == 1797
    assert facts["fit"]["likelihood"] == "continuous_bernoulli" and facts["fit"]["refused"] is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_an_output_that_cannot_be_written_is_named(monkeypatch, capsys):
    with suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:  # closing it fails again
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert main(["--version"]) == 2
        assert capsys.readouterr().err == "pyrovae: the standard output could not be written: no space left on device\n"


def test_where_a_run_goes_on_is_said_once_its_state_was_read(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((60, 5), dtype=np.float32))
    out = tmp_path / "run"
    again = ["fit", "--resume", "--out", str(out), "--epochs"]
    assert main(["fit", str(tmp_path / "x.npy"), "--latent-dim", "2", "--out", str(out), *QUICK]) == 0
    capsys.readouterr()
    assert main([*again, "4"]) == 0
    assert "\ngoes on after epoch 3\n" in capsys.readouterr().err
    (out / "checkpoint" / "epoch-000003" / "weights.safetensors").write_bytes(b"")
    assert main([*again, "5"]) == 0
    error = capsys.readouterr().err
    assert f"\ngoes on after epoch 3: {out}/checkpoint/epoch-000003/weights.safetensors is" in error
    assert error.count("goes on after") == 1
    for state in (out / "checkpoint").glob("epoch-*"):
        (state / "weights.safetensors").write_bytes(b"")
    assert main([*again, "6"]) == 2
    error = capsys.readouterr().err
    assert "goes on after" not in error and "nothing is left to go on from; fit again into another folder" in error


def test_an_interrupt_before_a_run_goes_on_says_how_to_resume_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyrovae.cli.fitting.earlier_run", lambda *_: ctrl_c())
    for words, there in ((["--out", str(tmp_path)], False), ([f"--out={tmp_path}"], True)):
        if there:
            (tmp_path / "run.json").write_text("{}")
        assert main(["fit", "--resume", *words]) == 130
        how = f"; what {tmp_path} holds of the run is kept, and `pyrovae fit --resume --out {tmp_path}` goes on with it"
        assert capsys.readouterr().err == f"\npyrovae: interrupted{how if there else ''}\n"
