"""A decoder written down as steps that a page can run, and run from that text by NumPy."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyrovae.report.network.operations import (
    Constant,
    Untranslatable,
    Value,
    Writer,
    reader_of,
    translator_of,
)
from pyrovae.report.network.packing import as_text, halved
from pyrovae.report.network.tape import Call, taped

__all__ = ["Program", "Untranslatable", "translated"]

BATCH = 3  # codes that a decoder is noted with: an operation across codes does not keep their number


@dataclass(frozen=True)
class Program:
    """The steps from a code to a decoded item, as plain data: what JSON holds, and nothing else.

    `text["steps"]` are dicts: the name of an operation ("do"), its attributes ("with"), the shape it makes for one code
    ("shape"), and its inputs ("of"): the place of an earlier value, 0 for the code and k for what step k - 1 made, or
    -1 - c for constant c. `text["constants"]` are dicts of shape, type ("f2" or "f4"), scale and base64.
    """

    text: dict[str, Any]

    def run(self, codes: np.ndarray) -> np.ndarray:
        """Decoded items of codes (N, latent_dim), flat: (N, entries). In float32, from the text, as the page does.

        The page adds up in float64 and rounds each array to float32: the two differ by a few units of float32's last
        place, a thousandth of what float16 weights do.
        """
        constants = [_unpacked(each) for each in self.text["constants"]]
        values = [np.asarray(codes, np.float32)]
        last = {place: k for k, step in enumerate(self.text["steps"]) for place in step["of"] if place >= 0}
        for k, step in enumerate(self.text["steps"]):
            arrays = [values[i] if i >= 0 else constants[-1 - i] for i in step["of"]]
            if step["do"] == "concatenate":
                arrays = [
                    a if i >= 0 else np.broadcast_to(a, (len(codes), *a.shape))
                    for a, i in zip(arrays, step["of"], strict=True)
                ]
            with np.errstate(all="ignore"):
                value = np.asarray(reader_of(step["do"])(arrays, step["shape"], **step["with"]), np.float32)
            values.append(value)
            for place in step["of"]:
                if place >= 0 and last[place] == k:
                    values[place] = np.empty(0, np.float32)  # no later step reads it
        return values[-1].reshape(len(codes), -1)

    @property
    def size(self) -> int:
        """The bytes of the constants as text."""
        return sum(len(each["data"]) for each in self.text["constants"])

    @property
    def products(self) -> int:
        """Multiplications for one code, nearly: what the page's time goes with."""
        total = 0
        for step in self.text["steps"]:
            entries = math.prod(step["shape"])
            weights = [self.text["constants"][-1 - i]["shape"] for i in step["of"] if i < 0]
            if step["do"] == "linear":
                total += math.prod(weights[0])
            elif step["do"] == "convolution":
                places = math.prod(step["shape"][1:])
                if step["with"]["transposed"]:
                    places //= math.prod(step["with"]["stride"])
                total += places * math.prod(weights[0])
            else:
                total += entries
        return total


@dataclass
class _Node:
    """A call with the places of the values that it reads and makes."""

    call: Call
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    makes: list[_Place]


@dataclass(frozen=True)
class _Place:
    index: int


