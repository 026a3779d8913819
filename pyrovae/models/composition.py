"""Whether a prior, a likelihood and a posterior fit each other: each is called on dummy input as a pair is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.parameter import is_lazy

from pyrovae import checks
from pyrovae.models.fingerprint import has_users_parts, writes_noted
from pyrovae.models.pair import covariate_dim_of
from pyrovae.models.scopes import Workspace
from pyrovae.models.trial import unchanged
from pyrovae.seeding import Noise

__all__ = ["require_fitting"]

ITEMS = 2
PROBES = (-1.5, -1.0, 0.0, 0.25, 1.0, 1.5, 2.0)  # values that tell real, positive, unit, binary and counts apart
# errors of a call on zeros or ones that say nothing of the part
INCONCLUSIVE = (NotImplementedError, torch.linalg.LinAlgError, torch.cuda.OutOfMemoryError)


def require_fitting(prior: Any, likelihood: Any, posterior: Any, *, called: bool = True) -> None:
    """Raise where a part is no module, gives no distribution, or gives one over another shape than the others take.

    Each part is called on a batch of two zeros, and on ones if that raises, in evaluation mode and without gradients;
    its buffers and the caller's generators are put back. A user's parts are called once more, on three ones, which
    tells what each call writes from settings (`fingerprint.writes_noted`). With lazy layers, which a call would give
    their size, or without `called`, for a pair that calls its parts in a way of its own, the parts are looked at and
    not called. Nor are the package's own on the device "meta", where a saved pair is sketched before it is built.
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
    _require_constraint(likelihood)
    code_shape = (checks.whole("prior.latent_dim", prior.latent_dim),)
    item_shape = tuple(likelihood.event_shape)
    tensors = [t for part in parts.values() for t in (*part.parameters(), *part.buffers())]
    if not called or any(is_lazy(t) for t in tensors):
        return
    whole = nn.ModuleList(parts.values())
    if any(t.is_meta for t in tensors) and not has_users_parts(whole):
        return  # a call there brings in all of torch's compiler, which takes seconds
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    noise = Noise(0, next(iter(devices), None))
    code, item = _zeros(likelihood, code_shape), _zeros(posterior, item_shape)
    one_for_each = [(ITEMS,), (1,), ()]  # the last two are broadcast over the items by the plate
    with Workspace(whole, noise=noise).turn(), unchanged(whole), writes_noted(whole) as called_once:
        given = {part: _covariates(part, whole) for part in (prior, likelihood, posterior)}
        batches: list[tuple[int, ...]] = [(ITEMS,)] if given[prior] else [()]
        advice = "StandardNormal(latent_dim) does"
        _Call("prior()", prior, None, "a code", code_shape, batches, advice, given[prior]).check()
        advice = "Likelihood(network, family, event_shape) makes one of a network"
        beside = given[likelihood]
        p = _Call("likelihood(z)", likelihood, code, "an item", item_shape, one_for_each, advice, beside).check()
        if p is not None:
            _require_true_support(likelihood, p)
        advice = "DiagonalNormal(network, features, latent_dim) makes one of a network"
        _Call("posterior(x)", posterior, item, "a code", code_shape, one_for_each, advice, given[posterior]).check()
        if called_once():
            for part, arguments in ((prior, ()), (likelihood, (_one_more(code),)), (posterior, (_one_more(item),))):
                with suppress(Exception):  # a batch of two was enough for the checks
                    part(*arguments, **{name: _one_more(value) for name, value in given[part].items()})


def _require_constraint(likelihood: Any) -> None:
    """Refuse a family whose `support` no value of an entry can be checked against."""
    family = getattr(likelihood, "family", None)
    if family is None or not hasattr(type(family), "support"):
        return
    in_class: Any = inspect.getattr_static(type(family), "support")
    support: Any = getattr(family, "support", None)  # None also where a property raises AttributeError
    advice = "state the constraint of one entry, such as support = torch.distributions.constraints.nonnegative_integer"
    name = type(family).__name__
    if isinstance(support, constraints.independent):
        raise ValueError(f"support of {name} is that of whole items, and entries are checked one by one: {advice}")
    if constraints.is_dependent(support) or (support is None and isinstance(in_class, constraints.dependent_property)):
        raise ValueError(f"support of {name} is one that depends on parameters (constraints.dependent): {advice}")
    if not isinstance(support, constraints.Constraint):
        raise TypeError(f"support of {name} must be a constraint, got {support!r}: {advice}")


