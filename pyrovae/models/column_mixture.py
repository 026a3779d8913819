"""The latent class model of a table as a Pyro pair: columns of mixed kinds that are independent given the class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.columns import Column, checked_columns
from pyrovae.exclusive import exclusive
from pyrovae.models.column_conditional import ConditionalColumns
from pyrovae.models.column_families import FAMILIES, Family, family_of
from pyrovae.models.column_support import ColumnSupport
from pyrovae.models.component import Component
from pyrovae.models.covariance import ROWS
from pyrovae.models.items import plate_size
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.registry import register, restate
from pyrovae.models.summed_mixture import SummedMixture
from pyrovae.seeding import forked, stream
from pyrovae.summary import Rows

__all__ = ["ColumnComponents", "ColumnMixture", "ColumnSums"]


@register("ColumnMixture", kind="builder")
class ColumnMixture(SummedMixture):
    """p(x) = sum_k w_k prod_j p_j(x_j | k), the latent class model of a table whose columns have kinds of their own.

    A row's columns are independent given its class, each in a family of its kind: a real column is normal, a positive
    one log-normal (its logarithm is normal), a count Poisson, and a binary, a categorical and an ordinal column have a
    probability for each category: of an ordinal column that is the saturated model, which takes no notice of the order.
    log p(x) is a density in the units as given, times counting measure: a real column in grams in place of kilograms
    lowers it by log 1,000 for each entry that was seen. It is a Pyro pair, "component" ~ w, "obs" given the component,
    whose guide is the exact posterior of the class. `pyrovae.fit` takes it through EM, with missing entries exactly
    and with weights. (Lazarsfeld and Henry 1968; Goodman 1974; McLachlan and Peel 2000, chapter 5.)

    Classes are told apart by how columns go together: 2 ceil(log2 K) + 1 binary columns identify K classes (Allman,
    Matias and Rhodes 2009, corollary 5).

    Args:
        columns: a table, as `data.table(frame)`, or its `Column`s.
        num_components: the number of classes K.
        families: the family of a column by its name or its kind, where it is not the default:
            `{"count": "negative_binomial"}` gives counts a variance above the mean within a class, as `table_vae` does
            by default; compare the two with the same family.
        pseudo_count: a number of items that are added to each column of counts or of codes, shared evenly by the
            classes and there by the categories (of a count, at its mean). A category that no item of a class had so has
            a probability above 0 there, and a new row a finite log p. A fit is then the mode of the posterior under
            that Dirichlet or gamma prior; with 0 it is the maximum of the likelihood, and a warning names the columns
            in which a probability is 0.
        relative_floor: no variance in a class falls below this share of the column's variance within the clusters that
            a fit starts from: without one the likelihood has no maximum.

    Raises ValueError for sizes below 1, and for families that are unknown or belong to another kind of column.

    >>> import torch
    >>> from pyrovae import Column, ColumnMixture
    >>> columns = [Column("height", "real"), Column("visits", "count"), Column("smokes", "binary")]
    >>> mixture = ColumnMixture(columns, 2)
    >>> x = torch.tensor([[0.0, 0.0, 1.0], [torch.nan, 0.0, torch.nan]])
    >>> mixture.log_prob(x, missing=True)  # -log(2 pi) / 2 - 1 - log 2, and -1
    tensor([-2.6121, -1.0000], grad_fn=<...>)
    """

    def __init__(
        self,
        columns: Any,
        num_components: int,
        *,
        families: Mapping[str, str] | Sequence[str] | None = None,
        pseudo_count: float = 1.0,
        relative_floor: float = 1e-6,
    ) -> None:
        super().__init__()
        self.columns = checked_columns(columns)
        self.num_components = checks.whole("num_components", num_components)
        self.event_shape = (len(self.columns),)
        self.families = _checked_families(self.columns, families)
        self.pseudo_count = checks.positive("pseudo_count", pseudo_count, zero=True)
        self.relative_floor = checks.positive("relative_floor", relative_floor)
        self.components = ColumnComponents(
            self.columns, self.num_components, self.families, self.pseudo_count, self.relative_floor
        )
        self.logits = nn.Parameter(torch.zeros(self.num_components))
        restate(
            self,
            columns=self.columns,
            num_components=self.num_components,
            families=self.families,
            pseudo_count=self.pseudo_count,
            relative_floor=self.relative_floor,
        )

    @property
    def support(self) -> ColumnSupport:
        """The values of each column."""
        return self.components.support

    @property
    def base_measure(self) -> str:
        """Whether p(x) is a "mass", a "density" or "mixed"."""
        return self.support.base_measure

    @property
    def filling(self) -> Tensor:
        """A value of each column, which stands where none was seen, (D,)."""
        return torch.tensor([1.0 if column.kind == "positive" else 0.0 for column in self.columns])

    # the pair ---------------------------------------------------------------------------------------

    def model(self, x: Tensor | None = None, *, size: int = 1, missing: bool = False) -> Tensor:
        """p(component, x): observed where `x` of shape (N, D) is given, else `size` draws; NaN is left out."""
        register_param_sites(self._site_prefix, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            k = pyro.sample("component", dist.Categorical(logits=self.logits), infer=ENUMERATED)
            return pyro.sample("obs", Component(self.components, k, self.event_shape), obs=x)

    def _summary_of_parts(self) -> Rows:
        kinds = [column.kind for column in self.columns]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return {"num_components": lambda: self.num_components, "columns": lambda: counted}

    # what it says of items --------------------------------------------------------------------------

    @checks.allocating
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` draws from p(x), shape (n, D), codes of categories as numbers; without a `seed` by torch's generator."""
        checks.whole("n", n, bytes_each=8 * len(self.columns))
        key = None if seed is None else stream(checks.seed(seed), "sample")
        with torch.no_grad(), forked(key, dtype_and_device(self)[1]):
            k = dist.Categorical(logits=self.logits).sample((n,))
            return self.components.draw(k)

    def conditional(self, x: Any) -> ConditionalColumns:
        """p(x_missing | x_seen) of items (N, D) in which NaN is missing: exact, a mixture for each item.

        >>> import torch
        >>> from pyrovae import Column, ColumnMixture
        >>> mixture = ColumnMixture([Column("height", "real"), Column("stage", "ordinal", 3)], 2)
        >>> given = mixture.conditional([[torch.nan, 2.0], [1.0, torch.nan]])
        >>> given.mean[0].tolist(), given.probabilities("stage")[1].tolist(), given.sample((5,)).shape
        ([0.0, 2.0], [0.3333..., 0.3333..., 0.3333...], torch.Size([5, 2, 2]))
        """
        return ConditionalColumns(self, self._items(x, missing=True))

    def parameters_of(self, column: str) -> dict[str, Tensor]:
        """The parameters of a column in each class: "loc" and "scale" (of log x where it is log-normal), "mean" and
        "size" of a count, or "probabilities", (K, C).

        >>> from pyrovae import Column, ColumnMixture
        >>> ColumnMixture([Column("smokes", "binary")], 2).parameters_of("smokes")
        {'probabilities': tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])}
        """
        block, place = self.components.place_of(self.number_of(column))
        return {name: value[:, place].detach().to(self.logits).clone() for name, value in block.stated().items()}

    def number_of(self, column: str) -> int:
        """The number of a column, by its name."""
        names = [each.name for each in self.columns]
        return names.index(checks.choice("column", column, names))

    @property
    def num_parameters(self) -> int:
        """The number of free parameters."""
        return self.num_components - 1 + sum(block.num_parameters for block in self.components.families())

    # its parameters ---------------------------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether the parameters are still the initial ones, from which no fit starts."""
        return not any(bool(parameter.any()) for parameter in self.parameters())

    @torch.no_grad()
    def maximize(self, x: Tensor, weight: Tensor) -> Tensor:
        """One M-step: the maximum over all parameters of sum_nk w_nk log(w_k p(x_n | k)) + log prior, in place.

        `x` (N, D), with NaN where an entry is missing, `weight` (N, K), such as `responsibilities(x)`. Returned: at
        which column and class, (K, D), a variance is at its floor or a probability is 0.
        """
        return self.take(self.sums_of_shares(x, lambda place: weight[place].double()))

    @torch.no_grad()
    def expected_sums(self, x: Tensor, weight: Tensor) -> tuple[ColumnSums, float]:
        """What an M-step needs under the responsibilities at the present parameters, and sum_n w_n log p(x_n).

        Rows (N, D) in float64 are taken in blocks, of which no table is kept; `weight` is (N,).
        """
        value = torch.zeros((), dtype=torch.float64, device=x.device)

        def share_of(place: slice) -> Tensor:
            nonlocal value
            joint = self.log_joint_table(x[place])
            log_prob = joint.logsumexp(-1)
            value = value + weight[place] @ log_prob
            return (joint - log_prob[:, None]).exp_().mul_(weight[place, None])

        sums = self.sums_of_shares(x, share_of)
        return sums, float(value) / sums.passes

    @torch.no_grad()
    def sums_of_shares(self, x: Tensor, share_of: Callable[[slice], Tensor]) -> ColumnSums:
        """What an M-step needs under shares (n, K) of some of the rows, which `share_of` gives."""
        sums = self._summed(x, share_of, [None] * len(self.components.families()))
        about = [block.lost(each) for block, each in zip(self.components.families(), sums.sums, strict=True)]
        if all(each is None for each in about):
            return sums
        return replace(self._summed(x, share_of, about), passes=2)

    def _summed(self, x: Tensor, share_of: Callable[[slice], Tensor], about: list[Tensor | None]) -> ColumnSums:
        each = self.components.each()
        total = torch.zeros(self.num_components, dtype=torch.float64, device=x.device)
        sums: list[list[Tensor]] = []
        for start in range(0, len(x), ROWS):
            place = slice(start, start + ROWS)
            rows, share = x[place].double(), share_of(place)
            total += share.sum(0)
            more = [block.sums(rows[:, places], share, one) for (block, places), one in zip(each, about, strict=True)]
            together = zip(each, sums, more, strict=True) if sums else []
            sums = [block.added(*both) for (block, _), *both in together] or more
        return ColumnSums(total, sums, about)

    @torch.no_grad()
    def take(self, sums: ColumnSums) -> Tensor:
        """One M-step from such sums, in place; at which column and class something is at a bound, as `maximize`."""
        at_bound = torch.zeros(len(sums.total), self.components.features, dtype=torch.bool, device=sums.total.device)
        for (block, places), each, about in zip(self.components.each(), sums.sums, sums.about, strict=True):
            at_bound[:, places] = block.take(each, about)
        self._weigh(sums.total)
        return at_bound

    def log_prior(self) -> float:
        """The logarithm of what the pseudo-items add to the likelihood that a fit maximises, up to a constant."""
        with torch.no_grad():
            return float(sum(block.log_prior() for block in self.components.families()))

    @torch.no_grad()
    def least_scale(self, x: Tensor) -> Tensor:
        """The smallest standard deviation of each column of numbers in the classes, (D,); 0 of a column of codes."""
        spread = self.components.moments()[1].sqrt().amin(0)
        discrete = torch.tensor([column.is_discrete for column in self.columns], device=spread.device)
        return spread.nan_to_num(0.0).masked_fill(discrete, 0.0)


