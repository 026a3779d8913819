"""The explorer in a real browser: nothing leaves the page, and what it decodes is what Python decodes."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
import torch
from browser import Opened, browser

import pyrovae
from pyrovae.data import Dataset, Split
from pyrovae.report import Entry, Section, explorer, page

pytestmark = pytest.mark.slow

NUM_PLACES = 40


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _in_float32(float32):
    yield


def noisy(pair: torch.nn.Module) -> torch.nn.Module:
    """Weights that are no longer small: decoded items differ from place to place."""
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.mul_(2.5)
    return pair


def few(name: str = "digits", count: int = 200) -> Dataset:
    whole = pyrovae.data.load(name)
    part = Split(whole.test.x[:count], whole.test.y[:count])
    return Dataset(part, part, whole.event_shape, name)


def table(features: int = 13) -> Dataset:
    x = torch.randn(150, features, generator=torch.Generator().manual_seed(2))
    part = Split(x, torch.arange(150) % 3)
    return Dataset(part, part, (features,), "table", ("first", "second", "third"))


def colours() -> Dataset:
    x = torch.rand(60, 3, 9, 7, generator=torch.Generator().manual_seed(2))
    return Dataset(Split(x), Split(x), (3, 9, 7), "colours")


CASES = {
    "mlp": (few, lambda: pyrovae.mlp_vae((1, 8, 8), hidden_dims=(64, 32))),
    "mlp, continuous Bernoulli": (few, lambda: pyrovae.mlp_vae((1, 8, 8), likelihood="continuous_bernoulli")),
    "convolutional": (few, lambda: pyrovae.conv_vae((1, 8, 8), channels=(8, 16), strides=(1, 2))),
    "convolutional, colours": (colours, lambda: pyrovae.conv_ae((3, 9, 7), channels=(8, 16), strides=(2, 2))),
    "linear": (table, lambda: pyrovae.linear_vae(13, 2)),
    "linear, five dimensions": (table, lambda: pyrovae.linear_vae(13, 5)),
    "one dimension": (few, lambda: pyrovae.mlp_vae((1, 8, 8), latent_dim=1)),
}


def written(tmp_path, data: Dataset, *entries: Entry):
    file = tmp_path / "page with a space.html"
    sections = [Section("Curves", "Higher is better.", "<p>None.</p>")] * 3
    file.write_text(page("A report", sections, explorer(entries, data)), encoding="utf-8")
    return file


def stated(file, name: str) -> float:
    """The error that a page states for an entry, on the entry's card."""
    pattern = rf'"name": "{name}", "words": "[^"]*within ([0-9.e-]+) of Python"'
    return float(re.search(pattern, file.read_text(encoding="utf-8")).group(1))


@pytest.mark.parametrize("case", CASES)
def test_the_pointer_shows_what_python_decodes(case, chromium, tmp_path):
    load, make = CASES[case]
    torch.manual_seed(0)
    data, pair = load(), noisy(make())
    file = written(tmp_path, data, Entry("pair", pair))
    opened = Opened(chromium, file)
    box = opened.page.locator(".plane").bounding_box()
    rng = np.random.default_rng(4)
    codes, values = [], []
    for across, up in rng.uniform(0.15, 0.85, (NUM_PLACES, 2)):
        seen = opened.decoded(
            lambda across=across, up=up: opened.page.mouse.move(
                box["x"] + across * box["width"], box["y"] + up * box["height"]
            ),
            "pair",
        )
        codes.append(seen["code"])
        values.append(seen["values"])
    assert len({tuple(code) for code in codes}) > 0.9 * NUM_PLACES
    exact = pair.decode(torch.tensor(codes)).detach().flatten(1).numpy()
    away = np.abs(np.array(values) - exact)
    assert away.max() <= stated(file, "pair")
    # the control: neighbouring places differ by more than the error, so a frozen picture would not pass
    assert np.abs(exact - np.roll(exact, 1, 0)).max(1).min() >= 0 and np.ptp(exact, 0).max() > stated(file, "pair")
    assert opened.outside == [] and opened.said == []


