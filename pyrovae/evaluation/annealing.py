"""Annealed importance sampling: a lower bound on log p(x), and on simulated items an upper bound too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.compile.function import CompiledFunction, compile_function, pays
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.members import by_members
from pyrovae.evaluation.session import TAKES, Session, split_of
from pyrovae.evaluation.weights import effective_size, log_mean
from pyrovae.models.batch import items_of, keywords_of, rebuilt, tensors_of
from pyrovae.models.items import checked_beside
from pyrovae.models.layers import layer_sizes, least_bytes, rows_within
from pyrovae.models.pair import Pair, as_module
from pyrovae.models.particles import Items, drawn_jointly, latent_law, scored
from pyrovae.models.scopes import Workspace
from pyrovae.progress import progress_bar
from pyrovae.seeding import Noise, stream

__all__ = ["ais", "bdmc"]

ROWS = 4096  # the number of chains, over all items, that move together if memory allows
MAX_BYTES = 2**30
SETTINGS = ("num_chains", "num_leapfrog", "base", "schedule")  # they determine the distance from log p(x)
ACCEPTANCE = 0.8  # the target of the pilot run, as in NUTS (Hoffman and Gelman 2014, section 3.2)
JITTER = 0.6, 1.2  # range of a transition's step size, relative to the tuned one
PILOT = 200  # temperatures of the pilot run; step sizes are interpolated between them
SETTLING = 30  # transitions at the first temperature of the pilot run
MEMORY = 0.1  # weight of the current transition in the running estimate of the chains' spread
PLAIN = 0.1  # weight of the sigmoid schedule in the adaptive one

WORDS = {
    "unreliable": ("whether the bias probably exceeds the standard error", "1"),
    "ess": ("effective sample size of the chains' weights", "chains"),
    "acceptance": ("mean acceptance of the transitions", "1"),
    "obs": ("item, drawn from the model", "1"),
    "latent": ("code that it was drawn at", "1"),
}
FROM_BELOW = {"value": ("log p(x) by annealing, a lower bound", "nats")} | WORDS
FROM_ABOVE = {"value": ("log p(x) by annealing back, an upper bound", "nats")} | WORDS


@checks.allocating
@by_members
def ais(
    pair: Pair,
    x: Any,
    *,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog: int = 5,
    base: Literal["prior", "guide"] = "prior",
    schedule: Literal["adaptive", "sigmoid", "linear"] = "adaptive",
    progress: bool = True,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Estimate:
    """log p(x) by annealed importance sampling with Hamiltonian transitions: a lower bound in expectation.

    Chains move from `base`, the prior or q(z | x), to the posterior through `num_steps` densities
    proportional to base(z)^(1 - b) p(x, z)^b, with inverse temperatures b from 0 to 1. The weight of
    a chain is the product of the ratios of successive densities at its states; the mean of the
    weights over chains is an unbiased estimate of p(x), and its log the value (Neal 2001, section 2;
    for decoders Wu et al. 2017, section 3). At each density a chain makes one Hamiltonian transition
    of `num_leapfrog` steps with a Metropolis test.

    A pilot run on separate random numbers tunes a step size per temperature, item and dimension of
    the code, and with `schedule="adaptive"` the temperatures per item. Both are then fixed, since
    adapting them inside the run would invalidate the bound.

    Chains that start from the prior can reach every mode of the posterior. Starting from q(z | x)
    needs far fewer steps if q is close to the posterior, but a mode that q lacks is missed without a
    warning, as by `iwae`.

    `x` has shape (N, *event_shape). The pair must have one continuous code per item, at the site
    "latent". `progress` shows a progress bar in a terminal or a notebook.

    Returns an `Estimate`, in nats, with the effective sample size "ess" of the chains' weights, the
    mean "acceptance" of the transitions, and "unreliable" as for `iwae`: the log-weights of the
    chains are so far apart that the bias probably exceeds the error, and more steps are needed.
    Raises ValueError for a pair without p(x), for values outside the likelihood's support and for
    counts below 1 (fewer than 5 leapfrog steps are allowed, but mix worse).

    >>> import torch
    >>> import pyrovae
    >>> torch.manual_seed(0)
    <torch...>
    >>> vae = pyrovae.linear_vae(5, 3)
    >>> x = vae.sample(4, seed=0)
    >>> abs((pyrovae.ais(vae, x, num_steps=30) - pyrovae.exact(vae, x)).mean) < 0.1
    True
    """
    session = Session("ais", pair)
    session.require_continuous()
    plan = _Plan(num_chains, num_steps, num_leapfrog, base, schedule, progress, seed)
    given = split_of(x, "ais", covariates, exposure, weight, missing)
    items = session.items(given, takes=TAKES, guide=plan.base == "guide")
    session.protocol |= plan.protocol()
    plan.fit_memory(session.pair, items)
    parts: list[dict[str, np.ndarray]] = []
    with _running(session, plan, runs=1) as stage:
        graph = _joint_as_graph(session.pair, items, plan, runs=1)
        for part in items.split(plan.batch):
            pilot = stage("pilot")
            with pilot.turn():
                path = _Path(session.pair, part, plan.base, graph)
            table = _tuned(path, plan, pilot)
            parts.append(_reduced(*_forward(path, plan, table, stage("forward"))))
    columns = _concatenated(parts)
    return session.estimate(columns, kind=f"ais({num_steps})", bound="lower", settings=SETTINGS, words=FROM_BELOW)


@checks.allocating
def bdmc(
    pair: Pair,
    n: int,
    *,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog: int = 5,
    base: Literal["prior", "guide"] = "prior",
    schedule: Literal["adaptive", "sigmoid", "linear"] = "adaptive",
    progress: bool = True,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
    missing: Any = None,
) -> tuple[Estimate, Estimate]:
    """Bidirectional Monte Carlo: bounds (lower, upper) on log p(x) of `n` items drawn from the model itself.

    The lower bound is `ais`. For the upper bound, chains are annealed backwards from the code that
    generated the item, which is an exact draw of p(z | x). Minus the log-mean-exp of the reversed
    weights is an upper bound in expectation (Grosse, Ghahramani and Adams 2015, section 3.1). Both
    directions use the temperatures and step sizes of one pilot run. `upper - lower` bounds the error
    of the annealing, in the mean and per item.

    All backward chains of an item start from the same code, so that their spread underestimates the
    error. The standard errors of both means are therefore computed over items, as sd / sqrt(n), and
    "se" per item is NaN. The `pointwise` of either estimate contains the items as "obs" and their
    codes as "latent", so that other estimators can be applied to them. `missing`, a mask of shape
    (n, *event_shape) or (*event_shape,) that is True where an entry is to be missing, makes them
    bounds on log p of the other entries. Other arguments and errors are those of `ais`.

    >>> import torch
    >>> import pyrovae
    >>> torch.manual_seed(0)
    <torch...>
    >>> lower, upper = pyrovae.bdmc(pyrovae.mlp_vae((5,), hidden_dims=(8,)), 20, num_steps=20)
    >>> -0.1 < (upper - lower).mean < 0.5
    True
    """
    session = Session("bdmc", pair)
    session.require_continuous()
    n = checks.whole("n", n, bytes_each=4 * (pair.latent_dim + math.prod(pair.event_shape)))
    plan = _Plan(num_chains, num_steps, num_leapfrog, base, schedule, progress, seed)
    beside = checked_beside(session.pair, covariates, exposure, n, spread=True)
    noise = Noise(stream(seed, "bdmc items", session.pair_sha256), session.device)
    with session.workspace(noise, checks=None).turn():
        codes, drawn = drawn_jointly(session.pair, n, **beside)
    given = checks.Gathered(drawn, None, **beside)
    if missing is not None:
        given = checks.Gathered(with_mask(drawn, missing), None, **beside, missing=True)
    items = session.items(given, takes=TAKES, guide=plan.base == "guide")
    session.protocol |= plan.protocol() | {"items": f"{n} draws from the model, seed {seed}"}
    plan.fit_memory(session.pair, items)
    session.protocol["se_from_items"] = 1
    lower: list[dict[str, np.ndarray]] = []
    upper: list[dict[str, np.ndarray]] = []
    with _running(session, plan, runs=2) as stage:
        graph = _joint_as_graph(session.pair, items, plan, runs=2)
        for part, code in zip(items.split(plan.batch), codes.split(plan.batch), strict=True):
            pilot = stage("pilot")
            with pilot.turn():
                path = _Path(session.pair, part, plan.base, graph)
            table = _tuned(path, plan, pilot)
            lower.append(_reduced(*_forward(path, plan, table, stage("forward"))))
            upper.append(_reduced(*_backward(path, plan, table, code, stage("backward"))))
            upper[-1]["value"] = -upper[-1]["value"]
    for one in (*lower, *upper):
        one["se"] = np.full_like(one["value"], np.nan)
        del one["unreliable"]  # a flag for errors per item, which do not exist here
    event = tuple(f"event_{i}" for i in range(drawn.ndim - 1))
    simulated = {"obs": (("item", *event), drawn), "latent": (("item", "latent_dim"), codes)}
    below, above = _concatenated(lower) | simulated, _concatenated(upper) | simulated
    kind = f"ais({num_steps})"
    return (
        session.estimate(below, kind=kind, bound="lower", settings=SETTINGS, words=FROM_BELOW),
        session.estimate(above, kind=f"reverse {kind}", bound="upper", settings=SETTINGS, words=FROM_ABOVE),
    )


def with_mask(x: Tensor, missing: Any) -> Tensor:
    """Items with NaN where a mask of all of them, or of one, is True."""
    mask = checks.array(missing, "missing")
    if mask.dtype != torch.bool or tuple(mask.shape) not in (tuple(x.shape), tuple(x.shape[1:])):
        raise ValueError(
            f"missing must be a mask of shape {tuple(x.shape)} or {tuple(x.shape[1:])} that is True where an entry is "
            f"to be missing, got {tuple(mask.shape)} of {mask.dtype}"
        )
    return x.masked_fill(mask.to(x.device), torch.nan)


class _Plan:
    """The checked settings of a run."""

    def __init__(
        self, num_chains: int, num_steps: int, num_leapfrog: int, base: str, schedule: str, progress: bool, seed: int
    ) -> None:
        self.num_chains = checks.whole("num_chains", num_chains)
        self.num_steps = checks.whole("num_steps", num_steps)
        self.num_leapfrog = checks.whole("num_leapfrog", num_leapfrog)
        self.base = checks.choice("base", base, ("prior", "guide"))
        self.schedule = checks.choice("schedule", schedule, ("adaptive", "sigmoid", "linear"))
        self.seed = checks.seed(seed)
        self.progress = progress
        self.batch = 1

    def fit_memory(self, pair: Pair, x: Items) -> None:
        """Set the number of items that are annealed together, as many as memory allows."""
        rows = rows_within(pair, x, MAX_BYTES)
        self.batch = min(len(x), max(1, min(ROWS, rows) // self.num_chains))
        chains = least_bytes(self.num_chains, rows, MAX_BYTES)
        checks.affordable(f"num_chains={self.num_chains:,}", chains, "take fewer", device=x.device)
        tables = 16 * self.batch * (1 + pair.latent_dim)  # temperatures and step sizes, during and after tuning
        checks.whole("num_steps", self.num_steps, bytes_each=tables)

    def protocol(self) -> dict[str, Any]:
        names = ("num_chains", "num_steps", "num_leapfrog", "base", "schedule", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass
class _Stage:
    """A part of a run with its own random numbers: `turn()` encloses each transition, `tick()` follows it."""

    turn: Callable[[], AbstractContextManager[None]]
    tick: Callable[[], Any]


@contextmanager
def _running(session: Session, plan: _Plan, *, runs: int) -> Iterator[Callable[[str], _Stage]]:
    """A function that makes stages of a run by name, each with its own random numbers, under one progress bar."""
    batches, stages = math.ceil(session.protocol["num_items"] / plan.batch), count()
    total = batches * (runs * plan.num_steps + PILOT)
    bar = progress_bar(show=plan.progress, total=total, desc=session.name, unit="temperature")

    def stage(what: str) -> _Stage:
        bar.set_postfix_str(what)
        noise = session.noise(plan.seed, what, next(stages), *plan.protocol().values())
        return _Stage(session.workspace(noise).turn, bar.update)

    with torch.no_grad(), bar:
        yield stage


@dataclass
class _State:
    """The state of C chains for each of n items: codes (C, n, d), log-densities (C, n) and gradients (C, n, d)."""

    z: Tensor
    log_base: Tensor
    delta: Tensor  # log p(x, z) - log base(z)
    base_gradient: Tensor
    delta_gradient: Tensor

    def chosen(self, accepted: Tensor, other: _State) -> _State:
        """The state `other` where accepted, and this one elsewhere."""
        pairs = zip(vars(other).values(), vars(self).values(), strict=True)
        return _State(*(torch.where(accepted[..., None] if a.ndim == 3 else accepted, a, b) for a, b in pairs))


class _Path:
    """The densities between the base and p(x, z) for n items."""

    def __init__(self, pair: Pair, x: Items, base: str, graph: CompiledFunction | None = None) -> None:
        self.pair, self.x, self.graph = pair, x, graph
        self.from_prior = base == "prior"
        traced = pair.model if self.from_prior else pair.guide
        arguments = {"size": len(x), **keywords_of(x)} if self.from_prior else {"x": x}
        self.base = latent_law(traced, **arguments)

    def start(self, count: int) -> _State:
        return self.at(self.base.sample((count,)))

    def at(self, z: Tensor) -> _State:
        z = z.detach()
        inputs = [*tensors_of(self.x), z]
        compiled = self.graph is not None and self.graph.fits(*inputs)
        scores = self.graph(*inputs) if compiled and self.graph else _joint(self.pair, self.x, z)
        log_likelihood, log_prior, likelihood_gradient, prior_gradient = scores
        if self.from_prior:
            return _State(z, log_prior, log_likelihood, prior_gradient, likelihood_gradient)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            log_base = self.log_base(leaf)
            base_gradient = _slope(log_base, leaf)
        delta = log_likelihood + log_prior - log_base.detach()
        return _State(z, log_base.detach(), delta, base_gradient, likelihood_gradient + prior_gradient - base_gradient)

    def log_base(self, z: Tensor) -> Tensor:
        """log q(z | x) at any codes; ValueError for a guide that knows it at its own draws alone."""
        try:
            value: Tensor = self.base.log_prob(z)
        except (KeyError, NotImplementedError) as error:
            raise ValueError(
                "base='guide' needs the density of q(z | x) at any code, and that of this guide, a flow without an "
                "inverse, is known at its own draws alone: take base='prior'"
            ) from error
        return value

    def moved(self, state: _State, beta: Tensor, step: Tensor, num_leapfrog: int) -> tuple[_State, Tensor]:
        """One Hamiltonian transition that leaves the density at `beta` invariant, and each item's mean acceptance.

        `beta` has shape (n,) and `step` (n, d). A step size per dimension is equivalent to a diagonal
        mass matrix.
        """
        momentum, weight = torch.randn_like(state.z), beta[:, None].to(state.z)
        # random lengths: at a fixed length, trajectories in a nearly normal density can return to their start
        step = step * torch.empty_like(state.z[..., :1]).uniform_(*JITTER)
        moving, now = momentum, state
        for _ in range(num_leapfrog):
            moving = moving + step / 2 * (now.base_gradient + weight * now.delta_gradient)
            now = self.at(now.z + step * moving)
            moving = moving + step / 2 * (now.base_gradient + weight * now.delta_gradient)
        energy = (now.log_base - state.log_base).double() + beta * (now.delta - state.delta).double()
        energy = energy - (moving.square() - momentum.square()).sum(-1).double() / 2
        probability = energy.nan_to_num(-math.inf, -math.inf, -math.inf).clamp(max=0).exp()
        accepted = torch.rand_like(probability) < probability
        return state.chosen(accepted, now), probability.mean(0)


def _joint(pair: Pair, x: Items, z: Tensor) -> list[Tensor]:
    """log p(x | z) and log p(z), shape (C, n), and their gradients in z, shape (C, n, d)."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        table = scored(pair, x, leaf, guide=False)
        parts = table.log_likelihood, table.log_prior
        slopes = [_slope(value, leaf) for value in parts]
    return [*(value.detach() for value in parts), *slopes]


