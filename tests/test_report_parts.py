"""Reports of pairs of all parts: what stands in the sections is right, and what cannot be said is said plainly."""

from __future__ import annotations

import html
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_report_explorer import with_half_weights
from test_report_network import in_node

import pyrovae
from pyrovae.data import Dataset, Split
from pyrovae.models.registry import registered
from pyrovae.report import Entry, charts, explorer, page
from pyrovae.report.decoders import decoder_of
from pyrovae.report.decoding import decoding_of
from pyrovae.report.explorer import _words_of_points
from pyrovae.report.measurements import Measurements, Settings
from pyrovae.report.planes import plane_of
from pyrovae.report.sections import (
    LeftOut,
    code_space,
    comparison,
    conditional,
    evidence,
    makers,
    predictive_checks,
    rate,
    reconstructions,
    samples,
    semi_supervised,
    strange_items,
)
from pyrovae.report.shown_items import Layout

SMALL = Settings(num_items=60, num_ledger_items=2, num_particles=20, num_simulations=30, num_sets=59, num_codes=50)
KINDS = {
    "bernoulli": "binary",
    "categorical": "codes",
    "continuous_bernoulli": "unit",
    "discretized_logistic": "bytes",
    "gamma": "positive",
    "log_normal": "positive",
    "negative_binomial": "counts",
    "ordinal": "codes",
    "poisson": "counts",
    "zero_inflated_negative_binomial": "counts",
    "zero_inflated_poisson": "counts",
}
ARGUMENTS = {
    "categorical": "num_classes=3",
    "ordinal": "num_classes=3",
    "from_distribution": "distribution='Gumbel'",
    "vamp": "num_components=3",
    "mixture": "num_components=3",
}


@pytest.fixture(autouse=True)
def _in_float32(float32):
    yield


