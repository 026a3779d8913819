"""Whether a prior, a likelihood and a posterior fit each other, by one look at each as a pair is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyrovae import checks
from pyrovae.models.scopes import Workspace
from pyrovae.models.trial import unchanged
from pyrovae.seeding import Noise

__all__ = ["require_fitting"]

ITEMS = 2
UNTOLD = (NotImplementedError, torch.linalg.LinAlgError, torch.cuda.OutOfMemoryError)  # of the zeros, not of the parts


def require_fitting(prior: Any, likelihood: Any, posterior: Any, *, called: bool = True) -> None:
    """Name a part that is no module, that gives no distribution, or one over another shape than the others'.

    Each part is called at two items or codes of zeros, and where it refuses these at ones: in evaluation mode, without
    gradients, its buffers and the caller's generators put back. With lazy layers, which a call would give their size,
    or without `called`, for a pair that calls its parts in a way of its own, the parts are looked at and not called.
    Raises TypeError and ValueError.
    """
    parts = {"prior": prior, "likelihood": likelihood, "posterior": posterior}
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(f"{name} must be a torch.nn.Module, got {type(part).__name__}")
    if not hasattr(prior, "latent_dim"):
        raise TypeError(
            f"prior must have latent_dim, the size of a code, as StandardNormal(2) has; got {type(prior).__name__}"
        )
    if not isinstance(getattr(likelihood, "event_shape", None), Sequence):
        raise TypeError(
            "likelihood must have event_shape, the shape of an item, as Likelihood(network, family, event_shape) has; "
            f"got {type(likelihood).__name__}"
        )
    code, event = (checks.whole("prior.latent_dim", prior.latent_dim),), tuple(likelihood.event_shape)
    tensors = [t for part in parts.values() for t in (*part.parameters(), *part.buffers())]
    if not called or any(is_lazy(t) for t in tensors):
        return
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    noise, whole = Noise(0, next(iter(devices), None)), nn.ModuleList(parts.values())
    with Workspace(whole, noise=noise).turn(), unchanged(whole):
        _look("prior()", prior, [], code, [()])
        batches = [(ITEMS,), (1,), ()]  # a plate makes one of the others
        _look("likelihood(z)", likelihood, [_zeros(likelihood, code)], event, batches)
        _look("posterior(x)", posterior, [_zeros(posterior, event)], code, batches)


def _zeros(part: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Zeros in the part's dtype and on its device."""
    tensors = (t for t in (*part.parameters(), *part.buffers()) if t.is_floating_point())
    return next(tensors, torch.empty(())).new_zeros(ITEMS, *shape)


def _look(
    call: str, part: Callable[..., Any], given: list[Tensor], event: tuple[int, ...], batches: list[tuple[int, ...]]
) -> None:
    """Refuse a part that gives no distribution over `event`; one that zeros cannot tell of is let be."""
    at = f" for {call[-2]} of shape {tuple(given[0].shape)}" if given else ""
    wanted = f"a distribution over {'an item' if call[0] == 'l' else 'a code'}, event shape {event}{at}"
    try:
        try:
            p = part(*given)
        except (RuntimeError, ValueError):  # it may be their value: an item without a count, a code of no direction
            p = part(*map(torch.ones_like, given))
    except UNTOLD:
        return
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{call} must give {wanted}; {type(part).__name__} raised {error}") from error
    if not all(hasattr(p, name) for name in ("log_prob", "sample", "batch_shape", "event_shape")):
        shape = f" of shape {tuple(p.shape)}" if isinstance(p, Tensor) else ""
        raise TypeError(
            f"{call} must give {wanted}, as {ADVICE[call]}; {type(part).__name__} gave a {type(p).__name__}{shape}"
        )
    if tuple(p.event_shape) != event or tuple(p.batch_shape) not in batches:
        missing = "; .to_event(1) may be missing" if len(p.event_shape) < len(event) else ""
        raise ValueError(
            f"{call} must give {wanted}, and {type(part).__name__} gives event shape {tuple(p.event_shape)} and batch "
            f"shape {tuple(p.batch_shape)}{missing}"
        )


ADVICE = {
    "prior()": "StandardNormal(latent_dim) does",
    "likelihood(z)": "Likelihood(network, family, event_shape) makes one of a network",
    "posterior(x)": "DiagonalNormal(network, features, latent_dim) makes one of a network",
}
