"""The trait ``_account``: whose token is in use; and the steps to a gated model."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from msgspec.structs import replace

from modeldeck._errors import GatedError, ModelDeckError
from modeldeck._notices import NOTICES, NoticeCode
from modeldeck._types import RepoDetails, TokenSource
from modeldeck.session import Session
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import outcome_of
from modeldeck.widget.traits import AccountView, SaidView, StepView

_FOUND_IN: MappingProxyType[TokenSource, NoticeCode] = MappingProxyType(
    {
        "argument": "account_argument",
        "environment": "account_environment",
        "file": "account_file",
        "colab": "account_colab",
        "endpoint": "account_endpoint",
    }
)


class AccountOwner:
    """Owns the trait ``_account``. The Hub is asked when somebody looks, and once."""

    def __init__(self, session: Session, publisher: Publisher) -> None:
        self._session = session
        self._publisher = publisher
        source = session.settings.token_source
        code = "account_none" if source is None else _FOUND_IN[source]
        self.view = AccountView(lines=(SaidView.of(code),), url=tokens_url(session.settings.endpoint))

    async def look(self) -> None:
        """Find out whose token is in use. An error is part of what is shown."""
        if self._session.settings.token is None or self.view.state in ("asking", "known"):
            return
        self._show(replace(self.view, state="asking", error=None))
        try:
            account = await outcome_of(self._session.account)
        except ModelDeckError as error:
            self._show(replace(self.view, state="failed", error=error.to_info()))
            return
        whose = SaidView(code="account_name", text=NOTICES["account_name"].format(name=account.name))
        lines = (whose, *self.view.lines)
        if account.can_read_gated is not None:
            lines += (SaidView.of("account_reads_gated" if account.can_read_gated else "account_reads_no_gated"),)
        self._show(replace(self.view, state="known", name=account.name, lines=lines))

    def _show(self, view: AccountView) -> None:
        self.view = view
        self._publisher.publish("account", view)


def tokens_url(endpoint: str) -> str:
    """The page on which people make tokens."""
    return f"{endpoint}/settings/tokens"


def steps_to(details: RepoDetails, endpoint: str, *, has_token: bool) -> tuple[StepView, ...]:
    """What to do to read a gated repository, in order; nothing for an open one.

    Parameters
    ----------
    details : RepoDetails
        The repository.
    endpoint : str
        Where it has its page.
    has_token : bool
        Whether a token is in use.
    """
    if not details.gated:
        return ()
    if details.has_access:
        return (StepView.of("gated_granted", state="done"),)
    return tuple(_steps(details, endpoint, has_token=has_token))


def _steps(details: RepoDetails, endpoint: str, *, has_token: bool) -> Iterator[StepView]:
    error = details.access_error
    status = None if error is None else error.details.get("status_code")
    is_known = error is not None and error.code == GatedError.code and status != _NOT_LOGGED_IN
    is_refused = error is not None and has_token and not is_known
    is_pending = error is not None and bool(error.details.get("is_pending"))
    page = f"{endpoint}/{details.repo_id}"
    yield StepView.of(
        "gated_other_token" if is_refused else "gated_log_in",
        state="done" if is_known else "now" if is_refused or not has_token else "later",
        url=tokens_url(endpoint),
    )
    yield StepView.of("gated_accept", state="done" if is_pending else "now" if is_known else "later", url=page)
    if details.gated == "manual" or is_pending:
        yield StepView.of("gated_wait", state="now" if is_pending else "later")


_NOT_LOGGED_IN = 401
