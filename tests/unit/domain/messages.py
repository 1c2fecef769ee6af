"""Short ways to say what a service announced: decoded messages at so many seconds after eight o'clock.

A message's id follows from its content unless a number is given, so that the same words make the same message.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import TypeAdapter

from result_aggregator_service.contracts import consumed, topics
from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.domain.event import Clock, Event
from tests.samples import consumed as consumed_sample

EIGHT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SERVICE = "result-aggregator-service"
EXPECTED = (Phase.SPELLCHECK, Phase.CJ_ASSESSMENT)
SUCCESS, FAILURES = BatchStatus.COMPLETED_SUCCESSFULLY, BatchStatus.COMPLETED_WITH_FAILURES
CRITICAL, CANCELLED = BatchStatus.FAILED_CRITICALLY, BatchStatus.CANCELLED
AWAITING, PROCESSING = BatchStatus.AWAITING_CONTENT_VALIDATION, BatchStatus.PROCESSING_PIPELINES


def time(seconds: float) -> datetime:
    """So many seconds after eight."""
    return EIGHT + timedelta(seconds=seconds)


def event(topic: str, payload: Mapping[str, Any], at: float, number: int | None = None) -> Event:
    """A message with this payload, of this second, with this number for its id."""
    event_id = UUID(int=number) if number is not None else uuid5(NAMESPACE_URL, f"{topic} {at} {payload!r}")
    return Event(
        clock=Clock(time(at), event_id),
        topic=topic,
        source_service="some_service",
        correlation_id=uuid5(NAMESPACE_URL, f"correlation of {event_id}"),
        traceparent=f"00-{event_id.hex}-00f067aa0ba902b7-01",
        payload=payload,
    )


def sample(name: str) -> Event:
    """One of the platform's samples."""
    message = consumed_sample(name)
    return Event(
        clock=Clock(datetime.fromisoformat(message["event_timestamp"]), UUID(message["event_id"])),
        topic=message["event_type"],
        source_service=message["source_service"],
        correlation_id=UUID(message["correlation_id"]),
        traceparent=None,
        payload=TypeAdapter(topics.CONSUMED[message["event_type"]]).validate_json(json.dumps(message["data"])),
    )


def as_sent(event: Event) -> bytes:
    """The message as its producer sends it, envelope and payload."""
    data = json.loads(json.dumps(event.payload))
    match data:
        case {"storage_metadata": {"references": {"corrected_text": str(storage_id)} as references}}:
            references["corrected_text"] = {"storage_id": storage_id, "path": ""}
    envelope = {
        "event_id": str(event.clock.event_id),
        "event_type": event.topic,
        "event_timestamp": wire_time(event.clock.at),
        "source_service": event.source_service,
        "schema_version": 1,
        "correlation_id": str(event.correlation_id),
        "data_schema_uri": None,
        "data": data,
        "metadata": None if event.traceparent is None else {"traceparent": event.traceparent},
    }
    return json.dumps(envelope).encode()


def registered(
    essays: Iterable[str] = ("e1", "e2"),
    batch: str = "b",
    *,
    at: float = 0,
    user: str = "teacher",
    class_id: str | None = "class",
    expected: int | None = None,
    requested: list[str] | None = None,
    number: int | None = None,
) -> Event:
    essay_ids = list(essays)
    payload = consumed.BatchEssaysRegistered(
        entity_id=batch,
        user_id=user,
        class_id=class_id,
        expected_essay_count=len(essay_ids) if expected is None else expected,
        essay_ids=essay_ids,
        requested_pipelines=requested,
    )
    return event(topics.BATCH_ESSAYS_REGISTERED, payload, at, number)


def slot(essay: str, batch: str = "b", *, at: float = 10, text: str = "text", number: int | None = None) -> Event:
    payload = consumed.EssaySlotAssigned(
        batch_id=batch, essay_id=essay, file_upload_id="upload", text_storage_id=text, original_file_name="ö.docx"
    )
    return event(topics.ESSAY_SLOT_ASSIGNED, payload, at, number)


def outcome(
    phase: str,
    processed: Iterable[str] = (),
    failed: Iterable[str] = (),
    batch: str = "b",
    *,
    at: float = 100,
    status: BatchStatus | None = None,
    number: int | None = None,
) -> Event:
    failed_ids = list(failed)
    payload = consumed.BatchPhaseOutcome(
        batch_id=batch,
        phase_name=Phase(phase),
        phase_status=status or (FAILURES if failed_ids else SUCCESS),
        processed_essays=[consumed.ProcessedEssay(essay_id=essay) for essay in processed],
        failed_essay_ids=failed_ids,
    )
    return event(topics.BATCH_PHASE_OUTCOME, payload, at, number)


def error_info(code: str | None, message: str | None = "it broke") -> consumed.ErrorInfo | None:
    if code is None:
        return None
    return consumed.ErrorInfo(error_code=code, error_message=message, error_type="Kind", context={"where": "here"})


def spellcheck(
    essay: str,
    batch: str | None = "b",
    *,
    ok: bool = True,
    corrections: int | None = 3,
    text: str | None = "corrected",
    error: str | None = None,
    at: float = 50,
    number: int | None = None,
) -> Event:
    """The older form."""
    storage: consumed.StorageMetadata = {} if text is None else {"references": {"corrected_text": text}}
    payload = consumed.SpellcheckCompleted(
        system_metadata=consumed.EssaySystemMetadata(entity_id=essay, parent_id=batch, error_info=error_info(error)),
        status="spellchecked_success" if ok else "spellcheck_failed",
        storage_metadata=storage,
        corrections_made=corrections,
    )
    return event(topics.SPELLCHECK_COMPLETED, payload, at, number)


