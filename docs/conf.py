"""Sphinx configuration of the documentation: ``python -m sphinx -W --keep-going -b html docs build/site``."""

import fastbn

project = "fastbn"
author = "The fastbn developers"
project_copyright = author
release = version = fastbn.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton"]
exclude_patterns = ["diagrams"]

default_role = "py:obj"                 # `name` in a docstring is a link if it is a public name, else code
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource", "special-members": "__call__"}
autodoc_typehints = "none"              # numpydoc names the types of parameters
autosummary_generate = False            # every object has its entry on a page of docs/reference
numpydoc_show_class_members = False     # autodoc lists them

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"fastbn {release}"
html_theme_options = {
    "source_repository": "https://github.com/fastbn/fastbn/",
    "source_branch": "main",
    "source_directory": "docs/",
}
