"""The rules of the script literature.py: its schedules and closed forms, what chooses, and that a run goes on."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

import pyrovae

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
script = pytest.importorskip("literature", reason="the scripts are not beside the tests")
images = pytest.importorskip("literature_images")
linear = pytest.importorskip("literature_linear")
report = pytest.importorskip("literature_table")

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")

SMALL = {"data": "digits", "network": {"latent_dim": 2, "hidden_dims": (8,)}}
STATIC = replace(images.PYTHAE, **SMALL, published={20: 25.0, 50: None}, passes=4, validation=200)


class Images:
    """A data set whose images are given; who reads which part is noted."""

    def __init__(self, train, test, read):
        self.parts, self.read = {"train": train, "test": test}, read

    def __getattr__(self, name):
        self.read.append(name)
        return type("Split", (), {"x": self.parts[name]})


@pytest.fixture
def load(monkeypatch):
    """Let the scripts have these training and test images; the order of what is read and fitted comes back."""

    def given(train, test):
        read = []
        monkeypatch.setattr(pyrovae.data, "load", lambda *a, **k: Images(train, test, read))
        fit = pyrovae.fit

        def noted(*a, **k):
            history = fit(*a, **k)
            read.append("fitted")
            return history

        monkeypatch.setattr(images.pyrovae, "fit", noted)
        return read

    return given


def weights(row, folder, passes):
    return pyrovae.load(folder / row.name / f"after-{passes}").state_dict()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


# schedules --------------------------------------------------------------------------------------------------------


def test_the_rate_of_pythae_is_that_of_torchs_multi_step_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [200, 350, 500, 750, 1000], gamma=10 ** (-1 / 5))
    for epoch in range(500):
        assert 1e-4 * images.by_milestones(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), epoch
        optimizer.step()
        schedule.step()


def test_the_rate_of_burda_has_stages_of_powers_of_three_passes():
    rows = [row for row in images.ROWS if row.name.startswith("burda")]
    assert [row.passes for row in rows] == [sum(3**i for i in range(8))] * 3 == [3280] * 3
    stages = np.repeat(np.arange(8), 3 ** np.arange(8))
    found = [images.by_stages(epoch) for epoch in range(3280)]
    assert np.allclose(found, 10.0 ** (-stages / 7), rtol=1e-12, atol=0)


def test_a_run_is_trained_at_the_rates_of_its_row(tmp_path):
    row = replace(images.ROWS[1], **SMALL, options={**images.ROWS[1].options, "batch_size": 500})
    _, history = row.fitted(None, tmp_path, 5)
    rates = history.epochs.learning_rate.values
    assert rates == pytest.approx([1e-3 * 10 ** (-i / 7) for i in (0, 1, 1, 1, 2)], rel=1e-12)
    assert history.config["optimizer"].startswith("Adam") and "eps=0.0001" in history.config["optimizer"]
    assert history.config["binarize"] and not history.config["validation_items"]


# what a row of images does ----------------------------------------------------------------------------------------


def test_a_run_that_goes_on_gives_the_bits_of_one_that_was_never_stopped(tmp_path, monkeypatch):
    whole = STATIC.measure(None, tmp_path / "whole")
    part = STATIC.measure(None, tmp_path / "parts", 2)
    gone_on = STATIC.measure(None, tmp_path / "parts")
    assert same(weights(STATIC, tmp_path / "whole", 4), weights(STATIC, tmp_path / "parts", 4))
    assert gone_on.figures == whole.figures != part.figures
    assert not same(weights(STATIC, tmp_path / "whole", 4), weights(STATIC, tmp_path / "parts", 2))

    def refuse(*a, **k):
        raise AssertionError("it was done before")

    for name in ("fit", "iwae", "load"):
        monkeypatch.setattr(images.pyrovae, name, refuse)
    assert STATIC.measure(None, tmp_path / "parts") == gone_on
    assert STATIC.measure(None, tmp_path / "parts", 2) == part


def test_a_run_that_is_killed_within_a_pass_goes_on(tmp_path, monkeypatch):
    whole = STATIC.measure(None, tmp_path / "whole", 2)
    fit = pyrovae.fit

    class Killed(pyrovae.callbacks.Callback):
        def epoch(self, run, row):
            raise KeyboardInterrupt

    monkeypatch.setattr(images.pyrovae, "fit", lambda *a, **k: fit(*a, callbacks=[Killed()], checkpoint_every=5, **k))
    with pytest.raises(KeyboardInterrupt):
        STATIC.measure(None, tmp_path / "killed", 2)
    assert not (tmp_path / "killed" / STATIC.name / "results.json").exists()
    monkeypatch.setattr(images.pyrovae, "fit", fit)
    assert STATIC.measure(None, tmp_path / "killed", 2).figures == whole.figures


def test_validation_chooses_the_pass_and_the_test_images_are_read_last(tmp_path, load):
    digits = pyrovae.data.load("digits")
    train, test = digits.train.x[:600], digits.test.x[:50]
    row = replace(STATIC, validation=100, passes=6, options={"batch_size": 50, "learning_rate": 1e-2})
    read = load(train, test)
    chosen = row.measure(None, tmp_path / "one")
    assert read == ["train", "fitted", "test", "test"] and "pass 6 by validation" in chosen.done
    # negative controls: other test images change no weight, and validation images unlike the others choose another pass
    load(train, 1 - test)
    other = row.measure(None, tmp_path / "other")
    assert same(weights(row, tmp_path / "one", 6), weights(row, tmp_path / "other", 6))
    assert other.figures[0].ours > chosen.figures[0].ours + 5
    load(torch.cat([train[:500], 1 - train[500:]]), test)
    assert "pass 1 by validation" in row.measure(None, tmp_path / "unlike").done


def test_a_figure_is_that_of_the_estimator_on_test_images_that_are_drawn_once(tmp_path):
    (figure, beside), done = STATIC.measure(None, tmp_path, 1).figures, "1 of 4 passes"
    vae = pyrovae.load(tmp_path / STATIC.name / "after-1")
    x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x[:], seed=images.SEED_OF_TEST)
    estimate = pyrovae.iwae(vae, x, num_particles=20)
    assert (figure.ours, figure.se, figure.se_items) == (-estimate.mean, estimate.se, estimate.se_items)
    assert (figure.published, beside.published) == (25.0, None)
    assert STATIC.measure(None, tmp_path, 1).done.startswith(done)
    drawn, _ = STATIC.items(None)
    assert torch.equal(drawn, STATIC.items(None)[0]) and set(drawn.unique().tolist()) == {0.0, 1.0}


def test_a_row_is_judged_only_where_it_is_whole_and_the_data_are_the_published_ones(tmp_path):
    row = replace(images.ROWS[1], **SMALL, published={20: 0.0}, passes=2, options={"batch_size": 500}, allowed=1.0)
    assert row.measure(None, tmp_path, 1).figures[0].standing() == "beside"
    assert row.measure(None, tmp_path, 2).figures[0].standing() == "not reproduced"
    (some,) = row.measure(None, tmp_path, 2, images=7).figures
    x = row.test_items(None)[:7]
    vae = pyrovae.load(tmp_path / row.name / "after-2")
    assert some.standing() == "beside" and some.ours == -pyrovae.iwae(vae, x, num_particles=20).mean
    assert "7 images" in some.name
    assert STATIC.measure(None, tmp_path).figures[0].standing() == "beside"  # its pixels are drawn by another hand
    assert images.PYTHAE.allowed is None
    figure = report.Figure("-log p(x)", 86.76, 87.5, allowed=1.0)
    assert figure.standing() == "reproduced" and replace(figure, ours=87.77).standing() == "not reproduced"


# linear VAEs ------------------------------------------------------------------------------------------------------


def digits():
    return pyrovae.data.load("digits").train.x[:300].flatten(1).double()


def best(x, latent_dim, variance):
    """log p(x) at Tipping and Bishop's maximum, by the density of a normal distribution."""
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    s2 = float(values[latent_dim:].mean()) if variance is None else variance
    weight = vectors[:, :latent_dim] * (values[:latent_dim] - s2).clamp(min=0).sqrt()
    covariance = weight @ weight.T + s2 * torch.eye(x.shape[1], dtype=torch.float64)
    return float(MultivariateNormal(x.mean(0), covariance).log_prob(x).mean())


