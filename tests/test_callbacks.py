"""Callbacks of a fit by SVI: what they see, a stop, a state that goes on, the bar, CSV and TensorBoard."""

from __future__ import annotations

import copy
import csv
import sys

import pytest
import torch
from test_ranks import run as in_processes
from test_steps import SOME, pair, quiet_fit, weights

import pyrovae
from pyrovae.callbacks import Callback, CSVLog, ProgressBar, TensorBoard
from pyrovae.inference.svi.loop import Loop
from pyrovae.methods import SVI


class Noted(Callback):
    """The calls, in their order, and what there was to see."""

    def __init__(self):
        self.calls = []
        self.labels = []

    def begin(self, run):
        self.labels.append(run.label)
        self.calls.append(("begin", len(run.rows), run.epochs, run.stopped))

    def epoch(self, run, row):
        assert run.rows[-1] == row
        self.calls.append(("epoch", len(run.rows), row["loss"], weights(run.pair)))

    def end(self, run):
        self.calls.append(("end", len(run.rows), run.stopped, weights(run.pair)))


def classes(labels):
    """A linear VAE for each class."""
    torch.manual_seed(0)
    densities = {label: pyrovae.linear_vae(12, 1) for label in labels}
    return pyrovae.GenerativeClassifier(densities, evidence=pyrovae.exact)


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, run, row):
        if len(run.rows) == self.epochs:
            run.stop(f"{self.epochs} epochs are enough")


class Mean(Callback):
    """The mean of the losses so far, kept by hand; a run whose mean falls below `least` ends."""

    def __init__(self, least=-float("inf")):
        self.least, self.count, self.mean, self.loaded = least, 0, 0.0, None

    def epoch(self, run, row):
        self.count += 1
        self.mean += (row["loss"] - self.mean) / self.count
        if self.mean < self.least:
            run.stop("the mean is low")

    def state_dict(self):
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state):
        self.loaded = state
        self.count, self.mean = state["count"], state["mean"]


@pytest.mark.parametrize("compile", [False, True])
def test_a_run_is_seen_and_not_changed(compile, interpreted):
    plain, watched, noted = pair(), pair(), Noted()
    expected = quiet_fit(plain, compile=compile)
    history = quiet_fit(watched, compile=compile, callbacks=[noted])
    assert torch.equal(weights(plain), weights(watched))
    assert [call[:2] for call in noted.calls] == [("begin", 0), *(("epoch", n) for n in (1, 2, 3)), ("end", 3)]
    assert [call[2] for call in noted.calls[1:4]] == expected.epochs.loss.values.tolist()
    assert not torch.equal(noted.calls[1][3], noted.calls[2][3])  # an epoch's own weights
    assert torch.equal(noted.calls[-1][3], weights(plain))
    assert history.config["callbacks"] == ["Noted"] and history.config["stopped"] is None


def test_rows_are_copies():
    class Spoiling(Callback):
        def epoch(self, run, row):
            row["loss"] = 0.0
            run.rows[-1].clear()

    plain = quiet_fit(pair())
    assert quiet_fit(pair(), callbacks=[Spoiling()]).epochs.loss.values.tolist() == plain.epochs.loss.values.tolist()


def test_a_stop_ends_the_run_after_its_epoch():
    short, stopped = pair(), pair()
    expected = quiet_fit(short, epochs=2)
    noted = Noted()
    history = quiet_fit(stopped, epochs=50, callbacks=[StopAfter(2), noted])
    assert torch.equal(weights(short), weights(stopped))
    assert history.epochs.loss.values.tolist() == expected.epochs.loss.values.tolist()
    assert history.config["stopped"] == "2 epochs are enough" and str(history).endswith("(2 epochs are enough)")
    assert noted.calls[-1][:3] == ("end", 2, "2 epochs are enough")


class StopAtOnce(Callback):
    """In `begin`; of a classifier's densities those of some classes."""

    def __init__(self, labels=None):
        self.labels = labels

    def begin(self, run):
        if self.labels is None or run.label in self.labels:
            run.stop("not now")


@pytest.mark.parametrize("options", [{}, {"warmup": 2}, {"validation": SOME, "patience": 1}])
def test_a_stop_in_begin_ends_the_run_before_an_epoch(options):
    vae, noted = pair(), Noted()
    before = weights(vae)
    history = quiet_fit(vae, callbacks=[StopAtOnce(), noted], **options)
    assert torch.equal(weights(vae), before)
    assert history.epochs.sizes["epoch"] == 0 and history.epochs.loss.shape == (0,)
    assert (history.config["stopped"], history.config["weights_epoch"]) == ("not now", None)
    assert str(history) == "0 epochs (not now)"
    assert [call[0] for call in noted.calls] == ["begin", "end"]


