"""Classifiers as Pyro pairs: p(y | x) by Bayes' rule from a density of each class, and p(y | x) alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.components import Component, GaussianComponents
from pyrovae.models.mixture import MISSING, GaussianMixture
from pyrovae.models.networks import MLP
from pyrovae.models.pair import ENUMERATED, Listed, Pair, checked_items, dtype_and_device, list_parameters, plate_size
from pyrovae.models.registry import note, register
from pyrovae.models.scopes import copied, evaluation_mode, hidden
from pyrovae.seeding import forked, stream

RELATIVE = 1e-10  # a floor that is not given, of a column's variance within classes
WEIGHT = 1e-6  # of an evidence in log p(y | x), from which on an unreliable error makes that unreliable
SHORT = 100  # of its stated errors, by which an unreliable evidence may fall short of log p(x | c)
__all__ = [
    "ClassDensities",
    "DiscriminativeClassifier",
    "GenerativeClassifier",
    "gaussian_classifier",
    "nameable",
    "numbered",
]


class Classifier(Listed):
    """Names of classes, and decisions from `predict_log_proba`."""

    event_shape: tuple[int, ...]
    names: np.ndarray  # sorted: class number c is names[c]
    names_are_given: bool  # or found by a fit: a later one keeps to them

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
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
        """The classes of `count` labels as their numbers; ValueError for one that is no class of this classifier."""
        return numbered(self.names, y, count, name=name).to(dtype_and_device(self)[1])

    def rename(self, names: np.ndarray) -> None:
        """Give the classes these names, sorted and as many, as a fit finds them in its labels."""
        self.names, self.names_are_given = names, True
        note(self, classes=names.tolist())


class ClassDensities(nn.Module):
    """A density p(x | y) for each class, any module with `log_prob` and `sample`, or a pair under an `evidence`."""

    def __init__(self, parts: Sequence[nn.Module], evidence: Callable[..., Any] | None) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.event_shape: tuple[int, ...] = tuple(parts[0].event_shape)  # type: ignore[arg-type]
        self._evidence = evidence

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n | class c): (N, features) to (N, C), in nats and float64; NaN is missing."""
        return self.with_error(x)[0]

    def with_error(self, x: Tensor, *, decides: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same, and standard errors: 0 where a density is known, Monte Carlo's where evidence is estimated.

        And which of these errors are unreliable, (N, C), by the evidence; None where none says so. With `decides` each
        density is in evaluation mode for the call.
        """
        x = x.unflatten(-1, self.event_shape)
        missing = {"missing": True} if bool(x.isnan().any()) else {}
        values, errors = [], []
        flags: dict[int, Tensor] = {}
        for number, part in enumerate(self.parts):
            if hasattr(part, "log_prob"):
                error: Tensor | None = None
                if isinstance(part, GaussianMixture):
                    value = part.log_joint_table(x).logsumexp(-1)  # in float64 throughout
                elif hasattr(part, "with_standard_error") and not missing:
                    value, error = part.with_standard_error(x)
                elif missing and "missing" not in inspect.signature(part.log_prob).parameters:
                    raise ValueError(f"log_prob of a {type(part).__name__} takes no missing entries: impute them first")
                else:
                    with evaluation_mode(part) if decides else nullcontext():
                        value = part.log_prob(x, **missing).double()
                error = torch.zeros_like(value) if error is None else error
            else:
                assert self._evidence is not None
                with hidden():  # its sites are no part of the classifier's
                    estimate = self._evidence(part, x).pointwise
                if masked := estimate.attrs.get("masked_sites"):
                    raise ValueError(f"a {type(part).__name__} masks {masked}: its log p(x) covers only a part of x")
                value, error = (torch.from_numpy(estimate[name].values).to(x.device) for name in ("value", "se"))
                if "unreliable" in estimate:
                    flags[number] = torch.from_numpy(estimate["unreliable"].values).to(x.device)
            values.append(value)
            errors.append(error.double())
        unreliable = None
        if flags:
            none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            unreliable = torch.stack([flags.get(c, none) for c in range(len(self.parts))], -1)
        return torch.stack([v.double() for v in values], -1), torch.stack(errors, -1), unreliable

    def least_scale(self, x: Tensor) -> Tensor:
        """The smallest of mixtures, each at the items that it is nearest to; 0 where a density is no mixture."""
        if not all(isinstance(part, GaussianMixture) for part in self.parts):
            return torch.zeros(math.prod(self.event_shape), dtype=torch.float64)
        nearest = self.log_prob(x.flatten(1)).argmax(1)
        return torch.stack([self.parts[c].least_scale(x[nearest == c]) for c in nearest.unique().tolist()]).amin(0)

    def draw(self, component: Tensor) -> Tensor:
        """A draw of each item's class, from torch's global generator: (...) to (..., features)."""
        flat = component.flatten()
        found: Tensor | None = None
        for c in flat.unique().tolist():
            here = flat == c
            drawn = self.parts[c].sample(int(here.sum())).flatten(1)
            found = drawn.new_empty(len(flat), drawn.shape[1]) if found is None else found
            found[here] = drawn
        assert found is not None
        return found.unflatten(0, component.shape) if component.ndim else found[0]


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
    densities: GaussianComponents | ClassDensities

    def __init__(
        self,
        densities: Mapping[Any, nn.Module],
        class_prior: Mapping[Any, float] | Sequence[float] | None = None,
        *,
        evidence: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        names, parts = _sorted(densities)
        for name, part in zip(names.tolist(), parts, strict=True):
            _require_density(name, part, evidence)
        if len({id(part) for part in parts}) < len(parts):
            raise ValueError("densities must be a module each, for each is fitted to its own class: copy.deepcopy one")
        shapes = {tuple(part.event_shape) for part in parts}  # type: ignore[arg-type]
        if len(shapes) > 1:
            raise ValueError(f"densities must share one event_shape, got {', '.join(map(str, sorted(shapes)))}")
        self._assemble(ClassDensities(parts, evidence), shapes.pop(), names, class_prior, given=True)

    def _assemble(
        self,
        densities: GaussianComponents | ClassDensities,
        event_shape: tuple[int, ...],
        names: Any,
        prior: Any,
        *,
        given: bool,
    ) -> None:
        self.names, self.event_shape, self.densities = np.asarray(names), event_shape, densities
        self.names_are_given = given
        first = next(chain(densities.parameters(), densities.buffers(), [torch.zeros(())]))
        self.logits = nn.Parameter(first.new_zeros(len(self.names)).detach())
        self.given_prior: list[float] | None = None
        if prior is not None:
            self._take_prior(prior)

    @classmethod
    def of_components(
        cls, components: GaussianComponents, event_shape: tuple[int, ...], names: Any, prior: Any, *, given: bool
    ) -> GenerativeClassifier:
        """A classifier whose class number c has the c-th of these normal densities."""
        self = cls.__new__(cls)
        Listed.__init__(self)
        self._assemble(components, event_shape, names, prior, given=given)
        return self

    # the pair ---------------------------------------------------------------------------------------

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        """p(label, x): items observed where `x` is given, labels where their numbers `y` (N,) are, else drawn."""
        list_parameters(self._site, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            infer = None if y is not None else ENUMERATED
            label = pyro.sample("label", dist.Categorical(logits=self.logits), obs=y, infer=infer)
            return pyro.sample("obs", Component(self.densities, label, self.event_shape), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor | None:
        """p(label | x), exact; without `x` the class prior; nothing where labels are given."""
        list_parameters(self._site, self)
        if y is not None:
            return None
        logits = self.logits if x is None else self.log_joint_table(x).to(self.logits)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            return pyro.sample("label", dist.Categorical(logits=logits), infer=ENUMERATED)

    # what it says of items --------------------------------------------------------------------------

    def log_joint(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(y, x) for every class, (N, C), in nats. With `missing` NaN was not seen: log p(y, x_seen)."""
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
        """The same, and which of the errors are unreliable, a boolean (N, C); None where no evidence marks its own so.

        Where the evidence of a class c has an unreliable error at an item, so has each log p(y | x) in which it weighs
        by |1[c = y] - p(c | x)| > 1e-6. In those of the other classes it is weighed as if it were 100 of its errors
        higher: a bound that falls short makes its own class weigh too little, and by how much its error does not say.
        """
        x = self._items(x, missing)
        if isinstance(self.densities, GaussianComponents):
            found = self.log_joint_table(x).log_softmax(-1).to(self.logits)
            return found, torch.zeros_like(found), None
        value, error, flagged = self.densities.with_error(x.flatten(1), decides=True)
        joint = value + self._log_prior()
        log_proba = joint.log_softmax(-1)
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
        """`n` draws of p(x | y = label), (n, *event_shape); without a `seed` torch's global generator goes on."""
        checks.whole("n", n, bytes_each=4 * math.prod(self.event_shape))
        number = self.numbers([label], 1, name="label")
        key = None if seed is None else stream(checks.seed(seed), "sample", int(number))
        with torch.no_grad(), evaluation_mode(self), forked(key, dtype_and_device(self)[1]):
            return self.densities.draw(number.expand(n)).unflatten(-1, self.event_shape)

    @property
    def prior_is_given(self) -> bool:
        """Whether p(y) was asked for, so that no fit takes frequencies in its place."""
        return self.given_prior is not None

    @property
    def class_prior(self) -> Tensor:
        """p(y), (C,)."""
        return self.logits.softmax(-1)

    def with_class_prior(self, class_prior: Mapping[Any, float] | Sequence[float]) -> GenerativeClassifier:
        """The same densities under another p(y), as for a population where classes are more or less common: no refit.

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

    def _log_prior(self) -> Tensor:
        return self.logits.double().log_softmax(-1)

    def _decided(self, x: Tensor) -> Tensor:
        """The table below, of densities in evaluation mode."""
        if isinstance(self.densities, GaussianComponents):
            return self.log_joint_table(x)
        return self.densities.with_error(x.flatten(1), decides=True)[0] + self._log_prior()

    def log_joint_table(self, x: Tensor) -> Tensor:
        """log p(y, x), (N, *event_shape) to (N, C), in float64 and unchecked; NaN is missing."""
        return self.densities.log_prob(x.flatten(1)) + self._log_prior()

    def _items(self, x: Any, missing: bool) -> Tensor:
        return checked_items(self, x, missing=missing, hint=MISSING, least=self.least_scale).to(self.logits.device)

    @torch.no_grad()
    def least_scale(self, x: Tensor) -> Tensor:
        """The smallest standard deviation of each column, given the others, of the classes nearest to items of `x`.

        (D,), in float64; 0 where the density of such a class does not say.
        """
        x = x.to(self.logits.device)
        if isinstance(self.densities, GaussianComponents):
            return self.densities.least_scale(self.log_joint_table(x).argmax(1))
        return self.densities.least_scale(x)


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
    names = _names(classes, count)
    features = math.prod(shape)
    components = GaussianComponents(features, count, covariance, floor, RELATIVE)
    return GenerativeClassifier.of_components(components, shape, names, class_prior, given=classes is not None)


@register("DiscriminativeClassifier", kind="builder")
class DiscriminativeClassifier(Classifier):
    """p(y | x) alone, as a Pyro pair: "label" ~ Categorical(softmax(network(x))), with a Normal prior on the weights.

    Softmax regression where `hidden_dims` is empty, else a multilayer perceptron. The prior is N(0, prior_scale^2) on
    every weight and bias, so that `pyrovae.fit(classifier, x, y)` finds the posterior's mode; `prior_scale=None` is
    maximum likelihood. It says nothing of x: no p(x), no samples, no missing entries.

    `classes`: the names, which a fit's labels must then be; None: 0 to `num_classes` - 1 until a first fit finds them
    in its labels. Raises ValueError for sizes below
    1 (below 2 classes), a scale that is not positive, unknown activations.

    (Bishop 2006, section 4.3.4.)

    >>> import torch
    >>> from pyrovae import DiscriminativeClassifier
    >>> classifier = DiscriminativeClassifier((2,), 3)
    >>> classifier.predict_log_proba(torch.zeros(4, 2)).shape, classifier.predict(torch.zeros(4, 2)).dtype
    (torch.Size([4, 3]), torch.int64)
    """

    is_normalized = False  # it has no p(x)
    has_global_latents = True
    latent_dim = 0

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int,
        *,
        hidden_dims: Sequence[int] = (),
        activation: str = "relu",
        prior_scale: float | None = 10.0,
        classes: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = checks.sizes("event_shape", event_shape)
        count = checks.whole("num_classes", num_classes, least=2, bytes_each=8 + 4 * math.prod(self.event_shape))
        widths = checks.sizes("hidden_dims", hidden_dims, one=False)
        self.names, self.names_are_given = _names(classes, count), classes is not None
        self.prior_scale = None if prior_scale is None else checks.positive("prior_scale", prior_scale)
        with exclusive():
            self.network = MLP(self.event_shape, (count,), hidden_dims=widths, activation=activation)

    @property
    def is_linear(self) -> bool:
        """Whether it is softmax regression, whose log posterior is concave."""
        return len(self.network.layers) == 1

    def model(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, total: int | None = None
    ) -> Tensor:
        """p(weights) prod_n p(label_n | x_n): observed where the labels' numbers `y`, (N,), are given.

        `total`: of how many items these are a batch: their log-likelihood is scaled to it. ValueError without `x`.
        """
        if x is None:
            raise ValueError("p(y | x) says nothing of x: give model(x), or take a GenerativeClassifier")
        weights = self._weights()
        with pyro.plate("data", total or len(x), subsample=torch.arange(len(x), device=x.device)):
            return pyro.sample("label", dist.Categorical(logits=self._logits(weights, x)), obs=y)

    def _logits(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(N, C), or (S, ..., N, C) at weights of leading shape (S, ..., 1), as draws that Pyro vectorises have."""

        def one(of_one: Mapping[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.network, dict(of_one), (x,))

        own = dict(self.network.named_parameters())
        lead = torch.broadcast_shapes(*(w.shape[: w.ndim - own[name].ndim] for name, w in weights.items()))
        if not lead:
            return one(weights)
        wide = {name: w.expand(*lead, *own[name].shape) for name, w in weights.items()}
        rows = torch.vmap(one)({name: w.reshape(-1, *own[name].shape) for name, w in wide.items()})
        return rows.unflatten(0, lead[:-1]) if len(lead) > 1 else rows

    def guide(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, total: int | None = None
    ) -> None:
        """A point at the parameters for each weight."""
        list_parameters(self._site, self)
        if self.prior_scale is not None:
            for name, value in self.network.named_parameters():
                pyro.sample(_site(name), dist.Delta(value).to_event(value.ndim))

    def _weights(self) -> dict[str, Tensor]:
        """The network's weights: sites under their prior, or the parameters where there is none."""
        list_parameters(self._site, self)
        named = dict(self.network.named_parameters())
        if self.prior_scale is None:
            return named  # type: ignore[return-value]
        found = {}
        for name, value in named.items():
            law = dist.Normal(torch.zeros_like(value), self.prior_scale).to_event(value.ndim)
            found[name] = pyro.sample(_site(name), law)
        return found

    def log_prior(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """log p(weights), of the present ones where none are given, in nats; 0 without a prior."""
        if self.prior_scale is None:
            return next(self.network.parameters()).new_zeros(())
        given: Any = self.network.parameters() if weights is None else weights.values()
        laws = ((dist.Normal(torch.zeros_like(p), self.prior_scale), p) for p in given)
        return torch.stack([law.log_prob(p).sum() for law, p in laws]).sum()

    def predict_log_proba(self, x: Any) -> Tensor:
        """log p(y | x) at the present weights, (N, C), in nats; columns as in `classes_`. Differentiable."""
        tensor = checked_items(self, x)
        with evaluation_mode(self):
            return self.network(tensor.to(dtype_and_device(self)[1])).log_softmax(-1)


def numbered(names: np.ndarray, y: Any, count: int, *, name: str = "y") -> Tensor:
    """`count` labels as their places in `names`; ValueError for one that is not there."""
    labels = checks.labels(y, count, name=name)
    known = {value: number for number, value in enumerate(names.tolist())}
    strange = sorted({repr(value) for value in labels.tolist() if value not in known})
    if strange:
        raise ValueError(
            f"{name} has labels that are no class here: {', '.join(strange[:5])}; classes: "
            f"{', '.join(map(repr, names.tolist()[:20]))}"
        )
    return torch.tensor([known[value] for value in labels.tolist()])


def nameable(names: np.ndarray, what: str) -> np.ndarray:
    """Names of classes as a saved classifier can have them; TypeError for what is no number and no string."""
    if names.dtype.kind == "T":
        names = names.astype(str)
    if names.dtype.kind not in "biufU":
        raise TypeError(f"{what} must be numbers or strings, got {names.dtype}: .astype(str) makes names of them")
    return names


def _site(name: str) -> str:
    """A parameter's name as a site's: "layers.0.weight" is "weight_0"."""
    _, layer, kind = name.split(".")
    return f"{kind}_{int(layer) // 2}"


def _sorted(densities: Any) -> tuple[np.ndarray, list[nn.Module]]:
    if not isinstance(densities, Mapping):
        raise TypeError(f"densities must be a mapping {{label: density}}, got {type(densities).__name__}")
    if len(densities) < 2:
        raise ValueError(f"densities must hold at least 2 classes, got {list(densities)}")
    keys = list(densities)
    kinds = {np.asarray(key).dtype.kind for key in keys}
    if len(kinds) > 1:
        raise TypeError(f"the labels in densities must be of one kind, got {keys}")
    names = nameable(np.unique(np.array(keys)), "the labels in densities")
    return names, [densities[name] for name in names.tolist()]


def _require_density(name: Any, part: Any, evidence: Any) -> None:
    known = hasattr(part, "log_prob")
    if not known and getattr(part, "is_normalized", None) is False:
        raise ValueError(f"the {type(part).__name__} of class {name!r} has no p(x): pyrovae.as_density makes it one")
    estimated = isinstance(part, Pair)
    whole = hasattr(part, "event_shape") and hasattr(part, "sample")
    if not isinstance(part, nn.Module) or not whole or not (known or estimated):
        raise TypeError(
            f"the density of class {name!r} must be a module with log_prob, sample and event_shape, got "
            f"{type(part).__name__}"
        )
    if not known and evidence is None:
        raise ValueError(
            f"log p(x) of the {type(part).__name__} of class {name!r} is an integral: say how to estimate it, "
            "evidence=pyrovae.iwae or a partial of it"
        )


def _names(classes: Any, count: int) -> np.ndarray:
    if classes is None:
        return np.arange(count)
    names = nameable(np.unique(np.asarray(classes)), "classes")
    if len(names) != count:
        raise ValueError(f"classes must be {count} different names, got {list(classes)}")
    return names
