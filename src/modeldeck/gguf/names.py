"""From a repository's file names to the models a user can pick.

A variant's identity is its path (or its shard family): a quarter of real repositories have two files with one label.
Labels are text, made by the rules of huggingface.js (``packages/tasks/src/gguf.ts``) and a few spellings it misses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modeldeck._errors import AmbiguousVariantError, RemoteFileNotFoundError
from modeldeck._types import FitEstimate, GGUFFile, Sidecar, SidecarKind, Variant

_SHARD = re.compile(r"^(?P<prefix>.*?)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf$", re.IGNORECASE)
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
_REPACKED = re.compile(r"^Q4_0_[48]_[48]$")

# Made for other runtimes (ik_llama.cpp, bitnet.cpp) or dropped by llama.cpp: listed, never recommended.
_FOREIGN = re.compile(r"^(?:I?Q\d_(?:KSS|KS|KT|KL|K_R\d|.*_R\d)|IQ\d_K|Q4_[23]|I[28]_S)$")

_MMPROJ = re.compile(r"(?<![a-z0-9])mmproj(?![a-z0-9])", re.IGNORECASE)
_IMATRIX = re.compile(r"(?<![a-z0-9])imatrix(?![a-z0-9])", re.IGNORECASE)
_DRAFTER = re.compile(r"^(?:mtp|eagle3?|dflash|dspark|draft(?:er)?)[-_.]", re.IGNORECASE)
_MAYBE_DRAFTER = re.compile(r"(?<![a-z0-9])(?:eagle3|dflash|dspark|draft|drafter)(?![a-z0-9])", re.IGNORECASE)
_MAYBE_ADAPTER = re.compile(r"(?<![a-z0-9])(?:q?lora|adapter)(?![a-z0-9])", re.IGNORECASE)
_COMPANION = re.compile(r"^(?:tokenizer|vocoder)-", re.IGNORECASE)
_BIG_ENDIAN = re.compile(r"(?<![a-z0-9])(?:big[-_]endian|be)(?![a-z0-9])", re.IGNORECASE)

_QUALITY_ORDER = (
    "F32", "BF16", "F16",
    "Q8_K_XL", "Q8_K_L", "Q8_0_L", "Q8_0", "Q8_1", "Q8",
    "Q6_K_XL", "Q6_K_L", "Q6_K_M", "Q6_K", "IQ6_K", "Q6",
    "Q5_K_XL", "Q5_K_L", "Q5_K_M", "Q5_K", "IQ5_K", "IQ5_KS", "Q5_K_S", "Q5_1", "Q5_0", "Q5",
    "Q4_K_XL", "Q4_K_L", "Q4_K_M", "Q4_K", "IQ4_K", "IQ4_KS", "Q4_K_S", "IQ4_NL", "IQ4_XS", "IQ4_KSS", "IQ4_KT",
    "Q4_1", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "Q4_0", "Q4_2", "Q4_3", "Q4", "MXFP4_MOE", "MXFP4", "NVFP4",
    "Q3_K_XL", "Q3_K_L", "Q3_K_M", "Q3_K", "IQ3_K", "IQ3_KS", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_KL", "IQ3_KT",
    "IQ3_XS", "IQ3_XXS", "Q3",
    "Q2_K_XL", "Q2_K_L", "Q2_K", "IQ2_K", "IQ2_KL", "IQ2_KS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_KT",
    "IQ2_XXS", "Q2_0", "Q2", "TQ2_0", "I8_S", "I2_S",
    "IQ1_M", "IQ1_S", "IQ1_KT", "TQ1_0", "Q1_0", "Q1",
)  # fmt: skip
_QUALITY = {name: rank for rank, name in enumerate(_QUALITY_ORDER)}
_UNQUANTIZED = ("F32", "BF16", "F16")

_PROJECTOR_PRECISIONS = ("F16", "BF16", "F32", "Q8_0")
_MAX_PROJECTORS = 256
_FALLBACK_CHOICES = ("Q4_K_M", "Q8_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncompleteShards:
    """A shard family of which the repository lacks parts: it cannot be loaded, so it is no variant."""

    prefix: str
    total: int
    files: tuple[GGUFFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """All files of a repository, each in one place.

    ``variants`` are sorted by quality, best first. ``sidecars`` are those no variant is downloaded with. ``others``
    holds the rest, the shards of ``incomplete`` families included.
    """

    variants: tuple[Variant, ...]
    sidecars: tuple[Sidecar, ...] = ()
    others: tuple[GGUFFile, ...] = ()
    incomplete: tuple[IncompleteShards, ...] = ()


def label_of(path: str) -> str | None:
    """The quantization as people write it (``UD-Q4_K_XL``, ``Q4_0_4_4``, ``fp16``), or ``None``.

    The last one in the path counts, as in huggingface.js; a trailing ``fp16`` only if there is nothing else, since
    ``Q4_K_M-fp16`` is a Q4_K_M with embeddings in fp16.
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
    """The quantization in llama.cpp's terms: ``fp16`` is F16, a repacked ``Q4_0_4_4`` is Q4_0; ``None`` when untold."""
    label = label_of(path)
    return None if label is None else _normalize(label)


