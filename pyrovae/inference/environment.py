"""The environment that decides how a run's sums are rounded: libraries, threads and processor."""

from __future__ import annotations

from typing import Any

import pyro
import torch

__all__ = ["differences", "environment"]


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, the threads that a sum is divided among, and the processor's instructions."""
    accelerated = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "pyro": str(pyro.__version__),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name(device) if accelerated else None,
        "matmul_precision": _matmul_precision(),
    }


def _matmul_precision() -> str:
    """How products in float32 are rounded, in the words of torch's older setting where that one says it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer settings, each library's own, say what the older one does not
        libraries = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
        return ", ".join(f"{name} {each.matmul.fp32_precision}" for name, each in libraries.items())


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The entries that both environments have and that differ, in words."""
    return [f"{k} {before[k]} before, {now[k]} now" for k in now if k in before and before[k] != now[k]]
