"""Helpers of the code-space statistics: checked arrays, random numbers and standard errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.models.means import device_of
from pyrovae.seeding import forked, stream

__all__ = [
    "as_codes",
    "as_features",
    "as_floats",
    "as_images",
    "as_numpy",
    "binomial_se",
    "draws_of",
    "generator",
    "mean_or_nan",
    "median_or_nan",
    "require_at_most",
    "squared_se",
]


def generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((checks.seed(seed), stream))


def draws_of(prior: Any, shape: tuple[int, int], seed: int, purpose: str) -> np.ndarray:
    """Codes drawn from a distribution of one code, shape (count, latent_dim), float64, with generators restored."""
    with forked(stream(checks.seed(seed), "draws of a prior", purpose), device_of(prior)):
        codes: Tensor = prior.sample((shape[0],))
    return codes.reshape(shape).double().cpu().numpy()


def as_numpy(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def as_floats(x: Any, name: str) -> Tensor:
    """`x` as a floating-point tensor, in its own dtype if that is one; used for its shape, dtype and device."""
    checks.unmasked(x, name)
    if isinstance(x, Tensor):
        tensor = checks.numbers(x.detach(), name)
    else:
        array = np.array(x[:] if not isinstance(x, np.ndarray | list | tuple) and hasattr(x, "shape") else x)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"expected an array of numbers, got {array.dtype}")
        tensor = torch.from_numpy(array)
    return tensor if tensor.dtype.is_floating_point else tensor.to(torch.get_default_dtype())


def as_codes(x: Any, name: str, latent_dim: int | None = None) -> np.ndarray:
    """`x` as finite float64 codes of shape (N, latent_dim)."""
    codes = as_floats(x, name)
    expected = f"(N, {'latent_dim' if latent_dim is None else latent_dim})"
    if codes.ndim != 2 or codes.shape[1] == 0 or latent_dim not in (None, codes.shape[1]):
        hint = f"; {name}.reshape(-1, 1) would fit" if codes.ndim == 1 and latent_dim in (None, 1) else ""
        raise ValueError(f"{name} must have shape {expected}, got {tuple(codes.shape)}{hint}")
    return checks.checked_array(codes, (codes.shape[1],), name=name, dtype=torch.float64).detach().cpu().numpy()


def as_images(x: Any, name: str) -> np.ndarray:
    """`x` as finite float64 items of shape (N, *event)."""
    return checks.checked_array(x, _event_shape(x, name), name=name, dtype=torch.float64).detach().cpu().numpy()


def as_features(x: Any, name: str, width: int | None = None) -> Tensor:
    """`x` as finite float32 rows, each item flattened."""
    rows = checks.checked_array(x, _event_shape(x, name), name=name, dtype=torch.float32).detach().cpu().flatten(1)
    if width not in (None, rows.shape[1]):
        raise ValueError(f"{name} must have the {width} features of train, got {rows.shape[1]}")
    return rows


def _event_shape(x: Any, name: str) -> tuple[int, ...]:
    return tuple(np.shape(checks.numbers(x, name) if isinstance(x, Tensor) else x)[1:])


def require_at_most(name: str, value: int, count: int, of: str) -> None:
    if checks.whole(name, value) > count:
        raise ValueError(f"{name} must be at most the {count} items of {of}, got {value}")


def binomial_se(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def squared_se(values: np.ndarray) -> float:
    """The squared standard error of a mean; NaN for one value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else math.nan


def mean_or_nan(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def median_or_nan(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan
