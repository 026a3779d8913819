"""The rate, and its two parts: what a code tells of its item, and how far all codes are from the prior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.evaluation.code_space.arrays import as_codes, squared_se
from pyrovae.labelled import labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["rate_identity"]


def rate_identity(loc: Any, scale: Any, draws: Any) -> xr.Dataset:
    """The rate in two parts: mean KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)).

    Here q(z|x_i) is N(loc_i, diag(scale_i^2)) and p is N(0, I).

    `rate` is closed form. With one draw z_i ~ q(z|x_i) for each item and the exact item mixture q(z) = 1/N sum_j
    q(z|x_j), `mutual_information` is mean_i [log q(z_i|x_i) - log q(z_i)], which cannot exceed log N
    (`mutual_information_bound`), and `kl_aggregate` is rate - I. All shapes (N, latent_dim); nats an item. `rate_se` is
    over items; the other two standard errors, sd / sqrt(N) of the terms, hold for these N items, and too large rather
    than too small. Raises ValueError for other shapes, a scale that is not positive (a deterministic code: its KL is
    infinite) and draws that are the means. Hoffman and Johnson 2016, section 2.

    >>> import numpy as np
    >>> from pyrovae.evaluation.code_space.rate import rate_identity
    >>> z = np.random.default_rng(0).standard_normal((50, 2))
    >>> float(rate_identity(np.zeros((50, 2)), np.ones((50, 2)), z).rate)
    0.0
    """
    means = as_codes(loc, "loc")
    scales, z = (as_codes(a, name, means.shape[1]) for a, name in ((scale, "scale"), (draws, "draws")))
    if not len(means) == len(scales) == len(z):
        raise ValueError(f"loc, scale and draws must have the same items, got {len(means)}, {len(scales)} and {len(z)}")
    if (scales <= 0).any():
        raise ValueError(
            f"scale must be positive, the least is {scales.min():g}; a deterministic code has an infinite KL to p(z)"
        )
    if np.array_equal(z, means):
        raise ValueError("draws must be one draw from each posterior, got the means themselves")
    n, latent_dim = means.shape
    rate = 0.5 * (means**2 + scales**2 - 1 - 2 * np.log(scales)).sum(1)
    m, s, draw = (torch.from_numpy(a) for a in (means, scales, z))
    constant = s.log().sum(1) + 0.5 * latent_dim * math.log(2 * math.pi)
    mixture = []
    for rows in torch.split(draw, max(1, 2**22 // n)):
        squares = torch.zeros(len(rows), n, dtype=torch.float64)
        # differences first: a product expanded into three loses every digit where scales are small
        for k in range(latent_dim):
            squares += ((rows[:, k, None] - m[:, k]) / s[:, k]).square_()
        mixture.append(torch.logsumexp(squares.mul_(-0.5).sub_(constant), 1) - math.log(n))
    own = -0.5 * (((draw - m) / s) ** 2).sum(1) - constant
    information = (own - torch.cat(mixture)).numpy()
    mutual = float(information.mean())
    se = math.sqrt(squared_se(information))
    return labelled(
        {
            "rate": (rate.mean(), "mean KL(q(z|x) || p(z))", "nats"),
            "rate_se": (math.sqrt(squared_se(rate)), "standard error of the rate over items", "nats"),
            "mutual_information": (mutual, "I(x; z) under the item mixture", "nats"),
            "mutual_information_se": (se, "Monte Carlo standard error of I(x; z)", "nats"),
            "mutual_information_bound": (math.log(n), "log N, which I(x; z) cannot exceed", "nats"),
            "kl_aggregate": (rate.mean() - mutual, "KL(q(z) || p(z)) = rate - I(x; z)", "nats"),
            "kl_aggregate_se": (se, "Monte Carlo standard error of KL(q(z) || p(z))", "nats"),
        }
    )
