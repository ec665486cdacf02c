"""Builds the widget's JavaScript bundle into the wheel and the sdist, and names the repository that releases them."""

import os
import re
import shutil
import subprocess
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class JavaScriptBundle(BuildHookInterface):
    """Builds from the sources, except in an unpacked sdist, which contains the bundle."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if (root / "PKG-INFO").is_file():
            return
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(
                "Building modeldeck from a checkout needs Node.js 20 or later, with npm on the PATH. Install it."
            )
        for arguments in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
            subprocess.run([npm, *arguments], cwd=root / "js", check=True)


class RepositoryAddress(MetadataHookInterface):
    """Sets the project's URLs, and the links and pictures of its README, to the repository that releases it.

    A GitHub workflow knows the repository from its environment: see "Default environment variables" in the
    documentation of GitHub Actions. An unpacked sdist keeps what it was built with. A build anywhere else has no URLs,
    and the README as it stands in the checkout.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        built = Path(self.root) / "PKG-INFO"
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if built.is_file():
            message = HeaderParser().parsestr(built.read_text(encoding="utf-8"))
            metadata["urls"] = dict(header.split(", ", 1) for header in message.get_all("Project-URL", []))
            readme = message.get_payload()
        elif "GITHUB_REPOSITORY" in os.environ:
            repository = os.environ["GITHUB_REPOSITORY"]
            source = f"{os.environ['GITHUB_SERVER_URL']}/{repository}"
            owner, name = repository.split("/")
            metadata["urls"] = {
                "Documentation": f"https://{owner.lower()}.github.io/{name}/",
                "Source": source,
                "Issues": f"{source}/issues",
                "Changelog": f"{source}/blob/HEAD/CHANGELOG.md",
            }
            readme = with_absolute_links(readme, source, os.environ["GITHUB_SHA"])
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def with_absolute_links(readme: str, source: str, commit_hash: str) -> str:
    """Return the README with the links and pictures that are relative to it pinned to a commit of the repository.

    >>> with_absolute_links('[docs](docs/index.md) <img src="a.png">', "https://github.com/me/it", "c0ffee")
    '[docs](https://github.com/me/it/blob/c0ffee/docs/index.md) <img src="https://github.com/me/it/raw/c0ffee/a.png">'
    """
    elsewhere = r"(?!https?:|#)"
    images = rf'((?:src|srcset)="|!\[[^]]*\]\(){elsewhere}'
    links = rf"((?<!!)\[[^]]*\]\(){elsewhere}"
    readme = re.sub(images, rf"\g<1>{source}/raw/{commit_hash}/", readme)
    return re.sub(links, rf"\g<1>{source}/blob/{commit_hash}/", readme)
