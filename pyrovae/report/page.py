"""A page of sections as one self-contained HTML text, which asks nothing of any network."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from string import Template

import pyrovae
from pyrovae import checks
from pyrovae.report.assets import asset, scripts, source_hash
from pyrovae.report.explorer import DATA, SCRIPTS
from pyrovae.report.section import Section

__all__ = ["page"]


def page(title: str, sections: Sequence[Section], explorer: str = "", *, lead: str = "") -> str:
    """The text of an HTML file that holds all it needs: it opens from disk, and no request leaves it.

    `explorer` is the fragment that `pyrovae.report.explorer` makes, or nothing. `title` and `lead`, a sentence under
    it, are plain text. A Content-Security-Policy lets through the package's own script and style, by their hashes, and
    images within the page: whatever else were in it, no script would run and nothing would be asked for.

    >>> from pyrovae.report import Section, page
    >>> text = page("Digits & letters", [Section("Curves", "Higher is better.", "<p>None.</p>")])
    >>> "<h1>Digits &amp; letters</h1>" in text, "http" in text.replace("http-equiv", "")
    (True, False)
    """
    for name, words in (("title", title), ("lead", lead), ("explorer", explorer)):
        checks.text(name, words)
    for number, each in enumerate(checks.sequence("sections", sections, "a list of sections")):
        checks.having(f"sections[{number}]", each, "title", "how_to_read", "html", what="a Section")
    style = asset("page.css") + asset("sections.css") + (asset("explorer.css") if explorer else "")
    script = scripts("page.js", *(SCRIPTS if explorer else ()))
    shown, _, held = explorer.partition(DATA)  # what it holds comes last: all else is on the screen before it is read
    names = _anchors(sections)
    links = [f'<li><a href="#{name}">{html.escape(s.title)}</a></li>' for name, s in zip(names, sections, strict=True)]
    if explorer:
        links.insert(0, '<li><a href="#explorer">Explore the codes</a></li>')
    policy = {
        "default-src": "'none'",
        "script-src": source_hash(script),
        "style-src": source_hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return Template(asset("page.html")).substitute(
        policy="; ".join(f"{what} {sources}" for what, sources in policy.items()),
        title=html.escape(title),
        lead=f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
        style=style,
        contents=_contents(links),
        explorer=shown,
        held=held,
        sections="\n".join(_section(name, s) for name, s in zip(names, sections, strict=True)),
        version=html.escape(pyrovae.__version__),
        script=script,
    )


def _contents(links: Sequence[str]) -> str:
    """The list of sections, where there are several."""
    if len(links) < 2:
        return ""
    items = "\n".join(links)
    return f'<nav aria-label="Sections of this page">\n<ul class="contents">\n{items}\n</ul>\n</nav>'


def _section(name: str, section: Section) -> str:
    return (
        f'<section id="{name}" class="part" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{html.escape(section.title)}</h2>\n'
        f'<p class="how">{html.escape(section.how_to_read)}</p>\n{section.html}\n</section>'
    )


def _anchors(sections: Sequence[Section]) -> list[str]:
    """A name for each section's anchor, from its title; no two are alike."""
    names: list[str] = []
    for section in sections:
        stem = f"s-{re.sub('[^a-z0-9]+', '-', section.title.lower()).strip('-')}"
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names
