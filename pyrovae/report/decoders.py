"""A pair's decoder for the page: the network itself with its largest error, or a grid of codes decoded before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrovae.models.pair import dtype_and_device
from pyrovae.models.scopes import Workspace
from pyrovae.report.decoding import Decoding
from pyrovae.report.network import Program, Untranslatable, translated
from pyrovae.report.planes import Plane
from pyrovae.report.shown_items import Layout, pictures_text
from pyrovae.seeding import Noise

__all__ = ["NUM_CODES", "Decoder", "decoder_of", "rounded_up"]

NUM_CODES = 10_000  # that the page's arithmetic is compared with Python's at
BATCH = 1024
ROWS = 250  # codes that NumPy decodes together
LARGEST_TEXT = 6 * 2**20  # bytes of weights: what is larger makes a page that nobody sends on
MOST_PRODUCTS = 4 * 10**8  # multiplications for one code: about half a second in a page
POOREST = 0.02  # of the range of decoded values: a translation that is off by more is none
GRID_NUMBERS = 2**21
NO_MEAN = "no decoded mean at some codes of its plane"


@dataclass(frozen=True)
class Decoder:
    """A decoder as the page takes it; `error` is None where it is a grid, and `why` then says why it is one."""

    text: dict[str, Any]
    error: float | None
    why: str = ""


def decoder_of(decoding: Decoding, plane: Plane, layout: Layout, seed: int) -> Decoder:
    """The network of a pair, or a grid where the page cannot run it.

    Raises `Untranslatable` where decoding itself fails at a code of the grid.
    """
    if decoding.is_before:
        return Decoder(_grid(decoding, plane, layout), None, decoding.is_before)
    try:
        program = _program(decoding)
        error = _largest_error(decoding, program, plane, seed)
    except Untranslatable as reason:
        return Decoder(_grid(decoding, plane, layout), None, f"it has {reason}")
    categories = {"categories": decoding.categories} if decoding.categories else {}
    return Decoder({"kind": "network", **program.text, **categories}, error)


def _program(decoding: Decoding) -> Program:
    dtype, device = dtype_and_device(decoding.pair)
    with Workspace(decoding.pair, noise=Noise(0, device), checks=None).turn():
        try:
            like = torch.zeros((), dtype=dtype, device=device)
            function = decoding.as_steps or decoding.function
            program = translated(function, decoding.codes.shape[1], like, rows=decoding.with_beside)
        except ValueError as error:
            raise Untranslatable(NO_MEAN) from error
    if program.size > LARGEST_TEXT:
        raise Untranslatable(f"{program.size / 2**20:.0f} MiB of weights")
    if program.products > MOST_PRODUCTS:
        raise Untranslatable(f"{program.products / 1e6:,.0f} million products for one code")
    return program


def _largest_error(decoding: Decoding, program: Program, plane: Plane, seed: int) -> float:
    """The largest difference of an entry between the page's arithmetic and Python's, over `NUM_CODES` codes."""
    codes = decoding.with_beside(plane.spread_codes(NUM_CODES, seed), seed)
    largest, low, high = 0.0, math.inf, -math.inf
    for start in range(0, len(codes), ROWS):
        rows = codes[start : start + ROWS]
        exact = _decoded(decoding, rows)
        values = program.run(rows)
        if not (np.isfinite(exact).all() and np.isfinite(values).all()):  # `max` would pass over a NaN
            raise Untranslatable("a result that is not finite at some codes")
        largest = max(largest, float(np.abs(values - exact).max()))
        low, high = min(low, float(exact.min())), max(high, float(exact.max()))
        if not largest <= POOREST * max(high - low, 1e-6 * max(abs(low), abs(high))) and start == 0:
            raise Untranslatable("a result that the page does not reproduce")
    if not largest <= POOREST * (high - low):
        raise Untranslatable("a result that the page does not reproduce")
    # NumPy adds up in float32, and the page in float64: a few units of the last place
    slack = 16 * float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    return rounded_up(largest + slack)


def _decoded(decoding: Decoding, rows: np.ndarray) -> np.ndarray:
    """What is decoded at codes and what lies beside them, (N, width), flat."""
    try:
        parts = [decoding(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    except ValueError as error:  # a distribution without a mean, or that refuses its parameters
        raise Untranslatable(NO_MEAN) from error
    return np.concatenate(parts)


def rounded_up(error: float) -> float:
    """An error with two figures, never below it.

    >>> from pyrovae.report.decoders import rounded_up
    >>> rounded_up(0.00123), rounded_up(0.5)
    (0.0013, 0.5)
    """
    if error <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(error)) - 1)
    figures = math.ceil(error / unit * (1 - 1e-12))
    value = float(f"{figures * unit:.2g}")
    return value if value >= error else float(f"{(figures + 1) * unit:.2g}")


def _grid(decoding: Decoding, plane: Plane, layout: Layout) -> dict[str, Any]:
    """Decoded items on a grid over the plane that the explorer starts with, through the mean code."""
    shown = plane.directions[: min(2, plane.latent_dim)]
    per_axis = max(5, min(257 if len(shown) == 1 else 33, int((GRID_NUMBERS / layout.entries) ** (1 / len(shown)))))
    through = plane.centre.astype(np.float64) if plane.latent_dim > 2 else np.zeros(plane.latent_dim)
    low = [d.low - float(through @ d.vector) for d in shown]
    high = [d.high - float(through @ d.vector) for d in shown]
    axes = np.meshgrid(*[np.linspace(a, b, per_axis) for a, b in zip(low, high, strict=True)])
    codes = through + sum(axis.reshape(-1, 1) * d.vector for axis, d in zip(axes, shown, strict=True))
    values = decoding.shown(_decoded(decoding, decoding.at_first(codes))).astype(np.float32)
    return {
        "kind": "grid",
        "count": per_axis,
        "low": low,
        "high": high,
        "through": through.tolist(),
        "directions": [d.vector.tolist() for d in shown],
        "pictures": pictures_text(values, layout),
    }
