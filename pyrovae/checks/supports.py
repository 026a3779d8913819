"""Checks of items against the support of a likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks.rounded import PART, wider
from pyrovae.checks.shapes import refuse_bytes

__all__ = ["is_of_whole_numbers", "lives_in_unit", "support", "support_once_rounded"]

ADVICE = "mend these, or take a likelihood whose support has them"


def support(x: Tensor, constraint: constraints.Constraint, family: str, *, name: str = "x") -> None:
    """Refuse values that have no density under a likelihood: grey under Bernoulli, over 1 under a unit interval.

    NaN (a missing entry) is not looked at. A constraint that has a `refusal(x, name=name)`, as one that differs by
    column has, says itself what is wrong.
    """
    if _inside(x, constraint):
        return
    refusal = getattr(constraint, "refusal", None)
    if refusal is not None:
        raise ValueError(refusal(x, name=name))
    seen = x[~torch.isnan(x)]
    least, most = float(seen.min()), float(seen.max())
    inside = least >= 0 and most <= 1
    if not x.dtype.is_floating_point and lives_in_unit(constraint) and least >= 0 and 128 <= most <= 255:
        refuse_bytes(x, name)
    if constraint is constraints.boolean and inside:
        grey = (seen > 0) & (seen < 1)
        share = f"{float(grey.float().mean()):.1%} lie"
        if share.startswith("0.0%"):  # one faint value
            share = f"{int(grey.sum())} of {seen.numel()}, such as {float(seen[grey][0]):g}, lie"
        raise ValueError(
            f"{name} has grey values ({share} strictly between 0 and 1) and a {family} likelihood has no "
            "density there; binarise (fit(..., binarize=True) or pyrovae.data.binarize(x)), or take "
            "likelihood='continuous_bernoulli' or 'normal'"
        )
    if not lives_in_unit(constraint):
        outside = ~(constraint.check(x) | x.isnan())
        where = torch.nonzero(outside)[0].tolist()
        advice = f"{ADVICE}: {_families(seen)}"
        if is_of_whole_numbers(constraint):
            advice = _advice_of_whole_numbers(seen, constraint, name)
        raise ValueError(
            f"{name} lies outside the support of the {family} likelihood, {constraint}, in {int(outside.sum())} of "
            f"{x.numel()} values, the first {name}{where} = {_shown(float(x[tuple(where)]))}; {advice}"
        )
    if least >= 0 and most > 1 and bool((seen == seen.floor()).all()):
        raise ValueError(
            f"{name} lies outside the support of the {family} likelihood (min {_shown(least)}, max {_shown(most)}) "
            "and is made of whole numbers. Grey values are to be scaled to [0, 1]; for counts take 'poisson' or "
            "'negative_binomial', or set what is above 0 to 1; 'normal' fits any"
        )
    fitting = "'continuous_bernoulli' or 'normal'" if inside else _families(seen)
    raise ValueError(
        f"{name} lies outside the support of the {family} likelihood (min {_shown(least)}, max {_shown(most)}); "
        f"scale {name} to [0, 1] or take a likelihood that fits: {fitting}"
    )


def _advice_of_whole_numbers(seen: Tensor, constraint: constraints.Constraint, name: str) -> str:
    """What to do about values that are no whole numbers, or too small or large for a support of these."""
    if bool((seen != seen.floor()).any()):
        return (
            "its entries are whole numbers: hand in counts or codes as they were, unscaled (data.load(..., "
            "scale=False) keeps those of a file), or take a likelihood of real values, such as 'normal'"
        )
    if float(seen.min()) < 0:
        return "its entries are whole numbers from 0 on: number codes from 0, or take a likelihood that has these"
    upper = getattr(constraint, "upper_bound", None)
    if upper is None:
        return ADVICE
    if float(seen.min()) >= 1 and float(seen.max()) == upper + 1:
        return (
            f"its entries are whole numbers from 0 to {upper}: number codes from 0, as {name} - 1 does, or give the "
            f"likelihood a larger number of classes or levels, {int(seen.max()) + 1} at the least"
        )
    return (
        f"its entries are whole numbers up to {upper}: give the likelihood a larger number of classes or levels, "
        f"{int(seen.max()) + 1} at the least, or number codes from 0"
    )


def lives_in_unit(constraint: object) -> bool:
    """Whether a support is that of a likelihood of values from 0 to 1."""
    return constraint is constraints.boolean or constraint is constraints.unit_interval


def is_of_whole_numbers(constraint: constraints.Constraint | None) -> bool:
    """Whether a support is one of whole numbers, as counts are, beyond 0 and 1."""
    return constraint is not None and bool(constraint.is_discrete) and constraint is not constraints.boolean


def support_once_rounded(x: Tensor, constraint: constraints.Constraint, family: str, *, name: str = "x") -> None:
    """Refuse values that a cast has moved out of an open support, as 1e-50 to 0."""
    if not _inside(x, constraint):
        raise ValueError(
            f"{name} lies inside the support of the {family} likelihood, but not once it is rounded to {x.dtype}: "
            f"{wider(x.dtype)}scale {name}"
        )


def _families(seen: Tensor) -> str:
    """Likelihoods that have a density at such values, in words."""
    least = float(seen.min())
    if least >= 0 and float(seen.max()) > 1 and bool((seen == seen.floor()).all()):
        return "'poisson' or 'negative_binomial' for counts, or 'normal'"
    return "'normal', 'gamma' or 'log_normal'" if least > 0 else "'normal', 'student_t' or 'laplace'"


def _inside(x: Tensor, constraint: constraints.Constraint) -> bool:
    return all(bool((constraint.check(part) | part.isnan()).all()) for part in x.split(PART))


def _shown(value: float) -> str:
    """A value in few digits, or in full where these would put it inside, as with 1.000000001."""
    short = f"{value:g}"
    return repr(value) if float(short) in (0.0, 1.0) and float(short) != value else short
