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
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import memory, rounding
from pyrovae.warned import Gathered, gathering

__all__ = [
    "NotEnoughMemoryError",
    "affordable",
    "allocating",
    "array",
    "as_given",
    "choice",
    "device",
    "held",
    "items",
    "labels",
    "lives_in_unit",
    "parts_of",
    "path",
    "positive",
    "require_held",
    "require_held_in_groups",
    "require_within",
    "seed",
    "sequence",
    "several_classes",
    "sizes",
    "support",
    "support_once_rounded",
    "tell_of_rounding",
    "unmasked",
    "warn",
    "whole",
]

P = ParamSpec("P")
T = TypeVar("T")

MOST = 2**63 - 1  # what torch and NumPy count with
SEEDS = 2**128  # as many bits as NumPy draws for a seed of its own
CHEAP = 64 * 2**20  # bytes that any machine has: nothing is looked up for less
SEEN = 0.1  # of a standard deviation: rounding by that moves a log-density by some thousandths of a nat
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
    except (RuntimeError, TypeError, ValueError):
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
    What comes is looked at as it came, before it is cast. Raises ValueError for an empty array, another shape, uint8
    over 1, values that are not finite and values that `dtype` does not hold (see `pyrovae.rounding`); TypeError for
    what is not an array of real numbers.
    """
    tensor = as_given(x, event_shape, name=name, missing=missing, first=first, hint=hint)
    return held(tensor, dtype or torch.get_default_dtype(), name=name)


def as_given(
    x: Any,
    event_shape: tuple[int, ...],
    *,
    name: str = "x",
    missing: bool = False,
    first: int = 0,
    hint: str = "drop or impute them first",
) -> Tensor:
    """`x` as `items` checks it, in the dtype that it came in."""
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
    if tensor.dtype == torch.uint8 and int(tensor.max()) > 1:
        _refuse_bytes(tensor, name)
    if tensor.dtype.is_floating_point and not _all_finite(tensor.detach(), missing):
        bad = ~_passes(tensor, missing)
        where = torch.nonzero(bad)[0].tolist()
        where[0] += first
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} NaN or infinite values, the first at {name}{where}; {hint}"
        )
    return tensor


def held(
    tensor: Tensor,
    dtype: torch.dtype,
    *,
    name: str = "x",
    whole: bool = True,
    least: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Finite items of shape (N, *event_shape) in `dtype`, where it holds them; NaN is missing.

    Raises ValueError where a value is beyond its range, and where it would round a column by more than a thousandth of
    the column's standard deviation (see `pyrovae.rounding`). A part of the items, not `whole`, is no measure of that:
    `require_held` looks at all of them. `least(items)` are the standard deviations, (D,), that a density of such items
    gives the columns, asked for only where the items by themselves are too close together.
    """
    if tensor.dtype != dtype and rounding.is_wider(tensor.dtype, dtype):
        most = rounding.largest(tensor)
        require_within(most, dtype, name=name)
        if whole:
            known = None if least is None else lambda: least(tensor.to(dtype))
            require_held(tensor.__getitem__, tensor.shape, dtype, most, name=name, least=known)
    return tensor.to(dtype)


def require_within(most: float, dtype: torch.dtype, *, name: str = "x") -> None:
    """Refuse values beyond the range of `dtype`, which would become infinite."""
    if most > torch.finfo(dtype).max:
        raise ValueError(
            f"{name} holds values of up to {most:.3g}, and {dtype} ends at {torch.finfo(dtype).max:.3g}: "
            f"{_wider(dtype)}scale {name}"
        )


