"""Whether Pyro and torch's distributions check the arguments and values that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from pyro import distributions, infer, poutine

from pyrovae.exclusive import entered

__all__ = ["are_checked", "argument_checks", "flags", "set_flags"]


def argument_checks(on: bool) -> AbstractContextManager[None]:
    """Turn the checks of Pyro and of torch's distributions on or off for the body."""
    return entered(_Checks(on))


def are_checked() -> bool:
    """Whether arguments are to be checked, by Pyro's flag: `torch.compile` turns that of torch's distributions off."""
    return distributions.is_validation_enabled() and not torch.compiler.is_compiling()


def flags() -> list[bool]:
    """Pyro's three flags of its checks, and that of torch's distributions."""
    of_torch: Any = torch.distributions.Distribution._validate_args
    return [
        distributions.is_validation_enabled(),
        infer.is_validation_enabled(),
        poutine.is_validation_enabled(),
        of_torch,
    ]


def set_flags(values: Sequence[bool]) -> None:
    """Set the four flags to what `flags` gave."""
    distributions.enable_validation(values[0])  # and torch's to the same
    infer.enable_validation(values[1])
    poutine.enable_validation(values[2])
    torch.distributions.Distribution.set_default_validate_args(values[3])


class _Checks:
    """All four flags on or off, for `entered`."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def found(self) -> list[bool]:
        return flags()

    def enter(self) -> None:
        set_flags([self._on] * 4)

    def leave(self, before: list[bool]) -> None:
        set_flags(before)
