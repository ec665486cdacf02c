"""What a pull is at one moment, and what it has brought."""

from __future__ import annotations

from dataclasses import dataclass

from modeldeck._tables import Table, Tabular, format_size
from modeldeck._types import DownloadState, ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPull:
    """A pull on one host, at one moment.

    Attributes
    ----------
    host : str
        The name of the host. Workers of one machine with caches of their own are hosts of their own.
    workers : tuple[str, ...]
        The addresses of its workers.
    state : DownloadState
        The state it is in; ready when the files are verified and in their place.
    source : str or None
        Where the files come from: ``"hub"``, ``"peer HOST"``, ``"already there"``, or ``"shared cache"``.
    received : int
        Bytes on its disk.
    total : int or None
        Bytes of all files.
    rate : float or None
        Speed in bytes per second.
    left_out : tuple[str, ...]
        Hosts that sent wrong bytes and were left out.
    error : ErrorInfo or None
        Why it failed.
    """

    host: str
    workers: tuple[str, ...]
    state: DownloadState = DownloadState.QUEUED
    source: str | None = None
    received: int = 0
    total: int | None = None
    rate: float | None = None
    left_out: tuple[str, ...] = ()
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSnapshot(Tabular):
    """A pull at one moment.

    Attributes
    ----------
    target : str
        The model.
    hosts : tuple[HostPull, ...]
        One for each host.
    received
    total
    """

    target: str
    hosts: tuple[HostPull, ...] = ()

    @property
    def received(self) -> int:
        """Bytes on the disks of all hosts."""
        return sum(host.received for host in self.hosts if host.source != "shared cache")

    @property
    def total(self) -> int | None:
        """Bytes that the hosts will have in all."""
        sizes = [host.total for host in self.hosts if host.source != "shared cache" and host.error is None]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def _table(self) -> Table:
        return host_table(self.hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledModel(Tabular):
    """A model on the hosts of a cluster.

    Attributes
    ----------
    target : str
        What was asked for.
    repo_id : str
        ``"owner/name"``.
    commit_hash : str
        The commit it belongs to.
    variant_id : str
        The identity of the variant.
    label : str
        The short name of the variant.
    hosts : tuple[HostPull, ...]
        How the pull ended on each host.
    notice : str or None
        Why the Hub was not followed, and which host had the model; ``None`` if the Hub was followed.
    failed
    """

    target: str
    repo_id: str
    commit_hash: str
    variant_id: str
    label: str
    hosts: tuple[HostPull, ...]
    notice: str | None = None

    @property
    def failed(self) -> tuple[HostPull, ...]:
        """The hosts that do not have the model. ``error`` says why."""
        return tuple(host for host in self.hosts if host.state is not DownloadState.READY)

    def _table(self) -> Table:
        return host_table(self.hosts)


def host_table(hosts: tuple[HostPull, ...]) -> Table:
    """Return the table of hosts that notebooks and ``print`` show."""
    return Table(
        headings=("Host", "State", "Source", "Received", "Size", "Problem"),
        rows=[
            (
                host.host,
                host.state.value,
                host.source or "",
                format_size(host.received),
                format_size(host.total),
                "" if host.error is None else host.error.message,
            )
            for host in hosts
        ],
        numeric=frozenset({"Received", "Size"}),
    )
