"""The resumption of a run: what is written between two batches, and the checks of a run that goes on."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.compile.aliases import is_writable, same_values
from pyrovae.compile.optimizers import rule_of
from pyrovae.inference.checkpoint import CheckpointError
from pyrovae.inference.environment import differences, environment
from pyrovae.inference.snapshots import Place, Run, Snapshots
from pyrovae.inference.steps import CompiledFitStep
from pyrovae.inference.svi.epochs import packed, room, unpacked
from pyrovae.inference.svi.optimizer import defaults_of
from pyrovae.inference.svi.within import Within, require_whole, room_for
from pyrovae.models.fingerprint import settings

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["Resume"]

log = logging.getLogger(__name__)

STATE = "optimizer."  # before a parameter's name and the kind of state, in the name of a tensor


class Resume:
    """The snapshots of one loop: those it goes on from, and those it writes."""

    def __init__(self, loop: Loop, snapshots: Snapshots) -> None:
        self.loop, self.snapshots = loop, snapshots
        self.attributes = settings(nn.ModuleList([loop.module]))
        self.settings: str | None = hashlib.sha256(self.attributes.encode()).hexdigest()  # None where steps change them

    def write(self, place: Place) -> None:
        """Write what another process needs to go on from here, after so many epochs and batches of the next."""
        rows, of_rows = packed(self.loop.rows)
        tensors = self._tensors() | self.loop.within.tensors(self.loop) | of_rows
        self.snapshots.write(place, self.loop.pair, self._run_metadata() | {"rows": rows}, tensors)

    def earlier(self) -> Run | None:
        """Read the state of an earlier run; ValueError where this run has other options. Nothing is changed."""
        loop = self.loop
        run = self.snapshots.newest(loop.pair, room_for(loop) | room(loop.plan.epochs))
        if run is not None:
            run[0]["rows"] = unpacked(run[0].get("rows"), run[2])
        if len(set(loop.ranks.gathered(None if run is None else (len(run[0]["rows"]), _batch(run[0]))))) > 1:
            raise ValueError("each process must find the same checkpoint: name a folder that all of them see")
        if run is None:
            return None
        run_metadata, weights, tensors = run
        # as versions that had Adam alone called it
        tensors = {f"{STATE}{name[5:]}" if name.startswith("adam.") else name: t for name, t in tensors.items()}
        may_differ = {"compile"} if loop.plan.compile == "auto" else set()
        may_differ |= {"callbacks"}  # those with a state are compared below
        may_differ |= set() if loop.plan.schedule == "cosine" else {"epochs"}  # down which the rate goes to 0
        plan = loop.plan.in_words()
        now = {name: value for name, value in plan.items() if name not in may_differ} | self._agreed()
        # an option that was not there yet had its default
        before = type(loop.plan)().in_words() | run_metadata["asked"]
        # and what earlier versions did not note cannot differ
        before |= {name: run_metadata.get(name, now[name]) for name in self._agreed()}
        before |= {"compile": run_metadata["compiled"]}
        unlike = [f"{k}: {before.get(k)!r} before, {v!r} now" for k, v in now.items() if before.get(k) != v]
        if unlike:
            raise ValueError(f"resume=True goes on with the same run, and this is another: {'; '.join(unlike)}")
        if len(run_metadata["rows"]) > loop.plan.epochs:
            raise ValueError(
                f"epochs={loop.plan.epochs} is the total, and the run has {len(run_metadata['rows'])} already"
            )
        loop.watchers.require_same(run_metadata.get("callbacks", []))
        require_whole(loop, run_metadata.get("within", {}), tensors)
        taken = len(run_metadata["rows"]) * loop.steps_per_epoch + _batch(run_metadata)
        loop.schedule.go_on(run_metadata.get("schedule", {}), taken)
        for name, b in loop.module.named_buffers():
            if not is_writable(b) and not same_values(b, tensors[f"buffer.{name}"].to(b.device)):
                raise ValueError(f"buffer {name!r} differs from the checkpoint's and cannot be written: clone it first")
        self._refuse_other_tensors(tensors)
        self._warn_of_differences(run_metadata)
        return run_metadata, weights, tensors

    def _agreed(self) -> dict[str, Any]:
        """What a resumed run must have in common with the earlier one, apart from the plan."""
        loop = self.loop
        classes = getattr(loop.pair, "classes_", None)
        return {
            **loop.problem.fingerprints(),
            "classes": None if classes is None else [str(name) for name in classes],
            "trained": [name for name, p in loop.module.named_parameters() if p.requires_grad],
            "processes": loop.ranks.size,
            **loop.plan.optimizer.identity({name: p for name, p in loop.module.named_parameters() if p.requires_grad}),
        }

    def _refuse_other_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Refuse tensors of another name, shape or dtype than this run has: none is cast or broadcast."""
        loop = self.loop
        named = {name: p for name, p in loop.module.named_parameters() if p.requires_grad}
        expected = {f"buffer.{name}": b for name, b in loop.module.named_buffers()}
        expected |= {f"good.{i}": t for i, t in enumerate(loop.kept)}
        rule = rule_of(loop.plan.optimizer.kind)
        for group in loop.plan.optimizer.groups(named):
            kinds = () if rule is None else rule.state_of({**defaults_of(rule.optimizer_class), **group.options})
            for name in group.names:
                if name in optimizer_states(tensors):  # one that no gradient has reached has no state
                    expected |= {f"{STATE}{name}.{kind}": named[name] for kind in kinds}
        if any(name.startswith("best.") for name in tensors):
            expected |= {f"best.{name}": t for name, t in loop.module.state_dict().items()}
        for name, tensor in expected.items():
            saved = tensors.get(name)
            if saved is None or (saved.shape, saved.dtype) != (tensor.shape, tensor.dtype):
                there = "absent" if saved is None else f"{saved.dtype} of shape {tuple(saved.shape)}"
                here = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise CheckpointError(f"the checkpoint's {name!r} is {there}, and this run has {here}")

    def _warn_of_differences(self, run_metadata: dict[str, Any]) -> None:
        """Warn of differences in the environment that change the rounding of sums."""
        loop = self.loop
        now = environment(loop.device) | {"device": loop.device.type}
        before = run_metadata.get("environment", {"torch": run_metadata["torch"]})
        unlike = differences(before, now)
        settings_before = run_metadata.get("settings", self.settings)
        if settings_before is None:
            self.settings = None
        elif settings_before != self.settings:
            unlike.append("an attribute of a module has another value than before")
        if unlike and loop.ranks.is_first:
            checks.warn(
                f"resume=True goes on, but not bit for bit: {'; '.join(unlike)}. For the digits of an uninterrupted "
                "run restore what there was before, as with torch.set_num_threads"
            )

    def go_on(self, run_metadata: dict[str, Any], weights: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        """Restore the loop to where that run was written."""
        loop = self.loop
        present = loop.module.state_dict(keep_vars=True)
        pairs = [(present[name], value) for name, value in weights.items()]
        pairs += [(b, tensors[f"buffer.{name}"]) for name, b in loop.module.named_buffers()]
        pairs += [(t, tensors[f"good.{i}"]) for i, t in enumerate(loop.good)]
        for present_tensor, saved_tensor in pairs:
            if not same_values(present_tensor.detach(), saved_tensor.to(present_tensor.device)):
                present_tensor.detach().copy_(saved_tensor)
        loop.rows, loop.best = run_metadata["rows"], (run_metadata["best"][0], run_metadata["best"][1])
        loop.best_weights = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        loop.within = Within.of(loop, len(loop.rows), run_metadata.get("within", {}), tensors)
        loop.taken = len(loop.rows) * loop.steps_per_epoch + loop.within.batch
        loop.good_at = run_metadata.get("good_at", loop.taken - 1)
        loop.sound, loop.sound_at = [t.clone() for t in loop.changed()], loop.taken
        loop.take.load_state_dict(self._optimizer_state(run_metadata, tensors), loop.taken)
        loop.watchers.go_on(run_metadata.get("callbacks", []), loop.rows, run_metadata.get("stopped"))
        loop.take.checked = True  # on the first step of all

    def _optimizer_state(self, run_metadata: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The optimiser's state of an earlier run, with each tensor in its parameter's memory order."""
        loop = self.loop
        saved, named = loop.take.state_dict(), dict(loop.module.named_parameters())
        states, numbers = optimizer_states(tensors), run_metadata.get("optimizer_numbers", {})
        for number, name in enumerate(loop.take.order):
            if name not in states and name not in numbers:  # one that no gradient has reached has no state
                continue
            state = dict(numbers.get(name, {}))
            for kind, value in states.get(name, {}).items():
                if value.shape == named[name].shape:
                    value = torch.empty_like(named[name]).detach().to(value.dtype).copy_(value)
                state[kind] = value
            saved["state"][number] = state
        return saved

    def _run_metadata(self) -> dict[str, Any]:
        """What a resumed run must know, apart from tensors."""
        loop = self.loop
        if self.settings is not None and settings(nn.ModuleList([loop.module])) != self.attributes:
            self.settings = None
            log.warning("an attribute of a module changes as it is trained, and no checkpoint has it: not bit for bit")
        return {
            "asked": loop.plan.in_words(),
            **self._agreed(),
            "torch": torch.__version__,
            "environment": environment(loop.device) | {"device": loop.device.type},
            "settings": self.settings,
            "compiled": isinstance(loop.take, CompiledFitStep),
            "within": loop.within.in_words(),
            "good_at": loop.good_at,
            "best": loop.best,
            "optimizer_numbers": self._optimizer_numbers(),
            "schedule": loop.schedule.state(),
            "callbacks": loop.watchers.states(),
            "stopped": loop.watchers.run.stopped,
        }

    def _optimizer_numbers(self) -> dict[str, dict[str, float]]:
        """The numbers in the optimiser's state, by parameter."""
        numbers: dict[str, dict[str, float]] = {}
        for number, state in self.loop.take.state_dict()["state"].items():
            name = self.loop.take.order[number]
            for kind, value in state.items():
                if isinstance(value, Tensor) or value is None:
                    continue
                if not isinstance(value, int | float):
                    raise TypeError(
                        f"the optimizer keeps {kind!r} of type {type(value).__name__}, which no checkpoint can have: "
                        "take another optimizer, or leave checkpoint out"
                    )
                numbers.setdefault(name, {})[kind] = value
        return numbers

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors beside the pair's state: of the optimiser, of unsaved buffers, and of the best weights."""
        loop, tensors = self.loop, dict[str, Tensor]()
        for number, state in loop.take.state_dict()["state"].items():
            for kind, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{STATE}{loop.take.order[number]}.{kind}"] = value
        tensors |= {f"buffer.{name}": b for name, b in loop.module.named_buffers()}
        tensors |= {f"good.{i}": t for i, t in enumerate(loop.good)}
        return tensors | {f"best.{name}": value for name, value in loop.best_weights.items()}


def _batch(run_metadata: dict[str, Any]) -> int:
    """How many batches of the epoch that it was in a run had done."""
    return int(run_metadata.get("within", {}).get("batch", 0))


def optimizer_states(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of the optimiser's state, by parameter and by their name in it."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(STATE):
            name, _, kind = key.removeprefix(STATE).rpartition(".")
            states.setdefault(name, {})[kind] = value
    return states
