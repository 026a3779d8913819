"""The register: names, what each object was made with, and states written before there was a register."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae import choices
from pyrovae.models import registry
from pyrovae.models.fingerprint import settings
from pyrovae.models.registry import NotDescribedError, build, completed, described, note, registered
from pyrovae.models.registry import table as table_of_parts

STATES = Path(__file__).parent / "states"  # written before there was a register, by the builders of that time


def like(name):
    """The pair that the state of this name was written from."""
    small = {"channels": (2,), "strides": (2,)}
    builders = {
        "mlp_vae": lambda: pyrovae.mlp_vae((1, 2, 3), 2, hidden_dims=(4,), activation="tanh"),
        "mlp_vae_fixed_normal": lambda: pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), likelihood=pyrovae.Normal(scale=1)),
        "mlp_vae_learned_normal": lambda: pyrovae.mlp_vae(
            (3,), 2, hidden_dims=(4,), likelihood=pyrovae.Normal(initial_scale=0.5, floor=0.01)
        ),
        "mlp_vae_family": lambda: pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), likelihood=pyrovae.ContinuousBernoulli()),
        "conv_vae_normal": lambda: pyrovae.conv_vae((1, 4, 3), 2, likelihood="normal", **small),
        "linear_vae": lambda: pyrovae.linear_vae(4, 2).double(),
        "mlp_ae": lambda: pyrovae.mlp_ae((3,), 2, hidden_dims=(4,)),
        "conv_ae": lambda: pyrovae.conv_ae((1, 4, 3), 2, channels=(2,), strides=(1,)),
        "GaussianMixture": lambda: pyrovae.GaussianMixture((3,), 2, covariance="diagonal"),
        "gaussian_classifier": lambda: pyrovae.gaussian_classifier((3,), 2, floor=1e-3),
        "DiscriminativeClassifier": lambda: pyrovae.DiscriminativeClassifier((3,), 2),
    }
    return builders[name]()


def same_state(a, b):
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("folder", sorted(p.name for p in STATES.iterdir() if p.name != "by_hand"))
def test_a_state_of_before_still_loads_and_is_written_anew(folder, tmp_path):
    pair = pyrovae.load(STATES / folder)
    if folder != "BayesianGaussianMixture":  # whose draws no pair by hand has
        other = pyrovae.load(STATES / folder, like=like(folder))
        assert same_state(pair, other)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", pair))
    assert same_state(pair, again) and str(pair) == str(again)


# registering --------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """The register, as it was before once the test is over."""
    for kind in registry.KINDS:
        registry.registered(kind)
    monkeypatch.setattr(registry, "_TABLE", {kind: dict(known) for kind, known in registry._TABLE.items()})


def a_likelihood(scale=1.0):
    """A class of a likelihood, made anew at each call as when a notebook's cell is run again."""

    @pyrovae.register("mine", kind="likelihood")
    class Mine(nn.Module):
        support = constraints.real

        def __init__(self, scale=scale, *, words=("a",), inner=None):
            super().__init__()
            self.spread = nn.Parameter(torch.tensor(float(scale)))

        def forward(self, loc):
            return torch.distributions.Laplace(loc, self.spread)

    return Mine


