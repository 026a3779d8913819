"""Python numbers among a step's arguments: types that are asked for, kept, changed or too large give Pyro's losses."""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import math
import numbers as abstract

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from pyro.infer import SVI, Trace_ELBO

from pyrovae import CaptureError, CompiledSVI
from pyrovae.compile.arguments import kind_of
from pyrovae.compile.names import Names, alike
from pyrovae.compile.python_numbers import Numbers, other_than

pytestmark = [needs_compiler, pytest.mark.usefixtures("interpreted", "float32")]
X = torch.arange(1.0, 7.0)
ONES = torch.ones(6)


def scaling(read):
    """A model whose data are scaled by what a function makes of the numbers."""

    def model(x, *numbers):
        scale = read(*numbers)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x * scale)

    return model


def guide(x, *_):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))


def steps(kind, model, rows, x=X):
    """The losses of steps with these numbers, or the types of their errors; the parameter; and the SVI."""
    pyro.clear_param_store()
    svi = kind(model, guide, pyro.optim.SGD({"lr": 0.1}), loss=Trace_ELBO())
    found = []
    for row in rows:
        pyro.set_rng_seed(1)
        try:
            found.append(svi.step(x, *row))
        except Exception as error:
            found.append(type(error))
    return found, float(pyro.param("loc").detach()), svi


def require_alike(model, rows):
    theirs, by_theirs, _ = steps(SVI, model, rows)
    ours, by_ours, svi = steps(CompiledSVI, model, rows)
    for one, other in zip(ours, theirs, strict=True):
        assert one == (other if isinstance(other, type) else pytest.approx(other, rel=1e-5))
    assert by_ours == pytest.approx(by_theirs, rel=1e-5)
    return svi


# what type a number has -----------------------------------------------------------------------------

asks = isinstance
kind = type
HIDDEN = np.array([type], dtype=object)  # where no name leads to what it is


def matched(b):
    match b:
        case float():
            return 2 * ONES
    return ONES


@functools.singledispatch
def dispatched(_):
    return ONES


@dispatched.register
def _(_: float):
    return 2 * ONES


def swallowed(n):
    try:
        return ONES * (n & 3)
    except TypeError:
        return ONES * n


def reversed_division(n):
    try:
        return ONES * divmod(7, n)[0]
    except TypeError:
        return ONES


def by_modulus(n):
    try:
        return ONES * pow(n, 2, 7)
    except TypeError:
        return ONES


QUESTIONS = {
    "type": lambda b: 2 * ONES if type(b) is float else ONES,
    "another name of type": lambda b: 2 * ONES if kind(b) is float else ONES,
    "type of a library's file": lambda b: 2 * ONES if builtins.type(b) is float else ONES,
    "type, with the same value at first": lambda b: b * ONES if type(b) is float else 0.5 * ONES,
    "type, after another condition": lambda b: b * ONES if kind(b) is float and b > 0.7 else ONES,
    "match": matched,
    "isinstance by another name": lambda b: 2 * ONES if asks(b, float) else ONES,
    "an abstract class": lambda b: 2 * ONES if asks(b, abstract.Number) else ONES,
    "numpy": lambda b: 2 * ONES if np.isscalar(b) else ONES,
    "singledispatch": lambda b: dispatched(b),
    "a number of NumPy": lambda b: 2 * ONES if b == np.float64(0.75) else ONES,
    "a rounded number's bits": lambda b: swallowed(round(4 * b)),
}


@pytest.mark.parametrize(
    "what", [name if i < 1 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(QUESTIONS)]
)
def test_a_question_of_the_type_is_answered_as_in_eager_mode(what):
    svi = require_alike(scaling(QUESTIONS[what]), [(0.5,), (0.75,), (0.9,)])
    assert svi.compiles == 3  # for each value


OF_INTEGERS = {"an int's bits": swallowed, "a reversed division": reversed_division, "a modulus": by_modulus}


@pytest.mark.parametrize("what", [*QUESTIONS, *OF_INTEGERS])
def test_a_question_is_noticed(what):
    """By the stand-in, or by the code where no stand-in could see it: without a capture."""
    read = QUESTIONS[what] if what in QUESTIONS else OF_INTEGERS[what]
    numbers = Numbers({0: 0.75 if what in QUESTIONS else 5})
    asked = Names([read], []).ask_types
    with contextlib.suppress(Exception):  # of any type: most end the capture by one
        read(numbers.stand_ins[0])
    assert numbers.fixed == {0} or asked


