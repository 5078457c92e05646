"""Configuration of the documentation; build with `python -m tox run -e docs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Only what the site itself needs; neuroattn is installed.
sys.path.insert(0, str(HERE / "_ext"))
# The gallery runs on one thread, so that it takes as long anywhere and gives the same digits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables of the gallery are printed at this width.
os.environ["COLUMNS"] = "100"

from neuroattn import __version__  # noqa: E402

project = "neuroattn"
author = "The neuroattn developers"
project_copyright = "The neuroattn developers, BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "capacity",
    "claims",
    "mathtext",
    "mechanisms",
    "own_members",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "results", "gallery", "tutorials/*.ipynb", "tutorials/*.py"]
# A reference to a public name of ours that leads nowhere is an error; those to the inside of a
# room, and to other libraries, are words in a typewriter face.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!neuroattn\.).*"),
    (r"py:.*", r"neuroattn\.\w+\.[a-z_]\w*(\.\w+)*"),
]

# Reference: each room's page lists what the room exports, so that no name can be forgotten.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathtext"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib", "returned_figures"),
    "ignore_repr_types": r"matplotlib\.",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    # Its page of running times would load a script from the network.
    "write_computation_times": False,
    "show_signature": False,
    "min_reported_time": 1,
}

html_theme = "furo"
html_title = f"neuroattn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
