"""The explorer's fragment: what it holds, what it leaves out, and that the error it states is the largest there is."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pyrovae
from pyrovae.data import Dataset, Split
from pyrovae.report import Entry, explorer, page
from pyrovae.report.decoders import NUM_CODES, rounded_up
from pyrovae.report.explorer import DATA
from pyrovae.report.network.packing import halved
from pyrovae.report.planes import plane_of
from pyrovae.report.shown_items import Layout, pictures_text

HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>&\"'"


@pytest.fixture(autouse=True)
def _in_float32(float32):
    yield


def digits(count: int = 60) -> Dataset:
    whole = pyrovae.data.load("digits")
    part = Split(whole.test.x[:count], whole.test.y[:count])
    return Dataset(part, part, whole.event_shape, "digits")


def small_vae(seed: int = 0, **options) -> pyrovae.VAE:
    torch.manual_seed(seed)
    pair = pyrovae.mlp_vae(options.pop("event_shape", (1, 8, 8)), hidden_dims=(16,), **options)
    for parameter in pair.parameters():
        parameter.data.mul_(2)
    return pair


def held(fragment: str) -> dict:
    """What a fragment holds for its script."""
    return json.loads(
        re.search(r'<script type="application/json" id="explorer-data">(.*)</script>$', fragment).group(1)
    )


def numbers(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_codes_labels_and_pictures_are_the_test_items():
    data, pair = digits(), small_vae()
    whole = held(explorer([Entry("VAE", pair)], data))
    entry, items = whole["entries"][0], whole["items"]
    codes = numbers(entry["codes"], "<f4").reshape(60, 2)
    np.testing.assert_allclose(codes, pair.encode(data.test.x).detach(), atol=1e-6)
    labels = [items["classes"][i] for i in numbers(items["labels"], "u1")]
    assert labels == [str(int(label)) for label in data.test.y]
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(items["pictures"]["sheet"].split(",")[1]))))
    columns = items["pictures"]["columns"]
    for n in (0, 7, 59):
        row, column = divmod(n, columns)
        cell = sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(cell, np.rint(data.test.x[n, 0].numpy() * 255))


def test_the_explorer_says_that_its_codes_are_of_grey_items():
    words = "Codes are of the items as they are, with all their grey values, of VAE too."
    grey, binary = digits(), pyrovae.data.binarize(digits().test.x)
    assert words in explorer([Entry("VAE", small_vae())], grey)  # whose sections judge it by items of 0 and 1
    data = Dataset(Split(binary), Split(binary), grey.event_shape, "binary")
    assert "grey values" not in explorer([Entry("VAE", small_vae())], data)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_sheet_holds_images_of_any_channels(channels):
    values = np.random.default_rng(0).random((7, channels, 5, 3)).astype(np.float32)
    layout = Layout.of((channels, 5, 3), values)
    text = pictures_text(values.reshape(7, -1), layout)
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(text["sheet"].split(",")[1]))))
    row, column = divmod(4, text["columns"])
    wide = 3 * layout.panels
    cell = sheet[5 * row : 5 * row + 5, wide * column : wide * column + wide]
    wanted = values[4].transpose(1, 2, 0) if channels == 3 else np.concatenate(values[4], 1)
    np.testing.assert_array_equal(cell.squeeze(), np.rint(wanted * 255))


def with_half_weights(pair: nn.Module) -> nn.Module:
    """A copy whose linear layers and convolutions have the page's weights."""
    pair = copy.deepcopy(pair)
    for part in pair.likelihood.modules():
        if isinstance(getattr(part, "weight", None), nn.Parameter):
            half, scale = halved(part.weight.detach().numpy())
            part.weight.data.copy_(torch.from_numpy(half.astype(np.float64) * scale))
    return pair


