"""The documentation site builds without a warning, and has what its readers look for."""

import subprocess
from pathlib import Path

import pytest

import modeldeck
from tools.documentation import build_command


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(build_command(folder), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_reference_has_every_public_name(site: Path) -> None:
    pages = "".join((site / "reference" / f"{name}.html").read_text(encoding="utf-8") for name in ("api", "errors"))
    missing = [
        name
        for name in modeldeck.__all__
        if name != "__version__" and f'id="modeldeck.{name}"' not in pages and f">{name}<" not in pages
    ]
    assert missing == []


def test_the_reference_has_every_error_code(site: Path) -> None:
    page = (site / "reference" / "errors.html").read_text(encoding="utf-8")
    codes = {getattr(modeldeck, name).code for name in modeldeck.__all__ if name.endswith("Error")}
    assert [code for code in codes if f">{code}<" not in page] == []


def test_the_reference_has_the_help_of_every_command(site: Path) -> None:
    page = (site / "reference" / "command.html").read_text(encoding="utf-8")
    for name in ("search", "show", "download", "ls", "verify", "rm", "downloads", "cancel", "engine"):
        assert f"usage: modeldeck {name}" in page
