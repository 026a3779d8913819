"""Codes given the seen entries by Markov chains: a chain a draw and item, of Metropolis-Hastings steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.models.imputation.modes import MODES, Modes
from pyrovae.models.imputation.seen import POOL, Parts
from pyrovae.models.scopes import Workspace

__all__ = ["MarkovChain"]

DEGREES = 10.0  # of freedom of a mode's Student t: tails heavier than the conditional's
PRIOR_SHARE = 0.25  # of the independent proposals
EVEN_SHARE = 0.2  # of the modes' weights, spread evenly in case their heights mislead


class MarkovChain:
    """A chain of `num_steps` steps behind each draw, from p(z | x_seen) as `num_steps` grows.

    Metropolis-Hastings steps of two kinds in turn: an independent proposal and a random walk. Both take their shape
    from the item's modes, sought by Newton's method from the encoder's code and from draws of the prior: the
    independent proposal is a fixed mixture of the prior and a Student t at each mode, the walk has a mode's covariance.
    The chains start at draws of that mixture, and given the modes they are independent. (Mattei and Frellsen 2018,
    algorithm 1, whose chain keeps the missing entries in its state and proposes from the encoder alone; here they are
    summed out.)
    """

    name: ClassVar[str] = "mcmc"

    def __init__(self, parts: Parts, num_draws: int, num_steps: int, room: int, space: Workspace) -> None:
        self.parts, self._num_draws, self._num_steps, self._room, self._space = (
            parts,
            num_draws,
            num_steps,
            room,
            space,
        )
        self.rows_at_once = max(1, room // max(num_draws, POOL))

    def codes(self, x: Tensor, seen: Tensor) -> Iterator[Tensor]:
        """Codes of n items given what is seen, in parts of shape (count, n, latent_dim) that are `num_draws` in all."""
        with self._space.turn():
            conditional = _Proposals(self.parts, x, seen)
        for start in range(0, self._num_draws, self._room):
            count = min(self._room, self._num_draws - start)
            z = conditional.walked(count, self._num_steps, self._space)
            with self._space.turn():
                z = conditional.or_prior_where_nothing_is_seen(z)
            yield z

    def doubts(self) -> list[str]:
        """Nothing: a single state of a chain tells nothing of its convergence."""
        return []


class _Proposals(Modes):
    """p(z, x_seen) and the proposals of its Markov chains."""

    def __init__(self, parts: Parts, x: Tensor, seen: Tensor) -> None:
        super().__init__(parts, x, seen)
        self.weights = (1 - EVEN_SHARE) * self.weights + EVEN_SHARE / MODES

    def walked(self, count: int, num_steps: int, space: Workspace) -> Tensor:
        """The ends of `count` chains per item, shape (count, n, latent_dim); each step is a turn."""
        with space.turn():
            z = self.propose(count)
            if self.is_bounded:
                z = torch.where(self.is_within(z)[..., None], z, self.prior.sample(z.shape[:-1]))
            density, proposal = self.log_density(z), self.log_proposal(z)
        for step in range(num_steps):
            walk = step % 2 == 1
            with space.turn():
                candidate = z + self._stride(count) if walk else self.propose(count)
                density_there, proposal_there = self.log_density(candidate), self.log_proposal(candidate)
                ratio = density_there - density
                if not walk:  # a walk is as likely there as back
                    ratio = ratio + proposal - proposal_there
                accepted = torch.rand_like(ratio).log() < ratio
            z = torch.where(accepted[..., None], candidate, z)
            density = torch.where(accepted, density_there, density)
            proposal = torch.where(accepted, proposal_there, proposal)
        return z

    def propose(self, count: int) -> Tensor:
        """Draws of the independent proposal: the prior, or a Student t at one of the modes."""
        centre, noise = self.normal_at_a_mode(self.weights, count)
        chi2 = torch.distributions.Chi2(noise.new_tensor(DEGREES)).sample((*noise.shape[:-1], 1))
        from_prior = torch.rand_like(noise[..., :1]) < PRIOR_SHARE
        return torch.where(from_prior, self.prior.sample(noise.shape[:-1]), centre + noise * (DEGREES / chi2).sqrt())

    def log_proposal(self, z: Tensor) -> Tensor:
        """The log-density of `propose`."""
        half = (DEGREES + z.shape[-1]) / 2
        constant = math.lgamma(half) - math.lgamma(DEGREES / 2) - z.shape[-1] / 2 * math.log(DEGREES * math.pi)
        # one product of matrices an item and mode, (count, d) by (d, d), and not one a code
        away = z.transpose(0, 1) - self.modes[:, :, None]
        whitened = away @ (self.axes * self.precisions.sqrt()[..., None, :])
        log_t = -half * torch.log1p(whitened.square().sum(-1) / DEGREES)  # (MODES, n, count)
        log_t = log_t + (constant - self.log_volume + self.weights.log() + math.log1p(-PRIOR_SHARE))[..., None]
        from_prior = math.log(PRIOR_SHARE) + self.log_prior(z)
        return torch.cat([from_prior.T[None], log_t]).logsumexp(0).T

    def _stride(self, count: int) -> Tensor:
        """Steps of the random walk."""
        _, noise = self.normal_at_a_mode(self.weights, count)
        # lengths over a factor of 30: a curved ridge wants shorter steps than a Gaussian does
        return 2.4 / math.sqrt(noise.shape[-1]) * 10 ** (-1.5 * torch.rand_like(noise[..., :1])) * noise
