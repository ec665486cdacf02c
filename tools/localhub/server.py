"""The hub on sockets: two origins on one event loop, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modeldeck._loop import LoopThread
from modeldeck._types import Gated
from tools.localhub.catalogue import EPOCH, Blob, Catalogue, Commit, Repo, front_matter, scan_folder
from tools.localhub.connections import ConnectionServer, HubReader
from tools.localhub.faults import Faults
from tools.localhub.gguf_block import gguf_block
from tools.localhub.log import RequestLog
from tools.localhub.messages import FileContent, Origin
from tools.localhub.routes import LocalAccount, Site

_DIGESTS_NAME = ".modeldeck-digests.json"
_START_SECONDS = 30.0


class LocalHub:
    """A hub on this machine that is compatible with Hugging Face's, with a CDN on a second port.

    ::

        with LocalHub() as hub:
            hub.add_repo("owner/name", {"model.gguf": path})
            huggingface_hub.hf_hub_download("owner/name", "model.gguf", endpoint=hub.endpoint)

    Parameters
    ----------
    folder : Path, optional
        Serve ``OWNER/NAME/files…`` below it. Digests of large files are kept in a hidden file there.
    repos : mapping, optional
        More repositories: ids, each with its files.
    catalogue : Catalogue, optional
        The repositories of another hub, as they are now; what either hub changes later, the other does not see.
    host, port, cdn_port
        Where to listen; 0 picks a free port, which a restart keeps.
    ssl_context : ssl.SSLContext, optional
        Serve both origins over TLS.
    tokens, tree_page_size, signature_seconds, rate_limits, path
        See `tools.localhub.routes.Site`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        repos: Mapping[str, Mapping[str, FileContent]] | None = None,
        catalogue: Catalogue | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        tokens: Mapping[str, Collection[str]] | None = None,
        tree_page_size: int = 1000,
        signature_seconds: float = 3600.0,
        rate_limits: Mapping[str, int] | None = None,
        path: str = "",
    ) -> None:
        self.requests = RequestLog()
        self.faults = Faults()
        self.catalogue = Catalogue() if catalogue is None else catalogue.copy()
        self._site = Site(
            catalogue=self.catalogue,
            tokens={token: set(repo_ids) for token, repo_ids in (tokens or {}).items()},
            tree_page_size=tree_page_size,
            signature_seconds=signature_seconds,
            rate_limits=rate_limits or {},
            path=path,
        )
        self._host = host
        self._ports: dict[Origin, int] = {"hub": port, "cdn": cdn_port}
        self._ssl_context = ssl_context
        self._thread: LoopThread | None = None
        self._servers = contextlib.AsyncExitStack()
        self._connections = ConnectionServer(self._site, self.faults, self.requests, is_plain=ssl_context is None)
        if folder is not None:
            self._add_folder(folder)
        for repo_id, files in (repos or {}).items():
            self.add_repo(repo_id, files)

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both origins, after `stop` on the same ports as before.

        Raises
        ------
        OSError
            When a port cannot be had.
        """
        if self._thread is not None:
            return
        thread = LoopThread("modeldeck-localhub")
        try:
            thread.wait(self._listen(), _START_SECONDS)
        except BaseException:
            thread.stop()
            raise
        self._thread = thread

    def stop(self) -> None:
        """Close the ports and every connection at once, whatever is being sent on them."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.wait(self._stop_serving())
            thread.stop()

    def close(self) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return self._url("hub") + self._site.path

    @property
    def cdn_origin(self) -> str:
        return self._url("cdn")

    def _url(self, origin: Origin) -> str:
        return f"{'https' if self._ssl_context else 'http'}://{self._host}:{self._ports[origin]}"

    async def _listen(self) -> None:
        async with contextlib.AsyncExitStack() as servers:
            for origin in self._ports:
                servers.push_async_callback(_stop_listening, await self._listen_as(origin))
            self._site.endpoint, self._site.cdn_origin = self.endpoint, self.cdn_origin
            self._servers = servers.pop_all()

    async def _listen_as(self, origin: Origin) -> asyncio.Server:
        def connect() -> asyncio.StreamReaderProtocol:
            reader = HubReader()
            return asyncio.StreamReaderProtocol(
                reader, lambda _, writer: self._connections.accept(origin, reader, writer)
            )

        server = await asyncio.get_running_loop().create_server(
            connect, self._host, self._ports[origin], ssl=self._ssl_context, backlog=1024
        )
        self._ports[origin] = server.sockets[0].getsockname()[1]
        return server

    async def _stop_serving(self) -> None:
        await self._servers.aclose()
        await self._connections.close()

    # --- content ------------------------------------------------------------------------------------------------------

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, FileContent],
        *,
        gated: Gated = False,
        is_disabled: bool = False,
        tags: Iterable[str] = (),
        likes: int = 0,
        downloads: int = 0,
        license: str | None = None,
        pipeline_tag: str | None = None,
        gguf: Mapping[str, Any] | None = None,
        last_modified: str = EPOCH,
        created_at: str = EPOCH,
        git_tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        digests: Mapping[str, str] | None = None,
    ) -> str:
        """Add or replace a repository while the hub runs.

        Parameters
        ----------
        files : mapping of str to bytes or Path
            Contents by their path in the repository. A file on disk must not change while it is served.
        license, pipeline_tag : str, optional
            Without them, what the front matter of README.md says.
        gguf : mapping, optional
            The API's ``gguf`` block. Without it, it is read from the header of one of the files.
        git_tags : iterable of str
            Tags that name the first commit.
        aliases : iterable of str
            Old ids that redirect here, such as one without an owner.
        digests : mapping of str to str, optional
            Known sha256 digests of files, to spare reading them.

        Returns
        -------
        str
            The commit hash.
        """
        known = digests or {}
        commit = Commit({path: Blob.of(path, source, known.get(path)) for path, source in files.items()})
        commit_hash = commit.commit_hash
        card = front_matter(commit.files)
        repo = Repo(
            repo_id=repo_id,
            commits={commit_hash: commit},
            refs={"main": commit_hash},
            git_tags=dict.fromkeys(git_tags, commit_hash),
            gated=gated,
            is_disabled=is_disabled,
            tags=tuple(tags),
            likes=likes,
            downloads=downloads,
            license=license or card.get("license"),
            pipeline_tag=pipeline_tag or card.get("pipeline_tag"),
            gguf=gguf_block(commit.files) if gguf is None else gguf,
            last_modified=last_modified,
            created_at=created_at,
        )
        self.catalogue.put(repo, aliases)
        return commit_hash

    def update_file(self, repo_id: str, filename: str, content: FileContent | None, *, branch: str = "main") -> str:
        """Make a new commit in which one file is new, changed or (``None``) gone; return its hash."""
        blob = None if content is None else Blob.of(filename, content)
        return self.catalogue.commit(repo_id, {filename: blob}, branch)

    def rewrite_file(self, repo_id: str, filename: str, content: FileContent) -> None:
        """Change a file under the same commit hashes, which a real Hub never does."""
        self.catalogue.rewrite(repo_id, filename, Blob.of(filename, content))

    def sha256(self, repo_id: str, filename: str, revision: str = "main") -> str:
        """Return the digest of a file, for a test to compare with."""
        repo = self.catalogue.get(repo_id)
        found = None if repo is None else repo.resolve(revision)
        if found is None:
            raise KeyError(f"{repo_id}@{revision}")
        return found[1].files[filename].sha256

    def grant(self, token: str, *repo_ids: str, account: LocalAccount | None = None) -> None:
        """Make a token known, let it read some gated repositories, and say whose it is."""
        self._site.tokens.setdefault(token, set()).update(repo_ids)
        self._site.pending -= {(token, repo_id) for repo_id in repo_ids}
        if account is not None:
            self._site.accounts[token] = account

    def ask_for_access(self, token: str, repo_id: str) -> None:
        """Have a token's account wait for the approval of a gated repository, until `grant`."""
        self._site.pending.add((token, repo_id))

    def expire_signatures(self) -> None:
        """Make every CDN address handed out until now answer 403."""
        self._site.expire_signatures()

    def _add_folder(self, folder: Path) -> None:
        cache = folder / _DIGESTS_NAME
        try:
            known: dict[str, str] = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        seen: dict[str, str] = {}
        for repo_id, files in scan_folder(folder).items():
            keys = {name: _digest_key(folder, path) for name, path in files.items()}
            digests = {name: known[key] for name, key in keys.items() if key in known}
            newest = max(path.stat().st_mtime for path in files.values())
            last_modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(newest))
            self.add_repo(repo_id, files, digests=digests, last_modified=last_modified)
            seen.update({key: self.sha256(repo_id, name) for name, key in keys.items()})
        if seen != known:
            with contextlib.suppress(OSError):  # a folder that cannot be written is hashed again next time
                cache.write_text(json.dumps(seen), encoding="utf-8")


async def _stop_listening(server: asyncio.Server) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows
        # In Python 3.11 a connection that is accepted, but not the server's yet when that closes, is never closed.
        for listener in server.sockets:
            loop.remove_reader(listener)
        await asyncio.sleep(0)
    server.close()


def _digest_key(folder: Path, path: Path) -> str:
    status = path.stat()
    return f"{path.relative_to(folder).as_posix()} {status.st_size} {status.st_mtime_ns}"
