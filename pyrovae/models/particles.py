"""Draws of the code from the guide, scored under model and guide: all evaluation rests on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyrovae.models.batch import Batch, called_on
from pyrovae.models.pair import Pair, as_module, dtype_and_device, require_code_alone, stand_ins
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise

__all__ = [
    "ENUMERATED",
    "Drawn",
    "Items",
    "Particles",
    "drawn",
    "drawn_items",
    "drawn_jointly",
    "is_point",
    "latent_law",
    "particles",
    "refuse_scaled",
    "require_continuous",
    "score_functions",
    "scored",
    "simulated",
    "tabulated",
    "traces",
    "weighed",
]

Items = Tensor | Batch  # with what lies beside them
ENUMERATED = {"enumerate": "parallel"}  # a discrete site that is summed out rather than drawn


@dataclass(frozen=True)
class Particles:
    """K draws of the code for each of N items: three tables of shape (K, N), in nats."""

    log_likelihood: Tensor  # log p(x | z)
    log_prior: Tensor  # log p(z)
    log_guide: Tensor  # log q(z | x)

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x): its mean over K is an ELBO, its log-mean-exp an importance-weighted bound."""
        return self.log_likelihood + self.log_prior - self.log_guide

    def double(self) -> Particles:
        """The same in float64."""
        return Particles(*(table.double() for table in self._tables()))

    @staticmethod
    def joined(parts: list[Particles], dim: int) -> Particles:
        """Draws of the same items one below the other (-2), or of the next items beside them (-1)."""
        if len(parts) == 1:
            return parts[0]
        return Particles(*(torch.cat(tables, dim) for tables in zip(*(one._tables() for one in parts), strict=True)))

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_likelihood, self.log_prior, self.log_guide


def particles(pair: Pair, x: Items, num_particles: int) -> Particles:
    """Draw `num_particles` codes per item from the guide and score them, under plate "particles" at dim -2.

    Noise comes from torch's global generator; gradients flow through reparameterised sites. A scale, of
    `poutine.scale` or of a subsampled plate, is a weight in a loss and no part of a density: the tables are those of
    the sites without it. A mask leaves out what it masks. Any pair will do whose sites all lie in one plate "data" of
    the items' size; ValueError for another.
    """
    guide, model = traces(pair, x, num_particles)
    return tabulated(model, guide, x, num_particles)


def traces(pair: Pair, x: Items, num_particles: int | None, at: poutine.Trace | None = None) -> tuple[Any, Any]:
    """The traces of guide and model, at new draws or at the values in `at`; with None, of one draw without a plate."""
    run = _replicated(pair.guide, x, num_particles)
    guide = poutine.trace(run if at is None else poutine.replay(run, trace=at)).get_trace()
    model = poutine.trace(poutine.replay(_replicated(pair.model, x, num_particles), trace=guide)).get_trace()
    return guide, model


def tabulated(model: poutine.Trace, guide: poutine.Trace, x: Items, num_particles: int) -> Particles:
    """The three tables of two such traces."""
    shape = (num_particles, len(x))
    return Particles(_total(model, True, x, shape), _total(model, False, x, shape), _log_guide(guide, x, shape))


def scored(pair: Pair, x: Items, z: Tensor, *, guide: bool = True) -> Particles:
    """The tables of `particles` at given codes `z` of shape (K, N, latent_dim), or (K, 1, latent_dim) for all items.

    The pair must have one code per item, its site "latent". Without `guide` the encoder is not run and log_guide is 0.
    """
    shape = (len(z), len(x))

    def run(fn: Any) -> poutine.Trace:
        return poutine.trace(poutine.replay(_replicated(fn, x, len(z)), trace=_at(z))).get_trace()

    model = run(pair.model)
    sites = prune_subsample_sites(model).nodes.items()
    latent = [name for name, site in sites if site["type"] == "sample" and not site["is_observed"]]
    if latent != ["latent"]:
        raise ValueError(f"the pair must have one unobserved site, 'latent', for codes to be given; it has {latent}")
    log_guide = _log_guide(run(pair.guide), x, shape) if guide else x.new_zeros(())
    return Particles(_total(model, True, x, shape), _total(model, False, x, shape), log_guide)


@dataclass(frozen=True)
class Drawn:
    """K draws of the codes for each of N items: each site's values with their number of event dimensions."""

    values: dict[str, Tensor]  # (..., K, N, *event)
    event_dims: dict[str, int]
    log_guide: Tensor  # (K, N)

    def part(self, rows: slice, items: slice) -> Drawn:
        """A part of the draws, of a part of the items."""
        values = {}
        for name, value in self.values.items():
            whole: Any = (slice(None),) * self.event_dims[name]
            values[name] = value[(..., rows, items, *whole)]
        return Drawn(values, self.event_dims, self.log_guide[rows, items])

    @staticmethod
    def joined(parts: list[Drawn], dim: int) -> Drawn:
        """Draws of the same items one below the other (-2), or of the next items beside them (-1)."""
        events = parts[0].event_dims
        values = {name: torch.cat([one.values[name] for one in parts], dim - size) for name, size in events.items()}
        return Drawn(values, events, torch.cat([one.log_guide for one in parts], dim))


