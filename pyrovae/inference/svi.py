"""Stochastic variational inference: the epochs and steps behind `fit(pair, x)`."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyrovae import checks, ranks
from pyrovae.aliases import overlapping
from pyrovae.graph import pays
from pyrovae.inference.checkpoint import CheckpointError
from pyrovae.inference.compiled import CaptureError, CompilerError, is_differentiable
from pyrovae.inference.environment import differences, environment
from pyrovae.inference.history import History
from pyrovae.inference.items import EVALUATION_BATCH, Items
from pyrovae.inference.labels import held_out_items, numbered_labels
from pyrovae.inference.method import Task
from pyrovae.inference.objective import Loss
from pyrovae.inference.program import is_writable, watched
from pyrovae.inference.replay import same
from pyrovae.inference.snapshots import Run, Snapshots
from pyrovae.inference.steps import Compiled, Eager, with_bf16
from pyrovae.models.classifiers import DiscriminativeClassifier
from pyrovae.models.pair import (
    Pair,
    as_module,
    dtype_and_device,
    particles,
    seen,
    settings,
    traces,
)
from pyrovae.models.scopes import Store, Workspace
from pyrovae.models.trial import tried, unchanged
from pyrovae.seeding import Noise, stream

if TYPE_CHECKING:
    from pyrovae.inference.plan import Plan

__all__ = ["PosteriorCollapseWarning", "run"]

log = logging.getLogger(__name__)

TURN = 0.005  # seconds of steps that one turn may hold: entering it costs a tenth of a tiny step
REPLAYED = 100  # steps, at most an epoch more, that are taken again to say where a loss broke
HIGHER_IS_BETTER = {"validation_elbo": 1, "validation_log_loss": -1}
WORDS = {"validation_elbo": "validation ELBO", "validation_log_loss": "validation log-loss"}
ADVICE = "the weights are those of the last finite loss: lower learning_rate or look at these items"
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5: a unit is active if Var_x E_q[z | x] exceeds this


class PosteriorCollapseWarning(UserWarning):
    """Units of the code that carry nothing of the item: their posterior is the prior."""


def run(task: Task, plan: Plan) -> History:
    """Train a pair as the plan says, a classifier by its labels; from where earlier snapshots end."""
    pair, validation, target, snapshots = task.pair, task.validation, task.device, task.snapshots
    module = as_module(pair)
    source, names = Items(pair, task.x, "x", plan.binarize), None
    held_out = None
    if isinstance(pair, DiscriminativeClassifier):
        names, source.y = numbered_labels(pair, task.y, len(source))
        seen_items = source.x if isinstance(source.x, Tensor) else None
        if (judged := held_out_items(pair, names, validation, seen_items)) is not None:
            held_out = Items(pair, judged[0], "validation", plan.binarize)
            held_out.y = judged[1]
        if plan.num_particles > 1:
            raise ValueError("num_particles is for guides that draw, and this one is a point: leave it out")
    elif validation is not None:
        held_out = Items(pair, validation, "validation", plan.binarize, beside=source)
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"parameter {name!r} of the pair is not finite: build it anew or load a good state")
    with nullcontext() if snapshots is None else snapshots.held():
        home = dtype_and_device(pair)[1]
        _require_ties_last(module, home, target)
        if names is not None and isinstance(pair, DiscriminativeClassifier):
            pair.rename(names)
        try:
            module.to(target)
            for items in (source, held_out):
                if items is not None:
                    items.move(target)
            store = Store()
            sites = _Sites.of(pair, source, target, store)
            _require_room(plan, source, sites.elements, target)
            _try_shapes(pair, plan, source, held_out, target, sites, store)
            with _channels_last(module, not sites.stored):  # Pyro's store would hold copies of such weights
                loop = _Loop(pair, plan, source, held_out, target, sites, snapshots, store)
                rows, kept = loop.run(task.progress)
                active = loop.active_units()
        finally:
            for parameter in module.parameters():
                parameter.grad = None
                parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference, which does not pickle
            module.to(home)
    _warn(plan, rows, active, pair.latent_dim)
    config = {
        "method": "svi",
        **vars(plan),
        "items": len(source),
        "validation_items": 0 if held_out is None else len(held_out),
        **({} if names is None else {"classes": names.tolist()}),
        "optimizer": "Adam",
        "device": str(target),
        "dtype": str(dtype_and_device(pair)[0]),
        "latent_dim": pair.latent_dim,
        "active_units": active,
        "processes": loop.ranks.size,
        "compiled": isinstance(loop.take, Compiled),
        "compiles": loop.take.compiles,
        "cuda_graphs": loop.take.replays,
        "checkpoint": None if snapshots is None else str(snapshots.folder),
        "resumed_after": loop.resumed_after,
        "weights_epoch": kept,
        "stopped": f"weights of epoch {kept}" if kept < len(rows) - 1 else None,
        **environment(target),
    }
    return History.from_rows(rows, config)


def _require_room(plan: Plan, source: Items, elements: int, device: torch.device) -> None:
    """Refuse more draws than memory holds, before a step: the layers' output of all of a batch's is kept."""
    batch = min(plan.batch_size, len(source))
    checks.affordable(
        f"num_particles={plan.num_particles:,} for batches of {batch:,} items",
        2 * elements * plan.num_particles * batch,  # half of what the layers put out, as the encoder runs once
        "take fewer, or a smaller batch_size",
        device=device,
    )


def _require_ties_last(module: nn.Module, home: torch.device, target: torch.device) -> None:
    """ValueError where parameters or buffers share memory and a move to another device would give each its own."""
    here, there = (torch.empty(0, device=device).device for device in (home, target))
    if (here.type, here.index or 0) == (there.type, there.index or 0):
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = list(tensors)
    for group in overlapping(list(tensors.values())):
        tied = " and ".join(repr(names[i]) for i in group)
        raise ValueError(
            f"{tied} share memory on {home}, and a move to {target} would end that: give device={str(home)!r}, or move "
            f"the pair to {target} yourself and let them share memory there"
        )


@contextmanager
def _channels_last(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Weights of convolutions in the order in memory that is faster for them, where a user has chosen no other."""
    layers = [m for m in module.modules() if wanted and type(m) in (nn.Conv2d, nn.ConvTranspose2d)]
    weights = {id(p): p for p in (m._parameters.get("weight") for m in layers) if p is not None}
    plain = [t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor)]
    tensors = list({id(t): t for t in (*module.parameters(), *module.buffers(), *plain)}.values())
    shared = {id(tensors[i]) for group in overlapping(tensors) for i in group}  # memory of its own would untie it
    own: list[nn.Parameter] = [p for p in weights.values() if p.is_contiguous() and id(p) not in shared]
    try:
        for p in own:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for p in own:
            p.data = p.data.contiguous()