def require_held(
    read: rounding.Read,
    shape: Sequence[int],
    dtype: torch.dtype,
    most: float,
    *,
    name: str = "x",
    of: str = "",
    least: Callable[[], Tensor] | None = None,
) -> None:
    """Refuse items of `shape`, (N, *event_shape), that `dtype` would round by too much; `most` is the largest value.

    `of` says which items they are, `least` which standard deviations, (D,), columns have at the least.
    """
    lost = rounding.lost_columns(read, shape[0], dtype, most)
    if lost and least is not None:
        known = least().tolist()
        lost = [column for column in lost if not column.is_held_by(known[column.column])]
    if not lost:
        return
    worst = max(lost, key=lambda column: column.error / column.sd)
    place = ", ".join(map(str, np.unravel_index(worst.column, tuple(shape[1:])))) if shape[1:] else ""
    column = f"{name}[:, {place}]" if place else name
    offset = ".mean(0)" if read(slice(0, 1)).dtype.is_floating_point else "[0]"
    advice = f"{_wider(dtype)}subtract an offset from such columns, as in {name} - {name}{offset}"
    if of:  # they lie about another centre than the rest does
        advice = f"{_wider(dtype)}bring the groups nearer to 0"
    count = f"{len(lost)} columns, the worst of them" if len(lost) > 1 else "one column,"
    raise ValueError(
        f"{dtype} does not hold {name}{of}: rounding would move entries of {count} {column} (mean {worst.mean:.10g}, "
        f"standard deviation {worst.sd:.3g}), by up to {worst.error:.3g}, over a thousandth of the standard deviation; "
        f"{advice}"
    )


def require_held_in_groups(
    given: Tensor,
    group: Tensor,
    words: Sequence[str],
    dtype: torch.dtype,
    *,
    least: Tensor | None = None,
    name: str = "x",
) -> None:
    """Refuse items that `dtype` would round by too much for the spread within a group, as of classes far apart.

    `given` as it came, (N, *event_shape); `group`, (N,), the number of each item's; `words` says what each number is.
    `least`, (groups, D): standard deviations that a model gives the groups at the least.
    """
    if not rounding.is_wider(given.dtype, dtype):
        return
    most, group = rounding.largest(given), group.to(given.device)
    for number, what in enumerate(words):
        part = given[group == number]
        if len(part):
            own = None if least is None else partial(least.__getitem__, number)
            require_held(part.__getitem__, part.shape, dtype, most, name=name, of=f" of {what}", least=own)


def tell_of_rounding(
    given: Tensor,
    items: Tensor,
    group: Tensor,
    words: Sequence[str],
    least: Callable[[], Tensor],
    *,
    name: str = "x",
) -> None:
    """Warn where rounding is not small beside what the other columns leave of a column's spread in a group.

    `items` are what is left of `given`; `least()`, (groups, D), the standard deviations of each column given the others
    by a fit. Each column by itself is held, and a density of all of them sees the difference between two.
    """
    if given.dtype == items.dtype or not rounding.is_wider(given.dtype, items.dtype):
        return
    group = group.to(items.device)
    error = torch.zeros(len(words), items[0].numel(), dtype=torch.float64, device=items.device)  # the largest of each
    for first in range(0, len(given), PART):
        part = slice(first, first + PART)
        moved = (given[part].to(items.device).double() - items[part].double()).abs().nan_to_num(0.0).flatten(1)
        for number in group[part].unique().tolist():
            error[number] = torch.maximum(error[number], moved[group[part] == number].amax(0))
    if not bool(error.any()):
        return
    scale = least()
    for number, what in enumerate(words):
        share, here = (error[number] / scale[number].to(error)).nan_to_num(0.0), group == number
        if float(share.max()) > SEEN and int(here.sum()) > 1:
            share[rounding.spread(items[here]) == 0] = 0.0  # a constant is held
            if float(share.max()) > SEEN:
                place = ", ".join(map(str, np.unravel_index(int(share.argmax()), tuple(given.shape[1:]))))
                warn(
                    f"{items.dtype} rounds {name}[:, {place}] by up to {float(share.max()):.2g} of the standard "
                    f"deviation that the other columns leave it in {what}, and log-densities are off by that: "
                    f"{_wider(items.dtype)}subtract an offset from such columns"
                )
                return


def _wider(dtype: torch.dtype) -> str:
    return "" if dtype == torch.float64 else "work in float64 (pair.double() of a pair), or "


