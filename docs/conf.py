"""The documentation site: ``make docs`` builds it, with warnings as errors."""

import sys
from pathlib import Path

import modeldeck

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "modeldeck"
author = "the modeldeck developers"
release = version = modeldeck.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "from_code",
]
exclude_patterns = ["_build", "notebooks/*.py"]
default_role = "py:obj"

myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute the notebooks and every example

autodoc_typehints = "none"  # the docstrings have the types
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"modeldeck {release}"
html_copy_source = False
