"""The notebooks of docs/notebooks: they run in a kernel; what is committed is small and says what its outputs say."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ("from_ae_to_vae", "is_my_elbo_any_good", "vae_as_a_prior")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="docs/notebooks is not beside the tests")


def committed(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def text_of(cell):
    return "".join(cell["source"])


def outputs_of(notebook):
    """Each output of the code cells, as a dictionary of type to text."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", output
            if output["output_type"] == "stream":
                yield {output["name"]: "".join(output["text"])}
            else:
                yield {kind: "".join(value) for kind, value in output["data"].items()}


def test_every_notebook_is_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_whole_and_small_and_of_no_machine(name):
    path, notebook = FOLDER / f"{name}.ipynb", committed(name)
    assert path.stat().st_size < 300_000
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    numbers = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert numbers == list(range(1, len(numbers) + 1)), "run them by docs/notebooks/run.py"
    assert all(set(cell["metadata"]) <= {"tags"} for cell in notebook["cells"])
    outputs = list(outputs_of(notebook))
    words = " ".join(value for output in outputs for kind, value in output.items() if kind != "image/png")
    assert not re.search(r"/home/|/root/|/tmp/|/usr/|/work/|site-packages", words)
    assert not any("stderr" in output for output in outputs), "a warning is no part of a page"
    assert any("image/png" in output for output in outputs)
    assert all(
        re.search(r"[\u3040-\u30ff]", text_of(cell)) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    )


@pytest.mark.parametrize("name", NAMES)
def test_bars_end_full_and_reprs_are_one_line(name):
    check_bars_and_reprs(committed(name))


def check_bars_and_reprs(notebook):
    outputs = list(outputs_of(notebook))
    pages = [output.get("text/html", "") for output in outputs]
    bars = [re.search(r'<progress value="(\d+)" max="(\d+)">', page) for page in pages]
    ends = [(bar[1], bar[2]) for bar in bars if bar]
    assert ends and all(value == most for value, most in ends)
    assert all("100%|" in o["text/plain"] for o, bar in zip(outputs, bars, strict=True) if bar)
    reprs = [output.get("text/plain", "") for output in outputs]
    pairs = [words for words in reprs if words.startswith("VAE(")]
    assert pairs and all("\n" not in words and words.endswith(" parameters)") for words in pairs)
    assert all(page.startswith("<div>") for page in pages if page)
    assert not any("Dimensions:" in words for words in reprs), "a raw xarray dump"


def test_the_numbers_of_the_last_table_are_those_that_were_printed():
    notebook = committed("from_ae_to_vae")
    printed = " ".join(output.get("stdout", "") for output in outputs_of(notebook))
    (table,) = [text_of(cell) for cell in notebook["cells"] if "## What was measured" in text_of(cell)]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    numbers = {number for row in rows for number in re.findall(r"\d+\.\d+", row)}
    assert len(numbers) >= 7
    assert all(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", printed) for number in numbers), numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_runs_it_and_needs_no_ipywidgets(name, tmp_path, monkeypatch):
    for needed in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'pyrovae[docs]'")
    import nbformat

    monkeypatch.syspath_prepend(str(FOLDER))
    if name != "vae_as_a_prior":  # which imports Pyro itself, whose own bars warn that there are no widgets
        (tmp_path / "ipywidgets.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":" if sys.platform != "win32" else ";")
    monkeypatch.setenv("PYROVAE_TINY", "1")
    import run

    notebook = run.executed(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), tmp_path)
    check_bars_and_reprs(notebook)
    pictures = [base64.b64decode(output["image/png"]) for output in outputs_of(notebook) if "image/png" in output]
    assert pictures and all(picture.startswith(b"\x89PNG") for picture in pictures)
