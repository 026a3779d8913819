"""Normal class densities in closed form, at the maximum of the likelihood."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.inference import em
from pyrovae.inference.generative import ClassFit, MethodOfClasses
from pyrovae.inference.history import History
from pyrovae.inference.method import Method, Task
from pyrovae.models.blocks import Blocks
from pyrovae.models.frame import Frame, within_variance

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm(MethodOfClasses):
    """Fit normal class densities in closed form: means, covariances and class frequencies are those of the items.

    Unlabelled items have no closed form, and enter by EM from the fit to the labelled ones; nor have items with entries
    missing, whose expected moments given the seen entries EM takes, class by class.

    Args:
        tol: EM ends when an iteration gains no more than this, in nats per item; used only with unlabelled items and
            with missing entries.
        max_iterations: the largest number of EM iterations; used only there.

    Raises ValueError for an option that is out of its range.

    >>> from pyrovae.methods import ClosedForm
    >>> ClosedForm()
    ClosedForm(tol=1e-06, max_iterations=1000)
    """

    name: ClassVar[str] = "closed_form"
    title: ClassVar[str] = "closed form"
    belongs_to: ClassVar[str] = "GenerativeClassifier"

    tol: float = 1e-6
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        em.EM(tol=self.tol, max_iterations=self.max_iterations)  # which checks them

    def refuse(self, name: str, value: Any, others: Iterable[Method]) -> None:
        try:
            super().refuse(name, value, others)
        except ValueError:
            raise ValueError(
                f"{name} has no use here: normal classes are fitted in closed form; leave it out"
            ) from None

    def run(self, task: Task) -> History:
        """Fit the classifier in place to a maximum of the likelihood, by EM where there are unlabelled items."""
        em_options = em.EM(tol=self.tol, max_iterations=self.max_iterations)
        fit = _NormalClasses(task, em_options)
        for name in ("tol", "max_iterations"):
            if not fit.goes_by_em and getattr(self, name) != getattr(ClosedForm, name):
                raise ValueError(f"{name} has no use here: normal classes are fitted in closed form; leave it out")
        return fit.run()


class _NormalClasses(ClassFit):
    """A fit of normal class densities: where every label and entry is known, one M-step reaches the maximum."""

    @property
    def goes_by_em(self) -> bool:
        """Whether there is no closed form."""
        return self.unlabeled is not None or self.everything.has_missing

    @torch.no_grad()
    def fit_labelled(self) -> History:
        start = time.perf_counter()
        classifier = self.copy.to(self.items.device).double()
        densities = classifier.densities
        weight = self.labeled.times(nn.functional.one_hot(self.class_index, classifier.num_classes))
        frame, everything = Frame(Blocks(self.items)), Frame(Blocks(self.everything.x, self.everything.weight))

        def shares(place: slice, _: Tensor) -> Tensor:
            return weight[place].mT

        densities.measure(frame, [within_variance(frame, shares)], whole=everything)
        if self.labeled.has_missing:
            densities.begin(frame, shares)
        at_floor = densities.maximize(self.items.flatten(1), weight)
        if not classifier.prior_is_given:
            classifier.logits.copy_((weight.double().sum(0) / self.labeled.count).log())
        if self.labeled.has_missing and self.unlabeled is None:
            return self.expectation_maximization()
        seconds = time.perf_counter() - start
        if self.unlabeled is None:
            self.warn_of_floor(at_floor, self.items)
        log_joint = classifier.log_joint_table(self.items.double()).gather(1, self.class_index[:, None])
        row = {"loss": -self.labeled.mean(log_joint[:, 0]), **self.judged(), "seconds": seconds}
        return History.from_rows([row], self.config(at_floor) | {"method": "closed form", "unlabeled_items": 0})

    def m_step(self, items: Tensor, share: Tensor) -> Tensor:
        at_floor: Tensor = self.copy.densities.maximize(items.flatten(1), share)
        return at_floor

    def drift(self) -> em.Drift | None:
        parts = self.copy.densities
        return em.Drift(parts) if self.everything.has_missing and parts.lower is not None else None

    def warn_of_floor(self, at_floor: Tensor, items: Tensor) -> None:
        weight = self.labeled.weight if len(items) == len(self.items) else self.everything.weight
        variance = Frame(Blocks(items, weight)).variance.unflatten(0, items.shape[1:])
        em.warn_of_floor(self.copy.densities, at_floor, variance, self.names)

    def warn_after_fit(self) -> None:
        def scale() -> Tensor:
            conditional_scale: Tensor = self.copy.densities.conditional_scale
            return conditional_scale

        checks.warn_of_rounding(self.as_given, self.items, self.class_index, self.names, scale)
