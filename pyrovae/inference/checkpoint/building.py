"""Building the pair of a recipe that others may have written: in no more memory and time than its tensors call for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as hooks

from pyrovae.checks.allocation import CHEAP
from pyrovae.exclusive import exclusive
from pyrovae.inference.allocation import AtMost
from pyrovae.inference.checkpoint.manifest import MANIFEST, CheckpointError
from pyrovae.models import registry
from pyrovae.models.pair import Pair
from pyrovae.models.part_names import name_and_arguments

__all__ = ["Extent", "built_pair", "sketched_pair"]

FEW = 1_000  # modules and words that any recipe may have
LARGE = 10**5  # a smaller number does no harm, whatever it stands for
LONG = 10**5  # characters of a name, or of a category
CLASSES = "classes"  # whose names may be large numbers, as those of taxa, and are no sizes
COUNT = "num_"  # what the names of a likelihood's sizes begin with: its other numbers may be large, as a scale


class _TooMuchError(ValueError):
    """A recipe would build more than its tensors call for."""


@dataclass(frozen=True)
class Extent:
    """How much there is of a pair: tensors, values in all of them, and bytes."""

    tensors: int
    values: int
    size: int

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Extent:
        """That of named tensors, or of the entries of a file."""
        values = sum(prod(tensor.shape) for tensor in tensors.values())
        size = sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())
        return cls(len(tensors), values, size)


def sketched_pair(recipe: Any, folder: Path, extent: Extent, *, in_full: bool = False) -> Pair:
    """The pair of a recipe, to be looked at: without memory where its parts can be made so, else within bounds.

    Building it may take a multiple of its weights. With `in_full` its tensors have values. Raises CheckpointError where
    the recipe does not build, or would build more than a pair of that extent.
    """
    if not in_full:
        # the constructor of a part may need values, which no tensor on this device has
        try:
            with torch.device("meta"):
                return built_pair(recipe, folder, extent)
        except CheckpointError as error:
            if isinstance(error.__cause__, _TooMuchError):
                raise
    with AtMost(CHEAP + 8 * extent.size):
        return built_pair(recipe, folder, extent)


def built_pair(recipe: Any, folder: Path, extent: Extent) -> Pair:
    """Build the pair of a recipe, as long as it has no more parts than one of that extent may have."""
    if not isinstance(recipe, dict) or "builder" not in recipe:
        raise CheckpointError(f"{folder / MANIFEST}: unknown builder {recipe!r}"[:300])
    try:
        _refuse_too_much(recipe, extent)
        with exclusive(), torch.random.fork_rng([]), _counted(extent):
            pair: Pair = registry.build(recipe)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: the recipe does not build: {str(error)[:2000]}") from error
    return pair


def _refuse_too_much(recipe: dict[str, Any], extent: Extent) -> None:
    """Refuse a recipe by its length and its numbers: a list of a million layers is not built to be counted."""
    num_numbers = num_words = 0
    rest: list[tuple[Any, bool]] = [(recipe, True)]  # and whether it is a size where it is a whole number
    while rest:
        value, is_size = rest.pop()
        _refuse_long([value])
        if isinstance(value, str) and "(" in value:  # a part's name with its arguments
            with suppress(ValueError, TypeError):
                value = name_and_arguments("part", value)[1]
        if (categories := _categories(value)) is not None:
            num_words += 2 + len(categories)  # which may be large numbers, as postal codes, and are no sizes
            _refuse_long(categories)
        elif isinstance(value, dict):
            is_size = is_size and value.get("kind") != "likelihood"
            for name, each in value.items():
                if name == CLASSES and isinstance(each, list) and not any(isinstance(one, list | dict) for one in each):
                    num_words += len(each)
                    _refuse_long(each)
                    continue
                rest.append((each, (is_size and name != "likelihood") or str(name).startswith(COUNT)))
        elif isinstance(value, list | tuple):
            rest += [(each, is_size) for each in value]
        elif isinstance(value, str) or value is None:
            num_words += 1
        else:
            num_numbers += 1
            if is_size and type(value) is int and value > max(LARGE, extent.values):
                raise _TooMuchError(
                    f"{str(value)[:20]} is too large for a pair whose tensors have {extent.values:,} values"
                )
    if num_numbers > 100 + 2 * extent.tensors:
        raise _TooMuchError(f"{num_numbers:,} numbers are too many entries for {extent.tensors:,} tensors")
    if num_words > FEW + 4 * extent.values:
        raise _TooMuchError(f"{num_words:,} words are too many entries for {extent.values:,} values")


def _refuse_long(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str) and len(value) > LONG:
            raise _TooMuchError(f"{value[:20]!r}... has {len(value):,} characters, and a word at most {LONG:,}")


def _categories(value: Any) -> list[Any] | None:
    """The categories of a column that states them one by one; None for anything else."""
    if not isinstance(value, dict) or value.keys() != {"column"} or not isinstance(value["column"], list):
        return None
    categories = value["column"][-1] if len(value["column"]) == 3 else None
    return categories if isinstance(categories, list) else None


@contextmanager
def _counted(extent: Extent) -> Iterator[None]:
    """Stop the body where it makes many more parameters and modules than a pair of that extent has."""
    most = {"parameters and buffers": 100 + 2 * extent.tensors, "modules": FEW + 4 * extent.tensors}
    made = dict.fromkeys(most, 0)
    mine = threading.get_ident()

    def count(kind: str) -> None:
        if threading.get_ident() != mine:  # the hooks are of the whole process
            return
        made[kind] += 1
        if made[kind] > most[kind]:
            raise _TooMuchError(f"it has more {kind} than {extent.tensors:,} tensors are of")

    handles = [
        hooks.register_module_parameter_registration_hook(lambda *_: count("parameters and buffers")),
        hooks.register_module_buffer_registration_hook(lambda *_: count("parameters and buffers")),
        hooks.register_module_module_registration_hook(lambda *_: count("modules")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
