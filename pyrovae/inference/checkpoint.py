"""Saved states: a folder with weights (safetensors) and a JSON manifest that says how the pair was built. No pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import checks, ranks
from pyrovae.checks.allocation import CHEAP
from pyrovae.exclusive import exclusive
from pyrovae.hidden import is_hidden, visible
from pyrovae.inference.allocation import AtMost
from pyrovae.models import registry
from pyrovae.models.fingerprint import settings
from pyrovae.models.pair import Pair, as_module, dtype_and_device
from pyrovae.models.scopes import copied

__all__ = ["CheckpointError", "load", "save"]

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST, WEIGHTS, RUN = "manifest.json", "weights.safetensors", "run.safetensors"
FEW = 20  # lines of an error
MANIFEST_BYTES = 2**26  # longer ones are not read: what a file says must not decide how much memory it takes
MOST_TENSORS = 50_000
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MODEL = "model"  # the folder of the state in that of a run
NEWER = ("event_shape", "latent_dim", "tied")  # fields that the first manifests of this format version lack
COMPARED = ("class", "recipe", "event_shape", "latent_dim", "tensors", "tied", "structure")


class CheckpointError(ValueError):
    """A saved state that is damaged, of another format, of another architecture, or no saved state at all."""


class ArchitectureError(CheckpointError):
    """A whole saved state, of another pair."""


def save(path: str | os.PathLike[str], pair: Pair) -> Path:
    """Write the pair's weights and manifest into the folder `path`, and return it.

    An earlier state there is replaced as a whole, by another folder: no process should stand in it. An empty folder is
    filled; one that holds anything else is refused (FileExistsError). Hidden files (`.DS_Store`, `Thumbs.db`) count for
    nothing and stay. Inside `distributed()` the first process writes, and the others wait. A pair from a builder can be
    loaded without its code at hand, and so can one with parts of your own, once the module that registers them is
    imported; one composed by hand needs `load(path, like=...)`.

    >>> import tempfile
    >>> import torch
    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((3,), hidden_dims=(4,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = pyrovae.load(pyrovae.save(f"{folder}/state", vae))
    >>> bool((again.encode(torch.ones(1, 3)) == vae.encode(torch.ones(1, 3))).all())
    True
    """
    target, shared, error = checks.path("path", path).resolve(), ranks.current(), None
    if shared.is_first:
        try:
            tensors = {name: t for name, t in _tensors(pair).items() if isinstance(t, Tensor)}
            _refuse_not_finite(tensors, as_module(pair), "the pair", strict=True)
            write(target, pair)
        except Exception as caught:
            error = caught
    if any(shared.gathered(error is not None)):  # the others wait until it is there, or know that it is not
        raise error or CheckpointError(f"{target} could not be written by the first process")
    return target


def write(target: Path, pair: Pair, run: tuple[dict[str, Any], dict[str, Tensor]] | None = None) -> None:
    """Write a state by this process; with what a run needs to go on from it, facts that JSON has and tensors."""
    from safetensors.torch import save as to_bytes

    if target.exists() and not _may_be_replaced(target):
        raise FileExistsError(f"{target} exists and is not a saved state: choose another folder or remove it")
    files, manifest = {WEIGHTS: to_bytes(_state(pair))}, _describe(pair)
    manifest["weights_sha256"] = hashlib.sha256(files[WEIGHTS]).hexdigest()
    if run is not None:
        files[RUN] = to_bytes({name: t.detach().cpu().contiguous().clone() for name, t in run[1].items()})
        manifest["run"] = {**run[0], "sha256": hashlib.sha256(files[RUN]).hexdigest()}
    manifest["sha256"] = _digest(manifest)
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    if len(files[MANIFEST]) > MANIFEST_BYTES or len(manifest["tensors"]) > MOST_TENSORS:
        raise CheckpointError(
            f"a saved state has at most {MOST_TENSORS:,} tensors and {MANIFEST_BYTES:,} bytes of manifest, and this "
            f"one would have {len(manifest['tensors']):,} and {len(files[MANIFEST]):,}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    fresh, aside = (target.with_name(f".{target.name}-{what}-{token}") for what in ("new", "old"))
    fresh.mkdir()
    try:
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # on the disk before it has a name
        if target.exists() and not (target / WEIGHTS).exists():
            _fill(target, fresh)
        else:
            if target.exists():
                shutil.copymode(target, fresh)
                target.rename(aside)
            fresh.rename(target)
            _carry(aside, target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists() and not _hidden(aside):
            shutil.rmtree(aside, ignore_errors=True)


def load(path: str | os.PathLike[str], like: Pair | None = None) -> Any:
    """Read the pair that `save` wrote into the folder `path`; every byte of its weights is checked.

    `path` may be the folder of a run of `pyrovae fit`, whose pair lies in `path`/model. With `like` the weights go into
    a copy of that pair, whose manifest must agree with the saved one. Raises FileNotFoundError, naming the states that
    lie beside a missing one, and CheckpointError for a damaged or foreign folder (naming the states that lie in it),
    another format version, another architecture (field by field), and weights that are NaN, infinite or of another type
    than the manifest says. Nothing is unpickled, and nothing is read that is larger than the pair.

    >>> from pyrovae import load
    >>> load("nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: nowhere does not exist; no saved state lies in .
    """
    folder = _state_in(checks.path("path", path))
    manifest = _manifest(folder)
    if like is None:
        if manifest["recipe"] is None:
            why = f" ({manifest['by_hand']})" if manifest.get("by_hand") else ""
            raise CheckpointError(
                f"{folder} holds a pair composed by hand: give load(path, like=pair of the same parts){why}"
            )
        size = (folder / WEIGHTS).stat().st_size if (folder / WEIGHTS).is_file() else 0
        sketch = _sketch(manifest["recipe"], folder, size, len(manifest["tensors"]))
        _same(_architecture(sketch), manifest, folder)
        tensors = _weights(folder, manifest, sketch, strict=True)
        pair = _build(manifest["recipe"], folder)
    else:
        here, saved = _comparable(_describe(like)), _comparable(manifest)
        _same({name: here[name] for name in COMPARED}, saved, folder)
        tensors = _weights(folder, manifest, like, strict=True)
        pair = copied(like)
        _take_names(pair, manifest.get("classes"), folder)
    if "tied" not in manifest:
        _same_where_tied(pair, tensors, folder)
    module, device = as_module(pair), dtype_and_device(pair)[1]
    module.to(device, getattr(torch, manifest["dtype"]))
    # each tensor in the type it was saved in; assign=True would do that too, but part what is shared
    for name, tensor in module.state_dict(keep_vars=True).items():
        tensor.data = torch.empty_like(tensors[name], device=device)
    module.load_state_dict(tensors)
    return pair


def require_writable(pair: Pair) -> None:
    """Refuse a pair that `write` would refuse, before it is trained."""
    _state(pair)
    _describe(pair)


def read_run(folder: Path, pair: Pair) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What `write` was given of a run, and the weights, of a state of the same architecture; all of it is checked."""
    manifest = _manifest(folder)
    facts = manifest.get("run")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{folder} holds a state and no run: load(path) reads it")
    here, saved = _comparable(_describe(pair)), _comparable(manifest)
    _same({name: here[name] for name in (*COMPARED, "dtype")}, saved, folder)
    weights = _weights(folder, manifest, pair, strict=False)
    module = as_module(pair)
    changed = {**module.state_dict(), **dict(module.named_buffers())}
    # an optimiser has up to four tensors a parameter; the last good, the best and the buffers are there once more
    most = {f"{i}.optimizer.momentum_buffer.{name}": value for name, value in changed.items() for i in range(8)}
    tensors = _tensors_of(folder / RUN, facts.get("sha256"), most)
    return facts, weights, tensors


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest whose recipe may be compared with another's: in today's words, and of the builder's arguments alone.

    The names of classes and a class prior are left out: a fit changes them. An event shape of one axis may be a number.
    """
    recipe = registry.completed(manifest["recipe"])
    if not isinstance(recipe, dict):
        return manifest
    recipe = {name: value for name, value in recipe.items() if name not in ("classes", "class_prior")}
    if isinstance(recipe.get("event_shape"), int):
        recipe["event_shape"] = [recipe["event_shape"]]
    return {**manifest, "recipe": recipe}


def _take_names(pair: Any, classes: list[Any] | None, folder: Path) -> None:
    """Give a classifier the saved names of its classes; other names than those that it was given are refused."""
    if classes is None or not hasattr(pair, "names"):
        return
    if pair.names_are_given and pair.names.tolist() != classes:
        _same({"classes": pair.names.tolist()}, {"classes": classes}, folder)
    pair.rename(np.array(classes))


def _fill(target: Path, fresh: Path) -> None:
    """Move a new state's files into an empty folder: the manifest first, since it says whose folder a kill left."""
    try:
        (target / MANIFEST).unlink(missing_ok=True)
        for name in (MANIFEST, WEIGHTS, RUN):
            if (fresh / name).exists():
                (fresh / name).rename(target / name)
    except BaseException:
        for name in (MANIFEST, WEIGHTS, RUN):
            (target / name).unlink(missing_ok=True)
        raise


def _hidden(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if is_hidden(entry.name)] if folder.exists() else []


def _carry(aside: Path, target: Path) -> None:
    """Move what is hidden in the folder of an earlier state, and nobody's to remove, to the new one."""
    for entry in _hidden(aside):
        try:
            entry.rename(target / entry.name)
        except OSError as error:  # the new state is whole: this is no reason to fail
            log.warning("%s stays where it is: %s", entry, error)


def _tensors(pair: Pair) -> dict[str, Tensor]:
    return dict(as_module(pair).state_dict())


def _state(pair: Pair) -> dict[str, Tensor]:
    for name, value in _tensors(pair).items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} of the pair's state is a {type(value).__name__}, and a saved state has tensors")
    return {name: t.detach().cpu().contiguous().clone() for name, t in _tensors(pair).items()}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: str(list(t.shape)) for name, t in tensors.items()}


def _types(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}


def _tied(pair: Pair) -> dict[str, str]:
    """The names under which a tensor appears again, and the first name of each."""
    tensors = as_module(pair).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in tensors.items() if first.setdefault(id(t), name) != name}


