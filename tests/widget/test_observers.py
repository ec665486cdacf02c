"""Functions of the user that observe the widget, outside a kernel: they are called on the widget's own thread."""

import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import traitlets
from huggingface_hub import hf_hub_download

from modeldeck import ModelBrowser
from tests.waiting import PATIENCE_SECONDS
from tests.widget.pages import TINY
from tools.localhub import LocalHub

pytestmark = pytest.mark.llama

FILE = "tiny-chat-F16.gguf"


@pytest.mark.parametrize("names", ["loaded", "llm", "_load", traitlets.All])
def test_an_observer_that_raises_takes_nothing_with_it(
    demo_hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: Any,
) -> None:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    cache = tmp_path / "cache"
    hf_hub_download(TINY, FILE, endpoint=demo_hub.endpoint, cache_dir=cache, token=False)
    browser = ModelBrowser(endpoint=demo_hub.endpoint, token=False, cache_dir=cache, inline=True)
    states: list[str] = []
    has_changed = threading.Condition()

    def fail(change: traitlets.Bunch) -> None:
        raise ZeroDivisionError("the user's mistake")

    def see(change: traitlets.Bunch) -> None:
        with has_changed:
            states.append(change.new["state"])
            has_changed.notify_all()

    def press(action: str, state: str) -> None:
        params = {"repo_id": TINY, "variant_id": FILE, "action": action}
        content = {"kind": "modeldeck-request", "id": uuid.uuid4().hex, "method": "act_on_variant", "params": params}
        browser._bridge.post(content)
        with has_changed:
            assert has_changed.wait_for(lambda: states[-1:] in ([state], ["failed"]), PATIENCE_SECONDS)
        assert states[-1] == state

    try:
        browser.observe(see, "_load")
        browser.observe(fail, names)
        press("load", "ready")
        assert browser.llm is not None
        assert browser.loaded is not None
        assert browser.loaded["repo_id"] == TINY
        press("unload", "none")
        assert browser.llm is None
        assert browser.loaded is None
        assert browser.error is None
        assert "the user's mistake" in caplog.text
    finally:
        browser.unobserve(fail, names)
        browser.close()
