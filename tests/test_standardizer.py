"""Location and scale of columns: what is measured, of which items, and that log p(x) stays in the items' units."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae.models.parts.standardizer import InUnits, Standardizer, standardizer_of

CONTINUOUS = ["normal", "student_t(df=4.0)", "laplace", "heteroscedastic_normal", "log_normal", "gamma"]
QUIET = {"epochs": 2, "batch_size": 16, "progress": False}


def items(count=60, *, seed=0):
    """Three positive columns of unlike scales, in float64."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * torch.tensor([0.1, 0.5, 0.3]) + torch.tensor([-5.0, 0.0, 7.0])).exp()


def pair_of(likelihood="normal", *, seed=0, build=pyrovae.mlp_vae, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    options = {"hidden_dims": (4,), "standardize": True, **options} if build is pyrovae.mlp_vae else options
    shape = (3,) if build is pyrovae.mlp_vae else 3
    return build(shape, 1, likelihood=likelihood, **options).to(dtype)


def measured(vae):
    return standardizer_of(vae.likelihood.family)


def test_moments_are_those_of_numpy_by_weight_of_what_is_seen_whatever_the_batches():
    x = items().numpy()
    x[3, 0], x[5:9, 2] = math.nan, math.nan
    weight = np.arange(60) % 4
    t = np.log(np.repeat(x, weight, 0))
    whole, parts = Standardizer((3,), sees="log"), Standardizer((3,), sees="log")
    whole.measure([(torch.tensor(x), torch.tensor(weight))])
    split = (slice(0, 1), slice(1, 40), slice(40, 60))
    parts.measure([(torch.tensor(x[part]), torch.tensor(weight[part])) for part in split])
    for each in (whole, parts):
        np.testing.assert_allclose(each.loc, np.nanmean(t, 0), rtol=1e-12)
        np.testing.assert_allclose(each.scale, np.nanstd(t, 0), rtol=1e-12)
    unweighted = Standardizer((3,), sees="log")
    unweighted.measure([(torch.tensor(x), None)])
    assert not np.allclose(unweighted.loc, np.nanmean(t, 0), rtol=1e-4)  # control


def test_channels_are_measured_over_their_pixels():
    x = torch.randn(20, 2, 3, 5, dtype=torch.float64)
    standardizer = Standardizer((2, 1, 1))
    standardizer.measure([(x[:7], None), (x[7:], None)])
    torch.testing.assert_close(standardizer.loc.flatten(), x.mean((0, 2, 3)))
    torch.testing.assert_close(standardizer.scale.flatten(), x.std((0, 2, 3), correction=0))


def test_a_constant_column_is_named_and_has_scale_1():
    x = items()
    x[:, 1] = 0.1
    standardizer = Standardizer((3,), names=["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"column 'b' \(all 0\.1\) of x has no two values"):
        standardizer.measure([(x[:10], None), (x[10:], None)])
    assert standardizer.scale[1] == 1 and standardizer.loc[1] == 0.1
    x[:, 2], x[1:, 0] = math.nan, math.nan
    with pytest.warns(UserWarning, match=r"x\[:, 0\] .*, x\[:, 1\] .* x\[:, 2\] \(not seen at all\) of x have"):
        Standardizer((3,)).measure([(x, None)])


@pytest.mark.parametrize("likelihood", CONTINUOUS)
def test_a_column_times_1000_lowers_log_p_by_log_1000(likelihood):
    """The same parameters, mapped: location and scale times 1,000, of logarithms plus log 1,000."""
    x, z = items(), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    vae = pair_of(likelihood)
    standardizer = measured(vae)
    standardizer.measure([(x, None)])
    before = vae.likelihood(z[:, None]).base_dist.log_prob(x)
    if standardizer.sees == "log":
        standardizer.loc[1] += math.log(1000)
    else:
        standardizer.loc[1] *= 1000
        standardizer.scale[1] *= 1000
    x[:, 1] *= 1000
    after = vae.likelihood(z[:, None]).base_dist.log_prob(x)
    lower = torch.tensor([0.0, math.log(1000), 0.0], dtype=torch.float64).expand_as(before)
    torch.testing.assert_close(before - after, lower, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "build"), [("normal", pyrovae.linear_vae), ("normal(per_entry=True)", None)])
def test_a_refit_at_1024_times_a_column_and_a_shift(likelihood, build):
    build = build or pyrovae.mlp_vae
    x, standardize = items(), {"standardize": True}
    other = x * torch.tensor([1.0, 1024.0, 1.0])
    shifted = x + torch.tensor([0.0, 64.0, 0.0])
    means = []
    for each in (x, other, shifted):
        vae = pair_of(likelihood, build=build, **standardize)
        pyrovae.fit(vae, each, validation=each[:5] * 1e3, **QUIET)
        log_p = (
            pyrovae.exact if build is pyrovae.linear_vae else pyrovae.quadrature
        )  # of which no noise goes by the pair
        means.append(log_p(vae, each[:10]).mean)
    assert means[0] - means[1] == pytest.approx(math.log(1024), abs=1e-6)
    assert means[0] == pytest.approx(means[2], abs=1e-6)


@pytest.mark.parametrize("floor", [0.001, 2.0])
def test_a_floor_that_is_given_is_absolute_and_the_default_is_relative(floor):
    vae = pair_of(pyrovae.Normal(floor=floor, initial_scale=3.0))
    measured(vae).measure([(items() * 1e3, None)])
    with torch.no_grad():
        vae.likelihood.family.log_scale.fill_(-100.0)
    scale = vae.likelihood.family.scale.detach()
    expected = torch.full((3,), 2.0).double() if floor == 2.0 else 1e-3 * measured(vae).scale
    torch.testing.assert_close(scale, expected)


def test_a_linear_pair_stays_one_and_exact_is_its_marginal():
    x = items()
    vae = pair_of(build=pyrovae.linear_vae, standardize=True)
    pyrovae.fit(vae, x, **QUIET)
    with torch.no_grad():
        offset = vae.decode(torch.zeros(1, dtype=torch.float64))
        weight = (vae.decode(torch.ones(1, dtype=torch.float64)) - offset)[:, None]
        covariance = weight @ weight.T + vae.likelihood.family.scale.square().diag()
    sd = covariance.diag().sqrt()  # scipy takes the covariance of columns of unlike scales for a singular one
    expected = stats.multivariate_normal(offset / sd, covariance / sd / sd[:, None]).logpdf(x / sd) - float(
        sd.log().sum()
    )
    np.testing.assert_allclose(pyrovae.exact(vae, x).pointwise["value"], expected, rtol=1e-10)
    quadrature = pyrovae.quadrature(vae, x).pointwise["value"]
    np.testing.assert_allclose(quadrature, expected, atol=1e-4)


def test_the_training_items_alone_are_measured_once_and_saved(tmp_path):
    x = items()
    vae = pair_of("log_normal")
    pyrovae.fit(vae, x, validation=1e6 * x, **QUIET)
    loc = x.log().mean(0)
    torch.testing.assert_close(measured(vae).loc, loc)
    pyrovae.fit(vae, 2 * x, **QUIET)
    torch.testing.assert_close(measured(vae).loc, loc)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert measured(again).is_measured and torch.equal(measured(again).loc, measured(vae).loc)
    assert measured(again) is again.posterior.network[0].standardizer
    assert pyrovae.iwae(again, x, num_particles=3).mean == pyrovae.iwae(vae, x, num_particles=3).mean


@pytest.mark.slow
def test_what_is_seen_alone_is_measured_and_scored_in_the_items_units():
    x = items()
    x[::3, 1], x[1::4, 2] = math.nan, math.nan
    vae = pair_of(missing=True)
    pyrovae.fit(vae, x, missing=True, **QUIET)
    np.testing.assert_allclose(measured(vae).loc, np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(measured(vae).scale, np.nanstd(x, 0), rtol=1e-12)
    other = pair_of(missing=True)
    other.load_state_dict(vae.state_dict())
    measured(other).loc[1] *= 1000
    measured(other).scale[1] *= 1000
    times = torch.tensor([1.0, 1000.0, 1.0])
    before, after = (
        pyrovae.quadrature(pair, part, missing=True).pointwise["value"].values
        for pair, part in ((vae, x), (other, times * x))
    )
    lower = math.log(1000) * (~x[:, 1].isnan()).double()
    np.testing.assert_allclose(before - after, lower, rtol=0, atol=1e-9)
    assert (np.abs(before - after - math.log(1000)) > 1).sum() == 20  # control: of missing entries too


def test_a_fit_that_is_refused_leaves_the_pair_as_it_was(monkeypatch):
    vae = pair_of()
    monkeypatch.setattr("pyrovae.inference.svi.run.try_shapes", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        pyrovae.fit(vae, items(), **QUIET)
    assert not measured(vae).is_measured and measured(vae).scale.tolist() == [1, 1, 1]


@pytest.mark.slow
def test_a_memory_map_is_measured_as_an_array_is(tmp_path):
    x = items().float()
    np.save(tmp_path / "x.npy", x.numpy())
    view = pyrovae.data.load(tmp_path / "x.npy")
    assert not isinstance(view.train.x, torch.Tensor)
    vae = pyrovae.mlp_vae((3,), likelihood="laplace", standardize=True)
    pyrovae.fit(vae, view.train.x, **QUIET)
    torch.testing.assert_close(measured(vae).loc, view.train.x[:].double().mean(0), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_columns_of_unlike_scales_are_named_and_standardising_ends_that():
    x = items().float()
    with pytest.warns(UserWarning, match=r"columns of x differ widely .* x\[:, 0\] to .* x\[:, 2\].*standardize=True"):
        pyrovae.fit(pair_of(standardize=False, dtype=torch.float32), x, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyrovae.fit(pair_of(dtype=torch.float32), x, **QUIET)
        pyrovae.fit(pair_of(standardize=False, dtype=torch.float32), x / x.std(0), **QUIET)


def test_what_cannot_be_standardised_is_refused():
    for likelihood in ("poisson", "bernoulli", "categorical(num_classes=3)"):
        with pytest.raises(ValueError, match="standardize=True is for a likelihood of real values"):
            pair_of(likelihood)
    with pytest.raises(ValueError, match="link='sigmoid'"):
        pair_of("normal(link='sigmoid')")
    with pytest.raises(TypeError, match="standardize must be True or False"):
        pair_of(standardize="yes")
    vae = pyrovae.mlp_vae((2,), likelihood="normal", standardize=True)
    with pytest.raises(ValueError, match="standard deviation of each column of x must lie between"):
        pyrovae.fit(vae, 1e25 * torch.randn(20, 2), **QUIET)
    assert not measured(vae).is_measured


@pytest.mark.slow
def test_images_are_standardised_by_channel():
    torch.manual_seed(0)
    x = 100 * torch.randn(20, 2, 4, 4) + 500
    vae = pyrovae.conv_vae((2, 4, 4), 1, channels=(3,), strides=(2,), likelihood="normal", standardize=True)
    pyrovae.fit(vae, x, **QUIET)
    assert measured(vae).loc.shape == (2, 1, 1)
    assert abs(vae.reconstruct(x).mean() - 500) < 50


def test_the_location_alone_is_put_into_units():
    standardizer = Standardizer((2,))
    standardizer.loc += 3.0
    raw = torch.zeros(5, 2, 2)
    given = InUnits(standardizer, 2)(raw)
    assert (given[:, 0] == 3).all() and (given[:, 1] == 0).all()
