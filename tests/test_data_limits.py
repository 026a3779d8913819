"""Hostile files of data: sizes from headers are held against the file and against limits before anything is read."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrovae.data import load
from pyrovae.data.archives import Archive
from pyrovae.data.idx import read_idx
from pyrovae.data.numpy_files import read_array

MOST = 100_000_000  # bytes that a refusal may take
SQUARE = 13_000  # pixels a side


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header_bytes(text: str, version: int = 1) -> bytes:
    raw = text.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw


def refused(path: Path, name: str = "") -> str:
    """What `load` says of a file, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST
    assert (name or path.name) in str(caught.value)
    return str(caught.value)


ARRAYS = {
    "float32 of two axes": np.arange(12, dtype=np.float32).reshape(4, 3),
    "Fortran order": np.asfortranarray(np.arange(24.0).reshape(4, 3, 2)),
    "the other byte order": np.arange(8, dtype=">i4").reshape(4, 2),
    "one number": np.array(3.5),
    "no item": np.zeros((0, 3)),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "booleans": np.array([[True, False], [False, True]]),
    "complex": np.array([1 + 2j]),
    "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    "long double": np.array([1.0], dtype=np.longdouble),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_those_that_numpy_reads(tmp_path: Path, kind: str) -> None:
    array = ARRAYS[kind]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    np.savez_compressed(tmp_path / "b.npz", x=array)
    reference = np.load(tmp_path / "a.npy", allow_pickle=False)
    read = [read_array("labels", tmp_path / "a.npy", "labels")]
    for name in ("a.npz", "b.npz"):
        with Archive(tmp_path / name) as archive:
            read.append(archive.read("x"))
    for each in read:
        assert each.dtype == reference.dtype and each.flags.f_contiguous == reference.flags.f_contiguous
        np.testing.assert_array_equal(each, reference)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    x = np.arange(6.0).reshape(3, 2)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version=version)
    np.testing.assert_array_equal(read_array("labels", tmp_path / "x.npy", "labels"), x)


TWO = "'fortran_order': False, 'shape': (2, 2)"
HEADERS = {
    "an unclosed bracket": ("{'descr': '<f8', 'shape': (", r"its header is"),
    "nested brackets": ("(" * 9000, r"its header is"),
    "a call": ("{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').getcwd()}", r"its header is"),
    "an entry that is missing": ("{'descr': '<f8', 'shape': (2, 2)}", r"its header is"),
    "an entry too many": (f"{{'descr': '<f8', {TWO}, 'x': True}}", r"its header is"),
    "a shape that is a number": ("{'descr': '<f8', 'fortran_order': False, 'shape': (4)}", r"its header is"),
    "a negative shape": ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}", r"its header is"),
    "a dtype that is none": (f"{{'descr': 'nonsense', {TWO}}}", r"the dtype 'nonsense'"),
    "a dtype that is a shape": (f"{{'descr': (2, 2), {TWO}}}", r"its header is"),
    "several fields in a dtype": (f"{{'descr': 'i4,i4', {TWO}}}", r"the dtype 'i4,i4'"),
    "text of no length": (f"{{'descr': '<U0', {TWO}}}", r"no plain values"),
    "objects": (f"{{'descr': '|O', {TWO}}}", r"holds pickled Python objects"),
    "records": (f"{{'descr': [('a', '<f8')], {TWO}}}", r"records of several fields"),
    "a huge shape": (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999)}",
        r"only 32 of 799,919,999,920,008 bytes",
    ),
    "a shape beyond any": (f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**18}, {10**18})}}", r"no machine"),
    "an empty one beyond any": (
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {10**18}, 99)}}",
        r"no machine",
    ),
    "255 axes": (f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({'1, ' * 255})}}", r"255 axes, and at most 32"),
    "a long one": (f"{{'descr': '<f8', {TWO}}}" + " " * 20_000, r"said to have 20,0\d\d bytes"),
}


