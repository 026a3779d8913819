"""The register of parts and builders by name, and the recipes by which saved pairs are built again.

A part or a builder is registered where it is defined, and nowhere else:

    @pyrovae.register("laplace", kind="likelihood")
    class Laplace(nn.Module):
        support = constraints.real

        def __init__(self, scale=1.0): ...
        def forward(self, loc): ...

The registration is the single source of the names that builders accept, of what `save` and `load` need to build a pair
again, of the choices listed in errors and by the command line, and of the table in `docs/parts.md`.

When a builder receives the name of a part, it constructs and calls the part as follows. Any other argument of the
constructor must have a default.

=============  ======================================  ===========================================================
kind           constructor                             call
=============  ======================================  ===========================================================
"likelihood"   `Class()`                               `part(*parameters)`, a distribution of independent entries
"prior"        `Class(latent_dim)`                     `part()`, a distribution over one code
"posterior"    `Class(network, features, latent_dim)`  `part(x)`, a distribution over the code of each item
"builder"      any                                     a function that gives a pair, or the class of a pair
=============  ======================================  ===========================================================

A likelihood has a `support`, the constraint on one entry of an item. Its `num_parameters`, 1 by default, is the number
of parameters per entry: a builder sizes the decoder by it, and `forward` takes one tensor of shape (..., *event_shape)
per parameter. The optional attributes of a part, and their defaults, are listed in `docs/parts.md`.

A prior has `latent_dim`, the size of a code. A posterior's `network` maps items, (N, *event_shape), to (N, features).

The arguments of each constructor call are recorded. A part can be built again from numbers, strings, lists of them,
None, columns of tables and registered parts. A pair with any other argument, such as a function or a tensor, can only
be loaded by `load(path, like=...)`. Loading never imports what a file names: the name is looked up in this register, or
refused.
"""

from __future__ import annotations

import difflib
import inspect
import operator
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.checks.flags import flags_of, require_flags
from pyrovae.columns import Column
from pyrovae.exclusive import exclusive
from pyrovae.models.part_names import name_and_arguments

__all__ = [
    "KINDS",
    "NotDescribedError",
    "build",
    "chosen",
    "completed",
    "described",
    "lookup",
    "make",
    "name_of",
    "note",
    "plain_name_of",
    "recipe_of",
    "register",
    "registered",
    "remade",
    "restate",
    "table",
]

T = TypeVar("T", bound=Callable[..., Any])
Kind = Literal["likelihood", "prior", "posterior", "builder"]

KINDS = ("likelihood", "prior", "posterior", "builder")
CONTRACTS = {"likelihood": (), "prior": ("latent_dim",), "posterior": ("network", "features", "latent_dim")}
SHOWN = 80  # characters of an argument in the name of a part
CALLED_WITH = {"prior": 0, "posterior": 1}  # the number of arguments of a call
PLACES = {kind: "pyrovae.models" if kind == "builder" else "pyrovae.models.parts" for kind in KINDS}

_TABLE: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_SEEN: set[str] = set()  # the packages whose modules are all imported


class NotDescribedError(TypeError):
    """Raised for an object that registered names and plain values cannot describe; the message gives the reason."""


def register(name: str, *, kind: Kind) -> Callable[[T], T]:
    """Decorate a class or function to register it under `name`, as a part of a pair or as the builder of a pair.

    A new definition with the same module and qualified name replaces the earlier one, as when a notebook cell is run
    again, and so does one from the same file under another module name, as `__main__` is. Raises ValueError for a name
    that another object has, for a name that is not an identifier, for an unknown kind and for a constructor that a
    builder could not call; TypeError for an object that is not a module class (or, for a builder, a function).

    >>> import torch
    >>> from torch import nn
    >>> import pyrovae
    >>> @pyrovae.register("laplace_of_the_example", kind="likelihood")
    ... class Laplace(nn.Module):
    ...     support = torch.distributions.constraints.real
    ...     def __init__(self, scale=1.0):
    ...         super().__init__()
    ...         self.scale = scale
    ...     def forward(self, loc):
    ...         return torch.distributions.Laplace(loc, self.scale)
    >>> vae = pyrovae.mlp_vae((3,), likelihood="laplace_of_the_example")
    >>> vae.sample(2, seed=0).shape
    torch.Size([2, 3])
    """
    kind = checks.choice("kind", kind, KINDS)  # type: ignore[assignment]
    whatever: Any = name
    if not isinstance(whatever, str) or not name.isidentifier():
        raise ValueError(f"name must be a word of letters, digits and underscores, got {name!r}")

    def decorate(made: T) -> T:
        _require_registrable(name, kind, made)
        is_own = made.__module__.startswith("pyrovae.")
        taken = (_TABLE[kind] if is_own else registered(kind)).get(name)
        if taken is not None and not _is_written_anew(taken, made):
            raise ValueError(
                f"{kind} {name!r} is {_qualified(taken)}, and cannot be {_qualified(made)} too: choose another name"
            )
        if isinstance(made, type):
            _note_arguments(made, kind, name)
            _TABLE[kind][name] = made
            return made
        builder: Any = _noting_builder(made, name)
        _TABLE[kind][name] = builder
        return builder

    return decorate


