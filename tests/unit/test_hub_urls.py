from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from modeldeck._errors import InvalidRequestError, UnauthorizedError
from modeldeck._types import SearchFilters, SearchQuery
from modeldeck.hub import urls

ENDPOINT = "https://huggingface.co"


@pytest.mark.parametrize("repo_id", ["owner/name", "gpt2", "Qwen/Qwen3-8B-GGUF", "a/b.c_d-e", "0/1"])
def test_repo_ids_of_the_hub_pass(repo_id: str) -> None:
    assert urls.check_repo_id(repo_id) == repo_id


@pytest.mark.parametrize(
    "repo_id",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "../x",
        "a/..",
        "a/.b",
        "a--b/c",
        "a/b.git",
        "a b/c",
        "a\\b",
        "a/b\n",
        "a/b\0",
        "ä/b",
        *("x" * 97, f"a/{'x' * 97}", None, 3, b"a/b", "C:/x", "https://huggingface.co/a/b"),
    ],
)
def test_other_repo_ids_are_refused(repo_id: Any) -> None:
    with pytest.raises(InvalidRequestError, match="OWNER/NAME"):
        urls.check_repo_id(repo_id)


REPO_ID_PIECES = st.sampled_from(
    ["a", "Z", "0", "_", "-", ".", "/", "--", "..", ".git", " ", "\n", "é", "字", "x" * 90]
)


@given(st.lists(REPO_ID_PIECES, max_size=8).map("".join))
def test_repo_ids_are_judged_as_by_huggingface_hub(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        is_valid = False
    else:
        # Some versions let other letters pass, which the Hub has not, and some a line break at the end.
        is_valid = repo_id.isascii() and not repo_id.endswith("\n")
    try:
        urls.check_repo_id(repo_id)
    except InvalidRequestError:
        assert not is_valid
    else:
        assert is_valid


@pytest.mark.parametrize(
    "filename", ["m.gguf", "BF16/m-00001-of-00002.gguf", ".gitattributes", "a b/ü.gguf", "console.gguf"]
)
def test_filenames_of_the_hub_pass(filename: str) -> None:
    assert urls.check_filename(filename) == filename


@pytest.mark.parametrize(
    "filename",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "/etc/passwd",
        "a/",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\nb",
        *("a\x85b", "a\x9b2Jb", "a\u2028b", "a\u202efugg.b", "a\u2066b"),
        "C:x",
        "c:/x",
        *("\ud800", "x" * 256),
        *("/".join(["d" * 100] * 11), None, 7, b"m.gguf"),
    ],
)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_filenames_that_lead_elsewhere_are_refused(filename: Any, platform: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be the name of a file"):
        urls.check_filename(filename, platform=platform)


@pytest.mark.parametrize(
    "filename",
    [
        *("nul", "NUL.gguf", "a/con", "com1.txt", "LPT9", "aux.tar.gz", "aux/m.gguf", "name.", "name ", "a./b"),
        *("::x", "ab:c", "a/b:c", "what?.gguf", "a*b", "<a>", 'a"b', "a|b"),
    ],
)
def test_filenames_that_only_windows_forbids_are_refused_there(filename: str) -> None:
    for platform in ("linux", "darwin"):
        assert urls.check_filename(filename, platform=platform) == filename
    with pytest.raises(InvalidRequestError, match="Windows does not allow the name"):
        urls.check_filename(filename, platform="win32")


@pytest.mark.parametrize(("platform", "kind"), [("linux", PurePosixPath), ("win32", PureWindowsPath)])
@given(filename=st.text(st.sampled_from("ab./\\:\0 CON-~é"), max_size=24))
def test_an_accepted_filename_stays_below_its_folder(platform: str, kind: type[PurePath], filename: str) -> None:
    try:
        urls.check_filename(filename, platform=platform)
    except InvalidRequestError:
        return
    path = kind(filename)
    assert not path.is_absolute()
    assert not path.drive
    assert ".." not in path.parts
    assert path.as_posix() == filename


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "feature/x", "a" * 40, "abc1234"])
def test_revisions_pass(revision: str) -> None:
    assert urls.check_revision(revision) == revision


@pytest.mark.parametrize(
    "revision", ["", "..", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "../main", "/main", "a@{1}"]
)
def test_what_git_takes_for_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not a revision"):
        urls.check_revision(revision)


@pytest.mark.parametrize(
    ("revision", "filename"),
    [("main", "m.gguf"), ("refs/pr/1", "BF16/m.gguf"), ("v1+x", "a b&c=d?e#f/ü%20.gguf"), ("main", "~!$'()*,;@.gguf")],
)
def test_resolve_addresses_are_huggingface_hubs(revision: str, filename: str) -> None:
    assert urls.resolve_url(ENDPOINT, "o/n", revision, filename) == hf_hub_url("o/n", filename, revision=revision)
    elsewhere = urls.resolve_url("http://127.0.0.1:8/hub", "o/n", revision, filename)
    assert elsewhere == hf_hub_url("o/n", filename, revision=revision).replace(ENDPOINT, "http://127.0.0.1:8/hub")


def test_api_addresses_quote_the_whole_revision() -> None:
    assert urls.model_info_url(ENDPOINT, "o/n", "refs/pr/1").endswith("/api/models/o/n/revision/refs%2Fpr%2F1")
    assert urls.tree_url(ENDPOINT, "o/n", "refs/pr/1").split("?")[0].endswith("/api/models/o/n/tree/refs%2Fpr%2F1")
    assert "recursive=true" in urls.tree_url(ENDPOINT, "o/n", "main")


def test_the_search_address_says_what_is_wanted() -> None:
    url = urls.search_url(ENDPOINT, SearchQuery(text=" qwen 3&x ", sort="trending", limit=1000, author="Qwen"))
    pairs = parse_qsl(urlsplit(url).query)
    assert ("filter", "gguf") in pairs
    assert ("search", "qwen 3&x") in pairs
    assert ("author", "Qwen") in pairs
    assert ("sort", "trendingScore") in pairs
    assert ("limit", "100") in pairs
    assert {"gguf", "gated", "tags", "downloads"} < {value for key, value in pairs if key == "expand[]"}


@pytest.mark.parametrize("query", [SearchQuery(text="\ud800"), SearchQuery(sort="bogus"), SearchQuery(author="\udfff")])  # type: ignore[arg-type]
def test_a_search_for_what_cannot_be_asked_is_refused(query: SearchQuery) -> None:
    with pytest.raises(InvalidRequestError):
        urls.search_url(ENDPOINT, query)


@pytest.mark.parametrize(
    ("filters", "sent"),
    [
        ({}, []),
        ({"task": "chat"}, [("filter", "conversational")]),
        ({"task": "embedding"}, [("pipeline_tag", "feature-extraction")]),
        ({"task": "vision"}, [("pipeline_tag", "image-text-to-text")]),
        ({"task": "code"}, [("filter", "code")]),
        ({"task": "text-generation"}, [("pipeline_tag", "text-generation")]),
        ({"license": "apache-2.0"}, [("filter", "license:apache-2.0")]),
        ({"language": "pt"}, [("filter", "pt")]),
        ({"gated": False}, [("gated", "false")]),
        ({"gated": True}, [("gated", "true")]),
        ({"app": "llama.cpp"}, [("apps", "llama.cpp")]),
        ({"min_parameters": 10**9}, [("num_parameters", "min:1B")]),
        ({"max_parameters": 9 * 10**9}, [("num_parameters", "max:9B")]),
        ({"min_parameters": 0, "max_parameters": 10**9}, [("num_parameters", "min:0B,max:1B")]),
        (
            {"min_parameters": 1_500_000_001, "max_parameters": 1_500_000_001},
            [("num_parameters", "min:1500M,max:1501M")],
        ),
        ({"quantization": "Q4_K_M"}, [("expand[]", "siblings")]),
    ],
    ids=str,
)
def test_filters_are_the_hub_s_own_parameters(filters: dict[str, Any], sent: list[tuple[str, str]]) -> None:
    def pairs(query: SearchQuery) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(urls.search_url(ENDPOINT, query)).query)

    without = pairs(SearchQuery())
    added = pairs(SearchQuery(filters=SearchFilters(**filters)))
    assert [pair for pair in added if pair not in without] == sent
    assert len(added) == len(without) + len(sent)


