"""Data sets from their names, files and folders: tensors with a training and a test part, float32 where that holds."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.metadata
import math
import operator
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.images import kind_of, read_folder
from pyrovae.hidden import visible

__all__ = ["Dataset", "MappedArray", "Split", "binarize", "load", "read_idx"]


class MappedArray:
    """Rows of an array that stays where it is, read as tensors where they are indexed.

    `source` is a NumPy array or memory map of shape (N, *event), `rows` the items of it that are seen (all by
    default). `x[index]` takes an integer, a slice, a one-dimensional array or tensor of integers, or a mask, always
    along the items; uint8 is divided by 255, other numbers are cast to `dtype`: float32, or float64 where float32 does
    not hold them (`pyrovae.rounding` has the rule), as up to 4,096 rows from all over the source say. A fit and the
    estimators look at every row in its source's own dtype. `len`, `shape` and `dtype` are those of the tensor that
    `x[:]` would be. Raises TypeError for an array of no numbers, a masked array and any other index.

    >>> import numpy as np
    >>> from pyrovae.data import MappedArray
    >>> x = MappedArray(np.array([[0, 51], [102, 255], [0, 0]], dtype=np.uint8))
    >>> x[:2].numpy()
    array([[0. , 0.2],
           [0.4, 1. ]], dtype=float32)
    >>> x.select([1]).shape
    torch.Size([1, 2])
    """

    def __init__(self, source: np.ndarray, rows: Any = None, *, dtype: torch.dtype | None = None) -> None:
        _numbers(source, "source")
        if source.ndim == 0:
            raise ValueError("source must have shape (N, *event), got a single number")
        self._source = source
        self._rows: np.ndarray | None = None if rows is None else np.arange(len(source))[_index(rows)]
        self._dtype = dtype

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 where float32 does not hold the source."""
        if self._dtype is None:
            self._dtype = _dtype_for(self._source)
        return self._dtype

    @property
    def shape(self) -> torch.Size:
        """(N, *event)."""
        return torch.Size((len(self), *self._source.shape[1:]))

    def __len__(self) -> int:
        return len(self._source if self._rows is None else self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        return _floats(self._chosen(index), self.dtype)

    def exactly(self, index: Any) -> Tensor:
        """The rows as they are in the source, of whatever dtype; uint8 over 255, in float32. `index` as in `x[index]`.

        >>> import numpy as np
        >>> from pyrovae.data import MappedArray
        >>> MappedArray(np.array([[2**60 + 1]])).exactly(0)
        tensor([1152921504606846977])
        """
        return _as_stored(self._chosen(index))

    def reading(self, dtype: torch.dtype) -> MappedArray:
        """The same rows, read as `dtype`, float32 or float64."""
        return MappedArray(self._source, self._rows, dtype=dtype)

    def _chosen(self, index: Any) -> np.ndarray:
        chosen = _index(index)
        found: np.ndarray = self._source[chosen if self._rows is None else self._rows[chosen]]
        return found

    def __repr__(self) -> str:
        return f"MappedArray({self._source.dtype}, shape {tuple(self.shape)})"

    def select(self, index: Any) -> MappedArray:
        """A view of some of the rows, nothing read or copied; `index` as in `x[index]`.

        >>> import numpy as np
        >>> from pyrovae.data import MappedArray
        >>> MappedArray(np.zeros((10, 3))).select(slice(0, 10, 2)).select([4, 0]).shape
        torch.Size([2, 3])
        """
        rows = np.arange(len(self)) if self._rows is None else self._rows
        return MappedArray(self._source, rows[_index(index)].reshape(-1), dtype=self._dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The items of one part of a data set: `x` of shape (N, *event), `y` int64 of shape (N,) or None.

    `fit` and the estimators take it in the place of `x`.

    >>> import torch
    >>> from pyrovae.data import Split
    >>> print(Split(torch.zeros(3, 1, 8, 8), None))
    3 items of shape (1, 8, 8), no labels
    """

    x: Tensor | MappedArray
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __str__(self) -> str:
        return f"{len(self):,} items of shape {tuple(self.x.shape[1:])}, {_labelled(self.y)}"

    def __repr__(self) -> str:
        return f"Split({self})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training and a test part, the shape of one item, and a name.

    `classes` holds the original names where labels were strings: item i belongs to `classes[y[i]]`.

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

    def __str__(self) -> str:
        counts = f"{len(self.train):,} training and {len(self.test):,} test items"
        return f"{self.name}: {counts} of shape {self.event_shape}, {_labelled(self.train.y)}"

    def __repr__(self) -> str:
        return f"Dataset({self})"


def load(
    name_or_path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    channels: Literal["first", "last"] | None = None,
) -> Dataset:
    """A data set by its name, or from a file or folder: `x` of shape (N, *event_shape), `y` int64 or None.

    `x` is float32, or float64 where float32 does not hold what came: where rounding would move an entry by more than a
    thousandth of its column's standard deviation, as of seconds since 1970 or of a small spread far from 0.

    - "digits": the 1,797 handwritten digits of scikit-learn, over 16, event shape (1, 8, 8).
    - "mnist", "fashion-mnist", "kmnist": IDX files in the layout of torchvision, `root`/MNIST/raw/... (`root` is
      "data" by default). torchvision is imported only where files are missing and `download=True` asks for them.
    - a folder of IDX files (plain or .gz) with "images" and "labels" in their names, and "train", "test" or "t10k".
    - a .npy file: items alone, memory-mapped, so that `x` is a `MappedArray` and values are looked at when used.
    - a .npz file: x and y; or x_train, y_train, x_test, y_test (also train_images, train_labels, ...; train, test).
    - a folder of images, all grey or all colour (a palette counts as what it shows), of one size: a sub-folder per
      class, or all in one folder without labels. Sub-folders such as train and test, Training and Testing, train_images
      and test_images or seg_train and seg_test are the split, or train and validation where there is no test; they and
      the classes may lie below a folder that is alone in its own. An image is turned as its EXIF orientation says.

    Classes are numbered in the order of Python's strings: "10" comes before "2", "B" before "a"; `classes` has their
    names. Of folders, hidden files (`.DS_Store`, `Thumbs.db`, `._a.png`) never count. What is not used is named by a
    warning: a validation part beside a test, a sibling of the parts, a format that is not read, folders within classes,
    one class alone, classes that only the test part has. A name that may be a part's or a class's is refused.

    uint8 is divided by 255 and so are 8-bit images (16-bit ones by 65,535); other numbers are taken as they are. Items
    of shape (H, W) become (1, H, W), and (H, W, C) becomes (C, H, W), with a warning, where the last axis is 1, 3 or 4
    and the first is not; `channels` says which it is instead. A source without a split of its own is divided 80 / 20
    by a permutation of fixed seed. Strings as labels are numbered in sorted order and kept in `classes`.

    Raises ValueError for an unknown name, a damaged or empty file, pickled objects, values that are not finite, labels
    of another length and numbers as labels that are not whole or do not fit int64; FileNotFoundError for missing files;
    ImportError where a download needs a torchvision that does not import; RuntimeError for a failed download.

    >>> from pyrovae.data import load
    >>> data = load("digits")
    >>> print(data)
    digits: 1,437 training and 360 test items of shape (1, 8, 8), labelled
    >>> data.train.x.dtype, float(data.train.x.min()), float(data.train.x.max())
    (torch.float32, 0.0, 1.0)
    """
    if channels is not None:
        checks.choice("channels", channels, ["first", "last"])
    if name_or_path == "digits":
        return _digits()
    if isinstance(name_or_path, str) and name_or_path in _FAMILY:
        return _family(name_or_path, checks.path("root", "data" if root is None else root), download)
    path = checks.path("name_or_path", name_or_path)
    if path.is_dir():
        files = _idx_files(path)
        return _idx_folder(path, files, channels) if files else _image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in (".npy", ".npz"):
            raise ValueError(
                f"{path} must be a .npy or .npz file, or a folder of IDX files or images; archives are not unpacked"
            )
        return _npy(path, channels) if path.suffix.lower() == ".npy" else _npz(path, channels)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix:
        try:
            checks.choice("name_or_path", name_or_path, ["digits", *_FAMILY])
        except ValueError as error:
            raise ValueError(f"{error} (nor is there a file or folder of that name)") from None
    raise FileNotFoundError(f"name_or_path: there is no file or folder {path.absolute()}")


def binarize(
    x: Tensor | MappedArray | np.ndarray, *, how: Literal["sample", "threshold"] = "sample", seed: int = 0
) -> Tensor:
    """Values in [0, 1] made 0 or 1: a draw of Bernoulli(x) each ("sample"), or x >= 0.5 ("threshold").

    Shape and dtype stay; draws depend on `seed` alone, whatever the device. Raises ValueError for an empty `x`, for
    NaN and for values outside [0, 1]; TypeError for a masked array. One "sample" for all epochs is the static, one for
    each the stochastic binarisation of Burda, Grosse and Salakhutdinov (2016), appendix D and table 1.

    >>> import torch
    >>> from pyrovae.data import binarize
    >>> binarize(torch.tensor([0.0, 0.49, 0.5, 1.0]), how="threshold")
    tensor([0., 0., 1., 1.])
    >>> round(float(binarize(torch.full((500, 500), 0.25)).mean()), 2)
    0.25
    """
    checks.choice("how", how, ["sample", "threshold"])
    seed = checks.seed(seed, most=2**64 - 1)  # torch takes it as it is
    if isinstance(x, Tensor):
        values = x.detach()
    elif isinstance(x, MappedArray):
        values = x.exactly(slice(None))
    else:
        array = np.asanyarray(x)
        _numbers(array, "x")
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if values.numel() == 0:
        raise ValueError(f"x is empty: expected at least one value, got shape {tuple(values.shape)}")
    absent = int(torch.isnan(values).sum())
    seen = values[~torch.isnan(values)] if absent else values
    if absent or bool(seen.min() < 0) or bool(seen.max() > 1):
        found = f"min {float(seen.min()):g}, max {float(seen.max()):g}" if seen.numel() else "no other value"
        hint = "impute or drop them first" if absent else "scale x to [0, 1] first (8-bit values: divide by 255)"
        raise ValueError(f"x must lie in [0, 1] to be binarised, got {found} and {absent} NaN; {hint}")
    values = values.to(x.dtype) if isinstance(x, MappedArray) else values
    if how == "threshold":
        return (values >= 0.5).to(values.dtype)
    # half precision has too few uniform numbers for a fair draw
    precision = torch.float64 if values.dtype == torch.float64 else torch.float32
    uniform = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=precision)
    return (uniform.to(values.device) < values).to(values.dtype)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, plain or .gz, in the byte order of this machine.

    Two zero bytes, a code for the dtype, the number of axes, a big-endian uint32 an axis, then the values. Raises
    ValueError for another magic number and where the file is longer or shorter than its header says. Format:
    LeCun, Cortes and Burges, "The MNIST database", section "File formats".

    >>> import pathlib
    >>> import tempfile
    >>> from pyrovae.data.sources import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = checks.path("path", path)
    again = "delete it and fetch or copy it again"
    data, whole = _unpacked(path)
    axes = data[3] if len(data) >= 4 else 0
    if data[:2] != b"\0\0"[: len(data)] or (len(data) >= 4 and (data[2] not in _IDX_DTYPES or axes == 0)):
        start = data[:4].hex(" ")
        raise ValueError(f"{path} is no IDX file: expected 00 00, a dtype code, axes at its start, got {start}")
    head = 4 + 4 * axes
    if len(data) < max(head, 8):
        raise ValueError(f"{path} is truncated: expected at least {max(head, 8)} bytes, got {len(data)}; {again}")
    shape = struct.unpack(f">{axes}I", data[4:head])
    dtype = np.dtype(_IDX_DTYPES[data[2]])
    expected = head + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        fault = "is truncated" if len(data) < expected else "is too long"
        got = f"{len(data)} once unpacked" if path.suffix == ".gz" else len(data)
        raise ValueError(f"{path} {fault}: expected {expected} bytes for shape {shape}, got {got}; {again}")
    if not whole:
        raise ValueError(f"{path} is truncated: the values are there but the checksum after them is not; {again}")
    return np.frombuffer(data, dtype, offset=head).reshape(shape).astype(dtype.newbyteorder("="))


_FAMILY = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHANNELS = (1, 3, 4)
_ROWS, _ENTRIES = 4096, 2**23  # of a memory map, that say which dtype holds it

# a part of a source: what it is called in errors, its items, its labels
_Part = tuple[str, np.ndarray, Any]


def _labelled(y: Tensor | None) -> str:
    return "no labels" if y is None else "labelled"


def _index(index: Any) -> Any:
    """`index` as a slice, an int, or a one-dimensional integer or boolean array."""
    if isinstance(index, slice):
        return index
    if isinstance(index, Tensor):
        index = index.detach().cpu().numpy()
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


def _numbers(array: np.ndarray, name: str) -> None:
    checks.unmasked(array, name)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype}")


def _floats(array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    # a copy: torch takes no negative strides or foreign byte order, and warns of read-only memory
    wide = dtype == torch.float64 and array.dtype != np.uint8
    tensor = torch.from_numpy(np.array(array, dtype=np.float64 if wide else np.float32, order="C"))
    return tensor.div_(255).to(dtype) if array.dtype == np.uint8 else tensor


def _as_stored(array: np.ndarray, name: str = "source") -> Tensor:
    """A tensor of the array's own dtype, and no copy where torch can do without; uint8 over 255."""
    if array.dtype == np.uint8:
        return _floats(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has none of more digits
    plain = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return checks.array(torch.from_numpy(array) if plain else array, name)


def _dtype_for(source: np.ndarray) -> torch.dtype:
    """float32 or float64, by rows from all over the source: a memory map may be larger than can be read for this."""
    if np.can_cast(source.dtype, np.float32):
        return torch.float32
    count = min(len(source), max(2, min(_ROWS, _ENTRIES // max(1, source[:1].size))))
    rows = _as_stored(source[np.linspace(0, len(source) - 1, count).astype(np.intp)])
    if rows.dtype.is_floating_point:
        rows = torch.where(rows.isfinite(), rows, torch.nan)  # who uses the items is told of these
    return _dtype_that_holds([rows], ["source"])


def _dtype_that_holds(parts: Sequence[Tensor], names: Sequence[str]) -> torch.dtype:
    """float32, or float64 where float32 does not hold one of the parts; ValueError where neither does."""
    for part, name in zip(parts, names, strict=True):
        try:
            checks.held(part, torch.float32, name=name)
        except ValueError:
            for each, its_name in zip(parts, names, strict=True):
                checks.held(each, torch.float64, name=its_name)
            return torch.float64
    return torch.float32


def _dataset(
    name: str,
    parts: Sequence[_Part],
    channels: Literal["first", "last"] | None = "first",
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Training and test part, or one part to be divided, as a data set."""
    for label, array, _ in parts:
        _check_items(array, label)
    order = _channels(parts[0], channels)
    arrays = [_image_axes(array, order) for _, array, _ in parts]
    xs = _items(arrays, [label for label, _, _ in parts])
    ys, found = _labels(parts)
    names = found if classes is None else tuple(classes)
    event_shape = tuple(map(int, xs[0].shape[1:]))
    if len(parts) == 2:
        if xs[1].shape[1:] != xs[0].shape[1:]:
            shapes = f"{event_shape} in {parts[0][0]}, {tuple(xs[1].shape[1:])} in {parts[1][0]}"
            raise ValueError(f"training and test items must have one shape, got {shapes}")
        return Dataset(Split(xs[0], ys[0]), Split(xs[1], ys[1]), event_shape, name, names)
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
    return Dataset(train, test, event_shape, name, names)


def _items(arrays: Sequence[np.ndarray], names: Sequence[str]) -> Sequence[Tensor | MappedArray]:
    """Memory maps as views, other arrays as finite tensors of one dtype."""
    if all(isinstance(array, np.memmap) for array in arrays):
        return [MappedArray(array) for array in arrays]
    stored = [
        checks.as_given(_as_stored(array, name), array.shape[1:], name=name)
        for array, name in zip(arrays, names, strict=True)
    ]
    dtype = _dtype_that_holds(stored, names)
    return [tensor.to(dtype).contiguous() for tensor in stored]


def _check_items(array: np.ndarray, name: str) -> None:
    _numbers(array, name)
    if array.ndim < 2:
        hint = "; reshape it to (N, 1) if each number is an item" if array.ndim else ""
        raise ValueError(f"{name} must have shape (N, *event), got {array.shape}{hint}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: expected shape (N, *event) with at least one item, got {array.shape}")
    # the first items alone: a mapped file is not read to its end for this
    if array.dtype == np.uint8 and int(array[:1000].max()) == 1:
        warnings.warn(
            f"{name} is uint8 with no value over 1, and is divided by 255 as all uint8 is: 1 becomes 0.0039; save "
            "binary items as bool or float32",
            stacklevel=4,
        )


def _channels(part: _Part, channels: Literal["first", "last"] | None) -> Literal["first", "last"]:
    label, array, _ = part
    if channels is not None:
        return channels
    if array.ndim != 4 or array.shape[-1] not in _CHANNELS or array.shape[1] in _CHANNELS:
        return "first"
    n, *event = array.shape
    moved = (n, event[-1], *event[:-1])
    warnings.warn(
        f"{label} of shape {array.shape} is read as (N, H, W, C) and transposed to {moved}; channels='first' keeps it "
        "as it is, channels='last' says that this is right",
        stacklevel=5,
    )
    return "last"


def _image_axes(array: np.ndarray, channels: Literal["first", "last"]) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    return np.moveaxis(array, -1, 1) if array.ndim == 4 and channels == "last" else array


def _labels(parts: Sequence[_Part]) -> tuple[list[Tensor | None], tuple[str, ...] | None]:
    """Labels as int64, and the names of the classes where they were strings."""
    arrays = [
        None if y is None else checks.labels(y, len(x), name=f"the labels of {label}", of=label)
        for label, x, y in parts
    ]
    there = [array for array in arrays if array is not None]
    if there and all(array.dtype.kind in "US" for array in there):
        strings = [array.astype(str) for array in there]
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
    """Which numbers int64 holds as they are: a cast gives its least number for the others, or wraps round."""
    if array.dtype.kind == "u":
        return array <= np.uint64(2**63 - 1)
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    wide = array.astype(np.result_type(array, np.float64))  # 2**63 is infinite in float16
    return (wide == np.floor(wide)) & (wide >= -(2.0**63)) & (wide < 2.0**63)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _dataset("digits", [("digits", bunch.images.astype(np.float32) / 16, bunch.target)])


def _family(name: str, root: Path, download: bool) -> Dataset:
    raw = root / _FAMILY[name] / "raw"
    if download and _absent(raw):
        _download(name, root, raw)
    if absent := _absent(raw):
        raise FileNotFoundError(
            f"{name}: no {', '.join(absent)} (plain or .gz) in {raw.absolute()}; "
            f"load({name!r}, root={str(root)!r}, download=True) fetches them, or put them there"
        )
    files = [_plain_or_gz(raw / file) for file in _IDX_FILES]
    train_x, train_y, test_x, test_y = map(read_idx, files)
    return _dataset(name, [(str(files[0]), train_x, train_y), (str(files[2]), test_x, test_y)])


def _absent(raw: Path) -> list[str]:
    return [file for file in _IDX_FILES if not _plain_or_gz(raw / file).is_file()]


def _plain_or_gz(path: Path) -> Path:
    return path if path.is_file() else path.with_name(path.name + ".gz")


def _download(name: str, root: Path, raw: Path) -> None:
    """Have torchvision fetch the files of a data set into its layout."""
    by_hand = f"put the IDX files {', '.join(_IDX_FILES)} (plain or .gz) into {raw.absolute()}"
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise ImportError(_unfit(error, by_hand)) from error
        raise ImportError(f"download=True needs torchvision, which is not there; install it, or {by_hand}") from error
    except Exception as error:  # a build for another torch fails with RuntimeError, OSError or AttributeError
        raise ImportError(_unfit(error, by_hand)) from error
    kind = getattr(datasets, _FAMILY[name])
    try:
        kind(str(root), train=True, download=True)
    except Exception as error:
        damaged = []
        for file, expected in kind.resources:
            path = raw / Path(file).name
            actual = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else expected
            if actual != expected:
                damaged.append(f"{path.absolute()} (expected MD5 {expected}, got {actual})")
        if damaged:
            raise RuntimeError(
                f"{name}: the checksum is wrong of {', '.join(damaged)}; delete what is named here and load again"
            ) from error
        raise RuntimeError(f"{name}: the download failed: {error}; try again, or {by_hand}") from error


def _unfit(error: Exception, by_hand: str) -> str:
    versions = []
    for package in ("torchvision", "torch"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} of unknown version")
    return (
        f"{versions[0]} does not fit the installed {versions[1]} ({type(error).__name__}: {error}). Only download=True "
        "needs it: everything else works. Install the torchvision made for this torch, both from one package index, or "
        f"{by_hand}"
    )


def _unpacked(path: Path) -> tuple[bytes, bool]:
    """All bytes of a file, and whether a gzip stream came to its end."""
    if path.suffix != ".gz":
        return path.read_bytes(), True
    chunks, whole = [], True
    with gzip.open(path) as file:
        try:
            # read1 hands out what is there before a cut; read would lose it
            while chunk := file.read1(1 << 20):
                chunks.append(chunk)
        except EOFError:
            whole = False
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}; delete it and fetch or copy it again") from None
    return b"".join(chunks), whole


def _idx_files(folder: Path) -> list[Path]:
    """Files whose name says that they hold IDX images or labels, an unpacked one before its .gz."""
    found: dict[str, Path] = {}
    for path in visible(folder):
        stem = path.name.removesuffix(".gz").lower()
        kind = "." not in stem or re.search("idx|ubyte", stem)
        if kind and re.search("images|labels", stem) and path.is_file():
            found.setdefault(stem, path)
    return list(found.values())


def _idx_folder(folder: Path, files: Sequence[Path], channels: Literal["first", "last"] | None) -> Dataset:
    groups: dict[str, list[Path]] = {}
    for path in files:
        name = path.name.lower()
        part = "train" if "train" in name else "test" if re.search("test|t10k", name) else "all"
        groups.setdefault(f"{part} {'images' if 'images' in name else 'labels'}", []).append(path)
    several = next((paths for paths in groups.values() if len(paths) > 1), None)
    there = [part for part in ("train", "test", "all") if f"{part} images" in groups]
    if several or there not in (["train", "test"], ["train"], ["test"], ["all"]):
        listed = ", ".join(path.name for path in several or files)
        raise ValueError(f"{folder} must hold the images of a training and a test part, or of one part, got {listed}")
    parts: list[_Part] = []
    for part in there:
        images, labels = groups[f"{part} images"][0], groups.get(f"{part} labels")
        parts.append((str(images), read_idx(images), read_idx(labels[0]) if labels else None))
    return _dataset(folder.name, parts, channels)


def _npy(path: Path, channels: Literal["first", "last"] | None) -> Dataset:
    array = _numpy(path, partial(np.load, path, mmap_mode="r", allow_pickle=False))
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is no .npy file but an archive; name it .npz")
    return _dataset(path.stem, [(path.name, array, None)], channels)


def _npz(path: Path, channels: Literal["first", "last"] | None) -> Dataset:
    # opened here, since NumPy leaves a damaged archive open
    with path.open("rb") as file:
        archive = _numpy(path, partial(np.load, file, allow_pickle=False))
        if isinstance(archive, np.ndarray):
            raise ValueError(f"{path} is no .npz archive but one array; name it .npy")
        keys = list(archive.keys())
        parts: list[_Part] = []
        for x, y in _npz_keys(path, keys):
            labels = None if y is None else _numpy(path, partial(archive.__getitem__, y), y)
            parts.append((f"{path.name}:{x}", _numpy(path, partial(archive.__getitem__, x), x), labels))
    return _dataset(path.stem, parts, channels)


def _npz_keys(path: Path, keys: Sequence[str]) -> list[tuple[str, str | None]]:
    """The keys of items and labels, for each part that an archive holds; parts that are not used are named."""
    lower: dict[str, str] = {}
    for key in keys:
        lower.setdefault(key.lower(), key)

    def first(*names: str) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    def of(*parts: str) -> tuple[str | None, str | None]:
        xs = [name for part in parts for name in (f"x_{part}", f"{part}_x", f"{part}_images", f"{part}_data", part)]
        return first(*xs), first(*[name for part in parts for name in (f"y_{part}", f"{part}_y", f"{part}_labels")])

    train, test = of("train", "training"), of("test", "testing")
    valid = of("valid", "validation", "val", "dev")
    if train[0] is not None and test[0] is None and valid[0] is not None:
        checks.warn(f"{path}: {valid[0]!r} is taken as the test part: there is no other")
        test = valid
    x = first("x", "data", "images", "arr_0")
    if train[0] is not None and test[0] is not None:
        chosen = [(train[0], train[1]), (test[0], test[1])]
    elif x is not None:
        chosen = [(x, first("y", "labels", "target"))]
    else:
        raise ValueError(
            f"{path} must hold 'x', or 'x_train' and 'x_test' (with labels: 'y', or 'y_train' and 'y_test'), "
            f"got {', '.join(map(repr, keys)) or 'nothing'}"
        )
    used = {key for pair in chosen for key in pair}
    unused = [key for key in keys if key not in used and (kind_of(key) or key.lower() in ("x", "y"))]
    if unused:
        kept = ", ".join(repr(key) for key in keys if key in used)
        checks.warn(f"of {path} {', '.join(map(repr, unused))} are not used, only {kept}")
    return chosen


def _numpy(path: Path, read: Callable[[], Any], key: str | None = None) -> Any:
    """What `read` returns; NumPy's errors in words that name the file."""
    what = str(path) if key is None else f"{path}:{key}"
    try:
        return read()
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        if re.search("object|pickle", str(error), re.IGNORECASE):
            raise ValueError(
                f"{what} holds pickled Python objects, or no NumPy array at all; a pickle can run code and is never "
                "opened: save an array of numbers (or strings, for labels)"
            ) from None
        raise ValueError(f"{what} is damaged or no NumPy file: {error}") from error


def _image_folder(folder: Path) -> Dataset:
    read = read_folder(folder)
    names = sorted({name for part in read for name in part.classes or ()})
    number = {name: i for i, name in enumerate(names)}
    parts: list[_Part] = []
    for part in read:
        codes = None if part.classes is None else np.array([number[name] for name in part.classes])
        parts.append((str(part.folder), part.pixels, codes))
    return _dataset(folder.name, parts, classes=names or None)
