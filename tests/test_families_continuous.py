"""Families of real and of positive entries against SciPy: their densities, integrals, draws, moments and extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae import Gamma, HeteroscedasticNormal, Laplace, LogNormal, Normal, StudentT
from pyrovae.models.parts.counts import stirling_error
from pyrovae.models.parts.student_t import log_gamma_half_ratio
from pyrovae.models.registry import make, name_of


def log_mean(value):
    """The network's output that gives this mean of a Gamma."""
    return math.log(value)


def softplus(raw):
    return math.log1p(math.exp(raw))


# a family, the network's outputs for an entry, and the same distribution from SciPy
CASES = {
    "normal": (Normal(scale=0.7), (1.3,), lambda f: stats.norm(1.3, 0.7)),
    "normal, sigmoid": (Normal(scale=0.7, link="sigmoid"), (1.0,), lambda f: stats.norm(1 / (1 + math.exp(-1)), 0.7)),
    "heteroscedastic": (HeteroscedasticNormal(0.3), (-2.0, -0.4), lambda f: stats.norm(-2.0, 0.3 + softplus(-0.4))),
    "student_t, df 0.8": (StudentT(df=0.8, scale=0.5), (1.3,), lambda f: stats.t(0.8, 1.3, 0.5)),
    "student_t, df 5": (StudentT(df=5.0, scale=2.0), (-1.0,), lambda f: stats.t(5.0, -1.0, 2.0)),
    "student_t, df 300": (StudentT(df=300.0, scale=2.0), (0.0,), lambda f: stats.t(300.0, 0.0, 2.0)),
    "student_t, learned": (
        StudentT(initial_df=7.5, initial_scale=0.4),
        (0.5,),
        lambda f: stats.t(float(f.df), 0.5, float(f.scale)),
    ),
    "laplace": (Laplace(scale=0.7), (1.3,), lambda f: stats.laplace(1.3, 0.7)),
    "log_normal": (LogNormal(scale=0.7), (0.4,), lambda f: stats.lognorm(0.7, scale=math.exp(0.4))),
    "gamma, shape 0.6": (Gamma(shape=0.6), (log_mean(3.0),), lambda f: stats.gamma(0.6, scale=3.0 / 0.6)),
    "gamma, shape 1": (Gamma(shape=1.0), (log_mean(0.02),), lambda f: stats.expon(scale=0.02)),
    "gamma, shape 40": (Gamma(shape=40.0), (log_mean(3.0),), lambda f: stats.gamma(40.0, scale=3.0 / 40)),
    "gamma, learned": (
        Gamma(initial_shape=9.0, floor=0.1),
        (log_mean(7.0),),
        lambda f: stats.gamma(float(f.shape), scale=7.0 / float(f.shape)),
    ),
}


def laws(name):
    """The distribution of an entry in float64, and SciPy's."""
    family, outputs, reference = CASES[name]
    with torch.no_grad():
        p = family.double()(*(torch.tensor(value, dtype=torch.float64) for value in outputs))
        return p, reference(family)


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_scipys(name):
    p, reference = laws(name)
    share = np.concatenate([[1e-9, 1e-5], np.linspace(0.01, 0.99, 25), [1 - 1e-5, 1 - 1e-9]])
    x = torch.from_numpy(reference.ppf(share))
    expected = reference.logpdf(x)
    assert p.log_prob(x).numpy() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert p.log_prob(x * 1.0001).numpy() != pytest.approx(expected, rel=1e-10, abs=1e-10)  # control


