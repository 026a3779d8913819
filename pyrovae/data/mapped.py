"""A view of a memory-mapped array, and conversion of numeric arrays to tensors."""

from __future__ import annotations

import mmap
import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks

__all__ = ["MappedArray", "as_stored", "dtype_that_holds", "joined", "require_numbers", "require_rows", "without_bytes"]

# the part of a memory map that is read to choose its dtype
_MOST_ROWS = 4096
_MOST_ENTRIES = 2**23
_KEPT = 2**24  # bytes of successive rows that are read of a memory map until its pages are given back
_SPARSE = 8  # rows for each that is wanted, that are read with it
_TOGETHER = 48  # rows here and there that are read until then: each may bring the 2 MiB around it into memory


class MappedArray:
    """A view of rows of an array or memory map, which are read as tensors when they are indexed.

    `source` has shape (N, *event), and `rows` selects items of it, by default all. `x[index]` takes an integer, a
    slice, a one-dimensional array or tensor of integers, or a mask, along the items. uint8 is divided by 255, or kept
    as 0 to 255 with `scale=False`. Other numbers are cast to `dtype`; the default is float32, or float64 if float32
    does not represent them (`pyrovae.rounding` states the rule), judged by up to 4,096 rows from the whole source. A
    fit and the estimators check every row in the source's own dtype. `len`, `shape` and `dtype` are those of the tensor
    `x[:]`. `name` is the name of the source in errors. Raises TypeError for an array that is not numeric, for a masked
    array and for any other type of index.

    >>> import numpy as np
    >>> from pyrovae.data import MappedArray
    >>> x = MappedArray(np.array([[0, 51], [102, 255], [0, 0]], dtype=np.uint8))
    >>> x[:2].numpy()
    array([[0. , 0.2],
           [0.4, 1. ]], dtype=float32)
    >>> x.select([1]).shape
    torch.Size([1, 2])
    """

    @checks.flags
    def __init__(
        self,
        source: np.ndarray,
        rows: Any = None,
        *,
        dtype: torch.dtype | None = None,
        scale: bool = True,
        name: str = "source",
    ) -> None:
        require_numbers(source, name)
        if source.ndim == 0:
            raise ValueError(f"{name} must have shape (N, *event), got a single number")
        self._source = source
        self._scale = scale
        self._name = name
        self._rows: np.ndarray | None = None if rows is None else _chosen(len(source), rows)
        self._dtype = dtype
        self._read = 0  # bytes since pages were given back

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 if float32 does not represent the source."""
        if self._dtype is None:
            self._dtype = _dtype_for(self._source, self._name)
        return self._dtype

    @property
    def shape(self) -> torch.Size:
        """(N, *event)."""
        return torch.Size((len(self), *self._source.shape[1:]))

    def __len__(self) -> int:
        return len(self._source if self._rows is None else self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        rows = _floats(self._chosen(index), self.dtype)
        self._note(rows.nbytes)
        return rows

    def exactly(self, index: Any) -> Tensor:
        """The rows in the dtype of the source; uint8 is divided by 255, in float32. `index` as in `x[index]`.

        >>> import numpy as np
        >>> from pyrovae.data import MappedArray
        >>> MappedArray(np.array([[2**60 + 1]])).exactly(0)
        tensor([1152921504606846977])
        """
        rows = as_stored(self._chosen(index))
        self._note(rows.nbytes)
        return rows

    def _note(self, read: int) -> None:
        """Count the bytes that were read, and give a memory map's pages back from time to time."""
        self._read += read
        if self._read > _KEPT:
            self._let_go()

    def _let_go(self) -> None:
        """Give the pages of a memory map back: they count as memory of the process, and stay in the system's cache."""
        self._read = 0
        for mapped in self._maps():
            with suppress(OSError, ValueError, AttributeError):
                mapped.madvise(mmap.MADV_DONTNEED)

    def _maps(self) -> list[Any]:
        """The memory maps behind the source, but for those with changes of their own, which would be lost."""
        sources = getattr(self._source, "arrays", [self._source])
        shared = [each for each in sources if getattr(each, "mode", None) in ("r", "r+", "w+")]
        return [each._mmap for each in shared if getattr(each, "_mmap", None) is not None]

    def reading(self, dtype: torch.dtype) -> MappedArray:
        """The same rows as a view that is read in `dtype`, float32 or float64."""
        return self._like(self._rows, dtype)

    def _like(self, rows: np.ndarray | None, dtype: torch.dtype | None) -> MappedArray:
        return MappedArray(self._source, rows, dtype=dtype, scale=self._scale, name=self._name)

    def _number(self, index: Any, *, view: bool = False) -> Any:
        """Which rows of the source an index asks for; with `view` as an array."""
        chosen = _index(index)
        if not isinstance(chosen, slice) and (numbers := np.asarray(chosen)).dtype.kind in "iu" and numbers.size:
            beyond = [int(end) for end in (numbers.min(), numbers.max()) if not -len(self) <= end < len(self)]
            if beyond:
                raise IndexError(f"index {beyond[0]} is out of range for {len(self)} rows")
        if self._rows is None:
            return np.arange(len(self))[chosen] if view else chosen
        return self._rows[chosen]

    def _chosen(self, index: Any) -> np.ndarray:
        number = self._number(index)
        if isinstance(number, np.ndarray) and number.dtype == bool:
            number = number.nonzero()[0]
        if isinstance(number, np.ndarray) and _is_dense(number):
            rows = self._source[number[0] : number[-1] + 1][number - number[0]]
        elif isinstance(number, np.ndarray) and len(number) > _TOGETHER and self._maps():
            rows = np.empty((len(number), *self._source.shape[1:]), self._source.dtype)
            for start in range(0, len(number), _TOGETHER):
                part = slice(start, start + _TOGETHER)
                rows[part] = self._source[number[part]]
                self._let_go()
        else:
            rows = self._source[number]
        return rows if self._scale else without_bytes(rows)

    def __repr__(self) -> str:
        return f"MappedArray({self._source.dtype}, shape {tuple(self.shape)})"

    def select(self, index: Any) -> MappedArray:
        """A view of some of the rows, without reading or copying them; `index` as in `x[index]`.

        >>> import numpy as np
        >>> from pyrovae.data import MappedArray
        >>> MappedArray(np.zeros((10, 3))).select(slice(0, 10, 2)).select([4, 0]).shape
        torch.Size([2, 3])
        """
        return self._like(np.reshape(self._number(index, view=True), -1), self._dtype)

    def ascending(self) -> tuple[MappedArray, np.ndarray | None]:
        """The same rows in the order in which they are stored, which are read faster, and the place of each in `x`.

        >>> import numpy as np
        >>> from pyrovae.data import MappedArray
        >>> view, place = MappedArray(np.arange(4.0)).select([3, 0]).ascending()
        >>> view[:].tolist(), place.tolist()
        ([0.0, 3.0], [1, 0])
        """
        if self._rows is None or bool((self._rows[1:] >= self._rows[:-1]).all()):
            return self, None
        place = np.argsort(self._rows, kind="stable")
        return self._like(self._rows[place], self._dtype), place

    def followed_by(self, other: MappedArray) -> MappedArray | None:
        """A view of the rows of both, without reading them; None if the other is of another source."""
        if not isinstance(other, MappedArray):
            raise TypeError(f"other must be a MappedArray, got a {type(other).__name__}")
        if other._source is not self._source or other._scale != self._scale:
            return None
        rows = [np.arange(len(each)) if each._rows is None else each._rows for each in (self, other)]
        return self._like(np.concatenate(rows), self._dtype)


