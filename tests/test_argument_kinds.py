"""Arguments of another kind than they must be are named at the door: objects, flags, text, tensors without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae import checks, data, plotting, report

pytestmark = pytest.mark.filterwarnings("ignore")
VALUES: dict[str, Callable[[], Any]] = {
    "number": lambda: 3.5,
    "None": lambda: None,
    "list": lambda: [1.0],
    "class": lambda: dict,
    "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.quint8),
    "meta": lambda: torch.empty(4, 4, device="meta"),
}
X = torch.arange(48.0).reshape(12, 4) / 48
MANY = torch.ones(3)


def linear() -> pyrovae.VAE:
    return pyrovae.linear_vae(4, 2)


OBJECTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a density": ("pair", lambda v: pyrovae.NoveltyDetector(v, X)),
    "a background": ("background", lambda v: pyrovae.NoveltyDetector(linear(), X.repeat(5, 1), background=v)),
    "a classifier": ("classifier", lambda v: pyrovae.predictions(v, X, [0] * 12)),
    "a table of predictions": ("table", lambda v: pyrovae.reliability(v)),
    "gaps of training items": ("train", lambda v: pyrovae.overfit(v, v)),
    "a split": ("train", lambda v: pyrovae.code_space(linear(), v, v)),
    "a judge": ("judge", lambda v: pyrovae.code_space(linear(), data.Split(X), data.Split(X), v)),
    "a data set": ("data", lambda v: report.items(v)),
    "another split": ("other", lambda v: data.Split(X).followed_by(v)),
    "another view": ("other", lambda v: data.MappedArray(X.numpy()).followed_by(v)),
    "an array of NumPy's": ("source", lambda v: data.MappedArray(v)),
    "log-weights": ("log_weight", lambda v: pyrovae.evaluation.log_mean(v)),
    "an estimator": ("estimator", lambda v: pyrovae.NoveltyDetector(linear(), X, estimator=v)),
    "kinds of columns": ("kinds", lambda v: data.table({"a": [1.0, 2.0]}, kinds=v)),
    "a source": ("name_or_path", lambda v: data.load(v)),
    "a history": ("epochs", lambda v: pyrovae.History(v)),
    "entries": (r"entries\[0\]", lambda v: report.explorer([v], data.load("digits"))),
    "data of a page": ("data", lambda v: report.explorer([report.Entry("a", linear())], v)),
    "a function": ("build", lambda v: pyrovae.choose(v, X, latent_dim=[1])),
    "text": ("title", lambda v: report.page(v, [])),
    "sections": (r"sections\[0\]", lambda v: report.page("a", [v])),
    "a word": ("name", lambda v: plotting.reconstructions(X.reshape(12, 2, 2), {}, name=v)),
}


ALLOWED = {
    "a background": ["None"],
    "a judge": ["None"],
    "an estimator": ["None", "class"],
    "kinds of columns": ["None"],
    "a function": ["class"],
}


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("value", ["number", "None", "list", "nested", "class"])
def test_another_object_is_named(kind: str, value: str) -> None:
    if value in ALLOWED.get(kind, ()):
        return
    name, call = OBJECTS[kind]
    with pytest.raises(TypeError, match=rf"^{name} (must be |is a nested tensor)"):
        call(VALUES[value]())


FLAGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "choose": ("refit", lambda v: pyrovae.choose(lambda latent_dim: linear(), X, latent_dim=[1], refit=v)),
    "guide": ("missing", lambda v: linear().guide(X, missing=v)),
    "log_prob": ("missing", lambda v: pyrovae.GaussianMixture((4,), 2).log_prob(X, missing=v)),
    "load": ("scale", lambda v: data.load("digits", scale=v)),
    "batches": ("shuffle", lambda v: data.batches(X, 2, seed=0, epoch=0, shuffle=v)),
    "MappedArray": ("scale", lambda v: data.MappedArray(X.numpy(), scale=v)),
    "crispness": ("paired", lambda v: pyrovae.crispness(torch.rand(3, 4, 4), torch.rand(3, 4, 4), paired=v)),
    "interval_curves": (
        "log",
        lambda v: plotting.interval_curves([1], {"a": ([1], [0], [2])}, xlabel="", ylabel="", log=v),
    ),
    "latent_scatter": ("legend", lambda v: plotting.latent_scatter(X, legend=v)),
    "AE": ("warm_start", lambda v: pyrovae.sklearn.AE(warm_start=v).fit(X.numpy())),
    "Imputer": ("add_indicator", lambda v: pyrovae.sklearn.Imputer(add_indicator=v).fit(X.numpy())),
}


@pytest.mark.parametrize("place", FLAGS)
@pytest.mark.parametrize("value", [MANY, "no", None], ids=["tensor", "text", "None"])
def test_what_is_neither_true_nor_false_is_named(place: str, value: Any) -> None:
    name, call = FLAGS[place]
    if (place, value) == ("crispness", None):  # which it is by default
        return
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got "):
        call(value)


TENSORS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "split_of": ("x", lambda v: checks.split_of(v)),
    "calibrate": ("exposure", lambda v: pyrovae.calibrate(linear(), exposure=v, num_simulations=20)),
    "auroc": ("strange", lambda v: pyrovae.auroc([1.0, 2.0], v)),
    "crispness": ("reference", lambda v: pyrovae.crispness(torch.rand(3, 4, 4), v)),
    "reconstruction_error": ("mean", lambda v: pyrovae.reconstruction_error(X, X, mean=v)),
    "binarize": ("x", lambda v: data.binarize(v)),
    "rows": ("index", lambda v: data.MappedArray(X.numpy(), v)),
    "index": ("index", lambda v: data.Split(X)[v]),
    "sample_weight": ("sample_weight", lambda v: pyrovae.sklearn.GaussianMixture().fit(X.numpy(), sample_weight=v)),
}


@pytest.mark.parametrize("place", TENSORS)
@pytest.mark.parametrize("value", ["nested", "quantized", "meta"])
def test_a_tensor_without_plain_values_is_named(place: str, value: str) -> None:
    name, call = TENSORS[place]
    with pytest.raises(TypeError, match=rf"^{name} is a "):
        call(VALUES[value]())


def test_numbers_and_names_beyond_what_there_is_are_named() -> None:
    split = data.Split(X)
    assert len(split[[1, 2]]) == 2 and len(split[:3]) == 3 and len(split[torch.arange(12) > 9]) == 2
    with pytest.raises(IndexError, match=r"index must be rows of 12 items: .*12"):
        split[[0, 12]]
    with pytest.raises(IndexError, match="rows must be rows of 12 items"):
        data.MappedArray(X.numpy(), [10**12])
    with pytest.raises(ValueError, match="covariates must have a row for each of the 12 items, got shape"):
        pyrovae.choose(lambda latent_dim: linear(), X, latent_dim=[1], covariates=0.5)
    with pytest.raises(ValueError, match="latent_dim, beta have 1,000,000 combinations, and at most 10,000 are tried"):
        pyrovae.choose(linear, X, latent_dim=list(range(1000)), beta=list(range(1000)))
    for function in (data.one_hot, lambda y: data.labelled_subset(y, 2)):
        with pytest.raises(ValueError, match="y must be one-dimensional, one label per item, got shape"):
            function(3)
    with pytest.raises(ValueError, match="drop must be left out"):
        data.load("digits", drop=MANY)
    pair = pyrovae.IndependentEntries((4,))
    with pytest.raises(ValueError, match=r"free_bits is a floor .* this pair has none"):
        pyrovae.fit(pair, X.round(), epochs=1, free_bits=0.5, progress=False)
    with pytest.raises(ValueError, match="y is empty"):
        data.labelled_subset([], 3)
    with pytest.raises(ValueError, match=r"free_bits must be at most 3\.4"):
        pyrovae.fit(linear(), X, epochs=1, free_bits=1e300, progress=False)
    with pytest.raises(TypeError, match=r"x must be an array of real numbers, got torch.complex64"):
        linear().guide(X + 1j)
    with pytest.raises(TypeError, match=r"score must be one of 'likelihood_ratio'.* or a function .*, got a pair"):
        pyrovae.NoveltyDetector(linear(), X, score=linear())
    with pytest.raises(ValueError, match="low must be a finite number"):
        plotting.normal_quantile_grid(3, np.ones(3))
