"""Covariates and exposure, against closed forms, statsmodels and errors that name the argument."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import data
from pyrovae.inference.items import Items
from pyrovae.models.pair import covariate_dim_of

N, D, F = 12, 3, 5


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(N, F + D, generator=generator, dtype=torch.float64)
    return draw[:, :F], draw[:, F:]


def linear(prior: str = "standard") -> pyrovae.VAE:
    torch.manual_seed(1)
    vae = pyrovae.linear_vae(F, 2, covariate_dim=D, prior=prior).double()
    if prior == "conditional":
        nn.init.normal_(vae.prior.network.layers[-1].weight, std=0.5)
    return vae


def regression(vae: pyrovae.VAE, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """log N(x; W m(c) + V c + mu, W S(c) W' + s^2 I), from the weights by hand."""
    network = vae.likelihood.network
    w, v = network.weight[:, :2], network.weight[:, 2:]
    p = vae.prior(covariates=c) if covariate_dim_of(vae.prior) else vae.prior()
    mean, variance = p.mean.expand(len(x), 2), p.variance.expand(len(x), 2)
    loc = mean @ w.T + c @ v.T + network.bias
    covariance = torch.einsum("fi,ni,gi->nfg", w, variance, w)
    covariance = covariance + vae.likelihood.family.scale.square() * torch.eye(F, dtype=x.dtype)
    return torch.distributions.MultivariateNormal(loc, covariance).log_prob(x).detach()


@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_a_linear_pair_is_the_regression_in_closed_form(given, prior) -> None:
    x, c = given
    vae = linear(prior)
    wanted = regression(vae, x, c)
    exact = torch.from_numpy(pyrovae.exact(vae, x, covariates=c).pointwise["value"].values)
    assert (exact - wanted).abs().max() < 1e-10
    # a control: the covariates of other items
    assert (exact - regression(vae, x, c.flip(0))).abs().max() > 0.1
    of_split = pyrovae.exact(vae, data.Split(x, None, covariates=c))
    assert (of_split.pointwise["value"].values == exact.numpy()).all()


@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_every_estimator_takes_covariates(given, prior) -> None:
    x, c = given
    vae = linear(prior)
    exact = pyrovae.exact(vae, x, covariates=c)
    analytic = pyrovae.elbo(vae, x, covariates=c, analytic=True)
    assert (exact - analytic).mean > 0
    elbo = pyrovae.elbo(vae, x, covariates=c, num_particles=4000)
    assert abs(elbo.mean - analytic.mean) < 5 * elbo.se
    iwae = pyrovae.iwae(vae, x, covariates=c, num_particles=4000)
    assert abs(iwae.mean - exact.mean) < 5 * iwae.se + 0.01
    other = pyrovae.iwae(vae, x, covariates=c.flip(0))
    with pytest.raises(ValueError, match="items"):
        exact - other


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_the_slower_estimators_take_covariates(given, prior) -> None:
    x, c = given[0][:4], given[1][:4]
    vae = linear(prior)
    split = data.Split(x, None, covariates=c)
    exact = pyrovae.exact(vae, split)
    assert abs((pyrovae.quadrature(vae, split, tol=1e-6) - exact).mean) < 1e-6
    ais = pyrovae.ais(vae, split, num_chains=8, num_steps=50, progress=False)
    assert abs(ais.mean - exact.mean) < 5 * ais.se
    lower, upper = pyrovae.bdmc(vae, 4, num_chains=8, num_steps=50, progress=False, covariates=c)
    assert -0.5 < (upper - lower).mean < 1
    gaps = pyrovae.gaps(vae, split, exact, progress=False, max_steps=50, num_evaluation=200)
    assert gaps.pointwise.gap.mean() > 0
    assert not pyrovae.calibrate(vae, covariates=c, num_simulations=200).passed
    tree = pyrovae.to_arviz(vae, split, num_draws=3)
    assert tree.constant_data["covariates"].shape == (4, D)
    assert vae.impute(x.masked_fill(x > 1, math.nan), covariates=c, num_draws=4, num_steps=20).shape == (4, 4, F)


def test_quadrature_with_an_exposure_is_that_of_scaled_rates() -> None:
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(3, 1, likelihood="poisson").double()
    x = torch.poisson(torch.full((4, 3), 2.0, dtype=torch.float64))
    two = pyrovae.quadrature(vae, x, exposure=torch.full((4,), 2.0))
    one = pyrovae.quadrature(vae, x)
    assert abs((two.pointwise["value"] - one.pointwise["value"]).values).max() > 0.05  # a dropped exposure is no match
    with torch.no_grad():
        vae.likelihood.network.bias.add_(math.log(2.0))
    scaled = pyrovae.quadrature(vae, x)
    assert abs((two.pointwise["value"] - scaled.pointwise["value"]).values).max() < 1e-6


def test_a_batch_draws_the_covariates_of_its_items() -> None:
    items = torch.arange(10.0)[:, None].expand(-1, F).contiguous()
    c = torch.arange(10.0)[:, None].expand(-1, D).contiguous()
    pair = pyrovae.linear_vae(F, 2, covariate_dim=D)
    source = Items(pair, data.Split(items, None, covariates=c), "x", False)
    seen = []
    for batch, _ in source.batches(3, seed=5, epoch=2):
        assert (batch.x[:, 0] == batch.covariates[:, 0]).all()
        seen += batch.x[:, 0].tolist()
    assert sorted(seen) == list(range(10)) != seen


@pytest.mark.slow
def test_a_fit_finds_the_coefficients_of_a_linear_pair() -> None:
    torch.manual_seed(0)
    c = torch.randn(500, 2)
    x = c @ torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.0, 2.0]]) + 0.1 * torch.randn(500, 3)
    vae = pyrovae.linear_vae(3, 1, covariate_dim=2)
    pyrovae.fit(vae, x, covariates=c, epochs=30, learning_rate=0.03, batch_size=50, progress=False)
    wanted = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.0, 2.0]])
    assert (vae.likelihood.network.weight[:, 1:].detach() - wanted).abs().max() < 0.1


