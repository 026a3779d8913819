"""Figures from arrays: Axes out, or a Figure where several are drawn. The only folder that imports matplotlib.

Nothing here trains, samples a model or saves a file, and pyplot is never imported: no backend is chosen, no global
state touched. Arrays are numpy's or torch's. Without `ax` a new Figure is made; `ax.figure.savefig(path)` writes it.
Images are (N, H, W) or (N, C, H, W) with C of 1 or 3, in [0, 1]; what lies beyond is clipped, and 0 is black.
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
