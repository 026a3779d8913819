"""Figures of arrays and of what the package returns. Each function gives Axes, or a Figure of several Axes.

No function trains, samples a model or saves a file. This is the only folder that imports matplotlib, and it never
imports pyplot, so that no backend is chosen and no global state changes. Without `ax` a function makes a new Figure,
which a notebook shows at the end of a cell; `ax.figure.savefig(path)` saves it.

Arrays are NumPy's or torch's, of any dtype and device, with or without gradients; a Split stands for its items, and
where labels are asked for, for its labels. A `History` goes to `learning_curve`; estimates go to `bound_curve`,
`rate_distortion` and `gap_histogram`, a `Gaps` to the last, and a `Calibration` to `coverage_curve` and
`rank_histogram`. What cannot be drawn is refused by name. Images have shape (N, H, W) or (N, C, H, W) with C = 1 or 3
and values in [0, 1]; 0 is black, and values outside are clipped.
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
