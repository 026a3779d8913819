"""What names are bound to: each way to reach one is seen, and what does not matter is not."""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import types

import pytest
import torch
from torch import nn

from pyrovae.compile.names import Names

NUMBER = 1.0
TENSOR = torch.zeros(3)


class Options:
    scale = 1.0
    __slots__ = ("width",)

    def __init__(self):
        self.width = 2.0


class Settings:
    scale = 1.0

    @property
    def doubled(self):
        return 2 * self.depth

    depth = 3.0

    def method(self):
        return self.inner

    inner = 4.0
    unread = 5.0


class Constants:
    """A class of which there is no object."""

    width = 1.0


OPTIONS, SETTINGS = Options(), Settings()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.kept, self.beta = nn.Dropout(0.1), torch.zeros(2), 1.0
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1))
        self.read_by_nobody = 0

    def forward(self, x):
        kept = self.kept if self.training else 2 * self.kept
        return self.layers(self.drop(x)) * self.beta + kept


NET = Net()


def helper(options):
    return options.width * NUMBER + TENSOR.sum()


class Default:
    """A class whose one object is a default."""

    def __init__(self):
        self.depth = 1.0


def function(x=TENSOR, default=Default()):  # noqa: B008
    def inner():
        settings = SETTINGS.scale + SETTINGS.doubled + SETTINGS.method() + Settings.scale
        return helper(OPTIONS) + settings + Constants.width + default.depth

    return inner() + NET(x)


def closed(value):
    def read():
        return value + 1

    def bind(new):
        nonlocal value
        value = new

    return read, bind


def rebind(**values):
    globals().update(values)


