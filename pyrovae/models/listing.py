"""A module's parameters in Pyro's parameter store, under names that no other module of this process has."""

from __future__ import annotations

from itertools import count
from typing import Any

import pyro
from pyro.poutine.runtime import am_i_wrapped
from torch import nn

from pyrovae.models.registry import recipe_of
from pyrovae.models.scopes import is_listing

__all__ = ["Listed", "list_parameters", "unique_name"]

_serial = count(1)


class Listed(nn.Module):
    """A module whose parameters Pyro's store knows by names that no other module of this process has."""

    def __init__(self) -> None:
        super().__init__()
        self._site = unique_name(type(self).__name__)

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The builder's name and the arguments that it was given; None where the parts were composed by hand."""
        return recipe_of(self)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store leaves a weak reference on what it lists: no pickle has it
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._site = unique_name(type(self).__name__)  # a copy is another model: its parameters get sites of their own


def list_parameters(name: str, module: nn.Module) -> None:
    """List the module's parameters as Pyro's param sites, so that Pyro's own SVI finds and trains them.

    The module stays their owner. The parameter store is global and keyed by name: an entry that is another tensor (of
    a deleted model, or a loaded store) is replaced, or the optimiser would train that one.
    """
    if not am_i_wrapped() or not is_listing():
        return
    store = pyro.get_param_store()
    for path, parameter in module.named_parameters():
        if not parameter.requires_grad or not isinstance(parameter, nn.Parameter):
            continue
        if not parameter.is_contiguous():
            raise ValueError(
                f"parameter {path!r} is not contiguous (channels_last?) and Pyro's store would train a copy of it; "
                "keep the weights contiguous: the networks convert what flows through them"
            )
        site = f"{name}.{path}"
        if site in store and store[site].unconstrained() is not parameter:
            del store[site]
        pyro.param(site, parameter)


def unique_name(kind: str) -> str:
    """A name for one module's param sites that no other module of this process has."""
    return f"{kind}{next(_serial)}"
