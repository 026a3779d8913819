"""The VampPrior: the mean of the posteriors of learned pseudo-items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.parameter import is_lazy

from pyrovae import checks
from pyrovae.models.finite_mixture import FiniteMixture
from pyrovae.models.items import checked_beside
from pyrovae.models.laws import as_pyro
from pyrovae.models.pair import covariate_dim_of
from pyrovae.models.registry import register
from pyrovae.models.scopes import Workspace
from pyrovae.models.trial import unchanged
from pyrovae.seeding import Noise, forked, stream

__all__ = ["VampPrior"]

EDGE = 0.01  # how close to an end of the support, as a share of it, an item may start a pseudo-input


@register("vamp", kind="prior")
class VampPrior(nn.Module):
    """p(z) = 1/K sum_k q(z | u_k): the mean of the posteriors of K learned pseudo-inputs (Tomczak and Welling 2018).

    (Section 2.3, equation 9.) The pseudo-inputs u_k, `num_components` of the shape of an item, are trained with the
    pair; the posterior is the pair's own, and gets gradients from the prior too. They stay inside of the likelihood's
    support: a sigmoid keeps them between two ends (0 and 1 of binary entries), a softplus above one. The paper takes
    500 for MNIST. At the start they are draws from torch's generator, or items of your own by `initialise_from(x)`.

    In a pair given covariates it is p(z) = 1/K sum_k q(z | u_k, c_k): each pseudo-input has covariates of its own,
    `pseudo_covariates`, which are trained too and may be any real numbers, also where those of items are 0 and 1. The
    prior itself does not depend on covariates, and approximates the codes of all items together, which is the best
    such prior (Tomczak and Welling 2018, equation 8). 1/K sum_k q(z | u_k, c), with the covariates of the item, would
    be another prior, one that depends on them; "conditional" is the one here that does.

    The prior takes the posterior of the pair that it becomes part of, and is of no use before: ValueError. A copy of
    the pair has a prior of its own posterior. A prior belongs to one pair.

    >>> import torch
    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((5,), prior="vamp")
    >>> vae.prior.initialise_from(torch.ones(200, 5))
    >>> vae.prior().log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    raw: nn.Parameter
    pseudo_covariates: nn.Parameter | None

    def __init__(self, latent_dim: int, num_components: int = 100) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        self.num_components = checks.whole("num_components", num_components, bytes_each=8 * latent_dim)
        # in a list: the posterior is the pair's own, and not this module's a second time
        self._bound: list[Any] = []
        self._ends: tuple[float, float] = (-math.inf, math.inf)
        self.register_parameter("pseudo_covariates", None)

    def bind(self, posterior: nn.Module, event_shape: Sequence[int], support: constraints.Constraint | None) -> None:
        """Take the posterior of a pair, and make pseudo-inputs of the shape and within the support of its items.

        A pair calls this as it is built. Raises ValueError for a prior that is another pair's already, for a posterior
        that no gradient flows through to items, as one of categories, and for a support without ends that a number can
        be kept between.
        """
        if self._bound:
            if self._bound[0] is posterior:
                return
            raise ValueError(
                "prior is a VampPrior of another pair, whose posterior it takes: make a new one for this pair, "
                f"VampPrior({self.latent_dim}, num_components={self.num_components})"
            )
        self._ends = _ends_of(support)
        tensors = (t for t in (*posterior.parameters(), *posterior.buffers()) if t.is_floating_point())
        like = next(tensors, torch.empty(()))
        shape = (self.num_components, *event_shape)
        checks.whole("num_components", self.num_components, bytes_each=8 * math.prod(event_shape), device=like.device)
        self.raw = nn.Parameter(torch.randn(shape, dtype=like.dtype, device=like.device))
        if size := covariate_dim_of(posterior):
            rows = torch.randn(self.num_components, size, dtype=like.dtype, device=like.device)
            self.pseudo_covariates = nn.Parameter(rows)
        self._bound.append(posterior)
        self._require_gradient()

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u_k, shape (num_components, *event_shape), inside of the likelihood's support."""
        self._require_bound()
        low, high = self._ends
        if math.isfinite(low) and math.isfinite(high):
            return low + (high - low) * self.raw.sigmoid()
        if math.isfinite(low):
            return low + nn.functional.softplus(self.raw)
        if math.isfinite(high):
            return high - nn.functional.softplus(self.raw)
        return self.raw

    def initialise_from(self, x: Any, *, covariates: Any = None, seed: int = 0) -> None:
        """Start the pseudo-inputs at items of `x`, shape (N, *event_shape), chosen at random by `seed`.

        Each item at most once where there are enough. An entry at an end of the support starts a hundredth of the
        support (or 0.01, where it has one end) inside of it. In a pair given covariates they start with those of the
        items, `covariates` (N, D), or those that the split `x` carries. Raises ValueError for items of another shape,
        for values that are not finite or outside of the support, and for covariates that are missing or misshapen.
        """
        self._require_bound()
        given = checks.split_of(x, covariates=covariates)
        items = checks.checked_in_own_dtype(given.x, tuple(self.raw.shape[1:]))
        beside = checked_beside(self._bound[0], given.covariates, None, len(items))
        low, high = self._ends
        if bool(((items < low) | (items > high)).any()):
            raise ValueError(
                f"x must lie in [{low:g}, {high:g}], the likelihood's support; it goes from {float(items.min()):g} to "
                f"{float(items.max()):g}"
            )
        with torch.no_grad(), forked(stream(checks.seed(seed), "pseudo-inputs"), torch.device("cpu")):
            rounds = -(-self.num_components // len(items))
            rows = torch.cat([torch.randperm(len(items)) for _ in range(rounds)])[: self.num_components]
            chosen = items[rows].to(torch.float64)
            if math.isfinite(low) and math.isfinite(high):
                raw = ((chosen - low) / (high - low)).clamp(EDGE, 1 - EDGE).logit()
            elif math.isfinite(low) or math.isfinite(high):
                distance = (chosen - low if math.isfinite(low) else high - chosen).clamp(min=EDGE)
                raw = distance + torch.log(-torch.expm1(-distance))
            else:
                raw = chosen
            self.raw.copy_(raw)
            if self.pseudo_covariates is not None:
                self.pseudo_covariates.copy_(beside["covariates"].cpu()[rows])

    def forward(self) -> TorchDistribution:
        self._require_bound()
        components = as_pyro(self._posterior_at(self.pseudo_inputs, self.pseudo_covariates))
        equal = self.raw.new_full((self.num_components,), -math.log(self.num_components))
        return FiniteMixture(equal, components)

    def _posterior_at(self, x: Tensor, covariates: Tensor | None) -> Any:
        posterior = self._bound[0]
        return posterior(x) if covariates is None else posterior(x, covariates=covariates)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, num_components={self.num_components}"

    def _require_gradient(self) -> None:
        """Refuse an encoder that looks items up, as codes of categories: pseudo-inputs would never be trained."""
        posterior = self._bound[0]
        if any(is_lazy(parameter) for parameter in posterior.parameters()):
            return
        noise = Noise(0, self.raw.device)
        with Workspace(posterior, noise=noise).turn(), unchanged(posterior), torch.enable_grad():
            try:
                beside = None if self.pseudo_covariates is None else self.pseudo_covariates[:2]
                q = self._posterior_at(self.pseudo_inputs[:2], beside)
                value = q.log_prob(self.raw.new_zeros(self.latent_dim)).sum()
                gradient: Any = torch.autograd.grad(value, self.raw, allow_unused=True)[0]
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
                return  # what is wrong with a part is said where the pair looks at it
        if gradient is None:
            del self._bound[:]
            raise ValueError(
                "prior 'vamp' trains pseudo-inputs through the posterior, and no gradient reaches them: its encoder "
                "takes whole codes, as of categories, or rounds its items. Take prior 'mixture' or 'flow'"
            )

    def _require_bound(self) -> None:
        if not self._bound:
            raise ValueError(
                "a VampPrior takes the posterior of the pair that it is part of: build one first, as "
                "VAE(VampPrior(2), likelihood, posterior) or mlp_vae(..., prior='vamp')"
            )


def _ends_of(support: constraints.Constraint | None) -> tuple[float, float]:
    """The ends between which an encoder sees items; infinite where there is none."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is None or support is constraints.real or support is constraints.real_vector:
        return -math.inf, math.inf
    if support is constraints.boolean:
        return 0.0, 1.0
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    if ends == [None, None] or any(isinstance(end, Tensor) and end.numel() != 1 for end in ends):
        raise ValueError(
            "prior 'vamp' keeps its pseudo-inputs between the ends of the likelihood's support, and "
            f"{support} states none: take another prior, such as 'mixture' or 'flow'"
        )
    low, high = (None if end is None else float(end) for end in ends)
    return -math.inf if low is None else low, math.inf if high is None else high
