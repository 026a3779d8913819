"""Tensors in memory: which of them share it, as views of which tensor, and which can be written to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "SharedMemoryError",
    "base_of",
    "is_dense",
    "is_writable",
    "overlap",
    "overlapping",
    "same_values",
    "views",
]

aten = torch.ops.aten


class SharedMemoryError(ValueError):
    """These `tensors` share memory, and no single tensor covers all of them."""

    def __init__(self, why: str, tensors: Sequence[Tensor]) -> None:
        super().__init__(why)
        self.tensors = list(tensors)


def overlapping(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The indices of tensors whose ranges of bytes overlap, group by group; tensors without an overlap are left out.

    A chain is one group: a meets b, b meets c. Views that interleave without a common byte, such as `t[::2]` and
    `t[1::2]`, count as meeting.
    """
    ranges = sorted((*extent, i) for i, t in enumerate(tensors) if (extent := _extent(t)) is not None)
    groups: list[list[int]] = []
    device, end = "", 0
    for where, first, last, i in ranges:
        if groups and where == device and first < end:
            groups[-1].append(i)
            end = max(end, last)
        else:
            groups.append([i])
            device, end = where, last
    return [sorted(group) for group in groups if len(group) > 1]


def overlap(t: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a tensor's range of bytes overlaps that of one of the others."""
    return any(0 in group for group in overlapping([t, *others]))


def base_of(tensors: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """One flat tensor over the whole storage of these, and the offset of each in it, in entries.

    Raises SharedMemoryError where they are of several dtypes or storages, so that there is none.
    """
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) > 1:
        kinds = " and ".join(sorted(map(str, dtypes)))
        raise SharedMemoryError(f"share memory in the dtypes {kinds}: give them one dtype, or clone one", tensors)
    storage, size = tensors[0].untyped_storage(), tensors[0].element_size()
    begins = [t.data_ptr() - storage.data_ptr() for t in tensors]
    if any(t.untyped_storage().data_ptr() != storage.data_ptr() for t in tensors) or any(b % size for b in begins):
        raise SharedMemoryError(
            "share memory by separate storages, as two tensors made from one NumPy array do: make one a view of "
            "the other in torch, or clone it",
            tensors,
        )
    base = torch.empty(0, dtype=tensors[0].dtype, device=tensors[0].device)
    with torch.no_grad():
        base.set_(storage, 0, (storage.nbytes() // size,), (1,))
    return base, [b // size for b in begins]


def views(t: Tensor, size: int, begin: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """The operators, with their further arguments, that make a view like `t` of a flat tensor of `size` entries.

    As slices of it, step by step: a compiler follows writes through those, and through `as_strided` it does not.
    Raises SharedMemoryError for a view that is no slice, as one whose rows overlap each other.
    """
    wide = [(stride, n, dim) for dim, (n, stride) in enumerate(zip(t.shape, t.stride(), strict=True)) if n > 1]
    order = sorted((row for row in wide if row[0]), reverse=True)
    steps: list[tuple[Any, tuple[Any, ...]]] = []
    for at, (stride, n, _) in enumerate(order):
        inner = 1 + sum((count - 1) * step for step, count, _ in order[at + 1 :])
        for every in (k for k in range(1, stride + 1) if stride % k == 0):  # the view may skip rows
            row, rows = stride // every, (n - 1) * every + 1
            rest = max(0, begin + rows * row - size)  # by which the first row starts earlier, so that the last one ends
            if rest <= begin and rest + inner <= row:
                break
        else:
            raise SharedMemoryError(f"share memory, and strides {t.stride()} are not those of a slice: clone one", [t])
        steps.append((aten.slice.Tensor, (at, begin - rest, begin - rest + rows * row)))
        steps.append((aten.view.default, ([count for _, count, _ in order[:at]] + [rows, row],)))
        if every > 1:
            steps.append((aten.slice.Tensor, (at, 0, rows, every)))
        begin, size = rest, row
    steps.append((aten.select.int, (len(order), begin)))
    dims = [dim for *_, dim in order]
    steps.append((aten.permute.default, ([dims.index(dim) for dim in sorted(dims)],)))
    for dim in range(t.ndim):
        if dim not in dims:
            steps.append((aten.unsqueeze.default, (dim,)))
    if len(wide) > len(order):
        steps.append((aten.expand.default, (list(t.shape),)))
    return steps


def is_dense(t: Tensor) -> bool:
    """Whether the entries of a tensor fill its memory without gaps or repetition, in whatever order."""
    if _extent(t) is None:
        return True
    within = 1
    for stride, n in sorted((stride, n) for n, stride in zip(t.shape, t.stride(), strict=True) if n > 1):
        if stride != within:
            return False
        within *= n
    return True


def is_writable(t: Tensor) -> bool:
    """Whether new values can be written to a tensor in place; to an expanded one they cannot."""
    if t.is_inference() or t.layout != torch.strided:
        return False
    return not any(n > 1 and not stride for n, stride in zip(t.shape, t.stride(), strict=True))


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values, with NaN in the same places."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _extent(t: Tensor) -> tuple[str, int, int] | None:
    """The device, the address of the first byte, and that after the last; None for a tensor without memory."""
    if t.layout != torch.strided or not t.numel() or t.device.type == "meta":
        return None
    entries = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
    return str(t.device), t.data_ptr(), t.data_ptr() + entries * t.element_size()