def _architecture(pair: Pair) -> dict[str, Any]:
    return {
        "class": type(pair).__name__,
        "event_shape": [int(size) for size in pair.event_shape],
        "latent_dim": int(pair.latent_dim),
        "tensors": _shapes(_tensors(pair)),
        "tied": _tied(pair),
    }


def _describe(pair: Pair) -> dict[str, Any]:
    from pyrovae import __version__

    recipe, by_hand = _recipe(pair)
    return {
        "format": "pyrovae",
        "format_version": FORMAT_VERSION,
        "recipe": recipe,
        "by_hand": by_hand,
        "dtype": str(dtype_and_device(pair)[0]).removeprefix("torch."),
        "dtypes": _types(_tensors(pair)),
        **_architecture(pair),
        "classes": pair.names.tolist() if getattr(pair, "names_are_given", False) else None,  # type: ignore[attr-defined]
        "structure": {str(i): line.strip() for i, line in enumerate(repr(pair).splitlines())},
        "versions": {"pyrovae": __version__, "torch": torch.__version__},
    }


def _recipe(pair: Pair) -> tuple[dict[str, Any] | None, str | None]:
    """The builder and its arguments as JSON has them; else None, and why they would not build this very pair."""
    try:
        recipe = json.loads(json.dumps(registry.described(pair)))
        again = _sketch(recipe, Path(), sum(t.nbytes for t in _tensors(pair).values() if isinstance(t, Tensor)))
    except (TypeError, CheckpointError) as error:
        return None, str(error)
    same = (
        [type(part) for part in as_module(again).modules()] == [type(part) for part in as_module(pair).modules()]
        and repr(again) == repr(pair)
        and _tied(again) == _tied(pair)
        and settings(as_module(again)) == settings(as_module(pair))
    )
    return (recipe, None) if same else (None, "a part was changed, or two were tied, after it was built")


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest but for its own."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sketch(recipe: Any, folder: Path, size: int, tensors: int = MOST_TENSORS) -> Pair:
    """The pair of a recipe, to be looked at: without memory where its parts can be made so, else within bounds.

    `size`: the bytes of its weights, some times which it may take.
    """
    try:
        with torch.device("meta"):
            return _build(recipe, folder, tensors)
    except CheckpointError:  # the constructor of a part may need values, which no tensor on this device has
        with AtMost(CHEAP + 8 * size):
            return _build(recipe, folder, tensors)


