"""Signals that are held back: when their handlers run, and what is left of a fit, of Pyro and of torch by then."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine import runtime
from signal_cases import CASES, CLUSTERS, digest_of
from tqdm import tqdm

import pyrovae
from pyrovae import exclusive, interruption
from pyrovae.argument_checks import flags
from pyrovae.inference.svi.loop import Loop
from pyrovae.interruption import deliver, held, postponed, waits

X = (np.random.default_rng(0).random((40, 6)) < 0.5).astype("float32")
DEFAULT = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
FIT = {"epochs": 3, "batch_size": 8, "progress": False, "compile": False, "seed": 1}


@pytest.fixture(autouse=True)
def handlers_are_given_back(ctrl_c_is_heard):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    assert found == before
    assert not interruption._held and not interruption._waiting and not interruption._again


@contextlib.contextmanager
def handled(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        assert signal.signal(number, before) is handler


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


class TestHeld:
    def test_the_handlers_run_at_the_end_of_the_outermost_body(self):
        done = []
        with handled(signal.SIGINT, lambda *_: done.append("told")):
            with held():
                with held():
                    ctrl_c()
                    done.append("inner")
                done.append("outer")
            done.append("after")
        assert done == ["inner", "outer", "told", "after"]

    def test_without_it_the_handler_runs_at_once(self):  # the control of the one before
        done = []
        with handled(signal.SIGINT, lambda *_: done.append("told")):
            ctrl_c()
            done.append("after")
        assert done == ["told", "after"]

    def test_an_error_of_the_body_is_the_context_of_the_interrupt(self):
        with pytest.raises(KeyboardInterrupt) as raised, held():
            ctrl_c()
            raise ValueError("of the body")
        assert str(raised.value.__context__) == "of the body"

    def test_what_ends_the_process_waits_only_where_that_is_asked_for(self):
        with handled(signal.SIGTERM, signal.SIG_DFL):
            with held():
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            with pytest.raises(SystemExit) as raised, held(ends=True):
                signal.raise_signal(signal.SIGTERM)
            assert raised.value.code == 143

    def test_what_is_ignored_stays_so(self):
        with handled(signal.SIGINT, signal.SIG_IGN), held(ends=True):
            ctrl_c()
            assert not waits()

    def test_sigterm_is_told_before_an_interrupt(self):
        with handled(signal.SIGTERM, signal.SIG_DFL), pytest.raises(SystemExit), held(ends=True):
            ctrl_c()
            signal.raise_signal(signal.SIGTERM)

    def test_a_handler_that_is_set_in_the_body_stays(self):
        def mine(*_):
            pass

        before = signal.getsignal(signal.SIGINT)
        with held():
            found = signal.signal(signal.SIGINT, mine)
        assert signal.signal(signal.SIGINT, found) is mine
        with pytest.raises(KeyboardInterrupt):  # one that was taken for the caller's leads to it
            ctrl_c()
        with held():
            pass
        signal.signal(signal.SIGINT, before)

    def test_a_signal_to_another_process_of_the_work_is_told_here_too(self):
        with handled(signal.SIGTERM, signal.SIG_DFL), pytest.raises(SystemExit) as raised, held(ends=True):
            deliver((signal.SIGTERM,))
        assert raised.value.code == 143
        with handled(signal.SIGTERM, signal.SIG_IGN), held(ends=True):  # and not where it is ignored
            deliver((signal.SIGTERM,))

    def test_what_came_on_the_way_out_is_not_told_a_second_time(self):
        told = []

        def handler(number, _):
            told.append(number)
            raise KeyboardInterrupt

        with handled(signal.SIGTERM, handler), pytest.raises(KeyboardInterrupt), held():
            signal.raise_signal(signal.SIGTERM)
            try:
                deliver()
            finally:
                signal.raise_signal(signal.SIGTERM)
                ctrl_c()
        assert told == [signal.SIGTERM]
        with pytest.raises(SystemExit), handled(signal.SIGTERM, signal.SIG_DFL), held(ends=True):
            ctrl_c()
            try:
                deliver()
            finally:
                signal.raise_signal(signal.SIGTERM)  # which says more than a Ctrl-C

    def test_one_that_could_not_be_told_does_not_end_later_work(self):
        interruption._waiting.add(signal.SIGINT)  # as a handler that raises between the end of a body and its own call
        with held():
            deliver()

    def test_in_another_thread_it_does_nothing(self):
        found = []

        def body():
            with held(ends=True):
                found.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        assert found == [signal.getsignal(signal.SIGINT)]

    def test_a_forked_process_has_the_handlers_from_before(self):
        before = signal.getsignal(signal.SIGINT)
        with held():
            child = os.fork()
            if not child:
                os._exit(0 if signal.getsignal(signal.SIGINT) is before and not interruption._held else 1)
            assert os.waitpid(child, 0)[1] == 0


class TestSecond:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        monkeypatch.setattr(interruption, "ONE", 0.0)

    def test_it_leaves_the_body_at_once(self):
        done = []
        with pytest.raises(KeyboardInterrupt), held():
            ctrl_c()
            done.append("held")
            ctrl_c()
            done.append("never")
        assert done == ["held"]

    def test_two_within_a_tenth_of_a_second_are_one(self, monkeypatch):
        monkeypatch.setattr(interruption, "ONE", 10.0)
        done = []
        with pytest.raises(KeyboardInterrupt), held():
            ctrl_c()
            ctrl_c()
            done.append("held")
        assert done == ["held"]

    @pytest.mark.parametrize(("later", "count"), [(0.09, 1), (0.11, 2)])
    def test_the_tenth_of_a_second_is_by_the_clock(self, monkeypatch, later, count):
        monkeypatch.undo()  # to the package's own ONE
        times, told = iter([100.0, 100.0 + later]), []
        monkeypatch.setattr(interruption.time, "monotonic", lambda: next(times, 200.0))
        with handled(signal.SIGINT, lambda *_: told.append("told")):
            with held():
                ctrl_c()
                ctrl_c()
                assert len(told) == count - 1
            assert len(told) == 1

    def test_it_cuts_no_entering_and_no_leaving(self):
        done = []

        class Scope:
            def __enter__(self):
                ctrl_c()
                ctrl_c()
                done.append("entered")

            def __exit__(self, *_):
                done.append("left")

        with pytest.raises(KeyboardInterrupt), held(), Scope():
            time.sleep(10)
        assert done == ["entered", "left"]

    def test_it_cuts_no_import(self, tmp_path, monkeypatch):
        lines = "import signal\nsignal.raise_signal(2)\nsignal.raise_signal(2)\nWHOLE = True\n"
        (tmp_path / "cut_in_two.py").write_text(lines)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(KeyboardInterrupt), held():
            importlib.import_module("cut_in_two")
            time.sleep(10)
        assert sys.modules.pop("cut_in_two").WHOLE
        with pytest.raises(KeyboardInterrupt):  # the control: without it the module is not there
            importlib.import_module("cut_in_two")
        assert "cut_in_two" not in sys.modules

    def test_it_waits_no_longer_than_stated(self, monkeypatch):
        monkeypatch.setattr(interruption, "LONGEST", 0.02)

        class Endless:
            def __enter__(self):
                ctrl_c()
                ctrl_c()
                time.sleep(10)

            def __exit__(self, *_):
                pass

        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt), held(), Endless():
            pass
        assert time.monotonic() - start < 5


def test_a_postponed_signal_is_not_lost_in_a_body_that_ends_before_it_is_sent_again():
    with pytest.raises(KeyboardInterrupt), held():
        frame = type(
            "Frame", (), {"f_code": type("Code", (), {"co_name": "__exit__", "co_filename": ""}), "f_back": None}
        )
        assert postponed(signal.SIGINT, frame)


def test_a_turn_holds_signals():
    done = []
    with pytest.raises(KeyboardInterrupt), exclusive.exclusive():
        ctrl_c()
        done.append("whole")
    assert done == ["whole"]


# fits -----------------------------------------------------------------------------------------------


class Signalled(torch.nn.Module):
    """A linear VAE whose model calls `act` in training step `at`, inside of Pyro's handlers."""

    def __init__(self, at=0, act=ctrl_c):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.pair = pyrovae.mlp_vae((6,), hidden_dims=(4,))
        self.event_shape, self.latent_dim, self.is_normalized = self.pair.event_shape, self.pair.latent_dim, True
        self.steps, self.at, self.act = 0, at, act
        self.after = []

    def model(self, x=None, **options):
        z = self.pair.model(x, **options)
        if torch.is_grad_enabled() and self.training:
            self.steps += 1
            self.after.append([p.detach().clone() for p in self.parameters()])  # before this step
            if self.steps == self.at:
                self.act()
        return z

    def guide(self, x, **options):
        return self.pair.guide(x, **options)


