"""The figures carry the numbers they were given, the right way round, and leave matplotlib's state alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import norm

from pyrovae import plotting
from pyrovae.plotting import shared

N, SIDE = 12, 4


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 2))


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(N) % 3


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((N, 1, SIDE, SIDE))


def new_axes() -> Axes:
    axes: Axes = Figure().subplots()
    return axes


def strings(texts: Iterable[Text]) -> list[str]:
    return [text.get_text() for text in texts]


def pixels(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def tile(ax: Axes, row: int, column: int, side: int = SIDE) -> np.ndarray:
    top, left = row * (side + 1), column * (side + 1)
    return pixels(ax)[top : top + side, left : left + side]


def offsets(ax: Axes, which: int = 0) -> np.ndarray:
    return np.asarray(ax.collections[which].get_offsets())


def ordered(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def calls() -> dict[str, Callable[[Axes | None], Any]]:
    """One valid call of each function that takes an `ax`."""
    rng = np.random.default_rng(2)
    z, x = rng.normal(size=(N, 2)), rng.random((N, SIDE, SIDE))
    return {
        "latent_scatter": lambda ax: plotting.latent_scatter(z, np.arange(N) % 3, ax=ax, title="t"),
        "cdf_scatter": lambda ax: plotting.cdf_scatter(z, np.arange(N) % 3, ax=ax, title="t"),
        "decoded_grid": lambda ax: plotting.decoded_grid(x, 3, 4, ax=ax, title="t"),
        "interpolations": lambda ax: plotting.interpolations(x.reshape(3, 4, SIDE, SIDE), ax=ax, title="t"),
        "sample_sheet": lambda ax: plotting.sample_sheet(x, ax=ax, title="t"),
        "interval_plot": lambda ax: plotting.interval_plot(["a"], [1], [0], [2], margins=0.5, ax=ax, title="t"),
        "rate_distortion": lambda ax: plotting.rate_distortion([1, 2], [4, 2], ax=ax, title="t"),
        "learning_curve": lambda ax: plotting.learning_curve([1, 2], {"loss": [3, 2]}, ax=ax, title="t"),
        "per_class": lambda ax: plotting.per_class({"AE": [1, 2]}, ax=ax, title="t"),
        "bound_curve": lambda ax: plotting.bound_curve([1, 10], {"iwae": ([1, 2], [0.1, 0.1])}, ax=ax, title="t"),
        "gap_histogram": lambda ax: plotting.gap_histogram([0.1, 0.2, 0.4], ax=ax, title="t"),
        "rank_histogram": lambda ax: plotting.rank_histogram(x.flatten(), ax=ax, title="t"),
        "coverage_curve": lambda ax: plotting.coverage_curve({"latent[0]": x.flatten()}, ax=ax, title="t"),
        "interval_curves": lambda ax: plotting.interval_curves(
            [1, 2], {"a": ([1.0, 2.0], [0.5, 1.5], [1.5, 2.5])}, xlabel="x", ylabel="y", ax=ax, title="t"
        ),
        "reliability_curve": lambda ax: plotting.reliability_curve({"a": BINS_OF}, ax=ax, title="t"),
    }


BINS_OF = {"confidence": [0.5, 0.9], "accuracy": [0.6, 0.8], "lower": [0.4, 0.7], "upper": [0.7, 0.9]}


@pytest.mark.parametrize("name", calls())
def test_the_given_axes_are_used_and_returned(name: str) -> None:
    mine = new_axes()
    assert calls()[name](mine) is mine
    assert mine.get_title() == "t" and mine.has_data()
    made = calls()[name](None)
    assert isinstance(made, Axes) and made is not mine and isinstance(made.figure, Figure)
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes or None, got list"):
        calls()[name]([mine])  # type: ignore[arg-type]


def test_every_public_function_is_in_a_test_of_axes_or_returns_arrays_or_a_figure() -> None:
    grids = {"box_grid", "normal_quantile_grid", "post_ae_grid"}
    assert set(plotting.__all__) == set(calls()) | grids | {"grid_over_scatter", "reconstructions"}


@pytest.mark.slow
def test_nothing_global_changes_and_every_figure_can_be_written(tmp_path: Path) -> None:
    # in a process of its own: other tests may have imported pyplot
    script = f"""
