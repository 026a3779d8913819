"""log p(x) by numerical integration over a code of one or two dimensions, with the error it still has."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.cell_rule import CellRule, table_is_of_model
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.members import by_members
from pyrovae.evaluation.session import TAKES, Session, split_of
from pyrovae.models.batch import items_of, keywords_of
from pyrovae.models.layers import LAYERS_ALIVE, rows_within
from pyrovae.models.missing import completed
from pyrovae.models.pair import Pair
from pyrovae.models.particles import latent_law
from pyrovae.seeding import Noise, stream

__all__ = ["quadrature"]

NODES = {1: 15, 2: 7}  # Gauss-Legendre nodes a side of a cell
ROOTS = 0.4  # side of a first cell, in standard deviations of the prior
PRIOR_DRAWS = 100_000  # the box of this many draws holds 99.999 % of the prior's mass
GUIDE_DRAWS = 32  # per item, to see where its code lies
ITEMS = 256  # that share one grid
CHUNK_BYTES = 256 * 2**20
MAX_VALUES = 30_000_000  # of log p(x, z) at the first nodes, 8 bytes each and some copies
NOTABLE = 25.0  # nats below an item's highest point that still count
SEEN = 8.0  # nats that log p(x, z) may fall from a highest node to its neighbours and the rule still see the mode
LEAST_TOL = float(np.finfo(np.float64).eps)
MAX_ROUNDS = 40
MAX_LEVEL = 20  # halvings of a first cell's side
NEGLIGIBLE = 1e-3  # share of tol: what a cell may hold without being looked at
SAFETY = 2.0  # a cell with a kink may agree with its children by chance

WORDS = {
    "value": ("log p(x)", "nats"),
    "se": ("estimated error of the quadrature", "nats"),
    "posterior_mean": ("mean of p(z | x)", "1"),
    "posterior_covariance": ("covariance of p(z | x)", "1"),
}


@checks.allocating
@by_members
def quadrature(
    pair: Pair,
    x: Any,
    *,
    tol: float = 1e-4,
    max_evaluations: int = 4_000_000,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Estimate:
    """log p(x), the log of the integral of p(x | z) p(z) over a code of one or two dimensions, within `tol` nats.

    In float64, by Gauss-Legendre rules on cells of a grid that is refined where any item's own
    error asks for it. A cell's error is the difference between its rule and the sum of its
    children's, whose value is kept: an over-estimate for smooth decoders, and it sees the kinks of
    piecewise linear ones. The domain starts from a box with 99.999 % of the prior's mass and from
    where the guide puts the items' codes; it grows while a cell at its border holds a part of an
    item's mass that matters. From each local maximum of log p(x, z) among the first nodes, a
    twentieth of a standard deviation of the prior apart, that may hide a mode, and from each item's
    code, the grid is refined uphill whatever the first rule says. A mode of a thousandth of the
    prior's standard deviation may still be missed, and so is one outside the box that neither the
    guide nor growing mass points to.

    Each item is scored at each node. With a likelihood that has `natural_parameter`, as `Bernoulli`
    and `ContinuousBernoulli` have, that is one matrix product for up to 256 items together; any
    other is called for each item and node, which takes ten to thirty times as long, a tenth of a
    second and more per item of a few dozen entries with a code of two dimensions. There is no
    progress bar: the time for a few items says what all of them take.

    Returns an `Estimate` whose "se" is the sum of the cells' errors relative to p(x), and with the
    moments of p(z | x) as "posterior_mean" and "posterior_covariance". Raises ValueError for
    discrete codes, codes of more dimensions and where the pair has no p(x), and where the first
    grid of a batch of up to 256 items needs more than `max_evaluations` decodings. No refinement
    starts after so many; where an item is then not within `tol` it warns, and "se" says how far it
    came: inf where mass still leaves the grid.

    >>> import torch
    >>> import pyrovae
    >>> vae, x = pyrovae.linear_vae(5, 2), torch.zeros(3, 5)
    >>> abs((pyrovae.quadrature(vae, x, tol=1e-8) - pyrovae.exact(vae, x)).mean) < 1e-8
    True
    """
    session = Session("quadrature", pair)
    double = session.in_float64()  # whose parts all have one dtype, also where a plain tensor of the prior has another
    session.require_continuous(double)
    if checks.positive("tol", tol) < LEAST_TOL:
        raise ValueError(f"tol must be at least {LEAST_TOL:.1e} nats, the spacing of float64 numbers at 1; got {tol!r}")
    checks.whole("max_evaluations", max_evaluations)
    given = split_of(x, "quadrature", covariates, exposure, weight, missing)
    items = session.items(given, takes=TAKES, guide=False)  # which refuses a size of codes that is stated wrongly
    if pair.latent_dim not in NODES:
        raise ValueError(
            f"quadrature is for codes of 1 or 2 dimensions, this pair's has {pair.latent_dim}: take ais, or iwae where "
            "its pareto_k stays under 0.7"
        )
    session.require_whole()
    space = session.workspace(Noise(stream(0, "quadrature"), items.device), pair=double)
    solved = []
    in_full = items.double()
    rule = CellRule(double, space, by_parts=table_is_of_model(session, double, in_full))
    parts = in_full.split(ITEMS)
    for number, part in enumerate(parts):
        solved += _solved(rule, part, tol, max_evaluations)
        rule.compile_if_it_pays(done=number + 1, left=len(items) // ITEMS - number - 1)
    columns = {name: np.concatenate([one[name] for one in solved]) for name in solved[0]}
    decodings = sum(int(one["decodings"][0]) for one in solved)
    missed = int((~(columns["se"] <= tol)).sum())
    if missed:
        checks.warn(
            f"quadrature: {missed} of {len(items)} items have an error over tol={tol:g} after {decodings:,} decodings "
            f"(up to {columns['se'].max():.2g} nats); {_advice(columns['se'], decodings, max_evaluations)}",
            RuntimeWarning,
        )
    dims = ("item", "latent_dim", "latent_dim_")
    variables = {
        "value": columns["value"],
        "se": columns["se"],
        "posterior_mean": (dims[:2], columns["mean"]),
        "posterior_covariance": (dims, columns["covariance"]),
    }
    session.protocol |= {"tol": tol, "decodings": decodings}
    return session.estimate(variables, bound="exact", errors="grid error", words=WORDS)


def _solved(rule: CellRule, x: Any, tol: float, max_evaluations: int) -> list[dict[str, np.ndarray]]:
    """The items on one grid, or on several where one would hold too many values."""
    grid = _Grid(rule, x, tol, max_evaluations)
    nodes = len(grid.roots) * len(grid.nodes)
    if nodes > max_evaluations:
        raise ValueError(
            f"the first grid over the prior's mass and the guide's codes has {nodes:,} nodes and max_evaluations is "
            f"{max_evaluations:,}: raise it, or take ais (a prior with heavy tails, or a guide far wider than it?)"
        )
    if nodes * len(x) > MAX_VALUES and len(x) > 1:
        return [one for half in x.chunk(2) for one in _solved(rule, half, tol, max_evaluations)]
    return [grid.solve()]


@dataclass
class _Cells:
    """U cells of a grid shared by n items, and each item's integral over each."""

    level: Tensor  # (U,)
    index: Tensor  # (U, d): the lower corner is index * side / 2^level
    log_mass: Tensor  # (U, n)
    peak: Tensor  # (U, n): highest log p(x, z) among the nodes
    depth: Tensor  # (U, n): how far below it the lowest is
    first: Tensor  # (U, n, d): mean of z over the cell
    second: Tensor  # (U, n, d, d)
    log_error: Tensor  # (U, n)

    def __getitem__(self, which: Tensor) -> _Cells:
        return _Cells(*(value[which] for value in vars(self).values()))

    def __add__(self, other: _Cells) -> _Cells:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Cells(*(torch.cat(both) for both in pairs))


