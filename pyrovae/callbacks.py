"""Callbacks of a fit by SVI: what may watch it, and stop it."""

from __future__ import annotations

from pyrovae.inference.callbacks import Callback, CSVLog, ProgressBar, Run, TensorBoard

__all__ = ["CSVLog", "Callback", "ProgressBar", "Run", "TensorBoard"]
