"""Facets: the facts that messages state, each replaced as a whole by a message with a later clock.

An essay facet's clock stands in the columns `{prefix}_at` and `{prefix}_event_id` of `essay_results`, its other fields
in `{prefix}_{field}`; a batch facet's in `batch_results`, a registration's fields there without prefix. Nobody
changes a facet once it is made; but with `frozen=True` making one takes three times as long, and an event makes four.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Protocol, Self, TypedDict, TypeVar
from uuid import UUID

from pydantic import JsonValue

from result_aggregator_service.contracts.enums import BatchStatus, Phase, ProcessingStage
from result_aggregator_service.domain.event import Clock


class ErrorDetail(TypedDict):
    """Why something failed: code and message of the service that said so."""

    error_code: str
    message: str
    correlation_id: str | None
    timestamp: str | None
    service: str | None
    operation: str | None
    details: dict[str, JsonValue] | None


class Columns(Protocol):
    """A row's values by column name."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(slots=True)
class Facet:
    """A fact with the clock of the message that stated it."""

    PREFIX: ClassVar[str]
    VALUE_PREFIX: ClassVar[str | None] = None
    clock: Clock

    @classmethod
    @cache
    def value_columns(cls) -> dict[str, str]:
        """The columns of the fields beside the clock, by the fields' names."""
        prefix = f"{cls.PREFIX}_" if cls.VALUE_PREFIX is None else cls.VALUE_PREFIX
        return {field.name: f"{prefix}{field.name}" for field in fields(cls) if field.name != "clock"}

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The columns that hold the facet: the clock's two, then one for each field."""
        return (f"{cls.PREFIX}_at", f"{cls.PREFIX}_event_id", *cls.value_columns().values())

    def to_row(self) -> Iterator[tuple[str, Any]]:
        """The columns, each with its value; to be made a row, or put into one."""
        columns, get = _SHAPES[type(self)]
        return zip(columns, get(self), strict=True)

    @classmethod
    def from_row(cls, row: Columns) -> Self | None:
        """The facet that a row holds; None if no message has stated it yet."""
        at = row[f"{cls.PREFIX}_at"]
        if at is None:
            return None
        values = {name: row[column] for name, column in cls.value_columns().items()}
        if "status" in values:
            values["status"] = ProcessingStage(values["status"])
        return cls(clock=Clock(at, row[f"{cls.PREFIX}_event_id"]), **values)


AnyFacet = TypeVar("AnyFacet", bound="Facet | PhaseOutcome")


def later(known: AnyFacet | None, heard: AnyFacet) -> AnyFacet:
    """The one of the two with the later clock: the merge that makes the fold commutative and idempotent."""
    return heard if known is None or known.clock < heard.clock else known


# --- of a batch


@dataclass(slots=True)
class Registration(Facet):
    """Who owns the batch and what is expected of it."""

    PREFIX: ClassVar[str] = "registration"
    VALUE_PREFIX: ClassVar[str | None] = ""
    user_id: str
    class_id: str | None
    org_id: str | None
    course_code: str | None
    expected_essay_count: int
    essay_ids: list[str]
    student_prompt_ref: dict[str, JsonValue] | None
    requested_pipelines: list[str] | None


@dataclass(slots=True)
class Assignment(Facet):
    """The assignment that the batch answers."""

    PREFIX: ClassVar[str] = "assignment"
    id: str | None


@dataclass(slots=True)
class CJVerdict(Facet):
    """The CJ service's last word on the batch: a failure with its error, or (None) a completion."""

    PREFIX: ClassVar[str] = "cj_verdict"
    error: ErrorDetail | None


@dataclass(slots=True)
class PhaseOutcome:
    """A phase's end for the whole batch, one for each batch and phase."""

    clock: Clock
    batch_id: str
    phase: Phase
    status: BatchStatus
    processed_essay_ids: frozenset[str]
    failed_essay_ids: frozenset[str]
    source_service: str
    correlation_id: UUID
    traceparent: str | None


