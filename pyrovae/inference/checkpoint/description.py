"""What a manifest says of a pair: its class, shapes, structure, and the recipe from which it can be built again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.inference.checkpoint.building import Extent, sketched_pair
from pyrovae.inference.checkpoint.manifest import FORMAT_VERSION, CheckpointError, join_first
from pyrovae.inference.checkpoint.tensors import dtype_names, shape_names, state_dict_of
from pyrovae.models import registry
from pyrovae.models.fingerprint import compared, differing, digests, has_users_parts
from pyrovae.models.outline import tree
from pyrovae.models.pair import Pair, as_module, dtype_and_device

__all__ = ["Rebuilt", "architecture", "describe", "tied_names"]


class Rebuilt:
    """What came out otherwise when a pair was built by its recipe, kept while nothing changes that it follows from.

    To build is half of what the state of a small pair costs, and a run writes many of one pair.
    """

    def __init__(self) -> None:
        self._key: Any = None
        self._otherwise: list[str] | None = None

    def otherwise(self, module: nn.Module, recipe: dict[str, Any]) -> list[str] | None:
        """The names of what a recipe builds otherwise than this module, buffers apart; None where a part is another.

        Raises CheckpointError for a recipe that does not build.
        """
        extent = Extent.of({name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)})
        key = (recipe, extent, _dtype_of(module), _traits(module), compared(module))
        if self._key is None or key != self._key:
            self._key, self._otherwise = None, _otherwise(module, recipe, extent)
            self._key = key
        return self._otherwise


def describe(pair: Pair, rebuilt: Rebuilt | None = None) -> dict[str, Any]:
    """The fields of a manifest that follow from the pair. Raises TypeError where its state has more than tensors."""
    from pyrovae import __version__

    recipe, by_hand = _recipe(pair, Rebuilt() if rebuilt is None else rebuilt)
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


def _recipe(pair: Pair, rebuilt: Rebuilt) -> tuple[dict[str, Any] | None, str | None]:
    """The builder and its arguments as JSON has them; else None, and why they would not build this very pair."""
    module = as_module(pair)
    try:
        recipe = json.loads(json.dumps(registry.described(pair)))
        names = rebuilt.otherwise(module, recipe)
    except (TypeError, CheckpointError) as error:
        return None, str(error)
    if names is None:
        return None, "a part was changed, or two were tied, after it was built"
    names = names + _changed_buffers(module)
    if names:
        return None, (
            f"a part was changed after it was built, or its constructor draws: {join_first(names)} is not in the "
            "weights, and is not what the constructor makes"
        )
    return recipe, None


def _otherwise(module: nn.Module, recipe: dict[str, Any], extent: Extent) -> list[str] | None:
    # what a user's part keeps beside its state is compared by its values, which a sketch does not have
    other = as_module(sketched_pair(recipe, Path(), extent, in_full=has_users_parts(module)))
    if _traits(other) != _traits(module):
        return None
    return differing(module, other.to(_dtype_of(module)))


def _dtype_of(module: nn.Module) -> torch.dtype:
    return dtype_and_device(module)[0]


def _traits(module: nn.Module) -> tuple[list[type[nn.Module]], str, dict[str, str]]:
    return [type(part) for part in module.modules()], tree(module), tied_names(module)


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
