"""The state that a whole process shares, as a computation needs it: put in place for a batch, and taken away again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, cast

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from pyro.poutine import runtime
from torch import nn

from pyrovae.argument_checks import flags, set_flags
from pyrovae.exclusive import entered, exclusive
from pyrovae.seeding import Noise

__all__ = [
    "Store",
    "Workspace",
    "copied",
    "evaluating",
    "evaluation_mode",
    "hidden",
    "isolated_store",
    "kept_modes",
    "registers_param_sites",
]

T = TypeVar("T")

_END = object()
_registers_param_sites: ContextVar[bool] = ContextVar("registers_param_sites", default=True)


class Workspace:
    """The state of a computation of many batches: `with workspace.turn():` around each of them.

    In a turn these modules are in training or evaluation mode; Pyro has a parameter store of the computation's own; its
    checks and those of torch's distributions are on or off as `checks` says, or as they are where None; the global
    generators go on from where the turn before left `noise`; and no other thread is in a turn. After it all of that is
    the caller's again. It is hidden from the handlers that its caller has put on, as `poutine.scale`, which would be in
    a loss; in training, a caller's own kind of Messenger goes on watching. An evaluation takes no gradients.

    Other threads have their turns between two of these, so a turn must be short, and whatever may wait, as a callback,
    a progress bar or a file, stands between. A turn inside of another one, of the same thread, is like any other.
    """

    def __init__(
        self,
        *parts: nn.Module,
        noise: Noise | None = None,
        training: bool = False,
        checks: bool | None = False,
        store: Store | None = None,
    ) -> None:
        self._parts, self._training, self._checks = parts, training, checks
        self._noise = Noise(None) if noise is None else noise
        self._store = Store() if store is None else store
        self._modes = _Modes(parts)
        self._own: list[bool] | None = None  # modes after the last turn

    def turn(self) -> AbstractContextManager[None]:
        """Run the body with all of it in place."""
        return entered(self)

    def each(self, values: Iterable[T]) -> Iterator[T]:
        """The same values, each one computed in a turn."""
        values = iter(values)
        while True:
            with self.turn():
                value = next(values, _END)
            if value is _END:
                return
            yield cast(T, value)

    def found(self) -> _Found:
        """The state of the caller, for `leave`."""
        return _Found(
            self._noise.found(),
            self._store.found(),
            self._modes.now(),
            flags(),
            torch.is_grad_enabled(),
            runtime._PYRO_STACK[:],
            runtime._DIM_ALLOCATOR._stack[:],
        )

    def enter(self) -> None:
        """Put this computation's state in place."""
        self._noise.enter()
        self._store.enter()
        if self._own is None:
            for part in self._parts:
                part.train(self._training)
        elif self._own != self._modes.now():
            self._modes.put(self._own)
        if self._checks is not None:
            set_flags([self._checks] * 4)
        watching = [each for each in runtime._PYRO_STACK if self._training and not _is_pyros(each)]
        runtime._PYRO_STACK[:], runtime._DIM_ALLOCATOR._stack[:] = watching, ()
        if not self._training:
            torch.set_grad_enabled(False)

    def leave(self, before: _Found) -> None:
        """Give everything back."""
        self._own = self._modes.now()
        if self._own != before.modes:
            self._modes.put(before.modes)
        if flags() != before.flags:  # in a body that sets them itself an interrupt may leave them as they were there
            set_flags(before.flags)
        if torch.is_grad_enabled() != before.gradients:
            torch.set_grad_enabled(before.gradients)
        # an interrupt may leave a handler on that no `with` was told of
        runtime._PYRO_STACK[:], runtime._DIM_ALLOCATOR._stack[:] = before.handlers, before.dims
        self._store.leave(before.store)
        self._noise.leave(before.generators)


class _Found(NamedTuple):
    """The state of the caller, as a turn finds it."""

    generators: list[torch.Tensor]
    store: tuple[dict[str, Any], bool]
    modes: list[bool]
    flags: list[bool]
    gradients: bool
    handlers: list[Any]
    dims: list[Any]


