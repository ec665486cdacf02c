"""A GGUF header parser that does no I/O: it is fed bytes, and asks for the next range until it has the header.

The format is that of ggml's ``docs/gguf.md``. The checks are those of llama.cpp's ``gguf.cpp``: the parser refuses what
llama.cpp refuses, and nothing that llama.cpp loads. It never allocates memory by a declared count or length. It keeps
only bytes that it was fed, and skips long arrays, numeric ones without fetching them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from modeldeck._errors import GGUFError
from modeldeck.gguf.ggml_types import GGML_TYPES, tensor_bytes

QUICK_BYTES = 32 << 10
"""The limit of a quick look. In every published model seen so far, the keys it needs lie in the first 2 KiB."""

MAX_HEADER_BYTES = 64 << 20
"""Four times the largest known header: a vocabulary of 262 144 tokens takes 16 MB."""

_FIRST_CHUNK_BYTES = 16 << 10
_LAST_CHUNK_BYTES = 4 << 20
_CHUNK_GROWTH = 4
_MAX_KV_COUNT = 1 << 16
_MAX_TENSOR_COUNT = 1 << 16
_MAX_STRING_COUNT = 1 << 22
_MAX_KEY_BYTES = 1 << 16
_MAX_NAME_BYTES = 63
_MAX_DIMS = 4
_MAX_KEPT_NUMBERS = 1024
_MAX_KEPT_STRINGS = 256
_MAX_KEPT_VALUES = 1 << 16
"""The limit for all arrays together. Real headers have a few thousand values; each takes up to 40 times its bytes."""
_DEFAULT_ALIGNMENT = 32

_KNOWN_STARTS = {
    b"vers": "it is a pointer of Git LFS that stands for the file",
    b"PK\x03\x04": "it is a zip archive",
    b"\x1f\x8b\x08\x00": "it is a gzip archive",
    b"<!DO": "it is a web page",
    b"<!do": "it is a web page",
    b"<htm": "it is a web page",
    b"tjgg": "it has the older format GGML",
    b"fmgg": "it has the older format GGML",
    b"lmgg": "it has the older format GGML",
}

_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_KV_BYTES = 13
_SMALLEST_TENSOR_BYTES = 24

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | tuple[Scalar, ...]
_Steps: TypeAlias = Generator[None, None, None]
_Bytes: TypeAlias = Generator[None, None, bytes]


class StringArray(NamedTuple):
    """The place that a long array of strings takes: its number of strings, and their bytes with their lengths."""

    string_count: int
    size: int


class TensorInfo(NamedTuple):
    """A tensor as the header declares it. ``offset`` is in bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def size(self) -> int | None:
        """Bytes of data, or ``None`` for an unknown element type."""
        return tensor_bytes(self.shape, self.type_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """The contents of a header, complete or as far as a quick look went.

    Parameters
    ----------
    version, is_big_endian
        The version of the format, and the byte order.
    kv_count, tensor_count
        The numbers of keys and tensors that the header declares.
    metadata
        The scalars, strings and short arrays by their keys.
    array_lengths
        The length of every array, also of those that were not kept.
    tensors
        The tensors; empty after a quick look, which ends at the vocabulary.
    data_offset
        Where the header ends and the tensors' data begins, in bytes.
    is_complete
        Whether the whole header was read.
    """

    version: int
    is_big_endian: bool
    kv_count: int
    tensor_count: int
    metadata: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...] = ()
    data_offset: int | None = None
    is_complete: bool = False

    @property
    def weights_bytes(self) -> int | None:
        """Bytes of all tensors together, or ``None`` when unknown."""
        sizes = [tensor.size for tensor in self.tensors]
        if not self.is_complete or None in sizes:
            return None
        return sum(size for size in sizes if size is not None)


@dataclass(slots=True)
class _Draft:
    version: int = 0
    is_big_endian: bool = False
    kv_count: int = 0
    tensor_count: int = 0
    metadata: dict[str, Value] = field(default_factory=dict)
    array_lengths: dict[str, int] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    data_offset: int | None = None


