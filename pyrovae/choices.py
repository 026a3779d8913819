"""Names, options and defaults that the command line shows before torch is imported: they are read from the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "Builder",
    "Option",
    "builders",
    "imported_builders",
    "imported_methods",
    "imported_names",
    "imported_svi_options",
    "imputations",
    "methods",
    "names",
    "svi_options",
]

PACKAGE = Path(__file__).parent
MODELS = PACKAGE / "models"
PARTS = MODELS / "parts"
INFERENCE = PACKAGE / "inference"
IMPUTATION = MODELS / "imputation"
RULES = PACKAGE / "compile" / "optimizers.py"
SVI = INFERENCE / "svi" / "options.py"


@dataclass(frozen=True)
class Option:
    """An option of a method, or an argument of a builder.

    Attributes:
        default: its default; None where there is none, or where the default is no plain value.
        words: the words that it may be, none where it is no word.
        annotation: its type, as the source has it.
        required: whether it has no default.
        text: what the docstring's "Args:" say of it, or nothing.
    """

    default: Any
    words: tuple[str, ...]
    annotation: str = dataclasses.field(default="", compare=False)
    required: bool = False
    text: str = dataclasses.field(default="", compare=False)


@dataclass(frozen=True)
class Builder:
    """A builder of pairs: its arguments by name, and the first line of its docstring."""

    arguments: dict[str, Option]
    summary: str = ""


def names(kind: str) -> list[str]:
    """The names under which parts or builders of this kind, or optimisers, are registered, sorted; nothing is imported.

    `kind` is "likelihood", "prior", "posterior", "builder", "optimizer" or "method"; `imported_names(kind)` has a
    user's own too.

    >>> from pyrovae.choices import names
    >>> "bernoulli" in names("likelihood"), "adamw" in names("optimizer"), "mlp_vae" in names("builder")
    (True, True, True)
    """
    if not SVI.is_file():
        return imported_names(kind)
    if kind == "optimizer":
        return sorted(_optimizers(_parsed(RULES)))
    if kind == "builder":
        return list(builders())
    if kind == "method":
        return list(methods())
    files = sorted(PARTS.glob("*.py"))
    return sorted(name for file in files for name, its_kind, _ in _registrations(file) if its_kind == kind)


def builders() -> dict[str, Builder]:
    """The registered builders of pairs by name, each with its arguments; nothing is imported.

    >>> from pyrovae.choices import builders
    >>> builders()["mlp_vae"].arguments["latent_dim"].default, builders()["GaussianMixture"].arguments["floor"].default
    (2, None)
    """
    if not SVI.is_file():
        return imported_builders()
    read = {
        name: Builder(_arguments(made), _first_line(made))
        for file in sorted(MODELS.rglob("*.py"))
        if file.parent != PARTS
        for name, kind, made in _registrations(file)
        if kind == "builder"
    }
    return dict(sorted(read.items()))


def methods() -> dict[str, dict[str, Option]]:
    """The methods of `fit` by name, each with its options; nothing is imported.

    >>> from pyrovae.choices import methods
    >>> sorted(methods()), methods()["em"]["num_restarts"].default
    (['closed_form', 'em', 'lbfgs', 'nuts', 'semi_supervised_svi', 'svi'], 10)
    """
    if not SVI.is_file():
        return imported_methods()
    read: dict[str, dict[str, Option]] = {}
    for file in sorted(INFERENCE.rglob("*.py")):
        for node in _parsed(file).body:
            constants = _class_constants(node) if isinstance(node, ast.ClassDef) else {}
            if isinstance(node, ast.ClassDef) and "name" in constants and constants.get("is_shown", True):
                # two classes of pairs may have a method of one name, each with options of its own
                read[constants["name"]] = {**read.get(constants["name"], {}), **_fields(node)}
    return dict(sorted(read.items()))


def imputations() -> list[str]:
    """The methods of `VAE.impute` by name, sorted; nothing is imported.

    >>> from pyrovae.choices import imputations
    >>> imputations()
    ['mcmc', 'nuts', 'sir']
    """
    if not SVI.is_file():
        from pyrovae.models.imputation import METHODS

        return sorted(METHODS)
    found = (
        _class_constants(node).get("name")
        for file in IMPUTATION.glob("*.py")
        for node in _parsed(file).body
        if isinstance(node, ast.ClassDef)
    )
    return sorted(name for name in found if name is not None)


def svi_options() -> dict[str, Option]:
    """The options of `pyrovae.methods.SVI` by name.

    >>> from pyrovae.choices import svi_options
    >>> svi_options()["epochs"].default, svi_options()["objective"].words
    (20, ('elbo', 'iwae'))
    """
    return methods()["svi"]


def imported_names(kind: str) -> list[str]:
    """The same as `names`, from the registers themselves: a user's own too, and what a package without source has."""
    if kind == "optimizer":
        from pyrovae.compile.optimizers import kinds_by_name

        return sorted(kinds_by_name())
    if kind == "method":
        return list(imported_methods())
    from pyrovae.models.registry import registered

    return list(registered(kind))


