"""The command line: what it writes, what it says, its exit status; alone and under torchrun."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import pyrovae
from pyrovae import choices
from pyrovae.cli import main
from pyrovae.cli.options import DATA_SETS
from pyrovae.compile.optimizers import kinds_by_name
from pyrovae.data.named import MNIST_FAMILY
from pyrovae.inference.method import options_of
from pyrovae.inference.svi.loop import Loop
from pyrovae.methods import SVI
from pyrovae.models.registry import registered

# the options of SVI that were on the command line before all of them were, in the order of the help
SVI_OPTIONS = ("epochs", "batch_size", "learning_rate", "optimizer", "clip_norm", "schedule")
SVI_OPTIONS += ("beta", "warmup", "patience", "precision")
QUICK = ["--epochs", "2", "--batch-size", "300", "--hidden-dims", "16", "--binarize"]


def test_fit_does_what_the_function_does(tmp_path, capsys):
    began = time.perf_counter()
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), "--seed", "3", *QUICK]) == 0
    waited = time.perf_counter() - began
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
        of_steps = float(written.seconds.sum())
    told = capsys.readouterr()
    assert told.out.startswith("2 epochs, loss ")
    # of the fit all of the call, and of the command all that the user waits
    (of_fit,) = map(float, re.findall(r", ([\d.]+) s,", told.out))
    (of_command,) = map(float, re.findall(r", ([\d.]+) s after the command began", told.err))
    assert of_steps <= of_fit + 0.05 and of_fit - 0.05 <= of_command <= waited + 0.05


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
        (["nothing"], "DATA must be digits, mnist, fashion-mnist, kmnist or a file or folder, and there is no nothing"),
        (["minst"], "there is no minst; did you mean mnist?"),
        (["digits", "--optimizer", "adan"], "--optimizer must be one of adam, adamw, clippedadam, sgd, or a name that"),
        (["digits", "--binarize", "--clip-norm", "-1"], "--clip-norm must be"),
        (["digits", "--likelihood", "bernouli", "--binarize"], "bernoulli"),
        (
            ["digits", "--likelihood", "bernouli"],
            "or a name that a --plugin registers, got 'bernouli'; did you mean",
        ),
        (
            ["digits", "--prior", "users_mixture"],
            "--prior must be one of conditional, flow, mixture, standard, vamp, or a name that a",
        ),
        (["digits", "--posterior", "users_flow"], "--posterior must be one of diagonal, flow, full, or a name that"),
        (["digits", "--binarize", "--epochs", "0"], "--epochs must be"),
        (["digits", "--likelihood", "bernoulli"], "(--binarize)"),
        (["digits", "--network", "linear", "--likelihood", "normal"], "items of one axis"),
    ],
)
def test_errors_are_a_line_and_status_2(tmp_path, capsys, arguments, words):
    assert main(["fit", *arguments, "--out", str(tmp_path / "run")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyrovae: ")]
    assert len(errors) == 1 and words in errors[0] and "Traceback" not in errors[0]
    assert not (tmp_path / "run").exists()  # nor in the way of the next try


def test_what_was_there_before_a_run_that_failed_stays(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    grey = ["fit", "digits", "--likelihood", "bernoulli"]
    assert main([*grey, "--out", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run" / "checkpoint").is_dir()
    deep = tmp_path / "new" / "newer" / "run"
    assert main([*grey, "--out", str(deep)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_missing_is_called_as_the_help_calls_it(capsys):
    assert main(["fit"]) == 2
    assert "pyrovae: not given: DATA, --out" in capsys.readouterr().err


PLUGIN = Path(__file__).parent / "users_parts.py"
ALL = ["--likelihood", "users_student_t", "--prior", "users_mixture", "--posterior", "users_flow"]


def command(*arguments):
    line = [sys.executable, "-W", "ignore", "-m", "pyrovae", "fit", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_users_parts_by_plugin(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32))
    run = [tmp_path / "x.npy", "--out", tmp_path / "run", "--epochs", "1", "--hidden-dims", "4", "--compile", "no"]
    without = command(*run, *ALL)
    assert (without.returncode, without.stdout) == (2, "") and not (tmp_path / "run").exists()
    message = "pyrovae: --likelihood must be one of bernoulli, categorical, columns, continuous_bernoulli, "
    assert without.stderr.startswith(message)
    assert "users_student_t" not in without.stderr.replace("got 'users_student_t'", "")
    done = command(*run, *ALL, "--plugin", PLUGIN)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text())["recipe"]
    assert [recipe[kind] for kind in ("likelihood", "prior", "posterior")] == ALL[1::2]
    import users_parts

    pair = pyrovae.load(tmp_path / "run")
    assert isinstance(pair.likelihood.family, users_parts.StudentT) and isinstance(pair.prior, users_parts.Mixture)


@pytest.fixture
def search_path(monkeypatch):
    """Where modules are looked for, as it was before once the test is over."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("search_path")
