"""Streams and forks of random numbers."""

from __future__ import annotations

import torch

from pyrovae.seeding import forked, stream


def test_other_keys_other_streams():
    seeds = [
        stream(0),
        stream(1),
        stream(0, 0),
        stream(0, 0, 0),
        stream(0, "0"),
        stream(0, 1),
        stream(1, 0),
        stream(2**70),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_fork_puts_the_generator_back_and_seeds_no_other_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: 1 / 0)
    torch.default_generator.manual_seed(3)
    before = torch.random.get_rng_state()
    with forked(5):
        first = torch.rand(2)
    with forked(5):
        second = torch.rand(2)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
    with forked(None):
        torch.rand(1)
    assert not torch.equal(before, torch.random.get_rng_state())
