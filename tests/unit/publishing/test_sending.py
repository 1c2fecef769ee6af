"""What the relay sends together, and what it holds back behind a row that Kafka refused."""

import json
from uuid import UUID

from aiokafka.errors import MessageSizeTooLargeError, UnknownTopicOrPartitionError

from result_aggregator_service.publishing.outbox_manager import OutboxRow
from result_aggregator_service.publishing.relay import _groups, _headers, _Sending
from tests.samples import published


def row(number: int, *, key: str = "k", topic: str = "t", retries: int = 0, trace: str | None = None) -> OutboxRow:
    data = json.dumps(published("batch_results_ready"))
    return OutboxRow(number, UUID(int=number), topic, data, key, topic, trace, retries)


def numbers(groups: list[list[OutboxRow]]) -> list[list[int]]:
    return [[member.id for member in group] for group in groups]


def test_rows_that_never_failed_go_together_in_their_order() -> None:
    assert numbers(_groups([row(1), row(2), row(3)])) == [[1, 2, 3]]


def test_a_row_that_failed_before_goes_alone_and_in_its_place() -> None:
    rows = [row(1, retries=1), row(2), row(3), row(4, retries=2), row(5, retries=1), row(6)]
    assert numbers(_groups(rows)) == [[1], [2, 3], [4], [5], [6]]


def test_no_rows_make_no_groups() -> None:
    assert _groups([]) == []


def test_a_refused_row_holds_back_its_key_in_its_topic_and_nothing_else() -> None:
    sending = _Sending()
    sending.refuse(row(1, key="a"), MessageSizeTooLargeError())
    assert sending.holds_back(row(2, key="a"))
    assert not sending.holds_back(row(3, key="b"))
    assert not sending.holds_back(row(4, key="a", topic="other"))
    assert [refused.id for refused in sending.refused] == [1]


def test_an_unknown_topic_holds_back_all_its_rows() -> None:
    sending = _Sending()
    sending.refuse(row(1, key="a"), UnknownTopicOrPartitionError())
    assert sending.holds_back(row(2, key="b"))
    assert not sending.holds_back(row(3, key="a", topic="other"))


def test_a_topic_that_is_named_like_a_key_is_not_taken_for_it() -> None:
    sending = _Sending()
    sending.refuse(row(1, key="t2"), MessageSizeTooLargeError())
    assert not sending.holds_back(row(2, topic="t2"))


def test_headers_name_the_trace_only_where_there_is_one() -> None:
    assert "traceparent" not in dict(_headers(row(1)))
    assert dict(_headers(row(1, trace="00-x")))["traceparent"] == b"00-x"
