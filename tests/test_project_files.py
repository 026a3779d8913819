"""The files around the package: what they say is so, their examples run, what is built carries all that it needs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pyrovae

ROOT = Path(__file__).parents[1]
if not (ROOT / "llms.txt").is_file():
    pytest.skip("the files of the project are not beside the tests", allow_module_level=True)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def run(command: list[str], folder: Path, **environment: str) -> str:
    """What a command prints in a folder, this Python's programs first and this package the one that is imported."""
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(Path(pyrovae.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **paths, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestCitation:
    def test_it_is_of_this_version_and_licence(self):
        text = read("CITATION.cff")
        assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [pyrovae.__version__]
        assert re.findall(r"^license: (.*)$", text, re.MULTILINE) == ["MIT"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", read(page), re.DOTALL)


class TestLlms:
    def test_it_has_a_line_for_every_public_name(self):
        section = read("llms.txt").partition("## Public names\n")[2].partition("\n## ")[0]
        assert re.findall(r"^- `(\w+)`: \w", section, re.MULTILINE) == pyrovae.__all__

    @pytest.mark.parametrize("page", ["llms.txt", "CONTRIBUTING.md"])
    def test_its_links_lead_somewhere(self, page):
        links = re.findall(r"\]\(([^)#]+)", read(page))
        assert links and [link for link in links if not (ROOT / link).exists()] == []

    @pytest.mark.slow
    def test_each_block_of_python_runs_alone(self, tmp_path):
        recipes = blocks("llms.txt", "python")
        assert len(recipes) > 5
        file = tmp_path / "recipes.py"
        lines = []
        for number, recipe in enumerate(recipes):
            lines.append(f"exec(compile({recipe!r}, 'block {number}', 'exec'), {{'__name__': '__main__'}})")
            lines.append(f"print('block {number} has run')")
        file.write_text("\n".join(lines), encoding="utf-8")
        printed = run([sys.executable, "-W", "ignore", str(file)], tmp_path)
        assert re.findall(r"block (\d+) has run", printed) == [str(number) for number in range(len(recipes))]
        assert "elbo  -" in printed and "accuracy  0.9" in printed and "amortisation gap" in printed

    @pytest.mark.slow
    def test_its_commands_run(self, tmp_path):
        (commands,) = blocks("llms.txt", "sh")
        run(["bash", "-euo", "pipefail", "-c", commands], tmp_path, PYTHONWARNINGS="ignore")
        (results,) = [one["results"] for one in json.loads((tmp_path / "evaluation.json").read_bytes())["runs"]]
        assert len(results) == 2
        written = ("samples.png", "codes.csv", "reconstructions.png", "filled.png", "report.html", "run-ae/run.json")
        assert [name for name in written if not (tmp_path / name).is_file()] == []


class TestContributing:
    def test_the_places_that_it_names_are_there(self):
        text = read("CONTRIBUTING.md")
        places = re.findall(r"`((?:pyrovae|tests|docs|analysis)/[\w/.]*)`", text)
        assert len(places) > 8
        for place in places:
            folder = Path(place).parent if re.search("NAME|MODULE", place) else Path(place)
            assert (ROOT / folder).exists(), place

    def test_its_commands_are_those_of_the_project(self):
        text = read("CONTRIBUTING.md")
        extras = re.findall(r'pip install -e "\.\[(\w+)\]"', text)
        assert extras == ["dev"] and re.search(r"^dev = ", read("pyproject.toml"), re.MULTILINE)
        assert "python -m pytest -m slow" in text and '"slow:' in read("pyproject.toml")


def test_no_hook_and_no_form_names_a_host():
    for file in (".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*"))):
        if (ROOT / file).is_file():
            assert not re.search(r"https?:|git@|\w\.(com|org|io)\b", read(str(file))), file


@pytest.mark.slow
def test_the_line_that_asks_for_versions_prints_them(tmp_path):
    commands = set()
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        text = " ".join(read(str(file)).split())
        commands |= set(re.findall(r'`python -c "(.*?)"`', text))
    (command,) = commands  # the same in each form
    printed = run([sys.executable, "-W", "ignore", "-c", command], tmp_path)
    assert f"('pyrovae', '{pyrovae.__version__}')" in printed and sys.version.split()[0] in printed


UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_CODE = {"eval", "exec", "torch.load", "np.load", "numpy.load", "pd.read_pickle"}


def opens_pickles(source: str) -> list[str]:
    """The imports and calls of a module that could unpickle or evaluate what a file holds."""
    suspicious = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            suspicious += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLING:
            suspicious.append(str(node.module))
        elif isinstance(node, ast.Call):
            given = (node.func, *node.args)  # those that partial takes, too
            functions = {ast.unparse(value) for value in given if isinstance(value, ast.Name | ast.Attribute)}
            if functions & RUNS_CODE and "allow_pickle=False" not in map(ast.unparse, node.keywords):
                suspicious += sorted(functions & RUNS_CODE)
    return suspicious


def locale_text(source: str) -> list[str]:
    """The calls of a module that read or write text in whatever encoding the machine is set to."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [value for value in (*node.args, *(k.value for k in node.keywords)) if isinstance(value, ast.Constant)]
        of_bytes = any(
            isinstance(mode.value, str) and re.fullmatch("[rwaxt+]*b[rwaxt+]*", mode.value) for mode in modes
        )
        is_text = (name == "read_text" and not node.args) or (name == "write_text" and len(node.args) < 2)
        is_open = name == "open" and not of_bytes
        if is_text or (
            is_open and not ast.unparse(node).startswith(("Image.", "archive.", "gzip.", "os."))
        ):  # which open no text
            calls.append(ast.unparse(node))
    return calls


def test_text_is_utf_8_on_every_machine():
    assert locale_text("path.open('w', newline='')\nopen(f)\np.write_text(s)\np.read_text()")[:2] == [
        "path.open('w', newline='')",
        "open(f)",
    ]
    assert locale_text("os.open(f, flags)") == []
    assert locale_text("p.open('rb')\nopen(f, 'wb')\np.read_text('utf-8')\nopen(f, encoding='utf-8')") == []
    modules = [*Path(pyrovae.__file__).parent.rglob("*.py"), *(ROOT / "analysis").glob("*.py")]
    found = {file.name: locale_text(file.read_text(encoding="utf-8")) for file in modules}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_nothing_in_the_package_opens_a_pickle():
    # SECURITY.md says so
    for source in ("import pickle", "from joblib import load", "torch.load(f)", "partial(np.load, f)", "eval(text)"):
        assert opens_pickles(source), source
    assert opens_pickles("np.load(f, allow_pickle=False)\npair.eval()\nloader.exec_module(module)") == []
    modules = list(Path(pyrovae.__file__).parent.rglob("*.py"))
    assert len(modules) > 100
    found = {file.name: opens_pickles(file.read_text(encoding="utf-8")) for file in modules}
    assert {name: calls for name, calls in found.items() if calls} == {}


def below(folder: str) -> set[str]:
    """The files of a folder of the project as an archive names them, without what Python and the tools leave there."""
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    left = {"__pycache__", "_build", "generated"}  # and folders like .ruff_cache and .ipynb_checkpoints
    return {
        path.as_posix() for path in paths if not any(part in left or part.startswith(".") for part in path.parts[1:-1])
    }


def test_no_regular_expression_is_possessive():
    """Python 3.11.0 to 3.11.4 match wrongly where what is repeated so holds another repetition."""
    possessive = re.compile(r"[*+?}]\+|\(\?>")
    assert possessive.search(r"(?:a+\n)*+b") and not possessive.search("k-means")  # the control
    found = []
    for file in (ROOT / "pyrovae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
                found += [f"{file.name}:{node.lineno}" for each in node.args if possessive.search(ast.unparse(each))]
            is_constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
            if is_constant and possessive.search(ast.unparse(node.value)):
                found.append(f"{file.name}:{node.lineno}")
    assert not found


@pytest.mark.slow
def test_what_is_built_has_all_that_it_needs_and_no_more(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    run([*build, "-t", "sdist", "-t", "wheel"], ROOT)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        top = sdist.name.removesuffix(".tar.gz")
        in_sdist = {name.removeprefix(f"{top}/") for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    package = below("pyrovae")
    assert "pyrovae/py.typed" in package
    assert {name for name in in_wheel if ".dist-info/" not in name} == package
    folders = package | below("tests") | below("docs") | below("analysis") | below(".github")
    beside = {".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"}
    beside |= {"SECURITY.md", "llms.txt", "pyproject.toml"}
    assert in_sdist == folders | beside | {".gitignore", "PKG-INFO"}
    # the wheel of the sdist is that of the project
    again = tmp_path / "again"
    run([*build[:-1], str(again), "-t", "wheel"], tmp_path / top)
    assert set(zipfile.ZipFile(again / wheel.name).namelist()) == in_wheel
