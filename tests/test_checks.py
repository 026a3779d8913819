"""Boundary checks: what passes, in which form, and what each refusal says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyrovae import checks


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_whole_numbers_of_every_kind(value):
    assert checks.whole("n", value) == 3
    assert type(checks.whole("n", value)) is int


@pytest.mark.parametrize("value", [2.0, "2", None, True])
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match="n must be an integer of at least 1, got"):
        checks.whole("n", value)


@pytest.mark.parametrize(
    "value", [b"3", bytearray(b"\x08"), memoryview(b"38"), "38", 8, np.array([3, 8]), {3, 8}, None]
)
def test_what_is_no_shape(value):
    # a byte string is a sequence of integers: of b"3" the shape would be (51,)
    with pytest.raises(TypeError, match=r"hidden_dims must be a sequence of sizes such as \(8,\), got"):
        checks.sizes("hidden_dims", value)


@pytest.mark.parametrize("value", [[3, 8], (3, 8), range(3, 9, 5), torch.Size((3, 8)), [np.int64(3), torch.tensor(8)]])
def test_shapes_of_every_kind(value):
    assert checks.sizes("event_shape", value) == (3, 8)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_positive(value):
    with pytest.raises(ValueError, match="rate must be a finite number greater than 0"):
        checks.positive("rate", value)
    assert checks.positive("rate", np.float32(0.5)) == 0.5
    assert checks.positive("beta", 0, zero=True) == 0.0
    with pytest.raises(TypeError, match="got '1'"):
        checks.positive("rate", "1")


def test_items_are_copied_cast_and_checked():
    x = np.arange(6, dtype=np.float64).reshape(2, 3)[::-1]
    tensor = checks.items(x, (3,), dtype=torch.float32)
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]
    with pytest.raises(
        ValueError, match=r"x must have shape \(N, 1, 3\), got \(2, 3\); x.reshape\(\(-1, 1, 3\)\) would fit"
    ):
        checks.items(x, (1, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3\), got \(3,\); one item is x\[None\]"):
        checks.items(x[0], (3,))
    with pytest.raises(TypeError, match="x must be an array of numbers"):
        checks.items(np.array(["a", "b"]), ())
    with pytest.raises(TypeError, match="x must be an array of numbers"):
        checks.items([[1, 2, 3], [1]], (3,))


@pytest.mark.parametrize(
    ("given", "wanted", "hint"),
    [
        ((5, 8, 8, 3), (3, 8, 8), r"x\.movedim\(-1, 1\) would fit"),
        ((5, 3, 9, 8), (3, 8, 9), "transpose them"),
        ((5, 8, 3), (3, 8), "transpose them"),
        ((5, 64), (1, 8, 8), r"x\.reshape\(\(-1, 1, 8, 8\)\) would fit"),
        ((5, 8, 8), (1, 8, 8), r"x\.reshape\(\(-1, 1, 8, 8\)\) would fit"),
        ((5, 8, 8), (64,), r"x\.reshape\(\(-1, 64\)\) would fit"),
        ((5, 4, 16), (8, 8), r"got \(5, 4, 16\)$"),
    ],
)
def test_a_reshape_is_advised_only_where_it_keeps_every_entry_in_its_place(given, wanted, hint):
    with pytest.raises(ValueError, match=hint) as error:
        checks.items(np.zeros(given), wanted)
    assert ("reshape((" in str(error.value)) == ("reshape" in hint and "transpose" not in hint)


def test_a_sparse_array_is_to_be_made_dense():
    import scipy.sparse

    for sparse in (scipy.sparse.eye(3, format="csr"), torch.eye(3).to_sparse()):
        with pytest.raises(TypeError, match="x is a sparse array: make it dense first"):
            checks.items(sparse, (3,))


@pytest.mark.parametrize(("name", "meant"), [("cdua", "cuda"), ("gpu", "cuda"), ("CPU ", "cpu")])
def test_an_unknown_device_is_answered_with_the_closest(name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        checks.device(name)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, ">f4", ">i8", np.longlong])
def test_numbers_of_every_kind(kind):
    assert checks.items(np.array([[0, 1]], dtype=kind), (2,)).tolist() == [[0.0, 1.0]]
    if np.dtype(kind).kind == "u":
        with pytest.raises(ValueError, match=r"looks like 0\.\.255"):
            checks.items(np.array([[0, 200]], dtype=kind), (2,))


def test_what_would_lose_its_meaning_is_refused():
    with pytest.raises(TypeError, match="masked array, whose mask would be lost"):
        checks.items(np.ma.masked_array([[1.0, 2.0]], [[True, False]]), (2,))
    with pytest.raises(TypeError, match="array of real numbers"):
        checks.items(np.array([[1j, 0]]), (2,))


def test_missing_entries_are_let_through_only_where_asked():
    x = torch.tensor([[1.0, math.nan]])
    assert torch.isnan(checks.items(x, (2,), missing=True)[0, 1])
    with pytest.raises(ValueError, match=r"1 NaN or infinite values, the first at x\[0, 1\]"):
        checks.items(x, (2,))
    with pytest.raises(ValueError, match=r"the first at x\[0, 0\]"):
        checks.items(torch.tensor([[math.inf, math.nan]]), (2,), missing=True)


def test_support_says_what_would_fit():
    checks.support(torch.tensor([0.0, math.nan, 1.0]), constraints.boolean, "Bernoulli")
    with pytest.raises(ValueError, match=r"50.0% lie strictly between 0 and 1"):
        checks.support(torch.tensor([0.0, 0.5]), constraints.boolean, "Bernoulli")
    with pytest.raises(ValueError, match=r"\(min -1, max 2\).*fits: 'normal'"):
        checks.support(torch.tensor([-1.0, 2.0]), constraints.unit_interval, "ContinuousBernoulli")


def test_labels_of_every_kind():
    assert checks.labels(torch.tensor([3, 1]), 2).tolist() == [3, 1]
    assert checks.labels(["b", "a"], 2).tolist() == ["b", "a"]
    with pytest.raises(ValueError, match=r"one-dimensional"):
        checks.labels([[1], [2]], 2)
    with pytest.raises(ValueError, match=r"x has 3 items, y has 2"):
        checks.labels([1, 2], 3)
    with pytest.raises(ValueError, match=r"1 missing labels \(NaN or None\), the first at y\[1\]"):
        checks.labels(np.array(["a", None], dtype=object), 2)
    with pytest.raises(ValueError, match=r"at least 2 classes, got only \['a'\]"):
        checks.several_classes(np.array(["a", "a"]))


@pytest.mark.parametrize("name", ["meta", "cuda:7", "mps", None, 3.5])
def test_devices_that_cannot_be_used(name):
    with pytest.raises(ValueError, match="available here: cpu"):
        checks.device(name)


def test_devices():
    assert checks.device("cpu") == torch.device("cpu")
    assert checks.device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="got 'quantum'; available here: cpu"):
        checks.device("quantum")
