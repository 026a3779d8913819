"""The negative objective of a batch in nats per item: the ELBO with its KL term weighed, or the tighter bound."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.inference.elbo import negative_elbo
from pyrovae.models.pair import Pair, as_module, has_global_latents
from pyrovae.models.particles import particles

if TYPE_CHECKING:
    from pyrovae.inference.svi.options import Plan

__all__ = ["Loss"]


class _WeighLatents(Messenger):
    """Multiply the log-density of every unobserved site by beta, in model and guide alike: the KL term's weight."""

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


class Loss:
    """The negative objective in nats per item, differentiable; `total`: of how many items the batch is one."""

    def __init__(self, pair: Pair, total: int, plan: Plan, enumerates: bool, differentiable: bool) -> None:
        self.pair, self.total, self.plan, self.differentiable = pair, total, plan, differentiable
        bound, many = TraceEnum_ELBO if enumerates else Trace_ELBO, plan.num_particles > 1
        self.elbo = bound(num_particles=plan.num_particles, vectorize_particles=many, max_plate_nesting=1)
        self.is_global = has_global_latents(pair)  # their KL term counts once for all items

    def __call__(self, x: Tensor, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        """As Pyro's ELBO gives it, which waits for its value some times; where it may, without.

        `size` is that of the whole batch, of which `x` is this process's share.
        """
        if self.differentiable:
            return self.pure(x, y, beta, size)
        return self._of(self.elbo.differentiable_loss, x, y, beta, size)

    def pure(self, x: Tensor, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        """The loss without a read of its value, for a graph; sites without a reparameterised draw are refused."""
        return self._of(partial(negative_elbo, self.elbo), x, y, beta, size)

    def _of(self, elbo: Any, x: Tensor, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        if not len(x):  # fewer items than processes
            return 0.0 * torch.stack([p.sum() for p in as_module(self.pair).parameters() if p.requires_grad]).sum()
        if self.plan.objective == "iwae":
            table = particles(self.pair, x, self.plan.num_particles, allow_scale=False).log_weight
            return (len(x) * math.log(self.plan.num_particles) - table.logsumexp(0).sum()) / size
        model, guide = self.pair.model, self.pair.guide
        if beta is not None:
            model, guide = _WeighLatents(beta)(model), _WeighLatents(beta)(guide)
        if self.is_global:
            loss: Tensor = elbo(model, guide, *([x] if y is None else [x, y]), total=self.total) / self.total
            return loss
        return elbo(model, guide, x) / size
