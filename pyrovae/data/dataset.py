"""A data set: a training and a test part, from one array or two, with labels as integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.columns import Column
from pyrovae.data.mapped import (
    MappedArray,
    as_stored,
    dtype_that_holds,
    joined,
    require_numbers,
    require_rows,
    without_bytes,
)
from pyrovae.data.shards import Shards
from pyrovae.summary import HasSummary, Rows

__all__ = ["Dataset", "Part", "Split", "assembled"]

_CHANNELS = (1, 3, 4)
_MOST_LOOKED_AT = 2**27  # entries of which a notebook's table states the range, a few tenths of a second


@dataclass(frozen=True, eq=False, repr=False)
class Split(HasSummary):
    """The items of one part of a data set: `x` of shape (N, *event), and `y`, int64 of shape (N,), or None.

    `fit` and the estimators accept a split in place of `x`. It may carry what lies beside the items: `covariates`, a
    row of D columns for each item, (N, D), of a pair with `covariate_dim`; `exposure`, (N,), of counts; `weight`, (N,),
    how many times each item counts; and `missing`, True where NaN in `x` is an entry that was not seen, or a mask of
    the shape of `x` that is True at such entries. An index takes the same rows of all of them.

    >>> import torch
    >>> from pyrovae.data import Split
    >>> print(Split(torch.zeros(3, 1, 8, 8), None))
    3 items of shape (1, 8, 8), no labels
    """

    x: Tensor | MappedArray
    y: Tensor | None = None
    covariates: Any = None
    exposure: Any = None
    weight: Any = None
    missing: Any = None

    _whole: ClassVar[tuple[str, ...]] = ()  # fields that are of all items together

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Split:
        """The rows of a slice, a mask or index numbers, as a split."""
        if isinstance(index, int):
            raise TypeError(
                f"a split has no item of its own: split[{index}:{index + 1}] is a split, split.x[{index}] x"
            )
        require_rows(index, len(self))
        return replace(self, **{name: value[index] for name, value in self._of_rows().items()})

    def followed_by(self, other: Split) -> Split:
        """The items of both, one after the other, with what both carry; a view if both are views of one source."""
        if not isinstance(other, Split):
            raise TypeError(f"other must be a split, got a {type(other).__name__}")
        mine, its = self._of_rows(), other._of_rows()
        both: dict[str, Any] = {name: joined(mine[name], its[name]) for name in mine if name in its}
        for name in ("covariates", "exposure", "weight"):
            if (name in mine) != (name in its):
                raise ValueError(
                    f"one of two parts has {name} and the other has not: give both the same, or leave {name} out of "
                    "both"
                )
        alone: dict[str, Any] = {name: None for name in mine if name not in its}
        return replace(self, **{**both, **alone, "missing": self._missing_of_both(other)})

    def _missing_of_both(self, other: Split) -> Any:
        """The mask of both parts, of which one may have nothing missing."""
        parts = [part for part in (self, other) if part.missing is not None]
        if not parts or any(part.missing is True for part in parts):
            return True if parts else None
        masks = [
            torch.zeros(tuple(part.x.shape), dtype=torch.bool)
            if part.missing is None
            else torch.as_tensor(part.missing)
            for part in (self, other)
        ]
        return torch.cat(masks)

    def _of_rows(self) -> dict[str, Any]:
        """What there is a row of for each item, by its name."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in self._whole}
        return {name: value for name, value in values.items() if value is not None and not isinstance(value, bool)}

    def __str__(self) -> str:
        return f"{len(self):,} items of shape {tuple(self.x.shape[1:])}, {_labelled(self.y)}{_with(self)}"

    def _summary_rows(self) -> Rows:
        return {
            "items": lambda: f"{len(self):,}",
            "event_shape": lambda: tuple(self.x.shape[1:]),
            "values": lambda: _range(self.x),
            "stored as": lambda: str(self.x.dtype).removeprefix("torch.") + _place(self.x),
            "labels": lambda: _labels_in_words(self.y),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(HasSummary):
    """A data set with a training and a test part, the shape of an item, and a name.

    If the labels were strings, `classes` contains them: item i belongs to `classes[y[i]]`. Of a source
    without a test part of its own, `order` holds the place of each item in the source, the training
    items first; otherwise it is None. `stored` names the dtype of the source, and `channels` says where images of
    three axes had their channels in it, "first" or "last"; it is None for other items.

    >>> import torch
    >>> from pyrovae.data import Dataset, Split
    >>> part = Split(torch.zeros(3, 13), torch.tensor([0, 1, 1]))
    >>> print(Dataset(part, part, (13,), "wine"))
    wine: 3 training and 3 test items of shape (13,), labelled
    """

    train: Split
    test: Split
    event_shape: tuple[int, ...]
    name: str
    classes: tuple[str, ...] | None = None
    order: Tensor | None = None
    stored: str | None = None
    channels: Literal["first", "last"] | None = None

    @property
    def divided(self) -> bool:
        """Whether the source had no test part of its own and was divided 80 / 20."""
        return self.order is not None

    def whole(self) -> Split:
        """All items as one part: in the order of the source if it had no test part, else the training items first.

        >>> import torch
        >>> from pyrovae.data import Dataset, Split
        >>> train, test = Split(torch.tensor([[2.0], [0.0]])), Split(torch.tensor([[1.0]]))
        >>> Dataset(train, test, (1,), "numbers", order=torch.tensor([2, 0, 1])).whole().x.flatten().tolist()
        [0.0, 1.0, 2.0]
        """
        both = self.train.followed_by(self.test)
        if self.order is None:
            return both
        place = torch.argsort(self.order)
        rows = both._of_rows()
        return replace(
            both,
            **{
                name: rows[name].select(place) if isinstance(rows[name], MappedArray) else rows[name][place]
                for name in rows
            },
        )

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """The columns of a table, which `data.load` makes of a .csv or .parquet file; None of other items."""
        return getattr(self.train, "columns", None)

    @cached_property
    def table(self) -> Any:
        """All rows of a table as one `data.Table`, as `whole` gives them; None of other items."""
        return None if self.columns is None else self.whole()

    def __str__(self) -> str:
        counts = f"{len(self.train):,} training and {len(self.test):,} test items"
        return f"{self.name}: {counts} of shape {self.event_shape}, {_labelled(self.train.y)}{_with(self.train)}"

    def _summary_rows(self) -> Rows:
        sizes = {
            "name": lambda: self.name,
            "items": lambda: f"{len(self.train):,} for training, {len(self.test):,} for tests",
            "event_shape": lambda: tuple(self.event_shape),
            "values": lambda: _range(self.train.x, self.test.x),
        }
        classes = {"classes": lambda: None if self.classes is None else ", ".join(self.classes)}
        rows = self.train._summary_rows()
        return {**sizes, **{name: rows[name] for name in ("stored as", "labels")}, **classes}


class Part(NamedTuple):
    """The arrays of one part of a data set."""

    name: str  # the name in errors
    items: np.ndarray
    labels: Any


def assembled(
    name: str,
    parts: Sequence[Part],
    channels: Literal["first", "last"] | None = "first",
    classes: Sequence[str] | None = None,
    *,
    scale: bool = True,
    missing: bool = False,
    stored: str | None = None,
) -> Dataset:
    """A data set from a training and a test part, or from one part, which is split; `scale` divides uint8 by 255.

    With `missing`, NaN is let through. `stored` is the dtype of the source, where it is not that of the arrays.
    """
    stored = str(parts[0].items.dtype) if stored is None else stored
    for label, array, _ in parts:
        _check_items(array, label, scale)
    order = _channels(parts[0], channels)
    kept_order = order if parts[0].items.ndim == 4 else None
    arrays = [_image_axes(array, order) for _, array, _ in parts]
    xs = _items(arrays, [label for label, _, _ in parts], scale, missing)
    ys, classes_of_labels = _labels(parts)
    names = classes_of_labels if classes is None else tuple(classes)
    event_shape = tuple(map(int, xs[0].shape[1:]))
    if len(parts) == 2:
        if xs[1].shape[1:] != xs[0].shape[1:]:
            shapes = f"{event_shape} in {parts[0][0]}, {tuple(xs[1].shape[1:])} in {parts[1][0]}"
            raise ValueError(f"training and test items must have one shape, got {shapes}")
        return Dataset(Split(xs[0], ys[0]), Split(xs[1], ys[1]), event_shape, name, names, None, stored, kept_order)
    count = len(xs[0])
    if count < 2:
        raise ValueError(f"{parts[0][0]} must have at least 2 items, for a training and a test part, got {count}")
    index = torch.from_numpy(np.random.default_rng(0).permutation(count))
    cut = count * 4 // 5
    train, test = (
        Split(x.select(part) if isinstance(x, MappedArray) else x[part], None if y is None else y[part])
        for x, y in zip(xs, ys, strict=True)
        for part in (index[:cut], index[cut:])
    )
    return Dataset(train, test, event_shape, name, names, index, stored, kept_order)


def _range(*arrays: Tensor | MappedArray) -> str | None:
    """The smallest and the largest entry; None for a memory map or a large tensor, which are not read for this."""
    if any(isinstance(x, MappedArray) or x.numel() > _MOST_LOOKED_AT for x in arrays):
        return None
    seen = [x.detach()[~x.isnan()] for x in arrays if not isinstance(x, MappedArray)]
    ends = [x.aminmax() for x in seen if len(x)]
    if not ends:
        return None
    return f"{min(float(e.min) for e in ends):g} to {max(float(e.max) for e in ends):g}"


def _place(x: Tensor | MappedArray) -> str:
    return ", read from a memory map" if isinstance(x, MappedArray) else f" on {x.device}"


def _labels_in_words(y: Tensor | None) -> str:
    if y is None:
        return "none"
    count = len(torch.unique(y))
    return f"{count} classes, {int(y.min())} to {int(y.max())}"


def _with(split: Split) -> str:
    words = {"covariates": "covariates", "exposure": "exposure", "weight": "weights", "missing": "missing entries"}
    beside = [word for name, word in words.items() if getattr(split, name) is not None]
    return f", with {' and '.join(beside)}" if beside else ""


def _labelled(y: Tensor | None) -> str:
    return "no labels" if y is None else "labelled"


def _items(
    arrays: Sequence[np.ndarray], names: Sequence[str], scale: bool, missing: bool
) -> Sequence[Tensor | MappedArray]:
    """Memory maps as views, and other arrays as tensors of one dtype, finite but for NaN where that is `missing`."""
    if all(isinstance(array, np.memmap | Shards) for array in arrays):
        return [MappedArray(array, scale=scale, name=name) for array, name in zip(arrays, names, strict=True)]
    if not scale:
        arrays = [without_bytes(array) for array in arrays]
    stored = [
        checks.checked_in_own_dtype(as_stored(array, name), array.shape[1:], name=name, allow_nan=missing)
        for array, name in zip(arrays, names, strict=True)
    ]
    dtype = dtype_that_holds(stored, names)
    return [tensor.to(dtype).contiguous() for tensor in stored]


def _check_items(array: np.ndarray, name: str, scale: bool) -> None:
    require_numbers(array, name)
    if array.ndim < 2:
        hint = "; reshape it to (N, 1) if each number is an item" if array.ndim else ""
        raise ValueError(f"{name} must have shape (N, *event), got {array.shape}{hint}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: expected shape (N, *event) with at least one item, got {array.shape}")
    # the first items only, so that a memory-mapped file is not read as a whole
    if scale and array.dtype == np.uint8 and int(array[:1000].max()) == 1:
        checks.warn(
            f"{name} is uint8 with no value over 1, and is divided by 255 as all uint8 is: 1 becomes 0.0039; save "
            "binary items as bool or float32"
        )


def _channels(part: Part, channels: Literal["first", "last"] | None) -> Literal["first", "last"]:
    label, array, _ = part
    if channels is not None:
        return channels
    if array.ndim != 4 or array.shape[-1] not in _CHANNELS or array.shape[1] in _CHANNELS:
        return "first"
    n, *event = array.shape
    moved = (n, event[-1], *event[:-1])
    checks.warn(
        f"{label} of shape {array.shape} is read as (N, H, W, C) and transposed to {moved}; channels='first' keeps it "
        "as it is, channels='last' says that this is right"
    )
    return "last"


def _image_axes(array: Any, channels: Literal["first", "last"]) -> Any:
    if isinstance(array, Shards):
        return array.each(lambda each: _image_axes(each, channels))
    if array.ndim == 3:
        return array[:, None]
    return np.moveaxis(array, -1, 1) if array.ndim == 4 and channels == "last" else array


def _labels(parts: Sequence[Part]) -> tuple[list[Tensor | None], tuple[str, ...] | None]:
    """Labels as int64, and the names of the classes if the labels were strings."""
    arrays = [
        None if y is None else checks.labels(y, len(x), name=f"the labels of {label}", of=label)
        for label, x, y in parts
    ]
    present = [array for array in arrays if array is not None]
    if present and all(array.dtype.kind in "US" for array in present):
        strings = [array.astype(str) for array in present]
        names, codes = np.unique(np.concatenate(strings), return_inverse=True)
        pieces = iter(np.split(codes, np.cumsum([len(array) for array in strings])[:-1]))
        encoded = [None if array is None else torch.from_numpy(next(pieces).astype(np.int64)) for array in arrays]
        return encoded, tuple(map(str, names))
    expected = "y must hold integers or strings in all parts"
    for array, (label, _, _) in zip(arrays, parts, strict=True):
        if array is None:
            continue
        if array.dtype.kind not in "buif":
            raise ValueError(f"{expected}, got {array.dtype} {array[:3].tolist()}...")
        bad = ~_fit_int64(array)
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(
                f"{expected}: {int(bad.sum())} labels of {label} are not whole numbers within int64, the first "
                f"{array[i]} at y[{i}]"
            )
    return [None if array is None else torch.from_numpy(array.astype(np.int64)) for array in arrays], None


def _fit_int64(array: np.ndarray) -> np.ndarray:
    """Which numbers int64 represents exactly; a cast would change the others without an error."""
    if array.dtype.kind == "u":
        return array <= np.uint64(2**63 - 1)
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    wide = array.astype(np.result_type(array, np.float64))  # 2**63 is infinite in float16
    return (wide == np.floor(wide)) & (wide >= -(2.0**63)) & (wide < 2.0**63)
