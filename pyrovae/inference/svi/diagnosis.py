"""The diagnosis of a fit that broke: which loss, gradient or weight is not finite, after the last good step."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.compile.step import leading

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["refuse_broken_step", "refuse_broken_weights"]

ADVICE = "the weights are those of the last finite loss: lower learning_rate or look at these items"


def refuse_broken_step(loop: Loop, epoch: int, losses: Tensor, before: list[Tensor]) -> None:
    """Raise the error of an epoch with a loss or gradient that is not finite, with the last good weights in place.

    `before` are the weights and buffers before the last step of the previous epoch.
    """
    broken = loop.take.taken  # as many updates were good
    place, batch = _place(loop, broken), broken % loop.steps_per_epoch
    value = float(leading(losses[batch]))
    drawn = next(islice(loop.problem.batches(epoch), batch, None))
    if math.isfinite(value):
        _replay(loop, broken)
        named = _broken_gradients(loop, drawn, broken)
        raise FloatingPointError(f"the gradient of {', '.join(named[:3])} is not finite {place}; {ADVICE}")
    terms = _broken_terms(loop, drawn)
    _replay(loop, broken - 1)
    if loop.taken > broken - 1:  # from no earlier than where it broke
        torch._foreach_copy_(loop.changed(), before)
    raise FloatingPointError(f"the loss became {value} {place}: {terms} is not finite; {ADVICE}")


def refuse_broken_weights(loop: Loop) -> None:
    """Raise the error of weights that are not finite after an epoch, which no later loss might show."""
    if torch.stack([p.isfinite().all() for p in loop.trained]).all():
        torch._foreach_copy_(loop.started, loop.changed())
        return
    named = [name for name, p in loop.module.named_parameters() if not p.isfinite().all()]
    # a weight at infinity may still give a finite loss
    last = all(p.isfinite().all() for p in loop.good[: len(loop.trained)])
    torch._foreach_copy_(loop.changed(), loop.good if last else loop.started)
    advice = ADVICE if last else ADVICE.replace("of the last finite loss", "from the start of the epoch")
    before = _place(loop, loop.taken)[3:]
    raise FloatingPointError(f"an update before {before} left {named[0]} not finite; {advice}")


def _place(loop: Loop, step: int) -> str:
    epoch, batch = divmod(step, loop.steps_per_epoch)
    return f"at step {step} (epoch {epoch}, batch {batch})"


def _broken_gradients(loop: Loop, batch: tuple[Any, ...], step: int) -> list[str]:
    """The names of the parameters whose gradients are not finite."""
    with loop.workspace(0, training=True, checks=False).turn(), loop.precision():
        leading(loop.problem.loss(*loop.problem.arguments(batch, step))).backward()
    grads = {name: p.grad for name, p in loop.module.named_parameters() if p.grad is not None}
    return [name for name, grad in grads.items() if not grad.norm().isfinite()] or ["a parameter"]


def _broken_terms(loop: Loop, batch: tuple[Any, ...]) -> str:
    """The terms of the loss that are not finite, in words."""
    with loop.workspace(0, training=True, checks=False).turn(), torch.no_grad():
        return loop.problem.broken_terms(batch)


def _replay(loop: Loop, to: int) -> None:
    """Go back to the state before step `to`, or to the earliest that is kept."""
    loop.taken, (values, state) = loop.saved
    torch._foreach_copy_(loop.changed(), values)
    loop.take.load_state_dict(state, loop.taken)
    while loop.taken < to:
        loop.steps(loop.taken // loop.steps_per_epoch, to - loop.taken)
