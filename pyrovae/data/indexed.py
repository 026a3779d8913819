"""Sources of rows that are read as they are used: memory maps, arrays of h5py and zarr, map-style data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.data.mapped import MappedArray

__all__ = ["Stacked", "as_rows", "labels_of"]


def as_rows(x: Any, name: str = "x") -> Any:
    """A view of the rows of a source that is read by index; anything else as it is, an array or a frame among them.

    `x` is a `np.memmap`, an array of h5py or zarr, or a data set with `len(x)` and `x[i]`, such as
    `torch.utils.data.Dataset`, whose items are tensors, arrays or (item, label, ...). Values are kept as they are:
    uint8 is not divided by 255. Raises TypeError for a DataLoader and an iterable data set, with what to hand over
    instead.

    >>> import torch
    >>> from pyrovae.data.indexed import as_rows
    >>> x = as_rows(torch.utils.data.TensorDataset(torch.eye(3), torch.arange(3)))
    >>> x.shape, x[[2, 0]].tolist()
    (torch.Size([3, 3]), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """
    _refuse_iterables(x, name)
    if isinstance(x, np.memmap):
        return MappedArray(_with_floats(x, name), scale=False, name=name)
    module = type(x).__module__.partition(".")[0]
    if module in ("h5py", "zarr") and hasattr(x, "shape") and hasattr(x, "dtype"):
        return MappedArray(_with_floats(_Chunked(x), name), scale=False, name=name)
    if _is_map_style(x):
        return MappedArray(_with_floats(Stacked(x, name), name), scale=False, name=name)
    return x


def labels_of(x: Any) -> np.ndarray | None:
    """The labels of a map-style data set whose items are (item, label); None where there are none. Reads all items."""
    if not _is_map_style(x) or not isinstance(x[0], tuple | list) or len(x[0]) < 2:
        return None
    return np.asarray([x[index][1] for index in range(len(x))])


def _is_map_style(x: Any) -> bool:
    """Whether it is a data set of torch's kind, with a length and items by number, and no array, list or split."""
    if isinstance(x, Tensor | np.ndarray | str | bytes | dict | list | tuple | MappedArray) or x is None:
        return False
    has_rows = hasattr(type(x), "__len__") and hasattr(type(x), "__getitem__")
    is_array = any(hasattr(x, name) for name in ("shape", "__array__", "columns", "toarray"))
    is_split = hasattr(x, "x") and hasattr(x, "y")
    is_whole = hasattr(x, "train") and hasattr(x, "test")
    return has_rows and not is_array and not is_split and not is_whole


def _refuse_iterables(x: Any, name: str) -> None:
    kinds = {each.__name__ for each in type(x).__mro__}
    if "DataLoader" in kinds:
        raise TypeError(
            f"{name} is a DataLoader, which gives batches in an order of its own, and items are read by their number: "
            f"hand over its data set, {name}.dataset; fit makes batches itself, of batch_size= items"
        )
    if "IterableDataset" in kinds:
        raise TypeError(
            f"{name} is an iterable data set, whose items have no number: items are drawn by index, so give one with "
            f"len({name}) and {name}[i], a memory map or an array"
        )


def _with_floats(source: Any, name: str) -> Any:
    """The source; one of bytes is refused as an array of them is, by its first rows."""
    if source.dtype == np.uint8 and len(source) and int(np.asarray(source[:1000]).max()) > 1:
        raise ValueError(
            f"{name} looks like 0..255 integers: data.MappedArray({name}) divides each row by 255 as it is read, and "
            "data.load does so for a .npy file; give int16 or wider where they are counts"
        )
    return source


class Stacked:
    """The items of a map-style data set as the rows of an array, read one by one and stacked as they are asked for.

    The first item says the shape and the dtype. Raises TypeError for an item that holds no numbers and ValueError for
    one of another shape.
    """

    def __init__(self, dataset: Any, name: str = "x") -> None:
        self.dataset, self.name = dataset, name
        if len(dataset) == 0:
            raise ValueError(f"{name} is empty: a data set must have at least one item")
        first = self._item(0)
        self.dtype, self.item_shape = first.dtype, first.shape

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *event)."""
        return (len(self), *self.item_shape)

    @property
    def ndim(self) -> int:
        """The number of axes, the first of which is that of the items."""
        return 1 + len(self.item_shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._item(int(index))
        numbers = range(*index.indices(len(self))) if isinstance(index, slice) else np.arange(len(self))[index]
        rows = np.empty((len(numbers), *self.item_shape), self.dtype)
        for place, number in enumerate(numbers):
            item = self._item(int(number))
            if item.shape != self.item_shape:
                raise ValueError(
                    f"items of {self.name} must have one shape, and item {int(number)} has {item.shape}, the first "
                    f"{self.item_shape}"
                )
            if not np.can_cast(item.dtype, self.dtype, "safe"):
                raise ValueError(
                    f"items of {self.name} must have one dtype, and item {int(number)} is {item.dtype}, the first "
                    f"{self.dtype}, which does not hold it: give all of them as {np.result_type(item, self.dtype)}"
                )
            rows[place] = item
        return rows

    def _item(self, index: int) -> np.ndarray:
        item = self.dataset[index]
        if isinstance(item, tuple | list) and item and np.ndim(_host(item[0])):
            item = item[0]  # (item, label, ...)
        elif isinstance(item, tuple | list) and not all(isinstance(each, int | float) for each in item):
            item = [_host(each) for each in item]
        if isinstance(item, tuple):
            raise TypeError(
                f"item {index} of {self.name} is a tuple of numbers, which may be one item or an item with its label: "
                "let the data set give arrays or tensors, or (array, label)"
            )
        if isinstance(item, Tensor):
            item = item.detach().cpu()
        array = np.asarray(item)
        if array.dtype.kind not in "buif":
            raise TypeError(
                f"items of {self.name} must be numbers, or start with them as (item, label) does, and item {index} is "
                f"a {type(item).__name__}"
            )
        return array


def _host(value: Any) -> Any:
    """A tensor in the memory of the host; anything else as it is."""
    return value.detach().cpu() if isinstance(value, Tensor) else value


class _Chunked:
    """An array of h5py or zarr, whose rows are read in rising order, as they want it, and put into the asked one."""

    def __init__(self, source: Any) -> None:
        self.source, self.dtype, self.shape, self.ndim = source, np.dtype(source.dtype), source.shape, source.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice | int | np.integer):
            if isinstance(index, slice) and (index.step or 1) < 0:
                return self[np.arange(len(self))[index]]
            return np.asarray(self.source[index])
        rows = np.arange(len(self))[index]
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        distinct, place = np.unique(rows, return_inverse=True)
        read = getattr(self.source, "get_orthogonal_selection", None)  # zarr's
        found = self.source[distinct] if read is None else read((distinct,))
        result: np.ndarray = np.asarray(found)[place]
        return result
