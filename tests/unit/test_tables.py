"""Tables, sizes and the command's line of progress, as people read them."""

from dataclasses import replace

import pytest
from IPython.lib.pretty import pretty

from modeldeck._listing import Listing
from modeldeck._tables import Table, format_duration, format_memory, format_size, shorten_middle, text_width
from modeldeck._types import (
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    FitEstimate,
    GGUFFile,
    IncompleteShards,
    ModelSummary,
    RepoDetails,
    SearchPage,
    SearchQuery,
    Variant,
)
from modeldeck.bars import download_progress
from modeldeck.cli.output import closing_line, progress_line

NAME = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M"


def snapshot(
    state: DownloadState = DownloadState.DOWNLOADING, received: int = 2_100_000_000, name: str = NAME
) -> DownloadSnapshot:
    repo_id, _, label = name.partition(":")
    request = DownloadRequest(
        repo_id=repo_id,
        revision="main",
        commit_hash=None,
        variant_id="model.gguf",
        label=label,
        files=(),
        endpoint="https://hub.example",
        cache_dir="/cache",
    )
    return DownloadSnapshot(
        job_id="1",
        request=request,
        state=state,
        received=received,
        total=5_000_000_000,
        rate=60_700_000.0,
        eta_seconds=47.8,
    )


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abcdefgh", 8, "abcdefgh"),
        ("abcdefgh", 7, "abc…fgh"),
        ("abcdefgh", 4, "a…gh"),
        ("abcdefgh", 3, "a…h"),
        ("abcdefgh", 2, ""),
        ("日本語モデル", 12, "日本語モデル"),
        ("日本語モデル", 11, "日本…モデル"),
        ("日本語モデル", 10, "日本…デル"),
        ("é\N{COMBINING ACUTE ACCENT}bcdefg", 7, "é\N{COMBINING ACUTE ACCENT}bcdefg"),
    ],
)
def test_a_text_is_shortened_in_its_middle(text: str, width: int, expected: str) -> None:
    assert shorten_middle(text, width) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (11_220, "3 h 7 min")]
)
def test_a_duration_is_short(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, "?"),
        (0, "0 bytes"),
        (999, "999 bytes"),
        (40_000, "40.0 KB"),
        (100_000, "0.1 MB"),
        (98_362_432, "98.4 MB"),
        (4_920_000_000, "4.92 GB"),
    ],
)
def test_a_size_is_told_in_a_unit_of_its_order(size: int | None, expected: str) -> None:
    assert format_size(size) == expected


@pytest.mark.parametrize("width", range(1, 140))
@pytest.mark.parametrize("name", [NAME, "owner/モデル:日本語の大きな言語モデル-🦙"])
def test_the_line_of_progress_fits_every_width(name: str, width: int) -> None:
    line = progress_line(snapshot(name=name), width)
    assert text_width(line) <= width
    if width >= 6:
        assert "42 %" in line
    if width >= 80:
        assert "60.7 MB/s" in line
        assert "48 s left" in line
    if width >= 120:
        assert line.startswith(name)


@pytest.mark.parametrize(
    ("needed", "available", "expected"),
    [
        (5 << 30, 3 << 30, ("5.0 GiB", "3.0 GiB")),
        (213 << 20, 200 << 20, ("213 MiB", "200 MiB")),
        (5000 << 20, 4990 << 20, ("5000 MiB", "4990 MiB")),
        ((213 << 20) + 1, 213 << 20, ("223,346,689 bytes", "223,346,688 bytes")),
    ],
)
def test_two_amounts_of_memory_look_different(needed: int, available: int, expected: tuple[str, str]) -> None:
    assert format_memory(needed, available) == expected


def test_the_columns_of_a_table_are_aligned() -> None:
    table = Table(["Name", "Size"], [["a", "1"], ["longer", "1000"]], frozenset({"Size"}))
    assert str(table) == "Name    Size\na          1\nlonger  1000"
    wide = Table(["Name", "Size"], [["日本", "1"], ["longer", "2"]], frozenset({"Size"}))
    assert str(wide) == "Name    Size\n日本       1\nlonger     2"


def test_text_of_the_hub_is_escaped_in_html() -> None:
    page = SearchPage(query=SearchQuery(), models=(ModelSummary(repo_id="<script>alert(1)</script>/x"),))
    html = page._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;/x" in html


