"""Inductor's C++ kernels of one graph in few files, so that the headers are compiled once and not for each kernel."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["few_files"]

FULL = 300_000  # bytes of kernels, which compile for about as long as the headers do
HEADER = "#include <torch/csrc/inductor/cpp_prefix.h>"
PYTHON = "#define PY_SSIZE_T_CLEAN\n#include <Python.h>\n#include <cerrno>\n#include <cstdlib>\n#include <sstream>\n"


@contextmanager
def few_files() -> Iterator[None]:
    """Let inductor compile the C++ kernels that the body asks for together, in as few files as pay."""
    from torch._inductor.async_compile import AsyncCompile

    kept: dict[str, Any] = {name: vars(AsyncCompile)[name] for name in ("cpp_pybinding", "wait")}
    waiting: dict[int, list[_Kernel]] = {}

    def cpp_pybinding(self: Any, argtypes: Sequence[str], source_code: str) -> Any:
        kernel = _Kernel(argtypes, source_code)
        waiting.setdefault(id(self), []).append(kernel)
        return kernel

    def wait(self: Any, scope: dict[str, Any]) -> None:
        kernels = waiting.pop(id(self), [])
        _compile(kernels)
        for name, value in scope.items():
            if isinstance(value, _Kernel):
                scope[name] = value.function
        kept["wait"](self, scope)

    AsyncCompile.cpp_pybinding, AsyncCompile.wait = cpp_pybinding, wait  # type: ignore[method-assign]
    try:
        yield
    finally:
        AsyncCompile.cpp_pybinding, AsyncCompile.wait = kept["cpp_pybinding"], kept["wait"]  # type: ignore[method-assign]


class _Kernel:
    """A kernel that is still to be compiled: the C types of its arguments, and its source."""

    def __init__(self, argtypes: Sequence[str], source: str) -> None:
        self.argtypes, self.source = list(argtypes), source
        self.function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self.function is None:  # of another thread's graph, which came to wait after the body had ended
            _compile([self])
        assert self.function is not None
        return self.function(*arguments)


def _compile(kernels: list[_Kernel]) -> None:
    """Compile kernels, or load them from inductor's cache, and set their functions."""
    from torch._inductor.async_compile import AsyncCompile, get_compile_threads

    size = sum(len(kernel.source) for kernel in kernels)
    count = min(get_compile_threads(), 1 + size // FULL)
    files: list[list[_Kernel]] = [[] for _ in range(max(1, count))]
    for kernel in sorted(kernels, key=lambda kernel: -len(kernel.source)):
        min(files, key=lambda file: sum(len(other.source) for other in file)).append(kernel)
    submit = AsyncCompile.submit if count > 1 else None
    loads = [_cache().load_async(_source(file), "cpu", submit_fn=submit) for file in files if file]
    for file, load in zip((file for file in files if file), loads, strict=True):
        first = load()
        for number, kernel in enumerate(file):
            kernel.function = getattr(_module(first, number), f"kernel_{number}")


@functools.cache
def _cache() -> Any:
    """Inductor's cache of modules, for modules whose first kernel is `kernel_0`."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    class Cache(CppPythonBindingsCodeCache):
        cache: dict[str, Any] = {}  # noqa: RUF012
        entry_function = "kernel_0"

    return Cache


def _source(kernels: list[_Kernel]) -> str:
    """The source of several kernels, each with its binding in a namespace of its own."""
    template = _cache().suffix_template
    parts = [HEADER, PYTHON]
    for number, kernel in enumerate(kernels):
        name = f"kernel_{number}"
        body, found = re.subn(r'(extern "C"\s+void\s+)kernel\(', rf"\1{name}(", kernel.source.replace(HEADER, ""))
        if found != 1:
            raise RuntimeError(f"a kernel has {found} entries, which is no source of this version of inductor")
        types = [argtype.replace("const ", "") for argtype in kernel.argtypes]
        arguments = ", ".join(f"parse_arg<{argtype}>(args, {i})" for i, argtype in enumerate(types))
        binding = template.format(
            arg_len=len(types),
            call_entry_func=f"{name}({arguments}); Py_RETURN_NONE;",
            entry_func=name,
            extra_parse_arg="",
        )
        parts += [f"namespace of_{name} {{", body, binding, "}"]
    return "\n".join(parts)


def _module(first: ModuleType, number: int) -> ModuleType:
    """The Python module of one of a file's kernels."""
    if not number:
        return first
    name = f"{first.__name__.rpartition('.')[0]}.kernel_{number}"
    spec = importlib.util.spec_from_file_location(name, str(first.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
