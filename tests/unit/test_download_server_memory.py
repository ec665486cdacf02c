"""What a transfer remembers of its server."""

from modeldeck.engine.server_memory import MAX_DOUBTS, MAX_WRONG_RANGES, RECOVERY_SECONDS, UNLIMITED, ServerMemory


def test_a_server_must_serve_a_range_before_it_gets_more_connections() -> None:
    memory = ServerMemory(is_storage=False)
    assert memory.ceiling == 1
    assert memory.note_range()
    assert memory.ceiling == UNLIMITED
    assert not memory.note_range()
    assert ServerMemory(is_storage=True).ceiling == UNLIMITED


def test_a_whole_file_instead_of_a_range_means_one_connection() -> None:
    memory = ServerMemory(is_storage=True)
    memory.note_range()
    memory.note_whole()
    assert (memory.ceiling, memory.serves_ranges) == (1, False)
    memory.note_fresh_start()
    assert memory.ceiling == 1, "a new address does not make a server serve ranges"


def test_wrong_ranges_end_requests_for_ranges() -> None:
    memory = ServerMemory(is_storage=True)
    for _ in range(MAX_WRONG_RANGES):
        assert memory.is_asked_for_ranges
        memory.note_wrong_range()
    assert not memory.is_asked_for_ranges


def test_after_a_refusal_connections_come_back_one_by_one() -> None:
    memory = ServerMemory(is_storage=True)
    memory.note_range()
    memory.note_refusal(4, now=100.0)
    memory.recover(100.0 + RECOVERY_SECONDS)
    assert memory.ceiling == 3
    memory.recover(100.1 + RECOVERY_SECONDS)
    memory.recover(100.2 + RECOVERY_SECONDS)
    assert memory.ceiling == 4
    memory.note_fresh_start()
    assert memory.ceiling == UNLIMITED
    memory.note_refusal(1, now=200.0)
    assert memory.ceiling == 1


def test_a_doubtful_answer_is_believed_when_fresh_addresses_bring_nothing() -> None:
    memory = ServerMemory(is_storage=True)
    assert [memory.doubts_address(0) for _ in range(MAX_DOUBTS + 1)] == [True] * MAX_DOUBTS + [False]
    assert memory.doubts_address(0), "the count begins again"
    for fetched in range(1, 3 * MAX_DOUBTS):
        assert memory.doubts_address(fetched), "an address that brings bytes was good"
