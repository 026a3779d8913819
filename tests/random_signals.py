"""Signals at random moments of fits, and what they leave: `python tests/random_signals.py`.

A process forks a child for each signal. The child does a piece of work of `signal_cases.py`, is sent SIGINT or SIGTERM
at a moment that is uniform over the time that it takes, and says what it finds: whether the handlers, Pyro and torch
are as before, whether the pair is what an uninterrupted run had after as many batches as the history states, or the
best start of EM so far, whether a folder goes on to the same bits and no batch is lost, and whether the next fit has
the bits of a first one. `first` is a fit that is the first one of its process, in which torch imports a good part of
itself. `second` pieces get a second Ctrl-C within 5 ms of the first. `command` is the command line, from before its
imports to its end. It says what was found by the place where the signal came, and exits with 1 where anything is wrong.

    python tests/random_signals.py --log found.jsonl                        # all; goes on where the log ends
    python tests/random_signals.py --log found.jsonl --minutes 5 --seed 3   # for no longer than that
    python tests/random_signals.py --counts svi=20 em=20
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.poutine import runtime
from signal_cases import CASES, X, digest, digest_of

import pyrovae
from pyrovae import exclusive, interruption
from pyrovae.argument_checks import flags
from pyrovae.inference.history import History

COUNTS = {
    "first svi": 50,
    "first em": 20,
    "svi": 220,
    "validation": 80,
    "checkpoint": 140,
    "semi_supervised": 50,
    "bayesian": 30,
    "em": 80,
    "columns": 30,
    "linear": 50,
    "classes": 40,
    "lbfgs": 50,
    "nuts": 20,
    "iwae": 30,
    "second svi": 40,
    "second checkpoint": 20,
    "second em": 10,
    "compiled": 8,
    "second compiled": 2,
    "command": 30,
}
NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
BOTH = (signal.SIGINT, signal.SIGTERM)
PLACES = {  # by what is in a path of the stack, the first that is
    "<frozen importlib": "an import",
    "torch/_inductor/": "the compiler",
    "torch/fx/": "the compiler",
    "pyrovae/compile/": "a compiled step, or its making",
    "pyrovae/inference/checkpoint/": "the writing of a state",
    "pyrovae/inference/snapshots": "the writing of a state",
    "pyrovae/durable": "the writing of a state",
    "site-packages/pyro/": "Pyro",
    "svi/validation": "the validation",
    "inference/em/": "EM",
    "scipy/": "SciPy",
}
COMMAND = (
    "--model",
    "mlp_vae",
    "--hidden-dims",
    "8",
    "--epochs",
    "200",
    "--batch-size",
    "8",
    "--checkpoint-every",
    "8",
)


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def state_of_the_process():
    """All that a fit changes for the whole process, in words."""
    return repr(
        [
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            flags(),
            list(runtime._PYRO_STACK),
            list(runtime._DIM_ALLOCATOR._stack),
            dict(pyro.get_param_store()),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            digest([torch.random.get_rng_state()]),
            torch._C._len_torch_dispatch_stack(),
            torch._C._len_torch_function_stack(),
            torch._guards.TracingContext.try_get(),
            [entry for entry in warnings.filters if type(entry[1]).__module__.startswith("pyrovae")],
            sorted(interruption._held | interruption._waiting),
            sorted(interruption._again),
            exclusive._lock._is_owned(),
            exclusive._queue.locked(),
            len(exclusive._bodies),
        ]
    )


def place_of(frame):
    """Where a signal has come, in words."""
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    word = next((word for part, word in PLACES.items() if any(part in file for file in files)), "elsewhere")
    is_in_fit = any(file.endswith("pyrovae/inference/interrupted.py") for file in files)
    return word if is_in_fit else f"{word} before the fit"


def child(tell, name, expected, folder, *, is_second):
    """Work that is sent a signal, and what is left of it."""
    case, note, places = CASES[name], interruption._note, []

    def noting(number, frame):
        places.append(place_of(frame))
        if len(places) == 1:
            tell("noted")
        note(number, frame)

    interruption._note = noting
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pair = case.build()
    before = state_of_the_process()
    wrong, error, found = [], None, None
    try:
        tell("begins")
        found = case.work(pair, folder)
    except (KeyboardInterrupt, SystemExit) as caught:
        error = caught
    tell("ends")
    if name == "iwae" and isinstance(error, KeyboardInterrupt) and not places:
        places.append("an evaluation, at once")  # which holds no signal back but in pieces
    history = found if error is None else getattr(error, "history", None)
    has_begun = places and "before" not in places[0]
    if error is not None and has_begun and history is None and name != "iwae":
        wrong.append("no history")
    if isinstance(error, SystemExit) and error.code != 143:
        wrong.append(f"exit status {error.code}")
    if state_of_the_process() != before:
        wrong.append(f"the state of the process: {state_of_the_process()} was {before}")
    seconds = None
    try:
        if places:
            history = History.from_rows([], {}) if history is None else history
            wrong += case.wrong_with(pair, history, expected, folder, is_second=is_second)
        again, start = case.build(), time.monotonic()
        case.work(again, None)
        seconds = time.monotonic() - start
        if digest_of(again) != expected["final"]:
            wrong.append("the next fit has other bits")
    except Exception as raised:
        wrong.append(f"afterwards {type(raised).__name__}: {raised}")
    of_history = {} if not isinstance(history, History) else history.config
    tell(
        json.dumps(
            {
                "wrong": wrong,
                "place": places[0] if places else "outside",
                "ended": type(error).__name__,
                "batches": of_history.get("batches"),
                "seconds": seconds,
            }
        )
    )


def trial(name, number, delay, expected, second=None):
    """Fork a child, send it the signal so long after it begins; what it says, or how it ended."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if not pid:
            os.close(read)
            os.setpgid(0, 0)
            status = 1
            try:
                if second is not None:
                    interruption.ONE = 0.0
                lines = lambda line: os.write(write, line.encode() + b"\n")  # noqa: E731
                child(lines, name, expected, Path(folder), is_second=second is not None)
                status = 0
            except BaseException as error:  # a signal after the fit
                with contextlib.suppress(BaseException):
                    os.write(write, json.dumps({"late": type(error).__name__}).encode() + b"\n")
            finally:
                os._exit(status)
        os.close(write)
        with open(read) as lines:
            lines.readline()
            time.sleep(delay)
            for wait in (0.0, *(() if second is None else (second,))):
                time.sleep(wait)
                with contextlib.suppress(ProcessLookupError):
                    if name == "compiled" and number == signal.SIGINT:
                        os.killpg(pid, number)  # as a terminal does: the compiler's processes get it too
                    else:
                        os.kill(pid, number)
            said = lines.read().split("\n")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    was_noted = said[0] == "noted"
    said = [line for line in said if line and line != "noted"]
    if said[:1] == ["ends"] and len(said) > 1:
        return json.loads(said[1])
    if not was_noted:  # by a signal that came before or after the work
        return {"late": status}
    return {"wrong": [f"ended with {status} and said {said}"], "place": "unknown", "ended": str(status)}