class HeaderReader:
    """A header parser that is fed bytes and never reads any by itself.

    ::

        reader = HeaderReader(is_quick=True)
        while reader.needed is not None:
            start, stop = reader.needed
            reader.feed(fetch(start, stop), start)
        reader.header

    Parameters
    ----------
    is_quick
        Stop at the vocabulary, or after 32 KiB, whichever comes first.
    file_size
        The file's size in bytes, where known. A header that demands a larger file is then refused.
    max_bytes
        The limit for the size of the header.
    keeps_bytes
        Fetch and keep every byte of the header, for ``raw``.
    known_string_arrays
        The ``string_arrays`` of another file of the same model. Those of the same length are skipped without being
        fetched; where they turn out to differ, the header is refused.
    """

    def __init__(
        self,
        *,
        is_quick: bool = False,
        file_size: int | None = None,
        max_bytes: int = MAX_HEADER_BYTES,
        keeps_bytes: bool = False,
        known_string_arrays: Mapping[str, StringArray] | None = None,
    ) -> None:
        self._known_string_arrays = known_string_arrays or {}
        self._string_arrays: dict[str, StringArray] = {}
        self._is_quick = is_quick
        self._file_size = file_size
        self._max_bytes = max_bytes
        self._raw: bytearray | None = bytearray() if keeps_bytes else None
        self._buffer = b""
        self._base = 0
        self._position = 0
        self._wanted = 0
        self._fetched = 0
        self._chunk = _FIRST_CHUNK_BYTES
        self._order = "<"
        self._draft = _Draft()
        self._kept_values = 0
        self._header: GGUFHeader | None = None
        self._failure: GGUFError | None = None
        self._is_done = False
        self._steps = self._parse()
        self._advance()

    @property
    def header(self) -> GGUFHeader | None:
        """The header, once ``needed`` is ``None``."""
        return self._header

    @property
    def raw(self) -> bytes | None:
        """The bytes of the header, when the reader keeps them and the header is complete."""
        if self._raw is None or self._draft.data_offset is None:
            return None
        return bytes(self._raw[: self._draft.data_offset])

    @property
    def string_arrays(self) -> Mapping[str, StringArray]:
        """The long arrays of strings that were skipped, by their keys."""
        return self._string_arrays

    @property
    def needed(self) -> tuple[int, int] | None:
        """The range of bytes to feed next, its end exclusive, or ``None`` when no more are needed."""
        if self._header is not None:
            return None
        start = self._end if self._raw is not None else max(self._end, self._position)
        chunk = self._chunk
        if self._is_quick:
            chunk = min(chunk, QUICK_BYTES - self._fetched)
        stop = max(self._wanted, min(start + chunk, self._max_bytes))
        if self._file_size is not None:
            stop = min(stop, self._file_size)
        return start, stop

    def feed(self, data: bytes, offset: int) -> None:
        """Pass bytes of the file, starting at ``offset``. Fewer than needed are fine; none means the end of the file.

        Raises
        ------
        GGUFError
            When llama.cpp could not load the file, or the file ends inside its header.
        """
        if self._failure is not None:
            raise self._failure
        if self._header is not None:
            return
        start, _ = self.needed or (0, 0)
        if not offset <= start < offset + len(data):
            raise GGUFError("The GGUF file ends inside its header.")
        fresh = data[start - offset :]
        self._fetched += len(fresh)
        self._chunk = min(self._chunk * _CHUNK_GROWTH, _LAST_CHUNK_BYTES)
        if self._raw is not None:
            self._raw += fresh
        if self._position > self._end:
            self._buffer, self._base = fresh, start
        else:
            self._buffer = self._buffer[self._position - self._base :] + fresh
            self._base = self._position
        if self._position <= self._end:
            self._advance()

    @property
    def _end(self) -> int:
        return self._base + len(self._buffer)

    def _advance(self) -> None:
        try:
            next(self._steps)
        except StopIteration:
            self._is_done = True
            self._publish()
        except GGUFError as error:
            self._failure = error
            raise
        else:
            missing = max(1, self._wanted - max(self._end, self._position))
            is_spent = self._fetched + missing > QUICK_BYTES
            if self._is_quick and (is_spent or self._is_at_vocabulary()):
                self._publish()

    def _publish(self) -> None:
        draft = self._draft
        self._header = GGUFHeader(
            version=draft.version,
            is_big_endian=draft.is_big_endian,
            kv_count=draft.kv_count,
            tensor_count=draft.tensor_count,
            metadata=dict(draft.metadata),
            array_lengths=dict(draft.array_lengths),
            tensors=draft.tensors,
            data_offset=draft.data_offset,
            is_complete=self._is_done,
        )

    def _is_at_vocabulary(self) -> bool:
        """Tell whether the keys that a quick look needs have been read."""
        architecture = self._draft.metadata.get("general.architecture")
        return (
            "tokenizer.ggml.tokens" in self._draft.array_lengths
            and f"{architecture}.block_count" in self._draft.metadata
        )

    # --- the parser: generators that yield when they lack bytes ------------------------------------------------------

    def _require(self, count: int) -> _Steps:
        """Wait until ``count`` bytes from the current position on have been fed."""
        self._wanted = self._position + count
        self._check_reach(self._wanted)
        while self._end < self._wanted or self._position < self._base:
            yield

    def _check_reach(self, stop: int) -> None:
        if self._file_size is not None and stop > self._file_size:
            raise _too_short(self._file_size, stop)
        if stop > self._max_bytes:
            raise GGUFError(f"The GGUF header is larger than {self._max_bytes >> 20} MiB, more than any real model's.")

    def _take(self, count: int) -> _Bytes:
        yield from self._require(count)
        start = self._position - self._base
        self._position += count
        return self._buffer[start : start + count]

    def _number(self, code: str) -> Generator[None, None, int]:
        size = struct.calcsize(self._order + code)
        data = yield from self._take(size)
        value: int = struct.unpack(self._order + code, data)[0]
        return value

    def _string(self, limit: int | None = None) -> Generator[None, None, str]:
        length = yield from self._number("Q")
        if limit is not None and length > limit:
            raise GGUFError(f"The GGUF header has a name of {length} bytes, more than llama.cpp allows.")
        data = yield from self._take(length)
        return data.decode("utf-8", errors="replace")

    def _parse(self) -> _Steps:
        draft = self._draft
        magic = yield from self._take(4)
        if magic != b"GGUF":
            raise GGUFError(f"This is not a GGUF file: {_KNOWN_STARTS.get(magic, 'it does not begin with GGUF')}.")
        version = yield from self._number("I")
        if version & 0xFFFF == 0:
            self._order = ">"
            draft.is_big_endian = True
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise GGUFError(f"GGUF version {version} is not supported: llama.cpp reads versions 2 and 3.")
        draft.version = version
        draft.tensor_count = yield from self._number("Q")
        draft.kv_count = yield from self._number("Q")
        self._check_count("keys", draft.kv_count, _MAX_KV_COUNT, _SMALLEST_KV_BYTES)
        self._check_count("tensors", draft.tensor_count, _MAX_TENSOR_COUNT, _SMALLEST_TENSOR_BYTES)
        seen: set[str] = set()
        alignment = _DEFAULT_ALIGNMENT
        for _ in range(draft.kv_count):
            key = yield from self._string(_MAX_KEY_BYTES)
            if key in seen:
                raise GGUFError(f"The GGUF header has the key {key!r} twice.")
            seen.add(key)
            type_id = yield from self._value(key)
            if key == "general.alignment":
                alignment = self._checked_alignment(type_id)
        yield from self._read_tensors(alignment)

    def _check_count(self, what: str, count: int, limit: int, smallest: int) -> None:
        if count > limit:
            raise GGUFError(f"The GGUF header declares {count} {what}, which is impossible. The file is damaged.")
        stop = self._position + count * smallest
        if self._file_size is not None and stop > self._file_size:
            raise _too_short(self._file_size, stop)

    def _checked_alignment(self, type_id: int) -> int:
        alignment = self._draft.metadata.get("general.alignment")  # missing when it is a long array
        # llama.cpp aborts the whole process on other types, and on 1.
        if type_id != _UINT32 or not isinstance(alignment, int) or alignment < 2 or alignment & (alignment - 1):
            raise GGUFError(f"The GGUF header has an impossible alignment, {alignment!r}. The file is damaged.")
        return alignment

    def _value(self, key: str) -> Generator[None, None, int]:
        type_id = yield from self._number("I")
        if type_id in _SCALARS:
            self._draft.metadata[key] = yield from self._number(_SCALARS[type_id])
        elif type_id == _STRING:
            self._draft.metadata[key] = yield from self._string()
        elif type_id == _ARRAY:
            yield from self._array(key)
        else:
            raise GGUFError(f"The GGUF header gives {key!r} the unknown type {type_id}. The file is damaged.")
        return type_id

    def _array(self, key: str) -> _Steps:
        type_id = yield from self._number("I")
        count = yield from self._number("Q")
        if type_id in _SCALARS:
            code = _SCALARS[type_id]
            size = struct.calcsize(self._order + code)
            self._check_count("numbers in an array", count, self._max_bytes, size)
            self._draft.array_lengths[key] = count
            if self._keeps(count, _MAX_KEPT_NUMBERS):
                data = yield from self._take(count * size)
                self._draft.metadata[key] = struct.unpack(f"{self._order}{count}{code}", data)
            else:
                self._position += count * size
                self._check_reach(self._position)
        elif type_id == _STRING:
            self._check_count("strings in an array", count, _MAX_STRING_COUNT, 8)
            self._draft.array_lengths[key] = count
            if self._is_quick and self._is_at_vocabulary():
                yield
            if self._keeps(count, _MAX_KEPT_STRINGS):
                strings: list[str] = []
                for _ in range(count):
                    strings.append((yield from self._string()))
                self._draft.metadata[key] = tuple(strings)
            else:
                known = self._known_string_arrays.get(key)
                start = self._position
                if known is not None and known.string_count == count:
                    self._position += known.size
                    self._check_reach(self._position)
                    self._chunk = _FIRST_CHUNK_BYTES
                else:
                    yield from self._skip_strings(count)
                self._string_arrays[key] = StringArray(count, self._position - start)
        else:
            raise GGUFError(f"The GGUF header gives {key!r} an array of type {type_id}. The file is damaged.")

    def _keeps(self, count: int, limit: int) -> bool:
        if count > limit or self._kept_values + count > _MAX_KEPT_VALUES:
            return False
        self._kept_values += count
        return True

    def _skip_strings(self, count: int) -> _Steps:
        """Skip strings quickly: this loop runs half a million times for a large vocabulary."""
        unpack_length = struct.Struct(self._order + "Q").unpack_from
        while count:
            yield from self._require(8)
            buffer, place, last = self._buffer, self._position - self._base, len(self._buffer) - 8
            while count and place <= last:
                place += 8 + unpack_length(buffer, place)[0]
                count -= 1
            self._position = self._base + place
        self._check_reach(self._position)

    def _read_tensors(self, alignment: int) -> _Steps:
        draft = self._draft
        tensors: list[TensorInfo] = []
        names: set[str] = set()
        expected_offset: int | None = 0
        for _ in range(draft.tensor_count):
            name = yield from self._string(_MAX_NAME_BYTES)
            if name in names:
                raise GGUFError(f"The GGUF header has the tensor {name!r} twice. The file is damaged.")
            names.add(name)
            n_dims = yield from self._number("I")
            if n_dims > _MAX_DIMS:
                raise GGUFError(f"The tensor {name!r} has {n_dims} dimensions, llama.cpp reads up to {_MAX_DIMS}.")
            data = yield from self._take(8 * n_dims)
            shape = struct.unpack(f"{self._order}{n_dims}q", data)
            type_id = yield from self._number("I")
            tensor = TensorInfo(name, shape, type_id, (yield from self._number("Q")))
            expected_offset = self._checked_tensor(tensor, expected_offset, alignment)
            tensors.append(tensor)
        draft.tensors = tuple(tensors)
        draft.data_offset = _padded(self._position, alignment)
        if self._raw is not None:
            yield from self._require(0)
        if self._file_size is not None and expected_offset and tensors:
            size = tensors[-1].size
            stop = draft.data_offset + tensors[-1].offset + (size or 0)
            if stop > self._file_size:
                raise _too_short(self._file_size, stop)

    def _checked_tensor(self, tensor: TensorInfo, expected_offset: int | None, alignment: int) -> int | None:
        """Return the next tensor's offset, or ``None`` after an element type that the table lacks."""
        if any(length < 0 for length in tensor.shape) or math.prod(tensor.shape) >= 1 << 63:
            raise GGUFError(f"The tensor {tensor.name!r} has an impossible shape. The file is damaged.")
        known = GGML_TYPES.get(tensor.type_id)
        if known is None:
            return None
        if tensor.shape and tensor.shape[0] % known.block_size:
            raise GGUFError(f"The tensor {tensor.name!r} has rows that are not a multiple of {known.block_size}.")
        if expected_offset is None:
            return None
        if tensor.offset != expected_offset:
            raise GGUFError(f"The data of the tensor {tensor.name!r} is not where it should be. The file is damaged.")
        return expected_offset + _padded(tensor.size or 0, alignment)


def read_header(path: Path, *, is_quick: bool = False) -> GGUFHeader:
    """Read the header of a local file.

    Raises
    ------
    GGUFError
        When llama.cpp could not load the file.
    OSError
        When the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        try:
            reader = HeaderReader(is_quick=is_quick, file_size=size)
            while reader.needed is not None:
                start, stop = reader.needed
                file.seek(start)
                reader.feed(file.read(stop - start), start)
        except GGUFError as error:
            raise GGUFError(
                f"{path.name}: {error.message} If the file at its source is sound, download it again; otherwise choose "
                "another one."
            ) from error
    assert reader.header is not None
    return reader.header


def _too_short(size: int, needed: int) -> GGUFError:
    return GGUFError(f"The GGUF file is incomplete: it has {size:,} bytes, and its header demands {needed:,} or more.")


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