def _build(recipe: Any, folder: Path, tensors: int = MOST_TENSORS) -> Pair:
    """The pair of a recipe that has so many tensors: a list of a million layers is not built to be counted."""
    if _count(recipe) > 100 + 2 * tensors:
        raise CheckpointError(
            f"{folder / MANIFEST}: the recipe does not build: {_count(recipe):,} entries are too many for {tensors:,} "
            "tensors"
        )
    if not isinstance(recipe, dict) or "builder" not in recipe:
        raise CheckpointError(f"{folder / MANIFEST}: unknown builder {recipe!r}"[:300])
    try:
        with exclusive(), torch.random.fork_rng([]):
            pair: Pair = registry.build(recipe)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: the recipe does not build: {error}") from error
    return pair


def _count(recipe: Any) -> int:
    """How many numbers and words there are in a recipe."""
    rest, count = [recipe], 0
    while rest:
        value = rest.pop()
        if isinstance(value, dict | list):
            rest += value.values() if isinstance(value, dict) else value
        else:
            count += 1
    return count


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        within = _states(folder, deep=True)
        there = f"; saved states in it: {_few(within)}" if within else ""
        raise CheckpointError(f"{folder} is not a saved state: it has no {MANIFEST}{there}")
    if file.stat().st_size > MANIFEST_BYTES:
        raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes, and a manifest at most {MANIFEST_BYTES:,}")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{file} is not JSON: damaged, or not written by pyrovae (nothing was unpickled)"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != "pyrovae":
        raise CheckpointError(f"{file} was not written by pyrovae")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {manifest.get('format_version')!r}, this pyrovae reads {FORMAT_VERSION}"
        )
    if manifest.get("sha256") != _digest(manifest):
        raise CheckpointError(f"{file} is damaged or was changed: its SHA-256 is not the one it states")
    missing = {"class", "recipe", "dtype", "tensors", "structure", "weights_sha256"} - manifest.keys()
    if missing or manifest["dtype"] not in ("float16", "bfloat16", "float32", "float64"):
        raise CheckpointError(f"{file} is damaged: missing or unreadable {sorted(missing) or ['dtype']}")
    if not isinstance(manifest["tensors"], dict) or len(manifest["tensors"]) > MOST_TENSORS:
        raise CheckpointError(f"{file} names no tensors, or more than {MOST_TENSORS:,}")
    if not isinstance(manifest.get("dtypes", {}), dict):
        raise CheckpointError(f"{file} is damaged: its dtypes are not named one by one")
    return manifest


