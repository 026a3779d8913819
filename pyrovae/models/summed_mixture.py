"""What mixtures share whose component is summed out exactly, whatever density an item has in it."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.frozen import frozen
from pyrovae.models.information import bic_of
from pyrovae.models.items import checked_items, plate_size, require_columns
from pyrovae.models.param_sites import HasParamSites, register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.seeding import forked, stream

__all__ = ["SummedMixture"]

MISSING = "pass missing=True where NaN marks what was not seen, or drop or impute them first"


class SummedMixture(HasParamSites):
    """p(x) = sum_k w_k p(x | k) as a pair: "component" ~ w, "obs" given the component, and an exact guide.

    A mixture has `num_components`, `num_parameters`, `least_scale(x)`, `conditional(x)`, and `components` whose
    `log_prob(x)` takes (N, features) to (N, K).
    """

    is_normalized = True
    takes_missing = True
    latent_dim = 0  # its one latent is a number of a component, and no code

    event_shape: tuple[int, ...]
    num_components: int
    components: Any
    logits: nn.Parameter  # of the components' probabilities, (K,)
    least_scale: Any
    conditional: Any

    def guide(self, x: Tensor | None = None, *, size: int = 1, missing: bool = False) -> Tensor:
        """p(component | x), exact, with `missing` given the seen entries; without `x` the weights."""
        register_param_sites(self._site_prefix, self)
        logits = self.logits if x is None else self.log_joint_table(x).to(self.logits)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            return pyro.sample("component", dist.Categorical(logits=logits), infer=ENUMERATED)

    def frozen(self) -> Self:
        """A copy that nothing trains, for a Pyro model of your own: see `pyrovae.models.frozen.frozen`."""
        return frozen(self)

    def log_prob(self, x: Any, *, missing: bool = False) -> Tensor:
        """log p(x) in nats, shape (N,), of items (N, *event_shape); differentiable.

        With `missing` NaN marks what was not seen, and the density is that of the seen entries alone (0 where none
        was). Normal components factor one covariance for all items that miss the same entries, and under
        `torch.no_grad()` memory does not grow with the number of such kinds. Raises ValueError for another shape, for
        NaN without `missing`, and for an entry that a column of a table cannot have, which it names.
        """
        return self.log_joint_table(self._items(x, missing=missing)).logsumexp(-1).to(self.logits)

    def responsibilities(self, x: Any, *, missing: bool = False) -> Tensor:
        """p(component | x), (N, K); with `missing`, of the seen entries alone."""
        return self.log_joint_table(self._items(x, missing=missing)).softmax(-1).to(self.logits)

    @checks.allocating
    def impute(self, x: Any, *, num_draws: int = 100, seed: int = 0) -> Tensor:
        """Draws from p(x_missing | x_seen) at these parameters: (num_draws, N, *event_shape).

        NaN in `x`, shape (N, *event_shape), or what a split says, is missing; seen entries come back unchanged in the
        mixture's dtype, and an item wholly missing gives draws from p(x). Entries that are missing together are drawn
        together. The draws are exact and independent, from the same distribution as those of
        `conditional(x).sample((num_draws,))`, and `seed` determines them. `pyrovae.multiple_imputation` gives
        draws that know that the parameters were fitted. Raises ValueError for counts below 1 and for items of
        another shape.

        >>> import torch
        >>> from pyrovae import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> draws = mixture.impute([[2.0, torch.nan]], num_draws=1000)
        >>> draws.shape, draws[:, 0, 0].unique().tolist(), bool((draws[:, 0, 1].mean() - 1).abs() < 0.1)
        (torch.Size([1000, 1, 2]), [2.0], True)
        """
        checks.whole("num_draws", num_draws)
        key = stream(checks.seed(seed), "impute")
        split = checks.split_of(x, takes=("missing", "weight"))
        require_columns(self, split.columns)
        given = self.conditional(checks.with_missing(split.x, split.missing))
        checks.whole("num_draws", num_draws, bytes_each=8 * given.x.numel())
        with torch.no_grad(), forked(key, given.x.device):
            draws: Tensor = given.sample((num_draws,))
        return draws

    @property
    def weights(self) -> Tensor:
        """The components' probabilities, (K,)."""
        return self.logits.softmax(-1)

    def bic(self, x: Any, *, weight: Any = None, missing: bool = False) -> float:
        """Bayesian information criterion, P log N - 2 log p(x), in nats over all items: lower is better (Schwarz 1978).

        `weight`, (N,), says how many times each item counts, and N is then their sum. With `missing` NaN marks what was
        not seen, and log p(x) is that of the seen entries.

        >>> import math
        >>> import torch
        >>> from pyrovae import GaussianMixture
        >>> mixture = GaussianMixture((1,), 1, covariance="spherical")
        >>> x = torch.randn(100, 1)
        >>> torch.isclose(torch.tensor(mixture.bic(x)), 2 * math.log(100) - 2 * mixture.log_prob(x).sum()).item()
        True
        """
        return bic_of(self, x, weight=weight, missing=missing)

    def log_joint_table(self, x: Tensor) -> Tensor:
        """log p(component, x), (N, *event_shape) to (N, K), in float64 and unchecked; NaN is missing."""
        table: Tensor = self.components.log_prob(x.flatten(1))
        return table + self.logits.double().log_softmax(-1)

    def _weigh(self, weights: Tensor) -> None:
        """Set the components' probabilities to shares of `weights`, (K,)."""
        least = torch.finfo(self.logits.dtype).tiny  # an empty component keeps a finite logit
        self.logits.copy_((weights / weights.sum()).clamp(min=least).log())

    def _items(self, x: Any, *, missing: bool = False) -> Tensor:
        items = checked_items(self, x, missing=missing, hint=MISSING, least_scale=self.least_scale)
        return items.to(self.logits.device)

    def _summary_count(self) -> str:
        return f"{self.num_parameters:,}"  # the free ones; tensors hold triangles as squares