def _joint_as_graph(pair: Pair, x: Items, plan: _Plan, *, runs: int) -> CompiledFunction | None:
    """`_joint` for full batches as a compiled graph, if there are enough calls for the compilation to pay off."""
    transitions = SETTLING + PILOT - 1 + runs * (plan.num_steps - 1)
    calls, rows = len(x) // plan.batch * transitions * plan.num_leapfrog, plan.batch * plan.num_chains
    if not pays(calls, sum(layer_sizes(pair, x)) * rows):
        return None
    with Workspace(as_module(pair), noise=Noise(0, x.device)).turn():
        some = x[: plan.batch]
        codes = _Path(pair, some, plan.base).base.sample((plan.num_chains,))
        return compile_function(
            lambda *inputs: _joint(pair, rebuilt(some, inputs[:-1]), inputs[-1]), [*tensors_of(some), codes]
        )


def _slope(value: Tensor, z: Tensor) -> Tensor:
    """The gradient with respect to z; 0 if the value does not depend on z, as under a uniform prior."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)
    return torch.zeros_like(z) if gradient is None else gradient


def _sigmoid(count: int) -> np.ndarray:
    """`count` + 1 inverse temperatures from 0 to 1, denser at both ends (Wu et al. 2017, section 3)."""
    ramp = 1 / (1 + np.exp(4 - 8 * np.linspace(0, 1, count + 1)))
    return (ramp - ramp[0]) / (ramp[-1] - ramp[0])


@dataclass
class _Table:
    """Inverse temperatures (T + 1, n) and step sizes (T - 1, n, d), tuned in a pilot run and then fixed."""

    betas: Tensor
    steps: Tensor


def _tuned(path: _Path, plan: _Plan, stage: _Stage) -> _Table:
    """Temperatures and step sizes, tuned in a pilot run.

    Step sizes are such that the acceptance is near its target, and proportional to the chains'
    standard deviation in each dimension of the code. The temperatures of the adaptive schedule are
    equally spaced in standard deviations of log p(x, z) - log base(z).
    """
    with stage.turn():
        state, grid = path.start(plan.num_chains), _sigmoid(PILOT)
    one = plan.num_chains == 1  # a single chain has no spread
    spread = torch.ones_like(state.z[0]) if one else state.z.var(0).mean(-1, keepdim=True).expand(state.z.shape[1:])
    log_step = torch.full_like(spread[:, 0], math.log(0.5))
    steps, deviations = [], []
    for k, at in enumerate(grid[1:]):
        beta = torch.full_like(log_step, at, dtype=torch.float64)
        for _ in range(1 if k else SETTLING):
            step = log_step.exp()[:, None] * spread.sqrt()
            with stage.turn():
                state, acceptance = path.moved(state, beta, step, plan.num_leapfrog)
            log_step = log_step + 0.3 * (acceptance - ACCEPTANCE).to(log_step)
            spread = spread if one else torch.lerp(spread, state.z.var(0), MEMORY)
        steps.append(log_step[:, None] + 0.5 * spread.log())
        deviations.append(state.delta.double().std(0, correction=0).nan_to_num(0.0, 0.0, 0.0))
        stage.tick()
    betas = _temperatures(plan, grid, torch.stack(deviations).cpu().numpy()).to(path.x.device)
    log_steps = _interpolated(torch.stack(steps).double(), torch.from_numpy(grid[1:]).to(betas), betas[1:-1])
    return _Table(betas.to(state.z).double(), log_steps.exp().to(state.z))  # in the dtype in which the chains use them


def _temperatures(plan: _Plan, grid: np.ndarray, deviations: np.ndarray) -> Tensor:
    """Each item's inverse temperatures, (T + 1, n)."""
    items = deviations.shape[1]
    if plan.schedule == "linear":
        return torch.linspace(0, 1, plan.num_steps + 1, dtype=torch.float64)[:, None].expand(-1, items)
    plain = _sigmoid(plan.num_steps)
    if plan.schedule == "sigmoid" or plan.num_chains == 1:
        return torch.from_numpy(plain)[:, None].expand(-1, items)
    length = np.concatenate([np.zeros((1, items)), np.cumsum(deviations * np.diff(grid)[:, None], 0)])
    total = length[-1].clip(min=np.finfo(float).tiny)
    length = (1 - PLAIN) * length / total + PLAIN * np.linspace(0, 1, len(grid))[:, None]
    at = np.linspace(0, 1, plan.num_steps + 1)
    betas = np.stack([np.interp(at, length[:, i] / length[-1, i], grid) for i in range(items)], 1)
    return torch.from_numpy(betas)


