"""Codes given the seen entries by Pyro's No-U-Turn sampler: the chains of all items in one potential."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pyro.infer.mcmc import NUTS
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor
from torch.distributions import biject_to

from pyrovae.models.imputation.modes import Modes
from pyrovae.models.imputation.seen import POOL, Parts
from pyrovae.models.scopes import Workspace

__all__ = ["NoUTurn"]

CHAINS = 4  # an item
ROWS = 256  # items that share a potential, and with it a step size
DEPTH = 8  # of a tree: at most 255 decodings a draw
WORST_R_HAT = 1.5  # of chains of some tens of draws
LEAST_DRAWS = 10  # of a chain whose R-hat is looked at


class NoUTurn:
    """Four chains per item after `num_steps` steps of warm-up, in which the step size is set, by Pyro's NUTS.

    The chains of up to 256 items are one potential, the sum of theirs, so that a step decodes them all together. Each
    chain starts at a mode of its item's p(z | x_seen), drawn by the mode's share, and moves in the coordinates in which
    the curvature there is the identity; where the prior has a bounded support, the coordinates are those of
    `torch.distributions.biject_to`. Draws of one chain are dependent, and a chain does not cross from one mode to
    another that lies far from it, which "mcmc" does. (Hoffman and Gelman 2014, algorithm 6.)
    """

    name: ClassVar[str] = "nuts"

    def __init__(self, parts: Parts, num_draws: int, num_steps: int, room: int, space: Workspace) -> None:
        self.parts, self._num_draws, self._num_steps, self._space = parts, num_draws, num_steps, space
        self._chains = min(CHAINS, num_draws)
        self.rows_at_once = min(ROWS, max(1, room // max(num_draws, POOL)))
        self._r_hat: list[Tensor] = []
        self._divergences = self._steps = 0

    def codes(self, x: Tensor, seen: Tensor) -> Iterator[Tensor]:
        """Codes of n items given what is seen, all in one part of shape (num_draws, n, latent_dim)."""
        space, each = self._space, math.ceil(self._num_draws / self._chains)
        with space.turn():
            potential = _Potential(self.parts, x, seen, self._chains)
            kernel: Any = NUTS(potential_fn=potential, adapt_mass_matrix=potential.is_bounded, max_tree_depth=DEPTH)
            kernel.initial_params = at = {"latent": potential.start}
            with torch.enable_grad():
                kernel.setup(self._num_steps)
        kept = []
        for step in range(self._num_steps + each):
            with space.turn(), torch.enable_grad():
                at = kernel.sample(at)
            if step >= self._num_steps:
                kept.append(potential.codes(at["latent"].detach()))
        draws = torch.stack(kept)  # (each, chains, n, latent_dim)
        self._divergences += len(kernel.diagnostics()["divergences"])
        self._steps += each
        some_seen = seen.flatten(1).any(1)
        if each >= LEAST_DRAWS and self._chains > 1:
            r_hat = split_gelman_rubin(draws.double(), chain_dim=1, sample_dim=0)
            self._r_hat.append(r_hat.max(-1).values[some_seen])
        with space.turn():
            z = potential.or_prior_where_nothing_is_seen(draws.flatten(0, 1)[: self._num_draws])
        yield z

    def doubts(self) -> list[str]:
        """Warnings where chains have not met, or where the step size was too long for the shape of the posterior."""
        doubts = []
        r_hat = torch.cat(self._r_hat) if self._r_hat else torch.zeros(0)
        apart = int((r_hat > WORST_R_HAT).sum())
        if apart:
            doubts.append(
                f"impute by 'nuts': the chains of {apart} of {len(r_hat)} items have not met (R-hat up to "
                f"{float(r_hat.max()):.2f}), as those of separate modes do not: use method='mcmc', or raise num_steps"
            )
        if self._divergences:
            doubts.append(
                f"impute by 'nuts': {self._divergences} of {self._steps} steps diverged, and the draws may lack codes "
                "where p(z | x_seen) is steep: raise num_steps, or use method='mcmc'"
            )
        return doubts


class _Potential(Modes):
    """-log p(z, x_seen), summed over chains and items, in coordinates u of shape (chains, n, latent_dim)."""

    def __init__(self, parts: Parts, x: Tensor, seen: Tensor, chains: int) -> None:
        super().__init__(parts, x, seen)
        if self.is_bounded:
            self.onto = _bijection(self.prior.support)
            likely = self.log_likelihood(self.pool).nan_to_num(-1e30, neginf=-1e30).softmax(0)
            which = torch.multinomial(likely.T, chains, replacement=True).T
            self.start = self.onto.inv(self.pool.gather(0, which[..., None].expand(-1, -1, self.pool.shape[-1])))
            self.height = self.log_density(self.pool).max(0).values
            return
        which = torch.multinomial(self.weights.T, chains, replacement=True).T
        item = torch.arange(which.shape[1], device=which.device)
        self.centre, self.scaled = self.modes[which, item], self.axes[which, item]
        self.scaled = self.scaled * self.precisions[which, item].rsqrt()[..., None, :]
        self.start = torch.randn_like(self.centre)
        worse = ~self.log_density(self.codes(self.start)).isfinite()
        self.start = torch.where(worse[..., None], 0.0, self.start)
        self.height = self.log_density(self.modes).max(0).values  # taken off: sums of many items keep their digits

    def codes(self, u: Tensor) -> Tensor:
        """The codes at coordinates u."""
        if self.is_bounded:
            z: Tensor = self.onto(u)
            return z
        return self.centre + (self.scaled @ u[..., None]).squeeze(-1)

    def __call__(self, u: dict[str, Tensor]) -> Tensor:
        z = self.codes(u["latent"])
        density = self.log_density(z) - self.height
        if self.is_bounded:
            volume = self.onto.log_abs_det_jacobian(u["latent"], z)
            density = density + volume.reshape(*density.shape, -1).sum(-1)
        return -density.sum()


def _bijection(support: Any) -> Any:
    try:
        return biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"method 'nuts' needs a prior whose support has a bijection from the real codes, which {support} has not; "
            "use method='mcmc'"
        ) from None
