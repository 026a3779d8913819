"""Files that were spoilt in some bytes, and lines of arguments: sentences of the package's own, whatever they hold.

`FUZZ_EXAMPLES=20000 python -m pytest -m slow tests/test_fuzz.py` goes on for hours, with other examples each time.
`tests/fuzz/` has searches that are guided by coverage, and hostile values of every argument of every function.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import pyrovae
from pyrovae.cli import main
from pyrovae.cli.entry import group
from pyrovae.data import load
from pyrovae.data.archives import Archive
from pyrovae.data.idx import read_idx
from pyrovae.data.numpy_files import read_array

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def fuzz(share: float = 1.0) -> Callable[[Any], Any]:
    """The same few examples each time, or as many others as the environment says."""
    return settings(
        max_examples=max(5, int((EXAMPLES or 80) * share)),
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def spoilt(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """A whole file with some bytes changed, left out, repeated or put in, or cut off."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["set", "insert", "remove", "repeat", "cut", "number"]))
        length = draw(st.integers(1, 8))
        if kind == "set" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length]
        elif kind == "number":
            extreme = draw(st.sampled_from([0, 1, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
            data[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", extreme)
        else:
            del data[place:]
    return bytes(data)


def file_of(write: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


X = np.arange(24.0).reshape(6, 4) / 24
IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", 3, 2, 2) + bytes(range(12))
NPY = [
    file_of(lambda file, each=each: np.save(file, each))
    for each in (X, np.asfortranarray(X), np.array(["a", "bc"]), (X * 255).astype(np.uint8))
]
NPZ = [
    file_of(lambda file: np.savez(file, x=X, y=np.arange(6))),
    file_of(lambda file: np.savez_compressed(file, x_train=X, x_test=X)),
]
PICTURE = Image.fromarray((np.arange(64) * 4).astype(np.uint8).reshape(8, 8))
PICTURES = {
    ".png": file_of(lambda file: PICTURE.save(file, "PNG")),
    ".jpg": file_of(lambda file: PICTURE.save(file, "JPEG")),
    ".bmp": file_of(lambda file: PICTURE.save(file, "BMP")),
    ".gif": file_of(lambda file: PICTURE.save(file, "GIF")),
    ".tif": file_of(lambda file: PICTURE.save(file, "TIFF")),
    ".webp": file_of(lambda file: PICTURE.save(file, "WEBP")),
}


def read_or_named(path: Path, read: Callable[[Path], Any]) -> None:
    """What is read is read, and what is refused names the file."""
    try:
        read(path)
    except ValueError as error:
        assert path.name in str(error)
    except TypeError as error:  # numbers of another kind
        assert path.name in str(error) and "must be an array of numbers" in str(error)


@fuzz()
@given(data=spoilt([IDX]))
def test_idx(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "t-images-idx3-ubyte"
    path.write_bytes(data)
    read_or_named(path, read_idx)


@fuzz()
@given(data=spoilt([gzip.compress(IDX, mtime=0)]))
def test_gz(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "t-images-idx3-ubyte.gz"
    path.write_bytes(data)
    read_or_named(path, read_idx)


@fuzz()
@given(data=spoilt(NPY))
def test_npy(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.npy"
    path.write_bytes(data)
    read_or_named(path, lambda path: read_array("labels", path, "labels"))
    read_or_named(path, load)


def read_archive(path: Path) -> None:
    with Archive(path) as archive:
        for key in archive.keys[:4]:
            archive.read(key)


@fuzz()
@given(data=spoilt(NPZ))
def test_npz(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(data)
    read_or_named(path, read_archive)
    read_or_named(path, load)


@fuzz()
@given(data=st.data(), ending=st.sampled_from(sorted(PICTURES)))
def test_images(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ending: str) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    path = folder / f"a{ending}"
    path.write_bytes(data.draw(spoilt([PICTURES[ending]])))
    PICTURE.save(folder / "b.png")
    try:
        load(folder)
    except ValueError as error:
        assert path.name in str(error)


@fuzz(0.5)
@given(text=spoilt([b"a,b,c\n1,2.5,x\n2,3.5,y\n3,4.5,x\n4,5.5,y\n"]))
def test_tables(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    pytest.importorskip("pandas")
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(text)
    try:
        load(path)
    except ValueError as error:
        assert path.name in str(error) or "column" in str(error)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    torch.manual_seed(0)
    folder = pyrovae.save(tmp_path_factory.mktemp("states") / "state", pyrovae.linear_vae(3, 1))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz(0.7)
@given(data=st.data())
def test_states(state: tuple[Path, dict[str, bytes]], data: st.DataObject) -> None:
    folder, whole = state
    name = data.draw(st.sampled_from(sorted(whole)))
    (folder / name).write_bytes(data.draw(spoilt([whole[name]])))
    try:
        pyrovae.load(folder)
    except (pyrovae.CheckpointError, FileNotFoundError) as error:
        assert folder.name in str(error)
    finally:
        (folder / name).write_bytes(whole[name])


WORDS = [
    "",
    "0",
    "-1",
    "1",
    "3",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    str(10**12),
    str(10**30),
    "x",
    "a,b",
    "1,2",
    ",",
]
WORDS += ["~nouser/x", "\0", "\ud800", "x" * 300, "--", "-h", "x.npy", "y.npy", "run", ".", "/dev/null", "none", "auto"]
COMMANDS = ("data", "fit", "evaluate", "encode", "sample", "impute", "check", "report", "export")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with items, and a run on them."""
    folder = tmp_path_factory.mktemp("lines")
    np.save(folder / "x.npy", X.repeat(4, 0))
    np.save(folder / "y.npy", np.arange(24) % 2)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", "x.npy", "--network", "linear", "--latent-dim", "1", "--epochs", "1", "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return folder


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with an item to work on, and some of its options with any words."""
    commands = group()
    context = click.Context(commands)
    name = draw(st.sampled_from([each for each in commands.list_commands(context) if each in COMMANDS]))
    command = commands.get_command(context, name)
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option) and each.name not in ("help", "jobs")]
    line = [name, "x.npy" if name in ("data", "fit") else "run"]
    if name == "fit":
        line += ["--epochs", "1", "--out", "new"]
    for _ in range(draw(st.integers(1, 2))):
        option = draw(st.sampled_from(options))
        line.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            line.append(draw(st.sampled_from(WORDS)))
    return line


@fuzz(0.2)
@given(line=lines())
def test_lines_of_arguments(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    monkeypatch.chdir(run)
    status = main(line)
    output = capsys.readouterr()
    assert status in (0, 2), f"{line}: {output.err}"
    assert "Traceback" not in output.err, line
