"""A model for all hosts of a Dask cluster, and prompts over them, from a card in a real notebook."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.deck import Deck
from tests.browser.harness import Notebooks
from tools.localhub import LocalHub

TINY = "modeldeck-demo/tiny-chat-GGUF"
NAME = f"Q8_0 of {TINY}"
START = """
import os
from pathlib import Path
from distributed import Client, Nanny, Scheduler, SpecCluster
from modeldeck import ModelBrowser, cluster
folder = Path(os.environ["HF_HOME"])
def worker(name):
    environment = {"HF_HUB_CACHE": str(folder / name), "MODELDECK_STATE_DIR": str(folder / f"state-{name}")}
    return {"cls": Nanny, "options": {"host": "127.0.0.1", "nthreads": 1, "env": environment}}
dask = SpecCluster(
    scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}},
    workers={name: worker(name) for name in ("a", "b")},
)
client = Client(dask)
client.wait_for_workers(2)
"""
SHOW = "browser = ModelBrowser(client=client)\nbrowser"
MAP = f"""
with cluster.Fleet(client, "{TINY}:Q8_0", n_ctx=256, per="worker", progress=False) as fleet:
    try:
        fleet.map(["Once upon a time"] * 100000, max_tokens=2, progress=False)
    except BaseException as error:
        print(type(error).__name__)
"""
END = "client.close()\ndask.close()"


@pytest.fixture
def kernel_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": demo_hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub-cache"), "HF_HOME": str(tmp_path)}


@pytest.mark.llama
def test_a_model_is_pulled_to_every_host_and_a_map_is_cancelled(
    notebooks: Notebooks, demo_hub: LocalHub, tmp_path: Path
) -> None:
    demo_hub.faults.clear()
    notebook = notebooks.open([START, SHOW, MAP, END])
    notebook.run(0)
    notebook.run(1)
    deck = Deck(notebook, 1)
    panel = deck.root.get_by_role("region", name="Dask cluster")
    expect(panel).to_contain_text("2 of 2 hosts")
    deck.open(TINY)
    row = deck.row("Q8_0", TINY)
    expect(row).to_contain_text("2 of 2 hosts")
    expect(row).to_contain_text("smallest is")
    deck.press("Download", "Q8_0", TINY)
    deck.expect_toast(f"{NAME} is downloaded and verified.")
    hosts = row.get_by_role("group", name=f"Hosts of {NAME}")
    hosts.get_by_text("2 of 2 hosts", exact=True).click()
    expect(hosts.get_by_role("listitem")).to_have_count(2)
    expect(hosts).to_contain_text("from the Hub")
    notebook.screenshot("cluster-pulled")
    assert all(list((tmp_path / name).glob("models--*/snapshots/*/*Q8_0.gguf")) for name in ("a", "b"))

    notebook.start(2)
    expect(panel).to_contain_text(re.compile(r"[1-9]\d* of 100,000 answered"))
    expect(panel).to_contain_text("tokens/s")
    notebook.screenshot("cluster-map")
    panel.get_by_role("button", name=f"Cancel Prompts for {TINY}:Q8_0").click()
    assert notebook.wait(2).strip() == "CancelledError"
    expect(panel).not_to_contain_text("answered")
    notebook.run(3)
    expect(panel).to_contain_text("This Dask client is closed")
    notebook.screenshot("cluster-closed")
