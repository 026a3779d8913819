"""Generative and discriminative classifiers with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from pyrovae import checks
from pyrovae.models import classifiers as pairs
from pyrovae.seeding import forked, stream
from pyrovae.sklearn.base import TrainedMixin, all_or_nothing, as_numpy, counted, seed_of
from pyrovae.sklearn.mixture import COVARIANCE_TYPES
from pyrovae.sklearn.rows import ArrayEstimator

__all__ = ["DiscriminativeClassifier", "GenerativeClassifier"]


class ProbabilityClassifier(ClassifierMixin, ArrayEstimator):
    """A classifier that gives p(y | x): the pair knows classes by their places in `classes_`."""

    classes_: np.ndarray

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy: the share of rows, each as often as its weight says, whose likeliest class is `y`."""
        y = checks.numbers(y, "y") if isinstance(y, torch.Tensor) else y
        if isinstance(sample_weight, torch.Tensor):
            sample_weight = checks.numbers(sample_weight, "sample_weight")
        return float(super().score(X, y, sample_weight))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, (n_samples,)."""
        log_proba = self.predict_log_proba(X)
        predicted: np.ndarray = self.classes_[log_proba.argmax(1)]
        return predicted

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y | x) of each row, (n_samples, n_classes), columns in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p(y | x) of each row in nats, (n_samples, n_classes), columns in the order of `classes_`."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return as_numpy(self.pair_.predict_log_proba(x, **self._said_missing()).double())

    def _checked_classes(
        self, X: Any, y: Any, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows that count, the number of each one's class, the classes, and weights of the rows, None where each is 1.

        Raises ValueError for fewer than two classes.
        """
        x, labels = self._checked(X, y, reset=True)
        check_classification_targets(labels)
        places, weight = counted(x, sample_weight)
        x, labels = x[places], labels[places]
        classes, number = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y must have at least 2 classes, got 1 class, {classes.tolist()[0]!r}: there is nothing to tell apart"
            )
        return x, number, classes, weight


