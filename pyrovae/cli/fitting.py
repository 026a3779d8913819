"""What `pyrovae fit` does: read, choose, build, fit, write; and what is left where one of these fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pyrovae.choices import Builder
from pyrovae.cli.choosing import Choice, chosen_likelihood, chosen_model
from pyrovae.cli.errors import Terminated, as_sentence
from pyrovae.cli.model_options import COMPILE, REQUIRED_HERE, builder_arguments, builders, spelled
from pyrovae.cli.out_folder import alone_in, earlier_run, nothing_left_of_nothing, take_away
from pyrovae.cli.plugins import PLUGINS
from pyrovae.cli.words import Words

__all__ = ["Plan", "fit", "read", "say"]

NETWORKS = {"mlp": "mlp_vae", "conv": "conv_vae", "linear": "linear_vae"}
# what a run that goes on may be given anew: where the data lie, how long it trains, on what and how steps are taken
MAY_DIFFER = ("data", "labels", "root", "download", "epochs", "device", "compile", "plugin", "as_json", "resume", "out")
RUN_OPTIONS = ("out", "resume", "as_json", "download", "plugin")


def say(text: str) -> None:
    """A line on the standard error."""
    click.echo(text, err=True)


class Plan:
    """The arguments of a fit, with what is chosen by the items filled in.

    `given` are the options of builders and methods that were asked for, by the names of the arguments.
    """

    def __init__(self, parameters: Mapping[str, Any], with_plugins: bool) -> None:
        self.parameters, self.builders = parameters, builders(with_plugins)
        self.of_builders = builder_arguments(self.builders)
        fixed = {
            *RUN_OPTIONS,
            "data",
            "labels",
            "channel_axis",
            "scale",
            "root",
            "seed",
            "device",
            "model",
            "network",
            "method",
        }
        self.given = {name: value for name, value in parameters.items() if name not in fixed and _is_given(value)}
        self.arguments = {name: value for name, value in self.given.items() if name in self.of_builders}
        self.options = {name: value for name, value in self.given.items() if name not in self.of_builders}
        if "compile" in self.options:
            self.options["compile"] = COMPILE[self.options["compile"]]
        network = NETWORKS.get(parameters.get("network") or "")
        self.asked_model: str | None = parameters.get("model") or network
        if network is not None and parameters.get("model") not in (None, network):
            raise click.UsageError(
                f"--network {parameters['network']} is --model {network}, and --model is {parameters['model']}: "
                "give one"
            )

    def choose(self, data: Any, summary: Any) -> tuple[Choice, Choice | None]:
        """The model and the likelihood, each with its reason; an empty reason where it was asked for."""
        if self.asked_model is None:
            asked = {name: spelled(name) for name in self.arguments}
            model = chosen_model(data.event_shape, asked, self.builders)
        else:
            model = Choice(self.asked_model, "")
        builder = self.builders[model.name]
        self._refuse_options_of_other_builders(model.name, builder)
        if "likelihood" in self.arguments:
            return model, Choice(self.arguments["likelihood"], "")
        return model, chosen_likelihood(summary, builder, binarize=bool(self.options.get("binarize")))

    def _refuse_options_of_other_builders(self, model: str, builder: Builder) -> None:
        for name in self.arguments:
            if name not in builder.arguments:
                owners = ", ".join(self.of_builders[name])
                raise click.UsageError(
                    f"{spelled(name)} is an option of {owners}, and the model is {model}: leave it out"
                )

    def build(self, data: Any, model: str, likelihood: str | None) -> Any:
        """The pair, its weights drawn by torch's present generator."""
        from pyrovae.models.registry import registered

        builder = self.builders[model]
        arguments: dict[str, Any] = dict(self.arguments)
        if likelihood is not None:
            arguments["likelihood"] = likelihood
        arguments |= self._from_data(data, model, builder)
        for name, argument in builder.arguments.items():
            if argument.required and name not in arguments:
                if name not in REQUIRED_HERE:
                    raise click.UsageError(f"--model {model} needs {spelled(name)}")
                arguments[name] = REQUIRED_HERE[name]
        return registered("builder")[model](**arguments)

    def _from_data(self, data: Any, model: str, builder: Builder) -> dict[str, Any]:
        """What the data set says of a builder's arguments."""
        arguments: dict[str, Any] = {}
        if "event_shape" in builder.arguments:
            arguments["event_shape"] = data.event_shape
        if "features" in builder.arguments:
            if len(data.event_shape) != 1:
                raise click.UsageError(
                    f"--model {model} is for items of one axis, and these have shape {data.event_shape}"
                )
            arguments["features"] = data.event_shape[0]
        if "num_classes" in builder.arguments:
            if data.train.y is None:
                raise click.UsageError(
                    f"--model {model} needs labels, and {self.parameters['data']} has none: give --labels FILE.npy, or "
                    "a .npz file with y, or a folder with a sub-folder for each class"
                )
            arguments["num_classes"] = len(data.train.y.unique())
            if arguments["num_classes"] < 2:
                raise click.UsageError(f"--model {model} needs at least 2 classes, and the training part has 1")
        return arguments


