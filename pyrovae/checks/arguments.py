"""Single arguments: numbers, words, sizes, seeds, paths and devices; and warnings at the caller's line."""

from __future__ import annotations

import difflib
import errno
import inspect
import math
import numbers
import operator
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae
from pyrovae.checks.allocation import affordable
from pyrovae.checks.shown import short
from pyrovae.warned import Gathered, teller

__all__ = [
    "LARGEST",
    "MOST",
    "SEEDS",
    "choice",
    "device",
    "keywords",
    "near",
    "number",
    "options",
    "path",
    "positive",
    "probability",
    "scale_in",
    "seed",
    "sequence",
    "sizes",
    "warn",
    "whole",
]

MOST = 2**63 - 1  # what torch and NumPy count with
LARGEST = torch.finfo(torch.float32).max

ELSEWHERE = {  # what other libraries call an argument, and what it is called here
    "lr": ("learning_rate",),
    "batch": ("batch_size",),
    "max_iter": ("max_iterations",),
    "n_init": ("num_restarts",),
    "n_samples": ("num_particles", "num_draws", "n"),
    "num_samples": ("num_particles", "num_draws", "n"),
    "k": ("num_components", "num_particles"),
    "random_state": ("seed",),
    "reg_covar": ("floor", "relative_floor"),
    "sample_weight": ("weight",),
    "verbose": ("progress",),
    "validation_data": ("validation",),
    "n_latent": ("latent_dim",),
    "z_dim": ("latent_dim",),
}

SEEDS = 2**128  # as many bits as NumPy draws for a seed of its own


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; otherwise list them and name the closest.

    >>> from pyrovae.checks import choice
    >>> choice("schedule", "cosine", ["constant", "cosine"])
    'cosine'
    >>> choice("schedule", "cosin", ["constant", "cosine"])
    Traceback (most recent call last):
        ...
    ValueError: schedule must be one of 'constant', 'cosine', got 'cosin'; did you mean 'cosine'?
    """
    known = list(options)
    if isinstance(value, str) and value in known:
        return value
    close = difflib.get_close_matches(str(value).lower(), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {short(value)}{hint}")


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the argument that was meant, as the end of a clause; nothing where none is near.

    >>> from pyrovae.checks import near
    >>> near("n_components", ["columns", "num_components"]), near("lr", ["epochs", "learning_rate"]), near("q", ["x"])
    ("; did you mean 'num_components'?", "; did you mean 'learning_rate'?", '')
    """
    names = list(known)
    close = [each for each in ELSEWHERE.get(name, ()) if each in names] or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def keywords(function: Any, given: Iterable[str], called: str) -> None:
    """Refuse a keyword that a function does not have, with the nearest of those that it has.

    Raises TypeError, as Python does of such a call, which says no more than that.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY and each.name != "self"]
    for name in given:
        if name not in known:
            hint = near(name, known) or f"; it takes {', '.join(known) or 'none'}"
            raise TypeError(f"{called} has no argument {name!r}{hint}")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside the package that led here, or tell whoever gathers warnings."""
    if (tell := teller()) is not None:
        tell(Gathered(message, category))
        return
    homes = tuple(os.path.join(home, "") for home in (os.path.dirname(pyrovae.__file__), torch.__path__[0]))
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(homes):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def whole(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int = MOST,
    bytes_each: int = 0,
    device: torch.device | None = None,
) -> int:
    """Return `value` as an int of at least `least` and at most `most`.

    `bytes_each`: what one of that many takes; a number of them that `device` cannot hold is refused (`affordable`).

    >>> from pyrovae.checks import whole
    >>> whole("latent_dim", 0)
    Traceback (most recent call last):
        ...
    ValueError: latent_dim must be an integer of at least 1, got 0
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer of at least {least}, got {short(value)}") from None
    if result < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {result}")
    if result > most:
        bound = f"{most:,}" if most < 2**31 else f"2^{most.bit_length()} - 1"
        raise ValueError(f"{name} must be an integer of at most {bound}, got {short(result)}")
    affordable(f"{name}={result:,}", result * bytes_each, "take a smaller number", device=device)
    return result


def seed(value: Any, name: str = "seed", *, most: int = SEEDS - 1) -> int:
    """Return a seed as an int: from 0 to 2^128 - 1, or to `most` where another library's generator takes it as it is.

    >>> from pyrovae.checks import seed
    >>> seed(2**64, most=2**64 - 1)
    Traceback (most recent call last):
        ...
    ValueError: seed must be an integer of at most 2^64 - 1, got 18446744073709551616
    """
    return whole(name, value, least=0, most=most)


def path(name: str, value: Any) -> Path:
    """Return `value` as a path, a leading ~ as the home folder; what no file system can hold is refused.

    >>> from pyrovae.checks import path
    >>> path("checkpoint", "a\\0b")
    Traceback (most recent call last):
        ...
    ValueError: checkpoint must be the path of a file or folder, got 'a\\x00b', which holds a NUL character
    """
    expected = f"{name} must be the path of a file or folder, got {short(value)}"
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(expected)
    if not text:
        raise ValueError(expected)
    if "\0" in text:
        raise ValueError(f"{expected}, which holds a NUL character")
    try:
        resolved = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{expected}, and this machine has no user of that name, so no home folder") from None
    try:
        os.lstat(resolved)
    except UnicodeEncodeError:
        raise ValueError(f"{expected}, which has characters that no file's name can have here") from None
    except OSError as error:  # no such file, or none that may be looked at, is for the caller to judge
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
            raise ValueError(f"{expected}: {error.strerror}") from None
    return resolved


def sizes(name: str, value: Any, *, one: bool = True) -> tuple[int, ...]:
    """Return a shape or list of widths as ints of at least 1; an empty one is refused where `one` is needed.

    >>> from pyrovae.checks import sizes
    >>> sizes("event_shape", [1, 28, 28])
    (1, 28, 28)
    >>> sizes("event_shape", 8)
    Traceback (most recent call last):
        ...
    TypeError: event_shape must be a sequence of sizes such as (8,), got 8
    """
    counts = tuple(whole(name, size) for size in sequence(name, value))
    if one and not counts:
        raise ValueError(f"{name} must name at least one size, got (); an item of one number has shape (1,)")
    return counts


def sequence(name: str, value: Any, what: str = "a sequence of sizes such as (8,)") -> Sequence[Any]:
    """Return a shape, a list of widths or `what` else as it is, its entries not looked at."""
    # bytes are a sequence of integers too, and nobody means a shape by them
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Sequence):
        hint = f"; tuple({name}) makes one" if isinstance(value, np.ndarray | Tensor) and value.ndim == 1 else ""
        raise TypeError(f"{name} must be {what}, got {short(value)}{hint}")
    return value


def number(name: str, value: Any, *, most: float = math.inf) -> float:
    """Return `value` as a finite float, at most `most` from zero.

    >>> from pyrovae.checks import number
    >>> number("prior_loc", "mean")
    Traceback (most recent call last):
        ...
    TypeError: prior_loc must be a finite number, got 'mean'
    """
    result = _finite(name, value, "a finite number")
    _within(name, abs(result), value, most)
    return result


def options(name: str, value: Any) -> dict[str, Any]:
    """Return keyword arguments as a dict, an empty one for None.

    >>> from pyrovae.checks import options
    >>> options("options", ["epochs"])
    Traceback (most recent call last):
        ...
    TypeError: options must be a dict of arguments by name, got ['epochs']
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a dict of arguments by name, got {short(value)}")
    return dict(value)