@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_a_plugin_may_import_another(tmp_path, order):
    part = "import pyrovae\n@pyrovae.register('{0}', kind='prior')\nclass Shifted(pyrovae.StandardNormal):\n    pass\n"
    names = {"first": f"plugin_first_{order[0]}", "second": f"plugin_second_{order[0]}"}
    (tmp_path / f"{names['first']}.py").write_text(part.format(names["first"]))
    (tmp_path / f"{names['second']}.py").write_text(f"import {names['first']}\n" + part.format(names["second"]))
    plugins = [word for name in order for word in ("--plugin", str(tmp_path / f"{names[name]}.py"))]
    folder, x = tmp_path / "run", tmp_path / "x.npy"
    np.save(x, np.random.default_rng(0).random((20, 3), dtype=np.float32))
    out = ["--out", str(folder), "--network", "linear", "--prior", names["first"], "--epochs", "1"]
    assert main(["fit", str(x), *out, *plugins]) == 0
    assert type(pyrovae.load(folder).prior).__name__ == "Shifted"


@pytest.mark.usefixtures("search_path")
def test_plugins_may_be_several_and_import_what_lies_beside_them(tmp_path):
    (tmp_path / "beside_the_plugin.py").write_text("WORDS = {'one': 'first', 'two': 'second'}\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            "import pyrovae, beside_the_plugin\n"
            f"@pyrovae.register('plugin_{name}', kind='prior')\n"
            "class Prior(pyrovae.StandardNormal):\n"
            f"    word = beside_the_plugin.WORDS['{name}']\n"
        )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 3), dtype=np.float32))
    both = ["--plugin", str(tmp_path / "one.py"), "--plugin", str(tmp_path / "two.py"), "--epochs", "1"]
    for name, word in {"one": "first", "two": "second"}.items():
        out = ["--out", str(tmp_path / name), "--network", "linear", "--prior", f"plugin_{name}"]
        assert main(["fit", str(tmp_path / "x.npy"), *out, *both]) == 0
        assert pyrovae.load(tmp_path / name).prior.word == word


@pytest.mark.usefixtures("search_path")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "plugin.py does not exist"),
        ("1 +", "plugin.py, line 1: SyntaxError"),
        ("x = 1\nraise RuntimeError('a\\nb')", "plugin.py, line 2: RuntimeError: a b"),
        ("import sys\nsys.exit(3)", "plugin.py, line 2: SystemExit: 3"),
        (
            "import pyrovae\nclass Normal(pyrovae.Normal): pass\npyrovae.register('normal', kind='likelihood')(Normal)",
            "plugin.py, line 3: ValueError: likelihood 'normal' is pyrovae.models.parts.normal.Normal, and cannot be",
        ),
    ],
)
def test_a_plugin_that_does_not_run_is_a_line_and_status_2(tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "plugin.py").write_text(text)
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), "--plugin", str(tmp_path / "plugin.py")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyrovae: --plugin ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_plugin_is_a_py_file(tmp_path, capsys):
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), "--plugin", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pyrovae: --plugin {tmp_path} is no .py file\n"


HELP = """
import sys
from pyrovae.cli import main
if main(["fit", "--help"]) == 0:
    print("imported:", [name for name in ("torch", "pyro", "numpy") if name in sys.modules])
"""


def test_help_names_the_parts_without_torch():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("imported: []\n")
    for kind in ("likelihood", "prior", "posterior"):
        for name in choices.names(kind):
            assert name in done.stdout


def test_the_names_that_are_read_from_the_source_are_those_of_the_registers():
    for kind in ("likelihood", "prior", "posterior"):
        ours = [name for name, part in registered(kind).items() if part.__module__.startswith("pyrovae.")]
        assert choices.names(kind) == ours != []
    ours = [name for name, kind in kinds_by_name().items() if kind.__module__.startswith(("torch.", "pyro."))]
    assert choices.names("optimizer") == sorted(ours) != []


