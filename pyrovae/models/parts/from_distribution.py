"""A likelihood made of any univariate distribution of torch or Pyro, whose parameters a network gives."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import operator
from typing import Any

import numpy as np
import pyro.distributions
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, transform_to

from pyrovae import checks
from pyrovae.models.laws import as_pyro
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.parts.gamma import StableGamma
from pyrovae.models.parts.negative_binomial import StableNegativeBinomial
from pyrovae.models.parts.student_t import StableStudentT
from pyrovae.models.registry import register, restate

__all__ = ["FromDistribution", "OpenInterval", "is_distribution"]

HOMES = (torch.distributions, pyro.distributions)  # where a name is looked up, the first that has it
LOGIT_BOUND = 15.0  # a probability stays 3e-7 from 0 and from 1, which float32 tells from them
TRIALS = (-1.0, 0.0, 1.0)  # outputs of a network at which supports and densities are looked at
INSTEAD = {
    "ContinuousBernoulli": "torch's loses its figures for large logits: take likelihood='continuous_bernoulli'",
    "NanMaskedNormal": "it takes NaN for an entry that was not seen, and these are items' own: take Normal",
    "Uniform": "its support depends on its parameters",
    "VonMises": "its density is one on a circle, and does not integrate to one over the line that it states",
}
STABLE: dict[Any, Any] = {
    torch.distributions.Gamma: StableGamma,
    torch.distributions.NegativeBinomial: StableNegativeBinomial,
    torch.distributions.StudentT: StableStudentT,
}


@register("from_distribution", kind="likelihood")
class FromDistribution(nn.Module):
    """Entries of a distribution of torch or Pyro, by its class or name; the network gives what is not fixed by name.

    `FromDistribution(torch.distributions.Gumbel)` has two parameters an entry, `loc` and `scale`, and
    `FromDistribution("StudentT", df=4.0, scale=0.5)` one. A real parameter is the network's output as it is; a positive
    one is exp(10 tanh(raw / 10)), between 4.5e-5 and 22,000, so items are to be scaled to numbers of that size; one in
    an interval is what `torch.distributions.transform_to` makes of 10 tanh(raw / 10). Of probabilities and logits it is
    the logits, within (-15, 15).

    Builders make one of a class, `likelihood=torch.distributions.Gumbel`, of a `functools.partial` of a class, and of
    an object. An object stands for what is fixed: `torch.distributions.StudentT(df=4.0, loc=0.0, scale=0.5)` has df and
    scale fixed, and the network gives the location. So its loc must be 0 and its parameters numbers.

    Raises ValueError for a distribution over vectors, one whose support depends on what the network gives, as that of a
    Uniform, one without a parameter for the network, and one whose density cannot be relied on; the reason is named.

    >>> import torch
    >>> from pyrovae import FromDistribution, mlp_vae
    >>> family = FromDistribution(torch.distributions.Gumbel, scale=2.0)
    >>> family.num_parameters, family(torch.zeros(1)).log_prob(torch.zeros(1))
    (1, tensor([-1.6931]))
    >>> mlp_vae((3,), likelihood=torch.distributions.Weibull).likelihood.family
    FromDistribution(distribution='Weibull')
    """

    def __init__(self, distribution: Any = "Normal", **fixed: Any) -> None:
        super().__init__()
        made, fixed = _class_and_fixed(distribution, fixed)
        self._name = _name_of(made)
        self._class = STABLE.get(made, made)
        self._constraints = _parameters(made, fixed)
        self._fixed = {name: _checked(made, name, value) for name, value in fixed.items()}
        self._free = tuple(name for name in self._constraints if name not in fixed)
        if not self._free:
            raise ValueError(f"{made.__name__}: all of its parameters are fixed, and the network has none to give")
        self._require_univariate()
        self._support = self._checked_support()
        if self._name is not None:  # in plain values, by which a saved state is built again
            restate(self, distribution=self._name, **fixed)

    def __deepcopy__(self, memo: dict[int, Any]) -> FromDistribution:
        # torch's constraints are told by what they are, not by what they hold: a copy has the same ones
        memo.update((id(each), each) for each in (*self._constraints.values(), self._support))
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made

    @property
    def support(self) -> constraints.Constraint:
        """The support of one entry; open at an end where the density need not be finite."""
        return self._support

    @property
    def num_parameters(self) -> int:
        """How many parameters of an entry the network gives."""
        return len(self._free)

    def forward(self, *raw: Tensor) -> Any:
        given = {name: _in(self._constraints[name], name, value) for name, value in zip(self._free, raw, strict=True)}
        if "scale" in self._fixed:
            checks.scale_in(f"scale of {self._class.__name__}", self._fixed["scale"], raw[0].dtype)
        return as_pyro(self._class(**given, **self._fixed))

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        name = self._class.__name__ if self._name is None else self._name
        return ", ".join([f"distribution={name!r}", *(f"{key}={value!r}" for key, value in self._fixed.items())])

    def _trial(self, raw: float) -> Any:
        with torch.no_grad():
            return self(*[torch.full((), raw, dtype=torch.float64, device="cpu")] * len(self._free))

    def _require_univariate(self) -> None:
        try:
            p = self._trial(0.0)
        except Exception as error:  # whatever its constructor raises
            raise ValueError(
                f"{self._class.__name__} cannot be made of one number for each parameter: {error}"
            ) from error
        if p.event_shape or p.batch_shape:
            raise ValueError(
                f"{self._class.__name__} is a distribution over vectors, and a likelihood's entries are independent: "
                "take one over numbers"
            )

    def _checked_support(self) -> constraints.Constraint:
        """The support, which must be the same whatever the network gives."""
        name = self._class.__name__
        trials = [self._trial(raw) for raw in TRIALS]
        try:
            supports = [p.support for p in trials]
        except NotImplementedError:
            raise ValueError(
                f"{name} states no support, by which items are checked: register a family that does"
            ) from None
        ends = [_ends(support) for support in supports]
        if any(end != ends[0] for end in ends):
            free = ", ".join(self._free)
            raise ValueError(
                f"{name} has a support that depends on what the network gives ({free}): fix the parameters that set "
                f"it, as FromDistribution({name!r}, name=value), or take another distribution"
            )
        support: constraints.Constraint = supports[0]
        if support.is_discrete:
            return support
        low, high = ends[0]
        if all(end is None or _is_finite_at(end, support, trials) for end in (low, high)):
            return support
        return constraints.greater_than(low) if high is None and low is not None else OpenInterval(low, high)


class OpenInterval(constraints.Constraint):
    """Numbers between two ends, neither of which is inside; None for an end that there is none of.

    >>> import torch
    >>> from pyrovae.models.parts.from_distribution import OpenInterval
    >>> OpenInterval(0.0, 1.0).check(torch.tensor([0.0, 0.5]))
    tensor([False,  True])
    """

    def __init__(self, lower_bound: float | None, upper_bound: float | None) -> None:
        self.lower_bound, self.upper_bound = lower_bound, upper_bound
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        inside = torch.ones_like(value, dtype=torch.bool)
        if self.lower_bound is not None:
            inside = inside & (value > self.lower_bound)
        return inside if self.upper_bound is None else inside & (value < self.upper_bound)

    def __repr__(self) -> str:
        return f"OpenInterval({self.lower_bound}, {self.upper_bound})"


def is_distribution(given: Any) -> bool:
    """Whether a distribution's class, an object of one, or a `functools.partial` of a class is given."""
    if isinstance(given, functools.partial):
        given = given.func
    return isinstance(given, Distribution) or (isinstance(given, type) and issubclass(given, Distribution))


