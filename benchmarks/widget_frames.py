"""Frame times of the widget in a real JupyterLab: many downloads, many results, and both.

    python -m benchmarks.widget_frames [--jobs 100] [--results 500] [--updates-per-second 4] [--seconds 10] [--json]

Needs Chromium and the packages of the ``test`` extra. Downloads and results are not real ones: the kernel publishes
what the engine and the Hub would send for this many, each download with new numbers in every update. Frames are the
page's own animation frames. To scroll, each frame moves the list on, from its top to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM_ARGUMENTS
from tests.browser.harness import Notebook, Notebooks
from tools.chromium import find_chromium
from tools.jupyter import jupyter_server
from tools.localhub import LocalHub, demo
from tools.processes import run_environment, without_hub_settings

SHOW = "from modeldeck import ModelBrowser\nbrowser = ModelBrowser()\nbrowser"

PUBLISH = """
import threading, time
from modeldeck._wire import JobView
from modeldeck.widget.publisher import as_json
from modeldeck.widget.traits import DownloadsView
def publish(jobs, updates_per_second, seconds):
    for rev in range(1, int(seconds * updates_per_second) + 1):
        received = [(rev * 7 + number * 13) % 1000 * 10**6 for number in range(jobs)]
        browser._downloads = as_json(DownloadsView(jobs=tuple(
            JobView(
                job_id=f"job-{{number}}", repo_id=f"owner/model-{{number}}-GGUF", variant_id="model-Q4_K_M.gguf",
                label="Q4_K_M", purpose="download", state="downloading", queue_position=None,
                received=received[number], total=10**9, percent=received[number] // 10**7, rate=10**7 + rev * 10**5,
                eta_seconds=90 - rev % 60, connections=4, attempt=0, retry_in_seconds=None, is_stalled=False,
                error=None, notice=None, notice_code=None, finished_at=None, actions=("pause", "cancel"),
            )
            for number in range(jobs)
        )))
        time.sleep(1 / updates_per_second)
threading.Thread(target=publish, args=({jobs}, {updates_per_second}, {seconds}), daemon=True).start()
"""

SEARCH = """
from modeldeck.widget.publisher import as_json
from modeldeck.widget.traits import SearchView, SummaryView
browser._search = as_json(SearchView(text="model", state="done", models=tuple(
    SummaryView(
        repo_id=f"owner-{{number % 40}}/Some-Model-{{number}}-Instruct-GGUF", downloads=10**6 - 997 * number,
        likes=5000 - number, last_modified="2026-05-01T00:00:00.000Z", gated="manual" if number % 9 == 0 else False,
        license="apache-2.0", architecture="qwen2", parameter_count=10**9 + number * 10**7,
        context_length=32768,
    ) for number in range({results}))))
"""

_FRAMES = """seconds => new Promise((resolve) => {
  const times = [];
  const end = performance.now() + seconds * 1000;
  const step = (now) => {
    times.push(now);
    now < end ? requestAnimationFrame(step) : resolve(times.slice(1).map((time, index) => time - times[index]));
  };
  requestAnimationFrame(step);
})"""

_SCROLL = """(body, seconds) => new Promise((resolve) => {
  const times = [];
  const begin = performance.now();
  const step = (now) => {
    times.push(now);
    const done = Math.min(1, (now - begin) / (seconds * 1000));
    body.scrollTop = done * (body.scrollHeight - body.clientHeight);
    done < 1 ? requestAnimationFrame(step) : resolve(times.slice(1).map((time, index) => time - times[index]));
  };
  requestAnimationFrame(step);
})"""


@contextmanager
def shown_widget() -> Iterator[tuple[Notebook, LocalHub]]:
    """A widget in a notebook that is open in a browser, and the hub that it shows."""
    with (
        tempfile.TemporaryDirectory(prefix="modeldeck-frames-") as folder,
        demo.demo_hub() as hub,
        run_environment(
            {
                **without_hub_settings(os.environ),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": folder,
                "MODELDECK_RUNTIME_DIR": f"{folder}/run",
            }
        ) as environment,
        jupyter_server(
            root=Path(folder),
            home=Path(folder),
            environment=environment,
            arguments=("--ServerApp.port=0", "--LabApp.expose_app_in_browser=True"),
        ) as server,
        sync_playwright() as playwright,
    ):
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=[*CHROMIUM_ARGUMENTS, *(["--no-sandbox"] if is_root else [])]
        )
        notebooks = Notebooks(browser, server, "frames", {})
        notebook = notebooks.open([SHOW])
        notebook.run(0)
        notebook.widget(0).locator(".card").first.wait_for()
        yield notebook, hub
        notebooks.close()
        browser.close()


def frame_times(notebook: Notebook, seconds: float) -> dict[str, float]:
    return summary(notebook.page.evaluate(_FRAMES, seconds))


def scroll_times(notebook: Notebook, seconds: float) -> dict[str, float]:
    return summary(notebook.widget(0).locator(".body").evaluate(_SCROLL, seconds))


def summary(times: list[float]) -> dict[str, float]:
    return {
        "frames": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1], 1),
        "worst_ms": round(max(times), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--results", type=int, default=500)
    parser.add_argument("--updates-per-second", type=float, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with shown_widget() as (notebook, _):
        figures = {"at rest": frame_times(notebook, options.seconds)}
        notebook.execute(SEARCH.format(results=options.results))
        notebook.widget(0).locator(".card").nth(options.results - 1).wait_for(state="attached")
        figures["scrolling"] = scroll_times(notebook, options.seconds)
        notebook.execute(
            PUBLISH.format(
                jobs=options.jobs, updates_per_second=options.updates_per_second, seconds=2 * options.seconds + 10
            )
        )
        notebook.widget(0).get_by_text(f"owner/model-{options.jobs - 1}-GGUF").first.wait_for(state="attached")
        notebook.widget(0).locator(".body").evaluate("body => { body.scrollTop = 0; }")
        figures["downloads"] = frame_times(notebook, options.seconds)
        figures["both"] = scroll_times(notebook, options.seconds)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, row in figures.items():
            print(f"{name:9} " + "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
