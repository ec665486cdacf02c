"""The local hub with the demo's repositories, for the demo, the browser tests and the notebooks' tests."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modeldeck.localhub import LocalHub
from modeldeck.localhub.demo import GATED_REPO_ID, TOKEN, add_demo_repos


@contextlib.contextmanager
def demo_hub() -> Iterator[LocalHub]:
    """Serve the demo's repositories; the tiny models are generated for it."""
    with tempfile.TemporaryDirectory(prefix="modeldeck-hub-") as folder:
        hub = LocalHub(tokens={TOKEN: {GATED_REPO_ID}})
        for notice in add_demo_repos(hub, Path(folder)):
            print(notice, file=sys.stderr)
        with hub:
            yield hub
