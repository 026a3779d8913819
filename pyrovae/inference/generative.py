"""Fitting the densities of a generative classifier: class by class, in closed form, and by EM with unlabelled items."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae import checks
from pyrovae.inference import em
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History, joined
from pyrovae.inference.labels import held_out_items, numbered_labels
from pyrovae.inference.method import Method, Task, chosen, options_of, register
from pyrovae.inference.svi.options import SVI
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.classifiers import ClassDensities, GenerativeClassifier
from pyrovae.models.components import GaussianComponents
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import checked_items
from pyrovae.models.scopes import copied
from pyrovae.seeding import stream
from pyrovae.warned import gathered

__all__ = ["ClosedForm", "PerClass", "fitted"]


class _OfClasses(Method):
    """What the two methods of a generative classifier have in common."""

    def refuse_checkpoint(self, name: str) -> None:
        raise ValueError("checkpoint is for one run, and the densities of classes are fitted one by one: leave it out")

    def refuse_other(self, asked: str, other: Method, pair: Any) -> None:
        raise ValueError("a GenerativeClassifier has each density fitted by that one's own method: leave method out")


@dataclass(frozen=True)
class ClosedForm(_OfClasses):
    """Normal densities of classes in closed form: means, covariances and class frequencies are those of the items.

    Args:
        tol: of EM, by which unlabelled items enter, in nats per item.
        max_iterations: of EM.

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
        """Take the maximum of the likelihood, by EM where there are unlabelled items."""
        climbing = em.EM(tol=self.tol, max_iterations=self.max_iterations)
        for name in ("tol", "max_iterations"):
            if task.unlabeled is None and getattr(self, name) != getattr(ClosedForm, name):
                raise ValueError(f"{name} has no use here: normal classes are fitted in closed form; leave it out")
        return fitted(task, climbing, None)


@dataclass(frozen=True)
class PerClass(_OfClasses):
    """Each class's density on the items of the class, by the density's own method and with its options.

    Unlabelled items enter by EM, where the densities are mixtures.
    """

    name: ClassVar[str] = "per_class"
    title: ClassVar[str] = "each density's own method"
    belongs_to: ClassVar[str] = "GenerativeClassifier"

    handed_on: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, Any], others: Iterable[Method] = ()) -> PerClass:
        """Options of SVI and EM are handed on, but for those at their defaults."""
        known = options_of(SVI()) | options_of(em.EM())
        for name, value in options.items():
            if name not in known:
                self.refuse(name, value, others)
        named = {name: value for name, value in options.items() if name in known and value != known[name]}
        return PerClass({**self.handed_on, **named})

    def run(self, task: Task) -> History:
        """Fit class by class."""
        climbing = em.EM().with_options({k: v for k, v in self.handed_on.items() if k in options_of(em.EM())})

        def fit_one(density: Any, items: Tensor, validation: Any, seed: int) -> History:
            one = replace(task, pair=density, x=items, y=None, validation=validation, unlabeled=None, seed=seed)
            return chosen(density, None, self.handed_on).run(one)

        return fitted(task, climbing, fit_one)


