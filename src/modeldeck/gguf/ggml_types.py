"""The bytes that a tensor takes: ggml's element types (``ggml/src/ggml.c``, ``type_traits``)."""

from __future__ import annotations

import math
from typing import NamedTuple


class GGMLType(NamedTuple):
    """A block of ``block_size`` elements takes ``block_bytes`` bytes."""

    name: str
    block_size: int
    block_bytes: int


GGML_TYPES: dict[int, GGMLType] = {
    0: GGMLType("F32", 1, 4),
    1: GGMLType("F16", 1, 2),
    2: GGMLType("Q4_0", 32, 18),
    3: GGMLType("Q4_1", 32, 20),
    6: GGMLType("Q5_0", 32, 22),
    7: GGMLType("Q5_1", 32, 24),
    8: GGMLType("Q8_0", 32, 34),
    9: GGMLType("Q8_1", 32, 36),
    10: GGMLType("Q2_K", 256, 84),
    11: GGMLType("Q3_K", 256, 110),
    12: GGMLType("Q4_K", 256, 144),
    13: GGMLType("Q5_K", 256, 176),
    14: GGMLType("Q6_K", 256, 210),
    15: GGMLType("Q8_K", 256, 292),
    16: GGMLType("IQ2_XXS", 256, 66),
    17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98),
    19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18),
    21: GGMLType("IQ3_S", 256, 110),
    22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136),
    24: GGMLType("I8", 1, 1),
    25: GGMLType("I16", 1, 2),
    26: GGMLType("I32", 1, 4),
    27: GGMLType("I64", 1, 8),
    28: GGMLType("F64", 1, 8),
    29: GGMLType("IQ1_M", 256, 56),
    30: GGMLType("BF16", 1, 2),
    34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66),
    39: GGMLType("MXFP4", 32, 17),
    40: GGMLType("NVFP4", 64, 36),
    41: GGMLType("Q1_0", 128, 18),
    42: GGMLType("Q2_0", 64, 18),
}

_ID_BY_NAME = {each.name.lower(): type_id for type_id, each in GGML_TYPES.items()}


def type_id_of(name: str) -> int:
    """Return the number of a type by its name, such as ``q8_0``, in upper or lower case."""
    return _ID_BY_NAME[name.lower()]


def element_bytes(name: str) -> float:
    """Return the bytes that one element of a type takes, on average over a block."""
    known = GGML_TYPES[type_id_of(name)]
    return known.block_bytes / known.block_size


def tensor_bytes(shape: tuple[int, ...], type_id: int) -> int | None:
    """Return the bytes of a tensor's data; ``None`` for a type that the table lacks or a row of partial blocks."""
    known = GGML_TYPES.get(type_id)
    if known is None or (shape and shape[0] % known.block_size):
        return None
    return math.prod(shape) // known.block_size * known.block_bytes
