"""The study's own rules: equal budgets, signs of effects, verdicts from known results."""

from __future__ import annotations

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import pyrovae
from pyrovae.data import Dataset, Split

ANALYSIS = Path(__file__).parents[1] / "analysis"
if not ANALYSIS.is_dir():
    pytest.skip("the analysis scripts are not beside the tests", allow_module_level=True)
# fits of an epoch or two, as few as these tests need
pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ANALYSIS))
    try:
        import ae_vs_vae

        yield ae_vs_vae
    finally:
        sys.path.remove(str(ANALYSIS))


@pytest.fixture(scope="module")
def tables(study: ModuleType) -> ModuleType:
    return sys.modules["ae_vs_vae_report"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return pyrovae.data.load("digits")


@pytest.fixture(scope="module")
def tiny(digits: Dataset) -> Dataset:
    train, test = digits.train, digits.test
    return replace(digits, train=Split(train.x[:100], train.y[:100]), test=Split(test.x[:60], test.y[:60]))


def options(study: ModuleType, **changes: Any) -> Namespace:
    base = {**study.DEFAULTS["digits"], "arms": study.ARMS, "post_epochs": 200, "data": "digits", "root": None}
    return Namespace(**{**base, **changes})


def test_arms_have_the_budgets_that_they_name(study: ModuleType, digits: Dataset) -> None:
    arms = study.budgets(options(study), digits, 3)
    assert list(arms) == list(study.ARMS)
    assert arms["main"].scale == 0.179  # sqrt(64 / 2000): 1,000 x the mean squared error of 64 pixels
    assert (arms["seed_scale"].scale, arms["learned"].scale) == (0.626, None)
    assert arms["main"].updates == arms["learned"].updates == arms["few_updates"].updates == 1200
    assert (arms["few_epochs"].epochs, arms["few_epochs"].items) == (200, 128)
    assert {b.seed for b in arms.values()} == {3}
    mnist = replace(digits, event_shape=(1, 28, 28))
    named = study.budgets(options(study), mnist, 0)
    assert named["main"].scale == 0.626
    assert "seed_scale" not in named  # it would be main once more


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_both_kinds_start_from_the_same_weights_and_see_the_same_likelihood(
    study: ModuleType, digits: Dataset, network: str
) -> None:
    budget = replace(study.budgets(options(study), digits, 5)["main"], network=network)
    ae, vae = (study.build(kind, budget, (1, 8, 8)) for kind in ("ae", "vae"))
    first, second = ae.state_dict(), vae.state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert {n.rsplit(".", 1)[0] for n in second if n not in first} == {"posterior.raw_log_scale"}
    other = study.build("ae", replace(budget, seed=6), (1, 8, 8)).state_dict()
    assert not torch.equal(first["posterior.loc.weight"], other["posterior.loc.weight"])  # control


def results(seeds: int, **means: tuple[float, float]) -> xr.Dataset:
    """Made-up results: `means[metric] = (AE, VAE)`, with a little noise over seeds."""
    rng = np.random.default_rng(0)
    data = {}
    for name, (ae, vae) in means.items():
        values = np.stack([ae + 1e-3 * rng.normal(size=(seeds, 1)), vae + 1e-3 * rng.normal(size=(seeds, 1))], -1)
        data[name] = (("seed", "arm", "model"), values)
    made = xr.Dataset(data, coords={"arm": ["main"], "model": ["ae", "vae"], "seed": range(seeds)})
    made["hole_fraction"] = made.hole_fraction.expand_dims(law=["gaussian", "box", "prior"])
    made["sliced_w2_excess"] = made.sliced_w2_excess.expand_dims(codes=["raw", "whitened"])
    return made


TRUE = {
    "knn_accuracy": (0.7, 0.8),
    "laplacian_ratio": (0.5, 0.6),
    "largest_step_share_median": (0.05, 0.02),
    "hole_fraction": (0.3, 0.02),
    "sliced_w2_excess": (3.0, 0.01),
}


def test_claims_hold_where_they_are_true_and_not_where_they_are_turned_round(study: ModuleType) -> None:
    lost = np.repeat([0.0, 1.0], [10, 90])  # 32 components lose 90 % of the judge's accuracy
    found = study.judged(results(10, **TRUE), lost)["main"]
    assert found.sizes["claim"] == 6
    assert set(found.verdict.values) == {"holds"}
    turned = study.judged(results(10, **{name: pair[::-1] for name, pair in TRUE.items()}), 1 - lost)["main"]
    assert set(turned.verdict.values) == {"does not hold"}


def test_a_collapsed_seed_is_left_out_and_a_collapsed_arm_has_no_verdict(study: ModuleType) -> None:
    made = results(10, **TRUE)
    made.largest_step_share_median[3] = np.nan
    found = study.judged(made, np.ones(5))["main"]
    assert int(found.replicates.sel(claim="near codes decode alike in the VAE only")) == 9
    made.largest_step_share_median[:] = np.nan
    assert "near codes decode alike in the VAE only" not in study.judged(made, np.ones(5))["main"].claim


def test_principal_components_are_measured_on_test_items(study: ModuleType, digits: Dataset) -> None:
    judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=30)
    pca, lost = study.principal_components(digits, judge)
    assert pca.components.values.tolist() == [2, 10, 32]
    assert (np.diff(pca.r2) > 0).all()
    x, train = (s.x.flatten(1).double().numpy() for s in (digits.test, digits.train))
    _, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    kept = (x - train.mean(0)) @ axes[:10].T @ axes[:10] + train.mean(0)
    r2 = 1 - ((x - kept) ** 2).sum() / ((x - train.mean(0)) ** 2).sum()
    assert float(pca.r2.sel(components=10)) == pytest.approx(r2, abs=1e-4)
    assert len(lost) == 360
    each = ((x - kept) ** 2).sum(1)
    assert float(pca.squared_error_se.sel(components=10)) == pytest.approx(each.std(ddof=1) / len(x) ** 0.5, rel=1e-3)


