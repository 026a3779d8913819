"""Tables of particles for many items, each a compiled graph where there are enough of them to pay for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from pyrovae.graph import pays, programmed
from pyrovae.models.pair import Pair, Particles, layer_sizes, particles
from pyrovae.seeding import forked

__all__ = ["tables"]

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
        if pays(calls, sum(layer_sizes(pair, x)) * len(parts[0]) * sizes[0]):
            draw = _compiled(pair, parts[0], sizes[0]) or draw
    for part in parts:
        yield [draw(part, size) for size in sizes]


def _compiled(pair: Pair, x: Tensor, num_particles: int) -> Callable[[Tensor, int], Particles] | None:
    """`particles` for batches of this shape, and as torch runs it for others; None where it cannot be one graph."""

    def table(part: Tensor) -> list[Tensor]:
        found = particles(pair, part, num_particles)
        return [found.log_likelihood, found.log_prior, found.log_guide]

    with forked(0, x.device):  # what is drawn to capture counts for nothing
        program = programmed(table, [x])
    if program is None:
        return None

    def draw(part: Tensor, size: int) -> Particles:
        fits = size == num_particles and program.fits(part)
        return Particles(*program(part)) if fits else particles(pair, part, size)

    return draw