@pytest.mark.parametrize("builder", ["mlp_vae", "conv_vae", "mlp_ae", "conv_ae"])
def test_decoder_and_encoder_of_each_builder_see_the_covariates(builder) -> None:
    torch.manual_seed(0)
    small = {"hidden_dims": (6,)} if builder.startswith("mlp") else {"channels": (3,), "strides": (2,)}
    pair = getattr(pyrovae, builder)((1, 4, 4), 2, covariate_dim=D, **small)
    x, c, other = torch.ones(3, 1, 4, 4), torch.zeros(3, D), torch.ones(3, D)
    assert not torch.allclose(pair.encode(x, covariates=c), pair.encode(x, covariates=other))
    z = torch.zeros(3, 2)
    assert not torch.allclose(pair.decode(z, covariates=c), pair.decode(z, covariates=other))
    assert torch.equal(pair.decode(z, covariates=other), pair.decode(z, covariates=torch.ones(D)))
    assert pair.reconstruct(data.Split(x, None, covariates=c)).shape == x.shape


class ByHand(nn.Module):
    """x = a c + z + e, in plain Pyro."""

    event_shape, latent_dim, is_normalized, covariate_dim = (1,), 1, True, 1

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones((), dtype=torch.float64))

    def model(self, x=None, *, size=1, covariates):
        import pyro
        import pyro.distributions as dist

        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(self.a.new_zeros(1), 1).to_event(1))
            return pyro.sample("obs", dist.Normal(self.a * covariates + z, 1).to_event(1), obs=x)

    def guide(self, x=None, *, size=1, covariates):
        import pyro
        import pyro.distributions as dist

        with pyro.plate("data", size if x is None else len(x)):
            loc = self.a.new_zeros(size, 1) if x is None else (x - self.a * covariates) / 2
            return pyro.sample("latent", dist.Normal(loc, math.sqrt(0.5)).to_event(1))