@pytest.mark.usefixtures("table")
class TestRegister:
    def test_the_same_class_written_anew_takes_the_earlier_ones_place(self):
        first, second = a_likelihood(), a_likelihood(2.0)
        assert registered("likelihood")["mine"] is second is not first
        assert pyrovae.mlp_vae((3,), likelihood="mine").likelihood.family.spread.item() == 2.0

    def test_another_class_under_a_taken_name_is_refused_and_both_are_named(self):
        a_likelihood()
        here = rf"{__name__}.a_likelihood.<locals>.Mine, and cannot be {__name__}\.TestRegister\..*\.Other too"
        with pytest.raises(ValueError, match=here):

            @pyrovae.register("mine", kind="likelihood")
            class Other(pyrovae.Normal):
                pass

        with pytest.raises(ValueError, match=r"'normal' is pyrovae\.models\.parts\.normal\.Normal, and cannot be"):
            pyrovae.register("normal", kind="likelihood")(type("Own", (pyrovae.Normal,), {"__module__": "somewhere"}))
        assert registered("likelihood")["normal"] is pyrovae.Normal
        pyrovae.register("mine", kind="prior")(
            type("Own", (pyrovae.StandardNormal,), {})
        )  # taken within its kind alone

    @pytest.mark.parametrize("name", ["", "two words", "a-b", "1st", None, 3])
    def test_a_name_is_an_identifier(self, name):
        with pytest.raises(ValueError, match="name must be a word of letters, digits and underscores, got"):
            pyrovae.register(name, kind="prior")

    def test_an_unknown_kind_is_told(self):
        with pytest.raises(ValueError, match=r"kind must be one of 'likelihood', .*did you mean 'prior'"):
            pyrovae.register("a", kind="priors")

    @pytest.mark.parametrize(
        "made", [int, lambda: None, nn.Linear(1, 1), "Normal"], ids=["int", "function", "module", "name"]
    )
    def test_a_part_is_a_class_of_modules(self, made):
        with pytest.raises(TypeError, match=r"prior 'a' must be a class of torch.nn.Module, got"):
            pyrovae.register("a", kind="prior")(made)

    @pytest.mark.parametrize(
        "made",
        [int, nn.Linear(1, 1), functools.partial(pyrovae.mlp_vae, (3,))],
        ids=["int", "module", "partial"],
    )
    def test_a_builder_is_a_function_or_a_class_of_modules(self, made):
        with pytest.raises(TypeError, match=r"builder 'a' must be a function or a class of torch.nn.Module, got"):
            pyrovae.register("a", kind="builder")(made)

    def test_a_builder_gives_a_module(self):
        build = pyrovae.register("a", kind="builder")(lambda: 3)
        with pytest.raises(TypeError, match=r"builder 'a' must give a torch.nn.Module, and gave a int"):
            build()

    @pytest.mark.parametrize(
        ("kind", "constructor", "words"),
        [
            ("likelihood", lambda self, scale: None, r"made as Part\(\) .* takes \(scale\): other arguments must have"),
            ("prior", lambda self: None, r"made as Part\(latent_dim\) .* takes \(\)"),
            ("posterior", lambda self, latent_dim: None, r"made as Part\(network, features, latent_dim\)"),
            ("prior", lambda self, *sizes: None, r"must be one that can be given by name, and sizes cannot"),
            ("prior", lambda self, latent_dim, /: None, r"must be one that can be given by name, and latent_dim"),
        ],
    )
    def test_a_constructor_that_no_builder_could_call_is_refused(self, kind, constructor, words):
        made = type("Part", (nn.Module,), {"__init__": constructor})
        with pytest.raises(ValueError, match=words):
            pyrovae.register("a", kind=kind)(made)
        assert "a" not in registered(kind)

    def test_a_part_without_a_constructor_takes_no_arguments(self):
        made = type("Part", (nn.Module,), {"support": constraints.real, "forward": lambda self, loc: None})
        assert pyrovae.register("a", kind="likelihood")(made) is made
        with pytest.raises(ValueError, match=r"made as Part\(latent_dim\) .* takes \(\)"):
            pyrovae.register("a", kind="prior")(made)

    @pytest.mark.parametrize("count", [0, 1.5, "2", -1])
    def test_a_number_of_parameters_is_a_whole_number(self, count):
        made = type("Part", (pyrovae.Bernoulli,), {"num_parameters": count})
        with pytest.raises((TypeError, ValueError), match="num_parameters of likelihood 'a' must be"):
            pyrovae.register("a", kind="likelihood")(made)

    @pytest.mark.parametrize(
        ("kind", "members", "words"),
        [
            ("likelihood", {"forward": lambda self, loc: None}, "Part must have a support, the constraint that an"),
            ("likelihood", {"support": constraints.real}, "Part has no forward, which gives its distribution"),
            (
                "likelihood",
                {"support": constraints.real, "forward": lambda self, loc, scale: None},
                r"1 arguments beside self, and it takes \(self, loc, scale\); num_parameters .*num_parameters = 2",
            ),
            (
                "prior",
                {"forward": lambda self, x: None},
                r"must take 0 arguments beside self, and it takes \(self, x\)$",
            ),
            ("posterior", {"forward": lambda self: None}, r"must take 1 arguments beside self, and it takes \(self\)$"),
        ],
    )
    def test_what_a_part_lacks_is_named_where_it_is_registered(self, kind, members, words):
        def constructor(self, network=None, features=None, latent_dim=None):
            super(made, self).__init__()

        made = type("Part", (nn.Module,), {"__init__": constructor, **members})
        with pytest.raises(ValueError, match=words):
            pyrovae.register("a", kind=kind)(made)

    @pytest.mark.parametrize("kind", ["likelihood", "posterior", "prior"])
    def test_an_unknown_name_lists_those_that_there_are(self, kind):
        a_likelihood()
        names = ", ".join(map(repr, registered(kind)))
        with pytest.raises(ValueError, match=f"^{kind} must be one of {names}, got 'nothing'"):
            pyrovae.mlp_vae((3,), **{kind: "nothing"})
        assert ("mine" in names) == (kind == "likelihood")


