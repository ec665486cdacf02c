"""Limits of the engine as they are typed and shown."""

from __future__ import annotations

import re
from dataclasses import replace

from modeldeck._errors import InvalidRequestError
from modeldeck._tables import format_size
from modeldeck._types import EngineLimits

NO_LIMIT = ("none", "unlimited")
_BYTES_BY_UNIT = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "bit": 1 / 8,
    "kbit": 10**3 / 8,
    "mbit": 10**6 / 8,
    "gbit": 10**9 / 8,
}
_BANDWIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+?)(?:/s|ps)?", re.ASCII)


def parse_bandwidth(text: str) -> int | None:
    """Read a bandwidth such as ``20MB/s``, ``1.5 MiB/s`` or ``100Mbit/s``. Returns bytes per second.

    Parameters
    ----------
    text : str
        A number with a unit, or "none" for no limit.

    Raises
    ------
    InvalidRequestError
        If the text is not a bandwidth, is less than one byte per second, or could mean bits or bytes.
    """
    text = text.strip()
    if text.lower() in NO_LIMIT:
        return None
    match = _BANDWIDTH.fullmatch(text)
    unit = match[2] if match else ""
    if re.fullmatch(r"[kKmMgG]b", unit):
        prefix = "k" if unit[0] in "kK" else unit[0].upper()
        raise InvalidRequestError(
            f"The unit of {text!r} could mean bits or bytes. Write {prefix}B/s for bytes or {prefix}bit/s for bits."
        )
    if match is None or unit.lower() not in _BYTES_BY_UNIT:
        raise InvalidRequestError(f"{text!r} is not a bandwidth. Write one like 20MB/s, or none for no limit.")
    bytes_per_second = round(float(match[1]) * _BYTES_BY_UNIT[unit.lower()])
    if bytes_per_second < 1:
        raise InvalidRequestError(f"The bandwidth {text!r} is less than 1 B/s. Pause the downloads to stop them.")
    return bytes_per_second


def changed_limits(
    limits: EngineLimits, bandwidth: str | None, downloads: int | None, connections: int | None
) -> EngineLimits:
    """Return the limits with what is given in place of the old values."""
    if bandwidth is not None:
        limits = replace(limits, bandwidth_bytes_per_second=parse_bandwidth(bandwidth))
    if downloads is not None:
        limits = replace(limits, max_active_jobs=downloads)
    if connections is not None:
        limits = replace(limits, max_connections=connections)
    return limits


def limits_line(limits: EngineLimits) -> str:
    rate = limits.bandwidth_bytes_per_second
    bandwidth = "no limit" if rate is None else f"{format_size(rate)}/s" if rate >= 100_000 else f"{rate} B/s"
    return (
        f"Bandwidth: {bandwidth}. Downloads at once: {limits.max_active_jobs}. Connections: {limits.max_connections}."
    )