def registered(kind: str) -> dict[str, Any]:
    """All registered objects of one kind by name: those of the package, and those that this process has registered.

    >>> from pyrovae.models.registry import registered
    >>> registered("likelihood")["normal"].__name__
    'Normal'
    """
    checks.choice("kind", kind, KINDS)
    place = PLACES[kind]
    if place not in _SEEN:
        for module in pkgutil.iter_modules(import_module(place).__path__, f"{place}."):
            import_module(module.name)
        _SEEN.add(place)
    return dict(sorted(_TABLE[kind].items()))


def lookup(kind: str, name: Any) -> Any:
    """The class or function registered under `name`. Raises ValueError, listing the known names, for another name."""
    known = registered(kind)
    return known[checks.choice(kind, name, known)]


def make(kind: str, asked: Any, *arguments: Any, **options: Any) -> nn.Module:
    """A part from a module, which is returned as it is, or from a name, whose class is called with the arguments.

    Arguments in the text of a name, as in "student_t(df=4.0)", come before `options`.

    >>> from pyrovae.models.registry import make, name_of
    >>> name_of(make("likelihood", "normal(scale=0.5)", floor=0.1))
    'normal(scale=0.5, floor=0.1)'
    """
    if isinstance(asked, nn.Module):
        return asked
    made, stated = chosen(kind, asked)
    part: nn.Module = made(*arguments, **{**options, **stated})
    return part


