"""The command line: `pyrovae fit x.npy --likelihood normal --epochs 20 --out run`."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pyrovae import choices
from pyrovae.hidden import visible_files

__all__ = ["main"]

PARTS = ("likelihood", "prior", "posterior")
REGISTERED = (*PARTS, "optimizer")  # whose names a --plugin may add to
COMPILE = {"auto": "auto", "yes": True, "no": False}
DATA_SETS = ("digits", "mnist", "fashion-mnist", "kmnist")
DATA = f"""{", ".join(DATA_SETS)}; a .npy or .npz file; or a folder of IDX files or of images. Where it has
no test part, as a .npy file has none, it is split 80 / 20 by a fixed permutation. uint8 is divided by 255, unless the
likelihood is one of whole numbers"""
DEFAULT_PARTS = {
    "likelihood": "bernoulli; normal with --network linear",
    "prior": "standard",
    "posterior": "diagonal; linear with --network linear",
}
# of SVI, in the order of the help
SVI_OPTIONS: dict[str, tuple[type, str]] = {
    "epochs": (int, "passes over the training part"),
    "batch_size": (int, "items in a step, or {words} of them"),
    "learning_rate": (float, "of the optimizer"),
    "optimizer": (str, "{words}, or a --plugin's"),
    "schedule": (str, "{words}: the learning rate over the run"),
    "clip_norm": (float, "the norm that all gradients of a step are scaled down to"),
    "beta": (float, "weight of the KL term"),
    "warmup": (int, "epochs over which beta is raised from 0"),
    "patience": (int, "stop after so many epochs without a better validation ELBO"),
    "precision": (str, "{words}: what networks compute in as they train"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for what does not fit, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return _fit(options)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"pyrovae: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyrovae", description="Latent-variable models as Pyro model/guide pairs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    fit = commands.add_parser(
        "fit",
        allow_abbrev=False,  # --epoch is a slip, and not --epochs
        help="train a VAE on a data set and save it",
        description="Train a VAE on a data set, its test part for validation, and save it. Under torchrun processes "
        "share the work: torchrun --nproc-per-node 2 -m pyrovae fit digits --out run",
    )
    fit.add_argument("data", metavar="DATA", help=DATA)
    fit.add_argument("--out", metavar="DIR", required=True, help="a folder to be made: model/, history.nc, checkpoint/")
    fit.add_argument("--resume", action="store_true", help="go on with the run in --out, under the same arguments")
    fit.add_argument("--root", metavar="DIR", help="where the MNIST family lies (default: data)")
    fit.add_argument("--download", action="store_true", help="fetch it where it does not")
    fit.add_argument(
        "--plugin",
        metavar="FILE.py",
        action="append",
        default=[],
        help="run a file that registers parts or optimisers of your own",
    )
    model = fit.add_argument_group("model")
    model.add_argument("--network", choices=("mlp", "conv", "linear"), default="mlp", help="(default: mlp)")
    for part, default in DEFAULT_PARTS.items():
        model.add_argument(
            f"--{part}",
            metavar="NAME",
            help=f"{', '.join(choices.names(part))}, or a --plugin's (default: {default})",
        )
    model.add_argument("--latent-dim", metavar="N", type=int, default=2, help="dimensions of a code (default: 2)")
    model.add_argument(
        "--hidden-dims", metavar="N", type=int, nargs="+", default=[400], help="of --network mlp (default: 400)"
    )
    training = fit.add_argument_group("training")
    training.add_argument("--binarize", action="store_true", help="draw binary items from grey ones in each epoch")
    _add_svi_options(training)
    training.add_argument(
        "--compile", choices=COMPILE, default="auto", help="take each step as one compiled graph (default: auto)"
    )
    training.add_argument("--device", default="auto", help="auto is a CUDA device where there is one (default: auto)")
    training.add_argument("--seed", metavar="N", type=int, default=0, help="of weights, batches and noise (default: 0)")
    return parser


def _add_svi_options(group: Any) -> None:
    """An argument for each of `SVI_OPTIONS`, with its default and its words from the method itself."""
    known = choices.svi_options()
    for name, (kind, text) in SVI_OPTIONS.items():
        default = known[name].default
        words = choices.names(name) if name in REGISTERED else list(known[name].words)
        is_closed = kind is str and bool(words) and name not in REGISTERED
        group.add_argument(
            f"--{name.replace('_', '-')}",
            metavar={str: "NAME", int: "N", float: "X"}[kind],
            type=partial(_number_or_word, kind, words) if words and kind is not str else kind,
            choices=words if is_closed else None,
            help=f"{text.format(words=', '.join(words))} (default: {'none' if default is None else default})",
        )


def _number_or_word(kind: type, words: list[str], text: str) -> Any:
    """An argument that is a number, or one of some words."""
    if text in words:
        return text
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or {' or '.join(words)}, got {text!r}") from None


def _run_plugin(file: str) -> None:
    """Run a user's file, which registers parts; whatever it raises is a line that says where."""
    path = Path(file)
    if path.suffix != ".py":
        raise ValueError(f"--plugin {file} is no .py file")
    if not path.is_file():
        raise FileNotFoundError(f"--plugin {file} does not exist")
    whole = str(path.resolve())
    name = f"pyrovae_plugin_{path.stem}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    spec: Any = importlib.util.spec_from_file_location(name, whole)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # what lies beside it may be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == whole]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = "" if line is None else f", line {line}"
        words = " ".join(str(error).split())
        raise ValueError(f"--plugin {file}{where}: {type(error).__name__}: {words}") from error


