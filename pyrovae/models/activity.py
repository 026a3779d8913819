"""The active dimensions of a code: those whose posterior mean varies over the items."""

from __future__ import annotations

import numpy as np

from pyrovae import frequencies

__all__ = ["ACTIVE_VARIANCE", "active_units"]

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5: a unit is active if Var_x E_q[z | x] exceeds this


def active_units(
    means: np.ndarray, threshold: float = ACTIVE_VARIANCE, weight: np.ndarray | None = None
) -> tuple[int, np.ndarray]:
    """The number of dimensions of `means`, (N, latent_dim), with a variance above `threshold`, and the variances.

    The variances are over two items or more, with N - 1 below them, shape (latent_dim,). `weight`, (N,), says how many
    times each item counts, and N is then their sum.

    >>> import numpy as np
    >>> from pyrovae.models.activity import active_units
    >>> active_units(np.array([[0.0, 1.0], [1.0, 1.0]]))
    (1, array([0.5, 0. ]))
    """
    variance = frequencies.variance(means, weight)
    return int((variance > threshold).sum()), variance
