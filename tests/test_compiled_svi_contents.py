"""What lists, dictionaries and arrays hold is followed between steps as by Pyro, and how much of it."""

from __future__ import annotations

import warnings
from collections import OrderedDict, UserDict, deque
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from pyro.infer import SVI, Trace_ELBO

from pyrovae import CaptureError, CompiledSVI
from pyrovae.compile import contents, walk
from pyrovae.compile.arguments import kind_of

pytestmark = [needs_compiler, pytest.mark.usefixtures("interpreted", "float32")]
X = torch.linspace(-1.0, 2.0, 6)
SCALES = [1.0, 2.0]


def guide(x, *_):
    pyro.sample("z", dist.Normal(pyro.param("location", torch.tensor(0.5)), 1.0))


def scaled(read):
    """A model whose data are multiplied by what `read()` gives."""

    def model(x, *rest):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x * read(*rest))

    return model


def steps(kind, read, change=None, count=2, arguments=((),) * 9):
    """Losses, with a change ahead of the second step; and the SVI."""
    pyro.clear_param_store()
    svi = kind(scaled(read), guide, pyro.optim.SGD({"lr": 0.01}), loss=Trace_ELBO())
    found = []
    for i in range(count):
        if i == 1 and change is not None:
            change()
        pyro.set_rng_seed(i)
        found.append(svi.step(X, *arguments[i]))
    return torch.tensor(found), svi


def put(held, place, value):
    return lambda: held.__setitem__(place, value)


def global_list():
    SCALES[1] = 2.0
    return lambda: SCALES[1], put(SCALES, 1, 4.0)


def list_of_a_closure():
    held = [1.0, 2.0]
    return lambda: held[1], put(held, 1, 4.0)


def longer_list():
    held = [1.0, 2.0]
    return lambda: sum(held), lambda: held.append(3.0)


def dictionary_of_an_attribute():
    settings = SimpleNamespace(of={"scale": 2.0})
    return lambda: settings.of["scale"], put(settings.of, "scale", 4.0)


def other_key():
    held = {"a": 2.0}
    return lambda: 2.0 if "a" in held else 4.0, lambda: held.update(b=held.pop("a"))


def dictionary_within_a_tuple():
    inner = OrderedDict(scale=2.0)
    held = (1, [inner])
    return lambda: held[1][0]["scale"], put(inner, "scale", 4.0)


def default():
    held = [2.0]
    return lambda scales=held: scales[0], put(held, 0, 4.0)


def list_of_tensors():
    held = [torch.tensor(2.0)]
    return lambda: held[0], put(held, 0, torch.tensor(4.0))


def set_of_numbers():
    held = {2.0}
    return lambda: sum(held), lambda: held.add(4.0)


def queue():
    held = deque([1.0, 2.0], maxlen=2)
    return lambda: held[-1], lambda: held.append(4.0)


def array():
    held = np.ones(5)
    return lambda: float(held[2]), put(held, 2, 4.0)


def array_of_objects():
    held = np.array([1.0, [2.0]], dtype=object)
    return lambda: held[1][0], lambda: put(held[1], 0, 4.0)()


def dictionary_of_a_class():
    held = UserDict(scale=2.0)
    return lambda: held["scale"], put(held, "scale", 4.0)


def dictionary_under_a_view():
    inner = {"scale": 2.0}
    held = MappingProxyType(inner)
    return lambda: held["scale"], put(inner, "scale", 4.0)


WAYS = [global_list, list_of_a_closure, longer_list, dictionary_of_an_attribute, other_key, dictionary_within_a_tuple]
WAYS += [default, list_of_tensors, set_of_numbers, queue, array, array_of_objects]
WAYS += [dictionary_of_a_class, dictionary_under_a_view]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_a_container_holds_is_followed(way, monkeypatch):
    theirs, _ = steps(SVI, *way())
    unchanged, _ = steps(SVI, way()[0])
    ours, svi = steps(CompiledSVI, *way())
    assert not torch.allclose(theirs[1:], unchanged[1:], rtol=1e-3)  # the control: it does change the loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    (variants,) = svi._step._variants.values()
    assert len(variants) == 2
    if way not in WAYS[:2]:
        return
    monkeypatch.setattr(contents.Contents, "are_alike", lambda self: True)
    stale, _ = steps(CompiledSVI, *way())
    assert torch.allclose(stale[1:], unchanged[1:], rtol=1e-5)  # the control: nothing else notices it


@pytest.mark.parametrize("reads", [torch.from_numpy, torch.tensor])
def test_an_array_whose_memory_a_graph_reads_needs_no_other_graph(reads):
    held = np.ones(6, dtype=np.float32)
    change = put(held, slice(None), 4.0)
    theirs, _ = steps(SVI, lambda: reads(held), change)
    held[:] = 1.0
    ours, svi = steps(CompiledSVI, lambda: reads(held), change)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    (variants,) = svi._step._variants.values()
    assert len(variants) == 1


def test_what_a_model_fills_may_be_what_no_loss_depends_on():
    seen, cache = [], {}

    def read():
        seen.append(len(seen))
        return cache.setdefault(len(cache) // 5, 2.0)

    theirs, _ = steps(SVI, read)
    seen.clear()
    ours, svi = steps(CompiledSVI, read, change=lambda: seen.append("by somebody else"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    (variants,) = svi._step._variants.values()
    assert len(variants) == 1

    def grows():
        seen.append(1.0)
        return float(len(seen))

    with pytest.raises(CaptureError, match="contents of a list that the model reads is assigned anew in each step"):
        steps(CompiledSVI, grows)


@pytest.mark.parametrize("count", [walk.MOST + 1, 10])
def test_more_than_is_looked_at_is_told_once(count):
    held = [float(i) for i in range(count)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        steps(CompiledSVI, lambda *_: held[-1], arguments=[(), (1.0,), ()])
    texts = [str(one.message) for one in told if "not noticed" in str(one.message)]
    assert len(texts) == (count > 10) and all("16,000 names, or entries" in text for text in texts)


def test_more_names_than_are_looked_at_are_told(monkeypatch):
    monkeypatch.setattr(walk, "MOST", 3)
    with pytest.warns(UserWarning, match="change of those beyond is not noticed"):
        steps(CompiledSVI, lambda: SCALES[0])


@pytest.mark.parametrize("pair", [(np.float64(0.5), 0.5), (np.float32(0.5), 0.5), (np.bool_(True), True)])
def test_a_number_of_numpys_is_no_python_number(pair):
    def read(b):
        return 2.0 if type(b) in (float, bool) else 4.0

    assert kind_of(pair[0]) != kind_of(pair[1])
    theirs, _ = steps(SVI, read, arguments=[(pair[0],), (pair[1],)])
    ours, _ = steps(CompiledSVI, read, arguments=[(pair[0],), (pair[1],)])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
