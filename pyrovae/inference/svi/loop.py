"""The epochs and steps of a fit by SVI."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import ranks
from pyrovae.inference.callbacks import ProgressBar, Run
from pyrovae.inference.environment import environment
from pyrovae.inference.method import Task
from pyrovae.inference.snapshots import in_words
from pyrovae.inference.steps import CompiledFitStep, with_bf16
from pyrovae.inference.svi.between import Between
from pyrovae.inference.svi.choice import chosen_step
from pyrovae.inference.svi.diagnosis import refuse_broken_step, refuse_broken_weights
from pyrovae.inference.svi.plan import StepPlan
from pyrovae.inference.svi.problem import Problem
from pyrovae.inference.svi.resume import Resume
from pyrovae.inference.svi.schedule import Schedule
from pyrovae.inference.svi.validation import validated
from pyrovae.inference.svi.watchers import Watchers
from pyrovae.inference.svi.within import Within
from pyrovae.interruption import waits
from pyrovae.models.pair import as_module
from pyrovae.models.scopes import Store, Workspace
from pyrovae.seeding import Noise, stream

__all__ = ["Loop", "Moment"]

TURN = 0.005  # seconds of steps that one turn may hold: entering it costs a tenth of a tiny step
REPLAYED = 100  # steps, at most an epoch or ten seconds more, that are taken again to say where a loss broke
HIGHER_IS_BETTER = {"validation_elbo": 1, "validation_log_loss": -1}
WORDS = {"validation_elbo": "validation ELBO", "validation_log_loss": "validation log-loss"}


@dataclass(frozen=True)
class Moment:
    """All that steps change, after `taken` of them, and the parameters and buffers before step `before_at`."""

    taken: int
    values: list[Tensor]
    optimizer: dict[str, Any]
    within: Within
    before: list[Tensor]
    before_at: int


class Loop:
    """The epochs of one fit. `step` is the one place where parameters change."""

    def __init__(
        self,
        task: Task,
        plan: StepPlan,
        problem: Problem,
        schedule: Schedule,
        *,
        store: Store | None = None,
        networks: Sequence[nn.Module] = (),
    ) -> None:
        self.plan, self.problem, self.schedule = plan, problem, schedule
        self.pair, self.device, self.store = task.pair, task.device, Store() if store is None else store
        self.module, self.ranks = as_module(self.pair), ranks.current()
        self.steps_per_epoch = math.ceil(len(problem.source) / problem.batch_size)
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.trained = list(named.values())
        if not self.trained:
            raise ValueError(f"{type(self.pair).__name__} has no parameter with requires_grad: nothing to fit")
        self.kept = [*self.trained, *self.module.buffers()]  # what steps change
        self.rows = list[dict[str, float]]()  # what each epoch was
        self.best, self.best_weights = (-math.inf, -1), dict[str, Tensor]()  # score and epoch; by the plan's patience
        snapshots = task.snapshots
        resume = snapshots is not None and snapshots.resume
        is_first = self.ranks.is_first
        run = Run(self.pair, plan.epochs, plan.in_words(), is_first, resume, label=task.label, labels=task.labels)
        shown = [ProgressBar()] if task.progress else []
        self.watchers = Watchers([*shown, *plan.callbacks], run, self.ranks)
        self.bars = [watcher for watcher in self.watchers.callbacks if isinstance(watcher, ProgressBar)]
        self.resume = None if snapshots is None else Resume(self, snapshots)
        earlier = None if self.resume is None else self.resume.earlier()
        self.good = [t.detach().clone() for t in self.kept]  # before a step that is looked at, as an epoch's last
        self.good_at = -1  # the step that they were before
        self.sound, self.sound_at = [t.clone() for t in self.good], 0  # the last ones that were looked at
        self.networks = networks if plan.precision == "bf16" else []
        if plan.precision == "bf16" and not self.networks:
            raise ValueError(f"precision='bf16' is for networks, and {type(self.pair).__name__} has none: leave it out")
        self.taken = 0
        self.take = chosen_step(self, named, None if earlier is None else earlier[0]["compiled"])
        if self.resume is not None and earlier is not None:
            self.resume.go_on(*earlier)
        self.resumed_after = len(self.rows) - 1 if self.rows else None
        if not self.taken:
            self.within = Within(self, 0)
        self.resumed_batch = self.within.batch
        self.saved = self.moment()
        self.between = Between(self, None if snapshots is None else snapshots.every)
        self.between.place = None if earlier is None else (len(self.rows), self.within.batch)

    def run(self) -> tuple[list[dict[str, float]], int]:
        """Run the epochs; return the row of each, and the epoch whose weights are in place at the end."""
        with self.watchers.running():
            try:
                while len(self.rows) < self.plan.epochs and not self.is_over():
                    epoch = len(self.rows)
                    row = self.epoch(epoch)
                    self.note(epoch, row)
                    self.between.after_epoch()
                self.between.after_run()
            except BaseException as error:
                self.between.broken_off(error)
                raise
            if self.best_weights:
                self.module.load_state_dict(self.best_weights)
        return self.rows, self.best[1] if self.best_weights else len(self.rows) - 1

    def note(self, epoch: int, row: dict[str, float]) -> None:
        """Tell all of what an epoch was, and close it; where a callback raises, it is still to be closed."""
        before = self.best, self.best_weights
        self.note_score(epoch, row)
        try:
            self.watchers.epoch(row)
        except BaseException:
            self.best, self.best_weights = before
            raise
        with self.between.turn():
            self.rows.append(row)
            self.schedule.note(row)
            self.within = Within(self, epoch + 1)

    def note_score(self, epoch: int, row: dict[str, float]) -> None:
        """Keep the weights of the best epoch so far, where the plan asks for them."""
        name = next((k for k in HIGHER_IS_BETTER if k in row), None)
        score = 0.0 if name is None else HIGHER_IS_BETTER[name] * row[name]
        if self.plan.patience is not None and epoch + 1 >= self.plan.warmup and score > self.best[0]:
            self.best, self.best_weights = (score, epoch), deepcopy(self.module.state_dict())

    def is_over(self) -> bool:
        """Whether a callback has stopped the run, or the score has not improved for `patience` epochs."""
        if self.watchers.run.stopped is not None:
            return True
        patience = self.plan.patience
        return patience is not None and self.best[1] >= 0 and len(self.rows) - 1 - self.best[1] >= patience

    def epoch(self, epoch: int) -> dict[str, float]:
        """Take an epoch's steps, or those that are left of it; what it was."""
        self.within.begin()
        if self.taken - self.saved.taken >= REPLAYED and not self.within.batch:
            self.saved = self.moment()
        self.steps(self.within)
        losses = self.within.losses.double().cpu()
        self.ranks.spread(list(self.module.buffers()))
        if not self.take.all_finite:
            refuse_broken_step(self)
        refuse_broken_weights(self)
        last = self.taken - 1
        row = self.problem.row(losses, last)
        row |= {
            "learning_rate": self.plan.learning_rate * self.schedule.factor(last),
            "seconds": self.within.seconds,
        }
        if self.problem.held_out is not None:
            scores = validated(self, self.problem.held_out)
            for name, score in scores.items():
                if not math.isfinite(score):
                    raise FloatingPointError(
                        f"the {WORDS[name]} became {score} in epoch {epoch + 1}; look at the validation items, or "
                        "lower learning_rate"
                    )
            row |= scores
        return row

    def steps(self, within: Within, most: int | None = None) -> None:
        """Take the steps that are left of an epoch, without waiting for them.

        With `most` no more than so many, which are taken again to see where one broke: nothing is done between them.
        """
        batches = islice(self.problem.batches(within.epoch, within.batch, within.draws), most)
        # what a user's own source waits for may be another thread: its batches are read between turns
        least_turn = TURN if isinstance(self.problem.source.x, Tensor) else 0.0
        # an epoch's random numbers do not depend on those of the epochs before
        space = self.workspace(within.noise, training=True)
        for batch in batches:
            room = self.between.room() if most is None else most
            outer = self.between.turn() if most is None else nullcontext()
            with outer, space.turn(), self.precision():
                end = time.perf_counter() + least_turn
                within.note(self.step(*batch))
                while (
                    (room := room - 1) > 0
                    and not waits()
                    and time.perf_counter() < end
                    and (following := next(batches, None)) is not None
                ):
                    within.note(self.step(*following))
            if most is not None:
                continue
            for bar in self.bars:
                bar.batch(within.batch, self.steps_per_epoch)
            self.between.between_batches()

    def workspace(self, noise: Noise | int | None, *, training: bool, checks: bool | None = None) -> Workspace:
        """A workspace for turns of this fit; its steps decide themselves whether Pyro checks them."""
        own = noise if isinstance(noise, Noise) else Noise(noise, self.device)
        return Workspace(self.module, training=training, noise=own, checks=checks, store=self.store)

    def noise(self, epoch: int) -> int:
        """The seed of an epoch's noise, which is another one in each process."""
        process = () if self.ranks.size == 1 else (self.ranks.size, self.ranks.rank)
        return stream(self.plan.seed, "noise", epoch, *process)

    def step(self, *batch: Any) -> Tensor:
        """Take one step: loss, gradients, update. Nothing is updated once a loss or a gradient is not finite."""
        if (self.taken + 1) % self.steps_per_epoch == 0 or self.between.is_planned:
            torch._foreach_copy_(self.good, self.changed())
            self.good_at = self.taken
        loss = self.take(self.schedule.factor(self.taken), *self.problem.arguments(batch, self.taken))
        self.taken += 1
        return loss

    def precision(self) -> AbstractContextManager[None]:
        """The precision of the networks, which holds in training alone."""
        return with_bf16(self.networks) if self.networks else nullcontext()

    def moment(self) -> Moment:
        """A copy of all that steps change."""
        before = [t.clone() for t in self.good]
        values = [t.clone() for t in self.changed()]
        return Moment(self.taken, values, self.take.state_dict(), self.within.copy(self), before, self.good_at)

    def go_back(self, moment: Moment) -> None:
        """Be where the run was at that moment."""
        self.taken, self.within = moment.taken, moment.within.copy(self)
        torch._foreach_copy_(self.changed(), moment.values)
        self.take.load_state_dict(moment.optimizer, moment.taken)
        self.good, self.good_at = [t.clone() for t in moment.before], moment.before_at

    def changed(self) -> list[Tensor]:
        """The parameters and buffers themselves."""
        return [t.detach() for t in self.kept]

    def broken_off(self) -> dict[str, Any]:
        """The same of a run that has ended between two batches, with the weights of the last one in place."""
        epochs = len(self.rows)
        place = f"after {in_words((epochs, self.within.batch))}" if self.taken else "before the first batch"
        return {**self.outcome(len(self.rows) - 1), "batches": self.taken, "stopped": place}

    def outcome(self, kept: int) -> dict[str, Any]:
        """What the `config` of a history says of a run that is over, with the weights of epoch `kept` in place."""
        snapshots = None if self.resume is None else self.resume.snapshots
        ends = [] if self.watchers.run.stopped is None else [self.watchers.run.stopped]
        if kept < len(self.rows) - 1:
            ends.append(f"weights of epoch {kept + 1}")
        return {
            "processes": self.ranks.size,
            "compiled": isinstance(self.take, CompiledFitStep),
            "compiles": self.take.compiles,
            "cuda_graphs": self.take.replays,
            "checkpoint": None if snapshots is None else str(snapshots.folder),
            "resumed_after": self.resumed_after,
            "resumed_batch": self.resumed_batch,
            "weights_epoch": kept if self.rows else None,
            "stopped": "; ".join(ends) if ends else None,
            **environment(self.device),
        }
