"""The likelihood of real entries with heavy tails."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.parts.counts import stirling_error
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.parts.scaled import Scaled, linked
from pyrovae.models.registry import register

__all__ = ["StableStudentT", "StudentT", "log_gamma_half_ratio"]


@register("student_t", kind="likelihood")
class StudentT(Scaled):
    """Real values with heavy tails: x = loc(z) + scale t, t of Student's distribution with `df` degrees of freedom.

    `df` is fixed, or learned as df_floor + exp(.) from `initial_df` where it is None; it is one number for all entries.
    With df of 1 or less there is no mean and `decode` refuses, with 2 or less there is no variance; a learned df stays
    above `df_floor`, 1 by default. `scale` is fixed, or learned as floor + exp(log_scale) from `initial_scale` where it
    is None, one for all entries or `per_entry`; it is no standard deviation, which is scale sqrt(df / (df - 2)). `link`
    "sigmoid" keeps the location in [0, 1].

    >>> import torch
    >>> from pyrovae import StudentT
    >>> StudentT(df=4.0, scale=1.0)(torch.zeros(2)).log_prob(torch.tensor([0.0, 10.0]))
    tensor([-0.9808, -9.1261])
    """

    support = constraints.real
    base_measure = "density"
    image_arguments: ClassVar[dict[str, Any]] = {"link": "sigmoid"}
    fixed_df: Tensor

    def __init__(
        self,
        df: float | None = None,
        *,
        initial_df: float = 4.0,
        df_floor: float = 1.0,
        scale: float | None = None,
        initial_scale: float = 1.0,
        floor: float = 1e-3,
        link: Literal["identity", "sigmoid"] = "identity",
        per_entry: bool = False,
    ) -> None:
        super().__init__(scale, initial_scale=initial_scale, floor=floor, per_entry=per_entry, link=link)
        self._df = None if df is None else checks.positive("df", df)
        self.initial_df = checks.positive("initial_df", initial_df)
        self.df_floor = checks.positive("df_floor", df_floor)
        if df is not None:
            self.register_buffer("fixed_df", torch.tensor(checks.positive("df", df), dtype=torch.float64))
            return
        if not 1e-4 < self.initial_df - self.df_floor < 1e4:
            raise ValueError(
                f"initial_df must be greater than df_floor ({df_floor:g}), by less than 10,000, got {initial_df!r}"
            )
        start = math.log(self.initial_df - self.df_floor)
        self.raw_df = nn.Parameter(torch.tensor(10 * math.atanh(start / 10)))

    @property
    def df(self) -> Tensor:
        """The degrees of freedom; learned, they are at most 22,000 above their floor, where the tails are normal."""
        return self.fixed_df if self._df is not None else self.df_floor + bounded_scale(self.raw_df)

    def forward(self, loc: Tensor) -> TorchDistribution:
        return StableStudentT(self.df.to(loc), linked(loc, self.link), self.scale_in(loc))

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        own = f"df={self._df!r}, initial_df={self.initial_df!r}, df_floor={self.df_floor!r}"
        return f"{own}, {Scaled.extra_repr(self)}"


class StableStudentT(dist.StudentT):
    """Student's t whose log-density keeps its figures for many degrees of freedom in single precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        log_constant = log_gamma_half_ratio(self.df / 2) - 0.5 * (self.df * math.pi).log() - self.scale.log()
        return log_constant - 0.5 * (self.df + 1) * (t.square() / self.df).log1p()

    @property
    def mean(self) -> Tensor:
        """The location; NaN where there is no mean."""
        return torch.where(self.df > 1, self.loc, math.nan)


def log_gamma_half_ratio(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a) for a > 0, without a difference of terms that are as large as these.

    >>> import torch
    >>> from pyrovae.models.parts.student_t import log_gamma_half_ratio
    >>> log_gamma_half_ratio(torch.tensor([0.5, 1e8]))
    tensor([-0.5724,  9.2103])
    """
    half = 0.5 / a
    return 0.5 * a.log() + a * half.log1p() - 0.5 + stirling_error(a + 0.5) - stirling_error(a)
