"""Sufficient statistics of normal components: responsibilities and moments in one pass over blocks of items.

No table of N x K numbers is kept: a block's responsibilities are computed in place, and its moments are added to the
sums before the next block is read. Products are of differences from one origin, the items' mean. Whatever lies so far
from it, in its own standard deviations, that they would lose digits is taken about its own location instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.block_sums import Moments, parts_of_triangle
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import EMPTY, FAR, NEAR, triangular_inverse
from pyrovae.models.frame import Frame, Shares, rows_of_block
from pyrovae.models.products import keeps_float32
from pyrovae.models.remainder import has_lost_digits, remainder_of
from pyrovae.models.responsibilities import Posterior
from pyrovae.models.seen import Expected

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = ["are_single_enough", "expected_sums", "log_likelihood", "sums_of_shares", "within_variance_of"]

SINGLE_FAR = 100.0  # as FAR, of sums in float32, by which two of seven digits may be lost
SINGLE_NEAR = 1e3  # as NEAR, in float32
SINGLE_LEAST, SINGLE_MOST = 1e-14, 1e14  # differences whose squares float32 has, from 1e-38 to 1e38, with all digits


def expected_sums(
    parts: GaussianComponents, log_weights: Tensor, frame: Frame, *, single: bool = False
) -> tuple[Expected, float]:
    """The sums of an M-step under the responsibilities at the present parameters, and log p(x) per item in nats.

    Products are in float64, or where `single` in float32, which `are_single_enough` has to allow; sums are in float64.
    """
    dtype = torch.float32 if single else torch.float64
    size, blocks, origin = _rows_for(parts, frame.blocks, dtype), frame.blocks, frame.origin
    apart = [] if single else _apart(parts, frame, FAR, NEAR).nonzero().flatten().tolist()

    def run(centres: dict[int, Tensor], rest: int | None = None) -> tuple[Expected, Tensor]:
        scatter = frame.scatter if rest is not None or (parts.covariance == "tied" and not centres) else None
        if parts.covariance == "tied" and centres:  # its scatter is about one origin, or about each location
            centres = {**dict(enumerate(parts.loc.double())), **centres}
        posterior = Posterior(parts, log_weights, origin, size, dtype, apart)
        moments = Moments(parts.covariance, parts.num_components, origin, size, dtype, centres, scatter, rest)
        for place, rows, columns in frame.columns(parts.covariance, size, dtype):
            moments.add(rows, columns, posterior.of(rows, columns, blocks.weight_of(place)))
        blocks.reduce([*moments.sums, posterior.value])
        return moments.expected(), posterior.value

    centres = {k: parts.loc[k].double() for k in apart}
    rest = None
    if parts.covariance == "full" and parts.num_components > 1 and not single and not centres:
        rest = remainder_of(parts, log_weights, frame.squares, blocks.count)
    sums, value = run(centres, rest)
    if rest is not None and has_lost_digits(parts, sums, rest, frame.squares):
        sums, value = run(centres)
    lost = {} if single else _centres_of_lost(parts, sums)
    if lost:
        sums, value = run({**centres, **lost})
    return sums, float(value) / blocks.count


def log_likelihood(parts: GaussianComponents, log_weights: Tensor, frame: Frame, *, single: bool = False) -> float:
    """log p(x) per item, in nats: the weighted mean over the items. `single` is that of `expected_sums`."""
    dtype = torch.float32 if single else torch.float64
    size = _rows_for(parts, frame.blocks, dtype)
    apart = [] if single else _apart(parts, frame, FAR, NEAR).nonzero().flatten().tolist()
    posterior = Posterior(parts, log_weights, frame.origin, size, dtype, apart)
    for place, rows, columns in frame.columns(parts.covariance, size, dtype):
        posterior.of(rows, columns, frame.blocks.weight_of(place))
    frame.blocks.reduce([posterior.value])
    return float(posterior.value) / frame.blocks.count


def sums_of_shares(parts: GaussianComponents, frame: Frame, shares: Shares) -> Expected:
    """The sums of an M-step under given shares of the items."""
    size, origin = _rows_for(parts, frame.blocks, torch.float64), frame.origin

    def run(centres: dict[int, Tensor]) -> Expected:
        moments = Moments(parts.covariance, parts.num_components, origin, size, torch.float64, centres)
        for place, rows, columns in frame.columns(parts.covariance, size, torch.float64):
            weight, share = frame.blocks.weight_of(place), shares(place, rows).double()
            moments.add(rows, columns, share if weight is None else share * weight)
        frame.blocks.reduce(moments.sums)
        return moments.expected()

    sums = run({})
    lost = _centres_of_lost(parts, sums)
    return run(lost) if lost else sums


def within_variance_of(sums: Expected) -> Tensor:
    """The same of whole items, from the sums of an M-step; the mean over the columns where these are spherical."""
    between = sums.first.square() / sums.total.clamp(min=EMPTY)[:, None]
    if sums.mass is None:
        squares = sums.second.diagonal(dim1=-2, dim2=-1).sum(0) - between.sum(0)
    elif sums.second.shape == between.shape:
        squares = (sums.second - between).sum(0)
    else:
        squares = (sums.second.sum() - between.sum()).expand(between.shape[1]) / between.shape[1]
    return (squares / sums.total.sum()).clamp(min=0.0)


def are_single_enough(parts: GaussianComponents, frame: Frame) -> bool:
    """Whether products in float32 keep most of float32's digits at the present parameters."""
    if not keeps_float32(frame.blocks.device) or not _are_squares_in_range(parts, frame):
        return False
    if bool(_apart(parts, frame, SINGLE_FAR, SINGLE_NEAR).any()):
        return False
    if parts.lower is None:
        return True
    factor = parts.scale_tril
    share = parts.conditional_scale[: len(factor)].square() / factor.square().sum(-1)
    return bool(share.min() > 1 / SINGLE_FAR)  # of a column's variance that the other columns do not tell


