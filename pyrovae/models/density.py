"""An autoencoder turned into a density: a prior on its codes, a stated likelihood, and a guide at each code."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.autoencoder import AE
from pyrovae.models.means import mean_of
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import entries_of
from pyrovae.models.parts.likelihood import Likelihood
from pyrovae.models.parts.normal import Normal
from pyrovae.models.registry import plain_name_of, remade
from pyrovae.models.scopes import copied
from pyrovae.models.vae import VAE
from pyrovae.warned import hushed

__all__ = ["GaussianPrior", "as_density"]


class GaussianPrior(nn.Module):
    """A prior N(loc, C) over a code, fixed; `GaussianPrior.fit(codes)` takes mean and covariance from codes.

    `loc` of shape (latent_dim,), `covariance` of shape (latent_dim, latent_dim). Raises ValueError for other shapes and
    a covariance that is not positive definite.

    >>> import torch
    >>> from pyrovae import GaussianPrior
    >>> GaussianPrior(torch.zeros(2), torch.eye(2))().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(self, loc: Tensor, covariance: Tensor) -> None:
        super().__init__()
        loc, covariance = (_numbers(name, value) for name, value in (("loc", loc), ("covariance", covariance)))
        if loc.ndim != 1 or covariance.shape != (len(loc), len(loc)):
            raise ValueError(
                f"covariance must have shape (D, D) for loc of shape (D,), got {tuple(covariance.shape)} and "
                f"{tuple(loc.shape)}"
            )
        self.latent_dim = checks.whole("latent_dim", len(loc))
        if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max())):
            raise ValueError("covariance must be symmetric")
        factor, failed = torch.linalg.cholesky_ex(covariance.double())
        if failed or not factor.isfinite().all():
            raise ValueError("covariance must be positive definite: a code that does not vary has no density")
        self.register_buffer("loc", loc)
        self.register_buffer("scale_tril", factor.to(loc))

    @classmethod
    def fit(cls, codes: Any) -> GaussianPrior:
        """Fit the prior to `codes`, shape (N, latent_dim), by maximum likelihood: their mean and 1/N covariance."""
        codes = _numbers("codes", codes)
        if codes.ndim != 2 or len(codes) <= codes.shape[1]:
            raise ValueError(
                f"codes must have shape (N, latent_dim) with more codes than dimensions, got {tuple(codes.shape)}"
            )
        wide = codes.double()
        centred = wide - wide.mean(0)
        return cls(wide.mean(0).to(codes.dtype), (centred.T @ centred / len(wide)).to(codes.dtype))

    def forward(self) -> TorchDistribution:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)


