"""The choice between eager steps and one compiled graph."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from pyrovae.compile.errors import CaptureError, CompilerError
from pyrovae.compile.function import pays
from pyrovae.inference.steps import CompiledFitStep, EagerStep
from pyrovae.models.pair import dtype_and_device

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["chosen_step"]

log = logging.getLogger(__name__)


def chosen_step(loop: Loop, named: dict[str, nn.Parameter], before: bool | None) -> EagerStep | CompiledFitStep:
    """The step as the plan asks for it, or as in the run that goes on; else the one that is faster for this work.

    `before` says whether an earlier run, with which this one goes on, took compiled steps; None where there is none.
    """
    plan, problem, reduce = loop.plan, loop.problem, None if loop.ranks.size == 1 else loop.ranks.sum_
    steps = plan.epochs * max(1, len(problem.source) // problem.batch_size)  # of whole batches
    may = problem.pure is not None and dtype_and_device(loop.pair)[0] != torch.float16
    free = plan.compile == "auto" and before is None
    asked = plan.compile is True or before or (free and may and pays(steps, problem.elements))
    if asked and problem.pure is not None:
        failed = None
        try:
            step = CompiledFitStep(problem.pure, loop.module, named, plan.optimizer, reduce, plan.clip_norm)
            arguments = problem.arguments(next(problem.batches(0)), 0)
            with loop.workspace(loop.noise(0), training=True).turn(), loop.precision():
                step.prepare(*arguments)
        except (CaptureError, CompilerError) as error:
            failed = error
        reasons = [reason for reason in loop.ranks.gathered(failed and str(failed)) if reason is not None]
        if not reasons:
            return step
        if plan.compile is True:
            raise failed or CompilerError(f"another process could not compile: {reasons[0]}")
        if loop.ranks.is_first:
            log.warning("fit runs eagerly%s: %s", ", and rounds otherwise than before" if before else "", reasons[0])
    return EagerStep(problem.loss, named, plan.optimizer, reduce, plan.clip_norm)
