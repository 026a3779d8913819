"""The one-line `repr` and the small table of pairs, results and data: what they say, and that they never fail."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import pyrovae
from pyrovae import data
from pyrovae.evaluation.estimate import pair_hash
from pyrovae.inference.checkpoint.description import describe
from pyrovae.models.outline import tree
from pyrovae.summary import HasSummary, table

STATES = Path(__file__).parent / "states"


class Table(HTMLParser):
    """The rows of a table, its title, and the tags and attributes that it is made of."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.attributes, self.texts = {}, set(), set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value) for name, value in attrs}
        self.open = tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open == "th":
            self.name = data
        elif self.open == "td":
            self.rows[self.name] = data


def rows(thing):
    return Table(thing._repr_html_()).rows


def pairs():
    linear, other = (pyrovae.linear_vae(5, 2) for _ in range(2))
    ae = pyrovae.mlp_ae((5,), hidden_dims=(3,))
    prior = pyrovae.GaussianPrior(torch.zeros(2), torch.eye(2))
    count = (64 * 9 + 9) + 2 * (9 * 3 + 3) + (3 * 9 + 9) + (9 * 64 + 64)
    return {
        "VAE(event_shape=(5,), latent_dim=2, likelihood=normal, prior=standard, posterior=LinearNormal, "
        "30 parameters)": linear,
        "VAE(event_shape=(1, 8, 8), latent_dim=3, likelihood=bernoulli, prior=standard, posterior=diagonal, "
        f"{count:,} parameters)": pyrovae.mlp_vae((1, 8, 8), 3, hidden_dims=(9,)),
        "AE(event_shape=(5,), latent_dim=2, likelihood=normal(scale=0.626), 55 parameters)": ae,
        "VAE(event_shape=(5,), latent_dim=2, likelihood=normal(scale=0.5), prior=GaussianPrior, "
        "posterior=CurvatureNormal, 55 parameters)": pyrovae.as_density(ae, prior, scale=0.5),
        # 2 weights, 3 locations of 4 numbers and a triangle of 10 for each
        "GaussianMixture(event_shape=(4,), num_components=3, covariance=full, 44 parameters)": pyrovae.GaussianMixture(
            (4,), 3
        ),
        # 2 class probabilities, 3 locations of 4 numbers, one triangle of 10
        "GenerativeClassifier(event_shape=(4,), num_classes=3, densities=normal with tied covariance, "
        "24 parameters)": pyrovae.gaussian_classifier((4,), 3),
        "GenerativeClassifier(event_shape=(5,), num_classes=2, densities=VAE, "
        "62 parameters)": pyrovae.GenerativeClassifier({"a": linear, "b": other}, evidence=pyrovae.exact),
        "DiscriminativeClassifier(event_shape=(2,), num_classes=3, hidden_dims=(8,), prior_scale=10.0, "
        "51 parameters)": pyrovae.DiscriminativeClassifier((2,), 3, hidden_dims=(8,)),
    }


def test_a_pair_in_one_line_and_as_a_table():
    for line, pair in pairs().items():
        assert repr(pair) == line
        found = rows(pair)
        assert found["event_shape"] == str(pair.event_shape) and found["stored as"] == "float32 on cpu"
        assert f"{found['parameters']} parameters)" in line
        assert repr(copy.deepcopy(pair).to("meta")) == line
        assert rows(copy.deepcopy(pair).to("meta").double())["stored as"] == "float64 on meta"


def test_print_is_torchs_tree():
    for pair in pairs().values():
        assert str(pair) == f"{pair}" == tree(pair)
        assert str(pair).startswith(f"{type(pair).__name__}(\n  (")
        kinds = {type(part).__name__ for part in pair.modules()} - {"NormalDensities"}
        assert all(kind in str(pair) for kind in kinds)
    # a pair inside of another module is one line of that module's own tree
    vae = pyrovae.linear_vae(5, 2)
    assert str(nn.ModuleList([vae])) == f"ModuleList(\n  (0): {vae!r}\n)"
    assert "LinearNormal(" in tree(nn.ModuleList([vae]))


