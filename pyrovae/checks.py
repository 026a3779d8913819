"""Checks at the boundary: what a user hands in is looked at once, and named when it does not fit.

Every error says which argument, what was expected, what came and what to do. No model, data set or device here.
"""

from __future__ import annotations

import difflib
import errno
import functools
import math
import numbers
import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import memory
from pyrovae.warned import Gathered, gathering

__all__ = [
    "NotEnoughMemoryError",
    "affordable",
    "allocating",
    "array",
    "choice",
    "device",
    "items",
    "labels",
    "path",
    "positive",
    "seed",
    "sequence",
    "several_classes",
    "sizes",
    "support",
    "unmasked",
    "warn",
    "whole",
]

P = ParamSpec("P")
T = TypeVar("T")

MOST = 2**63 - 1  # what torch and NumPy count with
SEEDS = 2**128  # as many bits as NumPy draws for a seed of its own
CHEAP = 64 * 2**20  # bytes that any machine has: nothing is looked up for less
PART = 4096  # items that are looked at together: a mask of all would take as much memory as they do


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
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}{hint}")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside the package that led here, or tell whoever gathers warnings."""
    if (found := gathering()) is not None:
        found.append(Gathered(message, category))
        return
    homes = tuple(os.path.join(home, "") for home in (os.path.dirname(__file__), torch.__path__[0]))
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
        raise TypeError(f"{name} must be an integer of at least {least}, got {value!r}") from None
    if result < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {result}")
    if result > most:
        bound = f"{most:,}" if most < 2**31 else f"2^{most.bit_length()} - 1"
        raise ValueError(f"{name} must be an integer of at most {bound}, got {_short(result)}")
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


def _short(value: Any) -> str:
    """A value for an error's words, which a number of a thousand digits would drown."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def affordable(what: str, needed: int, instead: str, *, device: torch.device | None = None) -> None:
    """Refuse a count, before anything is allocated, that takes more bytes than `device` or main memory has left.

    `what`: the argument and its value; `instead`: what to do. Nothing is refused on the device "meta", which holds
    shapes alone.

    >>> from pyrovae.checks import affordable
    >>> affordable("num_particles=1e+16", 8 * 10**16, "take fewer")
    Traceback (most recent call last):
        ...
    ValueError: num_particles=1e+16 would take at least 80 PB of memory, and ... is free here: take fewer
    """
    if needed <= CHEAP or torch.get_default_device().type == "meta":
        return
    free = memory.available(device)
    if needed > free:
        raise ValueError(
            f"{what} would take at least {memory.in_words(needed)} of memory, and {memory.in_words(free)} is free "
            f"{'here' if device is None or device.type == 'cpu' else f'on {device}'}: {instead}"
        )


class NotEnoughMemoryError(MemoryError):
    """A computation has asked for more memory than there is; its message says which, and what to do."""


def allocating(function: Callable[P, T]) -> Callable[P, T]:
    """Name the function, and what it asked for, where an allocator inside of it runs out of memory."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, NotEnoughMemoryError) or not _is_of_memory(error):
                raise
            asked = re.search(r"allocate (\d+ bytes|[\d.]+ \w+)", str(error))
            raise NotEnoughMemoryError(
                f"{function.__name__} needs more memory than there is"
                f"{f' (it asked for {asked[1]} at once)' if asked else ''}: give fewer items, or smaller counts, sizes "
                "or batches"
            ) from error

    return call


def _is_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)


def path(name: str, value: Any) -> Path:
    """Return `value` as a path, a leading ~ as the home folder; what no file system can hold is refused.

    >>> from pyrovae.checks import path
    >>> path("checkpoint", "a\\0b")
    Traceback (most recent call last):
        ...
    ValueError: checkpoint must be the path of a file or folder, got 'a\\x00b', which holds a NUL character
    """
    expected = f"{name} must be the path of a file or folder, got {_short(value)}"
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(expected)
    if not text:
        raise ValueError(expected)
    if "\0" in text:
        raise ValueError(f"{expected}, which holds a NUL character")
    try:
        found = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{expected}, and this machine has no user of that name, so no home folder") from None
    try:
        os.lstat(found)
    except UnicodeEncodeError:
        raise ValueError(f"{expected}, which has characters that no file's name can have here") from None
    except OSError as error:  # no such file, or none that may be looked at, is for the caller to judge
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
            raise ValueError(f"{expected}: {error.strerror}") from None
    return found


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
    found = tuple(whole(name, size) for size in sequence(name, value))
    if one and not found:
        raise ValueError(f"{name} must name at least one size, got (); an item of one number has shape (1,)")
    return found