def weights(pair):
    return [p.detach().clone() for p in pair.parameters()]


def same(first, second):
    return all(map(torch.equal, first, second))


def state_of_the_process():
    return [
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        exclusive._lock._is_owned(),
        len(exclusive._bodies),
        flags(),
        list(runtime._PYRO_STACK),
        list(runtime._DIM_ALLOCATOR._stack),
        dict(pyro.get_param_store()),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.random.get_rng_state().tolist(),
        torch._C._len_torch_dispatch_stack(),
    ]


@pytest.fixture(scope="module")
def whole():
    pair = Signalled()
    history = pyrovae.fit(pair, X, **FIT)
    return pair, history


@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
class TestFit:
    @pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
    def test_it_ends_with_the_batch_at_hand_and_the_next_one_is_as_ever(self, whole, number, error):
        before = state_of_the_process()
        pair = Signalled(at=8, act=lambda: signal.raise_signal(number))
        with handled(number, DEFAULT[number]), pytest.raises(error) as raised:
            pyrovae.fit(pair, X, **FIT)
        assert state_of_the_process() == before
        assert error is KeyboardInterrupt or raised.value.code == 143
        # steps 1 to 8 are whole: what the uninterrupted run had before its ninth, and not what it had before its eighth
        assert same(weights(pair), whole[0].after[8]) and not same(weights(pair), whole[0].after[7])
        history = raised.value.history
        assert history.epochs.loss.values.tolist() == whole[1].epochs.loss.values[:1].tolist()
        assert history.config["batches"] == 8
        assert history.config["stopped"] == f"interrupted by {error.__name__} after 3 batches of epoch 2"
        again = Signalled()
        assert pyrovae.fit(again, X, **FIT).epochs.loss.values.tolist() == whole[1].epochs.loss.values.tolist()
        assert same(weights(again), weights(whole[0]))

    def test_a_handler_that_returns_lets_it_go_on(self, whole):
        told = []
        pair = Signalled(at=8, act=lambda: signal.raise_signal(signal.SIGTERM))
        with handled(signal.SIGTERM, lambda *_: told.append(pair.steps)):
            history = pyrovae.fit(pair, X, **FIT)
        assert told == [8] and history.config["stopped"] is None
        assert same(weights(pair), weights(whole[0]))

    def test_a_handler_may_raise_what_it_likes(self):
        class MineError(Exception):
            pass

        def handler(*_):
            raise MineError

        pair = Signalled(at=2, act=lambda: signal.raise_signal(signal.SIGTERM))
        with handled(signal.SIGTERM, handler), pytest.raises(MineError) as raised:
            pyrovae.fit(pair, X, **FIT)
        assert raised.value.history.config["batches"] == 2

    def test_a_second_interrupt_leaves_at_once(self, monkeypatch, whole):
        inside = []

        def twice():
            inside.extend(state_of_the_process())
            ctrl_c()
            ctrl_c()
            raise AssertionError("never")

        monkeypatch.setattr(interruption, "ONE", 0.0)
        before = state_of_the_process()
        pair = Signalled(at=8, act=twice)
        with pytest.raises(KeyboardInterrupt) as raised:
            pyrovae.fit(pair, X, **FIT)
        assert state_of_the_process() == before
        differ = [one != other for one, other in zip(inside, before, strict=True)]
        assert all(differ[:3]) and sum(differ) >= 6  # the control: inside of the step it was another
        assert raised.value.history.epochs.sizes["epoch"] == 1
        again = Signalled()
        pyrovae.fit(again, X, **FIT)
        assert same(weights(again), weights(whole[0]))

    def test_an_error_that_comes_with_a_signal_does_not_hide_it(self):
        """As where Ctrl-C at a terminal ends the compiler too, which is a process of its own."""
        before = state_of_the_process()
        pair = Signalled(at=2, act=lambda: (ctrl_c(), 1 // 0))
        with pytest.raises(KeyboardInterrupt) as raised:
            pyrovae.fit(pair, X, **FIT)
        assert isinstance(raised.value.__cause__, ZeroDivisionError) and state_of_the_process() == before
        assert raised.value.history.config["stopped"] == "interrupted by KeyboardInterrupt"

    def test_a_second_sigterm_loses_no_history(self, whole):
        class Again(pyrovae.callbacks.Callback):
            def end(self, run):
                signal.raise_signal(signal.SIGTERM)

        pair = Signalled(at=8, act=lambda: signal.raise_signal(signal.SIGINT))
        with handled(signal.SIGTERM, signal.SIG_DFL), pytest.raises(SystemExit) as raised:
            pyrovae.fit(pair, X, **FIT, callbacks=[Again()])
        assert raised.value.code == 143 and raised.value.history.config["batches"] == 8

    def test_one_in_a_callback_comes_after_the_epoch(self, whole):
        class Asks(pyrovae.callbacks.Callback):
            def epoch(self, run, row):
                ctrl_c()

        pair = Signalled()
        with pytest.raises(KeyboardInterrupt) as raised:
            pyrovae.fit(pair, X, **FIT, callbacks=[Asks()])
        assert raised.value.history.epochs.sizes["epoch"] == 1
        assert same(weights(pair), whole[0].after[5])

    def test_in_another_thread_a_fit_takes_no_notice(self, whole):
        pair, found = Signalled(), []
        thread = threading.Thread(target=lambda: found.append(pyrovae.fit(pair, X, **FIT)))
        with handled(signal.SIGINT, lambda *_: found.append("told")):
            thread.start()
            ctrl_c()
            thread.join()
        assert found[0] == "told" and same(weights(pair), weights(whole[0]))


def signalled(function, at, number):
    """The function, in whose call `at` a signal comes."""
    calls = [0]

    def call(*args, **options):
        calls[0] += 1
        if calls[0] == at:
            signal.raise_signal(number)
        return function(*args, **options)

    return call


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.filterwarnings("ignore:EM has not converged")
class TestMethods:
    """What an uninterrupted run of the method says is right, and what may be left, is in `signal_cases.py`."""

    @pytest.mark.parametrize(
        ("name", "at", "number"),
        [
            ("em", 20, signal.SIGINT),
            slow("em", 1, signal.SIGTERM),
            slow("columns", 100, signal.SIGTERM),
            slow("linear", 5, signal.SIGTERM),
            slow("classes", 5, signal.SIGTERM),
            slow("classes", 60, signal.SIGINT),
            slow("bayesian", 5, signal.SIGINT),
            slow("nuts", 4, signal.SIGTERM),
        ],
    )
    def test_the_best_so_far_is_kept_and_the_next_fit_is_as_ever(self, monkeypatch, name, at, number):
        case, before = CASES[name], state_of_the_process()
        expected, pair = case.expected(), case.build()
        error = KeyboardInterrupt if number == signal.SIGINT else SystemExit
        with monkeypatch.context() as patch, handled(signal.SIGTERM, signal.SIG_DFL):
            if name == "bayesian":  # and not the EM that it starts from
                patch.setattr(Loop, "step", signalled(Loop.step, at, number))
            else:
                patch.setattr(tqdm, "update", signalled(tqdm.update, at, number))
            with pytest.raises(error) as raised:
                case.work(pair, None)
        history = raised.value.history
        assert history.config["stopped"].startswith(f"interrupted by {error.__name__}")
        assert not case.wrong_with(pair, history, expected, None, is_second=False)
        is_kept = name not in ("nuts", "lbfgs")
        assert (digest_of(pair) != expected["before"]) == is_kept
        assert digest_of(pair) != expected["final"] or name in ("em", "columns")  # of which a start may be the best one
        again = case.build()
        case.work(again, None)
        assert digest_of(again) == expected["final"] and state_of_the_process()[:-2] == before[:-2]

    def test_em_of_unlabelled_items_keeps_its_last_iteration(self, monkeypatch):
        classifier = pyrovae.gaussian_classifier((2,), 2).double()
        x, y = CLUSTERS[:120], np.repeat([0, 1], 60)
        monkeypatch.setattr(tqdm, "update", signalled(tqdm.update, 3, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt) as raised:
            pyrovae.fit(classifier, x[::4], y[::4], unlabeled=x, tol=0.0, progress=False)
        three = pyrovae.gaussian_classifier((2,), 2).double()
        monkeypatch.undo()
        with pytest.warns(UserWarning, match="has not converged"):
            pyrovae.fit(three, x[::4], y[::4], unlabeled=x, tol=0.0, max_iterations=3, progress=False)
        assert digest_of(classifier) == digest_of(three)
        history = raised.value.history
        assert len(history.epochs.epoch) == 3 and history.config["stopped"] == "interrupted by KeyboardInterrupt"

    @pytest.mark.parametrize("method", [slow("nuts"), "svi"])
    def test_the_history_of_a_start_is_not_that_of_the_fit(self, monkeypatch, method):
        pair = pyrovae.BayesianGaussianMixture((2,), 2)
        before = digest_of(pair)
        monkeypatch.setattr(tqdm, "update", signalled(tqdm.update, 2, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt) as raised:
            pyrovae.fit(pair, CLUSTERS, method=method, progress=False)
        assert digest_of(pair) == before and not raised.value.history.epochs.sizes["epoch"]
        assert raised.value.history.config == {"stopped": "interrupted by KeyboardInterrupt"}


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by a signal")])
def test_the_command_line_may_be_left_while_it_is_imported(number, said):
    """The signal comes as click is looked for; without `main`'s handler that is a traceback, or -15."""
    program = f"""
    import signal, sys

    class Finder:
        def find_spec(self, name, *_):
            if name == "click":
                signal.raise_signal({int(number)})

    sys.meta_path.insert(0, Finder())
    from pyrovae.__main__ import main
    sys.exit(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"pyrovae: {said}\n")


@pytest.mark.slow
def test_the_command_line_may_be_left_while_it_imports_torch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    program = f"""
    import signal, sys

    class Finder:
        def find_spec(self, name, *_):
            if name == "torch.nn":
                signal.raise_signal(2)

    sys.meta_path.insert(0, Finder())
    from pyrovae.__main__ import main
    sys.argv = ["pyrovae", "fit", {str(tmp_path / "x.npy")!r}, "--out", {str(tmp_path / "run")!r}]
    sys.exit(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 130 and done.stderr.strip() == "pyrovae: interrupted"
    assert not (tmp_path / "run").exists()


def at_random(*asked):
    script = Path(__file__).with_name("random_signals.py")
    done = subprocess.run([sys.executable, str(script), *asked], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_few_signals_at_random_moments():
    at_random("--counts", "svi=3", "checkpoint=2", "em=2", "second svi=2")


@pytest.mark.long
def test_a_thousand_signals_at_random_moments():
    at_random()


def test_a_search_leaves_the_classifier_as_it_was(monkeypatch):
    classifier = pyrovae.DiscriminativeClassifier((6,), 2, hidden_dims=())
    before, forward = weights(classifier), torch.nn.functional.cross_entropy

    def interrupted(*args, **options):
        ctrl_c()
        return forward(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        pyrovae.fit(classifier, X, (X[:, 0] > 0).astype(int), progress=False)
    assert raised.value.history.epochs.sizes["epoch"] == 0 and same(weights(classifier), before)
    assert raised.value.history.config["stopped"] == "interrupted by KeyboardInterrupt"


def test_an_estimator_gives_all_back():
    pair = Signalled()
    model, before = pair.pair.model, state_of_the_process()

    def interrupted(*args, **options):
        if not torch.is_grad_enabled() and not args[0].requires_grad:
            ctrl_c()
        return model(*args, **options)

    pair.pair.model = interrupted
    with pytest.raises(KeyboardInterrupt):
        pyrovae.iwae(pair, X, num_particles=3)
    del pair.pair.model
    assert state_of_the_process() == before
    pyrovae.iwae(pair, X, num_particles=3)
