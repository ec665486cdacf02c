"""Every error has a code of its own, so that what an engine or a page sent arrives with its class."""

import msgspec
import pytest

import modeldeck
from modeldeck._errors import error_from_info
from modeldeck._types import ErrorInfo

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
