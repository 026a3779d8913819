"""One fit by SVI: from items and options to a trained pair and its history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae import checks, ranks
from pyrovae.compile.aliases import overlapping
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import noted
from pyrovae.inference.items import Items
from pyrovae.inference.labels import items_and_labels, labels_present, numbered_labels
from pyrovae.inference.measuring import measuring, warn_of_scales
from pyrovae.inference.method import Task
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.place import placed, require_finite, require_ties_last
from pyrovae.inference.svi.problem import ItemsProblem
from pyrovae.inference.svi.schedule import Schedule, schedule_of
from pyrovae.inference.svi.trial import Sites, try_shapes
from pyrovae.inference.svi.validation import active_units
from pyrovae.models.activity import ACTIVE_VARIANCE
from pyrovae.models.classifiers import numbered
from pyrovae.models.pair import Pair, as_module, dtype_and_device, has_global_latents, takes_labels
from pyrovae.models.scopes import Store

if TYPE_CHECKING:
    from pyrovae.inference.svi.options import Plan

__all__ = ["PosteriorCollapseWarning", "run"]


class PosteriorCollapseWarning(UserWarning):
    """Some dimensions of the code carry no information of the item: their posterior is the prior.

    Fit anew with `warmup` or `free_bits`, and compare the validation ELBO. If it is no better, then the model has no
    use for more dimensions, and a smaller `latent_dim` does as well.
    """


def run(task: Task, plan: Plan) -> History:
    """Train a pair as the plan says, a classifier on its labels; with snapshots, from the end of the last one."""
    pair, validation, target, snapshots = task.pair, task.validation, task.device, task.snapshots
    module = as_module(pair)
    source, names = Items(pair, task.x, "x", plan.binarize), None
    held_out = None
    if takes_labels(pair):
        names, source.y = numbered_labels(pair, labels_present(task.y, source), len(source))
        if validation is not None:
            items, labels = items_and_labels(validation)
            with_beside = items if isinstance(validation, tuple) else validation
            held_out = Items(pair, with_beside, "validation", plan.binarize, reference=source)
            labels = labels_present(labels, held_out, "validation labels")
            held_out.y = numbered(names, labels, len(held_out), name="validation labels")
        if plan.num_particles > 1:
            raise ValueError("num_particles is for guides that draw, and this one is a point: leave it out")
    elif validation is not None:
        held_out = Items(pair, validation, "validation", plan.binarize, reference=source)
    schedule = schedule_of(plan, math.ceil(len(source) / plan.batch_size))
    require_finite(module)
    with nullcontext() if snapshots is None else snapshots.locked():
        require_ties_last(module, dtype_and_device(pair)[1], target)
        if names is not None:
            classifier: Any = pair
            classifier.rename(names)
        with placed(pair, target, source, held_out), measuring(pair, source) as begin:
            warn_of_scales(pair, source)
            store = Store()
            sites = Sites.of(pair, source, target, store)
            _require_guided(pair, plan, sites)
            _require_floor(pair, plan, sites)
            _require_weighable(pair, plan, sites, source)
            _require_room(plan, source, sites.elements, target)
            try_shapes(pair, plan, source, held_out, target, sites, store)
            _start_alike(pair, plan, source, held_out, sites, schedule)
            _refuse_foreign_parameters(module, store)
            with _channels_last(module, not sites.stored):  # Pyro's store would hold copies of such weights
                problem = ItemsProblem(pair, plan, source, held_out, target, sites)
                loop = Loop(task, plan, problem, schedule, store=store, networks=sites.networks)
                begin()
                told = partial(_told, task, plan, source, held_out, names, problem)
                with noted(lambda: (loop.rows, told(None) | loop.broken_off())):
                    rows, kept = loop.run()
                    active = active_units(loop, source)
    _warn(plan, rows, active, pair.latent_dim)
    return History.from_rows(rows, told(active) | loop.outcome(kept))


def _told(
    task: Task,
    plan: Plan,
    source: Items,
    held_out: Items | None,
    names: Any,
    problem: ItemsProblem,
    active: int | None,
) -> dict[str, Any]:
    """What the `config` of a history says of what was fitted, and to what."""
    pair = task.pair
    return {
        "method": "svi",
        **plan.in_words(),
        "items": len(source),
        "validation_items": 0 if held_out is None else len(held_out),
        **source.described(),
        **({} if names is None else {"classes": names.tolist()}),
        "device": str(task.device),
        "dtype": str(dtype_and_device(pair)[0]),
        "latent_dim": pair.latent_dim,
        "is_normalized": bool(pair.is_normalized),
        "active_units": active,
        **({} if problem.loss.floor_of is None else {"free_bits_of": problem.loss.floor_of}),
    }


def _start_alike(
    pair: Pair, plan: Plan, source: Items, held_out: Items | None, sites: Sites, schedule: Schedule
) -> None:
    """Refuse what several processes cannot share, and give all of them the first one's weights."""
    shared, module = ranks.current(), as_module(pair)
    if shared.size == 1:
        return
    if sites.outside or has_global_latents(pair):
        raise ValueError(f"{type(pair).__name__} has a site that all items share: fit it in one process")
    sums = [None if s is None else s.fingerprint for s in (source, held_out)]
    asked = shared.gathered((sums, plan.in_words(), schedule.fingerprint()))
    if any(other != asked[0] for other in asked):
        raise ValueError(f"each process must have the same items and arguments, got {asked}")
    shared.spread([*module.parameters(), *module.buffers()])


