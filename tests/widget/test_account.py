"""Whose token is in use, and the steps to a gated model, as the page sees them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldeck import Session
from modeldeck._loop import LoopThread
from modeldeck._types import SearchQuery
from modeldeck.widget.bridge import Bridge
from tests.widget.pages import Page
from tools.localhub import LocalHub
from tools.localhub.demo import GATED_REPO_ID
from tools.localhub.routes import LocalAccount

TOKEN = "hf_of_ana"
Show = Callable[[str | bool], Page]


@pytest.fixture
def show(demo_hub: LocalHub, tmp_path: Path, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    shown: list[Page] = []

    def show(token: str | bool) -> Page:
        page = Page()
        session = Session(endpoint=demo_hub.endpoint, cache_dir=tmp_path / "cache", token=token, inline=True)
        page.bridge = Bridge(page, loop, session, query=SearchQuery(text="gated"), revision="main", n_ctx=1024)
        page.traits = {name.removeprefix("_"): value for name, value in page.bridge.initial_state().items()}
        page.close = loop.start(page.bridge.run()).cancel
        shown.append(page)
        return page

    yield show
    for page in shown:
        page.close()


def look(page: Page) -> dict[str, Any]:
    assert page.ask("look_at_account")["ok"]
    view: dict[str, Any] = page.traits["account"]
    return view


def codes(view: dict[str, Any]) -> list[str]:
    return [line["code"] for line in view["lines"]]


def steps(page: Page) -> dict[str, str]:
    assert page.ask("open_repo", repo_id=GATED_REPO_ID)["ok"]
    return {step["code"]: step["state"] for step in page.traits["repos"][GATED_REPO_ID]["steps"]}


def asked(hub: LocalHub) -> int:
    return sum("whoami" in record.target for record in hub.requests)


def test_the_hub_is_asked_once_and_only_when_somebody_looks(show: Show, demo_hub: LocalHub) -> None:
    demo_hub.grant(TOKEN, account=LocalAccount("ana", can_read_gated=False))
    page = show(TOKEN)
    page.until(lambda: page.traits["search"]["state"] == "done")
    assert codes(page.traits["account"]) == ["account_argument"]
    assert asked(demo_hub) == 0
    view = look(page)
    assert (view["state"], view["name"], view["error"]) == ("known", "ana", None)
    assert codes(view) == ["account_name", "account_argument", "account_reads_no_gated"]
    assert view["lines"][0]["text"] == "The token in use belongs to ana."
    assert view["url"] == f"{demo_hub.endpoint}/settings/tokens"
    look(page)
    assert asked(demo_hub) == 1
    assert TOKEN not in repr((page.traits, page.history, page.messages))


def test_without_a_token_the_way_to_one_is_told_and_nobody_is_asked(show: Show, demo_hub: LocalHub) -> None:
    page = show(False)
    assert codes(look(page)) == ["account_none"]
    assert "hf auth login" in page.traits["account"]["lines"][0]["text"]
    assert asked(demo_hub) == 0


def test_a_refused_token_and_an_unreachable_hub_are_said_plainly(show: Show, demo_hub: LocalHub) -> None:
    page = show("hf_old")
    assert look(page)["error"]["code"] == "unauthorized"
    assert "does not accept the token" in page.traits["account"]["error"]["message"]
    demo_hub.grant("hf_old", account=LocalAccount("ana"))
    assert (look(page)["state"], look(page)["error"]) == ("known", None)
    demo_hub.grant(TOKEN)
    other = show(TOKEN)
    other.until(lambda: other.traits["search"]["state"] == "done")
    demo_hub.stop()
    assert look(other)["error"]["code"] == "offline"
    demo_hub.start()
    assert look(other)["state"] == "known"


def test_the_steps_to_a_gated_model_follow_what_the_hub_says(show: Show, demo_hub: LocalHub) -> None:
    assert steps(show(False)) == {"gated_log_in": "now", "gated_accept": "later", "gated_wait": "later"}
    demo_hub.grant(TOKEN, account=LocalAccount("ana", can_read_gated=False))
    page = show(TOKEN)
    assert steps(page) == {"gated_other_token": "now", "gated_accept": "later", "gated_wait": "later"}
    demo_hub.grant(TOKEN, account=LocalAccount("ana"))
    assert steps(page) == {"gated_log_in": "done", "gated_accept": "now", "gated_wait": "later"}
    demo_hub.ask_for_access(TOKEN, GATED_REPO_ID)
    assert steps(page) == {"gated_log_in": "done", "gated_accept": "done", "gated_wait": "now"}
    demo_hub.grant(TOKEN, GATED_REPO_ID)
    assert steps(page) == {"gated_granted": "done"}
    assert TOKEN not in repr((page.traits, page.history, page.messages))