@pytest.mark.parametrize("make", [small_vae, lambda: pyrovae.linear_vae(13, 2)])
def test_the_error_stated_is_the_largest_over_ten_thousand_codes(make):
    torch.manual_seed(1)
    pair = make()
    x = torch.rand(60, *pair.event_shape)
    data = Dataset(Split(x), Split(x), tuple(pair.event_shape), "noise")
    stated = float(re.search(r"within ([0-9.e-]+) of Python", explorer([Entry("VAE", pair)], data, seed=3)).group(1))
    # torch itself with the page's weights, at the same codes
    codes = torch.from_numpy(plane_of(pair, pair.encode(x).detach(), 3).spread_codes(NUM_CODES, 3))
    assert codes.shape == (10_000, 2)
    with torch.no_grad():
        away = (with_half_weights(pair).decode(codes) - pair.decode(codes)).abs().max()
    assert 0.999 * away <= stated <= 1.12 * away + 1e-4 * stated
    assert stated > 1e-5  # float16 costs something


BOUNDS = {  # of a first code, to be added to a decoder's result: nothing below 4
    "none": lambda first: 0 * first,
    "nan": lambda first: 0 * (4 - first).log(),
    "infinite": lambda first: 1e-30 / (4 - first).relu(),
}


class Bounded(nn.Module):
    """A linear decoder, and what is added to it."""

    def __init__(self, bound):
        super().__init__()
        self.linear, self.bound = nn.Linear(2, 6), BOUNDS[bound]

    def forward(self, z):
        return self.linear(z) + self.bound(z[:, :1])


def of_bounded(bound: str, family: nn.Module) -> pyrovae.VAE:
    torch.manual_seed(0)
    likelihood = pyrovae.Likelihood(Bounded(bound), family, (6,))
    return pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.DiagonalNormal(nn.Linear(6, 6), 6, 2))


class Unchecked(nn.Module):
    """A user's family that does not check its mean, as torch's own check does not where it is switched off."""

    support = torch.distributions.constraints.real

    def forward(self, mean):
        return torch.distributions.Normal(mean, 1.0, validate_args=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bound", ["nan", "infinite"])
def test_a_decoder_without_a_finite_result_at_some_codes_is_not_said_to_be_near(bound):
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x), Split(x), (6,), "noise")
    text = explorer([Entry("VAE", of_bounded(bound, Unchecked()))], data)
    assert "does not run in this page (it has a result that is not finite at some codes)" in text
    assert "within" not in text
    assert "within" in explorer([Entry("VAE", of_bounded("none", Unchecked()))], data)  # the control


def test_a_pair_that_refuses_codes_of_its_plane_is_left_out_and_the_others_are_shown():
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x), Split(x), (6,), "noise")
    refusing, whole = (of_bounded(bound, pyrovae.Normal(scale=1.0)) for bound in ("nan", "none"))
    with torch.no_grad():
        refusing.posterior.loc.weight.mul_(30)  # so that the plane itself reaches such codes
    text = explorer([Entry("refusing", refusing), Entry("whole", whole)], data)
    assert [entry["name"] for entry in held(text)["entries"]] == ["whole"]
    assert "refusing (it has no decoded mean at some codes of its plane)" in text
    assert explorer([Entry("refusing", refusing)], data) == ""


class Cauchy(nn.Module):
    """A family without a mean."""

    support = torch.distributions.constraints.real

    def forward(self, loc):
        return torch.distributions.Cauchy(loc, 1.0)


def test_a_likelihood_without_a_mean_has_no_plane_and_does_not_stop_the_report():
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x), Split(x), (6,), "noise")
    without, whole = of_bounded("none", Cauchy()), of_bounded("none", pyrovae.Normal(scale=1.0))
    text = explorer([Entry("Cauchy", without), Entry("Normal", whole)], data)
    assert [entry["name"] for entry in held(text)["entries"]] == ["Normal"]
    assert "Without a plane: Cauchy (it has no decoded mean at some codes of its plane)" in text


