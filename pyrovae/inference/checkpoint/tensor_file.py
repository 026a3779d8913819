"""Files of tensors in the safetensors format, written and read tensor by tensor.

Eight bytes say how long the header is; the header is JSON that gives the dtype, shape and place of each tensor; their
bytes follow without a gap. What is written here is byte for byte what the safetensors library writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pyrovae.json_files import bounded

__all__ = [
    "CODES",
    "DTYPES",
    "Entry",
    "SizeError",
    "TensorFileError",
    "read_header",
    "read_tensors",
    "refuse_unwritable",
    "write_tensors",
]

DTYPES = {
    name: getattr(torch, word)
    for name, word in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
    }.items()
    if hasattr(torch, word)
}
CODES = {dtype: name for name, dtype in DTYPES.items()}
# by this and their names tensors lie in a file, those of the widest numbers first
ORDER = (
    "U64 I64 F64 C64 F32 U32 I32 BF16 F16 U16 I16 F8_E5M2FNUZ F8_E4M3FNUZ F8_E4M3 F8_E5M2 I8 U8 BOOL".split()  # noqa: SIM905
)
PIECE = 2**24  # bytes that are hashed, read or written at once
MOST_AXES = 64
SHAPE = re.compile(r"\[([0-9]{1,19}(, [0-9]{1,19})*)?\]")


class TensorFileError(ValueError):
    """A file that is not one of the tensors that it should have."""


class SizeError(TensorFileError):
    """A file that is shorter or longer than its header states."""

    def __init__(self, message: str, is_short: bool) -> None:
        super().__init__(message)
        self.is_short = is_short


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its dtype and shape, and its first byte, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors, one after the other, and return the SHA-256 of what was written, in hexadecimal."""
    for name, tensor in tensors.items():
        refuse_unwritable(name, tensor)
    names = sorted(tensors, key=lambda name: (ORDER.index(CODES[tensors[name].dtype]), name))
    header: dict[str, Any] = {}
    place = 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    for content in (len(text).to_bytes(8, "little"), text):
        digest.update(content)
        file.write(content)
    for name in names:
        for piece in _pieces(_bytes_of(_on_host(tensors[name]))):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def refuse_unwritable(name: str, tensor: Tensor) -> None:
    """Raise TypeError for a tensor that the format has no place for."""
    what = None
    if tensor.is_nested or tensor.layout != torch.strided:
        what = "nested" if tensor.is_nested else f"of layout {tensor.layout}"
    elif tensor.is_quantized:
        what = "quantized"
    elif tensor.is_meta:
        what = "on the device meta, which has shapes and no values"
    elif tensor.dtype not in CODES:
        what = f"of dtype {str(tensor.dtype).removeprefix('torch.')}"
    if what is not None:
        raise TypeError(
            f"{name!r} of the pair's state is {what}, and a saved state has plain tensors of numbers alone: "
            "convert it before"
        )


def read_header(file: BinaryIO, size: int, shapes: Mapping[str, str] | None, most_header: int) -> dict[str, Entry]:
    """The entries of a file of `size` bytes, in the order of their places; the file stands after its header.

    All of it is held against `shapes`, as a manifest has them, where these are known, and against the size, before a
    byte of a tensor is read. Raises TensorFileError.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise TensorFileError(f"it has {size:,} bytes and states a header of {length:,}")
    if length > most_header:
        raise TensorFileError(f"it has a header of {length:,} bytes, and that of these tensors takes {most_header:,}")
    content = file.read(length)
    try:
        header = bounded(content, most_values=length // 4 + 16)
    except ValueError as error:
        raise TensorFileError(f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise TensorFileError("its header is not a table of tensors")
    header.pop("__metadata__", None)
    if shapes is not None and header.keys() != shapes.keys():
        raise TensorFileError(f"it has other tensors, {_unlike(header.keys(), shapes.keys())}")
    entries = {str(name): _entry(str(name), record) for name, record in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))
    end = 0
    for name, entry in entries.items():
        if shapes is not None and str(list(entry.shape)) != shapes[name]:
            raise TensorFileError(f"{name} is of shape {list(entry.shape)} there, and the manifest says {shapes[name]}")
        if entry.start != end:
            raise TensorFileError(f"{name} begins at byte {entry.start:,}, and the tensor before it ends at {end:,}")
        end += entry.size
    if 8 + length + end != size:
        raise SizeError(f"it has {size:,} bytes and should have {8 + length + end:,}", size < 8 + length + end)
    return entries


def read_tensors(
    file: BinaryIO, entries: Mapping[str, Entry], place_for: Callable[[str, Entry], Tensor | None], digest: Any
) -> dict[str, Tensor]:
    """Read each tensor into the one that `place_for` has for it, or into a new one; `digest` takes all bytes.

    A place is a contiguous tensor of the host, of the entry's dtype and shape.
    """
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        tensor = place_for(name, entry)
        if tensor is None:
            tensor = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        tensors[name] = tensor
        for piece in _pieces(_bytes_of(tensor)):
            count = file.readinto(piece)  # type: ignore[attr-defined]
            if count != len(piece):
                raise TensorFileError(f"it ends within {name}")
            digest.update(piece)
    return tensors


def _entry(name: str, record: Any) -> Entry:
    if not isinstance(record, dict) or record.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"its header says no dtype, shape and place of {name[:200]!r}")
    code, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise TensorFileError(f"{name[:200]!r} has dtype {str(code)[:50]!r}, and these are read: {', '.join(DTYPES)}")
    if not _is_sizes(shape, MOST_AXES) or not _is_sizes(offsets, 2) or len(offsets) != 2:
        raise TensorFileError(f"{name[:200]!r} has no shape and place that a tensor could have")
    entry = Entry(DTYPES[code], tuple(shape), offsets[0])
    if entry.size != offsets[1] - offsets[0] or entry.size >= 2**63:
        raise TensorFileError(
            f"{name[:200]!r} takes {offsets[1] - offsets[0]:,} bytes there, and its shape and dtype {entry.size:,}"
        )
    return entry


def _is_sizes(value: Any, most: int) -> bool:
    if not isinstance(value, list) or len(value) > most:
        return False
    return all(type(size) is int and 0 <= size < 2**63 for size in value)


def _unlike(there: Any, stated: Any) -> str:
    more, fewer = sorted(there - stated), sorted(stated - there)
    words = [f"{len(more):,} more than the manifest, as {more[0][:100]!r}"] if more else []
    words += [f"{len(fewer):,} fewer, as {fewer[0][:100]!r}"] if fewer else []
    return " and ".join(words)


def _on_host(tensor: Tensor) -> Tensor:
    """The tensor itself where its bytes lie in order, else a copy."""
    tensor = tensor.detach()
    return tensor.resolve_conj().resolve_neg().cpu().contiguous()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _pieces(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]
