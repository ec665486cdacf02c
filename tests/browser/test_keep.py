"""What a user does with a model that is here: verify, copy, load, try, remove, in a real notebook."""

import re
import tomllib
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.deck import Deck
from tests.browser.harness import Notebooks
from tools.localhub import LocalHub
from tools.localhub.routes import LocalAccount

TINY = "modeldeck-demo/tiny-chat-GGUF"
VISION = "modeldeck-demo/tiny-vision-GGUF"
NAME = f"Q8_0 of {TINY}"
CELLS = (
    f"import modeldeck\nmodel = modeldeck.download('{TINY}:Q8_0', progress=False)",
    "browser = modeldeck.ModelBrowser()\nbrowser",
    "print(browser.chat[0]['content'], browser.llm is not None)",
)


@pytest.fixture
def kernel_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": demo_hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub-cache"), "HF_HOME": str(tmp_path)}


def test_a_model_of_the_library_is_verified_copied_loaded_tried_and_removed(
    notebooks: Notebooks, demo_hub: LocalHub
) -> None:
    demo_hub.faults.clear()
    notebook = notebooks.open(CELLS)
    notebook.run(0)
    notebook.run(1)
    deck = Deck(notebook, 1)
    deck.root.get_by_role("tab", name="Library").click()
    library = deck.root.get_by_role("list", name="Library")
    row = library.get_by_role("listitem").filter(has_text=TINY)
    expect(row).to_contain_text("verified")
    row.get_by_role("button", name=f"Verify {NAME}").click()
    expect(row).not_to_contain_text("when downloaded")
    expect(row).to_contain_text("verified")

    notebook.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    row.get_by_role("button", name=f"Load options of {NAME}").click()
    row.get_by_role("button", name=f"Copy lock entry for {NAME}").click()
    expect(row.get_by_role("button", name=f"Copy lock entry for {NAME}")).to_contain_text("Copied")
    [entry] = tomllib.loads(notebook.page.evaluate("() => navigator.clipboard.readText()"))["model"]
    assert (entry["repo"], entry["label"]) == (TINY, "Q8_0")

    row.get_by_role("button", name=f"Load {NAME}", exact=True).click()
    region = deck.root.get_by_role("region", name=f"Try {NAME}")
    expect(region).to_be_visible()
    region.get_by_role("textbox", name="Message").fill("Hello?")
    region.get_by_role("button", name="Send").click()
    expect(region).to_contain_text(re.compile(r"tokens/s"))
    assert notebook.run(2).strip() == "Hello? True"

    row.get_by_role("button", name=f"Unload {NAME}").click()
    row.get_by_role("button", name=f"Remove {NAME}").click()
    row.get_by_role("button", name=f"Really remove {NAME}").click()
    expect(row).to_have_count(0)


def test_the_account_is_named_and_a_projector_is_left_out_without_its_tick(
    notebooks: Notebooks, demo_hub: LocalHub
) -> None:
    demo_hub.grant("hf_of_ana", account=LocalAccount("ana"))
    notebook = notebooks.open(["import modeldeck\nmodeldeck.ModelBrowser('vision', token='hf_of_ana')"])
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.root.get_by_role("button", name="Account").click()
    expect(deck.root.get_by_role("region", name="Account")).to_contain_text("The token in use belongs to ana.")
    deck.open(VISION)
    box = deck.root.get_by_role("checkbox", name="With each file: vision projector")
    box.click()
    deck.press("Download", "Q8_0", VISION)
    deck.expect_state("Q8_0", VISION, "downloaded")
    expect(box).not_to_be_checked()
    box.click()
    deck.press("Download", "Q8_0", VISION)
    expect(deck.button("Download", "Q8_0", VISION)).to_have_count(0)
    expect(deck.button("Load", "Q8_0", VISION)).to_be_visible()
