"""The site: what it must name, that the code on its pages runs, that it builds and that its links lead somewhere."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from processes import forked

import pyrovae

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("docs/ is not beside the tests", allow_module_level=True)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pages() -> list[Path]:
    """The pages as they are written, without those that a build makes."""
    made = (DOCS / "_build", DOCS / "api" / "generated")
    return [page for page in sorted(DOCS.rglob("*.md")) if not any(page.is_relative_to(folder) for folder in made)]


# what the site must name ------------------------------------------------------------------------------------------


def public_names() -> set[str]:
    """`fit`, `data.load`, ...: every name of the package and of the modules that it names."""
    rooms = {name for name in pyrovae.__all__ if type(getattr(pyrovae, name)) is type(sys)}
    names = set(pyrovae.__all__) - rooms
    for room in rooms:
        names |= {f"{room}.{name}" for name in getattr(getattr(pyrovae, room), "__all__", [])}
    return names - {"evaluation.Estimate"}  # which is pyrovae.Estimate


def names_in_the_reference(text: str) -> list[str]:
    lists = re.findall(r"\.\. autosummary::\n((?:   :.*\n)*)\n((?:   \S+\n)+)", text)
    return [name for _, names in lists for name in names.split()]


def test_every_public_name_is_in_the_reference_once():
    listed = [name for page in sorted((DOCS / "api").glob("*.md")) for name in names_in_the_reference(page.read_text())]
    assert {name for name in listed if listed.count(name) > 1} == set()
    assert set(listed) == public_names()


def test_a_name_that_is_left_out_of_a_list_is_seen():
    text = ".. autosummary::\n   :toctree: generated\n\n   fit\n   History\n"
    assert names_in_the_reference(text) == ["fit", "History"]
    assert {"fit", "History", "data.load", "methods.SVI"} <= public_names()


def scripts() -> set[str]:
    """The files of analysis/ that are run, which are those with a main part."""
    return {file.name for file in (ROOT / "analysis").glob("*.py") if '__name__ == "__main__"' in file.read_text()}


def test_every_script_is_in_the_gallery_once():
    shown = re.findall(r"^```\{script\} (\S+)$", (DOCS / "scripts.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(scripts())
    assert {"ae_vs_vae.py", "evidence.py"} <= scripts()


def commands() -> set[str]:
    return {module.name for module in pkgutil.iter_modules([str(ROOT / "pyrovae" / "cli" / "commands")])}


def test_every_command_is_on_the_page_of_the_command_line():
    page = DOCS / "command_line.md"
    assert {"fit", "evaluate", "sample"} <= commands()
    if not page.is_file():
        pytest.skip("there is no page of the command line")
    text = page.read_text()
    assert {name for name in commands() if f"pyrovae {name}" not in text} == set()


# code on the pages ------------------------------------------------------------------------------------------------

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTEAD = re.compile(r"`([^`\n]+)`\s+in\s+place\s+of\s+`([^`\n]+)`")


def blocks_to_run(text: str, name: str) -> list[tuple[str, str, str]]:
    """The page's blocks of Python and of shell, with the smaller settings that the page says the tests take."""
    blocks = [
        (match[1], match[2], f"{name}, line {text.count(chr(10), 0, match.start()) + 2}")
        for match in BLOCK.finditer(text)
    ]
    for smaller, shown in INSTEAD.findall(text):
        assert any(shown in code for _, code, _ in blocks), f"{name}: no block has {shown!r}"
        blocks = [(language, code.replace(shown, smaller), place) for language, code, place in blocks]
    return blocks


