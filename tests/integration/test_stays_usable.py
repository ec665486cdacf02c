"""A model that is complete in the cache stays usable whatever the Hub says, and every verb says why."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modeldeck import (
    GatedError,
    GGUFError,
    IntegrityError,
    LocalModel,
    ModelDeckError,
    NetworkError,
    OfflineError,
    RateLimitedError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    ServerError,
    Session,
    UnauthorizedError,
    llama,
)
from modeldeck.hub.client import ClientLimits, HubClient
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Reply
from tools.localhub.tiny_models import write_chat_model
from tools.processes import without_hub_settings

REPO = "owner/kept-GGUF"
KEPT = "kept-Q8_0.gguf"
OTHER = "kept-F16.gguf"
NOBODY = 65_534
IMPATIENT = ClientLimits(retry_seconds=0.01)
PORTAL = Reply(200, {"content-type": "text/html"}, b"<!doctype html><title>Welcome</title>")

pytestmark = [pytest.mark.anyio, pytest.mark.llama]

Notices = list[str]
Verb = Callable[[Session, Notices], Awaitable[object]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that every user may walk to, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[LocalHub]:
    files = {
        KEPT: write_chat_model(place / KEPT, quantization="Q8_0"),
        OTHER: write_chat_model(place / OTHER, quantization="F16"),
    }
    with LocalHub() as hub:
        hub.add_repo(REPO, files)
        yield hub


@pytest.fixture(scope="module")
async def cache_dir(place: Path, hub: LocalHub, anyio_backend: str) -> Path:
    """A cache with one of the two variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELDECK_STATE_DIR", str(place / "first"))
        cache_dir = place / "cache"
        async with Session(endpoint=hub.endpoint, cache_dir=cache_dir, token=False, inline=True) as session:
            await session.download(f"{REPO}:Q8_0")
    return cache_dir


@pytest.fixture
async def session(
    hub: LocalHub, cache_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Session]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(place / "state"))
    monkeypatch.setattr(llama, "load", lambda path, **_: Path(path))
    async with Session(endpoint=hub.endpoint, cache_dir=cache_dir, token=False, inline=True) as session:
        session._hub = HubClient(session.settings, limits=IMPATIENT)
        yield session
    hub.faults.clear()


# --- the verbs --------------------------------------------------------------------------------------------------------


async def load(session: Session, notices: Notices) -> object:
    return await session.load(f"{REPO}:Q8_0", on_notice=notices.append)


async def download(session: Session, notices: Notices) -> object:
    return (await session.download(f"{REPO}:Q8_0", on_notice=notices.append)).path


async def download_file(session: Session, notices: Notices) -> object:
    return (await session.download(REPO, filename=KEPT, on_notice=notices.append)).path


async def download_any(session: Session, notices: Notices) -> object:
    return (await session.download(REPO, on_notice=notices.append)).path


async def describe(session: Session, notices: Notices) -> object:
    details = await session.describe(REPO, exact=False, on_notice=notices.append)
    assert notices == [details.notice]
    assert details.is_from_cache
    assert [variant.label for variant in details.variants] == ["Q8_0"]
    fit = details.fits[KEPT]
    assert (fit.verdict, fit.method) == ("fits", "formula")
    assert details.recommended == KEPT
    assert "from the cache" in str(details)
    return session.settings.cache_dir / f"models--owner--kept-GGUF/snapshots/{details.commit_hash}/{KEPT}"


async def verify(session: Session, notices: Notices) -> object:
    (file,) = await session.verify(f"{REPO}:Q8_0", on_notice=notices.append)
    assert file.is_valid
    return file.path


VERBS: list[Verb] = [load, download, download_file, download_any, describe, verify]


# --- the answers ------------------------------------------------------------------------------------------------------


