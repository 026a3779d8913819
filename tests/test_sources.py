"""Data sets hold the numbers of their files: against hand-written bytes, other readers and known counts."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import pyrovae.data
from pyrovae.data import Dataset, MappedArray, Split, binarize, load
from pyrovae.data.idx import read_idx

SHARED = Path(__file__).parents[2] / "shared" / "data"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    """An IDX file by the letter of the format: one value after another, big-endian."""
    kind = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}[code]
    head = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return head + b"".join(struct.pack(f">{kind}", value) for value in array.ravel().tolist())


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def family(folder: Path, *, packed: bool = False) -> tuple[np.ndarray, ...]:
    """Four small files in torchvision's layout, and what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = pixels(6, 4, 5), pixels(6, seed=1) % 10, pixels(3, 4, 5, seed=2), pixels(3, seed=3) % 10
    for name, array in zip(NAMES, arrays, strict=True):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


def rows(x: Any) -> list[tuple[float, ...]]:
    return sorted(tuple(row) for row in x[:].reshape(len(x), -1).tolist())


def split_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.random.default_rng(0).permutation(n)
    return index[: n * 4 // 5], index[n * 4 // 5 :]


# names ----------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_over_16() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test), data.event_shape, data.name) == (1437, 360, (1, 8, 8), "digits")
    bunch = load_digits()
    for part, index in zip((data.train, data.test), split_of(1797), strict=True):
        assert part.x.dtype == torch.float32
        assert part.y is not None
        assert part.y.dtype == torch.int64
        np.testing.assert_array_equal(part.x.numpy()[:, 0], bunch.images[index] / 16)  # type: ignore[union-attr]
        np.testing.assert_array_equal(part.y.numpy(), bunch.target[index])
    # the order itself, so that another generator would be seen
    assert data.test.y is not None
    assert np.random.default_rng(0).permutation(10).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_mnist_family_is_read_from_torchvisions_layout(
    tmp_path: Path, name: str, folder: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = family(tmp_path / "data" / folder / "raw", packed=packed)
    monkeypatch.chdir(tmp_path)  # "data" in the working directory is the default root
    for data in (load(name), load(name, root=tmp_path / "data"), load(name, root="data", download=True)):
        assert (data.name, data.event_shape, len(data.train), len(data.test)) == (name, (1, 4, 5), 6, 3)
        np.testing.assert_array_equal(data.train.x[:], (arrays[0] / np.float32(255))[:, None])
        np.testing.assert_array_equal(data.test.x[:], (arrays[2] / np.float32(255))[:, None])
        assert data.train.y is not None
        assert data.test.y is not None
        assert (data.train.y.tolist(), data.test.y.tolist()) == (arrays[1].tolist(), arrays[3].tolist())


def test_a_missing_file_is_named_with_its_folder_and_the_way_to_it(tmp_path: Path) -> None:
    family(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", root=tmp_path)
    for part in (NAMES[1], str(tmp_path / "MNIST" / "raw"), "download=True"):
        assert part in str(error.value)
    assert NAMES[0] not in str(error.value)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    if not (SHARED / "MNIST" / "raw" / NAMES[0]).is_file():
        pytest.skip(f"MNIST is not in {SHARED}")
    return load("mnist", root=SHARED)


def test_mnist_has_its_known_counts_mean_and_deviation(mnist: Dataset) -> None:
    assert (len(mnist.train), len(mnist.test), mnist.event_shape) == (60000, 10000, (1, 28, 28))
    assert tuple(mnist.train.x.shape) == (60000, 1, 28, 28)
    assert isinstance(mnist.train.x, torch.Tensor)
    assert isinstance(mnist.test.x, torch.Tensor)
    assert mnist.train.y is not None
    assert mnist.test.y is not None
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(mnist.train.y).tolist() == counts
    assert torch.bincount(mnist.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (float(mnist.train.x.min()), float(mnist.train.x.max())) == (0, 1)
    pixel = mnist.train.x.numpy()
    assert pixel.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixel.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    assert str(mnist) == "mnist: 60,000 training and 10,000 test items of shape (1, 28, 28), labelled"


# downloads ------------------------------------------------------------------------------------------


def torchvision_that(fetch: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a torchvision in place whose MNIST classes run `fetch` on their folder."""
    good = {name: hashlib.md5(f"right {name}".encode()).hexdigest() for name in NAMES}

    def kind(name: str) -> type:
        def init(self: Any, root: str, train: bool = True, download: bool = False) -> None:
            assert download
            folder = Path(root) / name / "raw"
            folder.mkdir(parents=True, exist_ok=True)
            fetch(folder)

        return type(name, (), {"__init__": init, "resources": [(f"{n}.gz", md5) for n, md5 in good.items()]})

    datasets = types.ModuleType("torchvision.datasets")
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        setattr(datasets, name, kind(name))
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_a_download_goes_through_torchvision_and_is_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def fetch(folder: Path) -> None:
        calls.append(folder)
        family(folder)

    torchvision_that(fetch, monkeypatch)
    with pytest.raises(FileNotFoundError):
        load("kmnist", root=tmp_path)
    assert calls == []
    assert len(load("kmnist", root=tmp_path, download=True).train) == 6
    assert len(load("kmnist", root=tmp_path, download=True).train) == 6
    assert calls == [tmp_path / "KMNIST" / "raw"]


def test_a_wrong_checksum_names_file_both_sums_and_what_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(folder: Path) -> None:
        (folder / f"{NAMES[0]}.gz").write_bytes(f"right {NAMES[0]}".encode())
        (folder / f"{NAMES[1]}.gz").write_bytes(b"wrong")
        raise RuntimeError("File not found or corrupted.")

    torchvision_that(fetch, monkeypatch)
    with pytest.raises(RuntimeError) as error:
        load("mnist", root=tmp_path, download=True)
    expected, actual = hashlib.md5(f"right {NAMES[1]}".encode()).hexdigest(), hashlib.md5(b"wrong").hexdigest()
    path = tmp_path / "MNIST" / "raw" / f"{NAMES[1]}.gz"
    for part in (str(path), f"expected MD5 {expected}, got {actual}", "delete"):
        assert part in str(error.value)
    assert NAMES[0] not in str(error.value)
    assert path.is_file()


def test_a_download_that_fails_without_a_damaged_file_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(folder: Path) -> None:
        raise OSError("no route to host")

    torchvision_that(fetch, monkeypatch)
    with pytest.raises(RuntimeError, match=r"mnist: the download failed: no route to host; .* put the IDX files"):
        load("mnist", root=tmp_path, download=True)


@pytest.mark.parametrize(
    "fault", ["raise RuntimeError('operator torchvision::nms does not exist')", "raise OSError('undefined symbol')"]
)
def test_a_torchvision_that_does_not_fit_torch_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(fault)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", {"torch": "2.98", "torchvision": "0.99"}.__getitem__)
    with pytest.raises(ImportError) as error:
        load("mnist", root=tmp_path, download=True)
    parts = ("torchvision 0.99 does not fit the installed torch 2.98", fault.split("'")[1], "everything else works")
    for part in (*parts, str(tmp_path / "MNIST" / "raw"), *NAMES):
        assert part in str(error.value)
    assert len(load("digits").train) == 1437


def test_a_torchvision_that_is_not_there_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.split(".")[0] == "torchvision":
                raise ModuleNotFoundError(f"No module named {name!r}", name="torchvision")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ImportError, match="needs torchvision, which is not there; install it, or put the IDX files"):
        load("mnist", root=tmp_path, download=True)


# IDX ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "dtype", "values"),
    [
        (0x08, np.uint8, [0, 1, 127, 128, 200, 255]),
        (0x09, np.int8, [-128, -1, 0, 1, 2, 127]),
        (0x0B, np.int16, [-32768, -2, 0, 258, 1, 32767]),
        (0x0C, np.int32, [-(2**31), -3, 0, 66051, 1, 2**31 - 1]),
        (0x0D, np.float32, [-1.5, 0.0, 0.25, 1e30, -2e-30, 3.0]),
        (0x0E, np.float64, [-1.5, 0.1, 0.25, 1e300, -2e-300, 3.0]),
    ],
)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 3, 2)])
def test_every_idx_dtype_is_read(
    tmp_path: Path, code: int, dtype: type, values: list[float], shape: tuple[int, ...]
) -> None:
    array: np.ndarray = np.array(values, dtype).reshape(shape)
    (tmp_path / "x-images").write_bytes(idx(array, code))
    (tmp_path / "x-images.gz").write_bytes(gzip.compress(idx(array, code)))
    for name in ("x-images", "x-images.gz"):
        found = read_idx(tmp_path / name)
        assert found.dtype == np.dtype(dtype)
        assert found.dtype.isnative
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("change", "fault"), [(-1, "truncated"), (-100, "truncated"), (1, "too long"), (50, "too long")]
)
def test_an_idx_file_of_another_length_names_file_and_both_counts(
    tmp_path: Path, packed: bool, change: int, fault: str
) -> None:
    whole = idx(pixels(6, 4, 5))
    assert len(whole) == 16 + 120
    data = whole[:change] if change < 0 else whole + bytes(change)
    path = tmp_path / ("t-images-idx3-ubyte" + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    message = rf"{path.name} is {fault}: expected 136 bytes .*\(6, 4, 5\), got {136 + change}\b"
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_a_gzip_file_that_is_cut_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t-images-idx3-ubyte.gz"
    packed = gzip.compress(idx(pixels(60, 28, 28)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"expected 47056 bytes for shape \(60, 28, 28\), got \d{4,5} once unpacked"):
        read_idx(path)
    path.write_bytes(packed[:-4])  # all values, half of the trailer
    with pytest.raises(ValueError, match="the values are there but the checksum"):
        read_idx(path)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"ubyte.gz is a damaged gzip file"):
        read_idx(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: expected at least 8 bytes, got 0"),
        (b"\0\0\x08", "truncated: expected at least 8 bytes, got 3"),
        (b"\0\0\x08\x03\0\0\0\x06", "truncated: expected at least 16 bytes, got 8"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file: expected 00 00.*got 89 50 4e 47"),
        (b"\0\0\x0a\x01\0\0\0\x01\0", "no IDX file.*got 00 00 0a 01"),
        (b"\0\0\x08\x00\0\0\0\x01", "no IDX file.*got 00 00 08 00"),
        (b"\0\0\x08\x03" + b"\xff" * 12, f"truncated: expected {16 + (2**32 - 1) ** 3} bytes"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "labels")


def test_a_damaged_file_of_a_named_set_is_named(tmp_path: Path) -> None:
    family(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / NAMES[2]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"{path} is truncated: expected 76 bytes .* got 69; delete it"):
        load("mnist", root=tmp_path)


def test_a_folder_of_idx_files_is_its_own_split(tmp_path: Path) -> None:
    arrays = family(tmp_path / "four")
    (tmp_path / "four" / f"{NAMES[0]}.gz").write_bytes(b"left there by a download, and not looked at")
    data = load(tmp_path / "four")
    assert (data.name, len(data.train), len(data.test)) == ("four", 6, 3)
    np.testing.assert_array_equal(data.test.x[:], (arrays[2] / np.float32(255))[:, None])
    for name in NAMES:
        new = name.replace("t10k", "test").replace("-idx", ".idx")
        (tmp_path / "renamed").mkdir(exist_ok=True)
        (tmp_path / "renamed" / new).write_bytes((tmp_path / "four" / name).read_bytes())
    other = load(str(tmp_path / "renamed"))
    assert rows(other.train.x) == rows(data.train.x)
    assert rows(other.test.x) == rows(data.test.x)


@pytest.mark.parametrize("name", ["all-images-idx3-ubyte", "train-images-idx3-ubyte"])
def test_one_pair_of_idx_files_is_divided_80_20(tmp_path: Path, name: str) -> None:
    x, y = pixels(10, 3, 3), pixels(10, seed=1)
    (tmp_path / name).write_bytes(idx(x))
    (tmp_path / name.replace("images-idx3", "labels-idx1")).write_bytes(idx(y))
    data = load(tmp_path)
    for part, index in zip((data.train, data.test), split_of(10), strict=True):
        np.testing.assert_array_equal(part.x[:], (x[index] / np.float32(255))[:, None])
        assert part.y is not None
        assert part.y.tolist() == y[index].tolist()
    (tmp_path / name.replace("images-idx3", "labels-idx1")).unlink()
    assert load(tmp_path).train.y is None


def test_idx_files_that_make_no_split_are_listed(tmp_path: Path) -> None:
    for name in ("a-images-idx3-ubyte", "b-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(idx(pixels(10, 3, 3)))
    with pytest.raises(ValueError, match="got a-images-idx3-ubyte, b-images-idx3-ubyte"):
        load(tmp_path)


# .npy and .npz --------------------------------------------------------------------------------------


def test_an_npy_file_is_mapped_and_uint8_divided_by_255(tmp_path: Path) -> None:
    array = pixels(10, 2, 4, 5)
    np.save(tmp_path / "x.npy", array)
    data = load(tmp_path / "x.npy")
    assert (data.name, data.event_shape, data.train.y, len(data.train), len(data.test)) == ("x", (2, 4, 5), None, 8, 2)
    for part, index in zip((data.train, data.test), split_of(10), strict=True):
        assert isinstance(part.x, MappedArray)
        np.testing.assert_array_equal(part.x[:], array[index] / np.float32(255))
    # a view: what is written to the file afterwards is seen
    writer = np.lib.format.open_memmap(tmp_path / "x.npy", mode="r+")
    writer[:] = 51
    writer.flush()
    assert torch.equal(data.train.x[:], torch.full((8, 2, 4, 5), 0.2, dtype=torch.float32))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2"])
def test_floats_are_not_rescaled(tmp_path: Path, dtype: str) -> None:
    array = (np.arange(30).reshape(10, 3) * 2.5 - 20).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array)
    for name in ("x.npy", "x.npz"):
        data = load(tmp_path / name)
        assert data.event_shape == (3,)
        assert data.train.x.dtype == torch.float32
        np.testing.assert_array_equal(data.train.x[:], array[split_of(10)[0]].astype(np.float32))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("shape", "event", "channels", "moved"),
    [
        ((5, 7), (7,), None, False),
        ((5, 6, 7), (1, 6, 7), None, False),
        ((5, 6, 3), (1, 6, 3), None, False),
        ((5, 3, 6, 7), (3, 6, 7), None, False),
        ((5, 3, 6, 3), (3, 6, 3), None, False),
        ((5, 6, 7, 8), (6, 7, 8), None, False),
        ((5, 6, 7, 1), (1, 6, 7), None, True),
        ((5, 6, 7, 3), (3, 6, 7), None, True),
        ((5, 6, 7, 4), (4, 6, 7), None, True),
        ((5, 6, 7, 2), (6, 7, 2), None, False),
        ((5, 6, 7, 3), (6, 7, 3), "first", False),
        ((5, 6, 7, 3), (3, 6, 7), "last", False),
        ((5, 3, 6, 3), (3, 3, 6), "last", False),
        ((5, 2, 3, 4, 6), (2, 3, 4, 6), None, False),
    ],
)
def test_the_channel_axis_comes_first(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], event: tuple[int, ...], channels: Any, moved: bool
) -> None:
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    else:
        np.savez(path, x=array)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(path, channels=channels)
    assert data.event_shape == event
    # item by item and by a loop over channels: no second transpose to be wrong in the same way
    for item, i in zip(data.train.x, split_of(5)[0], strict=True):  # type: ignore[arg-type]
        if moved or channels == "last":
            expected = np.stack([array[i, ..., c] for c in range(shape[-1])])
        else:
            expected = array[i].reshape(event)
        np.testing.assert_array_equal(item.numpy(), expected)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == int(moved)
    if moved:
        assert f"{shape} is read as (N, H, W, C)" in messages[0]
        assert "channels='first'" in messages[0]
        assert caught[0].filename == __file__


def test_an_unknown_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"channels must be one of 'first', 'last', got 'lst'; did you mean 'last'"):
        load("digits", channels="lst")  # type: ignore[arg-type]


def test_a_pickle_in_an_npy_or_npz_file_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    array = np.array([Bomb(), Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array)
    np.savez(tmp_path / "y.npz", x=np.zeros((2, 3)), y=array)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(array))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(array))
    for name in ("x.npy", "x.npz", "y.npz", "bare.npy", "bare.npz"):
        with pytest.raises(ValueError, match=rf"{name}.* holds pickled Python objects.*never opened"):
            load(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    np.load(tmp_path / "x.npy", allow_pickle=True)  # the control: it would have run
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train", "y_train", "test", "y_test"),
    ],
)
def test_an_npz_file_with_two_parts_is_its_own_split(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays = pixels(4, 3, 3), np.array([3, 7, 7, -1], np.int16), pixels(2, 3, 3, seed=1), np.array([7.0, 3.0])
    np.savez_compressed(tmp_path / "d.npz", **dict(zip(keys, arrays, strict=True)))  # type: ignore[arg-type]
    data = load(tmp_path / "d.npz")
    assert isinstance(data.train.x, torch.Tensor)
    np.testing.assert_array_equal(data.train.x[:], (arrays[0] / np.float32(255))[:, None])
    np.testing.assert_array_equal(data.test.x[:], (arrays[2] / np.float32(255))[:, None])
    assert data.train.y is not None
    assert data.test.y is not None
    assert (data.train.y.tolist(), data.test.y.tolist(), data.classes) == ([3, 7, 7, -1], [7, 3], None)
    assert data.train.y.dtype == data.test.y.dtype == torch.int64


def test_strings_as_labels_are_numbered_over_both_parts(tmp_path: Path) -> None:
    train, test = ["pear", "apple", "pear"], ["fig", "apple"]
    x_train, x_test = np.zeros((3, 2)), np.ones((2, 2))
    for kind in ("U", "S"):
        y_train, y_test = np.array(train, dtype=kind), np.array(test, dtype=kind)
        np.savez(tmp_path / "f.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        data = load(tmp_path / "f.npz")
        assert data.classes == ("apple", "fig", "pear")
        assert data.train.y is not None
        assert data.test.y is not None
        assert [data.classes[i] for i in data.train.y] == train
        assert [data.classes[i] for i in data.test.y] == test


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(4), "has 5 items, .* has 4"),
        (np.array([0, 1, np.nan, 1, np.nan]), r"2 missing labels \(NaN or None\), the first at .*\[2\]"),
        (np.array([0, 1, 0.5, 1, 1]), r"y must hold integers or strings.*the first 0\.5 at y\[2\]"),
        (np.array([0, np.inf, 1, -np.inf, 1]), r"y must .*: 2 labels of d\.npz:x are not.*the first inf at y\[1\]"),
        (np.array([0, 1, 1, 1, -1e30]), r"1 labels .* int64, the first -1e\+30 at y\[4\]"),
        (np.array([0, 1, 2.0**63, 1, 1]), r"the first 9\.22\S*e\+18 at y\[2\]"),
        (np.array([1, 1, 1, 2**63 + 5, 2**63], np.uint64), r"2 labels .* the first 9223372036854775813 at y\[3\]"),
        (np.array([0, 1, 1, 1, np.inf], np.float16), r"the first inf at y\[4\]"),
        (np.array([0, 1, 1j, 1, 1]), r"y must hold integers or strings in all parts, got complex128"),
        (np.zeros((5, 1), int), r"must be one-dimensional.*got shape \(5, 1\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, y: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 3)), y=y)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "y",
    [
        np.array([2**63 - 1, 0, 2**53 + 1, 5, 6], np.uint64),
        np.array([-(2.0**63), 2.0**63 - 1024, -1.0, 0.0, 3.0]),
        np.array([-(2**63), 2**63 - 1, 0, 1, 2]),
        np.array([65504, -1, 0, 1, 2], np.float16),
        np.array([True, False, True, True, False]),
    ],
    ids=lambda y: str(y.dtype),
)
def test_whole_labels_up_to_the_ends_of_int64_keep_their_value(tmp_path: Path, y: np.ndarray) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((5, 3)), y_train=y, x_test=np.zeros((5, 3)), y_test=y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 2**63 does not go into float16
        data = load(tmp_path / "d.npz")
    assert data.train.y is not None
    assert data.train.y.tolist() == [int(label) for label in y.tolist()]


def test_a_label_of_the_test_part_alone_is_refused(tmp_path: Path) -> None:
    x, y = np.zeros((2, 3)), np.array([0, 1])
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=np.array([1, np.inf]))
    with pytest.raises(ValueError, match=r"1 labels of d\.npz:x_test are not .* the first inf at y\[1\]"):
        load(tmp_path / "d.npz")


def test_keys_that_are_not_known_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", pictures=np.zeros((5, 3)), x_train=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"must hold 'x', or 'x_train' and 'x_test' .*got 'pictures', 'x_train'"):
        load(tmp_path / "d.npz")


def test_parts_of_two_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((5, 3)), x_test=np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) in d.npz:x_train, \(4,\) in d.npz:x_test"):
        load(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((0, 3)), ValueError, r"is empty.*got \(0, 3\)"),
        (np.zeros((3, 0)), ValueError, r"is empty.*got \(3, 0\)"),
        (np.zeros(5), ValueError, r"must have shape \(N, \*event\), got \(5,\); reshape it to \(N, 1\)"),
        (np.array(5.0), ValueError, r"must have shape \(N, \*event\), got \(\)"),
        (np.zeros((1, 3)), ValueError, "at least 2 items.*got 1"),
        (np.array([["a"], ["b"]]), TypeError, "array of numbers, got <U1"),
        (np.zeros((4, 2), complex), TypeError, "array of numbers, got complex128"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_that_hold_no_items_are_refused(
    tmp_path: Path, x: np.ndarray, error: type[Exception], message: str, suffix: str
) -> None:
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(error, match=rf"x\.{suffix}.*{message}"):
        load(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize(
    "x",
    [
        np.array([[0, 1], [1, 1]]),
        np.array([[-3, 700], [5, 2]]),
        np.eye(2, dtype=bool),
        np.array([[0, 9], [255, 3]]),  # a table's, and no pixels: those are uint8
        np.array([[0, 9], [16, 3]], np.uint16),
    ],
)
def test_other_integers_are_taken_as_they_are(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", x)
    assert rows(load(tmp_path / "x.npy").train.x) == rows(torch.from_numpy(x[split_of(2)[0]].astype(np.float32)))


def test_values_that_are_not_finite_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    x = np.zeros((5, 3))
    x[2, 1], x[4, 0] = np.nan, np.inf
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(ValueError, match=r"2 NaN or infinite values, the first at x.npz:x\[2, 1\]"):
        load(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", x)  # mapped: read when used, so that missing entries can be imputed
    data = load(tmp_path / "x.npy")
    assert sum(int((~torch.isfinite(part.x[:])).sum()) for part in (data.train, data.test)) == 2


def test_strided_reversed_and_read_only_arrays_are_copied(tmp_path: Path) -> None:
    x = pixels(12, 4)
    view = x[::-2, ::-1]
    view.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = MappedArray(view)[:]
        tensor += 1
        np.testing.assert_array_equal(binarize(view[:, :2] // 200, how="threshold"), view[:, :2] // 200)
    np.testing.assert_array_equal(x, pixels(12, 4))
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    np.testing.assert_array_equal(load(tmp_path / "f.npy").train.x[:], x[split_of(12)[0]] / np.float32(255))


def test_a_file_that_may_not_be_read_is_no_damaged_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "pickled objects" / "x.npy"
    path.parent.mkdir()
    np.save(path, np.zeros(3))

    def refuse(file, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*x\.npy"):
        load(path)


def test_damaged_numpy_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((50, 3)))
    np.savez(tmp_path / "x.npz", x=np.zeros((50, 3)))
    for name in ("x.npy", "x.npz"):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        words = rf"{name} is damaged or no NumPy file: only [\d,]+ of 1,200 bytes .* are there: copy or save it again"
        with pytest.raises(ValueError, match=words if name == "x.npy" else rf"{name} is damaged or no NumPy file"):
            load(path)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=rf"{name} is damaged or no NumPy file"):
            load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"x.npz:x is damaged"):
        load(path)


def test_an_array_under_the_other_suffix_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 3)))
    np.save(tmp_path / "y.npy", np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"name it \.npz"):
        load((tmp_path / "x.npz").rename(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match=r"name it \.npy"):
        load((tmp_path / "y.npy").rename(tmp_path / "b.npz"))


# images ---------------------------------------------------------------------------------------------


def draw(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_a_folder_a_class_gives_labels_in_sorted_order(tmp_path: Path) -> None:
    x = pixels(10, 5, 7)
    names = ["zebra", "ant", "Cat"]
    for i, array in enumerate(x):
        draw(tmp_path / names[i % 3] / f"{i}.png", array)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    data = load(tmp_path)
    assert data.event_shape == (1, 5, 7)
    assert data.classes == ("Cat", "ant", "zebra")
    # by path: Cat/2, 5, 8, then ant/1, 4, 7, then zebra/0, 3, 6, 9
    paths, labels = np.array([2, 5, 8, 1, 4, 7, 0, 3, 6, 9]), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    for part, index in zip((data.train, data.test), split_of(10), strict=True):
        np.testing.assert_array_equal(part.x[:], (x[paths[index]] / np.float32(255))[:, None])
        assert part.y is not None
        assert part.y.dtype == torch.int64
        assert part.y.tolist() == labels[index].tolist()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "PNG"])
def test_a_flat_folder_of_colour_images_has_no_labels(tmp_path: Path, suffix: str) -> None:
    x = pixels(5, 4, 3, 3)  # height 4, width 3, channels 3
    for i, array in enumerate(x):
        draw(tmp_path / f"{i}.{suffix}", array, **({"lossless": True} if suffix == "webp" else {}))
    data = load(tmp_path)
    assert (data.event_shape, data.train.y, data.classes) == ((3, 4, 3), None, None)
    for item, i in zip(data.train.x, split_of(5)[0], strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(item, np.stack([x[i, ..., c] for c in range(3)]) / np.float32(255))


def test_jpeg_and_gif_are_read(tmp_path: Path) -> None:
    flat = np.full((3, 16, 16), 51, np.uint8)
    for i, suffix in enumerate(("jpg", "jpeg", "gif")):
        draw(tmp_path / f"{i}.{suffix}", flat[i])
    data = load(tmp_path)
    for part, count in ((data.train, 2), (data.test, 1)):
        assert torch.allclose(part.x[:], torch.full((count, 1, 16, 16), 0.2, dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize("second", ["test", "val"])
def test_train_and_test_folders_are_the_split(tmp_path: Path, second: str) -> None:
    x = pixels(6, 2, 2)
    for i, where in enumerate(["train/a", "train/a", "train/b", "train/b", f"{second}/b", f"{second}/c"]):
        draw(tmp_path / where / f"{i}.png", x[i])
    with pytest.warns(UserWarning, match="has no image: c"):
        data = load(tmp_path)
    assert data.classes == ("a", "b", "c")
    np.testing.assert_array_equal(data.train.x[:], (x[:4] / np.float32(255))[:, None])
    np.testing.assert_array_equal(data.test.x[:], (x[4:] / np.float32(255))[:, None])
    assert data.train.y is not None
    assert data.test.y is not None
    assert (data.train.y.tolist(), data.test.y.tolist()) == ([0, 0, 1, 1], [1, 2])


def test_a_train_folder_alone_is_divided(tmp_path: Path) -> None:
    for i in range(5):
        draw(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", pixels(2, 2))
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (4, 1, ("a", "b"))


def test_the_first_image_of_another_size_or_mode_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "d"):
        draw(tmp_path / f"{name}.png", pixels(4, 6))
    draw(tmp_path / "c.png", pixels(6, 4))
    with pytest.raises(ValueError, match=r"c.png is grey, 4 x 6, .*a.png is grey, 6 x 4"):
        load(tmp_path)
    draw(tmp_path / "c.png", pixels(4, 6, 3))
    with pytest.raises(ValueError, match=r"c.png is colour, 6 x 4, .*a.png is grey, 6 x 4"):
        load(tmp_path)
    draw(tmp_path / "c.png", pixels(4, 6))
    assert load(tmp_path).event_shape == (1, 4, 6)


def test_bits_palettes_16_bits_and_opaque_alpha_have_their_values(tmp_path: Path) -> None:
    def one(image: Image.Image) -> list[float]:
        for i in range(2):
            image.save(tmp_path / f"{i}.png")
        return load(tmp_path).train.x[0].flatten().tolist()

    assert one(Image.fromarray(np.array([[True, False]]))) == [1, 0]
    assert one(Image.fromarray(np.array([[0, 65535, 13107]], np.uint16))) == pytest.approx([0, 1, 0.2])
    colours = Image.fromarray(np.array([[[255, 0, 51], [0, 51, 0]]], np.uint8))
    assert one(colours.convert("P", palette=Image.Palette.ADAPTIVE)) == pytest.approx([1, 0, 0, 0.2, 0.2, 0])
    assert one(Image.fromarray(np.array([[[255, 0, 51, 255]]], np.uint8))) == pytest.approx([1, 0, 0.2])
    assert one(Image.fromarray(np.array([[[51, 255]]], np.uint8), mode="LA")) == pytest.approx([0.2])
    with pytest.raises(ValueError, match=r"0.png has transparent pixels"):
        one(Image.fromarray(np.array([[[255, 0, 51, 254]]], np.uint8)))


def test_images_that_cannot_be_one_array_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", pixels(40, 40))
    whole = (tmp_path / "a.png").read_bytes()
    for data in (b"", b"not an image", whole[:60], whole[: len(whole) // 2]):
        (tmp_path / "b.png").write_bytes(data)
        with pytest.raises(ValueError, match=r"b.png cannot be read as an image"):
            load(tmp_path)
    (tmp_path / "b.png").unlink()
    frames = [Image.fromarray(pixels(40, 40, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"b.gif must hold one image, got 3 frames"):
        load(tmp_path)
    (tmp_path / "b.gif").unlink()
    Image.fromarray(np.zeros((40, 40), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b.tif has pixels of mode F"):
        load(tmp_path)


def test_folders_without_images_or_with_two_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no IDX files and no images"):
        load(tmp_path)
    draw(tmp_path / "a.png", pixels(4, 4))
    draw(tmp_path / "class" / "b.png", pixels(4, 4))
    with pytest.raises(ValueError, match=r"holds images \(a.png, ...\) and sub-folders of images \(class, ...\)"):
        load(tmp_path)


# names that are none --------------------------------------------------------------------------------


def test_an_unknown_name_gets_the_list_and_the_closest() -> None:
    known = "'digits', 'mnist', 'fashion-mnist', 'kmnist'"
    with pytest.raises(ValueError, match=f"one of {known}, got 'mnits'; did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(ValueError, match=r"got 'MNIST'; did you mean 'mnist'\?"):
        load("MNIST")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "digits", str(tmp_path / "x.npy"), "no-such-file.npy"):
        with pytest.raises(FileNotFoundError, match=Path(path).name):
            load(path)


def test_other_files_are_refused_and_archives_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.tar must be a .npy or .npz file, a table .*archives are not unpacked"):
        load(tmp_path / "x.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


# MappedArray ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selected", [False, True])
def test_a_mapped_array_indexes_like_its_tensor(selected: bool) -> None:
    array = pixels(20, 2, 3)
    x, tensor = MappedArray(array), torch.from_numpy(array / np.float32(255))
    if selected:
        index = np.array([3, 19, 0, 7, 7, 12])
        x, tensor = x.select(index), tensor[index]
    n = len(tensor)
    mask = np.arange(n) % 3 == 0
    assert (len(x), x.shape, x.dtype) == (n, tensor.shape, torch.float32)
    indices: list[Any] = [0, -1, np.int64(2), torch.tensor(1), slice(None), slice(1, 4), slice(None, None, 2)]
    indices += [[0, 2], [], np.array([4, 1, 1]), torch.tensor([5, 0]), mask, torch.from_numpy(mask), mask.tolist()]
    for index in indices:
        expected = tensor[torch.as_tensor(index, dtype=torch.int64) if isinstance(index, list) and not index else index]
        assert torch.equal(x[index], expected), index
        if np.ndim(index) or isinstance(index, slice):
            assert torch.equal(x.select(index)[:], expected)
    assert torch.equal(x.select(2)[:], tensor[2:3])
    assert torch.equal(torch.stack(list(x)), tensor)  # type: ignore[call-overload]
    for wrong in (n, -n - 1, [0, n], np.ones(n + 1, bool)):
        with pytest.raises(IndexError):
            x[wrong]
    for bad in ((0, 1), None, ..., 1.5, "a", [0.5], np.zeros((2, 2), int)):
        with pytest.raises(TypeError, match="index must be an integer, a slice"):
            x[bad]


def test_a_selection_reads_and_copies_nothing() -> None:
    class Watched(np.ndarray):
        read = 0

        def __getitem__(self, index: Any) -> Any:
            Watched.read += 1
            return super().__getitem__(index)

    x = MappedArray(pixels(100, 4).view(Watched)).select(np.arange(50)).select(slice(0, 10))
    assert (len(x), x.shape, Watched.read) == (10, (10, 4), 0)
    x[3]
    assert Watched.read == 1


def test_a_mapped_array_of_no_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="source must be an array of numbers, got <U1"):
        MappedArray(np.array(["a"]))
    with pytest.raises(ValueError, match="got a single number"):
        MappedArray(np.array(1.0))


# what float32 does not hold ---------------------------------------------------------------------------


def far_away(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "offset":
        return 4.5e6 + 0.1 * rng.normal(size=(300, 2))
    if kind == "range":
        return 1e200 * rng.normal(size=(300, 2))
    return 1_764_000_000 + rng.integers(0, 600, (300, 2))  # seconds since 1970


@pytest.mark.parametrize("kind", ["offset", "range", "seconds"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_float64_where_float32_does_not_hold_what_came(tmp_path: Path, kind: str, suffix: str) -> None:
    x = far_away(kind)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    data = load(tmp_path / f"x.{suffix}")
    for part, rows_of in zip((data.train, data.test), split_of(300), strict=True):
        assert part.x.dtype == torch.float64
        np.testing.assert_array_equal(part.x[:], x[rows_of].astype(np.float64))
    assert data.train.x[3].dtype == torch.float64
    ordinary = (x - x[0]) / np.abs(x - x[0]).max()
    np.savez(tmp_path / "x.npz", x=ordinary)
    np.save(tmp_path / "x.npy", ordinary)
    data = load(tmp_path / f"x.{suffix}")
    assert data.train.x.dtype == data.train.x[:].dtype == torch.float32
    np.testing.assert_array_equal(data.train.x[:], ordinary[split_of(300)[0]].astype(np.float32))


def test_both_parts_of_a_source_have_one_dtype(tmp_path: Path) -> None:
    far = far_away("offset")
    np.savez(tmp_path / "x.npz", x_train=far - 4.5e6, x_test=far)
    data = load(tmp_path / "x.npz")
    assert data.train.x.dtype == data.test.x.dtype == torch.float64
    np.testing.assert_array_equal(data.train.x, far - 4.5e6)


def test_an_idx_file_of_doubles(tmp_path: Path) -> None:
    far = far_away("offset").astype(">f8")
    header = bytes([0, 0, 0x0E, 2]) + struct.pack(">2I", *far.shape)
    (tmp_path / "some-images").write_bytes(header + far.tobytes())
    data = load(tmp_path)
    np.testing.assert_array_equal(data.train.x, far[split_of(300)[0]])
    assert data.train.x.dtype == torch.float64


def test_integers_that_float64_does_not_hold_are_refused(tmp_path: Path) -> None:
    x = 2**60 + np.arange(200).reshape(100, 2)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(ValueError, match=r"torch.float64 does not hold x.npz:x: .*x.npz:x\[0\]"):
        load(tmp_path / "x.npz")
    data = load(tmp_path / "x.npy")  # mapped: nothing is read yet
    with pytest.raises(ValueError, match=r"torch.float64 does not hold x.npy"):
        data.train.x[:]
    assert torch.equal(data.train.x.exactly(slice(None)), torch.from_numpy(x[split_of(100)[0]]))


def test_a_mapped_arrays_dtype_is_of_all_its_rows_and_of_few_reads() -> None:
    class Watched(np.ndarray):
        rows = 0

        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            Watched.rows += len(found) if np.ndim(found) else 0
            return found

    source = np.zeros((100_000, 1))
    source[50_000:] = far_away("offset")[:1][:, :1] + 0.1 * np.random.default_rng(1).normal(size=(50_000, 1))
    source[:50_000] = source[50_000:][::-1]
    x = MappedArray(source.view(Watched))
    view = x.select(np.arange(10))
    assert view.dtype == x.dtype == torch.float64  # as the source's, whatever the rows
    assert Watched.rows <= 2 * 4200
    assert view.reading(torch.float32)[:].dtype == torch.float32
    for kind in (np.float32, np.float16, np.int16, np.uint16, np.uint8, bool):
        assert MappedArray(np.ones((3, 2), kind)).dtype == torch.float32
    gappy = MappedArray(np.array([[1.0, np.inf], [np.nan, 2.0]]))
    assert gappy.dtype == gappy[:].dtype == torch.float32  # who uses the items is told which are not finite
    with pytest.raises(ValueError, match=r"2 NaN or infinite values, the first at x\[0, 1\]"):
        pyrovae.fit(pyrovae.linear_vae(2, 1), gappy, progress=False)


def test_a_view_is_binarised_by_what_is_in_its_source() -> None:
    x = MappedArray(np.array([[0.5, 1 + 1e-9]]))
    assert x[:].max() == 1  # in float32
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
        binarize(x)


# binarize -------------------------------------------------------------------------------------------


def test_a_sample_has_the_pixel_as_its_probability() -> None:
    levels = torch.linspace(0, 1, 11)
    n = 20_000
    draws = binarize(levels.expand(n, 11), seed=3)
    assert set(draws.flatten().tolist()) == {0.0, 1.0}
    assert draws[:, 0].max() == 0
    assert draws[:, -1].min() == 1
    # nine levels at 4.5 standard errors: a false alarm in 6e-5 of seeds, and the seed is fixed
    error = (draws.mean(0) - levels).abs() / (levels * (1 - levels) / n).sqrt().clamp(min=1e-9)
    assert float(error.max()) < 4.5
    # the control: of pixels 5 % brighter this is not a sample
    wrong = (draws.mean(0) - (levels * 1.05).clamp(max=1)).abs() / (levels * (1 - levels) / n).sqrt().clamp(min=1e-9)
    assert float(wrong[1:-1].max()) > 4.5
    # neighbours are drawn apart: correlation within 4.5 / sqrt(n)
    assert abs(float(torch.corrcoef(draws[:, 4:6].T)[0, 1])) < 4.5 / n**0.5


def test_a_pixel_of_zero_stays_zero_where_the_uniform_number_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    # one float32 draw in 2**24 is exactly 0, and MNIST has 38 million black pixels
    monkeypatch.setattr(torch, "rand", lambda shape, *, generator, dtype: torch.zeros(shape, dtype=dtype))
    assert binarize(torch.tensor([0.0, 1e-6, 1.0])).tolist() == [0, 1, 1]


def test_a_sample_depends_on_the_seed_alone() -> None:
    x = torch.full((100, 1, 8, 8), 0.5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = binarize(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(binarize(x, seed=0), first)
    # 6,400 fair coins agree in half: 3,200 +- 40, and 5 of these in 6e-7 of seeds
    assert abs(int((binarize(x, seed=1) == first).sum()) - 3200) < 200


@pytest.mark.parametrize("how", ["sample", "threshold"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool]
)
def test_shape_and_dtype_stay_and_zeros_and_ones_are_kept(how: Any, dtype: torch.dtype) -> None:
    x = (torch.arange(24).reshape(2, 3, 4) % 3 == 0).to(dtype)
    found = binarize(x, how=how)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    assert torch.equal(found, x)


def test_the_threshold_is_one_half() -> None:
    x = torch.tensor([0.0, 0.4999, 0.5, 0.5001, 1.0], requires_grad=True)
    found = binarize(x, how="threshold")
    assert found.tolist() == [0, 0, 1, 1, 1]
    assert not found.requires_grad
    assert x.tolist() == pytest.approx([0, 0.4999, 0.5, 0.5001, 1])


def test_arrays_and_views_are_binarised_like_their_tensor() -> None:
    array = pixels(30, 5)
    tensor = torch.from_numpy(array / np.float32(255))
    assert torch.equal(binarize(MappedArray(array), seed=4), binarize(tensor, seed=4))
    assert torch.equal(binarize(tensor.numpy(), seed=4), binarize(tensor, seed=4))
    assert torch.equal(binarize(tensor.numpy().astype(">f4"), seed=4), binarize(tensor, seed=4))


def test_a_mask_is_not_dropped() -> None:
    masked = np.ma.array([[0.25, 0.5], [0.75, 1.0]], mask=[[False, True], [False, False]])
    message = "is a masked array, whose mask would be lost: fill it, with NaN where values are missing"
    for how in ("sample", "threshold"):
        with pytest.raises(TypeError, match=f"x {message}"):
            binarize(masked, how=how)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"source {message}"):
        MappedArray(masked)
    filled = binarize(masked.filled(0.0), how="threshold")
    assert filled.tolist() == [[0, 0], [1, 1]]
    assert binarize([[0.25, 1]], how="threshold").tolist() == [[0, 1]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([0.0, 1.5]), "min 0, max 1.5 and 0 NaN; scale"),
        (torch.tensor([-0.25, 1.0]), "min -0.25, max 1 and 0 NaN; scale"),
        (torch.tensor([0, 255], dtype=torch.uint8), "min 0, max 255 and 0 NaN.*divide by 255"),
        (torch.tensor([0.5, torch.nan, 0.25]), "min 0.25, max 0.5 and 1 NaN; impute"),
        (torch.tensor([torch.nan]), "no other value and 1 NaN"),
        (torch.tensor([0.0, torch.inf]), "max inf"),
        (torch.zeros(0, 3), r"x is empty.*\(0, 3\)"),
    ],
)
@pytest.mark.parametrize("how", ["sample", "threshold"])
def test_values_that_are_no_probabilities_are_refused(x: torch.Tensor, message: str, how: Any) -> None:
    with pytest.raises(ValueError, match=message):
        binarize(x, how=how)


def test_an_unknown_way_to_binarise_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be one of 'sample', 'threshold', got 'treshold'; did you mean"):
        binarize(torch.zeros(3), how="treshold")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        binarize(torch.zeros(3), seed=-1)
    with pytest.raises(TypeError, match="x must be an array of numbers, got <U1"):
        binarize(np.array(["a"]))


# results --------------------------------------------------------------------------------------------


def test_results_are_frozen_and_print_as_one_line() -> None:
    data = load("digits")
    assert str(data) == "digits: 1,437 training and 360 test items of shape (1, 8, 8), labelled"
    assert str(data.test) == "360 items of shape (1, 8, 8), labelled"
    assert repr(Split(torch.zeros(2, 3))) == "Split(2 items of shape (3,), no labels)"
    assert len(data.test) == 360
    with pytest.raises(AttributeError):
        data.name = "other"  # type: ignore[misc]


def test_the_public_names_are_these() -> None:
    classes = ["Dataset", "Encoding", "MappedArray", "Split", "Table"]
    functions = ["batches", "binarize", "labelled_subset", "load", "one_hot", "table"]
    assert sorted(pyrovae.data.__all__) == classes + functions


@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_binary_bytes_are_pointed_out(tmp_path: Path, kind: type) -> None:
    np.save(tmp_path / "x.npy", np.tile(np.array([[0, 1]], dtype=kind), (10, 1)))
    if kind is bool:
        assert load(tmp_path / "x.npy").train.x[:].max() == 1
    else:
        with pytest.warns(UserWarning, match="uint8 with no value over 1"):
            load(tmp_path / "x.npy")


# whole numbers kept ---------------------------------------------------------------------------------


def test_without_scale_bytes_are_the_numbers_that_they_are(tmp_path: Path) -> None:
    counts = pixels(20, 3)
    np.save(tmp_path / "x.npy", counts)
    np.savez(tmp_path / "x.npz", x=counts)
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx2-ubyte").write_bytes(idx(counts))
    for name in ("x.npy", "x.npz", "idx"):
        scaled, kept = load(tmp_path / name), load(tmp_path / name, scale=False)
        for part in ("train", "test"):
            as_loaded, whole = getattr(scaled, part).x[:], getattr(kept, part).x[:]
            assert whole.dtype == as_loaded.dtype == torch.float32
            assert torch.equal(whole, (as_loaded.double() * 255).round().float()) and float(whole.max()) > 1
    assert sorted(map(tuple, kept.train.x.tolist() + kept.test.x.tolist())) == sorted(map(tuple, counts.tolist()))
    digits, whole_digits = load("digits"), load("digits", scale=False)
    assert torch.equal(whole_digits.train.x, digits.train.x * 16)


def test_a_view_of_counts_is_one_of_counts_whatever_is_selected() -> None:
    array = pixels(9, 2)
    x = MappedArray(array, scale=False)
    for view in (x, x.reading(torch.float64), x.select(np.arange(9)), x.select(slice(None)).reading(torch.float64)):
        assert np.array_equal(view[:].numpy(), array) and np.array_equal(view[3].numpy(), array[3])
        assert np.array_equal(view.exactly([1, 0]).numpy(), array[[1, 0]]) and view.exactly(0).dtype == torch.int16


def test_images_have_no_counts(tmp_path: Path) -> None:
    Image.fromarray(pixels(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must hold IDX files where whole numbers are to be kept \(scale=False\)"):
        load(tmp_path, scale=False)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_the_whole_of_a_source_is_in_its_own_order(tmp_path: Path, ending: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (23, 1, 3, 4), dtype=np.uint8)
    path = tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, x)
    else:
        np.savez(path, x=x, y=np.arange(23))
    data = load(path)
    assert not np.array_equal(torch.cat([data.train.x[:], data.test.x[:]]).numpy(), x / np.float32(255))
    whole = data.whole()
    assert np.array_equal(whole.x[:].numpy(), x / np.float32(255))
    assert isinstance(whole.x, MappedArray) == (ending == ".npy")  # a view still
    assert whole.y is None if ending == ".npy" else whole.y.tolist() == list(range(23))


def test_the_whole_of_a_source_with_two_parts_has_the_training_items_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.zeros((3, 2)), x_test=np.ones((2, 2)))
    data = load(tmp_path / "x.npz")
    assert data.order is None and data.whole().x[:, 0].tolist() == [0, 0, 0, 1, 1]
