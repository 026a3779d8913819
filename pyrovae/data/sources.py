"""The function `load`: a data set by name, or from a file or folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.beside import with_beside
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.idx import idx_files, read_idx_folder
from pyrovae.data.images import read_folder
from pyrovae.data.named import MNIST_FAMILY, digits, mnist_family
from pyrovae.data.numpy_files import read_array, read_npy, read_npz, read_shards
from pyrovae.data.shards import shard_files
from pyrovae.data.tables.files import ENDINGS, is_table_file
from pyrovae.data.tables.loading import load_table

__all__ = ["load", "load_of_shape", "read_rows"]

ROWS = {"covariates": "a row of numbers for each item", "exposure": "one positive number for each item"}


@checks.flags
def load(
    name_or_path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    channels: Literal["first", "last"] | None = None,
    scale: bool = True,
    labels: Any = None,
    missing: bool = False,
    covariates: Any = None,
    exposure: Any = None,
    kinds: Any = None,
    drop: bool | Iterable[str] = (),
) -> Dataset:
    """Load a data set by name, or from a file or folder: `x` has shape (N, *event_shape), and `y` is int64 or None.

    `x` is float32, or float64 if float32 is too coarse: if rounding would change an entry by more than a thousandth of
    its column's standard deviation, as for seconds since 1970 or values with a small spread far from 0. The
    sources are:

    - "digits": the 1,797 handwritten digits of scikit-learn, divided by 16, event shape (1, 8, 8).
    - "mnist", "fashion-mnist", "kmnist": IDX files in the layout of torchvision, `root`/MNIST/raw/... (`root` is
      "data" by default). torchvision is imported only if files are missing and `download=True`.
    - a folder of IDX files (plain or .gz) with "images" and "labels" in their names, and "train", "test" or "t10k".
    - a .npy file of items without labels. It is memory-mapped: `x` is a `MappedArray`, whose values are checked when
      they are used.
    - a folder of .npy files of one shape and dtype, memory-mapped: the items of one file follow those of the file
      before it in the order of names, part-2.npy before part-10.npy.
    - a .npz file with x and y, or with x_train, y_train, x_test and y_test (also train_images, train_labels, ...; or
      train, test). It may have covariates and exposure, or covariates_train, covariates_test, and so on.
    - a .csv, .tsv or .parquet file, of which `data.table` makes a table: `x` is (N, D) with NaN where an entry is
      missing, `kinds` and `drop` are its arguments, and the parts are `Table`s that know their columns (`data.columns`,
      `data.table`). A Parquet file needs pyarrow or polars.
    - a folder of images of one size, all grey or all in colour; an image with a palette counts by the colours that it
      shows. Each class is a sub-folder, or all images are in one folder and have no labels. Sub-folders such as train
      and test, Training and Testing, train_images and test_images, or seg_train and seg_test are the parts; without a
      test part, train and validation are. The parts and the classes may be inside of a folder that is the only one in
      its folder. Images are rotated by their EXIF orientation.

    Folders: classes are numbered in the order of Python's strings ("10" before "2", "B" before "a"), and `classes` has
    their names. Hidden files (`.DS_Store`, `Thumbs.db`, `._a.png`) are ignored. A warning names whatever is not used or
    may be a mistake: a validation part if there is a test part, other folders next to the parts, formats that are not
    read, folders within classes, a single class, and classes that only the test part has. A folder whose name may be
    that of a part or of a class is refused.

    Values: uint8 and 8-bit images are divided by 255, and 16-bit images by 65,535; other numbers are kept. With
    `scale=False`, for counts, uint8 is kept too and the digits are 0 to 16; a folder of images is then refused. String
    labels are numbered in sorted order, and `classes` has the strings.

    Shapes: items of shape (H, W) become (1, H, W). Items of shape (H, W, C) are transposed to (C, H, W), with a
    warning, if the last axis is 1, 3 or 4 and the first is not; `channels` states the order explicitly. A source
    without a test part is split 80 / 20 by a permutation with a fixed seed.

    `labels`, an array or the path of a .npy file, are those of a .npy or .npz file, or of a folder of .npy files, that
    has none: integers or strings, one for each item; of a table, the name of the column that has them, which is then
    not in `x`. With `missing=True` NaN is let through, as an entry that was not seen; infinite values are refused
    still.

    `covariates`, (N, D), and `exposure`, (N,), arrays or the paths of .npy files, are a row for each item of any source
    but a folder of images, in the order of the source (the training items first where it has a test part). They are
    kept as they are, not divided by 255, and each part has those of its items (`Split`).

    Files are not trusted: the sizes that headers state are held against the file first. A .npz or .gz that would unpack
    to more than 256 MiB and 200 times its own size is refused, as are arrays of more than 32 axes and images of more
    than 2^24 pixels (`pyrovae.data.limits`), with what to do where that is right.

    Raises ValueError for an unknown name, a damaged or empty file, one beyond these limits, pickled objects, values
    that are not finite, labels of another length, and numeric labels that are not integers or do not fit int64;
    FileNotFoundError for missing files; ImportError if a download needs torchvision and it cannot be imported;
    RuntimeError for a failed download.

    >>> from pyrovae.data import load
    >>> data = load("digits")
    >>> print(data)
    digits: 1,437 training and 360 test items of shape (1, 8, 8), labelled
    >>> data.train.x.dtype, float(data.train.x.min()), float(data.train.x.max())
    (torch.float32, 0.0, 1.0)
    """
    if channels is not None:
        checks.choice("channels", channels, ["first", "last"])
    checks.path("name_or_path", name_or_path)
    of_table = is_table_file(name_or_path)
    if labels is not None and not of_table:
        if not _is_numpy_file(name_or_path):
            raise ValueError(f"labels must be left out: they are for a .npy or .npz file, and {name_or_path} is none")
        if isinstance(labels, str | os.PathLike):
            labels = read_array("labels", checks.path("labels", labels), "one label for each item")
    if not of_table and (kinds is not None or not _is_empty(drop)):
        name = "drop" if kinds is None else "kinds"
        raise ValueError(f"{name} must be left out: it is for a {', '.join(ENDINGS)} file, and {name_or_path} is none")
    if of_table and channels is not None:
        raise ValueError(f"channels must be left out: it is for images, and {name_or_path} is a table")
    beside = {"covariates": covariates, "exposure": exposure}
    for name, value in beside.items():
        if isinstance(value, str | os.PathLike):
            beside[name] = read_rows(name, value)
    if of_table and checks.path("name_or_path", name_or_path).is_file():
        data = load_table(checks.path("name_or_path", name_or_path), kinds, drop, labels)
    else:
        data = _loaded(name_or_path, root, download, channels, scale, labels, missing, beside)
    return with_beside(data, **beside)


def load_of_shape(
    name_or_path: str | os.PathLike[str],
    event_shape: Sequence[int],
    *,
    channels: Literal["first", "last"] | None,
    **options: Any,
) -> Dataset:
    """A data set whose items are to have the shape of others: the channels lie where that makes them so.

    `channels` is where those of the others lay, and counts where both orders would do. Where neither does, the items
    are as `channels` has them, for the caller to refuse. `options` are those of `load`.
    """
    first: Dataset | None = None
    orders: list[Literal["first", "last"]] = [channels or "first", "first", "last"]
    for order in dict.fromkeys(orders):
        data = load(name_or_path, channels=order, **options)
        if tuple(data.event_shape) == tuple(event_shape):
            return data
        first = first or data
    assert first is not None
    return first


def read_rows(name: str, path: str | os.PathLike[str]) -> np.ndarray:
    """The covariates or the exposure in a .npy file, unchecked."""
    return read_array(name, checks.path(name, path), ROWS[name])


def _loaded(
    name_or_path: Any,
    root: Any,
    download: bool,
    channels: Literal["first", "last"] | None,
    scale: bool,
    labels: Any,
    missing: bool,
    beside: Mapping[str, Any],
) -> Dataset:
    """The data set without what lies beside its items, unless these come with them."""
    if name_or_path == "digits":
        return digits(scale)
    if isinstance(name_or_path, str) and name_or_path in MNIST_FAMILY:
        return mnist_family(name_or_path, checks.path("root", "data" if root is None else root), download, scale)
    path = checks.path("name_or_path", name_or_path)
    if path.is_dir():
        files = idx_files(path)
        if files:
            return read_idx_folder(path, files, channels, scale)
        shards = read_shards(path, channels, scale, labels, missing)
        if shards is not None:
            return shards
        if not scale:
            raise ValueError(
                f"{path} must hold IDX files where whole numbers are to be kept (scale=False), for images are read as "
                "values from 0 to 1: save their pixels as one .npy file of uint8"
            )
        for name, value in beside.items():
            if value is not None:
                raise ValueError(
                    f"{name} must be left out: the images of a folder are in the order of its files, and {path} is "
                    "one; save their pixels as one .npy file"
                )
        return _image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in (".npy", ".npz"):
            raise ValueError(
                f"{path} must be a .npy or .npz file, a table ({', '.join(ENDINGS)}), or a folder of IDX files or "
                "images; archives are not unpacked"
            )
        read = read_npy if path.suffix.lower() == ".npy" else read_npz
        return read(path, channels, scale, labels, missing)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix:
        try:
            checks.choice("name_or_path", name_or_path, ["digits", *MNIST_FAMILY])
        except ValueError as error:
            raise ValueError(f"{error} (nor is there a file or folder of that name)") from None
    raise FileNotFoundError(f"name_or_path: there is no file or folder {path.absolute()}")


def _is_empty(drop: Any) -> bool:
    return drop is False or (isinstance(drop, tuple | list) and not drop)


def _is_numpy_file(source: Any) -> bool:
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.suffix.lower() in (".npy", ".npz") or (path.is_dir() and bool(shard_files(path)))


def _image_folder(folder: Path) -> Dataset:
    read = read_folder(folder)
    names = sorted({name for part in read for name in part.classes or ()})
    number = {name: i for i, name in enumerate(names)}
    parts: list[Part] = []
    for part in read:
        codes = None if part.classes is None else np.array([number[name] for name in part.classes])
        parts.append(Part(str(part.folder), part.pixels, codes))
    return assembled(folder.name, parts, classes=names or None, stored="images")
