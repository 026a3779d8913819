"""What a model/guide pair must have, and what it may have."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import constraints

if TYPE_CHECKING:
    from pyrovae.models.fingerprint import _plain as _plain
    from pyrovae.models.fingerprint import settings as settings
    from pyrovae.models.items import checked_items as checked_items
    from pyrovae.models.items import plate_size as plate_size
    from pyrovae.models.layers import LAYERS_ALIVE as LAYERS_ALIVE
    from pyrovae.models.layers import Seen as Seen
    from pyrovae.models.layers import _Sampling as _Sampling
    from pyrovae.models.layers import layer_sizes as layer_sizes
    from pyrovae.models.layers import least_bytes as least_bytes
    from pyrovae.models.layers import rows_within as rows_within
    from pyrovae.models.layers import seen as seen
    from pyrovae.models.listing import Listed as Listed
    from pyrovae.models.listing import _serial as _serial
    from pyrovae.models.listing import list_parameters as list_parameters
    from pyrovae.models.listing import unique_name as unique_name
    from pyrovae.models.particles import ENUMERATED as ENUMERATED
    from pyrovae.models.particles import Drawn as Drawn
    from pyrovae.models.particles import Particles as Particles
    from pyrovae.models.particles import _at as _at
    from pyrovae.models.particles import _log_guide as _log_guide
    from pyrovae.models.particles import _refuse_scaled as _refuse_scaled
    from pyrovae.models.particles import _replicated as _replicated
    from pyrovae.models.particles import _total as _total
    from pyrovae.models.particles import drawn as drawn
    from pyrovae.models.particles import is_point as is_point
    from pyrovae.models.particles import latent_law as latent_law
    from pyrovae.models.particles import particles as particles
    from pyrovae.models.particles import require_continuous as require_continuous
    from pyrovae.models.particles import scored as scored
    from pyrovae.models.particles import simulated as simulated
    from pyrovae.models.particles import tabulated as tabulated
    from pyrovae.models.particles import traces as traces
    from pyrovae.models.particles import weighed as weighed
    from pyrovae.models.precision import _doubled as _doubled
    from pyrovae.models.precision import _doubled_output as _doubled_output
    from pyrovae.models.precision import _InFloat64 as _InFloat64
    from pyrovae.models.precision import doubled as doubled
    from pyrovae.models.precision import widened as widened
    from pyrovae.models.scopes import evaluating as evaluating
    from pyrovae.models.scopes import isolated_store as isolated_store
    from pyrovae.models.scopes import kept_modes as kept_modes
    from pyrovae.models.scopes import validation as validation

__all__ = [
    "Density",
    "LatentPair",
    "Pair",
    "as_module",
    "base_measure_of",
    "dtype_and_device",
    "entries_of",
    "has_global_latents",
    "support_of",
]


@runtime_checkable
class Pair(Protocol):
    """A Pyro model and its guide, in one `torch.nn.Module`: all that `fit` and the estimators rely on.

    The model draws N items in `pyro.plate("data", N)`, and its site "obs" is observed where `x` is given. The guide
    draws the model's other sites in the same plate. Estimators that integrate over one code an item (`ais`, `bdmc`,
    `quadrature`, `gaps`, `calibrate`) need it at the site "latent".

    Attributes:
        event_shape: the shape of one item.
        latent_dim: the size of one code; 0 where the model has none.
        is_normalized: False where the model has no p(x), as an autoencoder's; estimators of log p(x) refuse it then.

    What a pair may have beside these is asked for by the functions of this module, each with its answer for a pair
    that has none: `has_global_latents`, `support_of`, `entries_of`, `base_measure_of`.

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
        """What is fitted, as of any module."""
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
    """A density of items that is known, as a mixture's: what a class of a `GenerativeClassifier` needs.

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
    """The pair as the module that it must be, to be moved, trained and saved; TypeError that says what it lacks."""
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
    """Whether the model has unobserved sites that all items share, as the weights of a classifier; by default not."""
    return bool(getattr(pair, "has_global_latents", False))


def support_of(pair: Any) -> constraints.Constraint | None:
    """Where one entry of an item may lie, by the pair's likelihood; None where it does not say."""
    support: constraints.Constraint | None = getattr(getattr(pair, "likelihood", None), "support", None)
    return support


def entries_of(pair: Any) -> Any:
    """What makes a distribution of one entry, `likelihood.family`; the likelihood itself, or None, without one."""
    likelihood = getattr(pair, "likelihood", None)
    return getattr(likelihood, "family", likelihood)


def base_measure_of(pair: Any) -> Literal["mass", "density"]:
    """Whether log p(x) is the logarithm of a probability, or, as where none is told, of a density."""
    measure: Literal["mass", "density"] = getattr(getattr(pair, "likelihood", None), "base_measure", "density")
    return measure


def dtype_and_device(pair: Any) -> tuple[torch.dtype, torch.device]:
    """Those of the pair's first parameter."""
    first = next(iter(pair.named_parameters()), None)
    if first is None:
        raise ValueError(f"{type(pair).__name__} has no parameters")
    return first[1].dtype, first[1].device


_MOVED = {
    "evaluating": "scopes",
    "isolated_store": "scopes",
    "kept_modes": "scopes",
    "validation": "scopes",
    "ENUMERATED": "particles",
    "Particles": "particles",
    "particles": "particles",
    "traces": "particles",
    "tabulated": "particles",
    "scored": "particles",
    "Drawn": "particles",
    "drawn": "particles",
    "weighed": "particles",
    "latent_law": "particles",
    "simulated": "particles",
    "require_continuous": "particles",
    "_at": "particles",
    "_replicated": "particles",
    "is_point": "particles",
    "_log_guide": "particles",
    "_total": "particles",
    "_refuse_scaled": "particles",
    "widened": "precision",
    "doubled": "precision",
    "_InFloat64": "precision",
    "_doubled_output": "precision",
    "_doubled": "precision",
    "LAYERS_ALIVE": "layers",
    "layer_sizes": "layers",
    "rows_within": "layers",
    "least_bytes": "layers",
    "_Sampling": "layers",
    "Seen": "layers",
    "seen": "layers",
    "_serial": "listing",
    "Listed": "listing",
    "list_parameters": "listing",
    "unique_name": "listing",
    "plate_size": "items",
    "checked_items": "items",
    "settings": "fingerprint",
    "_plain": "fingerprint",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pyrovae.models.{_MOVED[name]}"), name)
