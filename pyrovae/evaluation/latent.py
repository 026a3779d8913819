"""The code space in numbers: separation, crispness, smoothness, holes, and the aggregate posterior.

Arrays and callables in, an `xarray.Dataset` out; no model here. Codes are compared up to affine change: whitened by the
model's own training codes.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.warned import hushed

if TYPE_CHECKING:
    import xarray as xr

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


@dataclass(frozen=True, eq=False)
class Whitening:
    """The affine map that gives training codes mean 0 and covariance I: w = L^-1 (code - loc), L L' their covariance.

    L is lower triangular (Cholesky), so w does not change at all when each dimension is shifted and rescaled; under any
    other affine change of the codes it changes by a rotation, which no distance sees.

    >>> import torch
    >>> from pyrovae.evaluation.latent import Whitening
    >>> codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 20.0], [2.0, 20.0]])
    >>> print(Whitening.fit(codes)(codes).round(3)[0])
    [-0.866 -0.866]
    """

    loc: np.ndarray
    scale_tril: np.ndarray

    @classmethod
    def fit(cls, codes: Any) -> Whitening:
        """The whitening of `codes`, shape (N, latent_dim), by their mean and their covariance with N - 1 below it.

        A dimension that is constant, or a linear function of those before it, is regularised with a UserWarning that
        names it. Raises ValueError for fewer than two codes.

        >>> from pyrovae.evaluation.latent import Whitening
        >>> Whitening.fit([[0.0], [2.0], [4.0]]).scale_tril
        array([[2.]])
        """
        array = _codes(codes, "codes")
        if len(array) < 2:
            raise ValueError(f"codes must hold at least 2 items to have a covariance, got {len(array)}")
        loc = array.mean(0)
        covariance = np.atleast_2d(np.cov(array, rowvar=False))
        scale = np.sqrt(np.diag(covariance))
        # what rounding alone would leave of a constant column
        constant = scale <= 1e-12 * np.abs(array).max(0)
        floor = 1e-3 * float(np.sqrt(np.mean(scale[~constant] ** 2))) if not constant.all() else 1.0
        correlation = covariance / np.outer(np.where(constant, 1.0, scale), np.where(constant, 1.0, scale))
        correlation[constant, :] = correlation[:, constant] = 0.0
        correlation[constant, constant] = 1.0
        dependent = _dependent(correlation)
        found = {"constant": np.flatnonzero(constant), "linear functions of those before them": dependent}
        for what, dims in found.items():
            if len(dims):
                named = ", ".join(map(str, dims[:5])) + (", ..." if len(dims) > 5 else "")
                warnings.warn(
                    f"the covariance of codes is singular: dimensions {named} are {what}; regularised. "
                    "Leave them out of the codes to be rid of this",
                    stacklevel=2,
                )
        if len(dependent):
            correlation += 1e-6 * np.eye(len(loc))
        return cls(loc, np.where(constant, floor, scale)[:, None] * np.linalg.cholesky(correlation))

    def __call__(self, codes: Any) -> np.ndarray:
        """Whitened `codes`, shape (N, latent_dim), float64.

        >>> from pyrovae.evaluation.latent import Whitening
        >>> Whitening.fit([[0.0], [2.0], [4.0]])([[6.0]])
        array([[2.]])
        """
        array = _codes(codes, "codes", len(self.loc))
        return np.linalg.solve(self.scale_tril, (array - self.loc).T).T


def separation(
    train_codes: Any,
    train_labels: Any,
    test_codes: Any,
    test_labels: Any,
    *,
    num_neighbors: int = 10,
    num_silhouette: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """How well whitened codes tell the labels apart: nearest neighbours' accuracy and the silhouette.

    The training codes, shape (N, latent_dim), whiten everything and are the reference; each test code takes the
    majority label of its `num_neighbors` nearest (a tie goes to the label that sorts first). `knn_accuracy_label` is
    the same within each test label, `knn_accuracy_se` the binomial standard error over the test items. The silhouette
    is the mean of (b - a) / max(a, b) over `num_silhouette` test items, taken from each label in proportion to its
    count (largest remainders), or over all where there are no more. Raises ValueError for other shapes, too few codes
    and a single class. Silhouette: Rousseeuw 1987, section 2.

    >>> import torch
    >>> from pyrovae.evaluation.latent import separation
    >>> codes = torch.arange(40.0)[:, None]
    >>> float(separation(codes, codes[:, 0] > 19, codes, codes[:, 0] > 19, num_neighbors=3).knn_accuracy)
    1.0
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import KNeighborsClassifier

    train = _codes(train_codes, "train_codes")
    test = _codes(test_codes, "test_codes", train.shape[1])
    train_y = checks.labels(train_labels, len(train), name="train_labels", of="train_codes")
    test_y = checks.labels(test_labels, len(test), name="test_labels", of="test_codes")
    checks.several_classes(train_y, name="train_labels")
    classes = checks.several_classes(test_y, name="test_labels")
    _at_most("num_neighbors", num_neighbors, len(train), "train_codes")
    checks.whole("num_silhouette", num_silhouette, least=2)
    whitening = Whitening.fit(train)
    train, test = whitening(train), whitening(test)
    with exclusive():  # scikit-learn limits BLAS to one thread and puts back what it found
        right = KNeighborsClassifier(num_neighbors).fit(train, train_y).predict(test) == test_y
    chosen = _stratified(test_y, num_silhouette, _rng(seed, 0))
    kinds = len(np.unique(test_y[chosen]))
    if not 2 <= kinds < len(chosen):
        raise ValueError(
            f"num_silhouette must leave 2 classes or more, and fewer than items; got {kinds} in {len(chosen)} items"
        )
    accuracy = float(right.mean())
    within = [right[test_y == label].mean() for label in classes]
    silhouette = silhouette_score(test[chosen], test_y[chosen])
    return _dataset(
        {
            "knn_accuracy": (accuracy, f"accuracy of {num_neighbors} nearest neighbours on whitened codes", "1"),
            "knn_accuracy_se": (_binomial(accuracy, len(test)), "binomial standard error of the accuracy", "1"),
            "knn_accuracy_label": (within, "accuracy within each label", "1", "label"),
            "silhouette": (silhouette, "mean silhouette of whitened test codes", "1"),
            "num_silhouette": (len(chosen), "test items in the silhouette", "items"),
        },
        label=classes,
    )


