"""EM's sums over blocks: those of a table in float64, of memory maps as of arrays, of two processes as of one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_ranks import run

import pyrovae
from pyrovae.data import MappedArray, Split
from pyrovae.inference.em import batches, clusters, fitting, items
from pyrovae.models import block_sums, products, remainder, responsibilities, sufficient
from pyrovae.models.blocks import Blocks
from pyrovae.models.components import COVARIANCES
from pyrovae.models.frame import Frame
from pyrovae.models.remainder import remainder_of

N, D, K = 400, 26, 3  # 26 columns are two parts of a triangle


def problem(seed=0, *, spread=1.0):
    """Items of K correlated clusters, (N, D)."""
    rng = np.random.default_rng(seed)
    loc, root = spread * rng.normal(size=(K, D)), rng.normal(size=(K, D, D)) / 5 + np.eye(D)
    label = np.arange(N) % K
    return loc[label] + np.einsum("nij,nj->ni", root[label], rng.normal(size=(N, D)))


def mixture_near(x, covariance, seed=1):
    """A mixture whose components are about the items, and no maximum."""
    rng = np.random.default_rng(seed)
    loc = x[:K]  # an item of each cluster
    spread = {
        "full": np.stack([np.eye(D) + 0.3, np.eye(D) * 1.5, np.eye(D) + 0.1]),
        "tied": np.eye(D) + 0.2,
        "diagonal": rng.uniform(0.5, 2, size=(K, D)),
        "spherical": rng.uniform(0.5, 2, size=K),
    }
    weights = np.array([0.2, 0.3, 0.5])
    mixture = pyrovae.GaussianMixture.from_parameters(weights, loc, spread[covariance], covariance=covariance)
    return mixture.requires_grad_(False)


def by_table(mixture, x, weight):
    """log p(x) per item, and the weights, locations and covariances after one step, from an N x K table in float64."""
    factor = mixture.components.scale_tril.expand(K, D, D).numpy()
    away = x[:, None] - mixture.loc.numpy()
    white = np.stack([np.linalg.solve(factor[k], away[:, k].T).T for k in range(K)], 1)
    log_det = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
    joint = np.log(mixture.weights.numpy()) - log_det - 0.5 * D * np.log(2 * np.pi) - 0.5 * np.square(white).sum(2)
    log_prob = np.logaddexp.reduce(joint, 1)
    share = np.exp(joint - log_prob[:, None]) * weight[:, None]
    total = share.sum(0)
    loc = share.T @ x / total[:, None]
    away = x[:, None] - loc
    full = np.einsum("nk,nki,nkj->kij", share, away, away) / total[:, None, None]
    squares = np.diagonal(full, axis1=1, axis2=2)
    spread = {
        "full": full,
        "tied": np.einsum("k,kij->ij", total / total.sum(), full),
        "diagonal": squares,
        "spherical": squares.mean(1),
    }
    return weight @ log_prob / weight.sum(), total / total.sum(), loc, spread[mixture.components.covariance]


def step(mixture, x, weight=None, dtype=torch.float64, **options):
    """The same by blocks."""
    blocks = Blocks(torch.from_numpy(x).to(dtype), None if weight is None else torch.from_numpy(weight))
    log_weights = mixture.logits.double().log_softmax(-1)
    sums, value = sufficient.expected_sums(mixture.components, log_weights, Frame(blocks), **options)
    assert value == sufficient.log_likelihood(mixture.components, log_weights, Frame(blocks)) or options
    mixture.take(sums)
    return value, mixture.weights.numpy(), mixture.loc.numpy(), mixture.covariances.numpy()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("pyrovae.models.frame.BYTES", 0)  # 64 rows, of which 400 are no multiple


@pytest.fixture
def kinds(monkeypatch):
    """Whether each pass over the items has been in float32, one after the other."""
    found, expected_sums = [], sufficient.expected_sums

    def watched(*args, single):
        found.append(single)
        return expected_sums(*args, single=single)

    monkeypatch.setattr(sufficient, "expected_sums", watched)
    return found


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [0.2, 4.0])  # with 4, responsibilities are 0 or 1, and few of them count
def test_one_step_is_that_of_a_table(covariance, weighted, spread):
    x = problem(spread=spread)
    weight = np.arange(N) % 3 + 0.5 if weighted else None
    mixture = mixture_near(x, covariance)
    expected = by_table(mixture, x, np.ones(N) if weight is None else weight)
    for ours, exact in zip(step(mixture, x, weight), expected, strict=True):
        assert np.allclose(ours, exact, rtol=1e-10, atol=1e-10)


def plain_sums(parts, log_weights, origin, x, weight):
    """log p(x) per item and the sums of an M-step about an origin, by the plain formula in float64."""
    factor, loc = parts.scale_tril.numpy(), parts.loc.detach().numpy()
    white = np.einsum("kij,nkj->nki", np.linalg.inv(factor), x[:, None] - loc)
    log_det = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
    joint = log_weights.numpy() - log_det - 0.5 * x.shape[1] * np.log(2 * np.pi) - 0.5 * np.square(white).sum(2)
    log_prob = np.logaddexp.reduce(joint, 1)
    share = np.exp(joint - log_prob[:, None]) * weight[:, None]
    away = x - origin
    sums = share.sum(0), share.T @ away, np.einsum("nk,ni,nj->kij", share, away, away)
    return weight @ log_prob / weight.sum(), *sums


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("features", [1, 2, 7, 11, 12, 25, 50, 101])
@pytest.mark.parametrize("number", [1, 3])
def test_triangles_in_parts_give_the_sums_of_whole_matrices(features, number, monkeypatch):
    rng = np.random.default_rng(features)
    x, weight = 3 + rng.normal(size=(150, features)), rng.uniform(0.5, 2, size=150)
    components = pyrovae.GaussianMixture((features,), number).double().components.requires_grad_(False)
    components.loc.copy_(torch.from_numpy(3 + 0.3 * rng.normal(size=(number, features))))
    components.lower.copy_(torch.from_numpy(rng.normal(size=(number, features, features)) / (2 * features)))
    components.log_diagonal.copy_(torch.from_numpy(0.2 * rng.normal(size=(number, features))))
    log_weights = torch.from_numpy(rng.normal(size=number)).log_softmax(0)

    def ours():
        frame = Frame(Blocks(torch.from_numpy(x), torch.from_numpy(weight)))
        sums, value = sufficient.expected_sums(components, log_weights, frame)
        assert torch.equal(sums.loc, frame.origin.expand(number, -1))
        return value, *(each.numpy() for each in sums.tensors)

    origin = Frame(Blocks(torch.from_numpy(x), torch.from_numpy(weight))).origin.numpy()
    exact = plain_sums(components, log_weights, origin, x, weight)

    def agree(found):
        return [np.allclose(a, b, rtol=1e-12, atol=1e-11) for a, b in zip(found, exact, strict=True)]

    assert all(agree(ours()))
    parts = block_sums.parts_of_triangle(features)
    assert len(parts) == max(1, min(8, features // 12)) and parts[0][0] == 0 and parts[-1][1] == features
    # control: a part that begins one column too late, or ends one too early, is seen in log p(x) and in the moments
    for number_of_part in {0, len(parts) - 1}:
        for shift in ((1, 0), (0, -1)):
            begin, end = parts[number_of_part]
            cut = [*parts]
            cut[number_of_part] = begin + shift[0], end + shift[1]
            if end - begin > 1:
                for module in (block_sums, responsibilities):
                    monkeypatch.setattr(module, "parts_of_triangle", lambda _, cut=cut: cut)
                found = agree(ours())
                assert not found[0] and not found[-1]
                monkeypatch.undo()


class TestRemainder:
    def sums(self, away, monkeypatch):
        """The sums beside those of the plain formula, with which components had no products of their own.

        The last component, of the largest weight, lies so many standard deviations away from all items in a column.
        """
        x = problem(spread=0.2)
        parts = mixture_near(x, "full").components
        parts.loc[2] = 0.0
        parts.loc[2, 0] += away
        log_weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
        rests, plain = [], sufficient.Moments
        monkeypatch.setattr(sufficient, "Moments", lambda *a: (rests.append(a[-1]), plain(*a))[1])
        frame = Frame(Blocks(torch.from_numpy(x)))
        sums, _ = sufficient.expected_sums(parts, log_weights, frame)
        _, *exact = plain_sums(parts, log_weights, frame.origin.numpy(), x, np.ones(N))
        return [each.numpy() for each in sums.tensors], exact, rests

    @pytest.mark.parametrize("sparse", [0.0, 1.0])  # products with all items of a block, and with those that count
    def test_the_sums_of_the_largest_component_are_what_the_others_leave(self, sparse, monkeypatch):
        monkeypatch.setattr(block_sums, "SPARSE", sparse)
        found, exact, rests = self.sums(0.0, monkeypatch)
        assert rests == [2] and exact[0].min() > 10
        for ours, plain in zip(found, exact, strict=True):
            assert np.allclose(ours, plain, rtol=1e-12, atol=1e-11)

    def test_a_component_that_the_others_leave_too_little_is_summed(self, monkeypatch):
        found, exact, rests = self.sums(15.0, monkeypatch)
        assert rests == [2, None] and 0 < exact[0][2] < 1e-6
        for ours, plain in zip(found, exact, strict=True):
            assert np.allclose(ours[2], plain[2], rtol=1e-9, atol=0)
        # control: the difference has no digits of it
        monkeypatch.undo()
        monkeypatch.setattr(sufficient, "has_lost_digits", lambda *_: False)
        found, exact, rests = self.sums(15.0, monkeypatch)
        assert rests == [2] and not np.allclose(found[2][2], exact[2][2], rtol=1e-4, atol=0)

    def test_one_that_will_be_small_is_summed_at_once(self, monkeypatch):
        x = torch.from_numpy(problem(spread=0.2))
        parts = mixture_near(x.numpy(), "full").components
        log_weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
        frame = Frame(Blocks(x))
        assert remainder_of(parts, log_weights, frame.squares, N) == 2
        assert torch.allclose(frame.squares, (x - x.mean(0)).square().sum(0))
        parts.log_diagonal[2, 3] = parts.log_diagonal[2, 3] - 6
        parts.lower[2, 3] = 0.0
        assert remainder_of(parts, log_weights, frame.squares, N) is None

    def test_a_component_keeps_the_digits_of_what_one_column_adds_to_another(self, monkeypatch):
        # in the larger component columns differ by 1e-4 of their spread, and the other is 30 times as wide
        rng = np.random.default_rng(0)
        is_narrow = rng.random(4000) < 0.6
        x = np.where(is_narrow[:, None], 1.0, 30.0) * rng.normal(size=(4000, 4))
        x[is_narrow, 1] = x[is_narrow, 0] + 1e-4 * rng.normal(size=is_narrow.sum())
        narrow = np.eye(4)
        narrow[:2, :2] = [[1.0, 1.0], [1.0, 1 + 1e-8]]
        mixture = pyrovae.GaussianMixture.from_parameters([0.4, 0.6], np.zeros((2, 4)), [900 * np.eye(4), narrow])
        mixture.requires_grad_(False)
        log_weights = mixture.logits.double().log_softmax(-1)
        share = mixture.responsibilities(torch.from_numpy(x)).numpy()[:, 1]
        apart = x[:, 1] - x[:, 0]
        exact = share @ np.square(apart - share @ apart / share.sum()) / share.sum()
        rests, plain = [], sufficient.Moments
        monkeypatch.setattr(sufficient, "Moments", lambda *a: (rests.append(a[-1]), plain(*a))[1])

        def error():
            sums, _ = sufficient.expected_sums(mixture.components, log_weights, Frame(Blocks(torch.from_numpy(x))))
            loc = sums.first[1] / sums.total[1]
            covariance = sums.second[1] / sums.total[1] - loc[:, None] * loc
            return abs(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / exact - 1)

        assert error() < 5e-6 and rests == [None]
        # control: where only the columns' own variances count, the others leave too few digits
        monkeypatch.setattr(remainder, "_least", lambda factor: factor.square().sum(1))
        assert error() > 5e-5 and rests == [None, 1]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coordinates_that_are_kept_give_the_bits_of_the_rows(covariance, dtype):
    x = torch.from_numpy(problem(spread=0.2)).to(dtype)
    mixture = mixture_near(x.double().numpy(), covariance)
    log_weights = mixture.logits.double().log_softmax(-1)
    kept, read = Frame(Blocks(x), keeps=True), Frame(Blocks(x))

    def sums(frame):
        found, value = sufficient.expected_sums(mixture.components, log_weights, frame, single=dtype != torch.float64)
        return [*found.tensors, torch.tensor(value)]

    first = [sums(kept), sums(kept), sums(read)]
    for others in first[1:]:
        assert all(map(torch.equal, first[0], others))
    x[:, 0] += 1  # control: the second pass was one over what is kept
    assert all(map(torch.equal, first[0], sums(kept)))
    assert not all(map(torch.equal, first[0], sums(read)))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_components_far_apart_keep_their_digits(covariance, monkeypatch):
    # clusters of a spread of 1e-3, 1e4 from one another: squares about their mean would lose 14 digits
    x = problem(spread=1e7) * 1e-3
    mixture = mixture_near(x, covariance)
    # the clusters' own locations, slightly off, and of their scale
    order = torch.from_numpy(x).sum(1).argsort()
    mixture.components.loc.copy_(torch.from_numpy(x)[order[[5, 200, 395]]] + 1e-4)
    mixture.components.log_diagonal.fill_(float(np.log(2e-3)))
    if mixture.components.lower is not None:
        mixture.components.lower.mul_(1e-3)
    mixture.components.column_scale.fill_(1e-3)
    expected = by_table(mixture, x, np.ones(N))
    start = {name: value.clone() for name, value in mixture.state_dict().items()}
    value, weights, loc, spread = step(mixture, x)
    assert value == pytest.approx(expected[0], rel=1e-9)
    assert np.allclose(weights, expected[1], atol=1e-10) and np.allclose(loc, expected[2], rtol=1e-10)
    assert np.allclose(spread, expected[3], rtol=1e-5, atol=1e-9 * np.abs(expected[3]).max())
    # control: without the guard they do lose them
    mixture.load_state_dict(start)
    monkeypatch.setattr(sufficient, "FAR", np.inf)
    monkeypatch.setattr(sufficient, "NEAR", np.inf)
    with pytest.raises((AssertionError, torch.linalg.LinAlgError)):
        worse = step(mixture, x)
        assert worse[0] == pytest.approx(expected[0], rel=1e-6)
        assert np.allclose(worse[3], expected[3], rtol=1e-3, atol=1e-6 * np.abs(expected[3]).max())


def test_a_step_that_moves_far_is_taken_about_the_new_means():
    # all components begin wide, at the mean of clusters 1e6 apart: the sums about it are summed again
    x = problem() + 1e6 * (np.arange(N) % 2)[:, None]
    share = torch.from_numpy(np.eye(K)[np.arange(N) % 2])
    for covariance in COVARIANCES:
        mixture = mixture_near(x, covariance)
        mixture.maximize(torch.from_numpy(x), share)
        groups = [x[np.arange(N) % 2 == k] for k in range(2)]
        within = [np.cov(group.T, bias=True) for group in groups]
        ours = mixture.covariances.numpy()
        if covariance == "full":
            assert np.allclose(ours[:2], within, atol=1e-8)
        elif covariance == "tied":
            assert np.allclose(ours, np.mean(within, 0), atol=1e-8)
        else:
            squares = np.diagonal(within, axis1=1, axis2=2)
            assert np.allclose(ours[:2], squares if covariance == "diagonal" else squares.mean(1), atol=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_an_iteration_that_moves_far_is_taken_about_the_new_means(covariance, monkeypatch):
    # wide components near the mean tell clusters 2e6 apart, whose own spread is 1
    x = problem() + 1e6 * np.where(np.arange(N) % 2, 1, -1)[:, None]

    def wide():
        mixture = mixture_near(x, covariance)
        mixture.components.loc.copy_(torch.tensor([1e5, -1e5, 1e5])[:, None].expand(K, D))
        mixture.components.log_diagonal.fill_(float(np.log(1e11) / 2))
        if mixture.components.lower is not None:
            mixture.components.lower.zero_()
        return mixture

    expected = by_table(wide(), x, np.ones(N))
    assert np.allclose(step(wide(), x)[3], expected[3], rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(sufficient, "_centres_of_lost", lambda *_: {})  # control
    with pytest.raises((AssertionError, torch.linalg.LinAlgError)):
        assert np.allclose(step(wide(), x)[3], expected[3], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_few_responsibilities_give_the_sums_of_all(monkeypatch):
    x = problem(spread=4.0)
    # an item between two components, of which the second has a share of about 1e-4
    low, high = 0.0, 1.0
    for _ in range(60):
        x[-1] = (1 - (low + high) / 2) * x[0] + (low + high) / 2 * x[1]
        share = float(mixture_near(x, "full").responsibilities(x[-1:])[0, 1])
        low, high = (low, (low + high) / 2) if share > 1e-4 else ((low + high) / 2, high)
    assert 1e-5 < share < 1e-3
    results, calls, counts = [], [], []
    few = block_sums.Moments._add_few
    monkeypatch.setattr(block_sums.Moments, "_add_few", lambda *a: (calls.append(1), few(*a)))
    for most in (block_sums.SPARSE, -1.0):
        monkeypatch.setattr(block_sums, "SPARSE", most)
        results.append(step(mixture_near(x, "full"), x))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0  # blocks of the first run, and none of the second
    for few_summed, all_summed in zip(*results, strict=True):
        assert np.allclose(few_summed, all_summed, rtol=1e-12, atol=1e-12)


class TestSingle:
    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_products_in_float32_have_its_digits(self, covariance):
        x = problem(spread=0.2).astype(np.float32)
        expected = by_table(mixture_near(x, covariance), x.astype(float), np.ones(N))
        ours = step(mixture_near(x, covariance), x, dtype=torch.float32, single=True)
        assert ours[0] == pytest.approx(expected[0], rel=1e-6)
        for found, exact in zip(ours[1:], expected[1:], strict=True):
            assert np.allclose(found, exact, rtol=1e-4, atol=1e-4)
        assert not np.allclose(ours[3], expected[3], rtol=1e-12, atol=1e-12)  # control: they were in float32

    @torch.no_grad()
    @pytest.mark.parametrize("has_one_dnn", [True, False])
    def test_moments_have_their_digits_by_either_library(self, has_one_dnn, monkeypatch):
        # second moments of a block of n items: sums of n products, of which an error is of n^1/2 roundings at most
        if has_one_dnn and products._linear() is None:
            pytest.skip("torch has no oneDNN here")
        calls, plain = [], products._by_one_dnn
        monkeypatch.setattr(products, "_by_one_dnn", lambda *a: (calls.append(1), plain(*a))[1])
        if not has_one_dnn:
            monkeypatch.setattr(products, "_linear", lambda: None)
        x = problem(spread=0.2).astype(np.float32)
        parts = mixture_near(x.astype(float), "full").components
        log_weights = torch.zeros(K, dtype=torch.float64).log_softmax(0)
        frame = Frame(Blocks(torch.from_numpy(x)), keeps=True)
        for _ in range(2):  # the first time the only block is part of a larger buffer, and its rows are apart
            sums, _ = sufficient.expected_sums(parts, log_weights, frame, single=True)
        assert len(calls) == 4 * has_one_dnn  # two parts of a triangle, in the E-step and in the moments
        _, *exact = plain_sums(parts, log_weights, frame.origin.numpy(), x.astype(float), np.ones(N))
        for found, right in zip(sums.tensors, exact, strict=True):
            assert np.abs(found.numpy() - right).max() < 20 * 6e-8 * np.abs(right).max()
            assert np.abs(found.numpy() - right).max() > 1e-12 * np.abs(right).max()  # control: they are in float32

    @torch.no_grad()
    def test_only_products_that_suit_it_are_by_one_dnn(self, monkeypatch):
        calls, plain = [], products._by_one_dnn
        monkeypatch.setattr(products, "_by_one_dnn", lambda *a: (calls.append(1), plain(*a))[1])
        left, right = torch.randn(7, 30), torch.randn(5, 30)
        apart = torch.randn(5, 60)[:, :30]
        cases = [
            (left, right, {"recurs": True}, products._linear() is not None),
            (left, right, {}, False),
            (left, apart, {"recurs": True}, False),
            (left.double(), right.double(), {"recurs": True}, False),
        ]
        for a, b, options, by_one_dnn in cases:
            total = torch.ones(7, 5, dtype=torch.float64)
            calls.clear()
            products.add_product(total, a, b, **options)
            assert len(calls) == by_one_dnn
            exact = a.double() @ b.double().mT
            assert torch.allclose(total, 1 + exact, rtol=0, atol=1e-5)
        for a, b in ((left, right.mT.contiguous()), (left, right.mT), (left.double(), right.double().mT.contiguous())):
            calls.clear()
            product = products.product_into(a.new_empty(7, 5), a, b)
            assert len(calls) == (b.is_contiguous() and b.dtype == torch.float32 and products._linear() is not None)
            assert torch.allclose(product.double(), left.double() @ right.double().mT, rtol=0, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of torch's, on its way out of `flags`
    def test_where_one_dnn_is_off_has_no_derivative_or_is_another_it_is_not_asked(self, monkeypatch):
        calls, plain = [], products._by_one_dnn
        monkeypatch.setattr(products, "_by_one_dnn", lambda *a: (calls.append(1), plain(*a))[1])
        left, right = torch.randn(7, 30), torch.randn(30, 5)

        def product():
            calls.clear()
            assert torch.allclose(products.product_into(torch.empty(7, 5), left, right), left @ right, atol=1e-5)
            return len(calls)

        is_there = products._linear() is not None
        with torch.no_grad():
            assert product() == is_there
            with torch.backends.mkldnn.flags(enabled=False):
                assert product() == 0
            compiled = torch.compile(products.product_into, backend="eager", fullgraph=True)
            calls.clear()
            assert torch.allclose(compiled(torch.empty(7, 5), left, right), left @ right, atol=1e-5) and not calls
        assert product() == 0  # a derivative could be asked for
        with pytest.raises(RuntimeError, match="automatic differentiation"):
            products.product_into(torch.empty(7, 5), left.clone().requires_grad_(), right)

        def fails(*_):
            raise TypeError("other arguments")

        for other in (fails, lambda left, right, *_: 2 * left @ right.mT, None):
            monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_linear_pointwise=other))
            products._linear.cache_clear()
            try:
                with torch.no_grad():
                    assert product() == 0
            finally:
                monkeypatch.undo()
                products._linear.cache_clear()
                monkeypatch.setattr(products, "_by_one_dnn", lambda *a: (calls.append(1), plain(*a))[1])
        assert (products._linear() is not None) == is_there

    @pytest.mark.parametrize("setting", ["older", "newer", "autocast"])
    def test_where_torch_rounds_what_goes_into_products_they_are_in_float64(self, setting, kinds, monkeypatch):
        x = problem(spread=0.4).astype(np.float32)
        monkeypatch.setattr(fitting, "MANY", 0)

        def fitted():
            kinds.clear()
            mixture = pyrovae.GaussianMixture((D,), K)
            pyrovae.fit(mixture, x, num_restarts=1, max_iterations=3, tol=0.0, progress=False)
            return any(kinds)

        before = torch.backends.mkldnn.matmul.fp32_precision, torch.get_float32_matmul_precision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # EM has not converged
            assert fitted()
            try:
                if setting == "older":
                    torch.set_float32_matmul_precision("medium")
                if setting == "newer":
                    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
                with torch.autocast("cpu", torch.bfloat16, enabled=setting == "autocast"):
                    assert not fitted()
            finally:
                torch.set_float32_matmul_precision(before[1])
                torch.backends.mkldnn.matmul.fp32_precision = before[0]
            assert fitted()

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_a_fit_ends_with_the_digits_of_float64(self, covariance, kinds, monkeypatch):
        x = problem(spread=0.4).astype(np.float32)
        options = {"num_restarts": 1, "tol": 1e-9, "max_iterations": 2000, "progress": False}
        exact = pyrovae.GaussianMixture((D,), K, covariance=covariance).double()
        pyrovae.fit(exact, x, **options)
        kinds.clear()
        monkeypatch.setattr(fitting, "MANY", 0)
        ours = pyrovae.GaussianMixture((D,), K, covariance=covariance)
        history = pyrovae.fit(ours, x, **options)
        assert any(kinds) and not kinds[-1]
        assert kinds == sorted(kinds, reverse=True)  # float32 first, then float64
        reference = float(exact.log_prob(x.astype(float)).mean())
        assert history.config["log_likelihoods"][0] == pytest.approx(reference, abs=1e-7)
        assert np.allclose(ours.loc.detach(), exact.loc.detach(), atol=1e-3)
        losses = history.epochs.loss.values
        assert np.diff(losses).max() < 1e-6 * abs(losses[0])

    def test_where_float32_would_lose_digits_it_is_not_taken(self):
        x = torch.from_numpy(problem()).float()
        near = mixture_near(x.double().numpy(), "diagonal")
        assert sufficient.are_single_enough(near.components, Frame(Blocks(x)))
        near.components.log_diagonal[0, 0] = -5.0  # 100 standard deviations from the origin
        assert not sufficient.are_single_enough(near.components, Frame(Blocks(x)))
        # whose squares float32 does not have
        for scale, is_enough in ((1e-20, False), (1e-12, True), (1e12, True), (1e20, False)):
            scaled = mixture_near(scale * x.double().numpy(), "diagonal")
            scaled.components.log_diagonal.add_(float(np.log(scale)))
            scaled.components.column_scale.mul_(scale)
            assert sufficient.are_single_enough(scaled.components, Frame(Blocks(scale * x))) == is_enough
        dense = mixture_near(x.double().numpy(), "full")
        assert sufficient.are_single_enough(dense.components, Frame(Blocks(x)))
        dense.components.lower[0, 1, 0] = 30.0  # one column tells the other
        assert not sufficient.are_single_enough(dense.components, Frame(Blocks(x)))


# memory maps ------------------------------------------------------------------------------------------


@pytest.fixture
def watched_map(tmp_path, monkeypatch):
    """A function that writes an array to a file and maps it, and the largest number of rows read at once."""
    read = [0]
    for name in ("exactly", "__getitem__"):
        plain = getattr(MappedArray, name)

        def noting(self, index, plain=plain):
            rows = plain(self, index)
            read[0] = max(read[0], rows.shape[0] if rows.ndim > 1 else 1)
            return rows

        monkeypatch.setattr(MappedArray, name, noting)
    monkeypatch.setattr(items, "ROWS", 64)
    monkeypatch.setattr("pyrovae.models.blocks.TOGETHER", 64 * D)
    monkeypatch.setattr("pyrovae.models.frame.BYTES", 0)
    monkeypatch.setattr(clusters, "SAMPLE", 200)

    def write(x, name="x.npy"):
        np.save(tmp_path / name, x)
        return np.load(tmp_path / name, mmap_mode="r")

    return write, read


OPTIONS = {"num_restarts": 2, "max_iterations": 20, "tol": 0.0, "progress": False}


@pytest.mark.filterwarnings("ignore:EM has not converged")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("kind", ["whole", "weighted", "missing"])
def test_a_memory_map_gives_the_fit_of_the_array_and_is_never_read_whole(covariance, kind, watched_map):
    write, read = watched_map
    x = problem(spread=0.5)
    beside = {}
    if kind == "weighted":
        beside["weight"] = np.arange(N) % 3
    if kind == "missing":
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
        beside["missing"] = True
    ends = []
    for given in (x, write(x)):
        mixture = pyrovae.GaussianMixture((D,), K, covariance=covariance).double()
        history = pyrovae.fit(mixture, given, validation=Split(given, **beside), **beside, **OPTIONS)
        ends.append((mixture.state_dict(), history))
    (array, one), (mapped, other) = ends
    for name, value in array.items():
        assert torch.allclose(value, mapped[name], rtol=1e-8, atol=1e-8), name
    assert np.allclose(one.epochs.loss, other.epochs.loss, atol=1e-11)
    assert np.allclose(one.epochs.validation_elbo, other.epochs.validation_elbo, atol=1e-11)
    assert {**one.config, "seconds": 0}.keys() == {**other.config, "seconds": 0}.keys()
    assert read[0] <= 200  # the sample that starts are from


def test_a_permuted_part_of_a_file_is_read_in_its_order(watched_map, tmp_path):
    write, _ = watched_map
    x = problem()
    write(x)
    split = pyrovae.data.load(tmp_path / "x.npy").train  # 80 % of the rows, in another order
    weight = np.linspace(0.5, 2, len(split.x))
    view, place = split.x.ascending()
    assert torch.equal(view[:], split.x[:][place]) and not torch.equal(view[:], split.x[:])
    ends = []
    for given in (split.x, split.x[:].double()):
        mixture = pyrovae.GaussianMixture((D,), 1).double()
        pyrovae.fit(mixture, given, weight=weight, progress=False)
        ends.append(mixture)
    assert torch.allclose(ends[0].loc, ends[1].loc, rtol=1e-6, atol=1e-6)  # the file is read in float64
    mean = (weight @ split.x[:].double().numpy()) / weight.sum()
    assert np.allclose(ends[1].loc[0].detach(), mean, atol=1e-10)


def test_what_an_array_is_refused_for_a_memory_map_is_refused_for(watched_map):
    write, _ = watched_map

    def said(x, **options):
        mixture = pyrovae.GaussianMixture((D,), K)
        with pytest.raises((ValueError, TypeError)) as error:
            pyrovae.fit(mixture, x, **{**OPTIONS, **options})
        return str(error.value)

    holed, endless = problem(), problem()
    holed[300, 4], endless[301, 5] = np.nan, np.inf
    seconds = problem() + 1.7e9
    unseen = problem()
    unseen[:, 7] = np.nan
    apart = problem() + 1e6 * (np.arange(N) % K)[:, None]  # float32 holds the columns, and no cluster
    for x, options in (
        (holed, {}),
        (endless, {}),
        (seconds, {}),
        (unseen, {"missing": True}),
        (problem()[:2], {}),
        (problem()[:, :3], {}),
        (apart, {}),
    ):
        assert said(write(x), **options) == said(x, **options)
    view = MappedArray(write(holed)).select(np.random.default_rng(0).permutation(N))
    index = int(np.flatnonzero(view._rows == 300)[0])
    assert f"x[{index}, 4]" in said(view)  # by the number that it came with


def test_starts_of_many_items_are_clusters_of_a_sample(monkeypatch):
    # three clusters far apart: a sample tells them, and each of the other items is in the nearest
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=3000)
    x = 20 * label[:, None] + rng.normal(size=(3000, 2))
    monkeypatch.setattr(clusters, "SAMPLE", 60)
    mixture = pyrovae.GaussianMixture((2,), 3).double()
    of_fit = items.EMItems.of(mixture, x, torch.device("cpu"))
    shares = clusters.start_of(mixture, of_fit, 0)
    table = torch.cat([shares(place, rows) for place, rows in of_fit.frame.blocks.each(512)], 1)
    assert table.shape == (3, 3000) and bool((table.sum(0) == 1).all())
    assert len(np.unique(np.stack([table.argmax(0).numpy(), label]), axis=1).T) == 3


def test_clusters_leave_the_items_as_they_were():
    # k-means uses the memory of what it is given
    x = torch.from_numpy(problem())
    before = x.clone()
    clusters.clusters(pyrovae.GaussianMixture((D,), K).double(), x, 0)
    assert torch.equal(x, before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it tells the peak of a process's memory")
def test_memory_does_not_grow_with_the_file(tmp_path):
    # in a process of its own: 160 MB of float32 pass through less than 100 MB beside what torch takes
    script = """
    import json, sys, warnings
    import numpy as np, torch, pyrovae
    warnings.simplefilter("ignore")
    def peak():
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    def fit(x): pyrovae.fit(pyrovae.GaussianMixture((20,), 4), x, num_restarts=1, max_iterations=2, progress=False)
    fit(torch.randn(150_000, 20))
    before = peak()
    fit(np.load(sys.argv[1], mmap_mode="r") if sys.argv[2] == "map" else np.load(sys.argv[1]))
    print(json.dumps(peak() - before))
    """
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(2_000_000, 20))
    rng = np.random.default_rng(0)
    for start in range(0, len(x), 100_000):
        x[start : start + 100_000] = rng.normal(size=(100_000, 20))
    x.flush()

    def grown(how):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x.npy"), how],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    assert grown("map") < 100
    assert grown("array") > 150  # control: an array of these items takes their memory


# batches ----------------------------------------------------------------------------------------------


class TestBatches:
    @pytest.mark.parametrize("covariance", COVARIANCES)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_they_end_where_plain_em_does(self, covariance, weighted):
        # from the end of the batches, EM without them gains nothing: a fixed point; and both come to the same one
        x, beside = problem(spread=1.5)[:, :4], {}  # clusters that overlap, of one maximum near the start
        if weighted:
            beside["weight"] = np.arange(N) % 3
        ends, histories = [], []
        for batch_size in (None, 70):
            mixture = pyrovae.GaussianMixture((4,), K, covariance=covariance).double()
            options = {"num_restarts": 1, "tol": 1e-11, "max_iterations": 5000, "progress": False, **beside}
            histories.append(pyrovae.fit(mixture, x, method="em", batch_size=batch_size, **options))
            ends.append(mixture)
        assert histories[1].config["converged"] and histories[1].config["batch_size"] == 70
        assert histories[1].epochs.loss[-1] == pytest.approx(float(histories[0].epochs.loss[-1]), abs=1e-8)
        again = pyrovae.fit(ends[1], x, num_restarts=0, max_iterations=1, tol=0, progress=False, **beside)
        assert abs(float(again.epochs.loss[-1] - histories[1].epochs.loss[-1])) < 1e-10
        assert np.allclose(ends[0].loc.detach(), ends[1].loc.detach(), atol=1e-3)
        assert len(histories[0].epochs.epoch) > 10  # control: the start was no fixed point

    def test_each_step_raises_the_free_energy(self, monkeypatch):
        # F = sum_n E_q log p(x, k) + H(q), with each batch's responsibilities as they were last taken
        x = torch.from_numpy(problem(spread=0.7))
        mixture = mixture_near(x.numpy(), "full")
        of_fit = items.EMItems.of(mixture, x, torch.device("cpu"))
        steps = batches.Batches(mixture, of_fit, 70, 0.0)
        total, _ = steps.e_step()
        bounds = [frame.blocks._share for frame in steps.frames]
        assert [each.stop - each.start for each in bounds] == [66, 67, 67, 66, 67, 67]
        share, energies, taken = mixture.responsibilities(x), [], []
        plain = pyrovae.GaussianMixture.take

        def watched(self, sums):
            if taken:  # the batch before this step
                place = bounds[len(taken) - 1]
                share[place] = self.responsibilities(x[place])
            held = plain(self, sums)
            taken.append(1)
            energies.append(float((share * (self.log_joint_table(x) - share.log().clamp(min=-1e3))).sum()))
            return held

        start = float((share * (mixture.log_joint_table(x) - share.log().clamp(min=-1e3))).sum())
        monkeypatch.setattr(pyrovae.GaussianMixture, "take", watched)
        steps.m_step(total)
        assert len(energies) == 7
        assert np.diff([start, *energies]).min() > -1e-9 and energies[-1] > energies[0] + 1e-3
        # and the sums kept are those of the responsibilities: the step is the maximum given all of them
        monkeypatch.undo()
        other = mixture_near(x.numpy(), "full")
        other.maximize(x, share)
        assert torch.allclose(other.covariances, mixture.covariances, atol=1e-10)

    def test_where_digits_would_be_lost_plain_em_follows(self):
        x = problem() + 1e6 * (np.arange(N) % K)[:, None]
        ends = []
        for batch_size in (None, 70):
            mixture = pyrovae.GaussianMixture((D,), K, covariance="diagonal").double()
            pyrovae.fit(mixture, x, method="em", batch_size=batch_size, num_restarts=1, progress=False)
            ends.append(mixture)
        for a, b in zip(*(each.parameters() for each in ends), strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-8)

    def test_what_is_refused(self):
        x = problem()
        with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
            pyrovae.methods.EM(batch_size=0)
        x[0, 0] = np.nan
        with pytest.raises(ValueError, match="batch_size is for whole items, and x has missing entries"):
            pyrovae.fit(pyrovae.GaussianMixture((D,), 2), x, missing=True, method=pyrovae.methods.EM(batch_size=9))
        table = pyrovae.ColumnMixture([pyrovae.Column("a", "real")], 2)
        with pytest.raises(ValueError, match="batch_size is for a GaussianMixture"):
            pyrovae.fit(table, x[:, :1], missing=True, method=pyrovae.methods.EM(batch_size=9))


# processes --------------------------------------------------------------------------------------------

SHARED = """
from pyrovae.data import Split
found["fits"] = []
def noted(mixture, history):
    log_prob = mixture.log_prob(torch.from_numpy(x)).tolist()
    found["fits"].append([history.epochs.loss.values.tolist(), weights(mixture).tolist(), log_prob])
