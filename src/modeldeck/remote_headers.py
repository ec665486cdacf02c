"""Reads GGUF headers of files on the Hub, in as few bytes as possible, or of the cache where only that is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from modeldeck._errors import GGUFError
from modeldeck._types import GGUFFile, RepoDetails

if TYPE_CHECKING:
    from modeldeck.gguf.header import GGUFHeader, StringArray
    from modeldeck.hub.client import HubClient


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteHeader:
    """The whole header of one file.

    Attributes
    ----------
    header
        Its contents.
    raw
        Its bytes, if they were asked for.
    string_arrays
        Its long arrays of strings, by which the header of another quantization of the model is read faster.
    """

    header: GGUFHeader
    raw: bytes | None
    string_arrays: Mapping[str, StringArray]


class RemoteHeaders:
    """Reads headers with range requests, at the commit of a repository, or from the cache for details of the cache.

    Parameters
    ----------
    hub
        Makes the client of the Hub, which may fail.
    cache_dir
        The directory of the cache.
    """

    def __init__(self, hub: Callable[[], HubClient], cache_dir: Path) -> None:
        self._hub = hub
        self._cache_dir = cache_dir

    async def read_quickly(self, details: RepoDetails, file: GGUFFile) -> GGUFHeader:
        """Read the part of a header that comes before the vocabulary, at most 32 KiB.

        Raises
        ------
        GGUFError
            If llama.cpp could not load the file.
        HubError, NetworkError
            If the Hub refuses or cannot be reached.
        """
        return (await self._read(details, file, is_quick=True)).header

    async def read(
        self,
        details: RepoDetails,
        file: GGUFFile,
        *,
        keeps_bytes: bool = False,
        string_arrays: Mapping[str, StringArray] | None = None,
    ) -> RemoteHeader:
        """Read a whole header, and compare the size that it demands with the size of the file.

        Parameters
        ----------
        details
            The repository.
        file
            One of its files.
        keeps_bytes
            Return the header's bytes too.
        string_arrays
            Those of another quantization. The header is nearly always the same up to the tensors, so that the
            vocabulary need not be fetched again. Where it differs, it is read without this help.

        Raises
        ------
        GGUFError
            If llama.cpp could not load the file, or it is shorter than its header demands.
        HubError, NetworkError
            If the Hub refuses or cannot be reached.
        """
        if string_arrays and not keeps_bytes:
            try:
                return await self._read(details, file, string_arrays=string_arrays)
            except GGUFError:
                pass  # either the file is damaged or its vocabulary is another one
        return await self._read(details, file, keeps_bytes=keeps_bytes)

    async def _read(
        self,
        details: RepoDetails,
        file: GGUFFile,
        *,
        is_quick: bool = False,
        keeps_bytes: bool = False,
        string_arrays: Mapping[str, StringArray] | None = None,
    ) -> RemoteHeader:
        from modeldeck.gguf.header import HeaderReader

        reader = HeaderReader(
            is_quick=is_quick, file_size=file.size, keeps_bytes=keeps_bytes, known_string_arrays=string_arrays
        )
        while (needed := reader.needed) is not None:
            start, stop = needed
            reader.feed(await self._bytes(details, file, start, stop), start)
        if reader.header is None:
            raise ValueError("The reader has read everything and still has no header.")
        return RemoteHeader(header=reader.header, raw=reader.raw, string_arrays=reader.string_arrays)

    async def _bytes(self, details: RepoDetails, file: GGUFFile, start: int, stop: int) -> bytes:
        if not details.is_from_cache:
            return await self._hub().fetch_range(details.repo_id, details.commit_hash, file.filename, start, stop)
        from modeldeck.hub.cache import read_range

        return await anyio.to_thread.run_sync(
            read_range, self._cache_dir, details.repo_id, details.commit_hash, file.filename, start, stop
        )
