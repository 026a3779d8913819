"""Fitting the densities of a generative classifier: what its methods share, and unlabelled items by EM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae import checks
from pyrovae.inference import em
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.labels import held_out_items, numbered_labels
from pyrovae.inference.method import Method, Task
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.items import checked_items
from pyrovae.models.scopes import copied

__all__ = ["ClassFit", "MethodOfClasses"]


class MethodOfClasses(Method):
    """What the methods of a generative classifier have in common."""

    takes_unlabeled: ClassVar[bool] = True

    def refuse_checkpoint(self, name: str) -> None:
        raise ValueError("checkpoint is for one run, and the densities of classes are fitted one by one: leave it out")

    def refuse_other(self, asked: str, other: Method, pair: Any) -> None:
        raise ValueError("a GenerativeClassifier has each density fitted by that one's own method: leave method out")


class ClassFit:
    """One fit of the densities of classes, which raises log p(x, y) of labelled and log p(x) of unlabelled items.

    All is done on a copy: the classifier changes once, at the end. A subclass says how densities are fitted to labelled
    items (`fit_labelled`), what an M-step of EM is (`m_step`), and what it cannot take (`require_fitting`).
    """

    def __init__(self, task: Task, em_options: em.EM) -> None:
        self.task, self.em_options, self.classifier = task, em_options, task.pair
        self.given = checks.array(task.x, "x")
        self.items = checked_items(self.classifier, self.given).to(task.device)
        class_names, number = numbered_labels(self.classifier, task.y, len(self.items))
        self.class_names = class_names
        self.names = [f"class {name!r}" for name in class_names.tolist()]
        checks.require_held_in_groups(self.given, number, self.names, self.items.dtype)
        self.unlabeled: Tensor | None = None
        if task.unlabeled is not None:
            self.unlabeled = checked_items(self.classifier, task.unlabeled, name="unlabeled").to(task.device)
        self.held_out = held_out_items(self.classifier, class_names, task.validation, self.items)
        self.require_fitting(torch.bincount(number, minlength=len(class_names)))
        self.copy = copied(self.classifier)
        self.copy.rename(class_names)
        self.class_index = number.to(task.device)

    def run(self) -> History:
        """Fit the copy, and give the classifier its parameters."""
        try:
            history = self.fit_labelled()
            if not self.copy.prior_is_given:
                with torch.no_grad():
                    self.copy.logits.copy_((torch.bincount(self.class_index).double() / len(self.class_index)).log())
            if self.unlabeled is not None:
                history = self.expectation_maximization(self.unlabeled)
        except torch.linalg.LinAlgError as error:
            raise FloatingPointError(
                f"a covariance could not be factored: scale x, or raise the floor ({error})"
            ) from None
        self.warn_after_fit()
        for part, fitted in zip(self.classifier.modules(), self.copy.modules(), strict=True):
            if isinstance(part, BayesianGaussianMixture) and isinstance(fitted, BayesianGaussianMixture):
                part.keep(fitted.sampled)
        self.classifier.load_state_dict(self.copy.state_dict())
        self.classifier.rename(self.class_names)
        return history

    # what a subclass states -------------------------------------------------------------------------

    def require_fitting(self, counts: Tensor) -> None:
        """Refuse what the densities cannot be fitted to; `counts` are the labelled items of each class."""
        for name, count in zip(self.class_names.tolist(), counts.tolist(), strict=True):
            if not count:
                raise ValueError(f"y has no item of class {name!r}: leave the class out, or give items of it")

    def fit_labelled(self) -> History:
        """Fit the densities to the labelled items."""
        raise NotImplementedError

    def m_step(self, items: Tensor, share: Tensor) -> Tensor:
        """One M-step over the densities from p(y | x), (n, C); returned: the classes that the floor held up."""
        raise NotImplementedError

    def warn_of_floor(self, held: Tensor, items: Tensor) -> None:
        """Name the classes, and where known the columns, that the floor holds up."""
        raise NotImplementedError

    def warn_after_fit(self) -> None:
        """Warn of what the fitted densities show, such as columns that rounding changes."""

    # what they share --------------------------------------------------------------------------------

    @torch.no_grad()
    def expectation_maximization(self, unlabeled: Tensor) -> History:
        """From the fit to the labelled items: labels are known there, and posterior elsewhere (Nigam et al. 2000)."""
        classifier = self.copy.to(self.items.device).double()
        everything = torch.cat([self.items, unlabeled]).double()
        known = nn.functional.one_hot(self.class_index, classifier.num_classes).double()
        count = len(known)

        def expected() -> tuple[Tensor, float]:
            joint = classifier.log_joint_table(everything)
            total = joint.logsumexp(-1)
            share = (joint - total[:, None]).exp()
            share[:count] = known
            of_labelled = joint[:count].gather(1, self.class_index[:, None]).sum()
            return share, float(of_labelled + total[count:].sum()) / len(everything)

        def maximized(share: Tensor) -> Tensor:
            held = self.m_step(everything, share)
            if not classifier.prior_is_given:
                classifier.logits.copy_(share.mean(0).log())
            return held

        plan = self.em_options
        with tqdm(unit="iteration", disable=None if self.task.progress else True) as bar:
            climb = em.Climb(expected, maximized, self.judged, bar)
            climb.go_on(plan.tol, plan.max_iterations)
        climb.require_finite()
        if not climb.converged:
            em.warn_not_converged(len(climb.rows), plan.tol)
        self.warn_of_floor(climb.held, everything)
        config = {
            "method": "em",
            "unlabeled_items": len(unlabeled),
            "converged": climb.converged,
            "tol": plan.tol,
            "max_iterations": plan.max_iterations,
        }
        return History.from_rows(climb.rows, self.config(climb.held) | config)

    @torch.no_grad()
    def judged(self) -> dict[str, float]:
        """The log-loss of the validation items."""
        if self.held_out is None:
            return {}
        items, number = (part.to(self.items.device) for part in self.held_out)
        table = self.copy.log_joint_table(items.double()).log_softmax(-1)
        return {"validation_log_loss": -float(table.gather(1, number[:, None]).mean())}

    def config(self, held: Tensor) -> dict[str, Any]:
        """What the fit was, for its history."""
        names = self.copy.names.tolist()
        floored = [names[c] for c in held.nonzero().flatten().tolist()] if len(held) > 1 else held.tolist()
        return {
            "items": len(self.items),
            "classes": names,
            "validation_items": 0 if self.held_out is None else len(self.held_out[0]),
            "floored_classes": floored,
            "device": str(self.items.device),
            **environment(self.items.device),
        }