def _interpolated(values: Tensor, grid: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation per item, constant beyond the grid: (P, n, d), (P,) and (T, n) to (T, n, d)."""
    right = torch.searchsorted(grid, at.contiguous()).clamp(1, len(grid) - 1)
    share = ((at - grid[right - 1]) / (grid[right] - grid[right - 1])).clamp(0, 1)
    item = torch.arange(at.shape[1], device=at.device)
    return torch.lerp(values[right - 1, item], values[right, item], share[..., None])


def _forward(path: _Path, plan: _Plan, table: _Table, stage: _Stage) -> tuple[Tensor, Tensor]:
    """Log-weights (C, n) of chains from the base to the posterior, and the mean acceptance (n,)."""
    with stage.turn():
        state = path.start(plan.num_chains)
    log_weight, accepted = torch.zeros_like(state.delta, dtype=torch.float64), []
    for t in range(plan.num_steps):
        log_weight += (table.betas[t + 1] - table.betas[t]) * state.delta.double()
        if t < plan.num_steps - 1:  # nothing is weighed after the last temperature
            with stage.turn():
                state, acceptance = path.moved(state, table.betas[t + 1], table.steps[t], plan.num_leapfrog)
            accepted.append(acceptance)
        stage.tick()
    return log_weight, _mean(accepted, path.x)


def _backward(path: _Path, plan: _Plan, table: _Table, code: Tensor, stage: _Stage) -> tuple[Tensor, Tensor]:
    """Log-weights (C, n) for 1 / p(x), of chains from a draw of the posterior back to the base; and the acceptance."""
    with stage.turn():
        state = path.at(code.expand(plan.num_chains, *code.shape))
    log_weight, accepted = torch.zeros_like(state.delta, dtype=torch.float64), []
    for t in reversed(range(plan.num_steps)):
        log_weight -= (table.betas[t + 1] - table.betas[t]) * state.delta.double()
        if t > 0:
            with stage.turn():
                state, acceptance = path.moved(state, table.betas[t], table.steps[t - 1], plan.num_leapfrog)
            accepted.append(acceptance)
        stage.tick()
    return log_weight, _mean(accepted, path.x)


def _mean(accepted: list[Tensor], x: Items) -> Tensor:
    return torch.stack(accepted).mean(0) if accepted else items_of(x).new_full((len(x),), math.nan)


def _reduced(log_weight: Tensor, acceptance: Tensor) -> dict[str, np.ndarray]:
    return log_mean(log_weight) | {"ess": effective_size(log_weight), "acceptance": acceptance.cpu().numpy()}


def _concatenated(parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