def test_a_pair_by_hand_takes_covariates() -> None:
    x, c = torch.randn(6, 1, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    wanted = torch.distributions.Normal(c, math.sqrt(2)).log_prob(x)[:, 0]
    value = torch.from_numpy(pyrovae.elbo(ByHand(), x, covariates=c).pointwise["value"].values)
    assert (value - wanted).abs().max() < 1e-10  # its guide is the posterior


SPLIT = data.Split(torch.zeros(4, F), None, covariates=torch.zeros(4, D))


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({}, "covariates are needed"),
        ({"covariates": torch.zeros(4, 2)}, r"covariates must have shape \(4, 3\).*\(4, 2\)"),
        ({"covariates": torch.zeros(5, 3)}, r"covariates must have shape \(4, 3\).*\(5, 3\)"),
        ({"covariates": [0, 1, 2, 0]}, "one_hot"),
        ({"covariates": torch.full((4, 3), math.nan)}, "covariates must be finite"),
        ({"covariates": torch.zeros(4, 3), "exposure": torch.ones(4)}, "exposure came"),
    ],
)
def test_what_is_wrong_beside_the_items_is_named(beside, words) -> None:
    vae, x = pyrovae.linear_vae(F, 2, covariate_dim=D), torch.zeros(4, F)
    for call in (pyrovae.elbo, pyrovae.iwae, pyrovae.exact, pyrovae.fit):
        with pytest.raises(ValueError, match=words):
            call(vae, x, **beside)
    with pytest.raises(ValueError, match=words):
        vae.encode(x, **beside)
    with pytest.raises(ValueError, match=words):
        vae.sample(4, **beside)


