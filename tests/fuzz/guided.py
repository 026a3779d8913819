"""Coverage-guided fuzzing of .npy, .npz, IDX and image files: python tests/fuzz/guided.py npy -max_total_time=600.

Needs atheris (`pip install atheris`, on Python 3.11 to 3.13), which mutates whole files and keeps those that reach new
code. What follows the name of a format goes to libFuzzer, as a folder of files to go on from. Anything but a ValueError
of the package, with the file's name in it, ends the run with a traceback and leaves the file as `crash-...`.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["pyrovae.data", "zipfile", "gzip"]):
    import zipfile  # noqa: F401

    from pyrovae.data import archives, idx, images, npy_format, numpy_files

sys.path.insert(0, str(Path(__file__).parent))

FILES = {"npy": "x.npy", "npz": "x.npz", "idx": "x-images", "gz": "x-images.gz", "images": "x.png"}


def read_npz(path: Path) -> None:
    with archives.Archive(path) as archive:
        for key in archive.keys[:4]:
            archive.read(key)


READERS: dict[str, Callable[[Path], Any]] = {
    "npy": lambda path: numpy_files.read_array("labels", path, "labels"),
    "npz": read_npz,
    "idx": idx.read_idx,
    "gz": idx.read_idx,
    "images": images._image,
}


def seeds(kind: str) -> list[bytes]:
    """Files that are whole, for the fuzzer to start from."""
    import gzip

    arrays = [np.arange(6.0).reshape(3, 2), np.array(["a", "bc"]), np.zeros((2, 2, 2), np.uint8, order="F")]
    made = []
    for array in arrays:
        file = io.BytesIO()
        if kind == "npy":
            np.save(file, array)
        elif kind == "npz":
            np.savez(file, x=array, y=np.arange(3))
            made.append(file.getvalue())
            file = io.BytesIO()
            np.savez_compressed(file, x=array)
        elif kind in ("idx", "gz"):
            data = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))
            file.write(gzip.compress(data) if kind == "gz" else data)
        else:
            from PIL import Image

            form = ("PNG", "GIF", "BMP")[len(made)]
            Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, form)
        made.append(file.getvalue())
    return made


def main() -> None:
    kind = sys.argv[1]
    folder = Path(tempfile.mkdtemp())
    path = folder / FILES[kind]
    read = READERS[kind]

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except ValueError as error:
            if path.name not in str(error):
                raise

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(kind)):
        (corpus / str(number)).write_bytes(data)
    assert npy_format.LONGEST
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