def read(parameters: Mapping[str, Any], keep_bytes: bool = False, missing: bool = False) -> tuple[Any, bool]:
    """The data set that the options name, and whether its bytes are divided by 255."""
    import pyrovae

    scale = not keep_bytes if parameters["scale"] is None else parameters["scale"]
    data = pyrovae.data.load(
        parameters["data"],
        root=parameters["root"],
        download=parameters["download"],
        channels=parameters["channel_axis"],
        labels=parameters["labels"],
        scale=scale,
        missing=missing,
    )
    return data, scale


def refusal(missing: int, infinite: int) -> str | None:
    """Why items with so many missing and infinite entries are not fitted; None where they are."""
    if infinite:
        return f"{infinite:,} {'entry is' if infinite == 1 else 'entries are'} infinite"
    if missing:
        return (
            f"{missing:,} {'entry is' if missing == 1 else 'entries are'} missing (NaN). Fit a model to complete "
            "items, and `pyrovae impute` fills in the others"
        )
    return None


def is_of_whole_numbers(likelihood: str | None) -> bool:
    """Whether a registered likelihood is one of whole numbers, as counts are, for which bytes are kept."""
    if likelihood is None:
        return False
    from torch.distributions import constraints

    from pyrovae.models.registry import make

    family: Any = make("likelihood", likelihood)
    return bool(family.support.is_discrete and family.support is not constraints.boolean)


def fit(ctx: click.Context, parameters: dict[str, Any]) -> int:
    """Fit as the options say; the exit status."""
    import pyrovae
    from pyrovae import checks

    with_plugins = bool(ctx.meta.get(PLUGINS))
    absent = [name for name, value in (("DATA", parameters["data"]), ("--out", parameters["out"])) if value is None]
    if parameters["out"] is None or (absent and not parameters["resume"]):
        hint = "" if parameters["data"] is None or parameters["resume"] else ", a folder to be made"
        raise click.UsageError(f"missing: {', '.join(absent)}{hint}", ctx)
    out = checks.path("--out", parameters["out"])
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out {out} is a file: name a folder")
    with pyrovae.distributed() as ranks, alone_in(out, ranks):
        earlier = earlier_run(out, bool(parameters["resume"]), ranks)
        if earlier is not None:
            parameters = _as_recorded(parameters, earlier, out)
            if earlier["status"] == "complete" and not _is_longer(parameters, earlier):
                if ranks.is_first:
                    say(f"{out} is complete: there is nothing to go on with. A larger --epochs trains longer")
                return 0
        elif parameters["data"] is None:
            raise click.UsageError(
                f"--out {out} has no run.json to --resume from: give DATA and the options of the run"
            )
        with nothing_left_of_nothing(out, ranks):
            return _Fitting(ctx, parameters, out, ranks, earlier, with_plugins).run()


