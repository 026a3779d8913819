"""The parts of a linear pair, x = W z + mu + e: read as a linear-Gaussian model, and set to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.inference.weighed import Weighed
from pyrovae.models.linear_gaussian import LinearGaussian
from pyrovae.models.pair import is_made_of_parts
from pyrovae.models.parts.diagonal_normal import LOG_SCALE_BOUND
from pyrovae.models.parts.encoder_inputs import SeenInput
from pyrovae.models.parts.likelihood import Likelihood
from pyrovae.models.parts.linear_normal import LinearNormal
from pyrovae.models.parts.normal import Normal
from pyrovae.models.parts.scaled import FLOOR
from pyrovae.models.parts.standard_normal import StandardNormal
from pyrovae.models.parts.standardizer import InUnits, Standardized, Standardizer, standardizer_of

__all__ = ["Columns", "LinearParts", "linear_parts"]


@dataclass(frozen=True)
class Columns:
    """The location and scale by which columns are standardised, and the least scale of each, standardised."""

    loc: Tensor
    scale: Tensor
    least_scale: Tensor

    def standardized(self, x: Tensor) -> Tensor:
        """Items (N, D) in standard deviations from the columns' locations."""
        return (x - self.loc) / self.scale

    def log_volume(self, items: Weighed) -> float:
        """What log p of the seen entries gains by their units, in nats per item."""
        return -items.mean((~items.x.isnan()).double() @ self.scale.log())

    def in_units(self, model: LinearGaussian) -> LinearGaussian:
        """The model of items in their units, of that of standardised ones."""
        weight, offset = model.weight * self.scale[:, None], self.loc + self.scale * model.offset
        return LinearGaussian(weight, offset, model.variance * self.scale.square())

    def of_standardized(self, model: LinearGaussian) -> LinearGaussian:
        """The model of standardised items, of that of items in their units."""
        weight, offset = model.weight / self.scale[:, None], (model.offset - self.loc) / self.scale
        return LinearGaussian(weight, offset, model.variance / self.scale.square())


@dataclass(frozen=True)
class LinearParts:
    """The modules of a pair whose p(x | z) is N(W z + mu, diag s^2), whose prior is N(0, I), and its linear guide."""

    decoder: nn.Linear
    family: Normal
    posterior: LinearNormal
    standardizer: Standardizer | None
    sees_missing: bool  # whether the guide sees a mask beside the items

    @property
    def latent_dim(self) -> int:
        """The size of the code."""
        return self.decoder.in_features

    @property
    def fixed(self) -> bool:
        """Whether the scale is not learned."""
        return not self.family.learned

    @property
    def per_entry(self) -> bool:
        """Whether each column has a scale of its own, as in factor analysis."""
        log_scale = None if self.fixed else self.family.log_scale
        return log_scale is not None and log_scale.ndim > 0

    @torch.no_grad()
    def model(self, device: torch.device) -> LinearGaussian:
        """The present model of items in their units, in float64."""
        weight, offset = (p.to(device, torch.float64) for p in (self.decoder.weight, self.decoder.bias))
        scale = self.family.scale.to(device, torch.float64).expand(len(offset))
        if self.standardizer is not None:
            loc, unit = (each.to(device) for each in (self.standardizer.loc, self.standardizer.scale))
            weight, offset = weight * unit[:, None], loc + unit * offset
        return LinearGaussian(weight, offset, scale.square())

    def columns(self, x: Tensor) -> Columns:
        """The columns' location and scale, in the dtype and on the device of the items (N, D); measured by then."""
        zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        least = one * self.family.floor
        if self.standardizer is not None:
            zero, one = (each.to(x) for each in (self.standardizer.loc, self.standardizer.scale))
        if self.fixed:
            least = self.family.scale.to(x) / one
        elif self.standardizer is not None and self.family.floor != FLOOR:
            least = self.family.floor / one
        return Columns(zero, one, least)

    @torch.no_grad()
    def take(self, columns: Columns, model: LinearGaussian) -> None:
        """Set decoder, scale and guide to a model of standardised items, whose code is independent given an item."""
        weight, offset = model.weight, model.offset
        self.decoder.weight.copy_(weight)
        self.decoder.bias.copy_(offset)
        log_scale = None if self.fixed else self.family.log_scale
        if log_scale is not None:
            # in the units of log_scale: those of standardised columns where there are such
            free = (model.variance.sqrt() - columns.least_scale).clamp(min=torch.finfo(log_scale.dtype).tiny)
            log_scale.copy_((free if log_scale.ndim else free[0]).log())
        per_variance = weight / model.variance[:, None]
        precision = 1 + (weight * per_variance).sum(0)  # of a code given an item, which is diagonal
        gain = (per_variance / precision).mT
        at_offset = gain * offset
        if self.sees_missing:  # a missing entry counts as one at the offset, which says nothing
            self.posterior.loc.weight.copy_(torch.cat([gain, -at_offset], 1))
            self.posterior.loc.bias.zero_()
        else:
            self.posterior.loc.weight.copy_(gain)
            self.posterior.loc.bias.copy_(-at_offset.sum(1))
        bounded = (-0.5 * precision.log() / LOG_SCALE_BOUND).clamp(min=-0.999)
        self.posterior.raw_log_scale.copy_(LOG_SCALE_BOUND * bounded.atanh())


def linear_parts(pair: Any) -> LinearParts | None:
    """The parts of a linear pair, as `linear_vae` builds; None for any other."""
    own = all(is_made_of_parts(pair, name) for name in ("model", "guide"))
    prior, likelihood, posterior = (getattr(pair, name, None) for name in ("prior", "likelihood", "posterior"))
    if not own or type(prior) is not StandardNormal or type(posterior) is not LinearNormal:
        return None
    if type(likelihood) is not Likelihood or likelihood.covariate_dim or len(likelihood.event_shape) != 1:
        return None
    family: Any = likelihood.family
    network: Any = likelihood.network
    if type(family) is not Normal or family.link != "identity":
        return None
    standardizer = standardizer_of(family)
    if standardizer is not None:
        # a floor of one's own is in the items' units: with one scale for all there is no closed form of it
        if family.learned and family.floor != FLOOR and (family.log_scale is None or not family.log_scale.ndim):
            return None
        is_plain = isinstance(network, nn.Sequential) and len(network) == 2 and type(network[1]) is InUnits
        network = network[0] if is_plain else None
    if type(network) is not nn.Linear or network.bias is None:
        return None
    layer, sees_missing = posterior.network, False
    if type(layer) is SeenInput:
        layer, sees_missing = layer.layer, True
    is_plain = layer is None if standardizer is None else type(layer) is Standardized
    return LinearParts(network, family, posterior, standardizer, sees_missing) if is_plain else None
