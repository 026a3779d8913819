"""Rows that are read as they are used: memory maps, shards, arrays of h5py and zarr, map-style data sets."""

from __future__ import annotations

import mmap

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae
from pyrovae.data import MappedArray, Split, load
from pyrovae.data import mapped as mapped_module
from pyrovae.data.indexed import as_rows

OPTIONS = {"epochs": 2, "batch_size": 16, "progress": False, "compile": False}


class Squares(Dataset):
    """Items (array, label) that are made when they are asked for."""

    def __init__(self, x, counted=None):
        self.x, self.counted = x, counted

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if self.counted is not None:
            self.counted.append(index)
        return self.x[index], index % 2


def array(count=50):
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


def as_map(x, path):
    """The array as a memory map."""
    np.save(path / "x.npy", x)
    return np.load(path / "x.npy", mmap_mode="r")


def as_h5(x, path):
    """The array as a data set in a file of HDF5."""
    return h5py.File(path / "x.h5", "w").create_dataset("x", data=x)


def as_zarr(x, path):
    """The array in chunks of zarr's."""
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(str(path / "x.zarr"), shape=x.shape, chunks=(7, 2), dtype=x.dtype)
    stored[:] = x
    return stored


SOURCES = {
    "memory map": as_map,
    "h5py": as_h5,
    "zarr": as_zarr,
    "tensors": lambda x, path: TensorDataset(torch.from_numpy(x)),
    "items with labels": lambda x, path: Squares(x),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_index_gives_the_rows_of_the_array(kind, tmp_path):
    x = array()
    view = as_rows(SOURCES[kind](x, tmp_path))
    assert isinstance(view, MappedArray) and tuple(view.shape) == x.shape and len(view) == 50
    for index in (3, -1, slice(5, 9), slice(None, None, -3), [7, 2, 2, 30], np.arange(50) % 3 == 0, []):
        assert np.array_equal(view[index].numpy(), x[index]), index


@pytest.mark.parametrize("kind", SOURCES)
def test_a_fit_has_the_bits_of_one_in_memory(kind, tmp_path):
    x = array()
    states = []
    for items in (x, SOURCES[kind](x, tmp_path)):
        torch.manual_seed(0)
        pair = pyrovae.linear_vae(4, 2)
        pyrovae.fit(pair, items, validation=items, **OPTIONS)
        states.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        states.append(torch.tensor(pyrovae.elbo(pair, items, num_particles=2).mean))
    assert torch.equal(states[0], states[2]) and torch.equal(states[1], states[3])


def test_a_memory_map_is_not_copied(tmp_path, monkeypatch):
    x, sizes = array(3000), []
    read = mapped_module.as_stored

    def noted(rows, *args):
        sizes.append(len(rows) if rows.ndim > 1 else 1)
        return read(rows, *args)

    monkeypatch.setattr(mapped_module, "as_stored", noted)
    pyrovae.fit(pyrovae.linear_vae(4, 2), as_map(x, tmp_path), **{**OPTIONS, "epochs": 1, "batch_size": 500})
    assert max(sizes) <= 1024  # checked in parts, and read batch by batch


def test_pages_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_module, "_KEPT", 1000)
    x = array(200)
    told = []

    class Told:
        def __init__(self, real):
            self.real = real

        def madvise(self, advice):
            told.append(advice)
            self.real.madvise(advice)

    source = as_map(x, tmp_path)
    source._mmap = Told(source._mmap)
    view = MappedArray(source)
    assert all(np.array_equal(view[start : start + 50].numpy(), x[start : start + 50]) for start in range(0, 200, 50))
    assert told and set(told) == {mmap.MADV_DONTNEED}
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")  # whose changes live in its pages alone
    changed[0] = 7.0
    view = MappedArray(changed)
    assert view[:150].shape == (150, 4) and view[0].tolist() == [7.0] * 4


def test_a_classifier_takes_the_labels_of_the_items():
    x = array(40)
    found, wanted = (pyrovae.gaussian_classifier((4,), 2) for _ in range(2))
    pyrovae.fit(found, Squares(x))
    pyrovae.fit(wanted, x, np.arange(40) % 2)
    assert torch.equal(found.predict_log_proba(x), wanted.predict_log_proba(x))


def test_a_folder_of_shards(tmp_path):
    x = array(60)
    for number, rows in {2: slice(0, 10), 10: slice(10, 35), 11: slice(35, 60)}.items():  # 2 before 10
        np.save(tmp_path / f"part-{number}.npy", x[rows])
    data = load(tmp_path)
    assert isinstance(data.train.x, MappedArray) and len(data.train) == 48
    assert np.array_equal(data.whole().x[:].numpy(), x)
    np.save(tmp_path / "labels.npy", np.arange(60))
    with pytest.raises(ValueError, match=r"all shards must have one shape and dtype: labels\.npy has items of"):
        load(tmp_path)
    (tmp_path / "labels.npy").rename(tmp_path.parent / "labels.npy")
    labelled = load(tmp_path, labels=tmp_path.parent / "labels.npy")
    assert labelled.whole().y.tolist() == list(range(60))
    pyrovae.fit(pyrovae.linear_vae(4, 2), data.train, validation=data.test, **OPTIONS)


def test_shards_of_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels[:5])
    np.save(tmp_path / "b.npy", pixels[5:])
    data = load(tmp_path)
    assert data.event_shape == (1, 6, 6)
    assert np.allclose(data.whole().x[:].numpy()[:, 0], pixels / 255, atol=1e-7)


class Endless(IterableDataset):
    """Items without a number."""

    def __iter__(self):
        yield from array()


class Ragged(Squares):
    """Items of two shapes."""

    def __getitem__(self, index):
        return self.x[index][: 3 + (index < 4)]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DataLoader(TensorDataset(torch.zeros(4, 4))), TypeError, "hand over its data set, x.dataset"),
        (Endless, TypeError, "x is an iterable data set, whose items have no number"),
        (lambda: Ragged(array()), ValueError, r"item 4 has \(3,\), the first \(4,\)"),
        (lambda: Squares([]), ValueError, "x is empty"),
        (lambda: Squares(["a", "b"]), TypeError, "item 0 is a list"),
        (lambda: Squares(np.full((9, 4), np.nan, np.float32)), ValueError, "must be finite"),
        (lambda: Squares(np.full((9, 4), 200, np.uint8)), ValueError, "x looks like 0..255 integers"),
        (lambda: Squares(array()[:, :3]), ValueError, r"x must have shape \(N, 4\), got \(50, 3\)|\(\d+, 3\)"),
    ],
)
def test_refused(make, error, words):
    with pytest.raises(error, match=words):
        pyrovae.fit(pyrovae.linear_vae(4, 2), make(), **OPTIONS)
    if "DataLoader" in type(make()).__name__:
        with pytest.raises(error, match=words):
            pyrovae.elbo(pyrovae.linear_vae(4, 2), make())


def test_beside_weights_and_as_validation(tmp_path):
    x = as_map(array(), tmp_path)
    weight = torch.arange(50) % 3
    history = pyrovae.fit(
        pyrovae.linear_vae(4, 2), Split(x, None, weight=weight), validation=Squares(array()), **OPTIONS
    )
    assert history.config["sum_of_weights"] == float(weight.sum()) and "validation_elbo" in history.epochs
    gaps = array()
    gaps[::3, 1] = np.nan
    pyrovae.fit(pyrovae.linear_vae(4, 2, missing=True), as_map(gaps, tmp_path), missing=True, **OPTIONS)


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        ([torch.tensor([1, 2]), torch.tensor([1.5, 2.7])], ValueError, "item 1 is float32, the first int64"),
        ([np.array([1], np.int8), np.array([300], np.int64)], ValueError, "item 1 is int64, the first int8"),
        ([(1.5, 0), (2.5, 1)], TypeError, "item 0 of x is a tuple of numbers"),
    ],
)
def test_items_that_one_array_does_not_hold(items, error, words):
    class Given(Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, index):
            return items[index]

    with pytest.raises(error, match=words):
        as_rows(Given())[:]


def test_items_as_lists_of_numbers_keep_all_of_them():
    class Lists(Squares):
        def __getitem__(self, index):
            return [np.float32(index), torch.tensor(2.0)]

    assert as_rows(Lists(array()))[[3, 1]].tolist() == [[3.0, 2.0], [1.0, 2.0]]
