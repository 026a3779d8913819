"""One capture of a training step: its graphs for arguments of one kind, and whether they do what eager mode does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrovae.argument_checks import argument_checks
from pyrovae.compile.aliases import overlapping
from pyrovae.compile.arguments import nested
from pyrovae.compile.eager import Beginning, Evaluated, without_new_parameters
from pyrovae.compile.errors import CaptureError, no_graph
from pyrovae.compile.forms import Form
from pyrovae.compile.graph import capture
from pyrovae.compile.meeting import meeting
from pyrovae.compile.python_numbers import Numbers, other_than
from pyrovae.compile.unrepeatable import no_values_read
from pyrovae.compile.updates import Updates
from pyrovae.compile.variant import Piece
from pyrovae.compile.watching import LastSite, watched

__all__ = ["Capture"]


class Capture:
    """A step with arguments of one kind, to be captured.

    Args:
        loss: `loss(*args, **kwargs)` is the scalar to minimise, or a vector that begins with it.
        owners: the functions that `loss` calls.
        updates: the optimiser and its state.
        reduce: sums a tensor over processes; None where the step is one graph.
        trained: the parameters that the step changes.
        leaves: the arguments, flat, tensors without a gradient.
        structure: their nesting.
        start: what each evaluation begins with.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        owners: Sequence[Any],
        updates: Updates,
        reduce: Callable[[Tensor], Any] | None,
        trained: list[Tensor],
        leaves: list[Any],
        structure: Any,
        start: Beginning,
    ) -> None:
        self.loss, self.owners, self.updates, self.reduce = loss, owners, updates, reduce
        self.trained, self.leaves, self.structure, self.start = trained, leaves, structure, start

    def pieces(self, followed: frozenset[int]) -> tuple[list[Piece], list[Tensor], list[nn.Module], Numbers]:
        """The graphs of the step, the parameters that have a gradient, the modules, and the numbers that are inputs.

        A number whose value the model reads, or keeps, is captured as that value; all are where loss or gradients are
        others than by eager mode, or something raised an error.
        """
        while True:
            numbers = self._numbers(self.leaves, followed)
            self.start.put_back()
            try:
                pieces, moved, modules, found = self._with_stand_ins(self.leaves, numbers)
            except Exception:
                if not followed:
                    raise
                failed = True
            else:
                failed = False
            numbers.end(as_numbers=True)
            if not failed and not numbers.fixed and (not followed or self._is_eager(found, followed)):
                return pieces, moved, modules, numbers
            followed -= numbers.fixed or followed

    def at_another_size(self, followed: frozenset[int]) -> Iterator[Form]:
        """The graph of the step with two thirds of a batch, for each number of rows that may be a batch's."""
        for size in dict.fromkeys(len(x) for x in self.leaves if isinstance(x, Tensor) and x.ndim):
            fewer = max(2, 2 * size // 3)
            if fewer >= size:
                continue
            shorter = [x[:fewer] if isinstance(x, Tensor) and x.ndim and len(x) == size else x for x in self.leaves]
            forms: list[Form] = []

            def keep(graph: fx.GraphModule, inputs: list[Tensor], *_: Any, forms: list[Form] = forms) -> fx.GraphModule:
                forms.append(Form(graph, inputs))
                return graph

            self.start.put_back()
            numbers = self._numbers(self.leaves, followed)
            with without_new_parameters():
                try:
                    (piece,), *_ = self._with_stand_ins(shorter, numbers)
                    piece.finish(False, {}, keep)
                except Exception:  # of any type: the model may want batches of one size
                    forms.clear()
            numbers.end(as_numbers=False)
            yield from forms if not numbers.fixed else ()

    def _numbers(self, leaves: list[Any], followed: frozenset[int]) -> Numbers:
        return Numbers({place: leaves[place] for place in sorted(followed)})

    def _with_stand_ins(
        self, leaves: list[Any], numbers: Numbers
    ) -> tuple[list[Piece], list[Tensor], list[nn.Module], Evaluated]:
        """A capture in which stand-ins are in the places of the numbers."""
        arguments = [x for x in leaves if isinstance(x, Tensor)]
        given = [numbers.stand_ins.get(place, x) for place, x in enumerate(leaves)]
        with torch.enable_grad(), argument_checks(False), watched(*self.owners) as modules:
            pieces, moved, found = self._graphs(arguments, *nested(given, self.structure), numbers)
        return pieces, moved, modules, found

    def _is_eager(self, found: Evaluated, followed: frozenset[int]) -> bool:
        """Whether stand-ins lead to eager mode's loss and gradients: for these numbers, as found, and for others."""
        if not found.is_like(self._evaluated(self.leaves)):
            return False
        others = [other_than(x) if place in followed else x for place, x in enumerate(self.leaves)]
        numbers = self._numbers(others, followed)
        with without_new_parameters():
            try:
                is_like = self._evaluated(others, numbers).is_like(self._evaluated(others))
            except Exception:  # of any type: the model may want other numbers
                is_like = False
            numbers.end(as_numbers=False)
        return is_like and not numbers.fixed

    def _evaluated(self, leaves: list[Any], numbers: Numbers | None = None) -> Evaluated:
        """Loss and gradients by eager mode; with `numbers`, their stand-ins are in their places."""
        stand_ins = {} if numbers is None else numbers.stand_ins
        args, kwargs = nested([stand_ins.get(place, x) for place, x in enumerate(leaves)], self.structure)
        self.start.put_back()
        met = nullcontext() if numbers is None else meeting(numbers)
        with torch.enable_grad(), argument_checks(False), watched(*self.owners), met:
            return Evaluated.of(self.loss(*args, **kwargs), self.trained)

    def _graphs(
        self, arguments: list[Tensor], args: Any, kwargs: Any, numbers: Numbers
    ) -> tuple[list[Piece], list[Tensor], Evaluated]:
        """The graphs of the step, the parameters that have a gradient, and loss and gradients.

        There is one graph, or two if gradients are summed over processes: one before the sum and one after it.
        """
        trained = self.trained
        site, moved, seen = LastSite(), list[Tensor](), list[Evaluated]()
        fixed = self.updates.inputs(trained)
        shared = [trained[i] for group in overlapping(trained) for i in group]
        snapshots = [(p.data, p.detach().clone()) for p in shared]

        def differentiated() -> Evaluated:
            with site, meeting(numbers), no_values_read(site.depends_on_value):
                loss = self.loss(*args, **kwargs)
            seen.append(Evaluated.of(loss, trained))
            moved[:] = [p for p, g in zip(trained, seen[-1].gradients, strict=True) if g is not None]
            return seen[-1]

        def updated(loss: Tensor, gradients: list[Tensor | None]) -> list[Tensor]:
            with torch.no_grad():
                return [loss, *self.updates.updated(loss, trained, gradients, set(map(id, shared)))]

        try:
            if self.reduce is None:
                whole = capture(lambda *_: updated(*differentiated()), [*fixed, *arguments])
                _write_back(whole)
                return [Piece(whole, fixed, arguments)], moved, seen[-1]
            sizes = [*(p.numel() for p in trained), 1]
            widest = max((p.dtype for p in trained), key=lambda dtype: torch.finfo(dtype).bits)
            summed = trained[0].new_zeros(sum(sizes), dtype=widest)

            def concatenated(*_: Tensor) -> list[Tensor]:
                loss, gradients = differentiated()
                parts = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]
                return [torch.cat([part.reshape(-1).to(widest) for part in (*parts, loss)])]

            def split(*_: Tensor) -> list[Tensor]:
                *parts, loss = summed.split(sizes)
                gradients = [g.view_as(p).to(p.dtype) for p, g in zip(trained, parts, strict=True)]
                return updated(loss[0].clone(), list(gradients))

            first = capture(concatenated, [*trained, *arguments])
            second = capture(split, [*fixed, summed])
            _write_back(second)
            return [Piece(first, trained, arguments), Piece(second, fixed, [summed])], moved, seen[-1]
        except CaptureError:
            raise
        except Exception as error:  # of any type: the eager evaluation before raised none
            reads = "_local_scalar_dense" in str(error)
            raise (site.depends_on_value() if reads else no_graph(error)) from error
        finally:
            for p, value in snapshots:  # capturing the update of parameters that share memory changes them
                p.copy_(value)


def _write_back(graph: fx.GraphModule) -> None:
    """Make the graph write the outputs after the loss to its first inputs, in order."""
    nodes = list(graph.graph.nodes)
    output = nodes[-1]
    outputs: Any = output.args[0]
    loss, *values = outputs
    inputs = [node for node in nodes if node.op == "placeholder"]
    with graph.graph.inserting_before(output):
        for old, new in zip(inputs, values, strict=False):
            if new is not old:
                graph.graph.call_function(torch.ops.aten.copy_.default, (old, new))
    output.args = ((loss,),)
    graph.recompile()