class Failing(nn.Module):
    """A decoder that takes no codes above 4."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)

    def forward(self, z):
        if (z > 4).any():
            raise ArithmeticError("codes above <4>")
        return self.linear(z)


def test_a_decoder_that_fails_has_no_plane_and_does_not_stop_the_report():
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x), Split(x), (6,), "noise")
    failing, whole = (of_bounded("none", pyrovae.Normal(scale=1.0)) for _ in range(2))
    failing.likelihood.network = Failing()
    text = explorer([Entry("failing", failing), Entry("whole", whole)], data)
    assert [entry["name"] for entry in held(text)["entries"]] == ["whole"]
    assert "Without a plane: failing (it failed with ArithmeticError: codes above &lt;4&gt;)" in text


class Mean(nn.Module):
    """A decoder that ignores the code: one mean for all items, a view of its parameter."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.arange(6.0))

    def forward(self, z):
        return self.mean.expand(len(z), -1)


def test_a_decoder_that_ignores_the_code_is_a_grid_of_its_one_item():
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(Split(x), Split(x), (6,), "noise")
    likelihood = pyrovae.Likelihood(Mean(), pyrovae.Normal(scale=1.0), (6,))
    pair = pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.DiagonalNormal(nn.Linear(6, 6), 6, 2))
    (entry,) = held(explorer([Entry("VAE", pair)], data))["entries"]
    assert "it has a result that does not depend on the code" in entry["words"]
    items = numbers(entry["decoder"]["pictures"]["data"], "<f4").reshape(-1, 6)
    assert len(items) == 33 * 33
    np.testing.assert_array_equal(items, np.tile(np.arange(6.0), (len(items), 1)))


def test_codes_to_compare_at_are_of_items_of_the_prior_and_of_the_whole_plane():
    for size in (1, 2, 5):
        pair = small_vae(latent_dim=size)
        own = pair.encode(digits().test.x).detach()
        plane = plane_of(pair, own, 0)
        codes = plane.spread_codes(NUM_CODES, 0)
        assert codes.shape == (10_000, size)
        seen = {tuple(row) for row in codes}
        assert all(tuple(row) in seen for row in own.numpy())
        drawn = codes[len(own) : len(own) + 3000]
        np.testing.assert_allclose(drawn.std(0), 1, atol=0.06)  # N(0, I)
        coordinate = codes[len(own) + 3000 :] @ plane.directions[0].vector
        assert coordinate.max() > plane.directions[0].high - 0.1 * np.ptp(coordinate)


@pytest.mark.parametrize("size", [2, 5])
def test_the_error_stated_holds_wherever_the_page_lets_a_pointer_go(size):
    torch.manual_seed(1)
    pair = pyrovae.linear_vae(13, size)
    x = torch.rand(60, 13)
    data = Dataset(Split(x), Split(x), (13,), "noise")
    stated = float(re.search(r"within ([0-9.e-]+) of Python", explorer([Entry("PPCA", pair)], data, seed=3)).group(1))
    plane = plane_of(pair, pair.encode(x).detach(), 3)
    half = with_half_weights(pair)
    one, other = plane.directions[:2]
    # a side of the plane that is shorter is made as long as the other, and the scale of Phi ends at shares of 1e-6
    span = max(one.high - one.low, other.high - other.low)
    middles = [(each.high + each.low) / 2 for each in (one, other)]
    squares = [[(m - span / 2, m + span / 2) for m in middles], [(-4.7534, 4.7534)] * 2]
    for ends in squares:
        for place in itertools.product(*ends):
            codes = plane.codes if size > 2 else np.zeros((1, 2))
            for vector, coordinate in zip((one.vector, other.vector), place, strict=True):
                codes = codes + (coordinate - codes @ vector)[:, None] * vector
            codes = torch.from_numpy(codes.astype(np.float32))
            with torch.no_grad():
                away = (half.decode(codes) - pair.decode(codes)).abs().max()
            assert away <= (stated if size == 2 else 1.05 * stated)


