"""What mixtures share as estimators: EM from several starts, components of rows, information criteria and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from pyrovae import checks
from pyrovae.seeding import forked, stream
from pyrovae.sklearn.base import all_or_nothing, as_numpy, counted, mean_of, number_of, seed_of

__all__ = ["MixtureMixin"]


@dataclass(repr=False, eq=False, kw_only=True)
class MixtureMixin(DensityMixin):
    """A pair that is a mixture, fitted by EM.

    A class states `n_components`; `_new_pair(event_shape)`, which builds it; `_starts_at_values(pair, x, weight)`,
    whether it has set the pair to starting values; and `_keep_parameters()`, which sets the fitted attributes that are
    its own. Beside it in a class stands what makes rows of X: `ArrayEstimator` or `FrameEstimator`.
    """

    tol: float = 1e-6
    max_iter: int = 1000
    n_init: int = 10
    random_state: Any = None
    warm_start: bool = False

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features); `y` is ignored.

        `sample_weight`, (n_samples,), says how many times each row counts: 3 is three copies, 0 is no row. Raises
        ValueError for fewer than two rows or than components, for starting values that do not fit, and for weights that
        are negative or all 0.
        """
        count = checks.whole("n_components", self.n_components)
        max_iter = checks.whole("max_iter", self.max_iter)
        restarts = checks.whole("n_init", self.n_init) if count > 1 else 1  # one component has one maximum
        goes_on = self._goes_on()
        x = self._rows(X, reset=not goes_on, least=2)
        places, weight = counted(x, sample_weight)
        x, seed = x[places], seed_of(self.random_state)
        if goes_on:
            pair, restarts = self.pair_, 0
        else:
            with forked(seed):
                pair = self._new_pair(x.shape[1:]).double()
            if self._starts_at_values(pair, x, weight):
                restarts = 0
        self._fit_pair(pair, x, weight=weight, seed=seed, tol=self.tol, max_iterations=max_iter, num_restarts=restarts)
        self.seed_ = seed
        self.converged_ = bool(self.history_.config["converged"])
        self.n_iter_ = int(self.history_.epochs.sizes["epoch"])
        self.lower_bound_ = -float(self.history_.epochs["loss"][-1])
        self.weights_ = as_numpy(pair.weights)
        self._keep_parameters()
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
        """log p(x) of each row in nats, (n_samples,); of its seen entries, where some are missing."""
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

    def sample(self, n_samples: int = 1) -> tuple[Any, np.ndarray]:
        """`n_samples` draws of p(x) in the form of X, and the component of each, as scikit-learn gives them.

        An integer `random_state` gives the same draws each time.
        """
        check_is_fitted(self)
        seed = seed_of(self.random_state)
        x = as_numpy(self.pair_.sample(n_samples, seed=seed))
        # a draw of p(component | x) beside x is one of p(component, x)
        uniform = np.random.default_rng(stream(seed, "component")).random((n_samples, 1))
        shares = as_numpy(self.pair_.responsibilities(x)).cumsum(1)
        return self._shown(x), (shares < uniform * shares[:, -1:]).sum(1)

    @property
    def num_parameters(self) -> int:
        """The number of free parameters, once fitted."""
        check_is_fitted(self)
        return int(self.pair_.num_parameters)

    def _joint(self, X: Any) -> np.ndarray:
        """log p(component, x), (n_samples, n_components)."""
        check_is_fitted(self)
        with torch.no_grad():
            return as_numpy(self.pair_.log_joint_table(self.pair_._items(self._rows(X), **self._said_missing())))
