"""A model is found by every name that people use for it: addresses, old names, paths, and beside files of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modeldeck import (
    GGUFError,
    InvalidRequestError,
    LocalModel,
    LockError,
    NetworkError,
    RemoteFileNotFoundError,
    Session,
)
from tools.localhub import LocalHub
from tools.localhub.tiny_models import write_chat_model, write_projector

NAME = "tiny-Q8_0.gguf"
OTHER = "tiny-F16.gguf"
REPO = "owner/new-name"
OLD = "owner/old-name"

pytestmark = pytest.mark.anyio


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHub]:
    files = {
        NAME: write_chat_model(tmp_path / NAME, quantization="Q8_0"),
        OTHER: write_chat_model(tmp_path / OTHER, quantization="F16"),
    }
    with LocalHub() as hub:
        hub.add_repo(REPO, files, aliases=[OLD], git_tags=["refs/pr/1"])
        yield hub


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "cache"


@pytest.fixture
async def session(local: LocalHub, cache_dir: Path, anyio_backend: str) -> AsyncIterator[Session]:
    async with Session(endpoint=local.endpoint, cache_dir=cache_dir, token=False, inline=True) as session:
        yield session


NAMES = [
    f"{REPO}:Q8_0",
    f" {REPO}:Q8_0\n",
    f"\u200b{REPO}:Q8_0",
    f"{REPO}:tiny-Q8_0",
    f"{REPO}:{NAME}",
    f"hf.co/{REPO}:Q8_0",
    f"hf.co/{REPO}/blob/main/{NAME}",
    f"huggingface.co/{REPO}/resolve/main/{NAME}",
    f"https://hf.co/{REPO}:Q8_0",
    f"https://huggingface.co/{REPO}/blob/main/{NAME}",
    f"https://huggingface.co/{REPO}/resolve/main/{NAME}?download=true",
    f"https://huggingface.co/{REPO}?show_file_info={NAME}",
    f"hf://{REPO}:Q8_0",
    f"hf://{REPO}/{NAME}",
    f"hf://{REPO}@refs/pr/1/{NAME}",
    f"{{endpoint}}/{REPO}/blob/main/{NAME}",
    f"{{endpoint}}/{REPO}/resolve/main/{NAME}",
    f"{OLD}:Q8_0",
    f"https://huggingface.co/{OLD}/blob/main/{NAME}",
]


@pytest.mark.llama
@pytest.mark.parametrize("name", NAMES)
async def test_every_name_downloads_locks_loads_fits_verifies_and_removes(
    session: Session, local: LocalHub, tmp_path: Path, name: str
) -> None:
    name = name.format(endpoint=local.endpoint)
    notices: list[str] = []
    assert (await session.describe(name, exact=False)).repo_id == REPO
    model = await session.download(name)
    assert (model.repo_id, model.label) == (REPO, "Q8_0")
    await session.download(f"{REPO}:F16")
    lock = tmp_path / "modeldeck.lock"
    await session.lock(name, f"{REPO}:F16", path=lock)
    local.stop()
    locked = await session.locked(name, lock)
    assert (locked.repo_id, locked.label) == (REPO, "Q8_0")
    assert (await session.fit(name, exact=False)).verdict == "fits"
    llm = await session.load(name, on_notice=notices.append)
    assert llm.model_path == str(model.path)
    llm.unload()
    (notice,) = notices
    assert notice.startswith(f"{REPO} is taken from the cache; the Hub was not followed.")
    assert [file.path for file in await session.verify(name)] == [model.path]
    with pytest.raises(RemoteFileNotFoundError, match="unfinished"):
        await session.cancel(name)
    assert await session.remove(name) == model.size
    assert [left.label for left in await session.local_models()] == ["F16"]


@pytest.mark.llama
@pytest.mark.parametrize("name", [REPO, f"hf.co/{REPO}", f"https://huggingface.co/{REPO}/tree/main"])
async def test_a_folder_of_that_name_in_the_working_directory_changes_nothing(
    session: Session, local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    local.update_file(REPO, OTHER, None)
    (tmp_path / "work" / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    llm = await session.load(name)
    assert Path(llm.model_path).name == NAME
    llm.unload()


@pytest.mark.llama
@pytest.mark.parametrize("name", ["owner/model.gguf", "hf.co/owner/model.gguf", "https://hf.co/owner/model.gguf"])
async def test_a_repository_may_be_called_like_a_file(
    session: Session, local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    local.add_repo("owner/model.gguf", {NAME: tmp_path / NAME})
    llm = await session.load(name)
    llm.unload()
    assert (await session.fit(name, exact=False)).verdict == "fits"
    (tmp_path / "work" / "owner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(InvalidRequestError, match="neither a file nor a repository"):
        await session.fit("owner/model.gguf")


async def test_a_commit_in_an_address_is_the_commit(session: Session, local: LocalHub, tmp_path: Path) -> None:
    first = await session.describe(REPO, exact=False)
    local.update_file(REPO, "more.txt", b"more")
    model = await session.download(f"https://huggingface.co/{REPO}/blob/{first.commit_hash}/{NAME}")
    assert model.commit_hash == first.commit_hash
    await session.download(f"{REPO}:Q8_0")
    (file,) = await session.verify(f"https://huggingface.co/{REPO}/blob/{first.commit_hash}/{NAME}")
    assert file.path == model.path
    await session.lock(f"{REPO}:Q8_0", path=tmp_path / "modeldeck.lock")
    with pytest.raises(LockError, match="no model"):
        await session.locked(f"hf://{REPO}@{first.commit_hash}/{NAME}", tmp_path / "modeldeck.lock")
    with pytest.raises(InvalidRequestError, match="already names the revision"):
        await session.download(f"https://huggingface.co/{REPO}/blob/{first.commit_hash}/{NAME}", revision="v1")


@pytest.fixture(params=["main first", "v1 first"])
async def both(session: Session, local: LocalHub, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Path]:
    """The model as ``main`` and as the tag ``v1`` have it, with the commit's hash of either one before the other's."""
    content = (tmp_path / NAME).read_bytes()
    older = content[:-1] + b"1"
    for number in range(64):
        repo_id = f"owner/two-{number}"
        old = local.add_repo(repo_id, {NAME: older, "README.md": b"%d" % number}, git_tags=["v1"])
        new = local.update_file(repo_id, NAME, content)
        if (new < old) == (request.param == "main first"):
            break
    assert (new < old) == (request.param == "main first")
    models = {name: await session.download(f"{repo_id}:Q8_0", revision=name) for name in ("v1", "main")}
    assert {name: model.commit_hash for name, model in models.items()} == {"v1": old, "main": new}
    return {name: model.path for name, model in models.items()}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("{repo_id}", "main"),
        ("{repo_id}:Q8_0", "main"),
        (f"https://huggingface.co/{{repo_id}}/blob/main/{NAME}", "main"),
        (f"https://huggingface.co/{{repo_id}}/blob/v1/{NAME}", "v1"),
        ("hf://{repo_id}@v1:Q8_0", "v1"),
    ],
)
async def test_a_name_means_main_and_an_address_its_revision(
    session: Session, both: dict[str, Path], name: str, meant: str
) -> None:
    folder = both["main"].parents[2].name
    name = name.format(repo_id=folder.removeprefix("models--").replace("--", "/"))
    path, other = both[meant], both["v1" if meant == "main" else "main"]
    assert [file.path for file in await session.verify(name)] == [path]
    content = path.read_bytes()
    path.resolve().write_bytes(b"rotten")
    with pytest.raises(GGUFError):
        await session.fit(name, exact=False)
    path.resolve().write_bytes(content)
    await session.fit(name, exact=False)
    await session.remove(name)
    assert not path.exists()
    assert other.is_file()


async def test_the_address_of_a_branch_that_the_cache_does_not_have_means_no_other(
    session: Session, both: dict[str, Path]
) -> None:
    folder = both["main"].parents[2].name
    page = f"https://huggingface.co/{folder.removeprefix('models--').replace('--', '/')}"
    await session.remove(f"{page}/blob/main/{NAME}")
    for revision in ("main", "dev"):
        with pytest.raises(RemoteFileNotFoundError, match="not in the cache"):
            await session.remove(f"{page}/blob/{revision}/{NAME}")
    assert both["v1"].is_file()


# --- old names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [OLD, "Owner/NEW-name"])
async def test_a_model_downloaded_by_an_old_name_is_found_by_both_names_offline(
    session: Session, local: LocalHub, cache_dir: Path, asked: str
) -> None:
    model = await session.download(f"{asked}:Q8_0")
    assert model.repo_id == REPO
    local.stop()
    async with Session(endpoint=local.endpoint, cache_dir=cache_dir, token=False, inline=True) as later:
        for name in (asked, REPO):
            assert [file.path for file in await later.verify(f"{name}:Q8_0")] == [model.path]
        assert await later.remove(f"{asked}:Q8_0") == model.size


FETCH = "import sys; from huggingface_hub import hf_hub_download; print(hf_hub_download(sys.argv[1], sys.argv[2]))"


@pytest.fixture
def fetched_by_huggingface_hub(local: LocalHub, cache_dir: Path) -> Path:
    """The file as huggingface_hub leaves it under the old name."""
    environment = {**os.environ, "HF_ENDPOINT": local.endpoint, "HF_HUB_CACHE": str(cache_dir)}
    result = subprocess.run(
        [sys.executable, "-c", FETCH, OLD, NAME], env=environment, check=True, capture_output=True, text=True
    )
    return Path(result.stdout.strip())


@pytest.mark.parametrize("name", [f"{OLD}:Q8_0", f"{OLD}:{NAME}", f"hf.co/{OLD}:Q8_0"])
async def test_what_another_tool_has_under_the_old_name_is_not_fetched_again(
    session: Session, local: LocalHub, fetched_by_huggingface_hub: Path, name: str
) -> None:
    local.requests.clear()
    model = await session.download(name)
    assert (model.path, model.bytes_fetched) == (fetched_by_huggingface_hub, 0)
    assert not [record for record in local.requests.to("cdn") if record.bytes_sent > 2**20]
    again = await session.download(f"{REPO}:Q8_0")
    assert again.path == model.path
    local.stop()
    assert [file.path for file in await session.verify(f"{REPO}:Q8_0")] == [model.path]


# --- files of the user's own -----------------------------------------------------------------------------------------


async def own_projector(session: Session, tmp_path: Path) -> tuple[LocalModel, Path]:
    model = await session.download(f"{REPO}:Q8_0")
    own = model.path.with_name("mmproj-mine-F16.gguf")
    write_projector(own)
    return model, own


@pytest.mark.llama
@pytest.mark.parametrize("kind", ["repository", "repository, offline", "path", "blob", "model"])
async def test_a_projector_put_there_by_hand_is_loaded_however_the_model_is_named(
    session: Session, local: LocalHub, tmp_path: Path, kind: str
) -> None:
    model, own = await own_projector(session, tmp_path)
    if kind == "repository, offline":
        local.stop()
    found = (await session.local_models())[0]
    name = {"path": model.path, "blob": model.path.resolve(), "model": found}.get(kind, f"{REPO}:Q8_0")
    llm = await session.load(name, on_notice=lambda _: None)
    assert llm.chat_handler.clip_model_path == str(own)
    llm.unload()


async def test_it_is_left_out_of_verify_with_a_word_and_stays_when_the_model_is_removed(
    session: Session, tmp_path: Path
) -> None:
    model, own = await own_projector(session, tmp_path)
    notices: list[str] = []
    (file,) = await session.verify(f"{REPO}:Q8_0", on_notice=notices.append)
    assert (file.path, file.is_valid) == (model.path, True)
    assert notices == [f"{own.name} is not verified. It is your own file, which the Hub does not list."]
    with pytest.warns(UserWarning, match="is your own file"):
        await session.verify(f"{REPO}:Q8_0")
    assert await session.remove(f"{REPO}:Q8_0") == model.size
    assert own.is_file()
    assert not model.path.exists()


async def test_a_model_put_there_by_hand_is_verified_and_removed_by_nobody(session: Session) -> None:
    model = await session.download(f"{REPO}:Q8_0")
    own = model.path.with_name("mine-Q4_0.gguf")
    shutil.copyfile(model.path, own)
    with pytest.warns(UserWarning, match=r"mine-Q4_0\.gguf is not verified"):
        assert await session.verify(f"{REPO}:Q4_0") == ()
    with pytest.raises(InvalidRequestError, match="is your own file"):
        await session.remove(f"{REPO}:Q4_0")
    await session.remove(f"{REPO}:Q8_0")
    assert own.is_file()


@pytest.mark.parametrize("kind", ["downloaded without links", "copied"])
async def test_a_downloaded_file_without_a_link_is_verified_and_removed_although_others_have_links(
    session: Session, local: LocalHub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", kind == "downloaded without links")
        model = await session.download(f"{REPO}:Q8_0")
    await session.download(f"{REPO}:F16")
    if kind == "copied":
        blob = model.path.resolve()
        model.path.unlink()
        shutil.move(blob, model.path)
        (records,) = session.settings.cache_dir.parent.glob("state/*/verified")
        shutil.rmtree(records)
        with pytest.raises(InvalidRequestError, match="is your own file"):
            await session.remove(f"{REPO}:Q8_0")
    assert not model.path.is_symlink()
    with model.path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"rots")
    for _ in range(2):
        assert [file.is_valid for file in await session.verify(f"{REPO}:Q8_0")] == [False]
    (file,) = await session.verify(f"{REPO}:Q8_0", repair=True)
    assert file.is_valid
    own = model.path.with_name("mine-Q4_0.gguf")
    shutil.copyfile(model.path, own)
    local.stop()
    await session.remove(f"{REPO}:Q8_0")
    assert not model.path.exists()
    with pytest.raises(InvalidRequestError, match="is your own file"):
        await session.remove(f"{REPO}:Q4_0")
    assert own.is_file()


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(cache_dir: Path, tmp_path: Path) -> Path:
    """The folder that the cache's path is a link to."""
    disk = tmp_path / "disk"
    disk.mkdir()
    cache_dir.symlink_to(disk)
    return disk


async def test_a_path_behind_a_linked_cache_names_the_same_model(
    disk: Path, session: Session, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = await session.download(f"{REPO}:Q8_0")
    behind = disk / model.path.relative_to(cache_dir)
    for path in (model.path, behind, str(behind), behind.relative_to(tmp_path), model.path.resolve()):
        assert [file.path for file in await session.verify(path)] == [model.path]
    assert await session.remove(behind) == model.size


async def test_a_path_that_is_not_in_the_cache_is_told(session: Session, tmp_path: Path) -> None:
    for path in (tmp_path / NAME, "no/such/file.gguf", "\0", str(tmp_path)):
        with pytest.raises(RemoteFileNotFoundError, match="not in the cache"):
            await session.verify(path)


async def test_offline_what_was_never_downloaded_is_not_found(session: Session, local: LocalHub) -> None:
    local.stop()
    with pytest.raises(NetworkError):
        await session.download(f"{OLD}:Q8_0")
    with pytest.raises(RemoteFileNotFoundError, match="not in the cache"):
        await session.verify(f"{OLD}:Q8_0")
