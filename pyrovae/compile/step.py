"""The loss, gradients and update of a step as one compiled graph, captured again when the graph is outdated."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.argument_checks import argument_checks
from pyrovae.compile.aliases import is_writable
from pyrovae.compile.arguments import flat, kind_of, nested
from pyrovae.compile.capturing import Capture
from pyrovae.compile.eager import Beginning, leading
from pyrovae.compile.errors import EAGER, CaptureError
from pyrovae.compile.guards import ModuleState, WrittenMemory
from pyrovae.compile.names import Names
from pyrovae.compile.python_numbers import is_number
from pyrovae.compile.replay import pool_of
from pyrovae.compile.sizes import SizedGraphs
from pyrovae.compile.updates import Updates
from pyrovae.compile.variant import Piece, Variant, try_out, unnoticed
from pyrovae.compile.walk import MOST
from pyrovae.compile.watching import watched
from pyrovae.seeding import generators

__all__ = ["CompiledStep", "leading"]

MANY = 8  # compilations, after which the user is warned once
NUMBERS = (bool, int, float, complex, np.number, np.bool_)
ORDER = 16  # roundings, by which sums in another order, as on a CUDA device, may differ

SetUp = Callable[[Any, Any], tuple[dict[str, Tensor], Any]]


class CompiledStep:
    """A training step as compiled graphs, one for each kind of arguments, captured when that kind first occurs.

    Args:
        loss: `loss(*args, **kwargs)` is the scalar to minimise, or without `reduce` a vector that begins with it.
        owners: the functions that `loss` calls; their modules and names are checked for changes at each step.
        updates: the optimiser and its state.
        set_up: `set_up(args, kwargs)` evaluates the loss eagerly and returns the parameters by name and the state of
            the random generators from which the first step starts.
        settings: `settings()` returns whatever else a graph depends on; a new value leads to a new capture.
        follow_numbers: whether Python numbers among the arguments are inputs of a graph, where it can take them.
        share_sizes: whether batches of several sizes share a compiled graph where they can; not with `reduce`.
        reduce: sums one tensor, the gradients and the loss, over processes, in place. With it the step is two graphs,
            before and after the sum. Without it the step is one graph, replayed as a CUDA graph on a CUDA device.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        owners: Sequence[Any],
        updates: Updates,
        set_up: SetUp,
        settings: Callable[[], Hashable] = tuple,
        reduce: Callable[[Tensor], Any] | None = None,
        follow_numbers: bool = False,
        share_sizes: bool = False,
    ) -> None:
        self.loss, self.owners, self.updates = loss, owners, updates
        self.set_up, self.settings, self.reduce = set_up, settings, reduce
        self.follow_numbers, self.compiles = follow_numbers, 0
        self._sized = SizedGraphs() if share_sizes else None
        # by the kinds of arguments: the sets of numbers among them, by place, that graphs take as inputs
        self._followed: dict[Hashable, list[frozenset[int]]] = {}
        self._variants: dict[Hashable, list[Variant]] = {}
        self._pool: Any = None  # the memory pool that the CUDA graphs share
        self._written = set[int]()  # the ids of the parameters that steps have written to
        self._is_warned = False  # that some names are not looked at
        self._is_told_of_counts = False  # that numbers which evaluations change are left as they are
        self._rebound: str | None = None  # a name whose new value made the last capture necessary

    def prepared(self, args: Any, kwargs: Any, *, interpret: bool = False) -> Callable[[], Tensor]:
        """Prepare a step with these arguments: a function that takes the step and returns the loss, without waiting.

        With `interpret`, a graph that was not compiled before runs operation by operation, as torch does in eager
        mode. Raises CaptureError or CompilerError and then leaves parameters, state and generators as they were.
        """
        leaves, structure = flat(args, kwargs)
        if any(x.requires_grad for x in leaves if isinstance(x, Tensor)):
            raise CaptureError(
                "an argument carries a gradient, which would end here: compute it in the model, or detach it"
            )
        # a graph reads raw memory, where torch's lazy conjugates and negatives are not applied yet
        leaves = [x.resolve_conj().resolve_neg() if isinstance(x, Tensor) else x for x in leaves]
        numbers = frozenset(i for i, x in enumerate(leaves) if is_number(x)) if self.follow_numbers else frozenset()
        followed = self._followed.setdefault(_kinds(leaves, structure, numbers), [numbers])
        settings = self._settings()
        variants = (self._known((_kinds(leaves, structure, some), settings), leaves, some) for some in followed)
        variant = next((variant for variant in variants if variant is not None), None)
        if variant is None:
            variant = self._captured(leaves, structure, interpret, followed[-1])
            if variant.followed not in followed:
                followed.append(variant.followed)
            key = _kinds(leaves, structure, variant.followed), self._settings()
            self._variants.setdefault(key, []).append(variant)

        variant.memory.require_apart([x for x in leaves if isinstance(x, Tensor)])

        def take() -> Tensor:
            self.updates.set_rates()
            return variant(leaves)

        return take

    @property
    def replays(self) -> int:
        """The number of variants that are replayed as CUDA graphs."""
        return sum(variant.replay is not None for known in self._variants.values() for variant in known)

    def _settings(self) -> Hashable:
        return (
            self.settings(),
            self.updates.options,
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cuda"),
        )

    def _known(self, key: Hashable, leaves: list[Any], followed: frozenset[int]) -> Variant | None:
        """The captured variant that is still valid; None if a new one must be captured."""
        known = self._variants.get(key, [])
        variant = next((variant for variant in known if variant.holds() and variant.takes(leaves)), None)
        if variant is None:
            self._rebound = next((words for last in known[-1:] for words, *_ in last.names.rebound()), None)
            known[:] = [variant for variant in known if variant.may_hold()][-MANY:]
        return variant

    def _captured(self, leaves: list[Any], structure: Any, interpret: bool, followed: frozenset[int]) -> Variant:
        # an argument that is passed twice becomes two tensors
        detached = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        args, kwargs = nested(detached, structure)
        arguments = [x for x in detached if isinstance(x, Tensor)]
        start = Beginning(generators(), arguments)
        try:
            with watched(*self.owners) as modules:
                named, start.generators = self.set_up(args, kwargs)
            self.updates.add_params(named)
            names = Names([*self.owners, *(x for x in leaves if callable(x) or isinstance(x, str))], modules)
            if not names.are_all and not self._is_warned:
                self._is_warned = True
                checks.warn(
                    f"model and guide read more than {MOST:,} names, or entries of lists, dictionaries and arrays: a "
                    "change of those beyond is not noticed between steps, so pass what changes as an argument"
                )
            if names.ask_types:
                followed = frozenset()
            trained = self._trained(named)
            how = self.loss, self.owners, self.updates, self.reduce
            capture = Capture(*how, trained, detached, structure, start)
            pieces, moved, modules, numbers = capture.pieces(followed)
            compiler, compiles = None, self._sized.compiles if self._sized is not None else 0
            if self._sized is not None:
                others = partial(capture.at_another_size, numbers.places)
                compiler = partial(self._sized.compiled, at_another_size=others)
            for piece in pieces:
                piece.finish(interpret, named, compiler)
            self._require_lasting(names, pieces, start, args, kwargs)
            memory = _memory(pieces, arguments, named)
            if not interpret:
                with unnoticed(trained):
                    try_out(pieces, arguments)
            constants = [t for piece in pieces for t in piece.function.constants if t.layout == torch.strided]
            if any(t.is_conj() or t.is_neg() for t in constants):
                raise CaptureError("a tensor that the model reads is a lazy conjugate or negative: resolve it first")
            early = [view for piece in pieces for view in piece.early]
            state = ModuleState(modules, [*named.values(), *constants], early)
            variant = Variant(pieces, self.reduce, named, state, memory, names, moved, self._written, numbers)
            self._pool = self._pool or pool_of(trained[0].device)
            with unnoticed(trained):
                variant.record(arguments, self._pool)
            if variant.replay is None:  # a recording that failed leaves its pool unusable
                self._pool = None
        finally:
            start.put_back()
        fresh = not interpret if self._sized is None else self._sized.compiles - compiles
        self.compiles += fresh
        if fresh and self.compiles == MANY + 1:
            self._warn_of_many()
        return variant

    def _require_lasting(self, names: Names, pieces: list[Piece], start: Beginning, args: Any, kwargs: Any) -> None:
        """Refuse a loss that is another in each evaluation from one start, naming the names that these reassign.

        Other names that they reassign are watched no longer; numbers among them are warned of.
        """
        constants = [t for piece in pieces for t in piece.function.constants]
        constant_ids = set(map(id, constants))
        names.forget_read_in_place(constants)
        rebound = list(names.rebound())
        names.forget_rebound()
        wanted = [words for words, value, _ in rebound if isinstance(value, Tensor) and id(value) in constant_ids]
        if not wanted:
            written = {id(t) for piece in pieces for t in piece.function.written}
            kept = [(t, t.clone()) for t in constants if id(t) in written and is_writable(t)]
            losses = []
            for _ in range(2):
                start.put_back()
                with torch.no_grad(), argument_checks(False), watched(*self.owners):
                    losses.append(leading(self.loss(*args, **kwargs)).detach())
                    for t, value in kept:
                        t.copy_(value)
            if not _same_but_for_order(*losses):
                unnamed = "what model or guide has of an iterator, a clock or a generator of random numbers"
                wanted = [*(words for words, *_ in rebound), unnamed]
        if wanted:
            raise CaptureError(
                f"{wanted[0]} is assigned anew in each step, and a compiled graph would keep its first value: "
                f"hand it in as an argument, {EAGER}"
            )
        counted = [words for words, _, after in rebound if isinstance(after, NUMBERS)]
        if counted and not self._is_told_of_counts:
            self._is_told_of_counts = True
            checks.warn(
                f"{counted[0]} is a number that each evaluation assigns anew, and compiled steps leave it as it is. "
                "The loss did not depend on it in the first evaluations; where later ones would, as by a weight that "
                f"waits for some steps, hand it in as an argument, {EAGER}"
            )

    def _trained(self, named: dict[str, Tensor]) -> list[Tensor]:
        """The parameters of this loss that require a gradient, in the optimiser's order."""
        reached = {id(p) for p in named.values()}  # tied parameters have several names
        trained = [p for p in self.updates.ordered.values() if id(p) in reached and p.requires_grad]
        if not trained:
            raise CaptureError("model and guide have no parameter that requires a gradient: nothing to fit")
        if any(p.is_inference() for p in trained):
            raise CaptureError(
                "a parameter was made inside of torch.inference_mode(), where none is trained: make it anew"
            )
        if any(p._post_accumulate_grad_hooks for p in trained):
            raise CaptureError(
                "a parameter has a hook on its gradient's accumulation, of which a graph has none: change the gradient "
                f"by p.register_hook, {EAGER}"
            )
        return trained

    def _warn_of_many(self) -> None:
        advice = "pass tensors in few shapes, and numbers that change as tensors, where Python reads their values"
        if self._rebound is not None:
            advice = f"{self._rebound} is assigned anew between steps: pass it as an argument"
        checks.warn(f"a step was captured for the {MANY + 1}th time: {advice}")


def _kinds(leaves: list[Any], structure: Any, followed: frozenset[int]) -> Hashable:
    """What a graph depends on in arguments, some of which are numbers that it takes as inputs."""
    return structure, tuple([type(x) if i in followed else kind_of(x) for i, x in enumerate(leaves)])


def _same_but_for_order(a: Tensor, b: Tensor) -> bool:
    """Whether two losses of one computation are the same, but for the order of its sums."""
    return torch.allclose(a, b, rtol=ORDER * torch.finfo(a.dtype).eps, atol=0.0, equal_nan=True)


def _memory(pieces: list[Piece], arguments: list[Tensor], named: dict[str, Tensor]) -> WrittenMemory:
    """The memory that the graphs write to; CaptureError if an argument shares it."""
    written = [t for piece in pieces for t in piece.function.written]
    lasting = [t for piece in pieces for t in (*piece.fixed, *piece.function.constants)]
    memory = WrittenMemory(written, lasting, arguments, named)
    memory.require_apart(arguments)
    return memory