def _weights(folder: Path, manifest: dict[str, Any], pair: Pair, *, strict: bool) -> dict[str, Tensor]:
    """The tensors of a state of the same architecture as the pair, all of them looked at."""
    here = _tensors(pair)
    tensors = _tensors_of(folder / WEIGHTS, manifest["weights_sha256"], here)
    _same({"tensors": _shapes(tensors)}, manifest, folder)
    _refuse_other_types(tensors, here, manifest, folder)
    _refuse_not_finite(tensors, as_module(pair), str(folder / WEIGHTS), strict=strict)
    return tensors


def _refuse_other_types(
    tensors: dict[str, Tensor], here: dict[str, Tensor], manifest: dict[str, Any], folder: Path
) -> None:
    """Refuse tensors of another type than the manifest says, or of no kind that the pair's could take."""
    stated, types, ours = manifest.get("dtypes"), _types(tensors), _types(here)
    wrong, unlike = [], []
    for name, t in tensors.items():
        floating = t.dtype in FLOATING and here[name].dtype in FLOATING
        if stated is not None and types[name] != stated.get(name):
            wrong.append(f"{name} is {types[name]}, and the manifest says {stated.get(name)}")
        elif not floating and t.dtype != here[name].dtype:
            wrong.append(f"{name} is {types[name]}, and here it is {ours[name]}")
        elif stated is None and types[name] not in (manifest["dtype"], ours[name]):
            unlike.append(f"{name} is {types[name]}")
    if wrong:
        raise CheckpointError(f"{folder / WEIGHTS} has tensors of other types:\n  " + _few(wrong, "\n  "))
    if unlike:  # it may have been so: the first manifests of this format version state no types
        checks.warn(f"{folder} is a state in {manifest['dtype']}, and {_few(unlike)}")


