"""Expectation maximisation for mixtures: restarts, a tolerance in nats, and words where the variance floor acts."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import checks
from pyrovae.inference.history import History, curves
from pyrovae.models.components import GaussianComponents
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import checked_items
from pyrovae.seeding import stream

__all__ = ["Plan", "VarianceFloorWarning", "run", "warn_not_converged", "warn_of_floor"]

COARSE = 1e-3  # nats an item: what an iteration of a start must gain before the starts are compared
SHOWN = 5  # columns and components that a warning names


class VarianceFloorWarning(UserWarning):
    """Variances that the floor holds up: columns that do not vary, or components of too few distinct items."""


@dataclass(frozen=True)
class Plan:
    """What is asked of a run: the arguments of `fit`."""

    tol: float
    max_iterations: int
    num_restarts: int
    seed: int

    @classmethod
    def asked(cls, *, tol: Any, max_iterations: Any, num_restarts: Any, seed: int) -> Plan:
        """Checked, with defaults for None."""
        return cls(
            tol=1e-6 if tol is None else checks.positive("tol", tol, zero=True),
            max_iterations=1000 if max_iterations is None else checks.whole("max_iterations", max_iterations),
            num_restarts=10 if num_restarts is None else checks.whole("num_restarts", num_restarts, least=0),
            seed=seed,
        )


def run(pair: GaussianMixture, x: Any, validation: Any, plan: Plan, target: torch.device, progress: bool) -> History:
    """Raise the mixture's likelihood of the items of `x` to a maximum, in place."""
    items = checked_items(pair, x).to(target).double()
    held_out = None if validation is None else checked_items(pair, validation, name="validation").to(target).double()
    if len(items) < pair.num_components:
        raise ValueError(
            f"x has {len(items)} items for {pair.num_components} components: give more items, or fewer components"
        )
    with torch.no_grad(), tqdm(unit="iteration", disable=None if progress else True) as bar:
        # copies in float64; the caller's parameters change once, so that an interrupt leaves them as they were
        climbs = []
        for number in range(-1, plan.num_restarts):
            climb = _Climb(copy.deepcopy(pair).to(target).double(), items, held_out, bar)
            if number >= 0:
                climb.begin(_labels(items, pair.num_components, stream(plan.seed, "k-means++", number)))
            climb.go_on(max(COARSE, plan.tol), plan.max_iterations)
            climbs.append(climb)
        found = max(climbs, key=lambda climb: climb.value)
        found.go_on(plan.tol, plan.max_iterations)
    if not math.isfinite(found.value):
        raise FloatingPointError(f"the log-likelihood became {found.value}: scale x, or raise the floor of the mixture")
    pair.load_state_dict(found.mixture.state_dict())
    if not found.converged:
        warn_not_converged(len(found.rows), plan.tol, stacklevel=3)
    names = [f"component {k}" for k in range(pair.num_components)]
    warn_of_floor(found.mixture.components, found.held, items, names, stacklevel=3)
    best = climbs.index(found)
    config = {
        "method": "em",
        **asdict(plan),
        "items": len(items),
        "validation_items": 0 if held_out is None else len(held_out),
        "device": str(target),
        "log_likelihoods": [
            climb.value for climb in climbs
        ],  # nats an item: of the present parameters' climb, then of each restart's
        "start": "present parameters" if best == 0 else f"restart {best - 1}",
        "iterations": [len(climb.rows) for climb in climbs],
        "converged": found.converged,
        "floored_components": found.held.nonzero().flatten().tolist(),
        "torch": torch.__version__,
    }
    return History(curves(found.rows), config)