def test_type_of_self_is_no_question_of_a_number():
    class Model:
        def __call__(self, x, b):
            name = type(self).__name__
            scaling(lambda b: b * ONES * len(name) / 5)(x, b)

    assert require_alike(Model(), [(0.5,), (0.75,), (0.9,)]).compiles == 1
    assert not Names([Model()], []).ask_types


def test_a_gradient_alone_that_differs_is_seen():
    def model(x, b):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = z if HIDDEN[0](b) is float else z.detach()
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x * b)

    rows = [(0.5,), (0.75,)]
    assert require_alike(model, rows).compiles == 2
    detached = lambda x, b: pyro.sample(  # noqa: E731
        "x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)).detach(), 1.0).expand([6]).to_event(1), obs=x * b
    )
    (first, _), by_detached, _ = steps(SVI, detached, rows)
    (right, _), by_right, _ = steps(SVI, model, rows)
    assert first == pytest.approx(right) and by_detached != pytest.approx(by_right)  # the control: one loss, two slopes


def test_a_question_whose_answer_does_not_matter_for_the_first_number_is_seen():
    """The capture is compared with eager mode for other numbers too."""
    read = lambda b: b * ONES if HIDDEN[0](b) is float else ONES  # noqa: E731
    assert require_alike(scaling(read), [(1.0,), (0.5,)]).compiles == 2
    assert other_than(1.0) == 0.75 and other_than(0.0) > 0 > other_than(-1.0) and other_than(3) == 4


# what type a computed number has, and how large it is -------------------------------------------------


def test_a_computed_number_of_another_type_is_captured_anew():
    svi = require_alike(scaling(lambda n: torch.tensor(2**n)), [(1,), (2,), (-1,), (3,)])
    assert svi.compiles == 2
    svi = require_alike(scaling(lambda a: ONES * abs(a**0.5)), [(1.0,), (2.0,), (-1.0,), (3.0,)])
    assert svi.compiles == 2


def test_a_number_that_is_too_large_is_eagers_and_leaves_nothing_behind():
    both = lambda a, n: a * ONES + 0 * (n * ONES).clamp(max=1.0)  # noqa: E731
    svi = require_alike(scaling(both), [(0.5, 2), (5.0, 10**400), (0.5, 2), (0.5, 2**70), (5.0, 3)])
    assert svi.compiles == 1
    svi = require_alike(scaling(lambda a: (a * ONES).clamp(max=1.0)), [(0.5,), (1e300,), (0.25,)])
    assert svi.compiles == 1
    svi = require_alike(scaling(lambda n: (2**n * ONES).clamp(max=9.0)), [(2,), (70,), (3,)])
    assert svi.compiles == 1


def test_numbers_are_written_whatever_came_of_the_last_ones():
    numbers = Numbers({0: 0.5, 1: 2})
    first, second = (
        numbers.tensor(numbers.stand_ins[place], dtype, torch.device("cpu"))
        for place, dtype in ((0, torch.float32), (1, torch.int64))
    )
    row = [0.25, 3]
    numbers.set(row)
    assert not numbers.hold([5.0, 2**63])
    with pytest.raises((RuntimeError, OverflowError)):
        numbers.set([5.0, 2**63])
    numbers.set(row)
    assert (float(first), int(second)) == (0.25, 3)
    numbers.set([-1e300, -(2**63)])
    assert float(first) == -math.inf and int(second) == -(2**63)


# what a model does with its numbers -------------------------------------------------------------------


def test_a_tensor_that_the_model_writes_to_is_no_input():
    def doubled(b):
        law = dist.Normal(b, 1.0)
        law.loc.mul_(2.0)
        return law.loc

    rows = [(0.5,), (0.5,), (0.5,), (0.25,)]
    assert require_alike(scaling(doubled), rows).compiles == 1
    by_both, _, _ = steps(SVI, scaling(doubled), rows)
    by_one, _, _ = steps(SVI, scaling(lambda b: b * ONES), rows)
    assert by_both[0] != pytest.approx(by_one[0])  # the control: it is written to


def test_an_argument_that_is_written_to_beside_a_number():
    """The eager mode that a capture is compared with begins with the argument as the capture did."""

    def model(x, b):
        x.mul_(0.5)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z * b, 1.0).expand([6]).to_event(1), obs=x.clone())

    found = []
    for kind_of_step in (SVI, CompiledSVI):
        x = 64 * ONES
        losses, _, svi = steps(kind_of_step, model, [(0.5,), (0.75,), (0.9,)], x)
        found.append([*losses, *x.tolist()])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert svi.compiles == 1


