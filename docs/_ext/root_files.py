"""A page that is nothing but a link to a file of the repository's root becomes that file's text on the site.

On a code host the page is then a link, and here a page, from one source. Links in the text, which are relative to the
root, lead to the pages of the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
ONLY_A_LINK = re.compile(r"\s*\[[^\]]+\]\(\.\./([A-Z]+\.md)\)\s*")
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}


def read(app: Sphinx, page: str, source: list[str]) -> None:
    linked = ONLY_A_LINK.fullmatch(source[0])
    if linked is None:
        return
    file = ROOT / linked[1]
    app.env.note_dependency(str(file))
    source[0] = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", seen_from_docs, file.read_text(encoding="utf-8"))


def seen_from_docs(link: re.Match[str]) -> str:
    path, hash_sign, anchor = link[1].partition("#")
    inside = path.removeprefix("docs/")
    return f"]({PAGES.get(path, inside if inside != path else f'../{path}')}{hash_sign}{anchor})"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
