"""Boundary checks: what passes, in which form, and what each refusal says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.data import Dataset, Split


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
    tensor = checks.checked_array(x, (3,), dtype=torch.float32)
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]
    with pytest.raises(
        ValueError, match=r"x must have shape \(N, 1, 3\), got \(2, 3\); x.reshape\(\(-1, 1, 3\)\) would fit"
    ):
        checks.checked_array(x, (1, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3\), got \(3,\); one item is x\[None\]"):
        checks.checked_array(x[0], (3,))
    with pytest.raises(TypeError, match="x must be an array of numbers"):
        checks.checked_array(np.array(["a", "b"]), ())
    with pytest.raises(TypeError, match="x must be an array of numbers"):
        checks.checked_array([[1, 2, 3], [1]], (3,))


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
        checks.checked_array(np.zeros(given), wanted)
    assert ("reshape((" in str(error.value)) == ("reshape" in hint and "transpose" not in hint)


def test_a_sparse_array_is_to_be_made_dense():
    import scipy.sparse

    for sparse in (scipy.sparse.eye(3, format="csr"), torch.eye(3).to_sparse()):
        with pytest.raises(TypeError, match="x is a sparse array: make it dense first"):
            checks.checked_array(sparse, (3,))


@pytest.mark.parametrize(("name", "meant"), [("cdua", "cuda"), ("gpu", "cuda"), ("CPU ", "cpu")])
def test_an_unknown_device_is_answered_with_the_closest(name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        checks.device(name)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, ">f4", ">i8", np.longlong])
def test_numbers_of_every_kind(kind):
    assert checks.checked_array(np.array([[0, 1]], dtype=kind), (2,)).tolist() == [[0.0, 1.0]]
    assert checks.checked_array(np.array([[0, 100]], dtype=kind), (2,)).tolist() == [[0.0, 100.0]]  # counts, say


def test_what_would_lose_its_meaning_is_refused():
    with pytest.raises(TypeError, match="masked array, whose mask would be lost"):
        checks.checked_array(np.ma.masked_array([[1.0, 2.0]], [[True, False]]), (2,))
    with pytest.raises(TypeError, match="array of real numbers"):
        checks.checked_array(np.array([[1j, 0]]), (2,))


def test_missing_entries_are_let_through_only_where_asked():
    x = torch.tensor([[1.0, math.nan]])
    assert torch.isnan(checks.checked_array(x, (2,), allow_nan=True)[0, 1])
    with pytest.raises(ValueError, match=r"1 NaN or infinite values, the first at x\[0, 1\]"):
        checks.checked_array(x, (2,))
    with pytest.raises(ValueError, match=r"the first at x\[0, 0\]"):
        checks.checked_array(torch.tensor([[math.inf, math.nan]]), (2,), allow_nan=True)


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


# what came is looked at before it is cast ---------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
def test_a_value_beyond_the_dtypes_range_is_no_infinity_that_came(missing):
    x = torch.tensor([[1e300, 0.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"values of up to 1e\+300, and torch.float32 ends at 3.4e\+38") as error:
        checks.checked_array(x, (2,), dtype=torch.float32, allow_nan=missing)
    assert "infinite" not in str(error.value)
    for kind in (torch.float32, torch.bfloat16):  # the second has fewer digits and a wider range
        with pytest.raises(ValueError, match=r"torch.float16 ends at 6.55e"):
            checks.checked_array(torch.tensor([[1e5, 0.0]], dtype=kind), (2,), dtype=torch.float16)
    assert checks.checked_array(x, (2,), dtype=torch.float64) is x


def test_a_column_that_float32_does_not_hold_is_named_with_its_figures():
    x = 4.5e6 + 0.1 * torch.randn(200, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] -= 4.5e6
    x[:, 1, 1:] -= 4.5e6
    named = r"torch.float32 does not hold x: .* one column, x\[:, 1, 0\] \(mean 4500000.*0.0961\), by up to 0.247, .*"
    with pytest.raises(ValueError, match=named + r"pair.double\(\) of a pair\), or subtract.*x - x.mean\(0\)"):
        checks.checked_array(x, (2, 3), dtype=torch.float32)
    # integers, whose mean torch does not take, and numbers of no axis but the items'
    with pytest.raises(ValueError, match=r"one column, t \(mean 1.7641152e\+12, .* as in t - t\[0\]"):
        checks.checked_array(1_764_115_200_000 + torch.arange(300), (), name="t", dtype=torch.float32)
    for far in (x, x.numpy(), x.tolist()):
        assert torch.equal(checks.checked_array(far, (2, 3), dtype=torch.float64), x)


def test_integers_that_nothing_here_holds():
    far = np.array([[2**63 + 5, 1]], np.uint64)
    for x in (far, torch.from_numpy(far)):
        with pytest.raises(ValueError, match=r"x holds integers of 2\*\*63 and over \(torch.uint64\)"):
            checks.checked_array(x, (2,))
    near = torch.from_numpy(far - np.uint64(6) * (far > 1))
    assert checks.checked_array(near, (2,), dtype=torch.float64)[0, 0] == 2.0**63
    with pytest.raises(ValueError, match=r"torch.float64 does not hold x"):
        checks.checked_array(2**60 + torch.arange(40).reshape(20, 2), (2,), dtype=torch.float64)


def test_uint8_alone_is_taken_for_pixels():
    x = np.array([[0, 200], [3, 7]])
    with pytest.raises(
        ValueError, match=r"looks like 0\.\.255 integers; divide by 255 .*; int64 where they are counts"
    ):
        checks.checked_array(x.astype(np.uint8), (2,))
    for kind in (np.int8, np.int16, np.uint16, np.int32, np.uint64, np.float32):
        assert checks.checked_array((x % 101).astype(kind), (2,)).tolist() == [[0.0, 99.0], [3.0, 7.0]]
    # where the likelihood lives on [0, 1] they can be nothing else
    with pytest.raises(
        ValueError, match=r"looks like 0\.\.255 integers; divide by 255 \(min 0, max 200, torch.int64\)$"
    ):
        checks.support(torch.from_numpy(x), constraints.unit_interval, "ContinuousBernoulli")
    with pytest.raises(ValueError, match=r"outside the support .* \(min 0, max 300\)"):
        checks.support(torch.tensor([0, 300]), constraints.boolean, "Bernoulli")
    with pytest.raises(
        ValueError, match=r"Gamma likelihood, GreaterThan\(.*\), in 1 of 2 values, the first x\[0\] = 0"
    ):
        checks.support(torch.tensor([0, 3]), constraints.positive, "Gamma")


def test_support_is_of_what_came():
    with pytest.raises(ValueError, match=r"\(min 0.5, max 1.000000001\)"):
        checks.support(torch.tensor([0.5, 1 + 1e-9], dtype=torch.float64), constraints.unit_interval, "Continuous")
    with pytest.raises(ValueError, match=r"grey values \(1 of 9000, such as 1e-50, lie strictly between"):
        grey = torch.zeros(9000, dtype=torch.float64)
        grey[7] = 1e-50
        checks.support(grey, constraints.boolean, "Bernoulli")
    with pytest.raises(ValueError, match=r"inside the support of the Gamma likelihood, but not once .* torch.float32"):
        checks.support_once_rounded(torch.tensor([1e-50]).float(), constraints.positive, "Gamma")


# tables and splits ----------------------------------------------------------------------------------


def test_columns_of_a_table_that_are_no_numbers_are_named():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"height": [1.5, 2.5], "sex": ["f", "m"], "born": pd.to_datetime(["1990", "1991"])})
    table["age"] = pd.array([30, None], dtype="Int64")
    table["score"] = pd.array([None, 0.5], dtype="Float64")
    table["rank"] = pd.array([3, 2**53 + 1], dtype="Int64")
    for column, words in (
        ("sex", r"\((object|str)\) holds no numbers: encode it"),
        ("born", r"holds dates or times \(datetime64.*seconds since the first"),
        ("age", r"\(Int64\) has missing entries \(NA or None\): fill them"),
        ("score", r"\(Float64\) has missing entries"),
    ):
        with pytest.raises(TypeError, match=f"column '{column}' of x .*{words}" if words[0] == "\\" else words):
            checks.checked_array(table[["height", column]], (2,))
    whole = checks.array(table[["rank", "rank"]].set_axis(["a", "b"], axis=1), "x")
    assert whole.dtype == torch.int64
    assert whole[1].tolist() == [2**53 + 1] * 2
    assert checks.checked_array(table[["height"]], (1,), dtype=torch.float32).tolist() == [[1.5], [2.5]]
    partly = pd.DataFrame({"a": [1.5, math.nan], "b": [1, 2]})  # NaN in a column of NumPy's own is a missing entry
    assert checks.checked_array(partly, (2,), allow_nan=True).isnan().tolist() == [[False, False], [True, False]]
    with pytest.raises(ValueError, match=r"1 NaN or infinite values, the first at x\[1, 0\]"):
        checks.checked_array(partly, (2,))
    # beside a float NumPy would round these without a word
    narrow = pd.DataFrame({"t": 2**25 + np.arange(4), "v": np.zeros(4, np.float32)})
    assert checks.array(narrow, "x")[:, 0].tolist() == [2**25 + i for i in range(4)]  # in float64, not in v's float32
    table = pd.DataFrame({"t": 2**60 + np.arange(50), "v": np.linspace(0, 1, 50)})
    with pytest.raises(ValueError, match=r"torch.float64 does not hold x\['t'\]"):
        checks.checked_array(table, (2,), dtype=torch.float64)
    with pytest.raises(TypeError, match="several columns named 'v'"):
        checks.checked_array(table.set_axis(["v", "v"], axis=1), (2,))


def test_an_object_whose_slice_is_no_array_is_named():
    class Annotated:  # as AnnData is
        shape, X = (2, 3), np.eye(2, 3)

        def __getitem__(self, _):
            return self

    with pytest.raises(TypeError, match=r"x\[:\] of this Annotated is none: give its array, x.X"):
        checks.checked_array(Annotated(), (3,))
    assert checks.checked_array(Annotated().X, (3,)).shape == (2, 3)


def test_a_split_is_its_items_and_a_table_with_columns_x_and_y_is_none():
    split = Split(torch.eye(3), torch.tensor([0, 1, 0]))
    assert checks.checked_array(split, (3,)) is split.x
    assert checks.parts_of(split) == (split.x, split.y)
    assert checks.parts_of((split.x, split.y)) == ((split.x, split.y), None)
    with pytest.raises(TypeError, match=r"x is a whole Dataset: give one part of it, x.train or x.test"):
        checks.checked_array(Dataset(split, split, (3,), "eye"), (3,))
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    assert checks.checked_array(table, (2,)).tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("value", [0, 1, 1.0, -0.1, 95, math.nan, math.inf, 10**400, "0.9", None, True, [0.5]])
def test_a_probability_lies_strictly_between_0_and_1(value):
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got "):
        checks.probability("level", value)


def test_a_probability_of_any_real_type_is_a_float():
    for value in (0.25, np.float32(0.25), np.float64(0.25)):
        assert checks.probability("level", value) == 0.25
        assert type(checks.probability("level", value)) is float
