"""A fit's plan: the options that were given, what is chosen by the items, and the pair that is built of both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from pyrovae.choices import Builder
from pyrovae.cli.choosing import Choice, chosen_likelihood, chosen_model, chosen_table_model
from pyrovae.cli.model_options import COMPILE, NETWORKS, REQUIRED_HERE, builder_arguments, builders, spelled
from pyrovae.cli.tables import read_table

__all__ = ["RUN_OPTIONS", "Plan", "is_given", "is_table_file", "read", "read_unlabeled", "refusal", "shown"]

RUN_OPTIONS = ("out", "resume", "as_json", "download", "plugin")


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
            "covariates",
            "exposure",
            "unlabeled",
            "kinds",
            "drop",
            "weight",
            "channel_axis",
            "scale",
            "root",
            "seed",
            "checkpoint_every",
            "device",
            "model",
            "network",
            "method",
        }
        self.given = {name: value for name, value in parameters.items() if name not in fixed and is_given(value)}
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

    @property
    def is_of_table(self) -> bool:
        """Whether the data set is a file of a table."""
        return is_table_file(self.parameters["data"])

    def model_of_table(self) -> Choice:
        """The model of a table, which the options decide alone: how its columns are read depends on it."""
        if self.asked_model is not None:
            return Choice(self.asked_model, "")
        asked = {name: spelled(name) for name in self.arguments}
        if self.parameters["covariates"] is not None:
            asked["covariate_dim"] = "covariates"
        return chosen_table_model(asked, self.builders)

    def read(self, *, missing: bool) -> tuple[Any, bool]:
        """The data set, and whether its bytes are divided by 255."""
        if not self.is_of_table:
            return read(self.parameters, missing=missing)
        model = self.model_of_table().name
        return read_table(self.parameters, model, self.builders[model]), True

    def choose(self, data: Any, summary: Any) -> tuple[Choice, Choice | None]:
        """The model and the likelihood, each with its reason; an empty reason where it was asked for."""
        if self.is_of_table:
            model = self.model_of_table()
        elif self.asked_model is None:
            asked = {name: spelled(name) for name in self.arguments}
            if data.train.covariates is not None:
                asked["covariate_dim"] = "covariates"
            model = chosen_model(data.event_shape, asked, self.builders)
        else:
            model = Choice(self.asked_model, "")
        builder = self.builders[model.name]
        self._refuse_options_of_other_builders(model.name, builder)
        if "likelihood" in self.arguments:
            return model, Choice(self.arguments["likelihood"], "")
        with_exposure = data.train.exposure is not None
        binarize = bool(self.options.get("binarize"))
        return model, chosen_likelihood(summary, builder, binarize=binarize, with_exposure=with_exposure)

    def _refuse_options_of_other_builders(self, model: str, builder: Builder) -> None:
        for name in self.arguments:
            if name not in builder.arguments:
                owners = ", ".join(self.of_builders[name])
                raise click.UsageError(
                    f"{spelled(name)} is an option of {owners}, and the model is {model}: leave it out"
                )

    def build(self, data: Any, model: str, likelihood: str | None) -> Any:
        """The pair, its weights drawn by torch's present generator."""
        from pyrovae.models.pair import takes_exposure
        from pyrovae.models.registry import registered

        builder = self.builders[model]
        arguments: dict[str, Any] = dict(self.arguments)
        if likelihood is not None:
            arguments["likelihood"] = likelihood
        arguments |= self._from_data(data, model, builder)
        for name, argument in builder.arguments.items():
            if argument.required and name not in arguments:
                if name == "covariate_dim":
                    raise click.UsageError(f"--model {model} needs covariates: name them by --covariates FILE.npy")
                if name not in REQUIRED_HERE:
                    raise click.UsageError(f"--model {model} needs {spelled(name)}")
                arguments[name] = REQUIRED_HERE[name]
        make = registered("builder")[model]
        pair = make(**arguments)
        if data.train.exposure is not None and not takes_exposure(pair):
            raise click.UsageError(self._refused_exposure(data, model, likelihood, arguments))
        return pair

    def _refused_exposure(self, data: Any, model: str, likelihood: str | None, arguments: Mapping[str, Any]) -> str:
        """Why this pair takes no exposure: its likelihood, or the model whatever the likelihood is; and what does."""
        from pyrovae.models.pair import takes_exposure
        from pyrovae.models.registry import registered

        of_counts = "--likelihood negative_binomial or poisson"
        takes = False
        if "likelihood" in self.builders[model].arguments:
            with suppress(ValueError, TypeError):
                takes = takes_exposure(registered("builder")[model](**{**arguments, "likelihood": "poisson"}))
        if takes:
            its = f"the likelihood of {model}" if likelihood is None else f"--likelihood {likelihood}"
            return (
                f"{self._named('exposure')}, which multiplies the means of counts, and {its} is none of counts: name "
                f"{of_counts}, or leave the exposure out"
            )
        other = chosen_model(data.event_shape, {}, self.builders).name
        return (
            f"--model {model} takes no exposure, and {self._named('exposure')}: leave it out, or name --model {other} "
            f"with {of_counts}"
        )

    def _from_data(self, data: Any, model: str, builder: Builder) -> dict[str, Any]:
        """What the data set says of a builder's arguments."""
        arguments: dict[str, Any] = {}
        if "event_shape" in builder.arguments:
            arguments["event_shape"] = data.event_shape
        if "columns" in builder.arguments:
            arguments["columns"] = getattr(data, "columns", None)
            if arguments["columns"] is None:
                raise click.UsageError(
                    f"--model {model} is for tables, whose columns have names and kinds, and "
                    f"{self.parameters['data']} is none: give a file with a table, or name another model"
                )
        if "missing" in builder.arguments and data.columns is not None and _has_missing(data):
            arguments["missing"] = True
        if "features" in builder.arguments:
            if len(data.event_shape) != 1:
                raise click.UsageError(
                    f"--model {model} is for items of one axis, and these have shape {data.event_shape}"
                )
            arguments["features"] = data.event_shape[0]
        if data.train.covariates is not None:
            if "covariate_dim" not in builder.arguments:
                takers = ", ".join(name for name, each in self.builders.items() if "covariate_dim" in each.arguments)
                raise click.UsageError(
                    f"--model {model} takes no covariates, and {self._named('covariates')}: leave them out, or name "
                    f"one of {takers}"
                )
            arguments["covariate_dim"] = data.train.covariates.shape[1]
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

    def _named(self, name: str) -> str:
        """Where what lies beside the items came from."""
        file = self.parameters[name]
        what = "an exposure" if name == "exposure" else name
        return f"{self.parameters['data']} has {what}" if file is None else f"{spelled(name)} is {file}"


