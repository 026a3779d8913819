"""Items with entries missing, grouped by which were seen, and normal densities of what was seen of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pyrovae.models.covariance import ROWS

__all__ = [
    "Expected",
    "Group",
    "SeenItems",
    "SeenNormals",
    "ShareOf",
    "dense_expected",
    "diagonal_expected",
    "require_possible",
]

FLOATS = 2**22  # of the largest tensor of a part, 32 MiB
FEW = 2**16  # entries that are in one batch, whatever their padding

ShareOf = Callable[[Tensor, Tensor], Tensor]  # (rows, log-densities (R, K)) -> weights (R, K)


@dataclass(frozen=True)
class Group:
    """P sets of seen entries of one size s, with at most n items each: what one batch of factors is for.

    `rows` (P, n) are the items' indices, and `is_row` (P, n) says which of them are not padding; `seen` (P, s) and
    `missing` (P, D - s) are the indices of entries.
    """

    rows: Tensor
    is_row: Tensor
    seen: Tensor
    missing: Tensor

    def parts(self, floats_each: int) -> Iterator[Group]:
        """The group in parts that take up to `FLOATS` numbers, at `floats_each` for a set of seen entries."""
        step = max(1, FLOATS // max(1, floats_each))
        for start in range(0, len(self.rows), step):
            part = slice(start, start + step)
            yield Group(self.rows[part], self.is_row[part], self.seen[part], self.missing[part])

    @cached_property
    def index(self) -> Tensor:
        """The indices of the items, (R,), without padding."""
        return self.rows[self.is_row]

    @cached_property
    def back(self) -> Tensor:
        """The place of each entry in the row of seen entries and then missing ones; (P, D)."""
        return torch.cat([self.seen, self.missing], -1).argsort(-1)


class SeenItems:
    """Items (N, D) in which NaN is missing, and their groups by what was seen; items of which nothing was are in none.

    Groups are by the number of seen entries and, within a factor of 4, by how many items share a set of them: sums over
    a group are products of matrices, whether every item misses other entries or all miss the same.
    """

    def __init__(self, x: Tensor) -> None:
        self.seen = ~x.isnan()
        self.x = torch.where(self.seen, x, 0.0).double()

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def empty(self) -> Tensor:
        """The indices of the items of which nothing was seen."""
        return (~self.seen.any(1)).nonzero()[:, 0]

    @cached_property
    def groups(self) -> list[Group]:
        """The groups, whose `index` together are all items of which something was seen."""
        seen = self.seen.cpu().numpy()
        packed = np.ascontiguousarray(np.packbits(seen, axis=1))
        _, first, which, counts = np.unique(
            packed.view(np.dtype((np.void, packed.shape[1])))[:, 0],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        order, begin = np.argsort(which, kind="stable"), np.cumsum(counts) - counts
        # a set with many items is taken in blocks
        blocks = -(-counts // ROWS)
        kind = np.repeat(np.arange(len(counts)), blocks)
        block = np.arange(len(kind)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        start = begin[kind] + ROWS * block
        size = np.minimum(counts[kind] - ROWS * block, ROWS)
        masks = seen[first[kind]]
        number = masks.sum(1)
        level = np.ceil(np.log2(size) / 2).astype(int)
        for s in np.unique(number):
            of_number = number == s
            if of_number.sum() * size[of_number].max() * seen.shape[1] <= FEW:
                level[of_number] = 0  # one batch, for its padding costs less than another would
        groups = []
        for s, power in sorted({(int(s), int(p)) for s, p in zip(number, level, strict=True) if s}):
            of_group = np.nonzero((number == s) & (level == power))[0]
            place = np.arange(size[of_group].max())
            is_row = place < size[of_group, None]
            rows = order[np.where(is_row, start[of_group, None] + place, start[of_group, None])]
            entries = np.argsort(~masks[of_group], axis=1, kind="stable")  # the seen ones first, in order
            tensors = (rows, is_row, entries[:, :s], entries[:, s:])
            groups.append(Group(*(torch.from_numpy(each).to(self.x.device) for each in tensors)))
        return groups


class SeenNormals:
    """K normal densities of what was seen of a group's items, and of what was not, given that.

    `loc` (K, D); `covariance` (K, D, D), or (1, D, D) where all share it; in float64.
    """

    def __init__(self, loc: Tensor, covariance: Tensor, items: SeenItems, group: Group) -> None:
        self.group, self.covariance = group, covariance
        seen = group.seen
        x = items.x[group.rows].gather(-1, seen[:, None].expand(-1, group.rows.shape[1], -1))
        self.away = x - loc[:, seen][:, :, None]  # (K, P, n, s)
        self.factor = torch.linalg.cholesky(_blocks(covariance, seen, seen))  # (K or 1, P, s, s)
        self.solved = self._solve(self.away.mT)  # (K, P, s, n)

    def _solve(self, right: Tensor) -> Tensor:
        """L^-1 r for right-hand sides (K, P, s, n)."""
        if len(self.factor) == len(right):
            return torch.linalg.solve_triangular(self.factor, right, upper=False)
        k, p, s, n = right.shape  # one factor for all components: their right-hand sides side by side
        together = right.permute(1, 2, 0, 3).reshape(p, s, k * n)
        solved = torch.linalg.solve_triangular(self.factor[0], together, upper=False)
        return solved.reshape(p, s, k, n).permute(2, 0, 1, 3)

    def log_prob(self) -> Tensor:
        """log N(x_seen; loc_k, C_k) of the group's items, (R, K), in nats."""
        log_scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, :, None]
        constant = log_scale + 0.5 * self.group.seen.shape[1] * math.log(2 * math.pi)
        table = -0.5 * self.solved.square().sum(-2) - constant  # (K, P, n)
        return table.permute(1, 2, 0)[self.group.is_row]

    def add_to(self, expected: Expected, weight: Tensor) -> None:
        """Add the group's expected sums under weights (R, K) of its items and components."""
        group, number, features = self.group, len(self.away), self.covariance.shape[-1]
        share = self.away.new_zeros(*group.rows.shape, weight.shape[1])
        share[group.is_row] = weight
        share = share.permute(2, 0, 1)  # (K, P, n)
        filled = self.away
        if group.missing.shape[1]:
            across = _blocks(self.covariance, group.seen, group.missing)  # (K or 1, P, s, m)
            gain = torch.linalg.solve_triangular(self.factor, across, upper=False)
            within = _blocks(self.covariance, group.missing, group.missing) - gain.mT @ gain
            filled = torch.cat([self.away, self.solved.mT @ gain], -1)
            # of all components where they share a covariance
            mass = share.sum(-1) if len(within) == number else share.sum((0, 2))[None]
            spread = (within * mass[:, :, None, None]).flatten(1)
            place = _places(group.missing, group.missing, features).flatten()
            expected.second.view(len(within), -1).index_add_(1, place, spread)
        back = group.back[None, :, None].expand(*filled.shape[:3], -1)
        filled = filled.gather(-1, back).flatten(1, 2)  # (K, P n, D), about the locations
        weighted = filled * share.reshape(number, -1, 1)
        expected.total += share.sum((1, 2))
        expected.first += weighted.sum(1)
        if len(expected.second) == number:
            expected.second += weighted.mT @ filled
        else:
            expected.second += weighted.flatten(0, 1).mT @ filled.flatten(0, 1)


