"""One self-contained HTML page on fitted pairs, with a code plane that decodes the point under the pointer."""

from pyrovae.report.chosen import items
from pyrovae.report.entry import Entry
from pyrovae.report.explorer import explorer
from pyrovae.report.page import page
from pyrovae.report.section import Section
from pyrovae.report.sections import add_section
from pyrovae.report.writing import write

__all__ = ["Entry", "Section", "add_section", "explorer", "items", "page", "write"]
