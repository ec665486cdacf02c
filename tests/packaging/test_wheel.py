"""What a user installs: the wheel has the JavaScript bundle, also when it is built from the sdist without Node."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import modeldeck
from tools.environment import MADE_HERE, ROOT

BUNDLE = "modeldeck/widget/static/widget.js"
REPOSITORY = "https://github.com/Someone/modeldeck"
WORKFLOW = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "Someone/modeldeck", "GITHUB_SHA": "c0ffee"}


def build(source: Path, kind: str, output: Path, **variables: str) -> Path:
    """Build with the tools of this environment, so that nothing is fetched but what npm does not have in its cache."""
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", output, source],
        env={**os.environ, "npm_config_prefer_offline": "true", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the release workflow does, from a copy of the checkout that has never been built."""
    folder = tmp_path_factory.mktemp("sdist")

    def left_out(directory: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(directory, name) in MADE_HERE or name in (".git", "__pycache__")}

    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
    return build(folder / "checkout", "sdist", folder / "dist", **WORKFLOW)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, where neither Node nor npm can be found, and which is not in a repository."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later have it
        archive.extractall(folder)
    return build(folder / sdist.name.removesuffix(".tar.gz"), "wheel", folder / "dist", PATH=os.fspath(folder))


def test_the_wheel_holds_the_bundle_and_only_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read(BUNDLE) == (ROOT / "src" / BUNDLE).read_bytes(), "the bundle is not of these sources"
    assert {"modeldeck/py.typed", "modeldeck/widget/static/texts.json"} <= set(names)
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"modeldeck"}


def test_the_sdist_holds_the_bundle_and_its_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert f"src/{BUNDLE}" in names
    assert {"js/package-lock.json", "js/src/widget.tsx", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not any("node_modules" in name for name in names)


def test_the_package_index_would_accept_both(wheel: Path, sdist: Path) -> None:
    check = [sys.executable, "-m", "twine", "check", "--strict", wheel, sdist]
    result = subprocess.run(check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout


def test_the_pages_of_the_package_lead_to_its_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata_file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(metadata_file).decode()
    message = HeaderParser().parsestr(metadata)
    assert set(message.get_all("Project-URL", [])) == {
        "Documentation, https://someone.github.io/modeldeck/",
        f"Source, {REPOSITORY}",
        f"Issues, {REPOSITORY}/issues",
        f"Changelog, {REPOSITORY}/blob/HEAD/CHANGELOG.md",
    }
    page = MarkdownIt("commonmark", {"html": True}).render(message.get_payload())
    targets = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    files = [target.removeprefix(f"{REPOSITORY}/").split("/", 2) for target in targets if target.startswith(REPOSITORY)]
    assert {kind for kind, _, _ in files} == {"blob", "raw"}
    assert {commit_hash for _, commit_hash, _ in files} == {"c0ffee"}
    assert [path for _, _, path in files if not (ROOT / path).exists()] == []
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    assert wheel.name.split("-")[1] == modeldeck.__version__
    texts = (ROOT / name for name in ("pyproject.toml", "CITATION.cff", "docs/conf.py", "js/package.json"))
    assert [path.name for path in texts if modeldeck.__version__ in path.read_text(encoding="utf-8")] == []


def test_the_installed_wheel_finds_its_bundle(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    program = "from modeldeck.widget import browser; print(browser._BUNDLE); print(len(browser._bundle_text()))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.fspath(site)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    location, size = result.stdout.splitlines()
    assert Path(location) == site / BUNDLE
    assert int(size) > 0
