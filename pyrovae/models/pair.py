"""What a model/guide pair is, and the one primitive all its evaluation rests on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks, rounding
from pyrovae.models.scopes import Workspace, copied, evaluating, is_listing, isolated_store, kept_modes, validation
from pyrovae.seeding import Noise

__all__ = [
    "ENUMERATED",
    "Drawn",
    "Listed",
    "Pair",
    "Particles",
    "as_module",
    "checked_items",
    "doubled",
    "drawn",
    "dtype_and_device",
    "evaluating",
    "is_point",
    "isolated_store",
    "kept_modes",
    "latent_law",
    "layer_sizes",
    "least_bytes",
    "list_parameters",
    "particles",
    "plate_size",
    "require_continuous",
    "rows_within",
    "scored",
    "seen",
    "settings",
    "simulated",
    "tabulated",
    "traces",
    "unique_name",
    "validation",
    "weighed",
    "widened",
]

ENUMERATED = {"enumerate": "parallel"}  # a discrete site that is summed out rather than drawn
LAYERS_ALIVE = 6  # copies of the widest layer counted for one code

_serial = count(1)


@runtime_checkable
class Pair(Protocol):
    """A Pyro model and its guide over items of `event_shape`, with plate "data" and observed site "obs"."""

    event_shape: tuple[int, ...]
    latent_dim: int
    is_normalized: bool  # False: the model has no p(x), and evaluation says so

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def guide(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


class Listed(nn.Module):
    """A module whose parameters Pyro's store knows by names that no other module of this process has."""

    recipe: dict[str, Any] | None = None  # how a builder made it, for `save`; None where parts were composed by hand

    def __init__(self) -> None:
        super().__init__()
        self._site = unique_name(type(self).__name__)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store leaves a weak reference on what it lists: no pickle has it
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._site = unique_name(type(self).__name__)  # a copy is another model: its parameters get sites of their own


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


def particles(pair: Pair, x: Tensor, num_particles: int, *, allow_scale: bool = True) -> Particles:
    """Draw `num_particles` codes an item from the guide and score them, under plate "particles" at dim -2.

    Noise comes from torch's global generator; gradients flow through reparameterised sites. A scale, of
    `poutine.scale` or of a subsampled plate, is a weight in a loss and no part of a density: the tables are those of
    the sites without it. A mask leaves out what it masks. Any pair will do whose sites all lie in one plate "data" of
    the items' size; ValueError for another, and for a scaled site without `allow_scale`.
    """
    guide, model = traces(pair, x, num_particles)
    if not allow_scale:
        _refuse_scaled(model, guide)
    return tabulated(model, guide, x, num_particles)


def traces(pair: Pair, x: Tensor, num_particles: int | None, at: poutine.Trace | None = None) -> tuple[Any, Any]:
    """The traces of guide and model, drawn or at the values in `at`; None: one draw, without a plate for it."""
    run = _replicated(pair.guide, x, num_particles)
    guide = poutine.trace(run if at is None else poutine.replay(run, trace=at)).get_trace()
    model = poutine.trace(poutine.replay(_replicated(pair.model, x, num_particles), trace=guide)).get_trace()
    return guide, model


def tabulated(model: poutine.Trace, guide: poutine.Trace, x: Tensor, num_particles: int) -> Particles:
    """The three tables of two such traces."""
    shape = (num_particles, len(x))
    return Particles(_total(model, True, x, shape), _total(model, False, x, shape), _log_guide(guide, x, shape))


def scored(pair: Pair, x: Tensor, z: Tensor, *, guide: bool = True) -> Particles:
    """The same tables at given codes `z` of shape (K, N, latent_dim), or (K, 1, latent_dim) for codes all items share.

    The pair must have one code an item, its site "latent". Without `guide` the encoder is not run and log_guide is 0.
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
        """Some draws of some items."""
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


def drawn(pair: Pair, x: Tensor, num_particles: int) -> Drawn:
    """The codes that `particles` draws, from the same random numbers, to be weighed a part at a time."""
    guide = poutine.trace(_replicated(pair.guide, x, num_particles)).get_trace()
    log_guide = _log_guide(guide, x, (num_particles, len(x)))
    sites = {
        name: site
        for name, site in prune_subsample_sites(guide).nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site["infer"].get("_deterministic")
    }
    values = {name: site["value"] for name, site in sites.items()}
    return Drawn(values, {name: site["fn"].event_dim for name, site in sites.items()}, log_guide)


def weighed(pair: Pair, x: Tensor, codes: Drawn) -> Particles:
    """The tables of `particles` for codes that are there already."""
    shape, trace = (len(codes.log_guide), len(x)), poutine.Trace()
    for name, value in codes.values.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    model = poutine.trace(poutine.replay(_replicated(pair.model, x, shape[0]), trace=trace)).get_trace()
    return Particles(_total(model, True, x, shape), _total(model, False, x, shape), codes.log_guide)


def latent_law(fn: Any, *given: Any, **named: Any) -> Any:
    """The distribution at site "latent" of a pair's model or guide, called with the rest."""
    return poutine.trace(fn).get_trace(*given, **named).nodes["latent"]["fn"]


