"""Changes between steps of code, classes, methods, hooks and of the parts of a CompiledSVI are followed as by Pyro."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import itertools
import operator
import os
import pickle
import random
import sys
import threading
import time
import types
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.overrides import TorchFunctionMode

from pyrovae import CaptureError, CompiledSVI
from pyrovae.compile.guards import ModuleState
from pyrovae.compile.names import Names

pytestmark = [needs_compiler, pytest.mark.usefixtures("interpreted", "float32")]
HERE = sys.modules[__name__]
X = torch.linspace(-1.0, 2.0, 12).reshape(6, 2)


def steps(kind, build, change=None, count=3):
    """Losses, with a change ahead of the second step, which it gives a way to undo; and the SVI."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, *more = build()
    svi = kind(model, guide, pyro.optim.SGD({"lr": 0.01}), loss=Trace_ELBO())
    found, undo = [], None
    try:
        for i in range(count):
            if i == 1 and change is not None:
                undo = change(svi, *more)
            pyro.set_rng_seed(i)
            found.append(svi.step(X))
    finally:
        if undo is not None:
            undo()
    return torch.tensor(found), svi


def require_followed(build, change, compiles=2):
    theirs, _ = steps(SVI, build, change)
    unchanged, _ = steps(SVI, build)
    ours, svi = steps(CompiledSVI, build, change)
    assert not torch.allclose(theirs[1:], unchanged[1:], rtol=1e-3)  # the control: it does change the loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(svi._step._variants) <= compiles and svi.compiles <= compiles


def bound(owner, name, value):
    """A change of an attribute, and how it is undone."""

    def change(*_):
        own = name in vars(owner)
        before = vars(owner).get(name)
        setattr(owner, name, value)
        return (lambda: setattr(owner, name, before)) if own else (lambda: delattr(owner, name))

    return change


# networks -------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)


class Thrice(Net):
    def forward(self, x):
        return 3 * self.layer(x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def mean(self, x):
        return self.net(x)

    def forward(self, x):
        guided(self, self.mean(x))


def guided(guide, mean):
    pyro.module("guide", guide)
    with pyro.plate("data", len(mean)):
        pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))


def prior(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(-1, 2), 1.0).to_event(1), obs=x)


def networks():
    guide = Guide()
    return prior, guide, guide


def hooked(_, guide):
    by_three = lambda module, x, y: 3 * y if isinstance(module, nn.Linear) else None  # noqa: E731
    return nn.modules.module.register_module_forward_hook(by_three).remove


def recoded(*_):
    before = Guide.mean.__code__
    Guide.mean.__code__ = (lambda self, x: 3 * self.net(x)).__code__
    return lambda: setattr(Guide.mean, "__code__", before)


LINEAR = nn.Linear.forward
NETWORKS = {
    "forward of the class": bound(Net, "forward", lambda self, x: 3 * self.layer(x)),
    "forward of the guide's class": bound(Guide, "forward", lambda self, x: guided(self, 3 * self.mean(x))),
    "forward of torch's class": bound(nn.Linear, "forward", lambda self, x: 3 * LINEAR(self, x)),
    "forward of the object": lambda _, guide: setattr(
        guide.net, "forward", types.MethodType(lambda self, x: 3 * self.layer(x), guide.net)
    ),
    "forward of a child": lambda _, guide: setattr(
        guide.net.layer, "forward", lambda x: 3 * LINEAR(guide.net.layer, x)
    ),
    "the class of a child": lambda _, guide: setattr(guide.net, "__class__", Thrice),
    "a method of the object over the class's": lambda _, guide: setattr(guide, "mean", lambda x: 3 * guide.net(x)),
    "a method's code": recoded,
    "a hook of all modules": hooked,
}


def but_one_slow(cases):
    """The cases by name, all but the first of which are run with the slow ones."""
    return [name if i == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(cases)]


@pytest.mark.parametrize("what", but_one_slow(NETWORKS))
def test_what_a_network_computes_is_followed(what):
    require_followed(networks, NETWORKS[what])


# names of all kinds ---------------------------------------------------------------------------------

SCALE, WORD = 1.0, "scale"