ANSWERS: dict[str, tuple[Reply | None, type[ModelDeckError]]] = {
    "expired token": (
        Reply(401, {"x-error-message": "Invalid credentials in Authorization header"}),
        UnauthorizedError,
    ),
    "private meanwhile": (Reply(401), RepoNotFoundError),
    "gated meanwhile": (Reply(403, {"x-error-code": "GatedRepo"}), GatedError),
    "deleted": (Reply(404, {"x-error-code": "RepoNotFound"}), RepoNotFoundError),
    "rate limit": (Reply(429, {"retry-after": "300"}), RateLimitedError),
    "server error": (Reply(500), ServerError),
    "overloaded": (Reply(503), ServerError),
    "captive portal": (PORTAL, ServerError),
    "unusable token": (None, UnauthorizedError),
    "no connection": (None, NetworkError),
    "offline mode": (None, OfflineError),
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_every_verb_uses_the_cache_and_says_why(
    session: Session, hub: LocalHub, cache_dir: Path, answer: str, verb: Verb
) -> None:
    reply, kind = ANSWERS[answer]
    if reply is not None:
        hub.faults.add(reply)
    changes: dict[str, dict[str, Any]] = {
        "unusable token": {"token": "hf token"},
        "no connection": {"endpoint": "http://127.0.0.1:9"},
        "offline mode": {"is_offline": True},
    }
    session.settings = replace(session.settings, **changes.get(answer, {}))
    session._hub = HubClient(session.settings, limits=IMPATIENT)
    hub.requests.clear()
    notices: Notices = []
    (model,) = await session.local_models()
    assert await verb(session, notices) == model.path
    with pytest.raises(kind) as refusal:
        await session.download(f"{REPO}:F16")
    if verb is not verify:  # what the blob's name tells needs no Hub
        assert notices == [f"{REPO} is taken from the cache; the Hub was not followed. {refusal.value.message}"]
    if answer == "offline mode":
        assert not len(hub.requests)


@pytest.mark.parametrize(("command", "target", "shown"), [("download", f"{REPO}:Q8_0", KEPT), ("show", REPO, "Q8_0")])
def test_the_command_says_it_too(
    hub: LocalHub, cache_dir: Path, place: Path, command: str, target: str, shown: str
) -> None:
    hub.faults.add(Reply(403, {"x-error-code": "GatedRepo"}))
    environment = {
        **without_hub_settings(os.environ),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache_dir),
        "MODELDECK_STATE_DIR": str(place / "state"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "modeldeck", command, target, "--inline"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    hub.faults.clear()
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    assert f"{REPO} is taken from the cache; the Hub was not followed. {REPO} is gated." in result.stderr


# --- what has changed upstream ----------------------------------------------------------------------------------------


@pytest.fixture
async def own_copy(session: Session, tmp_path: Path) -> Session:
    """The session over a copy of the cache, for tests that change it."""
    copy = tmp_path / "cache"
    shutil.copytree(session.settings.cache_dir, copy, symlinks=True)
    session.settings = replace(session.settings, cache_dir=copy)
    return session


@pytest.mark.parametrize("verb", [load, download, download_file, verify], ids=lambda verb: verb.__name__)
async def test_a_variant_that_was_removed_upstream_stays(own_copy: Session, hub: LocalHub, verb: Verb) -> None:
    (model,) = await own_copy.local_models()
    content = (own_copy.settings.cache_dir / model.path).read_bytes()
    hub.update_file(REPO, KEPT, None)
    try:
        notices: Notices = []
        assert await verb(own_copy, notices) == model.path
        if verb is not verify:
            asked = KEPT if verb is download_file else "Q8_0"
            assert notices == [
                f"{REPO} is taken from the cache; the Hub was not followed. "
                f"On the Hub: There is no {asked!r}. Choose one of: F16."
            ]
        with pytest.raises(RemoteFileNotFoundError, match="There is no 'Q2_K'"):
            await own_copy.download(f"{REPO}:Q2_K")
        details = await own_copy.describe(REPO, exact=False, on_notice=notices.append)
        assert [variant.label for variant in details.variants] == ["F16"]
        assert notices[-1] == details.notice == "The cache also has Q8_0, which the Hub no longer lists at 'main'."
    finally:
        hub.update_file(REPO, KEPT, content)


@pytest.fixture
def read_only(own_copy: Session, place: Path, tmp_path: Path) -> Iterator[Session]:
    """The session of a user who may not write the cache."""
    open_copy = place / "read-only"
    shutil.move(own_copy.settings.cache_dir, open_copy)
    own_copy.settings = replace(own_copy.settings, cache_dir=open_copy)
    before = os.getresuid()
    if 0 in before:
        os.setresuid(NOBODY, NOBODY, 0)
    else:
        for folder in (open_copy, *(path for path in open_copy.rglob("*") if path.is_dir())):
            folder.chmod(0o555)
    yield own_copy
    os.setresuid(*before)
    for folder in (path for path in (open_copy, *open_copy.rglob("*")) if path.is_dir()):
        folder.chmod(0o755)
    shutil.rmtree(open_copy)


@pytest.mark.parametrize("verb", [load, download, download_file, verify], ids=lambda verb: verb.__name__)
async def test_a_read_only_cache_serves_the_same_files_at_another_commit(
    read_only: Session, hub: LocalHub, verb: Verb
) -> None:
    (model,) = await read_only.local_models()
    hub.update_file(REPO, "README.md", verb.__name__.encode())
    notices: Notices = []
    assert await verb(read_only, notices) == model.path
    if verb is not verify:
        assert notices == [
            f"The cache cannot be written, so {REPO} is used at commit {model.commit_hash[:8]}. "
            "The files of Q8_0 are the same at 'main'."
        ]


# --- damage -----------------------------------------------------------------------------------------------------------


def damage(model: LocalModel, position: int) -> None:
    content = bytearray(model.path.read_bytes())
    content[position] ^= 0xFF
    model.path.resolve().write_bytes(content)


@pytest.mark.parametrize("verb", [load, download, download_any], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("is_offline", [True, False])
async def test_damage_is_not_hidden(own_copy: Session, hub: LocalHub, verb: Verb, is_offline: bool) -> None:
    (model,) = await own_copy.local_models()
    damage(model, -1)
    own_copy.settings = replace(own_copy.settings, is_offline=is_offline)
    own_copy._hub = HubClient(own_copy.settings, limits=IMPATIENT)
    hub.faults.add(Reply(404, {"x-error-code": "RepoNotFound"}))
    hub.requests.clear()
    with pytest.raises(IntegrityError, match=r"is damaged, and cannot be repaired now.*modeldeck verify --repair"):
        await verb(own_copy, [])
    assert len(hub.requests) == 0 or not is_offline
    (file,) = await own_copy.verify(model)
    assert file.is_valid is False


async def test_a_damaged_header_is_told_by_describe_and_download(own_copy: Session, hub: LocalHub) -> None:
    (model,) = await own_copy.local_models()
    damage(model, 0)
    hub.faults.add(Reply(503))
    details = await own_copy.describe(REPO, on_notice=lambda _: None)
    fit = details.fits[KEPT]
    assert fit.verdict == "unusable"
    assert f"{KEPT} in the cache cannot be used." in (fit.reason or "")
    with pytest.raises(GGUFError, match="in the cache cannot be used"):
        await own_copy.request_for(details, details.variants[0])
    for name in (model, model.path, f"{REPO}:Q8_0"):
        with pytest.raises(GGUFError, match=f"modeldeck verify {REPO}:Q8_0 --repair` mends it"):
            await own_copy.fit(name)
    damage(model, 0)
    details = await own_copy.describe(REPO, exact=False, on_notice=lambda _: None)
    assert details.fits[KEPT].verdict == "fits", "the header is read again"


async def test_a_truncated_file_is_told_from_a_missing_one(own_copy: Session, hub: LocalHub) -> None:
    (model,) = await own_copy.local_models()
    request = await own_copy.request(f"{REPO}:Q8_0", revision=model.commit_hash)
    os.truncate(model.path, 1000)
    hub.faults.add(Reply(404, {"x-error-code": "RepoNotFound"}))
    with pytest.raises(IntegrityError, match="is damaged, and cannot be repaired now"):
        await (await own_copy.start(request)).result()


async def test_without_links_verify_says_that_there_is_no_digest(own_copy: Session, hub: LocalHub) -> None:
    (model,) = await own_copy.local_models()
    blob = model.path.resolve()
    model.path.unlink()
    blob.rename(model.path)
    (file,) = await own_copy.verify(f"{REPO}:Q8_0")
    assert file.is_valid, "the Hub tells it"
    hub.faults.add(Reply(403, {"x-error-code": "GatedRepo"}))
    notices: Notices = []
    (file,) = await own_copy.verify(f"{REPO}:Q8_0", on_notice=notices.append)
    assert file.is_valid is None
    (notice,) = notices
    assert notice.startswith(f"{KEPT} was read, but there is no digest to compare it with. {REPO} is gated.")
