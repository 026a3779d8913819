"""The rules of the script tables.py: masks, densities by hand, codings, scores, and what a table says."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
script = pytest.importorskip("tables", reason="the scripts are not beside the tests")
data = pytest.importorskip("tables_data")
methods = pytest.importorskip("tables_methods")
report = pytest.importorskip("tables_report")

nan = math.nan
MIXED = {"size": [1.0, 2.0, 4.0, 5.0, 3.5, 2.5], "colour": ["r", "g", "b", "r", "r", "g"], "n": [0, 3, 1, 2, 2, 7]}


def mixed():
    kinds = {"size": "real", "colour": ("categorical", ("r", "g", "b")), "n": "count"}
    return data.Source("mixed", pyrovae.data.table(MIXED, kinds), {})


def arguments(*words):
    return script.parser().parse_args(list(words))


def test_a_mask_hides_its_share_of_the_entries_and_is_that_of_its_seed():
    mask = data.hidden((50, 4), 0.3, 0)
    assert int(mask.sum()) == 60
    assert torch.equal(mask, data.hidden((50, 4), 0.3, 0))
    assert not torch.equal(mask, data.hidden((50, 4), 0.3, 1))


def test_a_kernel_density_has_mass_1_and_its_normal_score_is_that_of_its_distribution_function():
    x = np.random.default_rng(0).gamma(2.0, size=60)
    kernel = methods.Kernel(x)
    grid = np.linspace(-10, 30, 4001)
    assert np.trapezoid(np.exp(kernel.log_density(grid)), grid) == pytest.approx(1, abs=1e-6)
    at = np.array([0.1, 2.0, 4.0])
    below = stats.norm.cdf((at[:, None] - x) / kernel.width).mean(1)
    assert kernel.score(at) == pytest.approx(stats.norm.ppf(below), abs=1e-8)
    assert np.isfinite(kernel.score(np.array([-1e3, 1e3]))).all()  # where both of them round to 0 or 1


def test_a_gaussian_copula_of_independent_columns_is_their_product_and_gains_where_they_depend():
    rng = np.random.default_rng(0)
    first, noise = rng.normal(size=(2, 200))
    for share, gain in ((0.0, 0.0), (0.8, -0.5 * math.log(1 - 0.8**2))):
        frame = {"a": first, "b": share * first + math.sqrt(1 - share**2) * noise}
        source = data.Source("pair", pyrovae.data.table(frame, {"a": "real", "b": "real"}), {})
        rows = source.table
        joint, _ = methods.copula(source, rows, rows, None, 0)
        alone, _ = methods.kernels(source, rows, rows, None, 0)
        assert float((joint - alone).mean()) == pytest.approx(gain, abs=0.1)


def test_rows_are_coded_and_come_back():
    source = mixed()
    x = source.table.x[:].double().clone()
    x[0, 1] = x[1, 0] = nan
    coding = methods.Coding(source, x)
    coded = coding.coded(x)
    assert coded.shape == (6, 5)  # a number, three categories, a number
    assert coded[0, 1:4].isnan().all() and coded[2, 1:4].tolist() == [0, 0, 1]
    assert float(coded[:, 0].nanmean()) == pytest.approx(0, abs=1e-12)

    class Fixed:
        def fit_transform(self, rows):
            rows = rows.copy()
            rows[0, 1:4], rows[1, 0] = [0.1, 0.2, 0.7], 0.0
            return rows

    filled = coding.by(Fixed(), x)
    assert filled[0, 1] == 2  # the code with the largest number
    assert filled[1, 0] == pytest.approx(float(x[:, 0].nanmean()))  # 0 in standard units
    assert torch.equal(filled[2:], x[2:])
    coding = methods.Coding(source, x, reference=True)
    assert coding.coded(x)[1:, 1:3].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [1, 0]]

    class Less(Fixed):
        def fit_transform(self, rows):
            rows = rows.copy()
            rows[0, 1:3], rows[1, 0] = [0.1, 0.2], 0.0
            return rows

    assert coding.by(Less(), x)[0, 1] == 0  # 0.7 is left for the first


def test_scores_are_those_of_hidden_entries_alone():
    source = mixed()
    truth = source.table.x[:].double()
    gone = torch.zeros_like(truth, dtype=torch.bool)
    gone[0, 0] = gone[1, 0] = gone[2, 1] = gone[3, 1] = True
    point = truth.clone()
    point[0, 0] += 2 * truth[:, 0].std(correction=0)
    point[2, 1] = 0
    point[5] = 99.0  # seen: of no account
    draws = truth + torch.arange(-9.0, 10.0)[:, None, None]
    draws[:, 1, 0] += 100  # whose interval misses
    filled = methods.Filled(point, draws, torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]))
    found = script.scores(source, filled, truth, gone)
    assert found["squared_error"] == pytest.approx(2.0)  # of errors of 2 and 0 standard deviations
    assert (found["wrong"], found["log_score"], found["coverage"]) == (0.5, -0.5, 0.5)


def test_simple_fillings_and_exact_ones_by_hand():
    source, args = mixed(), arguments()
    truth = source.complete()
    x = truth.clone()
    x[1, 0] = x[2, 1] = nan
    by_mean = methods.by_mean(source, x, truth, args, 0).point
    assert by_mean[1, 0] == pytest.approx(16 / 5) and by_mean[2, 1] == 0  # r comes most often
    alone = methods.by_independence(source, x, truth, args, 0)
    assert alone.point[1, 0] == pytest.approx(16 / 5) and alone.point[2, 1] == 0
    seen = np.array([1.0, 4.0, 5.0, 3.5, 2.5])
    law = stats.norm(seen.mean(), seen.std())
    assert float(alone.log_prob[1]) == pytest.approx(law.logpdf(2.0), abs=1e-4)  # relative floor of the variance
    assert alone.log_prob[[0, 3, 4, 5]].abs().max() < 1e-12
    assert torch.equal(alone.draws[:, ~x.isnan()], truth[~x.isnan()].expand(len(alone.draws), -1))


def test_what_was_computed_is_not_computed_again(tmp_path):
    store = script.Store(tmp_path / "a.json")
    assert store.get("one", lambda: {"v": 1})["v"] == 1

    def never():
        raise AssertionError

    assert script.Store(tmp_path / "a.json").get("one", never)["v"] == 1
    beside = script.Store(tmp_path / "a.json")
    store.get("two", lambda: {"v": 2})
    beside.get("three", lambda: {"v": 3})  # of another run, which began before
    assert set(script.Store(tmp_path / "a.json").known) == {"one", "two", "three"}


def test_tables_say_differences_and_spread():
    values = {"floor": np.zeros(4), "model": np.array([1.0, 2.0, 3.0, 2.0])}
    text = report.density_table("toy", values)
    mean, low, high = pyrovae.paired_interval(-values["model"])
    assert text.splitlines()[2] == "| model | 2.00 |  |"
    assert f"| floor | 0.00 | {mean:.2f} [{low:.2f}, {high:.2f}] |" in text
    rows = [{"method": "MIWAE", "share": 0.5, "squared_error": value, "coverage": 0.9} for value in (0.25, 0.36)]
    assert "| MIWAE | 2 | 0.305 (0.078) | [-0.394, 1.004] | 0.280 |" in report.miwae_table("breast", rows)
    assert "0.280" not in report.miwae_table("wine", rows)  # control: published for another table
    assert "| 50% | MIWAE | 0.550 ± 0.635 | 0.900 ± 0.000 |" in report.imputation_table("breast", rows)


@pytest.mark.long
def test_a_tiny_run_of_every_method(tmp_path, monkeypatch, capsys):
    sizes = "--classes 1 2 --components 1 2 --latent 1 2 --hidden 8 --steps 6 --restarts 1 --particles 20 --rounds 2"
    runs = "--tables wine --masks 2 --folds 2 --inner-folds 2 --shares 0.3 --miwae-epochs 1"
    monkeypatch.setattr(sys, "argv", ["tables.py", *sizes.split(), *runs.split(), "--out", str(tmp_path)])
    script.main()
    text = capsys.readouterr().out
    for name in [*methods.DENSITIES, *methods.IMPUTATIONS, "MIWAE"]:
        assert f"| {name} |" in text
    assert {file.name for file in tmp_path.glob("*.png")} == {"density-wine.png", "imputation-wine.png"}
    script.main()
    assert text.count("| ColumnMixture |") == capsys.readouterr().out.count("| ColumnMixture |")