def group_variants(files: Iterable[GGUFFile]) -> Grouping:
    """Sort a repository's files into variants, sidecars and the rest.

    Vision projectors are paired with the models they were made for (one each, F16 preferred). Drafters, importance
    matrices and adapters are listed, not downloaded. Shard families with missing parts are no variants.
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
    # Every model is compared with every projector; a repository made to be slow must not succeed.
    projectors = [sidecar.file for sidecar in sidecars if sidecar.kind == "mmproj"][:_MAX_PROJECTORS]
    paired = _pair_projectors([group[0].filename for group in groups], projectors)
    variants = [_variant(group, paired.get(group[0].filename)) for group in groups]
    used = {file.filename for file in paired.values()}
    return Grouping(
        variants=tuple(sorted(variants, key=_best_first)),
        sidecars=tuple(sidecar for sidecar in sidecars if sidecar.file.filename not in used),
        others=tuple(others),
        incomplete=tuple(incomplete),
    )


def find_variant(variants: Sequence[Variant], selector: str) -> Variant:
    """The variant a person means by its id, a filename, a label, or the end of a name (``QAD-Q4_0``).

    Raises
    ------
    AmbiguousVariantError
        When the selector fits several; ``choices`` lists their ids.
    RemoteFileNotFoundError
        When it fits none. The message lists what there is.
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
                f"{selector!r} fits {len(found)} variants. Give one of these filenames: {', '.join(choices)}.",
                choices=choices,
            )
    if not variants:
        raise RemoteFileNotFoundError(f"There is no {selector!r}: the repository has no complete GGUF model.")
    raise RemoteFileNotFoundError(
        f"There is no {selector!r}. Choose one of: {', '.join(dict.fromkeys(v.label for v in variants))}.",
        choices=[variant.variant_id for variant in variants],
    )


def recommend(variants: Sequence[Variant], fits: Mapping[str, FitEstimate]) -> str | None:
    """The variant to take on this machine: the best quality that fully fits, and the smallest file of that quality.

    When none fits fully, or no fit is known, all are alike and llama.cpp's own choice decides: Q4_K_M, then Q8_0, then
    the best; a variant that fits partly goes before one of unknown fit. ``None`` when all are too large. Formats that
    llama.cpp cannot load are never recommended. F32 adds nothing to a 16-bit original, so it counts as equal to it.
    """
    loadable = [variant for variant in variants if not _FOREIGN.match(variant.label.removeprefix("UD-"))]
    loadable = [variant for variant in loadable if not _REPACKED.match(variant.label)]
    by_verdict: dict[str, list[Variant]] = {}
    for variant in sorted(loadable, key=_best_first):
        fit = fits.get(variant.variant_id)
        by_verdict.setdefault(fit.verdict if fit else "unknown", []).append(variant)
    if fitting := by_verdict.get("fits"):
        best = fitting[0].quantization
        alike = [variant for variant in fitting if variant.quantization == best]
        if best in _UNQUANTIZED:
            alike = [variant for variant in fitting if variant.quantization in _UNQUANTIZED]
        return min(alike, key=lambda variant: variant.model_size or math.inf).variant_id
    for verdict in ("partial", "unknown"):
        if candidates := by_verdict.get(verdict):
            return _usual_choice(candidates).variant_id
    return None


def _usual_choice(variants: Sequence[Variant]) -> Variant:
    for quantization in _FALLBACK_CHOICES:
        for variant in variants:
            if variant.quantization == quantization:
                return variant
    return variants[0]


def _normalize(label: str) -> str:
    name = _ALIASES.get(label.upper(), label)
    return "Q4_0" if _REPACKED.match(name) else name


def _quality(quantization: str | None) -> int:
    name = (quantization or "").removeprefix("UD-")
    while name:
        if name in _QUALITY:
            return _QUALITY[name]
        name = name.rpartition("_")[0]
    return len(_QUALITY_ORDER)


def _best_first(variant: Variant) -> tuple[int, bool, int, str]:
    is_dynamic = variant.label.startswith("UD-")
    return _quality(variant.label.upper()), not is_dynamic, -(variant.model_size or 0), variant.variant_id


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
    # "be" is also a word: it means big-endian where the same file exists without it.
    twin = _squash(path[: -len(name)] + name[: marker.start()] + name[marker.end() :])
    return marker[0].lower() == "be" and twin not in squashed_names


def _is_mac_metadata(path: str) -> bool:
    return _split(path)[1].startswith("._") or "__MACOSX" in path


def _split_hinted(models: list[GGUFFile]) -> tuple[list[GGUFFile], list[Sidecar]]:
    """Tell drafters and adapters by a word inside the name, unless that would leave no model at all."""
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
        match = _SHARD.match(file.filename)
        if match is None:
            singles.append(file)
        else:
            shards.setdefault((match["prefix"], int(match["total"])), {})[int(match["number"])] = file
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
    """For each model path its projector: of its name before a general one, from its folder before one from above."""
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
    """How near two names are, 0 the nearest; ``None`` when the projector is named for another model."""
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
    """The model's own name inside a path, without quantization, shard numbers and punctuation."""
    name = _split(_stem(path))[1]
    return _squash(_MMPROJ.sub("", _QUANTIZATION.sub("", name)))


def _squash(text: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", text.lower())


def _split(path: str) -> tuple[str, str]:
    """Folder and filename. The Hub's paths are plain posix, and ``PurePosixPath`` is ten times slower."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _stem(path: str) -> str:
    """The path without ``.gguf`` and without shard numbers."""
    match = _SHARD.match(path)
    if match is not None:
        return match["prefix"]
    return path[: -len(".gguf")] if path.lower().endswith(".gguf") else path


def _names_of(path: str) -> tuple[str, ...]:
    lowered = path.casefold()
    name = _split(lowered)[1]
    return lowered, name, _stem(lowered), _stem(name)
