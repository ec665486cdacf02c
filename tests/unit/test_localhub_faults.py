"""Bodies, ranges and the script of faults, without sockets."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.localhub import faults
from tools.localhub.faults import Faults
from tools.localhub.messages import HTTPAnswer, HTTPRequest, Payload, body_answer, json_answer, parse_range, text_answer

DATA = bytes(range(100))


def get(**fields: object) -> HTTPRequest:
    return HTTPRequest(**{"origin": "cdn", "method": "GET", "target": "/file?x=1", **fields})  # type: ignore[arg-type]


def ranged(first: int, last: int, body: Payload | None = None) -> tuple[HTTPRequest, HTTPAnswer]:
    request = get(headers={"range": f"bytes={first}-{last}"})
    return request, body_answer(request, body or Payload.of(DATA), [("ETag", '"e"'), ("Accept-Ranges", "bytes")])


@pytest.mark.parametrize("as_file", [False, True])
def test_body_parts_and_flips(tmp_path: Path, as_file: bool) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    body = Payload(path if as_file else DATA, 100, 0, 100, flipped=(50, 10))
    part = body.part(40, 60)
    assert part.read() == DATA[40:50] + bytes([50 ^ 1]) + DATA[51:60]
    assert part.part(0, 1000).size == 100
    assert body.part(90, 5).size == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=100-", (100, 101)),
        ("bytes=9-0", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=0-9", None),
        ("bytes=a-b", None),
    ],
)
def test_parse_range(value: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(value, 100) == expected


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.integers(0, 10**13))
def test_parse_range_stays_inside(first: int, last: int, total: int) -> None:
    span = parse_range(f"bytes={first}-{last}", total)
    if last < first:
        assert span is None
    elif first < total:
        assert span == (first, min(last + 1, total))
    else:
        assert span is not None
        assert span[0] >= total


def test_body_answers() -> None:
    _, answer = ranged(10, 19)
    assert (answer.status, answer.header("content-range"), answer.body.read()) == (206, "bytes 10-19/100", DATA[10:20])
    _, answer = ranged(100, 199)
    assert (answer.status, answer.header("content-range"), answer.body.size) == (416, "bytes */100", 0)
    headers = {"range": "bytes=0-9", "if-range": '"other"'}
    answer = body_answer(get(headers=headers), Payload.of(DATA), [("ETag", '"e"')])
    assert (answer.status, answer.body.size) == (200, 100)
    answer = body_answer(get(headers={"if-none-match": '"x", "e"'}), Payload.of(DATA), [("ETag", '"e"')])
    assert (answer.status, answer.body.size) == (304, 0)


def test_a_fault_strikes_what_it_matches_and_as_often_as_it_says() -> None:
    script = Faults()
    fault = script.add(faults.Reply(503), origin="cdn", method="GET", path="/f*", times=2, skip=1)
    good = text_answer("ok")
    assert script.apply(get(origin="hub"), good) is good
    assert script.apply(get(method="HEAD"), good) is good
    assert script.apply(get(target="/other"), good) is good
    assert script.fired(fault) == 0
    assert [script.apply(get(), good).status for _ in range(5)] == [200, 503, 503, 200, 200]
    assert script.fired(fault) == 2


def test_a_fault_that_changes_nothing_is_not_used_up() -> None:
    script = Faults()
    fault = script.add(faults.FlipBit(15), times=1)
    request, answer = ranged(20, 29)
    assert script.apply(request, answer) is answer
    request, answer = ranged(10, 19)
    assert script.apply(request, answer).body.read() == DATA[10:15] + bytes([15 ^ 1]) + DATA[16:20]
    assert script.apply(request, answer) is answer
    assert script.fired(fault) == 1


def test_faults_add_up_and_can_be_removed() -> None:
    script = Faults()
    first = script.add(faults.Latency(1))
    script.add(faults.Latency(2))
    assert script.apply(get(), text_answer("ok")).delay_seconds == 3
    script.remove(first)
    assert script.apply(get(), text_answer("ok")).delay_seconds == 2
    script.clear()
    assert script.apply(get(), text_answer("ok")).delay_seconds == 0


def test_range_effects() -> None:
    request, answer = ranged(10, 19)

    def struck(effect: faults.Effect) -> tuple[int, str | None, bytes]:
        changed = effect.apply(request, answer)
        return changed.status, changed.header("Content-Range"), changed.body.read()

    assert struck(faults.IgnoreRange()) == (200, None, DATA)
    assert struck(faults.IgnoreRange(has_content_range=True)) == (200, "bytes 10-19/100", DATA)
    assert struck(faults.MoveRange(5, 5)) == (206, "bytes 15-24/100", DATA[15:25])
    assert struck(faults.MoveRange(stop=-4)) == (206, "bytes 10-15/100", DATA[10:16])
    assert struck(faults.MoveRange(stop=4)) == (206, "bytes 10-23/100", DATA[10:24])
    assert struck(faults.MoveRange(5, 5, is_honest=False)) == (206, "bytes 10-19/100", DATA[15:25])
    assert struck(faults.EmptyRange()) == (206, "bytes 10-19/100", b"")
    assert struck(faults.WrongTotal(7)) == (206, "bytes 10-19/107", DATA[10:20])
    assert struck(faults.Content(b"x" * 15)) == (206, "bytes 10-14/15", b"x" * 5)
    assert struck(faults.Resize(2)) == (206, "bytes 10-19/100", DATA[10:20] + b"\0\0")
    assert struck(faults.Resize(-2)) == (206, "bytes 10-19/100", DATA[10:18])


@pytest.mark.parametrize(
    "effect",
    [
        faults.IgnoreRange(),
        faults.MoveRange(1),
        faults.EmptyRange(),
        faults.WrongTotal(1),
        faults.Content(b""),
        faults.Resize(1),
        faults.Gzip(),
        faults.FlipBit(1),
        faults.WrongLinkedSize(1),
        faults.MirrorHeaders(),
        faults.EditJSON(lambda _: {}),
        faults.Cut(5),
        faults.Stall(5),
        faults.LimitConcurrency(1),
    ],
)
def test_effects_leave_alone_what_they_are_not_about(effect: faults.Effect) -> None:
    redirect = HTTPAnswer(status=302, headers=(("Location", "/elsewhere"),))
    assert effect.apply(get(headers={"range": "bytes=0-1"}), redirect) is redirect


def test_a_complete_partial_can_get_everything_instead_of_416() -> None:
    request, answer = ranged(100, 199)
    changed = faults.IgnoreRange().apply(request, answer)
    assert (changed.status, changed.body.read()) == (200, DATA)


def test_gzip_only_for_those_who_accept_it() -> None:
    _, answer = ranged(10, 19)
    assert faults.Gzip().apply(get(headers={"accept-encoding": "identity"}), answer) is answer
    changed = faults.Gzip().apply(get(headers={"accept-encoding": "gzip, br"}), answer)
    assert (changed.status, changed.header("Content-Range")) == (200, None)
    assert gzip.decompress(changed.body.read()) == DATA


def test_header_effects() -> None:
    answer = HTTPAnswer(
        status=302,
        headers=(("X-Linked-Etag", '"ab"'), ("X-Linked-Size", "5"), ("Location", "/x"), ("X-Repo-Commit", "c")),
    )
    changed = faults.MirrorHeaders().apply(get(method="HEAD"), answer)
    assert changed.status == 200
    assert dict(changed.headers) == {"Location": "/x", "X-Repo-Commit": "c", "ETag": "ab"}
    assert faults.MirrorHeaders().apply(get(), answer).status == 302
    assert faults.MirrorHeaders(is_quoted=True).apply(get(), answer).header("etag") == '"ab"'
    assert faults.WrongLinkedSize(-2).apply(get(), answer).header("x-linked-size") == "3"
    changed = faults.ChangeHeaders({"x-linked-size": None, "New": "1"}).apply(get(), answer)
    assert changed.header("X-Linked-Size") is None
    assert changed.header("new") == "1"


def test_edit_json() -> None:
    answer = json_answer({"size": 5})
    changed = faults.EditJSON(lambda data: {**data, "size": -1}).apply(get(), answer)
    assert json.loads(changed.body.read()) == {"size": -1}