def translated(
    decode: Callable[[Tensor], Tensor],
    latent_dim: int,
    like: Tensor,
    *,
    rows: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Program:
    """What `decode` does to codes (N, latent_dim), written down; `like` has the dtype and device of a code.

    Weights of linear layers and convolutions are kept in float16, and all else in float32. Raises `Untranslatable`
    where `decode` does what the page cannot do. `rows` makes the inputs of a few codes and a seed, where some inputs
    are no codes and must be values that `decode` takes. The course that it takes at a few standard normal codes is that
    which is written down: whoever uses the program compares it with `decode` at many.

    >>> import torch
    >>> from pyrovae.report.network import translated
    >>> program = translated(torch.nn.Linear(2, 3), 2, torch.zeros(()))
    >>> [step["do"] for step in program.text["steps"]], program.run([[0.0, 0.0], [1.0, 2.0]]).shape
    (['linear'], (2, 3))
    """
    draws = np.random.default_rng(0).standard_normal((BATCH, latent_dim))
    width = latent_dim
    if rows is not None:
        draws = rows(draws, 0)
        width = draws.shape[1]
    code = torch.as_tensor(draws).to(like)
    calls, result = taped(decode, code)
    nodes, end = _nodes(calls, code, result)
    writer = Writer(BATCH, width)
    made: dict[_Place, Value] = {_Place(0): writer.code}
    for node in _needed(nodes, end):

        def placed(leaf: Any) -> Any:
            return made[leaf] if isinstance(leaf, _Place) else leaf

        args, kwargs = tree_map(placed, (node.args, node.kwargs))
        translate = translator_of(node.call.name)
        try:
            given = translate(writer, node.call.outputs, *args, **kwargs)
        except (TypeError, ValueError) as error:  # torch has called it in a way that the translator does not know
            raise Untranslatable(f"the operation {node.call.name!r} in an unusual form") from error
        values = given if isinstance(given, list) else [given]
        for value, output in zip(values, node.call.outputs, strict=False):
            if value.shape != writer.shape_of(output):
                raise Untranslatable(f"the operation {node.call.name!r} in an unusual form")
        made.update(zip(node.makes, values, strict=False))
    if end not in made:
        raise Untranslatable("a result that does not depend on the code")
    return Program(_text(writer, made[end], writer.shape_of(result)))


def _nodes(calls: Sequence[Call], code: Tensor, result: Tensor) -> tuple[list[_Node], _Place]:
    """The calls with the places of their values; what a call changes in place is a new value from then on."""
    places = {id(code): _Place(0)}
    nodes, count = [], 1
    for call in calls:

        def placed(leaf: Any) -> Any:
            return places.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = tree_map(placed, (call.args, call.kwargs))
        makes = [_Place(count + i) for i in range(len(call.outputs))]
        count += len(makes)
        places.update(zip(map(id, call.outputs), makes, strict=True))
        nodes.append(_Node(call, args, kwargs, makes))
    if id(result) not in places:
        raise Untranslatable("a result that does not depend on the code")
    return nodes, places[id(result)]


def _needed(nodes: Sequence[_Node], end: _Place) -> list[_Node]:
    """The nodes that the end is made of, in their order."""
    wanted, kept = {end}, []
    for node in reversed(nodes):
        if wanted.intersection(node.makes):
            kept.append(node)
            wanted.update(leaf for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, _Place))
    return kept[::-1]


def _text(writer: Writer, end: Value, shape: tuple[int, ...]) -> dict[str, Any]:
    if end.index != writer.count - 1 or end.index == 0:  # the last step makes the result
        end = writer.step("reshape", [end], shape)
    constants: list[dict[str, Any]] = []
    steps = []
    for name, inputs, attributes, value in writer.steps:
        places = []
        for each in inputs:
            if isinstance(each, Value):
                places.append(each.index)
            else:
                constants.append(_packed(each))
                places.append(-len(constants))
        steps.append({"do": name, "of": places, "with": attributes, "shape": list(value.shape)})
    return {"steps": steps, "constants": constants}


def _packed(constant: Constant) -> dict[str, Any]:
    array, scale, dtype = constant.array, 1.0, "f4"
    if not np.isfinite(array).all():
        raise Untranslatable("a number that is not finite")
    if constant.half:
        array, scale = halved(array)
        dtype = "f2"
    return {"shape": list(constant.array.shape), "type": dtype, "scale": scale, "data": as_text(array, dtype)}


def _unpacked(text: dict[str, Any]) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(text["data"]), f"<{text['type']}").astype(np.float32)
    return (array * np.float32(text["scale"])).reshape(text["shape"])