def test_the_options_that_are_read_from_the_source_are_svis():
    known = choices.svi_options()
    assert known == choices.imported_svi_options()
    assert {name: option.default for name, option in known.items()} == options_of(SVI())
    assert known["schedule"].words == ("constant", "cosine", "plateau")
    assert set(SVI_OPTIONS) <= known.keys()


def test_help_shows_defaults_and_how_a_file_is_split(capsys):
    assert main(["fit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "it is split 80 / 20 by a fixed permutation" in text

    def shown_default(name):
        (shown,) = re.findall(rf"--{name.replace('_', '-')} [NAMEX,.\[\]]+ .*?\(default: (.*?)\)", text)
        return shown

    for name in SVI_OPTIONS:
        default = options_of(SVI())[name]
        words = "none" if default is None else str(default)
        assert shown_default(name) == words or f"{words} of semi_supervised_svi, svi" in shown_default(name)
    parameters = inspect.signature(pyrovae.mlp_vae).parameters
    assert f"{parameters['hidden_dims'].default[0]} of mlp_vae, mlp_ae" in shown_default("hidden_dims")
    assert shown_default("latent_dim").startswith(f"{parameters['latent_dim'].default} of mlp_vae, conv_vae")
    assert shown_default("prior") == parameters["prior"].default
    assert f"{parameters['posterior'].default} of mlp_vae, conv_vae" in shown_default("posterior")
    assert shown_default("likelihood").startswith("by the items")
    assert ("digits", *MNIST_FAMILY) == DATA_SETS


def test_optimizer_schedule_and_clip_norm_are_the_functions(tmp_path):
    more = ["--optimizer", "sgd", "--schedule", "cosine", "--clip-norm", "0.5", "--learning-rate", "0.01"]
    assert main(["fit", "digits", "--out", str(tmp_path / "run"), *QUICK, *more]) == 0
    digits = pyrovae.data.load("digits")
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), 2, hidden_dims=(16,))
    options = {"epochs": 2, "batch_size": 300, "binarize": True, "progress": False, "learning_rate": 0.01}
    options |= {"optimizer": "sgd", "schedule": "cosine", "clip_norm": 0.5}
    pyrovae.fit(vae, digits.train.x, validation=digits.test.x, **options)
    saved = pyrovae.load(tmp_path / "run")
    assert all(torch.equal(p, q) for p, q in zip(saved.parameters(), vae.parameters(), strict=True))


def test_a_batch_is_a_number_or_all(tmp_path, capsys):
    arguments = ["fit", "digits", "--binarize", "--hidden-dims", "4", "--epochs", "1"]
    for size, number in (("all", 1437), ("700", 700)):
        assert main([*arguments, "--batch-size", size, "--out", str(tmp_path / size)]) == 0
        with xr.open_dataset(tmp_path / size / "history.nc", engine="h5netcdf") as written:
            assert json.loads(written.attrs["config"])["batch_size"] == number
    assert main([*arguments, "--batch-size", "half", "--out", str(tmp_path / "half")]) == 2
    assert "--batch-size must be a whole number or all, got 'half'" in capsys.readouterr().err
    assert main([*arguments, "--batch", "700", "--out", str(tmp_path / "abbreviated")]) == 2
    assert "No such option" in (error := capsys.readouterr().err) and "--batch" in error
    assert not (tmp_path / "half").exists() and not (tmp_path / "abbreviated").exists()


COUNTS = """
import torch
from torch import nn
from torch.distributions import Poisson, constraints
import pyrovae


@pyrovae.register("poisson_of_the_test", kind="likelihood")
class Counts(nn.Module):
    support = constraints.nonnegative_integer

    def forward(self, log_rate):
        return Poisson(log_rate.exp())
"""