class Nested(nn.Module):
    """A user's pair around one of ours."""

    event_shape, latent_dim, is_normalized = (3,), 2, True

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.inner = pyrovae.mlp_vae((3,), hidden_dims=(4,), activation=activation)

    def model(self, x=None, *, size=1):
        return self.inner.model(x, size=size)

    def guide(self, x=None, *, size=1):
        return self.inner.guide(x, size=size)


def test_hashes_and_saved_states_go_by_the_tree_and_not_by_the_line():
    softplus, tanh = (Nested(activation) for activation in ("softplus", "tanh"))
    assert repr(softplus) == repr(tanh), "the line does not show an activation"
    assert pair_hash(softplus) != pair_hash(tanh) and pair_hash(softplus) == pair_hash(Nested("softplus"))
    for folder in sorted(STATES.iterdir()):
        if folder.name in ("by_hand",):
            continue  # of a user's class
        try:
            pair = pyrovae.load(folder)
        except pyrovae.CheckpointError:
            continue  # made of parts that another test registers
        assert describe(pair)["structure"] == json.loads((folder / "manifest.json").read_text())["structure"]


class Unwilling(pyrovae.VAE):
    """A subclass whose attributes raise whatever they are asked."""

    @property
    def event_shape(self):
        raise RuntimeError("not yet")

    @event_shape.setter
    def event_shape(self, value):
        pass


class Foreign(nn.Module):
    support = torch.distributions.constraints.real
    event_shape = (5,)

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 5)

    def forward(self, z):
        return torch.distributions.Independent(torch.distributions.Normal(self.network(z), 1.0), 1)


def test_no_summary_ever_fails():
    whole = pyrovae.linear_vae(5, 2)
    half = pyrovae.VAE.__new__(pyrovae.VAE)
    assert repr(half) == "VAE(...)" and rows(half) == {}
    unwilling = Unwilling(whole.prior, whole.likelihood, whole.posterior)
    assert repr(unwilling).startswith("Unwilling(latent_dim=2, likelihood=normal,")
    foreign = pyrovae.VAE(whole.prior, Foreign(), whole.posterior)
    assert "likelihood=Foreign, prior=standard" in repr(foreign)
    del foreign.prior
    assert (
        repr(foreign)
        == "VAE(event_shape=(5,), latent_dim=2, likelihood=Foreign, posterior=LinearNormal, 29 parameters)"
    )
    lazy = pyrovae.VAE(whole.prior, whole.likelihood, whole.posterior)
    lazy.more = nn.LazyLinear(3)
    assert repr(lazy).endswith("posterior=LinearNormal)") and "parameters" not in rows(lazy)
    lazy._summary_rows = torch.zeros(2)
    assert rows(lazy) == {}
    nothing = xr.Dataset()
    for broken in (
        pyrovae.Estimate("mine", nothing),
        pyrovae.History(nothing),
        pyrovae.Gaps(nothing),
        pyrovae.Calibration(nothing, nothing),
        data.Split.__new__(data.Split),
        data.Dataset(None, None, None, None),
    ):
        assert repr(broken) == f"{type(broken).__name__}(...)"
        assert "None" not in broken._repr_html_()


def test_words_from_outside_are_escaped_and_bring_no_colours():
    part = data.Split(torch.zeros(2, 3))
    found = Table(data.Dataset(part, part, (3,), "<script>alert(1)</script>")._repr_html_())
    assert found.rows["name"] == "<script>alert(1)</script>" and "script" not in found.tags
    assert found.tags == {"div", "strong", "table", "tbody", "tr", "th", "td"}
    assert found.attributes == {("style", "text-align: left")}
    assert "<b>" not in table("<b>", {"<i>": "<u>"})
    long = data.Dataset(part, part, (3,), "line\nafter line " * 1000)
    assert len(repr(long)) < 700 and "\n" not in repr(long) and len(rows(long)["name"]) < 200


