"""Lock files over a real hub: what is locked on one machine is what another one gets, or it says what differs."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modeldeck
from modeldeck import LockedModel, LockError, Session, llama
from modeldeck.lockfile import pin, read_lock_file
from modeldeck.snippets import llama_cpp_code, modeldeck_code
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Latency, Reply
from tools.localhub.tiny_models import write_chat_model, write_projector, write_split_model
from tools.processes import without_hub_settings

REPO = "owner/locked-GGUF"
OLD = "owner/old-name-GGUF"
NAME = "locked-Q8_0.gguf"
SPLIT = "owner/split-GGUF"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        NAME: write_chat_model(folder / NAME, quantization="Q8_0"),
        "locked-Q4_0.gguf": write_chat_model(folder / "locked-Q4_0.gguf", quantization="Q4_0"),
        "mmproj-F16.gguf": write_projector(folder / "mmproj-F16.gguf"),
    }


@pytest.fixture
def hub(files: dict[str, Path]) -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add_repo(REPO, files, aliases=[OLD])
        yield hub


@pytest.fixture
async def session(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Session]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    async with Session(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
        yield session


async def test_what_was_locked_is_what_is_brought_although_the_repository_moved_on(
    session: Session, hub: LocalHub, files: dict[str, Path]
) -> None:
    (locked,) = await session.lock(f"{REPO}:Q8_0")
    assert locked == modeldeck.locked("locked-GGUF:Q8_0")
    assert [(file.filename, file.sha256) for file in locked.files] == [
        (name, hub.sha256(REPO, name)) for name in (NAME, "mmproj-F16.gguf")
    ]
    assert locked.n_ctx == 2048, "what the model was trained for"
    assert await session.local_models() == (), "nothing was downloaded"
    with pytest.raises(LockError, match=rf"{REPO}:Q8_0 at commit {locked.commit_hash[:8]} is not here") as caught:
        await session.sync(check=True)
    assert len(caught.value.differences) == 1

    content = files[NAME].read_bytes()
    hub.update_file(REPO, NAME, b"GGUF other")
    (model,) = await session.sync()
    assert model.path.read_bytes() == content
    assert (model.commit_hash, model.variant_id) == (locked.commit_hash, NAME)
    assert model.sha256s == tuple(file.sha256 for file in locked.files)
    hub.stop()
    assert [found.path for found in await session.sync(check=True)] == [model.path]
    assert [found.path for found in await session.sync()] == [model.path], "what is here needs no Hub"


async def test_models_are_added_and_locked_again_and_the_file_is_the_same_each_time(
    session: Session, hub: LocalHub, tmp_path: Path
) -> None:
    path = tmp_path / "modeldeck.lock"
    await session.lock(f"{REPO}:Q8_0", n_ctx=512)
    first = path.read_bytes()
    await session.lock(f"{REPO}:Q8_0", n_ctx=512)
    assert path.read_bytes() == first
    models = await session.lock(f"{REPO}:Q4_0")
    assert [(model.label, model.n_ctx) for model in models] == [("Q4_0", 2048), ("Q8_0", 512)]
    before = models[1].commit_hash
    hub.update_file(REPO, "README.md", b"new")
    models = await session.lock(f"{REPO}:Q8_0")
    assert models[1].commit_hash != before
    assert models[0].commit_hash == before
    assert "Q8_0" in str(models)


async def test_a_link_to_a_lock_file_stays_one_and_the_file_is_written(session: Session, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    link, file = tmp_path / "modeldeck.lock", tmp_path / "shared" / "file.lock"
    link.symlink_to(file)
    await session.lock(f"{REPO}:Q8_0")
    await session.lock(f"{REPO}:Q4_0")
    assert link.readlink() == file
    assert [model.label for model in read_lock_file(file).models] == ["Q4_0", "Q8_0"]
    assert os.listdir(file.parent) == [file.name]


async def test_the_same_files_at_another_commit_are_not_fetched_again(session: Session, hub: LocalHub) -> None:
    await session.lock(f"{REPO}:Q8_0")
    hub.update_file(REPO, "README.md", b"new")
    model = await session.download(f"{REPO}:Q8_0")
    hub.stop()
    assert [found.path for found in await session.sync()] == [model.path]


async def test_damage_is_found_and_mended(session: Session) -> None:
    await session.lock(f"{REPO}:Q8_0")
    (model,) = await session.sync()
    content = bytearray(model.path.read_bytes())
    content[-1] ^= 1
    model.path.resolve().write_bytes(content)
    with pytest.raises(LockError, match=f"{NAME} of {REPO} is damaged"):
        await session.sync(check=True)
    await session.sync()
    await session.sync(check=True)


@pytest.mark.parametrize("is_mixed", [False, True], ids=["without links", "with links beside it"])
async def test_without_links_the_files_are_read_and_damage_is_found_and_mended(
    session: Session, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, is_mixed: bool
) -> None:
    from huggingface_hub import constants

    await session.lock(f"{REPO}:Q8_0")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
        (model,) = await session.sync()
    assert not model.path.is_symlink()
    if is_mixed:
        assert (await session.download(f"{REPO}:Q4_0")).path.is_symlink()
    asked = len(hub.requests)
    assert [found.path for found in await session.sync(check=True)] == [model.path]
    content = bytearray(model.path.read_bytes())
    content[-1] ^= 1
    model.path.write_bytes(content)
    with pytest.raises(LockError, match=f"{NAME} of {REPO} is damaged") as caught:
        await session.sync(check=True)
    assert len(caught.value.differences) == 1
    assert len(hub.requests) == asked, "nobody is asked"
    await session.sync()
    await session.sync(check=True)


async def test_a_renamed_repository_is_followed(session: Session, hub: LocalHub, tmp_path: Path) -> None:
    await session.lock(f"{REPO}:Q8_0")
    path = tmp_path / "modeldeck.lock"
    path.write_text(path.read_text().replace(REPO, OLD))
    (model,) = await session.sync()
    assert model.sha256 == hub.sha256(REPO, NAME)


@pytest.mark.parametrize("n_ctx", [None, 512])
async def test_a_repository_is_locked_under_its_present_name_whichever_the_cache_knows(
    session: Session, hub: LocalHub, tmp_path: Path, n_ctx: int | None
) -> None:
    path = tmp_path / "modeldeck.lock"
    await session.lock(f"{REPO}:Q8_0")
    path.write_text(path.read_text().replace(REPO, OLD))
    await session.download(f"{REPO}:Q8_0")
    (tmp_path / "cache" / f"models--{REPO.replace('/', '--')}").rename(
        tmp_path / "cache" / f"models--{OLD.replace('/', '--')}"
    )
    for name in (OLD, REPO):
        (locked,) = await session.lock(f"{name}:Q8_0", n_ctx=n_ctx)
        assert locked.repo_id == REPO
    hub.stop()
    (model,) = await session.sync()
    assert (model.repo_id, model.bytes_fetched) == (OLD, 0)


@pytest.mark.parametrize("case", ["deleted", "history rewritten", "file replaced"])
async def test_what_the_hub_no_longer_has_is_told(session: Session, hub: LocalHub, case: str) -> None:
    (locked,) = await session.lock(f"{REPO}:Q8_0")
    if case == "deleted":
        hub.faults.add(Reply(404, {"x-error-code": "RepoNotFound"}))
    elif case == "history rewritten":
        hub.update_file(REPO, NAME, b"GGUF other")
        repo = hub.catalogue.get(REPO)
        assert repo is not None
        hub.catalogue.put(replace(repo, commits={key: repo.commits[key] for key in repo.refs.values()}))
    else:
        hub.rewrite_file(REPO, NAME, b"GGUF other")
    with pytest.raises(LockError, match=rf"at commit {locked.commit_hash[:8]} is locked, but the Hub does not have it"):
        await session.sync()


@pytest.mark.llama
async def test_a_locked_model_is_loaded_as_it_was_locked(
    session: Session, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Path, int | None]] = []
    monkeypatch.setattr(llama, "load", lambda path, *, n_ctx, **_: loaded.append((path, n_ctx)))
    (locked,) = await session.lock(f"{REPO}:Q8_0", n_ctx=512)
    hub.update_file(REPO, NAME, b"GGUF other")
    await session.load(locked)
    await session.load(locked, n_ctx=1024)
    (model,) = await session.local_models()
    assert model.commit_hash == locked.commit_hash
    assert loaded == [(model.path, 512), (model.path, 1024)]


async def test_other_versions_are_a_notice(session: Session, tmp_path: Path) -> None:
    await session.lock(f"{REPO}:Q8_0")
    path = tmp_path / "modeldeck.lock"
    path.write_text(path.read_text().replace('modeldeck = "', 'modeldeck = "9'))
    notices: list[str] = []
    await session.sync(on_notice=notices.append)
    assert [notice.startswith("The models were locked with modeldeck 9") for notice in notices] == [True]


async def test_a_lock_needs_a_model_and_leaves_a_wrong_file_alone(session: Session, tmp_path: Path) -> None:
    with pytest.raises(modeldeck.InvalidRequestError, match="Name the models"):
        await session.lock()
    path = tmp_path / "modeldeck.lock"
    path.write_text("version = 7\n")
    with pytest.raises(LockError, match="has version 7"):
        await session.lock(f"{REPO}:Q8_0")
    with pytest.raises(LockError, match="has version 7"):
        await session.sync()
    assert path.read_text() == "version = 7\n"


@pytest.fixture
def environment(hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {
        **without_hub_settings(os.environ),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
        "MODELDECK_RUNTIME_DIR": str(tmp_path / "run"),
        "MODELDECK_INLINE": "1",
    }


def test_of_processes_that_lock_at_once_none_undoes_what_another_has_added(
    hub: LocalHub, files: dict[str, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    repos = [f"owner/together-{number}" for number in range(3)]
    for repo in repos:
        hub.add_repo(repo, {NAME: files[NAME]})
    hub.faults.add(Latency(2.0), path="/api/models/*")  # so that all have begun before the first one writes
    (tmp_path / "work").mkdir()
    locking = [
        subprocess.Popen(
            [sys.executable, "-m", "modeldeck", "lock", f"{repo}:Q8_0"],
            cwd=tmp_path / "work",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for repo in repos
    ]
    for process in locking:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, errors
    assert [model.repo_id for model in read_lock_file(tmp_path / "work" / "modeldeck.lock").models] == repos
    assert os.listdir(tmp_path / "work") == ["modeldeck.lock"]


def test_the_command_and_its_status(hub: LocalHub, environment: dict[str, str], tmp_path: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "modeldeck", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    result = run("lock", f"{REPO}:Q8_0")
    assert result.returncode == 0, result.stderr
    assert f"{REPO}:Q8_0" in result.stdout
    assert "Wrote modeldeck.lock." in result.stderr
    result = run("sync", "--check", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["code"] == "lock"
    result = run("sync")
    assert result.returncode == 0, result.stderr
    assert NAME in result.stdout
    assert run("sync", "--check").returncode == 0
    assert run("sync", "--file", "no.lock").returncode == 1


COPIED = """
import json, sys
codes = json.loads(sys.stdin.read())
for code in codes:
    names = {}
    exec(compile(code, "<copied>", "exec"), names)
    llm = names["llm"]
    print(json.dumps([llm.model_path, llm.n_ctx(), llm("Hi", max_tokens=32)["choices"][0]["text"]]))
