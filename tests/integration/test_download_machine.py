"""A real download, with actions of the user and faults of the server in any order: a state machine by Hypothesis."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modeldeck._errors import InvalidRequestError
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.engine.manager import DownloadManager
from modeldeck.engine.patience import Patience
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.state import actions_of, can_move
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, faults

CONTENT = b"GGUF" + random.Random(3).randbytes(6_000_000)
FILES = {"m-00001-of-00002.gguf": CONTENT, "m-00002-of-00002.gguf": CONTENT[:2_000_000]}
POLICY = RetryPolicy(max_attempts=3, base_seconds=0.01, cap_seconds=0.02)
PATIENCE = Patience(connect_seconds=5, silence_seconds=0.3, drip_seconds=0.5, drip_bytes=1000)
EFFECTS = st.sampled_from(
    [
        faults.Cut(after_bytes=0),
        faults.Cut(after_bytes=300_000),
        faults.Cut(after_bytes=100_000, is_reset=True),
        faults.Stall(after_bytes=200_000),
        faults.Stall(after_bytes=-1),
        faults.Reply(503),
        faults.Reply(403),
        faults.Reply(404),
        faults.Reply(429),
        faults.IgnoreRange(),
        faults.MoveRange(start=10, stop=10),
        faults.MoveRange(start=10, stop=10, is_honest=False),
        faults.EmptyRange(),
        faults.FlipBit(offset=1_000_000),
        faults.LimitConcurrency(1),
        faults.Throttle(3e6),
    ]
)
S = DownloadState


class DownloadMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.hub = LocalHub()
        self.hub.start()
        commit_hash = self.hub.add_repo("o/n", FILES, gguf={})
        self.request = DownloadRequest(
            repo_id="o/n",
            revision="main",
            commit_hash=commit_hash,
            variant_id="m-00001-of-00002.gguf",
            label="F16",
            files=tuple(
                GGUFFile(filename=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
                for name, data in FILES.items()
            ),
            endpoint=self.hub.endpoint,
            cache_dir=str(self.folder / "cache"),
        )
        self.job_id: str | None = None
        self.seen: list[DownloadSnapshot] = []
        self.portal_scope = start_blocking_portal("asyncio")
        self.portal = self.portal_scope.__enter__()
        self.open_manager()

    def open_manager(self) -> None:
        self.manager = DownloadManager(
            state_dir=self.folder / "state", policy=POLICY, patience=PATIENCE, limits=EngineLimits(max_connections=4)
        )
        self.portal.call(self.manager.__aenter__)
        self.portal.call(self.manager.subscribe, self.seen.append)

    def call(self, method: str, *arguments: Any) -> Any:
        async def run() -> Any:
            with anyio.fail_after(PATIENCE_SECONDS):
                return await getattr(self.manager, method)(*arguments)

        return self.portal.call(run)

    def state(self) -> DownloadState | None:
        found = [s for s in self.portal.call(self.manager.snapshots) if s.job_id == self.job_id]
        return found[0].state if found else None

    @initialize()
    def submit_first(self) -> None:
        self.submit()

    @rule()
    def submit(self) -> None:
        snapshot = self.call("submit", self.request)
        if snapshot.job_id != self.job_id:
            self.seen.clear()
        self.job_id = snapshot.job_id

    @rule(action=st.sampled_from(["move_up", "move_down", "pause", "resume", "cancel", "retry", "dismiss"]))
    def ask(self, action: str) -> None:
        if self.job_id is None:
            return
        before = self.state()
        try:
            after = self.call("act", self.job_id, action)
        except InvalidRequestError:
            assert before is None or action not in actions_of(before) or not before.is_final
            return
        if action == "pause":
            assert after.state in (S.PAUSED, S.READY, S.FAILED)
        elif action == "cancel":
            assert after.state in (S.CANCELLED, S.READY)
        elif action == "dismiss":
            self.job_id = None

    @rule(effect=EFFECTS, times=st.sampled_from([1, 3, None]), origin=st.sampled_from(["cdn", "hub"]))
    def break_something(self, effect: Any, times: int | None, origin: Any) -> None:
        self.hub.faults.add(effect, origin=origin, times=times)

    @rule()
    def mend_everything(self) -> None:
        self.hub.faults.clear()

    @rule()
    def expire_signatures(self) -> None:
        self.hub.expire_signatures()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.4]))
    def let_it_run(self, seconds: float) -> None:
        self.portal.call(anyio.sleep, seconds)

    @rule()
    def restart(self) -> None:
        self.portal.call(self.manager.__aexit__, None, None, None)
        self.seen.clear()
        self.open_manager()
        if self.state() is None:
            self.job_id = None

    @invariant()
    def what_was_seen_makes_sense(self) -> None:
        seen = [snapshot for snapshot in list(self.seen) if snapshot.job_id == self.job_id]
        for before, after in pairwise(seen):
            assert before.rev < after.rev
            assert before.state is after.state or can_move(before.state, after.state), (before.state, after.state)
            assert before.received <= after.received
        for snapshot in seen:
            assert snapshot.actions == actions_of(snapshot.state)
            assert snapshot.total is None or snapshot.received <= snapshot.total
            assert (snapshot.state is S.FAILED) <= (snapshot.error is not None)

    @invariant()
    def nothing_unverified_has_a_final_name(self) -> None:
        for path in (self.folder / "cache").glob("models--*/blobs/*"):
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def teardown(self) -> None:
        try:
            self.hub.faults.clear()
            for _ in range(3):
                self.submit()
                done = self.call("wait", self.job_id)
                if done.state is S.READY:
                    break
            assert done.state is S.READY, done.error
            assert done.received == done.total == sum(map(len, FILES.values()))
            folder = self.folder / "cache" / "models--o--n"
            for name, data in FILES.items():
                assert (folder / "snapshots" / (done.commit_hash or "") / name).read_bytes() == data
            assert not list(folder.glob("blobs/*.part"))
            assert all("authorization" not in record.headers for record in self.hub.requests)
        finally:
            self.portal.call(self.manager.__aexit__, None, None, None)
            self.portal_scope.__exit__(None, None, None)
            self.hub.stop()
            shutil.rmtree(self.folder)


TestDownload = DownloadMachine.TestCase
TestDownload.settings = settings(
    max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