def test_a_rounded_error_is_never_below_it():
    for error in np.random.default_rng(0).lognormal(-5, 4, 500):
        assert error <= rounded_up(error) <= 1.11 * error
    assert rounded_up(0.0) == 0.0


class Sorting(nn.Module):
    """A network that the page cannot run."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 64)

    def forward(self, z):
        return self.layer(z).sort(-1).values.reshape(-1, 1, 8, 8)


def of_parts(network: nn.Module) -> pyrovae.VAE:
    torch.manual_seed(0)
    posterior = pyrovae.DiagonalNormal(nn.Flatten(), 64, 2)
    likelihood = pyrovae.Likelihood(network, pyrovae.Bernoulli(), (1, 8, 8))
    return pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, posterior)


def test_a_decoder_that_the_page_cannot_run_is_a_grid_and_says_so():
    pair = of_parts(Sorting())
    fragment = explorer([Entry("own", pair)], digits())
    words = held(fragment)["entries"][0]["words"]
    assert "does not run in this page (it has the operation 'sort')" in words and "of Python" not in words
    decoder = held(fragment)["entries"][0]["decoder"]
    assert decoder["kind"] == "grid"
    count, low, high = decoder["count"], decoder["low"], decoder["high"]
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(decoder["pictures"]["sheet"].split(",")[1]))))
    for across, up in ((0, 0), (count - 1, 3), (5, count - 1)):
        steps = np.array([across, up]) / (count - 1)
        code = np.array(low) + steps * (np.array(high) - np.array(low))
        row, column = divmod(up * count + across, decoder["pictures"]["columns"])
        cell = sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        wanted = pair.decode(torch.tensor(code).float()).detach()[0].numpy()
        assert np.abs(cell / 255 - wanted).max() < 0.5 / 255 + 1e-5


def test_a_course_that_a_value_decides_is_seen_and_not_translated():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 64), nn.Linear(2, 64)

        def forward(self, z):
            layer = self.one if bool(z.abs().max() < 3) else self.two
            return layer(z).reshape(-1, 1, 8, 8)

    decoder = held(explorer([Entry("own", of_parts(Deciding()))], digits()))["entries"][0]
    assert decoder["decoder"]["kind"] == "grid" and "does not reproduce" in decoder["words"]


def test_entries_without_a_plane_are_left_out_by_name():
    data = digits()
    mixture = pyrovae.GaussianMixture((1, 8, 8), 2, covariance="diagonal")
    other = small_vae(event_shape=(5,))
    fragment = explorer([Entry("VAE", small_vae()), Entry("mix<b>", mixture), Entry("five", other)], data)
    assert [entry["name"] for entry in held(fragment)["entries"]] == ["VAE"]
    assert "Without a plane: mix&lt;b&gt; (it has no code); five (its items have shape (5,)" in fragment
    assert explorer([Entry("mixture", mixture)], data) == ""


def test_names_and_labels_from_outside_are_no_markup():
    x = digits().test.x
    data = Dataset(Split(x), Split(x, torch.arange(60) % 2), (1, 8, 8), HOSTILE, (HOSTILE, "b"))
    text = page(HOSTILE, [], explorer([Entry(HOSTILE, small_vae())], data))
    assert len(re.findall("<script", text)) == 2 and "<img" not in text
    fragment = explorer([Entry(HOSTILE, small_vae())], data)
    assert held(fragment)["items"]["classes"] == [HOSTILE, "b"]
    assert held(fragment)["entries"][0]["name"] == HOSTILE
    shown = fragment.partition(DATA)[0]
    assert HOSTILE not in shown and "&lt;/script&gt;" in shown


def test_nothing_that_runs_in_the_page_can_ask_for_anything():
    text = page("Title", [], explorer([Entry("VAE", small_vae())], digits()))
    script = text[text.rindex("<script>") :]
    assert "NetworkDecoder" in script  # the explorer's own
    banned = (
        r"https?:|fetch|XMLHttp|WebSocket|EventSource|importScripts|sendBeacon|\bimport\b|innerHTML|document\.write"
    )
    assert not re.search(banned, script)
    assert "connect-src" not in text and "default-src 'none'" in text


def test_numbers_that_are_no_images_and_items_without_labels():
    torch.manual_seed(0)
    x = torch.randn(40, 13)
    data = Dataset(Split(x), Split(x), (13,), "table")
    whole = held(explorer([Entry("linear", pyrovae.linear_vae(13, 3))], data))
    items = whole["items"]
    assert "labels" not in items and items["classes"] == []
    np.testing.assert_array_equal(numbers(items["pictures"]["data"], "<f4").reshape(40, 13), x.numpy())
    assert items["layout"]["names"][:2] == ["x1", "x2"]
    np.testing.assert_allclose(items["layout"]["highs"], x.max(0).values, rtol=1e-6)
    names = [direction["name"] for direction in whole["entries"][0]["directions"]]
    assert names == ["PC 1", "PC 2", "PC 3", "z₁", "z₂", "z₃"]


def test_principal_components_are_those_of_the_codes():
    pair = small_vae(latent_dim=4)
    codes = pair.encode(digits().test.x).detach()
    vectors = np.stack([d.vector for d in plane_of(pair, codes, 0).directions[:4]])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-6)
    spread = np.var(codes.numpy() @ vectors.T, axis=0)
    assert (np.diff(spread) <= 0).all()
    np.testing.assert_allclose(spread, np.linalg.eigvalsh(np.cov(codes.T.numpy(), ddof=0))[::-1], rtol=1e-4)


def test_the_lines_of_a_prior_hold_their_shares():
    codes = small_vae().encode(digits().test.x).detach()
    normal = plane_of(small_vae(), codes, 0).prior
    assert normal["kind"] == "normal" and normal["mean"] == [0, 0] and normal["covariance"] == [[1, 0], [0, 1]]
    assert plane_of(pyrovae.mlp_ae((1, 8, 8)), codes, 0).prior is None
    # a mixture's: draws that are not those the levels were found by
    torch.manual_seed(0)
    mixture = pyrovae.GaussianMixture((2,), 2)
    pyrovae.fit(mixture, torch.cat([torch.randn(200, 2) - 3, 0.5 * torch.randn(200, 2) + 2]), progress=False)
    density = pyrovae.as_density(pyrovae.mlp_ae((1, 8, 8)), mixture)
    prior = plane_of(density, codes, 0).prior
    assert prior["kind"] == "grid"
    torch.manual_seed(5)
    law = density.prior()
    inside = law.log_prob(law.sample((20_000,))).detach().numpy()
    shares = [(inside > level).mean() for level in prior["levels"]]
    np.testing.assert_allclose(shares, [0.5, 0.9, 0.99], atol=4 * 0.005)


def test_many_or_large_items_are_drawn_by_the_seed_and_it_says_how_many(monkeypatch):
    monkeypatch.setattr("pyrovae.report.shown_items.MOST_ITEMS", 25)
    data, pair = digits(), small_vae()
    fragment = explorer([Entry("VAE", pair)], data, seed=1)
    assert "25 of the 60 test items" in fragment
    places = numbers(held(fragment)["items"]["places"], "<f4").astype(int)
    assert len(set(places)) == 25 and list(places) == sorted(places)
    other = numbers(held(explorer([Entry("VAE", pair)], data, seed=2))["items"]["places"], "<f4")
    assert list(other) != list(places)
    codes = numbers(held(fragment)["entries"][0]["codes"], "<f4").reshape(-1, 2)
    np.testing.assert_allclose(codes, pair.encode(data.test.x[places]).detach(), atol=1e-6)


def test_a_report_changes_neither_the_pair_nor_the_generators():
    pair = small_vae().train()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    state = torch.random.get_rng_state()
    first = explorer([Entry("VAE", pair)], digits())
    assert torch.equal(state, torch.random.get_rng_state()) and pair.training
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())
    assert first == explorer([Entry("VAE", pair)], digits())
