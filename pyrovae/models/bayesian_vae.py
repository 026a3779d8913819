"""A VAE whose decoder has a distribution over its weights: a prior, and a normal guide of independent entries."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.items import plate_size
from pyrovae.models.laws import as_pyro
from pyrovae.models.pair import covariates_for, dtype_and_device, is_made_of_parts
from pyrovae.models.param_sites import HasParamSites, register_param_sites
from pyrovae.models.scopes import copied
from pyrovae.models.vae import VAE
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["BayesianVAE"]


class BayesianVAE(HasParamSites):
    """A VAE with a prior on the weights of its decoder, weight ~ N(0, prior_scale^2) each, and a mean-field guide.

    p(W) prod_n p(z_n) p(x_n | z_n, W) with W the parameters of `vae.likelihood.network`, outside of the plate of the
    items: their KL term counts once for all items, and a batch of B of N items scales the rest by N / B. The guide is
    N(loc, scale^2) for each entry of W, from the weights of `vae` as locations and `initial_scale`, and the encoder for
    the codes. The scale of the likelihood, the prior of the codes and the encoder stay parameters. `vae` is copied.

    `fit(pair, x)` fits all of it by SVI, with one draw of W a step and no validation. `draw(seed)` gives a VAE at one
    draw of W, which every estimator takes; the estimators refuse the pair itself by name, since its items share W.
    Items of a VAE given covariates, or with an exposure, come with these, as for `vae` itself.

    Raises TypeError for what is no VAE of a network's likelihood, ValueError for scales that are not positive.

    (Blundell et al. 2015, section 3, for the weights; Kingma and Welling 2014, appendix F, for both.)

    >>> from pyrovae import BayesianVAE, linear_vae
    >>> pair = BayesianVAE(linear_vae(3, 1), prior_scale=2.0)
    >>> pair.draw(seed=0).sample(4, seed=0).shape
    torch.Size([4, 3])
    """

    is_normalized = True
    has_global_latents = True

    def __init__(self, vae: VAE, *, prior_scale: float = 1.0, initial_scale: float = 0.05) -> None:
        super().__init__()
        network = getattr(getattr(vae, "likelihood", None), "network", None)
        by_parts = isinstance(vae, VAE) and is_made_of_parts(vae, "model") and is_made_of_parts(vae, "guide")
        if not (by_parts and isinstance(network, nn.Module) and any(True for _ in network.parameters())):
            raise TypeError(
                "vae must be a VAE whose likelihood is a Likelihood(network, family, event_shape) with weights, got "
                f"{type(vae).__name__}"
            )
        self.prior_scale = checks.positive("prior_scale", prior_scale)
        start = math.log(checks.positive("initial_scale", initial_scale))
        self.vae = copied(vae)
        self.log_scales = nn.ParameterList([torch.full_like(loc, start) for loc in self._locations().values()])
        self.event_shape, self.latent_dim = tuple(vae.event_shape), vae.latent_dim

    @property
    def viewed(self) -> VAE:
        """The VAE whose likelihood scores the items, by which they are checked."""
        return self.vae

    @property
    def covariate_dim(self) -> int:
        """The number of covariates of each item, 0 where the VAE is not given any."""
        return self.vae.covariate_dim

    @property
    def takes_exposure(self) -> bool:
        """Whether the likelihood takes an exposure of each item."""
        return self.vae.takes_exposure

    def _summary_of_parts(self) -> Rows:
        return {"latent_dim": lambda: self.latent_dim, "prior_scale": lambda: self.prior_scale}

    def _locations(self) -> dict[str, Tensor]:
        return dict(self.vae.likelihood.network.named_parameters())

    def guide_of_weights(self) -> dict[str, Any]:
        """The guide's distribution of each parameter of the decoder's network, by name."""
        named = zip(self._locations().items(), self.log_scales, strict=True)
        return {name: dist.Normal(loc, scale.exp()).to_event(loc.ndim) for (name, loc), scale in named}

    def prior_of_weights(self) -> dict[str, Any]:
        """The prior of each parameter of the decoder's network, by name."""
        checks.scale_in("prior_scale", self.prior_scale, dtype_and_device(self)[0])
        wide = {name: torch.zeros_like(loc) for name, loc in self._locations().items()}
        return {name: dist.Normal(zero, self.prior_scale).to_event(zero.ndim) for name, zero in wide.items()}

    def model(
        self,
        x: Tensor | None = None,
        *,
        size: int = 1,
        total: int | None = None,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Tensor:
        """p(W, z, x): observed where `x` is given, else `size` items; `total`: of how many items these are a batch.

        With `covariates`, (N, covariate_dim), it is p(W, z, x | c); `exposure`, (N,), multiplies the means.
        """
        total = None if total is None else checks.whole("total", total)
        register_param_sites(self._site_prefix, self)
        weights = {name: pyro.sample(f"weight.{name}", p) for name, p in self.prior_of_weights().items()}
        vae, count = self.vae, self._count(x, size, covariates)
        device = dtype_and_device(self)[1]
        with pyro.plate("data", total or count, subsample=torch.arange(count, device=device)):
            z = pyro.sample("latent", as_pyro(vae._prior_given(covariates)))
            at = {f"network.{name}": weight for name, weight in weights.items()}
            given = covariates_for(vae.likelihood, covariates)
            given |= {} if exposure is None else {"exposure": exposure}
            p_of_x = torch.func.functional_call(vae.likelihood, at, (z,), given)
            return pyro.sample("obs", as_pyro(p_of_x), obs=x)

    def guide(
        self,
        x: Tensor | None = None,
        *,
        size: int = 1,
        total: int | None = None,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> None:
        """q(W) q(z | x), or q(W) q(z | x, c); without `x` the codes are from the prior."""
        register_param_sites(self._site_prefix, self)
        for name, q in self.guide_of_weights().items():
            pyro.sample(f"weight.{name}", q)
        vae, count = self.vae, self._count(x, size, covariates)
        device = dtype_and_device(self)[1]
        with pyro.plate("data", total or count, subsample=torch.arange(count, device=device)):
            q = vae._prior_given(covariates) if x is None else vae._posterior_given(x, covariates)
            pyro.sample("latent", as_pyro(q))

    def _count(self, x: Tensor | None, size: int, covariates: Tensor | None) -> int:
        size = len(covariates) if x is None and size == 1 and covariates is not None else size
        return plate_size(x, size, self.event_shape)

    @torch.no_grad()
    def draw(self, seed: int = 0) -> VAE:
        """A VAE whose decoder has one draw of the guide's weights; the rest is that of the pair."""
        vae = copied(self.vae)
        with forked(stream(checks.seed(seed), "weights"), dtype_and_device(self)[1]):
            values = {name: q.sample() for name, q in self.guide_of_weights().items()}
        for name, parameter in vae.likelihood.network.named_parameters():
            parameter.copy_(values[name])
        return vae

    def log_likelihood(
        self,
        x: Any,
        *,
        evidence: Any,
        num_draws: int = 20,
        seed: int = 0,
        covariates: Any = None,
        exposure: Any = None,
    ) -> Tensor:
        """log p(x_n | W_s) at draws of the weights, codes integrated out: (num_draws, N), in nats, float64.

        By `evidence(vae, x)`, an estimator of log p(x) such as `pyrovae.iwae`. `pyrovae.to_arviz` gives ArviZ the array
        and the draws of the weights. The covariates and the exposure of items, or a split that carries them, go to
        `evidence` as they come.
        """
        checks.whole("num_draws", num_draws)
        draws = [self.draw(stream(checks.seed(seed), "draw", number)) for number in range(num_draws)]
        both = {"covariates": covariates, "exposure": exposure}
        beside = {name: value for name, value in both.items() if value is not None}
        rows = [torch.from_numpy(evidence(vae, x, **beside).pointwise["value"].to_numpy().copy()) for vae in draws]
        return torch.stack(rows).double()
