"""What a report's estimates cost, by the arithmetic of a decoding, and how many draws that allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyrovae.models.pair import dtype_and_device, stand_ins
from pyrovae.report.entry import Entry
from pyrovae.report.families import num_categories

__all__ = ["DECODINGS_OF_GAPS", "MOST_FOR_GAPS", "decoding_cost", "draws_within"]

MOST = 1e12  # floating-point operations of one estimate, a minute or so on one core
MOST_FOR_GAPS = 1e13  # of `gaps`, whose search takes about so many decodings an item:
DECODINGS_OF_GAPS = 175_000


def decoding_cost(pair: Any) -> float:
    """Floating-point operations of decoding one code: the same on every machine; 0 where there is no `decode`.

    >>> import pyrovae
    >>> from pyrovae.report.pricing import decoding_cost
    >>> decoding_cost(pyrovae.mlp_vae((3,), 2, hidden_dims=(5,)))  # 2 x (2 x 5 + 5 x 3)
    50.0
    """
    if not hasattr(pair, "decode") or not pair.latent_dim:
        return 0.0
    from torch.utils.flop_counter import FlopCounterMode

    dtype, device = dtype_and_device(pair)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            code = torch.zeros(1, pair.latent_dim, dtype=dtype, device=device)
            decode = pair.probabilities if num_categories(pair) else pair.decode
            decode(code, **stand_ins(pair, 1))
    except Exception:  # a decoder that fails says so where it is used
        return 0.0
    return float(counter.get_total_flops())


def draws_within(entries: Sequence[Entry], most: int, fewer: int, decodings_each: int) -> int:
    """`most` draws, or `fewer` where the costliest decoder would take more than a minute or so for each entry.

    The number is the same for all entries, since bounds of different numbers of draws are not comparable.
    """
    cost = max((decoding_cost(entry.pair) for entry in entries), default=0.0)
    return most if cost * most * decodings_each <= MOST else fewer
