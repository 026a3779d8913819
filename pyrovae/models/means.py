"""The mean of a distribution over a code, in closed form or by draws of one fixed noise."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from pyrovae.seeding import forked, stream

__all__ = ["mean_of"]

DRAWS = 512  # of the fixed noise: a power of 2, for Sobol's points
ELEMENTS = 2**22  # of the draws that are made together
WRAPPERS = (TransformedDistribution, Independent, MaskedDistribution, ExpandedDistribution)


def mean_of(q: Any) -> Tensor:
    """The mean of `q`, shape (*batch_shape, *event_shape): its own, or that of 512 draws where it has no closed form.

    A normalising flow has none. The draws are then always the same, differentiable, and leave the caller's generators
    alone. A transformed diagonal Normal, or any base of independent entries with a quantile function, is drawn at
    Sobol's points, the same for each item: an item's mean does not depend on the items beside it. Another `q` is drawn
    from a fixed seed.

    >>> import torch
    >>> from pyrovae.models.means import mean_of
    >>> from torch.distributions import ExpTransform, Normal, TransformedDistribution
    >>> log_normal = TransformedDistribution(Normal(torch.zeros(3), 0.5), [ExpTransform()])  # the mean is exp(1/8)
    >>> (mean_of(log_normal) - torch.tensor(0.125).exp()).abs().max() < 0.005
    tensor(True)
    """
    try:
        mean: Tensor = q.mean
        return mean
    except NotImplementedError:
        pass
    shape = torch.Size([*q.batch_shape, *q.event_shape])
    rows = max(1, ELEMENTS // max(1, shape.numel()))
    try:
        parts = [_at(q, part).sum(0) for part in _points(q).split(rows)]
    except NotImplementedError:  # a base that has no quantile function
        draw = q.rsample if q.has_rsample else q.sample
        with forked(stream(0, "mean"), _example(q).device):
            parts = [draw((min(rows, DRAWS - first),)).sum(0) for first in range(0, DRAWS, rows)]
    return (torch.stack(parts).sum(0) / DRAWS).expand(shape)


def _leaf(q: Any) -> Any:
    """The distribution inside of those that only transform, reshape or mask it."""
    while isinstance(q, WRAPPERS):
        q = q.base_dist
    return q


def _points(q: Any) -> Tensor:
    """Sobol's points in the open cube, one coordinate an entry of an item: (DRAWS, 1, ..., *entries)."""
    leaf = _leaf(q)
    entries = leaf.batch_shape[len(leaf.batch_shape) - len(q.event_shape) :]
    if leaf.event_shape or entries.numel() > torch.quasirandom.SobolEngine.MAXDIM:
        raise NotImplementedError
    engine = torch.quasirandom.SobolEngine(max(1, entries.numel()), scramble=True, seed=0)
    like = _example(leaf)
    least = torch.finfo(like.dtype).eps
    points = engine.draw(DRAWS, dtype=torch.float64).to(like).clamp(least, 1 - least)
    return points.reshape(DRAWS, *[1] * (len(leaf.batch_shape) - len(entries)), *entries)


def _at(q: Any, points: Tensor) -> Tensor:
    """The draws that these points of the unit cube are."""
    if not isinstance(q, WRAPPERS):
        z: Tensor = q.icdf(points)
        return z
    z = _at(q.base_dist, points)
    for transform in q.transforms if isinstance(q, TransformedDistribution) else ():
        z = transform(z)
    return z


def _example(q: Any) -> Tensor:
    """A tensor of the distribution's, of whose type and on whose device it draws."""
    tensors = [value for value in vars(_leaf(q)).values() if isinstance(value, Tensor)]
    return next((t for t in tensors if t.is_floating_point()), torch.empty(()))
