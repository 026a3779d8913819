"""`code_space` gathers what the statistics of its folder measure, from the right arrays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.data import Split
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.crispness import crispness
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.separation import separation


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
    found = pyrovae.code_space(vae, train, test, judge, num_codes=400, num_pairs=5)
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
