"""One step of Pyro's stochastic variational inference as one compiled graph."""

from __future__ import annotations

import enum
import math
import random
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.infer.util import torch_item
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.inference.graph import capture, compiled, constants_to_inputs, without_noise
from pyrovae.inference.updates import Updates
from pyrovae.models.pair import validation as checking

__all__ = ["CaptureError", "CompiledSVI", "CompilerError"]

EAGER = "or take pyro.infer.SVI, which runs it eagerly"
MANY = 8  # compiles, of which the user is told once
VALUES = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size)
READS = ("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__")


class CaptureError(RuntimeError):
    """A model and guide that cannot be one graph: the message names the site and what to do."""


class CompilerError(RuntimeError):
    """The graph could not be compiled: no C++ compiler that works, or no folder to write to."""


class CompiledSVI:
    """Pyro's SVI whose step, from the loss to the update, is one compiled graph: `svi.step(*args, **kwargs)` as there.

    `model` and `guide`: of static structure, every site of the guide reparameterised; nothing of Python or NumPy that
    depends on the value of a tensor. Networks by `pyro.module` or as `PyroModule`, constrained parameters, autoguides,
    `poutine.scale` and `mask`, and subsampled plates pass. `optim`: a new one of pyro.optim's Adam, AdamW, ClippedAdam
    or SGD, with clip_args too. `loss`: a `Trace_ELBO` or `TraceMeanField_ELBO` of any number of particles, vectorised
    or not.

    The step is captured once for each shape of its tensor arguments and each value of the others, after evaluations,
    eager and validated, that change nothing but what they set up. Tensors among the arguments, and those that the model
    reaches where they lie, are inputs of the graph. A Python number or a tensor that a name is bound to anew is as it
    was at the capture: hand it in as an argument; `check_every=n` compares the loss with the eager one every n steps.
    Modes, parameters and buffers of modules are looked at each step: a change captures anew. Noise comes from torch's
    generators in eager's order, so that compiling changes rounding and nothing else; where parameters draw as they are
    set up (but for an autoguide's own), steps go on from there, by other numbers than eager's. A first step takes half
    a minute, or seconds where inductor's cache has the graph.

    A loss or gradient that is not finite freezes parameters, state and rates from that step on, and not the buffers of
    modules: `step` raises FloatingPointError, `step_tensor` goes on without a word until someone looks at `sound`.

    Raises CaptureError, naming the site, for what cannot be captured and CompilerError where the compiler fails, both
    with parameters, buffers, state and generators as they were; TypeError for another optimiser or loss.

    >>> import pyro, torch, pyrovae
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> guide = pyro.infer.autoguide.AutoNormal(model)
    >>> svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    >>> losses = [svi.step(torch.ones(10)) for _ in range(300)]
    >>> abs(float(guide.median()["z"]) - 10 / 11) < 0.2
    True
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], optim: Any, loss: ELBO, *, check_every: int = 0
    ) -> None:
        if type(loss) not in PARTICLES:
            raise TypeError(f"loss must be a Trace_ELBO or TraceMeanField_ELBO, got {type(loss).__name__}: {EAGER[3:]}")
        self.model, self.guide, self.loss, self.check_every = model, guide, loss, check_every
        self.updates = Updates(optim)
        self.compiles = self.taken = 0
        self._programs: dict[Hashable, list[_Program]] = {}

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One step; the loss before it, as Pyro's SVI returns it."""
        loss = float(self.step_tensor(*args, **kwargs))
        if not self.sound:
            raise FloatingPointError(
                f"a loss or gradient is not finite (the loss is {loss}): parameters and optimiser are as after step "
                f"{int(max(self.updates.steps.values()))}; lower the learning rate, or look at these items"
            )
        return loss

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step; the loss as a scalar tensor, without waiting for it."""
        if am_i_wrapped():
            raise CaptureError(f"a step inside of handlers would capture them: take it outside, {EAGER}")
        leaves, structure = pytree.tree_flatten((args, kwargs))
        if any(x.requires_grad for x in leaves if isinstance(x, Tensor)):
            raise CaptureError(
                "an argument carries a gradient, which would end here: compute it in the model, or detach it"
            )
        key = (structure, tuple(_described(x) for x in leaves), self._settings())
        program = self._found(key)
        if program is None:
            program = self._captured(leaves, structure)
            self._programs.setdefault((*key[:2], self._settings()), []).append(program)
        eager = None
        if self.check_every and self.taken % self.check_every == 0:
            eager = self._evaluated(args, kwargs)
        self.taken += 1
        self.updates.set_rates()
        loss = program(leaves)
        if eager is not None and not _close(float(loss), eager):
            raise CaptureError(
                f"step {self.taken}: the compiled loss is {float(loss):.9g} and the eager one {eager:.9g}: something "
                "that the graph holds as a constant has changed since its capture; make a CompiledSVI anew"
            )
        return loss

    @property
    def sound(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return bool(self.updates.sound) if self.updates.optimizer is not None else True

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The unconstrained parameters by name, in the order of `state_dict`."""
        return self.updates.ordered

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, after a first step: their "lr" may be set at any time."""
        return self.updates.groups

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss without a step, eagerly, as Pyro's SVI returns it."""
        with torch.no_grad():
            return float(torch_item(self.loss.loss(self.model, self.guide, *args, **kwargs)))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state in torch.optim's layout, parameters in the order of `parameters`."""
        return self.updates.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the parameters themselves are the caller's to load."""
        self.updates.load_state_dict(state)

    def _settings(self) -> Hashable:
        """What else a graph depends on that may change from step to step."""
        return (
            self.loss.num_particles,
            self.loss.vectorize_particles,
            self.updates.options,
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cuda"),
        )

    def _found(self, key: Hashable) -> _Program | None:
        known = self._programs.get(key, [])
        program = next((program for program in known if program.holds()), None)
        if program is None:  # another joins them
            known[:] = [program for program in known if program.may_hold()][-MANY:]
        return program

    def _evaluated(self, args: Any, kwargs: Any) -> float:
        """The loss that the next step's noise gives eagerly."""
        before = _generators()
        try:
            with checking(False), torch.no_grad(), _watched(self.model, self.guide):
                return float(_negative_elbo(self.loss, self.model, self.guide, args, kwargs))
        finally:
            _put_back(before)

    # capture ----------------------------------------------------------------------------------------

    def _captured(self, leaves: list[Any], structure: Any) -> _Program:
        given = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        args, kwargs = pytree.tree_unflatten(given, structure)
        before = _generators()
        try:
            named, before = self._set_up(args, kwargs)
            graph, fixed, modules = self._traced(named, given, args, kwargs)
            held = constants_to_inputs(graph)
            noise = without_noise(graph, fixed[0].device)
            fixed = [t.detach() for t in fixed]
            drawn = [] if noise is None else noise()
            tensors = [x for x in given if isinstance(x, Tensor)]
            try:
                run = compiled(graph, [*fixed, *tensors, *held, *drawn], keep_noise=noise is None)
            except Exception as error:
                raise _explained(error) from error
        finally:
            _put_back(before)
        self.compiles += 1
        if self.compiles == MANY + 1:
            warnings.warn(
                f"a step was captured for the {MANY + 1}th time: hand numbers that change in as tensors, in few shapes",
                stacklevel=4,
            )
        return _Program(run, fixed, held, noise, named, _State.of(modules, named.values()))

    def _set_up(self, args: Any, kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        """By eager, validated evaluations: the parameters by name, and the generators as the first step finds them."""
        python, numpy, loss = random.getstate(), np.random.get_state(), self.loss
        with torch.enable_grad(), checking(True), _watched(self.model, self.guide):
            for guide in _autoguides(self.guide):
                if guide.prototype_trace is None:
                    guide._setup_prototype(*args, **kwargs)
            if loss.vectorize_particles and loss.max_plate_nesting == math.inf:
                loss._guess_max_plate_nesting(self.model, self.guide, args, kwargs)
            ends, before = [], _generators()
            for _ in range(2):  # the second sets nothing up
                with poutine.trace(param_only=True) as seen:
                    for model_trace, guide_trace in loss._get_traces(self.model, self.guide, args, kwargs):
                        _require_reparameterized(model_trace, guide_trace)
                ends.append(_generators())
                if random.getstate() != python or not _same(np.random.get_state(), numpy):
                    raise CaptureError(
                        f"model or guide draws from Python's or NumPy's generator: draw by torch, {EAGER}"
                    )
                _put_back(before)
            if not _alike(*ends):  # what was set up drew: go on from there, so that no number serves twice
                before = ends[0]
        sites = (site for site in seen.trace.nodes.values() if site["type"] == "param")
        return {site["name"]: site["value"].unconstrained() for site in sites}, before

    def _traced(
        self, named: dict[str, Tensor], given: list[Any], args: Any, kwargs: Any
    ) -> tuple[Any, list[Tensor], list[nn.Module]]:
        """The step as a graph, and its first inputs, which it changes where they are."""
        updates = self.updates
        updates.take(named)
        own = [p for name, p in updates.ordered.items() if name in named and p.requires_grad]
        if not own:
            raise CaptureError("model and guide have no parameter that requires a gradient: nothing to fit")
        fixed, at = updates.inputs(own), _Site()

        def step(*_: Tensor) -> list[Tensor]:
            with at, _Reading(at), _Depending(at):
                loss = _negative_elbo(self.loss, self.model, self.guide, args, kwargs)
            gradients = torch.autograd.grad(loss, own, allow_unused=True)
            with torch.no_grad():
                return [loss.detach(), *updates.updated(loss.detach(), own, list(gradients))]

        with torch.enable_grad(), checking(False), _watched(self.model, self.guide) as modules:
            try:
                graph = capture(step, [*fixed, *(x for x in given if isinstance(x, Tensor))])
            except RuntimeError as error:
                if isinstance(error, CaptureError) or "_local_scalar_dense" not in str(error):
                    raise
                raise at.course() from None
            finally:
                at.put_back()
        if any(node.kwargs.get("generator") is not None for node in graph.graph.nodes):
            raise CaptureError(f"a draw has a generator of its own: leave it to torch's, {EAGER}")
        _write_back(graph)
        return graph, fixed, modules


@dataclass(frozen=True)
class _State:
    """What a capture saw of modules and parameters."""

    made_of: dict[nn.Module, Any]
    addresses: list[tuple[Tensor, Any]]

    @classmethod
    def of(cls, modules: list[nn.Module], params: Any) -> _State:
        """As they are now."""
        every = {id(p): p for p in (*params, *(p for m in modules for p in m.parameters(recurse=False)))}
        return cls({m: _made_of(m) for m in modules}, [(p, _address(p)) for p in every.values()])


def _made_of(module: nn.Module) -> tuple[Any, ...]:
    """Mode, parts and hooks, held so that no address is given to another."""
    return (
        module.training,
        _Same(*module._parameters.items(), *module._buffers.items(), *module._modules.items()),
        tuple(module._forward_hooks),
        tuple(module._forward_pre_hooks),
    )


class _Same:
    """Named things, equal to the very same ones."""

    def __init__(self, *named: tuple[str, Any]) -> None:
        self.named = named

    def __eq__(self, other: object) -> bool:
        theirs = other.named if isinstance(other, _Same) else ()
        return len(theirs) == len(self.named) and all(
            a == b and x is y for (a, x), (b, y) in zip(self.named, theirs, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class _Program:
    """A compiled step for arguments of one kind, and what must not have changed for it to be the right one."""

    run: Callable[..., Any]
    fixed: list[Tensor]  # parameters, state, counts, flag, rates: changed where they are
    held: list[Tensor]  # what else the model reaches
    noise: Callable[[], Sequence[Tensor]] | None
    named: dict[str, Tensor]
    state: _State
    stored: dict[str, Tensor] = field(init=False)  # the parameters that Pyro's store has

    def __post_init__(self) -> None:
        store = pyro.get_param_store()._params
        object.__setattr__(self, "stored", {name: p for name, p in self.named.items() if store.get(name) is p})

    def __call__(self, leaves: list[Any]) -> Tensor:
        tensors = [x.detach() for x in leaves if isinstance(x, Tensor)]
        drawn = () if self.noise is None else self.noise()
        with torch.no_grad():
            loss: Tensor = self.run(*self.fixed, *tensors, *self.held, *drawn)[0]
        return loss

    def may_hold(self) -> bool:
        """Whether the parameters are still where they were; one whose flag differs may come back."""
        return all(_address(p)[:-2] == address[:-2] for p, address in self.state.addresses)

    def holds(self) -> bool:
        store = pyro.get_param_store()._params
        return (
            all(_made_of(module) == parts for module, parts in self.state.made_of.items())
            and all(_address(p) == address for p, address in self.state.addresses)
            and all(store.get(name) is p for name, p in self.stored.items())
        )


def _address(p: Tensor) -> tuple[Any, ...]:
    hooks = tuple(p._backward_hooks or ())
    return p.data_ptr(), p.dtype, p.device, p.shape, p.stride(), p.requires_grad, hooks


def _described(x: Any) -> Hashable:
    """What of an argument the graph depends on: a tensor's kind, or the value of anything else."""
    if isinstance(x, Tensor):
        return tuple(x.shape), x.stride(), x.dtype, x.device
    if isinstance(x, float) and math.isnan(x):
        return float, "nan"
    if isinstance(x, VALUES) or callable(x):  # a function or a module: by its identity
        return type(x), x
    raise TypeError(
        f"an argument of type {type(x).__name__} cannot be told from a changed one: hand in its tensors and numbers, "
        "in tuples, lists and dicts"
    )


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or not (math.isfinite(a) or math.isfinite(b))


# losses ---------------------------------------------------------------------------------------------


def _negative_elbo(loss: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Tensor:
    """The loss as a tensor, differentiable: Pyro's, without a look at its value."""
    particle, total = PARTICLES[type(loss)], torch.zeros(())
    for model_trace, guide_trace in loss._get_traces(model, guide, args, kwargs):
        total = total - particle(model_trace, guide_trace) / loss.num_particles
    return total


def _trace_elbo(model_trace: Any, guide_trace: Any) -> Tensor:
    """log p(x, z) - log q(z) at one draw; its gradient is the ELBO's, where every site is reparameterised."""
    elbo = torch.zeros(())
    for site in _samples(model_trace):
        elbo = elbo + site["log_prob_sum"]
    for site in _samples(guide_trace):
        elbo = elbo - _entropy_term(site)
    return elbo


def _mean_field_elbo(model_trace: Any, guide_trace: Any) -> Tensor:
    """The same with a site's closed-form KL divergence where the two laws have one."""
    elbo = torch.zeros(())
    for site in _samples(model_trace):
        if site["is_observed"]:
            elbo = elbo + site["log_prob_sum"]
            continue
        own = guide_trace.nodes[site["name"]]
        try:
            kl = scale_and_mask(kl_divergence(own["fn"], site["fn"]), own["scale"], own["mask"])
        except NotImplementedError:
            elbo = elbo + site["log_prob_sum"] - _entropy_term(own)
            continue
        elbo = elbo - (kl.sum() if isinstance(kl, Tensor) else kl * own["fn"].batch_shape.numel())
    for site in _samples(guide_trace):
        if site["name"] not in model_trace.nodes:
            elbo = elbo - _entropy_term(site)
    return elbo


PARTICLES: dict[Any, Callable[[Any, Any], Tensor]] = {Trace_ELBO: _trace_elbo, TraceMeanField_ELBO: _mean_field_elbo}


def _entropy_term(site: Any) -> Any:
    term = site["score_parts"].entropy_term
    return 0.0 if is_identically_zero(term) else term.sum()


def _samples(trace: Any) -> Iterator[Any]:
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def _require_reparameterized(model_trace: Any, guide_trace: Any) -> None:
    for trace in (guide_trace, model_trace):
        for site in _samples(trace):
            if site["infer"].get("enumerate"):
                raise CaptureError(f"site {site['name']!r} is marked to be summed out: take TraceEnum_ELBO with SVI")
            if trace is guide_trace and not getattr(site["fn"], "has_rsample", False):
                raise CaptureError(
                    f"site {site['name']!r} ({type(site['fn']).__name__}) has no reparameterised draw, so that no "
                    f"gradient goes through it: give the guide a law that has one, {EAGER}"
                )


# around a capture -----------------------------------------------------------------------------------


class _Site(Messenger):
    """The sample site that was reached last; its law checks no values, whoever made it."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self._pinned: list[Any] = []

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]
        law = msg["fn"]
        while law is not None:
            if law.__dict__.get("_validate_args"):  # a law that was made outside, or expanded
                self._pinned.append(law)
                law.__dict__["_validate_args"] = False
            law = law.__dict__.get("base_dist")

    def put_back(self) -> None:
        for law in self._pinned:
            law.__dict__["_validate_args"] = True

    def course(self) -> CaptureError:
        return CaptureError(
            f"at or after site {self.name!r} the course of model or guide depends on a value (`if`, `.item()`, "
            f"`float()`, NumPy of a tensor): write it with torch.where, {EAGER}"
        )


class _Reading(TorchFunctionMode):
    """Refuse to hand the value of any tensor to Python, where a graph would keep it for ever."""

    def __init__(self, at: _Site) -> None:
        super().__init__()
        self.at = at

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func in (torch.tensor, torch.as_tensor) and isinstance(args[0] if args else None, list | tuple)
        if getattr(func, "__name__", "") in READS or (made and _holds_tensor(args[0])):
            raise self.at.course()
        return func(*args, **(kwargs or {}))


class _Depending(TorchDispatchMode):
    """The same where torch itself reads the value, as a size, a fill or a comparison."""

    def __init__(self, at: _Site) -> None:
        super().__init__()
        self.at = at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise self.at.course()
        return func(*args, **(kwargs or {}))


def _holds_tensor(values: Any) -> bool:
    return isinstance(values, Tensor) or (isinstance(values, list | tuple) and any(map(_holds_tensor, values)))


def _write_back(graph: Any) -> None:
    """End the graph with its new values in place of the old: outputs after the first belong to the first inputs."""
    nodes = list(graph.graph.nodes)
    output = nodes[-1]
    loss, *news = output.args[0]
    inputs = [node for node in nodes if node.op == "placeholder"]
    with graph.graph.inserting_before(output):
        for old, new in zip(inputs, news, strict=False):
            if new is not old:
                graph.graph.call_function(torch.ops.aten.copy_.default, (old, new))
    output.args = ((loss,),)
    graph.recompile()


@contextmanager
def _watched(*functions: Any) -> Iterator[list[nn.Module]]:
    """The modules that are called, and those that the functions are or belong to; their buffers are put back."""
    buffers: dict[nn.Module, dict[str, tuple[Tensor | None, Tensor | None, int]]] = {}

    def note(module: nn.Module, _: Any = None) -> None:
        if module not in buffers:
            buffers[module] = {name: (b, *_kept(b)) for name, b in module._buffers.items()}

    for function in functions:
        for owner in (function, getattr(function, "__self__", None)):
            for module in owner.modules() if isinstance(owner, nn.Module) else ():
                note(module)
    found: list[nn.Module] = []
    rebound: list[str] = []
    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()
        found += buffers
        with torch.no_grad():
            for module, own in buffers.items():
                for name, (b, value, version) in own.items():
                    if module._buffers.get(name) is not b:
                        module._buffers[name] = b
                        rebound.append(f"{type(module).__name__}.{name}")
                    if b is not None and value is not None and b._version != version:
                        b.copy_(value)
    if rebound:
        raise CaptureError(f"buffer {rebound[0]} is bound anew in each step: change it in place, {EAGER}")


def _kept(b: Tensor | None) -> tuple[Tensor | None, int]:
    """A copy of a buffer, and its version where it has one."""
    return (None, 0) if b is None or b.is_inference() else (b.detach().clone(), b._version)


def _autoguides(guide: Any) -> Iterator[Any]:
    for owner in (guide, getattr(guide, "__self__", None)):
        if isinstance(owner, AutoGuide):
            yield owner


def _explained(error: Exception) -> RuntimeError:
    first, kind = str(error).strip().split("\n")[0], type(error).__name__
    if isinstance(error, OSError) or any(
        word in f"{kind} {first}" for word in ("Cxx", "Cpp", "compiler", "ImportError")
    ):
        return CompilerError(
            f"the step could not be compiled ({kind}: {first}). It takes a C++ compiler, g++ or clang++ on the path or "
            "in CXX, and a folder to write to, TORCHINDUCTOR_CACHE_DIR, to be emptied where a file of it is broken"
        )
    return CaptureError(f"the step cannot be one graph ({kind}: {first}): keep shapes free of values, {EAGER}")


def _alike(a: Any, b: Any) -> bool:
    """Whether torch's generators are at the same place."""
    cuda = [torch.equal(x, y) for x, y in zip(a[1] or (), b[1] or (), strict=True)]
    return torch.equal(a[0]["torch"], b[0]["torch"]) and all(cuda)


def _same(a: Any, b: Any) -> bool:
    return a[0] == b[0] and np.array_equal(a[1], b[1]) and a[2:] == b[2:]


def _generators() -> Any:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return pyro.util.get_rng_state(), cuda


def _put_back(state: Any) -> None:
    pyro.util.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
