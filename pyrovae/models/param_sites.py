"""Modules whose parameters are param sites of Pyro, under names that are unique in this process."""

from __future__ import annotations

from itertools import count
from typing import Any

import pyro
from pyro.poutine.runtime import am_i_wrapped
from torch import nn

from pyrovae.models.outline import HasOutline
from pyrovae.models.registry import recipe_of
from pyrovae.models.scopes import registers_param_sites

__all__ = ["HasParamSites", "register_param_sites", "unique_name"]

_serial = count(1)


class HasParamSites(HasOutline):
    """A module that registers its parameters in Pyro's store, under a prefix that no other module here has."""

    def __init__(self) -> None:
        super().__init__()
        self._site_prefix = unique_name(type(self).__name__)

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The builder's name and the arguments that it was given; None where the parts were composed by hand."""
        return recipe_of(self)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store sets a weak reference on each, which cannot be pickled
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # a copy is another model: its parameters get sites of their own
        self._site_prefix = unique_name(type(self).__name__)


def register_param_sites(prefix: str, module: nn.Module) -> None:
    """Register the module's parameters as param sites, `prefix.name`, so that Pyro's own SVI finds and trains them.

    The module stays the owner of its parameters. Pyro's store is global and keyed by name: an entry under the same name
    that is another tensor, as one of a deleted model or of a loaded store, is replaced, because the optimiser would
    train it in place of the module's. Nothing is registered outside of Pyro's handlers, nor during a fit or an
    evaluation, which use a private store. Raises ValueError for a parameter that is not contiguous.
    """
    if not am_i_wrapped() or not registers_param_sites():
        return
    store = pyro.get_param_store()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or not isinstance(parameter, nn.Parameter):
            continue
        if not parameter.is_contiguous():
            raise ValueError(
                f"parameter {name!r} is not contiguous (channels_last?) and Pyro's store would train a copy of it; "
                "keep the weights contiguous: the networks convert what flows through them"
            )
        site = f"{prefix}.{name}"
        if site in store and store[site].unconstrained() is not parameter:
            del store[site]
        pyro.param(site, parameter)


def unique_name(kind: str) -> str:
    """A prefix for the names of one module's param sites, which no other module of this process has."""
    return f"{kind}{next(_serial)}"
