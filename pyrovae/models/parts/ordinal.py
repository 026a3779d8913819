"""The likelihood of entries that are codes of ordered categories, by their cumulative logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from pyrovae import checks
from pyrovae.models.parts.categorical import Codes, classes
from pyrovae.models.parts.encoder_inputs import OneHot
from pyrovae.models.registry import register

__all__ = ["Ordinal", "log_logistic_mass"]


@register("ordinal", kind="likelihood")
class Ordinal(nn.Module):
    """Entries that are codes 0..C - 1 in an order, by cumulative logits: p(x <= k) = s(c_k - l), with learned cuts c.

    The location l comes from the network; the cuts rise, c_0 < ... < c_(C - 2). Moving all cuts is the same as moving
    the locations, and stretching them the same as a scale of the logistic distribution: so the first cut is 0 and that
    scale is 1. `cuts` is "shared" for the same cuts of all entries, or "column" for own cuts of each entry of an item.
    They start with a uniform distribution at l = log(C - 1). Like categories the entries have no mean:
    `vae.probabilities(z)` is what `decode` is of others. (McCullagh 1980, section 2.)

    >>> import torch
    >>> from pyrovae import Ordinal
    >>> Ordinal(num_classes=3)(torch.tensor(2.0).log()).log_prob(torch.arange(3.0)).exp().detach()
    tensor([0.3333, 0.3333, 0.3333])
    """

    base_measure = "mass"

    def __init__(self, num_classes: int | None = None, *, cuts: Literal["shared", "column"] = "shared") -> None:
        super().__init__()
        self.num_classes = checks.whole("num_classes", classes("ordinal", num_classes), bytes_each=64)
        self.cuts = checks.choice("cuts", cuts, ("shared", "column"))
        self.register_parameter("raw_steps", None)
        self.raw_steps: nn.Parameter | None
        if self.cuts == "shared":
            self._make_steps(())

    @property
    def support(self) -> constraints.Constraint:
        """The codes 0..C - 1."""
        return constraints.integer_interval(0, self.num_classes - 1)

    def bind(self, event_shape: tuple[int, ...]) -> None:
        """Make the cuts of each entry of an item, where each has its own."""
        if self.cuts != "column":
            return
        if self.num_classes > 2 and self.raw_steps is None:
            self._make_steps(event_shape)
        elif self.raw_steps is not None and self.raw_steps.shape[:-1] != torch.Size(event_shape):
            raise ValueError(
                f"Ordinal has cuts for each entry of items of shape {tuple(self.raw_steps.shape[:-1])}, and is asked "
                f"for {tuple(event_shape)}: make a new one"
            )

    def ordered_cuts(self) -> Tensor:
        """The cuts, rising, (C - 1,) or (*event_shape, C - 1)."""
        if self.num_classes == 2:
            return torch.zeros(1)
        if self.raw_steps is None:
            raise ValueError(
                "Ordinal(cuts='column') has no cuts yet, because it does not know the shape of an item: call "
                "bind(event_shape), as Likelihood does"
            )
        # a least step: the mass between two cuts is never 0
        steps = softplus(self.raw_steps) + 1e-4
        return torch.nn.functional.pad(steps.cumsum(-1), (1, 0))

    def forward(self, loc: Tensor) -> Codes:
        cuts = self.ordered_cuts().to(loc)
        edges = cuts - loc[..., None]
        first, last = logsigmoid(edges[..., :1]), logsigmoid(-edges[..., -1:])
        between = log_logistic_mass(edges[..., :-1], edges[..., 1:], cuts.diff(dim=-1))
        return Codes(torch.cat([first, between, last], -1), name="ordinal")

    def probabilities(self, p: Codes) -> Tensor:
        """The probability of each category, in one more axis at the end."""
        return p.log_probabilities.exp()

    def encoder_input(self, event_shape: tuple[int, ...]) -> OneHot:
        """What a builder's encoder sees of the codes."""
        return OneHot(self.num_classes, len(event_shape))

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"num_classes={self.num_classes}, cuts={self.cuts!r}"

    def _make_steps(self, shape: tuple[int, ...]) -> None:
        """The cuts at the logits of equal shares, as what softplus makes their steps of."""
        if self.num_classes == 2:
            return
        share = torch.arange(1, self.num_classes, dtype=torch.float64) / self.num_classes
        raw = torch.log(torch.expm1((share.logit().diff() - 1e-4).clamp(min=1e-6))).to(torch.get_default_dtype())
        self.raw_steps = nn.Parameter(raw.expand(*shape, -1).clone())


def log_logistic_mass(lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
    """log(s(upper) - s(lower)), the mass of a standard logistic distribution in between, where width = upper - lower.

    It is log s(upper) + log s(-lower) + log(1 - exp(-width)), and finite wherever the interval lies.

    >>> import torch
    >>> from pyrovae.models.parts.ordinal import log_logistic_mass
    >>> log_logistic_mass(torch.tensor(499.0), torch.tensor(500.0), torch.tensor(1.0))
    tensor(-499.4587)
    """
    return logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
