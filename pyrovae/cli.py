"""The command line: `pyrovae fit x.npy --likelihood normal --epochs 20 --out run`."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyrovae import choices

__all__ = ["main"]

PARTS = ("likelihood", "prior", "posterior")
COMPILE = {"auto": "auto", "yes": True, "no": False}


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
        help="train a VAE on a data set and save it",
        description="Train a VAE on a data set, its test part for validation, and save it. Under torchrun processes "
        "share the work: torchrun --nproc-per-node 2 -m pyrovae fit digits --out run",
    )
    fit.add_argument("source", help="digits, mnist, fashion-mnist, kmnist, or a file or folder that data.load reads")
    fit.add_argument("--out", required=True, help="a folder to be made: model/, history.nc, checkpoint/")
    fit.add_argument("--resume", action="store_true", help="go on with the run in --out, under the same arguments")
    fit.add_argument("--root", help="where the MNIST family lies")
    fit.add_argument("--download", action="store_true", help="fetch it where it does not")
    fit.add_argument("--network", choices=("mlp", "conv", "linear"), default="mlp")
    for part in PARTS:
        fit.add_argument(f"--{part}", metavar="NAME", help=f"{', '.join(choices.names(part))}, or a --plugin's")
    fit.add_argument(
        "--plugin", metavar="FILE.py", action="append", default=[], help="run a file that registers parts of your own"
    )
    fit.add_argument("--latent-dim", type=int, default=2)
    fit.add_argument("--hidden-dims", type=int, nargs="+", default=[400], help="of --network mlp")
    fit.add_argument("--binarize", action="store_true", help="draw binary items from grey ones in each epoch")
    for name, kind in {"epochs": int, "batch-size": int, "learning-rate": float, "patience": int}.items():
        fit.add_argument(f"--{name}", type=kind)
    fit.add_argument("--beta", type=float, default=1.0)
    fit.add_argument("--warmup", type=int, default=0)
    fit.add_argument("--compile", choices=COMPILE, default="auto")
    fit.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    fit.add_argument("--device", default="auto")
    fit.add_argument("--seed", type=int, default=0)
    return parser


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
    """Refuse the name of a part that nothing is registered under."""
    for kind in PARTS:
        asked = getattr(options, kind)
        if asked is None:
            continue
        known = choices.names(kind)
        if options.plugin:
            from pyrovae.models.registry import registered

            known = list(registered(kind))
        if asked not in known:
            close = difflib.get_close_matches(asked.lower(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"--{kind} must be one of {', '.join(known)}, or a name that a --plugin registers, got {asked!r}{hint}"
            )


def _fit(options: argparse.Namespace) -> int:
    for file in options.plugin:
        _run_plugin(file)
    _require_names(options)

    import torch

    import pyrovae
    from pyrovae import checks
    from pyrovae.hidden import visible_files

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
        options.out.mkdir(parents=True, exist_ok=True)  # before any training
        data = pyrovae.data.load(options.source, root=options.root, download=options.download)
        torch.manual_seed(checks.seed(options.seed, most=2**64 - 1))
        pair = _pair(options, data.event_shape)
        names = ("epochs", "batch_size", "learning_rate", "patience", "beta", "warmup", "binarize", "precision")
        plan = {name: getattr(options, name) for name in (*names, "device", "seed", "resume")}
        plan["checkpoint"] = run
        status, history = 0, None
        try:
            chosen: Any = COMPILE[options.compile]
            history = pyrovae.fit(pair, data.train.x, validation=data.test.x, compile=chosen, **plan)
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