import sys, matplotlib, numpy
sys.path.insert(0, {str(Path(plotting.__file__).parents[1])!r})
# dict.items: reading the backend from rcParams would itself import pyplot
before, state = list(dict.items(matplotlib.rcParams)), numpy.random.get_state()[1].copy()
from pyrovae import plotting
from pyrovae.plotting import shared
assert "torch" not in sys.modules, "importing pyrovae.plotting imports torch"
x, z = numpy.zeros((4, 1, 8, 8)), numpy.arange(8.0).reshape(4, 2)
grid = plotting.box_grid(z, 2)
for i, drawn in enumerate([
    plotting.reconstructions(x, {{"AE": x}}, {{"AE": z}}, labels=[0, 1, 2, 3]),
    plotting.grid_over_scatter(z, [0, 1, 0, 1], grid, x, "t"),
    plotting.cdf_scatter(z).figure,
    plotting.rate_distortion([1.0], [2.0]).figure,
    plotting.interval_plot(["a", "b"], [1, 1], [0, 0], [2, 2], margins=[1, 2]).figure,
]):
    drawn.savefig({str(tmp_path)!r} + f"/{{i}}.png")
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert list(dict.items(matplotlib.rcParams)) == before, "rcParams changed"
assert (numpy.random.get_state()[1] == state).all(), "numpy's global generator moved"
import matplotlib.pyplot
assert matplotlib.pyplot.get_fignums() == []
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 5


# grids ----------------------------------------------------------------------------------------------


def test_normal_quantiles_agree_with_scipy_stats_and_run_from_the_top_left() -> None:
    grid = plotting.normal_quantile_grid(10)
    values = norm.ppf(np.linspace(0.01, 0.99, 10))
    assert grid.shape == (100, 2)
    sheet = grid.reshape(10, 10, 2)
    for row in range(10):
        np.testing.assert_allclose(sheet[row, :, 0], values)
        np.testing.assert_allclose(sheet[:, row, 1], values[::-1])
    np.testing.assert_allclose(plotting.normal_quantile_grid(2, 0.2, 0.7)[1], norm.ppf([0.7, 0.7]))


def test_box_is_the_quantiles_of_each_dimension() -> None:
    line = np.linspace(0, 1, 201)
    grid = plotting.box_grid(np.stack([line, 10 * line - 3], axis=1), 5)
    np.testing.assert_allclose(grid.min(axis=0), [0.005, 10 * 0.005 - 3])
    np.testing.assert_allclose(grid.max(axis=0), [0.995, 10 * 0.995 - 3])
    np.testing.assert_allclose(np.diff(grid.reshape(5, 5, 2)[0, :, 0]), 0.99 / 4)
    np.testing.assert_allclose(grid[0], [0.005, 6.95])


def test_the_post_grid() -> None:
    sheet = plotting.post_ae_grid().reshape(10, 10, 2)
    np.testing.assert_array_equal(sheet[4, :, 0], np.linspace(-5, 10, 10))
    np.testing.assert_array_equal(sheet[:, 4, 1], np.linspace(-5, 6, 10)[::-1])


