"""Normalising flows as posterior and as prior: a normal that is bent by transforms with exact inverses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.registry import register
from pyrovae.models.splines import MonotoneSpline, spline_parameters
from pyrovae.warned import hushed

__all__ = ["FlowPosterior", "FlowPrior"]


@register("flow", kind="posterior")
class FlowPosterior(nn.Module):
    """q(z | x) of any shape: noise bent by splines and inverse autoregressive steps that depend on the item.

    z = loc(x) + scale(x) T_x(e), e ~ N(0, I). T_x has `num_transforms` blocks, each a monotone rational-quadratic
    spline of `num_bins` bins in each coordinate (Durkan et al. 2019, section 3.1) and an affine step whose shift and
    scale of a coordinate depend on those before it (Kingma et al. 2016, section 3; Pyro's `AffineAutoregressive`); the
    order is reversed from block to block. A linear map of the features to `context_dim` numbers is what T_x knows of
    the item. At the start T_x is the identity and q(z | x) a diagonal Normal.

    The density is exact at any code. At q's own draws it costs one pass; at given codes, as `gaps` and `code_space` ask
    for, one pass a coordinate and block. The mean has no closed form: `encode` takes that of 512 fixed draws.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import FlowPosterior
    >>> q = FlowPosterior(nn.Identity(), 3, 2)(torch.zeros(4, 3))
    >>> q.log_prob(torch.zeros(5, 4, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        network: nn.Module,
        features: int,
        latent_dim: int,
        num_transforms: int = 2,
        hidden_dim: int = 32,
        num_bins: int = 8,
        context_dim: int = 16,
    ) -> None:
        super().__init__()
        features = checks.whole("features", features)
        checks.whole("latent_dim", latent_dim, bytes_each=8 * features)
        checks.whole("num_transforms", num_transforms, most=1000)
        checks.whole("num_bins", num_bins, least=2, most=100)
        checks.whole("context_dim", context_dim, bytes_each=8 * features)
        width = max(checks.whole("hidden_dim", hidden_dim, bytes_each=12 * latent_dim), latent_dim)
        self.network = network
        self.loc = nn.Linear(features, latent_dim)
        self.raw_log_scale = nn.Linear(features, latent_dim)
        self.context = nn.Linear(features, context_dim)
        self.splines, self.steps = nn.ModuleList(), nn.ModuleList()
        for block in range(num_transforms):
            order = _order(latent_dim, block)
            self.splines.append(_started_at_zero(nn.Linear(context_dim, latent_dim * spline_parameters(num_bins))))
            with hushed(UserWarning):  # of one coordinate, which depends on the item alone
                step = ConditionalAutoRegressiveNN(
                    latent_dim, context_dim, [width], permutation=torch.tensor(order), nonlinearity=nn.SiLU()
                )
            step.order = order
            _started_at_zero(step.layers[-1])
            self.steps.append(step)

    def forward(self, x: Tensor) -> TorchDistribution:
        features = self.network(x)
        loc, scale = self.loc(features), bounded_scale(self.raw_log_scale(features))
        context = self.context(features)
        bends = []
        for spline, step in zip(self.splines, self.steps, strict=True):
            bends.append(MonotoneSpline(spline(context).unflatten(-1, (loc.shape[-1], -1))))
            bends.append(_Step(step, context))
        bends.append(transforms.AffineTransform(loc, scale, event_dim=1, cache_size=1))
        noise = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        return dist.TransformedDistribution(noise, bends)


@register("flow", kind="prior")
class FlowPrior(nn.Module):
    """p(z) of any shape: a masked autoregressive flow with splines, trained with the pair.

    z = T(e), e ~ N(0, I), with `num_transforms` blocks: the inverse of an affine step whose shift and scale of a
    coordinate depend on those before it (Papamakarios et al. 2017, section 3; Pyro's `AffineAutoregressive`), and a
    monotone rational-quadratic spline of `num_bins` bins in each coordinate (Durkan et al. 2019, section 3.1); the
    order is reversed from block to block. At the start it is N(0, I).

    The density is exact at any code, in one pass. A draw costs one pass a coordinate and block.

    >>> import torch
    >>> from pyrovae import FlowPrior
    >>> FlowPrior(2)().log_prob(torch.zeros(2)).detach()
    tensor(-1.8379)
    """

    def __init__(self, latent_dim: int, num_transforms: int = 2, hidden_dim: int = 32, num_bins: int = 8) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        checks.whole("num_transforms", num_transforms, most=1000)
        checks.whole("num_bins", num_bins, least=2, most=100)
        width = max(checks.whole("hidden_dim", hidden_dim, bytes_each=12 * latent_dim), latent_dim)
        self.splines, self.steps = nn.ParameterList(), nn.ModuleList()
        for block in range(num_transforms):
            self.splines.append(nn.Parameter(torch.zeros(latent_dim, spline_parameters(num_bins))))
            order = _order(latent_dim, block)
            with hushed(UserWarning):
                step = AutoRegressiveNN(latent_dim, [width], permutation=torch.tensor(order), nonlinearity=nn.SiLU())
            step.order = order
            _started_at_zero(step.layers[-1])
            self.steps.append(step)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        bends = []
        for raw, step in zip(self.splines, self.steps, strict=True):
            bends += [_Step(step).inv, MonotoneSpline(raw)]
        return dist.TransformedDistribution(dist.Normal(self.loc, self.scale).to_event(1), bends)


class _Step(transforms.AffineAutoregressive):
    """Pyro's affine autoregressive step, with an inverse in the dtype of what it is given.

    It is made for each call of a part: a step keeps its last draws, which a copy of the pair must not hold.
    """

    def __init__(self, network: Any, context: Tensor | None = None) -> None:
        super().__init__(network if context is None else partial(network, context=context))
        self.order: list[int] = network.order

    def _inverse(self, y: Tensor) -> Tensor:
        x = list(torch.zeros_like(y).unbind(-1))  # Pyro's starts in torch's default dtype, which may be another
        for j in self.order:
            loc, log_scale = self.arn(torch.stack(x, -1))
            log_scale = clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
            x[j] = (y[..., j] - loc[..., j]) * (-log_scale[..., j]).exp()
        self._cached_log_scale = log_scale
        return torch.stack(x, -1)


def _order(size: int, block: int) -> list[int]:
    """The coordinates in their order, reversed in every second block."""
    return list(range(size))[:: -1 if block % 2 else 1]


def _started_at_zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
