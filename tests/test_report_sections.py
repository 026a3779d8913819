"""The sections of a report: each number is the package's own, to the last digit, and what there is not is said."""

from __future__ import annotations

import html
import math
import re
from html.parser import HTMLParser

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.data import Dataset, Split
from pyrovae.report import Entry, Section, charts, markup, pricing, sections, write
from pyrovae.report.chosen import items_of
from pyrovae.report.measurements import Measurements, Settings
from pyrovae.report.sections import calibration, comparison, evidence

HOSTILE = "<script>alert(1)</script>\"'&<b style='x'>"
SIZES = {"num_items": 40, "num_ledger_items": 3, "num_particles": 20}


class Report:
    """The sections of a page, and the rows of their tables, each with its cells by the name of their column."""

    def __init__(self, path):
        self.page = path.read_text(encoding="utf-8")
        found = re.findall(r'<section id="[^"]*"[^>]*>\n<h2[^>]*>(.*?)</h2>(.*?)</section>', self.page, re.S)
        self.sections = {html.unescape(title): body for title, body in found}

    @classmethod
    def of(cls, *made):
        """Of some sections without a page."""
        report = cls.__new__(cls)
        report.page, report.sections = "", {one.title: one.html for one in made}
        return report

    def rows(self, section):
        lines = []
        pattern = r'<th scope="row" role="rowheader">(.*?)</th>(.*?)</tr>'
        for name, cells in re.findall(pattern, self.sections[section], re.S):
            found = re.findall(r'<td role="cell" data-label="(.*?)"><span>(.*?)</span></td>', cells, re.S)
            lines.append((html.unescape(name), {html.unescape(label): cell for label, cell in found}))
        return lines

    def numbers(self, section, row, column, **also):
        """The numbers, with all their digits, of the one cell of this row and column, in rows where `also` holds."""
        cells = [
            cells[column]
            for name, cells in self.rows(section)
            if name == row and column in cells and all(cells.get(label) == cell for label, cell in also.items())
        ]
        assert len(cells) == 1, (section, row, column, len(cells))
        return [float(value) for value in re.findall(r'<data value="(.*?)">', cells[0])]


@pytest.fixture(scope="module")
def digits():
    return pyrovae.data.load("digits")


@pytest.fixture(scope="module")
def classifiers(digits, tmp_path_factory):
    """A page on three pairs that are quickly fitted and have exact densities or labels: no code among them."""
    lda = pyrovae.gaussian_classifier((1, 8, 8), 10, floor=1e-3)
    softmax = pyrovae.DiscriminativeClassifier((1, 8, 8), 10)
    mixture = pyrovae.GaussianMixture((1, 8, 8), 3, covariance="diagonal", floor=1e-3)
    quiet = {"progress": False}
    entries = [
        Entry("LDA", lda, pyrovae.fit(lda, digits.train.x, digits.train.y, **quiet)),
        Entry("softmax", softmax, pyrovae.fit(softmax, digits.train.x, digits.train.y, max_iterations=5, **quiet)),
        Entry("mixture", mixture, pyrovae.fit(mixture, digits.train.x, num_restarts=1, tol=0.1, **quiet)),
    ]
    path = write(tmp_path_factory.mktemp("report") / "report.html", entries, digits, **SIZES, seed=3)
    return {entry.name: entry.pair for entry in entries}, entries, Report(path)


@pytest.fixture(scope="module")
def autoencoders(digits, tmp_path_factory):
    """A page on an AE and two VAEs, one of them of items made 0 or 1."""
    torch.manual_seed(0)
    sizes = {"hidden_dims": (32,), "activation": "leaky_relu"}
    pairs = {
        "AE": pyrovae.mlp_ae((1, 8, 8), likelihood=pyrovae.Normal(scale=0.3), **sizes),
        "VAE": pyrovae.mlp_vae((1, 8, 8), likelihood=pyrovae.Normal(scale=0.3), **sizes),
        "of bits": pyrovae.mlp_vae((1, 8, 8), 1, **sizes),
    }
    options = {"epochs": 10, "learning_rate": 3e-3, "progress": False, "validation": digits.test.x}
    entries = [
        Entry(name, pair, pyrovae.fit(pair, digits.train.x, binarize=name == "of bits", **options))
        for name, pair in pairs.items()
    ]
    path = write(tmp_path_factory.mktemp("report") / "report.html", entries, digits, **SIZES, seed=3)
    return pairs, entries, Report(path)