def sequence(name: str, value: Any) -> Sequence[Any]:
    """Return a shape or a list of widths as it is, its entries not looked at."""
    # bytes are a sequence of integers too, and nobody means a shape by them
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Sequence):
        hint = f"; tuple({name}) makes one" if isinstance(value, np.ndarray | Tensor) and value.ndim == 1 else ""
        raise TypeError(f"{name} must be a sequence of sizes such as (8,), got {value!r}{hint}")
    return value


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a finite float above zero (or from zero on, with `zero`)."""
    expected = "a finite number of at least 0" if zero else "a finite number greater than 0"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond 1e308
        result = math.inf
    if not math.isfinite(result) or value < 0 or (result == 0 and not zero):
        raise ValueError(f"{name} must be {expected}, got {_short(value)}")
    return result


def device(name: str | torch.device) -> torch.device:
    """The torch device of that name: the CPU or a CUDA device; "auto" is a CUDA device where there is one."""
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        return torch.device(f"cuda:{torch.cuda.current_device()}" if len(there) > 1 else "cpu")
    available = f"available here: {', '.join(there)}"
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError):
        close = difflib.get_close_matches(str(name).lower().replace("gpu", "cuda"), ["auto", "cpu", "cuda"], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"device must be 'auto' or a torch device, got {name!r}; {available}{hint}") from None
    if f"{found.type}:{found.index or 0}" not in ("cpu:0", *there):
        raise ValueError(f"device {str(name)!r} cannot be used; {available}")
    return found


def items(
    x: Any,
    event_shape: tuple[int, ...],
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    first: int = 0,
    hint: str = "drop or impute them first",
) -> Tensor:
    """`x` as a finite tensor of shape (N, *event_shape) in `dtype`; a view with `len` and slices is read whole.

    With `missing`, NaN is let through (and only NaN). `first` is the number of the first item, where `x` is a part.
    Raises ValueError for an empty array, another shape, integers that look like 0..255, and values that are not finite;
    TypeError for what is not an array of real numbers.
    """
    tensor = array(x, name)
    expected = f"(N, {', '.join(map(str, event_shape))})" if event_shape else "(N,)"
    if tuple(tensor.shape[1:]) != tuple(event_shape) or tensor.ndim == 0:
        hint = ""
        size = math.prod(event_shape)
        if tensor.ndim and tensor.numel() and tensor.numel() % size == 0:
            if tuple(tensor.shape) == tuple(event_shape):
                hint = f"; one item is {name}[None]"
            elif tensor.numel() // size == len(tensor):
                hint = _shape_hint(name, tuple(tensor.shape[1:]), tuple(event_shape))
        raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}{hint}")
    if len(tensor) == 0:
        raise ValueError(f"{name} is empty: expected shape {expected} with N of at least 1, got {tuple(tensor.shape)}")
    if not tensor.dtype.is_floating_point and tensor.dtype != torch.bool and int(tensor.max()) > 1:
        least, most = int(tensor.min()), int(tensor.max())
        if tensor.dtype == torch.uint8 or 0 <= least <= most <= 255:
            raise ValueError(
                f"{name} looks like 0..255 integers; divide by 255 (min {least}, max {most}, {tensor.dtype})"
            )
    tensor = tensor.to(dtype or torch.get_default_dtype())
    if not all(_passes(part, missing).all() for part in tensor.split(PART)):
        bad = ~_passes(tensor, missing)
        where = torch.nonzero(bad)[0].tolist()
        where[0] += first
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} NaN or infinite values, the first at {name}{where}; {hint}"
        )
    return tensor


def _passes(x: Tensor, missing: bool) -> Tensor:
    return ~torch.isinf(x) if missing else torch.isfinite(x)


def labels(y: Any, count: int, *, name: str = "y", of: str = "x") -> np.ndarray:
    """`y` as a one-dimensional array with a label for each of `count` items; missing ones and mixtures are refused."""
    unmasked(y, name)
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        array = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    else:
        # a list of words and NaN would become words
        array = np.array(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one-dimensional, a label an item, got shape {array.shape}; {name}.ravel() of a column, "
            f"{name}.argmax(1) of indicators"
        )
    if len(array) != count:
        raise ValueError(
            f"{name} must have a label for each item of {of}: {of} has {count} items, {name} has {len(array)}"
        )
    absent = np.array([_is_missing(v) for v in array]) if array.dtype.kind in "fOmM" else np.zeros(count, bool)
    if absent.any():
        raise ValueError(
            f"{name} has {int(absent.sum())} missing labels (NaN or None), the first at {name}[{int(absent.argmax())}]"
        )
    if array.dtype.kind == "O":
        strings = sum(isinstance(v, str) for v in array)
        if 0 < strings < count:
            raise TypeError(f"{name} must be all numbers or all strings, got both")
        array = np.array(array.tolist())
    return array


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, which is neither equal to itself nor unequal."""
    if value is None:
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):
        return True


