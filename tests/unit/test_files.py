import os
import stat
from pathlib import Path

import pytest

from modeldeck._files import replace_file


def test_a_file_is_created_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    replace_file(path, b"a long first version")
    with path.open("rb") as reader:
        replace_file(path, b"second")
        assert reader.read() == b"a long first version"
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["kept.json"]


@pytest.mark.parametrize("is_durable", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_the_one_that_was_asked_for(tmp_path: Path, mode: int, is_durable: bool) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"old")
    path.chmod(0o666)
    replace_file(path, b"new", mode=mode, is_durable=is_durable)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_draft_may_lie_in_another_directory(tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    replace_file(tmp_path / "kept.json", b"content", draft=tmp_path / "drafts" / "draft")
    assert (tmp_path / "kept.json").read_bytes() == b"content"
    assert os.listdir(tmp_path / "drafts") == []


def test_a_failure_keeps_the_old_content_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(OSError, match=r"kept\.json"):
        replace_file(path, b"content")
    assert os.listdir(tmp_path) == ["kept.json"]
    assert os.listdir(path) == ["old"]


def test_somebody_elses_draft_is_not_overwritten(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "kept.json", b"content", draft=draft)
    assert draft.read_bytes() == b"theirs"
