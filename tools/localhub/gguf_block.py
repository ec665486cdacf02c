"""The ``gguf`` block of the Hub's API, read from a file's header.

It has a small reader of its own, because modeldeck's reader is tested against it. It trusts its files.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO

from tools.localhub.catalogue import Blob

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def gguf_block(files: Mapping[str, Blob]) -> dict[str, Any] | None:
    """Return what the Hub tells of one GGUF file of a repository, a model before a projector, or ``None``."""
    for path in sorted(files, key=lambda path: ("mmproj" in path, path)):
        if path.endswith(".gguf"):
            block = _read(files[path])
            if block is not None:
                return block
    return None


def _read(blob: Blob) -> dict[str, Any] | None:
    with BytesIO(blob.source) if isinstance(blob.source, bytes) else blob.source.open("rb") as file:
        try:
            return _parse(file, blob.size)
        except (struct.error, KeyError, UnicodeDecodeError):
            return None


def _parse(file: BinaryIO, size: int) -> dict[str, Any] | None:
    if file.read(4) != b"GGUF":
        return None
    _version, tensor_count, key_count = struct.unpack("<IQQ", file.read(20))
    values = {}
    for _ in range(key_count):
        key = _string(file)
        values[key] = _value(file, _number(file, "I"))
    parameters = 0
    for _ in range(tensor_count):
        _string(file)
        parameters += math.prod(_number(file, "Q") for _ in range(_number(file, "I")))
        file.read(12)
    architecture = values["general.architecture"]
    block = {
        "total": parameters,
        "architecture": architecture,
        "context_length": values.get(f"{architecture}.context_length"),
        "chat_template": values.get("tokenizer.chat_template"),
        "totalFileSize": size,
    }
    return {name: value for name, value in block.items() if value is not None}


def _number(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    item_kind, count = _number(file, "I"), _number(file, "Q")
    if item_kind in _SCALARS:
        file.seek(count * struct.calcsize(f"<{_SCALARS[item_kind]}"), 1)
        return None
    for _ in range(count):
        _value(file, item_kind)
    return None
