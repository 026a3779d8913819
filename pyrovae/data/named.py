"""Data sets with names: the digits of scikit-learn, and the MNIST family."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from pathlib import Path

import numpy as np

from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.idx import read_idx

__all__ = ["MNIST_FAMILY", "digits", "mnist_family"]

MNIST_FAMILY = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def digits(scale: bool = True) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, divided by 16; without `scale` whole numbers from 0 to 16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.float32) / (16 if scale else 1)
    return assembled("digits", [Part("digits", images, bunch.target)])


def mnist_family(name: str, root: Path, download: bool, scale: bool = True) -> Dataset:
    """MNIST, Fashion-MNIST or KMNIST from IDX files in torchvision's layout."""
    raw = root / MNIST_FAMILY[name] / "raw"
    if download and _absent(raw):
        _download(name, root, raw)
    if absent := _absent(raw):
        raise FileNotFoundError(
            f"{name}: no {', '.join(absent)} (plain or .gz) in {raw.absolute()}; "
            f"load({name!r}, root={str(root)!r}, download=True) fetches them, or put them there"
        )
    files = [_plain_or_gz(raw / file) for file in MNIST_FILES]
    train_x, train_y, test_x, test_y = map(read_idx, files)
    parts = [Part(str(files[0]), train_x, train_y), Part(str(files[2]), test_x, test_y)]
    return assembled(name, parts, scale=scale)


def _absent(raw: Path) -> list[str]:
    return [file for file in MNIST_FILES if not _plain_or_gz(raw / file).is_file()]


def _plain_or_gz(path: Path) -> Path:
    return path if path.is_file() else path.with_name(path.name + ".gz")


def _download(name: str, root: Path, raw: Path) -> None:
    """Download the files of a data set by torchvision, in its layout."""
    by_hand = f"put the IDX files {', '.join(MNIST_FILES)} (plain or .gz) into {raw.absolute()}"
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise ImportError(_unfit(error, by_hand)) from error
        raise ImportError(f"download=True needs torchvision, which is not there; install it, or {by_hand}") from error
    except Exception as error:  # a build for another torch raises RuntimeError, OSError or AttributeError
        raise ImportError(_unfit(error, by_hand)) from error
    kind = getattr(datasets, MNIST_FAMILY[name])
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
