"""Results that are several local or locked models, downloads or files: a tuple that shows itself as a table."""

from __future__ import annotations

from typing import Any, TypeVar

from modeldeck._tables import Row, Table, Tabular, table_of

R = TypeVar("R", bound=Row)


class Listing(tuple[R, ...], Tabular):
    """A tuple of local or locked models, downloads or verified files that shows itself as a table.

    Examples
    --------
    >>> models = modeldeck.local_models()
    >>> [model.repo_id for model in models]  # doctest: +SKIP
    >>> models.to_pandas()["size"].sum()  # doctest: +SKIP
    """

    __slots__ = ()

    def _records(self) -> list[dict[str, Any]]:
        return [row._record() for row in self]

    def _table(self) -> Table:
        return table_of(self)
