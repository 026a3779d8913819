"""The Gaussian mixture as a Pyro pair: an exact density, exact responsibilities, samples and exact conditionals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.component import Component
from pyrovae.models.components import GaussianComponents
from pyrovae.models.items import plate_size
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.registry import register
from pyrovae.models.seen import Expected, SeenItems, ShareOf, require_possible
from pyrovae.models.summed_mixture import SummedMixture
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["ConditionalMixture", "GaussianMixture"]

RELATIVE = 1e-6  # a floor that is not given, of a column's variance


@register("GaussianMixture", kind="builder")
class GaussianMixture(SummedMixture):
    """p(x) = sum_k w_k N(x; loc_k, C_k), as a Pyro pair: "component" ~ w, "obs" ~ N(loc, C) of that component.

    The guide is the exact posterior of the component, so that the ELBO is log p(x) and every importance weight equals
    it; both sites are marked for enumeration (`TraceEnum_ELBO`). `pyrovae.fit` takes the pair through EM. Sums are in
    float64 whatever the parameters' dtype is.

    Args: `event_shape`, of an item; `covariance`: "full" (a C_k each), "tied" (one for all), "diagonal" or "spherical"
    (s_k^2 I); `floor`: no variance in any direction falls below it, in the items' units squared: without one the
    likelihood has no maximum. None: 1e-6 of each column's variance within the clusters that a fit starts from, so that
    a fit in other units is the same fit (and 1e-6 itself for a column that does not vary); for "spherical", of the mean
    of the columns' variances. Raises ValueError for sizes below 1 and unknown names.

    (McLachlan and Peel 2000, chapters 2 and 3.)

    >>> from pyrovae import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], covariance="diagonal")
    >>> mixture.responsibilities([[2.0]]).tolist(), round(mixture.log_prob([[2.0]]).item(), 4)
    ([[0.5, 0.5]], -2.9189)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_components: int,
        *,
        covariance: str = "full",
        floor: float | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = checks.sizes("event_shape", event_shape)
        self.num_components = checks.whole("num_components", num_components)
        features = math.prod(self.event_shape)
        self.components = GaussianComponents(features, self.num_components, covariance, floor, RELATIVE)
        self.logits = nn.Parameter(torch.zeros(self.num_components))

    @classmethod
    def from_parameters(
        cls,
        weights: Any,
        loc: Any,
        covariances: Any,
        *,
        covariance: str = "full",
        event_shape: Sequence[int] | None = None,
        floor: float | None = None,
    ) -> GaussianMixture:
        """The mixture of these parameters, in float64: `weights` (K,), `loc` (K, D), `covariances` (K, D, D) where
        full, (D, D) tied, (K, D) diagonal, (K,) spherical: scikit-learn's `weights_`, `means_` and `covariances_`.

        `event_shape` of D numbers, (D,) where None. A `floor` of None is under any positive definite covariances.
        Raises ValueError for other shapes, weights that are not a distribution and covariances that are not positive
        definite or have an eigenvalue below `floor`.
        """
        loc, weights, covariances = (
            checks.array(value, name).double()
            for name, value in (("loc", loc), ("weights", weights), ("covariances", covariances))
        )
        if loc.ndim != 2:
            raise ValueError(f"loc must have shape (K, D), got {tuple(loc.shape)}")
        shape = loc.shape[1:] if event_shape is None else event_shape
        mixture = cls(shape, len(loc), covariance=covariance, floor=floor)
        mixture.double().assign(weights, loc, covariances)
        return mixture

    # the pair ---------------------------------------------------------------------------------------

    def model(self, x: Tensor | None = None, *, size: int = 1, missing: bool = False) -> Tensor:
        """p(component, x): observed where `x` of shape (N, *event_shape) is given, else `size` draws.

        With `missing` NaN in `x` is an entry that was not seen, and the density is that of the seen entries.
        """
        register_param_sites(self._site_prefix, self)
        with pyro.plate("components", self.num_components):
            pyro.deterministic("loc", self.components.loc, event_dim=1)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            k = pyro.sample("component", dist.Categorical(logits=self.logits), infer=ENUMERATED)
            return pyro.sample("obs", Component(self.components, k, self.event_shape), obs=x)

    def _summary_of_parts(self) -> Rows:
        return {
            "num_components": lambda: self.num_components,
            "covariance": lambda: self.components.covariance,
        }

    # what it says of items --------------------------------------------------------------------------

    @checks.allocating
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` draws from p(x), shape (n, *event_shape); without a `seed` torch's global generator goes on.

        >>> from pyrovae import GaussianMixture
        >>> GaussianMixture((3,), 2).sample(4, seed=0).shape
        torch.Size([4, 3])
        """
        checks.whole("n", n, bytes_each=8 * self.components.features)
        key = None if seed is None else stream(checks.seed(seed), "sample")
        with torch.no_grad(), forked(key, dtype_and_device(self)[1]):
            k = dist.Categorical(logits=self.logits).sample((n,))
            return Component(self.components, k, self.event_shape).sample()

    def conditional(self, x: Any) -> ConditionalMixture:
        """p(x_missing | x_seen) of items (N, *event_shape) in which NaN is missing: exact, a mixture for each item.

        >>> import torch
        >>> from pyrovae import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> given = mixture.conditional([[2.0, torch.nan]])
        >>> given.mean.tolist(), round(given.variance[0, 1].item(), 4), given.sample((5,)).shape
        ([[2.0, 1.0]], 0.75, torch.Size([5, 1, 2]))
        """
        return ConditionalMixture(self, self._items(x, missing=True))

    @property
    def loc(self) -> Tensor:
        """The components' locations, (K, *event_shape)."""
        return self.components.loc.unflatten(-1, self.event_shape)

    @property
    def covariances(self) -> Tensor:
        """(K, D, D) where full, (D, D) tied, (K, D) diagonal, (K,) spherical, D the numbers of an item."""
        return self.components.covariances

    @property
    def num_parameters(self) -> int:
        """The number of free parameters."""
        return self.num_components - 1 + self.components.num_parameters

    # its parameters ---------------------------------------------------------------------------------

    @torch.no_grad()
    def assign(self, weights: Tensor, loc: Tensor, covariances: Tensor) -> None:
        """Set the parameters in place, with the arguments of `from_parameters`."""
        parts = self.components
        given = {"weights": weights, "loc": loc, "covariances": covariances}
        wanted = {"weights": self.logits.shape, "loc": parts.loc.shape, "covariances": parts.covariances.shape}
        for name, value in given.items():
            if value.shape != wanted[name]:
                raise ValueError(f"{name} must have shape {tuple(wanted[name])}, got {tuple(value.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{name} must be finite")
        if bool((weights < 0).any()) or not torch.isclose(weights.sum(), weights.new_ones(()), atol=1e-6):
            raise ValueError(f"weights must be at least 0 and sum to 1, got {weights.tolist()}")
        if parts.lower is not None and not _is_symmetric(covariances):
            raise ValueError("covariances must be symmetric: a factor L is given as L @ L.mT")
        least = covariances.amin() if parts.lower is None else torch.linalg.eigvalsh(covariances).amin()
        if parts.floor is None:
            if not parts.lower_floors(weights, covariances):
                raise ValueError(
                    f"covariances must be positive definite, got an eigenvalue of {float(least):.3g}: regularise them"
                )
        elif not (bool(least >= parts.floor * (1 - 1e-6)) or parts.are_over(covariances, parts.floors * (1 - 1e-6))):
            raise ValueError(
                f"covariances must have no eigenvalue below the floor {parts.floor:g}, got {float(least):.3g}: lower "
                "floor, or regularise them"
            )
        parts.assign(loc, covariances)
        self._weigh(weights)

    @property
    def is_fresh(self) -> bool:
        """Whether the parameters are still the initial ones, from which no fit starts."""
        return self.components.is_fresh and not bool(self.logits.any())

    @torch.no_grad()
    def maximize(self, x: Tensor, weight: Tensor) -> Tensor:
        """One M-step: the maximum over all parameters of sum_nk w_nk log(w_k N(x_n; loc_k, C_k)), in place.

        `x` (N, *event_shape), `weight` (N, K), such as `responsibilities(x)`. Where NaN in `x` is missing, it is the
        maximum of the expectation given the seen entries. Returned: the components whose variance the floor held up.
        (Dempster, Laird and Rubin 1977.)
        """
        held = self.components.maximize(x.flatten(1), weight)
        self._weigh(weight.double().mean(0))
        return held

    def expected(self, items: SeenItems, share_of: ShareOf) -> Expected:
        """The expected sums of an M-step of items with entries missing: see `pyrovae.models.expectation`."""
        return self.components.expected(items, share_of)

    @torch.no_grad()
    def take(self, sums: Expected) -> Tensor:
        """One M-step from expected sums, in place; returned are the components whose variance the floor held up."""
        held = self.components.take(sums)
        self._weigh(sums.total)
        return held

    @torch.no_grad()
    def least_scale(self, x: Tensor) -> Tensor:
        """The smallest standard deviation of each column, given the others, of the components nearest to items of `x`.

        (D,), in float64: what rounding of an entry must be small beside, however close together the items lie.
        """
        return self.components.least_scale(self.log_joint_table(x.to(self.logits.device)).argmax(1))


def _is_symmetric(covariances: Tensor) -> bool:
    """Whether matrices are symmetric, to 1e-6 of the columns' scales."""
    root = covariances.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    return bool(((covariances - covariances.mT).abs() <= 1e-6 * root[..., None] * root[..., None, :]).all())


class ConditionalMixture(TorchDistribution):
    """p(x_missing | x_seen) of N items under a mixture, as a distribution over the whole event with x_seen fixed.

    `responsibilities`, (N, K), are p(component | x_seen); `log_seen`, (N,), is log p(x_seen); `mean` and `variance`
    hold the seen values, with variance 0 there. `log_prob(value)` scores the missing entries of `value` alone, in nats:
    where all was seen it is 0.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, mixture: GaussianMixture, x: Tensor) -> None:
        self.mixture, self.x = mixture, x
        self._joint = mixture.log_joint_table(x)
        require_possible(self._joint, "a density of 0 under every component", "look at them, and leave them out")
        self.log_seen = self._joint.logsumexp(-1).to(x)
        self.responsibilities = self._joint.softmax(-1).to(x)
        super().__init__(x.shape[:1], x.shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> ConditionalMixture:
        if torch.Size(batch_shape) != self.batch_shape:
            raise NotImplementedError("a conditional belongs to its items: ask for draws by sample((n,))")
        return self

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        count = math.prod(sample_shape)
        with torch.no_grad(), exclusive():
            flat = self.x.flatten(1)
            k = dist.Categorical(self.responsibilities).sample((count,))
            items = flat.expand(count, *flat.shape).clone()
            for rows, pattern in self.mixture.components.patterns(flat):
                component = k[:, rows]
                joint = self.mixture.components.draw(component).double()
                completed = items[:, rows]
                completed[..., ~pattern.seen] = pattern.completed(joint, component).to(completed)
                items[:, rows] = completed
        return items.reshape(*sample_shape, *self.x.shape)

    def log_prob(self, value: Any) -> Tensor:
        given = checks.array(value, "value")
        if given.shape[given.ndim - len(self.event_shape) :] == self.event_shape:
            flat = given.reshape(-1, *self.event_shape)
            checks.checked_cast(flat, self.x.dtype, name="value", least_scale=self.mixture.least_scale)
        value = torch.where(self.x.isnan(), given.to(self.x), self.x)
        flat = value.reshape(-1, *self.event_shape)
        whole = self.mixture.log_joint_table(self.mixture._items(flat)).logsumexp(-1)
        whole = whole.reshape(value.shape[: value.ndim - len(self.event_shape)])
        return (whole - self._joint.logsumexp(-1)).to(self.x)  # in float64: it is small beside both

    def _moments(self) -> tuple[Tensor, Tensor]:
        flat = self.x.flatten(1)
        mean, variance = flat.double(), torch.zeros_like(flat, dtype=torch.float64)
        for rows, pattern in self.mixture.components.patterns(flat):
            each, spread = pattern.moments()
            share = self.responsibilities[rows].double().mT[..., None]
            centre = (share * each).sum(0)
            where = torch.meshgrid(rows, (~pattern.seen).nonzero()[:, 0], indexing="ij")
            mean = mean.index_put(where, centre)
            variance = variance.index_put(where, (share * (spread + (each - centre).square())).sum(0))
        return mean.to(flat).reshape(self.x.shape), variance.to(flat).reshape(self.x.shape)