def _places(rows: Tensor, columns: Tensor, features: int) -> Tensor:
    """The places in a flattened (D, D) matrix of the blocks of rows (P, a) and columns (P, b); (P, a, b)."""
    return rows[:, :, None] * features + columns[:, None, :]


def _blocks(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The blocks (G, P, a, b) of matrices (G, D, D)."""
    place = _places(rows, columns, matrices.shape[-1])
    # a fifth of the time of indexing by two tensors
    return matrices.flatten(1).gather(1, place.flatten().expand(len(matrices), -1)).unflatten(1, place.shape)


def require_possible(joint: Tensor, what: str, advice: str) -> None:
    """Refuse items whose seen entries no component of a table of log p(component, x_seen), (N, K), can have given."""
    impossible = ~(joint > -math.inf).any(-1)
    if bool(impossible.any()):
        raise ValueError(
            f"x has {int(impossible.sum())} items, the first of them {int(impossible.nonzero()[0])}, whose seen "
            f"entries have {what}, and nothing follows from them: {advice}"
        )


@dataclass
class Expected:
    """The expected sums of an M-step, over items and about `loc` (K, D), such as the present locations.

    Dense covariances: `total` (K,) is sum_n w_nk, `first` (K, D) sum_n w_nk E[x_n - loc_k | x_n seen], and `second`
    (K, D, D) the same of the outer products, summed over k to (1, D, D) where all share one covariance. Diagonal ones:
    only seen entries count, and `mass`, `first` and `second`, all (K, D), are their weights, sums and sums of squares.
    """

    loc: Tensor
    total: Tensor
    first: Tensor
    second: Tensor
    mass: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The sums, which are added up over parts of the items."""
        return [self.total, self.first, self.second, *([] if self.mass is None else [self.mass])]

    def plus(self, other: Expected) -> Expected:
        """The sums over both, in the place of these, which are about the same locations."""
        for mine, more in zip(self.tensors, other.tensors, strict=True):
            mine += more
        return self


def dense_expected(loc: Tensor, covariance: Tensor, items: SeenItems, share_of: ShareOf) -> Expected:
    """The expected sums under weights that `share_of` gives for the log-densities of each item; in float64.

    `covariance` is (K, D, D), or (1, D, D) where all components share it. (Ghahramani and Jordan 1994, section 3.)
    """
    number, features = loc.shape
    zeros = loc.new_zeros
    expected = Expected(loc, zeros(number), zeros(number, features), zeros(len(covariance), features, features))
    for group in items.groups:
        floats_each = len(covariance) * features**2 + number * group.rows.shape[1] * features
        for part in group.parts(floats_each):
            normals = SeenNormals(loc, covariance, items, part)
            normals.add_to(expected, share_of(part.index, normals.log_prob()))
    return expected


def diagonal_expected(
    loc: Tensor, log_prob: Callable[[Tensor, Tensor], Tensor], items: SeenItems, share_of: ShareOf
) -> Expected:
    """The same where covariances are diagonal, with `log_prob(x, seen)` the log-densities of the seen entries."""
    number, features = loc.shape
    zeros = loc.new_zeros
    mass = zeros(number, features)
    expected = Expected(loc, zeros(number), zeros(number, features), zeros(number, features), mass)
    every = items.seen.any(1).nonzero()[:, 0]
    for rows in every.split(ROWS):
        x, seen = items.x[rows], items.seen[rows].double()
        weight = share_of(rows, log_prob(x, seen)).mT
        expected.total += weight.sum(1)
        mass += weight @ seen
        for k, centre in enumerate(loc):  # one by one: components may lie far apart
            away = (x - centre) * seen
            expected.first[k] += weight[k] @ away
            expected.second[k] += weight[k] @ away.square_()
    return expected
