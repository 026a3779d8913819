"""Values that no argument should break on, each made anew for a call, and what counts as a raw error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyrovae

__all__ = ["VALUES", "verdict"]

PACKAGE = os.path.join(os.path.dirname(pyrovae.__file__), "")


def _endless() -> list[Any]:
    holds_itself: list[Any] = []
    holds_itself.append(holds_itself)
    return holds_itself


def _in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return torch.rand(12, 4)


class _Refuses:
    """An object none of whose attributes can be asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} of a hostile object")


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "0.5": lambda: 0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "10**12": lambda: 10**12,
    "10**30": lambda: 10**30,
    "-10**30": lambda: -(10**30),
    "1e300": lambda: 1e300,
    "1j": lambda: 1j,
    "''": lambda: "",
    "a word": lambda: "nonsense",
    "a NUL": lambda: "a\0b",
    "a surrogate": lambda: "\ud800",
    "nobody's home": lambda: "~nouser/x",
    "a long word": lambda: "x" * 100_000,
    "bytes": lambda: b"abc",
    "()": lambda: (),
    "[]": lambda: [],
    "[[]]": lambda: [[]],
    "[None]": lambda: [None],
    "[nan]": lambda: [math.nan],
    "words": lambda: ["a", "b"],
    "ragged": lambda: [[1.0], [1.0, 2.0]],
    "holds itself": _endless,
    "{}": lambda: {},
    "a dict": lambda: {"a": 1},
    "a set": lambda: {1, 2},
    "object": lambda: object(),
    "refuses": _Refuses,
    "a function": lambda: lambda *args, **kwargs: None,
    "a generator": lambda: (i for i in range(3)),
    "a class": lambda: dict,
    "a path": lambda: Path("nowhere/x"),
    "no items": lambda: np.zeros((0, 4)),
    "a number in an array": lambda: np.array(0.5),
    "an array of words": lambda: np.array(["a"] * 12),
    "an array of objects": lambda: np.array([None] * 12, dtype=object),
    "dates": lambda: np.zeros(12, "M8[s]"),
    "records": lambda: np.zeros(12, [("a", "f4")]),
    "items": lambda: torch.linspace(0, 1, 48).reshape(12, 4),
    "items of NaN": lambda: np.full((12, 4), np.nan),
    "items of 1e300": lambda: np.broadcast_to(1e300, (12, 4)),
    "many axes": lambda: np.zeros((1,) * 20),
    "a large view": lambda: np.broadcast_to(np.float32(0.5), (10**9, 4)),
    "labels": lambda: torch.arange(12) % 2,
    "labels of 2**62": lambda: torch.full((12,), 2**62),
    "meta": lambda: torch.empty(12, 4, device="meta"),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.rand(12, 4), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
    "complex": lambda: torch.rand(12, 4) + 1j,
    "float8": lambda: torch.rand(12, 4).to(torch.float8_e4m3fn),
    "of inference mode": _in_inference_mode,
    "a module": lambda: torch.nn.Linear(2, 2),
    "a pair": lambda: pyrovae.linear_vae(3, 1),
    "a recipe of another type": lambda: pyrovae.Normal(),
}

TYPED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError, IndexError)


def verdict(error: BaseException) -> str:
    """Whether an error is the package's own sentence, a library's, or raw.

    "own": a class of which the user is told by a `raise` of the package (or by Python at the call itself).
    "foreign": ValueError or TypeError that a library raised, whose words know nothing of the argument.
    "raw": anything else, as RuntimeError from torch's depths, AttributeError, KeyError, RecursionError.
    """
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    inside = any(frame.startswith(PACKAGE) for frame in frames)
    if "a hostile object" in str(error) or 'missing the required "forward" function' in str(error):
        return "own"  # of the object's own making, as a module's that is called without having a forward
    is_own = bool(frames) and frames[-1].startswith(PACKAGE) and _is_by_raise(error)
    if is_own and isinstance(error, (*TYPED, RuntimeError, AttributeError, NotImplementedError)):
        return "own"
    if not inside and isinstance(error, TypeError):
        return "own"  # an argument that Python itself refuses
    if isinstance(error, OSError) and error.errno is not None:
        return "own"
    return "foreign" if isinstance(error, (ValueError, TypeError, ImportError, MemoryError)) else "raw"


def _is_by_raise(error: BaseException) -> bool:
    import dis

    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return bool(trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"])
