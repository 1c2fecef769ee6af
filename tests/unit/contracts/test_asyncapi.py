"""The AsyncAPI document and the schemas say what is consumed and published; the committed copies are the code's."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from demo.traffic import traffic
from result_aggregator_service.__main__ import main
from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.asyncapi import Client, examples_of, key_schema
from result_aggregator_service.contracts.schemas import message_json_schema, message_schema
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.notification_projector import teacher_notification
from result_aggregator_service.settings import Settings
from tests import samples
from tests.unit.contracts.wire import Record, changed, decoded, is_bad
from tests.unit.domain.model import read_model

DOCS = Path(__file__).parents[3] / "docs"
SEED = 1
MEND = "`pdm run asyncapi` writes it anew"
PAYLOADS = {**topics.CONSUMED, **topics.PUBLISHED}
MADE = CliRunner().invoke(main, ["asyncapi"], catch_exceptions=False).stdout_bytes
DOCUMENT: dict[str, Any] = orjson.loads(MADE)
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
VALIDATORS = {
    event_type: jsonschema_rs.Draft202012Validator(message_json_schema(event_type), validate_formats=True)
    for event_type in PAYLOADS
}


def by_document(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A validator of a part of the document, which may refer to others; AsyncAPI's schemas are those of draft 7."""
    return jsonschema_rs.Draft7Validator(
        {"allOf": [schema], "components": DOCUMENT["components"]}, validate_formats=True
    )


def at(reference: str) -> Any:
    """What a reference leads to."""
    place: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        place = place[step]
    return place


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def test_the_committed_document_is_the_one_that_the_code_makes() -> None:
    assert (DOCS / "asyncapi.json").read_bytes() == MADE, f"docs/asyncapi.json is not what the code makes; {MEND}"


def test_the_committed_schemas_are_those_that_the_code_makes(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["asyncapi", "--schemas", str(tmp_path)], catch_exceptions=False)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (DOCS / "schemas").iterdir()}
    assert made.keys() == {f"{event_type}.json" for event_type in PAYLOADS}
    assert committed.keys() == made.keys(), f"docs/schemas is not what the code makes; {MEND}; remove what is left over"
    for name, schema in made.items():
        assert committed[name] == schema, f"docs/schemas/{name} is not what the code makes; {MEND}"


def test_every_topic_is_a_channel_with_one_operation_and_one_message() -> None:
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == PAYLOADS.keys()
    operations = {operation["channel"]["$ref"]: operation for operation in DOCUMENT["operations"].values()}
    assert len(operations) == len(DOCUMENT["operations"]) == len(DOCUMENT["channels"]) == len(MESSAGES) == 14
    for event_type, payload in PAYLOADS.items():
        channel, operation = DOCUMENT["channels"][event_type], operations[f"#/channels/{event_type}"]
        assert operation["action"] == ("receive" if event_type in topics.CONSUMED else "send")
        [message] = operation["messages"]
        assert at(message["$ref"]) == {"$ref": f"#/components/messages/{payload.__name__}"}
        assert channel["description"] == operation["summary"] == payload.__doc__
        assert channel["bindings"]["kafka"]["topic"] == event_type


def test_every_reference_leads_somewhere_and_no_schema_is_left_over() -> None:
    found = references(DOCUMENT)
    for reference in found:
        assert at(reference) is not None
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert schemas <= found


def test_definitions_of_one_name_are_the_same_in_all_messages() -> None:
    seen: dict[str, Any] = {}
    for event_type in PAYLOADS:
        for name, definition in message_schema(event_type)[1].items():
            assert seen.setdefault(name, definition) == definition, name


def test_servers_and_credentials_are_those_that_the_settings_know() -> None:
    protocols = Settings.model_fields["kafka_security_protocol"].annotation
    mechanisms = Settings.model_fields["kafka_sasl_mechanism"].annotation
    assert set(DOCUMENT["servers"]) == set(protocols.__args__)  # type: ignore[union-attr]
    assert set(DOCUMENT["components"]["securitySchemes"]) == {*mechanisms.__args__, "X509"}  # type: ignore[union-attr]
    for name, server in DOCUMENT["servers"].items():
        assert server["protocol"] == ("kafka-secure" if name.endswith("SSL") else "kafka")
        assert len(server.get("security", ())) == (3 if name.startswith("SASL") else int(name == "SSL"))


