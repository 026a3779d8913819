"""A fitted pair of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pyrovae import checks

__all__ = ["Entry", "require_entries"]


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


def require_entries(entries: Sequence[Entry], data: Any) -> None:
    """Refuse what is no list of entries, and what is no data set, by its name."""
    for number, each in enumerate(checks.sequence("entries", entries, "a list of entries")):
        checks.having(f"entries[{number}]", each, "name", "pair", what="a pyrovae.report.Entry")
    checks.having("data", data, "train", "test", "event_shape", what="a data set, as data.load gives it")