@pytest.mark.parametrize("variance", [None, 0.5, 0.05, 10.0])
def test_the_largest_log_likelihood_of_probabilistic_pca(variance):
    x = digits()
    found = linear.largest_log_likelihood(linear.eigenvalues(x), 5, variance)
    assert found == pytest.approx(best(x, 5, variance), abs=1e-10)
    if variance is None:  # scikit-learn's covariance is over N - 1, and that of narrower items the same
        narrower = x.mean(0) + (x - x.mean(0)) * math.sqrt((len(x) - 1) / len(x))
        model = PCA(5, svd_solver="full").fit(narrower.numpy())
        assert model.score(x.numpy()) == pytest.approx(found, abs=1e-8)


def test_unused_dimensions_are_those_whose_divergence_is_small_in_almost_all_items():
    vae = pyrovae.linear_vae(2, 3).double()
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter.zero_()
        weight = next(p for p in vae.posterior.parameters() if p.ndim == 2)
        weight[0, 0] = 1.0
        weight[1, 1] = 1.0
    x = torch.zeros(1000, 2, dtype=torch.float64)
    x[:, 0], x[:9, 1] = 1.0, 1.0  # the second dimension says something of 0.9 % of the items
    assert linear.active_dimensions(vae, x) == 1
    x[:11, 1] = 1.0
    assert linear.active_dimensions(vae, x) == 2


