"""Checks of a pair's sites and shapes before the first step of a fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import nn

from pyrovae import ranks
from pyrovae.compile.watching import watched
from pyrovae.inference.elbo import is_differentiable
from pyrovae.inference.items import Items
from pyrovae.models.batch import called_on
from pyrovae.models.layers import seen
from pyrovae.models.pair import Pair, as_module, has_global_latents
from pyrovae.models.particles import traces
from pyrovae.models.scopes import Store, Workspace
from pyrovae.models.trial import tried, unchanged
from pyrovae.seeding import Noise

if TYPE_CHECKING:
    from pyrovae.inference.svi.options import Plan

__all__ = ["Sites", "try_shapes"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sites:
    """The sites of a pair's model and guide, as they run in training."""

    enumerates: bool  # a site is summed out rather than drawn
    differentiable: bool  # every draw of the guide is, through its value alone
    unguided: list[str]  # unobserved sites of the model that the guide has not
    outside: bool  # a site lies outside of the plate "data"
    stored: bool  # there are parameters in Pyro's store
    networks: list[nn.Module]
    elements: int  # that all layers put out, an item

    @classmethod
    def of(cls, pair: Pair, source: Items, device: torch.device, store: Store) -> Sites:
        """Find the sites by the first two items."""
        module, some = as_module(pair), next(source.batches(2, shuffle=False))[0].to(device)
        space = Workspace(module, training=True, noise=Noise(0, device), store=store)
        with space.turn(), torch.no_grad(), watched(module), seen(module) as layers, _on_one_device(pair, device):
            guide, model = (prune_subsample_sites(_traced(fn, some)) for fn in (pair.guide, pair.model))
            guide.compute_score_parts()
            stored = bool(pyro.get_param_store())
        drawn = [guide.nodes[name] for name in guide.stochastic_nodes]
        of_guide = [*drawn, *(guide.nodes[name] for name in guide.observation_nodes)]  # a pyro.factor is observed
        latent = [*drawn, *(model.nodes[name] for name in model.stochastic_nodes)]
        every = [*latent, *(model.nodes[name] for name in model.observation_nodes)]
        return cls(
            enumerates=any(site["infer"].get("enumerate") == "parallel" for site in latent),
            differentiable=all(is_differentiable(site) for site in of_guide),
            unguided=[name for name in model.stochastic_nodes if name not in guide.nodes],
            outside=any(all(frame.name != "data" for frame in site["cond_indep_stack"]) for site in every),
            stored=stored,
            networks=layers.networks,
            elements=sum(layers.sizes) // len(some),
        )


@contextmanager
def _on_one_device(pair: Pair, device: torch.device) -> Iterator[None]:
    """Name a pair that makes tensors on another device than its items, as `Normal(0.0, 1.0)` does on the CPU."""
    try:
        yield
    except RuntimeError as error:
        if not re.search("same device|expected device", str(error)):
            raise
        raise ValueError(
            f"{type(pair).__name__} makes tensors that are not on {device}, where its items are: make them beside its "
            "parameters or items, as in x.new_zeros(1), or keep them as buffers; or fit with device='cpu'"
        ) from error


def try_shapes(
    pair: Pair,
    plan: Plan,
    source: Items,
    held_out: Items | None,
    device: torch.device,
    sites: Sites,
    store: Store,
) -> None:
    """Refuse a pair that cannot take the last batch or the validation: before a step, not after an epoch.

    One that trains, and that no estimator will take afterwards, is told of in the log.
    The pair, the generators and the random numbers of the run stay as they are.
    """
    shared, refused = ranks.current(), None
    try:
        _try_last_batch(pair, plan, source, device, store)
        if not (sites.enumerates or has_global_latents(pair)):
            some = next(source.batches(3, shuffle=False))[0].to(device)
            masked = () if held_out is None else tried(pair, some, draws=1)
            if masked and shared.is_first:
                log.warning("validation_elbo leaves out what is masked of %s", ", ".join(masked))
            if pair.is_normalized:
                _tell_of_tables(pair, some, shared.is_first)
    except ValueError as error:
        refused = error
    others = [message for message in shared.gathered(refused and str(refused)) if message is not None]
    if others:  # one process that stops alone leaves the others waiting for it
        raise refused or ValueError(others[0])


def _tell_of_tables(pair: Pair, x: Any, is_first: bool) -> None:
    """Warn of a pair by hand that can be trained, and that every estimator would refuse afterwards."""
    try:
        tried(pair, x, items_apart=False)
    except (RuntimeError, ValueError, IndexError) as error:
        if is_first:
            log.warning("fit trains this pair, and no estimator will take it: %s", error)


def _try_last_batch(pair: Pair, plan: Plan, source: Items, device: torch.device, store: Store) -> None:
    """Try this process's share of the last batch, in training mode."""
    whole = min(plan.batch_size, len(source))
    last = len(source) % whole or whole
    share = ranks.current().share(last)
    size, count = share.stop - share.start, plan.num_particles
    if not size or (last == whole and size > 1):  # a first batch that fails does so before anything has changed
        return
    module, some = as_module(pair), next(source.batches(size, shuffle=False))[0].to(device)
    space = Workspace(module, training=True, noise=Noise(0, device), store=store)
    try:
        with space.turn(), torch.no_grad(), watched(module), unchanged(module):
            if count > 1:
                traces(pair, some, count)
            else:
                _traced(pair.guide, some)
                _traced(pair.model, some)
    except (RuntimeError, ValueError, IndexError) as error:
        items, said = f"{size} item{'s' if size > 1 else ''}", [*str(error).splitlines(), type(error).__name__][0]
        raise ValueError(
            f"batch_size={plan.batch_size} and {len(source)} items leave a last batch of {items}, which "
            f"{type(pair).__name__} cannot take in training ({said}): take another batch_size, or leave out items"
        ) from error


def _traced(fn: Any, x: Any) -> poutine.Trace:
    """The trace of a model or guide on a batch."""
    return poutine.trace(partial(called_on, fn)).get_trace(x)
