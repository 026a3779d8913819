"""A VAE of data frames as a scikit-learn estimator: columns of several kinds, some entries missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from pyrovae import checks
from pyrovae.columns import Column
from pyrovae.models.table_vae import table_vae
from pyrovae.sklearn.base import as_numpy, seed_of
from pyrovae.sklearn.codes import CodeDensityMixin, CodeMixin
from pyrovae.sklearn.rows import FrameEstimator

__all__ = ["TableVAE"]


@dataclass(repr=False, eq=False)
class TableVAE(CodeMixin, CodeDensityMixin, FrameEstimator):
    """A VAE of the rows of a data frame: each column by its kind, missing entries left out of log p(x).

    `X` is a frame of pandas or polars, whose columns are taken for what `pyrovae.data.table` says, or an array, whose
    columns are real and named x0, x1 and so on. `transform` gives codes; `inverse_transform` and `sample` give rows in
    the form of the `X` of the fit, with its names, types and categories; `impute` fills in missing entries. log p(x)
    is in the units of the frame and mixes densities of numbers and probabilities of codes: it is comparable between
    models of the same columns and kinds. Computes in float64.

    Args:
        latent_dim, hidden_dims, activation, families, posterior, prior: as of `pyrovae.table_vae`.
        kinds: of columns that are not to be guessed, as of `pyrovae.data.table`.
        drop: names of columns of a frame that are left out, as identifiers, or True for all that have no kind. After
            the fit a frame may have these columns or not.
        epochs, batch_size, learning_rate, num_particles, random_state, warm_start, device, fit_options: as of
            `pyrovae.sklearn.VAE`.

    Attributes: `columns_`, the columns with their kinds; `encoding_`, how a frame becomes numbers, None of an array;
    `pair_`, the `pyrovae.VAE`; `history_`; `seed_`; `n_features_in_`, with those that are dropped;
    `feature_names_in_` where X had names.

    >>> import pandas as pd
    >>> from pyrovae.sklearn import TableVAE
    >>> X = pd.DataFrame({"size": [1.5, None, 3.1, 2.0], "colour": ["red", "blue", "red", None]})
    >>> vae = TableVAE(latent_dim=1, hidden_dims=(4,), epochs=1, random_state=0).fit(X)
    >>> [column.kind for column in vae.columns_], vae.transform(X).shape, vae.impute(X)["colour"].isna().sum().item()
    (['positive', 'binary'], (4, 1), 0)
    """

    latent_dim: int = 2
    _: KW_ONLY
    families: Any = None
    hidden_dims: Sequence[int] = (128,)
    activation: str = "softplus"
    posterior: Any = "diagonal"
    prior: Any = "standard"

    _of_pair = ("latent_dim", "hidden_dims", "activation", "families", "posterior", "prior")

    def impute(self, X: Any, *, num_draws: int = 100) -> Any:
        """`X` with its missing entries filled in, in its own form: numbers by their means under p(x_missing | x_seen).

        Counts are means rounded, and codes the most probable category. All are estimated from `num_draws` draws, of
        which `pyrovae.VAE.impute` of `pair_` gives each.
        """
        checks.whole("num_draws", num_draws)

        def expected(x: np.ndarray) -> np.ndarray:
            draws = as_numpy(self.pair_.impute(x, num_draws=num_draws, seed=seed_of(self.random_state)))
            return np.stack([_summary(column, draws[..., j]) for j, column in enumerate(self.columns_)], 1)

        return self._completed(X, expected)

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        return table_vae(self.columns_, **self._options_of_pair())


def _summary(column: Column, draws: np.ndarray) -> np.ndarray:
    """What stands for draws, (S, N): their mean, rounded for counts, and of codes the one that comes most often."""
    if column.categories is None:
        mean: np.ndarray = draws.mean(0)
        return np.round(mean) if column.is_discrete else mean
    counts = np.stack([(draws == code).sum(0) for code in range(column.num_categories)])
    return counts.argmax(0).astype(np.float64)