class Settings:
    scale = 1.0

    def mean(self):
        return self.scale

    def __eq__(self, _):
        return SCALE == 1.0

    __hash__ = None


class Inheriting(Settings):
    pass


class Other(Inheriting):
    def mean(self):
        return 3.0


class Called:
    def __call__(self):
        return 1.0


class Made:
    def __init__(self, x):
        self.x = x * SCALE


class Scaled(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) * SCALE


class Plain:
    def __init__(self):
        self.scale, self.other = 1.0, 1.0


class Meta(type):
    def __call__(cls):
        return SCALE


class ByItsMetaclass(metaclass=Meta):
    pass


class Weighed(Messenger):
    def _pyro_sample(self, msg):
        msg["scale"] = msg["scale"] * SCALE


class Real(float):
    def scaled(self):
        return self * SCALE


class Mode(enum.Enum):
    ONE = 1

    def scaled(self):
        return SCALE


@dataclass
class Record:
    first: float = 1.0
    second: float = 1.0


def attributed():
    return attributed.scale


attributed.scale = 1.0


def matched():
    match SETTINGS:
        case Settings(scale=scale):
            return scale


@functools.cache
def cached(_):
    return SCALE


def scaled():
    pyro.sample("w", Scaled(0.0, 1.0), obs=torch.ones(()))
    return 0.0


def weighed():
    with Weighed():
        pyro.sample("w", dist.Normal(0.0, 1.0), obs=torch.ones(()))
    return 0.0


SETTINGS, INHERITING, CALLED, PLAIN = Settings(), Inheriting(), Called(), Plain()
REAL, MODE, RECORD = Real(1.0), Mode.ONE, Record()


PARTIAL, LOCAL = functools.partial(lambda scale: scale, scale=1.0), threading.local()
LOCAL.scale = 1.0


def keyword(*_):
    PARTIAL.keywords["scale"] = 3.0
    return lambda: PARTIAL.keywords.update(scale=1.0)


def environment(*_):
    os.environ["SCALE_OF_TESTS"] = "3.0"
    return lambda: os.environ.pop("SCALE_OF_TESTS")


def reclassed(*_):
    INHERITING.__class__ = Other
    return lambda: setattr(INHERITING, "__class__", Inheriting)


NAMES = {
    "getattr": (lambda: getattr(SETTINGS, "scale"), bound(SETTINGS, "scale", 3.0)),  # noqa: B009
    "getattr by a name": (lambda: getattr(SETTINGS, WORD), bound(SETTINGS, "scale", 3.0)),
    "getattr by a word that is built": (lambda: getattr(SETTINGS, f"{WORD}"), bound(SETTINGS, "scale", 3.0)),
    "attrgetter": (lambda: operator.attrgetter("scale")(SETTINGS), bound(SETTINGS, "scale", 3.0)),
    "vars": (lambda: sum(vars(PLAIN).values()), bound(PLAIN, "other", 3.0)),
    "the names of fields": (
        lambda: sum(getattr(RECORD, field.name) for field in dataclasses.fields(RECORD)),
        bound(RECORD, "second", 3.0),
    ),
    "a metaclass": (lambda: ByItsMetaclass(), bound(HERE, "SCALE", 3.0)),
    "a handler of the user's": (weighed, bound(HERE, "SCALE", 3.0)),
    "a method of a number": (lambda: float(REAL.scaled()), bound(HERE, "SCALE", 3.0)),
    "a method of an enumeration's member": (lambda: MODE.scaled(), bound(HERE, "SCALE", 3.0)),
    "a class pattern": (matched, bound(SETTINGS, "scale", 3.0)),
    "globals": (lambda: globals()["SCALE"], bound(HERE, "SCALE", 3.0)),
    "eval": (lambda: eval("SCALE + 0.0"), bound(HERE, "SCALE", 3.0)),
    "a function's attribute": (attributed, bound(attributed, "scale", 3.0)),
    "a builtin's name": (lambda: abs(-1.0), bound(HERE, "abs", lambda _: 3.0)),
    "what a method inherits over": (lambda: INHERITING.mean(), bound(Inheriting, "mean", lambda self: 3.0)),
    "a method of the object": (lambda: INHERITING.mean(), bound(INHERITING, "mean", lambda: 3.0)),
    "a class": (lambda: INHERITING.mean(), reclassed),
    "a property over the object's": (lambda: PLAIN.scale, bound(Plain, "scale", property(lambda self: 3.0))),
    "__call__": (lambda: CALLED(), bound(Called, "__call__", lambda self: 3.0)),
    "__eq__": (lambda: 1.0 if SETTINGS == 1 else 3.0, bound(HERE, "SCALE", 3.0)),
    "a class whose object the model makes": (lambda: Made(1.0).x, bound(HERE, "SCALE", 3.0)),
    "its __init__": (lambda: Made(1.0).x, bound(Made, "__init__", lambda self, x: setattr(self, "x", 3 * x))),
    "a distribution of the user's": (scaled, bound(HERE, "SCALE", 3.0)),
    "its log_prob": (scaled, bound(Scaled, "log_prob", lambda self, value: 3 * dist.Normal.log_prob(self, value))),
    "a library's": (lambda: dist.Cauchy(0.0, 1.0).log_prob(torch.ones(())), bound(dist, "Cauchy", dist.Normal)),
    "the environment": (lambda: float(os.environ.get("SCALE_OF_TESTS", "1.0")), environment),
    "getenv": (lambda: float(os.getenv("SCALE_OF_TESTS", "1.0")), environment),
    "a keyword of a partial": (lambda: PARTIAL(), keyword),
    "a thread's own": (lambda: LOCAL.scale, bound(LOCAL, "scale", 3.0)),
    "what a cached function reads": (lambda: cached.cache_clear() or cached(0), bound(HERE, "SCALE", 3.0)),
}


