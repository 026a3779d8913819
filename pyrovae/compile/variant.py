"""A variant of a compiled step: its graphs for arguments of one kind, and checks of whether they are still right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch.autograd.graph import increment_version

from pyrovae.compile.aliases import SharedMemoryError, is_writable, same_values
from pyrovae.compile.errors import EAGER, CaptureError, compiler_error
from pyrovae.compile.function import CompiledFunction, Compiler
from pyrovae.compile.guards import ModuleState, WrittenMemory, in_words
from pyrovae.compile.names import Names
from pyrovae.compile.python_numbers import Numbers
from pyrovae.compile.replay import Replayed, replayed

__all__ = ["Piece", "Variant", "try_out", "unnoticed"]


@dataclass
class Variant:
    """A step for arguments of one kind, with everything that must not have changed since its capture.

    Attributes:
        pieces: the graph, or the two between which gradients are summed over processes.
        reduce: sums over processes, in place, what the first piece gives to the second; None where there is one piece.
        named: the parameters by name.
        state: the modules and tensors as the capture saw them.
        memory: what the step writes to.
        names: what the names in the code were bound to.
        moved: the parameters that it updates from its first step on.
        written: those, by identity, that any variant has updated.
        numbers: the numbers among the arguments that it takes as inputs.
        replay: the step as one CUDA graph, where there is one.
    """

    pieces: list[Piece]
    reduce: Callable[[Tensor], Any] | None
    named: dict[str, Tensor]
    state: ModuleState
    memory: WrittenMemory
    names: Names
    moved: list[Tensor]
    written: set[int]
    numbers: Numbers
    replay: Replayed | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        store = pyro.get_param_store()._params
        self._stored = {name: p for name, p in self.named.items() if store.get(name) is p}
        self._is_interpreted = any(not piece.function.is_compiled for piece in self.pieces)
        self._is_fresh = True

    def record(self, arguments: list[Tensor], pool: Any) -> None:
        """Record the step as one CUDA graph for tensors like these, where the device has such graphs."""
        if self.reduce is None:
            fixed, constants = self.pieces[0].fixed, self.pieces[0].function.constants
            changed = [*fixed, *(t for t in constants if t.device == fixed[0].device and is_writable(t))]
            self.replay = replayed(self._run, arguments, changed, constants, pool)

    def __call__(self, leaves: list[Any]) -> Tensor:
        arguments = [x for x in leaves if isinstance(x, Tensor)]
        self.numbers.set(leaves)
        if self.replay is not None and not self.replay.holds():  # a number of the host that a plain call reads anew
            self.replay = None
        run = self._run if self.replay is None else self.replay
        if not self._is_interpreted:
            loss = run(*arguments)
        else:  # which writes to each, moved or not
            with unnoticed([p for p in self.named.values() if p.requires_grad]):
                loss = run(*arguments)
        if self._is_fresh:  # a first update is what views from before a gradient was required wait for
            increment_version([p for p in self.moved if id(p) not in self.written])
            self.written.update(map(id, self.moved))
            self._is_fresh = False
        return loss

    def _run(self, *arguments: Tensor) -> Tensor:
        if self.reduce is None:
            return self.pieces[0](arguments)
        summed = self.pieces[0](list(arguments))
        self.reduce(summed)
        return self.pieces[1]([summed])

    def holds(self) -> bool:
        """Whether everything that the capture saw is as it was."""
        store = pyro.get_param_store()._params
        is_stored = all(store.get(name) is p for name, p in self._stored.items())
        return is_stored and self.state.is_as_it_was() and self.names.are_bound_alike()

    @property
    def followed(self) -> frozenset[int]:
        """The places of the arguments that are numbers which it takes as inputs."""
        return self.numbers.places

    def takes(self, leaves: list[Any]) -> bool:
        """Whether Python would take the course of the capture with these numbers."""
        return self.numbers.hold(leaves)

    def may_hold(self) -> bool:
        """Whether the parameters are still where they were, so that the variant may become right again."""
        return self.state.may_return()


class Piece:
    """A captured graph: its inputs are tensors that keep their addresses, then others, then its noise.

    A view of a parameter that was made before that required a gradient passes none on until the parameter is written
    to, and then does, as torch has it: `early` are such views and their versions.
    """

    def __init__(self, graph: fx.GraphModule, fixed: list[Tensor], others: list[Tensor]) -> None:
        if any(node.kwargs.get("generator") is not None for node in graph.graph.nodes):
            raise CaptureError(f"a draw has a generator of its own: leave it to torch's, {EAGER}")
        self.graph, self.fixed, self.others = graph, [t.detach() for t in fixed], others
        self.early: list[tuple[Tensor, int]] = []
        for name in {node.target for node in graph.graph.nodes if node.op == "get_attr"}:
            t = attrgetter(name)(graph)
            try:
                if _is_early(t):
                    self.early.append((t, t._version))
            except RuntimeError:  # one that was made without autograd, which does not follow it: nor did the model
                setattr(graph, name, t.detach())

    def finish(self, interpret: bool, named: dict[str, Tensor], compiler: Compiler | None = None) -> None:
        """Compile the graph, or leave it to torch, operation by operation; `named` are the parameters, for errors."""
        inputs = [*self.fixed, *self.others]
        try:
            self.function = CompiledFunction(
                self.graph, inputs, compile=not interpret, lasting=len(self.fixed), compiler=compiler
            )
        except SharedMemoryError as error:
            raise CaptureError(f"{in_words(error.tensors, named)} {error}, {EAGER}") from error
        except Exception as error:
            raise compiler_error(error) from error

    def __call__(self, others: Sequence[Tensor]) -> Tensor:
        return self.function(*self.fixed, *others)[0]


def _is_early(t: Tensor) -> bool:
    """Whether a tensor is a view that was made before its base required a gradient, and does not pass one on."""
    return t._base is not None and t._base.requires_grad and t.requires_grad and t.grad_fn is None


def try_out(pieces: list[Piece], arguments: list[Tensor]) -> None:
    """Run the pieces once and restore all that they write to: some compiled code fails only when it is called."""
    every = [t for piece in pieces for t in (*piece.fixed, *piece.function.constants, *piece.others)]
    kept = [(t, t.clone()) for t in (*every, *arguments) if is_writable(t)]
    try:
        pieces[0](arguments)
        for piece in pieces[1:]:
            piece(piece.others)
    except Exception as error:
        raise compiler_error(error) from error
    finally:
        with torch.no_grad():
            for t, value in kept:
                if not same_values(t, value):  # a write would spoil a backward pass that is to come
                    t.copy_(value)


def unnoticed(params: Sequence[Tensor]) -> Any:
    """Hide writes to these tensors from autograd, which does not see those of compiled code either."""
    return torch.autograd._unsafe_preserve_version_counter(tuple(params))