class Store:
    """A parameter store beside the global one of Pyro, in which no module of this package registers its parameters."""

    def __init__(self) -> None:
        self._contents = vars(ParamStoreDict())

    def current(self) -> AbstractContextManager[None]:
        """Run the body with this store in place of the global one."""
        return entered(self)

    def found(self) -> tuple[dict[str, Any], bool]:
        """The contents of the global store, and whether modules register, for `leave`."""
        return pyro.get_param_store().__dict__, _registers_param_sites.get()

    def enter(self) -> None:
        """Take the place of the global store."""
        pyro.get_param_store().__dict__ = self._contents
        # who holds the module needs no param sites, which cost a tenth of a small step
        _registers_param_sites.set(False)

    def leave(self, before: tuple[dict[str, Any], bool]) -> None:
        """Put the global store back."""
        shared = pyro.get_param_store()
        if shared.__dict__ is not before[0]:
            self._contents, shared.__dict__ = shared.__dict__, before[0]
        _registers_param_sites.set(before[1])


def copied(part: T) -> T:
    """A deep copy of a module as it is outside of any thread's turn, with its caller's modes and its own `forward`."""
    with exclusive():
        return copy.deepcopy(part)


@contextmanager
def hidden() -> Iterator[None]:
    """Hide the sites of the body from the handlers that it runs inside of."""
    with exclusive():
        inside = runtime.am_i_wrapped()  # here no other thread's turn has any
    if not inside:
        yield
        return
    with exclusive(), poutine.block():
        yield


def registers_param_sites() -> bool:
    """Whether modules register their parameters in Pyro's store at present."""
    return _registers_param_sites.get()


@contextmanager
def isolated_store() -> Iterator[None]:
    """Run the body with a parameter store of its own, in which modules register nothing; the caller's is untouched."""
    with Store().current():
        yield


def kept_modes(*parts: nn.Module) -> AbstractContextManager[None]:
    """Put each module back to its training or evaluation mode after the body."""
    return entered(_Evaluation(parts, evaluates=False))


def evaluation_mode(*parts: nn.Module) -> AbstractContextManager[None]:
    """Run the body with the modules in evaluation mode; gradients are taken or not, as before."""
    return entered(_Evaluation(parts))


def evaluating(*parts: nn.Module) -> AbstractContextManager[None]:
    """Run the body with the modules in evaluation mode and without gradients."""
    return entered(_Evaluation(parts, gradients=False))


class _Modes:
    """The training modes of some modules, read and written without `nn.Module.__setattr__`, which takes longer."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        modules = [module for part in parts for module in part.modules()]
        self.plain = [vars(module) for module in modules if "training" in vars(module)]
        self.others = [module for module in modules if "training" not in vars(module)]  # scripted ones

    def now(self) -> list[bool]:
        return [each["training"] for each in self.plain] + [module.training for module in self.others]

    def put(self, modes: Sequence[bool]) -> None:
        for each, mode in zip(self.plain, modes, strict=False):
            each["training"] = mode
        for module, mode in zip(self.others, modes[len(self.plain) :], strict=True):
            module.training = mode


class _Evaluation:
    """Modules in evaluation mode, and gradients that are taken or not, for `entered`."""

    def __init__(self, parts: Sequence[nn.Module], *, evaluates: bool = True, gradients: bool = True) -> None:
        self._parts, self._evaluates, self._gradients = parts, evaluates, gradients
        self._modes = _Modes(parts)

    def found(self) -> tuple[list[bool], bool]:
        return self._modes.now(), torch.is_grad_enabled()

    def enter(self) -> None:
        if self._evaluates:
            for part in self._parts:
                part.eval()
        if not self._gradients:
            torch.set_grad_enabled(False)

    def leave(self, before: tuple[list[bool], bool]) -> None:
        self._modes.put(before[0])
        if not self._gradients:
            torch.set_grad_enabled(before[1])


def _is_pyros(handler: Any) -> bool:
    return str(type(handler).__module__).partition(".")[0] == "pyro"
