"""Whether nearby codes have similar decodings: walks between codes, and small displacements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes, as_floats, as_numpy, generator, mean_or_nan, median_or_nan
from pyrovae.evaluation.code_space.whitening import Whitening
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fixed_pairs", "smoothness"]


def fixed_pairs(n_items: int, num_pairs: int = 500, seed: int = 0) -> np.ndarray:
    """Indices of `num_pairs` pairs of items, shape (num_pairs, 2), uniform over ordered pairs of different items.

    Raises ValueError for fewer than two items.

    >>> from pyrovae.evaluation.code_space.smoothness import fixed_pairs
    >>> fixed_pairs(2, 3).sum(1)
    array([1, 1, 1])
    """
    checks.whole("n_items", n_items, least=2)
    checks.whole("num_pairs", num_pairs, bytes_each=40)
    rng = generator(seed, 1)
    first = rng.integers(n_items, size=num_pairs)
    return np.stack([first, (first + 1 + rng.integers(n_items - 1, size=num_pairs)) % n_items], 1)


def smoothness(
    decode: Callable[[Tensor], Any],
    start_codes: Any,
    end_codes: Any,
    *,
    judge: Any = None,
    num_steps: int = 64,
    displacement: float = 0.05,
    whitening: Whitening,
    seed: int = 0,
) -> xr.Dataset:
    """Whether nearby codes have similar decodings: walks between pairs of codes, and small displacements of codes.

    A walk goes along the straight line from a start code to its end code, in `num_steps` equal steps;
    s_k is the RMSE between decoded means k - 1 and k. The statistics per pair are `path_length` =
    sum_k s_k; `end_distance`, the RMSE between the decodings of the two ends; `largest_step_share` =
    max_k s_k / sum_k s_k, which is 1 / num_steps for a steady change and 1 for a single jump; and
    `path_ratio` = path_length / end_distance. With a `judge`, which is a function from decoded means
    to labels or an object with such a method `predict`, `label_switches` counts the changes of the
    label. Pairs with an end_distance under 1e-3 are dropped (NaN) and counted.

    `displacement_ratio` is a ratio of quantiles over all pairs, 95 % over the median, of the RMSE
    between the decodings of a start code and of the same code moved by `displacement` whitened units
    in a uniformly random direction.

    `decode` maps codes, shape (n, latent_dim), in the dtype and on the device of `start_codes`, to
    decoded means, shape (n, *event); it is called without gradients. Raises ValueError for other
    shapes and for decoded means that are not finite.

    >>> import numpy as np
    >>> import torch
    >>> from pyrovae.evaluation.code_space.smoothness import smoothness
    >>> from pyrovae.evaluation.code_space.whitening import Whitening
    >>> start, end = torch.zeros(3, 2), torch.ones(3, 2)
    >>> unit = Whitening(np.zeros(2), np.eye(2))
    >>> float(smoothness(lambda z: z, start, end, whitening=unit).largest_step_share_median * 64)
    1.0
    """
    start = torch.from_numpy(as_codes(start_codes, "start_codes", len(whitening.loc)))
    end = torch.from_numpy(as_codes(end_codes, "end_codes", len(whitening.loc)))
    if len(start) != len(end):
        raise ValueError(f"start_codes and end_codes must be pairs, got {len(start)} and {len(end)}")
    checks.whole("num_steps", num_steps, bytes_each=8 * (1 + start.shape[1]))
    checks.positive("displacement", displacement)
    like = as_floats(start_codes, "start_codes")

    def decoded(codes: Tensor) -> Tensor:
        return _decoded(decode, codes.to(like.device, like.dtype))

    fraction = (torch.arange(num_steps + 1, dtype=torch.float64) / num_steps)[:, None]
    lengths, largest, distances, switches = [], [], [], []
    for a, b in zip(torch.split(start, 16), torch.split(end, 16), strict=True):
        images = decoded((a[:, None] + fraction * (b - a)[:, None]).flatten(0, 1))
        walk = images.unflatten(0, (len(a), num_steps + 1)).flatten(2).double()
        steps = (walk[:, 1:] - walk[:, :-1]).square().mean(-1).sqrt()
        lengths.append(steps.sum(1))
        largest.append(steps.amax(1))
        distances.append((walk[:, -1] - walk[:, 0]).square().mean(-1).sqrt())
        if judge is not None:
            labels = as_numpy(getattr(judge, "predict", judge)(images)).reshape(len(a), num_steps + 1)
            switches.append((labels[:, 1:] != labels[:, :-1]).sum(1))
    direction = generator(seed, 2).standard_normal(tuple(start.shape))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    beside = start + displacement * torch.from_numpy(direction @ whitening.scale_tril.T)
    moved = torch.cat(
        [
            (decoded(a) - decoded(b)).flatten(1).double().square().mean(-1).sqrt()
            for a, b in zip(torch.split(start, 1024), torch.split(beside, 1024), strict=True)
        ]
    ).numpy()

    length, top, distance = (torch.cat(part).numpy() for part in (lengths, largest, distances))
    kept = distance >= 1e-3
    by = f"RMSE moved by {displacement:g} whitened units"
    with np.errstate(divide="ignore", invalid="ignore"):
        share, ratio = np.where(kept, top / length, np.nan), np.where(kept, length / distance, np.nan)
        displaced = np.quantile(moved, 0.95) / np.median(moved)
    variables: dict[str, Variable] = {
        "largest_step_share_median": (median_or_nan(share[kept]), "median of the largest step over path length", "1"),
        "largest_step_share_mean": (mean_or_nan(share[kept]), "mean of the largest step over path length", "1"),
        "largest_step_share": (share, "largest single step over path length", "1", "pair"),
        "path_ratio_median": (median_or_nan(ratio[kept]), "median of path length over end-to-end distance", "1"),
        "path_ratio_mean": (mean_or_nan(ratio[kept]), "mean of path length over end-to-end distance", "1"),
        "path_ratio": (ratio, "path length over end-to-end distance", "1", "pair"),
        "path_length": (length, "sum of the steps' RMSE", "pixel units", "pair"),
        "end_distance": (distance, "RMSE between the two ends", "pixel units", "pair"),
        "displacement_ratio": (displaced, f"95 % quantile over median of the {by}", "1"),
        "displacement_median": (np.median(moved), f"median {by}", "pixel units"),
        "num_dropped": (int((~kept).sum()), "pairs dropped: end-to-end distance under 1e-3", "pairs"),
    }
    if judge is not None:
        switched = np.where(kept, np.concatenate(switches), np.nan)
        variables["label_switches"] = (switched, "changes of the judge's label along the line", "switches", "pair")
        variables["label_switches_mean"] = (
            mean_or_nan(switched[kept]),
            "mean changes of the judge's label",
            "switches",
        )
    return labelled(variables)


def _decoded(decode: Callable[[Tensor], Any], codes: Tensor) -> Tensor:
    """The decoded means of `codes` on the CPU, checked to be finite and of the right number."""
    with torch.no_grad():
        images = decode(codes)
    images = images.detach().cpu() if isinstance(images, Tensor) else torch.as_tensor(images)
    if images.ndim < 2 or len(images) != len(codes):
        raise ValueError(f"decode must return shape (n, *event) for n = {len(codes)} codes, got {tuple(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("decode must return finite decoded means, got NaN or infinite values")
    return images
