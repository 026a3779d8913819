"""Statistics of a set of items, by name, as predictive checks compare them: (N, *event_shape) to one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks

__all__ = ["STATISTICS", "Statistic", "defaults_for"]

Statistic = Callable[[Tensor], Any]
MOST_ENTRIES = 64  # between which correlations are taken: evenly spaced ones of a larger item


def dispersion(x: Tensor) -> Tensor:
    """The mean over entries of variance / mean over items; 0 for an entry that is always 0."""
    flat = x.flatten(1).double()
    mean, variance = flat.mean(0), flat.var(0)
    return torch.where(mean != 0, variance / mean.where(mean != 0, torch.ones_like(mean)), 0.0).mean()


def correlation(x: Tensor) -> Tensor:
    """The root mean square of the correlations between entries; 0 for an entry that does not vary."""
    flat = x.flatten(1).double()
    if flat.shape[1] > MOST_ENTRIES:
        flat = flat[:, torch.linspace(0, flat.shape[1] - 1, MOST_ENTRIES, device=x.device).round().long()]
    centred = flat - flat.mean(0)
    norm = centred.square().sum(0).sqrt()
    scaled = torch.where(norm > 0, centred / norm.where(norm > 0, torch.ones_like(norm)), 0.0)
    table = scaled.T @ scaled
    size = len(table)
    off_diagonal = table.square().sum() - table.diagonal().square().sum()
    return (off_diagonal / max(1, size * (size - 1))).clamp(min=0).sqrt()


def _quantile(level: float) -> Statistic:
    def statistic(x: Tensor) -> Tensor:
        flat = x.flatten().double()  # torch.quantile takes 2^24 numbers at most
        place = level * (len(flat) - 1)
        below = int(place)
        low = flat.kthvalue(below + 1).values
        high = flat.kthvalue(min(below + 2, len(flat))).values
        return low + (place - below) * (high - low)

    return statistic


STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: x.double().mean(),
    "sd": lambda x: x.double().std(),
    "min": lambda x: x.min(),
    "max": lambda x: x.max(),
    "zeros": lambda x: (x == 0).double().mean(),
    "ones": lambda x: (x == 1).double().mean(),
    "dispersion": dispersion,
    "entry_sd": lambda x: x.flatten(1).double().std(0).mean(),
    "item_sd": lambda x: x.flatten(1).double().mean(1).std(),
    "q05": _quantile(0.05),
    "q25": _quantile(0.25),
    "median": _quantile(0.5),
    "q75": _quantile(0.75),
    "q95": _quantile(0.95),
    "correlation": correlation,
}


def defaults_for(support: constraints.Constraint | None) -> tuple[str, ...]:
    """The names of the statistics that suit entries of this support, by the support alone and not by the items."""
    common = ("mean", "sd", "entry_sd", "item_sd", "correlation")
    if support is None:
        return (*common, "min", "max", "zeros")
    if support is constraints.boolean:
        return ("mean", "entry_sd", "item_sd", "correlation")
    if support.is_discrete:
        return (*common, "max", "zeros", "dispersion")
    if checks.lives_in_unit(support):
        return (*common, "zeros", "ones", "q05", "median", "q95")
    return (*common, "min", "max", "zeros", "q05", "median", "q95")
