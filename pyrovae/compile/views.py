"""The optimiser that Pyro keeps for each parameter, as a view of the state that compiled steps change."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from torch import Tensor

from pyrovae.compile.optimizers import Rule
from pyrovae.compile.saved_states import options_of, require_rule

__all__ = ["view_of"]


def view_of(rule: Rule, updates: Any, p: Tensor, options: dict[str, Any]) -> Any:
    """An optimiser of the class `rule.optimizer_class` for `p` alone, whose state and options are those of `updates`.

    What is read from it is as the last step left it, and what it is given, by a step of its own or a state, is there
    for the next compiled one; so is its "lr".
    """
    view = _view(rule)([p], **options)
    view.updates, view.live = updates, True
    view.pull()
    return view


@cache
def _view(rule: Rule) -> Any:
    kind: Any = rule.optimizer_class

    class View(kind):
        live = False  # whether options and state follow those of `updates`
        rate: Any = None  # the "lr" that was read or written last

        @property
        def param_groups(self) -> list[dict[str, Any]]:
            if self.live:
                self.pull()
            return self.own_groups

        @param_groups.setter
        def param_groups(self, groups: list[dict[str, Any]]) -> None:
            self.own_groups = groups

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError(
                "an optimiser that shows the state of a CompiledSVI cannot be copied or pickled: take the get_state() "
                "of Pyro's optimiser, and set it in another"
            )

        @property
        def asked(self) -> Any:
            """A learning rate that was set in this view; None where none was."""
            rate = self.own_groups[0]["lr"]
            return None if rate is self.rate else rate

        def pull(self) -> None:
            (p,) = self.own_groups[0]["params"]
            group, state, step = self.updates.entry(p)
            self.require_constant(group)
            asked = self.asked
            self.own_groups[0].update(options_of(group))
            if asked is None or self.rate is None:
                self.rate = self.own_groups[0]["lr"]
            else:  # until a compiled step takes it
                self.own_groups[0]["lr"] = asked
            if not float(step):
                self.state.pop(p, None)
                return
            self.state[p] = dict(state)
            if (stored := rule.stored_step(step)) is not None:
                self.state[p]["step"] = stored

        def require_constant(self, group: dict[str, Any]) -> None:
            """Refuse options other than "lr" that were set here, as by a scheduler that moves momentum too."""
            own = self.own_groups[0]
            for name in rule.options & own.keys():
                if own[name] != group.get(name, own[name]):
                    raise ValueError(
                        f"{name!r} was set to {own[name]!r} between steps, and a compiled step goes on with "
                        f"{group[name]!r}: change the learning rate alone (a scheduler with cycle_momentum=False), or "
                        "take pyro.infer.SVI"
                    )

        def push(self) -> None:
            (p,) = self.own_groups[0]["params"]
            options = options_of(self.own_groups[0])
            options.pop("lr")
            self.updates.load_one(p, options, self.state.get(p, {}))

        def state_dict(self) -> dict[str, Any]:
            self.pull()
            state: dict[str, Any] = super().state_dict()
            of_p = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state["state"].get(0, {}).items()}
            state["state"] = {0: of_p} if of_p else {}
            return state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            require_rule(state, rule)
            before = {name: self.__dict__[name] for name in ("state", "own_groups")}
            self.live = False
            try:
                super().load_state_dict(state)
                self.own_groups = self.__dict__.pop("param_groups")  # torch puts them beside the property
                self.push()
            except Exception:
                self.__dict__.update(before)
                raise
            finally:
                self.live = True
            self.rate = math.nan  # so that the rate counts as set, though it be the very number that was read last

        def step(self, closure: Any = None) -> Any:
            self.pull()
            self.live = False
            loss = super().step(closure)
            self.push()
            self.live = True
            return loss

    View.__name__ = View.__qualname__ = kind.__name__
    return View
