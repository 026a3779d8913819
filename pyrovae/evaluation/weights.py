"""Importance weights: the log of their mean, its standard error and reliability, and the shape of their tail."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.checks.shown import short

__all__ = ["effective_size", "log_mean", "pareto_k", "spread_limit"]

AGREE = 1.05  # ratio of the jackknife's error to the delta method's up to which the latter is taken


def log_mean(log_weight: Tensor) -> dict[str, np.ndarray]:
    """The log-mean-exp over dim 0 as "value", with its standard error "se" and a flag "unreliable".

    The error is that of the delta method, sd(w) / (mean(w) sqrt(K)), if that of the jackknife is at
    most 5 % larger, and otherwise that of the jackknife. The delta method treats the log as linear
    over the spread of the mean, which is wrong if a few weights make up most of the sum. The
    jackknife leaves out one weight at a time: its variance is (K - 1) / K sum_k (l_k - mean(l))^2,
    with l_k the estimate without weight k (Efron and Stein 1981), so that it measures how far the
    estimate depends on single draws.

    A column is "unreliable" if the spread of its log-weights above their median, as a standard
    deviation, is over `spread_limit(K)`. Normal log-weights of that spread give an estimate whose
    bias exceeds its error. A column without a finite error is "unreliable" too. For one row the
    error is NaN and the flag False.
    """
    if not isinstance(log_weight, Tensor) or checks.numbers(log_weight, "log_weight").ndim != 2 or not len(log_weight):
        raise TypeError(f"log_weight must be a tensor of shape (K, N), K of at least 1, got {short(log_weight)}")
    count = len(log_weight)
    top = log_weight.max(0).values.nan_to_num(neginf=0.0)  # where all weights are 0, so is their mean
    weight = (log_weight - top).exp()
    mean = weight.mean(0)
    value = (mean.log() + top).cpu().numpy()
    if count == 1:
        return {"value": value, "se": np.full(value.shape, np.nan), "unreliable": np.zeros(value.shape, bool)}
    se = weight.std(0) / (mean * math.sqrt(count))
    unreliable = ~se.isfinite()
    # |log(1 - p) - log(1 - q)| is at most |p - q| / (1 - max p): with a smaller largest share the two errors agree
    heavy = torch.nonzero(1 / (mean * count) > 1 - 1 / AGREE).squeeze(1)
    if len(heavy):
        column = log_weight[:, heavy]
        jackknife = _jackknife(column)
        differs = jackknife > AGREE * se[heavy] + 1e-12  # the errors of equal weights are rounding alone
        se[heavy] = torch.where(differs, jackknife, se[heavy])
        unreliable[heavy] |= differs & ((_upper_spread(column) > spread_limit(count)) | jackknife.isinf())
    return {"value": value, "se": se.cpu().numpy(), "unreliable": unreliable.cpu().numpy()}


def spread_limit(count: int) -> float:
    """The spread of log-weights, in nats, above which the log-mean-exp of `count` draws is flagged.

    For normal log-weights, the bias of the log-mean-exp equals its standard error if their standard
    deviation is about 2.5 + 0.22 log K (3.1, 3.5 and 4.0 for K = 16, 100 and 1,000; see
    analysis/standard_errors.py). The limit is that value times 1 + 7 / K, since few draws estimate
    their own spread badly.

    >>> from pyrovae.evaluation.weights import spread_limit
    >>> [round(spread_limit(count), 1) for count in (16, 100, 1000)]
    [4.5, 3.8, 4.0]
    """
    return (2.5 + 0.22 * math.log(count)) * (1 + 7 / count)


def _jackknife(log_weight: Tensor) -> Tensor:
    """The jackknife standard error of the log-mean-exp over dim 0; infinite if all weights but one are 0."""
    count = len(log_weight)
    largest = log_weight.argmax(0, keepdim=True)
    others = log_weight.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True)
    without = (-log_weight.softmax(0)).log1p()
    # 1 - p of the largest weight loses its digits: take the sum of the others
    without = without.scatter(0, largest, others - log_weight.logsumexp(0, keepdim=True))
    error = (count - 1) ** 0.5 * without.std(0, correction=0)
    return torch.where(others[0].isneginf() & ~log_weight.amax(0).isinf(), math.inf, error)


def _upper_spread(log_weight: Tensor) -> Tensor:
    """sqrt(2 mean(max(l - median, 0)^2)) over dim 0; for normal log-weights, their standard deviation."""
    ordered, count = log_weight.sort(0).values, len(log_weight)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return (2 * (log_weight - median).nan_to_num(nan=0.0, posinf=math.inf).clamp(min=0).square().mean(0)).sqrt()


def effective_size(log_weight: Tensor) -> np.ndarray:
    """The effective sample size (sum w)^2 / sum w^2 over dim 0."""
    return (1 / log_weight.softmax(0).square().sum(0)).cpu().numpy()


def pareto_k(log_weight: Tensor) -> np.ndarray:
    """The shape k of a generalised Pareto distribution fitted to the largest weights of each column of (K, N).

    The tail consists of the min(K / 5, 3 sqrt(K)) largest weights. The estimate is the posterior
    mean of Zhang and Stephens (2009, section 4), shrunk towards 1/2 with the weight of 10 more
    observations (Vehtari et al. 2024, appendix C). Moments of order below 1 / k are finite.

    The result has shape (N,). It is NaN if the tail has fewer than 5 weights, and -inf if they are
    all equal. If a quarter of the tail is tied with the weight at its start, as rounding can make
    log-weights that are far from 0, the tail starts half-way between two distinct values.

    >>> import torch
    >>> from pyrovae.evaluation.weights import pareto_k
    >>> u = torch.rand(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> abs(pareto_k(-0.4 * u.log()) - 0.4) < 0.05  # u^-k has shape k
    array([ True])
    """
    count = len(log_weight)
    tail = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    if tail < 5:
        return np.full(log_weight.shape[1], math.nan)
    top = log_weight.double().topk(tail + 1, dim=0).values.flip(0).cpu().numpy()
    weight = np.exp(top - top[-1])
    excess = weight[1:] - weight[0]  # ascending, (tail, N)
    flat = excess[-1] <= 1e-12 * weight[-1]
    with np.errstate(invalid="ignore"):  # -inf - -inf where weights are 0
        step, whole = top[_quartile(tail) + 1] - top[0], top[-1] - top[0]
        tied = ~flat & (step <= _resolution(top[-1])) & (step <= 0.02 * whole)
    excess = np.where(flat | tied, np.arange(1, tail + 1)[:, None], excess)
    k = np.where(flat, -math.inf, _generalised_pareto(excess))
    for item in np.flatnonzero(tied):
        k[item] = _of_tied(np.sort(log_weight[:, item].double().cpu().numpy()), tail)
    return k


def _resolution(log_weight: np.ndarray) -> np.ndarray:
    """Half the spacing of float32 numbers at that magnitude, in nats; log-weights that differ by less count as tied.

    Log-weights near 300,000 nats, for instance, are a thirtieth of a nat apart.
    """
    return np.maximum(1e-9, 2.0**-25 * np.abs(log_weight))


def _quartile(tail: int) -> int:
    return math.floor(tail / 4 + 0.5) - 1


def _generalised_pareto(excess: np.ndarray) -> np.ndarray:
    """The shape of a generalised Pareto distribution for each column of ascending excesses, shrunk towards 1/2."""
    tail = len(excess)
    num_grid = 30 + int(math.sqrt(tail))
    grid = 1 - np.sqrt(num_grid / (np.arange(1, num_grid + 1) - 0.5))
    quartile = np.maximum(excess[_quartile(tail)], np.finfo(float).tiny)
    theta = grid[:, None] / (3 * quartile) + 1 / excess[-1]  # (num_grid, N)
    shape = np.stack([np.log1p(-one * excess).mean(0) for one in theta])
    profile = tail * (np.log(-theta / shape) - shape - 1)
    posterior = np.exp(profile - profile.max(0))
    best = (theta * posterior).sum(0) / posterior.sum(0)
    k = np.log1p(-best * excess).mean(0)
    return (tail * k + 5) / (tail + 10)


def _of_tied(log_weight: np.ndarray, tail: int) -> float:
    """The shape for one ascending column with ties; its tail of about `tail` weights starts between two values.

    If the tail started at a tied weight, the ties would have no excess over it, and the quartile
    from which the scale is estimated would be 0.
    """
    tied = _resolution(log_weight[-1])
    steps = np.flatnonzero(np.diff(log_weight) > tied) + 1  # the index at which each new value begins
    sizes = len(log_weight) - steps
    steps = steps[sizes >= 5]
    if not len(steps):
        return math.nan
    start = steps[np.abs(len(log_weight) - steps - tail).argmin()]
    above = log_weight[start:]
    if above[-1] - above[0] <= tied:
        return -math.inf
    weight = np.exp(above - above[-1])
    excess = weight - math.exp((log_weight[start - 1] + log_weight[start]) / 2 - above[-1])
    return float(_generalised_pareto(excess[:, None])[0])
