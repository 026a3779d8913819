"""The distributions from which codes are drawn to be decoded, and control images that resemble no class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes, as_floats, draws_of, generator
from pyrovae.evaluation.code_space.whitening import Whitening

__all__ = ["control_images", "sampling_laws"]


def sampling_laws(train_codes: Any, *, prior: Any = None, num: int = 4000, seed: int = 0) -> dict[str, Tensor]:
    """`num` codes from each of three distributions, (num, latent_dim), in the dtype and on the device of `train_codes`.

    "gaussian" is the Gaussian with the mean and the full covariance of the training codes. "box" is
    uniform between their 0.5 % and 99.5 % quantiles in each dimension. "prior" is `prior`, a
    distribution of one code, or N(0, I) by default, and does not depend on the training codes.
    Raises ValueError for other shapes.

    >>> import torch
    >>> from pyrovae.evaluation.code_space.sampling import sampling_laws
    >>> codes = sampling_laws(torch.tensor([[0.0], [1.0]]), num=5)
    >>> list(codes), codes["box"].shape
    (['gaussian', 'box', 'prior'], torch.Size([5, 1]))
    """
    array, like = as_codes(train_codes, "train_codes"), as_floats(train_codes, "train_codes")
    shape = (checks.whole("num", num, bytes_each=32 * array.shape[1]), array.shape[1])
    whitening = Whitening.fit(array)
    low, high = np.quantile(array, [0.005, 0.995], axis=0)
    of_prior = draws_of(prior, shape, seed, "codes") if prior is not None else generator(seed, 5).standard_normal(shape)
    drawn = {
        "gaussian": whitening.loc + generator(seed, 3).standard_normal(shape) @ whitening.scale_tril.T,
        "box": low + (high - low) * generator(seed, 4).random(shape),
        "prior": of_prior,
    }
    return {name: torch.from_numpy(codes).to(like.device, like.dtype) for name, codes in drawn.items()}


def control_images(reconstructions: Any, labels: Any, *, num: int = 4000, seed: int = 0) -> Tensor:
    """`num` control images, shape (num, *event): pixel averages of two reconstructions with different labels.

    The first reconstruction is uniform over all items, and the second uniform over the items with
    other labels. The averages of digits, for instance, resemble no digit. Raises ValueError for a
    single class.

    >>> import torch
    >>> from pyrovae.evaluation.code_space.sampling import control_images
    >>> control_images(torch.tensor([[0.0], [1.0]]), [3, 4], num=2)
    tensor([[0.5000],
            [0.5000]])
    """
    like = as_floats(reconstructions, "reconstructions")
    images = checks.checked_array(like, tuple(like.shape[1:]), name="reconstructions", dtype=like.dtype)
    _, codes, counts = np.unique(
        checks.labels(labels, len(images), name="labels", of="reconstructions"), return_inverse=True, return_counts=True
    )
    checks.several_classes(codes, name="labels")
    rng = generator(seed, 6)
    order, begin = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    checks.whole("num", num, bytes_each=2 * images[0].numel() * images.element_size())
    first = rng.integers(len(images), size=num)
    label = codes[first]
    place = rng.integers(len(images) - counts[label])
    second = order[place + np.where(place >= begin[label], counts[label], 0)]  # skip the items with the first label
    return (images[torch.from_numpy(first)] + images[torch.from_numpy(second)]) / 2
