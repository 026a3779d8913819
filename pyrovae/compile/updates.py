"""The parameters, groups and state of an optimiser, as tensors that a graph changes where they are."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from pyrovae.compile.clipping import clip_factor, global_norm
from pyrovae.compile.saved_states import (
    REFUSED,
    Row,
    as_numbered,
    matched,
    name_in_module,
    options_of,
    require_layout,
    require_rule,
    require_shapes,
    rows_of,
)
from pyrovae.compile.sources import OptimizerSource

__all__ = ["Updates"]

CLIPS = {"gradient_clip_norm", "gradient_clip_value"}  # which Pyro takes beside an optimiser's own options

Group = dict[str, Any]


class Updates:
    """An optimiser's parameters, groups and state: tensors that a graph changes where they are.

    Attributes:
        source: where its options come from, and an earlier state of it.
        rule: the optimiser's formulas.
        clip_norm: the largest norm of all gradients of a step together; None where they are as they come.
        optimizer: the torch optimiser that holds groups and state, so that their layout is torch's own; None before a
            first step.
        named: the parameters by name.
        steps: how many steps each parameter has taken, float32 scalars.
        rates: each group's learning rate, float64 scalars.
        sound: whether all losses and gradients so far were finite, a bool scalar.
    """

    def __init__(self, source: OptimizerSource, clip_norm: float | None = None) -> None:
        self.source, self.rule, self.clip_norm = source, source.rule, clip_norm
        self.named: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.steps: dict[Tensor, Tensor] = {}
        self.rates: list[Tensor] = []
        self._handed: list[float] = []  # the rates that the graph was handed
        self._waiting: dict[str, Any] | None = None  # a state of parameters that are still to come
        self._unloaded: set[str] = set()  # those that came, and have not got theirs

    @property
    def groups(self) -> list[Group]:
        """The optimiser's groups, their "lr" as it is now."""
        if self.optimizer is None:
            return []
        for number, (group, rate) in enumerate(zip(self.optimizer.param_groups, self.rates, strict=True)):
            if self.rule.changes_rate(group) and float(group["lr"]) == self._handed[number]:
                group["lr"] = self._handed[number] = float(rate)
        return self.optimizer.param_groups

    @property
    def ordered(self) -> dict[str, Tensor]:
        """The parameters by name, in the order of the state's numbers."""
        return {name: p for group in self._names() for name, p in group} if self.named else {}

    @property
    def options(self) -> Hashable:
        """What of the groups stands in a graph as a constant."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        constant = self.rule.options | CLIPS
        return tuple([(name, str(value)) for group in groups for name, value in group.items() if name in constant])

    # parameters ---------------------------------------------------------------------------------------

    def take(self, named: dict[str, Tensor]) -> None:
        """Take parameters that were not seen before, in the order of their names, those of like options in a group."""
        self._require_same(named)
        known, fresh = {id(p) for p in self.named.values()}, dict[str, Tensor]()
        for name in sorted(named, key=as_numbered):
            if name not in self.named and id(named[name]) not in known:  # tied ones are one
                known.add(id(named[name]))
                fresh[name] = named[name]
        states = {id(p): state for p in fresh.values() if (state := self.source.state(p)) is not None}
        for name, p in fresh.items():
            if id(p) in states:
                require_shapes(name, p, states[id(p)]["state"].get(0, {}))
        for options, params in self._divided(fresh, states):
            self._add_group(options, params)
            for p in params:
                if id(p) in states:
                    self.put(p, {}, states[id(p)]["state"].get(0, {}))
        self.named |= fresh
        self.source.show(self, list(fresh.values()))
        self._unloaded |= set(fresh)
        if self._waiting is not None and self._unloaded:
            self._load(self._waiting, self._unloaded)
        self._unloaded.clear()

    def _divided(self, fresh: dict[str, Tensor], states: dict[int, dict[str, Any]]) -> list[tuple[Group, list[Tensor]]]:
        """New parameters in groups of like options; those that a waiting state has in several groups apart."""
        rows = [] if self._waiting is None else rows_of(self._waiting)
        waiting_group = {name: row.group for row in rows for name in (name_in_module(row.name or ""), row.name)}
        divided: list[tuple[tuple[Group, int | None], list[Tensor]]] = []
        for name, p in fresh.items():
            clips = {f"gradient_{kind}": value for kind, value in self.source.clips(p).items()}
            options = {**self.source.options(p), **clips}
            if id(p) in states:
                loaded = options_of(states[id(p)]["param_groups"][0])
                options |= {option: value for option, value in loaded.items() if option not in REFUSED}
            for refused in REFUSED:
                if options.get(refused):
                    raise TypeError(f"{refused}={options[refused]!r} is not known to a compiled step: leave it out")
            like = options, waiting_group.get(name, waiting_group.get(name_in_module(name)))
            members = next((members for other, members in divided if other == like), None)
            if members is None:
                divided.append((like, [p]))
            else:
                members.append(p)
        return [(options, members) for (options, _), members in divided]

    def _add_group(self, options: Group, params: list[Tensor]) -> None:
        """A group of new parameters, as they are before a first step."""
        known_here = set(self.source.options(params[0])) | {"lr", "momentum"}
        allowed = {name: value for name, value in options.items() if name in known_here}
        device = params[0].device
        if self.optimizer is None:
            self.optimizer = self.rule.optimizer_class(params, **allowed)
            self.sound = torch.ones((), dtype=torch.bool, device=device)
        else:
            self.optimizer.add_param_group({"params": params, **allowed})
        group = self.optimizer.param_groups[-1]
        group.update(options)
        self.rates.append(torch.full((), float(group["lr"]), dtype=torch.float64, device=device))
        self._handed.append(float(group["lr"]))
        kinds = self.rule.state_of(group)
        for p in params:
            self.optimizer.state[p] = {kind: torch.zeros_like(p) for kind in kinds}
            self.steps[p] = torch.zeros((), dtype=torch.float32, device=p.device)

    def _require_same(self, named: dict[str, Tensor]) -> None:
        for name, p in named.items():
            if self.named.get(name, p) is not p:
                raise RuntimeError(
                    f"parameter {name!r} is another tensor than before: the parameter store was cleared, or the model "
                    "built anew; start anew too"
                )
            state = {} if self.optimizer is None else self.optimizer.state.get(p, {})
            if any((value.dtype, value.device) != (p.dtype, p.device) for value in state.values()):
                raise RuntimeError(
                    f"parameter {name!r} was moved to {p.dtype} on {p.device} between steps, and the optimiser's state "
                    "was not: start anew"
                )

    def of(self, p: Tensor) -> tuple[Group, dict[str, Tensor], Tensor]:
        """A parameter's group, state and count of steps."""
        group = next(group for group in self.groups if any(q is p for q in group["params"]))
        return group, self._state(p), self.steps[p]

    def put(self, p: Tensor, options: dict[str, Any], state: dict[str, Any]) -> None:
        """Go on from a state of one parameter, with options that are those of all in its group; or ValueError."""
        group = self.of(p)[0]
        new = {k: v for k, v in options.items() if k in group and v is not group[k] and v != group[k]}
        name = next((name for name, q in self.named.items() if q is p), "")
        require_shapes(name, p, state)
        if new and len(group["params"]) > 1:
            raise ValueError(
                f"parameter {name!r} was given {new}, and others have the same options as it: set them for all by "
                "param_groups, or give optim a function of the name"
            )
        group.update(new)
        self._copy_state(p, state)

    def _copy_state(self, p: Tensor, state: dict[str, Any]) -> None:
        """Give a parameter's state these values, zeros where there is none; a buffer of None has not begun."""
        present = {kind: value for kind, value in state.items() if value is not None}
        with torch.no_grad():
            self.steps[p].fill_(float(present.get("step", bool(present))))
            for kind, value in self._state(p).items():
                if kind not in present:
                    value.zero_()
                elif present[kind] is not value:
                    value.copy_(present[kind])

    # the step -----------------------------------------------------------------------------------------

    def set_rates(self) -> None:
        """Hand learning rates that were set since to the graph."""
        self.source.settle(self)
        for number, group in enumerate(self._groups):
            if float(group["lr"]) != self._handed[number]:
                self._handed[number] = float(group["lr"])
                self.rates[number].fill_(self._handed[number])

    def inputs(self, params: list[Tensor]) -> list[Tensor]:
        """The tensors that `updated` gives new values of."""
        states = [value for p in params for value in self._state(p).values()]
        return [*params, *states, *(self.steps[p] for p in params), self.sound, *self.rates]

    def updated(
        self, loss: Tensor, params: list[Tensor], gradients: list[Tensor | None], aliased: Collection[int] = ()
    ) -> list[Tensor]:
        """New values of `inputs(params)`; the old ones after what is not finite.

        Parameters that share memory with others, by their ids in `aliased`, are written one by one, as by torch's
        optimiser: an update starts from what the one before it left.
        """
        sound = self.sound & loss.isfinite().all()
        for g in gradients:
            if g is not None:
                square = g.to(torch.promote_types(g.dtype, torch.float32)).square()  # as Adam's floor takes it
                sound = sound & square.sum().isfinite()
        if self.clip_norm is not None:
            norm = global_norm([g for g in gradients if g is not None])
            sound, factor = sound & norm.isfinite(), clip_factor(norm, self.clip_norm)
            gradients = [None if g is None else g * factor.to(g.dtype) for g in gradients]
        divided = self._members(params)
        present = {number for number, _ in divided}  # a rate decays in the steps that its parameters are in
        rates = [
            self.rule.next_rate(group, rate) if number in present else rate
            for number, (rate, group) in enumerate(zip(self.rates, self._groups, strict=True))
        ]
        gradient_of = dict(zip(map(id, params), gradients, strict=True))
        group_and_scalars: dict[int, tuple[Group, list[Tensor]]] = {}
        for number, members in divided:
            count = torch.stack([self.steps[p] for p in members]).double() + 1
            shared = [_once(f) for f in self.rule.scalars(self._groups[number], self.rates[number], count)]
            for place, p in enumerate(members):
                each = [f[place] for f in shared]
                scalars = [f.to(p.dtype) if f.is_floating_point() else f for f in each]
                group_and_scalars[id(p)] = self._groups[number], scalars
        values, states, steps = list[Tensor](), list[Tensor](), list[Tensor]()
        for p in params:
            group, scalars = group_and_scalars[id(p)]
            g, state, step = gradient_of[id(p)], self._state(p), self.steps[p]
            # a parameter that this loss does not reach goes on by momentum once it has begun, as under Pyro's SVI
            taken = sound if g is not None else sound & (step > 0)
            g = torch.zeros_like(p) if g is None else g
            value, new_state = self.rule.update(p, _clipped(g, group), state, scalars, group)
            value = torch.where(taken, value, p)
            if id(p) in aliased:
                p.data.copy_(value)
                value = p
            values.append(value)
            states += [torch.where(taken, new_state[kind], state[kind]) for kind in state]
            steps.append(torch.where(taken, step + 1, step))
        rates = [torch.where(sound, new, old) for new, old in zip(rates, self.rates, strict=True)]
        return [*values, *states, *steps, sound, *rates]

    def _members(self, params: list[Tensor]) -> list[tuple[int, list[Tensor]]]:
        """Which of the parameters are in each group."""
        wanted = {id(p) for p in params}
        each = [(i, [p for p in group["params"] if id(p) in wanted]) for i, group in enumerate(self._groups)]
        return [(number, members) for number, members in each if members]

    # saved states -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's optimiser of the same parameters, named, would give it, numbered as in `ordered`.

        What was loaded and waits for parameters that are still to come is in it too.
        """
        if self.optimizer is None:
            if self._waiting is None:
                raise RuntimeError("no step has been taken: there is no state yet")
            return deepcopy(self._waiting)
        params = [p for group in self.groups for p in group["params"]]
        saved = self.optimizer.state_dict()
        for group, named in zip(saved["param_groups"], self._names(), strict=True):
            group["param_names"] = [name for name, _ in named]
        for number, p in enumerate(params):
            step = self.steps[p].clone()
            if not float(step):
                saved["state"].pop(number, None)
                continue
            state = {name: value.clone() for name, value in saved["state"].get(number, {}).items()}
            if (stored := self.rule.stored_step(step)) is not None:
                state["step"] = stored
            saved["state"][number] = state
        if self._waiting is not None:
            rows = rows_of(self._waiting)
            taken = {row.name for row in self._matched(rows)}
            left = [row for row in rows if row.name not in taken]
            for number, row in enumerate(left, len(params)):
                saved["param_groups"].append({**row.options, "params": [number], "param_names": [row.name]})
                if row.state:
                    saved["state"][number] = deepcopy(row.state)
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` or torch's optimiser of the same parameters gave; before a first step too.

        By names where the state has any; what it has of parameters that are still to come waits. Else by numbers.
        """
        require_layout(state)
        require_rule(state, self.rule)
        if self.optimizer is None:
            self._waiting = deepcopy(state)
            return
        self._load(deepcopy(state), set(self.named))
        self._unloaded.clear()
        self.sound.fill_(True)

    def _load(self, state: dict[str, Any], wanted: set[str]) -> None:
        """Give the wanted parameters their rows of a state. All are checked first; rows left over go on waiting."""
        rows = rows_of(state)
        with_rows = [(*owned, row) for owned, row in zip(self._owned(), self._matched(rows), strict=True)]
        for group in self.groups:
            theirs = [row.options for _, _, of_group, row in with_rows if of_group is group]
            if any(options != theirs[0] for options in theirs):
                raise ValueError("the state has several groups where this has one: load it before a first step")
        for name, p, group, row in with_rows:
            if bool(row.options.get("momentum")) != bool(group.get("momentum")):
                raise ValueError(f"the state has momentum {row.options.get('momentum')}, and this {group['momentum']}")
            require_shapes(name, p, row.state)
        self._waiting = state if len(rows) > len(with_rows) else None
        for name, p, group, row in with_rows:
            if name in wanted:
                group.update({option: value for option, value in row.options.items() if option in group})
                self._copy_state(p, row.state)

    def _matched(self, rows: list[Row]) -> list[Row]:
        """The row of each parameter, in the order of `ordered`."""
        return matched(rows, list(self.ordered), [len(group["params"]) for group in self._groups])

    def _owned(self) -> list[tuple[str, Tensor, Group]]:
        """Each parameter's name and group."""
        return [(name, p, group) for group, own in zip(self._groups, self._names(), strict=True) for name, p in own]

    def _names(self) -> list[list[tuple[str, Tensor]]]:
        """The parameters of each group with their names."""
        names = {p: name for name, p in self.named.items()}
        return [[(names[p], p) for p in group["params"]] for group in self._groups]

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        assert self.optimizer is not None
        return self.optimizer.state[p]

    @property
    def _groups(self) -> list[Group]:
        """The groups without a look at the rates."""
        assert self.optimizer is not None
        return self.optimizer.param_groups


def _once(x: Tensor) -> Tensor:
    """The same in memory of its own: a compiled loop over entries that reads it does not compute it for each of them.

    As inductor computes what is viewed with given strides before it views it.
    """
    return x.as_strided(x.shape, x.stride())


def _clipped(g: Tensor, group: Group) -> Tensor:
    if "gradient_clip_norm" in group:
        g = g * (group["gradient_clip_norm"] / (g.norm() + 1e-6)).clamp(max=1.0)
    if "gradient_clip_value" in group:
        g = g.clamp(-group["gradient_clip_value"], group["gradient_clip_value"])
    return g