@dataclass(frozen=True)
class _Sites:
    """What a look at a pair's model and guide shows, as they run in training."""

    enumerates: bool  # a site is summed out rather than drawn
    differentiable: bool  # every draw of the guide is, through its value alone
    outside: bool  # a site lies outside of the plate "data"
    stored: bool  # there are parameters in Pyro's store
    networks: list[nn.Module]
    elements: int  # that all layers put out, an item

    @classmethod
    def of(cls, pair: Pair, source: Items, device: torch.device, store: Store) -> _Sites:
        """By the first two items."""
        module, some = as_module(pair), next(source.batches(2, shuffle=False))[0].to(device)
        space = Workspace(module, training=True, noise=Noise(0, device), store=store)
        with space.turn(), torch.no_grad(), watched(module), seen(module) as found:
            guide, model = (prune_subsample_sites(poutine.trace(fn).get_trace(some)) for fn in (pair.guide, pair.model))
            guide.compute_score_parts()
            stored = bool(pyro.get_param_store())
        drawn = [guide.nodes[name] for name in guide.stochastic_nodes]
        latent = [*drawn, *(model.nodes[name] for name in model.stochastic_nodes)]
        every = [*latent, *(model.nodes[name] for name in model.observation_nodes)]
        return cls(
            enumerates=any(site["infer"].get("enumerate") == "parallel" for site in latent),
            differentiable=all(is_differentiable(site) for site in drawn),
            outside=any(all(frame.name != "data" for frame in site["cond_indep_stack"]) for site in every),
            stored=stored,
            networks=found.networks,
            elements=sum(found.sizes) // len(some),
        )


