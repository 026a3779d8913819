"""What a manifest says of a pair: its class, shapes, structure, and the recipe from which it can be built again."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.checks.allocation import CHEAP
from pyrovae.exclusive import exclusive
from pyrovae.inference.allocation import AtMost
from pyrovae.inference.checkpoint.manifest import FORMAT_VERSION, MANIFEST, MOST_TENSORS, CheckpointError, join_first
from pyrovae.inference.checkpoint.tensors import dtype_names, shape_names, state_dict_of
from pyrovae.models import registry
from pyrovae.models.fingerprint import differing, digests, has_users_parts
from pyrovae.models.outline import tree
from pyrovae.models.pair import Pair, as_module, dtype_and_device

__all__ = ["architecture", "built_pair", "describe", "sketched_pair", "tied_names"]


def describe(pair: Pair) -> dict[str, Any]:
    """The fields of a manifest that follow from the pair. Raises TypeError where its state has more than tensors."""
    from pyrovae import __version__

    recipe, by_hand = _recipe(pair)
    return {
        "format": "pyrovae",
        "format_version": FORMAT_VERSION,
        "recipe": recipe,
        "by_hand": by_hand,
        "attributes": digests(as_module(pair)),
        "dtype": str(dtype_and_device(pair)[0]).removeprefix("torch."),
        "dtypes": dtype_names(state_dict_of(pair)),
        **architecture(pair),
        "classes": pair.names.tolist() if getattr(pair, "names_are_given", False) else None,  # type: ignore[attr-defined]
        "structure": {str(i): line.strip() for i, line in enumerate(tree(as_module(pair)).splitlines())},
        "versions": {"pyrovae": __version__, "torch": torch.__version__},
    }


def architecture(pair: Pair) -> dict[str, Any]:
    """What a pair and the tensors of a saved state must agree on for the one to take the other."""
    return {
        "class": type(pair).__name__,
        "event_shape": [int(size) for size in pair.event_shape],
        "latent_dim": int(pair.latent_dim),
        "tensors": shape_names(state_dict_of(pair)),
        "tied": tied_names(pair),
    }


def tied_names(pair: Any) -> dict[str, str]:
    """The further names of a tensor that is in the state more than once, each with the tensor's first name."""
    tied: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, tensor in as_module(pair).state_dict(keep_vars=True).items():
        if id(tensor) in first_name:
            tied[name] = first_name[id(tensor)]
        else:
            first_name[id(tensor)] = name
    return tied


def sketched_pair(
    recipe: Any, folder: Path, size: int, num_tensors: int = MOST_TENSORS, *, in_full: bool = False
) -> Pair:
    """The pair of a recipe, to be looked at: without memory where its parts can be made so, else within bounds.

    `size` is the number of bytes of its weights; building it may take a multiple of that. With `in_full` its tensors
    have values. Raises CheckpointError where the recipe does not build.
    """
    if not in_full:
        # the constructor of a part may need values, which no tensor on this device has
        with suppress(CheckpointError), torch.device("meta"):
            return built_pair(recipe, folder, num_tensors)
    with AtMost(CHEAP + 8 * size):
        return built_pair(recipe, folder, num_tensors)


def built_pair(recipe: Any, folder: Path, num_tensors: int = MOST_TENSORS) -> Pair:
    """Build the pair of a recipe that has so many tensors: a list of a million layers is not built to be counted."""
    num_entries = _num_entries(recipe)
    if num_entries > 100 + 2 * num_tensors:
        raise CheckpointError(
            f"{folder / MANIFEST}: the recipe does not build: {num_entries:,} entries are too many for {num_tensors:,} "
            "tensors"
        )
    if not isinstance(recipe, dict) or "builder" not in recipe:
        raise CheckpointError(f"{folder / MANIFEST}: unknown builder {recipe!r}"[:300])
    try:
        with exclusive(), torch.random.fork_rng([]):
            pair: Pair = registry.build(recipe)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: the recipe does not build: {error}") from error
    return pair


def _recipe(pair: Pair) -> tuple[dict[str, Any] | None, str | None]:
    """The builder and its arguments as JSON has them; else None, and why they would not build this very pair."""
    module = as_module(pair)
    try:
        recipe = json.loads(json.dumps(registry.described(pair)))
        size = sum(t.nbytes for t in module.state_dict().values() if isinstance(t, Tensor))
        # what a user's part keeps beside its state is compared by its values, which a sketch does not have
        rebuilt = as_module(sketched_pair(recipe, Path(), size, in_full=has_users_parts(module)))
    except (TypeError, CheckpointError) as error:
        return None, str(error)
    part_types = [type(part) for part in module.modules()]
    is_alike = (
        [type(part) for part in rebuilt.modules()] == part_types
        and tree(rebuilt) == tree(module)
        and tied_names(rebuilt) == tied_names(module)
    )
    if not is_alike:
        return None, "a part was changed, or two were tied, after it was built"
    names = differing(module, rebuilt.to(dtype_and_device(pair)[0])) + _changed_buffers(module)
    if names:
        return None, (
            f"a part was changed after it was built, or its constructor draws: {join_first(names)} is not in the "
            "weights, and is not what the constructor makes"
        )
    return recipe, None


def _changed_buffers(module: nn.Module) -> list[str]:
    """The buffers outside of the state that a registered part of ours would not be built with."""
    names = []
    for path, part in module.named_modules():
        buffers = part._non_persistent_buffers_set
        if not path or not buffers or not type(part).__module__.startswith("pyrovae."):
            continue
        recipe = registry.recipe_of(part)
        if recipe is None:
            continue
        fresh = dict(registry.build(recipe).named_buffers())
        for name in sorted(buffers):
            buffer = part._buffers[name]
            if buffer is None or not torch.equal(buffer.cpu(), fresh[name].to(buffer.dtype)):
                names.append(f"{path}.{name}")
    return names


def _num_entries(recipe: Any) -> int:
    """How many numbers and words there are in a recipe."""
    rest = [recipe]
    count = 0
    while rest:
        value = rest.pop()
        if isinstance(value, dict | list):
            rest += value.values() if isinstance(value, dict) else value
        else:
            count += 1
    return count
