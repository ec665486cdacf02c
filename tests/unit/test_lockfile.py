"""The lock file: what is written is read again, the same models give the same bytes, and what is wrong is told."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeldeck._errors import AmbiguousVariantError, LockError
from modeldeck._types import GGUFFile, LockedModel
from modeldeck._version import __version__
from modeldeck.lockfile import LockFile, installed_versions, lock_entry, read_lock_file, write_lock_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "a" * 64


def file(name: str = "model-Q4_K_M.gguf") -> GGUFFile:
    return GGUFFile(filename=name, size=1000, sha256=SHA256)


MODEL = LockedModel(repo_id="owner/name", commit_hash=COMMIT, label="Q4_K_M", n_ctx=4096, files=(file(),))
OTHER = replace(MODEL, label="Q8_0", files=(file("model-Q8_0.gguf"), file("mmproj-F16.gguf")))
FOREIGN = replace(MODEL, repo_id="someone/name")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "modeldeck.lock"


def test_what_is_written_is_read_and_the_order_does_not_matter(path: Path) -> None:
    write_lock_file(path, LockFile().with_models([OTHER, MODEL]))
    first = path.read_bytes()
    assert read_lock_file(path) == LockFile(models=(MODEL, OTHER), versions=installed_versions())
    write_lock_file(path, LockFile().with_models([MODEL]).with_models([OTHER]))
    assert path.read_bytes() == first
    content = tomllib.loads(first.decode())
    assert content["version"] == 1
    assert content["versions"]["modeldeck"] == __version__
    assert [entry["label"] for entry in content["model"]] == ["Q4_K_M", "Q8_0"]


def test_a_variant_is_locked_once(path: Path) -> None:
    newer = replace(MODEL, commit_hash="f" * 40)
    assert LockFile(models=(MODEL, OTHER)).with_models([newer]).models == (newer, OTHER)


def test_an_entry_can_be_appended_as_text(path: Path) -> None:
    write_lock_file(path, LockFile().with_models([MODEL]))
    with path.open("a", encoding="utf-8") as lock:
        lock.write("\n" + lock_entry(OTHER))
    assert read_lock_file(path).models == (MODEL, OTHER)


@pytest.mark.parametrize(
    "name", ["owner/name:Q8_0", "OWNER/Name:q8_0", "owner/name:model-Q8_0.gguf", " owner/name:Q8_0\n"]
)
def test_a_name_finds_its_model(name: str) -> None:
    assert LockFile(models=(MODEL, OTHER, FOREIGN)).find(name) == OTHER


def test_a_short_name_is_enough_where_it_is_the_only_one() -> None:
    assert LockFile(models=(MODEL,)).find("name") == MODEL
    assert LockFile(models=(MODEL, FOREIGN)).find("someone/name") == FOREIGN
    with pytest.raises(AmbiguousVariantError, match=r"2 models 'name'.*owner/name:model-Q4_K_M.gguf"):
        LockFile(models=(MODEL, FOREIGN)).find("name")
    with pytest.raises(LockError, match=r"no model 'other'. It has: owner/name:Q4_K_M."):
        LockFile(models=(MODEL,)).find("other")
    with pytest.raises(LockError, match=r"It has: none."):
        LockFile().find("other")


def test_other_versions_are_told() -> None:
    here = installed_versions()
    assert LockFile(versions=here).changed_versions() is None
    changed = LockFile(versions={**here, "modeldeck": "9.9"}).changed_versions()
    assert changed == f"The models were locked with modeldeck 9.9 ({__version__} here). Results may differ."


ENTRY = f"""
[[model]]
repo = "owner/name"
commit = "{COMMIT}"
label = "Q4_K_M"
n_ctx = 4096
files = [{{ name = "model-Q4_K_M.gguf", size = 1000, sha256 = "{SHA256}" }}]
"""
GOOD = f"version = 1\n[versions]\n{ENTRY}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", r"has version 2, and this modeldeck .* knows version 1. Update modeldeck"),
        ("version = 1", "", "missing required field `version`: put `version = 1` at its top"),
        ("version = 1", "version = '1'", r"Expected `int`, got `str` - at `\$.version`"),
        ("version = 1", "version = true", "Expected `int`"),
        ("version = 1", "version 1", "Expected '='"),
        (COMMIT, "main", "'main', which is not a full commit hash"),
        (SHA256, "abc", "'abc', which is not a SHA-256"),
        ("size = 1000", "size = -1", "the size -1"),
        ("size = 1000", "size = 'big'", "Expected `int`, got `str`"),
        ("n_ctx = 4096", "n_ctx = 0", "n_ctx must be a whole number"),
        ("n_ctx = 4096", "", "missing required field `n_ctx`"),
        ("owner/name", "owner/name/more", "owner/name/more"),
        ("owner/name", "../name", r"'../name' is not a repository id"),
        ("model-Q4_K_M.gguf", "../../../escape.gguf", "escape.gguf"),
        ("model-Q4_K_M.gguf", "/etc/passwd", "/etc/passwd"),
        ("label", "lable", "unknown field `lable`"),
        ("files = [{", "files = [] # [{", "has no files"),
        ("[[model]]", "[model]", "Expected `array`"),
        ("version = 1", f"version = 1\n{ENTRY}", "'owner/name:model-Q4_K_M.gguf' is in it twice"),
    ],
)
def test_what_is_wrong_is_told(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(GOOD)
    assert read_lock_file(path).models == (MODEL,)
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(LockError, match=message) as caught:
        read_lock_file(path)
    assert "modeldeck lock" in caught.value.message


def test_the_mark_of_an_editor_and_its_line_ends_change_nothing(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_lock_file(path).models == (MODEL,)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0", b"[" * 5000, b"<<<<<<< HEAD\n"])
def test_what_is_not_toml_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LockError, match="is not right"):
        read_lock_file(path)


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "modeldeck.lock")
        path.write_bytes(content)
        with pytest.raises(LockError):
            read_lock_file(path)


def test_a_lock_file_that_is_not_there_or_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"There is no lock file .*modeldeck lock OWNER/NAME:LABEL"):
        read_lock_file(tmp_path / "modeldeck.lock")
    with pytest.raises(LockError, match="cannot be read"):
        read_lock_file(tmp_path)
    with pytest.raises(LockError, match="cannot be written"):
        write_lock_file(tmp_path / "no" / "folder", LockFile())


def test_a_file_without_a_digest_is_not_locked(path: Path) -> None:
    unknown = replace(MODEL, files=(GGUFFile(filename="model-Q4_K_M.gguf", size=1000),))
    with pytest.raises(LockError, match=r"tells its SHA-256"):
        write_lock_file(path, LockFile(models=(unknown,)))
    with pytest.raises(LockError, match=r"tells its SHA-256"):
        lock_entry(unknown)
    assert not path.exists()
