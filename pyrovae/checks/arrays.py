"""Conversion of arrays, tensors, data frames and splits to tensors, in the dtype that they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks.rounded import checked_cast

__all__ = ["array", "dense", "entries", "is_missing", "numbers", "parts_of", "plain", "unmasked"]

NUMBERS = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.uint16, torch.uint32, torch.uint64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)


def unmasked(x: object, name: str) -> None:
    """Refuse a masked array, torch's masked tensor and a list of such, whose mask would be lost."""
    parts = x if isinstance(x, list | tuple) else [x]
    if any(isinstance(one, np.ma.MaskedArray) or type(one).__name__ == "MaskedTensor" for one in parts):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: fill it, with NaN where values are missing"
        )


def plain(x: Tensor, name: str) -> Tensor:
    """The tensor, if it is a dense one of numbers in memory; one made in inference mode is copied.

    >>> import torch
    >>> from pyrovae.checks.arrays import plain
    >>> plain(torch.empty(3, device="meta"), "x")
    Traceback (most recent call last):
        ...
    TypeError: x is a tensor on the device "meta", which has a shape and no values: give one with values
    """
    _in_full(x, name)
    if x.device.type == "meta":
        raise TypeError(
            f'{name} is a tensor on the device "meta", which has a shape and no values: give one with values'
        )
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return x.clone()  # autograd takes no other
    return x


def dense(x: Tensor, name: str) -> None:
    """Refuse a tensor that is no dense array of real numbers.

    >>> import torch
    >>> from pyrovae.checks.arrays import dense
    >>> dense(torch.eye(2).to_sparse(), "x")
    Traceback (most recent call last):
        ...
    TypeError: x is a sparse array: make it dense first (x.to_dense() or x.toarray())
    """
    _in_full(x, name)
    _real(x, name)


def _in_full(x: Tensor, name: str) -> None:
    """Refuse a tensor whose values do not lie one after the other as they are."""
    if x.is_nested:
        raise TypeError(
            f"{name} is a nested tensor, of items of several shapes: give items of one shape, by torch.stack"
        )
    if x.layout == torch._mkldnn:  # type: ignore[attr-defined]
        raise TypeError(f"{name} is a tensor in MKL-DNN's own layout: make it plain first ({name}.to_dense())")
    if x.layout != torch.strided:
        raise TypeError(f"{name} is a sparse array: make it dense first ({name}.to_dense() or {name}.toarray())")
    if x.is_quantized:
        raise TypeError(f"{name} is a quantized tensor, of codes for its values: give {name}.dequantize()")


def _real(x: Tensor, name: str) -> None:
    """Refuse a tensor of what are no real numbers, or of a dtype that torch stores and does not compute with."""
    if x.dtype.is_complex:
        raise TypeError(f"{name} must be an array of real numbers, got {x.dtype}")
    if x.dtype not in NUMBERS:
        raise TypeError(f"{name} must be an array of numbers that torch computes with, got {x.dtype}: cast it")


def entries(values: Any, name: str) -> np.ndarray:
    """Return `values` as an array of NumPy's; TypeError for lists of several lengths, and what is no array.

    >>> from pyrovae.checks.arrays import entries
    >>> entries([[1], [2, 3]], "missing")
    Traceback (most recent call last):
        ...
    TypeError: missing must be an array, got list: setting an array element with a sequence...
    """
    if isinstance(values, Tensor):
        return numbers(values, name).detach().cpu().resolve_neg().numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise TypeError(f"{name} must be an array, got {type(values).__name__}: {error}") from None


def parts_of(x: Any, name: str = "x") -> tuple[Any, Any]:
    """Return the items and labels of a split of a data set; of anything else, the thing itself and None."""
    if isinstance(x, Tensor | tuple | list) or hasattr(x, "shape"):  # a table may have columns of these names
        return x, None
    if hasattr(x, "train") and hasattr(x, "test") and hasattr(x, "event_shape"):
        raise TypeError(f"{name} is a whole {type(x).__name__}: give one part of it, {name}.train or {name}.test")
    return (x.x, x.y) if hasattr(x, "x") and hasattr(x, "y") else (x, None)


