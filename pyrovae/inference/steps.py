"""One step of `fit`, loss, gradients and Adam: eagerly or as one compiled graph, in float32 or with bf16 networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.argument_checks import argument_checks
from pyrovae.compile.aliases import is_dense, overlap, overlapping
from pyrovae.compile.errors import CaptureError, other_draws
from pyrovae.compile.sources import FixedOptions
from pyrovae.compile.step import CompiledStep
from pyrovae.compile.unrepeatable import no_foreign_draws
from pyrovae.compile.updates import Updates
from pyrovae.compile.watching import watched
from pyrovae.models.pair import settings
from pyrovae.seeding import generators

__all__ = ["CompiledFitStep", "EagerStep", "with_bf16"]

Loss = Callable[..., Tensor]
Reduce = Callable[[Tensor], Any]  # the sum over processes, in place


class EagerStep:
    """A step as torch runs it. What is not finite freezes parameters and state from there on."""

    compiles = replays = 0

    def __init__(
        self, loss: Loss, named: Mapping[str, Tensor], learning_rate: float, reduce: Reduce | None = None
    ) -> None:
        _require_dense(named)
        groups = _apart(named)
        self.loss, self.reduce = loss, reduce
        self.order = [name for group in groups for name in group]
        self.parameters = [named[name] for name in self.order]
        each = [{"params": [named[name] for name in group]} for group in groups]
        self.optimizer = torch.optim.Adam(each, lr=learning_rate, fused=True)
        # float32 whatever torch's default is: a fused Adam takes no other
        self.broken = torch.zeros((), dtype=torch.float32, device=self.parameters[0].device)
        self.optimizer.found_inf = self.broken  # type: ignore[attr-defined]  # by which a fused Adam takes no step
        self.checked = False
        self.count = torch.zeros((), dtype=torch.float64, device=self.broken.device)  # of updates

    def __call__(self, rate: float, *args: Any) -> Tensor:
        """The loss before the step, a tensor that nobody has waited for."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        # Pyro's checks cost 0.6 ms a step and see on the first what they would see on any
        with argument_checks(not self.checked):
            loss = self.loss(*args)
        self.checked = True
        loss.backward()
        loss = loss.detach()
        if self.reduce is not None:
            loss = self._summed(loss)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        finite = torch.stack([*torch._foreach_norm(gradients), loss]).isfinite().all()
        self.broken.logical_or_(~finite)
        self.count += 1 - self.broken
        self.optimizer.step()
        return loss

    def _summed(self, loss: Tensor) -> Tensor:
        """Gradients and loss summed over processes in one tensor."""
        assert self.reduce is not None
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(g.flatten() for g in grads), loss.reshape(1).to(grads[0].dtype)])
        self.reduce(flat)
        *parts, total = flat.split([*(g.numel() for g in grads), 1])
        for p, part in zip(self.parameters, parts, strict=True):
            p.grad = torch.empty_like(p).copy_(part.view_as(p))  # in p's own order in memory, which a fused Adam takes
        return total[0].clone()

    @property
    def sound(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return not self.broken

    @property
    def taken(self) -> int:
        """How many updates there were."""
        return int(self.count)

    def state_dict(self) -> dict[str, Any]:
        """Adam's, a copy."""
        found = self.optimizer.state_dict()
        found["state"] = {i: {k: v.clone() for k, v in own.items()} for i, own in found["state"].items()}
        return found

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        """Go on from a state after so many updates, as sound."""
        self.optimizer.load_state_dict(state)
        self.broken.zero_()
        self.count.fill_(taken)


def _require_dense(named: Mapping[str, Tensor]) -> None:
    """Refuse parameters with gaps in memory: a fused Adam takes them for dense, and writes to the gaps."""
    for name, p in named.items():
        if not is_dense(p):
            raise ValueError(
                f"parameter {name!r} of shape {tuple(p.shape)} has strides {p.stride()}: it is a view with gaps in "
                "memory, and the update would write to these; make it nn.Parameter(t.clone()), or take compile=True"
            )


def _apart(named: Mapping[str, Tensor]) -> list[list[str]]:
    """The names in groups of parameters that share no memory, those that do in their order in groups that follow.

    A fused Adam updates a group by kernels that may run at once, of which one would undo what another wrote.
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
    """The same step as one graph: rounding differs, and nothing else.

    A batch of another size than the first's is an epoch's last: its graph runs uncompiled, operation by operation.
    """

    def __init__(
        self,
        loss: Loss,
        module: nn.Module,
        named: Mapping[str, Tensor],
        learning_rate: float,
        reduce: Reduce | None = None,
    ) -> None:
        self.named, self.module = dict(named), module
        self.count = torch.zeros((), dtype=torch.float64, device=next(iter(named.values())).device)  # of updates
        self.updates = Updates(FixedOptions(torch.optim.Adam, {id(p): {"lr": learning_rate} for p in named.values()}))
        functions = [getattr(module, name) for name in ("model", "guide") if hasattr(module, name)]
        self.step = CompiledStep(loss, (module, *functions), self.updates, self._set_up, reduce=reduce)
        self.checked = False

    def prepare(self, *args: Any) -> None:
        """Compile the step for arguments like these; CaptureError or CompilerError, and nothing has changed."""
        self.step.prepared(_as_tensors(args), {})
        self.size = args[-1]  # of whole batches

    def __call__(self, rate: float, *args: Any) -> Tensor:
        """The loss before the step, a tensor that nobody has waited for."""
        take = self.step.prepared(_as_tensors(args), {}, interpret=args[-1] != self.size)
        for group in self.updates.groups:
            group["lr"] = rate
        loss = take()
        self.count += self.updates.sound
        return loss

    def _set_up(self, args: Any, _: Any) -> tuple[dict[str, Tensor], Any]:
        before = generators()
        if not self.checked:
            if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in self.named.values()):
                raise CaptureError("a parameter has hooks on its gradient's accumulation, of which a graph has none")
            told = settings(nn.ModuleList([self.module]))
            with torch.enable_grad(), argument_checks(True), watched(*self.step.owners), no_foreign_draws(other_draws):
                self.step.loss(*args)
            if settings(nn.ModuleList([self.module])) != told:
                raise CaptureError("an attribute of a module changes in each step, and a graph would keep it as it is")
            self.checked = True
        return self.named, before

    @property
    def compiles(self) -> int:
        """How many graphs were compiled."""
        return self.step.compiles

    @property
    def replays(self) -> int:
        """How many graphs are replayed as CUDA graphs."""
        return self.step.replays

    @property
    def order(self) -> list[str]:
        """The parameters' names as the state numbers them."""
        return list(self.updates.ordered)

    @property
    def sound(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return bool(self.updates.sound)

    @property
    def taken(self) -> int:
        """How many updates there were."""
        return int(self.count)

    def state_dict(self) -> dict[str, Any]:
        """Adam's, a copy."""
        return self.updates.state_dict()

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        """Go on from a state after so many updates, as sound."""
        self.updates.load_state_dict(state)
        self.count.fill_(taken)


def _as_tensors(args: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers as inputs of a graph, not constants of it; filled in on the device, to which nothing is sent."""
    device = args[0].device
    return tuple(torch.full((), a, dtype=torch.float64, device=device) if isinstance(a, float) else a for a in args)


# networks -------------------------------------------------------------------------------------------


@contextmanager
def with_bf16(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Let these compute their products in bfloat16; what they give, and their parameters, are as before."""
    own = [vars(part).get("forward") for part in parts]  # an instance may have one
    for part in parts:
        part.forward = _in_bf16(part.forward)
    try:
        yield
    finally:
        for part, forward in zip(parts, own, strict=True):
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