@dataclass(repr=False, eq=False)
class GenerativeClassifier(ProbabilityClassifier):
    """Bayes' rule from a normal density of each class: p(y | x) = p(y) p(x | y) / p(x), in float64.

    Args:
        covariance_type: "tied", one covariance for all classes, is linear discriminant analysis; "full" quadratic;
            "diag" Gaussian naive Bayes; "spherical" s_c^2 I.
        floor: as of `pyrovae.gaussian_classifier`: no variance falls below it; None: 1e-10 of each column's variance
            within classes.
        missing: True takes NaN for an entry that was not seen, in `fit` and everywhere else: EM is exact for the seen
            entries, and p(y | x) and log p(x) are those of the seen entries. Without it NaN is an error.
        priors: probabilities of the classes in the order of `classes_`; None: their frequencies.
        random_state: of `sample`.

    Attributes: `classes_`, `priors_`, `means_` (n_classes, n_features), `covariances_`; `pair_`, the
    `pyrovae.GenerativeClassifier`, whose classes are the places in `classes_`; `history_`; `n_features_in_`;
    `feature_names_in_` where X had names.

    (Hastie, Tibshirani and Friedman 2009, section 4.3.)

    >>> from sklearn.datasets import load_iris
    >>> from pyrovae.sklearn import GenerativeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = GenerativeClassifier().fit(X, y)
    >>> round(classifier.score(X, y), 2), classifier.predict_proba(X[:5]).shape
    (0.98, (5, 3))
    """

    covariance_type: str = "tied"
    _: KW_ONLY
    floor: float | None = None
    priors: Sequence[float] | None = None
    missing: bool = False
    random_state: Any = None

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features), and their classes `y`, in closed form.

        `sample_weight`, (n_samples,), says how many times each row counts: 3 is three copies, 0 is no row. Raises
        ValueError for fewer than two classes, and for weights that are negative or all 0.
        """
        covariance = COVARIANCE_TYPES[checks.choice("covariance_type", self.covariance_type, COVARIANCE_TYPES)]
        x, number, classes, weight = self._checked_classes(X, y, sample_weight)
        if self.priors is not None and len(checks.array(self.priors, "priors").reshape(-1)) != len(classes):
            raise ValueError(f"priors must have one probability for each of {len(classes)} classes: {self.priors!r}")
        with forked(0):  # its first locations are random, and the fit takes none of them
            pair = pairs.gaussian_classifier(
                x.shape[1:], len(classes), covariance=covariance, floor=self.floor, class_prior=self.priors
            ).double()
        self._fit_pair(pair, x, number, weight=weight)
        self.classes_ = classes
        self.priors_ = as_numpy(pair.class_prior)
        normal: Any = pair.densities
        self.means_, self.covariances_ = as_numpy(normal.loc), as_numpy(normal.covariances)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) = log sum_y p(y) p(x | y) of each row in nats, (n_samples,): low where a row is strange."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return as_numpy(self.pair_.log_prob(x, **self._said_missing()))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """`n_samples` draws of p(x, y): rows, (n_samples, n_features), and the class of each.

        An integer `random_state` gives the same draws each time.
        """
        check_is_fitted(self)
        seed = seed_of(self.random_state)
        x = as_numpy(self.pair_.sample(None, n_samples, seed=seed))
        # a draw of p(y | x) beside x is one of p(x, y)
        uniform = np.random.default_rng(stream(seed, "class")).random((n_samples, 1))
        shares = self.predict_proba(x).cumsum(1)
        return x, self.classes_[(shares < uniform * shares[:, -1:]).sum(1)]


@dataclass(repr=False, eq=False)
class DiscriminativeClassifier(TrainedMixin, ProbabilityClassifier):
    """Softmax regression or a perceptron for p(y | x), at the mode of the weights' posterior.

    Without hidden layers L-BFGS finds the mode, in standardised columns whatever their units; with `hidden_dims` it is
    a network, trained by steps on batches. Computes in the dtype of the `X` that it is fitted to, float64 or float32.

    Args:
        hidden_dims, activation, prior_scale: as of `pyrovae.DiscriminativeClassifier`: weights are N(0, prior_scale^2),
            and None is maximum likelihood.
        tol, max_iter: of L-BFGS, as of `pyrovae.methods.LBFGS`; without a meaning where there are hidden layers.
        epochs, batch_size, learning_rate: where there are hidden layers, as of `pyrovae.methods.SVI`.
        random_state: of initial weights and the order of rows, as of `pyrovae.sklearn.VAE`.
        device, fit_options: as of `pyrovae.sklearn.VAE`.

    Attributes: `classes_`; `n_iter_`, iterations or epochs; `pair_`, the `pyrovae.DiscriminativeClassifier`, whose
    classes are the places in `classes_`; `history_`; `seed_`; `n_features_in_`; `feature_names_in_` where X had names.

    (Bishop 2006, section 4.3.4.)

    >>> from sklearn.datasets import load_iris
    >>> from pyrovae.sklearn import DiscriminativeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> round(DiscriminativeClassifier(random_state=0).fit(X, y).score(X, y), 2)
    0.98
    """

    hidden_dims: Sequence[int] = ()
    _: KW_ONLY
    activation: str = "relu"
    prior_scale: float | None = 10.0
    tol: float = 1e-7
    max_iter: int = 1000

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features), and their classes `y`.

        `sample_weight`, (n_samples,), says how many times each row counts: 3 is three copies, 0 is no row. Where
        there are hidden layers, copies would have places in batches of their own: gradients agree in expectation.
        Raises ValueError for fewer than two classes, and for weights that are negative or all 0.
        """
        x, number, classes, weight = self._checked_classes(X, y, sample_weight)
        seed = seed_of(self.random_state)
        with forked(seed):
            pair = pairs.DiscriminativeClassifier(
                x.shape[1:],
                len(classes),
                hidden_dims=self.hidden_dims,
                activation=self.activation,
                prior_scale=self.prior_scale,
            ).to(torch.from_numpy(np.empty(0, x.dtype)).dtype)
        max_iter = checks.whole("max_iter", self.max_iter)
        options: dict[str, Any] = {"tol": self.tol, "max_iterations": max_iter, "device": self.device}
        if not pair.is_linear:
            options = self._options_of_training()
        self._fit_pair(pair, x, number, weight=weight, seed=seed, **options)
        self.seed_ = seed
        self.classes_ = classes
        self.n_iter_ = int(self.history_.epochs.sizes["epoch"])
        return self