def _refuse_foreign_parameters(module: nn.Module, parameters: Store) -> None:
    """Refuse a `pyro.param` that is no parameter of the module: it would never be trained."""
    owned = {id(p) for p in module.parameters()}
    with parameters.current():
        store = pyro.get_param_store()
        foreign = [name for name in store if id(store[name].unconstrained()) not in owned]
    if foreign:
        raise ValueError(
            f"pyro.param {foreign[0]!r} is not among the pair's parameters(), and fit trains those alone: make it "
            "an nn.Parameter of the module, or train with pyro.infer.SVI"
        )


def _require_guided(pair: Pair, plan: Plan, sites: Sites) -> None:
    """ValueError where importance weights would have a site's density in the model and none in the guide."""
    if plan.objective == "iwae" and sites.unguided:
        raise ValueError(
            f"objective='iwae' weighs draws by p(x, z) / q(z | x), and site {sites.unguided[0]!r} of the model is not "
            f"in the guide of {type(pair).__name__}: draw it there too, sum it out in the model by hand, or take "
            "objective='elbo', which sums out what is marked for enumeration"
        )


def _require_floor(pair: Pair, plan: Plan, sites: Sites) -> None:
    """ValueError where free bits would be a floor under something else than the KL term of each item's code."""
    if not plan.free_bits:
        return
    reason = None
    if not pair.is_normalized or takes_labels(pair) or has_global_latents(pair):
        reason = f"{type(pair).__name__} has no code with a density for each item"
    elif sites.enumerates or not sites.differentiable or sites.unguided or sites.outside:
        reason = f"{type(pair).__name__} has sites that are summed out, or draws that are not reparameterised"
    elif ranks.current().size > 1:
        reason = "the mean KL term of a batch is not known to one of several processes"
    if reason is not None:
        raise ValueError(f"free_bits is a floor under the KL term of a code, and {reason}: leave it at 0")


def _require_weighable(pair: Pair, plan: Plan, sites: Sites, source: Items) -> None:
    """ValueError where weights of items would enter a loss that is no sum over items."""
    if "weight" not in source.beside:
        return
    reason = None
    if sites.enumerates:
        reason = f"SVI of a {type(pair).__name__} sums over its components for all items of a batch at once"
    elif sites.outside and not has_global_latents(pair):
        reason = f"{type(pair).__name__} has a site that all items share, and nothing says how often it counts"
    elif plan.free_bits:
        reason = "free_bits is a floor under the mean KL term of a batch, in which items count alike"
    if reason is not None:
        raise ValueError(f"weight came, and {reason}: leave it out, or repeat the items")


def _require_room(plan: Plan, source: Items, elements: int, device: torch.device) -> None:
    """Refuse, before a step, more draws than memory holds: the outputs of the layers are kept for a whole batch."""
    batch = min(plan.batch_size, len(source))
    checks.affordable(
        f"num_particles={plan.num_particles:,} for batches of {batch:,} items",
        2 * elements * plan.num_particles * batch,  # half of what the layers put out, as the encoder runs once
        "take fewer, or a smaller batch_size",
        device=device,
    )


@contextmanager
def _channels_last(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Put weights of convolutions in the faster memory order for the body, where a user has chosen no other."""
    layers = [m for m in module.modules() if wanted and type(m) in (nn.Conv2d, nn.ConvTranspose2d)]
    weights = {id(p): p for p in (m._parameters.get("weight") for m in layers) if p is not None}
    plain = [t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor)]
    tensors = list({id(t): t for t in (*module.parameters(), *module.buffers(), *plain)}.values())
    shared = {id(tensors[i]) for group in overlapping(tensors) for i in group}  # memory of its own would untie it
    reordered: list[nn.Parameter] = [p for p in weights.values() if p.is_contiguous() and id(p) not in shared]
    try:
        for p in reordered:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for p in reordered:
            p.data = p.data.contiguous()


def _warn(plan: Plan, rows: list[dict[str, float]], active: int | None, latent_dim: int) -> None:
    if not rows:  # a callback has stopped the run before its first epoch
        return
    if len(rows) < plan.warmup:
        checks.warn(
            f"training ended after {len(rows)} of {plan.warmup} warm-up epochs, at beta = {rows[-1]['beta']:.3g} "
            f"of {plan.beta:g}: raise epochs or lower warmup"
        )
    if active is not None and active < latent_dim:
        checks.warn(
            f"posterior collapse: {active} of {latent_dim} latent units are active (variance of their posterior mean "
            f"over items above {ACTIVE_VARIANCE}); fit anew with warmup={max(1, len(rows) // 2)} or free_bits=0.1, "
            "or lower beta or latent_dim",
            PosteriorCollapseWarning,
        )
