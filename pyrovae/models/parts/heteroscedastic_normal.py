"""The likelihood of real entries whose scale is a function of the code, as their mean is."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.parts.scaled import FLOOR, linked, with_floor
from pyrovae.models.parts.standardizer import Standardizable
from pyrovae.models.registry import register

__all__ = ["HeteroscedasticNormal"]


@register("heteroscedastic_normal", kind="likelihood")
class HeteroscedasticNormal(Standardizable):
    """Real values whose scale varies with the code as their mean does: x ~ N(loc(z), (floor + softplus(raw(z)))^2).

    The network has two outputs an entry, `loc` and `raw`. Without a floor the likelihood has no bound: a decoder that
    fits one entry exactly would send its scale to 0 (Mattei and Frellsen 2018, section 2). `floor` is in the items'
    units, so that for columns of unlike units a builder takes `standardize=True`: both terms are then in standard
    deviations of the column, but for a floor that is not the default. `link` "sigmoid" keeps the mean in [0, 1].

    >>> import torch
    >>> from pyrovae import HeteroscedasticNormal
    >>> p = HeteroscedasticNormal(floor=0.5)(torch.zeros(2), torch.tensor([0.0, -1e3]))
    >>> p.mean, p.stddev
    (tensor([0., 0.]), tensor([1.1931, 0.5000]))
    """

    support = constraints.real
    base_measure = "density"
    num_parameters = 2
    image_arguments: ClassVar[dict[str, Any]] = {"link": "sigmoid"}

    def __init__(self, floor: float = FLOOR, *, link: Literal["identity", "sigmoid"] = "identity") -> None:
        super().__init__()
        self.floor = checks.positive("floor", floor)
        self.link = checks.choice("link", link, ("identity", "sigmoid"))

    def forward(self, loc: Tensor, raw_scale: Tensor) -> TorchDistribution:
        return dist.Normal(linked(loc, self.link), with_floor(nn.functional.softplus(raw_scale), self.floor, self.unit))

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"floor={self.floor!r}, link={self.link!r}"
