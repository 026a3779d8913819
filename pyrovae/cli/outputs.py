"""Results of a command: a file in the format that its ending names, or one JSON object."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["Output", "Result", "described", "json_text", "plain", "replacing", "require_target", "write", "write_nc"]

FORMATS = {
    ".npy": "one array",
    ".npz": "all arrays by name",
    ".csv": "a row for each item",
    ".parquet": "the same columns as .csv, with their types",
    ".nc": "netCDF, which xarray and ArviZ read, with names, units and protocol",
    ".pt2": "a program of torch's",
    ".png": "a picture",
    "/": "a folder, with one .png for each image",
    ".html": "a page",
}
IMAGE_FILE = re.compile(r"\d{4,}\.png")
ROWS = ("run", "item", "draw")  # dimensions that go down the rows of a .csv; any other goes across its columns


@dataclass(frozen=True)
class Result:
    """What a command computed: arrays with names and units, one of which is the `main` one.

    Attributes:
        dataset: the arrays; each has the dimension "item" where it is about items. Its attributes are the protocol.
        main: the variable that a .npy file holds, and a folder of images shows.
        figure: draws what a .png file holds; None where there is no picture of it.
        limits: the values of the `main` one that are black and white in a folder of images.
        frame: makes the data frame that a .csv or .parquet file holds; None for the columns of the arrays.
    """

    dataset: xr.Dataset
    main: str
    figure: Callable[[], Any] | None = None
    limits: tuple[float, float] = (0.0, 1.0)
    frame: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Output:
    """What was asked for by -o, --force and --json: where a command's result goes, and in which form.

    Attributes:
        command: the name of the command.
        out: the file or folder to write to, or None.
        force: whether it may be replaced.
        as_json: whether the standard output has one JSON object in place of words.
    """

    command: str
    out: Path | None = None
    force: bool = False
    as_json: bool = False

    @property
    def ending(self) -> str | None:
        """The ending of `out`, "" of a folder; None where nothing is written."""
        return None if self.out is None else self.out.suffix.lower()

    def say(self, text: str) -> None:
        """Words on the standard output, unless an object was asked for."""
        if not self.as_json:
            click.echo(text)

    def answer(self, record: Mapping[str, Any]) -> None:
        """The object, where one was asked for."""
        if self.as_json:
            click.echo(json_text({"command": self.command, **record}))

    def write(self, result: Result) -> None:
        """Write a result, where a file or a folder was named."""
        if self.out is not None:
            write(result, self.out, force=self.force)

    def emit(self, result: Result, line: str, *, settings: Mapping[str, Any]) -> None:
        """Write a result, and say so in a line, or in an object, which has the values where nothing is written.

        The attributes of the result are the protocol, and `settings` is what the command was asked for.
        """
        self.write(result)
        self.say(f"{line}: {self.out}")
        self.describe(result, settings)

    def describe(self, result: Result, settings: Mapping[str, Any]) -> None:
        """The object of a result."""
        if self.as_json:
            variables = described(result.dataset, values=self.out is None)
            record = {"out": self.out, "settings": settings, "protocol": result.dataset.attrs, "variables": variables}
            self.answer(record)


# the target ---------------------------------------------------------------------------------------


def require_target(target: str, endings: Sequence[str], *, force: bool = False) -> Path:
    """The path to write to; refused before anything is computed if it cannot be what is wanted.

    The reasons are an ending that is not one of `endings`, a folder that is not there or cannot be written to, and a
    file that is there already, unless `force` says that it may be replaced.
    """
    path = Path(target)
    ending = "/" if target.endswith(("/", os.sep)) else path.suffix.lower()
    if ending not in endings:
        choices = "; ".join(f"{name} ({FORMATS.get(name, 'a file')})" for name in endings)
        what = f"has the ending {ending!r}" if ending else "has no ending"
        raise click.UsageError(f"-o {target} {what}, and must have one of: {choices}")
    if ending == "/" and (path.suffix or not path.name or path.name == ".."):
        raise click.UsageError(f"-o {target} is no name of a new folder: take one without a dot, such as images/")
    if path.is_dir() and ending != "/":
        raise click.UsageError(f"-o {target} is a folder: name a file in it")
    if os.path.lexists(path) and not force:
        raise click.UsageError(f"-o {target} exists: name another, or replace it by --force")
    if path.is_dir() and not _holds_images_alone(path):
        raise click.UsageError(f"-o {target} holds other files than numbered images, and is kept: name another folder")
    folder = path.parent
    if not folder.is_dir():
        raise click.UsageError(f"-o {target}: the folder {folder} does not exist: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"-o {target}: the folder {folder} may not be written to")
    return path


def _holds_images_alone(folder: Path) -> bool:
    """Whether a folder has nothing that this command has not made, so that it may be replaced."""
    return all(IMAGE_FILE.fullmatch(file.name) and file.is_file() for file in folder.iterdir())


@contextmanager
def replacing(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary name beside `target`, which takes its place if the body ends well and is removed otherwise.

    So there is never half a file. An error of the file system, such as a full disk, is a sentence about the target.
    """
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        try:
            yield temporary
            _settle(temporary)
            if os.path.lexists(target) and not force:
                raise FileExistsError("it was made by something else meanwhile")
            if target.is_dir():
                if not _holds_images_alone(target):
                    raise FileExistsError("other files than numbered images were put there meanwhile")
                shutil.rmtree(target)
            temporary.replace(target)
        except OSError as error:
            why = error.strerror or error
            raise click.UsageError(f"-o {target} cannot be written: {why}; nothing was left there") from error
    finally:
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Have the file on the disk, where some file systems first notice that it is full."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


