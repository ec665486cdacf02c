"""The files of the page that Python writes are up to date."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeldeck import ModelBrowser
from modeldeck.widget.traits import DeckState
from tools import scenes, wire


@pytest.mark.parametrize(
    ("path", "text", "command"),
    [
        (wire.PATH, wire.wire_text, "python -m tools.wire"),
        (scenes.PATH, scenes.scenes_text, "python -m tools.scenes"),
    ],
    ids=["types", "scenes"],
)
def test_what_python_writes_for_the_page_is_up_to_date(path: Path, text: Callable[[], str], command: str) -> None:
    assert path.read_text(encoding="utf-8") == text(), f"{path.name} is out of date: run `{command}`"


def test_each_part_of_the_state_is_a_trait_that_the_page_gets() -> None:
    synced = ModelBrowser.class_trait_names(sync=True)
    assert [name for name in DeckState.__struct_fields__ if f"_{name}" not in synced] == []