def imported_builders() -> dict[str, Builder]:
    """The same as `builders`, from the register itself."""
    from pyrovae.models.registry import registered

    made = {}
    for name, builder in registered("builder").items():
        arguments = {}
        for argument, parameter in inspect.signature(builder).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            annotation = "" if parameter.annotation is parameter.empty else _in_words(parameter.annotation)
            required = parameter.default is parameter.empty
            arguments[argument] = Option(
                _plain_default(None if required else parameter.default),
                _literal_words(_expression(annotation)),
                annotation,
                required,
            )
        made[name] = Builder(arguments, str(inspect.getdoc(builder) or "").partition("\n")[0])
    return made


def imported_methods() -> dict[str, dict[str, Option]]:
    """The same as `methods`, from the classes themselves."""
    import pyrovae.inference.training  # noqa: F401  # which brings all of them
    from pyrovae.inference.method import every_method

    made: dict[str, dict[str, Option]] = {}
    for method in every_method():
        if method.is_shown:
            made[method.name] = {**made.get(method.name, {}), **_imported_fields(type(method))}
    return dict(sorted(made.items()))


def imported_svi_options() -> dict[str, Option]:
    """The same as `svi_options`, from the class itself."""
    from pyrovae import methods as classes

    return _imported_fields(classes.SVI)


def _imported_fields(kind: Any) -> dict[str, Option]:
    options = {}
    for field in dataclasses.fields(kind):
        annotation = _in_words(field.type)
        options[field.name] = Option(field.default, _literal_words(_expression(annotation)), annotation)
    return options


def _in_words(annotation: Any) -> str:
    """A type as the source has it, whether annotations are kept as text or as objects."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _expression(annotation: str) -> ast.expr:
    try:
        return ast.parse(annotation, mode="eval").body
    except SyntaxError:  # of a class that has no name in the source
        return ast.Constant(None)


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _registrations(file: Path) -> Iterator[tuple[str, str, ast.AST]]:
    """Name, kind and definition of each `@register(name, kind=kind)` in a file."""
    for node in _parsed(file).body:
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                kind = next(keyword.value for keyword in call.keywords if keyword.arg == "kind")
                yield ast.literal_eval(call.args[0]), ast.literal_eval(kind), node


def _arguments(made: Any) -> dict[str, Option]:
    """The arguments of a function, or of a class's constructor without its `self`."""
    function = made
    if isinstance(made, ast.ClassDef):
        bodies = [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not bodies:
            return {}
        function = bodies[0]
    by_place = function.args.args[isinstance(made, ast.ClassDef) :]
    missing = len(by_place) - len(function.args.defaults)
    pairs = [*zip(by_place, [None] * max(0, missing) + function.args.defaults, strict=True)]
    pairs += [*zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)]
    return {argument.arg: _option(argument.annotation, default) for argument, default in pairs}


def _fields(kind: ast.ClassDef) -> dict[str, Option]:
    """The fields of a dataclass, but for those of the class."""
    texts = _texts(ast.get_docstring(kind) or "")
    options = {}
    for field in kind.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or field.value is None:
            continue
        if "ClassVar" not in ast.unparse(field.annotation):
            name = field.target.id
            options[name] = dataclasses.replace(_option(field.annotation, field.value), text=texts.get(name, ""))
    return options


def _class_constants(kind: ast.ClassDef) -> dict[str, Any]:
    """The ClassVars of a class whose values are constants."""
    constants: dict[str, Any] = {}
    for field in kind.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(field.annotation) and isinstance(field.value, ast.Constant):
            constants[field.target.id] = field.value.value
    return constants


def _option(annotation: ast.expr | None, default: ast.expr | None) -> Option:
    words = () if annotation is None else _literal_words(annotation)
    text = "" if annotation is None else ast.unparse(annotation)
    return Option(None if default is None else _default(default), words, text, default is None)


def _texts(documentation: str) -> dict[str, str]:
    """What each entry under "Args:" says, in one line."""
    texts: dict[str, str] = {}
    name = ""
    for line in documentation.partition("Args:\n")[2].splitlines():
        if not line.strip():
            break
        head, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon and head.isidentifier():
            name = head
            texts[name] = rest
        elif name:
            texts[name] += f" {line.strip()}"
    return texts


def _first_line(made: Any) -> str:
    return (ast.get_docstring(made) or "").partition("\n")[0]


def _optimizers(module: ast.Module) -> Iterator[str]:
    """The name of the class that each rule is for: `optimizer_class = torch.optim.Adam` in a class is "adam"."""
    for rule in module.body:
        for field in rule.body if isinstance(rule, ast.ClassDef) else []:
            targets = field.targets if isinstance(field, ast.Assign) else [getattr(field, "target", None)]
            is_stated = any(isinstance(target, ast.Name) and target.id == "optimizer_class" for target in targets)
            if is_stated and isinstance(value := getattr(field, "value", None), ast.Attribute):
                yield value.attr.lower()


def _default(value: ast.expr) -> Any:
    """A plain value, or the one that a call wraps, as `DefaultRate(1e-3)` does."""
    if isinstance(value, ast.Call) and value.args:
        value = value.args[0]
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _plain_default(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float | tuple | list) else None


def _literal_words(annotation: ast.expr) -> tuple[str, ...]:
    """The words of each `Literal[...]` in an annotation."""
    words: list[str] = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            chosen = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            words += [ast.literal_eval(each) for each in chosen]
    return tuple(words)