# the formats --------------------------------------------------------------------------------------


def write(result: Result, target: Path, *, force: bool = False) -> None:
    """Write a result to a path that `require_target` let through."""
    is_folder = not target.suffix
    writer = _write_images if is_folder else WRITERS[target.suffix.lower()]
    with replacing(target, force=force) as temporary:
        writer(result, temporary)


def _write_npy(result: Result, path: Path) -> None:
    import numpy as np

    np.save(path, result.dataset[result.main].values, allow_pickle=False)


def _write_npz(result: Result, path: Path) -> None:
    import numpy as np

    dataset = result.dataset
    names = [*dataset.data_vars, *(name for name in dataset.coords if name in ROWS)]
    np.savez_compressed(path, **{str(name): dataset[name].values for name in names})


def _write_csv(result: Result, path: Path) -> None:
    import pandas as pd

    if result.frame is not None:
        _write_frame(result, path)
        return

    # RFC 4180, and each number in as many digits as tell it from its neighbours
    pd.DataFrame(columns(result.dataset), copy=False).to_csv(path, index=False, na_rep="NaN")


def _write_frame(result: Result, path: Path) -> None:
    from pyrovae.cli.frames import write_frame

    write_frame(columns(result.dataset) if result.frame is None else result.frame(), path)


def _write_nc(result: Result, path: Path) -> None:
    attributes = result.dataset.attrs
    texts = {key: click.format_filename(value) for key, value in attributes.items() if isinstance(value, str)}
    write_nc(result.dataset.assign_attrs(texts), path)  # the name of a folder may be no Unicode


def write_nc(dataset: Any, path: Path) -> None:
    """A Dataset, or a tree of them, as netCDF."""
    try:
        dataset.to_netcdf(path, engine="h5netcdf")
    except (RuntimeError, KeyError, AttributeError) as error:
        # by which HDF5 tells of a full disk as it closes the file
        raise OSError(f"netCDF could not be written ({error}); is the disk full?") from error


def _write_png(result: Result, path: Path) -> None:
    if result.figure is None:
        raise TypeError("this result has no picture")
    result.figure().savefig(path, format="png", dpi=200)


