"""Rubin's rules: one estimate, standard error and interval from the analyses of several imputations of one data set."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import checks
from pyrovae.checks.shown import short
from pyrovae.summary import HasSummary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Pooled", "pool"]


@dataclass(frozen=True, eq=False, repr=False)
class Pooled(HasSummary):
    """An estimate from several imputations, or several estimates in arrays of one shape.

    Attributes:
        estimate: the mean over imputations.
        se: its standard error, the root of `within` + (1 + 1/M) `between`.
        df: degrees of freedom of its t distribution (Barnard and Rubin 1999).
        fraction_missing: the fraction of the information on it that is lost with what is missing.
        within: the mean of the M variances.
        between: the variance of the M estimates.
        num_imputations: their number M.
        names: what the estimates are called, or None.
    """

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    fraction_missing: np.ndarray
    within: np.ndarray
    between: np.ndarray
    num_imputations: int
    names: tuple[str, ...] | None = None

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The two ends of the interval estimate -+ t se, t the quantile of Student's t distribution.

        >>> import math
        >>> from pyrovae import pool
        >>> low, high = pool([1.0, 1.2, 1.1], [0.04, 0.05, 0.03], complete_df=math.inf).interval(0.9)
        >>> round(float(low), 3), round(float(high), 3)
        (0.709, 1.491)
        """
        from scipy import stats

        level = checks.probability("level", level)
        # without an end, the degrees of freedom are those of the normal distribution
        half = stats.t.ppf((1 + level) / 2, np.minimum(self.df, 1e12)) * self.se
        return self.estimate - half, self.estimate + half

    def __str__(self) -> str:
        names = self.names or [""] if self.estimate.ndim == 0 else self.names
        names = names or [str(list(place)) for place in np.ndindex(self.estimate.shape)]
        columns = (self.estimate, self.se, *self.interval(), self.df, self.fraction_missing)
        rows = zip(*map(np.ravel, columns), strict=True)
        lines = [
            f"{name}{': ' if name else ''}{estimate:.4g} ± {se:.2g}, 95 % interval {low:.4g} to {high:.4g}, "
            f"df {df:.3g}, {100 * missing:.0f} % of the information missing"
            for name, (estimate, se, low, high, df, missing) in zip(names, rows, strict=True)
        ]
        return "\n".join([*lines[:-1], f"{lines[-1]} ({self.num_imputations} imputations)"])


def pool(
    estimates: ArrayLike,
    variances: ArrayLike,
    *,
    complete_df: float,
    names: Sequence[str] | None = None,
) -> Pooled:
    """One estimate from the analyses of M imputations of a data set, by Rubin's rules.

    With estimates q_1, ..., q_M and variances u_1, ..., u_M, squares of their standard errors, the estimate is their
    mean, and its variance T = u + (1 + 1/M) b, with u the mean of the variances and b the variance of the estimates.
    With l = (1 + 1/M) b / T its degrees of freedom are 1 / (1/v_1 + 1/v_2), v_1 = (M - 1) / l^2 and
    v_2 = (1 - l) v (v + 1) / (v + 3), where v are those of the complete data. (Rubin 1987, section 3.3; Barnard and
    Rubin 1999, section 2; the fraction of missing information as Rubin 1987, eq. 3.1.10.)

    It holds for imputations that know that their parameters were estimated, such as those of `multiple_imputation`:
    those at one value of the parameters have too small a b.

    Args:
        estimates: of each imputation, (M,), or several of each, (M, ...).
        variances: of the same shape, as the analysis of a complete data set gives them.
        complete_df: degrees of freedom that the same analysis of complete data has, such as N - 1 for a mean and N - P
            for a regression with P coefficients; `math.inf` where N is large.
        names: what several estimates are called.

    Raises ValueError for fewer than 2 imputations, other shapes, values that are not finite, and negative variances.

    >>> from pyrovae import pool
    >>> print(pool([1.0, 1.2, 1.1], [0.04, 0.05, 0.03], complete_df=49))
    1.1 ± 0.23, 95 % interval 0.6123 to 1.588, df 16.8, 33 % of the information missing (3 imputations)
    """
    q, u = (_checked(value, name) for value, name in ((estimates, "estimates"), (variances, "variances")))
    if q.shape != u.shape:
        raise ValueError(f"variances must have the shape of estimates, {q.shape}, got {u.shape}")
    if (u < 0).any():
        raise ValueError(f"variances are squares of standard errors and at least 0, got {u.min():g}")
    number: Any = complete_df
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"complete_df must be a number, such as N - 1 for a mean of N items, got {short(complete_df)}")
    if math.isnan(complete_df) or complete_df <= 0:
        raise ValueError(
            f"complete_df must be above 0, such as N - 1 for a mean of N items, or math.inf, got {complete_df}"
        )
    given: Any = names
    if names is not None and not isinstance(given, Iterable):
        raise TypeError(f"names must be a sequence of names, one for each estimate, got {short(names)}")
    called = None if names is None else tuple(map(str, names))
    if called is not None and len(called) != math.prod(q.shape[1:]):
        raise ValueError(f"names must be {math.prod(q.shape[1:])}, one for each estimate, got {len(called)}")
    count = len(q)
    estimate, within, between = q.mean(0), u.mean(0), q.var(0, ddof=1)
    more = (1 + 1 / count) * between
    total = within + more
    share = np.divide(more, total, out=np.zeros_like(total), where=total > 0)
    with np.errstate(divide="ignore"):
        of_imputations = (count - 1) / np.square(share)
    if math.isfinite(complete_df) and bool(((within == 0) & (between > 0)).any()):
        raise ValueError(
            "variances are all 0 and the estimates differ, so that the complete data leave no degrees of freedom: give "
            "the squared standard errors of the analysis, or complete_df=math.inf for numbers without a sampling error"
        )
    of_data = np.where(share < 1, 1 - share, 1.0) * _damped(complete_df)
    with np.errstate(divide="ignore"):
        df = 1 / (1 / of_imputations + 1 / of_data)
    # r / (1 + r) is the share; what the t distribution adds is written without r, which may be infinite
    fraction = share + (1 - share) * 2 / (df + 3)
    fraction = np.where(share > 0, fraction, 0.0)
    return Pooled(
        estimate=np.asarray(estimate),
        se=np.asarray(np.sqrt(total)),
        df=np.asarray(df),
        fraction_missing=np.asarray(fraction),
        within=np.asarray(within),
        between=np.asarray(between),
        num_imputations=count,
        names=called,
    )


def _damped(complete_df: float) -> float:
    """v (v + 1) / (v + 3) for the degrees of freedom v of complete data."""
    return math.inf if math.isinf(complete_df) else complete_df * (complete_df + 1) / (complete_df + 3)


def _checked(value: Any, name: str) -> np.ndarray:
    given = checks.array(value, name).detach().cpu().double().numpy()
    if given.ndim == 0 or len(given) < 2:
        raise ValueError(
            f"{name} must be those of at least 2 imputations, of shape (M,) or (M, ...), got shape {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{name} must be finite, and {int((~np.isfinite(given)).sum())} of them are not")
    return given
