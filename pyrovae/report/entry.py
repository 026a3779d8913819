"""A fitted pair of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Entry"]


@dataclass(frozen=True, eq=False)
class Entry:
    """A fitted pair with the name that a report gives it, such as "VAE".

    `history` is what `fit` returned, for the curves; `protocol` is what else the reader should know of the fit, a line
    for each name.

    >>> import pyrovae
    >>> entry = pyrovae.report.Entry("VAE", pyrovae.mlp_vae((3,)), protocol={"seed": "0"})
    >>> entry.name, entry.history is None
    ('VAE', True)
    """

    name: str
    pair: nn.Module
    history: Any = None
    protocol: Mapping[str, str] = field(default_factory=dict)
