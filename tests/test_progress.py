"""Bars: none in a log file, tqdm's own in a terminal, and one output under the cell in a Jupyter kernel."""

from __future__ import annotations

import io
import sys
import types

import pytest
from test_steps import SOME, pair

import pyrovae
from pyrovae.inference.callbacks import ProgressBar
from pyrovae.progress import in_a_kernel, progress_bar


class Cell:
    """What a cell shows: one output, and how often it was replaced."""

    def __init__(self):
        self.outputs = []
        self.updates = 0

    def display(self, data, *, raw, display_id):
        assert raw and display_id
        self.outputs.append(data)
        return types.SimpleNamespace(update=self.update)

    def update(self, data, *, raw):
        self.outputs[-1] = data
        self.updates += 1


@pytest.fixture
def cell(monkeypatch):
    """A kernel's IPython, as far as a bar knows it."""
    cell = Cell()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=cell.display))
    return cell


def test_a_bar_in_a_kernel_is_one_output_and_ends_full(cell, capsys):
    assert in_a_kernel()
    with progress_bar(total=3, desc="<b>", unit="step") as bar:
        for _ in range(3):
            bar.update()
    assert len(cell.outputs) == 1 and cell.updates >= 1
    words, page = cell.outputs[0]["text/plain"], cell.outputs[0]["text/html"]
    assert words.startswith("<b>: 100%|") and "3/3" in words
    assert '<progress value="3" max="3">' in page and "&lt;b&gt;: 3 of 3 step [" in page and "<b>" not in page
    assert capsys.readouterr() == ("", "")


def test_a_bar_that_breaks_off_says_where(cell):
    with pytest.raises(KeyboardInterrupt), progress_bar(total=4) as bar:
        bar.update()
        raise KeyboardInterrupt
    assert '<progress value="1" max="4">' in cell.outputs[0]["text/html"]


def test_a_bar_without_an_end_counts(cell):
    assert list(progress_bar(iter("ab"), unit="iteration")) == ["a", "b"]
    page = cell.outputs[0]["text/html"]
    assert "<progress" not in page and "2 iteration [" in page


def test_nothing_is_shown_unless_asked_for(cell, capsys):
    assert list(progress_bar(range(3), show=False)) == [0, 1, 2]
    assert cell.outputs == [] and capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("short_pilot")
def test_fit_and_long_estimators_show_theirs(cell):
    pyrovae.fit(pair(), SOME, epochs=2, compile=False)
    assert len(cell.outputs) == 1 and '<progress value="2" max="2">' in cell.outputs[0]["text/html"]
    assert "loss=" in cell.outputs[0]["text/plain"]
    linear = pyrovae.linear_vae(5, 2)
    x = linear.sample(2, seed=0)
    pyrovae.ais(linear, x, num_chains=2, num_steps=3)
    pyrovae.gaps(linear, x, pyrovae.exact(linear, x), max_steps=2)
    pyrovae.fit(pyrovae.GaussianMixture((5,), 1), x.repeat(5, 1) + linear.sample(10, seed=1), progress=False)
    assert len(cell.outputs) == 3 and "2/2" in cell.outputs[2]["text/plain"]
    pyrovae.fit(pair(), SOME, epochs=2, compile=False, progress=False)
    assert len(cell.outputs) == 3


def test_a_long_epoch_shows_its_batches_and_the_first_how_long_all_will_take(cell, monkeypatch):
    clock, seen = [0.0], []
    monkeypatch.setattr("pyrovae.inference.callbacks.monotonic", lambda: clock[0])
    monkeypatch.setattr("pyrovae.inference.svi.loop.TURN", 0.0)
    original = ProgressBar.batch

    def slowly(bar, done, of):  # each batch takes a second
        clock[0] += 1.0
        original(bar, done, of)
        seen.append(cell.outputs[0]["text/plain"] if cell.outputs else "")

    monkeypatch.setattr(ProgressBar, "batch", slowly)
    pyrovae.fit(pair(), SOME, batch_size=4, epochs=3, compile=False)
    first, second = seen[:6], seen[6:12]
    assert "batch" not in first[0] and "batch 2 of 6, about 00:16 left" in first[1]  # 18 s, 2 of them gone
    assert "batch 5 of 6, about 00:13 left" in first[4]
    assert "loss=" in second[2] and "batch 3 of 6" in second[2] and "about" not in second[2]
    assert "batch" not in cell.outputs[0]["text/plain"] and "3/3" in cell.outputs[0]["text/plain"]


@pytest.mark.parametrize("terminal", [False, True])
def test_outside_of_a_kernel_only_a_terminal_shows_a_bar(terminal, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return terminal

    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    # IPython in a terminal has a shell and no kernel
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace()))
    assert not in_a_kernel()
    list(progress_bar(range(3), desc="steps"))
    assert ("steps: 100%" in out.getvalue()) == terminal
    assert terminal or out.getvalue() == ""
