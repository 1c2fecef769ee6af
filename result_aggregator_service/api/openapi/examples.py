"""The examples of the OpenAPI document: one batch, told by the code that makes real answers."""

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid5

from result_aggregator_service.api.cursor import write_cursor
from result_aggregator_service.api.documents import (
    BatchDocument,
    BatchPageDocument,
    BatchSummaryDocument,
    BatchSummaryPageDocument,
    DependencyDocument,
    HealthDocument,
    LivenessDocument,
    LoopDocument,
    ReadinessDocument,
)
from result_aggregator_service.api.health import NEEDED_TO_SERVE
from result_aggregator_service.api.presentation import present_batch, present_summary
from result_aggregator_service.contracts.enums import BatchStatus, Phase, ProcessingStage
from result_aggregator_service.domain.batch import BatchFacts, EssayFacts, overall_status
from result_aggregator_service.domain.event import Clock
from result_aggregator_service.domain.facets import (
    CJGrades,
    CJResult,
    ErrorDetail,
    EssayFile,
    PhaseOutcome,
    PipelineEnd,
    Registration,
    SpellcheckMetrics,
    SpellcheckResult,
)
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.batch_reader import Position
from result_aggregator_service.storage.stored_facts import Judgement, StoredBatch

BATCH_ID = "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"
USER_ID = "teacher-4711"
CORRELATION_ID = "0b1aab4b-4a25-5d2b-9760-2b1ee722d445"
ETAG = '"8f14e45fceea167a5a36dedd4bea2543"'

_CREATED_AT = datetime(2026, 3, 2, 8, 0, 1, tzinfo=UTC)
_PHASES = (Phase.SPELLCHECK, Phase.CJ_ASSESSMENT)
_DONE, _FAILED = "essay-1-ad0f7d6b", "essay-2-76cb3571"

CURSOR = write_cursor(Position(_CREATED_AT, BATCH_ID))


def _clock(minutes: float) -> Clock:
    """The clock of a message so many minutes after the registration."""
    return Clock(_CREATED_AT + timedelta(minutes=minutes), uuid5(NAMESPACE_URL, f"example of minute {minutes}"))


def _outcome(phase: Phase, minutes: float, processed: set[str], failed: set[str]) -> PhaseOutcome:
    return PhaseOutcome(
        clock=_clock(minutes),
        batch_id=BATCH_ID,
        phase=phase,
        status=BatchStatus.COMPLETED_WITH_FAILURES if failed else BatchStatus.COMPLETED_SUCCESSFULLY,
        processed_essay_ids=frozenset(processed),
        failed_essay_ids=frozenset(failed),
        source_service="essay_lifecycle_service",
        correlation_id=UUID(CORRELATION_ID),
        traceparent=None,
    )


def _essay(essay_id: str, number: int) -> EssayFacts:
    if essay_id == _DONE:
        return EssayFacts(
            essay_id=essay_id,
            batch_id=BATCH_ID,
            heard_at=_clock(15).at,
            started_at=_clock(3).at,
            file=EssayFile(_clock(1), f"upload-{number}", f"text-{number}", f"essay {number}.docx"),
            spellcheck=SpellcheckResult(_clock(3), ProcessingStage.COMPLETED, 9, f"corrected-{number}", None),
            spellcheck_metrics=SpellcheckMetrics(
                _clock(3), {"total_corrections": 9, "word_count": 412, "correction_density": 2.18}
            ),
            cj=CJResult(_clock(15), ProcessingStage.COMPLETED, 1, 0.87, None),
            cj_grades=CJGrades(_clock(15), "B+", 0.72, 0.9, "HIGH", 24),
        )
    error: ErrorDetail = {
        "error_code": "SPELLCHECK_TEXT_UNREADABLE",
        "message": "the text could not be read",
        "correlation_id": CORRELATION_ID,
        "timestamp": "2026-03-02T08:04:01.000000Z",
        "service": "spellchecker_service",
        "operation": "spellcheck",
        "details": {"text_storage_id": f"text-{number}"},
    }
    return EssayFacts(
        essay_id=essay_id,
        batch_id=BATCH_ID,
        heard_at=_clock(4).at,
        started_at=_clock(4).at,
        file=EssayFile(_clock(1), f"upload-{number}", f"text-{number}", f"essay {number}.docx"),
        spellcheck=SpellcheckResult(_clock(4), ProcessingStage.FAILED, None, None, error),
    )


