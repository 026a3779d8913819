"""An evaluation session: an estimator of a user's own is its formula, and is treated as the package's are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import linear_log_prob

import pyrovae
from pyrovae.evaluation import Session, log_mean
from pyrovae.models.particles import latent_law, scored


def cubo(pair, x, *, num_particles=1000, seed=0, settings=()):
    """1/2 log mean_k w_k^2: the chi-square upper bound."""
    session = Session("cubo", pair)

    def bound(table):
        moment = log_mean(2 * table.log_weight)
        return {"value": moment["value"] / 2, "se": moment["se"] / 2}

    columns = session.from_particles(x, bound, num_particles=num_particles, seed=seed)
    return session.estimate(columns, bound="upper", settings=settings)


def from_the_prior(pair, x, *, num_draws=2000, seed=0):
    """log mean_k p(x | z_k), z_k from the prior: it draws for itself."""
    session = Session("simple Monte Carlo", pair)
    items = session.items(x)
    with session.workspace(session.noise(seed)).turn():
        z = latent_law(session.pair.model, size=1).sample((num_draws,))
        log_likelihood = scored(session.pair, items, z, guide=False).log_likelihood.double()
    session.protocol |= {"num_draws": num_draws, "seed": seed}
    return session.estimate(log_mean(log_likelihood), bound="lower", settings=["num_draws"])


@pytest.fixture
def wide(exact_linear_pair):
    """The linear pair whose guide has the posterior's mean, and 1.3 times its scale."""
    with torch.no_grad():
        q = exact_linear_pair.posterior
        log_scale = 10 * torch.tanh(q.raw_log_scale / 10) + math.log(1.3)
        q.raw_log_scale.copy_(10 * torch.atanh(log_scale / 10))
    return exact_linear_pair


def test_an_upper_bound_in_one_file_is_its_closed_form(wide):
    x = wide.sample(40, seed=1)
    upper, truth = cubo(wide, x, num_particles=20_000), pyrovae.exact(wide, x)
    # E_q[(p(z | x) / q)^2] = (r^2 / sqrt(2 r^2 - 1))^3 for three dimensions and r = 1.3
    above = 0.5 * 3 * math.log(1.3**2 / math.sqrt(2 * 1.3**2 - 1))
    gap = upper - truth
    assert gap.mean == pytest.approx(above, abs=4 * gap.se)
    assert gap.se < above / 20
    assert (pyrovae.elbo(wide, x) - truth).mean < -above / 2  # control: a lower bound lies below


def test_the_words_follow_from_the_bound(wide):
    x = wide.sample(4, seed=1)
    upper = cubo(wide, x)
    assert str(upper).startswith("cubo  ") and "log density  (4 items)" in str(upper)
    ledger = pyrovae.gaps(wide, x, upper, progress=False, max_steps=2)
    assert "log p(x) itself bounded from above by cubo" in str(ledger)
    assert "approximation gap at most" in str(ledger)
    below = from_the_prior(wide, x)
    assert "bounded from below by simple Monte Carlo" in str(pyrovae.gaps(wide, x, below, progress=False, max_steps=2))
    assert (upper - below).kind == "gap cubo - simple Monte Carlo"
    assert upper.pointwise["se"].attrs == {"long_name": "standard error of the value", "units": "nats"}
    assert {"pair_sha256", "items_sha256", "num_particles", "seed"} <= {*upper.pointwise.attrs}


def test_an_estimator_that_draws_for_itself_is_unbiased_on_the_natural_scale(wide):
    x = wide.sample(30, seed=2)
    ratio = np.exp(from_the_prior(wide, x, num_draws=20_000).pointwise["value"] - linear_log_prob(wide, x).numpy())
    se = float(ratio.std(ddof=1)) / math.sqrt(len(x))
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * se)
    assert se < 0.1


def test_two_pairs_are_compared_under_the_same_settings_alone(wide):
    x = wide.sample(4, seed=1)
    other = pyrovae.linear_vae(6, 3).double()
    assert (from_the_prior(wide, x) - from_the_prior(other, x)).kind == "difference in simple Monte Carlo"
    with pytest.raises(ValueError, match="was run with num_draws 2000 and 5; run both alike"):
        from_the_prior(wide, x) - from_the_prior(other, x, num_draws=5)
    with pytest.raises(ValueError, match="settings must name entries of the protocol, and temperature is none"):
        cubo(wide, x, settings=["temperature"])