"""


@pytest.mark.llama
def test_copied_code_runs_as_copied(hub: LocalHub, tmp_path: Path) -> None:
    shards = write_split_model(tmp_path, "split-F16", parts=3, size_bytes=3_000_000)
    hub.add_repo(SPLIT, {f"F16/{path.name}": path for path in shards})
    state = {"MODELDECK_STATE_DIR": str(tmp_path / "state"), "HF_HOME": str(tmp_path / "hf"), "MODELDECK_INLINE": "1"}
    details = modeldeck.describe(REPO, exact=False, endpoint=hub.endpoint, token=False)
    split = modeldeck.describe(SPLIT, exact=False, endpoint=hub.endpoint, token=False)
    models = [
        pin(repo.repo_id, repo.commit_hash, variant.label, variant.all_files, n_ctx=512)
        for repo in (details, split)
        for variant in repo.variants
        if variant.label in ("Q8_0", "F16")
    ]
    hub.update_file(REPO, NAME, b"GGUF other")
    result = subprocess.run(
        [sys.executable, "-c", COPIED],
        input=json.dumps([code(model) for model in models for code in (modeldeck_code, llama_cpp_code)]),
        env={**without_hub_settings(os.environ), **state, "HF_ENDPOINT": hub.endpoint},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    runs: list[list[Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    for (with_modeldeck, plain), model in zip((runs[:2], runs[2:]), models, strict=True):
        assert with_modeldeck == plain, "the same file, the same context, the same answer"
        assert with_modeldeck[0].endswith(f"snapshots/{model.commit_hash}/{model.variant_id}")
        assert with_modeldeck[1] == 512


def test_copied_code_names_what_is_needed_and_escapes_the_rest() -> None:
    model = LockedModel(
        repo_id="owner/name",
        commit_hash="0" * 40,
        label="Q8_0",
        n_ctx=2048,
        files=(
            modeldeck.GGUFFile(filename='a"b\\\n-Q8_0.gguf'),
            modeldeck.GGUFFile(filename="mmproj-F16.gguf"),
        ),
    )
    code = llama_cpp_code(model, is_embedding=True, n_gpu_layers=-1, options={"n_threads": 2, "flash_attn": False})
    assert "Llama(paths[0], n_ctx=2048, embedding=True, n_gpu_layers=-1, n_threads=2, flash_attn=False)" in code
    assert "mmproj" not in code
    for text in (code, modeldeck_code(model)):
        assert repr(model.variant_id) in text
        compile(text, "<copied>", "exec")


async def test_an_entry_as_text_is_read_again(session: Session, tmp_path: Path) -> None:
    from modeldeck.lockfile import lock_entry

    (locked,) = await session.lock(f"{REPO}:Q8_0")
    (tmp_path / "by-hand.lock").write_text(f"version = 1\n\n{lock_entry(locked)}")
    assert read_lock_file(tmp_path / "by-hand.lock").models == (locked,)