def _try_shapes(
    pair: Pair,
    plan: Plan,
    source: Items,
    held_out: Items | None,
    device: torch.device,
    sites: _Sites,
    store: Store,
) -> None:
    """Refuse a pair that cannot take the last batch or the validation: before a step, not after an epoch.

    One that trains, and that no estimator will take afterwards, is told of in the log.
    The pair, the generators and the random numbers of the run stay as they are.
    """
    shared, refused = ranks.current(), None
    try:
        _try_last_batch(pair, plan, source, device, store)
        if not (sites.outside or sites.enumerates or getattr(pair, "has_global_latents", False)):
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


def _tell_of_tables(pair: Pair, x: Tensor, is_first: bool) -> None:
    """A pair by hand may train as it is and be refused by every estimator afterwards: say so while it costs nothing."""
    try:
        tried(pair, x, items_apart=False)
    except (RuntimeError, ValueError, IndexError) as error:
        if is_first:
            log.warning("fit trains this pair, and no estimator will take it: %s", error)


def _try_last_batch(pair: Pair, plan: Plan, source: Items, device: torch.device, store: Store) -> None:
    """This process's share of it, in training mode."""
    whole = min(plan.batch_size, len(source))
    last = len(source) % whole or whole
    own = ranks.current().share(last)
    size, count = own.stop - own.start, plan.num_particles
    if not size or (last == whole and size > 1):  # a first batch that fails does so before anything has changed
        return
    module, some = as_module(pair), next(source.batches(size, shuffle=False))[0].to(device)
    space = Workspace(module, training=True, noise=Noise(0, device), store=store)
    try:
        with space.turn(), torch.no_grad(), watched(module), unchanged(module):
            if count > 1:
                traces(pair, some, count)
            else:
                poutine.trace(pair.guide).get_trace(some)
                poutine.trace(pair.model).get_trace(some)
    except (RuntimeError, ValueError, IndexError) as error:
        items, said = f"{size} item{'s' if size > 1 else ''}", [*str(error).splitlines(), type(error).__name__][0]
        raise ValueError(
            f"batch_size={plan.batch_size} and {len(source)} items leave a last batch of {items}, which "
            f"{type(pair).__name__} cannot take in training ({said}): take another batch_size, or leave out items"
        ) from error