class _MixturePrior(nn.Module):
    """A Gaussian mixture as the prior of a code."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture, self.latent_dim = mixture, math.prod(mixture.event_shape)

    def forward(self) -> TorchDistribution:
        return _MixtureLaw(self.mixture)


class _MixtureLaw(TorchDistribution):
    """p(z) of a Gaussian mixture over flat codes."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, mixture: GaussianMixture, batch_shape: Any = ()) -> None:
        self.mixture = mixture
        super().__init__(torch.Size(batch_shape), (mixture.components.features,), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _MixtureLaw:
        return _MixtureLaw(self.mixture, batch_shape)

    @property
    def variance(self) -> Tensor:
        w, loc = self.mixture.weights[:, None], self.mixture.components.loc
        factor = self.mixture.components.scale_tril
        within = factor.square().sum(-1).to(loc)  # of each component, or of all
        mean = (w * loc).sum(0)
        return ((w * (within + (loc - mean).square())).sum(0)).expand(*self.batch_shape, -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            k = dist.Categorical(self.mixture.weights).sample(shape[:-1])
            return self.mixture.components.draw(k)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.reshape(-1, value.shape[-1])
        log_density = self.mixture.log_joint_table(flat).logsumexp(-1).to(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return log_density.reshape(value.shape[:-1]).expand(shape)


def _numbers(name: str, value: Any) -> Tensor:
    """A copy in floating point, apart from any graph; NaN and infinite values are refused."""
    tensor = checks.array(value, name).detach().clone()
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite: {int((~tensor.isfinite()).sum())} NaN or infinite values")
    return tensor


def as_density(ae: AE, prior: nn.Module, *, scale: float | None = None) -> VAE:
    """Turn an autoencoder into a density: p(z) is the `prior` on its codes, and p(x | z) its stated likelihood.

    Its log p(x) is what the autoencoder is worth as a generative model, by `quadrature` or `ais`, at this likelihood
    and this prior and no other. The guide is a Normal at the item's code, with the scale that the likelihood's
    curvature and the prior leave there: 1 / sd_j^2 = sum (d mean / d z_j)^2 / variance + the prior's precision, which
    is the diagonal of C^-1 for N(loc, C) and 1 / variance for any other. A copy: training the autoencoder further
    changes nothing, and for another prior or likelihood `as_density` is called again. The guide's scale costs a pass
    through the decoder for each dimension of the code.

    `prior`: a module with `latent_dim` and `prior() -> distribution` over one code, which has a variance, such as
    `GaussianPrior.fit(codes)`, or a `GaussianMixture((latent_dim,), K)` fitted to the codes; `scale`: of a Normal
    likelihood, None for the one the autoencoder has. Raises ValueError for a prior of another shape, a prior or
    likelihood without a variance, and a `scale` where the likelihood is not Normal; TypeError for what is no AE.

    >>> import pyrovae
    >>> ae, x = pyrovae.mlp_ae((1, 8, 8)), pyrovae.data.load("digits").train.x[:100]
    >>> density = pyrovae.as_density(ae, pyrovae.GaussianPrior.fit(ae.encode(x)), scale=0.3)
    >>> density.is_normalized, density.sample(3, seed=0).shape
    (True, torch.Size([3, 1, 8, 8]))
    """
    if not isinstance(ae, AE):
        raise TypeError(f"ae must be an AE, such as mlp_ae or conv_ae build, got {type(ae).__name__}")
    size: Any = getattr(prior, "latent_dim", None)
    if isinstance(prior, GaussianMixture) and len(prior.event_shape) == 1:
        size = prior.event_shape[0]
    if not isinstance(prior, nn.Module) or size != ae.latent_dim:
        raise ValueError(
            f"prior must be a module over codes of {ae.latent_dim} dimensions, such as GaussianPrior.fit(codes), got "
            f"{type(prior).__name__} of {'no' if size is None else size} dimensions"
        )
    ae, prior = copied(ae).eval(), copied(prior).eval()
    if isinstance(prior, GaussianMixture):
        prior = _MixturePrior(prior)
    p = prior()
    if tuple(p.event_shape) != (ae.latent_dim,) or tuple(p.batch_shape):
        raise ValueError(
            f"prior() must be a distribution over one code, event shape ({ae.latent_dim},) and no batch shape, got "
            f"{tuple(p.event_shape)} and {tuple(p.batch_shape)}; .to_event(1) may be missing"
        )
    try:
        known = bool(_precision(p).isfinite().all())
    except NotImplementedError:
        known = False
    if not known:
        raise ValueError(f"prior() must have a variance, for the guide's scale; {type(p).__name__} has none")
    likelihood: Any = ae.likelihood
    if scale is not None:
        family = likelihood.family
        if type(family) is not Normal:
            raise ValueError(f"scale is of a normal likelihood, and this one is {plain_name_of(family)}: leave it out")
        stated = remade(family, scale=checks.positive("scale", scale), per_entry=False)
        likelihood = Likelihood(likelihood.network, stated, likelihood.event_shape)
    first = next(iter(ae.parameters()))
    with torch.no_grad():
        p_of_x = likelihood(first.new_zeros(1, ae.latent_dim))
    try:
        _ = p_of_x.mean, p_of_x.variance
    except NotImplementedError:
        raise ValueError(
            "likelihood must have a mean and a variance, for the guide's scale; that of "
            f"{type(entries_of(ae)).__name__} has no closed form"
        ) from None
    return VAE(prior.to(first), likelihood.to(first.device), _CurvatureNormal(ae.posterior, prior, likelihood))


class _CurvatureNormal(nn.Module):
    """q(z | x): a Normal at the autoencoder's code, with the scale of the posterior's curvature there."""

    def __init__(self, encoder: nn.Module, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        # in a list: they are the pair's own, and not this module's a second time
        self._parts: list[Any] = [prior, likelihood]

    def forward(self, x: Tensor) -> TorchDistribution:
        prior, likelihood = self._parts
        z = mean_of(self.encoder(x))
        p = likelihood(z)
        variance = p.variance.clamp(min=torch.finfo(z.dtype).tiny)
        precision = []
        for j in range(z.shape[-1]):
            along = torch.zeros_like(z)
            along[..., j] = 1.0
            with hushed(FutureWarning):  # torch's own, of the TorchScript that its first use compiles
                slope = torch.func.jvp(lambda code: likelihood(code).mean, (z,), (along,))[1]
            precision.append((slope.square() / variance).flatten(z.ndim - 1).sum(-1))
        return dist.Normal(z, (torch.stack(precision, -1) + _precision(prior())).rsqrt()).to_event(1)


def _precision(prior: Any) -> Tensor:
    """The precision of each coordinate given the others for a normal prior, 1 / variance for any other."""
    if isinstance(prior, torch.distributions.MultivariateNormal):
        return prior.precision_matrix.diagonal()
    return 1 / prior.variance