COMPARED = "Which is better, and can it be sampled?"


def test_the_items_are_a_choice_that_anyone_can_repeat(digits):
    some = pyrovae.report.items(digits, 40, 3)
    rows = np.sort(np.random.default_rng(3).permutation(360)[:40])
    assert torch.equal(some.x, digits.test.x[rows]) and torch.equal(some.y, digits.test.y[rows])
    assert torch.equal(pyrovae.report.items(digits, 1000).x, digits.test.x)
    assert not torch.equal(pyrovae.report.items(digits, 40, 4).x, some.x)  # control
    bits = items_of(pyrovae.mlp_vae((1, 8, 8)), some, seed=3)
    assert torch.equal(bits.x, pyrovae.data.binarize(some.x, seed=3))
    assert items_of(pyrovae.mlp_vae((1, 8, 8)), bits) is bits
    assert items_of(pyrovae.mlp_vae((1, 8, 8), likelihood="normal"), some) is some


def test_log_p_and_its_differences_are_the_estimators(classifiers, digits):
    pairs, _, report = classifiers
    x = pyrovae.report.items(digits, 40, 3).x
    bounds = {}
    for name in ("LDA", "mixture"):
        bounds[name] = pyrovae.iwae(pairs[name], x, num_particles=20, seed=3)
        assert report.numbers(COMPARED, name, "log p(x), nats per item") == [bounds[name].mean, bounds[name].se]
        assert report.numbers(COMPARED, name, "its error over items") == [bounds[name].se_items]
    difference = (bounds["mixture"] - bounds["LDA"]).pointwise["value"].values
    assert report.numbers(COMPARED, "mixture", "difference [interval]") == [*pyrovae.paired_interval(difference)]
    assert report.numbers(COMPARED, "mixture", "difference [interval]") != [*pyrovae.paired_interval(-difference)]
    cells = dict(report.rows(COMPARED))
    assert (
        cells["softmax"]["log p(x), nats per item"] == "no p(x)" and "it is p(y | x) alone" in report.sections[COMPARED]
    )


def test_exact_values_stand_in_the_ledger(classifiers, digits):
    pairs, _, report = classifiers
    few = pyrovae.report.items(digits, 40, 3).x[:3]
    exact = pyrovae.exact(pairs["mixture"], few)
    ledger = "Evidence and the gap ledger"
    assert report.numbers(ledger, "mixture", "nats per item", estimator="exact") == [exact.mean]
    bound = pyrovae.elbo(pairs["mixture"], few, seed=3)
    assert report.numbers(ledger, "mixture", "nats per item", estimator="elbo") == [bound.mean, bound.se]


def test_a_pareto_k_that_16_draws_cannot_tell_is_not_counted_as_a_good_one(digits):
    vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(4,), likelihood="normal")
    x = pyrovae.report.items(digits, 40, 3).x[:3]
    few, many = pyrovae.elbo(vae, x), pyrovae.iwae(vae, x, num_particles=200)
    assert few.pointwise["pareto_k"].isnull().all() and many.pointwise["pareto_k"].notnull().all()
    assert str(evidence._row(Entry("VAE", vae), few)[-1]) == "too few draws for a Pareto k"
    assert "with Pareto k over 0.7" in str(evidence._row(Entry("VAE", vae), many)[-1])


