"""Reads a model card, which is Markdown, into the tokens that the page draws: structure and text, never HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Literal, TypeAlias
from urllib.parse import urljoin, urlsplit

import msgspec
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.token import Token

MAX_CHARACTERS = 128 * 1024
MAX_TOKENS = 4000
_MAX_URL_CHARACTERS = 2048
_MAX_CHARACTERS_OF_URLS = 4 * MAX_CHARACTERS
_MAX_HTML_CHARACTERS = 8 * 1024
"""Of one block. HTMLParser takes quadratic time for some."""
_MAX_TOKENS_BEFORE_TABLE = 10 * MAX_TOKENS
"""Tokens of the parser, of which the page gets a part."""

CardTag: TypeAlias = Literal[
    "a",
    "blockquote",
    "br",
    "code",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "strong",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "tr",
    "ul",
]
_TAGS = frozenset(CardTag.__args__)  # type: ignore[attr-defined]
_FRONT_MATTER = re.compile(r"\A---[ \t\r]*\n.*?\n---[ \t\r]*(?:\n|\Z)", re.DOTALL)


class CardToken(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a model card. ``nesting`` is 1 where an element begins, -1 where it ends, and 0 for one with text."""

    tag: CardTag
    nesting: Literal[-1, 0, 1] = 0
    text: str = ""
    url: str | None = None


def parse_model_card(text: str, base_url: str) -> tuple[tuple[CardToken, ...], bool]:
    """Return a model card's tokens, and whether the card was too long for all of them.

    Parameters
    ----------
    text
        The whole README.md.
    base_url
        What relative links are relative to. It ends in a slash.
    """
    is_cut = len(text) > MAX_CHARACTERS
    body = _FRONT_MATTER.sub("", text[:MAX_CHARACTERS], count=1)
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    writer = _Writer(base_url)
    for token in parser.parse(body):
        writer.add(token)
    return writer.finish(), is_cut or writer.is_cut


def _table(state: StateBlock, first_line: int, end_line: int, silent: bool) -> bool:
    """Read a table, unless there is enough to show: a few characters can be a table of many empty cells."""
    return len(state.tokens) < _MAX_TOKENS_BEFORE_TABLE and table(state, first_line, end_line, silent)


class _Writer:
    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._links: list[bool] = []
        """Whether each link that is open is one that can be followed."""
        self._url_characters = 0
        self._tokens: list[CardToken] = []
        self.is_cut = False
        """Whether something was left out because there is enough."""

    def finish(self) -> tuple[CardToken, ...]:
        """Return the tokens, with an end for each element that has none yet."""
        is_open: list[CardTag] = []
        for token in self._tokens:
            if token.nesting > 0:
                is_open.append(token.tag)
            elif token.nesting < 0:
                is_open.pop()
        return (*self._tokens, *(CardToken(tag=tag, nesting=-1) for tag in reversed(is_open)))

    @property
    def _is_full(self) -> bool:
        return len(self._tokens) >= MAX_TOKENS or self._url_characters > _MAX_CHARACTERS_OF_URLS

    def add(self, token: Token) -> None:
        """Write a token, with those that are in it."""
        if self._is_full:
            self.is_cut = True
            return
        match token.type:
            case "inline":
                for child in token.children or ():
                    self.add(child)
            case "text" | "text_special":
                self._add_text(token.content)
            case "softbreak":
                self._add_text(" ")
            case "hardbreak":
                self._tokens.append(CardToken(tag="br"))
            case "code_inline":
                self._tokens.append(CardToken(tag="code", text=token.content))
            case "fence" | "code_block":
                self._tokens.append(CardToken(tag="pre", text=token.content))
            case "image":
                self._add_image(token.content)
            case "html_block":
                self._add_html(token.content)
            case "html_inline":
                if token.content.lower().startswith("<br"):
                    self._tokens.append(CardToken(tag="br"))
            case "link_open":
                url = self._safe_url(str(token.attrs.get("href", "")))
                self._links.append(url is not None)
                if url is not None:
                    self._url_characters += len(url)
                    self._tokens.append(CardToken(tag="a", nesting=1, url=url))
            case "link_close":
                if self._links.pop():
                    self._tokens.append(CardToken(tag="a", nesting=-1))
            case _:
                self._add_element(token)

    def _add_element(self, token: Token) -> None:
        # Paragraphs of tight lists are hidden; other elements are not known to the page.
        if token.hidden or token.tag not in _TAGS:
            return
        tag: CardTag = token.tag  # type: ignore[assignment]
        nesting: Literal[-1, 0, 1] = 1 if token.nesting > 0 else -1 if token.nesting < 0 else 0
        last = self._tokens[-1] if self._tokens else None
        before = self._tokens[-2] if len(self._tokens) > 1 else None
        if nesting == -1 and before == CardToken(tag=tag, nesting=1) and last is not None and last.tag == "text":
            # Most elements hold one text: one token instead of three.
            self._tokens[-2:] = [CardToken(tag=tag, text=last.text)]
        else:
            self._tokens.append(CardToken(tag=tag, nesting=nesting))

    def _add_text(self, text: str) -> None:
        if not text:
            return
        if self._tokens and self._tokens[-1].tag == "text":
            text = self._tokens.pop().text + text
        self._tokens.append(CardToken(tag="text", text=text))

    def _add_image(self, description: str) -> None:
        if description.strip():
            self._tokens.append(CardToken(tag="img", text=description.strip()))

    def _add_html(self, html: str) -> None:
        self.is_cut |= len(html) > _MAX_HTML_CHARACTERS
        reader = _TextOfHTML()
        reader.feed(html[:_MAX_HTML_CHARACTERS])
        reader.close()
        words: list[str] = []
        for line in (*"".join(reader.parts).split("\n"), ""):
            if of_line := line.split():
                words += of_line
            elif words and self._is_full:
                self.is_cut = True
                return
            elif words:
                self._tokens.append(CardToken(tag="p", text=" ".join(words)))
                words = []

    def _safe_url(self, href: str) -> str | None:
        """Return the address if it is one of the web; addresses inside the card lead nowhere on the page."""
        if not href or href.startswith("#") or len(href) > _MAX_URL_CHARACTERS:
            return None
        try:
            url = urljoin(self._base_url, href)
            parts = urlsplit(url)
        except ValueError:
            return None
        is_web = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
        return url if is_web else None


class _TextOfHTML(HTMLParser):
    """Collects the text of HTML, without scripts and styles."""

    _BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "table"})
    _SILENT = frozenset({"script", "style"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Skip what begins with ``<![``, as browsers do. Python 3.11 fails where it does not know what follows."""
        return self.parse_bogus_comment(i, report)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent += 1
        elif tag in self._BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in self._BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def first_screen(text: str, characters: int) -> str:
    """Return the metadata and about this much text of a model card, up to the end of a paragraph."""
    metadata = _FRONT_MATTER.match(text)
    start = metadata.end() if metadata else 0
    begin = text[: start + characters]
    end = begin.rfind("\n\n", start)
    return begin if end < 0 else begin[:end]
