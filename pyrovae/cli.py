"""The command line: `pyrovae fit x.npy --likelihood normal --epochs 20 --out run`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

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
    fit.add_argument("--likelihood", help="bernoulli, continuous_bernoulli or normal")
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


def _fit(options: argparse.Namespace) -> int:
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

    chosen = {} if options.likelihood is None else {"likelihood": options.likelihood}
    if options.network == "linear":
        if len(event_shape) != 1:
            raise ValueError(f"--network linear is for items of one axis, and these have shape {event_shape}")
        return pyrovae.linear_vae(event_shape[0], options.latent_dim, **chosen)
    if options.network == "conv":
        return pyrovae.conv_vae(event_shape, options.latent_dim, **chosen)
    return pyrovae.mlp_vae(event_shape, options.latent_dim, hidden_dims=options.hidden_dims, **chosen)