def chosen(kind: str, asked: Any) -> tuple[Any, dict[str, Any]]:
    """The class that a text names, and the arguments that it states. Raises ValueError for an argument of another.

    >>> from pyrovae.models.registry import chosen
    >>> chosen("likelihood", "normal(scale=0.5)")
    (<class 'pyrovae.models.parts.normal.Normal'>, {'scale': 0.5})
    """
    name, stated = name_and_arguments(kind, asked) if isinstance(asked, str) else (asked, {})
    made = lookup(kind, name)
    parameters = _signature(made).parameters
    own = list(parameters)[len(CONTRACTS[kind]) :]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return made, stated
    for argument in stated:
        if argument not in own:
            takes = f"it takes {', '.join(own)}" if own else "it takes none"
            close = difflib.get_close_matches(argument, own, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{kind}={asked!r}: {name} has no argument {argument!r}: {takes}{hint}")
    return made, stated


# the arguments that built an object ---------------------------------------------------------------------------


def described(made: Any) -> dict[str, Any]:
    """The recipe of an object: plain values from which `build` makes an equal object.

    The recipe of a pair is {"builder": name, **arguments}; that of a part is {"kind": kind, "name": name,
    "arguments": arguments}. Raises NotDescribedError, with the reason, for an object without a recipe.

    >>> import pyrovae
    >>> from pyrovae.models.registry import described
    >>> described(pyrovae.Normal(scale=0.5))["arguments"]["scale"]
    0.5
    """
    kind_of_it = type(made).__name__
    record = vars(made).get("_made_by")
    if record is None:
        raise NotDescribedError(f"{kind_of_it} is not registered")
    kind, name, known = record["kind"], record["name"], record["arguments"]
    present = _TABLE[kind].get(name)
    if isinstance(present, type) and present is not type(made):
        raise NotDescribedError(f"{kind_of_it} was registered anew as {kind} {name!r} after this one was made")
    changed = vars(made).get("_noted", {})
    for argument in changed:
        if argument not in known:
            raise NotDescribedError(f"{argument} of a {kind_of_it} was changed, which {name} does not take")
    arguments = {**known, **changed}
    for argument, value in arguments.items():
        if (hindrance := _hindrance(value)) is not None:
            raise NotDescribedError(f"{argument} is {hindrance}")
    if kind == "builder":
        return {"builder": name, **arguments}
    return {"kind": kind, "name": name, "arguments": arguments}


def name_of(part: Any) -> str:
    """The registered name of a part, with the arguments that are not their defaults; of any other, its class.

    >>> import pyrovae
    >>> from pyrovae.models.registry import name_of
    >>> name_of(pyrovae.Normal(scale=0.5)), name_of(pyrovae.StandardNormal(2))
    ('normal(scale=0.5)', 'standard')
    """
    record = getattr(part, "__dict__", {}).get("_made_by")
    if record is None or record["kind"] not in CONTRACTS:
        return type(part).__name__.lstrip("_")
    parameters = _signature(type(part)).parameters
    options = []
    for argument, value in {**record["arguments"], **vars(part).get("_noted", {})}.items():
        is_default = argument in parameters and value == _plain(parameters[argument].default)
        if argument not in CONTRACTS[record["kind"]] and not is_default and _hindrance(value) is None:
            words = f"{value!r}"
            options.append(f"{argument}={words}" if len(words) <= SHOWN else f"{argument}=...")
    return f"{record['name']}({', '.join(options)})" if options else str(record["name"])


def plain_name_of(part: Any) -> str:
    """The registered name of a part, without its arguments; of any other object, the name of its class.

    >>> import pyrovae
    >>> from pyrovae.models.registry import plain_name_of
    >>> plain_name_of(pyrovae.Normal(scale=0.5))
    'normal'
    """
    return name_of(part).partition("(")[0]


def recipe_of(made: Any) -> dict[str, Any] | None:
    """The recipe of an object, as `described` gives it; None if it has none."""
    try:
        return described(made)
    except NotDescribedError:
        return None


def note(made: nn.Module, **arguments: Any) -> None:
    """Record new values of an object's arguments, after a fit or a method has changed the object."""
    plain = {name: _plain(value) for name, value in arguments.items()}
    vars(made)["_noted"] = {**vars(made).get("_noted", {}), **plain}


def restate(made: nn.Module, **arguments: Any) -> None:
    """Record that an object was made with these arguments, which say in plain values what its constructor was given."""
    record = vars(made).get("_made_by")
    if record is not None:
        plain = {name: _plain(value) for name, value in arguments.items()}
        vars(made)["_made_by"] = {**record, "arguments": plain}


def remade(part: Any, **changes: Any) -> Any:
    """A new part with the arguments of `part`, except for `changes`. Raises NotDescribedError if it has no recipe."""
    recipe = described(part)
    return build({**recipe, "arguments": {**recipe["arguments"], **changes}})


def build(recipe: Any) -> Any:
    """Build the object that a recipe describes. Raises ValueError for an unknown name and for an invalid recipe."""
    kind, name, arguments = _read(recipe)
    _require_known(kind, name)
    for argument, value in arguments.items():
        if kind == "builder" and argument in KINDS and isinstance(value, str):
            _require_known(argument, name_and_arguments(argument, value)[0])
    return registered(kind)[name](**{argument: _built(value) for argument, value in arguments.items()})


def completed(recipe: Any) -> Any:
    """A recipe in today's form: arguments added since then have their defaults, and old names are replaced."""
    try:
        kind, name, arguments = _read(recipe)
        maker = registered(kind)[name]
        known = _signature(maker).parameters
    except (ValueError, KeyError, TypeError, RecursionError):
        return recipe
    defaults = {
        argument: _plain(parameter.default)
        for argument, parameter in known.items()
        if parameter.default is not parameter.empty
    }
    completed_arguments = {argument: _completed(value) for argument, value in arguments.items()}
    if kind == "builder":
        return {"builder": name, **defaults, **completed_arguments}
    return {"kind": kind, "name": name, "arguments": {**defaults, **completed_arguments}}


def _require_known(kind: str, name: Any) -> None:
    known = registered(kind)
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}; known: {', '.join(known)}. One of your own must be registered first: import the "
            "module that does so"
        )


def _completed(value: Any) -> Any:
    if isinstance(value, list):
        return [_completed(each) for each in value]
    return completed(value) if isinstance(value, dict) else value


def _built(value: Any) -> Any:
    """The value of a recipe's argument, with the parts and columns that it describes built."""
    if isinstance(value, list):
        return [_built(each) for each in value]
    if isinstance(value, dict) and value.keys() == {"column"}:
        return Column(*value["column"])
    return build(value) if isinstance(value, dict) else value


