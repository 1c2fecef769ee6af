"""Every sample of the platform decodes; every published one comes out as it went in."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.envelope import PublishedEnvelope
from tests import samples
from tests.unit.contracts.wire import Record, decoded, has_the_fields_of


@pytest.mark.parametrize("name", samples.CONSUMED_NAMES)
def test_every_consumed_sample_decodes_into_its_payload(name: str) -> None:
    message = samples.consumed(name)
    event = decoded(Record(message["event_type"], samples.consumed_bytes(name)))
    assert has_the_fields_of(event, topics.CONSUMED[message["event_type"]])
    assert str(event.clock.event_id) == message["event_id"]
    assert event.clock.at.isoformat(timespec="microseconds") == message["event_timestamp"].replace("Z", "+00:00")
    assert (event.source_service, str(event.correlation_id)) == (message["source_service"], message["correlation_id"])


def test_every_consumed_topic_has_a_sample() -> None:
    assert {samples.consumed(name)["event_type"] for name in samples.CONSUMED_NAMES} == set(topics.CONSUMED)


def part_of(kept: Any, sent: Any) -> bool:
    """Whether all that was kept stands in what was sent, in the same place."""
    if isinstance(kept, dict) and isinstance(sent, dict):
        return all(part_of(value, sent.get(key)) for key, value in kept.items())
    if isinstance(kept, list) and isinstance(sent, list):
        return len(kept) == len(sent) and all(map(part_of, kept, sent))
    return bool(kept == sent)


@pytest.mark.parametrize("name", [name for name in samples.CONSUMED_NAMES if not name.startswith("spellcheck_comp")])
def test_what_is_kept_of_a_sample_is_what_stands_in_it(name: str) -> None:
    message = samples.consumed(name)
    payload = decoded(Record(message["event_type"], samples.consumed_bytes(name))).payload
    assert payload
    assert part_of(json.loads(json.dumps(payload)), message["data"])


@pytest.mark.parametrize("name", samples.PUBLISHED_NAMES)
def test_every_published_sample_comes_out_field_for_field_as_it_went_in(name: str) -> None:
    message = samples.published(name)
    payload: Any = topics.PUBLISHED[message["event_type"]]
    envelope = PublishedEnvelope[payload].model_validate_json(json.dumps(message))
    assert json.loads(envelope.model_dump_json()) == message
    assert envelope.model_dump(mode="json") == message
    as_sent = PublishedEnvelope[BaseModel](**{**dict(envelope), "data": envelope.data})
    assert json.loads(as_sent.model_dump_json()) == message


def test_every_published_topic_has_a_sample() -> None:
    assert {samples.published(name)["event_type"] for name in samples.PUBLISHED_NAMES} == set(topics.PUBLISHED)


def test_a_corrected_text_is_known_by_its_storage_id() -> None:
    payload = decoded(Record(topics.SPELLCHECK_COMPLETED, samples.consumed_bytes("spellcheck_completed"))).payload
    assert payload["storage_metadata"] == {"references": {"corrected_text": "corrected-01"}}
