"""How well codes separate the labels: nearest neighbours and the silhouette."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes, binomial_se, generator, require_at_most
from pyrovae.evaluation.code_space.whitening import Whitening
from pyrovae.exclusive import exclusive
from pyrovae.labelled import labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["separation"]


def separation(
    train_codes: Any,
    train_labels: Any,
    test_codes: Any,
    test_labels: Any,
    *,
    num_neighbors: int = 10,
    num_silhouette: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """How well whitened codes separate the labels: the accuracy of nearest neighbours, and the silhouette.

    All codes, shape (N, latent_dim), are whitened by the training codes. Each test code is given the
    majority label of its `num_neighbors` nearest training codes; a tie goes to the label that sorts
    first. `knn_accuracy` is the share of correct labels, `knn_accuracy_se` its binomial standard
    error over the test items, and `knn_accuracy_label` the accuracy within each label. The silhouette
    is the mean of (b - a) / max(a, b) (Rousseeuw 1987, section 2) over `num_silhouette` test items,
    or all if there are fewer, taken from each label in proportion to its count (by largest
    remainders). Raises ValueError for other shapes, too few codes and a single class.

    >>> import torch
    >>> from pyrovae.evaluation.code_space.separation import separation
    >>> codes = torch.arange(40.0)[:, None]
    >>> float(separation(codes, codes[:, 0] > 19, codes, codes[:, 0] > 19, num_neighbors=3).knn_accuracy)
    1.0
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import KNeighborsClassifier

    train = as_codes(train_codes, "train_codes")
    test = as_codes(test_codes, "test_codes", train.shape[1])
    train_y = checks.labels(train_labels, len(train), name="train_labels", of="train_codes")
    test_y = checks.labels(test_labels, len(test), name="test_labels", of="test_codes")
    checks.several_classes(train_y, name="train_labels")
    classes = checks.several_classes(test_y, name="test_labels")
    require_at_most("num_neighbors", num_neighbors, len(train), "train_codes")
    checks.whole("num_silhouette", num_silhouette, least=2)
    whitening = Whitening.fit(train)
    train, test = whitening(train), whitening(test)
    with exclusive():  # scikit-learn limits BLAS to one thread and restores the limit afterwards
        right = KNeighborsClassifier(num_neighbors).fit(train, train_y).predict(test) == test_y
    chosen = _stratified(test_y, num_silhouette, generator(seed, 0))
    kinds = len(np.unique(test_y[chosen]))
    if not 2 <= kinds < len(chosen):
        raise ValueError(
            f"num_silhouette must leave 2 classes or more, and fewer than items; got {kinds} in {len(chosen)} items"
        )
    accuracy = float(right.mean())
    within = [right[test_y == label].mean() for label in classes]
    silhouette = silhouette_score(test[chosen], test_y[chosen])
    return labelled(
        {
            "knn_accuracy": (accuracy, f"accuracy of {num_neighbors} nearest neighbours on whitened codes", "1"),
            "knn_accuracy_se": (binomial_se(accuracy, len(test)), "binomial standard error of the accuracy", "1"),
            "knn_accuracy_label": (within, "accuracy within each label", "1", "label"),
            "silhouette": (silhouette, "mean silhouette of whitened test codes", "1"),
            "num_silhouette": (len(chosen), "test items in the silhouette", "items"),
        },
        {"label": classes},
    )


def _stratified(labels: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` indices, or all if there are fewer, with the labels in proportion to their counts (largest remainders)."""
    if len(labels) <= num:
        return np.arange(len(labels))
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # in integers, since rounded shares can miss an exact tie
    take, remainder = np.divmod(counts * num, len(labels))
    take[np.argsort(-remainder, kind="stable")[: num - take.sum()]] += 1
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(codes == c))[:k] for c, k in enumerate(take)]))
