"""One step of `fit`, loss, gradients and update: eagerly or as one compiled graph, in float32 or with bf16 networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.argument_checks import argument_checks
from pyrovae.compile.aliases import is_dense, overlap, overlapping
from pyrovae.compile.clipping import clip_factor, global_norm
from pyrovae.compile.errors import CaptureError, other_draws
from pyrovae.compile.optimizers import rule_of, supported_names
from pyrovae.compile.saved_states import REFUSED
from pyrovae.compile.sources import FixedOptions
from pyrovae.compile.step import CompiledStep, leading
from pyrovae.compile.unrepeatable import no_foreign_draws
from pyrovae.compile.updates import Updates
from pyrovae.compile.watching import watched
from pyrovae.inference.svi.optimizer import HOW, OptimizerChoice
from pyrovae.models.fingerprint import settings
from pyrovae.seeding import generators

__all__ = ["CompiledFitStep", "EagerStep", "copied_state", "with_bf16"]

Loss = Callable[..., Tensor]
Reduce = Callable[[Tensor], Any]  # the sum over processes, in place


FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # which take no step where they are told of infinity


class EagerStep:
    """An eager step, as torch runs it. Once a loss or gradient is not finite, parameters and state stay as they are.

    `loss(*args)` is a scalar, or a vector of which the first number is lowered (`leading`). `clip_norm` is the largest
    norm of all gradients together, after they are summed over processes.
    """

    compiles = replays = 0

    def __init__(
        self,
        loss: Loss,
        named: Mapping[str, Tensor],
        choice: OptimizerChoice,
        reduce: Reduce | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.loss, self.reduce, self.clip_norm = loss, reduce, clip_norm
        self.is_fused = _is_fused(choice)
        if self.is_fused:
            _require_dense(named)
        self.order: list[str] = []
        groups: list[dict[str, Any]] = []
        for names, options in choice.groups(named):
            for apart in _apart({name: named[name] for name in names}):
                self.order += apart
                groups.append({"params": [named[name] for name in apart], **options})
        self.parameters = [named[name] for name in self.order]
        self.rates = [float(group["lr"]) for group in groups]
        how = {"fused": True} if self.is_fused else {}
        self.optimizer = choice.made(groups, **how)
        # float32 whatever torch's default is: a fused update takes no other
        self.broken = torch.zeros((), dtype=torch.float32, device=self.parameters[0].device)
        if self.is_fused:  # by which it takes no step
            self.optimizer.found_inf = self.broken
        self.checked = False
        self.count = torch.zeros((), dtype=torch.float64, device=self.broken.device)  # of updates

    def __call__(self, factor: float, *args: Any) -> Tensor:
        """Take a step, and return the loss before it as a tensor, without waiting; `factor` scales learning rates."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        # Pyro's checks cost 0.6 ms a step and see on the first what they would see on any
        with argument_checks(not self.checked):
            loss = self.loss(*args)
        self.checked = True
        leading(loss).backward()
        loss = loss.detach()
        if self.reduce is not None:
            loss = self._summed(loss)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        finite = torch.stack([*torch._foreach_norm(gradients), leading(loss)]).isfinite().all()
        if self.clip_norm is not None and gradients:
            norm = global_norm(gradients)
            finite &= norm.isfinite()
            scale = clip_factor(norm, self.clip_norm)
            torch._foreach_mul_(gradients, [scale.to(g.dtype) for g in gradients])
        self.broken.logical_or_(~finite)
        self.count += 1 - self.broken
        if self.is_fused or not self.broken:
            self.optimizer.step()
        return loss

    def _summed(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over processes, in one tensor."""
        assert self.reduce is not None
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(g.flatten() for g in grads), loss.reshape(-1).to(grads[0].dtype)])
        self.reduce(flat)
        *parts, total = flat.split([*(g.numel() for g in grads), loss.numel()])
        for p, part in zip(self.parameters, parts, strict=True):
            p.grad = torch.empty_like(p).copy_(
                part.view_as(p)
            )  # in p's own order in memory, which a fused update takes
        return total.view_as(loss).clone()

    @property
    def all_finite(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return not self.broken

    @property
    def taken(self) -> int:
        """The number of updates so far."""
        return int(self.count)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the optimiser's state."""
        saved = self.optimizer.state_dict()
        saved["state"] = {number: copied_state(state) for number, state in saved["state"].items()}
        return saved

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        """Go on from a state after so many updates; what was not finite before is forgotten."""
        self.optimizer.load_state_dict(state)
        self.broken.zero_()
        self.count.fill_(taken)


def _is_fused(choice: OptimizerChoice) -> bool:
    """Whether one kernel updates all parameters of a group, which is so unless another way was asked for."""
    asked_otherwise = choice.options.get("fused") is False or choice.options.get("foreach")
    return choice.kind in FUSED and not asked_otherwise and not choice.options.get("capturable")


def copied_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an optimiser's state of one parameter, of tensors and numbers."""
    return {kind: value.clone() if isinstance(value, Tensor) else deepcopy(value) for kind, value in state.items()}


def _require_dense(named: Mapping[str, Tensor]) -> None:
    """Refuse parameters with gaps in memory: a fused update takes them for dense, and writes to the gaps."""
    for name, p in named.items():
        if not is_dense(p):
            raise ValueError(
                f"parameter {name!r} of shape {tuple(p.shape)} has strides {p.stride()}: it is a view with gaps in "
                "memory, and the update would write to these; make it nn.Parameter(t.clone()), or take compile=True"
            )


def _apart(named: Mapping[str, Tensor]) -> list[list[str]]:
    """The names in groups of parameters that share no memory; those that do are in successive groups, in order.

    A fused optimiser updates a group by kernels that may run at once, of which one would undo what another wrote.
    """
    names = list(named)
    tied = {names[i] for group in overlapping(list(named.values())) for i in group}
    groups: list[list[str]] = [[]]
    for name, p in named.items():
        rivals = [[named[other] for other in group if other in tied] for group in groups]
        place = max((i + 1 for i, group in enumerate(rivals) if name in tied and overlap(p, group)), default=0)
        if place == len(groups):
            groups.append([])
        groups[place].append(name)
    return groups


class CompiledFitStep:
    """The step of `EagerStep` as one compiled graph, with which only rounding differs.

    A batch of another size than the first's is an epoch's last: its graph runs uncompiled, operation by operation.
    Raises CaptureError for an optimiser, or an option of one, that no rule of `pyrovae.compile.optimizers` has.
    """

    def __init__(
        self,
        loss: Loss,
        module: nn.Module,
        named: Mapping[str, Tensor],
        choice: OptimizerChoice,
        reduce: Reduce | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.named, self.module = dict(named), module
        self.count = torch.zeros((), dtype=torch.float64, device=next(iter(named.values())).device)  # of updates
        options = _options_by_parameter(choice, named)
        self.rates = {parameter: each["lr"] for parameter, each in options.items()}
        self.updates = Updates(FixedOptions(choice.kind, options), clip_norm)
        functions = [getattr(module, name) for name in ("model", "guide") if hasattr(module, name)]
        self.step = CompiledStep(loss, (module, *functions), self.updates, self._set_up, reduce=reduce)
        self.checked = False

    def prepare(self, *args: Any) -> None:
        """Compile the step for arguments like these; CaptureError or CompilerError, and nothing has changed."""
        self.step.prepared(_as_tensors(args), {})
        self.size = args[-1]  # of whole batches

    def __call__(self, factor: float, *args: Any) -> Tensor:
        """Take a step, and return the loss before it as a tensor, without waiting; `factor` scales learning rates."""
        take = self.step.prepared(_as_tensors(args), {}, interpret=args[-1] != self.size)
        for group in self.updates.groups:
            group["lr"] = self.rates[id(group["params"][0])] * factor
        loss = take()
        self.count += self.updates.all_finite
        return loss

    def _set_up(self, args: Any, _: Any) -> tuple[dict[str, Tensor], Any]:
        before = generators()
        if not self.checked:
            if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in self.named.values()):
                raise CaptureError("a parameter has hooks on its gradient's accumulation, of which a graph has none")
            settings_before = settings(nn.ModuleList([self.module]))
            with torch.enable_grad(), argument_checks(True), watched(*self.step.owners), no_foreign_draws(other_draws):
                self.step.loss(*args)
            if settings(nn.ModuleList([self.module])) != settings_before:
                raise CaptureError("an attribute of a module changes in each step, and a graph would keep it as it is")
            self.checked = True
        return self.named, before

    @property
    def compiles(self) -> int:
        """The number of compiled graphs."""
        return self.step.compiles

    @property
    def replays(self) -> int:
        """The number of graphs that are replayed as CUDA graphs."""
        return self.step.replays

    @property
    def order(self) -> list[str]:
        """The names of the parameters, in the order of their numbers in the state."""
        return list(self.updates.ordered)

    @property
    def all_finite(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return bool(self.updates.all_finite)

    @property
    def taken(self) -> int:
        """The number of updates so far."""
        return int(self.count)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the optimiser's state."""
        return self.updates.state_dict()

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        """Go on from a state after so many updates; what was not finite before is forgotten."""
        self.updates.load_state_dict(state)
        self.count.fill_(taken)


def _options_by_parameter(choice: OptimizerChoice, named: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Each parameter's options, by its identity; CaptureError for what a compiled step does not know."""
    if rule_of(choice.kind) is None:
        raise CaptureError(
            f"a compiled step has no rule for {choice.kind.__name__}: take {', '.join(supported_names())}, or state "
            "one by pyrovae.compile.optimizers.register_rule, or take compile=False"
        )
    by_parameter: dict[int, dict[str, Any]] = {}
    for names, options in choice.groups(named):
        for refused in REFUSED:
            if options.get(refused):
                raise CaptureError(
                    f"{refused}={options[refused]!r} of the optimizer is not known to a compiled step: leave it out, "
                    "or take compile=False"
                )
        known = {name: value for name, value in options.items() if name not in HOW}
        by_parameter |= {id(named[name]): known for name in names}
    return by_parameter


def _as_tensors(args: Sequence[Any]) -> tuple[Any, ...]:
    """Turn numbers into tensors, which are inputs of a graph and no constants; nothing is sent to the device."""
    device = args[0].device
    return tuple(torch.full((), a, dtype=torch.float64, device=device) if isinstance(a, float) else a for a in args)


# networks -------------------------------------------------------------------------------------------


@contextmanager
def with_bf16(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Let these networks compute products in bfloat16 in the body; their outputs and parameters stay in float32."""
    own_forwards = [vars(part).get("forward") for part in parts]  # an instance may have one
    for part in parts:
        part.forward = _in_bf16(part.forward)
    try:
        yield
    finally:
        for part, forward in zip(parts, own_forwards, strict=True):
            if forward is None:
                del part.forward
            else:
                part.forward = forward


def _in_bf16(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        kind = next((x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), "cpu")
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            return forward(*args, **kwargs).float()

    return run