# what an object was made with ---------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
class TestArguments:
    def test_they_are_kept_as_plain_values_with_defaults(self):
        kind, words = a_likelihood(), ["b", "c"]
        made = kind(np.float32(0.5), words=words, inner=pyrovae.Normal(scale=2))
        words.append("d")
        inner = {"scale": 2, "initial_scale": 1.0, "floor": 1e-3, "link": "identity", "per_entry": False}
        assert described(made) == {
            "kind": "likelihood",
            "name": "mine",
            "arguments": {
                "scale": 0.5,
                "words": ["b", "c"],
                "inner": {"kind": "likelihood", "name": "normal", "arguments": inner},
            },
        }
        assert described(kind())["arguments"] == {"scale": 1.0, "words": ["a"], "inner": None}
        again = build(json.loads(json.dumps(described(made))))
        assert type(again) is kind and described(again) == described(made)

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (np.int64(3), 3),
            (np.bool_(True), True),
            (torch.tensor(0.5), 0.5),
            (torch.Size([2, 3]), [2, 3]),
            (range(2), [0, 1]),
            (np.arange(2), [0, 1]),
            (torch.arange(2), [0, 1]),
            (np.array(["a", "b"]), ["a", "b"]),
            ((1, (2.5, "a", None)), [1, [2.5, "a", None]]),
        ],
    )
    def test_numbers_and_sequences_become_pythons_own(self, value, plain):
        kept = described(a_likelihood()(words=value))["arguments"]["words"]
        assert kept == plain and json.loads(json.dumps(kept)) == plain

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (abs, "inner is a builtin_function_or_method, no plain value"),
            ({"a": 1}, "inner is a dict, no plain value"),
            (b"a", "inner is a bytes, no plain value"),
            (np.zeros(2), "inner is a ndarray, no plain value"),
            (torch.zeros(2, 2), "inner is a Tensor, no plain value"),
            ([1, [abs]], "inner is a builtin_function_or_method, no plain value"),
            (nn.Linear(1, 1), r"inner is a Linear \(Linear is not registered\)"),
        ],
        ids=str,
    )
    def test_what_is_no_plain_value_is_named(self, value, words):
        with pytest.raises(NotDescribedError, match=words):
            described(a_likelihood()(inner=value))
        vae = pyrovae.mlp_vae((3,), likelihood=a_likelihood()(inner=value))
        assert vae.recipe is None

    def test_a_wrong_call_says_what_was_meant(self):
        with pytest.raises(TypeError, match=r"Normal has no argument 'scales'; did you mean 'scale'\?"):
            pyrovae.Normal(scales=1.0)

    def test_a_subclass_is_not_taken_for_its_parent(self):
        kind = a_likelihood()

        class Wide(kind):
            def __init__(self, factor=2.0):
                super().__init__(scale=factor * 3)

        with pytest.raises(NotDescribedError, match="Wide is not registered"):
            described(Wide())
        pyrovae.register("wide", kind="likelihood")(Wide)
        assert described(Wide(1.5)) == {"kind": "likelihood", "name": "wide", "arguments": {"factor": 1.5}}
        assert described(kind(1.5))["name"] == "mine"  # and its parent is what it was

        @pyrovae.register("plain_wide", kind="likelihood")
        class PlainWide(kind):
            pass

        assert described(PlainWide(2.5))["arguments"]["scale"] == 2.5
        assert described(PlainWide(2.5))["name"] == "plain_wide"
        assert PlainWide(2.5).spread.item() == 2.5

    def test_a_class_registered_anew_does_not_stand_for_an_object_of_the_old_one(self, tmp_path):
        vae = pyrovae.mlp_vae((3,), likelihood=a_likelihood()())
        a_likelihood()
        with pytest.raises(NotDescribedError, match="Mine was registered anew as likelihood 'mine' after this one"):
            described(vae.likelihood.family)
        folder = pyrovae.save(tmp_path / "state", vae)
        with pytest.raises(pyrovae.CheckpointError, match=r"composed by hand.*a part was changed"):
            pyrovae.load(folder)
        assert same_state(pyrovae.load(folder, like=vae), vae)

    def test_copies_and_pickles_keep_them_and_nothing_else_shows_them(self):
        vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=pyrovae.Normal(scale=0.5))
        for again in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae)), copy.copy(vae)):
            assert again.recipe == vae.recipe is not None
            assert described(again.likelihood.family)["arguments"]["scale"] == 0.5
        assert not any("made_by" in text for text in (repr(vae), str(vae), str(list(vae.state_dict())), settings(vae)))
        assert len(list(vae.likelihood.family.children())) == 0
        pickle.dumps(pyrovae.mlp_vae((3,), likelihood=pyrovae.Normal(scale=0.5)))

    def test_an_argument_that_does_not_pickle_is_in_nobodys_way(self):
        made = a_likelihood()(inner=lambda: None)
        with pytest.raises(NotDescribedError, match="inner is a function, no plain value"):
            described(made)
        assert pickle.loads(pickle.dumps(vars(made)["_made_by"])) == vars(made)["_made_by"]

    def test_a_note_holds_for_one_of_two_copies(self):
        first = pyrovae.gaussian_classifier((3,), 2)
        second = first.with_class_prior([0.25, 0.75])
        assert first.recipe["class_prior"] is None
        assert second.recipe["class_prior"] == [0.25, 0.75]
        third = copy.copy(second)  # which shares what it does not replace
        note(third, class_prior=[0.5, 0.5])
        assert (second.recipe["class_prior"], third.recipe["class_prior"]) == ([0.25, 0.75], [0.5, 0.5])

    def test_a_change_that_the_builder_does_not_take_is_named(self, tmp_path):
        @pyrovae.register("two_classes", kind="builder")
        def two_classes(features):
            return pyrovae.gaussian_classifier((features,), 2, class_prior={0: 0.5, 1: 0.5})

        classifier = two_classes(3)
        assert classifier.recipe == {"builder": "two_classes", "features": 3}
        folder = pyrovae.save(tmp_path / "state", classifier)
        assert pyrovae.load(folder).class_prior.tolist() == [0.5, 0.5]
        changed = classifier.with_class_prior([0.25, 0.75])
        with pytest.raises(NotDescribedError, match="class_prior of a GenerativeClassifier was changed, which two_cl"):
            described(changed)

    def test_the_signature_and_the_words_are_the_classs_own(self):
        assert list(inspect.signature(pyrovae.Normal).parameters) == [
            "scale",
            "initial_scale",
            "floor",
            "link",
            "per_entry",
        ]
        assert list(inspect.signature(pyrovae.mlp_vae).parameters)[:2] == ["event_shape", "latent_dim"]
        assert pyrovae.mlp_vae.__name__ == "mlp_vae" and pyrovae.mlp_vae.__doc__.startswith("A VAE of")


