"""Loss, gradients and update of a step as one compiled graph, and what must not have changed for it to be right."""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from pyrovae import checks
from pyrovae.aliases import SharedMemoryError, overlap, overlapping
from pyrovae.graph import Program, blind, capture, summary
from pyrovae.inference.names import Names
from pyrovae.inference.replay import Replayed, pool_of, replayed, same
from pyrovae.inference.updates import Updates
from pyrovae.models.pair import validation as checking
from pyrovae.seeding import generators, put_back

__all__ = [
    "CaptureError",
    "CompiledStep",
    "CompilerError",
    "is_writable",
    "other_draws",
    "watched",
]

EAGER = "or take pyro.infer.SVI, which runs it eagerly"
MANY = 8  # compiles, of which the user is told once
VALUES = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size)

FLAT = {Tensor, nn.Parameter, type(None), bool, int, float, str}


class CaptureError(RuntimeError):
    """A model and guide that cannot be one graph: the message names the site and what to do."""


class CompilerError(RuntimeError):
    """The graph could not be compiled: no C++ compiler that works, or no folder to write to."""


def other_draws() -> CaptureError:
    """What a graph cannot repeat."""
    return CaptureError(f"model or guide draws from Python's or NumPy's generator: draw by torch, {EAGER}")


SetUp = Callable[[Any, Any], tuple[dict[str, Tensor], Any]]