def test_results_in_one_line_and_as_a_table():
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(5, 2)
    x = vae.sample(6, seed=0)
    truth, bound = pyrovae.exact(vae, x), pyrovae.elbo(vae, x)
    for estimate in (truth, bound, truth - bound):
        assert repr(estimate) == f"Estimate({estimate})"
    found = rows(bound)
    assert found["mean"] == f"{bound.mean:.3f} nats per item" and found["items"] == "6"
    assert found["standard error, items fixed"] == f"{bound.se:.3f} nats (Monte Carlo)"
    assert found["log p(x)"] == "lower bound, in expectation" and found["base measure"] == "density"
    assert "standard error, items fixed" not in rows(truth) and rows(truth)["log p(x)"] == "exact"
    assert "bits per dimension" not in found
    binary = pyrovae.mlp_vae((3,), hidden_dims=(4,))
    mass = pyrovae.elbo(binary, torch.eye(3))
    assert rows(mass)["bits per dimension"] == f"{mass.bits_per_dimension:.4f}"

    ledger = pyrovae.gaps(vae, x, truth, max_steps=2, progress=False)
    total, error = ledger.mean("gap")
    assert repr(ledger).startswith(f"Gaps(log p(x) - ELBO {total:.3f} ± {error:.3f}, approximation ")
    assert rows(ledger)["log p(x) - ELBO"] == f"{total:.3f} ± {error:.3f} nats"
    assert rows(ledger)["log p(x) by"] == "exact (exact)"

    ranks = pyrovae.calibrate(vae, num_simulations=200)
    assert not ranks.passed and "fails for" in repr(ranks) and "200 simulated items" in repr(ranks)
    assert rows(ranks)["departure"] == "seen" and "true spread" in rows(ranks)["latent[0]"]

    history = pyrovae.fit(vae, x, epochs=2, progress=False, compile=False, device="cpu")
    loss = history.epochs.loss.values
    assert repr(history) == f"History({history})"
    assert rows(history)["loss"] == f"{loss[0]:.3f} to {loss[-1]:.3f} nats per item"
    assert rows(history)["epochs"] == "2" and rows(history)["time"].endswith(" s on cpu")


def test_a_validation_is_called_what_it_is():
    digits = data.load("digits")
    part, quiet = data.Split(digits.train.x[:60], digits.train.y[:60] % 2), {"progress": False}
    small = {"hidden_dims": (4,), "likelihood": "normal"}
    mixtures = {label: pyrovae.GaussianMixture((1, 8, 8), 1, floor=0.1) for label in (0, 1)}
    fits = {
        "ELBO": (pyrovae.mlp_vae((1, 8, 8), **small), None),
        "E log p(x | z)": (pyrovae.mlp_ae((1, 8, 8), hidden_dims=(4,)), None),
        "log p(x)": (pyrovae.GaussianMixture((1, 8, 8), 1, floor=0.1), None),
        "classes' log p(x)": (pyrovae.GenerativeClassifier(mixtures), part.y),
    }
    for name, (pair, y) in fits.items():
        epochs = {"epochs": 1} if pair is not fits["log p(x)"][0] and y is None else {}
        validation = part.x if y is None else (part.x, y)
        history = pyrovae.fit(pair, part.x, y, validation=validation, **epochs, **quiet)
        assert history.validated == name.removeprefix("classes' ")
        if y is None:
            assert f", validation {name} " in str(history) and f"validation {name}" in rows(history)


def test_a_data_set_states_its_sizes_and_range():
    digits = data.load("digits")
    found = rows(digits)
    assert found["items"] == "1,437 for training, 360 for tests" and found["values"] == "0 to 1"
    assert rows(data.Split(torch.tensor([[-2.0], [7.0]])))["values"] == "-2 to 7"
    assert rows(data.Split(torch.tensor([[-2.0], [7.0]]), torch.tensor([3, 5])))["labels"] == "2 classes, 3 to 5"


def test_a_memory_map_is_not_read_for_its_table(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))

    class Watched(data.MappedArray):
        def __getitem__(self, index):
            pytest.fail("the items were read")

    mapped = Watched(np.load(tmp_path / "x.npy", mmap_mode="r"))
    found = rows(data.Split(mapped))
    assert "values" not in found and found["stored as"].endswith("read from a memory map")


def test_a_class_of_ones_own_has_a_summary_by_two_methods():
    class Own(HasSummary):
        def _summary_line(self):
            return "a line"

        def _summary_rows(self):
            return {"one": lambda: 1, "none": lambda: None, "broken": lambda: 1 / 0}

    assert repr(Own()) == "Own(a line)" and rows(Own()) == {"one": "1"}
