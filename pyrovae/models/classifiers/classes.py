"""What classifiers share: the names and numbers of classes, and the decision for the likeliest one."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.checks.arrays import entries
from pyrovae.checks.shown import short
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.param_sites import HasParamSites
from pyrovae.models.registry import note
from pyrovae.models.scopes import evaluation_mode
from pyrovae.seeding import forked, stream

__all__ = ["Classifier", "as_named", "drawn_of_class", "nameable", "named_classes", "numbered"]


class Classifier(HasParamSites):
    """A classifier: the names of its classes, and decisions from `predict_log_proba`."""

    takes_labels = True
    event_shape: tuple[int, ...]
    names: np.ndarray  # sorted: class number c is names[c]
    names_are_given: bool  # or found by a fit: a later one keeps to them

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def classes_(self) -> Tensor | np.ndarray:
        """The classes in the order of columns: an int64 tensor of integers, a NumPy array of other names."""
        return torch.from_numpy(self.names.astype(np.int64)) if self.names.dtype.kind in "iu" else self.names

    def predict_log_proba(self, x: Any) -> Tensor:
        """log p(y | x), shape (N, C), in nats; columns as in `classes_`."""
        raise NotImplementedError

    def predict(self, x: Any, **options: Any) -> Tensor | np.ndarray:
        """The likeliest class of each item, in the form of `classes_`, (N,); `options` as of `predict_log_proba`."""
        with torch.no_grad():
            number = self.predict_log_proba(x, **options).argmax(-1)
        classes = self.classes_
        return classes.to(number.device)[number] if isinstance(classes, Tensor) else classes[number.cpu().numpy()]

    def numbers(self, y: Any, count: int, *, name: str = "y") -> Tensor:
        """The numbers of the classes of `count` labels; ValueError for a label that is no class of this classifier."""
        return numbered(self.names, y, checks.whole("count", count), name=name).to(dtype_and_device(self)[1])

    def rename(self, names: np.ndarray) -> None:
        """Give the classes these sorted names, one for each class, as a fit takes them from its labels."""
        self.names, self.names_are_given = names, True
        note(self, classes=names.tolist())


def drawn_of_class(
    classifier: Classifier, draw: Callable[[Tensor], Tensor], label: Any, n: int, seed: int | None
) -> Tensor:
    """`n` items of one class, by `draw` from their class numbers (n,), in evaluation mode and without gradients.

    Where `label` is None the classes are drawn from p(y). Without a `seed` torch's global generator goes on; with one
    it is left as it was.
    """
    checks.whole("n", n, bytes_each=4 * math.prod(classifier.event_shape))
    if label is not None and not isinstance(label, str | numbers.Number | np.generic | Tensor):
        raise TypeError(f"label must be one of the classes, or None, got {short(label)}")
    number = None if label is None else classifier.numbers([label], 1, name="label")
    key = None if seed is None else stream(checks.seed(seed), "sample", *([] if number is None else [int(number)]))
    with torch.no_grad(), evaluation_mode(classifier), forked(key, dtype_and_device(classifier)[1]):
        if number is None:
            prior: Any = classifier  # which only a classifier with densities has
            return draw(torch.distributions.Categorical(prior.class_prior).sample((n,)))
        return draw(number.expand(n))


def numbered(names: np.ndarray, y: Any, count: int, *, name: str = "y") -> Tensor:
    """The places of `count` labels in `names`; ValueError for a label that is not there."""
    labels = checks.labels(y, count, name=name)
    known = {value: number for number, value in enumerate(names.tolist())}
    strange = sorted({repr(value) for value in labels.tolist() if value not in known})
    if strange:
        raise ValueError(
            f"{name} has labels that are no class here: {', '.join(strange[:5])}; classes: "
            f"{', '.join(map(repr, names.tolist()[:20]))}"
        )
    return torch.tensor([known[value] for value in labels.tolist()])


def as_named(names: np.ndarray, labels: Any) -> np.ndarray:
    """Labels in the form that classes are named in: "7" and 7 are one class, whichever of the two is its name.

    Where any label is no class in either form, or might be two of them, all stay as they are, for `numbered` to refuse.

    >>> import numpy as np
    >>> from pyrovae.models.classifiers.classes import as_named
    >>> as_named(np.array([3, 7, 10]), np.array(["10", "3"])), as_named(np.array(["a", "b"]), np.array([0, 1]))
    (array([10,  3]), array([0, 1]))
    """
    labels = np.asarray(labels)
    known = names.tolist()
    of_number: dict[int, list[Any]] = {}
    for name in known:
        if (number := _whole(name)) is not None:
            of_number.setdefault(number, []).append(name)
    place: dict[Any, int] = {}
    for label in np.unique(labels).tolist():
        number = _whole(label)
        same = [label] if label in known else [] if number is None else of_number.get(number, [])
        if len(same) != 1:
            return labels
        place[label] = known.index(same[0])
    return names[[place[label] for label in labels.tolist()]]


def _whole(name: Any) -> int | None:
    """The whole number that a name is, or spells; None for any other name."""
    if isinstance(name, str):
        return int(name) if re.fullmatch(r"[+-]?[0-9]{1,18}", name) else None
    return int(name) if float(name).is_integer() else None


def nameable(names: np.ndarray, what: str) -> np.ndarray:
    """Names of classes as a saved classifier can have them; TypeError for what is no number and no string."""
    if names.dtype.kind == "T":
        names = names.astype(str)
    if names.dtype.kind not in "biufU":
        raise TypeError(f"{what} must be numbers or strings, got {names.dtype}: .astype(str) makes names of them")
    return names


def named_classes(classes: Any, count: int) -> np.ndarray:
    """The sorted names of `count` classes; 0 to `count` - 1 where none are given."""
    checks.affordable(f"num_classes={count:,}", 8 * count, "take fewer classes")
    if classes is None:
        return np.arange(count)
    given = entries(classes, "classes")
    if given.ndim != 1:
        raise TypeError(f"classes must be {count} different names, got {short(classes)}")
    names = np.unique(nameable(given, "classes"))
    if len(names) != count:
        raise ValueError(f"classes must be {count} different names, got {names.tolist()}")
    return names