def drawn(pair: Pair, x: Items, num_particles: int) -> Drawn:
    """Draw the codes that `particles` draws, from the same random numbers, to be weighed a part at a time."""
    guide = poutine.trace(_replicated(pair.guide, x, num_particles)).get_trace()
    log_guide = _log_guide(guide, x, (num_particles, len(x)))
    sites = {
        name: site
        for name, site in prune_subsample_sites(guide).nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site["infer"].get("_deterministic")
    }
    values = {name: site["value"] for name, site in sites.items()}
    return Drawn(values, {name: site["fn"].event_dim for name, site in sites.items()}, log_guide)


def weighed(pair: Pair, x: Items, codes: Drawn) -> Particles:
    """The tables of `particles` for codes that are drawn already."""
    shape, trace = (len(codes.log_guide), len(x)), poutine.Trace()
    for name, value in codes.values.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    model = poutine.trace(poutine.replay(_replicated(pair.model, x, shape[0]), trace=trace)).get_trace()
    return Particles(_total(model, True, x, shape), _total(model, False, x, shape), codes.log_guide)


def latent_law(fn: Any, x: Any = None, **named: Any) -> Any:
    """The distribution at site "latent" of a pair's model or guide, called on items or with the rest."""
    if isinstance(x, Batch):
        x, named = x.x, {**x.keywords, **named}
    trace = poutine.trace(fn).get_trace(**named) if x is None else poutine.trace(fn).get_trace(x, **named)
    if "latent" not in trace.nodes:
        others = [name for name in prune_subsample_sites(trace).stochastic_nodes if name != "obs"]
        raise ValueError(
            f"a code is drawn at the site 'latent', and {getattr(fn, '__qualname__', 'what was given')} has "
            f"{', '.join(map(repr, others)) or 'no unobserved site'}: name the site of the code 'latent'"
        )
    return trace.nodes["latent"]["fn"]


