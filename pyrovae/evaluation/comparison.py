"""Paired comparisons: differences with t intervals, Holm's correction over the claims, and a verdict per claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyrovae import checks
from pyrovae.evaluation import holm
from pyrovae.labelled import labelled

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike

__all__ = ["paired_interval", "verdicts"]


def paired_interval(differences: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of paired differences and its Student t interval: d ± t sd(d) / sqrt(n), n - 1 degrees of freedom.

    `differences` has shape (n,), one difference per replicate. For n = 1 the interval is infinite.
    Returns (mean, low, high) in the units of the differences. Raises ValueError for an array that is
    empty or not finite and for a confidence outside (0, 1).

    >>> from pyrovae import paired_interval
    >>> [round(v, 3) for v in paired_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy import stats

    d = _differences("differences", differences)
    confidence = checks.probability("confidence", confidence)
    mean = float(d.mean())
    if len(d) == 1:
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.5 + confidence / 2, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))
    return mean, mean - half, mean + half


def verdicts(
    effects: Mapping[str, ArrayLike], smallest: Mapping[str, float], *, confidence: float = 0.95
) -> xr.Dataset:
    """Decide for each claim whether its effect exceeds the smallest difference of interest, with one error rate.

    `effects[claim]` has shape (n,): one paired difference per replicate, signed so that the claim
    predicts large values. `smallest[claim]` is the difference that the effect must exceed. A claim
    *holds* if the interval of its effect is above that difference and *does not hold* if it is below;
    otherwise one *cannot tell*.

    Holm's step-down procedure (Holm 1979) sets the level of each interval. Of m claims, the one with
    the k-th smallest two-sided p-value for "effect = smallest" has alpha / (m - k + 1); the first
    that is not rejected, and all after it, have the level of that first one. The intervals therefore
    always agree with the verdicts.

    Returns a Dataset over "claim": mean, low, high (at `level`), smallest, p_value, level,
    replicates, verdict. Raises ValueError for claims without a smallest difference.

    >>> from pyrovae import verdicts
    >>> effects = {"taller": [2.0, 2.1, 1.9, 2.0], "wider": [0.1, -0.2, 0.0, 0.1]}
    >>> result = verdicts(effects, {"taller": 1.0, "wider": 1.0})
    >>> result.verdict.values.tolist()
    ['holds', 'does not hold']
    """
    from scipy import stats

    for name, given in {"effects": effects, "smallest": smallest}.items():
        if not isinstance(given, Mapping):
            raise TypeError(f"{name} must be a dict by the names of the claims, got {type(given).__name__}")
    checks.probability("confidence", confidence)
    if set(effects) != set(smallest):
        raise ValueError(
            f"effects and smallest must name the same claims, got {sorted(effects)} and {sorted(smallest)}"
        )
    for name, value in smallest.items():
        checks.number(f"smallest[{name!r}]", value)
    names = list(effects)
    data = {name: _differences(f"effects[{name!r}]", effects[name]) for name in names}
    p_values = {}
    for name, d in data.items():
        spread = d.std(ddof=1) / np.sqrt(len(d)) if len(d) > 1 else np.inf
        distance = abs(d.mean() - smallest[name])
        score = distance / spread if spread > 0 else (np.inf if distance > 0 else 0.0)
        p_values[name] = float(2 * stats.t.sf(score, max(len(d) - 1, 1)))
    levels = dict(zip(names, holm.levels(list(p_values.values()), 1 - confidence).tolist(), strict=True))
    rows = {name: paired_interval(data[name], confidence=1 - levels[name]) for name in names}

    def verdict(name: str) -> str:
        _, low, high = rows[name]
        return "holds" if low > smallest[name] else "does not hold" if high < smallest[name] else "cannot tell"

    columns = {
        "mean": [rows[n][0] for n in names],
        "low": [rows[n][1] for n in names],
        "high": [rows[n][2] for n in names],
        "smallest": [float(smallest[n]) for n in names],
        "p_value": [p_values[n] for n in names],
        "level": [1 - levels[n] for n in names],
        "replicates": [len(data[n]) for n in names],
        "verdict": [verdict(n) for n in names],
    }
    return labelled({name: (values, None, None, "claim") for name, values in columns.items()}, {"claim": names})


def _differences(name: str, values: ArrayLike) -> np.ndarray:
    array = checks.array(values, name).detach().cpu().double().numpy()
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must have shape (n,) with n of at least 1, got {array.shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).argmax())
        raise ValueError(f"{name} must be finite, got {array[bad]} at index {bad}")
    return array
