"""The order of batches is a permutation fixed by seed and epoch, and nothing else is moved."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae.data import MappedArray, batches
from pyrovae.data.batches import ahead, order


def test_the_order_is_numpys_permutation_of_seed_and_epoch() -> None:
    for seed, epoch in [(0, 0), (0, 1), (7, 123), (2**40, 5)]:
        expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(50)
        found = order(50, seed=seed, epoch=epoch)
        assert found.dtype == torch.int64
        assert found.tolist() == expected.tolist()


def test_orders_of_other_epochs_and_seeds_are_unrelated() -> None:
    # two unrelated permutations agree in Poisson(1) places: more than 12 has probability 6e-11
    table = [order(1000, seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    for i, one in enumerate(table):
        assert sorted(one.tolist()) == list(range(1000))
        for other in table[:i]:
            assert int((one == other).sum()) <= 12


def test_an_epoch_is_repeated_without_those_before_it() -> None:
    x = torch.arange(103.0)
    first = torch.cat(list(batches(x, 10, seed=3, epoch=9)))
    for epoch in range(9):
        list(batches(x, 10, seed=3, epoch=epoch))
    assert torch.equal(torch.cat(list(batches(x, 10, seed=3, epoch=9))), first)
    assert not torch.equal(torch.cat(list(batches(x, 10, seed=3, epoch=8))), first)


@pytest.mark.parametrize("size", [1, 4, 10, 103, 1000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_item_comes_once_whatever_the_batch_size(size: int, shuffle: bool) -> None:
    x = torch.arange(103 * 6.0).reshape(103, 1, 2, 3)
    parts = list(batches(x, size, seed=1, epoch=2, shuffle=shuffle))
    assert [len(part) for part in parts] == [size] * (103 // size) + [103 % size] * (103 % size > 0)
    index = order(103, seed=1, epoch=2) if shuffle else torch.arange(103)
    assert torch.equal(torch.cat(parts), x[index])


def test_a_memory_mapped_file_gives_the_batches_of_the_tensor(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (37, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    mapped = MappedArray(np.load(tmp_path / "x.npy", mmap_mode="r"))
    tensor = torch.from_numpy(array.astype(np.float32) / 255)
    for shuffle in (True, False):
        pairs = zip(
            batches(mapped, 8, seed=5, epoch=1, shuffle=shuffle),
            batches(tensor, 8, seed=5, epoch=1, shuffle=shuffle),
            strict=True,
        )
        for one, other in pairs:
            assert one.dtype == torch.float32
            assert torch.equal(one, other)


def test_device_and_dtype_are_those_of_x() -> None:
    x = torch.zeros(5, 2, dtype=torch.float64, device="meta")
    parts = list(batches(x, 3, seed=0, epoch=0))
    assert [(part.device.type, part.dtype, tuple(part.shape)) for part in parts] == [
        ("meta", torch.float64, (3, 2)),
        ("meta", torch.float64, (2, 2)),
    ]


def test_global_generators_are_neither_read_nor_moved() -> None:
    x = torch.arange(20.0)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = torch.cat(list(batches(x, 3, seed=0, epoch=0)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(torch.cat(list(batches(x, 3, seed=0, epoch=0))), first)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_size_below_one_is_refused_at_the_call(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be an integer of at least 1, got {size}"):
        batches(torch.zeros(4, 2), size, seed=0, epoch=0)


@pytest.mark.parametrize("size", [2.0, "2", True, None])
def test_a_batch_size_that_is_no_integer_is_refused(size: object) -> None:
    with pytest.raises(TypeError, match="batch_size must be an integer of at least 1"):
        batches(torch.zeros(4, 2), size, seed=0, epoch=0)  # type: ignore[arg-type]


def test_an_empty_x_and_a_negative_epoch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"N of at least 1, got \(0, 2\)"):
        batches(torch.zeros(0, 2), 2, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"N of at least 1, got \(\)"):
        batches(torch.tensor(1.0), 2, seed=0, epoch=0)
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0, got -1"):
        batches(torch.zeros(4, 2), 2, seed=0, epoch=-1)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        order(4, seed=-1, epoch=0)


def test_an_array_is_refused_with_the_way_to_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; torch.as_tensor\(x\) makes one"):
        batches(np.zeros((4, 2)), 2, seed=0, epoch=0)  # type: ignore[arg-type]


def test_one_item_is_one_batch() -> None:
    assert [part.tolist() for part in batches(torch.ones(1, 2), 256, seed=0, epoch=0)] == [[[1.0, 1.0]]]


class TestAhead:
    def test_values_errors_and_an_early_end(self):
        def fails():
            yield 1
            raise OSError("the disk")

        got = ahead(fails())
        assert next(got) == 1
        with pytest.raises(OSError, match="the disk"):
            next(got)
        threads, made = threading.active_count(), []
        some = ahead(iter(lambda: made.append(0) or len(made), None))
        assert [next(some), next(some)] == [1, 2]
        some.close()
        assert threading.active_count() == threads and len(made) <= 6  # it has stopped, not far ahead

    def test_it_reads_while_the_caller_works(self):
        reading, go = threading.Event(), threading.Event()

        def slow():
            yield 1
            reading.set()
            assert go.wait(10)
            yield 2

        values = ahead(slow())
        assert next(values) == 1
        assert reading.wait(10)  # though nobody has asked for the second
        go.set()
        assert next(values) == 2