def _write_images(result: Result, path: Path) -> None:
    from PIL import Image

    images = result.dataset[result.main].values
    numbers = result.dataset["item"].values
    width = max(4, len(str(int(numbers.max()))))
    path.mkdir()
    for number, image in zip(numbers, images, strict=True):
        Image.fromarray(_pixels(image, result.limits)).save(path / f"{int(number):0{width}d}.png")


def _pixels(image: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """An image (1, H, W) or (3, H, W) as bytes, (H, W) or (H, W, 3); values outside of the limits are clipped."""
    import numpy as np

    from pyrovae.cli.pictures import shades

    whole = np.rint(np.clip(shades(image, limits), 0, 1) * 255).astype(np.uint8)
    return whole[0] if len(whole) == 1 else np.moveaxis(whole, 0, -1)


WRITERS: dict[str, Callable[[Result, Path], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_frame,
    ".nc": _write_nc,
    ".png": _write_png,
}


def columns(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """The columns of a table with a row for each item, or for each draw of each item, by name.

    A variable with further dimensions has a column for each entry, named by its indices counted from 0: "latent_0",
    or "x_0_3_7" for channel 0, row 3, column 7.
    """
    import numpy as np

    down = [name for name in ROWS if name in dataset.dims]
    sizes = [dataset.sizes[name] for name in down]
    table: dict[str, np.ndarray] = {}
    for place, name in enumerate(down):
        shape = [size if i == place else 1 for i, size in enumerate(sizes)]
        table[name] = np.broadcast_to(dataset[name].values.reshape(shape), sizes).ravel()
    for named, variable in dataset.data_vars.items():
        if not set(variable.dims) & set(down):
            continue  # about no item
        across = [dim for dim in variable.dims if dim not in down]
        its_rows = [dim for dim in down if dim in variable.dims]
        values = variable.transpose(*its_rows, *across).values
        for place, dim in enumerate(down):
            if dim not in variable.dims:
                values = np.expand_dims(values, place)
        values = np.broadcast_to(values, (*sizes, *values.shape[len(down) :]))
        flat = values.reshape(math.prod(sizes), -1)
        for number, entry in enumerate(_entries(variable, across)):
            table[f"{named}{entry}"] = flat[:, number]
    return table


def _entries(variable: xr.DataArray, across: Sequence[Any]) -> list[str]:
    """The end of the name of each column of a variable: its indices, or the names that its one dimension has."""
    import numpy as np

    if len(across) == 1 and across[0] in variable.coords:
        return [f"_{name}" for name in variable[across[0]].values.tolist()]
    shape = [variable.sizes[dim] for dim in across]
    return ["".join(f"_{i}" for i in index) for index in np.ndindex(*shape)]


# JSON ---------------------------------------------------------------------------------------------


def json_text(value: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """One JSON object (RFC 8259), in which a number that JSON has no word for is "NaN", "Infinity" or "-Infinity".

    Those are the strings of the JSON mapping of Protocol Buffers; `float(...)` in Python and `Number(...)` in
    JavaScript read them back. Every other number has as many digits as tell it from its neighbours. It is ASCII, which
    any terminal and any pipe takes.

    >>> from pyrovae.cli.outputs import json_text
    >>> json_text({"classes": ["ä", "b"], "se": float("nan")}).split()
    ['{', '"classes":', '[', '"\\\\u00e4",', '"b"', '],', '"se":', '"NaN"', '}']
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """A value of which JSON has all parts: arrays as lists, paths as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def described(dataset: xr.Dataset, *, values: bool) -> dict[str, Any]:
    """The variables of a dataset with what they are, and their values where these are asked for."""
    variables = {}
    for name, variable in dataset.variables.items():
        about = {
            "dims": list(map(str, variable.dims)),
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "description": variable.attrs.get("long_name"),
            "units": variable.attrs.get("units"),
        }
        if values:
            about["values"] = variable.values
        variables[str(name)] = about
    return variables
