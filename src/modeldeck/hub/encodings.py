"""What a Content-Encoding header says. Pure."""

from __future__ import annotations

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"})


def compressions(content_encoding: str | None) -> frozenset[str]:
    """Return the compressions that a Content-Encoding header names.

    Storage and proxies also send values that change nothing, such as ``identity``, ``aws-chunked``, ``binary`` or
    ``UTF-8``. They are ignored: the digest decides whether the bytes are right.

    Parameters
    ----------
    content_encoding
        The value of the header, or ``None`` if there is none.

    Examples
    --------
    >>> sorted(compressions("aws-chunked, gzip"))
    ['gzip']
    >>> sorted(compressions("Identity"))
    []
    """
    codings = {coding.strip().lower() for coding in (content_encoding or "").split(",")}
    return _COMPRESSIONS & codings