def shifting(read):
    """A model whose data are shifted by what a function gives, and a guide."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(2), obs=x + read())

    return model, lambda x: pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


@pytest.mark.parametrize("what", [*NETWORKS, *NAMES])
def test_a_change_is_seen_and_so_is_its_end(what):
    """By the check ahead of each step alone, which costs no capture."""
    model, guide, *more = networks() if what in NETWORKS else shifting(NAMES[what][0])
    modules = list(guide.modules()) if more else []
    names, state = Names([model, guide], modules), ModuleState(modules, [], [])
    assert names.are_bound_alike() and state.is_as_it_was()
    undo = (NETWORKS[what] if what in NETWORKS else NAMES[what][1])(None, *more)
    try:
        assert not names.are_bound_alike() or not state.is_as_it_was()
    finally:
        if undo is not None:
            undo()
    assert undo is None or (names.are_bound_alike() and state.is_as_it_was())


@pytest.mark.parametrize("way", but_one_slow(NAMES))
def test_a_name_is_followed_however_it_is_reached(way):
    read, change = NAMES[way]
    require_followed(lambda: shifting(read), change)


def linear_of_priors():
    """A layer of torch's with drawn weights, that only torch's code reads; their prior has its scale from elsewhere."""

    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = 1.0, PyroModule[nn.Linear](2, 1)
            self.layer.weight = PyroSample(lambda _: dist.Normal(0.0, self.scale).expand([1, 2]).to_event(2))

        def forward(self, x):
            pyro.sample("x", dist.Normal(self.layer(x), 1.0).to_event(2), obs=x[:, :1])

    pair = Regression()

    def guide(x):
        loc = pyro.param("loc", torch.zeros(1, 2))
        pyro.sample("layer.weight", dist.Normal(loc, 1.0).to_event(2))

    return pair, guide, pair


@pytest.mark.parametrize(
    "change",
    [
        lambda _, pair: setattr(pair, "scale", 0.1),
        lambda _, pair: setattr(pair.layer, "weight", PyroSample(dist.Normal(5.0, 1.0).expand([1, 2]).to_event(2))),
    ],
)
def test_priors_of_a_layer_of_torchs(change):
    require_followed(linear_of_priors, change)


def twice(of):
    """What `of` gives, in a function that draws for itself ahead of it."""
    return lambda: torch.randn(()) + of()


def of_a_fork():
    with torch.random.fork_rng():
        return torch.randn(())


BEGUN = time.perf_counter()
VALUES = {
    "an iterator": (itertools.count().__next__, "an iterator, a clock or a generator"),
    "a clock": (lambda: 1e3 * (time.perf_counter() - BEGUN), "an iterator, a clock or a generator"),
    "a generator": (random.Random(0).random, "an iterator, a clock or a generator"),
    "a seed": (twice(lambda: torch.manual_seed(3) and torch.randn(())), "sets torch's generator"),
    "a generator that is put back": (twice(of_a_fork), "sets torch's generator"),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_no_name_shows_are_refused(what):
    read, words = VALUES[what]
    with pytest.raises(CaptureError, match=words):
        steps(CompiledSVI, lambda: shifting(read), count=1)


def test_the_same_seed_again_is_refused_too():
    def read():
        torch.manual_seed(0)  # which is that of the steps
        return torch.randn(())

    with pytest.raises(CaptureError, match="sets torch's generator"):
        steps(CompiledSVI, lambda: shifting(read), count=1)


@pytest.mark.parametrize("kind", [SimpleNamespace, dict])
def test_a_count_that_waits_is_told_once(kind):
    """A weight that begins after some steps, by a count of the model's, which a compiled step does not go on with."""
    held = kind(t=0)
    table = held if kind is dict else vars(held)

    def of_dict():
        held["t"] += 1
        return 1.0 if held["t"] > 1000 else 0.0

    def of_object():
        held.t += 1
        return 1.0 if held.t > 1000 else 0.0

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _, svi = steps(CompiledSVI, lambda: shifting(of_dict if kind is dict else of_object))
        svi.step(X[:1])
    texts = [str(one.message) for one in told if "compiled steps leave it as it is" in str(one.message)]
    assert len(texts) == 1 and "'t' of" in texts[0] and table["t"] > 0


