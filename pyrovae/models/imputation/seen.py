"""The density p(z, x_seen) of a code and of what is seen of an item: the terms of missing entries are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.models.laws import stated_support
from pyrovae.models.means import mean_of
from pyrovae.models.missing import sees_missing
from pyrovae.models.pair import covariate_dim_of

__all__ = ["Everywhere", "ImpossibleError", "Parts", "SeenDensity", "require_possible"]

POOL = 64  # draws of the prior an item, from which a method may start


class Parts(NamedTuple):
    """The prior, likelihood and posterior of a pair."""

    prior: Any
    likelihood: Any
    posterior: Any

    def given(self, beside: Mapping[str, Tensor], rows: Tensor, dtype: torch.dtype) -> Parts:
        """The parts as functions of no more than a code or an item, at the covariates and exposures of some rows."""
        if not beside:
            return self
        here = {name: value[rows].to(dtype) for name, value in beside.items()}
        c = {name: value for name, value in here.items() if name == "covariates"}
        of_prior, of_likelihood, of_posterior = (c if covariate_dim_of(part) else {} for part in self)
        of_likelihood = of_likelihood | {name: value for name, value in here.items() if name == "exposure"}
        return Parts(
            (lambda: _OfEach(self.prior(**of_prior))) if of_prior else self.prior,
            partial(self.likelihood, **of_likelihood),
            partial(self.posterior, **of_posterior),
        )


class _OfEach:
    """Distributions of n codes, drawn as one that all items share is: `sample((..., n))`."""

    def __init__(self, p: Any) -> None:
        self.p, self.event_shape, self.support = p, p.event_shape, p.support

    def sample(self, shape: Sequence[int]) -> Tensor:
        draws: Tensor = self.p.sample(tuple(shape)[:-1])
        return draws

    def log_prob(self, z: Tensor) -> Tensor:
        value: Tensor = self.p.log_prob(z)
        return value


class SeenDensity:
    """log p(z, x_seen) of n items at codes of shape (count, n, latent_dim)."""

    def __init__(self, parts: Parts, x: Tensor, seen: Tensor) -> None:
        self.prior, self.likelihood, self.seen = parts.prior(), parts.likelihood, seen
        self.posterior = parts.posterior
        self.x = torch.where(seen, x, torch.nan)
        self.pool = self.prior.sample((POOL, len(x)))
        self.everywhere = Everywhere(self.prior, self.pool[0])
        self.is_bounded = self.everywhere.is_bounded
        self.of_pool = parts.likelihood(self.pool)
        _require_independent(self.of_pool, x.shape[1:])
        self.inside = torch.where(seen, x, self.of_pool.sample()[0])  # in the support, where NaN has no place

    def posterior_of_seen(self) -> Any | None:
        """q(z | x_seen) of an encoder that takes items with NaN where an entry is missing, None of another one."""
        module = getattr(self.posterior, "func", self.posterior)  # the posterior itself, without its covariates
        return self.posterior(self.x) if sees_missing(module) else None

    def filled_by_means(self) -> Tensor:
        """The items, completed by the mean over the prior, then three times by what the pair makes of that.

        Of entries without a mean, such as categories, by a draw, then by the mode.
        """
        mean = _mean_if_any(self.of_pool)
        filled = self.inside if mean is None else torch.where(self.seen, self.inside, mean.mean(0))
        for _ in range(3):
            p = self.likelihood(mean_of(self.posterior(filled)))
            mean = _mean_if_any(p)
            filled = torch.where(self.seen, self.inside, p.mode if mean is None else mean)
        return filled

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x_seen | z), in which the terms of missing entries are left out."""
        terms = self.likelihood(z).base_dist.log_prob(self.inside)
        return torch.where(self.seen, terms, 0.0).flatten(2).sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z, x_seen)."""
        return self.log_prior(z) + self.log_likelihood(z)

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z), -inf outside of the prior's support."""
        return self.everywhere.log_prob(z)

    def is_within(self, z: Tensor) -> Tensor:
        """Whether each code is one at which the prior has a density."""
        within: Tensor = self.prior.support.check(z)
        return within

    def or_prior_where_nothing_is_seen(self, z: Tensor) -> Tensor:
        """The codes, those of items without a seen entry drawn anew from the prior."""
        some_seen = self.seen.flatten(1).any(1)[:, None]
        return torch.where(some_seen, z, self.prior.sample(z.shape[:-1]))


class ImpossibleError(Exception):
    """Items whose seen entries have a density of 0 at every code that was tried: `which`, (n,), of those at hand."""

    def __init__(self, which: Tensor) -> None:
        super().__init__(which)
        self.which = which


def require_possible(log_density: Tensor) -> None:
    """Refuse items without a code of a density above 0; `log_density` is (count, n), of the codes that were tried."""
    impossible = ~(log_density > -math.inf).any(0)  # NaN is none either
    if bool(impossible.any()):
        raise ImpossibleError(impossible)


class Everywhere:
    """A distribution over codes whose log-density outside of its support is -inf, where some raise an error.

    `within` are codes in the support, of shape (n, latent_dim).
    """

    def __init__(self, law: Any, within: Tensor) -> None:
        self.law, self._within = law, within
        self.is_bounded = _is_bounded(law, within)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density at codes of shape (count, n, latent_dim)."""
        if not self.is_bounded:
            return self.law.log_prob(z)
        within = self.law.support.check(z)
        return torch.where(within, self.law.log_prob(torch.where(within[..., None], z, self._within)), -math.inf)


def _mean_if_any(p: Any) -> Tensor | None:
    """The mean of a distribution over items; None of one that has none, such as of categories."""
    try:
        return mean_of(p)
    except ValueError:
        return None


def _is_bounded(prior: Any, like: Tensor) -> bool:
    """Whether there are codes at which the prior has no density; a prior that states no support has none."""
    far = like.new_tensor([[-1e30], [1e30]]).expand(2, like.shape[-1])
    support = stated_support(prior)
    try:
        return support is not None and not bool(support.check(far).all())
    except NotImplementedError:  # one that depends on what it does not tell
        return False


def _require_independent(p: Any, event_shape: torch.Size) -> None:
    base = getattr(p, "base_dist", None)
    if base is None or base.batch_shape[-len(event_shape) :] != event_shape or base.event_shape:
        raise ValueError(
            "likelihood must have entries that are independent given the code, one term per entry, to leave out the "
            f"missing ones; got {type(p).__name__} with event shape {tuple(p.event_shape)}"
        )