NEAR = "near codes decode alike in the VAE only"
HOLES = "more AE than VAE codes decode to no digit"


def verdict(**changes: Any) -> xr.Dataset:
    base = {"mean": 0.1, "low": 0.05, "high": 0.15, "level": 0.99, "smallest": 0.02, "replicates": 4}
    return xr.Dataset({**base, "verdict": "holds", **changes})


def row(study: ModuleType) -> xr.Dataset:
    """Main's row of four seeds where every control succeeds and no code has collapsed."""
    made = results(4, **TRUE).sel(arm="main")
    units = xr.DataArray(np.full((4, 2), 2.0), dims=("seed", "model"), coords={"model": ["ae", "vae"]})
    return made.assign(active_units=units, control_fraction=units / 2).assign_coords(components=[2, 10, 32])


def test_the_words_of_a_verdict_have_its_reservations(study: ModuleType, tables: ModuleType) -> None:
    made, claims = row(study), {c.says: c for c in study.CLAIMS}
    words = tables._words
    assert words(verdict(), made, claims[HOLES]) == "HOLDS"
    small = verdict(verdict="does not hold", low=0.001, high=0.01)
    assert "smaller than of interest" in words(small, made, claims[NEAR])
    turned = verdict(verdict="does not hold", low=-0.2, high=-0.1)
    assert words(turned, made, claims[NEAR]) == "DOES NOT HOLD (the other way round)"
    failed = made.copy(deep=True)
    failed.control_fraction[2, 0] = 0.1  # less than the AE's holes, 0.3
    assert words(verdict(), failed, claims[HOLES]) == "HOLDS (void: the control failed in 1 of 4 seeds)"
    assert words(verdict(), failed, claims[NEAR]) == "HOLDS"
    collapsed = made.copy(deep=True)
    collapsed.active_units[1, 1] = 1.0
    collapsed.largest_step_share_median[1, 1] = np.nan
    said = words(verdict(replicates=3), collapsed, claims[NEAR])
    assert "from 3 of 4 seeds: the VAE has no value in 1 of 4" in said
    assert "collapsed in 1 of 4 seeds" in said
    of_pca = words(verdict(replicates=360), collapsed, study.PCA_CLAIM)
    assert of_pca == "HOLDS (32 components, the most tried; interval over 360 test items, not seeds)"


