"""Group a repository's files into the models that a user can choose from.

A variant is identified by its path, or by the path of its first shard: a quarter of real repositories have two files
with one label. Labels follow the rules of huggingface.js (``packages/tasks/src/gguf.ts``), with a few spellings added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modeldeck._errors import AmbiguousVariantError, RemoteFileNotFoundError
from modeldeck._types import GGUFFile, IncompleteShards, Sidecar, SidecarKind, Variant
from modeldeck.gguf.quality import best_first, is_repacked
from modeldeck.gguf.shards import parse_shard_name

_QUANTIZATION = re.compile(
    r"""
    (?<![A-Z0-9])
    (?P<prefix>UD[-_])?
    (?P<quantization>
        (?:I?Q|TQ)\d(?:_(?:KSS|KS|KT|KL|K|NL|XXS|XS|XL|S|M|L|R4|R8|[0-48]))*
      | MXFP4(?:_MOE)? | NVFP4 | BF16 | F16 | F32 | I[28]_S
      | FP16 | FP32
    )
    (?![A-Z0-9])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ALIASES = {"FP16": "F16", "FP32": "F32"}

_MMPROJ = re.compile(r"(?<![a-z0-9])mmproj(?![a-z0-9])", re.IGNORECASE)
_IMATRIX = re.compile(r"(?<![a-z0-9])imatrix(?![a-z0-9])", re.IGNORECASE)
_DRAFTER = re.compile(r"^(?:mtp|eagle3?|dflash|dspark|draft(?:er)?)[-_.]", re.IGNORECASE)
_MAYBE_DRAFTER = re.compile(r"(?<![a-z0-9])(?:eagle3|dflash|dspark|draft|drafter)(?![a-z0-9])", re.IGNORECASE)
_MAYBE_ADAPTER = re.compile(r"(?<![a-z0-9])(?:q?lora|adapter)(?![a-z0-9])", re.IGNORECASE)
_COMPANION = re.compile(r"^(?:tokenizer|vocoder)-", re.IGNORECASE)
_BIG_ENDIAN = re.compile(r"(?<![a-z0-9])(?:big[-_]endian|be)(?![a-z0-9])", re.IGNORECASE)

_PROJECTOR_PRECISIONS = ("F16", "BF16", "F32", "Q8_0")
_MAX_PROJECTORS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """All files of a repository, each in one of the groups.

    Parameters
    ----------
    variants
        The models, sorted by quality, best first.
    sidecars
        The sidecars that are not downloaded with any variant.
    others
        The remaining files, including the shards of ``incomplete`` models.
    incomplete
        The split models with missing parts.
    """

    variants: tuple[Variant, ...]
    sidecars: tuple[Sidecar, ...] = ()
    others: tuple[GGUFFile, ...] = ()
    incomplete: tuple[IncompleteShards, ...] = ()


def label_of(path: str) -> str | None:
    """Return the quantization as people write it (``UD-Q4_K_XL``, ``Q4_0_4_4``, ``fp16``), or ``None``.

    The last one in the path counts, as in huggingface.js. A trailing ``fp16`` counts only when it is the only one,
    because ``Q4_K_M-fp16`` is a Q4_K_M with embeddings in fp16.
    """
    label: str | None = None
    for match in _QUANTIZATION.finditer(path):
        name = match["quantization"].upper()
        if name not in _ALIASES:
            label = f"UD-{name}" if match["prefix"] else name
        elif label is None:
            label = name.lower()
    return label


def quantization_of(path: str) -> str | None:
    """Return the quantization in llama.cpp's terms: F16 for ``fp16``, Q4_0 for a repacked ``Q4_0_4_4``; or ``None``."""
    label = label_of(path)
    return None if label is None else _normalize(label)


def has_quantization(filenames: Iterable[str], quantization: str) -> bool:
    """Return whether a model among these files has a quantization, named as `label_of` or `quantization_of` does."""
    wanted = quantization.upper()
    models = (name for name in filenames if name.lower().endswith(".gguf") and not _MMPROJ.search(name))
    return any(wanted in ((label_of(name) or "").upper(), quantization_of(name)) for name in models)


