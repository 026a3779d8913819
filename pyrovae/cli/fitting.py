"""What `pyrovae fit` does: read, choose, build, fit, write; and what is left where one of these fails."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pyrovae.cli.choosing import Choice, chosen_epochs
from pyrovae.cli.errors import Terminated, as_sentence
from pyrovae.cli.model_options import spelled
from pyrovae.cli.out_folder import alone_in, earlier_run, nothing_left_of_nothing, take_away
from pyrovae.cli.outputs import json_text
from pyrovae.cli.planning import RUN_OPTIONS, Plan, is_given, read_unlabeled, refusal, shown
from pyrovae.cli.plugins import PLUGINS
from pyrovae.cli.resuming import as_recorded, is_longer, saying_where_it_goes_on
from pyrovae.cli.tables import what_is_missing
from pyrovae.cli.words import Words
from pyrovae.durable import SameFolder

__all__ = ["fit", "say"]

SEVERAL = {"plugin": "--plugin", "kinds": "--kind", "drop": "--drop"}  # options that may be given several times


def say(text: str) -> None:
    """A line on the standard error."""
    click.echo(text, err=True)


def fit(ctx: click.Context, parameters: dict[str, Any]) -> int:
    """Fit as the options say; the exit status."""
    began = getattr(ctx.find_root().command, "began", time.perf_counter())
    import pyrovae
    from pyrovae import checks

    with_plugins = bool(ctx.meta.get(PLUGINS))
    absent = [name for name, value in (("DATA", parameters["data"]), ("--out", parameters["out"])) if value is None]
    if parameters["out"] is None or (absent and not parameters["resume"]):
        hint = "" if parameters["data"] is None or parameters["resume"] else ", a folder to be made"
        raise click.UsageError(f"not given: {', '.join(absent)}{hint}", ctx)
    out = checks.path("--out", parameters["out"])
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out {out} is a file: name a folder")
    with pyrovae.distributed() as ranks, alone_in(out, ranks) as folder:
        earlier = earlier_run(out, bool(parameters["resume"]), ranks)
        if earlier is not None:
            parameters = as_recorded(parameters, earlier, out)
            if earlier["status"] == "complete" and not is_longer(parameters, earlier):
                if ranks.is_first:
                    say(f"{out} is complete: there is nothing to go on with. A larger --epochs trains longer")
                return 0
        elif parameters["data"] is None:
            raise click.UsageError(
                f"--out {out} has no run.json to --resume from: give DATA and the options of the run"
            )
        with nothing_left_of_nothing(out, ranks, folder):
            return _Fitting(ctx, parameters, folder, ranks, earlier, with_plugins, began).run()


class _Fitting:
    """One fit, from the options to the run folder."""

    def __init__(
        self,
        ctx: click.Context,
        parameters: dict[str, Any],
        folder: SameFolder,
        ranks: Any,
        earlier: dict[str, Any] | None,
        with_plugins: bool,
        began: float,
    ) -> None:
        self.ctx, self.parameters, self.folder, self.out = ctx, parameters, folder, folder.folder
        self.ranks, self.earlier = ranks, earlier
        self.plan = Plan(parameters, with_plugins)
        self.began = began

    def say(self, text: str) -> None:
        if self.ranks.is_first:
            say(text)

    def run(self) -> int:
        import torch

        from pyrovae import checks, run_folder
        from pyrovae.data.beside import BESIDE, without_beside
        from pyrovae.data.summary import summarize

        self._refuse_options_of_tables()
        data, scale = self.plan.read(missing=True)
        summaries = {part: summarize(getattr(data, part)) for part in ("train", "test")}
        missing, infinite = (sum(getattr(s, name) for s in summaries.values()) for name in ("missing", "infinite"))
        if (why := refusal(0 if data.columns is not None else missing, infinite)) is not None:
            raise click.ClickException(f"{self.parameters['data']} cannot be fitted: {why}")
        digests = {part: summary.sha256 for part, summary in summaries.items()}
        digests["test_items"] = summaries["test"].items_sha256  # known again with other labels, or without
        if self.earlier is not None:
            recorded = self.earlier["data"].get("beside", {})
            absent = [name for name in BESIDE if name not in recorded and self.parameters[name] is None]
            data = without_beside(data, *absent)  # of an archive whose arrays a run of before did not read
            self._require_same_data(digests, run_folder.beside_digests(data), recorded)
        model, likelihood = self.plan.choose(data, summaries["train"])
        if self.earlier is not None:  # whatever the rules are by now
            model = Choice(self.earlier["chosen"]["model"], "")
            its_likelihood = self.earlier["chosen"]["likelihood"]
            likelihood = None if its_likelihood is None else Choice(its_likelihood, "")
        self.say(str(data))
        if data.columns is not None:
            self.say(what_is_missing(data))
        self._say_choices(model, likelihood)
        seed = self.parameters["seed"] or 0
        torch.manual_seed(checks.seed(seed, most=2**64 - 1))
        pair = self.plan.build(data, model.name, None if likelihood is None else likelihood.name)
        self._require_unlabeled_taken(pair)
        unlabeled = read_unlabeled(self.parameters, data, scale)
        if unlabeled is not None:
            self.say(f"unlabelled: {len(unlabeled):,} items of {self.parameters['unlabeled']}")
            self._require_same_unlabeled(unlabeled)
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
                beside={name: self.parameters[name] for name in BESIDE},
                weight=self.parameters["weight"],
            )
            if unlabeled is not None:
                record["unlabeled"] = run_folder.unlabeled_record(self.parameters["unlabeled"], unlabeled)
            run_folder.begin_run(self.out, self._manifest(record, pair, model, likelihood, seed))
        self.ranks.gathered(None)
        return self._fit(data, unlabeled, pair, model, likelihood, seed)

    def _require_same_data(
        self, digests: Mapping[str, str], beside: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> None:
        assert self.earlier is not None
        for part, words in (("train", "training"), ("test", "test")):
            if digests[part] != self.earlier["data"]["sha256"].get(part):
                raise click.UsageError(
                    f"DATA {self.parameters['data']} is not what the run in --out {self.out} was begun with: its "
                    f"{words} items have another SHA-256"
                )
        for name in {*beside, *recorded}:
            if beside.get(name) != recorded.get(name, {}).get("sha256"):
                raise click.UsageError(
                    f"the {name} in {self.parameters[name] or self.parameters['data']} are not those that the run in "
                    f"--out {self.out} was begun with: another SHA-256"
                )

    def _refuse_options_of_tables(self) -> None:
        """Refuse what names columns, of items whose entries have no names."""
        if self.plan.is_of_table:
            return
        for name, option in (("kinds", "--kind"), ("drop", "--drop"), ("weight", "--weight")):
            if is_given(self.parameters[name]):
                raise click.UsageError(
                    f"{option} is for tables (.csv, .tsv, .parquet), and {self.parameters['data']} is none"
                )

    def _require_unlabeled_taken(self, pair: Any) -> None:
        """Refuse --unlabeled for a model or by a method that learns from labelled items alone."""
        import pyrovae.methods  # noqa: F401  # which states the methods of all pairs
        from pyrovae.inference.method import chosen

        if self.parameters["unlabeled"] is None:
            return
        method = chosen(pair, self.parameters["method"], self.plan.options)
        if not method.takes_unlabeled:
            raise click.UsageError(
                "--unlabeled is of models that learn from items without labels, as --model SemiSupervisedVAE does, and "
                f"this is a {type(pair).__name__}, fitted by {method.title}: leave it out"
            )

    def _require_same_unlabeled(self, unlabeled: Any) -> None:
        from pyrovae import run_folder

        source = self.parameters["unlabeled"]
        if self.earlier is None:
            return
        recorded = self.earlier["data"].get("unlabeled", {})
        if recorded.get("sha256") != run_folder.unlabeled_record(source, unlabeled)["sha256"]:
            raise click.UsageError(
                f"--unlabeled {source} is not what the run in --out {self.out} was begun with: another SHA-256"
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
        return {name: value for name, value in kept.items() if name not in RUN_OPTIONS and is_given(value)}

    def _fit(self, data: Any, unlabeled: Any, pair: Any, model: Choice, likelihood: Choice | None, seed: int) -> int:
        import pyrovae
        import pyrovae.methods  # which states the methods of all pairs
        from pyrovae import run_folder
        from pyrovae.data.beside import given
        from pyrovae.inference.method import chosen
        from pyrovae.models.pair import takes_labels

        method: Any = chosen(pair, self.parameters["method"], self.plan.options)
        options: dict[str, Any] = {**self.plan.options, "seed": seed, "device": self.parameters["device"] or "auto"}
        if self.parameters["method"] is not None:
            options["method"] = self.parameters["method"]
        if method.keeps_checkpoints:
            options |= {"checkpoint": self.out / run_folder.CHECKPOINT, "resume": bool(self.parameters["resume"])}
        if self.parameters["checkpoint_every"] is not None:
            options["checkpoint_every"] = self.parameters["checkpoint_every"]
        if data.columns is not None and method.name == "svi" and "epochs" not in self.plan.options:
            options["epochs"] = chosen_epochs(len(data.train), method.batch_size, method.epochs)
            self.say(
                f"epochs {options['epochs']:,}: 2,000 steps at least, as a table may be small (--epochs for another)"
            )
        x, y, held_out = data.train.x, None, data.test.x
        if given(data.test) or data.columns is not None:
            held_out = replace(data.test, y=None)
        if takes_labels(pair):
            y = _named(data.train.y, data.classes)
            held_out = None if data.test.y is None else (data.test.x, _named(data.test.y, data.classes))
        if method.takes_unlabeled and hasattr(x, "exactly"):
            x = x.exactly(slice(None))  # the labelled items are few, and are taken as an array
        if method.takes_validation:
            options["validation"] = held_out
        if data.columns is None:
            options |= given(data.train)
        else:
            x = replace(data.train, y=None)  # with its names, weights and missing entries
        if unlabeled is not None:
            options["unlabeled"] = unlabeled.x
        try:
            with saying_where_it_goes_on(self.say):
                history = pyrovae.fit(pair, x, y, **options)
            self._finish(pair, history)
        except KeyboardInterrupt as interrupt:
            return self._interrupted(interrupt, pair, method)
        except FloatingPointError as error:
            return self._diverged(error)
        except (pyrovae.CaptureError, pyrovae.CompilerError) as error:  # nothing was trained
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if self._last_place() is not None:
                self.say(f"pyrovae: {self._how_to_go_on()}")
            raise error
        self._show(data, history, model, likelihood)
        return 0

    def _finish(self, pair: Any, history: Any) -> None:
        from pyrovae import run_folder

        self._require_same_folder()
        run_folder.finish_run(self.out, pair, history)
        self.ranks.gathered(None)

    def _require_same_folder(self) -> None:
        if any(self.ranks.gathered(self.ranks.is_first and not self.folder.is_there())):
            raise click.ClickException(
                f"--out {self.out} was removed while the run trained, or another folder was put in its place: nothing "
                "is written there; fit again"
            )

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
        if self.ranks.size == 1 and self.folder.is_there():
            pyrovae.save(self.out / run_folder.MODEL, pair)
        if self._last_place() is None:
            self.say("pyrovae: interrupted before its first checkpoint: the same command begins again")
        else:
            self.say(f"pyrovae: interrupted; {self._how_to_go_on()}")
        return status

    def _last_place(self) -> tuple[int, int] | None:
        from pyrovae import run_folder

        return run_folder.last_place(self.out)

    def _how_to_go_on(self) -> str:
        from pyrovae.inference.snapshots import in_words

        place = self._last_place()
        where = "" if place is None else f" after {in_words(place)}"
        return f"`pyrovae fit --resume --out {self.out}` goes on{where}"

    def _diverged(self, error: FloatingPointError) -> int:
        """Say so in the run folder; a run that has no finite state leaves none."""
        from pyrovae import run_folder
        from pyrovae.inference.snapshots import name_of

        sentence = Words.of(self.ctx.command).translated(as_sentence(error) or "")
        place = self._last_place()
        if place is None:
            raise click.ClickException(f"{sentence}. It has no state to keep, and {self.out} is not written")
        if self.ranks.is_first:
            run_folder.diverge_run(self.out, sentence)
            state = self.out / run_folder.CHECKPOINT / name_of(place)
            say(f"pyrovae: {sentence}")
            say(f"pyrovae: {self.out} is marked as diverged; {state} is its last finite state")
        return 2

    def _show(self, data: Any, history: Any, model: Choice, likelihood: Choice | None) -> None:
        if not self.ranks.is_first:
            return
        if not self.parameters["as_json"]:
            click.echo(str(history))
            self.say(f"written to {self.out}, {time.perf_counter() - self.began:.1f} s after the command began")
            return
        last: dict[str, Any] = {}
        if history.epochs.sizes.get("epoch") and "label" not in history.epochs.dims:
            kept = history.config.get("weights_epoch")
            row = history.epochs.isel(epoch=-1 if kept is None else kept)
            last = {name: float(row[name]) for name in row.data_vars}
        record = {
            "run": str(self.out),
            "status": "complete",
            "model": model.name,
            "likelihood": None if likelihood is None else likelihood.name,
            "reasons": {"model": model.reason, "likelihood": "" if likelihood is None else likelihood.reason},
            "method": history.config.get("method"),
            "epochs": int(history.epochs.sizes.get("epoch", 0)),
            "last": last,
            "seconds": history.seconds,
            "stopped": history.config.get("stopped"),
            "data": str(data),
            "event_shape": list(data.event_shape),
            "train_items": len(data.train),
            "test_items": len(data.test),
        }
        click.echo(json_text(record, indent=None))


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
        if name in ("data", "resume") or not (is_given(value) or (name == "scale" and value is False)):
            continue
        if name == "scale":
            words.append("--scale" if value else "--no-scale")
            continue
        if name in SEVERAL:
            words += [word for each in value for word in (SEVERAL[name], str(each))]
        elif value is True:
            words.append(option)
        else:
            words += [option, shown(value)]
    return words


def _plugin_record(file: str) -> dict[str, str]:
    path = Path(file).resolve()
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
