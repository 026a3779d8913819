"""Tables of particles for many items, each a compiled graph where there are enough of them to pay for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from pyrovae.graph import blind, capture, compiled, constants_to_inputs, pays, unmoved, without_noise
from pyrovae.models.pair import Pair, Particles, as_module, particles, seen
from pyrovae.seeding import forked

__all__ = ["tables"]

log = logging.getLogger(__name__)

LEAST = 100_000  # codes: fewer are not looked at


def tables(pair: Pair, x: Tensor, num_particles: int, rows: int) -> Iterator[list[Particles]]:
    """The tables of each chunk of items, of `rows` codes at the most; together they have `num_particles` rows.

    They are the same numbers in the same order, compiled or not, but for rounding. The pair is being evaluated, as by
    `evaluating`, and stays as it is.
    """
    parts: Sequence[Tensor] = x.split(max(1, rows // num_particles)) if len(x) else []
    sizes = [min(rows, num_particles - start) for start in range(0, num_particles, rows)]
    draw: Callable[[Tensor, int], Particles] = lambda part, size: particles(pair, part, size)  # noqa: E731
    if len(x) * num_particles >= LEAST:
        calls = sum(len(part) == len(parts[0]) for part in parts) * sizes.count(sizes[0])
        with forked(0, x.device):  # what is drawn to look counts for nothing
            with seen(as_module(pair)) as found:
                particles(pair, parts[0][:1], 1)
            if pays(calls, found.elements * len(parts[0]) * sizes[0]):
                draw = _compiled(pair, parts[0], sizes[0]) or draw
    for part in parts:
        yield [draw(part, size) for size in sizes]


def _compiled(pair: Pair, x: Tensor, num_particles: int) -> Callable[[Tensor, int], Particles] | None:
    """`particles` for batches of this shape, and as torch runs it for others; None where it cannot be one graph."""

    def table(part: Tensor) -> list[Tensor]:
        other = RuntimeError("model or guide draws from Python's or NumPy's generator")
        with unmoved(lambda: other), blind(lambda: RuntimeError("the course of model or guide depends on a value")):
            found = particles(pair, part, num_particles)
        return [found.log_likelihood, found.log_prior, found.log_guide]

    try:
        graph = capture(table, [x])
        held = constants_to_inputs(graph)
        noise = without_noise(graph, x.device)
        drawn: Sequence[Tensor] = () if noise is None else noise()
        program = compiled(graph, [x, *held, *drawn], keep_noise=noise is None)
        program(x, *held, *drawn)
    except Exception as error:  # of whatever kind: a compiler that is missing, a model that looks at values
        log.warning("runs without a compiled graph (%s: %s)", type(error).__name__, str(error).strip().split("\n")[0])
        return None

    def draw(part: Tensor, size: int) -> Particles:
        if part.shape != x.shape or size != num_particles or part.stride() != x.stride():
            return particles(pair, part, size)
        return Particles(*program(part, *held, *(() if noise is None else noise())))

    return draw
