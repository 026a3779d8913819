"""Tensors to distributions: priors over the code, likelihoods of an item, posteriors of a code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils._pytree import tree_map

from pyrovae import checks
from pyrovae.models.laws import as_pyro
from pyrovae.models.scopes import evaluation_mode

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "Likelihood",
    "LinearNormal",
    "Normal",
    "PointMass",
    "StandardNormal",
    "TruncatedExponential",
]

# log-scales of an encoder stay within (-10, 10), scales within (4.5e-5, 2.2e4): log_prob is finite in float32
LOG_SCALE_BOUND = 10.0


class StandardNormal(nn.Module):
    """The prior N(0, I) over a code of `latent_dim` dimensions.

    >>> import torch
    >>> from pyrovae.models.distributions import StandardNormal
    >>> StandardNormal(2)().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Bernoulli(nn.Module):
    """Pixels that are 0 or 1, independent given their logits: log p(x) = x log s(l) + (1 - x) log(1 - s(l)), a mass.

    >>> import torch
    >>> from pyrovae import Bernoulli
    >>> Bernoulli()(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0]))
    tensor([-0.6931, -0.6931])
    """

    support = constraints.boolean
    base_measure = "mass"

    def forward(self, logits: Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=logits)

    def natural_parameter(self, p: TorchDistribution) -> Tensor:
        """The l of a density proportional to exp(x l)."""
        return p.logits

    def log_base(self, p: TorchDistribution, x: Tensor) -> Tensor:
        """What is left of log p(x) - log p(0) - x l."""
        return torch.zeros_like(x)


class ContinuousBernoulli(nn.Module):
    """Grey pixels in [0, 1], density proportional to s(l)^x (1 - s(l))^(1 - x) (Loaiza-Ganem and Cunningham 2019).

    >>> import torch
    >>> from pyrovae import ContinuousBernoulli
    >>> ContinuousBernoulli()(torch.zeros(1)).log_prob(torch.tensor([0.3])).abs()
    tensor([0.])
    """

    support = constraints.unit_interval
    base_measure = "density"

    def forward(self, logits: Tensor) -> TorchDistribution:
        return TruncatedExponential(logits)

    def natural_parameter(self, p: TorchDistribution) -> Tensor:
        """The l of a density proportional to exp(x l)."""
        return p.logits

    def log_base(self, p: TorchDistribution, x: Tensor) -> Tensor:
        """What is left of log p(x) - log p(0) - x l."""
        return torch.zeros_like(x)


class Normal(nn.Module):
    """Real values with one scale for all of them: fixed at `scale`, or learned from `initial_scale` where it is None.

    A learned scale is floor + exp(log_scale), so the likelihood is bounded however well the items are fitted. `link`
    "sigmoid" keeps the mean in [0, 1], as the seed's decoder does. Scale 0.626 with squared error SSE gives
    SSE / (2 * 0.392) + constant: 1,000 times the mean squared error of 784 pixels.

    >>> import torch
    >>> from pyrovae import Normal
    >>> Normal(scale=0.5)(torch.zeros(2)).log_prob(torch.ones(2))
    tensor([-2.2258, -2.2258])
    """

    support = constraints.real
    base_measure = "density"
    fixed_scale: Tensor

    def __init__(
        self,
        scale: float | None = None,
        *,
        initial_scale: float = 1.0,
        floor: float = 1e-3,
        link: Literal["identity", "sigmoid"] = "identity",
    ) -> None:
        super().__init__()
        self.link = checks.choice("link", link, ("identity", "sigmoid"))
        self.floor = checks.positive("floor", floor)
        numbers = {"scale": scale, "initial_scale": initial_scale, "floor": floor}
        self.arguments = {**{k: None if v is None else float(v) for k, v in numbers.items()}, "link": link}
        self.learned = scale is None
        if scale is not None and not 1e-30 < checks.positive("scale", scale) < 1e30:
            raise ValueError(f"scale must lie between 1e-30 and 1e30, got {scale!r}")
        if scale is None:
            start = checks.positive("initial_scale", initial_scale)
            if start <= floor:
                raise ValueError(f"initial_scale must be greater than floor ({floor:g}), got {initial_scale!r}")
            self.log_scale = nn.Parameter(torch.tensor(math.log(start - floor)))
        else:
            self.register_buffer("fixed_scale", torch.tensor(scale, dtype=torch.float64))  # no figure is lost

    @property
    def scale(self) -> Tensor:
        return self.floor + self.log_scale.exp() if self.learned else self.fixed_scale

    def forward(self, loc: Tensor) -> TorchDistribution:
        return dist.Normal(loc.sigmoid() if self.link == "sigmoid" else loc, self.scale.to(loc))

    def natural_parameter(self, p: TorchDistribution) -> Tensor:
        """The l of a density proportional to exp(x l) times a term of x alone."""
        return p.loc / p.scale.square()

    def log_base(self, p: TorchDistribution, x: Tensor) -> Tensor:
        """What is left of log p(x) - log p(0) - x l."""
        return -0.5 * x.square() / self.scale.to(x).square()

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