class _Loop:
    """The epochs of one fit. `step` is the one place where parameters change."""

    def __init__(
        self,
        pair: Pair,
        plan: Plan,
        source: Items,
        held_out: Items | None,
        device: torch.device,
        sites: _Sites,
        snapshots: Snapshots | None,
        store: Store,
    ) -> None:
        self.store = store
        self.pair, self.plan, self.source, self.held_out, self.device = pair, plan, source, held_out, device
        self.module, self.ranks = as_module(pair), ranks.current()
        self.start_alike(sites)
        self.steps_per_epoch = math.ceil(len(source) / plan.batch_size)
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.trained = list(named.values())
        if not self.trained:
            raise ValueError(f"{type(pair).__name__} has no parameter with requires_grad: nothing to fit")
        self.kept = [*self.trained, *self.module.buffers()]  # what steps change
        self.snapshots, self.rows = snapshots, list[dict[str, float]]()  # what each epoch was
        self.told = "" if snapshots is None else settings(nn.ModuleList([self.module]))
        self.settings: str | None = hashlib.sha256(self.told.encode()).hexdigest()  # None where steps change them
        self.best, self.best_weights = (-math.inf, -1), dict[str, Tensor]()  # score and epoch; by the plan's patience
        earlier = None if snapshots is None else self.earlier(snapshots.newest(pair))
        self.good = [t.detach().clone() for t in self.kept]  # that before an epoch's last step
        self.started = [t.clone() for t in self.good]  # and at the start of the epoch
        self.refuse_foreign_parameters()
        self.networks = sites.networks if plan.precision == "bf16" else []
        if plan.precision == "bf16" and not self.networks:
            raise ValueError(f"precision='bf16' is for networks, and {type(pair).__name__} has none: leave it out")
        self.taken = 0
        self.loss = Loss(pair, len(source), plan, sites.enumerates, sites.differentiable and not sites.enumerates)
        self.take = self.chosen(named, sites, None if earlier is None else earlier[0]["compiled"])
        if earlier is not None:
            self.go_on(*earlier)
        self.resumed_after = len(self.rows) - 1 if self.rows else None
        self.saved = self.taken, self.state()

    def start_alike(self, sites: _Sites) -> None:
        """Refuse what several processes cannot share, and give all of them the first one's weights."""
        if self.ranks.size == 1:
            return
        if sites.outside or getattr(self.pair, "has_global_latents", False):
            raise ValueError(f"{type(self.pair).__name__} has a site that all items share: fit it in one process")
        sums = [None if s is None else s.fingerprint for s in (self.source, self.held_out)]
        asked = self.ranks.gathered((sums, self.plan))
        if any(other != asked[0] for other in asked):
            raise ValueError(f"each process must have the same items and arguments, got {asked}")
        self.ranks.spread([*self.module.parameters(), *self.module.buffers()])

    def chosen(self, named: dict[str, nn.Parameter], sites: _Sites, before: bool | None) -> Eager | Compiled:
        """The step as the plan asks for it, or as it was before, or, where the choice is free, by the work to do."""
        plan, reduce = self.plan, None if self.ranks.size == 1 else self.ranks.sum_
        if plan.compile is True and sites.enumerates:
            raise ValueError("compile=True is for draws, and this pair has a site that is summed out: leave it out")
        steps = plan.epochs * max(1, len(self.source) // plan.batch_size)  # of whole batches
        work = sites.elements * plan.num_particles * min(plan.batch_size, len(self.source))
        may = not sites.enumerates and dtype_and_device(self.pair)[0] != torch.float16
        free = plan.compile == "auto" and before is None
        if plan.compile is True or before or (free and may and pays(steps, work)):
            step, failed = Compiled(self.loss.pure, self.module, named, plan.learning_rate, reduce), None
            try:
                given = self.given(*next(self.batches(0)))
                with self.workspace(self.noise(0), training=True).turn(), self.precision():
                    step.prepare(*given)
            except (CaptureError, CompilerError) as error:
                failed = error
            reasons = [reason for reason in self.ranks.gathered(failed and str(failed)) if reason is not None]
            if not reasons:
                return step
            if plan.compile is True:
                raise failed or CompilerError(f"another process could not compile: {reasons[0]}")
            if self.ranks.is_first:
                log.warning(
                    "fit runs eagerly%s: %s", ", and rounds otherwise than before" if before else "", reasons[0]
                )
        return Eager(self.loss, named, plan.learning_rate, reduce)

    def run(self, progress: bool) -> tuple[list[dict[str, float]], int]:
        """What each epoch was, and the epoch whose weights are in place."""
        from tqdm import tqdm

        first, last, off = len(self.rows), self.plan.epochs, None if progress and self.ranks.is_first else True
        with tqdm(range(first, last), initial=first, total=last, unit="epoch", disable=off) as bar:
            for epoch in () if self.is_over() else bar:
                row = self.epoch(epoch)
                self.rows.append(row)
                bar.set_postfix({k: f"{row[k]:.2f}" for k in ("loss", *HIGHER_IS_BETTER) if k in row})
                self.note_score(epoch, row)
                if self.snapshots is not None:
                    self.snapshots.write(epoch, self.pair, self.facts(), self.tensors())
                if self.is_over():
                    break
        if not self.best_weights:
            return self.rows, len(self.rows) - 1
        self.module.load_state_dict(self.best_weights)
        return self.rows, self.best[1]

    def note_score(self, epoch: int, row: dict[str, float]) -> None:
        """Keep the weights of the best epoch so far, where the plan asks for them."""
        name = next((k for k in HIGHER_IS_BETTER if k in row), None)
        score = 0.0 if name is None else HIGHER_IS_BETTER[name] * row[name]
        if name is not None and not math.isfinite(score):
            raise FloatingPointError(
                f"the {WORDS[name]} became {row[name]} in epoch {epoch}; look at the validation items, or "
                "lower learning_rate"
            )
        if self.plan.patience is not None and epoch + 1 >= self.plan.warmup and score > self.best[0]:
            self.best, self.best_weights = (score, epoch), deepcopy(self.module.state_dict())

    def is_over(self) -> bool:
        """Whether there has been no better epoch for as long as the plan waits."""
        patience = self.plan.patience
        return patience is not None and self.best[1] >= 0 and len(self.rows) - 1 - self.best[1] >= patience

    def agreed(self) -> dict[str, Any]:
        """What a run that goes on has in common with the one before, beside the plan."""
        classes = getattr(self.pair, "classes_", None)
        return {
            "items": self.source.fingerprint,
            "validation_items": None if self.held_out is None else self.held_out.fingerprint,
            "classes": None if classes is None else [str(name) for name in classes],
            "trained": [name for name, p in self.module.named_parameters() if p.requires_grad],
            "processes": self.ranks.size,
        }

    def facts(self) -> dict[str, Any]:
        """What a run that goes on from here must be told."""
        if len(self.rows) == 1 and settings(nn.ModuleList([self.module])) != self.told:
            self.settings = None
            log.warning("an attribute of a module changes as it is trained, and no checkpoint has it: not bit for bit")
        return {
            "asked": vars(self.plan),
            **self.agreed(),
            "torch": torch.__version__,
            "environment": environment(self.device) | {"device": self.device.type},
            "settings": self.settings,
            "compiled": isinstance(self.take, Compiled),
            "rows": self.rows,
            "best": self.best,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What steps change beside the pair's state: Adam's, buffers that are not saved, the best weights."""
        state, order = self.take.state_dict()["state"], self.take.order
        found = {f"adam.{order[i]}.{kind}": value for i, own in state.items() for kind, value in own.items()}
        found |= {f"buffer.{name}": b for name, b in self.module.named_buffers()}
        found |= {f"good.{i}": t for i, t in enumerate(self.good)}
        return found | {f"best.{name}": value for name, value in self.best_weights.items()}

    def earlier(self, run: Run | None) -> Run | None:
        """What an earlier run left, unless something else is asked for now; nothing is changed."""
        if len(set(self.ranks.gathered(None if run is None else len(run[0]["rows"])))) > 1:
            raise ValueError("each process must find the same checkpoint: name a folder that all of them see")
        if run is None:
            return None
        facts, _, tensors = run
        free = {"compile"} if self.plan.compile == "auto" else set()
        free |= set() if self.plan.schedule == "cosine" else {"epochs"}  # down which the rate goes to 0
        here = {name: value for name, value in vars(self.plan).items() if name not in free} | self.agreed()
        before = facts["asked"] | {name: facts[name] for name in self.agreed()} | {"compile": facts["compiled"]}
        unlike = [f"{k}: {before.get(k)!r} before, {v!r} now" for k, v in here.items() if before.get(k) != v]
        if unlike:
            raise ValueError(f"resume=True goes on with the same run, and this is another: {'; '.join(unlike)}")
        if len(facts["rows"]) > self.plan.epochs:
            raise ValueError(f"epochs={self.plan.epochs} is the total, and the run has {len(facts['rows'])} already")
        for name, b in self.module.named_buffers():
            if not is_writable(b) and not same(b, tensors[f"buffer.{name}"].to(b.device)):
                raise ValueError(f"buffer {name!r} differs from the checkpoint's and cannot be written: clone it first")
        self.refuse_other_tensors(tensors)
        self.warn_of_differences(facts)
        return run

    def refuse_other_tensors(self, tensors: dict[str, Tensor]) -> None:
        """A run's tensors are those of this pair, one for one: none would be cast or spread over another."""
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        expected = {f"buffer.{name}": b for name, b in self.module.named_buffers()}
        expected |= {f"good.{i}": t for i, t in enumerate(self.kept)}
        for name, p in named.items():
            if f"adam.{name}.step" in tensors:  # a parameter that no gradient has reached has no state
                expected |= {f"adam.{name}.exp_avg": p, f"adam.{name}.exp_avg_sq": p}
        if any(name.startswith("best.") for name in tensors):
            expected |= {f"best.{name}": t for name, t in self.module.state_dict().items()}
        for name, ours in expected.items():
            theirs = tensors.get(name)
            if theirs is None or (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
                found = "absent" if theirs is None else f"{theirs.dtype} of shape {tuple(theirs.shape)}"
                raise CheckpointError(
                    f"the checkpoint's {name!r} is {found}, and this run has {ours.dtype} of shape {tuple(ours.shape)}"
                )

    def warn_of_differences(self, facts: dict[str, Any]) -> None:
        """What is no argument, and makes other bits all the same."""
        now, settings_before = environment(self.device), facts.get("settings", self.settings)
        unlike = differences(facts.get("environment", {"torch": facts["torch"]}), now | {"device": self.device.type})
        if settings_before is None:
            self.settings = None
        elif settings_before != self.settings:
            unlike.append("an attribute of a module has another value than before")
        if unlike and self.ranks.is_first:
            checks.warn(
                f"resume=True goes on, but not bit for bit: {'; '.join(unlike)}. For the digits of an uninterrupted "
                "run restore what there was before, as with torch.set_num_threads"
            )

    def go_on(self, facts: dict[str, Any], weights: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        """Be where that run was."""
        own = self.module.state_dict(keep_vars=True)
        pairs = [(own[name], value) for name, value in weights.items()]
        pairs += [(b, tensors[f"buffer.{name}"]) for name, b in self.module.named_buffers()]
        pairs += [(t, tensors[f"good.{i}"]) for i, t in enumerate(self.good)]
        for mine, theirs in pairs:
            if not same(mine.detach(), theirs.to(mine.device)):
                mine.detach().copy_(theirs)
        self.started = [t.clone() for t in self.changed()]
        self.rows, self.best = facts["rows"], (facts["best"][0], facts["best"][1])
        self.best_weights = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        self.taken = len(self.rows) * self.steps_per_epoch
        self.take.load_state_dict(self.adams(tensors), self.taken)
        self.take.checked = True  # on the first step of all

    def adams(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Adam's state from an earlier run's tensors, each in its parameter's order in memory."""
        state, named = self.take.state_dict(), dict(self.module.named_parameters())
        for i, name in enumerate(self.take.order):
            if f"adam.{name}.step" in tensors:  # a parameter that no gradient has reached has no state
                own = {kind: torch.empty_like(named[name]).detach() for kind in ("exp_avg", "exp_avg_sq")}
                moments = {kind: value.copy_(tensors[f"adam.{name}.{kind}"]) for kind, value in own.items()}
                state["state"][i] = {"step": tensors[f"adam.{name}.step"], **moments}
        return state

    def epoch(self, epoch: int) -> dict[str, float]:
        plan = self.plan
        start = time.perf_counter()
        if self.taken - self.saved[0] >= REPLAYED:
            self.saved = self.taken, self.state()
        before = [p.clone() for p in self.good]
        losses = self.steps(epoch).double().cpu()
        self.ranks.spread(list(self.module.buffers()))
        if not self.take.sound:
            self.refuse_broken_step(epoch, losses, before)
        self.refuse_broken_weights()
        sizes = torch.full_like(losses, plan.batch_size)
        sizes[-1] = len(self.source) - plan.batch_size * (len(losses) - 1)
        seconds = time.perf_counter() - start
        last = self.taken - 1
        row = {
            "loss": float(losses @ sizes) / len(self.source),
            "beta": plan.weight(last, self.steps_per_epoch),
            "learning_rate": plan.rate(last, plan.epochs * self.steps_per_epoch),
            "seconds": seconds,
        }
        if self.held_out is not None:
            row |= self.validated(self.held_out)
        return row

    def steps(self, epoch: int, most: int | None = None) -> Tensor:
        """An epoch's steps, or the first of them: their losses, which nobody has waited for."""
        losses, batches = list[Tensor](), islice(self.batches(epoch), most)
        # what a user's own source waits for may be another thread: its batches are read between turns
        held = TURN if isinstance(self.source.x, Tensor) else 0.0
        # an epoch's random numbers do not depend on those of the epochs before
        space = self.workspace(self.noise(epoch), training=True)
        for batch in batches:
            with space.turn(), self.precision():
                end = time.perf_counter() + held
                losses.append(self.step(*batch))
                while time.perf_counter() < end and (following := next(batches, None)) is not None:
                    losses.append(self.step(*following))
        return torch.stack(losses)

    def workspace(self, seed: int | None, *, training: bool, checks: bool | None = None) -> Workspace:
        """For turns of this fit; its steps say themselves whether they are checked."""
        noise = Noise(seed, self.device)
        return Workspace(self.module, training=training, noise=noise, checks=checks, store=self.store)

    def noise(self, epoch: int) -> int:
        """The seed of an epoch's draws, of each process's own."""
        own = () if self.ranks.size == 1 else (self.ranks.size, self.ranks.rank)
        return stream(self.plan.seed, "noise", epoch, *own)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """This process's share of an epoch's items and labels, on the device, binary where that is asked for."""
        draws = torch.Generator(self.device).manual_seed(stream(self.plan.seed, "binarize", epoch))
        share = None if self.ranks.size == 1 or self.plan.binarize else self.ranks.share
        read = self.source.batches(self.plan.batch_size, seed=self.plan.seed, epoch=epoch, share=share)
        for batch, label in read:
            x, y = batch.to(self.device), None if label is None else label.to(self.device)
            if self.plan.binarize:  # the whole batch, so that any number of processes draws the same
                x = torch.bernoulli(x, generator=draws)
                own = self.ranks.share(len(x))
                x, y = x[own], None if y is None else y[own]
            elif x.is_inference():  # which has no gradient to save it for
                x = x.clone()
            yield x, y

    def step(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One batch: loss, gradients, update; no update from a loss or a gradient that is not finite, nor after it."""
        if (self.taken + 1) % self.steps_per_epoch == 0:  # the last of an epoch
            torch._foreach_copy_(self.good, self.changed())
        rate = self.plan.rate(self.taken, self.plan.epochs * self.steps_per_epoch)
        loss = self.take(rate, *self.given(x, y))
        self.taken += 1
        return loss

    def given(self, x: Tensor, y: Tensor | None) -> tuple[Any, ...]:
        """What the loss takes at this step."""
        weighed, done = (
            self.plan.beta != 1 or self.plan.warmup,
            self.taken % self.steps_per_epoch * self.plan.batch_size,
        )
        beta = self.plan.weight(self.taken, self.steps_per_epoch) if weighed else None
        return x, y, beta, min(self.plan.batch_size, len(self.source) - done)

    def precision(self) -> AbstractContextManager[None]:
        """That of the networks, in training alone."""
        return with_bf16(self.networks) if self.networks else nullcontext()

    def state(self) -> tuple[list[Tensor], dict[str, Any]]:
        """All that steps change, copied."""
        return [t.clone() for t in self.changed()], self.take.state_dict()

    def replay(self, to: int) -> None:
        """Go back to the state before step `to`, or to the earliest that is kept."""
        self.taken, (values, own) = self.saved
        torch._foreach_copy_(self.changed(), values)
        self.take.load_state_dict(own, self.taken)
        while self.taken < to:
            self.steps(self.taken // self.steps_per_epoch, to - self.taken)

    def refuse_broken_step(self, epoch: int, losses: Tensor, before: list[Tensor]) -> None:
        """After an epoch with a loss or gradient that is not finite: say which, the last good weights in place.

        `before`: those before the last step of the epoch before.
        """
        broken = self.take.taken  # as many updates were good
        place, batch = self.place(broken), broken % self.steps_per_epoch
        value = float(losses[batch])
        x, y = next(islice(self.batches(epoch), batch, None))
        if math.isfinite(value):
            self.replay(broken)
            named = self.broken_gradients(x, y)
            raise FloatingPointError(f"the gradient of {', '.join(named[:3])} is not finite {place}; {ADVICE}")
        terms = self.broken_terms(x)
        self.replay(broken - 1)
        if self.taken > broken - 1:  # from no earlier than where it broke
            torch._foreach_copy_(self.changed(), before)
        raise FloatingPointError(f"the loss became {value} {place}: {terms}; {ADVICE}")

    def broken_gradients(self, x: Tensor, y: Tensor | None) -> list[str]:
        """Which parameters' gradients are not finite."""
        with self.workspace(0, training=True, checks=False).turn(), self.precision():
            self.loss(*self.given(x, y)).backward()
        grads = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        return [name for name, grad in grads.items() if not grad.norm().isfinite()] or ["a parameter"]

    def refuse_broken_weights(self) -> None:
        """After an epoch: the loss that would show them may never be computed."""
        if torch.stack([p.isfinite().all() for p in self.trained]).all():
            torch._foreach_copy_(self.started, self.changed())
            return
        named = [name for name, p in self.module.named_parameters() if not p.isfinite().all()]
        # a weight at infinity may still give a finite loss
        last = all(p.isfinite().all() for p in self.good[: len(self.trained)])
        torch._foreach_copy_(self.changed(), self.good if last else self.started)
        advice = ADVICE if last else ADVICE.replace("of the last finite loss", "from the start of the epoch")
        before = self.place(self.taken)[3:]
        raise FloatingPointError(f"an update before {before} left {named[0]} not finite; {advice}")

    def changed(self) -> list[Tensor]:
        """Parameters and buffers, where they are."""
        return [t.detach() for t in self.kept]

    def place(self, step: int) -> str:
        epoch, batch = divmod(step, self.steps_per_epoch)
        return f"at step {step} (epoch {epoch}, batch {batch})"

    def broken_terms(self, x: Tensor) -> str:
        """Which parts of the loss are not finite, by this process's share."""
        if not len(x):
            return "a sum over processes is not finite"
        if getattr(self.pair, "has_global_latents", False):
            return "the log-density of the parameters or the items is not finite"
        try:
            with self.workspace(0, training=True, checks=False).turn(), torch.no_grad():
                table = particles(self.pair, x, 1)
        except ValueError:  # a site that is no item's own
            return "a sum is not finite"
        parts = {
            "log p(x | z)": table.log_likelihood,
            "log p(z)": table.log_prior,
            "log q(z | x)": table.log_guide,
        }
        bad = [name for name, part in parts.items() if not part.isfinite().all()]
        return f"{', '.join(bad) or 'a sum'} is not finite"

    def refuse_foreign_parameters(self) -> None:
        """A `pyro.param` that is no parameter of the module would never be trained."""
        owned = {id(p) for p in self.module.parameters()}
        with self.store.current():
            store = pyro.get_param_store()
            foreign = [name for name in store if id(store[name].unconstrained()) not in owned]
        if foreign:
            raise ValueError(
                f"pyro.param {foreign[0]!r} is not among the pair's parameters(), and fit trains those alone: make it "
                "an nn.Parameter of the module, or train with pyro.infer.SVI"
            )

    def validated(self, source: Items) -> dict[str, float]:
        """The validation items' ELBO at beta = 1, or their log-loss, with the same binary items and noise each epoch.

        Epochs differ by their weights alone. Each process takes some of the batches, and all of them get the same sum.
        """
        size, mine = self.ranks.size, dict[int, float]()
        for number, (batch, label) in enumerate(source.batches(EVALUATION_BATCH, shuffle=False)):
            if number % size == self.ranks.rank:
                key = stream(self.plan.seed, "validation", number)
                with self.workspace(key, training=False, checks=False).turn():
                    mine[number] = self.log_score(batch.to(self.device), label)
        sums = {number: total for part in self.ranks.gathered(mine) for number, total in part.items()}
        mean = sum(sums[number] for number in sorted(sums)) / len(source)
        return {"validation_elbo": mean} if source.y is None else {"validation_log_loss": -mean}

    def log_score(self, x: Tensor, label: Tensor | None) -> float:
        """The sum of some items' ELBO from one draw each, or of their labels' log-probabilities."""
        x = torch.bernoulli(x) if self.plan.binarize else x
        if label is None:
            return float(particles(self.pair, x, 1).log_weight.sum())
        table: Any = self.pair
        return float(table.predict_log_proba(x).gather(1, label.to(self.device)[:, None]).sum())

    def active_units(self) -> int | None:
        """How many dimensions of the posterior mean vary over the items; None for a point code, and where it fails."""
        encode = getattr(self.pair, "encode", None)
        if encode is None or not self.pair.is_normalized or len(self.source) < 2:
            return None
        space, parts = self.workspace(None, training=False), []
        try:
            for batch, _ in islice(self.source.batches(EVALUATION_BATCH, shuffle=False), 10):
                with space.turn():
                    parts.append(encode(batch.to(self.device)))
        except Exception as error:  # the training is done: what is said of it afterwards must not lose it
            log.warning("active_units is None: encode raised %s: %s", type(error).__name__, error)
            return None
        if not all(isinstance(part, Tensor) for part in parts):  # a pair's own encode may mean something else
            return None
        codes = torch.cat(parts)
        return int((codes.var(0) > ACTIVE_VARIANCE).sum())


def _warn(plan: Plan, rows: list[dict[str, float]], active: int | None, latent_dim: int) -> None:
    if len(rows) < plan.warmup:
        checks.warn(
            f"training ended after {len(rows)} of {plan.warmup} warm-up epochs, at beta = {rows[-1]['beta']:.3g} "
            f"of {plan.beta:g}: raise epochs or lower warmup"
        )
    if active is not None and active < latent_dim:
        checks.warn(
            f"posterior collapse: {active} of {latent_dim} latent units are active (variance of their posterior mean "
            f"over items above {ACTIVE_VARIANCE}); lower beta, use warmup, or lower latent_dim",
            PosteriorCollapseWarning,
        )
