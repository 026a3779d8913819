"""Class densities that are fitted one by one, each by its own method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference import em
from pyrovae.inference.closed_form import ClosedForm
from pyrovae.inference.generative import ClassFit, MethodOfClasses
from pyrovae.inference.history import History, joined
from pyrovae.inference.method import Method, Task, chosen, options_of, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.models.classifiers import GenerativeClassifier
from pyrovae.models.classifiers.densities import ClassDensities, NormalDensities
from pyrovae.models.mixture import GaussianMixture
from pyrovae.seeding import stream
from pyrovae.warned import gathered

__all__ = ["PerClass"]


@dataclass(frozen=True)
class PerClass(MethodOfClasses):
    """Fit each class's density to the items of the class, by the density's own method and with that method's options.

    Where all densities are Gaussian mixtures, unlabelled items enter by EM.
    """

    name: ClassVar[str] = "per_class"
    title: ClassVar[str] = "each density's own method"
    belongs_to: ClassVar[str] = "GenerativeClassifier"
    is_shown: ClassVar[bool] = False

    handed_on: Mapping[str, Any] = field(default_factory=dict)
    methods_of_densities: tuple[Method, ...] = (SVI(), em.EM())

    def with_options(self, options: Mapping[str, Any], others: Iterable[Method] = ()) -> PerClass:
        """A copy that hands these options on; a density refuses those that its own method does not have."""
        known = {name for method in self.methods_of_densities for name in options_of(method)}
        for name, value in options.items():
            if name not in known:
                self.refuse(name, value, others)
        handed_on = {name: value for name, value in options.items() if name in known}
        return replace(self, handed_on={**self.handed_on, **handed_on})

    def run(self, task: Task) -> History:
        """Fit the classifier in place, one class after another."""
        em_options = em.EM().with_options({k: v for k, v in self.handed_on.items() if k in options_of(em.EM())})
        return _ClassByClass(task, em_options, self.handed_on).run()


class _ClassByClass(ClassFit):
    """A fit of each density to the items of its class, by the density's default method."""

    def __init__(self, task: Task, em_options: em.EM, handed_on: Mapping[str, Any]) -> None:
        self.handed_on = handed_on
        super().__init__(task, em_options)

    def require_fitting(self, counts: Tensor) -> None:
        super().require_fitting(counts)
        parts = self.classifier.densities.parts
        for name, part, count in zip(self.class_names.tolist(), parts, counts.tolist(), strict=True):
            if isinstance(part, GaussianMixture) and count < part.num_components:
                raise ValueError(
                    f"class {name!r} has {count} items for {part.num_components} components: give more items of it, or "
                    "fewer components"
                )
        if self.unlabeled is not None and not all(isinstance(part, GaussianMixture) for part in parts):
            kinds = sorted({type(part).__name__ for part in parts})
            raise ValueError(
                f"unlabeled items enter by EM, which is for Gaussian densities, and these are {', '.join(kinds)}: "
                "leave unlabeled out"
            )

    def fit_labelled(self) -> History:
        """Fit each density in turn; the warnings of its fit name the class."""
        histories = {}
        names = self.copy.names.tolist()
        for c, name in enumerate(names):
            validation = None
            if self.held_out is not None and bool((self.held_out.number == c).any()):
                validation = _of_class(*self.held_out, c)
            density = self.copy.densities.parts[c]
            own = chosen(density, None, self.handed_on)
            if self.labeled.weight is not None and not own.takes_weight:
                raise ValueError(
                    f"weight came, and {own.title}, which fits {self.names[c]}, weighs no items: repeat an item as "
                    "often as it counts"
                )
            if self.labeled.has_missing and not own.takes_missing:
                raise ValueError(
                    f"x comes with missing entries, and {own.title}, which fits {self.names[c]}, takes whole items: "
                    "fill or drop them"
                )
            task = replace(
                self.task,
                pair=density,
                x=_of_class(self.items, self.class_index, self.labeled.weight, c),
                y=None,
                validation=validation,
                unlabeled=None,
                seed=stream(self.task.seed, "class", c),
                label=name,
                labels=tuple(names),
            )
            with self.stop, gathered() as warnings:
                histories[name] = own.run(task)
            for warning in warnings:
                checks.warn(f"{self.names[c]}: {warning.message}", warning.category)
            if self.stop.error is not None:
                histories[name] = self.stop.history
                break
        return joined(histories)

    def m_step(self, items: Tensor, share: Tensor) -> Tensor:
        at_floor = []
        for c, part in enumerate(self.copy.densities.parts):
            responsibility = part.log_joint_table(items).softmax(-1)
            at_floor.append(part.maximize(items, share[:, c, None] * responsibility).any())
        return torch.stack(at_floor)

    def warn_of_floor(self, at_floor: Tensor, items: Tensor) -> None:
        if at_floor.any():
            names = ", ".join(self.names[c] for c in at_floor.nonzero().flatten().tolist())
            checks.warn(f"the variance floor holds up a component of {names}", em.VarianceFloorWarning)


def _of_class(items: Tensor, class_index: Tensor, weight: Tensor | None, c: int) -> Any:
    """The items of one class, with their weights and with word of missing entries where there are any."""
    rows = class_index == c
    x, of_rows = items[rows], None if weight is None else weight[rows]
    missing = True if bool(x.isnan().any()) else None
    return x if of_rows is None and missing is None else checks.Gathered(x, weight=of_rows, missing=missing)


def _by_densities(classifier: GenerativeClassifier) -> tuple[Method, ...]:
    densities = classifier.densities
    if isinstance(densities, NormalDensities):
        return (ClosedForm(),)
    parts = densities.parts if isinstance(densities, ClassDensities) else []
    defaults = {type(part): chosen(part, None, {}) for part in parts}
    return (PerClass(methods_of_densities=(SVI(), em.EM(), *defaults.values())),)


register_methods(GenerativeClassifier, ClosedForm(), PerClass(), order=_by_densities)