def test_scores_of_classifiers_are_the_package_s(classifiers, digits):
    pairs, _, report = classifiers
    some = pyrovae.report.items(digits, 40, 3)
    log_proba = {}
    for name in ("LDA", "softmax"):
        predictions = pyrovae.predictions(pairs[name], some.x, some.y)
        log_proba[name] = predictions["log_proba_y"].values
        scores = pyrovae.classification_scores(predictions, seed=3)
        columns = {"accuracy": "accuracy", "log_loss": "log-loss, nats per item", "brier": "Brier score"}
        for metric, column in columns.items():
            row = scores.metrics.sel(metric=metric)
            expected = [float(row[of]) for of in ("value", "lower", "upper")]
            np.testing.assert_array_equal(report.numbers("Classification", name, column), expected)
        bins = pyrovae.reliability(predictions)
        shown = [cells for row, cells in report.rows("Classification") if row == name and "items" in cells]
        given = [float(re.search('value="(.*?)"', cells["probability given"])[1]) for cells in shown]
        assert given == bins["confidence"].values.tolist()
        right = int((predictions["y"] == predictions["predicted"]).sum())
        of_name = re.search(rf"Mistakes of {name}.*?</table>", report.sections["Classification"], re.S)[0]
        counts = re.findall(r'data-label="right"><span><data value="(.*?)"', of_name)
        assert sum(map(float, counts)) == right
    expected = pyrovae.paired_interval(log_proba["softmax"] - log_proba["LDA"])
    assert report.numbers("Classification", "softmax", "difference [interval]") == [*expected]


def test_what_no_pair_has_is_left_out_with_the_reason(classifiers):
    _, _, report = classifiers
    told = report.sections["What this page leaves out"]
    for title in ("Reconstructions", "Calibration of the encoder", "The code space in numbers"):
        assert title not in report.sections and f"<dt>{title}</dt>" in told
    assert "softmax: it has no code" in told
    assert "nothing can be drawn from it" in report.sections["Samples"]
    assert "Training" in report.sections  # control


def test_the_page_shows_the_fits(classifiers):
    _, entries, report = classifiers
    losses = {name: cells["last loss, nats per item"] for name, cells in report.rows("Training")}
    for entry in entries:
        assert f'value="{float(entry.history.epochs.loss[-1])!r}"' in losses[entry.name]
    assert "it was fitted in one step" in report.sections["Training"]
    protocol = report.sections["What was fitted, on what"]
    for words in ("GaussianMixture", "40 of the test items", "<dd>diagonal</dd>", "<dt>torch</dt>"):
        assert words in protocol


def attributes(text):
    """The names of all attributes of the elements in a piece of HTML."""
    names = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            names.update(name for name, _ in attrs)

    Reader().feed(text)
    return names


def test_nothing_from_outside_is_markup_and_nothing_needs_what_the_page_forbids(tmp_path):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 2
    data = Dataset(Split(x[:20], y[:20]), Split(x[20:], y[20:]), (4,), HOSTILE, (HOSTILE, "other"))
    classifier = pyrovae.gaussian_classifier((4,), 2)
    history = pyrovae.fit(classifier, x[:20], y[:20], progress=False)
    history.config[HOSTILE] = HOSTILE
    entry = Entry(HOSTILE, classifier, history, {HOSTILE: HOSTILE})
    page = Report(write(tmp_path / "page.html", [entry], data, num_items=5, num_particles=5)).page
    assert page.count("<script>") == 1 and page.count(html.escape(HOSTILE)) > 5
    body = page.split("<main")[1].split("</main>")[0]
    assert "style" not in attributes(body) and "<script" not in body
    assert "style" in attributes(html.unescape(body))  # control
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) == []


def test_a_pair_with_two_latent_sites_has_a_page_that_says_what_it_lacks(tmp_path):
    class TwoSites(nn.Module):
        event_shape, latent_dim, is_normalized = (3,), 1, True

        def __init__(self):
            super().__init__()
            self.loadings = nn.Parameter(torch.ones(3))

        def model(self, x=None, *, size=1):
            pyro.module("two", self)
            with pyro.plate("data", size if x is None else len(x)):
                u = pyro.sample("u", dist.Normal(0.0, 1.0))
                v = pyro.sample("v", dist.Normal(u, 1.0))
                return pyro.sample("obs", dist.Normal(v[..., None] * self.loadings, 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            pyro.module("two", self)
            with pyro.plate("data", size if x is None else len(x)):
                pyro.sample("u", dist.Normal(x.mean(-1), 1.0))
                pyro.sample("v", dist.Normal(x.mean(-1), 1.0))

    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x[:20]), Split(x[20:]), (3,), "vectors")
    pair = TwoSites()
    report = Report(write(tmp_path / "page.html", [Entry("two", pair)], data, num_particles=10))
    bound = pyrovae.iwae(pair, x[20:], num_particles=10)
    assert report.numbers(COMPARED, "two", "log p(x), nats per item") == [bound.mean, bound.se]
    assert "whose one unobserved site is named" in report.sections["What this page leaves out"]
    assert "no history was handed over" in report.sections["What this page leaves out"]
    assert "Samples" in report.sections
    assert "it failed with" not in report.page


