"""A copy of a pair that nobody trains, to stand inside a Pyro model of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.nn.module import PyroModule
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyrovae.models.pair import (
    as_module,
    covariate_dim_of,
    dtype_and_device,
    has_global_latents,
    is_frozen,
    takes_labels,
)
from pyrovae.models.scopes import Workspace, copied, isolated_store
from pyrovae.models.trial import unchanged
from pyrovae.seeding import Noise

__all__ = ["frozen"]

P = TypeVar("P")


def frozen(pair: P) -> P:
    """A copy of a pair whose parameters are buffers, in evaluation mode for good: `vae.frozen()`.

    Inside a Pyro model of your own no SVI finds a parameter of it to train, no gradient reaches its weights, and
    `train()`, its own or that of a module that holds it, leaves dropout and batch normalisation as they are in
    evaluation. Gradients flow through codes and items as before. It is the same density, under the same names in its
    state; it moves and casts by `.to`, `.double()`; and it can be pickled, for chains in processes of their own. `fit`
    refuses it; the estimators take it. A copy of it is frozen too.

    Raises TypeError for what is no pair. Raises ValueError for a pair whose latents are its parameters, for a
    classifier, for layers that have no size yet, and for a part whose weights are kept where no copy can hold them, as
    by a `pyro.param` in a forward of one's own or by a function that closes over a network.

    >>> import torch
    >>> from pyrovae import mlp_vae
    >>> vae = mlp_vae((3,)).frozen()
    >>> list(vae.parameters()), vae.train().training
    ([], False)
    >>> z = torch.zeros(2, requires_grad=True)
    >>> vae.decode(z).sum().backward()
    >>> z.grad.shape
    torch.Size([2])
    """
    module = as_module(pair)
    kind = type(pair).__name__
    if has_global_latents(pair) or takes_labels(pair):
        raise ValueError(
            f"frozen() is for densities of items whose parameters are numbers, and a {kind} "
            + ("has a distribution over its parameters" if has_global_latents(pair) else "is a classifier")
        )
    if is_frozen(pair):
        return copied(pair)
    unsized = [name for name, tensor in _tensors(module) if is_lazy(tensor)]
    if unsized:
        raise ValueError(f"{unsized[0]} of the pair has no size yet: call the pair once on items, and freeze it then")
    first = next((name for name, _ in module.named_parameters()), None)
    still: Any = copied(pair)
    _turn_into_buffers(still)
    still.eval()
    for part in _modules(still):
        vars(part)["train"] = _StaysInEvaluation(part)
    vars(still)["_frozen"] = first or ""
    _require_still(still)
    return still


class _StaysInEvaluation:
    """In place of a module's `train`: it changes nothing."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.part


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    """All modules in a pair, those in plain lists, tuples and dictionaries of a part included."""
    rest: list[Any] = [module]
    seen: set[int] = set()
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
            kept = vars(value)
            rest += list(kept["_modules"].values())
            rest += [each for name, each in kept.items() if not name.startswith("_modules")]
        elif isinstance(value, list | tuple | set):
            rest += list(value)
        elif isinstance(value, dict):
            rest += list(value.values())


def _turn_into_buffers(module: nn.Module) -> None:
    """Put a buffer in the place of each parameter; a tensor that is tied to another stays so."""
    buffers: dict[int, Tensor] = {}

    def buffer_of(tensor: Tensor) -> Tensor:
        if id(tensor) not in buffers:
            buffers[id(tensor)] = tensor.detach()
            kept[id(tensor)] = tensor  # its identity must not go to another
        return buffers[id(tensor)]

    kept: dict[int, Tensor] = {}
    for part in list(_modules(module)):
        _settle(part)
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                del part._parameters[name]
                part.register_buffer(name, buffer_of(parameter))
        for name, buffer in part._buffers.items():
            if buffer is not None and (buffer.requires_grad or id(buffer) in buffers):
                part._buffers[name] = buffer_of(buffer)
    for part in list(_modules(module)):  # a second reference to a parameter, as recurrent layers have
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                vars(part)[name] = _replaced(value, buffer_of)


def _replaced(value: Any, buffer_of: Any) -> Any:
    """The same value, with a tensor of its own in place of each that takes gradients."""
    if isinstance(value, Tensor):
        return buffer_of(value) if value.requires_grad else value
    if type(value) is list or type(value) is tuple:
        return type(value)(_replaced(each, buffer_of) for each in value)
    if type(value) is dict:
        return {key: _replaced(each, buffer_of) for key, each in value.items()}
    return value


def _settle(part: nn.Module) -> None:
    """Put its value in the place of each constrained parameter of a module of Pyro's."""
    if not isinstance(part, PyroModule):
        return
    for name in list(part._pyro_params):
        with isolated_store():
            value = getattr(part, name).detach().clone()
        delattr(part, name)
        part.register_buffer(name, value)


def _require_still(pair: Any) -> None:
    """Refuse a copy that still has something to train: in Pyro's store, or where no module holds it."""
    noise = Noise(0, dtype_and_device(pair)[1])
    name = type(pair).__name__
    with Workspace(pair, noise=noise).turn(), unchanged(pair), torch.enable_grad():
        named: dict[str, Any] = {}
        if count := covariate_dim_of(pair):
            dtype, device = dtype_and_device(pair)
            named["covariates"] = torch.zeros(2, count, dtype=dtype, device=device)
        model = poutine.trace(pair.model).get_trace(size=2, **named)
        traces = {"model": model}
        x = model.nodes.get("obs", {}).get("value")
        if isinstance(x, Tensor):
            traces["guide"] = poutine.trace(pair.guide).get_trace(x.detach(), **named)
    for which, trace in traces.items():
        stored = [site for site, node in trace.nodes.items() if node["type"] == "param"]
        if stored:
            raise ValueError(
                f"the {which} of {name} has a pyro.param, {stored[0]!r}, which lives in Pyro's store and not in the "
                "pair, and cannot be frozen: make it an nn.Parameter of a module"
            )
        for site, node in prune_subsample_sites(trace).nodes.items():
            if node["type"] != "sample":
                continue
            score = None
            with suppress(NotImplementedError, KeyError), torch.enable_grad():
                score = node["fn"].log_prob(node["value"].detach())
            if isinstance(score, Tensor) and score.requires_grad:
                raise ValueError(
                    f"site {site!r} in the {which} of {name} has weights that take gradients and lie in no module of "
                    "the pair, as those of a network that a function closes over: make it a module of the pair"
                )