def rich_spellcheck(
    essay: str,
    batch: str = "b",
    *,
    ok: bool = True,
    corrections: int | None = 3,
    text: str | None = "corrected",
    words: int | None = 400,
    error: str | None = None,
    at: float = 50,
    number: int | None = None,
) -> Event:
    """The newer form."""
    payload = consumed.SpellcheckResult(
        entity_id=essay,
        batch_id=batch,
        status="SPELLCHECKED_SUCCESS" if ok else "SPELLCHECK_FAILED",
        system_metadata=consumed.SystemMetadata(error_info=error_info(error)),
        corrections_made=corrections,
        correction_metrics=None if words is None else consumed.CorrectionMetrics(word_count=words),
        corrected_text_storage_id=text,
        processing_duration_ms=840,
        processor_version="1.0",
    )
    return event(topics.SPELLCHECK_RESULTS, payload, at, number)


def rankings(
    ranked: Mapping[str, tuple[int | None, float | None]],
    batch: str = "b",
    *,
    job: str = "job",
    at: float = 80,
    number: int | None = None,
) -> Event:
    """CJ's older form."""
    payload = consumed.CJAssessmentCompleted(
        entity_id=batch,
        cj_assessment_job_id=job,
        rankings=[consumed.Ranking(els_essay_id=e, rank=rank, score=score) for e, (rank, score) in ranked.items()],
    )
    return event(topics.CJ_ASSESSMENT_COMPLETED, payload, at, number)


def thin(
    successful: Iterable[str] = (),
    failed: Iterable[str] = (),
    batch: str = "b",
    *,
    job: str = "job",
    at: float = 80,
    number: int | None = None,
) -> Event:
    """CJ's thin form."""
    payload = consumed.CJAssessmentCompleted(
        entity_id=batch,
        cj_assessment_job_id=job,
        processing_summary=consumed.ProcessingSummary(
            successful_essay_ids=list(successful), failed_essay_ids=list(failed)
        ),
    )
    return event(topics.CJ_ASSESSMENT_COMPLETED, payload, at, number)


def cj_failed(batch: str = "b", *, error: str | None = "CJ_BROKE", at: float = 80, number: int | None = None) -> Event:
    payload = consumed.CJAssessmentFailed(
        entity_id=batch, system_metadata=consumed.SystemMetadata(error_info=error_info(error))
    )
    return event(topics.CJ_ASSESSMENT_FAILED, payload, at, number)


def assessment(
    ranked: Mapping[str, tuple[int | None, float | None]],
    batch: str = "b",
    *,
    anchors: Iterable[str] = (),
    grade: str = "B",
    assignment: str | None = "assignment",
    comparisons: int | None = 66,
    job: str = "job",
    at: float = 81,
    number: int | None = None,
) -> Event:
    """CJ's rich form."""
    students = [
        consumed.EssayResult(essay_id=e, rank=rank, bt_score=score, letter_grade=grade, confidence_label="HIGH")
        for e, (rank, score) in ranked.items()
    ]
    marked = [consumed.EssayResult(essay_id=e, is_anchor=True, rank=99, bt_score=0.0) for e in anchors]
    payload = consumed.AssessmentResult(
        batch_id=batch,
        cj_assessment_job_id=job,
        assignment_id=assignment,
        essay_results=[*marked, *students],
        assessment_metadata=consumed.AssessmentMetadata(comparison_count=comparisons),
    )
    return event(topics.ASSESSMENT_RESULT_PUBLISHED, payload, at, number)


def end(
    phases: Iterable[str] = ("spellcheck", "cj_assessment"),
    batch: str = "b",
    *,
    status: BatchStatus = SUCCESS,
    successful: int | None = None,
    at: float = 300,
    number: int | None = None,
) -> Event:
    payload = consumed.BatchPipelineCompleted(
        batch_id=batch,
        completed_phases=[Phase(phase) for phase in phases],
        final_status=status,
        successful_essay_count=successful,
    )
    return event(topics.BATCH_PIPELINE_COMPLETED, payload, at, number)


def nlp(
    essay: str,
    batch: str | None = None,
    *,
    words: int = 400,
    errors: int | None = 2,
    at: float = 60,
    number: int | None = None,
) -> Event:
    payload = consumed.EssayNlpCompleted(
        essay_id=essay,
        parent_id=batch,
        nlp_metrics=consumed.NlpMetrics(word_count=words, mtld_score=70.5, first_order_coherence=0.4),
        grammar_analysis=None if errors is None else consumed.GrammarAnalysis(error_count=errors),
    )
    return event(topics.ESSAY_NLP_COMPLETED, payload, at, number)


def feedback(
    essay: str,
    batch: str | None = "b",
    *,
    ok: bool = True,
    error: str | None = None,
    at: float = 70,
    number: int | None = None,
) -> Event:
    payload = consumed.AIFeedbackResult(
        system_metadata=consumed.EssaySystemMetadata(entity_id=essay, parent_id=batch, error_info=error_info(error)),
        status="ai_feedback_success" if ok else "ai_feedback_failed",
        feedback_details={"model_version": "m"},
        feedback_content_storage_id="feedback",
        additional_metrics={"suggestions": 6},
    )
    return event(topics.ESSAY_AIFEEDBACK_COMPLETED, payload, at, number)
