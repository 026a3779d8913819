"""Helpers of all figures: colours, new axes, and what the package returns or a user has as checked arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "SERIES",
    "checked_array",
    "checked_codes",
    "checked_finite",
    "checked_images",
    "checked_labels",
    "checked_seed",
    "decimal",
    "estimates_in",
    "flag",
    "halo",
    "is_a",
    "names_of",
    "new_axes",
    "new_figure",
    "number",
    "spread",
    "text",
    "titled",
    "vector",
    "whole",
]

# ten colours chosen for colour-vision deficiency: Petroff, "Accessible color sequences for data visualization", 2021
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
# the same colours in an order for few curves: the most different in lightness and hue come first
SERIES = tuple(COLOURS[i] for i in (0, 2, 1, 4, 8, 5, 6, 7, 3, 9))
MOST_MARKS = 10_000  # the largest number of bins, rows or columns of a figure
MARKERS = "osD^vP*X<>"
LINES = ("-", "--", "-.", ":")


class ShownFigure(Figure):
    """A Figure that a notebook shows as a picture. pyplot, which would see to that, is never imported here."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


class ShownAxes(Axes):
    """Axes that a notebook shows as the picture of their figure."""

    def _repr_png_(self) -> bytes | None:
        figure = self.get_figure(root=True)
        return figure._repr_png_() if isinstance(figure, ShownFigure) else None


def new_figure(figsize: tuple[float, float]) -> ShownFigure:
    return ShownFigure(figsize=figsize, layout="constrained")


def new_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    if ax is None:
        return new_figure(figsize).add_subplot(axes_class=ShownAxes)
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, got {type(ax).__name__}")
    return ax


def titled(ax: Axes, title: str | None, *, pad: float | None = None) -> Axes:
    if title is not None:
        ax.set_title(title, pad=pad)
    return ax


def halo() -> withStroke:
    return withStroke(linewidth=3, foreground="white")


def flag(name: str, value: Any) -> bool:
    from pyrovae import checks  # a local import, because it imports torch

    return checks.flag(name, value)


def text(name: str, value: Any) -> str:
    from pyrovae import checks  # a local import, because it imports torch

    return checks.text(name, value)


def whole(name: str, value: Any, *, least: int = 1, most: int = MOST_MARKS) -> int:
    from pyrovae import checks  # a local import, because it imports torch

    return checks.whole(name, value, least=least, most=most)


def checked_seed(seed: Any) -> int:
    from pyrovae import checks  # a local import, because it imports torch

    return checks.seed(seed)


def checked_labels(y: Any, count: int, *, of: str) -> np.ndarray:
    from pyrovae import checks  # a local import, because it imports torch

    if is_a(y, "Split"):
        if y.y is None:
            raise ValueError("labels is a Split without labels; pass labels=None")
        y = y.y
    labels = _without_tensors("labels", y)
    return checks.labels(labels, count, name="labels", of=of)


def is_a(value: Any, kind: str) -> bool:
    """Whether `value` is of this package's class of that name; asked by name, since its module imports torch."""
    return any(one.__name__ == kind and one.__module__.startswith("pyrovae.") for one in type(value).__mro__)


