"""Figures of what the package returns: tensors of any kind, data, histories, estimates, gaps and calibrations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import pyrovae
from pyrovae import data, plotting
from pyrovae.plotting.shared import checked_array, checked_labels, number

N = 12
KINDS = {
    "with gradients": lambda array: torch.tensor(array, requires_grad=True),
    "without gradients": torch.tensor,
    "in the midst of a graph": lambda array: torch.tensor(array, requires_grad=True) * 1.0,
    "a parameter": lambda array: torch.nn.Parameter(torch.tensor(array)),
    "bfloat16": lambda array: torch.tensor(array).bfloat16().requires_grad_(),
    "float16": lambda array: torch.tensor(array).half(),
    "float64": lambda array: torch.tensor(array).double().requires_grad_(),
    "a list of tensors": lambda array: [torch.tensor(row, requires_grad=True) for row in array],
    "strided backwards": lambda array: torch.tensor(array).T.contiguous().T if array.ndim == 2 else torch.tensor(array),
    "sparse": lambda array: torch.tensor(array).to_sparse(),
    "labelled": xr.DataArray,
    "a Split": lambda array: data.Split(torch.tensor(array)),
    "NumPy": np.array,
}


def halves(*shape):
    """Numbers that every dtype holds exactly."""
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.float32) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_any_kind_is_the_same_array(kind):
    for shape in ((5,), (5, 2), (3, 1, 4, 4)):
        if kind == "a Split" and len(shape) == 1:
            continue
        array = halves(*shape)
        np.testing.assert_array_equal(checked_array("x", KINDS[kind](array)), array)


def calls(make):
    """Each function that takes numbers, with numbers of one kind."""
    codes, images = halves(N, 2), halves(N, 1, 4, 4)
    row, ones = halves(3), np.ones(3, np.float32)
    grid = plotting.normal_quantile_grid(3).astype(np.float32)
    decoded = halves(9, 1, 4, 4)
    inner = np.array([0.25, 0.5, 0.75], np.float32)
    return {
        "latent_scatter": lambda: plotting.latent_scatter(make(codes), torch.arange(N)),
        "cdf_scatter": lambda: plotting.cdf_scatter(make(codes)),
        "box_grid": lambda: plotting.box_grid(make(codes)),
        "decoded_grid": lambda: plotting.decoded_grid(make(images), 3, 4, x_values=make(halves(4)), y_values=make(row)),
        "grid_over_scatter": lambda: plotting.grid_over_scatter(make(codes), None, make(grid), make(decoded)),
        "interpolations": lambda: plotting.interpolations(make(images.reshape(3, 4, 4, 4))),
        "reconstructions": lambda: plotting.reconstructions(make(images), {"AE": make(images)}, {"AE": make(codes)}),
        "sample_sheet": lambda: plotting.sample_sheet(make(images)),
        "interval_plot": lambda: plotting.interval_plot(
            "abc", make(row), make(row - 1), make(row + 1), margins=make(ones)
        ),
        "rate_distortion": lambda: plotting.rate_distortion(make(row), make(row), rate_se=make(ones)),
        "learning_curve": lambda: plotting.learning_curve(make(row), {"loss": make(row)}),
        "per_class": lambda: plotting.per_class({"AE": make(row)}, errors={"AE": make(ones)}),
        "bound_curve": lambda: plotting.bound_curve(make(ones), {"iwae": (make(row), make(ones))}),
        "gap_histogram": lambda: plotting.gap_histogram(make(row)),
        "rank_histogram": lambda: plotting.rank_histogram(make(inner)),
        "coverage_curve": lambda: plotting.coverage_curve({"a": make(inner)}),
        "interval_curves": lambda: plotting.interval_curves(
            make(row), {"a": (make(row), make(row - 1), make(row + 1))}, xlabel="x", ylabel="y"
        ),
        "reliability_curve": lambda: plotting.reliability_curve(
            {"a": {name: make(inner) for name in ("confidence", "accuracy", "lower", "upper")}}
        ),
    }


def test_every_function_that_takes_numbers_is_among_the_calls():
    assert set(calls(np.array)) == set(plotting.__all__) - {"normal_quantile_grid", "post_ae_grid"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=marks)
        for kind, marks in {
            "with gradients": (),
            "without gradients": pytest.mark.slow,
            "bfloat16": pytest.mark.slow,
        }.items()
    ],
)
def test_every_figure_is_drawn_from_tensors_of_every_kind(kind):
    for name, call in calls(KINDS[kind]).items():
        if kind == "bfloat16" and name == "grid_over_scatter":
            continue  # quantiles are no numbers of bfloat16, and drawn elsewhere
        drawn, expected = call(), calls(np.array)[name]()
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(drawn, expected)
            continue
        axes = [
            figure.axes if hasattr(figure, "axes") and isinstance(figure.axes, list) else [figure]
            for figure in (drawn, expected)
        ]
        for one, other in zip(*axes, strict=True):
            for line, same in zip(one.lines, other.lines, strict=True):
                np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())
            for image, same in zip(one.images, other.images, strict=True):
                np.testing.assert_array_equal(image.get_array(), same.get_array())
            for points, same in zip(one.collections, other.collections, strict=True):
                np.testing.assert_array_equal(points.get_offsets(), same.get_offsets())


def test_what_a_pair_returns_is_drawn_as_it_comes():
    digits = data.load("digits")
    part = data.Split(digits.test.x[:N], digits.test.y[:N])
    vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(8,)).to(torch.bfloat16)
    codes, again = vae.encode(part.x), vae.reconstruct(part.x)
    assert codes.requires_grad and codes.dtype == torch.bfloat16
    ax = plotting.latent_scatter(codes, part)
    shown = np.asarray(ax.collections[0].get_offsets())
    expected = codes.detach().float().numpy()
    np.testing.assert_array_equal(shown[np.lexsort(shown.T)], expected[np.lexsort(expected.T)])
    assert {text.get_text() for text in ax.texts} == {str(label) for label in part.y.unique().tolist()}
    figure = plotting.reconstructions(part, {"VAE": again}, {"VAE": codes}, labels=part)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [str(y) for y in part.y.tolist()]
    plotting.decoded_grid(vae.decode(plotting.normal_quantile_grid(3)), 3, 3)
    assert again.requires_grad and part.x.requires_grad is False


def test_a_history_is_drawn_and_two_side_by_side():
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(5, 2)
    x = vae.sample(20, seed=0)
    quiet = {"progress": False, "compile": False, "epochs": 3}
    history = pyrovae.fit(copy.deepcopy(vae), x, validation=x, **quiet)
    ax = plotting.learning_curve(history)
    assert [line.get_label() for line in ax.lines] == ["loss", "validation, less the ELBO"]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert ax.lines[0].get_ydata().tolist() == history.epochs.loss.values.tolist()
    assert ax.lines[1].get_ydata().tolist() == (-history.epochs.validation_elbo.values).tolist()
    half = pyrovae.fit(copy.deepcopy(vae), x, beta=0.5, **quiet)
    both = plotting.learning_curve({"whole": history, "half": half})
    assert [line.get_label() for line in both.lines][::2] == ["whole: loss", "half: loss, at each epoch's β"]
    classifier = pyrovae.GenerativeClassifier({"a": vae, "b": copy.deepcopy(vae)}, evidence=pyrovae.exact)
    labels = np.array(["a"] * 15 + ["b"] * 5)
    by_class = pyrovae.fit(classifier, x, labels, **quiet)
    assert [line.get_label() for line in plotting.learning_curve(by_class).lines] == [
        "loss of class a",
        "loss of class b",
    ]
    with pytest.raises(ValueError, match="has no epochs to draw"):
        plotting.learning_curve(pyrovae.History.from_rows([], {}))
    with pytest.raises(TypeError, match="draws a History, a dict of name to History, or epochs and their curves"):
        plotting.learning_curve([1, 2])


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(5, 2)
    x = vae.sample(8, seed=0)
    truth = pyrovae.exact(vae, x)
    bounds = [pyrovae.iwae(vae, x, num_particles=k) for k in (2, 20)]
    ledger = pyrovae.gaps(vae, x, truth, max_steps=2, progress=False)
    return vae, x, truth, bounds, ledger, pyrovae.calibrate(vae, num_simulations=100)


def test_estimates_are_drawn(results):
    vae, x, truth, bounds, _, _ = results
    ax = plotting.bound_curve([2, 20], {"IWAE": bounds}, exact=truth)
    (bars,) = ax.containers
    assert bars.lines[0].get_ydata().tolist() == [one.mean for one in bounds]
    half = [segment[1, 1] - segment[0, 1] for segment in bars.lines[2][0].get_segments()]
    assert half == pytest.approx([4 * one.se for one in bounds])
    assert ax.lines[-1].get_ydata()[0] == truth.mean == number("exact", truth)
    gap = truth - bounds[0]
    ax = plotting.gap_histogram(gap)
    assert (
        ax.get_xlabel() == "gap exact - iwae(2) (nats)"
        and f"mean {gap.mean:.3f}" in ax.get_legend().texts[0].get_text()
    )
    with pytest.raises(ValueError, match="gaps must be a difference of two estimates, such as upper - lower"):
        plotting.gap_histogram(truth)

    elbos = [pyrovae.elbo(vae, x, seed=seed) for seed in (0, 1)]
    for given, count in ((elbos, 2), (elbos[0], 1)):
        points = plotting.rate_distortion(given).lines[0].get_xydata()
        assert len(points) == count
        assert -points.sum(1) == pytest.approx([one.mean for one in elbos[:count]])
    with pytest.raises(ValueError, match=r"rate must hold estimates of pyrovae\.elbo"):
        plotting.rate_distortion(bounds)
    with pytest.raises(ValueError, match="distortion is missing"):
        plotting.rate_distortion([1.0, 2.0])


def test_gaps_and_calibrations_are_drawn(results):
    *_, ledger, calibration = results
    ax = plotting.gap_histogram(ledger)
    assert ax.get_xlabel() == "log p(x) less ELBO (nats)"
    assert f"mean {ledger.mean('gap')[0]:.3f}" in ax.get_legend().texts[0].get_text()
    names = calibration.pointwise["quantity"].values.tolist()
    ax = plotting.coverage_curve(calibration)
    assert [line.get_label() for line in ax.lines[: len(names)]] == names
    worst = names[int(calibration.tests["statistic"].values.argmax())]
    assert (
        plotting.rank_histogram(calibration).get_xlabel()
        == f"rank of {worst} among draws of q(z | x), scaled to [0, 1]"
    )
    counts = [
        patch.get_height() for patch in plotting.rank_histogram(calibration, quantity=names[0], bins=4).patches[:4]
    ]
    ranks = calibration.pointwise["uniform"].sel(quantity=names[0])
    assert counts == np.histogram(ranks, 4, (0, 1))[0].tolist()
    with pytest.raises(ValueError, match="quantity must be one of 'latent"):
        plotting.rank_histogram(calibration, quantity="nothing")
    with pytest.raises(ValueError, match="quantity names one of a Calibration's"):
        plotting.rank_histogram([0.5], quantity="latent[0]")


def test_a_reliability_alone_and_verdicts_are_drawn():
    log_proba = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    table = xr.Dataset({"log_proba": (("item", "label"), log_proba), "y": ("item", [0, 1, 1])}, {"label": [0, 1]})
    ax = plotting.reliability_curve(pyrovae.reliability(table))
    assert ax.containers[0].lines[0].get_xdata().tolist() == pytest.approx([0.6, 0.8, 0.9]) and ax.get_legend() is None
    verdicts = pyrovae.verdicts({"wider": [2.0, 2.1], "taller": [0.1, 0.2]}, {"wider": 1.0, "taller": 1.0})
    ax = plotting.interval_plot(verdicts["claim"], verdicts["mean"], verdicts["low"], verdicts["high"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["wider", "taller"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda r: data.load("digits"), r"x is a Dataset: give one of its parts, x\.train or x\.test"),
        (lambda r: pyrovae.History.from_rows([{"loss": 1.0}], {}), "x is a History: learning_curve draws it"),
        (lambda r: r[4], r"x is a Gaps: gap_histogram draws it; give one of its columns, as x\.pointwise"),
        (lambda r: r[5], "x is a Calibration: coverage_curve and rank_histogram draw it"),
        (lambda r: r[0], r"x is a model \(VAE\): give what it returns, as of encode\(x\), decode\(z\) or sample\(n\)"),
        (lambda r: r[0].posterior(r[1]), r"x is a distribution \(Independent\): give its mean or its draws"),
        (lambda r: r[2].pointwise, "x is a Dataset of several variables: give one of 'value', 'se'"),
        (lambda r: torch.zeros(2, dtype=torch.complex64), "x must be an array of numbers, got complex64"),
        (lambda r: ["a", "b"], "x must be an array of numbers"),
        (lambda r: {"a": 1}, "x must be an array of numbers"),
        (lambda r: None, "x must be an array of numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_plain_words(value, message, results):
    with pytest.raises(TypeError, match=message):
        checked_array("x", value(results))


def test_tensors_without_values_and_splits_without_labels_are_refused():
    with pytest.raises(ValueError, match="x is on the meta device and has no values to draw"):
        checked_array("x", torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="labels is a Split without labels"):
        checked_labels(data.Split(torch.zeros(3, 2)), 3, of="codes")
    assert checked_labels([torch.tensor(1), torch.tensor(0)], 2, of="codes").tolist() == [1, 0]


def test_figures_are_pictures_at_the_end_of_a_cell_and_bring_no_pyplot():
    ax = plotting.sample_sheet(halves(4, 1, 4, 4))
    figure = plotting.reconstructions(halves(2, 1, 4, 4), {})
    for shown in (ax, ax.figure, figure):
        assert shown._repr_png_().startswith(b"\x89PNG")
    mine = Figure().subplots()
    assert plotting.sample_sheet(halves(4, 1, 4, 4), ax=mine) is mine and not hasattr(mine, "_repr_png_")