def test_p_values_are_those_after_holm_s_correction(exact_linear_pair):
    torch.manual_seed(0)
    x = exact_linear_pair.sample(20).detach()
    data = Dataset(Split(x), Split(x), (6,), "draws")
    measurements = Measurements([Entry("exact", exact_linear_pair)], data, Settings(num_simulations=200))
    made = calibration.section(measurements)
    tests = pyrovae.calibrate(exact_linear_pair, num_simulations=200).tests
    worst = tests.sortby("statistic", ascending=False).quantity.values[:3]
    expected = [float(tests.p_adjusted.sel(quantity=name)) for name in tests.quantity.values if name in worst]
    shown = re.findall(r'data-label="adjusted p"><span><data value="(.*?)"', made.html)
    assert [float(value) for value in shown] == expected
    assert expected != [float(tests.p_value.sel(quantity=name)) for name in tests.quantity.values if name in worst]


def test_a_section_of_one_s_own_is_one_function(classifiers, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "_ADDED", {})
    _, entries, before = classifiers

    @pyrovae.report.add_section(order=15)
    def count_of_pairs(measurements):
        return Section("How many", "Counts them.", f"<p>{len(measurements.entries)}</p>")

    @pyrovae.report.add_section()
    def none_at_all(measurements):
        return sections.LeftOut("Nothing", "there is nothing")

    made = Report(write(tmp_path / "page.html", entries[2:], digits, **SIZES))
    assert "How many" not in before.sections and "<p>1</p>" in made.sections["How many"]
    assert [*made.sections][:3] == ["What was fitted, on what", "How many", COMPARED]
    assert "<dt>Nothing</dt><dd>there is nothing</dd>" in made.sections["What this page leaves out"]


def test_what_cannot_be_a_report_is_refused_and_an_old_one_stays(classifiers, digits, tmp_path, monkeypatch):
    _, entries, _ = classifiers
    target = tmp_path / "page.html"
    target.write_text("the one before")
    small = Dataset(Split(torch.zeros(3, 2)), Split(torch.zeros(3, 2)), (2,), "small")
    refused = [
        ([], digits, ValueError, "at least one"),
        ([entries[0].pair], digits, TypeError, "Entry"),
        ([entries[0], entries[0]], digits, ValueError, "'LDA' stands twice"),
        ([Entry("net", nn.Linear(2, 2))], digits, TypeError, "model"),
        (entries, small, ValueError, r"LDA is for items of shape \(1, 8, 8\)"),
    ]
    for some, data, kind, words in refused:
        with pytest.raises(kind, match=words):
            write(target, some, data)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write(tmp_path / "nowhere" / "page.html", entries, digits)
    with pytest.raises(IsADirectoryError, match=r"report\.html"):
        write(tmp_path, entries, digits)
    monkeypatch.setattr("pyrovae.report.writing.page", lambda *a, **k: None)  # which no file can hold
    with pytest.raises(TypeError):
        write(target, entries[2:], digits, **SIZES)
    assert target.read_text() == "the one before" and [*tmp_path.iterdir()] == [target]


def test_an_entry_that_fails_does_not_take_the_page_with_it(classifiers, digits, tmp_path, monkeypatch):
    _, entries, _ = classifiers
    monkeypatch.setattr(pyrovae, "elbo", lambda *a, **k: {}["missing"])
    report = Report(write(tmp_path / "page.html", entries[2:], digits, **SIZES))
    assert "it failed with KeyError" in report.sections["What this page leaves out"]
    assert COMPARED in report.sections