def read(parameters: Mapping[str, Any], missing: bool = False) -> tuple[Any, bool]:
    """The data set that the options name, and whether its bytes are divided by 255."""
    import pyrovae
    from pyrovae.data.beside import BESIDE

    scale = _is_scaled(parameters)
    beside = {name: parameters[name] for name in BESIDE}
    data = pyrovae.data.load(
        parameters["data"],
        root=parameters["root"],
        download=parameters["download"],
        channels=parameters["channel_axis"],
        labels=parameters["labels"],
        scale=scale,
        missing=missing,
        **beside,
    )
    return data, scale


def is_table_file(source: Any) -> bool:
    """Whether DATA is the path of a file of a table."""
    from pyrovae.data.tables import files

    return source is not None and files.is_table_file(source)


def _has_missing(data: Any) -> bool:
    return any(part.missing is not None and bool(part.missing.any()) for part in (data.train, data.test))


def _is_scaled(parameters: Mapping[str, Any]) -> bool:
    """Whether bytes are divided by 255: as --scale says, and else unless they are counts.

    They are where the likelihood is one of whole numbers, and where there is an exposure, which multiplies the means of
    counts.
    """
    from pyrovae.data.numpy_files import archive_has

    if parameters["scale"] is not None:
        return bool(parameters["scale"])
    if _is_of_whole_numbers(parameters.get("likelihood")):
        return False
    return parameters["exposure"] is None and not archive_has("exposure", parameters["data"])


def read_unlabeled(parameters: Mapping[str, Any], data: Any, scale: bool) -> Any:
    """The items of --unlabeled in the order of their source, without its test part; None without any."""
    from pyrovae.data.sources import load_of_shape

    source = parameters["unlabeled"]
    if source is None:
        return None
    options = {"root": parameters["root"], "download": parameters["download"], "scale": scale}
    more = load_of_shape(source, data.event_shape, channels=data.channels, **options)
    if tuple(more.event_shape) != tuple(data.event_shape):
        raise click.UsageError(
            f"--unlabeled {source} has items of shape {tuple(more.event_shape)}, and those of DATA have shape "
            f"{tuple(data.event_shape)}"
        )
    items = more.train if more.order is None else more.whole()  # a test part of its own stays one
    return replace(items, y=None, covariates=None, exposure=None)


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


def _is_of_whole_numbers(likelihood: str | None) -> bool:
    """Whether a registered likelihood is one of whole numbers, as counts are, for which bytes are kept."""
    if likelihood is None:
        return False
    from pyrovae.checks import supports
    from pyrovae.models.registry import make

    family: Any = make("likelihood", likelihood)
    return supports.is_of_whole_numbers(family.support)


def is_given(value: Any) -> bool:
    """Whether an option was given: a flag that is off, or an empty list of files, was not."""
    return value is not None and value is not False and value != ()


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return {True: "on", None: "not given"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