def crispness(images: Any, reference: Any, *, paired: bool | None = None) -> xr.Dataset:
    """How sharp `images` are beside the real ones in `reference`.

    The Laplacian of a channel is x[i-1, j] + x[i+1, j] + x[i, j-1] + x[i, j+1] - 4 x[i, j] where all five pixels exist;
    its variance over positions is averaged over channels, then items; `laplacian_ratio` is that mean over the one of
    `reference`, with its delta-method standard error over items. `high_frequency_share` is the mean power |FFT|^2 at
    spatial frequencies with radius above 0.25 cycles a pixel (half the Nyquist frequency) over the mean of all power
    but that at frequency zero, without a window. Shapes (N, *event) whose last two axes are height and width, of 3
    pixels and more. With `paired`, item i of one belongs to item i of the other (None: where both shapes are equal;
    say False of samples), and `squared_error` (its mean) and `squared_error_items` are given, summed over the event.
    Raises ValueError for other shapes and a reference that is constant.

    >>> import torch
    >>> from pyrovae import crispness
    >>> board = torch.zeros(1, 5, 5)
    >>> board[0, 2, 2] = 1.0
    >>> float(crispness(board / 2, board).laplacian_ratio)
    0.25
    """
    real, fake = _images(reference, "reference"), _images(images, "images")
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"images and reference must have one event shape, got {fake.shape[1:]} and {real.shape[1:]}")
    if min(real.shape[-2:], default=0) < 3 or real.ndim < 3:
        raise ValueError(f"images must have shape (N, ..., height, width) of at least 3 by 3 pixels, got {fake.shape}")
    laplacian = {name: _laplacian_variance(x) for name, x in (("images", fake), ("reference", real))}
    power = {name: _power(x) for name, x in (("images", fake), ("reference", real))}
    below = float(laplacian["reference"].mean())
    if below <= 0:
        raise ValueError("reference must have images that are not constant: the variance of their Laplacian is 0")
    ratio = float(laplacian["images"].mean()) / below
    if paired is None:
        paired = real.shape == fake.shape
    elif paired and real.shape != fake.shape:
        raise ValueError(f"paired images need an image for each of reference, got {len(fake)} for {len(real)}")
    if paired:
        variance = _squared_se(laplacian["images"] - ratio * laplacian["reference"])
    else:
        variance = _squared_se(laplacian["images"]) + ratio**2 * _squared_se(laplacian["reference"])
    shares = [_share(*power[name]) for name in ("images", "reference")]
    means = [laplacian[name].mean() for name in ("images", "reference")]
    variables: dict[str, _Variable] = {
        "laplacian_ratio": (ratio, "variance of the Laplacian over that of the real images", "1"),
        "laplacian_ratio_se": (math.sqrt(variance) / below, "standard error of the ratio over items", "1"),
        "laplacian_variance": (means, "mean variance of the Laplacian", "pixel units^2", "source"),
        "high_frequency_share": (shares, "share of power above half the Nyquist frequency", "1", "source"),
    }
    if paired:
        variables |= _squared_error(fake, real)
    return _dataset(variables, source=["images", "reference"])


def reconstruction_error(x: Any, reconstruction: Any, *, mean: Any = None) -> xr.Dataset:
    """How far reconstructions are from their items.

    `squared_error_items` is |x_i - r_i|^2 summed over the event and `squared_error` its mean; `rmse` is the root of the
    mean over items and pixels; R2 = 1 - sum_i |x_i - r_i|^2 / sum_i |x_i - m|^2 with m the mean image of `x`, or `mean`
    (the training mean, of an event's shape) where that is given. Both arrays of shape (N, *event). Raises ValueError
    for other shapes and where every x_i is m.

    >>> import torch
    >>> from pyrovae import reconstruction_error
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> float(reconstruction_error(x, x + 0.5).r2)
    0.75
    """
    real = _images(x, "x")
    fake = (
        checks.items(reconstruction, real.shape[1:], name="reconstruction", dtype=torch.float64).detach().cpu().numpy()
    )
    if len(real) != len(fake):
        raise ValueError(f"reconstruction must have an item for each of x, got {len(fake)} for {len(real)}")
    centre = real.mean(0)
    if mean is not None:
        given = _floats(mean, "mean")[None]
        centre = checks.items(given, real.shape[1:], name="mean", dtype=torch.float64).detach().cpu().numpy()[0]
    total = float(((real - centre) ** 2).sum())
    if total <= 0:
        raise ValueError("x must have items that differ from the mean image: R2 divides by that distance")
    variables = _squared_error(fake, real)
    mean_square = float(variables["squared_error"][0])
    rmse = math.sqrt(mean_square / real[0].size)
    variables["rmse"] = (rmse, "root mean squared error over items and pixels", "pixel units")
    variables["r2"] = (1 - mean_square * len(real) / total, "share of variance explained", "1")
    return _dataset(variables)


