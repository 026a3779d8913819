"""Saved states: a folder with weights (safetensors) and a JSON manifest that says how the pair was built. No pickle."""

from pyrovae.inference.checkpoint.description import Rebuilt
from pyrovae.inference.checkpoint.manifest import (
    MANIFEST,
    RUN,
    WEIGHTS,
    ArchitectureError,
    CheckpointError,
)
from pyrovae.inference.checkpoint.reading import load, read_run
from pyrovae.inference.checkpoint.writing import require_writable, save, write

__all__ = [
    "MANIFEST",
    "RUN",
    "WEIGHTS",
    "ArchitectureError",
    "CheckpointError",
    "Rebuilt",
    "load",
    "read_run",
    "require_writable",
    "save",
    "write",
]