def test_what_nothing_reads_is_not_captured_for():
    class Counted:
        scale, count = 1.0, 0

    counted = Counted()

    def read():
        """Of the scale alone, and not of the count."""
        return getattr(counted, "scale")  # noqa: B009

    def change(*_):
        counted.count += 1
        counted.note = "a new attribute"

    _, svi = steps(CompiledSVI, lambda: shifting(read), change)
    assert svi.compiles == 1


def test_the_code_of_the_model_itself_as_after_a_reload():
    model, guide = shifting(lambda: 1.0)
    before = model.__code__

    def change(*_):
        def again(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(2), obs=3 * x + read())

        read = None
        model.__code__ = again.__code__
        return lambda: setattr(model, "__code__", before)

    require_followed(lambda: (model, guide), change)


class Times(TorchFunctionMode):
    """A mode of the user's under which ones are other numbers."""

    def __init__(self, factor):
        self.factor = factor

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return self.factor * found if func is torch.ones and found.is_floating_point() else found


def test_steps_under_a_mode_of_torchs_functions_have_a_graph_of_their_own():
    modes = []

    def enter(factor):
        if modes:
            modes.pop().__exit__(None, None, None)
        if factor:
            modes.append(Times(factor))
            modes[-1].__enter__()

    for before in (None, 2.0):  # none at first, or one of the same class

        def build(before=before):
            enter(before)
            return shifting(lambda: torch.ones(2))

        def change(*_):
            enter(3.0)
            return lambda: enter(None)

        try:
            require_followed(build, change)
        finally:
            enter(None)


def test_a_hook_on_a_gradients_accumulation_is_refused():
    def build():
        guide = Guide()
        return prior, guide, guide

    def change(_, guide):
        guide.net.layer.weight.register_post_accumulate_grad_hook(lambda p: p.grad.zero_())

    with pytest.raises(CaptureError, match="hook on its gradient's accumulation"):
        steps(CompiledSVI, build, change)


# the parts of a CompiledSVI --------------------------------------------------------------------------


def wide(x):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 3.0))


def halved(x):
    with pyro.poutine.scale(scale=0.5):
        shifting(lambda: 0.0)[0](x)


