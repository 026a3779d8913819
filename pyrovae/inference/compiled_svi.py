"""One step of Pyro's stochastic variational inference as one compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from types import MethodType
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.infer.util import torch_item
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from pyrovae.argument_checks import argument_checks
from pyrovae.compile.contents import PLAIN
from pyrovae.compile.errors import EAGER, CaptureError, CompilerError, other_draws, seed_set
from pyrovae.compile.sources import PyroOptimizer
from pyrovae.compile.step import CompiledStep
from pyrovae.compile.unrepeatable import no_foreign_draws, no_seeds_set
from pyrovae.compile.updates import Updates
from pyrovae.compile.watching import watched
from pyrovae.exclusive import exclusive
from pyrovae.inference.elbo import PARTICLES, negative_elbo
from pyrovae.seeding import generators, put_back

__all__ = ["CaptureError", "CompiledSVI", "CompilerError"]


class CompiledSVI:
    """Pyro's SVI with a step that is one compiled graph, from the loss to the update: `svi.step(*args, **kwargs)`.

    Args:
        model: the model. Its structure is static, and nothing in Python or NumPy depends on the value of a tensor.
            Networks in `pyro.module` or as a `PyroModule`, constrained parameters, `poutine.scale` and
            `poutine.mask`, and subsampled plates are supported. So are distributions that are made outside of the
            model; their own checks run in the evaluations before a capture and not in the graph.
        guide: the guide, under the same conditions; every site of it is reparameterised. Autoguides are supported.
        optim: one of pyro.optim's Adam, AdamW, ClippedAdam or SGD, with or without clip_args, or a scheduler of
            pyro.optim over torch's optimiser of that name, whose `step` sets the rates of later steps. A state that it
            holds, or that is loaded before the first step, is continued. Its `get_state`, `save` and `optim_objs` show
            the current state in Pyro's layout, with which Pyro's SVI may continue; `state_dict` shows it in torch's.
        loss: a `Trace_ELBO` or `TraceMeanField_ELBO` with any number of particles, vectorised or not.
        check_every: compare the loss with the eager one every so many steps; 0 never compares.

    **What is captured.** A graph is captured once for each combination of the shapes of the tensor arguments and
    the values of the other arguments. On the host, batches of two items or more share one compiled graph where
    captures of their sizes are alike; to see that, the first batch is captured a second time with two thirds of its
    items. A float or int among these is an input of the graph, which takes its later values, as long as Python only
    computes with it, compares it with the same outcome, and brings it together with tensors by sums, products,
    quotients, comparisons and distributions; else (a size, an exponent, `math.exp`, `float()`, `isinstance`, `type`, a
    list in which the model keeps it) it is one of the values. The capture is preceded by eager, validated evaluations,
    and with such numbers it is compared with eager mode, loss and gradients, for them and for others. These evaluations
    change nothing but what model and guide set up in their first call, any tensor of its own that the model writes to,
    and any list or dictionary that it fills. The tensor arguments, and the tensors that the model reads from elsewhere,
    are inputs of the graph. Parameters that share memory are updated one after the other, as in eager mode. An argument
    must not share memory with a tensor that a step writes to.

    **When a new graph is captured.** Each step compares the values of all names that the code of model and guide uses,
    and of the functions that they call by name: globals, variables of enclosing functions, defaults, and the attributes
    of modules, of distributions and of a user's own objects, also of those in lists and dictionaries; the environment's
    variables whose names are string literals in that code; and what lists, dictionaries, sets, queues (deques) and
    NumPy arrays of up to 64 KiB hold that are found so. Tensors are compared by identity and numbers by value. Compared
    too are the code of these functions, the classes of objects and the methods found there, and the modes, hooks,
    parameters and buffers of modules. A change leads to a new capture, and so does another `model`, `guide` or `loss`.
    A model whose loss differs between evaluations from the same random state, because it assigns to a name, advances an
    iterator, or reads a clock or a generator of its own, is refused, and so is a model that sets the seed. A number
    that evaluations change and the loss does not depend on yet is left as it is by steps, with a warning. Not noticed
    are changes of the numbers in a larger array (but where `torch.from_numpy` or `torch.tensor` in the model reads it
    whole, each step does), of what containers of other classes hold, of what functions of installed packages read
    (other than the model's own), and of whatever comes after 16,000 names or as many entries of containers, of which a
    warning tells. Pass such values as arguments, and so numbers that change often: one that is found by its name, or in
    a container, leads to a new capture.

    **Random numbers.** Noise comes from torch's generators in the order of an eager step, so that compilation changes
    the rounding and nothing else. The exception is a guide that draws initial values in its first call, such as the
    network of AutoIAFNormal: the steps continue from the state after that call, and so use other random numbers than
    Pyro's SVI. The first step takes some seconds, most of them for the compiler, or one or two where inductor's cache
    holds the graph, as in a second process.

    **Losses that are not finite.** If the loss or the norm of a gradient is not finite, the parameters, the optimiser's
    state and the learning rates stay as they were before that step, in all later steps too; buffers of modules do
    not. `step` then raises FloatingPointError. `step_tensor` does not; `sound` tells whether it happened.

    Raises CaptureError, naming the site, for a model or guide that cannot be captured, and CompilerError where the
    compiler fails; parameters, buffers, optimiser state and generators are left as they were. Raises TypeError for
    another optimiser or loss, and ValueError for a scheduler that changes more than learning rates (cycle_momentum).

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
        self._held: dict[Hashable, Any] = {}  # so that the address of an earlier model is not given to another
        self._take(model, guide, loss)
        self.updates, self.taken, self.check_every = Updates(PyroOptimizer(optim)), 0, check_every
        self._optim = optim
        self._step = CompiledStep(
            self._negative_elbo,
            (model, guide),
            self.updates,
            self._set_up,
            self._settings,
            follow_numbers=True,
            share_sizes=True,
        )

    @property
    def model(self) -> Callable[..., Any]:
        """The model; another one is captured in the next step."""
        return self._model

    @model.setter
    def model(self, model: Callable[..., Any]) -> None:
        self._take(model, self._guide, self._loss)

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide; another one is captured in the next step."""
        return self._guide

    @guide.setter
    def guide(self, guide: Callable[..., Any]) -> None:
        self._take(self._model, guide, self._loss)

    @property
    def loss(self) -> Any:
        """The loss; another one is captured in the next step. Raises TypeError for one that is not known."""
        return self._loss

    @loss.setter
    def loss(self, loss: ELBO) -> None:
        self._take(self._model, self._guide, loss)

    @property
    def optim(self) -> Any:
        """Pyro's optimiser. Raises AttributeError where it is replaced."""
        return self._optim

    @optim.setter
    def optim(self, optim: Any) -> None:
        raise AttributeError(
            "optim cannot be replaced, for the steps hold its state: make a CompiledSVI with the other"
        )

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one step and return the loss before the update, as Pyro's SVI does."""
        loss = float(self.step_tensor(*args, **kwargs))
        if not self.sound:
            raise FloatingPointError(
                f"the loss or a gradient's norm is not finite, at this step (its loss is {loss}) or before: parameters "
                "and optimiser are as they were ahead of it, and stay so until load_state_dict; lower the learning "
                "rate, or look at the items"
            )
        return loss

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step and return the loss as a scalar tensor, without waiting for the device."""
        with exclusive():
            return self._stepped(args, kwargs)

    def _stepped(self, args: Any, kwargs: Any) -> Tensor:
        if am_i_wrapped():
            raise CaptureError(f"a step inside of handlers would capture them: take it outside, {EAGER}")
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            raise CaptureError(
                "a step inside of torch.no_grad() or torch.inference_mode() has no gradient to follow, and changes no "
                "parameter under pyro.infer.SVI: take it outside, or call evaluate_loss there"
            )
        self._step.owners = self._model, self._guide
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
        """The number of graphs compiled so far."""
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
        """The optimiser's parameter groups, available after the first step.

        Reading this property brings each "lr" up to date, so read it anew before you look at an "lr" or set one.
        """
        return self.updates.groups

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss in eager mode, without a step, as Pyro's SVI returns it."""
        with exclusive(), torch.no_grad():
            return float(torch_item(self.loss.loss(self.model, self.guide, *args, **kwargs)))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state in torch.optim's layout with parameter names, in the order of `parameters`."""
        return self.updates.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of this optimiser or of torch's; `sound` is True again. Parameters are not loaded.

        Entries are matched by parameter name if the state has names, and by position otherwise. Entries for
        parameters that do not exist yet are kept until a step creates these parameters. Raises ValueError for another
        layout, optimiser, name or shape.
        """
        self.updates.load_state_dict(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledSVI:
        if self.taken:
            raise TypeError(
                "a CompiledSVI that has taken a step cannot be copied, for its graphs write to the parameters of this "
                "one: copy state_dict() and the parameters, and load them into a new one"
            )
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__setstate__(deepcopy(vars(self), memo))
        return made

    def __copy__(self) -> CompiledSVI:
        raise TypeError("a shallow copy of a CompiledSVI would go on with the steps of this one: make a new one")

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._take(self._model, self._guide, self._loss)  # which are known by their identity

    def _negative_elbo(self, *args: Any, **kwargs: Any) -> Tensor:
        return negative_elbo(self.loss, self.model, self.guide, *args, **kwargs)

    def _take(self, model: Any, guide: Any, loss: Any) -> None:
        """Step with these from now on."""
        if type(loss) not in PARTICLES:
            name = type(loss).__name__
            raise TypeError(
                f"loss must be a Trace_ELBO or TraceMeanField_ELBO, got {name}: pyro.infer.SVI takes others"
            )
        self._model, self._guide, self._loss = model, guide, loss
        self._identity = tuple(part if type(part) is MethodType else id(part) for part in (model, guide, loss))
        self._held[self._identity] = model, guide, loss

    def _settings(self) -> Hashable:
        loss = self._loss
        # as of torch.device, which moves what is made: by their class and what it is given
        modes = tuple((type(mode), _plain_attributes(mode)) for mode in _get_current_function_mode_stack())
        return self._identity, loss.num_particles, loss.vectorize_particles, loss.max_plate_nesting, modes

    def _evaluated(self, args: Any, kwargs: Any) -> float:
        """The eager loss with the noise of the next step; the generators are put back."""
        before = generators()
        try:
            with argument_checks(False), torch.no_grad(), watched(self.model, self.guide):
                return float(self._negative_elbo(*args, **kwargs))
        finally:
            put_back(before)

    def _set_up(self, args: Any, kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        """Evaluate the loss eagerly with validation: the parameters by name, and the generators' state for step one."""
        loss = self.loss
        with torch.enable_grad(), argument_checks(True), watched(self.model, self.guide):
            for guide in _autoguides(self.guide):
                if guide.prototype_trace is None:
                    guide._setup_prototype(*args, **kwargs)
            if loss.vectorize_particles and loss.max_plate_nesting == math.inf:
                loss._guess_max_plate_nesting(self.model, self.guide, args, kwargs)
            ends, before = [], generators()
            # everything is set up by the first evaluation, so the second draws noise alone
            for look in (nullcontext(), no_seeds_set(seed_set)):
                with poutine.trace(param_only=True) as seen, no_foreign_draws(other_draws), look:
                    self._negative_elbo(*args, **kwargs)
                ends.append(generators())
                put_back(before)
            if not _alike(*ends):  # the set-up drew numbers: continue after them, so that none is used twice
                before = ends[0]
        sites = (site for site in seen.trace.nodes.values() if site["type"] == "param")
        return {site["name"]: site["value"].unconstrained() for site in sites}, before


def _plain_attributes(mode: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted((name, repr(value)) for name, value in getattr(mode, "__dict__", {}).items() if isinstance(value, PLAIN))
    )


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or not (math.isfinite(a) or math.isfinite(b))


def _autoguides(guide: Any) -> Iterator[Any]:
    for owner in (guide, getattr(guide, "__self__", None)):
        if isinstance(owner, AutoGuide):
            yield owner


def _alike(a: Any, b: Any) -> bool:
    """Whether two states of torch's generators are equal."""
    cuda = [torch.equal(x, y) for x, y in zip(a[1] or (), b[1] or (), strict=True)]
    return torch.equal(a[0]["torch"], b[0]["torch"]) and all(cuda)
