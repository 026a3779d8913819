"""Processes of their own for what a test runs, forked from one that has imported already what takes long."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["forked"]

IMPORTED = [  # each process took five seconds of its processor for these
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "pyro.infer.autoguide",
    "pyrovae.models",
    "pyrovae.inference",
    "pyrovae.evaluation",
    "pyrovae.compile",
    "pyrovae.export",
    "arviz",
    "matplotlib.pyplot",
    "sklearn.mixture",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def forked(
    work: Callable[..., object], *given: Any, folder: Path, environment: Mapping[str, str], timeout: float = 600.0
) -> subprocess.CompletedProcess[str]:
    """Call a function of a module in a process of its own in the folder, which ignores warnings; what it printed.

    `environment` is put over that of the tests.
    """
    streams = folder / "stdout.txt", folder / "stderr.txt"
    process = _context.Process(target=_run, args=(work, given, folder, os.environ | environment, streams))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(str(work), timeout)
    return subprocess.CompletedProcess([], process.exitcode, *(stream.read_text() for stream in streams))


def _run(
    work: Callable[..., object],
    given: tuple[Any, ...],
    folder: Path,
    environment: Mapping[str, str],
    streams: tuple[Path, Path],
) -> None:
    for number, stream in enumerate(streams, start=1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = [""]
    warnings.simplefilter("ignore")
    work(*given)
