"""Keeps the scripts that the page of an exported notebook loads from the network, for the browser tests."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "html-manager"

# The npm packages, and the file of each that such a page loads.
FILES = {
    "@jupyter-widgets/html-manager@1.0.15": "dist/embed-amd.js",
    "requirejs@2.3.8": "require.js",
}


def local_copy(address: str) -> Path | None:
    """The file that answers a request of the page."""
    names = {Path(member).name: FOLDER / Path(member).name for member in FILES.values()}
    name = address.partition("?")[0].rpartition("/")[2].replace(".min.", ".")
    return names.get(name)
