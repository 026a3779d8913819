"""Estimates of log p(x) of a pair whose density is a weighted sum of others, from those of its members."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.estimate import Estimate, pair_hash
from pyrovae.evaluation.session import TAKES, Session
from pyrovae.models.pair import members_of, takes_beside
from pyrovae.seeding import stream

__all__ = ["by_guided_members", "by_members"]

P = ParamSpec("P")
NEGLIGIBLE = 0.01  # the share of a member in p(x), below which its flag is not the whole's

OF_GUIDE = {
    "value": ("evidence lower bound", "nats"),
    "rate": ("E_q[log q(y, z | x) - log p(y, z)], y the member", "nats"),
    "distortion": ("-E_q[log p(x | y, z)]", "nats"),
}


def by_members(estimator: Callable[P, Estimate]) -> Callable[P, Estimate]:
    """Let an estimator of log p(x) take a sum of densities: log sum_k w_k exp(value of member k), of each item.

    Such a pair is an `Ensemble`, or a `SemiSupervisedVAE`, whose members are its classes. They are estimated one by
    one, with the same arguments; random numbers go by a member's state, so that of members of one state all but the
    first have another seed. Lower bounds of the members give a lower bound, since the sum is increasing in each. The
    standard error is sqrt(sum_k r_k^2 se_k^2) with r_k the share of member k in p(x), by the delta method; the members'
    noise is independent. The errors of a grid are no noise, and add up to sum_k r_k se_k.
    """
    return _by_members(estimator, _summed)


def by_guided_members(estimator: Callable[P, Estimate]) -> Callable[P, Estimate]:
    """As `by_members`, for the ELBO: that of the guide, where the guide chooses among the members by the item.

    With its probabilities q_k it is sum_k q_k (ELBO of member k + log w_k - log q_k).
    """
    return _by_members(estimator, _summed_by_guide)


def _by_members(estimator: Callable[P, Estimate], combine: Callable[..., Estimate]) -> Callable[P, Estimate]:
    parameters = inspect.signature(estimator).parameters
    default_seed = parameters["seed"].default if "seed" in parameters else None

    @functools.wraps(estimator)
    def call(*args: P.args, **kwargs: P.kwargs) -> Estimate:
        pair: Any = args[0] if args else kwargs.get("pair")
        found = members_of(pair)
        if found is None:
            return estimator(*args, **kwargs)
        members, log_weights = found
        beside = {name: cast(Any, kwargs).get(name) for name in ("covariates", "exposure", "weight", "missing")}
        for name, takes in takes_beside(pair).items():
            if beside[name] is not None and not takes:
                raise ValueError(
                    f"{name} came, and this {type(pair).__name__} takes none, as its members: leave it out"
                )
        estimates = []
        states: list[str] = []
        for member in members:
            given: Any = {**kwargs, "pair": member} if not args else {**kwargs}
            rest: Any = (member, *args[1:]) if args else ()
            states.append(pair_hash(member))
            earlier = states.count(states[-1]) - 1
            if earlier and default_seed is not None:
                given["seed"] = stream(checks.seed(given.get("seed", default_seed)), "member", earlier)
            estimates.append(estimator(*rest, **given))
        x = args[1] if len(args) > 1 else cast(Any, kwargs)["x"]
        items = checks.split_of(x, **beside, takes=TAKES, what=estimator.__name__)
        return combine(estimator.__name__, pair, items, estimates, log_weights)

    return call


def _summed(name: str, pair: Any, x: Any, estimates: list[Estimate], log_weights: Tensor) -> Estimate:
    session, named, _ = _begun(name, pair, x, estimates)
    first = estimates[0]
    attributes = first.pointwise.attrs
    values, errors = _stacked(estimates, "value"), _stacked(estimates, "se")
    joint = values + log_weights.cpu().numpy()[:, None]
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


def _summed_by_guide(name: str, pair: Any, x: Any, estimates: list[Estimate], log_weights: Tensor) -> Estimate:
    if not hasattr(pair, "guide_log_weights"):
        return _summed(name, pair, x, estimates, log_weights)
    session, named, items = _begun(name, pair, x, estimates)
    whole: Any = session.pair
    with session.workspace(session.noise(0)).turn():
        log_q = whole.guide_log_weights(items).double().cpu().numpy().T
    q = np.exp(log_q)
    excess = np.where(q > 0, q * (log_q - log_weights.cpu().numpy()[:, None]), 0.0).sum(0)
    columns: dict[str, Any] = {}
    for column in ("rate", "distortion"):
        columns[column] = (q * _stacked(estimates, column)).sum(0)
        columns[f"{column}_se"] = np.sqrt((q**2 * _stacked(estimates, f"{column}_se") ** 2).sum(0))
    columns["rate"] = columns["rate"] + excess
    columns["value"] = -(columns["rate"] + columns["distortion"])
    columns["se"] = np.sqrt((q**2 * _stacked(estimates, "se") ** 2).sum(0))
    return session.estimate(columns, bound="lower", settings=named, words=OF_GUIDE)


def _begun(name: str, pair: Any, x: Any, estimates: list[Estimate]) -> tuple[Session, list[str], Any]:
    """A session of the whole pair with the members' settings, the names of these, and the items."""
    session = Session(name, pair)
    items = session.items(x, takes=TAKES)
    attributes = estimates[0].pointwise.attrs
    named = [each for each in str(attributes["settings"]).split(", ") if each]
    for key in {*named, *(each for each in ("num_particles", "seed", "tol") if each in attributes)}:
        session.protocol.setdefault(key, attributes[key])
    session.protocol["members"] = len(estimates)
    return session, named, items


def _stacked(estimates: list[Estimate], column: str) -> np.ndarray:
    """A column of all members, (K, N)."""
    return np.stack([estimate.pointwise[column].to_numpy() for estimate in estimates]).astype(np.float64)
