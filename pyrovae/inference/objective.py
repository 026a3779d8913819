"""The negative objective of a batch in nats per item: the ELBO with its KL term weighed, or the tighter bound."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from pyrovae.inference.elbo import negative_elbo, require_reparameterized
from pyrovae.inference.free_bits import floored_loss
from pyrovae.models.batch import Batch, items_of, options_of, weight_of
from pyrovae.models.pair import Pair, as_module, has_global_latents
from pyrovae.models.particles import refuse_scaled, score_functions, tabulated, traces

if TYPE_CHECKING:
    from pyrovae.inference.svi.options import Plan

__all__ = ["Loss", "weighted"]


class _WeighLatents(Messenger):
    """Multiply the log-density of every unobserved site by beta, in model and guide alike: the KL term's weight."""

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


class _WeighItems(Messenger):
    """Multiply the log-density of every site of an item by the item's weight over the mean one, in model and guide.

    Where a pair has latents that all items share, `shared`, these count once for all the items that the weights stand
    for: their sites, outside of the plate "data", are divided by the mean weight, as the number of items in the loss is
    not multiplied by it.
    """

    def __init__(self, weight: Tensor, mean_weight: float, *, shared: bool) -> None:
        super().__init__()
        self.weight, self.mean_weight, self.shared = weight / mean_weight, mean_weight, shared

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        of_item = not self.shared or any(frame.name == "data" for frame in msg["cond_indep_stack"])
        msg["scale"] = msg["scale"] * (self.weight if of_item else 1 / self.mean_weight)


def weighted(value: Tensor, weight: Tensor) -> Tensor:
    """The values of items, each as many times as it counts; one that does not count adds 0, whatever it is."""
    return torch.where(weight > 0, weight * value, 0.0)


class Loss:
    """The negative objective of a batch in nats per item, differentiable; `total` is the number of all items.

    Items that have a weight count that many times: the loss of a batch is the mean over its items of weight over
    `mean_weight`, that of all items, times the item's own.
    """

    def __init__(
        self,
        pair: Pair,
        total: int,
        plan: Plan,
        enumerates: bool,
        differentiable: bool,
        mean_weight: float = 1.0,
    ) -> None:
        self.pair, self.total, self.plan, self.differentiable = pair, total, plan, differentiable
        self.mean_weight = mean_weight
        bound, many = TraceEnum_ELBO if enumerates else Trace_ELBO, plan.num_particles > 1
        self.elbo = bound(num_particles=plan.num_particles, vectorize_particles=many, max_plate_nesting=1)
        self.is_global = has_global_latents(pair)  # their KL term counts once for all items
        self.floor_of: str | None = None  # what free bits are a floor of, once a loss has been computed

    def __call__(self, x: Tensor | Batch, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        """The loss of a batch: by Pyro's own ELBO, which reads its value, unless it can be had without that.

        `size` is that of the whole batch, of which `x` is this process's share.
        """
        if self.differentiable:
            return self.pure(x, y, beta, size)
        if self.plan.objective == "iwae":
            return self._importance_weighted(x, size)
        return self._of(self.elbo.differentiable_loss, x, y, beta, size)

    def pure(self, x: Tensor | Batch, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        """The loss without a read of its value, for a graph; sites without a reparameterised draw are refused."""
        if self.plan.objective == "iwae":
            return self._importance_weighted(x, size, pure=True)
        return self._of(partial(negative_elbo, self.elbo), x, y, beta, size)

    def _of(self, elbo: Any, x: Tensor | Batch, y: Tensor | None, beta: float | Tensor | None, size: int) -> Tensor:
        if not len(x):  # fewer items than processes
            return self._nothing()
        model, guide = self.pair.model, self.pair.guide
        weight = weight_of(x)
        if weight is not None:
            weighed = partial(_WeighItems, weight, self.mean_weight, shared=self.is_global)
            model, guide = weighed()(model), weighed()(guide)
        if self.plan.free_bits:
            floored, self.floor_of = floored_loss(
                self.elbo, model, guide, items_of(x), floor=self.plan.free_bits, beta=beta, **options_of(x)
            )
            return floored
        if beta is not None:
            model, guide = _WeighLatents(beta)(model), _WeighLatents(beta)(guide)
        if self.is_global:
            given = [items_of(x), *([] if y is None else [y])]
            loss: Tensor = elbo(model, guide, *given, total=self.total, **options_of(x)) / self.total
            return loss
        return elbo(model, guide, items_of(x), **options_of(x)) / size

    def _importance_weighted(self, x: Tensor | Batch, size: int, *, pure: bool = False) -> Tensor:
        """-log mean_k p(x, z_k) / q(z_k | x), of each item; its gradient is right whatever draws the guide has."""
        if not len(x):
            return self._nothing()
        count = self.plan.num_particles
        guide, model = traces(self.pair, x, count)
        refuse_scaled(model, guide)
        log_weight = tabulated(model, guide, x, count).log_weight
        bound, weight = log_weight.logsumexp(0), weight_of(x)
        if weight is None:
            loss = (len(x) * math.log(count) - bound.sum()) / size
        else:
            weight = weight / self.mean_weight
            loss = weighted(math.log(count) - bound, weight).sum() / size
        if self.differentiable:
            return loss
        score = score_functions(guide, x, count)
        if pure:
            require_reparameterized(prune_subsample_sites(model), prune_subsample_sites(guide))
        signal = (bound.detach() - math.log(count)) - _baseline(log_weight.detach())
        if weight is not None:
            signal = weighted(signal, weight)
        return loss - (signal * (score - score.detach())).sum() / size  # the value stays

    def _nothing(self) -> Tensor:
        """The loss of no items, zero, and a function of all parameters."""
        return 0.0 * torch.stack([p.sum() for p in as_module(self.pair).parameters() if p.requires_grad]).sum()


def _baseline(log_weight: Tensor) -> Tensor:
    """The bound with each draw's weight replaced by the others' geometric mean, (K, N) (Mnih and Rezende 2016, eq. 10).

    It is no function of that draw, so that taking it from the signal of its score function leaves the gradient's mean
    as it is, and most of its variance goes. Zero where the others say nothing.
    """
    count = len(log_weight)
    if count == 1:
        return torch.zeros_like(log_weight)
    # sums over the draws before and after each, as a difference of sums would have rounding of the draw's own
    downwards, upwards = log_weight, log_weight.flip(0)
    none = torch.full_like(log_weight[:1], -math.inf)
    before = torch.cat([none, downwards.logcumsumexp(0)[:-1]])
    after = torch.cat([none, upwards.logcumsumexp(0)[:-1]]).flip(0)
    zero = torch.zeros_like(log_weight[:1])
    sum_before = torch.cat([zero, downwards.cumsum(0)[:-1]])
    sum_after = torch.cat([zero, upwards.cumsum(0)[:-1]]).flip(0)
    geometric_mean = (sum_before + sum_after) / (count - 1)
    baseline = torch.logaddexp(torch.logaddexp(before, after), geometric_mean) - math.log(count)
    return baseline.where(baseline.isfinite(), torch.zeros_like(baseline))
