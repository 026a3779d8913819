"""The Gaussian mixture against scikit-learn, quadrature, and its own exact conditionals."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from scipy import integrate, stats
from sklearn.mixture import GaussianMixture as Peer

import pyrovae
from pyrovae.data import Split
from pyrovae.models.components import COVARIANCES

PEERS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
NAN = float("nan")


def parameters(covariance, num_components=3, features=4, seed=0):
    """Weights, locations and covariances of some mixture, in float64."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(num_components, features, features)) + 1.5 * np.eye(features)
    full = roots @ roots.transpose(0, 2, 1) / features + 0.1 * np.eye(features)
    found = {
        "full": full,
        "tied": full[0],
        "diagonal": np.diagonal(full, axis1=1, axis2=2).copy(),
        "spherical": full[:, 0, 0].copy(),
    }
    return (
        rng.dirichlet(5 * np.ones(num_components)),
        3 * rng.normal(size=(num_components, features)),
        found[covariance],
    )


def mixture(covariance="full", *, event_shape=None, **options):
    return pyrovae.GaussianMixture.from_parameters(
        *parameters(covariance, **options), covariance=covariance, event_shape=event_shape
    )


def peer(given, covariance):
    """scikit-learn's mixture at the same parameters."""
    from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

    found = Peer(len(given[0]), covariance_type=PEERS[covariance])
    found.weights_, found.means_, found.covariances_ = given
    found.precisions_cholesky_ = _compute_precision_cholesky(given[2], PEERS[covariance])
    return found


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("features", [1, 4, 784])
def test_densities_are_those_of_scikit_learn(covariance, features):
    given = parameters(covariance, features=features)
    ours, theirs = mixture(covariance, features=features), peer(given, covariance)
    x = np.random.default_rng(1).normal(size=(50, features)) * 4
    with torch.no_grad():
        found, share = ours.log_prob(x), ours.responsibilities(x)
    expected = theirs.score_samples(x)
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-10)
    assert np.allclose(share, theirs.predict_proba(x), atol=1e-10)
    assert np.allclose(share.sum(1), 1, atol=1e-14)
    assert ours.num_parameters == theirs._n_parameters()
    assert ours.bic(x) == pytest.approx(theirs.bic(x), rel=1e-12)
    # in float32 the parameters are rounded and the sums are not
    assert np.allclose(copy.deepcopy(ours).float().log_prob(x).detach(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_far_items_do_not_underflow(covariance):
    ours = mixture(covariance, features=784)
    far = torch.full((1, 784), 1e3, dtype=torch.float64)
    value = ours.log_prob(far)
    assert value.isfinite()
    assert value < -1e6
    assert torch.isclose(ours.responsibilities(far).sum(), torch.ones((), dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), ours.components.loc)
    assert slope.isfinite().all()


def test_with_the_exact_guide_every_bound_is_log_p():
    ours = mixture(event_shape=(2, 2))
    x = ours.sample(20, seed=0)
    truth = ours.log_prob(x).detach().numpy()
    assert ours.sample(3).shape == (3, 2, 2)
    for estimate in (pyrovae.elbo(ours, x), pyrovae.iwae(ours, x, num_particles=10)):
        assert np.allclose(estimate.pointwise.value, truth, atol=1e-10)
        assert estimate.se < 1e-10
        assert abs((pyrovae.exact(ours, x) - estimate).mean) < 1e-10
    assert "log density" in str(pyrovae.exact(ours, x))


def test_enumeration_sums_the_component_out_and_gives_the_exact_gradient():
    ours = mixture()
    x = ours.sample(30, seed=1)
    ours.log_prob(x).sum().backward()
    expected = {name: p.grad.clone() for name, p in ours.named_parameters()}

    def nothing(x):
        pass

    for guide in (ours.guide, nothing):
        ours.zero_grad()
        with pyro.get_param_store().scope():
            model = config_enumerate(ours.model) if guide is nothing else ours.model
            loss = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x)
        assert loss == pytest.approx(-ours.log_prob(x).sum().item(), rel=1e-12)
        for name, p in ours.named_parameters():
            assert torch.allclose(p.grad, -expected[name], atol=1e-9), name


def test_pyros_own_svi_trains_it():
    ours = pyrovae.GaussianMixture((2,), 2)
    x = torch.cat([torch.randn(50, 2) - 3, torch.randn(50, 2) + 3])
    before = ours.log_prob(x).mean().item()
    with pyro.get_param_store().scope():
        for loss in (TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO()):
            svi = SVI(ours.model, ours.guide, pyro.optim.Adam({"lr": 0.05}), loss)
            for _ in range(100):
                svi.step(x)
    assert ours.log_prob(x).mean().item() > before + 1
    pickle.loads(pickle.dumps(ours))


class TestSamples:
    """Samples by Rosenblatt's transform: where they follow the density its values are uniform and independent."""

    def rosenblatt(self, ours, x):
        """F(x_1), F(x_2 | x_1) by the textbook's formulas of a bivariate normal, in NumPy."""
        w, loc, c = (p.detach().numpy() for p in (ours.weights, ours.loc, ours.covariances))
        first = stats.norm(loc[:, 0], np.sqrt(c[:, 0, 0]))
        u = (w * first.cdf(x[:, :1])).sum(1)
        share = w * first.pdf(x[:, :1])
        share /= share.sum(1, keepdims=True)
        gain = c[:, 0, 1] / c[:, 0, 0]
        second = stats.norm(loc[:, 1] + gain * (x[:, :1] - loc[:, 0]), np.sqrt(c[:, 1, 1] - gain * c[:, 0, 1]))
        return np.stack([u, (share * second.cdf(x[:, 1:])).sum(1)], 1)

    def smallest_p(self, u):
        """Of Kolmogorov and Smirnov's test of each, and of the test of independence in a 5 x 5 table."""
        table = np.histogram2d(u[:, 0], u[:, 1], bins=5, range=[[0, 1], [0, 1]])[0]
        return min(*(stats.kstest(column, "uniform").pvalue for column in u.T), stats.chisquare(table.ravel()).pvalue)

    def test_samples_follow_the_density(self):
        ours = mixture(features=2)
        u = self.rosenblatt(ours, ours.sample(5000, seed=0).numpy())
        assert self.smallest_p(u) > 1e-3  # false alarm 0.3 %, at a fixed seed

    def test_control_another_correlation_is_seen(self):
        weights, loc, covariances = parameters("full", features=2)
        covariances[:, 0, 1] = covariances[:, 1, 0] = 0.5 * covariances[:, 0, 1]
        other = pyrovae.GaussianMixture.from_parameters(weights, loc, covariances)
        assert self.smallest_p(self.rosenblatt(mixture(features=2), other.sample(5000, seed=0).numpy())) < 1e-6

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_moments(self, covariance):
        ours = mixture(covariance, event_shape=(2, 2))
        w, loc, c = (p.detach() for p in (ours.weights, ours.components.loc, ours.components.scale_tril))
        x = ours.sample(40_000, seed=2).flatten(1)
        mean = w @ loc
        second = (c @ c.mT).expand(3, 4, 4) + loc[:, :, None] * loc[:, None]
        variance = torch.einsum("k,kij->ij", w, second) - mean[:, None] * mean
        assert (abs(x.mean(0) - mean) < 4.5 * (variance.diagonal() / len(x)).sqrt()).all()  # 4 means, 3e-5 each
        assert torch.allclose(torch.cov(x.T, correction=0), variance, rtol=0.1, atol=0.2)

    def test_a_seed_fixes_them_and_leaves_the_generator_alone(self):
        ours = mixture()
        state = torch.get_rng_state()
        assert torch.equal(ours.sample(5, seed=3), ours.sample(5, seed=3))
        assert torch.equal(torch.get_rng_state(), state)


class TestConditionals:
    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_agree_with_integration(self, covariance):
        ours = mixture(covariance, features=3)
        seen = torch.tensor([[1.0, NAN, -0.5]], dtype=torch.float64)
        given = ours.conditional(seen)

        def density(t):
            full = seen.clone()
            full[0, 1] = t
            return float(ours.log_prob(full).detach().exp())

        def integral(f):
            return integrate.quad(f, -30, 30, limit=500, epsabs=1e-13, points=ours.loc[:, 1].tolist())[0]

        total = integral(density)
        mean = integral(lambda t: t * density(t)) / total
        variance = integral(lambda t: (t - mean) ** 2 * density(t)) / total
        assert float(given.log_seen) == pytest.approx(math.log(total), abs=1e-8)
        assert float(ours.log_prob(seen, missing=True)) == pytest.approx(math.log(total), abs=1e-8)
        assert float(given.mean[0, 1]) == pytest.approx(mean, abs=1e-7)
        assert float(given.variance[0, 1]) == pytest.approx(variance, abs=1e-6)
        assert given.mean[0, [0, 2]].tolist() == [1.0, -0.5]
        assert given.variance[0, [0, 2]].tolist() == [0.0, 0.0]
        point = seen.nan_to_num(0.7)
        assert float(given.log_prob(point)) == pytest.approx(math.log(density(0.7) / total), abs=1e-8)
        # control: the mean of the whole mixture is not it
        assert abs(float(ours.weights @ ours.loc[:, 1]) - mean) > 0.01

    def test_two_missing_entries_by_integration_over_both(self):
        ours = mixture(features=3)
        seen = torch.tensor([[NAN, 0.3, NAN]], dtype=torch.float64)
        axis = np.linspace(-25, 25, 801)
        grid = np.stack(np.meshgrid(axis, [0.3], axis, indexing="ij"), -1).reshape(-1, 3)
        with torch.no_grad():
            weight = ours.log_prob(grid).exp().numpy() * (axis[1] - axis[0]) ** 2
            given = ours.conditional(seen)
            assert float(given.log_seen) == pytest.approx(math.log(weight.sum()), abs=1e-9)
            mean = weight @ grid / weight.sum()
            assert np.allclose(given.mean[0], mean, atol=1e-9)
            assert np.allclose(given.variance[0], weight @ (grid - mean) ** 2 / weight.sum(), atol=1e-8)

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_draws_have_the_conditionals_law(self, covariance):
        ours = mixture(covariance, event_shape=(2, 2))
        x = ours.sample(3, seed=0)
        x[0, 0, 1] = x[1, 1] = NAN
        given = ours.conditional(x)
        torch.manual_seed(0)
        draws = given.sample((20_000,))
        assert draws.shape == (20_000, 3, 2, 2)
        seen = ~x.isnan()
        assert torch.equal(draws[:, seen], x[seen].expand(len(draws), -1))
        error = (given.variance / len(draws)).sqrt()
        assert (abs(draws.mean(0) - given.mean) <= 4.5 * error + 1e-12).all()  # 3 entries, 2e-5 in all
        assert np.allclose(draws.var(0), given.variance.detach(), rtol=0.06, atol=1e-12)
        # one missing entry: its conditional distribution function turns its draws uniform
        share = given.responsibilities[0].detach().numpy()
        parts = next(p for rows, p in ours.components.patterns(x.flatten(1)) if 0 in rows)
        mean, variance = (v.detach().numpy()[:, 0, 0] for v in parts.moments())
        u = (share * stats.norm(mean, np.sqrt(variance)).cdf(draws[:, 0, 0, 1, None])).sum(1)
        assert stats.kstest(u, "uniform").pvalue > 1e-3  # false alarm 0.1 %

    def test_imputed_draws_have_the_joint_distribution_of_what_is_missing(self):
        c = torch.tensor([[1.0, 0.6, 0.5], [0.6, 1.0, 0.8], [0.5, 0.8, 2.0]], dtype=torch.float64)
        ours = pyrovae.GaussianMixture.from_parameters([1.0], [[0.0, 1.0, 2.0]], c[None])
        x = torch.tensor([[0.5, NAN, NAN], [NAN] * 3, [1.0, 2.0, 3.0]], dtype=torch.float64)
        state = torch.get_rng_state()
        draws = ours.impute(x, num_draws=20_000, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert draws.shape == (20_000, 3, 3) and not draws.requires_grad
        assert torch.equal(draws[:, ~x.isnan()], x[~x.isnan()].expand(len(draws), -1))
        # of two jointly normal entries given a third, and of all three: means and covariances in closed form
        mean, spread = torch.tensor([1.3, 2.25]), c[1:, 1:] - torch.outer(c[1:, 0], c[0, 1:])
        for found, loc, within in ((draws[:, 0, 1:], mean, spread), (draws[:, 1], torch.tensor([0.0, 1, 2]), c)):
            error = (within.diagonal() / len(draws)).sqrt()
            assert (abs(found.mean(0) - loc) < 4.5 * error).all()  # 5 means, 4e-5 in all
            # Var of a sample covariance: (c_ij^2 + c_ii c_jj) / n; 13 of them, 9e-5 in all
            error = ((within.square() + torch.outer(within.diagonal(), within.diagonal())) / len(draws)).sqrt()
            assert (abs(torch.cov(found.T) - within) < 4.5 * error).all()
        assert abs(spread[0, 1]) > 0.4  # control: entries drawn one by one have a covariance of 0
        assert not torch.equal(draws[:5], ours.impute(x, num_draws=5, seed=2))

    def test_a_split_says_what_impute_fills_in(self):
        ours = mixture().float()
        x = ours.sample(4, seed=0)
        mask = torch.zeros(4, 4, dtype=torch.bool)
        mask[::2, 1] = True
        by_split = ours.impute(Split(x, missing=mask), num_draws=3, seed=4)
        assert by_split.dtype == torch.float32
        assert torch.equal(by_split, ours.impute(torch.where(mask, NAN, x), num_draws=3, seed=4))
        assert not (by_split == x)[:, mask].any()
        for wrong in ({"num_draws": 0}, {"seed": -1}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                ours.impute(x, **wrong)
        with pytest.raises(ValueError, match="shape"):
            ours.impute(x[:, :3])

    def test_all_or_nothing_seen(self):
        ours = mixture()
        x = ours.sample(2, seed=0)
        whole = ours.conditional(x)
        assert torch.equal(whole.mean, x)
        assert torch.equal(whole.sample((3,)), x.expand(3, 2, 4))
        assert (whole.log_prob(x).abs() < 1e-12).all()
        nothing = ours.conditional(torch.full_like(x, NAN))
        assert (nothing.log_seen.abs() < 1e-12).all()
        assert torch.allclose(nothing.log_prob(x), ours.log_prob(x), atol=1e-12)
        assert torch.allclose(nothing.responsibilities, ours.weights.expand(2, -1))

    def test_one_factor_for_items_that_miss_the_same(self):
        ours = mixture()
        x = ours.sample(7, seed=0)
        x[::2, 1] = NAN
        assert [len(rows) for rows, _ in ours.components.patterns(x)] in ([4, 3], [3, 4])
        alone = torch.cat([ours.log_prob(one[None], missing=True) for one in x])
        assert torch.allclose(ours.log_prob(x, missing=True), alone, atol=1e-12)


def test_a_saved_state_comes_back(tmp_path):
    ours = pyrovae.GaussianMixture((1, 2, 2), 3, covariance="tied", floor=1e-3)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", ours))
    x = torch.randn(5, 1, 2, 2)
    assert torch.equal(again.log_prob(x), ours.log_prob(x))
    assert again.components.floor == 1e-3
    assert "components.column_scale" not in ours.state_dict()  # as it was before floors had columns
    with pytest.raises(pyrovae.CheckpointError, match="another architecture"):
        pyrovae.load(tmp_path / "state", like=pyrovae.GaussianMixture((1, 2, 2), 3))


def test_floors_of_columns_are_part_of_the_state(tmp_path):
    ours = pyrovae.GaussianMixture((2,), 2)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e4, 1e-4])
    pyrovae.fit(ours, x, num_restarts=1, progress=False)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", ours), like=pyrovae.GaussianMixture((2,), 2))
    assert torch.equal(again.log_prob(x), ours.log_prob(x))
    assert torch.equal(again.components.floors, ours.components.floors)
    assert torch.allclose(again.components.floors.log10(), torch.tensor([2.0, -14.0]).double(), atol=1.0)
    assert not again.is_fresh


class TestFloors:
    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_a_floor_that_is_given_acts_as_it_always_did(self, covariance):
        # bit for bit: the repair as it was, written out
        rng = np.random.default_rng(0)
        x = torch.from_numpy(rng.normal(size=(30, 5)) @ rng.normal(size=(5, 5)) * [1.0, 0.1, 1.0, 0.0, 2.0] + 1.0)
        share = torch.from_numpy(rng.dirichlet(np.ones(3), size=30))
        ours = pyrovae.GaussianMixture((5,), 3, covariance=covariance, floor=0.02).double()
        parts, taken = ours.components, []

        def take_moments(loc, moments, has_weight, take=parts.take_moments):
            taken.append((loc.clone(), moments.clone()))
            return take(loc, moments, has_weight)

        parts.take_moments = take_moments
        held = ours.maximize(x, share)
        del parts.take_moments
        loc, moments = taken[0]
        away = x - (share.mT @ x / share.sum(0)[:, None])[:, None]
        exact = torch.einsum("nk,kni,knj->kij", share, away, away) / share.sum(0)[:, None, None]
        squares = exact.diagonal(dim1=1, dim2=2)
        tied = (share.sum(0)[:, None, None] * exact).sum(0) / share.sum()
        wanted = {"full": exact, "tied": tied, "diagonal": squares, "spherical": squares.mean(1)}[covariance]
        assert torch.allclose(moments, wanted, rtol=0, atol=1e-13)
        if covariance in ("full", "tied"):
            batch = moments.reshape(-1, 5, 5)
            batch = (batch + batch.mT) / 2
            value, vector = torch.linalg.eigh(batch)
            batch = (vector * value.clamp(min=0.02)[:, None]) @ vector.mT
            scale = batch.diagonal(dim1=-2, dim2=-1).amax(-1)
            batch += torch.finfo(batch.dtype).eps * 5 * scale[:, None, None] * torch.eye(5).double()
            expected = batch.reshape(moments.shape)
        else:
            expected = moments.clamp(min=0.02)
        assert held.all() or covariance == "spherical"
        other = copy.deepcopy(parts)
        other.assign(loc, expected)
        assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), other.parameters(), strict=True))

    def test_none_is_a_part_of_each_columns_variance_within_clusters(self):
        rng = np.random.default_rng(0)
        label = np.repeat([0, 1], 200)
        # clusters 1e7 apart: of the variance of all items the floor would be 25 times that within one
        x = torch.from_numpy(rng.normal(size=(400, 2)) * [1.0, 1e-5] + 1e7 * label[:, None] * [1.0, 1e-5])
        ours = pyrovae.GaussianMixture((2,), 2).double()
        history = pyrovae.fit(ours, x, num_restarts=2, progress=False)
        assert history.config["floored_components"] == []
        assert torch.allclose(ours.components.floors, 1e-6 * torch.tensor([1.0, 1e-10]).double(), rtol=0.2)

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_parameters_in_any_units_are_taken_and_score_alike(self, covariance):
        weights, loc, covariances = parameters(covariance, num_components=2, features=3)
        scale = np.full(3, 1e-7) if covariance == "spherical" else np.array([1e-8, 1.0, 1e8])
        factor = {"diagonal": scale**2, "spherical": 1e-14}.get(covariance, scale * scale[:, None])
        given = (weights, loc * scale, covariances * factor)
        build = pyrovae.GaussianMixture.from_parameters
        ours, plain = build(*given, covariance=covariance), build(weights, loc, covariances, covariance=covariance)
        x = plain.sample(20, seed=0)
        moved = ours.log_prob(x * torch.from_numpy(scale)) + np.log(scale).sum()
        assert torch.allclose(moved, plain.log_prob(x), rtol=0, atol=1e-9)
        # under a floor that was given they are taken too, where they have no less than that
        if covariance != "spherical":
            assert torch.equal(build(*given, covariance=covariance, floor=1e-18).loc, ours.loc)
            with pytest.raises(ValueError, match="no eigenvalue below the floor 1e-06"):
                build(*given, covariance=covariance, floor=1e-6)


