"""What a report asks of a pair's likelihood: whether its entries are categories, and whether they have a mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrovae.models.batch import Batch, called_on
from pyrovae.models.pair import dtype_and_device, entries_of, members_of, stand_ins
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise

__all__ = ["has_mean", "num_categories", "probabilities_at"]

BATCH = 1024


def num_categories(pair: Any) -> int:
    """The number of categories of an entry, and 0 where entries are no categories.

    >>> import pyrovae
    >>> from pyrovae.report.families import num_categories
    >>> [num_categories(pyrovae.mlp_vae((3,), likelihood=name)) for name in ("ordinal(num_classes=4)", "normal")]
    [4, 0]
    """
    entries = entries_of(pair)
    return int(entries.num_classes) if hasattr(entries, "probabilities") else 0


def has_mean(pair: Any) -> bool:
    """Whether `decode` gives the likelihood's mean at a code of zeros, and does not refuse it.

    Of a pair that decodes a label beside the code, whether that of its first class does.
    """
    members = members_of(pair)
    if not hasattr(pair, "decode") and members is not None:
        pair = members[0][0]
    if not hasattr(pair, "decode") or not pair.latent_dim:
        return False
    dtype, device = dtype_and_device(pair)
    with Workspace(pair, noise=Noise(0, device), checks=None).turn(), torch.no_grad():
        try:
            pair.decode(torch.zeros(1, pair.latent_dim, dtype=dtype, device=device), **stand_ins(pair, 1))
        except ValueError:
            return False
    return True


def probabilities_at(pair: Any, codes: Tensor, *, covariates: Any = None) -> Tensor:
    """The probabilities of categories at codes (N, latent_dim), in batches: (N, *event_shape, C), on the CPU."""
    rows: Any = codes if covariates is None else Batch(codes, torch.as_tensor(covariates))
    space, parts = Workspace(pair, checks=None), []
    for start in range(0, len(codes), BATCH):
        with space.turn(), torch.no_grad():
            parts.append(called_on(pair.probabilities, rows[start : start + BATCH]).cpu())
    return torch.cat(parts)
