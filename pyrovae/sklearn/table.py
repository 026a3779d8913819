"""A VAE of data frames as a scikit-learn estimator: columns of several kinds, some entries missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from pyrovae import checks
from pyrovae.columns import Column, checked_columns
from pyrovae.data import Encoding, Table, table
from pyrovae.data.tables.making import encode
from pyrovae.models.table_vae import table_vae
from pyrovae.sklearn.base import PairEstimator, as_numpy, seed_of
from pyrovae.sklearn.codes import CodeDensityMixin, CodeMixin

__all__ = ["TableVAE"]


class TableVAE(CodeMixin, CodeDensityMixin, PairEstimator):
    """A VAE of the rows of a data frame: each column by its kind, missing entries left out of log p(x).

    `X` is a frame of pandas or polars, whose columns are taken for what `pyrovae.data.table` says, or an array, whose
    columns are real and named x0, x1 and so on. `transform` gives codes; `inverse_transform` and `sample` give rows in
    the form of the `X` of the fit, with its names, types and categories; `impute` fills in missing entries. log p(x)
    is in the units of the frame and mixes densities of numbers and probabilities of codes: it is comparable between
    models of the same columns and kinds. Computes in float64.

    Args:
        latent_dim, hidden_dims, activation, families, posterior, prior: as of `pyrovae.table_vae`.
        kinds: of columns that are not to be guessed, as of `pyrovae.data.table`.
        epochs, batch_size, learning_rate, num_particles, random_state, warm_start, device, fit_options: as of
            `pyrovae.sklearn.VAE`.

    Attributes: `columns_`, the columns with their kinds; `encoding_`, how a frame becomes numbers, None of an array;
    `pair_`, the `pyrovae.VAE`; `history_`; `seed_`; `n_features_in_`; `feature_names_in_` where X had names.

    >>> import pandas as pd
    >>> from pyrovae.sklearn import TableVAE
    >>> X = pd.DataFrame({"size": [1.5, None, 3.1, 2.0], "colour": ["red", "blue", "red", None]})
    >>> vae = TableVAE(latent_dim=1, hidden_dims=(4,), epochs=1, random_state=0).fit(X)
    >>> [column.kind for column in vae.columns_], vae.transform(X).shape, vae.impute(X)["colour"].isna().sum().item()
    (['positive', 'binary'], (4, 1), 0)
    """

    encoding_: Encoding | None
    columns_: tuple[Column, ...]

    missing = True  # NaN, None and the like are entries that were not seen
    _of_pair = ("latent_dim", "hidden_dims", "activation", "families", "posterior", "prior")

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        kinds: Any = None,
        families: Any = None,
        hidden_dims: Sequence[int] = (128,),
        activation: str = "softplus",
        posterior: Any = "diagonal",
        prior: Any = "standard",
        epochs: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        num_particles: int = 100,
        random_state: Any = None,
        warm_start: bool = False,
        device: str = "auto",
        fit_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.kinds = kinds
        self.families = families
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.posterior = posterior
        self.prior = prior
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_particles = num_particles
        self.random_state = random_state
        self.warm_start = warm_start
        self.device = device
        self.fit_options = fit_options

    def impute(self, X: Any, *, num_draws: int = 100) -> Any:
        """`X` with its missing entries filled in, in its own form: numbers by their means under p(x_missing | x_seen).

        Counts are means rounded, and codes the most probable category. All are estimated from `num_draws` draws, of
        which `pyrovae.VAE.impute` of `pair_` gives each.
        """
        check_is_fitted(self)
        checks.whole("num_draws", num_draws)
        made, x = self._read(X)
        rows = np.isnan(x).any(1)
        if rows.any():
            with torch.no_grad():
                draws = as_numpy(self.pair_.impute(x[rows], num_draws=num_draws, seed=seed_of(self.random_state)))
            expected = np.stack([_summary(column, draws[..., j]) for j, column in enumerate(self.columns_)], 1)
            x = x.copy()
            x[rows] = np.where(np.isnan(x[rows]), expected, x[rows])
        return x if made is None else made.frame(torch.from_numpy(x))

    def _rows(self, X: Any, *, reset: bool = False, least: int = 1) -> np.ndarray:
        """The rows as float64, NaN where an entry is missing; with `reset` their columns are found."""
        if _is_frame(X) and X.shape[0] < least:
            raise ValueError(f"X must have at least {least} rows, got {X.shape[0]} sample(s): n_samples={X.shape[0]}")
        if not reset:
            return self._read(X, least)[1]
        if _is_frame(X):
            validate_data(self, X, reset=True, skip_check_array=True)
            made = table(X, self.kinds)
            self.encoding_, self.columns_ = made.encoding, made.columns
            return _numbers(made)
        x: np.ndarray = self._checked(X, reset=True, least=least)
        self.encoding_, self.columns_ = None, _columns_of_array(x.shape[1], self.kinds)
        return x.astype(np.float64)

    def _read(self, X: Any, least: int = 1) -> tuple[Table | None, np.ndarray]:
        """Rows with the columns of the fit: as a table, None of an array, and as float64."""
        encoding: Encoding | None = self.encoding_
        if encoding is None:
            return None, self._checked(X, least=least).astype(np.float64)
        if not _is_frame(X):
            raise ValueError(
                f"X must be a data frame with the columns of the fit, as those of {encoding.library}, got "
                f"{type(X).__name__}"
            )
        validate_data(self, X, reset=False, skip_check_array=True)
        made = encode(encoding, X)
        return made, _numbers(made)

    def _shown(self, x: np.ndarray) -> Any:
        """Rows in the form of the X of the fit, in which binary columns and counts are whole."""
        x = x.astype(np.float64)
        for j, column in enumerate(self.columns_):
            if column.is_discrete:
                x[:, j] = np.round(x[:, j])
        return x if self.encoding_ is None else self.encoding_.frame(torch.from_numpy(x))

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        return table_vae(self.columns_, **{name: getattr(self, name) for name in self._of_pair})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = True
        return tags


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "shape")


def _numbers(made: Table) -> np.ndarray:
    """The rows of a table with all digits that they came with."""
    return as_numpy(made.x[:] if made.exact is None else made.exact).astype(np.float64)


def _columns_of_array(count: int, kinds: Any) -> tuple[Column, ...]:
    """Real columns x0, x1 and so on, but for those whose kinds are stated."""
    names = [f"x{j}" for j in range(count)]
    stated = {} if kinds is None else kinds
    if not isinstance(stated, Mapping):
        stated = {column.name: column for column in checked_columns(stated)}
    if strange := [name for name in stated if name not in names]:
        raise ValueError(f"kinds names {strange[0]!r}, which is no column: those of an array are x0 to {names[-1]}")
    columns = []
    for name in names:
        kind = stated.get(name, "real")
        columns.append(kind if isinstance(kind, Column) else Column(name, *([kind] if isinstance(kind, str) else kind)))
    return checked_columns(columns)


def _summary(column: Column, draws: np.ndarray) -> np.ndarray:
    """What stands for draws, (S, N): their mean, rounded for counts, and of codes the one that comes most often."""
    if column.categories is None:
        mean: np.ndarray = draws.mean(0)
        return np.round(mean) if column.is_discrete else mean
    counts = np.stack([(draws == code).sum(0) for code in range(column.num_categories)])
    return counts.argmax(0).astype(np.float64)