class TestParts:
    @pytest.mark.parametrize(("name", "part"), [("model", halved), pytest.param("guide", wide, marks=pytest.mark.slow)])
    def test_another_model_or_guide_is_followed_and_back(self, name, part):
        model, guide = shifting(lambda: 0.0)

        def change(svi):
            setattr(svi, name, part)

        require_followed(lambda: (model, guide), change)
        _, svi = steps(CompiledSVI, lambda: (model, guide), change)
        setattr(svi, name, {"model": model, "guide": guide}[name])
        svi.step(X)
        assert sum(map(len, svi._step._variants.values())) == 2  # the first is found again
        pyro.set_rng_seed(0)
        expected = svi.evaluate_loss(X)
        pyro.set_rng_seed(0)
        assert svi.step(X) == pytest.approx(expected, rel=1e-5)

    def test_a_method_is_the_same_each_time_it_is_asked_for(self):
        class Holder:
            def model(self, x):
                shifting(lambda: 0.0)[0](x)

        holder, guide = Holder(), shifting(lambda: 0.0)[1]
        svi = CompiledSVI(holder.model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())
        for _ in range(3):
            svi.model = holder.model
            svi.step(X)
        assert svi.compiles == 1

    def test_another_loss(self):
        model, guide = shifting(lambda: 0.0)
        _, svi = steps(CompiledSVI, lambda: (model, guide), count=1)
        svi.loss = TraceMeanField_ELBO(num_particles=2)
        for state in (0, 1):
            pyro.set_rng_seed(state)
            expected = svi.evaluate_loss(X)
            pyro.set_rng_seed(state)
            by_one = float(Trace_ELBO().loss(model, guide, X))
            pyro.set_rng_seed(state)
            assert svi.step(X) == pytest.approx(expected, rel=1e-5) != pytest.approx(by_one, rel=1e-3)
        with pytest.raises(TypeError, match=r"loss must be .*got SVI"):
            svi.loss = SVI(model, guide, pyro.optim.SGD({"lr": 0.01}), loss=Trace_ELBO())
        assert isinstance(svi.loss, TraceMeanField_ELBO)

    def test_another_optimiser_is_refused(self):
        _, svi = steps(CompiledSVI, lambda: shifting(lambda: 0.0), count=1)
        with pytest.raises(AttributeError, match=r"optim cannot be replaced.*make a CompiledSVI with the other"):
            svi.optim = pyro.optim.SGD({"lr": 1.0})
        assert svi.optim.pt_optim_args == {"lr": 0.01}

    def test_a_step_without_gradients_is_refused_as_it_changes_nothing_under_pyro(self):
        for mode in (torch.no_grad, torch.inference_mode):
            for count in (0, 1):
                _, svi = steps(CompiledSVI, lambda: shifting(lambda: 0.0), count=count)
                with mode(), pytest.raises(CaptureError, match=r"inside of torch\.no_grad\(\) or torch\.inference"):
                    svi.step(X)
                if count:
                    with mode():
                        assert svi.evaluate_loss(X) > 0
                before = svi.step(X)
                assert svi.step(X) != before  # the control: outside it is trained
        _, svi = steps(CompiledSVI, lambda: shifting(lambda: 0.0), count=0)
        with torch.inference_mode():
            svi.evaluate_loss(X)  # which makes the parameter
        with pytest.raises(CaptureError, match=r"was made inside of torch\.inference_mode"):
            svi.step(X)
        pyro.clear_param_store()
        theirs = SVI(*shifting(lambda: 0.0), pyro.optim.SGD({"lr": 0.01}), loss=Trace_ELBO())
        with torch.no_grad():
            theirs.step(X)
        assert float(pyro.param("loc").detach()) == 0.0

    def test_a_copy_before_a_first_step_and_none_after_it(self):
        model, guide = shifting(lambda: 0.0)
        svi = CompiledSVI(model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())
        copied = copy.deepcopy(svi)
        copied.model = halved
        pyro.set_rng_seed(0)
        first = svi.step(X)
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        assert copied.step(X) != first  # each has steps of its own
        with pytest.raises(TypeError, match="has taken a step cannot be copied"):
            copy.deepcopy(svi)
        with pytest.raises(TypeError, match="shallow copy"):
            copy.copy(svi)
        for copier in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"shows the state of a CompiledSVI cannot be copied.*get_state\(\)"):
                copier(next(iter(svi.optim.optim_objs.values())))
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.deepcopy(svi.optim)
