"""The rate and its two parts: the mutual information of code and item, and the distance of all codes to the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.evaluation.code_space.arrays import as_codes, generator, squared_se
from pyrovae.labelled import labelled
from pyrovae.models.means import divergence_of
from pyrovae.seeding import stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["rate_identity", "rate_of_posteriors"]

TOGETHER = 2**22  # entries of codes whose densities are computed together
PAIRS = 2**24  # the largest number of pairs of a draw and an item at which densities are computed


def rate_identity(loc: Any, scale: Any, draws: Any) -> xr.Dataset:
    """The rate in two parts: mean KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)).

    Here q(z|x_i) is N(loc_i, diag(scale_i^2)) and p(z) is N(0, I).

    `rate` is computed in closed form. `mutual_information` is mean_i [log q(z_i|x_i) - log q(z_i)],
    with one draw z_i ~ q(z|x_i) per item and the mixture over all items q(z) = 1/N sum_j q(z|x_j). It
    cannot exceed log N (`mutual_information_bound`). `kl_aggregate` is rate - I. All arguments have
    shape (N, latent_dim), and all results are in nats per item. `rate_se` is the standard error over
    items. The other two standard errors, sd / sqrt(N) of the terms, are Monte Carlo errors for the
    given items, and conservative. Raises ValueError for other shapes, for a scale that is not
    positive (a deterministic code, whose KL is infinite) and for draws that equal the means. Hoffman
    and Johnson 2016, section 2.

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
    for rows in torch.split(draw, max(1, TOGETHER // n)):
        squares = torch.zeros(len(rows), n, dtype=torch.float64)
        # from differences: the expanded square would lose all digits where scales are small
        for k in range(latent_dim):
            squares += ((rows[:, k, None] - m[:, k]) / s[:, k]).square_()
        mixture.append(torch.logsumexp(squares.mul_(-0.5).sub_(constant), 1) - math.log(n))
    of_item = -0.5 * (((draw - m) / s) ** 2).sum(1) - constant  # log q(z_i | x_i)
    information = (of_item - torch.cat(mixture)).numpy()
    return _in_two_parts(rate, np.zeros(n), information)


def rate_of_posteriors(
    drawn: Sequence[tuple[Any, Tensor]],
    prior: Any,
    *,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    seed: int = 0,
) -> xr.Dataset:
    """The same identity for any q(z | x) and p(z) from which one can draw and whose densities are known.

    `drawn` is a list of distributions of codes, each over a batch of items, with one draw per item;
    `prior` is one distribution, or a list with one for each batch.
    The rate is computed in closed form if torch has one (`pyrovae.models.means.divergence_of`).
    Otherwise it is an unbiased estimate from 128 draws per item, and `rate_monte_carlo_se` is its
    Monte Carlo standard error with the items held fixed. The mutual information uses one draw per
    item, for as many items as give at most 16.8 million pairs of a draw and an item. For a q whose
    density is known at its own draws alone, such as a flow without an inverse, there is a rate but
    neither of its two parts.

    `turn` encloses the computations of each batch, for distributions that depend on the state of
    their modules, as `Workspace.turn` does.

    >>> import torch
    >>> from torch.distributions import Laplace, Independent, Normal
    >>> from pyrovae.evaluation.code_space.rate import rate_of_posteriors
    >>> q = Independent(Laplace(torch.zeros(50, 2), 1.0), 1)
    >>> rate = rate_of_posteriors([(q, q.sample())], Independent(Normal(torch.zeros(2), 1.0), 1))
    >>> abs(float(rate.rate) - 2 * 0.2258) < 0.05  # log(2 pi)/2 + 1 - 1 - log 2 = 0.2258 in each dimension
    True
    """
    rates, noises = [], []
    priors = prior if isinstance(prior, list) else [prior] * len(drawn)
    for number, ((q, _), p) in enumerate(zip(drawn, priors, strict=True)):
        with turn(), torch.no_grad():
            value, se = divergence_of(q, p, seed=stream(seed, "rate", number))
        rates.append(value.double().cpu())
        noises.append(se.double().cpu())
    information = _information(drawn, turn, seed)
    return _in_two_parts(torch.cat(rates).numpy(), torch.cat(noises).numpy(), information)


def _information(drawn: Sequence[tuple[Any, Tensor]], turn: Any, seed: int) -> np.ndarray | None:
    """log q(z_i | x_i) - log q(z_i) for some items; None if a density is known at its own draws alone."""
    codes = torch.cat([z for _, z in drawn])
    count = len(codes)
    some = np.sort(generator(seed, 10).permutation(count)[: max(1, PAIRS // count)])
    rows, columns = torch.from_numpy(some).to(codes.device), []
    try:
        for q, z in drawn:
            size = len(z)
            parts = []
            for part in codes[rows].split(max(1, TOGETHER // z.numel())):
                with turn(), torch.no_grad():
                    at_each = part[:, None].expand(len(part), *z.shape)
                    parts.append(q.log_prob(at_each).expand(len(part), size).double().cpu())
            columns.append(torch.cat(parts))
    except (KeyError, NotImplementedError):  # a flow without an inverse
        return None
    table = torch.cat(columns, 1)  # (some, N)
    of_item = table[torch.arange(len(some)), torch.from_numpy(some)]
    information: np.ndarray = (of_item - (table.logsumexp(1) - math.log(count))).numpy()
    return information


def _in_two_parts(rate: np.ndarray, noise: np.ndarray, information: np.ndarray | None) -> xr.Dataset:
    """The Dataset made of each item's rate, its Monte Carlo error, and terms of the mutual information."""
    variables = {
        "rate": (rate.mean(), "mean KL(q(z|x) || p(z))", "nats"),
        "rate_se": (math.sqrt(squared_se(rate)), "standard error of the rate over items", "nats"),
    }
    of_draws = math.sqrt(float((noise**2).sum())) / len(rate)
    if of_draws:
        variables["rate_monte_carlo_se"] = (of_draws, "Monte Carlo standard error of the rate", "nats")
    if information is not None:
        mutual, se = float(information.mean()), math.sqrt(squared_se(information))
        both = math.hypot(se, of_draws) if of_draws else se
        variables |= {
            "mutual_information": (mutual, "I(x; z) under the item mixture", "nats"),
            "mutual_information_se": (se, "Monte Carlo standard error of I(x; z)", "nats"),
            "mutual_information_bound": (math.log(len(rate)), "log N, which I(x; z) cannot exceed", "nats"),
            "kl_aggregate": (rate.mean() - mutual, "KL(q(z) || p(z)) = rate - I(x; z)", "nats"),
            "kl_aggregate_se": (both, "Monte Carlo standard error of KL(q(z) || p(z))", "nats"),
        }
    return labelled(variables)
