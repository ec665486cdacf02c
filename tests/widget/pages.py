"""A notebook page that is played by the tests."""

import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from modeldeck.widget.bridge import Bridge
from tests.waiting import PATIENCE_SECONDS

TINY = "modeldeck-demo/tiny-chat-GGUF"
SPLIT = "modeldeck-demo/tiny-split-GGUF"
VISION = "modeldeck-demo/tiny-vision-GGUF"


class Page:
    """Plays the notebook page: keeps what was published, sends requests, waits for what it wants to see."""

    def __init__(self) -> None:
        self.traits: dict[str, Any] = {}
        self.history: list[tuple[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.threads: set[str] = set()
        self.announced: list[tuple[str, object, object]] = []
        self.is_deaf = False
        """Messages of Python do not arrive."""
        self.failures = 0
        """How many of the next messages cannot be sent."""
        self._changed = threading.Condition()
        self.bridge: Bridge
        self.close: Callable[[], object]

    def publish(self, name: str, value: dict[str, Any]) -> None:
        with self._changed:
            self.traits[name] = value
            self.history.append((name, value))
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def send_message(self, content: dict[str, Any]) -> None:
        with self._changed:
            self._changed.notify_all()
            if self.failures:
                self.failures -= 1
                raise ConnectionError("Cannot send")
            self.messages.append(content)
        if content["kind"] == "modeldeck-ping" and not self.is_deaf:
            self.send("hello")

    def announce(self, name: str, old: object, new: object) -> None:
        with self._changed:
            self.announced.append((name, old, new))
            self._changed.notify_all()

    def until(self, condition: Callable[[], Any]) -> Any:
        with self._changed:
            found = self._changed.wait_for(condition, PATIENCE_SECONDS)
            assert found, f"not seen; last traits: {self.traits}; messages: {self.messages}"
            return found

    def send(self, method: str, *, times: int = 1, **params: Any) -> str:
        request_id = uuid.uuid4().hex
        for _ in range(times):
            self.bridge.post({"kind": "modeldeck-request", "id": request_id, "method": method, "params": params})
        return request_id

    def answer(self, request_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.until(lambda: next(iter(self.about(request_id, "modeldeck-answer")), None))
        return answer

    def about(self, request_id: str, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if (message["kind"], message.get("id")) == (kind, request_id)]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.answer(self.send(method, **params))

    def act(self, action: str, job_id: str) -> dict[str, Any]:
        return self.ask("act", job_id=job_id, action=action)

    def act_on(self, repo_id: str, variant_id: str, action: str) -> dict[str, Any]:
        return self.ask("act_on_variant", repo_id=repo_id, variant_id=variant_id, action=action)

    def variant(self, repo_id: str, label: str) -> dict[str, Any]:
        variants = self.traits["repos"][repo_id]["variants"]
        variant: dict[str, Any] = next(variant for variant in variants if variant["label"] == label)
        return variant

    def open_and_read(self, repo_id: str) -> None:
        """Open a card and wait until all headers are read, as a test must that keeps bytes back from then on."""
        self.ask("open_repo", repo_id=repo_id)
        self.until(lambda: {each["fit"]["method"] for each in self.traits["repos"][repo_id]["variants"]} == {"native"})

    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.traits.get("downloads", {}).get("jobs", [])
        return jobs

    def toasts(self, level: str) -> list[str]:
        return [
            message["message"]
            for message in self.messages
            if message["kind"] == "modeldeck-toast" and message["level"] == level
        ]
