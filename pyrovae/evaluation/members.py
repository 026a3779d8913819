"""Estimates of an ensemble's log p(x) from those of its members."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import numpy as np
from scipy.special import logsumexp

from pyrovae import checks
from pyrovae.evaluation.estimate import Estimate, pair_hash
from pyrovae.evaluation.session import Session
from pyrovae.models.ensemble import Ensemble
from pyrovae.seeding import stream

__all__ = ["by_members"]

P = ParamSpec("P")
NEGLIGIBLE = 0.01  # the share of a member in p(x), below which its flag is not the ensemble's


def by_members(estimator: Callable[P, Estimate]) -> Callable[P, Estimate]:
    """Let an estimator of log p(x) take an `Ensemble`: log sum_k w_k exp(value of member k), of each item.

    The members are estimated one by one, with the same arguments; random numbers go by a member's state, so that of
    members of one state all but the first have another seed. Lower bounds of the members give a lower bound, since the
    sum is increasing in each. The standard error is sqrt(sum_k r_k^2 se_k^2) with r_k the share of member k in p(x), by
    the delta method; the members' noise is independent. The errors of a grid are no noise, and add up to
    sum_k r_k se_k.
    """
    parameters = inspect.signature(estimator).parameters
    default_seed = parameters["seed"].default if "seed" in parameters else None

    @functools.wraps(estimator)
    def call(*args: P.args, **kwargs: P.kwargs) -> Estimate:
        pair = args[0] if args else kwargs.get("pair")
        if not isinstance(pair, Ensemble):
            return estimator(*args, **kwargs)
        for name in ("covariates", "exposure"):
            if cast(Any, kwargs).get(name) is not None:
                raise ValueError(f"{name} is not for an Ensemble, whose members share one p(x): estimate each of them")
        estimates = []
        states: list[str] = []
        for member in pair.members:
            given: Any = {**kwargs, "pair": member} if not args else {**kwargs}
            rest: Any = (member, *args[1:]) if args else ()
            states.append(pair_hash(member))
            earlier = states.count(states[-1]) - 1
            if earlier and default_seed is not None:
                given["seed"] = stream(checks.seed(given.get("seed", default_seed)), "member", earlier)
            estimates.append(estimator(*rest, **given))
        items = args[1] if len(args) > 1 else cast(Any, kwargs)["x"]
        return _combined(estimator.__name__, pair, items, estimates)

    return call


def _combined(name: str, pair: Ensemble, x: Any, estimates: list[Estimate]) -> Estimate:
    session = Session(name, pair)
    session.items(x)
    first = estimates[0]
    attributes = first.pointwise.attrs
    named = [each for each in str(attributes["settings"]).split(", ") if each]
    for key in {*named, *(each for each in ("num_particles", "seed", "tol") if each in attributes)}:
        session.protocol.setdefault(key, attributes[key])
    session.protocol["members"] = len(estimates)
    values = np.stack([estimate.pointwise["value"].to_numpy() for estimate in estimates]).astype(np.float64)
    errors = np.stack([estimate.pointwise["se"].to_numpy() for estimate in estimates]).astype(np.float64)
    joint = values + pair.log_weights.cpu().numpy()[:, None]
    value = logsumexp(joint, axis=0)
    share = np.exp(joint - value)
    is_noise = attributes["errors"] != "grid error"
    se = np.sqrt((share**2 * errors**2).sum(0)) if is_noise else (share * errors).sum(0)
    columns: dict[str, Any] = {"value": value, "se": se}
    if all("unreliable" in estimate.pointwise for estimate in estimates):
        flags = np.stack([estimate.pointwise["unreliable"].to_numpy() for estimate in estimates]).astype(bool)
        columns["unreliable"] = (flags & (share > NEGLIGIBLE)).any(0)
    words = {"value": ("log of the weighted sum of the members' densities", "nats")}
    if "unreliable" in columns:
        words["unreliable"] = ("whether a member of weight in the sum is unreliable", "1")
    return session.estimate(
        columns, kind=first.kind, bound=first.bound, errors=str(attributes["errors"]), settings=named, words=words
    )
