"""The tables, as the migrations make them (a test compares the two). Times are UTC."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB, TIMESTAMP

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id(name: str, *, primary_key: bool = False, nullable: bool = True) -> Column[str]:
    return Column(name, String(255), primary_key=primary_key, nullable=nullable and not primary_key)


def _time(name: str, *, nullable: bool = True, now: bool = False) -> Column[object]:
    return Column(
        name, TIMESTAMP(timezone=True), nullable=nullable, server_default=func.clock_timestamp() if now else None
    )


def _clock(prefix: str, *, nullable: bool = True) -> tuple[Column[object], Column[object]]:
    return _time(f"{prefix}_at", nullable=nullable), Column(f"{prefix}_event_id", Uuid(), nullable=nullable)


# Updated rows stay on their page (HOT) while there is room on it and no indexed column changes.
_ROOM_FOR_UPDATES = {"fillfactor": "50"}
# A queue with an archive behind it: by default autovacuum waits for the archive's fifth (see the migration). Marking a
# row takes it out of an index, which is never HOT, so room on its page would be of no use.
_VACUUMED_AS_A_QUEUE = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "1000"}

batch_results = Table(
    "batch_results",
    metadata,
    _id("batch_id", primary_key=True),
    # merges: the latest message about the batch, its earliest registration, its earliest outcome or CJ failure
    _time("heard_at", nullable=False),
    _time("created_at"),
    _time("started_at"),
    # facet: registration
    *_clock("registration"),
    _id("user_id"),
    _id("class_id"),
    _id("org_id"),
    Column("course_code", Text()),
    Column("expected_essay_count", Integer()),
    Column("essay_ids", JSONB()),
    Column("student_prompt_ref", JSONB()),
    Column("requested_pipelines", JSONB()),
    # facet: assignment
    *_clock("assignment"),
    _id("assignment_id"),
    # facet: the CJ service's last word
    *_clock("cj_verdict"),
    Column("cj_verdict_error", JSONB()),
    Column("anchor_ids", JSONB(), nullable=False, server_default=text("'[]'")),
    # fact: results that stayed away are no longer waited for, until an outcome or end later than this
    *_clock("grace_horizon"),
    # derived at each change, under the batch's lock
    Column("overall_status", Text(), nullable=False, server_default=text("'awaiting_content_validation'")),
    *_clock("horizon"),
    Column("grace_due", Double(), comment="reading of the caught-up clock at which grace runs out; seconds"),
    # renewed whenever the batch's answer may have changed; nil: not since there are versions (see the migration)
    Column("version", Uuid(), nullable=False, server_default=func.gen_random_uuid()),
    # what a summary needs of the essays (`domain.tally`); null: not told since there are tallies
    Column("tally", JSONB()),
    Index(
        "ix_batch_results_user_newest",
        text("user_id"),
        text("created_at DESC"),
        text("batch_id DESC"),
        postgresql_where=text("user_id IS NOT NULL"),
    ),
    Index("ix_batch_results_grace_due", "grace_due", postgresql_where=text("grace_due IS NOT NULL")),
    postgresql_with=_ROOM_FOR_UPDATES,
)

essay_results = Table(
    "essay_results",
    metadata,
    _id("essay_id", primary_key=True),
    # derived from placement and listing: the batch that the essay is in
    _id("batch_id"),
    # merges: the latest message about the essay, its earliest result
    _time("heard_at", nullable=False),
    _time("started_at"),
    *_clock("placed"),
    _id("placed_batch_id"),
    *_clock("listed"),
    _id("listed_batch_id"),
    *_clock("file"),
    _id("file_upload_id"),
    _id("file_text_storage_id"),
    Column("file_name", Text()),
    *_clock("spellcheck"),
    Column("spellcheck_status", Text()),
    Column("spellcheck_correction_count", Integer()),
    Column("spellcheck_corrected_text_storage_id", Text()),
    Column("spellcheck_error", JSONB()),
    *_clock("spellcheck_metrics"),
    Column("spellcheck_metrics_values", JSONB()),
    *_clock("cj"),
    Column("cj_status", Text()),
    Column("cj_rank", Integer()),
    Column("cj_score", Double()),
    Column("cj_error", JSONB()),
    *_clock("cj_grades"),
    Column("cj_grades_letter_grade", Text()),
    Column("cj_grades_normalized_score", Double()),
    Column("cj_grades_confidence_score", Double()),
    Column("cj_grades_confidence_label", Text()),
    Column("cj_grades_comparison_count", Integer()),
    *_clock("nlp"),
    Column("nlp_status", Text()),
    Column("nlp_lexical_diversity_score", Double()),
    Column("nlp_cohesion_score", Double()),
    Column("nlp_grammatical_error_rate", Double()),
    Column("nlp_metrics", JSONB()),
    *_clock("ai_feedback"),
    Column("ai_feedback_status", Text()),
    Column("ai_feedback_storage_id", Text()),
    Column("ai_feedback_details", JSONB()),
    Column("ai_feedback_error", JSONB()),
    Index("ix_essay_results_batch_id", "batch_id"),
    Index(
        "ix_essay_results_listed_batch_id",
        "listed_batch_id",
        postgresql_where=text("listed_batch_id IS NOT NULL"),
    ),
    postgresql_with=_ROOM_FOR_UPDATES,
)

phase_outcomes = Table(
    "phase_outcomes",
    metadata,
    _id("batch_id", primary_key=True),
    Column("phase", Text(), primary_key=True),
    *_clock("outcome", nullable=False),
    Column("status", Text(), nullable=False),
    Column("processed_essay_ids", JSONB(), nullable=False),
    Column("failed_essay_ids", JSONB(), nullable=False),
    Column("source_service", Text(), nullable=False),
    Column("correlation_id", Uuid(), nullable=False),
    Column("traceparent", Text()),
)

pipeline_ends = Table(
    "pipeline_ends",
    metadata,
    Column("event_id", Uuid(), primary_key=True),
    _id("batch_id", nullable=False),
    _time("ended_at", nullable=False),
    Column("completed_phases", JSONB(), nullable=False),
    Column("final_status", Text(), nullable=False),
    Column("successful_essay_count", Integer()),
    Column("failed_essay_count", Integer()),
    Column("processing_duration_seconds", Double()),
    Column("correlation_id", Uuid(), nullable=False),
    Column("traceparent", Text()),
    Index("ix_pipeline_ends_batch_id", "batch_id"),
)

cj_assessments = Table(
    "cj_assessments",
    metadata,
    _id("batch_id", primary_key=True),
    _id("job_id", primary_key=True),
    Column("graded", Boolean(), primary_key=True),
    Column("place", BigInteger(), Identity(always=True), nullable=False, comment="the order of folding"),
    _time("assessed_at", nullable=False),
    Column("rankings", JSONB(), nullable=False),
    Column("correlation_id", Uuid(), nullable=False),
    Column("traceparent", Text()),
    Column("announcement_id", Uuid(), nullable=False),
    # nil: folded before, or by a version that does not know of it yet (see the migration)
    Column("event_id", Uuid(), primary_key=True, server_default=text("'00000000-0000-0000-0000-000000000000'")),
)

announcements = Table(
    "announcements",
    metadata,
    Column("event_id", Uuid(), primary_key=True),
    Column("topic", Text(), nullable=False),
    _id("batch_id", nullable=False),
    _time("announced_at", nullable=False, now=True),
)

event_outbox = Table(
    "event_outbox",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("event_id", Uuid(), nullable=False),
    Column("aggregate_type", Text(), nullable=False),
    _id("aggregate_id", nullable=False),
    Column("event_type", Text(), nullable=False),
    Column("event_data", JSON(), nullable=False),  # STORAGE EXTERNAL: to make it smaller takes more than to keep it
    Column("event_key", Text(), nullable=False),
    Column("topic", Text(), nullable=False),
    Column("traceparent", Text()),
    _time("created_at", nullable=False, now=True),
    _time("published_at"),
    Column("retry_count", Integer(), nullable=False, server_default=text("0")),
    Column("last_error", Text()),
    _time("next_attempt_at"),
    _time("parked_at"),
    Index("ix_event_outbox_unpublished", "id", postgresql_where=text("published_at IS NULL")),
    Index(
        "ix_event_outbox_failed",
        "topic",
        "event_key",
        "id",
        postgresql_where=text("published_at IS NULL AND retry_count > 0"),
    ),
    Index("ix_event_outbox_published_at", "published_at", postgresql_where=text("published_at IS NOT NULL")),
    postgresql_with=_VACUUMED_AS_A_QUEUE,
)

processed_events = Table(
    "processed_events",
    metadata,
    Column("event_id", Uuid(), primary_key=True),
    Column("topic", Text(), nullable=False),
    Column("partition", Integer(), nullable=False),
    Column("offset", BigInteger(), nullable=False),
    _time("processed_at", nullable=False, now=True),
    Index("ix_processed_events_processed_at", "processed_at", postgresql_using="brin"),
)

quarantined_messages = Table(
    "quarantined_messages",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("topic", Text(), nullable=False),
    Column("partition", Integer(), nullable=False),
    Column("offset", BigInteger(), nullable=False),
    Column(
        "digest", LargeBinary(), nullable=False, comment="SHA-256 of the value: a topic made anew counts from 0 again"
    ),
    Column("key", LargeBinary()),
    Column("value", LargeBinary()),
    Column("headers", JSONB(), nullable=False, comment="[[name, base64 of the value or null], ...]"),
    _time("produced_at"),
    Column("error_type", Text(), nullable=False),
    Column("error", Text(), nullable=False),
    _time("quarantined_at", nullable=False, now=True),
    UniqueConstraint("topic", "partition", "offset", "digest"),
)

pending_invalidations = Table(
    "pending_invalidations",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    _id("batch_id"),
    _id("user_id"),
    _time("created_at", nullable=False, now=True),
)

service_state = Table(
    "service_state",
    metadata,
    Column("id", SmallInteger(), primary_key=True),
    Column("database_id", Uuid(), nullable=False, server_default=func.gen_random_uuid()),
    Column("caught_up_seconds", Double(), nullable=False, server_default=text("0")),
    _time("ticked_at", nullable=False, now=True),
    Column("caught_up", Boolean(), nullable=False, server_default=text("false")),
)
