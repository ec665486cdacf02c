"""A model card becomes structure and text; what it links to is on the web, and nothing in it can act on the page."""

import time

import pytest

from modeldeck.widget.licences import licence_kind, licence_url
from modeldeck.widget.model_card import MAX_CHARACTERS, MAX_TOKENS, CardToken, first_screen, parse_model_card
from tests.waiting import AT_ONCE_SECONDS

BASE = "https://huggingface.co/o/n/blob/main/"


def shape(text: str) -> str:
    """The tokens of a card, written like HTML."""
    written = []
    for token in parse_model_card(text, BASE)[0]:
        url = f" {token.url}" if token.url else ""
        if token.tag == "text":
            written.append(token.text)
        else:
            written.append(
                {1: f"<{token.tag}{url}>", -1: f"</{token.tag}>", 0: f"<{token.tag}:{token.text}>"}[token.nesting]
            )
    return "".join(written)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("# A *b* `c`", "<h1>A <em:b> <code:c></h1>"),
        ("one\ntwo", "<p:one two>"),
        ("one  \ntwo", "<p>one<br:>two</p>"),
        ("* a\n* b", "<ul><li:a><li:b></ul>"),
        ("1. a\n\n   b", "<ol><li><p:a><p:b></li></ol>"),
        ("> **q**", "<blockquote><p><strong:q></p></blockquote>"),
        ("```py\nx = 1\n```", "<pre:x = 1\n>"),
        ("---\n\n~~s~~", "<hr:><p><s:s></p>"),
        (
            "| a | b |\n| - | - |\n| 1 | |",
            "<table><thead><tr><th:a><th:b></tr></thead><tbody><tr><td:1><td></td></tr></tbody></table>",
        ),
        ("&lt;b&gt; &copy;", "<p:<b> ©>"),
    ],
)
def test_markdown_becomes_structure(text: str, tokens: str) -> None:
    assert shape(text) == tokens


def test_the_metadata_at_the_top_is_left_out() -> None:
    assert shape("---\nlicense: mit\ntags:\n- a\n---\n# Title") == "<h1:Title>"
    assert shape("--- \r\nlicense: mit\r\n---\t\r\n# Title") == "<h1:Title>"
    assert shape("---\nnot closed") == "<hr:><p:not closed>"


@pytest.mark.parametrize(
    ("href", "url"),
    [
        ("https://example.org/a?b#c", "https://example.org/a?b#c"),
        ("NOTES.md", f"{BASE}NOTES.md"),
        ("/other/repo", "https://huggingface.co/other/repo"),
        ("//example.org", "https://example.org"),
        ("#usage", None),
        ("mailto:a@example.org", None),
        ("ftp://example.org", None),
        ("https://user:secret@example.org/", None),
        ("x" * 5000, None),
    ],
)
def test_links_lead_to_the_web_or_nowhere(href: str, url: str | None) -> None:
    assert shape(f"[go]({href})") == (f"<p><a {url}>go</a></p>" if url else "<p:go>")


@pytest.mark.parametrize(
    "scheme", ["javascript:alert(1)", "data:text/html,x", "vbscript:x", "JaVaScRiPt:x", "file:///etc"]
)
def test_other_schemes_are_never_links(scheme: str) -> None:
    assert "<a" not in shape(f"[go]({scheme})")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("![A chart](https://example.org/a.png)", "<p><img:A chart></p>"),
        ("![](a.png)", "<p></p>"),
        ("a <img src=x onerror=alert(1)> b", "<p:a  b>"),
        ("<script>alert(1)</script>", ""),
        ("<div align=center>\n<p>Hello &amp; <b>welcome</b></p>\n<style>p {}</style>\n</div>", "<p:Hello & welcome>"),
        ("a<br/>b", "<p>a<br:>b</p>"),
        ("<!-- a comment -->", ""),
        ("<div>one<br> \x0b\r\n two<p>three\nfour</div>", "<p:one><p:two><p:three four>"),
        ("<div>\n<![logo](logo.png)\n<b>Text</b></div>", "<p:Text>"),
        ("<div>\nText\n<![ \n</div>", "<p:Text>"),
        ("<div>\nText <![CDATA[x]]> more</div>", "<p:Text more>"),
    ],
)
def test_html_and_images_become_their_text(text: str, tokens: str) -> None:
    assert shape(text) == tokens


