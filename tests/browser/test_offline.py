"""The deck in offline mode, in a real notebook: it shows and loads what the cache has."""

from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from playwright.sync_api import expect

from tests.browser.deck import Deck
from tests.browser.harness import Notebooks
from tools.localhub import LocalHub

TINY = "modeldeck-demo/tiny-chat-GGUF"
NAME = f"Q8_0 of {TINY}"
CELLS = (
    "import modeldeck\nbrowser = modeldeck.ModelBrowser()\nbrowser",
    "print(browser.llm.create_completion('Hello', max_tokens=2)['usage']['completion_tokens'])",
)


@pytest.fixture
def kernel_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": demo_hub.endpoint,
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HUB_OFFLINE": "1",
    }


def test_offline_mode_is_told_once_and_what_another_program_fetched_loads(
    notebooks: Notebooks, demo_hub: LocalHub, tmp_path: Path
) -> None:
    demo_hub.faults.clear()
    hf_hub_download(
        TINY, "tiny-chat-Q8_0.gguf", endpoint=demo_hub.endpoint, cache_dir=tmp_path / "hub-cache", token=False
    )
    asked = len(demo_hub.requests)
    notebook = notebooks.open(CELLS)
    notebook.run(0)
    deck = Deck(notebook, 0)
    notice = deck.root.get_by_role("alert").filter(has_text="Offline mode is on")
    expect(notice).to_contain_text("Models in the cache still load")
    here = deck.root.get_by_role("region", name="On this machine")
    expect(here.get_by_role("button", name=f"Load {NAME}", exact=True)).to_be_visible()
    notebook.screenshot("offline-mode")
    assert [button.get_attribute("aria-label") for button in notice.get_by_role("button").all()] == [
        "Dismiss the error of the search"
    ]
    notice.get_by_role("button").click()
    expect(notice).to_have_count(0)
    deck.root.get_by_role("tab", name="Library").click()
    row = deck.root.get_by_role("list", name="Library").get_by_role("listitem").filter(has_text=TINY)
    expect(row).to_contain_text("not verified")
    notebook.screenshot("offline-mode-library")
    row.get_by_role("button", name=f"Load {NAME}", exact=True).click()
    expect(row.get_by_role("button", name=f"Unload {NAME}")).to_be_visible()
    assert notebook.run(1).strip() == "2"
    assert len(demo_hub.requests) == asked, "offline mode asks nobody"