def test_what_is_refused():
    with pytest.raises(
        ValueError, match="covariance must be one of 'full', 'tied', 'diagonal', 'spherical', got 'diag'"
    ):
        pyrovae.GaussianMixture((2,), 2, covariance="diag")
    with pytest.raises(ValueError, match="num_components must be an integer of at least 1, got 0"):
        pyrovae.GaussianMixture((2,), 0)
    with pytest.raises(TypeError, match="event_shape must be a sequence of sizes"):
        pyrovae.GaussianMixture(2, 2)
    with pytest.raises(ValueError, match="floor must be a finite number greater than 0"):
        pyrovae.GaussianMixture((2,), 2, floor=0.0)
    weights, loc, covariances = parameters("full")
    build = pyrovae.GaussianMixture.from_parameters
    with pytest.raises(ValueError, match="weights must be at least 0 and sum to 1"):
        build(2 * weights, loc, covariances)
    with pytest.raises(ValueError, match=r"covariances must have shape \(3, 4, 4\), got \(4, 4\)"):
        build(weights, loc, covariances[0])
    with pytest.raises(ValueError, match="no eigenvalue below the floor 1e-06"):
        build(weights, loc, -covariances, floor=1e-6)
    with pytest.raises(ValueError, match=r"must be positive definite, got an eigenvalue of -\d"):
        build(weights, loc, -covariances)
    with pytest.raises(ValueError, match="covariances must be symmetric"):
        build(weights, loc, covariances + np.triu(np.ones((4, 4)), 1))
    ours = mixture()
    with pytest.raises(ValueError, match=r"x must be finite: 1 NaN .* pass missing=True"):
        ours.log_prob([[1.0, NAN, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"x must have shape \(N, 4\)"):
        ours.conditional(torch.zeros(3, 5))
    for estimator in (lambda x: pyrovae.ais(ours, x), lambda x: pyrovae.quadrature(ours, x)):
        with pytest.raises(ValueError, match=r"those of GaussianMixture: 'component'$|latent_dim"):
            estimator(torch.zeros(2, 4))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_a_component_that_is_far_away_costs_the_others_no_digits(covariance, missing):
    """As one of an item that is a slip or a code for a missing value: means may not be taken about a middle of all."""
    each = {"full": torch.eye(2).expand(3, 2, 2), "tied": torch.eye(2), "diagonal": torch.ones(3, 2)}
    shape = each.get(covariance, torch.ones(3))
    near = pyrovae.GaussianMixture.from_parameters(
        [0.5, 0.5], [[0.0, 0.0], [3.0, 1.0]], shape if covariance == "tied" else shape[:2], covariance=covariance
    )
    far = pyrovae.GaussianMixture.from_parameters(
        [0.4, 0.4, 0.2], [[0.0, 0.0], [3.0, 1.0], [1e14, 0.0]], shape, covariance=covariance
    )
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if missing:
        x[::3, 0] = torch.nan
    expected = near.log_prob(x, missing=missing) + math.log(0.8)
    seen = ~x[:, 0].isnan()  # without its first entry an item is no farther from the third component
    assert torch.allclose(far.log_prob(x, missing=missing)[seen], expected[seen], rtol=0.0, atol=1e-12)