def test_a_result_prints_as_a_table() -> None:
    page = SearchPage(query=SearchQuery(), models=(ModelSummary(repo_id="owner/name", downloads=12_345),))
    assert str(page).splitlines()[1].split() == ["owner/name", "12,345", "?", "?", "?"]
    assert str(page.models[0]) == "owner/name  12,345  ?  ?  ?"
    jobs = Listing([snapshot()])
    assert jobs == (snapshot(),)
    assert "downloading" in str(jobs)
    assert str(jobs[0]) == f"{NAME}  downloading  42 %  5.00 GB  60.7 MB/s  48 s"
    for result in (page, *page.models, jobs, *jobs, FitEstimate(verdict="fits", n_ctx=512)):
        assert pretty(result) == str(result)  # what IPython prints
    fit = FitEstimate(verdict="fits", n_ctx=512, reason="Because.")
    assert pretty({"a": fit, "b": jobs[0]}).startswith(f"{{'a': {fit!r}")
    assert "60.7 MB/s" in jobs._repr_html_()


def test_an_empty_result_prints_its_headings() -> None:
    assert str(SearchPage(query=SearchQuery(), models=())).startswith("Repository")
    assert Listing()._repr_html_().startswith("<table>")


def test_a_download_that_waits_says_so() -> None:
    waiting = replace(snapshot(), retry_in_seconds=4.6, rate=None)
    assert "  retrying in 5 s   42 %" in progress_line(waiting, 100)
    assert download_progress(waiting).text.endswith(" retrying in 5 s")
    assert str(replace(snapshot(), is_stalled=True)).startswith(f"{NAME}  stalled  42 %")


def test_a_bar_is_full_only_when_the_files_are_verified() -> None:
    verifying = download_progress(snapshot(DownloadState.VERIFYING, received=5_000_000_000))
    assert verifying.done == 4_950_000_000
    ready = download_progress(snapshot(DownloadState.READY, received=5_000_000_000))
    assert ready.done == ready.total == 5_000_000_000


def test_a_long_list_of_variants_is_grouped_by_bits() -> None:
    labels = ["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "UD-Q3_K_XL", "IQ2_M", "TQ1_0", "Q4_0", "other"]
    variants = tuple(
        Variant(
            variant_id=f"model-{label}.gguf",
            label=label,
            quantization=None if label == "other" else label,
            files=(GGUFFile(filename=f"model-{label}.gguf", size=1),),
        )
        for label in labels
    )
    details = RepoDetails(repo_id="o/n", revision="main", commit_hash="0" * 40, variants=variants)
    lines = [line.split()[0] if "model-" in line else line for line in str(details).splitlines()[2:]]
    assert "/".join(lines) == (
        "16 or 32 bits/BF16/8 bits/Q8_0/6 bits/Q6_K/5 bits/Q5_K_M/4 bits/Q4_K_M/IQ4_XS/Q4_0/3 bits/UD-Q3_K_XL/"
        "2 bits/IQ2_M/1 bit/TQ1_0/Unknown bits/other"
    )
    assert details._repr_html_().count('<th colspan="7"') == 9
    short = replace(details, variants=variants[:8])
    assert "bits" not in str(short)


def test_below_the_table_stands_why_a_model_cannot_be_used() -> None:
    damaged = FitEstimate(verdict="unusable", n_ctx=4096, reason="This is not a GGUF file: it is a <zip> archive.")
    details = RepoDetails(
        repo_id="o/n",
        revision="main",
        commit_hash="0" * 40,
        variants=(Variant(variant_id="a.gguf", label="Q8_0", quantization="Q8_0", files=()),),
        fits={"a.gguf": damaged},
        incomplete=(IncompleteShards(prefix="big-Q4_K_M", total=3, files=()),),
    )
    assert str(details).splitlines()[-2:] == [
        "Q8_0: This is not a GGUF file: it is a <zip> archive.",
        "big-Q4_K_M cannot be used. The Hub has 0 of its 3 parts.",
    ]
    page = details._repr_html_()
    assert page.index("</tbody>") < page.index("it is a &lt;zip&gt; archive.") < page.index("big-Q4_K_M")


@pytest.mark.parametrize(
    ("fetched_at_first", "fetched", "said"),
    [
        (0, 3_400_000_000, "3.40 GB in "),
        (1_400_000_000, 3_400_000_000, "2.00 GB in "),
        (3_400_000_000, 3_400_000_000, "3.40 GB, SHA-256 verified."),
        (0, 0, "3.40 GB already in the cache."),
    ],
    ids=["all of it", "the rest", "all had come when it was first seen", "nothing"],
)
def test_the_closing_line_says_what_was_fetched(fetched_at_first: int, fetched: int, said: str) -> None:
    first = replace(snapshot(), bytes_fetched=fetched_at_first)
    last = replace(snapshot(DownloadState.READY), bytes_fetched=fetched, total=3_400_000_000)
    line = closing_line(last, first, began_at=0.0)
    assert line.startswith(f"{NAME}: {said}")
    assert line.endswith(("SHA-256 verified.", "already in the cache."))