def _class_and_fixed(given: Any, fixed: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of a distribution, and the values of what is fixed of it by name."""
    if isinstance(given, functools.partial) and is_distribution(given):
        by_place = dict(zip(inspect.signature(given.func).parameters, given.args, strict=False))
        return _class_and_fixed(given.func, {**by_place, **given.keywords, **fixed})
    if isinstance(given, Distribution):
        return _of_object(given, fixed)
    if isinstance(given, type) and issubclass(given, Distribution):
        return _own(given), fixed
    if isinstance(given, str):
        for home in HOMES:
            made = getattr(home, given, None) if given in home.__all__ else None
            if isinstance(made, type) and issubclass(made, Distribution):
                return made, fixed
        names = [name for home in HOMES for name in home.__all__]
        close = difflib.get_close_matches(given, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"distribution must name a class of torch.distributions or Pyro, got {given!r}{hint}")
    raise TypeError(
        f"distribution must be a class of torch.distributions or Pyro, its name, or an object of one, got {given!r}; a "
        "function of your own is a family: register a module (docs/parts.md)"
    )


def _own(kind: type) -> Any:
    """torch's class where Pyro has another of that name, which is the same distribution."""
    torchs: Any = getattr(torch.distributions, kind.__name__, None)
    is_same = isinstance(torchs, type) and getattr(pyro.distributions, kind.__name__, None) is kind
    return torchs if is_same and issubclass(kind, torchs) else kind


def _of_object(p: Distribution, fixed: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of an object and its values, but for the location, which the network gives."""
    made = _own(type(p))
    name = made.__name__
    if isinstance(p, torch.distributions.Independent):
        raise ValueError("the likelihood adds .to_event itself: give the distribution of one entry")
    stated = _parameters(made, fixed)
    if "loc" not in stated:
        raise ValueError(
            f"an object of {name} has no loc for the network to give: give the class and what is fixed by name, as "
            f"FromDistribution(torch.distributions.{name}), of which the network gives {', '.join(stated)}"
        )
    values = {}
    for parameter in stated:
        value: Any = getattr(p, parameter)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(
                f"{parameter} of the {name} must be one number for all entries, got shape {tuple(value.shape)}: one "
                "for each entry is learned by a family of this package, as 'laplace(per_entry=True)'"
            )
        values[parameter] = _short(value)
    if values.pop("loc") != 0:
        raise ValueError(
            f"loc of the {name} must be 0, since the network gives the location, got {_short(p.loc)}"  # type: ignore[attr-defined]
        )
    return made, {**values, **fixed}


def _parameters(made: Any, fixed: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a distribution's class with their constraints, in the order of its constructor."""
    name = made.__name__
    if name in INSTEAD and made in (getattr(home, name, None) for home in HOMES):
        raise ValueError(f"{name} makes no likelihood: {INSTEAD[name]}")
    stated = inspect.getattr_static(made, "arg_constraints", None)
    if not isinstance(stated, dict) or not stated:
        raise ValueError(
            f"{name} states no parameters with constraints of their own that a network could give: register a family"
        )
    taken = inspect.signature(made.__init__).parameters
    ordered = {parameter: stated[parameter] for parameter in taken if parameter in stated}
    if {"logits", "probs"} <= ordered.keys():  # two ways to say the same
        del ordered["logits" if "probs" in fixed else "probs"]
    if unknown := [parameter for parameter in fixed if parameter not in taken or parameter == "validate_args"]:
        raise ValueError(f"{name} has no parameter {unknown[0]!r}: it has {', '.join(ordered)}")
    for parameter, described in taken.items():
        is_known = parameter in (*stated, *fixed, "self", "validate_args")
        by_name = described.kind not in (described.VAR_KEYWORD, described.VAR_POSITIONAL)
        if described.default is described.empty and by_name and not is_known:
            raise ValueError(
                f"{name} does not say what {parameter} may be: fix it, as FromDistribution({name!r}, {parameter}=value)"
            )
    for parameter, constraint in ordered.items():
        if parameter in fixed:
            continue
        if constraints.is_dependent(constraint):
            raise ValueError(f"{name}: what {parameter} may be depends on other parameters; fix it by name")
        if constraint.event_dim:
            other = "; for classes take likelihood='categorical'" if name.endswith("Categorical") else ""
            raise ValueError(f"{name}: {parameter} is no number, as each parameter of an entry must be{other}")
        if constraint.is_discrete:
            raise ValueError(
                f"{name}: {parameter} is a whole number, which no network gives: fix it, as "
                f"FromDistribution({name!r}, {parameter}=value)"
            )
        try:
            transform_to(constraint)
        except NotImplementedError:
            raise ValueError(f"{name}: no transform leads to {parameter}, {constraint}: fix it by name") from None
    return ordered


def _checked(made: Any, name: str, value: Any) -> float | int:
    """A value that is fixed, as a number that meets its constraint."""
    label = f"{made.__name__}: {name}"
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim and tuple(value.shape) != (1,):
            raise TypeError(f"{label} must be a number, got shape {tuple(value.shape)}")
        value = _short(torch.as_tensor(value))
    try:
        number: float | int = operator.index(value)
    except TypeError:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{label} must be a number, got {value!r}") from None
    constraint: Any = getattr(made, "arg_constraints", {}).get(name)
    as_tensor = torch.tensor(number, dtype=torch.float64)
    is_free = constraint is None or constraints.is_dependent(constraint)
    if not as_tensor.isfinite() or not (is_free or bool(constraint.check(as_tensor).all())):
        raise ValueError(f"{label} must be a number{'' if is_free else f' in {constraint}'}, got {value!r}")
    return number


def _short(value: Tensor) -> float:
    """The number of a tensor in as few digits as its dtype tells apart: 0.3 of a float32 that is nearest to it."""
    if value.dtype == torch.float64 or not value.dtype.is_floating_point:
        return float(value.item())
    return float(str(np.float32(value.item())))


def _name_of(made: Any) -> str | None:
    """The name by which the class is found again; None for a class of the user's own."""
    for home in HOMES:
        if made.__name__ in home.__all__ and getattr(home, made.__name__) is made:
            return str(made.__name__)
    return None


def _in(constraint: Any, name: str, raw: Tensor) -> Tensor:
    """A network's output as a parameter that meets its constraint, away from the ends where densities overflow."""
    if isinstance(constraint, type(constraints.real)):
        return LOGIT_BOUND * torch.tanh(raw / LOGIT_BOUND) if name == "logits" else raw
    value: Tensor = transform_to(constraint)(bounded_scale(raw).log())
    return value


def _is_finite_at(end: float, support: constraints.Constraint, trials: list[Any]) -> bool:
    """Whether distributions of this support have finite densities at its end, or the end is outside of it anyway."""
    at = torch.tensor(end, dtype=torch.float64)
    return not bool(support.check(at)) or all(bool(p.log_prob(at).isfinite()) for p in trials)


def _ends(support: Any) -> tuple[float | None, float | None]:
    """The ends of a support, each None where it has none."""
    if support is constraints.boolean:
        return 0.0, 1.0

    def end(name: str) -> float | None:
        value = getattr(support, name, None)
        return None if value is None else float(value)

    return end("lower_bound"), end("upper_bound")