@pytest.mark.parametrize("name", CASES)
def test_the_density_integrates_to_one(name):
    p, reference = laws(name)
    # x = centre +- spread e^u has the figures of every tail and of the end of a half-line: an error of 1e-13
    u = torch.linspace(-60.0, 60.0, 6001, dtype=torch.float64)
    distance = (reference.ppf(0.75) - reference.ppf(0.25)) * u.exp()
    is_positive = not bool(p.support.check(torch.tensor(-1.0)))
    sides = [distance] if is_positive else [reference.median() + distance, reference.median() - distance]
    total = sum(float((p.log_prob(x).exp() * distance).sum() * (u[1] - u[0])) for x in sides)
    assert abs(total - 1) < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_draws_and_moments_are_scipys(name):
    p, reference = laws(name)
    torch.manual_seed(0)
    draws = p.sample((4000,)).numpy()
    # Kolmogorov-Smirnov at 1e-4, thirteen distributions: false alarm 1.3e-3, seed fixed
    assert stats.kstest(draws, reference.cdf).pvalue > 1e-4
    spread = reference.ppf(0.75) - reference.ppf(0.25)
    assert stats.kstest(draws + 0.1 * spread, reference.cdf).pvalue < 1e-4  # control
    mean, variance, kurtosis = (float(one) for one in reference.stats("mvk"))
    if not math.isfinite(mean) or name == "student_t, df 0.8":
        return
    assert float(p.mean) == pytest.approx(mean, rel=1e-9, abs=1e-9)
    assert float(p.variance) == pytest.approx(variance, rel=1e-9)
    if math.isfinite(kurtosis):  # the fourth moment exists: 4.5 standard errors, twelve cases, false alarm 2e-4
        assert abs(draws.mean() - mean) < 4.5 * math.sqrt(variance / len(draws))
        assert abs(draws.var() / variance - 1) < 4.5 * math.sqrt((kurtosis + 2) / len(draws))


def test_a_learned_number_starts_where_asked_and_stays_above_its_floor():
    family = StudentT(initial_df=7.5, initial_scale=0.4, floor=0.05)
    assert (float(family.df.detach()), float(family.scale.detach())) == pytest.approx((7.5, 0.4), rel=1e-6)
    gamma = Gamma(initial_shape=9.0, floor=0.1)
    assert float(gamma.shape.detach()) == pytest.approx(9.0, rel=1e-6)
    with torch.no_grad():
        for raw in (family.raw_df, family.log_scale, gamma.log_spread):
            raw.fill_(-1e4)
        numbers = float(family.df), float(family.scale), float(gamma.shape)
        assert numbers == pytest.approx((1.0, 0.05, 100.0), rel=1e-4)
        assert float(family.df) > 1  # so that it has a mean
        family.raw_df.fill_(1e4)
        assert float(family.df) < 22_100


# numbers ---------------------------------------------------------------------------------------------------