def fixed_pairs(n_items: int, num_pairs: int = 500, seed: int = 0) -> np.ndarray:
    """Indices of `num_pairs` pairs of items, shape (num_pairs, 2), uniform over ordered pairs of different items.

    Raises ValueError for fewer than two items.

    >>> from pyrovae.evaluation.latent import fixed_pairs
    >>> fixed_pairs(2, 3).sum(1)
    array([1, 1, 1])
    """
    checks.whole("n_items", n_items, least=2)
    checks.whole("num_pairs", num_pairs, bytes_each=40)
    rng = _rng(seed, 1)
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
    """Whether near codes decode alike: walks between pairs of codes, and small displacements of the first of each pair.

    Along the straight line from a start code to its end code, in `num_steps` equal steps, s_k is the RMSE between
    decoded means k - 1 and k. Per pair: `path_length` sum_k s_k, `end_distance` the RMSE between the two ends,
    `largest_step_share` max_k s_k / sum_k s_k (1 / num_steps for a steady change, 1 for a single jump), `path_ratio`
    path_length / end_distance and, with a `judge` (a callable from decoded means to labels, or an object whose
    `predict` is one), `label_switches`. Pairs with end_distance under 1e-3 are dropped (NaN) and counted.
    `displacement_ratio` is the 95 % quantile over the median, over all pairs, of the RMSE by which a decoding moves
    when its start code moves by `displacement` whitened units in a direction drawn uniformly.

    `decode` takes codes, shape (n, latent_dim), in the dtype and on the device of `start_codes`, to decoded means,
    shape (n, *event); it is called without gradients. Raises ValueError for other shapes and for decoded means that are
    not finite.

    >>> import numpy as np
    >>> import torch
    >>> from pyrovae.evaluation.latent import Whitening, smoothness
    >>> start, end = torch.zeros(3, 2), torch.ones(3, 2)
    >>> unit = Whitening(np.zeros(2), np.eye(2))
    >>> float(smoothness(lambda z: z, start, end, whitening=unit).largest_step_share_median * 64)
    1.0
    """
    start = torch.from_numpy(_codes(start_codes, "start_codes", len(whitening.loc)))
    end = torch.from_numpy(_codes(end_codes, "end_codes", len(whitening.loc)))
    if len(start) != len(end):
        raise ValueError(f"start_codes and end_codes must be pairs, got {len(start)} and {len(end)}")
    checks.whole("num_steps", num_steps, bytes_each=8 * (1 + start.shape[1]))
    checks.positive("displacement", displacement)
    like = _floats(start_codes, "start_codes")

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
            labels = _numpy(getattr(judge, "predict", judge)(images)).reshape(len(a), num_steps + 1)
            switches.append((labels[:, 1:] != labels[:, :-1]).sum(1))
    direction = _rng(seed, 2).standard_normal(tuple(start.shape))
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
    variables: dict[str, _Variable] = {
        "largest_step_share_median": (_median(share[kept]), "median of the largest step over path length", "1"),
        "largest_step_share_mean": (_mean(share[kept]), "mean of the largest step over path length", "1"),
        "largest_step_share": (share, "largest single step over path length", "1", "pair"),
        "path_ratio_median": (_median(ratio[kept]), "median of path length over end-to-end distance", "1"),
        "path_ratio_mean": (_mean(ratio[kept]), "mean of path length over end-to-end distance", "1"),
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
        variables["label_switches_mean"] = (_mean(switched[kept]), "mean changes of the judge's label", "switches")
    return _dataset(variables)


def sampling_laws(train_codes: Any, *, num: int = 4000, seed: int = 0) -> dict[str, Tensor]:
    """`num` codes from each of three laws, shape (num, latent_dim), in the dtype and on the device of `train_codes`.

    "gaussian": the full-covariance Gaussian with the training codes' mean and covariance; "box": uniform between their
    0.5 and 99.5 % quantiles, dimension by dimension; "prior": N(0, I) whatever the training codes are. Raises
    ValueError for other shapes.

    >>> import torch
    >>> from pyrovae.evaluation.latent import sampling_laws
    >>> laws = sampling_laws(torch.tensor([[0.0], [1.0]]), num=5)
    >>> list(laws), laws["box"].shape
    (['gaussian', 'box', 'prior'], torch.Size([5, 1]))
    """
    array, like = _codes(train_codes, "train_codes"), _floats(train_codes, "train_codes")
    shape = (checks.whole("num", num, bytes_each=32 * array.shape[1]), array.shape[1])
    whitening = Whitening.fit(array)
    low, high = np.quantile(array, [0.005, 0.995], axis=0)
    laws = {
        "gaussian": whitening.loc + _rng(seed, 3).standard_normal(shape) @ whitening.scale_tril.T,
        "box": low + (high - low) * _rng(seed, 4).random(shape),
        "prior": _rng(seed, 5).standard_normal(shape),
    }
    return {name: torch.from_numpy(codes).to(like.device, like.dtype) for name, codes in laws.items()}


def control_images(reconstructions: Any, labels: Any, *, num: int = 4000, seed: int = 0) -> Tensor:
    """`num` pixel averages of two reconstructions of different labels: images that are no digit, shape (num, *event).

    The first of the two is uniform over the items, the second uniform over the items of the other labels. Raises
    ValueError for a single class.

    >>> import torch
    >>> from pyrovae.evaluation.latent import control_images
    >>> control_images(torch.tensor([[0.0], [1.0]]), [3, 4], num=2)
    tensor([[0.5000],
            [0.5000]])
    """
    like = _floats(reconstructions, "reconstructions")
    images = checks.items(like, tuple(like.shape[1:]), name="reconstructions", dtype=like.dtype)
    _, codes, counts = np.unique(
        checks.labels(labels, len(images), name="labels", of="reconstructions"), return_inverse=True, return_counts=True
    )
    checks.several_classes(codes, name="labels")
    rng = _rng(seed, 6)
    order, begin = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    checks.whole("num", num, bytes_each=2 * images[0].numel() * images.element_size())
    first = rng.integers(len(images), size=num)
    own = codes[first]
    place = rng.integers(len(images) - counts[own])
    second = order[place + np.where(place >= begin[own], counts[own], 0)]
    return (images[torch.from_numpy(first)] + images[torch.from_numpy(second)]) / 2


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

    All arguments are features, shape (n, *feature): the judge's last hidden layer (`Judge.features`), or pixels. A
    sample is a hole where its distance to its `num_neighbors`-th nearest training reconstruction, in `train`, exceeds
    `radius`, the `quantile` of that distance over the test reconstructions, in `test`, all by one model. `base_rate` is
    the share of `test` beyond it, `coverage` the share of `test` within the radius of some sample, `control_fraction`
    the share of `control` (see `control_images`) beyond it, which must be larger. Standard errors are binomial, with
    the radius taken as known. `samples` may be a mapping from a law's name to its features: the results then have a dim
    "law". `distance` and `radius` are Euclidean (over the root of the number of pixels, an RMSE). Raises ValueError for
    other shapes and fewer training items than neighbours.

    >>> import torch
    >>> from pyrovae.evaluation.latent import holes
    >>> grid = torch.arange(100.0)[:, None]
    >>> float(holes(grid + 1000, grid, grid).hole_fraction), float(holes(grid, grid, grid).coverage)
    (1.0, 1.0)
    """
    reference, radius_of = _features(train, "train"), checks.positive("quantile", quantile)
    if radius_of >= 1:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile!r}")
    _at_most("num_neighbors", num_neighbors, len(reference), "train")
    queries = _features(test, "test", reference.shape[1])
    laws = samples if isinstance(samples, Mapping) else {"samples": samples}
    if not laws:
        raise ValueError("samples must hold the features of at least one law, got an empty mapping")
    drawn = {name: _features(features, f"samples[{name!r}]", reference.shape[1]) for name, features in laws.items()}

    test_distance = _kth_distance(queries, reference, num_neighbors)
    radius = float(np.quantile(test_distance, radius_of))
    distance = {name: _kth_distance(features, reference, num_neighbors) for name, features in drawn.items()}
    covered = {name: _kth_distance(queries, features, 1) <= radius for name, features in drawn.items()}
    fraction = [float((far > radius).mean()) for far in distance.values()]
    coverage = [float(near.mean()) for near in covered.values()]
    nearest = f"number {num_neighbors} of the nearest training reconstructions"
    base_rate = float((test_distance > radius).mean())
    longest = max(map(len, distance.values()))
    padded = [np.pad(far, (0, longest - len(far)), constant_values=np.nan) for far in distance.values()]
    fraction_se = [_binomial(p, len(far)) for p, far in zip(fraction, distance.values(), strict=True)]
    coverage_se = [_binomial(p, len(queries)) for p in coverage]
    several = isinstance(samples, Mapping)
    law: tuple[str, ...] = ("law",) if several else ()

    def shaped(values: Sequence[Any]) -> Any:
        return values if several else values[0]

    variables: dict[str, _Variable] = {
        "hole_fraction": (shaped(fraction), "share of samples that are holes", "1", *law),
        "hole_fraction_se": (shaped(fraction_se), "binomial standard error of the hole fraction", "1", *law),
        "coverage": (shaped(coverage), "share of test reconstructions near some sample", "1", *law),
        "coverage_se": (shaped(coverage_se), "binomial standard error of the coverage", "1", *law),
        "base_rate": (base_rate, "share of test reconstructions beyond the radius", "1"),
        "radius": (radius, f"{quantile:g} quantile of the test reconstructions' distance", "feature units"),
        "distance": (shaped(padded), f"distance to {nearest}", "feature units", *law, "sample"),
    }
    if control is not None:
        far = _kth_distance(_features(control, "control", reference.shape[1]), reference, num_neighbors) > radius
        share = float(far.mean())
        variables["control_fraction"] = (share, "share of the control images that are holes", "1")
        variables["control_fraction_se"] = (_binomial(share, len(far)), "binomial standard error of that share", "1")
    return _dataset(variables, **({"law": list(laws)} if several else {}))


def aggregate(
    codes: Any,
    *,
    train_codes: Any,
    num_items: int = 5000,
    num_null: int = 200,
    num_projections: int = 128,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """How far the codes, as a whole, are from N(0, I): raw, and whitened by the training codes.

    `codes` are test codes, shape (N, latent_dim), of which `num_items` (or all) are taken without replacement; for a
    VAE both arguments are one draw for each item. Over dim "codes" ("raw", "whitened"):

    - `sliced_w2`: root of the mean over `num_projections` directions u of W2^2 between the projections u'z and N(0, 1),
      each exact: mean x^2 + 1 - 2 sum_i x_(i) [phi(q_{i-1}) - phi(q_i)], q_i = Phi^-1(i/n) (slices: Bonneel et
      al. 2015);
    - `sliced_w2_excess`: root of W2^2 less its mean over the Gaussian samples below (0 where that is negative): what
      is left of the distance when the size of the sample is taken out;
    - `energy_distance`: 2 E|z - g| - E|z - z'| - E|g - g'| with g ~ N(0, I), the first term in closed form and the
      second over pairs of different items, so that its mean is 0 under N(0, I) (Szekely and Rizzo 2005);
    - `ks`: the largest difference between the distribution of Phi(z_d) and the uniform one, by dimension; `ks_max` the
      largest of these.

    `sliced_w2_null` and `ks_max_null` are the central `level` bands of `num_null` Gaussian samples of the same size,
    and the p-values are (1 + number at or above the observed) / (1 + num_null). For whitened codes the null samples are
    whitened by a Gaussian training sample of this size too. Directions come from `seed` alone; whitened codes are
    defined up to a rotation (see `Whitening`), so their `ks` holds for these axes only. Raises ValueError for other
    shapes and for no more training codes than dimensions.

    >>> import numpy as np
    >>> from pyrovae.evaluation.latent import aggregate
    >>> normal = np.random.default_rng(0).standard_normal((900, 2))
    >>> bool((aggregate(normal[:300], train_codes=normal[300:], num_null=50).sliced_w2_p_value > 0.05).all())
    True
    """
    train = _codes(train_codes, "train_codes")
    test = _codes(codes, "codes", train.shape[1])
    checks.whole("num_items", num_items, least=2)
    checks.whole("num_null", num_null, bytes_each=32)
    checks.whole("num_projections", num_projections, bytes_each=8 * (train.shape[1] + min(len(test), num_items)))
    if not 0 < checks.positive("level", level) < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    if len(train) <= train.shape[1] or len(test) < 2:
        raise ValueError(
            "train_codes must have more items than dimensions, and codes at least 2 items; "
            f"got shapes {train.shape} and {test.shape}"
        )
    if len(test) > num_items:
        test = test[np.sort(_rng(seed, 7).permutation(len(test))[:num_items])]
    n, latent_dim = test.shape
    rows = {"raw": test, "whitened": Whitening.fit(train)(test)}
    directions, weights = _directions(latent_dim, num_projections, seed), _quantile_weights(n)
    distances = np.array([_sliced_w2(z, directions, weights) for z in rows.values()])
    ks = np.array([_uniform_ks(z) for z in rows.values()])
    energy = [_energy_distance(z) for z in rows.values()]
    null = _aggregate_null(n, latent_dim, len(train), num_null, num_projections, seed)
    bands = [np.quantile(part, [(1 - level) / 2, (1 + level) / 2], axis=1).T for part in null]
    excess = np.sqrt(np.maximum(distances**2 - (null[0] ** 2).mean(1), 0))
    between = f"central {level:.0%} of Gaussian samples"
    variables: dict[str, _Variable] = {
        "sliced_w2": (distances, "sliced Wasserstein-2 distance to N(0, I)", "code units", "codes"),
        "sliced_w2_null": (bands[0], between, "code units", "codes", "edge"),
        "sliced_w2_excess": (excess, "sliced Wasserstein-2 distance beyond that of a sample", "code units", "codes"),
        "sliced_w2_p_value": (_p_value(distances, null[0]), "share of null samples as far or farther", "1", "codes"),
        "energy_distance": (energy, "energy distance to N(0, I)", "code units", "codes"),
        "ks": (ks, "Kolmogorov-Smirnov distance of the normal CDF of the codes to uniform", "1", "codes", "latent_dim"),
        "ks_max": (ks.max(1), "the largest of the dimensions' Kolmogorov-Smirnov distances", "1", "codes"),
        "ks_max_null": (bands[1], between, "1", "codes", "edge"),
        "ks_max_p_value": (_p_value(ks.max(1), null[1]), "share of null samples as far or farther", "1", "codes"),
        "num_items": (n, "test codes taken", "items"),
    }
    return _dataset(variables, codes=list(rows), edge=["low", "high"])


def rate_identity(loc: Any, scale: Any, draws: Any) -> xr.Dataset:
    """The rate in two parts: mean KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)).

    Here q(z|x_i) is N(loc_i, diag(scale_i^2)) and p is N(0, I).

    `rate` is closed form. With one draw z_i ~ q(z|x_i) for each item and the exact item mixture q(z) = 1/N sum_j
    q(z|x_j), `mutual_information` is mean_i [log q(z_i|x_i) - log q(z_i)], which cannot exceed log N
    (`mutual_information_bound`), and `kl_aggregate` is rate - I. All shapes (N, latent_dim); nats an item. `rate_se` is
    over items; the other two standard errors, sd / sqrt(N) of the terms, hold for these N items, and too large rather
    than too small. Raises ValueError for other shapes, a scale that is not positive (a deterministic code: its KL is
    infinite) and draws that are the means. Hoffman and Johnson 2016, section 2.

    >>> import numpy as np
    >>> from pyrovae.evaluation.latent import rate_identity
    >>> z = np.random.default_rng(0).standard_normal((50, 2))
    >>> float(rate_identity(np.zeros((50, 2)), np.ones((50, 2)), z).rate)
    0.0
    """
    means = _codes(loc, "loc")
    scales, z = (_codes(a, name, means.shape[1]) for a, name in ((scale, "scale"), (draws, "draws")))
    if not len(means) == len(scales) == len(z):
        raise ValueError(f"loc, scale and draws must have the same items, got {len(means)}, {len(scales)} and {len(z)}")
    if (scales <= 0).any():
        raise ValueError(
            f"scale must be positive, the least is {scales.min():g}; a deterministic code has an infinite KL to p(z)"
        )
    if np.array_equal(z, means):
        raise ValueError("draws must be one draw from each posterior, got the means themselves")
    n, latent_dim = means.shape
    rate = 0.5 * (means**2 + scales**2 - 1 - 2 * np.log(scales)).sum(1)
    m, s, draw = (torch.from_numpy(a) for a in (means, scales, z))
    constant = s.log().sum(1) + 0.5 * latent_dim * math.log(2 * math.pi)
    mixture = []
    for rows in torch.split(draw, max(1, 2**22 // n)):
        squares = torch.zeros(len(rows), n, dtype=torch.float64)
        # differences first: a product expanded into three loses every digit where scales are small
        for k in range(latent_dim):
            squares += ((rows[:, k, None] - m[:, k]) / s[:, k]).square_()
        mixture.append(torch.logsumexp(squares.mul_(-0.5).sub_(constant), 1) - math.log(n))
    own = -0.5 * (((draw - m) / s) ** 2).sum(1) - constant
    information = (own - torch.cat(mixture)).numpy()
    mutual = float(information.mean())
    se = math.sqrt(_squared_se(information))
    return _dataset(
        {
            "rate": (rate.mean(), "mean KL(q(z|x) || p(z))", "nats"),
            "rate_se": (math.sqrt(_squared_se(rate)), "standard error of the rate over items", "nats"),
            "mutual_information": (mutual, "I(x; z) under the item mixture", "nats"),
            "mutual_information_se": (se, "Monte Carlo standard error of I(x; z)", "nats"),
            "mutual_information_bound": (math.log(n), "log N, which I(x; z) cannot exceed", "nats"),
            "kl_aggregate": (rate.mean() - mutual, "KL(q(z) || p(z)) = rate - I(x; z)", "nats"),
            "kl_aggregate_se": (se, "Monte Carlo standard error of KL(q(z) || p(z))", "nats"),
        }
    )


def active_units(loc: Any, *, threshold: float = 0.01) -> xr.Dataset:
    """The number of code dimensions whose posterior mean varies over the items: Var_x E[z_d | x] > `threshold`.

    `loc` has shape (N, latent_dim); the variance has N - 1 below it. Raises ValueError for other shapes and a single
    item. Burda et al. 2016, section 5.

    >>> from pyrovae import active_units
    >>> int(active_units([[0.0, 1.0], [1.0, 1.0]]).active_units)
    1
    """
    means = _codes(loc, "loc")
    if len(means) < 2:
        raise ValueError(f"loc must hold at least 2 items to have a variance, got {len(means)}")
    limit = checks.positive("threshold", threshold, zero=True)
    variance = means.var(0, ddof=1)
    active = int((variance > limit).sum())
    return _dataset(
        {
            "active_units": (active, f"dimensions with a variance above {limit:g}", "dimensions"),
            "variance": (variance, "variance over items of the posterior mean", "code units^2", "latent_dim"),
        }
    )


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier trained on training images alone and then frozen: a rectified network, given by its weights.

    `weights[i]` has shape (inputs, outputs) and `biases[i]` (outputs,); the last layer gives a logit for each class, or
    one logit for the second of two.

    >>> import torch
    >>> from pyrovae import Judge
    >>> images = torch.linspace(-1, 1, 40)[:, None, None, None].expand(40, 1, 3, 3)
    >>> labels = images[:, 0, 0, 0] > 0
    >>> judge = Judge.fit(images, labels)
    >>> judge.features(images).shape, float(judge.accuracy(images, labels).accuracy)
    (torch.Size([40, 64]), 1.0)
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    classes_: np.ndarray
    event_shape: tuple[int, ...]

    @classmethod
    def fit(
        cls, x: Any, y: Any, *, seed: int = 0, hidden_dims: tuple[int, ...] = (256, 64), max_iter: int | None = None
    ) -> Judge:
        """Train on images, shape (N, *event), and labels, with scikit-learn's MLPClassifier at its standard settings.

        `max_iter` epochs of batches of 200; None is about 3,000 updates, from 10 to 400 epochs. Raises ValueError for
        other shapes and a single class.

        >>> import torch
        >>> from pyrovae import Judge
        >>> Judge.fit(torch.eye(4), ["a", "a", "b", "b"], hidden_dims=(4,), max_iter=5).predict(torch.eye(4)).shape
        (4,)
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        like = _floats(x, "x")
        images = checks.items(x, tuple(like.shape[1:]), dtype=torch.float32).detach().cpu()
        labels = checks.labels(y, len(images))
        checks.several_classes(labels)
        if not hidden_dims:
            raise ValueError("hidden_dims must name at least one hidden layer, got ()")
        for width in hidden_dims:
            checks.whole("hidden_dims", width)
        ends = [images[0].numel(), *hidden_dims, len(np.unique(labels))]
        weights_bytes = 8 * sum(a * b for a, b in pairwise(ends))
        checks.affordable(f"hidden_dims={tuple(hidden_dims)}", weights_bytes, "take smaller ones")
        updates = math.ceil(len(images) / 200)
        budget = min(400, max(10, math.ceil(3000 / updates)))
        epochs = budget if max_iter is None else checks.whole("max_iter", max_iter)
        network = MLPClassifier(tuple(hidden_dims), max_iter=epochs, random_state=checks.seed(seed, most=2**32 - 1))
        with hushed(ConvergenceWarning):  # the number of epochs is the stated budget, not a failure
            network.fit(images.flatten(1).numpy(), labels)
        weights = tuple(np.asarray(w, np.float32) for w in network.coefs_)
        biases = tuple(np.asarray(b, np.float32) for b in network.intercepts_)
        return cls(weights, biases, network.classes_, tuple(like.shape[1:]))

    def features(self, images: Any) -> Tensor:
        """The last hidden layer's activations, shape (n, hidden_dims[-1]), float32.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> judge.features(torch.tensor([[1.0, -1.0]])).tolist()
        [[1.0, 0.0]]
        """
        x = checks.items(images, self.event_shape, name="images", dtype=torch.float32).detach().cpu().flatten(1)
        layers = [(_weight(w), _weight(b)) for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True)]
        parts = []
        with torch.no_grad():
            for hidden in torch.split(x, 4096):
                for weight, bias in layers:
                    hidden = torch.relu(torch.addmm(bias, hidden, weight))
                parts.append(hidden)
        return torch.cat(parts)

    def predict_proba(self, images: Any) -> np.ndarray:
        """The probability of each class, shape (n, number of classes), float32.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> judge.predict_proba(torch.zeros(1, 2))
        array([[0.5, 0.5]], dtype=float32)
        """
        logits = torch.addmm(_weight(self.biases[-1]), self.features(images), _weight(self.weights[-1]))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return torch.softmax(logits, 1).numpy()

    def predict(self, images: Any) -> np.ndarray:
        """The most probable class of each image, shape (n,), as in the labels it was trained with.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array(["a", "b"]), (2,))
        >>> judge.predict(torch.eye(2)).tolist()
        ['a', 'b']
        """
        return self.classes_[self.predict_proba(images).argmax(1)]

    def accuracy(self, images: Any, labels: Any) -> xr.Dataset:
        """The share of images given their label, with its binomial standard error.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> float(judge.accuracy(torch.eye(2), [0, 0]).accuracy)
        0.5
        """
        predicted = self.predict(images)
        share = float((predicted == checks.labels(labels, len(predicted), name="labels", of="images")).mean())
        return _dataset(
            {
                "accuracy": (share, "accuracy of the judge", "1"),
                "accuracy_se": (_binomial(share, len(predicted)), "binomial standard error of the accuracy", "1"),
                "num_items": (len(predicted), "images judged", "items"),
            }
        )


