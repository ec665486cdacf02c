"""Old names of repositories, remembered across sessions."""

from pathlib import Path

import pytest

from modeldeck.renames import RenameStore


@pytest.mark.parametrize(
    ("remembered", "asked", "names"),
    [
        ([], "o/n", ("o/n",)),
        ([("o/n", "O/N")], "o/n", ("o/n",)),
        ([("o/old", "o/new")], "o/old", ("o/old", "o/new")),
        ([("o/old", "o/new")], "O/OLD", ("O/OLD", "o/new")),
        ([("o/old", "o/new")], "o/new", ("o/new", "o/old")),
        ([("o/old", "o/new")], "o/other", ("o/other",)),
        ([("o/a", "o/b"), ("o/b", "o/c")], "o/a", ("o/a", "o/b", "o/c")),
        ([("o/a", "o/b"), ("o/b", "o/c")], "o/c", ("o/c", "o/b", "o/a")),
        ([("o/a", "o/b"), ("o/a", "o/c")], "o/a", ("o/a", "o/c")),
        ([("o/a", "o/b"), ("o/a", "o/a")], "o/b", ("o/b",)),
        ([("o/a", "o/b"), ("O/A", "o/c")], "o/b", ("o/b",)),
    ],
    ids=str,
)
def test_names_are_found_in_a_later_session(
    tmp_path: Path, remembered: list[tuple[str, str]], asked: str, names: tuple[str, ...]
) -> None:
    store = RenameStore(tmp_path / "state")
    for old, new in remembered:
        store.remember(old, new)
    assert store.names_of(asked) == RenameStore(tmp_path / "state").names_of(asked) == names


def test_two_sessions_keep_what_each_other_wrote(tmp_path: Path) -> None:
    first, second = RenameStore(tmp_path), RenameStore(tmp_path)
    first.remember("o/a", "o/b")
    second.remember("o/c", "o/d")
    assert RenameStore(tmp_path).names_of("o/b") == ("o/b", "o/a")
    assert RenameStore(tmp_path).names_of("o/d") == ("o/d", "o/c")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"o/a": 1}', b"\xff"])
def test_a_damaged_file_is_no_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "renamed-repositories.json").write_bytes(content)
    store = RenameStore(tmp_path)
    assert store.names_of("o/a") == ("o/a",)
    store.remember("o/a", "o/b")
    assert RenameStore(tmp_path).names_of("o/a") == ("o/a", "o/b")


def test_without_a_place_names_are_remembered_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (None, tmp_path / "file"):
        store = RenameStore(directory)
        store.remember("o/a", "o/b")
        assert store.names_of("o/b") == ("o/b", "o/a")


def test_the_oldest_names_are_forgotten(tmp_path: Path) -> None:
    store = RenameStore(tmp_path)
    for number in range(1001):
        store.remember(f"o/{number}", f"n/{number}")
    later = RenameStore(tmp_path)
    assert later.names_of("o/0") == ("o/0",)
    assert later.names_of("o/1") == ("o/1", "n/1")
