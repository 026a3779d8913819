"""Parts that are asked for by text with arguments: what is read, what is refused, and where it is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import users_parts  # noqa: F401  # registers parts

import pyrovae
from pyrovae.cli import main
from pyrovae.models.part_names import name_and_arguments
from pyrovae.models.registry import chosen, make, name_of


def test_values_are_literals():
    text = "one(a=-1.5e3, b='x(y)', c=None, d=[1, 2], e=True, f=(3, -4))"
    options = {"a": -1500.0, "b": "x(y)", "c": None, "d": [1, 2], "e": True, "f": (3, -4)}
    assert name_and_arguments("prior", text) == ("one", options)
    assert name_and_arguments("prior", " one() ") == ("one", {})


REFUSED = {
    "normal(scale=0.5": r"likelihood='normal\(scale=0.5' cannot be read: it must be a name, or a name with arguments",
    "normal(0.5)": r"0.5 is given by place; give each argument by name, as in 'normal\(scale=0.5\)'",
    "normal(scale=x)": "the value of scale must be a number, a text in quotes, .* got x",
    "normal(scale=__import__('os').getpid())": r"the value of scale must be .* got __import__\('os'\)\.getpid\(\)",
    "normal(**{'scale': 1})": "by name, as in .*, and not by",
    "a.normal(scale=1)": r"must be a name, or a name with arguments, as in 'normal\(scale=0.5\)'",
    "normal(scale=1) or print()": "must be a name, or a name with arguments",
    "normal(scael=1.0)": "normal has no argument 'scael': it takes scale, .*; did you mean 'scale'?",
    "bernoulli(p=1)": "bernoulli has no argument 'p': it takes none",
    "norml(scale=1.0)": "likelihood must be one of .*'normal'.*, got 'norml'; did you mean 'normal'?",
    "normal(scale=-1.0)": "scale must be",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_told(text):
    with pytest.raises(ValueError, match=REFUSED[text]):
        pyrovae.mlp_vae((3,), likelihood=text)


def test_arguments_of_a_builder_are_not_the_parts_own():
    with pytest.raises(ValueError, match="standard has no argument 'latent_dim': it takes none"):
        pyrovae.mlp_vae((3,), prior="standard(latent_dim=5)")
    with pytest.raises(ValueError, match="diagonal has no argument 'network'"):
        pyrovae.mlp_vae((3,), posterior="diagonal(network=None)")


def test_each_part_takes_arguments_and_its_state_comes_back(tmp_path):
    parts = {
        "likelihood": "users_student_t(df=3.0)",
        "prior": "users_mixture(num_components=4, radius=2.0)",
        "posterior": "diagonal()",
    }
    vae = pyrovae.mlp_vae((5,), 2, hidden_dims=(4,), **parts)
    assert (vae.likelihood.family.df, vae.prior.loc.shape) == (3.0, (4, 2))
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert again.recipe == vae.recipe and again.recipe["likelihood"] == "users_student_t(df=3.0)"
    assert torch.equal(again.decode(torch.zeros(1, 2)), vae.decode(torch.zeros(1, 2)))


def test_what_is_shown_of_a_part_makes_it_again():
    part = make("likelihood", "normal(scale=0.25, floor=0.1)")
    assert name_of(make("likelihood", name_of(part))) == name_of(part) == "normal(scale=0.25, floor=0.1)"
    assert chosen("likelihood", "normal") == (pyrovae.Normal, {})


def test_a_part_of_images_keeps_its_arguments_beside_those_that_are_asked_for():
    small = {"channels": (4,), "strides": (2,)}
    family = pyrovae.conv_vae((1, 4, 4), likelihood="normal(scale=0.5)", **small).likelihood.family
    assert family.link == "sigmoid" and float(family.scale) == 0.5
    family = pyrovae.conv_vae((1, 4, 4), likelihood="normal(link='identity')", **small).likelihood.family
    assert family.link == "identity" and family.learned


def test_the_command_line_takes_them(tmp_path, capsys):
    rows = tmp_path / "x.npy"
    np.save(rows, np.random.default_rng(0).normal(size=(60, 3)).astype("float32"))
    out = tmp_path / "run"
    options = ["--hidden-dims", "4", "--epochs", "1", "--compile", "no", "--out", str(out)]
    assert main(["fit", str(rows), "--likelihood", "normal(scale=0.5)", *options]) == 0
    assert float(pyrovae.load(out).likelihood.family.scale) == 0.5
    capsys.readouterr()
    for text, words in {
        "normal(0.5)": "--likelihood",
        "nrmal(scale=1)": "did you mean normal?",
        "normal(scael=1)": "has no argument scael",
    }.items():
        assert main(["fit", str(rows), "--likelihood", text, *options[:-1], str(tmp_path / "other")]) == 2
        assert words in capsys.readouterr().err
