"""Builds the documentation site, where a warning fails the build, and takes its pictures."""

from pathlib import Path

from tools.environment import PYTHON, ROOT, run, say, setup_test

SOURCES = ROOT / "docs"
SITE = ROOT / ".cache" / "docs"


def docs() -> int:
    setup_test()
    run(build_command(SITE))
    say(f"The documentation is in {SITE / 'index.html'}")
    return 0


def shots() -> int:
    setup_test()
    run([PYTHON, "-m", "tools.shots"])
    run([PYTHON, "-m", "tools.film"])
    return 0


def build_command(site: Path) -> list[str | Path]:
    """Return the command that builds the site into a folder."""
    return [PYTHON, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--builder", "html", SOURCES, site]
