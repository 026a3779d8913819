"""Several fitted pairs as one pair: the mixture of their densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.laws import as_pyro
from pyrovae.models.pair import (
    as_module,
    base_measure_of,
    covariate_dim_of,
    covariates_for,
    dtype_and_device,
    entries_of,
    is_made_of_parts,
    support_of,
    takes_exposure,
)
from pyrovae.models.registry import plain_name_of
from pyrovae.models.vae import VAE, LatentVariableModel
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["Ensemble"]


class Ensemble(VAE):
    """The mixture of its members, p(x) = sum_k w_k p_k(x), as one pair.

    Members are fitted pairs of a prior, a likelihood and a posterior, such as one network from several starts;
    `weights` are probabilities, None for equal ones. The code of an item holds one of each member, z = (z_1, ..., z_K)
    of sum_k d_k dimensions: under the prior and in the guide they are independent, and p(x | z) is
    sum_k w_k p_k(x | z_k), whose integral over z is the mixture. Nothing discrete is drawn or summed out.

    `elbo`, `iwae`, `ais`, `quadrature` and `exact` take log sum_k w_k exp(estimate of log p_k(x)), member by member, so
    that codes of one or two dimensions a member are enough for `quadrature`; a bound of each member gives one of the
    mixture. Everything else goes by the pair as it is. `log_likelihood` has log p_k(x) of members as ArviZ's draws. The
    members' own modules are used and not copied: what trains one of them changes the ensemble. A saved state is read
    by `load(path, like=ensemble of the same members)`.

    Of members given covariates it is p(x | c) = sum_k w_k p_k(x | c), and takes `covariates=` or a split as they do;
    their priors may depend on c or not. It takes an `exposure` where all members do.

    Raises ValueError for no members, for members of other event shapes, base measures, supports, dtypes, devices or
    numbers of covariates, and for weights that are no distribution; TypeError for a member that is no normalised pair
    of three parts.

    >>> import torch
    >>> from pyrovae import Ensemble, exact, linear_vae
    >>> members = [linear_vae(3, 1), linear_vae(3, 2)]
    >>> ensemble = Ensemble(members, weights=[0.25, 0.75])
    >>> ensemble.latent_dim, ensemble.sample(4, seed=0).shape
    (3, torch.Size([4, 3]))
    >>> exact(ensemble, torch.zeros(2, 3)).kind
    'exact'
    """

    def __init__(self, members: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        pairs = _checked_members(members)
        log_weights = _checked_weights(weights, len(pairs))
        priors = [pair.prior for pair in pairs]
        super().__init__(
            _Priors(priors),
            _Likelihoods([pair.likelihood for pair in pairs], [prior.latent_dim for prior in priors], log_weights),
            _Posteriors([pair.posterior for pair in pairs]),
        )
        # in a list: their parts are in the three above, and not a second time in the state
        self._members: list[Any] = pairs

    @property
    def members(self) -> list[Any]:
        """The pairs that it is made of."""
        return list(self._members)

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the members' weights, (K,), float64."""
        log_weights: Tensor = self.likelihood.log_weights
        return log_weights.double()

    def log_likelihood(
        self,
        x: Any,
        *,
        evidence: Any,
        num_draws: int | None = None,
        seed: int = 0,
        covariates: Any = None,
        exposure: Any = None,
    ) -> Tensor:
        """log p_s(x_n) of members drawn by their weights, (num_draws, N), in nats, float64: as ArviZ takes it.

        `evidence` is an estimator of log p(x), such as `pyrovae.quadrature` or a `functools.partial` of `pyrovae.iwae`,
        and each row is `evidence(member, x)` of a member. ArviZ weighs draws alike, so members of equal weights are one
        row each, in their order, where `num_draws` is None. Members of other weights need `num_draws`: member k is then
        in num_draws w_k rows, rounded up or down at random and unbiased, in a random order (systematic resampling,
        Douc, Cappe and Moulines 2005, section 2.4). Give a group `log_likelihood` the array with dimensions
        (chain, draw, item) as `ensemble.log_likelihood(x, evidence=pyrovae.iwae)[None]`. The covariates and the
        exposure of items, or a split that carries them, go to `evidence` as they come.

        Raises ValueError for unequal weights without `num_draws`.
        """
        rows = self._drawn_members(num_draws, checks.seed(seed))
        both = {"covariates": covariates, "exposure": exposure}
        beside = {name: value for name, value in both.items() if value is not None}
        values = {
            number: torch.from_numpy(evidence(self._members[number], x, **beside).pointwise["value"].to_numpy().copy())
            for number in sorted({*rows})
        }
        return torch.stack([values[number] for number in rows]).double()

    def _drawn_members(self, num_draws: int | None, seed: int) -> list[int]:
        """The numbers of members, each as often as its weight asks for."""
        weights, count = self.log_weights.exp().cpu(), len(self._members)
        if num_draws is None:
            if bool(((weights * count - 1).abs() > 1e-6).any()):
                shown = ", ".join(f"{weight:.3g}" for weight in weights.tolist())
                raise ValueError(
                    f"num_draws must be given, the number of members to draw by their weights ({shown}): ArviZ weighs "
                    "draws alike, and a row for each member would make these weights equal"
                )
            return list(range(count))
        checks.whole("num_draws", num_draws)
        with forked(stream(seed, "members")):
            points = (torch.arange(num_draws, dtype=torch.float64) + torch.rand((), dtype=torch.float64)) / num_draws
            order = torch.randperm(num_draws)
        rows = torch.searchsorted(weights.cumsum(0), points, right=True).clamp(max=count - 1)
        numbers: list[int] = rows[order].tolist()
        return numbers

    def _summary_of_parts(self) -> Rows:
        return {
            "members": lambda: len(self._members),
            "latent_dim": lambda: self.latent_dim,
            "weights": lambda: ", ".join(f"{w:.3g}" for w in self.log_weights.exp().tolist()),
        }