def table_of(kind: str = "real", *, covariates: int = 0, exposure: bool = False) -> Dataset:
    """160 training and 100 test items of 3 columns, with two kinds of items as labels."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(260, 2, generator=generator)
    c = pyrovae.data.one_hot(torch.arange(260) % covariates, covariates) if covariates else None
    eta = 0.6 * z @ torch.randn(2, 3, generator=generator)
    if c is not None:
        eta = eta + 2 * c @ torch.randn(covariates, 3, generator=generator)
    beside = {} if c is None else {"covariates": c}
    times = torch.ones(260)
    if exposure:
        times = 0.5 + 3 * torch.rand(260, generator=generator)
        beside["exposure"] = times
    x = {
        "real": eta + 0.3 * torch.randn(260, 3, generator=generator),
        "counts": torch.poisson(eta.exp() * times[:, None], generator=generator),
        "codes": (eta > 0).float() + (eta > 0.7).float(),
        "binary": (eta > 0).float(),
        "unit": eta.sigmoid(),
        "bytes": (255 * eta.sigmoid()).round(),
        "positive": eta.exp(),
    }[kind]
    whole = Split(x, (z[:, 0] > 0).long(), **beside)
    return Dataset(whole[slice(160)], whole[slice(160, 260)], (3,), kind)


def small(**options) -> pyrovae.VAE:
    torch.manual_seed(0)
    return pyrovae.mlp_vae((3,), options.pop("latent_dim", 2), hidden_dims=(6,), **options)


def measured(pair, data: Dataset, history=None) -> Measurements:
    return Measurements([Entry("pair", pair, history)], data, SMALL)


def plain(markup: str) -> str:
    """The text of a piece of HTML."""
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", markup)))


def numbers(markup: str) -> list[float]:
    return [float(value) for value in re.findall(r'<data value="(.*?)">', markup)]


def two_members() -> tuple[Dataset, pyrovae.Ensemble]:
    """An ensemble of two pairs that differ."""
    members = [small(likelihood="normal", latent_dim=1) for _ in range(2)]
    with torch.no_grad():
        for parameter in members[1].parameters():
            parameter.add_(0.1)
    return table_of(), pyrovae.Ensemble(members)


# covariates and exposure -----------------------------------------------------------------------------


def test_estimates_are_those_at_the_items_own_covariates_and_exposure():
    data = table_of("counts", covariates=3, exposure=True)
    pair = small(likelihood="poisson", covariate_dim=3)
    measurements = measured(pair, data)
    items = measurements.chosen
    own = pyrovae.iwae(pair, items, num_particles=20)
    assert np.array_equal(measurements.iwae(measurements.entries[0]).pointwise["value"], own.pointwise["value"])
    one = pyrovae.iwae(pair, items.x, covariates=items.covariates, num_particles=20)  # an exposure that is dropped
    assert abs(own.mean - one.mean) > 0.1
    images = measurements.reconstructions(measurements.entries[0])
    wanted = pair.reconstruct(items).detach()
    torch.testing.assert_close(images, wanted)
    # a pair that takes neither is given neither
    other = small(likelihood="normal")
    measurements = measured(other, data)
    assert measurements.beside(measurements.entries[0]) == {}
    assert measurements.iwae(measurements.entries[0]).mean == pyrovae.iwae(other, items.x, num_particles=20).mean


def test_a_section_on_covariates_says_what_they_tell():
    data = table_of(covariates=3)
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(3, 1, covariate_dim=3)
    with torch.no_grad():
        pair.likelihood.network.weight[:, 1:] = torch.linalg.lstsq(data.train.covariates, data.train.x).solution.T
    made = conditional.section(measured(pair, data))
    items = pyrovae.report.items(data, 60)
    order = np.random.default_rng([0, 29]).permutation(60)
    own = pyrovae.iwae(pair, items, num_particles=20).pointwise["value"].values
    other = pyrovae.iwae(pair, items.x, covariates=items.covariates[order], num_particles=20).pointwise["value"].values
    mean, low, high = numbers(made.html)[:3]
    assert [mean, low, high] == [*pyrovae.paired_interval(own - other)]
    assert low > 0.5 and "yes" in plain(made.html)
    assert "draws, covariate 2 is 1" in plain(made.html) and "test items, covariate 2 is 1" in plain(made.html)
    # the control: a pair that ignores its covariates
    deaf = pyrovae.linear_vae(3, 1, covariate_dim=3)
    with torch.no_grad():
        deaf.likelihood.network.weight[:, 1:] = 0
    told = plain(conditional.section(measured(deaf, data)).html)
    assert "not seen" in told


def test_real_covariates_are_shown_at_their_quantiles():
    covariates = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 8.0]])
    values, words = conditional._values(covariates)
    assert [row.tolist() for _, row in values[:3]] == [
        pytest.approx([share, 6.0], abs=1e-6) for share in (0.2, 1.0, 1.8)
    ]
    assert "10, 50 and 90 %" in words
    assert [name for name, _ in conditional._values(torch.eye(3))[0]] == [f"covariate {k} is 1" for k in range(3)]


@pytest.mark.slow
def test_counts_are_reconstructed_at_their_own_exposure_in_the_code_space():
    data = table_of("counts", exposure=True)
    pair = small(likelihood="poisson")
    survey = pyrovae.code_space(pair, data.train, data.test, num_codes=20, num_pairs=3)
    wanted = pyrovae.reconstruction_error(data.test.x, pair.reconstruct(data.test))
    assert float(survey.squared_error) == pytest.approx(float(wanted.squared_error), rel=1e-5)
    dropped = pyrovae.reconstruction_error(data.test.x, pair.reconstruct(data.test.x))
    assert float(dropped.squared_error) != pytest.approx(float(wanted.squared_error), rel=1e-2)


@pytest.mark.slow
def test_the_code_space_of_a_pair_with_covariates_is_decoded_at_the_first_that_its_plane_shows():
    data, pair = table_of("binary", covariates=3), small(covariate_dim=3)
    measurements = measured(pair, data)
    assert "(pair, covariate 0)" in plain(code_space.section(measurements).html)
    entry = measurements.entries[0]
    survey = pyrovae.code_space(
        pair,
        measurements.training_items(entry),
        measurements.items(entry),
        measurements.of(entry, "judge", lambda: code_space._judge(measurements)),
        covariates=[1.0, 0.0, 0.0],
        num_codes=SMALL.num_codes,
        num_pairs=SMALL.num_pairs,
    )
    found = measurements.of(entry, "code space", dict)
    for name in ("displacement_median", "squared_error", "rate"):
        assert float(found[name]) == float(survey[name]), name
    bare = Dataset(Split(data.train.x, data.train.y), Split(data.test.x, data.test.y), (3,), "bare")
    assert "carry none" in str(code_space.section(measured(pair, bare)).reason)


# predictive checks and strange items -----------------------------------------------------------------


def test_predictive_checks_are_the_package_s():
    data = table_of("counts")
    pair = small(likelihood="poisson")
    measurements = measured(pair, data)
    made = predictive_checks.section(measurements)
    result = pyrovae.predictive_checks(pair, pyrovae.report.items(data, 60).x, draws=59)
    rows = re.findall(r'rowheader">pair, (.*?)</th>(.*?)</tr>', made.html, re.S)
    assert [name for name, _ in rows] == result.table["statistic"].values.tolist()
    for name, cells in rows:
        one = result.table.sel(statistic=name)
        wanted = [one.observed, one["mean"], one.lower, one.upper, one.p_value, one.p_value_se, one.p_adjusted]
        assert numbers(cells) == [float(value) for value in wanted]
        assert ("fails" in cells) == (name in result.failed)
    assert result._verdict() in plain(made.html)
    assert "uniform where the items are drawn from p(x)" in plain(made.html)
    assert made.html.count("<figure") == 3
    refused = predictive_checks.section(measured(pyrovae.mlp_ae((3,), hidden_dims=(6,)), table_of()))
    assert isinstance(refused, LeftOut) and "needs a p(x)" in refused.reason


def test_a_distribution_has_its_mark_where_the_value_is():
    drawn = charts.distribution([0.0, 1.0, 2.0], 4.0, label="", xlabel="")
    bars = [float(x) for x in re.findall(r'class="bar" x="([\d.]+)"', drawn)]
    mark = float(re.search(r'class="mark" x1="([\d.]+)"', drawn)[1])
    ends = (min(bars), max(bars))
    # bars from 0 to 2 and the mark at 4: as far again
    assert mark - ends[0] == pytest.approx(2 * (ends[1] - ends[0]) * 25 / 24, abs=1.5)
    assert charts.distribution([math.nan], 0.0, label="", xlabel="") == ""
    assert charts.distribution([1.0], math.inf, label="", xlabel="") == ""


def test_strange_items_have_the_claimed_rate_and_the_one_seen():
    data, pair = table_of(), small(likelihood="normal")
    measurements = measured(pair, data)
    usual, checked = strange_items._halves(measurements)
    assert not set(usual) & set(checked) and len(usual) + len(checked) == 60
    made = strange_items.section(measurements)
    threshold, claimed, seen, low, high, p = numbers(made.html)[:6]
    assert claimed == 1 / 31 and 0 <= seen <= 1 and low <= seen <= high
    ends = stats.binomtest(round(seen * 30), 30).proportion_ci(0.95)
    assert (low, high) == (ends.low, ends.high) and 0.01 < p <= 1
    detector, novelty = strange_items._detected(measurements.entries[0], measurements)
    assert threshold == detector.threshold
    order = np.argsort(-novelty.pointwise["score"].values)
    places = measurements.rows[checked[order[:10]]]
    assert re.findall(r"test item (\d+), label", plain(made.html)) == [str(place) for place in places]
    assert f"test item {places[0]}, label {int(data.test.y[places[0]])} " in plain(made.html)


# categories, labels, ensembles -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["categorical", "ordinal"])
def test_categories_are_judged_by_their_probabilities(family):
    data, pair = table_of("codes"), small(likelihood=f"{family}(num_classes=3)")
    measurements = measured(pair, data)
    made = reconstructions.section(measurements)
    items = pyrovae.report.items(data, 60).x
    with torch.no_grad():
        probabilities = pair.probabilities(pair.encode(items)).double()
    right = (probabilities.argmax(-1) == items.long()).double().mean(1)
    own = probabilities.gather(-1, items.long()[..., None]).squeeze(-1).mean(1)
    values = numbers(made.html)
    np.testing.assert_allclose(values[:2], [right.mean(), right.std() / 60**0.5], rtol=1e-6)
    np.testing.assert_allclose(values[3:5], [own.mean(), own.std() / 60**0.5], rtol=1e-6)
    most = np.mean([np.bincount(items[:, column].long()).max() / 60 for column in range(3)])
    assert values[2] == pytest.approx(most) and values[5] == 1 / 3
    told = plain(samples.section(measurements).html).replace(" ,", ",")
    first = [(items[:, 0] == category).double().mean().item() for category in range(3)]
    assert ", ".join(f"{share:.2f}" for share in first) in told
    assert "have no mean" in code_space.section(measurements).reason


def test_draws_of_a_table_are_rows_with_the_names_of_columns_and_categories():
    """The numbers are those of the seen entries, recomputed; a missing entry is a dash and no number."""
    rng = np.random.default_rng(0)
    town = rng.choice(["Aachen", "Bonn", "Celle <>"], 60)
    height, visits = 100 * rng.random(60), rng.poisson(3, 60).astype(float)
    height[::4] = np.nan
    made = pyrovae.data.table({"height": height, "visits": visits.astype(int), "town": town}, {"height": "real"})
    data = made.split(test=0.5)
    mixture = pyrovae.ColumnMixture(made, 2)
    pyrovae.fit(mixture, data.train, num_restarts=1, progress=False)
    html_of = samples.section(measured(mixture, data)).html
    told = plain(html_of)
    test = data.test.x.double()
    seen = test[:, 0][~test[:, 0].isnan()]
    assert "column 0" not in told and "Celle <>" in told and "Celle <>" not in html_of and "—" in told
    assert f"{seen.mean():.1f} ± {seen.std():.1f}" in told
    share = [(test[:, 2] == code).double().mean().item() for code in range(3)]
    by_name = ", ".join(f"{name} {of:.2f}" for name, of in zip(["Aachen", "Bonn", "Celle <>"], share, strict=True))
    assert by_name in told.replace(" ,", ",")
    assert f"{test[:, 0].isnan().double().mean():.0%}" in told
    drawn = samples.draws(mixture, 500, SMALL.seed, mean=False).double()
    assert f"{drawn[:, 0].mean():.1f} ± {drawn[:, 0].std():.1f}" in told
    words = ["Aachen", "Bonn", "Celle <>"]
    for row in drawn[: samples.SHOWN_ROWS]:
        assert f"{row[0]:.1f} {row[1]:.0f} {words[int(row[2])]}".replace("-", "−") in told


def test_a_pair_that_learnt_from_few_labels_has_its_error_and_its_counts():
    data = table_of("counts")
    torch.manual_seed(0)
    pair = pyrovae.SemiSupervisedVAE((3,), 2, latent_dim=1, hidden_dims=(6,), likelihood="poisson")
    x, y = data.train.x, data.train.y
    history = pyrovae.fit(pair, x[:20], y[:20], unlabeled=x[20:], epochs=1, progress=False)
    made = semi_supervised.section(measured(pair, data, history))
    labelled, unlabelled, error, low, high, guessing = numbers(made.html)[:6]
    items = pyrovae.report.items(data, 60)
    wrong = (pair.predict(items.x) != items.y).double().mean().item()
    assert (labelled, unlabelled) == (20, 140) and error == pytest.approx(wrong) and low <= error <= high
    assert guessing == pytest.approx(1 - np.bincount(items.y).max() / 60)
    assert "draws of class 1" in plain(made.html) and "test items of class 1" in plain(made.html)
    shown = reconstructions.section(measured(pair, data, history))
    assert not isinstance(shown, LeftOut)
    by_hand = pair.given(pair.indicators(pair.predict(items.x)), pair.encode(items.x)).mean
    torch.testing.assert_close(pair.reconstruct(items.x), by_hand)
    at_ones = pair.reconstruct(items.x, torch.ones(60, dtype=torch.long))
    assert not torch.allclose(at_ones, by_hand)
    means = pair.sample(1, 3, seed=0, mean=True)
    assert means.shape == (3, 3) and not torch.equal(means, means.round())


def test_draws_of_a_pair_with_labels_are_said_to_have_some():
    """Labels of p(y) 0.9 and 0.1, of which 500 draws have 450 of the first within 5 standard deviations."""
    data = table_of("counts")
    torch.manual_seed(0)
    pair = pyrovae.SemiSupervisedVAE((3,), 2, 1, hidden_dims=(6,), likelihood="poisson", class_prior=[0.9, 0.1])
    with torch.no_grad():
        pair.likelihood.network.layers[0].weight[:, 1:] *= 20  # what the label adds
    told = plain(samples.section(measured(pair, data)).html)
    assert "has a label of its own, drawn from the model's p(y)" in told
    assert "label of its own" not in plain(samples.section(measured(small(likelihood="poisson"), data)).html)
    drawn = samples.draws(pair, 500, 0, mean=True)
    means = torch.stack([pair.sample(label, 2000, seed=1, mean=True).mean(0) for label in (0, 1)])
    mixed = 0.9 * means[0] + 0.1 * means[1]
    error = 5 * drawn.std(0) / 500**0.5
    assert ((drawn.mean(0) - mixed).abs() < error + 0.02 * mixed).all()
    assert ((means[0] - mixed).abs() > error + 0.02 * mixed).any()  # labels of one class would be seen
    assert not torch.equal(drawn, drawn.round())  # means, and no counts


def test_pictures_of_classes_are_at_the_same_codes():
    torch.manual_seed(0)
    pair = pyrovae.SemiSupervisedVAE((1, 4, 4), 3, 2, hidden_dims=(6,))
    found = semi_supervised.at_the_same_codes(pair, [2, 0], 5, 0)
    assert found.shape == (10, 1, 4, 4)
    with torch.no_grad():
        for parameter in pair.likelihood.network.layers[0].parameters():
            parameter[..., 2:] = 0  # labels that do not matter, so that only the codes do
    one, other = semi_supervised.at_the_same_codes(pair, [2, 0], 5, 0).chunk(2)
    assert torch.equal(one, other) and not torch.equal(one[0], one[1])


def test_an_ensemble_has_no_rate_and_says_so():
    data, ensemble = two_members()
    measurements = measured(ensemble, data)
    assert "from those of its members" in rate.section(measurements).reason
    assert not isinstance(comparison.section(measurements), LeftOut)


@pytest.mark.slow
def test_the_code_space_of_an_ensemble_is_surveyed():
    _, ensemble = two_members()
    space = pyrovae.code_space(ensemble, table_of().train, table_of().test, num_codes=20, num_pairs=3)
    assert float(space.rate) > 0


def test_a_section_that_fails_leaves_the_others_on_the_page(monkeypatch, tmp_path):
    def broken(measurements):
        raise KeyError("lost")

    mixture = pyrovae.GaussianMixture.from_parameters([1.0], [[0.0] * 3], [[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    monkeypatch.setattr("pyrovae.report.writing.makers", lambda: [broken, comparison.section])
    path = pyrovae.report.write(tmp_path / "page.html", [Entry("pair", mixture)], table_of(), num_particles=5)
    text = path.read_text(encoding="utf-8")
    assert "<dt>broken</dt><dd>it failed with KeyError" in text and comparison.TITLE in plain(text)


# every pair -----------------------------------------------------------------------------------------


def named(kind: str, name: str) -> str:
    return f"{name}({ARGUMENTS[name]})" if name in ARGUMENTS else name


def own(kind: str) -> list[str]:
    names = [name for name, part in registered(kind).items() if part.__module__.startswith("pyrovae.")]
    return [name for name in names if name != "columns"]  # of a table, which is a pair of its own here


def mixed_table() -> tuple[Dataset, pyrovae.VAE]:
    """A table with a column of each kind and some entries missing."""
    x = table_of().train.x.double().numpy()
    columns = {
        "real": x[:, 0],
        "positive": np.exp(x[:, 1]),
        "count": np.floor(np.exp(x[:, 2] + 1)),
        "binary": (x[:, 0] > 0).astype(float),
        "categorical": (x[:, 1] > 0).astype(float) + (x[:, 1] > 0.7),
        "ordinal": (x[:, 2] > 0).astype(float) + (x[:, 2] > 0.7),
    }
    frame = pd.DataFrame(columns).mask(np.random.default_rng(0).random((160, 6)) < 0.2)
    table = pyrovae.data.table(frame, kinds={name: name for name in columns})
    torch.manual_seed(0)
    return table.split(test=0.4, seed=0), pyrovae.table_vae(table, latent_dim=2, hidden_dims=(6,))


def few_labels() -> tuple:
    data = table_of("codes")
    torch.manual_seed(0)
    options = {"latent_dim": 2, "hidden_dims": (6,), "likelihood": "categorical(num_classes=3)"}
    pair = pyrovae.SemiSupervisedVAE((3,), 2, **options)
    return data, pair


def bayesian() -> tuple:
    return table_of(), pyrovae.BayesianVAE(small(likelihood="normal"))


def given() -> tuple:
    return table_of(), pyrovae.Given(small(likelihood="normal", covariate_dim=3), [1.0, 0.0, 0.0])


def independent() -> tuple:
    data = table_of("counts")
    return data, pyrovae.IndependentEntries.fit(data.train.x, family="negative_binomial")


# whose pages are those of another family with the same kind of mean: what the page decodes of each is compared below
LIKE_OTHERS = (
    "continuous_bernoulli",
    "heteroscedastic_normal",
    "laplace",
    "log_normal",
    "normal",
    "poisson",
    "zero_inflated_negative_binomial",
    "zero_inflated_poisson",
)
PAIRS = {
    **{
        name: lambda name=name: (table_of(KINDS.get(name, "real")), small(likelihood=named("likelihood", name)))
        for name in own("likelihood")
        if name not in LIKE_OTHERS
    },
    "student_t without a mean": lambda: (table_of(), small(likelihood="student_t(df=1.0)")),
    **{
        f"posterior {name}": lambda name=name: (table_of(), small(likelihood="normal", posterior=name))
        for name in own("posterior")
    },
    **{
        f"prior {name}": lambda name=name: (
            table_of(covariates=3 * (name == "conditional")),
            small(
                likelihood="normal",
                posterior="full",
                prior=named("prior", name),
                latent_dim=3,
                covariate_dim=3 * (name == "conditional"),
            ),
        )
        for name in own("prior")
    },
    "covariates and exposure": lambda: (
        table_of("counts", covariates=3, exposure=True),
        small(likelihood="negative_binomial(dispersion='item')", covariate_dim=3),
    ),
    "categories with covariates": lambda: (
        table_of("codes", covariates=3),
        small(likelihood="categorical(num_classes=3)", covariate_dim=3),
    ),
    "ensemble": two_members,
    "table": mixed_table,
    "few labels": few_labels,
    "bayesian": bayesian,
    "given": given,
    "independent entries": independent,
    "frozen": lambda: (table_of(), small(likelihood="normal").frozen()),
}
WORDS_OF_A_FAULT = ("it failed with", "Traceback", "object has no attribute", "KeyError")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_a_page(name, monkeypatch):
    # the ledger's search and the judge take most of a page's time, and are the same for every pair
    monkeypatch.setattr(evidence, "MOST_FOR_GAPS", 0)
    monkeypatch.setattr(code_space, "_judge", lambda measurements: None)
    data, pair = PAIRS[name]()
    measurements = measured(pair, data)
    made = [make(measurements) for make in makers()]
    told = " ".join(plain(one.reason if isinstance(one, LeftOut) else one.html) for one in made)
    plane = explorer(measurements.entries, data)
    whole = page(name, [one for one in made if not isinstance(one, LeftOut)], plane)
    assert not [words for words in WORDS_OF_A_FAULT if words in told + plain(whole.split("<script")[0])]
    assert not [words for words in WORDS_OF_A_FAULT if words in whole]
    titles = [one.title for one in made if not isinstance(one, LeftOut)]
    expected = {"What was fitted, on what", comparison.TITLE}
    if name == "table":
        assert "missing" in told  # checks and novelty are left out for it, with the reason
        expected |= {samples.TITLE, rate.TITLE}
    elif name != "bayesian":
        expected |= {samples.TITLE, predictive_checks.TITLE, strange_items.TITLE}
    assert expected <= set(titles), (name, titles)
    assert ("covariates" in measurements.beside(measurements.entries[0])) == (conditional.TITLE in titles)


# the code plane ---------------------------------------------------------------------------------------

PLANES = {
    **{name: (KINDS.get(name, "real"), {"likelihood": named("likelihood", name)}) for name in own("likelihood")},
    "student_t without a mean": ("real", {"likelihood": "student_t(df=1.0)"}),
    "dispersion of an item": ("counts", {"likelihood": "negative_binomial(dispersion='item')"}),
    "covariates": ("real", {"likelihood": "normal", "covariate_dim": 3}),
    "covariates and exposure": ("counts", {"likelihood": "poisson", "covariate_dim": 3}),
    "categories with covariates": ("codes", {"likelihood": "categorical(num_classes=3)", "covariate_dim": 3}),
}
FAST = ("poisson", "categorical", "covariates and exposure")


def of_plane(name: str) -> tuple[Dataset, pyrovae.VAE]:
    kind, options = PLANES[name]
    data = table_of(kind, covariates=options.get("covariate_dim", 0), exposure=name.endswith("exposure"))
    pair = small(**options)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.mul_(1.5)
    return data, pair


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in [*PLANES, "few labels"]]
)
def test_the_page_decodes_what_python_decodes(name):
    if name == "few labels":
        data = table_of("counts")
        torch.manual_seed(0)
        pair = pyrovae.SemiSupervisedVAE((3,), 2, latent_dim=2, hidden_dims=(6,), likelihood="poisson")
    else:
        data, pair = of_plane(name)
    decoding = decoding_of(pair, data.test)
    plane = plane_of(pair, decoding.codes, 0)
    decoder = decoder_of(decoding, plane, Layout.of((3,), data.test.x.numpy()), 0)
    assert decoder.error is not None, decoder.why
    rows = decoding.with_beside(plane.spread_codes(100, 1), 1)
    half = decoding_of(with_half_weights(pair), data.test)  # the page's own weights
    exact = half(rows)
    values = np.array(in_node(decoder.text, rows.tolist())["values"])
    if decoding.categories:
        table = np.sort(exact.reshape(100, 3, -1), -1)
        told = table[..., -1] - table[..., -2] > 1e-4
        assert told.mean() > 0.9 and len(np.unique(values)) > 1
        np.testing.assert_array_equal(values[told], half.shown(exact)[told])
        other = 2 - half.shown(exact)
    else:
        size = max(1.0, float(np.abs(exact).max()))
        np.testing.assert_allclose(values, exact, atol=1e-4 * size)
        assert np.abs(decoding(rows) - values).max() <= decoder.error
        other = half(np.roll(rows, 1, 0))
    assert np.abs(values - other).max() > 0.01  # the control
    if decoding.beside.shape[1]:
        at_options = [half(np.concatenate([rows[:, :2], np.tile(row, (100, 1))], 1)) for _, row in decoding.options[:2]]
        assert np.abs(at_options[1] - at_options[0]).max() > 1e-3  # what lies beside a code counts


def test_what_the_page_decodes_is_the_pairs_own():
    data, pair = of_plane("covariates and exposure")
    decoding = decoding_of(pair, data.test)
    rows = np.concatenate([decoding.codes.numpy(), decoding.beside], 1)
    np.testing.assert_allclose(decoding(rows), pair.reconstruct(data.test).detach(), rtol=1e-5)
    assert [name for name, _ in decoding.options] == [f"covariate {k}, exposure 1" for k in range(3)]
    data, pair = of_plane("ordinal")
    probabilities = pair.probabilities(pair.encode(data.test.x)).detach().numpy()
    decoding = decoding_of(pair, data.test)
    np.testing.assert_allclose(decoding(decoding.codes.numpy()), probabilities @ [0, 1, 2], rtol=1e-5)
    assert decoding.words == "shown is the expected category"
    data, pair = of_plane("student_t without a mean")
    decoding = decoding_of(pair, data.test)
    median = pair.likelihood(decoding.codes).base_dist.loc.detach()
    np.testing.assert_allclose(decoding(decoding.codes.numpy()), median, rtol=1e-5)


def test_a_prior_that_depends_on_covariates_has_no_lines_and_the_page_says_so():
    data = table_of(covariates=3)
    conditional_prior = small(likelihood="normal", covariate_dim=3, prior="conditional", posterior="full")
    vamp = small(likelihood="normal", prior="vamp(num_components=3)", latent_dim=3)
    told = explorer([Entry("conditional", conditional_prior)], data)
    assert "its prior depends on the covariates" in told and "within" in told
    assert "a normal distribution with correlations, which are not drawn" in told
    assert "is no normal one, and has no lines here" in explorer([Entry("vamp", vamp)], table_of())
    flat = small(likelihood="normal", prior="vamp(num_components=3)")
    assert plane_of(flat, flat.encode(data.test.x).detach(), 0).prior["kind"] == "grid"
    words = {name: _words_of_points(small(posterior=name)) for name in ("diagonal", "full", "flow")}
    assert not words["diagonal"] and "of 512 draws" in words["flow"]