class TestRecipes:
    @pytest.mark.parametrize(
        "recipe",
        [
            None,
            [],
            "mlp_vae",
            {"builder": []},
            {"builder": "os.system"},
            {"builder": "mlp_vae", "event_shape": [3], "likelihood": {"family": "Linear"}},
            {"builder": "mlp_vae", "event_shape": [3], "likelihood": {"family": ["Normal"]}},
            {"builder": "mlp_vae", "event_shape": [3], "prior": {"kind": "module", "name": "os", "arguments": {}}},
            {"builder": "mlp_vae", "event_shape": [3], "prior": {"kind": "prior", "name": "os", "arguments": {}}},
            {"builder": "mlp_vae", "event_shape": [3], "prior": {"kind": "prior", "name": "standard"}},
        ],
        ids=str,
    )
    def test_a_recipe_names_what_is_registered_and_nothing_else(self, recipe):
        with pytest.raises(ValueError, match=r"unknown (builder|likelihood|prior)"):
            build(recipe)

    def test_a_recipe_of_before_is_told_in_todays_words(self):
        old = {
            "builder": "linear_vae",
            "features": 4,
            "latent_dim": 2,
            "likelihood": {"family": "Normal", "scale": 1.0},
        }
        normal = {"scale": 1.0, "initial_scale": 1.0, "floor": 0.001, "link": "identity", "per_entry": False}
        assert completed(old) == {
            "builder": "linear_vae",
            "features": 4,
            "latent_dim": 2,
            "likelihood": {"kind": "likelihood", "name": "normal", "arguments": normal},
            "posterior": None,
            "prior": "standard",
            "covariate_dim": 0,
            "missing": False,
            "standardize": False,
        }
        assert completed({"builder": "nobody's"}) == {"builder": "nobody's"}
        assert completed(None) is None

    def test_a_recipe_of_endless_depth_is_an_error_and_no_crash(self):
        deep = {"builder": "mlp_vae", "event_shape": [3], "prior": None}
        for _ in range(5000):
            deep = {"builder": "mlp_vae", "event_shape": [3], "prior": deep}
        with pytest.raises(RecursionError):
            build(deep)
        completed(deep)