# scatters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["latent", "cdf"])
def test_scatter_carries_the_codes_each_in_its_class_colour(codes: np.ndarray, labels: np.ndarray, kind: str) -> None:
    ax = plotting.latent_scatter(codes, labels) if kind == "latent" else plotting.cdf_scatter(codes, labels)
    expected = codes if kind == "latent" else norm.cdf(codes)
    points = ax.collections[0]
    assert isinstance(points, PathCollection)
    np.testing.assert_allclose(ordered(offsets(ax)), ordered(expected), rtol=1e-12)
    legend = ax.get_legend()
    assert legend is not None and strings(legend.get_texts()) == ["0", "1", "2"]
    colours = {
        t.get_text(): to_rgba(h.get_color()) for t, h in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert len(set(colours.values())) == 3
    for point, colour in zip(offsets(ax), np.asarray(points.get_facecolor()), strict=True):
        item = np.abs(expected - point).sum(axis=1).argmin()
        assert tuple(colour[:3]) == colours[str(labels[item])][:3]
    for text in ax.texts:
        of_class = expected[labels == int(text.get_text())]
        np.testing.assert_allclose(text.get_position(), np.median(of_class, axis=0))
        assert text.get_path_effects()
    assert len(ax.texts) == 3


def test_axis_names_limits_and_aspect(codes: np.ndarray) -> None:
    ax = plotting.cdf_scatter(codes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Φ(latent 1)", "Φ(latent 2)")
    assert ax.get_xlim() == (0, 1) and ax.get_ylim() == (0, 1) and ax.get_aspect() == 1
    square = np.array([[0.0, 0.0], [1.0, 1.5]])
    assert plotting.latent_scatter(square).get_aspect() == 1
    assert plotting.latent_scatter(square * [1, 2]).get_aspect() == "auto"
    wide = np.arange(8.0).reshape(2, 4)
    ax = plotting.latent_scatter(wide, dims=(3, 0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 4 of 4", "latent 1 of 4")
    np.testing.assert_array_equal(ordered(offsets(ax)), [[3, 0], [7, 4]])
    assert plotting.latent_scatter(wide).get_xlabel() == "latent 1 of 4"


def test_a_sorted_data_set_is_shuffled_and_cut_and_says_so() -> None:
    codes = np.stack([np.arange(1000.0), np.zeros(1000)], axis=1)
    labels = np.repeat(np.arange(10), 100)
    ax: Any = plotting.latent_scatter(codes, labels, max_items=200)
    shown = offsets(ax)[:, 0]
    assert len(shown) == len(set(shown)) == 200
    # the mean of 200 of 1,000 without replacement has sd 18.3: 5 sd, below 1e-6 for a false alarm; the seed is fixed
    assert abs(shown.mean() - 499.5) < 5 * 18.3 and abs(shown[:100].mean() - 499.5) < 5 * 27.4
    legend = ax.get_legend()
    assert legend is not None and legend.get_title().get_text() == "200 of 1,000 items"
    np.testing.assert_array_equal(offsets(plotting.latent_scatter(codes, labels, max_items=200)), offsets(ax))
    assert not np.array_equal(offsets(plotting.latent_scatter(codes, labels, max_items=200, seed=1)), offsets(ax))
    assert strings(plotting.latent_scatter(codes, max_items=200).texts) == ["200 of 1,000 items"]
    # the medians are of all items, shown or not
    assert ax.texts[0].get_position()[0] == 49.5


def test_the_ten_colours_are_petroffs() -> None:
    style = pytest.importorskip("matplotlib.style")
    if "petroff10" not in style.library:
        pytest.skip("this matplotlib has no petroff10")
    cycle = style.library["petroff10"]["axes.prop_cycle"].by_key()["color"]
    assert [c.lower() for c in cycle] == list(shared.COLOURS)
    assert sorted(shared.SERIES) == sorted(shared.COLOURS)


def test_string_labels_and_torch_tensors() -> None:
    codes = torch.tensor([[0.0, 1.0], [2.0, 3.0]], requires_grad=True)
    ax = plotting.latent_scatter(codes, ["b", "a"])
    assert strings(ax.texts) == ["a", "b"] and ax.texts[0].get_position() == (2.0, 3.0)
    np.testing.assert_array_equal(ordered(offsets(plotting.latent_scatter(codes.bfloat16()))), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(
        ordered(offsets(plotting.latent_scatter(codes, torch.tensor([1, 0])))), [[0, 1], [2, 3]]
    )


# images ---------------------------------------------------------------------------------------------


def test_reconstructions_show_every_image_and_code(images: np.ndarray) -> None:
    x, ae, vae = images[:3], images[3:6], images[6:9]
    codes = {"AE": np.array([[-1.24, 0.8], [0.0, 10.0], [-0.04, -3.06]]), "VAE": np.arange(9.0).reshape(3, 3)}
    figure = plotting.reconstructions(x, {"AE": ae, "VAE": torch.from_numpy(vae)}, codes, labels=[7, 8, 9])
    assert isinstance(figure, Figure)
    assert [ax.get_ylabel() for ax in figure.axes] == ["test", "AE", "VAE"]
    for ax, given in zip(figure.axes, (x, ae, vae), strict=True):
        for item in range(3):
            np.testing.assert_array_equal(tile(ax, 0, item), given[item, 0])
    under = [strings(ax.get_xticklabels()) for ax in figure.axes]
    assert under[0] == ["7", "8", "9"]
    assert under[1] == ["(-1.2, 0.8)", "(0.0, 10.0)", "(0.0, -3.1)"]
    assert under[2] == ["(0.0, 1.0, …)", "(3.0, 4.0, …)", "(6.0, 7.0, …)"]
    # each text under the middle of its own image
    np.testing.assert_array_equal(figure.axes[1].get_xticks(), [1.5, 6.5, 11.5])
    assert strings(plotting.reconstructions(x, {"AE": ae}).axes[1].get_xticklabels()) == []


def test_no_two_texts_of_the_reconstructions_overlap(images: np.ndarray) -> None:
    codes = np.full((10, 2), -12.3)
    figure = plotting.reconstructions(images[:10], {"AE": images[:10]}, {"AE": codes}, labels=range(10))
    figure.savefig(BytesIO(), format="png")
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
        assert len(boxes) == 10 and all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_decoded_grid_runs_from_the_top_left(images: np.ndarray) -> None:
    ax = plotting.decoded_grid(images, 3, 4, x_values=[1, 2, 3, 4], y_values=[3, 2, 1])
    assert pixels(ax).shape == (3 * 5 - 1, 4 * 5 - 1)
    for i in range(N):
        np.testing.assert_array_equal(tile(ax, i // 4, i % 4), images[i, 0])
    # row 0 of the array is drawn at the top
    assert ax.images[0].origin == "upper" and ax.get_ylim()[0] > ax.get_ylim()[1]
    assert strings(ax.get_xticklabels()) == ["1.0", "2.0", "3.0", "4.0"]
    np.testing.assert_array_equal(ax.get_yticks(), [1.5, 6.5, 11.5])
    assert strings(ax.get_yticklabels()) == ["3.0", "2.0", "1.0"]


@pytest.mark.parametrize("how", ["own order", "shuffled", "from below"])
def test_largest_latents_sit_top_right_whatever_the_order(codes: np.ndarray, how: str) -> None:
    across, up = np.array([-1.0, 0.5, 2.0]), np.array([-3.0, 4.0])
    grid = np.array([[a, u] for u in up[::-1] for a in across])
    if how == "shuffled":
        grid = np.random.default_rng(3).permutation(grid)
    if how == "from below":
        grid = grid[::-1]
    # each decoding is one grey that says which code it came from
    grey = 0.1 + 0.1 * np.searchsorted(across, grid[:, 0]) + 0.4 * np.searchsorted(up, grid[:, 1])
    figure = plotting.grid_over_scatter(
        codes, None, grid, np.broadcast_to(grey[:, None, None], (6, SIDE, SIDE)), "title"
    )
    scatter, decoded = figure.axes
    assert np.allclose(tile(decoded, 0, 2), 0.7), "top right must be the largest of both latents"
    assert np.allclose(tile(decoded, 0, 0), 0.5) and np.allclose(tile(decoded, 1, 2), 0.3)
    assert strings(decoded.get_xticklabels()) == ["-1.0", "0.5", "2.0"]
    assert strings(decoded.get_yticklabels()) == ["4.0", "-3.0"]
    np.testing.assert_array_equal(ordered(offsets(scatter, 1)), ordered(grid))
    np.testing.assert_array_equal(ordered(offsets(scatter, 0)), ordered(codes))
    assert scatter.get_xlim()[0] < scatter.get_xlim()[1] and scatter.get_ylim()[0] < scatter.get_ylim()[1]


def test_colour_images_are_clipped_and_keep_their_channels() -> None:
    x = np.zeros((2, 3, SIDE, SIDE))
    x[0, 0], x[1, 2] = 1.5, -2.0
    x[1, 1] = 0.25
    ax = plotting.sample_sheet(x, n_cols=2)
    assert pixels(ax).shape == (SIDE, 2 * SIDE + 1, 3)
    assert (tile(ax, 0, 0) == [1, 0, 0]).all() and (tile(ax, 0, 1) == [0, 0.25, 0]).all()
    assert (pixels(plotting.sample_sheet(np.full((1, SIDE, SIDE), 7.0))) == 1).all()
    faint = plotting.sample_sheet(np.full((1, SIDE, SIDE), 0.25))
    assert faint.images[0].get_clim() == (0, 1), "grey must not be stretched to the image's own range"


def test_a_sheet_that_is_not_full(images: np.ndarray) -> None:
    ax = plotting.sample_sheet(images[:7])
    assert pixels(ax).shape == (14, 14)
    for i in range(7):
        np.testing.assert_array_equal(tile(ax, i // 3, i % 3), images[i, 0])
    assert (pixels(ax)[9:, 4:] == 1).all()
    assert pixels(plotting.sample_sheet(images[:2], n_cols=5)).shape == (4, 9)


def test_interpolations_keep_pairs_in_rows_and_steps_in_columns() -> None:
    x = np.arange(6.0).reshape(2, 3, 1, 1, 1) / 10 * np.ones((2, 3, 1, SIDE, SIDE))
    ax = plotting.interpolations(x, titles=["a", "b"])
    for pair in range(2):
        for step in range(3):
            assert (tile(ax, pair, step) == x[pair, step, 0]).all()
    assert strings(ax.get_yticklabels()) == ["a", "b"]
    ticks = dict(zip(strings(ax.get_xticklabels()), ax.get_xticks(), strict=True))
    assert ticks["0"] == 1.5 and ticks["½"] == 6.5 and ticks["1"] == 11.5
    np.testing.assert_array_equal(pixels(plotting.interpolations(x[:, :, 0])), pixels(ax))
    colour = np.zeros((1, 2, 3, SIDE, SIDE))
    assert pixels(plotting.interpolations(colour)).shape == (SIDE, 2 * SIDE + 1, 3)


# numbers --------------------------------------------------------------------------------------------


def shade(ax: Any) -> np.ndarray:
    return np.array([[bar.get_x(), bar.get_x() + bar.get_width()] for bar in ax.patches])


def horizontal(ax: Any) -> np.ndarray:
    return np.array([[part[0, 0], part[1, 0]] for part in ax.collections[0].get_segments()])


def test_intervals_in_their_own_units() -> None:
    ax: Any = plotting.interval_plot(
        ["a", "b"], [1, 3], [0.5, 2], [2, 5], margins=0.25, reference=1, xlabel="nats per item"
    )
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0], [3, 1]])
    np.testing.assert_allclose(horizontal(ax), [[0.5, 2.0], [2.0, 5.0]])
    np.testing.assert_allclose(shade(ax), [[0.75, 1.25]] * 2)
    assert ax.get_xlabel() == "nats per item" and ax.get_ylim()[0] > ax.get_ylim()[1]
    assert strings(ax.get_yticklabels()) == ["a", "b"]
    assert strings(ax.texts) == ["1 [0.5, 2]", "3 [2, 5]"]
    assert not plotting.interval_plot(["a"], [1], [0], [2]).patches


def test_intervals_of_different_units_are_divided_by_their_margins() -> None:
    ax: Any = plotting.interval_plot(["a", "b"], [1.5, -4], [1, -9], [3, 1], margins=[0.5, 2], reference=1)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, -2.5])
    np.testing.assert_allclose(horizontal(ax), [[0, 4], [-5, 0]])
    np.testing.assert_allclose(shade(ax), [[-1, 1]] * 2)
    assert ax.get_xlabel() == "(value - 1) / smallest difference of interest"
    assert strings(ax.texts) == ["1.5 [1, 3]", "-4 [-9, 1]"]
    raw: Any = plotting.interval_plot(
        ["a", "b"], [1.5, -4], [1, -9], [3, 1], margins=[0.5, 2], normalize=False, values=False
    )
    np.testing.assert_allclose(raw.lines[0].get_xdata(), [1.5, -4])
    np.testing.assert_allclose(shade(raw), [[-0.5, 0.5], [-2.0, 2.0]])
    assert not raw.texts and raw.get_xlabel() == "difference"


def test_rate_distortion_over_lines_of_equal_elbo() -> None:
    ax: Any = plotting.rate_distortion(
        [5, 10], [100, 90], rate_se=[1, 2], distortion_se=[3, 4], label="VAE", notes=[4, 1]
    )
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[5, 100], [10, 90]])
    bars = [c.get_segments() for c in ax.collections if c.get_gid() is None]
    np.testing.assert_allclose(bars[0], [[[4, 100], [6, 100]], [[8, 90], [12, 90]]])
    np.testing.assert_allclose(bars[1], [[[5, 97], [5, 103]], [[10, 86], [10, 94]]])
    assert {"4", "1"} <= set(strings(ax.texts))
    assert ax.get_ylabel() == "distortion (nats per item)"

    plotting.rate_distortion([1, 20], [120, 80], label="other", ax=ax)
    iso = [c for c in ax.collections if c.get_gid() == "iso-elbo"]
    assert len(iso) == 1, "a second curve draws the lines anew"
    for level, path in zip(iso[0].levels, iso[0].get_paths(), strict=True):
        if len(path.vertices):
            np.testing.assert_allclose(-path.vertices.sum(axis=1), level)
    labels = [t for t in ax.texts if t.get_text().startswith("ELBO")]
    assert len(labels) >= 2
    for text in labels:
        # a contour's label sits on its line, up to the grid the line was traced on
        assert abs(-sum(text.get_position()) - float(text.get_text().split()[1])) < 1.0
    assert ax.get_xlim()[0] < 1 and ax.get_xlim()[1] > 20 and ax.get_ylim()[0] < 80 and ax.get_ylim()[1] > 120
    legend = ax.get_legend()
    assert legend is not None and strings(legend.get_texts()) == ["VAE", "other"]


def test_learning_curves_leave_out_what_was_not_measured() -> None:
    curves = {"loss": [4.0, 3.0, 2.0], "validation": [np.nan, 3.5, np.inf]}
    ax: Any = plotting.learning_curve(torch.tensor([1, 2, 3]), curves, ylabel="nats")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 4], [2, 3], [3, 2]])
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[2, 3.5]])
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "nats"
    legend = ax.get_legend()
    assert legend is not None and strings(legend.get_texts()) == ["loss", "validation"]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()


