"""The Sphinx site. Built without network: no intersphinx, no fonts or scripts from elsewhere."""

import sys
from pathlib import Path

import lungunet

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "lungunet"
author = "The lungunet developers"
version = release = lungunet.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "docstrings",  # ours: NumPy sections whose type slot holds shapes and units
    "public_names",  # ours: links types to the public names that the reader imports
    "command_line",  # ours: the pages of the verbs, from the application itself
    "mathml",  # ours: formulas without a script from elsewhere
    "drawings",  # ours: figures that follow light and dark mode
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"lungunet {release}"
html_static_path = ["_static"]
html_css_files = ["figures.css"]
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_selector = "div:not(.highlight-text) > div.highlight pre"  # output is not typed
copybutton_exclude = ".linenos, .gp, .go"

# A broken link to a name of ours is an error; what others document cannot be looked up offline.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|np|numpy|pathlib|os|collections|albumentations|A|nn)(\..*)?|Path"),
    (
        "py:class",
        r"lungunet\.volumes\.(dicom\.Slice|scan\.Remote)",
    ),  # what Scans are made of, and no promise
]
default_role = "literal"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
