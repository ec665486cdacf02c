"""The order of quantizations by quality, and which of them llama.cpp can load."""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import median

from modeldeck._types import Variant

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

# Made for other runtimes (ik_llama.cpp, bitnet.cpp), or dropped by llama.cpp.
_FOREIGN = re.compile(r"^(?:I?Q\d_(?:KSS|KS|KT|KL|K_R\d|.*_R\d)|IQ\d_K|Q4_[23]|I[28]_S)$")
_REPACKED = re.compile(r"^Q4_0_[48]_[48]$")

_UNQUANTIZED_BITS = {"F32": 32.0, "BF16": 16.0, "F16": 16.0}
_WIDTH = re.compile(r"^(?:I?Q|TQ|MXFP|NVFP)(\d)")
_BITS_FOR_SCALES = 0.6
"""The bits for each weight beyond the digit in the name: 8.5 in Q8_0, 6.6 in Q6_K, 4.8 in Q4_K_M, 2.6 in Q2_K."""
_LEAST_BITS_FOR_SCALES = 0.2

_MIN_UNQUANTIZED_BITS = 12.0


def is_loadable(variant: Variant) -> bool:
    """Tell by its label whether llama.cpp can load a variant."""
    name = variant.label.removeprefix("UD-")
    return not _FOREIGN.match(name) and not _REPACKED.match(name)


def is_repacked(label: str) -> bool:
    """Tell whether a label names a Q4_0 in the order of a processor's instructions, which llama.cpp has dropped."""
    return bool(_REPACKED.match(label))


def best_first(variants: Iterable[Variant]) -> list[Variant]:
    """Sort variants by quality, best first.

    Variants without a known label are placed by size: before the first smaller one.
    """
    variants = list(variants)
    known = sorted((variant for variant in variants if _rank(variant) is not None), key=_known_order)
    unknown = sorted((variant for variant in variants if _rank(variant) is None), key=_size_order)
    ordered: list[Variant] = []
    for variant in known:
        while unknown and (unknown[0].model_size or 0) > (variant.model_size or 0):
            ordered.append(unknown.pop(0))
        ordered.append(variant)
    return ordered + unknown


def estimate_bits(variants: Iterable[Variant]) -> dict[str, float]:
    """Estimate the bits that each variant of one model spends on a weight, by ``variant_id``.

    Labels tell it where they are known. The size of the others is compared with the size of those; a variant for which
    this is impossible is missing from the result.
    """
    variants = list(variants)
    by_label = {variant.variant_id: bits for variant in variants if (bits := _label_bits(variant)) is not None}
    weights = [
        variant.model_size * 8 / by_label[variant.variant_id]
        for variant in variants
        if variant.variant_id in by_label and variant.model_size
    ]
    if not weights:
        return by_label
    count = median(weights)
    by_size = {variant.variant_id: variant.model_size * 8 / count for variant in variants if variant.model_size}
    return by_size | by_label


def is_unquantized(bits: float | None) -> bool:
    """Tell whether a variant has 16 or 32 bits for each weight. An unknown width counts as quantized."""
    return bits is not None and bits >= _MIN_UNQUANTIZED_BITS


def is_at_least(variant: Variant, quantization: str, bits: float | None) -> bool:
    """Tell whether a variant's quality is not below that of a known quantization.

    Parameters
    ----------
    variant
        The variant to judge.
    quantization
        A label such as ``"IQ4_XS"``.
    bits
        The variant's bits for each weight, which decide when its label is unknown.
    """
    rank = _rank(variant)
    if rank is not None:
        return rank <= _QUALITY[quantization]
    width = _WIDTH.match(quantization)
    return bits is not None and width is not None and bits >= int(width[1]) + _LEAST_BITS_FOR_SCALES


def _rank(variant: Variant) -> int | None:
    name = variant.label.upper().removeprefix("UD-")
    if variant.quantization is None:
        return None
    while name:
        if name in _QUALITY:
            return _QUALITY[name]
        name = name.rpartition("_")[0]
    return _QUALITY.get(variant.quantization)


def _known_order(variant: Variant) -> tuple[int, bool, int, str]:
    is_dynamic = variant.label.startswith("UD-")
    return _rank(variant) or 0, not is_dynamic, -(variant.model_size or 0), variant.variant_id


def _size_order(variant: Variant) -> tuple[int, str]:
    return -(variant.model_size or 0), variant.variant_id


def _label_bits(variant: Variant) -> float | None:
    return None if variant.quantization is None else _bits_of(variant.quantization)


def _bits_of(quantization: str) -> float | None:
    name = quantization.removeprefix("UD-")
    if name in _UNQUANTIZED_BITS:
        return _UNQUANTIZED_BITS[name]
    width = _WIDTH.match(name)
    return int(width[1]) + _BITS_FOR_SCALES if width else None
