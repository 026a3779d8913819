"""The mode of a discriminative classifier's posterior by L-BFGS, in coordinates in which x is standardised."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.labels import held_out_items, labels_kept, numbered_labels
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.inference.weighed import Weighed, weighed
from pyrovae.interruption import deliver
from pyrovae.models.classifiers import DiscriminativeClassifier
from pyrovae.models.covariance import column_variance
from pyrovae.models.items import checked_items
from pyrovae.models.missing import require_missing_taken
from pyrovae.models.scopes import copied

__all__ = ["LBFGS", "SeparableWarning", "search"]


FIRST = ("layers.0.weight", "layers.0.bias")
ROUNDING = 1e-9  # of a gradient in float64, nats per item

_inside = 0  # searches that are on
_limited: Any = None


class SeparableWarning(UserWarning):
    """The classes are separated without an error, so that the likelihood of softmax regression has no maximum.

    Where only some classes or some items can be separated there is none either, and that is not seen: give a
    `prior_scale`.
    """


@dataclass(frozen=True)
class LBFGS(Method):
    """Find the mode of a discriminative classifier's posterior by L-BFGS, on all items at once.

    `weight` counts an item that many times: against the prior on the weights too, which counts once.

    Args:
        tol: of the gradient's largest entry, in nats per item for standardised columns.
        max_iterations: of the search.

    Raises ValueError for an option that is out of its range.

    >>> from pyrovae.methods import LBFGS
    >>> LBFGS(max_iterations=50)
    LBFGS(tol=1e-07, max_iterations=50)
    """

    name: ClassVar[str] = "lbfgs"
    title: ClassVar[str] = "L-BFGS"
    belongs_to: ClassVar[str] = "DiscriminativeClassifier"
    takes_weight: ClassVar[bool] = True
    takes_missing: ClassVar[bool] = True  # so that it can say why there is none

    tol: float = 1e-7
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_iterations", checks.whole("max_iterations", self.max_iterations))
        object.__setattr__(self, "tol", checks.positive("tol", self.tol))

    def run(self, task: Task) -> History:
        """Fit the classifier in place, to the mode."""
        return search(
            task.pair,
            task.x,
            task.y,
            task.validation,
            tol=self.tol,
            max_iterations=self.max_iterations,
            device=task.device,
        )


def search(
    classifier: DiscriminativeClassifier,
    x: Any,
    y: Any,
    validation: Any,
    *,
    tol: float,
    max_iterations: int,
    device: torch.device,
) -> History:
    """Find the mode of p(weights | x, y) by L-BFGS on all items in float64; softmax regression has only one.

    The loss is -(log p(y | x, weights) + log p(weights)) / N, where an item of weight w counts as w items. The search
    is in the weights of standardised columns, under the prior of the weights of x itself, so that the columns' units do
    not matter; it has converged where no entry of the gradient there exceeds `tol`.
    """
    from scipy.optimize import minimize

    given = weighed(x)
    if given.has_missing:
        require_missing_taken(classifier)
    items = checked_items(classifier, given.x)
    names, number = numbered_labels(classifier, labels_kept(y, given), len(items))
    held_out = held_out_items(classifier, names, validation, items)
    held_out = None if held_out is None else held_out.to(device)
    copy = copied(classifier).to(device).double()
    items, number = items.to(device).double().clone(), number.to(device)  # a clone: no inference tensor
    of_fit = given.with_items(items)
    count = of_fit.count
    scaling = _Scaling(copy, of_fit)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(flat).to(device).requires_grad_()
        weights = scaling.weights(free)
        logits = torch.func.functional_call(copy.network, weights, (items,))
        if of_fit.weight is None:
            fit = nn.functional.cross_entropy(logits, number)
        else:
            fit = (nn.functional.cross_entropy(logits, number, reduction="none") * of_fit.weight).sum() / count
        value = fit - copy.log_prior(weights) / count
        (gradient,) = torch.autograd.grad(value, free)
        state["value"] = value.item()
        return state["value"], gradient.cpu().numpy()

    def note(flat: np.ndarray) -> None:
        row = {"loss": state["value"]}
        if held_out is not None:
            with torch.no_grad():
                weights = scaling.weights(torch.from_numpy(flat).to(device))
                table = torch.func.functional_call(copy.network, weights, (held_out.items.double(),))
            row["validation_log_loss"] = held_out.log_loss(table.log_softmax(-1))
        rows.append({**row, "seconds": time.perf_counter() - start})
        deliver()  # the classifier itself is as it was

    state = {"value": math.nan}
    options = {"maxiter": max_iterations, "maxfun": 10 * max_iterations, "gtol": tol, "ftol": 0.0, "maxcor": 20}
    with _one_blas_thread():  # SciPy's own few numbers: a second thread would only spin
        result = minimize(loss, scaling.free(), jac=True, method="L-BFGS-B", callback=note, options=options)
    value, gradient = loss(result.x)
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value}: scale x, or give a prior_scale")
    steepest = float(np.abs(gradient).max())
    converged = steepest <= max(tol, ROUNDING)
    with torch.no_grad():
        weights = scaling.weights(torch.from_numpy(result.x).to(device))
        logits = torch.func.functional_call(copy.network, weights, (items,))
        right = logits.gather(1, number[:, None])
        other = logits.scatter(1, number[:, None], -math.inf).amax(1, keepdim=True)
        separable = copy.prior_scale is None and bool((right > other).all())
        classifier.rename(names)
        for parameter, fitted in zip(classifier.network.parameters(), weights.values(), strict=True):
            parameter.copy_(fitted)
    if separable:
        checks.warn(
            "the weights found classify every training item rightly, so that larger ones are always likelier: the "
            "likelihood has no maximum and these are where the search stopped; give a prior_scale",
            SeparableWarning,
        )
    elif not converged:
        checks.warn(
            f"L-BFGS has not converged after {result.nit} iterations: the largest entry of the gradient is "
            f"{steepest:.2g} nats per item for standardised x; "
            + ("raise max_iterations" if result.nit >= max_iterations else "centre and scale the columns of x")
        )
    seconds = np.diff([0.0, *(row["seconds"] for row in rows)])
    rows = [{**row, "seconds": float(took)} for row, took in zip(rows, seconds, strict=True)]
    config = {
        "method": "lbfgs",
        "items": len(items),
        **of_fit.config,
        "validation_items": 0 if held_out is None else len(held_out.items),
        "classes": classifier.names.tolist(),
        "prior_scale": classifier.prior_scale,
        "tol": tol,
        "max_iterations": max_iterations,
        "converged": converged,
        "separable": separable,
        "device": str(device),
        **environment(device),
    }
    return History.from_rows(rows or [{"loss": value, "seconds": time.perf_counter() - start}], config)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Run the body with BLAS in one thread; the limit is the process's, and ends with the last body inside."""
    global _inside, _limited
    with exclusive():
        if not _inside:
            _limited = _pools().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with exclusive():
            _inside -= 1
            if not _inside:
                _limited.restore_original_limits()


@cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _Scaling:
    """The network's weights as a function of those that it would have for standardised columns.

    First-layer weights W' and offsets b' there are W = W' / sd and b = b' - W mean here; where the prior's curvature is
    more than the likelihood's, as of a column in small units or far from 0, it sets the scale.
    """

    def __init__(self, classifier: DiscriminativeClassifier, items: Weighed) -> None:
        flat = items.x.flatten(1)
        self.mean, sd = flat.mean(0), flat.std(0, correction=0)
        if items.weight is not None:
            self.mean = items.weight @ flat / items.count
            sd = column_variance(flat, items.weight).sqrt()
        if classifier.prior_scale is not None:  # of W itself, and through b = b' - W mean
            sd = (
                sd.square()
                + 4 * (1 + self.mean.square()) / items.count / classifier.prior_scale / classifier.prior_scale
            ).sqrt()
        self.sd = torch.where(sd > 0, sd, 1.0)
        self.named = {name: p.detach() for name, p in classifier.network.named_parameters()}

    def free(self) -> np.ndarray:
        """The present weights in these coordinates, at which the search starts."""
        named = dict(self.named)
        weight, bias = FIRST
        named[bias] = named[bias] + named[weight] @ self.mean
        named[weight] = named[weight] * self.sd
        flat: np.ndarray = torch.cat([value.flatten() for value in named.values()]).cpu().numpy()
        return flat

    def weights(self, free: Tensor) -> dict[str, Tensor]:
        """The network's own weights, differentiable."""
        weights, start = {}, 0
        for name, like in self.named.items():
            weights[name] = free[start : start + like.numel()].reshape(like.shape)
            start += like.numel()
        weight, bias = FIRST
        weights[weight] = weights[weight] / self.sd
        weights[bias] = weights[bias] - weights[weight] @ self.mean
        return weights


def _by_linearity(classifier: DiscriminativeClassifier) -> tuple[Method, ...]:
    """L-BFGS first where the mode is the only one, as for softmax regression."""
    return (LBFGS(), SVI()) if classifier.is_linear else (SVI(), LBFGS())


register_methods(DiscriminativeClassifier, LBFGS(), SVI(), order=_by_linearity)