class _Climb:
    """One start and what EM made of it."""

    def __init__(self, mixture: GaussianMixture, x: Tensor, held_out: Tensor | None, bar: tqdm[Any]) -> None:
        self.mixture, self.x, self.held_out, self.bar = mixture, x, held_out, bar
        self.value, self.converged = -math.inf, False
        self.rows: list[dict[str, float]] = []
        self.held = torch.zeros(1, dtype=torch.bool)

    def begin(self, labels: Tensor) -> None:
        """Take the moments of the items of each label."""
        weight = torch.nn.functional.one_hot(labels, self.mixture.num_components)
        self.held = self.mixture.maximize(self.x, weight)

    def go_on(self, tol: float, most: int) -> None:
        """Iterate until one iteration gains less than `tol` nats an item, or there have been `most`."""
        self.converged = False
        share = self._expected()
        while len(self.rows) < most and not self.converged and math.isfinite(self.value):
            start, before = time.perf_counter(), self.value
            self.held = self.mixture.maximize(self.x, share)
            share = self._expected()
            self.converged = self.value - before < tol
            row = {"loss": -self.value}
            if self.held_out is not None:
                row["validation_elbo"] = float(self.mixture.log_joint_table(self.held_out).logsumexp(-1).mean())
            self.rows.append({**row, "seconds": time.perf_counter() - start})
            self.bar.update()
            self.bar.set_postfix(loss=f"{-self.value:.4f}")

    def _expected(self) -> Tensor:
        """The E-step: responsibilities, and the log-likelihood in nats an item."""
        joint = self.mixture.log_joint_table(self.x)
        total = joint.logsumexp(-1)
        self.value = float(total.mean())
        return (joint - total[:, None]).exp()


def _labels(x: Tensor, num_components: int, seed: int) -> Tensor:
    """The clusters of one run of k-means from a k-means++ start."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct items than clusters: one stays empty
        found = KMeans(num_components, n_init=1, random_state=seed % 2**32).fit(x.flatten(1).cpu().numpy())
    return torch.from_numpy(found.labels_).long().to(x.device)


def warn_not_converged(iterations: int, tol: float, *, stacklevel: int) -> None:
    warnings.warn(
        f"EM has not converged: the last of {iterations} iterations gained tol = {tol:g} nats an item or more: raise "
        "max_iterations",
        stacklevel=stacklevel + 1,
    )


def warn_of_floor(parts: GaussianComponents, held: Tensor, x: Tensor, names: Sequence[str], *, stacklevel: int) -> None:
    """Say which columns do not vary, and which components the floor holds up for another reason."""
    still = x.double().flatten(1).var(0, correction=0) < parts.floor
    if still.any():
        warnings.warn(
            f"x does not vary in {_columns(still.nonzero()[:, 0], x)}: the variance floor {parts.floor:g} stands for "
            "their variance, and log p(x) depends on it; leave them out, or set the floor",
            VarianceFloorWarning,
            stacklevel=stacklevel + 1,
        )
    words = []
    for k in held.nonzero().flatten().tolist():
        value, vector = torch.linalg.eigh(parts.scale_tril[k] @ parts.scale_tril[k].mT)
        low = value < 1.01 * parts.floor
        load = vector[:, low].square().sum(1).masked_fill(still, 0.0)
        if int(low.sum()) > int(still.sum()):
            name = "the tied covariance" if parts.covariance == "tied" else names[k]
            words.append(f"{name} (most of all in {_columns(load.argmax()[None], x)})")
    if words:
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        warnings.warn(
            f"the variance floor {parts.floor:g} holds up {', '.join(words[:SHOWN])}{more}: columns that depend on one "
            "another, or too few distinct items; another covariance needs fewer",
            VarianceFloorWarning,
            stacklevel=stacklevel + 1,
        )


def _columns(which: Tensor, x: Tensor) -> str:
    """Columns as one would index them."""
    at = np.stack(np.unravel_index(which.cpu().numpy(), tuple(x.shape[1:])), 1)
    names = ", ".join(f"x[:, {', '.join(map(str, place))}]" for place in at[:SHOWN].tolist())
    return names + (f" and {len(at) - SHOWN} more columns" if len(at) > SHOWN else "")