def fitted(task: Task, climbing: em.EM, fit_one: Callable[..., History] | None) -> History:
    """Raise log p(x, y) of the labelled items, and with `unlabeled` log p(x) of those too, to a maximum in place.

    `fit_one(density, items, validation=..., seed=...)` fits the density of one class by whatever method it has. All is
    done on a copy: the classifier changes once, at the end.
    """
    classifier, y, unlabeled, validation, device = task.pair, task.y, task.unlabeled, task.validation, task.device
    given = checks.array(task.x, "x")
    items = checked_items(classifier, given).to(device)
    names, number = numbered_labels(classifier, y, len(items))
    checks.require_held_in_groups(given, number, [f"class {name!r}" for name in names.tolist()], items.dtype)
    rest = None if unlabeled is None else checked_items(classifier, unlabeled, name="unlabeled").to(device)
    held_out = held_out_items(classifier, names, validation, items)
    _require_enough(classifier, names, torch.bincount(number, minlength=len(names)))
    if rest is not None:
        _require_mixtures(classifier)
    own, number = copied(classifier), number.to(device)
    own.rename(names)
    run = _Run(own, items, number, rest, held_out)
    try:
        if isinstance(own.densities, GaussianComponents):
            history = run.closed_form()
        else:
            assert fit_one is not None
            history = run.class_by_class(fit_one, task.seed)
        if not own.prior_is_given:
            with torch.no_grad():
                own.logits.copy_((torch.bincount(number).double() / len(number)).log())
        if rest is not None:
            history = run.expectation_maximization(climbing, task.progress)
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError(f"a covariance could not be factored: scale x, or raise the floor ({error})") from None
    densities = own.densities
    if isinstance(densities, GaussianComponents):
        checks.tell_of_rounding(given, items, number, run.names, lambda: densities.conditional_scale)
    for ours, theirs in zip(classifier.modules(), own.modules(), strict=True):
        if isinstance(ours, BayesianGaussianMixture) and isinstance(theirs, BayesianGaussianMixture):
            ours.keep(theirs.sampled)
    classifier.load_state_dict(own.state_dict())
    classifier.rename(names)
    return history


class _Run:
    """One fit, on a copy of the classifier."""

    def __init__(
        self, own: GenerativeClassifier, x: Tensor, number: Tensor, rest: Tensor | None, held_out: Any
    ) -> None:
        self.own, self.x, self.number, self.rest, self.held_out = own, x, number, rest, held_out
        self.names = [f"class {name!r}" for name in own.names.tolist()]

    @torch.no_grad()
    def closed_form(self) -> History:
        """Normal densities: one M-step from the labels is the maximum."""
        start = time.perf_counter()
        own = self.own.to(self.x.device).double()
        weight = nn.functional.one_hot(self.number, own.num_classes)
        components = own.densities
        assert isinstance(components, GaussianComponents)
        flat = self.x.flatten(1)
        everything = flat if self.rest is None else torch.cat([flat, self.rest.flatten(1)])
        components.measure(flat, [weight], whole=everything)
        held = components.maximize(flat, weight)
        if not own.prior_is_given:
            own.logits.copy_(weight.double().mean(0).log())
        seconds = time.perf_counter() - start
        if self.rest is None:
            em.warn_of_floor(components, held, self.x, self.names)
        loss = -float(own.log_joint_table(self.x.double()).gather(1, self.number[:, None]).mean())
        row = {"loss": loss, **self.judged(), "seconds": seconds}
        return History.from_rows([row], self.config(held) | {"method": "closed form", "unlabeled_items": 0})

    def class_by_class(self, fit_one: Callable[..., History], seed: int) -> History:
        """Each density on the items of its class; what it warns of names the class."""
        densities, found = self.own.densities, {}
        assert isinstance(densities, ClassDensities)
        for c, name in enumerate(self.own.names.tolist()):
            validation = None
            if self.held_out is not None and bool((self.held_out[1] == c).any()):
                validation = self.held_out[0][self.held_out[1] == c]
            with gathered() as caught:
                found[name] = fit_one(
                    densities.parts[c], self.x[self.number == c], validation=validation, seed=stream(seed, "class", c)
                )
            for one in caught:
                checks.warn(f"{self.names[c]}: {one.message}", one.category)
        return joined(found)

    @torch.no_grad()
    def expectation_maximization(self, plan: em.EM, progress: bool) -> History:
        """From the fit to the labelled items: labels are known there, and posterior elsewhere (Nigam et al. 2000)."""
        assert self.rest is not None
        own = self.own.to(self.x.device).double()
        everything = torch.cat([self.x, self.rest]).double()
        known = nn.functional.one_hot(self.number, own.num_classes).double()
        count = len(known)

        def expected() -> tuple[Tensor, float]:
            joint = own.log_joint_table(everything)
            total = joint.logsumexp(-1)
            share = (joint - total[:, None]).exp()
            share[:count] = known
            labelled = joint[:count].gather(1, self.number[:, None]).sum()
            return share, float(labelled + total[count:].sum()) / len(everything)

        def maximized(share: Tensor) -> Tensor:
            held = _maximized(own, everything, share)
            if not own.prior_is_given:
                own.logits.copy_(share.mean(0).log())
            return held

        with tqdm(unit="iteration", disable=None if progress else True) as bar:
            climb = em.Climb(expected, maximized, self.judged, bar)
            climb.go_on(plan.tol, plan.max_iterations)
        climb.require_finite()
        if not climb.converged:
            em.warn_not_converged(len(climb.rows), plan.tol)
        if isinstance(own.densities, GaussianComponents):
            em.warn_of_floor(own.densities, climb.held, everything, self.names)
        elif climb.held.any():
            held = ", ".join(self.names[c] for c in climb.held.nonzero().flatten().tolist())
            checks.warn(f"the variance floor holds up a component of {held}", em.VarianceFloorWarning)
        config = {"method": "em", "unlabeled_items": len(self.rest), "converged": climb.converged, "tol": plan.tol}
        return History.from_rows(climb.rows, self.config(climb.held) | config | {"max_iterations": plan.max_iterations})

    @torch.no_grad()
    def judged(self) -> dict[str, float]:
        """The log-loss of the validation items."""
        if self.held_out is None:
            return {}
        items, number = (part.to(self.x.device) for part in self.held_out)
        table = self.own.log_joint_table(items.double()).log_softmax(-1)
        return {"validation_log_loss": -float(table.gather(1, number[:, None]).mean())}

    def config(self, held: Tensor) -> dict[str, Any]:
        names = self.own.names.tolist()
        return {
            "items": len(self.x),
            "classes": names,
            "validation_items": 0 if self.held_out is None else len(self.held_out[0]),
            "floored_classes": [names[c] for c in held.nonzero().flatten().tolist()]
            if len(held) > 1
            else held.tolist(),
            "device": str(self.x.device),
            **environment(self.x.device),
        }