class _Priors(nn.Module):
    """The codes of all members, independent and one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.latent_dim = sum(part.latent_dim for part in parts)

    @property
    def covariate_dim(self) -> int:
        """How many covariates the priors depend on, 0 where none does."""
        return max(map(covariate_dim_of, self.parts))

    def forward(self, *, covariates: Tensor | None = None) -> TorchDistribution:
        return _Joint([as_pyro(part(**covariates_for(part, covariates))) for part in self.parts])


class _Posteriors(nn.Module):
    """The codes of all members given an item, independent and one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def covariate_dim(self) -> int:
        """How many covariates the posteriors see beside an item."""
        return max(map(covariate_dim_of, self.parts))

    def forward(self, x: Tensor, *, covariates: Tensor | None = None) -> TorchDistribution:
        return _Joint([as_pyro(part(x, **covariates_for(part, covariates))) for part in self.parts])


class _Likelihoods(nn.Module):
    """p(x | z_1, ..., z_K) = sum_k w_k p_k(x | z_k)."""

    log_weights: Tensor

    def __init__(self, parts: Sequence[Any], sizes: Sequence[int], log_weights: Tensor) -> None:
        super().__init__()
        self.parts, self.sizes = nn.ModuleList(parts), list(sizes)
        self.event_shape = tuple(parts[0].event_shape)
        self.register_buffer("log_weights", log_weights)

    @property
    def support(self) -> Any:
        """The support of one entry of an item, which all members share."""
        first: Any = self.parts[0]
        return first.support

    @property
    def base_measure(self) -> Any:
        """That of the members."""
        return getattr(self.parts[0], "base_measure", None)

    @property
    def columns(self) -> Any:
        """The columns of a table whose rows the members score; None of other items."""
        return getattr(getattr(self.parts[0], "family", None), "columns", None)

    @property
    def covariate_dim(self) -> int:
        """How many covariates the likelihoods see beside a code."""
        return max(map(covariate_dim_of, self.parts))

    @property
    def takes_exposure(self) -> bool:
        """Whether all members take an exposure of each item."""
        return all(map(takes_exposure, self.parts))

    def forward(
        self, z: Tensor, *, covariates: Tensor | None = None, exposure: Tensor | None = None
    ) -> TorchDistribution:
        given = {} if exposure is None else {"exposure": exposure}
        codes = zip(self.parts, z.split(self.sizes, -1), strict=True)
        laws = [as_pyro(part(code, **covariates_for(part, covariates), **given)) for part, code in codes]
        return _Mixture(laws, self.log_weights.to(z))


