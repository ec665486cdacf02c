"""What the local hub's API says of its repositories."""

import hashlib
import re
from pathlib import Path

import pytest

from tools.localhub import documents
from tools.localhub.catalogue import Blob, Catalogue, Commit, Repo, front_matter, git_oid, pointer_text, scan_folder
from tools.localhub.documents import ListQuery

FILES = {
    "README.md": b"# hi",
    "tiny-Q4_0.gguf": b"q4",
    "BF16/deep/tiny-00001-of-00002.gguf": b"one",
    "BF16/deep/tiny-00002-of-00002.gguf": b"two",
}


def make_repo(repo_id: str = "owner/tiny", files: dict[str, bytes] | None = None, **fields: object) -> Repo:
    contents = FILES if files is None else files
    commit = Commit({path: Blob.of(path, data) for path, data in contents.items()})
    sha = commit.commit_hash
    return Repo(repo_id=repo_id, commits={sha: commit}, refs={"main": sha}, **fields)  # type: ignore[arg-type]


def test_pointer_of_a_real_file_of_the_hub() -> None:
    """ggerganov/whisper.cpp, ggml-base-q5_1.bin: its oid is the sha1 of its LFS pointer."""
    pointer = pointer_text("422f1ae452ade6f30a004d7e5c6a43195e4433bc370bf23fac9cc591f01a8898", 59707625)
    assert git_oid(pointer) == "4947e22c7365d941a9864b2d0f9f474a505cf39b"
    assert len(pointer) == 133


@pytest.mark.parametrize("as_file", [False, True])
def test_blob_digests(tmp_path: Path, as_file: bool) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"hello\n")
    source = path if as_file else b"hello\n"
    text, model = Blob.of("notes.txt", source), Blob.of("model.gguf", source)
    assert text.oid == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert not text.is_lfs
    assert model.is_lfs
    assert model.sha256 == hashlib.sha256(b"hello\n").hexdigest()
    assert model.oid == git_oid(pointer_text(model.sha256, 6))
    assert re.fullmatch("[0-9a-f]{64}", model.xet_hash)
    assert model.xet_hash != model.sha256


def test_a_known_digest_spares_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"data")
    assert Blob.of("model.gguf", path, "ab" * 32).sha256 == "ab" * 32


def test_commit_hash_depends_on_names_and_contents_only() -> None:
    one = Commit({"a": Blob.of("a", b"1"), "b": Blob.of("b", b"2")})
    same = Commit({"b": Blob.of("b", b"2"), "a": Blob.of("a", b"1")})
    other = Commit({"a": Blob.of("a", b"2"), "b": Blob.of("b", b"1")})
    assert re.fullmatch("[0-9a-f]{40}", one.commit_hash)
    assert one.commit_hash == same.commit_hash != other.commit_hash


def test_a_new_commit_keeps_the_old_one() -> None:
    catalogue = Catalogue()
    repo = make_repo()
    old = repo.refs["main"]
    catalogue.put(repo)
    new = catalogue.commit("owner/tiny", {"tiny-Q4_0.gguf": Blob.of("x.gguf", b"changed"), "README.md": None})
    changed = catalogue.get("owner/tiny")
    assert changed is not None
    assert changed.refs["main"] == new != old
    assert changed.commits[old].files["tiny-Q4_0.gguf"].body.read() == b"q4"
    assert changed.commits[new].files["tiny-Q4_0.gguf"].body.read() == b"changed"
    assert "README.md" not in changed.commits[new].files
    assert changed.resolve("main") == changed.resolve(new)
    assert changed.resolve("nowhere") is None


