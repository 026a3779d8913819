"""The deterministic autoencoder: its code is a point, and it has no p(x)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.networks import ConvDecoder
from pyrovae.models.parts.covariates import GivenCovariates
from pyrovae.models.parts.likelihood import Likelihood, num_parameters_of
from pyrovae.models.parts.normal import Normal
from pyrovae.models.parts.point_mass import PointMass
from pyrovae.models.registry import register
from pyrovae.models.vae import LatentVariableModel, conv_trunk, family, mlp_decoder, mlp_trunk
from pyrovae.summary import Rows

__all__ = ["AE", "conv_ae", "mlp_ae"]

SEED_SCALE = (
    0.626  # 1,000 x the mean squared error of 784 pixels is this Normal's negative log-density, less a constant
)


class AE(LatentVariableModel):
    """An autoencoder as a Pyro pair: the guide is a point and the prior masked, so that the loss is -log p(x | z).

    With `Normal(scale=s)` that is SSE / (2 s^2) plus a constant: the squared error, stated as the likelihood it is. It
    puts no density on its codes, so `is_normalized` is False: it has no p(x), and nothing to sample from.

    Args: `likelihood`, as a `VAE`'s; `encoder`, a module from x to a distribution on one point (`PointMass`). Raises
    TypeError and ValueError for parts that do not fit each other.

    >>> import torch
    >>> from pyrovae import mlp_ae
    >>> ae = mlp_ae((1, 8, 8))
    >>> ae.reconstruct(torch.zeros(3, 1, 8, 8)).shape, ae.is_normalized
    (torch.Size([3, 1, 8, 8]), False)
    """

    is_normalized = False

    def __init__(self, likelihood: nn.Module, encoder: nn.Module) -> None:
        size = getattr(getattr(encoder, "loc", None), "out_features", getattr(encoder, "latent_dim", None))
        if size is None:
            raise TypeError(
                "encoder must give a distribution on one point, as PointMass(network, features, latent_dim) makes one "
                f"of a network, and have its latent_dim; got {type(encoder).__name__}"
            )
        super().__init__(_NoPrior(size), likelihood, encoder)

    def _summary_of_parts(self) -> Rows:
        rows = super()._summary_of_parts()
        return {name: rows[name] for name in ("latent_dim", "likelihood")}  # its code is a point, without a prior


class _NoPrior(nn.Module):
    """A stand-in for the prior that an autoencoder does not have: codes are drawn from it, and it is never scored."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1).mask(False)


@register("mlp_ae", kind="builder")
def mlp_ae(
    event_shape: Sequence[int],
    latent_dim: int = 2,
    *,
    hidden_dims: Sequence[int] = (400,),
    activation: str = "softplus",
    likelihood: str | nn.Module | None = None,
    covariate_dim: int = 0,
) -> AE:
    """An autoencoder with the networks of `mlp_vae`; from one state of torch's generator both get the same weights.

    `likelihood` as in `mlp_vae`; None is `Normal(scale=0.626)`, the post's squared error.

    >>> import torch
    >>> from pyrovae import mlp_ae
    >>> mlp_ae((13,), latent_dim=2).encode(torch.zeros(4, 13)).shape
    torch.Size([4, 2])
    """
    latent_dim = checks.whole("latent_dim", latent_dim)
    entries = Normal(scale=SEED_SCALE) if likelihood is None else family(likelihood)
    covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
    shape, widths, decoder = mlp_decoder(event_shape, latent_dim + covariate_dim, hidden_dims, activation, entries)
    trunk, features = mlp_trunk(shape, widths, activation, entries, covariate_dim)
    return AE(
        Likelihood(decoder, entries, shape, covariate_dim), _point(trunk, features, latent_dim, shape, covariate_dim)
    )


@register("conv_ae", kind="builder")
def conv_ae(
    event_shape: Sequence[int],
    latent_dim: int = 2,
    *,
    channels: Sequence[int] = (32, 64, 64, 64),
    strides: Sequence[int] = (1, 2, 2, 1),
    likelihood: str | nn.Module | None = None,
    covariate_dim: int = 0,
) -> AE:
    """An autoencoder with the networks of `conv_vae`: the model of the post (Foster 2019, chapter 3).

    `likelihood` as in `conv_vae`; None is `Normal(scale=0.626, link="sigmoid")`, the post's squared error.

    >>> import torch
    >>> from pyrovae import conv_ae
    >>> conv_ae((1, 28, 28)).decode(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 28, 28])
    """
    latent_dim = checks.whole("latent_dim", latent_dim)
    entries = Normal(scale=SEED_SCALE, link="sigmoid") if likelihood is None else family(likelihood, of_images=True)
    covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
    encoder, trunk, features = conv_trunk(event_shape, channels, strides, entries, covariate_dim)
    decoder, shape = ConvDecoder(encoder, latent_dim + covariate_dim, num_parameters_of(entries)), encoder.event_shape
    return AE(
        Likelihood(decoder, entries, shape, covariate_dim), _point(trunk, features, latent_dim, shape, covariate_dim)
    )


def _point(
    trunk: nn.Module, features: int, latent_dim: int, event_shape: tuple[int, ...], covariate_dim: int
) -> nn.Module:
    """The encoder on one point, given covariates where there are any."""
    point = PointMass(trunk, features, latent_dim)
    return GivenCovariates(point, event_shape, covariate_dim, latent_dim) if covariate_dim else point
