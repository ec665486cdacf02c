"""The version of modeldeck. Packaging, the command, the engine and the user agent read it here."""

__version__ = "0.1.0"
