"""Sphinx configuration. Pages are MyST markdown; the tutorial is executed, and a cell that fails, fails the build."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "16")

project = "latflow"
author = "The latflow authors"
copyright = "2026, The latflow authors"
release = version = __import__("latflow").__version__

extensions = ["myst_nb", "sphinx.ext.mathjax", "reference"]
exclude_patterns = ["_build", "_generated", "_ext"]
html_theme = "furo"
html_title = "latflow"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