HERE = sys.modules[__name__]
CHANGES = {
    "a number of a function called": (HERE, "NUMBER", 2.0),
    "a tensor": (HERE, "TENSOR", torch.zeros(3)),
    "an object": (HERE, "OPTIONS", Options()),
    "a slot": (OPTIONS, "width", 3.0),
    "an attribute over the class's": (SETTINGS, "scale", 2.0),
    "of a class": (Settings, "scale", 2.0),
    "of a class without an object": (Constants, "width", 2.0),
    "what a property reads": (SETTINGS, "depth", 0.0),
    "what a method reads": (SETTINGS, "inner", 0.0),
    "a default": (function, "__defaults__", (torch.ones(3), function.__defaults__[1])),
    "of a default": (function.__defaults__[1], "depth", 2.0),
    "a function": (HERE, "helper", lambda options: 0),
    "a module's number": (NET, "beta", 2.0),
    "a module's tensor": (NET, "kept", torch.zeros(2)),
    "of a layer of torch": (NET.drop, "p", 0.5),
    "of a layer within": (NET.layers[1], "negative_slope", 0.2),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_name_that_is_bound_anew_is_seen(what):
    owner, name, value = CHANGES[what]
    names = Names([function], list(NET.modules()))
    assert names.are_bound_alike()
    own, before = name in getattr(owner, "__dict__", {name: None}), getattr(owner, name)
    setattr(owner, name, value)
    try:
        assert not names.are_bound_alike() and [after for _, _, after in names.rebound()] == [value]
    finally:
        if own or owner is function:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
    assert names.are_bound_alike()


def test_cells_methods_and_partials():
    read, bind = closed(torch.zeros(2))
    every = [read, functools.partial(lambda f: f(), read), functools.partial(lambda f: f(), f=read)]
    for start in every:
        names = Names([start], [])
        assert names.are_bound_alike()
        bind(torch.zeros(2))
        assert not names.are_bound_alike()
        assert next(names.rebound())[0] == "the variable 'value' of an enclosing function"
        names.forget_rebound()
        assert names.are_bound_alike()
    settings = Settings()
    names = Names([settings.method], [])
    settings.inner = 5.0
    assert not names.are_bound_alike()


def test_what_is_equal_or_not_read_is_no_change():
    names = Names([function], list(NET.modules()))
    kept = {"NUMBER": NUMBER}
    rebind(NUMBER=float("1.0"))
    OPTIONS.width = 4.0 / 2
    NET.read_by_nobody += 1
    SETTINGS.unread = 6.0
    NET.train(False)  # modes are looked at elsewhere
    assert names.are_bound_alike()
    NET.train()
    rebind(**kept)
    rebind(NUMBER=1)  # another dtype
    assert not names.are_bound_alike()
    rebind(**kept)
    assert names.are_bound_alike()
    read, bind = closed(float("nan"))
    names = Names([read], [])
    bind(-float("nan"))
    assert names.are_bound_alike()
    bind((1, 2.0))
    names = Names([read], [])
    bind((1, *itertools.chain([2.0])))
    assert names.are_bound_alike()
    bind((1, 3.0))
    assert not names.are_bound_alike()


class Answering(dict):
    """A dict by attributes: a name that it has not is a KeyError, `__get__` too."""

    __getattr__ = dict.__getitem__


def test_objects_that_answer_names_with_an_error_of_their_own():
    class Model:
        options = Answering(scale=1.0)

        def __call__(self):
            return self.options.scale

    model = Model()
    names = Names([model], [])
    assert names.are_bound_alike()
    model.options = Answering(scale=2.0)
    assert [words for words, *_ in names.rebound()] == ["'options' of Model"]


def test_an_installed_package_keeps_its_own_count(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "installed_bar.py").write_text(
        "SCALE = 1.0\nclass Bar:\n    n = 0\n    def update(self):\n        self.n += SCALE\n"
        "def model():\n    BAR.update()\n    return BAR\nBAR = Bar()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    import installed_bar

    def model():
        installed_bar.BAR.update()
        return installed_bar.SCALE

    names = Names([model], [])
    model()
    assert names.are_bound_alike()
    installed_bar.SCALE = 2.0  # which the model itself reads
    assert [words for words, *_ in names.rebound()] == ["'SCALE' of installed_bar"]
    names = Names([functools.partial(installed_bar.model)], [])  # whose own package it is
    installed_bar.model()
    assert [words for words, *_ in names.rebound()] == ["'n' of Bar"]


class Base:
    scale = 1.0

    def scaled(self):
        return self.scale


class Unnamed(Base):
    """What Python calls without a name, and what a container holds."""

    def __init__(self):
        self.space, self.parsed = types.SimpleNamespace(scale=1.0), argparse.Namespace(scale=1.0)
        self.part, self.listed, self.keyed = Base(), Base(), Base()
        self.parts, self.list, self.dict = (self.part,), [self.listed], {"a": self.keyed}
        self.networks = nn.ModuleList([Part()])
        self.indexed, self.law = Indexed(), torch.distributions.Normal(0.0, 1.0)

    def scaled(self, *, factor=1.0):
        from shared_options import width

        first = self.parts[0].scale + self.list[0].scale + self.dict["a"].scale
        return first + self.space.scale + self.parsed.scale + self.networks[0].scale + self.indexed[0] + width


class Part(nn.Module):
    scale = 1.0


class Indexed:
    scale = 1.0

    def __getitem__(self, _):
        return self.scale + self.first

    first = 0.0


class Inheriting(Unnamed):
    def scaled(self):
        return super().scaled() + self.law.log_prob(torch.zeros(()))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("part", "scale"),
        ("listed", "scale"),
        ("keyed", "scale"),
        ("space", "scale"),
        ("parsed", "scale"),
        ("networks.0", "scale"),
        ("indexed", "first"),
        ("law", "loc"),
        ("options", "width"),
        ("defaults", "factor"),
    ],
)
def test_what_is_reached_without_a_name_of_its_own_is_seen(path, name, monkeypatch):
    options = types.ModuleType("shared_options")
    options.width = 1.0
    monkeypatch.setitem(sys.modules, "shared_options", options)
    model = Inheriting()
    names = Names([model.scaled], [])
    assert names.are_bound_alike()
    if path == "defaults":
        monkeypatch.setitem(Unnamed.scaled.__kwdefaults__, name, 2.0)
    else:
        owner = {"options": options, "networks.0": model.networks[0]}.get(path) or getattr(model, path)
        setattr(owner, name, torch.ones(()))
    assert not names.are_bound_alike()
