"""Multiple imputation: completed copies of a data set that differ as the fitted parameters do, by bootstrap refits."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.inference.training import fit
from pyrovae.models.pair import as_module
from pyrovae.progress import progress_bar
from pyrovae.seeding import forked, stream
from pyrovae.warned import Gathered, gathered

__all__ = ["multiple_imputation"]

OURS = ("self", "x", "num_draws", "seed", "covariates", "exposure")  # arguments of impute that are set here
MOST_DRAWS = 1000  # of a bootstrap sample, until each column has an entry that was seen


@checks.allocating
def multiple_imputation(
    build: Callable[[], Any],
    x: Any,
    *,
    num_imputations: int = 20,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = True,
    impute: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Tensor:
    """Completed copies of items with missing entries, (num_imputations, N, *event_shape), each under its own fit.

    For each copy a pair that `build()` makes is fitted to a bootstrap sample of the items, and what is missing of the
    items themselves is drawn once, from p(x_missing | x_seen) under that fit. The copies so differ by what the entries
    might have been and by what the parameters might have been: an analysis of each copy and `pool` give intervals that
    hold. Draws at one fit, as of `pair.impute`, leave the second out, and intervals are too narrow. (Rubin 1987,
    section 4.3; by the bootstrap: Honaker and King 2010, section 3; Little and Rubin 2019, section 10.2.3.)

    What is missing is to depend on what was seen alone (missing at random), and the model to hold. Twenty copies are
    enough where up to a fifth of the information is missing; take about 100 times `fraction_missing` of them (White,
    Royston and Wood 2011, section 7.3).

    Args:
        build: makes a new pair, such as `lambda: GaussianMixture((3,), 1)`: one with `impute`, as a VAE, a
            `GaussianMixture` and a `ColumnMixture`.
        x: items of shape (N, *event_shape) in which NaN is missing, or a `data.Split` of such.
        num_imputations: the number of copies.
        seed: fixes the samples, the fits and the draws.
        covariates, exposure: as for `fit`.
        weight: how many times each item counts: a sample then has as many items as the weights' sum, to the next whole
            number, drawn with these probabilities.
        missing: True, or a mask of the shape of `x` that is True where an entry is missing.
        impute: further options of `pair.impute`, as `{"method": "sir"}` of a VAE; that of a mixture has none.
        progress: whether to show a bar.
        options: those of `fit`, such as `num_restarts=1`.

    Returns the copies in the dtype of `x`, seen entries as they were. Warnings of the fits are given once for all of
    them. Raises ValueError where nothing is missing, TypeError where `build()` gives no pair that imputes, and what
    `fit` raises.

    >>> import torch
    >>> from pyrovae import GaussianMixture, multiple_imputation, pool
    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> x[:30, 1] = torch.nan
    >>> copies = multiple_imputation(lambda: GaussianMixture((2,), 1), x, num_imputations=5, num_restarts=1)
    >>> means, variances = copies[..., 1].mean(1), copies[..., 1].var(1) / 100
    >>> copies.shape, pool(means, variances, complete_df=99).num_imputations
    (torch.Size([5, 100, 2]), 5)
    """
    count = checks.whole("num_imputations", num_imputations, least=2)
    checks.seed(seed)
    if not callable(build) or isinstance(build, torch.nn.Module):
        raise TypeError(
            "build must be a function without arguments that makes a new pair, as lambda: GaussianMixture((3,), 1), "
            f"got {build!r}"[:300]
        )
    given = checks.split_of(
        x, covariates=covariates, exposure=exposure, weight=weight, takes=("weight", "missing"), what="this"
    )
    mask = given.missing if given.missing is not None else missing
    items = checks.array(checks.with_missing(given.x, None if mask is True else mask), "x").detach()
    items = items if items.is_floating_point() else items.double()
    if items.ndim < 2:
        raise ValueError(f"x must have shape (N, *event), got {tuple(items.shape)}; x[:, None] is a column")
    absent = items.isnan()
    if not bool(absent.any()):
        raise ValueError("nothing is missing in x: an entry is missing where it is NaN, or where missing= is True")
    checks.whole("num_imputations", count, bytes_each=items.numel() * items.element_size())
    beside = {
        name: checks.array(value, name)
        for name, value in (("covariates", given.covariates), ("exposure", given.exposure))
        if value is not None
    }
    for name, value in beside.items():
        if value.ndim == 0 or len(value) != len(items):
            shape = tuple(value.shape)
            raise ValueError(f"{name} must have a row for each of the {len(items)} items, got shape {shape}")
    impute = checks.options("impute", impute)
    shares = None if given.weight is None else checks.weights(given.weight, len(items)).numpy()
    copies, told = [], []
    for number in progress_bar(range(count), show=progress, desc="multiple imputation", unit="fit"):
        sample = _sample(absent, shares, stream(seed, "bootstrap", number))
        with exclusive(), forked(stream(seed, "build", number)):
            pair = build()
        _require_imputing(pair, impute or {})
        with gathered() as warnings:
            rows: dict[str, Any] = {name: value[sample] for name, value in beside.items()}
            key = stream(seed, "fit", number)
            fit(pair, items[sample], **rows, missing=True, seed=key, progress=False, **options)
            key = stream(seed, "impute", number)
            drawn = pair.impute(items, num_draws=1, seed=key, **beside, **(impute or {}))[0]
        told += warnings
        copies.append(torch.where(absent, drawn.to(items), items))
    _tell(told, count)
    return torch.stack(copies)


def _sample(absent: Tensor, shares: np.ndarray | None, seed: int) -> Tensor:
    """The rows of a bootstrap sample, in which each column that was seen at all is seen."""
    generator = np.random.default_rng(seed)
    seen = ~absent.flatten(1).cpu()
    ever = seen.any(0)
    size = len(seen) if shares is None else max(1, round(float(shares.sum())))
    p = None if shares is None else shares / shares.sum()
    for _ in range(MOST_DRAWS):
        rows = torch.from_numpy(generator.choice(len(seen), size, p=p))
        if bool(seen[rows].any(0)[ever].all()):
            return rows.to(absent.device)
    raise ValueError(
        f"none of {MOST_DRAWS} bootstrap samples has a seen entry of every column, so few were seen of some: leave "
        "such columns out"
    )


def _require_imputing(pair: Any, options: Mapping[str, Any]) -> None:
    """Refuse a pair that cannot impute, before it is fitted, and options that its `impute` does not have."""
    as_module(pair)
    if not hasattr(pair, "impute"):
        raise TypeError(
            f"build() gave a {type(pair).__name__}, which has no impute: build a VAE, a GaussianMixture or a "
            "ColumnMixture"
        )
    ours = [name for name in options if name in OURS]
    if ours:
        raise ValueError(f"impute has {', '.join(map(repr, ours))}, which multiple_imputation sets: leave it out")
    takes = inspect.signature(pair.impute).parameters
    unknown = [name for name in options if name not in takes]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise ValueError(
            f"impute has {', '.join(map(repr, unknown))}, and {type(pair).__name__}.impute has "
            f"{', '.join(name for name in takes if name not in OURS) or 'no further options'}: leave out what it lacks"
        )


def _tell(warnings: list[Gathered], count: int) -> None:
    """Give the first warning of each category, and in how many fits there was one."""
    first = {warning.category: warning for warning in reversed(warnings)}
    times = Counter(warning.category for warning in warnings)
    for category, warning in first.items():
        checks.warn(f"{times[category]} warnings like this one in {count} fits: {warning.message}", category)