class CompiledStep:
    """One step of a loss as one graph for each kind of arguments, captured when they first come.

    `loss(*args, **kwargs)` is a scalar; `owners` are the functions that it calls, whose modules are looked at;
    `updates` has the optimiser; `set_up(args, kwargs)` evaluates the loss eagerly once and gives the parameters by name
    and the state of the generators that the first step is to find; `settings()` is what else a graph depends on. With
    `reduce` the step is two graphs, between which it sums one tensor of gradients and loss over processes, in place;
    without, on a CUDA device, all of it is replayed as a CUDA graph.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        owners: Sequence[Any],
        updates: Updates,
        set_up: SetUp,
        settings: Callable[[], Hashable] = tuple,
        reduce: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.reduce = reduce
        self.loss, self.owners, self.updates, self.set_up, self.settings = loss, owners, updates, set_up, settings
        self.compiles = 0
        self._programs: dict[Hashable, list[_Program]] = {}
        self._pool: Any = None  # of memory, which its CUDA graphs share
        self._written = set[int]()  # the parameters, by identity, that steps have written to
        self._rebound: str | None = None  # a name by which the last capture differs from the one before

    def prepared(self, args: Any, kwargs: Any, *, interpret: bool = False) -> Callable[[], Tensor]:
        """The step for these arguments, ready to be taken: a call gives the loss before it, without waiting for it.

        With `interpret` the graph runs as torch does, operation by operation, where it was not compiled before. Raises
        CaptureError or CompilerError, with everything as it was.
        """
        leaves, structure = _flat(args, kwargs)
        if any(x.requires_grad for x in leaves if isinstance(x, Tensor)):
            raise CaptureError(
                "an argument carries a gradient, which would end here: compute it in the model, or detach it"
            )
        # a graph reads memory as it lies, and knows nothing of a conjugate or a sign that is still to be taken
        leaves = [x.resolve_conj().resolve_neg() if isinstance(x, Tensor) else x for x in leaves]
        key = (structure, tuple(_described(x) for x in leaves), self._settings())
        program = self._found(key)
        if program is None:
            program = self._captured(leaves, structure, interpret)
            self._programs.setdefault((*key[:2], self._settings()), []).append(program)

        program.apart.require([x for x in leaves if isinstance(x, Tensor)])

        def take() -> Tensor:
            self.updates.set_rates()
            return program(leaves)

        return take

    @property
    def replays(self) -> int:
        """How many steps are replayed as CUDA graphs."""
        return sum(program.replay is not None for known in self._programs.values() for program in known)

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

    def _found(self, key: Hashable) -> _Program | None:
        known = self._programs.get(key, [])
        program = next((program for program in known if program.holds()), None)
        if program is None:  # another joins them
            self._rebound = next((words for one in known[-1:] for words, *_ in one.names.rebound()), None)
            known[:] = [program for program in known if program.may_hold()][-MANY:]
        return program

    def _captured(self, leaves: list[Any], structure: Any, interpret: bool) -> _Program:
        given = [x.detach() if isinstance(x, Tensor) else x for x in leaves]  # one that comes twice is two
        args, kwargs = (given, {}) if structure is None else pytree.tree_unflatten(given, structure)
        before, updates = generators(), self.updates
        tensors = [x for x in given if isinstance(x, Tensor)]
        kept = [(t, t._version, t.clone()) for t in tensors if is_writable(t)]
        try:
            with watched(*self.owners) as modules:
                named, before = self.set_up(args, kwargs)
            updates.take(named)
            names = Names([*self.owners, *(x for x in leaves if callable(x))], modules)
            reached = {id(p) for p in named.values()}  # by whichever name, where they are tied
            own = [p for p in updates.ordered.values() if id(p) in reached and p.requires_grad]
            if not own:
                raise CaptureError("model and guide have no parameter that requires a gradient: nothing to fit")
            with torch.enable_grad(), checking(False), watched(*self.owners) as modules:
                pieces, moved = self._pieces(own, tensors, args, kwargs)
            for piece in pieces:
                piece.finish(interpret, named)
            self._require_lasting(names, pieces, before, args, kwargs)
            apart = _Apart(pieces, tensors, named)
            apart.require(tensors)
            if not interpret:
                with _unnoticed(own):
                    _try_out(pieces, tensors)
            held = [t for piece in pieces for t in piece.program.held if t.layout == torch.strided]
            if any(t.is_conj() or t.is_neg() for t in held):
                raise CaptureError("a tensor that the model reads is a lazy conjugate or negative: resolve it first")
            state = _State(modules, [*named.values(), *held], [row for piece in pieces for row in piece.early])
            program = _Program(pieces, self.reduce, named, state, apart, names, moved, self._written)
            self._pool = self._pool or pool_of(own[0].device)
            with _unnoticed(own):
                program.record(tensors, self._pool)
            if program.replay is None:  # a recording that broke off has left it
                self._pool = None
        finally:
            put_back(before)
            with torch.no_grad():
                for t, version, value in kept:
                    if t._version != version:  # a model that writes to an argument does so in steps alone
                        t.copy_(value)
        self.compiles += not interpret
        if self.compiles == MANY + 1:
            advice = "pass numbers that change as tensors, and in few shapes"
            if self._rebound is not None:
                advice = f"{self._rebound} is assigned anew between steps: pass it as an argument, a number as a tensor"
            checks.warn(f"a step was captured for the {MANY + 1}th time: {advice}")
        return program

    def _require_lasting(self, names: Names, pieces: list[_Piece], before: Any, args: Any, kwargs: Any) -> None:
        """Refuse names that the evaluation has bound anew where the loss depends on them, and leave out the others."""
        held = {id(t) for piece in pieces for t in piece.program.held}
        rebound = list(names.rebound())
        names.forget_rebound()
        wanted = [words for words, value, _ in rebound if isinstance(value, Tensor) and id(value) in held]
        if not wanted and any(not isinstance(value, Tensor) for _, value, _ in rebound):
            losses = []
            for _ in range(2):
                put_back(before)
                with torch.no_grad(), checking(False), watched(*self.owners):
                    losses.append(self.loss(*args, **kwargs))
            wanted = [words for words, *_ in rebound] if not same(*losses) else []
        if wanted:
            raise CaptureError(
                f"{wanted[0]} is assigned anew in each step, and a compiled graph would keep its first value: "
                f"hand it in as an argument, {EAGER}"
            )

    def _pieces(
        self, own: list[Tensor], tensors: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[list[_Piece], list[Tensor]]:
        """The whole step, or, where gradients are summed over processes between, what comes before and after that.

        With the parameters that have a gradient.
        """
        updates, at, moved = self.updates, _Site(), list[Tensor]()
        fixed = updates.inputs(own)
        shared = [own[i] for group in overlapping(own) for i in group]
        kept = [(p.data, p.detach().clone()) for p in shared]

        def differentiated() -> tuple[Tensor, list[Tensor | None]]:
            with at, blind(at.course):
                loss = self.loss(*args, **kwargs)
            gradients: list[Tensor | None] = list(torch.autograd.grad(loss, own, allow_unused=True))
            moved[:] = [p for p, g in zip(own, gradients, strict=True) if g is not None]
            return loss.detach(), gradients

        def updated(loss: Tensor, gradients: list[Tensor | None]) -> list[Tensor]:
            with torch.no_grad():
                return [loss, *updates.updated(loss, own, gradients, set(map(id, shared)))]

        try:
            if self.reduce is None:
                whole = capture(lambda *_: updated(*differentiated()), [*fixed, *tensors])
                _write_back(whole)
                return [_Piece(whole, fixed, tensors)], moved
            sizes = [*(p.numel() for p in own), 1]

            widest = max((p.dtype for p in own), key=lambda dtype: torch.finfo(dtype).bits)
            summed = own[0].new_zeros(sum(sizes), dtype=widest)

            def flat(*_: Tensor) -> list[Tensor]:
                loss, gradients = differentiated()
                parts = [torch.zeros_like(p) if g is None else g for p, g in zip(own, gradients, strict=True)]
                return [torch.cat([part.reshape(-1).to(widest) for part in (*parts, loss)])]

            first = capture(flat, [*own, *tensors])

            def apart(*_: Tensor) -> list[Tensor]:
                *parts, loss = summed.split(sizes)
                return updated(loss[0].clone(), [g.view_as(p).to(p.dtype) for p, g in zip(own, parts, strict=True)])

            second = capture(apart, [*fixed, summed])
            _write_back(second)
            return [_Piece(first, own, tensors), _Piece(second, fixed, [summed])], moved
        except CaptureError:
            raise
        except Exception as error:  # of whatever kind: the eager evaluation before had none
            raise (at.course() if "_local_scalar_dense" in str(error) else _not_one(error)) from error
        finally:
            for p, value in kept:  # an update of those that share memory is taken as it is captured
                p.copy_(value)


class _Piece:
    """A captured graph of tensors that keep their addresses, then of others, then of what it draws itself.

    A view of a parameter that was made before that required a gradient passes none on until the parameter is written
    to, and then does, as torch has it: `early` are such views and their versions.
    """

    def __init__(self, graph: Any, fixed: list[Tensor], others: list[Tensor]) -> None:
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

    def finish(self, interpret: bool, named: dict[str, Tensor]) -> None:
        """Compile it, or leave it to torch, operation by operation; `named` are the parameters, for what is said."""
        try:
            self.program = Program(
                self.graph, [*self.fixed, *self.others], compile=not interpret, lasting=len(self.fixed)
            )
        except SharedMemoryError as error:
            raise CaptureError(f"{_those_in(error.tensors, named)} {error}, {EAGER}") from error
        except Exception as error:
            raise _explained(error) from error

    def __call__(self, others: Sequence[Tensor]) -> Tensor:
        return self.program(*self.fixed, *others)[0]


def _is_early(t: Tensor) -> bool:
    """Whether it is a view from before its base required a gradient, and passes none on as yet."""
    return t._base is not None and t._base.requires_grad and t.requires_grad and t.grad_fn is None


def _unnoticed(params: Sequence[Tensor]) -> Any:
    """Autograd does not hear of writes to these: those of compiled code it never does."""
    return torch.autograd._unsafe_preserve_version_counter(tuple(params))


def _try_out(pieces: list[_Piece], tensors: list[Tensor]) -> None:
    """Run them once, with all that they write to put back: some compiled code fails only as it is called."""
    every = [t for piece in pieces for t in (*piece.fixed, *piece.program.held, *piece.others)]
    kept = [(t, t.clone()) for t in (*every, *tensors) if is_writable(t)]
    try:
        pieces[0](tensors)
        for piece in pieces[1:]:
            piece(piece.others)
    except Exception as error:
        raise _explained(error) from error
    finally:
        with torch.no_grad():
            for t, value in kept:
                if not same(t, value):  # a write would spoil a backward pass that is to come
                    t.copy_(value)


class _State:
    """What a capture saw of modules and tensors; it holds them, so that no address is given to another."""

    def __init__(self, modules: list[nn.Module], tensors: Sequence[Tensor], early: list[tuple[Tensor, int]]) -> None:
        self.modules, self.modes, self.early = modules, [m.training for m in modules], early
        tables: list[Any] = []
        for m in modules:
            tables += (m._parameters, m._buffers, m._modules, m._forward_hooks, m._forward_pre_hooks)
            tables += (m._backward_hooks, m._backward_pre_hooks)
        self.empty, self.full = [t for t in tables if not t], [t for t in tables if t]
        self.names = [name for table in self.full for name, _ in table.items()]
        self.parts = [part for table in self.full for _, part in table.items()]
        every = {id(p): p for p in (*tensors, *(p for m in modules for p in m.parameters(recurse=False)))}
        self.addresses = [(p, _address(p)) for p in every.values()]

    def is_as_it_was(self) -> bool:
        """Whether modes, parts and hooks of the modules are the very same, and the tensors as and where they were."""
        if any(t._version != version for t, version in self.early):
            return False
        if any(self.empty) or [m.training for m in self.modules] != self.modes:
            return False
        every = chain.from_iterable
        return (
            [*every([table.keys() for table in self.full])] == self.names
            and all(map(is_, every([table.values() for table in self.full]), self.parts))
            and all(_address(p) == address for p, address in self.addresses)
        )


class _Apart:
    """What of memory a step writes to: no argument may lie there, which the graph takes for memory of its own."""

    def __init__(self, pieces: list[_Piece], tensors: list[Tensor], named: dict[str, Tensor]) -> None:
        arguments = set(map(id, tensors))
        written = [t for piece in pieces for t in piece.program.written]
        self.named, self.writes_arguments = named, any(id(t) in arguments for t in written)
        lasting = [t for piece in pieces for t in (*piece.fixed, *piece.program.held)]
        self.memory = lasting if self.writes_arguments else [t for t in written if id(t) not in arguments]
        self.storages = {t.untyped_storage().data_ptr() for t in self.memory if t.layout == torch.strided}

    def require(self, tensors: Sequence[Tensor]) -> None:
        """Raise CaptureError for an argument in memory that a step writes, or for two in one where it writes those."""
        if self.writes_arguments:
            for group in overlapping([*tensors, *self.memory]):
                if group[0] < len(tensors):
                    self._refuse(tensors[group[0]], [[*tensors, *self.memory][i] for i in group[1:]])
        for x in tensors:
            if x.layout == torch.strided and x.untyped_storage().data_ptr() in self.storages:
                others = [t for t in self.memory if overlap(x, [t])]
                if others:
                    self._refuse(x, others)

    def _refuse(self, x: Tensor, others: list[Tensor]) -> None:
        what = _those_in(others, {name: p for name, p in self.named.items() if overlap(p, others)})
        raise CaptureError(
            f"an argument of shape {tuple(x.shape)} shares memory, which a step writes to, with {what}: hand in a clone"
        )


@dataclass
class _Program:
    """A compiled step for arguments of one kind, and what must not have changed for it to be the right one."""

    pieces: list[_Piece]
    reduce: Callable[[Tensor], Any] | None  # sums over processes, in place, what the first piece gives to the second
    named: dict[str, Tensor]
    state: _State
    apart: _Apart
    names: Names
    moved: list[Tensor]  # the parameters that it updates from its first step on
    written: set[int]  # those, by identity, that any program has updated
    stored: dict[str, Tensor] = field(init=False)  # the parameters that Pyro's store has
    replay: Replayed | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        store = pyro.get_param_store()._params
        self.stored = {name: p for name, p in self.named.items() if store.get(name) is p}
        self.interprets = any(piece.program.run is piece.graph for piece in self.pieces)
        self.is_fresh = True

    def record(self, tensors: list[Tensor], pool: Any) -> None:
        """Make it one CUDA graph for tensors like these, on a device that has such; nothing else changes."""
        if self.reduce is None:
            fixed, held = self.pieces[0].fixed, self.pieces[0].program.held
            changed = [*fixed, *(t for t in held if t.device == fixed[0].device and is_writable(t))]
            self.replay = replayed(self._called, tensors, changed, held, pool)

    def __call__(self, leaves: list[Any]) -> Tensor:
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if self.replay is not None and not self.replay.holds():  # a number of the host that a plain call reads anew
            self.replay = None
        run = self._called if self.replay is None else self.replay
        if not self.interprets:
            loss = run(*tensors)
        else:  # which writes to each, moved or not
            with _unnoticed([p for p in self.named.values() if p.requires_grad]):
                loss = run(*tensors)
        if self.is_fresh:  # a first update is what views from before a gradient was required wait for
            increment_version([p for p in self.moved if id(p) not in self.written])
            self.written.update(map(id, self.moved))
            self.is_fresh = False
        return loss

    def _called(self, *tensors: Tensor) -> Tensor:
        if self.reduce is None:
            return self.pieces[0](tensors)
        summed = self.pieces[0](list(tensors))
        self.reduce(summed)
        return self.pieces[1]([summed])

    def may_hold(self) -> bool:
        """Whether the parameters are still where they were; one whose flag differs may come back."""
        return all(_address(p)[:-2] == address[:-2] for p, address in self.state.addresses)

    def holds(self) -> bool:
        store = pyro.get_param_store()._params
        listed = all(store.get(name) is p for name, p in self.stored.items())
        return listed and self.state.is_as_it_was() and self.names.are_bound_alike()


def _flat(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
    """The tensors and values of arguments, and how they are nested; None where they are not."""
    if not kwargs and all(type(x) in FLAT for x in args):
        return list(args), None
    return pytree.tree_flatten((args, kwargs))


def _address(p: Tensor) -> tuple[Any, ...]:
    hooks = tuple(p._backward_hooks or ())
    return p.data_ptr(), p.dtype, p.device, p.shape, p.stride(), p.requires_grad, hooks


def _described(x: Any) -> Hashable:
    """What of an argument the graph depends on: a tensor's kind, or the value of anything else."""
    if isinstance(x, Tensor):
        return tuple(x.shape), x.stride() if x.layout == torch.strided else x.layout, x.dtype, x.device
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and math.isnan(x):
        return float, "nan"
    if isinstance(x, VALUES) or callable(x):  # a function or a module: by its identity
        return type(x), x
    raise TypeError(
        f"an argument of type {type(x).__name__} cannot be told from a changed one: hand in its tensors and numbers, "
        "in tuples, lists and dicts"
    )


