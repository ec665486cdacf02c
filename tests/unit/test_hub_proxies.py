"""NO_PROXY as people and tools set it, and the proxy that a request goes through."""

import os

import pytest

from modeldeck.hub.proxies import is_exempt, proxy_for

DOCKER = "localhost,127.0.0.0/8,::1/128,*.local,169.254/16"


@pytest.mark.parametrize(
    ("no_proxy", "exempt", "proxied"),
    [
        ("", "", "http://127.0.0.1 https://huggingface.co"),
        ("*", "http://127.0.0.1 https://huggingface.co http://[::1]", ""),
        ("localhost", "http://localhost http://LOCALHOST:8080 http://a.localhost", "http://127.0.0.1 http://nolocalhost"),
        ("huggingface.co", "https://huggingface.co https://cdn.huggingface.co", "https://xhuggingface.co https://hf.co"),
        (".corp.example", "http://a.corp.example http://corp.example", "http://corp.example.com"),
        ("*.corp.example", "http://a.b.corp.example http://corp.example", "http://xcorp.example"),
        ("corp.example.", "http://corp.example http://corp.example./x", "http://example"),
        ("hub.example:8080", "http://hub.example:8080", "http://hub.example http://hub.example:80"),
        ("hub.example:443", "https://hub.example https://hub.example:443", "http://hub.example"),
        ("https://hub.example", "https://hub.example", "http://hub.example"),
        ("all://hub.example", "https://hub.example http://hub.example", "http://other.example"),
        ("127.0.0.1", "http://127.0.0.1 http://127.0.0.1:9", "http://127.0.0.2 http://localhost"),
        ("127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1"),
        ("127.0.0.0/8", "http://127.0.0.1 http://127.9.9.9:80", "http://128.0.0.1 http://[::1]"),
        ("10.1.2.3/8", "http://10.9.9.9", "http://11.0.0.1"),
        ("::1", "http://[::1] http://[::1]:8080 http://[0:0:0:0:0:0:0:1]", "http://127.0.0.1 http://[::2]"),
        ("[::1]", "http://[::1] http://[::1]:8080", "http://[::2]"),
        ("[::1]:8080", "http://[::1]:8080", "http://[::1]"),
        ("::1/128", "http://[::1]", "http://[::2]"),
        ("[::1]/128", "http://[::1]", "http://[::2]"),
        ("fe80::/10", "http://[fe80::1] http://[febf::1]:9", "http://[fec0::1]"),
        (DOCKER, "http://localhost http://127.0.0.1:5000 http://[::1]:5000 http://x.local", "http://hub.example"),
        (" a.example , b.example\tc.example,,", "http://a.example http://b.example http://c.example", "http://d.example"),
        ("[,],::/,300.1.1.1,[::1,10.0.0.0/99,://,a.example", "http://a.example", "http://[::1] http://10.0.0.1"),
    ],
)  # fmt: skip
def test_what_no_proxy_exempts(no_proxy: str, exempt: str, proxied: str) -> None:
    assert [url for url in exempt.split() if not is_exempt(url, no_proxy)] == []
    assert [url for url in proxied.split() if is_exempt(url, no_proxy)] == []


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://hub.example", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://hub.example", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://hub.example", None),
        ({"HTTP_PROXY": "p:1"}, "http://hub.example", "http://p:1"),
        ({"ALL_PROXY": "socks5://p:1"}, "https://hub.example", "socks5://p:1"),
        ({"ALL_PROXY": "http://a", "HTTPS_PROXY": "http://p"}, "https://hub.example", "http://p"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "hub.example"}, "https://hub.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "other.example"}, "https://hub.example", "http://p"),
        ({"HTTPS_PROXY": ""}, "https://hub.example", None),
    ],
    ids=str,
)
def test_the_proxy_of_a_request(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: str | None
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy
