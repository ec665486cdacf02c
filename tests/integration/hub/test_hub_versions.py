"""The published cache as other versions of huggingface_hub read it, each from a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldeck.hub import cache
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.older import PACKAGES, older_variables

from .test_hub_cache_readers import FILES, environment, published

VERSIONS = [name.removeprefix("huggingface_hub-") for name in PACKAGES if name.startswith("huggingface_hub-")]
READ = """
import json, sys
import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, try_to_load_from_cache
names, commit_hash = json.loads(sys.argv[1])
found = {"version": huggingface_hub.__version__}
for revision in ("main", commit_hash):
    about = {"repo_id": "o/n", "revision": revision}
    found[f"offline {revision[:4]}"] = [hf_hub_download(filename=n, local_files_only=True, **about) for n in names]
    found[f"cached {revision[:4]}"] = [try_to_load_from_cache(filename=n, **about) for n in names]
info = scan_cache_dir()
found["warnings"] = [str(w) for w in info.warnings]
found["refs"] = sorted(ref for repo in info.repos for ref in repo.refs)
found["size"] = info.size_on_disk
found["online"] = [hf_hub_download("o/n", n) for n in names]
if hasattr(HfApi, "verify_repo_checksums"):
    verified = HfApi().verify_repo_checksums(repo_id="o/n")
    found["verified"] = [verified.checked_count, verified.mismatches, verified.missing_paths, verified.extra_paths]
print(json.dumps(found))
"""
PREPARE = """
import sys
from pathlib import Path
from huggingface_hub import scan_cache_dir
from modeldeck.hub.cache import prepare_repo
prepare_repo(Path(sys.argv[1]), "o/n")
print([str(w) for w in scan_cache_dir(sys.argv[1]).warnings if "CACHEDIR.TAG" in str(w)])
print((Path(sys.argv[1]) / "CACHEDIR.TAG").exists())
"""
REMOVE = """
from huggingface_hub import scan_cache_dir
info = scan_cache_dir()
info.delete_revisions(*(revision.commit_hash for repo in info.repos for revision in repo.revisions)).execute()
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add_repo("o/n", FILES)
        yield hub


def run(code: str, env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_tagged(version: str) -> bool:
    """Whether this version of huggingface_hub knows the file CACHEDIR.TAG."""
    return tuple(map(int, version.split(".")[:2])) >= (1, 9)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cache_is_tagged_where_its_reader_knows_the_tag(tmp_path: Path, version: str) -> None:
    variables = {**os.environ, **older_variables(f"huggingface_hub-{version}")}
    warnings, has_tag = run(PREPARE, variables, str(tmp_path / "hub")).splitlines()[-2:]
    assert warnings == "[]"
    assert has_tag == str(is_tagged(version))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("has_symlinks", [True, False])
def test_every_version_finds_verifies_and_removes_it(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, has_symlinks: bool
) -> None:
    cache_dir = tmp_path / "hub"
    if not has_symlinks:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    commit_hash = published(cache_dir, hub)
    paths = [str(cache.snapshot_path(cache_dir, "o/n", commit_hash, name)) for name in FILES]
    environment_variables = {
        **environment(hub, cache_dir),
        **older_variables(f"huggingface_hub-{version}"),
    }
    said: dict[str, Any] = json.loads(
        run(READ, environment_variables, json.dumps([list(FILES), commit_hash])).splitlines()[-1]
    )
    assert said.pop("version") == version
    assert said.pop("verified", None) == (None if version.startswith("0.") else [len(FILES), [], [], []])
    warnings = said.pop("warnings")
    if is_tagged(version):
        assert warnings == []
    else:  # it warns of what its successors write too
        assert [warning for warning in warnings if "CACHEDIR.TAG" not in warning] == []
    assert said == {
        "offline main": paths,
        "cached main": paths,
        f"offline {commit_hash[:4]}": paths,
        f"cached {commit_hash[:4]}": paths,
        "refs": ["main"],
        "size": sum(map(len, FILES.values())),
        "online": paths,
    }, version
    assert "GET" not in {record.method for record in hub.requests.to("cdn")}
    run(REMOVE, environment_variables)
    assert cache.list_models(cache_dir) == ()
