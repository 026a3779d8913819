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

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm(MethodOfClasses):
    """Fit normal class densities in closed form: means, covariances and class frequencies are those of the items.

    Unlabelled items have no closed form, and enter by EM from the fit to the labelled ones.

    Args:
        tol: EM ends when an iteration gains no more than this, in nats per item; used only with unlabelled items.
        max_iterations: the largest number of EM iterations; used only with unlabelled items.

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
        for name in ("tol", "max_iterations"):
            if task.unlabeled is None and getattr(self, name) != getattr(ClosedForm, name):
                raise ValueError(f"{name} has no use here: normal classes are fitted in closed form; leave it out")
        return _NormalClasses(task, em_options).run()


class _NormalClasses(ClassFit):
    """A fit of normal class densities: where every label is known, one M-step reaches the maximum."""

    @torch.no_grad()
    def fit_labelled(self) -> History:
        start = time.perf_counter()
        classifier = self.copy.to(self.items.device).double()
        densities = classifier.densities
        weight = nn.functional.one_hot(self.class_index, classifier.num_classes)
        flat = self.items.flatten(1)
        everything = flat if self.unlabeled is None else torch.cat([flat, self.unlabeled.flatten(1)])
        densities.measure(flat, [weight], whole=everything)
        at_floor = densities.maximize(flat, weight)
        if not classifier.prior_is_given:
            classifier.logits.copy_(weight.double().mean(0).log())
        seconds = time.perf_counter() - start
        if self.unlabeled is None:
            self.warn_of_floor(at_floor, self.items)
        log_joint = classifier.log_joint_table(self.items.double()).gather(1, self.class_index[:, None])
        row = {"loss": -float(log_joint.mean()), **self.judged(), "seconds": seconds}
        return History.from_rows([row], self.config(at_floor) | {"method": "closed form", "unlabeled_items": 0})

    def m_step(self, items: Tensor, share: Tensor) -> Tensor:
        at_floor: Tensor = self.copy.densities.maximize(items.flatten(1), share)
        return at_floor

    def warn_of_floor(self, at_floor: Tensor, items: Tensor) -> None:
        em.warn_of_floor(self.copy.densities, at_floor, items, self.names)

    def warn_after_fit(self) -> None:
        def scale() -> Tensor:
            conditional_scale: Tensor = self.copy.densities.conditional_scale
            return conditional_scale

        checks.warn_of_rounding(self.as_given, self.items, self.class_index, self.names, scale)