@dataclass(slots=True)
class PipelineEnd:
    """A pipeline's end; each is a fact of its own, under its event id."""

    clock: Clock
    batch_id: str
    completed_phases: list[Phase]
    final_status: BatchStatus
    successful_essay_count: int | None
    failed_essay_count: int | None
    processing_duration_seconds: float | None
    correlation_id: UUID
    traceparent: str | None


@dataclass(slots=True)
class RankedEssayFact:
    """One line of an assessment."""

    essay_id: str
    rank: int | None
    score: float | None
    letter_grade: str | None = None
    confidence_score: float | None = None
    confidence_label: str | None = None


@dataclass(slots=True)
class Assessment:
    """A CJ job's rankings, as a message of one of the two forms told them; each is a fact of its own, like an end.

    `graded` tells the rich form, whose anchors are left out already, from the older one, whose are not.
    """

    clock: Clock
    batch_id: str
    job_id: str
    graded: bool
    rankings: list[RankedEssayFact]
    correlation_id: UUID
    traceparent: str | None


# --- of an essay


@dataclass(slots=True)
class Placement(Facet):
    """The batch that a slot, an outcome or a result put the essay into."""

    PREFIX: ClassVar[str] = "placed"
    batch_id: str


@dataclass(slots=True)
class Listing(Facet):
    """The batch whose registration lists the essay; the clock is the registration's."""

    PREFIX: ClassVar[str] = "listed"
    batch_id: str


@dataclass(slots=True)
class EssayFile(Facet):
    """Where the essay came from."""

    PREFIX: ClassVar[str] = "file"
    upload_id: str | None
    text_storage_id: str
    name: str | None


@dataclass(slots=True)
class SpellcheckResult(Facet):
    """What both forms of a spell check message carry."""

    PREFIX: ClassVar[str] = "spellcheck"
    status: ProcessingStage
    correction_count: int | None
    corrected_text_storage_id: str | None
    error: ErrorDetail | None


@dataclass(slots=True)
class SpellcheckMetrics(Facet):
    """What only the richer form of a spell check message carries."""

    PREFIX: ClassVar[str] = "spellcheck_metrics"
    values: dict[str, JsonValue] | None


@dataclass(slots=True)
class CJResult(Facet):
    """Rank and score, or a failure."""

    PREFIX: ClassVar[str] = "cj"
    status: ProcessingStage
    rank: int | None
    score: float | None
    error: ErrorDetail | None


@dataclass(slots=True)
class CJGrades(Facet):
    """What only the rich form of an assessment carries."""

    PREFIX: ClassVar[str] = "cj_grades"
    letter_grade: str | None
    normalized_score: float | None
    confidence_score: float | None
    confidence_label: str | None
    comparison_count: int | None


@dataclass(slots=True)
class NlpResult(Facet):
    """Text metrics; the error rate counts grammatical errors for each hundred words."""

    PREFIX: ClassVar[str] = "nlp"
    status: ProcessingStage
    lexical_diversity_score: float | None
    cohesion_score: float | None
    grammatical_error_rate: float | None
    metrics: dict[str, JsonValue]


@dataclass(slots=True)
class AIFeedbackResult(Facet):
    """Feedback, or why there is none."""

    PREFIX: ClassVar[str] = "ai_feedback"
    status: ProcessingStage
    storage_id: str | None
    details: dict[str, JsonValue] | None
    error: ErrorDetail | None


ESSAY_FACETS: tuple[type[Facet], ...] = (
    Placement,
    Listing,
    EssayFile,
    SpellcheckResult,
    SpellcheckMetrics,
    CJResult,
    CJGrades,
    NlpResult,
    AIFeedbackResult,
)
BATCH_FACETS: tuple[type[Facet], ...] = (Registration, Assignment, CJVerdict)

# The columns of a facet, and what gets their values in the same order.
_SHAPES = {
    facet: (facet.columns(), attrgetter("clock.at", "clock.event_id", *facet.value_columns()))
    for facet in (*BATCH_FACETS, *ESSAY_FACETS)
}