def test_more_of_what_is_wrong_beside_the_items() -> None:
    counts, x = pyrovae.linear_vae(F, 2, likelihood="poisson"), torch.zeros(4, F)
    for exposure, words in (
        (torch.tensor([1.0, 0.0, 1.0, 1.0]), "exposure must be positive.*item 1"),
        (torch.ones(3), r"exposure must have shape \(4,\)"),
        (torch.tensor([1.0, math.inf, 1.0, 1.0]), "exposure must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            pyrovae.elbo(counts, x, exposure=exposure)
    with pytest.raises(ValueError, match="takes none"):
        pyrovae.elbo(counts, SPLIT)
    with pytest.raises(ValueError, match="takes none"):
        pyrovae.fit(pyrovae.GaussianMixture((F,), 2), SPLIT)
    vae = pyrovae.linear_vae(F, 2, covariate_dim=D)
    with pytest.raises(ValueError, match="leave covariates= out"):
        pyrovae.elbo(vae, SPLIT, covariates=torch.zeros(4, D))
    with pytest.raises(ValueError, match="covariates of validation are needed"):
        pyrovae.fit(vae, SPLIT, validation=x)
    with pytest.raises(ValueError, match="evidence weighs the items differently than gaps"):
        pyrovae.gaps(vae, data.Split(x, None, torch.zeros(4, D), weight=torch.ones(4)), pyrovae.exact(vae, SPLIT))
    with pytest.raises(ValueError, match="conditional"):
        pyrovae.linear_vae(F, 2, prior="conditional")


def test_one_hot() -> None:
    assert data.one_hot(["b", "a"], ["a", "b", "c"]).tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="category 3"):
        data.one_hot([0, 3], 3)


# a pair whose decoder leaves z out is a regression ---------------------------------------------------------------


def visits(family):
    """Counts, covariates and exposures, and what statsmodels makes of them: coefficients, dispersion and log p."""
    sm = pytest.importorskip("statsmodels.api")
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    exposure = 0.5 + 2 * torch.rand(300, generator=generator, dtype=torch.float64)
    mean = exposure * (0.7 + c @ torch.tensor([0.5, -0.4], dtype=torch.float64)).exp()
    if family == "negative_binomial":
        mean = mean * -torch.rand(300, generator=generator, dtype=torch.float64).log()  # exponential: a dispersion of 1
    y = torch.poisson(mean, generator=generator)
    model = {"poisson": sm.Poisson, "negative_binomial": sm.NegativeBinomial}[family]
    result = model(y.numpy(), sm.add_constant(c.numpy()), exposure=exposure.numpy()).fit(
        disp=False, method="newton", tol=1e-12, maxiter=100
    )
    return data.Split(y[:, None], None, covariates=c, exposure=exposure), result


def log_likelihood(vae, split):
    return float(-pyrovae.elbo(vae, split, num_particles=1).pointwise["distortion"].sum())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_with_weights_of_z_at_zero_log_p_is_that_of_statsmodels(family) -> None:
    split, result = visits(family)
    away = result.params + 0.7  # where log p has slopes, so that a rounded dispersion is seen
    for params in (result.params, away):
        name = family if family == "poisson" else f"{family}(initial_dispersion={float(params[-1])!r})"
        vae = pyrovae.linear_vae(1, 1, likelihood=name, covariate_dim=2).double()
        network = vae.likelihood.network
        with torch.no_grad():
            network.weight[:, 0] = 0
            network.weight[:, 1:] = torch.from_numpy(params[1:3])
            network.bias.fill_(float(params[0]))
        wanted = result.model.loglike(params)
        assert abs(log_likelihood(vae, split) - wanted) < 1e-8
        dropped = data.Split(split.x, None, covariates=split.covariates)
        assert abs(log_likelihood(vae, dropped) - wanted) > 1  # control


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_with_weights_of_z_at_zero_a_fit_finds_the_coefficients_of_statsmodels(family) -> None:
    split, result = visits(family)
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(1, 1, likelihood=family, covariate_dim=2).double()
    weight = vae.likelihood.network.weight
    with torch.no_grad():
        weight[:, 0] = 0
    weight.register_hook(lambda gradient: gradient * torch.tensor([0.0, 1.0, 1.0], dtype=gradient.dtype))
    how = {"learning_rate": 0.05, "schedule": "cosine", "compile": False, "progress": False}
    pyrovae.fit(vae, split, epochs=200, batch_size=len(split.x), **how)
    found = [float(vae.likelihood.network.bias.detach()), *weight[0, 1:].tolist()]
    if family == "negative_binomial":
        found.append(float((-vae.likelihood.family.log_size()).exp().detach()))
    assert found == pytest.approx(result.params.tolist(), abs=1e-3)
    assert abs(log_likelihood(vae, split) - result.llf) < 1e-3
    assert weight[0, 0] == 0


def log_density_of_each_class(vae, x):
    """log p(x | c) for each of ten classes, (N, 10), of binary items and 2-d codes by the rectangle rule.

    Its nodes are 0.05 apart, so that of a posterior with scales from 0.05 on it has an error under 1e-8.
    """
    axis = torch.arange(-5.0, 5.001, 0.05)
    nodes = torch.cartesian_prod(axis, axis)
    log_weight = vae.prior().log_prob(nodes) + 2 * math.log(0.05)
    columns = []
    with torch.no_grad():
        for c in torch.eye(10):
            logits = vae.likelihood(nodes, covariates=c.expand(len(nodes), 10)).base_dist.logits.flatten(1)
            table = x.flatten(1) @ logits.T - nn.functional.softplus(logits).sum(1)
            columns.append((table + log_weight).double().logsumexp(1))
    return torch.stack(columns, 1)


@pytest.mark.slow
def test_a_label_is_worth_between_nothing_and_its_entropy_and_shuffled_labels_nothing() -> None:
    digits = data.load("digits")
    x, y = data.binarize(digits.test.x)[:150], digits.test.y[:150]
    intervals, right = [], []
    for shuffled in (False, True):
        torch.manual_seed(0)
        of_train = digits.train.y[torch.randperm(len(digits.train.y))] if shuffled else digits.train.y
        vae = pyrovae.mlp_vae(digits.event_shape, 2, hidden_dims=(64,), covariate_dim=10)
        train = data.Split(digits.train.x, None, covariates=data.one_hot(of_train, 10))
        pyrovae.fit(vae, train, binarize=True, epochs=40, learning_rate=3e-3, compile=False, progress=False)
        table = log_density_of_each_class(vae, x)
        adaptive = pyrovae.quadrature(pyrovae.Given(vae, torch.eye(10)[3]), x[:2], tol=1e-4).pointwise["value"].values
        assert table[:2, 3].numpy() == pytest.approx(adaptive, abs=2e-3)
        gain = table.gather(1, y[:, None])[:, 0] - (table.logsumexp(1) - math.log(10))
        intervals.append(pyrovae.paired_interval(gain.numpy()))
        right.append(float((table.argmax(1) == y).double().mean()))
    (_, low, high), (_, low_of_shuffled, _) = intervals
    assert 0 < low < high < math.log(10)
    assert low_of_shuffled < 0
    assert right[0] > 0.8 > 0.3 > right[1]


def test_a_pair_at_one_value_of_its_covariates_is_a_density(given) -> None:
    x, c = given
    vae = linear()
    at = pyrovae.iwae(pyrovae.Given(vae, c[0]), x[:1], num_particles=2000)
    assert abs(at.mean - float(regression(vae, x[:1], c[:1]))) < 5 * at.se + 0.01
    codes = pyrovae.encoded(vae, data.Split(x, None, covariates=c))
    assert torch.equal(codes, vae.encode(x, covariates=c).detach())
    with pytest.raises(ValueError, match="one item"):
        pyrovae.Given(vae, c)


def test_covariates_that_float32_cannot_tell_apart_are_refused():
    # seconds since 1970: float32 has steps of 128 there
    seconds = 1.7e9 + torch.arange(50, dtype=torch.float64)[:, None]
    vae, x = pyrovae.mlp_vae((3,), 1, hidden_dims=(4,), covariate_dim=1).float(), torch.zeros(50, 3)
    quick = {"epochs": 1, "progress": False, "compile": False}
    with pytest.raises(
        ValueError, match=r"torch\.float32 does not hold covariates: .* one column, covariates\[:, 0\] \(mean"
    ):
        pyrovae.fit(vae, x, covariates=seconds, **quick)
    for fine in (seconds - seconds.mean(), torch.full((50, 1), 0.1, dtype=torch.float64)):
        assert math.isfinite(float(pyrovae.fit(vae, x, covariates=fine, **quick).epochs.loss[-1]))


@pytest.mark.parametrize("side", ["x", "validation"])
def test_an_exposure_of_one_part_of_a_fit_alone_is_refused(side):
    x, e = torch.poisson(torch.full((20, 3), 2.0)), torch.full((20,), 4.0)
    pair = pyrovae.mlp_vae((3,), 1, hidden_dims=(2,), likelihood="poisson")
    split = pyrovae.data.Split(x, exposure=e)
    parts = (split, x) if side == "x" else (x, split)
    with pytest.raises(ValueError, match=f"{side} comes with an exposure and .* without one"):
        pyrovae.fit(pair, parts[0], validation=parts[1], epochs=1, progress=False)


@pytest.mark.parametrize(
    ("given", "hint"),
    [({"exposure": 3.0}, "torch.full"), ({"exposure": [[1.0]] * 20}, "ravel"), ({"covariates": ["a"] * 20}, "one_hot")],
)
def test_what_is_of_another_shape_or_kind_is_told_how_it_should_be(given, hint):
    dim = {"covariate_dim": 1} if "covariates" in given else {}
    pair = pyrovae.mlp_vae((3,), 1, hidden_dims=(2,), likelihood="poisson", **dim)
    with pytest.raises((TypeError, ValueError), match=hint):
        pyrovae.elbo(pair, torch.ones(20, 3), **given)