_Variable = tuple[Any, ...]  # value, long name, units, then the dims


def _dataset(variables: Mapping[str, _Variable], **coords: Any) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset(
        {
            name: (dims, np.asarray(value), {"long_name": long_name, "units": units})
            for name, (value, long_name, units, *dims) in variables.items()
        },
        coords=coords,
    )


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((checks.seed(seed), stream))


def _numpy(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _floats(x: Any, name: str) -> Tensor:
    """`x` as a floating tensor, its own dtype where it has one, to learn shape, dtype and device from."""
    checks.unmasked(x, name)
    if isinstance(x, Tensor):
        tensor = x.detach()
    else:
        array = np.array(x[:] if not isinstance(x, np.ndarray | list | tuple) and hasattr(x, "shape") else x)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"expected an array of numbers, got {array.dtype}")
        tensor = torch.from_numpy(array)
    return tensor if tensor.dtype.is_floating_point else tensor.to(torch.get_default_dtype())


def _codes(x: Any, name: str, latent_dim: int | None = None) -> np.ndarray:
    """`x` as finite float64 codes of shape (N, latent_dim)."""
    codes = _floats(x, name)
    expected = f"(N, {'latent_dim' if latent_dim is None else latent_dim})"
    if codes.ndim != 2 or codes.shape[1] == 0 or latent_dim not in (None, codes.shape[1]):
        hint = f"; {name}.reshape(-1, 1) would fit" if codes.ndim == 1 and latent_dim in (None, 1) else ""
        raise ValueError(f"{name} must have shape {expected}, got {tuple(codes.shape)}{hint}")
    return checks.items(codes, (codes.shape[1],), name=name, dtype=torch.float64).detach().cpu().numpy()


