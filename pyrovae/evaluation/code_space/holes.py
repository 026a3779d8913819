"""The share of decoded codes that lie far from everything the model reconstructs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_features, binomial_se, require_at_most
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["holes"]


def holes(
    samples: Any,
    train: Any,
    test: Any,
    *,
    control: Any = None,
    num_neighbors: int = 5,
    quantile: float = 0.99,
) -> xr.Dataset:
    """The share of decoded codes that lie far from everything the model reconstructs.

    All arguments are features of images decoded by one model, shape (n, *feature): the judge's last
    hidden layer (`Judge.features`), or pixels. The distance of a sample is that to its
    `num_neighbors`-th nearest training reconstruction, in `train`. The sample is a hole if its
    distance exceeds `radius`, the `quantile` of the distances of the test reconstructions, in `test`.

    `hole_fraction` is the share of samples that are holes, `base_rate` the share of `test` beyond the
    radius, and `coverage` the share of `test` within the radius of some sample. `control_fraction` is
    the share of `control` (see `control_images`) beyond the radius, which must be larger than the
    base rate for the measure to be valid. Standard errors are binomial, with the radius taken as
    known. `distance` and `radius` are Euclidean; divided by the root of the number of pixels, they
    are an RMSE. `samples` may be a mapping from the names of distributions to features; the results
    then have a dimension "law". Raises ValueError for other shapes and for fewer training items than
    neighbours.

    >>> import torch
    >>> from pyrovae.evaluation.code_space.holes import holes
    >>> grid = torch.arange(100.0)[:, None]
    >>> float(holes(grid + 1000, grid, grid).hole_fraction), float(holes(grid, grid, grid).coverage)
    (1.0, 1.0)
    """
    reference = as_features(train, "train")
    quantile = checks.probability("quantile", quantile)
    require_at_most("num_neighbors", num_neighbors, len(reference), "train")
    queries = as_features(test, "test", reference.shape[1])
    several = isinstance(samples, Mapping)
    by_law = samples if several else {"samples": samples}
    if not by_law:
        raise ValueError("samples must hold the features of at least one law, got an empty mapping")
    drawn = {}
    for name, features in by_law.items():
        drawn[name] = as_features(features, f"samples[{name!r}]", reference.shape[1])

    test_distance = _kth_distance(queries, reference, num_neighbors)
    radius = float(np.quantile(test_distance, quantile))
    distance = {name: _kth_distance(features, reference, num_neighbors) for name, features in drawn.items()}
    covered = {name: _kth_distance(queries, features, 1) <= radius for name, features in drawn.items()}
    fraction = [float((far > radius).mean()) for far in distance.values()]
    coverage = [float(near.mean()) for near in covered.values()]
    nearest = f"number {num_neighbors} of the nearest training reconstructions"
    base_rate = float((test_distance > radius).mean())
    longest = max(map(len, distance.values()))
    padded = [np.pad(far, (0, longest - len(far)), constant_values=np.nan) for far in distance.values()]
    fraction_se = [binomial_se(p, len(far)) for p, far in zip(fraction, distance.values(), strict=True)]
    coverage_se = [binomial_se(p, len(queries)) for p in coverage]
    law: tuple[str, ...] = ("law",) if several else ()

    def shaped(values: Sequence[Any]) -> Any:
        return values if several else values[0]

    variables: dict[str, Variable] = {
        "hole_fraction": (shaped(fraction), "share of samples that are holes", "1", *law),
        "hole_fraction_se": (shaped(fraction_se), "binomial standard error of the hole fraction", "1", *law),
        "coverage": (shaped(coverage), "share of test reconstructions near some sample", "1", *law),
        "coverage_se": (shaped(coverage_se), "binomial standard error of the coverage", "1", *law),
        "base_rate": (base_rate, "share of test reconstructions beyond the radius", "1"),
        "radius": (radius, f"{quantile:g} quantile of the test reconstructions' distance", "feature units"),
        "distance": (shaped(padded), f"distance to {nearest}", "feature units", *law, "sample"),
    }
    if control is not None:
        far = _kth_distance(as_features(control, "control", reference.shape[1]), reference, num_neighbors) > radius
        share = float(far.mean())
        variables["control_fraction"] = (share, "share of the control images that are holes", "1")
        variables["control_fraction_se"] = (binomial_se(share, len(far)), "binomial standard error of that share", "1")
    return labelled(variables, {"law": list(by_law)} if several else {})


def _kth_distance(queries: Tensor, reference: Tensor, k: int) -> np.ndarray:
    """The distance of each query to its k-th nearest row of `reference`.

    A matrix product in float32 selects candidates, whose distances are then computed from differences
    in float64. If rounding in the product may have excluded a nearer row, as for distances that are
    small relative to the norms, the product is repeated in float64.
    """
    distances, sure = _kth_of_candidates(queries, reference, k)
    if not bool(sure.all()):
        distances[~sure], _ = _kth_of_candidates(queries[~sure].double(), reference.double(), k)
    return distances.numpy()


def _kth_of_candidates(queries: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th smallest distance among the candidates, and whether rounding cannot have excluded a nearer row."""
    centre = reference.mean(0)
    rows = reference - centre
    squares = rows.square().sum(1)
    rounding = 32 * torch.finfo(rows.dtype).eps
    candidates = min(len(rows), k + 16)
    distances, sure = [], []
    for chunk in torch.split(queries, max(1, 2**25 // len(rows))):
        centred = chunk - centre
        size = centred.square().sum(1)
        rough, near = torch.addmm(squares, centred, rows.T, alpha=-2).topk(candidates, largest=False, sorted=False)
        exact = torch.cat(
            [
                (reference[index].double() - some[:, None].double()).square().sum(-1).kthvalue(k, dim=1).values
                for some, index in zip(torch.split(chunk, 256), torch.split(near, 256), strict=True)
            ]
        )
        distances.append(exact.sqrt())
        sure.append((exact <= rough.amax(1) + size - rounding * (size + squares.max())) | (candidates == len(rows)))
    return torch.cat(distances), torch.cat(sure)