def _refuse_bytes(tensor: Tensor, name: str) -> None:
    raise ValueError(
        f"{name} looks like 0..255 integers; divide by 255 (min {int(tensor.min())}, max {int(tensor.max())}, "
        f"{tensor.dtype})" + ("; int64 where they are counts" if tensor.dtype == torch.uint8 else "")
    )


def _all_finite(x: Tensor, missing: bool) -> bool:
    # the ends carry NaN and infinity: an eighth of the time of a mask
    if all(bool(end.isfinite()) for end in torch.aminmax(x)):
        return True
    return missing and all(bool(_passes(part, missing).all()) for part in x.split(PART))


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
            f"{name} must be one-dimensional, one label per item, got shape {array.shape}; {name}.ravel() of a column, "
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
    if _inside(x, constraint):
        return
    seen = x[~torch.isnan(x)]
    least, most = float(seen.min()), float(seen.max())
    inside = least >= 0 and most <= 1
    if not x.dtype.is_floating_point and lives_in_unit(constraint) and 0 <= least <= most <= 255:
        _refuse_bytes(x, name)
    if constraint is constraints.boolean and inside:
        grey = (seen > 0) & (seen < 1)
        share = f"{float(grey.float().mean()):.1%} lie"
        if share.startswith("0.0%"):  # one faint value
            share = f"{int(grey.sum())} of {seen.numel()}, such as {float(seen[grey][0]):g}, lie"
        raise ValueError(
            f"{name} has grey values ({share} strictly between 0 and 1) and a {family} likelihood has no "
            "density there; binarise (fit(..., binarize=True) or pyrovae.data.binarize(x)), or take "
            "likelihood='continuous_bernoulli' or 'normal'"
        )
    fitting = "'continuous_bernoulli' or 'normal'" if inside else "'normal'"
    raise ValueError(
        f"{name} lies outside the support of the {family} likelihood (min {_shown(least)}, max {_shown(most)}); "
        f"scale {name} to [0, 1] or take a likelihood that fits: {fitting}"
    )


def lives_in_unit(constraint: object) -> bool:
    """Whether it is the support of a likelihood of values from 0 to 1."""
    return constraint is constraints.boolean or constraint is constraints.unit_interval


def support_once_rounded(x: Tensor, constraint: constraints.Constraint, family: str, *, name: str = "x") -> None:
    """Refuse values that a cast has moved out of an open support, as 1e-50 to 0."""
    if not _inside(x, constraint):
        raise ValueError(
            f"{name} lies inside the support of the {family} likelihood, but not once it is rounded to {x.dtype}: "
            f"{_wider(x.dtype)}scale {name}"
        )


def _inside(x: Tensor, constraint: constraints.Constraint) -> bool:
    return all(bool((constraint.check(part) | part.isnan()).all()) for part in x.split(PART))


def _shown(value: float) -> str:
    """A value in few digits, or in full where these would put it inside, as with 1.000000001."""
    short = f"{value:g}"
    return repr(value) if float(short) in (0.0, 1.0) and float(short) != value else short


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
    """Refuse a masked array, torch's masked tensor and a list of such, whose mask would be lost."""
    parts = x if isinstance(x, list | tuple) else [x]
    if any(isinstance(one, np.ma.MaskedArray) or type(one).__name__ == "MaskedTensor" for one in parts):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: fill it, with NaN where values are missing"
        )


def parts_of(x: Any, name: str = "x") -> tuple[Any, Any]:
    """The items and labels of a split of a data set; for anything else, that itself and None."""
    if hasattr(x, "shape") or isinstance(x, tuple | list):  # a table may have columns of these names
        return x, None
    if hasattr(x, "train") and hasattr(x, "test") and hasattr(x, "event_shape"):
        raise TypeError(f"{name} is a whole {type(x).__name__}: give one part of it, {name}.train or {name}.test")
    return (x.x, x.y) if hasattr(x, "x") and hasattr(x, "y") else (x, None)


