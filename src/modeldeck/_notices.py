"""The notices: sentences that users should read although nothing failed, each with a code for its translation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

NoticeCode: TypeAlias = Literal[
    "account_argument",
    "account_colab",
    "account_endpoint",
    "account_environment",
    "account_file",
    "account_name",
    "account_none",
    "account_reads_gated",
    "account_reads_no_gated",
    "download_shared",
    "engine_inline",
    "engine_lost",
    "engine_restarted",
    "engine_stopped",
    "gated_accept",
    "gated_granted",
    "gated_log_in",
    "gated_other_token",
    "gated_wait",
    "gpu_cpu_build",
    "gpu_without_llama",
    "without_projector",
]

SHARED_NOTICE = "Another notebook wants this file too, so the download goes on. Cancel again to stop it for both."
INLINE_NOTICE = "Downloads run inside this process instead: they end with it, and a busy cell slows them down."
LOST_NOTICE = "The download engine ended and could not be started again."
RESTARTED_NOTICE = "The download engine ended unexpectedly and was started again. Downloads continue."
STOPPED_NOTICE = "The download engine was stopped. It starts again with your next request."
CPU_BUILD_NOTICE = "but the installed llama-cpp-python is a CPU build. Install a GPU build to use it."
WITHOUT_LLAMA_NOTICE = "To use it, install a GPU build of llama-cpp-python."
WITHOUT_PROJECTOR_NOTICE = "Loaded without its vision projector, for text only."

NOTICES: Mapping[NoticeCode, str] = MappingProxyType(
    {
        "account_argument": "The token was given to modeldeck as the argument token=.",
        "account_colab": "The token is Colab's secret HF_TOKEN.",
        "account_endpoint": "The user and the password are those in the address of the endpoint.",
        "account_environment": "The token was found in the environment (HF_TOKEN).",
        "account_file": "The token was found in the file that `hf auth login` writes.",
        "account_name": "The token in use belongs to {name}.",
        "account_none": "No token is in use. Open models need none. To use one, create it in your Hub settings, run "
        "`hf auth login` in a terminal, and run this cell again.",
        "account_reads_gated": "It may read gated models, once your account has access to them.",
        "account_reads_no_gated": "It is a fine-grained token that may not read gated models. Allow it in its settings "
        "on the Hub.",
        "download_shared": SHARED_NOTICE,
        "engine_inline": INLINE_NOTICE,
        "engine_lost": LOST_NOTICE,
        "engine_restarted": RESTARTED_NOTICE,
        "engine_stopped": STOPPED_NOTICE,
        "gated_accept": "Accept the conditions on the model's page.",
        "gated_granted": "Your account has access to this gated model.",
        "gated_log_in": "Log in: create a token in your Hub settings, run `hf auth login` in a terminal, and run this "
        "cell again.",
        "gated_other_token": "Log in with another token: the one in use may not read gated models.",
        "gated_wait": "Wait for the author's approval.",
        "gpu_cpu_build": CPU_BUILD_NOTICE,
        "gpu_without_llama": WITHOUT_LLAMA_NOTICE,
        "without_projector": WITHOUT_PROJECTOR_NOTICE,
    }
)


def notice_code(text: str | None) -> NoticeCode | None:
    """Return the code of the notice that a text contains; an engine of another version may send one without a code."""
    return None if text is None else next((code for code, notice in NOTICES.items() if notice in text), None)
