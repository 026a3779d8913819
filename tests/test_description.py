"""Saved states of pairs that keep more than weights: the same density comes back, or an error says why not."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.inference.checkpoint import CheckpointError, Rebuilt, description


class Keeping(nn.Module):
    """A prior whose location is no weight: `draw` makes it."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.keep(self.draw(latent_dim))

    def keep(self, loc):
        self.loc = loc

    def draw(self, size):
        return torch.randn(size)

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


class InBuffer(Keeping):
    def keep(self, loc):
        self.register_buffer("loc", loc, persistent=False)


class Private(Keeping):
    def keep(self, loc):
        self._location = {"loc": loc}

    def forward(self):
        return dist.Normal(self._location["loc"], 1.0).to_event(1)


class InTransform(Keeping):
    def keep(self, loc):
        self.shift = dist.transforms.AffineTransform(loc, torch.ones(len(loc)), event_dim=1)

    def forward(self):
        standard = dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)
        return dist.TransformedDistribution(standard, [self.shift])


class InDistribution(Keeping):
    def keep(self, loc):
        self.base = dist.Normal(loc, 1.0).to_event(1)

    def forward(self):
        return self.base


KEEPING = [Keeping, InBuffer, Private, InTransform, InDistribution]


def with_prior(kind, draw=None):
    """A VAE by name, whose prior's location is drawn by its constructor, or is what `draw` gives."""
    members = {} if draw is None else {"draw": lambda self, size: draw(size)}
    pyrovae.register("kept_beside", kind="prior")(type("Kept", (kind,), members))
    torch.manual_seed(0)
    return pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood="normal", prior="kept_beside")


def value_of(pair):
    return pyrovae.elbo(pair, torch.linspace(-1, 1, 12).reshape(4, 3)).mean


