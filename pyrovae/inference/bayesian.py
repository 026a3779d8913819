"""Draws of a mixture's parameters by Pyro's NUTS, from the end of EM, with their labels in one order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyro.infer
import torch
from pyro import poutine
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyrovae import checks
from pyrovae.compile.function import with_gradient
from pyrovae.inference import em
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import Stop
from pyrovae.inference.method import Method, Task, options_of, register_methods
from pyrovae.inference.svi.optimizer import DefaultRate, stated_rate
from pyrovae.inference.svi.options import SVI, Plan
from pyrovae.inference.svi.run import run as run_svi
from pyrovae.interruption import deliver
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.items import checked_items
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import Pair, dtype_and_device
from pyrovae.models.scopes import Workspace, copied
from pyrovae.progress import progress_bar
from pyrovae.seeding import Noise, forked, stream
from pyrovae.warned import gathered

__all__ = ["NUTS", "SVIOfParameters", "drawn", "relabelled", "start"]

JITTER = 0.1  # sd on the real line, of where chains start about EM's end
TARGET = 0.9  # acceptance: components that share a cluster have narrow necks
LIMIT = 1.01  # of R-hat, over which a run is warned of
RESTARTS = 10
COMPILED_FROM = 2000  # transitions over all chains, from where a compiled potential is worth its half a minute


@dataclass(frozen=True)
class NUTS(Method):
    """Draw the parameters of a Bayesian mixture by the No-U-Turn sampler, from the end of EM.

    Args:
        num_chains: chains, one after the other.
        num_draws: kept draws of each chain.
        num_warmup: draws of each chain in which step and masses adapt. From 2,000 transitions on, all chains and
            their warm-up counted, the potential is compiled where there is a C++ compiler.

    Raises ValueError for an option that is out of its range.

    >>> from pyrovae.methods import NUTS
    >>> NUTS(num_chains=2)
    NUTS(num_chains=2, num_draws=1000, num_warmup=500)
    """

    name: ClassVar[str] = "nuts"
    title: ClassVar[str] = "NUTS"
    belongs_to: ClassVar[str] = "BayesianGaussianMixture"
    takes_validation: ClassVar[bool] = False

    num_chains: int = 4
    num_draws: int = 1000
    num_warmup: int = 500

    def __post_init__(self) -> None:
        for name in ("num_chains", "num_draws", "num_warmup"):
            object.__setattr__(self, name, checks.whole(name, getattr(self, name)))

    def run(self, task: Task) -> History:
        """Draw the parameters, and keep the draws in the pair."""
        items = checked_items(task.pair, task.x)
        _refuse_validation(task)
        return drawn(task.pair, items, self, task.seed, task.progress)


@dataclass(frozen=True)
class SVIOfParameters(SVI):
    """SVI for the parameters of a Bayesian mixture, with all items in each step, from the end of EM or the guide.

    `schedule=None` is a cosine for the 1,500 steps from 0.02 that are the default, and constant otherwise.
    """

    is_shown: ClassVar[bool] = False
    takes_validation: ClassVar[bool] = False
    takes_weight: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = False

    epochs: int = 1500
    batch_size: int | Literal["all"] = "all"
    learning_rate: float = DefaultRate(0.02)
    schedule: Any = None

    def __post_init__(self) -> None:
        self._as_svi()

    def _as_svi(self) -> SVI:
        options = options_of(self)
        if isinstance(self.learning_rate, DefaultRate):
            options["learning_rate"] = stated_rate(self.optimizer) or self.learning_rate
        if self.schedule is None:
            # at a constant rate the guide's mean still moves by a seventh of its sd
            default = (self.epochs, self.learning_rate) == (SVIOfParameters.epochs, SVIOfParameters.learning_rate)
            options["schedule"] = "cosine" if default else "constant"
        return SVI(**options)

    def plan(self, pair: Pair, x: Any, seed: int) -> Plan:
        """The plan of SVI, with the schedule filled in."""
        return self._as_svi().plan(pair, x, seed)

    def run(self, task: Task) -> History:
        """Fit the guide of a copy; the pair changes once, at the end, or where a signal ends it."""
        pair = task.pair
        items = checked_items(pair, task.x)
        _refuse_validation(task)
        plan = self.plan(pair, items, task.seed)
        weighed = plan.beta != 1 or plan.warmup or plan.free_bits
        if plan.num_particles > 1 or weighed or plan.objective != "elbo" or plan.binarize:
            raise ValueError(
                "num_particles, beta, warmup, free_bits, objective and binarize are not for a BayesianGaussianMixture: "
                "leave them out"
            )
        fitted = copied(pair)
        fitted.keep(None)
        if not fitted.started:
            fitted.start_at(start(fitted, items.to(dtype_and_device(fitted)[1]), task.seed))
        with Stop() as stop:
            history = run_svi(replace(task, pair=fitted, x=items), plan)
        pair.keep(None)
        pair.load_state_dict(fitted.state_dict())
        stop.again(stop.history)
        return history


def _refuse_validation(task: Task) -> None:
    if task.validation is not None:
        raise ValueError("validation is not for a BayesianGaussianMixture: log_prob(held_out) is what it predicts")


def start(pair: BayesianGaussianMixture, x: Tensor, seed: int) -> dict[str, Tensor]:
    """The parameters that EM finds for the plain mixture, moved away from the borders of their supports."""
    if len(x) < pair.num_components:
        raise ValueError(
            f"x has {len(x)} items for {pair.num_components} components: give more items, or fewer components"
        )
    least = pair.scale_median * np.exp(-2 * pair.scale_spread)  # no narrower than the prior believes
    with forked(stream(seed, "start"), x.device):
        plain = GaussianMixture(
            pair.event_shape, pair.num_components, covariance=pair.covariance, floor=float(least**2)
        ).double()
    with gathered():  # its floor and its tolerance are a start's
        options: dict[str, Any] = {"tol": 1e-4, "max_iterations": 200, "num_restarts": RESTARTS}
        with Stop() as stop:
            em.climbed(plain, x, None, **options, seed=seed, target=x.device, progress=False)
        stop.again(History.from_rows([], {}))  # of the fit itself there is none
    with torch.no_grad():
        weights = plain.weights.clamp(min=1e-2)
        factor = plain.components.scale_tril
        scale = factor.square().sum(-1).sqrt()  # of each row: the standard deviations
        parameters = {"weights": weights / weights.sum(), "loc": plain.components.loc}
        parameters["scale"] = scale[:, 0] if pair.covariance == "spherical" else scale
        parameters["correlation"] = factor / scale[..., None]
        if pair.covariance == "tied":
            parameters |= {name: parameters[name][0] for name in ("scale", "correlation")}
    names = pair.priors()
    of_model = {name: value.detach().to(pair.guide_loc) for name, value in parameters.items() if name in names}
    if not all(z.isfinite().all() for z in pair.unconstrained(of_model).values()):
        raise FloatingPointError(
            f"EM's end cannot be mapped to the real line in {pair.guide_loc.dtype}: standardise x, take "
            "mixture.double(), or another covariance"
        )
    return of_model


def drawn(pair: BayesianGaussianMixture, x: Any, plan: NUTS, seed: int, progress: bool) -> History:
    """Draw the parameters, chain by chain, and keep the draws in the pair."""
    items = checked_items(pair, x).to(dtype_and_device(pair)[1])
    each = pair.bytes_per_draw * plan.num_draws
    checks.affordable(
        f"num_chains={plan.num_chains:,} of num_draws={plan.num_draws:,}", plan.num_chains * each, "take fewer"
    )
    began = time.perf_counter()
    points = pair.unconstrained(start(pair, items, seed))
    centre, chains, diverging, rows = torch.cat([z.flatten() for z in points.values()]), [], 0, []
    compiled = plan.num_chains * (plan.num_warmup + plan.num_draws) >= COMPILED_FROM
    with Workspace(training=True).turn():
        potential = pair.potential(items)

        def energy(flat: Tensor) -> Tensor:
            return potential(_parts(flat, points))

        moved_in, compiled = with_gradient(energy, centre) if compiled else (energy, False)
    for chain in range(plan.num_chains):
        space = Workspace(training=True, noise=Noise(stream(seed, "chain", chain), items.device))
        kernel = pyro.infer.NUTS(potential_fn=lambda moving: moved_in(moving["flat"]), target_accept_prob=TARGET)
        begun = time.perf_counter()
        drawn = _chain(kernel, centre, plan, space, progress)
        chains.append(pair.constrained(_parts(drawn, points)))
        diverging += len(kernel.diagnostics()["divergences"])
        rows.append(time.perf_counter() - begun)
    draws = {name: torch.stack([chain[name] for chain in chains]).detach() for name in pair.priors()}
    draws, moved = relabelled(pair, items, draws)
    table = pair.log_likelihood(items, draws)
    r_hat, size = _diagnostics(draws)
    pair.keep(draws)
    known = {name: value for name, value in r_hat.items() if np.isfinite(value)}  # one component has no weight to mix
    worst = max(known, key=lambda name: known[name], default="")
    if worst and known[worst] > LIMIT:
        checks.warn(
            f"the chains have not mixed: R-hat is {known[worst]:.3f} for {worst} (over {LIMIT}): "
            "raise num_warmup and num_draws, or take fewer components"
        )
    if diverging:
        checks.warn(
            f"{diverging} of {plan.num_chains * plan.num_draws} transitions diverged: raise num_warmup, or narrow the "
            "priors"
        )
    losses = -table.sum(-1).mean(-1) / len(items)
    epochs = [{"loss": float(loss), "seconds": seconds} for loss, seconds in zip(losses, rows, strict=True)]
    config = {
        "method": "nuts",
        **asdict(plan),
        "seed": seed,
        "items": len(items),
        "relabelled": moved,
        "divergences": diverging,
        "compiled": compiled,
        "r_hat": r_hat,
        "ess": size,
        "seconds": time.perf_counter() - began,
        **environment(items.device),
    }
    return History.from_rows(epochs, config)


def _chain(kernel: pyro.infer.NUTS, centre: Tensor, plan: NUTS, space: Workspace, progress: bool) -> Tensor:
    """The draws of one chain, (S, P), about `centre`, as by Pyro's MCMC, with a turn for each transition.

    MCMC itself puts handlers on and the checks off until its last draw, for all threads.
    """
    total = plan.num_warmup + plan.num_draws
    with space.turn(), poutine.block():
        kernel.initial_params = {"flat": centre + JITTER * torch.randn_like(centre)}
        kernel.setup(plan.num_warmup)
    point, draws = kernel.initial_params, []
    for step in progress_bar(range(total), show=progress, unit="transition"):
        with space.turn(), poutine.block():
            point = kernel.sample(point)
        if step >= plan.num_warmup:
            draws.append(point["flat"])
        deliver()
    return torch.stack(draws)


def _parts(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The unconstrained values of each site, which are concatenated in (..., P)."""
    each = flat.split([z.numel() for z in like.values()], -1)
    return {name: part.unflatten(-1, z.shape) for (name, z), part in zip(like.items(), each, strict=True)}


