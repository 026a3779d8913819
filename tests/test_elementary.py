"""log1p, expm1, softplus and Bernoulli events by arithmetic, beside float64 and beside torch's own in float32."""

import operator

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    elu,
    logsigmoid,
    softplus,
)

from pyrovae import arithmetic
from pyrovae.compile import sizes as sizes_module
from pyrovae.compile.elementary import FEW, with_arithmetic
from pyrovae.compile.forms import Form
from pyrovae.compile.function import compile_function
from pyrovae.compile.graph import capture, constants_to_inputs, without_noise
from pyrovae.compile.sizes import sized_graph
from pyrovae.models import elementary
from pyrovae.models.elementary import BernoulliEntries, BernoulliEvent, Softplus

ULP = 2.0**-23  # of 1 in float32
EXTREMES = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 88.0, -88.0, 100.0, -100.0, 1e4, -1e4])


def numbers(count, scale, seed=0):
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def in_ulps(value, right):
    """The largest relative error of normal numbers, in units of the last place."""
    is_normal = right.abs() > 1e-37
    return float(((value.double() - right) / right).abs()[is_normal].max() / ULP)


@pytest.mark.parametrize(
    ("near", "right", "ends", "name"),
    [("log1p_near", np.log1p, (-0.5, 1.0), "ATANH"), ("expm1_near", np.expm1, (-0.5, 0.5), "EXPM1")],
)
def test_near_zero_the_digits_are_those_of_float32(near, right, ends, name, monkeypatch):
    x = torch.cat([torch.linspace(*ends, 200_001), torch.logspace(-30, -1, 1000), -torch.logspace(-30, -1, 1000)])
    expected = torch.from_numpy(right(x.double().numpy()))
    assert in_ulps(getattr(arithmetic, near)(x), expected) < 3
    monkeypatch.setattr(arithmetic, name, getattr(arithmetic, name)[:-1])  # control: a term less is seen
    assert in_ulps(getattr(arithmetic, near)(x), expected) > 10


def test_softplus_and_its_derivatives():
    x = torch.cat([numbers(70_000, 10.0), EXTREMES]).requires_grad_()
    value = Softplus()(x)
    assert "_Softplus" in type(value.grad_fn).__name__  # not torch's
    wide = x.detach().double().requires_grad_()
    right = softplus(wide, threshold=800.0)
    assert in_ulps(value.detach(), right.detach()) < 3.5
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (of_right,) = torch.autograd.grad(right.sum(), wide, create_graph=True)
    assert float((slope - of_right).abs().max().detach()) < 2e-7
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    (of_slope,) = torch.autograd.grad(of_right.sum(), wide)
    assert float((curvature - of_slope).abs().max()) < 2e-7
    strange = torch.tensor([torch.inf, -torch.inf, torch.nan]).expand(2**13, 3).contiguous()
    assert Softplus()(strange)[0].tolist()[:2] == [torch.inf, 0.0] and Softplus()(strange)[:, 2].isnan().all()


SHAPES = [
    ((50, 7, 1, 28, 28), (7, 1, 28, 28), 3),
    ((50, 7, 1, 28, 28), (1, 1, 28, 28), 3),
    ((3, 300, 64), (300, 64), 1),
    ((2, 1, 9000), (9000,), 1),
    ((400, 113), (400, 113), 1),
    ((20_000,), (20_000,), 1),
    ((4, 5, 6, 200), (6, 200), 1),
    ((40, 3, 200), (1, 3, 200), 1),
]


@pytest.mark.parametrize(("shape", "items", "size"), SHAPES)
@pytest.mark.parametrize("scale", [0.5, 6.0])
def test_a_bernoulli_event(shape, items, size, scale):
    logits = (numbers(int(np.prod(shape)), scale) - scale).reshape(shape).requires_grad_()
    x = (numbers(int(np.prod(items)), 1.0, seed=1) > 0).float().reshape(items)
    p = BernoulliEntries(logits=logits).to_event(size)
    value = p.log_prob(x)
    wide = logits.detach().double().requires_grad_()
    right = dist.Bernoulli(logits=wide).to_event(size).log_prob(x.double())
    by_torch = dist.Bernoulli(logits=logits.detach()).to_event(size).log_prob(x)
    assert type(p) is BernoulliEvent and value.shape == right.shape
    assert _is_fast(value)

    def rms(found):
        return float((found.detach() - right.detach()).square().mean().sqrt())

    assert rms(value) <= 1.5 * rms(by_torch) + 1e-6 * float(right.detach().abs().mean())
    outer = numbers(value.numel(), 1.0, seed=2).reshape(value.shape)
    (slope,) = torch.autograd.grad((outer * value).sum(), logits)
    (of_right,) = torch.autograd.grad((outer.double() * right).sum(), wide)
    assert float((slope - of_right).abs().max()) < 1e-6


