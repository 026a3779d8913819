"""Draws of missing entries given the seen ones: a method a file, each of which draws codes from p(z | x_seen)."""

from pyrovae.models.imputation.drawing import METHODS, draw_missing

__all__ = ["METHODS", "draw_missing"]