class _Joint(TorchDistribution):
    """Independent distributions over vectors, whose values lie one after the other in one vector."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, parts: Sequence[Any], batch_shape: Any = None) -> None:
        self.parts = list(parts)
        self.sizes = [part.event_shape[0] for part in parts]
        shape = torch.broadcast_shapes(*(part.batch_shape for part in parts)) if batch_shape is None else batch_shape
        super().__init__(torch.Size(shape), torch.Size([sum(self.sizes)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return all(part.has_rsample for part in self.parts)

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean.expand(*self.batch_shape, -1) for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([part.variance.expand(*self.batch_shape, -1) for part in self.parts], -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Joint:
        return _Joint([part.expand(batch_shape) for part in self.parts], batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat([part.rsample(sample_shape) for part in self._expanded()], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return torch.cat([part.sample(sample_shape) for part in self._expanded()], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        codes = value.split(self.sizes, -1)
        return torch.stack([part.log_prob(code) for part, code in zip(self.parts, codes, strict=True)]).sum(0)

    def _expanded(self) -> list[Any]:
        same = [part.batch_shape == self.batch_shape for part in self.parts]
        return [part if s else part.expand(self.batch_shape) for part, s in zip(self.parts, same, strict=True)]


class _Mixture(TorchDistribution):
    """A mixture of any distributions over the same event."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, parts: Sequence[Any], log_weights: Tensor) -> None:
        self.parts, self.log_weights = list(parts), log_weights
        shape = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(shape, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.parts[0].support

    @property
    def mean(self) -> Tensor:
        means = torch.stack([part.mean for part in self.parts], -1)
        return (means * self.log_weights.exp()).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Mixture:
        return _Mixture([part.expand(batch_shape) for part in self.parts], self.log_weights)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            member = torch.distributions.Categorical(logits=self.log_weights).sample(shape)
            member = member.reshape(*shape, *[1] * len(self.event_shape))
            value = self.parts[0].sample(sample_shape)
            for number, part in enumerate(self.parts[1:], start=1):
                value = torch.where(member == number, part.sample(sample_shape), value)
            return value

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.stack([part.log_prob(value) for part in self.parts], -1).add(self.log_weights).logsumexp(-1)


def _checked_members(members: Any) -> list[Any]:
    pairs = list(members) if isinstance(members, Sequence | nn.ModuleList) else None
    if not pairs:
        raise ValueError(f"members must be a list of at least one pair, got {members!r}"[:300])
    for number, pair in enumerate(pairs):
        as_module(pair)
        whole = isinstance(pair, LatentVariableModel) and pair.is_normalized
        if not (whole and is_made_of_parts(pair, "model") and is_made_of_parts(pair, "guide")):
            raise TypeError(
                f"members[{number}] must be a pair with a p(x) that is made of a prior, a likelihood and a posterior, "
                f"such as a VAE, got {type(pair).__name__}"
            )
    asked: dict[str, Any] = {
        "event_shape": lambda pair: tuple(pair.event_shape),
        "base measure": base_measure_of,
        "support": lambda pair: str(support_of(pair)),
        "dtype and device": dtype_and_device,
        "number of covariates": covariate_dim_of,
    }
    for what, of in asked.items():
        for number, pair in enumerate(pairs):
            if of(pair) == of(pairs[0]):
                continue
            names = [plain_name_of(entries_of(each)) for each in (pairs[0], pair)]
            raise ValueError(
                f"members must have one {what}: that of members[0] ({names[0]}) is {of(pairs[0])}, and that of "
                f"members[{number}] ({names[1]}) is {of(pair)}; there is no mixture of the two"
            )
    return pairs


def _checked_weights(weights: Any, count: int) -> Tensor:
    if weights is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64)
    given = checks.array(weights, "weights").detach().double()
    if given.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), one for each member, got {tuple(given.shape)}")
    if not bool((given > 0).all()) or abs(float(given.sum()) - 1) > 1e-6:
        raise ValueError(
            f"weights must be positive and sum to 1, got {given.tolist()}: divide them by their sum, and leave members "
            "without weight out"
        )
    return (given / given.sum()).log()