def of_work(kind, count, keeps, rng, end):
    """So many signals in one kind of work; what each of them has left goes to `keeps`."""
    is_second, is_first, name = kind.startswith("second "), kind.startswith("first "), kind.split()[-1]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "expected.json"
        if not os.fork():  # so that this process has not trained
            found, start = CASES[name].expected(), time.monotonic()
            if not is_first:
                CASES[name].work(CASES[name].build(), None)
            table.write_text(json.dumps({**found, "seconds": 6.0 if is_first else time.monotonic() - start}))
            os._exit(0)
        os.wait()
        expected = json.loads(table.read_text())
    if not is_first and name != "compiled":
        CASES[name].work(CASES[name].build(), None)
    spans, done = [], 0
    while done < count and time.monotonic() < end:
        number = signal.SIGINT if is_second or name == "iwae" else BOTH[done % 2]  # SIGTERM ends an evaluation at once
        span = 1.05 * statistics.median(spans[-20:]) if spans else expected["seconds"]
        delay = rng.uniform(0, span)
        told = trial(name, number, delay, expected, rng.uniform(0.0, 0.005) if is_second else None)
        if told.get("seconds") and not is_first:
            spans.append(told["seconds"])
        if ("late" in told or told["place"] == "outside") and not told.get("wrong"):
            continue
        done += 1
        keeps({"kind": kind, "signal": NAMES[number], "delay": delay, **told})


