"""What the methods of a generative classifier share, and EM for its unlabelled items."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.inference import em
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import Stop
from pyrovae.inference.labels import held_out_items, labels_kept, numbered_labels
from pyrovae.inference.method import Method, Task
from pyrovae.inference.weighed import Weighed, weighed
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.items import checked_items
from pyrovae.models.scopes import copied
from pyrovae.progress import progress_bar

__all__ = ["ClassFit", "MethodOfClasses"]


class MethodOfClasses(Method):
    """A method of a generative classifier; here are the refusals that all of them share."""

    takes_unlabeled: ClassVar[bool] = True
    takes_weight: ClassVar[bool] = True
    takes_missing: ClassVar[bool] = True

    def refuse_checkpoint(self, name: str) -> None:
        raise ValueError("checkpoint is for one run, and the densities of classes are fitted one by one: leave it out")

    def refuse_other(self, asked: str, other: Method, pair: Any) -> None:
        raise ValueError("a GenerativeClassifier has each density fitted by that one's own method: leave method out")


class ClassFit:
    """One fit of a generative classifier: it maximises log p(x, y) of labelled plus log p(x) of unlabelled items.

    An item of weight w counts as w items, and where entries are missing the densities are those of the seen ones.
    The fit works on a copy, and the classifier changes once, at the end. A subclass states how the densities are fitted
    to labelled items (`fit_labelled`), what an M-step of EM is (`m_step`), and what it refuses (`require_fitting`).
    """

    def __init__(self, task: Task, em_options: em.EM) -> None:
        self.task, self.em_options, self.classifier = task, em_options, task.pair
        given = weighed(task.x, "x")
        self.as_given = given.x
        self.items = checked_items(self.classifier, self.as_given, missing=given.missing).to(task.device)
        self.labeled = given.with_items(self.items)
        y = labels_kept(task.y, given)
        class_names, class_index = numbered_labels(self.classifier, y, len(self.items))
        self.class_names = class_names
        self.names = [f"class {name!r}" for name in class_names.tolist()]
        checks.require_held_in_groups(self.as_given, class_index, self.names, self.items.dtype)
        self.unlabeled: Tensor | None = None
        self.everything = self.labeled  # and, below the labelled items, the unlabelled ones
        if task.unlabeled is not None:
            more = weighed(task.unlabeled, "unlabeled", missing=given.missing)
            checked = checked_items(self.classifier, more.x, name="unlabeled", missing=more.missing)
            self.unlabeled = checked.to(task.device)
            self.everything = _below(self.labeled, more.with_items(self.unlabeled))
        self.held_out = held_out_items(self.classifier, class_names, task.validation, self.items, missing=given.missing)
        self.require_fitting(torch.bincount(class_index, minlength=len(class_names)))
        self._require_columns(class_index)
        self.copy = copied(self.classifier)
        self.copy.rename(class_names)
        self.class_index = class_index.to(task.device)
        self.stop = Stop()  # a signal leaves what was fitted so far

    def run(self) -> History:
        """Fit the copy, then copy its parameters to the classifier."""
        with em.covariances_factored():
            history = self.fit_labelled()
            if not self.copy.prior_is_given:
                with torch.no_grad():
                    counts = torch.bincount(self.class_index, self.labeled.weight).double()
                    self.copy.logits.copy_((counts / self.labeled.count).log())
            if self.unlabeled is not None and self.stop.error is None:
                history = self.expectation_maximization(len(self.unlabeled))
        self.warn_after_fit()
        for part, fitted in zip(self.classifier.modules(), self.copy.modules(), strict=True):
            if isinstance(part, BayesianGaussianMixture) and isinstance(fitted, BayesianGaussianMixture):
                part.keep(fitted.sampled)
        self.classifier.load_state_dict(self.copy.state_dict())
        self.classifier.rename(self.class_names)
        self.stop.again(history)
        return history

    # what a subclass states -------------------------------------------------------------------------

    def require_fitting(self, counts: Tensor) -> None:
        """Raise ValueError where a density cannot be fitted; `counts` are the numbers of labelled items per class."""
        for name, count in zip(self.class_names.tolist(), counts.tolist(), strict=True):
            if not count:
                raise ValueError(f"y has no item of class {name!r}: leave the class out, or give items of it")

    def fit_labelled(self) -> History:
        """Fit the densities to the labelled items."""
        raise NotImplementedError

    def m_step(self, items: Tensor, share: Tensor) -> Tensor:
        """Take one M-step of the densities from p(y | x), (n, C); return which classes are at the floor, (C,)."""
        raise NotImplementedError

    def drift(self) -> em.Drift | None:
        """What watches the covariances where entries are missing; None where there are none to watch."""
        return None

    def warn_of_floor(self, at_floor: Tensor, items: Tensor) -> None:
        """Warn of the classes, and where known the columns, at the variance floor."""
        raise NotImplementedError

    def warn_after_fit(self) -> None:
        """Give the warnings that need the fitted densities, such as one of columns that rounding changes."""

    # what they share --------------------------------------------------------------------------------

    def _require_columns(self, class_index: Tensor) -> None:
        """Refuse a class of whose items a column was never seen: nothing can be said of its density."""
        if not self.labeled.has_missing:
            return
        for c, name in enumerate(self.names):
            never = self.as_given[class_index == c].isnan().all(0).nonzero()
            if len(never):
                place = ", ".join(map(str, never[0].tolist()))
                raise ValueError(
                    f"no entry of x[:, {place}] was seen in an item of {name}: nothing can be learnt of it; leave the "
                    "column out, or give items of the class that have it"
                )

    @torch.no_grad()
    def expectation_maximization(self, unlabeled: int = 0) -> History:
        """Run EM from the fit to the labelled items, with `unlabeled` more (Nigam et al. 2000).

        p(y | x) is 1 at the label of a labelled item, and the classifier's posterior for an unlabelled one.
        """
        classifier = self.copy.to(self.items.device).double()
        of_fit = self.everything.with_items(self.everything.x.double())
        everything = of_fit.x
        known = nn.functional.one_hot(self.class_index, classifier.num_classes).double()
        count = len(known)

        def e_step() -> tuple[Tensor, float]:
            joint = classifier.log_joint_table(everything)
            total = joint.logsumexp(-1)
            share = (joint - total[:, None]).exp()
            share[:count] = known
            of_labelled = joint[:count].gather(1, self.class_index[:, None])
            if of_fit.weight is None:
                return share, float(of_labelled.sum() + total[count:].sum()) / len(everything)
            return of_fit.times(share), of_fit.mean(torch.cat([of_labelled[:, 0], total[count:]]))

        def m_step(share: Tensor) -> Tensor:
            at_floor = self.m_step(everything, share)
            if not classifier.prior_is_given:
                counts = share.mean(0)
                classifier.logits.copy_((counts if of_fit.weight is None else counts / counts.sum()).log())
            return at_floor

        options = self.em_options
        with progress_bar(show=self.task.progress, unit="iteration") as bar:
            climb = em.Climb(e_step, m_step, self.judged, bar, self.drift())
            with self.stop:
                climb.go_on(options.tol, options.max_iterations)
        climb.require_finite()
        if not climb.converged and self.stop.error is None:
            em.warn_not_converged(len(climb.rows), options.tol)
        self.warn_of_floor(climb.at_floor, everything)
        if climb.drift is not None:
            climb.drift.warn(self.names, everything.shape[1:])
        config = {
            "method": "em",
            "unlabeled_items": unlabeled,
            "converged": climb.converged,
            "tol": options.tol,
            "max_iterations": options.max_iterations,
            **self.stop.config,
        }
        return History.from_rows(climb.rows, self.config(climb.at_floor) | config)

    @torch.no_grad()
    def judged(self) -> dict[str, float]:
        """The log-loss of the validation items."""
        if self.held_out is None:
            return {}
        held_out = self.held_out.to(self.items.device)
        table = self.copy.log_joint_table(held_out.items.double()).log_softmax(-1)
        return {"validation_log_loss": held_out.log_loss(table)}

    def config(self, at_floor: Tensor) -> dict[str, Any]:
        """The `config` of the fit's history."""
        names = self.copy.names.tolist()
        floored = [names[c] for c in at_floor.nonzero().flatten().tolist()] if len(at_floor) > 1 else at_floor.tolist()
        return {
            "items": len(self.items),
            **self.labeled.config,
            "classes": names,
            "validation_items": 0 if self.held_out is None else len(self.held_out.items),
            "floored_classes": floored,
            "device": str(self.items.device),
            **environment(self.items.device),
        }


def _below(first: Weighed, second: Weighed) -> Weighed:
    """The items of two parts, one below the other."""
    weight = None
    if first.weight is not None or second.weight is not None:
        weight = torch.cat([first.each, second.each])
    return Weighed(torch.cat([first.x, second.x]), weight, first.missing or second.missing)
