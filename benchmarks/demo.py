"""The demo's real model from the local hub: curl's bare bytes beside modeldeck's verified and published file.

    python benchmarks/demo.py [--pairs 5]

Also prints what ``import modeldeck`` costs beyond the interpreter's own start, and the size of the bundle.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import modeldeck
from tools.localhub.demo import REAL_REPO_ID, demo_hub

BUNDLE = Path(modeldeck.__file__).parent / "widget" / "static" / "widget.js"
IMPORT_RUNS = 9


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def import_seconds() -> float:
    """Return the median over pairs of interpreters, with and without the import."""

    def start(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    start("import modeldeck")
    return statistics.median(start("import modeldeck") - start("pass") for _ in range(IMPORT_RUNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    curl = shutil.which("curl")
    if curl is None:
        sys.exit("curl is needed to compare with.")
    ours, bare = [], []
    with demo_hub() as hub, tempfile.TemporaryDirectory() as folder:
        repo = modeldeck.describe(REAL_REPO_ID, endpoint=hub.endpoint, exact=False)
        file = repo.variants[0].files[0]
        address = f"{hub.endpoint}/{REAL_REPO_ID}/resolve/{repo.commit_hash}/{file.filename}"
        for number in range(pairs + 1):  # the first pair warms up and is not counted
            copy, cache = Path(folder, "copy"), Path(folder, f"cache-{number}")
            bare.append(seconds(lambda copy=copy: subprocess.run([curl, "-sSLo", copy, address], check=True)))
            ours.append(
                seconds(
                    lambda cache=cache: modeldeck.download(
                        REAL_REPO_ID, endpoint=hub.endpoint, cache_dir=cache, inline=True
                    )
                )
            )
            shutil.rmtree(cache)
    megabytes = (file.size or 0) / 1e6
    for name, runs in (("curl", bare[1:]), ("modeldeck, verified and published", ours[1:])):
        print(f"{name:36} {statistics.median(runs):6.3f} s  {megabytes / statistics.median(runs):7.1f} MB/s")
    ratios = [mine / theirs for mine, theirs in zip(ours[1:], bare[1:], strict=True)]
    print(f"modeldeck / curl, median of {pairs} pairs: {statistics.median(ratios):.2f} times as long")
    print(f"import modeldeck: {import_seconds() * 1000:.0f} ms beyond the interpreter's start")
    if BUNDLE.is_file():
        print(f"widget.js: {BUNDLE.stat().st_size / 1024:.1f} KiB")


if __name__ == "__main__":
    main()
