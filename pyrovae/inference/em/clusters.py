"""Clusters of items from which EM starts: k-means on standardised columns, over seen entries where some are missing.

Of many items those of a sample are clustered, and each item then belongs to the centre that is nearest to it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae import ranks
from pyrovae.exclusive import exclusive
from pyrovae.inference.em.items import EMItems
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import rounding_scale, seen_squares, weighted_means
from pyrovae.models.frame import Frame, Shares, column_moments
from pyrovae.models.mixture import GaussianMixture
from pyrovae.warned import hushed

__all__ = ["clusters", "start_of"]

SAMPLE = 2**17  # items, of which more than these are not clustered
ROUNDS = 300  # of k-means with entries missing, as scikit-learn's at most


def start_of(mixture: GaussianMixture, items: EMItems, seed: int) -> Shares:
    """Which items each cluster of one run of k-means has, as shares of 0 and 1 of a block's rows, (K, n)."""
    count, number = mixture.num_components, len(items)
    if number <= SAMPLE:
        labels = clusters(mixture, items.x[:], seed, items.weight).to(items.device)
        ranks.current().spread([labels])
        return lambda place, _: one_hot(labels[place], count).mT.double()
    index = np.sort(np.random.default_rng(seed).choice(number, SAMPLE, replace=False))
    at = torch.from_numpy(index).to(items.device)
    x = items.x[at if isinstance(items.x, Tensor) else index].to(items.device)
    weight = None if items.weight is None else items.weight[at]
    labels = clusters(mixture, x, seed, weight)
    frame = Frame(Blocks(x, weight))
    mass, loc, _ = column_moments(frame, lambda place, _: one_hot(labels[place], count).mT.double())
    loc = torch.where(mass > 0, loc, frame.origin)
    scale = _scale(mixture, frame.variance.sqrt(), x.flatten(1))
    inverse = torch.where(scale > 0, 1 / scale, 0.0).expand_as(loc)
    ranks.current().spread([loc, inverse])

    def nearest(_: slice, rows: Tensor) -> Tensor:
        seen = ~rows.isnan()
        squares = seen_squares(torch.where(seen, rows, 0.0).double(), seen.double(), loc, inverse)
        return one_hot(squares.argmin(1), count).mT.double()

    return nearest


def _scale(mixture: GaussianMixture, deviation: Tensor, x: Tensor) -> Tensor:
    """What each column is divided by for k-means, given its standard deviation: 0 where it does not vary."""
    scale = torch.where(deviation > rounding_scale(x), deviation, 0.0)
    if mixture.components.floor is not None:  # a column that varies by less than its floor weighs as little there
        scale = torch.where(scale > 0, (scale.square() + mixture.components.floor).sqrt(), 0.0)
    if mixture.components.covariance == "spherical":
        scale = scale.square().mean().sqrt().expand_as(scale)
    return scale


def clusters(mixture: GaussianMixture, x: Tensor, seed: int, weight: Tensor | None = None) -> Tensor:
    """The clusters of one run of k-means from a k-means++ start, on standardised columns; (N,).

    The columns of a spherical mixture keep their relative scale: where it turns with the items, so do the clusters.
    Distances between items with entries missing are over the seen columns. `weight` counts an item that many times.
    """
    flat = x.flatten(1).double()
    whole = not bool(flat.isnan().any())
    plain = whole and weight is None
    each = (
        torch.ones(len(flat), 1, dtype=flat.dtype, device=flat.device) if weight is None else weight.double()[:, None]
    )

    def mean(values: Tensor) -> Tensor:
        return values.mean(0) if plain else weighted_means(values, each)[0][0]

    flat = flat - mean(flat)
    flat -= mean(flat)  # what rounding left of a mean that is far from 0
    scale = _scale(mixture, mean(flat.square()).sqrt(), x.flatten(1))
    flat /= torch.where(scale > 0, scale, math.inf)
    if whole:
        labels = _complete(flat, mixture.num_components, seed, weight)
    else:
        labels = _of_seen(flat.cpu().numpy(), mixture.num_components, seed, each[:, 0].cpu().numpy())
    return torch.from_numpy(labels).long().to(x.device)


def _complete(x: Tensor, count: int, seed: int, weight: Tensor | None) -> np.ndarray:
    """Scikit-learn's k-means, where every entry was seen; it uses the memory of `x`."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    options = {} if weight is None else {"sample_weight": weight.cpu().numpy()}
    # alone, for scikit-learn limits BLAS to one thread and puts back what it found, which may be another's limit
    with exclusive(), hushed(ConvergenceWarning):  # fewer distinct items than clusters: one stays empty
        fitted = KMeans(count, n_init=1, random_state=seed % 2**32, copy_x=False).fit(x.cpu().numpy(), **options)
    labels: np.ndarray = fitted.labels_
    return labels


def _of_seen(x: np.ndarray, count: int, seed: int, weight: np.ndarray) -> np.ndarray:
    """K-means over seen entries: a distance is the sum over an item's seen columns, a centre the mean of what was seen.

    Each round lowers the sum of distances, as without missing entries (Chi, Chi and Baraniuk 2016, section 2). The
    first centres are items, by k-means++ with several candidates for each, with 0, the mean, where they miss an entry.
    """
    generator = np.random.default_rng(seed)
    seen = ~np.isnan(x)
    x, seen = np.where(seen, x, 0.0), seen.astype(float)
    squares = np.square(x).sum(1)

    def distances(centres: np.ndarray) -> np.ndarray:
        both: np.ndarray = squares[:, None] - 2 * x @ centres.T + seen @ np.square(centres).T
        return both.clip(min=0.0)

    centres = x[[_drawn(weight, 1, generator)[0]]]
    nearest = distances(centres)[:, 0]
    for _ in range(count - 1):
        mass = weight * nearest
        candidates = _drawn(mass if mass.sum() > 0 else weight, 2 + int(math.log(count)), generator)
        each = np.minimum(nearest[:, None], distances(x[candidates]))
        best = int((weight @ each).argmin())
        centres, nearest = np.concatenate([centres, x[candidates[[best]]]]), each[:, best]

    labels = distances(centres).argmin(1)
    for _ in range(ROUNDS):
        member = np.eye(count)[labels] * weight[:, None]
        mass = member.T @ seen
        centres = np.where(mass > 0, member.T @ x / np.where(mass > 0, mass, 1.0), centres)
        before, labels = labels, distances(centres).argmin(1)
        if np.array_equal(before, labels):
            break
    return labels


def _drawn(mass: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """The indices of `count` items, each drawn by its share of `mass`."""
    total = np.cumsum(mass)
    place = np.searchsorted(total, generator.random(count) * total[-1], side="right")
    drawn: np.ndarray = np.minimum(place, len(mass) - 1)
    return drawn