def test_a_long_card_is_cut_where_an_element_ends() -> None:
    tokens, is_cut = parse_model_card("* **a** b\n" * 10 + "\n\nword *b* c\n\n" * MAX_TOKENS, BASE)
    assert is_cut
    assert MAX_TOKENS < len(tokens) < MAX_TOKENS + 20
    assert sum(token.nesting for token in tokens) == 0
    assert parse_model_card("a" * (MAX_CHARACTERS + 1), BASE) == (
        (CardToken(tag="p", text="a" * MAX_CHARACTERS),),
        True,
    )
    assert parse_model_card("", BASE) == ((), False)


COLUMNS = 200


@pytest.mark.parametrize(
    "text",
    [
        f"{'|a' * COLUMNS}\n{'|-' * COLUMNS}\n" + "a\n" * 2000,
        "> * [a *b*](c) " * 9000,
        "[a](b) *c* " * 9000,
        ("<div>\n" + "a<p>" * 1500 + "</div>\n\n# b\n\n") * 3,
        "[a]: https://example.org/" + "x" * 2000 + "\n\n" + "[a] " * 3000,
    ],
    ids=["cells", "list", "links", "html", "references"],
)
def test_a_card_is_cut_inside_an_element_too_and_what_is_open_is_closed(text: str) -> None:
    tokens, is_cut = parse_model_card(text, BASE)
    assert is_cut
    assert 10 < len(tokens) < MAX_TOKENS + 10
    assert sum(len(token.url or "") for token in tokens) < 5 * MAX_CHARACTERS
    is_open: list[str] = []
    for token in tokens:
        if token.nesting > 0:
            is_open.append(token.tag)
        elif token.nesting < 0:
            assert is_open.pop() == token.tag
    assert not is_open


def test_a_large_block_of_html_is_cut() -> None:
    tokens, is_cut = parse_model_card("<div>" + "word " * 4000 + "</div>\n\nAfter it", BASE)
    assert is_cut
    assert [token.tag for token in tokens] == ["p", "p"]
    assert tokens[-1].text == "After it"


@pytest.mark.parametrize(
    "text",
    [
        "---" + "\n" * MAX_CHARACTERS + "x",
        "<div>a" + " " * MAX_CHARACTERS + "b</div>",
        "<div>\n" + "<a b='" * 20_000,
        ("|a" * 256 + "\n" + "|-" * 256 + "\n" + "a\n" * 255 + "\n") * 60,
    ],
    ids=["metadata", "spaces", "attributes", "tables"],
)
def test_no_card_takes_long(text: str) -> None:
    begin = time.thread_time()
    first_screen(text, 4000)
    parse_model_card(text, BASE)
    assert time.thread_time() - begin < AT_ONCE_SECONDS


@pytest.mark.parametrize(
    ("identifier", "kind", "url"),
    [
        ("apache-2.0", "permissive", "https://spdx.org/licenses/Apache-2.0.html"),
        ("MIT", "permissive", "https://spdx.org/licenses/MIT.html"),
        ("cc-by-nc-4.0", "non_commercial", "https://spdx.org/licenses/CC-BY-NC-4.0.html"),
        ("gpl-3.0", "share_alike", "https://spdx.org/licenses/GPL-3.0-only.html"),
        ("llama3.1", "own_terms", "https://hub/o/n"),
        (None, None, None),
    ],
)
def test_a_licence_has_a_kind_and_a_place_to_read_it(identifier: str | None, kind: str | None, url: str | None) -> None:
    assert licence_kind(identifier) == kind
    assert licence_url(identifier, "https://hub/o/n") == url
