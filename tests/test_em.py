"""EM for mixtures: step by step as scikit-learn's, never downhill, and what it says of data that it cannot take."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer
from test_mixture import PEERS, parameters
from torch.distributions import Normal
from torch.nn.functional import one_hot
from tqdm import tqdm

import pyrovae
from pyrovae.inference import em
from pyrovae.inference.em.clusters import clusters
from pyrovae.inference.em.fitting import climb_of
from pyrovae.inference.em.items import EMItems
from pyrovae.models.components import COVARIANCES
from pyrovae.seeding import stream


def problem(seed, *, features=3, clusters=4, items=300):
    """Items of correlated clusters of unlike size and shape, half of them held out."""
    rng = np.random.default_rng(seed)
    loc = 3 * rng.normal(size=(clusters, features))
    root = rng.normal(size=(clusters, features, features)) / 1.5
    label = rng.choice(clusters, size=2 * items, p=rng.dirichlet(3 * np.ones(clusters)))
    x = loc[label] + np.einsum("nij,nj->ni", root[label], rng.normal(size=(2 * items, features)))
    return x[:items], x[items:]


def fitted(x, num_components=4, *, covariance="full", floor=1e-6, **options):
    torch.manual_seed(0)
    mixture = pyrovae.GaussianMixture(x.shape[1:], num_components, covariance=covariance, floor=floor).double()
    return mixture, pyrovae.fit(mixture, x, progress=False, **options)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_iteration_is_scikit_learns(covariance):
    x, _ = problem(0)
    torch.manual_seed(3)
    ours = pyrovae.GaussianMixture((3,), 4, covariance=covariance).double()
    precision = {
        "full": np.stack([np.eye(3)] * 4),
        "tied": np.eye(3),
        "diagonal": np.ones((4, 3)),
        "spherical": np.ones(4),
    }
    theirs = Peer(
        4,
        covariance_type=PEERS[covariance],
        weights_init=np.full(4, 0.25),
        means_init=ours.loc.detach().numpy().copy(),
        precisions_init=precision[covariance],
        max_iter=1,
        reg_covar=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x)
    with pytest.warns(UserWarning, match="EM has not converged"):
        pyrovae.fit(ours, x, max_iterations=1, num_restarts=0, progress=False)
    assert np.allclose(ours.weights.detach(), theirs.weights_, atol=1e-8)
    assert np.allclose(ours.loc.detach(), theirs.means_, atol=1e-8)
    assert np.allclose(ours.covariances.detach(), theirs.covariances_, atol=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_from_the_same_responsibilities_the_moments_are_scikit_learns(covariance):
    # 3e4 away from the origin: sums of squares about it would lose eight digits
    x = problem(1)[0] + 3e4
    share = np.random.default_rng(0).dirichlet(np.ones(4), size=len(x))
    theirs = Peer(4, covariance_type=PEERS[covariance], reg_covar=0)
    theirs._m_step(x, np.log(share))
    ours = pyrovae.GaussianMixture((3,), 4, covariance=covariance).double()
    held = ours.maximize(torch.from_numpy(x), torch.from_numpy(share))
    assert not held.any()
    assert np.allclose(ours.loc.detach(), theirs.means_, rtol=1e-12)
    if covariance == "tied":  # theirs is about the origin, and is off by what that loses
        away = x - theirs.means_[:, None]
        exact = np.einsum("nk,kni,knj->ij", share, away, away) / len(x)
        assert np.allclose(ours.covariances.detach(), exact, atol=1e-6)
    else:
        assert np.allclose(ours.covariances.detach(), theirs.covariances_, atol=1e-8)


def test_a_step_is_a_maximum_of_its_objective():
    # no parameters near those of the M-step give sum w log p more, and the gradient there is 0
    x, _ = problem(2)
    x, share = torch.from_numpy(x), torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), size=300))
    for covariance in COVARIANCES:
        ours = pyrovae.GaussianMixture((3,), 4, covariance=covariance).double()
        ours.maximize(x, share)
        (share * ours.log_joint_table(x)).sum().backward()
        for name, p in ours.named_parameters():
            slope = p.grad.tril(-1) if name.endswith("lower") else p.grad
            assert slope.abs().max() < 1e-9 * 300, (covariance, name)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("floor", [1e-6, 0.5])
def test_no_iteration_goes_downhill(covariance, floor):
    # with a floor of 0.5 it acts: clamped eigenvalues are the maximum under it, and the climb stays a climb
    x, _ = problem(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pyrovae.VarianceFloorWarning)
        mixture, history = fitted(x, 5, covariance=covariance, floor=floor, num_restarts=2)
    assert np.diff(history.epochs.loss.values).max() < 1e-12
    least = torch.linalg.eigvalsh(mixture.components.scale_tril @ mixture.components.scale_tril.mT).min()
    assert least >= floor * (1 - 1e-9)
    if covariance != "spherical":
        assert bool(history.config["floored_components"]) == (floor == 0.5)
    assert history.epochs.loss.values[-1] == pytest.approx(-mixture.log_prob(x).mean().item(), abs=1e-10)


@pytest.mark.slow
def test_held_out_likelihood_beside_scikit_learns():
    # 20 random problems, 10 restarts each: the paired mean at most 1e-2 nats below, and 18 of them at most 0.05
    difference = []
    for seed in range(20):
        x, held_out = problem(seed, features=2 + seed % 3, clusters=2 + seed % 4)
        clusters = 2 + seed % 4
        mixture, _ = fitted(x, clusters, seed=seed)
        theirs = Peer(clusters, n_init=10, random_state=seed).fit(x)
        difference.append(mixture.log_prob(held_out).mean().item() - theirs.score(held_out))
    difference = np.array(difference)
    assert difference.mean() > -1e-2
    assert (difference > -0.05).sum() >= 18


def test_one_component_is_the_normal_of_the_moments():
    x, _ = problem(0)
    mixture, history = fitted(x, 1)
    assert np.allclose(mixture.loc[0].detach(), x.mean(0), atol=1e-12)
    assert np.allclose(mixture.covariances[0].detach(), np.cov(x.T, bias=True), atol=1e-12)
    assert history.config["converged"]
    assert "iteration of EM" in str(history)


def test_a_second_fit_goes_on_from_the_present_parameters_and_is_never_worse():
    x, held_out = problem(4)
    mixture, first = fitted(x, 6, num_restarts=3, tol=1e-3)
    second = pyrovae.fit(mixture, x, num_restarts=2, validation=held_out, seed=9, progress=False)
    assert second.epochs.loss[-1] <= first.epochs.loss[-1] + 1e-12
    assert second.epochs.validation_elbo[-1] == pytest.approx(mixture.log_prob(held_out).mean().item(), abs=1e-10)
    assert second.config["validation_items"] == 300


def test_the_best_start_is_kept_and_the_seed_fixes_the_run():
    x, _ = problem(5)
    runs = [fitted(x, 5, seed=1) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m, _ in runs), strict=True))
    values = runs[0][1].config["log_likelihoods"]
    assert len(values) == 10  # the parameters that it was built with are no start
    assert -runs[0][1].epochs.loss.values[-1] == pytest.approx(max(values), abs=1e-11)
    assert max(values) - min(values) > 1e-3  # control: starts do differ


def climbs_alone(x, num_components, covariance, *tols):
    """The log-likelihoods that four starts reach, each climbed alone to every one of `tols` in turn."""
    x, found = torch.from_numpy(x), []
    for number in range(4):
        mixture = pyrovae.GaussianMixture(x.shape[1:], num_components, covariance=covariance, floor=1e-6).double()
        labels = clusters(mixture, x, stream(0, "k-means++", number))
        with torch.no_grad():
            climb = climb_of(mixture, EMItems.of(mixture, x, torch.device("cpu")), None, tqdm(disable=True))
            mixture.maximize(x, one_hot(labels, num_components))
            each = []
            for tol in tols:
                climb.go_on(tol, 1000)
                each.append(climb.value)
        found.append(each)
    return np.array(found).T


def test_every_start_climbs_to_tol_before_the_best_is_chosen():
    x = problem(4, features=2, clusters=4, items=80)[0]
    coarse, fine = climbs_alone(x, 4, "diagonal", 1e-3, 1e-6)
    _, history = fitted(x, 4, covariance="diagonal", num_restarts=4)
    assert history.config["log_likelihoods"] == pytest.approx(fine.tolist(), abs=1e-12)
    assert -history.epochs.loss.values[-1] == pytest.approx(fine.max(), abs=1e-12)
    # control: the start that leads when iterations still gain 1e-3 nats is not the one that ends best
    assert fine[coarse.argmax()] < fine.max() - 0.01


class TestConverged:
    def test_a_fit_that_begins_at_a_fixed_point(self):
        x, _ = problem(0, features=1, clusters=1, items=50)
        mixture, _ = fitted(x, 1)
        for options in ({}, {"tol": 0.0}):
            again = pyrovae.fit(mixture, x, num_restarts=0, max_iterations=1, progress=False, **options)
            assert again.config["converged"]
            assert again.config["iterations"] == [1]

    def test_starts_that_reach_it_at_the_last_iteration(self):
        x, _ = problem(4, features=2, clusters=2, items=60)
        _, history = fitted(x, 2, covariance="diagonal", num_restarts=1)
        most = history.config["iterations"][0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fitted(x, 2, covariance="diagonal", num_restarts=1, max_iterations=most)[1].config["converged"]
        with pytest.warns(UserWarning, match="EM has not converged"):  # control
            fitted(x, 2, covariance="diagonal", num_restarts=1, max_iterations=most - 1)

    def test_of_starts_that_end_alike_the_first_is_kept(self):
        # their components are in another order, and rounding must not choose
        x, _ = problem(1, features=1, clusters=2, items=60)
        _, history = fitted(x, 2, num_restarts=6)
        values = np.array(history.config["log_likelihoods"])
        assert history.config["start"] == f"restart {np.flatnonzero(values > values.max() - 1e-11)[0]}"


@pytest.mark.parametrize("covariance", PEERS)
@pytest.mark.parametrize("missing", [False, True])
def test_squares_that_are_too_large_for_floats_are_refused(covariance, missing):
    x = 1e200 * np.random.default_rng(0).normal(size=(60, 3))
    if missing:
        x[::7, 1] = np.nan
    mixture = pyrovae.GaussianMixture((3,), 2, covariance=covariance).double()
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    with pytest.raises(FloatingPointError, match="scale x, or raise the floor"):
        pyrovae.fit(mixture, x, missing=missing, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())


class TestUnits:
    """x -> a x + b: log p moves by -sum log a, and no decision moves."""

    @hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
    @hypothesis.given(
        st.sampled_from(["full", "tied", "diagonal"]),
        st.integers(0, 2**16),
        st.lists(st.floats(-6, 6), min_size=3, max_size=3),
        st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
        st.sampled_from([None, "constant", "twice"]),
    )
    def test_columns_have_their_own(self, covariance, seed, power, shift, more):
        x, _ = problem(seed, features=3, clusters=3, items=60)
        a = 10.0 ** np.array(power)
        moved = a * x + a * x.std(0) * np.array(shift)
        if more == "constant":  # it has no scale, and keeps the floor that it has
            x, moved = (np.concatenate([each, np.full((60, 1), 0.1)], 1) for each in (x, moved))
        elif more == "twice":  # a direction at the floor
            x, moved, a = np.concatenate([x, x[:, :1]], 1), np.concatenate([moved, moved[:, :1]], 1), a[[0, 1, 2, 0]]
        self.same(x, moved, np.log(a).sum(), covariance)

    @hypothesis.settings(max_examples=4, deadline=None, derandomize=True)
    @hypothesis.given(st.integers(0, 2**16), st.floats(-6, 6), st.floats(-1e3, 1e3))
    def test_a_spherical_mixture_has_one_and_may_turn(self, seed, power, shift):
        x, _ = problem(seed, features=3, clusters=3, items=60)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        a = 10.0**power
        self.same(x, a * (x @ turn + shift * x.std()), 3 * np.log(a), "spherical")

    def test_columns_of_a_spherical_mixture_may_not_have_their_own(self):  # negative control
        x, _ = problem(0, features=3, clusters=3, items=60)
        with pytest.raises(AssertionError):
            self.same(x, x * [1.0, 10.0, 0.1], 0.0, "spherical")

    @staticmethod
    def same(x, moved, log_volume, covariance):
        found = []
        for draw, each in enumerate((x, moved)):
            torch.manual_seed(draw)  # what the pair was built with is no start
            mixture = pyrovae.GaussianMixture(each.shape[1:], 3, covariance=covariance).double()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pyrovae.VarianceFloorWarning)
                pyrovae.fit(mixture, each, num_restarts=2, tol=1e-4, progress=False)
            with torch.no_grad():
                found.append((mixture.log_prob(each).numpy(), mixture.responsibilities(each).argmax(1).tolist()))
        assert np.abs(found[0][0] - found[1][0] - log_volume).max() < 1e-9
        assert found[0][1] == found[1][1]

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_parameters_that_nobody_has_set_are_no_start(self, covariance):
        x = problem(0, features=2, clusters=2, items=40)[0]
        mixture, history = fitted(x, 2, covariance=covariance, num_restarts=1)
        assert history.config["start"] == "restart 0"
        assert len(history.config["log_likelihoods"]) == 1
        # those of a fit, and those that were assigned, are
        again = pyrovae.fit(mixture, x, num_restarts=1, progress=False)
        assert len(again.config["log_likelihoods"]) == 2
        other = pyrovae.GaussianMixture((2,), 2, covariance=covariance).double()
        assert other.is_fresh
        with torch.no_grad():
            other.components.loc.add_(1.0)
        assert not other.is_fresh

    def test_a_cluster_of_no_items_starts_as_all_of_them(self):
        # two distinct items for three components: k-means leaves one empty, wherever the items lie
        x = np.repeat([[0.0, 1.0], [2.0, 3.0]], 10, axis=0)
        places = []
        for shift in (0.0, 512.0):
            with pytest.warns(pyrovae.VarianceFloorWarning):
                mixture, _ = fitted(x + shift, 3, num_restarts=1)
            places.append(mixture.loc.detach() - shift)
        assert torch.allclose(*places, atol=1e-9)


class TestColumnsOfUnlikeScale:
    """Columns of scale 1e9, 0 and 1: what is done for the one at the floor leaves the others as they are."""

    @staticmethod
    def items(seed=0):
        rng = np.random.default_rng(seed)
        label = np.repeat([0, 1], 60)
        x = np.stack([1e9 * rng.normal(size=120), np.full(120, 2.0), rng.normal(size=120) + 8 * label], 1)
        return x, label

    @pytest.mark.parametrize("covariance", ["full", "tied", "diagonal"])
    @pytest.mark.parametrize("floor", [None, 1e-6])
    def test_one_at_the_floor_leaves_the_others(self, covariance, floor):
        x, label = self.items()
        with pytest.warns(pyrovae.VarianceFloorWarning, match=r"less than the variance floor 1e-06 in x\[:, 1\]"):
            mixture, _ = fitted(x, 2, covariance=covariance, floor=floor, num_restarts=1)
        share = mixture.responsibilities(x)
        assert max((share.argmax(1).numpy() == label).mean(), (share.argmax(1).numpy() != label).mean()) == 1.0
        # the right values: without that column, in columns of like scale
        other, _ = fitted(x[:, [0, 2]] / [1e9, 1.0], 2, covariance=covariance, floor=floor, num_restarts=1)
        expected = other.log_prob(x[:, [0, 2]] / [1e9, 1.0]) - np.log(1e9) - 0.5 * np.log(2 * np.pi * 1e-6)
        assert np.allclose(mixture.log_prob(x).detach(), expected.detach(), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("floor", [None, 1e-6])
    def test_a_column_given_twice_beside_a_large_one(self, floor):
        x = np.random.default_rng(1).normal(size=(50, 3)) @ np.array([[1.0, 0.4, 0.2], [0, 1, 0.3], [0, 0, 1]])
        x = np.concatenate([x, x[:, 2:]], 1)
        densities = []
        for scale in (np.ones(4), np.array([1e8, 1.0, 1.0, 1.0])):
            with pytest.warns(pyrovae.VarianceFloorWarning, match=r"\(most of all in x\[:, [23]\]\)"):
                mixture, _ = fitted(x * scale, 1, floor=floor)
            densities.append((mixture.log_prob(x * scale).detach() + np.log(scale).sum()).numpy())
        assert np.allclose(*densities, rtol=0, atol=1e-8)

    def test_a_component_of_one_item_has_the_floors(self):
        # in each column's own units where none was given, and in the items' where one was
        x, scale = np.random.default_rng(2).normal(size=(40, 3)), np.array([1e9, 1e-6, 1.0])
        share = np.eye(2)[np.r_[1, np.zeros(39, int)]]
        for floor in (None, 1e-3):
            mixture = pyrovae.GaussianMixture((3,), 2, floor=floor).double()
            held = mixture.maximize(torch.from_numpy(x * scale), torch.from_numpy(share))
            assert held.tolist() == [floor is not None, True]
            within = np.square((x[1:] - x[1:].mean(0)) * scale).sum(0) / 40
            least = 1e-6 * within if floor is None else np.full(3, 1e-3)
            assert np.allclose(mixture.covariances[1].detach(), np.diag(least), rtol=1e-9, atol=0)
            # and the other component keeps the variances that are over it
            kept = mixture.covariances[0].detach().diagonal()[[0, 2]]
            assert np.allclose(kept, np.square((x[1:] - x[1:].mean(0)) * scale).mean(0)[[0, 2]], rtol=1e-9)


def test_float32_and_the_callers_generator():
    x, _ = problem(6)
    torch.manual_seed(0)
    single = pyrovae.GaussianMixture((3,), 4).float()
    state = torch.get_rng_state()
    pyrovae.fit(single, x, num_restarts=2, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert single.logits.dtype == torch.float32
    torch.manual_seed(0)
    double = pyrovae.GaussianMixture((3,), 4).double()
    pyrovae.fit(double, x, num_restarts=2, progress=False)
    assert single.log_prob(x).mean().item() == pytest.approx(double.log_prob(x).mean().item(), abs=1e-4)


def test_a_start_without_a_likelihood_does_not_win():
    x, _ = problem(6)
    mixture = pyrovae.GaussianMixture((3,), 2).double()
    with torch.no_grad():
        mixture.components.loc.fill_(np.nan)
    history = pyrovae.fit(mixture, x, num_restarts=2, progress=False)
    assert history.config["start"].startswith("restart")
    assert mixture.log_prob(x).isfinite().all()


def test_parameters_that_single_precision_cannot_hold_are_told():
    x, _ = problem(6)
    x = np.concatenate([x, x[:, :1] + 1e-3 * x[:, 1:2]], 1) * 1e4 + 1e5
    with pytest.warns(UserWarning, match=r"in torch.float32 the parameters lose .* nats per item"):
        pyrovae.fit(pyrovae.GaussianMixture((4,), 1, floor=1e-6).float(), x, num_restarts=1, progress=False)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("distance", [1.0, 1e3, 1e7, 1e9])
def test_components_far_apart_keep_their_digits(covariance, distance):
    # moments and densities are differences of large numbers there, unless they are taken about each component
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 200)
    x = rng.normal(size=(400, 2)) + distance * label[:, None]
    ours = pyrovae.GaussianMixture((2,), 2, covariance=covariance).double()
    ours.maximize(torch.from_numpy(x), torch.from_numpy(np.eye(2)[label]))
    away = [x[label == k] - x[label == k].mean(0) for k in range(2)]
    full = np.stack([a.T @ a / 200 for a in away])
    expected = {
        "full": full,
        "tied": full.mean(0),
        "diagonal": np.diagonal(full, axis1=1, axis2=2),
        "spherical": np.trace(full, axis1=1, axis2=2) / 2,
    }[covariance]
    # x itself is rounded to 1e-7 at 1e9
    assert np.allclose(ours.covariances.detach(), expected, rtol=1e-6, atol=1e-6)
    value = ours.log_prob(x).mean().item()
    root = np.linalg.cholesky(ours.components.scale_tril.detach() @ ours.components.scale_tril.mT.detach())
    root = np.broadcast_to(root, (2, 2, 2))
    if distance > 100:  # no item of the one is likely under the other
        each = [
            -0.5 * np.square(np.linalg.solve(root[k], away[k].T)).sum(0) - np.log(np.diag(root[k])).sum()
            for k in (0, 1)
        ]
        assert value == pytest.approx(np.mean(each) - np.log(2 * np.pi) - np.log(2), abs=1e-6)


def test_svi_can_leave_the_floor():
    x = 10 * np.random.default_rng(0).normal(size=(200, 2))
    mixture = pyrovae.GaussianMixture((2,), 1, covariance="diagonal", floor=4.0)
    pyrovae.fit(mixture, x, method="svi", epochs=200, batch_size=200, learning_rate=0.05, progress=False)
    assert (mixture.covariances > 50).all()


@pytest.mark.slow
def test_svi_reaches_the_maximum_that_em_finds():
    x, _ = problem(7, clusters=2)
    mixture, history = fitted(x, 2)
    other = pyrovae.GaussianMixture((3,), 2)
    with torch.no_grad():  # the same basin: the loc of EM, and nothing else of it
        other.components.loc.copy_(mixture.components.loc)
    pyrovae.fit(other, x, method="svi", epochs=400, batch_size=300, learning_rate=0.02, progress=False)
    reached, best = other.log_prob(x).mean().item(), -float(history.epochs.loss[-1])
    assert best - 5e-3 < reached < best + 1e-6


class TestFloor:
    def test_columns_that_do_not_vary_are_named(self):
        x, _ = problem(0)
        x = np.concatenate([x, np.full((300, 1), 2.0), x[:, :1]], 1)
        with pytest.warns(pyrovae.VarianceFloorWarning, match=r"less than the variance floor 1e-06 in x\[:, 3\]"):
            mixture, history = fitted(x, 2, num_restarts=1)
        assert history.config["floored_components"] == [0, 1]
        assert mixture.log_prob(x).isfinite().all()

    def test_a_column_given_twice_is_named(self):
        x, _ = problem(0)
        with pytest.warns(pyrovae.VarianceFloorWarning, match=r"holds up component 0 \(most of all in x\[:, [03]\]\)"):
            fitted(np.concatenate([x, x[:, :1]], 1), 2, num_restarts=1)

    def test_events_of_several_axes_are_indexed_as_they_are(self):
        x = torch.rand(50, 1, 2, 3, dtype=torch.float64)
        x[:, 0, 1, 2] = 0.5
        with pytest.warns(pyrovae.VarianceFloorWarning, match=r"less than the variance floor 1e-06 in x\[:, 0, 1, 2\]"):
            fitted(x, 2, covariance="diagonal", num_restarts=1)

    def test_duplicate_rows_fewer_than_components(self):
        x = np.repeat([[0.0, 1.0], [2.0, 3.0]], 10, axis=0)
        with pytest.warns(pyrovae.VarianceFloorWarning, match="too few distinct items"):
            mixture, history = fitted(x, 3, num_restarts=2)
        assert mixture.log_prob(x).isfinite().all()
        assert all(p.isfinite().all() for p in mixture.parameters())
        assert np.diff(history.epochs.loss.values, prepend=np.inf).max() < 1e-12

    def test_digits_at_784_dimensions_in_all(self):
        # more dimensions than items: every component's covariance is singular but for the floor
        x = np.random.default_rng(0).random((60, 784))
        with pytest.warns(pyrovae.VarianceFloorWarning, match="and 1 more|component 0"):
            mixture, _ = fitted(x, 2, floor=1e-3, num_restarts=1)
        assert mixture.log_prob(x).isfinite().all()


class TestRefused:
    def test_more_components_than_items(self):
        with pytest.raises(ValueError, match="x has 3 items for 4 components"):
            fitted(np.zeros((3, 2)) + np.arange(3)[:, None])

    def test_arguments_of_the_other_method(self):
        x, _ = problem(0)
        mixture = pyrovae.GaussianMixture((3,), 2)
        for name, value in {"epochs": 3, "learning_rate": 0.1, "beta": 0.5, "binarize": True, "patience": 3}.items():
            with pytest.raises(ValueError, match=f"{name} is an argument of SVI, and this fit is by EM"):
                pyrovae.fit(mixture, x, **{name: value})
        with pytest.raises(ValueError, match="tol is an argument of EM, and this fit is by SVI"):
            pyrovae.fit(mixture, x, method="svi", tol=1e-3)
        with pytest.raises(ValueError, match="method must be one of 'em', 'svi', got 'emm'; did you mean 'em'"):
            pyrovae.fit(mixture, x, method="emm")
        with pytest.raises(
            ValueError, match="method='em' is for a GaussianMixture or a ColumnMixture, and this is a VAE"
        ):
            pyrovae.fit(pyrovae.mlp_vae((3,), likelihood="normal"), x, method="em")
        with pytest.raises(ValueError, match="tol must be a finite number of at least 0"):
            pyrovae.fit(mixture, x, tol=-1.0)
        with pytest.raises(ValueError, match="num_restarts must be an integer of at least 0"):
            pyrovae.fit(mixture, x, num_restarts=-1)
        with pytest.raises(ValueError, match="GaussianMixture takes no labels"):
            pyrovae.fit(mixture, x, np.zeros(300, int))

    def test_items_that_do_not_fit_change_nothing(self):
        mixture = pyrovae.GaussianMixture((3,), 2)
        before = copy.deepcopy(mixture.state_dict())
        for bad, message in ((np.zeros((5, 2)), "must have shape"), (np.full((5, 3), np.nan), "must be finite")):
            with pytest.raises(ValueError, match=message):
                pyrovae.fit(mixture, bad)
        assert all(torch.equal(before[name], value) for name, value in mixture.state_dict().items())

    def test_an_interrupt_leaves_the_parameters(self, monkeypatch):
        x, _ = problem(0)
        mixture = pyrovae.GaussianMixture((3,), 2)
        before = copy.deepcopy(mixture.state_dict())

        def interrupted(self, *_):
            raise KeyboardInterrupt

        monkeypatch.setattr(em.Climb, "go_on", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pyrovae.fit(mixture, x, progress=False)
        assert all(torch.equal(before[name], value) for name, value in mixture.state_dict().items())


def test_parameters_of_another_mixture_are_not_shared():
    weights, loc, covariances = parameters("full", features=3)
    given = [torch.from_numpy(v) for v in (weights, loc, covariances)]
    mixture = pyrovae.GaussianMixture.from_parameters(*given)
    pyrovae.fit(mixture, problem(0)[0], num_restarts=0, progress=False)
    assert np.array_equal(given[1], loc)


@pytest.mark.usefixtures("float32")
class TestFarFromZero:
    def test_float32_is_refused_and_float64_finds_the_moments(self):
        x = 4.5e6 + 0.1 * np.random.default_rng(0).normal(size=(200, 2))
        with pytest.raises(ValueError, match=r"torch.float32 does not hold x"):
            pyrovae.fit(pyrovae.GaussianMixture((2,), 1), x, progress=False)
        mixture, _ = fitted(x, 1, num_restarts=1)
        assert mixture.covariances[0].detach().numpy() == pytest.approx(np.cov(x.T, bias=True), rel=1e-6)
        with pytest.raises(ValueError, match="does not hold validation"):
            pyrovae.fit(pyrovae.GaussianMixture((2,), 1), x - 4.5e6, validation=x, progress=False)

    def test_components_far_apart_are_judged_each_by_its_own_spread(self):
        rng = np.random.default_rng(1)
        far = np.arange(200) % 2 == 1
        x = 0.1 * rng.normal(size=(200, 2)) + 4.5e6 * far[:, None]
        mixture = pyrovae.GaussianMixture((2,), 2, covariance="diagonal", floor=1e-6)
        before = copy.deepcopy(mixture.state_dict())
        with pytest.raises(ValueError, match=r"torch.float32 does not hold x of component \d: .*pair.double\(\)"):
            pyrovae.fit(mixture, x, progress=False, num_restarts=1)
        assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())
        wide, _ = fitted(x, 2, covariance="diagonal", num_restarts=1)
        found = wide.covariances[wide.loc[:, 0].argsort()].detach().numpy()
        assert found == pytest.approx(np.stack([x[~far].var(0), x[far].var(0)]), rel=1e-6)

    def test_a_component_that_the_floor_holds_up_is_as_wide_as_the_floor(self):
        rng = np.random.default_rng(3)
        x = np.concatenate([rng.normal(size=(60, 2)), 9 + 1e-5 * rng.normal(size=(20, 2))])
        with pytest.warns(em.VarianceFloorWarning, match="component"):
            pyrovae.fit(pyrovae.GaussianMixture((2,), 2), x, progress=False, num_restarts=2)

    @pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
    def test_a_narrow_batch_is_held_against_the_nearest_components_own_spread(self, covariance):
        square = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
        spread = {"full": square.expand(2, 2, 2), "tied": square, "diagonal": torch.ones(2, 2)}
        wide = spread.get(covariance, torch.ones(2)) * 1e14
        if covariance != "tied":
            wide = torch.stack([wide[0], 1e-16 * wide[1]])  # the other component has a standard deviation of 0.1
        make = partial(pyrovae.GaussianMixture.from_parameters, [0.5, 0.5], covariance=covariance)
        mixture = make([[1.7e9, 1.7e9], [0.0, 0.0]], wide).float()
        batch = 1.7e9 + torch.arange(40, dtype=torch.float64).reshape(20, 2)  # where float32 has steps of 128
        exact = copy.deepcopy(mixture).double()
        with torch.no_grad():
            assert torch.allclose(mixture.log_prob(batch).double(), exact.log_prob(batch), rtol=0, atol=1e-4)
            assert mixture.bic(batch) == pytest.approx(exact.bic(batch), abs=1e-2)
            assert pyrovae.exact(mixture, batch).mean == pytest.approx(float(exact.log_prob(batch).mean()), abs=1e-4)
            missing = torch.where(torch.tensor([True, False]), torch.nan, batch)
            given = (one.conditional(missing).log_prob(batch).double() for one in (mixture, exact))
            assert torch.allclose(*given, rtol=0, atol=1e-4)
        if covariance != "tied":  # the control: here an entry may be moved by 64, and that is much
            narrow = make([[1.7e9, 1.7e9], [0.0, 0.0]], wide.flip(0) * 1e6).float()
            with pytest.raises(ValueError, match="does not hold x"):
                narrow.log_prob(batch)

    def test_columns_that_tell_each_other_are_held_against_what_is_left_of_their_spread(self):
        square = torch.tensor([[1.0, 1 - 1e-9], [1 - 1e-9, 1.0]], dtype=torch.float64)
        batch = 1.7e9 + torch.arange(20, dtype=torch.float64)[:, None].expand(20, 2)
        make = partial(pyrovae.GaussianMixture.from_parameters, [1.0], [[1.7e9, 1.7e9]])
        # a standard deviation of 1e7, and of 450 where the other column is known: 64 is over a thousandth of that
        for kind, covariances in (("full", square[None]), ("tied", square)):
            with pytest.raises(ValueError, match="does not hold x"):
                make(1e14 * covariances, covariance=kind).float().log_prob(batch)

    @pytest.mark.filterwarnings("ignore::pyrovae.inference.em.VarianceFloorWarning")
    def test_columns_that_leave_each_other_less_than_rounding_are_told(self):
        rng = np.random.default_rng(0)
        a = 1e6 + 70 * rng.normal(size=300)
        x = np.stack([a, a + 0.05 * rng.normal(size=300)], 1)
        with pytest.warns(UserWarning, match=r"float32 rounds x\[:, [01]\] by up to 0\.\d+ .* in component 0"):
            pyrovae.fit(pyrovae.GaussianMixture((2,), 1), x, progress=False, num_restarts=1)
        for mixture, items in [
            (pyrovae.GaussianMixture((2,), 1), x - 1e6),
            (pyrovae.GaussianMixture((2,), 1).double(), x),
        ]:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                pyrovae.fit(mixture, items, progress=False, num_restarts=1)
            assert not [one for one in told if "rounds" in str(one.message)]

    def test_a_narrow_validation_batch_is_held_against_the_items_of_the_fit(self):
        x = 1.7e9 + 1e7 * np.random.default_rng(0).normal(size=(60, 1))
        batch = 1.7e9 + np.arange(20.0)[:, None]
        mixture = pyrovae.GaussianMixture((1,), 1)
        found = pyrovae.fit(mixture, x, validation=batch, progress=False, num_restarts=1).epochs.validation_elbo
        expected = Normal(x.mean(), x.std()).log_prob(torch.from_numpy(batch)).mean()
        assert found.values[-1] == pytest.approx(float(expected), abs=1e-4)
        with pytest.raises(ValueError, match="does not hold x:"):  # nor is what a fit learns from held against another
            pyrovae.fit(mixture, batch, progress=False, num_restarts=1)

    def test_conditionals_and_densities(self):
        x = 4.5e6 + 0.1 * np.random.default_rng(2).normal(size=(50, 2))
        mixture = pyrovae.GaussianMixture((2,), 1)
        missing = np.where(np.arange(100).reshape(50, 2) % 3 == 0, np.nan, x)
        for wrong in (lambda: mixture.log_prob(x), lambda: mixture.conditional(missing), lambda: mixture.bic(x)):
            with pytest.raises(ValueError, match="does not hold x"):
                wrong()
        given = mixture.conditional(missing - 4.5e6)
        with pytest.raises(ValueError, match="does not hold value"):
            given.log_prob(torch.from_numpy(x))