def test_per_class_dots_and_bars() -> None:
    ax: Any = plotting.per_class(
        {"AE": [0.9, 0.8], "VAE": [0.7, 0.6]}, errors={"VAE": [0.1, 0.2]}, classes=["cat", "dog"]
    )
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], [[0.9, 0.8], [0.7, 0.6]])
    first, second = (np.asarray(line.get_xdata()) for line in ax.lines)
    np.testing.assert_allclose((first + second) / 2, [0, 1])
    assert (first < second).all()
    np.testing.assert_allclose(
        [part[:, 1] for part in ax.collections[0].get_segments()],
        [[0.6, 0.8], [0.4, 0.8]],
    )
    assert strings(ax.get_xticklabels()) == ["cat", "dog"] and ax.lines[0].get_marker() != ax.lines[1].get_marker()


# bad input ------------------------------------------------------------------------------------------

Z, X = np.zeros((4, 2)), np.zeros((4, 1, SIDE, SIDE))
NAN = np.array([[0.0, 1.0], [np.nan, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.latent_scatter(Z[:, :1]), r"codes must have shape \(N, d\) with d of at least 2.*\(4, 1\)"),
        (lambda: plotting.latent_scatter(Z[0]), r"codes must have shape .*got \(2,\)"),
        (lambda: plotting.latent_scatter(Z[:0]), r"N of at least 1, got \(0, 2\)"),
        (lambda: plotting.latent_scatter(NAN), r"codes must be finite: 1 NaN.*codes\[1, 0\]"),
        (lambda: plotting.latent_scatter(Z, [0, 1]), "codes has 4 items, labels has 2"),
        (lambda: plotting.cdf_scatter(Z, [0, 1, 2, np.nan]), "labels has 1 missing"),
        (lambda: plotting.latent_scatter(np.zeros((101, 2)), range(101)), "101 different values"),
        (lambda: plotting.latent_scatter(Z, dims=(0, 2)), "dims must be two of .* 0 to 1"),
        (lambda: plotting.latent_scatter(Z, max_items=0), "max_items must be an integer of at least 1, got 0"),
        (lambda: plotting.box_grid(np.zeros((3, 3))), r"codes must have shape \(N, 2\).*\(3, 3\)"),
        (lambda: plotting.box_grid(Z, quantiles=(0.9, 0.1)), "quantiles must satisfy"),
        (lambda: plotting.box_grid(Z, 1), "n must be an integer of at least 2"),
        (lambda: plotting.normal_quantile_grid(5, 0.0, 0.9), "0 < low < high < 1"),
        (lambda: plotting.sample_sheet(X[0, 0]), r"got shape \(4, 4\); one image is images\[None\]"),
        (lambda: plotting.sample_sheet(np.zeros((2, 5, 5, 3))), r"channels look last.*moveaxis\(images, -1, 1\)"),
        (lambda: plotting.sample_sheet(X[:0]), "images must hold one image"),
        (lambda: plotting.sample_sheet(np.full((2, 5, 5), 255, np.uint8)), "looks like 0..255 integers; divide by 255"),
        (lambda: plotting.sample_sheet(X * np.nan), "images must be finite: 64 NaN"),
        (lambda: plotting.sample_sheet(X, n_cols=0), "n_cols must be"),
        (lambda: plotting.sample_sheet([[1.0], [1.0, 2.0]]), "images must be an array of numbers, got a list"),
        (lambda: plotting.decoded_grid(X, 2, 3), r"n_rows \* n_cols = 6 images, got 4"),
        (lambda: plotting.decoded_grid(X, 2, 2, x_values=[1]), "x_values must have as many values as columns: 2"),
        (
            lambda: plotting.grid_over_scatter(Z, None, Z, X),
            "every pair .* once, got 4 codes with 1 first and 1 second",
        ),
        (
            lambda: plotting.grid_over_scatter(Z, None, [[0, 0], [1, 1], [0, 1], [0, 1]], X),
            "every pair .* once, got 4 codes with 2 first and 2 second",
        ),
        (lambda: plotting.grid_over_scatter(Z, None, plotting.post_ae_grid(), X), "4 images, 100 codes"),
        (lambda: plotting.grid_over_scatter(Z, [1], plotting.box_grid(np.eye(2), 2), X), "labels has 1"),
        (lambda: plotting.reconstructions(X, {"AE": X[:3]}), r"rows\['AE'\] must have as many images"),
        (lambda: plotting.reconstructions(X, {"test": X}), "rows may not be called 'test'"),
        (lambda: plotting.reconstructions(X, {"AE": X}, {"VAE": Z}), "codes must be of the rows 'AE', got 'VAE'"),
        (lambda: plotting.reconstructions(X, {"AE": X}, {"AE": Z[:3]}), "x has 4 items, .* has 3"),
        (lambda: plotting.reconstructions(X, {"AE": X}, labels=[1]), "x has 4 items, labels has 1"),
        (lambda: plotting.reconstructions(np.zeros((61, 2, 2)), {}), "at most 60 images .* got 61"),
        (lambda: plotting.interpolations(X[0]), "images must have shape"),
        (lambda: plotting.interpolations(X[None, :1]), "at least 2 steps"),
        (lambda: plotting.interpolations(np.zeros((1, 2, 5, 5, 3))), r"got shape \(1, 2, 5, 5, 3\).*-1, 2\)"),
        (lambda: plotting.interpolations(X[None], titles=["a", "b"]), "1 rows, 2 titles"),
        (lambda: plotting.interval_plot([], [], [], []), "names is empty"),
        (lambda: plotting.interval_plot(["a"], [1], [2], [3]), r"low <= mean <= high .* got 2, 1, 3 in row 0 \(a\)"),
        (lambda: plotting.interval_plot(["a"], [1], [0, 0], [2]), "low must have as many values as names: 1 there, 2"),
        (lambda: plotting.interval_plot(["a"], [np.inf], [0], [np.inf]), "mean must be finite"),
        (lambda: plotting.interval_plot(["a"], [1], [0], [2], margins=0), "margins must be greater than 0"),
        (lambda: plotting.interval_plot(["a"], [1], [0], [2], normalize=True), "normalize=True needs margins"),
        (lambda: plotting.rate_distortion([1, 2], [1]), "distortion must have as many values as rate: 2 there, 1"),
        (lambda: plotting.rate_distortion([1], [1], rate_se=[-1]), "rate_se must be at least 0, got -1"),
        (lambda: plotting.rate_distortion([1], [1], notes=[]), "1 points, 0 notes"),
        (lambda: plotting.rate_distortion([], []), "rate must be one-dimensional and not empty"),
        (lambda: plotting.learning_curve([1], {}), "curves is empty"),
        (lambda: plotting.learning_curve([1], {"a": [1, 2]}), r"curves\['a'\] must have as many values as epochs"),
        (lambda: plotting.learning_curve([1], {"a": [np.nan]}), r"curves\['a'\] must have a finite value"),
        (lambda: plotting.per_class({}), "values is empty"),
        (lambda: plotting.per_class({"a": [1, 2], "b": [1]}), r"values\['b'\] must have as many"),
        (lambda: plotting.per_class({"a": [1]}, errors={"b": [1]}), "errors must be of the values 'a', got 'b'"),
        (lambda: plotting.per_class({"a": [1]}, classes=["x", "y"]), "1 classes, 2 names"),
    ],
)
def test_bad_values_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="codes must be an array of numbers, got <U1"):
        plotting.latent_scatter([["a", "b"]])
    with pytest.raises(TypeError, match="n must be an integer"):
        plotting.normal_quantile_grid(2.5)  # type: ignore[arg-type]