def test_a_stop_in_begin_ends_a_run_that_goes_on(tmp_path):
    vae = pair()
    options = {"checkpoint": tmp_path / "run", "compile": False}
    expected = quiet_fit(vae, epochs=2, **options)
    history = quiet_fit(pair(), epochs=5, resume=True, callbacks=[StopAtOnce()], **options)
    assert history.epochs.loss.values.tolist() == expected.epochs.loss.values.tolist()
    assert history.config["stopped"] == "not now"


def test_a_stop_in_end_changes_nothing():
    stopping = type("Late", (Callback,), {"end": lambda self, run: run.stop("late")})()
    assert quiet_fit(pair(), callbacks=[stopping]).config["stopped"] is None


def test_a_stop_in_begin_leaves_a_class_as_it_is():
    x, y = SOME.flatten(1), ["a", "b"] * 11 + ["a"]
    classifier = classes(("a", "b"))
    history = quiet_fit(classifier, x, y, epochs=2, callbacks=[StopAtOnce(["a"])])
    assert history.epochs.loss.sel(label="a").isnull().all() and history.epochs.loss.sel(label="b").notnull().all()
    assert str(history).startswith("2 classes one by one, loss ")
    history = quiet_fit(classifier, x, y, epochs=2, callbacks=[StopAtOnce()])
    assert str(history) == "2 classes one by one, none of them fitted"


def test_the_best_weights_are_in_place_at_the_end():
    vae, noted = pair(), Noted()
    rates = {"schedule": lambda step, steps: 1.0 if step < 10 else 1e3}  # after two epochs it only gets worse
    options = {"epochs": 30, "validation": SOME, "patience": 30, "compile": False, **rates}
    history = quiet_fit(vae, callbacks=[noted, StopAfter(6)], **options)
    kept = history.config["weights_epoch"]
    assert kept < 5 and torch.equal(noted.calls[-1][3], noted.calls[1 + kept][3])
    assert history.config["stopped"] == f"6 epochs are enough; weights of epoch {kept + 1}"


def killed_and_resumed(folder, make, after, **options):
    """A run that was killed after some epochs, and goes on with new callbacks."""
    start = pair()
    epoch = Loop.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "epoch", lambda loop, number: epoch(loop, number) if number < after else 1 // 0)
        with pytest.raises(ZeroDivisionError):
            quiet_fit(copy.deepcopy(start), checkpoint=folder, callbacks=make(), **options)
    callbacks = make()
    history = quiet_fit(start, checkpoint=folder, resume=True, callbacks=callbacks, **options)
    return start, history, callbacks


