"""The normal components of a mixture, under one covariance structure: densities, draws, moments, conditionals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models import expectation, sufficient
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import (
    EPS,
    NEAR,
    ROWS,
    factor_above_floor,
    raised_to_floor,
    scaled_squares,
    triangular_inverse,
)
from pyrovae.models.frame import Frame, Shares, within_variance
from pyrovae.models.pattern import Pattern
from pyrovae.models.seen import Expected, SeenItems, ShareOf

__all__ = ["COVARIANCES", "Covariance", "GaussianComponents"]

Covariance = Literal["full", "tied", "diagonal", "spherical"]
COVARIANCES = ("full", "tied", "diagonal", "spherical")
LIKE = 1e-6  # share of a floor that eigenvalues may lose to rounding in the units of the items


class GaussianComponents(nn.Module):
    """K normal densities over vectors of `features` entries: N(loc_k, C_k), with C_k = L_k L_k'.

    `covariance` is "full" (one C_k per component), "tied" (one for all components), "diagonal" or "spherical"
    (C_k = s_k^2 I).

    Variances have a floor per column. `maximize` keeps C_k - diag(floors) positive semi-definite, and no diagonal
    entry of L L' falls below its column's floor. A `floor` is that of every column, in squared units of the items. If
    `floor` is None, the floor of a column is `relative` times the variance that `measure` estimated in it; it is then
    in the column's own units, and no fit depends on the units. Before a measurement, and for a constant column, the
    floor is `relative` itself.

    Sums are taken in float64 whatever the dtype of the parameters; results have the dtype of the parameters.
    """

    loc: nn.Parameter
    log_diagonal: nn.Parameter  # the log of L's diagonal: (K or 1, features or 1)
    lower: nn.Parameter | None  # the entries of L below its diagonal; None where L is diagonal
    drawn: Tensor  # the initial locations
    column_scale: Tensor  # measured standard deviations, (features,) or, where spherical, (1,); 0 if not measured

    def __init__(
        self, features: int, num_components: int, covariance: str, floor: float | None, relative: float
    ) -> None:
        super().__init__()
        self.features, self.num_components = features, num_components
        self.covariance = checks.choice("covariance", covariance, COVARIANCES)
        self.floor = None if floor is None else checks.positive("floor", floor)
        self.relative = relative
        rows, width = 1 if covariance == "tied" else num_components, 1 if covariance == "spherical" else features
        numbers = num_components * features + rows * (features**2 if covariance in ("full", "tied") else 1)
        checks.affordable(
            f"num_components={num_components:,} over an event_shape of {features:,} numbers with covariance="
            f"{covariance!r}",
            4 * numbers,
            "take fewer components, or covariance='diagonal'",
        )
        with exclusive():
            self.loc = nn.Parameter(torch.randn(num_components, features))
        self.log_diagonal = nn.Parameter(torch.zeros(rows, width))
        dense = covariance in ("full", "tied")
        self.register_parameter("lower", nn.Parameter(torch.zeros(rows, features, features)) if dense else None)
        if floor is None:  # with a floor, a saved state has the entries that it always had
            self.register_buffer("column_scale", torch.zeros(width))
        self.register_buffer("drawn", self.loc.detach().clone(), persistent=False)

    @property
    def is_fresh(self) -> bool:
        """Whether the parameters are still the initial ones: random locations and unit covariances."""
        if not torch.equal(self.loc, self.drawn) or bool(self.log_diagonal.any()):
            return False
        return self.lower is None or not bool(self.lower.any())

    @property
    def floors(self) -> Tensor:
        """The variance floors in float64: (features,), one per column, or (1,) where spherical."""
        if self.floor is not None:
            return self.log_diagonal.new_full(self.log_diagonal.shape[1:], self.floor, dtype=torch.float64)
        square = self.column_scale.double().square()
        return self.relative * torch.where(square > 0, square, 1.0)

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of L, at least the root of the floor, in float64."""
        free = self.log_diagonal.double().exp()
        least = free.clamp(min=self.floors.sqrt() if self.floor is None else math.sqrt(self.floor))
        return free + (least - free).detach()  # the gradient passes the clamp, so that a step can raise the entry

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors L, shape (K, features, features) with K = 1 where tied, in float64."""
        diagonal = self.diagonal.expand(-1, self.features)
        if self.lower is None:
            return torch.diag_embed(diagonal)
        return self.lower.double().tril(-1) + torch.diag_embed(diagonal)

    @property
    def covariances(self) -> Tensor:
        """The covariances: shape (K, D, D) if full, (D, D) if tied, (K, D) if diagonal, (K,) if spherical."""
        if self.lower is None:
            variance = self.diagonal.square()
            return (variance[:, 0] if self.covariance == "spherical" else variance).to(self.loc)
        product = self.scale_tril @ self.scale_tril.mT
        return (product[0] if self.covariance == "tied" else product).to(self.loc)

    @torch.no_grad()
    def least_scale(self, which: Tensor) -> Tensor:
        """The smallest conditional standard deviation of each column over the components `which`; (features,)."""
        return self.conditional_scale[which].amin(0)

    @property
    @torch.no_grad()
    def conditional_scale(self) -> Tensor:
        """The standard deviation of each column, given the other columns; (K, features), in float64."""
        each = self.diagonal
        if self.lower is not None:
            each = triangular_inverse(self.scale_tril).square().sum(-2).rsqrt()
        return each.expand(self.num_components, self.features)

    @property
    def num_parameters(self) -> int:
        """The number of free parameters."""
        k, d = self.num_components, self.features
        free_covariances = {"full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diagonal": k * d, "spherical": k}
        return k * d + free_covariances[self.covariance]

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x_n; loc_k, C_k) in nats and float64: (N, features) to (N, K). NaN is missing and integrated out."""
        if x.isnan().any():
            return expectation.log_prob_of_seen(self, SeenItems(x))
        loc, diagonal = self.loc.double(), self.diagonal
        constant = diagonal.log().expand(-1, self.features).sum(-1) + 0.5 * self.features * math.log(2 * math.pi)
        # multiplying by the inverse is faster than solving for each row
        whiten = None if self.lower is None else triangular_inverse(self.scale_tril)
        if whiten is not None and self.covariance == "tied":  # one product serves all components
            middle = loc.mean(0)
            centres = (loc - middle) @ whiten[0].mT
        parts = []
        for rows in x.double().split(ROWS):
            if whiten is not None and self.covariance == "tied":
                away = (rows - middle) @ whiten[0].mT
                if not away.numel() or float(away.detach().square().sum(-1).max()) < NEAR:
                    squares = [(away - one).square().sum(-1) for one in centres]
                else:  # what is away from the middle is rounded as widely as that is
                    squares = [((rows - one) @ whiten[0].mT).square().sum(-1) for one in loc]
            elif whiten is not None:
                pairs = zip(whiten, loc, strict=True)
                squares = [((rows - centre) @ one.mT).square().sum(-1) for one, centre in pairs]
            else:
                squares = list(scaled_squares(rows, loc, diagonal.reciprocal().expand_as(loc)).mT)
            parts.append(torch.stack(squares, -1))
        return -0.5 * torch.cat(parts) - constant

    def draw(self, component: Tensor) -> Tensor:
        """Draw one item from each of the numbered components: (...) to (..., features)."""
        flat, factor = component.flatten(), self.diagonal if self.lower is None else self.scale_tril
        with exclusive():
            noise = torch.randn(len(flat), self.features, dtype=factor.dtype, device=factor.device)
        items = torch.empty_like(noise)
        for k in flat.unique():
            of_component = flat == k
            component_factor = factor[0 if len(factor) == 1 else k]
            items[of_component] = self.loc[k].double() + (
                noise[of_component] * component_factor
                if self.lower is None
                else noise[of_component] @ component_factor.mT
            )
        return items.to(self.loc).unflatten(0, component.shape) if component.ndim else items[0].to(self.loc)

    @torch.no_grad()
    def assign(self, loc: Tensor, covariances: Tensor) -> None:
        """Set the locations and covariances, in the shapes of `self.loc` and `self.covariances`."""
        if self.lower is None:
            scale = covariances.double().sqrt()
            self.log_diagonal.copy_((scale[:, None] if self.covariance == "spherical" else scale).log())
        else:
            self._take_factor(torch.linalg.cholesky(covariances.double().reshape(self.lower.shape)))
        self.loc.copy_(loc)

    def _take_factor(self, factor: Tensor) -> None:
        assert self.lower is not None
        self.lower.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal(dim1=-2, dim2=-1).log())

    @torch.no_grad()
    def maximize(self, x: Tensor, weight: Tensor) -> Tensor:
        """Set the parameters to the maximum of sum_nk w_nk log N(x_n; loc_k, C_k) subject to the variance floors.

        `x` has shape (N, features) and `weight` (N, K). Where NaN in `x` is missing, the objective is its expectation
        given the seen entries under the present parameters, which is an M-step of EM. Under the constraint C_k >= F,
        with F the diagonal matrix of the floors, the maximum is the matrix of weighted second moments M_k with the
        eigenvalues of F^-1/2 M_k F^-1/2 raised to at least 1. A component of no weight keeps its parameters.

        Returns a boolean tensor, (K,) or (1,) where tied, that says at which components the floor was active.
        """
        if self.floor is None and not bool(self.column_scale.any()):
            frame = Frame(Blocks(x))
            self.measure(frame, [within_variance(frame, _table(weight))])
        if bool(x.isnan().any()):
            return self.take(self.expected(SeenItems(x), lambda rows, _: weight[rows].double()))
        return self.take(sufficient.sums_of_shares(self, Frame(Blocks(x)), _table(weight)))

    @torch.no_grad()
    def take_moments(self, loc: Tensor, moments: Tensor, has_weight: Tensor) -> Tensor:
        """Set the locations, and the covariances to `moments` raised to the floors where `has_weight`, (K,) or ().

        Returned: at which components the floor was active.
        """
        moments, at_floor, factors = self._raised(moments)
        before = self.covariances.double()
        is_updated = has_weight.view(-1, *[1] * (before.ndim - 1)) if has_weight.ndim else has_weight
        self.assign(loc, torch.where(is_updated, moments, before))
        if factors:  # they keep the digits that the product of factors has lost
            factor = self.scale_tril
            for k, one in factors.items():
                factor[k] = one if has_weight.expand(len(factor))[k] else factor[k]
            self._take_factor(factor)
        return at_floor

    @torch.no_grad()
    def measure(
        self, frame: Frame, within: Iterable[Tensor], *, whole: Frame | None = None, go_on: bool = False
    ) -> None:
        """Measure the scale of each column, from which its floor follows; with a given `floor` do nothing.

        The scale of a column is its standard deviation within components: about the components' means, the root of the
        smallest over all of `within`, (D,) each. Clusters that are far apart so do not make it large. If a column
        does not vary within components, its scale is the standard deviation over all items of `whole` (`frame` if
        None). If that is no larger than rounding in the dtype of the items, the column has no scale. NaN is missing.
        The spherical structure has one scale for all columns, the root of their mean square.

        With `go_on`, an earlier scale is kept where it is smaller, so that the current parameters stay feasible.
        """
        if self.floor is not None:
            return
        square = self._varying((whole or frame).variance, whole or frame)
        for each in within:
            varying = self._varying(each, frame)
            square = torch.where((varying > 0) & (varying < square), varying, square)
        scale = square.sqrt().to(self.column_scale)
        if go_on:
            scale = torch.where(self.column_scale > 0, torch.minimum(scale, self.column_scale), scale)
        self.column_scale.copy_(scale)

    def _varying(self, variance: Tensor, frame: Frame) -> Tensor:
        """Variances of columns, 0 where rounding explains them; their mean where spherical."""
        varying = torch.where(variance.sqrt() > frame.rounding_scale, variance, 0.0)
        return varying.mean(0, keepdim=True) if self.covariance == "spherical" else varying

    def begin(self, frame: Frame, shares: Shares) -> None:
        """Set the parameters to what seen entries say one by one, under shares: a start where some are missing."""
        expectation.begin(self, frame, shares)

    def expected(self, items: SeenItems, share_of: ShareOf) -> Expected:
        """The expected sums of an M-step of items with entries missing: see `pyrovae.models.expectation`."""
        return expectation.expected(self, items, share_of)

    def take(self, sums: Expected) -> Tensor:
        """Set the parameters to the maximum that expected sums give; returned is at which components the floor was."""
        return expectation.take(self, sums)

    def are_over(self, covariances: Tensor, floors: Tensor) -> bool:
        """Whether C - diag(floors) is positive definite for each of `covariances`, whatever the columns' units."""
        if self.lower is None:
            return bool((covariances > (floors if covariances.ndim > 1 else floors[0])).all())
        batch = covariances.double().reshape(-1, self.features, self.features)
        return not bool(torch.linalg.cholesky_ex(batch - floors.diag()).info.any())

    @torch.no_grad()
    def lower_floors(self, weights: Tensor, covariances: Tensor) -> bool:
        """Lower the measured floors below `covariances`; return False if one of these is not positive definite.

        A column's scale becomes the root of its mean variance, or less if a covariance is below the resulting floor.
        """
        covariances = covariances.double()
        if not self.are_over(covariances, torch.zeros_like(self.column_scale, dtype=torch.float64)):
            return False
        variance = covariances if self.lower is None else covariances.diagonal(dim1=-2, dim2=-1)
        variance = variance[:, None] if self.covariance == "spherical" else variance
        mean = variance if self.covariance == "tied" else (weights.double()[:, None] * variance).sum(0)
        square = torch.minimum(mean, variance.reshape(-1, len(mean)).amin(0) / self.relative)
        while not self.are_over(covariances, self.relative * (1 + 1e-6) * square):
            square = square / 10
        self.column_scale.copy_(square.sqrt())
        return True

    def _raised(self, moments: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """The covariances raised to the floors, where a floor is active, and the Cholesky factors of some by index."""
        floors = self.floors
        if self.lower is None:
            floors = floors if moments.ndim > 1 else floors[0]
            low = moments < floors
            return moments.clamp(min=floors), low.flatten(1).any(1) if low.ndim > 1 else low, {}
        batch = moments.reshape(-1, self.features, self.features)
        batch = (batch + batch.mT) / 2
        at_floor = torch.linalg.cholesky_ex(batch - floors.diag()).info > 0  # cheaper than eigenvalues
        factors: dict[int, Tensor] = {}
        if at_floor.any() and self.floor is None:
            factors = {k: factor_above_floor(batch[k], floors) for k in at_floor.nonzero().flatten().tolist()}
            batch = torch.stack([factors[k] @ factors[k].mT if k in factors else one for k, one in enumerate(batch)])
        elif at_floor.any():
            assert self.floor is not None
            batch = batch.clone()
            scale = batch.diagonal(dim1=-2, dim2=-1).amax(-1)
            # float64 resolves the floor in the units of the items
            alike = at_floor & (EPS * self.features * scale <= LIKE * self.floor)
            if alike.any():
                eye = torch.eye(self.features, dtype=batch.dtype, device=batch.device)
                value, vector = torch.linalg.eigh(batch[alike])
                batch[alike] = (vector * value.clamp(min=self.floor)[:, None]) @ vector.mT
                # rounding may leave an eigenvalue slightly below 0 where others are large
                scale = batch[alike].diagonal(dim1=-2, dim2=-1).amax(-1)
                batch[alike] += EPS * self.features * scale[:, None, None] * eye
            for k in (at_floor & ~alike).nonzero().flatten().tolist():
                batch[k] = raised_to_floor(batch[k], floors)
        return batch.reshape(moments.shape), at_floor, factors

    def patterns(self, x: Tensor) -> Iterator[tuple[Tensor, Pattern]]:
        """Group items (N, features), NaN where missing, by which entries are seen: the rows and a `Pattern` of each."""
        kinds, which = torch.unique(~x.isnan(), dim=0, return_inverse=True)
        order = which.argsort(stable=True)
        covariance = None if self.lower is None else self.scale_tril @ self.scale_tril.mT
        for seen, rows in zip(kinds, order.split(which.bincount().tolist()), strict=True):
            yield rows, Pattern(self, seen, x[rows][:, seen].double(), covariance)


def _table(weight: Tensor) -> Shares:
    """The shares that a table (N, K) gives."""
    return lambda place, _: weight[place].mT