def group_variants(files: Iterable[GGUFFile]) -> Grouping:
    """Group a repository's files into variants, sidecars and the rest.

    Each model is paired with the vision projector that was made for it, preferably in F16. Drafters, importance
    matrices and adapters are listed but not downloaded. A split model with missing parts is not a variant.
    """
    by_name = {file.filename: file for file in files}
    has_marked = any(_BIG_ENDIAN.search(name) for name in by_name)
    squashed_names = {_squash(name) for name in by_name} if has_marked else set()
    models: list[GGUFFile] = []
    sidecars: list[Sidecar] = []
    others: list[GGUFFile] = []
    for file in by_name.values():
        kind = _sidecar_kind(file.filename)
        if kind is not None:
            sidecars.append(Sidecar(kind=kind, file=file))
        elif _is_model_name(file.filename, squashed_names):
            models.append(file)
        else:
            others.append(file)
    models, hinted = _split_hinted(models)
    sidecars += hinted

    families, singles, incomplete = _shard_families(models)
    groups = [*families, *((file,) for file in singles)]
    for family in incomplete:
        others.extend(family.files)
    # Every model is compared with every projector, so a hostile repository could make this slow.
    projectors = [sidecar.file for sidecar in sidecars if sidecar.kind == "mmproj"][:_MAX_PROJECTORS]
    paired = _pair_projectors([group[0].filename for group in groups], projectors)
    variants = [_variant(group, paired.get(group[0].filename)) for group in groups]
    used = {file.filename for file in paired.values()}
    return Grouping(
        variants=tuple(best_first(variants)),
        sidecars=tuple(sidecar for sidecar in sidecars if sidecar.file.filename not in used),
        others=tuple(others),
        incomplete=tuple(incomplete),
    )


