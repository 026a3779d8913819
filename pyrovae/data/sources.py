"""`load`: a data set by its name, or from a file or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.idx import idx_files, read_idx_folder
from pyrovae.data.images import read_folder
from pyrovae.data.named import MNIST_FAMILY, digits, mnist_family
from pyrovae.data.numpy_files import read_npy, read_npz

__all__ = ["load"]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    channels: Literal["first", "last"] | None = None,
    scale: bool = True,
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

    uint8 is divided by 255 and so are 8-bit images (16-bit ones by 65,535); other numbers are taken as they are. With
    `scale=False`, for counts, uint8 is taken as it is too, and the digits are 0 to 16; a folder of images is refused.
    Items of shape (H, W) become (1, H, W), and (H, W, C) becomes (C, H, W), with a warning, where the last axis is 1,
    3 or 4 and the first is not; `channels` says which it is instead. A source without a split of its own is divided
    80 / 20 by a permutation of fixed seed. Strings as labels are numbered in sorted order and kept in `classes`.

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
        return digits(scale)
    if isinstance(name_or_path, str) and name_or_path in MNIST_FAMILY:
        return mnist_family(name_or_path, checks.path("root", "data" if root is None else root), download, scale)
    path = checks.path("name_or_path", name_or_path)
    if path.is_dir():
        files = idx_files(path)
        if files:
            return read_idx_folder(path, files, channels, scale)
        if not scale:
            raise ValueError(
                f"{path} must hold IDX files where whole numbers are to be kept (scale=False), for images are read as "
                "values from 0 to 1: save their pixels as one .npy file of uint8"
            )
        return _image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in (".npy", ".npz"):
            raise ValueError(
                f"{path} must be a .npy or .npz file, or a folder of IDX files or images; archives are not unpacked"
            )
        read = read_npy if path.suffix.lower() == ".npy" else read_npz
        return read(path, channels, scale)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix:
        try:
            checks.choice("name_or_path", name_or_path, ["digits", *MNIST_FAMILY])
        except ValueError as error:
            raise ValueError(f"{error} (nor is there a file or folder of that name)") from None
    raise FileNotFoundError(f"name_or_path: there is no file or folder {path.absolute()}")


def _image_folder(folder: Path) -> Dataset:
    read = read_folder(folder)
    names = sorted({name for part in read for name in part.classes or ()})
    number = {name: i for i, name in enumerate(names)}
    parts: list[Part] = []
    for part in read:
        codes = None if part.classes is None else np.array([number[name] for name in part.classes])
        parts.append(Part(str(part.folder), part.pixels, codes))
    return assembled(folder.name, parts, classes=names or None)
