"""What the relay sends together, and what it holds back behind a row that Kafka refused."""

import dataclasses
import json
from uuid import UUID

import pytest
from aiokafka.errors import MessageSizeTooLargeError, UnknownTopicOrPartitionError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.publishing.outbox_queue import OutboxRow
from result_aggregator_service.publishing.sender import Partitioner, Sent, groups_of, headers_of
from tests.samples import published


def row(number: int, *, key: str = "k", topic: str = "t", retries: int = 0, trace: str | None = None) -> OutboxRow:
    data = json.dumps(published("batch_results_ready"))
    return OutboxRow(number, UUID(int=number), topic, data, key, topic, trace, retries)


def numbers(groups: list[list[OutboxRow]]) -> list[list[int]]:
    return [[member.id for member in group] for group in groups]


def test_rows_that_never_failed_go_together_in_their_order() -> None:
    assert numbers(groups_of([row(1), row(2), row(3)])) == [[1, 2, 3]]


def test_a_row_that_failed_before_goes_alone_and_in_its_place() -> None:
    rows = [row(1, retries=1), row(2), row(3), row(4, retries=2), row(5, retries=1), row(6)]
    assert numbers(groups_of(rows)) == [[1], [2, 3], [4], [5], [6]]


def test_no_rows_make_nogroups_of() -> None:
    assert groups_of([]) == []


def test_a_refused_row_holds_back_its_key_in_its_topic_and_nothing_else() -> None:
    sent = Sent()
    sent.refuse(row(1, key="a"), MessageSizeTooLargeError())
    assert sent.holds_back(row(2, key="a"))
    assert not sent.holds_back(row(3, key="b"))
    assert not sent.holds_back(row(4, key="a", topic="other"))
    assert [refused.id for refused in sent.refused] == [1]


def test_an_unknown_topic_holds_back_all_its_rows() -> None:
    sent = Sent()
    sent.refuse(row(1, key="a"), UnknownTopicOrPartitionError())
    assert sent.holds_back(row(2, key="b"))
    assert not sent.holds_back(row(3, key="a", topic="other"))


def test_a_topic_that_is_named_like_a_key_is_not_taken_for_it() -> None:
    sent = Sent()
    sent.refuse(row(1, key="t2"), MessageSizeTooLargeError())
    assert not sent.holds_back(row(2, topic="t2"))


def test_headers_name_the_trace_only_where_there_is_one() -> None:
    assert "traceparent" not in dict(headers_of(row(1)))
    assert dict(headers_of(row(1, trace="00-x")))["traceparent"] == b"00-x"


@pytest.mark.parametrize("data_first", [False, True])
@pytest.mark.parametrize("length", [1, 400, 600, 5000])
def test_headers_repeat_what_the_envelope_says_wherever_it_says_it(length: int, data_first: bool) -> None:
    envelope = {**published("batch_results_ready"), "source_service": "å" * length}
    if data_first:
        envelope = {"data": envelope["data"], "metadata": {"padding": "x" * 600}, **envelope}
    said = dict(headers_of(dataclasses.replace(row(1), event_data=json.dumps(envelope))))
    assert said["source_service"].decode() == envelope["source_service"]
    assert said["schema_version"].decode() == str(envelope["schema_version"])
    assert said["occurred_at"].decode() == envelope["event_timestamp"]
    assert said["trace_id"].decode() == envelope["correlation_id"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("{}", "it lacks correlation_id, event_timestamp, schema_version, source_service"),
        ("[1]", "no JSON object"),
        (f'["{"x" * 600}"]', "no JSON object"),
        (f'{{"data": "{"x" * 600}", "correlation_id": 1}}', "it lacks event_timestamp, schema_version, source_service"),
    ],
)
def test_a_row_without_an_envelope_is_refused_by_name(data: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        headers_of(dataclasses.replace(row(1), event_data=data))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 20))))
def test_a_key_goes_to_the_partition_that_every_kafka_client_gives_it(sends: list[tuple[bytes, int]]) -> None:
    partitioner = Partitioner()
    for key, number in [*sends, *sends]:
        partitions = list(range(number))
        assert partitioner(key, partitions, partitions[:1]) == DefaultPartitioner()(key, partitions, partitions[:1])
