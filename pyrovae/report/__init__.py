"""One self-contained HTML page on fitted pairs, with a code plane that decodes the point under the pointer."""

from pyrovae.report.entry import Entry
from pyrovae.report.explorer import explorer
from pyrovae.report.page import page
from pyrovae.report.section import Section

__all__ = ["Entry", "Section", "explorer", "page"]
