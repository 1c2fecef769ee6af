"""Mutants of the real messages: the service and the demo's reader, which share no code, call the same ones bad.

What is accepted can be folded and judged, alone and among real messages of its batch; what is refused is refused in one
way only. `MUTANT_SEED` takes others, `HYPOTHESIS_PROFILE=long` takes all.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path as FilePath
from random import Random

import pytest

from demo.wire import BadMessage, Message, read
from demo.wire import Event as Read
from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError, InvalidReason
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.domain.event import Event
from tests.samples import CONSUMED_NAMES, consumed_bytes
from tests.unit.contracts.wire import Path, changed
from tests.unit.domain.model import ReadModel, read_model
from torture.mutants import ESSAY_TEXT, Mutant, Mutants, mutants

SEED = int(os.environ.get("MUTANT_SEED", "4"))
ALL = os.environ.get("HYPOTHESIS_PROFILE") == "long"
COUNT = 21_000
AMONG_REAL_ONES = 12  # one in so many of the accepted
LONGEST_ERROR = 1000

DECODER = Decoder(8 * 1024 * 1024)


@dataclass
class Verdicts:
    """What became of some mutants; every list names those that fared as none may."""

    taken: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    topics: set[str] = field(default_factory=set)
    disagreements: list[str] = field(default_factory=list)
    read_otherwise: list[str] = field(default_factory=list)
    untellable: list[str] = field(default_factory=list)
    unjudgeable: list[str] = field(default_factory=list)
    alien: list[str] = field(default_factory=list)


def decoded(message: Message | Mutant) -> Event | InvalidMessageError:
    try:
        return DECODER.decode(message)
    except InvalidMessageError as invalid:
        return invalid


def understood(message: Message) -> Read | BadMessage:
    try:
        return read(message)
    except BadMessage as bad:
        return bad


def judged(mutants_taken: Iterable[Mutant], all_mutants: Mutants) -> Verdicts:
    verdicts, rng = Verdicts(), Random(SEED)
    for mutant in mutants_taken:
        verdicts.taken += 1
        verdicts.topics.add(mutant.topic)
        try:
            ours, theirs = decoded(mutant), understood(mutant.message)
        except Exception as error:  # noqa: BLE001 - any other exception than the one is the failure
            verdicts.alien.append(f"{mutant.name}: {error!r:.200}")
            continue
        if isinstance(ours, InvalidMessageError):
            verdicts.refused[ours.reason] += 1
            if not is_tellable(ours.detail):
                verdicts.untellable.append(f"{mutant.name}: {ours.detail!r:.300}")
            if not isinstance(theirs, BadMessage):
                verdicts.disagreements.append(f"{mutant.name}: only the service refuses it: {ours}")
            continue
        verdicts.accepted += 1
        if isinstance(theirs, BadMessage):
            verdicts.disagreements.append(f"{mutant.name}: only the demo refuses it: {theirs!s:.200}")
        elif told_by(ours) != (theirs.topic, theirs.id, theirs.time, theirs.correlation_id, theirs.traceparent):
            verdicts.read_otherwise.append(mutant.name)
        try:
            judge(read_model(ours))
            if rng.randrange(AMONG_REAL_ONES) == 0:
                judge_among(ours, all_mutants.neighbours(SEED, mutant.number), rng)
        except Exception as error:  # noqa: BLE001 - whatever it is, it would have been the service's
            verdicts.unjudgeable.append(f"{mutant.name}: {error!r:.200}")
    return verdicts


def is_tellable(error: str) -> bool:
    """One line that any column holds, short, and nothing of an essay."""
    return error.isprintable() and len(error) < LONGEST_ERROR and ESSAY_TEXT not in error


def told_by(event: Event) -> tuple[object, ...]:
    return event.topic, event.clock.event_id, event.clock.at, str(event.correlation_id), event.traceparent


def judge(model: ReadModel) -> None:
    """Do all that is ever done with facts."""
    model.run_grace()
    model.views()
    for announcement in model.announced:
        announcement.envelope.model_dump_json()


def judge_among(event: Event, neighbours: list[Message], rng: Random) -> None:
    events = [each for each in map(decoded, neighbours) if isinstance(each, Event)]
    assert len(events) == len(neighbours)
    events.insert(rng.randrange(len(events) + 1), event)
    cut = rng.randrange(len(events))
    model = ReadModel()
    model.poll(*events[:cut])
    model.poll(*events[cut:])
    judge(model)


@pytest.fixture(scope="module")
def all_mutants() -> Mutants:
    return Mutants()


@pytest.fixture(scope="module")
def verdicts(all_mutants: Mutants) -> Verdicts:
    return judged(all_mutants.every(SEED) if ALL else all_mutants.some(SEED, COUNT), all_mutants)


# -- the verdicts --------------------------------------------------------------------------------------------------


def test_nothing_but_the_one_exception_is_ever_raised(verdicts: Verdicts) -> None:
    assert verdicts.alien == []


def test_the_service_and_the_demo_call_the_same_messages_bad(verdicts: Verdicts) -> None:
    assert verdicts.disagreements == []


def test_they_read_the_same_clock_and_trace_from_what_both_accept(verdicts: Verdicts) -> None:
    assert verdicts.read_otherwise == []


def test_whatever_is_accepted_can_be_folded_and_judged_alone_and_among_real_messages(verdicts: Verdicts) -> None:
    assert verdicts.unjudgeable == []


def test_every_error_is_one_short_line_without_an_essays_text(verdicts: Verdicts) -> None:
    assert verdicts.untellable == []


def test_the_mutants_are_many_and_of_every_kind(verdicts: Verdicts) -> None:
    assert verdicts.taken >= 20_000
    assert verdicts.topics == set(CONSUMED)
    assert verdicts.accepted > verdicts.taken / 5
    decoders = set(InvalidReason) - {InvalidReason.REJECTED_BY_DATABASE, InvalidReason.UNPROCESSABLE}
    assert set(verdicts.refused) >= decoders - {InvalidReason.TOO_LARGE}


# -- what the rules leave to be read closely, and how both read it -------------------------------------------------

SLOT, CHECKED, RICH, NLP = "essay_slot_assigned", "spellcheck_completed", "spellcheck_results", "essay_nlp_completed"
THIN, ASSESSED, FEEDBACK = "cj_assessment_completed.thin", "assessment_result_published", "essay_aifeedback_completed"
END, CJ_FAILED, REGISTERED = "batch_pipeline_completed", "cj_assessment_failed", "batch_essays_registered"
UUID_TEXT = "79f0bc72-23d4-53f5-8407-fbe401ab1636"


@pytest.mark.parametrize(
    ("name", "path", "raw", "good"),
    [
        # the envelope is checked in full
        (SLOT, ("schema_version",), "1.0", False),
        (SLOT, ("data_schema_uri",), "5", False),
        (SLOT, ("data_schema_uri",), r'"\u0000"', True),
        (SLOT, ("event_id",), f'"{UUID_TEXT.upper()}"', True),
        (SLOT, ("event_id",), f'"{{{UUID_TEXT}}}"', True),
        (SLOT, ("event_id",), f'"urn:uuid:{UUID_TEXT}"', True),
        (SLOT, ("event_id",), f'"{UUID_TEXT.replace("-", "")}"', True),
        (SLOT, ("event_id",), f'"{UUID_TEXT.replace("-", "")}-"', False),
        (SLOT, ("event_id",), f'"0x{UUID_TEXT.replace("-", "")[2:]}"', False),
        (SLOT, ("event_timestamp",), '"0001-01-01T23:59:59Z"', False),
        (SLOT, ("event_timestamp",), '"0001-01-02T00:00:00Z"', True),
        (SLOT, ("event_timestamp",), '"9999-12-30T00:00:00Z"', True),
        (SLOT, ("event_timestamp",), '"9999-12-30T00:00:00.000001Z"', False),
        # of the payload, what is kept
        (SLOT, ("new",), "9" * 4300, True),
        (SLOT, ("new",), "9" * 4301, False),  # neither parser takes more
        (SLOT, ("new",), "[" * 199 + "1" + "]" * 199, True),
        (SLOT, ("new",), "[" * 200 + "1" + "]" * 200, False),
        (CHECKED, ("data", "system_metadata", "parent_id"), "null", True),
        (CHECKED, ("data", "system_metadata", "entity_id"), "null", False),
        (CHECKED, ("data", "storage_metadata", "references", "original_text"), "5", True),
        (CHECKED, ("data", "storage_metadata", "references", "corrected_text", "path"), "5", True),
        (CHECKED, ("data", "storage_metadata", "references", "corrected_text"), '{"storage_id": "", "a": 5}', False),
        (CHECKED, ("data", "storage_metadata", "references", "corrected_text"), f'{{"a": "{"x" * 256}"}}', False),
        (RICH, ("data", "system_metadata", "entity_id"), "5", True),
        (NLP, ("data", "nlp_metrics", "word_count"), '"5"', False),
        (NLP, ("data", "nlp_metrics"), r'{"\u0000": 1}', False),
        (NLP, ("data", "nlp_metrics", "new"), str(2**63), False),
        (NLP, ("data", "nlp_metrics", "new"), "[" * 31 + "1" + "]" * 31, True),
        (NLP, ("data", "nlp_metrics", "new"), "[" * 32 + "1" + "]" * 32, False),
        (REGISTERED, ("data", "student_prompt_ref"), '{"a":' * 31 + "1" + "}" * 31, True),
        (REGISTERED, ("data", "student_prompt_ref"), '{"a":' * 32 + "1" + "}" * 32, False),
        (THIN, ("data", "processing_summary", "failed_essay_ids"), "null", False),
        (THIN, ("data", "processing_summary"), "{}", True),
        (ASSESSED, ("data", "essay_results", 0, "is_anchor"), "null", False),
        (END, ("data", "processing_duration_seconds"), str(10**400), False),
        (FEEDBACK, ("data", "entity_id"), "5", True),
        (FEEDBACK, ("data", "system_metadata", "entity_id"), "null", False),
        (CJ_FAILED, ("data", "system_metadata", "error_info"), '{"message": 5}', False),
        (CJ_FAILED, ("data", "system_metadata", "error_info"), '{"error_message": null, "message": 5}', True),
    ],
)
def test_both_readings_draw_the_same_line(name: str, path: Path, raw: str, good: bool) -> None:
    record = changed(name, path, raw)
    ours = decoded(Message(record.topic, None, record.value, []))
    theirs = understood(Message(record.topic, None, record.value, []))
    assert isinstance(ours, Event) == good, ours
    assert isinstance(theirs, Read) == good, theirs


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("traceparent", b"\xff")], None),
        ([("traceparent", None)], None),
        ([("traceparent", b"bad"), ("traceparent", TRACE)], TRACE.decode()),
        ([("traceparent", TRACE), ("traceparent", b"bad")], TRACE.decode()),
    ],
)
def test_both_take_the_first_trace_that_is_well_formed(
    headers: list[tuple[str, bytes | None]], expected: str | None
) -> None:
    message = Message("huleedu.els.essay.slot.assigned.v1", b"", consumed_bytes(SLOT), headers)
    ours, theirs = decoded(message), understood(message)
    assert isinstance(ours, Event)
    assert isinstance(theirs, Read)
    assert ours.traceparent == theirs.traceparent == expected


# -- the generator -------------------------------------------------------------------------------------------------


def test_every_place_is_met_by_every_kind(all_mutants: Mutants) -> None:
    assert len(all_mutants) > 20_000
    found = list(islice(all_mutants.every(SEED), 3000))
    assert {mutant.sample for mutant in found} == set(CONSUMED_NAMES)
    assert len({(mutant.sample, mutant.changes) for mutant in found}) == len(found)
    assert all(len(mutant.changes) == 1 for mutant in found)


def test_the_same_seed_gives_the_same_mutants_and_another_gives_others(all_mutants: Mutants) -> None:
    some = list(mutants(SEED, 500))
    assert list(all_mutants.some(SEED, 500)) == some
    others = list(all_mutants.some(SEED + 1, 500))
    assert not {mutant.value for mutant in some} & {mutant.value for mutant in others} - {None, b""}
    assert 5 < sum(len(mutant.changes) == 2 for mutant in some) < 60


def test_there_are_as_many_as_one_likes(tmp_path: FilePath) -> None:
    (tmp_path / "slot.json").write_bytes(consumed_bytes(SLOT))
    few = Mutants(tmp_path)
    assert sum(1 for _ in few.some(SEED, len(few) + 10)) == len(few) + 10


def test_no_mutant_names_a_batch_essay_or_user_of_another(all_mutants: Mutants) -> None:
    real = [b'"b7e6c1f2', b'"essay-1', b'"essay-2', b'"essay-3', b'"teacher-4711', b'"cj-job-31', b'"anchor-grade']
    ids: Counter[str] = Counter()
    for mutant in all_mutants.some(SEED, 2000):
        assert not any(name in (mutant.value or b"") for name in real), mutant.name
        event = decoded(mutant)
        if isinstance(event, Event):
            ids[str(event.clock.event_id)] += 1
    assert max(ids.values()) == 1


def test_a_mutants_neighbours_are_the_real_messages_about_its_own_batch(all_mutants: Mutants) -> None:
    mutant = next(all_mutants.some(SEED, 1))
    neighbours = all_mutants.neighbours(SEED, mutant.number)
    assert len(neighbours) == len(CONSUMED_NAMES)
    assert all(isinstance(decoded(neighbour), Event) for neighbour in neighbours)
    batches = {json.loads(n.value or b"")["data"].get("batch_id") for n in neighbours} - {None}
    assert len(batches) == 1
    assert batches == {(neighbours[0].key or b"").decode()}
