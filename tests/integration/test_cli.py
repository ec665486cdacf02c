"""The command, as a shell and a batch job use it: real processes, exit statuses, JSON lines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle
from tools.localhub.tiny_models import write_chat_model

REAL = "modeldeck-demo/SmolLM2-135M-Instruct-GGUF"
TINY = "modeldeck-demo/tiny-chat-GGUF"
SPLIT = "modeldeck-demo/tiny-split-GGUF"
GATED = "modeldeck-demo/tiny-gated-GGUF"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(user_environment: dict[str, str]) -> dict[str, str]:
    user_environment.pop("PYTHONUNBUFFERED", None)
    return {**user_environment, "PYTHONWARNINGS": "error"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "modeldeck", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    return run


def lines(result: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_show_prints_what_the_design_promises(run: Run, demo_hub: LocalHub) -> None:
    result = run("show", TINY, "--json")
    assert result.returncode == 0, result.stderr
    (repo,) = lines(result)
    assert repo["repo_id"] == TINY
    assert repo["gated"] is False
    assert len(repo["commit_hash"]) == 40
    assert [variant["label"] for variant in repo["variants"]] == ["F16", "Q8_0", "Q4_0"]
    for variant in repo["variants"]:
        assert variant["filenames"] == [variant["variant_id"]]
        assert variant["sidecars"] == []
        assert variant["fit"]["verdict"] == "fits"
        assert variant["fit"]["needed_bytes"] <= variant["fit"]["available_bytes"]
        assert variant["fit"]["n_ctx"] == 4096
    assert [variant["recommended"] for variant in repo["variants"]] == [True, False, False]


def test_show_tells_the_speed_and_why_a_variant_is_recommended(run: Run) -> None:
    (repo,) = lines(run("show", REAL, "--json"))
    (variant,) = repo["variants"]
    assert variant["fit"]["tokens_per_second"] > 1
    assert variant["fit"]["speed_source"] == "estimated"
    reason = repo["recommended_reason"]
    assert reason["tokens_per_second"] == variant["fit"]["tokens_per_second"]
    assert f"about {reason['tokens_per_second']:.0f} tokens/s" in reason["text"]
    *_, row, explanation = run("show", REAL).stdout.splitlines()
    assert f" {reason['tokens_per_second']:.0f} tokens/s " in row
    assert explanation == f"* recommended for this machine with a context of 4096 tokens. {reason['text']}"


def test_download_ls_verify_and_rm(run: Run, demo_hub: LocalHub) -> None:
    result = run("download", f"{TINY}:Q8_0", "--json")
    assert result.returncode == 0, result.stderr
    *progress, ready = lines(result)
    assert ready["event"] == "ready"
    assert ready["sha256"] == demo_hub.sha256(TINY, "tiny-chat-Q8_0.gguf")
    assert ready["bytes_fetched"] == Path(ready["path"]).stat().st_size
    assert {event["event"] for event in progress} <= {"progress"}
    assert all(set(event) == {"event", "name", "received", "total", "rate", "state"} for event in progress)

    (local,) = lines(run("ls", "--json"))
    assert local["path"] == ready["path"]
    (file,) = lines(run("verify", f"{TINY}:Q8_0", "--json"))
    assert file["is_valid"] is True
    (removed,) = lines(run("rm", f"{TINY}:Q8_0", "--json"))
    assert removed["freed_bytes"] == ready["bytes_fetched"]
    assert lines(run("ls", "--json")) == []


def test_failures_have_a_code_and_a_status(run: Run, demo_hub: LocalHub) -> None:
    for arguments, code in [
        (["nobody/nothing"], "repo_not_found"),
        ([f"{TINY}:Q2_K"], "file_not_found"),
        ([TINY, "--revision", "nope"], "revision_not_found"),
        ([GATED], "gated"),
    ]:
        result = run("download", *arguments, "--json")
        assert result.returncode == 1
        failed = lines(result)[-1]
        assert (failed["event"], failed["code"]) == ("failed", code)
        assert failed["message"]
        assert result.stderr == ""
    several = run("download", f"{TINY}:Q8_0", f"{TINY}:Q2_K", "--json")
    assert several.returncode == 1
    ended = {event["name"]: event["event"] for event in lines(several) if event["event"] != "progress"}
    assert ended == {f"{TINY}:Q8_0": "ready", f"{TINY}:Q2_K": "failed"}
    assert run("download", TINY, SPLIT, "--filename", "a.gguf").returncode == 2
    assert run("download", "not a repo", "--json").returncode == 2
    assert run("download").returncode == 2
    homeless = run("ls", "--cache-dir", "~nobody-of-this-name/cache")
    assert homeless.returncode == 2
    assert "HF_HUB_CACHE" in homeless.stderr
    assert run("frobnicate").returncode == 2
    assert "modeldeck COMMAND --help" in run().stderr
    plain = run("download", "nobody/nothing")
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.startswith("modeldeck: ")


def start_slow_download(environment: dict[str, str]) -> "subprocess.Popen[str]":
    return start_slowly(environment, "download", SPLIT)


def start_slowly(environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "modeldeck", *arguments, "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_bytes(process: "subprocess.Popen[str]", received: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("received", 0) >= received:
            return
    pytest.fail("the download ended early")


def shown_on_terminal(environment: dict[str, str], *arguments: str) -> str:
    """Return what a command that succeeds writes to the standard error of a terminal with 60 columns."""
    from pty import openpty
    from termios import tcsetwinsize

    terminal, end = openpty()
    tcsetwinsize(end, (24, 60))
    with os.fdopen(terminal, "rb", buffering=0) as reader:
        command = [sys.executable, "-m", "modeldeck", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=end)
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says when the other end is closed
            while piece := reader.read(4096):
                shown += piece
        assert process.wait(PATIENCE_SECONDS) == 0
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
def test_a_terminal_that_knows_no_escape_sequences_gets_none(environment: dict[str, str], demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(3e6, is_shared=True), origin="cdn")
    shown = shown_on_terminal({**environment, "TERM": "dumb"}, "download", f"{TINY}:F16")
    assert "SHA-256 verified." in shown
    assert "\x1b" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
def test_progress_stays_on_one_line_of_the_terminal_for_each_download(
    environment: dict[str, str], demo_hub: LocalHub
) -> None:
    """A line that is too long is broken, and each update would begin one more."""
    demo_hub.faults.add(Throttle(3e6, is_shared=True), origin="cdn")
    first, *others = (
        shown_on_terminal({**environment, "TERM": "xterm"}, "download", SPLIT, f"{TINY}:F16").strip().split("\r\x1b[J")
    )
    updates = [update.removesuffix("\x1b[1A").splitlines() for update in (first, *others)]
    assert max(map(len, updates)) == 2, "the line of each download"
    lines = [line for update in updates for line in update if "SHA-256" not in line]
    assert any("downloading" in line for line in lines)
    assert any(" of 12.0 MB" in line for line in lines)
    assert max(map(len, lines)) < 60
    assert {update[0].split(":")[0] for update in updates if "SHA-256 verified." in "".join(update)} == {SPLIT, TINY}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_the_next_process_goes_on_where_this_one_ended(
    run: Run, environment: dict[str, str], demo_hub: LocalHub, number: signal.Signals
) -> None:
    demo_hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    with start_slow_download(environment) as process:
        wait_for_bytes(process, 6_000_000)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), errors
    demo_hub.faults.clear()
    result = run("download", SPLIT, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    ready = lines(result)[-1]
    assert 0 < ready["bytes_fetched"] < 12_000_000 - 1_000_000, "most of what was there was used"
    assert all(file["is_valid"] for file in lines(run("verify", SPLIT, "--json")))


def test_an_interrupt_is_one_also_when_somebody_else_has_paused_the_download(
    run: Run, environment: dict[str, str], demo_hub: LocalHub
) -> None:
    environment["MODELDECK_INLINE"] = "0"
    demo_hub.faults.add(Throttle(1e5, is_shared=True, free_bytes=1_000_000), origin="cdn")
    try:
        with start_slow_download(environment) as process:
            wait_for_bytes(process, 1_000_000)
            pause = (
                "import anyio, modeldeck\n"
                "async def main():\n"
                "    async with modeldeck.Session() as session:\n"
                "        [job] = await session.downloads()\n"
                "        await session.act(job.job_id, 'pause')\n"
                "anyio.run(main)"
            )
            subprocess.run([sys.executable, "-c", pause], env=environment, check=True, timeout=PATIENCE_SECONDS)
            assert process.stdout is not None
            assert any(json.loads(line)["state"] == "paused" for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130
        assert errors.startswith("Interrupted.")
    finally:
        run("engine", "stop")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sync_pauses_its_download_and_says_so(
    run: Run, environment: dict[str, str], demo_hub: LocalHub, tmp_path: Path, number: signal.Signals
) -> None:
    environment["MODELDECK_INLINE"] = "0"
    lock = str(tmp_path / "modeldeck.lock")
    assert run("lock", SPLIT, "--file", lock).returncode == 0
    demo_hub.faults.add(Throttle(1e5, is_shared=True, free_bytes=1_000_000), origin="cdn")
    try:
        with start_slowly(environment, "sync", "--file", lock) as process:
            wait_for_bytes(process, 1_000_000)
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, errors) == (
            130,
            "Interrupted. Downloaded data is kept: run the same command to continue.\n",
        )
        assert [job["state"] for job in lines(run("downloads", "--json"))] == ["paused"]
    finally:
        run("engine", "stop")


def test_who_reads_only_the_first_line_sees_no_traceback(environment: dict[str, str], demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    with start_slow_download(environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["search"], ["download", SPLIT, "--json"]], ids=lambda arguments: arguments[0])
def test_an_output_that_cannot_be_written_is_told(environment: dict[str, str], arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "modeldeck", *arguments],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert result.returncode == 1
    assert result.stderr == "modeldeck: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("is_inline", [True, False])
def test_cancel_deletes_what_is_unfinished(
    run: Run, environment: dict[str, str], demo_hub: LocalHub, tmp_path: Path, is_inline: bool
) -> None:
    environment["MODELDECK_INLINE"] = str(int(is_inline))
    demo_hub.faults.add(Throttle(1e5, is_shared=True, free_bytes=1_000_000), origin="cdn")
    try:
        with start_slow_download(environment) as process:
            wait_for_bytes(process, 1_000_000)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_SECONDS)
        assert list(tmp_path.rglob("*.part"))
        other = run("cancel", f"{SPLIT}:Q8_0")
        assert (other.returncode, other.stdout) == (1, "")
        assert "unfinished" in other.stderr
        assert list(tmp_path.rglob("*.part"))
        cancelled = run("cancel", SPLIT if is_inline else f"{SPLIT}:f16", "--json")
        assert cancelled.returncode == 0, cancelled.stderr
        assert lines(cancelled)[0]["freed_bytes"] > 500_000
        assert not list(tmp_path.rglob("*.part"))
        assert not list(tmp_path.rglob("*.journal"))
        assert run("cancel", SPLIT).returncode == 1
        assert [job["state"] for job in lines(run("downloads", "--json"))] in ([], ["cancelled"])
    finally:
        run("engine", "stop")


@pytest.mark.parametrize("closing", ["1>&-", "2>&-", "0<&- 1>&- 2>&-", "2>/dev/full"])
def test_a_download_without_standard_streams_is_whole(
    run: Run, environment: dict[str, str], demo_hub: LocalHub, closing: str
) -> None:
    """The next file that is opened would take the place of a missing stream, and native libraries write to that."""
    command = f'exec "$0" -m modeldeck download {SPLIT} {closing}'
    result = subprocess.run(["sh", "-c", command, sys.executable], env=environment, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0
    assert [file["is_valid"] for file in lines(run("verify", SPLIT, "--json"))] == [True, True, True]


def test_where_names_of_files_are_not_utf_8_this_is_named(
    run: Run, environment: dict[str, str], demo_hub: LocalHub, tmp_path: Path
) -> None:
    demo_hub.add_repo("owner/model", {"modèle-Q4_0.gguf": write_chat_model(tmp_path / "model.gguf")})
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments, status in (
        (["download", "owner/model"], 1),
        (["download", f"{TINY}:Q4_0", "--cache-dir", str(tmp_path / "modèles")], 2),
        (["ls", "--cache-dir", str(tmp_path / "modèles")], 2),
        (["verify", "owner/model"], 1),
        (["ls"], 0),
    ):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (status, "")
        assert "as ascii" in result.stderr
        assert "PYTHONUTF8=1" in result.stderr
        assert "Traceback" not in result.stderr
    assert run("download", f"{TINY}:Q4_0").returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_an_output_without_the_letters_of_a_path_loses_no_download(
    environment: dict[str, str], run: Run, tmp_path: Path, encoding: str
) -> None:
    environment["PYTHONIOENCODING"] = f"{encoding}:strict"
    cache = tmp_path / "モデル"
    for arguments in (["download", f"{TINY}:Q4_0"], ["ls"], ["verify", f"{TINY}:Q4_0"]):
        result = run(*arguments, "--cache-dir", str(cache))
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert list(cache.rglob("tiny-chat-Q4_0.gguf"))
    result = run("rm", "モデル", "--cache-dir", str(cache))
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("modeldeck: ")
