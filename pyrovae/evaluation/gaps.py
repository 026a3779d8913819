"""The gap between log p(x) and the ELBO, split into the limits of the family of q and those of the encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import TransformedDistribution

from pyrovae import checks, frequencies
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.session import TAKES, Session, split_of
from pyrovae.labelled import Variable, labelled
from pyrovae.models.batch import items_of, keywords_of
from pyrovae.models.layers import rows_within
from pyrovae.models.pair import Pair
from pyrovae.models.particles import is_point, latent_law, scored
from pyrovae.models.scopes import Workspace
from pyrovae.progress import progress_bar
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Gaps", "gaps", "overfit"]

ROWS = 16_384  # codes decoded together in the search for q
POOL = 256  # draws of the prior, and as many of a widened q, among which starts are chosen
ROUND = 200  # steps per round
SETTLED = 0.01  # nats; the search ends after a round that improves no item by as much
MOMENTS = 512  # draws of a q of another family, whose mean and spread start the search
MAX_BYTES = 2**30
BOTH = "diagonal Normals and q(z | x) itself"


@dataclass(frozen=True, eq=False, repr=False)
class Gaps(HasSummary):
    """The gap log p(x) - ELBO of one pair, split per item, in nats: a dataset `pointwise` over "item".

    "gap" = "approximation" + "amortization", each with its Monte Carlo standard error "_se". The
    approximation gap is an upper bound, since a better q of the family may exist, and the
    amortisation gap a lower bound. Other variables are "evidence", "elbo", "best_elbo", the "loc"
    and "scale" of the best q, and "unreliable" if the evidence has it.
    """

    pointwise: xr.Dataset

    def mean(self, name: str) -> tuple[float, float]:
        """The mean over items of a variable, and its Monte Carlo standard error with the items held fixed.

        An item counts as many times as its weight says, where there are weights.
        """
        stated = [str(each).removesuffix("_se") for each in self.pointwise if str(each).endswith("_se")]
        name = checks.choice("name", name, stated)
        value, se = self.pointwise[name], self.pointwise[f"{name}_se"]
        return frequencies.mean(value, self.weight), frequencies.monte_carlo_error(se, self.weight)

    @property
    def weight(self) -> np.ndarray | None:
        """How many times each item counts, (N,); None where each counts once."""
        return self.pointwise["weight"].to_numpy() if "weight" in self.pointwise else None

    def _summary_line(self) -> str:
        names = {"gap": "log p(x) - ELBO", "approximation": "approximation", "amortization": "amortisation"}
        parts = [f"{words} {self._with_error(name)}" for name, words in names.items()]
        return f"{', '.join(parts)} nats, {self._items()}"

    def _items(self) -> str:
        of_weight = "" if self.weight is None else f" of weight {float(self.weight.sum()):g}"
        return f"{self.pointwise.sizes['item']} items{of_weight}"

    def _summary_rows(self) -> Rows:
        attributes = self.pointwise.attrs
        return {
            "log p(x) - ELBO": lambda: f"{self._with_error('gap')} nats",
            "approximation gap": lambda: f"{self._with_error('approximation')} nats",
            "amortisation gap": lambda: f"{self._with_error('amortization')} nats",
            "log p(x) by": lambda: f"{attributes['evidence']} ({attributes['evidence_bound'] or 'no bound'})",
            "best q among": lambda: attributes.get("family"),
            "items": lambda: f"{self.pointwise.sizes['item']:,}",
            "sum of weights": lambda: None if self.weight is None else f"{float(self.weight.sum()):,g}",
            "of these unreliable": lambda: int(self.pointwise["unreliable"].sum()),
        }

    def _with_error(self, name: str) -> str:
        return "{:.3f} ± {:.3f}".format(*self.mean(name))

    def __str__(self) -> str:
        gap, approximation, amortization = (self.mean(n) for n in ("gap", "approximation", "amortization"))
        evidence = self.pointwise.attrs["evidence"]
        bound = self.pointwise.attrs["evidence_bound"]
        side = {"lower": "from below ", "upper": "from above "}.get(bound, "")
        caution = "" if bound == "exact" else f", log p(x) itself bounded {side}by {evidence}"
        if family := self.pointwise.attrs.get("family"):
            caution += f", best q among {family}"
        if flagged := int(self.pointwise["unreliable"].sum()) if "unreliable" in self.pointwise else 0:
            caution += f", of {flagged} items unreliably"
        at_most = " at most" if bound in ("exact", "upper") else ""
        return (
            f"log p(x) - ELBO = {gap[0]:.3f} ± {gap[1]:.3f} nats: approximation gap{at_most} {approximation[0]:.3f} ± "
            f"{approximation[1]:.3f}, amortisation gap at least {amortization[0]:.3f} ± {amortization[1]:.3f} "
            f"(Monte Carlo; {self._items()}{caution})"
        )


@checks.allocating
def gaps(
    pair: Pair,
    x: Any,
    evidence: Estimate,
    *,
    num_starts: int = 4,
    num_particles: int | None = None,
    num_evaluation: int = 1000,
    max_steps: int = 4000,
    learning_rate: float = 0.03,
    progress: bool = True,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Gaps:
    """Split log p(x) - ELBO into approximation gap, log p(x) - ELBO(q*), and amortisation gap, ELBO(q*) - ELBO(q(z|x)).

    q* is the best diagonal Normal for each item (Cremer, Li and Duvenaud 2018, section 3.1), with
    parameters "loc" and "scale". If q(z|x) is a flow from a diagonal Normal, q* is the best Normal
    before the flow, whose transforms for the item are kept. For any other q(z|x), such as one with a
    full covariance, q* is the better of q(z|x) itself, whose ELBO is estimated from its own draws,
    and the best diagonal Normal; `str()` then names both.

    The search uses Adam with `num_particles` common random numbers (None: 4 per dimension of the
    code, and at least 32) from `num_starts` starts: the encoder's q, and draws of the prior and of a
    widened q that are chosen in proportion to p(x, z). It proceeds in rounds of 200 steps. After the
    first round each item continues from its best start; the search ends when a round improves no
    item by 0.01 nats, or after `max_steps`. The result is compared with the encoder's q on other
    random numbers, and the better one is q*. Both ELBOs are estimated with `num_evaluation` fresh
    common random numbers, so that the search does not bias them.

    `weight`, (N,), says how many times each item counts in the means and their errors, as in `elbo`; the
    splits of the items do not depend on it. `evidence` is log p(x) of the same pair and items, under
    the same weights if there are any, from `exact` or `quadrature`. If it is from
    `ais` or `iwae`, which are lower bounds, the gap and the approximation gap are too small by the
    error of the bound, and `str()` says so. Raises ValueError for evidence that is an ELBO, a
    difference, or an estimate of another pair or other items, for fewer than 4 or more than 513
    starts, for fewer than 2 (d + 1) particles for codes of d dimensions, and for a guide that is a
    point mass or not a distribution over a vector.

    >>> import torch
    >>> import pyrovae
    >>> torch.manual_seed(0)
    <torch...>
    >>> vae = pyrovae.linear_vae(5, 2)
    >>> x = vae.sample(4, seed=0)
    >>> ledger = pyrovae.gaps(vae, x, pyrovae.exact(vae, x), progress=False)
    >>> parts = ledger.pointwise
    >>> bool(abs(parts.gap - parts.approximation - parts.amortization).max() < 1e-9)
    True
    """
    session = Session("gaps", pair)
    checks.whole("num_starts", num_starts, least=4, most=2 * POOL + 1)
    num_particles = max(32, 4 * pair.latent_dim) if num_particles is None else num_particles
    # bytes per code; all codes of an item are decoded together
    each = 8 * pair.latent_dim + 4 * math.prod(pair.event_shape)
    checks.whole("num_particles", num_particles, least=2 * (pair.latent_dim + 1), bytes_each=num_starts * each)
    checks.whole("num_evaluation", num_evaluation, least=2, bytes_each=8 * (pair.latent_dim + num_starts))
    checks.whole("max_steps", max_steps, least=2)
    checks.positive("learning_rate", learning_rate, most=checks.LARGEST)
    checks.seed(seed)
    session.require_continuous()
    items = session.items(split_of(x, "gaps", covariates, exposure, weight, missing), takes=TAKES)
    session.require_evidence(evidence)
    if evidence.pointwise.attrs.get("weights_sha256") != session.protocol.get("weights_sha256"):
        raise ValueError("evidence weighs the items differently than gaps: give both the same weight, or none")
    if {"rate", "distortion"} <= {*evidence.pointwise}:
        raise ValueError("evidence must be an estimate of log p(x), and an ELBO is what it is compared with")
    rows = min(ROWS, rows_within(session.pair, items, MAX_BYTES))
    space = session.workspace(session.noise(seed))
    search = _Search(session.pair, space, num_starts, num_particles, num_evaluation, max_steps, learning_rate, rows)
    parts = []
    bar = progress_bar(show=progress, total=len(items), desc="gaps", unit="item")
    with torch.no_grad(), bar:
        for part in items.split(max(1, rows // (num_starts * num_particles))):
            parts.append(search.run(part))
            bar.update(len(part))
    columns = {name: session.scored(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    protocol = session.protocol | {"seed": seed} | ({"family": BOTH} if search.is_of_both else {})
    return Gaps(_ledger(columns, evidence, session.weight, protocol))


def overfit(train: Gaps, test: Gaps) -> xr.Dataset:
    """How much worse encoder and decoder are on new items: two differences of means with their standard errors.

    "encoder" is the mean amortisation gap on test less that on train (Cremer et al. 2018, section
    5.4); "decoder" is the mean log p(x) on train less that on test; both are in nats per item. The
    standard errors "encoder_se" and "decoder_se" are over the items of both sets, and weights count as
    in `Gaps.mean`. Raises ValueError
    if the two are gaps of different pairs.
    """
    for name, each in (("train", train), ("test", test)):
        if not isinstance(each, Gaps):
            raise TypeError(f"{name} must be the Gaps that gaps gives, got a {type(each).__name__}")
    if train.pointwise.attrs["pair_sha256"] != test.pointwise.attrs["pair_sha256"]:
        raise ValueError("train and test must be gaps of one pair")

    def difference(more: Gaps, less: Gaps, name: str) -> tuple[float, float]:
        errors = (frequencies.standard_error(each.pointwise[name], each.weight) for each in (more, less))
        return more.mean(name)[0] - less.mean(name)[0], math.hypot(*errors)

    encoder = difference(test, train, "amortization")
    decoder = difference(train, test, "evidence")
    values = {"encoder": encoder[0], "encoder_se": encoder[1], "decoder": decoder[0], "decoder_se": decoder[1]}
    return labelled({name: (value, None, "nats") for name, value in values.items()})


class _Search:
    """The search for the best q of the family, per item."""

    def __init__(
        self,
        pair: Pair,
        space: Workspace,
        num_starts: int,
        num_particles: int,
        num_evaluation: int,
        max_steps: int,
        rate: float,
        rows: int,
    ) -> None:
        self.rows, self.space = rows, space
        self.pair, self.num_starts, self.num_particles = pair, num_starts, num_particles
        self.num_evaluation, self.max_steps, self.rate = num_evaluation, max_steps, rate
        self.transforms: list[Any] = []
        self.is_of_both = False  # whether q(z | x) is of another family than the q that are searched

    def run(self, x: Any) -> dict[str, np.ndarray]:
        with self.space.turn():
            q = latent_law(self.pair.guide, x)
        if is_point(q) or len(q.event_shape) != 1:
            raise ValueError(f"the guide's 'latent' must have a density over a vector for its best q to be sought: {q}")
        base, self.transforms = _normal_and_transforms(q)
        self.is_of_both = base is None
        encoder_q = self.moments(q if base is None else base)
        with self.space.turn():
            parameters = torch.cat([encoder_q[:, None], self.other_starts(x, encoder_q)], 1)  # (2, S, n, d)
        parameters = self.climbed(x, parameters)
        with self.space.turn():
            noise = _normal(self.num_evaluation // 2 + 1, encoder_q[0]).to(items_of(x))
        values = self.bounds(x, torch.cat([encoder_q[:, None], parameters], 1), noise).mean(0)  # (1 + S, n)
        highest, chosen = values.max(0).values, values.argmax(0)
        item = torch.arange(len(x), device=x.device)
        best = torch.cat([encoder_q[:, None], parameters], 1)[:, chosen, item]
        with self.space.turn():
            fresh = _normal(self.num_evaluation, encoder_q[0]).to(items_of(x))
        bounds = self.bounds(x, torch.stack([encoder_q, best], 1), fresh)  # (K, 2, n)
        gain = bounds[:, 1] - bounds[:, 0]
        root = math.sqrt(len(fresh))
        columns = {
            "elbo": bounds[:, 0].mean(0),
            "elbo_se": bounds[:, 0].std(0) / root,
            "best_elbo": bounds[:, 1].mean(0),
            "best_elbo_se": bounds[:, 1].std(0) / root,
            "amortization_se": gain.std(0) / root,
            "loc": best[0],
            "scale": best[1].exp(),
        }
        if self.is_of_both:
            columns |= self.of_both(x, q, encoder_q, highest, columns)
        return {name: value.double().cpu().numpy() for name, value in columns.items()}

    def moments(self, q: Any) -> Tensor:
        """The mean and log standard deviation of q, shape (2, n, d); estimated from draws if it is not a Normal."""
        if not self.is_of_both:
            return torch.stack([q.mean, q.stddev.log()])
        with self.space.turn():
            z = q.sample((MOMENTS,))
        return torch.stack([z.mean(0), z.std(0).log()])

    def of_both(
        self, x: Any, q: Any, encoder_q: Tensor, highest: Tensor, columns: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Replace the columns by those of q(z | x) itself, which is also q* where its bound is the higher one.

        `highest` are the bounds of the best diagonal Normals on the random numbers by which they were chosen.
        """
        keeps = self.bounds_of(x, q, self.num_evaluation // 2 + 1).mean(0) >= highest
        bounds = self.bounds_of(x, q, self.num_evaluation)
        elbo, elbo_se = bounds.mean(0), bounds.std(0) / math.sqrt(len(bounds))
        best_se = torch.where(keeps, elbo_se, columns["best_elbo_se"])
        return {
            "elbo": elbo,
            "elbo_se": elbo_se,
            "best_elbo": torch.where(keeps, elbo, columns["best_elbo"]),
            "best_elbo_se": best_se,
            "amortization_se": torch.where(keeps, 0.0, torch.hypot(elbo_se, best_se)),
            "loc": torch.where(keeps[:, None], encoder_q[0], columns["loc"]),
            "scale": torch.where(keeps[:, None], encoder_q[1].exp(), columns["scale"]),
        }

    def bounds_of(self, x: Any, q: Any, count: int) -> Tensor:
        """log p(x, z) - log q(z) at `count` draws of q, shape (count, n)."""
        parts, rows = [], max(1, self.rows // len(x))
        for first in range(0, count, rows):
            with self.space.turn():
                z = q.sample((min(rows, count - first),))
                parts.append(self.log_joint(x, z) - q.log_prob(z))
        return torch.cat(parts).double()

    def other_starts(self, x: Any, encoder_q: Tensor) -> Tensor:
        """Starts at draws of the prior and of a widened q, chosen in proportion to p(x, z): shape (2, S - 1, n, d)."""
        prior = self.pulled(latent_law(self.pair.model, size=len(x), **keywords_of(x)).sample((POOL,)))
        near = encoder_q[0] + 2 * encoder_q[1].exp() * _normal(POOL, encoder_q[0])
        pool = near if prior is None else torch.cat([prior, near])
        parts = pool.split(max(1, self.rows // len(x)))
        table = torch.cat([self.log_joint(x, self.pushed(part)[0]) for part in parts])
        # with Gumbel noise the largest values are a sample without replacement
        noisy = table - (-torch.rand_like(table).log()).log()
        top = noisy.topk(self.num_starts - 1, dim=0).indices
        loc = pool.gather(0, top[..., None].expand(-1, -1, pool.shape[-1]))
        return torch.stack([loc, encoder_q[1].expand_as(loc)])

    def climbed(self, x: Any, parameters: Tensor) -> Tensor:
        """The parameters after Adam on common random numbers; each item keeps its best start after the first round."""
        with self.space.turn():
            noise = _balanced(self.num_particles, x.shape[0], parameters.shape[-1]).to(items_of(x))[:, None]
        item = torch.arange(len(x), device=x.device)
        last = None
        for _ in range(math.ceil(self.max_steps / ROUND)):
            parameters = self.round(x, parameters, noise)
            value = self.bounds(x, parameters, noise[:, 0]).mean(0)
            best = value.max(0)
            parameters = parameters[:, best.indices, item][:, None]
            if last is not None and bool((best.values - last < SETTLED).all()):
                break
            last = best.values
        return parameters

    def round(self, x: Any, parameters: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            free = parameters.clone().requires_grad_()
            optimizer = torch.optim.Adam([free], lr=self.rate)
            for step in range(ROUND):
                for group in optimizer.param_groups:  # decays to a tenth, so that the last steps settle
                    group["lr"] = self.rate * 0.1 ** (step / ROUND)
                with self.space.turn(), torch.enable_grad():
                    z, log_det = self.pushed(free[0] + free[1].exp() * noise)
                    bound = self.log_joint(x, z.flatten(0, 1)).mean(0) * free.shape[1] + free[1].sum((0, -1))
                    if log_det is not None:
                        bound = bound + log_det.mean(0).sum(0)
                    # backward() would add to the .grad of the pair's parameters
                    (free.grad,) = torch.autograd.grad(-bound.sum(), free)
                optimizer.step()
        better = self.bounds(x, free.detach(), noise[:, 0]).mean(0) > self.bounds(x, parameters, noise[:, 0]).mean(0)
        return torch.where(better[..., None], free.detach(), parameters)

    def bounds(self, x: Any, parameters: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z), shape (K, S, n), for parameters (2, S, n, d) and noise (K, n, d)."""
        loc, log_scale = parameters
        log_q = (-0.5 * noise.square() - 0.5 * math.log(2 * math.pi)).sum(-1)[:, None] - log_scale.sum(-1)
        parts = []
        for part in noise.split(max(1, self.rows // (loc.shape[0] * loc.shape[1]))):
            z = loc + log_scale.exp() * part[:, None]
            with self.space.turn():
                z, log_det = self.pushed(z)
                log_joint = self.log_joint(x, z.flatten(0, 1)).unflatten(0, z.shape[:2])
            parts.append(log_joint if log_det is None else log_joint + log_det)
        return (torch.cat(parts) - log_q).double()

    def pushed(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draws of a Normal, (..., n, d), after the guide's transforms; and the log |det| of these, or None."""
        log_det: Tensor | None = None
        for transform in self.transforms:
            moved = transform(z)
            term = transform.log_abs_det_jacobian(z, moved)
            term = term.sum(-1) if term.ndim == z.ndim else term
            z, log_det = moved, term if log_det is None else log_det + term
        return z, log_det

    def pulled(self, z: Tensor) -> Tensor | None:
        """Codes before the guide's transforms; None if one of the transforms has no inverse."""
        try:
            for transform in reversed(self.transforms):
                z = transform.inv(z)
        except (NotImplementedError, KeyError):
            return None
        return z

    def log_joint(self, x: Any, z: Tensor) -> Tensor:
        table = scored(self.pair, x, z, guide=False)
        return table.log_likelihood + table.log_prior


def _normal_and_transforms(q: Any) -> tuple[torch.distributions.Normal | None, list[Any]]:
    """The diagonal Normal that a guide transforms, and its transforms; None and no transforms for another guide."""
    transforms: list[Any] = []
    base = q
    while not isinstance(base, torch.distributions.Normal) and hasattr(base, "base_dist"):
        if isinstance(base, TransformedDistribution):
            transforms[:0] = base.transforms
        base = base.base_dist
    return (base, transforms) if isinstance(base, torch.distributions.Normal) else (None, [])


def _normal(count: int, loc: Tensor) -> Tensor:
    """Normal noise (count, n, d) for locations (n, d), with the same numbers in float32 and float64."""
    return torch.randn(count, *loc.shape, dtype=torch.float32).to(loc)


def _balanced(count: int, items: int, size: int) -> Tensor:
    """Normal noise (count, items, size) with sample mean 0 and, given enough draws, sample covariance I.

    The q that is fitted on such noise is exact for a Gaussian posterior; on plain draws it would
    also fit their sampling error.
    """
    half = torch.randn(max(1, count // 2), items, size, dtype=torch.float64)
    if len(half) > size:
        covariance = torch.einsum("kni,knj->nij", half, half) / len(half)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), half.permute(1, 2, 0), upper=False)
        half = half.permute(2, 0, 1)
    return torch.cat([half, -half])


def _ledger(
    columns: dict[str, np.ndarray], evidence: Estimate, weight: np.ndarray | None, protocol: dict[str, Any]
) -> xr.Dataset:
    log_p, log_p_se = evidence.pointwise["value"].values, evidence.pointwise["se"].values
    parts = {
        "evidence": (log_p, "log p(x)"),
        "elbo": (columns["elbo"], "ELBO of the encoder's q"),
        "best_elbo": (columns["best_elbo"], "ELBO of the best q found"),
        "gap": (log_p - columns["elbo"], "log p(x) - ELBO"),
        "approximation": (log_p - columns["best_elbo"], "approximation gap, an upper bound"),
        "amortization": (columns["best_elbo"] - columns["elbo"], "amortisation gap, a lower bound"),
    }
    errors = {
        "evidence": log_p_se,
        "elbo": columns["elbo_se"],
        "best_elbo": columns["best_elbo_se"],
        "gap": np.hypot(log_p_se, columns["elbo_se"]),
        "approximation": np.hypot(log_p_se, columns["best_elbo_se"]),
        "amortization": columns["amortization_se"],
    }
    variables: dict[str, Variable] = {}
    for name, (value, words) in parts.items():
        variables[name] = (value, words, "nats", "item")
        variables[f"{name}_se"] = (errors[name], f"standard error of {words}", "nats", "item")
    for name in ("loc", "scale"):
        variables[name] = (columns[name], f"best q's {name}", "1", "item", "latent_dim")
    if weight is not None:
        variables["weight"] = (weight, "how many times the item counts", "1", "item")
    if "unreliable" in evidence.pointwise:  # then the gap and the approximation gap are unreliable too
        flags = evidence.pointwise["unreliable"]
        variables["unreliable"] = (flags, flags.attrs.get("long_name"), flags.attrs.get("units"), "item")
    attributes = {**protocol, "evidence": evidence.kind, "evidence_bound": evidence.bound or ""}
    return labelled(variables, {"item": np.arange(len(log_p))}, attributes)
