"""Fitting classifiers: the densities of each class, with unlabelled items too, and the mode of a concave posterior."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae.inference import em
from pyrovae.inference.history import History, curves, joined
from pyrovae.inference.labels import held_out_items, numbered_labels
from pyrovae.models.classifiers import ClassDensities, DiscriminativeClassifier, GenerativeClassifier
from pyrovae.models.components import GaussianComponents
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import checked_items
from pyrovae.seeding import stream

__all__ = ["SeparableWarning", "ascend", "fit_densities"]


class SeparableWarning(UserWarning):
    """Classes that a linear rule separates without an error: the likelihood of softmax regression has no maximum."""


# generative -----------------------------------------------------------------------------------------


def fit_densities(
    classifier: GenerativeClassifier,
    x: Any,
    y: Any,
    unlabeled: Any,
    validation: Any,
    plan: em.Plan,
    device: torch.device,
    progress: bool,
    fit_one: Callable[..., History],
) -> History:
    """Raise log p(x, y) of the labelled items, and with `unlabeled` log p(x) of those too, to a maximum in place.

    `fit_one(density, items, seed=...)` fits the density of one class by whatever method it has.
    """
    items = checked_items(classifier, x)
    names, number = numbered_labels(classifier, y, len(items))
    rest = None if unlabeled is None else checked_items(classifier, unlabeled, name="unlabeled")
    held_out = held_out_items(classifier, names, validation)
    _require_enough(classifier, names, torch.bincount(number, minlength=len(names)))
    if rest is not None:
        _require_mixtures(classifier)
    classifier.rename(names)
    items, number = items.to(device), number.to(device)
    climb = _Climb(classifier, items, number, rest if rest is None else rest.to(device), held_out)
    if isinstance(classifier.densities, GaussianComponents):
        history = climb.supervised()
    else:
        parts = list(zip(names.tolist(), classifier.densities.parts, strict=True))
        keys = [stream(plan.seed, "class", c) for c in range(len(parts))]
        history = joined(
            {name: fit_one(part, items[number == c], seed=keys[c]) for c, (name, part) in enumerate(parts)}
        )
    if not classifier.prior_is_given:
        with torch.no_grad():
            classifier.logits.copy_((torch.bincount(number).double() / len(number)).log())
    return history if rest is None else climb.semisupervised(plan, progress)


class _Climb:
    """EM over a classifier whose densities are normal components or mixtures of them."""

    def __init__(
        self, classifier: GenerativeClassifier, x: Tensor, number: Tensor, rest: Tensor | None, held_out: Any
    ) -> None:
        self.classifier, self.x, self.number, self.rest, self.held_out = classifier, x, number, rest, held_out

    @torch.no_grad()
    def supervised(self) -> History:
        """Normal densities: one M-step from the labels is the maximum."""
        start = time.perf_counter()
        own = copy.deepcopy(self.classifier).to(self.x.device).double()
        weight = nn.functional.one_hot(self.number, own.num_classes)
        components = own.densities
        assert isinstance(components, GaussianComponents)
        held = components.maximize(self.x.flatten(1), weight)
        self.classifier.densities.load_state_dict(components.state_dict())
        if not own.prior_is_given:
            own.logits.copy_(weight.double().mean(0).log())
        seconds = time.perf_counter() - start
        em.warn_of_floor(components, held, self.x, self.names(components), stacklevel=6)
        loss = -float(own.log_joint_table(self.x.double()).gather(1, self.number[:, None]).mean())
        config = self.config(own, held) | {"method": "closed form", "unlabeled_items": 0}
        return History(curves([self.row(own, loss, seconds)]), config)

    @torch.no_grad()
    def semisupervised(self, plan: em.Plan, progress: bool) -> History:
        """From the fit to the labelled items: labels are known there, and posterior elsewhere (Nigam et al. 2000)."""
        assert self.rest is not None
        own = copy.deepcopy(self.classifier).to(self.x.device).double()
        everything = torch.cat([self.x, self.rest]).double()
        known = nn.functional.one_hot(self.number, own.num_classes).double()
        rows: list[dict[str, float]] = []
        share, value = self.expected(own, everything, known)
        converged, held = False, torch.zeros(1, dtype=torch.bool)
        with tqdm(unit="iteration", disable=None if progress else True) as bar:
            while len(rows) < plan.max_iterations and not converged:
                start, before = time.perf_counter(), value
                held = _maximized(own, everything, share)
                share, value = self.expected(own, everything, known)
                converged = value - before < plan.tol
                rows.append(self.row(own, -value, time.perf_counter() - start))
                bar.update()
        if not math.isfinite(value):
            raise FloatingPointError(f"the log-likelihood became {value}: scale x, or raise the floor")
        self.classifier.load_state_dict(own.state_dict())
        if not converged:
            em.warn_not_converged(len(rows), plan.tol, stacklevel=5)
        if isinstance(own.densities, GaussianComponents):
            em.warn_of_floor(own.densities, held, everything, self.names(own.densities), stacklevel=5)
        config = self.config(own, held) | {"method": "em", "unlabeled_items": len(self.rest), "converged": converged}
        return History(curves(rows), {**config, "tol": plan.tol, "max_iterations": plan.max_iterations})

    def expected(self, own: GenerativeClassifier, everything: Tensor, known: Tensor) -> tuple[Tensor, float]:
        """p(y | x), 0 or 1 where the label is known, and the objective in nats an item."""
        joint = own.log_joint_table(everything)
        total = joint.logsumexp(-1)
        share = (joint - total[:, None]).exp()
        count = len(known)
        labelled_part = joint[:count].gather(1, self.number[:, None]).sum()
        share[:count] = known
        return share, float(labelled_part + total[count:].sum()) / len(everything)

    def row(self, own: GenerativeClassifier, loss: float, seconds: float) -> dict[str, float]:
        row = {"loss": loss}
        if self.held_out is not None:
            items, number = self.held_out
            table = own.log_joint_table(items.to(self.x.device).double()).log_softmax(-1)
            row["validation_log_loss"] = -float(table.gather(1, number.to(self.x.device)[:, None]).mean())
        return {**row, "seconds": seconds}

    def names(self, components: GaussianComponents) -> list[str]:
        return [f"class {name!r}" for name in self.classifier.names.tolist()]

    def config(self, own: GenerativeClassifier, held: Tensor) -> dict[str, Any]:
        return {
            "items": len(self.x),
            "classes": self.classifier.names.tolist(),
            "validation_items": 0 if self.held_out is None else len(self.held_out[0]),
            "floored_classes": held.nonzero().flatten().tolist(),
            "device": str(self.x.device),
            "torch": torch.__version__,
        }


def _maximized(own: GenerativeClassifier, x: Tensor, share: Tensor) -> Tensor:
    """One M-step over all parameters from p(y | x), (n, C); the classes that the floor held up."""
    densities = own.densities
    if isinstance(densities, GaussianComponents):
        held = densities.maximize(x.flatten(1), share)
    else:
        each = []
        for c, part in enumerate(densities.parts):
            assert isinstance(part, GaussianMixture)
            within = part.log_joint_table(x).softmax(-1)
            each.append(part.maximize(x, share[:, c, None] * within).any())
        held = torch.stack(each)
    if not own.prior_is_given:
        own.logits.copy_(share.mean(0).log())
    return held


def _require_enough(classifier: GenerativeClassifier, names: np.ndarray, counts: Tensor) -> None:
    for c, (name, count) in enumerate(zip(names.tolist(), counts.tolist(), strict=True)):
        if not count:
            raise ValueError(f"y has no item of class {name!r}: leave the class out, or give items of it")
        densities = classifier.densities
        part = densities.parts[c] if isinstance(densities, ClassDensities) else None
        if isinstance(part, GaussianMixture) and count < part.num_components:
            raise ValueError(
                f"class {name!r} has {count} items for {part.num_components} components: give more items of it, or "
                "fewer components"
            )


def _require_mixtures(classifier: GenerativeClassifier) -> None:
    densities = classifier.densities
    if isinstance(densities, ClassDensities) and not all(isinstance(p, GaussianMixture) for p in densities.parts):
        kinds = sorted({type(part).__name__ for part in densities.parts})
        raise ValueError(
            f"unlabeled items enter by EM, which is for Gaussian densities, and these are {', '.join(kinds)}: leave "
            "them out, or train the Pyro pair classifier.model, classifier.guide by TraceEnum_ELBO"
        )


# discriminative -------------------------------------------------------------------------------------


def ascend(
    classifier: DiscriminativeClassifier,
    x: Any,
    y: Any,
    validation: Any,
    *,
    tol: float,
    max_iterations: int,
    device: torch.device,
) -> History:
    """The mode of p(weights | x, y) by L-BFGS on all items in float64: the only one, for softmax regression.

    The loss is -(log p(y | x, weights) + log p(weights)) / N; it has converged where no entry of its gradient exceeds
    `tol`.
    """
    from scipy.optimize import minimize

    items = checked_items(classifier, x)
    names, number = numbered_labels(classifier, y, len(items))
    held_out = held_out_items(classifier, names, validation)
    own = copy.deepcopy(classifier).to(device).double()
    items, number = items.to(device).double(), number.to(device)
    parameters = list(own.network.parameters())
    rows: list[dict[str, float]] = []
    start = time.perf_counter()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            nn.utils.vector_to_parameters(torch.from_numpy(flat).to(device), parameters)
        value = nn.functional.cross_entropy(own.network(items), number) - own.log_prior() / len(items)
        gradient = torch.autograd.grad(value, parameters)
        state["value"] = value.item()
        return state["value"], torch.cat([g.flatten() for g in gradient]).cpu().numpy()

    def note(_flat: np.ndarray) -> None:
        row = {"loss": state["value"]}
        if held_out is not None:
            with torch.no_grad():
                table = own.network(held_out[0].to(device).double())
            row["validation_log_loss"] = float(nn.functional.cross_entropy(table, held_out[1].to(device)))
        rows.append({**row, "seconds": time.perf_counter() - start})

    state = {"value": math.nan}
    initial = nn.utils.parameters_to_vector(parameters).detach().cpu().numpy()
    options = {"maxiter": max_iterations, "maxfun": 10 * max_iterations, "gtol": tol, "ftol": 0.0, "maxcor": 20}
    found = minimize(loss, initial, jac=True, method="L-BFGS-B", callback=note, options=options)
    value, gradient = loss(found.x)
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value}: scale x, or give a prior_scale")
    converged = bool(np.abs(gradient).max() <= max(tol, 1e-6))
    with torch.no_grad():
        logits = own.network(items)
        right = logits.gather(1, number[:, None])
        other = logits.scatter(1, number[:, None], -math.inf).amax(1, keepdim=True)
        separable = own.prior_scale is None and bool((right > other).all())
        classifier.rename(names)
        for ours, theirs in zip(classifier.network.parameters(), parameters, strict=True):
            ours.copy_(theirs)
    if separable:
        warnings.warn(
            "the weights found classify every training item rightly, so that larger ones are always likelier: the "
            "likelihood has no maximum and these are where the search stopped; give a prior_scale",
            SeparableWarning,
            stacklevel=4,
        )
    elif not converged:
        warnings.warn(
            f"L-BFGS has not converged after {found.nit} iterations: the largest entry of the gradient is "
            f"{np.abs(gradient).max():.2g} nats an item; raise max_iterations or scale x",
            stacklevel=4,
        )
    seconds = np.diff([0.0, *(row["seconds"] for row in rows)])
    rows = [{**row, "seconds": float(took)} for row, took in zip(rows, seconds, strict=True)]
    config = {
        "method": "lbfgs",
        "items": len(items),
        "validation_items": 0 if held_out is None else len(held_out[0]),
        "classes": classifier.names.tolist(),
        "prior_scale": classifier.prior_scale,
        "tol": tol,
        "max_iterations": max_iterations,
        "converged": converged,
        "separable": separable,
        "device": str(device),
        "torch": torch.__version__,
    }
    return History(curves(rows or [{"loss": value, "seconds": time.perf_counter() - start}]), config)
