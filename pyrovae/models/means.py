"""The mean of a distribution over a code and its KL divergence from another: in closed form, or else by draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)

from pyrovae import checks
from pyrovae.models.particles import is_point
from pyrovae.seeding import forked, stream

__all__ = ["device_of", "divergence_of", "is_diagonal_normal", "is_standard_normal", "mean_and_error", "mean_of"]

REPEATS = 8  # of the draws, by whose spread the error of one of them is told
DRAWS = 512  # of the fixed noise: a power of 2, for Sobol's points
ELEMENTS = 2**22  # of the draws that are made together
HAVE_MEANS = (Bernoulli, Delta, MultivariateNormal, Normal)  # whatever their parameters; nothing is looked at
WRAPPERS = (TransformedDistribution, Independent, MaskedDistribution, ExpandedDistribution)


def mean_of(q: Any) -> Tensor:
    """The mean of `q`, shape (*batch_shape, *event_shape): its own, or that of 512 draws where it has no closed form.

    A normalising flow has none. The draws are then always the same, differentiable, and leave the caller's generators
    alone. A transformed diagonal Normal, or any base of independent entries with a quantile function, is drawn at
    Sobol's points, the same for each item: an item's mean does not depend on the items beside it. Another `q` is drawn
    from a fixed seed. Raises ValueError for a continuous distribution that has no mean, such as a Cauchy.

    >>> import torch
    >>> from pyrovae.models.means import mean_of
    >>> from torch.distributions import ExpTransform, Normal, TransformedDistribution
    >>> log_normal = TransformedDistribution(Normal(torch.zeros(3), 0.5), [ExpTransform()])  # the mean is exp(1/8)
    >>> (mean_of(log_normal) - torch.tensor(0.125).exp()).abs().max() < 0.005
    tensor(True)
    """
    mean = _closed_mean(q)
    return _mean_of_draws(q) if mean is None else mean


def mean_and_error(q: Any) -> tuple[Tensor, Tensor]:
    """`mean_of(q)` and its standard error, both of shape (*batch_shape, *event_shape); 0 for a mean in closed form.

    The error of a mean at Sobol's points is the standard deviation over 8 scramblings of the points, of which the mean
    is the first; of a mean of other draws it is sd / sqrt(512). Both are of the code's own units. Raises ValueError as
    `mean_of` does.

    >>> import torch
    >>> from pyrovae.models.means import mean_and_error
    >>> from torch.distributions import ExpTransform, Normal, TransformedDistribution
    >>> log_normal = TransformedDistribution(Normal(torch.zeros(3), 0.5), [ExpTransform()])
    >>> mean, error = mean_and_error(log_normal)
    >>> bool((error > 0).all() and ((mean - torch.tensor(0.125).exp()).abs() < 5 * error).all())
    True
    """
    closed = _closed_mean(q)
    if closed is not None:
        return closed, torch.zeros_like(closed)
    mean = _mean_of_draws(q)
    with torch.no_grad():
        try:
            others = [_mean_at_points(q, seed) for seed in range(REPEATS)]
        except NotImplementedError:
            variance = _sum_over_draws(q, lambda z: (z - mean).square()) / (DRAWS - 1)
            return mean, (variance / DRAWS).sqrt().expand_as(mean)
        return mean, torch.stack(others).std(0).expand_as(mean)


def _closed_mean(q: Any) -> Tensor | None:
    """The mean that `q` states; None where it states none, and draws must do."""
    try:
        mean: Tensor = q.mean
    except NotImplementedError:
        return None
    leaf = _leaf(q)
    if isinstance(leaf, HAVE_MEANS) or mean.isfinite().all() or not _is_finite(leaf):
        return mean
    if leaf.support.is_discrete:  # torch states NaN for the mean of a Categorical
        return None
    name = _name_of(q)
    raise ValueError(f"{name} has no mean with these parameters: look at draws, or at their median")


def _mean_of_draws(q: Any) -> Tensor:
    shape = torch.Size([*q.batch_shape, *q.event_shape])
    try:
        return _mean_at_points(q, 0).expand(shape)
    except NotImplementedError:  # a base that has no quantile function
        return (_sum_over_draws(q, lambda z: z) / DRAWS).expand(shape)


def _sum_over_draws(q: Any, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of a function over 512 draws, which are the same in every call."""
    draw = q.rsample if q.has_rsample else q.sample
    rows = max(1, ELEMENTS // max(1, torch.Size([*q.batch_shape, *q.event_shape]).numel()))
    with forked(stream(0, "mean"), device_of(q)):
        parts = [function(draw((min(rows, DRAWS - first),))).sum(0) for first in range(0, DRAWS, rows)]
    return torch.stack(parts).sum(0)


def _mean_at_points(q: Any, seed: int) -> Tensor:
    """The mean at Sobol's points, scrambled by `seed`; NotImplementedError for a base without a quantile function."""
    rows = max(1, ELEMENTS // max(1, torch.Size([*q.batch_shape, *q.event_shape]).numel()))
    parts = [_at(q, part).sum(0) for part in _points(q, seed).split(rows)]
    return torch.stack(parts).sum(0) / DRAWS


def divergence_of(q: Any, p: Any, *, num_draws: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """KL(q || p) = E_q[log q(z) - log p(z)] in nats, shape q.batch_shape, and its Monte Carlo standard error.

    In closed form, with errors of 0, where torch knows one for the two (`torch.distributions.kl_divergence`), and for
    two normal distributions of any covariance. Otherwise the mean over `num_draws` independent draws of q, of a fixed
    `seed`, with sd / sqrt(num_draws) as its error, in float64; the caller's generators are left alone. `p` is a
    distribution over one event of q's, or one for each in q's batch. Raises ValueError for a q that is a point, whose
    divergence from a density is infinite.

    >>> import torch
    >>> from pyrovae.models.means import divergence_of
    >>> from torch.distributions import Bernoulli, Independent, Normal
    >>> q, p = (Independent(Normal(torch.zeros(3, 2), scale), 1) for scale in (1.0, 2.0))
    >>> divergence_of(q, p)  # 2 (log 2 + 1/8 - 1/2)
    (tensor([0.6363, 0.6363, 0.6363]), tensor([0., 0., 0.]))
    """
    if is_point(q):
        raise ValueError("q is a point, and its divergence from a density is infinite")
    for one, other in ((q, p), (_dense(q), _dense(p))):
        try:
            value = kl_divergence(one, other).expand(q.batch_shape)
        except NotImplementedError:
            continue
        return value, torch.zeros_like(value)
    count = checks.whole("num_draws", num_draws, least=2)
    rows = max(1, ELEMENTS // max(1, q.batch_shape.numel() * q.event_shape.numel()))
    draw, terms = q.rsample if q.has_rsample else q.sample, []
    with forked(stream(checks.seed(seed), "divergence"), device_of(q)):
        for first in range(0, count, rows):
            z = draw((min(rows, count - first),))
            terms.append((q.log_prob(z) - p.log_prob(z)).double())  # at its own draws a flow without an inverse has one
    log_ratio = torch.cat(terms)
    return log_ratio.mean(0), log_ratio.std(0) / math.sqrt(count)


def device_of(q: Any) -> torch.device:
    """The device on which a distribution draws."""
    return _example(q).device


def is_diagonal_normal(q: Any) -> bool:
    """Whether a distribution is a Normal over a vector with independent entries: mean and stddev then determine it.

    >>> import torch
    >>> from pyrovae.models.means import is_diagonal_normal
    >>> from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
    >>> is_diagonal_normal(Independent(Normal(torch.zeros(2), 1.0), 1))
    True
    >>> is_diagonal_normal(MultivariateNormal(torch.zeros(2), torch.eye(2)))
    False
    """
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1


def is_standard_normal(p: Any) -> bool:
    """Whether a distribution is N(0, I) over a vector.

    >>> import torch
    >>> from pyrovae.models.means import is_standard_normal
    >>> from torch.distributions import Bernoulli, Independent, Normal
    >>> [is_standard_normal(Independent(Normal(torch.zeros(2), scale), 1)) for scale in (1.0, 2.0)]
    [True, False]
    """
    dense = _dense(p)
    if not isinstance(dense, MultivariateNormal):
        return False
    identity = torch.eye(dense.event_shape[0]).to(dense.scale_tril)
    return not bool(dense.loc.any()) and bool((dense.scale_tril == identity).all())


def _dense(q: Any) -> Any:
    """A diagonal Normal as one with a covariance matrix, for which torch knows divergences; any other as it is."""
    if is_diagonal_normal(q):
        return MultivariateNormal(q.mean, scale_tril=torch.diag_embed(q.stddev), validate_args=False)
    return q


def _leaf(q: Any) -> Any:
    """The innermost distribution, inside those that only transform, reshape or mask it."""
    while isinstance(q, WRAPPERS):
        q = q.base_dist
    return q


def _name_of(q: Any) -> str:
    """The class of a distribution, inside those that only reshape or mask it: HalfCauchy, and not its Cauchy."""
    while isinstance(q, Independent | MaskedDistribution | ExpandedDistribution):
        q = q.base_dist
    return type(q).__name__


def _is_finite(leaf: Any) -> bool:
    """Whether all parameters of a distribution are numbers."""
    return all(bool(value.isfinite().all()) for value in vars(leaf).values() if isinstance(value, Tensor))


def _points(q: Any, seed: int) -> Tensor:
    """Sobol's points in the open cube, one coordinate per entry of an item: (DRAWS, 1, ..., *entries)."""
    leaf = _leaf(q)
    entries = leaf.batch_shape[len(leaf.batch_shape) - len(q.event_shape) :]
    if leaf.event_shape or entries.numel() > torch.quasirandom.SobolEngine.MAXDIM:
        raise NotImplementedError
    engine = torch.quasirandom.SobolEngine(max(1, entries.numel()), scramble=True, seed=seed)
    like = _example(leaf)
    least = torch.finfo(like.dtype).eps
    points = engine.draw(DRAWS, dtype=torch.float64).to(like).clamp(least, 1 - least)
    return points.reshape(DRAWS, *[1] * (len(leaf.batch_shape) - len(entries)), *entries)


def _at(q: Any, points: Tensor) -> Tensor:
    """The draws that a distribution makes of these points of the unit cube."""
    if not isinstance(q, WRAPPERS):
        z: Tensor = q.icdf(points)
        return z
    z = _at(q.base_dist, points)
    for transform in q.transforms if isinstance(q, TransformedDistribution) else ():
        z = transform(z)
    return z


def _example(q: Any) -> Tensor:
    """A tensor of the distribution, with the dtype and the device of its draws."""
    tensors = [value for value in vars(_leaf(q)).values() if isinstance(value, Tensor)]
    return next((t for t in tensors if t.is_floating_point()), torch.empty(()))