def test_the_bindings_are_those_of_the_settings() -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    receive = DOCUMENT["operations"]["receiveBatchPhaseOutcome"]["bindings"]["kafka"]
    assert receive["groupId"]["default"] == default["kafka_consumer_group_id"]
    assert receive["clientId"]["default"] == default["service_name"]
    send = DOCUMENT["operations"]["sendBatchResultsReady"]["bindings"]["kafka"]
    assert send["clientId"]["default"] == default["kafka_producer_client_id"]
    assert "groupId" not in send
    for channel in DOCUMENT["channels"].values():
        assert channel["bindings"]["kafka"]["partitions"] == default["kafka_topic_partitions"]


@pytest.mark.parametrize("event_type", PAYLOADS)
def test_each_example_is_as_its_schemas_say(event_type: str) -> None:
    message = MESSAGES[PAYLOADS[event_type].__name__]
    assert message["examples"]
    payload, headers = by_document(message["payload"]), by_document(message["headers"])
    for example in message["examples"]:
        payload.validate(example["payload"])
        headers.validate(example["headers"])
        VALIDATORS[event_type].validate(example["payload"])


@pytest.mark.parametrize("event_type", topics.CONSUMED)
def test_each_example_of_a_consumed_message_decodes_and_all_of_it_is_kept(event_type: str) -> None:
    for example in MESSAGES[PAYLOADS[event_type].__name__]["examples"]:
        headers = [(name, value.encode()) for name, value in example["headers"].items()]
        event = decoded(Record(event_type, json.dumps(example["payload"]).encode(), headers))
        assert event.traceparent == example["headers"]["traceparent"]
        kept = json.loads(json.dumps(event.payload))
        said = example["payload"]["data"]
        if event_type == topics.SPELLCHECK_COMPLETED:
            references = said["storage_metadata"]["references"]
            references["corrected_text"] = references["corrected_text"]["storage_id"]
        assert kept == said


@pytest.mark.parametrize("event_type", topics.PUBLISHED)
def test_each_example_of_a_published_message_says_every_field_as_it_is_written(event_type: str) -> None:
    for example in MESSAGES[PAYLOADS[event_type].__name__]["examples"]:
        payload = topics.PUBLISHED[event_type].model_validate(example["payload"]["data"])
        assert payload.model_dump(mode="json") == example["payload"]["data"]


@pytest.mark.parametrize("name", samples.CONSUMED_NAMES)
def test_every_consumed_sample_is_as_its_schema_says(name: str) -> None:
    message = samples.consumed(name)
    VALIDATORS[message["event_type"]].validate(message)


@pytest.mark.parametrize("name", samples.PUBLISHED_NAMES)
def test_every_published_sample_is_as_its_schema_says(name: str) -> None:
    message = samples.published(name)
    VALIDATORS[message["event_type"]].validate(message)


def test_whatever_the_demo_plays_and_is_announced_of_it_is_as_the_schemas_say_under_the_documented_key() -> None:
    events: list[Event] = []
    for message in traffic(seed=SEED):
        record = Record(message.topic, message.value, message.headers)
        if not is_bad(record):
            events.append(decoded(record))
            VALIDATORS[message.topic].validate(json.loads(message.value or b""))
    announced = read_model(*events).announced
    notifications = [teacher_notification(announcement, None) for announcement in announced]
    assert {event.topic for event in events} == topics.CONSUMED.keys()
    assert {announcement.topic for announcement in (*announced, *notifications)} == topics.PUBLISHED.keys()
    for announcement in (*announced, *notifications):
        message_sent = json.loads(announcement.envelope.model_dump_json())
        VALIDATORS[announcement.topic].validate(message_sent)
        assert announcement.key == message_sent["data"][topics.KEY_FIELDS[announcement.topic]]


def test_a_published_message_without_one_of_its_fields_is_not_as_its_schema_says() -> None:
    for name in samples.PUBLISHED_NAMES:
        message = samples.published(name)
        validator = VALIDATORS[message["event_type"]]
        for field in message:
            assert not validator.is_valid({key: value for key, value in message.items() if key != field}), field
        for field in message["data"]:
            data = {key: value for key, value in message["data"].items() if key != field}
            assert not validator.is_valid({**message, "data": data}), field


SLOT, OUTCOME, NLP = "essay_slot_assigned", "els_batch_phase_outcome.spellcheck", "essay_nlp_completed"


