"""The repositories that were asked for under an old name, so that offline a model is found under either name."""

from __future__ import annotations

import json
from pathlib import Path

from modeldeck._files import replace_file

_FILE_NAME = "renamed-repositories.json"
_MAX_NAMES = 1000


class RenameStore:
    """Remembers which name the Hub gave for another, in one small file of the state directory.

    Parameters
    ----------
    directory : Path or None
        The state directory. Without one, names are remembered in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / _FILE_NAME
        self._canonical: dict[str, str] = self._read()

    def remember(self, asked: str, canonical: str) -> None:
        """Keep that the Hub answers to one name with another. A store that cannot be written keeps it in memory.

        A name that the Hub answers to as it is has a repository of its own (again), so an older answer is forgotten.
        """
        is_own_name = asked.lower() == canonical.lower()
        older = {old: new for old, new in self._canonical.items() if old.lower() == asked.lower()}
        if older == ({} if is_own_name else {asked: canonical}):
            return
        known = {**self._read(), **self._canonical}
        self._canonical = {old: new for old, new in known.items() if old.lower() != asked.lower()}
        if not is_own_name:
            self._canonical[asked] = canonical
        for oldest in list(self._canonical)[:-_MAX_NAMES]:
            del self._canonical[oldest]
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(self._canonical, indent=1).encode(), mode=0o600)
        except OSError:
            return

    def names_of(self, repo_id: str) -> tuple[str, ...]:
        """Return the names of a repository: the given one first, then the others that are known."""
        names = {repo_id.lower(): repo_id}
        count = 0
        while len(names) > count:
            count = len(names)
            for pair in self._canonical.items():
                if any(name.lower() in names for name in pair):
                    names |= {name.lower(): name for name in pair if name.lower() not in names}
        return tuple(names.values())

    def _read(self) -> dict[str, str]:
        if self._path is None:
            return {}
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {old: new for old, new in content.items() if isinstance(old, str) and isinstance(new, str)}
