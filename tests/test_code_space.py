"""`code_space` gathers what the statistics of its folder measure, from the right arrays."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.data import Split
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.crispness import crispness
from pyrovae.evaluation.code_space.holes import holes
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.sampling import sampling_laws
from pyrovae.evaluation.code_space.separation import separation
from pyrovae.evaluation.code_space.smoothness import fixed_pairs, smoothness
from pyrovae.evaluation.code_space.whitening import Whitening


@pytest.fixture(scope="module")
def setting():
    digits = pyrovae.data.load("digits")
    train = Split(digits.train.x[:1000], digits.train.y[:1000])
    judge = pyrovae.Judge.fit(train.x, train.y, max_iter=5)
    torch.manual_seed(0)
    network = {"hidden_dims": (64, 32), "activation": "leaky_relu"}
    vae = pyrovae.mlp_vae((1, 8, 8), likelihood=pyrovae.Normal(scale=0.15), **network)
    ae = pyrovae.mlp_ae((1, 8, 8), **network)
    for pair in (vae, ae):
        pyrovae.fit(pair, train.x, epochs=60, batch_size=100, learning_rate=3e-3, progress=False)
    return vae, ae, train, digits.test, judge


@pytest.mark.slow
def test_plain_names_are_of_means_and_draws_of_draws(setting):
    vae, _, train, test, judge = setting
    found = pyrovae.code_space(vae, train, test, judge, num_codes=200, num_pairs=20)
    with torch.no_grad():
        codes, images = (vae.encode(train.x), vae.encode(test.x)), vae.reconstruct(test.x)
        items = test.x.to(vae.prior.loc.dtype)  # a network takes no other
        kl = torch.distributions.kl_divergence(vae.posterior(items), vae.prior())
    expected = separation(codes[0], train.y, codes[1], test.y)
    assert float(found.knn_accuracy) == float(expected.knn_accuracy)
    assert float(found.draws_silhouette) != float(found.silhouette)
    assert float(found.laplacian_ratio) == pytest.approx(float(crispness(images, test.x).laplacian_ratio))
    assert float(found.r2) == pytest.approx(
        float(reconstruction_error(test.x, images, mean=train.x.mean(0)).r2), abs=1e-6
    )
    assert float(found.rate) == pytest.approx(float(kl.mean()), rel=1e-5)
    assert float(found.judge_accuracy) == float(judge.accuracy(images, test.y).accuracy)
    assert list(found.law.values) == ["gaussian", "box", "prior"]
    assert not {"item", "pair", "sample"} & set(found.dims)
    assert all(found[name].attrs.get("units") for name in found.data_vars)


def test_the_controls_of_the_holes_work(setting):
    vae, _, train, test, judge = setting
    found = pyrovae.code_space(vae, train, test, judge, num_codes=200, num_pairs=5)
    assert float(found.control_fraction) > 3 * float(found.base_rate)
    assert float(found.base_rate) <= 0.0112  # 1 % of 360 items, rounded up


def test_an_autoencoder_has_no_rate_and_its_aggregate_is_its_codes(setting):
    _, ae, train, test, judge = setting
    found = pyrovae.code_space(ae, train, test, judge, num_codes=100, num_pairs=5)
    assert not {"rate", "draws_knn_accuracy", "kl_aggregate"} & set(found.data_vars)
    codes = pyrovae.encoded(ae, train.x), pyrovae.encoded(ae, test.x)
    expected = aggregate(codes[1], train_codes=codes[0])
    assert np.array_equal(found.sliced_w2.values, expected.sliced_w2.values)


def test_batches_change_nothing_and_modes_come_back(setting, monkeypatch):
    from pyrovae.evaluation.code_space import codes

    vae, _, _, test, _ = setting
    vae.train()
    whole = pyrovae.encoded(vae, test.x)
    monkeypatch.setattr(codes, "BATCH", 7)
    assert torch.allclose(pyrovae.encoded(vae, test.x), whole, atol=1e-5)
    assert vae.training
    assert not whole.requires_grad


def test_a_seed_fixes_it(setting):
    vae, _, train, test, judge = setting
    runs = [pyrovae.code_space(vae, train, test, judge, num_codes=100, num_pairs=5, seed=s) for s in (1, 1, 2)]
    assert runs[0].equals(runs[1])
    assert not runs[0].equals(runs[2])


@pytest.mark.slow
def test_more_test_items_than_the_aggregate_takes(setting):
    vae, ae, train, test, judge = setting
    many = Split(test.x.repeat(14, 1, 1, 1), test.y.repeat(14))
    for pair in (vae, ae):
        found = pyrovae.code_space(pair, train, many, judge, num_codes=50, num_pairs=3)
        assert (int(found.aggregate_items), int(found.judge_num_items)) == (5000, 5040)


def test_dropout_is_off_wherever_the_decoder_is_looked_at(setting):
    vae, _, train, test, judge = setting
    vae = copy.deepcopy(vae)
    vae.likelihood.network = torch.nn.Sequential(vae.likelihood.network, torch.nn.Dropout(0.5))
    modes = []
    for training in (True, False):
        vae.train(training)
        modes.append(pyrovae.code_space(vae, train, test, judge, num_codes=50, num_pairs=5))
    assert modes[0].equals(modes[1])


def test_as_many_samples_as_test_items_are_no_reconstructions_of_them(setting):
    vae, _, train, test, judge = setting
    found = pyrovae.code_space(vae, train, test, judge, num_codes=len(test), num_pairs=5)
    assert "samples_squared_error" not in found


def test_without_labels_and_judge_the_other_statistics_are_the_same(setting):
    vae, ae, train, test, judge = setting
    sizes = {"num_codes": 100, "num_pairs": 10}
    for pair in (vae, ae):
        whole = pyrovae.code_space(pair, train, test, judge, **sizes)
        bare = pyrovae.code_space(pair, Split(train.x), Split(test.x), **sizes)
        assert {"r2", "largest_step_share_median", "pixel_hole_fraction", "sliced_w2", "laplacian_ratio"} <= {*bare}
        for name in bare.data_vars:
            np.testing.assert_array_equal(bare[name].values, whole[name].values, err_msg=name)
        absent = {name for name in whole.data_vars if name not in bare}
        assert {"knn_accuracy", "silhouette", "hole_fraction", "control_fraction", "judge_accuracy"} <= absent
        for reason in ("separation, control_fraction: the items have no labels", "no judge was given"):
            assert reason in bare.attrs["left_out"] and reason not in whole.attrs.get("left_out", "")
        judged = pyrovae.code_space(pair, Split(train.x), Split(test.x), judge, **sizes)
        assert float(judged.label_switches_mean) == float(whole.label_switches_mean)
        np.testing.assert_array_equal(judged.hole_fraction, whole.hole_fraction)
        assert "judge_accuracy" not in judged and "judge_accuracy" in whole  # control


def test_vectors_have_a_code_space_without_crispness():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator)
    torch.manual_seed(0)
    found = pyrovae.code_space(pyrovae.linear_vae(5, 2), Split(x[:40]), Split(x[40:]), num_codes=20, num_pairs=5)
    assert "no images of at least 3 by 3 pixels" in found.attrs["left_out"]
    assert not [name for name in found if "laplacian" in name or "frequency" in name]
    assert {"rate", "mutual_information", "sliced_w2_excess", "squared_error"} <= {*found}


# a pair given covariates --------------------------------------------------------------------------------------------


def conditional(prior: str, follows: bool = True) -> tuple[pyrovae.VAE, Split, Split]:
    """A linear pair of prior N(3 c, I), which its q(z | x, c) follows or not, or N(0, I); items with covariates."""
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(4, 2, covariate_dim=2, prior=prior)
    vae.likelihood.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    q = vae.posterior.posterior
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.zero_()
        if prior == "conditional":
            vae.prior.network.layers[-1].weight[:2] = 3 * torch.eye(2)
            q.loc.weight[:, 4:] = 3 * torch.eye(2) if follows else -3 * torch.eye(2)
        else:
            nn.init.normal_(q.loc.weight)
    c = torch.randn(300, 2)
    items = Split(vae.sample(300, covariates=c, seed=1), torch.arange(300) % 2, covariates=c)
    return vae, items[:100], items[100:]


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_codes_are_of_own_covariates_and_decoded_at_the_row(prior):
    vae, train, test = conditional(prior)
    row = torch.tensor([1.0, -2.0])
    found = pyrovae.code_space(vae, train, test, covariates=row, num_codes=50, num_pairs=5)
    own = vae.reconstruct(test).detach()
    wanted = reconstruction_error(test.x, own, mean=train.x.mean(0))
    assert float(found.squared_error) == pytest.approx(float(wanted.squared_error), rel=1e-5)
    at_row = vae.decode(vae.encode(test), covariates=row)
    other = reconstruction_error(test.x, at_row, mean=train.x.mean(0))
    assert abs(float(other.squared_error) - float(wanted.squared_error)) > 0.01  # a control: those of the row
    images = {
        law: pyrovae.decoded(vae, z, covariates=row)
        for law, z in sampling_laws(
            vae.encode(train).detach(), prior=vae.prior(covariates=row) if prior == "conditional" else None, num=50
        ).items()
    }
    of_train = vae.decode(vae.encode(train), covariates=row)
    of_holes = holes({law: x.flatten(1) for law, x in images.items()}, of_train, at_row)
    assert np.array_equal(found.pixel_hole_fraction.values, of_holes.hole_fraction.values)
    pairs = torch.from_numpy(fixed_pairs(len(test.x), 5, seed=0))
    z = vae.encode(test).detach()
    whitening = Whitening.fit(vae.encode(train))
    ends = z[pairs[:, 0]], z[pairs[:, 1]]
    walks = smoothness(lambda z: vae.decode(z, covariates=row), *ends, whitening=whitening)
    for name in ("displacement_median", "path_ratio_mean"):
        assert float(found[name]) == pytest.approx(float(walks[name]), rel=1e-5)


@pytest.mark.slow
def test_each_item_has_its_own_prior_in_the_rate_and_all_codes_the_mean_of_these():
    sizes = {"covariates": torch.zeros(2), "num_codes": 20, "num_pairs": 2}
    vae, train, test = conditional("conditional")
    found = pyrovae.code_space(vae, train, test, **sizes)
    assert abs(float(found.rate)) < 1e-6  # q(z | x, c) is p(z | c)
    assert float(found.sliced_w2_p_value.sel(codes="raw")) > 0.01  # by this seed: a share of 1 in 100 would fail
    assert "each item has a prior of its own" in found.left_out and "kl_aggregate" not in found
    vae, _, _ = conditional("conditional", follows=False)
    other = pyrovae.code_space(vae, train, test, **sizes)
    assert float(other.rate) == pytest.approx(18 * float(test.covariates.square().sum(1).mean()), rel=1e-5)
    assert "mutual_information" in pyrovae.code_space(*conditional("standard"), **sizes)
    with torch.no_grad():  # codes of N(0, I) under a prior of locs 3 c
        vae.posterior.posterior.loc.weight.mul_(0.01)
    apart = pyrovae.code_space(vae, train, test, **sizes)
    assert float(apart.sliced_w2_p_value.sel(codes="raw")) < 0.01


def test_what_is_wrong_with_the_row_is_named():
    vae, train, test = conditional("standard")
    for row, words in (
        (None, "covariates are needed.*one code space for each value"),
        (test.covariates, r"must be one row, shape \(2,\).*\(200, 2\)"),
        (torch.zeros(3), r"must be one row, shape \(2,\).*\(3,\)"),
        (torch.tensor([0.0, float("nan")]), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            pyrovae.code_space(vae, train, test, covariates=row)
    with pytest.raises(ValueError, match="covariates of test are needed"):
        pyrovae.code_space(vae, train, Split(test.x), covariates=torch.zeros(2))
    with pytest.raises(ValueError, match="covariates came"):
        pyrovae.code_space(pyrovae.linear_vae(4, 2), train, test, covariates=torch.zeros(2))


def test_draws_are_its_own_and_batches_take_a_prior_that_is_the_same_for_all():
    """Over 1,024 items, whose p(z given c) is N(0, I) before any fit."""
    c = torch.randn(1100, 2, generator=torch.Generator().manual_seed(0))
    items = Split(torch.rand(1100, 4, generator=torch.Generator().manual_seed(1)), torch.arange(1100) % 2, covariates=c)
    few = Split(items.x[:100], items.y[:100], covariates=c[:100])
    small = {"covariates": torch.zeros(2), "num_codes": 20, "num_pairs": 2}
    vae = pyrovae.mlp_vae((4,), 2, hidden_dims=(3,), covariate_dim=2, prior="conditional", posterior="full")
    found = pyrovae.code_space(vae, few, items, **small)
    assert math.isfinite(float(found.rate)) and "mutual_information" in found  # there is one prior of all codes
    other, train, test = conditional("conditional")
    state = torch.get_rng_state()
    pyrovae.code_space(other, train, test, **small)
    assert torch.equal(state, torch.get_rng_state())
