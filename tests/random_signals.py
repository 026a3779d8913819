"""Signals at random moments of fits, and what they leave: `python tests/random_signals.py`.

A process forks a child for each signal. The child fits a pair, is sent SIGINT or SIGTERM at a moment that is uniform
over the time that a fit takes, and says what it finds: whether the handlers, Pyro and torch are as before, whether the
pair is what an uninterrupted run had after as many batches as the history states, and whether the next fit has the bits
of a first one. Of `--first` children the fit is the first one of its process, in which torch imports a good part of
itself. `--second` children get a second Ctrl-C within 5 ms of the first, and `--start` calls of the command line a
signal between their start and their end. It says what was found, and exits with 1 where anything was wrong.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import signal
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

import pyrovae
from pyrovae import exclusive, interruption
from pyrovae.argument_checks import flags

X = (np.random.default_rng(0).random((64, 6)) < 0.5).astype("float32")
EPOCHS, BATCH = 4, 8
NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def built():
    torch.manual_seed(0)
    return pyrovae.mlp_vae((6,), hidden_dims=(8,))


def fitted(pair, **options):
    return pyrovae.fit(pair, X, epochs=EPOCHS, batch_size=BATCH, progress=False, compile=False, seed=1, **options)


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def state_of_the_process():
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
            [entry for entry in warnings.filters if type(entry[1]).__module__.startswith("pyrovae")],
            sorted(interruption._held | interruption._waiting),
            exclusive._lock._is_owned(),
            len(exclusive._bodies),
        ]
    )


def digests():
    """The weights before each batch of an uninterrupted fit, and at its end."""
    pair, found = built(), []
    model = pair.model

    def noting(*args, **options):
        if torch.is_grad_enabled() and pair.training:
            found.append(digest(pair.parameters()))
        return model(*args, **options)

    pair.model = noting
    fitted(pair)
    return [*found[-EPOCHS * len(X) // BATCH :], digest(pair.parameters())]


def child(tell, expected):
    """A fit that is sent a signal, and what is left of it."""
    warnings.simplefilter("ignore")
    pair = built()
    before = state_of_the_process()
    wrong, batches, error = [], None, None
    try:
        tell("begins")
        fitted(pair)
    except (KeyboardInterrupt, SystemExit) as caught:
        error = caught
    tell("ends")
    if error is not None:
        history = getattr(error, "history", None)
        if history is None:
            wrong.append("no history")
        elif "batches" in history.config:
            batches = history.config["batches"]
        elif len(history.epochs.epoch) == EPOCHS:
            batches = len(expected) - 1
        else:
            batches = 0
        if isinstance(error, SystemExit) and error.code != 143:
            wrong.append(f"exit status {error.code}")
        if batches is not None and digest(pair.parameters()) != expected[batches]:
            wrong.append(f"not the weights after {batches} batches")
    if state_of_the_process() != before:
        wrong.append(f"the state of the process: {state_of_the_process()} was {before}")
    try:
        again = built()
        fitted(again)
        if digest(again.parameters()) != expected[-1]:
            wrong.append("the next fit has other bits")
    except Exception as raised:
        wrong.append(f"the next fit raised {type(raised).__name__}: {raised}")
    tell(json.dumps({"wrong": wrong, "batches": batches, "error": type(error).__name__}))


def trial(number, delay, expected, second=None):
    """Fork a child, send it the signal so long after it begins; what it says, or how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        status = 1
        try:
            if second is not None:
                interruption.ONE = 0.0
            child(lambda line: os.write(write, line.encode() + b"\n"), expected)
            status = 0
        except BaseException as error:  # a signal after the fit
            with contextlib.suppress(BaseException):
                os.write(write, json.dumps({"late": type(error).__name__}).encode() + b"\n")
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as lines:
        lines.readline()
        start = time.monotonic()
        time.sleep(delay)
        for wait, each in ((0.0, number), *(() if second is None else ((second, number),))):
            time.sleep(wait)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, each)
        said = lines.read().split("\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if said[0] == "ends" and said[1]:
        told = json.loads(said[1])
    elif said[0] == "ends":  # by a signal that came after the fit
        told = {"late": status}
    else:
        told = {"wrong": [f"ended with {status} and said {said[0]}"]}
    return {**told, "status": status, "seconds": time.monotonic() - start}


def of_fits(count, end, expected, rng, span, *, with_second=False):
    found, wrong, batches = collections.Counter(), [], []
    for turn in range(count):
        if time.monotonic() > end:
            break
        number = signal.SIGINT if with_second else (signal.SIGINT, signal.SIGTERM)[turn % 2]
        delay = rng.uniform(0, span)
        told = trial(number, delay, expected, rng.uniform(0.0, 0.005) if with_second else None)
        if "late" in told:
            found["after the fit"] += 1
            continue
        found[f"{NAMES[number]}: {told.get('error')}"] += 1
        batches.append(told.get("batches"))
        its = [each for each in told["wrong"] if not (with_second and each.startswith("not the weights"))]
        if its:
            wrong.append((NAMES[number], round(delay, 3), its))
    inside = [n for n in batches if n is not None]
    say(
        f"  {dict(found)}; {sum(0 < n < EPOCHS * len(X) // BATCH for n in inside)} between two batches; "
        f"{len(wrong)} wrong",
    )
    for each in wrong[:10]:
        say(f"  {each}")
    return sum(found.values()), len(wrong)


def of_commands(count, end, rng, folder):
    """Signals to the command line, from before its imports to its end."""
    np.save(folder / "x.npy", X)
    command = [
        sys.executable,
        "-m",
        "pyrovae",
        "fit",
        str(folder / "x.npy"),
        "--model",
        "mlp_vae",
        "--hidden-dims",
        "8",
    ]
    command += ["--epochs", str(EPOCHS), "--batch-size", str(BATCH), "--likelihood", "bernoulli"]
    start = time.monotonic()
    assert not subprocess.run([*command, "--out", str(folder / "whole")], capture_output=True).returncode
    span = time.monotonic() - start
    whole = digest(pyrovae.load(folder / "whole").parameters())
    found, wrong = collections.Counter(), []
    for turn in range(count):
        if time.monotonic() > end:
            break
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        out = folder / f"run{turn}"
        process = subprocess.Popen(
            [*command, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        delay = rng.uniform(0.05, span)
        time.sleep(delay)
        process.send_signal(number)
        error = process.communicate()[1]
        status, lines = process.returncode, error.splitlines()
        speaks = [line for line in lines if line.startswith("pyrovae: ") and "warning" not in line]
        found[f"{NAMES[number]}: {status}"] += 1
        problem = None
        if status not in (0, 128 + number):
            problem = f"status {status}"
        elif status and ("Traceback" in error or len(speaks) != 1 or not lines[-1].startswith("pyrovae: ")):
            problem = "it says otherwise"
        elif status and ("--resume" in error) != any(out.glob("checkpoint/epoch-*")):
            problem = "it speaks of a run that is not there, or not of one that is"
        elif status:
            again = [*command[:4], "--resume", "--out"] if "--resume" in error else [*command, "--out"]
            done = subprocess.run([*again, str(out)], capture_output=True, text=True)
            if done.returncode or digest(pyrovae.load(out).parameters()) != whole:
                problem = f"and afterwards {done.stderr}"
        if problem is not None:
            wrong.append((NAMES[number], round(delay, 3), problem, error))
    say(f"  {dict(found)}; {len(wrong)} wrong")
    for each in wrong[:10]:
        say(f"  {each}")
    return sum(found.values()), len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, count in (("first", 100), ("later", 800), ("second", 60), ("start", 40)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which it ends")
    asked = parser.parse_args()
    rng, results = random.Random(asked.seed), []
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    assert callable(pyrovae.fit)  # imported: a signal before a fit is none of its own
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "digests.json"
        if not os.fork():  # so that this process has not trained
            table.write_text(json.dumps(digests()))
            os._exit(0)
        os.wait()
        expected = json.loads(table.read_text())
        end = time.monotonic() + 60 * asked.minutes
        if asked.first:
            span = trial(signal.SIGINT, 0.0, expected)["seconds"] * 1.2  # of a first fit, and of the one after it
            say(f"{asked.first} signals in the first fit of a process, over {span:.1f} s:")
            results.append(of_fits(asked.first, end, expected, rng, span))
        if asked.later or asked.second:
            fitted(built())  # what torch imports for a fit is there for all that follow
            start = time.monotonic()
            fitted(built())
            span = 1.2 * (time.monotonic() - start)
            say(f"{asked.second} times two Ctrl-C:")
            results.append(of_fits(asked.second, end, expected, rng, span, with_second=True))
            say(f"{asked.later} signals in a later fit, over {span:.2f} s:")
            results.append(of_fits(asked.later, end, expected, rng, span))
        if asked.start:
            say(f"{asked.start} signals to the command line:")
            results.append(of_commands(asked.start, end, rng, Path(folder)))
    done, wrong = (sum(each) for each in zip(*results, strict=True))
    say(f"{done} signals, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