def _stored() -> StoredBatch:
    essays = {essay_id: _essay(essay_id, number) for number, essay_id in enumerate((_DONE, _FAILED), start=1)}
    facts = BatchFacts(
        batch_id=BATCH_ID,
        heard_at=_clock(17).at,
        created_at=_CREATED_AT,
        started_at=_clock(3).at,
        registration=Registration(
            clock=_clock(0),
            user_id=USER_ID,
            class_id="class-9b",
            org_id=None,
            course_code="ENG5",
            expected_essay_count=2,
            essay_ids=[_DONE, _FAILED],
            student_prompt_ref={"references": {"student_prompt_text": {"storage_id": "prompt-77", "path": ""}}},
            requested_pipelines=[phase.value for phase in _PHASES],
        ),
        outcomes={
            Phase.SPELLCHECK: _outcome(Phase.SPELLCHECK, 5, {_DONE}, {_FAILED}),
            Phase.CJ_ASSESSMENT: _outcome(Phase.CJ_ASSESSMENT, 16, {_DONE}, set()),
        },
        pipeline_ends=[
            PipelineEnd(
                clock=_clock(17),
                batch_id=BATCH_ID,
                completed_phases=list(_PHASES),
                final_status=BatchStatus.COMPLETED_WITH_FAILURES,
                successful_essay_count=1,
                failed_essay_count=1,
                processing_duration_seconds=1020.0,
                correlation_id=UUID(CORRELATION_ID),
                traceparent=None,
            )
        ],
        essays=essays,
    )
    judgement = Judgement(BATCH_ID, overall_status(facts, _PHASES), facts.horizon(), None, None)
    version = uuid5(NAMESPACE_URL, "example of a version")
    return StoredBatch(facts=facts, judgement=judgement, version=version, tally=BatchTally.of(facts))


def batch() -> BatchDocument:
    """A finished batch of two essays, of which one failed."""
    stored = _stored()
    return present_batch(stored, _PHASES, stored.facts.members)


def batch_summary() -> BatchSummaryDocument:
    """The same without its essays."""
    return present_summary(_stored(), _PHASES)


def page() -> BatchPageDocument:
    """A page that begins at a number."""
    return {"batches": [batch()], "pagination": {"limit": 1, "offset": 0, "total": 2}}


def summary_page(next_page: str) -> BatchSummaryPageDocument:
    """A page that was asked for by cursor; `next_page` is the URL of the one after it."""
    return {"batches": [batch_summary()], "pagination": {"limit": 1, "next": next_page}}


def _dependencies(**away: str) -> dict[str, DependencyDocument]:
    names = ("postgres", "migrations", "kafka", "redis")
    return {name: {"ok": name not in away, "detail": away.get(name)} for name in names}


def _loops(**stuck: str) -> dict[str, LoopDocument]:
    return {
        name: {"alive": True, "making_progress": name not in stuck, "detail": stuck.get(name)}
        for name in ("consumer", "relay")
    }


def live() -> LivenessDocument:
    """All loops turn."""
    return {"status": "ok", "loops": _loops()}


def not_live() -> LivenessDocument:
    """A loop stands still."""
    return {"status": "failing", "loops": _loops(consumer="no progress for 61 s")}


def ready() -> ReadinessDocument:
    """Reads are served, without a cache."""
    return {"status": "degraded", "reasons": [], "dependencies": _dependencies(redis="does not answer")}


def not_ready() -> ReadinessDocument:
    """Reads cannot be served."""
    detail = "does not answer"
    return {
        "status": "unavailable",
        "reasons": [{"dependency": "postgres", "detail": detail, "mend": NEEDED_TO_SERVE["postgres"]}],
        "dependencies": _dependencies(postgres=detail),
    }


def healthy(service: str, version: str) -> HealthDocument:
    """Everything is there."""
    return {
        "status": "ok",
        "service": service,
        "version": version,
        "dependencies": _dependencies(),
        "loops": _loops(),
    }


def unhealthy(service: str, version: str) -> HealthDocument:
    """A loop stands still."""
    stuck = _loops(relay="no progress for 61 s")
    return {**healthy(service, version), "status": "failing", "loops": stuck}
