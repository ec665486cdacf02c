import pytest

from modeldeck.widget.waiting import why_no_cell_can_wait


def test_elsewhere_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOILA_KERNEL_ID", raising=False)
    assert why_no_cell_can_wait() is None


def test_voila_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOILA_BASE_URL", "/")
    reason = why_no_cell_can_wait()
    assert reason is not None
    assert reason.startswith("Voilà ")