def _is_dense(number: np.ndarray) -> bool:
    """Whether row numbers ascend, with few others between them: to read these as well is faster than to leave them."""
    if len(number) < 2 or not 0 <= number[0] < number[-1] < number[0] + _SPARSE * len(number):
        return False
    return bool((number[1:] > number[:-1]).all())


def require_rows(index: Any, count: int) -> None:
    """Refuse an index that takes no rows of `count` items: one number, several axes, rows that are not there."""
    rows = _index(index)
    if isinstance(rows, int):
        raise TypeError(f"index must take rows, as [{rows}] does, got {rows}")
    if not isinstance(rows, slice):
        _chosen(count, rows, "index")


def _chosen(count: int, rows: Any, name: str = "rows") -> np.ndarray:
    try:
        chosen: np.ndarray = np.arange(count)[_index(rows)]
    except IndexError as error:
        raise IndexError(f"{name} must be rows of {count} items: {error}") from None
    return chosen


def joined(first: Any, second: Any) -> Any:
    """The items of both, one after the other: a view if both are views of one source, otherwise a tensor."""
    if hasattr(first, "followed_by") and type(first) is type(second):
        view = first.followed_by(second)
        if view is not None:
            return view
    return torch.cat([first[:], second[:]])


def _index(index: Any) -> Any:
    """`index` as a slice, an int, or a one-dimensional integer or boolean array."""
    if isinstance(index, slice):
        return index
    if isinstance(index, Tensor):
        index = checks.numbers(index, "index").detach().cpu().numpy()
    if not isinstance(index, tuple) and index is not None and index is not ...:
        if np.ndim(index) == 0 and hasattr(index, "__index__"):
            number = operator.index(index)
            if abs(number) > checks.MOST:
                raise IndexError(f"index {number} is out of bounds for any number of items")
            return number
        array = np.asarray(index)
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(np.intp)  # an empty list
        if array.ndim == 1 and array.dtype.kind in "iub":
            return array
    raise TypeError(f"index must be an integer, a slice, integers of shape (n,) or a mask of shape (N,), got {index!r}")


