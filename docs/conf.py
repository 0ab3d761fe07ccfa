"""The documentation site: `make docs` builds it from the pages of the repository, as they are read there too."""

from sphinx.application import Sphinx

import nlnet

project = "nlnet"
release = nlnet.__version__
author = copyright = "the authors of nlnet"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# The pages keep their places in the repository, so that a link between two of them is right in both.
root_doc = "docs/index"
include_patterns = ["*.md", "data/README.md", "docs/**.md"]
exclude_patterns = [".*", "build", "configs", "logs", "notebooks", "src", "tests"]

default_role = "code"  # docstrings write `names` as Markdown does
myst_heading_anchors = 3

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = "nlnet"
html_extra_path = ["site"]
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it would be fetched, which browsers refuse to pages on a disk


def lists_apart(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put an empty line before and after a list: reStructuredText needs them, a reader of the code does not."""
    apart: list[str] = []
    in_list = False
    for line in lines:
        item, indented = line.startswith("- "), line.startswith(" ")
        begins, ends = item and not in_list, in_list and line and not item and not indented
        if apart and apart[-1] and (begins or ends):
            apart.append("")
        in_list = item or (in_list and indented)
        apart.append(line)
    lines[:] = apart


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", lists_apart, priority=400)  # before napoleon
