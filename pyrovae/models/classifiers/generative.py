"""Classification by Bayes' rule from a density of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.classifiers.classes import Classifier, drawn_of_class, named_classes
from pyrovae.models.classifiers.densities import DensitiesOfClasses, NormalDensities, OfClasses, of_classes
from pyrovae.models.component import Component
from pyrovae.models.items import checked_items, plate_size
from pyrovae.models.missing import takes_missing
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.registry import note, register
from pyrovae.models.scopes import copied
from pyrovae.models.summed_mixture import MISSING
from pyrovae.summary import Rows

__all__ = ["GenerativeClassifier", "gaussian_classifier"]

RELATIVE = 1e-10  # a floor that is not given, of a column's variance within classes
WEIGHT = 1e-6  # of an evidence in log p(y | x), from which on an unreliable error makes that unreliable
SHORT = 100  # of its stated errors, by which an unreliable evidence may fall short of log p(x | c)


class GenerativeClassifier(Classifier):
    """p(y | x) = p(y) p(x | y) / p(x), by Bayes' rule over any density of each class; a Pyro pair of "label" and "obs".

    Args: `densities`, {label: density}, each a module with `log_prob`, `sample` and the same `event_shape`, such as a
    `GaussianMixture`; a pair without a `log_prob`, such as a VAE, has its log p(x | y) from `evidence(pair, x)`, such
    as `pyrovae.iwae` or a `functools.partial` of it with more particles, and the standard errors of these go into those
    of p(y | x), with the flags of those that are unreliable: what they say of noise, and not of how far below
    log p(x | y) a bound lies. No gradient flows through an estimate. `class_prior`, {label: probability} or
    probabilities in the order of the sorted labels; None: equal until a fit takes the training frequencies.
    `pyrovae.fit(classifier, x, y)` fits the densities.

    `event_shape`, `classes_`, `class_prior`. Raises ValueError for densities of unlike shapes, under two classes, or a
    prior that is no distribution; TypeError for a part that is no density.

    (Hastie, Tibshirani and Friedman 2009, section 4.3.)

    >>> from pyrovae import GaussianMixture, GenerativeClassifier
    >>> make = GaussianMixture.from_parameters
    >>> low, high = (make([1.0], [[at]], [[1.0]], covariance="diagonal") for at in (-1.0, 1.0))
    >>> classifier = GenerativeClassifier({"low": low, "high": high}, {"low": 0.5, "high": 0.5})
    >>> classifier.predict([[2.0], [-3.0]]).tolist(), classifier.classes_.tolist()
    (['high', 'low'], ['high', 'low'])
    """

    is_normalized = True
    latent_dim = 0  # its latent is a label, and no code
    densities: DensitiesOfClasses

    def __init__(
        self,
        densities: Mapping[Any, nn.Module] | OfClasses,
        class_prior: Mapping[Any, float] | Sequence[float] | None = None,
        *,
        evidence: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        classes = densities if isinstance(densities, OfClasses) else of_classes(densities, evidence)
        self.names = np.asarray(classes.names)
        self.names_are_given = classes.names_are_given
        self.event_shape = classes.event_shape
        self.densities = classes.densities
        tensors = chain(self.densities.parameters(), self.densities.buffers(), [torch.zeros(())])
        self.logits = nn.Parameter(next(tensors).new_zeros(len(self.names)).detach())
        self.given_prior: list[float] | None = None
        if class_prior is not None:
            self._take_prior(class_prior)

    @property
    def takes_missing(self) -> bool:
        """Whether every density takes items with NaN where an entry was not seen."""
        parts = getattr(self.densities, "parts", None)
        return parts is None or all(takes_missing(part) for part in parts)

    def _summary_of_parts(self) -> Rows:
        return {
            "num_classes": lambda: self.num_classes,
            "densities": self._summary_of_densities,
        }

    def _summary_of_densities(self) -> str:
        parts = getattr(self.densities, "parts", None)
        if parts is None:
            return f"normal with {self.densities.covariance} covariance"  # type: ignore[attr-defined]
        return " or ".join(sorted({type(part).__name__ for part in parts}))

    def _summary_count(self) -> str:
        free = getattr(self.densities, "num_parameters", None)  # tensors hold triangles as squares
        return super()._summary_count() if free is None else f"{self.num_classes - 1 + free:,}"

    # the pair ---------------------------------------------------------------------------------------

    def model(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, missing: bool = False
    ) -> Tensor:
        """p(label, x): items observed where `x` is given, labels where their numbers `y` (N,) are, else drawn.

        With `missing` NaN in `x` is an entry that was not seen, and the density is that of the seen entries.
        """
        register_param_sites(self._site_prefix, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            infer = None if y is not None else ENUMERATED
            label = pyro.sample("label", dist.Categorical(logits=self.logits), obs=y, infer=infer)
            return pyro.sample("obs", Component(self.densities, label, self.event_shape), obs=x)

    def guide(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, missing: bool = False
    ) -> Tensor | None:
        """p(label | x), exact, with `missing` given the seen entries; without `x` p(y); nothing where labels are."""
        register_param_sites(self._site_prefix, self)
        if y is not None:
            return None
        logits = self.logits if x is None else self.log_joint_table(x).to(self.logits)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            return pyro.sample("label", dist.Categorical(logits=logits), infer=ENUMERATED)

    # what it says of items --------------------------------------------------------------------------

    def log_joint(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(y, x) for every class, (N, C), in nats. With `missing` NaN is an entry not seen: log p(y, x_seen)."""
        return self._decided(self._items(x, missing)).to(self.logits)

    def log_prob(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(x) = log sum_y p(y) p(x | y), (N,), in nats."""
        return self._decided(self._items(x, missing)).logsumexp(-1).to(self.logits)

    def predict_log_proba(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(y | x), (N, C), in nats; with `missing`, given the seen entries alone. Columns as in `classes_`."""
        return self._decided(self._items(x, missing)).log_softmax(-1).to(self.logits)

    def with_standard_error(self, x: Any, *, missing: bool = False) -> tuple[Tensor, Tensor]:
        """log p(y | x) and its Monte Carlo standard errors, both (N, C): 0 where the densities are known.

        To first order, from independent errors s_c of log p(x | c): sqrt(sum_c (1[c = y] - p(c | x))^2 s_c^2). Which of
        them cannot be relied on, `with_reliability` says.
        """
        log_proba, error, _ = self.with_reliability(x, missing=missing)
        return log_proba, error

    def with_reliability(self, x: Any, *, missing: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `with_standard_error`, and which errors are unreliable, a boolean (N, C); None where that is not known.

        Where the evidence of a class c has an unreliable error at an item, so has each log p(y | x) in which it weighs
        by |1[c = y] - p(c | x)| > 1e-6. In those of the other classes it is weighed as if it were 100 of its errors
        higher: a bound that falls short makes its own class weigh too little, and by how much its error does not say.
        """
        x = self._items(x, missing)
        value, error, flagged = self.densities.log_densities(x.flatten(1))
        joint = value + self._log_prior()
        log_proba = joint.log_softmax(-1)
        if error is None:
            log_proba = log_proba.to(self.logits)
            return log_proba, torch.zeros_like(log_proba), None
        same = torch.eye(self.num_classes, dtype=torch.bool, device=value.device)
        away = same.to(value) - log_proba.exp()[:, None]
        spread = (away * error[:, None]).square().sum(-1).sqrt()
        if flagged is not None:
            others = joint[:, None].masked_fill(same, -torch.inf).logsumexp(-1)
            weight = (joint + SHORT * error.nan_to_num(torch.inf) - others).sigmoid()[:, None]
            weight = torch.where(same, away, weight)
            flagged = (~(weight <= WEIGHT) & flagged[:, None]).any(-1)
        return log_proba.to(self.logits), spread.to(self.logits), flagged

    def sample(self, label: Any, n: int, *, seed: int | None = None) -> Tensor:
        """`n` draws of p(x | y = label), or of p(x) where `label` is None: (n, *event_shape).

        Without a `seed` torch's global generator goes on.
        """
        return drawn_of_class(self, self._drawn, label, n, seed)

    @property
    def prior_is_given(self) -> bool:
        """Whether p(y) was given, in which case a fit does not replace it by frequencies."""
        return self.given_prior is not None

    @property
    def class_prior(self) -> Tensor:
        """p(y), (C,)."""
        return self.logits.softmax(-1)

    def with_class_prior(self, class_prior: Mapping[Any, float] | Sequence[float]) -> GenerativeClassifier:
        """The same densities under another p(y), as for a population with other class frequencies; nothing is fitted.

        A copy: to fit either classifier leaves the other as it is. A later fit keeps this prior.

        >>> from pyrovae import gaussian_classifier
        >>> classifier = gaussian_classifier((2,), 2).with_class_prior([0.9, 0.1])
        >>> [round(p, 2) for p in classifier.class_prior.tolist()]
        [0.9, 0.1]
        """
        other = copied(self)
        other._take_prior(class_prior)
        return other

    def _take_prior(self, prior: Any) -> None:
        if isinstance(prior, Mapping):
            absent = [name for name in self.names.tolist() if name not in prior]
            if absent or len(prior) != self.num_classes:
                raise ValueError(f"class_prior must name each class once: {self.names.tolist()}, got {list(prior)}")
            prior = [prior[name] for name in self.names.tolist()]
        given = checks.array(prior, "class_prior").double()
        if given.shape != (self.num_classes,) or not bool((given > 0).all()) or abs(float(given.sum()) - 1) > 1e-6:
            raise ValueError(
                f"class_prior must be {self.num_classes} numbers above 0 that sum to 1, got {given.tolist()}"
            )
        self.given_prior = given.tolist()
        note(self, class_prior=self.given_prior)
        with torch.no_grad():
            self.logits.copy_(given.log())

    def _drawn(self, number: Tensor) -> Tensor:
        return self.densities.draw(number).unflatten(-1, self.event_shape)

    def _log_prior(self) -> Tensor:
        return self.logits.double().log_softmax(-1)

    def _decided(self, x: Tensor) -> Tensor:
        """`log_joint_table`, with the densities in evaluation mode."""
        return self.densities.log_densities(x.flatten(1)).value + self._log_prior()

    def log_joint_table(self, x: Tensor) -> Tensor:
        """log p(y, x), (N, *event_shape) to (N, C), in float64 and unchecked; NaN is missing."""
        return self.densities.log_prob(x.flatten(1)) + self._log_prior()

    def _items(self, x: Any, missing: bool) -> Tensor:
        items = checked_items(self, x, missing=missing, hint=MISSING, least_scale=self.least_scale)
        return items.to(self.logits.device)

    @torch.no_grad()
    def least_scale(self, x: Tensor) -> Tensor:
        """The smallest standard deviation of each column, given the others, of the classes nearest to items of `x`.

        (D,), in float64; 0 where the density of such a class does not say.
        """
        return self.densities.least_scale_nearest(x.to(self.logits.device), self.log_joint_table)


@register("gaussian_classifier", kind="builder")
def gaussian_classifier(
    event_shape: Sequence[int],
    num_classes: int,
    *,
    covariance: str = "tied",
    floor: float | None = None,
    classes: Sequence[Any] | None = None,
    class_prior: Mapping[Any, float] | Sequence[float] | None = None,
) -> GenerativeClassifier:
    """A normal density for each class: linear discriminant analysis where their covariance is one, "tied".

    "full": quadratic discriminant analysis; "diagonal": Gaussian naive Bayes; "spherical": s_c^2 I. `pyrovae.fit` is
    the maximum of log p(x, y), in closed form: covariances are divided by N (tied) or by N_c, as scikit-learn's
    `LinearDiscriminantAnalysis(solver="lsqr")` divides. No variance falls below `floor`, in the items' units squared:
    raise it to regularise. None: 1e-10 of each column's variance within classes, so that decisions depend on no
    column's units (and 1e-10 itself for a column that does not vary); for "spherical", of the mean of these.

    `classes`: their names, which a fit's labels must then be; None: 0 to `num_classes` - 1 until a first fit finds
    them in its labels. `class_prior` as for `GenerativeClassifier`.

    (Hastie, Tibshirani and Friedman 2009, section 4.3.)

    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> classifier = pyrovae.gaussian_classifier((1, 8, 8), 10, floor=1e-3)
    >>> history = pyrovae.fit(classifier, digits.train.x, digits.train.y)
    >>> float((classifier.predict(digits.test.x) == digits.test.y).float().mean()) > 0.9
    True
    """
    shape = checks.sizes("event_shape", event_shape)
    count = checks.whole("num_classes", num_classes, least=2, bytes_each=8 + 4 * math.prod(shape))
    densities = NormalDensities(math.prod(shape), count, covariance, floor, RELATIVE)
    names = named_classes(classes, count)
    return GenerativeClassifier(OfClasses(densities, names, shape, classes is not None), class_prior)