def simulated(pair: Pair, z: Tensor) -> Tensor:
    """Items drawn from the model at given codes: (K, N, latent_dim) to (K, N, *event_shape)."""

    def run() -> Any:
        with pyro.plate("particles", len(z), dim=-2):
            return pair.model(size=z.shape[1])

    return poutine.trace(poutine.replay(run, trace=_at(z))).get_trace().nodes["obs"]["value"]


def require_continuous(pair: Pair, estimator: str) -> None:
    """Refuse a pair without one continuous code an item: `estimator` moves along it, or integrates over it."""
    with Workspace(as_module(pair), noise=Noise(0, dtype_and_device(pair)[1]), checks=None).turn():
        trace = prune_subsample_sites(poutine.trace(pair.model).get_trace(size=1))
    site = trace.nodes.get("latent")
    if site is None:
        others = ", ".join(repr(name) for name in trace.stochastic_nodes if name != "obs") or "none"
        raise ValueError(
            f"{estimator} needs a model whose one unobserved site is named 'latent'; those of {type(pair).__name__}: "
            f"{others}"
        )
    if site["fn"].support.is_discrete:
        raise ValueError(f"{estimator} needs a continuous code, and the prior of this pair's is discrete")


def widened(pair: Pair) -> Pair:
    """The pair itself, or a copy in float32 where its parameters are in half precision: too few digits for a sum."""
    dtype = dtype_and_device(pair)[0]
    if dtype in (torch.float32, torch.float64):
        return pair
    wide: Any = copied(as_module(pair)).float()
    return wide


def doubled(pair: Pair) -> Any:
    """A copy in float64, with the tensors that its parts hold in plain attributes, lists or distributions, or make."""
    double: Any = copied(as_module(pair)).double()
    for part in double.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                vars(part)[name] = _doubled(value)
    for part in double.children():
        part.register_forward_hook(_doubled_output)
    for name in ("model", "guide"):
        vars(double)[name] = _InFloat64()(getattr(double, name))
    return double


class _InFloat64(Messenger):
    """Cast what a site draws: a distribution of numbers in the code of a model, as Normal(0.0, 1.0), draws float32."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and msg["value"].is_floating_point():
            msg["value"] = msg["value"].double()


def _doubled_output(_: nn.Module, __: Any, output: Any) -> Any:
    """A distribution of tensors that a part makes when it is called, such as torch.zeros(2)."""
    return _doubled(output) if isinstance(output, torch.distributions.Distribution) else output


def _doubled(value: Any) -> Any:
    """A distribution is copied: one that a part gives may be the caller's own, made outside of the pair."""
    if isinstance(value, nn.Module):
        return value.double()
    if isinstance(value, Tensor):
        return value.double() if value.dtype.is_floating_point else value
    if type(value) in (list, tuple):
        return type(value)(map(_doubled, value))
    if type(value) is dict:
        return {key: _doubled(each) for key, each in value.items()}
    if isinstance(value, torch.distributions.Distribution):
        value = copy.copy(value)
        for name, each in vars(value).items():
            vars(value)[name] = _doubled(each)
    return value


def layer_sizes(pair: Pair, x: Tensor) -> list[int]:
    """How many elements each layer puts out for one more code of an item: those of the decoder."""
    module, sizes = as_module(pair), []
    with Workspace(module, noise=Noise(0, x.device)).turn():
        for count in (1, 2):  # what grows with the number of codes
            with seen(module) as found:
                particles(pair, x[:1], count)
            sizes.append(found.sizes)
    return [two - one for one, two in zip(*sizes, strict=False)]