def test_refused_input_leaves_the_given_axes_empty() -> None:
    ax = new_axes()
    with pytest.raises(ValueError, match="labels"):
        plotting.latent_scatter(Z, [1], ax=ax)
    assert not ax.has_data()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", calls())
def test_drawing_and_writing_warn_of_nothing_and_leave_rc_params_alone(name: str) -> None:
    before = list(dict.items(matplotlib.rcParams))
    made = calls()[name](None)
    made.figure.savefig(BytesIO(), format="svg")
    assert list(dict.items(matplotlib.rcParams)) == before


def test_bounds_rise_to_the_exact_line() -> None:
    ax: Any = plotting.bound_curve([1, 10, 100], {"iwae": ([-5, -4, -3.5], [0.5, 0.2, 0.1])}, exact=-3.4)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, -5], [10, -4], [100, -3.5]])
    bars = ax.collections[0].get_segments()
    np.testing.assert_allclose(bars[0], [[1, -6], [1, -4]])  # two standard errors
    assert list(ax.lines[-1].get_ydata()) == [-3.4, -3.4]
    with pytest.raises(ValueError, match="bounds is empty"):
        plotting.bound_curve([1], {})
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        plotting.bound_curve([0], {"a": ([1.0], [0.1])})
    with pytest.raises(ValueError, match="exact must be a finite number or None, got nan"):
        plotting.bound_curve([1], {"a": ([1.0], [0.1])}, exact=float("nan"))
    with pytest.raises(ValueError, match=r"bounds\['a'\] must be \(values, standard errors\), got 3 entries"):
        plotting.bound_curve([1], {"a": ([1.0], [0.1], [2.0])})  # type: ignore[dict-item]


