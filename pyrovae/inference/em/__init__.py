"""Expectation maximisation: for Gaussian mixtures, with restarts, and what other models' EM shares with it."""

from pyrovae.inference.em.climb import Climb, warn_not_converged
from pyrovae.inference.em.fitting import climbed
from pyrovae.inference.em.floors import VarianceFloorWarning, warn_of_floor
from pyrovae.inference.em.options import EM

__all__ = ["EM", "Climb", "VarianceFloorWarning", "climbed", "warn_not_converged", "warn_of_floor"]
