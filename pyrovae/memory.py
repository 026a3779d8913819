"""How much memory this process may still take: of the machine, of its container and of its own limit."""

from __future__ import annotations

import os
from pathlib import Path

import torch

__all__ = ["available", "in_words"]

ADDRESSES = 2**47  # bytes that a 64-bit process can address on today's processors: where nothing else is known
PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
# the files of a container's limit, of what it uses, and the line that says how much of that is cache of files
FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available(device: torch.device | None = None) -> int:
    """Bytes that may still be allocated: on a CUDA device, or in main memory without pushing out what others use.

    >>> from pyrovae.memory import available
    >>> available() > 0
    True
    """
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, min(_of_machine(), _of_container(), _of_process()))


def in_words(count: float) -> str:
    """A number of bytes in the largest unit that leaves at least 1.

    >>> from pyrovae.memory import in_words
    >>> in_words(1.6e12)
    '1.6 TB'
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"


def _of_machine() -> int:
    try:
        lines = (PROC / "meminfo").read_text(encoding="utf-8").splitlines()
        known = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith("kB")}
        return known["MemAvailable"] + known.get("SwapFree", 0)
    except (OSError, KeyError, ValueError):
        pass  # another system than Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ADDRESSES


def _of_container() -> int:
    """What the limits of this process's control groups leave, of both versions."""
    left = [ADDRESSES]
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ADDRESSES
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in FILES:
            continue
        root = GROUPS / controllers
        inside = root / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(root):
                left.append(_left_in(folder, *FILES[controllers]))
    return min(left)


def _left_in(group: Path, limit: str, usage: str, cache: str) -> int:
    try:
        most = int((group / limit).read_text(encoding="utf-8"))
        used = int((group / usage).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max", or no such group in this container's view
        return ADDRESSES
    try:
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return most - used + sum(int(line.split()[1]) for line in lines if line.startswith(f"{cache} "))


def _of_process() -> int:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return ADDRESSES
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return ADDRESSES
    try:
        pages = int((PROC / "self" / "statm").read_text(encoding="utf-8").split()[0])
        used = pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        used = 0
    return most - used
