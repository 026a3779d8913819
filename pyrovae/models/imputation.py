"""Draws of missing entries given the seen ones: independent Markov chains over the code, then p(x | z)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.models.laws import stated_support
from pyrovae.models.means import mean_of
from pyrovae.models.scopes import Workspace, copied
from pyrovae.seeding import Noise

__all__ = ["draw_missing"]

CHUNK_BYTES = 256 * 2**20  # what the chains that run together may take
LAYERS_ALIVE = 32  # copies of the widest layer counted for one chain
POOL = 64  # draws of the prior an item, of which the modes are sought from the likeliest
MODES = 6  # places an item where a mode is sought, the encoder's included
NEWTON_STEPS = 25
DEGREES = 10.0  # of freedom of a mode's Student t: tails heavier than the conditional's
PRIOR_SHARE = 0.25  # of the independent proposals
EVEN_SHARE = 0.2  # of the modes' weights, spread evenly in case their heights mislead


def draw_missing(
    prior: nn.Module,
    likelihood: nn.Module,
    posterior: nn.Module,
    x: Tensor,
    *,
    num_draws: int,
    num_steps: int,
    noise: Noise | None = None,
) -> Tensor:
    """Draw p(x_missing | x_seen), NaN for missing: (N, *event_shape) -> (num_draws, N, *event_shape).

    p(x_missing | x_seen) is the mean of p(x_missing | z) over p(z | x_seen), the entries being independent given the
    code. One chain a draw and item aims at p(z | x_seen), proportional to p(z) prod_seen p(x_j | z), by
    Metropolis-Hastings steps of two kinds in turn: an independent proposal and a random walk. Both take their shape
    from the item's modes, sought by Newton's method from the encoder's code and from draws of the prior: the
    independent proposal is a fixed mixture of the prior and a Student t at each mode, the walk has a mode's covariance.
    The chains start at draws of that mixture, and given the modes they are independent. An item without a seen entry
    needs no chain: its code is a draw of the prior. (Mattei and Frellsen 2018, algorithm 1, whose chain keeps the
    missing entries in its state and proposes from the encoder alone; here they are summed out.)

    The random numbers are those of `noise`, or torch's global generator's; no gradients. Half precision is drawn in
    float32 with the same weights, and rounded at the end. An item without a missing entry comes back as it is in every
    draw. Raises ValueError for a likelihood whose entries are not independent given the code.

    >>> import torch
    >>> import pyrovae
    >>> from pyrovae.models.imputation import draw_missing
    >>> vae = pyrovae.mlp_vae((3,))
    >>> x = torch.tensor([[1.0, 0.0, torch.nan]])
    >>> draw_missing(vae.prior, vae.likelihood, vae.posterior, x, num_draws=5, num_steps=10).shape
    torch.Size([5, 1, 3])
    """
    # the search for modes needs gradients, which an inference tensor cannot give
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        seen = ~torch.isnan(x)
        wanting = torch.nonzero(~seen.flatten(1).all(1)).flatten()
        draws = x.expand(num_draws, *x.shape).clone()
        if not len(wanting):
            return draws
        if x.dtype.itemsize < 4:
            # a chain compares sums of log-densities, of which half precision keeps two or three figures
            prior, likelihood, posterior = (m.float() for m in copied((prior, likelihood, posterior)))
            x = x.float()
        space = Workspace(prior, likelihood, posterior, noise=noise, checks=None)
        chains = max(1, CHUNK_BYTES // _bytes_per_chain(prior, likelihood, x))
        for rows in wanting.split(max(1, chains // max(num_draws, POOL))):
            with space.turn():
                conditional = _Conditional(prior, likelihood, posterior, x[rows], seen[rows])
            for start in range(0, num_draws, chains):
                stop = min(start + chains, num_draws)
                z = conditional.codes(stop - start, num_steps, space)
                with space.turn():
                    drawn = likelihood(z).sample()
                draws[start:stop, rows] = torch.where(seen[rows], x[rows], drawn).to(draws.dtype)
    return draws


class _Conditional:
    """The unnormalised p(z | x_seen) of n items, and the proposals of its Markov chains."""

    def __init__(self, prior: Any, likelihood: Any, posterior: Any, x: Tensor, seen: Tensor) -> None:
        self.prior, self.likelihood, self.seen = prior(), likelihood, seen
        pool = self.prior.sample((POOL, len(x)))
        self.is_bounded = _is_bounded(self.prior, pool)
        self.within = pool[0]  # codes that the prior's density is defined at
        p = likelihood(pool)
        _require_independent(p, x.shape[1:])
        self.inside = torch.where(seen, x, p.sample()[0])  # a draw of p(x) lies in the support; NaN has no place in it
        mean = _mean_if_any(p)
        filled = torch.where(seen, x, self.inside if mean is None else mean.mean(0))
        for _ in range(3):
            p = likelihood(mean_of(posterior(filled)))
            mean = _mean_if_any(p)
            filled = torch.where(seen, x, p.mode if mean is None else mean)
        # Gumbel noise on the log-likelihood: distinct draws of the pool, the likely ones first
        noisy = self.log_likelihood(pool) - (-torch.rand_like(pool[..., 0]).log()).log()
        best = noisy.topk(MODES - 1, dim=0).indices[..., None].expand(-1, -1, pool.shape[-1])
        self.least_precision = 0.25 / pool.flatten(0, 1).var(0).mean()  # nothing is proposed wider than twice the prior
        self.modes, height, self.precisions, self.axes = self._climb(
            torch.cat([mean_of(posterior(filled))[None], pool.gather(0, best)])
        )
        self.log_volume = -0.5 * self.precisions.log().sum(-1)
        weights = (height + self.log_volume).nan_to_num(-1e30, neginf=-1e30).softmax(0)
        self.weights = (1 - EVEN_SHARE) * weights + EVEN_SHARE / MODES  # (MODES, n)

    def codes(self, count: int, num_steps: int, space: Workspace) -> Tensor:
        """`count` draws of p(z | x_seen) per item, shape (count, n, latent_dim); each step is a turn."""
        with space.turn():
            z = self.propose(count)
            if self.is_bounded:
                z = torch.where(self._is_within(z)[..., None], z, self.prior.sample(z.shape[:-1]))
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
        some_seen = self.seen.flatten(1).any(1)[:, None]
        with space.turn():
            others = self.prior.sample((count, len(self.seen)))
        return torch.where(some_seen, z, others)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x_seen | z), in which the terms of missing entries are left out."""
        terms = self.likelihood(z).base_dist.log_prob(self.inside)
        return torch.where(self.seen, terms, 0.0).flatten(2).sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z, x_seen)."""
        return self.log_prior(z) + self.log_likelihood(z)

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z), -inf outside of the prior's support, where some distributions raise an error."""
        if not self.is_bounded:
            return self.prior.log_prob(z)
        within = self._is_within(z)
        return torch.where(within, self.prior.log_prob(torch.where(within[..., None], z, self.within)), -math.inf)

    def _is_within(self, z: Tensor) -> Tensor:
        return self.prior.support.check(z)

    def propose(self, count: int) -> Tensor:
        """Draws of the independent proposal: the prior, or a Student t at one of the modes."""
        centre, noise = self._at_a_mode(count)
        chi2 = torch.distributions.Chi2(noise.new_tensor(DEGREES)).sample((*noise.shape[:-1], 1))
        from_prior = torch.rand_like(noise[..., :1]) < PRIOR_SHARE
        return torch.where(from_prior, self.prior.sample(noise.shape[:-1]), centre + noise * (DEGREES / chi2).sqrt())

    def log_proposal(self, z: Tensor) -> Tensor:
        """The log-density of `propose`."""
        half = (DEGREES + z.shape[-1]) / 2
        constant = math.lgamma(half) - math.lgamma(DEGREES / 2) - z.shape[-1] / 2 * math.log(DEGREES * math.pi)
        terms = [math.log(PRIOR_SHARE) + self.log_prior(z)]
        shapes = zip(self.weights, self.modes, self.precisions, self.axes, self.log_volume, strict=True)
        for weight, mode, precision, axes, log_volume in shapes:
            distance = (((z - mode)[..., None, :] @ axes).squeeze(-2).square() * precision).sum(-1)
            log_t = constant - log_volume - half * torch.log1p(distance / DEGREES)
            terms.append(math.log1p(-PRIOR_SHARE) + weight.log() + log_t)
        return torch.stack(terms).logsumexp(0)

    def _stride(self, count: int) -> Tensor:
        """Steps of the random walk."""
        _, noise = self._at_a_mode(count)
        # lengths over a factor of 30: a curved ridge wants shorter steps than a Gaussian does
        return 2.4 / math.sqrt(noise.shape[-1]) * 10 ** (-1.5 * torch.rand_like(noise[..., :1])) * noise

    def _at_a_mode(self, count: int) -> tuple[Tensor, Tensor]:
        """Modes drawn by weight, and centred Normal noise of their covariance; both (count, n, latent_dim)."""
        which = torch.multinomial(self.weights.T, count, replacement=True).T
        item = torch.arange(which.shape[1], device=which.device)
        centre, axes = self.modes[which, item], self.axes[which, item]
        white = torch.randn_like(centre) * self.precisions[which, item].rsqrt()
        return centre, (axes @ white[..., None]).squeeze(-1)

    def _climb(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Modes near the starts by damped Newton steps; the log-density there, the precisions and their axes."""
        damping = torch.ones_like(z[..., :1])
        value, gradient, precisions, axes = self._derivatives(z)
        for _ in range(NEWTON_STEPS):
            along = (gradient[..., None, :] @ axes).squeeze(-2) / (precisions + damping * self.least_precision)
            there = z + (axes @ along[..., None]).squeeze(-1)
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


def _bytes_per_chain(prior: Any, likelihood: nn.Module, x: Tensor) -> int:
    sizes = [size for p in likelihood.parameters() for size in p.shape]
    widest = max(x[0].numel(), prior().event_shape[-1] ** 2, *sizes)
    return LAYERS_ALIVE * widest * x.element_size()
