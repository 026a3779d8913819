"""What a pair measures of its training items before the first step of its first fit, and columns of unlike scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.items import EVALUATION_BATCH, Items
from pyrovae.inference.weighed import Weighed
from pyrovae.models.batch import items_of, weight_of
from pyrovae.models.pair import as_module, dtype_and_device, likelihood_of
from pyrovae.models.parts.standardizer import SEES, Moments, Standardizable, standardizer_of

__all__ = ["measuring", "warn_of_scales"]

LOOKED_AT = 4096  # items, evenly spread, by which scales are told apart
RATIO, LARGE = 30.0, 10.0  # of the largest scale to the smallest, and the largest, from which on a fit is warned of


@contextmanager
def measuring(pair: Any, *sources: Items | Weighed) -> Iterator[Callable[[], None]]:
    """Let the parts of a pair measure the training items; the body calls what it is given once training begins.

    A part that is to be measured has `measure(batches)`, where `batches` are pairs of items and their weights, or None,
    and `is_measured`: it is measured once, and neither a second fit nor one that is resumed does so again. Where the
    body raises before training begins, the buffers are as they were. ValueError where the pair's dtype does not hold
    the square of a scale.
    """
    parts = [part for part in as_module(pair).modules() if getattr(part, "is_measured", True) is False]
    before = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers(recurse=False)]
    dtype = dtype_and_device(pair)[0]
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        for part in parts:
            measure: Any = part.measure
            measure(_batches(sources))
            scale = getattr(part, "scale", None)
            if isinstance(scale, Tensor):
                for end in (scale.min(), scale.max()):
                    checks.scale_in("the standard deviation of each column of x", float(end), dtype)
        yield begin
    finally:
        if not begun:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)


def warn_of_scales(pair: Any, source: Items) -> None:
    """Warn of columns that differ widely in scale, for a likelihood that could standardise them and does not."""
    family = getattr(likelihood_of(pair), "family", None)
    x = source.x
    if not isinstance(family, Standardizable) or standardizer_of(family) is not None:
        return
    if len(pair.event_shape) != 1 or pair.event_shape[0] < 2 or not isinstance(x, Tensor):
        return
    moments = Moments(pair.event_shape)
    moments.add(SEES[family.sees](x[:: -(-len(x) // LOOKED_AT)]))
    scale = moments.scale
    if float(scale.max()) < LARGE:
        return
    varied = torch.where(scale > 0, scale, torch.inf)
    least, most = int(varied.argmin()), int(scale.argmax())
    if float(scale[most]) < RATIO * float(scale[least]):
        return
    of = "of x" if family.sees == "identity" else "of the logarithms of x"
    advice = "build the pair with standardize=True, which leaves log p(x) in the units of x"
    if not pair.is_normalized:
        advice = "standardise x first, as in (x - x.mean(0)) / x.std(0), or take a VAE with standardize=True"
    checks.warn(
        f"columns of x differ widely in scale: standard deviations {of} go from {float(scale[least]):.3g} in "
        f"x[:, {least}] to {float(scale[most]):.3g} in x[:, {most}]. Networks train badly on such columns, and a scale "
        f"that they share fits none of them: {advice}"
    )


def _batches(sources: tuple[Items | Weighed, ...]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All items of a fit with their weights, in parts."""
    for source in sources:
        if isinstance(source, Weighed):
            yield source.x, source.weight
            continue
        for batch, _ in source.batches(EVALUATION_BATCH, shuffle=False):
            yield items_of(batch), weight_of(batch)
