"""The contracts of a model/guide pair: what it must have, and what it may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.columns import Column

__all__ = [
    "Density",
    "LatentPair",
    "Pair",
    "as_module",
    "base_measure_of",
    "columns_of",
    "covariate_dim_of",
    "covariates_for",
    "dtype_and_device",
    "entries_of",
    "has_global_latents",
    "is_frozen",
    "is_made_of_parts",
    "likelihood_of",
    "members_of",
    "require_code_alone",
    "stand_ins",
    "support_of",
    "takes_beside",
    "takes_exposure",
    "takes_labels",
]


@runtime_checkable
class Pair(Protocol):
    """A Pyro model and its guide, in one `torch.nn.Module`: all that `fit` and the estimators rely on.

    The model draws N items in `pyro.plate("data", N)`, and its site "obs" is observed where `x` is given. The guide
    draws the model's other sites in the same plate. Estimators that integrate over one code per item (`ais`, `bdmc`,
    `quadrature`, `gaps`, `calibrate`) need it at the site "latent".

    Attributes:
        event_shape: the shape of one item.
        latent_dim: the size of one code; 0 where the model has none.
        is_normalized: False where the model has no p(x), as an autoencoder's; estimators of log p(x) refuse it then.

    What a pair may have beside these is asked for by the functions of this module, each with its answer for a pair
    that has none: `has_global_latents`, `takes_labels`, `covariate_dim_of`, `takes_exposure`, `likelihood_of`,
    `support_of`, `entries_of`, `base_measure_of`, `members_of`. A pair of items given covariates states
    `covariate_dim`, their number, and its model and guide take `covariates=`, (N, covariate_dim); one with
    `takes_exposure` True takes `exposure=`, (N,).

    >>> import pyrovae
    >>> isinstance(pyrovae.mlp_vae((3,)), pyrovae.Pair)
    True
    """

    event_shape: tuple[int, ...]
    latent_dim: int
    is_normalized: bool

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Any:
        """p(x, z): items observed where `x` of shape (N, *event_shape) is given, else `size` items drawn."""

    def guide(self, x: Tensor | None = None, *, size: int = 1) -> Any:
        """q(z | x)."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters with their names, as of any `torch.nn.Module`."""
        ...


@runtime_checkable
class LatentPair(Pair, Protocol):
    """A pair that is made of three parts, each a module that gives a distribution when it is called.

    `encode`, `decode`, `impute` and the matrix products of `quadrature` go by the parts; whatever a part's distribution
    may lack, as a mean, has an answer from draws (`pyrovae.models.means`).

    Attributes:
        prior: `prior()` is p(z) over one code; has `latent_dim`.
        likelihood: `likelihood(z)` is p(x | z) over one item for each code; has `event_shape`, and a `support` where
            items are to be checked against it.
        posterior: `posterior(x)` is q(z | x) over one code for each item.
    """

    prior: Any
    likelihood: Any
    posterior: Any


@runtime_checkable
class Density(Protocol):
    """A density of items in closed form, as of a mixture: what a class of a `GenerativeClassifier` needs.

    It may have more: `log_prob(x, missing=True)` where NaN is an entry that was not seen, and
    `with_standard_error(x)`, which gives log p(x) and its Monte Carlo standard errors, (N,) each.

    Attributes:
        event_shape: the shape of one item.
    """

    event_shape: tuple[int, ...]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of items of shape (N, *event_shape): (N,), in nats."""
        ...

    def sample(self, n: int) -> Tensor:
        """`n` items drawn from p(x), shape (n, *event_shape), by torch's global generator."""
        ...


def as_module(pair: Any) -> nn.Module:
    """The pair as the `torch.nn.Module` that it must be; TypeError says what it lacks."""
    if not isinstance(pair, nn.Module) or not isinstance(pair, Pair):
        needed = ("model", "guide", "event_shape", "latent_dim", "is_normalized")
        lacking = ["" if isinstance(pair, nn.Module) else "is no torch.nn.Module"]
        absent = [name for name in needed if not hasattr(pair, name)]
        lacking.append(f"has no {', '.join(absent)}" if absent and len(absent) < len(needed) else "")
        reasons = " and ".join(filter(None, lacking))
        raise TypeError(
            "pair must be a torch.nn.Module with model, guide, event_shape, latent_dim and is_normalized, such as a "
            f"VAE; got {type(pair).__name__}{f', which {reasons}' if reasons else ''}"
        )
    return pair


def has_global_latents(pair: Any) -> bool:
    """Whether the model has latent sites that all items share, as the weights of a classifier; False by default."""
    return bool(getattr(pair, "has_global_latents", False))


def takes_labels(pair: Any) -> bool:
    """Whether `fit` needs a label for each item, as for a classifier; False by default.

    Such a pair has `num_classes`, `names` and `names_are_given`, which `rename(names)` sets, `numbers(y, count)` and
    `predict_log_proba(x)`, as `pyrovae.models.classifiers.Classifier` has.
    """
    return bool(getattr(pair, "takes_labels", False))


def covariate_dim_of(pair: Any) -> int:
    """The number of covariates of each item, by the pair's, or the part's, `covariate_dim`; 0 by default."""
    return int(getattr(pair, "covariate_dim", 0))