class TestMarkup:
    def test_a_number_keeps_its_digits_and_its_sign(self):
        value = -1 / 3
        shown = markup.number(value)
        assert float(re.search('value="(.*?)"', shown)[1]) == value and ">−0.333<" in shown
        assert ">0.000<" in markup.number(-1e-9) and ">+0.250<" in markup.number(0.25, "+.3f")
        assert ">∞<" in markup.number(math.inf) and ">none<" in markup.number(math.nan)

    def test_text_is_escaped_and_markup_is_not(self):
        made = markup.table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, markup.Markup("<i>x</i>")]])
        assert "<script>" not in made and "<i>x</i>" in made
        assert markup.left_out([]) == "" and "<script>" not in markup.left_out([(HOSTILE, HOSTILE)] * 3)


class TestCharts:
    def test_points_lie_where_their_values_are(self):
        line = charts.Line("a", [0, 5, 10], [0, 1, 2])
        drawn = charts.curves([line], label="a line", xlabel="x", ylabel="y")
        (path,) = re.findall('points="([^"]*)"/>\n<circle', drawn)
        points = np.array([[float(v) for v in point.split(",")] for point in path.split()])
        steps = np.diff(points, axis=0)
        np.testing.assert_allclose(steps[0], steps[1], atol=0.11)
        assert steps[0, 0] > 0 and steps[0, 1] < 0  # to the right, and up
        assert (points >= 0).all() and points[:, 0].max() < charts.WIDTH

    def test_ticks_are_round_numbers_within_the_axis(self):
        for low, high in ((0, 1), (-3.7, 12.2), (1e-4, 3e-4), (-50_000, 20_000), (2.0, 2.0)):
            scale = charts._Scale(low, high, 0, 100)
            assert 2 <= len(scale.ticks) <= 7
            assert all(-0.1 <= scale(tick) <= 100.1 for tick in scale.ticks)
            assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)

    def test_parts_of_a_bar_are_as_long_as_they_are_large(self):
        drawn = charts.stacked({"a": {"x": 1.0, "y": 3.0}}, label="bars", xlabel="nats", places={"a": 0})
        one, three = (float(width) for width in re.findall(r'class="bar[^>]* width="([\d.]+)"', drawn))
        assert three == pytest.approx(3 * one, abs=0.3)

    def test_nothing_to_draw_is_no_figure(self):
        nothing = charts.Line("a", [1.0], [math.nan])
        assert charts.figure(charts.curves([nothing], label="", xlabel="", ylabel="")) == ""
        row = charts.Row("a", math.nan, 0.0, 1.0)
        assert charts.intervals([row], label="", xlabel="") == ""

    def test_an_interval_without_an_end_fills_the_axis(self):
        rows = [charts.Row("a", 0.0, -math.inf, math.inf), charts.Row("b", 1.0, 0.5, 1.5)]
        assert "inf" not in charts.intervals(rows, label="", xlabel="")