def _as_recorded(parameters: dict[str, Any], manifest: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The arguments that the run had; those of this call are added where they may differ, and else must agree."""
    recorded = manifest["arguments"]
    conflicts = []
    merged = dict(parameters)
    for name, value in recorded.items():
        now = parameters.get(name)
        is_given = _is_given(now)
        if name in MAY_DIFFER:
            merged[name] = now if is_given else value
        elif is_given and _plain(now) != value:
            conflicts.append(f"{spelled(name)} is {_shown(value)} in the run, and {_shown(now)} here")
        else:
            merged[name] = value
    for name, now in parameters.items():
        if name not in recorded and name not in MAY_DIFFER and _is_given(now):
            conflicts.append(f"{spelled(name)} is not among the run's arguments, and {_shown(now)} here")
    if conflicts:
        raise click.UsageError(f"--out {out} goes on under the arguments that it had: {'; '.join(conflicts)}")
    merged["resume"] = True
    merged["data"] = parameters["data"] or manifest["data"]["path"] or manifest["data"]["source"]
    merged["root"] = parameters["root"] or manifest["data"]["root"]
    merged["labels"] = parameters["labels"] or manifest["data"]["labels"]
    merged["scale"] = manifest["data"]["scale"]
    missing = [file["path"] for file in manifest.get("plugins", [])][len(parameters["plugin"]) :]
    if missing:
        raise click.UsageError(
            f"--out {out} was begun with --plugin {missing[0]}: give it again, for a run folder does not say which "
            "code is run"
        )
    return merged


def _is_longer(parameters: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether more epochs are asked for than a complete run has."""
    epochs = parameters.get("epochs")
    return epochs is not None and epochs > manifest["fit"].get("epochs", epochs)


def _is_given(value: Any) -> bool:
    """Whether an option was given: a flag that is off, or an empty list of files, was not."""
    return value is not None and value is not False and value != ()


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return {True: "on", None: "not given"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


class _Fitting:
    """One fit, from the options to the run folder."""

    def __init__(
        self,
        ctx: click.Context,
        parameters: dict[str, Any],
        out: Path,
        ranks: Any,
        earlier: dict[str, Any] | None,
        with_plugins: bool,
    ) -> None:
        self.ctx, self.parameters, self.out = ctx, parameters, out
        self.ranks, self.earlier = ranks, earlier
        self.plan = Plan(parameters, with_plugins)

    def say(self, text: str) -> None:
        if self.ranks.is_first:
            say(text)

    def run(self) -> int:
        import torch

        from pyrovae import checks, run_folder
        from pyrovae.data.summary import summarize

        keep_bytes = is_of_whole_numbers(self.plan.arguments.get("likelihood"))
        data, scale = read(self.parameters, keep_bytes, missing=True)
        summaries = {part: summarize(getattr(data, part)) for part in ("train", "test")}
        missing, infinite = (sum(getattr(s, name) for s in summaries.values()) for name in ("missing", "infinite"))
        if (why := refusal(missing, infinite)) is not None:
            raise click.ClickException(f"{self.parameters['data']} cannot be fitted: {why}")
        digests = {part: summary.sha256 for part, summary in summaries.items()}
        digests["test_items"] = summaries["test"].items_sha256  # known again with other labels, or without
        if self.earlier is not None:
            self._require_same_data(digests)
        model, likelihood = self.plan.choose(data, summaries["train"])
        if self.earlier is not None:  # whatever the rules are by now
            model = Choice(self.earlier["chosen"]["model"], "")
            its_likelihood = self.earlier["chosen"]["likelihood"]
            likelihood = None if its_likelihood is None else Choice(its_likelihood, "")
        self.say(str(data))
        self._say_choices(model, likelihood)
        seed = self.parameters["seed"] or 0
        torch.manual_seed(checks.seed(seed, most=2**64 - 1))
        pair = self.plan.build(data, model.name, None if likelihood is None else likelihood.name)
        if data.train.x.dtype == torch.float64:
            pair.double()
            self.say("precision float64: float32 is too coarse for these values")
        if self.ranks.is_first:
            record = run_folder.data_record(
                data,
                digests,
                self.parameters["data"],
                root=self.parameters["root"],
                labels=self.parameters["labels"],
                channels=self.parameters["channel_axis"],
                scale=scale,
                ends=(summaries["train"].minimum, summaries["train"].maximum),
            )
            run_folder.begin_run(self.out, self._manifest(record, pair, model, likelihood, seed))
        self.ranks.gathered(None)
        return self._fit(data, pair, model, likelihood, seed)

    def _require_same_data(self, digests: Mapping[str, str]) -> None:
        assert self.earlier is not None
        for part, words in (("train", "training"), ("test", "test")):
            if digests[part] != self.earlier["data"]["sha256"].get(part):
                raise click.UsageError(
                    f"DATA {self.parameters['data']} is not what the run in --out {self.out} was begun with: its "
                    f"{words} items have another SHA-256"
                )

    def _say_choices(self, model: Choice, likelihood: Choice | None) -> None:
        if model.reason:
            self.say(f"model {model.name}: {model.reason} (--model for another)")
        if likelihood is not None and likelihood.reason:
            self.say(f"likelihood {likelihood.name}: {likelihood.reason} (--likelihood for another)")

    def _manifest(
        self, data: dict[str, Any], pair: Any, model: Choice, likelihood: Choice | None, seed: int
    ) -> dict[str, Any]:
        from pyrovae import run_folder
        from pyrovae.models.registry import recipe_of

        recipe = recipe_of(pair) or {"builder": model.name}
        arguments = {name: value for name, value in recipe.items() if name != "builder"}
        return {
            "command": ["pyrovae", "fit", *_words_of(self.parameters)],
            "arguments": self._arguments_asked_for(),
            "chosen": {"model": model.name, "likelihood": None if likelihood is None else likelihood.name},
            "seed": seed,
            "versions": run_folder.versions(),
            "data": data,
            "model": {"name": recipe["builder"], "arguments": arguments},
            "plugins": [_plugin_record(file) for file in self.parameters["plugin"]],
        }

    def _arguments_asked_for(self) -> dict[str, Any]:
        """The options that decide what the run is, by their names, as they were given."""
        kept = {**self.parameters, "seed": self.parameters["seed"] or 0}
        return {name: value for name, value in kept.items() if name not in RUN_OPTIONS and _is_given(value)}

    def _fit(self, data: Any, pair: Any, model: Choice, likelihood: Choice | None, seed: int) -> int:
        import pyrovae
        import pyrovae.methods  # which states the methods of all pairs
        from pyrovae import run_folder
        from pyrovae.inference.method import chosen
        from pyrovae.models.pair import takes_labels

        method = chosen(pair, self.parameters["method"], self.plan.options)
        options: dict[str, Any] = {**self.plan.options, "seed": seed, "device": self.parameters["device"] or "auto"}
        if self.parameters["method"] is not None:
            options["method"] = self.parameters["method"]
        if method.keeps_checkpoints:
            options |= {"checkpoint": self.out / run_folder.CHECKPOINT, "resume": bool(self.parameters["resume"])}
        x, y, held_out = data.train.x, None, data.test.x
        if takes_labels(pair):
            y = _named(data.train.y, data.classes)
            held_out = None if data.test.y is None else (data.test.x, _named(data.test.y, data.classes))
        if method.takes_validation:
            options["validation"] = held_out
        try:
            history = pyrovae.fit(pair, x, y, **options)
        except KeyboardInterrupt as interrupt:
            return self._interrupted(interrupt, pair, method)
        except FloatingPointError as error:
            return self._diverged(error)
        except (pyrovae.CaptureError, pyrovae.CompilerError) as error:  # nothing was trained
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if self._last_epoch() is not None:
                self.say(f"pyrovae: {self._how_to_go_on()}")
            raise error
        self._finish(pair, history)
        self._show(data, history, model, likelihood)
        return 0

    def _finish(self, pair: Any, history: Any) -> None:
        from pyrovae import run_folder

        run_folder.finish_run(self.out, pair, history)
        self.ranks.gathered(None)

    def _interrupted(self, interrupt: KeyboardInterrupt, pair: Any, method: Any) -> int:
        """Keep the weights as they are; the others of a run under torchrun may be gone."""
        import pyrovae
        from pyrovae import run_folder

        is_terminated = isinstance(interrupt, Terminated)
        status = 143 if is_terminated else 130
        if not method.keeps_checkpoints:
            take_away(self.out)
            self.say(
                f"pyrovae: interrupted; {method.title} leaves nothing to go on from, and {self.out} is not written"
            )
            with suppress(OSError):
                self.out.rmdir()
            return status
        if self.ranks.size == 1:
            pyrovae.save(self.out / run_folder.MODEL, pair)
        if self._last_epoch() is None:
            self.say("pyrovae: interrupted before an epoch was done: the same command begins again")
        else:
            self.say(f"pyrovae: interrupted; {self._how_to_go_on()}")
        return status

    def _last_epoch(self) -> int | None:
        from pyrovae import run_folder

        return run_folder.last_epoch(self.out)

    def _how_to_go_on(self) -> str:
        epoch = self._last_epoch() or 0
        return f"`pyrovae fit --resume --out {self.out}` goes on from the last epoch, {epoch + 1}"

    def _diverged(self, error: FloatingPointError) -> int:
        """Say so in the run folder; a run that has no finite epoch leaves none."""
        from pyrovae import run_folder

        sentence = Words.of(self.ctx.command).translated(as_sentence(error) or "")
        epoch = self._last_epoch()
        if epoch is None:
            raise click.ClickException(f"{sentence}. It has no epoch to keep, and {self.out} is not written")
        if self.ranks.is_first:
            run_folder.diverge_run(self.out, sentence)
            state = self.out / run_folder.CHECKPOINT / f"epoch-{epoch:06d}"
            say(f"pyrovae: {sentence}")
            say(f"pyrovae: {self.out} is marked as diverged; {state} is a saved state of its last finite epoch")
        return 2

    def _show(self, data: Any, history: Any, model: Choice, likelihood: Choice | None) -> None:
        if not self.ranks.is_first:
            return
        if not self.parameters["as_json"]:
            click.echo(str(history))
            self.say(f"written to {self.out}")
            return
        last: dict[str, Any] = {}
        if history.epochs.sizes.get("epoch") and "label" not in history.epochs.dims:
            kept = history.config.get("weights_epoch")
            row = history.epochs.isel(epoch=-1 if kept is None else kept)
            last = {name: float(row[name]) for name in row.data_vars}
        shown = {
            "run": str(self.out),
            "status": "complete",
            "model": model.name,
            "likelihood": None if likelihood is None else likelihood.name,
            "reasons": {"model": model.reason, "likelihood": "" if likelihood is None else likelihood.reason},
            "method": history.config.get("method"),
            "epochs": int(history.epochs.sizes.get("epoch", 0)),
            "last": last,
            "stopped": history.config.get("stopped"),
            "data": str(data),
            "event_shape": list(data.event_shape),
            "train_items": len(data.train),
            "test_items": len(data.test),
        }
        click.echo(json.dumps(shown))


def _named(y: Any, classes: tuple[str, ...] | None) -> Any:
    """Labels as they were given: words where the source had words."""
    if classes is None:
        return y
    import numpy as np

    return np.array(classes)[y.numpy()]


def _words_of(parameters: Mapping[str, Any]) -> list[str]:
    """The arguments of a command in the words of a shell."""
    words = [str(parameters["data"])]
    for name, value in parameters.items():
        option = "--json" if name == "as_json" else spelled(name)
        if name in ("data", "resume") or not (_is_given(value) or (name == "scale" and value is False)):
            continue
        if name == "scale":
            words.append("--scale" if value else "--no-scale")
            continue
        if name == "plugin":
            words += [word for file in value for word in (option, str(file))]
        elif value is True:
            words.append(option)
        else:
            words += [option, _shown(value)]
    return words


def _plugin_record(file: str) -> dict[str, str]:
    path = Path(file).resolve()
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