def _is_fast(value):
    """Whether a value comes from the blocks and not from torch's own log-probabilities."""
    nodes, names = [value.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(type(node).__name__)
        nodes += [after for after, _ in node.next_functions if after is not None]
    return "_LogProbBackward" in names and "BinaryCrossEntropyWithLogitsBackward0" not in names


def test_the_error_over_many_draws_of_an_image_is_no_larger_than_torchs():
    """Root mean squares over 4,000 draws: the ratio of two such has an error of about 2 %."""
    x = (numbers(784, 1.0, seed=1) > 0.8).float()
    for shift in (0.0, -3.0, -12.0):
        logits = numbers(4000 * 784, 3.0).reshape(4000, 784) + shift
        right = dist.Bernoulli(logits=logits.double()).to_event(1).log_prob(x.double())
        errors = [
            float((make(logits=logits).to_event(1).log_prob(x).double() - right).square().mean().sqrt())
            for make in (BernoulliEntries, dist.Bernoulli)
        ]
        assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0, 800.0])
def test_a_bernoulli_event_in_float64(scale):
    """Against NumPy's long doubles, of 64 digits or more: a few units of float64's last place, as torch's own."""
    logits = numbers(100 * 784, scale).double().reshape(100, 784)
    x = (numbers(784, 1.0, seed=1) > 0.8).double()
    wide = np.where(x.numpy() == 1, 1, -1) * logits.numpy().astype(np.longdouble)
    right = -np.logaddexp(np.longdouble(0), -wide).sum(1)
    value = BernoulliEntries(logits=logits.requires_grad_()).to_event(1).log_prob(x)
    assert _is_fast(value) and value.dtype == torch.float64

    def rms(found):
        return float(np.sqrt(np.mean((found.detach().numpy().astype(np.longdouble) / right - 1) ** 2)))

    by_torch = dist.Bernoulli(logits=logits).to_event(1).log_prob(x)
    assert rms(value) <= 1.5 * rms(by_torch) + 2.0**-53
    assert rms(value.detach() * (1 + 1e-14)) > 1.5 * rms(by_torch) + 2.0**-53  # the control


def test_saturated_logits_are_finite_and_products_no_subnormal_numbers(monkeypatch):
    logits = torch.tensor([100.0, -100.0, 0.0, 1e4]).repeat(9, 3000)
    x = (torch.arange(12_000) % 2 == 0).float()
    right = dist.Bernoulli(logits=logits.double()).to_event(1).log_prob(x.double())
    at_zero = BernoulliEntries(logits=torch.zeros(30, 784)).to_event(1)
    assert torch.allclose(BernoulliEntries(logits=logits).to_event(1).log_prob(x).double(), right, rtol=1e-6)
    assert torch.allclose(at_zero.log_prob(torch.ones(784)), torch.full((30,), 784 * np.log(0.5), dtype=torch.float32))
    monkeypatch.setattr(elementary, "FACTORS", 392)  # control: so many factors of 1/2 are no number in float32
    assert at_zero.log_prob(torch.ones(784)).isinf().all()


