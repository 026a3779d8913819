"""What a run by steps lowers: a loss, the batches it is taken on, and what an epoch was; here the objective of SVI."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pyrovae import ranks
from pyrovae.data.batches import EACH
from pyrovae.inference.items import Items
from pyrovae.inference.objective import Loss
from pyrovae.models.batch import Batch, items_of, rebuilt, tensors_of
from pyrovae.models.pair import Pair, has_global_latents
from pyrovae.models.particles import particles
from pyrovae.seeding import stream

if TYPE_CHECKING:
    from pyrovae.inference.svi.options import Plan
    from pyrovae.inference.svi.plan import StepPlan
    from pyrovae.inference.svi.trial import Sites

__all__ = ["ItemsProblem", "Problem", "binary_draws", "drawn_binary", "not_finite", "ready"]


class Problem(Protocol):
    """What a `Loop` lowers. Its batches and its draws depend on the seed and the epoch alone: a run can be resumed.

    Attributes:
        source: the items that an epoch is a pass over, `batch_size` of them in a step.
        held_out: the validation items, with class numbers where the pair is a classifier; None where there are none.
        loss: `loss(*arguments)` is a scalar to be lowered, or a vector of which the first is, the others being noted.
        pure: the same for one compiled graph, without a read of any value; None where there is no such loss.
        elements: the number of elements that the layers put out in a step of a whole batch.
    """

    source: Items
    batch_size: int
    held_out: Items | None
    elements: int

    @property
    def loss(self) -> Callable[..., Tensor]: ...
    @property
    def pure(self) -> Callable[..., Tensor] | None: ...

    def batches(self, epoch: int, start: int = 0, draws: torch.Generator | None = None) -> Iterator[tuple[Any, ...]]:
        """An epoch's batches on the device from batch `start` on, binary where that is asked for.

        `draws`, of `binary_draws`, must have drawn the batches before; None stands for a new one.
        """

    def arguments(self, batch: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        """The arguments of the loss at a batch, in a step counted over all epochs; the last is the batch's size."""

    def row(self, losses: Tensor, step: int) -> dict[str, float]:
        """What an epoch was whose losses are these, in float64 on the host, and whose last step this is."""

    def fingerprints(self) -> dict[str, Any]:
        """What says of the items whether a run that goes on has the same ones."""

    def broken_terms(self, batch: tuple[Any, ...]) -> str:
        """In words, the terms of the loss that are not finite at a batch where the loss is not."""


def ready(
    batch: Any, device: torch.device, draws: torch.Generator | None, share: slice = EACH, size: int | None = None
) -> Any:
    """Items on the device: binary ones that `draws` draws, or where None as they are.

    `share` is which of the `size` items of a batch they are: a process that has some of them draws as one of all.
    """
    x = batch.to(device)
    if draws is None:  # an inference tensor has no gradient to save it for
        return rebuilt(x, [t.clone() if t.is_inference() else t for t in tensors_of(x)])
    drawn = drawn_binary(items_of(x), draws, share, size)
    return x.with_items(drawn) if isinstance(x, Batch) else drawn


def drawn_binary(
    x: Tensor, draws: torch.Generator | None = None, share: slice = EACH, size: int | None = None
) -> Tensor:
    """Entries 0 and 1 with the entries of `x` as the probabilities of 1; NaN, a missing entry, stays.

    Where `x` are the `share` of `size` items, the generator goes on as far as it does for all of them.
    """
    missing = x.isnan()
    probability = torch.where(missing, 0.0, x)
    if size is not None and size > len(x):
        whole = probability.new_zeros(size, *x.shape[1:])
        whole[share] = probability
        probability = whole
    return torch.bernoulli(probability, generator=draws)[share].masked_fill(missing, torch.nan)


def binary_draws(plan: StepPlan, epoch: int, device: torch.device) -> torch.Generator | None:
    """What draws an epoch's binary items, for `ready`; None where items are taken as they are."""
    return torch.Generator(device).manual_seed(stream(plan.seed, "binarize", epoch)) if plan.binarize else None


def not_finite(parts: Mapping[str, Tensor]) -> str:
    """The names of the parts that are not finite in each entry."""
    return ", ".join(name for name, part in parts.items() if not part.isfinite().all()) or "a sum"


class ItemsProblem:
    """The negative ELBO of items, or its tighter bound, or a classifier's log-loss; processes share a batch."""

    def __init__(
        self, pair: Pair, plan: Plan, source: Items, held_out: Items | None, device: torch.device, sites: Sites
    ) -> None:
        self.pair, self.plan, self.source, self.held_out, self.device = pair, plan, source, held_out, device
        self.ranks = ranks.current()
        self.batch_size, self.steps_per_epoch = plan.batch_size, math.ceil(len(source) / plan.batch_size)
        differentiable = sites.differentiable and not sites.enumerates
        self.loss = Loss(pair, len(source), plan, sites.enumerates, differentiable, source.mean_weight)
        if plan.compile is True and sites.enumerates:
            raise ValueError("compile=True is for draws, and this pair has a site that is summed out: leave it out")
        self.pure = None if sites.enumerates else self.loss.pure
        self.elements = sites.elements * plan.num_particles * min(plan.batch_size, len(source))

    def batches(
        self, epoch: int, start: int = 0, draws: torch.Generator | None = None
    ) -> Iterator[tuple[Any, Tensor | None]]:
        """This process's share of an epoch's items and labels."""
        draws = binary_draws(self.plan, epoch, self.device) if draws is None else draws
        share = None if self.ranks.size == 1 else self.ranks.share
        size, turns = self.plan.batch_size, slice(start, None)
        read = self.source.batches(size, seed=self.plan.seed, epoch=epoch, share=share, turns=turns)
        for number, (batch, label) in enumerate(read, start):
            whole = min(size, len(self.source) - number * size)
            x = ready(batch, self.device, draws, self.ranks.share(whole), whole)
            yield x, None if label is None else label.to(self.device)

    def arguments(self, batch: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        """Items, labels, the weight of the KL term where it is none of 1, and the size of the whole batch."""
        beta = None
        if self.plan.beta != 1 or self.plan.warmup:
            beta = self.plan.weight(step, self.steps_per_epoch)
        done = step % self.steps_per_epoch * self.plan.batch_size
        return *batch, beta, min(self.plan.batch_size, len(self.source) - done)

    def row(self, losses: Tensor, step: int) -> dict[str, float]:
        """The loss, each item alike, and the weight of the KL term in the last step."""
        sizes = torch.full_like(losses, self.plan.batch_size)
        sizes[-1] = len(self.source) - self.plan.batch_size * (len(losses) - 1)
        mean = float(losses @ sizes) / len(self.source)
        return {"loss": mean, "beta": self.plan.weight(step, self.steps_per_epoch)}

    def fingerprints(self) -> dict[str, Any]:
        """Those of the items and of the validation items, labels and what lies beside them included."""
        held_out = None if self.held_out is None else self.held_out.fingerprint
        return {"items": self.source.fingerprint, "validation_items": held_out}

    def broken_terms(self, batch: tuple[Any, ...]) -> str:
        """The densities of an item of this process's share of the batch that are not finite."""
        if not len(batch[0]):
            return "a sum over processes"
        if has_global_latents(self.pair):
            return "the log-density of the parameters or the items"
        try:
            table = particles(self.pair, batch[0], 1)
        except ValueError:  # a site that is no item's own
            return "a sum"
        parts = {"log p(x | z)": table.log_likelihood, "log p(z)": table.log_prior, "log q(z | x)": table.log_guide}
        return not_finite(parts)