def test_what_is_drawn_is_what_was_decoded(chromium, tmp_path):
    torch.manual_seed(0)
    pair = noisy(pyrovae.conv_ae((3, 9, 7), channels=(8,), strides=(2,)))
    opened = Opened(chromium, written(tmp_path, colours(), Entry("AE", pair)))
    box = opened.page.locator(".plane").bounding_box()
    seen = opened.decoded(lambda: opened.page.mouse.move(box["x"] + 150, box["y"] + 170), "AE")
    pixels = opened.page.evaluate(
        """() => Array.from(document.querySelector(".decoded canvas").getContext("2d").getImageData(0, 0, 7, 9).data)"""
    )
    drawn = np.array(pixels).reshape(9, 7, 4)[..., :3].transpose(2, 0, 1)
    np.testing.assert_allclose(drawn / 255, np.array(seen["values"]).reshape(3, 9, 7), atol=0.5 / 255 + 1e-6)


def test_a_click_shows_the_item_beside_its_reconstruction(chromium, tmp_path):
    torch.manual_seed(0)
    data = few()
    pairs = [Entry("AE", noisy(pyrovae.mlp_ae((1, 8, 8)))), Entry("VAE", noisy(pyrovae.mlp_vae((1, 8, 8))))]
    opened = Opened(chromium, written(tmp_path, data, *pairs))
    # where the page has drawn item 17 of the second plane: its own scale, by two places and their codes
    box = opened.page.locator(".plane").nth(1).bounding_box()
    known = []
    for across, up in ((0.3, 0.3), (0.7, 0.7)):
        place = (box["x"] + across * box["width"], box["y"] + up * box["height"])
        known.append((place, opened.decoded(lambda place=place: opened.page.mouse.move(*place), "VAE")["code"]))
    code = pairs[1].pair.encode(data.test.x[17:18])[0].tolist()
    place = []
    for axis in (0, 1):
        (first, second), (low, high) = ((k[0][axis] for k in known), (k[1][axis] for k in known))
        place.append(first + (code[axis] - low) / (high - low) * (second - first))
    opened.page.mouse.click(*place)
    opened.page.wait_for_timeout(100)
    words = opened.page.locator(".plane-card").nth(0).locator(".pair figcaption").all_inner_texts()
    shown = int(re.search(r"item (\d+)", words[0]).group(1))
    own = pairs[1].pair.encode(data.test.x).detach()
    assert float((own[shown] - own[17]).norm()) < 0.1  # the nearest on the screen, at most a pixel or so away
    assert f"label {int(data.test.y[shown])}" in words[0]
    for n, entry in enumerate(pairs):
        again = entry.pair.reconstruct(data.test.x[shown : shown + 1]).detach()
        off = float((again - data.test.x[shown]).square().mean().sqrt())
        told = opened.page.locator(".plane-card").nth(n).locator(".pair figcaption").all_inner_texts()[1]
        assert abs(float(re.search(r"off by ([0-9.]+)", told).group(1)) - off) < 0.004
        pixels = opened.page.evaluate(
            f"""() => Array.from(document.querySelectorAll(".plane-card")[{n}].querySelector(".pair canvas")
                .getContext("2d").getImageData(0, 0, 8, 8).data)"""
        )
        np.testing.assert_array_equal(
            np.array(pixels).reshape(8, 8, 4)[..., 0], np.rint(255 * data.test.x[shown, 0].numpy())
        )


