"""The class densities of a generative classifier, of normal distributions or of any others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.models.classifiers.classes import nameable
from pyrovae.models.components import GaussianComponents
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import Pair
from pyrovae.models.scopes import evaluation_mode, hidden

__all__ = ["ClassDensities", "DensitiesOfClasses", "LogDensities", "NormalDensities", "OfClasses", "of_classes"]


class LogDensities(NamedTuple):
    """log p(x_n | class c) for each item and class, (N, C), in nats and float64."""

    value: Tensor
    error: Tensor | None  # Monte Carlo standard errors; None where every value is known
    unreliable: Tensor | None  # which of these errors cannot be relied on, boolean; None where no estimate says so


class DensitiesOfClasses(Protocol):
    """What the densities of a generative classifier must have; items are flat, of shape (N, features)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n | class c), (N, C), in nats and float64; NaN is missing."""
        ...

    def log_densities(self, x: Tensor) -> LogDensities:
        """log p(x_n | class c) with what is known of its errors; each density is in evaluation mode."""
        ...

    def least_scale_nearest(self, x: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """The smallest standard deviation of each column, given the others, of the classes nearest to items; (D,)."""
        ...

    def draw(self, component: Tensor) -> Tensor:
        """Draw an item of each class number: (...) to (..., features)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As `torch.nn.Module` has it, over all densities."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """As `torch.nn.Module` has it, over all densities."""
        ...


class NormalDensities(GaussianComponents):
    """A normal density for each class, under one covariance structure."""

    def _get_name(self) -> str:  # as in the states and hashes of pairs that were saved under this name
        return "GaussianComponents"

    def log_densities(self, x: Tensor) -> LogDensities:
        return LogDensities(self.log_prob(x), None, None)

    def least_scale_nearest(self, x: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        return self.least_scale(log_joint(x).argmax(1))


class ClassDensities(nn.Module):
    """A density p(x | y) for each class: any `pyrovae.models.pair.Density`, or a pair under an `evidence`."""

    def __init__(self, parts: Sequence[nn.Module], evidence: Callable[..., Any] | None) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.event_shape: tuple[int, ...] = tuple(parts[0].event_shape)  # type: ignore[arg-type]
        self._evidence = evidence

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n | class c): (N, features) to (N, C), in nats and float64; NaN is missing."""
        return self._stacked(x, nullcontext).value

    def log_densities(self, x: Tensor) -> LogDensities:
        """log p(x_n | class c) with the errors of what is estimated; each density is in evaluation mode."""
        return self._stacked(x, evaluation_mode)

    def _stacked(self, x: Tensor, mode: Callable[..., AbstractContextManager[None]]) -> LogDensities:
        x = x.unflatten(-1, self.event_shape)
        each = [
            _checked(self._log_density(part, x, mode), part, x.shape[: x.ndim - len(self.event_shape)])
            for part in self.parts
        ]
        value = torch.stack([one.value.double() for one in each], -1)
        errors = [torch.zeros_like(one.value) if one.error is None else one.error for one in each]
        unreliable = None
        if any(one.unreliable is not None for one in each):
            reliable = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            unreliable = torch.stack([reliable if one.unreliable is None else one.unreliable for one in each], -1)
        return LogDensities(value, torch.stack([error.double() for error in errors], -1), unreliable)

    def _log_density(self, part: Any, x: Tensor, mode: Callable[..., AbstractContextManager[None]]) -> LogDensities:
        """log p(x) of one density, (N,): in closed form, with its own errors, or by the evidence."""
        missing = bool(x.isnan().any())
        if not hasattr(part, "log_prob"):
            return self._estimated(part, x)
        if isinstance(part, GaussianMixture):
            return LogDensities(part.log_joint_table(x).logsumexp(-1), None, None)  # in float64 throughout
        if hasattr(part, "with_standard_error") and not missing:
            value, error = part.with_standard_error(x)
            return LogDensities(value, error, None)
        if missing and "missing" not in inspect.signature(part.log_prob).parameters:
            raise ValueError(f"log_prob of a {type(part).__name__} takes no missing entries: impute them first")
        with mode(part):
            return LogDensities(part.log_prob(x, **({"missing": True} if missing else {})).double(), None, None)

    def _estimated(self, pair: Any, x: Tensor) -> LogDensities:
        assert self._evidence is not None
        missing = {"missing": True} if bool(x.isnan().any()) else {}
        with hidden():  # its sites are no part of the classifier's
            estimate = self._evidence(pair, x, **missing).pointwise
        if masked := estimate.attrs.get("masked_sites"):
            raise ValueError(f"a {type(pair).__name__} masks {masked}: its log p(x) covers only a part of x")
        value, error = (torch.from_numpy(estimate[name].values).to(x.device) for name in ("value", "se"))
        unreliable = None
        if "unreliable" in estimate:
            unreliable = torch.from_numpy(estimate["unreliable"].values).to(x.device)
        return LogDensities(value, error, unreliable)

    def least_scale_nearest(self, x: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """The smallest scale of the mixtures, each at the items nearest to it; 0 where a density is no mixture."""
        if not all(isinstance(part, GaussianMixture) for part in self.parts):
            return torch.zeros(math.prod(self.event_shape), dtype=torch.float64)
        nearest = log_joint(x).argmax(1)
        return torch.stack([self.parts[c].least_scale(x[nearest == c]) for c in nearest.unique().tolist()]).amin(0)

    def draw(self, component: Tensor) -> Tensor:
        """Draw an item of each class number by torch's global generator: (...) to (..., features)."""
        classes = component.flatten()
        items: Tensor | None = None
        for c in classes.unique().tolist():
            of_class = classes == c
            drawn = self.parts[c].sample(int(of_class.sum())).flatten(1)
            items = drawn.new_empty(len(classes), drawn.shape[1]) if items is None else items
            items[of_class] = drawn
        assert items is not None
        return items.unflatten(0, component.shape) if component.ndim else items[0]


def _checked(densities: LogDensities, part: nn.Module, batch_shape: torch.Size) -> LogDensities:
    """One number for each item, which a density of the user's may not give."""
    kind, value = type(part).__name__, densities.value
    if value.shape != batch_shape:
        raise ValueError(
            f"log_prob of a {kind} must give one number for each item, shape {tuple(batch_shape)}, got "
            f"{tuple(value.shape)}: sum the log-densities of an item's entries"
        )
    if bool(value.isnan().any()):
        first = value.isnan().nonzero()[0].tolist()
        raise ValueError(f"log p(x) of a {kind} is NaN for {int(value.isnan().sum())} items, the first at {first}")
    return densities


class OfClasses(NamedTuple):
    """The class densities and the names of the classes, as a classifier keeps them."""

    densities: DensitiesOfClasses
    names: np.ndarray
    event_shape: tuple[int, ...]
    names_are_given: bool  # or found by a first fit


def of_classes(densities: Mapping[Any, nn.Module], evidence: Callable[..., Any] | None) -> OfClasses:
    """The densities of {label: density}, sorted by class; an error names what is no density, or has another shape."""
    names, parts = _sorted(densities)
    for name, part in zip(names.tolist(), parts, strict=True):
        _require_density(name, part, evidence)
    if len({id(part) for part in parts}) < len(parts):
        raise ValueError("densities must be a module each, for each is fitted to its own class: copy.deepcopy one")
    shapes = {tuple(part.event_shape) for part in parts}  # type: ignore[arg-type]
    if len(shapes) > 1:
        raise ValueError(f"densities must share one event_shape, got {', '.join(map(str, sorted(shapes)))}")
    return OfClasses(ClassDensities(parts, evidence), names, shapes.pop(), names_are_given=True)


def _sorted(densities: Any) -> tuple[np.ndarray, list[nn.Module]]:
    if not isinstance(densities, Mapping):
        raise TypeError(f"densities must be a mapping {{label: density}}, got {type(densities).__name__}")
    if len(densities) < 2:
        raise ValueError(f"densities must hold at least 2 classes, got {list(densities)}")
    keys = list(densities)
    kinds = {np.asarray(key).dtype.kind for key in keys}
    if len(kinds) > 1:
        raise TypeError(f"the labels in densities must be of one kind, got {keys}")
    names = nameable(np.unique(np.array(keys)), "the labels in densities")
    return names, [densities[name] for name in names.tolist()]


def _require_density(name: Any, part: Any, evidence: Any) -> None:
    known = hasattr(part, "log_prob")
    if not known and getattr(part, "is_normalized", None) is False:
        raise ValueError(f"the {type(part).__name__} of class {name!r} has no p(x): pyrovae.as_density makes it one")
    estimated = isinstance(part, Pair)
    whole = hasattr(part, "event_shape") and hasattr(part, "sample")
    if not isinstance(part, nn.Module) or not whole or not (known or estimated):
        raise TypeError(
            f"the density of class {name!r} must be a module with log_prob, sample and event_shape, got "
            f"{type(part).__name__}"
        )
    if not known and evidence is None:
        raise ValueError(
            f"log p(x) of the {type(part).__name__} of class {name!r} is an integral: say how to estimate it, "
            "evidence=pyrovae.iwae or a partial of it"
        )
