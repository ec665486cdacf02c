"""Choose the variant of a repository that a knowledgeable friend would recommend for this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modeldeck._types import FitEstimate, ReasonCode, RecommendationReason, Variant, rounded_speed
from modeldeck.gguf.quality import best_first, estimate_bits, is_at_least, is_loadable, is_unquantized

READING_PACE_TOKENS_PER_SECOND = 8.0

_SMALL_MODEL_PARAMETERS = 10**9
_LOWEST_GOOD_QUALITY = "IQ4_XS"
_USUAL_CHOICE = "Q4_K_M"
_FALLBACK_CHOICES = (_USUAL_CHOICE, "Q8_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The variant to choose, and why."""

    variant_id: str
    reason: RecommendationReason


def recommend(variants: Sequence[Variant], fits: Mapping[str, FitEstimate]) -> Recommendation | None:
    """Recommend one of a repository's variants.

    Of those that fit as a whole, it is the best quality that answers at reading pace; where none does, the fastest that
    is not below Q4_K_M or IQ4_XS, and Q4_K_M among equally fast ones. Lower qualities are considered only where nothing
    else fits: two bits may be fast, but nobody would choose them for that. Variants with 16 or 32 bits are considered
    only where there are no others, or for a model with fewer than a billion parameters. Without any speeds it is the
    best quality that fits, and the smallest file of that quality. Where none fits as a whole, it is Q4_K_M, Q8_0 or the
    best of those that fit partly or whose fit is unknown.

    Parameters
    ----------
    variants
        The variants of one repository, in any order.
    fits
        Their fits by ``variant_id``.

    Returns
    -------
    Recommendation or None
        ``None`` when no variant can be loaded on this machine.
    """
    bits = estimate_bits(variants)
    by_verdict: dict[str, list[Variant]] = {}
    for variant in best_first(variant for variant in variants if is_loadable(variant)):
        fit = fits.get(variant.variant_id)
        by_verdict.setdefault(fit.verdict if fit else "unknown", []).append(variant)
    if fitting := by_verdict.get("fits"):
        return _of_fitting(_Choice(fitting, fits, bits))
    for verdict in ("partial", "unknown"):
        if candidates := by_verdict.get(verdict):
            choice = _Choice(candidates, fits, bits)
            chosen = _usual_choice(choice.pool)
            return choice.recommendation(chosen, "partial" if verdict == "partial" else "unknown")
    return None


class _Choice:
    """Variants with one verdict, best quality first, and those of them that may be recommended: the pool."""

    def __init__(self, variants: Sequence[Variant], fits: Mapping[str, FitEstimate], bits: Mapping[str, float]) -> None:
        self._fits = fits
        self._bits = bits
        quantized = [variant for variant in variants if not self._is_unquantized(variant)]
        unquantized = sorted((each for each in variants if self._is_unquantized(each)), key=_size)
        self._has_quantized = bool(quantized)
        # 32 bits add nothing to a model that was published with 16, so the smallest of them stands for all.
        may_be_unquantized = [each for each in unquantized[:1] if not quantized or self._is_small(each)]
        self.pool = may_be_unquantized + quantized

    def _is_unquantized(self, variant: Variant) -> bool:
        return is_unquantized(self._bits.get(variant.variant_id))

    def is_good(self, variant: Variant) -> bool:
        return is_at_least(variant, _LOWEST_GOOD_QUALITY, self._bits.get(variant.variant_id))

    def speed(self, variant: Variant) -> float | None:
        fit = self._fits.get(variant.variant_id)
        return None if fit is None else fit.tokens_per_second

    def recommendation(self, variant: Variant, code: ReasonCode) -> Recommendation:
        if self._is_unquantized(variant):
            code = "small_model" if self._has_quantized else "only_unquantized"
        reason = RecommendationReason(
            code=code,
            tokens_per_second=self.speed(variant),
            reading_pace=READING_PACE_TOKENS_PER_SECOND,
        )
        return Recommendation(variant_id=variant.variant_id, reason=reason)

    def _is_small(self, variant: Variant) -> bool:
        bits = self._bits.get(variant.variant_id)
        return (
            variant.model_size is not None
            and bits is not None
            and variant.model_size * 8 / bits < _SMALL_MODEL_PARAMETERS
        )


def _of_fitting(choice: _Choice) -> Recommendation:
    speeds = {variant.variant_id: choice.speed(variant) for variant in choice.pool}
    if not any(speeds.values()):
        return _best(choice, choice.pool, "best_that_fits")
    good = [variant for variant in choice.pool if choice.is_good(variant)]
    at_pace = [
        variant
        for variant in good or choice.pool
        if (speeds[variant.variant_id] or 0) >= READING_PACE_TOKENS_PER_SECOND
    ]
    if at_pace:
        return _best(choice, at_pace, "reading_pace")
    if not good:
        return _best(choice, choice.pool, "slow")
    fastest = max(rounded_speed(speeds[variant.variant_id] or 0) for variant in good)
    alike = [variant for variant in good if rounded_speed(speeds[variant.variant_id] or 0) == fastest]
    usual = next((variant for variant in alike if variant.quantization == _USUAL_CHOICE), alike[0])
    return choice.recommendation(usual, "fastest")


def _best(choice: _Choice, variants: Sequence[Variant], code: ReasonCode) -> Recommendation:
    """Recommend the best quality, and of several files of one quantization the smallest."""
    best = variants[0]
    if best.quantization is not None:
        best = min((each for each in variants if each.quantization == best.quantization), key=_size)
    return choice.recommendation(best, code)


def _usual_choice(variants: Sequence[Variant]) -> Variant:
    for quantization in _FALLBACK_CHOICES:
        for variant in variants:
            if variant.quantization == quantization:
                return variant
    return variants[0]


def _size(variant: Variant) -> float:
    return variant.model_size or math.inf