def test_every_part_of_the_package_is_found_without_being_named():
    assert set(registered("likelihood")) >= {"bernoulli", "continuous_bernoulli", "normal"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST], capture_output=True, text=True, check=True)
    refused, found = done.stdout.splitlines()
    assert refused.startswith("likelihood 'normal' is pyrovae.models.parts.normal.Normal, and cannot be __main__.Mine")
    builders = (
        "BayesianGaussianMixture ColumnMixture DiscriminativeClassifier GaussianMixture SemiSupervisedVAE conv_ae "
    )
    assert found.startswith(builders) and found.endswith("conditional flow mixture standard vamp")


FIRST = """
import torch
import pyrovae
class Mine(torch.nn.Module):
    support = torch.distributions.constraints.real
    def forward(self, loc):
        return torch.distributions.Normal(loc, 1.0)
try:
    pyrovae.register("normal", kind="likelihood")(Mine)  # before any part of the package is imported
except ValueError as error:
    print(error)
from pyrovae.models.registry import registered
print(*registered("builder"), *registered("prior"))
"""


def test_the_documents_table_is_the_registers():
    page = Path(__file__).parents[1] / "docs" / "parts.md"
    if not page.is_file():
        pytest.skip("docs/ is not beside the tests")
    how = "write it anew: python -c 'from pyrovae.models.registry import table; print(table())'"
    assert table_of_parts() in page.read_text(encoding="utf-8"), how
    assert table_of_parts().count("\n") == 1 + sum(len(choices.names(kind)) for kind in registry.CONTRACTS)
