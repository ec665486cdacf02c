"""modeldeck: a model browser that lives in a notebook cell."""

__version__ = "0.1.0"
