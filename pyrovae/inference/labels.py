"""The labels that a classifier is fitted to and judged on: their classes, and each label's number."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pyrovae import checks, rounding
from pyrovae.models.classifiers import nameable, numbered
from pyrovae.models.items import checked_items

__all__ = ["held_out_items", "items_and_labels", "numbered_labels"]


def numbered_labels(classifier: Any, y: Any, count: int) -> tuple[np.ndarray, Tensor]:
    """The classes' names, from the labels where the classifier takes them from there, and each label's number."""
    if y is None:
        raise ValueError(f"{type(classifier).__name__} learns from labels: give fit(classifier, x, y)")
    found = nameable(checks.several_classes(checks.labels(y, count)), "y")
    names = classifier.names if classifier.names_are_given else found
    if len(names) != classifier.num_classes:
        raise ValueError(
            f"y has {len(names)} classes ({', '.join(map(str, names.tolist()[:20]))}) and this "
            f"{type(classifier).__name__} is for {classifier.num_classes}: build it for {len(names)}"
        )
    return names, numbered(names, y, count)


def items_and_labels(validation: Any) -> tuple[Any, Any]:
    """The validation items of a classifier and their labels, as they came."""
    two = isinstance(validation, tuple) and len(validation) == 2
    given, labels = validation if two else checks.parts_of(validation, "validation")
    if labels is None:
        raise ValueError("validation of a classifier must be (items, labels) or a split that has both")
    return given, labels


def held_out_items(
    classifier: Any, names: np.ndarray, validation: Any, items: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Checked validation items and the numbers of their labels; `items` are those of the fit, in its dtype."""
    if validation is None:
        return None
    given, labels = items_and_labels(validation)
    # a few of them may lie close together: what they are drawn from is as wide as the items of the fit
    least = None if items is None else lambda _: rounding.spread(items)
    held_out = checked_items(classifier, given, name="validation", least=least)
    return held_out, numbered(names, labels, len(held_out), name="validation labels")