def test_means_are_of_the_seeds_that_the_effect_is_of(study: ModuleType, tables: ModuleType) -> None:
    made, claim = row(study), next(c for c in study.CLAIMS if c.says == NEAR)
    made.largest_step_share_median[:, 0] = [0.9, 0.1, 0.1, 0.1]
    made.largest_step_share_median[0, 1] = np.nan
    assert tables._both(made, claim)[0] == "0.1000"
    found = study.judged(made.expand_dims(arm=["main"]), np.ones(5))["main"]
    lines = tables._main_verdicts(made, found, [*study.CLAIMS, study.PCA_CLAIM])
    assert "Holm over 6 claims" in lines[1]
    levels = {str(c): f"at {100 * float(found.level.sel(claim=c)):.3g} %" for c in found.claim.values}
    assert len(set(levels.values())) > 1  # control
    assert all(level in next(n for n in lines if n.startswith(says)) for says, level in levels.items())
    made.largest_step_share_median[:, 0] = np.nan
    made.largest_step_share_median[:, 1] = 0.1
    without = tables._main_verdicts(made, found.drop_sel(claim=NEAR), study.CLAIMS)
    assert f"{NEAR:44s} not defined: the AE has no value in 4 of 4" in without


def test_levelled_off_is_told_or_said_to_be_unknown(study: ModuleType, tables: ModuleType) -> None:
    rising, flat = np.arange(10.0), np.zeros(10)
    found = [study.settled(xr.Dataset({"validation_elbo": ("epoch", curve)})) for curve in (rising, flat)]
    assert [float(f.levelled_off) for f in found] == [0, 1]
    seeds = xr.concat([xr.concat(found, xr.Variable("model", ["ae", "vae"]))] * 3, "seed")
    said = tables._levelled(seeds)
    assert said.startswith("AE levelled off in 0 of 3 seeds, slope +1.000 nats an epoch; VAE levelled off in 3 of 3")
    short = study.settled(xr.Dataset({"validation_elbo": ("epoch", rising[:9])}))
    seeds = xr.concat([xr.concat([short] * 2, xr.Variable("model", ["ae", "vae"]))] * 3, "seed")
    assert tables._levelled(seeds) == "not judged whether levelled off: under 10 epochs"