# around a capture -----------------------------------------------------------------------------------


class _Site(Messenger):
    """The sample site that was reached last."""

    name = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]

    def course(self) -> CaptureError:
        where = f"at or after site {self.name!r}" if self.name else "before the first site"
        return CaptureError(
            f"{where} the course of model or guide depends on a value (`if`, `.item()`, "
            f"`float()`, NumPy of a tensor): write it with torch.where, {EAGER}"
        )


def _write_back(graph: Any) -> None:
    """End the graph with its new values in place of the old: outputs after the first belong to the first inputs."""
    nodes = list(graph.graph.nodes)
    output = nodes[-1]
    loss, *news = output.args[0]
    inputs = [node for node in nodes if node.op == "placeholder"]
    with graph.graph.inserting_before(output):
        for old, new in zip(inputs, news, strict=False):
            if new is not old:
                graph.graph.call_function(torch.ops.aten.copy_.default, (old, new))
    output.args = ((loss,),)
    graph.recompile()


@contextmanager
def watched(*functions: Any) -> Iterator[list[nn.Module]]:
    """The modules that are called, and those that the functions are or belong to; their buffers are put back."""
    buffers: dict[nn.Module, dict[str, tuple[Tensor | None, Tensor | None]]] = {}
    here = threading.get_ident()

    def note(module: nn.Module, _: Any = None) -> None:
        if threading.get_ident() != here:  # another thread's modules pass the hook too, and keep what they compute
            return
        # a scripted one calls its parts without a hook
        for one in module.modules() if isinstance(module, torch.jit.ScriptModule) else (module,):
            if one not in buffers:
                buffers[one] = {name: (b, _kept(b)) for name, b in one._buffers.items()}

    for function in functions:
        for owner in (function, getattr(function, "__self__", None)):
            for module in owner.modules() if isinstance(owner, nn.Module) else ():
                note(module)
    found: list[nn.Module] = []
    rebound: list[str] = []
    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()
        found += buffers
        with torch.no_grad():
            for module, own in buffers.items():
                now = dict(module._buffers.items())
                for name, (b, value) in own.items():
                    if now.get(name) is not b:
                        module._buffers[name] = b
                        rebound.append(f"{type(module).__name__}.{name}")
                    # whatever its version says, which a batch norm leaves as it was; nor does `data` tell it
                    if b is not None and value is not None:
                        b.data.copy_(value)
    if rebound:
        raise CaptureError(f"buffer {rebound[0]} is assigned anew in each step: change it in place, {EAGER}")


def _kept(b: Tensor | None) -> Tensor | None:
    """A copy of a buffer, where it can change and be put back."""
    return b.detach().clone() if b is not None and is_writable(b) else None


def is_writable(t: Tensor) -> bool:
    """Whether new values can be written to all of a tensor where it lies: to one that was expanded they cannot."""
    if t.is_inference() or t.layout != torch.strided:
        return False
    return not any(n > 1 and not stride for n, stride in zip(t.shape, t.stride(), strict=True))


def _those_in(memory: Sequence[Tensor], named: dict[str, Tensor]) -> str:
    """The parameters that lie in this memory, and what else does, in words."""
    names = [f"parameter {name!r}" for name, p in named.items() if overlap(p, memory)]
    own = [p for p in named.values() if overlap(p, memory)]
    others = [t for t in memory if all((t.data_ptr(), t.shape) != (p.data_ptr(), p.shape) for p in own)]
    names += [f"a tensor of shape {tuple(t.shape)} that model or guide reads" for t in others]
    return " and ".join(names)


def _explained(error: Exception) -> RuntimeError:
    told = summary(error)
    if isinstance(error, OSError) or any(word in told for word in ("Cxx", "Cpp", "compiler", "ImportError")):
        return CompilerError(
            f"the step could not be compiled ({told}). It takes a C++ compiler, g++ or clang++ on the path or in CXX, "
            "and a folder to write to, TORCHINDUCTOR_CACHE_DIR, to be emptied where a file of it is broken"
        )
    return _not_one(error)


def _not_one(error: Exception) -> CaptureError:
    return CaptureError(f"the step cannot be one graph ({summary(error)}): keep shapes free of values, {EAGER}")