def _images(x: Any, name: str) -> np.ndarray:
    """`x` as finite float64 items of shape (N, *event)."""
    return checks.items(x, tuple(np.shape(x)[1:]), name=name, dtype=torch.float64).detach().cpu().numpy()


def _features(x: Any, name: str, width: int | None = None) -> Tensor:
    """`x` as finite float32 rows, each item flattened."""
    rows = checks.items(x, tuple(np.shape(x)[1:]), name=name, dtype=torch.float32).detach().cpu().flatten(1)
    if width not in (None, rows.shape[1]):
        raise ValueError(f"{name} must have the {width} features of train, got {rows.shape[1]}")
    return rows


def _at_most(name: str, value: int, count: int, of: str) -> None:
    if checks.whole(name, value) > count:
        raise ValueError(f"{name} must be at most the {count} items of {of}, got {value}")


def _dependent(correlation: np.ndarray) -> np.ndarray:
    """The dimensions whose variance given those before them is no more than rounding."""
    rest, found = correlation.copy(), []
    for k in range(len(rest)):
        if rest[k, k] <= 1e-10:
            found.append(k)
            continue
        rest = rest - np.outer(rest[:, k], rest[k]) / rest[k, k]
    return np.array(found, dtype=int)


def _stratified(labels: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` indices with each label's share to the nearest whole item (largest remainders), or all of them."""
    if len(labels) <= num:
        return np.arange(len(labels))
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # integers throughout: shares in floating point can miss an exact tie
    take, remainder = np.divmod(counts * num, len(labels))
    take[np.argsort(-remainder, kind="stable")[: num - take.sum()]] += 1
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(codes == c))[:k] for c, k in enumerate(take)]))


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _squared_se(values: np.ndarray) -> float:
    """The squared standard error of a mean; NaN for one value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else math.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _squared_error(fake: np.ndarray, real: np.ndarray) -> dict[str, _Variable]:
    each = ((fake - real) ** 2).reshape(len(real), -1).sum(1)
    return {
        "squared_error": (each.mean(), "mean squared error of an item, summed over the event", "pixel units^2"),
        "squared_error_items": (each, "squared error summed over the event", "pixel units^2", "item"),
    }


def _laplacian_variance(x: np.ndarray) -> np.ndarray:
    """Per item, the variance of the five-point Laplacian over its valid positions, averaged over channels."""
    inner = x[..., 1:-1, 1:-1]
    laplacian = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4 * inner
    return laplacian.var((-2, -1)).reshape(len(x), -1).mean(1)


def _power(x: np.ndarray) -> tuple[float, float]:
    """Sums over items of the power at high frequencies, and at all but zero."""
    height, width = x.shape[-2:]
    vertical, horizontal = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    high = np.hypot(vertical, horizontal) > 0.25
    total = np.zeros((height, width))
    for start in range(0, len(x), 1024):
        total += (np.abs(np.fft.fft2(x[start : start + 1024])) ** 2).reshape(-1, height, width).sum(0)
    total[0, 0] = 0.0
    return float(total[high].sum()), float(total.sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _decoded(decode: Callable[[Tensor], Any], codes: Tensor) -> Tensor:
    """The decoded means of `codes`, on the CPU, looked at."""
    with torch.no_grad():
        images = decode(codes)
    images = images.detach().cpu() if isinstance(images, Tensor) else torch.as_tensor(images)
    if images.ndim < 2 or len(images) != len(codes):
        raise ValueError(f"decode must return shape (n, *event) for n = {len(codes)} codes, got {tuple(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("decode must return finite decoded means, got NaN or infinite values")
    return images


def _kth_distance(queries: Tensor, reference: Tensor, k: int) -> np.ndarray:
    """The distance of each query to its k-th nearest row of `reference`.

    A matrix product in float32 names candidates, which are measured again by differences. Where rounding in the product
    could have left a nearer row out (distances small beside the norms), the product is made again in float64.
    """
    found, sure = _kth_of_candidates(queries, reference, k)
    if not bool(sure.all()):
        found[~sure], _ = _kth_of_candidates(queries[~sure].double(), reference.double(), k)
    return found.numpy()


def _kth_of_candidates(queries: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th distance among the rows that look nearest, and whether no other row can be nearer."""
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


def _directions(latent_dim: int, num: int, seed: int) -> np.ndarray:
    """Unit vectors, shape (num, latent_dim): equal angles in the plane, random orthonormal bases in more dimensions."""
    rng = _rng(seed, 8)
    if latent_dim == 1:
        return np.ones((1, 1))
    if latent_dim == 2:
        angle = math.pi * (rng.random() + np.arange(num)) / num
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    bases = [np.linalg.qr(rng.standard_normal((latent_dim, latent_dim)))[0] for _ in range(-(-num // latent_dim))]
    return np.concatenate(bases)[:num]


def _quantile_weights(n: int) -> np.ndarray:
    """The integral of the normal quantile function over each of n equal parts of [0, 1]."""
    from scipy.special import ndtri

    density = np.exp(-0.5 * ndtri(np.arange(n + 1) / n) ** 2) / math.sqrt(2 * math.pi)
    return density[:-1] - density[1:]


def _sliced_w2(codes: np.ndarray, directions: np.ndarray, weights: np.ndarray) -> float:
    projected = np.sort(directions @ codes.T, axis=1)
    squared = np.square(projected).mean(1) + 1 - 2 * projected @ weights
    return math.sqrt(max(0.0, float(squared.mean())))


def _uniform_ks(codes: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    uniform = np.sort(ndtr(codes), axis=0)
    steps = np.arange(len(codes) + 1)[:, None] / len(codes)
    return np.maximum(steps[1:] - uniform, uniform - steps[:-1]).max(0)


def _energy_distance(codes: np.ndarray) -> float:
    from scipy.special import gammaln, hyp1f1

    d = codes.shape[1]
    # E|g| for g ~ N(0, I), over root 2
    unit = math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    to_normal = math.sqrt(2) * unit * hyp1f1(-0.5, d / 2, -0.5 * (codes**2).sum(1)).mean()
    return float(2 * to_normal - torch.pdist(torch.from_numpy(codes)).mean() - 2 * unit)


# the null depends on sizes and seed alone, and a study asks for the same one at every replication
@functools.lru_cache(maxsize=16)
def _aggregate_null(
    n: int, latent_dim: int, num_train: int, num_null: int, num_projections: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sliced W2 and the largest KS of Gaussian samples, raw and whitened, each of shape (2, num_null)."""
    rng = _rng(seed, 9)
    directions, weights = _directions(latent_dim, num_projections, seed), _quantile_weights(n)
    distances, ks = np.empty((2, num_null)), np.empty((2, num_null))
    freedom = num_train - 1 - np.arange(latent_dim)
    for i in range(num_null):
        sample = rng.standard_normal((n, latent_dim))
        # the training sample's mean and Cholesky factor have known laws (Bartlett), so it is not drawn itself
        loc = rng.standard_normal(latent_dim) / math.sqrt(num_train)
        tril = np.tril(rng.standard_normal((latent_dim, latent_dim)), -1) + np.diag(np.sqrt(rng.chisquare(freedom)))
        whitened = np.linalg.solve(tril / math.sqrt(num_train - 1), (sample - loc).T).T
        for row, codes in enumerate((sample, whitened)):
            distances[row, i] = _sliced_w2(codes, directions, weights)
            ks[row, i] = _uniform_ks(codes).max()
    distances.setflags(write=False)
    ks.setflags(write=False)
    return distances, ks


def _p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    return (1 + (null >= observed[:, None]).sum(1)) / (1 + null.shape[1])


def _weight(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
