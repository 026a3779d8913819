"""Data sets as arrays, and batches of them, independent of any model."""

from pyrovae.data.batches import batches
from pyrovae.data.binarization import binarize
from pyrovae.data.categories import one_hot
from pyrovae.data.dataset import Dataset, Split
from pyrovae.data.mapped import MappedArray
from pyrovae.data.sources import load
from pyrovae.data.subsets import labelled_subset
from pyrovae.data.tables import Encoding, Table, table

__all__ = [
    "Dataset",
    "Encoding",
    "MappedArray",
    "Split",
    "Table",
    "batches",
    "binarize",
    "labelled_subset",
    "load",
    "one_hot",
    "table",
]