def array(x: Any, name: str) -> Tensor:
    """`x` as a tensor: a tensor as it is, a view with `len` and slices read whole, any other array copied.

    Of a split of a data set the items. Raises TypeError for what is not a dense array of real numbers, and names the
    column of a table that is none.
    """
    x = parts_of(x, name)[0]
    unmasked(x, name)
    if (isinstance(x, Tensor) and x.layout != torch.strided) or hasattr(x, "toarray"):
        raise TypeError(f"{name} is a sparse array: make it dense first ({name}.to_dense() or {name}.toarray())")
    if isinstance(x, list | tuple) and all(isinstance(one, Tensor) for one in x) and len({one.shape for one in x}) == 1:
        x = torch.stack(list(x))
    if hasattr(x, "shape") and hasattr(x, "__getitem__") and not hasattr(x, "__array__"):
        view, read = x, getattr(x, "exactly", None)  # a memory-mapped view, in the dtype of its source where it tells
        x = view[:] if read is None else read(slice(None))
        if not isinstance(x, Tensor | np.ndarray):
            matrix = f", {name}.X" if hasattr(view, "X") else ""
            raise TypeError(
                f"{name} must be an array of numbers, and {name}[:] of this {type(view).__name__} is none: give its "
                f"array{matrix}"
            )
    if isinstance(x, Tensor):
        tensor = x
    elif hasattr(x, "columns") and hasattr(x, "dtypes"):
        tensor = _of_table(x, name)
    else:
        try:
            # a copy: torch takes no negative strides and no foreign byte order, and warns of read-only memory
            array = np.array(x, order="C")
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        except (TypeError, ValueError) as error:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name} must be an array of numbers, got {kind}: {error}") from None
    if tensor.dtype.is_complex:
        raise TypeError(f"{name} must be an array of real numbers, got {tensor.dtype}")
    return _signed(tensor, name)


def _signed(tensor: Tensor, name: str) -> Tensor:
    """Unsigned integers of more than 8 bits as int64: torch has no maximum of them."""
    if tensor.dtype in (torch.uint16, torch.uint32):
        return tensor.long()
    if tensor.dtype != torch.uint64:
        return tensor
    signed = tensor.view(torch.int64)
    if tensor.numel() and int(signed.min()) < 0:
        raise ValueError(
            f"{name} holds integers of 2**63 and over (torch.uint64), which neither int64 nor float64 holds: subtract "
            "an offset, or make them float64 yourself where 53 bits are enough"
        )
    return signed


def _of_table(frame: Any, name: str) -> Tensor:
    """A data frame's columns side by side, (N, D); the one that holds no numbers is named."""
    columns = []
    for label in list(frame.columns):
        column, called = frame[label], f"column {label!r} of {name}"
        if getattr(column, "ndim", 1) != 1:
            raise TypeError(f"{name} has several columns named {label!r}: give each a name of its own")
        kind, values = getattr(column, "dtype", "unknown"), np.asarray(column)
        if values.dtype.kind in "mM":
            raise TypeError(
                f"{called} holds dates or times ({kind}): make numbers of them, such as the seconds since the first"
            )
        absent = values.dtype.kind in "fO" and not isinstance(kind, np.dtype) and any(map(_is_missing, values))
        if values.dtype.kind not in "biuf" or absent:
            if absent or any(map(_is_missing, values)):
                raise TypeError(
                    f"{called} ({kind}) has missing entries (NA or None): fill them, or make the column float, where "
                    "NaN means missing"
                )
            raise TypeError(f"{called} ({kind}) holds no numbers: encode it as numbers, or drop it")
        columns.append(_signed(torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))), called))
    if not columns:
        return torch.empty((len(frame), 0), dtype=torch.float32)
    dtype = columns[0].dtype
    for column in columns:
        dtype = torch.promote_types(dtype, column.dtype)
    if dtype.is_floating_point and any(not column.dtype.is_floating_point for column in columns):
        dtype = torch.float64  # which holds more integers
    sides = [
        held(column[:, None], dtype, name=f"{name}[{label!r}]")
        for column, label in zip(columns, frame.columns, strict=True)
    ]
    return torch.cat(sides, 1)