@pytest.mark.parametrize(
    ("name", "path", "raw"),
    [
        (SLOT, ("event_type",), '"huleedu.els.essay.slot.assigned.v2"'),
        (SLOT, ("event_id",), '"no uuid"'),
        (SLOT, ("schema_version",), "2"),
        (SLOT, ("event_timestamp",), '"2026-03-02T08:00:00"'),
        (SLOT, ("event_timestamp",), '"2026-03-02T24:00:00Z"'),
        (SLOT, ("event_timestamp",), "1772438400"),
        (SLOT, ("data", "essay_id"), '""'),
        (SLOT, ("data", "essay_id"), json.dumps("x" * 256)),
        (SLOT, ("data", "essay_id"), r'"a\u0000b"'),
        (SLOT, ("data", "original_file_name"), r'"a\u0000b"'),
        (OUTCOME, ("data", "phase_name"), '"proofreading"'),
        (OUTCOME, ("data", "phase_status"), '"processing_pipelines"'),
        ("spellcheck_completed", ("data", "corrections_made"), "2147483648"),
        ("spellcheck_completed", ("data", "storage_metadata", "references", "corrected_text"), '"corrected-1"'),
        ("spellcheck_completed", ("data", "storage_metadata", "references", "corrected_text", "storage_id"), "5"),
        ("batch_essays_registered", ("data", "student_prompt_ref"), r'{"a": [{"b": "\u0000"}]}'),
        ("batch_essays_registered", ("data", "student_prompt_ref"), r'{"\u0000": 1}'),
        (NLP, ("data", "nlp_metrics", "a metric of tomorrow"), r'{"\u0000": 1}'),
        (NLP, ("data", "nlp_metrics"), r'{"\u0000": 1}'),
        ("assessment_result_published", ("data", "essay_results", 0, "is_anchor"), "1"),
    ],
)
def test_a_schema_refuses_what_the_models_refuse(name: str, path: tuple[str | int, ...], raw: str) -> None:
    record = changed(name, path, raw)
    assert not VALIDATORS[record.topic].is_valid(json.loads(record.value or b""))


def test_the_older_reference_may_be_absent_or_without_a_storage_id() -> None:
    for raw in ("null", "{}", '{"storage_id": ""}', '{"storage_id": null, "path": "p"}'):
        record = changed("spellcheck_completed", ("data", "storage_metadata", "references", "corrected_text"), raw)
        decoded(record)
        VALIDATORS[record.topic].validate(json.loads(record.value or b""))


class Mute(BaseModel):
    """A payload that says nothing of itself."""


def test_a_message_that_does_not_say_enough_of_itself_is_an_error() -> None:
    client = Client("service", "1", "localhost:9092", "group", "producer", 1, 1)
    with pytest.raises(LookupError, match="Mute has no 'x-producer'"):
        examples_of(topics.ESSAY_SLOT_ASSIGNED, Mute, client)
    with pytest.raises(LookupError, match="Mute has no 'examples'"):
        examples_of(topics.BATCH_RESULTS_READY, Mute, client)
    with pytest.raises(LookupError, match="KEY_FIELDS"):
        key_schema("a.new.topic")


CELL = r" ([^|]+?) \|"
ROWS = {
    row[0]: row[1:]
    for row in re.findall(
        rf"^\| `(huleedu[^`]+)` \|{CELL}{CELL}{CELL}$", (DOCS / "events.md").read_text(), re.MULTILINE
    )
}


def test_the_page_has_a_row_for_every_topic_and_no_other() -> None:
    assert ROWS.keys() == PAYLOADS.keys()


@pytest.mark.parametrize("event_type", PAYLOADS)
def test_the_page_names_the_payload_its_schema_and_who_sends_it_or_its_key(event_type: str) -> None:
    payload, third, _ = ROWS[event_type]
    name = PAYLOADS[event_type].__name__
    assert payload == f"[{name}](schemas/{event_type}.json)"
    [first, *_] = MESSAGES[name]["examples"]
    sender = first["payload"]["source_service"]
    assert third == f"`{sender if event_type in topics.CONSUMED else topics.KEY_FIELDS[event_type]}`"


def test_the_page_tells_every_field_of_the_envelope_and_every_header() -> None:
    page = (DOCS / "events.md").read_text()
    schema = DOCUMENT["components"]["schemas"]["EssaySlotAssignedEnvelope"]
    for field in schema["properties"]:
        assert f"\n| `{field}` | " in page
    headers = page.partition("## Headers")[2].partition("\n## ")[0]
    for header in MESSAGES["BatchResultsReady"]["headers"]["properties"]:
        assert f"`{header}`" in headers
