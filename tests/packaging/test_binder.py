"""The image on mybinder.org: its recipe, as repo2docker derives it, and the quickstart in the memory that it gets."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.memory_group import limited_memory
from tools.environment import ROOT
from tools.localhub import LocalHub
from tools.processes import run_environment, without_hub_settings

BINDER_BYTES = 2 << 30


QUICKSTART = """
import json, os, sys
from pathlib import Path

group, notebook, home = map(Path, sys.argv[1:])
(group / "cgroup.procs").write_text(str(os.getpid()))  # what this starts belongs to the group, too

import nbformat
from nbclient import NotebookClient
from tools.jupyter import jupyter_server

with jupyter_server(root=home, home=home, environment=os.environ, arguments=("--ServerApp.port=0",)):
    done = NotebookClient(nbformat.read(notebook, as_version=4), timeout=300).execute()
print(done.cells[-1]["outputs"][0]["text"])
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of the Dockerfile for the files that are under version control, with continued lines joined."""
    folder = tmp_path_factory.mktemp("repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    result = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    text = re.sub(r"\\\\\n\s*", "", result.stdout)
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_image_has_the_python_and_the_node_that_the_project_needs(recipe: list[str]) -> None:
    chosen = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f"Building conda environment for python={chosen}" in recipe
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {chosen}" in project["classifiers"]
    spec = importlib.util.find_spec("repo2docker")
    assert spec is not None
    assert spec.origin is not None
    packages = Path(spec.origin).parent / "buildpacks" / "conda" / f"environment.py-{chosen}.yml"
    node = re.search(r"nodejs=(\d+)", packages.read_text())
    assert node
    needed = json.loads((ROOT / "js" / "package.json").read_text())["engines"]["node"]
    assert int(node[1]) >= int(needed.removeprefix(">="))


def test_the_image_installs_the_project_once_and_then_checks_it(recipe: list[str]) -> None:
    """The sources are there before anything is installed, and nothing is installed beside `binder/requirements.txt`."""
    copied = recipe.index("COPY --chown=0:0 src/ ${REPO_DIR}/")
    steps = [line for line in recipe[copied:] if line.startswith(("RUN", "USER"))]
    assert steps == [
        "USER ${NB_USER}",
        'RUN ${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir -r "binder/requirements.txt"',
        "USER ${NB_USER}",
        "RUN chmod +x binder/postBuild",
        "RUN ./binder/postBuild",
    ]
    assert not [line for line in recipe[:copied] if "pip install" in line]


def test_the_requirements_name_a_wheel_of_llama_cpp_python_and_the_project() -> None:
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "--only-binary=llama-cpp-python" in lines
    assert [line for line in lines if not line.startswith(("#", "--"))] == [".[llama]"]


@pytest.mark.llama
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups")
def test_the_quickstart_fits_into_the_memory_of_binder(demo_hub: LocalHub, tmp_path: Path) -> None:
    """With JupyterLab beside it. Nobody can click here, so the model is loaded by its name."""
    notebook = json.loads((ROOT / "notebooks" / "01-quickstart.ipynb").read_text(encoding="utf-8"))
    waits = [cell for cell in notebook["cells"] if "await browser" in "".join(cell["source"]) and "outputs" in cell]
    assert len(waits) == 1
    waits[0]["source"] = "import modeldeck\nllm = modeldeck.load(modeldeck.search('smollm2').models[0].repo_id)"
    notebook["cells"].append({**waits[0], "id": "last", "source": "print(answer['choices'][0]['message']['content'])"})
    path = tmp_path / "quickstart.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    variables = {
        **without_hub_settings(os.environ),
        "HF_ENDPOINT": demo_hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
        "MODELDECK_RUNTIME_DIR": str(tmp_path / "run"),
    }
    with limited_memory(BINDER_BYTES) as group:
        with run_environment(variables) as environment:
            result = subprocess.run(
                [sys.executable, "-c", QUICKSTART, group.path, path, tmp_path],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
            )
        kills = group.kills
    assert result.returncode == 0, result.stderr
    assert "gravity" in result.stdout.lower()
    assert kills == 0