def test_tree() -> None:
    commit = make_repo().head
    flat = documents.tree(commit)
    assert flat is not None
    assert [(entry["type"], entry["path"], entry["size"]) for entry in flat] == [
        ("directory", "BF16", 0),
        ("file", "README.md", 4),
        ("file", "tiny-Q4_0.gguf", 2),
    ]
    below = documents.tree(commit, "BF16", recursive=True)
    assert below is not None
    assert [entry["path"] for entry in below] == [
        "BF16/deep",
        "BF16/deep/tiny-00001-of-00002.gguf",
        "BF16/deep/tiny-00002-of-00002.gguf",
    ]
    assert documents.tree(commit, "BF1") is None
    assert "lfs" not in flat[1]
    assert flat[2]["lfs"]["oid"] == hashlib.sha256(b"q4").hexdigest()


def test_documents() -> None:
    repo = make_repo(license="mit", gguf={"total": 5, "chat_template": "x"}, likes=3, gated="auto")
    sha = repo.refs["main"]
    info = documents.document(repo, sha, with_blobs=True)
    assert info["sha"] == sha
    assert info["gated"] == "auto"
    assert info["tags"] == ["gguf", "conversational", "license:mit", "region:us"]
    assert "pipeline_tag" not in info
    blobs = {sibling["rfilename"]: sibling for sibling in info["siblings"]}
    assert blobs["tiny-Q4_0.gguf"]["lfs"] == {
        "sha256": hashlib.sha256(b"q4").hexdigest(),
        "size": 2,
        "pointerSize": 126,
    }
    assert blobs["README.md"] == {"rfilename": "README.md", "blobId": git_oid(b"# hi"), "size": 4}
    only = documents.document(repo, sha, fields=("gguf", "safetensors"))
    assert only.keys() == {"_id", "id", "gguf"}
    row = documents.document(repo, sha, fields=documents.list_fields(is_full=False))
    assert not {"author", "gated", "sha", "siblings"} & row.keys()
    full = documents.document(repo, sha, fields=documents.list_fields(is_full=True))
    assert full["siblings"][0] == {"rfilename": "BF16/deep/tiny-00001-of-00002.gguf"}


def test_select() -> None:
    repos = [
        make_repo("alice/Llama-GGUF", likes=1, downloads=30, last_modified="2026-03-01T00:00:00.000Z"),
        make_repo("bob/llama-gguf", likes=2, downloads=30, tags=("text-generation",), gated="manual"),
        make_repo("alice/other", files={"a.txt": b""}, likes=9, downloads=1),
    ]

    def ids(**query: object) -> list[str]:
        return [repo.repo_id for repo in documents.select(repos, ListQuery(**query))]  # type: ignore[arg-type]

    assert ids() == ["alice/other", "bob/llama-gguf", "alice/Llama-GGUF"]
    assert ids(search="LLAMA", sort="downloads") == ["alice/Llama-GGUF", "bob/llama-gguf"]
    assert ids(filters=("gguf", "text-generation")) == ["bob/llama-gguf"]
    assert ids(author="Alice", sort="lastModified") == ["alice/Llama-GGUF", "alice/other"]
    assert ids(sort="likes", is_ascending=True)[0] == "alice/Llama-GGUF"
    assert ids(gated=True) == ["bob/llama-gguf"]


def test_front_matter() -> None:
    def read(text: str) -> dict[str, str]:
        return front_matter({"README.md": Blob.of("README.md", text.encode())})

    assert read("---\nlicense: mit\ntags:\n- a\npipeline_tag: x\n---\nsize: 3\n") == {
        "license": "mit",
        "pipeline_tag": "x",
    }
    assert read("# Title\nlicense: mit\n") == {}
    assert read("") == {}
    assert front_matter({}) == {}


def test_scan_folder(tmp_path: Path) -> None:
    for path in ("a/m/x.gguf", "a/m/sub/y.gguf", "a/m/.cache/z.gguf", "a/loose.gguf", ".hidden/m/x.gguf", "b/n/t.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = scan_folder(tmp_path)
    assert {repo_id: set(files) for repo_id, files in found.items()} == {
        "a/m": {"x.gguf", "sub/y.gguf"},
        "b/n": {"t.md"},
    }
