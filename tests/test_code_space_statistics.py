"""The code space in numbers, held against closed forms, scikit-learn and scipy.

Seeds are fixed, so nothing here fails by chance; the rate given with a stochastic test is the chance that a correct
program fails it at a seed drawn blindly.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.ndimage
import scipy.spatial.distance
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.neural_network import MLPClassifier

from pyrovae.evaluation.code_space.activity import active_units
from pyrovae.evaluation.code_space.aggregate import (
    _aggregate_null,
    _directions,
    _energy_distance,
    _quantile_weights,
    _sliced_w2,
    _uniform_ks,
    aggregate,
)
from pyrovae.evaluation.code_space.crispness import _laplacian_variance, crispness
from pyrovae.evaluation.code_space.holes import _kth_distance, _kth_of_candidates, holes
from pyrovae.evaluation.code_space.judge import Judge
from pyrovae.evaluation.code_space.rate import rate_identity
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.sampling import control_images, sampling_laws
from pyrovae.evaluation.code_space.separation import _stratified, separation
from pyrovae.evaluation.code_space.smoothness import fixed_pairs, smoothness
from pyrovae.evaluation.code_space.whitening import Whitening

TRIANGULAR = np.array([[0.01, 0.0, 0.0], [3.0, 50.0, 0.0], [-1.0, 2.0, 0.5]])
GENERAL = np.array([[0.01, 2.0, -1.0], [3.0, 50.0, 0.3], [-1.0, 2.0, 0.5]])


def labelled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping classes in three correlated dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    return rng.standard_normal((n, 3)) @ [[1, 0, 0], [0.5, 1, 0], [0, 0.2, 2]] + y[:, None] * [1.0, -0.7, 0.4], y


# --- whitening --------------------------------------------------------------------------------------


def test_whitening_gives_mean_zero_and_identity_covariance() -> None:
    codes, _ = labelled(200, 0)
    white = Whitening.fit(codes)(codes)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("matrix", [TRIANGULAR, GENERAL])
def test_whitened_distances_do_not_change_under_an_affine_map(matrix: np.ndarray) -> None:
    codes, _ = labelled(50, 1)
    moved = codes @ matrix.T + 7
    before, after = Whitening.fit(codes)(codes), Whitening.fit(moved)(moved)
    np.testing.assert_allclose(
        scipy.spatial.distance.pdist(after), scipy.spatial.distance.pdist(before), rtol=1e-8, atol=1e-10
    )
    # the axes themselves are kept by a triangular map alone
    assert np.allclose(before, after, atol=1e-8) == (matrix is TRIANGULAR)


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (lambda z: np.full(len(z), 1 / 3), "dimensions 3 are constant"),
        (lambda z: z[:, 0] - 2 * z[:, 1], "dimensions 3 are linear"),
    ],
)
def test_a_singular_covariance_is_named_and_leaves_the_rest_alone(
    column: Callable[[np.ndarray], np.ndarray], named: str
) -> None:
    # several, for rounding may leave a dependent dimension a variance on either side of zero
    for seed in range(8):
        codes, _ = labelled(100, seed)
        with pytest.warns(UserWarning, match=named):
            white = Whitening.fit(np.column_stack([codes, column(codes)]))
        rest = Whitening.fit(codes)
        assert np.isfinite(np.linalg.inv(white.scale_tril)).all()
        np.testing.assert_allclose(white.scale_tril[:3, :3], rest.scale_tril, rtol=1e-5, atol=1e-5)


def test_a_covariance_that_is_only_badly_scaled_is_left_alone() -> None:
    codes, _ = labelled(100, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        white = Whitening.fit(codes * [1e-6, 1, 1e6])
    np.testing.assert_allclose(white.scale_tril, Whitening.fit(codes).scale_tril * [[1e-6], [1], [1e6]], rtol=1e-9)


# --- separation -------------------------------------------------------------------------------------


def test_separation_on_a_hand_made_line() -> None:
    # 3 nearest of 0.4: 0, 1, 2 -> "a"; of 2.6: 3, 2, 4 -> "b" twice; of 5.2: 5, 4, 3 -> "b", though it is an "a"
    train, labels = np.arange(6.0)[:, None], np.array(list("aaabbb"))
    result = separation(train, labels, [[0.4], [2.6], [5.2]], ["a", "b", "a"], num_neighbors=3)
    assert float(result.knn_accuracy) == pytest.approx(2 / 3)
    assert float(result.knn_accuracy_se) == pytest.approx(math.sqrt(2 / 27))
    assert result.knn_accuracy_label.sel(label=["a", "b"]).values.tolist() == [0.5, 1.0]


def test_separation_is_that_of_scikit_learn_on_whitened_codes() -> None:
    train, train_y = labelled(300, 3)
    test, test_y = labelled(120, 4)
    whitening = Whitening.fit(train)
    result = separation(torch.tensor(train), torch.tensor(train_y), test, test_y)
    model = KNeighborsClassifier(10, algorithm="brute").fit(whitening(train), train_y)
    assert float(result.knn_accuracy) == model.score(whitening(test), test_y)
    assert float(result.silhouette) == pytest.approx(silhouette_score(whitening(test), test_y), abs=1e-12)
    assert int(result.num_silhouette) == 120


@pytest.mark.parametrize("matrix", [TRIANGULAR, GENERAL])
def test_separation_does_not_change_under_an_affine_map_and_raw_codes_do(matrix: np.ndarray) -> None:
    (train, train_y), (test, test_y) = labelled(300, 3), labelled(150, 4)
    before = separation(train, train_y, test, test_y, num_silhouette=60)
    after = separation(train @ matrix.T - 5, train_y, test @ matrix.T - 5, test_y, num_silhouette=60)
    for name in before.data_vars:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-7, err_msg=name)
    raw = [
        (KNeighborsClassifier(10).fit(a, train_y).predict(b) == test_y).mean()
        for a, b in ((train, test), (train @ matrix.T, test @ matrix.T))
    ]
    assert abs(raw[0] - raw[1]) > 0.02


@pytest.mark.parametrize(
    ("counts", "num", "expected"), [((50, 30, 20), 10, (5, 3, 2)), ((5, 3, 1), 4, (2, 1, 1)), ((2, 2), 9, (2, 2))]
)
def test_stratification_takes_whole_items_in_proportion(
    counts: tuple[int, ...], num: int, expected: tuple[int, ...]
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = _stratified(labels, num, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == len(chosen)
    assert tuple(np.bincount(labels[chosen])) == expected


# --- crispness and reconstruction -------------------------------------------------------------------


def test_laplacian_of_known_images() -> None:
    i, j = np.mgrid[:6, :5].astype(float)
    dot = np.zeros((5, 5))
    dot[2, 2] = 1  # Laplacian -4 once, 1 four times, 0 four times: mean 0, variance 20/9
    board = (-1.0) ** (i + j)  # -8 times itself
    assert _laplacian_variance(dot[None]) == pytest.approx([20 / 9])
    assert _laplacian_variance((i**2 + 3 * j)[None]) == pytest.approx([0], abs=1e-20)
    assert _laplacian_variance(board[None])[0] == pytest.approx(np.var(8 * board[1:-1, 1:-1]))
    x = np.random.default_rng(0).random((4, 2, 7, 6))
    by_scipy = [[scipy.ndimage.laplace(c)[1:-1, 1:-1].var() for c in item] for item in x]
    np.testing.assert_allclose(_laplacian_variance(x), np.mean(by_scipy, 1), rtol=1e-12)


def test_crispness_of_waves() -> None:
    column = np.arange(16)
    slow, fast = np.cos(2 * np.pi * 2 * column / 16), np.cos(2 * np.pi * 6 * column / 16)  # 1/8 and 3/8 cycles a pixel
    real = np.tile(slow + fast, (3, 1, 16, 1)) + 4.0
    blurred = np.tile(slow + fast / 2, (3, 1, 16, 1)) + 4.0
    result = crispness(torch.tensor(blurred), real)
    assert result.high_frequency_share.sel(source=["reference", "images"]).values == pytest.approx([1 / 2, 1 / 5])
    assert float(result.squared_error) == pytest.approx(256 / 8)  # 256 pixels of (fast / 2)^2, 1/8 on average
    assert result.squared_error_items.dims == ("item",) and result.squared_error_items.shape == (3,)
    assert 0.2 < float(result.laplacian_ratio) < 0.4
    assert float(crispness(real * 3, real).laplacian_ratio) == pytest.approx(9)
    assert "squared_error" not in crispness(blurred[:2], real)
    strangers = crispness(blurred, real, paired=False)
    assert "squared_error" not in strangers
    assert strangers.laplacian_ratio_se != crispness(blurred, real).laplacian_ratio_se


@pytest.mark.parametrize(
    ("vertical", "horizontal", "share"), [(0, 4, 0), (4, 0, 0), (0, 5, 1), (5, 0, 1), (3, 3, 0), (4, 4, 1)]
)
def test_a_wave_counts_by_its_radius(vertical: int, horizontal: int, share: int) -> None:
    # of 18 pixels: 4 cycles are 0.222 a pixel, 5 are 0.278; along the diagonal 3 are 0.236 and 4 are 0.314
    i, j = np.mgrid[:18, :18]
    wave = np.cos(2 * np.pi * (vertical * i + horizontal * j) / 18)[None]
    np.testing.assert_allclose(crispness(wave, wave).high_frequency_share, share, atol=1e-12)


@pytest.mark.parametrize("paired", [True, False])
def test_standard_error_of_the_laplacian_ratio(paired: bool) -> None:
    # over 300 repetitions the standard deviation is known to 4 %: 20 % off is five of these
    rng = np.random.default_rng(5)
    ratios, errors = [], []
    for _ in range(300):
        real = rng.standard_normal((80, 4, 4)) * rng.gamma(4, size=(80, 1, 1))
        fake = 0.5 * real + 0.3 * rng.standard_normal((80, 4, 4)) if paired else rng.standard_normal((60, 4, 4))
        result = crispness(fake, real)
        ratios.append(float(result.laplacian_ratio))
        errors.append(float(result.laplacian_ratio_se))
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.2)


def test_reconstruction_error_of_principal_components() -> None:
    x = load_digits().data / 16
    pca = PCA(10, svd_solver="full").fit(x)
    result = reconstruction_error(x.reshape(-1, 1, 8, 8), pca.inverse_transform(pca.transform(x)).reshape(-1, 1, 8, 8))
    assert float(result.r2) == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-10)
    left = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:-10].sum()
    assert float(result.squared_error) == pytest.approx(left)
    assert float(result.rmse) == pytest.approx(math.sqrt(left / 64))


def test_r2_about_a_given_mean() -> None:
    x, up = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0.0, 1.0])
    result = reconstruction_error(x, x + up, mean=[0.0, 0.0])
    assert float(result.r2) == pytest.approx(1 - 2 / 10)
    assert result.squared_error_items.values.tolist() == [1.0, 1.0]
    assert float(reconstruction_error(x, x + up).r2) == pytest.approx(0.0)


# --- smoothness -------------------------------------------------------------------------------------

UNIT = Whitening(np.zeros(1), np.eye(1))


def line(n: int, low: float = 0.0, high: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((n, 1), low, dtype=torch.float64), torch.full((n, 1), high, dtype=torch.float64)


def test_a_linear_decoder_takes_equal_steps() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 10)))
    start, end = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 40, 3)))
    result = smoothness(lambda z: z @ weight, start, end, whitening=Whitening(np.zeros(3), np.eye(3)))
    np.testing.assert_allclose(result.largest_step_share, 1 / 64, rtol=1e-10)
    np.testing.assert_allclose(result.path_ratio, 1, rtol=1e-10)
    np.testing.assert_allclose(result.end_distance, ((end - start) @ weight).square().mean(1).sqrt(), rtol=1e-10)
    assert int(result.num_dropped) == 0


def test_a_step_takes_the_whole_path_at_once() -> None:
    result = smoothness(lambda z: (z > 0.3).double(), *line(20), whitening=UNIT)
    assert float(result.largest_step_share_median) == float(result.largest_step_share_mean) == 1
    assert float(result.path_ratio_median) == 1


def test_walks_with_a_closed_form() -> None:
    # z^2: the last of 64 steps is 127 / 4096 of the way; half a circle: 64 chords over the diameter
    square = smoothness(torch.square, *line(3), whitening=UNIT)
    assert float(square.largest_step_share_median) == pytest.approx(127 / 4096)
    circle = smoothness(lambda z: torch.cat([(math.pi * z).cos(), (math.pi * z).sin()], 1), *line(3), whitening=UNIT)
    assert float(circle.path_ratio_median) == pytest.approx(64 * math.sin(math.pi / 128))
    assert float(circle.path_length[0]) == pytest.approx(64 * 2 * math.sin(math.pi / 128) / math.sqrt(2))
    coarse = smoothness(torch.square, *line(3), whitening=UNIT, num_steps=2)
    assert float(coarse.largest_step_share_median) == pytest.approx(3 / 4)


def test_the_judge_counts_its_changes_of_label() -> None:
    def fourths(images: torch.Tensor) -> np.ndarray:
        return np.array(["a", "b"])[(images[:, 0].numpy() * 4).astype(int) % 2]

    start, end = line(20, 0.01, 0.99)
    end[:3] = 0.2  # stays within the first quarter
    result = smoothness(lambda z: z, start, end, whitening=UNIT, judge=fourths)
    assert result.label_switches.values.tolist() == [0.0] * 3 + [3.0] * 17
    assert float(result.label_switches_mean) == pytest.approx(3 * 17 / 20)


def test_pairs_that_end_where_they_began_are_dropped_and_counted() -> None:
    start, end = line(20)
    end[4], end[17] = 5e-4, 2e-3
    result = smoothness(lambda z: z, start, end, whitening=UNIT, judge=lambda images: np.zeros(len(images)))
    assert np.flatnonzero(np.isnan(result.largest_step_share)).tolist() == [4]
    assert np.flatnonzero(np.isnan(result.label_switches)).tolist() == [4]
    assert int(result.num_dropped) == 1
    assert float(result.path_ratio_mean) == pytest.approx(1)
    collapsed = smoothness(lambda z: 0 * z, start, end, whitening=UNIT)
    assert int(collapsed.num_dropped) == 20 and math.isnan(float(collapsed.largest_step_share_median))


def test_displacement_in_whitened_units() -> None:
    # isotropic: every code moves by 0.05 * 3, over sqrt(2) as an RMSE of two pixels
    start = torch.zeros(4000, 2, dtype=torch.float64)
    wide = Whitening(np.zeros(2), 3 * np.eye(2))
    even = smoothness(lambda z: z, start, start + 1, whitening=wide, num_steps=1)
    assert float(even.displacement_ratio) == pytest.approx(1)
    assert float(even.displacement_median) == pytest.approx(0.15 / math.sqrt(2))
    # one coordinate alone: |cos| of a uniform angle, quantiles sin(0.95 pi/2) over sin(pi/4) = 1.410;
    # the median of 4,000 is known to 0.9 %, so 7 % fails one time in 10^11
    one = smoothness(lambda z: z[:, :1], start, start + 1, whitening=wide, num_steps=1)
    assert float(one.displacement_ratio) == pytest.approx(math.sin(0.475 * math.pi) / math.sin(math.pi / 4), rel=0.07)


def test_displacement_quantiles() -> None:
    # z^2 / 2 moves by 0.05 z (1 +- 0.00003) on 1,000 ... 101,000: the 95 % quantile is at 96,000, the median at 51,000
    start = 1000 * torch.arange(1.0, 102.0, dtype=torch.float64)[:, None]
    result = smoothness(lambda z: z**2 / 2, start, start + 1, whitening=UNIT, num_steps=1)
    assert float(result.displacement_ratio) == pytest.approx(96 / 51, rel=1e-3)
    twice = smoothness(lambda z: z**2 / 2, start, start + 1, whitening=UNIT, num_steps=1, displacement=0.1)
    assert float(twice.displacement_median) == pytest.approx(2 * 0.05 * 51_000, rel=1e-3)


def test_smoothness_does_not_change_under_an_affine_map() -> None:
    start, end = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 60, 3)))
    train, _ = labelled(200, 6)
    weight = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 12)))

    def decoder(a: torch.Tensor, b: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda z: torch.tanh(2 * (z - b) @ torch.linalg.inv(a).T @ weight)

    decode = decoder(torch.eye(3, dtype=torch.float64), 0.0)
    before = smoothness(decode, start, end, whitening=Whitening.fit(train))
    for matrix in (TRIANGULAR, GENERAL):
        a = torch.from_numpy(matrix)
        after = smoothness(
            decoder(a, 2.0),
            start @ a.T + 2,
            end @ a.T + 2,
            whitening=Whitening.fit(train @ matrix.T + 2),
        )
        for name in before.data_vars:
            # a general map turns the directions of displacement, nothing else
            if matrix is TRIANGULAR or not str(name).startswith("displacement"):
                np.testing.assert_allclose(after[name], before[name], rtol=1e-6, err_msg=name)
    # negative control: the same 0.05 in raw units is another displacement
    raw = smoothness(decode, start, end, whitening=Whitening(np.zeros(3), np.eye(3)))
    assert float(raw.displacement_median) != pytest.approx(float(before.displacement_median), rel=0.05)


def test_decode_gets_the_codes_own_dtype_and_no_gradient() -> None:
    layer, seen = torch.nn.Linear(2, 5, dtype=torch.float32), []

    def decode(z: torch.Tensor) -> torch.Tensor:
        seen.append((z.dtype, torch.is_grad_enabled()))
        return layer(z)

    codes = np.random.default_rng(0).standard_normal((2, 20, 2)).astype("float32")
    smoothness(decode, codes[0], codes[1], whitening=Whitening(np.zeros(2), np.eye(2)))
    assert set(seen) == {(torch.float32, False)}


# --- pairs, laws, controls --------------------------------------------------------------------------


def test_fixed_pairs_are_uniform_over_pairs_of_different_items() -> None:
    pairs = fixed_pairs(5, 20_000)
    table = np.zeros((5, 5))
    np.add.at(table, tuple(pairs.T), 1)
    assert np.diag(table).tolist() == [0] * 5
    off = table[~np.eye(5, dtype=bool)]
    assert scipy.stats.chisquare(off).pvalue > 1e-6  # fails one time in a million
    assert (fixed_pairs(5, 20_000) == pairs).all() and (fixed_pairs(5, 20_000, seed=1) != pairs).any()
    assert fixed_pairs(10).shape == (500, 2)


def test_sampling_laws_have_their_moments() -> None:
    train, _ = labelled(500, 7)
    laws = sampling_laws(torch.tensor(train), num=4000)
    n, gaussian = 4000, laws["gaussian"].numpy()
    # whitened, mean and covariance are those of N(0, I): each entry within 5 standard deviations, 12 of them: 7e-6
    white = Whitening.fit(train)(gaussian)
    assert np.abs(white.mean(0)).max() < 5 / math.sqrt(n)
    assert np.abs(np.cov(white.T) - np.eye(3)).max() < 5 * math.sqrt(2 / n)
    low, high = np.quantile(train, [0.005, 0.995], axis=0)
    box = (laws["box"].numpy() - low) / (high - low)
    for k in range(3):
        assert scipy.stats.kstest(box[:, k], "uniform").pvalue > 1e-6
        assert scipy.stats.kstest(laws["prior"].numpy()[:, k], "norm").pvalue > 1e-6
        # negative control: the Gaussian law is neither
        assert scipy.stats.kstest(gaussian[:, k], "norm").pvalue < 1e-6
    # the laws share no random numbers
    assert abs(np.corrcoef(white[:, 0], laws["prior"].numpy()[:, 0])[0, 1]) < 5 / math.sqrt(n)


def test_sampling_laws_follow_the_codes() -> None:
    train, _ = labelled(300, 8)
    laws, moved = sampling_laws(train, num=50), sampling_laws(train @ TRIANGULAR.T + 1, num=50)
    np.testing.assert_allclose(moved["gaussian"], laws["gaussian"].numpy() @ TRIANGULAR.T + 1, rtol=1e-7, atol=1e-8)
    assert torch.equal(moved["prior"], laws["prior"])
    assert sampling_laws(train.astype("float32"), num=5)["box"].dtype == torch.float32


def test_control_images_average_two_different_labels() -> None:
    labels = np.array(["c", "a", "b", "a", "c", "a"])
    images = np.eye(6).reshape(6, 1, 2, 3)
    control = control_images(torch.tensor(images), labels, num=6000).numpy().reshape(-1, 6)
    assert (np.sort(control, 1)[:, -2:] == 0.5).all() and (control.sum(1) == 1).all()
    pairs = np.array([np.flatnonzero(row) for row in control])
    assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()
    # an "a" is first with 1/6, its partner one of 3; a "b" one of 5; a "c" one of 4. Fails one time in a million
    rate = {"a": 1 / 18, "b": 1 / 30, "c": 1 / 24}
    kinds = [(i, j) for i in range(6) for j in range(i) if labels[i] != labels[j]]
    found = [((pairs[:, 0] == j) & (pairs[:, 1] == i)).sum() for i, j in kinds]
    expected = [6000 * (rate[labels[i]] + rate[labels[j]]) for i, j in kinds]
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-6


# --- holes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_distances_are_those_of_scikit_learn_however_small_beside_the_norms(apart: float, k: int) -> None:
    # two tight clusters: at 1,000 the squares in the product form are 10^8 times those of the distances sought
    rng = np.random.default_rng(0)
    place = np.where(np.arange(400) % 2, apart, -apart)[:, None] + 3.0
    reference = (place + 0.1 * rng.standard_normal((400, 8))).astype("float32")
    queries = (place[:50] + 0.1 * rng.standard_normal((50, 8))).astype("float32")
    reference[7] = queries[3]
    ours = _kth_distance(torch.tensor(queries), torch.tensor(reference), k)
    # in float64 by differences
    theirs = np.sort(np.linalg.norm(queries[:, None].astype(float) - reference.astype(float), axis=2), 1)[:, k - 1]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    peer = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(reference.astype(float))
    np.testing.assert_allclose(ours, peer.kneighbors(queries.astype(float))[0][:, -1], rtol=1e-9)
    # negative control: the product in float32 alone picks other rows
    alone, sure = _kth_of_candidates(torch.tensor(queries), torch.tensor(reference), k)
    np.testing.assert_allclose(alone[sure], theirs[sure.numpy()], rtol=1e-12)
    assert bool(sure.all()) == np.allclose(alone, theirs, rtol=1e-12) == (apart < 1000)


def test_holes_of_the_same_law_of_another_place_and_of_a_collapsed_model() -> None:
    rng = np.random.default_rng(1)
    train, test, same, control = (rng.random((n, 2)) for n in (3000, 2000, 2000, 500))
    laws = {"same": same, "far": same + 5, "half": same * [0.5, 1.0], "point": np.full((700, 2), 0.5)}
    result = holes(laws, train, test, control=control + np.array([0.5, 0]))
    assert float(result.base_rate) == 0.01  # the 20 largest of 2,000
    fraction = result.hole_fraction
    # 1 % with a standard deviation of sqrt(0.01 * 0.99 * (1/2000 + 1/2000)): five of them fail one time in 10^6
    assert float(fraction.sel(law="same")) == pytest.approx(0.01, abs=5 * math.sqrt(0.0099 / 1000))
    assert float(fraction.sel(law="far")) == 1 and float(fraction.sel(law="point")) == 0
    coverage = result.coverage
    assert float(coverage.sel(law="far")) == 0
    assert float(coverage.sel(law="same")) > 0.98
    # the left half and a rim of the radius
    radius = float(result.radius)
    assert float(coverage.sel(law="half")) == pytest.approx(0.5 + radius, abs=5 * 0.5 / math.sqrt(2000))
    assert float(coverage.sel(law="point")) == pytest.approx(math.pi * radius**2, abs=0.02)
    # half of the control lies outside, but for the rim
    assert 0.3 < float(result.control_fraction) < 0.5
    assert float(result.hole_fraction_se.sel(law="far")) == 0
    assert result.distance.shape == (4, 2000) and int(result.distance.sel(law="point").notnull().sum()) == 700
    alone = holes(same, train, test)
    assert alone.hole_fraction.ndim == 0 and float(alone.hole_fraction) == float(fraction.sel(law="same"))


def test_the_hole_radius_is_a_quantile_of_the_kth_distance() -> None:
    train = np.arange(0.0, 100.0)[:, None]
    test = np.linspace(20, 80, 101)[:, None]
    # on this grid the 5th nearest of a point at f past a grid point lies at 2 + min(f, 1 - f)
    expected = 2 + np.minimum(test % 1, 1 - test % 1)[:, 0]
    result = holes(train, train, test, quantile=0.9)
    assert float(result.radius) == pytest.approx(np.quantile(expected, 0.9), abs=1e-5)
    # training points have themselves for a neighbour, so their 5th lies at 2, and at the two edges at 3 and 4
    assert float(result.hole_fraction) == pytest.approx(4 / 100)


def test_a_decoder_of_one_image_has_no_holes_and_a_radius_of_zero() -> None:
    same = np.full((30, 4), 0.1)
    result = holes({"same": same, "other": same + 1}, same, same)
    assert float(result.radius) == float(result.base_rate) == 0
    assert result.hole_fraction.values.tolist() == [0, 1] and result.coverage.values.tolist() == [1, 0]


# --- aggregate --------------------------------------------------------------------------------------


def test_wasserstein_to_the_normal_is_that_of_quadrature() -> None:
    x = np.array([-1.3, 0.2, 0.4, 2.0])
    parts = [
        scipy.integrate.quad(lambda u, v=v: (scipy.stats.norm.ppf(u) - v) ** 2, i / 4, (i + 1) / 4)[0]
        for i, v in enumerate(x)
    ]
    ours = _sliced_w2(x[[2, 0, 3, 1], None], np.ones((1, 1)), _quantile_weights(4))
    assert ours**2 == pytest.approx(sum(parts), rel=1e-7)


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 5])
def test_a_shift_adds_its_square_over_the_dimensions(latent_dim: int) -> None:
    # for centred projections W2^2 grows by exactly (u'm)^2, and whole orthonormal bases average that to |m|^2 / d
    rng = np.random.default_rng(latent_dim)
    codes = rng.standard_normal((200, latent_dim))
    codes -= codes.mean(0)
    shift = rng.standard_normal(latent_dim)
    options: dict[str, Any] = {"train_codes": codes, "num_null": 1, "num_projections": 30}
    before, after = (aggregate(z, **options).sliced_w2.sel(codes="raw") for z in (codes, codes + shift))
    assert float(after**2 - before**2) == pytest.approx(shift @ shift / latent_dim, rel=1e-9)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_energy_distance_by_an_independent_formula(latent_dim: int) -> None:
    codes = 1.5 * np.random.default_rng(0).standard_normal((12, latent_dim)) + 0.5

    def to_normal(squared: float) -> float:
        # |a - g|^2 is a noncentral chi-square
        law = scipy.stats.ncx2(latent_dim, squared)
        return float(scipy.integrate.quad(lambda r: law.sf(r * r), 0, 40, limit=200)[0])

    far = np.mean([to_normal(a) for a in (codes**2).sum(1)])
    between = scipy.spatial.distance.pdist(codes).mean()
    normals = 2 * math.gamma((latent_dim + 1) / 2) / math.gamma(latent_dim / 2)
    assert _energy_distance(codes) == pytest.approx(2 * far - between - normals, rel=1e-6)


def test_uniformity_is_that_of_scipy() -> None:
    codes = np.random.default_rng(0).standard_normal((50, 3)) * [1, 2, 0.5] + [0, 0, 1]
    expected = [scipy.stats.kstest(codes[:, k], "norm").statistic for k in range(3)]
    result = aggregate(codes, train_codes=codes, num_null=1)
    np.testing.assert_allclose(result.ks.sel(codes="raw"), expected, rtol=1e-12)
    assert float(result.ks_max.sel(codes="raw")) == max(expected)


def test_the_null_holds_its_level_and_one_without_the_training_sample_does_not() -> None:
    # 300 sets of 120 training and 100 test codes of one Gaussian, whitened: P(p <= 0.1) = 0.1, 30 of 300 expected;
    # with a standard deviation of 5.2, widened by the null's own 400 samples to 6.9, outside 30 +- 31 one time in 10^5
    rng = np.random.default_rng(0)
    whitened, naive, energy = [], [], []
    for _ in range(300):
        codes = rng.standard_normal((220, 2)) @ [[3.0, 1.0], [0.0, 0.1]] + 4
        result = aggregate(codes[120:], train_codes=codes[:120], num_null=400, num_projections=16)
        whitened.append(result.sliced_w2_p_value.sel(codes="whitened") <= 0.1)
        null, _ = _aggregate_null(100, 2, 120, 400, 16, 0)
        naive.append(float(result.sliced_w2.sel(codes="whitened")) > np.quantile(null[0], 0.9))
        energy.append(float(result.energy_distance.sel(codes="whitened")))
    assert abs(np.sum(whitened) - 30) < 31
    assert np.sum(naive) > 75
    # the raw codes are nowhere near N(0, I)
    assert float(result.sliced_w2_p_value.sel(codes="raw")) == 1 / 401
    assert float(result.energy_distance.sel(codes="raw")) > 1


def test_the_null_is_that_of_a_training_sample_drawn_and_fitted() -> None:
    # 400 against 400 by Kolmogorov-Smirnov: fails one time in a million
    null, ks = _aggregate_null(50, 3, 9, 400, 9, 0)  # 50 test and 9 training codes of 3 dimensions
    rng = np.random.default_rng(4)
    directions, weights = _directions(3, 9, 0), _quantile_weights(50)
    drawn = [Whitening.fit(rng.standard_normal((9, 3)))(rng.standard_normal((50, 3))) for _ in range(400)]
    direct = [_sliced_w2(z, directions, weights) for z in drawn]
    assert scipy.stats.ks_2samp(null[1], direct).pvalue > 1e-6
    assert scipy.stats.ks_2samp(ks[1], [_uniform_ks(z).max() for z in drawn]).pvalue > 1e-6
    assert scipy.stats.ks_2samp(null[0], direct).pvalue < 1e-6  # negative control


def test_energy_distance_of_normal_codes_is_zero_on_average() -> None:
    # mean of 400 within 5 standard errors of 0: fails one time in 10^6; the biased form would add 2/n of E|g - g'|
    rng = np.random.default_rng(1)
    values = np.array([_energy_distance(rng.standard_normal((30, 2))) for _ in range(400)])
    error = values.std() / 20
    assert abs(values.mean()) < 5 * error < math.sqrt(math.pi) / 30


def test_standard_normal_codes_lie_in_the_band_and_others_do_not() -> None:
    rng = np.random.default_rng(3)
    train, test = rng.standard_normal((2000, 2)), rng.standard_normal((400, 2))
    options: dict[str, Any] = {"num_null": 200, "num_projections": 32}
    result = aggregate(test, train_codes=train, **options)
    # four p-values below 1 % fail one time in 25
    assert (result.sliced_w2_p_value > 0.01).all() and (result.ks_max_p_value > 0.01).all()
    low, high = result.sliced_w2_null.sel(codes="raw").values
    assert low < float(result.sliced_w2.sel(codes="raw")) < high
    # whitening cannot make two clusters normal
    clusters = [z + 2 * np.sign(z) for z in (train, test)]
    other = aggregate(clusters[1], train_codes=clusters[0], **options)
    assert (other.sliced_w2_p_value < 0.01).all() and (other.ks_max_p_value < 0.01).all()


@pytest.mark.parametrize("n", [100, 3000])
@pytest.mark.slow
def test_the_excess_is_the_shift_whatever_the_size(n: int) -> None:
    # N(m, I) lies |m| / sqrt(d) from N(0, I) in every sample size; sd of the estimate about 1 / sqrt(n): 5 of them
    codes = np.random.default_rng(3).standard_normal((n, 2))
    shifted, still = (aggregate(codes + m, train_codes=codes, num_null=100) for m in ([0.6, -0.8], [0.0, 0.0]))
    assert float(shifted.sliced_w2_excess.sel(codes="raw")) == pytest.approx(1 / np.sqrt(2), abs=5 / np.sqrt(n))
    assert float(still.sliced_w2_excess.sel(codes="raw")) < 2.5 / np.sqrt(n)
    if n == 100:  # control: the distance itself grows as the sample shrinks
        assert float(still.sliced_w2.sel(codes="raw")) > float(still.sliced_w2_excess.sel(codes="raw")) + 0.03


def test_whitened_aggregate_does_not_change_under_an_affine_map() -> None:
    (train, _), (test, _) = labelled(300, 9), labelled(200, 10)
    options: dict[str, Any] = {"num_null": 20, "num_items": 150, "num_projections": 600}
    before = aggregate(test, train_codes=train, **options)
    assert int(before.num_items) == 150
    for matrix, same in ((TRIANGULAR, 1e-7), (GENERAL, 0.02)):
        after = aggregate(test @ matrix.T + 1, train_codes=train @ matrix.T + 1, **options)
        for name in ("sliced_w2", "energy_distance"):
            value, expected = (float(r[name].sel(codes="whitened")) for r in (after, before))
            # a general map turns the codes: only the finite number of directions can tell
            assert value == pytest.approx(expected, rel=1e-6 if name == "energy_distance" else same)
            assert float(after[name].sel(codes="raw")) != pytest.approx(float(before[name].sel(codes="raw")), rel=0.1)


# --- rate -------------------------------------------------------------------------------------------


def test_posteriors_equal_to_the_prior_carry_nothing() -> None:
    z = np.random.default_rng(0).standard_normal((300, 4))
    result = rate_identity(np.zeros((300, 4)), np.ones((300, 4)), z)
    for name in ("rate", "rate_se", "mutual_information", "mutual_information_se", "kl_aggregate"):
        assert float(result[name]) == pytest.approx(0, abs=1e-12)


def test_posteriors_far_apart_carry_log_n() -> None:
    loc = np.arange(70.0)[:, None] * [1.0, 2.0]
    scale = np.full_like(loc, 1e-6)
    z = loc + scale * np.random.default_rng(0).standard_normal(loc.shape)
    result = rate_identity(loc, scale, z)
    rate = 0.5 * (loc**2).sum(1).mean() + 1e-12 - 1 - 2 * math.log(1e-6)
    assert float(result.mutual_information) == pytest.approx(math.log(70), abs=1e-12)
    assert float(result.mutual_information_bound) == pytest.approx(math.log(70))
    assert float(result.rate) == pytest.approx(rate)
    assert float(result.kl_aggregate) == pytest.approx(rate - math.log(70))


def test_rate_identity_of_a_linear_gaussian_channel() -> None:
    # z = a x + s e with x ~ N(0, 1): I = log(1 + a^2/s^2) / 2 and q(z) = N(0, v), v = a^2 + s^2, a dimension
    rng = np.random.default_rng(1)
    a, s = np.array([0.9, 0.3]), np.array([0.2, 0.5])
    loc = a * rng.standard_normal((4000, 2))
    result = rate_identity(loc, np.tile(s, (4000, 1)), loc + s * rng.standard_normal((4000, 2)))
    information, v = 0.5 * np.log1p(a**2 / s**2).sum(), a**2 + s**2
    kl = 0.5 * (v - 1 - np.log(v)).sum()
    # five standard errors, over the 4,000 items too: fails one time in 10^6
    assert float(result.mutual_information) == pytest.approx(information, abs=5 * float(result.mutual_information_se))
    assert float(result.rate) == pytest.approx(information + kl, abs=5 * float(result.rate_se))
    assert float(result.mutual_information_se) < 0.02
    error = math.hypot(float(result.kl_aggregate_se), float(result.rate_se))
    assert float(result.kl_aggregate) == pytest.approx(kl, abs=5 * error)


def test_mutual_information_of_two_posteriors_by_quadrature() -> None:
    loc, scale = np.array([-0.5, 0.8]), np.array([0.6, 1.1])
    laws = [scipy.stats.norm(m, s) for m, s in zip(loc, scale, strict=True)]

    def term(z: float, k: int) -> float:
        mixture = 0.5 * (laws[0].pdf(z) + laws[1].pdf(z))
        return float(laws[k].pdf(z) * (laws[k].logpdf(z) - math.log(mixture)))

    exact = 0.5 * sum(scipy.integrate.quad(term, -9, 11, args=(k,))[0] for k in (0, 1))
    # 2,000 items of each are the same mixture; five standard errors fail one time in 10^6
    means, scales = np.repeat(loc, 2000)[:, None], np.repeat(scale, 2000)[:, None]
    result = rate_identity(means, scales, means + scales * np.random.default_rng(2).standard_normal((4000, 1)))
    assert float(result.mutual_information) == pytest.approx(exact, abs=5 * float(result.mutual_information_se))
    assert 5 * float(result.mutual_information_se) < 0.1 * exact + 0.03
    # with these items held fixed the rate has a closed form of its own
    assert float(result.rate) == pytest.approx(np.mean(0.5 * (loc**2 + scale**2 - 1) - np.log(scale)))


def test_active_units_by_hand() -> None:
    loc = np.array([[0.0, 1.0, 0.1], [0.2, 1.0, 0.3], [0.4, 1.0, 0.2]])
    result = active_units(torch.tensor(loc))
    np.testing.assert_allclose(result.variance, [0.04, 0.0, 0.01], atol=1e-15)
    assert int(active_units(loc, threshold=0.005).active_units) == 2
    assert int(active_units(loc, threshold=0.02).active_units) == 1


# --- judge ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [np.arange(10), np.array([f"digit {k}" for k in range(10)]), np.arange(10) > 4])
def test_the_judge_is_the_network_it_was_fitted_as(names: np.ndarray) -> None:
    digits = load_digits()
    x, y = (digits.images[:600] / 16).astype("float32")[:, None], names[digits.target[:600]]
    judge = Judge.fit(torch.tensor(x[:500]), y[:500], seed=3, hidden_dims=(32, 16), max_iter=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = MLPClassifier((32, 16), max_iter=8, random_state=3).fit(x[:500].reshape(500, -1), y[:500])
    flat = x[500:].reshape(100, -1)
    np.testing.assert_allclose(judge.predict_proba(x[500:]), peer.predict_proba(flat), atol=1e-5)
    assert judge.predict(x[500:]).tolist() == peer.predict(flat).tolist()
    features = judge.features(x[500:])
    assert features.dtype == torch.float32 and features.shape == (100, 16)
    hidden = np.maximum(flat @ peer.coefs_[0] + peer.intercepts_[0], 0)
    hidden = np.maximum(hidden @ peer.coefs_[1] + peer.intercepts_[1], 0)
    np.testing.assert_allclose(features, hidden, atol=1e-5)
    result = judge.accuracy(x[500:], y[500:])
    share = peer.score(flat, y[500:])
    assert float(result.accuracy) == pytest.approx(share)
    assert float(result.accuracy_se) == pytest.approx(math.sqrt(share * (1 - share) / 100))
    again = pickle.loads(pickle.dumps(judge))
    assert (again.predict_proba(x[500:]) == judge.predict_proba(x[500:])).all()


def test_the_judge_reads_digits() -> None:
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    judge = Judge.fit(x[:1200], digits.target[:1200])
    # the last third is other writers: scikit-learn's own networks reach 0.93 to 0.95
    assert float(judge.accuracy(x[1200:], digits.target[1200:]).accuracy) > 0.91
    # what it was not shown, it does not know: shuffled pixels
    shuffled = x[1200:].flatten(1)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))].view(-1, 1, 8, 8)
    assert float(judge.accuracy(shuffled, digits.target[1200:]).accuracy) < 0.4


# --- the boundary -----------------------------------------------------------------------------------

CODES, IMAGES = np.random.default_rng(0).standard_normal((20, 2)), np.random.default_rng(0).random((20, 1, 4, 4))
HALVES = np.repeat([0, 1], 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Whitening.fit(CODES[:1]), "codes must hold at least 2 items"),
        (lambda: Whitening.fit(CODES[:, 0]), r"codes must have shape \(N, latent_dim\), got \(20,\); codes.reshape"),
        (lambda: Whitening.fit(CODES)(CODES[:, :1]), r"codes must have shape \(N, 2\), got \(20, 1\)"),
        (lambda: Whitening.fit(CODES * np.nan), "codes must be finite: 40 NaN"),
        (lambda: separation(CODES, HALVES, CODES, HALVES[:5]), "20 items, test_labels has 5"),
        (lambda: separation(CODES, HALVES * 0, CODES, HALVES), "train_labels must hold at least 2 classes"),
        (
            lambda: separation(CODES, HALVES, CODES, HALVES, num_neighbors=21),
            "at most the 20 items of train_codes",
        ),
        (lambda: crispness(IMAGES, IMAGES[..., 1:]), "images and reference must have one event shape"),
        (lambda: crispness(IMAGES[:2], IMAGES, paired=True), "paired images need an image for each"),
        (lambda: crispness(CODES, CODES), "of at least 3 by 3 pixels"),
        (lambda: crispness(IMAGES, IMAGES * 0), "reference must have images that are not constant"),
        (lambda: crispness((IMAGES * 255).astype("uint8"), IMAGES), "images looks like 0..255"),
        (lambda: reconstruction_error(IMAGES, IMAGES[:3]), "got 3 for 20"),
        (lambda: reconstruction_error(IMAGES[:1], IMAGES[:1]), "x must have items that differ"),
        (lambda: fixed_pairs(1), "n_items must be an integer of at least 2, got 1"),
        (lambda: smoothness(lambda z: z, CODES, CODES[1:], whitening=Whitening.fit(CODES)), "got 20 and 19"),
        (
            lambda: smoothness(lambda z: z[:3], CODES, CODES, whitening=Whitening.fit(CODES)),
            "decode must return shape",
        ),
        (
            lambda: smoothness(lambda z: z / 0, CODES, CODES, whitening=Whitening.fit(CODES)),
            "finite decoded means",
        ),
        (lambda: sampling_laws(CODES, num=0), "num must be an integer of at least 1, got 0"),
        (lambda: control_images(IMAGES, HALVES * 0), "labels must hold at least 2 classes"),
        (lambda: holes(CODES, CODES[:4], CODES), "num_neighbors must be at most the 4 items of train, got 5"),
        (lambda: holes(CODES, CODES, CODES, quantile=1.0), "quantile must lie strictly between 0 and 1, got 1.0"),
        (lambda: holes({"box": CODES[:, :1]}, CODES, CODES), r"samples\['box'\] must have the 2 features"),
        (lambda: aggregate(CODES, train_codes=CODES[:2]), "train_codes must have more items than dimensions"),
        (lambda: aggregate(CODES, train_codes=CODES, seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: rate_identity(CODES, CODES * 0, CODES + 1), "scale must be positive"),
        (lambda: rate_identity(CODES, CODES * 0 + 1, CODES), "got the means themselves"),
        (lambda: active_units(CODES[:1]), "loc must hold at least 2 items"),
        (lambda: Judge.fit(IMAGES, HALVES, hidden_dims=()), "hidden_dims must name at least one hidden layer"),
        (
            lambda: Judge.fit(IMAGES, HALVES, max_iter=1).features(IMAGES[:, 0]),
            r"images must have shape \(N, 1, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("mask", ["an array's", "a list's", "a tensor's"])
def test_a_mask_is_refused_rather_than_lost(mask: str) -> None:
    hidden = np.zeros(CODES.shape, bool)
    hidden[1] = True
    masked: object = np.ma.array(CODES, mask=hidden)
    if mask == "a list's":
        masked = list(masked)  # type: ignore[call-overload]
    if mask == "a tensor's":
        masked = torch.masked.masked_tensor(torch.tensor(CODES), torch.from_numpy(~hidden))
    calls: dict[str, Callable[[], object]] = {
        "loc": lambda: active_units(masked),
        "codes": lambda: Whitening.fit(masked),
        "train_codes": lambda: sampling_laws(masked),
        "scale": lambda: rate_identity(CODES, masked, CODES + 1),
        "reconstruction": lambda: reconstruction_error(CODES, masked),
        "mean": lambda: reconstruction_error(CODES, CODES, mean=masked),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name} is a masked array, whose mask would be lost"):
            call()


def test_results_are_labelled_and_the_callers_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    whitening = Whitening.fit(CODES)
    results = [
        separation(CODES, HALVES, CODES, HALVES),
        crispness(IMAGES, IMAGES),
        reconstruction_error(IMAGES, IMAGES),
        smoothness(lambda z: z, CODES, CODES[::-1], whitening=whitening, judge=lambda z: z[:, 0] > 0),
        holes({"a": CODES}, CODES, CODES, control=CODES),
        aggregate(CODES, train_codes=CODES, num_null=2),
        rate_identity(CODES, np.ones_like(CODES), CODES + 1),
        active_units(CODES),
        Judge.fit(IMAGES, HALVES, max_iter=1).accuracy(IMAGES, HALVES),
    ]
    fixed_pairs(5)
    sampling_laws(CODES)
    control_images(IMAGES, HALVES)
    for result in results:
        assert all(set(v.attrs) == {"long_name", "units"} and all(v.attrs.values()) for v in result.data_vars.values())
    assert torch.equal(torch.get_rng_state(), before[0]) and pickle.dumps(np.random.get_state()) == before[1]
