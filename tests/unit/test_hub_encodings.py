import pytest

from modeldeck.hub.encodings import compressions


@pytest.mark.parametrize(
    ("header", "found"),
    [
        *((header, set()) for header in (None, "", " ", "identity", "Identity", "aws-chunked", "binary", "UTF-8", "x")),
        *((header, {header.lower()}) for header in ("gzip", "GZIP", "x-gzip", "br", "zstd", "deflate", "compress")),
        ("aws-chunked,gzip", {"gzip"}),
        ("gzip , br", {"gzip", "br"}),
    ],
)
def test_only_compressions_count(header: str | None, found: set[str]) -> None:
    assert compressions(header) == found