def _are_squares_in_range(parts: GaussianComponents, frame: Frame) -> bool:
    """Whether float32 has the squares of differences, their sums and their reciprocals."""
    return float(parts.diagonal.min()) > SINGLE_LEAST and frame.reach < SINGLE_MOST


def _apart(parts: GaussianComponents, frame: Frame, far: float, near: float) -> Tensor:
    """Which components lie so far from the origin that products about it would lose digits; (K,)."""
    away = parts.loc.double() - frame.origin
    if parts.lower is None:
        ratio = (away / parts.diagonal).square()
        return ~((ratio.amax(1) <= far) & (ratio.sum(1) <= near))
    factor = parts.scale_tril
    ratio = away.square() / factor.square().sum(-1)
    white = (triangular_inverse(factor) @ away[:, :, None]).square().sum((1, 2))
    # differences of a full factor's products lose as many digits as their size has, and not twice as many
    return ~((ratio.amax(1) <= far) & (white <= (near if parts.covariance == "tied" else far**2)))


def _centres_of_lost(parts: GaussianComponents, sums: Expected) -> dict[int, Tensor]:
    """The means of components whose variances would lose too many digits by a subtraction of what these sums hold."""
    moved = sums.first / sums.total.clamp(min=EMPTY)[:, None]
    between = moved.square() * sums.total[:, None]
    least = parts.floors * sums.total[:, None]
    second = sums.second.diagonal(dim1=-2, dim2=-1) if parts.lower is not None else sums.second
    if parts.covariance == "tied":
        between, least = between.sum(0, keepdim=True), least.sum(0, keepdim=True)
    elif parts.covariance == "spherical":
        between, least = between.sum(1, keepdim=True), parts.features * least
    lost = (second > FAR * torch.maximum(second - between, least)).any(1) & (sums.total > EMPTY)
    return {k: sums.loc[k] + moved[k] for k in lost.nonzero().flatten().tolist()}


def _rows_for(parts: GaussianComponents, blocks: Blocks, dtype: torch.dtype) -> int:
    """How many rows a block has under a covariance structure."""
    widest = max(last - first for first, last in parts_of_triangle(parts.features))
    numbers = parts.num_components * widest if parts.covariance == "full" else parts.num_components
    return rows_of_block(max(numbers, 1 + 2 * parts.features), blocks, dtype)