@dataclass(frozen=True)
class ColumnSums:
    """What an M-step of a latent class model needs: the classes' weights, (K,), and the sums of each family.

    `about` is what each family's differences are from, None for its present locations, and `passes` how many passes
    over the rows the sums took.
    """

    total: Tensor
    sums: list[list[Tensor]]
    about: list[Tensor | None]
    passes: int = 1


class ColumnComponents(nn.Module):
    """The classes' densities of a row: the columns of one family together, in one module each."""

    def __init__(
        self,
        columns: Sequence[Column],
        num_components: int,
        families: Sequence[str],
        pseudo_count: float,
        relative_floor: float,
    ) -> None:
        super().__init__()
        self.support = ColumnSupport(columns)
        self.features = len(columns)
        self.places: dict[str, list[int]] = {}
        made: dict[str, tuple[type[Family], dict[str, Any]]] = {}
        for number, (column, family) in enumerate(zip(columns, families, strict=True)):
            name, kind, options = family_of(column, family)
            made[name] = kind, options
            self.places.setdefault(name, []).append(number)
        codes = sum(max(1, column.num_categories) for column in columns)
        checks.affordable(
            f"num_components={num_components:,} over {len(columns):,} columns",
            8 * num_components * codes,
            "take fewer components",
        )
        shared = {"pseudo_count": pseudo_count, "relative_floor": relative_floor}
        self.blocks = nn.ModuleDict(
            {
                name: kind(num_components, len(self.places[name]), **shared, **options)
                for name, (kind, options) in made.items()
            }
        )

    def families(self) -> list[Family]:
        """The modules of the columns' families."""
        return list(self.blocks.values())  # type: ignore[arg-type]

    def each(self) -> list[tuple[Family, list[int]]]:
        """Each family's module and the numbers of its columns."""
        return list(zip(self.families(), self.places.values(), strict=True))

    def place_of(self, column: int) -> tuple[Family, int]:
        """The module that has a column, and the number that the column has there."""
        return next((block, places.index(column)) for block, places in self.each() if column in places)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n | class k), (N, D) to (N, K), in nats and float64. NaN is missing, and its terms are left out."""
        parts = []
        for rows in x.split(ROWS):
            rows = rows.double()
            terms = [block.log_prob(rows[:, places]) for block, places in self.each()]
            parts.append(torch.stack(terms).sum(0))
        return torch.cat(parts)

    def draw(self, component: Tensor) -> Tensor:
        """Draw one row from each of the numbered classes: (...) to (..., D)."""
        flat = component.flatten()
        dtype = self.families()[0].dtype
        rows = torch.empty(len(flat), self.features, dtype=dtype, device=component.device)
        with exclusive():
            for block, places in self.each():
                drawn = block.draw(flat).to(dtype)
                rows[:, places] = drawn
        return rows.reshape(*component.shape, self.features)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the columns in each class, (K, D); NaN where a column has none."""
        each = [(block.moments(), places) for block, places in self.each()]
        order = torch.tensor([place for _, places in each for place in places]).argsort()
        return tuple(torch.cat([both[i] for both, _ in each], 1)[:, order] for i in range(2))  # type: ignore[return-value]

    def measure(self, x: Tensor, weight: Tensor, shares: Iterable[Tensor]) -> None:
        """Take from the items, (N, D) weighted by (N,), and from the starts' classes what stays fixed in a fit."""
        for block, places in self.each():
            block.measure(x[:, places].double(), weight, shares)

    def encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rows as numbers for k-means, in which each column has a variance of 1."""
        return torch.cat([block.encoded(x[:, places].double(), weight) for block, places in self.each()], 1)


def _checked_families(columns: Sequence[Column], families: Any) -> list[str]:
    """The name of each column's family."""
    if families is None or isinstance(families, Mapping):
        given: dict[str, Any] = dict(families or {})
        known = {column.name for column in columns} | {column.kind for column in columns}
        for name in given:
            if name not in known:
                raise ValueError(
                    f"families has {name!r}, which is neither the name nor the kind of a column: the names are "
                    f"{', '.join(column.name for column in columns)}"
                )
        first = {kind: next(iter(of_kind)) for kind, of_kind in FAMILIES.items()}
        families = [given.get(column.name, given.get(column.kind, first[column.kind])) for column in columns]
    if isinstance(families, str) or not isinstance(families, Sequence) or len(families) != len(columns):
        raise ValueError(
            f"families must be a mapping from names or kinds of columns to families, or a list of one for each of the "
            f"{len(columns)} columns, got {families!r}"
        )
    return [
        checks.choice(f"family of column {column.name!r}, which is {column.kind},", name, FAMILIES[column.kind])
        for column, name in zip(columns, families, strict=True)
    ]