def test_the_keyboard_alone(chromium, tmp_path):
    torch.manual_seed(0)
    data, pair = few(), noisy(pyrovae.mlp_vae((1, 8, 8)))
    opened = Opened(chromium, written(tmp_path, data, Entry("VAE", pair)))
    keyboard = opened.page.keyboard
    keyboard.press("Tab")
    assert opened.page.evaluate("() => document.activeElement.className") == "skip"
    for _ in range(60):
        if opened.page.evaluate("() => document.activeElement.className") == "plane":
            break
        keyboard.press("Tab")
    else:
        raise AssertionError("Tab leads to no plane")
    first = opened.decoded(lambda: keyboard.press("ArrowRight"), "VAE")["code"]
    second = opened.decoded(lambda: keyboard.press("ArrowRight"), "VAE")["code"]
    fifth = opened.decoded(lambda: keyboard.press("Shift+ArrowRight"), "VAE")["code"]
    up = opened.decoded(lambda: keyboard.press("ArrowUp"), "VAE")["code"]
    step = second[0] - first[0]
    assert step > 0 and second[1] == first[1]
    assert fifth[0] - second[0] == pytest.approx(5 * step, rel=1e-4)
    assert up[0] == fifth[0] and up[1] > fifth[1]
    keyboard.press("Enter")
    own = pair.encode(data.test.x).detach()
    nearest = int((own - torch.tensor(up)).norm(dim=1).argmin())
    opened.page.wait_for_timeout(600)
    said = opened.page.locator("[aria-live]").inner_text()
    assert f"item {nearest} " in opened.page.locator(".pair figcaption").first.inner_text().replace("\n", " ") + " "
    assert f"item {nearest} (label {int(data.test.y[nearest])})" in said
    # the plane holds no one: Tab goes on, and a coarser step is chosen by keys as well
    keyboard.press("Tab")
    assert opened.page.evaluate("() => document.activeElement.className") != "plane"
    opened.page.locator("input[name=step][value=coarse]").check()
    opened.page.locator(".plane").focus()
    one = opened.decoded(lambda: keyboard.press("ArrowLeft"), "VAE")["code"]
    assert up[0] - one[0] == pytest.approx(4 * step, rel=1e-4)


def test_a_finger_moves_the_cursor_and_still_scrolls_the_page(chromium, tmp_path):
    torch.manual_seed(0)
    pair = noisy(pyrovae.mlp_vae((1, 8, 8)))
    phone = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
    opened = Opened(chromium, written(tmp_path, few(), Entry("VAE", pair)), **phone)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") == 360
    opened.page.locator(".plane").scroll_into_view_if_needed()
    box = opened.page.locator(".plane").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tapped = opened.decoded(lambda: opened.page.touchscreen.tap(*middle), "VAE")["code"]
    touch = opened.context.new_cdp_session(opened.page)

    def drag(start, end):
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": start[0], "y": start[1]}]})
        for share in np.linspace(0.1, 1, 10):
            x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    before = opened.page.evaluate("() => scrollY")
    dragged = opened.decoded(lambda: drag(middle, (middle[0] + 60, middle[1] + 60)), "VAE")["code"]
    assert dragged[0] > tapped[0] + 0.2 and dragged[1] < tapped[1] - 0.2
    assert opened.page.evaluate("() => scrollY") == before  # by the knob the cursor moves, and not the page
    away = (box["x"] + 60, box["y"] + 60)
    drag((away[0], away[1] + 150), away)
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("() => scrollY") > before + 50  # elsewhere in the plane the page scrolls


