"""Monotone rational-quadratic splines as a transform of single numbers, exact in both directions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

__all__ = ["MonotoneSpline", "spline_parameters"]

BOUND = 4.0  # the spline is the identity outside of [-4, 4]
LEAST = 1e-3  # width and height of a bin as a share of all, and slope at a knot
IDENTITY = math.log(math.expm1(1.0 - LEAST))  # raw slopes of 0 are slopes of 1


def spline_parameters(num_bins: int) -> int:
    """The number of raw parameters of a spline: widths, heights, and the slopes at the inner knots."""
    return 3 * num_bins - 1


class MonotoneSpline(Transform):
    """A rational-quadratic spline on [-4, 4] in each entry, the identity outside (Durkan et al. 2019, section 3.1).

    `raw` has shape (..., D, 3 num_bins - 1) for inputs (..., D), any numbers; zeros are the identity. Value, slope and
    inverse are closed forms without a choice that depends on values, so that the transform is part of a compiled
    step; the slope is continuous, at the ends too.

    >>> import torch
    >>> from pyrovae.models.splines import MonotoneSpline
    >>> spline = MonotoneSpline(torch.linspace(-1, 1, 11).expand(1, 11))
    >>> z = torch.tensor([0.3])
    >>> bool((spline.inv(spline(z)) - z).abs() < 1e-5)
    True
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, raw: Tensor, cache_size: int = 1) -> None:
        super().__init__(cache_size=cache_size)
        self.raw = raw

    def with_cache(self, cache_size: int = 1) -> MonotoneSpline:
        return MonotoneSpline(self.raw, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        share, bin_of = self._place(x, self._knots()[0], inverse=False)
        return torch.where(x.abs() < BOUND, bin_of["low"] + bin_of["height"] * _height(share, bin_of), x)

    def _inverse(self, y: Tensor) -> Tensor:
        share, bin_of = self._place(y, self._knots()[1], inverse=True)
        return torch.where(y.abs() < BOUND, bin_of["left"] + bin_of["width"] * share, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        share, bin_of = self._place(x, self._knots()[0], inverse=False)
        secant, other = bin_of["secant"], share * (1 - share)
        rise = bin_of["right_slope"] * share.square() + 2 * secant * other + bin_of["left_slope"] * (1 - share).square()
        log_slope = 2 * secant.log() + rise.log() - 2 * _denominator(share, bin_of).log()
        return torch.where(x.abs() < BOUND, log_slope, torch.zeros_like(x))

    def _knots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the knots in input and output, (..., D, num_bins + 1), and the slopes there."""
        bins = (self.raw.shape[-1] + 1) // 3
        widths, heights, slopes = self.raw.split([bins, bins, bins - 1], -1)
        slopes = nn.functional.pad(LEAST + nn.functional.softplus(slopes + IDENTITY), (1, 1), value=1.0)
        return _cumulative(widths), _cumulative(heights), slopes

    def _place(self, value: Tensor, knots: Tensor, *, inverse: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of its bin's width at which a number lies, and the bin."""
        at_x, at_y, slopes = self._knots()
        inside = value.clamp(-BOUND, BOUND)  # a number outside has no bin, and no part in gradients
        # the bin is a count of knots and no search: this is also right where the knots have no batch of their own
        index = (inside[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)

        def of_bin(table: Tensor) -> Tensor:
            return table.expand(*index.shape[:-1], -1).gather(-1, index).squeeze(-1)

        left, low = of_bin(at_x[..., :-1]), of_bin(at_y[..., :-1])
        width, height = of_bin(at_x.diff(dim=-1)), of_bin(at_y.diff(dim=-1))
        bin_of = {"left": left, "low": low, "width": width, "height": height, "secant": height / width}
        bin_of |= {"left_slope": of_bin(slopes[..., :-1]), "right_slope": of_bin(slopes[..., 1:])}
        if not inverse:
            return (inside - left) / width, bin_of
        # the root in [0, 1] of a quadratic (Durkan et al. 2019, appendix A.2), in the form in which b and the square
        # root have one sign; where b is negative a exceeds -b, because a + b + c is at least 0 and c at most 0
        rise, secant = (inside - low) / height, bin_of["secant"]
        bend = rise * (bin_of["left_slope"] + bin_of["right_slope"] - 2 * secant)
        a, b, c = secant - bin_of["left_slope"] + bend, bin_of["left_slope"] - bend, -secant * rise
        root = (b.square() - 4 * a * c).clamp(min=torch.finfo(value.dtype).tiny).sqrt()
        falls = b < 0
        share: Tensor = torch.where(falls, root - b, -2 * c) / torch.where(falls, 2 * a, root + b)
        return share.clamp(0, 1), bin_of


def _cumulative(raw: Tensor) -> Tensor:
    """Knots in increasing order, from -4 to 4, of raw widths."""
    share = LEAST + (1 - LEAST * raw.shape[-1]) * raw.softmax(-1)
    inner = 2 * BOUND * share.cumsum(-1)[..., :-1] - BOUND
    inner = nn.functional.pad(inner, (1, 0), value=-BOUND)
    return nn.functional.pad(inner, (0, 1), value=BOUND)


def _denominator(share: Tensor, bin_of: dict[str, Any]) -> Tensor:
    bend = bin_of["left_slope"] + bin_of["right_slope"] - 2 * bin_of["secant"]
    return bin_of["secant"] + bend * share * (1 - share)


def _height(share: Tensor, bin_of: dict[str, Any]) -> Tensor:
    """The share of its bin's height, equation 4."""
    rise = bin_of["secant"] * share.square() + bin_of["left_slope"] * share * (1 - share)
    height: Tensor = rise / _denominator(share, bin_of)
    return height