def takes_exposure(pair: Any) -> bool:
    """Whether model and guide take an exposure of each item; False by default."""
    return bool(getattr(pair, "takes_exposure", False))


def takes_beside(pair: Any) -> dict[str, bool]:
    """Whether model and guide take covariates and an exposure, by the name of the argument."""
    return {"covariates": bool(covariate_dim_of(pair)), "exposure": takes_exposure(pair)}


def members_of(pair: Any) -> tuple[list[Any], Tensor] | None:
    """The pairs whose densities p(x) is a weighted sum of, and the logarithms of the weights, (K,); None by default.

    Such a pair has `members` and `log_weights`, as an `Ensemble`. Where its guide chooses among the members by the
    item, it has `guide_log_weights(x)` too, (N, K).
    """
    members, log_weights = (getattr(pair, name, None) for name in ("members", "log_weights"))
    if not isinstance(members, list) or not isinstance(log_weights, Tensor):
        return None
    return members, log_weights


def stand_ins(pair: Any, count: int) -> dict[str, Tensor]:
    """Zeros in place of the covariates of `count` items, for a trial call of a pair that needs some; else nothing."""
    if not covariate_dim_of(pair):
        return {}
    dtype, device = dtype_and_device(pair)
    return {"covariates": torch.zeros(count, covariate_dim_of(pair), dtype=dtype, device=device)}


def is_made_of_parts(pair: Any, name: Literal["model", "guide"]) -> bool:
    """Whether `model` or `guide` is the package's own, composed of the parts, and not overridden; by default not."""
    made_of_parts = getattr(pair, "is_made_of_parts", None)
    return made_of_parts is not None and bool(made_of_parts(name))


def likelihood_of(pair: Any) -> Any:
    """The likelihood that scores the items: the pair's own, or that of the pair it is a view of; None by default.

    A view, as `Given` is, states the pair as its `viewed`. It has no likelihood to call with a code alone.

    >>> import pyrovae
    >>> from pyrovae.models.pair import likelihood_of
    >>> pair = pyrovae.BayesianVAE(pyrovae.mlp_vae((3,), likelihood="poisson"))
    >>> type(likelihood_of(pair).family).__name__
    'Poisson'
    """
    likelihood, viewed = getattr(pair, "likelihood", None), getattr(pair, "viewed", None)
    return likelihood_of(viewed) if likelihood is None and viewed is not None else likelihood


def support_of(pair: Any) -> constraints.Constraint | None:
    """The support of one entry of an item, by the likelihood or the pair; None where neither says."""
    support = getattr(likelihood_of(pair), "support", None) or getattr(pair, "support", None)
    return support if isinstance(support, constraints.Constraint) else None


def entries_of(pair: Any) -> Any:
    """The family of the pair's own likelihood, which makes a distribution of one entry; else that itself, or None."""
    likelihood = getattr(pair, "likelihood", None)
    return getattr(likelihood, "family", likelihood)


def base_measure_of(pair: Any) -> Literal["mass", "density", "mixed"] | None:
    """The base measure of p(x), by likelihood or pair: "mass" where it is a probability; None where nothing is said."""
    measure: Literal["mass", "density", "mixed"] | None
    measure = getattr(likelihood_of(pair), "base_measure", None) or getattr(pair, "base_measure", None)
    return measure


def columns_of(pair: Any) -> tuple[Column, ...] | None:
    """The columns of the table whose rows the items are, by the pair's likelihood or the pair; None by default."""
    likelihood = likelihood_of(pair)
    stated = pair if likelihood is None else getattr(likelihood, "family", likelihood)
    columns: Any = getattr(stated, "columns", None)
    if not isinstance(columns, tuple) or not all(isinstance(each, Column) for each in columns):
        return None  # what a part of one's own may call so
    return columns


def is_frozen(pair: Any) -> bool:
    """Whether the pair is a copy that `pair.frozen()` has made, of which nothing may be trained."""
    return "_frozen" in getattr(pair, "__dict__", {})


def dtype_and_device(pair: Any) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device of the pair's first parameter; of its first floating-point buffer where it has none."""
    checks.having("pair", pair, "named_parameters", what="a model/guide pair, as mlp_vae builds one")
    first = next(iter(pair.named_parameters()), None)
    if first is not None:
        return first[1].dtype, first[1].device
    name = vars(pair).get("_frozen")  # of the buffer that was the first parameter
    buffers = dict(pair.named_buffers())
    among = [buffers[name]] if name in buffers else [each for each in buffers.values() if each.is_floating_point()]
    if not among:
        raise ValueError(f"{type(pair).__name__} has no parameters, and no floating-point buffer that tells its dtype")
    return among[0].dtype, among[0].device


def covariates_for(part: Any, covariates: Any) -> dict[str, Any]:
    """The keywords of a call of a part of a pair given covariates: these, where the part itself takes any."""
    return {"covariates": covariates} if covariate_dim_of(part) else {}


def require_code_alone(pair: Any, what: str) -> None:
    """Refuse a pair that has a label beside its code, for `what` moves along codes, decodes them or integrates them."""
    if not hasattr(pair, "of_class"):
        return
    label = pair.names.tolist()[0]
    raise ValueError(
        f"{what} is for a pair with a code alone, and a {type(pair).__name__} has a label beside its code: give the "
        f"VAE of one class, pair.of_class(label), as pair.of_class({label!r}), and items of that class"
    )