def estimates_in(value: Any) -> list[Any]:
    """The estimates of a list that holds nothing else, or a single one; empty for any other value."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return listed if all(is_a(one, "Estimate") for one in listed) else []


def number(name: str, value: Any, expected: str = "a finite number") -> float:
    """A finite number; of an Estimate its mean."""
    array = checked_array(name, value.mean if is_a(value, "Estimate") else value)
    if array.size != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return float(array.reshape(()))


DEEPEST = 64  # axes of an array


def names_of(values: Any) -> list[str]:
    """Words for the places of an axis, from a list, an array or a labelled array."""
    if not hasattr(values, "__iter__") or getattr(values, "is_nested", False):
        raise TypeError(f"names of an axis must be a sequence, got {type(values).__name__}")
    return [str(one) for one in (np.asarray(values) if hasattr(values, "dtype") else values)]


def checked_array(name: str, values: Any) -> np.ndarray:
    """Numbers as an array: of arrays, tensors with and without gradients of any dtype and device, lists of these.

    A Split stands for its items, and an Estimate for its values per item. What has no numbers of its own to draw, as a
    model or a History, is refused with what to hand over instead.
    """
    if is_a(values, "Split"):
        values = values.x
    elif is_a(values, "Estimate"):
        values = values.pointwise["value"]
    elif instead := _what_to_draw(name, values):
        raise TypeError(f"{name} is {instead}")
    values = _without_tensors(name, values)
    if hasattr(values, "shape") and not hasattr(values, "__array__"):
        return checked_array(name, values[:])  # a memory-mapped view
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers, got a {type(values).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype} ({type(values).__name__})")
    return array


def _without_tensors(name: str, values: Any, depth: int = 0) -> Any:
    """Each tensor as an array without its gradient, also inside of lists."""
    if depth > DEEPEST:
        raise ValueError(f"{name} must be an array of numbers, got lists in lists without end")
    if isinstance(values, list | tuple):
        return [_without_tensors(name, one, depth + 1) for one in values]
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach()
    if getattr(tensor, "is_nested", False):
        raise ValueError(f"{name} is a nested tensor, of parts of several shapes: give parts of one shape")
    if tensor.is_meta:
        raise ValueError(f"{name} is on the meta device and has no values to draw")
    tensor = tensor.to_dense().cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        tensor = tensor.float()  # NumPy has no bfloat16
    return tensor.numpy()


def _what_to_draw(name: str, values: Any) -> str:
    """For an object without numbers of its own to draw: what it is, and what to hand over; else empty."""
    if is_a(values, "Dataset"):
        return f"a Dataset: give one of its parts, {name}.train or {name}.test"
    if is_a(values, "History"):
        return f"a History: learning_curve draws it; give one of its curves, as {name}.epochs['loss']"
    if is_a(values, "Gaps"):
        return f"a Gaps: gap_histogram draws it; give one of its columns, as {name}.pointwise['approximation']"
    if is_a(values, "Calibration"):
        return f"a Calibration: coverage_curve and rank_histogram draw it; give its ranks, {name}.pointwise['uniform']"
    if hasattr(values, "named_parameters"):
        return f"a model ({type(values).__name__}): give what it returns, as of encode(x), decode(z) or sample(n)"
    if hasattr(values, "log_prob"):
        return f"a distribution ({type(values).__name__}): give its mean or its draws, as {name}.sample()"
    if hasattr(values, "data_vars"):
        return f"a Dataset of several variables: give one of {', '.join(map(repr, values.data_vars))}"
    return ""


def checked_finite(name: str, array: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} NaN or infinite values, the first at {name}{first}; drop them"
        )
    return array.astype(np.float64)


def vector(name: str, values: Any, count: int | None = None, *, of: str = "", finite: bool = True) -> np.ndarray:
    array = checked_array(name, values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be one-dimensional and not empty, got shape {array.shape}")
    if count is not None and len(array) != count:
        raise ValueError(f"{name} must have as many values as {of}: {count} there, {len(array)} in {name}")
    return checked_finite(name, array) if finite else array.astype(np.float64)


def mapping(name: str, value: Any, expected: str, *, may_be_empty: bool = False) -> Mapping[str, Any]:
    """The dict, or whatever maps names to values; `expected` are the words for what it must hold."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict of {expected}, got {type(value).__name__}")
    if not value and not may_be_empty:
        raise ValueError(f"{name} is empty: expected a dict of {expected}")
    return value


def entries(name: str, value: Any, expected: str) -> Sequence[Any]:
    """The values of an entry of a dict; `expected` are the words for what there must be."""
    if isinstance(value, str) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    return value


def spread(name: str, values: Any, count: int, *, of: str) -> np.ndarray:
    array = vector(name, values, count, of=of)
    if (array < 0).any():
        raise ValueError(f"{name} must be at least 0, got {array.min():g}")
    return array


def checked_codes(
    name: str, values: Any, *, least: int = 2, exactly: int | None = None, count: int | None = None, of: str = ""
) -> np.ndarray:
    array = checked_array(name, values)
    width = array.shape[1] if array.ndim == 2 and len(array) else 0
    if width < least or (exactly is not None and width != exactly):
        expected = f"(N, d) with d of at least {least}" if exactly is None else f"(N, {exactly})"
        raise ValueError(f"{name} must have shape {expected} and N of at least 1, got {array.shape}")
    if count is not None and len(array) != count:
        raise ValueError(f"{name} must have a code for each of {of}: {of} has {count} items, {name} has {len(array)}")
    return checked_finite(name, array)


def checked_images(name: str, values: Any, *, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Images as (N, H, W) or (N, H, W, 3) in [0, 1]."""
    array = checked_array(name, values)
    shape = shape or array.shape
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[1] not in (1, 3)) or 0 in array.shape:
        hint = "; one image is " + name + "[None]" if array.ndim == 2 else ""
        if array.ndim == 4 and array.shape[3] in (1, 3):
            hint = f"; the channels look last: move them with numpy.moveaxis({name}, -1, {len(shape) - 3})"
        raise ValueError(
            f"{name} must hold one image (H, W) or (C, H, W), C of 1 or 3, or more, got shape {shape}{hint}"
        )
    if array.dtype.kind in "iu" and array.max() > 1:
        raise ValueError(f"{name} looks like 0..255 integers; divide by 255 (min {array.min()}, max {array.max()})")
    shown: np.ndarray = np.clip(checked_finite(name, array), 0.0, 1.0)
    if shown.ndim == 4:
        shown = shown[:, 0] if shown.shape[1] == 1 else np.moveaxis(shown, 1, 3)
    return shown


def decimal(value: float) -> str:
    return f"{round(float(value), 1) + 0.0:.1f}"  # + 0.0: no "-0.0"


def probability(name: str, value: float) -> float:
    """`value`, checked to be between 0 and 1; the import is local because it imports torch."""
    from pyrovae import checks

    return checks.probability(name, value)