def require_numbers(array: np.ndarray, name: str) -> None:
    checks.unmasked(array, name)
    if not isinstance(getattr(array, "dtype", None), np.dtype):
        raise TypeError(f"{name} must be an array of NumPy's, got a {type(array).__name__}")
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype}")


def without_bytes(array: np.ndarray) -> np.ndarray:
    """uint8 as int16, which is not divided by 255 later; any other array unchanged."""
    return array.astype(np.int16) if array.dtype == np.uint8 else array


def _floats(array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    # a copy: torch refuses negative strides and foreign byte orders, and warns of read-only memory
    wide = dtype == torch.float64 and array.dtype != np.uint8
    tensor = torch.from_numpy(np.array(array, dtype=np.float64 if wide else np.float32, order="C"))
    return tensor.div_(255).to(dtype) if array.dtype == np.uint8 else tensor


def as_stored(array: np.ndarray, name: str = "source") -> Tensor:
    """A tensor in the array's own dtype, without a copy if possible; uint8 is divided by 255."""
    if array.dtype == np.uint8:
        return _floats(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has no wider floating-point dtype
    plain = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return checks.array(torch.from_numpy(array) if plain else array, name)


def _dtype_for(source: np.ndarray, name: str) -> torch.dtype:
    """float32 or float64, judged by rows from the whole source; a memory map may be too large to be read for this."""
    if np.can_cast(source.dtype, np.float32):
        return torch.float32
    count = min(len(source), max(2, min(_MOST_ROWS, _MOST_ENTRIES // max(1, source[:1].size))))
    rows = as_stored(source[np.linspace(0, len(source) - 1, count).astype(np.intp)], name)
    if rows.dtype.is_floating_point:
        # infinite values are refused later, when the items are used
        rows = torch.where(rows.isfinite(), rows, torch.nan)
    return dtype_that_holds([rows], [name])


def dtype_that_holds(parts: Sequence[Tensor], names: Sequence[str]) -> torch.dtype:
    """float32, or float64 if float32 does not represent all parts; ValueError if float64 does not either."""
    for part, name in zip(parts, names, strict=True):
        try:
            checks.checked_cast(part, torch.float32, name=name)
        except ValueError:
            for each, its_name in zip(parts, names, strict=True):
                checks.checked_cast(each, torch.float64, name=its_name)
            return torch.float64
    return torch.float32