def rows_within(pair: Pair, x: Tensor, max_bytes: int) -> int:
    """How many codes may be decoded together, at least 1, for what their layers hold to take about `max_bytes`."""
    widest = max([x[0].numel(), *layer_sizes(pair, x)])
    return max(1, max_bytes // (LAYERS_ALIVE * widest * x.element_size()))


def least_bytes(count: int, rows: int, max_bytes: int) -> int:
    """The bytes that decoding `count` codes together takes at least: two copies of the widest layer."""
    return 2 * count * max_bytes // (LAYERS_ALIVE * rows)


class _Sampling(Messenger):
    """Which parts are at work when a site is drawn: no plain network."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[nn.Module] = []
        self.found: set[nn.Module] = set()

    def _pyro_sample(self, msg: Any) -> None:
        self.found.update(self.active)


@dataclass
class Seen:
    """What parts of a module did: the outermost that turn tensors into a tensor, and how many elements each gave."""

    networks: list[nn.Module]
    sizes: list[int]


@contextmanager
def seen(module: nn.Module) -> Iterator[Seen]:
    """Watch the parts of a module as the body calls them; the answer is there after it."""
    sampling, answer = _Sampling(), Seen([], [])
    found: dict[nn.Module, None] = {}

    def enter(part: nn.Module, _: Any) -> None:
        sampling.active.append(part)

    def leave(part: nn.Module, _: Any, output: Any) -> None:
        sampling.active.pop()
        if isinstance(output, Tensor):
            found[part] = None
            answer.sizes.append(output.numel())

    parts = [part for part in module.modules() if part is not module and not isinstance(part, torch.jit.ScriptModule)]
    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(leave, always_call=True) for part in parts]
    try:
        with sampling:
            yield answer
    finally:
        for hook in hooks:
            hook.remove()
    plain = [part for part in found if part not in sampling.found]
    inner = {part for whole in plain for part in whole.modules() if part is not whole}
    answer.networks = [part for part in plain if part not in inner]


def _at(z: Tensor) -> poutine.Trace:
    """A trace in which the site "latent" has the value `z`."""
    trace = poutine.Trace()
    trace.add_node("latent", name="latent", type="sample", is_observed=False, value=z, infer={})
    return trace


def _replicated(fn: Any, x: Tensor, num_particles: int | None) -> Any:
    def run() -> Any:
        with nullcontext() if num_particles is None else pyro.plate("particles", num_particles, dim=-2):
            return fn(x)

    return run


def is_point(fn: Any) -> bool:
    """Whether it is a Delta, whatever wraps it."""
    while not isinstance(fn, Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _log_guide(trace: poutine.Trace, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """The log-density of a guide's draws, with its `pyro.factor` where a code is a point that draws were turned into.

    A factor beside a draw that has a density of its own is a term of a loss, as a scale is.
    """
    log_guide = _total(trace, False, x, shape)
    codes = [site for site in trace.nodes.values() if site["type"] == "sample" and not site["is_observed"]]
    return log_guide + _total(trace, True, x, shape) if any(is_point(site["fn"]) for site in codes) else log_guide


def _total(trace: poutine.Trace, observed: bool, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """The log-densities of a trace's observed, or of its other sites, summed: a table of `shape`."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    value = x.new_zeros(shape)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] != observed or site["infer"].get("_deterministic"):
            continue
        plate = next((frame for frame in site["cond_indep_stack"] if frame.name == "data"), None)
        if plate is None:
            raise ValueError(f"site {name!r} lies outside the plate 'data': it belongs to no item of its own")
        if plate.size != len(x):
            raise ValueError(
                f"site {name!r} has {plate.size} of the {len(x)} items: its plate draws a subsample of its own, which "
                "scores no given item; write pyro.plate('data', len(x)) and leave batches to fit"
            )
        # a scale weighs a site in a loss: the density is the one without it
        term = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
        if term.ndim > 2 or any(a not in (1, b) for a, b in zip(term.shape[::-1], shape[::-1], strict=False)):
            raise ValueError(
                f"site {name!r} has log-densities of shape {tuple(term.shape)}, where one per draw and item would "
                f"be {shape}: take its other dimensions into the event by .to_event(), and keep to the plate 'data'"
            )
        value = value + term
    return value


def _refuse_scaled(*traces: poutine.Trace) -> None:
    """Importance weights of scaled sites are those of no density: their mean bounds nothing."""
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


def list_parameters(name: str, module: nn.Module) -> None:
    """List the module's parameters as Pyro's param sites, so that Pyro's own SVI finds and trains them.

    The module stays their owner. The parameter store is global and keyed by name: an entry that is another tensor (of
    a deleted model, or a loaded store) is replaced, or the optimiser would train that one.
    """
    if not am_i_wrapped() or not is_listing():
        return
    store = pyro.get_param_store()
    for path, parameter in module.named_parameters():
        if not parameter.requires_grad or not isinstance(parameter, nn.Parameter):
            continue
        if not parameter.is_contiguous():
            raise ValueError(
                f"parameter {path!r} is not contiguous (channels_last?) and Pyro's store would train a copy of it; "
                "keep the weights contiguous: the networks convert what flows through them"
            )
        site = f"{name}.{path}"
        if site in store and store[site].unconstrained() is not parameter:
            del store[site]
        pyro.param(site, parameter)


def unique_name(kind: str) -> str:
    """A name for one module's param sites that no other module of this process has."""
    return f"{kind}{next(_serial)}"


def settings(module: nn.Module) -> str:
    """What a module's parts were told and their repr and tensors may not show: plain numbers, words, lists of these.

    The outermost module's own attributes are left out: whose name or notes it bears is no part of its density.
    """
    parts = [(name, part) for name, part in module.named_modules() if name]
    told = [(name, sorted((k, _plain(v)) for k, v in vars(part).items() if k != "training")) for name, part in parts]
    return repr([(name, [(k, v) for k, v in rows if v is not None and k[0] != "_"]) for name, rows in told])


def _plain(value: Any) -> str | None:
    """A setting in words that are the same in every process; None for what is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray) and value.dtype != object:
        return repr(torch.as_tensor(value).detach().cpu().tolist())
    if isinstance(value, tuple | list):
        each = [_plain(v) for v in value]
        return None if None in each else f"[{', '.join(map(str, each))}]"
    return None


def plate_size(x: Tensor | None, size: int, event_shape: tuple[int, ...]) -> int:
    """How many items a plate is of: those given, or `size` draws of them."""
    return checks.whole("size", size, bytes_each=4 * math.prod(event_shape)) if x is None else len(x)


def as_module(pair: Any) -> nn.Module:
    """The pair as the module that it must be, to be moved, trained and saved."""
    if not isinstance(pair, nn.Module) or not isinstance(pair, Pair):
        raise TypeError(
            "pair must be a torch.nn.Module with model, guide, event_shape, latent_dim and is_normalized, such as a "
            f"VAE; got {type(pair).__name__}"
        )
    return pair


def checked_items(
    pair: Any,
    x: Any,
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    first: int | None = None,
    support: constraints.Constraint | None = None,
    hint: str = "drop or impute them first",
    least: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Items that have a density under the pair, in `dtype` (its own where None): shape, finiteness and support.

    All are looked at as they came, and refused where the pair's own dtype does not hold them (`checks.held`).
    `support` takes the place of the likelihood's own, where the items are to be binarised first. `x` is an array, or a
    split of a data set. `first`: the number of the first, of items that are a part; None: they are all. `least` as for
    `checks.held`: what the spread of the items is by a fit, where a few that lie close together say too little of it.
    """
    own = dtype_and_device(pair)[0]
    shape, start = tuple(pair.event_shape), first or 0
    given = checks.as_given(x, shape, name=name, missing=missing, first=start, hint=hint)
    likelihood = getattr(pair, "likelihood", None)
    allowed = support or getattr(likelihood, "support", None)
    family = type(getattr(likelihood, "family", likelihood)).__name__
    if allowed is not None:
        checks.support(given, allowed, family, name=name)
    items = checks.held(given, own, name=name, whole=first is None, least=least)
    if allowed is not None and not checks.lives_in_unit(allowed) and rounding.is_wider(given.dtype, own):
        checks.support_once_rounded(items, allowed, family, name=name)
    return items if dtype in (None, own) else given.to(dtype)


def dtype_and_device(pair: Any) -> tuple[torch.dtype, torch.device]:
    """Those of the pair's first parameter."""
    first = next(iter(pair.named_parameters()), None)
    if first is None:
        raise ValueError(f"{type(pair).__name__} has no parameters")
    return first[1].dtype, first[1].device
