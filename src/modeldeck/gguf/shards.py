"""Names of split models: ``NAME-00001-of-00003.gguf``, as llama.cpp's ``gguf-split`` writes and finds them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SHARD = re.compile(r"(?P<prefix>.*?)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ShardName:
    """A shard's name taken apart: part ``number``, counted from 1, of ``count`` parts."""

    prefix: str
    number: int
    count: int


def parse_shard_name(path: str) -> ShardName | None:
    """Take a path or filename apart; ``None`` when it does not name a shard."""
    match = _SHARD.fullmatch(path)
    if match is None:
        return None
    return ShardName(match["prefix"], int(match["number"]), int(match["count"]))


def shard_names(prefix: str, count: int) -> tuple[str, ...]:
    """Name all parts of a split model, in order."""
    return tuple(f"{prefix}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
