"""The package as a whole: what an import costs, what using it changes, and that its public names are there."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import symtable
import sys
from pathlib import Path

import pytest
from test_sources import family

import pyrovae


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FOREIGN = """
import importlib, sys
before = set(sys.modules)
def import_foreign(*names):
    for name in names:
        importlib.import_module(name)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return new - set(sys.stdlib_module_names)
"""


def test_importing_the_package_brings_in_nothing_but_itself():
    light = ("pyrovae", "pyrovae.models", "pyrovae.inference", "pyrovae.evaluation", "pyrovae.choices")
    script = f"print(import_foreign('pyrovae')); print(import_foreign(*{light})); print(import_foreign('numpy'))"
    alone, rooms, control = map(ast.literal_eval, run(FOREIGN + script).splitlines())
    assert alone == rooms == {"pyrovae"}
    assert "numpy" in control


def test_each_step_of_a_users_day_brings_in_no_more_than_it_needs(tmp_path):
    # one process for all, since each would import torch again: what a step must not bring in, those before it have not
    family(tmp_path / "MNIST" / "raw")
    script = f"""
import sys
def seen(*names):
    print(sorted(set(names) & {{name.partition(".")[0] for name in sys.modules}}))
import pyrovae.data as data
seen("torchvision", "sklearn", "PIL", "pyro", "matplotlib")
import pyrovae.evaluation.code_space
seen("sklearn", "scipy", "xarray", "pandas", "matplotlib", "arviz")
import torch, pyrovae
vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood="normal")
pyrovae.fit(vae, torch.randn(9, 3), epochs=1)
seen("arviz", "matplotlib", "torchvision", "sklearn")
data.load("digits"), data.load("mnist", root={str(tmp_path)!r}), data.load({str(tmp_path / "MNIST" / "raw")!r})
seen("torchvision", "PIL")
seen("torch", "sklearn")
"""
    *without, control = run(script).splitlines()
    assert without == ["[]"] * 4 and control == "['sklearn', 'torch']"


@pytest.mark.slow
def test_no_room_brings_in_what_it_may_not_need():
    # matplotlib and ArviZ take seconds; scikit-learn, torchvision and IPython are for single functions
    rooms = [room for room in pyrovae._ROOMS if room not in ("plotting", "sklearn")]
    script = f"""
for room in {rooms}:
    print(import_foreign("pyrovae." + room))
print(import_foreign("pyrovae.plotting"))
print(import_foreign("pyrovae.sklearn"))
"""
    *without, plotting, estimators = map(ast.literal_eval, run(FOREIGN + script).splitlines())
    lazy = {"matplotlib", "arviz", "sklearn", "torchvision", "IPython", "pandas"}
    assert {room: seen & lazy for room, seen in zip(rooms, without, strict=True) if seen & lazy} == {}
    assert plotting & lazy == {"matplotlib"}
    assert estimators & lazy - {"pandas"} == {"matplotlib", "sklearn"}  # the first from the room before it


@pytest.mark.long
def test_using_every_name_leaves_global_state_alone():
    script = """
import logging, os, random, tempfile, warnings
import numpy as np, torch, pyro
from torch.distributions import Distribution
def state():
    return (
        torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
        pyro.settings.get(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), Distribution._validate_args,
        len(logging.getLogger().handlers), sorted(pyro.get_param_store()), torch.are_deterministic_algorithms_enabled(),
        os.getcwd(), torch.backends.mkldnn.enabled,
    )
import arviz
torch.manual_seed(1); np.random.seed(1); random.seed(1)
torch.zeros(()); before = state()
import pyrovae
for name in pyrovae.__all__:
    getattr(pyrovae, name)