@pytest.mark.parametrize("scale", [15.0, 100.0, 1e4, 1e6, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_that_are_large_and_right_leave_the_digits_of_the_others(scale, dtype):
    """784 entries, all but one of them certain: log p is log(1/2), and what the others add."""
    x = (numbers(784, 1.0) > 0).to(dtype)
    logits = (2 * x - 1) * (scale * (1 + 0.1 * numbers(784, 1.0, seed=1).sigmoid().double())).to(dtype)
    logits[0] = 0.0
    value = BernoulliEntries(logits=logits.expand(64, -1)).to_event(1).log_prob(x)
    right = -np.logaddexp(0.0, -(2 * x - 1).double().numpy() * logits.double().numpy()).sum()
    few = 784 * torch.finfo(dtype).eps if scale < 20 else 2 * torch.finfo(dtype).eps  # of s(15), whose digits end early
    assert float((value - right).abs().max()) <= few
    # the control: of two sums apart, what log(1/2) adds is lost
    apart = logsigmoid(logits.abs()).sum() - logits.clamp(min=0.0).sum() + (logits * x).sum()
    assert scale < 100 or not abs(float(apart) - right) <= few


def test_an_infinite_logit_that_is_wrong_makes_an_item_impossible():
    logits = torch.zeros(30, 784)
    logits[:, 3] = torch.inf
    event = BernoulliEntries(logits=logits, validate_args=False).to_event(1)
    assert event.log_prob(torch.zeros(784)).tolist() == [-torch.inf] * 30


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_compiles_and_what_scripts_a_model_sees_nothing_of_the_blocks():
    network, x = nn.Sequential(nn.Linear(50, 400), Softplus()), numbers(100 * 50, 1.0).reshape(100, 50)
    whole = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.allclose(whole(x), network(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.jit.script(network)(x), network(x), rtol=1e-5, atol=1e-6)

    def density(logits, items):
        return BernoulliEntries(logits=logits, validate_args=False).to_event(1).log_prob(items)

    logits, items = numbers(100 * 400, 1.0).reshape(100, 400), torch.ones(400)
    compiled = torch.compile(density, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(logits, items), density(logits, items), rtol=1e-5)


def test_values_that_are_not_binary_are_refused_as_by_torch_and_their_gradient_is_right():
    logits = numbers(20_000, 1.0).reshape(100, 200)
    grey = torch.full((200,), 0.3).requires_grad_()
    with pytest.raises(ValueError, match="within the support"):
        BernoulliEntries(logits=logits, validate_args=True).to_event(1).log_prob(grey)
    value = BernoulliEntries(logits=logits, validate_args=False).to_event(1).log_prob(grey)
    assert torch.allclose(
        value, -binary_cross_entropy_with_logits(logits, grey.expand(100, -1), reduction="none").sum(1)
    )
    (slope,) = torch.autograd.grad(value.sum(), grey)
    assert torch.allclose(slope, logits.sum(0), atol=1e-4)


@pytest.mark.parametrize("how", ["trace", "vmap", "jvp", "dual", "float64", "few"])
def test_where_something_looks_on_it_is_torchs_own(how, monkeypatch):
    def never(*_):
        raise AssertionError("the blocks have no such transform")

    monkeypatch.setattr(elementary._Softplus, "forward", never)
    monkeypatch.setattr(elementary._LogProb, "forward", never)
    layer, x = Softplus(), numbers(40_000, 3.0).reshape(100, 400)
    items = (numbers(400, 1.0, seed=1) > 0).float()

    def both(logits):
        event = BernoulliEntries(logits=logits, validate_args=False).to_event(1)
        return layer(logits), event.log_prob(items.to(logits))

    right = softplus(x), dist.Bernoulli(logits=x).to_event(1).log_prob(items)
    if how == "trace":
        found = capture(lambda one: list(both(one)), [x])(x)
    elif how == "vmap":
        found = torch.func.vmap(both)(x)
    elif how == "jvp":
        found = torch.func.jvp(both, (x,), (torch.ones_like(x),))[0]
    elif how == "dual":
        with torch.autograd.forward_ad.dual_level():
            duals = both(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
            found = [torch.autograd.forward_ad.unpack_dual(one).primal for one in duals]
    elif how == "float64":
        found, right = [layer(x.double()).float()], right[:1]  # the density has blocks in float64 too
    else:
        found = [one[:10] for one in both(x[:10])]
        right = [one[:10] for one in right]
    for one, other in zip(found, right, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


OPERATIONS = {
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "softplus": softplus,
    "softplus of another scale": lambda x: softplus(x, beta=2.0),
    "softplus with a threshold": lambda x: softplus(x, beta=2.0, threshold=1.0),
    "logsigmoid": logsigmoid,
    "logaddexp": lambda x: torch.logaddexp(x, -2 * x),
    "elu": lambda x: elu(x, alpha=1.5),
    "Bernoulli": lambda x: binary_cross_entropy_with_logits(x, (x > 0).to(x), reduction="none"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_in_a_graph(name):
    """Values and gradients after the graph is rewritten; torch runs it, operation by operation."""

    def function(x):
        leaf = x.detach().requires_grad_()
        value = OPERATIONS[name](leaf)
        return [value.detach(), *torch.autograd.grad(value.sum(), leaf)]

    x = torch.cat([numbers(4000, 4.0), EXTREMES[:-4]])
    x = x[(x < 80) & (x > -0.95)] if name in ("log1p", "expm1") else x
    graph, wide = capture(function, [x]), capture(function, [x.double()])
    before = wide.code
    with_arithmetic(graph)
    with_arithmetic(wide)
    assert wide.code == before  # float64 keeps torch's own
    assert not any(word in graph.code for word in ("log1p", "softplus.default", "log_sigmoid_forward", "logaddexp"))
    kinds = {type(node.target) for node in graph.graph.nodes if node.op not in ("placeholder", "output")}
    assert kinds <= {torch._ops.OpOverload, type(operator.getitem)}  # as inductor's cache wants them
    (value, slope), (right, of_right) = graph(x), wide(x.double())
    limit = 60 if name == "logaddexp" else 4  # about its root the argument's own rounding is all there is
    assert in_ulps(value[right.abs() > 1e-3], right[right.abs() > 1e-3]) < limit
    assert float((value - right).abs().max()) <= 1e-5 * max(1.0, float(right.abs().max()))
    assert torch.allclose(slope.double(), of_right, rtol=2e-5, atol=1e-6)


def test_in_a_graph_few_elements_are_left_to_torch():
    codes = {}
    for count in (FEW - 1, FEW):
        graph = capture(lambda x: [torch.log1p(x).sum()], [numbers(count, 1.0)])
        with_arithmetic(graph)
        codes[count] = graph.code
    assert "log1p" in codes[FEW - 1] and "log1p" not in codes[FEW]


def test_infinite_values_in_a_graph():
    ends = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]).repeat(FEW)
    graph = capture(lambda x: [softplus(x), logsigmoid(x), torch.logaddexp(x, x)], [ends])
    right = graph(ends)
    with_arithmetic(graph)
    for one, other in zip(graph(ends), right, strict=True):
        assert torch.allclose(one, other, equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.expm1(x > 2),
        lambda x: torch.log1p(x > 2),
        lambda x: torch.expm1(x.long()),
        lambda x: torch.log1p(x.abs().long()),
        lambda x: torch.logaddexp(x, torch.ones((), dtype=torch.float64)),
    ],
)
def test_in_a_graph_arguments_that_are_not_in_float32_are_left_to_torch(function):
    x = numbers(FEW, 3.0)
    graph = capture(lambda x: [function(x), torch.expm1(x)], [x])
    expected = graph(x)
    with_arithmetic(graph)
    assert sum(name in graph.code for name in ("expm1.default", "log1p.default", "logaddexp.default")) == 1
    for one, other in zip(graph(x), expected, strict=True):
        assert one.dtype == other.dtype and torch.allclose(one, other, rtol=1e-5)
    assert graph.code.count("expm1.default") + graph.code.count("aten.exp.default") == 1 + (
        "expm1.default" in graph.code
    )


@needs_compiler
@pytest.mark.slow
def test_a_function_of_a_mask_is_compiled():
    x = torch.arange(6.0)
    compiled = compile_function(lambda x: [torch.expm1(x > 2)], [x])
    assert compiled is not None and torch.allclose(compiled(x)[0], torch.expm1((x > 2).float()))


def test_in_a_graph_what_it_holds_draws_or_has_computed_in_parts_is_an_argument_too():
    held = torch.rand(FEW)
    graph = capture(lambda x: [torch.log1p(held), torch.log1p(torch.rand(FEW)), torch.expm1(logsigmoid(x))], [held + 1])
    constants = constants_to_inputs(graph)
    draw = without_noise(graph, torch.device("cpu"))
    with_arithmetic(graph)
    assert not any(word in graph.code for word in ("log1p", "expm1", "log_sigmoid"))
    noise = draw()
    first, second, third = graph(held + 1, *constants, *noise)
    assert torch.allclose(first, torch.log1p(held)) and torch.allclose(second, torch.log1p(noise[0]))
    assert torch.allclose(third, torch.expm1(logsigmoid(held + 1)), rtol=1e-5)


def test_in_a_graph_for_batches_of_any_size(monkeypatch):
    def function(x):
        return [softplus(x).sum(0), torch.log1p(x.abs())]

    def code(*sizes):
        forms = [
            Form(capture(function, [numbers(3 * size, 3.0).reshape(size, 3)]), [torch.empty(size, 3)]) for size in sizes
        ]
        codes = []

        def compile(graph, _):
            with_arithmetic(graph)
            codes.append(graph.code)
            return graph

        bound = sized_graph(*forms, compile, 0).bound(forms[0])
        x = numbers(3 * sizes[0], 3.0).reshape(sizes[0], 3)
        for one, other in zip(bound(x), function(x), strict=True):
            assert torch.allclose(one, other, rtol=1e-5)
        return codes[0]

    words = ("softplus", "log1p")
    assert not any(word in code(3 * FEW, 2 * FEW) for word in words)
    assert all(word in code(FEW // 3, FEW // 6) for word in words)  # which are few elements
    monkeypatch.setattr(sizes_module, "notes_for_any_size", lambda node: {})
    assert all(word in code(3 * FEW, 2 * FEW) for word in words)  # the control: nothing tells their dtypes