@pytest.mark.parametrize(
    "filters",
    [
        {"task": ""},
        {"task": "text generation"},
        {"license": "mit,apache-2.0"},
        {"license": "mit&private=true"},
        {"language": 5},
        {"quantization": "Q4 K"},
        {"app": "llama.cpp\n"},
        {"min_parameters": -1},
        {"min_parameters": 1.5},
        {"max_parameters": True},
        {"max_parameters": "9B"},
        {"min_parameters": 2, "max_parameters": 1},
    ],
    ids=str,
)
def test_filters_that_cannot_be_sent_are_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="Give"):
        urls.search_url(ENDPOINT, SearchQuery(filters=SearchFilters(**filters)))


def test_an_empty_search_searches_for_nothing_in_particular() -> None:
    assert "search=" not in urls.search_url(ENDPOINT, SearchQuery(text="  "))


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://huggingface.co", True),
        ("https://HUGGINGFACE.co:443/x?y", True),
        ("http://huggingface.co/x", False),
        ("https://huggingface.co:8443/x", False),
        ("https://huggingface.co.evil.example/x", False),
        ("https://evil.example/https://huggingface.co", False),
        ("https://huggingface.co@evil.example/", False),
        ("https://evil.example\\@huggingface.co/", False),
        ("https://sub.huggingface.co/", False),
        ("//huggingface.co/x", False),
        ("file:///etc/passwd", False),
        ("https://[bad/", False),
        ("https://huggingface.co:99999999/", False),
        ("https://xn--a/", False),
        ("", False),
    ],
)
def test_origins_are_compared_whole(url: str, is_same: bool) -> None:
    assert urls.is_same_origin(url, ENDPOINT) is is_same
    assert bool(urls.authorization_headers(url, endpoint=ENDPOINT, token="hf_x")) is is_same


def test_two_addresses_that_are_none_have_no_common_origin() -> None:
    assert not urls.is_same_origin("mailto:a", "mailto:a")


def test_the_token_is_one_word_and_stays_out_of_the_message() -> None:
    headers = urls.authorization_headers(ENDPOINT, endpoint=ENDPOINT, token="hf_x\n")
    assert headers == {"Authorization": "Bearer hf_x"}
    for token in ("hf_secret\nX-Evil: 1", "hf_secrét", "hf_secret x"):
        with pytest.raises(UnauthorizedError) as caught:
            urls.authorization_headers(ENDPOINT, endpoint=ENDPOINT, token=token)
        assert "hf_secr" not in caught.value.message
    assert urls.authorization_headers(ENDPOINT, endpoint=ENDPOINT, token=None) == {}


@pytest.mark.parametrize(
    ("reference", "joined"),
    [
        ("/x?y=%2F&z=a%20b", "https://h.example/x?y=%2F&z=a%20b"),
        (
            "https://cdn.example/a~b?Policy=x_&Signature=a-b~c%2B",
            "https://cdn.example/a~b?Policy=x_&Signature=a-b~c%2B",
        ),
        ("file:///etc/passwd", None),
        ("javascript:alert(1)", None),
        ("https://evil.example\\@h.example/", None),
        ("http://h:99999999/", None),
        ("https://xn--zzzzzz.com/x", None),
    ],
)
def test_joined_addresses_are_web_addresses(reference: str, joined: str | None) -> None:
    assert urls.join_url("https://h.example/a/b", reference) == joined


@pytest.mark.parametrize(
    ("etag", "plain"),
    [('"ABC"', "abc"), ('W/"abc"', "abc"), ("abc", "abc"), ("", None), ('""', None), (None, None)],
)
def test_etags_lose_quotes_and_weakness(etag: str | None, plain: str | None) -> None:
    assert urls.normalize_etag(etag) == plain