assert state() == before, "importing"
digits = pyrovae.data.load("digits")
x = pyrovae.data.binarize(digits.test.x)
for make in (pyrovae.mlp_vae, pyrovae.mlp_ae, pyrovae.conv_vae):
    rng = torch.random.get_rng_state()
    pair = make((1, 8, 8))  # the weights follow the caller's generator
    torch.random.set_rng_state(rng)
    pyrovae.fit(pair, digits.train.x, epochs=1, batch_size=512, binarize=True, progress=False, validation=digits.test.x)
    pair.encode(x), pair.reconstruct(x)
    with tempfile.TemporaryDirectory() as folder:
        pyrovae.load(pyrovae.save(folder + "/s", pair))
    density = pair
    if not pair.is_normalized:
        density = pyrovae.as_density(pair, pyrovae.GaussianPrior.fit(pair.encode(x)), scale=0.5)
    pyrovae.elbo(density, x, num_particles=2), density.sample(3, seed=0), pyrovae.iwae(density, x, num_particles=30)
    truth = pyrovae.quadrature(density, x[:3], tol=1e-2)
    pyrovae.gaps(density, x[:3], truth, max_steps=2, num_evaluation=2, progress=False)
    quick = {"num_steps": 3, "num_chains": 2, "progress": False}
    pyrovae.ais(density, x[:3], **quick), pyrovae.bdmc(density, 2, **quick)
    pyrovae.calibrate(density, num_simulations=20, num_draws=5)
    pyrovae.to_arviz(density, x[:3], num_draws=2)
judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=2)
pyrovae.code_space(pair, digits.train, digits.test, judge, num_codes=50, num_pairs=5)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    assert run(script).strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in pyrovae.__all__:
        value = getattr(pyrovae, name)
        assert value.__doc__, name
    assert set(pyrovae.__all__) <= set(dir(pyrovae))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pyrovae.nothing