LIKELIHOODS: dict[str, Callable[[], nn.Module]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal": Normal,
}


class Likelihood(nn.Module):
    """p(x | z): a network from code to parameters, and the family that turns them into a distribution over one item.

    `network` maps (N, latent_dim) to (N, *event_shape): codes of other leading dimensions, such as several draws for
    each item, come to it as one batch, so that batch normalisation and `view(-1, ...)` are right. `family` is
    `Bernoulli()`, `ContinuousBernoulli()`, `Normal(...)` or any module from a tensor of that shape to a distribution of
    independent entries, with a `support`.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae.models.distributions import Likelihood, Normal
    >>> p = Likelihood(nn.Linear(2, 5), Normal(scale=1.0), (5,))
    >>> p(torch.zeros(7, 2)).batch_shape, p(torch.zeros(7, 2)).event_shape
    (torch.Size([7]), torch.Size([5]))
    """

    family: Any

    def __init__(self, network: nn.Module, family: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.network, self.family = network, family
        self.event_shape = checks.sizes("event_shape", event_shape, one=False)

    @property
    def support(self) -> constraints.Constraint:
        """Where one entry of an item may lie."""
        return self.family.support

    @property
    def base_measure(self) -> str:
        """Whether log p(x) is that of a "mass" (binary entries) or of a "density"."""
        stated = getattr(self.family, "base_measure", None)
        return stated or ("mass" if self.support.is_discrete else "density")

    def forward(self, z: Tensor) -> TorchDistribution:
        p = as_pyro(self.family(self._decoded(z)))
        # a network of another shape would broadcast against the items without a word
        if p.batch_shape != (*z.shape[:-1], *self.event_shape):
            raise ValueError(
                f"the likelihood's network must give shape (..., {', '.join(map(str, self.event_shape))}) for codes of "
                f"shape {tuple(z.shape)}, got {tuple(p.batch_shape)}"
            )
        return p.to_event(len(self.event_shape))

    def log_prob_table(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x_n | z_m) for every code and item, (M, latent_dim) and (N, *event_shape) to (M, N), in nats.

        A family of densities proportional to exp(x l) in its entries, with `natural_parameter` l, needs one matrix
        product for all pairs: log p(x) = log p(0) + x l (+ a term of x alone), whatever the number of items. The
        network runs in evaluation mode.
        """
        with evaluation_mode(self):
            natural = getattr(self.family, "natural_parameter", None)
            if natural is None:
                return self(z[:, None]).log_prob(x)
            p = self.family(self._decoded(z))
        at_zero = p.log_prob(torch.zeros_like(x[:1])).flatten(1).sum(-1)
        product = natural(p).flatten(1) @ x.flatten(1).T
        return product + at_zero[:, None] + self.family.log_base(p, x).flatten(1).sum(-1)

    def _decoded(self, z: Tensor) -> Any:
        """What the network gives for codes (..., latent_dim), which it sees as one batch (N, latent_dim)."""
        if z.ndim == 2:
            return self.network(z)
        leading = z.shape[:-1]
        given = self.network(z.reshape(math.prod(leading), z.shape[-1]))

        def unflattened(part: Any) -> Any:
            # a part that has no row a code, such as a scale that all of them share, is left as it is
            rows = isinstance(part, Tensor) and part.ndim > len(self.event_shape) and len(part) == math.prod(leading)
            return part.reshape(*leading, *part.shape[1:]) if rows else part

        return tree_map(unflattened, given)


class DiagonalNormal(nn.Module):
    """q(z | x) = N(loc(x), diag scale(x)^2): a network from item to features, and a linear head for each of the two.

    The log-scale is bounded smoothly, 10 tanh(raw / 10), so no output of the network overflows.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae.models.distributions import DiagonalNormal
    >>> DiagonalNormal(nn.Identity(), 3, 2)(torch.zeros(4, 3)).mean.shape
    torch.Size([4, 2])
    """

    def __init__(self, network: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        checks.whole("latent_dim", latent_dim, bytes_each=8 * features)
        self.network = network
        self.loc = nn.Linear(features, latent_dim)  # before the scale: an AE of the same seed starts from the same head
        self.raw_log_scale = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> TorchDistribution:
        features = self.network(x)
        return dist.Normal(self.loc(features), _bounded_scale(self.raw_log_scale(features))).to_event(1)


class LinearNormal(nn.Module):
    """q(z | x) = N(A x + b, diag s^2), one s for all items: the family that holds probabilistic PCA's posterior.

    (Lucas, Tucker, Grosse and Norouzi 2019: at the maximum the posterior covariance is diagonal.)

    >>> import torch
    >>> from pyrovae.models.distributions import LinearNormal
    >>> LinearNormal(5, 2)(torch.zeros(3, 5)).stddev.detach()
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(features, checks.whole("latent_dim", latent_dim, bytes_each=4 * features))
        self.raw_log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, x: Tensor) -> TorchDistribution:
        loc = self.loc(x)
        return dist.Normal(loc, _bounded_scale(self.raw_log_scale).expand_as(loc)).to_event(1)


