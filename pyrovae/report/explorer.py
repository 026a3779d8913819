"""The code plane of fitted pairs, which decodes the point under the pointer in the page itself."""

from __future__ import annotations

from collections.abc import Sequence

from pyrovae.data import Dataset
from pyrovae.report.entry import Entry

__all__ = ["SCRIPTS", "explorer"]

SCRIPTS: tuple[str, ...] = ()  # the files of the explorer's script, in their order


def explorer(entries: Sequence[Entry], data: Dataset, *, seed: int = 0) -> str:
    """The fragment of the explorer, for `page`: the test items' codes, their pictures, and each entry's decoder."""
    return ""