def test_type_checkers_see_every_public_name():
    # a package that is typed exports a name by `name as name`; strict checkers of users refuse the others
    tree = ast.parse(Path(pyrovae.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    exported = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert [alias.name for alias in exported] == [alias.asname for alias in exported]
    assert sorted(alias.name for alias in exported) == sorted(pyrovae.__all__)


@pytest.mark.slow
def test_a_strict_type_checker_takes_a_users_script(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    script = """
import pyrovae
from pyrovae.callbacks import CSVLog
from pyrovae.methods import SVI

digits = pyrovae.data.load("digits")
vae = pyrovae.mlp_vae(digits.event_shape, latent_dim=2)
history = pyrovae.fit(vae, digits.train.x, method=SVI(epochs=2, callbacks=(CSVLog("run.csv"),)))
mean: float = pyrovae.elbo(vae, digits.test.x).mean
pyrovae.mlp_vae((3,), latent_dims=2)
"""
    (tmp_path / "user.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), "user.py"]
    package = str(Path(pyrovae.__file__).parents[1])
    environment = {**os.environ, "MYPYPATH": package, "PYTHONPATH": package}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("user.py") and "error:" in line]
    assert error.startswith('user.py:10: error: Unexpected keyword argument "latent_dims" for "mlp_vae"')


def test_no_module_stands_where_a_public_name_of_a_room_is():
    # a module of that name takes the place of what `from ... import` had bound, as soon as anything imports it
    for room in pyrovae._ROOMS:
        folder = getattr(getattr(pyrovae, room), "__path__", [])
        for module in pkgutil.walk_packages(folder, f"pyrovae.{room}."):
            importlib.import_module(module.name)
        for name in getattr(getattr(pyrovae, room), "__all__", []):
            value = getattr(getattr(pyrovae, room), name)
            assert type(value) is not type(sys), f"pyrovae.{room}.{name} is a module"


def names_from_nowhere(source: str) -> set[str]:
    """The names that a script reads and neither binds, imports nor finds among Python's own."""
    read, bound = set(), set(dir(builtins)) | {"__name__"}
    tables = [symtable.symtable(source, "example", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            elif symbol.is_referenced() and symbol.is_global():
                read.add(symbol.get_name())
    return read - bound


def test_docstring_examples_import_what_they_use():
    # conftest.py runs them in an empty namespace; this holds where only the tests' folder is run
    assert names_from_nowhere("import torch\nx = torch.ones(3)\ny = [v for v in np.zeros(3) if f(v)]") == {"np", "f"}
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = {}
    for module in pkgutil.walk_packages(pyrovae.__path__, "pyrovae."):
        if not module.name.endswith("__main__"):
            for test in finder.find(importlib.import_module(module.name), module.name):
                examples[test.name] = "".join(example.source for example in test.examples)
    examples = {name: source for name, source in examples.items() if source}
    assert len(examples) > 100
    assert {name: names_from_nowhere(s) for name, s in examples.items() if names_from_nowhere(s)} == {}


def test_docstring_examples_are_run_alone(request):
    # the hook of conftest.py, on an example that leans on a name of its own module
    example = doctest.DocTestParser().get_doctest(">>> seed", {"seed": 1}, "leaning", None, 0)
    item = pytest.DoctestItem.from_parent(
        request.session, name="leaning", runner=doctest.DocTestRunner(), dtest=example
    )
    request.config.hook.pytest_collection_modifyitems(session=request.session, config=request.config, items=[item])
    assert item.dtest.globs == {"__name__": "__main__"}


def test_the_version_is_the_projects():
    import tomllib

    project = Path(__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] == pyrovae.__version__


def test_imports_run_one_way():
    # models, data, compile <- inference, evaluation; which do not know each other; matplotlib and arviz: one home each
    root = Path(pyrovae.__file__).parent
    allowed = {
        "models": {"models"},
        "data": {"data"},
        "compile": {"compile"},
        "inference": {"inference", "models", "data", "compile", "ranks", "__version__"},
        "evaluation": {"evaluation", "models", "data", "compile", "ranks"},
    }
    common = {
        "argument_checks",
        "arithmetic",
        "checks",
        "columns",
        "durable",
        "exclusive",
        "frequencies",
        "hidden",
        "interruption",
        "json_files",
        "labelled",
        "listed",
        "memory",
        "rounding",
    }  # of no room
    common |= {"progress", "seeding", "summary", "warned"}
    allowed = {room: may | common for room, may in allowed.items()}
    allowed |= {name if (root / name).is_dir() else f"{name}.py": common for name in common}
    for room, may in allowed.items():
        for file in [root / room] if room.endswith(".py") else (root / room).rglob("*.py"):
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            lines = [line for line in lines if line.startswith(("import ", "from "))]
            used = set()
            for line in lines:
                words = line.split()
                if words[1] == "pyrovae" and words[0] == "from":
                    used |= {w.strip(",") for w in words[3:]}
                elif words[1].startswith("pyrovae."):
                    used.add(words[1].split(".")[1])
                assert not words[1].startswith("matplotlib"), file
                assert not words[1].startswith(("pickle", "dill", "cloudpickle")), file
            assert used <= may, (file, used - may)
    for file in root.rglob("*.py"):
        homes = {"arviz": file.name == "export.py", "matplotlib": file.parent.name == "plotting"}
        for line in file.read_text(encoding="utf-8").splitlines():
            for library, home in homes.items():
                imported = line.strip().startswith((f"import {library}", f"from {library}"))
                assert home or not imported, (file, line)


@pytest.mark.slow
def test_the_examples_of_the_readme_run(tmp_path):
    text = Path(__file__).parents[1] / "README.md"
    if not text.is_file():
        pytest.skip("README.md is not beside the tests")
    example = "".join(part.split("```")[0] for part in text.read_text(encoding="utf-8").split("```python\n")[1:])
    script = f"import os; os.chdir({str(tmp_path)!r})\n{example.replace('epochs=50', 'epochs=2')}"
    out = run(script)
    assert "epochs, loss" in out and "elbo  -" in out and "iwae(100)  -" in out
    assert (tmp_path / "my-vae" / "manifest.json").is_file()


def test_links_between_pages_lead_somewhere():
    root = Path(__file__).parents[1]
    if not (root / "README.md").is_file():
        pytest.skip("the README is not beside the tests")
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)