def array(x: Any, name: str) -> Tensor:
    """Return `x` as a tensor: a tensor as it is, a view with `len` and slices read whole, any other array copied.

    Of a split of a data set the items. Raises TypeError for what is not a dense array of real numbers, and names the
    column of a table that is none.
    """
    split, x = x, parts_of(x, name)[0]
    mask = None if x is split else getattr(split, "missing", None)
    if mask is not None and not isinstance(mask, bool):  # what a split calls missing is never taken for a value
        from pyrovae.checks.splits import with_missing

        x = with_missing(x, mask, name)
    unmasked(x, name)
    if isinstance(x, Tensor):  # of a nested one not even the shape can be asked for
        return _signed(numbers(x, name), name)
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} is a sparse array: make it dense first ({name}.to_dense() or {name}.toarray())")
    if isinstance(x, list | tuple) and all(isinstance(one, Tensor) for one in x):
        tensors = [numbers(one, f"{name}[{i}]") for i, one in enumerate(x)]
        if len({one.shape for one in tensors}) == 1:
            x = torch.stack(tensors)
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
        copied: np.ndarray | None = None
        try:
            # a copy: torch takes no negative strides and no foreign byte order, and warns of read-only memory
            copied = np.array(x, order="C")
            tensor = torch.from_numpy(copied.astype(copied.dtype.newbyteorder("="), copy=False))
        except MemoryError:
            raise ValueError(f"{name} takes more memory than there is, {_size(x)}: give fewer items") from None
        except (TypeError, ValueError, RuntimeError, RecursionError) as error:
            if copied is not None and copied.dtype.kind in "US" and copied.size:
                hint = "; data.one_hot makes columns of categories" if name.startswith("covariates") else ""
                text = str(copied.flat[0])[:20]
                raise TypeError(f"{name} must be an array of numbers, got text such as {text!r}{hint}") from None
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name} must be an array of numbers, got {kind}: {error}") from None
    return _signed(numbers(tensor, name), name)


def numbers(x: Tensor, name: str) -> Tensor:
    """The tensor, if it is a `plain` one of real numbers that torch computes with.

    >>> import torch
    >>> from pyrovae.checks.arrays import numbers
    >>> numbers(torch.zeros(2, dtype=torch.complex64), "x")
    Traceback (most recent call last):
        ...
    TypeError: x must be an array of real numbers, got torch.complex64
    """
    x = plain(x, name)
    _real(x, name)
    return x


def _size(x: Any) -> str:
    return f"shape {tuple(x.shape)}" if hasattr(x, "shape") else f"a {type(x).__name__}"


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
    """The columns of a data frame as one tensor, (N, D); an error names a column that does not hold numbers."""
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
        absent = values.dtype.kind in "fO" and not isinstance(kind, np.dtype) and any(map(is_missing, values))
        if values.dtype.kind not in "biuf" or absent:
            if absent or any(map(is_missing, values)):
                raise TypeError(
                    f"{called} ({kind}) has missing entries (NA or None): fill them, or make the column float, where "
                    "NaN means missing"
                )
            raise TypeError(
                f"{called} ({kind}) holds no numbers: encode it as numbers, drop it, or read the frame by data.table, "
                "and new rows by table.like"
            )
        columns.append(_signed(torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))), called))
    if not columns:
        return torch.empty((len(frame), 0), dtype=torch.float32)
    dtype = columns[0].dtype
    for column in columns:
        dtype = torch.promote_types(dtype, column.dtype)
    if dtype.is_floating_point and any(not column.dtype.is_floating_point for column in columns):
        dtype = torch.float64  # which holds more integers
    sides = [
        checked_cast(column[:, None], dtype, name=f"{name}[{label!r}]")
        for column, label in zip(columns, frame.columns, strict=True)
    ]
    return torch.cat(sides, 1)


def is_missing(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, which is neither equal to itself nor unequal."""
    if value is None:
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):
        return True
