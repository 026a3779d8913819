"""The labels that a classifier is fitted to and judged on: the names of their classes, and each label's index."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.items import Items
from pyrovae.inference.weighed import Weighed, weighed
from pyrovae.models.classifiers import nameable, numbered
from pyrovae.models.items import checked_items
from pyrovae.rounding import spread_as_in

__all__ = ["HeldOut", "held_out_items", "items_and_labels", "labels_kept", "labels_present", "numbered_labels"]


class HeldOut(NamedTuple):
    """Validation items with the number of each one's class, and how often it counts; `weight` is None for once each."""

    items: Tensor
    number: Tensor
    weight: Tensor | None

    def to(self, device: torch.device) -> HeldOut:
        """All of them on another device."""
        return HeldOut(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]

    def log_loss(self, log_proba: Tensor) -> float:
        """The mean of -log p(y | x) under a table (N, C) of log p(y | x)."""
        each = -log_proba.gather(1, self.number[:, None])[:, 0]
        return Weighed(self.items, self.weight).mean(each)


def numbered_labels(classifier: Any, y: Any, count: int) -> tuple[np.ndarray, Tensor]:
    """The names of the classes, and the index of each label's class.

    The names come from the labels, unless the classifier was given names. Raises ValueError where there are no labels,
    where they have another number of classes than the classifier, and for labels that are no class of it.
    """
    if y is None:
        raise ValueError(f"{type(classifier).__name__} learns from labels: give fit(classifier, x, y)")
    names_in_y = nameable(checks.several_classes(checks.labels(y, count)), "y")
    names = classifier.names if classifier.names_are_given else names_in_y
    if len(names) != classifier.num_classes:
        kind, none = type(classifier).__name__, names.tolist()[0]
        has = f"y has {len(names)} classes ({', '.join(map(str, names.tolist()[:20]))})"
        one_more = len(names) == classifier.num_classes + 1 and hasattr(classifier, "of_class")
        if one_more and none in (-1, "-1", ""):
            raise ValueError(
                f"{has}, one more than this {kind}. Where {none!r} means that an item has no label, leave these items "
                "out of x and y and give them as unlabeled="
            )
        raise ValueError(f"{has} and this {kind} is for {classifier.num_classes}: build it for {len(names)}")
    return names, numbered(names, y, count)


def items_and_labels(validation: Any) -> tuple[Any, Any]:
    """The validation items of a classifier and their labels, as they came, from a pair of both or a split."""
    is_two = isinstance(validation, tuple) and len(validation) == 2
    items, labels = validation if is_two else checks.parts_of(validation, "validation")
    if labels is None:
        raise ValueError("validation of a classifier must be (items, labels) or a split that has both")
    return items, labels


def labels_kept(y: Any, items: Weighed, name: str = "y") -> Any:
    """The labels of those items that count, where some have a weight of zero; `y` as it came where all count."""
    if items.kept is None or y is None:
        return y
    return _labels_at(y, items.kept.cpu(), items.given, name)


def labels_present(y: Any, items: Items, name: str = "y") -> Any:
    """The labels of items of which those of weight zero stay where they are: these are given another one's label.

    They are absent, and a class that they alone have is none.
    """
    weight = items.beside.get("weight")
    if y is None or weight is None or bool(weight.all()):
        return y
    return _labels_at(y, checks.stand_ins(weight), len(items), name)


def _labels_at(y: Any, index: Tensor, count: int, name: str) -> np.ndarray:
    """The labels of some of `count` items, checked; those of the others may be anything."""
    if getattr(y, "ndim", 1) != 1 or len(y) != count:
        return checks.labels(y, count, name=name)
    if isinstance(y, Tensor):
        y = y.detach().cpu()[index]
    else:
        y = [y[i] for i in index.tolist()] if isinstance(y, list | tuple) else np.asanyarray(y)[index.numpy()]
    return checks.labels(y, len(index), name=name)


def held_out_items(
    classifier: Any, names: np.ndarray, validation: Any, items: Tensor | None = None, *, missing: bool = False
) -> HeldOut | None:
    """The checked validation items and the index of each one's class; None where there is no validation.

    `items` are the items of the fit, in its dtype. With `missing` NaN is an entry that was not seen.
    """
    if validation is None:
        return None
    of_tuple, labels = items_and_labels(validation)
    given = weighed(of_tuple if isinstance(validation, tuple) else validation, "validation", missing=missing)
    labels = labels_kept(labels, given, "validation labels")
    # a few of them may lie close together: what they are drawn from is as wide as the items of the fit
    least_scale = None if items is None else spread_as_in(items)
    held_out = checked_items(classifier, given.x, name="validation", missing=given.missing, least_scale=least_scale)
    return HeldOut(held_out, numbered(names, labels, len(held_out), name="validation labels"), given.weight)