class TestWhatIsNotAmongTheWeights:
    @pytest.mark.parametrize("kind", KEEPING)
    def test_what_a_constructor_draws_is_no_recipe(self, kind, tmp_path):
        vae = with_prior(kind)
        folder = pyrovae.save(tmp_path / "state", vae)
        with pytest.raises(CheckpointError, match=r"composed by hand.*its constructor draws: prior\."):
            pyrovae.load(folder)
        again = pyrovae.load(folder, like=vae)
        assert value_of(again) == value_of(vae)

    @pytest.mark.parametrize(
        ("kind", "dtype"), [*((kind, torch.float32) for kind in KEEPING), (InBuffer, torch.float64)]
    )
    def test_what_it_computes_is_one(self, kind, dtype, tmp_path):
        vae = with_prior(kind, lambda size: torch.arange(1.0, size + 1)).to(dtype)
        again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
        assert value_of(again) == value_of(vae)
        pyrovae.fit(vae, torch.zeros(8, 3), epochs=1, checkpoint=tmp_path / "run", progress=False, device="cpu")

    def test_what_was_changed_afterwards_is_none(self, tmp_path):
        changes = {
            "buffer": lambda vae: vae.prior.loc.fill_(1.0),
            "setting": lambda vae: vars(vae.prior).update(_temperature=3.0),
            "hook": lambda vae: vae.likelihood.network.register_forward_hook(lambda part, given, out: 2 * out),
        }
        for name, change in changes.items():
            vae = with_prior(InBuffer, torch.zeros)
            change(vae)
            with pytest.raises(CheckpointError, match="a part was changed after it was built"):
                pyrovae.load(pyrovae.save(tmp_path / name, vae))
        vae = pyrovae.mlp_vae((3,), hidden_dims=(4,))
        vae.prior.loc.fill_(1.0)
        with pytest.raises(CheckpointError, match=r"prior\.loc is not in the weights"):
            pyrovae.load(pyrovae.save(tmp_path / "own", vae))

    def test_a_draw_that_came_out_alike_when_it_was_saved_is_refused_when_it_does_not(self, tmp_path):
        order = [0, 1]
        vae = with_prior(Keeping, lambda size: torch.tensor(order))
        folder = pyrovae.save(tmp_path / "state", vae)
        assert pyrovae.load(folder).prior.loc.tolist() == [0, 1]
        order.reverse()
        with pytest.raises(CheckpointError, match=r"does not build again: prior\.loc came out otherwise"):
            pyrovae.load(folder)

    def test_like_with_another_setting_is_told_of(self, tmp_path):
        vae = with_prior(Private, torch.zeros)
        folder = pyrovae.save(tmp_path / "state", vae)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pyrovae.load(folder, like=with_prior(Private, torch.zeros))
        with pytest.warns(UserWarning, match=r"saved with other values of prior\._location"):
            pyrovae.load(folder, like=with_prior(Private, torch.ones))

    def test_a_run_that_goes_on_with_another_setting_is_told_of(self, tmp_path):
        options = {"checkpoint": tmp_path / "run", "progress": False, "device": "cpu", "compile": False}
        pyrovae.fit(with_prior(Private, torch.zeros), torch.zeros(8, 3), epochs=1, **options)
        with pytest.warns(UserWarning, match=r"saved with other values of prior\._location"):
            pyrovae.fit(with_prior(Private, torch.ones), torch.zeros(8, 3), epochs=2, resume=True, **options)

    def test_what_a_first_call_filled_in_and_a_hand_changed_is_no_recipe(self, tmp_path):
        class Filling(Keeping):
            scale = None

            def forward(self):
                self.scale = 1.0 if self.scale is None else self.scale
                return dist.Normal(self.loc, self.scale).to_event(1)

        vae = with_prior(Filling, torch.zeros)
        assert value_of(pyrovae.load(pyrovae.save(tmp_path / "filled", vae))) == value_of(vae)
        vae.prior.scale = 3.0
        folder = pyrovae.save(tmp_path / "changed", vae)
        with pytest.raises(CheckpointError, match=r"composed by hand.*prior\.scale is not in the weights"):
            pyrovae.load(folder)
        assert value_of(pyrovae.load(folder, like=vae)) == value_of(vae)

    def test_what_calls_write_is_in_nobodys_way(self, tmp_path):
        class Counting(Keeping):
            def forward(self):
                self.calls = getattr(self, "calls", 0) + 1
                self._last = super().forward()
                return self._last

        vae = with_prior(Counting, torch.zeros)
        pyrovae.fit(vae, torch.zeros(8, 3), epochs=1, progress=False, device="cpu", compile=False)
        before = value_of(vae)
        again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
        assert value_of(again) == before


def test_a_pair_is_built_by_its_recipe_again_only_once_something_has_changed(monkeypatch):
    built, rebuilt = [], Rebuilt()
    sketched = description.sketched_pair
    monkeypatch.setattr(description, "sketched_pair", lambda *given, **how: built.append(1) or sketched(*given, **how))
    vae = pyrovae.mlp_vae((5,), 2, hidden_dims=(4,), likelihood="normal")
    prior, decoder = vae.prior, vae.likelihood.network

    def stepped():
        with torch.no_grad():
            for p in vae.parameters():
                p += 0.1

    changes = [  # and how often the pair is built for the next two descriptions, and whether it is as it was built
        (lambda: None, 1, True),
        (stepped, 0, True),
        (lambda: setattr(decoder, "gain", 2.0), 1, False),
        (lambda: delattr(decoder, "gain"), 1, True),
        (lambda: setattr(vae, "prior", pyrovae.MixturePrior(2, 3)), 1, False),
        (lambda: setattr(vae, "prior", prior), 1, True),
        (lambda: vae.double(), 1, True),
        (lambda: decoder.register_parameter("more", next(decoder.parameters())), 1, False),
        (lambda: delattr(decoder, "more"), 1, True),
    ]
    for number, (change, times, is_as_built) in enumerate(changes):
        change()
        built.clear()
        found = [description.describe(vae, rebuilt) for _ in range(2)]
        assert len(built) == times, number
        assert found == [description.describe(vae)] * 2 and (found[0]["recipe"] is not None) == is_as_built, number