@pytest.mark.usefixtures("search_path")
def test_bytes_are_counts_where_the_likelihood_is_one_of_counts(tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS)
    counts = np.random.default_rng(0).poisson(4.0, size=(60, 3)).astype(np.uint8)
    np.save(tmp_path / "x.npy", counts)
    out = tmp_path / "run"
    command = ["fit", str(tmp_path / "x.npy"), "--out", str(out), "--epochs", "2", "--hidden-dims", "4"]
    plugin = ["--plugin", str(tmp_path / "counts.py"), "--likelihood", "poisson_of_the_test"]
    assert main([*command, *plugin]) == 0
    split = pyrovae.data.load(tmp_path / "x.npy", scale=False)
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), likelihood="poisson_of_the_test")
    pyrovae.fit(vae, split.train.x, validation=split.test.x, epochs=2, progress=False)
    saved = pyrovae.load(out)
    assert all(torch.equal(p, q) for p, q in zip(saved.parameters(), vae.parameters(), strict=True))


def test_a_file_or_nothing_for_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["fit", "digits", "--out", str(tmp_path / "file")]) == 2
    assert "file is a file: name a folder" in capsys.readouterr().err
    assert main(["fit", "digits", "--out", ""]) == 2
    assert "--out must be the path of a file or folder, got ''" in capsys.readouterr().err


@pytest.mark.long
def test_a_compiler_that_is_asked_for_and_missing(without_compiler, tmp_path):
    done = without_compiler(
        f"""
        from pyrovae.cli import main
        run = ["digits", "--binarize", "--epochs", "1", "--out", {str(tmp_path / "run")!r}]
        print(main(["fit", *run, "--compile", "yes"]), main(["fit", *run, "--compile", "no"]))
        """
    )
    assert done.stdout.endswith("2 0\n")  # what has trained nothing is not in the way
    assert "\npyrovae: the step could not be compiled" in done.stderr and "Traceback" not in done.stderr


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
    assert f"`pyrovae fit --resume --out {out}` goes on after epoch 1" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["fit", "digits", "--out", str(out), *QUICK]) == 2  # not by mistake
    assert main(["fit", "digits", "--out", str(out), *QUICK, "--resume"]) == 0
    assert "goes on after epoch 1\n" in capsys.readouterr().err
    first, second = (pyrovae.load(folder / "model") for folder in (whole, out))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    with xr.open_dataset(out / "history.nc", engine="h5netcdf") as written:
        assert written.sizes["epoch"] == 2


def test_a_run_of_an_earlier_version_keeps_its_model_where_going_on_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["fit", "digits", "--binarize", "--epochs", "1", "--hidden-dims", "4", "--out", str(out)]
    assert main(command) == 0
    (out / "run.json").unlink()  # which earlier versions did not write
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert main([*command, "--latent-dim", "3", "--resume"]) == 2
    assert "holds another architecture" in capsys.readouterr().err
    after = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    lock = out / "checkpoint" / ".lock"
    assert {file for file in before if after.get(file) != before[file]} <= {lock}
    assert set(after) <= set(before) | {lock}


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


def test_the_builders_and_methods_that_are_read_from_the_source_are_those_of_the_registers():
    read, imported = choices.builders(), choices.imported_builders()
    ours = {name for name, builder in registered("builder").items() if builder.__module__.startswith("pyrovae.")}
    assert set(read) == ours
    for name in ours:
        assert read[name].arguments == imported[name].arguments and read[name].summary == imported[name].summary
    assert choices.methods().keys() == {"svi", "em", "lbfgs", "nuts", "closed_form", "semi_supervised_svi"}
    imported_methods = choices.imported_methods()
    for name, options in choices.methods().items():
        assert imported_methods[name] == options


# by the written rules: shape, values and options, and the model and likelihood for them
CHOSEN = [
    ((13,), "real", [], ("mlp_vae", "normal")),
    ((13,), "grey", [], ("mlp_vae", "continuous_bernoulli")),
    ((13,), "binary", [], ("mlp_vae", "bernoulli")),
    ((13,), "counts", [], ("mlp_vae", "normal")),
    ((1, 28, 28), "grey", [], ("mlp_vae", "continuous_bernoulli")),
    ((1, 28, 28), "grey", ["--binarize"], ("mlp_vae", "bernoulli")),
    ((1, 31, 40), "grey", [], ("mlp_vae", "continuous_bernoulli")),
    ((1, 32, 40), "grey", [], ("conv_vae", "continuous_bernoulli")),
    ((3, 8, 8), "grey", [], ("conv_vae", "continuous_bernoulli")),
    ((3, 8, 8), "grey", ["--hidden-dims", "4"], ("mlp_vae", "continuous_bernoulli")),
    ((1, 8, 8), "grey", ["--channels", "4,4", "--strides", "1,2"], ("conv_vae", "continuous_bernoulli")),
    ((13,), "grey", ["--network", "linear"], ("linear_vae", None)),
    ((13,), "grey", ["--model", "mlp_ae"], ("mlp_ae", None)),
    ((13,), "grey", ["--num-components", "2"], ("GaussianMixture", None)),
    ((13,), "grey", ["--likelihood", "normal"], ("mlp_vae", "normal")),
]


