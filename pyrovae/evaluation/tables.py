"""Tables of particles for many items, by a compiled graph if there are enough for the compilation to pay off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from pyrovae.compile.function import CompiledFunction, compile_function, pays
from pyrovae.models.batch import concatenated, rebuilt, tensors_of
from pyrovae.models.layers import layer_sizes, rows_within
from pyrovae.models.pair import Pair
from pyrovae.models.particles import Drawn, Items, Particles, drawn, particles, weighed
from pyrovae.seeding import forked

__all__ = ["MAX_BYTES", "tables"]

MAX_BYTES = 64 * 2**20  # sets the chunks in which codes are drawn, whatever the caller's `max_bytes` is
LEAST = 100_000  # the smallest number of codes for which a compilation is considered


def tables(pair: Pair, x: Items, num_particles: int, max_bytes: int) -> Iterator[list[Particles]]:
    """For each chunk of items, tables that together have `num_particles` rows, decoded within `max_bytes`.

    Up to rounding, the values and their order depend neither on compilation nor on `max_bytes`:
    codes are drawn in the chunks that `MAX_BYTES` sets, so that the noise does not depend on
    memory. The pair must be in evaluation mode, as in `Workspace.turn`, and is not changed.
    """
    if not len(x):
        return
    usual = rows_within(pair, x, MAX_BYTES)
    rows = usual if max_bytes == MAX_BYTES else rows_within(pair, x, max_bytes)
    parts = x.split(max(1, usual // num_particles))
    sizes = _sizes(num_particles, usual)
    if rows != usual:
        yield from _decoded_apart(pair, parts, sizes, rows)
        return
    draw: Callable[[Items, int], Particles] = partial(particles, pair)
    calls = sum(len(part) == len(parts[0]) for part in parts) * sizes.count(sizes[0])
    if len(x) * num_particles >= LEAST and _pays(pair, parts[0], sizes[0], calls):
        draw = _compiled(pair, parts[0], sizes[0]) or draw
    for part in parts:
        yield [draw(part, size) for size in sizes]


def _sizes(count: int, most: int) -> list[int]:
    return [min(most, count - start) for start in range(0, count, most)]


def _decoded_apart(pair: Pair, parts: Sequence[Items], sizes: Sequence[int], rows: int) -> Iterator[list[Particles]]:
    """The tables for codes that are drawn per part, in `sizes`, and decoded `rows` codes at a time."""
    count, items, compiled = sum(sizes), sum(map(len, parts)), None
    each, at_once = max(1, rows // count), min(rows, count)
    together = max(1, each // len(parts[0]))  # the number of parts whose codes are decoded together
    for first in range(0, len(parts), together):
        group = parts[first : first + together]
        x = concatenated(list(group))
        codes = Drawn.joined([Drawn.joined([drawn(pair, one, size) for size in sizes], -2) for one in group], -1)
        calls = items // each * (count // at_once)
        if first == 0 and items * count >= LEAST and _pays(pair, x[:each], at_once, calls):
            compiled = _compiled_decoding(pair, x[:each], codes.part(slice(at_once), slice(each)))
        for start in range(0, len(x), each):
            some = slice(start, start + each)
            chunks = [codes.part(slice(row, row + at_once), some) for row in range(0, count, at_once)]
            yield [_decoded(pair, compiled, x[some], chunk) for chunk in chunks]


def _pays(pair: Pair, x: Items, num_particles: int, calls: int) -> bool:
    """Whether a compilation pays off for so many tables of this shape."""
    return pays(calls, sum(layer_sizes(pair, x)) * len(x) * num_particles)


def _compiled(pair: Pair, x: Items, num_particles: int) -> Callable[[Items, int], Particles] | None:
    """`particles`, compiled for batches of this shape and eager for others; None if it cannot be captured."""

    def table(*part: Tensor) -> list[Tensor]:
        scores = particles(pair, rebuilt(x, part), num_particles)
        return [scores.log_likelihood, scores.log_prior, scores.log_guide]

    with forked(0, x.device):  # the draws of the capture are discarded
        compiled = compile_function(table, tensors_of(x))
    if compiled is None:
        return None

    def draw(part: Items, size: int) -> Particles:
        inputs = tensors_of(part)
        fits = size == num_particles and compiled.fits(*inputs)
        return Particles(*compiled(*inputs)) if fits else particles(pair, part, size)

    return draw


def _compiled_decoding(pair: Pair, x: Items, codes: Drawn) -> CompiledFunction | None:
    """`weighed`, compiled for items and codes of this shape, without the density of the guide."""

    count = len(tensors_of(x))

    def table(*values: Tensor) -> list[Tensor]:
        part, by_site = rebuilt(x, values[:count]), dict(zip(codes.values, values[count:], strict=True))
        scores = weighed(pair, part, Drawn(by_site, codes.event_dims, codes.log_guide))
        return [scores.log_likelihood, scores.log_prior]

    with forked(0, x.device):
        return compile_function(table, [*tensors_of(x), *(value.contiguous() for value in codes.values.values())])


def _decoded(pair: Pair, compiled: CompiledFunction | None, x: Items, codes: Drawn) -> Particles:
    inputs = [*tensors_of(x), *(value.contiguous() for value in codes.values.values())]
    if compiled is None or not compiled.fits(*inputs):
        return weighed(pair, x, codes)
    log_likelihood, log_prior = compiled(*inputs)
    return Particles(log_likelihood, log_prior, codes.log_guide)
