"""Which code and which classes are a library's, and which a user's."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch

__all__ = ["folders", "is_installed", "is_library", "is_library_code", "is_of_torch"]

FOLLOWING = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (torch, pyro))
FOLLOWING += (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,)
LIBRARIES = (*FOLLOWING, os.path.dirname(str(np.__file__)) + os.sep)
STANDARD = os.path.dirname(str(os.__file__)) + os.sep


@functools.cache
def is_library_code(path: str) -> bool:
    """Whether code belongs to torch, Pyro, NumPy, this package or Python, and is not a user's."""
    if path.startswith(LIBRARIES) or path.startswith("<frozen"):
        return True
    return path.startswith(STANDARD) and not is_installed(path)


def is_of_torch(path: str) -> bool:
    """Whether code belongs to torch, Pyro or this package."""
    return path.startswith(FOLLOWING)


def is_installed(path: str) -> bool:
    """Whether code lies where packages are installed."""
    return "site-packages" in path or "dist-packages" in path


def folders(functions: Sequence[Any]) -> tuple[str, ...]:
    """The folders of the packages of functions, or of the classes of their objects."""
    places: list[str] = []
    for function in functions:
        while isinstance(function, functools.partial):
            function = function.func
        for part in (function, type(getattr(function, "__self__", function))):
            top = sys.modules.get(str(getattr(part, "__module__", "")).partition(".")[0])
            found = [folder + os.sep for folder in getattr(top, "__path__", ())]
            places += found or [str(getattr(top, "__file__", None) or "no file")]
    return tuple(places)


def is_library(value: Any) -> bool:
    """Whether a class or a file is torch's, Pyro's, NumPy's, this package's or Python's own."""
    name = getattr(value, "__module__" if isinstance(value, type) else "__name__", None) or ""
    top = name.partition(".")[0]
    if top in ("torch", "pyro", "numpy", "builtins", "pyrovae"):
        return True
    path = getattr(sys.modules.get(name), "__file__", None)
    return top in sys.builtin_module_names or (path is not None and is_library_code(path))
