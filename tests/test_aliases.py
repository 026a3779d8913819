"""Which tensors share memory, against byte by byte; views that a compiler follows, against `as_strided`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyrovae.compile.aliases import SharedMemoryError, base_of, is_dense, overlap, overlapping, views


def entries(t):
    """The addresses of a tensor's entries."""
    offsets = torch.arange(t.untyped_storage().nbytes() // t.element_size())
    places = offsets.as_strided(t.shape, t.stride(), t.storage_offset()).flatten()
    return {t.untyped_storage().data_ptr() + int(place) * t.element_size() for place in places}


def some_views():
    whole = torch.arange(24.0)
    yield from (whole, whole[:8], whole[8:], whole[6:10], whole[::2], whole[1::2], whole.view(4, 6)[:, 4:])
    yield from (whole.view(4, 6).t()[2], whole.view(2, 3, 4)[:, 1:, ::3].transpose(0, 2), whole[5], whole[:0])
    yield whole.view(4, 6)[1:, None, 2:3].permute(2, 0, 1)


def test_no_shared_entry_is_missed():
    every = list(some_views())
    for a in every:
        for b in every:
            assert overlap(a, [b]) or not entries(a) & entries(b)
    assert not overlap(every[1], [every[2]])  # that begins where it ends
    assert overlapping([every[1], torch.ones(3), every[3], every[2]]) == [[0, 2, 3]]
    # one within another ends before it, and a third may meet the other alone
    assert overlapping([every[0][:12], every[0][2:4], every[0][10:15]]) == [[0, 1, 2]]


def test_a_view_is_made_step_by_step_where_it_lies():
    for t in some_views():
        if t.numel():
            base, (begin,) = base_of([t])
            made = base
            for step, args in views(t, base.numel(), begin):
                made = step(made, *args)
            assert made.shape == t.shape and made.data_ptr() == t.data_ptr() and torch.equal(made, t)
            assert entries(made) == entries(t)


def test_what_no_slice_makes_is_refused():
    with pytest.raises(SharedMemoryError, match=r"strides \(1, 1\)"):
        views(torch.arange(6.0).as_strided((3, 2), (1, 1)), 6, 0)
    with pytest.raises(SharedMemoryError, match=r"dtypes torch.complex64 and torch.float32"):
        base_of([z := torch.zeros(3, dtype=torch.complex64), torch.view_as_real(z)])
    array = np.zeros(8, dtype=np.float32)
    with pytest.raises(SharedMemoryError, match="one NumPy array"):
        base_of([torch.from_numpy(array), torch.from_numpy(array[2:])])


def test_what_is_dense():
    dense = [torch.ones(3, 4).t(), torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.ones(())]
    assert all(map(is_dense, dense)) and is_dense(torch.ones(0, 3))
    whole = torch.ones(8)
    assert not any(map(is_dense, [whole[::2], torch.ones(4, 6)[:, :3], whole[:1].expand(3)]))
    # as many entries as places, and some of these are met twice and others never
    assert not any(map(is_dense, [whole.as_strided((2, 2), (0, 3)), whole.as_strided((2, 2, 2), (1, 1, 5))]))
