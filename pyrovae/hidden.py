"""Entries that file managers, file systems and tools leave in a folder, and that count for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_hidden", "visible", "visible_files"]

# macOS, Windows, NFS and FUSE (which begin with a dot, as most do), recycle bins, network drives, Python
LEFT_BEHIND = re.compile(
    r"\..*|Thumbs\.db.*|ehthumbs.*\.db|desktop\.ini|Icon\r|__MACOSX|__pycache__|\$RECYCLE\.BIN|"
    r"System Volume Information|lost\+found|@eaDir|@__thumb|#recycle",
    re.IGNORECASE,
)


def is_hidden(name: str) -> bool:
    """Whether an entry of that name is hidden, or is one that a system leaves: `.DS_Store`, `._a.png`, `Thumbs.db`.

    >>> from pyrovae.hidden import is_hidden
    >>> [is_hidden(name) for name in (".DS_Store", "._a.png", "Thumbs.db", "__MACOSX", "a.png", "__init__")]
    [True, True, True, True, False, False]
    """
    return LEFT_BEHIND.fullmatch(name) is not None


def visible(folder: Path) -> list[Path]:
    """The other entries of a folder, by name."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, but hidden ones and those in hidden folders; a link to a folder is one entry."""
    for path in visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from visible_files(path)
        else:
            yield path
