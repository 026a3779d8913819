"""Conversion of torch's own distributions to Pyro's, which a site of a model or guide needs; what they state."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import constraints

__all__ = ["as_pyro", "stated_support"]


def as_pyro(law: Any) -> Any:
    """Give a distribution of torch what Pyro's have: `to_event`, `mask`, a call that draws.

    Parameters are shared and gradients flow. Anything else is given back as it is.

    >>> import torch
    >>> from pyrovae.models.laws import as_pyro
    >>> plain = torch.distributions.Normal(torch.zeros(2), 1.0)
    >>> as_pyro(plain).to_event(1).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """
    is_torchs: bool = isinstance(law, torch.distributions.Distribution)
    if not is_torchs or isinstance(law, TorchDistributionMixin):
        return law
    converted: Any = copy.copy(law)
    kind: Any = type(law)
    converted.__class__ = _pyro_class(kind)
    if isinstance(law, torch.distributions.Independent):
        converted.base_dist = as_pyro(law.base_dist)
    return converted


@cache
def _pyro_class(kind: Any) -> Any:
    """Pyro's class of that name where it is a subclass whose constructor adds nothing, else a new one."""
    known = getattr(dist, kind.__name__, None)
    if isinstance(known, type) and issubclass(known, kind) and issubclass(known, TorchDistributionMixin):
        # that of Poisson and of Uniform sets attributes which an object of torch's class lacks
        adds = "__init__" in vars(known) and not issubclass(known, torch.distributions.TransformedDistribution)
        if not adds:
            return known
    return type(kind.__name__, (kind, TorchDistributionMixin), {})


def stated_support(law: Any) -> constraints.Constraint | None:
    """Where a distribution has a density; None where it does not say, as one of the user's may not."""
    try:
        support: constraints.Constraint | None = law.support
    except (NotImplementedError, AttributeError, AssertionError):  # the last of torch's Independent, of None
        return None
    return support
