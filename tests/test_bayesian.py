"""The Bayesian mixture against a grid's posterior and the plain mixture at its draws; the number of clusters by LOO."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions.transforms import biject_to
from pyro.infer import Predictive, TraceEnum_ELBO
from pyro.infer.mcmc.util import initialize_model
from scipy import stats

import pyrovae
from pyrovae.inference import bayesian
from pyrovae.models.components import COVARIANCES

az = pytest.importorskip("arviz")


def clusters(seed, n=150):
    """Three clusters, standardised."""
    rng = np.random.default_rng(seed)
    at = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.8]])
    x = at[rng.choice(3, size=n, p=[0.3, 0.3, 0.4])] + 0.6 * rng.normal(size=(n, 2))
    return (x - x.mean(0)) / x.std(0)


def mixture(num_components=3, features=2, **options):
    torch.manual_seed(0)
    return pyrovae.BayesianGaussianMixture((features,), num_components, **options).double()


@pytest.fixture(scope="module")
def grid():
    """One normal in one dimension: items, and its exact posterior of loc and log scale on a fine grid."""
    x = np.random.default_rng(0).normal(0.8, 0.7, size=12)
    loc, log_scale = np.meshgrid(np.linspace(-1.5, 3, 601), np.linspace(-2.2, 1.2, 601), indexing="ij")
    scale = np.exp(log_scale)
    value = stats.norm(0, 3).logpdf(loc) + stats.norm(math.log(0.5), 0.7).logpdf(log_scale)
    value += stats.norm.logpdf(x[:, None, None], loc, scale).sum(0)
    cell = 4.5 / 600 * 3.4 / 600
    weight = np.exp(value - value.max())
    evidence = math.log(weight.sum() * cell) + value.max()
    weight /= weight.sum()
    moments = {}
    for name, at in (("loc", loc), ("scale", log_scale)):
        mean = (weight * at).sum()
        moments[name] = mean, math.sqrt((weight * (at - mean) ** 2).sum())
    return x[:, None], moments, evidence


def summaries(draws):
    return {"loc": draws["loc"].flatten().numpy(), "scale": draws["scale"].log().flatten().numpy()}


@pytest.mark.long
def test_the_guide_weighs_to_the_exact_evidence_and_finds_the_posterior(grid):
    x, moments, evidence = grid
    ours = mixture(1, 1, scale_spread=0.7)
    history = pyrovae.fit(ours, x, progress=False)
    assert history.config["method"] == "svi"
    t, log_weight = torch.from_numpy(x), []
    torch.manual_seed(1)
    with pyro.get_param_store().scope(), torch.no_grad():
        for _ in range(2000):
            guide = pyro.poutine.trace(ours.guide).get_trace(t)
            model = pyro.poutine.trace(pyro.poutine.replay(ours.model, trace=guide)).get_trace(t)
            log_weight.append(float(model.log_prob_sum() - guide.log_prob_sum()))
        loss = np.mean([TraceEnum_ELBO(max_plate_nesting=1).loss(ours.model, ours.guide, t) for _ in range(300)])
    weight = np.exp(np.array(log_weight) - evidence)
    error = weight.std() / math.sqrt(len(weight))
    assert error < 0.02
    assert abs(weight.mean() - 1) < 4 * error  # 6e-5
    assert -0.2 < -loss - evidence < 0.02  # a bound, and near: of 12 items the posterior is not quite normal
    found = summaries(ours.draws(20_000, seed=0))
    for name, (mean, sd) in moments.items():
        assert abs(found[name].mean() - mean) < 0.1 * sd, name
        assert found[name].std() == pytest.approx(sd, rel=0.1), name


@pytest.mark.slow
def test_nuts_finds_the_posterior_on_the_grid(grid):
    x, moments, _ = grid
    ours = mixture(1, 1, scale_spread=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # one component has no weight whose R-hat could be
        warnings.filterwarnings("ignore", category=FutureWarning)
        history = pyrovae.fit(ours, x, method="nuts", num_chains=2, num_draws=600, num_warmup=200, progress=False)
    found = summaries(ours.draws())
    for name, (mean, sd) in moments.items():
        error = sd / math.sqrt(history.config["ess"][name])
        assert abs(found[name].mean() - mean) < 4 * error, name  # two of them: 1e-4
        assert found[name].std() == pytest.approx(sd, rel=0.12), name
    assert history.config["divergences"] == 0
    assert ours.draws()["loc"].shape == (2, 600, 1, 1)
    # control: another prior is another posterior
    other = mixture(1, 1, scale_spread=0.7, prior_loc=3.0, prior_scale=0.3)
    pyrovae.fit(other, x, progress=False)
    moved = summaries(other.draws(5000))["loc"].mean()
    assert abs(moved - moments["loc"][0]) > 0.5 * moments["loc"][1]


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("features", [1, 3])
def test_densities_at_a_draw_are_the_plain_mixtures(covariance, features):
    ours = mixture(2, features, covariance=covariance)
    draws = ours.draws(3, seed=0)
    x = np.random.default_rng(0).normal(size=(7, features))
    table, share = ours.tables(x, draws)
    for s in range(3):
        one = {name: value[0, s] for name, value in draws.items()}
        factor = ours.factor(one)
        c = factor @ factor.mT
        reduced = {"full": c, "tied": c[0], "diagonal": c.diagonal(dim1=-2, dim2=-1), "spherical": c[:, 0, 0]}
        plain = pyrovae.GaussianMixture.from_parameters(
            one["weights"], one["loc"], reduced[covariance], covariance=covariance
        )
        assert torch.allclose(table[0, s], plain.log_prob(x), atol=1e-10)
        assert torch.allclose(share[0, s], plain.responsibilities(x), atol=1e-10)
        # and so are the model's, with the component summed out
        given = pyro.poutine.condition(ours.model, data=one)
        with pyro.get_param_store().scope():
            loss = TraceEnum_ELBO(max_plate_nesting=1).loss(given, lambda x: None, torch.from_numpy(x))
        prior = sum(law.log_prob(one[name]).sum() for name, law in ours.priors().items())
        assert -loss == pytest.approx(float(prior + plain.log_prob(x).sum()), rel=1e-9)
    expected = table[0].logsumexp(0) - math.log(3)
    ours.keep(draws)
    assert torch.allclose(ours.log_prob(x), expected, atol=1e-12)
    spread = (table[0] - expected).exp().std(0) / math.sqrt(3)
    assert torch.allclose(ours.with_standard_error(x)[1], spread, atol=1e-12)


def test_points_of_the_real_line_go_there_and_back():
    for covariance in COVARIANCES:
        ours = mixture(3, 3, covariance=covariance)
        one = {name: value[0, 0] for name, value in ours.draws(1, seed=0).items()}
        again = ours.constrained(ours.unconstrained(one))
        assert all(torch.allclose(again[name], value, atol=1e-8) for name, value in one.items())
        ours.start_at(one)
        at_mean = {name: value for name, (value, _) in ours._constrained(ours.guide_loc).items()}
        assert all(torch.allclose(at_mean[name], value, atol=1e-8) for name, value in one.items())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_potential_is_what_pyro_makes_of_the_model(covariance):
    ours, x = mixture(3, covariance=covariance), torch.from_numpy(clusters(0, n=20))
    with pyro.get_param_store().scope():
        _, theirs, _, _ = initialize_model(ours.model, (x,), max_plate_nesting=1)
    energy, shift = ours.potential(x), 6 * math.log(ours.prior_scale)  # of locations in units of their prior
    for seed in range(3):
        one = {name: value[0, 0] for name, value in ours.draws(1, seed=seed).items()}
        points = {name: value.requires_grad_() for name, value in ours.unconstrained(one).items()}
        pyros = {name: biject_to(law.support).inv(one[name]).requires_grad_() for name, law in ours.priors().items()}
        a, b = energy(points), theirs(pyros)
        assert a.item() + shift == pytest.approx(b.item(), rel=1e-9)
        slopes = [torch.autograd.grad(a, list(points.values())), torch.autograd.grad(b, list(pyros.values()))]
        for name, u, v in zip(points, *slopes, strict=True):
            assert torch.allclose(u, v * (ours.prior_scale if name == "loc" else 1), atol=1e-7)


def test_permuted_labels_are_put_back_and_no_density_changes():
    x = torch.from_numpy(clusters(0))
    ours = mixture(3, covariance="full")
    pyrovae.fit(ours, x, progress=False, epochs=300)
    draws = ours.draws(50, seed=0)
    straight, moved = bayesian.relabelled(ours, x, draws)
    assert moved == 0
    rng = np.random.default_rng(0)
    order = torch.from_numpy(np.stack([rng.permutation(3) for _ in range(50)]))
    mixed = {name: value[0, torch.arange(50)[:, None], order][None] for name, value in draws.items()}
    back, moved = bayesian.relabelled(ours, x, mixed)
    assert moved > 20
    pivot = int(ours.log_likelihood(x, draws).sum(-1).argmax())
    for name, value in back.items():
        assert torch.allclose(value[0, :, torch.argsort(order[pivot])], straight[name][0], atol=1e-12), name
    assert torch.allclose(ours.log_likelihood(x, mixed), ours.log_likelihood(x, draws), atol=1e-10)
    assert torch.allclose(ours.log_likelihood(x, back), ours.log_likelihood(x, draws), atol=1e-10)


def test_the_prior_draws_items_and_predictive_takes_the_draws():
    ours = mixture(2, covariance="diagonal")
    with pyro.get_param_store().scope():
        assert ours.model(size=5).shape == (5, 2)
        pyro.poutine.trace(ours.model).get_trace(torch.zeros(4, 2, dtype=torch.float64))
        drawn = {name: value[0] for name, value in ours.draws(6).items()}
        predicted = Predictive(ours.model, posterior_samples=drawn)(size=3)
    assert predicted["obs"].shape == (6, 3, 2)


@pytest.mark.slow
def test_posterior_predictive_items_have_its_moments():
    x = clusters(1)
    ours = mixture(3, covariance="diagonal")
    pyrovae.fit(ours, x, progress=False, epochs=500)
    drawn = ours.sample(20_000, seed=0)
    assert torch.equal(drawn[:5], ours.sample(20_000, seed=0)[:5])
    draws = ours.draws(2000, seed=1)
    mean = (draws["weights"][..., None] * draws["loc"]).sum(2)[0].mean(0)
    assert (abs(drawn.mean(0) - mean) < 0.03).all()  # four standard errors of 20,000 items of sd 1
    held_out = clusters(2)
    assert -3.0 < float(ours.log_prob(held_out).mean()) < -1.5
    assert ours.responsibilities(held_out).sum(1).allclose(torch.ones(150, dtype=torch.float64))


@pytest.mark.long
def test_loo_chooses_the_number_of_clusters():
    # two data seeds and K = 2, 3, 5 here; ten and K = 1 to 6 by analysis/number_of_clusters.py
    for seed in range(2):
        x, trees = clusters(seed), {}
        for k in (2, 3, 5):
            ours = mixture(k, covariance="diagonal")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                pyrovae.fit(ours, x, progress=False)
            trees[str(k)] = pyrovae.to_arviz(ours, x, num_draws=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {k: az.loo(tree, pointwise=True) for k, tree in trees.items()}
            assert len(az.compare(trees)) == 3
        each = {k: np.asarray(one.loo_i if hasattr(one, "loo_i") else one.elpd_i) for k, one in found.items()}

        def difference(a, b, each=each):
            d = each[a] - each[b]
            return d.sum(), d.std(ddof=1) * math.sqrt(len(d))

        value, error = difference("3", "2")
        assert value > 4 * error
        value, error = difference("5", "3")
        assert value < 2 * error


def test_the_export_has_every_group(tmp_path):
    x = clusters(3, n=20)
    for covariance in COVARIANCES:
        ours = mixture(2, covariance=covariance)
        tree = pyrovae.to_arviz(ours, x, y=np.arange(20) % 2, num_draws=4)
        assert tree["posterior"]["weights"].dims == ("chain", "draw", "component")
        assert tree["log_likelihood"]["obs"].shape == (1, 4, 20)
        assert np.allclose(tree["log_likelihood"]["obs"], ours.log_likelihood(x, ours.draws(4)), atol=1e-12)
        assert tree["posterior_predictive"]["obs"].shape == (1, 4, 20, 2)
        assert ("correlation" in tree["posterior"]) == (covariance in ("full", "tied"))
        tree.to_netcdf(str(tmp_path / f"{covariance}.nc"))
        assert tree["posterior"].attrs["inference"].startswith("draws of a full-rank normal guide")


def test_a_second_fit_goes_on_and_a_saved_state_comes_back(tmp_path):
    x = clusters(4)
    ours = mixture(2, covariance="tied")
    pyrovae.fit(ours, x, progress=False, epochs=300)
    first = ours.log_prob(x, num_draws=200).mean()
    history = pyrovae.fit(ours, x, progress=False, epochs=1, learning_rate=1e-6)
    assert float(ours.log_prob(x, num_draws=200).mean()) == pytest.approx(float(first), abs=1e-3)
    assert history.epochs.sizes["epoch"] == 1
    again = pyrovae.load(pyrovae.save(tmp_path / "state", ours))
    assert torch.equal(again.log_prob(x, num_draws=50), ours.log_prob(x, num_draws=50))
    assert bool(again.started)


@pytest.mark.slow
def test_draws_of_nuts_are_part_of_the_state(tmp_path):
    x = clusters(6, n=40)
    ours = mixture(2, covariance="full")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pyrovae.fit(ours, x, method="nuts", num_chains=2, num_draws=6, num_warmup=6, progress=False)
    before = ours.log_prob(x)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", ours))
    assert torch.equal(again.log_prob(x), before)
    assert again.draws()["loc"].shape == (2, 6, 2, 2)
    assert again.float().draws()["loc"].dtype == torch.float32
    with pytest.raises(RuntimeError, match="Unexpected key"):
        mixture(2, covariance="full").load_state_dict(ours.state_dict())
    # what is refused leaves them, and a fit by SVI takes their place
    for bad in ({"epochs": -1}, {"num_particles": 2}, {"beta": 0.5}):
        with pytest.raises(ValueError, match=r"must be|not for a Bayesian"):
            pyrovae.fit(ours, x, **bad)
    assert torch.equal(ours.log_prob(x), before)
    pyrovae.fit(ours, x, epochs=5, progress=False)
    assert ours.sampled is None
    parts = {k: mixture(1, covariance="diagonal") for k in range(2)}
    for part in parts.values():
        part.keep(part.draws(5))
    both = pyrovae.GenerativeClassifier(parts)
    pyrovae.fit(both, np.concatenate([x, x + 9]), np.repeat([0, 1], 40), epochs=200, learning_rate=0.02, progress=False)
    assert all(part.sampled is None for part in parts.values())
    assert both.predict(x[:5] + 9).tolist() == [1] * 5
    assert (both.with_standard_error(x[:5])[1] > 0).all()


@pytest.mark.slow
def test_units_do_not_matter_where_the_priors_have_them():
    x = clusters(7, n=60)
    values = []
    for unit in (1.0, 1e-3, 1e3):
        ours = mixture(3, covariance="diagonal", prior_scale=3 * unit, scale_median=0.5 * unit)
        pyrovae.fit(ours, x * unit, progress=False, epochs=300)
        values.append(float(ours.log_prob(x * unit, num_draws=200).mean()) + 2 * math.log(unit))
    assert values == pytest.approx([values[0]] * 3, abs=0.02)


def test_a_start_that_single_precision_cannot_hold_changes_nothing():
    x = np.random.default_rng(0).normal(size=(60, 1)) @ np.ones((1, 2)) * 1000
    x[:, 1] += 1e-3 * np.arange(60)
    ours = pyrovae.BayesianGaussianMixture((2,), 1).float()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"cannot be mapped to the real line in torch\.float32"):
        pyrovae.fit(ours, x, progress=False)
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_fits_leave_the_callers_state_and_repeat():
    x = clusters(5, n=40)
    state = torch.get_rng_state()
    runs = []
    for _ in range(2):
        torch.set_rng_state(state)
        ours = mixture(2, covariance="spherical")
        before = torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pyrovae.fit(ours, x, method="nuts", num_chains=2, num_draws=5, num_warmup=5, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(ours.draws())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["loc"][0], runs[0]["loc"][1])  # each chain its own


def test_what_is_refused():
    ours, x = mixture(3), clusters(0, n=10)
    cases = {
        "x has 2 items for 3 components": {"x": x[:2]},
        "validation is not for a BayesianGaussianMixture": {"validation": x},
        "num_draws is an argument of NUTS, and this fit is by SVI": {"num_draws": 5},
        "epochs is an argument of SVI, and this fit is by NUTS": {"epochs": 5, "method": "nuts"},
        "num_chains must be an integer of at least 1, got 0": {"num_chains": 0, "method": "nuts"},
        "method='em' is for a GaussianMixture or a ColumnMixture, and this is a Bayesian": {"method": "em"},
        "takes no labels": {"y": np.zeros(10, int)},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            pyrovae.fit(ours, **{"x": x, "progress": False, **options})
    with pytest.raises(ValueError, match="method='nuts' is for a BayesianGaussianMixture, and this is a VAE"):
        pyrovae.fit(pyrovae.linear_vae(2, 1), x, method="nuts")
    for name in ("concentration", "prior_scale", "scale_median", "scale_spread", "correlation_concentration"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number greater than 0"):
            mixture(2, **{name: 0.0})
    for estimator in (pyrovae.elbo, pyrovae.iwae, pyrovae.exact, pyrovae.ais, pyrovae.quadrature):
        with pytest.raises(ValueError, match="has draws of its parameters: log_prob"):
            estimator(ours, x)