def relabelled(pair: BayesianGaussianMixture, x: Tensor, draws: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The draws, their components permuted to agree best with the likeliest draw, and how many draws that changed.

    The agreement of component j there with k here is the sum over items of the product of their responsibilities; the
    permutation is the best assignment (Papastamoulis and Iliopoulos 2010, with probabilities for allocations).
    """
    from scipy.optimize import linear_sum_assignment

    table, share = pair.tables(x, draws)
    flat = share.flatten(0, 1)
    pivot = flat[int(table.sum(-1).flatten().argmax())]
    agreement = torch.einsum("nj,snk->sjk", pivot, flat).cpu().numpy()
    order = torch.from_numpy(np.stack([linear_sum_assignment(-one)[1] for one in agreement])).to(x.device)
    moved = int((order != torch.arange(order.shape[1], device=x.device)).any(1).sum())
    laws, shape = pair.priors(), table.shape[:2]
    renumbered = {}
    for name, value in draws.items():
        if name == "weights" or laws[name].batch_shape:  # one a component
            rows = value.flatten(0, 1)
            index = order.reshape(*order.shape, *[1] * (rows.ndim - 2)).expand_as(rows)
            value = rows.gather(1, index).unflatten(0, shape)
        renumbered[name] = value
    return renumbered, moved


def _diagnostics(draws: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """The worst split R-hat and the smallest effective sample size of each parameter's entries."""

    def worst(name: str, statistic: Callable[..., Tensor], pick: Callable[[Tensor], Tensor]) -> float:
        values = statistic(draws[name].double())
        seen = values[values.isfinite()]  # a correlation's fixed entries have none
        return float(pick(seen)) if seen.numel() else float("nan")

    if draws["loc"].shape[1] < 4:
        return dict.fromkeys(draws, float("nan")), dict.fromkeys(draws, float("nan"))
    r_hat = {name: worst(name, split_gelman_rubin, torch.max) for name in draws}
    return r_hat, {name: worst(name, effective_sample_size, torch.min) for name in draws}


register_methods(BayesianGaussianMixture, SVIOfParameters(), NUTS())
