"""The modes of p(z | x_seen) and their shapes, sought by Newton's method from the encoder's code and from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.models.imputation.seen import Parts, SeenDensity, require_possible
from pyrovae.models.means import mean_of

__all__ = ["Modes"]

MODES = 6  # places an item where a mode is sought, the encoder's included
NEWTON_STEPS = 25  # at the most
ENOUGH = 1e-4  # nats below a mode, which moves a proposal by about a hundredth of its standard deviation
SMALL = 8  # matrices of each code, up to which products and sums cost less than so many calls of a matrix product


class Modes(SeenDensity):
    """log p(z, x_seen) of n items, and a normal approximation at each of its modes.

    Attributes:
        modes: their codes, (MODES, n, latent_dim).
        precisions, axes: eigenvalues and eigenvectors of minus the Hessian there, made positive definite.
        weights: the share of each mode by Laplace's method, (MODES, n).
    """

    def __init__(self, parts: Parts, x: Tensor, seen: Tensor) -> None:
        super().__init__(parts, x, seen)
        filled, pool = self.filled_by_means(), self.pool
        # Gumbel noise on the log-likelihood: distinct draws of the pool, the likely ones first
        noisy = self.log_likelihood(pool) - (-torch.rand_like(pool[..., 0]).log()).log()
        best = noisy.topk(MODES - 1, dim=0).indices[..., None].expand(-1, -1, pool.shape[-1])
        self.least_precision = 0.25 / pool.flatten(0, 1).var(0).mean()  # nothing is proposed wider than twice the prior
        self.modes, height, self.precisions, self.axes = self._climb(
            torch.cat([mean_of(self.posterior(filled))[None], pool.gather(0, best)])
        )
        require_possible(height)
        self.log_volume = -0.5 * self.precisions.log().sum(-1)
        self.weights = (height + self.log_volume).nan_to_num(-1e30, neginf=-1e30).softmax(0)

    def normal_at_a_mode(self, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Modes drawn by weight, and centred Normal noise of their covariance; both (count, n, latent_dim)."""
        which = torch.multinomial(weights.T, count, replacement=True).T
        item = torch.arange(which.shape[1], device=which.device)
        centre, axes = self.modes[which, item], self.axes[which, item]
        white = torch.randn_like(centre) * self.precisions[which, item].rsqrt()
        return centre, _times(axes, white)

    def _climb(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Modes near the starts by damped Newton steps; the log-density there, the precisions and their axes."""
        damping = torch.ones_like(z[..., :1])
        value, gradient, precisions, axes = self._derivatives(z)
        for _ in range(NEWTON_STEPS):
            slope = _times(axes.mT, gradient)
            if not bool((0.5 * (slope.square() / precisions).sum(-1) > ENOUGH).any()):
                break  # what a whole step would gain by the quadratic approximation, at every start
            there = z + _times(axes, slope / (precisions + damping * self.least_precision))
            value_there, gradient_there, precisions_there, axes_there = self._derivatives(there)
            better = value_there > value
            row = better[..., None]
            z = torch.where(row, there, z)
            value = torch.where(better, value_there, value)
            gradient = torch.where(row, gradient_there, gradient)
            precisions = torch.where(row, precisions_there, precisions)
            axes = torch.where(row[..., None], axes_there, axes)
            damping = torch.where(row, damping / 5, damping * 5).clamp(1e-4, 1e8)
        return z, value, precisions, axes

    def _derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log p(z, x_seen), its gradient, and minus its Hessian made positive definite: eigenvalues and axes."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_density(z)
            (gradient,) = torch.autograd.grad(value.sum(), z, create_graph=True)
            rows = [torch.autograd.grad(part.sum(), z, retain_graph=True)[0] for part in gradient.unbind(-1)]
        gradient, hessian = gradient.detach(), torch.stack(rows, -1)
        finite = hessian.flatten(2).isfinite().all(-1, keepdim=True) & gradient.isfinite().all(-1, keepdim=True)
        hessian = torch.where(finite[..., None], hessian, 0.0)
        precisions, axes = torch.linalg.eigh(-(hessian + hessian.mT) / 2)
        return value.detach(), torch.where(finite, gradient, 0.0), precisions.clamp(min=self.least_precision), axes


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """The product of each matrix with its vector, (..., d, d) and (..., d) -> (..., d)."""
    if vectors.shape[-1] <= SMALL:
        return (matrices * vectors[..., None, :]).sum(-1)
    return (matrices @ vectors[..., None]).squeeze(-1)