@pytest.mark.parametrize(("shape", "values", "options", "chosen"), CHOSEN)
def test_the_rules_of_the_choice(shape, values, options, chosen, tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    x = {
        "real": generator.normal(size=(10, *shape)),
        "grey": generator.random((10, *shape)),
        "binary": generator.integers(0, 2, (10, *shape)),
        "counts": generator.integers(0, 9, (10, *shape)),
    }[values]
    np.save(tmp_path / "x.npy", x.astype(np.float32))

    def nothing(pair, x, y, **options):
        return pyrovae.History.from_rows([{"loss": 0.0}], {"method": "none"})

    monkeypatch.setattr(pyrovae, "fit", nothing)
    assert main(["fit", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--json", *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["likelihood"]) == chosen
    assert (pyrovae.load(tmp_path / "run").recipe["builder"]) == chosen[0]
    if not options:  # and `pyrovae data` says the same beforehand
        assert main(["data", str(tmp_path / "x.npy"), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["fit"]
        assert (said["model"], said["likelihood"]) == chosen
        assert said["model_reason"] == shown["reasons"]["model"]


def test_classifiers_mixtures_and_autoencoders(tmp_path):
    """Each kind of model by one command; the classifiers' labels are the words that the source had."""
    generator = np.random.default_rng(0)
    y = np.array(["left", "right"])[np.arange(60) % 2]
    x = generator.normal(size=(60, 3)) + 4.0 * (y == "right")[:, None]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    data = [str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy")]
    kinds = {
        "gaussian_classifier": ["--covariance", "full"],
        "DiscriminativeClassifier": [],
        "GaussianMixture": ["--num-components", "2", "--num-restarts", "2"],
        "BayesianGaussianMixture": ["--num-components", "2", "--epochs", "3"],
        "mlp_ae": ["--hidden-dims", "8", "--epochs", "1"],
    }
    for model, options in kinds.items():
        assert main(["fit", *data, "--model", model, "--out", str(tmp_path / model), *options]) == 0, model
    x_test = pyrovae.data.load(tmp_path / "x.npy", labels=tmp_path / "y.npy").test
    for model in ("gaussian_classifier", "DiscriminativeClassifier"):
        predicted = pyrovae.load(tmp_path / model).predict(x_test.x[:])
        names = np.array(["left", "right"])[x_test.y]
        assert (predicted == names).mean() == 1.0
    mixture = pyrovae.load(tmp_path / "GaussianMixture")
    assert sorted(mixture.components.loc.mean(1).tolist()) == pytest.approx([0.0, 4.0], abs=0.5)


def test_the_data_command_says_what_is_there(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    assert main(["data", str(tmp_path / "x.npy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["items"], facts["event_shape"], facts["stored"]) == (20, [3, 6, 5], "uint8")
    assert facts["scaled"] and facts["minimum"] == x.min() / 255 and facts["maximum"] == pytest.approx(x.max() / 255)
    assert main(["data", str(tmp_path / "x.npy"), "--no-scale", "--channel-axis", "last", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert not facts["scaled"] and facts["is_whole"] and facts["maximum"] == x.max()
    wanting = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    wanting[3, 1] = wanting[4, 2] = np.nan
    np.savez(tmp_path / "x.npz", x=wanting, y=np.array(["a", "b"] * 10))
    assert main(["data", str(tmp_path / "x.npz")]) == 0
    text = capsys.readouterr().out
    assert "2 of 80 entries (2.50%)" in text and "2 classes: a (10), b (10)" in text
    assert "`pyrovae fit" in text and "would be refused: 2 entries are missing (NaN)" in text


def test_what_json_has_no_word_for_is_a_string_in_what_data_says_too(tmp_path, capsys):
    x = np.zeros((10, 3), np.float32)
    x[0, 0] = np.inf
    np.save(tmp_path / "x.npy", x)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    assert main(["data", str(tmp_path / "x.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["maximum"] == "Infinity"