def test_estimators_seeds_and_keys_have_random_numbers_of_their_own(wide):
    def draw(session, *keys):
        with session.workspace(session.noise(*keys)).turn():
            return torch.rand(3)

    first, other = Session("first", wide), Session("other", wide)
    draws = [draw(first, 0), draw(first, 1), draw(first, 0, "pilot"), draw(other, 0)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], draw(Session("first", wide), 0))


def test_the_caller_keeps_generators_modes_and_gradients(wide):
    x = wide.sample(4, seed=1)
    wide.train()
    before = torch.get_rng_state()
    cubo(wide, x)
    from_the_prior(wide, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert wide.training and torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in wide.parameters())


@pytest.mark.parametrize("estimator", [pyrovae.exact, pyrovae.quadrature])
def test_items_are_not_rounded_to_a_pairs_half_precision(estimator):
    # the items of every estimator are those given: of exact and quadrature too, which work in float64
    torch.manual_seed(0)
    half = pyrovae.linear_vae(5, 2).to(torch.bfloat16)
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    single = pyrovae.linear_vae(5, 2)
    single.load_state_dict(half.state_dict())
    value, expected = (estimator(pair, x).pointwise["value"].values for pair in (half, single))
    assert np.allclose(value, expected, atol=1e-6)
    rounded = estimator(single, x.to(torch.bfloat16).float()).pointwise["value"].values
    assert np.abs(rounded - expected).max() > 1e-3  # control: rounding them is seen


def test_columns_that_are_no_estimate_are_named(wide):
    x = wide.sample(4, seed=1)
    session = Session("mine", wide)
    with pytest.raises(RuntimeError, match="call items"):
        session.estimate({"value": np.zeros(4), "se": np.zeros(4)}, bound="lower")
    session.items(x)
    with pytest.raises(ValueError, match="mine must give columns 'value' and 'se' for each item, and has no 'se'"):
        session.estimate({"value": np.zeros(4)}, bound="lower")
    with pytest.raises(ValueError, match=r"column 'value' must have shape \(N\) for N = 4 items, got \(3,\)"):
        session.estimate({"value": np.zeros(3), "se": np.zeros(4)}, bound="lower")
    with pytest.raises(ValueError, match="bound must be one of 'lower', 'upper', 'exact', got 'above'"):
        session.estimate({"value": np.zeros(4), "se": np.zeros(4)}, bound="above")
    with pytest.raises(ValueError, match="column 'se' of mine has negative standard errors"):
        session.estimate({"value": np.zeros(4), "se": -np.ones(4)}, bound="lower")
    estimate = session.estimate({"value": torch.zeros(4), "se": torch.zeros(4)}, bound=None, errors="none")
    assert estimate.bound is None
    assert estimate.pointwise["value"].attrs == {"units": "nats"}


@pytest.mark.parametrize(
    ("reduce", "error", "words"),
    [
        (lambda table: None, TypeError, "mine must reduce the draws to a dictionary of columns"),
        (
            lambda table: {"value": table.log_weight.mean(), "se": 0.0},
            ValueError,
            r"'value' has shape \(\) for 4 items",
        ),
        (lambda table: {"value": table.log_weight, "se": 0.0}, ValueError, r"'value' has shape \(5, 4\) for 4 items"),
    ],
)
def test_what_is_no_column_an_item_is_named(wide, reduce, error, words):
    with pytest.raises(error, match=words):
        Session("mine", wide).from_particles(wide.sample(4, seed=1), reduce, num_particles=5)


def test_what_has_no_density_is_refused_in_the_estimators_name():
    with pytest.raises(ValueError, match=r"mine needs a p\(x\), and AE has none"):
        Session("mine", pyrovae.mlp_ae((3,)))
    with pytest.raises(TypeError, match=r"pair must be a torch\.nn\.Module"):
        Session("mine", 3)
