"""Progress bars where a person looks: in a notebook and in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from modeldeck._types import DownloadSnapshot, DownloadState, LoadProgress

_LOAD_STEPS = 100
_MAX_UNVERIFIED_PERCENT = 99


@dataclass(frozen=True, slots=True)
class Progress:
    """What a bar shows: a text, and how much of the whole is done. ``total`` is ``None`` if it is unknown."""

    text: str
    done: int
    total: int | None
    is_bytes: bool = True


class ProgressBar:
    """A bar that shows what ``look`` returns. It appears with the first refresh, so that quick work shows none.

    The bar is made and changed on the thread of the caller, because a notebook loses what other threads display.
    """

    def __init__(self, look: Callable[[], Progress | None]) -> None:
        self._look = look
        self._bar: Any = None

    def refresh(self) -> None:
        progress = self._look()
        if progress is None:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            unit = (
                {"unit": "B", "unit_scale": True}
                if progress.is_bytes
                else {"bar_format": "{desc}{percentage:3.0f}%|{bar}|"}
            )
            self._bar = tqdm(total=progress.total, initial=progress.done, **unit)
        if self._bar.total != progress.total:
            self._bar.reset(progress.total)
        self._bar.set_description(progress.text, refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self.refresh()
            self._bar.close()


def is_wanted() -> bool:
    """Return whether a person looks: in a notebook or at a terminal, if huggingface_hub's bars are not disabled."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    return not are_progress_bars_disabled() and (_is_notebook() or (sys.stderr is not None and sys.stderr.isatty()))


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def download_progress(snapshot: DownloadSnapshot) -> Progress:
    """Return what a bar shows of a download. It is full only when the files are verified."""
    done = snapshot.received
    if snapshot.state is not DownloadState.READY and snapshot.total is not None:
        done = min(done, snapshot.total * _MAX_UNVERIFIED_PERCENT // 100)
    phase = "" if snapshot.phase in (DownloadState.DOWNLOADING, DownloadState.READY) else f" {snapshot.phase}"
    return Progress(f"{snapshot.request.name}{phase}", done, snapshot.total)


def load_progress(progress: LoadProgress) -> Progress:
    """Return what a bar shows of a load."""
    done = _LOAD_STEPS if progress.stage == "ready" else round((progress.fraction or 0) * _LOAD_STEPS)
    return Progress(progress.stage, done, _LOAD_STEPS, is_bytes=False)


class Latest:
    """The latest progress of some work, which its callbacks note and a bar looks at."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self) -> Progress | None:
        return self._progress

    def note_download(self, snapshot: DownloadSnapshot) -> None:
        self._progress = download_progress(snapshot)

    def note_load(self, step: LoadProgress) -> None:
        self._progress = load_progress(step)

    def note_verification(self, hashed: int, total: int) -> None:
        self._progress = Progress("verifying", hashed, total)
