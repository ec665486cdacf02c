"""Sizes, counts and tables as people read them, in text and in HTML."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from itertools import zip_longest
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

_GB_BYTES = 10**9
_MB_BYTES = 10**6
_KB_BYTES = 10**3
_GIB_BYTES = 2**30
_MIB_BYTES = 2**20

UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text. The columns in ``numeric`` are aligned to the right.

    ``groups`` has the name of each row's group, if there are groups. A line with the name stands before each.
    ``notes`` are sentences below the table.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    caption: str = ""
    groups: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [self.headings, *self.rows]
        widths = [max(text_width(line[column]) for line in lines) for column in range(len(self.headings))]
        text = [
            "  ".join(
                _pad(cell, width, is_right=heading in self.numeric)
                for heading, cell, width in zip(self.headings, line, widths, strict=True)
            ).rstrip()
            for line in lines
        ]
        body = [part for name, row in self._grouped(text[1:]) for part in ([name, row] if name else [row])]
        return "\n".join([*([self.caption] if self.caption else []), text[0], *body, *self.notes])

    def _grouped(self, rows: Sequence[T]) -> Iterator[tuple[str, T]]:
        """Yield the rows, each with the name of its group if it is the first one of it."""
        before = ""
        for row, group in zip_longest(rows, self.groups, fillvalue=""):
            yield (group if group != before else ""), row  # type: ignore[misc]
            before = group

    def to_html(self) -> str:
        """Return the table as HTML for a notebook, which gives it the colours of its theme. All text is escaped."""
        styles = [
            f' style="text-align: {"right; white-space: nowrap" if heading in self.numeric else "left"}"'
            for heading in self.headings
        ]

        def line(tag: str, cells: Sequence[str]) -> str:
            return "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True))

        def across(tag: str, text: str) -> str:
            return f'<tr><{tag} colspan="{len(self.headings)}" style="text-align: left">{escape(text)}</{tag}></tr>'

        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        body = "".join(
            (across("th", name) if name else "") + f"<tr>{line('td', row)}</tr>"
            for name, row in self._grouped(self.rows)
        )
        notes = "".join(across("td", note) for note in self.notes)
        foot = f"<tfoot>{notes}</tfoot>" if notes else ""
        head = f"<thead><tr>{line('th', self.headings)}</tr></thead>"
        return f"<table>{caption}{head}<tbody>{body}</tbody>{foot}</table>"


def format_size(size: int | None) -> str:
    """Return a size in bytes as ``"4.92 GB"``, ``"98.4 MB"``, ``"40.0 KB"`` or ``"133 bytes"``."""
    if size is None:
        return UNKNOWN
    if size >= _GB_BYTES:
        return f"{size / _GB_BYTES:.2f} GB"
    if size >= _MB_BYTES // 10:
        return f"{size / _MB_BYTES:.1f} MB"
    return f"{size / _KB_BYTES:.1f} KB" if size >= _KB_BYTES else f"{size} bytes"


def format_gib(amount: int | None) -> str:
    """Return an amount of memory as ``"5.1 GiB"`` or ``"24 MiB"``. Files are in GB as on the Hub, memory in GiB."""
    if amount is None:
        return UNKNOWN
    return f"{amount / _GIB_BYTES:.1f} GiB" if amount >= 0.1 * _GIB_BYTES else f"{amount / _MIB_BYTES:.0f} MiB"


def format_memory(needed: int, available: int) -> tuple[str, str]:
    """Return two amounts of memory in GiB, or in a smaller unit where both would look the same."""
    for unit, name, digits in ((_GIB_BYTES, "GiB", 1), (_MIB_BYTES, "MiB", 0)):
        texts = f"{needed / unit:.{digits}f} {name}", f"{available / unit:.{digits}f} {name}"
        if texts[0] != texts[1]:
            return texts
    return f"{needed:,} bytes", f"{available:,} bytes"


def format_count(count: int | None) -> str:
    """Return a number with separators between the thousands."""
    return UNKNOWN if count is None else f"{count:,}"


def format_parameters(count: int | None) -> str:
    """Return a number of weights as people write it: ``"135M"`` or ``"7.6B"``."""
    if count is None:
        return UNKNOWN
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.{1 if count < 100 * unit else 0}f}".removesuffix(".0") + name
    return str(count)


def format_rate(bytes_per_second: float) -> str:
    """Return a speed as ``"60.7 MB/s"``."""
    return f"{bytes_per_second / _MB_BYTES:.1f} MB/s"


def format_duration(seconds: float) -> str:
    """Return a duration as ``"45 s"``, ``"12 min 5 s"`` or ``"3 h 7 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for most of East Asia's letters and for emoji."""
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # accents, and what only joins emoji
        return 0
    return 2 if unicodedata.east_asian_width(character) in "FW" else 1


