"""The site: `python -m sphinx -W docs docs/_build/html`, then open docs/_build/html/index.html."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]  # the site describes the checkout that it lies in

import pyrovae  # noqa: E402

project = "pyrovae"
release = version = pyrovae.__version__
copyright = "the authors of pyrovae, MIT licence"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "formulas",
    "gallery",
    "plain_docstrings",
    "registrations",
    "root_files",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# pages ------------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"  # a notebook's outputs are those that it was saved with; a test runs it
nb_ipywidgets_js = {}  # a saved page asks no other host for a script

# API reference ----------------------------------------------------------------------------------------------------
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False
toc_object_entries = False

# Every reference must lead somewhere. Left out are the names of other libraries, whose pages are not part of this
# site and are not asked for at build, and of this package the types that are not public.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|pyro|numpy|np|xarray|xr|arviz|az|matplotlib|sklearn|scipy|pandas|click|tqdm)(\..*)?"),
    (r"py:.*", r"(collections|typing|os|pathlib|abc|contextlib|dataclasses|builtins|types)\..*"),
    (r"py:class", r"(ArrayLike|Finding|Origin|Scores|T|Tensor|dict\[str)"),
    (r"py:class", r"pyrovae\.\w+(\.\w+)*\.[A-Z]\w*"),  # where a class is defined; a public one is found before this
]

# appearance -------------------------------------------------------------------------------------------------------
smartquotes_action = "D"  # dashes alone: "svi" and (..., latent_dim) stand as they are typed
html_theme = "furo"
html_title = f"pyrovae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["from_disk.js"]
html_math_renderer = "mathml"
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c8a", "color-brand-content": "#0b5c8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
