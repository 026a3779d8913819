"""A script of analysis/ in the gallery: its question, its commands and its method, from its own docstring.

```{script} evidence.py
```
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCRIPTS = Path(__file__).parents[2] / "analysis"


class Script(SphinxDirective):
    """`{script} NAME.py`: what a script of analysis/ asks and how it is run."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = SCRIPTS / self.arguments[0]
        self.env.note_dependency(str(file))
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        question, commands, *method = str(docstring).split("\n\n")
        shown = re.sub(" +#", "  #", textwrap.dedent(commands))
        lines = [*question.splitlines(), "", "```sh", *shown.splitlines(), "```", ""]
        how = re.sub(r"(?<![`\w-])--[a-z][\w-]*", r"`\g<0>`", "\n\n".join(method))  # an option is code
        lines += ["```{dropdown-method}", *how.splitlines(), "```"]
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, str(file)), self.content_offset, parent)
        return parent.children


class Method(SphinxDirective):
    """The rest of a docstring, folded away until a reader asks for it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        body = nodes.container(classes=["method-of-script"])
        self.state.nested_parse(self.content, self.content_offset, body)
        opening = nodes.raw("", "<details><summary>How it is measured</summary>", format="html")
        return [opening, body, nodes.raw("", "</details>", format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("script", Script)
    app.add_directive("dropdown-method", Method)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
