"""The report's page: nothing from outside is markup, no script but the page's own runs, and no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from pyrovae.report import Section, page
from pyrovae.report.assets import asset

HOSTILE = "</title></script><script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def policy_of(text: str) -> dict[str, str]:
    content = next(m["content"] for m in Tags(text).named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    return dict(part.strip().split(" ", 1) for part in content.split(";"))


def sha(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_text_from_outside_is_no_markup():
    text = page(HOSTILE, [Section(HOSTILE, HOSTILE, "<p>body</p>")], lead=HOSTILE)
    read = Tags(text)
    assert len(read.named("script")) == 1 and not read.named("img")
    assert read.texts["title"] == [HOSTILE] and read.texts["h1"] == [HOSTILE] and read.texts["h2"] == [HOSTILE]
    # the control: a page that did not escape its title has both
    assert len(Tags(text.replace("&lt;", "<").replace("&gt;", ">")).named("script")) > 1


def test_the_policy_lets_through_the_pages_own_script_and_style_alone():
    text = page("Title", [Section("One", "Read it.", "<script>alert(1)</script>")])
    policy, read = policy_of(text), Tags(text)
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data:"
    assert policy["base-uri"] == policy["form-action"] == "'none'"
    foreign, own = read.texts["script"]
    assert policy["script-src"] == sha(own) and sha(foreign) not in policy["script-src"]
    assert policy["style-src"] == sha(read.texts["style"][0])
    assert not any(word in " ".join(policy.values()) for word in ("unsafe", "http", "*"))


def test_nothing_in_the_page_names_an_address():
    text = page("Title", [Section("One", "Read it.", "<p>body</p>")])
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<link|<iframe|fetch\(|XMLHttp|WebSocket", text)


def test_sections_of_one_title_have_anchors_of_their_own():
    text = page("Title", [Section("A b", "", ""), Section("A-b", "", ""), Section("Ä", "", "")])
    names = [attributes["id"] for attributes in Tags(text).named("section")]
    links = [attributes["href"] for attributes in Tags(text).named("a")]
    assert len(set(names)) == 3
    assert [f"#{name}" for name in names] == links[1:]
    assert links[0] == "#content"


def test_both_dark_blocks_of_the_style_are_one():
    css = asset("page.css")
    blocks = [re.findall(r"--[a-z0-9-]+: #[0-9a-f]+;", block) for block in re.findall(r":root[^{]*\{([^}]*)\}", css)]
    light, dark, chosen = [block for block in blocks if len(block) > 10]
    assert dark == chosen != light
    assert [line.split(":")[0] for line in light] == [line.split(":")[0] for line in dark]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_stand_out_from_what_is_under_them():
    # WCAG 2.1, 1.4.3: a contrast of 4.5 for text, and of 3 for marks
    css = asset("page.css")
    blocks = [b for b in re.findall(r":root[^{]*\{([^}]*)\}", css) if "--paper" in b and "--c9" in b]
    for block in blocks:
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))
        for ground in ("paper", "surface", "sunken"):
            for word in ("ink", "muted", "accent", "good", "warn", "bad"):
                one, other = sorted((luminance(colours[word]), luminance(colours[ground])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (word, ground)
