"""The workflows of GitHub Actions are checked with actionlint, and the check can fail."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from tools.environment import JAVASCRIPT, PYPROJECT, ROOT, npm

WRONG = """
name: wrong
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    needs: another
    steps:
      - run: echo "${{ matrix.system }}"
"""


def lint(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = npm("run", "--silent", "workflows", "--", *arguments)
    return subprocess.run(command, cwd=JAVASCRIPT, capture_output=True, text=True)


def test_the_workflows_are_right() -> None:
    result = lint()
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_oldest_and_the_newest_python_are_tested() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={versions[0]}"
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["systems"]["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
    bounds = jobs["bounds"]["strategy"]["matrix"]["include"]
    assert [each["python"] for each in bounds] == [versions[0], versions[-1]]


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "wrong.yml").write_text(WRONG)
    result = lint(str(tmp_path))
    assert result.returncode == 1
    assert 'wrong.yml:5:3: job "build" needs job "another"' in result.stderr
    assert 'property "system" is not defined' in result.stderr


def test_a_folder_without_workflows_is_told(tmp_path: Path) -> None:
    result = lint(str(tmp_path))
    assert result.returncode != 0
    assert "There is no workflow in" in result.stderr
