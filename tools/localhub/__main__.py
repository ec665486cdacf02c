"""``python -m tools.localhub``: serve until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tools.localhub.demo import GATED_REPO_ID, TOKEN, add_demo_repos
from tools.localhub.faults import Throttle
from tools.localhub.server import LocalHub


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.localhub", description=__doc__)
    parser.add_argument("--folder", type=Path, help="serve OWNER/NAME/files… below this folder")
    parser.add_argument("--demo", action="store_true", help="serve the demo's repositories")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port of the hub; 0 takes a free one")
    parser.add_argument("--cdn-port", type=int, default=0, help="port of the CDN; 0 takes a free one")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES", help="send at most this many bytes a second in all")
    options = parser.parse_args(arguments)
    if options.folder is None and not options.demo:
        parser.error("nothing to serve: give --folder or --demo")
    if options.folder is not None and not options.folder.is_dir():
        parser.error(f"no such folder: {options.folder}")
    if options.bandwidth is not None and options.bandwidth <= 0:
        parser.error("--bandwidth must be positive")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        hub = LocalHub(options.folder, host=options.host, port=options.port, cdn_port=options.cdn_port)
        if options.demo:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="modeldeck-demo-"))
            for notice in add_demo_repos(hub, Path(scratch)):
                print(notice, file=sys.stderr)
        if options.bandwidth is not None:
            hub.faults.add(Throttle(options.bandwidth, is_shared=True), origin="cdn")
        try:
            stack.enter_context(hub)
        except OSError as error:
            print(f"Cannot listen on {options.host}: {error.strerror}. Give another --port.", file=sys.stderr)
            return 1
        print(f"{len(hub.catalogue.all())} repositories at {hub.endpoint}", flush=True)
        if hub.catalogue.get(GATED_REPO_ID) is not None:
            print(f"{GATED_REPO_ID} is gated; the token {TOKEN} may read it.", flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