def _require_names(options: argparse.Namespace) -> None:
    """Refuse the name of a part or an optimiser that nothing is registered under."""
    for kind in REGISTERED:
        asked = getattr(options, kind)
        if asked is None:
            continue
        known = choices.imported_names(kind) if options.plugin else choices.names(kind)
        if asked not in known:
            close = difflib.get_close_matches(asked.lower(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"--{kind} must be one of {', '.join(known)}, or a name that a --plugin registers, got {asked!r}{hint}"
            )


@contextmanager
def _removed_if_nothing_came_of_it(out: Path) -> Iterator[None]:
    """Make the folder; where the body fails with no file in it, take away what was made."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made and not any(visible_files(out)):
            checkpoint = out / "checkpoint"
            with suppress(OSError):
                (checkpoint / ".lock").unlink()
            for folder in (checkpoint, *made):
                with suppress(OSError):  # which is not empty, or not there
                    folder.rmdir()
        raise


def _fit(options: argparse.Namespace) -> int:
    for file in options.plugin:
        _run_plugin(file)
    _require_names(options)

    import pyrovae
    from pyrovae import checks

    with pyrovae.distributed() as ranks:
        options.out = checks.path("--out", options.out)
        if options.out.exists() and not options.out.is_dir():
            raise NotADirectoryError(f"--out {options.out} is a file: name a folder")
        run = options.out / "checkpoint"  # and what a run leaves that has not trained is nothing
        held = options.out.is_dir() and any(True for _ in visible_files(options.out))
        if any(ranks.gathered(held and not options.resume)):
            raise FileExistsError(f"--out {options.out} is not empty: name another folder, or --resume the run in it")
        if any(ranks.gathered(held and not run.is_dir())):
            raise FileExistsError(
                f"--out {options.out} is not empty and holds no checkpoint/ to --resume: name another"
            )
        with _removed_if_nothing_came_of_it(options.out):  # made before any training
            return _trained(options, ranks)


def _trained(options: argparse.Namespace, ranks: Any) -> int:
    """Load, build, fit and save; the exit status."""
    import torch

    import pyrovae
    from pyrovae import checks

    data = _loaded(options)
    torch.manual_seed(checks.seed(options.seed, most=2**64 - 1))
    pair = _pair(options, data.event_shape)
    plan = {name: getattr(options, name) for name in (*SVI_OPTIONS, "binarize", "device", "seed", "resume")}
    plan["checkpoint"] = options.out / "checkpoint"
    plan["compile"] = COMPILE[options.compile]
    status = 0
    history = None
    try:
        history = pyrovae.fit(pair, data.train.x, validation=data.test.x, **plan)
    except KeyboardInterrupt:
        print("pyrovae: interrupted; --resume goes on from the last epoch", file=sys.stderr)  # noqa: T201
        status = 130
    except FloatingPointError as error:  # the last good weights are in place
        print(f"pyrovae: {error}", file=sys.stderr)  # noqa: T201
        status = 2
    except (pyrovae.CaptureError, pyrovae.CompilerError) as error:  # nothing was trained
        raise ValueError(str(error)) from error
    if status == 0 or ranks.size == 1:  # the others of an interrupted run may be gone
        pyrovae.save(options.out / "model", pair)
    if history is not None and ranks.is_first:
        config = json.dumps(history.config)
        history.epochs.assign_attrs(config=config).to_netcdf(options.out / "history.nc", engine="h5netcdf")
        print(history)  # noqa: T201
    return status


def _loaded(options: argparse.Namespace) -> Any:
    """The data set; bytes stay whole numbers where the likelihood is one of whole numbers, as counts are."""
    from torch.distributions import constraints

    import pyrovae
    from pyrovae import checks
    from pyrovae.models.registry import make

    if options.data not in DATA_SETS and not checks.path("DATA", options.data).exists():
        close = difflib.get_close_matches(options.data.lower(), DATA_SETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise FileNotFoundError(
            f"DATA must be {', '.join(DATA_SETS)} or a file or folder, and there is no {options.data}{hint}"
        )
    is_of_integers = False
    if options.likelihood is not None:
        family: Any = make("likelihood", options.likelihood)
        is_of_integers = family.support.is_discrete and family.support is not constraints.boolean
    return pyrovae.data.load(options.data, root=options.root, download=options.download, scale=not is_of_integers)


def _pair(options: argparse.Namespace, event_shape: tuple[int, ...]) -> Any:
    import pyrovae

    chosen = {kind: getattr(options, kind) for kind in PARTS if getattr(options, kind) is not None}
    if options.network == "linear":
        if len(event_shape) != 1:
            raise ValueError(f"--network linear is for items of one axis, and these have shape {event_shape}")
        return pyrovae.linear_vae(event_shape[0], options.latent_dim, **chosen)
    if options.network == "conv":
        return pyrovae.conv_vae(event_shape, options.latent_dim, **chosen)
    return pyrovae.mlp_vae(event_shape, options.latent_dim, hidden_dims=options.hidden_dims, **chosen)
