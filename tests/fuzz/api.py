"""Every public callable with hostile values of each argument: python tests/fuzz/api.py [--only NAME] [--share 1/4].

Each argument of each call in `calls.py` is given each value of `hostile.py`, the others as they are. A callable runs in
a process of its own. Printed are errors that are raw, those whose words are a library's (with --foreign), and calls
that nothing could interrupt. A call that goes on for `--seconds` of processor time, as a fit of 10^12 epochs may, is
interrupted as by Ctrl-C. All of them take about half an hour on one core; the exit status is 1 where one is raw.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import inspect
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

ROOM = 3 * 2**30  # bytes that the calls may take
HANGING = 60.0  # s of wall clock beyond an interrupt until a process is given up


class Interrupted(BaseException):
    """The call's time was up."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="calls whose names hold this")
    parser.add_argument("--value", default="", help="this value alone")
    parser.add_argument("--begin", default="", help="the first call whose name holds this, and those after it")
    parser.add_argument("--thin", type=int, default=1, help="one in so many values, others for each argument")
    parser.add_argument("--share", default="1/1", help="a part of the calls, as 2/4")
    parser.add_argument("--seconds", type=float, default=10.0, help="of processor time a call may take")
    parser.add_argument("--foreign", action="store_true", help="print errors in a library's words too")
    parser.add_argument("--trace", action="store_true", help="where raw errors come from")
    arguments = parser.parse_args()
    import calls
    import calls_of_methods

    assert calls_of_methods.ABSENT
    part, of = map(int, arguments.share.split("/"))
    known = list(calls.CALLS)
    first = next(i for i, name in enumerate(known) if arguments.begin in name)
    names = [name for i, name in enumerate(known[first:]) if arguments.only in name and i % of == part - 1]
    totals: collections.Counter[str] = collections.Counter()
    begin = time.monotonic()
    for name in names:
        totals += in_a_process(name, arguments)
        print(
            f"{name}: {sum(totals.values()):,} calls after {time.monotonic() - begin:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    print(
        ", ".join(f"{count:,} {kind}" for kind, count in sorted(totals.items())), f"of {sum(totals.values()):,} calls"
    )
    return 1 if totals["raw"] or totals["hung"] else 0


def in_a_process(name: str, arguments: argparse.Namespace) -> collections.Counter[str]:
    """The verdicts on one callable; its process is made again after a call that hung or that ended it."""
    counted: collections.Counter[str] = collections.Counter()
    start = 0
    while True:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                spoil(name, arguments, os.fdopen(writing, "w", buffering=1), start)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(status)
        os.close(writing)
        last, done = f"{name}: its first call", False
        with os.fdopen(reading) as lines:
            for line in lines:
                kind, _, words = line.rstrip("\n").partition("\t")
                if kind == "next":
                    last = words.partition(" ")[2]
                    start = int(words.partition(" ")[0]) + 1
                elif kind == "done":
                    done = True
                else:
                    counted[kind] += 1
        os.waitpid(child, 0)
        if done:
            return counted
        counted["hung"] += 1
        print(f"HUNG or died: {last}", flush=True)
        if start == 0:
            return counted


def spoil(name: str, arguments: argparse.Namespace, told: Any, start: int) -> None:
    """Each argument of a callable with each value, and what came of it, a line each."""
    import calls
    import calls_of_methods
    import hostile
    import torch

    assert calls_of_methods.ABSENT

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115

    def stop(*_: Any) -> None:
        raise Interrupted

    signal.signal(signal.SIGPROF, stop)
    with open("/proc/self/statm", encoding="utf-8") as pages:
        taken = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    function, values = calls.CALLS[name]()
    function(**values)  # the control: without a hostile value it works
    names = [
        key
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    names += [key for key in values if key not in names]
    number = -1
    for place, key in enumerate(names):
        for j, (word, make) in enumerate(hostile.VALUES.items()):
            number += 1
            if number < start or (arguments.value and word != arguments.value) or (place + j) % arguments.thin:
                continue
            told.write(f"next\t{number} {name}({key}={word})\n")
            function, values = calls.CALLS[name]()
            torch.manual_seed(0)
            kind, words = one(function, {**values, key: make()}, arguments.seconds, hostile.verdict)
            if kind == "raw" or (kind == "foreign" and arguments.foreign):
                print(f"{kind.upper()} {name}({key}={word}): {words}", flush=True)
                if arguments.trace:
                    print(LAST[0], flush=True)
            told.write(f"{kind}\t\n")
    told.write("done\t\n")


LAST = [""]


def one(function: Any, values: dict[str, Any], seconds: float, verdict: Any) -> tuple[str, str]:
    """What came of one call: "returned", "interrupted", or the verdict on its error with its words."""
    faulthandler.dump_traceback_later(seconds * 20 + HANGING, exit=True)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        function(**values)
    except Interrupted:
        return "interrupted", ""
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if isinstance(error.__cause__ or error.__context__, Interrupted):
            return "interrupted", ""
        LAST[0] = "".join(traceback.format_exception(error)[-6:])
        text = " ".join(str(error).split())[:160]
        return verdict(error), f"{type(error).__name__}: {text} [{place(error)}]"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        close_figures()
    return "returned", ""


def place(error: BaseException) -> str:
    """The innermost line of the package that the error passed."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if f"{os.sep}pyrovae{os.sep}" in file:
            found = f"{file.rpartition(f'{os.sep}pyrovae{os.sep}')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def close_figures() -> None:
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


if __name__ == "__main__":
    sys.exit(main())
