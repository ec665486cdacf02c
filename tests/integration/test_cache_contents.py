"""What the cache holds: which of its files are leftovers, and that only those are deleted."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from modeldeck import Session
from modeldeck.cache_contents import read_contents, remove_leftovers
from tools.localhub import LocalHub

COMMIT = "a" * 40
REPO = "models--o--n"


def lay_out(cache_dir: Path, filenames: Iterable[str]) -> None:
    """Lay out a snapshot with these files, each with its own bytes, as it is a day after a download."""
    for filename in filenames:
        content = f"GGUF {filename}".encode()
        blob = cache_dir / REPO / "blobs" / hashlib.sha256(content).hexdigest()
        link = cache_dir / REPO / "snapshots" / COMMIT / filename
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    age(cache_dir)


def age(cache_dir: Path) -> None:
    """Make every blob so old that no program can be writing it."""
    for blob in cache_dir.glob("models--*/blobs/*"):
        os.utime(blob, (0, 0))


@pytest.mark.parametrize(
    ("filenames", "fragments"),
    [
        (["m-Q8_0.gguf"], []),
        (["m-Q8_0.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"], []),
        (["mmproj-F16.gguf"], []),
        (["m-Q8_0.gguf", "drafter-Q8_0.gguf", "m-Q8_0.draft.gguf"], []),
        (["m-Q8_0.gguf", "m.imatrix.gguf", "imatrix.gguf"], []),
        (["imatrix.gguf"], []),
        (["m-Q8_0.gguf", "my-lora.gguf", "tokenizer-m.gguf"], []),
        (["m-Q8_0.gguf", "m-Q8_0-be.gguf"], []),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], []),
        (["m-00001-of-00002.gguf"], ["m-00001-of-00002.gguf"]),
        (
            ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf", "mmproj-F16.gguf"],
            ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf"],
        ),
        (["snapshots/m-00001-of-00002.gguf", "m-Q8_0.gguf"], ["snapshots/m-00001-of-00002.gguf"]),
    ],
    ids=str,
)
def test_only_parts_of_split_models_whose_other_parts_are_missing_are_fragments(
    tmp_path: Path, filenames: list[str], fragments: list[str]
) -> None:
    lay_out(tmp_path, filenames)
    leftovers = read_contents(tmp_path, verifications=None).leftovers
    assert [(left.kind, left.name, left.is_in_use) for left in leftovers] == [
        ("fragment", name, False) for name in fragments
    ]
    assert remove_leftovers(tmp_path, leftovers) == sum(len(f"GGUF {name}") for name in fragments)
    snapshot = tmp_path / REPO / "snapshots" / COMMIT
    left = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")}
    assert left == set(filenames) - set(fragments)


def test_a_part_that_the_user_put_there_is_not_a_leftover(tmp_path: Path) -> None:
    lay_out(tmp_path, ["m-Q8_0.gguf"])
    (tmp_path / REPO / "snapshots" / COMMIT / "own-00001-of-00002.gguf").write_bytes(b"GGUF")
    assert read_contents(tmp_path, verifications=None).leftovers == ()


def test_what_a_download_wants_by_now_stays(tmp_path: Path) -> None:
    lay_out(tmp_path, ["m-00001-of-00002.gguf"])
    contents = read_contents(tmp_path, verifications=None)
    (blob,) = (tmp_path / REPO / "blobs").iterdir()
    assert remove_leftovers(tmp_path, contents.leftovers, wanted={blob.name}) == 0
    assert blob.exists()
    assert remove_leftovers(tmp_path, contents.leftovers) > 0
    assert remove_leftovers(tmp_path, contents.leftovers) == 0


@pytest.fixture
async def session(
    demo_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Session]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    async with Session(endpoint=demo_hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
        yield session


@pytest.mark.anyio
async def test_leftovers_that_another_program_has_come_to_use_stay(session: Session, demo_hub: LocalHub) -> None:
    cache_dir = session.settings.cache_dir
    demo_hub.add_repo("owner/one", {"m-Q8_0.gguf": b"GGUF one"})
    parts = {f"m-0000{number}-of-00002.gguf": b"GGUF %d" % number for number in (1, 2)}
    demo_hub.add_repo("owner/split", parts)

    def fetch(repo_id: str, filename: str) -> Path:
        return Path(hf_hub_download(repo_id, filename, endpoint=demo_hub.endpoint, cache_dir=cache_dir, token=False))

    first, second = parts
    fetch("owner/one", "m-Q8_0.gguf").unlink()
    fetch("owner/split", first)
    age(cache_dir)
    leftovers = (await session.contents()).leftovers
    assert [(left.kind, left.is_in_use) for left in leftovers] == [("unlinked", False), ("fragment", False)]
    fetch("owner/one", "m-Q8_0.gguf")
    fetch("owner/split", second)
    age(cache_dir)
    assert await session.remove_leftovers(leftovers) == 0
    assert [model.name for model in await session.local_models()] == ["owner/one:Q8_0", "owner/split:m"]
    assert [model.path.read_bytes() for model in await session.local_models()] == [b"GGUF one", b"GGUF 1"]
