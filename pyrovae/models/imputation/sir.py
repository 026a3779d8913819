"""Codes given the seen entries by sampling importance resampling from the encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.models.imputation.seen import POOL, Everywhere, Parts, SeenDensity, require_possible
from pyrovae.models.scopes import Workspace

__all__ = ["Resampling"]

COMPLETIONS = 8  # ways in which the missing entries are filled, each of which the encoder sees
ROUNDS = 5  # of a completion's chain
PRIOR_SHARE = 0.25  # of the proposals: no weight is above 4 p(x_seen | z)
CODE_BYTES = 64 * 2**20  # of the candidates that are kept until they are resampled


class Resampling:
    """`num_draws * num_steps` candidates per item, of which `num_draws` are kept by their importance weights.

    An encoder of whole items sees each one completed in 8 ways: from a likely draw of the prior, five times a code
    from the encoder and the missing entries from the likelihood (Rezende, Mohamed and Wierstra 2014, appendix F). The
    candidates come from the mixture q(z) = 1/4 p(z) + 3/4 (1/8) sum_m q(z | x_seen, x_missing^m), which is
    p(z | x_seen) but for the prior's share where the encoder is exact and the completions are draws of p(x_missing |
    x_seen); that share bounds the weights of an encoder that is not (Owen and Zhou 2000, section 2). From an encoder
    that takes missing entries half of the others come at the item as it is, from q(z | x_seen): it may never have been
    fitted to a whole item (Mattei and Frellsen 2019, section 3.2). The weights are p(z, x_seen) / q(z), and draws are
    taken by them with replacement (Rubin 1988): from p(z | x_seen) as `num_steps` grows. An item's effective sample
    size is (sum w)^2 / sum w^2.
    """

    name: ClassVar[str] = "sir"

    def __init__(self, parts: Parts, num_draws: int, num_steps: int, room: int, space: Workspace) -> None:
        self.parts, self._num_draws, self._room, self._space = parts, num_draws, room, space
        self._candidates = num_draws * num_steps
        latent_dim = parts.prior().event_shape[-1]
        kept = CODE_BYTES // (8 * self._candidates * latent_dim)
        self.rows_at_once = max(1, min(kept, room // max(num_draws, POOL)))
        self._sizes: list[Tensor] = []

    def codes(self, x: Tensor, seen: Tensor) -> Iterator[Tensor]:
        """Codes of n items given what is seen, in parts of shape (count, n, latent_dim) that are `num_draws` in all."""
        space, at_once = self._space, max(1, self._room // len(x))
        with space.turn():
            proposal = _Proposal(self.parts, x, seen)
            candidates = proposal.sample(self._candidates)
        log_weights = []
        for z in candidates.split(at_once):
            with space.turn():
                log_weights.append(proposal.log_density(z) - proposal.log_prob(z))
        require_possible(torch.cat(log_weights))
        log_weight = torch.cat(log_weights).double().nan_to_num(nan=-1e30, neginf=-1e30)
        weight = log_weight.softmax(0)
        some_seen = seen.flatten(1).any(1)
        self._sizes.append((1 / weight.square().sum(0))[some_seen])
        with space.turn():
            kept = _by_weight(weight, self._num_draws)[..., None].expand(-1, -1, candidates.shape[-1])
            z = proposal.or_prior_where_nothing_is_seen(candidates.gather(0, kept))
        yield from z.split(at_once)

    def doubts(self) -> list[str]:
        """A warning where an item's effective sample size is below the number of draws."""
        sizes = torch.cat(self._sizes)
        low = int((sizes < self._num_draws).sum())
        if not low:
            return []
        return [
            f"impute by 'sir': {low} of {len(sizes)} items have an effective sample size below num_draws = "
            f"{self._num_draws}, the least {float(sizes.min()):.1f} of {self._candidates} candidates; their draws "
            "repeat each other and spread too little: raise num_steps, or use method='mcmc'"
        ]


class _Proposal(SeenDensity):
    """p(z, x_seen), and the mixture of the prior and of the encoder's distributions at what is seen, or completed."""

    def __init__(self, parts: Parts, x: Tensor, seen: Tensor) -> None:
        super().__init__(parts, x, seen)
        likely = self.log_likelihood(self.pool).nan_to_num(-1e30, neginf=-1e30).softmax(0)
        start = torch.multinomial(likely.T, COMPLETIONS, replacement=True).T
        z = self.pool.gather(0, start[..., None].expand(-1, -1, self.pool.shape[-1]))
        of_seen = self.posterior_of_seen()
        at_seen = [] if of_seen is None else [Everywhere(of_seen, of_seen.sample())]
        self.components = [self.everywhere, *at_seen, *(self._at_a_completion(each) for each in z)]
        self.counts: list[int] = []

    def _at_a_completion(self, z: Tensor) -> Everywhere:
        """The encoder's distribution at an item that a short chain from these codes has completed."""
        for _ in range(ROUNDS):
            q = self.posterior(torch.where(self.seen, self.inside, self.likelihood(z).sample()))
            z = q.sample()
        return Everywhere(q, z)

    def sample(self, count: int) -> Tensor:
        """Candidates, shape (count, n, latent_dim); each component has its share of them, and not by chance."""
        from_prior = math.ceil(PRIOR_SHARE * count)
        directly = [(count - from_prior) // 2] if len(self.components) > 1 + COMPLETIONS else []
        each, more = divmod(count - from_prior - sum(directly), COMPLETIONS)
        self.counts = [from_prior, *directly, *(each + (m < more) for m in range(COMPLETIONS))]
        pairs = zip(self.components, self.counts, strict=True)
        return torch.cat(
            [p.law.sample((few, len(self.seen)) if i == 0 else (few,)) for i, (p, few) in enumerate(pairs)]
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of the mixture that `sample` has drawn from."""
        pairs = zip(self.components, self.counts, strict=True)
        terms = [math.log(few / sum(self.counts)) + p.log_prob(z) for p, few in pairs if few]
        return torch.stack(terms).logsumexp(0)


def _by_weight(weight: Tensor, count: int) -> Tensor:
    """Indices drawn by weight, with replacement, for each column: (K, n) -> (count, n)."""
    ends = weight.cumsum(0)
    at = torch.rand(weight.shape[1], count, dtype=weight.dtype, device=weight.device) * ends[-1][:, None]
    return torch.searchsorted(ends.T.contiguous(), at, right=True).clamp(max=len(weight) - 1).T