def of_commands(kind, count, keeps, rng, end):
    """Signals to the command line, from before its imports to its end."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        np.save(folder / "x.npy", X)
        begins = [sys.executable, "-m", "pyrovae", "fit"]
        command = [*begins, str(folder / "x.npy"), *COMMAND, "--likelihood", "bernoulli"]
        start = time.monotonic()
        asked = [*command, "--out", str(folder / "whole")]
        assert not subprocess.run(asked, capture_output=True).returncode
        span = time.monotonic() - start
        whole = digest(pyrovae.load(folder / "whole").parameters())
        for turn in range(count):
            if time.monotonic() > end:
                break
            number, out, delay = BOTH[turn % 2], folder / f"run{turn}", rng.uniform(0.05, span)
            process = subprocess.Popen(
                [*command, "--out", str(out)],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            time.sleep(delay)
            process.send_signal(number)
            error = process.communicate()[1]
            status = process.returncode
            is_early = status == -number and delay < 0.5 and "pyrovae/cli" not in error and not out.exists()
            problem = None if is_early else wrong_with_command(status, number, error, out)
            place = "after its end" if not status else "before it writes" if not out.exists() else "with a state"
            if is_early:  # the package is not there yet
                place = "the start of Python itself"
            elif status and problem is None:
                again = [*begins, "--resume", "--out"] if "--resume" in error else [*command, "--out"]
                place = place if "--resume" in error or not out.exists() else "before its first state"
                done = subprocess.run([*again, str(out)], capture_output=True, text=True)
                if done.returncode or digest(pyrovae.load(out).parameters()) != whole:
                    problem = f"and afterwards {done.stderr}"
            wrong = [] if problem is None else [f"{problem}: {error}"]
            told = {"place": place, "ended": str(status), "wrong": wrong}
            keeps({"kind": kind, "signal": NAMES[number], "delay": delay, **told})


def wrong_with_command(status, number, error, out):
    """A sentence on how a command has ended that was sent a signal; None where all is well."""
    lines = error.splitlines()
    if status not in (0, 128 + number):
        return f"status {status}"
    speaks = [line for line in lines if line.startswith("pyrovae: ") and "warning" not in line]
    if status and ("Traceback" in error or len(speaks) != 1 or not lines[-1].startswith("pyrovae: ")):
        return "it says otherwise"
    if status and ("--resume" in error) != any(out.glob("checkpoint/epoch-*")):
        return "it speaks of a run that is not there, or not of one that is"
    return None


def summary(found):
    """What was found, by kind and place; the number of what was wrong."""
    for kind in dict.fromkeys(each["kind"] for each in found):
        own = [each for each in found if each["kind"] == kind]
        places = collections.Counter(each["place"] for each in own)
        ended = collections.Counter(f"{each['signal']}: {each['ended']}" for each in own)
        wrong = sum(bool(each["wrong"]) for each in own)
        say(f"{kind}: {len(own)} signals, {wrong} wrong; {dict(ended)}; in {dict(places)}")
    wrong = [each for each in found if each["wrong"]]
    for each in wrong[:20]:
        say(f"  {each}")
    say(f"{len(found)} signals, {len(wrong)} wrong")
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", help="how many signals of which kind, as `svi=20 'second em=5'`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which it ends")
    parser.add_argument("--log", type=Path, help="a file with a line for each signal; those in it are not sent again")
    asked = parser.parse_args()
    given = [each.rsplit("=", 1) for each in asked.counts or ()]
    counts = {kind: int(count) for kind, count in given} or COUNTS
    end = time.monotonic() + 60 * asked.minutes
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log" if asked.log is None else asked.log

        def keeps(told):
            with log.open("a") as lines:
                lines.write(json.dumps(told) + "\n")

        def found():
            return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

        is_warm = False
        for kind, count in counts.items():
            if not is_warm and kind != "command" and not kind.startswith("first "):
                CASES["svi"].work(
                    CASES["svi"].build(), None
                )  # what torch imports for a fit is there for all that follow
                is_warm = True
            left = count - sum(each["kind"] == kind for each in found())
            if left > 0 and not os.fork():  # a process of its own, which has not trained
                status = 1
                try:
                    act = of_commands if kind == "command" else of_work
                    act(kind, left, keeps, random.Random(f"{asked.seed} {kind} {left}"), end)
                    status = 0
                finally:
                    os._exit(status)
            if left > 0 and os.wait()[1]:
                raise SystemExit(f"{kind}: its process has failed")
        return int(bool(summary([each for each in found() if each["kind"] in counts])))


if __name__ == "__main__":
    sys.exit(main())