def find_variant(variants: Sequence[Variant], selector: str) -> Variant:
    """Find the variant that a selector names: an id, a filename, a label, or the end of a name (``QAD-Q4_0``).

    Raises
    ------
    AmbiguousVariantError
        When the selector matches several variants; ``choices`` lists their ids.
    RemoteFileNotFoundError
        When it matches none. The message lists the existing ones.
    """
    wanted = selector.casefold()
    matchers = (
        lambda variant: variant.variant_id == selector,
        lambda variant: variant.variant_id.casefold() == wanted,
        lambda variant: any(wanted in _names_of(file.filename) for file in variant.files),
        lambda variant: variant.label.casefold() == wanted,
        lambda variant: variant.quantization is not None and variant.quantization.casefold() == wanted,
        lambda variant: bool(re.search(rf"[-._/]{re.escape(wanted)}$", _stem(variant.variant_id).casefold())),
    )
    for matches in matchers:
        found = [variant for variant in variants if matches(variant)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = [variant.variant_id for variant in found]
            raise AmbiguousVariantError(
                f"{selector!r} matches {len(found)} variants. Give one of these filenames: {', '.join(choices)}.",
                choices=choices,
            )
    if not variants:
        raise RemoteFileNotFoundError(f"There is no {selector!r}: the repository has no complete GGUF model.")
    raise RemoteFileNotFoundError(
        f"There is no {selector!r}. Choose one of: {', '.join(dict.fromkeys(v.label for v in variants))}.",
        choices=[variant.variant_id for variant in variants],
    )


def variant_of(variant_id: str, label: str, filenames: Iterable[str]) -> Variant:
    """Return a variant for `find_variant`, from the names of its files, which may include those of its sidecars."""
    names = [name for name in filenames if name == variant_id or _sidecar_kind(name) is None]
    return Variant(
        variant_id=variant_id,
        label=label,
        quantization=quantization_of(variant_id),
        files=tuple(GGUFFile(filename=name) for name in names),
    )


def _normalize(label: str) -> str:
    name = _ALIASES.get(label.upper(), label)
    return "Q4_0" if is_repacked(name) else name


def _variant(group: tuple[GGUFFile, ...], projector: GGUFFile | None) -> Variant:
    path = group[0].filename
    label = label_of(path)
    return Variant(
        variant_id=path,
        label=label or _split(_stem(path))[1],
        quantization=None if label is None else _normalize(label),
        files=group,
        sidecars=() if projector is None else (Sidecar(kind="mmproj", file=projector),),
    )


def _sidecar_kind(path: str) -> SidecarKind | None:
    folder, name = _split(path)
    if _is_mac_metadata(path):
        return None
    if _IMATRIX.search(name):
        return "imatrix"
    if not name.lower().endswith(".gguf"):
        return None
    if _MMPROJ.search(name) or _MMPROJ.fullmatch(_split(folder)[1]):
        return "mmproj"
    if _DRAFTER.match(name):
        return "drafter"
    return None


def _is_model_name(path: str, squashed_names: set[str]) -> bool:
    name = _split(path)[1]
    if not name.lower().endswith(".gguf") or _is_mac_metadata(path) or _COMPANION.match(name):
        return False
    marker = _BIG_ENDIAN.search(name)
    if marker is None:
        return True
    # "be" is also a word. It means big-endian only where the same file exists without it.
    twin = _squash(path[: -len(name)] + name[: marker.start()] + name[marker.end() :])
    return marker[0].lower() == "be" and twin not in squashed_names


def _is_mac_metadata(path: str) -> bool:
    return _split(path)[1].startswith("._") or "__MACOSX" in path


def _split_hinted(models: list[GGUFFile]) -> tuple[list[GGUFFile], list[Sidecar]]:
    """Recognize drafters and adapters by a word in the name, unless that would leave no model at all."""
    hinted: dict[str, SidecarKind] = {}
    for file in models:
        stem = _stem(file.filename)
        if _MAYBE_DRAFTER.search(stem):
            hinted[file.filename] = "drafter"
        elif _MAYBE_ADAPTER.search(stem):
            hinted[file.filename] = "adapter"
    rest = [file for file in models if file.filename not in hinted]
    if not rest:
        return models, []
    return rest, [Sidecar(kind=hinted[file.filename], file=file) for file in models if file.filename in hinted]


def _shard_families(
    files: Iterable[GGUFFile],
) -> tuple[list[tuple[GGUFFile, ...]], list[GGUFFile], list[IncompleteShards]]:
    singles: list[GGUFFile] = []
    shards: dict[tuple[str, int], dict[int, GGUFFile]] = {}
    for file in files:
        shard = parse_shard_name(file.filename)
        if shard is None:
            singles.append(file)
        else:
            shards.setdefault((shard.prefix, shard.count), {})[shard.number] = file
    complete: list[tuple[GGUFFile, ...]] = []
    incomplete: list[IncompleteShards] = []
    for (prefix, total), family in shards.items():
        members = tuple(family[number] for number in sorted(family))
        if len(members) == total and min(family) == 1 and max(family) == total:
            complete.append(members)
        else:
            incomplete.append(IncompleteShards(prefix=prefix, total=total, files=members))
    return complete, singles, incomplete


def _pair_projectors(models: Sequence[str], projectors: Sequence[GGUFFile]) -> dict[str, GGUFFile]:
    """Find the projector of each model: one with the model's name, then a general one; the nearest folder first."""
    if not projectors:
        return {}
    model_names = {path: _model_name(path) for path in models}
    known_names = set(model_names.values())
    model_folders = {_split(path)[0] for path in models}
    facts = [(file, _model_name(file.filename), _split(file.filename)[0]) for file in projectors]
    paired: dict[str, GGUFFile] = {}
    for path, name in model_names.items():
        folder = _split(path)[0]
        candidates: list[tuple[int, int, int, str, GGUFFile]] = []
        for file, projector_name, projector_folder in facts:
            kinship = _kinship(name, projector_name, known_names)
            if projector_folder == folder:
                distance = 0
            elif folder.startswith(f"{projector_folder}/") or not projector_folder:
                distance = 1
            elif projector_folder not in model_folders:
                distance = 2
            else:
                continue
            if kinship is not None:
                candidates.append((kinship, distance, _precision_rank(file.filename), file.filename, file))
        if candidates:
            paired[path] = min(candidates, key=lambda candidate: candidate[:4])[4]
    return paired


def _kinship(model: str, projector: str, known: set[str]) -> int | None:
    """Return how similar two names are, 0 being equal; ``None`` when the projector is named for another model."""
    if model == projector:
        return 0
    if projector and (model.startswith(projector) or projector.startswith(model)):
        return 1
    return None if projector in known else 2


def _precision_rank(path: str) -> int:
    quantization = quantization_of(_split(path)[1])
    if quantization in _PROJECTOR_PRECISIONS:
        return _PROJECTOR_PRECISIONS.index(quantization)
    return len(_PROJECTOR_PRECISIONS)


def _model_name(path: str) -> str:
    """Return the model's name within a path, without quantization, shard numbers and punctuation."""
    name = _split(_stem(path))[1]
    return _squash(_MMPROJ.sub("", _QUANTIZATION.sub("", name)))


def _squash(text: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", text.lower())


def _split(path: str) -> tuple[str, str]:
    """Split into folder and filename. The Hub's paths are POSIX, and ``PurePosixPath`` is ten times slower."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _stem(path: str) -> str:
    """Return the path without ``.gguf`` and without shard numbers."""
    shard = parse_shard_name(path)
    if shard is not None:
        return shard.prefix
    return path[: -len(".gguf")] if path.lower().endswith(".gguf") else path


def _names_of(path: str) -> tuple[str, ...]:
    lowered = path.casefold()
    name = _split(lowered)[1]
    return lowered, name, _stem(lowered), _stem(name)
