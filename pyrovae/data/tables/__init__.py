"""Data frames and files of columns as numbers, with names, kinds and categories, and back."""

from pyrovae.data.tables.encoding import Encoding
from pyrovae.data.tables.making import table
from pyrovae.data.tables.rows import Table

__all__ = ["Encoding", "Table", "table"]
