"""The parameters, groups and state of an optimiser, in tensors that a compiled graph updates in place."""

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
    """An optimiser's parameters, groups and state, in tensors that a compiled graph updates in place.

    Attributes:
        source: what gives the options of each parameter, and its state where the optimiser has stepped before.
        rule: the optimiser's formulas.
        clip_norm: the largest norm of all gradients of a step together; None where they are not clipped.
        optimizer: the torch optimiser that holds groups and state, so that their layout is torch's own; None before a
            first step.
        params_by_name: the parameters.
        steps: the number of steps that each parameter has taken, float32 scalar tensors.
        rates: each group's learning rate, float64 scalar tensors.
        all_finite: whether all losses and gradients so far were finite, a bool scalar tensor.
    """

    def __init__(self, source: OptimizerSource, clip_norm: float | None = None) -> None:
        self.source, self.rule, self.clip_norm = source, source.rule, clip_norm
        self.params_by_name: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.steps: dict[Tensor, Tensor] = {}
        self.rates: list[Tensor] = []
        self._graph_rates: list[float] = []  # the "lr" of each group when it was last written to `rates`
        self._unmatched_state: dict[str, Any] | None = None  # loaded; some of its parameters have not been added yet
        self._awaiting_state: set[str] = set()  # names of parameters that were added and need their loaded state

    @property
    def groups(self) -> list[Group]:
        """The groups of the optimiser, with each "lr" as the last step left it."""
        if self.optimizer is None:
            return []
        for number, (group, rate) in enumerate(zip(self.optimizer.param_groups, self.rates, strict=True)):
            if self.rule.changes_rate(group) and float(group["lr"]) == self._graph_rates[number]:
                group["lr"] = self._graph_rates[number] = float(rate)
        return self.optimizer.param_groups

    @property
    def ordered(self) -> dict[str, Tensor]:
        """The parameters by name, in the order of the state's numbers."""
        return {name: p for group in self._names() for name, p in group} if self.params_by_name else {}

    @property
    def options(self) -> Hashable:
        """The options of the groups that a graph holds as constants."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        constant = self.rule.options | CLIPS
        return tuple([(name, str(value)) for group in groups for name, value in group.items() if name in constant])

    # parameters ---------------------------------------------------------------------------------------

    def add_params(self, named: dict[str, Tensor]) -> None:
        """Add the parameters that are new, in the order of their names; those with equal options form a group.

        Raises RuntimeError where a known name now has another tensor, and ValueError or TypeError, before anything has
        changed, for a state or an option that does not fit.
        """
        self._require_same(named)
        known = {id(p) for p in self.params_by_name.values()}
        fresh: dict[str, Tensor] = {}
        for name in sorted(named, key=as_numbered):
            if name not in self.params_by_name and id(named[name]) not in known:  # tied ones are one
                known.add(id(named[name]))
                fresh[name] = named[name]
        states = {id(p): state for p in fresh.values() if (state := self.source.state(p)) is not None}
        for name, p in fresh.items():
            if id(p) in states:
                require_shapes(name, p, states[id(p)]["state"].get(0, {}))
        for options, params in self._new_groups(fresh, states):
            self._add_group(options, params)
            for p in params:
                if id(p) in states:
                    self.load_one(p, {}, states[id(p)]["state"].get(0, {}))
        self.params_by_name |= fresh
        self.source.show(self, list(fresh.values()))
        self._awaiting_state |= set(fresh)
        if self._unmatched_state is not None and self._awaiting_state:
            self._load(self._unmatched_state, self._awaiting_state)
        self._awaiting_state.clear()

    def _new_groups(
        self, fresh: dict[str, Tensor], states: dict[int, dict[str, Any]]
    ) -> list[tuple[Group, list[Tensor]]]:
        """New parameters in groups of equal options, and in several where a loaded state has them in several."""
        rows = [] if self._unmatched_state is None else rows_of(self._unmatched_state)
        waiting_group = {name: row.group for row in rows for name in (name_in_module(row.name or ""), row.name)}
        groups: list[tuple[tuple[Group, int | None], list[Tensor]]] = []
        for name, p in fresh.items():
            clips = {f"gradient_{kind}": value for kind, value in self.source.clips(p).items()}
            options = {**self.source.options(p), **clips}
            if id(p) in states:
                loaded = options_of(states[id(p)]["param_groups"][0])
                options |= {option: value for option, value in loaded.items() if option not in REFUSED}
            for refused in REFUSED:
                if options.get(refused):
                    raise TypeError(f"{refused}={options[refused]!r} is not known to a compiled step: leave it out")
            key = options, waiting_group.get(name, waiting_group.get(name_in_module(name)))
            members = next((members for other_key, members in groups if other_key == key), None)
            if members is None:
                groups.append((key, [p]))
            else:
                members.append(p)
        return [(options, members) for (options, _), members in groups]

    def _add_group(self, options: Group, params: list[Tensor]) -> None:
        """Add a group of new parameters, with the state that they have before a first step."""
        known_here = set(self.source.options(params[0])) | {"lr", "momentum"}
        allowed = {name: value for name, value in options.items() if name in known_here}
        device = params[0].device
        if self.optimizer is None:
            self.optimizer = self.rule.optimizer_class(params, **allowed)
            self.all_finite = torch.ones((), dtype=torch.bool, device=device)
        else:
            self.optimizer.add_param_group({"params": params, **allowed})
        group = self.optimizer.param_groups[-1]
        group.update(options)
        self.rates.append(torch.full((), float(group["lr"]), dtype=torch.float64, device=device))
        self._graph_rates.append(float(group["lr"]))
        kinds = self.rule.state_of(group)
        for p in params:
            self.optimizer.state[p] = {kind: torch.zeros_like(p) for kind in kinds}
            self.steps[p] = torch.zeros((), dtype=torch.float32, device=p.device)

    def _require_same(self, named: dict[str, Tensor]) -> None:
        for name, p in named.items():
            if self.params_by_name.get(name, p) is not p:
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

    def entry(self, p: Tensor) -> tuple[Group, dict[str, Tensor], Tensor]:
        """The group of a parameter, its state and its number of steps."""
        group = next(group for group in self.groups if any(q is p for q in group["params"]))
        return group, self._state(p), self.steps[p]

    def load_one(self, p: Tensor, options: dict[str, Any], state: dict[str, Any]) -> None:
        """Load the state of one parameter, and options for its group.

        Raises ValueError for a state of another shape, and for changed options where the group has more parameters.
        """
        group = self.entry(p)[0]
        new = {k: v for k, v in options.items() if k in group and v is not group[k] and v != group[k]}
        name = next((name for name, q in self.params_by_name.items() if q is p), "")
        require_shapes(name, p, state)
        if new and len(group["params"]) > 1:
            raise ValueError(
                f"parameter {name!r} was given {new}, and others have the same options as it: set them for all by "
                "param_groups, or give optim a function of the name"
            )
        group.update(new)
        self._copy_state(p, state)

    def _copy_state(self, p: Tensor, state: dict[str, Any]) -> None:
        """Copy these values to a parameter's state, and zeros where there is none; a value of None counts as none."""
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
        """Write the learning rates that were set since the last step to the tensors that the graph reads."""
        self.source.settle(self)
        for number, group in enumerate(self._groups):
            if float(group["lr"]) != self._graph_rates[number]:
                self._graph_rates[number] = float(group["lr"])
                self.rates[number].fill_(self._graph_rates[number])

    def inputs(self, params: list[Tensor]) -> list[Tensor]:
        """The tensors that a step changes: parameters, states, step counts, `all_finite` and the rates."""
        states = [value for p in params for value in self._state(p).values()]
        return [*params, *states, *(self.steps[p] for p in params), self.all_finite, *self.rates]

    def updated(
        self, loss: Tensor, params: list[Tensor], gradients: list[Tensor | None], aliased: Collection[int] = ()
    ) -> list[Tensor]:
        """The new values of `inputs(params)` after one step, or the old ones once anything was not finite.

        Parameters that share memory with others, by their ids in `aliased`, are written one by one, as by torch's
        optimiser: an update starts from what the one before it left.
        """
        all_finite = self.all_finite & loss.isfinite().all()
        for g in gradients:
            if g is not None:
                square = g.to(torch.promote_types(g.dtype, torch.float32)).square()  # as Adam squares it
                all_finite = all_finite & square.sum().isfinite()
        if self.clip_norm is not None:
            norm = global_norm([g for g in gradients if g is not None])
            all_finite = all_finite & norm.isfinite()
            factor = clip_factor(norm, self.clip_norm)
            gradients = [None if g is None else g * factor.to(g.dtype) for g in gradients]
        members_of_groups = self._members(params)
        present = {number for number, _ in members_of_groups}  # a rate decays in the steps that its parameters are in
        rates = [
            self.rule.next_rate(group, rate) if number in present else rate
            for number, (rate, group) in enumerate(zip(self.rates, self._groups, strict=True))
        ]
        gradient_of = dict(zip(map(id, params), gradients, strict=True))
        group_and_scalars: dict[int, tuple[Group, list[Tensor]]] = {}
        for number, members in members_of_groups:
            count = torch.stack([self.steps[p] for p in members]).double() + 1
            vectors = self.rule.scalars(self._groups[number], self.rates[number], count)
            vectors = [_materialized(vector) for vector in vectors]
            for place, p in enumerate(members):
                entries = [vector[place] for vector in vectors]
                scalars = [entry.to(p.dtype) if entry.is_floating_point() else entry for entry in entries]
                group_and_scalars[id(p)] = self._groups[number], scalars
        values, states, steps = list[Tensor](), list[Tensor](), list[Tensor]()
        for p in params:
            group, scalars = group_and_scalars[id(p)]
            g, state, step = gradient_of[id(p)], self._state(p), self.steps[p]
            # without a gradient in this step a parameter moves by its momentum once it has begun, as under Pyro's SVI
            is_updated = all_finite if g is not None else all_finite & (step > 0)
            g = torch.zeros_like(p) if g is None else g
            value, new_state = self.rule.update(p, _clipped(g, group), state, scalars, group)
            value = torch.where(is_updated, value, p)
            if id(p) in aliased:
                p.data.copy_(value)
                value = p
            values.append(value)
            states += [torch.where(is_updated, new_state[kind], state[kind]) for kind in state]
            steps.append(torch.where(is_updated, step + 1, step))
        rates = [torch.where(all_finite, new, old) for new, old in zip(rates, self.rates, strict=True)]
        return [*values, *states, *steps, all_finite, *rates]

    def _members(self, params: list[Tensor]) -> list[tuple[int, list[Tensor]]]:
        """The numbers of the groups that have any of the parameters, each with those that it has."""
        wanted = {id(p) for p in params}
        groups = []
        for number, group in enumerate(self._groups):
            members = [p for p in group["params"] if id(p) in wanted]
            if members:
                groups.append((number, members))
        return groups

    # saved states -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of torch's optimisers with named parameters, numbered as in `ordered`.

        A loaded state of parameters that have not been added yet is part of it.
        """
        if self.optimizer is None:
            if self._unmatched_state is None:
                raise RuntimeError("no step has been taken: there is no state yet")
            return deepcopy(self._unmatched_state)
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
        if self._unmatched_state is not None:
            rows = rows_of(self._unmatched_state)
            used = {row.name for row in self._matched(rows)}
            still_waiting = [row for row in rows if row.name not in used]
            for number, row in enumerate(still_waiting, len(params)):
                saved["param_groups"].append({**row.options, "params": [number], "param_names": [row.name]})
                if row.state:
                    saved["state"][number] = deepcopy(row.state)
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`, or of torch's optimiser of the same parameters; before a first step too.

        Parameters are matched by name where the state has names, and rows of parameters that have not been added yet
        wait for them; else they are matched by number. Raises ValueError for another layout, optimiser, name or shape.
        """
        require_layout(state)
        require_rule(state, self.rule)
        if self.optimizer is None:
            self._unmatched_state = deepcopy(state)
            return
        self._load(deepcopy(state), set(self.params_by_name))
        self._awaiting_state.clear()
        self.all_finite.fill_(True)

    def _load(self, state: dict[str, Any], wanted: set[str]) -> None:
        """Load the wanted parameters' rows of a state, after all rows were checked; the rest go on waiting."""
        rows = rows_of(state)
        entries = zip(self._params_and_groups(), self._matched(rows), strict=True)
        with_rows = [(name, p, group, row) for (name, p, group), row in entries]
        for group in self.groups:
            saved_options = [row.options for _, _, of_group, row in with_rows if of_group is group]
            if any(options != saved_options[0] for options in saved_options):
                raise ValueError("the state has several groups where this has one: load it before a first step")
        for name, p, group, row in with_rows:
            if bool(row.options.get("momentum")) != bool(group.get("momentum")):
                raise ValueError(f"the state has momentum {row.options.get('momentum')}, and this {group['momentum']}")
            require_shapes(name, p, row.state)
        self._unmatched_state = state if len(rows) > len(with_rows) else None
        for name, p, group, row in with_rows:
            if name in wanted:
                group.update({option: value for option, value in row.options.items() if option in group})
                self._copy_state(p, row.state)

    def _matched(self, rows: list[Row]) -> list[Row]:
        """The row of each parameter, in the order of `ordered`."""
        return matched(rows, list(self.ordered), [len(group["params"]) for group in self._groups])

    def _params_and_groups(self) -> list[tuple[str, Tensor, Group]]:
        """Each parameter with its name and its group, in the order of `ordered`."""
        rows = []
        for group, named in zip(self._groups, self._names(), strict=True):
            rows += [(name, p, group) for name, p in named]
        return rows

    def _names(self) -> list[list[tuple[str, Tensor]]]:
        """The parameters of each group with their names."""
        names = {p: name for name, p in self.params_by_name.items()}
        return [[(names[p], p) for p in group["params"]] for group in self._groups]

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        assert self.optimizer is not None
        return self.optimizer.state[p]

    @property
    def _groups(self) -> list[Group]:
        """The groups as torch's optimiser has them, whose "lr" may be that of an earlier step."""
        assert self.optimizer is not None
        return self.optimizer.param_groups


def _materialized(x: Tensor) -> Tensor:
    """The same values, stored: inductor would compute them anew in each loop over entries that reads them.

    Inductor stores a tensor before it takes a view of it with given strides.
    """
    return x.as_strided(x.shape, x.stride())


def _clipped(g: Tensor, group: Group) -> Tensor:
    """The gradient of one parameter, clipped as Pyro does by its `clip_args`."""
    if "gradient_clip_norm" in group:
        g = g * (group["gradient_clip_norm"] / (g.norm() + 1e-6)).clamp(max=1.0)
    if "gradient_clip_value" in group:
        g = g.clamp(-group["gradient_clip_value"], group["gradient_clip_value"])
    return g
