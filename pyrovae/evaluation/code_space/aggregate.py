"""How far the codes as a whole are from the prior."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes, generator
from pyrovae.evaluation.code_space.sampled import Sampled
from pyrovae.evaluation.code_space.whitening import Whitening
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["aggregate"]


def aggregate(
    codes: Any,
    *,
    train_codes: Any,
    prior: Any = None,
    num_items: int = 5000,
    num_null: int = 200,
    num_projections: int = 128,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """How far all codes are from the prior, and how far the whitened codes are from N(0, I).

    `codes` are test codes, shape (N, latent_dim), of which at most `num_items` are taken, without
    replacement. For a VAE both arguments are one draw of q(z | x) per item. `prior` is the
    distribution of one code, and None is N(0, I), for which the formulas below hold. Raw codes are
    compared with another prior by 50,000 draws of it in place of the closed forms, and their null
    samples are draws of it too. The variables over dim "codes" ("raw", "whitened") are:

    - `sliced_w2`: root of the mean over `num_projections` directions u of W2^2 between the
      projections u'z and N(0, 1), each exact: mean x^2 + 1 - 2 sum_i x_(i) [phi(q_{i-1}) -
      phi(q_i)], q_i = Phi^-1(i/n) (slices: Bonneel et al. 2015);
    - `sliced_w2_excess`: root of W2^2 less its mean over the Gaussian samples below (0 if that is
      negative): the distance beyond that of a finite sample;
    - `energy_distance`: 2 E|z - g| - E|z - z'| - E|g - g'| with g ~ N(0, I), the first term in
      closed form and the second over pairs of different items, so that its mean is 0 under N(0, I)
      (Szekely and Rizzo 2005);
    - `ks`: the largest difference between the distribution functions of Phi(z_d) and of the uniform
      distribution, per dimension; `ks_max` is the largest of these.

    `sliced_w2_null` and `ks_max_null` are the central `level` bands of `num_null` Gaussian samples
    of the same size, and the p-values are (1 + number at or above the observed) / (1 + num_null).
    For whitened codes, the null samples are whitened by a Gaussian sample of the size of the
    training codes. The directions depend on `seed` alone. Whitened codes are defined up to a
    rotation (see `Whitening`), so their `ks` is that of one choice of axes. Raises ValueError for
    other shapes and if there are not more training codes than dimensions.

    >>> import numpy as np
    >>> from pyrovae.evaluation.code_space.aggregate import aggregate
    >>> normal = np.random.default_rng(0).standard_normal((900, 2))
    >>> bool((aggregate(normal[:300], train_codes=normal[300:], num_null=50).sliced_w2_p_value > 0.05).all())
    True
    """
    train = as_codes(train_codes, "train_codes")
    test = as_codes(codes, "codes", train.shape[1])
    checks.whole("num_items", num_items, least=2)
    checks.whole("num_null", num_null, bytes_each=32)
    checks.whole("num_projections", num_projections, bytes_each=8 * (train.shape[1] + min(len(test), num_items)))
    checks.probability("level", level)
    if len(train) <= train.shape[1] or len(test) < 2:
        raise ValueError(
            "train_codes must have more items than dimensions, and codes at least 2 items; "
            f"got shapes {train.shape} and {test.shape}"
        )
    if len(test) > num_items:
        test = test[np.sort(generator(seed, 7).permutation(len(test))[:num_items])]
    n, latent_dim = test.shape
    rows = {"raw": test, "whitened": Whitening.fit(train)(test)}
    directions, weights = _directions(latent_dim, num_projections, seed), _quantile_weights(n)
    distances = np.array([_sliced_w2(z, directions, weights) for z in rows.values()])
    ks = np.array([_uniform_ks(z) for z in rows.values()])
    energy = [_energy_distance(z) for z in rows.values()]
    null = _aggregate_null(n, latent_dim, len(train), num_null, num_projections, seed)
    by_dimension = "Kolmogorov-Smirnov distance of the normal CDF of the codes to uniform"
    to, between = "N(0, I)", f"central {level:.0%} of Gaussian samples"
    if prior is not None:
        sampled = Sampled(prior, n, directions, seed)
        distances[0], ks[0], energy[0] = sampled.sliced_w2(test), sampled.ks(test), sampled.energy_distance(test)
        of_w2, of_ks = sampled.null(num_null)
        null = np.stack([of_w2, null[0][1]]), np.stack([of_ks, null[1][1]])
        by_dimension = "Kolmogorov-Smirnov distance of the codes to the prior (raw) or N(0, I) (whitened)"
        to = "the prior (raw) or N(0, I) (whitened)"
        between = f"central {level:.0%} of samples of the prior or of N(0, I)"
    bands = [np.quantile(part, [(1 - level) / 2, (1 + level) / 2], axis=1).T for part in null]
    excess = np.sqrt(np.maximum(distances**2 - (null[0] ** 2).mean(1), 0))
    variables: dict[str, Variable] = {
        "sliced_w2": (distances, f"sliced Wasserstein-2 distance to {to}", "code units", "codes"),
        "sliced_w2_null": (bands[0], between, "code units", "codes", "edge"),
        "sliced_w2_excess": (excess, "sliced Wasserstein-2 distance beyond that of a sample", "code units", "codes"),
        "sliced_w2_p_value": (_p_value(distances, null[0]), "share of null samples as far or farther", "1", "codes"),
        "energy_distance": (energy, f"energy distance to {to}", "code units", "codes"),
        "ks": (ks, by_dimension, "1", "codes", "latent_dim"),
        "ks_max": (ks.max(1), "the largest of the dimensions' Kolmogorov-Smirnov distances", "1", "codes"),
        "ks_max_null": (bands[1], between, "1", "codes", "edge"),
        "ks_max_p_value": (_p_value(ks.max(1), null[1]), "share of null samples as far or farther", "1", "codes"),
        "num_items": (n, "test codes taken", "items"),
    }
    return labelled(variables, {"codes": list(rows), "edge": ["low", "high"]})


def _directions(latent_dim: int, num: int, seed: int) -> np.ndarray:
    """Unit vectors, shape (num, latent_dim): equal angles in the plane, random orthonormal bases in more dimensions."""
    rng = generator(seed, 8)
    if latent_dim == 1:
        return np.ones((1, 1))
    if latent_dim == 2:
        angle = math.pi * (rng.random() + np.arange(num)) / num
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    bases = [np.linalg.qr(rng.standard_normal((latent_dim, latent_dim)))[0] for _ in range(-(-num // latent_dim))]
    return np.concatenate(bases)[:num]


def _quantile_weights(n: int) -> np.ndarray:
    """The integral of the normal quantile function over each of n equal parts of [0, 1]."""
    from scipy.special import ndtri

    density = np.exp(-0.5 * ndtri(np.arange(n + 1) / n) ** 2) / math.sqrt(2 * math.pi)
    return density[:-1] - density[1:]


def _sliced_w2(codes: np.ndarray, directions: np.ndarray, weights: np.ndarray) -> float:
    projected = np.sort(directions @ codes.T, axis=1)
    squared = np.square(projected).mean(1) + 1 - 2 * projected @ weights
    return math.sqrt(max(0.0, float(squared.mean())))


def _uniform_ks(codes: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    uniform = np.sort(ndtr(codes), axis=0)
    steps = np.arange(len(codes) + 1)[:, None] / len(codes)
    return np.maximum(steps[1:] - uniform, uniform - steps[:-1]).max(0)


def _energy_distance(codes: np.ndarray) -> float:
    from scipy.special import gammaln, hyp1f1

    d = codes.shape[1]
    # E|g| for g ~ N(0, I), over root 2
    unit = math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    to_normal = math.sqrt(2) * unit * hyp1f1(-0.5, d / 2, -0.5 * (codes**2).sum(1)).mean()
    return float(2 * to_normal - torch.pdist(torch.from_numpy(codes)).mean() - 2 * unit)


# the null depends on sizes and seed alone; it is kept because all replications of a study need the same one
@functools.lru_cache(maxsize=16)
def _aggregate_null(
    n: int, latent_dim: int, num_train: int, num_null: int, num_projections: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sliced W2 and the largest KS of Gaussian samples, raw and whitened, each of shape (2, num_null)."""
    rng = generator(seed, 9)
    directions, weights = _directions(latent_dim, num_projections, seed), _quantile_weights(n)
    distances, ks = np.empty((2, num_null)), np.empty((2, num_null))
    freedom = num_train - 1 - np.arange(latent_dim)
    for i in range(num_null):
        sample = rng.standard_normal((n, latent_dim))
        # draw the mean and Cholesky factor of the training sample from their distributions (Bartlett), not the sample
        loc = rng.standard_normal(latent_dim) / math.sqrt(num_train)
        tril = np.tril(rng.standard_normal((latent_dim, latent_dim)), -1) + np.diag(np.sqrt(rng.chisquare(freedom)))
        whitened = np.linalg.solve(tril / math.sqrt(num_train - 1), (sample - loc).T).T
        for row, codes in enumerate((sample, whitened)):
            distances[row, i] = _sliced_w2(codes, directions, weights)
            ks[row, i] = _uniform_ks(codes).max()
    distances.setflags(write=False)
    ks.setflags(write=False)
    return distances, ks


def _p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    return (1 + (null >= observed[:, None]).sum(1)) / (1 + null.shape[1])