def _finite(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {short(value)}")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond 1e308
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"{name} must be {expected}, got {short(value)}")
    return result


def _within(name: str, size: float, value: Any, most: float) -> None:
    if size > most:
        raise ValueError(f"{name} must be at most {most:g}, got {short(value)}")


def positive(name: str, value: Any, *, zero: bool = False, most: float = math.inf) -> float:
    """Return `value` as a finite float above zero (or from zero on, with `zero`), and at most `most`."""
    expected = "a finite number of at least 0" if zero else "a finite number greater than 0"
    result = _finite(name, value, expected)
    if value < 0 or (result == 0 and not zero):
        raise ValueError(f"{name} must be {expected}, got {short(value)}")
    _within(name, result, value, most)
    return result


def scale_in(name: str, value: float, dtype: torch.dtype) -> float:
    """Return a standard deviation, or another scale, whose square `dtype` holds; a density would be NaN of any other.

    >>> import torch
    >>> from pyrovae.checks import scale_in
    >>> scale_in("scale", 1e-25, torch.float64)
    1e-25
    >>> scale_in("scale", 1e-25, torch.float32)
    Traceback (most recent call last):
        ...
    ValueError: scale must lie between 1.08e-19 and 9.22e+18 in torch.float32, which holds ... square, got 1e-25: ...
    """
    least, most = torch.finfo(dtype).tiny ** 0.5, torch.finfo(dtype).max ** 0.5 / 2
    if not least <= value <= most:
        double = "" if dtype == torch.float64 else ", or make the pair double"
        raise ValueError(
            f"{name} must lie between {least:.3g} and {most:.3g} in {dtype}, which holds no other's square, got "
            f"{value!r}: give items in other units{double}"
        )
    return value


def probability(name: str, value: Any) -> float:
    """Return `value` as a float strictly between 0 and 1, as a level or a quantile's probability is.

    >>> from pyrovae.checks import probability
    >>> probability("level", 95)
    Traceback (most recent call last):
        ...
    ValueError: level must lie strictly between 0 and 1, got 95
    """
    number: Any = value if isinstance(value, numbers.Real) else math.nan
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {short(value)}")
    return float(number)


def device(name: str | torch.device) -> torch.device:
    """Return the torch device of that name: the CPU or a CUDA device; "auto" is a CUDA device where there is one."""
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if not isinstance(name, str | int | torch.device):
        raise ValueError(
            f"device must be 'auto' or a torch device, got {short(name)}; available here: {', '.join(there)}"
        )
    if name == "auto":
        return torch.device(f"cuda:{torch.cuda.current_device()}" if len(there) > 1 else "cpu")
    available = f"available here: {', '.join(there)}"
    try:
        asked = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        close = difflib.get_close_matches(str(name).lower().replace("gpu", "cuda"), ["auto", "cpu", "cuda"], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"device must be 'auto' or a torch device, got {name!r}; {available}{hint}") from None
    if f"{asked.type}:{asked.index or 0}" not in ("cpu:0", *there):
        raise ValueError(f"device {str(name)!r} cannot be used; {available}")
    return asked
