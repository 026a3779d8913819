"""The errors of a capture and of a compilation, with what to do about them."""

from __future__ import annotations

__all__ = [
    "EAGER",
    "CaptureError",
    "CompilerError",
    "compiler_error",
    "no_graph",
    "other_draws",
    "seed_set",
    "summary",
]

EAGER = "or take pyro.infer.SVI, which runs it eagerly"


class CaptureError(RuntimeError):
    """A model and guide that cannot be one graph: the message names the site and what to do."""


class CompilerError(RuntimeError):
    """The graph could not be compiled: no C++ compiler that works, or no folder to write to."""


def other_draws() -> CaptureError:
    """The error of draws that are not torch's, which a graph cannot repeat."""
    return CaptureError(
        "model or guide, or another thread meanwhile, draws from Python's or NumPy's generator: draw by torch, " + EAGER
    )


def seed_set() -> CaptureError:
    """The error of a model that sets torch's generator, which a graph does not."""
    return CaptureError(
        "model or guide sets torch's generator (torch.manual_seed, fork_rng, pyro.poutine.seed), so that its draws are "
        f"not a step's own: draw fixed numbers once, ahead of the steps, {EAGER}"
    )


def no_graph(error: Exception) -> CaptureError:
    """The CaptureError for an error that torch raised during a capture."""
    return CaptureError(f"the step cannot be one graph ({summary(error)}): keep shapes free of values, {EAGER}")


def compiler_error(error: Exception) -> CaptureError | CompilerError:
    """The error of a failed compilation or first call: CompilerError where it looks like one, else CaptureError."""
    line = summary(error)
    if isinstance(error, OSError) or any(word in line for word in ("Cxx", "Cpp", "compiler", "ImportError")):
        return CompilerError(
            f"the step could not be compiled ({line}). It takes a C++ compiler, g++ or clang++ on the path or in CXX, "
            "and a folder to write to, TORCHINDUCTOR_CACHE_DIR, to be emptied where a file of it is broken"
        )
    return no_graph(error)


def summary(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}"
