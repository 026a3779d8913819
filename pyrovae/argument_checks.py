"""Whether Pyro and torch's distributions check the arguments and values that they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import distributions, infer, poutine

from pyrovae.exclusive import exclusive

__all__ = ["argument_checks", "flags", "set_flags"]


@contextmanager
def argument_checks(on: bool) -> Iterator[None]:
    """Turn the checks of Pyro and of torch's distributions on or off for the body."""
    with exclusive():
        before = flags()
        try:
            set_flags([on] * len(before))
            yield
        finally:
            set_flags(before)


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