def _read(recipe: Any) -> tuple[str, Any, dict[str, Any]]:
    """The kind, name and arguments of a recipe; ValueError if it is invalid."""
    if isinstance(recipe, dict) and "builder" in recipe:
        return "builder", recipe["builder"], {k: v for k, v in recipe.items() if k != "builder"}
    if isinstance(recipe, dict) and "family" in recipe:  # as likelihoods were written before there was a register
        classes = {part.__name__: name for name, part in registered("likelihood").items()}
        named: Any = recipe["family"]
        arguments = {k: v for k, v in recipe.items() if k != "family"}
        return "likelihood", classes.get(named, named) if isinstance(named, str) else named, arguments
    if isinstance(recipe, dict) and recipe.keys() == {"kind", "name", "arguments"}:
        kind, arguments = recipe["kind"], recipe["arguments"]
        if isinstance(kind, str) and kind in KINDS and isinstance(arguments, dict):
            return kind, recipe["name"], arguments
    raise ValueError(f"unknown builder {recipe!r}: no recipe that a pair or a part could be built by"[:300])


def _note_arguments(made: Any, kind: str, name: str) -> None:
    """Make the instances of a class record the arguments of their constructor; a subclass does once registered."""
    original: Any = vars(made).get("__init__")
    if original is not None and hasattr(original, "_noting"):  # the same class, registered again
        original = original.__wrapped__
    inherited: Any = made.__init__
    signature = _signature(made)
    flags = flags_of(signature)

    @wraps(inherited if original is None else original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if kwargs and type(self) is made:
            checks.keywords(made.__init__, kwargs, made.__name__)
        require_flags(flags, args, kwargs)
        if type(self) is made:  # before the call, in which the constructor may note changes itself
            vars(self)["_made_by"] = _record(kind, name, signature, args, kwargs)
        if original is None:
            super(made, self).__init__(*args, **kwargs)
        else:
            original(self, *args, **kwargs)

    if inherited is nn.Module.__init__:  # its signature is (*args, **kwargs), although it refuses every argument
        only_self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        __init__.__signature__ = inspect.Signature([only_self])  # type: ignore[attr-defined]
    __init__._noting = True  # type: ignore[attr-defined]
    made.__init__ = __init__


def _noting_builder(builder: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The builder, wrapped so that its pairs record its arguments."""
    signature = _signature(builder)
    flags = flags_of(signature)

    @checks.allocating
    @wraps(builder)
    def build_pair(*args: Any, **kwargs: Any) -> Any:
        require_flags(flags, args, kwargs)
        if not isinstance(kwargs.get("likelihood"), str | nn.Module | None):
            kwargs["likelihood"] = _family_of(kwargs["likelihood"])
        with exclusive():  # weights come from torch's global generator, which another thread may be using
            pair = builder(*args, **kwargs)
        if not isinstance(pair, nn.Module):
            raise TypeError(f"builder {name!r} must give a torch.nn.Module, and gave a {type(pair).__name__}")
        record = _record("builder", name, signature, args, kwargs)
        changed = vars(pair).get("_noted", {})
        vars(pair)["_noted"] = {k: v for k, v in changed.items() if record is not None and k in record["arguments"]}
        vars(pair)["_made_by"] = record
        return pair

    return build_pair


def _family_of(given: Any) -> Any:
    """A likelihood that is given as a distribution of torch, as a family of these; any other as it is."""
    from pyrovae.models.parts.from_distribution import FromDistribution, is_distribution  # which needs this register

    return FromDistribution(given) if is_distribution(given) else given


def _record(
    kind: str, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The kind, name and arguments in plain values; None for an invalid call, which raises its own error."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for argument, value in bound.arguments.items():
        if signature.parameters[argument].kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= {more: _plain(each) for more, each in value.items()}
        else:
            arguments[argument] = _plain(value)
    return {"kind": kind, "name": name, "arguments": arguments}


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy in Python's own types; the recipe of a registered part; for any other value, why it is not plain."""
    if depth > DEEPEST:
        return {"hindrance": "a list in lists without end"}
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Tensor) and value.ndim == 1:
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iubU":
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, Column):
        fields = [_plain(each) for each in (value.name, value.kind, value.categories)]
        hindrance = _hindrance(fields)
        return {"column": fields} if hindrance is None else {"hindrance": f"column {value.name!r} with {hindrance}"}
    if isinstance(value, nn.Module):
        try:
            return described(value)
        except NotDescribedError as error:
            return {"hindrance": f"a {type(value).__name__} ({error})"}
    if hasattr(value, "__index__") and not isinstance(value, Tensor | np.ndarray):
        return operator.index(value)
    return {"hindrance": f"a {type(value).__name__}, no plain value"}


DEEPEST = 50  # lists in lists


