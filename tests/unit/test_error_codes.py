"""Every error has a code of its own, so that what an engine or a page sent arrives with its class."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import modeldeck
from modeldeck._errors import error_codes, error_from_info
from modeldeck._notices import NOTICES, NoticeCode, notice_code
from modeldeck._types import ErrorInfo, FitReasonCode, ReasonCode
from modeldeck.widget.requests import ToastCode

PORTUGUESE = Path(__file__).parents[2] / "js" / "src" / "texts" / "python.pt-BR.ts"

CLASSES = [
    value
    for value in vars(modeldeck._errors).values()
    if isinstance(value, type) and issubclass(value, modeldeck.ModelDeckError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_arrives_with_its_class_and_its_details(kind: type[modeldeck.ModelDeckError]) -> None:
    sent = msgspec.json.encode(kind("It failed.", url="https://hub.invalid").to_info())
    received = error_from_info(msgspec.json.decode(sent, type=ErrorInfo))
    assert type(received) is kind
    assert (received.message, received.details) == ("It failed.", {"url": "https://hub.invalid"})


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)


def test_every_code_that_crosses_to_the_page_has_a_sentence_in_portuguese() -> None:
    table = PORTUGUESE.read_text(encoding="utf-8")
    kinds = {
        kind: set(re.findall(r"^    (\w+):", body, re.M))
        for kind, body in re.findall(r"^  (\w+): {\n(.*?)^  }", table, re.M | re.S)
    }
    assert kinds == {
        "errors": set(error_codes()),
        "fits": set(get_args(FitReasonCode)),
        "reasons": set(get_args(ReasonCode)),
        "notices": set(get_args(NoticeCode)),
        "toasts": set(get_args(ToastCode)),
    }


def test_a_notice_is_recognized_among_other_words() -> None:
    assert {notice_code(f"Found it, {text} Once more.") for text in NOTICES.values()} == set(get_args(NoticeCode))
    assert notice_code("A notice of another version.") is None
    assert notice_code(None) is None
