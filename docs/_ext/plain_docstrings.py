"""Docstrings as this project writes them, made into reStructuredText.

They are plain text for `help()`: one backtick around code, formulas such as `q(z | x)` and (N, *event_shape) as they
stand, no markup. Here code becomes a literal, or a link where it names something public; stars, bars and trailing
underscores are escaped; an indented block after a colon is code. Sections such as "Args:" are left to napoleon.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import pyrovae

ROOMS = ("data", "methods", "callbacks", "plotting", "evaluation", "report", "sklearn")
SECTION = re.compile(r"\s*(Args|Arguments|Attributes|Example|Examples|Note|Notes|Raises|Returns|Warns|Yields):\s*$")
CODE = re.compile(r"``[^`]+``|`[^`]+`")


def public_names() -> dict[str, str]:
    """What a docstring may call each public name, and its full name."""
    names = {name: f"pyrovae.{name}" for name in pyrovae.__all__ if name not in pyrovae._ROOMS}
    for room in ROOMS:
        if room in pyrovae._ROOMS:
            for name in getattr(pyrovae, room).__all__:
                names.setdefault(name, f"pyrovae.{room}.{name}")
                names[f"{room}.{name}"] = f"pyrovae.{room}.{name}"
    return names | {full: full for full in names.values()}


class Docstrings:
    """Turns docstrings into reStructuredText."""

    def __init__(self) -> None:
        self.public = public_names()
        self.homes: dict[str, str] = {}
        self.without_sections: dict[str, list[str]] = {}
        for name, full in self.public.items():
            if name != full:
                thing: Any = pyrovae
                for part in full.split(".")[1:]:
                    thing = getattr(thing, part)
                home = getattr(thing, "__module__", None)
                qualname = getattr(thing, "__qualname__", None)
                if home and qualname:
                    self.homes.setdefault(f"{home}.{qualname}", full)

    def process(self, app: Sphinx, what: str, full: str, thing: Any, options: Any, lines: list[str]) -> None:
        converted = self.converted(lines, full)
        if what in {"attribute", "data", "property"}:  # napoleon would take what is before a colon for a type
            self.without_sections[full] = converted
            converted = []
        lines[:] = converted

    def restore(self, app: Sphinx, what: str, full: str, thing: Any, options: Any, lines: list[str]) -> None:
        if full in self.without_sections:
            lines[:] = self.without_sections.pop(full)

    def converted(self, lines: list[str], full: str = "") -> list[str]:
        done: list[str] = []
        text: list[str] = []

        def flush() -> None:
            if text:
                done.extend(self._text("\n".join(text), full).split("\n"))
                text.clear()

        number = 0
        while number < len(lines):
            line = lines[number]
            if line.lstrip().startswith(">>>"):
                flush()
                if done and done[-1].strip():
                    done.append("")
                while number < len(lines) and lines[number].strip():
                    done.append(lines[number])
                    number += 1
                continue
            if re.match(r"\s*=+(\s+=+)+\s*$", line):  # a table, to the last of its three rules
                flush()
                rules = 0
                while number < len(lines) and rules < 3:
                    rules += bool(re.match(r"\s*=+(\s+=+)+\s*$", lines[number]))
                    done.append(self._text(lines[number], full))
                    number += 1
                continue
            if self._begins_code(lines, number):
                flush()
                done[-1:] = [*done[-1:], "", "::", ""] if done and done[-1].strip() else ["::", ""]
                indent = _indent(line)
                while number < len(lines) and (not lines[number].strip() or _indent(lines[number]) >= indent):
                    done.append(lines[number])
                    number += 1
                if done[-1].strip():
                    done.append("")
                continue
            if not line.strip():
                flush()
                done.append(line)
            else:
                text.append(line)
            number += 1
        flush()
        return done

    @staticmethod
    def _begins_code(lines: list[str], number: int) -> bool:
        """Whether an indented block of code begins here: after an empty line and a sentence that ends in a colon."""
        if not lines[number].strip() or number < 2 or lines[number - 1].strip():
            return False
        before = lines[number - 2]
        return before.rstrip().endswith(":") and not SECTION.match(before) and _indent(lines[number]) > _indent(before)

    def _text(self, text: str, full: str) -> str:
        pieces, end = [], 0
        for code in CODE.finditer(text):
            pieces += [_escaped(text[end : code.start()]), self._code(code.group().strip("`"), full)]
            end = code.end()
            if text[end : end + 1].isalnum():
                pieces.append("\\ ")
        return "".join([*pieces, _escaped(text[end:])])

    def _code(self, code: str, full: str) -> str:
        target = self.public.get(code.removesuffix("()"))
        if target is not None and target != full:
            return f":py:obj:`{code} <{target}>`"
        return f"``{code}``"

    def resolve(self, app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> Any:
        """A reference to where a public name is defined leads to where it is documented."""
        full = self.homes.get(node.get("reftarget", ""))
        if node.get("refdomain") != "py" or full is None:
            return None
        domain = env.domains["py"]
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("`", "\\`")
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def setup(app: Sphinx) -> dict[str, Any]:
    docstrings = Docstrings()
    app.connect("autodoc-process-docstring", docstrings.process, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", docstrings.restore, priority=900)  # after it
    app.connect("missing-reference", docstrings.resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