@pytest.mark.slow
class TestAutoencoders:
    def test_reconstruction_is_that_of_the_same_items(self, autoencoders, digits):
        pairs, _, report = autoencoders
        some = pyrovae.report.items(digits, 40, 3)
        errors = {}
        for name, pair in pairs.items():
            x = items_of(pair, some, 3).x
            error = pyrovae.reconstruction_error(x, pyrovae.decoded(pair, pyrovae.encoded(pair, x)))
            errors[name] = error.squared_error_items.values
            shown = report.numbers(COMPARED, name, "squared error of a reconstruction")
            assert shown == [float(error.squared_error), errors[name].std(ddof=1) / math.sqrt(40)]
        difference = report.numbers(COMPARED, "VAE", "difference [interval]")
        assert difference == [*pyrovae.paired_interval(errors["VAE"] - errors["AE"])]
        assert "one reconstructs the items as they are, the other the items made 0 or 1" in report.sections[COMPARED]

    def test_a_mass_and_a_density_are_not_compared(self, autoencoders):
        _, _, report = autoencoders
        assert "a mass and a density are not measured alike" in report.sections[COMPARED]
        cells = {name: cells for name, cells in report.rows(COMPARED) if "log p(x), nats per item" in cells}
        assert cells["AE"]["log p(x), nats per item"] == "no p(x)"
        assert cells["AE"]["can it be sampled?"].startswith("no")
        assert "(a mass)" in cells["of bits"]["log p(x), nats per item"]

    def test_rate_and_distortion(self, autoencoders, digits):
        pairs, _, report = autoencoders
        x = pyrovae.report.items(digits, 40, 3).x
        points = pyrovae.elbo(pairs["VAE"], x, seed=3).pointwise
        for name in ("rate", "distortion"):
            expected = [float(points[name].mean()), float(np.sqrt((points[f"{name}_se"] ** 2).sum())) / 40]
            assert report.numbers("Rate and distortion", "VAE", f"{name}, nats per item") == expected
        active = int(pyrovae.active_units(pyrovae.encoded(pairs["VAE"], x)).active_units)
        assert report.numbers("Rate and distortion", "VAE", "active units") == [active]

    def test_the_gap_ledger(self, autoencoders, digits):
        pairs, _, report = autoencoders
        few = items_of(pairs["of bits"], pyrovae.report.items(digits, 40, 3), 3).x[:3]
        evidence = pyrovae.quadrature(pairs["of bits"], few)
        ledger = "Evidence and the gap ledger"
        assert report.numbers(ledger, "of bits", "nats per item", estimator="quadrature") == [
            evidence.mean,
            evidence.se,
        ]
        split = pyrovae.gaps(pairs["of bits"], few, evidence, progress=False, seed=3)
        columns = {
            "gap": "log p(x) − ELBO",
            "amortization": "amortisation gap, at least",
            "approximation": "approximation gap, at most",
        }
        for name, column in columns.items():
            assert report.numbers(ledger, "of bits", column) == [*split.mean(name)]

    def test_the_calibration(self, autoencoders):
        pairs, _, report = autoencoders
        tests = pyrovae.calibrate(pairs["VAE"], num_simulations=1000, seed=3).tests
        for quantity in tests.quantity.values:
            row = tests.sel(quantity=quantity)
            shown = report.numbers("Calibration of the encoder", f"VAE, {quantity}", "adjusted p")
            assert shown == [float(row.p_adjusted)]
            ratio = report.numbers("Calibration of the encoder", f"VAE, {quantity}", "true spread / q's")
            np.testing.assert_array_equal(ratio, [float(row.scale_ratio)])

    def test_the_code_space(self, autoencoders, digits):
        pairs, _, report = autoencoders
        test, train = pyrovae.report.items(digits, 40, 3), pyrovae.report.chosen.part(digits.train, 400, 3)
        judge = pyrovae.Judge.fit(train.x, train.y, seed=3)
        space = "The code space in numbers"
        sizes = {"num_codes": 2000, "num_pairs": 200, "seed": 3}
        for name in ("AE", "VAE"):
            found = pyrovae.code_space(pairs[name], train, test, judge, **sizes)
            knn = report.numbers(space, name, "accuracy of 10 nearest neighbours")
            assert knn == [float(found.knn_accuracy), float(found.knn_accuracy_se)]
            distance = report.numbers(space, name, "distance of codes to the prior")
            assert distance == [float(found.sliced_w2_excess[0]), float(found.sliced_w2_p_value[0])]
            step = report.numbers(space, name, "largest step / path, median")
            assert step == [float(found.largest_step_share_median)]
        assert report.numbers(space, "VAE", "rate") == [float(found.rate), float(found.rate_se)]

    def test_another_seed_gives_other_numbers(self, autoencoders, digits):
        _, entries, report = autoencoders

        def compared(seed):
            return Report.of(comparison.section(Measurements(entries[1:2], digits, Settings(**SIZES, seed=seed))))

        other = compared(4)
        column = "log p(x), nats per item"
        assert other.numbers(COMPARED, "VAE", column) != report.numbers(COMPARED, "VAE", column)
        again = compared(3)
        assert again.numbers(COMPARED, "VAE", column) == report.numbers(COMPARED, "VAE", column)

    def test_pictures_are_of_the_items_and_their_reconstructions(self, autoencoders, digits):
        import base64
        import io

        from PIL import Image

        pairs, _, report = autoencoders
        sources = re.findall(r'src="data:image/png;base64,([^"]*)" alt="([^"]*)"', report.sections["Reconstructions"])
        sheets = {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in sources}
        some = pyrovae.report.items(digits, 40, 3).x
        index = np.sort(np.random.default_rng(3).permutation(40)[:10])
        of_vae = pyrovae.decoded(pairs["VAE"], pyrovae.encoded(pairs["VAE"], some))
        for alt, images in (("10 test items", some), ("the same items reconstructed by VAE", of_vae)):
            shown = sheets[alt]
            expected = (images[index[3], 0].clamp(0, 1) * 255).round().numpy().astype(np.uint8)
            left = 3 * (shown.shape[1] + 1) // 10  # a gap of one pixel between two
            np.testing.assert_array_equal(shown[:, left : left + 8, 0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no labels", "one test item", "colour", "names", "counts of classes"])
def test_any_data_gives_a_page(kind, digits, tmp_path, monkeypatch):
    if kind != "colour":  # the ledger's search takes most of a page's time, and does not depend on labels
        monkeypatch.setattr(evidence, "MOST_FOR_GAPS", 0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 8, 8, generator=generator)
    y = torch.arange(40) % 3
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((3, 8, 8), 2, hidden_dims=(8,), likelihood="normal")
    split = 30
    classes = None
    if kind == "no labels":
        y = None
    if kind == "one test item":
        split = 39
    if kind == "names":
        classes = ("cat", "dog", "<ox>")
    if kind == "counts of classes":
        y = torch.arange(40)  # each item a class of its own
    train, test = (Split(x[rows], None if y is None else y[rows]) for rows in (slice(split), slice(split, None)))
    entries = [Entry("VAE", pair, pyrovae.fit(pair, train.x, epochs=2, progress=False))]
    if classes is not None:
        classifier = pyrovae.DiscriminativeClassifier((3, 8, 8), 3)
        history = pyrovae.fit(classifier, train.x, np.array(classes)[y[:split].numpy()], progress=False)
        entries += [Entry("softmax", classifier, history)]
    data = Dataset(train, test, (3, 8, 8), kind, classes)
    report = Report(write(tmp_path / "page.html", entries, data, num_particles=10, num_ledger_items=2))
    assert "it failed with" not in report.page
    bound = pyrovae.iwae(pair, test.x, num_particles=10)
    assert report.numbers(COMPARED, "VAE", "log p(x), nats per item")[0] == bound.mean
    if classes is not None:
        assert "&lt;ox&gt;" in report.sections["Classification"]


def test_a_costly_decoder_gets_fewer_draws_and_all_entries_the_same():
    cheap, costly = pyrovae.mlp_vae((1, 28, 28), hidden_dims=(16,)), pyrovae.conv_vae((1, 28, 28))
    assert pricing.decoding_cost(cheap) == 2 * (2 * 16 + 16 * 784)
    assert pricing.decoding_cost(costly) > 100 * pricing.decoding_cost(cheap)
    assert pricing.decoding_cost(pyrovae.GaussianMixture((3,), 2)) == 0
    entries = [Entry("cheap", cheap), Entry("costly", costly)]
    assert pricing.draws_within(entries[:1], 1000, 100, 500) == 1000
    assert pricing.draws_within(entries, 1000, 100, 500) == 100


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        ([0, 1, 2], ("a", "b", "c"), [0, 2, 1]),  # places, as `data.train.y` has them
        ([3, 5, 7], ("3", "5", "7"), [3, 7, 5]),
        (["3", "5", "7"], None, ["3", "7", "5"]),
        ([0, 1, 2], ("0", "1", "2"), [0, 2, 1]),
        (list(range(11)), tuple(sorted(map(str, range(11)))), None),  # "10" is the third of the words
    ],
)
def test_labels_are_in_the_form_of_a_classifier_s_classes(names, classes, expected):
    y = torch.tensor([3, 7, 5] if classes is None else [0, 2, 1])
    part = Split(torch.rand(3, 2), y)
    classifier = pyrovae.gaussian_classifier((2,), len(names))
    classifier.rename(np.array(names))
    entry = Entry("pair", classifier)
    measurements = Measurements([entry], Dataset(part, part, (2,), "x", classes), Settings(num_items=3))
    if expected is None:
        with pytest.raises(ValueError, match="their places among them"):
            measurements.labels(entry)
        assert "their places" in str(measurements.predictions(entry))
    else:
        assert [getattr(each, "item", lambda each=each: each)() for each in measurements.labels(entry)] == expected