def test_differences_of_log_gamma_keep_their_figures():
    a = torch.tensor([1e-3, 0.5, 3.0, 9.999, 14.999, 15.0, 50.0, 1e3, 1e5], dtype=torch.float64)
    # log Gamma in forty figures, by mpmath where it is, which SymPy, and so torch, brings
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        gamma = [mpmath.loggamma(mpmath.mpf(float(v))) for v in a]
        half = [mpmath.loggamma(mpmath.mpf(float(v)) + 0.5) for v in a]
        stirling = [(v - 0.5) * mpmath.log(v) - v + mpmath.log(2 * mpmath.pi) / 2 for v in map(mpmath.mpf, a.tolist())]
        remainder = [float(g - s) for g, s in zip(gamma, stirling, strict=True)]
        ratio = [float(h - g) for h, g in zip(half, gamma, strict=True)]
    assert stirling_error(a).numpy() == pytest.approx(np.array(remainder), abs=1e-14)
    assert log_gamma_half_ratio(a).numpy() == pytest.approx(np.array(ratio), rel=1e-13, abs=1e-13)
    single = log_gamma_half_ratio(a.float()).double().numpy()
    assert single == pytest.approx(np.array(ratio), rel=2e-6, abs=2e-6)
    plain = (torch.lgamma(a.float() + 0.5) - torch.lgamma(a.float())).double().numpy()
    assert plain != pytest.approx(np.array(ratio), rel=1e-3, abs=1e-3)  # control: the plain difference
    a = torch.tensor([0.3, 14.9, 15.1, 200.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stirling_error, a) and torch.autograd.gradcheck(log_gamma_half_ratio, a)


def test_single_precision_keeps_its_figures_where_the_tails_are_nearly_normal():
    x = torch.linspace(0.5, 2.0, 16)
    for family, plain in (
        (StudentT(df=2e4, scale=1.0), torch.distributions.StudentT(2e4, torch.zeros(16))),
        (Gamma(shape=1e5), torch.distributions.Gamma(torch.full((16,), 1e5), 1e5)),
    ):
        values = 1 + (x - 1.25) / 300 if isinstance(family, Gamma) else x
        exact = family(torch.zeros(16, dtype=torch.float64)).log_prob(values.double())
        assert (family(torch.zeros(16)).log_prob(values).double() - exact).abs().max() < 2e-4
        assert (plain.log_prob(values).double() - exact).abs().max() > 2e-3  # control: torch's own form


EXTREMES = [
    "normal(per_entry=True)",
    "normal(link='sigmoid')",
    "heteroscedastic_normal",
    "student_t",
    "student_t(df=0.5, per_entry=True)",
    "laplace",
    "log_normal",
    "gamma",
    "gamma(shape=0.1)",
    "gamma(initial_shape=1e5)",
]


@pytest.mark.parametrize("text", EXTREMES)
def test_no_output_of_the_network_and_no_item_makes_a_gradient_infinite(text):
    family = make("likelihood", text)
    if hasattr(family, "bind"):
        family.bind((1,))
    count = getattr(family, "num_parameters", 1)
    ends = torch.tensor([-1e3, -80.0, 0.0, 80.0, 1e3])
    for x in (1e-6, 1.0, 1e3) + (() if family.support is torch.distributions.constraints.positive else (-1e3, 0.0)):
        grid = [one.reshape(-1, 1).clone().requires_grad_() for one in torch.meshgrid(*[ends] * count, indexing="ij")]
        value = family(*grid).log_prob(torch.tensor(x))
        gradients = torch.autograd.grad(value.sum(), [*grid, *family.parameters()], allow_unused=True)
        assert value.isfinite().all() and all(g.isfinite().all() for g in gradients if g is not None)


# a scale for each entry ------------------------------------------------------------------------------------

PER_ENTRY = ["normal", "student_t", "laplace", "log_normal", "gamma"]


@pytest.mark.parametrize("name", PER_ENTRY)
def test_a_scale_for_each_entry_is_of_that_entry(name):
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((2, 3), hidden_dims=(4,), likelihood=f"{name}(per_entry=True)")
    family = vae.likelihood.family
    own = family.log_spread if name == "gamma" else family.log_scale
    assert own.shape == (2, 3) and own.requires_grad
    z, x = torch.randn(5, 2), torch.rand(5, 2, 3) + 0.5
    (gradient,) = torch.autograd.grad(vae.likelihood(z).log_prob(x).sum(), own)
    with torch.no_grad():
        own.copy_(torch.linspace(-1.5, 0.5, 6).reshape(2, 3))
    whole = vae.likelihood(z).base_dist.log_prob(x)
    shared = make("likelihood", name)
    for place in ((0, 0), (1, 2)):
        with torch.no_grad():
            (shared.log_spread if name == "gamma" else shared.log_scale).copy_(own[place])
        alone = shared(vae.likelihood.network(z)).log_prob(x)
        assert torch.allclose(whole[:, place[0], place[1]], alone[:, place[0], place[1]])
        assert not torch.allclose(whole[:, 0, 1], alone[:, 0, 1])  # control
    assert gradient.unique().numel() == 6


def test_a_family_that_knows_no_shape_yet_or_another_one_says_so():
    family = Normal(per_entry=True)
    with pytest.raises(ValueError, match=r"Normal\(per_entry=True\) does not know the shape of an item yet"):
        family(torch.zeros(3))
    with pytest.raises(ValueError, match=r"Gamma\(per_entry=True\) does not know the shape"):
        Gamma(per_entry=True)(torch.zeros(3))
    vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=family)
    with pytest.raises(
        ValueError, match=r"Normal has a scale for each entry of items of shape \(3,\), .* shape \(4,\)"
    ):
        pyrovae.mlp_vae((4,), hidden_dims=(4,), likelihood=vae.likelihood.family)
    again = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=vae.likelihood.family).likelihood.family
    assert torch.equal(again.log_scale, vae.likelihood.family.log_scale) and again is not vae.likelihood.family


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Normal(scale=1.0, per_entry=True), "per_entry learns a scale for each entry, and scale fixes one"),
        (lambda: Laplace(initial_scale=1e-4), r"initial_scale must be greater than floor \(0.001\), got 0.0001"),
        (lambda: LogNormal(scale=0.0), "scale must be"),
        (lambda: StudentT(df=-1.0), "df must be"),
        (lambda: StudentT(initial_df=1.0), r"initial_df must be greater than df_floor \(1\)"),
        (lambda: Gamma(shape=0), "shape must be"),
        (lambda: Gamma(shape=1.0, per_entry=True), "per_entry learns a shape for each entry, and shape fixes one"),
        (lambda: Gamma(initial_shape=1e7), r"initial_shape must be less than 1 / floor\^2 \(1e\+06\)"),
        (lambda: HeteroscedasticNormal(floor=0.0), "floor must be"),
        (lambda: Laplace(link="logit"), "link must be one of 'identity', 'sigmoid'"),
    ],
)
def test_numbers_that_make_no_density_are_refused(made, words):
    with pytest.raises(ValueError, match=words):
        made()