def _zeros(part: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Zeros in the part's dtype and on its device."""
    tensors = (t for t in (*part.parameters(), *part.buffers()) if t.is_floating_point())
    return next(tensors, torch.empty(())).new_zeros(ITEMS, *shape)


def _covariates(part: Any, whole: nn.Module) -> dict[str, Tensor]:
    """Zeros as covariates for a part that takes some."""
    size = covariate_dim_of(part)
    return {"covariates": _zeros(whole, (size,))} if size else {}


def _one_more(batch: Tensor) -> Tensor:
    """Ones, as a batch of one more than the given."""
    return batch.new_ones(len(batch) + 1, *batch.shape[1:])


@dataclass(frozen=True)
class _Call:
    """A call of a part, and what it must give."""

    words: str  # as errors write it: "likelihood(z)"
    part: Callable[..., Any]
    given: Tensor | None
    over: str
    event_shape: tuple[int, ...]
    batch_shapes: list[tuple[int, ...]]
    advice: str
    keywords: dict[str, Tensor]

    def check(self) -> Any:
        """The distribution that it gives, or an error; None where a call on zeros and ones cannot tell."""
        wanted = f"{self.words} must give a distribution over {self.over}, event shape {self.event_shape}"
        if self.given is not None:
            wanted += f" for {self.words[-2]} of shape {tuple(self.given.shape)}"
        name = type(self.part).__name__
        try:
            p = self._result()
        except INCONCLUSIVE:
            return None
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{wanted}; {name} raised {error}{_hint_of(error)}") from error
        if not all(hasattr(p, member) for member in ("log_prob", "sample", "batch_shape", "event_shape")):
            shape = f" of shape {tuple(p.shape)}" if isinstance(p, Tensor) else ""
            raise TypeError(f"{wanted}, as {self.advice}; {name} gave a {type(p).__name__}{shape}")
        if tuple(p.event_shape) != self.event_shape or tuple(p.batch_shape) not in self.batch_shapes:
            absent = len(self.event_shape) - len(p.event_shape)
            advice = f"; .to_event({absent}) may be missing" if absent > 0 else ""
            raise ValueError(
                f"{wanted}, and {name} gives event shape {tuple(p.event_shape)} and batch shape "
                f"{tuple(p.batch_shape)}{advice}"
            )
        return p

    def _result(self) -> Any:
        if self.given is None:
            return self.part(**self.keywords)
        try:
            return self.part(self.given, **self.keywords)
        except (RuntimeError, ValueError):  # it may be their value: an item without a count, a code of no direction
            return self.part(torch.ones_like(self.given), **self.keywords)


def _hint_of(error: Exception) -> str:
    """What torch's words for a linear layer of another size mean: (items x given and taken x outputs)."""
    sizes = re.search(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", str(error))
    return "" if sizes is None else f": a linear layer that takes {sizes[2]} inputs is given {sizes[1]}"


def _require_true_support(likelihood: Any, p: Any) -> None:
    """Raise where the stated support has values that have no density: items are checked against it alone."""
    stated: Any = getattr(likelihood, "support", None)
    try:
        true: Any = p.support
    except (NotImplementedError, AttributeError, ValueError):
        return
    while hasattr(true, "base_constraint"):
        true = true.base_constraint
    if stated is None or true is stated:
        return
    for value in PROBES:
        try:
            allowed = bool(stated.check(torch.tensor(value)).all())
            has_density = bool(true.check(torch.full(tuple(likelihood.event_shape), value)).any())
        except (NotImplementedError, RuntimeError, ValueError):
            return
        if allowed and not has_density:
            entries = type(getattr(likelihood, "family", likelihood)).__name__
            raise ValueError(
                f"{entries} states the support {stated}, and the distribution that it gives has no density at "
                f"{value:g}: its own is {true}; state that as `support`"
            )