class TestKept:
    def test_in_a_list_or_an_attribute_it_becomes_the_number(self):
        kept, by_name, last = [], {}, collections.deque(maxlen=3)

        class Holder:
            seen = 0.0

        def model(x, b):
            kept.append(b)
            by_name["half"] = b / 2
            Holder.object.seen = by_name["half"]
            last.append((b, -b))
            scaling(lambda b: b * ONES)(x, b)

        Holder.object = Holder()
        svi = require_alike(model, [(0.5,), (0.75,)])
        assert svi.compiles == 2  # it is captured as the value that it has
        assert {type(b) for b in (*kept, *by_name.values(), Holder.object.seen)} == {float}
        assert set(kept) == {0.5, 0.75} and torch.tensor(kept).sum() == math.fsum(kept)

    def test_elsewhere_it_is_as_good_as_the_number(self):
        kept = []

        def model(x, b):
            kept.append((b, 2 * b))
            scaling(lambda b: b * ONES)(x, b)

        require_alike(model, [(0.5,), (0.75,)])
        one = next(b for b, _ in kept if type(b) is not float)
        assert isinstance(one, float) and one == 0.5 and f"{one:.2f}" == "0.50" and {one: 1}[0.5]
        assert one.is_integer() is False and 2 * one == one + one == 1.0 and one**2 == 0.25 and math.sqrt(one) > 0.7
        assert torch.equal(torch.ones(2) * one, torch.full((2,), 0.5)) and -one < 0 < abs(one) and bool(one)
        assert max((b for b, _ in kept), key=float) == 0.75 and divmod(one, 0.3) == divmod(0.5, 0.3)

    def test_by_size_it_is_an_error_that_says_so(self):
        """A capture with two thirds of a batch would leave a number there that is none of a step's."""
        kept = {}

        def model(x, b):
            if len(x) not in kept:
                kept[len(x)] = b / len(x)
            scaling(lambda b: kept[len(x)])(x, b)

        theirs, _, _ = steps(SVI, model, [(9.0,), (3.0,)])
        kept.clear()
        ours, _, svi = steps(CompiledSVI, model, [(9.0,), (3.0,)])
        assert ours == pytest.approx(theirs, rel=1e-5)
        with pytest.raises(CaptureError, match=r"the model keeps a number among its arguments.*compute it anew"):
            svi.step(X[:4], 6.0)
        assert svi.step(X, 6.0) > 0  # those of the first size are right
        with pytest.raises(CaptureError, match="keeps a number"):
            kept[4] + 1.0


# zeros and their signs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "rows"),
    [
        (lambda a: ONES * math.atan2(a, -1.0), [(0.0,), (-0.0,), (0.0,)]),
        pytest.param(
            lambda a: ONES * math.atan2(a.imag, -1.0), [(complex(1, 0.0),), (complex(1, -0.0),)], marks=pytest.mark.slow
        ),
        pytest.param(lambda a: torch.atan2(a * ONES, -ONES), [(0.0,), (-0.0,), (0.0,)], marks=pytest.mark.slow),
    ],
)
def test_zeros_of_two_signs_are_two_numbers(read, rows):
    require_alike(scaling(read), rows)
    (first, second, *_), _, _ = steps(SVI, scaling(read), rows)
    assert first != pytest.approx(second, rel=1e-2)  # the control


def test_what_is_alike_is_what_nothing_tells_apart():
    for a in (0.0, complex(0.0, 0.0), complex(0.0, -0.0), np.float64(0.0), np.float32(0.0), np.complex128(0.0)):
        assert kind_of(a) == kind_of(+a) and alike(a, type(a)(a)) and kind_of(a) != kind_of(-a)
        assert not alike(a, -a) and not alike((1, a), (1, -a))
    for nan in (math.nan, complex(math.nan, 1.0), np.float64(math.nan)):
        other = nan + 0
        assert other is not nan and kind_of(nan) == kind_of(other) and alike(nan, other) and alike((nan,), (other,))
    assert kind_of(0.0) != kind_of(0) and kind_of(1) != kind_of(True) and kind_of(1.0) != kind_of(1.0 + 2**-52)
