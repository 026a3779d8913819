"""Evaluation of fitted pairs: estimates of log p(x), and statistics of the code space."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# resolved on first use, like the names of the package
_HOMES = {
    "Estimate": "pyrovae.evaluation.estimate",
    "Session": "pyrovae.evaluation.session",
    "log_mean": "pyrovae.evaluation.weights",
}

__all__ = ["Estimate", "Session", "log_mean"]

if TYPE_CHECKING:
    from pyrovae.evaluation.estimate import Estimate
    from pyrovae.evaluation.session import Session
    from pyrovae.evaluation.weights import log_mean


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
