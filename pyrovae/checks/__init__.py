"""Checks of what a user hands in, each made once, where it enters the package.

Every error says which argument, what was expected, what came and what to do. No model, data set or device here.
"""

from pyrovae.checks.allocation import NotEnoughMemoryError, affordable, allocating
from pyrovae.checks.arguments import (
    LARGEST,
    MOST,
    SEEDS,
    choice,
    device,
    keywords,
    near,
    number,
    options,
    path,
    positive,
    probability,
    scale_in,
    seed,
    sequence,
    sizes,
    warn,
    whole,
)
from pyrovae.checks.arrays import array, dense, numbers, parts_of, plain, unmasked
from pyrovae.checks.class_labels import labels, several_classes
from pyrovae.checks.flags import flag, flags
from pyrovae.checks.kinds import function, having, text
from pyrovae.checks.rounded import checked_cast, require_held, require_held_in_groups, require_within, warn_of_rounding
from pyrovae.checks.shapes import FILL, WHOLE, checked_array, checked_in_own_dtype
from pyrovae.checks.splits import Gathered, split_of, stand_ins, weights, with_missing, without_absent
from pyrovae.checks.supports import is_of_whole_numbers, lives_in_unit, support, support_once_rounded

__all__ = [
    "FILL",
    "LARGEST",
    "MOST",
    "SEEDS",
    "WHOLE",
    "Gathered",
    "NotEnoughMemoryError",
    "affordable",
    "allocating",
    "array",
    "checked_array",
    "checked_cast",
    "checked_in_own_dtype",
    "choice",
    "dense",
    "device",
    "flag",
    "flags",
    "function",
    "having",
    "is_of_whole_numbers",
    "keywords",
    "labels",
    "lives_in_unit",
    "near",
    "number",
    "numbers",
    "options",
    "parts_of",
    "path",
    "plain",
    "positive",
    "probability",
    "require_held",
    "require_held_in_groups",
    "require_within",
    "scale_in",
    "seed",
    "sequence",
    "several_classes",
    "sizes",
    "split_of",
    "stand_ins",
    "support",
    "support_once_rounded",
    "text",
    "unmasked",
    "warn",
    "warn_of_rounding",
    "weights",
    "whole",
    "with_missing",
    "without_absent",
]
