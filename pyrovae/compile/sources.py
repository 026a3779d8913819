"""The source of a compiled step's optimiser: fixed options, or an optimiser of Pyro that shows the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyrovae.compile.optimizers import Rule, rule_of, supported_names
from pyrovae.compile.saved_states import require_rule, require_shapes
from pyrovae.compile.views import view_of

if TYPE_CHECKING:
    from pyrovae.compile.updates import Updates

__all__ = ["FixedOptions", "OptimizerSource", "PyroOptimizer"]


class OptimizerSource(Protocol):
    """The class, options and earlier state of an optimiser, whose steps `Updates` takes in its place."""

    rule: Rule

    def options(self, p: Tensor) -> dict[str, Any]:
        """The options of a parameter, as the optimiser's constructor takes them."""

    def clips(self, p: Tensor) -> dict[str, Any]:
        """The clipping of one parameter's gradient: "clip_norm", "clip_value"."""

    def state(self, p: Tensor) -> dict[str, Any] | None:
        """The state that the optimiser has of a parameter, in torch's layout; None where it has taken no step."""

    def show(self, updates: Updates, params: Sequence[Tensor]) -> None:
        """Take note of parameters whose steps are taken from now on."""

    def settle(self, updates: Updates) -> None:
        """Pass on what was set in the optimiser since the last step."""


class FixedOptions:
    """Fixed options by the identity of a parameter, of an optimiser that is not shown elsewhere."""

    def __init__(self, kind: type[torch.optim.Optimizer], options: Mapping[int, dict[str, Any]]) -> None:
        rule = rule_of(kind)
        if rule is None:
            raise TypeError(f"the optimiser must be one of {', '.join(supported_names())}, got {kind.__name__}")
        self.rule = rule
        self._options = options

    def options(self, p: Tensor) -> dict[str, Any]:
        return self._options[id(p)]

    def clips(self, p: Tensor) -> dict[str, Any]:
        return {}

    def state(self, p: Tensor) -> dict[str, Any] | None:
        return None

    def show(self, updates: Updates, params: Sequence[Tensor]) -> None:
        pass

    def settle(self, updates: Updates) -> None:
        pass


class PyroOptimizer:
    """A Pyro optimiser, or one under a scheduler of learning rates: its state is taken over, seen and set through it.

    Attributes:
        retired: whether another one's views stand in it, which has the state then.
    """

    def __init__(self, optim: Any) -> None:
        kind: Any = getattr(optim, "pt_optim_constructor", None)
        rule = rule_of(kind)
        if type(optim) not in (PyroOptim, PyroLRScheduler) or rule is None:
            known = ", ".join(supported_names())
            name = getattr(kind, "__name__", "") if isinstance(optim, PyroOptim) else type(optim).__name__
            raise TypeError(
                f"optim must be one of pyro.optim's {known}, got {name}: give one, a scheduler of one, or take "
                "pyro.infer.SVI, which takes any, eagerly"
            )
        self.rule, self._optim = rule, optim
        self.retired = False
        self._views: list[Any] = []
        self._schedulers: dict[Tensor, Any] = {}  # of parameters that are not shown yet, or a scheduler's state

    def options(self, p: Tensor) -> dict[str, Any]:
        options: dict[str, Any] = self._optim._get_optim_args(p)
        return options

    def clips(self, p: Tensor) -> dict[str, Any]:
        clips: dict[str, Any] = self._optim._get_grad_clip_args(p)
        return clips

    def state(self, p: Tensor) -> dict[str, Any] | None:
        """The state that was loaded into the optimiser, or that its own steps left there."""
        name = pyro.get_param_store().param_name(p)
        state: dict[str, Any] | None = self._optim._state_waiting_to_be_consumed.get(name)
        theirs = self._optim.optim_objs.get(p)
        scheduler = None
        if self._is_scheduled and theirs is not None:
            scheduler, theirs = theirs, theirs.optimizer
        elif self._is_scheduled and state is not None:
            scheduler, state = state["scheduler"], state["optimizer"]
        if theirs is not None:  # which Pyro too takes before one that waits
            state = theirs.state_dict()
        if state is not None:
            require_rule(state, self.rule)
            require_shapes(name, p, state["state"].get(0, {}))
        if theirs is None:
            self._optim._state_waiting_to_be_consumed.pop(name, None)
        elif hasattr(theirs, "updates"):
            theirs.updates.source.retired = True
        if scheduler is not None:
            self._schedulers[p] = scheduler
        return state

    def show(self, updates: Updates, params: Sequence[Tensor]) -> None:
        """Show Pyro's optimiser the state of these parameters, where its store knows them by name."""
        for p in params:
            if pyro.get_param_store().param_name(p) is not None:
                view = view_of(self.rule, updates, p, self.options(p))
                shown = self._scheduled(p, view) if self._is_scheduled else view
                self._optim.optim_objs[p], self._optim.grad_clip[p] = shown, self._optim._get_grad_clip(p)
                self._views.append(view)

    @property
    def _is_scheduled(self) -> bool:
        return isinstance(self._optim, PyroLRScheduler)

    def _scheduled(self, p: Tensor, view: Any) -> Any:
        """The scheduler of one parameter's rate, which it sets in the view; one that has begun goes on."""
        earlier = self._schedulers.pop(p, None)
        view._opt_called = True  # by a compiled step: torch's scheduler warns where it comes before one
        if hasattr(earlier, "optimizer"):
            earlier.optimizer = view
            return earlier
        rate = view.own_groups[0]["lr"]
        scheduler = self._optim.pt_scheduler_constructor(view, **self._optim.kwargs)
        if earlier is not None:
            scheduler.load_state_dict(earlier)
            view.own_groups[0]["lr"] = rate
        return scheduler

    def settle(self, updates: Updates) -> None:
        """Take the learning rates that were set in the views."""
        if self.retired:
            raise RuntimeError("optim went on with another CompiledSVI, which now has its state: use that one")
        for view in self._views:
            if view.asked is not None:
                self._take_rate_of(view, updates)

    def _take_rate_of(self, view: Any, updates: Updates) -> None:
        """Take a learning rate that was set in a view; all of its group must have it."""
        group = updates.entry(view.own_groups[0]["params"][0])[0]
        members = {id(p) for p in group["params"]}
        views = [other for other in self._views if id(other.own_groups[0]["params"][0]) in members]
        for other in views:
            other.require_constant(group)
        rates = {float(group["lr"] if other.asked is None else other.asked) for other in views}
        if len(rates) > 1:
            raise ValueError(
                f"the parameters of one group were given different learning rates, {sorted(rates)}: set it for all of "
                "them, by param_groups or before a next step, or give optim a function of the name"
            )
        group["lr"] = rates.pop()
        for other in views:
            other.rate = other.own_groups[0]["lr"] = group["lr"]
