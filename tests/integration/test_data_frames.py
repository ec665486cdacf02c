"""Results as data frames, for those who have pandas: one row for each of the table, with values to compute with."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from modeldeck._listing import Listing
from modeldeck._types import (
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    ErrorInfo,
    FitEstimate,
    GGUFFile,
    LocalModel,
    LockedModel,
    ModelSummary,
    RepoDetails,
    SearchPage,
    SearchQuery,
    Variant,
    VerifiedFile,
)

FILE = GGUFFile(filename="model-Q4_K_M.gguf", size=1000, sha256="a" * 64)
VARIANT = Variant(variant_id=FILE.filename, label="Q4_K_M", quantization="Q4_K_M", files=(FILE,))
REQUEST = DownloadRequest(
    repo_id="o/n",
    revision="main",
    commit_hash="0" * 40,
    variant_id=FILE.filename,
    label="Q4_K_M",
    files=(FILE,),
    endpoint="https://hub.invalid",
    cache_dir="/cache",
)
LOCAL = LocalModel(
    repo_id="o/n",
    commit_hash="0" * 40,
    variant_id=FILE.filename,
    label="Q4_K_M",
    filenames=(FILE.filename,),
    path=Path("model-Q4_K_M.gguf"),
    paths=(Path("model-Q4_K_M.gguf"),),
    size=1000,
)
RESULTS: list[tuple[Any, dict[str, Any]]] = [
    (
        SearchPage(query=SearchQuery(), models=(ModelSummary(repo_id="o/n", likes=3),)),
        {"repo_id": "o/n", "likes": 3, "downloads": None},
    ),
    (
        RepoDetails(
            repo_id="o/n",
            revision="main",
            commit_hash="0" * 40,
            variants=(VARIANT,),
            fits={FILE.filename: FitEstimate(verdict="fits", n_ctx=4096, needed_bytes=2000)},
            recommended=FILE.filename,
        ),
        {"label": "Q4_K_M", "size": 1000, "verdict": "fits", "needed_bytes": 2000, "is_recommended": True},
    ),
    (
        RepoDetails(repo_id="o/n", revision="main", commit_hash="0" * 40, variants=(VARIANT,)),
        {"label": "Q4_K_M", "verdict": "unknown", "needed_bytes": None},
    ),
    (Listing([LOCAL]), {"repo_id": "o/n", "size": 1000, "path": "model-Q4_K_M.gguf"}),
    (
        Listing([VerifiedFile(path=Path("a.gguf"), expected="a", actual="b")]),
        {"path": "a.gguf", "is_valid": False},
    ),
    (
        Listing([LockedModel(repo_id="o/n", commit_hash="0" * 40, label="Q4_K_M", n_ctx=512, files=(FILE,))]),
        {"repo_id": "o/n", "n_ctx": 512, "size": 1000},
    ),
    (
        Listing(
            [
                DownloadSnapshot(
                    job_id="j",
                    request=REQUEST,
                    state=DownloadState.FAILED,
                    received=500,
                    total=1000,
                    error=ErrorInfo(code="offline", message="No network."),
                )
            ]
        ),
        {"repo_id": "o/n", "state": "failed", "percent": 50, "error": "No network."},
    ),
]


@pytest.mark.parametrize(("result", "expected"), RESULTS)
def test_a_result_is_a_data_frame(result: Any, expected: dict[str, Any]) -> None:
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    (row,) = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert {name: row[name] for name in expected} == expected
    plain = (str, bool, int, float, tuple, type(None))
    assert not [name for name, value in row.items() if not isinstance(value, plain)]


def test_an_empty_result_is_an_empty_data_frame() -> None:
    assert len(Listing(()).to_pandas()) == 0
