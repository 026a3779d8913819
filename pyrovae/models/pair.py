"""What a model/guide pair is, and the one primitive all its evaluation rests on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks

__all__ = [
    "Pair",
    "Particles",
    "as_module",
    "checked_items",
    "dtype_and_device",
    "evaluating",
    "isolated_store",
    "kept_modes",
    "list_parameters",
    "particles",
    "settings",
    "unique_name",
    "validation",
]

_serial = count(1)
_listing: ContextVar[bool] = ContextVar("listing", default=True)


@runtime_checkable
class Pair(Protocol):
    """A Pyro model and its guide over items of `event_shape`, with plate "data" and observed site "obs"."""

    event_shape: tuple[int, ...]
    latent_dim: int
    is_normalized: bool  # False: the model has no p(x), and evaluation says so

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def guide(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@dataclass(frozen=True)
class Particles:
    """K draws of the code for each of N items: three tables of shape (K, N), in nats."""

    log_likelihood: Tensor  # log p(x | z)
    log_prior: Tensor  # log p(z)
    log_guide: Tensor  # log q(z | x)

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x): its mean over K is an ELBO, its log-mean-exp an importance-weighted bound."""
        return self.log_likelihood + self.log_prior - self.log_guide


def particles(pair: Pair, x: Tensor, num_particles: int) -> Particles:
    """Draw `num_particles` codes an item from the guide and score them, under plate "particles" at dim -2.

    Noise comes from torch's global generator; gradients flow through reparameterised sites. Any pair will do whose
    sites all lie in one plate "data"; ValueError for another.
    """

    def replicated(fn: Any) -> Any:
        def run() -> Any:
            with pyro.plate("particles", num_particles, dim=-2):
                return fn(x)

        return run

    guide = poutine.trace(replicated(pair.guide)).get_trace()
    model = poutine.trace(poutine.replay(replicated(pair.model), trace=guide)).get_trace()
    guide, model = prune_subsample_sites(guide), prune_subsample_sites(model)
    guide.compute_log_prob()
    model.compute_log_prob()
    shape = (num_particles, len(x))

    def total(trace: poutine.Trace, observed: bool) -> Tensor:
        value = x.new_zeros(shape)
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"] != observed:
                continue
            if not any(frame.name == "data" for frame in site["cond_indep_stack"]):
                raise ValueError(f"site {name!r} lies outside the plate 'data': it belongs to no item of its own")
            value = value + site["log_prob"]
        return value

    return Particles(total(model, True), total(model, False), total(guide, False))


def list_parameters(name: str, module: nn.Module) -> None:
    """List the module's parameters as Pyro's param sites, so that Pyro's own SVI finds and trains them.

    The module stays their owner. The parameter store is global and keyed by name: an entry that is another tensor (of
    a deleted model, or a loaded store) is replaced, or the optimiser would train that one.
    """
    if not am_i_wrapped() or not _listing.get():
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


def settings(module: nn.Module) -> str:
    """What a module's parts were told and their repr and tensors may not show: plain numbers, words, lists of these.

    The outermost module's own attributes are left out: whose name or notes it bears is no part of its density.
    """
    parts = [(name, part) for name, part in module.named_modules() if name]
    told = [(name, sorted((k, _plain(v)) for k, v in vars(part).items() if k != "training")) for name, part in parts]
    return repr([(name, [(k, v) for k, v in rows if v is not None and k[0] != "_"]) for name, rows in told])


def _plain(value: Any) -> str | None:
    """A setting in words that are the same in every process; None for what is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray) and value.dtype != object:
        return repr(torch.as_tensor(value).detach().cpu().tolist())
    if isinstance(value, tuple | list):
        each = [_plain(v) for v in value]
        return None if None in each else f"[{', '.join(map(str, each))}]"
    return None


@contextmanager
def isolated_store() -> Iterator[None]:
    """Give the body a parameter store of its own, and list no module's parameters in it; the caller's is untouched."""
    token = _listing.set(False)  # who holds the module needs no param sites, which cost a tenth of a small step
    try:
        with pyro.get_param_store().scope():
            yield
    finally:
        _listing.reset(token)


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """Turn the checks of Pyro and of torch's distributions on or off for the body."""
    before = torch.distributions.Distribution._validate_args  # Pyro puts back its own flag, and torch's to the same
    try:
        with pyro.validation_enabled(on):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


@contextmanager
def kept_modes(*parts: nn.Module) -> Iterator[None]:
    """Each module's own training mode back after the body."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(*parts: nn.Module) -> Iterator[None]:
    """Dropout and the like off for the body, and no gradients."""
    with kept_modes(*parts), torch.no_grad():
        for part in parts:
            part.eval()
        yield


def as_module(pair: Any) -> nn.Module:
    """The pair as the module that it must be, to be moved, trained and saved."""
    if not isinstance(pair, nn.Module) or not isinstance(pair, Pair):
        raise TypeError(
            "pair must be a torch.nn.Module with model, guide, event_shape, latent_dim and is_normalized, such as a "
            f"VAE; got {type(pair).__name__}"
        )
    return pair


def checked_items(
    pair: Any,
    x: Any,
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    first: int = 0,
    support: constraints.Constraint | None = None,
) -> Tensor:
    """Items that have a density under the pair, in `dtype` (its own where None): shape, finiteness and support.

    `support` takes the place of the likelihood's own, where the items are to be binarised first.
    """
    dtype = dtype or dtype_and_device(pair)[0]
    tensor = checks.items(x, tuple(pair.event_shape), name=name, dtype=dtype, missing=missing, first=first)
    likelihood = getattr(pair, "likelihood", None)
    allowed = support or getattr(likelihood, "support", None)
    if allowed is not None:
        checks.support(tensor, allowed, type(getattr(likelihood, "family", likelihood)).__name__, name=name)
    return tensor


def dtype_and_device(pair: Any) -> tuple[torch.dtype, torch.device]:
    """Those of the pair's first parameter."""
    first = next(iter(pair.named_parameters()), None)
    if first is None:
        raise ValueError(f"{type(pair).__name__} has no parameters")
    return first[1].dtype, first[1].device
