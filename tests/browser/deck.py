"""The widget as a user finds it: by role and accessible name."""

import re

from playwright.sync_api import Locator, expect

from tests.browser.harness import Notebook
from tests.waiting import PATIENCE_SECONDS


class Deck:
    """A `ModelBrowser` in the output of one cell."""

    def __init__(self, notebook: Notebook, cell: int) -> None:
        self.notebook = notebook
        self.root = notebook.widget(cell)
        expect(self.search_box).to_be_visible()

    @property
    def search_box(self) -> Locator:
        return self.root.get_by_role("searchbox", name="Search models")

    def card(self, repo_id: str) -> Locator:
        return self.root.get_by_role("listitem").filter(has=self.root.page.get_by_role("heading", name=repo_id))

    def open(self, repo_id: str) -> None:
        toggle = self.root.get_by_role("button", name=f"Show files of {repo_id}")
        expect(toggle).to_be_visible()
        toggle.click()

    def button(self, action: str, label: str, repo_id: str) -> Locator:
        return self.root.get_by_role("button", name=f"{action} {label} of {repo_id}", exact=True).first

    def press(self, action: str, label: str, repo_id: str) -> None:
        button = self.button(action, label, repo_id)
        expect(button).to_be_enabled()
        button.click()

    def row(self, label: str, repo_id: str) -> Locator:
        """The variant's row: the list item with its label."""
        files = self.card(repo_id).get_by_role("list", name=f"Files of {repo_id}")
        return files.get_by_role("listitem").filter(has=self.root.page.get_by_text(label, exact=True))

    def expect_state(self, label: str, repo_id: str, state: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        row = self.row(label, repo_id)
        expect(row).to_have_attribute("data-state", state, timeout=timeout_seconds * 1000)

    def progress_bar(self, repo_id: str) -> Locator:
        return self.card(repo_id).get_by_role("progressbar").first

    def percent(self, repo_id: str) -> int:
        return int(self.progress_bar(repo_id).get_attribute("aria-valuenow") or -1)

    def expect_toast(self, text: str | re.Pattern[str]) -> None:
        expect(self.root.get_by_role("status").filter(has_text=text).first).to_be_visible()

    def expect_alert(self, repo_id: str, text: str | re.Pattern[str]) -> None:
        expect(self.card(repo_id).get_by_role("alert").filter(has_text=text).first).to_be_visible()