@pytest.mark.parametrize("shape", ["(2L, 2L)", "( 2L , 2L )", "(2,2)", "(2, 2, )", "(2 ,2 ,)", "(4L,)", "( 4 , )"])
def test_a_shape_is_read_however_it_is_written(tmp_path: Path, shape: str) -> None:
    """Python 2 wrote long integers, and others write other spaces."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n"
    (tmp_path / "x.npy").write_bytes(header_bytes(text) + np.arange(4.0).tobytes())
    x = read_array("labels", tmp_path / "x.npy", "labels")
    assert x.shape == ((4,) if "4" in shape else (2, 2)) and x.ravel().tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_is_read_and_never_evaluated(tmp_path: Path, kind: str) -> None:
    text, words = HEADERS[kind]
    data = header_bytes(text) + bytes(32)
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=rf"{name}.*{words}"):
            load(tmp_path / name)


def test_what_lies_in_an_archive_and_is_no_array_is_named(tmp_path: Path) -> None:
    whole = npy_bytes(np.zeros((5, 3)))
    path = tmp_path / "x.npz"
    for method, words in ((zipfile.ZIP_LZMA, "another method than deflate"), (zipfile.ZIP_BZIP2, "another method")):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x.npy", whole)
        with pytest.raises(ValueError, match=rf"x\.npz:x .*{words}"):
            load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"no array")
    with pytest.raises(ValueError, match=r"x\.npz:x is a file in the archive, and no array"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", whole)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of encryption, in the table of contents
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz:x is encrypted"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", whole)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\5\6") + 12
    data[place : place + 4] = struct.pack("<I", 2**31)  # bytes of the table of contents
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz is damaged or no NumPy file"):
        load(path)


def test_every_byte_of_an_archive_may_be_wrong(tmp_path: Path) -> None:
    """A flipped byte is refused by name, or what is read is what was written: a checksum is over every value."""
    x = np.arange(8.0).reshape(4, 2)
    path = tmp_path / "x.npz"
    np.savez(path, x=x)
    whole = path.read_bytes()
    refusals = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        path.write_bytes(flipped)
        try:
            with Archive(path) as archive:
                read = archive.read(archive.keys[0])
        except ValueError as error:
            assert "x.npz" in str(error)
            refusals += 1
        else:
            np.testing.assert_array_equal(read, x)
    assert refusals > 0.8 * len(whole) - 60  # dates, versions and attributes say nothing of the values


def zeros(shape: tuple[int, ...]) -> Any:
    """The bytes of a .npy file of zeros, in parts."""
    yield header_bytes(repr({"descr": "|u1", "fortran_order": False, "shape": shape}))
    left = int(np.prod(shape))
    while left:
        part = min(left, 2**22)
        yield bytes(part)
        left -= part


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2000, 1000, 1000), (2, 10**9)])
def test_an_archive_that_would_unpack_to_gigabytes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        for part in zeros(shape):
            file.write(part)
    assert path.stat().st_size < 10e6
    assert "would unpack to 2 GB: over 268 MB, at most 200 times" in refused(path)


@pytest.mark.slow
def test_a_gzip_file_that_would_unpack_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "t-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, 3000, 1000, 1000))
        for _ in range(3000):
            file.write(bytes(10**6))
    assert path.stat().st_size < 15e6
    with pytest.raises(ValueError, match=r"would unpack to 3 GB: over 268 MB, at most 200 .* unpack it by gunzip"):
        read_idx(path)
    assert "would unpack to 3 GB" in refused(tmp_path, path.name)


def test_a_gzip_file_with_gigabytes_behind_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrovae.data.idx.UNPACKED", 10**6)
    path = tmp_path / "t-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(5_000_000)))
    with pytest.raises(ValueError, match=r"is too long: expected 24 bytes for shape \(2, 2, 2\), got [12]\d{6} once"):
        read_idx(path)


def test_what_lies_within_the_limits_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a file that is packed well and small, and a large one that is packed little."""
    monkeypatch.setattr("pyrovae.data.limits.UNPACKED", 20_000)
    np.savez_compressed(tmp_path / "x.npz", x=np.eye(40))
    assert load(tmp_path / "x.npz").event_shape == (40,)
    noise = np.random.default_rng(0).random((100, 40))
    np.savez_compressed(tmp_path / "y.npz", x=noise)
    assert noise.nbytes > 20_000
    assert load(tmp_path / "y.npz").event_shape == (40,)
    np.savez_compressed(tmp_path / "z.npz", x=np.zeros((2000, 40)))
    with pytest.raises(ValueError, match="at most 200 times a file's own size"):
        load(tmp_path / "z.npz")


def test_an_idx_file_of_255_axes(tmp_path: Path) -> None:
    path = tmp_path / "x-images"
    path.write_bytes(struct.pack(">4B", 0, 0, 8, 255) + struct.pack(">255I", *[1] * 255) + b"\1")
    with pytest.raises(ValueError, match=r"x-images states an array of 255 axes, and at most 32 are read"):
        read_idx(path)
    path.write_bytes(struct.pack(">4B", 0, 0, 8, 4) + struct.pack(">4I", 0, *[2**32 - 1] * 3))
    with pytest.raises(ValueError, match=r"x-images states an array of shape .*, which no machine can hold"):
        read_idx(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_idx("/dev/zero")


def png_that_states(width: int, height: int) -> bytes:
    """A PNG of a few rows whose header states more of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 + width))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore:Image size")
def test_images_of_too_many_pixels_are_refused_unread(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png_that_states(SQUARE, SQUARE))
    assert "cannot be read as an image: it has 13,000 x 13,000 pixels, and at most 16,777,216" in refused(
        tmp_path, "a.png"
    )


def test_what_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for kind in (TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError, AssertionError):
        (tmp_path / "a.png").write_bytes(b"x")

        def fail(*_: object, kind: type[Exception] = kind, **__: object) -> None:
            raise kind("a decoder's own words")

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*own words.*; replace or remove it"):
            load(tmp_path)


def test_an_image_of_a_format_that_starts_programs_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: cannot identify"):
        load(tmp_path)
