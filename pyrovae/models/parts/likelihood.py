"""The likelihood p(x | z): a network and a family of distributions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils._pytree import tree_map

from pyrovae import checks
from pyrovae.argument_checks import are_checked
from pyrovae.models.laws import as_pyro
from pyrovae.models.missing import SeenEntries, filling_of
from pyrovae.models.parts.covariates import beside
from pyrovae.models.scopes import evaluation_mode

__all__ = ["Likelihood", "num_parameters_of"]


class Likelihood(nn.Module):
    """p(x | z): a network from code to parameters, and the family that turns them into a distribution over one item.

    `network` maps (N, latent_dim) to (N, *event_shape): codes of other leading dimensions, such as several draws for
    each item, come to it as one batch, so that batch normalisation and `view(-1, ...)` are right. `family` is
    `Bernoulli()`, `ContinuousBernoulli()`, `Normal(...)` or any module from a tensor of that shape to a distribution of
    independent entries, with a `support`.

    A family whose `num_parameters` is K > 1, as a mean and a scale of each entry, is called with K tensors of that
    shape. The network then gives (N, K, *event_shape), or a tuple of K tensors; ValueError for another number.

    A family of counts may take an exposure for each item: `likelihood(z, exposure=e)`, e of shape (N,), multiplies
    the means of item n by e_n, as a time or an area over which it was counted. ValueError where the family takes none.

    With `covariate_dim` D the likelihood is p(x | z, c): `likelihood(z, covariates=c)`, c of shape (N, D), and the
    network takes a code and the covariates in one row, (N, latent_dim + D). A missing c, or one of another shape, is a
    ValueError.

    A family with parameters of its own for each entry, as a scale for each column, has a method `bind(event_shape)`,
    which is called once, here, and makes them.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import Likelihood, Normal
    >>> p = Likelihood(nn.Linear(2, 5), Normal(scale=1.0), (5,))
    >>> p(torch.zeros(7, 2)).batch_shape, p(torch.zeros(7, 2)).event_shape
    (torch.Size([7]), torch.Size([5]))
    """

    family: Any
    covariate_dim: int = 0

    def __init__(
        self, network: nn.Module, family: nn.Module, event_shape: Sequence[int], covariate_dim: int = 0
    ) -> None:
        super().__init__()
        self.network, self.family = network, family
        self.event_shape = checks.sizes("event_shape", event_shape, one=False)
        if checks.whole("covariate_dim", covariate_dim, least=0):
            self.covariate_dim = covariate_dim  # no attribute where there is none: hashes of pairs stay as they were
        bind = getattr(family, "bind", None)
        if bind is not None:  # parameters of its own for each entry need the shape of an item
            bind(self.event_shape)
        _require_stated_count(family)

    @property
    def support(self) -> constraints.Constraint:
        """The support of one entry of an item."""
        return self.family.support

    @property
    def base_measure(self) -> str:
        """Whether log p(x) is that of a "mass" (binary entries) or of a "density"."""
        stated = getattr(self.family, "base_measure", None)
        return stated or ("mass" if self.support.is_discrete else "density")

    @property
    def takes_exposure(self) -> bool:
        """Whether the family takes an exposure for each item, by which the means of its entries are multiplied."""
        return bool(getattr(self.family, "takes_exposure", False))

    def forward(
        self, z: Tensor, *, covariates: Tensor | None = None, exposure: Tensor | None = None
    ) -> TorchDistribution:
        z = beside(z, covariates, self.covariate_dim, f"{type(self).__name__} of {type(self.family).__name__}")
        arguments = self._arguments(z)
        leading = tuple(z.shape[:-1])
        if exposure is None:
            p = as_pyro(self.family(*arguments))
        else:
            leading = self._leading(z, exposure)
            p = as_pyro(self.family(*arguments, exposure=exposure.reshape(-1, *[1] * len(self.event_shape))))
            one_row = torch.broadcast_shapes(*(each.shape for each in arguments)) != (*z.shape[:-1], *self.event_shape)
            if one_row:  # the exposure would broadcast it to the right shape without a word
                p = as_pyro(self.family(*arguments))
        if p.event_shape and p.batch_shape != (*leading, *self.event_shape):
            raise ValueError(
                f"{type(self.family).__name__} must give a distribution of independent entries, batch shape "
                f"{(*leading, *self.event_shape)}, and gives batch shape {tuple(p.batch_shape)} and event shape "
                f"{tuple(p.event_shape)}: leave .to_event out, which Likelihood adds"
            )
        # a network of another shape would broadcast against the items without a word
        if p.batch_shape != (*leading, *self.event_shape):
            raise ValueError(
                f"the likelihood's network must give shape (..., {', '.join(map(str, self.event_shape))}) for codes of "
                f"shape {tuple(z.shape)}, got {tuple(p.batch_shape)}{self._count_hint(z, arguments[0])}"
            )
        return p.to_event(len(self.event_shape))

    def log_prob_table(
        self,
        z: Tensor,
        x: Tensor,
        *,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
        missing: bool = False,
    ) -> Tensor:
        """log p(x_n | z_m) for every code and item, (M, latent_dim) and (N, *event_shape) to (M, N), in nats.

        A family of densities proportional to exp(x l) in its entries, with `natural_parameter` l, needs one matrix
        product for all pairs: log p(x) = log p(0) + x l (+ a term of x alone), whatever the number of items. With an
        `exposure` e of each item, (N,), such a family has `log_zero(p, exposure)` too, log p(0) of an item at each
        code and exposure, (M, N), and its l at exposure e is l + log e. With `missing` NaN in `x` is an entry that was
        not seen, whose term is left out. The network runs in evaluation mode.
        """
        with evaluation_mode(self):
            natural = getattr(self.family, "natural_parameter", None)
            log_zero = getattr(self.family, "log_zero", None)
            if natural is None or covariates is not None or (exposure is not None and (log_zero is None or missing)):
                law = self(z[:, None], covariates=covariates, exposure=exposure)
                return (SeenEntries(law, filling_of(self)) if missing else law).log_prob(x)
            p = self.family(*self._arguments(z))
        seen = ~x.isnan()
        if missing:
            x = torch.where(seen, x, torch.as_tensor(filling_of(self), dtype=x.dtype, device=x.device))
            inside = torch.where(seen, x, 0.0).flatten(1)
            at_zero = p.log_prob(torch.zeros_like(x[:1])).flatten(1) @ seen.flatten(1).to(x.dtype).T
            base = torch.where(seen, self.family.log_base(p, x), 0.0).flatten(1).sum(-1)
            return natural(p).flatten(1) @ inside.T + at_zero + base
        product = natural(p).flatten(1) @ x.flatten(1).T
        if exposure is None or log_zero is None:
            at_zero = as_pyro(p).to_event(len(self.event_shape)).log_prob(torch.zeros_like(x[:1]))[:, None]
        else:
            self._leading(z[:, None], exposure)
            at_zero = log_zero(p, exposure)
            product = product + x.flatten(1).sum(-1) * exposure.log()
        return product + at_zero + self.family.log_base(p, x).flatten(1).sum(-1)

    def _leading(self, z: Tensor, exposure: Tensor) -> tuple[int, ...]:
        """The shape of codes and exposures together; ValueError where the family takes none, or they do not fit."""
        name = type(self.family).__name__
        if not self.takes_exposure:
            raise ValueError(
                f"exposure is for a likelihood of counts, whose means it multiplies, and {name} takes none: take "
                "'poisson' or 'negative_binomial', or set takes_exposure = True in a family of your own and let its "
                "forward take exposure="
            )
        if exposure.ndim != 1 or (z.ndim > 1 and 1 != z.shape[-2] != len(exposure)):
            count = z.shape[-2] if z.ndim > 1 else "N"
            raise ValueError(
                f"exposure must have shape ({count},), one number for each item, for codes of shape "
                f"{tuple(z.shape)}, got {tuple(exposure.shape)}"
            )
        if are_checked() and not bool(((exposure > 0) & exposure.isfinite()).all()):
            raise ValueError(
                f"exposure must be positive and finite, got a least value of {float(exposure.min()):g} and a largest "
                f"of {float(exposure.max()):g}: it multiplies the mean of an item's counts"
            )
        return (*z.shape[:-2], len(exposure))

    def _arguments(self, z: Tensor) -> tuple[Any, ...]:
        """The output of the network at codes (..., latent_dim), as one tensor for each parameter of an entry."""
        given = self._decoded(z)
        count = num_parameters_of(self.family)
        if count == 1:
            return (given,)
        if isinstance(given, tuple | list) and len(given) == count:
            return tuple(given)
        wanted = (*z.shape[:-1], count, *self.event_shape)
        if isinstance(given, Tensor) and given.shape == wanted:
            return given.unbind(-1 - len(self.event_shape))
        got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"{len(given)} of them"
        raise ValueError(
            f"{type(self.family).__name__} has {count} parameters per entry: the likelihood's network must give shape "
            f"{wanted}, or a tuple of {count} tensors, for codes of shape {tuple(z.shape)}, got {got}"
        )

    def _count_hint(self, z: Tensor, given: Any) -> str:
        """What to do where the network gives several parameters per entry to a family that states none of them."""
        lead = tuple(z.shape[:-1])
        size = math.prod(self.event_shape)
        if not isinstance(given, Tensor) or hasattr(self.family, "num_parameters"):
            return ""
        if tuple(given.shape[:-1]) == lead and given.shape[-1] % size == 0:  # in one row
            count = given.shape[-1] // size
            if count == 1:
                return f"; let the network end with nn.Unflatten(-1, {self.event_shape})"
            reshape = f", and let the network end with nn.Unflatten(-1, {(count, *self.event_shape)})"
        elif given.shape[: len(lead)] == lead and tuple(given.shape[len(lead) + 1 :]) == self.event_shape:
            count = given.shape[len(lead)]
            reshape = ""
        else:
            return ""
        family = type(self.family).__name__
        return f"; set num_parameters = {count} in {family} if an entry has {count} parameters{reshape}"

    def _decoded(self, z: Tensor) -> Any:
        """The output of the network at codes (..., latent_dim), which it sees as one batch (N, latent_dim)."""
        if z.ndim == 2:
            return self.network(z)
        leading = z.shape[:-1]
        given = self.network(z.reshape(math.prod(leading), z.shape[-1]))

        def unflattened(part: Any) -> Any:
            # a part that has no row a code, such as a scale that all of them share, is left as it is
            rows = isinstance(part, Tensor) and part.ndim > len(self.event_shape) and len(part) == math.prod(leading)
            return part.reshape(*leading, *part.shape[1:]) if rows else part

        return tree_map(unflattened, given)


def _require_stated_count(family: Any) -> None:
    """Refuse a family whose `forward` takes another number of parameters than it states, and say what to state."""
    count = num_parameters_of(family)
    if not callable(getattr(family, "forward", family)):
        raise TypeError(
            f"family must be a module from parameters to a distribution, as Normal() is, got {family!r:.80}"
        )
    try:
        signature = inspect.signature(getattr(family, "forward", family))
    except ValueError:
        raise TypeError(f"family must be a module from parameters to a distribution, got {family!r:.80}") from None
    try:
        signature.bind(*range(count))
    except TypeError:
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = sum(each.kind in by_place and each.default is each.empty for each in signature.parameters.values())
        name = type(family).__name__
        raise ValueError(
            f"{name} has {count} parameter{'s' if count > 1 else ''} per entry by its num_parameters, which is 1 where "
            f"it is left out, and its forward takes {signature}: set num_parameters = {needed} in {name}"
        ) from None


def num_parameters_of(family: nn.Module) -> int:
    """The number of parameters of an entry, by the family's `num_parameters`; 1 where it does not say."""
    count: int = getattr(family, "num_parameters", 1)
    return count
