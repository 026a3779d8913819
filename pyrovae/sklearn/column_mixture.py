"""The latent class model of data frames as a scikit-learn estimator: columns of several kinds, some entries missing."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyrovae.models import column_mixture as pairs
from pyrovae.sklearn.base import as_numpy
from pyrovae.sklearn.components import MixtureMixin
from pyrovae.sklearn.rows import FrameEstimator

__all__ = ["ColumnMixture"]


@dataclass(repr=False, eq=False)
class ColumnMixture(MixtureMixin, FrameEstimator):
    """The latent class model of the rows of a data frame by EM: each column by its kind, independent given the class.

    p(x) = sum_k w_k prod_j p_j(x_j | k), of the entries that were seen. `X` is a frame of pandas or polars, whose
    columns are taken for what `pyrovae.data.table` says, or an array, whose columns are real and named x0, x1 and so
    on. `sample` gives rows in the form of the `X` of the fit, with its names, types and categories; `impute` fills in
    missing entries. log p(x) is in the units of the frame and mixes densities of numbers and probabilities of codes: it
    is comparable between models of the same columns and kinds. Computes in float64. EM starts from k-means++ on
    standardised columns, `n_init` times, and the best end is kept.

    Args:
        n_components: the number of classes.
        kinds: of columns that are not to be guessed, as of `pyrovae.data.table`.
        drop: names of columns of a frame that are left out, as identifiers, or True for all that have no kind. After
            the fit a frame may have these columns or not.
        families, pseudo_count, relative_floor: as of `pyrovae.ColumnMixture`.
        tol: EM ends when an iteration gains no more nats per row.
        max_iter: the largest number of iterations from each start.
        n_init: the number of starts.
        random_state: of the starts; an integer is the seed of `pyrovae.fit`.
        warm_start: a second `fit` goes on from the parameters of the first.

    Attributes: `weights_`, the classes' probabilities; of the best start `converged_`, `n_iter_` and `lower_bound_`,
    the mean log-likelihood in nats per row, with what the pseudo-counts add; `columns_`, the columns with their kinds;
    `encoding_`, how a frame becomes numbers, None of an array; `pair_`, the `pyrovae.ColumnMixture`, whose
    `parameters_of("age")` are those of a column; `history_`; `seed_`; `n_features_in_`, with those that are dropped;
    `feature_names_in_` where X had names.

    (Lazarsfeld and Henry 1968; McLachlan and Peel 2000, chapter 5.)

    >>> import pandas as pd
    >>> from pyrovae.sklearn import ColumnMixture
    >>> X = pd.DataFrame({"size": [1.5, None, 3.1, 2.0], "colour": ["red", "blue", "red", None]})
    >>> mixture = ColumnMixture(n_components=1, random_state=0).fit(X)
    >>> [column.kind for column in mixture.columns_], mixture.predict(X).tolist(), mixture.impute(X)["colour"][3]
    (['positive', 'binary'], [0, 0, 0, 0], 'red')
    """

    n_components: int = 1
    _: KW_ONLY
    families: Any = None
    pseudo_count: float = 1.0
    relative_floor: float = 1e-6

    _of_pair = ("n_components", "families", "pseudo_count", "relative_floor")

    def impute(self, X: Any) -> Any:
        """`X` with its missing entries filled in, in its own form: numbers by their means under p(x_missing | x_seen).

        Counts are means rounded, and codes the most probable category.
        """
        check_is_fitted(self)
        discrete = np.array([column.is_discrete for column in self.columns_])

        def expected(x: np.ndarray) -> np.ndarray:
            filled = as_numpy(self.pair_.conditional(x).filled)
            return np.where(discrete, np.round(filled), filled)

        return self._completed(X, expected)

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        options = self._options_of_pair()
        return pairs.ColumnMixture(self.columns_, options.pop("n_components"), **options)

    def _starts_at_values(self, pair: Any, x: np.ndarray, weight: np.ndarray | None) -> bool:
        return False

    def _keep_parameters(self) -> None:
        """Those of a column are `pair_.parameters_of(name)`."""
