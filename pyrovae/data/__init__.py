"""Data sets as arrays, and batches of them: nothing here knows a model."""

from pyrovae.data.batches import batches
from pyrovae.data.sources import Dataset, MappedArray, Split, binarize, load

__all__ = ["Dataset", "MappedArray", "Split", "batches", "binarize", "load"]
