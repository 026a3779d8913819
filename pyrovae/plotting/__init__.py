"""Figures from arrays. Each function returns Axes, or a Figure if it draws several Axes.

No function trains, samples a model or saves a file. This is the only folder that imports matplotlib, and it never
imports pyplot, so that no backend is chosen and no global state changes. Arrays are NumPy's or torch's. Without `ax`
a function makes a new Figure; `ax.figure.savefig(path)` saves it. Images have shape (N, H, W) or (N, C, H, W) with
C = 1 or 3 and values in [0, 1]; 0 is black, and values outside are clipped.
"""

from pyrovae.plotting.classification import interval_curves, reliability_curve
from pyrovae.plotting.codes import box_grid, cdf_scatter, latent_scatter, normal_quantile_grid, post_ae_grid
from pyrovae.plotting.curves import interval_plot, learning_curve, per_class, rate_distortion
from pyrovae.plotting.evidence import bound_curve, coverage_curve, gap_histogram, rank_histogram
from pyrovae.plotting.images import decoded_grid, grid_over_scatter, interpolations, reconstructions, sample_sheet

__all__ = [
    "bound_curve",
    "box_grid",
    "cdf_scatter",
    "coverage_curve",
    "decoded_grid",
    "gap_histogram",
    "grid_over_scatter",
    "interpolations",
    "interval_curves",
    "interval_plot",
    "latent_scatter",
    "learning_curve",
    "normal_quantile_grid",
    "per_class",
    "post_ae_grid",
    "rank_histogram",
    "rate_distortion",
    "reconstructions",
    "reliability_curve",
    "sample_sheet",
]
