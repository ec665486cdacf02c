"""What can be typed after ``modeldeck``, with its help."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from modeldeck import __version__
from modeldeck._types import DEFAULT_N_CTX
from modeldeck.cli import commands


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object a line")
    common.add_argument("--endpoint", metavar="URL", help="the Hub to ask (else HF_ENDPOINT)")
    common.add_argument("--cache-dir", metavar="DIR", help="the Hugging Face cache (else HF_HUB_CACHE)")
    common.add_argument("--token", help="a Hub token (else HF_TOKEN or the stored login)")
    common.add_argument("--inline", action="store_true", help="download in this process, not in the engine's own")

    parser = argparse.ArgumentParser(prog="modeldeck", description="Search, download and keep GGUF models.")
    parser.add_argument("--version", action="version", version=f"modeldeck {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., Awaitable[int]], summary: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, parents=[common], help=summary, description=summary)
        sub.set_defaults(command=command)
        return sub

    search = add("search", commands.search, "search the Hub for repositories with GGUF files")
    search.add_argument("text", nargs="?", default="")
    search.add_argument(
        "--sort", choices=["trending", "downloads", "likes", "modified", "created"], default="downloads"
    )
    search.add_argument("--limit", type=int, default=20, metavar="N", help="results to show, 1 to 100 (default 20)")

    show = add("show", commands.show, "the variants of a repository, their sizes, and whether they fit this machine")
    show.add_argument("repo_id", metavar="OWNER/NAME")
    show.add_argument("--revision", default="main")
    show.add_argument("--n-ctx", type=int, default=DEFAULT_N_CTX, metavar="TOKENS")

    download = add("download", commands.download, "download a variant, verify it, publish it into the cache")
    download.add_argument("target", metavar="OWNER/NAME[:LABEL]")
    download.add_argument("--filename", metavar="F")
    download.add_argument("--revision", default="main")

    engine = add("engine", commands.engine, "what the download engine does, or end it; running downloads are paused")
    engine.add_argument("action", choices=["status", "stop"])

    add("ls", commands.ls, "the models in the cache")
    add("downloads", commands.downloads, "what the engine runs, holds paused, and remembers")

    cancel = add("cancel", commands.cancel, "give up unfinished downloads and delete what came of them")
    cancel.add_argument(
        "target", metavar="OWNER/NAME[:LABEL]", help="without a label also what killed processes have left"
    )

    verify = add("verify", commands.verify, "hash a model's files and compare with what they must be")
    verify.add_argument("target", metavar="OWNER/NAME[:LABEL]", help="or the path that `download` and `ls` print")
    verify.add_argument("--repair", action="store_true", help="fetch damaged parts again")

    rm = add("rm", commands.rm, "delete a model from the cache")
    rm.add_argument("target", metavar="OWNER/NAME[:LABEL]", help="or the path that `download` and `ls` print")
    return parser
