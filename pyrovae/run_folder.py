"""A run folder: what `pyrovae fit --out RUN` leaves, and all that is needed to repeat the run or to read it.

A run folder holds

- `run.json`: what the run was; of a table also how its columns became numbers, by which new files are read in the same
  codes. "status" is "unfinished" while it trains and where it was interrupted, "diverged" where
  the loss did not stay finite, and "complete", which is written last of all;
- `model/`: the fitted pair, as `pyrovae.save` writes it;
- `history.nc`: the curves of the fit;
- `checkpoint/`: the last two states of the run, of a method that keeps checkpoints.

A folder whose status is not "complete", or whose model and history are not those that `run.json` was written with, is
refused by whoever reads it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrovae
from pyrovae import checks, ranks
from pyrovae.data.beside import BESIDE, given, without_beside
from pyrovae.data.sources import load_of_shape
from pyrovae.data.tables.recorded import read_like, table_record, weights_digest
from pyrovae.durable import write_whole
from pyrovae.inference.snapshots import Place, in_words, name_of, places_in
from pyrovae.json_files import TooLargeError, bounded, read_bounded

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.data import Dataset, Split
    from pyrovae.inference.history import History

__all__ = [
    "Run",
    "RunError",
    "begin_run",
    "beside_digests",
    "data_record",
    "diverge_run",
    "finish_run",
    "last_place",
    "load_recorded",
    "read_manifest",
    "read_run",
    "unlabeled_record",
    "versions",
]

FORMAT = "pyrovae run"
FORMAT_VERSION = 1
MANIFEST = "run.json"
MODEL = "model"
HISTORY = "history.nc"
CHECKPOINT = "checkpoint"
FILES = (f"{MODEL}/manifest.json", HISTORY)  # whose digests a complete run states
STATUSES = ("unfinished", "diverged", "complete")
MANIFEST_BYTES = 2**25  # longer ones are not read: what a file says must not decide how much memory it takes
# what must be there, and as what, for a manifest to be read; a forged one has a SHA-256 that fits
FIELDS: dict[str, type] = {
    "files": dict,
    "data": dict,
    "arguments": dict,
    "chosen": dict,
    "model": dict,
    "command": list,
}
DATA_FIELDS: dict[str, Any] = {
    "source": str,
    "path": str | None,
    "root": str | None,
    "labels": str | None,
    "channels": str | None,
    "scale": bool,
    "minimum": int | float,
    "maximum": int | float,
    "event_shape": list,
    "sha256": dict,
}
# what only runs have whose items came with it; runs of before have none of these
OPTIONAL_DATA_FIELDS: dict[str, Any] = {"beside": dict, "unlabeled": dict, "table": dict}
BESIDE_FIELDS: dict[str, Any] = {"path": str | None, "sha256": dict}
TABLE_FIELDS: dict[str, Any] = {
    "encoding": dict,
    "labels": str | None,
    "weight": str | None,
    "weight_sha256": str | None,
}
UNLABELED_FIELDS: dict[str, Any] = {"source": str, "path": str | None, "items": int, "sha256": str}
LIBRARIES = {"torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy", "xarray": "xarray"}


class RunError(ValueError):
    """A folder that holds no complete run, or a data set that is not the one that a run was fitted on."""


@dataclass(frozen=True)
class Run:
    """A complete run of `pyrovae fit`, as `read_run` gives it.

    Attributes:
        path: the run folder.
        manifest: what `run.json` says: "command", the arguments that the command was given; "seed"; "versions"; "data",
            the source with its digest, the shape of an item and the numbers of items; "model", the builder's name and
            its arguments; "fit", `History.config`.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    def pair(self) -> nn.Module:
        """The fitted pair, on the CPU."""
        pair: nn.Module = pyrovae.load(self.path / MODEL)
        return pair

    def history(self) -> History | None:
        """The history of the fit, as the run wrote it; None where it has none."""
        file = self.path / HISTORY
        return read_history(file) if file.is_file() else None

    def data(
        self, source: str | os.PathLike[str] | None = None, *, covariates: Any = None, exposure: Any = None
    ) -> Dataset:
        """The data set that the run was fitted on, whose digest must be the recorded one.

        With `source`, another data set, read in the same way: bytes divided by 255 or not, and the channels where they
        make its items of the run's shape. What the run's items were given comes with them; that of a `source` is named
        beside it. Raises RunError where the recorded data set has changed, and FileNotFoundError where it is gone.
        """
        if source is None and not (covariates is None and exposure is None):
            raise ValueError("covariates and exposure are those of the items in source: name these too")
        data = load_recorded(self.manifest["data"], source, covariates=covariates, exposure=exposure)
        if source is None:
            require_same_data(self.manifest["data"], data, self.path)
        elif tuple(data.event_shape) != tuple(self.manifest["data"]["event_shape"]):
            raise RunError(
                f"{self.path} was fitted on items of shape {tuple(self.manifest['data']['event_shape'])}, and those of "
                f"{source} have shape {tuple(data.event_shape)}"
            )
        return data


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the run folder `path`, as `pyrovae fit --out path` has left it.

    Raises FileNotFoundError where there is no such folder, and RunError, with what to do, where the folder holds no
    complete run: where the run is unfinished or diverged, was written by a later version, or where a file is missing,
    damaged or exchanged.

    >>> from pyrovae.run_folder import read_run
    >>> read_run("nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: nowhere does not exist: name a folder that `pyrovae fit --out` has written
    """
    folder = checks.path("path", path)
    manifest = read_manifest(folder)
    status = manifest["status"]
    if status == "unfinished":
        place = last_place(folder)
        if place is None:
            raise RunError(
                f"{folder} holds a run that is unfinished, stopped before its first checkpoint: the same `pyrovae fit` "
                "begins again"
            )
        raise RunError(
            f"{folder} holds a run that is unfinished, stopped after {in_words(place)}: `pyrovae fit --resume --out "
            f"{folder}` goes on with it"
        )
    if status == "diverged":
        place = last_place(folder)
        kept = "" if place is None else f". Its last finite state is saved in {folder / CHECKPOINT / name_of(place)}"
        raise RunError(
            f"{folder} holds a run that diverged ({manifest.get('error', 'no reason is given')}): fit again into "
            f"another folder, with a lower learning rate{kept}"
        )
    if set(manifest["files"]) != set(FILES):  # no other file is looked at, whatever a manifest names
        raise RunError(f"{folder / MANIFEST} was not written by `pyrovae fit`: it states other files than that writes")
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise RunError(f"{folder} is not whole: {name} is missing; copy the folder again, or fit again")
        if _digest(file) != digest:
            raise RunError(
                f"{file} is not the file that the run wrote (another SHA-256): copy the folder again, or fit again"
            )
    return Run(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `run.json` of a folder says, whatever its status is; RunError where it is no run folder."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist: name a folder that `pyrovae fit --out` has written")
    if not folder.is_dir():
        raise RunError(f"{folder} is a file: name a folder that `pyrovae fit --out` has written")
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / MODEL / "manifest.json").is_file():
            raise RunError(
                f"{folder} has a saved model and no {MANIFEST}, as runs of earlier versions are: fit again, or go on "
                f"with it by `pyrovae fit ... --resume --out {folder}` and the arguments that it had"
            )
        raise RunError(f"{folder} is no run folder: it has no {MANIFEST}, which `pyrovae fit --out` writes")
    try:
        manifest = bounded(read_bounded(file, MANIFEST_BYTES))
    except TooLargeError as error:
        raise RunError(f"{file} was not written by `pyrovae fit`: {error}") from None
    except ValueError:
        raise RunError(f"{file} is damaged: it is no JSON; copy the folder again, or fit again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunError(f"{file} was not written by `pyrovae fit`")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise RunError(
            f"{file} has format version {manifest.get('format_version')}, and this version of pyrovae reads "
            f"{FORMAT_VERSION}: read it with the pyrovae {_version_of(manifest)} that wrote it"
        )
    if manifest.get("sha256") != _own_digest(manifest) or manifest.get("status") not in STATUSES:
        raise RunError(f"{file} is damaged or was changed: its SHA-256 is not the one that it states; fit again")
    lacking = _lacking(manifest, FIELDS)
    if not lacking:
        its = manifest["data"]
        there = {name: kind for name, kind in OPTIONAL_DATA_FIELDS.items() if name in its}
        lacking = [f"data.{name}" for name in _lacking(its, DATA_FIELDS | there)]
        if not lacking and "unlabeled" in its:
            lacking = [f"data.unlabeled.{name}" for name in _lacking(its["unlabeled"], UNLABELED_FIELDS)]
        if not lacking and "table" in its:
            lacking = [f"data.table.{name}" for name in _lacking(its["table"], TABLE_FIELDS)]
        for name, record in its.get("beside", {}).items() if not lacking else ():
            if name not in BESIDE or not isinstance(record, dict) or _lacking(record, BESIDE_FIELDS):
                lacking.append(f"data.beside.{name}")
    if lacking:
        raise RunError(f"{file} was not written by `pyrovae fit`: it has no {', '.join(lacking)} as that writes them")
    return manifest


def _lacking(record: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """The fields that a record does not have, or has as values of another kind."""
    return [name for name, kind in kinds.items() if name not in record or not isinstance(record[name], kind)]


def begin_run(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `run.json` of a run that begins or goes on; its status is "unfinished"."""
    _write_manifest(folder, {**manifest, "status": "unfinished", "files": {}})


def finish_run(folder: Path, pair: Any, history: History, **more: Any) -> None:
    """Write the fitted pair and the history, and then that the run is complete; `more` goes into `run.json`.

    Inside `pyrovae.distributed()` all processes call it, and the first one writes.
    """
    shared = ranks.current()
    begun, error = dict[str, Any](), None
    if shared.is_first:
        try:
            begun = read_manifest(folder)  # before anything is written into a folder that is not the run's any more
        except (OSError, RunError) as caught:
            error = caught
    if any(shared.gathered(error is not None)):
        raise error or RunError(f"{folder} is no run folder for the first process")
    pyrovae.save(folder / MODEL, pair)
    if not shared.is_first:
        return
    write_history(folder / HISTORY, history)
    manifest = _plain({**begun, "fit": history.config, **more})
    manifest |= {"status": "complete", "files": {name: _digest(folder / name) for name in FILES}}
    _write_manifest(folder, manifest)


def diverge_run(folder: Path, error: str) -> None:
    """Write that the run diverged, and why."""
    _write_manifest(folder, {**read_manifest(folder), "status": "diverged", "error": error})


def last_place(folder: Path) -> Place | None:
    """How many epochs, and batches of the next, the last state in `checkpoint/` has; None where there is none."""
    return next(iter(places_in(folder / CHECKPOINT)), None)


def data_record(
    data: Dataset,
    digests: Mapping[str, str],
    source: str,
    *,
    root: str | None = None,
    labels: str | None = None,
    channels: str | None = None,
    scale: bool = True,
    ends: tuple[float, float] = (0.0, 1.0),
    beside: Mapping[str, str | None] | None = None,
    weight: str | None = None,
) -> dict[str, Any]:
    """What `run.json` says of a data set: where it lies, how it was read, and the digests of its parts.

    `ends` are the smallest and the largest value of the training part, and `beside` names the files of the covariates
    and of the exposure, where these are not in the data set's own. Of a table `labels` and `weight` name columns.
    """
    if root is None and source in _names():
        root = "data"  # where `load` looks for it from here, and would not from elsewhere
    is_path = source not in _names() and Path(source).expanduser().exists()
    files = {name: _absolute((beside or {}).get(name)) for name in given(data.train)}
    of_table = {}
    if data.columns is not None:
        of_table = {"table": table_record(data, labels=labels, weight=weight)}
        labels = None  # which is no file
    return {
        "source": source,
        "path": _absolute(source) if is_path else None,
        "root": _absolute(root),
        "labels": _absolute(labels),
        "channels": channels or data.channels,
        "scale": scale,
        "minimum": ends[0],
        "maximum": ends[1],
        "name": data.name,
        "event_shape": list(data.event_shape),
        "train_items": len(data.train),
        "test_items": len(data.test),
        "divided": data.divided,
        "sha256": dict(digests),
        "beside": {name: {"path": file, "sha256": beside_digests(data)[name]} for name, file in files.items()},
        **of_table,
    }


def unlabeled_record(source: str, items: Split) -> dict[str, Any]:
    """What `run.json` says of the items without labels that a run learnt from."""
    from pyrovae.data.summary import summarize

    is_path = source not in _names() and Path(source).expanduser().exists()
    path = _absolute(source) if is_path else None
    return {"source": source, "path": path, "items": len(items), "sha256": summarize(items).items_sha256}


def beside_digests(data: Dataset) -> dict[str, dict[str, str]]:
    """The SHA-256 of the covariates and of the exposure in each part, as far as there are any."""
    parts = {"train": given(data.train), "test": given(data.test)}
    return {name: {part: _digest_of(rows[name]) for part, rows in parts.items()} for name in parts["train"]}


def _digest_of(rows: Any) -> str:
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    digest.update(rows.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


def load_recorded(
    record: Mapping[str, Any],
    source: str | os.PathLike[str] | None = None,
    *,
    covariates: Any = None,
    exposure: Any = None,
) -> Dataset:
    """Load the data set of a record with what lay beside its items, or another `source` in the same way."""
    as_recorded = record["path"] or record["source"]
    path: Any = as_recorded if source is None else source
    if source is None and record["path"] is not None and not Path(as_recorded).exists():
        raise FileNotFoundError(
            f"the data set that the run was fitted on is not there any more: {as_recorded}; put it back, or name where "
            "it lies now"
        )
    options = {"root": record["root"], "channels": record["channels"], "scale": record["scale"]}
    if source is not None and "table" in record:
        return read_like(record["table"], path, covariates=covariates, exposure=exposure)
    if source is not None:
        return load_of_shape(path, record["event_shape"], **options, covariates=covariates, exposure=exposure)
    beside = record.get("beside", {})
    for name, its in beside.items():
        if its["path"] is not None and not Path(its["path"]).exists():
            raise FileNotFoundError(
                f"the file of the {name} that the run was fitted with is not there any more: {its['path']}; put it back"
            )
    files = {name: its["path"] for name, its in beside.items()}
    if "table" in record:
        return read_like(record["table"], path, **files)
    data = pyrovae.data.load(path, **options, labels=record["labels"], **files)
    # an archive may hold arrays of these names that a run of before did not read
    return without_beside(data, *(name for name in BESIDE if name not in beside))


def require_same_data(record: Mapping[str, Any], data: Dataset, folder: Path) -> None:
    """Refuse a data set whose digests are not the recorded ones."""
    from pyrovae.data.summary import summarize

    for part, words in (("train", "training"), ("test", "test")):
        digest = summarize(getattr(data, part)).sha256
        recorded = record["sha256"].get(part)
        if digest != recorded:
            raise RunError(
                f"the {words} items of {record['path'] or record['source']} are not those that {folder} was fitted on: "
                f"their SHA-256 is {digest[:16]}..., and {MANIFEST} says {str(recorded)[:16]}..."
            )
    digests = beside_digests(data)
    for name, its in record.get("beside", {}).items():
        if digests.get(name) != its["sha256"]:
            where = its["path"] or record["path"] or record["source"]
            raise RunError(f"the {name} in {where} are not what {folder} was fitted with: another SHA-256")
    table = record.get("table")
    if table is not None and table["weight"] is not None and weights_digest(data) != table["weight_sha256"]:
        raise RunError(
            f"the weights in column {table['weight']!r} of {record['path']} are not those that {folder} was fitted "
            "with: another SHA-256"
        )


def versions() -> dict[str, str]:
    """The versions of Python, pyrovae and the libraries that a run depends on."""
    found = {"python": platform.python_version(), "pyrovae": pyrovae.__version__}
    for name, package in LIBRARIES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = str(getattr(sys.modules.get(name), "__version__", "unknown"))
    return found


def write_history(file: Path, history: History) -> None:
    """Write a history as NetCDF, with its configuration as an attribute; the file is whole or is not there."""
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    config = json.dumps(_plain(history.config))
    content = io.BytesIO()  # HDF5 has errors of its own, and ends the process, where a disk is full
    with h5netcdf.File(content, "w") as opened:
        history.epochs.assign_attrs(config=config).dump_to_store(H5NetCDFStore(opened))
    write_whole(file, content.getvalue())


def read_history(file: Path, *, most_bytes: int | None = None) -> History:
    """Read a history that `write_history` wrote; ValueError, before it is read, for one that takes more memory."""
    import xarray as xr

    with xr.open_dataset(file, engine="h5netcdf") as opened:
        if most_bytes is not None and opened.nbytes > most_bytes:
            raise ValueError(f"it takes {opened.nbytes:,} bytes, and at most {most_bytes:,} are read")
        epochs = opened.load()
    config = bounded(epochs.attrs.pop("config", "{}").encode())
    return pyrovae.History(epochs, config)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    whole = _plain({"format": FORMAT, "format_version": FORMAT_VERSION, **manifest})
    content = json.dumps({**whole, "sha256": _own_digest(whole)}, indent=1).encode()
    write_whole(folder / MANIFEST, content)


def _own_digest(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON gives it back; what JSON does not hold in words."""
    return json.loads(json.dumps(value, default=str))


def _names() -> tuple[str, ...]:
    from pyrovae.data.named import MNIST_FAMILY

    return ("digits", *MNIST_FAMILY)


def _version_of(manifest: Mapping[str, Any]) -> str:
    known = manifest.get("versions")
    return str(known.get("pyrovae", "")) if isinstance(known, Mapping) else ""
