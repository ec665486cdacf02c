"""What can be typed after ``modeldeck``, with its help."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence

from modeldeck._types import DEFAULT_N_CTX
from modeldeck._version import __version__
from modeldeck.cli import commands
from modeldeck.lockfile import LOCK_FILE_NAME

_TARGET_HELP = "the repository, and the label of a variant such as Q4_K_M"
_LOCAL_METAVAR = "OWNER/NAME[:LABEL]|PATH"
_LOCAL_HELP = f"{_TARGET_HELP}; or the path that `download` and `ls` print"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser. Each subcommand stores the function that runs it as ``command``."""
    common = argparse.ArgumentParser(add_help=False)
    general = common.add_argument_group("general options")
    general.add_argument("--json", action="store_true", help="print one JSON object per line")
    general.add_argument("-q", "--quiet", action="store_true", help="print no progress and no notes")
    general.add_argument("-v", "--verbose", action="store_true", help="print where an error comes from")
    general.add_argument("--endpoint", metavar="URL", help="the address of the Hub (otherwise HF_ENDPOINT)")
    general.add_argument("--cache-dir", metavar="DIR", help="the Hugging Face cache (otherwise HF_HUB_CACHE)")
    general.add_argument("--token", help="a token for the Hub (otherwise HF_TOKEN or the stored login)")
    general.add_argument("--inline", action="store_true", help="download in this process, not in the engine's own")

    parser = argparse.ArgumentParser(
        prog="modeldeck",
        description="Search, download and keep GGUF models.",
        epilog="`modeldeck COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"modeldeck {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Callable[..., Awaitable[int]], summary: str, *examples: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_epilog(examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    search = add(
        "search",
        commands.search,
        "search the Hub for repositories with GGUF files",
        "modeldeck search qwen3",
        "modeldeck search llama --sort likes --limit 5",
        "modeldeck search --sort trending --task chat --license apache-2.0 --max-parameters 9B --no-gated",
    )
    search.add_argument(
        "text", nargs="?", default="", help="text that the names of repositories and owners must contain"
    )
    search.add_argument(
        "--sort",
        choices=["trending", "downloads", "likes", "modified", "created"],
        default="downloads",
        help="the order of the results (default downloads)",
    )
    search.add_argument("--limit", type=int, default=20, metavar="N", help="results to show, 1 to 100 (default 20)")
    filters = search.add_argument_group("filters, which the Hub applies unless they say otherwise")
    filters.add_argument("--author", metavar="NAME", help="only repositories of this user or organization")
    filters.add_argument(
        "--task", metavar="TASK", help="chat, embedding, vision, code, or a task of the Hub such as text-generation"
    )
    filters.add_argument("--license", metavar="ID", help="a licence, such as apache-2.0")
    filters.add_argument("--language", metavar="CODE", help="a language, such as pt")
    filters.add_argument(
        "--gated", action=argparse.BooleanOptionalAction, help="only models whose terms must, or need not, be accepted"
    )
    filters.add_argument("--min-parameters", type=_count, metavar="N", help="the fewest weights, such as 500M or 7B")
    filters.add_argument("--max-parameters", type=_count, metavar="N", help="the most weights, such as 9B")
    filters.add_argument(
        "--quantization", metavar="LABEL", help="a quantization that the repository has, such as Q4_K_M; applied here"
    )
    filters.add_argument("--app", metavar="NAME", help="an application that runs the model, such as llama.cpp")

    show = add(
        "show",
        commands.show,
        "list the variants of a repository, their sizes, and whether they fit this machine",
        "modeldeck show owner/name",
        "modeldeck show owner/name --n-ctx 32768",
    )
    show.add_argument("repo_id", metavar="OWNER/NAME", help="the repository")
    _add_revision(show)
    show.add_argument(
        "--n-ctx",
        type=int,
        default=DEFAULT_N_CTX,
        metavar="TOKENS",
        help=f"the context length to judge for (default {DEFAULT_N_CTX})",
    )

    fit = add(
        "fit",
        commands.fit,
        "judge whether a model on disk fits this machine, without network",
        "modeldeck fit owner/name:Q4_K_M",
        "modeldeck fit model.gguf --n-ctx 32768",
    )
    fit.add_argument("target", metavar=_LOCAL_METAVAR, help="a model in the cache, or the path of a GGUF file")
    fit.add_argument(
        "--n-ctx",
        type=int,
        default=DEFAULT_N_CTX,
        metavar="TOKENS",
        help=f"the context length to judge for, 0 for the model's own (default {DEFAULT_N_CTX})",
    )

    download = add(
        "download",
        commands.download,
        "download variants, verify them, and publish them into the cache",
        "modeldeck download owner/name              # the recommended variant",
        "modeldeck download owner/name:Q4_K_M       # Ctrl-C pauses, the same command continues",
        "modeldeck download owner/name:Q4_K_M other/name:Q8_0",
        "modeldeck download owner/name --filename model-Q4_K_M.gguf",
    )
    download.add_argument("targets", metavar="OWNER/NAME[:LABEL]", nargs="+", help=_TARGET_HELP)
    download.add_argument("--filename", metavar="NAME", help="a file of the repository, instead of a label")
    download.add_argument(
        "--no-projector",
        dest="projector",
        action="store_false",
        help="leave out the vision projector that goes with the variant",
    )
    _add_revision(download)

    lock = add(
        "lock",
        commands.lock,
        "write the exact files of models into a lock file, so that `sync` can bring the same ones elsewhere",
        "modeldeck lock owner/name:Q4_K_M other/name:Q8_0",
        "modeldeck lock owner/name:Q4_K_M --n-ctx 8192",
    )
    lock.add_argument("targets", metavar="OWNER/NAME[:LABEL]", nargs="+", help=_TARGET_HELP)
    lock.add_argument(
        "--n-ctx",
        type=int,
        metavar="TOKENS",
        help=f"the context length to load them with (default {DEFAULT_N_CTX}, or less if a model was trained for less)",
    )
    _add_revision(lock)
    _add_lock_file(lock)

    sync = add(
        "sync",
        commands.sync,
        "bring exactly the files of a lock file into the cache",
        "modeldeck sync",
        "modeldeck sync --check                     # fetches nothing; exit status 1 if something differs",
    )
    sync.add_argument("--check", action="store_true", help="only compare the cache with the lock file")
    _add_lock_file(sync)

    add("ls", commands.ls, "list the models in the cache", "modeldeck ls", "modeldeck ls --json")

    verify = add(
        "verify",
        commands.verify,
        "hash the files of a model and compare them with what the Hub lists",
        "modeldeck verify owner/name:Q4_K_M",
        "modeldeck verify owner/name:Q4_K_M --repair",
    )
    verify.add_argument("target", metavar=_LOCAL_METAVAR, help=_LOCAL_HELP)
    verify.add_argument("--repair", action="store_true", help="fetch damaged parts again")

    rm = add("rm", commands.rm, "delete a model from the cache", "modeldeck rm owner/name:Q4_K_M")
    rm.add_argument("target", metavar=_LOCAL_METAVAR, help=_LOCAL_HELP)

    add(
        "downloads",
        commands.downloads,
        "list the downloads that run, are paused, have failed or are finished",
        "modeldeck downloads",
    )

    cancel = add(
        "cancel",
        commands.cancel,
        "give up unfinished downloads and delete their data",
        "modeldeck cancel owner/name:Q4_K_M",
        "modeldeck cancel owner/name                # also what killed processes have left",
    )
    cancel.add_argument("target", metavar="OWNER/NAME[:LABEL]", help=_TARGET_HELP)

    engine = add(
        "engine",
        commands.engine,
        "show the download engine, stop it (running downloads are paused), or limit it",
        "modeldeck engine status",
        "modeldeck engine stop",
        "modeldeck engine limit                     # shows the limits",
        "modeldeck engine limit --bandwidth 20MB/s --downloads 2",
        "modeldeck engine limit --bandwidth none",
    )
    engine.add_argument("action", choices=["status", "stop", "limit"], help="what to do with the engine")
    limits = engine.add_argument_group(
        "limits, for `engine limit`", "They apply at once, also to running downloads, and stay until they are changed."
    )
    limits.add_argument("--bandwidth", metavar="RATE", help="of all downloads together: 20MB/s, 100Mbit/s, or none")
    limits.add_argument("--downloads", type=int, metavar="N", help="downloads that run at once")
    limits.add_argument("--connections", type=int, metavar="N", help="connections of all downloads together")

    add(
        "doctor",
        commands.doctor,
        "report versions, settings and free space for a bug report, without any secret",
        "modeldeck doctor",
    )

    completion = add(
        "completion",
        commands.completion,
        "print the completion of this command for a shell",
        "mkdir -p ~/.local/share/bash-completion/completions",
        "modeldeck completion bash > ~/.local/share/bash-completion/completions/modeldeck",
        "",
        "mkdir -p ~/.zfunc                          # and in ~/.zshrc, before compinit: fpath+=~/.zfunc",
        "modeldeck completion zsh > ~/.zfunc/_modeldeck",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")
    completion.set_defaults(parser=parser, parsers=subparsers.choices)
    return parser


def _add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", default="main", help="a branch, a tag or a commit (default main)")


def _add_lock_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", default=LOCK_FILE_NAME, metavar="PATH", help=f"the lock file (default {LOCK_FILE_NAME})"
    )


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}".rstrip() for example in examples)])


def _count(text: str) -> int:
    """Return a number of weights, such as ``7B``, ``1.5b`` or ``500M``."""
    units = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        count = round(float(number) * unit)
    except (ValueError, OverflowError):
        count = -1
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of weights. Write one like 500M or 7B")
    return count
