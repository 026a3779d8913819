"""A Gaussian mixture with priors on its parameters, and a full-rank normal guide over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineTransform, biject_to
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.components import COVARIANCES
from pyrovae.models.items import checked_items, plate_size
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.param_sites import HasParamSites, register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.registry import note, register
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["BayesianGaussianMixture"]

MOST = 3e38  # of the numbers of a prior, which are float32
CHUNK_BYTES = 64 * 2**20
INITIAL_SCALE = 0.05  # of the guide, on the unconstrained parameters


@register("BayesianGaussianMixture", kind="builder")
class BayesianGaussianMixture(HasParamSites):
    """A Gaussian mixture whose weights, locations and scales have priors; a Pyro pair over parameters and items.

    weights ~ Dirichlet(concentration, ..., concentration); in plate "components" loc_kd ~ N(prior_loc, prior_scale^2)
    and scale_kd ~ LogNormal(log scale_median, scale_spread^2), and where the covariance is "full" or "tied" a
    correlation ~ LKJ(correlation_concentration); in plate "data" component ~ weights, summed out, and
    obs ~ N(loc_k, C_k). A lognormal scale keeps components off single items. The defaults are for standardised items:
    give the prior's figures in the units of yours.

    The guide is one normal of full rank over all parameters mapped to the real line, each label's permutation a mode of
    its own of which it finds one. `pyrovae.fit(mixture, x, method="svi")` fits it, from a fit of the plain mixture by
    EM; `method="nuts"` draws by Pyro's NUTS, several chains from there. `draws(n)` are then draws of the parameters
    given the items. Those of NUTS are in the order of one pivot: each draw's components are permuted to agree best, in
    responsibilities, with those of the likeliest draw (Papastamoulis and Iliopoulos 2010). No density depends on it.

    `covariance`, `event_shape`, `num_components` as for `GaussianMixture`. Raises ValueError for sizes below 1, unknown
    names and prior figures that are not positive.

    (Gelman et al. 2013, chapter 22.)

    >>> from pyrovae import BayesianGaussianMixture
    >>> mixture = BayesianGaussianMixture((2,), 3, covariance="diagonal")
    >>> {name: tuple(value.shape) for name, value in mixture.draws(5, seed=0).items()}
    {'weights': (1, 5, 3), 'loc': (1, 5, 3, 2), 'scale': (1, 5, 3, 2)}
    """

    is_normalized = True
    has_global_latents = True
    started: Tensor
    latent_dim = 0  # its latents are parameters and a number of a component, and no code

    def __init__(
        self,
        event_shape: Sequence[int],
        num_components: int,
        *,
        covariance: str = "full",
        concentration: float = 1.0,
        prior_loc: float = 0.0,
        prior_scale: float = 3.0,
        scale_median: float = 0.5,
        scale_spread: float = 0.7,
        correlation_concentration: float = 2.0,
        sampled_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = checks.sizes("event_shape", event_shape)
        self.num_components = checks.whole("num_components", num_components)
        self.features = math.prod(self.event_shape)
        self.covariance = checks.choice("covariance", covariance, COVARIANCES)
        self.prior_loc = checks.number("prior_loc", prior_loc, most=MOST)
        self.concentration = checks.positive("concentration", concentration, most=MOST)
        self.prior_scale = checks.positive("prior_scale", prior_scale, most=MOST)
        self.scale_median = checks.positive("scale_median", scale_median, most=MOST)
        self.scale_spread = checks.positive("scale_spread", scale_spread, most=MOST)
        self.correlation_concentration = checks.positive(
            "correlation_concentration", correlation_concentration, most=MOST
        )
        numbers = self.num_components * self.features  # of the locations alone; the guide has a square of all numbers
        dense = self.features**2 * (self.num_components if covariance == "full" else 1)
        checks.affordable(
            f"num_components={self.num_components:,} over an event_shape of {self.features:,} numbers with covariance="
            f"{covariance!r}",
            4 * (numbers**2 + (dense if covariance in ("full", "tied") else 0)),
            "take fewer components, or a GaussianMixture",
        )
        size = sum(_size(law) for law in self.priors(torch.zeros((), device="cpu")).values())
        with exclusive():
            self.guide_loc = nn.Parameter(0.1 * torch.randn(size))
        self.guide_log_scale = nn.Parameter(torch.full((size,), math.log(INITIAL_SCALE)))
        self.guide_lower = nn.Parameter(torch.zeros(size, size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))  # by a fit: the next one goes on from there
        self.sampled_shape: tuple[int, ...] | None = None  # chains and draws of MCMC, where there are
        if sampled_shape is not None:  # room for the draws of a saved state
            shape = checks.sizes("sampled_shape", sampled_shape)
            laws = self.priors(torch.zeros((), device="cpu"))
            self.keep({name: torch.zeros(*shape, *law.batch_shape, *law.event_shape) for name, law in laws.items()})

    @property
    def bytes_per_draw(self) -> int:
        """The least memory that one draw of all parameters takes."""
        return self.guide_loc.numel() * self.guide_loc.element_size()

    @property
    def sampled(self) -> dict[str, Tensor] | None:
        """The draws of the parameters that NUTS has left, (chain, draw, ...); None where there are none."""
        if self.sampled_shape is None:
            return None
        return {name: getattr(self, f"sampled_{name}") for name in self.priors()}

    def keep(self, draws: dict[str, Tensor] | None) -> None:
        """Keep these draws of the parameters, or none; they are part of the state, saved and moved with it."""
        for name in self.priors(torch.zeros((), device="cpu")):
            self._buffers.pop(f"sampled_{name}", None)
        self.sampled_shape = None if draws is None else tuple(draws["loc"].shape[:2])
        for name, value in (draws or {}).items():
            self.register_buffer(f"sampled_{name}", value)
        note(self, sampled_shape=self.sampled_shape)

    def _summary_of_parts(self) -> Rows:
        return {
            "num_components": lambda: self.num_components,
            "covariance": lambda: self.covariance,
            "draws": lambda: None if self.sampled_shape is None else "{} chains of {}".format(*self.sampled_shape),
        }

    # the pair ---------------------------------------------------------------------------------------

    def priors(self, like: Tensor | None = None) -> dict[str, Any]:
        """The prior of each parameter: "weights", "loc", "scale" and, where components have one, "correlation".

        Of batch shape (K,) for those in plate "components". In the dtype and on the device of `like`.
        """
        like = self.guide_loc if like is None else like
        k, d = self.num_components, self.features
        median = like.new_full((), math.log(self.scale_median))
        batch, event = {"full": ([k], 1), "tied": ([], 1), "diagonal": ([k], 1), "spherical": ([k], 0)}[self.covariance]
        priors: dict[str, Any] = {
            "weights": dist.Dirichlet(like.new_full((k,), self.concentration)),
            "loc": dist.Normal(like.new_full((k, d), self.prior_loc), self.prior_scale).to_event(1),
            "scale": dist.LogNormal(median, self.scale_spread).expand([*batch, *[d] * event]).to_event(event),
        }
        if self.covariance in ("full", "tied") and d > 1:
            correlation = dist.LKJCholesky(d, like.new_full((), self.correlation_concentration))
            priors["correlation"] = correlation.expand(batch)
        return priors

    def model(self, x: Tensor | None = None, *, size: int = 1, total: int | None = None) -> Tensor:
        """p(parameters) prod_n p(component_n, x_n): observed where `x` is given, else `size` items from the prior.

        `total`: of how many items these are a batch: their log-likelihood is scaled to it.
        """
        register_param_sites(self._site_prefix, self)
        values, plate = {}, pyro.plate("components", self.num_components)
        self._require_scales()
        for name, law in self.priors().items():
            with plate if law.batch_shape else nullcontext():
                values[name] = pyro.sample(name, law)
        factor = self.factor(values)
        count = plate_size(x, size, self.event_shape)
        with pyro.plate("data", total or count, subsample=torch.arange(count, device=factor.device)):
            k = pyro.sample("component", dist.Categorical(values["weights"]), infer=ENUMERATED)
            law = dist.MultivariateNormal(values["loc"][k], scale_tril=factor[k if len(factor) > 1 else 0 * k])
            flat = pyro.sample("obs", law, obs=None if x is None else x.flatten(1))
        return flat.unflatten(-1, self.event_shape)

    def guide(self, x: Tensor | None = None, *, size: int = 1, total: int | None = None) -> None:
        """Draw all parameters from the full-rank normal distribution of their unconstrained values."""
        register_param_sites(self._site_prefix, self)
        z = pyro.sample("unconstrained", self._law(), infer={"is_auxiliary": True})
        laws, plate = self.priors(), pyro.plate("components", self.num_components)
        for name, (value, log_density) in self._constrained(z).items():
            with plate if laws[name].batch_shape else nullcontext():
                pyro.sample(name, dist.Delta(value, log_density, event_dim=laws[name].event_dim))

    def _require_scales(self) -> None:
        """Refuse scales of the priors whose densities the dtype has no numbers for."""
        for name in ("prior_scale", "scale_spread"):
            checks.scale_in(name, getattr(self, name), self.guide_loc.dtype)

    def _law(self) -> Any:
        scale = self.guide_log_scale.exp()
        factor = (self.guide_lower.tril(-1) + torch.eye(len(scale)).to(scale)) * scale[:, None]
        return dist.MultivariateNormal(self.guide_loc, scale_tril=factor)

    def _transform(self, name: str, law: Any) -> Any:
        """The map from the reals to the support of a parameter; a location is in units of its prior."""
        return AffineTransform(self.prior_loc, self.prior_scale) if name == "loc" else biject_to(law.support)

    def _constrained(self, z: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Each parameter at unconstrained points, (..., P), and the log |det| of the Jacobian of that map.

        The latter is of the batch shape of the prior.
        """
        parameters, start = {}, 0
        for name, law in self.priors(z).items():
            size, transform = _size(law), self._transform(name, law)
            shape = biject_to(law.support).inverse_shape(law.batch_shape + law.event_shape)
            part = z[..., start : start + size].reshape(*z.shape[:-1], *shape)
            value = transform(part)
            jacobian = transform.log_abs_det_jacobian(part, value)
            value_ndim = z.ndim - 1 + len(law.batch_shape)
            parameters[name] = (
                value,
                -(jacobian.flatten(value_ndim).sum(-1) if jacobian.ndim > value_ndim else jacobian),
            )
            start += size
        return parameters

    # draws of the parameters ------------------------------------------------------------------------

    def unconstrained(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The unconstrained values of these parameters, site by site."""
        return {name: self._transform(name, law).inv(values[name]) for name, law in self.priors().items()}

    def constrained(self, points: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters at unconstrained points, with any leading shape."""
        return {name: self._transform(name, law)(points[name]) for name, law in self.priors().items()}

    @torch.no_grad()
    def start_at(self, values: dict[str, Tensor]) -> None:
        """Set the guide's location to these parameters, and its scale to the initial one."""
        self.guide_loc.copy_(torch.cat([z.flatten() for z in self.unconstrained(values).values()]))
        self.guide_log_scale.fill_(math.log(INITIAL_SCALE))
        self.guide_lower.zero_()
        self.started.fill_(True)

    @torch.no_grad()
    def draws(self, n: int = 1000, *, seed: int = 0) -> dict[str, Tensor]:
        """Draws of the parameters, (chain, draw, ...): all those that NUTS has left, or `n` draws of the guide."""
        if self.sampled is not None:
            return dict(self.sampled)
        checks.whole("n", n, bytes_each=self.bytes_per_draw)
        with forked(stream(checks.seed(seed), "parameters"), dtype_and_device(self)[1]):
            rows = self._law().sample((n,))
        return {name: value[None] for name, (value, _) in self._constrained(rows).items()}

    @torch.no_grad()
    def log_likelihood(self, x: Any, draws: dict[str, Tensor] | None = None) -> Tensor:
        """log p(x_n | parameters), (chain, draw, N), in nats; at `draws()` where none are given."""
        return self.tables(x, self.draws() if draws is None else draws, shares=False)[0]

    @torch.no_grad()
    def tables(self, x: Any, draws: dict[str, Tensor], *, shares: bool = True) -> tuple[Tensor, Tensor]:
        """log p(x_n | parameters), (chain, draw, N), and p(component | x_n, parameters), (chain, draw, N, K).

        The second is empty without `shares`.
        """
        items = checked_items(self, x).flatten(1).to(self.guide_loc.device).double()
        wide = {name: value.flatten(0, 1).double() for name, value in draws.items()}
        rows = max(1, CHUNK_BYTES // (8 * self.num_components * items.numel()))
        totals, parts = [], []
        for start in range(0, len(wide["loc"]), rows):
            part = {name: value[start : start + rows] for name, value in wide.items()}
            joint = self._log_joint(part, items)
            totals.append(joint.logsumexp(1))
            if shares:
                parts.append(joint.softmax(1).mT)
        shape = draws["loc"].shape[:2]
        share = torch.cat(parts).unflatten(0, shape) if shares else items.new_empty(0)
        return torch.cat(totals).unflatten(0, shape), share

    def _log_joint(self, values: dict[str, Tensor], items: Tensor) -> Tensor:
        """log p(component, x_n | parameters) at S parameters, (S, K, N); differentiable."""
        factor = self.factor(values)  # (S, K or 1, D, D)
        away = (items - values["loc"][:, :, None]).mT  # (S, K, D, N)
        if "correlation" in values:
            square = torch.linalg.solve_triangular(factor, away, upper=False).square().sum(-2)
        else:
            square = (away / factor.diagonal(dim1=-2, dim2=-1)[..., None]).square().sum(-2)
        constant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * self.features * math.log(2 * math.pi)
        return (values["weights"].log() - constant)[..., None] - 0.5 * square

    def potential(self, x: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
        """-log p(parameters, x) as a function of unconstrained points, components summed out: the potential of NUTS.

        Equal to what Pyro makes of the model, without its handlers, which cost more than the densities.
        """
        items = x.flatten(1)
        self._require_scales()
        priors = self.priors(self.guide_loc.detach())
        laws = {name: (law, self._transform(name, law)) for name, law in priors.items()}

        def energy(points: dict[str, Tensor]) -> Tensor:
            values, total = {}, items.new_zeros(())
            for name, (law, transform) in laws.items():
                value = transform(points[name])
                total = total + law.log_prob(value).sum() + transform.log_abs_det_jacobian(points[name], value).sum()
                values[name] = value[None]
            return -total - self._log_joint(values, items).logsumexp(1).sum()

        return energy

    def factor(self, values: dict[str, Tensor]) -> Tensor:
        """The components' Cholesky factors, (..., K or 1, D, D)."""
        scale = values["scale"]
        if self.covariance == "spherical":
            scale = scale[..., None].expand(*scale.shape, self.features)
        root = values.get("correlation")
        if self.covariance == "tied":
            scale, root = scale[..., None, :], root if root is None else root[..., None, :, :]
        return torch.diag_embed(scale) if root is None else scale[..., None] * root

    # what it says of items --------------------------------------------------------------------------

    def log_prob(self, x: Any, *, num_draws: int = 1000, seed: int = 0) -> Tensor:
        """log p(x_n | fitted items), (N,), in nats: the log of the mean density over the draws. It has no gradient.

        A Monte Carlo figure, far from sure where items are far out: `with_standard_error` says how far.
        """
        return self.with_standard_error(x, num_draws=num_draws, seed=seed)[0]

    def with_standard_error(self, x: Any, *, num_draws: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
        """`log_prob` and its standard errors, sd(p) / (mean(p) sqrt(S)), which take the draws as independent."""
        checks.whole("num_draws", num_draws, bytes_each=self.bytes_per_draw + 8 * _count(x))
        table = self.log_likelihood(x, self.draws(num_draws, seed=seed)).flatten(0, 1)
        count = len(table)
        value = table.logsumexp(0) - math.log(count)
        error = (table - value).exp().std(0) / math.sqrt(count) if count > 1 else torch.full_like(value, math.nan)
        return value.to(self.guide_loc), error.to(self.guide_loc)

    def responsibilities(self, x: Any, *, num_draws: int = 1000, seed: int = 0) -> Tensor:
        """p(component | x, fitted items), (N, K): the mean over the draws, whose labels agree."""
        checks.whole("num_draws", num_draws, bytes_each=self.bytes_per_draw + 8 * _count(x) * self.num_components)
        return self.tables(x, self.draws(num_draws, seed=seed))[1].mean((0, 1)).to(self.guide_loc)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` items from the posterior predictive, (n, *event_shape); without a `seed` torch's generator goes on."""
        checks.whole("n", n, bytes_each=self.bytes_per_draw)
        key = None if seed is None else stream(checks.seed(seed), "sample")
        with forked(key, dtype_and_device(self)[1]):
            flat = {name: v.flatten(0, 1) for name, v in self.draws(n, seed=int(torch.randint(2**31, ()))).items()}
            which = torch.randint(len(flat["loc"]), (n,))
            return self._drawn({name: value[which] for name, value in flat.items()}, 1)[:, 0]

    @torch.no_grad()
    def replicate(self, draws: dict[str, Tensor], n: int, *, seed: int = 0) -> Tensor:
        """`n` items at each of these draws of the parameters, (chain, draw, n, *event_shape)."""
        with forked(stream(checks.seed(seed), "replicate"), dtype_and_device(self)[1]):
            each = draws["loc"].shape[:2].numel() * self.features * self.guide_loc.element_size()
            checks.whole("n", n, bytes_each=each)
            flat = self._drawn({name: value.flatten(0, 1) for name, value in draws.items()}, n)
        return flat.unflatten(0, draws["loc"].shape[:2])

    def _drawn(self, values: dict[str, Tensor], n: int) -> Tensor:
        """`n` items at each of S parameters, (S, n, *event_shape)."""
        k = dist.Categorical(values["weights"]).sample((n,)).mT
        row, factor = torch.arange(len(k))[:, None], self.factor(values)
        law = dist.MultivariateNormal(
            values["loc"][row, k], scale_tril=factor[row, k if factor.shape[1] > 1 else 0 * k]
        )
        return law.sample().unflatten(-1, self.event_shape)


def _count(x: Any) -> int:
    """The number of items."""
    if isinstance(x, Tensor):
        checks.dense(x, "x")
    return len(x)


def _size(law: Any) -> int:
    """The number of unconstrained reals that a parameter is mapped from."""
    return math.prod(biject_to(law.support).inverse_shape(law.batch_shape + law.event_shape))