def several_classes(y: np.ndarray, *, name: str = "y") -> np.ndarray:
    """The sorted classes of `y`; one class alone is refused."""
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"{name} must hold at least 2 classes, got only {classes.tolist()}")
    return classes


def support(x: Tensor, constraint: constraints.Constraint, family: str, *, name: str = "x") -> None:
    """Refuse values that have no density under a likelihood: grey under Bernoulli, over 1 under a unit interval.

    NaN (a missing entry) is not looked at.
    """
    if all((constraint.check(part) | part.isnan()).all() for part in x.split(PART)):
        return
    seen = x[~torch.isnan(x)]
    least, most = float(seen.min()), float(seen.max())
    inside = least >= 0 and most <= 1
    if constraint is constraints.boolean and inside:
        grey = float(((seen > 0) & (seen < 1)).float().mean())
        raise ValueError(
            f"{name} has grey values ({grey:.1%} lie strictly between 0 and 1) and a {family} likelihood has no "
            "density there; binarise (fit(..., binarize=True) or pyrovae.data.binarize(x)), or take "
            "likelihood='continuous_bernoulli' or 'normal'"
        )
    fitting = "'continuous_bernoulli' or 'normal'" if inside else "'normal'"
    raise ValueError(
        f"{name} lies outside the support of the {family} likelihood (min {least:g}, max {most:g}); "
        f"scale {name} to [0, 1] or take a likelihood that fits: {fitting}"
    )


def _shape_hint(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What would make the items fit: a reshape only where it keeps every entry in its place."""
    without_ones = [tuple(size for size in shape if size != 1) for shape in (given, wanted)]
    if len(given) == 1 or len(wanted) == 1 or without_ones[0] == without_ones[1]:
        return f"; {name}.reshape({(-1, *wanted)}) would fit"
    if (given[-1], *given[:-1]) == wanted and len(wanted) > 2:
        return f"; the channels are last here: {name}.movedim(-1, 1) would fit (np.moveaxis({name}, -1, 1))"
    if sorted(given) == sorted(wanted):
        return "; the axes are in another order: transpose them, for a reshape would mix the entries"
    return ""


def unmasked(x: object, name: str) -> None:
    """Refuse a masked array, whose mask would be lost."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: fill it, with NaN where values are missing"
        )


def array(x: Any, name: str) -> Tensor:
    """`x` as a tensor: a tensor as it is, a view with `len` and slices read whole, any other array copied.

    Raises TypeError for what is not a dense array of real numbers.
    """
    if (isinstance(x, Tensor) and x.layout != torch.strided) or hasattr(x, "toarray"):
        raise TypeError(f"{name} is a sparse array: make it dense first ({name}.to_dense() or {name}.toarray())")
    if isinstance(x, list | tuple) and all(isinstance(one, Tensor) for one in x) and len({one.shape for one in x}) == 1:
        x = torch.stack(list(x))
    if isinstance(x, Tensor):
        tensor = x
    elif hasattr(x, "shape") and hasattr(x, "__getitem__") and not hasattr(x, "__array__"):
        tensor = x[:]  # a memory-mapped view
    else:
        unmasked(x, name)
        try:
            # a copy: torch takes no negative strides and no foreign byte order, and warns of read-only memory
            array = np.array(x, order="C")
            array = array.astype(array.dtype.newbyteorder("="))
            if array.dtype.kind == "u" and array.dtype.itemsize > 1:
                array = array.astype(np.int64)  # torch has no maximum of these
            tensor = torch.from_numpy(array)
        except (TypeError, ValueError) as error:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name} must be an array of numbers, got {kind}: {error}") from None
    if tensor.dtype.is_complex:
        raise TypeError(f"{name} must be an array of real numbers, got {tensor.dtype}")
    return tensor
