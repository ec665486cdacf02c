"""How long it takes from the Hub's answer with a model card until its first screen is drawn, in a real JupyterLab.

    python -m benchmarks.about [--runs 9] [--kilobytes 40] [--json]

Needs Chromium and the packages of the ``test`` extra. The hub is a local one. Its clock starts when the request for the
text arrives, just before the answer is sent; it stops in the page's second animation frame after the text is there.
"""

from __future__ import annotations

import argparse
import json
import statistics

from playwright.sync_api import expect

from benchmarks.widget_frames import shown_widget
from tests.browser.deck import Deck

REPO = "owner/Long-Card-GGUF"
_SECTION = """
## Part {number}

Quantized with **llama.cpp** from [the original](https://huggingface.co/owner/name), with `--imatrix`.

| File | Type | Size |
| --- | --- | --- |
| model-Q8_0.gguf | `Q8_0` | 8.10GB |
| model-Q4_K_M.gguf | `Q4_K_M` | 4.68GB |

1. Pick a file that fits.
2. Download it.

```
<|im_start|>user
{{prompt}}<|im_end|>
```
"""

_OPEN = """button => new Promise((resolve) => {
  const about = button.closest(".about");
  const observer = new MutationObserver(() => {
    if (about.querySelector(".card-text")) {
      observer.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(Date.now() / 1000)));
    }
  });
  observer.observe(about, {childList: true, subtree: true});
  button.click();
})"""


def model_card(kilobytes: int) -> bytes:
    """A model card of this size with everything that model cards have."""
    sections = [_SECTION.format(number=number) for number in range(kilobytes * 1000 // len(_SECTION) + 1)]
    return f"# A model\n{''.join(sections)}".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kilobytes", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times = []
    with shown_widget() as (notebook, hub):
        hub.add_repo(REPO, {"model-Q4_K_M.gguf": b"GGUF", "README.md": model_card(options.kilobytes)}, downloads=10**9)
        deck = Deck(notebook, 0)
        deck.search_box.fill("Long-Card")
        deck.open(REPO)
        button = deck.card(REPO).get_by_role("button", name=f"About {REPO}")
        for _ in range(options.runs):
            drawn_at = button.evaluate(_OPEN)
            asked = [record for record in hub.requests if record.path.endswith("README.md")]
            times.append((drawn_at - asked[-1].started_at) * 1000)
            button.click()
            expect(button).to_have_attribute("aria-expanded", "false")
    figures = {"runs": len(times), "median_ms": round(statistics.median(times)), "worst_ms": round(max(times))}
    print(json.dumps(figures) if options.json else "  ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
