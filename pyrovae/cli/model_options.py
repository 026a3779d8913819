"""An option for each argument of a builder and each option of a method, made from what is registered.

Nobody keeps a list of them: a builder of a plugin, or an argument that a builder gets, is on the command line by its
registration. An argument whose value cannot be written in one word, such as a mapping, has no option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from pyrovae import choices
from pyrovae.choices import Builder
from pyrovae.choices import Option as Argument
from pyrovae.cli.choosing import ORDER
from pyrovae.cli.options import OneOf, Option, Registered, Value

__all__ = ["FROM_DATA", "NETWORKS", "builder_arguments", "builders", "model_options", "spelled"]

FROM_DATA = (
    "event_shape",
    "columns",
    "features",
    "num_classes",
    "covariate_dim",
)  # of a builder, which the data set says
NOT_SHOWN = (
    "classes",
    "sampled_shape",
    "callbacks",
    "families",
)  # which the data set or a saved state says; objects of Python
TAKEN = (
    *(
        "data",
        "out",
        "resume",
        "checkpoint_every",
        "seed",
        "device",
        "plugin",
        "model",
        "network",
        "method",
        "scale",
        "root",
    ),
    *("labels", "covariates", "exposure", "unlabeled", "kinds", "drop", "weight"),
)
REQUIRED_HERE = {"latent_dim": 2}  # the default of an argument that a builder requires
PARTS = ("likelihood", "prior", "posterior")
NETWORKS = {"mlp": "mlp_vae", "conv": "conv_vae", "linear": "linear_vae"}  # --network, short for --model
COMPILE = {"auto": "auto", "yes": True, "no": False}
PART_DEFAULTS = {"likelihood": "by the items, as `pyrovae data` says"}

# what the help says; of an option that is not here, what its docstring says
TEXTS = {
    "latent_dim": "dimensions of a code",
    "hidden_dims": "widths of the hidden layers, with commas or blanks",
    "activation": "of the hidden layers",
    "channels": "channels of the convolutions",
    "strides": "strides of the convolutions",
    "likelihood": "distribution of an item given its code",
    "standardize": "networks see columns in standard deviations, of the training part",
    "prior": "distribution of the codes",
    "posterior": "distribution of the code given an item",
    "num_components": "components of the mixture",
    "covariance": "full, tied, diagonal or spherical",
    "floor": "the least variance, in the items' units squared",
    "relative_floor": "the least variance, as a share of a column's",
    "pseudo_count": "items added to each column of counts or categories, as spread evenly over the components",
    "prior_scale": "standard deviation of the prior",
    "prior_loc": "mean of the prior of the locations",
    "concentration": "of the Dirichlet prior of the weights",
    "scale_median": "median of the prior of the scales",
    "scale_spread": "spread of the prior of the scales, on the log scale",
    "correlation_concentration": "of the prior of the correlations",
    "epochs": "passes over the training part",
    "batch_size": "items in a step, or all of them",
    "learning_rate": "of the optimizer",
    "optimizer": "by name",
    "schedule": "the learning rate over the run",
    "clip_norm": "the norm that all gradients of a step are scaled down to",
    "beta": "weight of the KL term",
    "warmup": "epochs over which beta is raised from 0",
    "free_bits": "nats of KL term per dimension of the code that cost nothing",
    "patience": "stop after so many epochs without a better validation ELBO",
    "precision": "what networks compute in as they train",
    "binarize": "draw binary items from grey ones in each epoch",
    "compile": "take each step as one compiled graph",
    "objective": "the bound that is raised",
    "num_particles": "draws per item in a step",
    "tol": "the gain of an iteration, in nats per item, under which the search ends",
    "max_iterations": "the largest number of iterations",
}


def builders(with_plugins: bool) -> dict[str, Builder]:
    """The registered builders; with plugins those that they registered too."""
    return choices.imported_builders() if with_plugins else choices.builders()


def methods(with_plugins: bool) -> dict[str, dict[str, Argument]]:
    """The methods of `fit`; with plugins those that they registered too."""
    return choices.imported_methods() if with_plugins else choices.methods()


def in_order(names: Iterable[str]) -> list[str]:
    """Builders, those that most fits take first."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def builder_arguments(known: Mapping[str, Builder]) -> dict[str, dict[str, Argument]]:
    """Each argument of a builder that has an option, and the builders that have it."""
    taken: set[str] = {*TAKEN, *FROM_DATA, *NOT_SHOWN}
    taken |= {name for options in choices.methods().values() for name in options}
    arguments: dict[str, dict[str, Argument]] = {}
    for name in in_order(known):
        builder = known[name]
        for argument, option in builder.arguments.items():
            if argument not in taken and _kinds(argument, option):
                arguments.setdefault(argument, {})[name] = option
    return arguments


