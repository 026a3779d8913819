"""The .npy format: a header that is read without Python's parser and held against the file, and the array behind it."""

from __future__ import annotations

import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyrovae.data.limits import bytes_of

__all__ = ["Header", "damaged", "mapped", "pickled", "read_header", "read_values"]

MAGIC = b"\x93NUMPY"
LONGEST = 10_000  # bytes of a header; those that NumPy writes of plain arrays have 118

# no possessive quantifiers: Python 3.11.0 to 3.11.4 have them wrong where what is repeated holds another repetition
_TEXT = r"'[^'\\]*'|\"[^\"\\]*\""
_SHAPE = r"\(\s*(?:[0-9]{1,19}L?\s*,\s*)*(?:[0-9]{1,19}L?\s*)?\)"
_ENTRY = re.compile(rf"\s*(?P<key>{_TEXT})\s*:\s*(?P<value>{_TEXT}|True|False|{_SHAPE})\s*(?P<end>,|(?=\}}))")
_DTYPE = r"[<>|=]?[A-Za-z?][A-Za-z0-9_]{0,20}(?:\[[A-Za-z0-9/]{1,20}\])?"

CHUNK = 2**20


@dataclass(frozen=True)
class Header:
    """What a .npy file states of its array, the bytes of it, and where it begins."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int
    nbytes: int

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """The values, one after the other, in the shape of the array."""
        return values.reshape(self.shape[::-1]).T if self.is_fortran else values.reshape(self.shape)


def read_header(file: BinaryIO, what: str, size: int) -> Header:
    """The header of a file of `size` bytes, which `what` names in errors.

    Raises ValueError for another kind of file, for pickled objects, records and other things that are no plain array,
    and where the header states more than the file has.
    """
    start = file.read(8)
    if not start:
        raise damaged(what, "it is empty")
    if not start.startswith(MAGIC[: len(start)]):
        raise pickled(what)
    version = start[6:]
    if version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise damaged(what, f"it is of version {'.'.join(map(str, version)) or 'none'}, and 1.0, 2.0 and 3.0 are read")
    length_format = "<H" if version == b"\1\0" else "<I"
    length_size = struct.calcsize(length_format)
    raw = file.read(length_size)
    length = struct.unpack(length_format, raw)[0] if len(raw) == length_size else 0
    offset = 8 + length_size + length
    if not 0 < length <= LONGEST or offset > size:
        raise damaged(what, f"its header is said to have {length:,} bytes, and the file has {size:,}")
    entries = _entries(file.read(length).decode("latin-1"), what)
    dtype = _dtype(entries["descr"], what)
    shape = tuple(int(number) for number in re.findall("[0-9]+", entries["shape"]))
    nbytes = bytes_of(shape, dtype.itemsize, what)
    if nbytes > size - offset:
        raise _cut_short(what, size - offset, nbytes, f" of shape {shape} of {dtype}")
    return Header(shape, dtype, entries["fortran_order"] == "True", offset, nbytes)


def mapped(path: Path, header: Header) -> np.ndarray:
    """The array as a memory map; an empty one, of which there can be no map, in memory."""
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    order = "F" if header.is_fortran else "C"
    return np.memmap(path, header.dtype, mode="r", offset=header.offset, shape=header.shape, order=order)  # type: ignore[call-overload]


def read_values(file: BinaryIO, header: Header, what: str) -> np.ndarray:
    """The array behind a header, read into memory."""
    values = np.empty(header.nbytes, np.uint8)
    view, read = memoryview(values.data), 0
    while read < header.nbytes:
        part = file.read(min(CHUNK, header.nbytes - read))
        if not part:
            raise _cut_short(what, read, header.nbytes)
        view[read : read + len(part)] = part
        read += len(part)
    return header.shaped(values.view(header.dtype))


def damaged(what: str, why: str) -> ValueError:
    """The error for a file that is no .npy or .npz file, or is broken."""
    return ValueError(f"{what} is damaged or no NumPy file: {why}")


def _cut_short(what: str, there: int, stated: int, of: str = "") -> ValueError:
    return damaged(what, f"only {there:,} of {stated:,} bytes{of} are there: copy or save it again")


def pickled(what: str) -> ValueError:
    """The error for a file that holds objects, or may do so."""
    return ValueError(
        f"{what} holds pickled Python objects, or no NumPy array at all; a pickle can run code and is never opened: "
        "save an array of numbers (or strings, for labels)"
    )


def _entries(text: str, what: str) -> dict[str, str]:
    """The three entries of a header as they are written; never evaluated."""
    body = text.strip()
    entries: dict[str, str] = {}
    place = 1
    while found := _ENTRY.match(body, place):
        entries.setdefault(found["key"][1:-1], found["value"])
        place = found.end()
        if not found["end"]:
            break
    is_whole = body[:1] == "{" and body[place:].strip() == "}"
    if re.search(r"descr['\"]\s*:\s*\[", body):
        raise ValueError(f"{what} holds records of several fields: save each field as an array of its own")
    if not is_whole or set(entries) != {"descr", "fortran_order", "shape"}:
        raise damaged(what, f"its header is {body[:100]!r}")
    is_typed = entries["descr"][0] in "'\"" and entries["shape"][0] == "(" and entries["fortran_order"] in _BOOLEANS
    if not is_typed or re.fullmatch(r"\(\s*[0-9]+L?\s*\)", entries["shape"]):
        raise damaged(what, f"its header is {body[:100]!r}")
    return entries


_BOOLEANS = ("True", "False")


def _dtype(text: str, what: str) -> np.dtype:
    words = text[1:-1]
    try:
        if not re.fullmatch(_DTYPE, words):
            raise TypeError
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dtype: np.dtype = np.dtype(words)
    except (TypeError, ValueError, OverflowError, Warning):
        raise damaged(what, f"its header states the dtype {words[:40]!r}") from None
    if dtype.hasobject:
        raise pickled(what)
    if dtype.itemsize == 0 or dtype.subdtype is not None or dtype.fields is not None:
        raise damaged(what, f"its header states the dtype {words[:40]!r}, which has no plain values")
    return dtype