class TestAState:
    def test_it_goes_on(self, tmp_path):
        alone, mean = pair(), Mean()
        quiet_fit(alone, epochs=5, callbacks=[mean])
        vae, _, callbacks = killed_and_resumed(tmp_path / "run", lambda: [Noted(), Mean()], 2, epochs=5)
        assert callbacks[1].loaded["count"] == 2 and (callbacks[1].count, callbacks[1].mean) == (5, mean.mean)
        assert callbacks[0].calls[0][:2] == ("begin", 2)
        assert torch.equal(weights(vae), weights(alone))
        afresh = Mean()  # which a run that forgets it would have
        quiet_fit(pair(), epochs=3, callbacks=[afresh])
        assert afresh.mean != mean.mean

    def test_a_stop_that_hangs_on_it_comes_where_it_would_have(self, tmp_path):
        alone = pair()
        losses = quiet_fit(alone, epochs=6).epochs.loss.values
        means = [losses[: n + 1].mean() for n in range(6)]
        assert means[4] < means[3]
        make = lambda: [Mean(least=(means[3] + means[4]) / 2)]  # noqa: E731
        _, history, _ = killed_and_resumed(tmp_path / "run", make, 3, epochs=6)
        assert history.epochs.sizes["epoch"] == 5 and history.config["stopped"] == "the mean is low"

    def test_a_run_that_has_ended_stays_so(self, tmp_path):
        vae = pair()
        quiet_fit(copy.deepcopy(vae), epochs=5, checkpoint=tmp_path / "run", callbacks=[StopAfter(2)])
        noted = Noted()
        history = quiet_fit(vae, epochs=5, checkpoint=tmp_path / "run", resume=True, callbacks=[noted])
        assert history.epochs.sizes["epoch"] == 2 and history.config["stopped"] == "2 epochs are enough"
        assert [call[0] for call in noted.calls] == ["begin", "end"]

    def test_other_callbacks_are_refused_where_they_have_one(self, tmp_path):
        vae = pair()
        quiet_fit(copy.deepcopy(vae), epochs=1, checkpoint=tmp_path / "run", callbacks=[Mean(), Noted()])
        options = {"epochs": 2, "checkpoint": tmp_path / "run", "resume": True}
        before = weights(vae)
        with pytest.raises(ValueError, match=r"callbacks with a state were \['Mean'\], and these are none"):
            quiet_fit(vae, **options)
        with pytest.raises(ValueError, match=r"were \['Mean'\], and these are \['Mean', 'Mean'\]"):
            quiet_fit(vae, callbacks=[Mean(), Mean()], **options)
        assert torch.equal(weights(vae), before)
        quiet_fit(vae, callbacks=[StopAfter(7), Mean()], **options)  # what has none may be another

    def test_what_no_checkpoint_holds_is_refused_before_an_epoch(self):
        class Tensors(Mean):
            def state_dict(self):
                return {"mean": torch.ones(2)}

        class Half(Callback):
            def state_dict(self):
                return {}

        vae = pair()
        before = weights(vae)
        with pytest.raises(TypeError, match=r"Tensors\.state_dict\(\) must be a dictionary of what JSON"):
            quiet_fit(vae, callbacks=[Tensors()])
        with pytest.raises(TypeError, match=r"Half must have both state_dict\(\) and load_state_dict\(state\)"):
            quiet_fit(vae, callbacks=[Half()])
        assert torch.equal(weights(vae), before)


