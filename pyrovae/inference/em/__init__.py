"""Expectation maximisation, with restarts: for Gaussian mixtures, latent class models, and for what shares it."""

from pyrovae.inference.em.climb import Climb, covariances_factored, warn_not_converged, warn_of_rounded
from pyrovae.inference.em.drift import Drift, SingularDriftWarning
from pyrovae.inference.em.fitting import climbed
from pyrovae.inference.em.floors import VarianceFloorWarning, warn_of_floor
from pyrovae.inference.em.options import EM

__all__ = [
    "EM",
    "Climb",
    "Drift",
    "SingularDriftWarning",
    "VarianceFloorWarning",
    "climbed",
    "covariances_factored",
    "warn_not_converged",
    "warn_of_floor",
    "warn_of_rounded",
]