def test_the_scale_of_the_normal_distribution_function(chromium, tmp_path):
    from scipy.special import ndtri

    torch.manual_seed(0)
    pair = noisy(pyrovae.mlp_vae((1, 8, 8)))
    opened = Opened(chromium, written(tmp_path, few(), Entry("VAE", pair)))
    opened.page.locator("input[name=axes][value=uniform]").check()
    box = opened.page.locator(".plane").bounding_box()
    codes = []
    for share in (0.2, 0.5, 0.8):
        place = (box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        codes.append(opened.decoded(lambda place=place: opened.page.mouse.move(*place), "VAE")["code"][0])
    left, inner = 38, box["width"] - 48
    wanted = ndtri([(share * box["width"] - left) / inner for share in (0.2, 0.5, 0.8)])
    np.testing.assert_allclose(codes, wanted, atol=0.02)
    assert opened.said == []


def test_two_of_five_dimensions_with_the_rest_at_the_items_own_code(chromium, tmp_path):
    torch.manual_seed(0)
    data, pair = table(), pyrovae.linear_vae(13, 5)
    opened = Opened(chromium, written(tmp_path, data, Entry("VAE", pair)))
    across, up = opened.page.locator(".axis-choice select").all()
    across.select_option(label="z₂")
    up.select_option(label="z₄")
    box = opened.page.locator(".plane").bounding_box()
    opened.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.wait_for_timeout(100)
    item = int(re.search(r"item (\d+)", opened.page.locator(".pair figcaption").first.inner_text()).group(1))
    code = opened.decoded(lambda: opened.page.mouse.move(box["x"] + 100, box["y"] + 100), "VAE")["code"]
    own = pair.encode(data.test.x[item : item + 1])[0].tolist()
    np.testing.assert_allclose([code[i] for i in (0, 2, 4)], [own[i] for i in (0, 2, 4)], atol=1e-5)
    assert abs(code[1] - own[1]) > 0.1 and abs(code[3] - own[3]) > 0.1


def test_a_grid_stands_in_for_a_decoder_that_cannot_run_here(chromium, tmp_path):
    class Sorting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 64)

        def forward(self, z):
            return self.layer(z).sort(-1).values.reshape(-1, 1, 8, 8)

    torch.manual_seed(0)
    posterior = pyrovae.DiagonalNormal(torch.nn.Flatten(), 64, 2)
    pair = pyrovae.VAE(
        pyrovae.StandardNormal(2), pyrovae.Likelihood(Sorting(), pyrovae.Bernoulli(), (1, 8, 8)), posterior
    )
    opened = Opened(chromium, written(tmp_path, few(), Entry("own", pair)))
    assert "does not run in this page" in opened.page.locator(".plane-card .note").inner_text()
    box = opened.page.locator(".plane").bounding_box()
    seen = opened.decoded(lambda: opened.page.mouse.move(box["x"] + 150, box["y"] + 120), "own")
    exact = pair.decode(torch.tensor([seen["code"]])).detach().flatten().numpy()
    cell = np.abs(np.array(seen["values"]) - exact).max()
    far = np.abs(np.array(seen["values"]) - pair.decode(-torch.tensor([seen["code"]])).detach().flatten().numpy()).max()
    assert cell < 0.06 < far and opened.said == []


def test_what_lies_beside_a_code_is_chosen_or_the_items_own(chromium, tmp_path):
    torch.manual_seed(0)
    whole = few()
    covariates = pyrovae.data.one_hot(whole.test.y, 10)
    part = Split(whole.test.x, whole.test.y, covariates=covariates)
    data, pair = Dataset(part, part, (1, 8, 8), "digits"), noisy(pyrovae.mlp_vae((1, 8, 8), covariate_dim=10))
    file = written(tmp_path, data, Entry("VAE", pair))
    opened = Opened(chromium, file)
    box = opened.page.locator(".plane").bounding_box()
    select = opened.page.locator(".plane-card select")
    place = (box["x"] + 150, box["y"] + 120)
    seen = {}
    for name in ("those of the chosen item", "covariate 3", "covariate 8"):
        select.select_option(label=name)
        seen[name] = opened.decoded(lambda: opened.page.mouse.move(*place), "VAE")
        opened.decoded(lambda: opened.page.mouse.move(box["x"] + 200, box["y"] + 200), "VAE")
    chosen = int(re.search(r"item (\d+)", opened.page.locator(".pair figcaption").first.inner_text()).group(1))
    rows = {"covariate 3": torch.eye(10)[3], "covariate 8": torch.eye(10)[8]}
    rows["those of the chosen item"] = covariates[chosen]
    for name, row in rows.items():
        exact = pair.decode(torch.tensor([seen[name]["code"]]), covariates=row).detach().flatten().numpy()
        assert np.abs(np.array(seen[name]["values"]) - exact).max() <= stated(file, "VAE"), name
    apart = np.array(seen["covariate 3"]["values"]) - np.array(seen["covariate 8"]["values"])
    assert np.abs(apart).max() > 0.05  # the control
    again = pair.reconstruct(data.test[chosen : chosen + 1]).detach()
    off = float((again - data.test.x[chosen]).square().mean().sqrt())
    told = opened.page.locator(".pair figcaption").all_inner_texts()[1]
    assert abs(float(re.search(r"off by ([0-9.]+)", told).group(1)) - off) < 0.004
    assert opened.outside == [] and opened.said == []