def _refuse_not_finite(tensors: dict[str, Tensor], module: nn.Module, what: str, *, strict: bool) -> None:
    """Refuse weights that are NaN or infinite; with `strict` buffers too, but a user's own, which are only named."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    parts = dict(module.named_modules(remove_duplicate=False))
    for name, t in tensors.items():
        if not (t.dtype in FLOATING or t.is_complex()) or bool(t.isfinite().all()):
            continue
        count = f"{name!r} of {what} has {int((~t.isfinite()).sum()):,} of {t.numel():,} values NaN or infinite"
        owner = type(parts.get(name.rpartition(".")[0])).__module__
        if name in parameters or (strict and owner.startswith(("pyrovae.", "torch."))):
            raise CheckpointError(f"{count}: nothing can be computed with it; load, or go on from, an earlier state")
        if strict:
            checks.warn(f"buffer {count}")


def _most_bytes(tensors: dict[str, Tensor]) -> tuple[int, int]:
    """How long the header and the whole of a safetensors file of such tensors can be, in whichever type."""
    header = 1024 + sum(6 * len(name.encode()) + 256 + 24 * t.ndim for name, t in tensors.items())
    return header, 8 + header + sum(16 * t.numel() for t in tensors.values())


def _tensors_of(file: Path, stated: Any, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file whose SHA-256 the manifest states, and which is no larger than one of `like` could be."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not a whole saved state: it has no {file.name}")
    longest, most = _most_bytes(like)
    with file.open("rb") as opened:
        header, size = int.from_bytes(opened.read(8), "little"), os.fstat(opened.fileno()).st_size
    # a header that is there is parsed as a whole, a thousand bytes of memory for each name in it
    if size > most or longest < header < size:
        raise CheckpointError(
            f"{file} is no file of these tensors: it has {size:,} bytes, {header:,} of them a header, and they take at "
            f"most {most:,} and {longest:,} (nothing was unpickled)"
        )
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != stated:
        raise CheckpointError(
            f"{file} is damaged or was replaced: SHA-256 {digest[:16]}..., the manifest says "
            f"{str(stated)[:16]}... (nothing was unpickled)"
        )
    try:
        return from_bytes(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error} (nothing was unpickled)") from None


def _same(here: dict[str, Any], saved: dict[str, Any], folder: Path) -> None:
    """Compare the fields of `here` with the manifest's; all that differs goes into one error."""
    lines = []
    for name, ours in here.items():
        if name not in saved and name in NEWER:
            continue
        theirs = saved[name]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for key in dict.fromkeys([*theirs, *ours]):
                a, b = theirs.get(key, "absent"), ours.get(key, "absent")
                if a != b:
                    lines.append(f"{name}.{key}: saved {a}, here {b}")
        elif ours != theirs:
            lines.append(f"{name}: saved {theirs}, here {ours}")
    if lines:
        advice = ""
        if any(line.startswith("recipe.") for line in lines):
            advice = "\nBuild the pair with the saved arguments; without `like`, load does so by itself"
        raise ArchitectureError(f"{folder} holds another architecture:\n  " + _few(lines, "\n  ") + advice)


def _same_where_tied(pair: Pair, tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuse two tensors of unlike values for one: all that is known where a manifest does not say what is tied."""
    for name, first in _tied(pair).items():
        if not torch.equal(tensors[name], tensors[first]):
            raise CheckpointError(
                f"{folder} holds another architecture: {first} and {name} are one here and differ in the saved state"
            )


def _state_in(path: Path) -> Path:
    """The folder of the state that is meant: itself, or the model of a run's folder."""
    if not path.exists():
        beside = _states(path.parent) if path.parent.is_dir() else []
        there = f"saved states beside it: {_few(beside)}" if beside else f"no saved state lies in {path.parent}"
        raise FileNotFoundError(f"{path} does not exist; {there}")
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file, and a saved state is a folder (nothing was unpickled)")
    if (path / MANIFEST).is_file() or not (path / MODEL / MANIFEST).is_file():
        return path
    return path / MODEL


def _states(folder: Path, deep: bool = False) -> list[str]:
    """The names of the saved states in a folder; with those in the folders of it."""
    found = []
    try:
        entries = visible(folder)
    except OSError:  # not ours to read
        return []
    for path in entries:
        if _holds_state(path):
            found.append(path.name)
        elif deep and path.is_dir():
            found += [f"{path.name}/{name}" for name in _states(path)]
    return found


def _few(lines: list[str], between: str = ", ") -> str:
    """The first of many, and how many more there are."""
    more = [f"and {len(lines) - FEW} more"] if len(lines) > FEW else []
    return between.join([*lines[:FEW], *more])


def _holds_state(path: Path) -> bool:
    return path.is_dir() and (path / MANIFEST).is_file() and (path / WEIGHTS).is_file()


def _may_be_replaced(path: Path) -> bool:
    """An empty folder, or one that holds a saved state, or the manifest of a half-written one; hidden files apart."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in visible(path)}
    if not names:
        return True
    try:
        return names <= {MANIFEST, WEIGHTS, RUN} and json.loads((path / MANIFEST).read_bytes())["format"] == "pyrovae"
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return False
