"""The diagnosis of a fit that broke: which loss, gradient or weight is not finite, after the last good step."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from pyrovae.compile.step import leading
from pyrovae.inference.svi.within import Within

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["refuse_broken_step", "refuse_broken_weights"]

ADVICE = "the weights are those of the last finite loss: lower learning_rate or look at these items"


def refuse_broken_step(loop: Loop) -> None:
    """Raise the error of a loss or gradient that is not finite in this epoch, with the last good weights in place.

    A run with a folder leaves its state there, from which it would break in the same way.
    """
    broken, within = loop.take.taken, loop.within  # as many updates were good
    place, batch = _place(loop, broken), broken % loop.steps_per_epoch
    value = float(leading(within.losses[batch]))
    drawn = _drawn(loop, within.epoch, batch)
    loop.between.is_whole = False
    if math.isfinite(value):
        note = _left_in_folder(loop, broken)
        _replay(loop, broken)
        named = _broken_gradients(loop, drawn, broken)
        raise _error(f"the gradient of {', '.join(named[:3])} is not finite {place}; {ADVICE}", note)
    terms = _broken_terms(loop, drawn)
    # the step before the first of an epoch is one of an epoch that is closed
    note = _left_in_folder(loop, broken - 1 if batch else broken)
    _replay(loop, broken - 1)
    advice = ADVICE
    if loop.taken > broken - 1:  # from no earlier than where it broke
        torch._foreach_copy_(loop.changed(), loop.saved.before)
        advice = _advice_from(loop, loop.saved.before_at, broken - 1)
    raise _error(f"the loss became {value} {place}: {terms} is not finite; {advice}", note)


def refuse_broken_weights(loop: Loop) -> None:
    """Raise the error of weights that are not finite between two batches, which no later loss might show."""
    if torch.stack([p.isfinite().all() for p in loop.trained]).all():
        torch._foreach_copy_(loop.sound, loop.changed())
        loop.sound_at = loop.taken
        return
    named = [name for name, p in loop.module.named_parameters() if not p.isfinite().all()]
    loop.between.is_whole = False
    # a weight at infinity may still give a finite loss
    last = all(p.isfinite().all() for p in loop.good[: len(loop.trained)])
    taken, good, at = loop.taken, [t.clone() for t in (loop.good if last else loop.sound)], loop.good_at
    note = _left_in_folder(loop, taken - 1) if last else None
    torch._foreach_copy_(loop.changed(), good)
    before, advice = _place(loop, taken)[3:], _advice_from(loop, at if last else loop.sound_at, taken - 1)
    raise _error(f"an update before {before} left {named[0]} not finite; {advice}", note)


def _error(message: str, note: str | None) -> FloatingPointError:
    error = FloatingPointError(message)
    if note is not None:
        error.add_note(note)
    return error


def _advice_from(loop: Loop, step: int, last: int) -> str:
    """The advice where the weights in place are those before `step`, and `last` had the last finite loss."""
    if step == last:
        return ADVICE
    there = f"from before {_place(loop, step)[3:]}" if step > 0 else "from the start"
    return ADVICE.replace("of the last finite loss", there)


def _left_in_folder(loop: Loop, step: int) -> str | None:
    """Write the state before a step, or the earliest after it that is kept; what went wrong with that, in words."""
    if loop.resume is None:
        return None
    _replay(loop, step)
    try:
        if loop.within.epoch == len(loop.rows):
            loop.between.write()
    except Exception as error:
        return f"the state before that step could not be written: {error}"
    finally:
        loop.between.is_whole = False
    return None


def _drawn(loop: Loop, epoch: int, batch: int) -> tuple[Any, ...]:
    """A batch of an epoch, read from the kept state's place in it on."""
    kept = loop.saved.within
    from_there = kept.copy(loop) if kept.epoch == epoch and kept.batch <= batch else Within(loop, epoch)
    batches = loop.problem.batches(epoch, from_there.batch, from_there.draws)
    drawn: tuple[Any, ...] = next(islice(batches, batch - from_there.batch, None))
    return drawn


def _place(loop: Loop, step: int) -> str:
    """Where a step is, all counted from 1."""
    epoch, batch = divmod(step, loop.steps_per_epoch)
    return f"at step {step + 1:,} (batch {batch + 1:,} of epoch {epoch + 1:,})"


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
    """Go back to the state before step `to`, or to the earliest that is kept; that before the last step is `good`."""
    loop.go_back(loop.saved)
    while loop.taken < to:
        rest = to - 1 - loop.taken
        loop.between.looks = not rest
        loop.steps(loop.within, max(1, rest))
        _over(loop)
    _over(loop)


def _over(loop: Loop) -> None:
    """After the last batch of an epoch that is closed be before the first of the next."""
    if loop.within.batch == loop.steps_per_epoch and loop.within.epoch < len(loop.rows):
        loop.within = Within(loop, loop.within.epoch + 1)
