"""A real browser for the tests of pages; where there is none they are skipped, and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "PYROVAE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The browser that the environment names, or the first that is on the path."""
    return os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A browser of its own for the body; skips the test where playwright or a browser is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = executable()
    if path is None:
        pytest.skip(f"no browser: {VARIABLE} is not set, and none of {', '.join(NAMES)} is on the path")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # chromium has no sandbox for root
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        try:
            yield opened
        finally:
            opened.close()


class Opened:
    """A page opened from disk, with what it asked for and complained of."""

    def __init__(self, opened: Any, file: Path, **options: Any) -> None:
        self.context = opened.new_context(**{"viewport": {"width": 1400, "height": 1500}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url[:100]))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("#explorer[data-ready]")
        # what each plane decodes: the code in float32 and the values, as the page has them
        self.page.evaluate(
            """() => {
                window.decoded = [];
                document.addEventListener("decoded", ({ target, detail }) => window.decoded.push({
                    name: target.getAttribute("aria-label"),
                    code: Array.from(detail.code),
                    values: Array.from(detail.values),
                }));
            }"""
        )

    @property
    def outside(self) -> list[str]:
        """What the page asked for that is neither itself nor within it."""
        return [url for url in self.asked if not url.startswith(("file:", "data:"))] + [
            url for url in self.asked if url.startswith("file:")
        ][1:]

    def decoded(self, act: Any, name: str) -> dict[str, Any]:
        """What the plane of an entry decodes last after `act`, some pointer's or key's move."""
        self.page.evaluate("() => { window.decoded.length = 0; }")
        act()
        self.page.wait_for_function(f"() => window.decoded.some(each => each.name === {name!r})")
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found = self.page.evaluate(f"() => window.decoded.filter(each => each.name === {name!r}).at(-1)")
        result: dict[str, Any] = found
        return result
