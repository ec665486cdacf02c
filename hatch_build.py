"""Builds the widget's JavaScript bundle into the package, for the wheel and for the sdist."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


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
