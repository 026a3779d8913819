"""What autoencoders and VAEs share as estimators: codes of rows, and rows of codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from pyrovae import checks
from pyrovae.evaluation.evidence import iwae
from pyrovae.seeding import forked
from pyrovae.sklearn.base import FLOATS, TrainedMixin, all_or_nothing, as_numpy, counted, mean_of, seed_of

__all__ = ["CodeDensityMixin", "CodeMixin"]


@dataclass(repr=False, eq=False, kw_only=True)
class CodeMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedMixin):
    """A pair with a code for each row: columns to codes by `transform`, codes to columns by `inverse_transform`.

    A class states `_new_pair(event_shape)`, which builds the pair. Beside it in a class stands what makes rows of X:
    `ArrayEstimator` or `FrameEstimator`.
    """

    warm_start: bool = False

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features); `y` is ignored.

        `sample_weight`, (n_samples,), says how many times each row counts in the loss: 0 is a row that is not there.
        Raises ValueError for rows that are not finite, for fewer than two of them, for values outside the likelihood's
        support, and for weights that are negative or all 0.
        """
        goes_on = self._goes_on()
        x = self._rows(X, reset=not goes_on, least=2)
        seed = seed_of(self.random_state)
        places, weight = counted(x, sample_weight)
        pair = self.pair_ if goes_on else self._built(x, seed)
        self._fit_pair(pair, x[places], weight=weight, seed=seed, **self._options_of_training())
        self.seed_ = seed
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The code of each row, shape (n_samples, latent_dim); of a VAE the mean of q(z | x), never a draw."""
        check_is_fitted(self)
        with torch.no_grad():
            return as_numpy(self.pair_.encode(self._rows(X), **self._said_missing()))

    def inverse_transform(self, Z: Any) -> Any:
        """The likelihood's mean at each code: (n_samples, latent_dim) to (n_samples, n_features)."""
        check_is_fitted(self)
        if isinstance(Z, torch.Tensor):
            checks.dense(Z, "Z")
        codes = check_array(Z, dtype=FLOATS, input_name="Z")
        with torch.no_grad():
            return self._shown(as_numpy(self.pair_.decode(torch.from_numpy(np.array(codes)))))

    def _built(self, x: np.ndarray, seed: int) -> Any:
        """A new pair in the dtype of `x`, with the initial weights that follow `torch.manual_seed(seed)`."""
        with forked(seed):
            return self._new_pair(x.shape[1:]).to(torch.from_numpy(np.empty(0, x.dtype)).dtype)

    @property
    def _n_features_out(self) -> int:
        return int(self.pair_.latent_dim)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = list(self._kept_dtypes)
        return tags


@dataclass(repr=False, eq=False, kw_only=True)
class CodeDensityMixin(DensityMixin):
    """What a pair with codes and a p(x) has beside: scores of rows, and draws."""

    num_particles: int = 100

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats, (n_samples,): `pyrovae.iwae` with `num_particles` draws and the seed `seed_`.

        It is a lower bound in expectation, and its noise belongs to the place of a row. `pyrovae.iwae` of `pair_` says
        its error as well.
        """
        check_is_fitted(self)
        options: dict[str, Any] = {"num_particles": self.num_particles, "seed": self.seed_, **self._said_missing()}
        values: np.ndarray = iwae(self.pair_, self._rows(X), **options).pointwise["value"].values
        return values

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of `score_samples`, in nats per row: higher is better. `y` is ignored."""
        return mean_of(self.score_samples(X), sample_weight)

    def sample(self, n_samples: int = 1) -> Any:
        """`n_samples` draws of p(x), shape (n_samples, n_features).

        An integer `random_state` gives the same draws each time.
        """
        check_is_fitted(self)
        return self._shown(as_numpy(self.pair_.sample(n_samples, seed=seed_of(self.random_state))))
