"""The Gaussian mixture as scikit-learn's users know it, fitted by this package's EM."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from pyrovae import checks
from pyrovae.inference.training import fit
from pyrovae.models import mixture as pairs
from pyrovae.seeding import forked, stream
from pyrovae.sklearn.base import PairEstimator, as_numpy, counted, mean_of, number_of, seed_of

__all__ = ["COVARIANCE_TYPES", "GaussianMixture"]

COVARIANCE_TYPES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}  # in our words


class GaussianMixture(DensityMixin, PairEstimator):
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

    _of_pair = ("n_components", "covariance_type", "floor")

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        floor: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 10,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        missing: bool = False,
        random_state: Any = None,
        warm_start: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.floor = floor
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.missing = missing
        self.random_state = random_state
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features); `y` is ignored.

        `sample_weight`, (n_samples,), says how many times each row counts: 3 is three copies, 0 is no row. Raises
        ValueError for fewer than two rows or than components, for starting values that do not fit, and for weights that
        are negative or all 0.
        """
        count = checks.whole("n_components", self.n_components)
        covariance = COVARIANCE_TYPES[checks.choice("covariance_type", self.covariance_type, COVARIANCE_TYPES)]
        max_iter = checks.whole("max_iter", self.max_iter)
        restarts = checks.whole("n_init", self.n_init) if count > 1 else 1  # one component has one maximum
        goes_on = self._goes_on()
        x = self._checked(X, reset=not goes_on, least=2)
        places, weight = counted(x, sample_weight)
        x, seed = x[places], seed_of(self.random_state)
        if goes_on:
            pair, restarts = self.pair_, 0
        else:
            with forked(seed):
                pair = pairs.GaussianMixture(x.shape[1:], count, covariance=covariance, floor=self.floor).double()
            if self._starts_at_values():
                pair.assign(*self._starting_values(pair, x, weight))
                restarts = 0
        self._fit_pair(pair, x, weight=weight, seed=seed, tol=self.tol, max_iterations=max_iter, num_restarts=restarts)
        self.seed_ = seed
        self.converged_ = bool(self.history_.config["converged"])
        self.n_iter_ = int(self.history_.epochs.sizes["epoch"])
        self.lower_bound_ = -float(self.history_.epochs["loss"][-1])
        self.weights_ = as_numpy(pair.weights)
        self.means_ = as_numpy(pair.loc)
        self.covariances_ = as_numpy(pair.covariances)
        self.precisions_ = _inverse(self.covariances_, self.covariance_type)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """`fit(X)`, and then `predict(X)`."""
        return self.fit(X).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest component of each row, (n_samples,)."""
        component: np.ndarray = self._joint(X).argmax(1)
        return component

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(component | x) of each row, (n_samples, n_components)."""
        joint = self._joint(X)
        return np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats, (n_samples,)."""
        total: np.ndarray = np.logaddexp.reduce(self._joint(X), 1)
        return total

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of log p(x) in nats per row: higher is better. `y` is ignored."""
        return mean_of(self.score_samples(X), sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion 2 P - 2 log p(X), P the number of free parameters: lower is better."""
        values = self.score_samples(X)
        return 2 * self.num_parameters - 2 * number_of(values, sample_weight) * mean_of(values, sample_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """The Bayesian information criterion P log N - 2 log p(X) (Schwarz 1978): lower is better.

        N is the number of rows, or the sum of their weights.
        """
        values = self.score_samples(X)
        count = number_of(values, sample_weight)
        return self.num_parameters * float(np.log(count)) - 2 * count * mean_of(values, sample_weight)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """`n_samples` draws of p(x), (n_samples, n_features), and the component of each, as scikit-learn gives them.

        An integer `random_state` gives the same draws each time.
        """
        check_is_fitted(self)
        seed = seed_of(self.random_state)
        x = as_numpy(self.pair_.sample(n_samples, seed=seed))
        # a draw of p(component | x) beside x is one of p(component, x)
        uniform = np.random.default_rng(stream(seed, "component")).random((n_samples, 1))
        shares = as_numpy(self.pair_.responsibilities(x)).cumsum(1)
        return x, (shares < uniform * shares[:, -1:]).sum(1)

    @property
    def num_parameters(self) -> int:
        """The number of free parameters, once fitted."""
        check_is_fitted(self)
        return int(self.pair_.num_parameters)

    def _joint(self, X: Any) -> np.ndarray:
        """log p(component, x), (n_samples, n_components)."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return as_numpy(self.pair_.log_joint_table(self.pair_._items(x, missing=self._takes_missing())))

    def _starts_at_values(self) -> bool:
        if self.means_init is None:
            for name in ("weights_init", "precisions_init"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs means_init beside it: a component's values belong to its mean")
        return self.means_init is not None

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
    array = np.asarray(value, dtype=np.float64)
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
