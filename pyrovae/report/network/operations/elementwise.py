"""Operations entry by entry: activations, arithmetic, and the links of likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import erf, expit
from torch import Tensor

from pyrovae.report.network.operations.registry import (
    Constant,
    Untranslatable,
    Value,
    Writer,
    as_numbers,
    reads,
    translates,
)

__all__ = ["FUNCTIONS", "mapped"]


def _softplus(x: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    scaled = beta * x
    return np.where(scaled > threshold, x, np.logaddexp(0, scaled) / beta)


def _elu(x: np.ndarray, alpha: float, scale: float, input_scale: float) -> np.ndarray:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(input_scale * x, 0)))


def _tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# name: arrays, then numbers; the page's table in elementwise.js has the same names
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "identity": lambda x: x,
    "abs": np.abs,
    "neg": np.negative,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": expit,
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "erf": erf,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * expit(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": _tanh_gelu,
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": _softplus,
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": _elu,
    "clamp": lambda x, low, high: np.clip(x, low, high),
    "add": lambda a, b, alpha: a + alpha * b,
    "sub": lambda a, b, alpha: a - alpha * b,
    "rsub": lambda a, b, alpha: b - alpha * a,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "where": lambda c, a, b: np.where(c != 0, a, b),
    "affine": lambda x, scale, shift: x * scale + shift,
    "prelu": lambda x, slope: np.where(x > 0, x, slope * x),
}

# fmt: off
ONE = (
    "abs", "neg", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sigmoid", "tanh", "sinh", "cosh",
    "sin", "cos", "sign", "floor", "ceil", "round", "erf", "relu", "silu", "mish",
    "hardsigmoid", "hardswish", "logical_not",
)
TWO = ("mul", "pow", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne", "logical_and", "logical_or")
# fmt: on
WITH_ALPHA = ("add", "sub", "rsub")
SAME = ("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "dropout", "positive")


def mapped(write: Writer, name: str, operands: Sequence[Any], numbers: Sequence[float] = ()) -> Value:
    """Write a function of entries down; operands that are no values are numbers or tensors of their own."""
    rank = max(len(each.shape) for each in operands if isinstance(each, Value))
    inputs = [each if isinstance(each, Value | Constant) else write.constant(each, rank) for each in operands]
    shapes = [each.shape if isinstance(each, Value) else each.array.shape for each in inputs]
    # torch would line up the last axes, that of the codes among them
    if any(len(shape) < rank for shape, each in zip(shapes, inputs, strict=True) if isinstance(each, Value)):
        raise Untranslatable("an operation across codes")
    return write.step("map", inputs, np.broadcast_shapes(*shapes), f=name, numbers=list(numbers))


@reads("map")
def _map(arrays: Sequence[np.ndarray], shape: Sequence[int], *, f: str, numbers: Sequence[float]) -> np.ndarray:
    with np.errstate(all="ignore"):
        value = FUNCTIONS[f](*arrays, *numbers)
    return np.asarray(value, np.float32)


def _register() -> None:
    for name in ONE:
        translates(name, f"{name}_")(lambda write, out, x, f=name, **_: mapped(write, f, [x]))
    for name in TWO:
        translates(name, f"{name}_")(lambda write, out, a, b, f=name: mapped(write, f, [a, b]))
    for name in WITH_ALPHA:
        translates(name, f"{name}_")(
            lambda write, out, a, b, alpha=1, f=name: mapped(write, f, [a, b], as_numbers(alpha))
        )


_register()


@translates(*SAME)
def _same(write: Writer, out: Sequence[Tensor], x: Value, *_: Any, **__: Any) -> Value:
    if not out[0].is_floating_point():
        raise Untranslatable(f"numbers of type {out[0].dtype}")
    return x


@translates("expand", "expand_as", "broadcast_to")
def _expand(write: Writer, out: Sequence[Tensor], x: Value, *_: Any, **__: Any) -> Value:
    shape = write.shape_of(out[0])
    return mapped(write, "identity", [x]) if shape == x.shape else _spread(write, x, shape)


def _spread(write: Writer, x: Value, shape: tuple[int, ...]) -> Value:
    return mapped(write, "add", [x, np.zeros(shape, np.float32)], [1.0])


@translates("pow_", "square")
def _square(write: Writer, out: Sequence[Tensor], x: Value, power: float = 2) -> Value:
    return mapped(write, "pow", [x, power])


@translates("div", "div_", "true_divide")
def _div(write: Writer, out: Sequence[Tensor], a: Any, b: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise Untranslatable("a division that is rounded")
    return mapped(write, "div", [a, b])


@translates("clamp", "clamp_", "hardtanh", "hardtanh_")
def _clamp(write: Writer, out: Sequence[Tensor], x: Value, low: Any = None, high: Any = None, **named: Any) -> Value:
    low, high = named.get("min", low), named.get("max", high)
    limits = [-math.inf if low is None else low, math.inf if high is None else high]
    return mapped(write, "clamp", [x], as_numbers(*limits))


@translates("clamp_min", "clamp_min_")
def _clamp_min(write: Writer, out: Sequence[Tensor], x: Value, low: Any) -> Value:
    return mapped(write, "clamp", [x], as_numbers(low, math.inf))


@translates("softplus")
def _softplus_call(write: Writer, out: Any, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    return mapped(write, "softplus", [x], as_numbers(beta, threshold))


@translates("leaky_relu", "leaky_relu_")
def _leaky_relu(write: Writer, out: Sequence[Tensor], x: Value, slope: float = 0.01) -> Value:
    return mapped(write, "leaky_relu", [x], as_numbers(slope))


@translates("elu", "elu_")
def _elu_call(write: Writer, out: Any, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    return mapped(write, "elu", [x], as_numbers(alpha, scale, input_scale))


@translates("celu", "celu_")
def _celu(write: Writer, out: Sequence[Tensor], x: Value, alpha: float = 1) -> Value:
    return mapped(write, "elu", [x], as_numbers(alpha, 1, 1 / alpha))


@translates("gelu")
def _gelu(write: Writer, out: Sequence[Tensor], x: Value, *, approximate: str = "none") -> Value:
    return mapped(write, "gelu_tanh" if approximate == "tanh" else "gelu", [x])


@translates("log_sigmoid_forward")
def _log_sigmoid(write: Writer, out: Sequence[Tensor], x: Value) -> list[Value]:
    return [mapped(write, "log_sigmoid", [x])]


@translates("_prelu_kernel")
def _prelu(write: Writer, out: Sequence[Tensor], x: Value, slope: Any) -> Value:
    return mapped(write, "prelu", [x, slope])


@translates("where")
def _where(write: Writer, out: Sequence[Tensor], condition: Any, a: Any, b: Any) -> Value:
    return mapped(write, "where", [condition, a, b])


@translates("masked_fill", "masked_fill_")
def _masked_fill(write: Writer, out: Sequence[Tensor], x: Any, mask: Any, value: Any) -> Value:
    return mapped(write, "where", [mask, value, x])
