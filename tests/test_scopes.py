"""A turn puts its own state in place and gives the caller's back."""

import sys

import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine import runtime
from torch import nn

from pyrovae import argument_checks, exclusive, seeding
from pyrovae.models import scopes
from pyrovae.models.scopes import Workspace, copied, hidden, isolated_store
from pyrovae.seeding import Noise, forked


def test_random_numbers_go_on_from_turn_to_turn_as_if_there_were_one():
    with forked(3):
        whole = torch.randn(6)
    space, parts, before = Workspace(noise=Noise(3)), [], torch.get_rng_state()
    for _ in range(3):
        with space.turn():
            parts.append(torch.randn(2))
        assert torch.equal(torch.get_rng_state(), before)
        torch.randn(1)  # the caller's own, in between
        before = torch.get_rng_state()
    assert torch.equal(torch.cat(parts), whole)


def test_a_turn_inside_of_another_goes_on_with_its_own():
    outer, inner = Workspace(noise=Noise(1)), Workspace(noise=Noise(2))
    with outer.turn():
        first = torch.randn(2)
        with inner.turn(), forked(5):
            torch.randn(3)
        second = torch.randn(2)
    with forked(1):
        assert torch.equal(torch.cat([first, second]), torch.randn(4))


def test_modes_are_kept_from_turn_to_turn_and_the_callers_come_back():
    pair = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    pair[1].eval()
    space = Workspace(pair, training=True)
    with space.turn():
        assert pair[1][0].training
        pair[0].eval()  # as a model may do
    assert (pair.training, pair[0].training, pair[1].training, pair[1][0].training) == (True, True, False, False)
    with space.turn():
        assert (pair[0].training, pair[1][0].training) == (False, True)
    with Workspace(pair).turn():
        assert not any(part.training for part in pair.modules())


def test_a_workspace_has_a_parameter_store_of_its_own():
    mine = pyro.param("a", torch.zeros(2))
    space = Workspace()
    with space.turn():
        assert "a" not in pyro.get_param_store()
        pyro.param("b", torch.ones(3))
    assert list(pyro.get_param_store().keys()) == ["a"] and pyro.param("a") is mine
    with space.turn(), isolated_store():
        assert not pyro.get_param_store()
    with space.turn():
        assert list(pyro.get_param_store().keys()) == ["b"]


def test_each_makes_every_value_in_a_turn_and_hands_it_on_outside():
    def values():
        for _ in range(2):
            yield torch.is_grad_enabled()

    assert [(made, torch.is_grad_enabled()) for made in Workspace().each(values())] == [(False, True)] * 2


def test_sites_of_a_hidden_body_reach_no_handler():
    with poutine.trace() as seen, hidden():
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    assert not seen.trace.nodes
    pair = nn.Linear(1, 1)
    assert copied(pair) is not pair


BODIES = {  # three of them, each inside of the one before
    "of a step": lambda pair, other: (
        Workspace(pair, noise=Noise(1), training=True, checks=None).turn(),
        argument_checks.argument_checks(False),
        scopes.evaluation_mode(pair),
    ),
    "of an estimate": lambda pair, other: (
        Workspace(pair, noise=Noise(1), checks=False).turn(),
        argument_checks.argument_checks(True),
        scopes.evaluation_mode(pair),
    ),
    "of other things than the turn's": lambda pair, other: (
        Workspace(pair, checks=None).turn(),
        forked(3),
        scopes.evaluation_mode(other),
    ),
    "without a turn": lambda pair, other: (forked(0), argument_checks.argument_checks(False), forked(1)),
    "a turn inside": lambda pair, other: (forked(0), scopes.evaluating(other), Workspace(pair, noise=Noise(1)).turn()),
}


@pytest.mark.parametrize("kind", BODIES)
def test_an_interrupt_at_any_call_of_a_turn_gives_everything_back(kind):
    pair, other = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())), nn.Dropout()
    pair[1].eval()
    others = {"contextlib", "pyro.distributions.distribution", "pyro.distributions.util", "pyro.infer.util"}
    called = {sys.modules[name].__file__ for name in others | {"pyro.util", "torch.distributions.distribution"}}
    watched = called | {module.__file__ for module in (argument_checks, exclusive, scopes, seeding)}

    def state():
        modes = [part.training for part in (*pair.modules(), other)]
        flags = (*argument_checks.flags(), torch.is_grad_enabled(), scopes.registers_param_sites())
        return modes, flags, id(vars(pyro.get_param_store())), list(runtime._PYRO_STACK), torch.get_rng_state().tolist()

    def interrupted(at):
        calls = 0

        def trace(frame, event, _):
            nonlocal calls
            if event == "call" and frame.f_code.co_filename in watched:  # where Python looks for signals
                calls += 1
                if calls == at:
                    raise KeyboardInterrupt

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            first, second, third = BODIES[kind](pair, other)
            with first, second, third:
                if kind.startswith("of "):  # a turn gives back a handler that no `with` knows of, after an interrupt
                    runtime._PYRO_STACK.append(poutine.block())
                torch.randn(2)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    before, at = state(), 1
    while interrupted(at):
        assert state() == before, f"after call {at}"
        assert not exclusive._lock._is_owned(), f"after call {at}"
        at += 1
    assert at > 10 and state() == before


def test_a_body_that_is_left_later_than_the_turn_around_it_has_been_left_with_it():
    turned, other = nn.Dropout(), nn.Dropout()

    def values():
        with scopes.evaluation_mode(other), forked(7):
            yield 1
            yield 2

    before = torch.get_rng_state()
    assert list(Workspace(turned).each(values())) == [1, 2]
    assert turned.training and other.training and torch.equal(torch.get_rng_state(), before)
