"""The page's own files: HTML, CSS and JavaScript in `assets/`."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

__all__ = ["asset", "scripts", "source_hash"]

_FOLDER = resources.files("pyrovae.report") / "assets"


def asset(name: str) -> str:
    """The text of a file of the folder.

    >>> from pyrovae.report.assets import asset
    >>> "<main" in asset("page.html")
    True
    """
    return (_FOLDER / name).read_text(encoding="utf-8")


def scripts(*names: str) -> str:
    """Files of JavaScript as one script, whose names are not those of the page's global scope."""
    sources = [f"// {name}\n{asset(name)}" for name in names]
    return "\n".join(["(() => {", '"use strict";', *sources, "})();"])


def source_hash(text: str) -> str:
    """The source of a Content-Security-Policy that lets through an inline script or style of this text, and no other.

    >>> from pyrovae.report.assets import source_hash
    >>> source_hash("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