def test_gaps_with_their_mean_and_its_error() -> None:
    gaps = np.array([0.0, 0.2, 0.4, 0.6])
    ax: Any = plotting.gap_histogram(gaps, bins=3)
    assert sum(p.get_height() for p in ax.patches[:3]) == 4
    error = 2 * gaps.std(ddof=1) / 2
    assert f"mean 0.300 ± {error:.3f}" in strings(ax.get_legend().get_texts())[0]
    with pytest.raises(ValueError, match="at least 2 items"):
        plotting.gap_histogram([1.0])


def test_ranks_in_bins_with_the_band_of_a_binomial() -> None:
    ranks = (np.arange(2000) + 0.5) / 2000
    ax: Any = plotting.rank_histogram(ranks, bins=20, confidence=0.95)
    bars = [p for p in ax.patches if p.get_gid() == "rank"]
    assert [bar.get_height() for bar in bars] == [100] * 20
    band = next(p for p in ax.patches if p.get_gid() != "rank")
    # a binomial of 2,000 at 1/20: 95 % within 81 and 119 (mean 100, sd 9.75)
    low = band.get_y() if hasattr(band, "get_y") else band.get_xy()[:, 1].min()
    assert abs(low - 81) <= 1
    with pytest.raises(ValueError, match=r"uniform must lie in \[0, 1\]"):
        plotting.rank_histogram([0.5, 1.5])
    with pytest.raises(ValueError, match=r"confidence must lie strictly between 0 and 1, got '0.9'"):
        plotting.rank_histogram([0.5], confidence="0.9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"confidence must lie strictly between 0 and 1, got 1"):
        plotting.coverage_curve({"z": [0.5]}, confidence=1)
    assert (
        plotting.rank_histogram([0.5], confidence=0.999).get_legend().texts[0].get_text() == "99.9 % of uniform counts"
    )


def test_coverage_of_an_overconfident_law_lies_below_the_diagonal() -> None:
    ranks = np.concatenate([np.zeros(50) + 0.01, np.full(50, 0.5)])  # half far out, half in the middle
    ax: Any = plotting.coverage_curve({"z": ranks})
    claimed, held = ax.lines[0].get_xydata().T
    assert held[np.searchsorted(claimed, 0.5)] == 0.5
    assert held[np.searchsorted(claimed, 0.97)] == 0.5 < 0.97
    assert held[-1] == 1.0
    with pytest.raises(ValueError, match="uniform is empty"):
        plotting.coverage_curve({})


def test_curves_with_their_intervals_stand_apart() -> None:
    curve = ([1.0, 2.0], [0.5, 1.5], [1.5, 3.0])
    ax: Any = plotting.interval_curves([10, 100], {"a": curve, "b": curve}, xlabel="labels", ylabel="share", log=True)
    assert ax.get_xscale() == "log"
    first, second = (container.lines[0].get_xdata() for container in ax.containers)
    assert (first < second).all() and np.allclose(first, [10, 100], rtol=0.05)
    bar = ax.containers[0].lines[2][0].get_segments()[1]
    assert bar[:, 1].tolist() == [1.5, 3.0]
    with pytest.raises(ValueError, match="outside their intervals"):
        plotting.interval_curves([1], {"a": ([1.0], [1.2], [2.0])}, xlabel="", ylabel="")
    with pytest.raises(ValueError, match="at must be above 0"):
        plotting.interval_curves([0], {"a": ([1.0], [0.2], [2.0])}, xlabel="", ylabel="", log=True)
    with pytest.raises(ValueError, match="curves is empty"):
        plotting.interval_curves([1], {}, xlabel="", ylabel="")


def test_reliability_over_the_diagonal() -> None:
    ax: Any = plotting.reliability_curve({"a": BINS_OF})
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[0.5, 0.6], [0.9, 0.8]]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0.5 to 1.9"):
        plotting.reliability_curve({"a": {**BINS_OF, "confidence": [0.5, 1.9]}})
    with pytest.raises(ValueError, match="tables is empty"):
        plotting.reliability_curve({})
