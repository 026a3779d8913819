"""The earlier import path of the statistics in `pyrovae.evaluation.code_space`."""

from pyrovae.evaluation.code_space.activity import active_units
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.crispness import crispness
from pyrovae.evaluation.code_space.holes import holes
from pyrovae.evaluation.code_space.judge import Judge
from pyrovae.evaluation.code_space.rate import rate_identity
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.sampling import control_images, sampling_laws
from pyrovae.evaluation.code_space.separation import separation
from pyrovae.evaluation.code_space.smoothness import fixed_pairs, smoothness
from pyrovae.evaluation.code_space.whitening import Whitening

__all__ = [
    "Judge",
    "Whitening",
    "active_units",
    "aggregate",
    "control_images",
    "crispness",
    "fixed_pairs",
    "holes",
    "rate_identity",
    "reconstruction_error",
    "sampling_laws",
    "separation",
    "smoothness",
]