class PointMass(nn.Module):
    """All of q(z | x) on one point: the code of an autoencoder. Its log-density counts as 0.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae.models.distributions import PointMass
    >>> q = PointMass(nn.Identity(), 3, 2)(torch.zeros(4, 3))
    >>> q.sample().shape, q.log_prob(q.sample())
    (torch.Size([4, 2]), tensor([0., 0., 0., 0.]...))
    """

    def __init__(self, network: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.loc = nn.Linear(features, checks.whole("latent_dim", latent_dim, bytes_each=4 * features))

    def forward(self, x: Tensor) -> TorchDistribution:
        return dist.Delta(self.loc(self.network(x)), event_dim=1)


class TruncatedExponential(TorchDistribution):
    r"""The continuous Bernoulli written in its logit: p(x) = l e^(l x) / (e^l - 1) on [0, 1].

    log p(x) = log|l| - |l| d - log(1 - e^-|l|), in nats, with d the distance of x from the end where the density is
    high; where |l| < 0.3, l (x - 1/2) less the series of log(sinh(l/2) / (l/2)). So it keeps its figures for every
    logit: a form through s = sigmoid(l) loses them in float32 once |l| is over 16.

    >>> import torch
    >>> from pyrovae.models.distributions import TruncatedExponential
    >>> TruncatedExponential(torch.tensor(2.0)).log_prob(torch.tensor([0.0, 1.0]))
    tensor([-1.1614,  0.8386])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TruncatedExponential:
        return TruncatedExponential(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        small, safe = _split(self.logits)
        size = safe.abs()
        # counted from the heavy end: no two large terms of the same size are taken from each other
        distance = torch.where(safe > 0, 1 - x, x)
        value = torch.log(size) - size * distance - torch.log1p(-torch.exp(-size))
        return torch.where(small, self.logits * (x - 0.5) - _log_sinhc_series(self.logits**2), value)

    @property
    def mean(self) -> Tensor:
        """1/2 + coth(l/2)/2 - 1/l."""
        small, safe = _split(self.logits)
        series = 0.5 + self.logits * _polynomial(
            self.logits**2, (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)
        )
        return torch.where(small, series, 0.5 + 0.5 / torch.tanh(safe / 2) - 1 / safe)

    @property
    def variance(self) -> Tensor:
        """1/l^2 - 1/(4 sinh^2(l/2))."""
        small, safe = _split(self.logits)
        tail = torch.exp(-safe.abs())
        series = _polynomial(self.logits**2, (1 / 12, -1 / 240, 1 / 6048, -1 / 172800, 1 / 5322240))
        return torch.where(small, series, 1 / safe**2 - tail / (1 - tail) ** 2)

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile log(1 + u (e^l - 1)) / l, counted from the heavy end so that nothing overflows."""
        small, safe = _split(self.logits, below=1e-4)
        size = safe.abs()
        heavy = torch.where(safe > 0, 1 - u, u)
        distance = -torch.log1p(heavy * torch.expm1(-size)) / size
        value = torch.where(safe > 0, 1 - distance, distance)
        return torch.where(small, u + self.logits * u * (1 - u) / 2, value).clamp(0, 1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))


def _split(logits: Tensor, below: float = 0.3) -> tuple[Tensor, Tensor]:
    # the branch a where() drops still carries gradients: keep it away from 0 / 0
    small = logits.abs() < below
    return small, torch.where(small, torch.ones_like(logits), logits)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def _log_sinhc_series(square: Tensor) -> Tensor:
    """log(sinh(l/2) / (l/2)) from l^2, near 0; its derivative is the mean's series."""
    return square * _polynomial(square, (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600))


def _bounded_scale(raw: Tensor) -> Tensor:
    return torch.exp(LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND))