class TestErrors:
    @pytest.mark.parametrize(
        ("callbacks", "message"),
        [
            (Noted(), r"callbacks must be a list of callbacks, got .*: give \[callback\]"),
            ([Noted], r"a callback is an object: give Noted\(...\), not the class"),
            ([print], "has no begin and no epoch and no end: a callback is a pyrovae.callbacks.Callback, or has begin"),
        ],
    )
    def test_what_is_no_callback_is_told_what_is(self, callbacks, message):
        with pytest.raises(TypeError, match=message):
            SVI(callbacks=callbacks)

    @pytest.mark.parametrize("call", ["begin", "epoch"])
    def test_an_error_ends_the_fit_and_the_others_are_told(self, call):
        noted = Noted()
        failing = type("Failing", (Callback,), {call: lambda self, *_: 1 // 0})()
        with pytest.raises(ZeroDivisionError):
            quiet_fit(pair(), callbacks=[noted, failing])
        assert noted.calls[-1][0] == "end"
        assert len(noted.calls) == {"begin": 2, "epoch": 3}[call]

    def test_an_end_that_raises_loses_no_history_and_no_other_end(self):
        noted, plain, watched = Noted(), pair(), pair()
        failing = type("Failing", (Callback,), {"end": lambda self, run: 1 // 0})()
        expected = quiet_fit(plain)
        with pytest.warns(UserWarning, match=r"Failing\.end raised ZeroDivisionError: .*\. The fit is done") as caught:
            history = quiet_fit(watched, callbacks=[failing, noted, failing])
        assert len(caught) == 2 and noted.calls[-1][:2] == ("end", 3)
        assert torch.equal(weights(plain), weights(watched))
        assert history.epochs.loss.values.tolist() == expected.epochs.loss.values.tolist()

    def test_an_end_that_raises_is_a_note_on_the_error_that_broke_the_run(self):
        noted = Noted()
        calls = {"epoch": lambda self, *_: {}["first"], "end": lambda self, run: 1 // 0}
        with pytest.raises(KeyError, match="first") as raised:
            quiet_fit(pair(), callbacks=[type("Failing", (Callback,), calls)(), noted])
        assert raised.value.__notes__ == ["Failing.end raised ZeroDivisionError: integer division or modulo by zero"]
        assert noted.calls[-1][0] == "end"

    def test_an_interrupt_of_an_end_is_raised_after_the_others(self):
        def interrupted(self, run):
            raise KeyboardInterrupt

        noted = Noted()
        with pytest.raises(KeyboardInterrupt):
            quiet_fit(pair(), callbacks=[type("Slow", (Callback,), {"end": interrupted})(), noted])
        assert noted.calls[-1][:2] == ("end", 3)

    def test_the_end_is_told_where_a_fit_breaks_off(self, monkeypatch):
        noted = Noted()
        monkeypatch.setattr(Loop, "epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quiet_fit(pair(), callbacks=[noted])
        assert [call[0] for call in noted.calls] == ["begin", "end"]


def rows_of(history):
    return [{name: float(history.epochs[name][n]) for name in history.epochs} for n in history.epochs.epoch.values]


class TestCSV:
    def read(self, file):
        with file.open(newline="") as lines:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]

    def test_it_has_every_digit_of_the_history(self, tmp_path):
        file = tmp_path / "new" / "run.csv"
        history = quiet_fit(pair(), validation=SOME, callbacks=[CSVLog(file)])
        assert self.read(file) == [{"epoch": float(n), **row} for n, row in enumerate(rows_of(history))]

    def test_a_file_that_is_there_is_kept_unless_the_run_goes_on(self, tmp_path):
        file = tmp_path / "run.csv"
        _, history, _ = killed_and_resumed(tmp_path / "run", lambda: [CSVLog(file)], 2, epochs=4)
        assert self.read(file) == [{"epoch": float(n), **row} for n, row in enumerate(rows_of(history))]
        before, vae = file.read_text(), pair()
        start = weights(vae)
        with pytest.raises(FileExistsError, match="is there already: name another file for CSVLog, or remove it"):
            quiet_fit(vae, callbacks=[CSVLog(file)])
        assert file.read_text() == before and torch.equal(weights(vae), start)
        file.write_text(before + "9,1.0,1.0,1.0,1.0\n")  # of an epoch that was lost with its process
        quiet_fit(pair(), epochs=4, checkpoint=tmp_path / "run", resume=True, callbacks=[CSVLog(file)])
        assert file.read_text() == before

    def test_a_classifiers_densities_are_told_apart(self, tmp_path):
        file = tmp_path / "run.csv"
        log = CSVLog(file)
        labels = ["a", "b"]
        y = [labels[n % 2] for n in range(23)]
        only_b = SOME.flatten(1)[:5], ["b"] * 5
        history = quiet_fit(classes(labels), SOME.flatten(1), y, validation=only_b, epochs=2, callbacks=[log])
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [(row["class"], row["epoch"]) for row in rows] == [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]
        for row in rows:
            at = history.epochs.sel(label=row["class"], epoch=int(row["epoch"]))
            assert float(row["loss"]) == float(at.loss)
            expected = "" if row["class"] == "a" else repr(float(at.validation_elbo))
            assert row["validation_elbo"] == expected
        before, other = file.read_text(), classes(labels)
        start = weights(other)
        for again in (log, CSVLog(file)):  # another fit, with the same object too
            with pytest.raises(FileExistsError, match="is there already"):
                quiet_fit(other, SOME.flatten(1), y, epochs=2, callbacks=[again])
        assert file.read_text() == before and torch.equal(weights(other), start)

    @pytest.mark.parametrize("labels", [["c", "d"], ["b", "c"], ["a", "b", "c"]])
    def test_another_classifier_does_not_go_on_in_the_file_of_the_first(self, labels, tmp_path):
        file = tmp_path / "run.csv"
        log = CSVLog(file)
        x = SOME.flatten(1)
        quiet_fit(classes(["a", "b"]), x, [["a", "b"][n % 2] for n in range(23)], epochs=2, callbacks=[log])
        before, other = file.read_text(), classes(labels)
        start = weights(other)
        with pytest.raises(FileExistsError, match="is there already"):
            quiet_fit(other, x, [labels[n % len(labels)] for n in range(23)], epochs=2, callbacks=[log])
        assert file.read_text() == before and torch.equal(weights(other), start)

    def test_a_classifier_after_another_pair_is_written_where_the_file_was_taken_away(self, tmp_path):
        file = tmp_path / "run.csv"
        log = CSVLog(file)
        quiet_fit(pair(), epochs=1, callbacks=[log])
        file.unlink()
        quiet_fit(classes(["a", "b"]), SOME.flatten(1), ["a", "b"] * 11 + ["a"], epochs=1, callbacks=[log])
        with file.open(newline="") as lines:
            assert [row["class"] for row in csv.DictReader(lines)] == ["a", "b"]


class TestTensorBoard:
    def test_without_the_package_it_says_what_to_install(self, monkeypatch, tmp_path):
        monkeypatch.setattr("pyrovae.inference.callbacks.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install 'pyrovae\[tensorboard\]'"):
            TensorBoard(tmp_path)

    def test_its_curves_are_the_history(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        make = lambda: [TensorBoard(tmp_path / "curves")]  # noqa: E731
        _, history, _ = killed_and_resumed(tmp_path / "run", make, 2, epochs=4)
        curves = EventAccumulator(str(tmp_path / "curves"))
        curves.Reload()
        for name in history.epochs:
            points = curves.Scalars(name)
            assert [point.step for point in points] == [0, 1, 2, 3]
            assert [point.value for point in points] == pytest.approx(history.epochs[name].values, rel=1e-6)

    def test_a_classifiers_densities_have_curves_of_their_own(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        y = torch.arange(23) % 2
        callbacks = [TensorBoard(tmp_path / "curves")]
        history = quiet_fit(classes((0, 1)), SOME.flatten(1), y, epochs=2, callbacks=callbacks)
        curves = EventAccumulator(str(tmp_path / "curves"))
        curves.Reload()
        for label in (0, 1):
            points = curves.Scalars(f"loss/class {label}")
            assert [point.value for point in points] == pytest.approx(history.epochs.loss.sel(label=label).values)


def test_the_bar_shows_the_epochs_and_the_scores(monkeypatch):
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    history = quiet_fit(pair(), callbacks=[ProgressBar()], validation=SOME)
    assert "3/3" in terminal.text and f"loss={float(history.epochs.loss[-1]):.2f}" in terminal.text
    assert f"validation_elbo={float(history.epochs.validation_elbo[-1]):.2f}" in terminal.text
    assert "class" not in terminal.text
    quiet_fit(classes(("a", "b")), SOME.flatten(1), ["a", "b"] * 11 + ["a"], callbacks=[ProgressBar()])
    assert "class 'a'" in terminal.text and "class 'b'" in terminal.text


@pytest.mark.slow
def test_processes_stop_together_and_the_first_one_writes(tmp_path):
    """The second one alone asks for the end, clipped steps are those of one process, and an error ends both."""
    body = f"""
    from pyrovae.callbacks import Callback, CSVLog
    class Second(Callback):
        def epoch(self, run, row):
            if ranks.size == 1 or ranks.rank == 1:
                if len(run.rows) == 2:
                    run.stop("enough")
    class AtOnce(Callback):
        def begin(self, run):
            if ranks.size == 1 or ranks.rank == 1:
                run.stop("not now")
    class Failing(Callback):
        def epoch(self, run, row):
            if ranks.size == 1 or ranks.rank == 1:
                raise OverflowError("here")
    file = {str(tmp_path)!r} + f"/{{ranks.size}}.csv"
    model = pair(pyrovae.mlp_ae)  # which draws nothing
    history = fit(model, epochs=9, optimizer="adamw", clip_norm=1.0, callbacks=[Second(), CSVLog(file)])
    found["weights"] = weights(model).tolist()
    found["losses"] = history.epochs.loss.values.tolist()
    found["stopped"] = history.config["stopped"]
    found["at once"] = fit(pair(pyrovae.mlp_ae), epochs=2, callbacks=[AtOnce()]).config["stopped"]
    try:
        fit(pair(pyrovae.mlp_ae), epochs=2, callbacks=[Failing()])
    except (OverflowError, RuntimeError) as error:
        found["error"] = str(error)
    """
    one, two = (in_processes(body, processes, tmp_path) for processes in (1, 2))
    assert one["at once"] == two["at once"] == "not now"
    assert one["stopped"] == two["stopped"] == "enough" and len(two["losses"]) == 2
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert two["error"] == "a callback of another process raised OverflowError: here"
    lines = [(tmp_path / f"{size}.csv").read_text().splitlines() for size in (1, 2)]
    assert len(lines[0]) == len(lines[1]) == 3


def test_a_classifier_hands_them_on_to_each_class():
    y = torch.arange(23) % 2
    noted = Noted()
    quiet_fit(classes((0, 1)), SOME.flatten(1), y, epochs=2, callbacks=[noted])
    assert noted.labels == [0, 1]
    assert [call[0] for call in noted.calls] == ["begin", "epoch", "epoch", "end"] * 2