def _hindrance(value: Any) -> str | None:
    """Why a recorded argument is not a plain value; None if it is one."""
    if isinstance(value, list):
        return next((each for each in map(_hindrance, value) if each is not None), None)
    return value.get("hindrance") if isinstance(value, Mapping) else None


def _require_registrable(name: str, kind: str, made: Any) -> None:
    """Raise an error, with the reason, for an object that cannot be registered."""
    is_module = isinstance(made, type) and issubclass(made, nn.Module)
    if kind == "builder":
        if not is_module and not inspect.isfunction(made):
            raise TypeError(f"builder {name!r} must be a function or a class of torch.nn.Module, got {made!r}")
    elif not is_module:
        raise TypeError(f"{kind} {name!r} must be a class of torch.nn.Module, got {made!r}")
    signature = _signature(made)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    unnamed = [parameter.name for parameter in signature.parameters.values() if parameter.kind in by_place]
    if unnamed:
        raise ValueError(
            f"{kind} {name!r}: each argument of {made.__name__}{signature} must be one that can be given by name, and "
            f"{', '.join(unnamed)} cannot"
        )
    if kind == "builder":
        if "builder" in signature.parameters:
            raise ValueError(f"builder {name!r}: no argument of {made.__name__} may be called 'builder'")
        return
    contract = CONTRACTS[kind]
    try:
        signature.bind(*contract)
    except TypeError:
        raise ValueError(
            f"{kind} {name!r} is made as {made.__name__}({', '.join(contract)}) where a builder is given its name, and "
            f"its constructor takes {signature}: other arguments must have defaults"
        ) from None
    if kind == "likelihood" and not hasattr(made, "support"):
        raise ValueError(
            f"likelihood {name!r}: {made.__name__} must have a support, the constraint that an entry meets, such as "
            "support = torch.distributions.constraints.real in the class"
        )
    count: Any = CALLED_WITH.get(kind, getattr(made, "num_parameters", 1))
    if isinstance(count, property):  # it depends on the arguments, as the number of categories may
        return
    count = checks.whole(f"num_parameters of likelihood {name!r}", count, least=0 if kind == "prior" else 1)
    forward: Any = made.forward
    if forward is nn.Module.forward:
        raise ValueError(f"{kind} {name!r}: {made.__name__} has no forward, which gives its distribution")
    try:
        inspect.signature(forward).bind(*range(count + 1))
    except TypeError:
        taken = [one for one in inspect.signature(forward).parameters.values() if one.default is one.empty]
        hint = ""
        if kind == "likelihood":
            hint = "; num_parameters says how many an entry has"
            if len(taken) > 1:
                hint += f": set num_parameters = {len(taken) - 1} in the class"
        raise ValueError(
            f"{kind} {name!r}: forward of {made.__name__} must take {count} arguments beside self, and it takes "
            f"{inspect.signature(forward)}{hint}"
        ) from None


def _signature(made: Any) -> inspect.Signature:
    """The signature of a class or function; empty for a class that inherits the constructor of torch's Module."""
    return inspect.Signature() if getattr(made, "__init__", None) is nn.Module.__init__ else inspect.signature(made)


def _is_written_anew(taken: Any, made: Any) -> bool:
    """Whether both are the same object of one module, or of one file that was run under two module names."""
    if _qualified(taken) == _qualified(made):
        return True
    files = [_file_of(each) for each in (taken, made)]
    return taken.__qualname__ == made.__qualname__ and files[0] == files[1] and files[0] is not None


def _file_of(made: Any) -> str | None:
    """The file of the module that an object was defined in; None where there is none."""
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    return None if file is None else os.path.realpath(file)


def _qualified(made: Any) -> str:
    return f"{made.__module__}.{made.__qualname__}"


def table() -> str:
    """The package's registered parts as a Markdown table, the one in `docs/parts.md`."""
    lines = ["| kind | name | class | what it is | arguments |", "|---|---|---|---|---|"]
    for kind, contract in CONTRACTS.items():
        for name, part in registered(kind).items():
            if not part.__module__.startswith("pyrovae."):
                continue  # registered by a user
            options = list(_signature(part).parameters.values())[len(contract) :]
            arguments = ", ".join(f"`{each.replace(annotation=inspect.Parameter.empty)}`" for each in options)
            summary = str(inspect.getdoc(part)).partition("\n")[0].replace("|", r"\|")
            lines.append(f'| {kind} | `"{name}"` | `{part.__name__}` | {summary} | {arguments or "none"} |')
    return "\n".join(lines)
