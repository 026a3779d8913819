"""A decoder as a list of operations on arrays, which the page's JavaScript runs, and NumPy as its second reader."""

from pyrovae.report.network.program import Program, Untranslatable, translated

__all__ = ["Program", "Untranslatable", "translated"]
