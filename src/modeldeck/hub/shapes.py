"""The Hub's JSON: the shapes it is decoded into, and what modeldeck takes from them. Pure.

"Upstream API shape is not a contract": what a request depends on is checked strictly, and everything else is optional,
so that a field with an unexpected type is unknown instead of costing the row that it decorates.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from modeldeck._errors import InvalidRequestError
from modeldeck._types import BaseModelRelation, Gated, GGUFFile, ModelSummary
from modeldeck.hub.urls import check_filename, check_repo_id

_LICENSE_TAG = "license:"
_BASE_MODEL_TAG = "base_model:"
_LANGUAGE_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee "
    "el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io "
    "is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn "
    "mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se "
    "sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo "
    "wa wo xh yi yo za zh zu"
)
_LANGUAGES = frozenset(_LANGUAGE_CODES.split())
"""The codes of ISO 639-1. Other tags of two letters are not languages."""
_PROJECTOR_ARCHITECTURE = "clip"
"""The Hub indexes one GGUF file of a repository, and that file may be the vision projector."""

_ACTIVE = re.compile(r"(?<=[-_])A(\d{1,4}(?:\.\d{1,3})?)([BM])(?![A-Za-z0-9])")
"""The number of active weights in the name of a mixture of experts, as in ``Qwen3-30B-A3B``."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Tags = Annotated[tuple[_Text, ...], msgspec.Meta(max_length=1000)]
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
_GitHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}\\Z")]
_GATED = Literal["auto", "manual"] | bool


class SearchRow(msgspec.Struct, kw_only=True):
    """One repository of a search."""

    id: str
    downloads: Any = None
    likes: Any = None
    lastModified: Any = None  # noqa: N815
    gated: Any = None
    private: Any = None
    tags: Any = None
    pipeline_tag: Any = None
    gguf: Any = None
    siblings: Any = None


class _Sibling(msgspec.Struct):
    """A file of a repository, by its name alone."""

    rfilename: _Text


class ModelInfo(msgspec.Struct, kw_only=True):
    """One repository at one revision. ``sha`` is the commit."""

    id: str
    sha: _GitHash
    gated: Any = None
    tags: Any = None
    cardData: Any = None  # noqa: N815


class WhoAmI(msgspec.Struct, kw_only=True):
    """The account of a token."""

    name: _Text
    auth: Any = None


class LFSPointer(msgspec.Struct):
    """A file in git-lfs. ``oid`` is the sha256 of its content."""

    oid: _Digest
    size: _Count


class TreeEntry(msgspec.Struct):
    """A file or folder of a listing. ``oid`` is git's own hash, of the pointer's text for a file in git-lfs."""

    type: str
    path: str
    oid: Any = None
    size: _Count | None = None
    lfs: LFSPointer | None = None


def summary_of(row: SearchRow) -> ModelSummary:
    """Return what a search says of a repository."""
    gguf: dict[str, Any] = _optional(row.gguf, dict[str, Any]) or {}
    if gguf.get("architecture") == _PROJECTOR_ARCHITECTURE:
        gguf = {}
    tags: tuple[str, ...] = _optional(row.tags, _Tags) or ()
    base_model, relation = _base_model_among(tags)
    siblings: tuple[_Sibling, ...] = _optional(row.siblings, tuple[_Sibling, ...]) or ()
    return ModelSummary(
        repo_id=row.id,
        downloads=_optional(row.downloads, _Count),
        likes=_optional(row.likes, _Count),
        last_modified=_optional(row.lastModified, _Text),
        gated=_optional(row.gated, _GATED),
        is_private=_optional(row.private, bool),
        tags=tags,
        license=_license_among(tags),
        pipeline_tag=_optional(row.pipeline_tag, _Text),
        architecture=_optional(gguf.get("architecture"), _Text),
        parameter_count=_optional(gguf.get("total"), _Count),
        active_parameter_count=_active_parameters(row.id),
        context_length=_optional(gguf.get("context_length"), _Count),
        has_chat_template="chat_template" in gguf if gguf else None,
        base_model=base_model,
        base_model_relation=relation,
        languages=tuple(tag for tag in tags if tag in _LANGUAGES),
        filenames=tuple(sibling.rfilename for sibling in siblings),
    )


def can_read_gated(account: WhoAmI) -> bool | None:
    """Return whether the permissions of a token include gated models, or ``None`` when it is not told."""
    auth: dict[str, Any] = _optional(account.auth, dict[str, Any]) or {}
    token: dict[str, Any] = _optional(auth.get("accessToken"), dict[str, Any]) or {}
    if token.get("role") in ("read", "write"):
        return True
    permissions: dict[str, Any] = _optional(token.get("fineGrained"), dict[str, Any]) or {}
    told: bool | None = _optional(permissions.get("canReadGatedRepos"), bool)
    return told


def gated_of(info: ModelInfo) -> Gated:
    """Return the repository's ``gated``, or ``None`` when it is not told."""
    gated: Gated = _optional(info.gated, _GATED)
    return gated


def license_of(info: ModelInfo) -> str | None:
    """Return the licence that the tags name, or else the model card."""
    tags: tuple[str, ...] = _optional(info.tags, _Tags) or ()
    card: dict[str, Any] = _optional(info.cardData, dict[str, Any]) or {}
    license_name: str | None = _license_among(tags) or _optional(card.get("license"), _Text)
    return license_name


def file_of(entry: TreeEntry) -> GGUFFile:
    """Return the file of a listing's entry.

    Home-made hubs send a git hash that is not the one of the file. It is used only where it has git's form; for a file
    in git-lfs the sha256 decides.
    """
    oid: str | None = _optional(entry.oid, _GitHash)
    if entry.lfs is None:
        return GGUFFile(filename=entry.path, size=entry.size, oid=oid)
    return GGUFFile(filename=entry.path, size=entry.lfs.size, sha256=entry.lfs.oid, oid=oid)


def is_repo_id(text: str) -> bool:
    """Return whether a name that the Hub sent can be asked for and stored."""
    try:
        check_repo_id(text)
    except InvalidRequestError:
        return False
    return True


def is_filename(text: str) -> bool:
    """Return whether a path that the Hub sent stays inside the cache."""
    try:
        check_filename(text)
    except InvalidRequestError:
        return False
    return True


def _optional(value: object, wanted: Any) -> Any:
    """Return the value if it has the wanted type, else ``None``."""
    if value is None:
        return None
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return None


def _active_parameters(repo_id: str) -> int | None:
    match = _ACTIVE.search(repo_id.rpartition("/")[2])
    return None if match is None else round(float(match[1]) * {"B": 10**9, "M": 10**6}[match[2]])


def _license_among(tags: tuple[str, ...]) -> str | None:
    return next((tag.removeprefix(_LICENSE_TAG) for tag in tags if tag.startswith(_LICENSE_TAG)), None)


def _base_model_among(tags: tuple[str, ...]) -> tuple[str | None, BaseModelRelation | None]:
    """Return the first base model of the tags ``base_model:RELATION:ID`` and ``base_model:ID``, and its relation."""
    named = [tag.removeprefix(_BASE_MODEL_TAG).rpartition(":") for tag in tags if tag.startswith(_BASE_MODEL_TAG)]
    for relation, _, repo_id in sorted(named, key=lambda parts: not parts[0]):
        if is_repo_id(repo_id):
            known: BaseModelRelation | None = _optional(relation, BaseModelRelation)
            return repo_id, known
    return None, None
