"""The Gaussian mixture as scikit-learn's users know it, fitted by this package's EM."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.inference.training import fit
from pyrovae.models import mixture as pairs
from pyrovae.seeding import forked
from pyrovae.sklearn.base import as_numpy
from pyrovae.sklearn.components import MixtureMixin
from pyrovae.sklearn.rows import ArrayEstimator

__all__ = ["COVARIANCE_TYPES", "GaussianMixture"]

COVARIANCE_TYPES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}  # in our words


@dataclass(repr=False, eq=False)
class GaussianMixture(MixtureMixin, ArrayEstimator):
    """A Gaussian mixture by EM, with the parameters and attributes of `sklearn.mixture.GaussianMixture`.

    p(x) = sum_k w_k N(x; mean_k, C_k), in float64. In this module the number of components is `n_components`, and a
    diagonal covariance is "diag", as scikit-learn has them; elsewhere in the package they are `num_components` and
    "diagonal". EM starts from k-means++ on standardised columns, `n_init` times, and the likeliest end is kept.

    Args:
        n_components: the number of components.
        covariance_type: "full", "tied", "diag" or "spherical".
        floor: no variance in any direction falls below it, in squared units of X; None: 1e-6 of each column's variance
            within clusters, so that a fit in other units is the same fit. It takes the place of `reg_covar`: a floor
            raises small variances and leaves the others as they are.
        tol: EM ends when an iteration gains no more nats per row.
        max_iter: the largest number of iterations from each start.
        n_init: the number of starts.
        weights_init, means_init, precisions_init: starting values, (K,), (K, D) and in the shape of `precisions_`. With
            `means_init` EM starts there, once: weights that are not given are equal, and covariances that of all rows.
            The others are an error without `means_init`.
        missing: True takes NaN for an entry that was not seen, in `fit` and everywhere else: EM is exact for the seen
            entries, and log p(x) is theirs. Without it NaN is an error.
        random_state: of the starts; an integer is the seed of `pyrovae.fit`.
        warm_start: a second `fit` goes on from the parameters of the first.

    Attributes: `weights_`, `means_`, `covariances_`, `precisions_`; of the best start `converged_`, `n_iter_` and
    `lower_bound_`, the mean log-likelihood in nats per row; `pair_`, the `pyrovae.GaussianMixture`; `history_`;
    `seed_`; `n_features_in_`; `feature_names_in_` where X had names.

    (McLachlan and Peel 2000, chapters 2 and 3.)

    >>> import numpy as np
    >>> from pyrovae.sklearn import GaussianMixture
    >>> X = np.array([[0.0], [0.5], [1.0], [9.0], [9.5], [10.0]])
    >>> mixture = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
    >>> np.sort(mixture.means_[:, 0]).round(3).tolist(), mixture.converged_
    ([0.5, 9.5], True)
    """

    n_components: int = 1
    _: KW_ONLY
    covariance_type: str = "full"
    floor: float | None = None
    weights_init: Any = None
    means_init: Any = None
    precisions_init: Any = None
    missing: bool = False

    _of_pair = ("n_components", "covariance_type", "floor")

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        covariance = COVARIANCE_TYPES[checks.choice("covariance_type", self.covariance_type, COVARIANCE_TYPES)]
        return pairs.GaussianMixture(event_shape, self.n_components, covariance=covariance, floor=self.floor)

    def _starts_at_values(self, pair: Any, x: np.ndarray, weight: np.ndarray | None) -> bool:
        if self.means_init is None:
            for name in ("weights_init", "precisions_init"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs means_init beside it: a component's values belong to its mean")
            return False
        pair.assign(*self._starting_values(pair, x, weight))
        return True

    def _keep_parameters(self) -> None:
        self.means_ = as_numpy(self.pair_.loc)
        self.covariances_ = as_numpy(self.pair_.covariances)
        self.precisions_ = _inverse(self.covariances_, self.covariance_type)

    def _starting_values(
        self, pair: Any, x: np.ndarray, weight: np.ndarray | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights, locations and covariances from which EM starts."""
        means = _of_shape("means_init", self.means_init, tuple(pair.loc.shape))
        weights = np.full(len(means), 1 / len(means))
        if self.weights_init is not None:
            weights = _of_shape("weights_init", self.weights_init, weights.shape)
            if (weights < 0).any() or not np.isclose(weights.sum(), 1):
                raise ValueError(f"weights_init must be at least 0 and sum to 1, got {weights.tolist()}")
        shape = tuple(pair.covariances.shape)
        if self.precisions_init is None:
            with forked(0):
                of_all = pairs.GaussianMixture(x.shape[1:], 1, covariance=pair.components.covariance).double()
            fit(of_all, x, num_restarts=1, weight=weight, missing=self._takes_missing(), progress=False)
            covariances = np.broadcast_to(as_numpy(of_all.covariances), shape)
        else:
            precisions = _of_shape("precisions_init", self.precisions_init, shape)
            if not _is_positive(precisions, self.covariance_type):
                raise ValueError("precisions_init must be positive, and symmetric positive definite where matrices")
            covariances = _inverse(precisions, self.covariance_type)
        return torch.tensor(weights), torch.tensor(means), torch.tensor(covariances)


def _of_shape(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(checks.numbers(value, name) if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _inverse(matrices: np.ndarray, covariance_type: str) -> np.ndarray:
    if covariance_type in ("diag", "spherical"):
        return 1 / matrices
    inverse = np.linalg.inv(matrices)
    symmetric: np.ndarray = (inverse + np.swapaxes(inverse, -1, -2)) / 2
    return symmetric


def _is_positive(matrices: np.ndarray, covariance_type: str) -> bool:
    if covariance_type in ("diag", "spherical"):
        return bool((matrices > 0).all())
    is_symmetric = np.allclose(matrices, np.swapaxes(matrices, -1, -2))
    return is_symmetric and bool((np.linalg.eigvalsh(matrices) > 0).all())
