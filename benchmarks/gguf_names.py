"""How long grouping takes for the largest repositories: ``python -m benchmarks.gguf_names``."""

import json
import time
from pathlib import Path
from statistics import median

from modeldeck._types import GGUFFile
from modeldeck.gguf.names import group_variants

PATHS = Path(__file__).parents[1] / "tests/data/naming/real-gguf-paths.json"
LARGEST_REPOSITORY = 366
ROUNDS = 20


def main() -> None:
    repositories: dict[str, list[str]] = json.loads(PATHS.read_text(encoding="utf-8"))
    largest = max(repositories, key=lambda repo_id: len(repositories[repo_id]))
    names = repositories[largest]
    more = [f"more/{name}" for name in names][: LARGEST_REPOSITORY - len(names)]
    for title, chosen in ((largest, names), (f"{largest}, made {LARGEST_REPOSITORY} files", names + more)):
        print(f"{title}: {len(chosen)} files, {milliseconds(chosen):.1f} ms")
    every = [name for each in repositories.values() for name in each]
    print(f"all {len(repositories)} repositories as one: {len(every)} files, {milliseconds(every):.1f} ms")


def milliseconds(names: list[str]) -> float:
    files = [GGUFFile(filename=name) for name in names]
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.process_time()
        group_variants(files)
        times.append(time.process_time() - started)
    return median(times) * 1000


if __name__ == "__main__":
    main()