def spelled(argument: str) -> str:
    """The option of an argument: `latent_dim` is `--latent-dim`."""
    return f"--{argument.replace('_', '-')}"


def model_options(with_plugins: bool) -> list[click.Parameter]:
    """An option for each argument of the builders and each option of the methods; None where it is not given."""
    made: list[click.Parameter] = []
    for argument, of in builder_arguments(builders(with_plugins)).items():
        made.append(_option(argument, of, "Model"))
    options: dict[str, dict[str, Argument]] = {}
    for name, its_options in methods(with_plugins).items():
        for option, what in its_options.items():
            if option not in NOT_SHOWN and _kinds(option, what):
                options.setdefault(option, {})[name] = what
    order = list(choices.svi_options())
    for option in sorted(options, key=lambda name: order.index(name) if name in order else len(order)):
        made.append(_option(option, options[option], "Training"))
    return made


def _kinds(name: str, option: Argument) -> list[str]:
    """What an option may be: "int", "float", "ints", "flag", "word", "name", "text"; nothing where it has no option."""
    annotation = option.annotation
    if name in PARTS or name == "optimizer":
        return ["name"]
    if annotation in ("bool", "bool | None"):
        return ["flag"]
    if name == "compile":
        return ["word"]
    kinds = []
    for part in annotation.split("|"):
        part = part.strip()
        if part in ("int", "float"):
            kinds.append(part)
        elif part in ("Sequence[int]", "tuple[int, ...]", "list[int]", "tuple", "list"):
            kinds.append("ints")
        elif part == "str":
            kinds.append("text")
    if option.words and not kinds:
        return ["word"]
    if not annotation and option.default is not None:
        by_type = {bool: "flag", int: "int", float: "float", str: "text", tuple: "ints", list: "ints"}
        kinds = [by_type[type(option.default)]]
    return kinds


def _option(name: str, of: Mapping[str, Argument], section: str) -> Option:
    kinds = list(dict.fromkeys(kind for option in of.values() for kind in _kinds(name, option)))
    words = list(dict.fromkeys(word for option in of.values() for word in option.words))
    text = TEXTS.get(name) or next((option.text for option in of.values() if option.text), "")
    text = text.partition(". ")[0].rstrip(".")
    settings: dict[str, Any] = {"section": section, "help": f"{text[:1].upper()}{text[1:]}."}
    if kinds == ["flag"]:
        settings["help"] += _whose(of, section)
        return Option([spelled(name), name], is_flag=True, default=False, **settings)
    metavar = "X" if "float" in kinds else "N" if "int" in kinds else "NAME"
    if kinds == ["name"]:
        settings["type"] = Registered(name)
        settings["help"] += f" {', '.join(choices.names(name))}, or a --plugin's."
    elif name == "compile":
        settings["type"] = OneOf(list(COMPILE))
        settings["help"] += f" {', '.join(COMPILE)}."
    elif kinds == ["word"]:
        settings["type"] = OneOf(words)
        settings["help"] += f" {', '.join(words)}."
    else:
        settings["type"] = Value(kinds, words)
        if "ints" in kinds:
            metavar = "N[,N...]"
            settings["takes_several"] = True
    settings["help"] += f"{_whose(of, section)}{_defaults(name, of)}"
    return Option([spelled(name), name], default=None, metavar=metavar, **settings)


def _whose(of: Mapping[str, Argument], section: str) -> str:
    """Which builders or methods an option is of."""
    if section == "Training" and "svi" in of and len(of) == 1:
        return ""
    return f" Of {', '.join(of)}."


def _defaults(name: str, of: Mapping[str, Argument]) -> str:
    """The default, as each of them has it."""
    if name in PART_DEFAULTS:
        return f" (default: {PART_DEFAULTS[name]})"
    by_default: dict[str, list[str]] = {}
    for owner, option in of.items():
        text = _shown(REQUIRED_HERE.get(name) if option.required else option.default, option.required)
        by_default.setdefault(text, []).append(owner)
    if len(by_default) == 1:
        (text,) = by_default
        return f" ({text})" if text == "must be given" else f" (default: {text})"
    parts = [f"{text} of {', '.join(owners)}" for text, owners in by_default.items()]
    return f" (default: {'; '.join(parts)})"


def _shown(value: Any, required: bool) -> str:
    if value is None or value == ():
        return "must be given" if required else "none"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