def test_a_script_from_outside_does_not_run(chromium, tmp_path):
    torch.manual_seed(0)
    hostile = "<script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"
    x = few().test.x
    data = Dataset(Split(x), Split(x, torch.arange(200) % 2), (1, 8, 8), hostile, (hostile, "b"))
    text = page(
        hostile, [Section(hostile, hostile, hostile)], explorer([Entry(hostile, pyrovae.mlp_vae((1, 8, 8)))], data)
    )
    file = tmp_path / "hostile.html"
    file.write_text(text, encoding="utf-8")
    opened = Opened(chromium, file)
    assert opened.page.evaluate("() => window.caught === undefined")
    assert hostile in opened.page.locator("h1").inner_text()
    assert any(hostile in words for words in opened.page.locator(".legend button").all_inner_texts())
    # the body of a section is ours to escape: even so its script is refused, and its image asked of nobody
    assert any("Content Security Policy" in words for words in opened.said)
    # the control: without the policy it does run
    file.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text), encoding="utf-8")
    assert Opened(chromium, file).page.evaluate("() => window.caught === 1")


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_size_and_time_for_mnists_test_items(network, chromium, tmp_path, mnist_root, monkeypatch):
    # the error over 10,000 codes is what making a page takes longest for, and other tests hold it
    monkeypatch.setattr("pyrovae.report.decoders.NUM_CODES", 500)
    data = pyrovae.data.load("mnist", root=mnist_root)
    torch.manual_seed(0)
    makes = {"mlp": (pyrovae.mlp_ae, pyrovae.mlp_vae), "conv": (pyrovae.conv_ae, pyrovae.conv_vae)}[network]
    entries = [Entry(name, noisy(make((1, 28, 28)))) for name, make in zip(("AE", "VAE"), makes, strict=True)]
    file = written(tmp_path, data, *entries)
    assert file.stat().st_size < 5e6
    start = time.perf_counter()
    opened = Opened(chromium, file)
    ready = time.perf_counter() - start
    paint = opened.page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    megabytes = file.stat().st_size / 1e6
    print(f"{network}: {megabytes:.2f} MB, first paint {paint:.2f} s, loaded {ready:.2f} s")  # noqa: T201
    assert math.isfinite(paint)  # seconds are printed, and no test judges them
    assert opened.page.evaluate("() => document.querySelectorAll('.plane').length") == 2
    assert opened.outside == [] and opened.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_and_a_narrow_screen(scheme, chromium, tmp_path):
    torch.manual_seed(0)
    file = written(tmp_path, few(), Entry("VAE", noisy(pyrovae.mlp_vae((1, 8, 8)))))
    opened = Opened(chromium, file, color_scheme=scheme, viewport={"width": 360, "height": 700})
    ground = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
    assert (opened.page.evaluate(ground) > 128) == (scheme == "light")
    other = "dark" if scheme == "light" else "light"
    opened.page.locator(f"input[name=theme][value={other}]").check()
    assert (opened.page.evaluate(ground) > 128) == (other == "light")
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") == 360
