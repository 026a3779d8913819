"""Missing entries filled in by a fitted mixture or VAE, with scikit-learn's interface of imputers."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from pyrovae import checks
from pyrovae.sklearn.autoencoders import VAE
from pyrovae.sklearn.base import PairEstimator, all_or_nothing, as_numpy, counted, seed_of
from pyrovae.sklearn.mixture import GaussianMixture

__all__ = ["Imputer"]


@dataclass(repr=False, eq=False)
class Imputer(OneToOneFeatureMixin, TransformerMixin, PairEstimator):
    """Fill in entries that are NaN by what a model, fitted to the seen entries, expects of them.

    A missing entry becomes its mean under p(x_missing | x_seen): exact under a Gaussian mixture, and under a VAE the
    mean of `num_draws` draws. Seen entries are unchanged. It assumes that entries are missing at random: whether one is
    missing depends on what is seen, and not on the missing value.

    Args:
        estimator: a `GaussianMixture` or a `VAE` of this module, of which a copy is fitted with `missing=True`; None:
            `GaussianMixture()`, the normal distribution with a full covariance.
        sample_posterior: True fills in one draw of p(x_missing | x_seen) in place of the mean, so that several such
            tables show how uncertain the entries are. The model's parameters are those of one fit in all of them.
        num_draws: of a VAE, to take the mean of.
        keep_empty_features: whether columns without a single entry in `fit` stay, filled with 0; by default they are
            left out, with a warning that names them.
        add_indicator: whether columns that say what was missing, 1 or 0, follow: one for each column of which an entry
            was missing in `fit`.
        random_state: of the draws, and of the default estimator.

    Attributes: `estimator_`, the fitted copy; `n_features_in_`; `feature_names_in_` where X had names.

    (Little and Rubin 2019, section 8.2, of the normal distribution.)

    >>> import numpy as np
    >>> from pyrovae.sklearn import Imputer
    >>> X = np.array([[1.0, 2.0], [2.0, 4.1], [3.0, 5.9], [4.0, np.nan]])
    >>> Imputer().fit_transform(X)[3].round(1).tolist()
    [4.0, 7.9]
    """

    estimator: Any = None
    _: KW_ONLY
    sample_posterior: bool = False
    num_draws: int = 100
    keep_empty_features: bool = False
    add_indicator: bool = False
    random_state: Any = None

    missing = True  # NaN is what it is for

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to the seen entries of `X`, shape (n_samples, n_features), NaN where one is missing.

        `y` is ignored; `sample_weight` is that of the model's own `fit`. Raises TypeError for an estimator that takes
        no missing entries, and ValueError where no entry was seen.
        """
        checks.whole("num_draws", self.num_draws)
        x = self._checked(X, reset=True)
        places, weight = counted(x, sample_weight)
        is_missing = np.isnan(x[places])
        is_empty = is_missing.all(0)
        if is_empty.all():
            raise ValueError("X has no entry that was seen: there is nothing to learn from")
        if is_empty.any() and not self.keep_empty_features:
            checks.warn(
                f"no entry was seen of {', '.join(self._named(is_empty))}, which transform leaves out: "
                "keep_empty_features=True fills them with 0"
            )
        model = self._model()
        has_any = ~is_missing.all(1)  # rows of which nothing was seen say nothing
        weight = None if weight is None else weight[has_any]
        self.estimator_ = model.fit(x[places][has_any][:, ~is_empty], sample_weight=weight)
        self.seen_features_ = np.flatnonzero(~is_empty)
        self.indicated_features_ = np.flatnonzero(is_missing.any(0))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """`X` with its missing entries filled in, and the indicators after it where these were asked for."""
        x = self._checked_if_fitted(X)
        is_missing = np.isnan(x)
        seen = x[:, self.seen_features_]
        rows = np.isnan(seen).any(1)
        if rows.any():
            some = seen[rows]
            seen[rows] = np.where(np.isnan(some), self._expected(some), some)
        filled = np.nan_to_num(x, nan=0.0)
        filled[:, self.seen_features_] = seen
        parts = [filled if self.keep_empty_features else seen]
        if self.add_indicator:
            parts.append(is_missing[:, self.indicated_features_].astype(x.dtype))
        return np.concatenate(parts, 1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns of `transform`: those of X, and "missingindicator_" before those of indicators."""
        check_is_fitted(self)
        names: np.ndarray = _check_feature_names_in(self, input_features)
        kept = names if self.keep_empty_features else names[self.seen_features_]
        if not self.add_indicator:
            return kept
        return np.concatenate([kept, [f"missingindicator_{name}" for name in names[self.indicated_features_]]]).astype(
            object
        )

    def _model(self) -> Any:
        """The estimator to fit, which takes missing entries."""
        if self.estimator is None:
            return GaussianMixture(missing=True, random_state=self.random_state)
        if not isinstance(self.estimator, GaussianMixture | VAE):
            raise TypeError(
                "estimator must be a GaussianMixture or a VAE of pyrovae.sklearn, which can be fitted to missing "
                f"entries, got {self.estimator!r}"
            )
        return clone(self.estimator).set_params(missing=True)

    def _expected(self, x: np.ndarray) -> np.ndarray:
        """The means of missing entries given the seen ones, or a draw of them; shape of `x`."""
        pair, seed = self.estimator_.pair_, seed_of(self.random_state)
        with torch.no_grad():
            if isinstance(self.estimator_, VAE) or self.sample_posterior:
                draws = pair.impute(x, num_draws=1 if self.sample_posterior else self.num_draws, seed=seed)
                return as_numpy(draws.mean(0))
            return as_numpy(pair.conditional(x).mean)

    def _named(self, which: np.ndarray) -> list[str]:
        names = getattr(self, "feature_names_in_", None)
        return [f"X[:, {j}]" if names is None else repr(names[j]) for j in np.flatnonzero(which)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