def run_blocks(blocks: list[tuple[str, str, str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run them as one program in an empty folder, with the package and its command on the path."""
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return forked(run_here, blocks, folder=folder, environment=paths)


def run_here(blocks: list[tuple[str, str, str]]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for language, code, place in blocks:
        if language == "python":
            exec(compile(code, place, "exec"), names)
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)


WITH_CODE = [page for page in pages() if BLOCK.search(page.read_text())]
EXPECTED = {  # something that the page's numbers must be printed beside
    "evidence.md": ("amortisation gap at least", "calibration of q(z | x)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_a_page_runs(page, tmp_path):
    name = str(page.relative_to(DOCS))
    done = run_blocks(blocks_to_run(page.read_text(), name), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for words in EXPECTED.get(name, ()):
        assert words in done.stdout


PAGE = """
```python
epochs = 50
```
Words between.
```sh
echo from the shell
```
```python
assert epochs == 2
print(epochs)
```
The tests run this page with `epochs = 2` in place of `epochs = 50`.
"""


def test_blocks_of_a_page_share_their_names_and_take_the_stated_settings(tmp_path):
    done = run_blocks(blocks_to_run(PAGE, "page.md"), tmp_path)
    assert done.stdout.split("\n")[:2] == ["from the shell", "2"], done.stderr


def test_a_block_that_fails_is_seen(tmp_path):
    as_shown = run_blocks(blocks_to_run(PAGE.replace("`epochs = 2` in place", ""), "page.md"), tmp_path)
    assert as_shown.returncode != 0 and "page.md, line 10" in as_shown.stderr
    failing = run_blocks(blocks_to_run("```sh\nfalse\n```\n", "page.md"), tmp_path)
    assert failing.returncode != 0
    with pytest.raises(AssertionError, match="no block has 'epochs = 60'"):
        blocks_to_run(PAGE.replace("of `epochs = 50`", "of `epochs = 60`"), "page.md")


# the built site ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for needed in ("sphinx", "furo", "myst_nb", "sphinx_copybutton"):
        pytest.importorskip(needed, reason="the site is built with the extra docs")
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"  # so that nothing is left in docs/, and what an earlier build left there plays no part
    source.mkdir()
    for part in ("docs", "analysis", "pyrovae"):
        ignored = shutil.ignore_patterns("_build", "generated", "__pycache__")
        shutil.copytree(ROOT / part, source / part, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, source)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(folder / "html")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder / "html"


class Links(HTMLParser):
    """What a page links to, what it loads by itself, and which anchors it has."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := of.get(name))}
        if tag == "a" and of.get("href"):
            self.links.append(str(of["href"]))
        is_load = tag in {"img", "script", "iframe", "source", "video"} or (
            tag == "link" and of.get("rel") != "canonical"
        )
        for name in ("src", "href", "srcset") if is_load else ():
            if of.get(name):
                self.loads.append(str(of[name]))


def dead_links(folder: Path) -> list[tuple[str, str]]:
    """Links within the site whose page, file or anchor is not there."""
    parsed = {file: Links(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.html"))}
    dead = []
    for file, page in parsed.items():
        for link in page.links + page.loads:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            is_there = target.is_file() and (not anchor or target not in parsed or anchor in parsed[target].anchors)
            if not is_there:
                dead.append((str(file.relative_to(folder)), link))
    return dead


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_link_within_it_leads_somewhere(site):
    assert len(list(site.rglob("*.html"))) > len(public_names())
    assert dead_links(site) == []


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    for file in site.rglob("*.html"):
        assert [load for load in Links(file.read_text(encoding="utf-8")).loads if re.match("(https?:)?//", load)] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#here"></a><a href="b.html#gone"></a><a href="#top">'
    )
    (tmp_path / "b.html").write_text(
        '<p id="here"><a href="c.html"></a><a href="https://elsewhere.org"></a><img src="d.png">'
    )
    assert dead_links(tmp_path) == [("a.html", "b.html#gone"), ("b.html", "c.html"), ("b.html", "d.png")]


@pytest.mark.slow
def test_pages_open_from_disk_without_a_request_or_an_error(site):
    if CHROMIUM is None:
        pytest.skip("no chromium to open the pages with")
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are opened by playwright")
    troubles: list[str] = []
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url),
        )
        page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        for name in ("index", "api/generated/pyrovae.fit", "scripts", "registered"):
            page.goto(f"file://{site}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        page.goto(f"file://{site}/search.html?q=quadrature")
        page.wait_for_selector("ul.search li a")
        found = page.locator("ul.search li a").all_inner_texts()
        assert any("quadrature" in title for title in found)
        browser.close()
    assert troubles == []
