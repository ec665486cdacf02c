"""Patches to one comm and its kernel, so that a click reaches Python while a cell runs and does not disturb that cell.

They touch private parts of ipykernel and comm, so each one first checks that the part exists. Browser tests pin what
they achieve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def prepare_comm(comm: Any) -> None:
    """Patch a comm: no cell events, messages on the route that the page chose, and no hanging kernel."""
    kernel = getattr(comm, "kernel", None) or _running_kernel()
    _keep_subshell_route(comm)
    _skip_cell_events(comm)
    _accept_on_control_channel(kernel)
    _send_replies_through_the_stream(kernel)


def _keep_subshell_route(comm: Any) -> None:
    # ipykernel 7.4 sends a comm's messages to the shell that published last: the cell's own, which is busy.
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, default: default


def _skip_cell_events(comm: Any) -> None:
    # comm's own handle_msg fires pre_execute and post_execute, and matplotlib then flushes the running cell's figure.
    callback: Callable[[Any], None] | None = getattr(comm, "_msg_callback", None)
    if callback is not None and hasattr(comm, "handle_msg"):
        comm.handle_msg = callback


def _accept_on_control_channel(kernel: Any) -> None:
    # The control channel is served by a thread of its own, so a comm_msg sent there arrives during any cell.
    handlers = getattr(kernel, "control_handlers", None)
    manager: Any = getattr(kernel, "comm_manager", None)
    if isinstance(handlers, dict) and hasattr(manager, "comm_msg"):
        handlers.setdefault("comm_msg", manager.comm_msg)


def _send_replies_through_the_stream(kernel: Any) -> None:
    # ipykernel 7.0 to 7.3 sends replies past the stream that reads the same socket. A message that arrives in that
    # moment, such as a click when a cell ends, is then never read, nor anything after it: the kernel hangs. 7.4 sends
    # them through the stream, on the same thread.
    manager: Any = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    stream = getattr(kernel, "shell_stream", None)
    if stream is not None and hasattr(manager, "_shell_socket"):
        manager._shell_socket = stream


def _running_kernel() -> Any:
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)
