"""The model and the likelihood that `pyrovae fit` takes where none is asked for: written rules, from the items alone.

The rules stand in docs/command_line.md too. They look at the training part. A likelihood decides which numbers may be
compared: log-probabilities of binary items are masses, those of real items are densities in the items' units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrovae.choices import Builder

__all__ = ["LARGE_IMAGE", "Choice", "chosen_epochs", "chosen_likelihood", "chosen_model", "chosen_table_model"]

LARGE_IMAGE = 32  # pixels of height and width, from which on grey images are taken by convolutions
LEAST_STEPS = 2000  # of SVI on a table, which often has few rows
# in which order a builder is sought that takes what was asked for
ORDER = (
    "mlp_vae",
    "conv_vae",
    "linear_vae",
    "mlp_ae",
    "conv_ae",
    "GaussianMixture",
    "BayesianGaussianMixture",
    "gaussian_classifier",
    "DiscriminativeClassifier",
)


@dataclass(frozen=True)
class Choice:
    """A name, and why it was chosen, as a part of a sentence."""

    name: str
    reason: str


def chosen_model(event_shape: Sequence[int], given: Mapping[str, str], builders: Mapping[str, Builder]) -> Choice:
    """The builder for items of this shape; `given` are the options of builders that were asked for, by argument.

    Images, items of shape (channels, height, width), are taken by convolutions where they have several channels or are
    at least 32 pixels high and wide; other items by fully connected networks. Where an option was asked for that this
    builder does not have, it is the first builder that has all of them.

    >>> from pyrovae.choices import builders
    >>> from pyrovae.cli.choosing import chosen_model
    >>> [chosen_model(shape, {}, builders()).name for shape in ((13,), (1, 28, 28), (3, 32, 32))]
    ['mlp_vae', 'mlp_vae', 'conv_vae']
    """
    is_image = len(event_shape) == 3
    if is_image and event_shape[0] > 1:
        first = Choice("conv_vae", f"images of {event_shape[0]} channels")
    elif is_image and min(event_shape[1:]) >= LARGE_IMAGE:
        first = Choice("conv_vae", f"images of at least {LARGE_IMAGE} x {LARGE_IMAGE} pixels")
    elif is_image:
        first = Choice("mlp_vae", f"grey images of less than {LARGE_IMAGE} x {LARGE_IMAGE} pixels")
    else:
        first = Choice("mlp_vae", f"items of {len(event_shape)} {'axis' if len(event_shape) == 1 else 'axes'}")
    if given.keys() <= builders[first.name].arguments.keys():
        return first
    for name in (*ORDER, *sorted(builders.keys() - set(ORDER))):
        if name in builders and given.keys() <= builders[name].arguments.keys():
            return Choice(name, f"the first model that takes {' and '.join(given.values())}")
    return first


def chosen_table_model(given: Mapping[str, str], builders: Mapping[str, Builder]) -> Choice:
    """The builder for a table: "table_vae", or the first that has all options that were asked for.

    >>> from pyrovae.choices import builders
    >>> from pyrovae.cli.choosing import chosen_table_model
    >>> chosen_table_model({}, builders()).name
    'table_vae'
    >>> chosen_table_model({"num_components": "--num-components"}, builders()).name
    'ColumnMixture'
    """
    first = Choice("table_vae", "a table, each column by the family of its kind")
    if given.keys() <= builders[first.name].arguments.keys():
        return first
    for name in ("ColumnMixture", *ORDER, *sorted(builders.keys() - set(ORDER))):
        if name in builders and given.keys() <= builders[name].arguments.keys():
            return Choice(name, f"the first model of tables that takes {' and '.join(given.values())}")
    return first


def chosen_epochs(num_rows: int, batch_size: int | str, default: int) -> int:
    """Epochs of SVI on a table: the default, or as many as make 2,000 steps where it has few rows.

    >>> from pyrovae.cli.choosing import chosen_epochs
    >>> chosen_epochs(320, 256, 20), chosen_epochs(1_000_000, 256, 20)
    (1000, 20)
    """
    steps = 1 if isinstance(batch_size, str) else math.ceil(num_rows / batch_size)
    return max(default, math.ceil(LEAST_STEPS / steps))


def chosen_likelihood(summary: Any, builder: Builder, *, binarize: bool, with_exposure: bool = False) -> Choice | None:
    """The likelihood for such items; None where the builder has none, or has one of its own by default.

    Items with an exposure: "negative_binomial".
    Items that are drawn as binary ones, and items of zeros and ones: "bernoulli". Other items in [0, 1]:
    "continuous_bernoulli". All other items: "normal".
    """
    argument = builder.arguments.get("likelihood")
    if argument is None or argument.default != "bernoulli":
        return None
    if with_exposure:
        return Choice("negative_binomial", "counts with an exposure")
    if binarize:
        return Choice("bernoulli", "binary items are drawn in each epoch (--binarize)")
    if summary.is_binary:
        return Choice("bernoulli", "every value is 0 or 1")
    if summary.is_in_unit:
        return Choice("continuous_bernoulli", "values in [0, 1] that are not all 0 or 1")
    span = f"values from {summary.minimum:g} to {summary.maximum:g}"
    if summary.is_nonnegative_whole:
        return Choice("normal", f"{span}; whole numbers; for counts, --likelihood negative_binomial or poisson")
    return Choice("normal", span)