def test_factor_analysis_has_its_closed_form():
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(4, 2, likelihood="normal(per_entry=True)").double()
    with torch.no_grad():
        vae.likelihood.family.log_scale.copy_(torch.tensor([-1.5, 0.0, -0.3, 0.8]))
    x = torch.randn(20, 4, dtype=torch.float64)
    weight, offset = (t.detach().numpy() for t in (vae.likelihood.network.weight, vae.likelihood.network.bias))
    noise = vae.likelihood.family.scale.detach().numpy() ** 2
    truth = stats.multivariate_normal(offset, weight @ weight.T + np.diag(noise)).logpdf(x.numpy())
    exact = pyrovae.exact(vae, x)
    assert exact.pointwise["value"].values == pytest.approx(truth, abs=1e-10)
    one_scale = stats.multivariate_normal(offset, weight @ weight.T + np.eye(4) * noise.mean()).logpdf(x.numpy())
    assert exact.pointwise["value"].values != pytest.approx(one_scale, abs=1e-2)  # control
    analytic = pyrovae.elbo(vae, x, analytic=True)
    drawn = pyrovae.elbo(vae, x, num_particles=2000, seed=1)
    assert abs(analytic.mean - drawn.mean) < 4 * drawn.se  # false alarm 6e-5
    quadrature = pyrovae.quadrature(vae, x[:3], tol=1e-6).pointwise["value"].values
    assert quadrature == pytest.approx(truth[:3], abs=1e-5)


# in pairs --------------------------------------------------------------------------------------------------

FAMILIES = [
    "normal(per_entry=True)",
    "heteroscedastic_normal(floor=0.05)",
    "student_t(df=4.0)",
    "student_t(per_entry=True)",
    "laplace",
    "log_normal",
    "gamma(per_entry=True)",
]
BUILDERS = {
    "mlp_vae": lambda likelihood: pyrovae.mlp_vae((5,), 2, hidden_dims=(8,), likelihood=likelihood),
    "conv_vae": lambda likelihood: pyrovae.conv_vae((2, 5, 4), 2, channels=(4,), strides=(2,), likelihood=likelihood),
    "linear_vae": lambda likelihood: pyrovae.linear_vae(7, 2, likelihood=likelihood),
    "mlp_ae": lambda likelihood: pyrovae.mlp_ae((2, 3), 2, hidden_dims=(8,), likelihood=likelihood),
}


def items(pair, n=60):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *pair.event_shape, generator=generator).mul(0.5).exp()