def _maximized(own: GenerativeClassifier, x: Tensor, share: Tensor) -> Tensor:
    """One M-step over the densities from p(y | x), (n, C); the classes that the floor held up."""
    densities = own.densities
    if isinstance(densities, GaussianComponents):
        return densities.maximize(x.flatten(1), share)
    each = []
    for c, part in enumerate(densities.parts):
        within = part.log_joint_table(x).softmax(-1)
        each.append(part.maximize(x, share[:, c, None] * within).any())
    return torch.stack(each)


def _require_enough(classifier: GenerativeClassifier, names: np.ndarray, counts: Tensor) -> None:
    for c, (name, count) in enumerate(zip(names.tolist(), counts.tolist(), strict=True)):
        if not count:
            raise ValueError(f"y has no item of class {name!r}: leave the class out, or give items of it")
        densities = classifier.densities
        part = densities.parts[c] if isinstance(densities, ClassDensities) else None
        if isinstance(part, GaussianMixture) and count < part.num_components:
            raise ValueError(
                f"class {name!r} has {count} items for {part.num_components} components: give more items of it, or "
                "fewer components"
            )


def _require_mixtures(classifier: GenerativeClassifier) -> None:
    densities = classifier.densities
    if isinstance(densities, ClassDensities) and not all(isinstance(p, GaussianMixture) for p in densities.parts):
        kinds = sorted({type(part).__name__ for part in densities.parts})
        raise ValueError(
            f"unlabeled items enter by EM, which is for Gaussian densities, and these are {', '.join(kinds)}: leave "
            "unlabeled out"
        )


def _by_densities(classifier: GenerativeClassifier) -> tuple[Method, ...]:
    return (ClosedForm(),) if isinstance(classifier.densities, GaussianComponents) else (PerClass(),)


register(GenerativeClassifier, ClosedForm(), PerClass(), order=_by_densities)
