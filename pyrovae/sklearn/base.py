"""What the estimators share: checked arrays, seeds, one call of `fit`, and states that are saved as folders."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from pyrovae import checks
from pyrovae.checks.flags import flags_of
from pyrovae.inference.training import fit
from pyrovae.sklearn.states import read_state, write_state

__all__ = [
    "FLOATS",
    "PairEstimator",
    "TrainedMixin",
    "all_or_nothing",
    "as_numpy",
    "counted",
    "mean_of",
    "number_of",
    "seed_of",
]

FLOATS = [np.float64, np.float32]  # the dtypes that are kept; all others become the first

E = TypeVar("E")
P = ParamSpec("P")


def all_or_nothing(fit: Callable[Concatenate[E, P], E]) -> Callable[Concatenate[E, P], E]:
    """A `fit` that looks at the estimator's flags first, and leaves its attributes as they were where it fails."""

    @functools.wraps(fit)
    def whole(self: E, *args: P.args, **kwargs: P.kwargs) -> E:
        for name in flags_of(inspect.signature(type(self))):
            checks.flag(name, getattr(self, name))
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return whole


class PairEstimator(BaseEstimator):
    """An estimator that holds a pair.

    A fitted one has `pair_`, the pair of `pyrovae`, which every function of the package takes, and `history_`, what the
    fit did. Estimators are dataclasses: the fields of a class and of those that it derives from are the arguments of
    `__init__`, by which scikit-learn knows its parameters.
    """

    _of_pair: tuple[str, ...] = ()  # parameters that the pair is built with, where a fit may go on from it
    _of_columns: tuple[str, ...] = ()  # those by which X becomes rows

    def save(self, path: str | os.PathLike[str]) -> Self:
        """Write the fitted estimator into the folder `path`: parameters as JSON, the pair as `pyrovae.save` does.

        An earlier state of an estimator there is replaced; a folder that holds anything else is refused
        (FileExistsError). Raises TypeError for a parameter that is no plain value, as a module is, and NotFittedError
        before a fit.
        """
        check_is_fitted(self)
        write_state(self, path)
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator of this class that `save` wrote; nothing is unpickled.

        Raises FileNotFoundError where there is none, and `pyrovae.CheckpointError` for a damaged folder or one of
        another class.
        """
        return read_state(cls, path)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pair_") or hasattr(self, "estimator_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = getattr(self, "missing", False) is True
        return tags

    def _checked(self, X: Any, y: Any = "no_validation", *, reset: bool = False, least: int = 1) -> Any:
        """`X` as an array of floats of shape (n_samples, n_features), or it and `y`; ValueError for what is none.

        NaN is an error, unless the estimator's `missing` is True.
        """
        X, y = (
            checks.numbers(each, name) if isinstance(each, torch.Tensor) else each
            for name, each in (("X", X), ("y", y))
        )
        finite = "allow-nan" if self._takes_missing() else True
        return validate_data(self, X, y, reset=reset, dtype=FLOATS, ensure_min_samples=least, ensure_all_finite=finite)

    def _takes_missing(self) -> bool:
        """Whether NaN in `X` is an entry that was not seen."""
        missing = getattr(self, "missing", False)
        if not isinstance(missing, bool):
            raise TypeError(f"missing must be True or False, got {missing!r}")
        return missing

    def _said_missing(self) -> dict[str, bool]:
        """What the pair is told beside rows in which NaN is an entry that was not seen."""
        return {"missing": True} if self._takes_missing() else {}

    def _checked_if_fitted(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        checked: np.ndarray = self._checked(X)
        return checked

    def _goes_on(self) -> bool:
        """Whether a fit goes on from `pair_`; ValueError where a parameter that the pair was built with has changed."""
        if not (self.warm_start and hasattr(self, "pair_")):
            return False
        built_with = getattr(self, "built_with_", {})
        for name in (*self._of_columns, *self._of_pair):
            if name not in built_with:  # an older state, written before this one was recorded
                continue
            value, before = getattr(self, name), built_with[name]
            if not np.array_equal(value, before):
                raise ValueError(
                    f"warm_start goes on from a fit with {name}={before!r}, and {name} is {value!r}: put it back, or "
                    "set warm_start=False to begin again"
                )
        return True

    def _fit_pair(
        self,
        pair: Any,
        x: np.ndarray,
        y: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        """Fit the pair, and keep it; a fit that fails leaves the estimator as it was."""
        if self._takes_missing():
            options["missing"] = True
        if weight is not None:
            options["weight"] = weight
        given: Mapping[str, Any] = {} if getattr(self, "fit_options", None) is None else self.fit_options
        if not isinstance(given, Mapping):
            raise TypeError(f"fit_options must be a dict of options of pyrovae.fit, or None, got {given!r}")
        if twice := sorted({*given} & {*options, "seed"}):
            raise ValueError(f"fit_options has {twice[0]!r}, which is set elsewhere: leave it out of fit_options")
        self.history_ = fit(pair, x, y, **{"progress": False, **options, **given})
        self.pair_ = pair
        self.built_with_ = {name: getattr(self, name) for name in (*self._of_columns, *self._of_pair)}

    def _options_of_pair(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._of_pair}


@dataclass(repr=False, eq=False, kw_only=True)
class TrainedMixin:
    """The parameters of a training by steps on batches."""

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    random_state: Any = None
    device: str = "auto"
    fit_options: dict[str, Any] | None = None

    def _options_of_training(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate", "device")}


def counted(x: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Which rows of `x` count, as their places, and how many times each of them does; None where each does once.

    Raises ValueError for weights that are negative, not finite or all 0, and for another number of them.
    """
    everything = np.arange(len(x))
    if sample_weight is None:
        return everything, None
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = checks.numbers(sample_weight, "sample_weight")
    weight = _check_sample_weight(sample_weight, x, dtype=np.float64)
    if not np.isfinite(weight).all():  # scikit-learn looks at no number alone
        raise ValueError("sample_weight must be finite, and has NaN or infinite values")
    if (weight < 0).any():
        first = int((weight < 0).argmax())
        raise ValueError(
            "sample_weight says how many times a row counts, and must be at least 0; that of row "
            f"{first} is {weight[first]:g}"
        )
    if not weight.any():
        raise ValueError("sample_weight is zero for every row, so that none counts: give one of them a positive weight")
    places = everything[weight > 0]
    weight = weight[places]
    return places, None if (weight == 1).all() else weight


def mean_of(values: np.ndarray, sample_weight: Any) -> float:
    """The mean of values of rows, each as often as its weight says."""
    if sample_weight is None:
        return float(values.mean())
    places, weight = counted(values[:, None], sample_weight)
    return float(np.average(values[places], weights=weight))


def number_of(values: np.ndarray, sample_weight: Any) -> float:
    """The number of rows, or the sum of their weights."""
    if sample_weight is None:
        return float(len(values))
    places, weight = counted(values[:, None], sample_weight)
    return float(len(places) if weight is None else weight.sum())


def seed_of(random_state: Any) -> int:
    """A seed: an integer is the seed itself, and a `RandomState` or None gives one that it draws.

    >>> import numpy as np
    >>> from pyrovae.sklearn.base import seed_of
    >>> seed_of(7), seed_of(np.random.RandomState(0)) == seed_of(np.random.RandomState(0))
    (7, True)
    """
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return checks.seed(int(random_state), "random_state")
    return int(check_random_state(random_state).randint(2**31 - 1))


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
