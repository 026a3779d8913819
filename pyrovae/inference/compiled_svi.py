"""One step of Pyro's stochastic variational inference as one compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.infer.util import torch_item
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyrovae.argument_checks import argument_checks
from pyrovae.compile.errors import EAGER, CaptureError, CompilerError, other_draws
from pyrovae.compile.sources import PyroOptimizer
from pyrovae.compile.step import CompiledStep
from pyrovae.compile.unrepeatable import no_foreign_draws
from pyrovae.compile.updates import Updates
from pyrovae.compile.watching import watched
from pyrovae.exclusive import exclusive
from pyrovae.inference.elbo import PARTICLES, negative_elbo
from pyrovae.seeding import generators, put_back

__all__ = ["CaptureError", "CompiledSVI", "CompilerError"]


class CompiledSVI:
    """Pyro's SVI with a step that is one compiled graph from loss to update: `svi.step(*args, **kwargs)`.

    `model` and `guide`: of static structure, every site of the guide reparameterised; nothing of Python or NumPy that
    depends on the value of a tensor. Networks by `pyro.module` or as `PyroModule`, constrained parameters, autoguides,
    `poutine.scale` and `mask`, and subsampled plates pass, and so do distributions that were made elsewhere, whose own
    checks run in the evaluations before a capture and not in the graph. `optim`: one of pyro.optim's Adam, AdamW,
    ClippedAdam or SGD, with clip_args too. A state that it has, or that is loaded before a first step, is taken; its
    `get_state`, `save` and `optim_objs` show the present one, as `state_dict` does here in torch's layout, and Pyro's
    SVI may go on with it. `loss`: a `Trace_ELBO` or `TraceMeanField_ELBO` of any number of particles, vectorised or
    not.

    The step is captured once for each shape of its tensor arguments and each value of the others, after evaluations,
    eager and validated, that change nothing but what they set up, and tensors of its own that the model writes to.
    Tensors among the arguments, and those that the model reaches where they lie, are inputs of the graph. Parameters
    that share memory are updated one by one, as eagerly; an argument may not lie in memory that a step writes to.

    What the names in the code of model and guide, and of the functions that they call by name, are bound to is looked
    at each step, tensors by identity and numbers by value: globals, variables of enclosing functions, defaults, and
    attributes of modules, distributions and a user's own objects, those in lists and dicts too. A change captures anew;
    a name that is bound anew by each evaluation, and that the loss depends on, is refused. Which things a list, a dict
    or an array holds is as it was at the capture, and so is what functions of installed packages read, other than the
    model's own: hand it in as an argument; `check_every=n` compares the loss with the eager one every n steps. Modes,
    hooks, parameters and buffers of modules are looked at each step too. Noise comes from torch's generators in eager's
    order, so that compiling changes rounding and nothing else; where parameters draw as they are set up in the guide's
    first call, as AutoIAFNormal's network, steps go on from there, by other numbers than eager's. A first step takes
    half a minute, or seconds where inductor's cache has the graph.

    A loss, or a gradient's norm, that is not finite freezes parameters, state and rates from that step on, and not the
    buffers of modules: `step` raises FloatingPointError, `step_tensor` goes on without a word until someone looks at
    `sound`.

    Raises CaptureError, naming the site, for what cannot be captured and CompilerError where the compiler fails, both
    with parameters, buffers, state and generators as they were; TypeError for another optimiser or loss.

    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import torch
    >>> import pyrovae
    >>> def model(x):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> guide = pyro.infer.autoguide.AutoNormal(model)
    >>> svi = pyrovae.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    >>> losses = [svi.step(torch.ones(10)) for _ in range(300)]
    >>> abs(float(guide.median()["z"]) - 10 / 11) < 0.2
    True
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], optim: Any, loss: ELBO, *, check_every: int = 0
    ) -> None:
        if type(loss) not in PARTICLES:
            got = type(loss).__name__
            raise TypeError(f"loss must be a Trace_ELBO or TraceMeanField_ELBO, got {got}: pyro.infer.SVI takes others")
        self.model, self.guide, self.loss, self.check_every = model, guide, loss, check_every
        self.updates, self.taken = Updates(PyroOptimizer(optim)), 0
        self._step = CompiledStep(self._negative_elbo, (model, guide), self.updates, self._set_up, self._particles)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one step, and return the loss before it as Pyro's SVI does."""
        loss = float(self.step_tensor(*args, **kwargs))
        if not self.sound:
            raise FloatingPointError(
                f"the loss or a gradient's norm is not finite, at this step (its loss is {loss}) or before: parameters "
                "and optimiser are as they were ahead of it, and stay so until load_state_dict; lower the learning "
                "rate, or look at the items"
            )
        return loss

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step, and return the loss as a scalar tensor, without waiting for it."""
        with exclusive():
            return self._stepped(args, kwargs)

    def _stepped(self, args: Any, kwargs: Any) -> Tensor:
        if am_i_wrapped():
            raise CaptureError(f"a step inside of handlers would capture them: take it outside, {EAGER}")
        take, eager = self._step.prepared(args, kwargs), None
        if self.check_every and self.taken % self.check_every == 0:
            eager = self._evaluated(args, kwargs)
        self.taken += 1
        loss = take()
        if eager is not None and not _close(float(loss), eager):
            raise CaptureError(
                f"step {self.taken}: the compiled loss is {float(loss):.9g} and the eager one {eager:.9g}: something "
                "that the graph holds as a constant has changed since its capture; make a CompiledSVI anew"
            )
        return loss

    @property
    def compiles(self) -> int:
        """The number of graphs that were compiled so far."""
        return self._step.compiles

    @property
    def sound(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return bool(self.updates.all_finite) if self.updates.optimizer is not None else True

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The unconstrained parameters by name, in the order of `state_dict`."""
        return self.updates.ordered

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, after a first step: read them here each time that an "lr" is looked at or set."""
        return self.updates.groups

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss without a step, eagerly, as Pyro's SVI returns it."""
        with exclusive(), torch.no_grad():
            return float(torch_item(self.loss.loss(self.model, self.guide, *args, **kwargs)))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state in torch.optim's layout, with names, parameters in the order of `parameters`."""
        return self.updates.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, of this or of torch's optimiser, as sound; the parameters are the caller's to load.

        By names where the state has any, and what it has of parameters that are still to come waits; else by numbers.
        Raises ValueError for another layout, optimiser, name or shape.
        """
        self.updates.load_state_dict(state)

    def _negative_elbo(self, *args: Any, **kwargs: Any) -> Tensor:
        return negative_elbo(self.loss, self.model, self.guide, *args, **kwargs)

    def _particles(self) -> tuple[int, bool]:
        return self.loss.num_particles, self.loss.vectorize_particles

    def _evaluated(self, args: Any, kwargs: Any) -> float:
        """The loss that the next step's noise gives eagerly."""
        before = generators()
        try:
            with argument_checks(False), torch.no_grad(), watched(self.model, self.guide):
                return float(self._negative_elbo(*args, **kwargs))
        finally:
            put_back(before)

    def _set_up(self, args: Any, kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        """The parameters by name, and the generators' state at the first step, by eager, validated evaluations."""
        loss = self.loss
        with torch.enable_grad(), argument_checks(True), watched(self.model, self.guide):
            for guide in _autoguides(self.guide):
                if guide.prototype_trace is None:
                    guide._setup_prototype(*args, **kwargs)
            if loss.vectorize_particles and loss.max_plate_nesting == math.inf:
                loss._guess_max_plate_nesting(self.model, self.guide, args, kwargs)
            ends, before = [], generators()
            for _ in range(2):  # the second sets nothing up
                with poutine.trace(param_only=True) as seen, no_foreign_draws(other_draws):
                    self._negative_elbo(*args, **kwargs)
                ends.append(generators())
                put_back(before)
            if not _alike(*ends):  # what was set up drew: go on from there, so that no number serves twice
                before = ends[0]
        sites = (site for site in seen.trace.nodes.values() if site["type"] == "param")
        return {site["name"]: site["value"].unconstrained() for site in sites}, before


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or not (math.isfinite(a) or math.isfinite(b))


def _autoguides(guide: Any) -> Iterator[Any]:
    for owner in (guide, getattr(guide, "__self__", None)):
        if isinstance(owner, AutoGuide):
            yield owner


def _alike(a: Any, b: Any) -> bool:
    """Whether torch's generators are at the same place."""
    cuda = [torch.equal(x, y) for x, y in zip(a[1] or (), b[1] or (), strict=True)]
    return torch.equal(a[0]["torch"], b[0]["torch"]) and all(cuda)