def test_em_reaches_the_maximum_and_svi_stays_below_it(tmp_path):
    row = replace(linear.ROWS[0], data="digits", count=300, latent_dim=2, passes=20, seeds=(0, 1))
    outcome = row.measure(None, tmp_path)
    touch, maximum, *by_svi = outcome.figures
    assert touch.standing() == maximum.standing() == "reproduced" and abs(maximum.ours) < 1e-7
    assert len(by_svi) == 2 and all(figure.ours > 0 for figure in by_svi)
    assert {figure.standing() for figure in by_svi} == {"not reproduced"}  # negative control: 20 passes are too few
    assert {figure.standing() for figure in row.measure(None, tmp_path, 5).figures[2:]} == {"beside"}


@pytest.mark.slow
def test_a_fixed_variance_collapses_what_is_below_it(tmp_path):
    row = replace(
        linear.ROWS[1], data="digits", count=300, latent_dim=8, passes=1200, variances=(1.0, 0.5), learning_rate=1e-2
    )
    outcome = row.measure(None, tmp_path)
    assert [figure.published for figure in outcome.figures] == [0, 3]  # the eigenvalues: 0.70, 0.65, 0.53, 0.40
    assert [figure.standing() for figure in outcome.figures] == ["reproduced"] * 2
    early = replace(row, passes=20).measure(None, tmp_path)  # negative control: nothing has collapsed yet
    assert [figure.standing() for figure in early.figures] == ["not reproduced"] * 2


# the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_figure():
    figures = [report.Figure("a", 89.78, 90.126, 0.004, 0.25), report.Figure("b", 0.0, 1.3e-9, allowed=1e-6)]
    lines = report.table({"row": report.Outcome(figures, "3 of 5 passes", 90.0)}).split("\n")
    assert lines[2] == "| row | a | 89.78 | 90.13 | 0.004 | 0.250 | 3 of 5 passes | 1.5 min | beside |"
    assert lines[3] == "|  | b | 0 | 1e-09 |  |  |  |  | reproduced |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_command_names_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(script.ROWS, STATIC.name, STATIC)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["literature.py", *words])
        script.main()
        return capsys.readouterr().out

    listed = run("--list")
    assert all(name in listed for name in script.ROWS) and "importance samples" in listed
    printed = run("--row", STATIC.name, "--passes", "1", "--out", str(tmp_path))
    assert "| 25 |" in printed and "1 of 4 passes, pass 1 by validation" in printed and STATIC.differences in printed
    for words in (["--row", "another"], [], ["--row", "all", "--passes", "0"], ["--row", "all", "--images", "0"]):
        with pytest.raises(SystemExit):
            run(*words)
