"""Progress bars: in a terminal as tqdm draws them, under the cell in a notebook, and none where nobody watches."""

from __future__ import annotations

import html
import io
import sys
from typing import Any

from tqdm import tqdm

__all__ = ["in_a_kernel", "progress_bar"]

WIDTH = 100  # characters of a bar in words, as a notebook that is read as text shows it
SECONDS = 0.2  # between two pictures of a bar in a notebook


def progress_bar(iterable: Any = None, *, show: bool = True, **options: Any) -> tqdm[Any]:
    """A tqdm bar of the `options` given: drawn in a terminal or under a notebook's cell, and silent in a log file.

    A bar in a notebook is part of the cell's output, as HTML and as text. It needs no ipywidgets, and its end state
    stays with the notebook wherever that is read. Without `show` nothing is drawn anywhere.

    >>> from pyrovae.progress import progress_bar
    >>> sum(progress_bar(range(4), show=False))
    6
    """
    if not show:
        return tqdm(iterable, disable=True, **options)
    if in_a_kernel():
        return _CellBar(iterable, **options)
    return tqdm(iterable, disable=None, **options)  # None: drawn where the output is a terminal


def in_a_kernel() -> bool:
    """Whether this process is a Jupyter kernel. IPython is asked only where it is already imported."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class _CellBar(tqdm):
    """A bar that is one output of a notebook's cell, which each refresh replaces."""

    monitor_interval = 0  # no thread of tqdm's: what another thread displays may land under another cell

    def __init__(self, iterable: Any = None, **options: Any) -> None:
        self._handle: Any = None
        self._shown = ""
        # what tqdm writes itself, such as the line break at the end, is no part of the cell
        super().__init__(
            iterable, file=io.StringIO(), disable=False, ncols=WIDTH, mininterval=SECONDS, ascii=False, **options
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Put the bar's present state in place of the one before."""
        from IPython.display import display

        text = str(self) if msg is None else msg
        if not text or text == self._shown:
            return True
        self._shown = text
        data = {"text/plain": text, "text/html": self._html()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        return True

    def _html(self) -> str:
        state = self.format_dict
        done, total = state["n"], state["total"]
        of, left = f" of {total}" if total else "", " and {remaining} left" if total and done < total else ""
        title = "{desc}: " if self.desc else ""
        wanted = f"{title}{{n_fmt}}{of} {{unit}} [{{elapsed}}{left}, {{rate_fmt}}{{postfix}}]"
        words = self.format_meter(**{**state, "ncols": None, "bar_format": wanted})
        share = f'<progress value="{min(done, total)}" max="{total}"></progress> ' if total else ""
        return f"<div>{share}<code>{html.escape(words)}</code></div>"