def test_the_csv_has_every_number_and_word(tables: ModuleType, tmp_path: Path) -> None:
    made = xr.Dataset(
        {
            "share": (("arm", "seed", "law"), [[[0.5, np.nan]]], {"units": "1"}),
            "kl": ("model", [np.inf, 2.0], {"units": "nats"}),
            "verdict": (("arm", "claim"), [["holds", ""]]),
            "alone": ((), 0.25),
        },
        coords={"arm": ["main"], "seed": [7], "law": ["box", "prior"], "model": ["ae", "vae"], "claim": ["a", "b"]},
    )
    tables.write_csv(made, tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        found = list(csv.reader(file))
    assert found == [
        ["seed", "arm", "model", "statistic", "at", "value", "units"],
        ["7", "main", "", "share", "law=box", "0.5", "1"],
        ["", "", "ae", "kl", "", "inf", "nats"],
        ["", "", "vae", "kl", "", "2.0", "nats"],
        ["", "main", "", "verdict", "claim=a", "holds", ""],
        ["", "", "", "alone", "", "0.25", ""],
    ]


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """One entry for each call of a function from here on."""
    calls: list[int] = []
    function: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


def altered(data: Dataset, what: str) -> Dataset:
    """The same name and shapes, one pixel or one label of the test part another."""
    x, y = data.test.x.clone(), data.test.y.clone()
    if what == "pixel":
        x[5, 0, 3, 3] += 0.5
    else:
        y[5] = (y[5] + 1) % 10
    return replace(data, test=Split(x, y))


def test_a_finished_fit_is_reused_and_a_doubtful_one_is_not(
    study: ModuleType, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = study.budgets(options(study, epochs=1), tiny, 0)["main"]
    note = tmp_path / "pairs" / "seed0-main-vae.json"
    fits = counted(monkeypatch, pyrovae, "fit")

    def weights(wanted: Any, data: Dataset = tiny) -> torch.Tensor:
        return study.trained("vae", wanted, data, tmp_path).state_dict()["posterior.loc.weight"]

    first = weights(budget)
    assert torch.equal(weights(budget), first)
    assert len(fits) == 1
    note.write_text("")
    assert torch.equal(weights(budget), first)
    assert len(fits) == 2
    assert json.loads(note.read_text()) == asdict(budget)

    # killed after the weights of another budget were left there, and before their note
    save, longer = pyrovae.save, replace(budget, epochs=2)

    def killed(*args: Any) -> None:
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pyrovae, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            weights(longer)
    assert not torch.equal(pyrovae.load(note.with_suffix("")).state_dict()["posterior.loc.weight"], first)  # control
    assert torch.equal(weights(budget), first)
    assert len(fits) == 4

    for what in ("pixel", "label"):
        other = altered(tiny, what)
        weights(budget)
        before = len(fits)
        changed = study.budgets(options(study, epochs=1), other, 0)["main"]
        weights(changed, other)
        weights(changed, other)
        assert len(fits) == before + 1


def test_a_seed_is_measured_again_where_its_file_does_not_vouch_for_it(
    study: ModuleType, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = pyrovae.Judge.fit(tiny.train.x, tiny.train.y, max_iter=2)
    chosen = options(study, arms=["few_epochs"], post_epochs=1, few=50, out=tmp_path)
    monkeypatch.setattr(study, "loaded", lambda name, root: tiny)
    calls = counted(monkeypatch, study, "measured")

    def measured() -> int:
        """How many of the seed's two fits were measured."""
        before = len(calls)
        file = study.run_seed(chosen, 0, judge)
        assert xr.load_dataset(file, engine="h5netcdf").sizes["model"] == 2
        return len(calls) - before

    assert (measured(), measured()) == (2, 0)
    file = tmp_path / "seed0.nc"
    for damaged in (b"", file.read_bytes()[:1000], b"no netCDF"):
        file.write_bytes(damaged)
        assert (measured(), measured()) == (2, 0)
    monkeypatch.setattr(study, "STATISTICS", study.STATISTICS + 1)
    assert (measured(), measured()) == (2, 0)
    other = altered(tiny, "pixel")
    monkeypatch.setattr(study, "loaded", lambda name, root: other)
    assert (measured(), measured()) == (2, 0)


@pytest.mark.slow
def test_the_results_have_all_that_the_tables_say(
    study: ModuleType, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = pyrovae.Judge.fit(tiny.train.x, tiny.train.y, max_iter=30)
    chosen = options(study, arms=["main", "few_epochs"], epochs=2, post_epochs=2, few=50, out=tmp_path)
    monkeypatch.setattr(study, "loaded", lambda name, root: tiny)
    one = xr.load_dataset(study.run_seed(chosen, 0, judge), engine="h5netcdf")
    seeds = xr.concat([one, one + 1e-3], xr.Variable("seed", [0, 1]), combine_attrs="override")
    for name in seeds.data_vars:
        seeds[name].attrs = one[name].attrs
    pca, lost = study.principal_components(tiny, judge)
    verdicts = study.judged(seeds, lost)
    found = study.everything(seeds, tiny, judge, pca, verdicts)
    numbers = [n for n in found.data_vars if found[n].dtype.kind in "fiu"]
    assert [n for n in numbers if not found[n].attrs.get("units")] == []
    assert np.isposinf(found.kl_aggregate.sel(arm="main", model="ae")).all()
    assert np.isfinite(found.kl_aggregate.sel(arm="main", model="vae")).all()
    assert found.elbo.attrs["units"] == found.elbo_se.attrs["units"] == "nats per item"
    assert found.verdict.sel(arm="few_epochs").values.tolist() == [""] * 6
    claim = study.CLAIMS[1].says
    assert float(found.verdict_level.sel(arm="main", claim=claim)) == float(verdicts["main"].level.sel(claim=claim))
    assert found.arm.values.tolist() == ["main", "few_epochs"]
    ratio = found.laplacian_ratio
    contrast = ratio.sel(arm="main", model="vae") - ratio.sel(arm="few_epochs", model="ae")
    shown = found.sel(arm="few_epochs", contrast="VAE of all - AE of few")
    low_and_high = pyrovae.paired_interval(contrast.values)[1:]
    assert (float(shown.crisper_low), float(shown.crisper_high)) == pytest.approx(low_and_high)
    right = judge.accuracy(tiny.test.x, tiny.test.y)
    assert float(found.judge_real_accuracy) == float(right.accuracy)
    assert found.pca_lost.sizes == {"components": 3}
    found.to_netcdf(tmp_path / "all.nc", engine="h5netcdf")
    assert xr.load_dataset(tmp_path / "all.nc", engine="h5netcdf").verdict.equals(found.verdict)