def drawn_jointly(pair: Pair, count: int, **given: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and the items drawn at them, from the model: (count, latent_dim) and (count, *event_shape)."""
    trace = poutine.trace(pair.model).get_trace(size=count, **given)
    items = _items_drawn(pair, trace, batch_dims=1)
    return trace.nodes["latent"]["value"], items


def drawn_items(pair: Pair, count: int, **given: Tensor) -> Tensor:
    """Items drawn from the model, (count, *event_shape), whatever its latent sites are."""
    return _items_drawn(pair, poutine.trace(pair.model).get_trace(size=count, **given), batch_dims=1)


def observed_law(pair: Pair, z: Tensor, **given: Tensor) -> Any:
    """The distribution at site "obs" of a pair's model at given codes, (N, latent_dim)."""
    model = poutine.replay(pair.model, trace=_at(z))
    return poutine.trace(model).get_trace(size=len(z), **given).nodes["obs"]["fn"]


def simulated(pair: Pair, z: Tensor, **given: Tensor) -> Tensor:
    """Items drawn from the model at given codes: (K, N, latent_dim) to (K, N, *event_shape)."""

    def run() -> Any:
        with pyro.plate("particles", len(z), dim=-2):
            return pair.model(size=z.shape[1], **given)

    return _items_drawn(pair, poutine.trace(poutine.replay(run, trace=_at(z))).get_trace(), batch_dims=2)


def _items_drawn(pair: Pair, trace: poutine.Trace, batch_dims: int) -> Tensor:
    """What a trace of the model drew at the site "obs", of the pair's event shape after so many dimensions."""
    if "obs" not in trace.nodes:
        drawn = [name for name in prune_subsample_sites(trace).stochastic_nodes if name != "latent"]
        raise ValueError(
            f"items are drawn from a model at its site 'obs', and that of {type(pair).__name__} has "
            f"{', '.join(map(repr, drawn)) or 'no other site than its code'}: name the observed site 'obs'"
        )
    value: Tensor = trace.nodes["obs"]["value"]
    if tuple(value.shape[batch_dims:]) != tuple(pair.event_shape):
        raise ValueError(
            f"{type(pair).__name__} states event_shape {tuple(pair.event_shape)}, and its model draws items of shape "
            f"{tuple(value.shape[batch_dims:])}"
        )
    return value


def require_continuous(pair: Pair, estimator: str) -> None:
    """Refuse a pair without one continuous code per item: `estimator` moves along it, or integrates over it."""
    require_code_alone(pair, estimator)
    with Workspace(as_module(pair), noise=Noise(0, dtype_and_device(pair)[1]), checks=None).turn():
        trace = prune_subsample_sites(poutine.trace(pair.model).get_trace(size=1, **stand_ins(pair, 1)))
    site = trace.nodes.get("latent")
    if site is None:
        others = ", ".join(repr(name) for name in trace.stochastic_nodes if name != "obs") or "none"
        raise ValueError(
            f"{estimator} needs a model whose one unobserved site is named 'latent'; those of {type(pair).__name__}: "
            f"{others}"
        )
    if site["fn"].support.is_discrete:
        raise ValueError(f"{estimator} needs a continuous code, and the prior of this pair's is discrete")


def _at(z: Tensor) -> poutine.Trace:
    """A trace in which the site "latent" has the value `z`."""
    trace = poutine.Trace()
    trace.add_node("latent", name="latent", type="sample", is_observed=False, value=z, infer={})
    return trace


def _replicated(fn: Any, x: Items, num_particles: int | None) -> Any:
    def run() -> Any:
        with nullcontext() if num_particles is None else pyro.plate("particles", num_particles, dim=-2):
            return called_on(fn, x)

    return run


def is_point(fn: Any) -> bool:
    """Whether a distribution is a Delta, whatever wraps it."""
    while not isinstance(fn, Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def score_functions(guide: poutine.Trace, x: Items, num_particles: int) -> Tensor:
    """What of log q(z | x) a draw's distribution depends on and its value does not carry: a table (K, N).

    The gradient of a draw's expectation has the gradient of this times the integrand beside that through its value. It
    is log q(z | x) of a draw that is not reparameterised, and 0 of one that is.
    """
    guide.compute_score_parts()
    return _log_guide(guide, x, (num_particles, len(x)), _score_function)


def _log_prob(site: Any) -> Tensor:
    log_prob: Tensor = site["unscaled_log_prob"]
    return log_prob


def _score_function(site: Any) -> Tensor:
    value = site["score_parts"].score_function
    return value if isinstance(value, Tensor) else torch.zeros_like(site["unscaled_log_prob"])


SiteTerm = Callable[[Any], Tensor]


def _log_guide(trace: poutine.Trace, x: Items, shape: tuple[int, int], term: SiteTerm = _log_prob) -> Tensor:
    """The log-density of a guide's draws, with its `pyro.factor` where a code is a point that draws were turned into.

    A factor beside a draw that has a density of its own is a term of a loss, as a scale is.
    """
    log_guide = _total(trace, False, x, shape, term)
    codes = [site for site in trace.nodes.values() if site["type"] == "sample" and not site["is_observed"]]
    is_turned = any(is_point(site["fn"]) for site in codes)
    return log_guide + _total(trace, True, x, shape, term) if is_turned else log_guide


def _total(
    trace: poutine.Trace, observed: bool, x: Items, shape: tuple[int, int], term_of: SiteTerm = _log_prob
) -> Tensor:
    """The log-densities of a trace's observed, or of its other sites, summed: a table of `shape`."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    value = x.new_zeros(shape)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] != observed or site["infer"].get("_deterministic"):
            continue
        plate = next((frame for frame in site["cond_indep_stack"] if frame.name == "data"), None)
        if plate is None:
            plates = ", ".join(repr(frame.name) for frame in site["cond_indep_stack"] if frame.name != "particles")
            advice = f"; it lies in plate {plates}: name the plate of the items 'data'" if plates else ""
            raise ValueError(f"site {name!r} lies outside the plate 'data': it belongs to no item of its own{advice}")
        if plate.size != len(x):
            raise ValueError(
                f"site {name!r} has {plate.size} of the {len(x)} items: its plate draws a subsample of its own, which "
                "scores no given item; write pyro.plate('data', len(x)) and leave batches to fit"
            )
        # a scale weighs a site in a loss: the density is the one without it
        term = scale_and_mask(term_of(site), 1.0, site["mask"])
        if term.ndim > 2 or any(a not in (1, b) for a, b in zip(term.shape[::-1], shape[::-1], strict=False)):
            raise ValueError(
                f"site {name!r} has log-densities of shape {tuple(term.shape)}, where one per draw and item would "
                f"be {shape}: take its other dimensions into the event by .to_event(), and keep to the plate 'data'"
            )
        value = value + term
    return value


def refuse_scaled(*traces: poutine.Trace) -> None:
    """Refuse scaled sites: importance weights with them are of no density, and their mean bounds nothing."""
    for trace in traces:
        for name, site in prune_subsample_sites(trace).nodes.items():
            scale = site.get("scale", 1.0) if site["type"] == "sample" else 1.0
            if isinstance(scale, Tensor) or scale != 1.0:
                told = "a tensor" if isinstance(scale, Tensor) else f"{scale:g}"
                raise ValueError(
                    f"objective='iwae' weighs draws by p(x, z) / q(z | x), and site {name!r} is scaled by {told}, by "
                    "poutine.scale or a plate larger than the batch: their mean would bound no log p(x). Leave the "
                    "scale out, as pyro.plate('data', len(x)) does, or take objective='elbo'"
                )