class _Tree:
    """Every cell that was ever looked at, by its key: its highest node's log p(x, z), and how deep it falls."""

    def __init__(self, keys: Tensor, peak: Tensor, depth: Tensor) -> None:
        self.keys, self.peak, self.depth = keys, peak, depth
        self.sorted, self.order = keys.sort()

    def add(self, keys: Tensor, peak: Tensor, depth: Tensor) -> None:
        parts = ((self.keys, keys), (self.peak, peak), (self.depth, depth))
        self.__init__(*(torch.cat(both) for both in parts))  # type: ignore[misc]

    def rows(self, keys: Tensor) -> Tensor:
        """Where they are; any row for those that are not."""
        return self.order[torch.searchsorted(self.sorted, keys).clamp(max=len(self.sorted) - 1)]

    def holds(self, keys: Tensor) -> Tensor:
        return self.keys[self.rows(keys)] == keys

    def peaks(self, keys: Tensor, item: Tensor) -> Tensor:
        """The height of each row's item at its keys, (W, k): -inf for cells that are not."""
        rows = self.rows(keys)
        return torch.where(self.keys[rows] == keys, self.peak[rows, item[:, None]], -math.inf)


class _Grid:
    """The adaptive grid of one batch of items."""

    def __init__(self, rule: CellRule, x: Any, tol: float, max_evaluations: int) -> None:
        self.rule, self.x, self.tol, self.max_evaluations = rule, x, tol, max_evaluations
        pair = rule.pair
        self.size, self.decodings = pair.latent_dim, 0
        self.tree: Any = None
        self.heights: list[Tensor] = []  # log p(x, z) at the first cells' nodes, (u, m, n) each
        budget = CHUNK_BYTES * LAYERS_ALIVE
        self.per_code = budget // rows_within(pair, x, budget)  # bytes of what a decoder holds for one code
        if not rule.is_product:
            self.per_code += LAYERS_ALIVE * x.numel() * x.element_size()
        nodes, weights = (
            torch.from_numpy(a).to(items_of(x)) for a in np.polynomial.legendre.leggauss(NODES[self.size])
        )
        axes = [(nodes + 1) / 2] * self.size
        self.nodes = torch.cartesian_prod(*axes).reshape(-1, self.size)  # of the unit cell
        products = torch.cartesian_prod(*[weights / 2] * self.size).reshape(-1, self.size).prod(-1)
        self.log_weights = products.log()
        self.children = torch.tensor(list(itertools.product((0, 1), repeat=self.size)), device=x.device)
        with rule.space.turn():
            prior = _draws_of_prior(pair, x, PRIOR_DRAWS)
            codes = _draws_of_guide(pair, x, GUIDE_DRAWS)
        self.side = ROOTS * prior.std(0)
        low, high = (self._root(edge) for edge in (prior.amin(0), prior.amax(0)))
        box = torch.cartesian_prod(
            *[torch.arange(a, b + 1, device=x.device) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        )
        self.codes, self.spread = codes.mean(0), codes.std(0).amin(-1)
        near = self._root(codes.flatten(0, 1))
        self.roots = torch.cat([box.reshape(-1, self.size), *(near + step for step in self._steps())]).unique(dim=0)

    def solve(self) -> dict[str, np.ndarray]:
        cells = self._evaluated(torch.zeros(len(self.roots), dtype=torch.long, device=self.x.device), self.roots)
        cells, leaving = self._grown(cells)
        cells = self._climbed(cells)
        for _ in range(MAX_ROUNDS):
            wide = self._wider_than_the_guide(cells) | self._coarse_beside_mass(cells)
            if not wide.any() or self.decodings >= self.max_evaluations:
                break
            cells = self._refined(cells, wide)
        for _ in range(MAX_ROUNDS):
            total, error = cells.log_mass.logsumexp(0), cells.log_error.logsumexp(0)
            open_items = error - total > math.log(self.tol)
            if not open_items.any() or self.decodings >= self.max_evaluations:
                break
            share = cells.log_error - total
            wanted = (share > math.log(self.tol / 2) - math.log(len(cells.level))) & open_items
            which = (wanted.any(1) & (cells.level < MAX_LEVEL)) | self._coarse_beside_mass(cells)
            if not which.any():
                break
            cells = self._refined(cells, which)
        share = (cells.log_mass - total).exp()[..., None]
        mean = (share * cells.first).sum(0)
        second = (share[..., None] * cells.second).sum(0)
        covariance = second - mean[..., None] * mean[..., None, :]
        se = torch.where(leaving, math.inf, (error - total).exp())
        columns = {"value": total, "se": se, "mean": mean, "covariance": covariance}
        columns["decodings"] = torch.full((len(self.x),), self.decodings)
        return {name: value.cpu().numpy() for name, value in columns.items()}

    def _root(self, z: Tensor) -> Tensor:
        return (z / self.side).floor().long()

    def _steps(self) -> list[Tensor]:
        """To a cell and its neighbours."""
        return list(torch.tensor(list(itertools.product((-1, 0, 1), repeat=self.size)), device=self.x.device))

    def _evaluated(self, level: Tensor, index: Tensor) -> _Cells:
        """Each cell's rule; its error counts as its whole mass until its children have been seen."""
        per_cell = len(self.nodes) * (self.per_code + len(self.x) * 8 * 4)
        parts = []
        for which in torch.arange(len(level), device=level.device).split(max(1, CHUNK_BYTES // per_cell)):
            side = self.side * 0.5 ** level[which, None]
            z = (index[which] * side)[:, None] + self.nodes * side[:, None]  # (u, m, d)
            *moments, log_joint = self.rule(self.x, z, self.log_weights, side.log().sum(-1))
            parts.append(moments)
            if self.tree is None:
                self.heights.append(log_joint)
            self.decodings += z.shape[0] * z.shape[1]
        log_mass, peak, depth, first, second = (torch.cat(column) for column in zip(*parts, strict=True))
        return _Cells(level, index, log_mass, peak, depth, first, second, log_mass)

    def _grown(self, cells: _Cells) -> tuple[_Cells, Tensor]:
        """With more cells at the border until no item has mass there that matters; and the items that still have."""
        while True:
            share = cells.log_mass - cells.log_mass.logsumexp(0)
            matters = share > math.log(self.tol * NEGLIGIBLE)
            known = self._keys(cells.level, cells.index)
            around = torch.stack([cells.index + step for step in self._steps()])
            missing = ~torch.isin(self._keys(cells.level.expand(len(around), -1), around), known)
            leaving = (matters & missing.any(0)[:, None]).any(0)
            fresh = missing & matters.any(1)
            if not fresh.any() or self.decodings >= self.max_evaluations:
                return cells, leaving
            index = around[fresh].unique(dim=0)
            cells = cells + self._evaluated(torch.zeros(len(index), dtype=torch.long, device=index.device), index)

    def _climbed(self, cells: _Cells) -> _Cells:
        """Refined uphill, from each item's code and from the highest of neighbouring nodes of the first cells.

        A way goes to the highest cell around it and then to that cell's highest child. It ends
        where the cell's rule sees what is in it, or where even another fall as deep as that from
        its highest to its lowest node would not lift it to what counts.
        """
        self.tree = _Tree(self._keys(cells.level, cells.index), cells.peak, cells.depth)
        item, index, level = self._tops(cells)
        codes = torch.arange(len(self.x), device=self.x.device)
        item, index = torch.cat([codes, item]), torch.cat([self._root(self.codes), index])
        level = torch.cat([torch.zeros_like(codes), level])
        around, children = torch.stack(self._steps()), self.children
        while len(item) and self.decodings < self.max_evaluations:
            beside = self._keys(level[:, None].expand(-1, len(around)), index[:, None] + around)
            if (absent := ~self.tree.holds(beside)).any():
                wanted = self._ancestors(cells, *_broadcast(level, index[:, None] + around, absent))
                if wanted.any():
                    cells = self._refined(cells, wanted)
                    continue
            heights = self.tree.peaks(beside, item)
            highest = heights.max(1)
            ahead = highest.values > self.tree.peaks(self._keys(level, index)[:, None], item)[:, 0]
            index = torch.where(ahead[:, None], index + around[highest.indices], index)
            level, index, item = _distinct(level, index, item)
            if ahead.any():
                continue
            rows = self.tree.rows(self._keys(level, index))
            peak, depth = self.tree.peak[rows, item], self.tree.depth[rows, item]
            # a mode between its nodes may count
            on = (depth > SEEN) & (peak + depth > self.tree.peak.amax(0)[item] - NOTABLE) & (level < MAX_LEVEL)
            level, index, item = level[on], index[on], item[on]
            here = torch.isin(self._keys(cells.level, cells.index), self._keys(level, index))
            if here.any():
                cells = self._refined(cells, here)
            below = 2 * index[:, None] + children
            keys = self._keys((level + 1)[:, None].expand(-1, len(children)), below)
            heights = self.tree.peaks(keys, item)
            index = below[torch.arange(len(item), device=item.device), heights.argmax(1)]
            level = level + 1
        self.tree = None
        return cells

    def _tops(self, cells: _Cells) -> tuple[Tensor, Tensor, Tensor]:
        """Item, and index and level of a cell about as wide as its nodes are apart, for each top that hides a mode."""
        count = NODES[self.size]
        place = torch.cartesian_prod(*[torch.arange(count, device=self.x.device)] * self.size).reshape(-1, self.size)
        lattice = (cells.index[:, None] * count + place).flatten(0, 1)
        height = torch.cat(self.heights).flatten(0, 1)  # (U m, n)
        self.heights = []
        keys = self._keys(torch.zeros_like(lattice[:, 0]), lattice)
        ordered, order = keys.sort()
        top, lowest = torch.ones_like(height, dtype=torch.bool), height.clone()
        # with a row for neighbours that are not there, which no node is below, or above
        absent = height.new_full(height[:1].shape, math.inf)
        above = torch.cat([height, -absent])
        below = torch.cat([height.where(height.isfinite(), absent), absent])
        for step in self._steps():
            wanted = self._keys(torch.zeros_like(keys), lattice + step)
            rows = order[torch.searchsorted(ordered, wanted).clamp(max=len(ordered) - 1)]
            rows = torch.where(keys[rows] == wanted, rows, len(height))
            top &= height >= above[rows]
            torch.minimum(lowest, below[rows], out=lowest)
        drop = height - lowest
        which, item = (top & (drop > SEEN) & (height + drop > height.amax(0) - NOTABLE)).nonzero().T
        level = math.ceil(math.log2(count))
        z = (cells.index[:, None] + self.nodes).flatten(0, 1)[which]  # in sides of a first cell
        return item, (z * 2**level).floor().long(), torch.full_like(item, level)

    def _ancestors(self, cells: _Cells, level: Tensor, index: Tensor) -> Tensor:
        """The cells that hold these finer ones."""
        keys = self._keys(cells.level, cells.index)
        holds = torch.zeros_like(cells.level, dtype=torch.bool)
        for up in range(1, int(level.max()) + 1):
            deep = level >= up
            holds |= torch.isin(keys, self._keys(level[deep] - up, index[deep] >> up))
        return holds

    def _wider_than_the_guide(self, cells: _Cells) -> Tensor:
        """Cells that hold an item's code and are too wide to see a posterior as narrow as the guide's."""
        side = self.side * 0.5 ** cells.level[:, None]
        low = (cells.index * side)[:, None]
        inside = ((self.codes >= low) & (self.codes < low + side[:, None])).all(-1)
        wide = inside & (side.amax(-1)[:, None] > 4 * self.spread)
        return wide.any(1) & (cells.level < MAX_LEVEL)

    def _coarse_beside_mass(self, cells: _Cells) -> Tensor:
        """Cells that touch one with mass and are more than one level coarser: mass at their edge escapes their rule."""
        share = cells.log_mass - cells.log_mass.logsumexp(0)
        heavy = (share > math.log(self.tol * NEGLIGIBLE)).any(1)
        around = torch.cat([cells.index[heavy] + step for step in self._steps()])
        level = cells.level[heavy].repeat(len(self._steps()))
        coarse = torch.zeros_like(heavy)
        deep = level >= 2
        if deep.any():  # their neighbours' parents would do, so what holds those is too coarse
            coarse = self._ancestors(cells, level[deep] - 1, around[deep] >> 1)
        return coarse

    def _keys(self, level: Tensor, index: Tensor) -> Tensor:
        """One whole number for each cell."""
        key = level.clone()
        for i in range(self.size):
            key = (key << 28) + index[..., i] + 2**27
        return key

    def _refined(self, cells: _Cells, which: Tensor) -> _Cells:
        """Those cells replaced by their children, which share what their sum differs by from the cell's own rule."""
        old, rest = cells[which], cells[~which]
        count = len(self.children)
        index = (2 * old.index[:, None] + self.children).flatten(0, 1)
        new = self._evaluated((old.level + 1).repeat_interleave(count), index)
        together = new.log_mass.unflatten(0, (-1, count)).logsumexp(1)
        top = torch.maximum(together, old.log_mass)
        difference = ((together - top).exp() - (old.log_mass - top).exp()).abs().nan_to_num(0.0)
        each = top + (SAFETY * difference / count).log()
        new.log_error = each.repeat_interleave(count, 0)
        if self.tree is not None:
            self.tree.add(self._keys(new.level, new.index), new.peak, new.depth)
        return rest + new


def _advice(se: np.ndarray, decodings: int, max_evaluations: int) -> str:
    if np.isnan(se).any():
        return "the decoder gives NaN where the prior has mass"
    if decodings >= max_evaluations:
        return f"raise max_evaluations ({max_evaluations:,})"
    return "the grid is as fine as it gets: tol is below what rounding leaves"


def _broadcast(level: Tensor, index: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    return level[:, None].expand(which.shape)[which], index[which]


def _distinct(level: Tensor, index: Tensor, item: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.cat([level[:, None], index, item[:, None]], 1).unique(dim=0)
    return rows[:, 0], rows[:, 1:-1], rows[:, -1]


def _draws_of_prior(pair: Any, x: Any, count: int) -> Tensor:
    """Draws of the prior, (count, latent_dim)."""
    if beside := keywords_of(x):
        law = latent_law(pair.model, size=len(x), **beside)  # of each item's own prior as many
        draws: Tensor = law.sample((-(-count // len(x)),)).flatten(0, 1)
        return draws.to(items_of(x))
    return latent_law(pair.model, size=1).sample((count,))[:, 0].to(items_of(x))


def _draws_of_guide(pair: Any, x: Any, count: int) -> Tensor:
    """Draws of the guide, (count, N, latent_dim)."""
    return latent_law(pair.guide, completed(pair, x)).sample((count,)).to(items_of(x))