rng = np.random.default_rng(0)
x = rng.normal(size=(301, 4)) + rng.integers(3, size=(301, 1))
holed = np.where(rng.random(x.shape) < 0.1, np.nan, x)
weight = np.arange(301) % 3
for covariance in ("full", "tied", "diagonal", "spherical"):
    for given in (Split(x), Split(x, weight=weight), Split(holed, missing=True)):
        mixture = pyrovae.GaussianMixture((4,), 3, covariance=covariance).double()
        history = pyrovae.fit(mixture, given, validation=given, num_restarts=2, max_iterations=9, tol=0, progress=False)
        noted(mixture, history)
mixture = pyrovae.GaussianMixture((4,), 3).double()
options = {"num_restarts": 1, "max_iterations": 5, "tol": 0, "progress": False}
history = pyrovae.fit(mixture, x, method="em", batch_size=50, **options)
noted(mixture, history)
sums = []
plain = type(ranks).sum_
type(ranks).sum_ = lambda self, x: (sums.append(x.numel()), plain(self, x))[1]
history = pyrovae.fit(mixture, x, num_restarts=0, max_iterations=7, tol=0, progress=False)
found["sums"] = len(sums), len(history.epochs.epoch)
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    one, two = run(SHARED, 1, tmp_path), run(SHARED, 2, tmp_path)
    for alone, shared in zip(one["fits"], two["fits"], strict=True):
        for ours, exact in zip(shared, alone, strict=True):  # losses, parameters and log p of each item
            assert np.allclose(ours, exact, rtol=0, atol=1e-12)
    assert one["sums"][0] == 0
    count, iterations = two["sums"]
    assert count <= iterations + 10  # one flat sum an iteration, and those of the beginning and the end
    wrong = run("type(ranks).sum_ = lambda r, x: x\n" + SHARED.partition("sums = []")[0], 2, tmp_path, "wrong")
    assert not np.allclose(wrong["fits"][0][0], one["fits"][0][0], atol=1e-3)  # control: shares that are not summed


INTERRUPTED = """
import signal
from pyrovae.inference.em.climb import Climb
x = np.random.default_rng(0).normal(size=(301, 4))
plain = Climb.go_on
def watched(climb, *args):
    m_step, steps = climb.m_step, []
    def step(sums):
        steps.append(1)
        if len(steps) == 3 and ranks.rank == ranks.size - 1: os.kill(os.getpid(), signal.SIGINT)
        return m_step(sums)
    climb.m_step = step
    plain(climb, *args)
Climb.go_on = watched
mixture = pyrovae.GaussianMixture((4,), 3).double()
try:
    pyrovae.fit(mixture, x, num_restarts=1, tol=0, progress=False)
except KeyboardInterrupt as error:
    epochs = len(error.history.epochs.epoch)
everyone = ranks.gathered((epochs, weights(mixture).tolist()))
found["epochs"], found["alike"] = [each[0] for each in everyone], everyone[0] == everyone[-1]
"""


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_after_the_same_iteration(tmp_path):
    assert run(INTERRUPTED, 2, tmp_path) == {"epochs": [3, 3], "alike": True}