def _pad(text: str, width: int, *, is_right: bool) -> str:
    spaces = " " * (width - text_width(text))
    return spaces + text if is_right else text + spaces


def shorten_middle(text: str, width: int) -> str:
    """Return the text, with its middle replaced by ``…`` if it takes more than ``width`` columns of a terminal."""
    if text_width(text) <= width:
        return text
    if width < 3:
        return ""
    head = "".join(_first_columns(text, (width - 1) // 2))
    tail = "".join(reversed([*_first_columns(reversed(text), width - 1 - text_width(head))]))
    return f"{head}…{tail}"


def _first_columns(characters: Iterable[str], width: int) -> Iterator[str]:
    """Yield the characters that fit into so many columns."""
    for character in characters:
        width -= _character_width(character)
        if width < 0:
            return
        yield character


class Readable:
    """A result that IPython shows as ``print`` does, and not by its long repr."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        # IPython looks at one class after the other, and would find the repr of a dataclass or a tuple first.
        cls._repr_pretty_ = Readable._repr_pretty_  # type: ignore[method-assign]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        text, is_inside = str(self), len(printer.stack) > 1  # a dictionary or a list, which lines would tear apart
        printer.text(repr(self) if is_inside and "\n" in text else text)


class Tabular(Readable):
    """A result that shows itself as a table: in a notebook, in IPython, and with ``print``."""

    __slots__ = ()

    def _table(self) -> Table:
        raise NotImplementedError

    def _records(self) -> list[dict[str, Any]]:
        """Return the rows as plain values, by the names that they have in Python."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``, with unformatted values. It needs pandas, which is not installed
        with modeldeck.

        Returns
        -------
        pandas.DataFrame
            One row for each of the table.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> modeldeck.local_models().to_pandas()["size"].sum()  # doctest: +SKIP
        """
        return import_module("pandas").DataFrame(self._records())

    def __str__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().to_html()


class Row(Tabular):
    """A result that is one row of a table. Alone, ``print`` shows it as one line."""

    __slots__ = ()

    _HEADINGS: ClassVar[Sequence[str]]
    _NUMERIC: ClassVar[frozenset[str]] = frozenset()

    def _cells(self) -> Sequence[str]:
        raise NotImplementedError

    def _record(self) -> dict[str, Any]:
        """Return the row as plain values."""
        raise NotImplementedError

    def _table(self) -> Table:
        return table_of([self])

    def _records(self) -> list[dict[str, Any]]:
        return [self._record()]

    def __str__(self) -> str:
        return "  ".join(filter(None, self._cells()))


def table_of(rows: Sequence[Row], kind: type[Row] | None = None) -> Table:
    """Return the table of rows of one kind, which needs to be told only for the case that there are none."""
    kind = kind or (type(rows[0]) if rows else None)
    if kind is None:
        return Table(headings=("Empty",), rows=())
    return Table(headings=kind._HEADINGS, rows=[row._cells() for row in rows], numeric=kind._NUMERIC)