@pytest.mark.parametrize("likelihood", FAMILIES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_each_builder_takes_each_family(builder, likelihood):
    torch.manual_seed(0)
    pair = BUILDERS[builder](likelihood)
    z, x = torch.randn(3, 2), items(pair, 3)
    p = pair.likelihood(z)
    assert p.batch_shape == (3,) and p.event_shape == pair.event_shape
    p.log_prob(x).sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in pair.likelihood.parameters())
    decoded = pair.decode(z)
    assert decoded.shape == x.shape and decoded.isfinite().all()
    again = pyrovae.models.registry.build(pair.recipe)
    again.load_state_dict(pair.state_dict())
    assert torch.equal(again.decode(z), decoded) and name_of(again.likelihood.family) == name_of(pair.likelihood.family)


def test_a_state_comes_back(tmp_path):
    for number, likelihood in enumerate(FAMILIES):
        vae = BUILDERS["mlp_vae"](likelihood)
        again = pyrovae.load(pyrovae.save(tmp_path / str(number), vae))
        assert str(again) == str(vae)
        assert all(torch.equal(t, again.state_dict()[name]) for name, t in vae.state_dict().items())


def test_values_outside_the_support_are_refused_and_fitting_families_named():
    vae = BUILDERS["mlp_vae"]("gamma")
    x = items(vae)
    x[3, 2] = 0.0
    with pytest.raises(ValueError, match=r"the gamma likelihood, .* first x\[3, 2\] = 0; .*: 'normal', 'student_t' or"):
        pyrovae.elbo(vae, x)
    counts = torch.tensor([[0.0, 3.0, 1.0, 2.0, 0.0]])
    for family in ("gamma", "bernoulli"):
        with pytest.raises(ValueError, match="'poisson' or 'negative_binomial'"):
            pyrovae.elbo(BUILDERS["mlp_vae"](family), counts)
    with pytest.raises(ValueError, match="fits: 'normal', 'gamma' or 'log_normal'"):
        pyrovae.elbo(BUILDERS["mlp_vae"]("continuous_bernoulli"), counts + 0.3)


def test_decode_refuses_where_there_is_no_mean():
    z = torch.zeros(1, 2)
    for likelihood in ("student_t(df=1.0)", "student_t(df_floor=0.1, initial_df=0.5)"):
        with pytest.raises(ValueError, match="StudentT has no mean with these parameters: look at draws, or at their"):
            BUILDERS["mlp_vae"](likelihood).decode(z)
    assert BUILDERS["mlp_vae"]("student_t(df=1.01)").decode(z).isfinite().all()


@pytest.fixture(scope="module")
def fitted():
    """A pair of each family, fitted for a moment to positive items that are not on its mean."""
    pairs = {}
    for likelihood in FAMILIES:
        torch.manual_seed(0)
        pairs[likelihood] = pair = BUILDERS["mlp_vae"](likelihood)
        pyrovae.fit(pair, items(pair, 300), epochs=10, learning_rate=1e-2, compile=False, progress=False)
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", FAMILIES)
def test_what_else_evaluates_a_pair(fitted, likelihood):
    pair = fitted[likelihood]
    x = items(pair, 300)[:8]
    truth = pyrovae.quadrature(pair, x).pointwise["value"].values
    estimate = pyrovae.iwae(pair, x, num_particles=2000, seed=1)
    # exp(IWAE - quadrature) has mean 1: 4 standard errors, seven families, false alarm 5e-4
    ratio = torch.from_numpy(estimate.pointwise["value"].values - truth).exp()
    error = float(torch.from_numpy(estimate.pointwise["se"].values).square().sum().sqrt()) / len(ratio)
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert abs(float(ratio.mean()) * 1.1 - 1) > 4 * error  # control: a tenth off would be seen
    ais = pyrovae.ais(pair, x[:5], num_chains=16, num_steps=100, progress=False)
    assert abs(ais.mean - truth[:5].mean()) < 4 * ais.se + 1e-3
    tree = pyrovae.to_arviz(pair, x[:6], num_draws=5)
    assert tree["posterior"]["latent"].shape == (1, 5, 6, 2)
    hidden = x.clone()
    hidden[:, 1] = torch.nan
    draws = pair.impute(hidden, num_draws=3)
    assert draws.shape == (3, 8, 5) and torch.equal(draws[0][:, 0], x[:, 0]) and draws.isfinite().all()
    assert bool(pair.likelihood.support.check(draws).all())
